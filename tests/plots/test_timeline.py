"""The timeline, read back for its bars, marks and words, and for the part that it draws."""

import errno
from itertools import pairwise
from typing import Any

import pytest
from matplotlib.colors import to_hex

from epolllab import plots
from epolllab.events import Op
from epolllab.plots import style
from tests.plots.samples import by_gid, legend, rows, words
from tests.samples import Script, served


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


# ---- the part that is drawn ------------------------------------------------------------


def with_pauses() -> Script:
    """Two calls, a pause of a second, a hundred calls within a millisecond, and a last pause."""
    script = Script(call_ns=5_000, pause_ns=5_000).accept(1).recv(1, 5).wait(1, ns=2 * 10**9)
    for _ in range(50):
        script.recv(2, 5).send(2, 5)
    return script.wait(0, ns=10**9).close(2)


def test_the_busiest_part_is_drawn_and_the_rest_is_counted() -> None:
    """Its calls only, from 0, with its place in the recording and what draws all."""
    events = with_pauses().recording().events()
    ax = plots.timeline(events)
    assert rows(ax) == ["loop", "conn 2"]
    drawn = sum(len(by_gid(ax, name)[0].get_paths()) for name in ("recv", "send"))
    assert 90 <= drawn <= 100
    low, high = ax.get_xlim()
    assert ax.get_xlabel() == "time since 2.00 s after the first event (µs)"
    assert low == 0
    assert 900 < high < 1100
    note = by_gid(ax, "note")[0].get_text()
    assert note.endswith(
        'of 105 events: the busiest 999 µs of 3.00 s; start="first event" draws all'
    )


def test_everything_is_drawn_when_asked() -> None:
    """From the first event to the last, and nothing is said to be missing."""
    events = with_pauses().recording().events()
    ax = plots.timeline(events, start="first event")
    assert rows(ax) == ["loop", "conn 1", "conn 2"]
    assert len(by_gid(ax, "recv")[0].get_paths()) == 51
    assert not by_gid(ax, "note")
    assert ax.get_xlabel() == "time since the first event (s)"


def test_a_recording_without_pauses_is_drawn_whole() -> None:
    """Every call has a bar."""
    recording = served(5, 5)
    ax = plots.timeline(recording)
    n_bars = sum(
        len(part.get_paths()) for part in ax.collections if part.get_gid() in style.LIGHT.ops
    )
    counts = recording.counts()
    assert n_bars == len(recording) - counts["ready"]
    assert not by_gid(ax, "note")


def test_the_busiest_part_has_as_many_connections_as_lanes() -> None:
    """Or those that were asked for."""
    script = Script(call_ns=1000, pause_ns=1000)
    for conn in range(1, 200):
        script.accept(conn).recv(conn, 1).send(conn, 1).close(conn)
    events = script.recording().events()
    ax = plots.timeline(events, connections=8)
    assert 8 <= len(rows(ax)) <= 10
    ax = plots.timeline(events, connections=[150])
    assert rows(ax)[:2] == ["loop", "conn 150"]
    assert len(by_gid(ax, "recv")[0].get_paths()) == 1


def test_a_timeline_from_the_first_accept_begins_there() -> None:
    """What came before is left out, and the axis counts from it."""
    script = Script(call_ns=1000, pause_ns=0).register(0).wait(1, ns=50_000).accept(1).recv(1, 5)
    ax = plots.timeline(script.recording().events(), start="first accept")
    assert ax.get_xlabel() == "time since the first accept (µs)"
    assert ax.get_xlim() == pytest.approx((0, 2))
    assert by_gid(ax, "accept")[0].get_paths()[0].get_extents().x0 == pytest.approx(0)
    with pytest.raises(ValueError, match=r"^start\b.*no connection is accepted"):
        plots.timeline(Script().wait(0).recording().events(), start="first accept")


def test_a_timeline_from_a_number_goes_on_to_the_end() -> None:
    """In nanoseconds from the first event, as the axis counts."""
    script = Script(call_ns=1000, pause_ns=0).recv(1, 1).recv(2, 1).recv(3, 1)
    ax = plots.timeline(script.recording().events(), start=1500)
    assert ax.get_xlim() == pytest.approx((1500, 3000))
    assert rows(ax) == ["loop", "conn 2", "conn 3"]


def test_a_start_that_is_none_is_refused() -> None:
    """A name that does not exist, a negative number, and one beside a span."""
    events = served(2, 2).events()
    with pytest.raises(ValueError, match=r"^start must be one of .*'first accept'"):
        plots.timeline(events, start="accept")
    with pytest.raises(ValueError, match=r"^start must be at least 0"):
        plots.timeline(events, start=-1)
    with pytest.raises(ValueError, match=r"^start must not be given with span"):
        plots.timeline(events, start=5, span=(0, 5))


# ---- bars that share a lane ------------------------------------------------------------


@pytest.mark.parametrize("theme", style.THEMES.values(), ids=style.THEMES)
def test_submissions_and_completions_differ_in_colour_and_place(theme: style.Theme) -> None:
    """Submissions are above completions, and a callback is below both."""
    script = Script().wait(1).call(Op.SUBMIT, 1, 0, mask=int(Op.RECV))
    script.call(Op.COMPLETE, 1, 5, mask=int(Op.RECV)).call(Op.CALLBACK, 1, 0)
    with style.use(dark=theme is style.DARK):
        ax = plots.timeline(script.recording())
    boxes = {}
    for name in ("submit", "complete", "callback"):
        (bars,) = by_gid(ax, name)
        assert to_hex(bars.get_facecolor()[0]).upper() == theme.ops[name]
        (path,) = bars.get_paths()
        boxes[name] = path.get_extents()
    assert boxes["submit"].y1 < boxes["complete"].y0 < boxes["complete"].y1 < boxes["callback"].y0
    assert legend(ax) == ["wait", "callback", "submit", "complete"]


def test_the_text_alternative_counts_the_calls() -> None:
    """Of which kind, in which time, and with which errors."""
    script = Script(call_ns=2000, pause_ns=0).wait(1).recv(1, 5).recv(1, 5).recv_blocked(1)
    script.recv(2, -errno.ECONNRESET)
    assert plots.alt_text(plots.timeline(script.recording())) == (
        "System calls of the event loop: 5 events of the loop and 2 connections in 10.0 µs: "
        "4 recv, 1 wait; 1 EAGAIN; 1 ECONNRESET."
    )


def test_of_few_calls_most_are_drawn() -> None:
    """A start long before is left out; a second part that is as long is not."""
    script = Script(call_ns=1000, pause_ns=1000).register(0).wait(1, ns=10**9)
    for _ in range(5):
        script.recv(1, 5).send(1, 5)
    ax = plots.timeline(script.recording().events())
    assert rows(ax) == ["loop", "conn 1"]
    assert ax.get_xlim()[1] < 30
    script.wait(1, ns=10**9)
    for _ in range(5):
        script.recv(2, 5).send(2, 5)
    ax = plots.timeline(script.recording().events())
    assert rows(ax) == ["loop", "conn 1", "conn 2"]
    assert sum(len(by_gid(ax, name)[0].get_paths()) for name in ("recv", "send")) == 20
