"""A finished chart as files: images, the data it shows, and the circumstances of the run.

The same figure, data and parameters give the same bytes: images carry no date, and the
names inside an SVG are made with a fixed salt. So a chart under version control changes
only if it looks different.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from epolllab.checks import (
    check_bool,
    check_choice,
    check_mapping,
    check_names,
    check_number,
    check_text,
)
from epolllab.plots import style
from epolllab.plots.alternative import alt_text, figure_of
from epolllab.recording import environment, storage
from epolllab.recording.recording import Recording

__all__ = ["FORMATS", "LONGEST_NAME", "NAME_PATTERN", "default_folder", "export"]

FORMATS = ("png", "svg", "pdf")
DATA_FORMATS = ("parquet", "csv")
FORMAT_VERSION = 1
"""Version of the JSON beside a chart."""

LONGEST_NAME = 100
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
MOST_PIXELS = 100_000_000
"""Of a PNG; drawing it takes 4 bytes each."""

_FIXED_NAMES = {"svg.hashsalt": "epolllab", "svg.fonttype": "path"}
_NO_DATE: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
_STABLE = (
    "epolllab", "system", "kernel", "machine", "cpu", "cpu_count", "hypervisor", "memory_bytes",
    "python", "implementation", "gil", "numpy", "pandas", "matplotlib",
)  # fmt: skip
"""Facts about the machine that do not change between two exports."""

Data = pd.DataFrame | pd.Series | Recording


def export(
    figure: Figure | Axes | Sequence[Axes],
    name: str,
    formats: Sequence[str] = ("png", "svg"),
    data: Data | None = None,
    folder: storage.PathName | None = None,
    overwrite: bool = False,
    *,
    circumstances: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    data_format: str = "parquet",
    dpi: int = 150,
) -> dict[str, Path]:
    """Write a chart, the data that it shows, and the circumstances of the run.

    The JSON has the circumstances and the text alternative of the picture, for a page that
    shows it. Arguments are checked first. All files appear together at the end, and none if
    anything fails before.

    Parameters
    ----------
    figure : matplotlib Figure, Axes or sequence of Axes
        What to write; for Axes, the whole figure that contains them.
    name : str
        The files' common name without suffix: letters, digits, ``-``, ``_`` and ``.``.
    formats : sequence of {"png", "svg", "pdf"}
        The image files to write.
    data : pandas.DataFrame, pandas.Series or Recording, optional
        What the chart shows, written beside it; a recording always as Parquet.
    folder : path-like, optional
        Where to write; created if it is missing. By default :func:`default_folder`.
    overwrite : bool
        Replace files of an earlier export, which keep their modes. By default an existing file is a
        FileExistsError, and nothing is written.
    circumstances : mapping, optional
        Of the run that the chart shows, such as ``recording.metadata``; by default those
        of `data`, where it has some.
    parameters : mapping, optional
        What the chart was drawn with; values that JSON can hold.
    data_format : {"parquet", "csv"}
        How `data` is written.
    dpi : int
        Dots per inch of a PNG.

    Returns
    -------
    dict of str to pathlib.Path
        The files written, by kind: the formats, ``"parquet"`` or ``"csv"``, ``"json"``.
    """
    drawn = _figure(figure)
    _check_name(name)
    kinds = _check_formats(formats)
    check_choice("data_format", data_format, DATA_FORMATS)
    check_bool("overwrite", overwrite)
    for name_of, given in (("circumstances", circumstances), ("parameters", parameters)):
        if given is not None:
            check_mapping(name_of, given)
    _check_dpi(dpi, drawn)
    if data is not None and not isinstance(data, pd.DataFrame | pd.Series | Recording):
        found = type(data).__name__
        raise TypeError(f"data must be a DataFrame, a Series or a Recording, not {found}")
    data_kind = "parquet" if isinstance(data, Recording) else data_format
    suffixes = [*kinds, *([] if data is None else [data_kind]), "json"]
    parent = default_folder() if folder is None else storage.local_path(folder, "folder")
    paths = {suffix: parent / f"{name}.{suffix}" for suffix in suffixes}
    sidecar = _sidecar(name, paths, alt_text(drawn), data, circumstances, parameters)
    existing = [path.name for path in paths.values() if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"{', '.join(existing)} in {parent}: exists already, so nothing was written. Choose "
            "another name, or overwrite=True"
        )
    _make_folder(parent)
    with storage.write_atomically(list(paths.values()), overwrite=overwrite) as temporary:
        for suffix, path in zip(suffixes, temporary, strict=True):
            if suffix in kinds:
                _draw(drawn, path, suffix, dpi)
            elif suffix == "json":
                path.write_text(sidecar, encoding="utf-8")
            elif data is not None:
                _write_data(data, path, suffix)
    return paths


def default_folder() -> Path:
    """Return ``data/exports`` of the lab that contains the working directory.

    The lab is the nearest folder upward that holds ``notebooks`` and ``data``: a checkout,
    where git ignores ``data/exports``, or the copy that ``epolllab lab`` makes. Where there
    is none, it is ``data/exports`` in the working directory.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "data").is_dir():
            return folder / "data" / "exports"
    return here / "data" / "exports"


