"""propagate(): libevent's benchmark, a token passed around n socket pairs.

One job: run that method's loop on each poller and count its waits. The method is that
of ``bench.c`` in libevent; this is a program of its own, in Python.
"""

import os
import select
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from epolllab.analysis.result import Result
from epolllab.checks import check_choice, check_int
from epolllab.events import EPOLLET, EPOLLIN
from epolllab.experiments.rounds import Logbook, numbers, room, run_rounds, still
from epolllab.experiments.scaling.fds import Targets, open_targets
from epolllab.experiments.scaling.waits import DEFAULT_MAX_EVENTS, fit
from epolllab.kernel.pollers import FD_SETSIZE

__all__ = ["POLLERS", "propagate"]


POLLERS = ("epoll-level", "epoll-edge", "poll", "select")


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
    """Pass bytes from pair to pair until all writes are done; count waits as well.

    Each run registers all n pairs anew and writes one byte into `active` of them,
    evenly spaced. Then the loop, which alone is timed, waits without blocking; for each
    pair found ready it reads the byte and, while there are writes left, writes one into
    the next pair. What it shows: with little active the poller's cost decides, with all
    active it does not, and CPython's bound of 1,023 events a wait cuts a large batch
    into a staircase of waits.

    Parameters
    ----------
    pairs : int or rising sequence of int
        Socket pairs (AF_UNIX, stream), two descriptors each; cut to the limit as in
        :func:`sweep`.
    active : int or rising sequence of int
        Bytes under way at once; each at most the least of `pairs`.
    writes : int, optional
        Bytes written by the loop; as many as there are pairs by default.
    pollers : sequence of str
        Of ``"epoll-level"``, ``"epoll-edge"``, ``"poll"``, ``"select"``; by Python's
        functions, as a port of a loop would be. select only below descriptor 1,024.
    max_events : int or rising sequence of int
        Descriptors one epoll wait returns at most.
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
        pairs      int32    socket pairs watched
        active     int32    bytes under way at once
        writes     int32    bytes written by the loop
        max_events int32    bound on what an epoll wait returned
        loop_ns    int64    the loop alone
        waits      int32    its calls to the poller
        events     int32    descriptors these returned: active + writes
        warmup     bool     the first run of each
        ========== ======== ================================================

    Raises
    ------
    ValueError, TypeError
        Numbers that are not positive or do not rise, active over pairs, unknown names.
    DescriptorLimitError
        Not even the least number of pairs fits.
    """
    sizes, counts = numbers("pairs", pairs), numbers("active", active)
    bounds = numbers("max_events", max_events)
    runs = (5 if quick else 25) if runs is None else runs
    check_int("runs", runs, 1)
    if writes is not None:
        check_int("writes", writes, 0)
    _check(sizes, counts, pollers)
    book = Logbook()
    with ExitStack() as opened:
        cpu = opened.enter_context(still(pin=pin, book=book))
        n = opened.enter_context(room(2 * sizes[-1])) // 2
        targets = opened.enter_context(open_targets("socketpair", min(n, sizes[-1])))
        fitting = fit(sizes, len(targets.fds), book)
        cells = [
            _Cell(poller, size, count, size if writes is None else writes, bound)
            for poller in pollers
            for size in fitting
            if not _ends(poller, size, targets, book)
            for count in counts
            for bound in (bounds if poller.startswith("epoll") else bounds[:1])
        ]
        rows = run_rounds(
            cells, partial(_row, targets), rounds=runs + 1, seed=seed, title="propagate",
            progress=progress, book=book,
        )  # fmt: skip
    circumstances = book.circumstances(
        experiment="propagate", pollers=list(pollers), pairs=list(sizes), active=list(counts),
        writes=writes, max_events=list(bounds), runs=runs, seed=seed, pinned_cpu=cpu,
    )  # fmt: skip
    by = ("poller", "pairs", "active", "writes", "max_events")
    return Result("propagate", _frame(rows), circumstances, by, ("loop_ns", "waits"), "pairs")


def _check(sizes: Sequence[int], counts: Sequence[int], pollers: Sequence[str]) -> None:
    if counts[-1] > sizes[0]:
        raise ValueError(
            f"active={counts[-1]} of pairs={sizes[0]}: more bytes under way than pairs to hold "
            "them; active is at most the least of pairs"
        )
    if isinstance(pollers, str) or not pollers or len(set(pollers)) < len(pollers):
        raise ValueError(f"pollers names at least one of {POLLERS}, each once, not {pollers!r}")
    for poller in pollers:
        check_choice("pollers", poller, POLLERS)


def _ends(poller: str, size: int, targets: Targets, book: Logbook) -> bool:
    ended = poller == "select" and max(targets.fds[:size]) >= FD_SETSIZE
    if ended:
        book.note(f"Python's select refuses descriptors from {FD_SETSIZE:,} on: not {size:,} pairs")
    return ended


# --- one run ----------------------------------------------------------------------------


def _row(targets: Targets, cell: _Cell, round_: int) -> dict[str, Any]:
    wait, close = _registered(cell, targets.fds[: cell.pairs])
    try:
        spacing = cell.pairs // cell.active
        for place in range(0, spacing * cell.active, spacing):
            os.write(targets.writers[place], b"x")
        loop_ns, waits, events = _loop(targets, cell, wait)
    finally:
        close()
    return {
        "round": round_, **cell._asdict(), "loop_ns": loop_ns, "waits": waits, "events": events,
        "warmup": round_ == 0,
    }  # fmt: skip


def _registered(cell: _Cell, fds: Sequence[int]) -> tuple[Callable[[], Any], Callable[[], None]]:
    """Register all pairs anew: a wait that gives descriptors (or pairs with a mask)."""
    if cell.poller.startswith("epoll"):
        epoll = select.epoll()
        mask = EPOLLIN | (EPOLLET if cell.poller == "epoll-edge" else 0)
        for fd in fds:
            epoll.register(fd, mask)
        return partial(epoll.poll, 0, cell.max_events), epoll.close
    if cell.poller == "poll":
        poll = select.poll()
        for fd in fds:
            poll.register(fd, EPOLLIN)
        return partial(poll.poll, 0), lambda: None
    watched = list(fds)
    return lambda: [(fd, 1) for fd in select.select(watched, (), (), 0)[0]], lambda: None


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


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "round": "int32", "poller": pd.CategoricalDtype(list(POLLERS)), "pairs": "int32",
        "active": "int32", "writes": "int32", "max_events": "int32", "loop_ns": "int64",
        "waits": "int32", "events": "int32", "warmup": "bool",
    }  # fmt: skip
    return pd.DataFrame(list(rows), columns=pd.Index(columns)).astype(columns)
