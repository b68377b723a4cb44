"""Four ways of managing a connection's interest mask, from its first read to its close.

A life cycle is given a connection that the poller returned. It reads, gets the response
from the session, writes, and keeps the interest mask right; it never blocks. What each
costs for one request on one connection:

=========  =========================  =================================================
name       epoll_ctl                  idea
=========  =========================  =================================================
howto      4: ADD IN, MOD OUT,        the mask says which step comes next, as in the
           MOD 0, DEL                 how-to's server
eager      1: ADD IN                  write at once; request OUT only if that would block
once       1: ADD IN|OUT|ET           register everything once and remember the edges
oneshot    2 and more: ADD, then      the kernel disarms at each event; re-arm when done
           MOD after each event
=========  =========================  =================================================

In all of them, nothing more is read from a connection while a response waits to be sent,
and input that a session puts back is not handled either, so that a peer that never reads
cannot make the server's memory grow.
"""

import socket
from typing import TYPE_CHECKING

from epolllab.events import EPOLLIN, EPOLLOUT
from epolllab.kernel.syscalls import SystemCalls
from epolllab.server.connection import Connection, ConnectionOwner
from epolllab.server.session import FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from epolllab.server.session import Session

    Send = Callable[[Connection, bytes | memoryview], int]

__all__ = ["LIFECYCLES", "Eager", "HowTo", "Once", "OneShot"]

MAX_READS = 1_024
"""Maximum consecutive reads of one connection, before the loop turns to others."""


