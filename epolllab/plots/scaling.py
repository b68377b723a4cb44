"""The scaling experiments as pictures, one function a picture.

One job: draw a result's frame on an Axes and return it, by the contract of ``plots``:
data first, the rest by keyword, ``ax=None``. It measures nothing. What a result has to
say of itself (a cut, an early end, an interrupt) is printed under each picture.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from epolllab.analysis import statistics
from epolllab.analysis.ratios import crossover_ratios, literature_ratios, shares
from epolllab.analysis.result import Result
from epolllab.plots.canvas import canvas, nothing
from epolllab.plots.style import Theme

__all__ = [
    "cost_split",
    "crossover",
    "idle_connections",
    "kinds",
    "observer_cost",
    "ratio",
    "scaling",
    "staircase",
]


Data = Result | pd.DataFrame

_DASHES: dict[str, Any] = {"raw": "-", "python": (0, (4, 1.6))}
_MARKERS = {
    "epoll-level": "o", "epoll-edge": "s", "epoll-oneshot": "D", "poll": "^", "select": "v",
    "epoll": "o",
}  # fmt: skip
_SHORT = {"epoll-level": "level", "epoll-edge": "edge", "epoll-oneshot": "one-shot"}


# --- what the pictures share ------------------------------------------------------------


def _frame(data: Data) -> pd.DataFrame:
    """Rows that count: without warm-up."""
    frame = data.frame if isinstance(data, Result) else data
    return frame[~frame["warmup"]] if "warmup" in frame else frame


def _note(data: Data, note: str | None, *, circumstances: bool = True) -> str | None:
    """Circumstances, and what the result has to say of itself."""
    attrs = (data.frame if isinstance(data, Result) else data).attrs
    own = attrs.get("circumstances", "") if circumstances else ""
    said = [note or own, *attrs.get("notes", ())]
    return ". ".join(part for part in said if part) or None


def _log_axis(axis: Any, text: Any) -> None:
    axis.set_major_locator(LogLocator(10, numticks=12))
    axis.set_major_formatter(FuncFormatter(text))
    axis.set_minor_locator(LogLocator(10, subs=range(2, 10), numticks=12))
    axis.set_minor_formatter(NullFormatter())


def _whole(value: float, _place: object = None) -> str:
    return f"{value:,.0f}"


def _time(us: float, _place: object = None) -> str:
    """A time given in µs, with the unit that suits it."""
    for unit, size in (("s", 1e6), ("ms", 1e3), ("µs", 1.0), ("ns", 1e-3)):
        if us >= size * 0.999:
            value = us / size
            digits = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")
            return f"{digits} {unit}"
    return f"{us * 1000:.2g} ns"


def _name(poller: str) -> str:
    return f"epoll, {_SHORT[poller]}" if poller in _SHORT else poller


def _arms(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    for (poller, api), rows in table.groupby(["poller", "api"], observed=True, sort=True):
        yield (str(poller), str(api)), rows.sort_values("n_fds")


# --- time over N ------------------------------------------------------------------------


def scaling(
    data: Data,
    *,
    ax: Axes | None = None,
    literature: pd.DataFrame | None = None,
    value: str = "wait_ns",
    api: str | None = None,
    note: str | None = None,
) -> Axes:
    """Draw the time of a wait over the number of descriptors, both on log axes.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`epolllab.experiments.scaling.sweep`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    literature : pandas.DataFrame, optional
        Rows of :func:`epolllab.analysis.literature.literature` with ``op_us``, drawn
        hollow and dotted, with a box that says how each side was measured.
    value : {"wait_ns", "op_ns"}
        The wait alone, or the whole operation (by Python only).
    api : {"raw", "python"}, optional
        One of them; both by default, raw solid and Python dashed.
    note : str, optional
        Circumstances, in place of the result's own.

    Returns
    -------
    matplotlib.axes.Axes
        Points are medians, with a band for their 95 % interval. A line that ends
        before the others ends in a cross: the call refuses more.

    Raises
    ------
    ValueError
        The frame has several kinds, or several numbers active: one line would mix them.
    """
    frame = _frame(data)
    frame = frame if api is None else frame[frame["api"] == api]
    frame = frame[frame[value].notna()]
    _require_one_curve(frame)
    words = _note(data, note, circumstances=literature is None)
    with canvas(ax, (6.8, 4.8), words) as (ax, theme, below):
        _scales(ax, "time of one wait" if value == "wait_ns" else "time of one operation")
        if frame.empty:
            nothing(ax, theme, "nothing measured")
            return ax
        table = statistics.summarise(frame, ("poller", "api", "n_fds"), (value,))
        _scaling_lines(ax, theme, table, value)
        handles = _line_legend(theme, table)
        if literature is not None:
            handles += _published(ax, theme, literature)
            _method_box(ax, theme, data, literature)
        below.legend(handles, columns=min(5, len(handles)))
    return ax


def _require_one_curve(frame: pd.DataFrame) -> None:
    """Refuse frames in which one line would mix several things."""
    for column in ("kind", "active"):
        found = sorted(frame[column].astype(object).unique()) if column in frame else []
        if len(found) > 1:
            raise ValueError(
                f"a line over N is of one {column}, and the frame has {found}; "
                f'draw one of them: frame[frame["{column}"] == {found[0]!r}]'
            )


def _line_legend(theme: Theme, table: pd.DataFrame) -> list[Any]:
    """Colours for pollers, and dashes for who calls where there are both."""
    pollers = [str(name) for name in sorted(table["poller"].unique(), key=list(_MARKERS).index)]
    handles: list[Any] = [
        Line2D([], [], marker=_MARKERS[name], ms=4, color=theme.arm(name), label=_name(name))
        for name in pollers
    ]
    labels = {"raw": "raw system call", "python": "Python's function"}
    return handles + [
        Line2D([], [], ls=_DASHES[api], color=theme.muted, label=labels[api])
        for api in ("raw", "python")
        if (table["api"] == api).any()
    ]


def _scales(ax: Axes, what: str) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    _log_axis(ax.xaxis, _whole)
    _log_axis(ax.yaxis, _time)
    ax.grid(which="major", alpha=0.8)
    ax.set_xlabel("descriptors watched, N")
    ax.set_ylabel(what)


def _scaling_lines(ax: Axes, theme: Theme, table: pd.DataFrame, value: str) -> None:
    last = table["n_fds"].max()
    for (poller, api), rows in _arms(table):
        color = theme.arm(poller)
        x, y = rows["n_fds"].to_numpy(), rows[value].to_numpy() / 1000
        low, high = (rows[value + end].to_numpy() / 1000 for end in ("_low", "_high"))
        ax.fill_between(x, low, high, color=color, alpha=0.22, lw=0)
        ax.plot(x, y, _MARKERS[poller], ls=_DASHES[api], color=color, ms=4, gid=f"{poller} {api}")
        if x[-1] < last:
            _end_of_line(ax, theme, x[-1], y[-1], color)


def _end_of_line(ax: Axes, theme: Theme, x: float, y: float, color: str) -> None:
    ax.plot([x], [y], "x", color=color, ms=9, mew=2, gid="end of line")
    ax.annotate(
        "ends here", (x, y), (-7, 5), textcoords="offset points", fontsize=7.5,
        ha="right", color=theme.ink,
    )  # fmt: skip


def _published(ax: Axes, theme: Theme, literature: pd.DataFrame) -> list[Any]:
    known = literature.dropna(subset=["op_us", "n_fds"])
    for (study, arm), rows in known.groupby(["study", "arm"], sort=False):
        rows = rows.sort_values("n_fds")
        ax.plot(
            rows["n_fds"].astype(float), rows["op_us"], _MARKERS.get(str(arm), "o"), ls=":",
            color=theme.arm(str(arm)), mfc=theme.paper, ms=5.5, lw=1.2, gid=f"{arm} {study}",
        )  # fmt: skip
    return [
        Line2D([], [], ls=":", marker="o", mfc=theme.paper, color=theme.muted, label=str(study))
        for study in known["study"].unique()
    ]


def _method_box(ax: Axes, theme: Theme, data: Data, literature: pd.DataFrame) -> None:
    """How both sides were measured, in the corner that growing lines leave free."""
    import textwrap

    attrs = (data.frame if isinstance(data, Result) else data).attrs
    known = literature.dropna(subset=["op_us"]).drop_duplicates("study")
    ours = attrs.get("circumstances", "circumstances unknown")
    parts = [
        f"ours: {ours}; medians, band: 95\N{NO-BREAK SPACE}%",
        *(f"{row.study}: {row.source}. {row.circumstances}" for row in known.itertuples()),
    ]
    words = "\n".join(textwrap.fill(part, 44) for part in parts)
    ax.text(
        0.015, 0.985, words, transform=ax.transAxes, va="top", fontsize=6.2, color=theme.muted,
        linespacing=1.25, gid="method", zorder=5,
        bbox={"facecolor": theme.paper, "edgecolor": theme.faint, "alpha": 0.85, "pad": 3},
    )  # fmt: skip


def ratio(
    data: Data,
    *,
    study: str = "kerrisk-2010",
    ax: Axes | None = None,
    value: str = "wait_ns",
    note: str | None = None,
) -> Axes:
    """Draw theirs over ours, each over its own epoll at the least N.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`epolllab.experiments.scaling.sweep`, or the frame that
        :func:`epolllab.analysis.ratios.literature_ratios` made of it.
    study : str
        As in :func:`epolllab.analysis.ratios.literature_ratios`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    value : {"wait_ns", "op_ns"}
        Which of our times.
    note : str, optional
        Circumstances, in place of the result's own.

    Returns
    -------
    matplotlib.axes.Axes
        The line at 1 is perfect agreement of shape; each point has its ratio written.
    """
    frame = data.frame if isinstance(data, Result) else data
    made = "ratio" in frame
    table = (
        frame
        if made
        else literature_ratios(data, study, value=value)
        if len(frame)
        else pd.DataFrame()
    )
    with canvas(ax, (6.4, 4.2), _note(data, note)) as (ax, theme, below):
        ax.set_xlabel("descriptors watched, N")
        ax.set_ylabel("theirs / ours, each over its own epoll")
        if table.empty:
            nothing(ax, theme, "nothing to compare")
            return ax
        ax.set_xscale("log")
        ax.set_yscale("log")
        _log_axis(ax.xaxis, _whole)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g} x"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.axhline(1, color=theme.muted, lw=1)
        handles = _ratio_lines(ax, theme, table)
        title = str(table["study"].iloc[0])
        ax.set_title(f"shape of {title} against ours")
        below.legend(handles)
    return ax


def _ratio_lines(ax: Axes, theme: Theme, table: pd.DataFrame) -> list[Any]:
    """One line for each poller; at each N they stand side by side, so that none hides."""
    handles = []
    pollers = list(dict.fromkeys(table["poller"]))
    for place, poller in enumerate(pollers):
        rows = table[table["poller"] == poller]
        x = rows["n_fds"].to_numpy(float) * 1.42 ** (place - (len(pollers) - 1) / 2)
        y = rows["ratio"].to_numpy(float)
        low, high = (
            rows["theirs"].to_numpy() / rows[end].to_numpy() for end in ("ours_high", "ours_low")
        )
        color = theme.arm(poller)
        ax.plot(x, y, color=color, lw=0.9, alpha=0.45)
        ax.vlines(x, low, high, color=color, lw=2)
        handles += ax.plot(x, y, _MARKERS[poller], color=color, ms=5, label=poller, gid=poller)
        for at, middle, top in zip(x, y, high, strict=True):
            ax.annotate(
                f"{middle:.2g}", (at, max(middle, top)), (0, 6), textcoords="offset points",
                ha="center", fontsize=7.5, color=theme.ink,
            )  # fmt: skip
    spread = max(abs(np.log10(table["ratio"])).max(), np.log10(2)) * 1.3
    ax.set_ylim(10**-spread, 10**spread)
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    return handles


# --- kernel and CPython -----------------------------------------------------------------


def cost_split(
    data: Data,
    *,
    ax: Axes | None = None,
    n_fds: int | Sequence[int] | None = None,
    note: str | None = None,
) -> Axes:
    """Draw how a wait's time falls to the kernel and to CPython.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`epolllab.experiments.scaling.sweep` with both ``raw`` and ``python``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    n_fds : int or sequence of int, optional
        Sizes to draw; all that have both by default.
    note : str, optional
        Circumstances, in place of the result's own.

    Returns
    -------
    matplotlib.axes.Axes
        Log axis. Full: the kernel's share. Hollow: the whole call of Python's function,
        so what is between them is CPython's share. See
        :func:`epolllab.experiments.scaling.shares` for how they are found.
    """
    frame = data.frame if isinstance(data, Result) else data
    table = shares(frame) if len(frame) else pd.DataFrame()
    if n_fds is not None and len(table):
        table = table[table["n_fds"].isin([n_fds] if isinstance(n_fds, int) else list(n_fds))]
    size = (6.8, 1.5 + 0.22 * max(len(table), 4))
    with canvas(ax, size, _note(data, note)) as (ax, theme, below):
        ax.set_xlabel("time of one wait by Python's function")
        if table.empty:
            nothing(ax, theme, "no arm was measured both raw and by Python")
            return ax
        _dumbbells(ax, theme, table)
        marks: dict[str, Any] = {"mew": 1.5, "ms": 6, "color": theme.muted}
        below.legend(
            [
                Line2D([], [], marker="o", ls="", label="the kernel's share", **marks),
                Line2D([], [], ls="-", lw=3, alpha=0.35, color=theme.muted, label="CPython's"),
                Line2D([], [], marker="o", ls="", mfc=theme.paper, label="both", **marks),
            ]
        )
    return ax


def _dumbbells(ax: Axes, theme: Theme, table: pd.DataFrame) -> None:
    ax.set_xscale("log")
    _log_axis(ax.xaxis, _time)
    ax.grid(axis="x", which="major")
    # A row's room for the heading of each size.
    places = np.arange(len(table)) + 1.1 * pd.factorize(table["n_fds"])[0]
    kernel, total = table["kernel_ns"].to_numpy() / 1000, table["python_ns"].to_numpy() / 1000
    for place, low, high, poller in zip(places, kernel, total, table["poller"], strict=True):
        color = theme.arm(str(poller))
        ax.plot([low, high], [place, place], color=color, lw=3, alpha=0.35)
        ax.plot([high], [place], "o", mfc=theme.paper, color=color, ms=6, mew=1.5, gid="python")
        ax.plot([low], [place], "o", color=color, ms=6, mew=1.5, gid="kernel")
        ax.annotate(
            f"{_time(low)} + {_time(max(high - low, 0))}", (max(low, high), place), (8, 0),
            textcoords="offset points", va="center", fontsize=7.5, color=theme.ink,
        )  # fmt: skip
    both = np.concatenate([kernel, total])
    ax.set_xlim(np.min(both) / 1.6, np.max(both) * 8)
    ax.set_yticks(places, [_name(str(poller)) for poller in table["poller"]])
    ax.set_ylim(places[-1] + 0.7, -1.3)
    ax.tick_params(axis="y", length=0)
    for n, first in zip(*np.unique(table["n_fds"], return_index=True), strict=True):
        ax.text(
            0.0, places[first] - 0.52, f" N = {n:,}", transform=ax.get_yaxis_transform(),
            fontsize=8, fontweight="bold", va="bottom", color=theme.ink,
        )  # fmt: skip


# --- the crossover ----------------------------------------------------------------------


def crossover(
    data: Data,
    *,
    ax: Axes | None = None,
    api: str | None = None,
    value: str = "wait_ns",
    note: str | None = None,
) -> Axes:
    """Draw epoll's time over poll's as a map over N and the share that is active.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`epolllab.experiments.scaling.crossover`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    api : {"raw", "python"}, optional
        ``"raw"`` where it was measured, by default.
    value : {"wait_ns", "op_ns"}
        The wait alone, or the whole operation (by Python only).
    note : str, optional
        Circumstances, in place of the result's own.

    Returns
    -------
    matplotlib.axes.Axes
        Each field has the ratio written; below 1 epoll is faster. Fields where poll wins,
        with the whole interval above 1, have a thick border; those whose interval holds
        1 are in italics.
    """
    frame = _frame(data)
    with canvas(ax, (7.2, 3.9), _note(data, note)) as (ax, theme, below):
        ax.set_xlabel("descriptors watched, N")
        ax.set_ylabel("share of them ready")
        if frame.empty:
            nothing(ax, theme, "nothing measured")
            return ax
        table = crossover_ratios(frame, api=api, value=value)
        _fields(ax, theme, table)
        how = "raw" if table["api"].iloc[0] == "raw" else "Python"
        what = f"one {how} wait" if value == "wait_ns" else "one whole operation"
        ax.set_title(f"{table['over'].iloc[0]} / {table['under'].iloc[0]}, {what}")
        names = (str(table["over"].iloc[0]), str(table["under"].iloc[0]))
        below.legend(_map_legend(theme, *names))
    return ax


def _fields(ax: Axes, theme: Theme, table: pd.DataFrame) -> None:
    from matplotlib.colors import LinearSegmentedColormap, to_rgb
    from matplotlib.patches import Rectangle

    sizes, shares = sorted(table["n_fds"].unique()), sorted(table["share"].unique())
    # Blue where the first is faster, green where the second is, paper between: both
    # are the pollers' own colours. Saturated at a factor of ten either way.
    first, second = theme.arm(str(table["over"].iloc[0])), theme.arm(str(table["under"].iloc[0]))
    colors = LinearSegmentedColormap.from_list("who wins", [first, theme.paper, second])
    rows: Any = table.itertuples()
    for row in rows:
        x, y = sizes.index(row.n_fds), shares.index(row.share)
        depth = float(np.clip(0.5 + np.log10(row.ratio) / 2 * 1.4, 0.04, 0.96))
        ground = colors(depth)
        wins = row.winner == row.under
        ax.add_patch(
            Rectangle(
                (x - 0.47, y - 0.45), 0.94, 0.9, facecolor=ground, gid="field",
                edgecolor=theme.ink if wins else "none", lw=1.8 if wins else 0,
                zorder=2 if wins else 1,
            )
        )  # fmt: skip
        bright = float(np.dot(to_rgb(ground), (0.299, 0.587, 0.114)))
        ax.text(
            x, y, _ratio_text(row.ratio), ha="center", va="center", fontsize=8, zorder=3,
            color="#FFFFFF" if bright < 0.55 else "#222222", gid="ratio",
            fontstyle="italic" if row.winner == "neither" else "normal",
        )  # fmt: skip
    ax.set_xticks(range(len(sizes)), [f"{n:,}" for n in sizes])
    ax.set_yticks(range(len(shares)), [_share(share) for share in shares])
    ax.set_xlim(-0.55, len(sizes) - 0.45)
    ax.set_ylim(-0.55, len(shares) - 0.45)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _map_legend(theme: Theme, over: str, under: str) -> list[Any]:
    return [
        Patch(facecolor=theme.arm(over), label=f"below 1: {over} is faster"),
        Patch(facecolor=theme.arm(under), edgecolor=theme.ink, lw=1.5, label=f"{under} wins"),
        Line2D([], [], ls="", label="italics: the interval holds 1"),
        Line2D([], [], ls="", label="blank: a share that rounds to a field beside"),
    ]


def _ratio_text(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}" if ratio >= 0.095 else f"{ratio:.3f}"


def _share(share: float) -> str:
    return "one" if share == 0 else f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


# --- kinds of descriptor ----------------------------------------------------------------


def kinds(data: Data, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw what one more descriptor of each kind adds to a wait.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`epolllab.experiments.scaling.wait_kinds` with two sizes or more.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        Circumstances, in place of the result's own.

    Returns
    -------
    matplotlib.axes.Axes
        Slopes of the least-squares line over N, with 95 % intervals, by the raw call
        where it was measured.
    """
    frame = _frame(data)
    with canvas(ax, (6.4, 3.4), _note(data, note)) as (ax, theme, below):
        ax.set_xlabel("what one more descriptor adds to a wait (ns)")
        if not len(frame) or frame["n_fds"].nunique() < 2:
            nothing(ax, theme, "nothing measured at two sizes")
            return ax
        api = "raw" if (frame["api"] == "raw").any() else "python"
        lines = statistics.fits(frame[frame["api"] == api], ("kind", "poller"), "n_fds", "wait_ns")
        below.legend(_slopes(ax, theme, lines))
    return ax


