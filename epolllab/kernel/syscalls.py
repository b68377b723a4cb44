"""Every system call the loop makes, bare or recorded.

One job: make a call, and in the recorded kind write down when it began, when it
returned and with what. Neither kind decides anything: a call that fails raises
what the operating system said, and the loop decides.

Both kinds have the same methods. The bare kind is what the loop runs on with
``record=False``: nothing of the recorder is left in it.
"""

import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Protocol

from epolllab.events import FOREVER, Op
from epolllab.kernel.pollers import EpollPoller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from epolllab.kernel.pollers import Poller, Ready


__all__ = ["Endpoint", "RecordedCalls", "RowSink", "Socket", "SystemCalls"]


# _socket.socket, under its public name. Its Python subclass socket.socket wraps each
# accepted connection in a second object, which costs a microsecond a connection.
Socket = socket.SocketType

# Plain numbers: an enum's member is looked up and converted at every use.
READY, ACCEPT, CONNECT, READ = map(int, (Op.READY, Op.ACCEPT, Op.CONNECT, Op.READ))
REGISTER, MODIFY, UNREGISTER = map(int, (Op.REGISTER, Op.MODIFY, Op.UNREGISTER))
RECV, SEND, SHUTDOWN, CLOSE = map(int, (Op.RECV, Op.SEND, Op.SHUTDOWN, Op.CLOSE))
HANDLE, SETSOCKOPT, GETSOCKOPT = map(int, (Op.HANDLE, Op.SETSOCKOPT, Op.GETSOCKOPT))

UNACKED = slice(24, 28)
"""Where struct tcp_info (linux/tcp.h) has tcpi_unacked: of a listener, its queue."""

MOST_STAGED = 4_096
"""Rows that may wait to be settled while one connection is drained."""


class Endpoint(Protocol):
    """What the calls need of a connection: its socket, number, and ``recorder.key_of``."""

    sock: Any
    fd: int
    key: int


class RowSink(Protocol):
    """What recorded calls need of a recorder; :class:`epolllab.recording.Recorder` is one."""

    clock: "Callable[[], int]"
    stage: "Callable[[Iterable[int]], None]"

    @property
    def staged(self) -> int:
        """Rows staged and not yet settled."""

    def settle(self) -> None:
        """Move staged rows into the ring."""

    def waited(self, fd: int, start_ns: int, end_ns: int, result: int, timeout_us: int) -> None:
        """Stage a wait."""


class SystemCalls:
    """The calls, bare.

    Parameters
    ----------
    poller : Poller
        Where ``wait``, ``register``, ``modify`` and ``unregister`` go.
    max_events : int
        Descriptors a wait returns at most.
    """

    observe: "Callable[[int, int], None] | None" = None
    """Note a ready descriptor, by key and mask; None where nothing records."""

    handled: "Callable[[Endpoint, int], None] | None" = None
    """Note a request handled, and the bytes of its answer; None where nothing records."""

    bound: "Callable[[], None] | None" = None
    """Keep what is staged bounded; None where nothing records."""

    def __init__(self, poller: "Poller", max_events: int) -> None:
        self.poller = poller
        self.max_events = max_events

    def wait(self, timeout: float | None) -> "Ready":
        """Block until something is ready; the only call here that blocks."""
        return self.poller.wait(timeout, self.max_events)

    def accept(self, listener: Endpoint, conn: int) -> tuple[int, Any]:
        """Take one connection, numbered `conn`; its descriptor and the peer's address."""
        accepted: tuple[int, Any] = listener.sock._accept()
        return accepted

    def queued(self, listener: Endpoint) -> int:
        """Connections that wait to be accepted (TCP_INFO of a listener)."""
        info = listener.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED.stop)
        return int.from_bytes(info[UNACKED], sys.byteorder)

    def register(self, end: Endpoint, mask: int) -> None:
        """Begin to watch."""
        self.poller.register(end.fd, mask)

    def modify(self, end: Endpoint, mask: int) -> None:
        """Change what is watched for."""
        self.poller.modify(end.fd, mask)

    def unregister(self, end: Endpoint) -> None:
        """Stop watching."""
        self.poller.unregister(end.fd)

    def recv(self, end: Endpoint, size: int) -> bytes:
        """Read at most `size` bytes; empty at end-of-file."""
        data: bytes = end.sock.recv(size)
        return data

    def turn_recv(self, end: Endpoint, size: int, mask: int) -> bytes:
        """Turn to a ready descriptor and read from it: ``observe`` and ``recv`` in one."""
        data: bytes = end.sock.recv(size)
        return data

    def send(self, end: Endpoint, data: bytes | memoryview) -> int:
        """Write what fits; the number of bytes taken."""
        sent: int = end.sock.send(data)
        return sent

    def reply(self, end: Endpoint, answer: bytes | memoryview) -> int:
        """Write the answer to a request just handled: ``handled`` and ``send`` in one."""
        sent: int = end.sock.send(answer)
        return sent

    def connect(self, end: Endpoint, address: Any) -> None:
        """Begin to connect; BlockingIOError while it goes on."""
        end.sock.connect(address)

    def cork(self, end: Endpoint, on: bool) -> None:
        """Hold back partial segments (TCP_CORK), or let them go."""
        end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    def shutdown(self, end: Endpoint, how: int) -> None:
        """End one or both directions."""
        end.sock.shutdown(how)

    def read(self, end: Endpoint, size: int) -> bytes:
        """read(2), for a descriptor that is no socket."""
        return os.read(end.fd, size)

    def close(self, end: Endpoint) -> None:
        """Close the descriptor; the poller is told if it keeps a table of its own."""
        self.poller.forget(end.fd)
        end.sock.close()

    def publish(self) -> None:
        """Make what was recorded visible to readers; nothing here."""


