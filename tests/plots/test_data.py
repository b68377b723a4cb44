"""What charts are given: the wrong frame, odd numbers, and text that others chose."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from epolllab import analysis, plots
from tests.plots.samples import CHARTS, legend, words
from tests.samples import served

EVERY = pytest.mark.parametrize("name", CHARTS)

HOSTILE = (r"$\frac{", "$a$", r"\alpha_^{}", "_x", "\x00\t\u65e5\U0001f600", "x" * 3000)
"""Formulas, broken formulas, a hidden label, characters without a glyph, and a long name."""

READS_NO_NAMED_COLUMN = ("masks", "conformance")


def chart(name: str) -> tuple[Callable[..., Any], pd.DataFrame, str]:
    """The function, a frame that it draws, and the name of its first parameter."""
    plot, make = CHARTS[name]
    data = make()
    frame = data.frame if isinstance(data, analysis.Result) else data
    return plot, frame, next(iter(inspect.signature(plot).parameters))


def draw(plot: Callable[..., Any], frame: pd.DataFrame, **options: Any) -> Any:
    """Draw without a warning; return the Axes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = plot(frame, **options)
        ax.figure.canvas.draw()
    plt.close("all")
    return ax


def refusal(plot: Callable[..., Any], frame: pd.DataFrame) -> str:
    """Draw without a warning; return the message of the refusal, or ""."""
    try:
        draw(plot, frame)
    except (TypeError, ValueError) as error:
        plt.close("all")
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not what is tested here, and take most of the time."""
    monkeypatch.setattr("epolllab.analysis.statistics.RESAMPLES", 10)


@EVERY
def test_another_object_is_refused_with_the_call_that_makes_the_frame(name: str) -> None:
    """What has nothing to do with the chart, and a recording where it makes no such frame."""
    plot, _, parameter = chart(name)
    others = () if name in OF_A_RECORDING else (served(1, 1),)
    for wrong in (None, 5, "x", [1, 2], plots.style, type(served(1, 1)), *others):
        with pytest.raises(TypeError, match=rf"^{parameter} must be .* not "):
            plot(wrong)


OF_A_RECORDING = {
    "timeline": "events", "wakeups": "wakeups", "batch_sizes": "wakeups", "latency": "requests",
}  # fmt: skip
"""Charts that accept a Recording, and the method whose frame they draw."""


@pytest.mark.parametrize(("name", "method"), OF_A_RECORDING.items())
def test_a_recording_is_drawn_as_the_frame_that_it_makes(name: str, method: str) -> None:
    """The same artists and words."""
    plot, _, _ = chart(name)
    recording = served(3, 3)
    ours, theirs = plot(recording), plot(getattr(recording, method)())
    assert words(ours) == words(theirs)
    assert [line.get_xydata().tolist() for line in ours.lines] == [
        line.get_xydata().tolist() for line in theirs.lines
    ]


@pytest.mark.parametrize("name", [name for name in OF_A_RECORDING if name != "timeline"])
def test_several_by_name_are_hues_with_a_legend(name: str) -> None:
    """Recordings and frames, in the colour that their name has."""
    plot, frame, _ = chart(name)
    ax = plot({"epoll-edge": served(3, 3), "mine": served(2, 4), "yours": frame})
    assert [label.split()[0] for label in legend(ax)[:3]] == ["epoll-edge", "mine", "yours"]
    theme = plots.style.LIGHT
    expected = [theme.variants["edge"], theme.series[1], theme.series[2]]
    drawn = [handle.get_color() if isinstance(handle, Line2D) else handle.get_facecolor()
             for handle in ax.get_legend().legend_handles[:3]]  # fmt: skip
    assert [to_hex(color).upper() for color in drawn] == expected
    assert all(name in plots.alt_text(ax) for name in ("epoll-edge", "mine", "yours"))


@pytest.mark.parametrize("name", ["timeline", "interest", "journey"])
def test_a_chart_whose_colours_have_other_meanings_draws_one(name: str) -> None:
    """It says so, and what to do."""
    plot, frame, parameter = chart(name)
    with pytest.raises(TypeError, match=rf"^{parameter} must be one .*not 2 by name: .*with ax="):
        plot({"a": frame, "b": frame})


def test_names_of_several_are_checked() -> None:
    """An empty mapping, one without names, and a wrong value among right ones."""
    with pytest.raises(ValueError, match=r"^wakeups must have at least one"):
        plots.wakeups({})
    with pytest.raises(TypeError, match=r"^wakeups must have names for keys, not 1"):
        plots.wakeups({1: served(1, 1)})
    with pytest.raises(TypeError, match=r"^wakeups\['b'\] must be the DataFrame of recording"):
        plots.wakeups({"a": served(1, 1), "b": 5})
    with pytest.raises(ValueError, match=r"^data must have at least one"):
        plots.latency({})


def test_a_frame_of_another_call_is_refused_by_its_columns() -> None:
    """The message has the call that makes the right one."""
    with pytest.raises(ValueError, match=r"recording\.wakeups\(\).*no column waited_ns"):
        plots.wakeups(served(1, 1).events())


@EVERY
def test_a_frame_without_a_column_is_refused_by_the_column(name: str) -> None:
    """Or the column is not needed."""
    plot, frame, parameter = chart(name)
    said = {column: refusal(plot, frame.drop(columns=column)) for column in frame}
    needed = {column: message for column, message in said.items() if message}
    assert needed or name in READS_NO_NAMED_COLUMN
    for column, message in needed.items():
        assert message.startswith((parameter, "column"))
        assert column in message


@EVERY
def test_text_is_not_a_formula(name: str) -> None:
    """Neither in the data nor in the note, and it is readable."""
    plot, frame, _ = chart(name)
    texts = [column for column in frame if not is_numeric_dtype(frame[column])]
    if name in ("ratio", "crossover"):  # they need the names of two pollers
        texts = []
    for text in (HOSTILE[0], *HOSTILE[-2:]):
        named = {column: pd.Categorical([text] * len(frame)) for column in texts[:1]}
        ax = draw(plot, frame.assign(**named), note=text)
        assert "$" not in text or text in words(ax)


@pytest.mark.parametrize(
    "text", HOSTILE, ids=("broken", "formula", "command", "hidden", "glyphs", "long")
)
def test_text_of_parameters_and_indices_is_not_a_formula(text: str) -> None:
    """Labels, names of curves and of rows."""
    values = pd.Series([1_000, 2_000])
    shown = words(draw(plots.latency, values, label=text, what=text))
    assert "$" not in text or text in shown
    draw(plots.latency, {text: values, "b": values})
    numbers = pd.DataFrame({"observed": [1.0], "expected": [1.0]}, index=[text])
    draw(plots.numbers, numbers, what=text)
    draw(plots.conformance, pd.DataFrame({text: [True]}, index=[text]))
    draw(plots.masks, pd.DataFrame({"asked": [text]}, index=[text]))


@EVERY
def test_odd_numbers_are_drawn_or_refused_by_name(name: str) -> None:
    """Zero, missing, infinite, all equal, and a single row: no warning of an axis."""
    plot, frame, parameter = chart(name)
    cases = [frame[:1], frame[-1:]]
    for column in frame:
        if is_numeric_dtype(frame[column]) and not is_bool_dtype(frame[column]):
            cases += [frame.assign(**{column: value}) for value in (0, np.nan, np.inf, True, 1j)]
    for case in cases:
        message = refusal(plot, case)
        assert not message or message.startswith((parameter, "result"))


@pytest.mark.parametrize("dark", [False, True])
@EVERY
def test_the_style_is_applied_to_axes_of_another_one(name: str, dark: bool) -> None:
    """The grid is behind the data, and the note inside the figure."""
    plot, frame, _ = chart(name)
    figure, ax = plt.subplots()
    with plots.style.use(dark=dark) as theme:
        plot(frame, ax=ax, note="of this machine " * 12)
    figure.canvas.draw()
    assert ax.get_axisbelow() is True
    assert ax.get_facecolor() == figure.get_facecolor()
    assert plots.style.Theme is type(theme)
    note = next(text for text in ax.texts if text.get_gid() == "note")
    assert note.get_window_extent().y0 >= 0
    plt.close("all")
