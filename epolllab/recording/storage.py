"""Parquet files that carry a header: JSON under a key of the schema's metadata.

One job: write table and header as one file, whole or not at all; read them back, or say
why that cannot be. It knows neither recordings nor results.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epolllab.recording import storage

if TYPE_CHECKING:
    import pyarrow as pa


import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

__all__ = ["read_table", "write_atomically", "write_table"]


def write_table(path: Path, table: "pa.Table", key: bytes, header: Mapping[str, Any]) -> None:
    """Write the table with this header; a file that is there is replaced.

    Parameters
    ----------
    path : pathlib.Path
        In a folder that exists.
    table : pyarrow.Table
        What else its schema's metadata has is kept.
    key : bytes
        Under which the header stands.
    header : mapping
        With ``format_version``.

    Raises
    ------
    OSError
        The folder does not exist or cannot be written to.
    """
    import pyarrow.parquet as pq

    schema = {**(table.schema.metadata or {}), key: json.dumps(header)}
    with storage.write_atomically([path]) as (temporary,), temporary.open("wb") as file:
        pq.write_table(table.replace_schema_metadata(schema), file, compression="zstd")


def read_table(
    path: str | os.PathLike[str], key: bytes, version: int, *, what: str, hint: str
) -> "tuple[pa.Table, dict[str, Any]]":
    """Read a table and its header.

    Parameters
    ----------
    path : path-like
        The file.
    key : bytes
        Under which the header stands.
    version : int
        The newest ``format_version`` that can be read.
    what, hint : str
        What the file should hold, and what to do if it does not.

    Raises
    ------
    ValueError
        No Parquet file, or one of something else, or of a newer version.
    FileNotFoundError
        There is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file, so it is not {what}") from error
    found = (table.schema.metadata or {}).get(key)
    if found is None:
        raise ValueError(
            f"{path} is a Parquet file, but not {what}: its schema has no {key.decode()!r} "
            f"metadata. {hint}"
        )
    header: dict[str, Any] = json.loads(found)
    if header["format_version"] > version:
        raise ValueError(
            f"{path} has format version {header['format_version']}, and this epolllab reads up "
            f"to {version}; upgrade epolllab to read it"
        )
    return table, header


@contextmanager
def write_atomically(targets: Sequence[Path], *, overwrite: bool = True) -> Iterator[list[Path]]:
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
