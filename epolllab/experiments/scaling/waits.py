"""Time one wait at a time: the measurement behind sweep, crossover and wait_kinds.

One job: make some of N descriptors ready, time the wait that finds them, take them
back, many times, for many arms. It decides nothing about which sizes are of interest.
"""

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from epolllab import kernel
from epolllab.analysis.result import Result
from epolllab.experiments.rounds import Logbook, room, run_rounds, still
from epolllab.experiments.scaling.fds import KINDS, Targets, open_targets
from epolllab.experiments.scaling.variants import APIS, POLLERS, Arm, Refused, Waiter, make_waiter
from epolllab.kernel.pollers import FD_SETSIZE

__all__ = ["Cell", "Plan", "fit", "measure", "run"]


BY = ("poller", "api", "kind", "n_fds", "active")
VALUES = ("wait_ns", "op_ns")
DEFAULT_MAX_EVENTS = 1_023  # CPython's own for epoll.poll: FD_SETSIZE - 1


class Cell(NamedTuple):
    """One arm at one size."""

    arm: Arm
    kind: str
    n_fds: int
    active: int


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and how carefully.

    Attributes
    ----------
    name : str
        Of the experiment.
    arms : sequence of Arm
        The pollers compared.
    n_fds : sequence of int
        Descriptors watched.
    active : callable
        From a number watched to the numbers made ready for each operation.
    kinds : sequence of str
        Kinds of descriptor.
    ops, warmup : int
        Operations of a cell in a round, and how many more come before them. Both are
        kept, the latter with ``warmup`` true.
    fresh : bool
        Whether each operation has a poller of its own, and times its first wait.
    """

    name: str
    arms: Sequence[Arm]
    n_fds: Sequence[int]
    active: Callable[[int], Iterable[int]]
    kinds: Sequence[str]
    ops: int
    warmup: int
    rounds: int
    seed: int
    pin: bool
    progress: bool
    fresh: bool = False

    def parameters(self) -> dict[str, Any]:
        """What a result's circumstances keep of this."""
        return {
            "experiment": self.name,
            "pollers": list(dict.fromkeys(arm.poller for arm in self.arms)),
            "api": list(dict.fromkeys(arm.api for arm in self.arms)),
            "n_fds": list(self.n_fds),
            "kinds": list(self.kinds),
            "ops": self.ops,
            "warmup": self.warmup,
            "rounds": self.rounds,
            "seed": self.seed,
            "fresh": self.fresh,
        }


def run(plan: Plan) -> Result:
    """Carry out a plan.

    Returns
    -------
    Result
        A row per operation; see :func:`epolllab.experiments.scaling.sweep`.

    Raises
    ------
    DescriptorLimitError
        Not even the smallest size fits under the hard limit.
    RuntimeError
        A wait found another number ready than was made ready: another part of the
        program touches the descriptors.
    """
    book = Logbook()
    with ExitStack() as opened:
        # Pinned and without garbage collection for the whole run: both take a while.
        cpu = opened.enter_context(still(pin=plan.pin, book=book))
        each = sum(KINDS[kind] for kind in plan.kinds)
        n_fitting = opened.enter_context(room(max(plan.n_fds) * each)) // each
        targets = {
            kind: opened.enter_context(open_targets(kind, min(max(plan.n_fds), n_fitting)))
            for kind in plan.kinds
        }
        n_open = min(len(some.fds) for some in targets.values())
        sizes = fit(plan.n_fds, n_open, book)
        cells = _cells(plan, sizes, targets, book)
        measured = run_rounds(
            cells,
            lambda cell, round_: _measured(cell, round_, plan, targets[cell.kind]),
            rounds=plan.rounds,
            seed=plan.seed,
            title=plan.name,
            progress=plan.progress,
            book=book,
        )
        floors = {"clock_floor_ns": clock_floor_ns(), "raw_floor_ns": raw_floor_ns()}
    circumstances = book.circumstances(**plan.parameters(), **floors, pinned_cpu=cpu)
    return Result(plan.name, _frame(measured), circumstances, BY, VALUES, "n_fds")


def fit(n_fds: Sequence[int], n_open: int, book: Logbook) -> tuple[int, ...]:
    """Cut sizes to the descriptors there are, and note it.

    Returns
    -------
    tuple of int
        Those that fit, and the greatest that does in place of those that do not.

    Raises
    ------
    DescriptorLimitError
        Not even the smallest fits.
    """
    kept = tuple(n for n in n_fds if n <= n_open)
    if len(kept) == len(n_fds):
        return kept
    soft, hard = kernel.descriptor_limits()
    if not kept:
        raise kernel.DescriptorLimitError(n_fds[0], soft, hard)
    if n_open > kept[-1]:
        kept += (n_open,)
    asked = ", ".join(f"{n:,}" for n in n_fds if n > n_open)
    book.note(f"cut to N = {kept[-1]:,}: {asked} asked, and the limit is {hard:,} descriptors here")
    return kept


