"""A recording: the records of one run and the circumstances they were made in.

numpy, pandas and pyarrow are imported when a recording is read, so that a process which
only records never loads them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from epolllab.checks import check_bool, check_bytes, check_int, checked
from epolllab.events import FIELDS, RECORD, Op, error_name
from epolllab.notebook import html
from epolllab.recording import environment, layout, storage
from epolllab.schema import CALLBACKS, CONNECTIONS, EVENTS, REQUESTS, WAKEUPS, returns

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
    index of the request's target; the JSON has a ``digest`` over rows, metadata and
    ``overwritten``.
"""

METADATA_KEY = b"epolllab"
LAYOUTS = {1: ("overwritten", "metadata"), 2: ("overwritten", "metadata", "digest")}
"""Keys of the header for each format version."""

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

    Attributes
    ----------
    plot : object
        Charts of the recording, such as ``recording.plot.timeline()``.
    """

    plot: ClassVar[Any]
    rows: bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)
    overwritten: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", check_bytes("rows", self.rows))
        check_int("overwritten", self.overwritten, 0, 2**63 - 1)
        if not isinstance(self.metadata, Mapping):
            raise TypeError(f"metadata must be a mapping, not {self.metadata!r:.80}")
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
        throttled = environment.throttled(self.metadata)
        slowed = f", {throttled}" if throttled else ""
        return f"<Recording {len(self):,} events{lost}{slowed}>"

    def _repr_html_(self) -> str:
        counts = sorted(self.counts().items(), key=lambda item: -item[1])
        return html.card(
            "Recording",
            {
                "events": f"{len(self):,}",
                "overwritten": f"{self.overwritten:,}",
                **self._faults(),
                "operations": ", ".join(f"{op} {count:,}" for op, count in counts),
                **{
                    name: self.metadata[name]
                    for name in ("poller", "trigger", "lifecycle", "kernel", "python", "started")
                    if name in self.metadata
                },
                "CPU": environment.throttled(self.metadata) or None,
            },
        )

    def _faults(self) -> dict[str, str]:
        """The server's count of exceptions in its handler or protocol, if there were any."""
        stats = self.metadata.get("stats")
        faults = stats.get("faults") if isinstance(stats, Mapping) else None
        if not isinstance(faults, int) or not faults:
            return {}
        return {"faults": f"{faults:,}; see metadata['last_fault']"}

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
        """Return the number of records with each error, by ``"operation ERRNO"``.

        A completion of io_uring counts for the operation that has failed.
        """
        from epolllab.frames.columns import check_operations
        from epolllab.frames.completions import as_calls

        array = as_calls(check_operations(self.array()))
        failed = array[array["result"] < 0]
        pairs = zip(failed["op"].tolist(), failed["result"].tolist(), strict=True)
        return dict(Counter(f"{Op(op).label} {error_name(-result)}" for op, result in pairs))

    @returns(EVENTS)
    @checked(relative=check_bool)
    def events(self, *, relative: bool = False) -> "pd.DataFrame":
        """One row per record, in the order in which they were written.

        ``attrs["columns"]`` of this frame and of the others describes their columns.

        Parameters
        ----------
        relative : bool
            Whether a first column ``t`` has the time since the first event, as a timedelta.
        """
        from epolllab import frames

        return self._timed(frames.events(self.array()), relative)

    @returns(WAKEUPS)
    @checked(relative=check_bool)
    def wakeups(self, *, relative: bool = False) -> "pd.DataFrame":
        """One row per wait: how long the loop slept, and what it did next.

        Parameters
        ----------
        relative : bool
            As for :meth:`events`.
        """
        from epolllab import frames

        return self._timed(frames.wakeups(self.array()), relative)

    def _timed(self, frame: "pd.DataFrame", relative: bool) -> "pd.DataFrame":
        """The frame, with a column ``t`` if it is wanted."""
        from epolllab.frames.columns import with_relative

        return with_relative(frame, self.array()) if relative else frame

    @returns(REQUESTS)
    def requests(self) -> "pd.DataFrame":
        """One row per request that the protocol responded to, in the order of the responses."""
        from epolllab import frames

        return frames.requests(self.array(), self.metadata.get("targets", ()))

    @returns(CONNECTIONS)
    def connections(self) -> "pd.DataFrame":
        """One row per connection, in the order of their serials."""
        from epolllab import frames

        return frames.connections(self.array())

    @returns(CALLBACKS)
    def callbacks(self) -> "pd.DataFrame":
        """One row per callback of an event loop that ``observe()`` recorded, by name."""
        from epolllab import frames

        return frames.callbacks(self.array(), self.metadata.get("callbacks", ()))

    def to_trace(
        self,
        path: storage.PathName,
        client: "RecordingSource | Recording | Sequence[Recording] | None" = None,
    ) -> Path:
        """Write a trace for Perfetto or chrome://tracing.

        Parameters
        ----------
        path : path-like
            Plain JSON is written, or gzip if the name ends in ``.gz``, whatever else it
            is. An existing file is replaced as by :meth:`save`.
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
            `client` is none of these, or `path` is no path.
        ValueError
            `path` is not a local regular file, as for :meth:`save`; the recordings are of
            different boots, whose clocks are unrelated; or a record has an operation that
            this version does not know.
        OSError
            The folder does not exist or cannot be written to.
        """
        from epolllab.recording import perfetto

        return perfetto.write(self, storage.local_path(path), _client_recordings(client))

    def save(self, path: storage.PathName, *, redact: bool = False) -> Path:
        """Write one Parquet file and return its path.

        Parameters
        ----------
        path : path-like
            An existing file is replaced once the new one is complete, and keeps its mode
            and, where permitted, its owner. A symbolic link stays a link: the file that it
            leads to is replaced.
        redact : bool
            Leave out what names a machine, user, program, path or address, so that the
            file can be shared: ports, request targets, the names of descriptors except
            their kind, stacks, and all metadata of unknown meaning. What diagnosis and
            charts need stays, and so do callbacks' names. Without ports,
            client and server requests cannot be joined to journeys.

        Raises
        ------
        ValueError
            `path` is a folder, FIFO, device or socket, a link to a missing file, or a URL;
            a record has an operation that this version does not know.
        TypeError
            JSON cannot hold the metadata.
        OSError
            The folder does not exist, is full or cannot be written to. The error names the
            file, and nothing is left of the new one.
        """
        target = storage.local_path(path)
        if check_bool("redact", redact):
            from epolllab.recording.redaction import redacted_metadata, redacted_rows

            shared = redacted_rows(self.rows), redacted_metadata(self.metadata), self.overwritten
            return Recording(*shared).save(target)
        header: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "overwritten": self.overwritten,
            "metadata": dict(self.metadata),
        }
        storage.write_table(target, self._table(), METADATA_KEY, header, self.rows)
        return target

    @classmethod
    def load(cls, path: storage.PathName) -> "Recording":
        """Read a file that :meth:`save` wrote, on any operating system.

        Raises
        ------
        ValueError
            The file is not a recording, is damaged, or was written by a newer version of
            this package; or `path` is a URL, or anything but a regular file.
        FileNotFoundError
            There is no such file.
        """
        import numpy as np

        source = storage.local_path(path)
        if (source / layout.MANIFEST).exists():
            raise ValueError(
                f"path must name a file, but {source} is a folder with a recording: use "
                "epolllab.recording.open()"
            )
        hint = "Recording.save() writes what this reads."
        with storage.open_table(source, METADATA_KEY, LAYOUTS, what="a recording", hint=hint) as (
            file,
            header,
        ):
            fields = FIELDS if header["format_version"] > 1 else FIELDS_OF_FORMAT_1
            storage.check_columns(file.schema_arrow, fields)
            table = file.read(columns=[name for name, _ in fields], use_threads=False)
            array = np.zeros(table.num_rows, dtype=np.dtype(list(FIELDS)))
            for name, _ in fields:
                column = table.column(name)
                if column.null_count:
                    raise storage.Defect(f"has missing values in its column {name!r}")
                array[name] = storage.op_numbers(column) if name == "op" else column.to_numpy()
            loaded = cls(array.tobytes(), header["metadata"], header["overwritten"])
            if "digest" in header:
                storage.verify(loaded.rows, header)
        return loaded

    def _table(self) -> "pa.Table":
        import numpy as np
        import pyarrow as pa

        from epolllab.frames.columns import check_operations

        array = check_operations(self.array())
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
