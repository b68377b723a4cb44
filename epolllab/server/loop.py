"""The event loop: wait, then handle.

``run`` waits, in one place. ``handle`` never blocks, and can be called with a list made
by hand. Three rules keep the loop correct:

*Events in a batch may be stale.* An earlier event of the same batch may have closed a
descriptor that comes later. A number without a connection is counted as stale and
skipped; a number closed and reused within the batch causes a harmless extra read.

*Only system call results are authoritative.* A mask is a hint that a call is worth making;
the call's result says what happened to the connection.

*Anything that pauses accepting also resumes it.* A full table or a lack of descriptors
takes the listener's interest away, so that the loop does not spin, and every closed
connection restores it.
"""

import errno
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from epolllab.events import EPOLLIN, key_of
from epolllab.kernel.pollers import Poller, make_poller
from epolllab.kernel.syscalls import RecordedCalls, Socket, SystemCalls
from epolllab.recording.recorder import Recorder
from epolllab.server.connection import Connection
from epolllab.server.lifecycles import LIFECYCLES
from epolllab.server.options import ServerOptions

__all__ = ["Loop"]

LINGER_S = 2.0
"""How long the loop reads from a peer that keeps sending after the last response."""

RETRY_S = 0.1
"""Interval between attempts to accept while the process has no descriptor left."""

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _OwnEndpoint:
    """An endpoint that is not a connection: the listener, the wakeup, the poller itself."""

    __slots__ = ("fd", "key", "on_ready", "sock")

    def __init__(
        self, sock: Any, fd: int, on_ready: Callable[..., None] | None = None, conn: int = 0
    ) -> None:
        self.sock = sock
        self.fd = fd
        self.key = key_of(conn, fd)
        self.on_ready = on_ready


