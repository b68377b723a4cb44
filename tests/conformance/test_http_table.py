"""RFC 9110 and RFC 9112 as a table, over every poller, trigger and life cycle.

A server whose recv takes one byte, or a few, gets each request in pieces that do not depend
on timing.
"""

import re
from typing import Any, NamedTuple

import pytest

import epolllab
from epolllab.server import Request
from epolllab.server.heads import MAX_HEADERS, MAX_REQUEST_LINE
from tests.server.helpers import EVERY_WAY, options_of
from tests.wire import ask

LIMIT = 9_000
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HOST = b"Host: a\r\n"


class Row(NamedTuple):
    """A request, the final statuses of the responses, and whether the connection stays open."""

    request: bytes
    statuses: tuple[int, ...]
    kept: bool


def served(request: bytes, count: int = 1) -> Row:
    """A request that is answered with 200 on a connection that stays open."""
    return Row(request, (200,) * count, True)


def refused(request: bytes, status: int = 400) -> Row:
    """A request that is answered with an error, which ends the connection."""
    return Row(request, (status,), False)


def get(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes = HOST) -> bytes:
    """A head with further lines."""
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(*lines: bytes, body: bytes = b"", start: bytes = b"POST / HTTP/1.1") -> bytes:
    """A request with a body."""
    return get(*lines, start=start) + body


def chunked(body: bytes) -> bytes:
    """A request with a chunked body, which is sent as it is."""
    return post(b"Transfer-Encoding: chunked", body=body)


H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")
SMUGGLED = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

