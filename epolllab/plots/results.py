"""What charts of a :class:`~epolllab.analysis.result.Result` share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from epolllab.analysis.result import Result, frame_of
from epolllab.analysis.statistics import without_warmup
from epolllab.plots.canvas import Canvas

__all__ = [
    "Data", "draw_intervals", "in_order", "mark_end", "measured", "note_of",
    "positive",
]  # fmt: skip

Data = Result | pd.DataFrame


def measured(data: Data) -> pd.DataFrame:
    """The rows that count: without warm-up."""
    return without_warmup(frame_of(data))


def positive(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows whose value has a place on a logarithmic axis."""
    numbers = frame[column].to_numpy(dtype=float, na_value=np.nan)
    kept: pd.DataFrame = frame[np.isfinite(numbers) & (numbers > 0)]
    return kept


def note_of(
    data: Data, note: str | None, *, circumstances: bool = True, api: str | None = None
) -> str | None:
    """The note or the result's circumstances, and the result's own notes.

    Notes about Python's functions are left out of a chart of the raw system call.
    """
    attrs = frame_of(data).attrs
    own = attrs.get("circumstances", "") if circumstances else ""
    notes = [
        words for words in attrs.get("notes", ()) if api != "raw" or not words.startswith("Python")
    ]
    return ". ".join(filter(None, [note or own, *notes])) or None


def in_order(names: "pd.Series[Any]") -> list[str]:
    """The names that occur, in the order of their categories."""
    return [str(name) for name in pd.Categorical(names).remove_unused_categories().categories]


def mark_end(chart: Canvas, x: float, y: float, color: str, words: str = "ends here") -> None:
    """Mark a line that ends before the others."""
    chart.ax.plot([x], [y], "x", color=color, ms=9, mew=2, gid="end of line")
    if words:
        chart.annotate(words, (x, y), (-7, 5), ha="right", va="baseline")


def draw_intervals(
    chart: Canvas, y: Sequence[float], intervals: Any, words: Sequence[str], **look: Any
) -> list[Any]:
    """Draw middles with their horizontal intervals, and words beside; return the legend's handle.

    ``intervals`` has the arrays of middles, lower and upper ends.
    """
    middle, low, high = intervals
    chart.ax.hlines(y, low, high, color=look["color"], lw=1.4)
    for end, place, text in zip(np.fmax(middle, high), y, words, strict=True):
        chart.annotate(text, (end, place), (8, 0))
    return list(chart.ax.plot(middle, y, ls="", ms=5.5, **look))