def _slopes(ax: Axes, theme: Theme, lines: pd.DataFrame) -> list[Any]:
    found, pollers = _in_order(lines["kind"]), _in_order(lines["poller"])
    handles = []
    for i, poller in enumerate(pollers):
        rows = lines[lines["poller"] == poller]
        y = [found.index(str(kind)) + 0.2 * (i - (len(pollers) - 1) / 2) for kind in rows["kind"]]
        color = theme.arm(poller)
        ax.hlines(y, rows["b_low"], rows["b_high"], color=color, lw=2, alpha=0.6)
        handles += ax.plot(
            rows["b"], y, _MARKERS[poller], ls="", color=color, ms=5, label=_name(poller),
            gid=poller,
        )  # fmt: skip
        for slope, end, place in zip(rows["b"], rows["b_high"].fillna(rows["b"]), y, strict=True):
            ax.annotate(
                f"{slope:.1f}".replace("-0.0", "0.0"), (max(slope, end), place), (8, 0),
                textcoords="offset points", va="center", fontsize=7.5, color=theme.ink,
            )  # fmt: skip
    ax.axvline(0, color=theme.muted, lw=0.8, zorder=0)
    ax.set_xlim(right=1.12 * float(lines[["b", "b_high"]].max().max()))
    ax.set_yticks(range(len(found)), found)
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    return handles