TABLE = {
    # The Host header: RFC 9112, section 3.2.
    "host": served(get()),
    "host, with a port": served(get(host=b"host:\texample.org:8080 \r\n")),
    "host, empty": served(get(host=b"Host:\r\n")),
    "host, IPv6": served(get(host=b"Host: [::1]:80\r\n")),
    "host, percent-encoded": served(get(host=b"Host: a%20b\r\n")),
    "host, missing": refused(get(host=b"")),
    "host, missing in 1.0": Row(b"GET / HTTP/1.0\r\n\r\n", (200,), False),
    "host, twice": refused(get(b"Host: a")),
    "host, twice with different values": refused(get(b"HOST: b")),
    "host, twice in 1.0": refused(get(b"Host: b", start=b"GET / HTTP/1.0")),
    "host, two names": refused(get(host=b"Host: a b\r\n")),
    "host, a URL": refused(get(host=b"Host: http://a/\r\n")),
    "host, with a user": refused(get(host=b"Host: u@a\r\n")),
    "host, a port that is no number": refused(get(host=b"Host: a:b\r\n")),
    "host, an open bracket": refused(get(host=b"Host: [::1\r\n")),
    "host, not IPv6": refused(get(host=b"Host: [1::2::3]\r\n")),
    "host, not percent-encoded": refused(get(host=b"Host: a%zz\r\n")),
    "host, not ASCII": refused(get(host=b"Host: \xe4\r\n")),
    "host, malformed in 1.0": refused(get(start=b"GET / HTTP/1.0", host=b"Host: a/b\r\n")),
    # The request line: RFC 9112, sections 2.3 and 3.
    "blank lines before": served(b"\r\n\r\n" + get()),
    "bare LF before": refused(b"\n" + get()),
    "bare CR before": refused(b"\r" + get()),
    "bare LF between": Row(get() + b"\n" + get(), (200, 400), False),
    "blank lines between": served(get() + b"\r\n\r\n" + chunked(b"0\r\n\r\n") + b"\r\n", 2),
    "absolute form": served(get(start=b"GET http://a/b?c HTTP/1.1")),
    "asterisk form": served(get(start=b"OPTIONS * HTTP/1.1")),
    "asterisk form of GET": refused(get(start=b"GET * HTTP/1.1")),
    "HTTP/2.0": refused(get(start=b"GET / HTTP/2.0"), 505),
    "HTTP/2 preface": refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9": refused(get(start=b"GET / HTTP/0.9"), 505),
    "HTTP/0.9 without a version": refused(b"GET /\r\n"),
    "HTTP/1.10": refused(get(start=b"GET / HTTP/1.10")),
    "HTTP/9.9": refused(get(start=b"GET / HTTP/9.9")),
    "RTSP": refused(get(start=b"OPTIONS * RTSP/1.0")),
    "ICE": refused(get(start=b"SOURCE / ICE/1.0")),
    "lower-case version": refused(get(start=b"GET / http/1.1")),
    "two spaces": refused(get(start=b"GET  / HTTP/1.1")),
    "a tab": refused(get(start=b"GET\t/ HTTP/1.1")),
    "a space in the target": refused(get(start=b"GET /a b HTTP/1.1")),
    "a space at the end": refused(get(start=b"GET / HTTP/1.1 ")),
    "no target": refused(get(start=b"GET HTTP/1.1")),
    "not ASCII": refused(get(start=b"GET /\xe4 HTTP/1.1")),
    "TLS": refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "CONNECT": refused(get(start=b"CONNECT a:80 HTTP/1.1"), 501),
    "unknown method": refused(get(start=b"BREW / HTTP/1.1"), 501),
    "unknown HEAD": Row(get(start=b"HEAD / HTTP/2.0"), (505,), False),
    # Expect: RFC 9110, section 10.1.1.
    "expect": served(post(b"Expect: 100-Continue", b"Content-Length: 1", body=b"a")),
    "expect, without a body": served(get(b"Expect: 100-continue")),
    "expect, something else": refused(post(b"Expect: 200-ok", b"Content-Length: 1"), 417),
    "expect, a list": refused(get(b"Expect: 100-continue, b"), 417),
    "expect, twice": refused(get(b"Expect: 100-continue", b"Expect: b"), 417),
    # Framing: RFC 9112, sections 6 and 7, and attacks on it.
    "length": served(post(b"Content-Length: 0003 ", body=b"abc")),
    "length of 0": served(post(b"Content-Length: 0")),
    "length of a GET": served(get(b"Content-Length: 3") + b"abc"),
    "length, negative": refused(post(b"Content-Length: -1")),
    "length, plus": refused(post(b"Content-Length: +3", body=b"abc")),
    "length, hexadecimal": refused(post(b"Content-Length: 0x3", body=b"abc")),
    "length, underscore": refused(post(b"Content-Length: 1_0", body=b"abc")),
    "length, inner space": refused(post(b"Content-Length: 1 0", body=b"abc")),
    "length, empty": refused(post(b"Content-Length:", body=b"abc")),
    "length, overflow": refused(post(b"Content-Length: 18446744073709551619", body=b"abc")),
    "length, not ASCII": refused(post(b"Content-Length: \xb2", body=b"abc")),
    "length, twice": refused(post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc")),
    "length, two": refused(post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd")),
    "length, a list": refused(post(b"Content-Length: 3, 3", body=b"abc")),
    "length, too large": refused(post(b"Content-Length: %d" % (LIMIT + 1)), 413),
    "chunked": served(chunked(b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n")),
    "chunked, in capitals": served(post(b"TRANSFER-ENCODING: CHUNKED", body=b"0\r\n\r\n")),
    "chunked and a length": refused(
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=SMUGGLED)
    ),
    "a length and chunked": refused(
        post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=SMUGGLED)
    ),
    "chunked in 1.0": refused(
        post(b"Transfer-Encoding: chunked", body=SMUGGLED, start=b"POST / HTTP/1.0")
    ),
    "chunked, chunked": refused(post(b"Transfer-Encoding: chunked, chunked", body=SMUGGLED)),
    "chunked, then chunked": refused(
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=SMUGGLED)
    ),
    "identity": refused(post(b"Transfer-Encoding: identity", body=SMUGGLED)),
    "chunked, identity": refused(post(b"Transfer-Encoding: chunked, identity", body=SMUGGLED)),
    "xchunked": refused(post(b"Transfer-Encoding: xchunked", body=SMUGGLED)),
    "no coding": refused(post(b"Transfer-Encoding:", body=SMUGGLED)),
    "gzip": refused(post(b"Transfer-Encoding: gzip", body=SMUGGLED)),
    "gzip, chunked": refused(post(b"Transfer-Encoding: gzip, chunked", body=SMUGGLED), 501),
    "chunked with a vertical tab": refused(post(b"Transfer-Encoding:\x0bchunked", body=SMUGGLED)),
    "chunk, 0x": refused(chunked(b"0x3\r\nabc\r\n0\r\n\r\n")),
    "chunk, plus": refused(chunked(b"+3\r\nabc\r\n0\r\n\r\n")),
    "chunk, negative": refused(chunked(b"-3\r\nabc\r\n0\r\n\r\n")),
    "chunk, space before": refused(chunked(b" 3\r\nabc\r\n0\r\n\r\n")),
    "chunk, underscore": refused(chunked(b"1_0\r\nabc\r\n0\r\n\r\n")),
    "chunk, no size": refused(chunked(b"\r\nabc\r\n0\r\n\r\n")),
    "chunk, overflow": refused(chunked(b"10000000000000003\r\nabc\r\n0\r\n\r\n")),
    "chunk, too large": refused(chunked(b"fffff\r\n"), 413),
    "chunk, bare LF": refused(chunked(b"3\nabc\r\n0\r\n\r\n")),
    "chunk, bare LF in an extension": refused(chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n")),
    "chunk, longer than its size": refused(chunked(b"3\r\nabcd\r\n0\r\n\r\n")),
    "chunk, bare LF at its end": refused(chunked(b"3\r\nabc\n0\r\n\r\n")),
    "trailer, folded": refused(chunked(b"0\r\nA: b\r\n c\r\n\r\n")),
    "trailer, space before the colon": refused(chunked(b"0\r\nA : b\r\n\r\n")),
    # Header lines: RFC 9112, sections 2.2 and 5.
    "folded": refused(get(b"A: b", b" c")),
    "folded first": refused(b"GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n"),
    "space before the colon": refused(post(b"Content-Length : 3", body=b"abc")),
    "space in a name": refused(get(b"A B: c")),
    "no name": refused(get(b": a")),
    "no colon": refused(get(b"nonsense")),
    "bare LF": refused(b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare LF after a header": refused(b"GET / HTTP/1.1\r\nHost: a\nA: b\r\n\r\n"),
    "bare LF at the end": refused(b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    "bare CR": refused(get(b"A: b\rContent-Length: 5")),
    "two CR": refused(get(b"A: b\r")),
    "NUL in a value": refused(get(b"A: b\0c")),
    "NUL in a name": refused(get(b"A\0: b")),
    "DEL in a value": refused(get(b"A: b\x7f")),
    "Latin-1 in a value": served(get(b"A: \xe4\t b")),
    # Limits.
    "fields": served(get(*[b"A: b"] * (MAX_HEADERS - 1))),
    "fields, one more": refused(get(*[b"A: b"] * MAX_HEADERS), 431),
    "long request line": refused(
        get(start=b"GET /%b HTTP/1.1" % (b"a" * (MAX_REQUEST_LINE - 13))), 414
    ),
    "long head": refused(get(b"A: " + b"b" * LIMIT), 431),
    "long head of a HEAD": refused(get(b"A: " + b"b" * LIMIT, start=b"HEAD / HTTP/1.1"), 431),
    # Offers to upgrade: RFC 9110, section 7.8.
    "offer of h2c": served(post(*H2C, b"Content-Length: 5", body=b"hello") + get(), 2),
    "offer of h2c, chunked": served(
        post(*H2C, b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n") + get(), 2
    ),
    "offer of h2c without a body": served(get(*H2C) + get(), 2),
    "offer of a WebSocket": served(get(b"connection: upgrade", b"upgrade: WebSocket") + get(), 2),
    "offer of TLS": served(
        get(b"Connection: upgrade", b"Upgrade: TLS/1.0, HTTP/2.0", start=b"OPTIONS * HTTP/1.1")
    ),
    "offer in 1.0": Row(
        post(*H2C[1:2], b"Content-Length: 5", body=b"hello", start=b"POST / HTTP/1.0"),
        (200,),
        False,
    ),
    # Persistence: RFC 9112, section 9.
    "pipeline": served(get() * 5 + chunked(b"1\r\na\r\n0\r\n\r\n") * 2 + get(), 8),
    "close": Row(get(b"Connection: close"), (200,), False),
    "close among others": Row(get(b"Connection: a, CLOSE"), (200,), False),
    "close and keep-alive": Row(
        get(b"Connection: keep-alive", b"Connection: close"), (200,), False
    ),
    "close and keep-alive in 1.0": Row(
        get(b"Connection: Close, keep-alive", start=b"GET / HTTP/1.0"), (200,), False
    ),
    "keep-alive in 1.0": served(get(b"Connection: keep-alive", start=b"GET / HTTP/1.0")),
    "expect in 1.0": Row(
        post(b"Expect: 100-continue", b"Content-Length: 1", body=b"a", start=b"POST / HTTP/1.0"),
        (200,),
        False,
    ),
    "HEAD": served(get(start=b"HEAD / HTTP/1.1")),
    "invalid behind valid": Row(get() + b"\0", (200, 400), False),
}


def body_of(request: Request) -> str:
    """The handler: what it got, which must never be a request hidden in another."""
    return f"[{request.method} {request.path} {request.body!r}]"


def outcome(wire: bytes) -> tuple[tuple[int, ...], bool]:
    """The final statuses, and whether the last response is to :data:`LAST`."""
    found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", wire)]
    kept = wire.endswith(b"[GET /last b'']")
    return tuple(status for status in found if status != 100)[: -1 if kept else None], kept


@pytest.mark.parametrize("recv_size", [16_384, 37, 1], ids=["whole", "in pieces", "bytewise"])
@EVERY_WAY
def test_every_row(poller: Any, trigger: Any, lifecycle: Any, recv_size: int) -> None:
    """The statuses are right, a HEAD has no body, and nothing in a body becomes a request."""
    wrong = {}
    way = options_of(poller, trigger, lifecycle)
    with epolllab.start_server(
        protocol="http", handler=body_of, max_request_bytes=LIMIT, recv_size=recv_size,
        record=False, **way,
    ) as server:  # fmt: skip
        for name, row in TABLE.items():
            wire = ask(server.address, row.request + (LAST if row.kept else b""))
            is_head = row.request.startswith(b"HEAD") and not row.kept
            if (
                outcome(wire) != row[1:]
                or b"smuggled" in wire
                or (is_head and not wire.endswith(b"\r\n\r\n"))
            ):
                wrong[name] = (wire, row)
        assert server.stats()["faults"] == 0
    assert wrong == {}
