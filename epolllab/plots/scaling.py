"""Charts of times over the number of descriptors: ours, those of several hosts, published ones."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from epolllab.analysis import statistics
from epolllab.analysis.hosts import RUN, run_labels
from epolllab.analysis.literature import studies
from epolllab.analysis.ratios import literature_ratios
from epolllab.analysis.result import frame_of
from epolllab.checks import check_choice
from epolllab.frames.columns import check_frame
from epolllab.plots.canvas import Canvas, From, canvas, chart_function, log_axis
from epolllab.plots.pollers import (
    CALLS,
    DASHES,
    MARKERS,
    NAMES,
    TIMES,
    N,
    check_api,
    check_value,
    marker,
)
from epolllab.plots.results import Data, mark_end, measured, note_of, positive
from epolllab.plots.units import round_duration, whole

__all__ = ["ratio", "scaling"]

_RUN_DASHES: tuple[Any, ...] = (
    "-", (0, (2.4, 1.1)), (0, (0.7, 0.9)), (0, (2.6, 0.8, 0.6, 0.8)),
    (0, (2.2, 0.7, 0.5, 0.7, 0.5, 0.7)), (0, (1.4, 0.6)),
)  # fmt: skip
"""A dash for each worker, short enough for the legend; more could not be told apart."""

_PUBLISHED = "study* arm* n_fds? op_us? source* circumstances*"


def _check_study(name: str, value: object) -> str:
    return check_choice(name, value, studies())


def _check_ratio_data(name: str, value: Any) -> Data:
    is_table = isinstance(value, pd.DataFrame) and "ratio" in value
    columns = "study* poller* n_fds theirs ours_low ours_high ratio" if is_table else TIMES
    source = ":func:`epolllab.experiments.sweep` or :func:`epolllab.analysis.literature_ratios`"
    data: Data = From(source, columns, is_result=True)(name, value)
    return data


@chart_function(
    data=From(
        ":func:`epolllab.experiments.sweep`", "poller* api* n_fds+ round wait_ns?", is_result=True
    ),
    literature=From(":func:`epolllab.analysis.literature`", _PUBLISHED),
    value=check_value,
    api=check_api,
)
def scaling(
    data: Data,
    *,
    ax: Axes | None = None,
    literature: pd.DataFrame | None = None,
    value: str = "wait_ns",
    api: str | None = None,
    note: str | None = None,
) -> Axes:
    """Draw the time of a wait over the number of descriptors, both on log axes.

    Points are medians, with a band for their 95 % interval. A line that ends before the
    others ends in a cross: the call refuses more descriptors. Data with several kinds of
    descriptor, or several numbers of active ones, are a ValueError: one line would mix them.
    Up to six workers of an executor have a line each, in dashes of their own, of one API.

    Parameters
    ----------
    literature : pandas.DataFrame, optional
        Rows of :func:`epolllab.analysis.literature.literature` with ``op_us``, drawn
        hollow and dotted; the note describes how each side was measured.
    value : {"wait_ns", "op_ns"}
        The wait alone, or the whole operation (by Python only).
    api : {"raw", "python"}, optional
        One of them; both by default, raw solid and Python dashed. With several workers,
        ``"raw"`` where it was measured.
    """
    frame = measured(data)
    frame = frame if api is None else frame[frame["api"] == api]
    frame = positive(check_frame("data", frame, "an experiment", f"{value}?"), value)
    frame = _by_run(positive(frame, "n_fds"))
    _require_one_curve(frame)
    words = note_of(data, note, api=_only_api(frame))
    if literature is not None:
        words = _methods(words, literature)
    what = "Time of one wait" if value == "wait_ns" else "Time of one operation"
    with canvas(ax, (6.8, 5.0), words, f"{what}, by descriptors watched") as (ax, chart):
        ax.set(xlabel=N, ylabel=what.lower(), xscale="log", yscale="log")
        if frame.empty:
            return chart.draw_empty("nothing measured")
        table = statistics.summarise(frame, ("run", "poller", "api", "n_fds"), (value,))
        if table["run"].nunique() > 1:
            ax.set_ylabel(f"{what.lower()}, {CALLS[str(table['api'].iloc[0])]}")
        _draw_times(chart, table, value)
        handles = _times_legend(chart, table)
        if literature is not None:
            handles += _draw_literature(chart, literature)
        low, high = ax.get_ylim()
        wider = max(1.0, (10 * low / high) ** 0.5)  # a decade at least: what is flat looks flat
        ax.set_ylim(low / wider, high * wider)
        log_axis(ax.xaxis, whole)
        log_axis(ax.yaxis, round_duration)
        ax.grid(which="major", alpha=0.8)
        chart.legend(handles, columns=5)
    return ax


def _only_api(frame: pd.DataFrame) -> str | None:
    """The API of the data, if there is one only."""
    found = set(frame["api"].astype("str"))
    return found.pop() if len(found) == 1 else None


def _require_one_curve(frame: pd.DataFrame) -> None:
    for column in ("kind", "active"):
        found = sorted(frame[column].astype(object).unique()) if column in frame else []
        if len(found) > 1:
            raise ValueError(
                f"data must have one {column}, since a line over N would mix them; it has "
                f'{found}. Draw one of them: frame[frame["{column}"] == {found[0]!r}]'
            )


def _by_run(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the name of each row's run; of several runs, keep the times of one API."""
    labels = run_labels(frame)
    if labels is None or labels.nunique() < 2:
        return frame.assign(run="")
    frame = frame.assign(run=labels).drop(columns=[name for name in RUN if name in frame])
    if labels.nunique() > len(_RUN_DASHES):
        raise ValueError(
            f"data must have at most {len(_RUN_DASHES)} workers, since more lines could not be "
            f"told apart; it has {labels.nunique()}. Draw some of them, by the column worker"
        )
    api = "raw" if (frame["api"] == "raw").any() else "python"
    return frame[frame["api"] == api]


