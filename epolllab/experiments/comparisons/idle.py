"""idle_connections(): real servers with many idle connections and a few active clients."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from epolllab import kernel
from epolllab.analysis.result import Result
from epolllab.checks import check_bool, check_int, check_names, check_sizes
from epolllab.experiments.comparisons.collect import count_calls
from epolllab.experiments.comparisons.load import cpu_reader, measure_load
from epolllab.experiments.rounds import ExperimentRun, Layout, choose_effort
from epolllab.experiments.workers.idle import IdleConnections, open_idle
from epolllab.kernel.pollers import FD_SETSIZE
from epolllab.server.server import Server, start_server

__all__ = ["LAYOUT", "SERVERS", "idle_connections"]

SERVERS: dict[str, dict[str, Any]] = {
    "epoll-level-eager": {"poller": "epoll", "trigger": "level", "lifecycle": "eager"},
    "epoll-level-howto": {"poller": "epoll", "trigger": "level", "lifecycle": "howto"},
    "epoll-edge-once": {"poller": "epoll", "trigger": "edge", "lifecycle": "once"},
    "epoll-oneshot": {"poller": "epoll", "trigger": "level", "lifecycle": "oneshot"},
    "poll-eager": {"poller": "poll", "lifecycle": "eager"},
    "select-eager": {"poller": "select", "lifecycle": "eager"},
}
"""Names of servers, and the options of :func:`epolllab.start_server` for each."""

SIZES = (0, 100, 1_000, 10_000)
"""Numbers of idle connections by default."""

LAYOUT = Layout(
    {
        "round": "int32", "server": pd.CategoricalDtype(list(SERVERS)), "idle": "int32",
        "held": "int32", "active": "int32", "warmup": "bool", "requests": "int32",
        "errors": "int32", "requests_per_s": "float64", "cpu_us": "float64",
        "epoll_ctl": "float64", "waits": "float64", "events": "float64", "p50_us": "float64",
        "p99_us": "float64",
    },
    ("server", "active", "idle"),
    ("requests_per_s", "cpu_us", "epoll_ctl", "waits", "events", "p50_us", "p99_us"),
    "idle",
)  # fmt: skip

SPARE_DESCRIPTORS = 96  # the server's own, and connections that are being closed
REGISTERED_S = 60.0
CAPACITY = 400_000  # records of the longest load


class _Cell(NamedTuple):
    server: str
    idle: int


def idle_connections(
    idle: int | Sequence[int] = SIZES,
    servers: Sequence[str] = tuple(SERVERS),
    *,
    active: int = 50,
    requests: int | None = None,
    rounds: int | None = None,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Serve active clients while many other connections are open and silent.

    What it shows: idle connections cost epoll nothing, since it never checks them, and
    cost poll and select one check each at every wait. The server is a child process, the
    idle connections are in others (from 127.0.0.2 and up, 5,000 each), and the active
    clients in one more, with a connection for each request.

    Parameters
    ----------
    idle : int or rising sequence of int
        Idle connections, with 0 for comparison. Reduced to the descriptor limits of the
        server and of the processes with the idle connections, with a note.
    servers : sequence of str
        Of :data:`SERVERS`. select cannot watch descriptors beyond 1,023.
    active : int
        Active connections at a time.
    requests : int, optional
        Requests of a measurement: 6,000, or 400 with `quick`. A tenth as many come
        before, marked as warm-up.
    rounds : int, optional
        3, or 1 with `quick`: with 10,000 idle connections a round takes over a minute.
    quick : bool
        A result in about ten seconds; without `idle`, only 0 and 1,000 connections.
    seed, progress
        As in :func:`sweep`.

    Returns
    -------
    Result
        ``frame`` with a row per load:

        ============== ======== ==============================================
        round          int32
        server         category as above
        idle           int32    requested idle connections
        held           int32    established idle connections
        active         int32    active connections at a time
        warmup         bool     the load before the one that counts
        requests       int32    with a response
        errors         int32    without a response
        requests_per_s float64
        cpu_us         float64  CPU of the server process per request, µs, recorder
                                included
        epoll_ctl      float64  epoll_ctl per request; 0 for poll and select, which
                                change a dictionary
        waits          float64  waits per request
        events         float64  descriptors returned per request
        p50_us, p99_us float64  latency, connecting included
        ============== ======== ==============================================

        A server that fails, or does not start, is a note in the result; the others go
        on. Invalid arguments are refused before anything is started.
    """
    is_short = check_bool("quick", quick) and idle is SIZES
    sizes = check_sizes("idle", (0, 1_000) if is_short else idle, 0)
    servers = check_names("servers", servers, tuple(SERVERS))
    active = check_int("active", active, 1, 10_000)
    effort = choose_effort(
        quick, requests=(requests, 6_000, 400), rounds=(rounds, 3, 1), seed=seed, progress=progress
    )
    kernel.require_loopback()
    run = ExperimentRun("idle_connections", LAYOUT, effort)
    run.measure(
        [_Cell(server, n) for server in servers for n in _fitting(server, sizes, active, run)],
        partial(_rows, active, run),
        label=lambda cell: f"{cell.server} with {cell.idle:,} idle connections",
    )
    return run.result(idle=list(sizes), servers=list(servers), active_clients=active)