# --- the staircase of waits -------------------------------------------------------------


def staircase(data: Data, *, ax: Axes | None = None, note: str | None = None) -> Axes:
    """Draw how many waits a run took, over the number of descriptors active at once.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`epolllab.experiments.scaling.propagate` with several numbers active;
        drawn for the largest number of pairs.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    note : str, optional
        Circumstances, in place of the result's own.

    Returns
    -------
    matplotlib.axes.Axes
        A dotted line stands at each multiple of a bound on an epoll wait. An epoll line
        that follows another of the same colour has a smaller bound, which is written at
        its end.
    """
    frame = _frame(data)
    with canvas(ax, (6.8, 4.2), _note(data, note)) as (ax, theme, below):
        ax.set_xlabel("descriptors active at once")
        ax.set_ylabel("waits in a run")
        if frame.empty:
            nothing(ax, theme, "nothing measured")
            return ax
        frame = frame[frame["pairs"] == frame["pairs"].max()]
        if frame["waits"].max() > 30 * frame["waits"].min():
            ax.set_yscale("log")
            _log_axis(ax.yaxis, _whole)
        else:
            ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.xaxis.set_major_formatter(FuncFormatter(_whole))
        ax.grid(axis="y", which="major")
        ax.set_title(
            f"{frame['pairs'].iloc[0]:,} socket pairs, {frame['writes'].iloc[0]:,} writes a run"
        )
        below.legend(_steps(ax, theme, frame))
    return ax


