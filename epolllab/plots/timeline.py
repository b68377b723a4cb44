"""The timeline of a recording: every call of the loop as a bar in its connection's lane."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from epolllab.checks import check_choice, check_int, check_number, check_sequence, shown
from epolllab.plots import style
from epolllab.plots.canvas import SMALL, Canvas, From, canvas, chart_function
from epolllab.plots.sources import Events, frame
from epolllab.plots.units import duration, plural, unit_for

__all__ = ["timeline"]

MOST_EVENTS = 400
"""Events in the busiest window; more could not be told apart."""

FEW_EVENTS = 60
"""Events of a recording that was made by hand, where each may matter."""

_HEIGHTS = {"callback": (0.33, 0.44), "submit": (-0.24, 0.02), "complete": (0.06, 0.3)}
"""Top and bottom of a bar in its lane, where it is not the usual one."""

_STARTS = ("busiest", "first event", "first accept")


def _check_connections(name: str, value: Any) -> int | tuple[int, ...]:
    if isinstance(value, Iterable):
        return check_sequence(name, value, partial(check_int, least=0))
    return check_int(name, value, 0)


def _check_span(name: str, value: Any) -> tuple[float, float]:
    span = check_sequence(name, value, check_number)
    if len(span) != 2 or span[0] >= span[1]:
        raise ValueError(
            f"{name} must be (start, end) with start < end, in nanoseconds from the first "
            f"event, not {shown(value)}"
        )
    return span


def _check_start(name: str, value: Any) -> str | float:
    if isinstance(value, str):
        return check_choice(name, value, _STARTS)
    return check_number(name, value, 0)


class _Window(NamedTuple):
    """The part of a recording to draw, in nanoseconds from the first event.

    ``origin`` is where the axis has its 0, in words; ``note`` what is left out.
    """

    first: float
    last: float
    zero: float = 0.0
    origin: str = "the first event"
    note: str = ""
    is_all: bool = False


@chart_function(
    events=From(
        "``recording.events()``", "t_ns dur_ns+ conn+ op* mask_names* error*",
        method="events", alone="the colours of a timeline are operations",
    ),
    connections=_check_connections,
    span=_check_span,
    start=_check_start,
    names=partial(check_int, least=0),
)  # fmt: skip
def timeline(
    events: Events,
    *,
    ax: Axes | None = None,
    connections: int | Sequence[int] = 20,
    span: tuple[float, float] | None = None,
    start: str | float | None = None,
    names: int = 80,
    note: str | None = None,
) -> Axes:
    """Draw the loop's system calls, with a lane for each connection and one for the loop.

    Each call is a bar of its true length, with an outline that keeps a microsecond
    visible in a chart of a second. A triangle is a ready row, with the mask that
    the kernel returned; a vertical line is the end of a wait, so what stands
    between two lines belongs to one wakeup. A callback is a thin bar below the calls made in
    it, and with io_uring submissions are in the upper half of a lane, completions in the
    lower.

    Parameters
    ----------
    connections : int or sequence of int
        How many connections at most, in order of appearance; or the serials wanted.
    span : tuple of float, optional
        Start and end of the part to draw, in nanoseconds from the first event.
    start : {"busiest", "first event", "first accept"} or float, optional
        Without `span`, where the part to draw begins: a number is nanoseconds from the first
        event, and all but "busiest" go on to the last event. "busiest", the default, is the
        shortest time that holds nine tenths of the calls, at most 400 of them (of more
        connections than have a lane, fewer), without a pause of more than half of it. All is
        drawn if that is two thirds of the recording or more; of at most 60 calls, at least
        seven tenths are. The text below has what is left out.
    names : int
        Most masks to write out; where there are more, or no room, triangles stand alone.
    """
    events = frame(events)
    if span is not None and start is not None:
        raise ValueError("start must not be given with span, which has a start of its own")
    begin = int(events["t_ns"].iloc[0]) if len(events) else 0
    window = _window(events, begin, span, start, connections)
    at = events["t_ns"] - begin
    shown = events
    if not window.is_all:
        shown = events[(at + events["dur_ns"] >= window.first) & (at <= window.last)]
    serials, n_more = _lanes(shown, connections)
    n_lanes = 1 + len(serials) + (n_more > 0)
    size = (8.0, 1.7 + 0.3 * max(n_lanes, 4))
    with canvas(ax, size, note, "System calls of the event loop") as (ax, chart):
        if shown.empty:
            ax.set_xlabel(f"time since {window.origin}")
            return chart.draw_empty("no events")
        length = window.last - window.first
        unit = unit_for(length)
        lane = shown["conn"].map({0: 0} | {conn: i for i, conn in enumerate(serials, 1)})
        x = (shown["t_ns"] - begin - window.zero) / unit.ns
        drawn = shown.assign(lane=lane, x=x, w=shown["dur_ns"] / unit.ns)[lane.notna()]
        room = 0.008 * length if window.is_all else 0
        low, high = window.first - window.zero, window.last - window.zero
        ax.set_xlim((low - room) / unit.ns, (high + room) / unit.ns)
        _label_lanes(chart, serials, n_more)
        ends = (drawn["x"] + drawn["w"])[drawn["op"] == "wait"]
        if 0 < len(ends) <= 60:
            ax.vlines(
                ends, 0, 1, transform=ax.get_xaxis_transform(), color=chart.theme.muted, lw=0.6,
                alpha=0.5, zorder=0.6, gid="wake",
            )  # fmt: skip
        groups = _draw_calls(chart, drawn)
        marks = _draw_marks(chart, drawn, names)
        ax.set_xlabel(f"time since {window.origin} ({unit.name})")
        chart.legend([*groups, *marks])
        if window.note:
            chart.text(f"{len(shown):,} of {len(events):,} events: {window.note}")
        chart.describe(_sentence(shown, len(serials) + n_more, length))
    return ax


def _sentence(shown: pd.DataFrame, n_connections: int, length: float) -> str:
    """What a timeline shows: how many calls of which kind, and which errors."""
    counts = shown["op"].astype("str").value_counts()
    calls = ", ".join(f"{n:,} {op}" for op, n in counts.head(5).items())
    others = f", {counts.iloc[5:].sum():,} others" if len(counts) > 5 else ""
    errors = Counter(shown["error"].dropna().astype("str")).most_common(3)
    failed = "".join(f"; {n:,} {name}" for name, n in errors)
    return (
        f"{plural(len(shown), 'event')} of the loop and {plural(n_connections, 'connection')} in "
        f"{duration(length)}: {calls}{others}{failed}"
    )


def _window(
    events: pd.DataFrame,
    begin: int,
    span: tuple[float, float] | None,
    start: str | float | None,
    connections: int | Sequence[int],
) -> _Window:
    """The part of the events to draw; `begin` is the first one's time."""
    if span is not None:
        return _Window(*span)
    at = (events["t_ns"] - begin).to_numpy()
    ends = at + events["dur_ns"].to_numpy()
    end = max(int(ends.max(initial=0)), 1)
    if isinstance(start, int | float):
        return _Window(start, max(end, start + 1))
    is_accept = (events["op"] == "accept").to_numpy() & (events["conn"] > 0).to_numpy()
    if start == "first accept" and len(events):
        if not is_accept.any():
            raise ValueError("start must be another one: no connection is accepted in these events")
        first = float(at[is_accept].min())
        return _Window(first, max(end, first + 1), first, "the first accept")
    is_call = (events["op"] != "wait").to_numpy()
    conns = events["conn"].to_numpy()
    if not isinstance(connections, int):
        is_call = is_call & np.isin(conns, [0, *connections])
    if start != "first event" and is_call.sum() > 1:
        most = connections if isinstance(connections, int) else len(conns)
        first, last = _busiest(at[is_call], ends[is_call], conns[is_call], most)
        if last - first < 2 / 3 * end:
            first, last = (
                max(0.0, first - 0.04 * (last - first)),
                min(end, last + 0.04 * (last - first)),
            )
            return _Window(
                first, last, first, f"{duration(first)} after the first event" if first else
                "the first event",
                f'the busiest {duration(last - first)} of {duration(end)}; start="first event" '
                "draws all",
            )  # fmt: skip
    return _Window(0, end, is_all=True)


