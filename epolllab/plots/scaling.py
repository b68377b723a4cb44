"""Charts of the scaling experiments: the time of waits over the number of descriptors."""

import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from epolllab.analysis import statistics
from epolllab.analysis.literature import studies
from epolllab.analysis.ratios import crossover_ratios, literature_ratios, shares
from epolllab.analysis.result import frame_of
from epolllab.analysis.shape import select_api
from epolllab.checks import check_choice, check_int, check_sequence
from epolllab.frames.columns import check_frame
from epolllab.plots.canvas import (
    Canvas,
    From,
    canvas,
    chart_function,
    legend_mark,
    log_axis,
    log_limits,
)
from epolllab.plots.results import (
    Data,
    draw_intervals,
    in_order,
    mark_end,
    measured,
    note_of,
    positive,
)
from epolllab.plots.units import duration, round_duration, whole

__all__ = ["cost_split", "crossover", "ratio", "scaling", "staircase", "wait_kinds"]

_DASHES: dict[str, Any] = {"raw": "-", "python": (0, (4, 1.6))}
_CALLS = {"raw": "raw system call, via ctypes", "python": "Python's function"}
_MARKERS = {
    "epoll-level": "o", "epoll-edge": "s", "epoll-oneshot": "D", "poll": "^", "select": "v",
    "epoll": "o", "io_uring": "P",
}  # fmt: skip
_NAMES = {
    "epoll-level": "epoll, level",
    "epoll-edge": "epoll, edge",
    "epoll-oneshot": "epoll, one-shot",
}
_N = "descriptors watched, N"
_TIMES = "poller* api* n_fds+ active+ round warmup* wait_ns?"
_PUBLISHED = "study* arm* n_fds? op_us? source* circumstances*"

_check_value = partial(check_choice, allowed=("wait_ns", "op_ns"))
_check_api = partial(check_choice, allowed=_CALLS)


def _check_study(name: str, value: object) -> str:
    return check_choice(name, value, studies())


def _check_n_fds(name: str, value: Any) -> tuple[int, ...]:
    several = value if isinstance(value, Iterable) else (value,)
    return check_sequence(name, several, partial(check_int, least=1))


def _check_ratio_data(name: str, value: Any) -> Data:
    is_table = isinstance(value, pd.DataFrame) and "ratio" in value
    columns = "study* poller* n_fds theirs ours_low ours_high ratio" if is_table else _TIMES
    source = ":func:`epolllab.experiments.sweep` or :func:`epolllab.analysis.literature_ratios`"
    data: Data = From(source, columns, is_result=True)(name, value)
    return data