def _cells(
    plan: Plan, sizes: Sequence[int], targets: Mapping[str, Targets], book: Logbook
) -> list[Cell]:
    """All combinations that are possible, and one more where an arm ends early."""
    cells = []
    for kind in plan.kinds:
        for arm in plan.arms:
            last = _last_size(arm, targets[kind].fds, sizes, book)
            own = [n for n in sizes if n <= last]
            if last < sizes[-1] and last > 1.1 * max(own, default=0):
                own.append(last)  # so that its line reaches to where it ends
            cells += [Cell(arm, kind, n, k) for n in own for k in plan.active(n) if k <= n]
    return cells


def _last_size(arm: Arm, fds: Sequence[int], sizes: Sequence[int], book: Logbook) -> int:
    # Not their count: a number that another thread gave back meanwhile stands out of order.
    last = next((i for i, fd in enumerate(fds[: sizes[-1]]) if fd >= FD_SETSIZE), sizes[-1])
    if arm != Arm("select", "python") or last == sizes[-1]:
        return sizes[-1]
    book.note(
        f"Python's select ends at N = {last:,}: it refuses descriptors from {FD_SETSIZE:,} on"
    )
    return last


# --- one cell ---------------------------------------------------------------------------


class _Times(NamedTuple):
    """Of the operations of one cell, in order."""

    t_ns: list[int]
    wait_ns: list[int]
    op_ns: list[int]  # empty by raw


def _measured(cell: Cell, round_: int, plan: Plan, targets: Targets) -> dict[str, Any]:
    n_ops = plan.warmup + plan.ops
    chosen = _choices(cell, n_ops, random.Random(f"{plan.seed} {round_} {cell}"))
    try:
        timed = _one_by_one if plan.fresh else measure
        times = timed(cell, targets, chosen)
    except Refused as error:  # a descriptor was opened meanwhile, and numbers moved
        raise RuntimeError(str(error)) from error
    return {"cell": cell, "round": round_, "warmup": plan.warmup, "times": times}


def _choices(cell: Cell, n_ops: int, chance: random.Random) -> list[list[int]]:
    places = range(cell.n_fds)
    return [chance.sample(places, cell.active) for _ in range(n_ops)]


def _one_by_one(cell: Cell, targets: Targets, chosen: Sequence[Sequence[int]]) -> _Times:
    """Measure each operation with a poller of its own."""
    parts = [measure(cell, targets, [places]) for places in chosen]
    return _Times(*([ns for one in part for ns in one] for part in zip(*parts, strict=True)))


def measure(cell: Cell, targets: Targets, chosen: Sequence[Sequence[int]]) -> _Times:
    """Time an operation for each element of `chosen`: places to be made ready.

    Returns
    -------
    _Times
        Start, wait and whole operation, in ns of the monotonic clock.

    Raises
    ------
    RuntimeError
        A wait found another number than was made ready.
    """
    max_events = max(DEFAULT_MAX_EVENTS, cell.active)
    with make_waiter(cell.arm, targets.fds[: cell.n_fds], max_events) as waiter:
        timed = _python_operations if cell.arm.api == "python" else _raw_operations
        return timed(cell, targets, waiter, chosen)


def _python_operations(
    cell: Cell, targets: Targets, waiter: Waiter, chosen: Sequence[Sequence[int]]
) -> _Times:
    clock, write, read = time.monotonic_ns, os.write, os.read
    wait, found, rearm = waiter.wait, waiter.found, waiter.rearm
    writers, payload, size = targets.writers, targets.payload, targets.size
    times = _Times([], [], [])
    for places in chosen:
        for place in places:
            write(writers[place], payload)
        start = clock()
        returned = wait()
        end = clock()
        ready = found(returned)
        for fd in ready:
            read(fd, size)
            if rearm is not None:
                rearm(fd)
        done = clock()
        if len(ready) != len(places):
            raise _Disturbed(cell, len(ready))
        times.t_ns.append(start)
        times.wait_ns.append(end - start)
        times.op_ns.append(done - start)
    return times


