"""The built-in protocols that need no parser, and the choice of a protocol.

A protocol is a callable that returns a :class:`Session` for each connection. A session
turns the bytes that were read into responses; it has no socket and never waits.

To write your own, derive from :class:`Session` and pass the class, or any function that
returns instances of it, to ``start_server(protocol=...)``::

    class Shout(epolllab.Session):
        def receive(self, data):
            return [data.upper()]
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from epolllab.checks import check_choice
from epolllab.server.http import Handler, Http, import_parser
from epolllab.server.session import Session
from epolllab.server.targets import Targets, row_code

__all__ = ["PROTOCOLS", "Echo", "Hello", "ProtocolName", "make_session_factory"]

ProtocolName = Literal["hello", "http", "echo"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)


class Hello(Session):
    """The how-to's protocol: one request, one fixed response, then close.

    A request ends at LF LF or LF CR LF, wherever that appears; its content does not
    matter. The response equals the how-to's, byte for byte.

    Attributes
    ----------
    max_request_bytes : int
        A longer request gets a 413, and the connection is closed.
    """

    RESPONSE = (
        b"HTTP/1.0 200 OK\r\nDate: Mon, 1 Jan 1996 01:01:01 GMT\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 13\r\n\r\n"
        b"Hello, world!"
    )
    TOO_LARGE = b"HTTP/1.0 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
    TIMED_OUT = b"HTTP/1.0 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"

    # Class attributes rather than instance attributes: most sessions end with their first read.
    handle_code = row_code(200)
    max_request_bytes = 1 << 20
    _size = 0
    _tail = b""

    def receive(self, data: bytes) -> list[bytes]:
        """Respond once the blank line has arrived."""
        if self.closing:
            return []
        if self._tail:
            data = self._tail + data
        if b"\n\r\n" in data or b"\n\n" in data:
            self.closing = True
            self.in_request = False
            if self._size + len(data) > self.max_request_bytes and self._ends_too_late(data):
                self.linger = True
                self.handle_code = row_code(413)
                return [self.TOO_LARGE]
            return [self.RESPONSE]
        self._size += len(data) - len(self._tail)
        if self._size > self.max_request_bytes:
            self.closing = self.linger = True
            self.in_request = False
            self.handle_code = row_code(413)
            return [self.TOO_LARGE]
        self._tail = data[-2:]
        self.in_request = True
        return []

    def timed_out(self) -> list[bytes]:
        """Return a 408 in the middle of a request."""
        return [self.TIMED_OUT] if self.in_request else []

    def _ends_too_late(self, data: bytes) -> bool:
        """Whether the blank line in `data`, which begins with the tail, is beyond the limit."""
        ends = [data.find(line) + len(line) for line in (b"\n\r\n", b"\n\n") if line in data]
        return self._size - len(self._tail) + min(ends) > self.max_request_bytes


class Echo(Session):
    """Send back whatever was read: keep-alive without a parser."""

    def receive(self, data: bytes) -> list[bytes]:
        """Return `data`."""
        return [data]


def make_session_factory(
    protocol: ProtocolName | Callable[[], Session],
    *,
    handler: Handler | None = None,
    max_request_bytes: int = 1 << 20,
    targets: Targets | None = None,
) -> Callable[[], Session]:
    """Return what makes the session of each connection; raise if the protocol is invalid.

    A callable is called once to check that it returns a :class:`Session`, and what it
    returns later is checked too. The limit
    applies to ``"hello"`` and ``"http"``; your own protocol sets its own. `targets` is the
    table for the targets of HTTP requests.
    """
    if handler is not None and protocol != "http":
        raise ValueError(
            f'handler needs protocol="http", and protocol is {protocol!r}; '
            'pass protocol="http", or respond in your own session\'s receive()'
        )
    if isinstance(protocol, str):
        check_choice("protocol", protocol, PROTOCOLS)
    if protocol == "hello":
        return type("Hello", (Hello,), {"max_request_bytes": max_request_bytes})
    if protocol == "echo":
        return Echo
    if protocol == "http":
        if handler is not None and not callable(handler):
            raise TypeError(f"handler must be a function of a request, not {handler!r}")
        import_parser()
        table = Targets() if targets is None else targets
        return lambda: Http(handler, max_request_bytes, table)
    if not callable(protocol):
        raise TypeError(
            f"protocol must be one of {', '.join(map(repr, PROTOCOLS))}, or a callable that "
            f"returns a Session for each connection; {protocol!r} is not callable"
        )
    _make_session(protocol)
    return protocol if isinstance(protocol, type) else partial(_make_session, protocol)


def _make_session(protocol: Callable[[], Session]) -> Session:
    session = protocol()
    if not isinstance(session, Session):
        raise TypeError(
            f"protocol() must return an epolllab.Session, and returned {session!r:.80}; "
            "derive your class from epolllab.Session and define receive(self, data)"
        )
    return session
