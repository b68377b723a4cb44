"""The HTTP/1.1 session, without a socket: it turns requests into responses.

httptools does the parsing: the C parser of Node.js (llhttp).
"""

import re
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from epolllab.server.heads import (
    CHUNKED,
    MAX_HEADERS,
    PLAIN,
    Refused,
    check_new_bytes,
    chunk_size,
    is_trailer,
    read_head,
)
from epolllab.server.messages import Request, Response, reason
from epolllab.server.session import MAX_WAITING, Session
from epolllab.server.targets import Targets, row_code

__all__ = ["Handler", "Http"]


Handler = Callable[[Request], Response | bytes | str]

HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_OFFER = re.compile(rb"\r\n(-*upgrade):", re.IGNORECASE)
_HIDDEN = re.compile(rb"-+upgrade", re.IGNORECASE)
"""An Upgrade header, and one under the name that hides it from the parser. A name that looks
hidden is hidden too, so that the handler gets every name as it was sent."""

_CODINGS = re.compile(rb"\r\ntransfer-encoding:[^\r]*", re.IGNORECASE)

GREETING = Response(b"Hello, world!")
"""The response of ``protocol="http"`` without a handler."""

INTERNAL_ERROR = Response("Internal Server Error\n", 500)

_httptools: Any = None


def import_parser() -> None:
    """Import httptools; called when an HTTP server starts, since no other server needs it."""
    global _httptools
    _httptools = import_module("httptools")


MAX_KNOWN, MAX_KNOWN_BYTES = 64, 2_048
"""Heads in ``Targets.known``: those of requests without a body that were accepted before. Most
requests of a connection have the same bytes, which go to the parser without further checks.

A head's first code is that of the row of the usual response, with its body, on a connection
that stays open; 0 where the response is another one. The second code lacks the status."""

_NEW = (0, 0)


class _Completions:
    """What the parser calls where no handler needs the parts of a request."""

    __slots__ = ("on_message_complete",)

    def __init__(self, session: "Http") -> None:
        self.on_message_complete = session.on_message_complete


