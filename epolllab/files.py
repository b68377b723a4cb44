"""Files that are written whole or not at all.

One job: hand out a place to write beside each target, and put all of them in their
targets' places at the end. What goes wrong before leaves the folder as it was.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["whole"]


@contextmanager
def whole(targets: Sequence[Path], *, overwrite: bool = True) -> Iterator[list[Path]]:
    """Lend a temporary path for each target; rename them when the block ends well.

    Parameters
    ----------
    targets : sequence of pathlib.Path
        All in folders that exist.
    overwrite : bool
        Whether a file that is there is replaced.

    Yields
    ------
    list of pathlib.Path
        Empty files to write to, in the targets' order and with their endings.

    Raises
    ------
    FileExistsError
        A target is there and `overwrite` is false; also if it came meanwhile.
    OSError
        A folder is missing, read-only or full; the message names it.
    """
    temporaries: list[Path] = []
    done: list[Path] = []
    try:
        temporaries.extend(map(_beside, targets))
        yield list(temporaries)
        for temporary, target in zip(temporaries, targets, strict=True):
            _publish(temporary, target, overwrite=overwrite)
            done.append(target)
    except BaseException:
        for path in [*temporaries, *([] if overwrite else done)]:
            with suppress(OSError):
                path.unlink()
        raise


def _beside(target: Path) -> Path:
    try:
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix
        )
    except OSError as error:
        raise type(error)(
            error.errno,
            f"nothing can be written in this folder ({error.strerror}), so nothing was; "
            "choose another, in charts.export() with folder=",
            str(target.parent),
        ) from error
    os.close(handle)
    umask = os.umask(0)  # mkstemp's files are private; this one is like any other
    os.umask(umask)
    os.chmod(name, 0o666 & ~umask)
    return Path(name)


def _publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Rename; without `overwrite` in the one way that fails where a file has come meanwhile."""
    if not overwrite:
        try:
            os.link(temporary, target)
        except FileExistsError as error:
            raise FileExistsError(
                error.errno, "another program wrote this file meanwhile", str(target)
            ) from error
        except OSError:  # a file system without hard links
            if target.exists():
                raise FileExistsError(f"{target} is there already") from None
        else:
            temporary.unlink()
            return
    os.replace(temporary, target)
