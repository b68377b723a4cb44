"""Where the notebooks and the recorded data are, in a checkout or in an installed wheel."""

from pathlib import Path

from epolllab.checks import check_text, checked

__all__ = ["data_file", "notebooks", "reference"]

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parent
_BUNDLED = _PACKAGE / "_lab"


def _root() -> Path:
    """The folder that holds ``notebooks`` and ``data``."""
    return _BUNDLED if _BUNDLED.exists() else _CHECKOUT


def notebooks() -> Path:
    """Return the installed notebooks: the checkout's, or those in the wheel."""
    return _root() / "notebooks"


def data_file(name: str) -> Path:
    """Return the path of a file in ``data``, such as ``"literature.json"``."""
    return _root() / "data" / name


@checked(name=check_text)
def reference(name: str) -> Path:
    """Return the path of a recorded run that notebooks show beside the reader's own.

    Parameters
    ----------
    name : str
        Name of a file in ``data/reference``, with or without ``.parquet``.

    Raises
    ------
    FileNotFoundError
        There is no such file; the message lists those that exist.
    """
    folder = _root() / "data" / "reference"
    path = folder / (name if name.endswith(".parquet") else f"{name}.parquet")
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.parquet"))) or "none"
        raise FileNotFoundError(f"no recorded run {name!r} in {folder}; available: {known}")
    return path
