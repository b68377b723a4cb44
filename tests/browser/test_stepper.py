"""The stepper in JupyterLab: presses by mouse and by keyboard, and what the page answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.lab import Lab

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

KEPT = ("step", "level", "edge", "readable", "level_ready", "edge_ready")
"""Columns of the history that its table on the page shows."""


class Hand:
    """A hand on the stepper's page: it presses, and reads what is there then."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.panel = lab, lab.widget("stepper")
        self.n_steps = 0

    def button(self, name: str) -> "Locator":
        """The button of this name."""
        return self.panel.locator(f"button.epl-{name}")

    def press(self, *names: str) -> None:
        """Press buttons, one after the other; each has been answered at return."""
        for name in names:
            self.button(name).click()
            self.answered()

    def answered(self) -> None:
        """Wait until the page shows one more step."""
        from playwright.sync_api import expect

        self.n_steps += 1
        newest = self.panel.locator(".epl-history tr").nth(1).locator("td").first
        expect(newest).to_have_text(str(self.n_steps))

    def returned(self) -> tuple[str, str]:
        """What the page says that level and edge have returned."""
        level, edge = self.panel.locator(".epl-side big").all_inner_texts()
        return level, edge

    def table(self) -> list[list[str]]:
        """The page's history, the oldest first, without what was done."""
        rows = self.panel.locator(".epl-history tr").all()[1:]
        cells = [row.locator("td").all_inner_texts() for row in reversed(rows)]
        return [[row[0], *row[2:]] for row in cells]

    def history(self) -> list[list[str]]:
        """The same rows as the page should have them, from the kernel's own frame."""
        found = self.lab.value("json.loads(stepper.steps.history().to_json(orient='records'))")
        return [_as_shown(*(row[name] for name in KEPT)) for row in found]


def _as_shown(
    step: int, level: str | None, edge: str | None, readable: int, *ready: bool
) -> list[str]:
    def told(mask: str | None) -> str:
        return "" if mask is None else mask or "nothing"

    names = " ".join(
        arm for arm, is_ready in zip(("level", "edge"), ready, strict=True) if is_ready
    )
    return [str(step), told(level), told(edge), f"{readable:,}", names]


@pytest.fixture
def hand(scratch: Lab) -> Iterator[Hand]:
    """A stepper on the page."""
    scratch.show("stepper = widgets.stepper()\nstepper")
    yield Hand(scratch)
    scratch.ask("stepper.close()")


def test_page_tells_level_from_edge_and_agrees_with_the_kernel(
    hand: Hand, screenshots: Path
) -> None:
    """Level repeats, edge tells once and again on news; the table is the kernel's frame."""
    hand.press("peer-writes", "wait")
    assert hand.returned() == ("IN", "IN")
    hand.press("wait")
    assert hand.returned() == ("IN", "nothing")
    hand.press("recv", "wait")
    assert hand.returned() == ("IN", "nothing")
    hand.press("modify", "wait")
    assert hand.returned() == ("IN", "IN")
    hand.press("peer-half-closes", "wait")
    assert hand.returned() == ("IN|RDHUP", "IN|RDHUP")
    assert hand.table() == hand.history()
    hand.lab.pictures("stepper", screenshots)


def test_every_word_of_why_is_the_models(hand: Hand) -> None:
    """The sentence on the page is the one that the last row of the history has."""
    hand.press("peer-writes", "wait", "wait", "drain", "wait")
    why = hand.lab.value("stepper.steps.last.why")
    assert why in hand.panel.locator(".epl-why").first.inner_text()


def test_stepper_works_by_keyboard(hand: Hand, screenshots: Path) -> None:
    """Tab goes from control to control in the order of the page; the space bar presses."""
    keyboard = hand.lab.page.keyboard
    hand.button("peer-writes").focus()
    keyboard.press("Space")
    hand.answered()
    visited = [_focused(hand)]
    while visited[-1] != "wait":
        keyboard.press("Tab")
        visited.append(_focused(hand))
        assert len(visited) < 10, visited
    assert visited == ["peer-writes", "write-bytes", "peer-half-closes", "peer-resets", "wait"]
    hand.lab.widget("stepper").screenshot(path=screenshots / "stepper-keyboard.png")
    for expected in (("IN", "IN"), ("IN", "nothing")):
        keyboard.press("Space")
        hand.answered()
        assert hand.returned() == expected
    assert hand.table() == hand.history()


def _focused(hand: Hand) -> str:
    """The name of the control that has the keyboard."""
    name: Any = hand.lab.page.evaluate(
        "[...(document.activeElement.closest('[class*=epl-]')?.classList ?? [])]"
        ".find(name => name.startsWith('epl-'))"
    )
    return str(name).removeprefix("epl-")


def test_numbers_and_interest_come_from_the_page(hand: Hand) -> None:
    """Bytes typed and an interest chosen on the page are what the kernel is told."""
    from playwright.sync_api import expect

    hand.panel.locator(".epl-write-bytes input").fill("1234")
    hand.press("peer-writes")
    hand.panel.locator(".epl-interest select").select_option("IN|OUT|RDHUP")
    hand.press("modify", "wait")
    assert hand.returned() == ("IN|OUT", "IN|OUT")
    interest = hand.lab.value("stepper.steps.last.edge_interest")
    expect(hand.panel.locator(".epl-side code").nth(1)).to_have_text(interest)
    assert hand.lab.value("stepper.steps.last.readable") == 1234


def test_impossible_step_is_no_button(hand: Hand) -> None:
    """After a reset the peer's buttons are off; starting over gives them back."""
    from playwright.sync_api import expect

    hand.press("peer-writes", "peer-resets", "wait")
    assert hand.returned()[0] == "IN|ERR|HUP|RDHUP"
    for name in ("peer-writes", "peer-half-closes", "peer-resets"):
        expect(hand.button(name)).to_be_disabled()
    hand.n_steps = -1
    hand.press("start-over")
    expect(hand.button("peer-writes")).to_be_enabled()
