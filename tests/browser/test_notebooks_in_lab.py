"""Every notebook, in JupyterLab as a reader opens it."""

from pathlib import Path

import pytest

from tests.browser.lab import NOTEBOOK, Lab, plain
from tests.notebooks.tools import FOLDER

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

BROKEN = ("Error displaying widget", "Loading widget...", "Error creating widget")


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("[0-9]*.ipynb")))
def test_notebook_runs_in_lab_without_an_error_anywhere(
    name: str, lab: Lab, screenshots: Path
) -> None:
    """All cells run; none shows an error, and none comes from a callback or a thread."""
    lab.open(name)
    cells = lab.run_all()
    lab.whole(screenshots / f"notebook-{Path(name).stem}.png")
    failed = [plain("\n".join(cell["errors"])) for cell in cells if cell["errors"]]
    assert not failed, "\n".join(failed)
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell["said"] for cell in cells if cell["said"]] == []
    assert lab.complaints() == []
    text = lab.page.locator(NOTEBOOK).inner_text()
    assert [words for words in BROKEN if words in text] == []