class Http(Session):
    """HTTP/1.1 with keep-alive and pipelining.

    The parser gets a request in pieces that end where its head, a chunk or its body ends,
    each after the checks of ``heads``. Offers to upgrade to another protocol are ignored.

    Parameters
    ----------
    handler : callable, optional
        ``handler(request)`` returns a :class:`Response`, bytes or a str. If it raises,
        the peer gets a 500 and the connection is closed; the server continues. Without
        a handler, the response to every request is a greeting.
    max_request_bytes : int
        A longer head gets a 431, a longer body a 413.
    targets : Targets, optional
        Numbers the requests' targets; shared by the sessions of a server.
    """

    # Class attributes rather than instance attributes: most requests do not change them.
    _framing = PLAIN
    _left = 0  # bytes of the body still to come, or CHUNKED
    _expects = False  # the head was complete in this call, and asks for a 100 Continue
    _is_plain = True  # what the last head was
    _is_known = False  # the response is made without the parser's help
    _code = row_code(0)  # of the request's row, without the status
    # Of a chunked body:
    _body_bytes = 0
    _in_chunk = 0  # bytes of the chunk still to come, with its line break
    _line_bytes = 0  # since the last chunk
    _n_trailers = 0
    _n_headers: int | None = None  # known after the last chunk; trailers follow

    def __init__(
        self,
        handler: Handler | None = None,
        max_request_bytes: int = 1 << 20,
        targets: Targets | None = None,
    ) -> None:
        self._handler = handler
        self._limit = max_request_bytes
        self._targets = targets or Targets()
        self._known = self._targets.known
        self._parser: Any = _httptools.HttpRequestParser(self if handler else _Completions(self))
        self._feed = self._parser.feed_data
        self._responses: list[bytes] = []
        self._path = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head = bytearray()  # of a request that is not complete
        self._line = bytearray()  # an incomplete line between chunks
        self._body: list[bytes] = []

    def receive(self, data: bytes) -> list[bytes]:
        """Parse; the handler runs for each complete request."""
        if self.closing:
            return []
        try:
            usual, code = _NEW if self.in_request else self._known.get(data, _NEW)
            if usual and self._handler is None:
                self._is_known = True
                self._feed(data)
                self._is_known = False
                self.handle_code = usual
                return [GREETING.wire()]
            if code:
                self._code = code
                self._feed(data)
            else:
                self._receive_new(data)
        except Refused as refused:
            self._refuse(refused.status)
        except _httptools.HttpParserCallbackError:
            self._fail()
        except _httptools.HttpParserInvalidMethodError:
            self._refuse(501)
        except _httptools.HttpParserError:
            self._refuse(400)
        responses, self._responses = self._responses, []
        return responses

    def _receive_new(self, data: bytes) -> None:
        """Check and parse; stop when the responses have more than MAX_WAITING bytes."""
        responses = self._responses
        self.handle_codes = codes = list[int]()
        at = size = n_before = 0
        while at < len(data) and not self.closing and size <= MAX_WAITING:
            n_before = len(responses)
            if self._left == CHUNKED:
                at = self._receive_chunked(data, at)
            elif self._left:
                at = self._receive_body(data, at)
            else:
                at = self._receive_head(data, at)
            if len(responses) > n_before:
                size += len(responses[-1])
                codes.append(self.handle_code)
        self.unhandled = b"" if self.closing else data[at:]
        # A blank line before a request counts as its beginning.
        self.in_request = not self.closing and len(responses) == n_before
        if self._expects:
            self._continue()

    def _receive_head(self, data: bytes, at: int) -> int:
        """Take bytes of a head, and parse it when it is complete; return where they end."""
        head = self._head
        if head == b"\r" and data[at : at + 1] == b"\n":
            head.clear()  # a blank line that was cut in two
            at += 1
        begin = len(head)
        if begin:
            head += data[at:]
            end = head.find(HEAD_END, max(0, begin - 3)) + 4
            del head[end if end > 3 else len(head) :]
        else:
            while data.startswith(b"\r\n", at):
                at += 2
            end = data.find(HEAD_END, at) + 4
            new = data[at : end if end > 3 else len(data)]
            if new in self._known:
                self._code = self._known[new][1]
                self._feed(new)
                return end
            self._code = row_code(0)
            head += new
        stop = at + len(head) - begin
        check_new_bytes(head, begin, self._limit)
        if end > 3:
            self._parse_head(bytes(head))
        return stop

    def _parse_head(self, head: bytes) -> None:
        self._code = self._targets.code_of(head)
        self._framing = framing = read_head(head, self._limit)
        self._is_plain = framing == PLAIN
        self._left, self._expects = framing.length, framing.expects
        if framing.offers:
            # The parser stops where another protocol would begin, so it must not see the offer.
            head = _OFFER.sub(rb"\r\n-\1:", head)
        if framing.gaps:
            head = _CODINGS.sub(b"", head[:-2]) + b"Transfer-Encoding: chunked\r\n\r\n"
        self._feed(head)
        if self._is_plain and len(head) <= MAX_KNOWN_BYTES:
            known = self._known
            if len(known) >= MAX_KNOWN:
                known.clear()
            is_usual = not (self.closing or head.startswith(b"HEAD "))
            usual = self._code | GREETING.status << 8
            known[head] = (usual if is_usual else 0, self._code)

    def _continue(self) -> None:
        """Ask for the body, unless it has begun to arrive."""
        self._expects = False
        if self._body or not self._left:
            return
        if self._responses:
            self._responses[-1] += CONTINUE  # sent together with the response before it
        else:
            self.interim = CONTINUE

    def _receive_body(self, data: bytes, at: int) -> int:
        """Take bytes of a body of known length; return where they end."""
        stop = min(len(data), at + self._left)
        self._left -= stop - at
        self._feed(data[at:stop])
        return stop

    def _receive_chunked(self, data: bytes, at: int) -> int:
        """Take bytes of a chunk, or a line between chunks; return where they end."""
        if self._in_chunk:
            stop = min(len(data), at + self._in_chunk)
            self._in_chunk -= stop - at
            self._feed(data[at:stop])
            return stop
        stop = data.find(b"\n", at) + 1 or len(data)
        self._line += data[at:stop]
        self._line_bytes += stop - at
        if self._line_bytes > self._limit:
            raise Refused(431)
        if self._line.endswith(b"\n"):
            line = bytes(self._line)
            self._line.clear()
            self._read_line(line)
            self._feed(line)
        return stop

    def _read_line(self, line: bytes) -> None:
        """Read the size of a chunk, or count a trailer."""
        if self._n_headers is not None:
            self._n_trailers += is_trailer(line)
            if self._n_trailers > MAX_HEADERS:
                raise Refused(431)
        elif size := chunk_size(line):
            self._body_bytes += size
            if self._body_bytes > self._limit:
                raise Refused(413)
            self._in_chunk = size + len(b"\r\n")
            self._line_bytes = 0
        else:
            self._n_headers = len(self._headers)

    def timed_out(self) -> list[bytes]:
        """Return a 408 in the middle of a request, and nothing between requests."""
        if not self.in_request:
            return []
        self._responses = []
        self._refuse(408)
        return self._responses

    def on_close(self) -> None:
        """Drop the parser: it and this session refer to each other."""
        self._parser = self._feed = None

    # The parser calls these.

    def on_url(self, url: bytes) -> None:
        """The request's target."""
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer."""
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Respond to a complete request."""
        if self._is_known:
            return
        parser = self._parser
        if not parser.should_keep_alive() or self._framing.closes:
            self.closing = True
        method = parser.get_method()
        handler = self._handler
        response = self._call_handler(handler, method) if handler else GREETING
        is_old = self._framing.is_old
        if self.closing or is_old or method == b"HEAD":
            encoded = response.encode(
                head_only=method == b"HEAD", close=self.closing, confirm=is_old
            )
        else:
            encoded = response.wire()
        self._responses.append(encoded)
        self.handle_code = self._code | response.status << 8
        self._path = b""
        self._headers.clear()
        if self._head:
            self._reset()

    def _reset(self) -> None:
        """Clear what a request that was not known before has set."""
        self._head.clear()
        if not self._is_plain:
            self._framing, self._left = PLAIN, 0
            self._body = []
            self._body_bytes = self._line_bytes = self._n_trailers = 0
            self._n_headers = None
            self.interim = b""

    def _call_handler(self, handler: Handler, method: bytes) -> Response:
        """Return the handler's response; if it raises, a 500 that closes the connection."""
        n_headers = len(self._headers) if self._n_headers is None else self._n_headers
        headers, trailers = self._headers[:n_headers], self._headers[n_headers:]
        if self._framing.offers:
            headers = [(n[1:] if _HIDDEN.fullmatch(n) else n, value) for n, value in headers]
        request = Request(
            method.decode("latin-1"),
            self._path.decode("latin-1"),
            self._parser.get_http_version(),
            headers,
            b"".join(self._body),
            not self.closing,
            trailers,
        )
        try:
            response = handler(request)
            return response if isinstance(response, Response) else Response(response)
        except BaseException:  # sys.exit() too, which httptools would report as a parser error
            self.fault = traceback.format_exc()
            self.closing = True
            return INTERNAL_ERROR

    def _refuse(self, status: int) -> None:
        """Respond with an error and close, but read on, so that the response arrives."""
        self.closing = self.linger = True
        self.in_request = False
        response = Response(f"{reason(status)}\n", status)
        self.handle_code = self._code | status << 8
        self.handle_codes = [*self.handle_codes, self.handle_code]
        head_only = self._head.startswith(b"HEAD ")
        self._responses.append(response.encode(head_only=head_only, close=True))

    def _fail(self) -> None:
        """Respond to an exception that was raised while the parser called this session."""
        self.fault = traceback.format_exc()
        self._refuse(500)