def _steps(ax: Axes, theme: Theme, frame: pd.DataFrame) -> list[Any]:
    by = ["poller", "max_events", "active"]
    waits = frame.groupby(by, observed=True)["waits"].median().reset_index()
    handles: dict[str, Any] = {}
    ends: dict[tuple[float, float], list[str]] = {}
    lines = waits.groupby(["poller", "max_events"], observed=True, sort=True)
    for place, ((poller, bound), rows) in enumerate(lines):
        bounded = str(poller).startswith("epoll")
        x, y = rows["active"].to_numpy(), rows["waits"].to_numpy()
        # Lines that coincide stay visible: each is thinner than the one beneath.
        (line,) = ax.plot(
            x, y, _MARKERS[str(poller)], ls="-", color=theme.arm(str(poller)), ms=4,
            lw=max(3.2 - 0.5 * place, 1.2), label=_name(str(poller)), gid=f"{poller} {bound}",
        )  # fmt: skip
        handles.setdefault(str(poller), line)
        if str(poller) in ("epoll-level", "poll", "select"):
            ends.setdefault((x[-1], y[-1]), []).append(
                f"at most {bound:,} a wait" if bounded else "no bound"
            )
    for place_of_end, words in ends.items():
        # Lines that end together share their words, each said once.
        ax.annotate(
            ",\n".join(dict.fromkeys(words)), place_of_end, (6, 0), textcoords="offset points",
            va="center", fontsize=7.5, color=theme.ink, annotation_clip=False,
        )  # fmt: skip
    low, high = float(waits["active"].min()), float(waits["active"].max())
    ax.set_xlim(low - 0.02 * (high - low + 1), high + 0.2 * (high - low + 1))
    default = 1_023
    if (waits["max_events"] == default).any():
        ax.vlines(
            np.arange(default, high + 1, default), 0, 1, transform=ax.get_xaxis_transform(),
            color=theme.muted, lw=0.7, ls=":", zorder=0,
        )  # fmt: skip
    return list(handles.values())