def _raw_operations(
    cell: Cell, targets: Targets, waiter: Waiter, chosen: Sequence[Sequence[int]]
) -> _Times:
    clock, write, read = time.monotonic_ns, os.write, os.read
    wait, rearm, prepare = waiter.wait, waiter.rearm, waiter.prepare
    fds, writers, payload, size = targets.fds, targets.writers, targets.payload, targets.size
    times = _Times([], [], [])
    for places in chosen:
        for place in places:
            write(writers[place], payload)
        if prepare is not None:
            prepare()
        start = clock()
        count = wait()
        end = clock()
        for place in places:
            read(fds[place], size)
            if rearm is not None:
                rearm(fds[place])
        if count != len(places):
            raise _Disturbed(cell, count)
        times.t_ns.append(start)
        times.wait_ns.append(end - start)
    return times


class _Disturbed(RuntimeError):
    def __init__(self, cell: Cell, found: int) -> None:
        super().__init__(
            f"{cell.arm.poller} by {cell.arm.api} found {found} ready of {cell.n_fds:,}, and "
            f"{cell.active} were made so: something else reads, writes or closes descriptors "
            "of this process; stop it and measure again"
        )


# --- what is in every time --------------------------------------------------------------


def clock_floor_ns(n: int = 2_000) -> float:
    """What is measured of nothing: two readings of the clock, one after the other."""
    clock = time.monotonic_ns
    floor = []
    for _ in range(n):
        start = clock()
        end = clock()
        floor.append(end - start)
    return float(np.median(floor))


def raw_floor_ns(n: int = 2_000) -> float:
    """What is measured of a foreign call that makes no system call.

    The C library's ``abs`` with the arguments of a raw wait, of which it looks at the
    first: the clock, and all that ctypes does around a call.
    """
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    array = ctypes.create_string_buffer(64)
    call = partial(
        library.abs, ctypes.c_int(1), array, ctypes.c_int(DEFAULT_MAX_EVENTS), ctypes.c_int(0)
    )
    clock = time.monotonic_ns
    floor = []
    for _ in range(n):
        start = clock()
        call()
        end = clock()
        floor.append(end - start)
    return float(np.median(floor))


# --- the frame --------------------------------------------------------------------------

_CATEGORIES = {"poller": POLLERS, "api": APIS, "kind": tuple(KINDS)}
_SIZES = {"round": "int32", "n_fds": "int32", "active": "int32"}


def _frame(measured: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per operation, of fixed columns also without any."""
    lengths = [len(block["times"].t_ns) for block in measured]
    of_block = {
        "round": [block["round"] for block in measured],
        "poller": [block["cell"].arm.poller for block in measured],
        "api": [block["cell"].arm.api for block in measured],
        "kind": [block["cell"].kind for block in measured],
        "n_fds": [block["cell"].n_fds for block in measured],
        "active": [block["cell"].active for block in measured],
    }
    columns: dict[str, Any] = {}
    for name, values in of_block.items():
        if name in _CATEGORIES:
            codes = [_CATEGORIES[name].index(value) for value in values]
            repeated: Any = np.repeat(np.array(codes, dtype="int8"), lengths)
            columns[name] = pd.Categorical.from_codes(
                repeated, dtype=pd.CategoricalDtype(list(_CATEGORIES[name]))
            )
        else:
            columns[name] = np.repeat(np.array(values, dtype=_SIZES[name]), lengths)
    columns |= _of_operations(measured, lengths)
    return pd.DataFrame(columns)


def _of_operations(measured: Sequence[Mapping[str, Any]], lengths: Sequence[int]) -> dict[str, Any]:
    empty = [np.empty(0, dtype="int32")]
    ordinal = np.concatenate([*map(np.arange, lengths), *empty]).astype("int32")
    warmup = np.repeat(np.array([block["warmup"] for block in measured], dtype="int32"), lengths)
    times = [block["times"] for block in measured]
    return {
        "op": ordinal,
        "warmup": ordinal < warmup,
        "t_ns": _joined([one.t_ns for one in times]),
        "wait_ns": _joined([one.wait_ns for one in times]),
        "op_ns": pd.array(
            np.concatenate([*(_op_ns(one) for one in times), np.empty(0)]), dtype="Int64"
        ),
    }


def _joined(lists: Sequence[Sequence[int]]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return np.concatenate([*(np.array(one, dtype="int64") for one in lists), np.empty(0, "int64")])


def _op_ns(times: _Times) -> "np.ndarray[Any, np.dtype[np.float64]]":
    # Times of one operation are far below 2**53 ns, so floats hold them exactly.
    values: list[Any] = times.op_ns or [np.nan] * len(times.t_ns)
    return np.array(values, dtype="float64")
