"""Plots: each drawing is read back for its data, colours and words, not its pixels."""

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb

from epolllab import frames, plots
from epolllab.plots import style
from tests.samples import Script, served

mpl.use("Agg")

import matplotlib.pyplot as plt

JOURNEY = {
    "conn": 3,
    "request": 1,
    "local_port": 5000,
    "intended_ns": 10**18,
    "sent_ns": 10**18 + 1000,
    "woken_ns": 10**18 + 3000,
    "ready_ns": 10**18 + 4000,
    "read_ns": 10**18 + 6000,
    "handled_ns": 10**18 + 9000,
    "answered_ns": 10**18 + 15_000,
    "first_byte_ns": 10**18 + 13_000,
    "done_ns": 10**18 + 20_000,
    "total": 20_000,
}


@pytest.fixture(autouse=True)
def _figures_closed() -> Iterator[None]:
    """Close what a test drew, and hold the settings unchanged."""
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def journey_frame(*changes: dict[str, Any]) -> pd.DataFrame:
    """Journeys like the one above, with changes."""
    frame = pd.DataFrame([JOURNEY | change for change in changes])
    return frame.astype({name: "Int64" for name in frame if name not in ("conn", "request")})


def interest_frame() -> pd.DataFrame:
    """Return a list with an entry of each kind."""

    class Entry:
        def __init__(self, fd: int, mask: int) -> None:
            self.fd, self.mask, self.data, self.inode = fd, mask, fd, 1

    return frames.interest_list([Entry(5, 1), Entry(9, 5)], {5: 1, 7: 4})


def by_gid(ax: Axes, gid: str) -> list[Any]:
    """Find all artists with this mark."""
    return ax.findobj(lambda artist: artist.get_gid() == gid)


def words(ax: Axes) -> str:
    """Join all texts of an Axes and its legend."""
    return "\n".join(text.get_text() for text in ax.findobj(mpl.text.Text))


def legend(ax: Axes) -> list[str]:
    """List the legend's labels."""
    drawn = ax.get_legend()
    return [] if drawn is None else [text.get_text() for text in drawn.get_texts()]


EVERY: list[tuple[Callable[..., Axes], pd.DataFrame]] = [
    (plots.timeline, served(3, 3).events()),
    (plots.wakeups, served(3, 3).wakeups()),
    (plots.batch_sizes, served(3, 3).wakeups()),
    (plots.latency, journey_frame({}, {"total": 30_000})),
    (plots.journey, journey_frame({}, {"conn": 4})),
    (plots.interest, interest_frame()),
]
every = pytest.mark.parametrize(("plot", "frame"), EVERY, ids=[p.__name__ for p, _ in EVERY])


# ---- the contract of every picture -----------------------------------------------


