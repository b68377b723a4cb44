"""The experiments as pictures, one function a picture.

One job: draw a frame of this package on an Axes and return it, by the contract of
``plots``: data first, the rest by keyword, ``ax=None``, an empty frame gives an empty,
labelled picture. It measures nothing. The ``picture_of_...`` functions draw an outcome.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from epolllab.analysis.literature import CLOUDFLARE_BALANCE, CLOUDFLARE_TAILS
from epolllab.checks import check_choice
from epolllab.plots import recording
from epolllab.plots.canvas import canvas, nothing

if TYPE_CHECKING:
    pass


__all__ = [
    "METRICS",
    "balance",
    "checks",
    "herd",
    "level_against_edge",
    "lifecycles",
    "masks",
    "numbers",
    "stranded",
    "tails",
]


METRICS = {
    "cpu_us": "server's CPU per request (µs)",
    "wakeups": "wake-ups per request",
    "events": "events per request",
    "recv": "recv per request",
    "would_block": "would-blocks per request",
    "epoll_ctl": "epoll_ctl per request",
    "p50_us": "median latency (µs)",
    "p99_us": "99th percentile of latency (µs)",
}
"""Columns of ``level_against_edge`` that can be drawn, with their labels."""

_SENT = {"pieces": "in four pieces", "random": "in random pieces"}

_READING: dict[str, Any] = {"drain": "-", "one read": (0, (3, 1.5))}


def _bytes(value: float, _place: object = None) -> str:
    """A number of bytes in as few letters as an axis has room for."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if value >= size * 0.9995:
            return f"{value / size:.3g} {unit}"
    return f"{value:g} B"


def _plain(value: float, _place: object = None) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def level_against_edge(
    frame: pd.DataFrame,
    *,
    what: str = "cpu_us",
    clients: str = "at once",
    ax: Axes | None = None,
    note: str | None = None,
) -> Axes:
    """Draw what a request costs over its size, for level and edge, drained and not.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`epolllab.experiments.level_against_edge`.
    what : str
        A key of :data:`METRICS`.
    clients : str
        Which way of sending.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        A grey line under the picture.

    Returns
    -------
    matplotlib.axes.Axes
        A line through the medians of the rounds for each arm, and a cross at each
        size where connections were stranded: their cost is not one of an answer.
    """
    check_choice("what", what, list(METRICS))
    rows = frame[frame["clients"] == clients]
    with canvas(ax, (6.4, 4.0), note) as (ax, theme, below):
        ax.set_xlabel(f"bytes of a request, sent {_SENT.get(clients, clients)}")
        ax.set_ylabel(METRICS[what])
        if rows.empty:
            nothing(ax, theme, "no requests")
            return ax
        is_log = bool((rows[what].dropna() > 0).all() and rows[what].max() > 30)
        ax.set_xscale("log")
        ax.set_yscale("log" if is_log else "linear")
        handles = []
        for (trigger, reading), arm in rows.groupby(["trigger", "reading"], observed=True):
            color, dashes = theme.arm(str(trigger)), _READING[str(reading)]
            by_size = arm.groupby("size")
            median = by_size[what].median()
            whole = by_size["n_stranded"].sum() == 0
            ax.plot(
                median.index[whole],
                median[whole],
                color=color,
                linestyle=dashes,
                marker="o",
                markersize=4,
                markerfacecolor=color if reading == "drain" else theme.paper,
                label=f"{trigger}, {reading}",
            )
            handles.append(ax.lines[-1])
        _mark_stranded(ax, theme, rows, handles)
        ax.xaxis.set_major_locator(FixedLocator(sorted(rows["size"].unique())))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(_bytes))
        ax.yaxis.set_major_formatter(FuncFormatter(_plain))
        if is_log:
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_minor_locator(NullLocator())
        else:
            ax.set_ylim(bottom=0)
            if rows[what].max() < 0.5:
                ax.set_ylim(top=1)
        ax.grid(axis="y")
        below.legend(handles)
    return ax


