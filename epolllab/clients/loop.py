"""The event loop that the load generator and the scripted peers share.

It also defines the row written for every request, or for every scripted peer.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from errno import EIO
from heapq import heappop, heappush
from operator import attrgetter
from struct import Struct
from typing import Any, Generic, NamedTuple, TypeVar

from epolllab.clients.options import Share
from epolllab.clients.syscalls import ClientCalls, RecordedClientCalls
from epolllab.events import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP
from epolllab.kernel.pollers import Ready, make_poller
from epolllab.recording.recorder import Recorder

__all__ = ["FIELDS", "ROW", "ClientConnection", "ClientLoop", "Facts"]

FIELDS = (
    ("conn", "<i8"),
    ("intended_ns", "<i8"),
    ("connected_ns", "<i8"),
    ("sent_ns", "<i8"),
    ("first_byte_ns", "<i8"),
    ("done_ns", "<i8"),
    ("n_bytes", "<i8"),
    ("request", "<i4"),
    ("local_port", "<i4"),
    ("status", "<i4"),
    ("error", "<i4"),
)
"""Name and numpy type code of each field of a row. An instant that was not reached is 0;
``done_ns`` is when the request ended, also if it failed."""

ROW = Struct("<qqqqqqqiiii")
"""The same for :mod:`struct`; 72 bytes."""

_row_values = attrgetter(*(name for name, _ in FIELDS))

TIMEOUT, CLOSED_EARLY, BAD_RESPONSE = -1, -2, -3
"""Values of ``error`` other than errnos. BAD_RESPONSE is for the first of the defects that
``response`` lists, and the next lower numbers are for the others."""

LOST = -1000
"""Likewise, less the share's number, for a share whose rows did not come home."""

RECV_SIZE = 65_536
READABLE = EPOLLIN | EPOLLRDHUP
BROKEN = EPOLLERR | EPOLLHUP

CLOSED = 0

SWEEP_NS = 100_000_000
MAX_EVENTS = 1023


class Facts(NamedTuple):
    """What a loop measured about itself; times in nanoseconds."""

    process: int
    start_ns: int
    """The common start time."""
    began_ns: int
    """When this loop began, at or after the common start time."""
    end_ns: int
    cpu_ns: int
    in_flight_ns: int
    """Integral over time of the requests in flight, including queued ones."""
    n_conns: int
    """Connections opened; their serials are 1 to this."""
    n_unfinished: int
    """Requests, or peers, that have no row, because the run was interrupted."""


@dataclass(slots=True, eq=False)
class ClientConnection:
    """A connection and the current request on it; reused after the connection closes."""

    conn: int = 0
    sock: Any = None
    fd: int = -1
    key: int = 0
    interest: int = -1
    """The registered mask; -1 if the descriptor is not registered."""
    phase: int = CLOSED
    """For the subclass, which defines the other phases."""
    unsent: bytes | memoryview = b""
    intended_ns: int = 0
    connected_ns: int = 0
    sent_ns: int = 0
    first_byte_ns: int = 0
    done_ns: int = 0
    n_bytes: int = 0
    request: int = 0
    local_port: int = 0
    status: int = 0
    error: int = 0


C = TypeVar("C", bound=ClientConnection)


