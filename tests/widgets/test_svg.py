"""Charts as SVG text, and the style sheet."""

import re

import pytest
from matplotlib.figure import Figure

from epolllab.plots import style
from epolllab.widgets import svg

pytestmark = pytest.mark.unit


def test_sparkline_leaves_out_unknown_values() -> None:
    """NaN is a gap, and no values are an empty line."""
    text = svg.sparkline({"x": ("main", [float("nan"), 1.0, 2.0])})
    assert "nan" not in text
    assert re.search(r'points="120,\d+ 240,\d+"', text)
    assert 'points=""' in svg.sparkline({"x": ("main", [])})


def test_style_sheet_follows_the_theme() -> None:
    """Each colour is a variable with a light and a dark value; text has JupyterLab's colour."""
    text = svg.css()
    for name, color in style.LIGHT.variants.items():
        assert f"--epl-{name}:{color}" in text
        assert f"--epl-{name}:{style.DARK.variants[name]}" in text
    assert "[data-jp-theme-light='false'] .epl{" in text
    assert "var(--jp-ui-font-color1" in text


def test_embedded_figure_follows_the_theme_and_leaves_the_page_alone() -> None:
    """Colours are variables, text is text, and its text alternative is the figure's."""
    figure = Figure()
    with style.use(dark=False) as theme:
        ax = figure.add_subplot()
        ax.plot([1, 2], color=theme.variants["edge"])
        ax.set_xlabel("over <x>")
    text = svg.from_figure(figure, "a <label>")
    assert text.startswith('<svg viewBox="')
    assert 'aria-label="a &lt;label&gt;: over &lt;x&gt;' in text
    assert "stroke: var(--epl-edge)" in text
    assert "over &lt;x&gt;</text>" in text
    assert not re.search(r"#[0-9a-f]{6};|<style|<metadata", text)


def test_every_colour_of_a_chart_follows_the_theme() -> None:
    """No colour with a meaning stays that of the light theme, whichever a chart uses."""
    theme = style.LIGHT
    colors = [*theme.variants.values(), *theme.ops.values(), *theme.spans.values(), *theme.series]
    figure = Figure()
    ax = figure.add_subplot()
    for place, color in enumerate([*colors, theme.main, theme.alarm, theme.muted]):
        ax.plot([place], [0], "o", color=color)
    text = svg.from_figure(figure)
    assert [color for color in colors if color.lower() in text.lower()] == []
