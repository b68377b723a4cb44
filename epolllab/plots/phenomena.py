"""Charts of what phenomena and conformance checks observed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from pandas.api.types import is_bool_dtype

from epolllab.checks import check_text
from epolllab.frames.columns import check_frame
from epolllab.plots.canvas import Canvas, From, canvas, chart_function, legend_mark
from epolllab.plots.units import number, plural

__all__ = ["conformance", "masks", "numbers"]

MASK_BITS = ("IN", "OUT", "PRI", "RDHUP", "HUP", "ERR")
"""Columns of :func:`masks`: bits that must be requested, then those always reported."""


def _check_masks(name: str, value: Any) -> pd.DataFrame:
    frame = check_frame(name, value, "masks that were reported", "")
    if not {"asked", "unasked"} & set(frame.columns):
        raise ValueError(f"{name} must have a column asked or unasked, with masks as text")
    return frame


def _check_passed(name: str, value: Any) -> pd.DataFrame:
    source = ":func:`epolllab.experiments.check_conformance`, a column ``passed`` for each server"
    frame = check_frame(name, value, source, "")
    if len(frame) and not all(map(is_bool_dtype, frame.dtypes)):
        raise TypeError(f"{name} must have columns of True and False: passed, for each server")
    return frame


_check_numbers = From("numbers that were counted, a row for each", "observed expected?")


@chart_function(frame=_check_masks)
def masks(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw which bits of the mask are reported in each situation, requested or not.

    There is a row for each situation and a column for each bit: a dot where it was
    reported with every bit in the interest mask, and a ring where it was reported with
    interest 0.

    Parameters
    ----------
    frame : pandas.DataFrame
        A row for each situation, named by the index; columns ``asked`` (every bit in the
        interest mask) and ``unasked`` (interest 0), or one of them, with the masks reported
        as text: ``"IN|RDHUP"``, ``"nothing"``.
    """
    height = 1.1 + 0.33 * max(3, len(frame))
    with canvas(ax, (6.4, height), note, "Mask bits reported in each situation") as (ax, chart):
        chart.label_columns(MASK_BITS, "bit of the mask")
        if frame.empty:
            return chart.draw_empty("no situations")
        ring = {"s": 150, "facecolor": "none", "edgecolor": chart.theme.alarm, "linewidth": 1.6}
        looks = {
            "asked": {"label": "reported when requested", "s": 55, "color": chart.theme.main},
            "unasked": {"label": "reported with interest 0", **ring},
        }
        reported = {
            column: [[bit in str(mask).split("|") for bit in MASK_BITS] for mask in frame[column]]
            for column in looks
            if column in frame
        }
        _draw_matrix(chart, frame, [(cells, looks[name]) for name, cells in reported.items()])
        column = "asked" if "asked" in frame else "unasked"
        rows = ", ".join(f"{name} {mask}" for name, mask in frame[column].items())
        chart.describe(f"{plural(len(frame), 'situation')}, {looks[column]['label']}: {rows}")
    return ax


def _draw_matrix(chart: Canvas, frame: pd.DataFrame, marks: Sequence[tuple[Any, Any]]) -> None:
    """Name the rows by the frame's index, shade every second one, and mark the true cells."""
    chart.label_rows([str(name) for name in frame.index])
    for row in range(0, len(frame), 2):
        chart.ax.axhspan(row - 0.5, row + 0.5, color=chart.theme.faint, alpha=0.45, lw=0, zorder=0)
    handles = []
    for cells, look in marks:
        rows, columns = np.nonzero(cells)
        handles.append(chart.ax.scatter(columns, rows, **look))
    chart.legend(handles)


@chart_function(frame=_check_passed)
def conformance(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw which checks each server passes: a dot for a pass, a cross for a failure.

    There is a column for each server, with the number of checks that it passes at its
    end, and a row for each check.

    Parameters
    ----------
    frame : pandas.DataFrame
        A row for each check, named by the index, and a bool column for each server:
        the ``passed`` of :func:`epolllab.experiments.comparisons.conformance.check_conformance`.
    """
    height = 1.5 + 0.33 * max(3, len(frame))
    with canvas(ax, (7.2, height), note, "Checks that each server passes") as (ax, chart):
        chart.label_columns([str(name) for name in frame.columns], "server")
        if frame.empty:
            return chart.draw_empty("no checks")
        passed = frame.to_numpy(dtype=bool)
        dot = {"label": "passes", "s": 55, "color": chart.theme.main}
        cross = {"label": "fails", "s": 55, "color": chart.theme.alarm, "marker": "X"}
        _draw_matrix(chart, frame, [(passed, dot), (~passed, cross)])
        ax.set_ylim(bottom=len(frame) + 0.5)
        for column, n in enumerate(passed.sum(axis=0)):
            ax.text(column, len(frame), f"{n} of {len(frame)}", ha="center", va="center")
        sums = zip(frame.columns, passed.sum(axis=0), strict=True)
        chart.describe(", ".join(f"{name} passes {n} of {len(frame)}" for name, n in sums))
    return ax


@chart_function(frame=_check_numbers, what=check_text)
def numbers(
    frame: pd.DataFrame, *, what: str = "", ax: Axes | None = None, note: str | None = None
) -> Axes:
    """Draw numbers that were counted or timed: a bar for each, a ring at its expected value.

    Parameters
    ----------
    frame : pandas.DataFrame
        ``observed`` and ``expected`` (float64, NaN for no exact expectation), a row for
        each number, named by the index.
    what : str
        The label of the axis.
    """
    with canvas(ax, (6.4, 1.4 + 0.4 * len(frame)), note, "Observed and expected") as (ax, chart):
        ax.set_xlabel(what)
        if frame.empty:
            return chart.draw_empty("nothing was counted")
        main, ink = chart.theme.main, chart.theme.ink
        lanes = range(len(frame))
        ax.barh(lanes, frame["observed"], height=0.6, color=main, gid="observed")
        ax.scatter(frame["expected"], lanes, s=60, facecolor="none", edgecolor=ink, zorder=3)
        for lane, value in zip(lanes, frame["observed"], strict=True):
            chart.annotate(number(value), (value, lane), (9, 0), fontsize=8)
        chart.label_rows(list(frame.index), least=3)
        ax.margins(x=0.12)
        ax.set_xlim(left=0)
        all_whole = bool((frame["observed"] % 1 == 0).all())
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=all_whole))
        ax.xaxis.set_major_formatter(number)
        if frame["expected"].notna().any():
            ring = legend_mark(ink, "expected", marker="o", mfc="none")
            chart.legend([Patch(color=main, label="observed"), ring])
    return ax
