"""The dashboard in JupyterLab: its buttons, its errors, and what a closed tab leaves."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from tests.browser.conftest import SCRATCH
from tests.browser.lab import Lab, expect
from tests.kernels import run_cell
from tests.wire import until

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

PATIENCE_S = 60.0

AWAIT_TICKS = """
import time
before, deadline = dash.ticker.n_ticks, time.monotonic() + 30
while dash.ticker.n_ticks < before + {times} and time.monotonic() < deadline:
    time.sleep(0.01)
assert dash.ticker.n_ticks >= before + {times}, 'it does not tick'
"""

DIE = """
class Deadly(epolllab.Session):
    def receive(self, data):
        raise KeyboardInterrupt("from within the loop")
server = epolllab.start_server(protocol=Deadly)
dash.live.server = server
peer = epolllab.script().send(b'x').expect_end()
epolllab.run_clients(server, script=peer, connections=1, progress=False)
"""

THREADS = "[t.name for t in __import__('threading').enumerate() if 'epolllab' in t.name]"


class Board:
    """The dashboard on the page."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.panel = lab, lab.widget("dashboard")
        self.state = self.panel.locator(".epl-state").first

    def button(self, name: str) -> "Locator":
        """The button of this name."""
        return self.panel.locator(f"button.epl-{name}")

    def choose(self, name: str, value: str) -> None:
        """Choose from a drop-down list."""
        self.panel.locator(f".epl-{name} select").select_option(value)

    def height(self) -> int:
        """Height of the panel in pixels."""
        return round(self.panel.bounding_box()["height"])

    def start_server(self) -> None:
        """Press the button and wait until the page shows the server."""
        self.button("start-server").click()
        expect(self.state).to_contain_text("running at")

    def number(self, hint: str) -> int:
        """The number whose hint begins so; 0 while it is unknown."""
        text = self.panel.locator(f".epl-number[title^='{hint}'] b").inner_text()
        return int(re.sub(r"\D", "", text) or 0)

    def until_above(self, hint: str, least: int) -> int:
        """Wait until a number is above `least`, and return it."""
        for _ in range(300):
            if (number := self.number(hint)) > least:
                return number
            self.await_ticks()
        pytest.fail(f"{hint}: {number}")

    def await_views(self, *states: str) -> None:
        """Wait until views with these states have been heard of; between cells."""
        views = "sorted(dash.presence.views.values())"
        until(lambda: self.lab.value(views) == sorted(states), PATIENCE_S)

    def await_ticks(self, times: int = 1) -> None:
        """Wait for ticks of the display; the kernel must be free for the page's messages."""
        before = self.lab.value("dash.ticker.n_ticks")
        until(lambda: self.lab.value("dash.ticker.n_ticks") >= before + times, PATIENCE_S)


@pytest.fixture
def board(scratch: Lab) -> Iterator[Board]:
    """A dashboard without a server on the page; closing it must leave nothing."""
    scratch.show("dash = widgets.dashboard()\ndash")
    yield Board(scratch)
    scratch.run("dash.close()")
    assert scratch.value(THREADS) == []
    assert scratch.value("len(epolllab.servers())") == 0


def test_numbers_move_while_clients_run(board: Board, screenshots: Path) -> None:
    """After the stop they stand still in grey; the panel has the same height all along."""
    heights = [board.height()]
    board.start_server()
    heights.append(board.height())
    board.button("start-clients").click()
    first = board.until_above("since the server started", 0)
    board.until_above("since the server started", first)
    board.until_above("responses sent per second", 0)
    expect(board.panel.locator(".epl-timeline .epl-tl-legend")).to_contain_text("send")
    expect(board.panel.locator(".epl-interest table")).to_be_visible()
    expect(board.panel.locator(".epl-cost")).to_contain_text("of a core")
    expect(board.panel.locator(".epl-clients")).to_contain_text("round 1")
    heights.append(board.height())
    board.choose("window", "1 ms")
    until(lambda: board.lab.value("dash.timeline.window_ns") == 1e6, PATIENCE_S)
    board.lab.screenshots("dashboard", screenshots)

    board.button("stop-server").click()
    expect(board.state).to_contain_text("stopped")
    expect(board.button("start-clients")).to_be_disabled()
    board.lab.run("dash.load.join()")
    board.await_ticks(2)
    numbers = board.panel.locator(".epl-numbers").first
    expect(numbers.locator(".epl-stale")).to_be_visible()
    before = numbers.inner_text()
    assert board.number("since the server started") > first
    board.await_ticks(5)
    assert numbers.inner_text() == before
    assert {*heights, board.height()} == {heights[0]}


