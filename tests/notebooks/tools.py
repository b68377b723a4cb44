"""Execute notebooks, and strip them to the form that is committed.

That form has no execution counts, time stamps or widget state, and no outputs except
those of cells tagged ``keep_output``, which show data from ``data/`` and are the same
everywhere. ``python -m tests.notebooks.tools [NAME ...]`` runs all notebooks, or those
named, and writes them back in that form.
"""

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
KEEP = "keep_output"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def executed(path: Path, timeout: int = 180, *, first: str = "") -> Any:
    """Run all cells in the notebook's folder, with this interpreter; return the notebook.

    `first` is code to run before them, in a cell of its own.
    """
    notebook = nbformat.read(path, as_version=4)
    if first:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    return notebook


def stripped(notebook: Any) -> Any:
    """Reduce a notebook to its committed form, in place."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.id = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [_plain(out) for out in cell.outputs] if KEEP in tags else []
    return notebook


def _plain(output: Any) -> Any:
    if "execution_count" in output:
        output.execution_count = None
    output.pop("transient", None)
    return output


if __name__ == "__main__":
    every = sorted([*FOLDER.glob("*.ipynb"), *FOLDER.glob("pages/*.ipynb")])
    for path in [FOLDER / name.removeprefix("notebooks/") for name in sys.argv[1:]] or every:
        nbformat.write(stripped(executed(path)), path)
        print(path.relative_to(FOLDER))
