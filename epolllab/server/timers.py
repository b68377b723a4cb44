"""Time limits of connections: of a request, of silence, and of the end after a response."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable

from epolllab.server.connection import Connection
from epolllab.server.options import ServerOptions

__all__ = ["Timers"]

LINGER_S = 2.0
"""How long a peer may be silent after the last response before the loop closes."""

LINGER_MOST_S = 30.0
"""How long the loop reads from a peer that keeps sending after the last response."""

LINGER_MOST_BYTES = 1 << 26
"""How many bytes it reads from such a peer."""


class Timers:
    """The time limits of a loop's connections.

    Parameters
    ----------
    options : ServerOptions
        Its `request_timeout` and `idle_timeout`.
    clock : callable
        Monotonic nanoseconds.
    close, time_out : callable
        Close a connection at once, or after the session's response to a timeout.
    connections : callable
        The open connections.

    Attributes
    ----------
    requests : OrderedDict
        Connections with an incomplete request, and since when; the oldest first. The limit
        is the same for all, so the order in which they began is the order of their ends.
    lingering : dict
        Connections after their last response: when to close, and when at the latest.
    idle_ns : int
        The limit of silence; 0 without one.
    """

    def __init__(
        self,
        options: ServerOptions,
        clock: Callable[[], int],
        close: Callable[[Connection], None],
        time_out: Callable[[Connection], None],
        connections: Callable[[], Iterable[Connection]],
    ) -> None:
        self._clock = clock
        self._close = close
        self._time_out = time_out
        self._connections = connections
        self.requests: OrderedDict[Connection, int] = OrderedDict()
        self.lingering: dict[Connection, tuple[int, int]] = {}
        # Up, since 0 means no limit.
        self._request_ns = math.ceil((options.request_timeout or 0) * 1e9)
        self.idle_ns = math.ceil((options.idle_timeout or 0) * 1e9)
        self._idle_checked_ns = 0

    def request_began(self, connection: Connection) -> None:
        """Start the time that a request may take, or start it again."""
        if self._request_ns:
            self.requests.pop(connection, None)
            self.requests[connection] = self._clock()
            connection.in_request = True

    def request_ended(self, connection: Connection) -> None:
        """Stop the time of a request."""
        self.requests.pop(connection, None)
        connection.in_request = False

    def linger(self, connection: Connection, most_s: float | None = None) -> None:
        """Give a peer some time to close, now that our half is shut down."""
        self.request_ended(connection)
        last = self._clock() + int((LINGER_MOST_S if most_s is None else most_s) * 1e9)
        self.lingering[connection] = min(self._clock() + int(LINGER_S * 1e9), last), last

    def ignored(self, connection: Connection, n_bytes: int) -> None:
        """Give a lingering peer more time, since it is still sending; up to a number of bytes."""
        _, last = self.lingering.get(connection, (0, 0))
        connection.ignored += n_bytes
        if connection.ignored > LINGER_MOST_BYTES:
            self._close(connection)
        elif last:
            self.lingering[connection] = min(self._clock() + int(LINGER_S * 1e9), last), last

    def forget(self, connection: Connection) -> None:
        """Drop a connection that has been closed."""
        self.requests.pop(connection, None)
        self.lingering.pop(connection, None)

    def timeouts(self) -> list[float]:
        """Seconds that the next wait may take, one for each kind of limit that runs."""
        waits = []
        if self.requests:
            left = next(iter(self.requests.values())) + self._request_ns - self._clock()
            waits.append(max(left, 0) / 1e9)
        if self.lingering:
            waits.append(LINGER_S / 4)
        if self.idle_ns:
            waits.append(self.idle_ns / 4e9)
        return waits

    def expire(self, now: int) -> None:
        """Close what has been slow, idle or lingering for too long."""
        for connection, (deadline, _) in list(self.lingering.items()):
            if now >= deadline:
                self._close(connection)
        if self.requests:
            self._expire_requests(now - self._request_ns)
        if self.idle_ns and now >= self._idle_checked_ns:
            self._idle_checked_ns = now + self.idle_ns // 4
            self._expire_idle(now)

    def _expire_requests(self, oldest: int) -> None:
        """Close connections whose request began before `oldest` and is not complete."""
        while self.requests:
            connection, began = next(iter(self.requests.items()))
            if began > oldest:
                return
            if connection.out:  # not read before the peer takes this response
                self.request_began(connection)
            else:
                self.request_ended(connection)
                self._time_out(connection)

    def _expire_idle(self, now: int) -> None:
        for connection in self._connections():
            if connection.active_ns == 0:
                connection.active_ns = now  # accepted, and idle since
            elif connection.active_ns <= now - self.idle_ns and not connection.ending:
                self._time_out(connection)
