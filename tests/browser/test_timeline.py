"""The timeline in JupyterLab: its picture, its mouse and keys, and what it says of its page."""

import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from epolllab.plots import style
from tests.browser.conftest import CHECKOUT, SCRATCH
from tests.browser.lab import DARK, LIGHT, TIMEOUT_MS, Lab, expect
from tests.wire import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

PATIENCE_S = 60.0

SOURCE = f"""
import sys
sys.path.insert(0, {str(CHECKOUT)!r})
from epolllab import Recording, run_clients, start_server
from tests.samples import Script, served

def one_error():
    script = Script(pause_ns=500)
    for conn in (1, 2, 3):
        script.wait(1, ns=50_000).ready(0).accept(conn).register(conn)
    for n in range(40):
        script.wait(2, ns=20_000)
        for conn in (1, 2):
            script.ready(conn).recv(conn, 70, ns=4_000).handle(conn, 120, ns=3_000)
            script.send(conn, 120, ns=5_000)
    script.after(400_000).wait(1).ready(3, "IN|RDHUP").recv(3, -104, ns=6_000).close(3)
    return script.recording()

recording = one_error()
"""


class Shown:
    """A timeline on the page."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.page = lab, lab.page
        self.root = lab.page.locator(".jp-OutputArea .epl-tl").first
        self.main = self.root.locator("canvas.epl-tl-main")
        self.tip = self.root.locator(".epl-tl-tip")
        self.says = self.root.locator(".epl-tl-say")

    def loaded(self) -> "Shown":
        """Wait until all records and the numbers of their requests have come."""
        self.root.and_(self.page.locator("[data-loaded=true][data-requests=true]")).wait_for()
        return self

    def ask(self, expression: str) -> Any:
        """The value of an expression over the view ``v``, after the next frame."""
        code = f"""async root => {{
            const v = root.timeline;
            const frame = () => new Promise(requestAnimationFrame);
            await frame(); await frame();
            return {expression};
        }}"""
        return self.root.evaluate(code)

    def box(self) -> "FloatRect":
        """Where the lanes are on the page."""
        self.main.scroll_into_view_if_needed()
        box = self.main.bounding_box()
        assert box is not None
        return box

    def point_at(self, row: int) -> None:
        """Move the mouse to the middle of a call."""
        x, y = self.ask(
            f"[v.x((v.records.t[{row}] + v.records.end[{row}]) / 2),"
            f" v.y(v.records.lane[{row}]) + v.laneHeight - 6]"
        )
        box = self.box()
        self.page.mouse.move(box["x"] + x, box["y"] + y)

    def pixels(self) -> Image.Image:
        """A picture of the lanes."""
        return Image.open(io.BytesIO(self.main.screenshot())).convert("RGB")


@pytest.fixture
def shown(session_lab: Lab) -> Iterator[Shown]:
    """The recording of the source as the last line of a cell, in a kernel that tests share."""
    view = Shown(session_lab)
    if not view.main.count() or view.ask("v.records.n") != 376:
        session_lab.open(SCRATCH)
        session_lab.show(SOURCE)
        session_lab.show("recording")
    view.loaded()
    session_lab.page.mouse.move(0, 0)
    view.ask("(v.clear(), v.showAll())")
    yield view
    assert session_lab.errors() == []


def outputs(lab: Lab) -> list[dict[str, Any]]:
    """What the notebook would store of its only cell."""
    path = lab.folder / "notebooks" / SCRATCH
    lab.page.evaluate("lab.save()")
    (cell,) = json.loads(path.read_text())["cells"]
    return list(cell["outputs"])


def test_last_line_is_live_and_stored_as_a_picture(shown: Shown) -> None:
    """A reloaded page has the timeline again; without its kernel the picture stays."""
    lab = shown.lab
    (output,) = outputs(lab)
    assert set(output["data"]) == {"text/plain", "image/png"}
    assert "1 error" in "".join(output["data"]["text/plain"])
    picture = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"])))
    size = output["metadata"]["image/png"]
    assert picture.size == (2 * size["width"], 2 * size["height"])
    image = lab.page.locator(".jp-RenderedImage img")
    expect(image).to_be_hidden()

    lab.leave()
    lab.enter()
    lab.open(SCRATCH)
    expect(shown.loaded().main).to_be_visible()
    expect(image).to_be_hidden()

    lab.close()
    lab.enter()
    lab.open(SCRATCH)
    expect(image).to_be_visible()
    expect(shown.root).to_have_count(0)


def test_zoom_to_one_call_and_read_its_text(shown: Shown) -> None:
    """The moment under the mouse stays there while the wheel turns."""
    row = shown.ask("v.records.waits[20] + 2")  # the recv after the wakeup's first ready row
    shown.point_at(row)
    expect(shown.tip).to_be_visible()
    before = shown.ask("v.to - v.from")
    for _ in range(12):
        shown.page.mouse.wheel(0, -200)
    assert shown.ask("v.to - v.from") < before / 30
    shown.point_at(row)
    expect(shown.tip.locator("div").first).to_have_text("recv · conn 1 · fd 5")
    expect(shown.tip).to_contain_text("70 bytes")
    expect(shown.tip).to_contain_text("took 4 µs")
    expect(shown.tip).to_contain_text("wakeup 21, place 1 of 2 in the batch, request 34")
    number = shown.ask(f"v.records.requests[{row}]")
    read = shown.lab.value(f"int((recording.requests()['read_ns'] == recording.array()['end_ns']"
                           f"[{row}]).to_numpy().argmax())")  # fmt: skip
    assert number == read == 34


def test_drag_pans_and_the_map_moves_the_view(shown: Shown) -> None:
    """Neither leaves the recording."""
    shown.root.get_by_role("button", name="Zoom in").click()
    start, span = shown.ask("[v.from, v.to - v.from]")
    box = shown.box()
    shown.page.mouse.move(box["x"] + 500, box["y"] + 30)
    shown.page.mouse.down()
    shown.page.mouse.move(box["x"] + 400, box["y"] + 30, steps=4)
    shown.page.mouse.up()
    moved, width = shown.ask("[v.from - " + str(start) + ", v.width - v.left - 8]")
    assert moved == pytest.approx(100 * span / width, rel=0.05)
    assert shown.ask("v.chosen") is None  # a drag is no click
    shown.root.locator("canvas.epl-tl-map").click(position={"x": box["width"] - 12, "y": 10})
    assert shown.ask("v.to >= v.records.last && v.to - v.from") == pytest.approx(span)


def test_two_fingers_zoom(shown: Shown) -> None:
    """Three times as far apart, they show a third of the time."""
    before = shown.ask("v.to - v.from")
    box = shown.box()
    session = shown.page.context.new_cdp_session(shown.page)

    def touch(kind: str, *places: float) -> None:
        points = [{"x": box["x"] + x, "y": box["y"] + 30, "id": n} for n, x in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 300, 400)
    for step in range(1, 6):
        touch("touchMove", 300 - 20 * step, 400 + 20 * step)
    touch("touchEnd")
    session.detach()
    assert shown.ask("v.to - v.from") == pytest.approx(before / 3, rel=0.05)


RING = """
from epolllab.events import NO_POSITION, RECORD, Op
def record(op, start, end, conn=0, result=0, mask=0, thread=0, request=0, wake=1):
    return RECORD.pack(start, end, wake, conn, 4, result, mask, op, NO_POSITION, thread, request)
