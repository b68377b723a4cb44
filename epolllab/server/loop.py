"""The event loop: wait, then handle.

One job: own the listener and the connections, and turn each descriptor that the
kernel calls ready into one turn of the endpoint behind it. The loop waits in one
place, ``run``; ``handle`` never blocks, and can be called with a list made by hand.
It knows no thread, no notebook and no frame.

Three rules keep it sound:

*A batch is old news.* What an earlier turn of the same batch did, such as closing a
descriptor, is not undone in the rest of the list. A number without an endpoint is
counted as stale and passed over; a number that was closed and given out again in
the same batch gets a harmless extra read.

*Nothing is trusted but calls.* Masks say that a call is worth making. What happened
to a connection is learned from the call's result.

*Every way in has a way out.* A full table or a lack of descriptors pauses accepting,
by taking the listener's interest away rather than by spinning, and every closed
connection resumes it.
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

from epolllab.events import EPOLLIN
from epolllab.kernel.pollers import Poller, make_poller
from epolllab.kernel.syscalls import RecordedCalls, Socket, SystemCalls
from epolllab.recording.recorder import Recorder
from epolllab.server.connection import Connection
from epolllab.server.lifecycles import LIFECYCLES
from epolllab.server.options import ServerOptions

__all__ = ["Loop"]


LINGER_S = 2.0
"""How long a peer that goes on sending after the last answer is read from."""

RETRY_S = 0.1
"""How often accepting is tried again when the whole process has no descriptor left."""

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Plain:
    """An endpoint that is no connection: the listener, the wake-up, the poller itself."""

    __slots__ = ("fd", "key", "sock", "turn")

    def __init__(
        self, sock: Any, fd: int, turn: Callable[..., None] | None = None, conn: int = 0
    ) -> None:
        self.sock = sock
        self.fd = fd
        self.key = conn << 32 | fd
        self.turn = turn


class _Descriptor:
    """A bare descriptor with a close, so that it can stand where a socket can."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


