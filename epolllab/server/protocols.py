"""Bytes in, bytes out: what a server says, without a socket.

One job: turn what one peer sent into answers. A protocol is a callable that makes
a :class:`Session` for each connection; the session is fed what was read and
returns the answers that are complete. It never waits, and it does not know whether
epoll, poll or select brought the bytes, nor in how many pieces.

To write one's own, derive from :class:`Session`, and give the class, or any
function that makes instances of it, to ``start_server(protocol=...)``::

    class Shout(epolllab.Session):
        def receive(self, data):
            return [data.upper()]
"""

import difflib
from collections.abc import Callable

from epolllab.server.http import Handler, Http, _import_parser
from epolllab.server.session import Session

__all__ = ["PROTOCOLS", "Echo", "Hello", "make_protocol"]


class Hello(Session):
    """The how-to's server: one request, one fixed answer, then the end.

    A request is complete at LF LF or LF CR LF anywhere in it; what it says does not
    matter. The answer is the how-to's to the byte.

    Attributes
    ----------
    max_request_bytes : int
        A request that is longer is answered with 413 and a close.
    """

    ANSWER = (
        b"HTTP/1.0 200 OK\r\nDate: Mon, 1 Jan 1996 01:01:01 GMT\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 13\r\n\r\n"
        b"Hello, world!"
    )
    TOO_LARGE = b"HTTP/1.0 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"

    # In the class, not in each session: most end with their first read.
    max_request_bytes = 1 << 20
    _size = 0
    _tail = b""

    def receive(self, data: bytes) -> list[bytes]:
        """Answer when the blank line has come."""
        if self.closing:
            return []
        if self._tail:
            data = self._tail + data
        if b"\n\r\n" in data or b"\n\n" in data:
            self.closing = True
            if self._size + len(data) > self.max_request_bytes and self._is_late(data):
                self.linger = True
                return [self.TOO_LARGE]
            return [self.ANSWER]
        self._size += len(data) - len(self._tail)
        if self._size > self.max_request_bytes:
            self.closing = self.linger = True
            return [self.TOO_LARGE]
        self._tail = data[-2:]
        return []

    def _is_late(self, data: bytes) -> bool:
        """Whether the blank line in `data`, the tail before it included, is beyond the limit."""
        ends = [data.find(line) + len(line) for line in (b"\n\r\n", b"\n\n") if line in data]
        return self._size - len(self._tail) + min(ends) > self.max_request_bytes


class Echo(Session):
    """Every piece that was read goes back: keep-alive without a parser."""

    def receive(self, data: bytes) -> list[bytes]:
        """Return `data`."""
        return [data]


PROTOCOLS = ("hello", "http", "echo")


def make_protocol(
    protocol: str | Callable[[], Session],
    *,
    handler: Handler | None = None,
    max_request_bytes: int = 1 << 20,
) -> Callable[[], Session]:
    """Turn a name or the user's own object into a maker of sessions.

    Parameters
    ----------
    protocol : {"hello", "http", "echo"} or callable
        A callable without arguments that returns a :class:`Session`.
    handler : callable, optional
        For ``"http"`` only.
    max_request_bytes : int
        For ``"hello"`` and ``"http"``; one's own protocol bounds itself.

    Raises
    ------
    ValueError
        An unknown name, or a handler for a protocol that has none.
    TypeError
        Not a callable, or one that does not make a :class:`Session`.
    """
    if handler is not None and protocol != "http":
        raise ValueError(
            f'handler= belongs to protocol="http", and protocol is {protocol!r}; '
            'say protocol="http", or answer in your own session\'s receive()'
        )
    if protocol == "hello":
        return type("Hello", (Hello,), {"max_request_bytes": max_request_bytes})
    if protocol == "echo":
        return Echo
    if protocol == "http":
        if handler is not None and not callable(handler):
            raise TypeError(f"handler is a function of a request, not {handler!r}")
        _import_parser()
        return lambda: Http(handler, max_request_bytes)
    if isinstance(protocol, str):
        near = difflib.get_close_matches(protocol, PROTOCOLS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"protocol is one of {', '.join(PROTOCOLS)}, or a callable that makes a Session, "
            f"not {protocol!r}{hint}"
        )
    if not callable(protocol):
        raise TypeError(
            f"protocol must be callable and return a Session for each connection; "
            f"{protocol!r} is not callable"
        )
    trial = protocol()
    if not isinstance(trial, Session):
        raise TypeError(
            f"protocol() must return an epolllab.Session, and returned {trial!r}; "
            "derive your class from epolllab.Session and define receive(self, data)"
        )
    return protocol
