"""The panels' contents as finished charts, one function a picture.

One job: draw a frame on an Axes and return it, by the contract of ``plots``: data first,
the rest by keyword, ``ax=None``. For the picture beside a widget, and for export.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from epolllab.plots.canvas import canvas, nothing

__all__ = ["curves", "history", "live"]

THOUSANDS = "{x:,.10g}"


def history(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw a stepper's history: bytes in the buffer, and what each wait returned.

    Parameters
    ----------
    frame : pandas.DataFrame
        From ``Steps.history()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        Circumstances, in grey under the axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    with canvas(ax, (8.0, 3.4), note) as (ax, theme, below):
        ax.set_xlabel("step")
        ax.set_ylabel("bytes in the buffer", loc="bottom")
        if frame.empty:
            nothing(ax, theme, "no steps")
            return ax
        n_bytes = frame["readable"].to_numpy(dtype=float)
        ax.bar(frame["step"], n_bytes, width=0.86, color=theme.op("recv"), gid="readable")
        top = max(float(n_bytes.max()), 1.0)
        for lane, arm in enumerate(("level", "edge")):
            asked = frame[frame[arm].notna()]
            told = (asked[arm] != "").to_numpy(dtype=bool)
            height = top * (1.42 - 0.2 * lane)
            y = np.full(len(asked), height)
            color = theme.arms[arm]
            style: dict[str, Any] = {"s": 46, "edgecolor": color, "linewidth": 1.6}
            x = asked["step"].to_numpy()
            ax.scatter(x[told], y[told], color=color, gid=f"{arm} returned", **style)
            ax.scatter(x[~told], y[~told], color=theme.paper, gid=f"{arm} silent", **style)
            ax.text(-0.9, height, arm, color=color, ha="right", va="center")
        ax.set_ylim(0, top * 1.56)
        ax.set_yticks([tick for tick in MaxNLocator(4).tick_values(0, top) if 0 <= tick <= top])
        ax.yaxis.set_major_formatter(StrMethodFormatter(THOUSANDS))
        ax.set_xlim(-0.7, max(len(frame), 8) - 0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        names = frame["action"].astype("str").str.replace("peer ", "").tolist()
        if len(names) <= 18:
            ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
            ax.set_xlabel("")
            below.depth += 26
        marks = [
            Line2D([], [], ls="", marker="o", ms=6.5, mew=1.6, color=theme.muted, label="returned"),
            Line2D([], [], ls="", marker="o", ms=6.5, mew=1.6, mec=theme.muted, mfc="none",
                   label="asked, and silent"),
        ]  # fmt: skip
        ax.legend(handles=marks, loc="upper right", ncols=2, borderaxespad=0,
                  bbox_to_anchor=(1, 1.12), prop={"size": 8.0})  # fmt: skip
    return ax


def live(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw a dashboard's last seconds: requests and wake-ups a second, and latency.

    Parameters
    ----------
    frame : pandas.DataFrame
        From ``Live.frame()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise. Latency has its axis at the right.
    note : str, optional
        Circumstances, in grey under the axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    with canvas(ax, (8.0, 3.4), note) as (ax, theme, below):
        ax.set_xlabel("time since the display began (s)")
        ax.set_ylabel("per second")
        if frame.empty:
            nothing(ax, theme, "nothing measured yet")
            return ax
        x = frame["t_s"]
        handles = []
        # Of different width, so that both show where they lie on one another.
        for column, color, width, label in (
            ("requests_per_s", theme.main, 3.2, "requests a second"),
            ("wakeups_per_s", theme.op("other"), 1.3, "wake-ups a second"),
        ):
            handles += ax.plot(x, frame[column], color=color, lw=width, label=label, gid=column)
        right = ax.twinx()
        right.spines["top"].set_visible(False)
        right.set_ylabel("latency in the server (µs)")
        for column, dash, label in (("p50_us", "-", "p50"), ("p99_us", ":", "p99")):
            handles += right.plot(
                x, frame[column], color=theme.op("send"), ls=dash, label=f"latency {label}",
                gid=column,
            )  # fmt: skip
        for axes in (ax, right):
            axes.set_ylim(0, max(axes.get_ylim()[1], 1.0))  # also where nothing moved
            axes.yaxis.set_major_formatter(StrMethodFormatter(THOUSANDS))
        below.legend(handles)
    return ax


def curves(
    frame: pd.DataFrame, *, ax: Axes | None = None, log: bool = True, note: str | None = None
) -> Axes:
    """Draw the time of one wait over the number of descriptors, a line for each poller.

    Parameters
    ----------
    frame : pandas.DataFrame
        ``poller``, ``n_fds``, ``wait_ns``: one point each.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    log : bool
        Both axes by powers of ten, or in proportion.
    note : str, optional
        Circumstances, in grey under the axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    with canvas(ax, (7.2, 4.4), note) as (ax, theme, below):
        ax.set_xlabel("descriptors watched")
        ax.set_ylabel("one wait (µs)")
        if frame.empty:
            nothing(ax, theme, "nothing measured")
            return ax
        handles = []
        for place, (poller, part) in enumerate(frame.groupby("poller", sort=True)):
            handles += ax.plot(
                part["n_fds"], part["wait_ns"] / 1e3, marker="o", ms=4, label=str(poller),
                color=theme.arm(str(poller), place), gid=str(poller),
            )  # fmt: skip
        if log:
            ax.set_xscale("log")
            ax.set_yscale("log")
        else:
            ax.set_xlim(left=0)
            ax.set_ylim(bottom=0)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(StrMethodFormatter(THOUSANDS))
        below.legend(handles)
    return ax
