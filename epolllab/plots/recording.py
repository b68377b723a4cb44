"""Charts of an event loop: its wakeups, their batches, and the interest list."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator

from epolllab.checks import check_int
from epolllab.plots import sources
from epolllab.plots.canvas import (
    SMALL,
    Canvas,
    From,
    canvas,
    chart_function,
    legend_mark,
    log_axis,
)
from epolllab.plots.sources import HasInterest, Wakeups, frames
from epolllab.plots.style import hatch
from epolllab.plots.text import short
from epolllab.plots.units import duration, plural, round_duration, unit_for, whole

__all__ = ["batch_sizes", "interest", "wakeups"]


@chart_function(
    wakeups=From("``recording.wakeups()``", "t_ns waited_ns+ handled_ns+", method="wakeups")
)
def wakeups(
    wakeups: Wakeups | Mapping[str, Wakeups],
    *,
    ax: Axes | None = None,
    note: str | None = None,
) -> Axes:
    """Draw how long each wait slept, and how long the loop then worked, over time.

    Durations are on a logarithmic axis, with a line at each median. A wakeup in which
    nothing was done has no second point; the text below gives the number of these. Rings are
    waits and dots are work; of several recordings each has its own first wait at 0.
    """
    title = "Duration of each wait and of the work after it"
    compared = isinstance(wakeups, Mapping)
    several = frames(wakeups)
    with canvas(ax, (7.0, 3.8), note, title) as (ax, chart):
        ax.set_ylabel("duration")
        drawn = {name: frame for name, frame in several.items() if len(frame)}
        if not drawn:
            ax.set_xlabel("time since the first wait")
            return chart.draw_empty("no wakeups")
        unit = unit_for(max(map(_length_of, drawn.values())))
        handles: list[Any] = []
        sentences = []
        for place, (name, frame) in enumerate(drawn.items()):
            colors, marker = (chart.theme.muted, chart.theme.main), "o"
            if compared:
                colors = (chart.theme.variant(name, place),) * 2
                marker = chart.theme.marker(name, place)
                handles.append(legend_mark(colors[0], name, marker, ms=6, mew=0))
            medians = _draw_durations(
                chart, frame, unit.ns, colors, {"marker": marker, "gid": name}
            )
            sentences.append(f"{name}, {medians}" if name else medians)
        look: Any = {"ms": 5, "mew": 1.2}
        waited, handled = (chart.theme.muted, chart.theme.main)
        handles += [
            legend_mark(waited, "waited", mfc="none", **look),
            legend_mark(waited if compared else handled, "handled", **look),
        ]
        ax.set_yscale("log")
        log_axis(ax.yaxis, round_duration)
        ax.grid(axis="y")
        ax.set_xlabel(f"time since the first wait ({unit.name})")
        chart.legend(handles)
        for name, frame in drawn.items():
            chart.text(f"{name}: {_shares_of(frame)}" if compared else _shares_of(frame))
        chart.describe("; ".join(sentences))
    return ax


def _length_of(frame: pd.DataFrame) -> int:
    """Nanoseconds from the first wait to the end of the last one's work."""
    last = frame[["t_ns", "waited_ns", "handled_ns"]].iloc[-1].sum()
    return int(last - frame["t_ns"].iloc[0])


def _shares_of(frame: pd.DataFrame) -> str:
    total = _length_of(frame)
    idle = int((frame["handled_ns"] == 0).sum())
    # The loops of several clients overlap.
    waited, handled = int(frame["waited_ns"].sum()), int(frame["handled_ns"].sum())
    busy = 1 - waited / max(total, waited + handled, 1)
    return (
        f"{plural(len(frame), 'wakeup')} in {duration(total)}; not waiting "
        f"{100 * busy:.0f} % of the time" + (f"; nothing to handle in {idle:,}" if idle else "")
    )


def _draw_durations(
    chart: Canvas,
    frame: pd.DataFrame,
    ns_per_unit: float,
    colors: Sequence[str],
    own: dict[str, str],
) -> str:
    """Draw the waits and the work of one recording, with their medians; return these in words."""
    at = frame["t_ns"] - frame["t_ns"].iloc[0]
    size = 4.5 if len(at) < 300 else 2.5 if len(at) < 5000 else 1.2
    rings = {"mfc": "none", "mew": 0.9 if size > 2 else 0.5}
    medians = [plural(len(frame), "wakeup")]
    for column, start, color, look in (
        ("waited", at, colors[0], rings),
        ("handled", at + frame["waited_ns"], colors[1], {"mew": 0}),
    ):
        some = frame[f"{column}_ns"] > 0
        ns = frame[f"{column}_ns"][some]
        chart.ax.plot(
            start[some] / ns_per_unit, ns, own["marker"], ms=size, color=color, label=column,
            gid=f"{column} {own['gid']}".strip(), **look,
        )  # fmt: skip
        if some.any():
            median = float(ns.median())
            medians.append(f"{column} {duration(median)} in the median")
            chart.ax.axhline(median, color=color, lw=1.1, zorder=1.5, gid="median")
            chart.annotate(
                duration(median), (1, median), (4, 0), xycoords=chart.ax.get_yaxis_transform(),
                fontsize=8, color=color, gid="median",
            )  # fmt: skip
    return ", ".join(medians)


