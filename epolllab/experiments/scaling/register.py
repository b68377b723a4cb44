"""register_cost(): the cost of adding, changing and removing one descriptor among N."""

import ctypes
import random
import select
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from epolllab.analysis.result import Result
from epolllab.checks import check_choice, check_sizes
from epolllab.events import EPOLLIN, EPOLLOUT
from epolllab.experiments.rounds import Effort, ExperimentRun, Layout, choose_effort
from epolllab.experiments.scaling.fds import KINDS, Targets, prepare
from epolllab.experiments.scaling.variants import APIS
from epolllab.experiments.scaling.waits import call_floors
from epolllab.kernel import raw

__all__ = ["LAYOUT", "OPERATIONS", "register_cost"]

OPERATIONS = ("register", "modify", "unregister")

_VARIANTS = (("epoll-level", "python"), ("epoll-level", "raw"), ("poll", "python"))

LAYOUT = Layout(
    {
        "round": "int32", "poller": pd.CategoricalDtype(["epoll-level", "poll"]),
        "api": pd.CategoricalDtype(list(APIS)), "n_fds": "int32",
        "operation": pd.CategoricalDtype(list(OPERATIONS)), "op": "int32", "warmup": "bool",
        "call_ns": "int64",
    },
    ("poller", "api", "operation", "n_fds"),
    ("call_ns",),
    "n_fds",
)  # fmt: skip


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

    What it shows: the cost of a connection to epoll before the first wait. Each call enters
    the kernel, which looks the descriptor up in a tree, so the time grows with the
    logarithm of N at most. poll's registrations are entries in a Python dictionary and never
    reach the kernel: poll passes all of them at every wait instead. A life cycle with many
    epoll_ctl per request pays this price (Gammo and others, 2004).

    Parameters
    ----------
    n_fds : int or rising sequence of int
        Registered descriptors; reduced as in :func:`sweep`.
    ops : int, optional
        Descriptors unregistered, registered again and modified in each round: 300, or 100
        with `quick`.
    rounds : int, optional
        5, or 3 with `quick`.
    warmup, kind, quick, pin, seed, progress
        As in :func:`sweep`.

    Returns
    -------
    Result
        ``frame`` with a row per call: round, poller, api (epoll by Python and raw, poll
        by Python), n_fds, operation (one of :data:`OPERATIONS`), op, warmup, and
        call_ns (int64). Errors as in :func:`sweep`.
    """
    sizes = check_sizes("n_fds", n_fds)
    check_choice("kind", kind, list(KINDS))
    effort = choose_effort(
        quick, ops=(ops, 300, 100), rounds=(rounds, 5, 3), warmup=warmup, pin=pin, seed=seed,
        progress=progress,
    )  # fmt: skip
    run = ExperimentRun("register_cost", LAYOUT, effort)
    with prepare(run, (kind,), sizes) as (targets, fitting):
        cells = [_Cell(*variant, size) for variant in _VARIANTS for size in fitting]
        run.measure(cells, partial(_rows, targets[kind], effort))
        floors = call_floors()
    return run.result(n_fds=list(sizes), kind=kind, **floors)


def _rows(targets: Targets, effort: Effort, cell: _Cell, round_: int) -> list[dict[str, Any]]:
    fds = targets.fds[: cell.n_fds]
    warmup = effort["warmup"]
    chosen = random.Random(f"{effort.seed} {round_} {cell}").choices(fds, k=warmup + effort["ops"])
    rows = []
    with ExitStack() as opened:
        calls = (_raw_calls if cell.api == "raw" else _python_calls)(cell.poller, opened, fds)
        for i, fd in enumerate(chosen):
            fixed = {"round": round_, **cell._asdict(), "op": i, "warmup": i < warmup}
            rows += [{**fixed, "operation": name, "call_ns": ns} for name, ns in _timed(*calls(fd))]
    return rows


Call = Callable[[], Any]
CallsOf = Callable[[int], tuple[Call, Call, Call]]
"""From a descriptor to calls that unregister, register and modify it."""


def _timed(unregister: Call, register: Call, modify: Call) -> list[tuple[str, int]]:
    """Time the three, in an order that leaves the descriptor registered."""
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
    return [("unregister", b - a), ("register", d - c), ("modify", f - e)]


def _python_calls(poller: str, opened: ExitStack, fds: Sequence[int]) -> CallsOf:
    watcher: Any = select.poll() if poller == "poll" else opened.enter_context(select.epoll())
    for fd in fds:
        watcher.register(fd, EPOLLIN)
    return lambda fd: (
        partial(watcher.unregister, fd),
        partial(watcher.register, fd, EPOLLIN),
        partial(watcher.modify, fd, EPOLLIN | EPOLLOUT),
    )


def _raw_calls(_poller: str, opened: ExitStack, fds: Sequence[int]) -> CallsOf:
    """epoll_ctl itself over prepared arguments, tried first since timed calls are unchecked."""
    epoll = opened.enter_context(select.epoll())
    for fd in fds:
        epoll.register(fd, EPOLLIN)
    ctl = partial(ctypes.CDLL(None, use_errno=True).epoll_ctl, ctypes.c_int(epoll.fileno()))

    def calls(fd: int) -> tuple[Call, Call, Call]:
        number = ctypes.c_int(fd)
        one, both = (
            ctypes.create_string_buffer(raw.EVENT.pack(mask, fd))
            for mask in (EPOLLIN, EPOLLIN | EPOLLOUT)
        )
        prepared = (
            partial(ctl, raw.CTL_DEL, number, one),
            partial(ctl, raw.CTL_ADD, number, one),
            partial(ctl, raw.CTL_MOD, number, both),
        )
        if any(call() < 0 for call in prepared):  # leaves the descriptor registered
            raise OSError(ctypes.get_errno(), f"epoll_ctl of descriptor {fd}")
        return prepared

    return calls
