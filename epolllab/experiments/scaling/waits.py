"""Time one wait at a time: the measurement behind sweep, wait_kinds and crossover."""

import ctypes
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from epolllab.analysis.result import Result
from epolllab.experiments.rounds import Effort, ExperimentRun, Layout
from epolllab.experiments.scaling.fds import KINDS, Targets, prepare
from epolllab.experiments.scaling.variants import ALL_POLLERS, APIS, Variant, make_waiter
from epolllab.kernel import NotPossible
from epolllab.kernel.pollers import FD_SETSIZE
from epolllab.kernel.uring import require_uring

__all__ = ["LAYOUT", "Cell", "call_floors", "measure", "run_waits"]

DEFAULT_MAX_EVENTS = 1_023  # CPython's default for epoll.poll: FD_SETSIZE - 1

LAYOUT = Layout(
    {
        "round": "int32", "poller": pd.CategoricalDtype(list(ALL_POLLERS)),
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


def run_waits(
    name: str,
    sizes: Sequence[int],
    compared: Sequence[Variant],
    kinds: Sequence[str],
    active: Callable[[int], Iterable[int]],
    effort: Effort,
    fresh: bool = False,
) -> Result:
    """Measure every variant at every size and kind; the result has a row per operation.

    `active` returns the numbers of ready descriptors for a number of watched ones. With
    `fresh` each operation creates a poller and times its first wait. RuntimeError if a wait
    finds another number of ready descriptors than was made ready, since other code of this
    process then disturbs the measurement.
    """
    run = ExperimentRun(name, LAYOUT, effort)
    compared = _possible(compared, run)
    with prepare(run, kinds, sizes) as (targets, fitting):
        cells = [
            Cell(variant, kind, n, n_active)
            for kind in kinds
            for variant in compared
            for n in _sizes_of(variant, targets[kind].fds, fitting, run)
            for n_active in active(n)
            if n_active <= n
        ]
        run.measure(cells, partial(_rows, targets, effort, fresh))
        floors = call_floors()
    return run.result(
        pollers=list(dict.fromkeys(variant.poller for variant in compared)),
        api=list(dict.fromkeys(variant.api for variant in compared)),
        n_fds=list(sizes),
        kinds=list(kinds),
        fresh=fresh,
        **floors,
    )


def _possible(compared: Sequence[Variant], run: ExperimentRun) -> list[Variant]:
    """Leave io_uring out, with a note, where it is not possible and others are left."""
    others = [variant for variant in compared if variant.poller != "io_uring"]
    try:
        if len(others) < len(compared):
            require_uring()
    except NotPossible as error:
        if len({variant.poller for variant in others}) < (2 if run.name == "crossover" else 1):
            raise
        run.note(f"io_uring is left out: {error.strerror}")
        return others
    return list(compared)


def _sizes_of(
    variant: Variant, fds: Sequence[int], sizes: Sequence[int], run: ExperimentRun
) -> list[int]:
    """The sizes that a variant can watch, with the last possible one if it ends early."""
    # By descriptor number, not count: a number that became free meanwhile is out of order.
    last = next((i for i, fd in enumerate(fds[: sizes[-1]]) if fd >= FD_SETSIZE), None)
    if variant != Variant("select", "python") or last is None:
        return list(sizes)
    run.note(f"Python's select ends at N = {last:,}: it refuses descriptors from {FD_SETSIZE:,} on")
    kept = [n for n in sizes if n <= last]
    return [*kept, last] if last > 1.1 * max(kept, default=0) else kept


def _rows(
    targets: Mapping[str, Targets], effort: Effort, fresh: bool, cell: Cell, round_: int
) -> list[dict[str, Any]]:
    warmup = effort["warmup"]
    chance = random.Random(f"{effort.seed} {round_} {cell}")
    chosen = [chance.sample(range(cell.n_fds), cell.active) for _ in range(warmup + effort["ops"])]
    measured: list[dict[str, Any]] = []
    for operations in [[places] for places in chosen] if fresh else [chosen]:
        measured += measure(cell, targets[cell.kind], operations)
    fixed = {
        "round": round_, **cell.variant._asdict(), "kind": cell.kind, "n_fds": cell.n_fds,
        "active": cell.active,
    }  # fmt: skip
    return [{**fixed, "op": i, "warmup": i < warmup, **times} for i, times in enumerate(measured)]


def measure(
    cell: Cell, targets: Targets, chosen: Sequence[Sequence[int]]
) -> list[dict[str, int | None]]:
    """Time an operation per element of `chosen`: indexes of the targets to make ready."""
    clock, write, read = time.monotonic_ns, os.write, os.read
    fds, writers, payload, size = targets.fds, targets.writers, targets.payload, targets.size
    by_python = cell.variant.api == "python"
    expected: list[int] = []
    rows: list[dict[str, int | None]] = []
    max_events = max(DEFAULT_MAX_EVENTS, cell.active)
    with make_waiter(cell.variant, fds[: cell.n_fds], max_events, cell.active) as waiter:
        wait, rearm, prepare_wait = waiter.wait, waiter.rearm, waiter.prepare
        found = waiter.found if by_python else lambda _: expected
        to_number = waiter.to_number or int
        for places in chosen:
            expected = [fds[place] for place in places]
            for place in places:
                write(writers[place], payload)
            if prepare_wait is not None:
                prepare_wait()
            start = clock()
            returned = wait()
            end = clock()
            ready = found(returned)
            for fd in ready:
                read(fd, size)
                if rearm is not None:
                    rearm(fd)
            done = clock()
            n_ready = len(ready) if by_python else to_number(returned)
            if n_ready != cell.active:
                raise RuntimeError(
                    f"{cell.variant.poller} ({cell.variant.api}) found {n_ready} ready of "
                    f"{cell.n_fds:,}, but {cell.active} were made ready: other code reads, "
                    "writes or closes descriptors of this process; stop it and measure again"
                )
            op_ns = done - start if by_python else None
            rows.append({"t_ns": start, "wait_ns": end - start, "op_ns": op_ns})
    return rows


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
