"""The timeline's Python half: what the page is sent, and what a notebook stores."""

import base64
import errno
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

import epolllab
from epolllab import Recording, start_server, widgets
from epolllab.events import RECORD, Op
from epolllab.frames.membership import request_numbers
from epolllab.notebook import cells
from epolllab.plots import style
from epolllab.widgets.timeline import FIRST_RECORDS, PART_RECORDS, PICTURE_RECORDS
from tests.samples import Script, random_server, served
from tests.widgets.conftest import Opened
from tests.widgets.tools import until

WIDGET = "application/vnd.jupyter.widget-view+json"


class Page:
    """Takes what a widget sends to its page, and asks for more."""

    def __init__(self, widget: widgets.Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.widget = widget
        self.received: list[tuple[dict[str, Any], bytes]] = []
        monkeypatch.setattr(type(widget), "send", self._take)

    def _take(self, content: dict[str, Any], buffers: list[Any]) -> None:
        self.received.append((content, bytes(buffers[0])))

    def ask(self, **content: Any) -> tuple[dict[str, Any], bytes]:
        """Ask for something, and return the reply."""
        self.widget._handle_custom_msg(content, [])
        return self.received[-1]


def test_page_gets_every_record_in_parts(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones come with the widget if there is a page; the others, when it asks."""
    one = served(4, 30)
    recording = Recording(one.rows * (100_000 // len(one) + 1))
    assert len(recording) > FIRST_RECORDS + PART_RECORDS
    assert opened(widgets.timeline(recording)).rows == b""
    monkeypatch.setattr(cells, "front_end", lambda: "page")
    widget = opened(widgets.timeline(recording))
    page = Page(widget, monkeypatch)
    rows = widget.rows
    assert len(rows) == FIRST_RECORDS * RECORD.size
    while len(rows) < widget.total * RECORD.size:
        start = len(rows) // RECORD.size
        content, part = page.ask(ask="rows", **{"from": start})
        assert content == {"kind": "rows", "version": 0, "from": start}
        rows += part
    assert len(page.received) == 2
    assert rows == recording.rows


@pytest.mark.parametrize("start", [-1, 10**9])
def test_page_that_asks_for_no_records_gets_none_or_the_first(
    start: int, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a page sends, the kernel does not fail."""
    recording = served(2, 3)
    page = Page(opened(widgets.timeline(recording)), monkeypatch)
    _, part = page.ask(ask="rows", **{"from": start})
    assert part == (recording.rows if start < 0 else b"")
    for content in ({"ask": "rows", "from": "x"}, {"ask": "rows"}, {"ask": 5}, {}):
        page.widget._handle_custom_msg(content, [])
    assert len(page.received) == 1


@pytest.mark.parametrize("seed", range(8))
def test_requests_of_records_are_those_of_the_frame(seed: int) -> None:
    """Each record belongs to one request or none, and the frame's counts are those of its own."""
    recording = random_server(seed, n_steps=120)
    numbers, requests = request_numbers(recording.array()), recording.requests()
    assert len(numbers) == len(recording)
    assert set(numbers.tolist()) <= {-1, *range(len(requests))}
    op, conn = (recording.array()[name] for name in ("op", "conn"))
    for name, operation in (("n_recv", Op.RECV), ("n_send", Op.SEND), ("n_events", Op.READY)):
        counted = np.bincount(numbers[(op == operation) & (numbers >= 0)], minlength=len(requests))
        assert counted.tolist() == requests[name].tolist()
    known = numbers >= 0
    assert (requests["conn"].to_numpy()[numbers[known]] == conn[known]).all()
    assert recording.array()["end_ns"][(op == Op.HANDLE)].tolist() == (
        requests["handled_ns"].iloc[numbers[op == Op.HANDLE]].tolist()
    )


def test_page_gets_the_numbers_of_the_requests(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One 32-bit number for each record."""
    recording = served(3, 10)
    page = Page(opened(widgets.timeline(recording)), monkeypatch)
    content, numbers = page.ask(ask="requests")
    assert content["kind"] == "requests"
    assert np.frombuffer(numbers, "<i4").tolist() == request_numbers(recording.array()).tolist()


def test_page_knows_every_operation_error_mask_and_colour(opened: Opened) -> None:
    """The colours are the charts' own, and text on them can be read."""
    facts = opened(widgets.timeline(served(1, 1))).facts
    json.dumps(facts)
    assert [op["label"] for op in facts["ops"]] == [op.label for op in Op]
    assert {op["group"] for op in facts["ops"]} <= set(facts["groups"])
    assert facts["errors"][str(errno.ECONNRESET)] == "ECONNRESET"
    assert [1, "IN"] in facts["masks"]
    assert [1 << 31, "ET"] in facts["masks"]
    assert facts["wouldBlock"].count(errno.EAGAIN) >= 1
    for theme in (style.LIGHT, style.DARK):
        colors = facts["colors"][theme.name]
        assert colors["groups"] == dict(theme.ops)
        assert set(colors["text"]) == set(facts["groups"])
        assert colors["alarm"] == theme.alarm


def test_sentence_says_what_is_shown() -> None:
    """It is also the text where there is no picture."""
    script = Script().wait(1).ready(0).accept(1).register(1).wait(1).ready(1).recv(1, 5)
    script.recv_blocked(1).recv(1, -errno.ECONNRESET).wait(-errno.EINTR)
    recording = script.recording()
    lost = Recording(recording.rows, {}, 7)
    assert repr(widgets.timeline(lost)) == (
        "Timeline of 10 events in 8.90 µs: 1 connection, 3 wakeups, 1 error, "
        "1 call that would have blocked; 7 earlier events were overwritten."
    )
    assert "without events" in repr(widgets.timeline(Recording(b"")))


# ---- following a server ----------------------------------------------------------------


def test_server_is_followed_while_a_page_shows_it(opened: Opened) -> None:
    """Pause takes everything recorded so far; Follow goes on."""
    with start_server() as server:
        widget = opened(widgets.timeline(server))
        assert (widget.live, widget.can_follow, widget.ticker.running) == (True, True, False)
        widget._handle_custom_msg({"view": "one", "state": "shown"}, [])
        epolllab.run_clients(server, connections=2, requests=10, progress=False)
        server.settle()
        until(lambda: widget.rows == server.tail(2000).rows != b"")
        widget._handle_custom_msg({"ask": "pause"}, [])
        assert (widget.live, widget.version, widget.total) == (False, 1, len(server.recording()))
        assert widget.recording.rows == server.recording().rows
        before = widget.rows
        assert before == b""  # the page asks for them
        epolllab.run_clients(server, connections=1, requests=5, progress=False)
        ticks = widget.ticker.n_ticks
        until(lambda: widget.ticker.n_ticks > ticks + 1)
        assert widget.rows == before
        widget._handle_custom_msg({"ask": "follow"}, [])
        until(lambda: widget.rows == server.tail(2000).rows)
        assert (widget.live, widget.version) == (True, 2)
        widget.close()
        assert not widget.ticker.running


def test_recording_has_nothing_to_follow(opened: Opened) -> None:
    """It has no thread, and a page cannot start one."""
    widget = opened(widgets.timeline(served(1, 2)))
    assert (widget.ticker, widget.presence, widget.watched) == (None, None, False)
    for asked in ("pause", "follow"):
        widget._handle_custom_msg({"ask": asked}, [])
    assert (widget.live, widget.version) == (False, 0)


# ---- what a notebook stores ------------------------------------------------------------


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend to be in a notebook of a front end, which the function chooses."""
    monkeypatch.setattr(cells, "in_notebook", lambda: True)
    return lambda kind: monkeypatch.setattr(cells, "front_end", lambda: kind)


@pytest.mark.parametrize(
    ("front_end", "types"),
    [("page", {"text/plain", "image/png"}), ("none", {"text/plain", "image/png"}),
     ("widget", {"text/plain", "image/png", WIDGET})],
)  # fmt: skip
def test_output_is_a_picture_and_a_widget_only_where_nothing_is_stored(
    front_end: str, types: set[str], opened: Opened, notebook: Any
) -> None:
    """Only a message to a page names the picture to replace."""
    notebook(front_end)
    widget = opened(widgets.timeline(served(3, 8)))
    data, metadata = widget._repr_mimebundle_()
    assert set(data) == types
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    size = metadata["image/png"]
    assert picture.size == (2 * size["width"], 2 * size["height"])
    assert bool(widget.picture) == (front_end == "page")
    assert data["image/png"].startswith(widget.picture)


def test_no_two_pictures_begin_alike_but_those_without_a_page_are_the_same(
    opened: Opened, notebook: Any
) -> None:
    """A page tells its pictures apart; an executed notebook is reproducible."""
    recording = served(2, 4)
    for front_end, n_different in (("page", 2), ("none", 1)):
        notebook(front_end)
        several = [opened(widgets.timeline(recording)) for _ in range(2)]
        pictures = [widget._repr_mimebundle_()[0]["image/png"] for widget in several]
        assert len({picture[:600] for picture in pictures}) == n_different


def test_picture_of_a_long_recording_is_its_busiest_part(
    notebook: Any, monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    """A picture of millions of events would take minutes to draw."""
    drawn: list[Any] = []
    real = epolllab.plots.timeline
    monkeypatch.setattr(
        epolllab.plots, "timeline", lambda events, **how: drawn.append((events, how["note"])) or
        real(events, **how),
    )  # fmt: skip
    script = Script()
    for pause in (5_000, 10, 5_000):
        script.pause_ns = pause
        for _ in range(PICTURE_RECORDS):
            script.wait(0)
    recording = script.recording()
    notebook("none")
    opened(widgets.timeline(recording))._repr_mimebundle_()
    ((events, note),) = drawn
    assert len(events) == PICTURE_RECORDS
    assert events["t_ns"].iloc[0] == recording.array()["start_ns"][PICTURE_RECORDS]
    assert "busiest 2,000 events of 6,000" in note


def test_last_line_of_a_cell_shows_the_timeline(
    notebook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no page can show a widget, none is made; outside a notebook it is text."""
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda data, **how: shown.append((data, how)))
    recording = served(2, 4)
    notebook("none")
    recording._ipython_display_()
    ((data, how),) = shown
    assert set(data) == {"text/plain", "image/png"}
    assert how["raw"] is True
    monkeypatch.setattr(cells, "in_notebook", lambda: False)
    with pytest.raises(NotImplementedError):
        recording._ipython_display_()


@pytest.mark.parametrize(
    "wrong", [5, "x", None, served(1, 1).array()], ids=["5", "x", "None", "array"]
)
def test_anything_but_a_recording_or_a_server_is_refused(wrong: Any) -> None:
    """The error names the parameter."""
    with pytest.raises(TypeError, match=r"^recording\b.*Recording or a Server"):
        widgets.timeline(wrong)
