"""HTTP/1.1 without a socket: requests, responses, and the session that turns one into the other.

httptools does the parsing: the C parser of Node.js (llhttp).
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from importlib import import_module
from typing import Any

from epolllab.server.session import Session

__all__ = ["Handler", "Http", "Request", "Response"]


@dataclass(slots=True, eq=False, repr=False)
class Request:
    """An HTTP request, as a handler receives it.

    Attributes
    ----------
    method, path, version : str
        For example ``"GET"``, ``"/a?b=c"``, ``"1.1"``. The path is as it was sent.
    raw_headers : list of (bytes, bytes)
        In the order sent.
    body : bytes
        The whole body; chunks are joined.
    keep_alive : bool
        Whether the connection stays open after the response.
    raw_trailers : list of (bytes, bytes)
        Fields sent after a chunked body, which are not headers (RFC 9110, section 6.5).
    """

    method: str
    path: str
    version: str
    raw_headers: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool
    raw_trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        """Headers by lower-case name; repeated ones are joined with a comma."""
        joined: dict[str, str] = {}
        for raw_name, raw_value in self.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return joined

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path} HTTP/{self.version}, {len(self.body)} bytes>"


SERVER_HEADERS = ("content-length", "transfer-encoding", "date", "connection")
"""Headers that the server sends itself."""


class Response:
    """What a handler returns.

    Parameters
    ----------
    body : bytes or str
        A str is sent as UTF-8.
    status : int
        HTTP status code.
    content_type : str
        The media type.
    headers : mapping of str to str, optional
        Further headers; the server itself sends Content-Length, Date and Connection.

    Raises
    ------
    ValueError
        A header contains a line break, which would turn one header into two; or it is
        one that the server sends.
    TypeError
        The body is neither bytes nor a str.
    """

    __slots__ = ("_cached", "_cached_until", "_close_head", "_keep_head", "body", "status")

    def __init__(
        self,
        body: bytes | str = b"",
        status: int = 200,
        content_type: str = "text/plain; charset=utf-8",
        headers: dict[str, str] | None = None,
    ) -> None:
        if not isinstance(body, str | bytes | bytearray | memoryview):
            raise TypeError(f"body of a response must be bytes or a str, not {body!r:.80}")
        self.status = status
        lines = [
            f"HTTP/1.1 {status} {_reason(status)}",
            f"Content-Type: {content_type}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError(f"headers and content_type must have no line break: {lines!r}")
        for name in headers or ():
            if name.lower() in SERVER_HEADERS:
                raise ValueError(f"headers must not contain {name}: the server sends it")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n"
        # 1xx, 204 and 304 have no body and no length (RFC 9110, section 8.6).
        if status < 200 or status in (204, 304):
            self.body = b""
        else:
            self.body = body.encode() if isinstance(body, str) else bytes(body)
            head += b"Content-Length: %d\r\n" % len(self.body)
        # Both end where the date is inserted, so that a response is formatted in one step.
        self._keep_head = head + b"Date: "
        self._close_head = head + b"Connection: close\r\nDate: "
        self._cached = b""
        self._cached_until = 0.0

    def wire(self) -> bytes:
        """The bytes of the usual response: with its body, on a connection that stays open.

        They are cached for a second, since only the date changes.
        """
        now = time.time()
        if now >= self._cached_until:
            # In this order, because the threads of two servers may share the response.
            self._cached = self.encode()
            self._cached_until = int(now) + 1.0
        return self._cached

    def encode(
        self, *, head_only: bool = False, close: bool = False, confirm: bool = False
    ) -> bytes:
        """The bytes of any response.

        `head_only` leaves out the body, for HEAD; `close` announces the end of the
        connection; `confirm` confirms keep-alive to an HTTP/1.0 peer that asked for it.
        """
        head = self._close_head if close else self._keep_head
        keep = b"\r\nConnection: keep-alive" if confirm and not close else b""
        date = _date(int(time.time()))
        return b"%b%b%b\r\n\r\n%b" % (head, date, keep, b"" if head_only else self.body)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    """The value of the Date header, made once a second."""
    return formatdate(second, usegmt=True).encode()


Handler = Callable[[Request], Response | bytes | str]

GREETING = Response(b"Hello, world!")
"""The response of ``protocol="http"`` without a handler."""

_httptools: Any = None


def import_parser() -> None:
    """Import httptools; called when an HTTP server starts, since no other server needs it."""
    global _httptools
    _httptools = import_module("httptools")


class Http(Session):
    """HTTP/1.1 with keep-alive and pipelining.

    Parameters
    ----------
    handler : callable, optional
        ``handler(request)`` returns a :class:`Response`, bytes or a str. If it raises,
        the peer gets a 500 and the connection is closed; the server continues. Without
        a handler, the response to every request is a greeting.
    max_request_bytes : int
        A longer head gets a 431, a longer body a 413.
    """

    def __init__(self, handler: Handler | None = None, max_request_bytes: int = 1 << 20) -> None:
        self._handler = handler
        self._limit = max_request_bytes
        self._parser: Any = _httptools.HttpRequestParser(self)
        self._feed = self._parser.feed_data
        self._responses: list[bytes] = []
        self._path = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._n_headers: int | None = None  # without trailers; known from the first chunk on
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._body_bytes = 0
        self._body_bytes_before = 0  # when the head was last checked
        self._confirms = False  # an HTTP/1.0 peer asked for keep-alive
        self._may_exceed = False  # enough was read that a complete head may be too large

    def receive(self, data: bytes) -> list[bytes]:
        """Parse; the handler runs for each complete request."""
        if self.closing:
            return []
        responses: list[bytes] = []
        self._responses = responses
        if len(data) + self._head_bytes > self._limit:
            self._may_exceed = True
        try:
            self._feed(data)
        except _httptools.HttpParserUpgrade:
            # The peer offers another protocol; the response was in HTTP, and the session ends.
            self.closing = True
        except _httptools.HttpParserError:
            # After "Connection: close" the parser rejects further bytes, which are ignored.
            if not self.closing:
                self._refuse(400)
        self.in_request = bool(self._path) and not self.closing
        # A head that began in the same piece as the end of a request is checked when complete.
        if self._path and not self.closing and not responses:
            self._check_head(len(data))
        return responses

    def _check_head(self, size: int) -> None:
        """Count the bytes outside the body: the head, trailers and chunk extensions."""
        if self._body_bytes > self._body_bytes_before:
            self._body_bytes_before = self._body_bytes
            self._head_bytes = 0
            return
        self._head_bytes += size
        if self._head_bytes > self._limit:
            self._refuse(431)

    def timed_out(self) -> list[bytes]:
        """Return a 408 in the middle of a request, and nothing between requests."""
        if not self._path or self.closing:
            return []
        self._responses = []
        self._refuse(408)
        return self._responses

    def on_close(self) -> None:
        """Drop the parser: it and this session refer to each other."""
        self._parser = self._feed = None

    # The parser calls these.

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; the lengths are those of the three that the session reads itself."""
        self._headers.append((name, value))
        if len(name) in (6, 10, 14) and self._n_headers is None:
            self._read_header(name.lower(), value)

    def _read_header(self, name: bytes, value: bytes) -> None:
        if name == b"content-length" and value.isdigit() and int(value) > self._limit:
            self._refuse(413)
        elif name == b"expect" and not self.closing:
            self._head_bytes = 1  # so that _reset runs at the end of the request
            interim = b"HTTP/1.1 100 Continue\r\n\r\n"
            if self._responses:
                self._responses[-1] += interim  # sent together with the response before it
            else:
                self.interim = interim
        elif name == b"connection":
            self._confirms = self._parser.get_http_version() == "1.0"

    def on_chunk_header(self) -> None:
        """A chunk begins: fields after this are trailers."""
        if self._n_headers is None:
            self._n_headers = len(self._headers)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        if self._body_bytes <= self._limit:
            self._body.append(body)
        elif not self.closing:
            self._refuse(413)

    def on_message_complete(self) -> None:
        """Respond to a complete request."""
        if self.closing:
            return
        if self._may_exceed and self._head_size() > self._limit:
            self._refuse(431)
            return
        parser = self._parser
        if not parser.should_keep_alive():
            self.closing = True
        method = parser.get_method()
        handler = self._handler
        response = self._call_handler(handler, method) if handler else GREETING
        if self.closing or self._confirms or method == b"HEAD":
            encoded = response.encode(
                head_only=method == b"HEAD", close=self.closing, confirm=self._confirms
            )
        else:
            encoded = response.wire()
        self._responses.append(encoded)
        self._path = b""
        self._headers.clear()
        if self._head_bytes or self._body_bytes or self._confirms or self._n_headers:
            self._reset()

    def _head_size(self) -> int:
        """Bytes of the head, without the method and version in its first line."""
        return len(self._path) + sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _reset(self) -> None:
        """Clear what only some requests set."""
        self._head_bytes = self._body_bytes = self._body_bytes_before = 0
        self._body = []
        self._confirms = False
        self._n_headers = None
        self.interim = b""

    def _call_handler(self, handler: Handler, method: bytes) -> Response:
        """Return the handler's response; if it raises, a 500 that closes the connection."""
        n_headers = len(self._headers) if self._n_headers is None else self._n_headers
        request = Request(
            method.decode("latin-1"),
            self._path.decode("latin-1"),
            self._parser.get_http_version(),
            self._headers[:n_headers],
            b"".join(self._body),
            not self.closing,
            self._headers[n_headers:],
        )
        try:
            response = handler(request)
            return response if isinstance(response, Response) else Response(response)
        except BaseException:  # sys.exit() too, which httptools would report as a parser error
            self.fault = traceback.format_exc()
            self.closing = True
            return Response("Internal Server Error\n", 500)

    def _refuse(self, status: int) -> None:
        """Respond with an error and close, but read on, so that the response arrives."""
        self.closing = self.linger = True
        self._responses.append(Response(f"{_reason(status)}\n", status).encode(close=True))