class RecordedCalls(SystemCalls):
    """The same calls, each with a row of its start, end and result.

    Rows are staged, and settled before the loop sleeps.

    Parameters
    ----------
    poller, max_events
        As in :class:`SystemCalls`.
    recorder : RowSink
        Where the rows go; its clock is the one used.
    """

    def __init__(self, poller: "Poller", max_events: int, recorder: "RowSink") -> None:
        super().__init__(poller, max_events)
        self.recorder = recorder
        self._bind_requests(recorder.clock, recorder.stage)
        self._bind_connections(recorder.clock, recorder.stage, poller)

    def _bind_requests(
        self, clock: "Callable[[], int]", stage: "Callable[[tuple[int, ...]], None]"
    ) -> None:
        """Bind the calls of every request as closures: no attribute is looked up."""
        last = 0

        def observe(key: int, mask: int) -> None:
            now = clock()
            stage((now, now, key, mask, READY))

        def recv(end: Endpoint, size: int) -> bytes:
            nonlocal last
            start = clock()
            try:
                data: bytes = end.sock.recv(size)
            except OSError as error:
                stage((start, clock(), end.key, -(error.errno or 0), RECV))
                raise
            last = clock()
            stage((start, last, end.key, len(data), RECV))
            return data

        def turn_recv(end: Endpoint, size: int, mask: int) -> bytes:
            nonlocal last
            start = clock()
            key = end.key
            try:
                data: bytes = end.sock.recv(size)
            except OSError as error:
                stage((start, start, key, mask, READY))
                stage((start, clock(), key, -(error.errno or 0), RECV))
                raise
            last = clock()
            stage((start, start, key, mask, READY, start, last, key, len(data), RECV))
            return data

        def handled(end: Endpoint, size: int) -> None:
            # From the end of the recv, or of the answer before in a pipeline.
            nonlocal last
            start, last = last, clock()
            stage((start, last, end.key, size, HANDLE))

        def send(end: Endpoint, data: bytes | memoryview) -> int:
            start = clock()
            try:
                sent: int = end.sock.send(data)
            except OSError as error:
                stage((start, clock(), end.key, -(error.errno or 0), SEND))
                raise
            stage((start, clock(), end.key, sent, SEND))
            return sent

        def reply(end: Endpoint, answer: bytes | memoryview) -> int:
            start = clock()
            key = end.key
            try:
                sent: int = end.sock.send(answer)
            except OSError as error:
                stage((last, start, key, len(answer), HANDLE))
                stage((start, clock(), key, -(error.errno or 0), SEND))
                raise
            stage((last, start, key, len(answer), HANDLE, start, clock(), key, sent, SEND))
            return sent

        self.observe = observe
        self.recv = recv  # type: ignore[method-assign]
        self.turn_recv = turn_recv  # type: ignore[method-assign]
        self.handled = handled
        self.send = send  # type: ignore[method-assign]
        self.reply = reply  # type: ignore[method-assign]

    def _bind_connections(
        self,
        clock: "Callable[[], int]",
        stage: "Callable[[tuple[int, ...]], None]",
        poller: "Poller",
    ) -> None:
        """Bind the calls of every connection likewise."""
        add, bare_queued = poller.register, SystemCalls.queued
        # epoll has nothing to forget, and then there is nothing to call.
        forget = None if isinstance(poller, EpollPoller) else poller.forget

        def accept(listener: Endpoint, conn: int) -> tuple[int, Any]:
            start = clock()
            try:
                fd, address = listener.sock._accept()
            except OSError as error:
                stage((start, clock(), listener.key, -(error.errno or 0), ACCEPT))
                raise
            end = clock()
            port = address[1] if address.__class__ is tuple else 0
            stage((start, end, conn << 32 | listener.fd, fd, port << 8 | ACCEPT))
            return fd, address

        def queued(listener: Endpoint) -> int:
            start = clock()
            n = bare_queued(self, listener)
            stage((start, clock(), listener.key, n, GETSOCKOPT))
            return n

        def register(end: Endpoint, mask: int) -> None:
            start = clock()
            try:
                add(end.fd, mask)
            except OSError as error:
                stage((start, clock(), end.key, -(error.errno or 0), mask << 8 | REGISTER))
                raise
            stage((start, clock(), end.key, 0, mask << 8 | REGISTER))

        def close(end: Endpoint) -> None:
            if forget is not None:
                forget(end.fd)
            start = clock()
            end.sock.close()
            stage((start, clock(), end.key, 0, CLOSE))

        self.accept = accept  # type: ignore[method-assign]
        self.queued = queued  # type: ignore[method-assign]
        self.register = register  # type: ignore[method-assign]
        self.close = close  # type: ignore[method-assign]

    def _call(self, code: int, end: Endpoint, function: Any, *args: Any) -> Any:
        """Make any call that returns nothing of interest, and record it."""
        recorder = self.recorder
        start = recorder.clock()
        result = 0
        try:
            return function(*args)
        except OSError as error:
            result = -(error.errno or 0)
            raise
        finally:
            recorder.stage((start, recorder.clock(), end.key, result, code))

    def wait(self, timeout: float | None) -> "Ready":
        """Block until something is ready, and begin the next wake."""
        recorder = self.recorder
        recorder.settle()
        timeout_us = FOREVER if timeout is None else min(int(timeout * 1e6), FOREVER - 1)
        start = recorder.clock()
        try:
            ready = self.poller.wait(timeout, self.max_events)
        except OSError as error:
            result = -(error.errno or 0)
            recorder.waited(self.poller.fileno(), start, recorder.clock(), result, timeout_us)
            raise
        recorder.waited(self.poller.fileno(), start, recorder.clock(), len(ready), timeout_us)
        return ready

    def modify(self, end: Endpoint, mask: int) -> None:
        """Change what is watched for."""
        self._call(mask << 8 | MODIFY, end, self.poller.modify, end.fd, mask)

    def unregister(self, end: Endpoint) -> None:
        """Stop watching."""
        self._call(UNREGISTER, end, self.poller.unregister, end.fd)

    def connect(self, end: Endpoint, address: Any) -> None:
        """Begin to connect; the row has the local port."""
        recorder = self.recorder
        start = recorder.clock()
        result = 0
        try:
            end.sock.connect(address)
        except OSError as error:
            result = -(error.errno or 0)
            raise
        finally:
            stop = recorder.clock()
            name = end.sock.getsockname()
            port = name[1] if isinstance(name, tuple) else 0
            recorder.stage((start, stop, end.key, result, port << 8 | CONNECT))

    def cork(self, end: Endpoint, on: bool) -> None:
        """Hold back partial segments, or let them go."""
        self._call(SETSOCKOPT, end, super().cork, end, on)

    def shutdown(self, end: Endpoint, how: int) -> None:
        """End one or both directions."""
        self._call(SHUTDOWN, end, end.sock.shutdown, how)

    def read(self, end: Endpoint, size: int) -> bytes:
        """read(2), for a descriptor that is no socket."""
        data: bytes = self._call(READ, end, os.read, end.fd, size)
        return data

    def publish(self) -> None:
        """Settle what is staged."""
        self.recorder.settle()

    def bound(self) -> None:
        """Settle if much is staged: a connection that is drained may stage without end."""
        if self.recorder.staged > MOST_STAGED:
            self.recorder.settle()
