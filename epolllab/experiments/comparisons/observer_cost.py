"""observer_cost(): the overhead of observing a server, by recorder and by tracers."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from epolllab import kernel
from epolllab.analysis.result import Result
from epolllab.checks import check_names
from epolllab.experiments.comparisons.load import cpu_reader, measure_load
from epolllab.experiments.rounds import ExperimentRun, Layout, choose_effort
from epolllab.experiments.workers.traced import TracerFailed, traced_server
from epolllab.server.server import Server, start_server

__all__ = ["LAYOUT", "LOADS", "LOOKS", "observer_cost"]

_CALLS = "epoll_wait,epoll_ctl,accept4,recvfrom,sendto,shutdown,close"
_STRACE = ("strace", "-f", "-e", f"trace={_CALLS}", "-o", os.devnull)
_TRACERS: dict[str, tuple[str, ...]] = {
    "strace": _STRACE,
    "strace --seccomp-bpf": (*_STRACE, "--seccomp-bpf"),
    "perf trace": ("perf", "trace", "-o", os.devnull),
}

LOOKS = ("plain", "recorder", "recorder, read 10 times a second", *_TRACERS)
"""Ways of observing. Tracers trace the loop's own system calls and discard the output."""

LOADS: dict[str, dict[str, Any]] = {
    "echo": {"protocol": "echo", "connections": 1},
    "http": {"protocol": "http", "connections": 50},
}
"""One echo at a time, which shows latency; and 50 busy connections, which show throughput.
Both use keep-alive."""

PLACES = ("thread", "process")

LAYOUT = Layout(
    {
        "round": "int32", "load": pd.CategoricalDtype(list(LOADS)),
        "where": pd.CategoricalDtype(list(PLACES)), "look": pd.CategoricalDtype(list(LOOKS)),
        "warmup": "bool", "requests": "int32", "errors": "int32", "requests_per_s": "float64",
        "p50_us": "float64", "p99_us": "float64", "cpu_us": "float64", "watcher_us": "float64",
    },
    ("load", "where", "look"),
    ("p50_us", "p99_us", "requests_per_s", "cpu_us", "watcher_us"),
)  # fmt: skip


class _Cell(NamedTuple):
    load: str
    where: str
    look: str