# --- real servers -----------------------------------------------------------------------

_IDLE_LABELS = {
    "requests_per_s": "requests/s",
    "cpu_us": "server CPU for a request (µs)",
    "epoll_ctl": "epoll_ctl for a request",
    "waits": "waits for a request",
    "events": "ready descriptors for a request",
    "p50_us": "median latency (µs)",
    "p99_us": "latency, 99th percentile (µs)",
    "watcher_us": "CPU of who watches, for a request (µs)",
}
_SERVER_LOOKS: dict[str, tuple[str, Any]] = {
    "epoll-level-eager": ("o", "-"),
    "epoll-level-howto": ("X", (0, (4, 1.6))),
    "epoll-edge-once": ("s", "-"),
    "epoll-oneshot": ("D", "-"),
    "poll-eager": ("^", "-"),
    "select-eager": ("v", "-"),
}


def idle_connections(
    data: Data, *, ax: Axes | None = None, value: str = "cpu_us", note: str | None = None
) -> Axes:
    """Draw what active clients get, or cost, over the number of idle connections.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`epolllab.experiments.scaling.idle_connections`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    value : str
        ``"cpu_us"``, ``"requests_per_s"``, ``"epoll_ctl"``, ``"waits"``, ``"events"``,
        ``"p50_us"`` or ``"p99_us"``.
    note : str, optional
        Circumstances, in place of the result's own.

    Returns
    -------
    matplotlib.axes.Axes
        Points are medians of rounds, bars from the least round to the greatest. The axis
        is logarithmic, with 0 set apart at its left. A line that ends early has a cross.

    Raises
    ------
    ValueError
        An unknown `value`.
    """
    _known_value(value)
    frame = _frame(data)
    with canvas(ax, (6.8, 4.2), _note(data, note)) as (ax, theme, below):
        ax.set_xlabel("idle connections")
        ax.set_ylabel(_IDLE_LABELS[value])
        if frame.empty:
            nothing(ax, theme, "nothing measured")
            return ax
        handles = _idle_lines(ax, theme, frame, value)
        below.legend(handles, columns=min(3, len(handles)))
    return ax


