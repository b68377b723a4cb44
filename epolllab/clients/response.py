"""Response parsers for clients: bytes in, whether the response is complete out; no I/O.

A response parser runs for every request of a load, so it extracts only what a client
needs: the status, the end of the response, and whether the server will close.
"""

from typing import NamedTuple

__all__ = ["BadResponse", "EchoResponseParser", "HttpResponseParser", "make_response_parser"]

MAX_HEAD_BYTES = 65_536
"""Limit for a head, and for a chunk size with the trailer section."""

_UNTIL_EOF = -1
_CHUNKED = -2


class BadResponse(ValueError):
    """The peer's bytes are not a valid response to the request."""


class _Head(NamedTuple):
    """What matters in the head of an HTTP response."""

    status: int
    length: int  # of the body; or _UNTIL_EOF or _CHUNKED
    closes: bool


class HttpResponseParser:
    """A response in HTTP/1.0 or 1.1: with a length, in chunks, or until the peer closes.

    Heads are parsed once and cached: a server under load sends the same head again and
    again, except for its Date once a second. Parsing every response with httptools took
    18 % more CPU time per request on kept-alive connections.

    Attributes
    ----------
    status : int
        The HTTP status; 0 if there is none yet.
    closes : bool
        The server closes the connection after this response.
    """

    _cache: dict[bytes, _Head] = {}  # noqa: RUF012 - shared by all parsers on purpose

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Reset for the response to the next request."""
        self.status = 0
        self.closes = False
        self._buffer = b""  # an incomplete head, chunk size or trailer
        self._left: int | None = None  # of the body; None before the head is complete
        self._skip = 0  # bytes of the current chunk still to come
        self._chunk_end = b""  # before a chunk's size: the line break after the last chunk

    def feed(self, data: bytes) -> bool:
        """Parse received bytes; True when the response is complete; BadResponse if invalid."""
        left = self._left
        if left is None:
            return self._feed_head(self._buffer + data)
        if left == _UNTIL_EOF:
            return False
        if left == _CHUNKED:
            return self._feed_chunks(self._buffer + data)
        return self._count_down(left - len(data))

    def eof(self) -> bool:
        """Note that the peer closed, which completes only a response without a length."""
        self.closes = True
        return self._left == _UNTIL_EOF

    def _feed_head(self, data: bytes) -> bool:
        end = data.find(b"\r\n\r\n") + 4
        while end != 3:
            text = data[:end]
            head = self._cache.get(text) or self._parse_new(text)
            if head.status >= 200 or head.status == 101:
                return self._begin_body(head, data, end)
            # An interim response such as 100 Continue; the final response follows.
            data = data[end:]
            end = data.find(b"\r\n\r\n") + 4
        if data[:5] != b"HTTP/"[: len(data)]:
            raise BadResponse(f"not HTTP: the response begins with {data[:20]!r}")
        self._keep(data)
        return False

    def _begin_body(self, head: _Head, data: bytes, end: int) -> bool:
        self.status, length, self.closes = head
        if length >= 0:
            return self._count_down(length - len(data) + end)
        self._left = length
        self._buffer = b""
        return length == _CHUNKED and self._feed_chunks(data[end:])

    def _count_down(self, left: int) -> bool:
        if left < 0:
            raise BadResponse(f"{-left} bytes after the end of the response")
        self._left = left
        return left == 0

    def _parse_new(self, text: bytes) -> _Head:
        head = _parse_head(text)
        if len(self._cache) >= 64:
            self._cache.clear()
        self._cache[text] = head
        return head

    def _keep(self, data: bytes) -> None:
        """Keep an incomplete head, chunk size or trailer section for the next feed."""
        if len(data) > MAX_HEAD_BYTES:
            raise BadResponse(f"{len(data)} bytes without the end of a head, size or trailer")
        self._buffer = data

    def _feed_chunks(self, data: bytes) -> bool:
        """Skip whole chunks; keep the rest for the next feed."""
        at = min(self._skip, len(data))
        self._skip -= at
        while not self._skip:
            begin = at + len(self._chunk_end)
            if data[at:begin] != self._chunk_end[: len(data) - at]:
                raise BadResponse("a chunk is longer than its size")
            line_end = data.find(b"\r\n", begin)
            if line_end < 0:
                break
            size = _chunk_size(data[begin:line_end])
            if size == 0:
                return self._feed_trailer(data, at, line_end + 2)
            self._chunk_end = b"\r\n"
            at = line_end + 2 + size
            self._skip = max(0, at - len(data))
        self._keep(data[at:])
        return False

    def _feed_trailer(self, data: bytes, last_chunk: int, at: int) -> bool:
        """Skip trailer fields, if any, and the empty line after them."""
        while (line_end := data.find(b"\r\n", at)) >= 0:
            if line_end == at:
                return self._count_down(at + 2 - len(data))
            at = line_end + 2
        self._keep(data[last_chunk:])
        return False


def _parse_head(text: bytes) -> _Head:
    first, *lines = text[:-4].split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
        raise BadResponse(f"not HTTP/1: the response begins with {first[:40]!r}")
    status = int(rest[:3])
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise BadResponse(f"a header line without a colon: {line[:40]!r}")
        headers[name.lower()] = value.strip()
    options = headers.get(b"connection", b"").lower()
    closes = b"close" in options or (version == b"HTTP/1.0" and b"keep-alive" not in options)
    if status in (204, 304) or status < 200:
        return _Head(status, 0, closes)
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        return _Head(status, _CHUNKED, closes)
    length = headers.get(b"content-length")
    if length is None:
        return _Head(status, _UNTIL_EOF, True)
    if not length.isdigit() or len(length) > 18:
        raise BadResponse(f"Content-Length is {length[:20]!r}")
    return _Head(status, int(length), closes)


def _chunk_size(line: bytes) -> int:
    try:
        size = int(line.partition(b";")[0], 16)
    except ValueError:
        size = -1
    if size < 0:
        raise BadResponse(f"a chunk's size is {line[:20]!r}")
    return size


class EchoResponseParser:
    """The echo of the bytes `expected`, with the methods of :class:`HttpResponseParser`."""

    status = 0

    def __init__(self, expected: bytes) -> None:
        self.closes = False
        self._expected = expected
        self._n_bytes = 0

    def begin(self) -> None:
        """Expect the first byte again."""
        self._n_bytes = 0

    def feed(self, data: bytes) -> bool:
        """Compare with what was sent; True when all of it has been received."""
        begin = self._n_bytes
        self._n_bytes = end = begin + len(data)
        if data != self._expected[begin:end]:
            raise BadResponse(f"bytes {begin} to {end} differ from those that were sent")
        return end == len(self._expected)

    def eof(self) -> bool:
        """Note that the peer closed, which never completes an echo."""
        self.closes = True
        return False


def make_response_parser(protocol: str, message: bytes) -> HttpResponseParser | EchoResponseParser:
    """Return a parser for ``"http"``, or for ``"echo"`` of `message`."""
    return HttpResponseParser() if protocol == "http" else EchoResponseParser(message)
