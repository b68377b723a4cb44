"""When an answer is complete: framing for clients, without a socket.

One job: be fed what was read, and say when the answer to one request is whole. It
looks at as little as it can, since it runs for every request of a load: the length of
the answer, its status, and whether the server means to end the connection. It knows
no socket and no time.
"""

from typing import NamedTuple, Protocol

__all__ = [
    "Answer",
    "BadResponse",
    "EchoResponseParser",
    "HttpResponseParser",
    "make_response_parser",
]


MAX_HEAD_BYTES = 65_536

_UNTIL_END = -1
_CHUNKED = -2


class BadResponse(ValueError):
    """The peer's bytes are no answer to what was sent; the message says why."""


class Answer(Protocol):
    """What a client needs to know of the answer that is coming in.

    Attributes
    ----------
    status : int
        The HTTP status; 0 where there is none.
    closes : bool
        The server ends the connection after this answer.
    """

    status: int
    closes: bool

    def begin(self) -> None:
        """Forget the answer before; a request is sent now."""

    def feed(self, data: bytes) -> bool:
        """Take what was read; True when the answer is complete. BadResponse if it is none."""

    def end(self) -> bool:
        """Take note of end-of-file; True if that is what completes the answer."""


class _Head(NamedTuple):
    """What matters in the head of an HTTP answer."""

    status: int
    length: int  # of the body; or one of the two codes above
    closes: bool


class HttpResponseParser:
    """An answer in HTTP/1.0 or 1.1: by length, in chunks, or until the end.

    Heads are parsed once and remembered: a server under load sends the same head
    over and over, but for its Date once a second.
    """

    _known: dict[bytes, _Head] = {}  # noqa: RUF012 - shared by all answers on purpose

    def __init__(self) -> None:
        self.status = 0
        self.closes = False
        self._begun = b""  # a head that is not complete, or chunks not yet looked at
        self._left: int | None = None  # of the body; None before the head is complete
        self._skip = 0  # of the present chunk, still to come

    def begin(self) -> None:
        """Forget the answer before."""
        self.status = 0
        self.closes = False
        self._begun = b""
        self._left = None
        self._skip = 0

    def feed(self, data: bytes) -> bool:
        """Count the body down, or find the end of the head first."""
        left = self._left
        if left is None:
            return self._feed_head(self._begun + data if self._begun else data)
        if left == _UNTIL_END:
            return False
        if left == _CHUNKED:
            return self._feed_chunks(self._begun + data)
        return self._count_down(left - len(data))

    def end(self) -> bool:
        """End-of-file completes an answer of unknown length only."""
        self.closes = True
        return self._left == _UNTIL_END

    def _feed_head(self, data: bytes) -> bool:
        end = data.find(b"\r\n\r\n") + 4
        while end != 3:
            head = data[:end]
            known = self._known.get(head) or self._learn(head)
            if known.status >= 200 or known.status == 101:
                return self._begin_body(known, data, end)
            # An interim answer, such as 100 Continue; the answer proper follows.
            data = data[end:]
            end = data.find(b"\r\n\r\n") + 4
        self._require_begin_of_head(data)
        self._begun = data
        return False

    def _begin_body(self, head: _Head, data: bytes, end: int) -> bool:
        self.status, length, self.closes = head
        if length >= 0:
            return self._count_down(length - len(data) + end)
        self._left = length
        self._begun = b""
        return length == _CHUNKED and self._feed_chunks(data[end:])

    def _count_down(self, left: int) -> bool:
        if left < 0:
            raise BadResponse(f"{-left} bytes more than the answer's Content-Length")
        self._left = left
        return left == 0

    def _require_begin_of_head(self, data: bytes) -> None:
        if data[:5] != b"HTTP/"[: len(data)]:
            raise BadResponse(f"not HTTP: the answer begins with {data[:20]!r}")
        if len(data) > MAX_HEAD_BYTES:
            raise BadResponse(f"{len(data)} bytes without an end of the head")

    def _learn(self, head: bytes) -> _Head:
        known = _parse_head(head)
        if len(self._known) >= 64:
            self._known.clear()
        self._known[head] = known
        return known

    def _feed_chunks(self, data: bytes) -> bool:
        """Step over whole chunks; keep the rest for next time."""
        at = min(self._skip, len(data))
        self._skip -= at
        while at < len(data):
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                _require_short(data, at)
                break
            size = _chunk_size(data[at:line_end])
            if size == 0:
                return self._feed_trailer(data, at, line_end + 2)
            at = line_end + 2 + size + 2
            if at > len(data):
                self._skip = at - len(data)
                break
            if data[at - 2 : at] != b"\r\n":
                raise BadResponse("a chunk is longer than its size says")
        self._begun = data[at:]
        return False

    def _feed_trailer(self, data: bytes, last_chunk: int, begin: int) -> bool:
        """Trailer lines, if any, and the blank line after them."""
        at = begin
        while (line_end := data.find(b"\r\n", at)) >= 0:
            if line_end == at:
                return self._count_down(at + 2 - len(data))
            at = line_end + 2
        _require_short(data, last_chunk)
        self._begun = data[last_chunk:]
        return False


def _parse_head(head: bytes) -> _Head:
    first, *lines = head[:-4].split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
        raise BadResponse(f"not HTTP/1: the answer begins with {first[:40]!r}")
    status = int(rest[:3])
    headers = _headers(lines)
    options = headers.get(b"connection", b"").lower()
    closes = b"close" in options or (version == b"HTTP/1.0" and b"keep-alive" not in options)
    if status in (204, 304) or status < 200:
        return _Head(status, 0, closes)
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        return _Head(status, _CHUNKED, closes)
    if b"content-length" in headers:
        return _Head(status, _whole(headers[b"content-length"]), closes)
    return _Head(status, _UNTIL_END, True)


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise BadResponse(f"a header line without a colon: {line[:40]!r}")
        headers[name.lower()] = value.strip()
    return headers


def _whole(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise BadResponse(f"Content-Length is {text[:20]!r}")
    return int(text)


def _require_short(data: bytes, begin: int) -> None:
    """Refuse to keep what should be one short line, or a few."""
    if len(data) - begin > MAX_HEAD_BYTES:
        raise BadResponse(f"{len(data) - begin} bytes without the end of a chunk's size or trailer")


def _chunk_size(line: bytes) -> int:
    try:
        size = int(line.partition(b";")[0], 16)
    except ValueError:
        size = -1
    if size < 0:
        raise BadResponse(f"a chunk's size is {line[:20]!r}")
    return size


class EchoResponseParser:
    """The bytes that were sent, come back.

    Parameters
    ----------
    expected : bytes
        What is sent each time.
    """

    status = 0

    def __init__(self, expected: bytes) -> None:
        self.closes = False
        self._expected = expected
        self._n_bytes = 0

    def begin(self) -> None:
        """Expect the first byte again."""
        self._n_bytes = 0

    def feed(self, data: bytes) -> bool:
        """Compare with what was sent, as far as it has come."""
        begin = self._n_bytes
        self._n_bytes = end = begin + len(data)
        if data != self._expected[begin:end]:
            raise BadResponse(f"bytes {begin} to {end} are not those that were sent")
        return end == len(self._expected)

    def end(self) -> bool:
        """End-of-file never completes an echo."""
        self.closes = True
        return False


def make_response_parser(protocol: str, message: bytes) -> Answer:
    """Make the reader of answers for ``"http"`` or ``"echo"``, whose request is `message`."""
    return HttpResponseParser() if protocol == "http" else EchoResponseParser(message)
