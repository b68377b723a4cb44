"""observer_cost(): what it costs a server to be watched.

One job: put the same load on the same server, watched in different ways, in turn.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from epolllab import kernel
from epolllab.analysis.result import Result
from epolllab.checks import check_choice, check_int
from epolllab.experiments.comparisons.load import cpu_of, measured_load
from epolllab.experiments.rounds import Logbook, run_rounds
from epolllab.experiments.workers.traced import TracerFailed, watched_server
from epolllab.server.protocols import ProtocolName
from epolllab.server.server import Server, start_server

__all__ = ["LOADS", "LOOKS", "observer_cost"]


_CALLS = "epoll_wait,epoll_ctl,accept4,recvfrom,sendto,shutdown,close"
_STRACE = ("strace", "-f", "-e", f"trace={_CALLS}", "-o", os.devnull)
_TRACERS: dict[str, tuple[str, ...]] = {
    "strace": _STRACE,
    "strace --seccomp-bpf": (*_STRACE, "--seccomp-bpf"),
    "perf trace": ("perf", "trace", "-o", os.devnull),
}

LOOKS = ("plain", "recorder", "recorder, read 10 times a second", *_TRACERS)
"""Ways of watching. Tracers watch the loop's own system calls and write to nowhere."""

LOADS: dict[str, dict[str, Any]] = {
    "echo": {"protocol": "echo", "connections": 1},
    "http": {"protocol": "http", "connections": 50},
}
"""One echo at a time, which shows latency; and 50 busy connections, which show throughput.
Both keep their connections."""

READ_S = 0.1
VALUES = ("p50_us", "p99_us", "requests_per_s", "cpu_us", "watcher_us")


class _Cell(NamedTuple):
    load: str
    where: str
    look: str


