"""Charts as SVG text, and the style sheet."""

import re

import pytest
from matplotlib.figure import Figure

from epolllab import Recording
from epolllab.plots import style
from epolllab.widgets import svg
from tests.samples import Script, served

pytestmark = pytest.mark.unit


def classes(text: str) -> list[str]:
    """Classes of the paths before the first label."""
    return re.findall(r'class="([^"]*)"', text[: text.index("<text")])


def test_timeline_has_a_lane_for_each_recent_connection() -> None:
    """Coordinates are integers, and everything of one colour is one path."""
    text = svg.timeline(served(30, 40).array(), window_ns=10**8, lanes=4)
    assert re.findall(r">(loop|conn \d+)<", text) == ["loop", *(f"conn {n}" for n in range(27, 31))]
    paths = re.findall(r' d="([^"]*)"', text)
    assert paths
    assert all(re.fullmatch(r"[Mhvlz0-9 -]*", path) for path in paths)
    assert len(classes(text)) == len(set(classes(text)))
    assert "no events yet" in svg.timeline(Recording(b"").array(), window_ns=10**8)


def test_timeline_shows_errors_and_ready_rows_in_colours_of_their_own() -> None:
    """A call that would block is red, and ready rows are marks."""
    script = Script().wait(1).ready(1).recv(1, 10).recv_blocked(1)
    text = svg.timeline(script.recording().array(), window_ns=10**6)
    assert set(classes(text)) == {"f-wait", "f-recv", "f-alarm", "ink"}


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
    """Colours are variables, text is text, and there is no style sheet for the whole page."""
    figure = Figure()
    with style.use(dark=False) as theme:
        ax = figure.add_subplot()
        ax.plot([1, 2], color=theme.variants["edge"])
        ax.set_xlabel("over <x>")
    text = svg.from_figure(figure, "a <label>")
    assert text.startswith('<svg viewBox="')
    assert 'aria-label="a &lt;label&gt;"' in text
    assert "stroke: var(--epl-edge)" in text
    assert "over &lt;x&gt;</text>" in text
    assert not re.search(r"#[0-9a-f]{6};|<style|<metadata", text)
