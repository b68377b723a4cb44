"""The stepper in JupyterLab, by mouse and by keyboard."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.lab import Lab, expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

COLUMNS = ("step", "level", "edge", "readable", "level_ready", "edge_ready")
"""Columns of the history that the page shows."""


class Stepper:
    """The stepper on the page."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.panel = lab, lab.widget("stepper")
        self.n_steps = 0

    def button(self, name: str) -> "Locator":
        """The button of this name."""
        return self.panel.locator(f"button.epl-{name}")

    def press(self, *names: str) -> None:
        """Press buttons one after the other; wait until the page shows each step."""
        for name in names:
            self.button(name).click()
            self.await_step()

    def await_step(self) -> None:
        """Wait until the page shows one more step."""
        self.n_steps += 1
        newest = self.panel.locator(".epl-history tr").nth(1).locator("td").first
        expect(newest).to_have_text(str(self.n_steps))

    def returned(self) -> tuple[str, str]:
        """What level and edge returned, as the page shows it."""
        level, edge = self.panel.locator(".epl-side big").all_inner_texts()
        return level, edge

    def table(self) -> list[list[str]]:
        """The history on the page, the oldest row first, without the actions."""
        rows = self.panel.locator(".epl-history tr").all()[1:]
        cells = [row.locator("td").all_inner_texts() for row in reversed(rows)]
        return [[row[0], *row[2:]] for row in cells]

    def history(self) -> list[list[str]]:
        """The same from the kernel's frame, formatted as on the page."""
        found = self.lab.value("json.loads(stepper.steps.history().to_json(orient='records'))")
        return [_formatted(*(row[name] for name in COLUMNS)) for row in found]


def _formatted(
    step: int, level: str | None, edge: str | None, readable: int, *ready: bool
) -> list[str]:
    masks = ["" if mask is None else mask or "nothing" for mask in (level, edge)]
    names = " ".join(
        trigger for trigger, is_ready in zip(("level", "edge"), ready, strict=True) if is_ready
    )
    return [str(step), *masks, f"{readable:,}", names]


@pytest.fixture
def stepper(scratch: Lab) -> Iterator[Stepper]:
    """A stepper on the page."""
    scratch.show("stepper = widgets.stepper()\nstepper")
    yield Stepper(scratch)
    scratch.run("stepper.close()")


def test_page_shows_what_level_and_edge_return(stepper: Stepper, screenshots: Path) -> None:
    """Level reports at each wait, edge once per event; the table is the kernel's frame."""
    stepper.press("peer-writes", "wait")
    assert stepper.returned() == ("IN", "IN")
    stepper.press("wait")
    assert stepper.returned() == ("IN", "nothing")
    stepper.press("recv", "wait")
    assert stepper.returned() == ("IN", "nothing")
    stepper.press("modify", "wait")
    assert stepper.returned() == ("IN", "IN")
    stepper.press("peer-half-closes", "wait")
    assert stepper.returned() == ("IN|RDHUP", "IN|RDHUP")
    assert stepper.table() == stepper.history()
    expect(stepper.panel.locator(".epl-chart svg")).to_contain_text("bytes in the buffer")
    stepper.lab.screenshots("stepper", screenshots)


def test_page_shows_the_models_explanation(stepper: Stepper) -> None:
    """It is the text of the history's last row, in an element that screen readers watch."""
    stepper.press("peer-writes", "wait", "wait", "drain", "wait")
    why = stepper.lab.value("stepper.steps.last.why")
    status = stepper.panel.get_by_role("status").filter(has_text=why)
    expect(status).to_have_attribute("aria-live", "polite")


def test_stepper_works_by_keyboard(stepper: Stepper, screenshots: Path) -> None:
    """Tab moves through the controls in the order of the page; Space presses."""
    keyboard = stepper.lab.page.keyboard
    stepper.button("peer-writes").focus()
    keyboard.press("Space")
    stepper.await_step()
    visited = [stepper.lab.focused()]
    while visited[-1] != "wait":
        keyboard.press("Tab")
        visited.append(stepper.lab.focused())
        assert len(visited) < 10, visited
    assert visited == ["peer-writes", "write-bytes", "peer-half-closes", "peer-resets", "wait"]
    stepper.panel.screenshot(path=screenshots / "stepper-keyboard.png")
    for expected in (("IN", "IN"), ("IN", "nothing")):
        keyboard.press("Space")
        stepper.await_step()
        assert stepper.returned() == expected
    assert stepper.table() == stepper.history()


def test_numbers_and_interest_on_the_page_reach_the_kernel(stepper: Stepper) -> None:
    """A number is typed and an interest chosen."""
    stepper.panel.get_by_role("spinbutton", name="bytes that the peer writes").fill("1234")
    stepper.press("peer-writes")
    stepper.panel.locator(".epl-interest select").select_option("IN|OUT|RDHUP")
    stepper.press("modify", "wait")
    assert stepper.returned() == ("IN|OUT", "IN|OUT")
    interest = stepper.lab.value("stepper.steps.last.edge_interest")
    expect(stepper.panel.locator(".epl-side code").nth(1)).to_have_text(interest)
    assert stepper.lab.value("stepper.steps.last.readable") == 1234


def test_buttons_of_impossible_steps_are_disabled(stepper: Stepper) -> None:
    """After a reset the peer's buttons are; starting over enables them."""
    stepper.press("peer-writes", "peer-resets", "wait")
    assert stepper.returned()[0] == "IN|ERR|HUP|RDHUP"
    for name in ("peer-writes", "peer-half-closes", "peer-resets"):
        expect(stepper.button(name)).to_be_disabled()
    stepper.n_steps = -1
    stepper.press("start-over")
    expect(stepper.button("peer-writes")).to_be_enabled()
