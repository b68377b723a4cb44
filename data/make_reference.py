"""Make the reference results in ``data/reference``: all of them, or those named.

    python data/make_reference.py [NAME ...]

Run it on an idle machine; all of them take about ten minutes on two processors. Each
result replaces its file as soon as it is complete; an interrupted one is not saved.

The last three, named ``kernels-...``, need interpreters of several Pythons, each with
``epolllab[cluster]``, in the environment variable EPOLLLAB_PYTHONS::

    EPOLLLAB_PYTHONS=.venv311/bin/python:.venv313/bin/python
"""

import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from epolllab import experiments, kernel, run_clients, start_server, trace, widgets
from epolllab.analysis import Result
from epolllab.checks import check_choice
from epolllab.child import Child
from epolllab.events import RECORD, Op
from epolllab.experiments.comparisons.conformance import CheckedServer
from epolllab.recording import Recording, environment, storage
from epolllab.widgets.ticker import INTERVAL_S

FOLDER = Path(__file__).parent / "reference"
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
ROUNDS = 4
"""Rounds of each dashboard load, of two seconds each."""


def sample_run() -> Recording:
    """500 requests from 20 clients in a closed loop to an epoll server in its own process."""
    with start_server(process=True) as server:
        run_clients(server, connections=20, requests=500, progress=False)
        return server.settle().recording()


def one_request(lifecycle: Literal["howto", "eager"]) -> Recording:
    """One request in one life cycle: from its connection's arrival to the close.

    The server runs in a thread and is the last of twenty, so that its code is warm.
    """
    for _ in range(20):
        with start_server(lifecycle=lifecycle) as server:
            run_clients(server, connections=1, requests=1, progress=False)
            recording = server.settle().recording()
    records = recording.array()
    first = np.flatnonzero(records["op"] == Op.READY)[0]
    last = np.flatnonzero((records["op"] == Op.CLOSE) & (records["conn"] == 1))[-1]
    return Recording(records[first : last + 1].tobytes(), recording.metadata, int(first))


def forgotten_drain() -> Recording:
    """One request of 2,531 bytes, edge-triggered, one read of 1,000 bytes per event."""
    request = b"GET / HTTP/1.0\r\nX-Padding: " + b"x" * 2_500 + b"\r\n\r\n"
    with start_server(trigger="edge", drain=False, recv_size=1_000, process=True) as server:
        with socket.create_connection(server.address, 10) as client:
            for piece in (request, b"!", b"!"):
                client.sendall(piece)
                server.until_idle(client)
            client.recv(1_000)
        return server.settle().recording()


def three_endings() -> Recording:
    """Three clients of the how-to's life cycle: one closed normally, one half-closed, one reset."""
    with start_server(lifecycle="howto", process=True) as server:
        for ending in ("normal", "half-close", "reset"):
            with socket.create_connection(server.address, 10) as client:
                client.sendall(REQUEST[:9] if ending == "reset" else REQUEST)
                if ending == "reset":
                    server.until_idle(client)
                    reset = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                    continue
                if ending == "half-close":
                    client.shutdown(socket.SHUT_WR)
                while client.recv(1_000):
                    pass
        return server.settle().recording()


def howto_checks() -> pd.DataFrame:
    """Which checks pass for the how-to's two servers and for start_server()."""
    servers: dict[str, Callable[[], AbstractContextManager[CheckedServer]]] = {
        "how-to,\nlevel": experiments.HowToProcess,
        "how-to,\nedge": lambda: experiments.HowToProcess(edge=True),
        "start_server()": lambda: start_server(max_request_bytes=65_536, process=True),
    }
    return pd.DataFrame(
        {name: experiments.check_conformance(make)["passed"] for name, make in servers.items()}
    )


def staircase() -> Result:
    """How many waits one batch takes, by its size."""
    # Without writes a run is one pass: its waits return the batch in pieces of max_events.
    steps = (1, 256, 257, 512, 513, 1_000, 1_023, 1_024, 1_500, 2_046, 2_047, 2_500, 3_069, 3_070,
             3_500, 4_092, 4_093, 5_000)  # fmt: skip
    pollers = ("epoll-level", "epoll-edge", "poll")
    return experiments.propagate(5_000, steps, 0, pollers=pollers, max_events=(256, 1_023), runs=5)


