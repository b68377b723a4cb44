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
from epolllab.checks import check_choice, check_instance, check_int, check_text, shown
from epolllab.clients.result import Run
from epolllab.frames.columns import check_column
from epolllab.frames.journeys import INSTANTS, SPANS
from epolllab.plots.canvas import SMALL, Canvas, From, canvas, chart_function, fixed_axis, log_axis
from epolllab.plots.sources import Durations, by_name, made_by
from epolllab.plots.text import plain, short
from epolllab.plots.units import Unit, duration, plural, round_duration, unit_for
from epolllab.recording.recording import Recording
from epolllab.server.server import Server

__all__ = ["journey", "latency"]

Array = np.ndarray[Any, np.dtype[np.float64]]


_COLUMNS = ("total", "latency_ns", "dur_ns")
"""Durations of journeys, and of a client's and a server's requests."""


def _check_durations(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {label: _durations(name, one) for label, one in by_name(name, value).items()}
    return _durations(name, value)


def _durations(name: str, value: Any) -> Any:
    made = made_by(value, "requests")
    if not isinstance(made, pd.Series | pd.DataFrame):
        raise TypeError(
            f"{name} must be a Run, a Server, a Recording, or a Series or DataFrame of durations, "
            f"such as run.requests(), or a mapping of names to these, not {shown(value)}"
        )
    return made


@chart_function(data=_check_durations, column=check_text, label=check_text, what=check_text)
def latency(
    data: "Durations | Mapping[str, Durations]",
    *,
    ax: Axes | None = None,
    column: str | None = None,
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
    data : Run, Server, Recording, Series, DataFrame, or mapping of str to any of these
        Nanoseconds; a Run, Server or Recording stands for its ``requests()``. A mapping draws a
        curve for each name; a name that contains "level", "edge", "poll", "select" or
        "oneshot" has that word's colour.
    column : str, optional
        The column of a DataFrame; by default the first that it has of ``total`` (journeys),
        ``latency_ns`` (a client's requests) and ``dur_ns`` (a server's).
    label : str
        What the duration is.
    what : str
        What was counted.
    """
    compared = isinstance(data, Mapping)
    series: Mapping[str, Any] = data if isinstance(data, Mapping) else {label: data}
    everything = {plain(name): _sorted_ns(values, column) for name, values in series.items()}
    known = {name: ns for name, ns in everything.items() if len(ns) and ns[-1] > 0}
    with canvas(ax, (7.0, 4.0), note, f"Distribution of {label}") as (ax, chart):
        ax.set(xlabel=f"{label} (logarithmic)", ylabel=f"share of {what}")
        if not known:
            return chart.draw_empty(f"no {what}")
        _scale_by_nines(ax, max(map(len, known.values())))
        theme = chart.theme
        looks = {
            n: (theme.variant(n, i), theme.marker(n, i)) if compared else (theme.main, "o")
            for i, n in enumerate(known)
        }
        for name, ns in known.items():
            _draw_curve(chart, ns, *looks[name])
        if compared:
            _percentile_legend(chart, known, looks)
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
        chart.describe("; ".join(_in_words(n if compared else "", v) for n, v in known.items()))
    return ax


def _in_words(name: str, ns: Array) -> str:
    """The number of values and their percentiles."""
    marks = [f"p{p:g} {duration(value)}" for p, value in percentiles(ns).items()]
    words = ", ".join([f"{len(ns):,} values", *marks, f"greatest {duration(ns[-1])}"])
    return f"{name}, {words}" if name else words


def _sorted_ns(values: Any, column: str | None) -> Array:
    if isinstance(values, pd.DataFrame):
        names = [str(name) for name in values]
        if column is None:
            column = next((name for name in _COLUMNS if name in names), None)
        if column is None:
            raise ValueError(
                f"data must have a column {', '.join(_COLUMNS)}, or column= must name one of "
                f"{', '.join(names)}"
            )
        values = values[check_choice("column", column, names)]
    check_column("data must hold durations in nanoseconds: it", values)
    return np.sort(_float(values.dropna()))


def _draw_curve(chart: Canvas, ns: Array, color: str, marker: str) -> None:
    """Draw one curve, and marks at its percentiles."""
    n = len(ns)
    ranks = np.arange(n)
    if n > 4000:  # more points than can be seen; evenly spaced in nines at the slow end
        tail = n - np.unique(np.geomspace(1, n, 2500).astype(int))
        ranks = np.unique(np.concatenate([np.linspace(0, n - 1, 1500).astype(int), tail]))
    chart.ax.step(ns[ranks], (ranks + 0.5) / n, where="post", color=color, lw=1.8, gid="curve")
    marks = percentiles(ns)
    chart.ax.plot(
        list(marks.values()), [p / 100 for p in marks], marker, ms=5, color=color,
        mec=chart.theme.paper, mew=0.8, zorder=4, gid="percentiles",
    )  # fmt: skip


def _percentile_legend(
    chart: Canvas, known: dict[str, Array], looks: dict[str, tuple[str, str]]
) -> None:
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
        color, marker = looks[name]
        handles.append(Line2D([], [], color=color, marker=marker, ms=5, lw=2.2, label=words))
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


_check_journeys = From(
    "``run.journeys(server)``",
    f"conn request intended_ns {'? '.join(INSTANTS[1:])}? total?",
    alone="its colours are the spans of a request",
)


def _check_side(name: str, value: Any) -> Any:
    """A frame of journeys, or a Run, whose ``journeys()`` needs the server."""
    return value if callable(getattr(value, "journeys", None)) else _check_journeys(name, value)


def _check_server(name: str, value: Any) -> Server | Recording:
    kinds = Server | Recording
    found: Server | Recording = check_instance(name, value, kinds, "a Server or its Recording")
    return found


@chart_function(
    journeys=_check_side,
    server=_check_server,
    limit=partial(check_int, least=0),
    start=partial(check_choice, allowed=("busiest", "first request", "slowest")),
)
def journey(
    journeys: pd.DataFrame | Run,
    *,
    server: Server | Recording | None = None,
    ax: Axes | None = None,
    limit: int = 20,
    start: str = "busiest",
    note: str | None = None,
) -> Axes:
    """Draw requests from their intended start to the client's last byte, span by span.

    Each row is a request, named by its connection and its number there. A span that ended
    before it began (the client had its first byte before the server's send returned) is a
    thin bar. The legend has each span's median over the requests drawn. A row of the frame,
    as ``frame.iloc[[7]]``, draws one request.

    Parameters
    ----------
    journeys : pandas.DataFrame or Run
        From ``run.journeys(server)``; or the run itself, with `server`.
    server : Server or Recording, optional
        The other side of a run.
    limit : int
        Most requests to draw; the text below has the number of the others.
    start : {"busiest", "first request", "slowest"}
        Which requests, where there are more: those that follow each other in the shortest
        time, the first ones, or the slowest, with the slowest first.
    """
    whole = _journeys_of(journeys, server)
    shown = _chosen(whole, limit, start)
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
        more = len(whole) - len(shown)
        of_them = {"busiest": "the busiest", "slowest": "the slowest"}.get(start, "the first")
        remarks = [
            "medians in the legend" if len(shown) > 1 else "",
            "a thin bar is a span that ended before it began" if backwards else "",
            f"{of_them} {len(shown):,}; {plural(more, 'more request')} not drawn" if more else "",
        ]
        if any(remarks):
            chart.text("; ".join(filter(None, remarks)))
        medians = ", ".join(handle.get_label() for handle in handles)
        chart.describe(
            f"{plural(len(shown), 'request')} of {len(whole):,}; median of each: {medians}"
        )
    return ax


def _journeys_of(journeys: Any, server: Server | Recording | None) -> pd.DataFrame:
    """The frame of journeys, of a run and its server where a run is given."""
    if isinstance(journeys, pd.DataFrame):
        if server is not None:
            raise ValueError("server must not be given with a frame, which has both sides already")
        return journeys
    if server is None:
        raise ValueError(
            "server must be given with a run, since a journey has a client's and a server's side: "
            "journey(run, server=server), or journey(run.journeys(server))"
        )
    frame: pd.DataFrame = _check_journeys("journeys", journeys.journeys(server))
    return frame


def _chosen(journeys: pd.DataFrame, limit: int, start: str) -> pd.DataFrame:
    """The requests to draw."""
    if start == "slowest":
        order = np.argsort(-np.nan_to_num(_float(journeys["total"]), nan=-1.0), kind="stable")
        return journeys.iloc[order[:limit]]
    if start == "first request" or not 0 < limit < len(journeys):
        return journeys.head(limit)
    at = np.sort(_float(journeys["intended_ns"]))
    order = np.argsort(_float(journeys["intended_ns"]), kind="stable")
    first = int(np.argmin(at[limit - 1 :] - at[: len(at) - limit + 1]))
    return journeys.iloc[order[first : first + limit]]


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
