"""Build the web edition: the notebooks as pages with their stored outputs, search, and the API.

    python data/make_site.py [FOLDER]

It needs ``pip install "epolllab[docs]"``. FOLDER is ``data/site/html`` by default, which git
ignores; what an earlier build left there is replaced. Its ``index.html`` opens without a server,
and with one the search shows excerpts: ``python -m http.server -d data/site/html``.
"""

import argparse
import base64
import html
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
from nbformat.v4 import new_markdown_cell

import epolllab

DATA = Path(__file__).resolve().parent
NOTEBOOKS = DATA.parent / "notebooks"
INDEX = "00-index.ipynb"
OUTPUT = DATA / "site" / "html"
NEEDED = ("sphinx", "myst_nb", "furo", "numpydoc")
MARK = ".buildinfo"
"""A file of every build, by which a folder of one is known."""

_TOCTREE = """```{{toctree}}
:hidden:
:caption: {caption}

{names}
```"""


# ---- the sources ------------------------------------------------------------------------


def write_sources(folder: Path) -> None:
    """Write what Sphinx reads: its configuration, the notebooks and the pages of the API."""
    static = folder / "_static"
    static.mkdir()
    shutil.copy(DATA / "site" / "conf.py", folder)
    shutil.copy(DATA / "site" / "style.css", static)
    shutil.copytree(NOTEBOOKS / "pictures", folder / "pictures")
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in paths:
        notebook = page_of(nbformat.read(path, as_version=4), static)
        if path.name == INDEX:
            names = [other.stem for other in paths if other.name != INDEX]
            notebook.cells.append(new_markdown_cell(_toctrees(names)))
        nbformat.write(notebook, folder / _name(path.name))
    write_api(folder)


def _name(name: str) -> str:
    """The name of a notebook's page: the index is the first page."""
    return "index.ipynb" if name == INDEX else name


def _toctrees(names: Sequence[str]) -> str:
    pages = [("Notebooks", names), ("Reference", ["api"])]
    return "\n\n".join(_TOCTREE.format(caption=c, names="\n".join(n)) for c, n in pages)


def page_of(notebook: Any, static: Path) -> Any:
    """Fit a notebook to a page: links to the index, and pictures as files with their texts."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace(f"({INDEX}", f"({_name(INDEX)}")
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                _use_file(output, static)
    return notebook


def _use_file(output: Any, static: Path) -> None:
    """Refer to a picture in place of having it in the page, which would have to load it."""
    data = base64.b64decode(output.data["image/png"])
    path = static / f"{blake2b(data, digest_size=8).hexdigest()}.png"
    path.write_bytes(data)
    own = output.metadata.get("image/png", {})
    size = "".join(f' {side}="{own[side]}"' for side in ("width", "height") if side in own)
    alt = html.escape(own.get("alt", ""))
    image = f'<img src="_static/{path.name}" alt="{alt}"{size} loading="lazy">'
    output.data = nbformat.from_dict({"text/html": image})


def write_api(folder: Path) -> None:
    """Write a page for each public module, and their list."""
    modules = [value for _, value in _public(epolllab) if isinstance(value, ModuleType)]
    names = ["epolllab", *sorted(module.__name__ for module in modules)]
    (folder / "api").mkdir()
    for name in names:
        lines = [name, "=" * len(name), "", f".. automodule:: {name}"]
        (folder / "api" / f"{name}.rst").write_text("\n".join(lines) + "\n")
    rows = [f"* :doc:`api/{name}`: {_first_line(name)}" for name in names]
    toctree = [".. toctree::", "   :hidden:", "", *(f"   api/{name}" for name in names)]
    lines = ["API", "===", "", *rows, "", *toctree]
    (folder / "api.rst").write_text("\n".join(lines) + "\n")


def _public(module: ModuleType) -> list[tuple[str, object]]:
    return [(name, getattr(module, name)) for name in module.__all__]


def _first_line(name: str) -> str:
    return (importlib.import_module(name).__doc__ or "").strip().splitlines()[0]


# ---- the build --------------------------------------------------------------------------


def build(output: Path) -> list[str]:
    """Build the site; return Sphinx's warnings.

    Raises
    ------
    ValueError
        The folder holds something else than an earlier build.
    RuntimeError
        Sphinx or what it needs is missing, or failed.
    """
    _check_output(output)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not installed: pip install 'epolllab[docs]'")
    with tempfile.TemporaryDirectory() as temporary:
        source, made = Path(temporary, "source"), Path(temporary, "html")
        source.mkdir()
        write_sources(source)
        command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(source), str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"Sphinx failed:\n{done.stderr}")
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(made, output, ignore=shutil.ignore_patterns(".doctrees"))
    return [
        line.replace(f"{source}/", "")
        for line in re.sub(r"\x1b\[[0-9;]*m", "", done.stderr).splitlines()
        if line.strip()
    ]


def _check_output(output: Path) -> None:
    if output.is_dir() and ((output / MARK).is_file() or not any(output.iterdir())):
        return
    if output.exists():
        raise ValueError(f"FOLDER: {output} holds something else than a build; choose another")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if it failed, or Sphinx warned."""
    parser = argparse.ArgumentParser(description="Build the web edition of the notebooks.")
    parser.add_argument("folder", nargs="?", type=Path, default=OUTPUT, metavar="FOLDER")
    output: Path = parser.parse_args(arguments).folder
    try:
        warnings = build(output)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"make_site.py: {error}", file=sys.stderr)
        return 1
    print("\n".join([*warnings, f"wrote {output / 'index.html'}"]))
    return 1 if warnings else 0


if __name__ == "__main__":
    sys.exit(main())
