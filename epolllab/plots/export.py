"""A finished chart as files: pictures, the data behind them, and their circumstances.

One job: write them, all or none. It draws nothing and measures nothing.

The same figure, data and words give the same bytes: pictures have no date in them and
the names inside an SVG are made with a fixed salt. So a chart under version control
changes only if it looks different.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from epolllab.checks import check_choice
from epolllab.plots import style
from epolllab.recording import environment, storage
from epolllab.recording.recording import Recording

__all__ = ["FORMATS", "default_folder", "export"]


FORMATS = ("png", "svg", "pdf")
DATA_FORMATS = ("parquet", "csv")
FORMAT_VERSION = 1
"""Version of the JSON beside a chart."""

SALT = "epolllab"
LONGEST_NAME = 100
MOST_LAYOUTS = 6
_NO_DATE: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
_LASTING = (
    "epolllab", "system", "kernel", "machine", "cpu", "cpu_count", "hypervisor", "memory_bytes",
    "python", "implementation", "gil", "numpy", "pandas", "matplotlib",
)  # fmt: skip
"""Circumstances that are the same at the next export; a chart's bytes depend on them."""

Data = pd.DataFrame | pd.Series | Recording


def export(
    figure: Figure | Axes | Sequence[Axes],
    name: str,
    formats: Sequence[str] = ("png", "svg"),
    data: Data | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    *,
    circumstances: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    data_format: str = "parquet",
    dpi: int = 150,
) -> dict[str, Path]:
    """Write a chart, the data that it shows, and what a reader needs to judge them.

    Parameters
    ----------
    figure : matplotlib Figure, Axes or sequence of Axes
        What to write; of an Axes the whole figure that it is in.
    name : str
        The files' common name without ending: letters, digits, ``-``, ``_`` and ``.``.
    formats : sequence of {"png", "svg", "pdf"}
        Pictures wanted.
    data : pandas.DataFrame, pandas.Series or Recording, optional
        What the chart shows, written beside it; a recording always as Parquet.
    folder : path-like, optional
        Where to; made if it is missing. By default :func:`default_folder`.
    overwrite : bool
        Replace files of an earlier export. By default a file that is there is an error.
    circumstances : mapping, optional
        Of the run that the chart shows, such as ``recording.metadata``; by default those
        of `data`, where it has some.
    parameters : mapping, optional
        What the chart was drawn with; of what JSON can hold.
    data_format : {"parquet", "csv"}
        How `data` is written.
    dpi : int
        Dots per inch of a PNG.

    Returns
    -------
    dict of str to pathlib.Path
        What was written, by kind: the formats, ``"parquet"`` or ``"csv"``, ``"json"``.

    Raises
    ------
    FileExistsError
        A file is there, and `overwrite` is false. Nothing is written.
    OSError
        The folder cannot be made or written to. Nothing is written.
    ValueError, TypeError
        A name, a format, data or parameters that cannot be; before anything is written.

    Notes
    -----
    All files appear together at the end, and none where something goes wrong before.
    """
    drawn = _figure(figure)
    _check_name(name)
    kinds = _checked_formats(formats)
    check_choice("data_format", data_format, DATA_FORMATS)
    kind = None if data is None else "parquet" if isinstance(data, Recording) else data_format
    _check_data(data)
    endings = [*kinds, *([kind] if kind else []), "json"]
    place = default_folder() if folder is None else Path(folder)
    paths = {ending: place / f"{name}.{ending}" for ending in endings}
    words = _sidecar(name, paths, data, circumstances, parameters)
    _require_room(place, list(paths.values()), overwrite=overwrite)
    with (
        storage.write_atomically(list(paths.values()), overwrite=overwrite) as lent,
        _laid_out(drawn),
    ):
        for ending, path in zip(endings, lent, strict=True):
            if ending in kinds:
                _draw(drawn, path, ending, dpi)
            elif ending == "json":
                path.write_text(words, encoding="utf-8")
            else:
                _write_data(data, path, ending)
    return paths