several = Recording(b"".join((
    record(Op.WAIT, 0, 500, result=1, mask=0, thread=7), record(Op.RECV, 600, 700, 1, 5, thread=7),
    record(Op.CALLBACK, 550, 800, 1, mask=0, thread=7),
    record(Op.WAIT, 100, 900, result=1, thread=8, wake=2),
    record(Op.SUBMIT, 950, 950, 2, 0, int(Op.RECV), thread=8, request=3),
    record(Op.COMPLETE, 1990, 1990, 2, 64, int(Op.RECV), thread=8, request=3, wake=2),
)), {"callbacks": ["Reader.data_received"]})
several
"""


def test_threads_callbacks_and_the_operations_of_a_ring(shown: Shown) -> None:
    """Each thread has a lane for its loop; a submission is not taken for its completion."""
    shown.lab.show(RING)
    shown.root.and_(shown.page.locator("[data-requests=true]")).wait_for()
    until(lambda: shown.ask("v.records.n") == 6, PATIENCE_S)
    assert shown.ask("v.records.lanes") == ["loop 7", "callbacks 7", "loop 8", "conn 1", "conn 2"]
    words = shown.ask("[2, 4, 5].map(row => v.words.call(row, 1).slice(0, 2))")
    assert words == [
        ["callback · conn 1 · fd 4", "Reader.data_received"],
        ["submit recv · conn 2 · fd 4", "0 bytes"],
        ["complete recv · conn 2 · fd 4", "64 bytes"],
    ]
    legend = shown.root.locator(".epl-tl-legend")
    expect(legend).to_contain_text("submit")
    expect(legend).to_contain_text("complete")
    search = shown.root.get_by_role("searchbox")
    for wanted, found in (("submit", "1 match"), ("complete", "1 match"), ("recv", "3 matches")):
        search.fill(wanted)
        expect(shown.says).to_contain_text(found)


def test_click_selects_a_request_and_dims_the_rest(shown: Shown) -> None:
    """A click beside the calls clears the selection."""
    row = shown.ask("v.records.waits[20] + 2")
    shown.ask(f"v.goTo({row}, true)")
    shown.ask(f"v.look(v.records.t[{row}] - 20000, v.records.t[{row}] + 40000)")
    shown.ask("v.hideTip()")
    other = row + 4  # the ready row of the other connection, and after it its recv
    x, y = shown.ask(f"[v.x(v.records.t[{other} + 1]) + 4, v.y(v.records.lane[{other} + 1]) + 13]")
    before = shown.pixels().getpixel((int(x), int(y)))
    shown.point_at(row)
    shown.page.mouse.down()
    shown.page.mouse.up()
    expect(shown.says).to_have_text("request 34: 4 records")
    assert shown.ask("[...v.chosen]") == [row - 1, row, row + 1, row + 2]
    shown.page.mouse.move(0, 0)
    dimmed = shown.pixels().getpixel((int(x), int(y)))
    assert sum(dimmed) > sum(before) + 100  # paler, on white
    box = shown.box()
    shown.page.mouse.click(box["x"] + 300, box["y"] + 4 + 2.5 * 18 + 18)  # in the lane of conn 3
    assert shown.ask("v.chosen") is None


def test_search_next_error_and_longest_gap(shown: Shown, screenshots: Path) -> None:
    """Each says what it found; a word without a meaning is named."""
    search = shown.root.get_by_role("searchbox")
    for words, found in (
        ("conn 2 recv", "40 matches"), ("RDHUP", "1 match"), ("ECONNRESET", "1 match"),
        ("error", "1 match"), ("send EAGAIN", "No call matches"), ("nonsense", "“nonsense”"),
        ("request 34", "4 matches"), ("in|rdhup conn 3", "1 match"),
    ):  # fmt: skip
        search.fill(words)
        expect(shown.says).to_contain_text(found)
    search.fill("conn 2 recv")
    search.press("Enter")
    search.press("Enter")
    expect(shown.says).to_have_text("2 of 40")
    expect(shown.tip).to_contain_text("recv · conn 2")
    search.press("Escape")
    expect(shown.says).to_have_text("")
    assert shown.ask("document.activeElement === v.main")

    shown.root.get_by_role("button", name="Next error").click()
    expect(shown.says).to_have_text("error 1 of 1")
    expect(shown.tip).to_contain_text("ECONNRESET: it failed")
    shown.root.screenshot(path=screenshots / "timeline-error.png")
    shown.root.get_by_role("button", name="Longest gap").click()
    expect(shown.says).to_contain_text("longest gap: 401 µs without a recorded call, before wait")
    length, first, last = shown.ask("[v.gap[0], v.gap[1] >= v.from, v.gap[2] <= v.to]")
    assert (length, first, last) == (400_500, True, True)


def test_keyboard_only(shown: Shown) -> None:
    """Tab leads to the lanes, whose keys are not JupyterLab's."""
    page = shown.page
    shown.root.get_by_role("button", name="All").focus()
    page.keyboard.press("Tab")
    assert shown.ask("document.activeElement === v.main")
    page.keyboard.press("Home")
    page.keyboard.press("+")
    before = shown.ask("v.from")
    page.keyboard.press("ArrowRight")
    assert shown.ask("v.from") > before
    page.keyboard.press("ArrowLeft")
    assert shown.ask("v.from") == pytest.approx(before, abs=1)
    page.keyboard.press("Home")
    page.keyboard.press(".")
    first = shown.ask("v.shown")
    page.keyboard.press(".")
    assert shown.ask("v.records.t[v.shown]") >= shown.ask(f"v.records.t[{first}]")
    page.keyboard.press("ArrowDown")
    assert shown.ask("v.records.lanes[v.records.lane[v.shown]]") == "conn 1"
    expect(shown.tip).to_contain_text("conn 1")
    page.keyboard.press("Enter")
    expect(shown.says).to_contain_text("request 0")
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    expect(shown.says).to_have_text("error 1 of 1")
    page.keyboard.press("z")
    assert shown.ask("v.to - v.from") <= 60_000
    page.keyboard.press("g")
    expect(shown.says).to_contain_text("longest gap")
    page.keyboard.press("/")
    page.keyboard.type("RDHUP")
    expect(shown.says).to_contain_text("1 match")
    # "b" and "a" would have added cells, and "x" removed this one.
    shown.main.focus()
    for key in "abx":
        page.keyboard.press(key)
    assert len(shown.lab.page.evaluate("lab.runAll()")) == 1


