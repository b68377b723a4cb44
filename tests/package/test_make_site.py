"""The web edition's command: what it refuses, and how it fits notebooks to pages.

``tests/browser/test_site.py`` builds the site and opens it.
"""

import base64
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.notebooks.test_make_notebooks import figure
from tests.notebooks.tools import make_notebooks, make_site


def test_pictures_become_files_with_their_text(tmp_path: Path) -> None:
    """And links to the index lead to the first page."""
    cells = [
        new_markdown_cell("Back to the [index](00-index.ipynb), on to [two](02-b.ipynb)."),
        new_code_cell("draw()", outputs=[figure('"a" < b')]),
    ]
    notebook = make_notebooks.tidy(new_notebook(cells=cells))
    data = base64.b64decode(notebook.cells[1].outputs[0].data["image/png"])
    page = make_site.page_of(notebook, tmp_path)
    assert page.cells[0].source == "Back to the [index](index.ipynb), on to [two](02-b.ipynb)."
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == data
    assert page.cells[1].outputs[0].data == {
        "text/html": f'<img src="_static/{path.name}" alt="&quot;a&quot; &lt; b" width="100" '
        'height="50" loading="lazy">'
    }


def test_the_api_has_a_page_for_each_public_module(tmp_path: Path) -> None:
    make_site.write_api(tmp_path)
    pages = {path.stem for path in (tmp_path / "api").iterdir()}
    assert pages >= {"epolllab", "epolllab.frames", "epolllab.plots", "epolllab.experiments"}
    assert "* :doc:`api/epolllab.frames`: From records" in (tmp_path / "api.rst").read_text()


@pytest.mark.parametrize("kind", ["other files", "a file"])
def test_a_folder_with_something_else_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is removed."""
    (tmp_path / "mine").touch()
    folder = tmp_path / "mine" if kind == "a file" else tmp_path
    assert make_site.main([str(folder)]) == 1
    assert capsys.readouterr().err.startswith("make_site.py: FOLDER")
    assert (tmp_path / "mine").exists()


def test_without_sphinx_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_site, "find_spec", lambda name: None if name == "furo" else name)
    assert make_site.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert printed == "make_site.py: furo not installed: pip install 'epolllab[docs]'\n"
