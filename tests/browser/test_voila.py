"""The widget notebooks as web pages: nobody without the token; with it, widgets that work."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from epolllab.notebook import voila
from tests.browser.conftest import CHECKOUT, absent, page_of
from tests.wire import is_refused, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

FAULTS = ("There was an error when executing cell", "Traceback", "Error displaying widget")


@pytest.fixture
def page(chromium: "Browser") -> Iterator["Page"]:
    """A visitor's page."""
    with page_of(chromium) as page:
        yield page


@pytest.fixture(scope="module")
def addresses(chromium: "Browser") -> Iterator[dict[str, str]]:
    """The command as a user runs it; the addresses it says, by notebook."""
    if find_spec("voila") is None:
        absent("Voila is not installed here; it is an extra: pip install -e '.[app]'")
    command = [sys.executable, "-m", "epolllab", "serve"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "Interrupt" not in said:
                line = process.stdout.readline()
                assert line, f"epolllab serve ended with {process.wait()}; it said: {said}"
                said += line
            found = re.findall(r"http://\S+", said)
            yield dict(zip(voila.NOTEBOOKS, found, strict=True))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def opened(page: "Page", address: str) -> None:
    """Open a page and wait until its notebook has been executed."""
    page.goto(address, timeout=150_000)
    page.wait_for_function("document.querySelector('.jupyter-widgets')", timeout=150_000)
    text = page.locator("body").inner_text()
    assert [words for words in FAULTS if words in text] == []


@pytest.mark.parametrize("name", voila.NOTEBOOKS)
def test_page_without_the_token_runs_nothing(name: str, addresses: dict[str, str]) -> None:
    """Asked without a token, or with a wrong one, the server gives no page of ours."""
    plain = addresses[name].partition("?")[0]
    for address in (plain, f"{plain}?token={'0' * 48}"):
        status, url, text = asked(address)
        assert status in (401, 403) or "/login" in url
        assert "jupyter-widgets" not in text


def asked(address: str) -> tuple[int, str, str]:
    """Ask for a page without a browser: status, where it ended up, and what it is."""
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status, answer.url, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, address, error.read().decode()


def test_stepper_works_on_its_page(
    page: "Page", addresses: dict[str, str], screenshots: Path
) -> None:
    """With the token, presses are answered as in JupyterLab."""
    from playwright.sync_api import expect

    opened(page, addresses["15-step-through-edge-and-level.ipynb"])
    panel = page.locator(".epl-stepper.epl").first
    newest = panel.locator(".epl-history tr").nth(1).locator("td").first
    for step, (press, told) in enumerate(
        (
            ("peer-writes", ["not asked", "not asked"]),
            ("wait", ["IN", "IN"]),
            ("wait", ["IN", "nothing"]),
        ),
        1,
    ):
        panel.locator(f"button.epl-{press}").click()
        expect(newest).to_have_text(str(step))
        assert panel.locator(".epl-side big").all_inner_texts() == told
    panel.screenshot(path=screenshots / "voila-stepper.png")
    page.screenshot(path=screenshots / "voila-stepper-page.png", full_page=True)


def test_dashboard_works_on_its_page(
    page: "Page", addresses: dict[str, str], screenshots: Path
) -> None:
    """With the token, a server is started, asked, and stopped from the page."""
    from playwright.sync_api import expect

    opened(page, addresses["14-drive-the-dashboard.ipynb"])
    panel = page.locator(".epl-dashboard.epl").first
    panel.locator("button.epl-start").click()
    expect(panel.locator(".epl-state").first).to_contain_text("running at")
    panel.locator("button.epl-fire").click()
    answered = panel.locator(".epl-number[title='since the server began'] b")
    expect(answered).not_to_have_text("0")
    now = answered.inner_text()
    expect(answered).not_to_have_text(now)
    panel.screenshot(path=screenshots / "voila-dashboard.png")
    panel.locator("button.epl-stop").click()
    expect(panel.locator(".epl-state").first).to_contain_text("stopped")


def test_page_that_is_closed_leaves_nothing_running(
    chromium: "Browser", addresses: dict[str, str]
) -> None:
    """Neither the page's server nor its kernel; a page that is open keeps both."""
    from playwright.sync_api import expect

    with page_of(chromium) as page:
        opened(page, addresses["14-drive-the-dashboard.ipynb"])
        panel = page.locator(".epl-dashboard.epl").first
        panel.locator("button.epl-start").click()
        state = panel.locator(".epl-state").first
        expect(state).to_contain_text("running at")
        port = int(re.search(r":(\d+)", state.inner_text())[1])
        page.wait_for_timeout(1000 * (voila.IDLE_S + 10))  # that an open page is left alone
        assert not is_refused(("127.0.0.1", port))
    until(lambda: is_refused(("127.0.0.1", port)), 3 * voila.IDLE_S)
