"""The completion loop: submit, then handle what has completed (io_uring).

A readiness loop learns that a call is worth making, and makes it. This loop submits its
calls in advance and reads their results:

- one multishot accept, which completes with each new connection;
- a recv for each connection, into buffers that all connections share; the first completes
  once, and the one that follows is multishot;
- a send for each response, which has no completion if all of it was sent at once;
- a close, which is linked to the send of a last response. Neither has a completion if all
  went well; if the send falls short or fails, the kernel drops the close.

One io_uring_enter(2) a turn hands over the submissions of a turn and waits. The common
completion, a whole request with one response, is handled in :meth:`CompletionLoop._handle`
without a call of a Python function besides the session's.

While a response waits, bytes that have arrived are kept, and the recv is cancelled, so
that a peer that never reads cannot make the server's memory grow.
"""

import errno
import os
from collections import deque
from collections.abc import Iterable

from epolllab.events import EPOLLIN, MAX_REQUEST
from epolllab.kernel import uring
from epolllab.kernel.uring import BUFFER_SHIFT, MORE, SKIP_SUCCESS
from epolllab.server.connection import Connection
from epolllab.server.loop import CONNECTION_BROKEN, LISTENER_BROKEN
from epolllab.server.ring import (
    ACCEPT,
    AT_ONCE,
    CLOSE,
    HAS_MORE,
    MAX_AT_ONCE,
    READY,
    RECV,
    RECV_COMPLETED,
    REQUEST_SHIFT,
    SEND,
    SEND_SUBMITTED,
    Numbered,
    RingLoop,
)
from epolllab.server.session import FAULTS, Session
from epolllab.server.submissions import RingConnection

__all__ = ["CompletionLoop"]


