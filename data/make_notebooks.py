"""Execute notebooks and store them with their outputs: all of them, or those named.

    python data/make_notebooks.py [--mark-live] [--fresh] [NAME ...]

Each notebook runs from top to bottom in a new kernel, in an empty folder, without the user's
settings of IPython and matplotlib, and is stored without its progress bars. If a cell fails,
the notebook is left as it was. The index, ``00-index``, is made last, from the others
(``make_index.py``).

A cell whose output differs from run to run (a time, a port, a process id) has the tag ``live``.
The live outputs of a notebook are of one execution: as long as the code is the same and the
new outputs differ from the stored ones in numbers only, the stored ones stay, all of them.
So what git shows as changed has changed. ``--fresh`` stores the new ones in any case, as after
a change of a chart's style. ``--mark-live`` executes each notebook twice, and tags the cells
whose outputs differ.
"""

import argparse
import ast
import base64
import html
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import make_index
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
LIVE = "live"
"""Tag of cells whose output differs from run to run."""

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MOST_BYTES = 1_500_000
"""Of a stored notebook."""

_PROGRESS = r"\r|\d%\|.*\d(?:it|s)/|\?it/s\]"
WIDGET = "application/vnd.jupyter.widget-view+json"
_CONFIG = """
c.InlineBackend.figure_formats = {"retina"}  # two pixels for one
c.HistoryManager.enabled = False
c.Application.log_level = 40
"""
_LEFT_OUT = ("MPLBACKEND", "JPY_SESSION_NAME", "SERVER_SOFTWARE")
"""Variables of the caller that change what a kernel shows."""


# ---- executing --------------------------------------------------------------------------


