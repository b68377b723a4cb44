"""A client run as one Parquet file: a row for each client loop, with its rows as lists.

The columns ``requests``, ``steps`` and ``events`` are lists of structs with the fields of
``clients.loop``, ``clients.peers`` and :mod:`epolllab.events`; ``op`` is a number. The schema's
metadata has what each loop measured about itself, and the run's metadata. numpy and pyarrow are
imported when a run is written or read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from epolllab.clients import loop, peers
from epolllab.clients.loop import Facts
from epolllab.clients.part import Part
from epolllab.events import FIELDS
from epolllab.recording import storage
from epolllab.workers import Host

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["load", "save"]

FORMAT_VERSION = 1
METADATA_KEY = b"epolllab_run"
LAYOUTS = {1: ("metadata", "loops", "digest")}

_COLUMNS: dict[str, Sequence[tuple[str, str]]] = {
    "requests": loop.FIELDS, "steps": peers.FIELDS, "events": FIELDS,
}  # fmt: skip


class Records(NamedTuple):
    """The records of a loop that was read from a file."""

    rows: bytes
    overwritten: int


def save(target: Path, parts: Sequence[Part], metadata: Mapping[str, Any]) -> None:
    """Write the parts of a run; errors are those of :func:`storage.write_table`."""
    import pyarrow as pa

    packed = [_packed(part) for part in parts]
    columns = {
        name: _lists([values[name] for values in packed], fields)
        for name, fields in _COLUMNS.items()
    }
    header = {
        "format_version": FORMAT_VERSION,
        "metadata": dict(metadata),
        "loops": [_own_values(part) for part in parts],
    }
    storage.write_table(target, pa.table(columns), METADATA_KEY, header, _content(packed))


def load(source: Path) -> tuple[list[Part], dict[str, Any]]:
    """Read what :func:`save` wrote; return the parts and the run's metadata."""
    hint = "Run.save() writes what this reads; for a recording use Recording.load()."
    with storage.open_table(source, METADATA_KEY, LAYOUTS, what="a run of clients", hint=hint) as (
        file,
        header,
    ):
        for name, fields in _COLUMNS.items():
            if name not in file.schema_arrow.names or file.schema_arrow.field(name).type != (
                _list_type(fields)
            ):
                raise storage.Defect(f"must have lists of the fields of {name} in its column")
        table = storage.read_all(file)
        loops = header["loops"]
        if not isinstance(loops, list) or len(loops) != table.num_rows:
            raise storage.Defect(f"must have as many loops as rows, {table.num_rows}")
        packed = [
            {name: _bytes_of(table.column(name)[row], fields) for name, fields in _COLUMNS.items()}
            for row in range(table.num_rows)
        ]
        storage.verify(_content(packed), header)
        made = [_part(*pair) for pair in zip(packed, loops, strict=True)]
        return made, dict(header["metadata"])


def _packed(part: Part) -> dict[str, bytes]:
    return {"requests": part.rows, "steps": part.steps, "events": part.snapshot.rows}


def _own_values(part: Part) -> dict[str, Any]:
    """What the loop says of itself, for JSON."""
    return {
        "facts": part.facts._asdict(),
        "overwritten": part.snapshot.overwritten,
        "environment": dict(part.environment),
        "host": part.host and part.host._asdict(),
        "clock_error_ns": part.clock_error_ns,
        "lost": part.lost,
    }


def _part(packed: Mapping[str, bytes], own: Mapping[str, Any]) -> Part:
    return Part(
        Facts(**own["facts"]),
        packed["requests"],
        packed["steps"],
        Records(packed["events"], own["overwritten"]),
        environment=own["environment"],
        host=own["host"] and Host(**own["host"]),
        clock_error_ns=own["clock_error_ns"],
        lost=own["lost"],
    )


def _content(packed: Sequence[Mapping[str, bytes]]) -> bytes:
    return b"".join(values[name] for values in packed for name in _COLUMNS)


def _list_type(fields: Sequence[tuple[str, str]]) -> Any:
    import numpy as np
    import pyarrow as pa

    return pa.list_(
        pa.struct([(name, pa.from_numpy_dtype(np.dtype(code))) for name, code in fields])
    )


def _lists(rows: Sequence[bytes], fields: Sequence[tuple[str, str]]) -> "pa.Array":
    """A column with a list of structs for each loop."""
    import numpy as np
    import pyarrow as pa

    arrays = [np.frombuffer(packed, dtype=list(fields)) for packed in rows]
    joined = np.concatenate([np.empty(0, dtype=list(fields)), *arrays])
    parts = [pa.array(np.ascontiguousarray(joined[name])) for name, _ in fields]
    structs = pa.StructArray.from_arrays(parts, names=[name for name, _ in fields])
    ends = np.cumsum([0, *map(len, arrays)]).astype("i4")
    return pa.ListArray.from_arrays(pa.array(ends), structs).cast(_list_type(fields))


def _bytes_of(cell: "pa.ListScalar", fields: Sequence[tuple[str, str]]) -> bytes:
    """The packed rows of a list of structs; raise Defect for missing values."""
    import numpy as np

    structs = cell.values
    rows = np.zeros(0 if structs is None else len(structs), dtype=list(fields))
    for name, _ in fields if len(rows) else ():
        values = structs.field(name)
        if structs.null_count or values.null_count:
            raise storage.Defect(f"has missing values in its field {name!r}")
        rows[name] = values.to_numpy()
    return rows.tobytes()
