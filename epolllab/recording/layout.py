"""The files of a recording that is larger than memory: a manifest, and Parquet files of rows.

``_epolllab.json`` comes first: it claims the folder and holds the metadata. The rows follow
in ``part-RRR-NNNNNN.parquet``, the rows of ring RRR in their order. Each part appears under
its name once it is complete, with a header that says which rows it has, so that whatever
happens to the writer, the parts can be read, and missing rows can be counted.

A row has the fields of a record (:mod:`epolllab.events`), with ``t_ns`` and ``dur_ns`` for
its start and end, and ``op`` as text. ``wake`` counts the waits of one thread.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from epolllab.events import FIELDS, Op
from epolllab.recording import storage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "GROUP_ROWS", "MANIFEST", "PART_ROWS", "Group", "Part", "PartWriter", "claim", "load",
    "parts", "read_groups", "read_manifest", "release", "store", "write_manifest",
]  # fmt: skip

FORMAT_VERSION = 1
GROUP_ROWS = 1 << 16
PART_ROWS = 1 << 20
MANIFEST = "_epolllab.json"  # other readers of Parquet folders ignore names with _
PART_KEY = b"epolllab-part"
MANIFEST_LAYOUTS = {1: ("state", "written", "metadata", "digest")}
PART_LAYOUTS = {1: ("ring", "thread", "groups", "digest")}

_KEPT = [field for field in FIELDS if field[0] not in ("start_ns", "end_ns", "op")]
COLUMNS = [("t_ns", "<i8"), ("dur_ns", "<i8"), ("op", "<u2"), *_KEPT]
RISING = ("t_ns", "wake")
"""Columns whose differences are small; the others compress better as they are."""


class Group(NamedTuple):
    """A row group: the numbers of its rows in the ring, and the ranges of some columns."""

    first: int
    rows: int
    t_min: int
    t_max: int
    conn_min: int
    conn_max: int
    wake_max: int


class Part(NamedTuple):
    """A file of rows."""

    path: Path
    ring: int
    thread: int
    """The thread that the ring is of; 0 if the rows say it, or if there is only one."""
    groups: tuple[Group, ...]


# ---- the folder and its manifest ----------------------------------------------------------


def claim(name: str, folder: Path, metadata: Mapping[str, Any]) -> bool:
    """Make a folder, or take an empty one, by writing its manifest; return whether it is new.

    OSError names the parameter `name` and the folder. Of two that claim a folder at the same
    time, one fails.
    """
    is_new = False
    try:
        is_new = _make(name, folder)
        write_manifest(folder, metadata, overwrite=False)
    except OSError as error:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        if (error.strerror or "").startswith(name):
            raise
        reason = f"{name} must be a folder that can be written to: {error.strerror or error}"
        raise OSError(error.errno or errno.EIO, reason, str(folder)) from error
    return is_new


def _make(name: str, folder: Path) -> bool:
    try:
        folder.mkdir()
        return True
    except FileExistsError:
        pass
    except FileNotFoundError as error:
        reason = f"{name} must be in a folder that exists; make {folder.parent} first"
        raise FileNotFoundError(error.errno, reason, str(folder)) from error
    if not folder.is_dir():
        reason = f"{name} must be a new or an empty folder, and this is none"
        raise NotADirectoryError(errno.ENOTDIR, reason, str(folder))
    entries = sorted(os.listdir(folder))
    if entries:
        found = f"{len(entries):,} files, such as {entries[0]!r}"
        if MANIFEST in entries:
            found = "a recording, which epolllab.recording.open() reads"
        reason = f"{name} must be a new or an empty folder, and this has {found}; give another one"
        raise FileExistsError(errno.EEXIST, reason, str(folder))
    return False


def release(folder: Path, *, is_new: bool) -> None:
    """Undo :func:`claim`, for when nothing was recorded."""
    with suppress(OSError):
        (folder / MANIFEST).unlink()
        if is_new:
            folder.rmdir()


def write_manifest(
    folder: Path,
    metadata: Mapping[str, Any],
    written: Sequence[int] | None = None,
    *,
    overwrite: bool = True,
) -> None:
    """Write the manifest; `written`, the number of rows that each ring had in all, closes it."""
    header: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "state": "open" if written is None else "closed",
        "written": list(written or ()),
        "metadata": dict(metadata),
    }
    header["digest"] = storage.digest(b"", json.loads(json.dumps(header)))
    with storage.write_atomically([folder / MANIFEST], overwrite=overwrite) as (temporary,):
        temporary.write_text(json.dumps(header, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest; ValueError if the folder is none of a recording, or damaged."""
    path = folder / MANIFEST
    if not stat.S_ISDIR(os.stat(folder).st_mode):  # FileNotFoundError names the folder
        raise ValueError(f"folder must be a folder, and {folder} is none; use Recording.load()")
    if not path.exists():
        raise ValueError(
            f"folder must hold a recording, but {folder} has no {MANIFEST}; "
            "start_server(record_to=folder) writes one"
        )
    storage.check_regular(path, path.stat().st_mode)
    try:
        header = storage.parse_header(path.read_text(encoding="utf-8"), MANIFEST_LAYOUTS)
        storage.verify(b"", header)
    except storage.Defect as error:
        raise ValueError(f"{path} {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or not a manifest ({error!s:.200})") from error
    return header


# ---- parts --------------------------------------------------------------------------------


