"""What a run of clients brought home: rows, records and circumstances.

One job: hold the packed rows of every client loop, and make frames and sums of them
when they are asked for. numpy and pandas are imported then, not before. It starts
nothing and knows no socket.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from epolllab.clients import loop, peers
from epolllab.clients.loop import Facts
from epolllab.clients.script import STEP_NAMES
from epolllab.events import FIELDS as RECORD_FIELDS
from epolllab.events import error_name
from epolllab.notebook import html
from epolllab.recording import environment
from epolllab.recording.recorder import Snapshot
from epolllab.recording.recording import Recording
from epolllab.schema import EVENTS, JOURNEYS, returns

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from epolllab.server.server import Server


__all__ = ["Part", "Run"]


_OWN_ERRORS = {
    loop.TIMEOUT: "timeout",
    loop.CLOSED_EARLY: "closed early",
    loop.BAD_RESPONSE: "bad answer",
}
_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9, "max": 100}
_ON_TIME = 0.95
"""Share of the asked rate from which on it counts as reached."""


class Part(NamedTuple):
    """What one client loop brought home."""

    facts: Facts
    rows: bytes
    steps: bytes
    snapshot: Snapshot


class Run:
    """A run of clients. Made by :func:`epolllab.run_clients`.

    Attributes
    ----------
    metadata : mapping
        What was asked for, and the circumstances.
    """

    def __init__(self, parts: list[Part], metadata: Mapping[str, Any]) -> None:
        self._parts = sorted(parts, key=lambda part: part.facts.process)
        self.metadata = MappingProxyType(dict(metadata))

    def __len__(self) -> int:
        """Count the requests (or scripted peers)."""
        return sum(len(part.rows) for part in self._parts) // loop.ROW.size

    # ---- frames -------------------------------------------------------------------

    def requests(self) -> "pd.DataFrame":
        """One row per request; of a script, one row per peer.

        Returns
        -------
        pandas.DataFrame
            In order of ``intended_ns``. Instants are nanoseconds of the monotonic
            clock, which the server's recording uses too, and missing where it did not
            come to that.

            ============= ======== ==================================================
            conn          int64    serial of the connection, unique in the run; 0 if
                                   the request never got one
            process       int32    which client loop, from 0
            request       int32    ordinal in its connection, from 0
            local_port    int32    0 if it never got one
            intended_ns   int64    when it was due: in an open loop (``rate=``) its
                                   place in the rhythm, in a closed one when its
                                   connection turned to it, before connecting
            connected_ns  Int64    its connection was found established
            sent_ns       Int64    its first send began
            first_byte_ns Int64    the answer's first byte was received
            done_ns       Int64    the answer's last byte was received
            status        Int32    HTTP status
            n_bytes       int64    received
            error         category an errno's name, "timeout", "closed early", "bad
                                   answer"; missing for none
            latency_ns    Int64    ``done_ns - intended_ns``: with the wait in the
                                   queue in an open loop, with connecting in a closed
                                   one
            ============= ======== ==================================================
        """
        import numpy as np
        import pandas as pd

        rows = self._rows()
        rows = rows[np.lexsort((rows["request"], rows["conn"], rows["intended_ns"]))]
        failed = rows["error"] != 0
        frame = pd.DataFrame(
            {
                "conn": rows["conn"].astype("i8"),
                "process": rows["process"].astype("i4"),
                "request": rows["request"].astype("i4"),
                "local_port": rows["local_port"].astype("i4"),
                "intended_ns": rows["intended_ns"].astype("i8"),
                "connected_ns": _nullable(rows["connected_ns"], rows["connected_ns"] > 0),
                "sent_ns": _nullable(rows["sent_ns"], rows["sent_ns"] > 0),
                "first_byte_ns": _nullable(rows["first_byte_ns"], rows["first_byte_ns"] > 0),
                "done_ns": _nullable(rows["done_ns"], ~failed),
                "status": _nullable(rows["status"], rows["status"] > 0, "i4"),
                "n_bytes": rows["n_bytes"].astype("i8"),
                "error": _errors(rows["error"]),
            }
        )
        frame["latency_ns"] = frame["done_ns"] - frame["intended_ns"]
        return frame

    def steps(self) -> "pd.DataFrame":
        """One row per step that a scripted peer took.

        Returns
        -------
        pandas.DataFrame
            ``peer`` (int64, as ``conn`` in :meth:`requests`: the serial of its first
            connection), ``step`` (int32, place in the script from 0), ``name``
            (category), ``start_ns``, ``end_ns`` (int64), ``n_bytes`` (int64, sent or
            received in the step), ``error`` (category). A peer's steps end with the
            first that failed. Empty for a run without a script.
        """
        import numpy as np
        import pandas as pd

        names = pd.Index(list(STEP_NAMES), dtype="str")
        steps = self._joined("steps", peers.FIELDS, "peer")
        steps = steps[np.lexsort((steps["step"], steps["peer"]))]
        codes: Any = steps["name"].astype("i1")
        return pd.DataFrame(
            {
                "peer": steps["peer"].astype("i8"),
                "step": steps["step"].astype("i4"),
                "name": pd.Categorical.from_codes(codes, names),
                "start_ns": steps["start_ns"].astype("i8"),
                "end_ns": steps["end_ns"].astype("i8"),
                "n_bytes": steps["n_bytes"].astype("i8"),
                "error": _errors(steps["error"]),
            }
        )

    @returns(JOURNEYS)
    def journeys(self, server: "Server | Recording") -> "pd.DataFrame":
        """One row per request that was recorded on both sides, on one time axis.

        Parameters
        ----------
        server : Server or Recording
            The handle, running or stopped, or its recording.

        Raises
        ------
        ValueError
            The two are of different boots; or the clients had several source addresses,
            so that a port does not name one connection.
        """
        from epolllab import frames

        if self.metadata.get("source_addresses", 1) > 1:
            raise ValueError(
                "these clients used several source addresses, so the same port can belong to "
                "several connections at once and nothing can be joined by it; use fewer "
                "connections, or source_addresses=1"
            )
        recording = server if isinstance(server, Recording) else server.recording()
        environment.require_same_boot(recording.metadata, self.metadata)
        return frames.journeys(recording.requests(), self.requests())

    # ---- records ------------------------------------------------------------------

    def recordings(self) -> list[Recording]:
        """One recording for each client loop, each as its recorder wrote it.

        Use these for wake-ups: the waits of several loops overlap, and in
        :meth:`recording` they stand between each other's records.
        """
        return [
            Recording(
                part.snapshot.rows,
                {**self.metadata, "process": part.facts.process},
                part.snapshot.overwritten,
            )
            for part in self._parts
        ]

    def recording(self) -> Recording:
        """All client loops' records as one, in order of start.

        Connection serials are those of :meth:`requests`, and wakes are numbered on from
        loop to loop, so that both stay unique.
        """
        import numpy as np

        dtype = np.dtype(list(RECORD_FIELDS))
        pieces = []
        conns = wakes = 0
        for part in self._parts:
            piece = np.frombuffer(part.snapshot.rows, dtype=dtype)
            if conns or wakes:
                piece = piece.copy()
                piece["conn"][piece["conn"] > 0] += conns
                piece["wake"][piece["wake"] > 0] += wakes
            conns += part.facts.n_conns
            wakes = int(piece["wake"].max(initial=wakes))
            pieces.append(piece)
        if len(pieces) == 1:
            rows = self._parts[0].snapshot.rows
        else:
            merged = np.concatenate(pieces)
            rows = merged[np.argsort(merged["start_ns"], kind="stable")].tobytes()
        overwritten = sum(part.snapshot.overwritten for part in self._parts)
        return Recording(rows, self.metadata, overwritten)

    @returns(EVENTS)
    def events(self) -> "pd.DataFrame":
        """One row per event of the clients, in the order of start."""
        return self.recording().events()

    # ---- sums ---------------------------------------------------------------------

    def summary(self) -> "pd.Series[Any]":
        """Sum the run up.

        Returns
        -------
        pandas.Series
            ``requests`` (all rows), ``succeeded``, ``failed`` and ``error NAME`` for each
            kind, ``status NNN`` for each HTTP status but 200; ``elapsed_s`` from the
            common start to the last end; ``requests_per_s`` (succeeded over elapsed; in
            an open loop, the interval after the last arrival counts as well) and there
            also ``asked_per_s``; ``mean_us``, ``p50_us``, ``p90_us``,
            ``p99_us``, ``p99_9_us``, ``max_us`` of the latency of those that succeeded;
            in an open loop ``waiting_p99_us`` and ``waiting_max_us``, the part of it
            before the send.

            Little's law as a check of the clocks: ``in_flight_mean``, which the loops
            measured by counting, beside ``throughput_x_latency``, of the rows' stamps.
            The two should agree within a few per cent.

            ``client_cpu`` is the processor time of the busiest client loop over the
            elapsed time: near 1, the clients themselves were the limit, and the figures
            are more theirs than the server's; use more `processes`.
        """
        import pandas as pd

        rows = self._rows()
        end_ns, error = rows["done_ns"], rows["error"]
        spans = (end_ns - rows["intended_ns"]).astype("f8")
        good = error == 0
        elapsed_ns = self._elapsed_ns()
        per_s = 1e9 / elapsed_ns if elapsed_ns else 0.0
        sums: dict[str, Any] = {
            "requests": len(rows),
            "succeeded": int(good.sum()),
            "failed": int((~good).sum()),
            **{f"error {name}": count for name, count in self.errors().items()},
            **_statuses(rows["status"]),
            "elapsed_s": round(elapsed_ns / 1e9, 6),
            "requests_per_s": round(self._per_s(), 1),
        }
        if self.metadata.get("rate"):
            sums["asked_per_s"] = self.metadata["rate"]
        sums |= _latencies(spans[good])
        if self.metadata.get("rate"):
            sent = rows["sent_ns"] > 0
            waiting = (rows["sent_ns"] - rows["intended_ns"])[sent] / 1e3
            sums["waiting_p99_us"] = _percentile(waiting, 99)
            sums["waiting_max_us"] = _percentile(waiting, 100)
        in_flight_ns = sum(part.facts.in_flight_ns for part in self._parts)
        sums["in_flight_mean"] = round(in_flight_ns / elapsed_ns, 3) if elapsed_ns else 0.0
        sums["throughput_x_latency"] = round(float(spans.sum()) * per_s / 1e9, 3)
        sums["client_cpu"] = round(self._client_cpu(), 3)
        return pd.Series(sums, dtype=object, name="run")

    def errors(self) -> dict[str, int]:
        """Count the failed requests by kind of error, the most frequent first."""
        import numpy as np

        numbers, counts = np.unique(self._rows()["error"], return_counts=True)
        pairs = sorted(zip(counts.tolist(), numbers.tolist(), strict=True), reverse=True)
        return {_error_text(number): count for count, number in pairs if number}

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures should know, such as a rate that was not reached."""
        notes = [f"{count:,} failed: {name}" for name, count in self.errors().items()]
        rate = self.metadata.get("rate")
        reached = self._per_s()
        if rate and len(self) > 1 and reached < _ON_TIME * rate:
            busy = self._client_cpu()
            reason = (
                f"the clients used {busy:.0%} of a processor and could not ask faster; use more "
                "processes"
                if busy > 0.9
                else "requests waited for a free connection, which their latency contains; use "
                "more connections, a lower rate or a faster server"
            )
            notes.append(f"{rate:,.0f} requests/s were asked and {reached:,.0f} reached: {reason}")
        lost = sum(part.snapshot.overwritten for part in self._parts)
        if lost:
            notes.append(f"{lost:,} of the clients' events were overwritten; raise capacity")
        return notes

    def _elapsed_ns(self) -> int:
        facts = [part.facts for part in self._parts]
        return max(fact.end_ns for fact in facts) - min(fact.start_ns for fact in facts)

    def _per_s(self) -> float:
        """Requests that succeeded, over the time in which they were asked and answered."""
        rows = self._rows()
        elapsed_ns = self._elapsed_ns()
        # The first arrival is at 0 and the last one interval before the end of its time.
        rate = self.metadata.get("rate")
        elapsed_ns += round(1e9 / rate) if rate else 0
        return int((rows["error"] == 0).sum()) * 1e9 / elapsed_ns if elapsed_ns else 0.0

    def _client_cpu(self) -> float:
        shares = [
            fact.cpu_ns / (fact.end_ns - fact.start_ns)
            for fact in (part.facts for part in self._parts)
            if fact.end_ns > fact.start_ns
        ]
        return max(shares, default=0.0)

    def _rows(self) -> "np.ndarray[Any, np.dtype[Any]]":
        return self._joined("rows", loop.FIELDS, "conn")

    def _joined(
        self, name: str, fields: tuple[tuple[str, str], ...], serial: str
    ) -> "np.ndarray[Any, np.dtype[Any]]":
        """The packed rows of all parts, with serials made unique and the process added."""
        import numpy as np

        dtype = np.dtype(list(fields))
        wide = np.dtype([*fields, ("process", "<i4")])
        pieces = []
        conns = 0
        for part in self._parts:
            packed = np.frombuffer(getattr(part, name), dtype=dtype)
            piece = np.empty(len(packed), dtype=wide)
            for field, _ in fields:
                piece[field] = packed[field]
            piece["process"] = part.facts.process
            piece[serial][piece[serial] > 0] += conns
            conns += part.facts.n_conns
            pieces.append(piece)
        return np.concatenate(pieces)

    # ---- how it looks -------------------------------------------------------------

    def __repr__(self) -> str:
        rows = self._described()
        notes = "".join(f"; {note}" for note in self.notes)
        what = "peers" if self.metadata.get("script") else "requests"
        return (
            f"<epolllab run against {rows['target']}, {rows[what]} {what} on "
            f"{rows['connections']}, {rows[f'{what}/s']} a second{notes}>"
        )

    def _repr_html_(self) -> str:
        return html.card("epolllab clients", self._described(), "\n".join(self.notes) or None)

    def _described(self) -> dict[str, str]:
        sums = self.summary()
        told = self.metadata
        kind = "keep-alive" if told.get("keep_alive") else "a connection a request"
        loop = f"open loop, {told['rate']:,.0f} a second" if told.get("rate") else "closed loop"
        if told.get("script"):
            kind, loop = "scripted", " ".join(told["script"])
        what = "peers" if told.get("script") else "requests"
        return {
            "target": str(told.get("target")),
            "script" if told.get("script") else "loop": loop,
            "connections": f"{told.get('connections'):,} connections ({kind})",
            "ran in": f"{len(self._parts)} {told.get('where')}"
            + ("es" if len(self._parts) > 1 and told.get("where") == "process" else ""),
            what: f"{sums['requests']:,}",
            "failed": f"{sums['failed']:,}",
            "elapsed": f"{sums['elapsed_s']:.3f} s",
            f"{what}/s": f"{sums['requests_per_s']:,.0f}",
            "latency": " · ".join(
                f"{name} {sums[f'{name}_us'] / 1e3:,.2f} ms" for name in ("p50", "p99", "max")
            ),
        }


