"""The life of one connection, in the four ways of keeping its interest right.

One job: given a connection that the kernel called ready, read, answer, write, and
keep the kernel's interest in step. A life cycle never waits, knows no listener and
no thread; it makes its system calls through ``syscalls`` and hands ended
connections back to the loop.

What they cost for one request on one connection, and what they are for:

=========  =========================  =================================================
name       epoll_ctl                  idea
=========  =========================  =================================================
howto      4: ADD IN, MOD OUT,        the how-to's: the mask says which step comes next
           MOD 0, DEL
eager      1: ADD IN                  write at once; ask for OUT only when it would block
once       1: ADD IN|OUT|ET           ask for everything once; remember the edges oneself
oneshot    2 and more: ADD, then      the kernel disarms at each event; re-arm when done
           MOD after each event
=========  =========================  =================================================

Common to all: while an answer waits to be sent, nothing more is read from that
connection, so that a peer that never reads cannot make the server's memory grow.
"""

import socket
from typing import TYPE_CHECKING

from epolllab.events import EPOLLIN, EPOLLOUT
from epolllab.kernel.syscalls import SystemCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from epolllab.server.session import Session

    Send = Callable[["Connection", bytes | memoryview], int]

from epolllab.server.connection import Connection, ConnectionOwner

__all__ = ["LIFECYCLES", "Eager", "HowTo", "Once", "OneShot"]


MOST_READS = 1_024
"""Reads of one connection before the others have their turn, if it never would block."""


def _are_answers(answers: object) -> bool:
    """Whether a session returned what it should."""
    return isinstance(answers, list | tuple) and all(
        isinstance(answer, bytes | bytearray | memoryview) for answer in answers
    )


def _misspoken(answers: object, cause: TypeError) -> TypeError:
    error = TypeError(f"receive() must return a list of bytes, and returned {answers!r:.80}")
    error.__cause__ = cause
    return error


class Eager:
    """Write at once; ask for OUT only on would-block.

    Parameters
    ----------
    loop : ConnectionOwner
        Ended connections go back to it.
    calls : SystemCalls
        Makes the system calls.
    drain : bool
        Read until would-block at each event, rather than once.
    recv_size : int
        Bytes asked for by each recv.
    cork : bool
        Hold the answer's segments back with TCP_CORK until all of it is written.
    edge : bool
        Whether the poller is edge-triggered.
    has_hup : bool
        Whether the poller reports HUP for an empty interest; select does not.
    """

    first_interest = EPOLLIN
    idle_interest = EPOLLIN
    writing_interest = EPOLLOUT
    rearms_listener = False
    direct = True  # an answer is sent at once, not when the kernel says OUT
    unregisters = False  # close(2) takes a descriptor out of epoll by itself

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
        # Bound once: each of these is used for every request.
        self._recv, self._turn_recv = calls.recv, calls.turn_recv
        self._send, self._reply = calls.send, calls.reply
        self._observe, self._handled = calls.observe, calls.handled
        self._bound = calls.bound
        self.requests = 0
        self.drain = drain
        self.recv_size = recv_size
        self.cork = cork
        self.edge = edge
        self.has_hup = has_hup

    def ready(self, end: Connection, mask: int) -> None:
        """Do what can be done for a connection that the kernel returned.

        Whatever the mask says, the answer in hand goes first and reading comes
        second: HUP and ERR need no case of their own, since the call that they
        spoil says what happened. Its OSError is the loop's to take.
        """
        if end.out:
            if self._observe:
                self._observe(end.key, mask)
            self.flush(end)
            return
        try:
            data = self._turn_recv(end, self.recv_size, mask)
        except BlockingIOError:
            return
        if not data:
            self.loop.close(end)
            return
        if not end.ending:
            self.feed(end, data)
        if self.drain and not end.out and end.fd >= 0:
            self.read(end)

    def read(self, end: Connection) -> None:
        """Read until it would block, and answer what is complete.

        A peer that sends as fast as we read never makes it block; after MOST_READS the
        others have their turn, and the kernel is made to report this one again.
        """
        left = MOST_READS
        while not end.out and end.fd >= 0:
            if not left:
                self.again(end)
                return
            left -= 1
            if self._bound:
                self._bound()
            try:
                data = self._recv(end, self.recv_size)
            except BlockingIOError:
                return
            if not data:
                self.loop.close(end)
            elif not end.ending:
                self.feed(end, data)

    def again(self, end: Connection) -> None:
        """Have a connection that is not read empty reported again: edges need a modify."""
        if self.edge:
            self.calls.modify(end, end.interest)

    def feed(self, end: Connection, data: bytes) -> None:
        """Give what was read to the session, and send its answers."""
        session = end.session
        try:
            answers = session.receive(data)
        except Exception as error:
            self.loop.failed(end, error)
            return
        try:
            self.requests += len(answers)
            if len(answers) == 1 and self.direct:
                # By far the most common: one request, one answer, and it fits.
                out = answers[0]
                send: Send = self._reply
            else:
                out = self.gather(end, answers)
                send = self._send
            if session.closing and (session.fault or len(data) == self.recv_size):
                self.prepare_end(session, len(data))
            if out:
                self.answer(end, out, send)
            elif session.closing:
                self.finish(end)
        except TypeError as error:
            # Seen only here, where it hurts: looking at every answer would cost all of them.
            if _are_answers(answers):
                raise
            self.loop.failed(end, _misspoken(answers, error))

    def gather(self, end: Connection, answers: list[bytes]) -> bytes:
        """Join the answers of a pipeline; or what is to be said before there is one."""
        if self._handled:
            for answer in answers:
                self._handled(end, len(answer))
        if answers:
            return b"".join(answers)
        interim, end.session.interim = end.session.interim, b""
        return interim

    def prepare_end(self, session: "Session", n_read: int) -> None:
        """Note how the session ends, before its last answer is sent.

        A read that filled its buffer may have left input that nobody read. Closing
        over unread input makes the kernel send a reset, and that may destroy the
        answer before the peer reads it: such a connection lingers instead.
        """
        if n_read == self.recv_size:
            session.linger = True
        if session.fault:
            self.loop.note_fault(session.fault)

    def answer(self, end: Connection, out: bytes, send: "Send") -> None:
        """Send now; keep what did not fit and ask to be told when it does."""
        if self.cork:
            self.calls.cork(end, True)
            end.corked = True
        try:
            if (sent := send(end, out)) < len(out):
                self.push(end, memoryview(out)[sent:])
        except BlockingIOError:
            end.out = out
        if end.out:
            self.want(end, self.writing_interest)
        elif end.session.closing:
            if end.session.linger or end.corked:
                self.sent(end)
            else:
                self.loop.close(end)
        elif end.corked:
            self.sent(end)

    def push(self, end: Connection, out: bytes | memoryview) -> None:
        """Send until all is gone or it would block; what is left stays in ``end.out``."""
        try:
            while out:
                out = memoryview(out)[self._send(end, out) :]
            end.out = b""
        except BlockingIOError:
            end.out = out

    def flush(self, end: Connection) -> None:
        """Go on with an answer that did not fit before."""
        self.push(end, end.out)
        if not end.out:
            self.sent(end)
            if end.fd >= 0 and not end.ending:
                self.resume(end)

    def sent(self, end: Connection) -> None:
        """All is written: end the connection if that was the last answer."""
        if end.corked:
            self.calls.cork(end, False)
            end.corked = False
        if end.session.closing and not end.ending:
            self.finish(end)

    def resume(self, end: Connection) -> None:
        """Listen again; with edges, a modify reports what came in the meantime."""
        self.want(end, self.idle_interest)

    def finish(self, end: Connection) -> None:
        """Close, or first let a peer that still sends come to its end."""
        if end.session.linger:
            self.linger(end)
        else:
            self.loop.close(end)

    def linger(self, end: Connection) -> None:
        """End our half and read the peer's to its end, for a bounded time."""
        end.ending = True
        self.loop.linger(end)
        self.calls.shutdown(end, socket.SHUT_WR)
        self.want(end, self.idle_interest)
        if self.drain:
            self.read(end)

    def want(self, end: Connection, interest: int) -> None:
        """Make the kernel's interest in the connection what is wanted."""
        if end.interest != interest:
            end.interest = interest
            self.calls.modify(end, interest)