@every
def test_a_plot_draws_on_the_axes_it_is_given(
    plot: Callable[..., Axes], frame: pd.DataFrame
) -> None:
    """It returns the same Axes, and makes no figure."""
    figure, ax = plt.subplots()
    assert plot(frame, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


@every
def test_a_plot_without_axes_makes_one_figure(
    plot: Callable[..., Axes], frame: pd.DataFrame
) -> None:
    """One that pyplot knows, so that a notebook shows it."""
    ax = plot(frame)
    assert plt.get_fignums() == [ax.figure.number]
    ax.figure.canvas.draw()


@every
def test_an_empty_frame_draws_an_empty_labelled_plot(
    plot: Callable[..., Axes], frame: pd.DataFrame
) -> None:
    """No exception, no data, and a word that says so."""
    ax = plot(frame[:0], note="circumstances")
    ax.figure.canvas.draw()
    assert not ax.lines
    assert not ax.patches
    assert not ax.collections
    shown = words(ax)
    assert "no " in shown or "nothing" in shown
    assert "circumstances" in shown
    assert ax.get_xlabel() or ax.get_xticklabels()


@every
def test_a_plot_takes_all_but_its_data_by_keyword(
    plot: Callable[..., Axes], frame: pd.DataFrame
) -> None:
    """An Axes in second place would be ambiguous in a call."""
    _, ax = plt.subplots()
    with pytest.raises(TypeError):
        plot(frame, ax)


@every
def test_a_plot_leaves_its_data_alone(plot: Callable[..., Axes], frame: pd.DataFrame) -> None:
    """Drawing adds no column and changes no value."""
    before = frame.copy()
    plot(frame)
    pd.testing.assert_frame_equal(frame, before)


@every
@pytest.mark.parametrize("width", [3.6, 8.0])
def test_everything_is_inside_the_figure(
    plot: Callable[..., Axes], frame: pd.DataFrame, width: float
) -> None:
    """At full and at half width nothing is cut off: labels, legend, note."""
    figure, ax = plt.subplots(figsize=(width, 4.5), layout="constrained")
    plot(frame, ax=ax, note="Linux 6.18, Python 3.11.7, 2 CPUs, recorder 0.35 µs an event " * 2)
    figure.canvas.draw()
    box = ax.get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1 + 12  # a mask's name may stand a little over
    assert box.y1 <= figure.bbox.y1


@every
def test_the_note_stands_below_the_legend(plot: Callable[..., Axes], frame: pd.DataFrame) -> None:
    """What is stacked under the axes does not overlap."""
    ax = plot(frame, note="first line of the circumstances")
    ax.figure.canvas.draw()
    note = by_gid(ax, "note")[-1].get_window_extent()
    label = ax.xaxis.label.get_window_extent()
    assert ax.xaxis.label.get_text() == "" or note.y1 <= label.y0
    if ax.get_legend() is not None:
        assert note.y1 <= ax.get_legend().get_window_extent().y0 + 3
        assert ax.get_legend().get_window_extent().y1 <= label.y0 + 1


@every
def test_the_dark_theme_changes_the_ground_and_is_gone_after(
    plot: Callable[..., Axes], frame: pd.DataFrame
) -> None:
    """Inside ``style.use(dark=True)`` a figure is dark, and the next one light."""
    with style.use(dark=True):
        dark = plot(frame)
    light = plot(frame)
    assert to_hex(dark.get_facecolor()).upper() == style.DARK.paper
    assert to_hex(light.get_facecolor()).upper() == style.LIGHT.paper


# ---- the timeline ------------------------------------------------------------------


def test_the_timeline_gives_each_call_a_bar_of_its_length() -> None:
    """Bars in the lane of their connection, from start to end, in the axis's unit."""
    script = Script(call_ns=2000, pause_ns=1000)
    script.wait(1).ready(0).accept(1).register(1).wait(1).ready(1).recv(1, 5).recv_blocked(1)
    ax = plots.timeline(script.recording().events())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["loop", "conn 1"]
    assert ax.get_xlabel().endswith("(µs)")
    boxes = [path.get_extents() for path in by_gid(ax, "recv")[0].get_paths()]
    assert [round(box.x0, 6) for box in boxes] == [14.0, 17.0]
    assert [round(box.width, 6) for box in boxes] == [2.0, 2.0]
    assert all(box.y0 < 1 < box.y1 for box in boxes)
    waits = [path.get_extents() for path in by_gid(ax, "wait")[0].get_paths()]
    assert [box.x0 for box in waits] == [0.0, 10.0]
    assert all(box.y0 < 0 < box.y1 for box in waits)


def test_the_timeline_marks_ready_rows_would_blocks_and_errors() -> None:
    """A triangle with the mask's names, a cross, and an errno in words."""
    script = Script().wait(1).ready(1, "IN|RDHUP").recv_blocked(1)
    script.recv(1, -errno.ECONNRESET)
    ax = plots.timeline(script.recording().events())
    assert len(by_gid(ax, "ready")[0].get_xdata()) == 1
    assert len(by_gid(ax, "would block")[0].get_xdata()) == 1
    assert len(by_gid(ax, "error")[0].get_xdata()) == 1
    assert [text.get_text() for text in by_gid(ax, "word")] == ["IN|RDHUP", "ECONNRESET"]
    assert legend(ax) == ["wait", "recv", "ready", "would block", "error"]


def test_the_timeline_says_how_many_connections_it_leaves_out() -> None:
    """The first ones seen are drawn, or those asked for, in that order."""
    events = served(9, 4).events()
    ax = plots.timeline(events, connections=3)
    lanes = [label.get_text() for label in ax.get_yticklabels()]
    assert lanes == ["loop", "conn 1", "conn 2", "conn 3", "6 more"]
    chosen = plots.timeline(events, connections=[7, 2])
    lanes = [label.get_text() for label in chosen.get_yticklabels()]
    assert lanes == ["loop", "conn 7", "conn 2", "7 more"]
    whole = plots.timeline(events)
    assert "more" not in words(whole)


def test_the_timeline_spells_masks_only_while_there_are_few() -> None:
    """With many ready rows the triangles stand alone."""
    events = served(3, 4).events()
    assert by_gid(plots.timeline(events), "word")
    assert not by_gid(plots.timeline(events, names=0), "word")


def test_words_of_one_lane_do_not_overlap() -> None:
    """A mask without room before the next mark is left out."""
    ax = plots.timeline(served(3, 12, lifecycle="howto").events())
    ax.figure.canvas.draw()
    lanes: dict[float, list[Any]] = {}
    for text in by_gid(ax, "word"):
        lanes.setdefault(text.xy[1], []).append(text.get_window_extent())
    assert any(len(boxes) > 1 for boxes in lanes.values())
    for boxes in lanes.values():
        assert all(a.x1 <= b.x0 for a, b in pairwise(boxes))


def test_the_timeline_of_a_span_holds_what_overlaps_it() -> None:
    """A call that began before the span and ends in it is drawn; others are not."""
    script = Script(call_ns=1000, pause_ns=0).wait(1, ns=10_000).recv(1, 1).recv(2, 1).recv(3, 1)
    ax = plots.timeline(script.recording().events(), span=(9000, 11_500))
    assert ax.get_xlim() == pytest.approx((9.0, 11.5))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["loop", "conn 1", "conn 2"]
    assert len(by_gid(ax, "wait")[0].get_paths()) == 1


def test_a_span_that_ends_before_it_begins_is_refused() -> None:
    """The message says what was asked and what is wanted."""
    with pytest.raises(ValueError, match=r"5 to 5 ns .* under the second"):
        plots.timeline(served(2, 2).events(), span=(5, 5))


@pytest.mark.parametrize(
    ("call_ns", "unit"), [(1, "ns"), (1000, "µs"), (1_000_000, "ms"), (10**9, "s")]
)
def test_the_time_axis_chooses_its_unit(call_ns: int, unit: str) -> None:
    """Labels carry it."""
    script = Script(call_ns=call_ns, pause_ns=0)
    for _ in range(5):
        script.wait(0)
    ax = plots.timeline(script.recording().events())
    assert ax.get_xlabel() == f"time since the first event ({unit})"


# ---- wake-ups ------------------------------------------------------------------------


def test_wakeups_draws_every_wait_and_every_handling() -> None:
    """Points at their times; wake-ups with nothing to do are counted in words."""
    script = Script(call_ns=1000, pause_ns=0).wait(1, ns=8000).recv(1, 5).wait(0, ns=4000)
    ax = plots.wakeups(script.recording().wakeups())
    waited, handled = (line for line in ax.lines if line.get_marker() == "o")
    assert waited.get_xdata().tolist() == [0.0, 9.0]
    assert waited.get_ydata().tolist() == [8000, 4000]
    assert handled.get_xdata().tolist() == [8.0]
    assert handled.get_ydata().tolist() == [1000]
    assert ax.get_yscale() == "log"
    assert "2 wake-ups in 13.0 µs; not waiting 8 % of the time; nothing to handle in 1" in words(ax)


def test_batch_sizes_counts_waits_by_what_they_returned() -> None:
    """Timeouts are a bar at 0, failed waits none."""
    script = Script()
    for returned in (1, 1, 3, 0, -errno.EINTR):
        script.wait(returned)
    ax = plots.batch_sizes(script.recording().wakeups())
    assert [bar.get_height() for bar in ax.patches] == [1, 2, 0, 1]
    assert [bar.get_x() + bar.get_width() / 2 for bar in ax.patches] == pytest.approx([0, 1, 2, 3])
    assert "4 waits; mean 1.25, most 3" in words(ax)


def test_large_batches_share_bars() -> None:
    """No more than about forty bars, and none of the waits lost."""
    script = Script()
    for returned in range(0, 1000, 7):
        script.wait(returned)
    ax = plots.batch_sizes(script.recording().wakeups())
    assert len(ax.patches) <= 40
    assert sum(bar.get_height() for bar in ax.patches) == 143


# ---- latency ---------------------------------------------------------------------------


def test_latency_marks_the_percentiles_that_the_number_of_values_supports() -> None:
    """The 99th of a hundred values is one of them; the 99.9th needs a thousand."""
    ax = plots.latency(pd.Series(np.arange(1, 101) * 1000))
    dots = by_gid(ax, "percentiles")[0]
    assert dots.get_xdata() == pytest.approx([50_000, 90_000, 99_000])
    assert dots.get_ydata() == pytest.approx([0.5, 0.9, 0.99])
    said = [text.get_text() for text in by_gid(ax, "percentile")]
    assert said == ["p50  50.0 µs", "p90  90.0 µs", "p99  99.0 µs"]
    more = plots.latency(pd.Series(np.arange(1, 1001) * 1000))
    assert [text.get_text() for text in by_gid(more, "percentile")][-1] == "p99.9  999 µs"


def test_latency_draws_an_arm_in_its_own_colour_everywhere() -> None:
    """The colours of level, edge, poll and select do not depend on what else is drawn."""
    ns = pd.Series([1000.0, 2000.0])
    for arms in (("epoll-level", "epoll-edge", "poll", "select"), ("select", "epoll-edge")):
        ax = plots.latency(dict.fromkeys(arms, ns))
        drawn = [to_hex(line.get_color()).upper() for line in by_gid(ax, "curve")]
        assert drawn == [style.ARMS[arm.removeprefix("epoll-")].upper() for arm in arms]
        assert [label.split()[0] for label in legend(ax)] == list(arms)


def test_latency_takes_a_column_of_a_frame() -> None:
    """Missing values are left out; a column that is not there is named."""
    frame = journey_frame({}, {"total": 40_000}, {"total": pd.NA})
    ax = plots.latency(frame)
    assert by_gid(ax, "curve")[0].get_xdata().tolist() == [20_000, 40_000]
    with pytest.raises(ValueError, match="no column 'nothing' to draw; it has conn"):
        plots.latency(frame, column="nothing")


def test_latency_says_which_arm_has_no_values() -> None:
    """An arm that measured nothing is not silently absent."""
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
    """Each span from one instant to the next, and the negative one thin."""
    ax = plots.journey(journey_frame({}))
    spans = {name: by_gid(ax, name)[0] for name in style.SPANS}
    at = {name: (bar.get_x(), bar.get_width()) for name, bar in spans.items()}
    assert at["waiting"] == pytest.approx((0, 1))
    assert at["wake"] == pytest.approx((1, 2))
    assert at["queue"] == pytest.approx((3, 1))
    assert at["read"] == pytest.approx((4, 2))
    assert at["handle"] == pytest.approx((6, 3))
    assert at["send"] == pytest.approx((9, 6))
    assert at["deliver"] == pytest.approx((15, -2))
    assert at["receive"] == pytest.approx((13, 7))
    assert spans["deliver"].get_height() < spans["send"].get_height()
    assert "ended before it began" in words(ax)
    assert "20.0 µs" in words(ax)
    for name, bar in spans.items():
        assert to_hex(bar.get_facecolor()).upper() == style.SPANS[name].upper()


def test_journeys_over_the_limit_are_counted() -> None:
    """The first ones are drawn, a row each, named by connection and ordinal."""
    ax = plots.journey(journey_frame(*({"conn": conn} for conn in range(5))), limit=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["conn 0 #1", "conn 1 #1"]
    assert "3 more requests not drawn" in words(ax)


def test_a_journey_without_an_answer_draws_what_is_known() -> None:
    """Missing instants leave spans out, not the request."""
    lost = dict.fromkeys(["answered_ns", "first_byte_ns", "done_ns", "total"], pd.NA)
    ax = plots.journey(journey_frame(lost))
    ax.figure.canvas.draw()
    assert by_gid(ax, "handle")
    assert not by_gid(ax, "receive")
    assert not by_gid(ax, "total")


# ---- the interest list ------------------------------------------------------------------


def test_a_ghost_is_drawn_in_alarm_opposite_a_gap() -> None:
    """Each side has an entry or a gap, and the words count them."""
    ax = plots.interest(interest_frame())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["fd 5", "fd 7", "fd 9"]
    assert len(by_gid(ax, "entry")) == 4
    assert len(by_gid(ax, "gap")) == 2
    alarm = to_rgb(style.LIGHT.alarm)
    red = [box.get_y() for box in by_gid(ax, "entry") if box.get_facecolor()[:3] == alarm]
    assert [round(y) for y in red] == [1, 2]
    assert "1 in both, 1 ghost only in the kernel, 1 only in the program" in words(ax)


def test_a_long_interest_list_keeps_what_one_side_alone_has() -> None:
    """The ghosts are what one looks for."""
    ax = plots.interest(interest_frame(), limit=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["fd 7", "fd 9"]
    assert "1 not drawn" in words(ax)


# ---- the style ----------------------------------------------------------------------------


def luminance(color: str) -> float:
    """Compute the relative luminance that WCAG 2 defines."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    """Compute the contrast ratio that WCAG 2 defines, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [style.LIGHT, style.DARK], ids=lambda theme: theme.name)
def test_text_can_be_read_on_its_ground(theme: style.Theme) -> None:
    """WCAG asks 4.5 of text, and 3 of large text and of lines that carry meaning."""
    for color in (theme.ink, theme.muted, theme.alarm, theme.main):
        assert contrast(color, theme.paper) >= 4.5
    for arm in ("level", "edge", "oneshot", "poll"):
        assert contrast(theme.arms[arm], theme.paper) >= 3


def test_both_themes_give_every_meaning_a_colour() -> None:
    """A name known in one is known in the other, and no two meanings look the same."""
    for kind in ("arms", "ops", "spans"):
        light, dark = getattr(style.LIGHT, kind), getattr(style.DARK, kind)
        assert list(light) == list(dark)
        assert len(set(light.values())) == len(light)
        assert len(set(dark.values())) == len(dark)


def test_every_operation_has_a_colour_group() -> None:
    """A new operation must be given a meaning; ready rows are marks and need none."""
    ops = set(frames.OP_DTYPE.categories) - {"ready"}
    assert ops == set(style.OP_GROUPS)
    assert set(style.OP_GROUPS.values()) == set(style.OPS)


def test_an_arm_without_a_known_word_takes_its_place_in_the_palette() -> None:
    """Names that mean nothing to the style still differ from each other."""
    theme = style.current()
    assert theme.arm("eager", 0) != theme.arm("howto", 1)
    assert theme.arm("epoll") == theme.arms["level"]
    assert theme.arm("Edge, 1 kB") == theme.arms["edge"]


def test_the_style_is_lent_and_given_back_also_after_an_error() -> None:
    """Nested blocks inherit the theme, and an exception leaves no setting behind."""
    before = dict(mpl.rcParams)
    with style.use(dark=True), style.use() as inner:
        assert inner is style.DARK
    with pytest.raises(ZeroDivisionError), style.use(dark=True):
        1 / 0  # noqa: B018
    assert style.current() is style.LIGHT
    assert dict(mpl.rcParams) == before


def test_importing_plots_sets_no_style_and_no_backend() -> None:
    """The settings of a program that imports it are its own; pyplot waits for a figure."""
    # Looking at the backend's setting would choose one, which imports pyplot.
    code = (
        "import sys, matplotlib as mpl;"
        "settings = lambda: {k: mpl.rcParams[k] for k in mpl.rcParams if k != 'backend'};"
        "before = settings();"
        "import epolllab.plots;"
        "assert settings() == before;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