def observer_cost(
    loads: Sequence[str] = tuple(LOADS),
    looks: Sequence[str] = LOOKS,
    *,
    where: Sequence[str] = PLACES,
    requests: int | None = None,
    rounds: int | None = None,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Measure the overhead of observing a server: not at all, by the recorder, by tracers.

    What it shows: a record costs a fraction of a microsecond and no system call; a tracer stops
    the server twice at each call, and wakes another process.

    Parameters
    ----------
    loads : sequence of {"echo", "http"}
        See :data:`LOADS`.
    looks : sequence of str
        Of :data:`LOOKS`. What is not installed or not permitted here is left out, with a
        note.
    where : sequence of {"thread", "process"}
        Server in a thread of this process, where the reader competes with it for the
        interpreter lock, or in its own process. Tracers need a process.
    requests : int, optional
        Requests of a measurement: 20,000, or 500 with `quick`. A tenth as many come
        before, marked as warm-up.
    rounds : int, optional
        3, or 1 with `quick`.
    quick : bool
        A result in about ten seconds.
    seed, progress
        As in :func:`epolllab.experiments.sweep`.

    Returns
    -------
    Result
        ``frame`` with a row per load:

        ============== ======== ==============================================
        round          int32
        load           category as above
        where          category as above
        look           category as above
        warmup         bool     the load before the one that counts
        requests       int32    with a response
        errors         int32    without a response
        requests_per_s float64
        p50_us, p99_us float64  latency
        cpu_us         float64  CPU of the server's loop per request, µs (of its
                                process, if it has one)
        watcher_us     float64  CPU of the reading thread or the tracer per
                                request, µs; 0 if there is none
        ============== ======== ==============================================

        perf trace costs time in the server's kernel as well as in perf, so its cost is in
        both columns. A server or a tracer that fails is a note in the result; the others
        go on. Invalid arguments are refused before anything is started.
    """
    loads = check_names("loads", loads, tuple(LOADS))
    looks = check_names("looks", looks, LOOKS)
    where = check_names("where", where, PLACES)
    effort = choose_effort(
        quick, requests=(requests, 20_000, 500), rounds=(rounds, 3, 1), seed=seed, progress=progress
    )
    kernel.require_loopback()
    run = ExperimentRun("observer_cost", LAYOUT, effort)
    possible = [look for look in looks if _is_possible(look, run)]
    cells = [
        _Cell(load, place, look)
        for load in loads
        for place in where
        for look in possible
        if look not in _TRACERS or place == "process"
    ]
    run.measure(
        cells,
        partial(_rows, effort["requests"]),
        label=lambda cell: f"{cell.look} (load {cell.load}, server in a {cell.where})",
    )
    return run.result(loads=list(loads), looks=list(looks), where=list(where))


def _is_possible(look: str, run: ExperimentRun) -> bool:
    """Whether a tracer is installed and permitted; it is tried on ``true``."""
    if look not in _TRACERS:
        return True
    command = _TRACERS[look]
    if shutil.which(command[0]) is None:
        run.note(f"{look} is missing: {command[0]} is not installed")
        return False
    tried = subprocess.run(
        [*command, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
    )
    if tried.returncode:
        output = tried.stderr.decode(errors="replace").strip().splitlines()
        run.note(f"{look} is missing: {output[0] if output else 'it failed'}")
        return False
    return True


def _rows(requests: int, cell: _Cell, round_: int) -> list[dict[str, Any]]:
    options = {"keep_alive": True, **LOADS[cell.load]}
    start = _start_traced if cell.look in _TRACERS else _start
    fixed = {"round": round_, **cell._asdict(), "watcher_us": 0.0}
    with start(cell, options["protocol"]) as (target, cpus):
        return [
            {**fixed, "warmup": warmup, **measure_load(target, cpus, requests=n, **options)}
            for warmup, n in ((True, max(requests // 10, 1)), (False, requests))
        ]


@contextmanager
def _start(cell: _Cell, protocol: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A server as a user starts it, with or without a reader."""
    before = set(kernel.threads())
    with ExitStack() as opened:
        server = opened.enter_context(
            start_server(
                protocol=protocol, record=cell.look != "plain", process=cell.where == "process"
            )
        )
        # In a thread, only the loop's own: other threads of this process work as well.
        tids = None if cell.where == "process" else set(kernel.threads()) - before
        cpus = {"cpu_us": cpu_reader(server.pid, tids)}
        if "read" in cell.look:
            reader = opened.enter_context(_reader(server))
            cpus["watcher_us"] = cpu_reader(os.getpid(), [reader])
        yield server, cpus


@contextmanager
def _reader(server: Server) -> Iterator[int]:
    """Read ten times a second, as a dashboard does, in a thread; yield its thread id."""
    end = threading.Event()

    def read() -> None:
        while True:
            server.stats()
            recording = server.recording()
            recording.counts()
            recording.errors()
            if end.wait(0.1):
                return

    thread = threading.Thread(target=read, name="epolllab-reader", daemon=True)
    thread.start()
    try:
        yield thread.native_id or 0
    finally:
        end.set()
        thread.join()


@contextmanager
def _start_traced(cell: _Cell, protocol: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A server without recorder under a tracer."""
    try:
        with traced_server(_TRACERS[cell.look], protocol=protocol, record=False) as traced:
            cpus = {"cpu_us": cpu_reader(traced.pid), "watcher_us": cpu_reader(traced.tracer_pid)}
            yield traced.address, cpus
    except TracerFailed as error:
        raise RuntimeError(f"{cell.look} worked in a trial and fails now: {error}") from error
