"""``recording.plot``: the charts of a recording as its own methods."""

import inspect

import pytest

import epolllab
from epolllab import plots
from tests.plots.samples import words
from tests.samples import served


def test_a_recording_has_its_charts() -> None:
    """Those that draw something of a recording, and no others."""
    recording = served(3, 3)
    assert dir(recording.plot) == ["batch_sizes", "latency", "timeline", "wakeups"]
    assert repr(recording.plot).startswith("<charts of a Recording: batch_sizes, ")
    with pytest.raises(AttributeError, match=r"^a Recording has no chart 'herd'; it has batch_si"):
        recording.plot.herd()


@pytest.mark.parametrize("name", dir(served(1, 1).plot))
def test_a_chart_of_a_recording_is_that_of_plots(name: str) -> None:
    """The same picture, and the same help without the first parameter."""
    recording = served(3, 3)
    chart, function = getattr(recording.plot, name), getattr(plots, name)
    assert words(chart()) == words(function(recording))
    assert chart.__doc__ == function.__doc__
    parameters = list(inspect.signature(function).parameters)
    assert list(inspect.signature(chart).parameters) == parameters[1:]
    with pytest.raises(TypeError):
        chart(recording)


def test_calling_it_draws_the_timeline() -> None:
    """With the timeline's options, which are checked as there."""
    recording = served(9, 4)
    ax = recording.plot(connections=3, start="first event")
    assert "conn 3" in words(ax)
    assert "6 more" in words(ax)
    with pytest.raises(ValueError, match=r"^start must be one of"):
        recording.plot(start="end")


def test_the_attribute_belongs_to_the_three_handles() -> None:
    """On the class it is the descriptor itself, and it cannot be pickled along."""
    for kind in (epolllab.Recording, epolllab.Run, epolllab.Server):
        assert type(kind.plot).__name__ == "_Plot"
    assert "plot" not in vars(served(1, 1))
    assert served(1, 1) == served(1, 1)
