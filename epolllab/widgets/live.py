"""The numbers of a running server, ten times a second, without disturbing it; no widget.

One job: read counters and the end of the recording, and make rates and latencies of
them. Rates are differences of the loop's own counters, exact whatever the load. Latency
is from the newest events only, so it is a sample where the server does much.
"""

import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from epolllab.recording.recording import Recording
from epolllab.server.server import Server, ServerDied

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Live", "Numbers"]

NEWEST = 2000
"""Events read at each tick."""

OVER_S = 1.0
"""What a rate and a percentile are taken over."""

LATENCY_S = 0.2
"""How often latencies are read: making requests of events is the dear part."""

_NAN = float("nan")


@dataclass(frozen=True)
class Numbers:
    """What a server did lately; NaN where nothing is known."""

    t_s: float
    """Seconds since the display began."""
    requests_per_s: float = _NAN
    wakeups_per_s: float = _NAN
    batch: float = _NAN
    """Descriptors returned by one wait, on average."""
    p50_us: float = _NAN
    """Latency in the server, from the wake-up to the last byte sent."""
    p99_us: float = _NAN
    connections: int = 0
    requests: int = 0
    overwritten: int = 0


class Live:
    """Numbers of one server after another.

    Attributes
    ----------
    server : Server or None
        Whose numbers; may be replaced at any time.
    numbers : collections.deque of Numbers
        The last half minute, the newest last.
    tail : Recording
        The newest events.
    """

    def __init__(self, server: Server | None = None, keep: int = 300) -> None:
        self.numbers: deque[Numbers] = deque(maxlen=keep)
        self.tail = Recording(b"")
        self._begin_s = time.monotonic()
        self.server = server

    @property
    def server(self) -> Server | None:
        """Whose numbers these are."""
        return self._server

    @server.setter
    def server(self, server: Server | None) -> None:
        self._server = server
        self._counts: deque[tuple[float, dict[str, int]]] = deque()
        self._latencies: deque[tuple[float, Any]] = deque()
        self._seen_ns = 0
        self._read_s = 0.0
        self.tail = Recording(b"")

    @property
    def state(self) -> str:
        """What the server is: "none", "running", "stopped" or "died"."""
        if self._server is None:
            return "none"
        if self._server.is_running:
            return "running"
        return "stopped" if self._server.error is None else "died"

    @property
    def error(self) -> str | None:
        """The traceback of what ended the server's loop."""
        return None if self._server is None else self._server.error

    def tick(self) -> Numbers:
        """Read once; the numbers of now."""
        now = time.monotonic()
        numbers = Numbers(now - self._begin_s)
        server = self._server
        # A dead server raises once, at whoever touches it first: that is the cell's, not ours.
        if server is not None and server.is_running:
            try:
                numbers = self._read(server, server.stats(), now)
            except ServerDied:
                server._raised = False  # it died just now: leave the error to the cell
        self.numbers.append(numbers)
        return numbers

    def _read(self, server: Server, stats: dict[str, int], now: float) -> Numbers:
        self.tail = server.tail(NEWEST)
        counts = self._counts
        counts.append((now, stats))
        while len(counts) > 2 and counts[1][0] < now - OVER_S:
            counts.popleft()
        then, before = counts[0]
        span = now - then
        requests, wakeups, events = (
            stats.get(name, 0) - before.get(name, 0) for name in ("requests", "wakeups", "events")
        )
        if now - self._read_s >= LATENCY_S:
            self._read_s = now
            self._read_latencies(now)
        percentiles = self._percentiles()
        return Numbers(
            now - self._begin_s,
            requests / span if span else _NAN,
            wakeups / span if span else _NAN,
            events / wakeups if wakeups else _NAN,
            *percentiles,
            stats.get("connections", 0),
            stats.get("requests", 0),
            stats.get("overwritten", 0),
        )

    def _read_latencies(self, now: float) -> None:
        found = self.tail.requests()
        fresh = found[(found["handled_ns"] > self._seen_ns)]
        spans = (fresh["answered_ns"] - fresh["woken_ns"]).dropna()
        if len(fresh):
            self._seen_ns = int(fresh["handled_ns"].max())
        self._latencies.append((now, spans.to_numpy(dtype="float64") / 1e3))
        while self._latencies[0][0] < now - OVER_S:
            self._latencies.popleft()

    def _percentiles(self) -> tuple[float, float]:
        values = np.concatenate([part for _, part in self._latencies] or [np.empty(0)])
        if not len(values):
            return _NAN, _NAN
        median, high = np.percentile(values, (50, 99))
        return float(median), float(high)

    def frame(self) -> "pd.DataFrame":
        """What was shown, a row per tick.

        Returns
        -------
        pandas.DataFrame
            ``t_s``, ``requests_per_s``, ``wakeups_per_s``, ``batch``, ``p50_us``,
            ``p99_us`` (float64), ``connections``, ``requests``, ``overwritten`` (int64).
        """
        import pandas as pd

        columns = list(Numbers.__dataclass_fields__)
        frame = pd.DataFrame([asdict(one) for one in list(self.numbers)], columns=columns)
        whole = ("connections", "requests", "overwritten")
        return frame.astype({c: "int64" if c in whole else "float64" for c in columns})
