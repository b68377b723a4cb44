"""A reader's copy of the notebooks: installed, refreshed after an upgrade, never written over.

``.epolllab.json`` in the folder has two digests of each file as it was installed: of its bytes,
and for a notebook of its cells' sources. So a notebook that was run but not edited is known.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from epolllab.notebook import paths

__all__ = ["INDEX", "LabCopy", "default_folder", "update_copy"]

INDEX = "00-index.ipynb"
MANIFEST = ".epolllab.json"
PREVIOUS = "previous"
"""Folder beside the notebooks for runs of notebooks that an upgrade has replaced or removed."""

Digests = tuple[str, str]


@dataclass
class LabCopy:
    """What :func:`update_copy` did.

    Attributes
    ----------
    notebooks : pathlib.Path
        The folder with the notebooks.
    beside : list of str
        New versions of edited files, written beside them: ``01-start-with-the-how-to.new.ipynb``.
    set_aside : list of str
        Notebooks that had been run but not edited, moved to ``previous`` before a new version
        took their place.
    left : list of str
        Edited files that the installed version no longer has.
    """

    notebooks: Path
    beside: list[str] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def default_folder() -> Path:
    """Return the copy that contains the working directory, or ``epolllab-lab`` in it."""
    here = Path.cwd()
    made = (folder for folder in (here, *here.parents) if (folder / MANIFEST).is_file())
    return next(made, here / "epolllab-lab")


def update_copy(folder: Path) -> LabCopy:
    """Bring the copy in `folder` up to the installed version; create it if necessary.

    A file that is missing is installed. One that was not edited is replaced; if it is a
    notebook that was run, the run is moved to ``notebooks/previous`` first. Of one that was
    edited, a new version is written beside it, once. Symbolic links count as edited, so that
    nothing is written through them.

    Parameters
    ----------
    folder : pathlib.Path
        The reader's folder; ``notebooks`` and ``data`` are made in it.

    Returns
    -------
    LabCopy
        The notebooks' folder, and what to tell the reader.

    Raises
    ------
    ValueError
        The folder's ``notebooks`` are the installed ones, which running must not change.
    OSError
        The folder cannot be written to: it is a file, not permitted, or the disk is full.
    """
    source = paths.notebooks()
    try:
        _check_apart(folder, source)
        for made in (folder / "notebooks", folder / "data"):
            made.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            return _Update(source, folder).run()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise type(error)(
            f"folder {folder} cannot hold a copy of the notebooks ({reason}); "
            "choose another with --folder"
        ) from error


def _check_apart(folder: Path, source: Path) -> None:
    target = Path(os.path.realpath(folder / "notebooks"))
    if target == source or source in target.parents:
        raise ValueError(
            f"folder {folder} has the installed notebooks, which must not change; "
            "choose another with --folder"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Have one process at a time update the folder."""
    import fcntl  # not on every system that can read recordings

    with (folder / ".epolllab.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Update:
    """One update of a copy."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.notebooks = Path(os.path.realpath(folder / "notebooks"))
        self.installed, self.beside = _read_manifest(folder / MANIFEST)
        self.done = LabCopy(self.notebooks)

    def run(self) -> LabCopy:
        """Update each file, and note what is installed."""
        names = [path.relative_to(self.source).as_posix() for path in _files(self.source)]
        try:
            for name in names:
                self.update(name)
            for name in sorted(set(self.installed) - set(names)):
                self.remove(name)
        finally:  # also if the disk is full: what was done is known to the next update
            files = {"format": 1, "files": self.installed, "beside": self.beside}
            _write(self.folder / MANIFEST, json.dumps(files, indent=1).encode())
        return self.done

    def update(self, name: str) -> None:
        """Install, replace or keep one file, or write the new version beside it."""
        data, path = (self.source / name).read_bytes(), self.notebooks / name
        if os.path.realpath(path.parent) != str(path.parent):
            return  # in a folder that the reader linked here
        new, theirs, known = _digests(name, data), _digests_of(path), self.installed.get(name)
        if theirs is None or theirs == known != new:
            _write(path, data)
        elif theirs[1] != new[1]:
            if known is not None and theirs[1] == known[1]:
                self.set_aside(name)
                _write(path, data)
            elif known is None or known[1] != new[1]:
                self.put_beside(name, data, new)
        self.installed[name] = new

    def put_beside(self, name: str, data: bytes, new: Digests) -> None:
        """Write a new version beside an edited file, in place of an earlier one if unedited."""
        path = Path(name)
        for beside in _numbered(f"{path.with_suffix('')}.new", path.suffix):
            theirs = _digests_of(self.notebooks / beside)
            if theirs is None or theirs == self.beside.get(beside):
                break
        _write(self.notebooks / beside, data)
        self.beside[beside] = new
        self.done.beside.append(beside)

    def set_aside(self, name: str) -> None:
        """Move a run of an unedited notebook to the folder of previous ones."""
        path = Path(name)
        for kept in _numbered(f"{PREVIOUS}/{path.with_suffix('')}", path.suffix):
            if not os.path.lexists(self.notebooks / kept):
                break
        (self.notebooks / kept).parent.mkdir(parents=True, exist_ok=True)
        (self.notebooks / name).rename(self.notebooks / kept)
        self.done.set_aside.append(kept)

    def remove(self, name: str) -> None:
        """Take away what is no longer installed, unless it was edited."""
        theirs, known = _digests_of(self.notebooks / name), self.installed.pop(name)
        if theirs == known:
            (self.notebooks / name).unlink()
        elif theirs is not None and theirs[1] == known[1]:
            self.set_aside(name)
        elif theirs is not None:
            self.done.left.append(name)


def _files(source: Path) -> list[Path]:
    """The installed files, without hidden ones such as Jupyter's checkpoints."""
    return [
        path
        for path in sorted(source.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    ]


def _numbered(stem: str, suffix: str) -> Iterator[str]:
    """``stem.ipynb``, ``stem-2.ipynb`` and so on."""
    yield f"{stem}{suffix}"
    number = 2
    while True:
        yield f"{stem}-{number}{suffix}"
        number += 1


def _digests_of(path: Path) -> Digests | None:
    """The digests of a file; None if there is nothing, and unlike any for what is no file."""
    if path.is_file() and not path.is_symlink():
        return _digests(path.name, path.read_bytes())
    return ("", "") if os.path.lexists(path) else None


def _digests(name: str, data: bytes) -> Digests:
    """The digest of a file's bytes, and of its cells' sources if it is a notebook."""
    content = data
    if name.endswith(".ipynb"):
        with suppress(ValueError, KeyError, TypeError):  # a broken notebook counts as bytes
            cells = json.loads(data)["cells"]
            sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
            content = json.dumps(sources).encode()
    return _digest(data), _digest(content)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _read_manifest(path: Path) -> tuple[dict[str, Digests], dict[str, Digests]]:
    """What was installed, and what beside edited files; nothing if it cannot be read.

    Without it all files that differ count as edited.
    """
    try:
        manifest = json.loads(path.read_bytes())
        parts = (manifest["files"].items(), manifest["beside"].items())
        installed, beside = ({name: (str(a), str(b)) for name, (a, b) in part} for part in parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}
    return installed, beside


def _write(path: Path, data: bytes) -> None:
    """Write a file in one step, so that neither a crash nor a full disk leaves a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".epolllab-{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