def _known_value(value: str) -> None:
    from epolllab.checks import check_choice

    check_choice("value", value, list(_IDLE_LABELS))


def _idle_lines(ax: Axes, theme: Theme, frame: pd.DataFrame, value: str) -> list[Any]:
    sizes = sorted(frame["idle"].unique())
    least = min((n for n in sizes if n), default=10)
    zero = np.log10(least) - 1

    def place(n: Any) -> Any:
        n = np.asarray(n, dtype=float)
        return np.where(n > 0, np.log10(np.maximum(n, 1)), zero)

    handles = []
    servers = _in_order(frame["server"])
    for i, server in enumerate(servers):
        marker, dashes = _SERVER_LOOKS.get(server, ("o", "-"))
        rows = frame[frame["server"] == server].groupby("idle")[value]
        middle = rows.median()
        x = place(middle.index) + 0.025 * (i - (len(servers) - 1) / 2)
        color = theme.arm(server)
        ax.vlines(x, rows.min(), rows.max(), color=color, lw=1.4, alpha=0.6)
        handles += ax.plot(
            x, middle, marker, ls=dashes, color=color, ms=5, mew=0, lw=1.5, label=server,
            gid=server, clip_on=False, zorder=3,
        )  # fmt: skip
        if middle.index[-1] < sizes[-1]:
            _end_of_line(ax, theme, x[-1], middle.iloc[-1], color)
    shown = _tick_sizes(sizes)
    ax.set_xticks(place(shown), [f"{n:,}" for n in shown])
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.10g}"))
    ax.grid(axis="y")
    return handles