def test_controls_on_the_page_are_the_options_of_the_server(board: Board) -> None:
    """Lists and a slider reach the kernel; what waits for the next start is marked."""
    board.choose("poller", "poll")
    board.choose("lifecycle", "howto")
    slider = board.panel.locator(".epl-connections")
    before = board.lab.value("dash.controls['connections'].value")
    slider.locator(".noUi-handle").press("ArrowRight")
    expect(slider.locator(".widget-readout")).to_have_text(str(before + 1))
    assert board.lab.value("dash.controls['connections'].value") == before + 1
    board.start_server()
    assert board.lab.value("dash.live.server.options.poller") == "poll"
    assert board.lab.value("dash.live.server.options.lifecycle") == "howto"
    board.choose("lifecycle", "eager")
    expect(board.panel.locator(".epl-pending")).to_have_text(re.compile("life cycle"))
    expect(board.panel.locator(".epl-server-note").first).to_contain_text("next Start server")
    assert board.lab.faults("dashboard") == []
    if "io_uring" in board.lab.value("dash.controls['poller'].options"):
        trigger = board.panel.get_by_role("combobox", name="trigger")
        expect(trigger).to_have_attribute("title", re.compile("^When epoll reports"))
        board.choose("poller", "io_uring")
        expect(trigger).to_be_disabled()
        expect(trigger).to_have_attribute("title", re.compile("no meaning with io_uring"))


def test_dashboard_works_by_keyboard(board: Board) -> None:
    """Tab moves in the order of the page while it is redrawn; an impossible rate is said."""
    keyboard = board.lab.page.keyboard
    board.button("start-server").focus()
    keyboard.press("Space")
    expect(board.state).to_contain_text("running at")
    visited = [board.lab.focused()]
    while visited[-1] != "loop":
        keyboard.press("Tab")
        visited.append(board.lab.focused())
        assert len(visited) < 20, visited
    assert visited == [
        "start-server", "stop-server", "poller", "trigger", "lifecycle", "protocol", "drain",
        "recv-size", "process", "start-clients", "connections", "connections", "loop",
    ]  # fmt: skip
    keyboard.press("o")  # the option that begins so: open
    expect(board.panel.get_by_role("spinbutton", name="requests/s")).to_be_enabled()
    keyboard.press("Tab")
    keyboard.press("Control+a")
    keyboard.type("500000")
    for _ in range(4):
        keyboard.press("Shift+Tab")
    assert board.lab.focused() == "start-clients"
    keyboard.press("Space")
    warning = board.panel.locator(".epl-clients .epl-warn").first
    expect(warning).to_contain_text(re.compile("reache[sd] [0-9,]+ of 500,000 requests/s"))


def test_restarted_kernel_is_said(scratch: Lab, screenshots: Path) -> None:
    """In place of controls that do nothing; the sentence goes when the cell is run again."""
    source = "dash = widgets.dashboard()\ndash"
    scratch.show(source)
    gone = scratch.widget("dashboard").get_by_role("alert").filter(has_text="The kernel behind")
    expect(scratch.widget("dashboard")).to_be_visible()
    expect(gone).to_be_hidden()
    scratch.restart()
    expect(gone).to_be_visible()
    scratch.widget("dashboard").screenshot(path=screenshots / "dashboard-gone.png")
    scratch.show(f"import epolllab\nfrom epolllab import widgets\n{source}")
    expect(scratch.widget("dashboard")).to_be_visible()
    expect(gone).to_be_hidden()
    scratch.run("dash.close()")


