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

A process that was forked while the loop ran holds duplicates of its descriptors. Where
Python runs its fork hooks, the child closes them. Otherwise epoll goes on reporting a
connection that the loop has closed, which no epoll_ctl can name any more: after a few
such events the loop replaces its epoll instance. A close alone then ends no connection
for its peer, so those that may be duplicated are shut down first.
"""

import errno
import os
import socket
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from types import SimpleNamespace
from typing import Any

from epolllab.events import EPOLLIN, error_name, key_of
from epolllab.kernel.pollers import Poller, make_poller
from epolllab.kernel.syscalls import RecordedCalls, Socket, SystemCalls
from epolllab.recording.recorder import Recorder
from epolllab.server.connection import Connection
from epolllab.server.exchange import common_request
from epolllab.server.lifecycles import LIFECYCLES
from epolllab.server.options import ServerOptions
from epolllab.server.session import FAULTS
from epolllab.server.targets import Targets
from epolllab.server.timers import LINGER_S, Timers

__all__ = ["Loop"]

RETRY_S = 0.1
"""Interval between attempts to accept while it is not possible."""

NO_MEMORY_S = 0.01
"""Pause before a wait that failed for lack of memory is repeated."""

MOST_FAILURES = 16
"""Connections that accept may fail for before the loop turns to others."""

STALE_LIMIT = 8
"""Events without a connection after which the loop replaces its epoll instance."""

LISTENER_BROKEN = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT)
"""Errors of accept that no later attempt can mend."""

CONNECTION_BROKEN = (
    errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP,
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENONET,
)  # fmt: skip
"""Errors of accept that concern the first connection of the queue; the next is tried."""


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
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


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
        Traceback of the last exception in a protocol or a handler, or the last call that
        failed without ending the loop.
    targets : Targets
        The request targets that handle rows refer to.
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
        self.targets = Targets()
        self._new_session = options.session_factory(self.targets)
        wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self.poller = self._make_poller(wakeup)
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
        self.timers = Timers(options, clock, self.close, self._time_out, self._connections)
        # The same objects, which the loop looks at after every wait.
        self._requests, self._lingering = self.timers.requests, self.timers.lingering
        self._idle_ns = self.timers.idle_ns
        self._ready = common_request(self.life)
        self._on_ready = self._ready_timed if self._idle_ns else self._ready
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
        self._stopping = False
        self._ended = False
        self.watches = threading.Event()
        """Set once the loop watches the listener, and at its end."""
        # Re-entrant: the garbage collector may stop a dropped server in any place.
        self._wakeup_lock = threading.RLock()
        self._paused: str | None = None
        self._retry_ns: int | None = None
        self._stale_run = self._rebuilt_at = 0
        self._stale_limit = STALE_LIMIT
        self._duplicated = 0  # keys below this may have a duplicate in another process
        self.accepted = self.closed = self.wakeups = self.events = 0
        self.stale = self.lost = self.faults = self.timeouts = self.pauses = 0
        self.errors = self.rebuilds = 0
        self.error: BaseException | None = None
        self.last_fault: str | None = None
        _loops.add(self)

    def _make_poller(self, wakeup: int) -> Poller:
        return make_poller(
            self.options.poller,
            edge=self.options.trigger == "edge",
            oneshot=self.options.lifecycle == "oneshot",
            exempt=frozenset([wakeup]),
        )

    def run(self) -> None:
        """Wait and handle until stopped; then close everything that the loop owns."""
        try:
            self.calls.register(self._wakeup, EPOLLIN)
            self.calls.register(self._listener, EPOLLIN)
            self.watches.set()
            wait, handle = self.calls.wait, self.handle
            while not self._stopping:
                try:
                    ready = wait(self.timeout())
                except OSError as error:
                    self._wait_failed(error)
                else:
                    handle(ready)
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

    @property
    def epoll_fd(self) -> int:
        """The epoll instance's descriptor; -1 for other pollers."""
        return self.poller.fileno()

    @property
    def ended(self) -> bool:
        """Whether the loop has closed its descriptors, or is about to."""
        return self._ended

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
            "errors": self.errors,
            "stale": self.stale,
            "rebuilds": self.rebuilds,
            "staged": self.recorder.staged if self.recorder else 0,
        }

    def interest(self) -> dict[int, int]:
        """Return the program's own table: descriptor to interest mask, with flags."""
        table = {endpoint.fd: mask | self.poller.flags for endpoint, mask in self._interests()}
        table[self._wakeup.fd] = EPOLLIN
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
        timed = self._requests or self._lingering or self._idle_ns or self._retry_ns is not None
        # Before the batch: what arrives during a slow handler has arrived in time.
        now = self.clock() if timed else 0
        stale = 0
        find = self._endpoints.get
        for fd, mask in ready:
            endpoint = find(fd)
            if endpoint is None:
                stale += 1
                self.calls.note_ready(fd, mask)
                continue
            try:
                endpoint.on_ready(endpoint, mask)
            except OSError as error:
                self._call_failed(endpoint, error)
        if timed:
            self.timers.expire(now)
            if self._retry_ns is not None and now >= self._retry_ns:
                self._resume()
        if stale:
            self._note_stale(stale)

    def _wait_failed(self, error: OSError) -> None:
        """Wait again after an error that may pass; raise any other."""
        if error.errno not in (errno.EINTR, errno.ENOMEM, errno.EAGAIN):
            raise error
        self._note_error("wait", error)
        if error.errno != errno.EINTR:
            time.sleep(NO_MEMORY_S)

    def _note_error(self, call: str, error: OSError) -> None:
        """Count and describe a failed call that does not end the loop."""
        self.errors += 1
        name = error_name(error.errno or 0)
        self.last_fault = f"{call} failed with {name}: {error.strerror}. The server continues."

    def _note_stale(self, n_events: int) -> None:
        """Count stale events; replace the epoll instance when there are too many."""
        self.stale += n_events
        if self._stale_run == 0 and self.wakeups - self._rebuilt_at > STALE_LIMIT:
            self._stale_limit = STALE_LIMIT  # the last rebuild, if any, has helped
        self._stale_run += n_events
        if self._stale_run >= self._stale_limit and self.options.poller == "epoll":
            self._rebuild()
            self._stale_run, self._rebuilt_at = 0, self.wakeups
            self._stale_limit *= 2

    def _rebuild(self) -> None:
        """Replace the epoll instance by a new one that has only what is open here.

        A failure leaves the old one in place. Registering reports what is ready once more,
        so that no edge is lost.
        """
        self._duplicated = self.accepted + 1 << 32
        try:
            new = self._make_poller(self._wakeup.fd)
        except OSError as error:
            self._note_error("epoll_create1", error)
            return
        self.calls.poller = new
        try:
            for endpoint, mask in self._interests():
                self.calls.register(endpoint, mask)
            fd = self.poller.fileno()
            # The new instance takes the old one's number, and dup2 closes the old one.
            replace = SimpleNamespace(close=lambda: os.dup2(new.fileno(), fd, inheritable=False))
            self.calls.close(_OwnEndpoint(replace, fd))
            self.rebuilds += 1
        except OSError as error:
            self._note_error("epoll_ctl", error)
        finally:
            self.calls.poller = self.poller
            new.close()

    def _interests(self) -> list[tuple[Any, int]]:
        """Every open endpoint with its interest mask, without flags."""
        own = [(self._wakeup, EPOLLIN), (self._listener, 0 if self._paused else EPOLLIN)]
        return [*own, *((one, one.interest) for one in self._connections())]

    def _ready_timed(self, connection: Connection, mask: int) -> None:
        """Handle a connection and note the time, for ``idle_timeout``."""
        connection.active_ns = self.clock()
        self._ready(connection, mask)

    def timeout(self) -> float | None:
        """Return the seconds that the next wait may take; None without a limit."""
        retrying = self._retry_ns is not None
        if not (self._requests or self._lingering or self._idle_ns or retrying):
            return None
        waits = self.timers.timeouts() if self.open_connections else []
        if retrying:
            waits.append(RETRY_S)
        return min(waits) if waits else None

    def _wakeup_ready(self, wakeup: _OwnEndpoint, mask: int) -> None:
        self.calls.note_ready(wakeup.key, mask)
        with suppress(BlockingIOError):  # a process that shares it may have read it
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
            attempts = self._queued(listener)
        else:
            attempts = range(self._accept)
        failures = 0
        for _ in attempts:
            if limit is not None and self.open_connections >= limit:
                self._pause("max_connections")
                return
            try:
                fd, _ = accept(listener, self.accepted + 1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in LISTENER_BROKEN:
                    raise
                failures += 1
                self._note_error("accept", error)
                if error.errno in CONNECTION_BROKEN and failures < MOST_FAILURES:
                    continue
                self._pause(error_name(error.errno or 0))
                return
            self._add_connection(fd)

    def _queued(self, listener: _OwnEndpoint) -> Iterable[int]:
        """One for each connection in the queue; without end if its length is unknown."""
        try:
            return range(self.calls.queue_length(listener))
        except OSError as error:
            self._note_error("getsockopt", error)
            return count()

    def _add_connection(self, fd: int) -> None:
        self.accepted += 1
        sock: Any = None
        try:
            sock = Socket(self._family, self._sock_type, 0, fd)
            sock.setblocking(False)
        except OSError as error:
            self._discard(sock or _Descriptor(fd), fd)
            self.lost += 1
            self._note_error("setting up a connection", error)
            return
        try:
            session = self._new_session()
        except FAULTS as error:
            self._discard(sock, fd)
            self._note_exception(error)
            return
        interest = self.life.first_interest
        key = self.accepted << 32 | fd  # key_of(), inlined
        connection = Connection(sock, fd, key, session, self._on_ready, interest)
        self._endpoints[fd] = connection
        try:
            self._register(connection, interest)
        except OSError as error:
            self.lost += 1
            self._note_error("epoll_ctl", error)
            self.close(connection, registered=False)

    def _discard(self, sock: Any, fd: int) -> None:
        """Close a connection that never became one."""
        self._close(_OwnEndpoint(sock, fd, conn=self.accepted))
        self.closed += 1

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
        try:
            self.calls.modify(self._listener, EPOLLIN)
        except OSError as error:
            self._note_error("epoll_ctl", error)
            self._retry_ns = self.clock() + int(RETRY_S * 1e9)
        else:
            self._paused = self._retry_ns = None

    def close(self, connection: Connection, registered: bool = True) -> None:
        """Close a connection and remove it; closing it again does nothing."""
        if self._endpoints.pop(connection.fd, None) is None:
            return
        duplicated = connection.key < self._duplicated
        try:
            if registered and (self.life.unregisters or duplicated):
                self.calls.unregister(connection)
            if duplicated:
                self.calls.shutdown(connection, socket.SHUT_RDWR)
        except OSError:
            pass  # such as a reset; the close ends the connection in any case
        try:
            self._close(connection)
        except OSError as error:
            self._note_error("close", error)  # the descriptor is free all the same (close(2))
        connection.fd = -1
        self._closed(connection)

    def _closed(self, connection: Connection) -> None:
        """Let the session and the timers go, and accept again if that was paused."""
        try:
            connection.session.on_close()
        except FAULTS as error:
            self._note_exception(error)
        self.closed += 1
        if self._lingering or self._requests:
            self.timers.forget(connection)
        if self._paused:
            self._resume()

    def _call_failed(self, endpoint: Any, error: OSError) -> None:
        """Close a connection that an error ended: reset, broken pipe, refused interest."""
        if not isinstance(endpoint, Connection):
            raise error
        self.lost += 1
        self.close(endpoint)

    def session_failed(self, connection: Connection, error: BaseException) -> None:
        """Close a connection whose session raised; the loop continues."""
        self._note_exception(error)
        self.close(connection)

    def note_fault(self, text: str) -> None:
        """Count an exception that a session caught and responded to itself."""
        self.faults += 1
        self.last_fault = str(text)

    def _note_exception(self, error: BaseException) -> None:
        self.note_fault("".join(traceback.format_exception(error)))

    def _time_out(self, connection: Connection) -> None:
        """Send the protocol's response to a timeout, if it fits; then close."""
        self.timeouts += 1
        session = connection.session
        try:
            responses = [] if connection.out else session.timed_out()
            if responses:
                self.calls.send(connection, b"".join(responses))
                session.closing = session.linger = True
                self.life.linger(connection, LINGER_S)  # no longer, since it was slow before
                return
        except OSError:
            pass  # the peer is gone
        except FAULTS as error:
            self._note_exception(error)
        self.close(connection)

    def _close_all(self) -> None:
        """Close everything; shut down first, since a forked process may hold duplicates."""
        with self._wakeup_lock:
            if self._ended:
                return  # in a forked child, which has closed everything
            self._ended = True
        self.watches.set()
        _loops.discard(self)
        self.closed += self.open_connections
        for endpoint in self._endpoints.values():
            if endpoint is not self._wakeup:
                with suppress(OSError):
                    self.calls.shutdown(endpoint, socket.SHUT_RDWR)
            self.calls.close(endpoint)
        for connection in self._connections():
            with suppress(*FAULTS):  # a session's own; nothing is left to report it to
                connection.session.on_close()
        self._endpoints = {}
        self._lingering.clear()
        self._requests.clear()
        if self.poller.fileno() >= 0:
            self.calls.close(_OwnEndpoint(self.poller, self.poller.fileno()))
        self.calls.publish()

    def _close_in_child(self) -> None:
        """Close this process's duplicates; leaves the files, the ring and the parent alone."""
        self._wakeup_lock = threading.RLock()  # a thread that is not here may hold the other
        self._stopping = self._ended = True
        endpoints, self._endpoints = self._endpoints, {}
        for owner in (*(endpoint.sock for endpoint in endpoints.values()), self.poller):
            with suppress(OSError):
                owner.close()


_loops: "weakref.WeakSet[Loop]" = weakref.WeakSet()


def _close_in_child() -> None:
    for loop in list(_loops):
        loop._close_in_child()


os.register_at_fork(after_in_child=_close_in_child)
