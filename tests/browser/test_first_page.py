"""``epolllab lab`` in a browser: it opens the index of a copy, from which notebooks open."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import jupyterlab, page_of
from tests.browser.lab import NOTEBOOK, expect
from tests.notebooks.tools import FOLDER
from tests.wire import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The reader's folder, which does not exist yet."""
    return tmp_path / "reader" / "lab"


@pytest.fixture
def page(chromium: "Browser", tmp_path: Path, copy: Path) -> Iterator["Page"]:
    """The page that the command's address leads to."""
    (tmp_path / "jupyter").mkdir()
    start = ["epolllab", "lab", "--folder", str(copy)]
    with jupyterlab(tmp_path / "jupyter", start) as (url, token), page_of(chromium) as page:
        page.goto(f"{url}?token={token}")
        yield page


def test_the_index_opens_and_leads_to_a_notebook(
    page: "Page", copy: Path, screenshots: Path
) -> None:
    """All pictures are shown; what is saved is the reader's copy."""
    before = {path.name: path.read_bytes() for path in FOLDER.glob("*.ipynb")}
    assert {path.name for path in (copy / "notebooks").glob("*.ipynb")} == before.keys()
    expect(page.locator(f"{NOTEBOOK} h1").first).to_contain_text("epolllab")
    links = page.locator(f"{NOTEBOOK} td a strong")
    expect(links).to_have_count(len(before) - 1)
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)
    page.wait_for_function(
        "[...document.querySelectorAll('.jp-RenderedMarkdown td img')]"
        ".every(image => image.complete && image.naturalWidth > 0 && image.alt)"
    )
    page.screenshot(path=screenshots / "first-page.png")
    links.first.click()
    tab = page.locator(".lm-DockPanel-tabBar .lm-mod-current .lm-TabBar-tabLabel")
    first = sorted(before)[1]
    expect(tab.first).to_have_text(first)
    expect(page.locator(f"{NOTEBOOK} h1").first).to_be_visible()
    page.screenshot(path=screenshots / "first-notebook.png")
    # The notebook is not trusted, and its stored charts are shown with their texts.
    images = page.locator(f"{NOTEBOOK} .jp-OutputArea img")
    expect(images.first).to_be_attached()
    assert images.evaluate_all("images => images.every(i => i.naturalWidth > 0 && i.alt)")
    written = (copy / "notebooks" / first).stat().st_mtime_ns
    page.keyboard.press("Escape")
    page.keyboard.press("b")  # a new cell, so that there is something to save
    page.keyboard.press("Control+s")
    until(lambda: (copy / "notebooks" / first).stat().st_mtime_ns > written, 30)
    assert {path.name: path.read_bytes() for path in FOLDER.glob("*.ipynb")} == before
