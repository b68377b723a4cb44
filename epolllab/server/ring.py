"""What a completion loop submits, and how its ring ends.

Every submission is written by :meth:`RingLoop._push`, with its row, and handed over by the
next io_uring_enter(2). :mod:`epolllab.server.completions` handles what completes.

A response is sent with MSG_DONTWAIT and MSG_WAITALL: the kernel sends all of it during
io_uring_enter, or reports an error or the bytes that did fit. What is left is sent by an
operation that waits for the peer. Two sends of one connection must not be pending together,
since the second could pass the rest of the first. So a response is sent at once only if
the completion of the one before, had there been any, would have been read.
"""

import errno
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from epolllab import events
from epolllab.events import EPOLLIN, EPOLLOUT, FOREVER, MAX_REQUEST, Op
from epolllab.kernel import uring
from epolllab.kernel.syscalls import Endpoint, Served, Socket
from epolllab.kernel.uring import LINK, MORE, SKIP_SUCCESS, Buffers, Uring
from epolllab.recording.recorder import Recorder
from epolllab.server.loop import MOST_FAILURES, Loop, _OwnEndpoint
from epolllab.server.options import ServerOptions
from epolllab.server.submissions import Completing, RingConnection, Submissions

__all__ = ["Numbered", "RingLoop"]

N_ENTRIES, N_COMPLETIONS = 4_096, 16_384
"""Sizes of the two queues."""

BUFFER_BYTES = 1 << 23
MOST_BUFFERS, FEWEST_BUFFERS, MAX_BUFFER = 1_024, 8, 1 << 20
"""Memory for provided buffers, and the bounds of their number and size."""

MAX_AT_ONCE = 1 << 16
"""The longest response that is sent at once; the kernel copies a longer one later."""

OUT_BYTES = 1 << 20
"""Memory for the responses of one turn."""

BATCH = 1_024
"""Completions handled before the submission queue is looked at."""

AT_ONCE = socket.MSG_DONTWAIT | socket.MSG_WAITALL | socket.MSG_NOSIGNAL
PATIENTLY = socket.MSG_WAITALL | socket.MSG_NOSIGNAL

# The kind of an operation is that of the call that it replaces; a poll is a "ready".
READY, ACCEPT, RECV, SEND = map(int, (Op.READY, Op.ACCEPT, Op.RECV, Op.SEND))
SHUTDOWN, CLOSE = map(int, (Op.SHUTDOWN, Op.CLOSE))
SUBMIT, COMPLETE, GETSOCKOPT = map(int, (Op.SUBMIT, Op.COMPLETE, Op.GETSOCKOPT))

# user_data and the code of a row have the request in bits 40 to 62. In user_data the
# descriptor is in bits 8 to 39 and the kind below; in a code, the kind is in bits 8 to 15.
REQUEST_SHIFT = 40
# A code has the mask from bit 8 on.
HAS_MORE, SKIPS, LINKS = events.MORE << 8, events.SKIP_SUCCESS << 8, events.LINK << 8
SEND_SUBMITTED = SEND << 8 | SUBMIT | SKIPS
RECV_COMPLETED = RECV << 8 | COMPLETE | HAS_MORE

SO_PEERNAME = 28  # asm-generic/socket.h
_PORT = slice(2, 4)  # in struct sockaddr_in and sockaddr_in6


class _ServerRing(Uring):
    def forget(self, fd: int) -> None:
        """Do nothing: a ring keeps no table of descriptors."""