def _busiest(at: Any, ends: Any, conns: Any, most: int) -> tuple[float, float]:
    """Where the most calls are: the first one's start, and the last one's end.

    It is the shortest time with nine tenths of the calls, or, if there are more of them, with
    MOST_EVENTS and about the `most` connections that have a lane; then the fuller side of each
    pause that takes more than half of it. Of FEW_EVENTS, no more than three tenths are left out.
    """
    order = np.argsort(at, kind="stable")
    at, ends, conns = at[order], np.maximum.accumulate(ends[order]), conns[order]
    few = len(at) <= FEW_EVENTS
    n = len(at) if few else min(math.ceil(0.9 * len(at)), MOST_EVENTS)
    first = _densest(at, n)
    while n > 12 and len(at) > MOST_EVENTS and len(np.unique(conns[first : first + n])) > most + 1:
        n = math.ceil(0.85 * n)
        first = _densest(at, n)
    stop = first + n
    while stop - first > 2:
        pauses = at[first + 1 : stop] - ends[first : stop - 1]
        longest = int(np.argmax(pauses))
        if 2 * pauses[longest] <= ends[stop - 1] - at[first]:
            break
        split = first + 1 + longest
        kept = (first, split) if split - first >= stop - split else (split, stop)
        if few and kept[1] - kept[0] < 0.7 * len(at):
            break
        first, stop = kept
    return float(at[first]), float(ends[stop - 1])


def _densest(at: Any, n: int) -> int:
    """The first of the `n` successive instants that are nearest to each other."""
    return int(np.argmin(at[n - 1 :] - at[: len(at) - n + 1]))


def _lanes(events: pd.DataFrame, connections: int | Sequence[int]) -> tuple[list[int], int]:
    """The serials to draw, and the number of those left out."""
    present = [int(conn) for conn in events["conn"].unique() if conn]
    wanted = present[:connections] if isinstance(connections, int) else list(connections)
    return wanted, len(set(present) - set(wanted))


