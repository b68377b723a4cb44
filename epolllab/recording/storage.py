"""Files: written completely or not at all, and Parquet tables with a JSON header."""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epolllab.checks import check_path
from epolllab.events import Op
from epolllab.kernel import memory_available

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = [
    "Defect",
    "PathName",
    "check_columns",
    "check_memory",
    "check_regular",
    "digest",
    "local_path",
    "op_numbers",
    "open_table",
    "parse_header",
    "read_all",
    "verify",
    "write_atomically",
    "write_table",
]

PathName = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""What names a file."""

MOST_HEADER_BYTES = 16 << 20
"""Longest header that is written or parsed; a real one has a few thousand bytes."""

BYTES_PER_VALUE = 16
"""Memory that reading needs for each value: as a column, and in a frame or in rows."""

UNCHECKED_BYTES = 32 << 20
"""What is read without asking how much memory there is, which takes as long as a small file."""

PIECE_ROWS = 1024
"""Rows of a piece whose size is checked before the next one is read."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def local_path(path: object, name: str = "path") -> Path:
    """Return the path of a local file.

    TypeError for anything but a str, bytes or path-like; ValueError for a URL and for a
    name that no file can have. `name` is the parameter's, for the error.
    """
    given = os.fspath(path) if isinstance(path, os.PathLike) else path
    text = os.fsdecode(given) if isinstance(given, bytes) else given
    local = check_path(name, text)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(text)):
        raise ValueError(f"{name} must name a local file, not {text!r}; download a URL first")
    return local


def check_regular(path: Path, mode: int) -> None:
    """Raise ValueError unless the mode is a regular file's."""
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise ValueError(f"path must name a regular file, but {path} is {kind}")


# ---- writing ----------------------------------------------------------------------------


@contextmanager
def write_atomically(targets: Sequence[Path], *, overwrite: bool = True) -> Iterator[list[Path]]:
    """Yield an empty temporary file for each target; rename them if the block succeeds.

    The temporary files have the targets' order, and are removed if the block raises. A
    symbolic link stays, and the file that it leads to is replaced. A replaced file's mode
    and, where permitted, its owner and group are kept.

    Raises
    ------
    ValueError
        A target is a folder, FIFO, device or socket, or a link to a missing file.
    FileExistsError
        A target exists and `overwrite` is false, also if it appeared meanwhile.
    OSError
        A folder is missing, read-only or full; the error names the target.
    """
    files = [_behind_link(target) for target in targets]
    temporaries = [file.with_name(f".epolllab-{os.urandom(8).hex()}.tmp") for file in files]
    published: list[Path] = []
    try:
        for temporary, file in zip(temporaries, files, strict=True):
            _create(temporary, private=file.exists())
        yield list(temporaries)
        for temporary, file in zip(temporaries, files, strict=True):
            _keep_permissions(file, temporary)
            _publish(temporary, file, overwrite=overwrite)
            published.append(file)
    except BaseException as error:
        for path in [*temporaries, *([] if overwrite else published)]:
            with suppress(OSError):
                path.unlink()
        if isinstance(error, OSError):
            raise _naming_targets(error, targets, temporaries) from error
        raise


def _behind_link(target: Path) -> Path:
    """The regular file to write or replace: the one that a symbolic link leads to."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        if target.is_symlink():
            raise ValueError(
                f"path must name a file, but {target} is a link to a file that does not exist"
            ) from None
        return target
    check_regular(target, mode)
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def _create(path: Path, *, private: bool) -> None:
    """Create an empty file with the mode of any new file, or readable by its owner only."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o600 if private else 0o666))


def _keep_permissions(file: Path, temporary: Path) -> None:
    """Give the new file the owner, group, mode and attributes of the one it replaces."""
    if not file.exists():
        return
    old = file.stat()
    for owner in ((old.st_uid, -1), (-1, old.st_gid)):
        with suppress(OSError, AttributeError):  # not permitted, or not a Unix system
            os.chown(temporary, *owner)
    shutil.copystat(file, temporary)
    os.utime(temporary)
    if temporary.stat().st_gid != old.st_gid:
        temporary.chmod(stat.S_IMODE(old.st_mode) & ~0o070)  # meant for another group


def _publish(temporary: Path, file: Path, *, overwrite: bool) -> None:
    """Rename; without `overwrite`, by a hard link, which fails if the file exists."""
    if overwrite:
        os.replace(temporary, file)
        return
    try:
        os.link(temporary, file)
    except OSError as error:
        # A file system without hard links leaves a moment between the check and the rename.
        if isinstance(error, FileExistsError) or file.exists():
            raise FileExistsError(error.errno, "this file exists already", str(file)) from error
        os.replace(temporary, file)
    else:
        temporary.unlink()


