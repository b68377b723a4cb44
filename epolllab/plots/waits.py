"""Charts of single waits: their parts, two pollers compared, kinds of descriptor, and batches."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from epolllab.analysis import statistics
from epolllab.analysis.hosts import require_one_run
from epolllab.analysis.ratios import crossover_ratios, shares
from epolllab.analysis.result import frame_of
from epolllab.analysis.shape import select_api
from epolllab.checks import check_int, check_sequence
from epolllab.frames.columns import check_frame
from epolllab.plots.alternative import MOST_PARTS
from epolllab.plots.canvas import (
    Canvas,
    From,
    canvas,
    chart_function,
    legend_mark,
    log_axis,
    log_limits,
)
from epolllab.plots.pollers import NAMES, TIMES, N, check_api, check_value, marker
from epolllab.plots.results import Data, draw_intervals, in_order, measured, note_of, positive
from epolllab.plots.style import text_on
from epolllab.plots.units import duration, round_duration, whole

__all__ = ["cost_split", "crossover", "staircase", "wait_kinds"]


MOST_STEPS = 200
"""Steps of a staircase; more could not be told apart."""


def _check_n_fds(name: str, value: Any) -> tuple[int, ...]:
    several = value if isinstance(value, Iterable) else (value,)
    return check_sequence(name, several, partial(check_int, least=1))


@chart_function(
    data=From(
        ":func:`epolllab.experiments.sweep` with both ``raw`` and ``python``",
        "poller* api* kind* n_fds+ active+ wait_ns?",
        is_result=True,
    ),
    n_fds=_check_n_fds,
)
def cost_split(
    data: Data,
    *,
    ax: Axes | None = None,
    n_fds: int | Sequence[int] | None = None,
    note: str | None = None,
) -> Axes:
    """Draw the kernel's and CPython's share of a wait's time, on a log axis.

    Filled marks are the kernel's share, hollow ones the whole call of Python's function, so
    the distance between them is CPython's share.
    :func:`epolllab.analysis.ratios.shares` describes how they are found.

    Parameters
    ----------
    n_fds : int or sequence of int, optional
        Sizes to draw; all that have both by default.
    """
    table = positive(shares(data), "python_ns")
    if n_fds is not None:
        table = table[table["n_fds"].isin(np.atleast_1d(n_fds))]
    size = (6.8, 1.7 + 0.22 * max(len(table), 4))
    title = "Time of one wait in kernel and CPython"
    with canvas(ax, size, note_of(data, note), title) as (ax, chart):
        ax.set_xlabel("time of one wait by Python's function")
        if table.empty:
            return chart.draw_empty("nothing was measured both raw and by Python")
        _draw_shares(chart, table)
        parts = [
            f"{poller} at N = {n:,} {duration(kernel)} of {duration(total)} in the kernel"
            for poller, n, kernel, total in zip(
                table["poller"], table["n_fds"], table["kernel_ns"], table["python_ns"], strict=True
            )
        ]
        chart.describe("; ".join(parts[:MOST_PARTS]))
        look: Any = {"color": chart.theme.muted, "mew": 1.5, "ms": 6}
        kernel = legend_mark(label="kernel", **look)
        cpython = Line2D([], [], lw=1.4, color=chart.theme.muted, label="CPython")
        chart.legend([kernel, cpython, legend_mark(label="both", mfc=chart.theme.paper, **look)])
    return ax


def _draw_shares(chart: Canvas, table: pd.DataFrame) -> None:
    ax, theme = chart.ax, chart.theme
    # Each size has a heading, which takes the height of a row.
    places = np.arange(len(table)) + 1.1 * pd.factorize(table["n_fds"])[0]
    kernel, total = table["kernel_ns"].to_numpy(), table["python_ns"].to_numpy()
    # Less the floor of a call, a time can be negative; it has no place on a logarithmic axis.
    both = np.concatenate([kernel, total])
    limits = log_limits(both, 1.6, 8) or (1, 10)
    least = limits[0]
    for place, low, high, poller in zip(places, kernel, total, table["poller"], strict=True):
        color = theme.variant(str(poller))
        ax.plot([low, high], [place, place], color=color, lw=1.4)
        ax.plot([high], [place], "o", mfc=theme.paper, color=color, ms=6, mew=1.5, gid="python")
        ax.plot([low], [place], "o", color=color, ms=6, mew=1.5, gid="kernel")
        words = f"{duration(low)} + {duration(max(high - low, 0))}"
        chart.annotate(words, (max(low, high, least), place), (8, 0))
    ax.set_xscale("log")
    ax.set_xlim(limits)
    log_axis(ax.xaxis, round_duration)
    ax.grid(axis="x", which="major")
    names = [str(poller) for poller in table["poller"]]
    chart.name_ticks(ax.yaxis, places.tolist(), [NAMES.get(name, name) for name in names])
    ax.set_ylim(places[-1] + 0.7, -1.3)
    ax.tick_params(axis="y", length=0)
    for n, first in zip(*np.unique(table["n_fds"], return_index=True), strict=True):
        ax.text(
            0.0, places[first] - 0.52, f" N = {n:,}", transform=ax.get_yaxis_transform(),
            fontsize=8, fontweight="bold", va="bottom", color=theme.ink,
        )  # fmt: skip


@chart_function(
    data=From(":func:`epolllab.experiments.crossover`", TIMES, is_result=True),
    api=check_api,
    value=check_value,
)
def crossover(
    data: Data,
    *,
    ax: Axes | None = None,
    api: str | None = None,
    value: str = "wait_ns",
    note: str | None = None,
) -> Axes:
    """Draw epoll's time over poll's as a map over N and the share that is active.

    Each field has its ratio; below 1 epoll is faster. Fields where poll is faster, with the
    whole interval above 1, have a thick border; those whose interval includes 1 are in
    italics.

    Parameters
    ----------
    api : {"raw", "python"}, optional
        By default ``"raw"`` where it was measured.
    value : {"wait_ns", "op_ns"}
        The wait alone, or the whole operation (by Python only).
    """
    frame = measured(data)
    frame = positive(check_frame("data", frame, "an experiment", f"{value}?"), value)
    table = crossover_ratios(frame, api=api, value=value) if len(frame) else pd.DataFrame()
    over, under, how = "epoll", "poll", "raw"
    if len(table):
        over, under, how = table[["over", "under", "api"]].iloc[0].astype(str)
    what = "raw wait, via ctypes" if how == "raw" else "Python wait"
    title = f"Time of {over} / time of {under}, one {what if value == 'wait_ns' else 'operation'}"
    with canvas(ax, (7.2, 4.1), note_of(data, note), title) as (ax, chart):
        ax.set(xlabel=N, ylabel="share that is ready")
        if frame.empty:
            return chart.draw_empty("nothing measured")
        first, second = chart.theme.variant(over), chart.theme.variant(under)
        _draw_fields(chart, table, first, second)
        least, most = (_ratio_text(end) for end in (table["ratio"].min(), table["ratio"].max()))
        n_under = int((table["winner"] == under).sum())
        chart.describe(
            f"{len(table)} combinations of {N} and the share that is ready, with ratios from "
            f"{least} to {most}; {under} is faster in {n_under}"
        )
        border: Any = {"edgecolor": chart.theme.ink, "lw": 1.5}
        chart.legend(
            [
                Patch(facecolor=first, label=f"below 1: {over} is faster"),
                Patch(facecolor=second, label=f"{under} is faster", **border),
                legend_mark("none", "italics: the interval includes 1", marker=""),
                legend_mark("none", "blank: same as a neighbouring field", marker=""),
            ]
        )
    return ax


def _draw_fields(chart: Canvas, table: pd.DataFrame, first: str, second: str) -> None:
    """Fill each field from one poller's colour through paper to the other's, by the ratio."""
    ax, theme = chart.ax, chart.theme
    sizes, shares = sorted(table["n_fds"].unique()), sorted(table["share"].unique())
    colors = LinearSegmentedColormap.from_list("faster", [first, theme.paper, second])
    rows: Any = table.itertuples()
    for row in rows:
        x, y = sizes.index(row.n_fds), shares.index(row.share)
        # Nearly saturated at a factor of five either way.
        fill = colors(float(np.clip(0.5 + np.log10(row.ratio) / 2 * 1.4, 0.04, 0.96)))
        loses = row.winner == row.under
        ax.add_patch(
            Rectangle(
                (x - 0.47, y - 0.45), 0.94, 0.9, facecolor=fill, gid="field",
                edgecolor=theme.ink if loses else "none", lw=1.8 if loses else 0,
                zorder=2 if loses else 1,
            )
        )  # fmt: skip
        ax.text(
            x, y, _ratio_text(row.ratio), ha="center", va="center", fontsize=8, zorder=3,
            color=text_on(fill), gid="ratio",
            fontstyle="italic" if row.winner == "neither" else "normal",
        )  # fmt: skip
    chart.label_rows([_share_text(share) for share in shares])
    ax.set_xticks(range(len(sizes)), [f"{n:,}" for n in sizes])
    ax.set_xlim(-0.55, len(sizes) - 0.45)
    ax.set_ylim(-0.55, len(shares) - 0.45)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _ratio_text(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}" if ratio >= 0.095 else f"{ratio:.3f}"


def _share_text(share: float) -> str:
    return "one" if share == 0 else f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


@chart_function(
    data=From(
        ":func:`epolllab.experiments.wait_kinds` with two sizes or more",
        f"kind* {TIMES}",
        is_result=True,
    )
)
def wait_kinds(data: Data, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw what one more descriptor of each kind adds to a wait.

    Points are slopes of the least-squares line over N, with 95 % intervals, by the raw
    call where it was measured.
    """
    frame = select_api(frame_of(data), "wait_ns")
    title = "Cost of one more descriptor, by kind"
    with canvas(ax, (6.4, 3.6), note_of(data, note), title) as (ax, chart):
        ax.set_xlabel("time that one more descriptor adds to a wait (ns)")
        if frame["n_fds"].nunique() < 2:
            return chart.draw_empty("nothing measured at two sizes")
        lines = statistics.fits(frame, ("kind", "poller"), "n_fds", "wait_ns")
        if lines.empty:
            return chart.draw_empty("nothing measured with a kind and a poller")
        kinds, pollers = in_order(lines["kind"]), in_order(lines["poller"])
        chart.label_rows(kinds)
        handles = []
        for i, poller in enumerate(pollers):
            rows = lines[lines["poller"] == poller]
            shift = 0.2 * (i - (len(pollers) - 1) / 2)
            handles += draw_intervals(
                chart, [kinds.index(str(kind)) + shift for kind in rows["kind"]],
                rows[["b", "b_low", "b_high"]].to_numpy().T,
                [f"{slope:.1f}".replace("-0.0", "0.0") for slope in rows["b"]],
                color=chart.theme.variant(poller), marker=marker(poller), gid=poller,
                label=NAMES.get(poller, poller),
            )  # fmt: skip
        ax.axvline(0, color=chart.theme.muted, lw=0.8, zorder=0)
        ax.set_xlim(right=1.12 * float(lines[["b", "b_high"]].max().max()))
        ax.grid(axis="x")
        chart.legend(handles)
    return ax