def test_both_themes(shown: Shown, screenshots: Path) -> None:
    """The ground is the page's, and the colours are those of the theme's charts."""
    grounds = []
    for name, theme in ((DARK, style.DARK), (LIGHT, style.LIGHT)):
        shown.lab.set_theme(name)
        expect(shown.root).to_have_attribute("data-theme", theme.name)
        shown.root.screenshot(path=screenshots / f"timeline-{theme.name}.png")
        picture = shown.pixels()
        grounds.append("#{:02X}{:02X}{:02X}".format(*picture.getpixel((4, picture.height - 4))))
        colors = {"#{:02X}{:02X}{:02X}".format(*rgb) for _, rgb in picture.getcolors(1 << 20)}
        assert {theme.ops["wait"], theme.ops["send"], theme.ops["recv"]} <= colors
    assert grounds == [style.DARK.paper, style.LIGHT.paper]


def test_narrow_page(shown: Shown, screenshots: Path) -> None:
    """At the width of a phone nothing is cut off or scrolls sideways."""
    page = shown.page
    page.evaluate("document.querySelector('.epl-tl').parentElement.style.width = '366px'")
    try:
        page.wait_for_function("document.querySelector('.epl-tl').timeline.width === 366")
        assert shown.ask("v.root.scrollWidth <= v.root.clientWidth")
        right = shown.ask("v.root.getBoundingClientRect().right")
        rights = shown.ask("[...v.root.querySelectorAll('button,input,canvas,span')]"
                           ".map(e => e.getBoundingClientRect().right)")  # fmt: skip
        assert max(rights) <= right + 0.5
        shown.root.get_by_role("button", name="Next error").click()
        box, tip = shown.root.bounding_box(), shown.tip.bounding_box()
        assert box["x"] <= tip["x"]
        assert tip["x"] + tip["width"] <= box["x"] + box["width"] + 0.5
        shown.root.screenshot(path=screenshots / "timeline-narrow.png")
    finally:
        page.evaluate("document.querySelector('.epl-tl').parentElement.style.width = ''")


