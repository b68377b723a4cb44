"""register_cost(): what it costs to add, change and take out one descriptor.

One job: time these three calls on tables of different sizes.
"""

import ctypes
import platform
import random
import select
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from epolllab.analysis.result import Result
from epolllab.checks import check_choice, check_int
from epolllab.events import EPOLLIN, EPOLLOUT
from epolllab.experiments.rounds import Logbook, numbers, room, run_rounds, still
from epolllab.experiments.scaling.fds import KINDS, Targets, open_targets
from epolllab.experiments.scaling.variants import APIS
from epolllab.experiments.scaling.waits import clock_floor_ns, fit, raw_floor_ns
from epolllab.kernel import raw

__all__ = ["OPERATIONS", "register_cost"]


OPERATIONS = ("register", "modify", "unregister")
_ARMS = (("epoll-level", "python"), ("epoll-level", "raw"), ("poll", "python"))


class _Cell(NamedTuple):
    poller: str
    api: str
    n_fds: int


def register_cost(
    n_fds: int | Sequence[int] = (10, 100, 1_000, 10_000),
    *,
    ops: int | None = None,
    rounds: int | None = None,
    warmup: int = 10,
    kind: str = "eventfd",
    quick: bool = False,
    pin: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Time registering, modifying and unregistering one descriptor among N.

    What it shows: what a connection costs epoll before the first wait. Each call enters
    the kernel, which looks the descriptor up in a tree, so the time grows with the
    logarithm of N at most. poll's are entries in a dictionary of Python's and never
    reach the kernel: poll pays at every wait instead. This is the price that a life
    cycle with many epoll_ctl a request pays (Gammo and others, 2004).

    Parameters
    ----------
    n_fds : int or rising sequence of int
        Descriptors registered meanwhile; cut as in :func:`sweep`.
    ops : int, optional
        Descriptors taken out, put back and modified in each round: 300, or 100 with
        `quick`.
    rounds : int, optional
        5, or 3 with `quick`.
    warmup, kind, quick, pin, seed, progress
        As in :func:`sweep`.

    Returns
    -------
    Result
        ``frame`` with a row per call: round, poller, api (epoll by Python and raw, poll
        by Python), n_fds, operation (one of :data:`OPERATIONS`), op, warmup, and
        call_ns (int64).

    Raises
    ------
    ValueError, TypeError, DescriptorLimitError
        As :func:`sweep`.
    """
    sizes = numbers("n_fds", n_fds)
    check_choice("kind", kind, list(KINDS))
    ops = (100 if quick else 300) if ops is None else ops
    rounds = (3 if quick else 5) if rounds is None else rounds
    for name, value, least in (("ops", ops, 1), ("rounds", rounds, 1), ("warmup", warmup, 0)):
        check_int(name, value, least)
    book = Logbook()
    with ExitStack() as opened:
        cpu = opened.enter_context(still(pin=pin, book=book))
        n = opened.enter_context(room(KINDS[kind] * sizes[-1])) // KINDS[kind]
        targets = opened.enter_context(open_targets(kind, min(n, sizes[-1])))
        fitting = fit(sizes, len(targets.fds), book)
        blocks = run_rounds(
            [_Cell(*arm, size) for arm in _ARMS for size in fitting],
            partial(_block, targets, warmup + ops, warmup, seed),
            rounds=rounds, seed=seed, title="register_cost", progress=progress, book=book,
        )  # fmt: skip
        floors = {"clock_floor_ns": clock_floor_ns(), "raw_floor_ns": raw_floor_ns()}
    circumstances = book.circumstances(
        experiment="register_cost", n_fds=list(sizes), kind=kind, ops=ops, warmup=warmup,
        rounds=rounds, seed=seed, pinned_cpu=cpu, **floors,
    )  # fmt: skip
    by = ("poller", "api", "operation", "n_fds")
    return Result("register_cost", _frame(blocks), circumstances, by, ("call_ns",), "n_fds")


def _block(
    targets: Targets, n_ops: int, warmup: int, seed: int, cell: _Cell, round_: int
) -> list[tuple[Any, ...]]:
    fds = targets.fds[: cell.n_fds]
    chosen = random.Random(f"{seed} {round_} {cell}").choices(fds, k=n_ops)
    with ExitStack() as opened:
        calls = _CALLS[cell.poller, cell.api](opened, fds)
        return [
            (round_, *cell, operation, i, i < warmup, call_ns)
            for i, fd in enumerate(chosen)
            for operation, call_ns in zip(
                ("unregister", "register", "modify"), _timed(*calls(fd)), strict=True
            )
        ]


Call = Callable[[], Any]


def _timed(unregister: Call, register: Call, modify: Call) -> tuple[int, int, int]:
    """Time the three, in an order that leaves the table as it was."""
    clock = time.monotonic_ns
    a = clock()
    unregister()
    b = clock()
    c = clock()
    register()
    d = clock()
    e = clock()
    modify()
    f = clock()
    return b - a, d - c, f - e


def _python(opened: ExitStack, poller: Any, fds: Sequence[int]) -> Callable[[int], Any]:
    for fd in fds:
        poller.register(fd, EPOLLIN)
    return lambda fd: (
        partial(poller.unregister, fd),
        partial(poller.register, fd, EPOLLIN),
        partial(poller.modify, fd, EPOLLIN | EPOLLOUT),
    )


def _epoll_python(opened: ExitStack, fds: Sequence[int]) -> Callable[[int], Any]:
    return _python(opened, opened.enter_context(select.epoll()), fds)


def _poll_python(opened: ExitStack, fds: Sequence[int]) -> Callable[[int], Any]:
    return _python(opened, select.poll(), fds)


class _Event(ctypes.Structure):
    # Packed on x86-64 and on no other machine: EPOLL_PACKED in eventpoll.h.
    _pack_ = 1 if platform.machine() == "x86_64" else 8
    _layout_ = "ms"  # what packing means; Python 3.14 wants it said
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


def _epoll_raw(opened: ExitStack, fds: Sequence[int]) -> Callable[[int], Any]:
    """epoll_ctl itself over prepared arguments; it must not fail unseen, so it is tried."""
    epoll = opened.enter_context(select.epoll())
    for fd in fds:
        epoll.register(fd, EPOLLIN)
    ctl = partial(ctypes.CDLL(None, use_errno=True).epoll_ctl, ctypes.c_int(epoll.fileno()))

    def calls(fd: int) -> tuple[Call, Call, Call]:
        both, only = _Event(EPOLLIN | EPOLLOUT, fd), _Event(EPOLLIN, fd)
        number = ctypes.c_int(fd)
        prepared = (
            partial(ctl, raw.CTL_DEL, number, ctypes.byref(only)),
            partial(ctl, raw.CTL_ADD, number, ctypes.byref(only)),
            partial(ctl, raw.CTL_MOD, number, ctypes.byref(both)),
        )
        if any(call() < 0 for call in prepared):  # leaves the table as it was
            raise OSError(ctypes.get_errno(), f"epoll_ctl of descriptor {fd}")
        return prepared

    return calls


_CALLS: dict[tuple[str, str], Callable[[ExitStack, Sequence[int]], Callable[[int], Any]]] = {
    ("epoll-level", "python"): _epoll_python,
    ("epoll-level", "raw"): _epoll_raw,
    ("poll", "python"): _poll_python,
}


def _frame(blocks: Sequence[Sequence[tuple[Any, ...]]]) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "round": "int32", "poller": pd.CategoricalDtype(["epoll-level", "poll"]),
        "api": pd.CategoricalDtype(list(APIS)), "n_fds": "int32",
        "operation": pd.CategoricalDtype(list(OPERATIONS)), "op": "int32", "warmup": "bool",
        "call_ns": "int64",
    }  # fmt: skip
    rows = [row for block in blocks for row in block]
    return pd.DataFrame(rows, columns=pd.Index(columns)).astype(columns)
