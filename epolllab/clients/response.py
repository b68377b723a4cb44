"""Response parsers for clients: bytes in, whether the response is complete out; no I/O.

A response parser runs for every request of a load, so it extracts only what a client
needs: the status, the end of the response, and whether the server will close.
"""

import re
from typing import NamedTuple

__all__ = [
    "DEFECTS",
    "BadResponse",
    "EchoResponseParser",
    "HttpResponseParser",
    "make_response_parser",
]

MAX_HEAD_BYTES = 65_536
"""Limit for a head, and for a chunk size with the trailer section."""

MAX_BODY_BYTES = 1 << 50
"""A length or chunk size above this is taken for a mistake, rather than waited for."""

DEFECTS = (
    "not HTTP/1",
    "malformed status",
    "malformed header",
    "malformed Content-Length",
    "malformed Transfer-Encoding",
    "malformed chunk",
    "bytes after its end",
    "head too long",
    "not the bytes sent",
)
"""What can be wrong with a response; rows of requests have the index."""

_UNTIL_EOF = -1
_CHUNKED = -2

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) +([1-9]\d\d)(?: [^\0\r]*)?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*:([^\0\r]*)", re.DOTALL)
_FOLD = re.compile(rb"\r?\n[ \t]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?", re.DOTALL)


class BadResponse(ValueError):
    """The peer's bytes are not a valid response to the request.

    Attributes
    ----------
    defect : str
        One of :data:`DEFECTS`.
    """

    def __init__(self, defect: str, found: object) -> None:
        super().__init__(f"{defect}: {found!r:.80}")
        self.defect = defect


class _Head(NamedTuple):
    """What matters in the head of an HTTP response."""

    status: int
    length: int  # of the body; or _UNTIL_EOF or _CHUNKED
    closes: bool


class HttpResponseParser:
    """A response in HTTP/1.0 or 1.1: with a length, in chunks, or until the peer closes.

    It reads what common clients read as well: lines that end with LF only, folded headers,
    and empty lines between responses. Heads are parsed once and cached: a server under load
    sends the same head again and again, except for its Date once a second. Parsing every
    response with httptools took 18 % more CPU time per request on kept-alive connections.

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
        self._chunk_end = b""  # the line break after a chunk, which is the one after its size

    def feed(self, data: bytes) -> bool:
        """Parse received bytes; True when the response is complete; BadResponse if invalid."""
        left = self._left
        if left is None:
            return self._feed_head(self._buffer + data)
        if left == _UNTIL_EOF:
            return False
        if left == _CHUNKED:
            return self._feed_chunks(self._buffer + data)
        return self._feed_body(data, 0)

    def eof(self) -> bool:
        """Note that the peer closed, which completes only a response without a length."""
        self.closes = True
        return self._left == _UNTIL_EOF

    def _feed_head(self, data: bytes) -> bool:
        # The usual head, which has been seen before, needs no search for other line ends.
        end = data.find(b"\r\n\r\n") + 4
        known = self._cache.get(data[:end])
        if known and known.status >= 200:
            return self._begin_body(known, data, end)
        if data[:1] in (b"\r", b"\n"):
            data = data.lstrip(b"\r\n")
        while end := _end_of_head(data):
            text = data[:end]
            head = self._cache.get(text) or self._parse_new(text)
            if head.status >= 200 or head.status == 101:
                return self._begin_body(head, data, end)
            # An interim response such as 100 Continue; the final response follows.
            data = data[end:].lstrip(b"\r\n")
        if data[:7] != b"HTTP/1."[: len(data)]:
            raise BadResponse("not HTTP/1", data)
        line, line_end, _ = data.partition(b"\n")
        if line_end or b"\r" in line[:-1]:
            _parse_status(line)
        self._keep(data)
        return False

    def _begin_body(self, head: _Head, data: bytes, end: int) -> bool:
        self.status, length, self.closes = head
        if length == len(data) - end:
            self._left = 0
            return True
        self._left = length
        if length >= 0:
            return self._feed_body(data, end)
        self._buffer = b""
        return length == _CHUNKED and self._feed_chunks(data[end:])

    def _feed_body(self, data: bytes, at: int) -> bool:
        """Count the body's bytes from `at` on; ignore line breaks after its end."""
        left = (self._left or 0) - len(data) + at
        if left < 0 and data[left:].strip(b"\r\n"):
            raise BadResponse("bytes after its end", data[left:])
        self._left = left = max(left, 0)
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
            raise BadResponse("head too long", data)
        self._buffer = data

    def _feed_chunks(self, data: bytes) -> bool:
        """Skip whole chunks; keep the rest for the next feed."""
        at = min(self._skip, len(data))
        self._skip -= at
        while not self._skip:
            begin = at + len(self._chunk_end)
            if data[at:begin] != self._chunk_end[: len(data) - at]:
                raise BadResponse("malformed chunk", data[at:])
            line_end = data.find(b"\n", begin)
            if line_end < 0:
                break
            size = _chunk_size(data[begin:line_end])
            if size == 0:
                return self._feed_trailer(data, at, line_end + 1)
            self._chunk_end = b"\r\n" if data[line_end - 1] == 13 else b"\n"
            at = line_end + 1 + size
            self._skip = max(0, at - len(data))
        self._keep(data[at:])
        return False

    def _feed_trailer(self, data: bytes, last_chunk: int, at: int) -> bool:
        """Skip trailer fields, if any, and the empty line after them."""
        while (line_end := data.find(b"\n", at)) >= 0:
            if data[at:line_end] in (b"", b"\r"):
                self._left = 0
                return self._feed_body(data, line_end + 1)
            at = line_end + 1
        self._keep(data[last_chunk:])
        return False