class HowTo(Eager):
    """The how-to's chain: the interest says which step comes next.

    IN until the request is complete, then OUT until the answer is sent, then
    nothing; after our own shutdown the kernel reports HUP, which no mask hides, and
    that is when the connection is unregistered and closed.
    """

    direct = False
    unregisters = True

    def ready(self, end: Connection, mask: int) -> None:
        """Read, write or close, as the step is."""
        if end.ending and not end.session.linger:
            if self._observe:
                self._observe(end.key, mask)
            # Nothing but HUP is left to be reported: no mask hides it.
            self.loop.close(end)
            return
        super().ready(end, mask)

    def answer(self, end: Connection, out: bytes, send: "Send") -> None:
        """Do not send yet: ask for OUT, and send when the kernel says so."""
        if self.cork:
            self.calls.cork(end, True)
            end.corked = True
        end.out = out
        self.want(end, EPOLLOUT)

    def finish(self, end: Connection) -> None:
        """Ask for nothing, shut both halves, and wait for HUP."""
        if end.session.linger:
            self.linger(end)
            return
        end.ending = True
        # select has no HUP; there, a connection shut for reading is readable.
        self.want(end, 0 if self.has_hup else EPOLLIN)
        self.calls.shutdown(end, socket.SHUT_RDWR)


class Once(Eager):
    """Everything is registered once, edge-triggered, and never modified.

    The kernel reports each edge once, so an IN that comes while an answer waits to
    be sent is not repeated: after the answer, reading is simply tried again. (The one
    modify there is comes after MOST_READS, which no well-behaved peer gets to.)
    """

    first_interest = EPOLLIN | EPOLLOUT

    def want(self, end: Connection, interest: int) -> None:
        """Nothing to say to the kernel: it has been told everything."""

    def resume(self, end: Connection) -> None:
        """Try to read what may have come while we were writing."""
        self.read(end)


class OneShot(Eager):
    """The kernel disarms a connection at each event; it is re-armed when done."""

    rearms_listener = True

    def ready(self, end: Connection, mask: int) -> None:
        """Serve, then re-arm for what is needed next, in one modify."""
        super().ready(end, mask)
        if end.fd >= 0:
            self.calls.modify(end, end.interest)

    def want(self, end: Connection, interest: int) -> None:
        """Note it; the modify comes at the end of the turn."""
        end.interest = interest


LIFECYCLES = {"eager": Eager, "howto": HowTo, "once": Once, "oneshot": OneShot}
