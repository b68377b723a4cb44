"""Charts of wakeups and of the interest list, read back for their data, colours and words."""

import errno

import pytest
from matplotlib.colors import to_rgb

from epolllab import plots
from epolllab.plots import style
from tests.plots.samples import by_gid, interest_list, rows, words
from tests.samples import Script

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


def test_few_waits_are_not_called_none() -> None:
    """A share that rounds to 0 is said to be less than one percent; no waits have no label."""
    script = Script()
    for returned in (1, *[2] * 300, 4):
        script.wait(returned)
    labels = [text.get_text() for text in plots.batch_sizes(script.recording().wakeups()).texts]
    assert labels[:5] == ["", "<1 %", "99 %", "", "<1 %"]


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
