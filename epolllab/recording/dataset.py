"""Recordings that may be larger than memory: a folder of Parquet files, read in parts."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from epolllab.checks import check_int, checked
from epolllab.events import FIELDS, RECORD
from epolllab.notebook import html
from epolllab.recording import layout, storage
from epolllab.recording.recording import Recording
from epolllab.schema import EVENTS, returns

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["StoredRecording", "open"]

BYTES_PER_ROW = 3 * RECORD.size
"""Memory that a frame or a recording needs for each row while it is read."""

_check_time = partial(check_int, least=-(1 << 63), most=(1 << 63) - 1)
_check_conn = partial(check_int, least=0, most=(1 << 32) - 1)


def open(folder: storage.PathName) -> "StoredRecording":  # noqa: A001  as recording.open()
    """Open a recording that was made with ``record_to=folder``.

    Parameters
    ----------
    folder : path-like
        What ``start_server``, ``observe`` or ``trace`` was given. It may still be written
        to; rows appear some seconds after they were recorded.

    Returns
    -------
    StoredRecording
        Nothing but the metadata has been read.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    ValueError
        `folder` is a file, is no recording, is damaged, or was written by a newer version of
        this package.
    """
    return StoredRecording(storage.local_path(folder, "folder"))


class StoredRecording:
    """A recording in a folder, which :func:`open` returns; rows are read when asked for.

    The rows are in plain Parquet files, ``part-*.parquet``, that DuckDB, Polars and others
    read: a record's fields (:mod:`epolllab.events`) with ``t_ns`` and ``dur_ns`` in place of
    start and end, and ``op`` as text. ``wake`` is unique only together with ``thread``.

    Attributes
    ----------
    folder : pathlib.Path
        Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._known: dict[str, layout.Part] = {}
        self._manifest = layout.read_manifest(self.folder)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The circumstances, as :attr:`Recording.metadata`; what is known so far."""
        return MappingProxyType(self._read_manifest()["metadata"])

    @property
    def is_closed(self) -> bool:
        """Whether the recording was ended; False while it is made, or if its writer was killed."""
        return bool(self._read_manifest()["state"] == "closed")

    @property
    def lost(self) -> int:
        """Rows that were recorded and are not in the folder, as far as that is known.

        Rows after the last one stored are known once the recording is closed.
        """
        parts = self._parts()
        ends = dict(enumerate(self._read_manifest()["written"]))
        for part in parts:
            for group in part.groups:
                ends[part.ring] = max(ends.get(part.ring, 0), group.first + group.rows)
        return int(sum(ends.values())) - _n_rows(parts)

    def __len__(self) -> int:
        return _n_rows(self._parts())

    @property
    def files(self) -> list[Path]:
        """The Parquet files, which other programs can read."""
        return [part.path for part in self._parts()]

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """The first and the last row's start on the monotonic clock; None without rows."""
        groups = [group for part in self._parts() for group in part.groups]
        if not groups:
            return None
        return min(group.t_min for group in groups), max(group.t_max for group in groups)

    @returns(EVENTS)
    @checked(start=_check_time, stop=_check_time, conn=_check_conn)
    def events(
        self, start: int | None = None, stop: int | None = None, conn: int | None = None
    ) -> "pd.DataFrame":
        """One row per record, as :meth:`Recording.events`, of a window or a connection.

        Parameters
        ----------
        start, stop : int, optional
            Rows with ``start <= t_ns < stop``, in nanoseconds of the monotonic clock; see
            :attr:`span_ns`. Only those parts of the files are read that have such rows.
        conn : int, optional
            Rows of the connection with this serial; 0 for the loop's own descriptors.

        Raises
        ------
        ValueError
            A file is damaged, or the rows would take more than half of the memory.
        """
        from epolllab import frames

        return frames.events(self._array(start, stop, conn))

    @checked(start=_check_time, stop=_check_time, conn=_check_conn)
    def recording(
        self, start: int | None = None, stop: int | None = None, conn: int | None = None
    ) -> Recording:
        """The rows of a window or a connection in memory, for requests(), plots, diagnose().

        Parameters and errors are those of :meth:`events`. Its ``overwritten`` is the number
        of all other rows that were recorded.
        """
        array = self._array(start, stop, conn)
        others = len(self) + self.lost - len(array)
        return Recording(array.tobytes(), self.metadata, others)

    def dask(self) -> Any:
        """Return :meth:`events` as a Dask DataFrame with one partition for each file.

        The rows of several threads are in the order of the threads, not of time. Where the
        workers are on other machines, they must have the folder under the same path.

        Raises
        ------
        ImportError
            Dask is not installed.
        """
        try:
            dd: Any = import_module("dask.dataframe")
            utils: Any = import_module("dask.dataframe.utils")
        except ImportError as error:
            raise ImportError(
                f"dask() needs Dask, which is not installed ({error}): "
                'pip install "epolllab[cluster]"'
            ) from error
        from epolllab import frames

        parts = self._parts()
        empty = frames.events(_no_records())
        if not parts:
            return dd.from_pandas(empty, npartitions=1)
        rings = list(dict.fromkeys(part.ring for part in parts))
        offsets = dict(zip(rings, _wake_offsets(parts), strict=True))
        return dd.from_map(
            _events_of_part,
            parts,
            [offsets[part.ring] for part in parts],
            is_only=len(offsets) == 1,
            meta=utils.clear_known_categories(empty, cols=["mask_names", "error"]),
        )

    def __repr__(self) -> str:
        lost = f", {self.lost:,} lost" if self.lost else ""
        state = "" if self.is_closed else ", not closed"
        return f"<StoredRecording {self.folder}: {len(self):,} events{lost}{state}>"

    def _repr_html_(self) -> str:
        span = self.span_ns
        return html.card(
            f"Stored recording {self.folder}",
            {
                "events": f"{len(self):,}",
                "lost": f"{self.lost:,}",
                "seconds": None if span is None else f"{(span[1] - span[0]) / 1e9:,.1f}",
                "files": f"{len(self.files):,}",
                "bytes": f"{sum(path.stat().st_size for path in self.files):,}",
                "state": "closed" if self.is_closed else "not closed: being written, or killed",
                **{
                    name: self.metadata[name]
                    for name in ("poller", "trigger", "lifecycle", "kernel", "python", "started")
                    if name in self.metadata
                },
            },
        )

    # ---- reading --------------------------------------------------------------------------

    def _read_manifest(self) -> dict[str, Any]:
        """The manifest, read again until it is closed."""
        if self._manifest["state"] != "closed":
            self._manifest = layout.read_manifest(self.folder)
        return self._manifest

    def _parts(self) -> list[layout.Part]:
        """The parts that there are now; each header is read once."""
        self._known = layout.parts(self.folder, self._known)
        return list(self._known.values())

    def _array(self, start: int | None, stop: int | None, conn: int | None) -> "Array":
        """The records wanted, merged if they are of several threads."""
        from epolllab.recording.decode import merge

        parts = self._parts()
        wanted = [(part, _groups(part, start, stop, conn)) for part in parts]
        if conn is None:
            self._check_memory(sum(part.groups[i].rows for part, some in wanted for i in some))
        kept: dict[int, list[Array]] = {part.ring: [_no_records()] for part in parts}
        n_rows = 0
        for part, some in wanted:
            for records in layout.read_groups(part, some):
                kept[part.ring].append(_selected(records, start, stop, conn))
                n_rows += len(kept[part.ring][-1])
                self._check_memory(n_rows)
        return merge(_by_thread(parts, kept), _wake_offsets(parts))

    def _check_memory(self, n_rows: int) -> None:
        try:
            storage.check_memory(BYTES_PER_ROW * n_rows, f"{n_rows:,} rows")
        except storage.Defect as error:
            raise ValueError(
                f"{self.folder} {error}. Give start and stop, or conn, or use dask()"
            ) from None


