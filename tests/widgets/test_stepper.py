"""The stepper's model, and the panel that shows it."""

import math
from itertools import combinations, pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from epolllab import widgets
from epolllab.plots.widgets import history
from epolllab.widgets.steps import MAX_UNREAD, MAX_WRITE, Steps

pytestmark = pytest.mark.kernel


@pytest.fixture
def steps():
    """A stepper's model."""
    with Steps() as steps:
        yield steps


def test_level_reports_at_every_wait_and_edge_once(steps: Steps) -> None:
    """The same socket and the same bytes give two different results."""
    steps.peer_writes(2000)
    first, second = steps.wait(), steps.wait()
    assert (first.level, first.edge) == ("IN", "IN")
    assert (second.level, second.edge) == ("IN", "")
    assert "nothing has happened since" in second.why
    assert "2,000 bytes can be read" in second.why
    after = steps.recv(500)
    assert after.readable == 1500
    assert (after.level_ready, after.edge_ready) == (True, False)
    third = steps.wait()
    assert (third.level, third.edge) == ("IN", "")


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("peer_writes", "1 byte arrived"),
        ("modify", "EPOLL_CTL_MOD found it ready"),
        ("register_again", "EPOLL_CTL_ADD found it ready"),
    ],
)
def test_new_bytes_modify_and_registration_make_edge_ready_again(
    steps: Steps, step: str, reason: str
) -> None:
    """Each of them adds the socket to the edge-triggered epoll's ready list."""
    steps.peer_writes(100)
    steps.wait()
    assert steps.wait().edge == ""
    done = steps.peer_writes(1) if step == "peer_writes" else getattr(steps, step)()
    assert done.edge_ready
    row = steps.wait()
    assert row.edge == "IN"
    assert reason in row.why


def test_arrivals_between_two_waits_are_one_event(steps: Steps) -> None:
    """Edge reports both in one wait, which the row before it announces."""
    steps.peer_writes(1)
    assert "one wait will return both" in steps.peer_writes(2).why
    assert "1 byte arrived and 2 bytes arrived" in steps.wait().why
    assert steps.wait().edge == ""


def test_drained_socket_is_reported_by_neither(steps: Steps) -> None:
    """Bytes that were read before the wait are not reported."""
    steps.peer_writes(10)
    drained = steps.drain()
    assert drained.result == "10 bytes, then EAGAIN"
    assert (drained.readable, drained.level_ready, drained.edge_ready) == (0, False, False)
    waited = steps.wait()
    assert (waited.level, waited.edge) == ("", "")
    assert "nothing of that is left" in waited.why
    assert steps.recv(1).result == "EAGAIN"


def test_masks_of_ends_and_resets(steps: Steps) -> None:
    """A FIN is RDHUP and stays for level; an RST is ERR and HUP whatever the interest."""
    steps.peer_half_closes()
    first, second = steps.wait(), steps.wait()
    assert (first.level, first.edge) == ("IN|RDHUP", "IN|RDHUP")
    assert (second.level, second.edge) == ("IN|RDHUP", "")
    assert steps.recv(10).result == "0: end"
    steps.start_over()
    steps.modify("0")
    steps.peer_resets()
    reset = steps.wait()
    assert reset.level is not None
    assert set(reset.level.split("|")) >= {"ERR", "HUP"}
    assert reset.edge == reset.level
    assert steps.recv(1).result == "ECONNRESET"


def test_interest_is_read_from_proc(steps: Steps) -> None:
    """The kernel adds ERR and HUP, and ET marks the edge-triggered epoll."""
    assert steps.last.level_interest == "IN|ERR|HUP|RDHUP"
    assert steps.last.edge_interest == "IN|ERR|HUP|RDHUP|ET"
    assert steps.modify("IN|OUT|RDHUP").edge_interest == "IN|OUT|ERR|HUP|RDHUP|ET"
    assert (steps.wait().edge, steps.wait().edge) == ("OUT", "")
    empty = steps.modify("0")
    assert (empty.level_ready, empty.edge_ready) == (False, False)
    steps.peer_writes(5)
    assert "5 bytes can be read, but the interest 0 excludes that" in steps.wait().why


def test_reading_the_state_does_not_consume_the_event(steps: Steps) -> None:
    """A wait returns the event however often readiness was read before."""
    steps.peer_writes(3)
    assert all(steps.is_ready("edge") for _ in range(20))
    assert steps.wait().edge == "IN"