def executed(path: Path, *, first: str = "", timeout: int = 300) -> Any:
    """Run all cells of a notebook in a new kernel of this interpreter; return the notebook.

    `first` is code to run before them, in a cell of its own.
    """
    notebook = nbformat.read(path, as_version=4)
    if first:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "lab", "notebooks")
        profile = Path(folder, "ipython", "profile_default")
        for made in (work, work.parent / "data", profile):
            made.mkdir(parents=True)
        (profile / "ipython_kernel_config.py").write_text(_CONFIG)
        client = NotebookClient(
            notebook,
            kernel_manager_class=_OwnKernel,
            # TCP ports are chosen before the kernel binds them, and may be taken by then.
            config=Config(_OwnKernel={"transport": "ipc", "ip": str(Path(folder, "kernel"))}),
            timeout=timeout,
            resources={"metadata": {"path": str(work)}},
            store_widget_state=False,
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute(env=_environment(profile.parent))
    return notebook


class _OwnKernel(AsyncKernelManager):
    """Starts the kernel of this interpreter, and none that the user installed."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def _environment(ipython: Path) -> dict[str, str]:
    """The kernel's variables, which the user's settings do not change."""
    kept = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    return kept | {
        "IPYTHONDIR": str(ipython),
        "MATPLOTLIBRC": os.devnull,
        "PYTHONHASHSEED": "0",
    }


# ---- the stored form --------------------------------------------------------------------


def tidy(notebook: Any) -> Any:
    """Reduce a notebook to what is stored, in place: no widget state, no other metadata."""
    notebook.metadata = nbformat.from_dict(METADATA)
    taken: set[str] = set()
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        # An id stays, wherever its cell moves; only copies of a cell need one of their own.
        while cell.get("id", "") in taken | {""}:
            cell.id = blake2b(f"{cell.source}{len(taken)}".encode(), digest_size=4).hexdigest()
        taken.add(cell.id)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
            for output in cell.outputs:
                _tidy_output(output)
    return notebook


def _is_progress(output: Any) -> bool:
    """Whether an output is a progress bar, which is a widget in a notebook."""
    data = output.get("data", {})
    return WIDGET in data and bool(re.search(_PROGRESS, data.get("text/plain", "")))


def _tidy_output(output: Any) -> None:
    output.pop("transient", None)
    data = output.get("data", {})
    # A picture or a text of the package stands for its widget; a class with its fields does not.
    if "image/png" in data or not re.match(r"\w*\(", data.get("text/plain", "(")):
        data.pop(WIDGET, None)
    if "image/png" in data:
        png = smaller(base64.b64decode(data["image/png"]))
        data["image/png"] = base64.b64encode(png).decode()
        _add_alternative(data, output.metadata)


def _add_alternative(data: Any, metadata: Any) -> None:
    """Give a picture its text alternative in its metadata and as an HTML image.

    Front ends prefer the HTML image, and do not read the metadata. The package's charts have
    the sentence as their plain text.
    """
    own = metadata.setdefault("image/png", nbformat.from_dict({}))
    plain = data.get("text/plain", "")
    alt = own.get("alt") or ("" if plain.startswith("<") else plain)
    if alt:
        size = "".join(f' {side}="{own[side]}"' for side in ("width", "height") if side in own)
        source = f"data:image/png;base64,{data['image/png']}"
        data["text/html"] = f'<img src="{source}" alt="{html.escape(alt)}"{size}>'
        own["alt"] = alt


def smaller(png: bytes) -> bytes:
    """The picture with a palette of 256 colours, and without the metadata of its maker."""
    with Image.open(io.BytesIO(png)) as picture:
        opaque = Image.new("RGB", picture.size, "white")
        opaque.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
    file = io.BytesIO()
    opaque.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def digest(notebook: Any) -> str:
    """A digest of the code, by which stored outputs show that they are of this code."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return blake2b(json.dumps(sources).encode(), digest_size=8).hexdigest()


def digest_of_outputs(notebook: Any) -> str:
    """The digest of the code that was executed; "" if the notebook was never stored so."""
    return str(notebook.metadata.get("epolllab", {}).get("code", ""))


def stored(path: Path, *, fresh: bool = False) -> Any:
    """Execute a notebook; return it as it is to be stored."""
    before = nbformat.read(path, as_version=4)
    after = tidy(executed(path))
    after.metadata["epolllab"] = {"code": digest(after)}
    if not fresh and digest_of_outputs(before) == digest(after):
        keep_live(before, after)
    return after


def keep_live(before: Any, after: Any) -> None:
    """Keep the outputs of all live cells if they changed in numbers only."""
    live = [
        (old, new) for old, new in zip(_code(before), _code(after), strict=True) if is_live(new)
    ]
    if all(_form(old.outputs) == _form(new.outputs) for old, new in live):
        for old, new in live:
            new.outputs = old.outputs


def is_live(cell: Any) -> bool:
    """Whether a cell's output differs from run to run."""
    return LIVE in cell.metadata.get("tags", [])


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


_NUMBER = re.compile(
    r"0x[0-9a-f]+|[-+\u2212]?\d[\d,._]*(?:e[-+]?\d+)?(?:\s*(?:ns|µs|ms|s|[kMG]i?B)\b)?"
)


def _form(outputs: Sequence[Any]) -> list[Any]:
    """What outputs show apart from numbers: their kinds, and their lines without repetition."""
    return [
        (output.output_type, sorted(output.get("data", ())), *_lines_without_numbers(output))
        for output in outputs
    ]


def _lines_without_numbers(output: Any) -> dict[str, None]:
    text = "\n".join(texts(output))
    text = _NUMBER.sub("#", re.sub(r"base64,[^\"]*", "", text))
    return dict.fromkeys(re.sub(r"[ \t─-]+", " ", line).strip() for line in text.splitlines())


def texts(output: Any) -> list[str]:
    """All that an output says in words."""
    data = output.get("data", {})
    return [output.get("text", ""), *(data.get(kind, "") for kind in ("text/plain", "text/html"))]


def mark_live(path: Path) -> list[int]:
    """Execute a notebook twice, and tag the cells whose outputs differ; return their numbers."""
    notebook = nbformat.read(path, as_version=4)
    first, second = (tidy(executed(path)) for _ in range(2))
    marked = []
    for number, cell in enumerate(notebook.cells):
        outputs = [run.cells[number].get("outputs") for run in (first, second)]
        if outputs[0] != outputs[1] and not is_live(cell):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), LIVE]
            marked.append(number)
    nbformat.write(notebook, path)
    return marked


# ---- what is wrong with a stored notebook -----------------------------------------------

_FORBIDDEN = {
    "a path of a machine": r"(?<![\w.])/(?:home|root|tmp|work|Users|mnt|opt|private)/",
    "a traceback": r"Traceback \(most recent call last\)",
    "the address of an object": r" at 0x[0-9a-f]{6,}",
    "a progress bar": _PROGRESS,
    "an image without a text alternative": r"<img(?![^>]*\salt=\"[^\"]+\")[^>]*>",
}
_VALUES = (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.Compare, ast.Dict, ast.List)


def faults(path: Path) -> list[str]:
    """Everything wrong with a stored notebook; an empty list if it may be committed."""
    notebook = nbformat.read(path, as_version=4)
    found = []
    code = _code(notebook)
    if digest_of_outputs(notebook) != digest(notebook):
        found.append("the code has changed since it was executed")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its cells were not executed in order")
    if set(notebook.metadata) - {*METADATA, "epolllab"}:
        found.append(f"metadata: {sorted(notebook.metadata)}")
    if len({cell.id for cell in notebook.cells}) < len(notebook.cells):
        found.append("two cells have the same id")
    if path.stat().st_size > MOST_BYTES:
        found.append(f"{path.stat().st_size:,} bytes, and at most {MOST_BYTES:,} are allowed")
    for number, cell in enumerate(notebook.cells):
        found += [f"cell {number}: {fault}" for fault in _faults_of_cell(cell)]
    return found


