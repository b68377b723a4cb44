"""Rates and latencies of a running server, cheap enough to be read ten times a second.

Rates are differences of the loop's counters, which are exact at any load. Latencies come
from the newest events only, so they are a sample when the server is busy.
"""

import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from epolllab.analysis.statistics import percentile
from epolllab.recording.recording import Recording
from epolllab.server.server import Server

__all__ = ["Live", "Sample"]

TAIL_EVENTS = 2000
"""Events read at each tick."""

WINDOW_S = 1.0
"""Length of time that a rate or a percentile is computed over."""

LATENCY_INTERVAL_S = 0.2
"""How often latencies are read: deriving request rows is the expensive part."""

_NAN = float("nan")


@dataclass(frozen=True)
class Sample:
    """Numbers of a server over the last second; NaN where unknown."""

    t_s: float
    """Seconds since the display began."""
    requests_per_s: float = _NAN
    wakeups_per_s: float = _NAN
    batch: float = _NAN
    """Mean number of descriptors that one wait returned."""
    p50_us: float = _NAN
    """Latency in the server, from the wakeup to the last byte sent."""
    p99_us: float = _NAN
    connections: int = 0
    requests: int = 0
    overwritten: int = 0
    faults: int = 0


class Live:
    """Samples of a server, which may be replaced by another.

    ``samples`` are those of the last half minute, the newest last, and ``tail`` is a
    Recording of the newest events.
    """

    def __init__(self, server: Server | None = None, keep: int = 300) -> None:
        self.samples: deque[Sample] = deque(maxlen=keep)
        self._begin_s = time.monotonic()
        self._was_running = False
        self.server = server

    @property
    def server(self) -> Server | None:
        """The server; may be set at any time."""
        return self._server

    @server.setter
    def server(self, server: Server | None) -> None:
        self._server = server
        self._stats: deque[tuple[float, dict[str, int]]] = deque()
        self._latencies: deque[tuple[float, Any]] = deque()
        self._seen_ns = 0
        self._latency_read_s = 0.0
        self.tail = Recording(b"")

    @property
    def state(self) -> str:
        """State of the server: "none", "running", "stopped" or "died"."""
        if self._server is None:
            return "none"
        if self._server.is_running:
            return "running"
        return "stopped" if self._server.error is None else "died"

    @property
    def now_s(self) -> float:
        """Seconds since the display began."""
        return time.monotonic() - self._begin_s

    def tick(self) -> Sample:
        """Read the server once; without one that runs, ``samples`` keeps what was read before."""
        server = self._server
        running = server is not None and server.is_running
        sample = self._read(server) if server is not None and running else Sample(self.now_s)
        if running or self._was_running:  # one that is NaN separates this server from the next
            self.samples.append(sample)
        self._was_running = running
        return sample

    def _read(self, server: Server) -> Sample:
        now = time.monotonic()
        # An error that ended the loop is raised in a cell, not here.
        stats = server.stats(raise_error=False)
        if stats["requests"] is None:  # the server's process does not reply
            return Sample(self.now_s)
        self.tail = server.tail(TAIL_EVENTS)
        self._stats.append((now, stats))
        while len(self._stats) > 2 and self._stats[1][0] < now - WINDOW_S:
            self._stats.popleft()
        then, before = self._stats[0]
        span = now - then
        requests, wakeups, events = (
            stats.get(name, 0) - before.get(name, 0) for name in ("requests", "wakeups", "events")
        )
        if now - self._latency_read_s >= LATENCY_INTERVAL_S:
            self._latency_read_s = now
            self._read_latencies(now)
        p50, p99 = self._percentiles()
        return Sample(
            now - self._begin_s,
            requests / span if span else _NAN,
            wakeups / span if span else _NAN,
            events / wakeups if wakeups else _NAN,
            p50,
            p99,
            stats.get("connections", 0),
            stats.get("requests", 0),
            stats.get("overwritten", 0),
            stats.get("faults", 0),
        )

    def _read_latencies(self, now: float) -> None:
        requests = self.tail.requests()
        fresh = requests[requests["handled_ns"] > self._seen_ns]
        spans = (fresh["answered_ns"] - fresh["woken_ns"]).dropna()
        if len(fresh):
            self._seen_ns = int(fresh["handled_ns"].max())
        self._latencies.append((now, spans.to_numpy(dtype="float64") / 1e3))
        while self._latencies[0][0] < now - WINDOW_S:
            self._latencies.popleft()

    def _percentiles(self) -> tuple[float, float]:
        values = np.concatenate([part for _, part in self._latencies] or [np.empty(0)])
        return percentile(values, 50), percentile(values, 99)

    def frame(self) -> pd.DataFrame:
        """The samples, one row per tick.

        Returns
        -------
        pandas.DataFrame
            ``t_s``, ``requests_per_s``, ``wakeups_per_s``, ``batch``, ``p50_us``,
            ``p99_us`` (float64), ``connections``, ``requests``, ``overwritten`` (int64).
        """
        columns = list(Sample.__dataclass_fields__)
        frame = pd.DataFrame([asdict(sample) for sample in list(self.samples)], columns=columns)
        counts = ("connections", "requests", "overwritten")
        return frame.astype({c: "int64" if c in counts else "float64" for c in columns})