FOLLOW = """
server = start_server()
run_clients(server, connections=3, requests=50, progress=False)
w = widgets.timeline(server)
"""


@pytest.fixture
def followed(scratch: Lab) -> Iterator[Shown]:
    """A timeline that follows a server."""
    scratch.run(SOURCE + FOLLOW)
    scratch.show("w")
    view = Shown(scratch)
    expect(view.main).to_be_visible()
    until(lambda: states(scratch) == ["shown"], PATIENCE_S)
    yield view
    scratch.run("server.stop()\nw.close()\nassert not w.ticker.running")


def states(lab: Lab) -> list[str]:
    """The states of the views that the kernel knows."""
    return sorted(lab.value("list(w.presence.views.values())"))


def test_server_is_followed_and_paused(followed: Shown, screenshots: Path) -> None:
    """Pause takes everything recorded so far; Follow goes on."""
    lab = followed.lab
    lab.run("run_clients(server, connections=2, requests=20, progress=False)\nserver.settle()")
    newest = [f"conn {n}" for n in range(61, 71)]
    until(lambda: followed.ask("v.records.lanes") == ["loop", *newest], PATIENCE_S)
    followed.root.screenshot(path=screenshots / "timeline-live.png")
    followed.root.get_by_role("button", name="Pause").click()
    followed.loaded()
    assert followed.ask("v.records.n") == lab.value("len(server.recording())")
    followed.root.get_by_role("button", name="Longest gap").click()
    expect(followed.says).to_contain_text("longest gap")
    followed.root.get_by_role("button", name="Follow").click()
    expect(followed.root.get_by_role("button", name="Pause")).to_be_visible()
    theme = "__import__('epolllab').plots.style.current().name"
    for name, word in ((DARK, "dark"), (LIGHT, "light")):
        lab.set_theme(name)
        until(lambda word=word: lab.value(theme) == word, 4.0)  # sooner than the next beat
    until(lambda: followed.ask("v.live && v.records.n > 0"), PATIENCE_S)