@chart_function(
    data=From(
        ":func:`epolllab.experiments.sweep`", "poller* api* n_fds+ round wait_ns?", is_result=True
    ),
    literature=From(":func:`epolllab.analysis.literature`", _PUBLISHED),
    value=_check_value,
    api=_check_api,
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

    Parameters
    ----------
    literature : pandas.DataFrame, optional
        Rows of :func:`epolllab.analysis.literature.literature` with ``op_us``, drawn
        hollow and dotted, with a box that describes how each side was measured.
    value : {"wait_ns", "op_ns"}
        The wait alone, or the whole operation (by Python only).
    api : {"raw", "python"}, optional
        One of them; both by default, raw solid and Python dashed.
    """
    frame = measured(data)
    frame = frame if api is None else frame[frame["api"] == api]
    frame = positive(check_frame("data", frame, "an experiment", f"{value}?"), value)
    frame = positive(frame, "n_fds")
    _require_one_curve(frame)
    words = note_of(data, note, circumstances=literature is None)
    what = "Time of one wait" if value == "wait_ns" else "Time of one operation"
    with canvas(ax, (6.8, 5.0), words, f"{what}, by descriptors watched") as (ax, chart):
        ax.set(xlabel=_N, ylabel=what.lower(), xscale="log", yscale="log")
        if frame.empty:
            return chart.draw_empty("nothing measured")
        table = statistics.summarise(frame, ("poller", "api", "n_fds"), (value,))
        _draw_times(chart, table, value)
        handles = _times_legend(chart, table)
        if literature is not None:
            handles += _draw_literature(chart, literature)
            _write_methods(chart, data, literature)
        log_axis(ax.xaxis, whole)
        log_axis(ax.yaxis, round_duration)
        ax.grid(which="major", alpha=0.8)
        chart.legend(handles, columns=5)
    return ax


def _require_one_curve(frame: pd.DataFrame) -> None:
    for column in ("kind", "active"):
        found = sorted(frame[column].astype(object).unique()) if column in frame else []
        if len(found) > 1:
            raise ValueError(
                f"data must have one {column}, since a line over N would mix them; it has "
                f'{found}. Draw one of them: frame[frame["{column}"] == {found[0]!r}]'
            )


def _marker(poller: object) -> str:
    return _MARKERS.get(str(poller), "o")


def _draw_times(chart: Canvas, table: pd.DataFrame, value: str) -> None:
    last = table["n_fds"].max()
    for (poller, api), rows in table.groupby(["poller", "api"], observed=True, sort=True):
        rows = rows.sort_values("n_fds")
        color = chart.theme.variant(str(poller))
        x, y = rows["n_fds"].to_numpy(), rows[value].to_numpy()
        chart.ax.fill_between(
            x, rows[f"{value}_low"], rows[f"{value}_high"], color=color, alpha=0.22, lw=0
        )
        chart.ax.plot(
            x, y, _marker(poller), ls=_DASHES.get(str(api), ":"), color=color, ms=4,
            gid=f"{poller} {api}",
        )  # fmt: skip
        if x[-1] < last:
            mark_end(chart, x[-1], y[-1], color)


def _times_legend(chart: Canvas, table: pd.DataFrame) -> list[Any]:
    """Colours for pollers, and dashes for the ways of calling."""
    theme = chart.theme
    known = [str(name) for name in table["poller"].unique()]
    pollers = [*filter(known.__contains__, _MARKERS), *sorted(set(known) - set(_MARKERS))]
    lines = [
        Line2D([], [], marker=_marker(p), ms=4, color=theme.variant(p), label=_NAMES.get(p, p))
        for p in pollers
    ]
    return lines + [
        Line2D([], [], ls=_DASHES[api], color=theme.muted, label=label)
        for api, label in _CALLS.items()
        if (table["api"] == api).any()
    ]


def _draw_literature(chart: Canvas, literature: pd.DataFrame) -> list[Any]:
    theme = chart.theme
    known = positive(literature.dropna(subset=["n_fds"]), "op_us")
    for (study, poller), rows in known.groupby(["study", "arm"], sort=False):
        rows = rows.sort_values("n_fds")
        chart.ax.plot(
            rows["n_fds"].astype(float), rows["op_us"] * 1000, _MARKERS.get(str(poller), "o"),
            ls=":", color=theme.variant(str(poller)), mfc=theme.paper, ms=5.5, lw=1.2,
            gid=f"{poller} {study}",
        )  # fmt: skip
    return [
        Line2D([], [], ls=":", marker="o", mfc=theme.paper, color=theme.muted, label=str(study))
        for study in known["study"].unique()
    ]


def _write_methods(chart: Canvas, data: Data, literature: pd.DataFrame) -> None:
    """Describe both methods in the corner that growing lines leave free."""
    known = literature.dropna(subset=["op_us"]).drop_duplicates("study")
    ours = frame_of(data).attrs.get("circumstances", "circumstances unknown")
    parts = [
        f"ours: {ours}; medians, band: 95\N{NO-BREAK SPACE}%",
        *(f"{row.study}: {row.source}. {row.circumstances}" for row in known.itertuples()),
    ]
    words = "\n".join(textwrap.fill(part, 44) for part in parts)
    theme = chart.theme
    chart.ax.text(
        0.015, 0.985, words, transform=chart.ax.transAxes, va="top", fontsize=6.2,
        color=theme.muted, linespacing=1.25, gid="method", zorder=5,
        bbox={"facecolor": theme.paper, "edgecolor": theme.faint, "alpha": 0.85, "pad": 3},
    )  # fmt: skip


@chart_function(data=_check_ratio_data, study=_check_study, value=_check_value)
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
    with canvas(ax, (6.4, 4.4), note_of(data, note), title) as (ax, chart):
        ax.set(xlabel=_N, ylabel="theirs / ours, each relative to its own epoll")
        if table.empty:
            return chart.draw_empty("nothing to compare")
        ax.set(xscale="log", yscale="log")
        ax.axhline(1, color=chart.theme.muted, lw=1)
        handles = _draw_ratios(chart, table)
        log_axis(ax.xaxis, whole)
        log_axis(ax.yaxis, lambda v, _: f"{v:g} x")
        ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        chart.legend(handles)
    return ax


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
        handles += chart.ax.plot(x, y, _marker(poller), color=color, ms=5, label=poller, gid=poller)
        for at, middle, top in zip(x, y, high, strict=True):
            words = f"{middle:.2g}"
            chart.annotate(words, (at, max(middle, top)), (0, 6), ha="center", va="baseline")
    spread = max(abs(np.log10(table["ratio"])).max(), np.log10(2)) * 1.3
    chart.ax.set_ylim(10**-spread, 10**spread)
    return handles


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
        look: Any = {"color": chart.theme.muted, "mew": 1.5, "ms": 6}
        kernel = legend_mark(label="kernel", **look)
        cpython = Line2D([], [], lw=3, alpha=0.35, color=chart.theme.muted, label="CPython")
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
        ax.plot([low, high], [place, place], color=color, lw=3, alpha=0.35)
        ax.plot([high], [place], "o", mfc=theme.paper, color=color, ms=6, mew=1.5, gid="python")
        ax.plot([low], [place], "o", color=color, ms=6, mew=1.5, gid="kernel")
        words = f"{duration(low)} + {duration(max(high - low, 0))}"
        chart.annotate(words, (max(low, high, least), place), (8, 0))
    ax.set_xscale("log")
    ax.set_xlim(limits)
    log_axis(ax.xaxis, round_duration)
    ax.grid(axis="x", which="major")
    names = [str(poller) for poller in table["poller"]]
    chart.name_ticks(ax.yaxis, places.tolist(), [_NAMES.get(name, name) for name in names])
    ax.set_ylim(places[-1] + 0.7, -1.3)
    ax.tick_params(axis="y", length=0)
    for n, first in zip(*np.unique(table["n_fds"], return_index=True), strict=True):
        ax.text(
            0.0, places[first] - 0.52, f" N = {n:,}", transform=ax.get_yaxis_transform(),
            fontsize=8, fontweight="bold", va="bottom", color=theme.ink,
        )  # fmt: skip


@chart_function(
    data=From(":func:`epolllab.experiments.crossover`", _TIMES, is_result=True),
    api=_check_api,
    value=_check_value,
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
    what = f"{'raw' if how == 'raw' else 'Python'} wait" if value == "wait_ns" else "operation"
    title = f"Time of {over} / time of {under}, one {what}"
    with canvas(ax, (7.2, 4.1), note_of(data, note), title) as (ax, chart):
        ax.set(xlabel=_N, ylabel="share that is ready")
        if frame.empty:
            return chart.draw_empty("nothing measured")
        first, second = chart.theme.variant(over), chart.theme.variant(under)
        _draw_fields(chart, table, first, second)
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
        brightness = float(np.dot(to_rgb(fill), (0.299, 0.587, 0.114)))
        ax.text(
            x, y, _ratio_text(row.ratio), ha="center", va="center", fontsize=8, zorder=3,
            color="#FFFFFF" if brightness < 0.55 else "#222222", gid="ratio",
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
        f"kind* {_TIMES}",
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
                color=chart.theme.variant(poller), marker=_marker(poller), gid=poller,
                label=_NAMES.get(poller, poller),
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

    A dotted line stands at each multiple of the default bound on an epoll wait, 1,023
    events. An epoll line that follows another of the same colour has a smaller bound, which
    is written at its end. The chart is of the largest number of pairs.
    """
    frame = measured(data)
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
    lines = waits.groupby(["poller", "max_events"], observed=True, sort=True)
    for place, ((poller, bound), rows) in enumerate(lines):
        poller = str(poller)
        x, y = rows["active"].to_numpy(), rows["waits"].to_numpy()
        # Each line is thinner than the one below it, so that lines that coincide are seen.
        (line,) = chart.ax.plot(
            x, y, _marker(poller), ls="-", color=chart.theme.variant(poller), ms=4,
            lw=max(3.2 - 0.5 * place, 1.2), label=_NAMES.get(poller, poller),
            gid=f"{poller} {bound}",
        )  # fmt: skip
        handles.setdefault(poller, line)
        if poller in ("epoll-level", "poll", "select"):
            words = f"at most {bound:,} per wait" if poller == "epoll-level" else "no bound"
            ends.setdefault((x[-1], y[-1]), []).append(words)
    for end, all_words in ends.items():  # lines that end together share their text
        words = ",\n".join(dict.fromkeys(all_words))
        chart.annotate(words, end, (6, 0), annotation_clip=False)
    low, high = float(waits["active"].min()), float(waits["active"].max())
    chart.ax.set_xlim(low - 0.02 * (high - low + 1), high + 0.2 * (high - low + 1))
    default = 1_023
    if (waits["max_events"] == default).any():
        chart.ax.vlines(
            np.arange(default, high + 1, default), 0, 1, color=chart.theme.muted, lw=0.7, ls=":",
            transform=chart.ax.get_xaxis_transform(), zorder=0,
        )  # fmt: skip
    return list(handles.values())