def _faults_of_cell(cell: Any) -> Iterator[str]:
    if set(cell.metadata) - {"tags"}:
        yield f"metadata: {sorted(cell.metadata)}"
    if cell.cell_type != "code":
        return
    if not cell.outputs and _must_show(cell.source):
        yield "its output is missing"
    for output in cell.outputs:
        yield from _faults_of_output(output)


def _must_show(source: str) -> bool:
    """Whether a cell has an output for certain: it prints, or ends with a value's name."""
    body = ast.parse(source).body
    calls = [node.value for node in body if isinstance(node, ast.Expr)]
    prints = any(isinstance(call, ast.Call) and ast.unparse(call.func) == "print" for call in calls)
    last = body[-1] if body else None
    ends = isinstance(last, ast.Expr) and isinstance(last.value, _VALUES)
    return prints or (ends and not source.rstrip().endswith(";"))


def _faults_of_output(output: Any) -> Iterator[str]:
    if output.output_type == "error":
        yield f"it failed: {output.ename}"
    if output.get("name") == "stderr":
        yield f"it printed to stderr: {output.text[:80]}"
    for text in texts(output):
        for what, pattern in _FORBIDDEN.items():
            if match := re.search(pattern, text):
                yield f"{what}: {text[max(0, match.start() - 20) : match.end() + 40]!r}"
    data = output.get("data", {})
    if WIDGET in data:
        yield "a widget, which has no state in a stored notebook"
    if "image/svg+xml" in data:
        yield "an SVG, which a notebook that is not trusted does not show"
    if "image/png" in data:
        yield from _faults_of_picture(data["image/png"], output.metadata.get("image/png", {}))


def _faults_of_picture(data: str, metadata: Any) -> Iterator[str]:
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        if picture.info.keys() & {"Software", "Creation Time", "Description"}:
            yield f"a picture with metadata: {sorted(picture.info)}"
        # The width in the page may be rounded.
        if abs(picture.width - 2 * metadata.get("width", 0)) > 1:
            yield f"a picture of {picture.width} pixels with {metadata.get('width')} in the page"
    if not metadata.get("alt"):
        yield "a picture without a text alternative"


# ---- the command ------------------------------------------------------------------------


def notebooks(names: Sequence[str] = ()) -> list[Path]:
    """The files of the notebooks named, by file, stem or number; by default all but the index."""
    every = sorted(FOLDER.glob("*.ipynb"))
    if not names:
        return [path for path in every if path.name != make_index.INDEX]
    found = []
    for name in names:
        stem = Path(name).stem
        matching = [path for path in every if path.stem == stem or path.stem.startswith(f"{stem}-")]
        if len(matching) != 1:
            raise ValueError(f"NAME: {name!r} is not one of {', '.join(p.stem for p in every)}")
        found += matching
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description="Execute notebooks and store their outputs.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="file, stem or number; all if none"
    )
    parser.add_argument("--fresh", action="store_true", help="store new live outputs in any case")
    parser.add_argument(
        "--mark-live",
        action="store_true",
        help="execute twice first, and tag the cells whose outputs differ",
    )
    options = parser.parse_args(arguments)
    try:
        paths = notebooks(options.names)
    except ValueError as error:
        parser.error(str(error))
    results = [_make(path, fresh=options.fresh, marks=options.mark_live) for path in paths]
    try:
        make_index.write(FOLDER)
    except ValueError as error:
        print(f"the index was left as it was: {error}")
        return 1
    return 0 if all(results) else 1


def _make(path: Path, *, fresh: bool, marks: bool) -> bool:
    """Execute and store one notebook; print what changed, and what is wrong with it."""
    print(f"{path.stem}: ", end="", flush=True)
    try:
        marked = mark_live(path) if marks else []
        before = nbformat.read(path, as_version=4)
        after = stored(path, fresh=fresh)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(f"failed, and was left as it was\n{error}")
        return False
    lines = [f"cell {number} is live" for number in marked]
    if digest_of_outputs(before) == digest(after):
        pairs = enumerate(zip(before.cells, after.cells, strict=True))
        changed = [
            number for number, (old, new) in pairs if old.get("outputs") != new.get("outputs")
        ]
        lines += [f"cell {number} shows something else than before" for number in changed]
    nbformat.write(after, path)
    wrong = faults(path)
    print("; ".join(lines) or "stored", *(f"\n  fault: {fault}" for fault in wrong), sep="")
    return not wrong


if __name__ == "__main__":
    sys.exit(main())
