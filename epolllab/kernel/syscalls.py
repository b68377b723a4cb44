"""The system calls that an event loop makes, bare or recorded.

Both kinds have the same methods and decide nothing: a call that fails raises OSError,
which the loop handles. The recorded kind stages a row for each call, with its start, its
end and its result; ``record=False`` leaves the bare kind, with nothing of the recorder
in it.
"""

import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Protocol

from epolllab.events import FOREVER, Op

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from epolllab.kernel.pollers import Poller, Ready

__all__ = ["Endpoint", "RecordedCalls", "RowSink", "Served", "Socket", "SystemCalls"]

# _socket.socket, under its public name. Its Python subclass socket.socket wraps each
# accepted connection in a second object, which costs a microsecond a connection.
Socket = socket.SocketType

# Plain numbers: a member of an enum is looked up and converted at every use.
READY, ACCEPT, CONNECT, READ = map(int, (Op.READY, Op.ACCEPT, Op.CONNECT, Op.READ))
REGISTER, MODIFY, UNREGISTER = map(int, (Op.REGISTER, Op.MODIFY, Op.UNREGISTER))
RECV, SEND, SHUTDOWN, CLOSE = map(int, (Op.RECV, Op.SEND, Op.SHUTDOWN, Op.CLOSE))
SETSOCKOPT, GETSOCKOPT = map(int, (Op.SETSOCKOPT, Op.GETSOCKOPT))

UNACKED = slice(24, 28)
"""Place of tcpi_unacked in struct tcp_info (linux/tcp.h): of a listener, its queue."""

MOST_STAGED = 4_096
"""Rows that may wait to be settled while one connection is drained."""


class Endpoint(Protocol):
    """What the calls need of a connection: socket, descriptor, and its ``events.key_of``."""

    sock: Socket
    fd: int
    key: int


class Responding(Protocol):
    """What a session says of its last response."""

    @property
    def handle_code(self) -> int:
        """The code of the handle row."""


class Served(Endpoint, Protocol):
    """An endpoint whose requests a session handles."""

    @property
    def session(self) -> Responding:
        """The session."""


class RowSink(Protocol):
    """What recorded calls need of a recorder; :class:`epolllab.recording.Recorder` is one."""

    clock: "Callable[[], int]"
    stage: "Callable[[Iterable[int]], None]"

    @property
    def staged(self) -> int:
        """Rows staged and not yet settled."""

    def settle(self) -> None:
        """Move staged rows into the ring."""

    def stage_wait(self, fd: int, start_ns: int, end_ns: int, result: int, timeout_us: int) -> None:
        """Stage a wait."""


class SystemCalls:
    """The bare calls.

    Parameters
    ----------
    poller : Poller
        Makes the calls of ``wait``, ``register``, ``modify`` and ``unregister``.
    max_events : int
        The most descriptors that a wait returns.
    """

    def __init__(self, poller: "Poller", max_events: int) -> None:
        self.poller = poller
        self.max_events = max_events

    # The next four make no system call, and do nothing unless calls are recorded.

    def note_ready(self, key: int, mask: int) -> None:
        """Note a descriptor that the wait returned."""

    def note_response(self, endpoint: Served, size: int) -> None:
        """Note that a request was handled, with a response of `size` bytes."""

    def settle_if_many(self) -> None:
        """Keep the number of staged rows bounded while one connection is drained."""

    def publish(self) -> None:
        """Make what was recorded visible to readers."""

    def wait(self, timeout: float | None) -> "Ready":
        """Block until something is ready; the only call here that blocks."""
        return self.poller.wait(timeout, self.max_events)

    def accept(self, listener: Endpoint, conn: int) -> tuple[int, Any]:
        """Accept connection number `conn`; return its descriptor and the peer's address."""
        return listener.sock._accept()  # type: ignore[attr-defined, no-any-return]

    def queue_length(self, listener: Endpoint) -> int:
        """Return the number of connections waiting to be accepted (TCP_INFO of a listener)."""
        info = listener.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED.stop)
        return int.from_bytes(info[UNACKED], sys.byteorder)

    def register(self, endpoint: Endpoint, mask: int) -> None:
        """Add a descriptor to the interest list."""
        self.poller.register(endpoint.fd, mask)

    def modify(self, endpoint: Endpoint, mask: int) -> None:
        """Change a descriptor's interest."""
        self.poller.modify(endpoint.fd, mask)

    def unregister(self, endpoint: Endpoint) -> None:
        """Remove a descriptor from the interest list."""
        self.poller.unregister(endpoint.fd)

    def recv(self, endpoint: Endpoint, size: int) -> bytes:
        """Read at most `size` bytes; empty at end of file."""
        return endpoint.sock.recv(size)

    def recv_ready(self, endpoint: Endpoint, size: int, mask: int) -> bytes:
        """Read from a descriptor that the wait returned: ``note_ready`` and ``recv``."""
        return endpoint.sock.recv(size)

    def send(self, endpoint: Endpoint, data: bytes | memoryview) -> int:
        """Write what fits; return the number of bytes taken."""
        return endpoint.sock.send(data)

    def send_response(self, endpoint: Served, response: bytes | memoryview) -> int:
        """Write the response to a request just handled: ``note_response`` and ``send``."""
        return endpoint.sock.send(response)

    def connect(self, endpoint: Endpoint, address: Any) -> None:
        """Begin to connect; BlockingIOError while it is in progress."""
        endpoint.sock.connect(address)

    def cork(self, endpoint: Endpoint, on: bool) -> None:
        """Hold back partial segments (TCP_CORK), or send them."""
        endpoint.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    def shutdown(self, endpoint: Endpoint, how: int) -> None:
        """Shut down one or both directions."""
        endpoint.sock.shutdown(how)

    def read(self, endpoint: Endpoint, size: int) -> bytes:
        """read(2), for a descriptor that is not a socket."""
        return os.read(endpoint.fd, size)

    def close(self, endpoint: Endpoint) -> None:
        """Close the descriptor, and remove it from a poller that keeps its own table."""
        self.poller.forget(endpoint.fd)
        endpoint.sock.close()


