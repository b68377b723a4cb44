"""Every notebook in JupyterLab, as a reader opens it."""

from pathlib import Path

import pytest

from tests.browser.lab import NOTEBOOK, Lab, plain
from tests.notebooks.tools import FOLDER

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

FAILURES = ("Error displaying widget", "Loading widget...", "Error creating widget")


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("[0-9]*.ipynb")))
def test_notebook_runs_without_errors(name: str, lab: Lab, screenshots: Path) -> None:
    """No cell, callback or thread reports an error, and every widget is displayed."""
    lab.open(name)
    cells = lab.run_all()
    lab.screenshot(screenshots / f"notebook-{Path(name).stem}.png")
    failed = [plain("\n".join(cell["errors"])) for cell in cells if cell["errors"]]
    assert not failed, "\n".join(failed)
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell["stderr"] for cell in cells if cell["stderr"]] == []
    assert lab.errors() == []
    text = lab.page.locator(NOTEBOOK).inner_text()
    assert [words for words in FAILURES if words in text] == []
