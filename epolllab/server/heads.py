"""The rules of RFC 9110 and RFC 9112 for a request's head and for the lines of a chunked body.

The parser leaves some of them to its user, such as the Host header, and its versions differ
in others. Whether and why bytes are refused depends on the bytes alone: never on how they
were cut into pieces.
"""

import re
import socket
from typing import NamedTuple

__all__ = [
    "CHUNKED",
    "MAX_HEADERS",
    "MAX_REQUEST_LINE",
    "PLAIN",
    "TOKEN",
    "Framing",
    "Refused",
    "check_new_bytes",
    "chunk_size",
    "is_trailer",
    "read_head",
]

MAX_REQUEST_LINE = 8_192
"""Bytes of method, target and version together; a longer line gets a 414."""

MAX_HEADERS = 100
"""Header lines, and trailer lines; more get a 431."""

CHUNKED = -1
"""In place of a body's length."""

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD = rb"%b:[\t -~\x80-\xff]*\r\n" % TOKEN
_REQUEST_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/(\d\.\d)" % TOKEN)
_NO_HOST = re.compile(rb"https?://(?:[^/?#]*@)?(?::\d*)?(?:[/?#]|\Z)", re.IGNORECASE)
_FIELDS = re.compile(rb"(?:%b)*+\r\n" % _FIELD)
_TRAILER = re.compile(rb"(?:%b|\r\n)" % _FIELD)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?\r\n")
_STRAY = re.compile(rb"[^\t\r\n -~\x80-\xff]|\r[^\n]|[^\r]\n|\A\n")
_READ_HERE = re.compile(
    rb"\r\n(host|content-length|transfer-encoding|connection|expect|-*upgrade):([^\r]*)",
    re.IGNORECASE,
)
_HOST = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[0-9A-Za-z\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::\d{0,5})?"
)


class Refused(Exception):
    """A request that is not served.

    Attributes
    ----------
    status : int
        Of the response to it.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Framing(NamedTuple):
    """What a head says about the rest of its request."""

    length: int = 0  # of the body, or CHUNKED
    is_old: bool = False  # HTTP/1.0
    expects: bool = False  # the peer waits for 100 Continue before it sends the body
    offers: bool = False  # an upgrade to another protocol
    closes: bool = False  # HTTP/1.0 with "close", also beside "keep-alive"
    gaps: bool = False  # the list of codings has empty members, which the parser refuses


PLAIN = Framing()
"""An HTTP/1.1 request without a body."""


def check_new_bytes(head: bytearray, begin: int, limit: int) -> None:
    """Refuse a head as early as possible; it may be incomplete, and is new from `begin` on.

    The checks are ordered so that a head that arrives at once is refused with the same
    status as one that arrives byte by byte.
    """
    line_end = head.find(b"\r\n", 0, MAX_REQUEST_LINE + 2)
    if line_end >= 0 and begin < line_end + 2 <= limit:
        _check_request_line(head[:line_end])
    most = limit if line_end >= 0 else min(limit, MAX_REQUEST_LINE + 2)
    if line_end >= 0 and len(head) <= limit and head.endswith(b"\r\n\r\n"):
        return  # read_head() checks all of it
    if _STRAY.search(head, max(0, begin - 1), most):
        raise Refused(400)
    if len(head) > limit == most:
        raise Refused(431)
    if line_end < 0 and len(head) >= MAX_REQUEST_LINE + 2:
        raise Refused(414)


def _check_request_line(line: bytes | bytearray) -> None:
    match = _REQUEST_LINE.fullmatch(line)
    if not match:
        raise Refused(400)
    method, target, version = match.groups()
    if version not in (b"1.0", b"1.1"):
        # Only for versions that exist: the others are not HTTP.
        raise Refused(505 if version in (b"0.9", b"2.0", b"3.0") else 400)
    if method == b"CONNECT":
        raise Refused(501)  # this server is no proxy
    if (target == b"*" and method != b"OPTIONS") or _NO_HOST.match(target):
        raise Refused(400)


def read_head(head: bytes, limit: int) -> Framing:
    """Check a complete head and return how its body is framed; `limit` is the body's."""
    line_end = head.index(b"\r\n")
    if not _FIELDS.fullmatch(head, line_end + 2):
        raise Refused(400)
    if head.count(b"\r\n") - 2 > MAX_HEADERS:
        raise Refused(431)
    fields: dict[bytes, list[bytes]] = {}
    for name, value in _READ_HERE.findall(head):
        fields.setdefault(name.lower().lstrip(b"-"), []).append(value.strip(b" \t"))
    is_old = head[:line_end].endswith(b"0")
    hosts = fields.get(b"host", [])
    if len(hosts) > 1 or not (hosts or is_old) or not all(map(_is_host, hosts)):
        raise Refused(400)
    codings, lengths = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    gaps = codings is not None and b"" in _members(codings)
    if codings:
        length = _read_codings(codings, allowed=not is_old and not lengths)
    else:
        length = _read_length(lengths, limit) if lengths else 0
    expects = b"expect" in fields and _is_continue(fields[b"expect"])
    asks = expects and length != 0 and not is_old
    closes = is_old and b"close" in _members(fields.get(b"connection", []))
    return Framing(length, is_old, asks, b"upgrade" in fields, closes, gaps)


def _is_host(value: bytes) -> bool:
    match = _HOST.fullmatch(value)
    if not match or not match[1]:
        return bool(match)
    try:
        socket.inet_pton(socket.AF_INET6, match[1].decode())
    except OSError:
        return False
    return True


def _is_continue(values: list[bytes]) -> bool:
    """Whether Expect has its only known value; an empty list expects nothing."""
    expected = set(_members(values)) - {b""}
    if expected - {b"100-continue"}:
        raise Refused(417)
    return bool(expected)


def _members(values: list[bytes]) -> list[bytes]:
    """The members of a comma-separated list, in lower case."""
    return [member.strip(b" \t").lower() for member in b",".join(values).split(b",")]


def _read_codings(values: list[bytes], allowed: bool) -> int:
    codings = [coding for coding in _members(values) if coding]  # RFC 9110, section 5.6.1.2
    if not allowed or codings[-1:] != [b"chunked"] or codings.count(b"chunked") > 1:
        raise Refused(400)  # where the body ends is unknown or ambiguous
    if len(codings) > 1:
        raise Refused(501)
    return CHUNKED


def _read_length(values: list[bytes], limit: int) -> int:
    if len(values) > 1 or not values[0].isdigit() or len(values[0].lstrip(b"0")) > 19:
        raise Refused(400)
    if (length := int(values[0].lstrip(b"0") or b"0")) > limit:
        raise Refused(413)
    return length


def chunk_size(line: bytes) -> int:
    """The size in the line before a chunk."""
    match = _CHUNK_LINE.fullmatch(line)
    if not match:
        raise Refused(400)
    return int(match[1], 16)


def is_trailer(line: bytes) -> bool:
    """Whether the line is a field after a chunked body, and not the empty line at the end."""
    if not _TRAILER.fullmatch(line):
        raise Refused(400)
    return line != b"\r\n"