def _n_rows(parts: Sequence[layout.Part]) -> int:
    return sum(group.rows for part in parts for group in part.groups)


def _groups(part: layout.Part, start: int | None, stop: int | None, conn: int | None) -> list[int]:
    """The row groups that can have rows which are wanted."""
    return [
        number
        for number, group in enumerate(part.groups)
        if (start is None or group.t_max >= start)
        and (stop is None or group.t_min < stop)
        and (conn is None or group.conn_min <= conn <= group.conn_max)
    ]


def _selected(records: "Array", start: int | None, stop: int | None, conn: int | None) -> "Array":
    t = records["start_ns"]
    if start is not None:
        records = records[t >= start]
        t = records["start_ns"]
    if stop is not None:
        records = records[t < stop]
    return records if conn is None else records[records["conn"] == conn]


def _by_thread(
    parts: Sequence[layout.Part], kept: "Mapping[int, Sequence[Array]]"
) -> "list[tuple[int, Array]]":
    """The records of each ring with its thread's id, which one thread alone does not have."""
    import numpy as np

    threads = {part.ring: part.thread for part in parts}
    rings = [(threads[ring], np.concatenate(pieces)) for ring, pieces in kept.items()]
    if len(rings) == 1 and rings[0][0]:
        rings[0][1]["thread"] = 0
    return rings


def _no_records() -> "Array":
    import numpy as np

    return np.empty(0, dtype=np.dtype(list(FIELDS)))


def _wake_offsets(parts: Sequence[layout.Part]) -> list[int]:
    """What makes the wakes of several threads unique: the number of those of earlier threads."""
    most: dict[int, int] = {part.ring: 0 for part in parts}
    for part in parts:
        for group in part.groups:
            most[part.ring] = max(most[part.ring], group.wake_max)
    return list(accumulate(most.values(), initial=0))[:-1]


def _events_of_part(part: layout.Part, offset: int, is_only: bool) -> "pd.DataFrame":
    """A partition of the Dask DataFrame; each worker imports what it needs."""
    from epolllab import frames
    from epolllab.recording.decode import merge

    pieces = [_no_records(), *layout.read_groups(part, range(len(part.groups)))]
    others = [] if is_only else [(0, _no_records())]
    return frames.events(merge([*_by_thread([part], {part.ring: pieces}), *others], [offset, 0]))