def dashboard_live() -> pd.DataFrame:
    """The dashboard's values at each tick: one client, then fifty."""
    dash = widgets.dashboard()
    try:
        dash.start_server()
        attrs = {
            "circumstances": dash.circumstances(),
            "parameters": {**dash.parameters(), "connections": (1, 50)},
        }
        for connections in (1, 50):
            dash.controls["connections"].value = connections
            dash.start_clients()
            assert dash.load is not None
            while dash.load.running and dash.load.rounds < ROUNDS:
                dash.watch(INTERVAL_S)
            dash.stop_clients()
            dash.load.join()
            if dash.load.error is not None:
                raise RuntimeError(
                    f"dashboard-live is not saved: clients failed:\n{dash.load.error}"
                )
        frame = dash.data()
    finally:
        dash.close()
    frame.attrs.update(attrs)
    return frame


def sick_trace() -> Recording:
    """A second of strace on an echo server that leaves OUT on: its first 2,000 records."""
    with closing(Child("epolllab.experiments.workers.sick:serve")) as sick:
        sick.send("writable")
        with socket.create_connection(sick.receive(10), 10) as client:
            client.sendall(b"hello")
            client.recv(100)
            traced = trace(sick.pid, 1.0)
    return Recording(traced.rows[: 2_000 * RECORD.size], traced.metadata)


def completion(connections: int, requests: int, *, keep_alive: bool = True) -> Recording:
    """HTTP requests to a server with io_uring, as notebook 17 sends them."""
    with start_server(protocol="http", poller="io_uring", process=True) as server:
        run_clients(
            server, connections=connections, requests=requests, keep_alive=keep_alive,
            progress=False,
        )  # fmt: skip
        return server.settle().recording()


def completion_cpu() -> pd.DataFrame:
    """CPU time per request of a server with epoll and one with io_uring, round by round."""
    pollers: tuple[Literal["epoll", "io_uring"], ...] = ("epoll", "io_uring")
    with ExitStack() as stack:
        servers = {
            poller: stack.enter_context(
                start_server(protocol="http", poller=poller, process=True, record=False)
            )
            for poller in pollers
        }
        rows = []
        for round_ in range(-1, 10):  # the first is warm-up
            for poller in random.sample(pollers, 2):
                before = kernel.cpu_time_ns(servers[poller].pid)
                run_clients(
                    servers[poller], connections=50, requests=2_000, keep_alive=True, progress=False
                )
                used = kernel.cpu_time_ns(servers[poller].pid) - before
                rows.append({"round": round_, "poller": poller, "cpu_us": used / 2_000 / 1_000})
    return pd.DataFrame(rows[2:])