@chart_function(
    data=From(
        ":func:`epolllab.experiments.propagate` with several numbers active",
        "pairs+ writes+ poller* max_events+ active+ waits+",
        is_result=True,
    )
)
def staircase(data: Data, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw how many waits a run took, over the number of descriptors active at once.

    Marks are medians; epoll's bound on a wait is written beside the last mark. Where no
    write follows a read, the thin steps are the number of batches that so many events must
    make: active / bound, rounded up. The chart is of the largest number of pairs.
    """
    frame = require_one_run("data", measured(data))
    frame = frame[(frame["pairs"] == frame["pairs"].max()) & frame["poller"].notna()]
    title = "Waits in a run, by active descriptors"
    if len(frame):
        pairs, writes = frame["pairs"].iloc[0], frame["writes"].iloc[0]
        title = f"Waits in a run: {pairs:,} socket pairs, {writes:,} writes"
    with canvas(ax, (6.8, 4.4), note_of(data, note), title) as (ax, chart):
        ax.set(xlabel="descriptors active at once", ylabel="waits in a run")
        if frame.empty:
            return chart.draw_empty("nothing measured")
        handles = _draw_staircase(chart, frame)
        if frame["waits"].max() > 30 * frame["waits"].min() > 0:
            ax.set_yscale("log")
            log_axis(ax.yaxis, whole)
        else:
            ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.xaxis.set_major_formatter(whole)
        ax.grid(axis="y", which="major")
        chart.legend(handles)
    return ax


def _draw_staircase(chart: Canvas, frame: pd.DataFrame) -> list[Any]:
    by = ["poller", "max_events", "active"]
    waits = frame.groupby(by, observed=True)["waits"].median().reset_index()
    handles: dict[str, Any] = {}
    ends: dict[tuple[float, float], list[str]] = {}
    parts = []
    for (poller, bound), rows in waits.groupby(["poller", "max_events"], observed=True, sort=True):
        poller = str(poller)
        x, y = rows["active"].to_numpy(), rows["waits"].to_numpy()
        # A hollow mark around a filled one: pollers that agree are both seen.
        look = {"ms": 8, "mfc": "none", "mew": 1.2} if poller == "epoll-edge" else {"ms": 4}
        (marks,) = chart.ax.plot(
            x, y, marker(poller), ls="", color=chart.theme.variant(poller),
            label=NAMES.get(poller, poller), gid=f"{poller} {bound}", **look,
        )  # fmt: skip
        handles.setdefault(poller, marks)
        limit = f", at most {bound:,} per wait," if poller.startswith("epoll") else ""
        parts.append(f"{poller}{limit} {y[0]:g} at {x[0]:,} active to {y[-1]:g} at {x[-1]:,}")
        if poller in ("epoll-level", "poll", "select"):
            words = f"at most {bound:,} per wait" if poller == "epoll-level" else "no bound"
            ends.setdefault((x[-1], y[-1]), []).append(words)
    chart.describe("; ".join(parts[:MOST_PARTS]))
    for end, all_words in ends.items():  # marks that end together share their text
        words = ",\n".join(dict.fromkeys(all_words))
        chart.annotate(words, end, (9, 0), annotation_clip=False)
    low, high = float(waits["active"].min()), float(waits["active"].max())
    chart.ax.set_xlim(low - 0.02 * (high - low + 1), high + 0.2 * (high - low + 1))
    if (frame["writes"] == 0).all():
        is_epoll = waits["poller"].astype("str").str.startswith("epoll")
        bounds = sorted(waits.loc[is_epoll, "max_events"].unique())
        # No steps for a single batch, nor where they were too fine to be seen.
        bounds = [bound for bound in bounds if 0 < bound < high <= MOST_STEPS * bound]
        _draw_batches(chart, bounds, high)
        if bounds:
            handles["steps"] = Line2D(
                [], [], color=chart.theme.muted, lw=0.8, label="active / bound, rounded up"
            )
    return list(handles.values())


def _draw_batches(chart: Canvas, bounds: Sequence[int], most: float) -> None:
    """The steps at each multiple of a bound: so many batches must so many events make."""
    for bound in bounds:
        n = int(-(-most // bound))
        edges = [*(bound * np.arange(n)), most]
        chart.ax.stairs(
            np.arange(1, n + 1), edges, baseline=None, color=chart.theme.muted, lw=0.8, zorder=0,
            gid=f"batches of {bound}",
        )  # fmt: skip
