"""server.http."""

import time
import traceback
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from epolllab.server.session import Session

__all__ = ["Http", "Request", "Response"]


class Request:
    """An HTTP request, as a handler gets it.

    Attributes
    ----------
    method, path, version : str
        For example ``"GET"``, ``"/a?b=c"``, ``"1.1"``. The path is as it was sent.
    body : bytes
        Whole; chunked bodies are joined.
    raw_headers : list of (bytes, bytes)
        In the order sent.
    raw_trailers : list of (bytes, bytes)
        Fields sent after a chunked body, which are no headers: RFC 9110, section 6.5.
    """

    __slots__ = ("body", "keep_alive", "method", "path", "raw_headers", "raw_trailers", "version")

    def __init__(
        self,
        method: str,
        path: str,
        version: str,
        raw_headers: list[tuple[bytes, bytes]],
        body: bytes,
        keep_alive: bool,
        raw_trailers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.version = version
        self.raw_headers = raw_headers
        self.body = body
        self.keep_alive = keep_alive
        self.raw_trailers = raw_trailers or []

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


OWN_HEADERS = ("content-length", "transfer-encoding", "date", "connection")


class Response:
    """What a handler answers.

    Parameters
    ----------
    body : bytes or str
        A str is sent as UTF-8.
    status : int
        HTTP status code.
    content_type : str
        The media type.
    headers : mapping of str to str, optional
        Further headers; Content-Length, Date and Connection are the server's own.

    Raises
    ------
    ValueError
        A header with a line break, which would let one header become two; or one
        that is the server's own.
    TypeError
        A body that is neither bytes nor a str.
    """

    __slots__ = ("_close", "_fresh", "_fresh_until", "_keep", "body", "status")

    def __init__(
        self,
        body: bytes | str = b"",
        status: int = 200,
        content_type: str = "text/plain; charset=utf-8",
        headers: dict[str, str] | None = None,
    ) -> None:
        if not isinstance(body, str | bytes | bytearray | memoryview):
            raise TypeError(f"a response's body is bytes or a str, not {body!r:.80}")
        self.body = body.encode() if isinstance(body, str) else bytes(body)
        self.status = status
        lines = [
            f"HTTP/1.1 {status} {_reason(status)}",
            f"Content-Type: {content_type}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError(f"a header cannot hold a line break: {lines!r}")
        for name in headers or ():
            if name.lower() in OWN_HEADERS:
                raise ValueError(f"{name} is the server's own to send; leave it out of headers=")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n"
        # 1xx, 204 and 304 have no body and no length (RFC 9110, section 8.6).
        bodiless = status < 200 or status in (204, 304)
        length = b"" if bodiless else b"Content-Length: %d\r\n" % len(self.body)
        self.body = b"" if bodiless else self.body
        # Both forms end where the date goes, so that one join makes an answer.
        self._keep = head + length + b"Date: "
        self._close = head + length + b"Connection: close\r\nDate: "
        self._fresh = b""
        self._fresh_until = 0.0

    def wire(self) -> bytes:
        """The bytes of the usual answer: with a body, on a connection that goes on."""
        # One Response may answer many requests; its bytes change with the date only.
        now = time.time()
        if now >= self._fresh_until:
            # In this order: another server's thread may be sharing the response.
            self._fresh = self.made(False, False, False)
            self._fresh_until = int(now) + 1.0
        return self._fresh

    def made(self, head_only: bool, close: bool, old: bool) -> bytes:
        """The bytes of any answer.

        Parameters
        ----------
        head_only : bool
            Leave out the body: the answer to HEAD.
        close : bool
            Say that the connection ends.
        old : bool
            Answer an HTTP/1.0 peer that asked for keep-alive, which must be told.
        """
        head = self._close if close else self._keep
        keep = b"\r\nConnection: keep-alive" if old and not close else b""
        return b"%b%b%b\r\n\r\n%b" % (head, _date(), keep, b"" if head_only else self.body)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


_date_at = 0
_date_text = b""


def _date() -> bytes:
    """The Date header's value, made once a second."""
    global _date_at, _date_text
    now = int(time.time())
    if now != _date_at:
        _date_text = formatdate(now, usegmt=True).encode()
        _date_at = now
    return _date_text


Handler = Callable[[Request], Response | bytes | str]

GREETING = Response(b"Hello, world!")
"""What ``protocol="http"`` answers where no handler is given."""


class Http(Session):
    """HTTP/1.1 with keep-alive and pipelining.

    The parsing is httptools', the C parser of Node.js (llhttp).

    Parameters
    ----------
    handler : callable, optional
        ``handler(request)`` returns a :class:`Response`, bytes or a str. If it
        raises, the peer gets a 500 and the connection ends; the server goes on.
        Without one, every request is answered with a greeting.
    max_request_bytes : int
        More in the head is answered with 431, more in the body with 413.
    """

    def __init__(self, handler: Handler | None = None, max_request_bytes: int = 1 << 20) -> None:
        self._handler = handler
        self._limit = max_request_bytes
        self._parser: Any = _parser_class(self)
        self._feed = self._parser.feed_data
        self._answers: list[bytes] = []
        self._path = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._n_headers: int | None = None  # without trailers; known once there is a chunk
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._body_bytes = 0
        self._body_before = 0
        self._old = False
        self._weighs = False  # only pieces that could hold too large a head are weighed

    def receive(self, data: bytes) -> list[bytes]:
        """Parse; the handler runs for each request that is complete."""
        if self.closing:
            return []
        answers: list[bytes] = []
        self._answers = answers
        if len(data) + self._head_bytes > self._limit:
            self._weighs = True
        try:
            self._feed(data)
        except _upgrade:
            # The peer offers another protocol; we answer in this one and end.
            self.closing = True
        except _parse_error:
            # After "Connection: close" the parser objects to further bytes; we ignore them.
            if not self.closing:
                self._refuse(400)
        # What came in one piece with the end of an earlier request is weighed at its own end.
        if self._path and not self.closing and not answers:
            self._bound_head(len(data))
        return answers

    def _bound_head(self, size: int) -> None:
        """Count what is no body: the head, and trailers and chunk extensions as well."""
        if self._body_bytes > self._body_before:
            self._body_before = self._body_bytes
            self._head_bytes = 0
            return
        self._head_bytes += size
        if self._head_bytes > self._limit:
            self._refuse(431)

    def timed_out(self) -> list[bytes]:
        """408 in the middle of a request; silence between requests is no error."""
        if not self._path or self.closing:
            return []
        self._answers = []
        self._refuse(408)
        return self._answers

    def on_close(self) -> None:
        """Part from the parser, which holds this session and is held by it."""
        self._parser = self._feed = None

    # The parser calls these.

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; those that the server itself must know have these lengths."""
        self._headers.append((name, value))
        if len(name) in (6, 10, 14) and self._n_headers is None:
            self._heed(name.lower(), value)

    def _heed(self, name: bytes, value: bytes) -> None:
        if name == b"content-length" and value.isdigit() and int(value) > self._limit:
            self._refuse(413)
        elif name == b"expect" and not self.closing:
            self._head_bytes = 1  # so that the end of the request is not overlooked
            interim = b"HTTP/1.1 100 Continue\r\n\r\n"
            if self._answers:
                self._answers[-1] += interim  # sent with the answer that is before it
            else:
                self.interim = interim
        elif name == b"connection":
            self._old = self._parser.get_http_version() == "1.0"

    def on_chunk_header(self) -> None:
        """A chunk begins: what fields come from now on are trailers."""
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
        """A whole request: answer it."""
        if self.closing:
            return
        if self._weighs and self._head_size() > self._limit:
            self._refuse(431)
            return
        parser = self._parser
        if not parser.should_keep_alive():
            self.closing = True
        method = parser.get_method()
        if self._handler is None:
            response = GREETING
        else:
            response = self._handled(self._request(method, parser), self._handler)
        if self.closing or self._old or method == b"HEAD":
            answer = response.made(method == b"HEAD", self.closing, self._old)
        else:
            answer = response.wire()
        self._answers.append(answer)
        self._path = b""
        self._headers.clear()
        if self._head_bytes or self._body_bytes or self._old or self._n_headers:
            self._next()

    def _head_size(self) -> int:
        """Bytes of the head, but for the first line's method and version."""
        return len(self._path) + sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _next(self) -> None:
        """Forget what only some requests have."""
        self._head_bytes = self._body_bytes = self._body_before = 0
        self._body = []
        self._old = False
        self._n_headers = None
        self.interim = b""

    def _request(self, method: bytes, parser: Any) -> Request:
        return Request(
            method.decode("latin-1"),
            self._path.decode("latin-1"),
            parser.get_http_version(),
            self._headers[: self._n_headers],
            b"".join(self._body),
            not self.closing,
            [] if self._n_headers is None else self._headers[self._n_headers :],
        )

    def _handled(self, request: Request, handler: Handler) -> Response:
        """The handler's answer, or a 500 that ends the connection."""
        try:
            response = handler(request)
            return response if isinstance(response, Response) else Response(response)
        except BaseException:  # also sys.exit(), of which httptools would make a parse error
            self.fault = traceback.format_exc()
            self.closing = True
            return Response("Internal Server Error\n", 500)

    def _refuse(self, status: int) -> None:
        """Answer with an error and end, reading on so that the answer arrives."""
        self.closing = self.linger = True
        self._answers.append(Response(f"{_reason(status)}\n", status).made(False, True, False))


_parser_class: Any = None
_upgrade: Any = None
_parse_error: Any = None


def _import_parser() -> None:
    """Import httptools for the first HTTP server, and not before."""
    global _parser_class, _upgrade, _parse_error
    import httptools

    _parser_class = httptools.HttpRequestParser
    _upgrade, _parse_error = httptools.HttpParserUpgrade, httptools.HttpParserError