class Loop:
    """A server's loop over one poller.

    Parameters
    ----------
    listener : socket.socket
        Listening and non-blocking. The loop takes it over and closes it.
    options : ServerOptions
        What to do; its host, port, capacity and process are not looked at.
    recorder : Recorder or None
        Where to record; None leaves the recorder out altogether.
    clock : callable, optional
        Monotonic nanoseconds, for time-outs.

    Attributes
    ----------
    error : BaseException or None
        What ended :meth:`run`, if it was not :meth:`stop`.
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
        self._new_session = options.sessions()
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
        self._turn = self._timed_turn if self._timed else self.life.ready
        self._accept = options.accept_mode
        # Where a batch may leave some in the queue, only a modify makes edges report them.
        self._rearms_listener = self.life.rearms_listener or (
            options.trigger == "edge" and isinstance(options.accept_mode, int)
        )
        self._family = listener.family
        self._sock_type = listener.type
        listening = listener.fileno()
        self._listener = _Plain(Socket(fileno=listener.detach()), listening, self._accept_ready)
        self._listener.sock.setblocking(False)
        self._wakeup = _Plain(_Descriptor(wakeup), wakeup, self._woken)
        self._endpoints: dict[int, Any] = {
            self._listener.fd: self._listener,
            self._wakeup.fd: self._wakeup,
        }
        self._lingering: dict[Connection, int] = {}
        self._stopping = False
        self._ended = False
        # Re-entrant: a dropped handle may stop its server wherever the collector runs.
        self._wakeup_lock = threading.RLock()
        self._paused: str | None = None
        self._retry_ns: int | None = None
        self._sweep_ns = 0
        self.accepted = self.closed = self.wakeups = self.events = 0
        self.stale = self.lost = self.faults = self.timeouts = self.pauses = 0
        self.error: BaseException | None = None
        self.last_fault: str | None = None

    # ---- from outside -------------------------------------------------------------

    def run(self) -> None:
        """Wait and handle until stopped; then close everything the loop owns."""
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
            # Once the loop has ended, the number may be somebody else's file.
            if not self._ended:
                os.eventfd_write(self._wakeup.fd, 1)

    def stats(self) -> dict[str, int]:
        """Counters, without waiting for the loop; each is exact, together nearly so."""
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
        """The program's own table: descriptor to interest, flags included."""
        flags = self.poller.flags
        listening = 0 if self._paused else EPOLLIN
        table = {self._wakeup.fd: EPOLLIN, self._listener.fd: listening | flags}
        for end in self._connections():
            table[end.fd] = end.interest | flags
        return table

    @property
    def open_connections(self) -> int:
        """Connections open now: the endpoints but for the listener and the wake-up."""
        return len(self._endpoints) - 2 if self._endpoints else 0

    def _connections(self) -> list[Connection]:
        # list() copies in one step, so another thread may ask while the loop runs.
        return [end for end in list(self._endpoints.values()) if isinstance(end, Connection)]

    # ---- one turn -----------------------------------------------------------------

    def handle(self, ready: Sequence[tuple[int, int]]) -> None:
        """Give each ready descriptor its turn, which records that; never blocks."""
        self.wakeups += 1
        self.events += len(ready)
        endpoint, observe = self._endpoints.get, self.calls.observe
        for fd, mask in ready:
            end = endpoint(fd)
            if end is None:
                self.stale += 1
                if observe:
                    observe(fd, mask)
                continue
            try:
                end.turn(end, mask)
            except OSError as error:
                self._spoiled(end, error)
        if self._lingering or self._retry_ns is not None or self._timed:
            self._sweep(self.clock())

    def _timed_turn(self, end: Connection, mask: int) -> None:
        """A connection's turn where silence is limited: note when it was."""
        end.active_ns = self.clock()
        self.life.ready(end, mask)

    def timeout(self) -> float | None:
        """Seconds the next wait may take; None for ever."""
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

    def _woken(self, end: _Plain, mask: int) -> None:
        if self.calls.observe:
            self.calls.observe(end.key, mask)
        self.calls.read(end, 8)

    # ---- accepting ----------------------------------------------------------------

    def _accept_ready(self, listener: _Plain, mask: int) -> None:
        if self.calls.observe:
            self.calls.observe(listener.key, mask)
        self._accept_some(listener)
        if self._rearms_listener and not self._paused:
            self.calls.modify(listener, EPOLLIN)

    def _accept_some(self, listener: _Plain) -> None:
        """Accept until EAGAIN, or as many as the queue or a batch holds.

        ``accept="ask"`` reads the queue's length first. An accept4(2) that fails costs more
        than that: it makes a file and a socket before it looks into the queue. Asking is
        sound with edges too, since a connection that arrives later makes a new edge.
        """
        accept, limit = self.calls.accept, self.options.max_connections
        if self._accept == "drain":
            attempts: Iterable[int] = count()
        else:
            attempts = range(self.calls.queued(listener) if self._accept == "ask" else self._accept)
        for _ in attempts:
            if limit is not None and self.open_connections >= limit:
                self._pause("max_connections")
                return
            try:
                fd, _ = accept(listener, self.accepted + 1)
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # the peer gave up while it was queued (accept(2))
            except OSError as error:
                if error.errno not in OUT_OF_DESCRIPTORS:
                    raise
                self._pause(errno.errorcode[error.errno])
                return
            self._opened(fd)

    def _opened(self, fd: int) -> None:
        self.accepted += 1
        sock = Socket(self._family, self._sock_type, 0, fd)
        sock.setblocking(False)
        try:
            session = self._new_session()
        except Exception as error:
            self._close(_Plain(sock, fd, conn=self.accepted))
            self.closed += 1
            self._fault(error)
            return
        interest = self.life.first_interest
        end = Connection(sock, fd, self.accepted << 32 | fd, session, self._turn, interest)
        self._endpoints[fd] = end
        try:
            self._register(end, interest)
        except OSError:
            self.lost += 1
            self.close(end, watched=False)

    def _pause(self, reason: str) -> None:
        """Stop listening for connections until there is room for one."""
        if self._paused is None:
            self.pauses += 1
            self.calls.modify(self._listener, 0)
        self._paused = reason
        if reason != "max_connections":
            # Whoever holds the descriptors may not be us, and then no close of ours comes.
            self._retry_ns = self.clock() + int(RETRY_S * 1e9)

    def _resume(self) -> None:
        """Listen again; with edges, the modify reports what is queued already."""
        self._paused = self._retry_ns = None
        self.calls.modify(self._listener, EPOLLIN)

    # ---- ending -------------------------------------------------------------------

    def close(self, end: Connection, watched: bool = True) -> None:
        """Close a connection and forget it; a second time does nothing."""
        if self._endpoints.pop(end.fd, None) is None:
            return
        if watched and self.life.unregisters:
            self.calls.unregister(end)
        self._close(end)
        end.fd = -1
        try:
            end.session.on_close()
        except Exception as error:
            self._fault(error)
        self.closed += 1
        if self._lingering:
            self._lingering.pop(end, None)
        if self._paused:
            self._resume()

    def _spoiled(self, end: Any, error: OSError) -> None:
        """Close a connection that an error ended: reset, broken pipe, refused interest."""
        if not isinstance(end, Connection):
            raise error
        self.lost += 1
        self.close(end)

    def failed(self, end: Connection, error: Exception) -> None:
        """Close a connection whose protocol raised; the loop lives on."""
        self._fault(error)
        self.close(end)

    def note_fault(self, text: str) -> None:
        """Count an exception that a session caught and answered itself."""
        self.faults += 1
        self.last_fault = text

    def _fault(self, error: Exception) -> None:
        self.note_fault("".join(traceback.format_exception(error)))

    def linger(self, end: Connection) -> None:
        """Give a peer some time to end, now that our half is shut."""
        self._lingering[end] = self.clock() + int(LINGER_S * 1e9)

    def _sweep(self, now: int) -> None:
        """Close what has been silent or lingering for too long; try to accept again."""
        for end, deadline in list(self._lingering.items()):
            if now >= deadline:
                self.close(end)
        if self._retry_ns is not None and now >= self._retry_ns:
            self._resume()
        if self.options.idle_timeout is not None and now >= self._sweep_ns:
            self._sweep_ns = now + int(self.options.idle_timeout * 1e9 / 4)
            self._close_idle(now)

    def _close_idle(self, now: int) -> None:
        oldest = now - int((self.options.idle_timeout or 0) * 1e9)
        for end in self._connections():
            if end.active_ns == 0:
                end.active_ns = now  # accepted, and silent since
            elif end.active_ns <= oldest and not end.ending:
                self.timeouts += 1
                self._say_goodbye(end)

    def _say_goodbye(self, end: Connection) -> None:
        """Send what the protocol has to say about a time-out, if it fits; then close."""
        try:
            answers = [] if end.out else end.session.timed_out()
            if answers:
                self.calls.send(end, b"".join(answers))
        except OSError:
            pass  # the peer is gone as well as silent
        except Exception as error:
            self._fault(error)
        self.close(end)

    def _close_all(self) -> None:
        with self._wakeup_lock:
            self._ended = True
        self.closed += self.open_connections
        for end in self._endpoints.values():
            self.calls.close(end)
        for end in self._connections():
            with suppress(Exception):  # its protocol's, who can no longer be told
                end.session.on_close()
        self._endpoints = {}
        self._lingering.clear()
        if self.poller.fileno() >= 0:
            self.calls.close(_Plain(self.poller, self.poller.fileno()))
        self.calls.publish()
