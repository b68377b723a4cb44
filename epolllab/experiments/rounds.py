"""The sound method that all sweeps share.

One job: run cells (one arm at one size) round after round in random order, in a quiet
process, with room for descriptors, and keep what is complete when interrupted. It
does not know what a cell measures.

What it does against the usual faults of such comparisons:

- *Drift.* A machine that gets slower meanwhile would charge it to the arm measured
  last. So each round measures every cell once, in a fresh random order.
- *Luck.* One round has one layout of memory and one set of neighbours. So there are
  several, and intervals are found by resampling rounds (see ``statistics``).
- *Garbage.* The collector is run before each round and off within it.
- *Migration.* The thread is pinned to one processor where the system lets it.
- *The clock.* One reading of it is timed and stated with each result; it is not
  subtracted, since a time then might come out negative.
"""

import errno
import gc
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from tqdm.auto import tqdm

from epolllab import kernel
from epolllab.checks import check_int
from epolllab.recording import environment

__all__ = ["Logbook", "numbers", "room", "run_rounds", "still"]


Cell = TypeVar("Cell")
Measured = TypeVar("Measured")

SPARE_DESCRIPTORS = 64
"""Left free for the program around an experiment, and for the pollers measured."""


@dataclass
class Logbook:
    """What has to be said about a run, noted while it goes on.

    Attributes
    ----------
    notes : list of str
        Whole sentences without a full stop, each once, in order.
    interrupted : bool
        Whether the run was stopped before its end.
    """

    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    facts: dict[str, Any] = field(default_factory=environment.collect)
    """Circumstances at the start, before the run itself is a load and raises limits."""

    def note(self, sentence: str) -> None:
        """Note a sentence, if it is new."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def circumstances(self, **parameters: Any) -> dict[str, Any]:
        """Circumstances of the run, which ends now, and what it was asked to do."""
        lasted_ns = time.monotonic_ns() - int(self.facts["started_ns"])
        return {
            **self.facts,
            **parameters,
            "notes": list(self.notes),
            "interrupted": self.interrupted,
            "seconds": round(lasted_ns / 1e9, 3),
        }


def numbers(name: str, values: int | Sequence[int], least: int = 1) -> tuple[int, ...]:
    """Check one whole number or a rising sequence of them.

    Parameters
    ----------
    name : str
        The parameter, for the message.
    values : int or sequence of int
        What was given.
    least : int
        The least that makes sense.

    Raises
    ------
    ValueError
        Nothing was given, a number is too small, or they do not rise.
    TypeError
        One of them is no whole number.
    """
    given = (values,) if isinstance(values, int) else tuple(values)
    if not given:
        raise ValueError(f"{name} is empty; give at least one number, such as {name}=(10, 100)")
    for value in given:
        check_int(name, value, least)
    if any(later <= earlier for earlier, later in pairwise(given)):
        raise ValueError(
            f"{name} rises, each number once; {given} does not. "
            f"Did you mean {tuple(sorted(set(given)))}?"
        )
    return given


# --- room for descriptors ---------------------------------------------------------------


@contextmanager
def room(n_descriptors: int) -> Iterator[int]:
    """Raise the soft limit as far as `n_descriptors` more need it, and put it back.

    Parameters
    ----------
    n_descriptors : int
        Wanted beside those that are open.

    Yields
    ------
    int
        How many of them the limit allows: fewer where the hard limit is in the way.
    """
    taken = kernel.descriptors_open() + SPARE_DESCRIPTORS
    wanted = min(n_descriptors + taken, kernel.descriptor_limits().hard)
    with kernel.raise_descriptor_limit(max(wanted, 1)) as soft:
        yield max(min(n_descriptors, soft - taken), 0)


OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
"""This process has no more, and the whole system has no more (another program has them)."""


# --- a quiet process --------------------------------------------------------------------


@contextmanager
def still(*, pin: bool, book: Logbook) -> Iterator[int | None]:
    """Turn the garbage collector off and pin the calling thread; put both back.

    Yields
    ------
    int or None
        The processor pinned to, the last of those allowed: the first serves most
        interrupts. None where it is not wanted or not possible, which is noted.
    """
    with ExitStack() as undo:
        if gc.isenabled():
            undo.callback(gc.enable)
            gc.disable()
        yield _pin(undo, book) if pin else None


def _pin(undo: ExitStack, book: Logbook) -> int | None:
    try:
        before = os.sched_getaffinity(0)  # of the calling thread, despite its name
        cpu = max(before)
        os.sched_setaffinity(0, {cpu})
    except (OSError, AttributeError) as error:
        book.note(f"not pinned to one processor, which the system refuses ({error})")
        return None
    undo.callback(os.sched_setaffinity, 0, before)
    return cpu


# --- rounds -----------------------------------------------------------------------------


def run_rounds(
    cells: Sequence[Cell],
    measure: Callable[[Cell, int], Measured],
    *,
    rounds: int,
    seed: int,
    title: str,
    progress: bool,
    book: Logbook,
    name: Callable[[Cell], str] | None = None,
) -> list[Measured]:
    """Measure every cell once a round, each round in a new random order.

    Parameters
    ----------
    cells : sequence
        One arm at one size each.
    measure : callable
        ``measure(cell, round)`` makes the measurement and clears up after itself,
        also when it is interrupted.
    rounds : int
        How many times over.
    seed : int
        Of the order.
    title : str
        Before the progress bar.
    progress : bool
        Show a bar with the time left.
    book : Logbook
        An interrupt is noted here.
    name : callable, optional
        How a cell is called in a note. With it an exception in a cell is noted and the
        rest goes on, as it should where each cell has servers and clients of its own
        that may fail alone; without it the exception is raised.

    Returns
    -------
    list
        What `measure` returned, of the cells that were complete when the run ended or
        was interrupted. An interrupt (Ctrl-C, the notebook's stop button) ends the
        run early and is not raised: what was measured has its worth.
    """
    shuffled = random.Random(seed)
    done: list[Measured] = []
    failures: dict[str, list[int]] = {}
    # Even a bar that shows nothing would start tqdm's own thread.
    bar = tqdm(total=len(cells) * rounds, desc=title, leave=False) if progress else None
    try:
        for round_ in range(rounds):
            gc.collect()  # once a round: beside pandas it takes tens of milliseconds
            for cell in shuffled.sample(cells, len(cells)):
                try:
                    done.append(measure(cell, round_))
                except Exception as error:
                    if name is None:
                        raise
                    words = next(iter(str(error).splitlines()), "")
                    said = f"{name(cell)} failed with {type(error).__name__}: {words}"
                    failures.setdefault(said, []).append(round_)
                if bar is not None:
                    bar.update()
    except KeyboardInterrupt:
        book.interrupted = True
        book.note(
            f"interrupted after {len(done)} of {len(cells) * rounds} cells; "
            "rounds that are not complete have fewer"
        )
    finally:
        if bar is not None:
            bar.close()
    for said, where in failures.items():
        book.note(f"{said} (in {len(where)} of {rounds} rounds, which are left out)")
    return done
