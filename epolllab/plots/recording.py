"""Charts of a recording: its events, its wakeups, and the interest list."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator

from epolllab.checks import check_int, check_number, check_sequence, shown
from epolllab.plots import style
from epolllab.plots.canvas import SMALL, Canvas, From, canvas, chart_function, log_axis
from epolllab.plots.text import short
from epolllab.plots.units import duration, plural, round_duration, unit_for, whole

__all__ = ["batch_sizes", "interest", "timeline", "wakeups"]


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


@chart_function(
    events=From("``recording.events()``", "t_ns dur_ns+ conn+ op* mask_names* error*"),
    connections=_check_connections,
    span=_check_span,
    names=partial(check_int, least=0),
)
def timeline(
    events: pd.DataFrame,
    *,
    ax: Axes | None = None,
    connections: int | Sequence[int] = 20,
    span: tuple[float, float] | None = None,
    names: int = 80,
    note: str | None = None,
) -> Axes:
    """Draw the loop's system calls, with a lane for each connection and one for the loop.

    Each call is a bar of its true length, with an outline that keeps a microsecond
    visible in a chart of a second. A triangle is a ready row, with the mask that
    the kernel returned; a vertical line is the end of a wait, so what stands
    between two lines belongs to one wakeup.

    Parameters
    ----------
    connections : int or sequence of int
        How many connections at most, in order of appearance; or the serials wanted.
    span : tuple of float, optional
        Start and end of the part to draw, in nanoseconds from the first event.
    names : int
        Most masks to write out; where there are more, or no room, triangles stand alone.
    """
    shown, begin = _within(events, span)
    serials, n_more = _lanes(shown, connections)
    n_lanes = 1 + len(serials) + (n_more > 0)
    size = (8.0, 1.7 + 0.3 * max(n_lanes, 4))
    with canvas(ax, size, note, "System calls of the event loop") as (ax, chart):
        if shown.empty:
            ax.set_xlabel("time since the first event")
            return chart.draw_empty("no events")
        first, last = span or (0, int((shown["t_ns"] + shown["dur_ns"]).max()) - begin)
        unit = unit_for(last - first)
        lane = shown["conn"].map({0: 0} | {conn: i for i, conn in enumerate(serials, 1)})
        drawn = shown.assign(
            lane=lane, x=(shown["t_ns"] - begin) / unit.ns, w=shown["dur_ns"] / unit.ns
        )
        drawn = drawn[lane.notna()]
        last = max(last, first + 1)
        room = 0 if span else 0.008 * (last - first)
        ax.set_xlim((first - room) / unit.ns, (last + room) / unit.ns)
        _label_lanes(chart, serials, n_more)
        ends = (drawn["x"] + drawn["w"])[drawn["op"] == "wait"]
        if 0 < len(ends) <= 60:
            ax.vlines(
                ends, 0, 1, transform=ax.get_xaxis_transform(), color=chart.theme.muted, lw=0.6,
                alpha=0.5, zorder=0.6, gid="wake",
            )  # fmt: skip
        groups = _draw_calls(chart, drawn)
        marks = _draw_marks(chart, drawn, names)
        ax.set_xlabel(f"time since the first event ({unit.name})")
        chart.legend([*groups, *marks])
    return ax


def _within(events: pd.DataFrame, span: tuple[float, float] | None) -> tuple[pd.DataFrame, int]:
    begin = int(events["t_ns"].iloc[0]) if len(events) else 0
    if span is None:
        return events, begin
    at = events["t_ns"] - begin
    return events[(at + events["dur_ns"] >= span[0]) & (at <= span[1])], begin


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
        y = lane[:, np.newaxis] + np.array([-0.24, -0.24, 0.3, 0.3])
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


@chart_function(wakeups=From("``recording.wakeups()``", "t_ns waited_ns+ handled_ns+"))
def wakeups(wakeups: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw how long each wait slept, and how long the loop then worked, over time.

    Durations are on a logarithmic axis, with a line at each median. A wakeup in which
    nothing was done has no second point; the text below gives the number of these.
    """
    title = "Duration of each wait and of the work after it"
    with canvas(ax, (7.0, 3.8), note, title) as (ax, chart):
        ax.set_ylabel("duration")
        if wakeups.empty:
            ax.set_xlabel("time since the first wait")
            return chart.draw_empty("no wakeups")
        at = wakeups["t_ns"] - wakeups["t_ns"].iloc[0]
        total = int(at.iloc[-1] + wakeups["waited_ns"].iloc[-1] + wakeups["handled_ns"].iloc[-1])
        unit = unit_for(total)
        size = 4.5 if len(at) < 300 else 2.5 if len(at) < 5000 else 1.2
        for name, start, color in (
            ("waited", at, chart.theme.muted),
            ("handled", at + wakeups["waited_ns"], chart.theme.main),
        ):
            some = wakeups[f"{name}_ns"] > 0
            ns = wakeups[f"{name}_ns"][some]
            ax.plot(
                start[some] / unit.ns, ns, "o", ms=size, mew=0, color=color, alpha=0.7, label=name
            )
            if some.any():
                median = float(ns.median())
                ax.axhline(median, color=color, lw=1.1, zorder=1.5, gid="median")
                chart.annotate(
                    duration(median), (1, median), (4, 0), xycoords=ax.get_yaxis_transform(),
                    fontsize=8, color=color, gid="median",
                )  # fmt: skip
        ax.set_yscale("log")
        log_axis(ax.yaxis, round_duration)
        ax.grid(axis="y")
        ax.set_xlabel(f"time since the first wait ({unit.name})")
        chart.legend(ax.get_legend_handles_labels()[0])
        idle = int((wakeups["handled_ns"] == 0).sum())
        busy = 1 - wakeups["waited_ns"].sum() / max(total, 1)
        chart.text(
            f"{plural(len(wakeups), 'wakeup')} in {duration(total)}; not waiting "
            f"{100 * busy:.0f} % of the time" + (f"; nothing to handle in {idle:,}" if idle else "")
        )
    return ax


