"""Charts of servers that share a listener among several workers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from epolllab.analysis.literature import published_balance, published_tails
from epolllab.checks import check_bool, check_int
from epolllab.plots.canvas import (
    SMALL,
    From,
    canvas,
    chart_function,
    fixed_axis,
    legend_mark,
    log_limits,
)
from epolllab.plots.requests import latency
from epolllab.plots.style import hatch
from epolllab.plots.units import number

__all__ = ["accept_balance", "herd", "latency_tails"]


@chart_function(
    frame=From(
        ":func:`epolllab.experiments.thundering_herd`",
        "arm* n_workers+ voluntary_per_connect+ expected_per_connect+",
    )
)
def herd(frame: pd.DataFrame, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw how many processes one connection wakes, on a logarithmic axis.

    There is a group of bars for each way of sharing the listener, with a bar for each
    number of workers, and a ring at the expected value, except for a shared level-triggered
    epoll, where it depends on how soon the connection is accepted.
    """
    with canvas(ax, (6.4, 4.0), note, "Processes woken by one connection") as (ax, chart):
        ax.set_xlabel("processes woken per connection")
        if frame.empty:
            return chart.draw_empty("no connections")
        theme = chart.theme
        variants = list(dict.fromkeys(map(str, frame["arm"])))
        workers = sorted(frame["n_workers"].unique())
        height = 0.8 / len(workers)
        hatches = [hatch(place) for place in range(len(workers))]
        for _, row in frame.iterrows():
            place = workers.index(row["n_workers"])
            y = variants.index(str(row["arm"])) + (place - (len(workers) - 1) / 2) * height
            value, expected = row["voluntary_per_connect"], row["expected_per_connect"]
            # A bar begins at 0.5: a logarithmic axis has no 0.
            ax.barh(
                y, value - 0.5, left=0.5, height=height * 0.86, facecolor=theme.main,
                edgecolor=theme.paper, lw=0, hatch=hatches[place],
            )  # fmt: skip
            if row["arm"] != "shared level":
                ax.plot(expected, y, "o", mfc="none", mec=theme.ink, ms=5)
            chart.annotate(f"{value:.3g}", (max(value, expected), y), (7, 0), fontsize=8)
        ax.set_xscale("log")
        values = frame[["voluntary_per_connect", "expected_per_connect"]]
        ax.set_xlim(0.5, max((log_limits(values, above=1.6) or (0, 0))[1], 2))
        fixed_axis(ax.xaxis, [1, 2, *[int(n) for n in workers if n > 2]], number)
        chart.label_rows(variants)
        bars = [
            Patch(
                facecolor=theme.main,
                edgecolor=theme.paper,
                lw=0,
                hatch=pattern,
                label=f"{n} workers",
            )
            for n, pattern in zip(workers, hatches, strict=True)
        ]
        chart.legend([*bars, legend_mark(theme.ink, "expected", marker="o", mfc="none", ms=5)])
    return ax


@chart_function(
    frame=From(":func:`epolllab.experiments.accept_balance`", "arm* worker+"),
    limit=partial(check_int, least=1),
    published=check_bool,
)
def accept_balance(
    frame: pd.DataFrame,
    *,
    ax: Axes | None = None,
    limit: int = 60,
    published: bool = True,
    note: str | None = None,
) -> Axes:
    """Draw which worker accepted each connection, in order of arrival.

    There is a band for each variant with a row for each worker, a mark for each
    connection, and at the right end the number that each worker accepted.

    Parameters
    ----------
    limit : int
        Connections drawn of each variant, from the first; the totals count all.
    published : bool
        Add Cloudflare's six connections to three workers.
    """
    bands: list[tuple[str, Sequence[int], int]] = [
        (str(name), rows["worker"].astype(int).to_list(), 4)
        for name, rows in frame.groupby("arm", observed=True)
    ]
    if published and not frame.empty:
        bands += [
            (f"{name},\nCloudflare 2017", list(order), 3)
            for name, order in published_balance().items()
        ]
    rows = [max(max(order, default=0) + 1, least) for _, order, least in bands]
    height = 1.2 + 0.16 * sum(n + 2 for n in rows)
    with canvas(ax, (6.4, height), note, "Which worker accepted each connection") as (ax, chart):
        ax.set_xlabel("connection, in order of arrival")
        if frame.empty:
            ax.set_ylabel("worker")
            return chart.draw_empty("no connections")
        widest = max(len(order[:limit]) for _, order, _ in bands)
        small: Any = {"fontsize": SMALL, "color": chart.theme.muted}
        y, ticks = 0.0, {}
        for (name, order, _), n in zip(bands, rows, strict=True):
            ticks[y + (n - 1) / 2] = name
            ax.axhspan(y - 0.6, y + n - 0.4, color=chart.theme.faint, alpha=0.35, lw=0)
            drawn = order[:limit]
            color = chart.theme.variant(name, 2)
            ax.scatter(np.arange(len(drawn)), [y + worker for worker in drawn], s=11, color=color)
            for worker in range(n):
                total = f"{order.count(worker):,}"
                ax.text(1.03 * widest, y + worker, total, va="center", **small)
            y += n + 1
        chart.name_ticks(ax.yaxis, list(ticks), list(ticks.values()))
        chart.describe(
            "connections of each worker: "
            + "; ".join(
                f"{name} {', '.join(f'{order.count(worker):,}' for worker in range(n))}"
                for (name, order, _), n in zip(bands, rows, strict=True)
            ).replace("\n", " ")
        )
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(y - 0.9, -1.1)
        ax.set_xlim(-1, widest * 1.09)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.text(widest * 1.03, -1.0, "total", va="bottom", **small)
    return ax


_QUEUES = {
    "exclusive": "one queue, exclusive",
    "blocking accept": "one queue, accept",
    "reuseport": "reuseport",
}


@chart_function(
    frame=From(":func:`epolllab.experiments.latency_tails`", "arm* latency_ns?"),
    published=check_bool,
)
def latency_tails(
    frame: pd.DataFrame, *, ax: Axes | None = None, published: bool = True, note: str | None = None
) -> Axes:
    """Draw the latencies with one queue for all workers and with one for each.

    The distribution of each variant is drawn by :func:`epolllab.plots.latency`.

    Parameters
    ----------
    published : bool
        Write Cloudflare's figures below the chart.
    """
    curves = {
        _QUEUES.get(str(name), str(name)): rows["latency_ns"]
        for name, rows in frame.groupby("arm", observed=True)
    }
    notes = [note.rstrip(".") + "."] if note else []
    if published:
        figures = "; ".join(
            f"{name} mean {seen['mean']} ms, sd {seen['deviation']} ms, max {seen['greatest']} ms"
            for name, seen in published_tails().items()
        )
        notes.append(f"Cloudflare 2017, 12 workers, 200 connections: {figures}.")
    data: Any = curves or pd.Series([], dtype="int64")
    return latency(data, ax=ax, note=" ".join(notes) or None)