def test_contradictory_options_are_shown_in_red(board: Board, screenshots: Path) -> None:
    """There is no edge triggering with poll; the error disappears with the next press."""
    board.choose("poller", "poll")
    board.choose("trigger", "edge")
    board.button("start-server").click()
    error = board.panel.locator(".epl-error .epl-alarm")
    expect(error).to_contain_text("poll")
    assert _is_red(error)
    board.lab.screenshots("dashboard", screenshots / "refused")
    board.choose("trigger", "level")
    board.button("start-server").click()
    expect(error).to_have_count(0)


def test_server_that_died_is_shown_with_its_traceback(board: Board, screenshots: Path) -> None:
    """The page shows the error for as long as it shows that server."""
    board.lab.run(DIE)
    error = board.panel.locator(".epl-state .epl-alarm").last
    expect(error).to_contain_text("from within the loop")
    expect(error.locator("pre")).to_contain_text("Traceback")
    assert _is_red(error)
    board.lab.screenshots("dashboard", screenshots / "died")
    stop = "try:\n    server.stop()\nexcept epolllab.ServerDied as error:\n    print('died')"
    assert board.lab.run(stop) == "died"


def _is_red(element: "Locator") -> bool:
    color = element.evaluate("element => getComputedStyle(element).color")
    red, green, blue = (int(part) for part in color[4:-1].split(",")[:3])
    return red > 1.5 * green and red > 1.5 * blue


def test_dashboard_ticks_only_while_a_page_shows_it(board: Board) -> None:
    """Two views share one thread, which ends with the last of them."""
    board.await_views("shown")
    board.await_ticks()
    board.lab.show("from IPython.display import display\ndisplay(dash, dash)")
    board.lab.page.wait_for_function(
        "document.querySelectorAll('.jp-OutputArea .epl-dashboard.epl').length === 2"
    )
    board.await_views("shown", "shown")
    board.await_ticks()
    assert board.lab.value(THREADS) == ["epolllab-ticker"]
    board.lab.show("pass")
    until(lambda: not board.lab.value("dash.ticking"), PATIENCE_S)
    assert board.lab.value(THREADS) == []


@pytest.fixture
def terminal(board: Board) -> Iterator[Callable[[str], str]]:
    """Print an expression in the board's kernel without a page, like ``jupyter console``."""
    file = board.lab.value("__import__('ipykernel').get_connection_file()")
    client = BlockingKernelClient(connection_file=file)
    client.load_connection_file()
    client.start_channels()
    try:
        yield lambda expression: run_cell(client, f"print({expression})").strip()
    finally:
        client.stop_channels()


def test_closed_tab_leaves_nothing_running(board: Board, terminal: Callable[[str], str]) -> None:
    """The thread ends, then the server; a page that comes back makes it tick again."""
    board.start_server()
    board.await_views("shown")
    board.lab.run("dash.unseen_s = 1.0")
    board.lab.leave()
    left = f"(dash.ticking, epolllab.servers(), {THREADS})"
    # Seldom: while a cell runs, a view's silence does not count.
    until(lambda: time.sleep(3) or terminal(left) == "(False, [], [])", PATIENCE_S)

    board.lab.enter()
    board.lab.open(SCRATCH)
    expect(board.state).to_contain_text("no page showed this")
    board.await_ticks(3)
    board.start_server()
    board.lab.show("pass")
    until(lambda: not board.lab.value("dash.ticking"), PATIENCE_S)


def test_reloaded_page_keeps_ticking(board: Board) -> None:
    """The view of the page before has said that it is closed."""
    board.await_views("shown")
    (before,) = board.lab.value("list(dash.presence.views)")
    board.lab.leave()
    board.lab.enter()
    board.lab.open(SCRATCH)
    board.await_views("shown")
    board.await_ticks()
    assert board.lab.value("list(dash.presence.views)") != [before]


def test_display_ticks_while_a_cell_runs(board: Board) -> None:
    """Also when the cell delays what the page says beyond the patience for it."""
    board.await_views("shown")
    board.lab.run("dash.presence.patience = dict.fromkeys(dash.presence.patience, 1.0)")
    sleep = "import time\ntime.sleep(3)\nassert dash.ticking\n"
    board.lab.run(sleep + AWAIT_TICKS.format(times=1))
    board.lab.run("dash.presence.patience = dict.fromkeys(dash.presence.patience, 60.0)")
