"""Colours: contrast in both themes, and what readers with deuteranopia can tell apart.

The tables of the style are tested as a whole, and every chart as it is drawn, so that a later
colour or chart cannot break it.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from epolllab.plots import style
from tests.plots.colors import ciede2000, contrast, difference, hue
from tests.plots.samples import CHARTS, NAMED

TEXT, FILL = 4.5, 3.0
"""Contrasts that WCAG 2.2 requires: 1.4.3 of text, 1.4.11 of graphical objects."""

APART = 12.0
"""CIEDE2000 under deuteranopia between colours that meet."""

themes = pytest.mark.parametrize("theme", style.THEMES.values(), ids=style.THEMES)


def tables(theme: style.Theme) -> dict[str, Mapping[str, str]]:
    """The colours that meet in one chart: each table's."""
    series = {f"series {place}": color for place, color in enumerate(theme.series)}
    return {
        "variants": theme.variants, "ops": theme.ops, "spans": theme.spans, "series": series,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_difference_is_the_published_one(first: Any, second: Any, expected: float) -> None:
    """Pairs from the table of Sharma, Wu and Dalal."""
    assert ciede2000(first, second) == pytest.approx(expected, abs=1e-4)
    assert ciede2000(second, first) == pytest.approx(expected, abs=1e-4)


@themes
def test_every_colour_has_enough_contrast(theme: style.Theme) -> None:
    """Those that text may have, 4.5; operations and spans, which only fill, 3."""
    named = {"ink": theme.ink, "muted": theme.muted, "alarm": theme.alarm, "main": theme.main}
    colors = tables(theme)
    for name, color in {**named, **colors["variants"], **colors["series"]}.items():
        assert contrast(color, theme.paper) >= TEXT, name
    for name, color in {**theme.ops, **theme.spans}.items():
        assert contrast(color, theme.paper) >= FILL, name


def test_dark_colours_suit_the_ground_of_voilas_pages() -> None:
    """Which is less dark than JupyterLab's; panels of widgets have no ground of their own."""
    theme, ground = style.DARK, "#212121"
    for name, color in {**theme.variants, "muted": theme.muted, "alarm": theme.alarm}.items():
        assert contrast(color, ground) >= TEXT, name
    for name, color in theme.ops.items():
        assert contrast(color, ground) >= FILL, name


@themes
def test_colours_that_meet_differ_under_deuteranopia(theme: style.Theme) -> None:
    """Every pair of a table, and also for usual vision."""
    for colors in tables(theme).values():
        for one, other in itertools.combinations(colors, 2):
            pair = colors[one], colors[other]
            assert difference(*pair, deuteranopia=True) >= APART, (one, other)
            assert difference(*pair) >= APART, (one, other)


@themes
def test_a_colour_has_one_meaning(theme: style.Theme) -> None:
    """No two meanings share one, except a span and the operation that it is."""
    same = {"main": "series 0", "read": "recv"}
    meanings = {"main": theme.main, "alarm": theme.alarm}
    for colors in tables(theme).values():
        meanings |= colors
    for one, other in itertools.combinations(meanings, 2):
        if same.get(one) != other and same.get(other) != one:
            assert difference(meanings[one], meanings[other]) >= 4, (one, other)


@themes
def test_orange_is_edge_and_nothing_else(theme: style.Theme) -> None:
    """No other colour has its hue, unless it is too grey to be called orange."""
    orange, _ = hue(theme.variants["edge"])
    everything = {"main": theme.main, "alarm": theme.alarm, "muted": theme.muted}
    for colors in tables(theme).values():
        everything |= colors
    for name, color in everything.items():
        angle, chroma = hue(color)
        near = abs((angle - orange + 180) % 360 - 180) < 15
        assert (near and chroma > 40) == (name == "edge"), (name, angle, chroma)


def test_every_variant_has_a_marker_of_its_own() -> None:
    """For charts in which a variant meets a series."""
    theme = style.LIGHT
    names = [*theme.variants, *(f"run {place}" for place in range(len(theme.series)))]
    places = [0] * len(theme.variants) + list(range(len(theme.series)))
    markers = [theme.marker(name, place) for name, place in zip(names, places, strict=True)]
    assert len(set(markers)) == len(names)


# ---- as drawn --------------------------------------------------------------------------

drawn = pytest.mark.parametrize("name", [*CHARTS, *NAMED])


def draw(name: str, theme: style.Theme) -> Any:
    """Draw a chart in a theme; return the Axes, with every text at its place."""
    plot, make = {**CHARTS, **NAMED}[name]
    with style.use(dark=theme is style.DARK):
        ax = plot(make())
    ax.figure.canvas.draw()
    return ax


def blended(color: Any, alpha: float | None, ground: Any) -> tuple[float, float, float]:
    """A colour on its ground."""
    *front, own = to_rgba(color, alpha)
    mixed = [own * a + (1 - own) * b for a, b in zip(front, to_rgba(ground), strict=False)]
    return mixed[0], mixed[1], mixed[2]


def ground_of(text: Text, ax: Any, paper: str) -> Any:
    """What is behind the middle of a text: its own box, a patch, or the paper."""
    if (box := text.get_bbox_patch()) and box.get_facecolor()[3] > 0:
        return blended(box.get_facecolor(), None, paper)
    extent = text.get_window_extent()
    middle = ((extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2)
    ground: Any = paper
    for patch in sorted(ax.patches, key=lambda patch: patch.get_zorder()):
        if patch.get_window_extent().contains(*middle) and patch.get_facecolor()[3] > 0:
            ground = blended(patch.get_facecolor(), None, ground)
    return ground


@drawn
@themes
def test_every_text_of_a_chart_can_be_read(name: str, theme: style.Theme) -> None:
    """Against what it is written on."""
    ax = draw(name, theme)
    for part in [ax, *(other for other in ax.figure.axes if other is not ax)]:
        texts = [text for text in part.findobj(Text) if text.get_text() and text.get_visible()]
        for text in texts:
            ratio = contrast(text.get_color(), ground_of(text, part, theme.paper))
            assert ratio >= TEXT, (text.get_text(), text.get_color(), ratio)


def color_of(handle: Any, paper: str) -> Any:
    """The colour in which a legend's entry is seen; None for one that is only words."""
    if isinstance(handle, Line2D):
        if handle.get_color() == "none":
            return None
        return blended(handle.get_color(), handle.get_alpha(), paper)
    if isinstance(handle, Patch):
        parts = [handle.get_facecolor(), *([handle.get_edgecolor()] if handle.get_hatch() else [])]
    else:
        parts = [*handle.get_facecolor()[:1], *handle.get_edgecolor()[:1]]
    return max((blended(part, None, paper) for part in parts), key=lambda c: contrast(c, paper))


def shape(handle: Any) -> Any:
    """What tells entries apart without colour: marker, dashes, hatch, width."""
    if isinstance(handle, Line2D):
        is_hollow = handle.get_markerfacecolor() != handle.get_color()
        dashes = handle.get_linestyle(), str(getattr(handle, "_unscaled_dash_pattern", ""))
        return handle.get_marker(), is_hollow, dashes, round(handle.get_linewidth(), 1)
    if isinstance(handle, Patch):
        return "patch", handle.get_hatch(), not handle.get_facecolor()[3], handle.get_linewidth()
    path = handle.get_paths()[0]
    return "marks", len(path.vertices), len(handle.get_facecolor()) > 0


@drawn
@themes
def test_entries_of_a_legend_can_be_told_apart(name: str, theme: style.Theme) -> None:
    """By colour also with deuteranopia, or by marker, dashes or hatch; each is visible."""
    legend = draw(name, theme).get_legend()
    handles = [] if legend is None else legend.legend_handles
    words = [] if legend is None else [text.get_text() for text in legend.get_texts()]
    entries = [entry for entry in zip(words, handles, strict=True) if entry[1].get_visible()]
    colors = {}
    for word, handle in entries:
        if color := color_of(handle, theme.paper):
            colors[word] = handle, color
            assert contrast(color, theme.paper) >= FILL, word
    for one, other in itertools.combinations(colors, 2):
        (first, first_color), (second, second_color) = colors[one], colors[other]
        apart = difference(first_color, second_color, deuteranopia=True)
        assert apart >= APART or shape(first) != shape(second), (one, other, apart)


def test_names_that_are_no_variants_have_no_colour_with_a_meaning() -> None:
    """A reader's own runs are not drawn in the colours of level or edge."""
    theme = style.LIGHT
    given = [theme.variant(name, place) for place, name in enumerate(("before", "after"))]
    assert given == list(theme.series[:2])
