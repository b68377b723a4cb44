"""propagate(): libevent's benchmark, bytes passed around n socket pairs.

The method is that of ``bench.c`` in libevent; this is an independent program in Python.
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from epolllab.analysis.result import Result
from epolllab.checks import check_int, check_names, check_sizes
from epolllab.events import EPOLLIN
from epolllab.experiments.rounds import ExperimentRun, Layout, choose_effort
from epolllab.experiments.scaling.fds import Targets, prepare
from epolllab.experiments.scaling.variants import Variant, make_waiter
from epolllab.experiments.scaling.waits import DEFAULT_MAX_EVENTS
from epolllab.kernel.pollers import FD_SETSIZE

__all__ = ["LAYOUT", "POLLERS", "propagate"]

POLLERS = ("epoll-level", "epoll-edge", "poll", "select")

LAYOUT = Layout(
    {
        "round": "int32", "poller": pd.CategoricalDtype(list(POLLERS)), "pairs": "int32",
        "active": "int32", "writes": "int32", "max_events": "int32", "loop_ns": "int64",
        "waits": "int32", "events": "int32", "warmup": "bool",
    },
    ("poller", "pairs", "active", "writes", "max_events"),
    ("loop_ns", "waits"),
    "pairs",
)  # fmt: skip


class _Cell(NamedTuple):
    poller: str
    pairs: int
    active: int
    writes: int
    max_events: int


def propagate(
    pairs: int | Sequence[int] = (100, 1_000),
    active: int | Sequence[int] = (1, 100),
    writes: int | None = None,
    *,
    pollers: Sequence[str] = POLLERS,
    max_events: int | Sequence[int] = DEFAULT_MAX_EVENTS,
    runs: int | None = None,
    quick: bool = False,
    pin: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Pass bytes from pair to pair until all writes are done, and count the waits.

    Each run registers all n pairs with a new poller and writes one byte into `active` of
    them, evenly spaced. Then the loop, which alone is timed, waits without blocking; for
    each ready pair it reads the byte and, while there are writes left, writes one into
    the next pair. What it shows: with little active the poller's cost dominates, with all
    active it does not, and CPython's limit of 1,023 events per wait splits a large batch
    into a staircase of waits.

    Parameters
    ----------
    pairs : int or rising sequence of int
        Socket pairs (AF_UNIX, stream), two descriptors each; reduced to the limit as in
        :func:`sweep`.
    active : int or rising sequence of int
        Bytes in transit at once; each at most the smallest of `pairs`.
    writes : int, optional
        Bytes written by the loop; as many as there are pairs by default.
    pollers : sequence of str
        Of ``"epoll-level"``, ``"epoll-edge"``, ``"poll"``, ``"select"``, through Python's
        functions. select works below descriptor 1,024 only.
    max_events : int or rising sequence of int
        Maximum number of descriptors that one epoll wait returns.
    runs : int, optional
        Runs of each combination, interleaved: 25, or 5 with `quick`; one more comes
        before them and is marked as warm-up.
    quick, pin, seed, progress
        As in :func:`sweep`.

    Returns
    -------
    Result
        ``frame`` with a row per run:

        ========== ======== ================================================
        round      int32    ordinal of the run
        poller     category as above
        pairs      int32    watched socket pairs
        active     int32    bytes in transit at once
        writes     int32    bytes written by the loop
        max_events int32    maximum that an epoll wait returned
        loop_ns    int64    the loop alone
        waits      int32    its calls to the poller
        events     int32    descriptors these returned: active + writes
        warmup     bool     the first run of each
        ========== ======== ================================================

        Errors are those of :func:`sweep`.
    """
    sizes, counts = check_sizes("pairs", pairs), check_sizes("active", active)
    bounds = check_sizes("max_events", max_events, most=65_534)
    if writes is not None:
        check_int("writes", writes, 0, 1 << 31)
    if counts[-1] > sizes[0]:
        raise ValueError(
            f"active must be at most the smallest of pairs, {sizes[0]}, not {counts[-1]}: each "
            "pair holds one byte"
        )
    pollers = check_names("pollers", pollers, POLLERS)
    effort = choose_effort(quick, runs=(runs, 25, 5), pin=pin, seed=seed, progress=progress)
    run = ExperimentRun("propagate", LAYOUT, effort)
    with prepare(run, ("socketpair",), sizes) as (opened, fitting):
        targets = opened["socketpair"]
        cells = [
            _Cell(poller, size, count, size if writes is None else writes, bound)
            for poller in pollers
            for size in fitting
            if _is_possible(poller, size, targets, run)
            for count in counts
            for bound in (bounds if poller.startswith("epoll") else bounds[:1])
        ]
        run.measure(cells, partial(_rows, targets), rounds=effort["runs"] + 1)
    return run.result(
        pollers=list(pollers), pairs=list(sizes), active=list(counts), writes=writes,
        max_events=list(bounds),
    )  # fmt: skip


def _is_possible(poller: str, size: int, targets: Targets, run: ExperimentRun) -> bool:
    possible = poller != "select" or max(targets.fds[:size]) < FD_SETSIZE
    if not possible:
        run.note(f"Python's select refuses descriptors from {FD_SETSIZE:,} on: not {size:,} pairs")
    return possible


def _rows(targets: Targets, cell: _Cell, round_: int) -> list[dict[str, Any]]:
    fds = targets.fds[: cell.pairs]
    with make_waiter(Variant(cell.poller, "python"), fds, cell.max_events) as waiter:
        spacing = cell.pairs // cell.active
        for place in range(0, spacing * cell.active, spacing):
            os.write(targets.writers[place], b"x")
        wait = waiter.wait
        if cell.poller == "select":
            wait = partial(_select_pairs, waiter.wait)
        loop_ns, waits, events = _loop(targets, cell, wait)
    measured = {"loop_ns": loop_ns, "waits": waits, "events": events}
    return [{"round": round_, **cell._asdict(), **measured, "warmup": round_ == 0}]


def _select_pairs(wait: Callable[[], Any]) -> list[tuple[int, int]]:
    return [(fd, EPOLLIN) for fd in wait()[0]]


def _loop(targets: Targets, cell: _Cell, wait: Callable[[], Any]) -> tuple[int, int, int]:
    read, write, writers = os.read, os.write, targets.writers
    place = {fd: i for i, fd in enumerate(targets.fds[: cell.pairs])}
    left, fired, n_events, n_waits = cell.writes, cell.active, 0, 0
    start = time.monotonic_ns()
    while n_events < fired:
        n_waits += 1
        for fd, _ in wait():
            read(fd, 1)
            n_events += 1
            if left:
                left -= 1
                fired += 1
                write(writers[(place[fd] + 1) % cell.pairs], b"x")
    return time.monotonic_ns() - start, n_waits, n_events