def _dashes(table: pd.DataFrame) -> dict[tuple[str, str], Any]:
    """The dash of each run and API: that of the API if there is one run."""
    runs = list(table["run"].unique())
    pairs = table[["run", "api"]].astype("str").drop_duplicates().itertuples(index=False)
    if len(runs) > 1:
        return {(run, api): _RUN_DASHES[runs.index(run)] for run, api in pairs}
    return {(run, api): DASHES.get(api, ":") for run, api in pairs}


def _draw_times(chart: Canvas, table: pd.DataFrame, value: str) -> None:
    last = table["n_fds"].max()
    dashes = _dashes(table)
    ends: list[tuple[float, float]] = []
    by = ["run", "poller", "api"]
    for (run, poller, api), rows in table.groupby(by, observed=True, sort=True):
        rows = rows.sort_values("n_fds")
        color = chart.theme.variant(str(poller))
        x, y = rows["n_fds"].to_numpy(), rows[value].to_numpy()
        chart.ax.fill_between(
            x, rows[f"{value}_low"], rows[f"{value}_high"], color=color, alpha=0.22, lw=0
        )
        chart.ax.plot(
            x, y, marker(poller), ls=dashes[str(run), str(api)], color=color, ms=4,
            gid=f"{poller} {run or api}",
        )  # fmt: skip
        if x[-1] < last:
            # Lines of several workers often end together; their words would cover each other.
            is_new = not any(x[-1] == n and 0.8 < y[-1] / t < 1.25 for n, t in ends)
            mark_end(chart, x[-1], y[-1], color, "ends here" if is_new else "")
            ends.append((x[-1], y[-1]))


def _times_legend(chart: Canvas, table: pd.DataFrame) -> list[Any]:
    """Colours for pollers, and dashes for the ways of calling, or for several workers."""
    theme = chart.theme
    known = [str(name) for name in table["poller"].unique()]
    pollers = [*filter(known.__contains__, MARKERS), *sorted(set(known) - set(MARKERS))]
    lines = [
        Line2D([], [], marker=marker(p), ms=4, color=theme.variant(p), label=NAMES.get(p, p))
        for p in pollers
    ]
    return lines + [
        Line2D([], [], ls=dash, color=theme.muted, label=run or CALLS[api])
        for (run, api), dash in sorted(_dashes(table).items(), key=_raw_first)
        if run or api in CALLS
    ]


def _raw_first(entry: tuple[tuple[str, str], Any]) -> tuple[str, bool]:
    (run, api), _ = entry
    return run, api != "raw"


