"""What the loops of requests and of scripted peers have in common.

One job: wait, handle, keep account of what is in flight, and end when nothing is; and
the layout of the row that every request, or peer, leaves. It does not know what is
asked or answered, and knows no frame, no process and no progress bar.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from epolllab.clients.syscalls import make_calls
from epolllab.kernel.pollers import Ready, make_poller

if TYPE_CHECKING:
    from epolllab.clients.options import Share
    from epolllab.recording.recorder import Recorder


__all__ = ["BAD_RESPONSE", "CLOSED_EARLY", "FIELDS", "ROW", "TIMEOUT", "ClientLoop", "Facts"]


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
"""Name and numpy type code of each field of a row. 0 is an instant that never came;
``done_ns`` is when the request ended, also where it failed."""

ROW = Struct("<qqqqqqqiiii")
"""The same for :mod:`struct`; 72 bytes."""

TIMEOUT, CLOSED_EARLY, BAD_RESPONSE = -1, -2, -3
"""Values of ``error`` that are no errno."""

SWEEP_NS = 100_000_000


class Facts(NamedTuple):
    """What a loop tells of itself when it has ended; times in nanoseconds."""

    process: int
    start_ns: int
    end_ns: int
    cpu_ns: int
    in_flight_ns: int
    """Integral over time of the requests in flight, those in the queue included."""
    n_conns: int
    """Connections opened; their serials are 1 to this."""


class ClientLoop(ABC):
    """Carry out one share of a run; a base.

    Parameters
    ----------
    share : Share
        What to do.
    recorder : Recorder, optional
        Where to record; none leaves it out altogether.
    clock : callable, optional
        Nanoseconds of the monotonic clock.

    Attributes
    ----------
    rows : bytearray
        Packed :data:`ROW`, in the order in which requests ended.
    steps : bytearray
        What scripted peers did, packed; empty for requests.
    n_done : int
        How many rows there are.
    stopping : bool
        Set it, from any thread, and the loop ends within a tenth of a second.
    on_tick : callable or None
        Called about ten times a second.
    """

    def __init__(
        self,
        share: "Share",
        recorder: "Recorder | None" = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.share = share
        self.clock = clock
        self.poller = make_poller("epoll")
        self.calls = make_calls(self.poller, min(share.n_connections + 1, 1023), recorder)
        self.rows = bytearray()
        self.steps = bytearray()
        self.n_done = 0
        self.stopping = False
        self.on_tick: Callable[[], None] | None = None
        self.n_conns = 0
        self.in_flight = self.in_flight_ns = 0
        self._counted_ns = self._counted = 0
        self._sweep_ns = max(1_000_000, min(SWEEP_NS, share.timeout_ns // 10))
        self._next_sweep_ns = 0

    def run(self, start_ns: int) -> Facts:
        """Begin at `start_ns` on the clock, and return when every request has its row."""
        delay = (start_ns - self.clock()) / 1e9
        if delay > 0:
            time.sleep(delay)
        cpu_ns = time.thread_time_ns()
        self._counted_ns = start_ns  # all loops of a run count from the same instant
        self._next_sweep_ns = start_ns + self._sweep_ns
        try:
            self.begin(start_ns)
            wait, handle = self.calls.wait, self.handle
            while not self.stopping and self.is_busy():
                self.account(now := self.clock())
                due = min(self.next_due_ns() or self._next_sweep_ns, self._next_sweep_ns)
                ready = wait(max(0, due - now) / 1e9)
                self.account(now := self.clock())
                handle(ready, now)
                if now >= self._next_sweep_ns:
                    self._sweep(now)
            end_ns = self.clock()
            self.account(end_ns)
        finally:
            self.close()
        cpu_ns = time.thread_time_ns() - cpu_ns
        return Facts(self.share.process, start_ns, end_ns, cpu_ns, self.in_flight_ns, self.n_conns)

    @abstractmethod
    def begin(self, start_ns: int) -> None:
        """Start what is to be done at the start."""

    @abstractmethod
    def is_busy(self) -> bool:
        """Whether anything is left to be done."""

    @abstractmethod
    def next_due_ns(self) -> int:
        """The instant at which something is to be done without an event; 0 for none."""

    @abstractmethod
    def handle(self, ready: Ready, now: int) -> None:
        """Give each ready descriptor its turn, and do what is due; never blocks."""

    @abstractmethod
    def give_up(self, now: int) -> None:
        """End what has taken too long."""

    @abstractmethod
    def close(self) -> None:
        """Close all that the loop has open; for a loop that was not run, too."""

    def _sweep(self, now: int) -> None:
        self._next_sweep_ns = now + self._sweep_ns
        self.give_up(now)
        if self.on_tick is not None:
            self.on_tick()

    def account(self, now: int, begun: int = 0) -> None:
        """Bring the integral of what is in flight up to `now`, when `begun` more begin.

        It does not change while the loop waits. While it handles a batch it changes
        step by step, which the mean of before and after stands for.
        """
        self.in_flight_ns += (self._counted + self.in_flight) * (now - self._counted_ns) // 2
        self.in_flight += begun
        self._counted_ns = now
        self._counted = self.in_flight
