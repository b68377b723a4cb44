"""Where the notebooks and the recorded data are, in a checkout or in a wheel.

One job: find folders. It opens no file but for copying the notebooks.
"""

import shutil
from pathlib import Path

__all__ = ["copy_lab", "notebooks", "reference"]


_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parent
_BUNDLED = _PACKAGE / "_lab"


def _root() -> Path:
    """The folder that holds ``notebooks`` and ``data``."""
    return _BUNDLED if _BUNDLED.exists() else _CHECKOUT


def notebooks() -> Path | None:
    """The notebooks' folder beside the package; None where it is not a checkout."""
    folder = _CHECKOUT / "notebooks"
    return folder if folder.is_dir() and (_CHECKOUT / "pyproject.toml").exists() else None


def copy_lab(folder: Path) -> Path:
    """Copy the bundled notebooks and recorded data; keep what is there already.

    Parameters
    ----------
    folder : pathlib.Path
        Made if it does not exist. A notebook that is there is the reader's own and
        is left as it is.

    Returns
    -------
    pathlib.Path
        The copy's notebooks folder.
    """
    for source in sorted(path for path in _root().rglob("*") if path.is_file()):
        target = folder / source.relative_to(_root())
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return folder / "notebooks"


def reference(name: str) -> Path:
    """The path of one of our recorded runs, which notebooks show beside the reader's own.

    Parameters
    ----------
    name : str
        Name of a file in ``data/reference``, with or without ``.parquet``.

    Raises
    ------
    FileNotFoundError
        There is none of that name; the message lists those there are.
    """
    folder = _root() / "data" / "reference"
    path = folder / (name if name.endswith(".parquet") else f"{name}.parquet")
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.parquet"))) or "none"
        raise FileNotFoundError(f"no recorded run {name!r} in {folder}; there are: {there}")
    return path