def _tick_sizes(sizes: Sequence[int]) -> list[int]:
    """Leave out sizes of arms that end early where they would collide with the next."""
    kept: list[int] = []
    for n in reversed(sizes):
        if not kept or n < 0.7 * kept[-1]:
            kept.append(n)
    return kept[::-1]


def observer_cost(
    data: Data,
    *,
    ax: Axes | None = None,
    load: str = "echo",
    value: str = "p50_us",
    note: str | None = None,
) -> Axes:
    """Draw what a way of watching costs, a line for each.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`epolllab.experiments.comparisons.observer_cost.observer_cost`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure otherwise.
    load : {"echo", "http"}
        Which of the loads.
    value : str
        ``"p50_us"``, ``"p99_us"``, ``"requests_per_s"``, ``"cpu_us"`` or ``"watcher_us"``.
    note : str, optional
        Circumstances, in place of the result's own.

    Returns
    -------
    matplotlib.axes.Axes
        Points are medians of rounds, bars from the least to the greatest; beside each is
        how many times the plain server in the same place it is.

    Raises
    ------
    ValueError
        An unknown `value`.
    """
    _known_value(value)
    frame = _frame(data)
    frame = frame[frame["load"] == load]
    looks = _in_order(frame["look"]) if len(frame) else []
    with canvas(ax, (6.8, 1.4 + 0.42 * max(len(looks), 3)), _note(data, note)) as (
        ax,
        theme,
        below,
    ):
        what = "one echo at a time" if load == "echo" else "50 busy HTTP connections"
        ax.set_xlabel(f"{_IDLE_LABELS[value]}, {what}")
        if not looks:
            nothing(ax, theme, "nothing measured")
            return ax
        below.width *= 0.8  # what the long names at the left take from the axes
        below.legend(_look_rows(ax, theme, frame, looks, value))
    return ax


