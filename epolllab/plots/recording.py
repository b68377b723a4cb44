"""Frames as pictures, one function a picture.

One job: draw a frame on an Axes and return it. It knows neither servers nor
recordings, measures nothing, and computes no more than what a picture shows.

Every function takes the data first and all else by keyword; draws on ``ax``, or on a
new figure without one; and draws an empty, labelled picture of an empty frame.
``note=`` puts a grey line under the axes, for the circumstances of the numbers
(``metadata.summary(...)``). The style is set for the length of the drawing only; for
a dark one, draw inside ``with style.use(dark=True)``.

What belongs under an axis (legend, summary, note) is stacked there at distances in
points, so that it keeps clear of the labels at any size, and of a title set later.

The pictures of scaling experiments (:func:`scaling`, :func:`ratio`, :func:`cost_split`,
:func:`crossover`, :func:`kinds`, :func:`staircase`, :func:`idle_connections`,
:func:`observer_cost`) are here by name and drawn in ``experiments.scaling_pictures``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from epolllab.plots import style
from epolllab.plots.canvas import SMALL, Below, canvas, nothing
from epolllab.plots.style import Theme
from epolllab.plots.units import _UNITS, _duration, _Unit, _unit

__all__ = ["batch_sizes", "interest", "journey", "latency", "timeline", "wakeups"]


Numbers = Any  # a Series, an array or a list of numbers

_SPANS = (
    ("waiting", "intended_ns", "sent_ns"),
    ("wake", "sent_ns", "woken_ns"),
    ("queue", "woken_ns", "ready_ns"),
    ("read", "ready_ns", "read_ns"),
    ("handle", "read_ns", "handled_ns"),
    ("send", "handled_ns", "answered_ns"),
    ("deliver", "answered_ns", "first_byte_ns"),
    ("receive", "first_byte_ns", "done_ns"),
)
_PERCENTILES = ((50.0, 1), (90.0, 10), (99.0, 100), (99.9, 1000))
"""Each percentile, and how many values it takes before it means anything."""


def _swatch(color: str, label: str) -> Patch:
    return Patch(facecolor=color, edgecolor="none", label=label)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


# ---- the timeline --------------------------------------------------------------


def timeline(
    events: pd.DataFrame,
    *,
    ax: Axes | None = None,
    connections: int | Sequence[int] = 20,
    span: tuple[float, float] | None = None,
    names: int = 80,
    note: str | None = None,
) -> Axes:
    """Draw what the loop did, a lane for each connection and one for the loop.

    Each call is a bar of its true length, with an outline that keeps a microsecond
    visible in a picture of a second. A triangle is a ready row, with the mask that
    the kernel returned; a vertical line is the end of a wait, so that what stands
    between two lines was one wake-up.

    Parameters
    ----------
    events : pandas.DataFrame
        From ``recording.events()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    connections : int or sequence of int
        How many connections at most, those first seen; or the serials wanted.
    span : tuple of float, optional
        First and last instant to draw, in nanoseconds from the first event.
    names : int
        Most masks to spell out; with more, or without room, triangles stand alone.
    note : str, optional
        Circumstances, in grey under the axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    shown, begin = _within(events, span)
    serials, n_more = _lanes(shown, connections)
    n_lanes = 1 + len(serials) + (n_more > 0)
    with canvas(ax, (8.0, 1.5 + 0.3 * max(n_lanes, 4)), note) as (ax, theme, below):
        if shown.empty:
            nothing(ax, theme, "no events")
            ax.set_xlabel("time since the first event")
            return ax
        first, last = span or (0, _last_ns(shown, begin))
        unit = _unit(last - first)
        lane = shown["conn"].map({0: 0} | {conn: i for i, conn in enumerate(serials, 1)})
        drawn = shown.assign(
            lane=lane, x=(shown["t_ns"] - begin) / unit.ns, w=shown["dur_ns"] / unit.ns
        )
        drawn = drawn[lane.notna()]
        last = max(last, first + 1)
        room = 0 if span else 0.008 * (last - first)
        ax.set_xlim((first - room) / unit.ns, (last + room) / unit.ns)
        _label_lanes(ax, theme, serials, n_more)
        _wake_lines(ax, theme, drawn)
        groups = _bars(ax, theme, drawn)
        marks = _marks(ax, theme, drawn, below.width, names)
        ax.set_xlabel(f"time since the first event ({unit.name})")
        below.legend([*groups, *marks])
    return ax


