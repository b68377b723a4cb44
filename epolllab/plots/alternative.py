"""Text alternatives of figures: one sentence from the data of each chart, for every display.

A notebook shows a figure as a PNG, and neither JupyterLab nor nbconvert's page takes a text for
it from the output's metadata. So a figure with a chart has the MIME bundle of this file: the
PNG, with the text in its metadata, and an HTML image of the same PNG with the text in ``alt``,
which all of them prefer, also in a notebook that is not trusted.
"""

import base64
from collections.abc import Mapping
from functools import partial
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from epolllab.checks import check_instance, checked
from epolllab.plots.units import number

__all__ = ["MOST_PARTS", "alt_text", "attach", "by_data", "figure_of"]

MOST_PARTS = 12
"""Lines or rows that a sentence names."""

_SENTENCE = "_epolllab_sentence"


def figure_of(part: Axes | FigureBase) -> Figure:
    """The whole figure that contains Axes or a figure within a figure."""
    found: Any = part
    while not isinstance(found, Figure):
        found = found.figure
    return found


def attach(ax: Axes, sentence: str) -> None:
    """Have the figure of the Axes show its text alternative; `sentence` is of this chart."""
    setattr(ax, _SENTENCE, sentence)
    figure: Any = figure_of(ax)
    figure._repr_mimebundle_ = partial(_bundle, figure)


def _check_drawn(name: str, value: Any) -> Any:
    return check_instance(name, value, Axes | FigureBase, "a matplotlib Figure or Axes")


@checked(figure=_check_drawn)
def alt_text(figure: Axes | FigureBase) -> str:
    """Return the text alternative of a figure: a sentence for each of its charts.

    Notebooks show it to screen readers without further ado; it is for pages of your own.

    Parameters
    ----------
    figure : matplotlib Figure or Axes
        A chart of this package, or the figure with several.

    Returns
    -------
    str
        The titles, and what each chart shows of its data. Axes that this package did not draw
        are described by their labels and lines.
    """
    parts: list[Axes] = [figure] if isinstance(figure, Axes) else figure_of(figure).axes
    drawn = [part for part in parts if hasattr(part, _SENTENCE)] or parts
    return " ".join(filter(None, map(_described, drawn)))


def _described(ax: Axes) -> str:
    title = " ".join(ax.get_title(loc="left").split()) or " ".join(ax.get_title().split())
    sentence = getattr(ax, _SENTENCE, "") or by_data(ax)
    words = ": ".join(filter(None, (title, sentence)))
    return f"{words}." if words and words[-1] not in ".!?" else words


def by_data(ax: Axes) -> str:
    """Describe Axes by their labels and what is drawn: the ends of lines, the values of rows."""
    rows = ax.get_yticklabels() if isinstance(ax.yaxis.get_major_locator(), FixedLocator) else []
    names = {label.get_position()[1]: " ".join(label.get_text().split()) for label in rows}
    parts = _rows_in_words(ax, names) if names else _lines_in_words(ax)
    axes = (
        ax.get_xlabel() if names else " by ".join(filter(None, (ax.get_ylabel(), ax.get_xlabel())))
    )
    more = f", and {len(parts) - MOST_PARTS} more" if len(parts) > MOST_PARTS else ""
    return ": ".join(filter(None, (axes, "; ".join(parts[:MOST_PARTS]) + more)))


def _lines_in_words(ax: Axes) -> list[str]:
    """Each named line's values at its ends."""
    parts = []
    for line in ax.lines:
        name = _name_of(line)
        points = np.asarray(line.get_xydata(), dtype=float)
        points = points[np.isfinite(points).all(axis=1)]
        if not name or not len(points):
            continue
        ends = [f"{_value(ax.yaxis, y)} at {_value(ax.xaxis, x)}" for x, y in points[[0, -1]]]
        parts.append(f"{name} {' to '.join(dict.fromkeys(ends))}")
    return parts


def _name_of(line: Line2D) -> str:
    """A line's label, or its mark in this package; "" for one that is no data."""
    label = str(line.get_label())
    name = str(line.get_gid() or "") if label.startswith("_") else label
    return "" if name in ("end of line", "median") else name


def _rows_in_words(ax: Axes, names: Mapping[float, str]) -> list[str]:
    """The values of each named row: of bars, and of marks with a name of their own."""
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    values = [
        ("", bar.get_y() + bar.get_height() / 2, bar.get_x() + bar.get_width())
        for container in ax.containers
        for bar in getattr(container, "patches", ())
    ]
    for line in ax.lines:
        if name := _name_of(line):
            points = np.asarray(line.get_xydata(), dtype=float)
            values += [(name, float(y), float(x)) for x, y in points]
    several = len({name for name, _, _ in values}) > 1
    for name, place, value in values:
        near = min(names, key=lambda row: abs(row - place))
        if np.isfinite(value) and abs(near - place) <= 0.5:
            words = f"{name} {_value(ax.xaxis, value)}" if several else _value(ax.xaxis, value)
            found[names[near]].append(words)
    return [f"{name} {', '.join(texts)}" for name, texts in found.items() if texts]


def _value(axis: Axis, value: float) -> str:
    """A value as the axis would label it, or with three digits."""
    formatter = axis.get_major_formatter()
    if not isinstance(formatter, FuncFormatter):
        return number(value)
    # An axis with names at its ticks has no text for other values.
    nearest = min(axis.get_majorticklocs(), key=lambda place: abs(place - value), default=value)
    return str(formatter(value, 0) or formatter(nearest, 0))


def _bundle(figure: Figure, include: Any = None, exclude: Any = None) -> Any:
    """The figure's MIME bundle: what the notebook's backend makes, with the alternative."""
    from IPython.core.getipython import get_ipython

    text = alt_text(figure)
    shell: Any = get_ipython()
    try:
        made = shell.display_formatter.formatters["image/png"].lookup(figure)(figure)
    except (AttributeError, KeyError):  # no notebook, or one that shows figures as something else
        return {"text/plain": text}, {}
    data, own = made if isinstance(made, tuple) else (made, {})
    if isinstance(data, bytes):
        data = base64.b64encode(data).decode()
    png = data.replace("\n", "")
    size = "".join(f' {side}="{own[side]}"' for side in ("width", "height") if side in own)
    image = f'<img src="data:image/png;base64,{png}" alt="{escape(text)}"{size}>'
    bundle: Mapping[str, Any] = {"image/png": data, "text/html": image, "text/plain": text}
    return bundle, {"image/png": {**own, "alt": text}}