@chart_function(
    wakeups=From("``recording.wakeups()``; waits that failed are left out", "n_returned+ error*")
)
def batch_sizes(wakeups: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw how many descriptors the waits returned at once.

    Large batches mean that one wait served many connections: the loop was busy, and
    the connections shared the cost of waiting. There is a bar for each number up to 40;
    with larger ones there is one for each of 1, 2, 3-4, 5-8 and so on. The bar at 0 is
    timeouts.
    """
    with canvas(ax, (6.0, 3.4), note, "Batch sizes of the waits") as (ax, chart):
        ax.set(xlabel="descriptors returned by one wait", ylabel="waits")
        sizes = wakeups.loc[wakeups["error"].isna(), "n_returned"].to_numpy(dtype=int)
        if not len(sizes):
            return chart.draw_empty("no waits")
        is_single = sizes.max() <= 40
        counts = np.bincount(sizes if is_single else _doubling(sizes))
        bars = ax.bar(np.arange(len(counts)), counts, width=0.82, color=chart.theme.main)
        if len(counts) <= 12:
            shares = [f"{100 * c / len(sizes):.0f} %" if c else "" for c in counts]
            ax.bar_label(bars, shares, padding=2, fontsize=SMALL, color=chart.theme.muted)
        if is_single:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        else:
            names = [_range_of(place) for place in range(len(counts))]
            is_turned = len(names) > 8  # so that they do not overlap
            chart.name_ticks(ax.xaxis, range(len(names)), names, rotation=30 * is_turned)
            chart.depth += 20 * is_turned
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.yaxis.set_major_formatter(whole)
        ax.margins(y=0.12)
        ax.grid(axis="y")
        ax.tick_params(axis="x", length=0)
        chart.text(f"{plural(len(sizes), 'wait')}; mean {sizes.mean():.2f}, most {sizes.max():,}")
    return ax


def _doubling(sizes: Any) -> Any:
    """The place of each number among 0, 1, 2, 3-4, 5-8 and so on."""
    return np.where(sizes > 0, np.ceil(np.log2(np.maximum(sizes, 1))) + 1, 0).astype(int)


def _range_of(place: int) -> str:
    """The numbers that have a place, in words."""
    most = 1 << max(place - 1, 0)
    return str(place) if place < 3 else f"{most // 2 + 1:,}\N{EN DASH}{most:,}"


@chart_function(
    frame=From(
        "``server.interest()`` or ``frames.interest_list(entries, table)``",
        "fd where* kernel_names* own_names*",
    ),
    limit=partial(check_int, least=0),
)
def interest(
    frame: pd.DataFrame, *, ax: Axes | None = None, limit: int = 24, note: str | None = None
) -> Axes:
    """Draw the kernel's interest list beside the program's own table, a row per descriptor.

    An entry that only the kernel has is a ghost, in red: the program no longer has a
    descriptor to remove it by, and still receives its events.

    Parameters
    ----------
    limit : int
        Most descriptors to draw; entries that only one side has come first.
    """
    one_sided = (frame["where"] != "both").to_numpy()
    kept = np.sort(np.argsort(~one_sided, kind="stable")[:limit])
    shown = frame.iloc[kept]
    size = (5.6, 1.3 + 0.34 * max(len(shown), 2))
    with canvas(ax, size, note, "Descriptors watched: kernel and program") as (ax, chart):
        chart.label_columns(["kernel's interest list", "program's table"])
        if shown.empty:
            return chart.draw_empty("nothing is watched")
        chart.label_rows([f"fd {fd}" for fd in shown["fd"]])
        for place, row in enumerate(shown.itertuples()):
            ghost, lost = (str(row.where) == side for side in ("kernel only", "program only"))
            kernel = None if lost else str(row.kernel_names) or str(row.where)
            _draw_entry(chart, 0, place, kernel, alarm=ghost)
            _draw_entry(chart, 1, place, None if ghost else str(row.own_names), alarm=lost)
        counts = frame["where"].value_counts()
        chart.text(
            f"{counts.get('both', 0):,} in both, {plural(counts.get('kernel only', 0), 'ghost')} "
            f"only in the kernel, {counts.get('program only', 0):,} only in the program"
            + (f"; {len(frame) - len(shown):,} not drawn" if len(frame) > len(shown) else "")
        )
    return ax


def _draw_entry(chart: Canvas, side: int, place: int, words: str | None, *, alarm: bool) -> None:
    """Draw one side of a descriptor: a box with its mask, or a gap."""
    color = chart.theme.alarm if alarm else chart.theme.muted
    look: Any = {"facecolor": color, "edgecolor": "none", "alpha": 0.16, "gid": "entry"}
    if words is None:
        look = {"facecolor": "none", "edgecolor": color, "alpha": 0.6, "gid": "gap"}
    box = FancyBboxPatch(
        (side - 0.47, place - 0.36), 0.94, 0.72, boxstyle="round,pad=0,rounding_size=0.03",
        linestyle=(0, (3, 3)), linewidth=0.8, mutation_aspect=8, **look,
    )  # fmt: skip
    chart.ax.add_patch(box)
    chart.ax.text(
        side, place, "—" if words is None else short(words, 40), ha="center", va="center",
        fontsize=min(8.0, 0.46 * chart.width / (0.62 * len(short(words or "-", 40)))),
        color=color if alarm or words is None else chart.theme.ink,
        fontweight="bold" if alarm else "normal", family="DejaVu Sans Mono",
    )  # fmt: skip