def _within(events: pd.DataFrame, span: tuple[float, float] | None) -> tuple[pd.DataFrame, int]:
    begin = int(events["t_ns"].iloc[0]) if len(events) else 0
    if span is None:
        return events, begin
    if span[0] >= span[1]:
        raise ValueError(
            f"a span of {span[0]:g} to {span[1]:g} ns was asked for; the first must be "
            "under the second, both in nanoseconds from the first event"
        )
    at = events["t_ns"] - begin
    return events[(at + events["dur_ns"] >= span[0]) & (at <= span[1])], begin


def _last_ns(events: pd.DataFrame, begin: int) -> int:
    return int((events["t_ns"] + events["dur_ns"]).max()) - begin


def _lanes(events: pd.DataFrame, connections: int | Sequence[int]) -> tuple[list[int], int]:
    """Choose the serials to draw, and count those left out."""
    there = [int(conn) for conn in events["conn"].unique() if conn]
    if isinstance(connections, int):
        wanted = there[:connections]
    else:
        wanted = [int(conn) for conn in connections]
    return wanted, len(set(there) - set(wanted))


def _label_lanes(ax: Axes, theme: Theme, serials: list[int], n_more: int) -> None:
    labels = ["loop", *(f"conn {conn}" for conn in serials)]
    if n_more:
        labels.append(f"{n_more:,} more")
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.45, -0.75)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    # The loop's lane stands apart: it is the one thread that serves all the others.
    ax.axhspan(-0.75, 0.5, color=theme.faint, alpha=0.45, lw=0, zorder=0)
    ax.get_yticklabels()[0].set_fontweight("bold")
    if n_more:
        ax.get_yticklabels()[-1].set_color(theme.muted)
    ax.hlines(
        np.arange(1, len(serials) + 1), 0, 1, color=theme.faint, lw=0.8, zorder=0.5,
        transform=ax.get_yaxis_transform(),
    )  # fmt: skip


def _wake_lines(ax: Axes, theme: Theme, drawn: pd.DataFrame) -> None:
    waits = drawn[drawn["op"] == "wait"]
    if 0 < len(waits) <= 60:
        low, high = sorted(ax.get_ylim())
        ends = (waits["x"] + waits["w"]).to_numpy()
        ax.vlines(ends, low, high, color=theme.muted, lw=0.6, alpha=0.5, zorder=0.6, gid="wake")


def _bars(ax: Axes, theme: Theme, drawn: pd.DataFrame) -> list[Any]:
    """Draw a bar for each call, one collection for each group of operations."""
    handles = []
    group = drawn["op"].astype("str").map(style.OP_GROUPS)
    for name, color in theme.ops.items():
        calls = drawn[group == name]
        if calls.empty:
            continue
        left, width, lane = (calls[c].to_numpy(dtype=float) for c in ("x", "w", "lane"))
        right, top, bottom = left + width, lane - 0.24, lane + 0.3
        corners: Any = np.stack(
            [np.stack(c, axis=-1) for c in ((left, top), (right, top), (right, bottom),
                                            (left, bottom))], axis=1,
        )  # fmt: skip
        # The outline is in points, and so is the least width of a bar.
        bars = PolyCollection(corners, facecolor=color, edgecolor=color, linewidth=0.9, gid=name)
        ax.add_collection(bars, autolim=False)
        handles.append(_swatch(color, "epoll_ctl" if name == "control" else _ops_label(calls)))
    return handles


def _ops_label(calls: pd.DataFrame) -> str:
    return ", ".join(calls["op"].astype("str").unique())


