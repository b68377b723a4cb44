"""Charts of what the widgets show: a stepper's history, a dashboard's last seconds, curves."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.axes_grid1 import make_axes_locatable

from epolllab.checks import check_bool
from epolllab.plots.canvas import From, canvas, chart_function, legend_mark, log_axis
from epolllab.plots.results import positive
from epolllab.plots.units import number, plural, whole

__all__ = ["curves", "history", "live"]

THOUSANDS = "{x:,.10g}"

_check_curves = From("``Curves.frame(ready, api)``", "poller* n_fds+ wait_ns?")


@chart_function(frame=From("``Steps.history()``", "step action* readable? level* edge*"))
def history(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw a stepper's history: bytes in the buffer, and what each wait returned."""
    title = "Bytes in the buffer, and what each wait returned"
    with canvas(ax, (8.0, 3.6), note, title) as (ax, chart):
        ax.set_xlabel("step")
        ax.set_ylabel("bytes in the buffer", loc="bottom")
        if frame.empty:
            return chart.draw_empty("no steps")
        n_bytes = frame["readable"]
        ax.bar(frame["step"], n_bytes, width=0.86, color=chart.theme.op("recv"), gid="readable")
        top = max(1.0, float(np.nanmax(n_bytes.to_numpy(dtype=float, na_value=0))))
        for lane, trigger in enumerate(("level", "edge")):
            waited = frame[frame[trigger].notna()]
            returned = waited[trigger] != ""
            height = top * (1.42 - 0.2 * lane)
            color = chart.theme.variants[trigger]
            for steps, fill, name in (
                (waited["step"][returned], color, "returned"),
                (waited["step"][~returned], chart.theme.paper, "silent"),
            ):
                ax.scatter(
                    steps, [height] * len(steps), s=46, color=fill, edgecolor=color, linewidth=1.6,
                    gid=f"{trigger} {name}",
                )  # fmt: skip
            ax.text(-0.9, height, trigger, ha="right", va="center")
        ax.set_ylim(0, top * 1.56)
        waits, last = frame[frame["level"].notna()], n_bytes.iloc[-1]
        chart.describe(
            f"{plural(len(frame), 'step')}, {last:,} bytes in the buffer after the last one; of "
            f"{plural(len(waits), 'wait')} level returned {(waits['level'] != '').sum()}, edge "
            f"{(waits['edge'] != '').sum()}"
        )
        ax.set_yticks([tick for tick in MaxNLocator(4).tick_values(0, top) if 0 <= tick <= top])
        ax.yaxis.set_major_formatter(THOUSANDS)
        ax.set_xlim(-0.7, max(len(frame), 8) - 0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        names = frame["action"].astype("str").str.replace("peer ", "").tolist()
        if len(names) <= 22:
            chart.name_ticks(ax.xaxis, range(len(names)), names, rotation=40, ha="right")
            ax.set_xlabel("")
            chart.depth += 26
        marks: dict[str, Any] = {"color": chart.theme.muted, "ms": 6.5, "mew": 1.6}
        returned_mark = legend_mark(label="returned", **marks)
        chart.legend([returned_mark, legend_mark(label="not returned", mfc="none", **marks)])
    return ax


@chart_function(
    frame=From("``Live.frame()``", "t_s requests_per_s? wakeups_per_s? p50_us? p99_us?")
)
def live(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw a dashboard's last seconds: latency, and above it requests and wakeups per second."""
    with canvas(ax, (8.0, 4.8), note, "Load and latency of the server") as (ax, chart):
        ax.set(xlabel="time since the display began (s)", ylabel="latency (µs)")
        if frame.empty:
            return chart.draw_empty("nothing measured yet")
        upper = make_axes_locatable(ax).append_axes("top", "100%", pad="10%", sharex=ax)
        upper.tick_params(labelbottom=False)
        ax.set_title(ax.get_title("left"), loc="left", y=2.13)  # above both
        latency = chart.theme.series[2]
        handles: list[Line2D] = []
        # Rates of different width, so that both are seen where they coincide.
        for axes, column, label, style in (
            (
                upper,
                "requests_per_s",
                "requests per second",
                {"color": chart.theme.main, "lw": 3.2},
            ),
            (
                upper,
                "wakeups_per_s",
                "wakeups per second",
                {"color": chart.theme.series[1], "lw": 1.3},
            ),
            (ax, "p50_us", "latency in the server, p50", {"color": latency}),
            (ax, "p99_us", "p99", {"color": latency, "ls": ":"}),
        ):
            handles += axes.plot(frame["t_s"], frame[column], label=label, gid=column, **style)
        for axes in (ax, upper):
            axes.set_ylim(0, max(axes.get_ylim()[1], 1.0))  # also where all values are 0
            axes.yaxis.set_major_formatter(THOUSANDS)
        chart.legend(handles)
        most = frame[["requests_per_s", "wakeups_per_s", "p50_us", "p99_us"]].max()
        chart.describe(
            f"at most {most['requests_per_s']:,.0f} requests and {most['wakeups_per_s']:,.0f} "
            f"wakeups per second; latency in the server at most {most['p50_us']:,.0f} µs (p50) "
            f"and {most['p99_us']:,.0f} µs (p99)"
        )
    return ax


@chart_function(frame=_check_curves, log=check_bool)
def curves(
    frame: pd.DataFrame, *, ax: Axes | None = None, log: bool = True, note: str | None = None
) -> Axes:
    """Draw the time of one wait over the number of descriptors, a line for each poller.

    Parameters
    ----------
    frame : pandas.DataFrame
        ``poller``, ``n_fds``, ``wait_ns``: one point each.
    log : bool
        Whether both axes are logarithmic.
    """
    with canvas(ax, (7.2, 4.6), note, "Time of one wait, by descriptors watched") as (ax, chart):
        ax.set(xlabel="descriptors watched", ylabel="time of one wait (µs)")
        if log:
            frame = positive(positive(frame, "n_fds"), "wait_ns")
        if frame.empty:
            return chart.draw_empty("nothing measured")
        handles = []
        for place, (poller, part) in enumerate(frame.groupby("poller", sort=True, observed=True)):
            handles += ax.plot(
                part["n_fds"], part["wait_ns"] / 1e3, ms=4, label=str(poller),
                marker=chart.theme.marker(str(poller), place),
                color=chart.theme.variant(str(poller), place), gid=str(poller),
            )  # fmt: skip
        if log:
            ax.set(xscale="log", yscale="log")
            log_axis(ax.xaxis, whole)
            log_axis(ax.yaxis, number)
        else:
            ax.set(xlim=(0, None), ylim=(0, None))
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(THOUSANDS)
        chart.legend(handles)
    return ax
