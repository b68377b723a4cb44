"""The dashboard in JupyterLab: start, fire, watch, stop; and what goes wrong, in red."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from tests.browser.conftest import SCRATCH
from tests.browser.lab import Lab
from tests.kernels import run_cell
from tests.wire import until

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

PATIENCE_S = 60.0

DEADLY = """
class Deadly(epolllab.Session):
    def receive(self, data):
        raise KeyboardInterrupt("from within the loop")
"""


class Board:
    """The dashboard on the page, by its controls and numbers."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.panel = lab, lab.widget("dashboard")

    def button(self, name: str) -> "Locator":
        """The button of this name."""
        return self.panel.locator(f"button.epl-{name}")

    def choose(self, name: str, value: str) -> None:
        """Choose in a list of the page."""
        self.panel.locator(f".epl-{name} select").select_option(value)

    def number(self, hint: str) -> "Locator":
        """The number whose hint begins so."""
        return self.panel.locator(f".epl-number[title^='{hint}'] b")

    def until(self, what: str, holds: Callable[[str], bool]) -> str:
        """Wait until a number on the page is as said; what it is then."""
        number = self.number(what)
        for _ in range(300):  # each awaits one more tick
            if holds(text := number.inner_text()):
                return text
            self.ticked()
        pytest.fail(f"{what}: {number.inner_text()}")

    def beaten(self) -> None:
        """Wait for the page's first beat; between cells, since a cell may keep it waiting."""
        until(lambda: self.lab.value("dash._presence._beaten"), PATIENCE_S)

    def ticked(self, times: int = 1) -> None:
        """Wait for so many ticks of the display, in the kernel."""
        self.lab.ask(
            "import time\n"
            f"before, deadline = dash._ticker.n_ticks, time.monotonic() + 30\n"
            f"while dash._ticker.n_ticks < before + {times} and time.monotonic() < deadline:\n"
            "    time.sleep(0.01)\n"
            f"assert dash._ticker.n_ticks >= before + {times}, 'it does not tick'"
        )


@pytest.fixture
def board(scratch: Lab) -> Iterator[Board]:
    """A dashboard without a server on the page; closed at the end, with nothing left."""
    scratch.show("dash = widgets.dashboard()\ndash")
    yield Board(scratch)
    scratch.ask("dash.close()")
    names = "[t.name for t in __import__('threading').enumerate() if 'epolllab' in t.name]"
    assert scratch.value(names) == []
    assert scratch.value("len(epolllab.servers())") == 0


def test_numbers_move_from_start_to_stop_and_then_stand_still(
    board: Board, screenshots: Path
) -> None:
    """Start, fire: requests are counted, ten times a second; cease, stop: no longer."""
    from playwright.sync_api import expect

    state = board.panel.locator(".epl-state")
    board.button("start").click()
    expect(state).to_contain_text("running at")
    board.button("fire").click()
    first = board.until("since the server began", lambda text: _int(text) > 0)
    second = board.until("since the server began", lambda text: _int(text) > _int(first))
    assert _int(second) > _int(first)
    board.until("requests answered a second", lambda text: _int(text) > 0)
    expect(board.panel.locator(".epl-timeline svg path.f-send")).not_to_have_count(0)
    expect(board.panel.locator(".epl-interest table")).to_be_visible()
    expect(board.panel.locator(".epl-cost")).to_contain_text("of a core")
    expect(board.panel.locator(".epl-clients")).to_contain_text("round 1")
    board.choose("window", "1 ms")
    expect(board.panel.locator(".epl-timeline svg")).to_contain_text("1 ms")
    board.lab.pictures("dashboard", screenshots)

    board.button("stop").click()
    expect(state).to_contain_text("stopped")
    expect(board.button("fire")).to_be_disabled()
    board.lab.ask("dash.load.join()")
    board.ticked(2)
    before = board.panel.locator(".epl-numbers").first.inner_text()
    board.ticked(5)
    assert board.panel.locator(".epl-numbers").first.inner_text() == before


def _int(text: str) -> int:
    digits = text.replace(",", "")
    return int(digits) if digits.isdigit() else 0


def test_what_is_set_on_the_page_is_what_the_server_is(board: Board) -> None:
    """Options chosen and a slider moved reach the kernel, and the server that is started."""
    from playwright.sync_api import expect

    board.choose("poller", "poll")
    board.choose("lifecycle", "howto")
    slider = board.panel.locator(".epl-connections")
    before = board.lab.value("dash.controls['connections'].value")
    slider.locator(".noUi-handle").press("ArrowRight")
    expect(slider.locator(".widget-readout")).to_have_text(str(before + 1))
    assert board.lab.value("dash.controls['connections'].value") == before + 1
    board.button("start").click()
    expect(board.panel.locator(".epl-state").first).to_contain_text("running at")
    assert board.lab.value("dash.live.server.options.poller") == "poll"
    assert board.lab.value("dash.live.server.options.lifecycle") == "howto"


