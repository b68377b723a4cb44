"""Time one wait at a time: the measurement behind sweep, wait_kinds and crossover."""

import ctypes
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from epolllab.analysis.result import Result
from epolllab.experiments.rounds import Effort, ExperimentRun, Layout
from epolllab.experiments.scaling.fds import KINDS, Targets, prepare
from epolllab.experiments.scaling.variants import (
    APIS,
    POLLERS,
    DescriptorTooLarge,
    Variant,
    Waiter,
    make_waiter,
)
from epolllab.kernel.pollers import FD_SETSIZE

__all__ = ["LAYOUT", "Cell", "WaitPlan", "call_floors", "measure", "run_plan"]


DEFAULT_MAX_EVENTS = 1_023  # CPython's default for epoll.poll: FD_SETSIZE - 1

LAYOUT = Layout(
    {
        "round": "int32", "poller": pd.CategoricalDtype(list(POLLERS)),
        "api": pd.CategoricalDtype(list(APIS)), "kind": pd.CategoricalDtype(list(KINDS)),
        "n_fds": "int32", "active": "int32", "op": "int32", "warmup": "bool", "t_ns": "int64",
        "wait_ns": "int64", "op_ns": "Int64",
    },
    ("poller", "api", "kind", "n_fds", "active"),
    ("wait_ns", "op_ns"),
    "n_fds",
)  # fmt: skip


class Cell(NamedTuple):
    """A variant at one size."""

    variant: Variant
    kind: str
    n_fds: int
    active: int


@dataclass(frozen=True)
class WaitPlan:
    """What to measure."""

    name: str
    variants: Sequence[Variant]
    n_fds: Sequence[int]
    active: Callable[[int], Iterable[int]]
    """From a number of watched descriptors to the numbers of ready ones."""
    kinds: Sequence[str]
    effort: Effort
    """``ops`` and ``warmup`` per cell and round, and ``rounds``."""
    fresh: bool = False
    """Whether each operation creates a poller and times its first wait."""


def run_plan(plan: WaitPlan) -> Result:
    """Measure all cells of a plan; the result has a row per operation.

    Raises RuntimeError if a wait finds another number of ready descriptors than was made
    ready, since other code of this process then disturbs the measurement.
    """
    run = ExperimentRun(plan.name, LAYOUT, plan.effort)
    with prepare(run, plan.kinds, plan.n_fds) as (targets, sizes):
        cells = _cells(plan, sizes, targets, run)
        run.measure(cells, lambda cell, round_: [_block(cell, round_, plan, targets[cell.kind])])
        floors = call_floors()
    return run.result(
        pollers=list(dict.fromkeys(variant.poller for variant in plan.variants)),
        api=list(dict.fromkeys(variant.api for variant in plan.variants)),
        n_fds=list(plan.n_fds),
        kinds=list(plan.kinds),
        fresh=plan.fresh,
        **floors,
    )


def _cells(
    plan: WaitPlan, sizes: Sequence[int], targets: Mapping[str, Targets], run: ExperimentRun
) -> list[Cell]:
    """All possible combinations, with the last possible size of a variant that ends early."""
    cells = []
    for kind in plan.kinds:
        for variant in plan.variants:
            last = _last_size(variant, targets[kind].fds, sizes, run)
            own = [n for n in sizes if n <= last]
            if last < sizes[-1] and last > 1.1 * max(own, default=0):
                own.append(last)
            cells += [Cell(variant, kind, n, k) for n in own for k in plan.active(n) if k <= n]
    return cells


def _last_size(
    variant: Variant, fds: Sequence[int], sizes: Sequence[int], run: ExperimentRun
) -> int:
    # By descriptor number, not count: a number that became free meanwhile is out of order.
    last = next((i for i, fd in enumerate(fds[: sizes[-1]]) if fd >= FD_SETSIZE), sizes[-1])
    if variant != Variant("select", "python") or last == sizes[-1]:
        return sizes[-1]
    run.note(f"Python's select ends at N = {last:,}: it refuses descriptors from {FD_SETSIZE:,} on")
    return last


# --- one cell ---------------------------------------------------------------------------


class Times(NamedTuple):
    """Start, wait and whole operation of each operation, in ns of the monotonic clock."""

    t_ns: list[int]
    wait_ns: list[int]
    op_ns: list[int]  # empty by raw