def default_folder() -> Path:
    """Give ``data/charts`` of the lab that the working directory is in.

    Returns
    -------
    pathlib.Path
        Under the nearest folder upward that holds ``notebooks`` and ``data``; under the
        working directory where there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "data").is_dir():
            return folder / "data" / "charts"
    return here / "data" / "charts"


# ---- what is asked for -----------------------------------------------------------------


def _figure(thing: object) -> Figure:
    if isinstance(thing, Axes | FigureBase):
        found: Any = thing
        while not isinstance(found, Figure):  # an Axes, or a figure within a figure
            found = found.figure
        return found
    several = list(thing.flat) if isinstance(thing, np.ndarray) else thing
    if isinstance(several, Sequence) and several and all(isinstance(a, Axes) for a in several):
        owners = {id(_figure(ax)): _figure(ax) for ax in several}
        if len(owners) == 1:
            return owners.popitem()[1]
        raise ValueError(f"these Axes are in {len(owners)} figures; export each by itself")
    raise TypeError(
        f"a matplotlib Figure or Axes is exported, not a {type(thing).__name__}; "
        "every function of plots returns the Axes that it drew on"
    )


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name is a str, the files' name without ending, not {name!r}")
    if len(name) > LONGEST_NAME or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            f"name {name!r} cannot be a file's name here: use letters, digits, '-', '_' and '.', "
            f"first a letter or digit, {LONGEST_NAME} at most; a folder goes into folder="
        )


def _checked_formats(formats: Sequence[str]) -> list[str]:
    kinds = [formats] if isinstance(formats, str) else list(formats)
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"formats names at least one of {FORMATS}, each once, not {formats!r}")
    for kind in kinds:
        check_choice("formats", kind, FORMATS)
    return kinds


def _check_data(data: object) -> None:
    if data is not None and not isinstance(data, pd.DataFrame | pd.Series | Recording):
        raise TypeError(
            f"data is a DataFrame, a Series or a Recording, not a {type(data).__name__}; "
            "pandas.DataFrame(...) makes one of most things"
        )


def _require_room(folder: Path, paths: Sequence[Path], *, overwrite: bool) -> None:
    """Make the folder, and refuse where something is in the way."""
    there = [path.name for path in paths if path.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{', '.join(there)} in {folder}: there already, and kept. Say overwrite=True to "
            "replace, or another name"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"the folder cannot be made ({error.strerror}), so nothing was written; say another "
            "one with folder=",
            str(folder),
        ) from error


# ---- writing ---------------------------------------------------------------------------


@contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Keep a figure's layout still while it is written.

    A layout engine begins where it ended at the last drawing, and comes a little nearer
    to its goal each time: the second export would differ from the first by a fraction of
    a pixel. So it runs until nothing moves, and what it found is rounded.
    """
    engine = figure.get_layout_engine()
    if engine is None:
        yield
        return
    places = _places(figure)
    for _ in range(MOST_LAYOUTS):
        engine.execute(figure)
        before, places = places, _places(figure)
        if np.allclose(before, places, rtol=0, atol=1e-7):
            break
    free = [ax for ax in figure.axes if ax.get_axes_locator() is None]
    was_in_layout = [ax.get_in_layout() for ax in free]
    figure.set_layout_engine("none")
    try:
        for ax in free:
            left, bottom, width, height = (round(float(e), 4) for e in ax.get_position().bounds)
            ax.set_position((left, bottom, width, height))
        yield
    finally:
        for ax, is_in in zip(free, was_in_layout, strict=True):
            ax.set_in_layout(is_in)
        figure.set_layout_engine(engine)


def _places(figure: Figure) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array([ax.get_position().bounds for ax in figure.axes])


def _draw(figure: Figure, path: Path, kind: str, dpi: int) -> None:
    with _salted():
        figure.savefig(path, format=kind, dpi=dpi, metadata=_NO_DATE[kind])


@contextmanager
def _salted() -> Iterator[None]:
    """Have matplotlib make the same names in an SVG every time."""
    settings: Any = mpl.rcParams
    wanted = {"svg.hashsalt": SALT, "svg.fonttype": "path"}
    with style._settings_lock:  # the settings are one dictionary for all threads
        borrowed = {key: settings[key] for key in wanted}
        try:
            settings.update(wanted)
            yield
        finally:
            settings.update(borrowed)


def _write_data(data: Data | None, path: Path, kind: str) -> None:
    if isinstance(data, Recording):
        data.save(path)
        return
    frame = data.to_frame() if isinstance(data, pd.Series) else data
    assert frame is not None
    bare = frame.copy(deep=False)
    bare.attrs = {}  # in the JSON, as far as they are circumstances
    bare.columns = pd.Index([str(column) for column in bare.columns])
    has_index = not isinstance(bare.index, pd.RangeIndex)
    if kind == "csv":
        bare.to_csv(path, index=has_index, lineterminator="\n")
    else:
        try:
            bare.to_parquet(path, engine="pyarrow", compression="zstd", index=has_index)
        except pa.ArrowException as error:
            raise ValueError(
                f"data has a column that Parquet cannot hold ({error}); make it numbers or "
                'text, or say data_format="csv"'
            ) from error


def _sidecar(
    name: str,
    paths: Mapping[str, Path],
    data: Data | None,
    circumstances: Mapping[str, Any] | None,
    parameters: Mapping[str, Any] | None,
) -> str:
    """The JSON's text, made before anything is written: it can fail."""
    found = circumstances if circumstances is not None else _circumstances_of(data)
    facts = environment.collect(recorder_cost_ns=0.0)
    words = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "files": [path.name for ending, path in paths.items() if ending != "json"],
        "rows": None if data is None else len(data),
        "parameters": _plain("parameters", parameters or {}),
        "circumstances": _plain("circumstances", found),
        "drawn_on": {key: facts[key] for key in _LASTING},
    }
    return json.dumps(words, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _circumstances_of(data: Data | None) -> Any:
    if isinstance(data, Recording):
        return data.metadata
    found = getattr(data, "attrs", {}).get("circumstances")
    return {"summary": found} if isinstance(found, str) else found or {}


def _plain(where: str, value: Any) -> Any:
    """The value of what JSON can hold; numpy's numbers become Python's, NaN becomes null."""
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
        f"{where} is a {type(value).__name__}, which JSON cannot hold; give a number, a string, "
        "None, or a list or mapping of them"
    )