def _figure(thing: object) -> Figure:
    if isinstance(thing, Axes | FigureBase):
        return figure_of(thing)
    several = list(thing.flat) if isinstance(thing, np.ndarray) else thing
    if isinstance(several, Sequence) and several and all(isinstance(a, Axes) for a in several):
        figures = {_figure(ax) for ax in several}
        if len(figures) == 1:
            return figures.pop()
        raise ValueError(f"figure: these Axes are in {len(figures)} figures; export each by itself")
    raise TypeError(f"figure must be a matplotlib Figure or Axes, not {type(thing).__name__}")


def _check_name(name: str) -> None:
    check_text("name", name)
    if len(name) > LONGEST_NAME or not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            f"name must be at most {LONGEST_NAME} letters, digits, '-', '_' and '.', the first a "
            f"letter or digit, not {name!r}; a folder goes into folder="
        )


def _check_formats(formats: Sequence[str]) -> list[str]:
    return list(
        check_names("formats", (formats,) if isinstance(formats, str) else formats, FORMATS)
    )


def _check_dpi(dpi: float, figure: Figure) -> None:
    check_number("dpi", dpi, above=0, most=10_000)
    width, height = (float(inches) for inches in figure.get_size_inches())
    if width * height * dpi**2 > MOST_PIXELS:
        raise ValueError(
            f"dpi must give at most {MOST_PIXELS:,} pixels, not {dpi:,} for a figure of "
            f"{width:g} x {height:g} inches"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"folder cannot be made ({error.strerror}), so nothing was written; use another"
        raise type(error)(error.errno, message, str(folder)) from error


def _draw(figure: Figure, path: Path, kind: str, dpi: int) -> None:
    # A layout engine begins where the last drawing ended. From the positions of a new figure
    # it always ends in the same place, and so the file has the same bytes.
    for ax in figure.axes:
        if spec := ax.get_subplotspec():
            ax.set_subplotspec(spec)
    with style.settings(_FIXED_NAMES):
        figure.savefig(path, format=kind, dpi=dpi, metadata=_NO_DATE[kind])


def _write_data(data: Data, path: Path, kind: str) -> None:
    if isinstance(data, Recording):
        data.save(path)
        return
    frame = data.to_frame() if isinstance(data, pd.Series) else data.copy(deep=False)
    frame.attrs = {}  # the JSON has what they say of the circumstances
    frame.columns = pd.Index([str(column) for column in frame.columns])
    has_index = not isinstance(frame.index, pd.RangeIndex)
    if kind == "csv":
        frame.to_csv(path, index=has_index, lineterminator="\n")
        return
    try:
        frame.to_parquet(path, engine="pyarrow", compression="zstd", index=has_index)
    except pa.ArrowException as error:
        raise ValueError(
            f"data has a column that Parquet cannot hold ({error}); convert it to numbers or "
            'text, or use data_format="csv"'
        ) from error


def _sidecar(
    name: str,
    paths: Mapping[str, Path],
    description: str,
    data: Data | None,
    circumstances: Mapping[str, Any] | None,
    parameters: Mapping[str, Any] | None,
) -> str:
    """The JSON's text."""
    found: Any = circumstances
    if found is None and isinstance(data, Recording):
        found = data.metadata
    elif found is None:
        own = getattr(data, "attrs", {}).get("circumstances")
        found = {"summary": own} if isinstance(own, str) else own or {}
    facts = environment.collect(recorder_cost_ns=0.0)
    content = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "description": description,
        "files": [path.name for suffix, path in paths.items() if suffix != "json"],
        "rows": None if data is None else len(data),
        "parameters": _plain("parameters", parameters or {}),
        "circumstances": _plain("circumstances", found),
        "drawn_on": {key: facts[key] for key in _STABLE},
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(where: str, value: Any) -> Any:
    """Convert to what JSON can hold: NumPy numbers to Python's, NaN to null, a path to its name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{where}[{key!r}]", part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        parts = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [_plain(where, part) for part in parts]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return value.name
    raise TypeError(
        f"{where} must be a number, a string, None, or a list or mapping of them, for JSON; not "
        f"{type(value).__name__}"
    )