def test_impossible_steps_raise_and_change_nothing(steps: Steps) -> None:
    """A closed peer cannot write, and a buffer is not filled beyond its limit."""
    for n_bytes in (0, -1, MAX_WRITE + 1):
        with pytest.raises(ValueError, match=r"^n_bytes\b"):
            steps.peer_writes(n_bytes)
    with pytest.raises(TypeError, match=r"^n_bytes\b"):
        steps.recv("many")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^interest\b.*'IN'\?"):
        steps.modify("INN")
    while steps.last.readable + MAX_WRITE <= MAX_UNREAD:
        steps.peer_writes(MAX_WRITE)
    n_rows = len(steps.rows)
    with pytest.raises(ValueError, match=r"^n_bytes\b"):
        steps.peer_writes(MAX_WRITE)
    steps.peer_half_closes()
    with pytest.raises(ValueError, match="peer"):
        steps.peer_writes(1)
    steps.peer_resets()
    with pytest.raises(ValueError, match="peer"):
        steps.peer_resets()
    assert len(steps.rows) == n_rows + 2


def test_history_has_fixed_dtypes(steps: Steps) -> None:
    """A missing mask, for a step without a wait, differs from an empty one."""
    steps.wait()
    steps.peer_writes(7)
    frame = steps.history()
    assert frame["action"].tolist() == ["begin", "wait", "peer writes 7"]
    assert frame["level"].isna().tolist() == [True, False, True]
    assert frame["level"][1] == ""
    assert frame["readable"].tolist() == [0, 0, 7]
    assert steps.start_over().step == 0
    assert steps.history().dtypes.equals(frame.dtypes)
    assert steps.recording().counts()["register"] == 2


def test_history_chart_distinguishes_returned_from_silent(steps: Steps) -> None:
    """A full mark for each event, a hollow one for each wait without, a bar for the bytes."""
    steps.peer_writes(100)
    steps.wait()
    steps.wait()
    ax = history(steps.history(), ax=Figure().add_subplot())
    marks = {part.get_gid(): len(part.get_offsets()) for part in ax.collections}
    assert marks == {
        "level returned": 2, "level silent": 0, "edge returned": 1, "edge silent": 1,
    }  # fmt: skip
    assert [bar.get_height() for bar in ax.patches] == [0, 100, 100, 100]


def test_labels_of_large_numbers_do_not_overlap(stepper: widgets.Stepper) -> None:
    """Those left of the history chart, and the names below it, with a full buffer."""
    for _ in range(MAX_UNREAD // MAX_WRITE):
        stepper.steps.peer_writes(MAX_WRITE)
    for _ in range(14):
        stepper.steps.wait()
    figure = stepper.picture()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (ax,) = figure.axes
    labels = [*ax.get_yticklabels(), ax.yaxis.label, *ax.texts, ax.title]
    boxes = {one.get_text(): one.get_window_extent() for one in labels if one.get_text()}
    assert {"level", "edge", "45,000"} <= set(boxes)
    assert not [pair for pair in combinations(boxes, 2) if boxes[pair[0]].overlaps(boxes[pair[1]])]
    # Turned by 40 degrees, names are as far apart as this share of the space between ticks.
    names = ax.get_xticklabels()
    lefts = [name.get_window_extent().x1 for name in names]
    apart = min(right - left for left, right in pairwise(lefts)) * math.sin(math.radians(40))
    assert apart > names[0].get_fontsize() * figure.dpi / 72


# ---- the panel -------------------------------------------------------------------------


def test_each_button_is_one_step_and_updates_every_display(stepper: widgets.Stepper) -> None:
    """Explanation, masks, chart, table and interest follow the model."""
    shown, controls, buttons = stepper.displays, stepper.controls, stepper.buttons
    explanations: list[str] = []
    shown["why"].observe(lambda change: explanations.append(change["new"]), "value")
    controls["write_bytes"].value = 1200
    for name in ("peer_writes", "wait", "wait"):
        buttons[name].click()
    assert stepper.steps.last.edge == ""
    assert "nothing has happened since" in shown["why"].value
    assert len(explanations) == 3
    assert "no wait" not in shown["sides"].value
    assert "1,200" in shown["history"].value
    assert 'id="edge silent"' in shown["chart"].value
    controls["recv_bytes"].value = 200
    buttons["recv"].click()
    assert stepper.steps.last.readable == 1000
    controls["interest"].value = "IN"
    buttons["modify"].click()
    assert stepper.steps.last.edge_interest == "IN|ERR|HUP|ET"
    buttons["start_over"].click()
    assert len(stepper.steps.rows) == 1
    assert stepper.error == ""


def test_buttons_of_impossible_steps_are_disabled(stepper: widgets.Stepper) -> None:
    """A press that arrives all the same shows the error in one line."""
    buttons = stepper.buttons
    buttons["peer_half_closes"].click()
    assert buttons["peer_writes"].disabled
    assert not buttons["peer_resets"].disabled
    buttons["peer_writes"].click()
    assert "epl-alarm" in stepper.error
    assert "start over" in stepper.error
    assert "traceback" not in stepper.error
    buttons["start_over"].click()
    assert stepper.error == ""
    assert not buttons["peer_writes"].disabled