def _naming_targets(
    error: OSError, targets: Sequence[Path], temporaries: Sequence[Path]
) -> OSError:
    """The error with the target's name, or the folder's of several, in a temporary file's place."""
    of_temporary = dict(zip(map(os.fspath, temporaries), targets, strict=True))
    found = None if error.filename is None else str(error.filename)
    if found is not None and found not in of_temporary:
        return error
    reason = error.strerror or str(error)
    if len(targets) == 1:
        return OSError(error.errno, f"{reason}, so nothing was written", str(targets[0]))
    failed = targets if found is None else [of_temporary[found]]
    names = ", ".join(target.name for target in failed)
    message = f"{reason} for {names}, so nothing was written"
    return OSError(error.errno, message, str(targets[0].parent))


# ---- tables with a header ---------------------------------------------------------------


class Defect(ValueError):
    """What is wrong with a file, as the rest of a sentence that begins with its name."""


def digest(content: bytes, header: Mapping[str, Any]) -> str:
    """Return the BLAKE2b hash of content and header, which shows whether a file was changed."""
    from hashlib import blake2b  # loads OpenSSL, which only saving and loading need

    made = blake2b(content, digest_size=16)
    made.update(json.dumps({**header, "digest": None}, sort_keys=True).encode())
    return made.hexdigest()


def verify(content: bytes, header: Mapping[str, Any]) -> None:
    """Raise Defect unless content and header have the header's digest."""
    if digest(content, header) != header["digest"]:
        raise Defect("is damaged: its rows or its metadata have changed")


def write_table(
    path: Path, table: "pa.Table", key: bytes, header: Mapping[str, Any], content: bytes
) -> None:
    """Write a Parquet file whose schema's metadata holds `header` as JSON under `key`.

    The header gets a digest of itself and of `content`, what a reader makes of the table.
    An existing file is replaced; other metadata of the schema is kept. OSError if the
    folder does not exist or cannot be written to.
    """
    import pyarrow.parquet as pq

    read_back = json.loads(json.dumps(header))  # numbers that are keys become text
    text = json.dumps({**header, "digest": digest(content, read_back)})
    if len(text) > MOST_HEADER_BYTES:
        raise ValueError(
            f"metadata must take at most {MOST_HEADER_BYTES:,} bytes as JSON, not {len(text):,}"
        )
    schema = {**(table.schema.metadata or {}), key: text}
    with write_atomically([path]) as (temporary,), temporary.open("wb") as file:
        pq.write_table(table.replace_schema_metadata(schema), file, compression="zstd")


@contextmanager
def open_table(
    path: Path, key: bytes, layouts: Mapping[int, Sequence[str]], *, what: str, hint: str
) -> "Iterator[tuple[pq.ParquetFile, dict[str, Any]]]":
    """Open a file of :func:`write_table`; yield it with its header.

    Whatever its content raises, also in the block, becomes a ValueError that names the
    file. `layouts` has the header's keys for each format version; `what` and `hint`, for
    errors, say what the file should hold and what to do if it does not. FileNotFoundError
    if there is no such file; other OSErrors if it cannot be opened or read.
    """
    check_regular(path, os.stat(path).st_mode)  # first, since opening a FIFO would block
    with path.open("rb") as file:
        try:
            parquet = _open_parquet(file, what)
            _check_size(parquet.metadata)
            yield parquet, _header(parquet, key, layouts, what, hint)
        except Defect as error:
            raise ValueError(f"{path} {error}") from error
        except Exception as error:
            if _is_of_the_disk(error):
                raise
            reason = f"{type(error).__name__}: {error!s:.200}"
            raise ValueError(f"{path} is damaged, or not {what} ({reason})") from error


