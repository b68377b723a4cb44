"""Figures over all client loops of a run, and notes that qualify them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from epolllab.clients import loop
from epolllab.clients.part import Part
from epolllab.clients.response import DEFECTS
from epolllab.events import error_name
from epolllab.recording import environment

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Figures", "notes"]

_OWN_ERRORS = {
    loop.TIMEOUT: "timeout",
    loop.CLOSED_EARLY: "closed early",
    **{loop.BAD_RESPONSE - n: f"bad response: {defect}" for n, defect in enumerate(DEFECTS)},
}
_REDIRECTED = 300
"""Statuses from here on are a note: the response is not what was asked for."""

_SKEWED = 0.1
"""Fraction of the elapsed time from which on it matters that shares started apart."""

_ON_RATE = 0.95
"""Fraction of the requested rate from which on it counts as reached."""


class Figures:
    """Sums over the parts of a run, made when they are read.

    Parameters
    ----------
    parts : sequence of Part
        In the order of their loops' numbers.
    rate : float, optional
        The rate of an open loop, requests per second.
    """

    def __init__(self, parts: Sequence[Part], rate: float | None) -> None:
        self.parts = parts
        self.rate = rate

    @cached_property
    def rows(self) -> "np.ndarray[Any, np.dtype[Any]]":
        """The rows of all requests, with the numbers of their loops."""
        return self.joined("rows", loop.FIELDS, "conn")

    def joined(
        self, name: str, fields: tuple[tuple[str, str], ...], serial: str
    ) -> "np.ndarray[Any, np.dtype[Any]]":
        """Return rows or steps of all parts; connection serials continue from one to the next."""
        from epolllab.frames.clients import join_rows

        parts = [(getattr(p, name), p.facts.process, p.facts.n_conns) for p in self.parts]
        return join_rows(parts, fields, serial)

    @property
    def hosts(self) -> list[tuple[str, str]]:
        """Boot id and name of each loop's host."""
        hosts = [part.host for part in self.parts]
        return [(host.boot_id, host.host) if host else ("", "localhost") for host in hosts]

    @property
    def elapsed_ns(self) -> int:
        """From the common start to the last end."""
        # All loops start at the same time, but not all may read the same clock.
        return max(part.facts.end_ns - part.facts.start_ns for part in self.parts)

    @property
    def per_s(self) -> float:
        """Requests that succeeded per second of elapsed time."""
        # The first request is due at 0 and the last one interval before the end.
        elapsed_ns = self.elapsed_ns + (round(1e9 / self.rate) if self.rate else 0)
        return self.n_answered * 1e9 / elapsed_ns if elapsed_ns else 0.0

    @property
    def n_answered(self) -> int:
        """Requests that succeeded."""
        return int((self.rows["error"] == 0).sum())

    @property
    def n_unfinished(self) -> int:
        """Requests without a row."""
        return sum(part.facts.n_unfinished for part in self.parts)

    @property
    def client_cpu(self) -> float:
        """CPU time of the busiest loop over its elapsed time."""
        facts = [part.facts for part in self.parts]
        shares = [f.cpu_ns / (f.end_ns - f.start_ns) for f in facts if f.end_ns > f.start_ns]
        return max(shares, default=0.0)

    @property
    def start_skew_ns(self) -> int:
        """Upper bound on the time between the first and the last start."""
        late = [
            (part.facts.began_ns - part.facts.start_ns, part.clock_error_ns)
            for part in self.parts
            if not part.lost
        ]
        return max(ns + error for ns, error in late) - min(ns - error for ns, error in late)

    def errors(self) -> dict[str, int]:
        """Count the failed requests by kind of error, the most frequent first."""
        counts = Counter(self.rows["error"].tolist()).most_common()
        return {self.error_name(number): count for number, count in counts if number}

    def statuses(self) -> dict[int, int]:
        """Count the responses by HTTP status, in its order."""
        counts = sorted(Counter(self.rows["status"].tolist()).items())
        return {status: count for status, count in counts if status}

    def error_name(self, number: int) -> str:
        """Return the name of a row's error number."""
        if number <= loop.LOST:
            return self.parts[loop.LOST - number].lost
        return _OWN_ERRORS.get(number) or error_name(number)


def notes(figures: Figures, metadata: Mapping[str, Any]) -> list[str]:
    """Return warnings about the figures of a run with this metadata."""
    found = [f"{count:,} failed: {name}" for name, count in figures.errors().items()]
    statuses = figures.statuses()
    found += [
        f"{count:,} of {sum(statuses.values()):,} responses had status {status}"
        for status, count in statuses.items()
        if status >= _REDIRECTED
    ]
    rate, reached = figures.rate, figures.per_s
    if rate and len(figures.rows) > 1 and reached < _ON_RATE * rate:
        why = _why_below_rate(figures, "shares" if metadata.get("executor") else "processes")
        found.append(f"reached {reached:,.0f} of {rate:,.0f} requests/s: {why}")
    if metadata.get("interrupted"):
        found.append(
            f"interrupted after {figures.elapsed_ns / 1e9:.1f} s; what was in flight then "
            f"({figures.n_unfinished:,}) has no row"
        )
    if lost := sum(part.snapshot.overwritten for part in figures.parts):
        found.append(f"{lost:,} of the clients' events were overwritten; raise capacity")
    if metadata.get("executor"):
        found += _notes_of_shares(figures, metadata.get("server_requests"))
    elif throttled := environment.throttled(metadata):
        found.append(f"{throttled}, which its latencies include")
    return found


def _why_below_rate(figures: Figures, loops: str) -> str:
    if any(part.lost for part in figures.parts):
        return "the rows of a share were lost"
    busy = figures.client_cpu
    if busy > 0.9:
        return f"the clients used {busy:.0%} of a CPU and could not send faster; use more {loops}"
    return (
        "requests waited for a free connection, which their latency includes; use more "
        "connections, a lower rate or a faster server"
    )


def _notes_of_shares(figures: Figures, counted: int | None) -> list[str]:
    """Warnings about shares that an executor ran; `counted` are the server's requests."""
    found = []
    answered = figures.n_answered
    if counted is not None and not answered <= counted <= answered + figures.n_unfinished:
        found.append(
            f"the server counted {counted:,} requests, and {answered:,} rows with a response "
            "came home; other clients, lost shares or failed requests make the difference"
        )
    skew_ns, elapsed_ns = figures.start_skew_ns, figures.elapsed_ns
    if skew_ns > _SKEWED * elapsed_ns:
        found.append(
            f"the shares started up to {skew_ns / 1e6:,.0f} ms apart in a run of "
            f"{elapsed_ns / 1e6:,.0f} ms"
        )
    return found + [
        f"share {part.facts.process} on {part.host.host} was {throttled}"
        for part in figures.parts
        if part.host and (throttled := environment.throttled(part.environment))
    ]
