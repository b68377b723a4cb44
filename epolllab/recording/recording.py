"""A recording: the records of one run and the circumstances they were made in.

numpy, pandas and pyarrow are imported when a recording is read, so that a process which
only records never loads them.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from epolllab.events import FIELDS, RECORD, Op, error_name
from epolllab.notebook import html
from epolllab.recording import storage
from epolllab.schema import CONNECTIONS, EVENTS, REQUESTS, WAKEUPS, returns

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

__all__ = ["Recording"]

FORMAT_VERSION = 2
"""Version of the Parquet layout.

1 : the columns of ``events.FIELDS`` up to ``position``, ``op`` as a dictionary of names;
    the schema's metadata key ``epolllab`` holds JSON with ``format_version``,
    ``overwritten`` and ``metadata``.
2 : also ``thread`` and ``request``; a handle's mask holds the response's status and the
    index of the request's target; the JSON has a ``digest`` over rows and metadata.
"""

METADATA_KEY = b"epolllab"
FIELDS_OF_FORMAT_1 = FIELDS[:9]


@runtime_checkable
class RecordingSource(Protocol):
    """A Run, as far as a trace needs it."""

    def recordings(self) -> "list[Recording]":
        """Return one recording for each client loop."""


@dataclass(frozen=True)
class Recording:
    """Records and the circumstances they were made in, immutable.

    Parameters
    ----------
    rows : bytes
        Whole records of 48 bytes as ``epolllab.events`` lays them out, in the
        order in which they were written.
    metadata : mapping
        Circumstances and parameters, of types that JSON has. Recordings with different
        ``boot_id`` have unrelated clocks and cannot be joined.
    overwritten : int
        Records that the ring overwrote before the first one kept.
    """

    rows: bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)
    overwritten: int = 0

    def __post_init__(self) -> None:
        if len(self.rows) % RECORD.size:
            raise ValueError(
                f"rows must be whole records of {RECORD.size} bytes, but {len(self.rows)} bytes "
                "are not a multiple of that; the data was cut or is not a recording"
            )
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __len__(self) -> int:
        return len(self.rows) // RECORD.size

    def __repr__(self) -> str:
        lost = f", {self.overwritten:,} overwritten" if self.overwritten else ""
        return f"<Recording {len(self):,} events{lost}>"

    def _repr_html_(self) -> str:
        counts = sorted(self.counts().items(), key=lambda item: -item[1])
        return html.card(
            "Recording",
            {
                "events": f"{len(self):,}",
                "overwritten": f"{self.overwritten:,}",
                "operations": ", ".join(f"{op} {count:,}" for op, count in counts),
                **{
                    name: self.metadata[name]
                    for name in ("poller", "trigger", "lifecycle", "kernel", "python", "started")
                    if name in self.metadata
                },
            },
        )

    def array(self) -> "np.ndarray[Any, np.dtype[Any]]":
        """Return the records as a read-only structured array, without copying them."""
        import numpy as np

        return np.frombuffer(self.rows, dtype=np.dtype(list(FIELDS)))

    def counts(self) -> dict[str, int]:
        """Return the number of records of each operation that occurs, by name."""
        import numpy as np

        numbers, counts = np.unique(self.array()["op"], return_counts=True)
        labels = [Op(number).label for number in numbers.tolist()]
        return dict(zip(labels, counts.tolist(), strict=True))

    def errors(self) -> dict[str, int]:
        """Return the number of records with each error, by ``"operation ERRNO"``."""
        array = self.array()
        failed = array[array["result"] < 0]
        pairs = zip(failed["op"].tolist(), failed["result"].tolist(), strict=True)
        return dict(Counter(f"{Op(op).label} {error_name(-result)}" for op, result in pairs))

    @returns(EVENTS)
    def events(self) -> "pd.DataFrame":
        """One row per record, in the order in which they were written."""
        from epolllab import frames

        return frames.events(self.array())

    @returns(WAKEUPS)
    def wakeups(self) -> "pd.DataFrame":
        """One row per wait: how long the loop slept, and what it did next."""
        from epolllab import frames

        return frames.wakeups(self.array())

    @returns(REQUESTS)
    def requests(self) -> "pd.DataFrame":
        """One row per request that the protocol responded to, in the order of the responses."""
        from epolllab import frames

        return frames.requests(self.array())

    @returns(CONNECTIONS)
    def connections(self) -> "pd.DataFrame":
        """One row per connection, in the order of their serials."""
        from epolllab import frames

        return frames.connections(self.array())

    def to_trace(
        self,
        path: str | os.PathLike[str],
        client: "RecordingSource | Recording | Sequence[Recording] | None" = None,
    ) -> Path:
        """Write a trace for Perfetto or chrome://tracing.

        Parameters
        ----------
        path : path-like
            Usually ending in ``.json.gz``. An existing file is replaced once the new one
            is complete.
        client : Run, Recording or sequence of Recording, optional
            Client loops. Each becomes a process in the trace, with an arrow from each
            request's send to its handling.

        Returns
        -------
        pathlib.Path
            The file; open it at ui.perfetto.dev, which does not upload it, or in
            chrome://tracing.

        Raises
        ------
        TypeError
            `client` is none of these.
        ValueError
            The recordings are of different boots, whose clocks are unrelated; or a record
            has an operation that this version does not know.
        OSError
            The folder does not exist or cannot be written to.
        """
        from epolllab.recording import perfetto

        return perfetto.write(self, path, _client_recordings(client))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one Parquet file and return its path.

        An existing file is replaced once the new one is complete. OSError if the folder
        does not exist or cannot be written to.
        """
        path = Path(path)
        header: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "overwritten": self.overwritten,
            "metadata": dict(self.metadata),
        }
        header["digest"] = storage.digest(self.rows, header)
        storage.write_table(path, self._table(), METADATA_KEY, header)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Recording":
        """Read a file that :meth:`save` wrote, on any operating system.

        Raises
        ------
        ValueError
            The file is not a recording, is damaged, or was written by a newer version of
            this package.
        FileNotFoundError
            There is no such file.
        """
        import numpy as np

        hint = "Recording.save() writes what this reads."
        table, header = storage.read_table(
            path, METADATA_KEY, FORMAT_VERSION, what="a recording", hint=hint
        )
        array = np.zeros(table.num_rows, dtype=np.dtype(list(FIELDS)))
        for name, _ in FIELDS if header["format_version"] > 1 else FIELDS_OF_FORMAT_1:
            column = table.column(name).combine_chunks()
            array[name] = _op_numbers(column) if name == "op" else column.to_numpy()
        rows = array.tobytes()
        if header["format_version"] > 1 and storage.digest(rows, header) != header["digest"]:
            raise ValueError(f"{path} is damaged: its rows or its metadata have changed")
        return cls(rows, header["metadata"], header["overwritten"])

    def _table(self) -> "pa.Table":
        import numpy as np
        import pyarrow as pa

        array = self.array()
        columns = {
            name: pa.array(np.ascontiguousarray(array[name])) for name, _ in FIELDS if name != "op"
        }
        codes = pa.array(np.ascontiguousarray(array["op"]).astype("i1"))
        columns["op"] = pa.DictionaryArray.from_arrays(codes, [op.label for op in Op])
        return pa.table(columns)


def _client_recordings(client: object) -> "list[Recording]":
    """The recordings of a client: a run's, one, or several."""
    if client is None:
        return []
    if isinstance(client, RecordingSource):
        return client.recordings()
    several = [client] if isinstance(client, Recording) else client
    if isinstance(several, Sequence) and all(isinstance(one, Recording) for one in several):
        return list(several)
    raise TypeError(
        f"client must be a Run, a Recording or a sequence of Recordings, not "
        f"{type(client).__name__}; run_clients() returns a Run"
    )


def _op_numbers(column: Any) -> "np.ndarray[Any, np.dtype[Any]]":
    """Operation numbers of a column of names, whatever order its dictionary has."""
    import numpy as np

    column = column.dictionary_encode() if not hasattr(column, "dictionary") else column
    numbers = np.array([Op[name.upper()] for name in column.dictionary.to_pylist()], dtype="u2")
    return numbers[column.indices.to_numpy()] if len(column) else np.empty(0, dtype="u2")
