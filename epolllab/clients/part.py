"""What one client loop measured, and what stands in for a share that was lost."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from epolllab.clients import loop
from epolllab.clients.loop import Facts
from epolllab.clients.options import Share
from epolllab.recording.recorder import Snapshot
from epolllab.workers import Host

__all__ = ["Part", "common_environment", "lost_part"]


class Recorded(Protocol):
    """The records of a loop: a :class:`Snapshot`, or those of a file."""

    @property
    def rows(self) -> bytes:
        """The records, oldest first."""

    @property
    def overwritten(self) -> int:
        """Records that the ring overwrote."""


class Part(NamedTuple):
    """The results of one client loop."""

    facts: Facts
    rows: bytes
    steps: bytes
    snapshot: "Recorded"
    environment: Mapping[str, Any] = MappingProxyType({})
    """The worker's, if an executor ran it."""
    host: Host | None = None
    """The worker, if an executor ran it."""
    clock_error_ns: int = 0
    """Uncertainty of the start time on the worker's clock."""
    lost: str = ""
    """Why its rows did not come home, if they did not; they are failed rows then."""


def lost_part(share: Share, n_written: int, start_ns: int, host: Host, reason: str) -> Part:
    """Return failed rows in place of a share that was lost after it had written some.

    As many as the share had requests; with a duration, those that it had written and one
    for each connection. An open loop's are due as scheduled, a closed loop's at the start.
    """
    n = n_written + share.n_connections if share.n_requests is None else share.n_requests
    rows = bytearray()
    for i in range(n):
        due_ns = start_ns
        if share.interval_ns:
            due_ns += share.first_arrival_ns + i * share.interval_ns
        values = {"intended_ns": due_ns, "done_ns": due_ns, "error": loop.LOST - share.process}
        rows += loop.ROW.pack(*(values.get(name, 0) for name, _ in loop.FIELDS))
    facts = Facts(share.process, start_ns, start_ns, start_ns, 0, 0, 0, 0)
    return Part(facts, bytes(rows), b"", Snapshot(b"", 0), host=host, lost=reason)


def common_environment(environments: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the environment of all workers: the first one's of a single boot.

    Of several, what they have in common, and None for what differs.
    """
    first, *others = environments
    if all(other.get("boot_id") == first.get("boot_id") for other in others):
        return dict(first)
    return {
        key: value if all(other.get(key) == value for other in others) else None
        for key, value in first.items()
    }