def _is_of_the_disk(error: Exception) -> bool:
    """Whether reading failed; seeking where a damaged file says fails with EINVAL, too."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def read_all(parquet: "pq.ParquetFile") -> "pa.Table":
    """Read all columns, in pieces; raise Defect if they grow beyond half of the memory.

    A text that is in the file once can be in every row.
    """
    import pyarrow as pa

    pieces, n_bytes = [], 0
    for piece in parquet.iter_batches(batch_size=PIECE_ROWS, use_threads=False):
        pieces.append(piece)
        n_bytes += piece.nbytes
        check_memory(n_bytes, "its values")
    return pa.Table.from_batches(pieces, schema=parquet.schema_arrow).unify_dictionaries()


def check_memory(n_bytes: int, what: str) -> None:
    """Raise Defect if that many bytes are more than half of the memory."""
    available = memory_available() if n_bytes > UNCHECKED_BYTES else None
    if available is not None and n_bytes > available // 2:
        raise Defect(
            f"cannot be read here: {what} need about {n_bytes:,} bytes, more than half of the "
            f"{available:,} bytes of memory available"
        )


def _open_parquet(file: Any, what: str) -> "pq.ParquetFile":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pre_buffer would read in another thread.
        return pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        if _is_of_the_disk(error):
            raise
        raise Defect(f"is not a Parquet file, so it is not {what}, or it is damaged") from error


def _check_size(metadata: "pq.FileMetaData") -> None:
    """Raise Defect for numbers of rows that would take all memory or time, before any is read."""
    # pyarrow 26 aborts the process if the metadata of a damaged column is looked at, so no more
    # than the numbers of rows is. It reads on for ever if those of the parts are too large.
    n_rows = metadata.num_rows
    parts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if min(parts, default=0) < 0 or sum(parts) != n_rows:
        raise Defect(f"is damaged: it claims {n_rows:,} rows, and its parts {sum(parts):,}")
    check_memory(BYTES_PER_VALUE * n_rows * metadata.num_columns, f"its {n_rows:,} rows")


def _header(
    parquet: "pq.ParquetFile",
    key: bytes,
    layouts: Mapping[int, Sequence[str]],
    what: str,
    hint: str,
) -> dict[str, Any]:
    """The header in the schema's metadata, or in what was added to it at the end."""
    text = (parquet.schema_arrow.metadata or parquet.metadata.metadata or {}).get(key)
    if text is None:
        raise Defect(
            f"is a Parquet file, but not {what}: its schema has no {key.decode()!r} metadata. "
            f"{hint}"
        )
    if len(text) > MOST_HEADER_BYTES:
        raise Defect(f"has a header of {len(text):,} bytes, more than epolllab writes")
    return parse_header(text, layouts)


def parse_header(text: str | bytes, layouts: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """Return a JSON header with a known format version and exactly its keys; or raise Defect."""
    header: dict[str, Any] = json.loads(text)
    version = header.get("format_version") if isinstance(header, dict) else None
    newest = max(layouts)
    if type(version) is not int or version < 1:
        raise Defect(f"has no valid format_version in its header, but {version!r:.80}")
    if version > newest:
        raise Defect(
            f"has format version {version}, and this epolllab reads up to {newest}; upgrade "
            "epolllab to read it"
        )
    keys = {"format_version", *layouts[version]}
    if set(header) != keys:
        differing = ", ".join(sorted(keys ^ set(header)))
        raise Defect(
            f"has a header of format {version} with missing or unknown keys: {differing:.200}"
        )
    return header


def check_columns(schema: "pa.Schema", fields: Sequence[tuple[str, str]]) -> None:
    """Raise Defect unless each field has one column, of the type of the numpy code."""
    import numpy as np
    import pyarrow as pa

    for name, code in fields:
        n = schema.names.count(name)
        if n != 1:
            raise Defect(f"must have one column {name!r}, and has {n}")
        found = schema.field(name).type
        wanted = pa.from_numpy_dtype(np.dtype(code))
        if name == "op":
            wanted = pa.string()
            found = found.value_type if pa.types.is_dictionary(found) else found
        if found != wanted:
            raise Defect(f"has {found!s:.80} in its column {name!r}, not {wanted}")


def op_numbers(column: "pa.ChunkedArray") -> "np.ndarray[Any, np.dtype[Any]]":
    """Operation numbers of a column of names, whatever order its dictionaries have."""
    import numpy as np

    known = {op.label: int(op) for op in Op}
    parts = [np.empty(0, dtype="u2")]
    for chunk in column.chunks:
        encoded = chunk if hasattr(chunk, "dictionary") else chunk.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        numbers = np.array([known.get(name, len(Op)) for name in names], dtype="u2")
        parts.append(numbers[encoded.indices.to_numpy()])
        if (parts[-1] == len(Op)).any():
            unknown = ", ".join(repr(name) for name in names if name not in known)
            raise Defect(f"has operations that this epolllab does not know: {unknown:.200}")
    return np.concatenate(parts)