class Eager:
    """Write at once; request OUT only if a write would block.

    Parameters
    ----------
    loop : ConnectionOwner
        Closes connections that have ended.
    calls : SystemCalls
        Makes the system calls.
    drain : bool
        Read until EAGAIN at each event, not once.
    recv_size : int
        Bytes asked for by each recv.
    cork : bool
        Hold partial segments back with TCP_CORK until the whole response is written.
    edge : bool
        Whether the poller is edge-triggered.
    has_hup : bool
        Whether the poller reports HUP for an empty interest; select does not.
    """

    first_interest = EPOLLIN
    idle_interest = EPOLLIN
    writing_interest = EPOLLOUT
    rearms_listener = False
    sends_at_once = True
    serves_at_once = True  # ready() is this class's
    unregisters = False  # closing its last descriptor takes a file out of epoll

    def __init__(
        self,
        loop: ConnectionOwner,
        calls: SystemCalls,
        *,
        drain: bool,
        recv_size: int,
        cork: bool,
        edge: bool,
        has_hup: bool,
    ) -> None:
        self.loop = loop
        self.calls = calls
        # Bound once: these are used for every request.
        self._recv, self._recv_ready = calls.recv, calls.recv_ready
        self._send, self._send_response = calls.send, calls.send_response
        self.requests = 0
        self.drain = drain
        self.recv_size = recv_size
        self.cork = cork
        self.edge = edge
        self.has_hup = has_hup

    def ready(self, connection: Connection, mask: int) -> None:
        """Do what can be done for a connection that the poller returned.

        A response in hand is sent first; otherwise the connection is read. HUP and ERR
        need no case of their own: the call that fails says what happened, and the loop
        handles its OSError.
        """
        if connection.out:
            self.calls.note_ready(connection.key, mask)
            self.flush(connection)
            return
        try:
            data = self._recv_ready(connection, self.recv_size, mask)
        except BlockingIOError:
            return
        if not data:
            self.loop.close(connection)
            return
        if connection.ending:
            self.loop.timers.ignored(connection, len(data))
        else:
            self.feed(connection, data)
        if self.drain and not connection.out and connection.fd >= 0:
            self.read(connection)

    def read(self, connection: Connection) -> None:
        """Read until EAGAIN and respond to complete requests.

        A peer that sends as fast as the loop reads never causes EAGAIN. After MAX_READS
        the loop turns to other connections, and this one will be reported again.
        """
        for _ in range(MAX_READS):
            if connection.out or connection.fd < 0:
                return
            self.calls.settle_if_many()
            try:
                data = self._recv(connection, self.recv_size)
            except BlockingIOError:
                return
            if not data:
                self.loop.close(connection)
            elif connection.ending:
                self.loop.timers.ignored(connection, len(data))
            else:
                self.feed(connection, data)
        if self.edge and not connection.out and connection.fd >= 0:
            self.calls.modify(connection, connection.interest)  # reports what is unread

    def feed(self, connection: Connection, data: bytes) -> None:
        """Pass what was read to the session, and send its responses."""
        try:
            responses = connection.session.receive(data)
        except FAULTS as error:
            self.loop.session_failed(connection, error)
        else:
            self.respond_to(connection, data, responses)

    def respond_to(self, connection: Connection, data: bytes, responses: list[bytes]) -> None:
        """Send what the session returned for `data`, and note how it goes on."""
        session = connection.session
        send: Send
        try:
            if (
                responses.__class__ is list
                and len(responses) == 1
                and responses[0].__class__ is bytes
                and self.sends_at_once
            ):
                out, send = responses[0], self._send_response
            else:
                responses = as_bytes("receive() must return", responses)
                out, send = self.gather(connection, responses), self._send
        except FAULTS as error:
            self.loop.session_failed(connection, error)
            return
        self.requests += len(responses)
        if session.closing and (session.fault or len(data) == self.recv_size):
            self.prepare_end(session, len(data))
        if out:
            self.respond(connection, out, send)
        elif session.closing:
            self.finish(connection)
        if session.in_request or session.unhandled or connection.in_request:
            self.follow_up(connection, restart=bool(responses))

    def follow_up(self, connection: Connection, restart: bool) -> None:
        """Handle what the session put back, if all is sent; time a request that has begun."""
        if connection.handling:
            return  # the loop below calls feed(), which calls this
        session = connection.session
        connection.handling = True
        while session.unhandled and self.is_free(connection):
            rest, session.unhandled = session.unhandled, b""
            session.linger = True  # the kernel may have more to read, see prepare_end()
            if is_rest := isinstance(rest, bytes):
                self.feed(connection, rest)
                left = session.unhandled
                is_rest = not left or (isinstance(left, bytes) and len(left) < len(rest))
            if not is_rest:
                error = ValueError("unhandled must be bytes, and fewer than receive() was given")
                self.loop.session_failed(connection, error)
            restart = True
        connection.handling = False
        if session.in_request and not (session.unhandled or session.closing):
            if connection.fd >= 0 and (restart or not connection.in_request):
                self.loop.timers.request_began(connection)
        elif connection.in_request:
            self.loop.timers.request_ended(connection)

    def is_free(self, connection: Connection) -> bool:
        """Whether a connection is open, and nothing waits to be sent."""
        return connection.fd >= 0 and not connection.out and not connection.session.closing

    def gather(self, connection: Connection, responses: list[bytes]) -> bytes:
        """Join the responses of a pipeline; if there are none, return interim bytes to send."""
        session = connection.session
        codes = session.handle_codes if len(responses) > 1 else ()
        for place, response in enumerate(responses):
            if place < len(codes):
                session.handle_code = codes[place]
            self.calls.note_response(connection, len(response))
        if responses:
            return b"".join(responses)
        interim, connection.session.interim = connection.session.interim, b""
        return as_bytes("interim must be in", [interim])[0] if interim else b""

    def prepare_end(self, session: "Session", n_read: int) -> None:
        """Note how the session ends, before its last response is sent.

        A read that filled its buffer may have left unread input. Closing a socket with
        unread input makes the kernel send a reset, which can destroy the response before
        the peer reads it: such a connection lingers instead.
        """
        if n_read == self.recv_size:
            session.linger = True
        if session.fault:
            self.loop.note_fault(session.fault)

    def respond(self, connection: Connection, out: bytes, send: "Send") -> None:
        """Send now; keep what did not fit and request OUT."""
        if self.cork:
            self.calls.cork(connection, True)
            connection.corked = True
        try:
            if (sent := send(connection, out)) < len(out):
                self.push(connection, memoryview(out)[sent:])
        except BlockingIOError:
            connection.out = out
        if connection.out:
            self.want(connection, self.writing_interest)
        elif connection.session.closing:
            if connection.session.linger or connection.corked:
                self.sent(connection)
            else:
                self.loop.close(connection)
        elif connection.corked:
            self.sent(connection)

    def keep(self, connection: Connection, response: bytes, sent: int) -> None:
        """Send the rest of a response of which only a part, or nothing, has been sent."""
        if sent:
            self.push(connection, memoryview(response)[sent:])
        else:
            connection.out = response
        if connection.out:
            self.want(connection, self.writing_interest)

    def push(self, connection: Connection, out: bytes | memoryview) -> None:
        """Send until all is sent or EAGAIN; what is left stays in ``connection.out``."""
        try:
            while out:
                out = memoryview(out)[self._send(connection, out) :]
            connection.out = b""
        except BlockingIOError:
            connection.out = out

    def flush(self, connection: Connection) -> None:
        """Continue a response that did not fit before."""
        self.push(connection, connection.out)
        if not connection.out:
            self.sent(connection)
            session = connection.session
            if self.is_free(connection) and (session.unhandled or session.in_request):
                self.follow_up(connection, restart=True)
            if self.is_free(connection):
                self.resume(connection)

    def sent(self, connection: Connection) -> None:
        """Everything is written: end the connection if that was the last response."""
        if connection.corked:
            self.calls.cork(connection, False)
            connection.corked = False
        if connection.session.closing and not connection.ending:
            self.finish(connection)

    def resume(self, connection: Connection) -> None:
        """Read again; with edges, the modify reports what arrived in the meantime."""
        self.want(connection, self.idle_interest)

    def finish(self, connection: Connection) -> None:
        """Close; if the peer is still sending, read until it has closed first."""
        if connection.session.linger:
            self.linger(connection)
        else:
            self.loop.close(connection)

    def linger(self, connection: Connection, most_s: float | None = None) -> None:
        """Shut down the sending half and read until the peer closes, for a bounded time."""
        connection.ending = True
        self.loop.timers.linger(connection, most_s)
        self.calls.shutdown(connection, socket.SHUT_WR)
        self.want(connection, self.idle_interest)
        if self.drain:
            self.read(connection)

    def want(self, connection: Connection, interest: int) -> None:
        """Set the interest mask if it differs."""
        if connection.interest != interest:
            connection.interest = interest
            self.calls.modify(connection, interest)