class _Descriptor:
    """A bare descriptor with a close method, as a socket has."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


class Loop:
    """A server's loop over one poller.

    Parameters
    ----------
    listener : socket.socket
        Listening and non-blocking. The loop owns it from now on and closes it.
    options : ServerOptions
        Its host, port, capacity and process are not used here.
    recorder : Recorder or None
        Where to record; None records nothing.
    clock : callable, optional
        Monotonic nanoseconds, for timeouts.

    Attributes
    ----------
    error : BaseException or None
        What ended :meth:`run`, unless it was :meth:`stop`.
    last_fault : str or None
        Traceback of the last exception in a protocol or a handler.
    """

    def __init__(
        self,
        listener: socket.socket,
        options: ServerOptions,
        recorder: Recorder | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.options = options
        self.clock = clock
        self._new_session = options.session_factory()
        wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self.poller: Poller = make_poller(
                options.poller,
                edge=options.trigger == "edge",
                oneshot=options.lifecycle == "oneshot",
                exempt=frozenset([wakeup]),
            )
        except BaseException:
            os.close(wakeup)
            raise
        self.calls: SystemCalls = (
            RecordedCalls(self.poller, options.max_events, recorder)
            if recorder
            else SystemCalls(self.poller, options.max_events)
        )
        self.recorder = recorder
        self._register, self._close = self.calls.register, self.calls.close
        self.life = LIFECYCLES[options.lifecycle](
            self,
            self.calls,
            drain=options.drains,
            recv_size=options.recv_size,
            cork=options.cork,
            edge=options.trigger == "edge",
            has_hup=options.poller != "select",
        )
        self._timed = options.idle_timeout is not None
        self._on_ready = self._ready_timed if self._timed else self.life.ready
        self._accept = options.accept_mode
        # With edges, connections that a batch leaves in the queue are reported by a modify.
        self._rearms_listener = self.life.rearms_listener or (
            options.trigger == "edge" and isinstance(options.accept_mode, int)
        )
        self._family = listener.family
        self._sock_type = listener.type
        listening = listener.fileno()
        self._listener = _OwnEndpoint(
            Socket(fileno=listener.detach()), listening, self._listener_ready
        )
        self._listener.sock.setblocking(False)
        self._wakeup = _OwnEndpoint(_Descriptor(wakeup), wakeup, self._wakeup_ready)
        self._endpoints: dict[int, Any] = {
            self._listener.fd: self._listener,
            self._wakeup.fd: self._wakeup,
        }
        self._lingering: dict[Connection, int] = {}
        self._stopping = False
        self._ended = False
        # Re-entrant: the garbage collector may stop a dropped server in any place.
        self._wakeup_lock = threading.RLock()
        self._paused: str | None = None
        self._retry_ns: int | None = None
        self._sweep_ns = 0
        self.accepted = self.closed = self.wakeups = self.events = 0
        self.stale = self.lost = self.faults = self.timeouts = self.pauses = 0
        self.error: BaseException | None = None
        self.last_fault: str | None = None

    def run(self) -> None:
        """Wait and handle until stopped; then close everything that the loop owns."""
        try:
            self.calls.register(self._wakeup, EPOLLIN)
            self.calls.register(self._listener, EPOLLIN)
            wait, handle = self.calls.wait, self.handle
            while not self._stopping:
                handle(wait(self.timeout()))
        except BaseException as error:
            self.error = error
        finally:
            self._close_all()

    def stop(self) -> None:
        """Ask the loop to end; from any thread, any number of times."""
        self._stopping = True
        with self._wakeup_lock:
            # Once the loop has ended, the number may be another file.
            if not self._ended:
                os.eventfd_write(self._wakeup.fd, 1)

    def stats(self) -> dict[str, int]:
        """Return the counters: each is exact, but the loop may run while they are read."""
        return {
            "connections": self.open_connections,
            "accepted": self.accepted,
            "closed": self.closed,
            "requests": self.life.requests,
            "wakeups": self.wakeups,
            "events": self.events,
            "lost": self.lost,
            "faults": self.faults,
            "timeouts": self.timeouts,
            "pauses": self.pauses,
            "stale": self.stale,
            "staged": self.recorder.staged if self.recorder else 0,
        }

    def interest(self) -> dict[int, int]:
        """Return the program's own table: descriptor to interest mask, with flags."""
        flags = self.poller.flags
        listening = 0 if self._paused else EPOLLIN
        table = {self._wakeup.fd: EPOLLIN, self._listener.fd: listening | flags}
        for connection in self._connections():
            table[connection.fd] = connection.interest | flags
        return table

    @property
    def open_connections(self) -> int:
        """Number of open connections: all endpoints except the listener and the wakeup."""
        return len(self._endpoints) - 2 if self._endpoints else 0

    def _connections(self) -> list[Connection]:
        # list() copies in one step, so another thread may call this while the loop runs.
        return [one for one in list(self._endpoints.values()) if isinstance(one, Connection)]

    def handle(self, ready: Sequence[tuple[int, int]]) -> None:
        """Handle each ready descriptor of a batch; never blocks."""
        self.wakeups += 1
        self.events += len(ready)
        find = self._endpoints.get
        for fd, mask in ready:
            endpoint = find(fd)
            if endpoint is None:
                self.stale += 1
                self.calls.note_ready(fd, mask)
                continue
            try:
                endpoint.on_ready(endpoint, mask)
            except OSError as error:
                self._call_failed(endpoint, error)
        if self._lingering or self._retry_ns is not None or self._timed:
            self._sweep(self.clock())

    def _ready_timed(self, connection: Connection, mask: int) -> None:
        """Handle a connection and note the time, for ``idle_timeout``."""
        connection.active_ns = self.clock()
        self.life.ready(connection, mask)

    def timeout(self) -> float | None:
        """Return the seconds that the next wait may take; None without a limit."""
        if not (self._lingering or self._retry_ns is not None or self._timed):
            return None
        waits = []
        if self._lingering:
            waits.append(LINGER_S / 4)
        if self.options.idle_timeout is not None and self.open_connections:
            waits.append(self.options.idle_timeout / 4)
        if self._retry_ns is not None:
            waits.append(RETRY_S)
        return min(waits) if waits else None

    def _wakeup_ready(self, wakeup: _OwnEndpoint, mask: int) -> None:
        self.calls.note_ready(wakeup.key, mask)
        self.calls.read(wakeup, 8)

    def _listener_ready(self, listener: _OwnEndpoint, mask: int) -> None:
        self.calls.note_ready(listener.key, mask)
        self._accept_some(listener)
        if self._rearms_listener and not self._paused:
            self.calls.modify(listener, EPOLLIN)

    def _accept_some(self, listener: _OwnEndpoint) -> None:
        """Accept until EAGAIN, or as many as the queue or a batch holds.

        ``accept="ask"`` reads the queue's length first. An accept4(2) that fails costs more
        than that: it makes a file and a socket before it checks the queue. This is correct
        with edges too, since a connection that arrives later makes a new edge.
        """
        accept, limit = self.calls.accept, self.options.max_connections
        attempts: Iterable[int]
        if self._accept == "drain":
            attempts = count()
        elif self._accept == "ask":
            attempts = range(self.calls.queue_length(listener))
        else:
            attempts = range(self._accept)
        for _ in attempts:
            if limit is not None and self.open_connections >= limit:
                self._pause("max_connections")
                return
            try:
                fd, _ = accept(listener, self.accepted + 1)
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # the peer closed while it was queued (accept(2))
            except OSError as error:
                if error.errno not in OUT_OF_DESCRIPTORS:
                    raise
                self._pause(errno.errorcode[error.errno])
                return
            self._add_connection(fd)

    def _add_connection(self, fd: int) -> None:
        self.accepted += 1
        sock = Socket(self._family, self._sock_type, 0, fd)
        sock.setblocking(False)
        try:
            session = self._new_session()
        except Exception as error:
            self._close(_OwnEndpoint(sock, fd, conn=self.accepted))
            self.closed += 1
            self._note_exception(error)
            return
        interest = self.life.first_interest
        key = self.accepted << 32 | fd  # key_of(), inlined
        connection = Connection(sock, fd, key, session, self._on_ready, interest)
        self._endpoints[fd] = connection
        try:
            self._register(connection, interest)
        except OSError:
            self.lost += 1
            self.close(connection, registered=False)

    def _pause(self, reason: str) -> None:
        """Stop accepting until there is room for another connection."""
        if self._paused is None:
            self.pauses += 1
            self.calls.modify(self._listener, 0)
        self._paused = reason
        if reason != "max_connections":
            # Other code may hold the descriptors; then no connection that closes resumes.
            self._retry_ns = self.clock() + int(RETRY_S * 1e9)

    def _resume(self) -> None:
        """Accept again; with edges, the modify reports what is already queued."""
        self._paused = self._retry_ns = None
        self.calls.modify(self._listener, EPOLLIN)

    def close(self, connection: Connection, registered: bool = True) -> None:
        """Close a connection and remove it; closing it again does nothing."""
        if self._endpoints.pop(connection.fd, None) is None:
            return
        if registered and self.life.unregisters:
            self.calls.unregister(connection)
        self._close(connection)
        connection.fd = -1
        try:
            connection.session.on_close()
        except Exception as error:
            self._note_exception(error)
        self.closed += 1
        if self._lingering:
            self._lingering.pop(connection, None)
        if self._paused:
            self._resume()

    def _call_failed(self, endpoint: Any, error: OSError) -> None:
        """Close a connection that an error ended: reset, broken pipe, refused interest."""
        if not isinstance(endpoint, Connection):
            raise error
        self.lost += 1
        self.close(endpoint)

    def session_failed(self, connection: Connection, error: Exception) -> None:
        """Close a connection whose session raised; the loop continues."""
        self._note_exception(error)
        self.close(connection)

    def note_fault(self, text: str) -> None:
        """Count an exception that a session caught and responded to itself."""
        self.faults += 1
        self.last_fault = text

    def _note_exception(self, error: Exception) -> None:
        self.note_fault("".join(traceback.format_exception(error)))

    def linger(self, connection: Connection) -> None:
        """Give a peer some time to close, now that our half is shut down."""
        self._lingering[connection] = self.clock() + int(LINGER_S * 1e9)

    def _sweep(self, now: int) -> None:
        """Close what has been idle or lingering for too long; try to accept again."""
        for connection, deadline in list(self._lingering.items()):
            if now >= deadline:
                self.close(connection)
        if self._retry_ns is not None and now >= self._retry_ns:
            self._resume()
        if self.options.idle_timeout is not None and now >= self._sweep_ns:
            self._sweep_ns = now + int(self.options.idle_timeout * 1e9 / 4)
            self._close_idle(now)

    def _close_idle(self, now: int) -> None:
        oldest = now - int((self.options.idle_timeout or 0) * 1e9)
        for connection in self._connections():
            if connection.active_ns == 0:
                connection.active_ns = now  # accepted, and idle since
            elif connection.active_ns <= oldest and not connection.ending:
                self.timeouts += 1
                self._time_out(connection)

    def _time_out(self, connection: Connection) -> None:
        """Send the protocol's response to a timeout, if it fits; then close."""
        try:
            responses = [] if connection.out else connection.session.timed_out()
            if responses:
                self.calls.send(connection, b"".join(responses))
        except OSError:
            pass  # the peer is gone
        except Exception as error:
            self._note_exception(error)
        self.close(connection)

    def _close_all(self) -> None:
        with self._wakeup_lock:
            self._ended = True
        self.closed += self.open_connections
        for endpoint in self._endpoints.values():
            self.calls.close(endpoint)
        for connection in self._connections():
            with suppress(Exception):  # a session's own; nothing is left to report it to
                connection.session.on_close()
        self._endpoints = {}
        self._lingering.clear()
        if self.poller.fileno() >= 0:
            self.calls.close(_OwnEndpoint(self.poller, self.poller.fileno()))
        self.calls.publish()