def _in_order(names: "pd.Series[Any]") -> list[str]:
    """Those that occur, in the order of their categories."""
    return [str(name) for name in names.cat.remove_unused_categories().cat.categories]


def _look_rows(
    ax: Axes, theme: Theme, frame: pd.DataFrame, looks: Sequence[str], value: str
) -> list[Any]:
    handles = []
    styles = (
        ("process", "o", theme.arms["level"], -0.16),
        ("thread", "s", theme.arms["edge"], 0.16),
    )
    most = float(frame[value].max())
    for where, marker, color, shift in styles:
        rows = frame[frame["where"] == where].groupby("look", observed=True)[value]
        middle = rows.median()
        if middle.empty:
            continue
        y = np.array([looks.index(str(look)) for look in middle.index]) + shift
        ax.hlines(y, rows.min(), rows.max(), color=color, lw=2, alpha=0.6)
        handles += ax.plot(
            middle, y, marker, color=color, ms=6, ls="", label=f"server in a {where}", gid=where
        )
        plain = middle.get("plain", np.nan)
        for x, height, top in zip(middle, y, rows.max(), strict=True):
            times = f"  {x / plain:.2g} x" if plain and x != plain else ""
            ax.annotate(
                f"{x:,.0f}{times}", (max(x, top), height), (8, 0), textcoords="offset points",
                va="center", fontsize=7.5, color=theme.ink,
            )  # fmt: skip
    ax.set_xlim(0, most * 1.18)
    ax.xaxis.set_major_formatter(FuncFormatter(_whole))
    ax.set_yticks(range(len(looks)), [look.replace(", ", ",\n") for look in looks])
    ax.set_ylim(len(looks) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    return handles
