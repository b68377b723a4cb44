"""Charts of servers under load: level against edge, life cycles, idle connections, observers."""

import re
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from epolllab.analysis.hosts import require_one_run
from epolllab.checks import check_choice, check_text
from epolllab.frames.columns import check_frame
from epolllab.plots.canvas import (
    Canvas,
    From,
    canvas,
    chart_function,
    fixed_axis,
    legend_mark,
    log_axis,
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
from epolllab.plots.units import byte_size, number, plural, whole

__all__ = [
    "METRICS", "idle_connections", "level_against_edge", "lifecycles", "observer_cost", "stranded",
]  # fmt: skip

METRICS = {
    "cpu_us": "server's CPU per request (µs)",
    "wakeups": "wakeups per request",
    "events": "events per request",
    "recv": "recv calls per request",
    "would_block": "calls that would block, per request",
    "epoll_ctl": "epoll_ctl calls per request",
    "p50_us": "median latency (µs)",
    "p99_us": "99th percentile of latency (µs)",
}
"""Columns of ``level_against_edge`` that can be drawn, with their labels."""

_LABELS = {
    **METRICS,
    "waits": "waits per request",
    "requests_per_s": "requests per second",
    "watcher_us": "observer's CPU per request (µs)",
}


def _check_column(name: str, value: str, data: str, frame: pd.DataFrame) -> None:
    """Check that a parameter is a known column, and that the data have numbers in it."""
    check_choice(name, value, _LABELS)
    check_frame(data, frame, f"an experiment with {name}={value!r}", f"{value}?+")


_SENT = {"pieces": "in four pieces", "random": "in random pieces"}
_READING: dict[str, Any] = {"drain": "-", "one read": (0, (3, 1.5))}


@chart_function(
    frame=From(
        ":func:`epolllab.experiments.level_against_edge`",
        "clients* trigger* reading* size+ n_stranded+ n_connections+",
    ),
    what=partial(check_choice, allowed=METRICS),
    clients=check_text,
)
def level_against_edge(
    frame: pd.DataFrame,
    *,
    what: str = "cpu_us",
    clients: str = "at once",
    ax: Axes | None = None,
    note: str | None = None,
) -> Axes:
    """Draw the cost of a request over its size, for level and edge, drained and not.

    A line goes through the medians of the rounds. Level's lines are wider, so that both are
    seen where they are equal. A cross stands at each size where connections were stranded,
    with their share; their cost is not that of a response.

    Parameters
    ----------
    what : str
        A key of :data:`METRICS`.
    clients : str
        Which way of sending.
    """
    _check_column("what", what, "frame", frame)
    require_one_run("frame", frame)
    rows = positive(frame[frame["clients"] == clients], "size")
    rows = rows[rows[what].notna()]
    title = f"Level and edge: {re.sub(r',? per request| [(].*', '', METRICS[what])}"
    with canvas(ax, (6.4, 4.3), note, title) as (ax, chart):
        ax.set(xlabel=f"request size, sent {_SENT.get(clients, clients)}", ylabel=METRICS[what])
        if rows.empty:
            return chart.draw_empty("no requests")
        is_log = bool((rows[what].dropna() > 0).all() and rows[what].max() > 30)
        ax.set(xscale="log", yscale="log" if is_log else "linear")
        handles = []
        for (trigger, reading), part in rows.groupby(["trigger", "reading"], observed=True):
            color, wide = chart.theme.variant(str(trigger)), trigger == "level"
            by_size = part.groupby("size")
            complete = by_size["n_stranded"].sum() == 0
            median = by_size[what].median()[complete]
            handles += ax.plot(
                median.index, median, color=color, ls=_READING.get(str(reading), ":"),
                marker="o", ms=7 if wide else 4, lw=3 if wide else 1.5,
                mfc=color if reading == "drain" else chart.theme.paper,
                label=f"{trigger}, {reading}",
            )  # fmt: skip
        handles += _mark_stranded(chart, rows)
        fixed_axis(ax.xaxis, sorted(rows["size"].unique()), byte_size)
        if is_log:
            log_axis(ax.yaxis, number)
        else:
            ax.yaxis.set_major_formatter(number)
            ax.set_ylim(0, 1 if rows[what].max() < 0.5 else None)
        ax.grid(axis="y")
        chart.legend(handles)
    return ax


def _mark_stranded(chart: Canvas, rows: pd.DataFrame) -> list[Line2D]:
    """Put a cross at the top of the axes at each size that stranded connections."""
    lost = rows[rows["n_stranded"] > 0].groupby("size")[["n_stranded", "n_connections"]].sum()
    if lost.empty:
        return []
    alarm = chart.theme.alarm
    top = chart.ax.get_xaxis_transform()
    shares: Any = lost["n_stranded"] / lost["n_connections"]
    for n_bytes, share in shares.items():
        chart.ax.plot(n_bytes, 1.0, "X", color=alarm, ms=8, transform=top, clip_on=False)
        chart.annotate(
            f"{share:.0%}", (n_bytes, 1.0), (0, 7), xycoords=top, ha="center", va="baseline",
            color=alarm, fontsize=8, annotation_clip=False,
        )  # fmt: skip
    chart.ax.set_title(chart.ax.get_title(loc="left"), pad=22)
    return [legend_mark(alarm, "edge, one read: share stranded", marker="X", ms=7)]


@chart_function(
    frame=From(
        ":func:`epolllab.experiments.strand_connections`",
        "conn began_ns sent_ns last_event_ns gave_up_ns n_sent n_read",
    )
)
def stranded(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw stranded connections: bytes are there to be read, and no event reports them.

    Each lane is a connection, with the time when the client's bytes arrived, the server's
    last event, and the gap from then until the client gave up.
    """
    height = 1.1 + 0.3 * max(4, len(frame))
    with canvas(ax, (6.4, height), note, "Stranded connections: unread bytes") as (ax, chart):
        ax.set(xlabel="time since the first byte was sent (ms)", ylabel="connection")
        if frame.empty:
            return chart.draw_empty("no connection was stranded")
        theme, edge = chart.theme, chart.theme.variant("edge")
        lanes = np.arange(len(frame))
        instants = frame[["began_ns", "sent_ns", "last_event_ns", "gave_up_ns"]]
        since = instants - frame["began_ns"].min()
        began, sent, last_event, gave_up = since.to_numpy(dtype=float).T / 1e6
        silent = np.maximum(last_event, sent)
        look: Any = {"facecolor": theme.faint, "edgecolor": theme.alarm, "hatch": "////", "lw": 0}
        ax.barh(lanes, gave_up - silent, left=silent, height=0.5, **look)
        ax.scatter(sent, lanes, marker="|", s=90, color=theme.main, zorder=3)
        ax.scatter(last_event, lanes, marker="o", s=22, color=edge, zorder=4)
        for lane, unread in enumerate(frame["n_sent"] - frame["n_read"]):
            ax.text(
                (silent[lane] + gave_up[lane]) / 2, lane, f"{unread:,} bytes unread",
                ha="center", va="center", fontsize=8, color=theme.ink,
                bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 3},
            )  # fmt: skip
        chart.label_rows(frame["conn"].astype(str).to_list())
        ax.set_xlim(left=min(0.0, began.min()) - 0.02 * gave_up.max())
        unread = (frame["n_sent"] - frame["n_read"]).sum()
        chart.describe(
            f"{plural(len(frame), 'connection')} with {unread:,} bytes unread, and no event for "
            f"{(gave_up - silent).max():,.0f} ms at most"
        )
        arrived = legend_mark(theme.main, "bytes arrived", marker="|", ms=9, mew=1.8)
        event = legend_mark(edge, "last event", marker="o", ms=5)
        chart.legend([arrived, event, Patch(label="no event", **look)])
    return ax


@chart_function(
    frame=From(":func:`epolllab.experiments.compare_lifecycles`", "lifecycle* trigger*"),
    what=check_text,
)
def lifecycles(
    frame: pd.DataFrame, *, what: str = "epoll_ctl", ax: Axes | None = None, note: str | None = None
) -> Axes:
    """Draw the cost of a request for each life cycle of a connection.

    There is a bar for each life cycle and trigger, the median of the rounds, with the
    rounds as dots.

    Parameters
    ----------
    what : str
        ``"waits"``, ``"requests_per_s"`` or a key of :data:`METRICS`, as in the frame.
    """
    _check_column("what", what, "frame", frame)
    frame = frame[frame[what].notna()]
    with canvas(ax, (6.4, 3.6), note, "Cost of a request, by life cycle") as (ax, chart):
        ax.set(xlabel=_LABELS[what], ylabel="life cycle")
        if frame.empty:
            return chart.draw_empty("no requests")
        groups: Any = list(frame.groupby(["lifecycle", "trigger"], observed=True)[what])
        for lane, ((_, trigger), values) in enumerate(groups):
            median = values.median()
            ax.barh(lane, median, height=0.62, color=chart.theme.variant(str(trigger)))
            if len(values) > 1:
                ax.scatter(values, [lane] * len(values), s=10, color=chart.theme.ink, zorder=3)
            chart.annotate(number(median), (values.max(), lane), (5, 0), fontsize=8)
        chart.label_rows([", ".join(map(str, key)) for key, _ in groups])
        ax.margins(x=0.12)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(number)
        chart.legend([Patch(color=chart.theme.variant(t), label=t) for t in ("level", "edge")])
    return ax


_SERVER_LOOKS: dict[str, tuple[str, Any]] = {
    "epoll-level-eager": ("o", "-"),
    "epoll-level-howto": ("X", (0, (4, 1.6))),
    "epoll-edge-once": ("s", "-"),
    "epoll-oneshot": ("D", "-"),
    "poll-eager": ("^", "-"),
    "select-eager": ("v", "-"),
}


@chart_function(
    data=From(":func:`epolllab.experiments.idle_connections`", "server* idle+", is_result=True),
    value=check_text,
)
def idle_connections(
    data: Data, *, ax: Axes | None = None, value: str = "cpu_us", note: str | None = None
) -> Axes:
    """Draw the throughput or cost of active clients over the number of idle connections.

    Points are medians of the rounds, and bars go from the least round to the greatest. The
    axis is logarithmic, with 0 set apart at its left. A line that ends early has a cross.

    Parameters
    ----------
    value : str
        ``"cpu_us"``, ``"requests_per_s"``, ``"epoll_ctl"``, ``"waits"``, ``"events"``,
        ``"p50_us"`` or ``"p99_us"``.
    """
    frame = measured(data)
    _check_column("value", value, "data", frame)
    frame = frame[frame[value].notna()]
    size = (6.8, 4.4)
    with canvas(ax, size, note_of(data, note), "Servers with idle connections") as (ax, chart):
        ax.set(xlabel="idle connections", ylabel=_LABELS[value])
        if frame.empty:
            return chart.draw_empty("nothing measured")
        handles = _draw_servers(chart, frame, value)
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter("{x:,.10g}")
        ax.grid(axis="y")
        chart.legend(handles, columns=3)
    return ax


def _draw_servers(chart: Canvas, frame: pd.DataFrame, value: str) -> list[Any]:
    sizes = sorted(frame["idle"].unique())
    zero = np.log10(min((n for n in sizes if n), default=10)) - 1
    place = {n: np.log10(n) if n else zero for n in sizes}
    handles = []
    servers = in_order(frame["server"])
    for i, server in enumerate(servers):
        marker, dashes = _SERVER_LOOKS.get(server, ("o", "-"))
        rows = frame[frame["server"] == server].groupby("idle")[value]
        median = rows.median()
        x = median.index.map(place) + 0.025 * (i - (len(servers) - 1) / 2)
        color = chart.theme.variant(server)
        chart.ax.vlines(x, rows.min(), rows.max(), color=color, lw=1.2)
        handles += chart.ax.plot(
            x, median, marker, ls=dashes, color=color, ms=5, mew=0, lw=1.5, label=server,
            gid=server, clip_on=False, zorder=3,
        )  # fmt: skip
        if median.index[-1] < sizes[-1]:
            mark_end(chart, x[-1], median.iloc[-1], color)
    shown: list[int] = []
    for n in reversed(sizes):  # a size where one server ends may be too near to the next
        if not shown or n < 0.7 * shown[0]:
            shown.insert(0, n)
    chart.ax.set_xticks([place[n] for n in shown], [f"{n:,}" for n in shown])
    return handles


@chart_function(
    data=From(":func:`epolllab.experiments.observer_cost`", "load* where* look*", is_result=True),
    load=partial(check_choice, allowed=("echo", "http")),
    value=check_text,
)
def observer_cost(
    data: Data,
    *,
    ax: Axes | None = None,
    load: str = "echo",
    value: str = "p50_us",
    note: str | None = None,
) -> Axes:
    """Draw the cost of each way of observing a server.

    Points are medians of the rounds, and bars go from the least round to the greatest. The
    text beside each has the value, and its ratio to that of the plain server in the same
    place.

    Parameters
    ----------
    load : {"echo", "http"}
        Which of the loads.
    value : str
        ``"p50_us"``, ``"p99_us"``, ``"requests_per_s"``, ``"cpu_us"`` or ``"watcher_us"``.
    """
    frame = measured(data)
    _check_column("value", value, "data", frame)
    frame = frame[(frame["load"] == load) & frame[value].notna()]
    looks = in_order(frame["look"]) if len(frame) else []
    size = (6.8, 1.6 + 0.42 * max(len(looks), 3))
    with canvas(ax, size, note_of(data, note), "Cost of observing a server") as (ax, chart):
        what = "one echo at a time" if load == "echo" else "50 busy HTTP connections"
        ax.set_xlabel(f"{_LABELS[value]}, {what}")
        if not looks:
            return chart.draw_empty("nothing measured")
        chart.label_rows([look.replace(", ", ",\n") for look in looks])
        handles = []
        for where, marker, shift in (("process", "o", -0.16), ("thread", "s", 0.16)):
            rows = frame[frame["where"] == where].groupby("look", observed=True)[value]
            if not len(rows):
                continue
            median = rows.median()
            plain = median.get("plain", np.nan)
            color = chart.theme.series[where == "thread"]
            ratios = (f"  {x / plain:.2g} x" if plain and x != plain else "" for x in median)
            handles += draw_intervals(
                chart, [looks.index(str(look)) + shift for look in median.index],
                (median, rows.min(), rows.max()),
                [f"{x:,.0f}{ratio}" for x, ratio in zip(median, ratios, strict=True)],
                color=color, marker=marker, label=f"server in a {where}", gid=where,
            )  # fmt: skip
        ax.set_xlim(0, float(frame[value].max()) * 1.18 or 1)
        ax.xaxis.set_major_formatter(whole)
        ax.grid(axis="x")
        chart.legend(handles)
    return ax