def _marks(ax: Axes, theme: Theme, drawn: pd.DataFrame, width: float, names: int) -> list[Any]:
    """Mark ready rows, would-blocks and errors."""
    failed = drawn["error"].astype("str").replace({"EWOULDBLOCK": "EAGAIN"})
    is_error = failed.notna() & (failed != "EAGAIN")
    drawn = drawn.assign(at=drawn["x"] + drawn["w"])
    low, high = ax.get_xlim()
    inside = drawn["at"].between(low, high)
    handles = []
    for name, chosen, marker, color, size in (
        ("ready", drawn["op"] == "ready", "v", theme.ink, 4.0),
        ("would block", failed == "EAGAIN", "x", theme.alarm, 5.5),
        ("error", is_error, "X", theme.alarm, 6.0),
    ):
        rows = drawn[chosen & inside]
        if rows.empty:
            continue
        size *= 1.0 if len(rows) <= 150 else 0.75 if len(rows) <= 600 else 0.55
        thick = 1.3 if marker == "x" else 0.0
        y = rows["lane"] - (0.39 if name == "ready" else 0)
        ax.plot(
            rows["at"], y, marker, color=color, ms=size, mew=thick, zorder=4, clip_on=False,
            gid=name,
        )  # fmt: skip
        handles.append(
            Line2D([], [], ls="", marker=marker, color=color, ms=5, mew=thick, label=name)
        )
        if name == "ready" and len(rows) <= names:
            _spell(ax, rows, rows["mask_names"], width, (4, -0.39), color)
        elif name == "error" and len(rows) <= names:
            _spell(ax, rows, rows["error"], width, (-3, 0.46), color)
    return handles


def _spell(
    ax: Axes,
    rows: pd.DataFrame,
    words: "pd.Series[Any]",
    width: float,
    offset: tuple[float, float],
    color: str,
) -> None:
    """Write words beside marks, where the next one in the lane leaves room.

    ``offset`` is to the right in points, and down in lanes. At the right end of the
    picture a word goes to the left of its mark, if there is room before it.
    """
    low, high = ax.get_xlim()
    per_point = (high - low) / width
    lanes = rows.groupby("lane")["at"]
    before, after = lanes.shift(1).fillna(low), lanes.shift(-1).fillna(np.inf)
    marks = zip(rows["at"], rows["lane"], words.astype("str"), before, after, strict=True)
    for x, lane, word, since, until in marks:
        needs = (abs(offset[0]) + 4 + 4.4 * len(word)) * per_point
        at_end = x + needs > high + 30 * per_point
        if x + needs > until or (at_end and x - needs < since + needs):
            continue
        ax.annotate(
            word, (x, lane + offset[1]), (-4 if at_end else offset[0], 0), color=color,
            textcoords="offset points", ha="right" if at_end else "left", va="center",
            fontsize=SMALL - 0.5, zorder=5, gid="word", annotation_clip=False,
        )  # fmt: skip


# ---- wake-ups ------------------------------------------------------------------