class HowTo(Eager):
    """The how-to's chain: the interest mask says which step comes next.

    IN until the request is complete, then OUT until the response is sent, then nothing.
    After our own shutdown the kernel reports HUP, which no mask can hide, and then the
    connection is unregistered and closed.
    """

    sends_at_once = serves_at_once = False
    unregisters = True

    def ready(self, connection: Connection, mask: int) -> None:
        """Read, write or close, depending on the step."""
        if connection.ending and not connection.session.linger:
            self.calls.note_ready(connection.key, mask)
            self.loop.close(connection)  # only HUP is left to be reported
            return
        super().ready(connection, mask)

    def respond(self, connection: Connection, out: bytes, send: "Send") -> None:
        """Request OUT, and send when the poller reports it."""
        if self.cork:
            self.calls.cork(connection, True)
            connection.corked = True
        connection.out = out
        if self.edge and connection.interest == EPOLLOUT:
            self.calls.modify(connection, EPOLLOUT)  # it is writable already: make a new edge
        else:
            self.want(connection, EPOLLOUT)

    def finish(self, connection: Connection) -> None:
        """Set an empty interest, shut down both halves, and wait for HUP."""
        if connection.session.linger:
            self.linger(connection)
            return
        connection.ending = True
        # Where there is no HUP, a connection shut down for reading is readable.
        self.want(connection, 0 if self.has_hup else EPOLLIN)
        self.calls.shutdown(connection, socket.SHUT_RDWR)


class Once(Eager):
    """Everything is registered once, edge-triggered, and never modified.

    Each edge is reported once: an IN that arrives while a response waits to be sent is
    not repeated, so after the response reading is simply tried again. (The one modify
    comes after MAX_READS, which no well-behaved peer reaches.)
    """

    first_interest = EPOLLIN | EPOLLOUT

    def want(self, connection: Connection, interest: int) -> None:
        """Do nothing: everything is registered."""

    def resume(self, connection: Connection) -> None:
        """Read what may have arrived while we were writing."""
        self.read(connection)


class OneShot(Eager):
    """The kernel disarms a connection at each event; it is re-armed when done."""

    rearms_listener = True
    serves_at_once = False

    def ready(self, connection: Connection, mask: int) -> None:
        """Serve, then re-arm for what is needed next, in one modify."""
        super().ready(connection, mask)
        if connection.fd >= 0:
            self.calls.modify(connection, connection.interest)

    def want(self, connection: Connection, interest: int) -> None:
        """Store the interest for the modify at the end of ``ready``."""
        connection.interest = interest


def as_bytes(what: str, responses: object) -> list[bytes]:
    """Return what a session returned as a list of bytes; raise TypeError if it is none."""
    if not isinstance(responses, list | tuple) or not all(
        isinstance(response, bytes | bytearray | memoryview) for response in responses
    ):
        raise TypeError(f"{what} a list of bytes, not {responses!r:.80}")
    return [bytes(response) for response in responses]


LIFECYCLES = {"eager": Eager, "howto": HowTo, "once": Once, "oneshot": OneShot}