def observer_cost(
    loads: Sequence[str] = tuple(LOADS),
    looks: Sequence[str] = LOOKS,
    *,
    where: Sequence[str] = ("thread", "process"),
    requests: int | None = None,
    rounds: int | None = None,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Measure what watching a server costs it: not at all, by the recorder, by tracers.

    What it shows: a record costs about a microsecond and no system call; a tracer stops
    the server at each call, twice, and wakes another process to look.

    Parameters
    ----------
    loads : sequence of {"echo", "http"}
        See :data:`LOADS`.
    looks : sequence of str
        Of :data:`LOOKS`. What is not installed or not permitted here is left out and
        noted.
    where : sequence of {"thread", "process"}
        Server in a thread of this process, where the reading competes with it for the
        interpreter lock, or in one of its own. Tracers are put around a process.
    requests : int, optional
        Requests of a measurement: 20,000, or 500 with `quick`. A tenth as many come
        before, marked as warm-up.
    rounds : int, optional
        3, or 1 with `quick`.
    quick : bool
        An answer in about ten seconds.
    seed, progress
        As in :func:`epolllab.experiments.scaling.sweep`.

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
        requests       int32    answered
        errors         int32    not answered
        requests_per_s float64
        p50_us, p99_us float64  latency
        cpu_us         float64  CPU of the server's loop for a request, µs (of its
                                process, where it has one)
        watcher_us     float64  CPU of the reading thread or the tracer for a
                                request, µs; 0 where there is none
        ============== ======== ==============================================

        What perf trace writes down happens in the server's own kernel time as well as in
        perf's, so its cost is in both columns. A server or a tracer that fails is a note
        in the result; the others go on.

    Raises
    ------
    ValueError, TypeError
        Unknown names, numbers that make no sense. Before anything is started.
    """
    for name, given, known in (
        ("loads", loads, tuple(LOADS)),
        ("looks", looks, LOOKS),
        ("where", where, ("thread", "process")),
    ):
        _names(name, given, known)
    requests = (500 if quick else 20_000) if requests is None else requests
    rounds = (1 if quick else 3) if rounds is None else rounds
    check_int("requests", requests, 1)
    check_int("rounds", rounds, 1)
    book = Logbook()
    possible = [look for look in looks if _is_possible(look, book)]
    cells = [
        _Cell(load, place, look)
        for load in loads
        for place in where
        for look in possible
        if look not in _TRACERS or place == "process"
    ]
    blocks = run_rounds(
        cells, partial(_measured, requests), rounds=rounds, seed=seed, title="observer_cost",
        progress=progress, book=book,
        name=lambda cell: f"{cell.look} (load {cell.load}, server in a {cell.where})",
    )  # fmt: skip
    circumstances = book.circumstances(
        experiment="observer_cost", loads=list(loads), looks=list(looks), where=list(where),
        requests=requests, rounds=rounds, seed=seed,
    )  # fmt: skip
    frame = _frame([row for block in blocks for row in block])
    return Result("observer_cost", frame, circumstances, ("load", "where", "look"), VALUES)


def _names(name: str, given: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(given, str) or not given or len(set(given)) < len(given):
        raise ValueError(f"{name} names at least one of {known}, each once, not {given!r}")
    for value in given:
        check_choice(name, value, known)


def _is_possible(look: str, book: Logbook) -> bool:
    """Whether a tracer is installed and permitted, by trying it on a program that ends."""
    if look not in _TRACERS:
        return True
    command = _TRACERS[look]
    if shutil.which(command[0]) is None:
        book.note(f"{look} is missing: {command[0]} is not installed")
        return False
    tried = subprocess.run(
        [*command, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
    )
    if tried.returncode:
        said = tried.stderr.decode(errors="replace").strip().splitlines()
        book.note(f"{look} is missing: {said[0] if said else 'it failed'}")
        return False
    return True


# --- one cell ---------------------------------------------------------------------------


def _measured(requests: int, cell: _Cell, round_: int) -> list[dict[str, Any]]:
    load = LOADS[cell.load]
    wishes = {"connections": load["connections"], "keep_alive": True, "protocol": load["protocol"]}
    always = {"round": round_, **cell._asdict()}
    place = _traced if cell.look in _TRACERS else _own
    warmup = max(requests // 10, 1)
    with place(cell, load["protocol"]) as (target, cpus):
        return [
            always
            | {"warmup": n is warmup, "watcher_us": 0.0}
            | measured_load(target, cpus, requests=n, **wishes)
            for n in (warmup, requests)
        ]


@contextmanager
def _own(cell: _Cell, protocol: ProtocolName) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A server started as a user starts it, with or without a reader beside it."""
    before = set(kernel.threads())
    with ExitStack() as opened:
        server = opened.enter_context(
            start_server(
                protocol=protocol, record=cell.look != "plain", process=cell.where == "process"
            )
        )
        # In a thread, the loop's own: this process has others, with work of their own.
        tids = None if cell.where == "process" else set(kernel.threads()) - before
        cpus = {"cpu_us": cpu_of(server.pid, tids)}
        if "read" in cell.look:
            reader = opened.enter_context(_reading(server))
            cpus["watcher_us"] = cpu_of(os.getpid(), [reader])
        yield server, cpus


@contextmanager
def _reading(server: Server) -> Iterator[int]:
    """Read as a dashboard does, ten times a second; gives the reading thread's number."""
    end = threading.Event()

    def read() -> None:
        while True:
            server.stats()
            recording = server.recording()
            recording.counts()
            recording.errors()
            if end.wait(READ_S):
                return

    thread = threading.Thread(target=read, name="epolllab-reader", daemon=True)
    thread.start()
    try:
        yield thread.native_id or 0
    finally:
        end.set()
        thread.join()


@contextmanager
def _traced(cell: _Cell, protocol: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A server without recorder under a tracer."""
    try:
        with watched_server(_TRACERS[cell.look], protocol=protocol, record=False) as watched:
            cpus = {"cpu_us": cpu_of(watched.pid), "watcher_us": cpu_of(watched.tracer_pid)}
            yield watched.address, cpus
    except TracerFailed as error:
        raise RuntimeError(f"{cell.look} worked a moment ago and does not now: {error}") from error


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "round": "int32", "load": pd.CategoricalDtype(list(LOADS)),
        "where": pd.CategoricalDtype(["thread", "process"]),
        "look": pd.CategoricalDtype(list(LOOKS)), "warmup": "bool", "requests": "int32",
        "errors": "int32", "requests_per_s": "float64", "p50_us": "float64", "p99_us": "float64",
        "cpu_us": "float64", "watcher_us": "float64",
    }  # fmt: skip
    return pd.DataFrame(list(rows), columns=pd.Index(columns, dtype=np.dtype("O"))).astype(columns)