def wakeups(wakeups: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw how long each wait slept, and how long the loop then worked, over time.

    Parameters
    ----------
    wakeups : pandas.DataFrame
        From ``recording.wakeups()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        Circumstances, in grey under the axes.

    Returns
    -------
    matplotlib.axes.Axes
        Times from the first wait, durations on a logarithmic axis, with a line at
        each median. A wake-up in which nothing was done has no second point; their
        number is said below.
    """
    with canvas(ax, (7.0, 3.6), note) as (ax, theme, below):
        ax.set_ylabel("duration")
        if wakeups.empty:
            ax.set_xlabel("time since the first wait")
            nothing(ax, theme, "no wake-ups")
            return ax
        at = wakeups["t_ns"] - wakeups["t_ns"].iloc[0]
        whole = int(at.iloc[-1] + wakeups["waited_ns"].iloc[-1] + wakeups["handled_ns"].iloc[-1])
        unit = _unit(whole)
        size = 4.5 if len(at) < 300 else 2.5 if len(at) < 5000 else 1.2
        for column, shift, color, label in (
            ("waited_ns", 0, theme.muted, "waited"),
            ("handled_ns", 1, theme.main, "handled"),
        ):
            long = wakeups[column] > 0
            x = (at + shift * wakeups["waited_ns"])[long] / unit.ns
            ax.plot(
                x, wakeups[column][long], "o", ms=size, mew=0, color=color, alpha=0.7, label=label
            )
            if long.any():
                _median(ax, float(wakeups[column][long].median()), color)
        _log_durations(ax, "y")
        ax.grid(axis="y")
        ax.set_xlabel(f"time since the first wait ({unit.name})")
        below.legend(ax.get_legend_handles_labels()[0])
        idle = int((wakeups["handled_ns"] == 0).sum())
        busy = 1 - wakeups["waited_ns"].sum() / max(whole, 1)
        below.text(
            f"{_count(len(wakeups), 'wake-up')} in {_duration(whole)}; not waiting "
            f"{100 * busy:.0f} % of the time" + (f"; nothing to handle in {idle:,}" if idle else "")
        )
    return ax


def _median(ax: Axes, ns: float, color: str) -> None:
    """Draw a line at a median, and write it at the right end."""
    ax.axhline(ns, color=color, lw=1.1, zorder=1.5, gid="median")
    ax.annotate(
        _duration(ns), (1, ns), (4, 0), xycoords=ax.get_yaxis_transform(), va="center",
        textcoords="offset points", fontsize=8, color=color, gid="median",
    )  # fmt: skip


def _log_durations(ax: Axes, which: Literal["x", "y"]) -> None:
    """Give an axis of nanoseconds a logarithmic scale whose ticks have units."""
    ax.set(**{f"{which}scale": "log"})
    axis: Axis = ax.xaxis if which == "x" else ax.yaxis
    low, high = axis.get_view_interval()
    few = high / max(low, 1e-9) < 60
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda ns, _: _tick(ns)))
    axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _tick(ns: float) -> str:
    unit = next((unit for unit in _UNITS if ns >= unit.ns), _UNITS[-1])
    return f"{ns / unit.ns:g} {unit.name}"


def batch_sizes(wakeups: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw how many descriptors the waits returned at once.

    Large batches mean that one wait served many connections: the loop was busy and
    the cost of waiting was shared. A bar at 0 is a timeout.

    Parameters
    ----------
    wakeups : pandas.DataFrame
        From ``recording.wakeups()``; waits that failed are left out.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        Circumstances, in grey under the axes.

    Returns
    -------
    matplotlib.axes.Axes
        A bar for each number up to 40, above that a bar for each range.
    """
    with canvas(ax, (6.0, 3.2), note) as (ax, theme, below):
        ax.set_xlabel("descriptors returned by one wait")
        ax.set_ylabel("waits")
        sizes = wakeups.loc[wakeups["error"].isna(), "n_returned"].to_numpy()
        if not len(sizes):
            nothing(ax, theme, "no waits")
            return ax
        step = max(1, -(-(int(sizes.max()) + 1) // 40))
        counts = np.bincount(sizes // step)
        left = np.arange(len(counts)) * step
        color = theme.main
        bars = ax.bar(left + (step - 1) / 2, counts, width=0.82 * step, color=color)
        if len(counts) <= 12:
            shares = [f"{100 * c / len(sizes):.0f} %" if c else "" for c in counts]
            ax.bar_label(bars, shares, padding=2, fontsize=SMALL, color=theme.muted)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        ax.margins(y=0.12)
        ax.grid(axis="y")
        ax.tick_params(axis="x", length=0)
        below.text(f"{_count(len(sizes), 'wait')}; mean {sizes.mean():.2f}, most {sizes.max():,}")
    return ax


# ---- latency -------------------------------------------------------------------


def latency(
    data: "pd.Series[Any] | pd.DataFrame | Mapping[str, Any]",
    *,
    ax: Axes | None = None,
    column: str = "total",
    label: str = "latency",
    what: str = "requests",
    note: str | None = None,
) -> Axes:
    """Draw which share of values lies at or below each duration.

    The height axis gives each further nine the same room (90 %, 99 %, 99.9 %), for
    the slow ones are what one looks for, and an even axis hides them in its top edge.

    Parameters
    ----------
    data : Series, DataFrame, or mapping of str to either
        Nanoseconds. A mapping draws a curve for each name; a name with "level",
        "edge", "poll", "select" or "oneshot" in it has that word's colour.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    column : str
        Which column, where a DataFrame is given.
    label : str
        What the duration is.
    what : str
        What was counted.
    note : str, optional
        Circumstances, in grey under the axes.

    Returns
    -------
    matplotlib.axes.Axes
        With the percentiles that the number of values supports marked and written
        out: the 99th needs 100 values, the 99.9th 1,000. Values missing are left
        out; those of 0 or less count, but have no place on a logarithmic axis.
    """
    arms = data if isinstance(data, Mapping) else {label: data}
    compared = isinstance(data, Mapping)
    everything = {str(name): _sorted_ns(arm, column) for name, arm in arms.items()}
    values = {name: ns for name, ns in everything.items() if len(ns) and ns[-1] > 0}
    with canvas(ax, (7.0, 3.8), note) as (ax, theme, below):
        ax.set_xlabel(f"{label} (logarithmic)")
        ax.set_ylabel(f"share of {what}")
        if not values:
            nothing(ax, theme, f"no {what}")
            return ax
        _nines(ax, max(map(len, values.values())))
        colors = {n: theme.arm(n, i) if compared else theme.main for i, n in enumerate(values)}
        marks = {name: _curve(ax, ns, colors[name]) for name, ns in values.items()}
        if compared:
            _percentile_legend(below, marks, colors)
        else:
            _write_percentiles(ax, theme, marks[label])
        _log_durations(ax, "x")
        ax.grid(which="major")
        counts = [len(ns) for ns in values.values()]
        without = ", ".join(everything.keys() - values.keys())
        below.text(
            f"{min(counts):,}"
            + (f" to {max(counts):,}" if min(counts) < max(counts) else "")
            + f" {what}"
            + (" a curve" if len(values) > 1 else "")
            + (f"; no {what} of {without}" if without else "")
        )
    return ax


def _sorted_ns(arm: Any, column: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    if isinstance(arm, pd.DataFrame):
        if column not in arm:
            raise ValueError(
                f"the frame has no column {column!r} to draw; it has {', '.join(arm.columns)}"
            )
        arm = arm[column]
    series = pd.Series(arm)
    return np.sort(series.dropna().to_numpy(dtype=float))


def _curve(ax: Axes, ns: Any, color: str) -> list[tuple[float, float]]:
    """Draw one arm's steps, and dots at the percentiles, which are returned."""
    n = len(ns)
    # Evenly spaced in nines: a million values need no more points than are seen.
    ranks = np.arange(n)
    if n > 4000:
        tail = n - np.unique(np.geomspace(1, n, 2500).astype(int))
        ranks = np.unique(np.concatenate([np.linspace(0, n - 1, 1500).astype(int), tail]))
    ax.step(ns[ranks], (ranks + 0.5) / n, where="post", color=color, lw=1.8, gid="curve")
    # The smallest value with at least that share at or below it; in tenths of a per
    # cent, as 0.999 * 1000 in floats is a little over 999.
    ranks_of = [(p, -(-n * round(p * 10) // 1000) - 1) for p, least in _PERCENTILES if n >= least]
    marks = [(p, float(ns[rank])) for p, rank in ranks_of]
    ax.plot(
        [v for _, v in marks], [p / 100 for p, _ in marks], "o", ms=4.5, color=color,
        mec=style.current().paper, mew=0.8, zorder=4, gid="percentiles",
    )  # fmt: skip
    return marks


def _write_percentiles(ax: Axes, theme: Theme, marks: list[tuple[float, float]]) -> None:
    for p, value in marks:
        ax.annotate(
            f"p{p:g}  {_duration(value)}", (value, p / 100), (-7, 1), ha="right", va="bottom",
            textcoords="offset points", fontsize=8, color=theme.ink, gid="percentile",
        )  # fmt: skip


def _percentile_legend(
    below: Below, marks: Mapping[str, list[tuple[float, float]]], colors: Mapping[str, str]
) -> None:
    """Write the percentiles of each arm as a table, as many as the width holds."""
    longest = max(map(len, marks))
    size = SMALL + 0.5
    room = int(below.width / (size * 0.6)) - longest - 5
    wanted = [50.0, 99.0, 90.0, 99.9][: max(1, room // 15)]
    handles = []
    for name, of_arm in marks.items():
        cells = [f"p{p:g} {_duration(value):<8}" for p, value in of_arm if p in wanted]
        words = f"{name:<{longest}}  {' '.join(cells)}".rstrip()
        handles.append(Line2D([], [], color=colors[name], lw=2.2, label=words))
    below.legend(handles, columns=1, family="DejaVu Sans Mono", size=size)


def _nines(ax: Axes, n: int) -> None:
    """Scale an axis of shares so that each further nine has the same height."""
    # With n values no more can be told apart than a share of half a value.
    top = 1 - 0.4 / n
    ax.set_yscale(
        "function",
        functions=(
            lambda share: -np.log10(np.clip(1 - np.asarray(share, dtype=float), 1e-12, None)),
            lambda height: 1 - 10.0 ** -np.asarray(height, dtype=float),
        ),
    )
    ticks = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
    ticks = [tick for tick in ticks if tick <= max(top, 0.6)]
    ax.set_ylim(0, max(top, 0.6))
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.6g} %"))


# ---- journeys ------------------------------------------------------------------


def journey(
    journeys: pd.DataFrame,
    *,
    ax: Axes | None = None,
    limit: int = 20,
    note: str | None = None,
) -> Axes:
    """Draw requests from the client's intention to its last byte, span by span.

    Parameters
    ----------
    journeys : pandas.DataFrame
        From ``frames.journeys(...)``; a row of it, as ``frame.iloc[[7]]``, draws one
        request.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    limit : int
        Most requests to draw, the first ones; how many more there are is said.
    note : str, optional
        Circumstances, in grey under the axes.

    Returns
    -------
    matplotlib.axes.Axes
        Each request, named by its connection and its ordinal there, from its own
        intended start. A span that ended before it began (the client had its first
        byte before the server's send returned) is a thin bar. The legend has each
        span's median over the requests drawn.
    """
    shown = journeys.head(limit)
    with canvas(ax, (7.5, 1.5 + 0.26 * max(len(shown), 3)), note) as (ax, theme, below):
        if shown.empty:
            ax.set_xlabel("time since the request was due")
            nothing(ax, theme, "no requests")
            return ax
        unit = _unit(_float(shown["total"]).max(initial=2000.0))
        y = np.arange(len(shown))
        handles = []
        backwards = False
        for name, begin, end in _SPANS:
            left = _float(shown[begin] - shown["intended_ns"]) / unit.ns
            width = _float(shown[end] - shown[begin]) / unit.ns
            color = theme.spans[name]
            backwards |= bool((width < 0).any())
            for chosen, height in ((width >= 0, 0.62), (width < 0, 0.2)):
                ax.barh(
                    y[chosen], width[chosen], height, left[chosen], color=color, lw=0, gid=name,
                    zorder=2 if height > 0.5 else 3,
                )  # fmt: skip
            if np.isfinite(width).any():
                median = _duration(float(np.nanmedian(width)) * unit.ns)
                handles.append(_swatch(color, f"{name} {median}"))
        _totals(ax, theme, shown, unit)
        labels = [f"conn {c} #{r}" for c, r in zip(shown["conn"], shown["request"], strict=True)]
        ax.set_yticks(y, labels)
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
        ax.set_xlabel(f"time since the request was due ({unit.name})")
        below.legend(handles, columns=4)
        more = len(journeys) - len(shown)
        remarks = [
            "medians in the legend" if len(shown) > 1 else "",
            "a thin bar is a span that ended before it began" if backwards else "",
            f"{_count(more, 'more request')} not drawn" if more else "",
        ]
        if any(remarks):
            below.text("; ".join(filter(None, remarks)))
    return ax


def _float(values: "pd.Series[Any]") -> Any:
    return values.to_numpy(dtype=float, na_value=np.nan)


def _totals(ax: Axes, theme: Theme, shown: pd.DataFrame, unit: _Unit) -> None:
    """Write each request's total after its bar."""
    total = _float(shown["total"])
    for place, ns in enumerate(total):
        if np.isfinite(ns):
            ax.annotate(
                _duration(ns), (ns / unit.ns, place), (4, 0), textcoords="offset points",
                va="center", fontsize=SMALL, color=theme.muted, gid="total",
            )  # fmt: skip
    right = np.nanmax(np.append(total, 0)) / unit.ns
    ax.set_xlim(min(0.0, ax.get_xlim()[0]), max(right, ax.dataLim.x1) * 1.13)


# ---- the interest list -----------------------------------------------------------


def interest(
    frame: pd.DataFrame, *, ax: Axes | None = None, limit: int = 24, note: str | None = None
) -> Axes:
    """Draw the kernel's interest list beside the program's own table.

    Parameters
    ----------
    frame : pandas.DataFrame
        From ``frames.interest_list(entries, table)``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    limit : int
        Most descriptors to draw. Those that one side alone has are kept first.
    note : str, optional
        Circumstances, in grey under the axes.

    Returns
    -------
    matplotlib.axes.Axes
        A row for each descriptor. An entry that only the kernel has is a ghost, in
        red: the program cannot name it any more, and will hear from it.
    """
    alone = (frame["where"] != "both").to_numpy()
    kept = np.sort(np.argsort(~alone, kind="stable")[:limit])
    shown = frame.iloc[kept]
    with canvas(ax, (5.6, 1.1 + 0.34 * max(len(shown), 2)), note) as (ax, theme, below):
        ax.set_xlim(0, 2)
        ax.set_xticks([0.5, 1.5], ["the kernel watches", "the program's table"])
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        below.depth = 5
        if shown.empty:
            ax.set_yticks([])
            ax.text(1, 0.5, "nothing is watched", ha="center", va="center", color=theme.muted)
            return ax
        ax.set_ylim(len(shown) - 0.45, -0.6)
        ax.set_yticks(range(len(shown)), [f"fd {fd}" for fd in shown["fd"]])
        room = below.width * 0.46
        for place, row in enumerate(shown.itertuples()):
            ghost, lost = (str(row.where) == side for side in ("kernel only", "program only"))
            _cell(ax, theme, room, 0, place, None if lost else str(row.kernel_names), alarm=ghost)
            _cell(ax, theme, room, 1, place, None if ghost else str(row.own_names), alarm=lost)
        counts = frame["where"].value_counts()
        below.text(
            f"{counts.get('both', 0):,} in both, {_count(counts.get('kernel only', 0), 'ghost')} "
            f"only in the kernel, {counts.get('program only', 0):,} only in the program"
            + (f"; {len(frame) - len(shown):,} not drawn" if len(frame) > len(shown) else "")
        )
    return ax


def _cell(
    ax: Axes, theme: Theme, room: float, side: int, place: int, words: str | None, *, alarm: bool
) -> None:
    """Draw one side of a descriptor: a box with its mask, or a gap."""
    color = theme.alarm if alarm else theme.muted
    size = min(8.0, room / (0.62 * len(words or "-")))
    box = FancyBboxPatch(
        (side + 0.03, place - 0.36), 0.94, 0.72, boxstyle="round,pad=0,rounding_size=0.03",
        facecolor=color if words is not None else "none",
        alpha=0.16 if words is not None else 0.6,
        edgecolor="none" if words is not None else color,
        linestyle=(0, (3, 3)), linewidth=0.8, gid="gap" if words is None else "entry",
        mutation_aspect=8,
    )  # fmt: skip
    ax.add_patch(box)
    ax.text(
        side + 0.5, place, "—" if words is None else words, ha="center", va="center",
        fontsize=size, color=color if alarm or words is None else theme.ink,
        fontweight="bold" if alarm else "normal", family="DejaVu Sans Mono",
    )  # fmt: skip