def _nullable(values: Any, known: Any, dtype: str = "i8") -> Any:
    import pandas as pd

    return pd.arrays.IntegerArray(values.astype(dtype), ~known)


def _error_text(number: int) -> str:
    return _OWN_ERRORS.get(number) or error_name(number)


def _errors(numbers: Any) -> "pd.Categorical":
    """Names of error numbers as a category column, missing where there is none."""
    import numpy as np
    import pandas as pd

    kinds = [int(number) for number in np.unique(numbers) if number]
    codes = np.searchsorted(kinds, numbers) if kinds else np.zeros(len(numbers), dtype="i8")
    codes[numbers == 0] = -1
    names = pd.Index([_error_text(number) for number in kinds], dtype="str")
    return pd.Categorical.from_codes(codes.astype("i4"), names)


def _statuses(status: Any) -> dict[str, int]:
    import numpy as np

    numbers, counts = np.unique(status, return_counts=True)
    pairs = zip(numbers.tolist(), counts.tolist(), strict=True)
    return {f"status {number}": count for number, count in pairs if number not in (0, 200)}


def _latencies(spans_ns: Any) -> dict[str, float]:
    spans = spans_ns / 1e3
    mean = round(float(spans.mean()), 3) if len(spans) else float("nan")
    return {
        "mean_us": mean,
        **{f"{name}_us": _percentile(spans, q) for name, q in _PERCENTILES.items()},
    }


def _percentile(values: Any, q: float) -> float:
    import numpy as np

    return round(float(np.percentile(values, q)), 3) if len(values) else float("nan")
