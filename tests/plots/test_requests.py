"""Charts of requests: latencies and journeys, read back for their data and words."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from epolllab import plots
from epolllab.plots import style
from tests.plots.samples import by_gid, journeys, legend, rows, words

# ---- latency ---------------------------------------------------------------------------


def test_latency_marks_the_percentiles_that_the_number_of_values_supports() -> None:
    """The 99th of a hundred values is one of them; the 99.9th needs a thousand."""
    ax = plots.latency(pd.Series(np.arange(1, 101) * 1000))
    dots = by_gid(ax, "percentiles")[0]
    assert dots.get_xdata() == pytest.approx([50_000, 90_000, 99_000])
    assert dots.get_ydata() == pytest.approx([0.5, 0.9, 0.99])
    percentiles = [text.get_text() for text in by_gid(ax, "percentile")]
    assert percentiles == ["p50  50.0 µs", "p90  90.0 µs", "p99  99.0 µs"]
    more = plots.latency(pd.Series(np.arange(1, 1001) * 1000))
    assert [text.get_text() for text in by_gid(more, "percentile")][-1] == "p99.9  999 µs"


def test_latency_draws_a_variant_in_its_own_colour() -> None:
    """The colours of level, edge, poll and select do not depend on the other curves."""
    ns = pd.Series([1000.0, 2000.0])
    colors = style.LIGHT.variants
    for names in (("epoll-level", "epoll-edge", "poll", "select"), ("select", "epoll-edge")):
        ax = plots.latency(dict.fromkeys(names, ns))
        drawn = [to_hex(line.get_color()).upper() for line in by_gid(ax, "curve")]
        assert drawn == [colors[name.removeprefix("epoll-")].upper() for name in names]
        assert [label.split()[0] for label in legend(ax)] == list(names)


def test_latency_takes_a_column_of_a_frame() -> None:
    """It leaves out missing values; a missing column is an error."""
    frame = journeys({}, {"total": 40_000}, {"total": pd.NA})
    ax = plots.latency(frame)
    assert by_gid(ax, "curve")[0].get_xdata().tolist() == [20_000, 40_000]
    with pytest.raises(ValueError, match=r"^column\b.*'nothing'"):
        plots.latency(frame, column="nothing")


def test_latency_names_a_curve_without_values() -> None:
    """A variant with no measurements is not silently absent."""
    ax = plots.latency({"level": pd.Series([1000.0]), "edge": pd.Series([], dtype=float)})
    assert "no requests of edge" in words(ax)


def test_a_long_run_is_thinned_but_keeps_its_slowest() -> None:
    """A hundred thousand values draw a few thousand points, extremes among them."""
    ns = np.arange(1, 100_001)
    ax = plots.latency(pd.Series(ns))
    drawn = by_gid(ax, "curve")[0].get_xdata()
    assert len(drawn) < 5000
    assert drawn[0] == 1
    assert drawn[-20:].tolist() == ns[-20:].tolist()


# ---- journeys ----------------------------------------------------------------------------


def test_a_journey_lays_its_spans_end_to_end() -> None:
    """Each span goes from one timestamp to the next; the negative one is thin."""
    ax = plots.journey(journeys({}))
    spans = {name: by_gid(ax, name)[0] for name in style.LIGHT.spans}
    expected = {
        "waiting": (0, 1), "wake": (1, 2), "queue": (3, 1), "read": (4, 2), "handle": (6, 3),
        "send": (9, 6), "deliver": (15, -2), "receive": (13, 7),
    }  # fmt: skip
    for name, bar in spans.items():
        assert (bar.get_x(), bar.get_width()) == pytest.approx(expected[name])
        assert to_hex(bar.get_facecolor()).upper() == style.LIGHT.spans[name].upper()
    assert spans["deliver"].get_height() < spans["send"].get_height()
    assert "ended before it began" in words(ax)
    assert "20.0 µs" in words(ax)


def test_journeys_over_the_limit_are_counted() -> None:
    """The first ones are drawn, a row each, named by connection and number."""
    ax = plots.journey(journeys(*({"conn": conn} for conn in range(5))), limit=2)
    assert rows(ax) == ["conn 0 #1", "conn 1 #1"]
    assert "3 more requests not drawn" in words(ax)


def test_a_journey_without_a_response_draws_what_is_known() -> None:
    """Missing timestamps leave out spans, not the request."""
    lost = dict.fromkeys(["answered_ns", "first_byte_ns", "done_ns", "total"], pd.NA)
    ax = plots.journey(journeys(lost))
    ax.figure.canvas.draw()
    assert by_gid(ax, "handle")
    assert not by_gid(ax, "receive")
    assert not by_gid(ax, "total")


def many() -> pd.DataFrame:
    """Forty journeys a millisecond apart, of which the last ten are a microsecond apart."""
    base = 10**18
    changes = []
    for number in range(40):
        at = base + number * 1_000_000 if number < 30 else base + 30_000_000 + number * 1000
        changes.append({"conn": number, "intended_ns": at, "total": 1000 + number})
    return journeys(*changes)


@pytest.mark.parametrize(
    ("start", "expected", "words_of_it"),
    [
        ("busiest", [f"conn {n} #1" for n in range(30, 40)], "the busiest 10"),
        ("first request", [f"conn {n} #1" for n in range(10)], "the first 10"),
        ("slowest", [f"conn {n} #1" for n in range(39, 29, -1)], "the slowest 10"),
    ],
)
def test_the_requests_drawn_can_be_chosen(
    start: str, expected: list[str], words_of_it: str
) -> None:
    """Those nearest to each other in time, the first, or the slowest; the text says which."""
    ax = plots.journey(many(), limit=10, start=start)
    assert rows(ax) == expected
    assert f"{words_of_it}; 30 more requests not drawn" in words(ax)


def test_latency_finds_the_column_with_the_duration() -> None:
    """Of journeys, of a client's requests and of a server's; another frame needs its name."""
    frame = pd.DataFrame({"dur_ns": [1000, 2000], "latency_ns": [5000, 6000]})
    for given, first in ((frame, 5000), (frame[["dur_ns"]], 1000)):
        assert by_gid(plots.latency(given), "curve")[0].get_xdata()[0] == first
    assert by_gid(plots.latency(frame, column="dur_ns"), "curve")[0].get_xdata()[0] == 1000
    with pytest.raises(ValueError, match=r"^data must have a column total, latency_ns, dur_ns"):
        plots.latency(pd.DataFrame({"other": [1000]}))