def test_hidden_out_of_view_and_closed(followed: Shown, chromium: "Browser") -> None:
    """The thread runs only while the timeline can be seen, in whichever tab."""
    lab, page = followed.lab, followed.page
    assert lab.value("w.ticker.running")
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(hide, True)
    until(lambda: states(lab) == ["hidden"], PATIENCE_S)
    assert not lab.value("w.ticker.running")
    page.evaluate(hide, False)
    until(lambda: states(lab) == ["shown"], PATIENCE_S)
    output = followed.root.locator("xpath=ancestor::*[contains(@class, 'jp-OutputArea-child')]")
    output.evaluate("element => { element.style.marginTop = '5000px'; }")
    until(lambda: states(lab) == ["out of view"], PATIENCE_S)
    assert not lab.value("w.ticker.running")
    output.evaluate("element => { element.style.marginTop = ''; }")
    until(lambda: lab.value("w.ticker.running"), PATIENCE_S)

    lab.page.evaluate("lab.save()")
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(TIMEOUT_MS)
    second = Lab(page, *lab.page.url.split("lab", 1)[:1], token_of(lab), lab.folder)
    second.open(SCRATCH)
    expect(Shown(second).main).to_be_visible()
    until(lambda: states(lab) == ["shown", "shown"], PATIENCE_S)
    page.close()
    # At the latest by its silence. Asking runs a cell, which does not count as silence.
    until(lambda: time.sleep(2) or states(lab) == ["shown"], PATIENCE_S)
    assert lab.value("w.ticker.running")


def token_of(lab: Lab) -> str:
    """The token in the address of a page."""
    return lab._address.rpartition("token=")[2]


def test_panel_is_shown_while_any_part_of_it_is(scratch: Lab) -> None:
    """A panel that is taller than the page ticks although its timeline is out of view."""
    scratch.show("w = widgets.dashboard()\nw")
    view = Shown(scratch)
    until(lambda: states(scratch) == ["shown"], PATIENCE_S)
    timeline = view.root.locator("xpath=ancestor::*[contains(@class, 'epl-timeline')]")
    timeline.evaluate("element => { element.style.marginTop = '5000px'; }")
    scratch.run("import time\ntime.sleep(0.5)")
    assert states(scratch) == ["shown"]
    scratch.run("w.close()")