class PartWriter:
    """Writes one part, which is a temporary file until it is published."""

    def __init__(self, folder: Path, number: int, ring: int = 0, thread: int = 0) -> None:
        import pyarrow.parquet as pq

        self.rows, self._ring, self._thread = 0, ring, thread
        self._groups: list[Group] = []
        path = folder / f"part-{ring:03}-{number:06}.parquet"
        self._target = storage.write_atomically([path], overwrite=False)
        (temporary,) = self._target.__enter__()
        self._file = temporary.open("wb")
        self._writer = pq.ParquetWriter(
            self._file,
            _schema(),
            compression="zstd",
            compression_level=1,
            use_dictionary=["op"],
            column_encoding=dict.fromkeys(RISING, "DELTA_BINARY_PACKED"),
            write_page_checksum=True,
        )

    def write(self, records: "Array", first: int) -> None:
        """Append records as a row group; `first` is the number of its first row."""
        t, conn = records["start_ns"], records["conn"]
        ranges = t.min(), t.max(), conn.min(), conn.max(), records["wake"].max()
        self._writer.write_table(_table(records), row_group_size=len(records))
        self._groups.append(Group(first, len(records), *map(int, ranges)))
        self.rows += len(records)

    def publish(self) -> None:
        """Complete the file and give it its name."""
        header: dict[str, Any] = {
            "format_version": FORMAT_VERSION, "ring": self._ring,
            "thread": self._thread, "groups": self._groups,
        }  # fmt: skip
        header["digest"] = storage.digest(b"", header)
        self._writer.add_key_value_metadata({PART_KEY: json.dumps(header)})
        self._writer.close()
        self._file.close()
        self._target.__exit__(None, None, None)

    def abandon(self, error: BaseException) -> OSError | None:
        """Remove what was written because of an error; return that with the part's name."""
        self._writer.is_open = False  # or its end would write
        with suppress(OSError):
            self._file.close()
        try:
            self._target.__exit__(type(error), error, error.__traceback__)
        except OSError as named:
            return named
        except BaseException:
            return None
        return None


def store(folder: Path, pieces: "Iterable[Array]", metadata: Mapping[str, Any]) -> None:
    """Write records that are complete to a folder that was claimed, and close it."""
    part, n_rows, n_parts = None, 0, 0
    try:
        for records in pieces:
            for start in range(0, len(records), GROUP_ROWS):
                part = part or PartWriter(folder, n_parts)
                part.write(some := records[start : start + GROUP_ROWS], n_rows)
                n_rows += len(some)
                if part.rows >= PART_ROWS:
                    part.publish()
                    part, n_parts = None, n_parts + 1
        if part:
            part.publish()
    except BaseException as error:
        named = part.abandon(error) if part else None
        raise named or error from error
    write_manifest(folder, metadata, [n_rows])


def _schema() -> "pa.Schema":
    import numpy as np
    import pyarrow as pa

    types = {name: pa.from_numpy_dtype(np.dtype(code)) for name, code in COLUMNS}
    types["op"] = pa.dictionary(pa.int8(), pa.string())
    return pa.schema(list(types.items()))


def _table(records: "Array") -> "pa.Table":
    import numpy as np
    import pyarrow as pa

    names = pa.array([op.label for op in Op])
    columns = {
        "t_ns": records["start_ns"],
        "dur_ns": records["end_ns"] - records["start_ns"],
        **{name: records[name] for name, _ in _KEPT},
    }
    made = {name: pa.array(np.ascontiguousarray(values)) for name, values in columns.items()}
    made["op"] = pa.DictionaryArray.from_arrays(pa.array(records["op"].astype("i1")), names)
    return pa.table(made, schema=_schema())


def load() -> None:
    """Load what writing needs, which takes a moment."""
    _schema()


_OPENING: dict[str, Any] = {
    "key": PART_KEY,
    "layouts": PART_LAYOUTS,
    "what": "a part of a recording",
    "hint": "start_server(record_to=folder) writes what this reads.",
}


def parts(folder: Path, known: Mapping[str, Part]) -> dict[str, Part]:
    """The parts of a folder by name, in order; those not `known` have their headers read."""
    names = [path.name for path in folder.glob("part-*.parquet")]
    names.sort(key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    return {name: known.get(name) or _part(folder / name) for name in names}


def _part(path: Path) -> Part:
    with storage.open_table(path, **_OPENING) as (parquet, header):
        storage.verify(b"", header)
        groups = tuple(Group(*group) for group in header["groups"])
        if [group.rows for group in groups] != [
            parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)
        ]:
            raise storage.Defect("is damaged: it has other rows than its header says")
    return Part(path, header["ring"], header["thread"], groups)


def read_groups(part: Part, wanted: Sequence[int]) -> "Iterator[Array]":
    """Yield the records of some of a part's row groups, one array for each."""
    if not wanted:
        return
    with storage.open_table(part.path, **_OPENING) as (parquet, _):
        storage.check_columns(parquet.schema_arrow, COLUMNS)
        names = [name for name, _ in COLUMNS]
        for number in wanted:
            yield _records(parquet.read_row_group(number, columns=names, use_threads=False))


def _records(table: "pa.Table") -> "Array":
    import numpy as np

    records = np.zeros(table.num_rows, dtype=np.dtype(list(FIELDS)))
    for name, _ in COLUMNS:
        column = table.column(name)
        if column.null_count:
            raise storage.Defect(f"has missing values in its column {name!r}")
        values = storage.op_numbers(column) if name == "op" else column.to_numpy()
        if name in ("t_ns", "dur_ns"):
            records["end_ns"] += values
        if name != "dur_ns":
            records["start_ns" if name == "t_ns" else name] = values
    return records