def _mark_stranded(ax: Axes, theme: Any, rows: pd.DataFrame, handles: list[Any]) -> None:
    """Put a cross at the top of the axes at each size that stranded connections."""
    lost = rows.groupby("size")[["n_stranded", "n_connections"]].sum()
    lost = lost[lost["n_stranded"] > 0]
    if lost.empty:
        return
    arms = rows[rows["n_stranded"] > 0].groupby("size")["n_connections"].sum()
    for size, n_stranded in zip(lost.index.to_list(), lost["n_stranded"], strict=True):
        share = n_stranded / arms[size]
        top = ax.get_xaxis_transform()
        ax.plot(size, 1.0, "X", color=theme.alarm, markersize=8, transform=top, clip_on=False)
        ax.annotate(
            f"{share:.0%}",
            (size, 1.0),
            (0, 7),
            xycoords=top,
            textcoords="offset points",
            ha="center",
            color=theme.alarm,
            fontsize=8,
            annotation_clip=False,
        )
    handles.append(_dot(theme.alarm, "edge, one read: share stranded", marker="X", ms=7))


def _dot(color: str, label: str, **how: Any) -> Line2D:
    """A legend's mark without a line."""
    return Line2D([], [], ls="", color=color, label=label, **how)


def stranded(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw the silence after a lost wake-up: bytes there, and no event that tells of them.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`epolllab.experiments.strand_connections`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        A grey line under the picture.

    Returns
    -------
    matplotlib.axes.Axes
        A lane for each connection: when the client's bytes arrived, the server's last
        event, and the gap from then until the client gave up.
    """
    with canvas(ax, (6.4, 0.9 + 0.3 * max(4, len(frame))), note) as (ax, theme, below):
        ax.set_xlabel("ms since the first byte was sent")
        ax.set_ylabel("connection")
        if frame.empty:
            nothing(ax, theme, "no connection was stranded")
            return ax
        begin = frame["began_ns"].min()
        lanes = np.arange(len(frame))
        at = {
            name: (frame[name] - begin).to_numpy(dtype=float) / 1e6
            for name in ("began_ns", "sent_ns", "last_event_ns", "gave_up_ns")
        }
        known = np.maximum(at["last_event_ns"], at["sent_ns"])
        silence: Any = {
            "facecolor": theme.faint,
            "edgecolor": theme.alarm,
            "hatch": "////",
            "lw": 0,
        }
        ax.barh(lanes, at["gave_up_ns"] - known, left=known, height=0.5, **silence)
        ax.scatter(at["sent_ns"], lanes, marker="|", s=90, color=theme.main, zorder=3)
        ax.scatter(at["last_event_ns"], lanes, marker="o", s=22, color=theme.arm("edge"), zorder=4)
        for lane, unread in enumerate(frame["n_sent"] - frame["n_read"]):
            ax.text(
                (known[lane] + at["gave_up_ns"][lane]) / 2, lane, f"{unread:,} bytes unread",
                ha="center", va="center", fontsize=8, color=theme.ink,
                bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 3},
            )  # fmt: skip
        ax.set_yticks(lanes, frame["conn"].astype(str))
        ax.set_ylim(len(frame) - 0.4, -0.6)
        ax.set_xlim(left=min(0.0, at["began_ns"].min()) - 0.02 * at["gave_up_ns"].max())
        below.legend(
            [
                _dot(theme.main, "bytes arrived", marker="|", ms=9, mew=1.8),
                _dot(theme.arm("edge"), "last event", marker="o", ms=5),
                Patch(label="no event", **silence),
            ]
        )
    return ax


def lifecycles(
    frame: pd.DataFrame,
    *,
    what: str = "epoll_ctl",
    ax: Axes | None = None,
    note: str | None = None,
) -> Axes:
    """Draw what a request costs in each life cycle.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`epolllab.experiments.compare_lifecycles`.
    what : str
        ``"waits"``, ``"requests_per_s"`` or a key of :data:`METRICS`, as in the frame.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        A grey line under the picture.

    Returns
    -------
    matplotlib.axes.Axes
        A bar for each life cycle and trigger, the median of the rounds, with the
        rounds as dots.
    """
    labels = {**METRICS, "waits": "waits per request", "requests_per_s": "requests per second"}
    allowed = [name for name in labels if name in frame.columns]
    check_choice("what", what, allowed)
    with canvas(ax, (6.4, 3.4), note) as (ax, theme, below):
        ax.set_xlabel(labels[what])
        ax.set_ylabel("life cycle")
        if frame.empty:
            nothing(ax, theme, "no requests")
            return ax
        groups: list[tuple[Any, Any]] = list(
            frame.groupby(["lifecycle", "trigger"], observed=True)[what]
        )
        for lane, ((_, trigger), values) in enumerate(groups):
            ax.barh(lane, values.median(), height=0.62, color=theme.arm(str(trigger)))
            if len(values) > 1:
                ax.scatter(values, [lane] * len(values), s=10, color=theme.ink, zorder=3)
            ax.annotate(
                _plain(values.median()),
                (values.max(), lane),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        ax.set_yticks(range(len(groups)), [", ".join(map(str, key)) for key, _ in groups])
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(FuncFormatter(_plain))
        below.legend([Patch(color=theme.arm(name), label=name) for name in ("level", "edge")])
    return ax


def herd(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw how many processes one connection wakes.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`epolllab.experiments.thundering_herd`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        A grey line under the picture.

    Returns
    -------
    matplotlib.axes.Axes
        A group of bars for each way of sharing the listener, one for each number of
        workers, on a logarithmic axis; a ring where the exact result is.
    """
    with canvas(ax, (6.4, 3.8), note) as (ax, theme, below):
        ax.set_xlabel("processes woken per connection")
        if frame.empty:
            nothing(ax, theme, "no connections")
            return ax
        arms = list(dict.fromkeys(frame["arm"].astype(str)))
        numbers = sorted(frame["n_workers"].unique())
        height = 0.8 / len(numbers)
        shades = [1.0 - 0.55 * k / max(1, len(numbers) - 1) for k in range(len(numbers))]
        for _, row in frame.iterrows():
            place = numbers.index(row["n_workers"])
            y = arms.index(row["arm"]) + (place - (len(numbers) - 1) / 2) * height
            _draw_woken(ax, theme, row, y, height * 0.86, shades[place])
        ax.set_xscale("log")
        ax.set_xlim(0.5, frame["voluntary_per_connect"].max() * 1.6)
        ax.xaxis.set_major_locator(FixedLocator([1, 2, *[int(n) for n in numbers if n > 2]]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(_plain))
        ax.set_yticks(range(len(arms)), arms)
        ax.invert_yaxis()
        below.legend(
            [
                *(
                    Patch(color=theme.main, alpha=shade, label=f"{number} workers")
                    for number, shade in zip(numbers, shades, strict=True)
                ),
                Line2D([], [], marker="o", mfc="none", mec=theme.ink, ls="", ms=5, label="exact"),
            ]
        )
    return ax


def _draw_woken(
    ax: Axes, theme: Any, row: "pd.Series[Any]", y: float, height: float, shade: float
) -> None:
    """Draw one bar, from half a process on, and the ring where theory has it."""
    value, expected = row["voluntary_per_connect"], row["expected_per_connect"]
    ax.barh(y, value - 0.5, left=0.5, height=height, color=theme.main, alpha=shade)
    ax.plot(expected, y, "o", mfc="none", mec=theme.ink, ms=5)
    ax.annotate(
        f"{value:.3g}", (max(value, expected), y), (7, 0),
        textcoords="offset points", va="center", fontsize=8,
    )  # fmt: skip


def balance(
    frame: pd.DataFrame,
    *,
    ax: Axes | None = None,
    limit: int = 60,
    published: bool = True,
    note: str | None = None,
) -> Axes:
    """Draw which worker got each connection, in the order in which they came.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`epolllab.experiments.accept_balance`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    limit : int
        Connections drawn of each arm, from the first; the totals are of all.
    published : bool
        Put Cloudflare's six connections to three workers beside ours.
    note : str, optional
        A grey line under the picture.

    Returns
    -------
    matplotlib.axes.Axes
        A band for each arm, a row in it for each worker, a mark for each connection,
        and at its end how many each worker got.
    """
    bands: list[_Band] = [
        (str(arm), rows["worker"].to_list()[:limit], rows["worker"].to_list())
        for arm, rows in frame.groupby("arm", observed=True)
    ]
    if published and not frame.empty:
        bands += [
            (f"{arm},\nCloudflare 2017", list(order), list(order))
            for arm, order in CLOUDFLARE_BALANCE.items()
        ]
    with canvas(ax, (6.4, 1.0 + 0.16 * sum(_n_workers(band) + 2 for band in bands)), note) as (
        ax,
        theme,
        _,
    ):
        ax.set_xlabel("connection, in order of arrival")
        if frame.empty:
            nothing(ax, theme, "no connections")
            ax.set_ylabel("worker")
            return ax
        y, ticks = 0.0, []
        widest = max(len(order) for _, order, _ in bands)
        for band in bands:
            ticks.append((y + (_n_workers(band) - 1) / 2, band[0]))
            y += _draw_band(ax, theme, band, y, 1.03 * widest) + 1
        ax.set_yticks(*zip(*ticks, strict=True))
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(y - 0.9, -1.1)
        ax.set_xlim(-1, widest * 1.09)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.text(widest * 1.03, -1.0, "in all", fontsize=7, va="bottom", color=theme.muted)
    return ax


_Band = tuple[str, Sequence[int], Sequence[int]]
"""A name, the workers drawn in order of their connections, and all of them."""


def _n_workers(band: _Band) -> int:
    """Rows of a band: four workers' unless more are seen, three in Cloudflare's."""
    name, _, everything = band
    return max(max(everything, default=0) + 1, 3 if "Cloudflare" in name else 4)


def _draw_band(ax: Axes, theme: Any, band: _Band, y: float, right: float) -> int:
    """Draw one arm's band from `y` down, and each worker's total; the number of its rows."""
    name, order, everything = band
    n = _n_workers(band)
    ax.axhspan(y - 0.6, y + n - 0.4, color=theme.faint, alpha=0.35, lw=0)
    ax.scatter(
        np.arange(len(order)), [y + worker for worker in order], s=11, color=theme.arm(name, 2)
    )
    for worker in range(n):
        total = f"{everything.count(worker):,}"
        ax.text(right, y + worker, total, fontsize=7, va="center", color=theme.muted)
    return n


def tails(
    frame: pd.DataFrame, *, ax: Axes | None = None, published: bool = True, note: str | None = None
) -> Axes:
    """Draw the latencies with one queue for all workers and with one for each.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`epolllab.experiments.latency_tails`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    published : bool
        Write Cloudflare's figures under the picture.
    note : str, optional
        A grey line under the picture.

    Returns
    -------
    matplotlib.axes.Axes
        The distribution of each arm, by :func:`epolllab.plots.recording.latency`.
    """
    arms = {
        _QUEUES.get(str(arm), str(arm)): rows["latency_ns"]
        for arm, rows in frame.groupby("arm", observed=True)
    }
    lines = [note] if note else []
    if published:
        figures = "; ".join(
            f"{arm} mean {seen['mean_ms']} ms, sd {seen['sd_ms']} ms, max {seen['max_ms']} ms"
            for arm, seen in CLOUDFLARE_TAILS.items()
        )
        lines.append(f"Cloudflare 2017, 12 workers, 200 connections: {figures}.")
    data: Any = arms or pd.Series([], dtype="int64")
    return recording.latency(data, ax=ax, label="latency", note=" ".join(lines) or None)


_QUEUES = {
    "exclusive": "one queue, exclusive",
    "blocking accept": "one queue, accept",
    "reuseport": "reuseport",
}


MASK_BITS = ("IN", "OUT", "PRI", "RDHUP", "HUP", "ERR")
"""Columns of :func:`masks`: what can be asked for, then what comes unasked."""


def masks(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw which bits of the mask come with each situation, asked for or not.

    Parameters
    ----------
    frame : pandas.DataFrame
        A row for each situation, named by the index; columns ``asked`` and ``unasked``
        (or one of them) with masks as text, such as ``"IN|RDHUP"`` or ``"nothing"``:
        what was reported with every bit in the interest, and with none.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        A grey line under the picture.

    Returns
    -------
    matplotlib.axes.Axes
        A row for each situation and a column for each bit: a dot where it was reported
        with interest in it, a ring around it where it was reported with interest 0.
    """
    with canvas(ax, (6.4, 0.9 + 0.33 * max(3, len(frame))), note) as (ax, theme, below):
        ax.set_xlim(-0.5, len(MASK_BITS) - 0.5)
        ax.set_xticks(range(len(MASK_BITS)), MASK_BITS)
        ax.set_xlabel("bit of the mask")
        ax.xaxis.set_label_position("top")
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        below.depth = 5
        if frame.empty:
            nothing(ax, theme, "no situations")
            return ax
        ax.set_ylim(len(frame) - 0.5, -0.5)
        ax.set_yticks(range(len(frame)), [str(name) for name in frame.index])
        for row in range(0, len(frame), 2):
            ax.axhspan(row - 0.5, row + 0.5, color=theme.faint, alpha=0.45, lw=0, zorder=0)
        drawn = []
        for column, label, look in (
            ("asked", "reported when asked for", {"s": 55, "color": theme.main}),
            ("unasked", "reported with interest 0", _ring(theme)),
        ):
            if column in frame.columns:
                drawn.append(ax.scatter(*_places(frame[column]), label=label, **look))
        below.legend(drawn)
    return ax


def _ring(theme: Any) -> dict[str, Any]:
    return {"s": 150, "facecolor": "none", "edgecolor": theme.alarm, "linewidth": 1.6}


def _places(spelled: "pd.Series[Any]") -> tuple[list[int], list[int]]:
    """Columns and rows of the bits that masks as text hold."""
    found = [
        (MASK_BITS.index(bit), row)
        for row, words in enumerate(spelled)
        for bit in str(words).split("|")
        if bit in MASK_BITS
    ]
    return [x for x, _ in found], [y for _, y in found]


def checks(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw which checks each server passes.

    Parameters
    ----------
    frame : pandas.DataFrame
        A row for each check, named by the index, and a bool column for each server:
        the ``passed`` of :func:`epolllab.experiments.comparisons.conformance.check_conformance`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        A grey line under the picture.

    Returns
    -------
    matplotlib.axes.Axes
        A column for each server and a row for each check: a dot for a pass, a cross
        for a fault, and under each column how many it passes.
    """
    with canvas(ax, (7.2, 1.3 + 0.33 * max(3, len(frame))), note) as (ax, theme, below):
        ax.set_xlim(-0.5, max(len(frame.columns), 1) - 0.5)
        ax.set_xlabel("server")
        ax.xaxis.set_label_position("top")
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        below.depth = 5
        if frame.empty:
            nothing(ax, theme, "no checks")
            return ax
        ax.set_xticks(range(len(frame.columns)), [str(name) for name in frame.columns])
        ax.set_ylim(len(frame) + 0.5, -0.5)
        ax.set_yticks(range(len(frame)), [str(name) for name in frame.index])
        for row in range(0, len(frame), 2):
            ax.axhspan(row - 0.5, row + 0.5, color=theme.faint, alpha=0.45, lw=0, zorder=0)
        passed = frame.to_numpy(dtype=bool)
        rows, columns = np.nonzero(passed)
        dots = ax.scatter(columns, rows, s=55, color=theme.main, label="passes")
        rows, columns = np.nonzero(~passed)
        crosses = ax.scatter(columns, rows, s=55, color=theme.alarm, marker="X", label="fails")
        for column, n in enumerate(passed.sum(axis=0)):
            ax.text(column, len(frame), f"{n} of {len(frame)}", ha="center", va="center")
        below.legend([dots, crosses])
    return ax


def numbers(
    frame: pd.DataFrame, *, what: str = "", ax: Axes | None = None, note: str | None = None
) -> Axes:
    """Draw what was counted or timed, and what was expected of it.

    Parameters
    ----------
    frame : pandas.DataFrame
        ``observed`` and ``expected`` (float64, NaN for no exact expectation), a row for
        each, named by the index.
    what : str
        The axis' label.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        A grey line under the picture.

    Returns
    -------
    matplotlib.axes.Axes
        A bar for each, with its number; a ring where it was expected to end.
    """
    with canvas(ax, (6.4, 1.2 + 0.4 * len(frame)), note) as (ax, theme, below):
        ax.set_xlabel(what)
        if frame.empty:
            nothing(ax, theme, "nothing was counted")
            return ax
        lanes = range(len(frame))
        ax.barh(lanes, frame["observed"], height=0.6, color=theme.main, gid="observed")
        ax.scatter(frame["expected"], lanes, s=60, facecolor="none", edgecolor=theme.ink, zorder=3)
        for lane, value in zip(lanes, frame["observed"], strict=True):
            ax.annotate(_plain(value), (value, lane), (9, 0), textcoords="offset points",
                        va="center", fontsize=8)  # fmt: skip
        ax.set_yticks(lanes, list(frame.index))
        ax.set_ylim(max(len(frame), 3) - 0.4, -0.6)  # a bar alone would be a block
        ax.margins(x=0.12)
        ax.set_xlim(left=0)
        whole = bool((frame["observed"] % 1 == 0).all())
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
        ax.xaxis.set_major_formatter(FuncFormatter(_plain))
        if frame["expected"].notna().any():
            ring = Line2D([], [], ls="", marker="o", mfc="none", mec=theme.ink, label="expected")
            below.legend([Patch(color=theme.main, label="observed"), ring])
    return ax
