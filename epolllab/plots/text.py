"""Text of charts that others chose: request targets, labels, names of files and servers.

matplotlib would read ``$`` as the begin of a formula, and warn of characters that its font
does not have.
"""

from functools import lru_cache
from typing import Any

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

__all__ = ["plain", "short", "show_plain"]

FONT = "DejaVu Sans"
"""The style's font, which comes with matplotlib."""


@lru_cache(maxsize=8)
def _characters(font: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(font).get_charmap()) | {ord("\n")}


def plain(words: object, font: Any = FONT) -> str:
    """Return text in which a character that the font does not have is written as its code."""
    known = _characters(font_manager.findfont(font))
    return "".join(
        c if ord(c) in known else c.encode("unicode_escape").decode() for c in str(words)
    )


def short(words: object, most: int) -> str:
    """Return a name in which no line has more than `most` characters."""
    return "\n".join(
        line if len(line) <= most else f"{line[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
        for line in str(words)[: 10 * most].split("\n")
    )


def show_plain(ax: Axes) -> None:
    """Have every text of a chart shown as it is: no formulas, no TeX, no missing characters.

    The numbers at an axis are left alone: matplotlib writes them, and may use formulas.
    """
    texts = [part for part in ax.get_children() if isinstance(part, Text)]
    for axis in (ax.xaxis, ax.yaxis):
        texts.append(axis.label)
        if isinstance(axis.get_major_locator(), FixedLocator):
            texts += axis.get_majorticklabels()
    if legend := ax.get_legend():
        texts += legend.get_texts()
    for text in texts:
        text.set(
            parse_math=False, usetex=False, text=plain(text.get_text(), text.get_fontproperties())
        )
