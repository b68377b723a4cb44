"""The catalogue as a page in a notebook: groups, the search field, links."""

from pathlib import Path

import pytest

from tests.browser.lab import Lab, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def test_search_by_keyboard(scratch: Lab, screenshots: Path) -> None:
    """Matching groups open, others disappear, and an empty field shows all as before."""
    scratch.show("from epolllab import experiments\nexperiments.phenomena()")
    page = scratch.page.locator(".epolllab-page")
    groups, rows = page.locator("details"), page.locator("tbody tr:visible")
    n_groups = scratch.value("experiments.phenomena()['family'].nunique()")
    expect(groups).to_have_count(n_groups)
    expect(rows).to_have_count(0)
    field = page.get_by_role("searchbox", name="Search names, claims and sources")
    field.click()
    scratch.page.keyboard.type("Silent EDGE")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("edge-goes-silent")
    expect(page.locator("details:visible")).to_have_count(1)
    link = rows.get_by_role("link", name="epoll(7)")
    expect(link).to_have_attribute("href", "https://man7.org/linux/man-pages/man7/epoll.7.html")
    page.screenshot(path=screenshots / "phenomena-search.png")
    field.fill("")
    expect(rows).to_have_count(0)
    expect(page.locator("details:visible")).to_have_count(n_groups)
    page.locator("summary").first.press("Enter")
    expect(rows.first).to_be_visible()
    page.screenshot(path=screenshots / "phenomena.png")
