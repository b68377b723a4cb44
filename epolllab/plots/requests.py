"""Charts of requests: the distribution of latencies, and the spans of single requests."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from epolllab.analysis.statistics import percentiles
from epolllab.checks import check_choice, check_int, check_text, shown
from epolllab.frames.columns import check_column
from epolllab.frames.journeys import INSTANTS, SPANS
from epolllab.plots.canvas import SMALL, Canvas, From, canvas, chart_function, fixed_axis, log_axis
from epolllab.plots.text import plain, short
from epolllab.plots.units import Unit, duration, plural, round_duration, unit_for

__all__ = ["journey", "latency"]

Array = np.ndarray[Any, np.dtype[np.float64]]


def _check_durations(name: str, value: Any) -> Any:
    several = list(value.values()) if isinstance(value, Mapping) else [value]
    if not all(isinstance(one, pd.Series | pd.DataFrame) for one in several):
        raise TypeError(
            f"{name} must be a Series or DataFrame of durations, such as run.requests() with "
            f'column="latency_ns", or a mapping of names to them, not {shown(value)}'
        )
    return value


@chart_function(data=_check_durations, column=check_text, label=check_text, what=check_text)
def latency(
    data: "pd.Series[Any] | pd.DataFrame | Mapping[str, Any]",
    *,
    ax: Axes | None = None,
    column: str = "total",
    label: str = "latency",
    what: str = "requests",
    note: str | None = None,
) -> Axes:
    """Draw the share of values at or below each duration.

    The vertical axis gives each further nine the same height (90 %, 99 %, 99.9 %), since
    an even axis hides the slow values in its top edge. The percentiles that the number of
    values supports, by :func:`epolllab.analysis.percentile`, are marked and written out.
    Missing values are left out; values of 0 or less count, but have no place on a
    logarithmic axis.

    Parameters
    ----------
    data : Series, DataFrame, or mapping of str to either
        Nanoseconds. A mapping draws a curve for each name; a name that contains "level",
        "edge", "poll", "select" or "oneshot" has that word's colour.
    column : str
        The column of a DataFrame.
    label : str
        What the duration is.
    what : str
        What was counted.
    """
    compared = isinstance(data, Mapping)
    series = data if isinstance(data, Mapping) else {label: data}
    everything = {plain(name): _sorted_ns(values, column) for name, values in series.items()}
    known = {name: ns for name, ns in everything.items() if len(ns) and ns[-1] > 0}
    with canvas(ax, (7.0, 4.0), note, f"Distribution of {label}") as (ax, chart):
        ax.set(xlabel=f"{label} (logarithmic)", ylabel=f"share of {what}")
        if not known:
            return chart.draw_empty(f"no {what}")
        _scale_by_nines(ax, max(map(len, known.values())))
        theme = chart.theme
        colors = {n: theme.variant(n, i) if compared else theme.main for i, n in enumerate(known)}
        for name, ns in known.items():
            _draw_curve(chart, ns, colors[name])
        if compared:
            _percentile_legend(chart, known, colors)
        else:
            for p, value in percentiles(known[plain(label)]).items():
                is_at_left = value <= known[plain(label)][0] * 1.05  # where the axis is
                chart.annotate(
                    f"p{p:g}  {duration(value)}", (value, p / 100), (7 if is_at_left else -7, 1),
                    ha="left" if is_at_left else "right", va="bottom", fontsize=8,
                    gid="percentile",
                )  # fmt: skip
        ax.set_xscale("log")
        log_axis(ax.xaxis, round_duration)
        ax.grid(which="major")
        counts = [len(ns) for ns in known.values()]
        missing = ", ".join(everything.keys() - known.keys())
        least, most = min(counts), max(counts)
        how_many = f"{least:,} to {most:,}" if least < most else f"{least:,}"
        each = " per curve" if len(known) > 1 else ""
        chart.text(f"{how_many} {what}{each}" + (f"; no {what} of {missing}" if missing else ""))
    return ax


def _sorted_ns(values: Any, column: str) -> Array:
    if isinstance(values, pd.DataFrame):
        values = values[check_choice("column", column, [str(name) for name in values])]
    check_column("data must hold durations in nanoseconds: it", values)
    return np.sort(_float(values.dropna()))


def _draw_curve(chart: Canvas, ns: Array, color: str) -> None:
    """Draw one curve, and dots at its percentiles."""
    n = len(ns)
    ranks = np.arange(n)
    if n > 4000:  # more points than can be seen; evenly spaced in nines at the slow end
        tail = n - np.unique(np.geomspace(1, n, 2500).astype(int))
        ranks = np.unique(np.concatenate([np.linspace(0, n - 1, 1500).astype(int), tail]))
    chart.ax.step(ns[ranks], (ranks + 0.5) / n, where="post", color=color, lw=1.8, gid="curve")
    marks = percentiles(ns)
    chart.ax.plot(
        list(marks.values()), [p / 100 for p in marks], "o", ms=4.5, color=color,
        mec=chart.theme.paper, mew=0.8, zorder=4, gid="percentiles",
    )  # fmt: skip


def _percentile_legend(chart: Canvas, known: dict[str, Array], colors: dict[str, str]) -> None:
    """Write the percentiles of each curve as a table, as many as the width holds."""
    longest = min(max(map(len, known)), int(chart.width / 15))
    size = SMALL + 0.5
    room = int(chart.width / (size * 0.6)) - longest - 5
    wanted = [50.0, 99.0, 90.0, 99.9][: max(1, room // 15)]
    handles = []
    for name, ns in known.items():
        marks = percentiles(ns).items()
        cells = [f"p{p:g} {duration(value):<8}" for p, value in marks if p in wanted]
        words = f"{short(name, longest):<{longest}}  {' '.join(cells)}".rstrip()
        handles.append(Line2D([], [], color=colors[name], lw=2.2, label=words))
    chart.legend(handles, columns=1, family="DejaVu Sans Mono", size=size)


def _scale_by_nines(ax: Axes, n: int) -> None:
    """Scale an axis of shares so that each further nine has the same height."""
    # Among n values, shares can be told apart down to half a value.
    top = max(1 - 0.4 / n, 0.6)
    ax.set_yscale(
        "function",
        functions=(
            lambda share: -np.log10(np.clip(1 - np.asarray(share, dtype=float), 1e-12, None)),
            lambda height: 1 - 10.0 ** -np.asarray(height, dtype=float),
        ),
    )
    ticks = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
    ax.set_ylim(0, top)
    shown = [tick for tick in ticks if tick <= top]
    fixed_axis(ax.yaxis, shown, lambda share, _: f"{share * 100:.6g} %")


@chart_function(
    journeys=From(
        "``run.journeys(server)``", f"conn request intended_ns {'? '.join(INSTANTS[1:])}? total?"
    ),
    limit=partial(check_int, least=0),
)
def journey(
    journeys: pd.DataFrame, *, ax: Axes | None = None, limit: int = 20, note: str | None = None
) -> Axes:
    """Draw requests from their intended start to the client's last byte, span by span.

    Each row is a request, named by its connection and its number there. A span that ended
    before it began (the client had its first byte before the server's send returned) is a
    thin bar. The legend has each span's median over the requests drawn. A row of the frame,
    as ``frame.iloc[[7]]``, draws one request.

    Parameters
    ----------
    limit : int
        Most requests to draw, the first ones; the text below has the number of the others.
    """
    shown = journeys.head(limit)
    size = (7.5, 1.7 + 0.26 * max(len(shown), 3))
    with canvas(ax, size, note, "Where each request spent its time") as (ax, chart):
        if shown.empty:
            ax.set_xlabel("time since the intended start")
            return chart.draw_empty("no requests")
        unit = unit_for(np.max(_float(shown["total"]), initial=2000.0))
        chart.label_rows(
            [f"conn {c} #{r}" for c, r in zip(shown["conn"], shown["request"], strict=True)]
        )
        handles, backwards = _draw_spans(chart, shown, unit)
        total = _float(shown["total"])
        for place, ns in enumerate(total):
            if np.isfinite(ns):
                chart.annotate(
                    duration(ns), (ns / unit.ns, place), (4, 0), fontsize=SMALL,
                    color=chart.theme.muted, gid="total",
                )  # fmt: skip
        right = max(np.nanmax(np.append(total, 0)) / unit.ns, ax.dataLim.x1)
        ax.set_xlim(min(0.0, ax.get_xlim()[0]), right * 1.13)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
        ax.set_xlabel(f"time since the intended start ({unit.name})")
        chart.legend(handles, columns=4)
        more = len(journeys) - len(shown)
        remarks = [
            "medians in the legend" if len(shown) > 1 else "",
            "a thin bar is a span that ended before it began" if backwards else "",
            f"{plural(more, 'more request')} not drawn" if more else "",
        ]
        if any(remarks):
            chart.text("; ".join(filter(None, remarks)))
    return ax


def _draw_spans(chart: Canvas, shown: pd.DataFrame, unit: Unit) -> tuple[list[Any], bool]:
    """Draw the bars; return the legend's handles, and whether a span has a negative length."""
    y = np.arange(len(shown))
    handles = []
    backwards = False
    for name, color in chart.theme.spans.items():
        begin, end = SPANS[name]
        left = _float(shown[begin] - shown["intended_ns"]) / unit.ns
        width = _float(shown[end] - shown[begin]) / unit.ns
        backwards |= bool((width < 0).any())
        for chosen, height, zorder in ((width >= 0, 0.62, 2), (width < 0, 0.2, 3)):
            chart.ax.barh(
                y[chosen], width[chosen], height, left[chosen], color=color, lw=0, gid=name,
                zorder=zorder,
            )  # fmt: skip
        if np.isfinite(width).any():
            median = duration(float(np.nanmedian(width)) * unit.ns)
            handles.append(Patch(facecolor=color, edgecolor="none", label=f"{name} {median}"))
    return handles, backwards


def _float(values: "pd.Series[Any]") -> Array:
    return values.to_numpy(dtype=float, na_value=np.nan)