def _fitting(server: str, sizes: Sequence[int], active: int, run: ExperimentRun) -> list[int]:
    """Sizes that the server has descriptors for, and the largest possible one if not all."""
    hard = kernel.descriptor_limits().hard
    needed = 2 * active + SPARE_DESCRIPTORS
    largest = hard - needed - kernel.descriptors_open()
    limit = f"the server process may have {hard:,} descriptors"
    if server == "select-eager" and FD_SETSIZE - needed < largest:
        largest = FD_SETSIZE - needed
        limit = f"select's bitmap ends at descriptor {FD_SETSIZE - 1:,}"
    kept = [n for n in sizes if n <= largest]
    if len(kept) < len(sizes):
        if largest > 1.1 * max(kept, default=0):
            kept.append(largest)
        asked = ", ".join(f"{n:,}" for n in sizes if n > largest)
        most = max(kept, default=0)
        run.note(f"{server} cut to {most:,} idle connections of {asked} asked: {limit}")
    return kept


def _rows(active: int, run: ExperimentRun, cell: _Cell, round_: int) -> list[dict[str, Any]]:
    requests = run.effort["requests"]
    with ExitStack() as opened:
        server = opened.enter_context(
            start_server(
                process=True,
                max_connections=cell.idle + 2 * active + SPARE_DESCRIPTORS // 2,
                capacity=CAPACITY,
                **SERVERS[cell.server],
            )
        )
        idle = opened.enter_context(open_idle(server.address, cell.idle))
        _await_accepted(server, idle, run)
        fixed = {"round": round_, **cell._asdict(), "held": idle.n_open, "active": active}
        return [
            {**fixed, "warmup": warmup, **_measure(server, active, n)}
            for warmup, n in ((True, max(requests // 10, 1)), (False, requests))
        ]


def _await_accepted(server: Server, idle: IdleConnections, run: ExperimentRun) -> None:
    """Wait until the server has accepted all idle connections."""
    if idle.reason is not None:
        run.note(f"{idle.n_open:,} idle connections only: {idle.reason}")
    deadline = time.monotonic() + REGISTERED_S
    while (accepted := server.stats()["connections"]) < idle.n_open:
        if time.monotonic() > deadline:
            run.note(f"the server accepted {accepted:,} of {idle.n_open:,} in {REGISTERED_S:.0f} s")
            return
        time.sleep(0.005)


def _measure(server: Server, active: int, requests: int) -> dict[str, Any]:
    begin_ns = time.monotonic_ns()
    cpus = {"cpu_us": cpu_reader(server.pid)}
    row = measure_load(server, cpus, connections=active, requests=requests, timeout=60.0)
    array = server.recording().array()
    counts = count_calls(array[array["end_ns"] >= begin_ns])
    if server.options.poller != "epoll":
        counts["epoll_ctl"] = 0
    n = row["requests"] or np.nan
    return row | {name: counts[name] / n for name in ("epoll_ctl", "waits", "events")}
