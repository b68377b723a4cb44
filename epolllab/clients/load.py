"""The load generator: connections that send requests in a closed or an open loop.

A *closed* loop keeps a fixed number of requests in flight: each connection sends the next
request when its response is complete, so a slow server gets fewer requests. An *open*
loop sends at a fixed rate, independent of the server: a request that becomes due while
every connection is busy waits in a queue, and that wait is part of its latency.

``Run.requests`` describes the timestamps of a request. ``sent`` is when the first send that
took any of its bytes *began*: the peer can have read them before that send returns.
``first_byte`` and ``done`` are when the recv of the first and of the last byte returned.

The calls of one connection are socket, connect, send, register, wait, recv, close. On
loopback a connection is usually established by the time connect returns, so the request
is sent at once, and OUT is requested only if that would block. A connection that the
server closes is closed only after the server's FIN has arrived (RDHUP), which leaves
TIME_WAIT, and the port that it blocks, on the server's side.
"""

from collections import deque
from dataclasses import dataclass
from errno import EIO
from typing import Any

from epolllab.clients.loop import (
    BAD_RESPONSE,
    BROKEN,
    CLOSED_EARLY,
    READABLE,
    RECV_SIZE,
    TIMEOUT,
    ClientConnection,
    ClientLoop,
)
from epolllab.clients.options import Share
from epolllab.clients.response import DEFECTS, BadResponse, make_response_parser
from epolllab.events import EPOLLIN, EPOLLOUT, EPOLLRDHUP
from epolllab.recording.recorder import Recorder

__all__ = ["LoadLoop"]

LINGER_NS = 1_000_000_000
"""How long to wait for the server to close a connection after its last response."""

RETRY_NS = 10_000_000
"""Pause after a connection that failed immediately, for example because it was refused.
Without it, requests to an absent server would be repeated as fast as the CPU allows."""

_CONNECTING, _IN_FLIGHT, _IDLE, _ENDING = range(1, 5)
"""Phases of a connection, beside CLOSED."""


@dataclass(slots=True, eq=False)
class _Connection(ClientConnection):
    parser: Any = None
    since_ns: int = 0
    """When the phase _ENDING began."""


