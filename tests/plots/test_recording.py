"""Charts of a recording, read back for their data, colours and words."""

import errno
from itertools import pairwise
from typing import Any

import pytest
from matplotlib.colors import to_rgb

from epolllab import plots
from epolllab.plots import style
from tests.plots.samples import by_gid, interest_list, legend, rows, words
from tests.samples import Script, served

# ---- the timeline ------------------------------------------------------------------


def test_the_timeline_gives_each_call_a_bar_of_its_length() -> None:
    """Bars in the lane of their connection, from start to end, in the axis's unit."""
    script = Script(call_ns=2000, pause_ns=1000)
    script.wait(1).ready(0).accept(1).register(1).wait(1).ready(1).recv(1, 5).recv_blocked(1)
    ax = plots.timeline(script.recording().events())
    assert rows(ax) == ["loop", "conn 1"]
    assert ax.get_xlabel().endswith("(µs)")
    boxes = [path.get_extents() for path in by_gid(ax, "recv")[0].get_paths()]
    assert [round(box.x0, 6) for box in boxes] == [14.0, 17.0]
    assert [round(box.width, 6) for box in boxes] == [2.0, 2.0]
    assert all(box.y0 < 1 < box.y1 for box in boxes)
    waits = [path.get_extents() for path in by_gid(ax, "wait")[0].get_paths()]
    assert [box.x0 for box in waits] == [0.0, 10.0]
    assert all(box.y0 < 0 < box.y1 for box in waits)


def test_the_timeline_marks_ready_rows_would_blocks_and_errors() -> None:
    """A triangle with the mask's names, a cross, and the errno's name."""
    script = Script().wait(1).ready(1, "IN|RDHUP").recv_blocked(1)
    script.recv(1, -errno.ECONNRESET)
    ax = plots.timeline(script.recording().events())
    for gid in ("ready", "would block", "error"):
        assert len(by_gid(ax, gid)[0].get_xdata()) == 1
    assert [text.get_text() for text in by_gid(ax, "word")] == ["IN|RDHUP", "ECONNRESET"]
    assert legend(ax) == ["wait", "recv", "ready", "would block", "error"]


def test_the_timeline_counts_the_connections_it_leaves_out() -> None:
    """It draws the first ones seen, or those requested, in that order."""
    events = served(9, 4).events()
    ax = plots.timeline(events, connections=3)
    assert rows(ax) == ["loop", "conn 1", "conn 2", "conn 3", "6 more"]
    chosen = plots.timeline(events, connections=[7, 2])
    assert rows(chosen) == ["loop", "conn 7", "conn 2", "7 more"]
    assert "more" not in words(plots.timeline(events))


def test_the_timeline_writes_masks_only_while_there_are_few() -> None:
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


def test_the_timeline_of_a_span_has_the_calls_that_overlap_it() -> None:
    """A call that began before the span and ends in it is drawn; others are not."""
    script = Script(call_ns=1000, pause_ns=0).wait(1, ns=10_000).recv(1, 1).recv(2, 1).recv(3, 1)
    ax = plots.timeline(script.recording().events(), span=(9000, 11_500))
    assert ax.get_xlim() == pytest.approx((9.0, 11.5))
    assert rows(ax) == ["loop", "conn 1", "conn 2"]
    assert len(by_gid(ax, "wait")[0].get_paths()) == 1


def test_a_span_that_ends_before_it_begins_is_an_error() -> None:
    """Also one without a length."""
    with pytest.raises(ValueError, match="span"):
        plots.timeline(served(2, 2).events(), span=(5, 5))


@pytest.mark.parametrize(
    ("call_ns", "unit"), [(1, "ns"), (1000, "µs"), (1_000_000, "ms"), (10**9, "s")]
)
def test_the_time_axis_chooses_its_unit(call_ns: int, unit: str) -> None:
    """The label has it."""
    script = Script(call_ns=call_ns, pause_ns=0)
    for _ in range(5):
        script.wait(0)
    ax = plots.timeline(script.recording().events())
    assert ax.get_xlabel() == f"time since the first event ({unit})"


# ---- wakeups -------------------------------------------------------------------------


def test_wakeups_draws_every_wait_and_every_handling() -> None:
    """Points at their times; the text counts wakeups with nothing to do."""
    script = Script(call_ns=1000, pause_ns=0).wait(1, ns=8000).recv(1, 5).wait(0, ns=4000)
    ax = plots.wakeups(script.recording().wakeups())
    waited, handled = (line for line in ax.lines if line.get_marker() == "o")
    assert waited.get_xydata().tolist() == [[0.0, 8000], [9.0, 4000]]
    assert handled.get_xydata().tolist() == [[8.0, 1000]]
    assert ax.get_yscale() == "log"
    assert "2 wakeups in 13.0 µs; not waiting 8 % of the time; nothing to handle in 1" in words(ax)


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
    """About forty bars at most, with every wait in one."""
    script = Script()
    for returned in range(0, 1000, 7):
        script.wait(returned)
    ax = plots.batch_sizes(script.recording().wakeups())
    assert len(ax.patches) <= 40
    assert sum(bar.get_height() for bar in ax.patches) == 143


def test_bars_of_ranges_stand_at_their_labels() -> None:
    """Waits of one descriptor are not at 0, and a range has the numbers that it names."""
    script = Script()
    for returned in (0, 1, 1, 2, 3, 4, 4, 5, 8, 9, 64, 65, 1023):
        script.wait(returned)
    ax = plots.batch_sizes(script.recording().wakeups())
    ax.figure.canvas.draw()
    labels = dict(zip(ax.get_xticks(), (t.get_text() for t in ax.get_xticklabels()), strict=True))
    bars = {labels[bar.get_x() + bar.get_width() / 2]: bar.get_height() for bar in ax.patches}
    assert {name: n for name, n in bars.items() if n} == {
        "0": 1, "1": 2, "2": 1, "3\N{EN DASH}4": 3, "5\N{EN DASH}8": 2, "9\N{EN DASH}16": 1,
        "33\N{EN DASH}64": 1, "65\N{EN DASH}128": 1, "513\N{EN DASH}1,024": 1,
    }  # fmt: skip


# ---- the interest list ------------------------------------------------------------------


def test_a_ghost_is_drawn_in_alarm_opposite_a_gap() -> None:
    """Each side has an entry or a gap, and the text counts them."""
    ax = plots.interest(interest_list())
    assert rows(ax) == ["fd 5", "fd 7", "fd 9"]
    assert len(by_gid(ax, "entry")) == 4
    assert len(by_gid(ax, "gap")) == 2
    alarm = to_rgb(style.LIGHT.alarm)
    red = [box.get_y() for box in by_gid(ax, "entry") if box.get_facecolor()[:3] == alarm]
    assert [round(y) for y in red] == [1, 2]
    assert "1 in both, 1 ghost only in the kernel, 1 only in the program" in words(ax)


def test_a_long_interest_list_keeps_one_sided_entries() -> None:
    """These matter most."""
    ax = plots.interest(interest_list(), limit=2)
    assert rows(ax) == ["fd 7", "fd 9"]
    assert "1 not drawn" in words(ax)