class CompletionLoop(RingLoop):
    """A server's loop over one ring; parameters and attributes as of :class:`Loop`."""

    # ---- turns --------------------------------------------------------------------------

    def run(self) -> None:
        """Submit and handle until stopped; then close everything that the loop owns."""
        ring = self.ring
        try:
            ring.start()
            self._push(uring.POLL_ADD, READY, self._wakeup, op_flags=EPOLLIN)
            self.accept()
            self.watches.set()
            while not self._stopping:
                is_free = not (self._waiting or ring.n_ready or ring.has_overflown)
                self._enter(1, self.timeout()) if is_free else self._enter(0)
                self._take_turn()
        except BaseException as error:
            self.error = error
        finally:
            self._close_all()

    def _take_turn(self) -> None:
        """Handle every completion that is there, then what is due."""
        ring = self.ring
        timed = self._requests or self._lingering or self._idle_ns or self._retry_ns is not None
        now = self.clock() if timed else 0
        while ring.n_ready:
            self._now = self._read_clock() if self.recorder else now
            self._in_batch = True
            self._handle(ring.take(self._max_events))
            self._in_batch = False
        if timed:
            self.timers.expire(now)
            if self._retry_ns is not None and now >= self._retry_ns:
                self._resume()
        if self._waiting:
            self._send_waiting()

    def _handle(self, completions: Iterable[tuple[int, int, int]]) -> None:
        """Handle completions; the common one here, and every other by :meth:`_completed`."""
        ring, buffers, life = self.ring, self.buffers, self.life
        sqes, pack, sq_mask = ring.sqes, uring.SQE.pack_into, ring.sq_mask
        memory, size, at, address = buffers.memory, buffers.size, buffers.at, buffers.address
        pack_entry, b_mask = uring.BUFFER_ENTRY.pack_into, buffers.count - 1
        receiving, fresh = self._receiving.get, self._fresh
        out_memory, out_bytes = self._out, len(self._out)
        stage, clock, turn = self._stage, self._read_clock, self._turn
        read_up_to, idle, skips = self._read_up_to, self._idle_ns, SKIP_SUCCESS
        n_events = n_requests = 0
        for user_data, result, flags in completions:
            n_events += 1
            connection = receiving(user_data)
            if connection is None or result <= 0 or connection.out or connection.ending:
                self._completed(user_data, result, flags)
                fresh, turn, read_up_to = self._fresh, self._turn, self._read_up_to
                continue
            number = flags >> BUFFER_SHIFT
            place = number * size
            data = memory[at + place : at + place + result]
            pack_entry(memory, (buffers.tail & b_mask) * 16, address + place, size, number)
            buffers.tail += 1
            if idle:
                connection.active_ns = self.clock()
            if not flags & MORE:
                self._recv_ended(connection, user_data)
            session = connection.session
            try:
                responses = session.receive(data)
            except FAULTS as error:
                if stage:
                    self._note_completion(user_data, result, flags, connection.key)
                self.session_failed(connection, error)
                continue
            if (
                responses.__class__ is list
                and len(responses) == 1
                and (out := responses[0]).__class__ is bytes
                and 0 < len(out) <= MAX_AT_ONCE
                and connection.sent_in <= read_up_to
                and (start := self._out_at) + len(out) <= out_bytes
                and ring.tail < self._full_at
                and not session.in_request
                and not session.unhandled
                and not connection.in_request
                and not (session.closing and (session.linger or session.fault or result == size))
            ):
                n_out = len(out)
                n_requests += 1
                if session.closing:
                    if stage:
                        self._note_completion(user_data, result, flags, connection.key)
                        self.note_response(connection, n_out)
                    self.send_and_close(connection, out)
                    fresh, turn, read_up_to = self._fresh, self._turn, self._read_up_to
                    continue
                self._out_at = stop = start + n_out
                out_memory[start:stop] = out
                self._request = request = self._request % MAX_REQUEST + 1
                fd, tail = connection.fd, ring.tail
                send_data = request << REQUEST_SHIFT | fd << 8 | SEND
                pack(
                    sqes, (tail & sq_mask) * 64, uring.SEND, skips, 0, fd, 0,
                    self._out_address + start, n_out, AT_ONCE, send_data, 0, 0, 0, 0, 0,
                )  # fmt: skip
                ring.tail = tail + 1
                fresh[send_data] = connection, out
                connection.sent_in = turn
                if stage:
                    read, key = self._now, connection.key
                    self._now = now = clock()
                    code = user_data >> 40 << 40 | RECV_COMPLETED
                    stage((
                        read, read, key, result, code if flags & MORE else code ^ HAS_MORE,
                        read, now, key, n_out, session.handle_code,
                        now, now, key, n_out, request << REQUEST_SHIFT | SEND_SUBMITTED,
                    ))  # fmt: skip
                if not connection.receiving:
                    self.receive(connection)
                continue
            if stage:
                self._note_completion(user_data, result, flags, connection.key)
            buffers.publish()
            life.responded(connection, result, responses)
            if not (connection.receiving or connection.out) and connection.fd >= 0:
                self.receive(connection)
            # The queue may have been handed over.
            fresh, turn, read_up_to = self._fresh, self._turn, self._read_up_to
        buffers.publish()
        self.events += n_events
        life.requests += n_requests

    # ---- completions that are not common -----------------------------------------------

    def _completed(self, user_data: int, result: int, flags: int) -> None:
        """Handle any completion."""
        kind, fd = user_data & 0xFF, user_data >> 8 & 0xFFFF_FFFF
        if kind == ACCEPT:
            self._accepted(user_data, result, flags)
        elif kind == CLOSE:
            self._note_completion(user_data, result, flags, fd)
            self._note_error("close", OSError(-result, os.strerror(-result)))
        elif kind == RECV:
            connection = self._receiving.get(user_data)
            self._note_completion(user_data, result, flags, connection.key if connection else fd)
            data = self.buffers.take(flags, result) if flags & uring.BUFFER else b""
            if connection is not None:
                self._received(connection, user_data, result, flags, data)
        elif kind == SEND:
            self._sent(user_data, result, flags)
        elif kind:  # the wakeup, or a shutdown that failed; not a cancellation
            self._note_completion(user_data, result, flags, fd)

    def _received(
        self, connection: RingConnection, user_data: int, result: int, flags: int, data: bytes
    ) -> None:
        """Handle the completion of a recv, and submit it again where it has ended."""
        if not flags & MORE:
            self._recv_ended(connection, user_data)
        if connection.fd < 0 or connection.linked:
            return
        is_over = result in (-errno.ECANCELED, -errno.ENOBUFS)
        if self._idle_ns and not is_over:
            connection.active_ns = self.clock()
        if is_over:
            pass
        elif result < 0:
            self.lost += 1
            self.close(connection)
        elif connection.ending:
            self._ignore(connection, data)
        elif connection.out:
            self._keep(connection, data)
        elif data:
            self.life.feed(connection, data)
        else:
            self.close(connection)
        is_reading = not connection.out and (data or is_over)
        if connection.fd >= 0 and is_reading and not connection.linked:
            self.receive(connection)

    def _recv_ended(self, connection: RingConnection, user_data: int) -> None:
        del self._receiving[user_data]
        connection.receiving, connection.cancelling = 0, False

    def _ignore(self, connection: RingConnection, data: bytes) -> None:
        """Read on after the last response, until the peer closes."""
        if data:
            self.timers.ignored(connection, len(data))
        else:
            self.close(connection)

    def _keep(self, connection: RingConnection, data: bytes) -> None:
        """Keep what arrives while a response waits, and receive no more."""
        if connection.backlog is None:
            connection.backlog = deque()
        connection.backlog.append(data)
        if connection.receiving and not connection.cancelling:
            connection.cancelling = True
            self._cancel(connection.fd, connection.receiving)

    def _accepted(self, user_data: int, result: int, flags: int) -> None:
        """Add an accepted connection; submit the accept again if it has ended."""
        if not flags & MORE:
            self._accepting = 0
        self._note_accept(user_data, result, flags)
        if result >= 0:
            self._add_connection(result)
        elif result != -errno.ECANCELED:
            self._accept_failed(OSError(-result, os.strerror(-result)))
        if not self._accepting and self._paused is None:
            self.accept()

    def _accept_failed(self, error: OSError) -> None:
        if error.errno in LISTENER_BROKEN:
            raise error
        self._note_error("accept", error)
        if error.errno not in CONNECTION_BROKEN:
            self._pause(errno.errorcode.get(error.errno or 0, "error"))

    def _resume(self) -> None:
        """Accept again."""
        self._paused = self._retry_ns = None
        self.accept()

    def _add_connection(self, fd: int) -> None:
        """Make the session of an accepted connection, and receive."""
        self.accepted += 1
        key = self.accepted << 32 | fd
        try:
            session: Session = self._new_session()
        except FAULTS as error:
            self._push(uring.CLOSE, CLOSE, Numbered(fd, key), SKIP_SUCCESS)
            self.closed += 1
            self._note_exception(error)
            return
        connection = RingConnection(None, fd, key, session, _never, EPOLLIN)
        self._endpoints[fd] = connection
        self.receive(connection)

    def _sent(self, user_data: int, result: int, flags: int) -> None:
        """Handle a send that has completed: one that waited, or one that failed at once."""
        connection = self._pending.pop(user_data, None)
        if connection is None:
            connection, out = self._submitted.pop(user_data, (None, b""))
        else:
            out, connection.in_flight, connection.sending = connection.in_flight, b"", 0
        self._note_completion(user_data, result, flags, connection.key if connection else 0)
        if connection is None:
            return
        if connection.linked:
            self._keep_open(connection, user_data)
        if connection.fd < 0:
            return
        if connection.ending and connection.session.linger:
            connection.ending = False  # the shutdown that followed was dropped
        if result < 0 and result != -errno.EAGAIN:
            self.lost += 1
            self.close(connection)
        elif len(out) > max(result, 0):
            rest = out[max(result, 0) :]
            # A response that was to follow waits already.
            connection.out = b"".join((rest, connection.out)) if connection.out else rest
            self._waiting.append(connection)
        else:
            connection.out = b""
            self.life.sent_late(connection)

    def _keep_open(self, connection: RingConnection, user_data: int) -> None:
        """Bring a connection back whose close was dropped, since the send before failed."""
        connection.fd = fd = user_data >> 8 & 0xFFFF_FFFF
        connection.linked = connection.ending = False
        connection.session = _Ended()  # its own has been told that the connection is closed
        self._endpoints[fd] = connection
        self.closed -= 1


class _Ended(Session):
    """The session of a connection that is closed once its last response is sent."""

    closing = True

    def receive(self, data: bytes) -> list[bytes]:
        """Ignore what the peer still sends."""
        return []


def _never(connection: Connection, mask: int) -> None:
    """No connection of a ring is reported as ready."""