@chart_function(
    wakeups=From(
        "``recording.wakeups()``; waits that failed are left out", "n_returned+ error*",
        method="wakeups",
    )
)  # fmt: skip
def batch_sizes(
    wakeups: Wakeups | Mapping[str, Wakeups],
    *,
    ax: Axes | None = None,
    note: str | None = None,
) -> Axes:
    """Draw how many descriptors the waits returned at once.

    Large batches mean that one wait served many connections: the loop was busy, and
    the connections shared the cost of waiting. There is a bar for each number up to 40;
    with larger ones there is one for each of 1, 2, 3-4, 5-8 and so on. The bar at 0 is
    timeouts. Of several recordings the bars are shares of each one's waits.
    """
    compared = isinstance(wakeups, Mapping)
    several = frames(wakeups)
    with canvas(ax, (6.0, 3.4), note, "Batch sizes of the waits") as (ax, chart):
        ax.set(
            xlabel="descriptors returned by one wait",
            ylabel="share of the waits (%)" if compared else "waits",
        )
        sizes = {
            name: frame.loc[frame["error"].isna(), "n_returned"].to_numpy(dtype=int)
            for name, frame in several.items()
        }
        sizes = {name: numbers for name, numbers in sizes.items() if len(numbers)}
        if not sizes:
            return chart.draw_empty("no waits")
        most = max(int(numbers.max()) for numbers in sizes.values())
        counts = {
            name: np.bincount(numbers if most <= 40 else _doubling(numbers))
            for name, numbers in sizes.items()
        }
        _draw_bars(chart, counts, compared=compared)
        n_bars = max(map(len, counts.values()))
        if most <= 40:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        else:
            names = [_range_of(place) for place in range(n_bars)]
            is_turned = len(names) > 8  # so that they do not overlap
            chart.name_ticks(ax.xaxis, range(len(names)), names, rotation=30 * is_turned)
            chart.depth += 20 * is_turned
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.yaxis.set_major_formatter(whole)
        ax.margins(y=0.12)
        ax.grid(axis="y")
        ax.tick_params(axis="x", length=0)
        words = [
            f"{name}{': ' * compared}{plural(len(numbers), 'wait')}; mean {numbers.mean():.2f}, "
            f"most {numbers.max():,}"
            for name, numbers in sizes.items()
        ]
        for line in words:
            chart.text(line)
        chart.describe("; ".join(words))
    return ax


def _draw_bars(chart: Canvas, counts: Mapping[str, Any], *, compared: bool) -> None:
    """Draw the bars of each recording beside each other."""
    width = 0.82 / len(counts)
    handles = []
    for place, (name, numbers) in enumerate(counts.items()):
        look: Any = {"facecolor": chart.theme.main, "lw": 0, "edgecolor": chart.theme.paper}
        if compared:
            look |= {"facecolor": chart.theme.variant(name, place), "hatch": hatch(place)}
            handles.append(Patch(label=name, **look))
        shift = width * (place - (len(counts) - 1) / 2)
        shares = 100 * numbers / numbers.sum()
        bars = chart.ax.bar(
            np.arange(len(numbers)) + shift, shares if compared else numbers, width=width,
            gid=f"bars {name}".strip(), **look,
        )  # fmt: skip
        if len(numbers) <= 12 and not compared:
            texts = [
                f"{share:.0f} %" if share >= 0.5 else "<1 %" if share else "" for share in shares
            ]
            chart.ax.bar_label(bars, texts, padding=2, fontsize=SMALL, color=chart.theme.muted)
    if handles:
        chart.legend(handles)


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
        method="interest",
        alone="its columns are one kernel's list and one program's table",
    ),
    limit=partial(check_int, least=0),
)
def interest(
    frame: HasInterest | pd.DataFrame,
    *,
    ax: Axes | None = None,
    limit: int = 24,
    note: str | None = None,
) -> Axes:
    """Draw the kernel's interest list beside the program's own table, a row per descriptor.

    An entry that only the kernel has is a ghost, in red: the program no longer has a
    descriptor to remove it by, and still receives its events.

    Parameters
    ----------
    limit : int
        Most descriptors to draw; entries that only one side has come first.
    """
    frame = sources.frame(frame)
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
        words = (
            f"{counts.get('both', 0):,} in both, {plural(counts.get('kernel only', 0), 'ghost')} "
            f"only in the kernel, {counts.get('program only', 0):,} only in the program"
        )
        chart.describe(words)
        not_drawn = f"; {len(frame) - len(shown):,} not drawn" if len(frame) > len(shown) else ""
        chart.text(words + not_drawn)
    return ax


def _draw_entry(chart: Canvas, side: int, place: int, words: str | None, *, alarm: bool) -> None:
    """Draw one side of a descriptor: a box with its mask, or a gap."""
    color = chart.theme.alarm if alarm else chart.theme.muted
    look: Any = {"facecolor": color, "edgecolor": "none", "alpha": 0.16, "gid": "entry"}
    if words is None:
        look = {"facecolor": "none", "edgecolor": color, "gid": "gap"}
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
