"""Files: written completely or not at all, and Parquet tables with a JSON header."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["digest", "read_table", "write_atomically", "write_table"]


@contextmanager
def write_atomically(targets: Sequence[Path], *, overwrite: bool = True) -> Iterator[list[Path]]:
    """Yield an empty temporary file for each target; rename them if the block succeeds.

    The temporary files have the targets' order and suffixes, and are removed if the block
    raises.

    Raises
    ------
    FileExistsError
        A target exists and `overwrite` is false, also if it appeared meanwhile.
    OSError
        A folder is missing, read-only or full; the message names it.
    """
    temporaries: list[Path] = []
    published: list[Path] = []
    try:
        temporaries.extend(map(_create_beside, targets))
        yield list(temporaries)
        for temporary, target in zip(temporaries, targets, strict=True):
            _publish(temporary, target, overwrite=overwrite)
            published.append(target)
    except BaseException:
        for path in [*temporaries, *([] if overwrite else published)]:
            with suppress(OSError):
                path.unlink()
        raise


def _create_beside(target: Path) -> Path:
    """Create an empty file in the target's folder, with the permissions of any new file."""
    path = target.with_name(f".{target.stem}-{os.urandom(4).hex()}{target.suffix}")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise type(error)(
            error.errno,
            f"cannot write in this folder ({error.strerror}), so nothing was written; "
            "choose another one",
            str(target.parent),
        ) from error
    return path


def _publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Rename; without `overwrite`, by a hard link, which fails if the target exists."""
    if overwrite:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)
    except OSError as error:
        # A file system without hard links leaves a moment between the check and the rename.
        if isinstance(error, FileExistsError) or target.exists():
            raise FileExistsError(error.errno, "this file exists already", str(target)) from error
        os.replace(temporary, target)
    else:
        temporary.unlink()


def digest(rows: bytes, header: Mapping[str, Any]) -> str:
    """Return the BLAKE2b hash of rows and header, which shows whether a file was changed."""
    from hashlib import blake2b  # loads OpenSSL, which only saving and loading need

    text = json.dumps({**header, "digest": None}, sort_keys=True)
    return blake2b(rows + text.encode(), digest_size=16).hexdigest()


def write_table(path: Path, table: "pa.Table", key: bytes, header: Mapping[str, Any]) -> None:
    """Write a Parquet file whose schema's metadata holds `header` as JSON under `key`.

    An existing file is replaced; other metadata of the schema is kept. OSError if the
    folder does not exist or cannot be written to.
    """
    import pyarrow.parquet as pq

    schema = {**(table.schema.metadata or {}), key: json.dumps(header)}
    with write_atomically([path]) as (temporary,), temporary.open("wb") as file:
        pq.write_table(table.replace_schema_metadata(schema), file, compression="zstd")


def read_table(
    path: str | os.PathLike[str], key: bytes, version: int, *, what: str, hint: str
) -> "tuple[pa.Table, dict[str, Any]]":
    """Read a table and its header, whose ``format_version`` may be at most `version`.

    `what` and `hint`, for error messages, say what the file should hold and what to do if
    it does not. ValueError for any other file and for a newer version; FileNotFoundError.
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