def _label_lanes(chart: Canvas, serials: list[int], n_more: int) -> None:
    ax, theme = chart.ax, chart.theme
    labels = ["loop", *(f"conn {conn}" for conn in serials)]
    if n_more:
        labels.append(f"{n_more:,} more")
    chart.label_rows(labels)
    ax.set_ylim(top=-0.75)
    ax.spines["left"].set_visible(False)
    # The loop's own lane is shaded: its thread serves all the others.
    ax.axhspan(-0.75, 0.5, color=theme.faint, alpha=0.45, lw=0, zorder=0)
    ax.get_yticklabels()[0].set_fontweight("bold")
    if n_more:
        ax.get_yticklabels()[-1].set_color(theme.muted)
    ax.hlines(
        np.arange(1, len(serials) + 1), 0, 1, color=theme.faint, lw=0.8, zorder=0.5,
        transform=ax.get_yaxis_transform(),
    )  # fmt: skip


def _draw_calls(chart: Canvas, drawn: pd.DataFrame) -> list[Any]:
    """Draw a bar for each call, one collection for each group of operations."""
    handles = []
    group = drawn["op"].astype("str").map(style.OP_GROUPS)
    for name, color in chart.theme.ops.items():
        calls = drawn[group == name]
        if calls.empty:
            continue
        left, width, lane = (calls[c].to_numpy(dtype=float) for c in ("x", "w", "lane"))
        x = np.stack([left, left + width, left + width, left], axis=1)
        top, bottom = _HEIGHTS.get(name, (-0.24, 0.3))
        y = lane[:, np.newaxis] + np.array([top, top, bottom, bottom])
        corners: Any = np.stack([x, y], axis=-1)
        # The outline's width is in points, and so is the least width of a bar.
        bars = PolyCollection(corners, facecolor=color, edgecolor=color, linewidth=0.9, gid=name)
        chart.ax.add_collection(bars, autolim=False)
        label = "epoll_ctl" if name == "control" else ", ".join(calls["op"].astype("str").unique())
        handles.append(Patch(facecolor=color, edgecolor="none", label=label))
    return handles


def _draw_marks(chart: Canvas, drawn: pd.DataFrame, names: int) -> list[Any]:
    """Mark ready rows, calls that would block, and errors."""
    theme = chart.theme
    would_block = drawn["error"].isin(["EAGAIN", "EWOULDBLOCK", "EINPROGRESS"])
    is_error = drawn["error"].notna() & ~would_block
    drawn = drawn.assign(at=drawn["x"] + drawn["w"])
    inside = drawn["at"].between(*chart.ax.get_xlim())
    handles = []
    for name, chosen, marker, color, size in (
        ("ready", drawn["op"] == "ready", "v", theme.ink, 4.0),
        ("would block", would_block, "x", theme.alarm, 5.5),
        ("error", is_error, "X", theme.alarm, 6.0),
    ):
        rows = drawn[chosen & inside]
        if rows.empty:
            continue
        size *= 1.0 if len(rows) <= 150 else 0.75 if len(rows) <= 600 else 0.55
        look: Any = {"marker": marker, "color": color, "mew": 1.3 if marker == "x" else 0.0}
        y = rows["lane"] - (0.39 if name == "ready" else 0)
        chart.ax.plot(rows["at"], y, ls="", ms=size, zorder=4, clip_on=False, gid=name, **look)
        handles.append(Line2D([], [], ls="", ms=5, label=name, **look))
        if name == "ready" and len(rows) <= names:
            _write_beside(chart, rows, "mask_names", (4, -0.39), color)
        elif name == "error" and len(rows) <= names:
            _write_beside(chart, rows, "error", (-3, 0.46), color)
    return handles


def _write_beside(
    chart: Canvas, rows: pd.DataFrame, column: str, offset: tuple[float, float], color: str
) -> None:
    """Write a column's words beside marks, where the next mark in the lane leaves room.

    ``offset`` is to the right in points, and down in lanes. At the right end of the
    chart a word goes to the left of its mark, if there is room before it.
    """
    low, high = chart.ax.get_xlim()
    per_point = (high - low) / chart.width
    lanes = rows.groupby("lane")["at"]
    before, after = lanes.shift(1).fillna(low), lanes.shift(-1).fillna(np.inf)
    words = rows[column].astype(object).fillna("").astype("str")
    marks = zip(rows["at"], rows["lane"], words, before, after, strict=True)
    for x, lane, word, previous, following in marks:
        needs = (abs(offset[0]) + 4 + 4.4 * len(word)) * per_point
        at_end = x + needs > high + 30 * per_point
        if x + needs > following or (at_end and x - needs < previous + needs):
            continue
        chart.annotate(
            word, (x, lane + offset[1]), (-4 if at_end else offset[0], 0), color=color,
            ha="right" if at_end else "left", fontsize=SMALL - 0.5, zorder=5, gid="word",
            annotation_clip=False,
        )  # fmt: skip