def test_wish_that_cannot_be_is_said_in_red(board: Board, screenshots: Path) -> None:
    """With poll there are no edges: pressing start says so on the page, in the colour of alarm."""
    from playwright.sync_api import expect

    board.choose("poller", "poll")
    board.choose("trigger", "edge")
    board.button("start").click()
    alarm = board.panel.locator(".epl-error .epl-alarm")
    expect(alarm).to_contain_text("poll")
    assert _is_red(alarm)
    board.lab.pictures("dashboard", screenshots / "refused")
    board.choose("trigger", "level")
    board.button("start").click()
    expect(alarm).to_have_count(0)


def test_server_that_died_is_red_with_its_traceback(board: Board, screenshots: Path) -> None:
    """What ended the loop is on the page, for as long as that server is."""
    from playwright.sync_api import expect

    board.lab.ask(
        f"{DEADLY}\nserver = epolllab.start_server(protocol=Deadly)\n"
        "dash.live.server = server\n"
        "peer = epolllab.script().send(b'x').expect_end()\n"
        "epolllab.run_clients(server, script=peer, connections=1, progress=False)"
    )
    alarm = board.panel.locator(".epl-state .epl-alarm")
    expect(alarm.last).to_contain_text("from within the loop")
    expect(alarm.last.locator("pre")).to_contain_text("Traceback")
    assert _is_red(alarm.last)
    board.lab.pictures("dashboard", screenshots / "died")
    ended = "try:\n    server.stop()\nexcept epolllab.ServerDied as error:\n    print('died')"
    assert board.lab.ask(ended) == "died"


def _is_red(alarm: "Locator") -> bool:
    color = alarm.evaluate("element => getComputedStyle(element).color")
    red, green, blue = (int(part) for part in color[4:-1].split(",")[:3])
    return red > 1.5 * green and red > 1.5 * blue


def test_it_ticks_only_while_a_page_shows_it(board: Board) -> None:
    """Two views tick once; when the last has gone, so has the thread."""
    board.ticked()
    board.lab.show("from IPython.display import display\ndisplay(dash, dash)")
    board.lab.page.wait_for_function(
        "document.querySelectorAll('.jp-OutputArea .epl-dashboard.epl').length === 2"
    )
    threads = "sum('ticker' in t.name for t in __import__('threading').enumerate())"
    board.ticked()
    assert board.lab.value(threads) == 1
    board.lab.show("pass")
    until(lambda: not board.lab.value("dash.ticking"), PATIENCE_S)
    assert board.lab.value(threads) == 0


@pytest.fixture
def terminal(board: Board) -> Iterator[Callable[[str], str]]:
    """Ask the board's kernel without any page, as ``jupyter console`` does."""
    file = board.lab.value("__import__('ipykernel').get_connection_file()")
    client = BlockingKernelClient(connection_file=file)
    client.load_connection_file()
    client.start_channels()
    try:
        yield lambda expression: run_cell(client, f"import threading\nprint({expression})").strip()
    finally:
        client.stop_channels()


def test_tab_that_is_closed_leaves_nothing_running(
    board: Board, terminal: Callable[[str], str]
) -> None:
    """The thread ends, then the server; who comes back sees it tick, and then one view go."""
    from playwright.sync_api import expect

    board.button("start").click()
    expect(board.panel.locator(".epl-state").first).to_contain_text("running at")
    board.beaten()
    board.lab.ask("dash.unseen_s = 1.0")
    board.lab.leave()
    # Asked seldom: while a cell runs, a page's silence means nothing.
    left = (
        "dash.ticking, epolllab.servers(), [t for t in threading.enumerate() if 'epoll' in t.name]"
    )
    until(lambda: time.sleep(8) or terminal(f"({left})") == "(False, [], [])", PATIENCE_S)

    board.lab.enter()
    board.lab.open(SCRATCH)
    expect(board.panel.locator(".epl-state").first).to_contain_text("no page showed this")
    board.ticked(3)
    board.button("start").click()
    expect(board.panel.locator(".epl-state").first).to_contain_text("running at")
    board.lab.show("pass")
    until(lambda: not board.lab.value("dash.ticking"), PATIENCE_S)


def test_page_that_is_loaded_again_goes_on_ticking(board: Board) -> None:
    """Also without a silence between: what counts is the page that is there now."""
    silence = board.lab.value("dash._presence.silence")
    board.beaten()
    board.lab.leave()
    board.lab.enter()
    board.lab.open(SCRATCH)
    board.ticked()
    board.lab.page.wait_for_timeout(1_000 * (silence + 3))  # in which no cell runs
    assert board.lab.value("dash.ticking")
    board.ticked()


def test_display_goes_on_while_a_cell_runs(board: Board) -> None:
    """Also when the cell keeps the page's beats waiting for longer than a silence."""
    board.beaten()
    silence = board.lab.value("dash._presence.silence")
    board.lab.ask(
        "import time\n"
        f"time.sleep({silence} + 2)\n"
        "assert dash.ticking\n"
        "shown, deadline = dash._ticker.n_ticks, time.monotonic() + 30\n"
        "while dash._ticker.n_ticks == shown and time.monotonic() < deadline:\n"
        "    time.sleep(0.01)\n"
        "assert dash._ticker.n_ticks > shown"
    )