class LoadLoop(ClientLoop[_Connection]):
    """Send requests in a closed or an open loop."""

    def __init__(self, share: Share, recorder: Recorder | None = None) -> None:
        super().__init__(share, recorder)
        self._is_open = bool(share.interval_ns)
        self._keep_alive = self.options.keep_alive
        self._message = self.options.message()
        self._connections = [
            _Connection(parser=make_response_parser(self.options.protocol, self._message))
            for _ in range(share.n_connections)
        ]
        self._free: deque[_Connection] = deque()
        self._queue: deque[int] = deque()  # due instants of an open loop
        self._timer: _Connection | None = None
        self._first_ns = self._arrived = 0
        self._left = share.n_requests
        self._until_ns: int | None = None

    def begin(self, start_ns: int) -> None:
        """Start a request on every connection, or the timer of an open loop."""
        share = self.share
        if share.n_requests is None:
            self._until_ns = start_ns + round((self.options.duration or 0) * 1e9)
        if not self._is_open:
            for connection in self._connections:
                self._next(connection)
            return
        self._free.extend(self._connections)
        self._first_ns = start_ns + share.first_arrival_ns
        if self._left:
            from epolllab.kernel.raw import Timer  # ctypes, which a closed loop does not need

            timer = Timer(self._first_ns, share.interval_ns)
            fd = timer.fileno()
            self._timer = self.by_fd[fd] = _Connection(sock=timer, fd=fd, key=fd)
            self.set_interest(self._timer, EPOLLIN)

    def _on_timer(self, timer: _Connection) -> None:
        """Queue the requests that are due, and send on the free connections."""
        left = self._left or 0
        count = min(int.from_bytes(self.calls.read(timer, 8), "little"), left)
        first = self._first_ns + self._arrived * self.share.interval_ns
        due = [first + i * self.share.interval_ns for i in range(count)]
        self._queue.extend(due)
        self.account(now := self.clock(), begun=count)
        # They count as in flight from when they were due.
        self.in_flight_ns += sum(max(0, now - instant) for instant in due)
        self._arrived += count
        self._left = left - count
        if not self._left:
            self._timer = None
            self.drop(timer)
        while self._queue and self._free and not self.stopping:  # which another thread sets
            self._next(self._free.popleft())

    def _take(self) -> int:
        """The intended instant of the next request; 0 if there is none now."""
        if self._is_open:
            return self._queue.popleft() if self._queue else 0
        now = self.clock()
        if self._left is not None:
            if not self._left:
                return 0
            self._left -= 1
        elif self._until_ns is not None and now >= self._until_ns:
            return 0
        self.in_flight += 1
        return now

    def _next(self, connection: _Connection) -> None:
        """Start the next request, if there is one, on a connection that is free."""
        if self.stopping or not (intended_ns := self._take()):
            if self._is_open:
                self._free.append(connection)
            elif connection.phase == _IDLE:
                self.drop(connection)
            return
        connection.intended_ns = intended_ns
        connection.first_byte_ns = connection.sent_ns = connection.n_bytes = 0
        connection.parser.begin()
        if connection.phase == _IDLE:
            connection.request += 1
            connection.unsent = self._message
            self._send_or_fail(connection)
        else:
            self._connect(connection)

    def is_busy(self) -> bool:
        """Whether requests are in flight or to come, or connections wait for the server's FIN."""
        return bool(
            self.in_flight
            or self._timer is not None
            or self.due
            or any(connection.phase == _ENDING for connection in self.by_fd.values())
        )

    def on_time(self, connection: _Connection) -> None:
        """Start the next request after a pause."""
        self._next(connection)

    def on_ready(self, connection: _Connection, mask: int) -> None:
        """Send what is left of the request; then read."""
        if connection is self._timer:
            self._on_timer(connection)
            return
        if connection.unsent and mask & (EPOLLOUT | BROKEN):
            conn = connection.conn
            self._send_or_fail(connection)
            # After a failure this may be a new connection, to which the mask does not apply.
            is_same = connection.conn == conn and connection.fd >= 0
            if not is_same or not mask & (READABLE | BROKEN):
                return
        self._read(connection, mask)

    def _connect(self, connection: _Connection) -> None:
        """Open a connection and send at once; request OUT only if that would block."""
        self.n_conns += 1
        connection.conn = self.n_conns
        connection.request = connection.local_port = connection.connected_ns = 0
        connection.phase = _CONNECTING
        error = self.dial(connection)
        if not error:
            connection.unsent = self._message
            try:
                self._send(connection)
            except OSError as failure:
                error = failure.errno or EIO
        if error:
            self._fail(connection, error, pause_ns=RETRY_NS)

    def _send_or_fail(self, connection: _Connection) -> None:
        try:
            self._send(connection)
        except OSError as error:
            self._fail(connection, error.errno or EIO)

    def _send(self, connection: _Connection) -> None:
        """Send until it would block, and request OUT only if something is left."""
        data = connection.unsent
        send = self.calls.send
        start = self.clock()
        try:
            sent = send(connection, data)
            if connection.phase == _CONNECTING:
                connection.connected_ns = start
            connection.phase = _IN_FLIGHT
            connection.sent_ns = connection.sent_ns or start
            while sent < len(data):
                data = memoryview(data)[sent:]
                sent = send(connection, data)
            data = b""
        except BlockingIOError:
            pass
        connection.unsent = data
        self.set_interest(connection, READABLE | EPOLLOUT if data else READABLE)

    def _read(self, connection: _Connection, mask: int) -> None:
        try:
            data = self.calls.recv(connection, RECV_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._on_error(connection, error.errno or EIO)
            return
        if not data:
            self._on_eof(connection)
        elif connection.phase == _IN_FLIGHT:
            # With RDHUP and a buffer that is not full, this recv returned the last bytes.
            is_last = bool(mask & EPOLLRDHUP) and len(data) < RECV_SIZE
            self._feed(connection, data, is_last)
        elif connection.phase == _IDLE and data.strip(b"\r\n"):
            self.drop(connection)  # bytes that are no response to any request

    def _feed(self, connection: _Connection, data: bytes, is_last: bool) -> None:
        now = self.clock()
        if not connection.first_byte_ns:
            connection.first_byte_ns = now
        connection.n_bytes += len(data)
        try:
            is_complete = connection.parser.feed(data)
        except BadResponse as bad:
            self._fail(connection, BAD_RESPONSE - DEFECTS.index(bad.defect))
            return
        if is_complete:
            self._complete(connection, now, is_last)
        elif is_last:
            self._on_eof(connection)

    def _complete(self, connection: _Connection, now: int, is_last: bool) -> None:
        """Write the row; then keep the connection, close it, or wait for the server's FIN."""
        self._write(connection, now, 0)
        closes = connection.parser.closes
        if self._keep_alive and not (closes or is_last or connection.unsent):
            connection.phase = _IDLE
        elif is_last or not closes:
            self.drop(connection)
        else:
            connection.phase = _ENDING
            connection.since_ns = now
            return
        self._next(connection)

    def _on_eof(self, connection: _Connection) -> None:
        """The peer closed: after a response without a length, an idle connection, or early."""
        if connection.phase != _IN_FLIGHT:
            self._on_error(connection, CLOSED_EARLY)
        elif connection.parser.eof():
            self._complete(connection, self.clock(), True)
        else:
            self._fail(connection, CLOSED_EARLY)

    def _on_error(self, connection: _Connection, error: int) -> None:
        """The connection is broken, which is an error only during a request."""
        if connection.phase in (_CONNECTING, _IN_FLIGHT):
            self._fail(connection, error)
            return
        was_ending = connection.phase == _ENDING
        self.drop(connection)
        if was_ending:
            self._next(connection)

    def _write(self, connection: _Connection, now: int, error: int) -> None:
        connection.status = connection.parser.status
        self.write_row(connection, now, error)

    def _fail(self, connection: _Connection, error: int, pause_ns: int = 0) -> None:
        """Write the row and close the connection; the next request follows after the pause."""
        now = self.clock()
        self._write(connection, now, error)
        self.drop(connection)
        if pause_ns:
            self.wait_until(connection, now + pause_ns)
        else:
            self._next(connection)

    def give_up(self, now: int) -> None:
        """Fail requests past their timeout, and close connections that the server keeps open."""
        oldest = now - self.timeout_ns
        for connection in list(self.by_fd.values()):
            if connection.phase in (_CONNECTING, _IN_FLIGHT):
                if connection.intended_ns < oldest:
                    self._fail(connection, TIMEOUT)
            elif connection.phase == _ENDING and connection.since_ns < now - LINGER_NS:
                self.drop(connection)
                self._next(connection)
        while self._queue and self._queue[0] < oldest:
            # It waited for a connection, so its row has none.
            self.write_row(ClientConnection(intended_ns=self._queue.popleft()), now, TIMEOUT)
