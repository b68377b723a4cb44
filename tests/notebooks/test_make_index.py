"""The index is what the notebooks and the catalogue say, and its links lead somewhere."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from epolllab import experiments
from tests.notebooks.test_make_notebooks import figure
from tests.notebooks.tools import FOLDER, METADATA, make_index, make_notebooks

SMALL = 25_000
README = FOLDER.parent / "README.md"


@pytest.fixture(scope="module")
def cells() -> dict[str, str]:
    """The text of each cell of the index by its id."""
    index = nbformat.read(FOLDER / make_index.INDEX, as_version=4)
    return {cell.id: cell.source for cell in index.cells}


def test_the_index_is_up_to_date(cells: dict[str, str]) -> None:
    """Its generated cells are what the notebooks' titles, questions and code make."""
    made = make_index.generated(FOLDER)
    assert {name: cells[name] for name in made} == made, "run: python data/make_index.py"


def test_every_link_to_a_file_leads_to_one(cells: dict[str, str]) -> None:
    text = "\n".join(cells.values())
    links = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
    local = {link or source for link, source in links if not link.startswith("https://")}
    assert [name for name in sorted(local) if not (FOLDER / name).is_file()] == []
    named = {name for name in local if name.endswith(".ipynb")}
    assert named == {path.name for path in FOLDER.glob("*.ipynb")} - {make_index.INDEX}


def test_the_pictures_are_small_and_each_has_a_text() -> None:
    pictures = sorted((FOLDER / make_index.PICTURES).iterdir())
    assert {path.stem for path in pictures} <= {path.stem for path in FOLDER.glob("*.ipynb")}
    for path in pictures:
        assert path.stat().st_size < SMALL
        with Image.open(path) as picture:
            assert picture.width <= make_index.WIDTH
            assert picture.height <= make_index.HEIGHT


def test_all_phenomena_are_listed_once(cells: dict[str, str]) -> None:
    listed = re.findall(r"^\| `([\w-]+)` \|", cells["phenomena"], re.MULTILINE)
    assert sorted(listed) == sorted(experiments.phenomena()["name"])


def test_every_phenomenon_is_shown_in_a_notebook() -> None:
    """Named in its code, so that it is run there or read from a stored result."""
    code = "\n".join(entry.source for entry in make_index.entries(FOLDER))
    named = set(re.findall(r"[\"']([a-z]+(?:-[a-z]+)*)[\"']", code))
    assert sorted(set(experiments.phenomena()["name"]) - named) == []


def test_the_readme_lists_each_notebook_with_its_question() -> None:
    rows = re.findall(r"^\| \[`(.+?)`\]\((.+?)\) \| (.+) \|$", README.read_text(), re.MULTILINE)
    assert rows == [
        (entry.path.stem, f"notebooks/{entry.path.name}", entry.question)
        for entry in make_index.entries(FOLDER)
    ]


def test_the_glossary_explains_twenty_terms_in_order(cells: dict[str, str]) -> None:
    terms = re.findall(r"^- \*\*(.+?)\*\*: \S", cells["glossary"], re.MULTILINE)
    assert len(terms) == 20
    assert terms == sorted(terms, key=str.lower)


def test_sources_link_to_manual_pages_and_the_kernel() -> None:
    """A function of the kernel has parentheses as well, but no section."""
    assert make_index.linked("epoll_ctl(2), EPERM; ep_insert() in fs/eventpoll.c") == (
        "[epoll_ctl(2)](https://man7.org/linux/man-pages/man2/epoll_ctl.2.html), EPERM; "
        "ep_insert() in [fs/eventpoll.c]"
        "(https://elixir.bootlin.com/linux/v6.18/source/fs/eventpoll.c)"
    )
    assert make_index.linked("RFC 9293, 3.10.7") == "RFC 9293, 3.10.7"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two notebooks, of which one stores a picture, and an index."""
    shows = new_code_cell("run('level-repeats')", outputs=[figure("A chart: it | rises.")])
    cells = [new_markdown_cell("# See\n\n**What is\nit?** No.\n\n**Why | how?**"), shows]
    made = make_notebooks.tidy(new_notebook(cells=cells, metadata=METADATA))
    nbformat.write(made, tmp_path / "01-see.ipynb")
    cells = [new_markdown_cell("# Go on\n\n**Who?**\n\nYou.")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a1-go-on.ipynb")
    ids = ("introduction", "notebooks", "phenomena")
    cells = [new_markdown_cell("by hand", id=name) for name in ids]
    nbformat.write(new_notebook(cells=cells), tmp_path / make_index.INDEX)
    return tmp_path


def test_a_notebook_is_shown_with_its_question_and_picture(folder: Path) -> None:
    """What is written by hand stays, and a picture without a notebook goes."""
    (folder / "pictures").mkdir()
    (folder / "pictures" / "01-old.png").touch()
    make_index.write(folder)
    first, notebooks, phenomena = nbformat.read(folder / make_index.INDEX, 4).cells
    assert first.source == "by hand"
    row, other = notebooks.source.splitlines()[-2:]
    image = '<img src="pictures/01-see.png" alt="A chart: it \\| rises." width="220">'
    assert row == f"| {image} | [**See**](01-see.ipynb)<br>Why \\| how? |"
    assert other == "|  | [**Go on**](a1-go-on.ipynb)<br>Who? |"
    assert "| [01](01-see.ipynb) | [epoll(7)]" in phenomena.source
    assert [path.name for path in (folder / "pictures").iterdir()] == ["01-see.png"]


def test_a_notebook_without_a_question_is_an_error(folder: Path) -> None:
    cells = [new_markdown_cell("# A title")]
    nbformat.write(new_notebook(cells=cells), folder / "02-b.ipynb")
    with pytest.raises(ValueError, match=r"02-b\.ipynb"):
        make_index.write(folder)
