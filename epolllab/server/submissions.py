"""A life cycle whose calls are submissions to a ring, for the completion loop."""

import errno
from collections import deque
from typing import Any, Protocol

from epolllab.kernel.syscalls import Endpoint, Served, SystemCalls
from epolllab.kernel.uring import LINK
from epolllab.server.connection import Connection, ConnectionOwner
from epolllab.server.lifecycles import Eager, as_bytes
from epolllab.server.session import FAULTS

__all__ = ["Completing", "RingConnection", "Submissions", "Submitter"]


class RingConnection(Connection):
    """A connection with the operations that are pending for it.

    ``receiving`` and ``sending`` are the user_data of its recv and of a send that waits;
    ``sent_in`` is the turn in which a response was last sent at once.
    """

    receiving = sending = 0
    recv_flags = 0  # of the next recv
    cancelling = False
    linked = False  # its close is linked to a send
    sent_in = -1
    in_flight = b""
    """What a pending send refers to, which must exist until it completes."""
    backlog: "deque[bytes] | None" = None
    """What was received while a response waits; an empty piece is the end of file."""


class Submitter(ConnectionOwner, Protocol):
    """What a life cycle needs of a completion loop."""

    def can_send(self, connection: RingConnection, out: bytes | memoryview) -> bool:
        """Whether a response can be sent at once."""

    def send_at_once(self, connection: RingConnection, out: bytes, flags: int = 0) -> None:
        """Send all of a response during the next io_uring_enter, or learn that it fell short."""

    def send_later(self, connection: RingConnection, out: bytes) -> None:
        """Send a response when the one before is known to be sent, however long it takes."""

    def send_and_close(self, connection: RingConnection, out: bytes) -> None:
        """Send the last response, and close if all of it was sent."""

    def receive(self, connection: RingConnection) -> None:
        """Receive, unless it does already."""

    def shut_down(self, endpoint: Endpoint, how: int) -> None:
        """Shut down one or both directions."""

    def note_response(self, endpoint: Served, size: int) -> None:
        """Stage a handle row."""


class Completing(Eager):
    """What follows a recv, where calls are submissions that succeed or complete later."""

    loop: Submitter

    def feed(self, connection: Any, data: bytes) -> None:
        """Pass what was received to the session, and send its responses."""
        try:
            responses = connection.session.receive(data)
        except FAULTS as error:
            self.loop.session_failed(connection, error)
        else:
            self.responded(connection, len(data), responses)

    def responded(self, connection: RingConnection, n_read: int, responses: Any) -> None:
        """Send what a session has returned."""
        session = connection.session
        try:
            responses = as_bytes("receive() must return", responses)
            out = self.gather(connection, responses)
        except FAULTS as error:
            self.loop.session_failed(connection, error)
            return
        self.requests += len(responses)
        if session.closing and (session.fault or n_read == self.recv_size):
            self.prepare_end(session, n_read)
        if out:
            self.answer(connection, out)
        elif session.closing:
            self.finish(connection)
        if session.in_request or session.unhandled or connection.in_request:
            self.follow_up(connection, restart=bool(responses))

    def answer(self, connection: RingConnection, out: bytes) -> None:
        """Send at once if possible, and end the connection after the last response."""
        loop, session = self.loop, connection.session
        if not loop.can_send(connection, out):
            loop.send_later(connection, out)
        elif session.closing and not session.linger:
            loop.send_and_close(connection, out)
        else:
            loop.send_at_once(connection, out, LINK if session.closing else 0)
            if session.closing:
                self.sent(connection)

    def sent_late(self, connection: RingConnection) -> None:
        """Continue after a response that had to wait."""
        self.sent(connection)
        session = connection.session
        if self.is_free(connection) and (session.unhandled or session.in_request):
            self.follow_up(connection, restart=True)
        backlog = connection.backlog
        while backlog and self.is_free(connection):
            if data := backlog.popleft():
                self.feed(connection, data)
            else:
                self.loop.close(connection)
        if self.is_free(connection):
            self.loop.receive(connection)

    def linger(self, connection: Any, most_s: float | None = None) -> None:
        """Shut down the sending half, and receive until the peer closes."""
        super().linger(connection, most_s)
        backlog, connection.backlog = connection.backlog, None
        if backlog and not backlog[-1]:
            self.loop.close(connection)  # it has closed already
        else:
            self.loop.receive(connection)

    def want(self, connection: Connection, interest: int) -> None:
        """Do nothing: a ring has no interest."""


class Submissions(SystemCalls):
    """The calls that a life cycle and the time limits make, as submissions."""

    def __init__(self, loop: Submitter) -> None:
        self._loop = loop

    def send(self, endpoint: Any, data: bytes | memoryview) -> int:
        """Send all at once; BlockingIOError where another send may be pending."""
        if not self._loop.can_send(endpoint, data):
            raise BlockingIOError(errno.EAGAIN, "the response before is not sent yet")
        self._loop.send_at_once(endpoint, bytes(data))
        return len(data)

    def shutdown(self, endpoint: Endpoint, how: int) -> None:
        """Shut down one or both directions."""
        self._loop.shut_down(endpoint, how)

    def note_response(self, endpoint: Served, size: int) -> None:
        """Stage a handle row."""
        self._loop.note_response(endpoint, size)

    def modify(self, endpoint: Endpoint, mask: int) -> None:
        """Do nothing: a ring has no interest."""
