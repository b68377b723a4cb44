"""Write the index, ``notebooks/00-index.ipynb``: the notebooks, and all phenomena, with links.

    python data/make_index.py

It writes the two cells whose ids are ``notebooks`` and ``phenomena`` and leaves the others,
which are written by hand. A notebook's question is the bold sentence below its title. Its
picture, in ``notebooks/pictures``, is the first one that it stores, or that of the first cell
with the tag ``picture``. ``make_notebooks.py`` does this as well, after it has stored notebooks.
"""

import base64
import html
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from PIL import Image

from epolllab import experiments

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
INDEX = "00-index.ipynb"
PICTURES = "pictures"
WIDTH, HEIGHT = 440, 300
"""Of a picture, in pixels; the page shows it at half the size."""
KERNEL = "v6.18"
"""The version whose source is linked."""

_HOW_TO_RUN = (
    "Each is a small experiment with an expected result, which runs on your kernel: "
    '`experiments.run("level-repeats")` shows what it observes, and '
    '`widgets.explore("level-repeats")` its calls.'
)
_MAN = "https://man7.org/linux/man-pages/man{0}/{1}.{0}.html"
_SOURCE = "https://elixir.bootlin.com/linux/{}/source/{}"
_PAGE = re.compile(r"\b([a-z_]\w*)\(([2-8])\)")
_FILE = re.compile(r"\b((?:fs|net|include|io_uring|drivers)/[\w/]+\.[ch])\b")


class Entry(NamedTuple):
    """A notebook as the index shows it."""

    path: Path
    title: str
    question: str
    source: str
    """All of its code."""


def entries(folder: Path) -> list[Entry]:
    """The notebooks in their order, appendices last."""
    paths = sorted(path for path in folder.glob("*.ipynb") if path.name != INDEX)
    return [_entry(path) for path in paths]


def _entry(path: Path) -> Entry:
    cells = nbformat.read(path, as_version=4).cells
    title = re.match(r"# (.+)", cells[0].source)
    question = re.search(r"^\*\*(.+?)\*\*$", cells[0].source, re.MULTILINE)
    if not title or not question:
        raise ValueError(f"{path.name}: the first cell must have a '# title' and a '**question**'")
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return Entry(path, title[1].strip(), question[1], code)


# ---- pictures ---------------------------------------------------------------------------


def picture_of(path: Path) -> tuple[bytes, str] | None:
    """The small picture of a notebook and its text alternative; None if it stores none."""
    cells = nbformat.read(path, as_version=4).cells
    chosen = [cell for cell in cells if "picture" in cell.metadata.get("tags", [])]
    for cell in [*chosen, *cells]:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                return _small(base64.b64decode(output.data["image/png"])), alt
    return None


def _small(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
    small.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.quantize(64, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


# ---- the two cells ----------------------------------------------------------------------


def notebooks_cell(folder: Path) -> str:
    """The table of the notebooks: a picture, and the title as a link above the question."""
    lines = ["| | |", "|---|---|"]
    for entry in entries(folder):
        link = f"[**{entry.title}**]({entry.path.name})"
        lines.append(f"| {_image(entry)} | {link}<br>{_in_table(entry.question)} |")
    return "## The notebooks\n\n" + "\n".join(lines)


def _image(entry: Entry) -> str:
    picture = picture_of(entry.path)
    if picture is None:
        return ""
    alt = _in_table(html.escape(picture[1] or entry.title))
    return f'<img src="{PICTURES}/{entry.path.stem}.png" alt="{alt}" width="{WIDTH // 2}">'


def phenomena_cell(folder: Path) -> str:
    """The tables of the phenomena, one for each family: name, claim, notebooks, sources."""
    found = entries(folder)
    catalogue = experiments.phenomena()
    parts = [f"## All {len(catalogue)} phenomena", _HOW_TO_RUN]
    for family, group in catalogue.groupby("family", sort=False):
        lines = [f"### {family[0].upper()}{family[1:]}", "", "| name | claim | shown in | source |"]
        lines.append("|---|---|---|---|")
        for row in group.itertuples():
            cells = (f"`{row.name}`", row.claim, _shown_in(row.name, found), linked(row.source))
            lines.append(f"| {' | '.join(map(_in_table, cells))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _shown_in(name: str, found: Sequence[Entry]) -> str:
    """Links to the notebooks whose code names a phenomenon."""
    shown = [entry for entry in found if re.search(rf"[\"']{re.escape(name)}[\"']", entry.source)]
    return ", ".join(f"[{entry.path.stem.split('-')[0]}]({entry.path.name})" for entry in shown)


def linked(source: str) -> str:
    """A source with links to the manual pages and the kernel's files that it names."""
    text = _PAGE.sub(lambda match: f"[{match[0]}]({_MAN.format(match[2], match[1])})", source)
    return _FILE.sub(lambda match: f"[{match[0]}]({_SOURCE.format(KERNEL, match[0])})", text)


def _in_table(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ---- writing ----------------------------------------------------------------------------


def generated(folder: Path) -> dict[str, str]:
    """The text of each generated cell by its id."""
    return {"notebooks": notebooks_cell(folder), "phenomena": phenomena_cell(folder)}


def write(folder: Path = FOLDER) -> None:
    """Write the generated cells and the pictures of the index."""
    path = folder / INDEX
    index = nbformat.read(path, as_version=4)
    texts = generated(folder)
    missing = texts.keys() - {cell.id for cell in index.cells}
    if missing:
        raise ValueError(f"{INDEX} has no cell with the id {', '.join(sorted(missing))}")
    for cell in index.cells:
        cell.source = texts.get(cell.id, cell.source)
    nbformat.write(index, path)
    _write_pictures(folder)


def _write_pictures(folder: Path) -> None:
    wanted = dict(_pictures(folder))
    (folder / PICTURES).mkdir(exist_ok=True)
    for old in (folder / PICTURES).glob("*.png"):
        if old.name not in wanted:
            old.unlink()
    for name, data in wanted.items():
        (folder / PICTURES / name).write_bytes(data)


def _pictures(folder: Path) -> Iterator[tuple[str, bytes]]:
    for entry in entries(folder):
        picture: Any = picture_of(entry.path)
        if picture:
            yield f"{entry.path.stem}.png", picture[0]


if __name__ == "__main__":
    write()