def _end_of_head(data: bytes) -> int:
    """Where the empty line after a head ends; 0 if it has not arrived."""
    end = data.find(b"\n\r\n") + 3
    bare = data.find(b"\n\n", 0, end if end > 2 else len(data)) + 2
    if bare > 1:
        return bare
    return end if end > 2 else 0


def _parse_head(text: bytes) -> _Head:
    first, *lines = _FOLD.sub(b" ", text.rstrip(b"\r\n")).split(b"\n")
    is_old, status = _parse_status(first)
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        field = _FIELD.fullmatch(line.removesuffix(b"\r"))
        if not field:
            raise BadResponse("malformed header", line)
        members = [member.strip(b" \t").lower() for member in field[2].split(b",")]
        headers.setdefault(field[1].lower(), []).extend(members)
    options = headers.get(b"connection", [])
    closes = b"close" in options or (is_old and b"keep-alive" not in options) or status == 101
    if status in (204, 304) or status < 200:
        return _Head(status, 0, closes)
    codings, lengths = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if codings:
        if b"" in codings or b"chunked" in codings[:-1]:
            raise BadResponse("malformed Transfer-Encoding", codings)
        if codings[-1] == b"chunked":
            # A length as well, which does not count, makes the connection unsafe to reuse.
            return _Head(status, _CHUNKED, closes or lengths is not None)
        return _Head(status, _UNTIL_EOF, True)
    if lengths is None:
        return _Head(status, _UNTIL_EOF, True)
    digits = lengths[0]
    if set(lengths) != {digits} or not digits.isdigit() or len(digits) > 18:
        raise BadResponse("malformed Content-Length", lengths)
    if int(digits) > MAX_BODY_BYTES:
        raise BadResponse("malformed Content-Length", digits)
    return _Head(status, int(digits), closes)


def _parse_status(line: bytes) -> tuple[bool, int]:
    """Whether the version is 1.0, and the status."""
    if line[:9] not in (b"HTTP/1.0 ", b"HTTP/1.1 "):
        raise BadResponse("not HTTP/1", line)
    match = _STATUS_LINE.fullmatch(line.removesuffix(b"\r"))
    if not match:
        raise BadResponse("malformed status", line)
    return match[1] == b"0", int(match[2])


def _chunk_size(line: bytes) -> int:
    match = _CHUNK_SIZE.fullmatch(line.removesuffix(b"\r"))
    if not match or int(match[1], 16) > MAX_BODY_BYTES:
        raise BadResponse("malformed chunk", line)
    return int(match[1], 16)


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
            raise BadResponse("not the bytes sent", data)
        return end == len(self._expected)

    def eof(self) -> bool:
        """Note that the peer closed, which never completes an echo."""
        self.closes = True
        return False


def make_response_parser(protocol: str, message: bytes) -> HttpResponseParser | EchoResponseParser:
    """Return a parser for ``"http"``, or for ``"echo"`` of `message`."""
    return HttpResponseParser() if protocol == "http" else EchoResponseParser(message)
