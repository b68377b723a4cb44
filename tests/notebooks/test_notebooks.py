"""Every notebook runs from top to bottom, and is stored as its code makes it."""

import re
from pathlib import Path

import nbformat
import pytest

from epolllab.notebook import voila
from tests.notebooks.tools import FOLDER, make_notebooks

INDEX = FOLDER / "00-index.ipynb"
NOTEBOOKS = sorted(set(FOLDER.glob("*.ipynb")) - {INDEX})
PAGES = sorted(FOLDER.glob("pages/*.ipynb"))
MOST_LINES = 14
"""Of a code cell, except the one that shows the how-to's whole loop, tagged ``howto``."""


@pytest.fixture(params=[*NOTEBOOKS, INDEX, *PAGES], ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.mark.notebook
@pytest.mark.timeout(300)
def test_notebook_runs_from_top_to_bottom(path: Path) -> None:
    """No cell raises or prints to stderr; every assertion about a claim holds.

    The cells that show something are those whose output is stored.
    """
    notebook = make_notebooks.tidy(make_notebooks.executed(path))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert not [o for cell in code for o in cell.outputs if o.get("name") == "stderr"]
    before = nbformat.read(path, as_version=4)
    if make_notebooks.digest_of_outputs(before):
        shown = [[bool(cell.get("outputs")) for cell in made.cells] for made in (before, notebook)]
        assert shown[0] == shown[1]


REFUSE = """
import ctypes, errno
from epolllab.kernel import uring
permitted = uring._call

def call(number, *args):
    if number == uring._SETUP:
        ctypes.set_errno(errno.EPERM)
        return -1
    return permitted(number, *args)

uring._call = call
"""


@pytest.mark.notebook
@pytest.mark.timeout(300)
def test_completion_is_shown_where_io_uring_is_refused() -> None:
    """As under Docker's default profile: stored results, which the notebook calls so."""
    notebook = make_notebooks.executed(FOLDER / "14-complete-instead-of-wait.ipynb", first=REFUSE)
    texts = [o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", ())]
    (reason,) = [text for text in texts if "stored ones" in text]
    assert "not permitted here" in reason


@pytest.mark.parametrize("path", [*NOTEBOOKS, INDEX], ids=lambda path: path.stem)
def test_notebook_is_stored_with_its_outputs(path: Path) -> None:
    """In order, of this code, with text alternatives, and with nothing of a machine."""
    assert make_notebooks.faults(path) == [], f"run: python data/make_notebooks.py {path.stem}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page_is_stored_without_outputs(path: Path) -> None:
    """Voila executes it for each visitor."""
    notebook = nbformat.read(path, as_version=4)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code"] == [[]]
    assert notebook.metadata == make_notebooks.METADATA


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_the_common_structure(path: Path) -> None:
    """A question in the title, prose between short cells, an exercise, and assertions."""
    notebook = nbformat.read(path, as_version=4)
    cells = notebook.cells
    code = [
        cell.source
        for cell in cells
        if cell.cell_type == "code" and "howto" not in cell.metadata.get("tags", [])
    ]
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert re.fullmatch(r"\d\d-[a-z]+(-[a-z]+)+", path.stem)
    assert prose[0].startswith("# ")
    assert "?" in prose[0]
    assert 15 <= len(cells) <= 40
    assert max(len(source.splitlines()) for source in code) <= MOST_LINES
    assert any(source.startswith("assert ") or "\nassert " in source for source in code)
    headings = re.findall(r"^##+ (.+)$", "\n".join(prose), re.MULTILINE)
    assert headings[-3:] == ["Exercise", "A solution", "Next"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_to_a_file_and_on_to_the_next_notebook(path: Path) -> None:
    """Files are linked relatively."""
    cells = nbformat.read(path, as_version=4).cells
    links = [re.findall(r"\]\(([^)\s]+)\)", cell.source) for cell in cells]
    local = [link for cell in links for link in cell if not re.match(r"https?://|#", link)]
    assert [link for link in local if not (FOLDER / link).is_file()] == []
    following = NOTEBOOKS[NOTEBOOKS.index(path) + 1 :][:1] or [INDEX]
    assert following[0].name in links[-1]


def test_every_page_has_a_notebook_of_one_code_cell() -> None:
    """Anything more would delay the page."""
    assert [path.name for path in PAGES] == sorted(voila.NOTEBOOKS)
    for path in PAGES:
        kinds = [cell.cell_type for cell in nbformat.read(path, as_version=4).cells]
        assert kinds == ["markdown", "code"]


def test_notebook_has_no_path_of_a_machine(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not re.search(r"/(home|root|tmp|work)/", cell.source)
