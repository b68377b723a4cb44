"""The widget notebooks as web pages, with and without the token."""

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
from epolllab.plots import style
from tests.browser.conftest import absent, page_of
from tests.browser.lab import HEIGHT, LEAST_TEXT, PHONE, SCRIPT, expect
from tests.wire import is_refused, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

DASHBOARD, STEPPER = voila.NOTEBOOKS
FAILURES = ("There was an error when executing cell", "Traceback", "Error displaying widget")


@pytest.fixture
def page(chromium: "Browser") -> Iterator["Page"]:
    """A visitor's page."""
    with page_of(chromium) as page:
        yield page


@pytest.fixture(scope="module")
def addresses(
    chromium: "Browser", tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Run the command; the addresses that it prints, by notebook."""
    if find_spec("voila") is None:
        absent("Voila is not installed here; it is an extra: pip install -e '.[app]'")
    command = [sys.executable, "-m", "epolllab", "serve"]
    folder = tmp_path_factory.mktemp("serve")
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            output = ""
            while "Interrupt" not in output:
                line = process.stdout.readline()
                assert line, f"epolllab serve ended with {process.wait()}; it printed: {output}"
                output += line
            found = re.findall(r"http://\S+", output)
            yield dict(zip(voila.NOTEBOOKS, found, strict=True))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def open_panel(page: "Page", address: str, name: str) -> "Locator":
    """Open a page, wait until its notebook has been executed, and return its panel."""
    page.goto(address, timeout=150_000)
    page.wait_for_function("document.querySelector('.jupyter-widgets')", timeout=150_000)
    text = page.locator("body").inner_text()
    assert [words for words in FAILURES if words in text] == []
    return page.locator(f".epl-{name}.epl").first


@pytest.mark.parametrize("name", voila.NOTEBOOKS)
def test_nothing_runs_without_the_token(name: str, addresses: dict[str, str]) -> None:
    """Without a token, or with a wrong one, no notebook is served."""
    plain = addresses[name].partition("?")[0]
    for address in (plain, f"{plain}?token={'0' * 48}"):
        status, url, text = fetch(address)
        assert status in (401, 403) or "/login" in url
        assert "jupyter-widgets" not in text


def fetch(address: str) -> tuple[int, str, str]:
    """Status, final address and text of a page."""
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            return response.status, response.url, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, address, error.read().decode()


def test_stepper_works_on_its_page(
    page: "Page", addresses: dict[str, str], screenshots: Path
) -> None:
    """Presses have the same effect as in JupyterLab."""
    panel = open_panel(page, addresses[STEPPER], "stepper")
    newest = panel.locator(".epl-history tr").nth(1).locator("td").first
    for step, (button, returned) in enumerate(
        (
            ("peer-writes", ["no wait", "no wait"]),
            ("wait", ["IN", "IN"]),
            ("wait", ["IN", "nothing"]),
        ),
        1,
    ):
        panel.locator(f"button.epl-{button}").click()
        expect(newest).to_have_text(str(step))
        assert panel.locator(".epl-side big").all_inner_texts() == returned
    panel.screenshot(path=screenshots / "voila-stepper.png")
    page.screenshot(path=screenshots / "voila-stepper-page.png", full_page=True)
    assert faults_on_a_phone(page, "stepper", screenshots) == []


def faults_on_a_phone(page: "Page", name: str, screenshots: Path) -> list[str]:
    """Faults of a panel's layout on a page as narrow as a phone; it stays so."""
    page.set_viewport_size({"width": PHONE, "height": HEIGHT})
    page.screenshot(path=screenshots / f"voila-{name}-phone.png", full_page=True)
    page.add_script_tag(path=SCRIPT)
    return page.evaluate(
        "([panel, least]) => lab.faults(panel, least)", [f".epl-{name}.epl", LEAST_TEXT]
    )


def test_a_page_has_the_theme_of_its_address(
    page: "Page", addresses: dict[str, str], screenshots: Path
) -> None:
    """``?theme=dark``: a dark ground, and the panel in the colours for it."""
    panel = open_panel(page, f"{addresses[STEPPER]}&theme=dark", "stepper")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    red, green, blue = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )[:3]
    assert max(red, green, blue) < 64
    variable = "element => getComputedStyle(element).getPropertyValue('--epl-edge').trim()"
    assert panel.evaluate(variable) == style.DARK.variants["edge"]
    page.screenshot(path=screenshots / "voila-stepper-dark.png", full_page=True)


def test_dashboard_works_on_its_page(
    page: "Page", addresses: dict[str, str], screenshots: Path
) -> None:
    """A server and clients are started and stopped from the page."""
    panel = open_panel(page, addresses[DASHBOARD], "dashboard")
    state = panel.locator(".epl-state").first
    panel.locator("button.epl-start-server").click()
    expect(state).to_contain_text("running at")
    panel.locator("button.epl-start-clients").click()
    requests = panel.locator(".epl-number[title='since the server started'] b")
    expect(requests).not_to_have_text("0")
    before = requests.inner_text()
    expect(requests).not_to_have_text(before)
    panel.screenshot(path=screenshots / "voila-dashboard.png")
    assert faults_on_a_phone(page, "dashboard", screenshots) == []
    panel.locator("button.epl-stop-server").click()
    expect(state).to_contain_text("stopped")


def test_closed_page_leaves_nothing_running(chromium: "Browser", addresses: dict[str, str]) -> None:
    """Its server and its kernel are stopped; those of an open page are not."""
    with page_of(chromium) as page:
        panel = open_panel(page, addresses[DASHBOARD], "dashboard")
        panel.locator("button.epl-start-server").click()
        state = panel.locator(".epl-state").first
        expect(state).to_contain_text("running at")
        port = int(re.search(r":(\d+)", state.inner_text())[1])
        page.wait_for_timeout(1000 * (voila.IDLE_S + 10))
        assert not is_refused(("127.0.0.1", port))
    until(lambda: is_refused(("127.0.0.1", port)), 3 * voila.IDLE_S)