def _draw_literature(chart: Canvas, literature: pd.DataFrame) -> list[Any]:
    theme = chart.theme
    known = positive(literature.dropna(subset=["n_fds"]), "op_us")
    for (study, poller), rows in known.groupby(["study", "arm"], sort=False):
        rows = rows.sort_values("n_fds")
        chart.ax.plot(
            rows["n_fds"].astype(float), rows["op_us"] * 1000, MARKERS.get(str(poller), "o"),
            ls=":", color=theme.variant(str(poller)), mfc=theme.paper, ms=5.5, lw=1.2,
            gid=f"{poller} {study}",
        )  # fmt: skip
    return [
        Line2D([], [], ls=":", marker="o", mfc=theme.paper, color=theme.muted, label=str(study))
        for study in known["study"].unique()
    ]


def _methods(ours: str | None, literature: pd.DataFrame) -> str:
    """How each side was measured."""
    known = literature.dropna(subset=["op_us"]).drop_duplicates("study")
    theirs = [f"{row.study}: {row.source}. {row.circumstances}" for row in known.itertuples()]
    return ". ".join([f"Ours: {ours or 'circumstances unknown'}", *theirs])


@chart_function(data=_check_ratio_data, study=_check_study, value=check_value)
def ratio(
    data: Data,
    *,
    study: str = "kerrisk-2010",
    ax: Axes | None = None,
    value: str = "wait_ns",
    note: str | None = None,
) -> Axes:
    """Draw published times over ours, each relative to its own epoll at the least N.

    The line at 1 is perfect agreement of shape; the text at each point has its ratio.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`epolllab.experiments.sweep`, or the frame that
        :func:`epolllab.analysis.ratios.literature_ratios` made of it.
    study : str
        As in :func:`epolllab.analysis.ratios.literature_ratios`.
    value : {"wait_ns", "op_ns"}
        Which of our times.
    """
    table = frame_of(data)
    if "ratio" not in table:
        known = len(measured(data))
        table = literature_ratios(data, study, value=value) if known else table[:0]
    if "ratio" in table:
        table = positive(table, "ratio")
    name = study if table.empty else str(table["study"].iloc[0])
    title = f"Growth with N: {name} against ours"
    is_raw = "api" in frame_of(data) and (frame_of(data)["api"] == "raw").any()
    words = note_of(data, note, api="raw" if is_raw else None)
    with canvas(ax, (6.4, 4.4), words, title) as (ax, chart):
        ax.set(xlabel=N, ylabel="theirs / ours, each relative to its own epoll")
        if table.empty:
            return chart.draw_empty("nothing to compare")
        ax.set(xscale="log", yscale="log")
        ax.axhline(1, color=chart.theme.muted, lw=1)
        handles = _draw_ratios(chart, table)
        chart.describe("; ".join(_ratio_ends(table)))
        log_axis(ax.xaxis, whole)
        log_axis(ax.yaxis, lambda v, _: f"{v:g} x")
        ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        chart.legend(handles)
    return ax


def _ratio_ends(table: pd.DataFrame) -> list[str]:
    """The first and last ratio of each poller; on the chart they are beside their N."""
    ends = []
    for poller, rows in table.groupby("poller", sort=False, observed=True):
        first, last = rows.iloc[0], rows.iloc[-1]
        ends.append(
            f"{poller} {first['ratio']:.2g} x at N = {first['n_fds']:,} "
            f"to {last['ratio']:.2g} x at {last['n_fds']:,}"
        )
    return ends


def _draw_ratios(chart: Canvas, table: pd.DataFrame) -> list[Any]:
    """One line for each poller; the points of one N are side by side, so that all are seen."""
    handles = []
    pollers = list(dict.fromkeys(table["poller"].astype("str")))
    for place, poller in enumerate(pollers):
        rows = table[table["poller"] == poller]
        x = rows["n_fds"].to_numpy(float) * 1.42 ** (place - (len(pollers) - 1) / 2)
        y = rows["ratio"].to_numpy(float)
        low, high = (rows["theirs"] / rows[end] for end in ("ours_high", "ours_low"))
        color = chart.theme.variant(poller)
        chart.ax.plot(x, y, color=color, lw=0.9, alpha=0.45)
        chart.ax.vlines(x, low, high, color=color, lw=2)
        handles += chart.ax.plot(x, y, marker(poller), color=color, ms=5, label=poller, gid=poller)
        for at, middle, top in zip(x, y, high, strict=True):
            words = f"{middle:.2g}"
            chart.annotate(words, (at, max(middle, top)), (0, 6), ha="center", va="baseline")
    spread = max(abs(np.log10(table["ratio"])).max(), np.log10(2)) * 1.3
    chart.ax.set_ylim(10**-spread, 10**spread)
    return handles
