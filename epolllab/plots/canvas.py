"""The frame of every chart: a styled Axes, and the legend and notes stacked below it.

Also holds the checks and the description of the parameters that all charts share.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from epolllab.checks import Check, check_instance, check_text, checked
from epolllab.plots import style
from epolllab.plots.alternative import attach, by_data
from epolllab.plots.sources import From
from epolllab.plots.style import Theme
from epolllab.plots.text import plain, short, show_plain

__all__ = [
    "SMALL", "Canvas", "From", "canvas", "chart_function", "fixed_axis", "legend_mark",
    "log_axis", "log_limits",
]  # fmt: skip

SMALL = 7.0
"""Font size in points; smaller text is not legible at half width."""

MOST_LINES = 10
"""Lines of a note; more would leave no room for the chart."""

NAME = 4.9  # width in points of a character of a name

_ROW = 1.46  # line spacing of a legend, in font sizes

_OWN = "\n\nParameters\n----------\n"
_SHARED = """
ax : matplotlib.axes.Axes, optional
    Where to draw; by default a new figure.
note : str, optional
    Grey text below the chart, for the circumstances of the measurement. By default
    those that a Result carries.

Returns
-------
matplotlib.axes.Axes
"""

Draw = TypeVar("Draw", bound=Callable[..., Axes])


def chart_function(**checks: Check) -> Callable[[Draw], Draw]:
    """Decorator of a chart's function: checks every argument, and completes the docstring.

    There is a check for each parameter except those that all charts share. The first is of
    the data; where it is :class:`From`, its description is added, too.
    """

    def complete(draw: Draw) -> Draw:
        summary, _, own = inspect.cleandoc(draw.__doc__ or "").partition(_OWN)
        for name, check in checks.items():
            if isinstance(check, From) and f"{name} : " not in own:
                described = f"{name} : {check.kinds}\n    {check.described}\n{own}"
                own = described.rstrip()
        draw.__doc__ = summary + _OWN + own + _SHARED
        return checked(**checks, ax=check_axes, note=check_text)(draw)

    return complete


def check_axes(name: str, value: Any) -> Axes:
    """Return `value` if it is Axes in a figure."""
    ax: Axes = check_instance(name, value, Axes, "matplotlib Axes, such as plt.subplots() returns")
    if ax.get_figure() is None:
        raise ValueError(f"{name} must be in a figure; these Axes were removed from theirs")
    return ax


@contextmanager
def canvas(
    ax: Axes | None, size: tuple[float, float], note: str | None, title: str = ""
) -> Iterator[tuple[Axes, "Canvas"]]:
    """Yield an Axes in the package's style and its canvas; add the note at the end.

    ``size`` is that of the new figure in inches, where `ax` is None. The style is applied to
    the Axes, since the caller may have made them in another one.
    """
    with style.use() as theme:
        if ax is None:
            import matplotlib.pyplot as plt

            width, height = size
            n_lines = min(len(note or "") * 3.9 / (width * 56), MOST_LINES)
            height += max(n_lines - 2, 0) * SMALL * 1.3 / 72
            _, ax = plt.subplots(figsize=(width, height), layout="constrained")
        style.apply(ax, theme)
        chart = Canvas(ax, theme)
        ax.set_title(textwrap.fill(plain(title)[:300], max(24, int(chart.width // 6.4))))
        yield ax, chart
        if note:
            chart.text(note)
        show_plain(ax)
        attach(ax, chart.sentence or by_data(ax))


class Canvas:
    """One chart's Axes and theme, and what is stacked below the axis labels.

    Everything below the axes is placed at distances in points, so that it keeps clear of
    the labels at any size, and of a title set later.
    """

    def __init__(self, ax: Axes, theme: Theme) -> None:
        self.ax = ax
        self.theme = theme
        self.depth = 33.0
        self.sentence = ""
        figure: Any = ax.get_figure()
        # The layout engine later makes the axes wider than their present position.
        self.width = figure.get_figwidth() * ax.get_position().width * 72 * 1.08
        self._scale = figure.dpi_scale_trans
        self._whole = figure.get_figwidth() * 72
        self._longest = max(12, int(0.4 * self._whole / NAME))

    def describe(self, sentence: str) -> None:
        """Give the chart its text alternative: one sentence, made from the data."""
        self.sentence = plain(sentence)[:1000]

    def draw_empty(self, words: str) -> Axes:
        """Write in the middle of the axes what is missing; return the Axes.

        The scales are linear, since a logarithmic one has no place for data that are not there.
        """
        self.ax.set(xscale="linear", yscale="linear")
        middle: Any = {"transform": self.ax.transAxes, "ha": "center", "va": "center"}
        self.describe(words)
        self.ax.text(0.5, 0.5, words, color=self.theme.muted, **middle)
        hidden: Any = {"left": False, "bottom": False, "labelleft": False, "labelbottom": False}
        self.ax.tick_params(which="both", **hidden)
        return self.ax

    def name_ticks(
        self, axis: Axis, places: Sequence[float], names: Sequence[object], **look: Any
    ) -> None:
        """Put names at ticks, cut to less than half of the figure's width."""
        shown = [short(plain(name), self._longest) for name in names]
        axis.set_ticks(places, shown, **look)
        if axis is self.ax.yaxis:  # names of rows narrow the axes
            longest = max((len(line) for name in shown for line in name.split("\n")), default=0)
            self.width = min(self.width, self._whole - longest * NAME - 40)

    def label_rows(self, labels: Sequence[str], *, least: int = 0) -> None:
        """Name the rows 0, 1, ... from the top down, with room for at least so many."""
        self.name_ticks(self.ax.yaxis, range(len(labels)), labels)
        self.ax.set_ylim(max(len(labels), least) - 0.4, -0.6)
        self.ax.tick_params(axis="y", length=0)

    def label_columns(self, labels: Sequence[str], heading: str = "") -> None:
        """Name the columns 0, 1, ... of a table at its top; draw no axis lines."""
        self.name_ticks(self.ax.xaxis, range(len(labels)), labels)
        self.ax.set_xlim(-0.5, max(len(labels), 1) - 0.5)
        self.ax.set_xlabel(heading)
        self.ax.xaxis.set_label_position("top")
        self.ax.xaxis.tick_top()
        self.ax.tick_params(length=0)
        self.ax.spines[:].set_visible(False)
        self.depth = 5

    def annotate(self, words: str, at: Any, offset: tuple[float, float], **look: Any) -> None:
        """Write beside a point, at an offset in points."""
        usual: Any = {"va": "center", "fontsize": SMALL + 0.5, "color": self.theme.ink}
        self.ax.annotate(words, at, offset, textcoords="offset points", **{**usual, **look})

    def _anchor(self) -> Any:
        return self.ax.transAxes + ScaledTranslation(0, -self.depth / 72, self._scale)

    def legend(self, handles: Sequence[Any], *, columns: int = 0, **font: Any) -> None:
        """Add a legend below, in as many columns as the width allows."""
        # matplotlib leaves out labels that begin with an underscore.
        names = [re.sub("^_", " _", plain(handle.get_label())) for handle in handles]
        names = [short(name, int(self.width / 4.4) - 6) for name in names]
        widths = [len(name) * 4.4 + 27 for name in names]
        columns = max(1, min(columns or len(handles), len(handles)))
        while columns > 1 and sum(max(widths[c::columns]) for c in range(columns)) > self.width:
            columns -= 1
        rows = -(-len(handles) // columns)
        # matplotlib fills a legend by column; this order makes it read by row.
        by_row = [place for c in range(columns) for place in range(len(handles))[c::columns]]
        drawn = self.ax.legend(
            [handles[place] for place in by_row], [names[place] for place in by_row],
            ncols=columns, loc="upper left", bbox_to_anchor=(0, 0),
            bbox_transform=self._anchor(), borderaxespad=0, borderpad=0, handlelength=1.3,
            columnspacing=1.4, labelspacing=0.35, prop={"size": 8.0} | font,
        )  # fmt: skip
        drawn.set_in_layout(True)
        self.depth += rows * _ROW * font.get("size", 8.0) + 3

    def text(self, words: str) -> None:
        """Add small grey text below, wrapped to the width; at most MOST_LINES of it."""
        lines = textwrap.fill(
            plain(words)[:5000], max(24, int(self.width // 3.9)), max_lines=MOST_LINES,
            placeholder=" \N{HORIZONTAL ELLIPSIS}",
        )  # fmt: skip
        self.ax.text(
            0, 0, lines, transform=self._anchor(), va="top", fontsize=SMALL, linespacing=1.3,
            color=self.theme.muted, gid="note",
        )  # fmt: skip
        self.depth += (lines.count("\n") + 1) * SMALL * 1.3 + 3


def legend_mark(color: str, label: str, marker: str = "o", **look: Any) -> Line2D:
    """A legend's entry for marks without a line."""
    return Line2D([], [], ls="", marker=marker, color=color, label=label, **look)


def fixed_axis(axis: Axis, ticks: Sequence[float], text: Callable[[float, object], str]) -> None:
    """Have ticks at these places only, each with its label."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(text)
    axis.set_minor_locator(NullLocator())


def log_limits(values: Any, below: float = 1.0, above: float = 1.0) -> tuple[float, float] | None:
    """Limits of a logarithmic axis around values, of which it has a place for positive ones.

    None if there are none. The limits differ also for a single value.
    """
    numbers = np.asarray(values, dtype=float)
    known = numbers[np.isfinite(numbers) & (numbers > 0)]
    if not len(known):
        return None
    low, high = float(known.min()) / below, float(known.max()) * above
    return (low, high) if high > 1.01 * low else (low / 1.6, high * 1.6)


def log_axis(axis: Axis, text: Callable[[float, object], str]) -> None:
    """Label a logarithmic axis, when its data are drawn: by powers of ten, or by 1, 2, 5."""
    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high < 100 * max(low, 1e-9) else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(text)
    axis.set_minor_formatter(NullFormatter())
