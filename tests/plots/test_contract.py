"""What every chart does: where it draws, what it returns, and how it looks without data."""

import inspect
import subprocess
import sys
from typing import Any

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.text import Text

from epolllab import plots
from epolllab.plots import style
from epolllab.plots.canvas import canvas
from tests.plots.samples import CHARTS

NOTE = "Linux 6.18, Python 3.11.7, 2 CPUs, recorder 0.35 µs an event "


def frame_of(data: Any) -> pd.DataFrame:
    return data if isinstance(data, pd.DataFrame) else data.frame


every = pytest.mark.parametrize(("plot", "make"), CHARTS.values(), ids=CHARTS)


@every
def test_a_chart_draws_on_the_axes_it_is_given(plot, make) -> None:
    """It returns the same Axes with a title, makes no figure, and leaves the data alone."""
    figure, ax = plt.subplots()
    data = make()
    before = frame_of(data).copy()
    assert plot(data, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]
    assert ax.lines or ax.patches or ax.collections
    assert ax.get_title(loc="left")
    pd.testing.assert_frame_equal(frame_of(data), before)
    with pytest.raises(TypeError):
        plot(data, ax)


@every
def test_a_chart_without_axes_makes_one_figure(plot, make) -> None:
    """In the light theme, with the note below the labels and the legend."""
    ax = plot(make(), note="first line of the circumstances")
    assert plt.get_fignums() == [ax.figure.number]
    assert to_hex(ax.get_facecolor()).upper() == style.LIGHT.paper
    ax.figure.canvas.draw()
    assert_inside(ax)
    note = next(text for text in reversed(ax.texts) if text.get_gid() == "note")
    assert "first line" in note.get_text()
    note, label = note.get_window_extent(), ax.xaxis.label.get_window_extent()
    labelled_below = ax.xaxis.label.get_text() and ax.xaxis.get_label_position() == "bottom"
    assert not labelled_below or note.y1 <= label.y0
    if legend := ax.get_legend():
        assert note.y1 <= legend.get_window_extent().y0 + 3
        assert not labelled_below or legend.get_window_extent().y1 <= label.y0 + 1


@every
def test_an_empty_frame_draws_an_empty_labelled_chart(plot, make) -> None:
    """No exception, no data, and text that says what is missing."""
    ax = plot(frame_of(make())[:0], note="circumstances")
    ax.figure.canvas.draw()
    assert not ax.lines
    assert not ax.patches
    assert not ax.collections
    shown = "\n".join(text.get_text() for text in ax.findobj(Text))
    assert "no " in shown or "nothing" in shown
    assert "circumstances" in shown
    assert ax.get_xlabel() or ax.get_xticklabels() or plot is plots.numbers


@every
def test_everything_is_inside_the_figure(plot, make) -> None:
    """At half width and in the dark theme; title, labels, legend and note are not cut off."""
    with style.use(dark=True):
        _, ax = plt.subplots(figsize=(3.6, 4.5), layout="constrained")
        plot(make(), ax=ax, note=NOTE * 2)
        assert to_hex(ax.get_facecolor()).upper() == style.DARK.paper
    ax.figure.canvas.draw()
    assert_inside(ax)


def assert_inside(ax: Axes) -> None:
    box, figure = ax.get_tightbbox(), ax.figure
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1 + 12  # a mask's name may overhang
    assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("name", CHARTS)
def test_help_shows_every_parameter(name: str) -> None:
    """Those that all charts share, too, and what is returned."""
    plot, _ = CHARTS[name]
    described = [line.split(" : ")[0] for line in plot.__doc__.splitlines() if " : " in line]
    assert sorted(described) == sorted(inspect.signature(plot).parameters)
    assert plot.__doc__.index("\nReturns\n") > plot.__doc__.index("\nnote : ")


@pytest.mark.processes
def test_plots_lists_public_names_only() -> None:
    """Importing them loads no experiment and no pyplot, and changes no setting."""
    # Looking at the backend's setting would choose one, which imports pyplot.
    code = (
        "import sys, matplotlib as mpl;"
        "settings = lambda: {k: mpl.rcParams[k] for k in mpl.rcParams if k != 'backend'};"
        "before = settings();"
        "from epolllab import plots;"
        "assert settings() == before;"
        "assert 'matplotlib.pyplot' not in sys.modules;"
        "assert not any(m.startswith('epolllab.experiments') for m in sys.modules);"
        "assert set(plots.__all__) == set(dir(plots))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="scalings"):
        plots.scalings  # noqa: B018


def test_a_legend_has_no_more_columns_than_entries() -> None:
    """Asking for more columns than there are handles is no error."""
    with canvas(None, (4, 3), None) as (ax, chart):
        (line,) = ax.plot([0, 1], [0, 1], label="one", color=chart.theme.ink)
        chart.legend([line], columns=5)
        chart.legend([], columns=3)
    assert chart.depth > 33
