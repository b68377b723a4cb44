"""The chart of the catalogue's verdicts on several kernels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from epolllab.analysis.agreement import NOT_RUN, SOURCE, UNSTEADY, verdict_table
from epolllab.analysis.hosts import ENVIRONMENT
from epolllab.checks import check_bool, check_sequence, check_text
from epolllab.plots.canvas import Canvas, From, canvas, chart_function
from epolllab.plots.results import note_of

__all__ = ["agreement"]

_OTHERS = "all others"
_LINE = 18  # characters of an environment's name on one line


def _check_by(name: str, value: Any) -> tuple[str, ...]:
    return check_sequence(name, value, check_text)


@chart_function(frame=From(SOURCE, "name* family* verdict*"), by=_check_by, full=check_bool)
def agreement(
    frame: pd.DataFrame,
    *,
    by: Sequence[str] = ENVIRONMENT,
    full: bool = False,
    ax: Axes | None = None,
    note: str | None = None,
) -> Axes:
    """Draw the verdict of each phenomenon in each environment: phenomena against kernels.

    There is a column for each environment, with the number of phenomena that hold in the last
    row. Phenomena that hold in all environments are counted in one row for each family.

    Parameters
    ----------
    by : sequence of str
        Columns that identify an environment, as in :func:`epolllab.analysis.agreement`.
    full : bool
        A row for every phenomenon; the whole catalogue then makes a chart of half a metre.
    """
    table = verdict_table(frame, by)
    rows = _rows(table, full)
    size = (max(5.6, 3.6 + 1.1 * table.shape[1]), 1.9 + 0.24 * max(3, len(rows)))
    title = "Verdicts by environment"
    with canvas(ax, size, note_of(frame, note, circumstances=False), title) as (ax, chart):
        chart.label_columns([_wrapped(name) for name in table.columns], "environment")
        if table.empty:
            return chart.draw_empty("no phenomena")
        chart.label_rows([*rows["label"], "number that hold"])
        for place in range(0, len(rows), 2):
            color = chart.theme.faint
            ax.axhspan(place - 0.5, place + 0.5, color=color, alpha=0.45, lw=0, zorder=0)
        _draw_verdicts(chart, rows.drop(columns=["label", "n"]), rows["n"].tolist())
        for column, verdicts in enumerate(table.to_numpy().T):
            words = f"{(verdicts == 'holds').sum()} of {len(table)}"
            ax.text(column, len(rows), words, ha="center", va="center", fontsize=8)
        sums = zip(table.columns, (table == "holds").sum(), strict=True)
        chart.describe("; ".join(f"{name}: {n} of {len(table)} hold" for name, n in sums))
    return ax


def _rows(table: pd.DataFrame, full: bool) -> pd.DataFrame:
    """The rows to draw: their label, how many phenomena each stands for, and the verdicts."""
    everywhere = (table == "holds").all(axis=1) & (not full)
    shown = table[~everywhere]
    made = pd.DataFrame(shown.to_numpy(), columns=table.columns)
    made = made.assign(label=[str(name) for *_, name in shown.index], n=0)
    if not everywhere.any():
        return made
    counts = table[everywhere].groupby(level="family", sort=False).size()
    others = pd.DataFrame("holds", index=range(len(counts)), columns=table.columns)
    with_others = set(shown.index.get_level_values("family"))
    labels = [f"{family}: {_OTHERS if family in with_others else 'all'}" for family in counts.index]
    return pd.concat([made, others.assign(label=labels, n=counts.to_numpy())], ignore_index=True)


def _wrapped(name: str) -> str:
    """An environment's name, a line for each of its parts."""
    return "\n".join(part[: 2 * _LINE] for part in name.split(", "))


def _draw_verdicts(chart: Canvas, verdicts: pd.DataFrame, counts: Sequence[int]) -> None:
    """A mark for each verdict; the number of phenomena stands beside that of a whole family."""
    theme = chart.theme
    looks: dict[str, Any] = {
        "holds": {"s": 42, "color": theme.main},
        "differs": {"s": 48, "color": theme.alarm, "marker": "X"},
        UNSTEADY: {"s": 48, "color": theme.series[3], "marker": "D"},
        "raised": {"s": 48, "color": theme.ink, "marker": "^"},
        "not possible here": {"s": 42, "facecolor": "none", "edgecolor": theme.muted},
        NOT_RUN: {"s": 42, "color": theme.muted, "marker": "_"},
    }
    cells = verdicts.to_numpy()
    handles = []
    for verdict, look in looks.items():
        rows, columns = np.nonzero(cells == verdict)
        if len(rows):
            mark = chart.ax.scatter(columns, rows, label=verdict, gid=verdict, **look)
            handles.append(mark)
    for row, n in enumerate(counts):
        for column in range(cells.shape[1]) if n else ():
            chart.annotate(str(n), (column, row), (8, 0))
    chart.legend(handles)
