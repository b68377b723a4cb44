"""Text alternatives: what every figure says to who cannot see it."""

import base64
import copy
import pickle
import re
from html import unescape
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.core.pylabtools import select_figure_formats
from matplotlib import pyplot as plt

from epolllab import plots
from epolllab.plots.alternative import by_data
from tests.plots.samples import CHARTS, NAMED, journeys
from tests.samples import served

EVERY = pytest.mark.parametrize("name", [*CHARTS, *NAMED])


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As much of a notebook's shell as shows figures."""
    made = SimpleNamespace(display_formatter=DisplayFormatter())
    select_figure_formats(made, {"png"})
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: made)
    return made


def shown(shell: Any, figure: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a notebook stores of a figure: its data and metadata by MIME type."""
    data, metadata = shell.display_formatter.format(figure)
    return data, metadata


@EVERY
def test_every_chart_has_one_sentence_from_its_data(name: str) -> None:
    """With its title and numbers; another one where there is nothing to show."""
    plot, make = {**CHARTS, **NAMED}[name]
    data = make()
    text = plots.alt_text(plot(data))
    title, sentence = text.split(": ", 1)
    assert title
    assert re.search(r"\d", sentence)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 1200
    if name in CHARTS:
        frame = getattr(data, "frame", getattr(data, "events", lambda: data))
        frame = frame() if callable(frame) else frame
        nothing = plots.alt_text(plot(frame[:0]))
        assert "no " in nothing or "nothing" in nothing
        assert nothing != text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wakeups", "9 wakeups, waited 74.0 µs in the median, handled 4.10 µs in the median."),
        ("interest", "1 in both, 1 ghost only in the kernel, 1 only in the program."),
        ("conformance", "how-to passes 1 of 2, ours passes 2 of 2."),
        ("lifecycles", "epoll_ctl calls per request: howto, level 4.1; once, edge 1."),
        ("history", "of 2 waits level returned 2, edge 1."),
        ("live", "latency in the server at most 3 µs (p50) and 3 µs (p99)."),
        (
            "idle_connections",
            "level-eager 41 at 0 to 41 at 1,000; select-eager 41 at 0 to 51 at 100.",
        ),
    ],
)
def test_a_sentence_has_the_values_that_are_drawn(name: str, expected: str) -> None:
    """Bars, lines and marks, as the axis writes their values."""
    plot, make = CHARTS[name]
    assert plots.alt_text(plot(make())).endswith(expected)


def test_a_notebook_shows_the_sentence_with_the_picture(shell: Any) -> None:
    """As alt of an image of the same PNG, in the PNG's metadata, and as text."""
    ax = plots.batch_sizes(served(3, 3))
    text = plots.alt_text(ax)
    data, metadata = shown(shell, ax.figure)
    assert sorted(data) == ["image/png", "text/html", "text/plain"]
    assert data["text/plain"] == text == metadata["image/png"]["alt"]
    source, alt = re.fullmatch(
        r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)">', data["text/html"]
    ).groups()  # type: ignore[union-attr]
    assert unescape(alt) == text
    assert base64.b64decode(source).startswith(b"\x89PNG")
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")


def test_text_of_others_does_not_become_html(shell: Any) -> None:
    """A name with quotes and brackets is escaped."""
    ax = plots.latency({'"><script>': journeys({}), "b": journeys({})})
    data, metadata = shown(shell, ax.figure)
    assert "<script>" not in data["text/html"]
    assert '"><script>' in metadata["image/png"]["alt"]


def test_a_doubled_picture_has_its_size(shell: Any) -> None:
    """In HTML as in the metadata."""
    select_figure_formats(shell, {"retina"})
    data, metadata = shown(shell, plots.batch_sizes(served(3, 3)).figure)
    size = metadata["image/png"]
    assert f'width="{size["width"]}" height="{size["height"]}">' in data["text/html"]


def test_a_notebook_that_shows_no_png_has_the_text(shell: Any) -> None:
    """As SVG, and without a notebook's backend."""
    for formats in ({"svg"}, set()):
        select_figure_formats(shell, formats)
        data, _ = shown(shell, plots.batch_sizes(served(3, 3)).figure)
        assert "text/html" not in data
        assert data["text/plain"].startswith("Batch sizes of the waits: ")


def test_a_figure_with_two_charts_has_both_sentences(shell: Any) -> None:
    """And that of a title which was set later."""
    figure, (left, right) = plt.subplots(1, 2)
    plots.batch_sizes(served(3, 3), ax=left).set_title("Mine", loc="left")
    plots.wakeups(served(3, 3), ax=right)
    text = plots.alt_text(figure)
    assert text == f"{plots.alt_text(left)} {plots.alt_text(right)}"
    assert text.startswith("Mine: 9 waits")
    assert shown(shell, figure)[0]["text/plain"] == text


def test_a_figure_can_still_be_copied() -> None:
    """Pickled, too, with its text."""
    ax = plots.batch_sizes(served(3, 3))
    for other in (pickle.loads(pickle.dumps(ax.figure)), copy.deepcopy(ax.figure)):
        assert plots.alt_text(other) == plots.alt_text(ax)


def test_axes_of_others_are_described_by_their_labels() -> None:
    """Their lines, too; anything but a figure is refused."""
    _, ax = plt.subplots()
    ax.plot([1, 2], [3, 4], label="ours")
    ax.set(xlabel="N", ylabel="time")
    assert plots.alt_text(ax) == "time by N: ours 3 at 1 to 4 at 2."
    assert by_data(ax) == "time by N: ours 3 at 1 to 4 at 2"
    with pytest.raises(TypeError, match=r"^figure must be a matplotlib Figure or Axes"):
        plots.alt_text("x")  # type: ignore[arg-type]