class ClientLoop(ABC, Generic[C]):
    """Carry out one share of a run; base of the load generator's and the peers' loop.

    Attributes
    ----------
    rows : bytearray
        Packed :data:`ROW`, in the order in which requests ended.
    steps : bytearray
        Packed steps of scripted peers; empty for requests.
    n_done : int
        Number of rows.
    stopping : bool
        Set from any thread to end the loop within a tenth of a second.
    on_tick : callable or None
        Called about ten times a second.
    """

    def __init__(self, share: Share, recorder: Recorder | None = None) -> None:
        self.share = share
        self.options = share.options
        self.timeout_ns = round(share.options.timeout * 1e9)
        self.clock = time.monotonic_ns
        self.poller = make_poller("epoll")
        max_events = min(share.n_connections + 1, MAX_EVENTS)
        self.calls = (
            RecordedClientCalls(self.poller, max_events, recorder)
            if recorder
            else ClientCalls(self.poller, max_events)
        )
        self.rows = bytearray()
        self.steps = bytearray()
        self.n_done = 0
        self.stopping = False
        self.on_tick: Callable[[], None] | None = None
        self.by_fd: dict[int, C] = {}
        self.n_conns = 0
        self.in_flight = self.in_flight_ns = 0
        self._sources = share.options.sources
        self._counted_ns = self._counted = 0
        self.due: list[tuple[int, int, C]] = []  # a heap of pauses
        self._sweep_ns = max(1_000_000, min(SWEEP_NS, self.timeout_ns // 10))
        self._next_sweep_ns = 0

    def run(self, start_ns: int) -> Facts:
        """Start at `start_ns` on the monotonic clock; return when every request has its row."""
        delay = (start_ns - self.clock()) / 1e9
        if delay > 0:
            time.sleep(delay)
        began_ns = self.clock()
        cpu_ns = time.thread_time_ns()
        self._counted_ns = start_ns  # all loops of a run count from the same instant
        self._next_sweep_ns = start_ns + self._sweep_ns
        try:
            self.begin(start_ns)
            while not self.stopping and self.is_busy():
                self.account(now := self.clock())
                due_ns = self._next_sweep_ns
                if self.due:
                    due_ns = min(due_ns, self.due[0][0])
                ready = self.calls.wait(max(0, due_ns - now) / 1e9)
                self.account(now := self.clock())
                self._handle(ready, now)
                if now >= self._next_sweep_ns:
                    self._sweep(now)
            end_ns = self.clock()
            self.account(end_ns)
        finally:
            self.close()
        cpu_ns = time.thread_time_ns() - cpu_ns
        totals = (cpu_ns, self.in_flight_ns, self.n_conns, self.in_flight)
        return Facts(self.share.process, start_ns, began_ns, end_ns, *totals)

    def _handle(self, ready: Ready, now: int) -> None:
        by_fd, note_ready, on_ready = self.by_fd, self.calls.note_ready, self.on_ready
        for fd, mask in ready:
            connection = by_fd.get(fd)
            note_ready(connection.key if connection else fd, mask)
            if connection is not None:
                on_ready(connection, mask)
        due = []
        while self.due and self.due[0][0] <= now:
            due.append(heappop(self.due)[2])
        # A pause that one of these starts ends after the next wait at the earliest.
        for connection in due:
            self.on_time(connection)

    def _sweep(self, now: int) -> None:
        self._next_sweep_ns = now + self._sweep_ns
        self.give_up(now)
        if self.on_tick is not None:
            self.on_tick()

    @abstractmethod
    def begin(self, start_ns: int) -> None:
        """Start the first requests or steps."""

    @abstractmethod
    def is_busy(self) -> bool:
        """Whether anything is left to do."""

    @abstractmethod
    def on_ready(self, connection: C, mask: int) -> None:
        """Handle one ready descriptor; never blocks."""

    @abstractmethod
    def on_time(self, connection: C) -> None:
        """Continue after a pause set with :meth:`wait_until`."""

    @abstractmethod
    def give_up(self, now: int) -> None:
        """Fail what has exceeded the timeout."""

    def account(self, now: int, begun: int = 0) -> None:
        """Update the integral of requests in flight up to `now`, when `begun` more start.

        The number is constant while the loop waits. While the loop handles a batch it
        changes step by step, which is approximated by the mean of both values.
        """
        self.in_flight_ns += (self._counted + self.in_flight) * (now - self._counted_ns) // 2
        self.in_flight += begun
        self._counted_ns = now
        self._counted = self.in_flight

    def wait_until(self, connection: C, due_ns: int) -> None:
        """Have :meth:`on_time` called at `due_ns`."""
        heappush(self.due, (due_ns, connection.conn, connection))

    def dial(self, connection: C) -> int:
        """Open a socket and begin to connect; return 0 or an errno."""
        calls, target, sources = self.calls, self.options.target, self._sources
        try:
            self.by_fd[calls.socket(connection, target.family, connection.conn)] = connection
            if sources:
                calls.bind(connection, sources[connection.conn % len(sources)])
            error, port = calls.dial(connection, target.address)
        except OSError as failure:
            return failure.errno or EIO
        connection.local_port = connection.local_port or port
        return error

    def set_interest(self, connection: C, mask: int) -> None:
        """Register the descriptor, or modify its interest, unless the mask is the same."""
        if connection.interest == mask:
            return
        if connection.interest < 0:
            self.calls.register(connection, mask)
        else:
            self.calls.modify(connection, mask)
        connection.interest = mask

    def drop(self, connection: C) -> None:
        """Close the connection's socket, if it is open."""
        if connection.fd >= 0:
            self.by_fd.pop(connection.fd, None)
            self.calls.close(connection)
        connection.fd = connection.interest = -1
        connection.phase = CLOSED
        connection.unsent = b""

    def write_row(self, connection: ClientConnection, now: int, error: int) -> None:
        """Write the row of a request that succeeded or failed."""
        connection.done_ns = now
        connection.error = error
        self.rows += ROW.pack(*_row_values(connection))
        self.n_done += 1
        self.in_flight -= 1

    def close(self) -> None:
        """Close the poller and all connections, also if the loop never ran."""
        for connection in list(self.by_fd.values()):
            self.drop(connection)
        self.poller.close()
        self.calls.publish()
