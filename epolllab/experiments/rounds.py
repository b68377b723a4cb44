"""Measuring in rounds: the method that sweeps and comparisons of servers share.

It avoids the usual faults of such comparisons:

- *Drift.* A machine that slows down during a run would slow the variant measured last. So
  each round measures every cell (a variant at a size) once, in a new random order.
- *Chance.* All operations of a round share a memory layout and the other load on the
  machine. So there are several rounds, which intervals resample (``analysis.statistics``).
- *Garbage collection.* It runs before each round and is off during it.
- *Migration.* The thread is pinned to one processor if the system permits it.
- *The clock.* The cost of reading it is measured and stored with each result. It is not
  subtracted, since a time could become negative.
"""

import gc
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
from tqdm.auto import tqdm

from epolllab.analysis.result import Result
from epolllab.checks import check_bool, check_int
from epolllab.kernel import NotPossible
from epolllab.recording import environment

__all__ = ["MOST_OPS", "Effort", "ExperimentRun", "Layout", "choose_effort"]

MOST_OPS = 1_000_000
"""Upper bound of the counts of operations, requests and rounds."""

Cell = TypeVar("Cell")

Row = Mapping[str, Any]
"""A measurement: a value for each column."""


NO_WARMUP: Any = object()


@dataclass(frozen=True)
class Effort:
    """How much to measure: the parameters that all experiments with rounds share."""

    counts: Mapping[str, int]
    """``rounds``, ``ops``, ``warmup``, or what the experiment calls them."""
    seed: int = 0
    pin: bool = False
    progress: bool = False

    def __getitem__(self, name: str) -> int:
        return self.counts[name]


def choose_effort(
    quick: bool,
    *,
    warmup: Any = NO_WARMUP,
    seed: int,
    pin: bool = False,
    progress: bool,
    **counts: tuple[int | None, int, int],
) -> Effort:
    """Check the shared parameters, which are those of ``sweep()``, and fill in defaults.

    `counts` are by parameter: the value given or None, the default, and that with `quick`.
    """
    for name, switch in (("quick", quick), ("pin", pin), ("progress", progress)):
        check_bool(name, switch)
    chosen = {
        name: check_int(name, (short if quick else usual) if given is None else given, 1, MOST_OPS)
        for name, (given, usual, short) in counts.items()
    }
    if warmup is not NO_WARMUP:
        chosen["warmup"] = check_int("warmup", warmup, 0, MOST_OPS)
    return Effort(chosen, check_int("seed", seed), pin, progress)


@dataclass(frozen=True)
class Layout:
    """The columns of an experiment's result."""

    columns: Mapping[str, Any]
    """Name to dtype, in order."""
    by: tuple[str, ...]
    """Columns that identify a variant."""
    values: tuple[str, ...]
    """Measured columns."""
    x: str | None = None
    """Column to fit a line along."""

    def frame(self, rows: Sequence[Row]) -> pd.DataFrame:
        """The rows as a frame; it has all columns even without rows."""
        return pd.DataFrame(rows, columns=pd.Index(self.columns)).astype(dict(self.columns))


class ExperimentRun:
    """One run of an experiment: it measures cells in rounds and collects the result.

    ``notes`` are sentences, without a full stop, about what was reduced, refused or
    interrupted.
    """

    def __init__(self, name: str, layout: Layout, effort: Effort) -> None:
        self.name = name
        self.layout = layout
        self.effort = effort
        self.notes: list[str] = []
        self.interrupted = False
        self._rows: list[Row] = []
        # At the start, before the run itself adds load and raises limits.
        self._circumstances = environment.collect()

    def note(self, sentence: str) -> None:
        """Add a note unless it is there already."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @contextmanager
    def quiet_process(self) -> Iterator[None]:
        """Turn garbage collection off and pin the calling thread, until the block ends."""
        with ExitStack() as undo:
            if gc.isenabled():
                undo.callback(gc.enable)
                gc.disable()
            self._circumstances["pinned_cpu"] = self._pin(undo) if self.effort.pin else None
            yield

    def _pin(self, undo: ExitStack) -> int | None:
        """Pin to the last permitted processor, since the first serves most interrupts."""
        try:
            before = os.sched_getaffinity(0)  # of the calling thread, despite its name
            cpu = max(before)
            os.sched_setaffinity(0, {cpu})
        except (OSError, AttributeError) as error:
            self.note(f"not pinned to one processor: the system refuses it ({error})")
            return None
        undo.callback(os.sched_setaffinity, 0, before)
        return cpu

    def measure(
        self,
        cells: Sequence[Cell],
        measure: Callable[[Cell, int], Sequence[Row]],
        *,
        rounds: int | None = None,
        label: Callable[[Cell], str] | None = None,
    ) -> None:
        """Measure every cell once per round, each round in a new random order.

        A cell is a variant at a size; ``measure(cell, round)`` returns its rows and cleans
        up after itself, also when it is interrupted. An interrupt (Ctrl-C, the notebook's
        stop button) ends the run early and is not raised; cells that are complete are kept.

        `rounds` are the effort's by default. With `label`, which names a cell, an exception
        in a cell becomes a note and the rest goes on, for cells with their own servers and
        clients; without it the exception is raised.
        """
        rounds = self.effort["rounds"] if rounds is None else rounds
        shuffled = random.Random(self.effort.seed)
        failures: dict[str, int] = {}
        n_done, n_cells = 0, len(cells) * rounds
        # tqdm starts a thread even for a bar that shows nothing.
        bar = tqdm(total=n_cells, desc=self.name, leave=False) if self.effort.progress else None
        try:
            for round_ in range(rounds):
                gc.collect()  # once per round: with pandas loaded it takes tens of milliseconds
                for cell in shuffled.sample(cells, len(cells)):
                    try:
                        self._rows += measure(cell, round_)
                        n_done += 1
                    except Exception as error:
                        if label is None:
                            raise
                        message = next(iter(str(error).splitlines()), "")
                        note = f"{label(cell)} failed with {type(error).__name__}: {message}"
                        failures[note] = failures.get(note, 0) + 1
                    if bar is not None:
                        bar.update()
        except KeyboardInterrupt:
            self.interrupted = True
            self.note(
                f"interrupted after {n_done} of {n_cells} cells; incomplete rounds have fewer"
            )
        finally:
            if bar is not None:
                bar.close()
        for note, n in failures.items():
            self.note(f"{note} (in {n} of {rounds} rounds, which are left out)")

    def result(self, **parameters: Any) -> Result:
        """The measured rows with the circumstances of the run, which ends now.

        NotPossible if there are none because every cell was refused or failed.
        """
        if self.notes and not self._rows and not self.interrupted:
            raise NotPossible(f"nothing could be measured: {'; '.join(self.notes)}")
        self._circumstances |= environment.at_end()
        if throttled := environment.throttled(self._circumstances):
            self.note(f"{throttled}, which the measurements include")
        lasted_ns = time.monotonic_ns() - int(self._circumstances["started_ns"])
        circumstances = {
            **self._circumstances,
            "experiment": self.name,
            **parameters,
            **self.effort.counts,
            "seed": self.effort.seed,
            "notes": list(self.notes),
            "interrupted": self.interrupted,
            "seconds": round(lasted_ns / 1e9, 3),
        }
        layout = self.layout
        frame = layout.frame(self._rows)
        return Result(self.name, frame, circumstances, layout.by, layout.values, layout.x)