class RecordedCalls(SystemCalls):
    """The same calls, each with a row of its start, end and result.

    Rows are staged, and settled before the loop sleeps. ``recv_ready`` and
    ``send_response`` are made for every request: they stage two rows at once and read the
    clock once for the instant that the rows share. Times are of the recorder's clock.
    """

    def __init__(self, poller: "Poller", max_events: int, recorder: RowSink) -> None:
        super().__init__(poller, max_events)
        self.recorder = recorder
        self._clock = recorder.clock
        self._stage = recorder.stage
        self._handled_since = 0
        """End of the recv, or of the response before in a pipeline: handling starts there."""

    def note_ready(self, key: int, mask: int) -> None:
        """Stage a ready row."""
        now = self._clock()
        self._stage((now, now, key, mask, READY))

    def note_read(self, key: int, mask: int, start: int, end: int, result: int) -> None:
        """Stage the ready row and the recv row of a descriptor that has been read."""
        self._handled_since = end
        self._stage((start, start, key, mask, READY, start, end, key, result, RECV))

    def note_response(self, endpoint: Served, size: int) -> None:
        """Stage a handle row."""
        start = self._handled_since
        self._handled_since = end = self._clock()
        self._stage((start, end, endpoint.key, size, endpoint.session.handle_code))

    def settle_if_many(self) -> None:
        """Settle if many rows are staged; draining a connection may stage without limit."""
        if self.recorder.staged > MOST_STAGED:
            self.recorder.settle()

    def publish(self) -> None:
        """Settle what is staged."""
        self.recorder.settle()

    def wait(self, timeout: float | None) -> "Ready":
        """Settle, then block until something is ready."""
        recorder, clock = self.recorder, self._clock
        recorder.settle()
        timeout_us = FOREVER if timeout is None else min(int(timeout * 1e6), FOREVER - 1)
        start = clock()
        try:
            ready = self.poller.wait(timeout, self.max_events)
        except OSError as error:
            fd = self.poller.fileno()
            recorder.stage_wait(fd, start, clock(), -(error.errno or 0), timeout_us)
            raise
        recorder.stage_wait(self.poller.fileno(), start, clock(), len(ready), timeout_us)
        return ready

    def recv(self, endpoint: Endpoint, size: int) -> bytes:
        """Read at most `size` bytes; empty at end of file."""
        clock = self._clock
        start = clock()
        try:
            data = endpoint.sock.recv(size)
        except OSError as error:
            self._stage((start, clock(), endpoint.key, -(error.errno or 0), RECV))
            raise
        self._handled_since = end = clock()
        self._stage((start, end, endpoint.key, len(data), RECV))
        return data

    def recv_ready(self, endpoint: Endpoint, size: int, mask: int) -> bytes:
        """Read from a descriptor that the wait returned: a ready row and a recv row."""
        clock = self._clock
        start = clock()
        key = endpoint.key
        try:
            data = endpoint.sock.recv(size)
        except OSError as error:
            self._stage((start, start, key, mask, READY))
            self._stage((start, clock(), key, -(error.errno or 0), RECV))
            raise
        self._handled_since = end = clock()
        self._stage((start, start, key, mask, READY, start, end, key, len(data), RECV))
        return data

    def send(self, endpoint: Endpoint, data: bytes | memoryview) -> int:
        """Write what fits; the row has the number of bytes taken."""
        clock = self._clock
        start = clock()
        try:
            sent = endpoint.sock.send(data)
        except OSError as error:
            self._stage((start, clock(), endpoint.key, -(error.errno or 0), SEND))
            raise
        self._stage((start, clock(), endpoint.key, sent, SEND))
        return sent

    def send_response(self, endpoint: Served, response: bytes | memoryview) -> int:
        """Write the response to a request just handled: a handle row and a send row."""
        clock = self._clock
        start = clock()
        key, handled_since = endpoint.key, self._handled_since
        code = endpoint.session.handle_code
        try:
            sent = endpoint.sock.send(response)
        except OSError as error:
            self._stage((handled_since, start, key, len(response), code))
            self._stage((start, clock(), key, -(error.errno or 0), SEND))
            raise
        self._stage(
            (handled_since, start, key, len(response), code, start, clock(), key, sent, SEND)
        )
        return sent

    def accept(self, listener: Endpoint, conn: int) -> tuple[int, Any]:
        """Accept a connection; the row has its serial and the peer's port."""
        clock = self._clock
        start = clock()
        try:
            fd, address = listener.sock._accept()  # type: ignore[attr-defined]
        except OSError as error:
            self._stage((start, clock(), listener.key, -(error.errno or 0), ACCEPT))
            raise
        end = clock()
        port = address[1] if address.__class__ is tuple else 0
        self._stage((start, end, conn << 32 | listener.fd, fd, port << 8 | ACCEPT))
        return fd, address

    def queue_length(self, listener: Endpoint) -> int:
        """Connections waiting to be accepted; the row has their number."""
        clock = self._clock
        start = clock()
        n = super().queue_length(listener)
        self._stage((start, clock(), listener.key, n, GETSOCKOPT))
        return n

    def register(self, endpoint: Endpoint, mask: int) -> None:
        """Add a descriptor to the interest list."""
        self._record(mask << 8 | REGISTER, endpoint, self.poller.register, endpoint.fd, mask)

    def modify(self, endpoint: Endpoint, mask: int) -> None:
        """Change a descriptor's interest."""
        self._record(mask << 8 | MODIFY, endpoint, self.poller.modify, endpoint.fd, mask)

    def unregister(self, endpoint: Endpoint) -> None:
        """Remove a descriptor from the interest list."""
        self._record(UNREGISTER, endpoint, self.poller.unregister, endpoint.fd)

    def close(self, endpoint: Endpoint) -> None:
        """Close the descriptor; the poller's own table is not part of the call."""
        self.poller.forget(endpoint.fd)
        self._record(CLOSE, endpoint, endpoint.sock.close)

    def connect(self, endpoint: Endpoint, address: Any) -> None:
        """Begin to connect; the row has the local port."""
        start = self._clock()
        result = 0
        try:
            endpoint.sock.connect(address)
        except OSError as error:
            result = -(error.errno or 0)
            raise
        finally:
            end = self._clock()
            name = endpoint.sock.getsockname()
            port = name[1] if isinstance(name, tuple) else 0
            self._stage((start, end, endpoint.key, result, port << 8 | CONNECT))

    def cork(self, endpoint: Endpoint, on: bool) -> None:
        """Hold back partial segments, or send them."""
        self._record(SETSOCKOPT, endpoint, super().cork, endpoint, on)

    def shutdown(self, endpoint: Endpoint, how: int) -> None:
        """Shut down one or both directions."""
        self._record(SHUTDOWN, endpoint, endpoint.sock.shutdown, how)

    def read(self, endpoint: Endpoint, size: int) -> bytes:
        """read(2), for a descriptor that is not a socket."""
        start = self._clock()
        try:
            data = os.read(endpoint.fd, size)
        except OSError as error:
            self._stage((start, self._clock(), endpoint.key, -(error.errno or 0), READ))
            raise
        self._stage((start, self._clock(), endpoint.key, len(data), READ))
        return data

    def _record(self, code: int, endpoint: Endpoint, call: Any, *args: Any) -> Any:
        """Make a call whose result is 0 unless it fails, and stage its row."""
        start = self._clock()
        result = 0
        try:
            return call(*args)
        except OSError as error:
            result = -(error.errno or 0)
            raise
        finally:
            self._stage((start, self._clock(), endpoint.key, result, code))