class RingLoop(Loop):
    """What a completion loop submits; parameters and attributes as of :class:`Loop`."""

    poller: Any
    calls: Any
    life: Any

    def __init__(
        self,
        listener: socket.socket,
        options: ServerOptions,
        recorder: Recorder | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(listener, options, recorder, clock)
        self._plain_calls, self.calls = self.calls, Submissions(self)
        self.life = Completing(
            self, self.calls, drain=False, recv_size=self.buffers.size, cork=False, edge=False,
            has_hup=True,
        )  # fmt: skip
        self._receiving: dict[int, RingConnection] = {}
        self._pending: dict[int, Any] = {}
        """Sends that wait for the peer, and always complete, with the connection."""
        self._fresh: dict[int, tuple[RingConnection, bytes]] = {}
        self._submitted: dict[int, tuple[RingConnection, bytes]] = {}
        """Sends of this turn, and earlier ones whose completion may not have been read."""
        self._waiting: list[RingConnection] = []
        self._full_at = N_ENTRIES
        """The submission queue is full when its tail is here, until the next io_uring_enter."""
        self._turn = 0
        self._read_up_to = -1
        """Completions of sends of the turns up to this one have been read, if there are any."""
        self._in_batch = False
        self._request = 0
        self._accepting = 0
        self._now = 0
        self._stage = recorder.stage if recorder else None
        self._read_clock = recorder.clock if recorder else clock
        self._max_events = min(options.max_events, BATCH)

    def _make_poller(self, wakeup: int) -> Any:
        """Make the ring, its buffers, and the memory that responses are sent from."""
        self.ring = ring = _ServerRing(N_ENTRIES, N_COMPLETIONS, started=False)
        try:
            size = min(self.options.recv_size, MAX_BUFFER)
            count = max(FEWEST_BUFFERS, min(MOST_BUFFERS, BUFFER_BYTES // size))
            self.buffers = Buffers(ring, 1 << count.bit_length() - 1, size)
            self._out = ring.memory(OUT_BYTES)
            self._out_address = uring.address_of(self._out)
            self._out_at = 0
        except BaseException:
            ring.close()
            raise
        return ring

    # ---- submissions --------------------------------------------------------------------

    def _enter(self, wait: int, timeout: float | None = None) -> None:
        """Make one io_uring_enter, with its row; errors that may pass are counted."""
        ring, recorder = self.ring, self.recorder
        if not (self._in_batch or ring.n_ready or ring.has_overflown):
            self._read_up_to = self._turn
            self._submitted, self._fresh = self._fresh, self._submitted
            self._fresh.clear()
        else:
            self._submitted.update(self._fresh)
            self._fresh = {}
        self._turn += 1
        start = 0
        if recorder:
            recorder.settle()
            start = recorder.clock()
        result, failure = 0, None
        try:
            result = ring.enter(wait, timeout)
        except OSError as error:
            result, failure = -(error.errno or 0), error
        if recorder:
            asked = FOREVER if timeout is None else min(int(timeout * 1e6), FOREVER - 1)
            end, timeout_us = recorder.clock(), asked if wait else 0
            recorder.stage_wait(ring.fileno(), start, end, result, timeout_us)
        self.wakeups += 1
        self._full_at = ring.tail - ring.n_unsubmitted + ring.n_sqes
        if failure is not None:
            if failure.errno != errno.EBUSY:  # completions must be read first, which comes next
                self._wait_failed(failure)
        elif not ring.n_unsubmitted:
            self._out_at = 0

    def _push(
        self,
        opcode: int,
        kind: int,
        endpoint: Any,
        flags: int = 0,
        *,
        ioprio: int = 0,
        address: int = 0,
        length: int = 0,
        op_flags: int = 0,
        result: int = 0,
    ) -> int:
        """Write a submission with its row; return its user_data."""
        ring = self.ring
        if ring.tail >= self._full_at:
            self._make_room(1)
        self._request = request = self._request % MAX_REQUEST + 1
        fd: int = endpoint.fd
        user_data = request << REQUEST_SHIFT | fd << 8 | kind
        tail = ring.tail
        uring.SQE.pack_into(
            ring.sqes, (tail & ring.sq_mask) * 64, opcode, flags, ioprio, fd, 0,
            address, length, op_flags, user_data, 0, 0, 0, 0, 0,
        )  # fmt: skip
        ring.tail = tail + 1
        if self._stage:
            self._now = now = self._read_clock()
            code = request << REQUEST_SHIFT | kind << 8 | SUBMIT
            code |= (SKIPS if flags & SKIP_SUCCESS else 0) | (LINKS if flags & LINK else 0)
            self._stage((now, now, endpoint.key, result, code))
        return user_data

    def _make_room(self, n: int) -> None:
        """Hand the queue over if it has no room for `n` submissions, which may be linked."""
        for _ in range(MOST_FAILURES):
            if self._full_at - self.ring.tail >= n:
                return
            self.buffers.publish()
            self._enter(0)
        raise OSError(errno.EBUSY, "the kernel takes no submissions")

    def accept(self) -> None:
        """Accept: again and again, or one connection where their number is limited."""
        limit = self.options.max_connections
        if self._accepting:
            return
        if limit is not None and self.open_connections >= limit:
            self._pause("max_connections")
            return
        many = uring.ACCEPT_MULTISHOT if limit is None else 0
        self._accepting = self._push(
            uring.ACCEPT, ACCEPT, self._listener, ioprio=many, op_flags=socket.SOCK_CLOEXEC
        )

    def receive(self, connection: RingConnection) -> None:
        """Submit a recv, unless one is pending: the first completes once, others are multishot.

        Many connections are closed after one request. A recv that has completed by then need
        not be cancelled.
        """
        if connection.receiving == 0 and not connection.linked:
            connection.receiving = user_data = self._push(
                uring.RECV, RECV, connection, uring.BUFFER_SELECT, ioprio=connection.recv_flags
            )
            # A multishot recv that finds bytes at once completes before the sends of the same
            # turn do. Polling first makes it complete after them.
            connection.recv_flags = uring.RECV_MULTISHOT | uring.POLL_FIRST
            self._receiving[user_data] = connection

    def can_send(self, connection: RingConnection, out: bytes | memoryview) -> bool:
        """Whether a response can be sent at once."""
        if connection.out or connection.sent_in > self._read_up_to or len(out) > MAX_AT_ONCE:
            return False
        if self._out_at + len(out) > OUT_BYTES:
            self._enter(0)
        return self._out_at + len(out) <= OUT_BYTES and connection.sent_in <= self._read_up_to

    def send_at_once(self, connection: RingConnection, out: bytes, flags: int = 0) -> None:
        """Send all of a response during the next io_uring_enter, or learn that it fell short."""
        self._make_room(3)  # a linked pair must be handed over together
        start, self._out_at = self._out_at, self._out_at + len(out)
        self._out[start : self._out_at] = out
        user_data = self._push(
            uring.SEND, SEND, connection, SKIP_SUCCESS | flags, op_flags=AT_ONCE,
            address=self._out_address + start, length=len(out), result=len(out),
        )  # fmt: skip
        self._fresh[user_data] = connection, out
        connection.sent_in = self._turn

    def send_later(self, connection: RingConnection, out: bytes) -> None:
        """Send a response when the one before is known to be sent, however long it takes."""
        connection.out = b"".join((connection.out, out)) if connection.out else out
        self._waiting.append(connection)

    def _send_waiting(self) -> None:
        """Submit sends that wait for the peer, where no other send may be pending."""
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            if connection.fd < 0 or connection.sending or not connection.out:
                continue
            if connection.sent_in > self._read_up_to:
                self._waiting.append(connection)
                continue
            connection.in_flight = data = bytes(connection.out)
            connection.sending = user_data = self._push(
                uring.SEND, SEND, connection, result=len(data), length=len(data),
                address=uring.address_of_bytes(data), op_flags=PATIENTLY,
            )  # fmt: skip
            self._pending[user_data] = connection

    def send_and_close(self, connection: RingConnection, out: bytes) -> None:
        """Send the last response, and close if all of it was sent."""
        self._make_room(4)
        if connection.receiving:
            self._cancel(connection.fd, connection.receiving)
        self.send_at_once(connection, out, LINK)
        self._push(uring.CLOSE, CLOSE, connection, SKIP_SUCCESS)
        self._forget(connection)
        connection.linked = True

    def shut_down(self, endpoint: Endpoint, how: int) -> None:
        """Shut down one or both directions."""
        self._push(uring.SHUTDOWN, SHUTDOWN, endpoint, SKIP_SUCCESS, length=how)

    def _cancel(self, fd: int, user_data: int) -> None:
        """Cancel an operation; that it has completed meanwhile does not matter."""
        self._make_room(1)
        self.ring.push_cancel(user_data, cancel_data=fd << 8, flags=SKIP_SUCCESS)

    def close(self, connection: Any, registered: bool = True) -> None:
        """Close a connection and cancel what is pending for it; again, it does nothing."""
        one: RingConnection = connection
        if self._endpoints.get(one.fd) is not one or one.linked:
            return
        for user_data in (one.receiving, one.sending):
            if user_data:
                self._cancel(one.fd, user_data)
        self._push(uring.CLOSE, CLOSE, one, SKIP_SUCCESS)
        self._forget(one)

    def _forget(self, connection: RingConnection) -> None:
        """Remove a connection whose close is submitted or has completed."""
        if self._endpoints.get(connection.fd) is not connection:
            return
        del self._endpoints[connection.fd]
        connection.fd, connection.backlog, connection.ending = -1, None, True
        self._closed(connection)

    # ---- the record ---------------------------------------------------------------------

    def note_response(self, endpoint: Served, size: int) -> None:
        """Stage a handle row, which begins where the row before ends."""
        if self._stage:
            start, self._now = self._now, self._read_clock()
            self._stage((start, self._now, endpoint.key, size, endpoint.session.handle_code))

    def _note_accept(self, user_data: int, fd: int, flags: int) -> None:
        """Stage an accept's row, and one of the call that asks for the peer's port.

        A multishot accept returns no address.
        """
        if not self._stage:
            return
        start, listener = self._now, self._listener.fd
        code = user_data >> 40 << 40 | ACCEPT << 8 | COMPLETE | (HAS_MORE if flags & MORE else 0)
        if fd < 0:
            self._stage((start, start, listener, fd, code))
            return
        result = port = 0
        sock = Socket(self._family, self._sock_type, 0, fd)
        try:
            name = sock.getsockopt(socket.SOL_SOCKET, SO_PEERNAME, _PORT.stop)
            port = int.from_bytes(name[_PORT], "big")
        except OSError as error:  # the peer has left
            result = -(error.errno or 0)
        sock.detach()
        self._now = end = self._read_clock()
        key = self.accepted + 1 << 32
        self._stage((
            start, start, key | listener, fd, code | port << 8 + events.PORT_SHIFT,
            start, end, key | fd, result, GETSOCKOPT,
        ))  # fmt: skip

    def _note_completion(self, user_data: int, result: int, flags: int, key: int) -> None:
        if self._stage:
            code = user_data >> 40 << 40 | (user_data & 0xFF) << 8 | COMPLETE
            code |= HAS_MORE if flags & MORE else 0
            self._stage((self._now, self._now, key, result, code))

    # ---- readings and the end -----------------------------------------------------------

    @property
    def epoll_fd(self) -> int:
        """A ring has no interest list."""
        return -1

    def _connections(self) -> list[Any]:
        return super()._connections()

    def interest(self) -> dict[int, int]:
        """Descriptor to what is pending for it: IN for accept, recv and poll, OUT for send."""
        table = {
            one.fd: (EPOLLIN if one.receiving else 0) | (EPOLLOUT if one.sending else 0)
            for one in self._connections()
        }
        table[self._listener.fd] = EPOLLIN if self._accepting else 0
        table[self._wakeup.fd] = EPOLLIN
        return table

    def _close_all(self) -> None:
        """Submit what is left, cancel what is pending, and close everything."""
        if not self._ended:
            fds = self._finish_ring()
            for connection in self._connections():
                connection.sock = Socket(self._family, self._sock_type, 0, connection.fd)
            self.calls = self._plain_calls
            for fd in fds:
                self.calls.close(Numbered(fd, fd))
            for queue in self.ring.release():
                self.calls.close(_OwnEndpoint(queue, self.ring.fileno()))
        super()._close_all()

    def _finish_ring(self) -> list[int]:
        """End all operations; return descriptors that no connection owns."""
        ring = self.ring
        self._submit_rest()
        ring.cancel_all()
        self._submit_rest()
        fds = [fd for opcode, fd in ring.unsubmitted() if opcode == uring.CLOSE]
        while ring.n_ready:
            for user_data, result, _ in ring.take():
                kind = user_data & 0xFF
                if kind == ACCEPT and result >= 0:
                    fds.append(result)
                elif kind == SEND:
                    connection, _ = self._submitted.get(user_data, (None, b""))
                    if connection and connection.linked:
                        fds.append(user_data >> 8 & 0xFFFF_FFFF)
            if ring.has_overflown:
                self._submit_rest()
        return fds

    def _submit_rest(self) -> None:
        with suppress(OSError):  # the ring may be what has failed
            self._enter(0)

    def _close_in_child(self) -> None:
        for connection in self._connections():
            connection.sock = Socket(self._family, self._sock_type, 0, connection.fd)
        super()._close_in_child()


class Numbered:
    """An endpoint that is only a number."""

    def __init__(self, fd: int, key: int) -> None:
        self.fd, self.key, self.sock = fd, key, self

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)
