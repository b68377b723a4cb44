"""The result of a client run: rows and records of every client loop, and metadata.

Frames and sums are made when a method asks for them; numpy and pandas are imported then,
not before.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from epolllab.checks import check_bool, check_instance, checked
from epolllab.clients import loop, peers, stored
from epolllab.clients.figures import Figures, notes
from epolllab.clients.part import Part
from epolllab.clients.script import STEP_NAMES
from epolllab.notebook import html
from epolllab.recording import environment, storage
from epolllab.recording.recording import Recording
from epolllab.schema import CLIENT_REQUESTS, EVENTS, JOURNEYS, WAKEUPS, returns
from epolllab.server.server import Server

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run"]

_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9}


class Run:
    """A run of clients. Made by :func:`epolllab.run_clients`.

    Attributes
    ----------
    metadata : mapping
        The options, and the environment.
    plot : object
        Charts of the clients, such as ``run.plot.latency()``.
    """

    plot: ClassVar[Any]

    def __init__(self, parts: list[Part], metadata: Mapping[str, Any]) -> None:
        self._parts = sorted(parts, key=lambda part: part.facts.process)
        self.metadata = MappingProxyType(dict(metadata))
        self._figures = Figures(self._parts, self.metadata.get("rate"))

    @property
    def interrupted(self) -> bool:
        """Whether KeyboardInterrupt ended the run early; the rows are those until then."""
        return bool(self.metadata.get("interrupted", False))

    def __len__(self) -> int:
        """Count the requests (or scripted peers)."""
        return sum(len(part.rows) for part in self._parts) // loop.ROW.size

    @returns(CLIENT_REQUESTS)
    def requests(self) -> "pd.DataFrame":
        """One row per request; of a script, one row per peer."""
        from epolllab.frames.clients import client_requests

        figures = self._figures
        return client_requests(figures.rows, figures.error_name, figures.hosts)

    def steps(self) -> "pd.DataFrame":
        """One row per step that a scripted peer executed.

        Returns
        -------
        pandas.DataFrame
            ``peer`` (int64, as ``conn`` in :meth:`requests`: the serial of its first
            connection), ``step`` (int32, place in the script from 0), ``name``
            (category), ``start_ns``, ``end_ns`` (int64), ``n_bytes`` (int64, sent or
            received in the step), ``error``, ``host`` (categories). A peer's last row is
            the first step that failed. Empty for a run without a script.
        """
        from epolllab.frames.clients import client_steps

        figures = self._figures
        rows = figures.joined("steps", peers.FIELDS, "peer")
        return client_steps(rows, STEP_NAMES, figures.error_name, figures.hosts)

    def shares(self) -> "pd.DataFrame":
        """One row per client loop, or share of an executor: where it ran, and how it started.

        Returns
        -------
        pandas.DataFrame
            ``process`` (int32), ``host``, ``boot_id``, ``kernel``, ``python``, ``cpu``,
            ``epolllab`` (str), ``pid`` (Int64: of the worker; missing without an executor),
            ``n_rows`` (int64), ``late_ns`` (Int64: from the common start time, on the clock
            of its host, to when the loop began; missing if its rows were lost),
            ``clock_error_ns`` (int64: uncertainty of the common start time on that clock;
            0 on the host of the caller), ``lost`` (str: why its rows did not come home;
            empty if they did).
        """
        from epolllab.frames.clients import client_shares

        return client_shares(self._described_shares())

    def _described_shares(self) -> list[tuple[Any, ...]]:
        known = self.metadata
        facts = [known.get(name) or "" for name in ("boot_id", "kernel", "python", "cpu")]
        here = ("localhost", *facts, known.get("epolllab") or "", None)
        return [
            (
                part.facts.process,
                *(part.host or here),
                len(part.rows) // loop.ROW.size,
                None if part.lost else part.facts.began_ns - part.facts.start_ns,
                part.clock_error_ns,
                part.lost,
            )
            for part in self._parts
        ]

    @property
    def start_skew_ns(self) -> int:
        """Upper bound on the time between the first and the last client loop's start, ns.

        Measured: each loop notes how late it began. The uncertainty of comparing the clocks
        of several hosts is included.
        """
        return self._figures.start_skew_ns

    @returns(JOURNEYS)
    def journeys(self, server: Server | Recording) -> "pd.DataFrame":
        """One row per request that was recorded on both sides, on one time axis.

        Parameters
        ----------
        server : Server or Recording
            The handle, running or stopped, or its recording.

        Raises
        ------
        ValueError
            The two were recorded in different boots; or the clients ran on several hosts,
            or had several source addresses, so that a port does not identify one connection.
        """
        from epolllab import frames

        check_instance("server", server, Server | Recording, "a Server or its recording")
        if self.metadata.get("source_addresses", 1) > 1:
            raise ValueError(
                "source_addresses was above 1, so one port can belong to several connections at "
                "the same time and cannot be used to join them to the server's; use fewer "
                "connections, or source_addresses=1"
            )
        recording = server if isinstance(server, Recording) else server.recording()
        self._require_one_clock("requests() has the latencies, each measured on one host")
        boots = [{**self.metadata, **part.environment} for part in self._parts]
        environment.require_same_boot(recording.metadata, *boots)
        return frames.journeys(recording.requests(), self.requests().drop(columns="host"))

    def _require_one_clock(self, advice: str) -> None:
        """Refuse to compare the times of different boots."""
        hosts = sorted({part.host.host for part in self._parts if part.host})
        if len({boot_id for boot_id, _ in self._figures.hosts}) > 1:
            raise ValueError(
                f"these clients ran on several hosts ({', '.join(hosts)}), whose monotonic clocks "
                f"are unrelated, so that their times cannot be compared; {advice}"
            )

    def recordings(self) -> list[Recording]:
        """One recording for each client loop, as its recorder wrote it.

        The waits of several loops overlap, so in :meth:`recording` they are interleaved.
        """
        return [
            Recording(
                part.snapshot.rows,
                {**self.metadata, **part.environment, "process": part.facts.process},
                part.snapshot.overwritten,
            )
            for part in self._parts
        ]

    def recording(self) -> Recording:
        """All client loops' records as one recording, in order of start.

        Connection serials are those of :meth:`requests`, and the numbers of wakes continue
        from one loop to the next, so that both stay unique.

        Raises
        ------
        ValueError
            The loops ran on several hosts, whose clocks are unrelated.
        """
        self._require_one_clock("use recordings(), one for each share")
        recordings = self.recordings()
        overwritten = sum(recording.overwritten for recording in recordings)
        if len(recordings) == 1:
            return Recording(recordings[0].rows, self.metadata, overwritten)
        from epolllab.frames.clients import merge_records

        arrays = [recording.array() for recording in recordings]
        merged = merge_records(arrays, [part.facts.n_conns for part in self._parts])
        return Recording(merged.tobytes(), self.metadata, overwritten)

    @returns(EVENTS)
    def events(self, *, relative: bool = False) -> "pd.DataFrame":
        """One row per event of the clients, in the order of start.

        Parameters
        ----------
        relative : bool
            As for :meth:`epolllab.Recording.events`.
        """
        return self.recording().events(relative=relative)

    @returns(WAKEUPS)
    @checked(relative=check_bool)
    def wakeups(self, *, relative: bool = False) -> "pd.DataFrame":
        """One row per wait of the clients, in the order of start.

        What a loop did after its wait is its own, also where the waits of several overlap.
        The numbers of wakes continue from one loop to the next.

        Parameters
        ----------
        relative : bool
            As for :meth:`epolllab.Recording.events`.

        Raises
        ------
        ValueError
            The loops ran on several hosts, whose clocks are unrelated.
        """
        self._require_one_clock("use recordings(), one for each share")
        from epolllab.frames.clients import client_wakeups

        arrays = [recording.array() for recording in self.recordings()]
        frame = client_wakeups(arrays)
        if not relative:
            return frame
        from epolllab.frames.columns import with_relative

        return with_relative(frame, *arrays)

    def save(self, path: storage.PathName) -> Path:
        """Write one Parquet file with everything that the run has, and return its path.

        `path`, what happens to an existing file, and errors are as for
        :meth:`epolllab.Recording.save`.
        """
        target = storage.local_path(path)
        stored.save(target, self._parts, self.metadata)
        return target

    @classmethod
    def load(cls, path: storage.PathName) -> "Run":
        """Read a file that :meth:`save` wrote, on any operating system.

        Errors are as for :meth:`epolllab.Recording.load`.
        """
        return cls(*stored.load(storage.local_path(path)))

    def summary(self) -> "pd.Series[Any]":
        """Summarise the run.

        Returns
        -------
        pandas.Series
            ``requests`` (all rows), ``succeeded``, ``failed`` and ``error NAME`` for each
            kind, ``status NNN`` for each HTTP status except 200; ``elapsed_s`` from the
            common start to the last end; ``requests_per_s`` (succeeded over elapsed; in
            an open loop, the interval after the last arrival counts as well) and there
            also ``asked_per_s``, the requested rate; ``mean_us``, ``p50_us``, ``p90_us``,
            ``p99_us``, ``p99_9_us``, ``max_us`` of the latency of those that succeeded
            (NaN for a percentile that so few requests do not support, as
            :func:`epolllab.analysis.percentile` describes); in an open loop
            ``waiting_p99_us`` and ``waiting_max_us``, the part of it before the send.

            Little's law checks the clocks: ``in_flight_mean``, which the loops counted,
            and ``throughput_x_latency``, computed from the rows, should agree within a
            few per cent.

            ``client_cpu`` is the CPU time of the busiest client loop over the elapsed
            time: near 1, the clients were the limit, and the figures describe them more
            than the server; use more `processes`.
        """
        import pandas as pd

        from epolllab.analysis.statistics import percentile

        figures, rows = self._figures, self._figures.rows
        spans = (rows["done_ns"] - rows["intended_ns"]).astype("f8")
        good = rows["error"] == 0
        latency = spans[good] / 1e3
        elapsed_ns = figures.elapsed_ns
        per_s = 1e9 / elapsed_ns if elapsed_ns else 0.0
        sums: dict[str, Any] = {
            "requests": len(rows),
            "succeeded": int(good.sum()),
            "failed": int((~good).sum()),
            **{f"error {name}": count for name, count in figures.errors().items()},
            **{f"status {number}": n for number, n in figures.statuses().items() if number != 200},
            "elapsed_s": round(elapsed_ns / 1e9, 6),
            "requests_per_s": round(figures.per_s, 1),
        }
        rate = self.metadata.get("rate")
        if rate:
            sums["asked_per_s"] = rate
        nan = float("nan")
        sums["mean_us"] = round(float(latency.mean()), 3) if len(latency) else nan
        sums |= {f"{n}_us": round(percentile(latency, p), 3) for n, p in _PERCENTILES.items()}
        sums["max_us"] = round(float(latency.max()), 3) if len(latency) else nan
        if rate:
            sent = rows["sent_ns"] > 0
            waiting = (rows["sent_ns"] - rows["intended_ns"])[sent] / 1e3
            sums["waiting_p99_us"] = round(percentile(waiting, 99), 3)
            sums["waiting_max_us"] = round(float(waiting.max()), 3) if len(waiting) else nan
        in_flight_ns = sum(part.facts.in_flight_ns for part in self._parts)
        sums["in_flight_mean"] = round(in_flight_ns / elapsed_ns, 3) if elapsed_ns else 0.0
        sums["throughput_x_latency"] = round(float(spans.sum()) * per_s / 1e9, 3)
        sums["client_cpu"] = round(figures.client_cpu, 3)
        return pd.Series(sums, dtype=object, name="run")

    def errors(self) -> dict[str, int]:
        """Count the failed requests by kind of error, the most frequent first."""
        return self._figures.errors()

    @property
    def notes(self) -> list[str]:
        """Warnings about the figures, such as a rate that was not reached."""
        return notes(self._figures, self.metadata)

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
        sums, options = self.summary(), self.metadata
        script, rate = options.get("script"), options.get("rate")
        what = "peers" if script else "requests"
        kind = "keep-alive" if options.get("keep_alive") else "one per request"
        if script:
            kind = "scripted"
        loop = f"open loop, {rate:,.0f} a second" if rate else "closed loop"
        ran_in = f"{len(self._parts)} {options.get('where')}"
        if options.get("executor"):
            n_hosts = len(set(self._figures.hosts))
            ran_in = f"{len(self._parts)} workers on {n_hosts} host{'s' if n_hosts > 1 else ''}"
        elif len(self._parts) > 1 and options.get("where") == "process":
            ran_in += "es"
        return {
            "target": str(options.get("target")),
            "script" if script else "loop": " ".join(script) if script else loop,
            "connections": f"{options.get('connections'):,} connections ({kind})",
            "ran in": ran_in,
            what: f"{sums['requests']:,}",
            "failed": f"{sums['failed']:,}",
            "elapsed": f"{sums['elapsed_s']:.3f} s",
            f"{what}/s": f"{sums['requests_per_s']:,.0f}",
            "latency": " · ".join(
                f"{name} {milliseconds(sums[f'{name}_us'])}" for name in ("p50", "p99", "max")
            ),
        }


def milliseconds(us: float) -> str:
    """A latency in milliseconds, or a dash where it is missing."""
    return "\N{EN DASH}" if math.isnan(us) else f"{us / 1e3:,.2f} ms"