def _block(cell: Cell, round_: int, plan: WaitPlan, targets: Targets) -> dict[str, Any]:
    warmup = plan.effort["warmup"]
    n_ops = warmup + plan.effort["ops"]
    chance = random.Random(f"{plan.effort.seed} {round_} {cell}")
    chosen = [chance.sample(range(cell.n_fds), cell.active) for _ in range(n_ops)]
    try:
        times = (_measure_fresh if plan.fresh else measure)(cell, targets, chosen)
    except DescriptorTooLarge as error:  # another thread opened a descriptor meanwhile
        raise RuntimeError(str(error)) from error
    return {
        "round": round_,
        **cell.variant._asdict(),
        "kind": cell.kind,
        "n_fds": cell.n_fds,
        "active": cell.active,
        "op": list(range(n_ops)),
        "warmup": [i < warmup for i in range(n_ops)],
        "t_ns": times.t_ns,
        "wait_ns": times.wait_ns,
        "op_ns": times.op_ns or None,
    }


def _measure_fresh(cell: Cell, targets: Targets, chosen: Sequence[Sequence[int]]) -> Times:
    """Measure each operation with a new poller."""
    parts = [measure(cell, targets, [places]) for places in chosen]
    return Times(*([ns for one in part for ns in one] for part in zip(*parts, strict=True)))


def measure(cell: Cell, targets: Targets, chosen: Sequence[Sequence[int]]) -> Times:
    """Time an operation per element of `chosen`: indexes of the targets to make ready."""
    max_events = max(DEFAULT_MAX_EVENTS, cell.active)
    with make_waiter(cell.variant, targets.fds[: cell.n_fds], max_events) as waiter:
        timed = _python_operations if cell.variant.api == "python" else _raw_operations
        return timed(cell, targets, waiter, chosen)


def _python_operations(
    cell: Cell, targets: Targets, waiter: Waiter, chosen: Sequence[Sequence[int]]
) -> Times:
    clock, write, read = time.monotonic_ns, os.write, os.read
    wait, found, rearm = waiter.wait, waiter.found, waiter.rearm
    writers, payload, size = targets.writers, targets.payload, targets.size
    times = Times([], [], [])
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
            raise _WrongCount(cell, len(ready))
        times.t_ns.append(start)
        times.wait_ns.append(end - start)
        times.op_ns.append(done - start)
    return times


def _raw_operations(
    cell: Cell, targets: Targets, waiter: Waiter, chosen: Sequence[Sequence[int]]
) -> Times:
    clock, write, read = time.monotonic_ns, os.write, os.read
    wait, rearm, prepare_wait = waiter.wait, waiter.rearm, waiter.prepare
    fds, writers, payload, size = targets.fds, targets.writers, targets.payload, targets.size
    times = Times([], [], [])
    for places in chosen:
        for place in places:
            write(writers[place], payload)
        if prepare_wait is not None:
            prepare_wait()
        start = clock()
        count = wait()
        end = clock()
        for place in places:
            read(fds[place], size)
            if rearm is not None:
                rearm(fds[place])
        if count != len(places):
            raise _WrongCount(cell, count)
        times.t_ns.append(start)
        times.wait_ns.append(end - start)
    return times


class _WrongCount(RuntimeError):
    def __init__(self, cell: Cell, found: int) -> None:
        super().__init__(
            f"{cell.variant.poller} by {cell.variant.api} found {found} ready of "
            f"{cell.n_fds:,}, but {cell.active} were made ready: other code reads, writes or "
            "closes descriptors of this process; stop it and measure again"
        )


# --- the overhead in every time ---------------------------------------------------------


def call_floors(n: int = 2_000) -> dict[str, float]:
    """Measure what is part of every time, as medians in ns.

    ``clock_floor_ns`` is two readings of the clock in a row. ``raw_floor_ns`` has a foreign
    call without a system call between them: the C library's ``abs`` with the arguments of
    a raw wait, of which it reads only the first.
    """
    clock = time.monotonic_ns
    clock_only = []
    for _ in range(n):
        start = clock()
        end = clock()
        clock_only.append(end - start)
    call = partial(
        ctypes.CDLL(None, use_errno=True).abs,
        ctypes.c_int(1),
        ctypes.create_string_buffer(64),
        ctypes.c_int(DEFAULT_MAX_EVENTS),
        ctypes.c_int(0),
    )
    with_call = []
    for _ in range(n):
        start = clock()
        call()
        end = clock()
        with_call.append(end - start)
    floors = {"clock_floor_ns": clock_only, "raw_floor_ns": with_call}
    return {name: float(np.median(times)) for name, times in floors.items()}
