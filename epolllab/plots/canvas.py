"""The ground of every picture: an Axes in the one style, and what stands under it.

One job: lend an Axes, stack legend and notes under its labels, and say where there is
nothing to draw. It draws no data.
"""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from epolllab.plots import style
from epolllab.plots.style import Theme

__all__ = ["SMALL", "Below", "canvas", "nothing"]


SMALL = 7.0
"""Points; smaller letters are not legible at half width."""

_ROW = 1.46  # distance of two rows of a legend, in sizes of its letters


@contextmanager
def canvas(
    ax: Axes | None, size: tuple[float, float], note: str | None
) -> Iterator[tuple[Axes, Theme, "Below"]]:
    """Lend an Axes in the package's style, and finish it with the note.

    Parameters
    ----------
    ax : matplotlib.axes.Axes or None
        Where to draw; None for a new figure.
    size : tuple of float
        Of the new figure, in inches.
    note : str or None
        Circumstances, in grey under all else.

    Yields
    ------
    tuple of (Axes, Theme, Below)
        Where to draw, in which colours, and what stacks legends and words underneath.
    """
    with style.use() as theme:
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=size, layout="constrained")
        ax.spines[["top", "right"]].set_visible(False)
        below = Below(ax, theme)
        yield ax, theme, below
        if note:
            below.text(note)


class Below:
    """What is stacked under an Axes' labels, each at its distance in points."""

    def __init__(self, ax: Axes, theme: Theme) -> None:
        self.ax = ax
        self.theme = theme
        self.depth = 33.0
        figure: Any = ax.get_figure()
        # A layout engine makes more of the room than the position says before it ran.
        self.width = figure.get_figwidth() * ax.get_position().width * 72 * 1.08
        self._scale = figure.dpi_scale_trans

    def _anchor(self) -> Any:
        return self.ax.transAxes + ScaledTranslation(0, -self.depth / 72, self._scale)

    def legend(self, handles: Sequence[Any], *, columns: int = 0, **font: Any) -> None:
        """Put a legend there, in as many columns as the width allows."""
        wide = [len(str(h.get_label())) * 4.4 + 27 for h in handles]
        columns = max(1, min(columns or len(handles), len(handles)))
        while columns > 1 and sum(max(wide[c::columns]) for c in range(columns)) > self.width:
            columns -= 1
        rows = -(-len(handles) // columns)
        drawn = self.ax.legend(
            # Legends fill by column; in reading order they are filled by row.
            handles=[h for c in range(columns) for h in handles[c::columns]],
            ncols=columns,
            loc="upper left",
            bbox_to_anchor=(0, 0),
            bbox_transform=self._anchor(),
            borderaxespad=0,
            borderpad=0,
            handlelength=1.3,
            columnspacing=1.4,
            labelspacing=0.35,
            prop={"size": 8.0} | font,
        )
        drawn.set_in_layout(True)
        self.depth += rows * _ROW * font.get("size", 8.0) + 3

    def text(self, words: str) -> None:
        """Put a small grey line there, broken to the width."""
        lines = textwrap.fill(words, max(24, int(self.width // 3.9)))
        self.ax.text(
            0,
            0,
            lines,
            transform=self._anchor(),
            va="top",
            fontsize=SMALL,
            color=self.theme.muted,
            linespacing=1.3,
            gid="note",
        )
        self.depth += (lines.count("\n") + 1) * SMALL * 1.3 + 3


def nothing(ax: Axes, theme: Theme, words: str) -> None:
    """Say in the middle of an empty picture what is not there."""
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", color=theme.muted)
    ax.set_xticks([])
    ax.set_yticks([])