WORKER = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
from distributed.cli.dask_worker import main
main()
"""
"""What an interpreter runs as a Dask worker with another limit on descriptors."""


def environments() -> list[tuple[str, int]]:
    """The interpreters in EPOLLLAB_PYTHONS, and the last one again with few descriptors."""
    pythons = os.environ.get("EPOLLLAB_PYTHONS", "").split(os.pathsep)
    if pythons == [""]:
        raise ValueError(
            "EPOLLLAB_PYTHONS must have the paths of interpreters with epolllab[cluster], "
            f"separated by {os.pathsep!r}, to make the results of several environments"
        )
    return [*((python, 20_000) for python in pythons), (pythons[-1], 256)]


@contextmanager
def fleet() -> Iterator[Executor]:
    """A Dask cluster with a worker in each of the environments, on loopback."""
    from distributed import Client, LocalCluster

    quiet: dict[str, Any] = {"n_workers": 0, "host": "127.0.0.1", "dashboard_address": None}
    with ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(**quiet))
        client = stack.enter_context(Client(cluster))
        options = ["--nthreads=1", "--no-nanny", "--no-dashboard", "--host=127.0.0.1"]
        chosen = environments()
        for python, limit in chosen:
            command = [python, "-c", WORKER, str(limit), cluster.scheduler_address, *options]
            worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            stack.callback(worker.wait)
            stack.callback(worker.terminate)
        client.wait_for_workers(len(chosen), 60)
        yield client.get_executor()


def in_environments(run: Callable[..., Any]) -> Any:
    """Run an experiment in each of the environments; a failure of one ends it."""
    with fleet() as executor:
        made = run(executor=executor)
    facts = made.circumstances if isinstance(made, Result) else made.attrs
    if facts["failures"]:
        raise RuntimeError(f"not saved: {facts['failures']}")
    return made


def kernel_phenomena() -> pd.DataFrame:
    """Every phenomenon in each of the environments, with the limit on descriptors there."""
    frame = in_environments(experiments.run_all)
    runs = frame.attrs["circumstances"]["runs"]
    limits = {int(worker): facts["descriptor_limit_hard"] for worker, facts in runs.items()}
    return frame.assign(descriptor_limit=frame["worker"].map(limits))


def kernel_sweep(kind: str) -> Result:
    """A quick sweep over one kind of descriptor in each of the environments."""
    pollers = ("epoll-level", "poll", "select")
    return in_environments(partial(experiments.sweep, quick=True, kind=kind, pollers=pollers))


RUNS: dict[str, Callable[[], Recording | Result | pd.DataFrame]] = {
    "sample-run": sample_run,
    "one-request-howto": lambda: one_request("howto"),
    "one-request-eager": lambda: one_request("eager"),
    "forgotten-drain": forgotten_drain,
    "three-endings": three_endings,
    "sick-trace": sick_trace,
    "completion-one": lambda: completion(1, 20),
    "completion-load": lambda: completion(50, 2_000),
    "completion-short": lambda: completion(50, 500, keep_alive=False),
    "completion-cpu": completion_cpu,
    "howto-checks": howto_checks,
    "level-against-edge": lambda: experiments.level_against_edge(progress=False),
    "lifecycles": lambda: experiments.compare_lifecycles(progress=False),
    "herd": lambda: experiments.thundering_herd(workers=(4, 16, 64), progress=False),
    "latency-tails": lambda: experiments.latency_tails(progress=False),
    "dashboard-live": dashboard_live,
    "scaling-sweep": experiments.sweep,
    "scaling-completion": lambda: experiments.sweep(
        pollers=("epoll-level", "io_uring"), quick=True
    ),
    "scaling-crossover": experiments.crossover,
    "scaling-staircase": staircase,
    "scaling-idle-connections": experiments.idle_connections,
    "scaling-observer-cost": experiments.observer_cost,
    "kernels-phenomena": kernel_phenomena,
    "kernels-sweep": lambda: kernel_sweep("eventfd"),
    "kernels-sweep-tcp": lambda: kernel_sweep("tcp"),
}
"""File name without its suffix, and the function that makes the result."""


def make(names: Sequence[str] = tuple(RUNS), folder: str | os.PathLike[str] = FOLDER) -> list[Path]:
    """Make results and save each as soon as it is complete; return the paths."""
    for name in names:
        check_choice("name", name, list(RUNS))
    return [save(name, RUNS[name](), Path(folder, f"{name}.parquet")) for name in names]


def save(name: str, made: Any, path: Path) -> Path:
    """Save a recording, a result or a frame; raise KeyboardInterrupt if it was interrupted."""
    is_frame = isinstance(made, pd.DataFrame)
    if made.attrs.get("interrupted") if is_frame else getattr(made, "interrupted", False):
        raise KeyboardInterrupt(f"{name} was interrupted and is not saved")
    if not is_frame:
        made.save(path)
        return path
    made.attrs.setdefault("circumstances", environment.collect())
    with storage.write_atomically([path]) as (temporary,):
        made.to_parquet(temporary)
    return path


if __name__ == "__main__":
    for path in make(sys.argv[1:] or tuple(RUNS)):
        print(f"wrote {path}")
