"""The HTTP session without a socket: requests, responses, limits and failures."""

import gc
import re
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from epolllab import Response
from epolllab.server import Http, Request
from epolllab.server.heads import MAX_HEADERS, MAX_REQUEST_LINE
from epolllab.server.protocols import make_session_factory
from tests.server.helpers import (
    BODIES,
    CONTINUE,
    CUTS,
    DATE,
    EXPECTING,
    GET,
    responses_of,
    ways_to_cut,
)

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

LIMIT = 2_000
"""max_request_bytes in the tests of limits."""


def http(handler: Callable[[Request], Any] | None = None, limit: int = 1 << 20) -> Http:
    """A session as a server makes it."""
    session = make_session_factory("http", handler=handler, max_request_bytes=limit)()
    assert isinstance(session, Http)
    return session


def parsed(response: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Split a response into status line, headers and body."""
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    assert len(headers) == len(lines), "a header appears twice"
    return status, headers, body


def statuses(responses: Iterable[bytes]) -> list[int]:
    """The status codes."""
    return [int(response.split(b" ", 2)[1]) for response in responses]


# ---- requests and responses -------------------------------------------------------------


def test_the_default_response() -> None:
    session = http()
    (response,) = session.receive(GET)
    assert re.search(DATE, response)
    status, headers, body = parsed(response)
    assert status == b"HTTP/1.1 200 OK"
    assert body == b"Hello, world!"
    assert headers.keys() == {b"Content-Type", b"Content-Length", b"Date"}
    assert headers[b"Content-Length"] == b"13"
    assert len(responses_of(session, [GET] * 50)) == 50
    assert not session.closing


@CUTS
def test_a_pipeline_is_served_in_order(cut: Callable[[bytes], list[bytes]]) -> None:
    session = http(lambda request: request.path)
    pipeline = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(5))
    bodies = [parsed(response)[2] for response in responses_of(session, cut(pipeline))]
    assert bodies == [b"/0", b"/1", b"/2", b"/3", b"/4"]


def test_head_has_the_headers_and_no_body() -> None:
    """HEAD announces the length of GET, and the next response follows directly."""
    session = http(lambda request: "four")
    head, get = responses_of(session, [b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + GET])
    assert head + b"four" == get
    assert parsed(head)[1][b"Content-Length"] == b"4"


def handler_that_appends(seen: list[Request]) -> Callable[[Request], str]:
    def handler(request: Request) -> str:
        seen.append(request)
        return "seen"

    return handler


@CUTS
@pytest.mark.parametrize("framing", BODIES)
def test_the_handler_gets_the_whole_request(
    framing: str, cut: Callable[[bytes], list[bytes]]
) -> None:
    seen: list[Request] = []
    session = http(handler_that_appends(seen))
    assert len(responses_of(session, cut(BODIES[framing] + GET))) == 2
    post, get = seen
    assert (post.method, post.path, post.version) == ("POST", "/p?q=1", "1.1")
    assert post.body == b"hello world"
    assert post.keep_alive
    assert post.headers["host"] == "a"
    assert "trailer" not in post.headers
    assert post.raw_trailers == ([(b"Trailer", b"t")] if framing == "chunked" else [])
    assert (get.method, get.path, get.body) == ("GET", "/", b"")
    assert (get.raw_headers, get.raw_trailers) == ([(b"Host", b"a")], [])


def test_trailers_after_an_empty_body_are_not_headers() -> None:
    """A field after the last chunk is a trailer, and has no effect."""
    head = CHUNKED[:-2] + b"X: head\r\n\r\n"
    empty = head + b"0\r\nX: tail\r\n\r\n"
    seen: list[Request] = []
    session = http(handler_that_appends(seen))
    session.receive(empty + GET + empty)
    first, plain, second = seen
    for request in (first, second):
        assert request.headers["x"] == "head"
        assert request.raw_trailers == [(b"X", b"tail")]
    assert (plain.raw_headers, plain.raw_trailers) == ([(b"Host", b"a")], [])
    (response,) = session.receive(head + b"0\r\nExpect: 100-continue\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 200")
    assert b"100 Continue" not in response + session.interim


def test_repeated_headers_are_joined() -> None:
    request = Request("GET", "/", "1.1", [(b"X-A", b"1"), (b"x-a", b"\xe4")], b"", True)
    assert request.headers == {"x-a": "1, ä"}
    assert request.raw_headers == [(b"X-A", b"1"), (b"x-a", b"\xe4")]
    assert repr(request) == "<Request GET / HTTP/1.1, 0 bytes>"


@pytest.mark.parametrize(
    ("returned", "status", "body"),
    [
        ("text ä", 200, "text ä".encode()),
        (b"\0bytes", 200, b"\0bytes"),
        (bytearray(b"array"), 200, b"array"),
        (Response("gone", 410), 410, b"gone"),
        (Response(b"", 599), 599, b""),
    ],
)
def test_what_a_handler_may_return(returned: Any, status: int, body: bytes) -> None:
    (response,) = http(lambda _: returned).receive(GET)
    assert statuses([response]) == [status]
    assert parsed(response)[2] == body
    assert int(parsed(response)[1][b"Content-Length"]) == len(body)


@pytest.mark.parametrize(("status", "length"), [(204, None), (205, b"0"), (304, None)])
def test_statuses_without_a_body(status: int, length: bytes | None) -> None:
    responses = responses_of(http(lambda _: Response("ignored", status)), [GET + GET])
    assert statuses(responses) == [status] * 2
    for response in responses:
        assert parsed(response)[1].get(b"Content-Length") == length
        assert parsed(response)[2] == b""


def test_a_handlers_headers_are_sent() -> None:
    (response,) = http(lambda _: Response("x", headers={"X-A": "b", "Location": "/c"})).receive(GET)
    headers = parsed(response)[1]
    assert headers[b"X-A"] == b"b"
    assert headers[b"Location"] == b"/c"
    assert headers[b"Content-Type"] == b"text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"headers": {"X": "a\r\nSet-Cookie: b"}}, ValueError, "headers"),
        ({"headers": {"X\n": "a"}}, ValueError, "headers"),
        ({"content_type": "text/html\nX: y"}, ValueError, "content_type"),
        ({"headers": {"content-LENGTH": "3"}}, ValueError, "^headers.*content-LENGTH"),
        ({"headers": {"Connection": "close"}}, ValueError, "^headers.*Connection"),
        ({"headers": {"Content-Type": "a/b"}}, ValueError, "^headers.*content_type"),
        ({"headers": {"Transfer-Encoding ": "chunked"}}, ValueError, "^headers"),
        ({"headers": {" Date": "x"}}, ValueError, "^headers"),
        ({"headers": {"Transfer-Encoding\t": "chunked"}}, ValueError, "^headers"),
        ({"headers": {"X:": "a"}}, ValueError, "^headers"),
        ({"headers": {"": "a"}}, ValueError, "^headers"),
        ({"headers": {"\u212aey": "a"}}, ValueError, "^headers"),
        ({"headers": {b"X": "a"}}, TypeError, "^headers"),
        ({"headers": {"X": "a\0"}}, ValueError, r"^headers\['X'\]"),
        ({"headers": {"X": "\r"}}, ValueError, r"^headers\['X'\]"),
        ({"headers": {"X": "\u20ac"}}, ValueError, r"^headers\['X'\]"),
        ({"headers": {"X": 1}}, TypeError, r"^headers\['X'\]"),
        ({"headers": [("X", "a")]}, TypeError, "^headers"),
        ({"headers": ()}, TypeError, "^headers"),
        ({"content_type": None}, TypeError, "^content_type"),
        ({"status": 199}, ValueError, "^status"),
        ({"status": 600}, ValueError, "^status"),
        ({"status": -200}, ValueError, "^status"),
        ({"status": True}, TypeError, "^status"),
        ({"status": 200.0}, TypeError, "^status"),
        ({"status": "200"}, TypeError, "^status"),
        ({"status": None}, TypeError, "^status"),
        ({"body": 5}, TypeError, "^body"),
        ({"body": "\ud800"}, ValueError, "^body"),
        ({"body": None}, TypeError, "^body"),
        ({"body": ["a"]}, TypeError, "^body"),
    ],
)
def test_an_invalid_response(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Response(**arguments)


def test_the_date_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """One Response serves many requests, and has the date of each second, also backwards."""
    response = Response("x")
    dates = []
    for now in (0.0, 0.9, 1.0, 63.5, 0.5, -3600.0, 63.5):
        monkeypatch.setattr(
            "epolllab.server.messages.time.time", lambda now=now: 1_700_000_000 + now
        )
        (sent,) = (parsed(wire)[1][b"Date"].decode() for wire in [response.wire()])
        assert parsed(response.encode(close=True))[1][b"Date"].decode() == sent
        dates.append(sent)
    assert [date[-12:] for date in dates] == [
        "22:13:20 GMT", "22:13:20 GMT", "22:13:21 GMT", "22:14:23 GMT", "22:13:20 GMT",
        "21:13:20 GMT", "22:14:23 GMT",
    ]  # fmt: skip
    assert dates[0].startswith("Tue, 14 Nov 2023")


# ---- closing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "connection", "closes", "header"),
    [
        (b"1.1", None, False, None),
        (b"1.1", b"keep-alive", False, None),
        (b"1.1", b"close", True, b"close"),
        (b"1.0", None, True, b"close"),
        (b"1.0", b"close", True, b"close"),
        (b"1.0", b"keep-alive", False, b"keep-alive"),
        (b"1.0", b"Keep-Alive", False, b"keep-alive"),
    ],
)
def test_when_the_session_closes(
    version: bytes, connection: bytes | None, closes: bool, header: bytes | None
) -> None:
    """1.1 stays open unless close is asked for; 1.0 closes unless keep-alive is asked for."""
    line = b"Connection: %b\r\n" % connection if connection else b""
    session = http()
    (response,) = session.receive(b"GET / HTTP/%b\r\nHost: a\r\n%b\r\n" % (version, line))
    assert session.closing == closes
    assert not session.linger
    assert parsed(response)[1].get(b"Connection") == header
    assert parsed(response)[2] == b"Hello, world!"


def test_keep_alive_is_confirmed_to_one_request_only() -> None:
    old = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    first, second = responses_of(http(), [old, GET])
    assert b"Connection: keep-alive" in first
    assert b"Connection" not in second


def test_bytes_after_a_close_are_ignored() -> None:
    last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for pieces in ([last + GET + b"junk"], [last, GET, b"junk"]):
        assert len(responses_of(http(), pieces)) == 1


OFFERS = [
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    b"upgrade: TLS/1.0, HTTP/3\r\nCONNECTION: keep-alive, Upgrade\r\n",
    b"Upgrade: a\r\nUpgrade: b\r\nConnection: upgrade\r\n",
    b"-Upgrade: not an offer\r\nConnection: upgrade\r\nUpgrade: h2c\r\n--upgrade: x\r\n",
    b"Upgrade: h2c\r\n",
]


@CUTS
@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("framing", ["none", *BODIES])
def test_an_offer_to_upgrade_is_ignored(
    framing: str, offer: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    """The handler gets the whole request, the connection stays open, and the next is served."""
    plain = BODIES.get(framing, GET)
    seen: list[Request] = []
    session = http(handler_that_appends(seen))
    data = plain.replace(b"Host: a\r\n", b"Host: a\r\n" + offer)
    responses = responses_of(session, cut(data + BODIES["length"] + GET))
    assert statuses(responses) == [200] * 3
    assert b"Connection:" not in b"".join(responses)
    first, second, third = seen
    assert first.body == (b"" if framing == "none" else b"hello world")
    sent = [tuple(line.split(b": ", 1)) for line in offer.splitlines()]
    assert first.raw_headers[1 : 1 + len(sent)] == sent
    assert (second.body, third.raw_headers) == (b"hello world", [(b"Host", b"a")])
    assert not session.closing


def test_an_offer_in_http_1_0_or_in_trailers_is_ignored() -> None:
    offer = b"Connection: keep-alive, upgrade\r\nUpgrade: h2c\r\n"
    old = b"POST / HTTP/1.0\r\n" + offer + b"Content-Length: 5\r\n\r\nhello"
    chunked = CHUNKED.replace(b"\r\n\r\n", b"\r\n" + offer + b"\r\n")
    trailer = chunked + b"5\r\nhello\r\n0\r\nUpgrade: b\r\n-Upgrade: c\r\n\r\n"
    seen: list[Request] = []
    session = http(handler_that_appends(seen))
    assert statuses(session.receive(old + trailer + GET)) == [200] * 3
    assert [request.body for request in seen] == [b"hello", b"hello", b""]
    assert seen[1].raw_trailers == [(b"Upgrade", b"b"), (b"-Upgrade", b"c")]


def test_a_closed_session_is_freed() -> None:
    """Parser and session refer to each other; after on_close() reference counting frees them."""
    gc.disable()
    try:
        session = http()
        session.receive(GET)
        session.on_close()
        gone = weakref.ref(session)
        del session
        assert gone() is None
    finally:
        gc.enable()


# ---- 100 Continue -----------------------------------------------------------------------


def test_continue_is_sent_before_the_body() -> None:
    """The interim response is there when the head is complete, the final one at the end."""
    session = http(lambda request: request.body)
    assert session.receive(EXPECTING) == []
    assert session.interim == CONTINUE
    session.interim = b""  # as the loop does once it has sent it
    (response,) = session.receive(b"hello")
    assert parsed(response)[2] == b"hello"
    assert session.interim == b""


def test_no_continue_where_the_body_has_arrived() -> None:
    session = http()
    assert len(session.receive(EXPECTING + b"hello")) == 1
    assert session.interim == b""


def test_a_continue_in_a_pipeline() -> None:
    session = http()
    (response,) = session.receive(GET + EXPECTING)
    assert response.endswith(b"Hello, world!" + CONTINUE)
    assert session.interim == b""
    (response,) = session.receive(b"hello")
    assert response.endswith(b"Hello, world!")


def test_no_continue_for_a_body_that_is_too_large() -> None:
    data = EXPECTING.replace(b"Length: 5", b"Length: 101")
    assert statuses(http(limit=100).receive(data)) == [413]


# ---- refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"hello\n\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
@CUTS
def test_invalid_http_gets_400(data: bytes, cut: Callable[[bytes], list[bytes]]) -> None:
    """One response, after which the session lingers, so that no reset destroys it."""
    session = http()
    responses = responses_of(session, cut(data))
    assert statuses(responses) == [400]
    assert parsed(responses[0])[1][b"Connection"] == b"close"
    assert session.closing
    assert session.linger
    assert session.receive(GET) == []


@pytest.mark.parametrize(
    "target",
    [
        "http:///", "http://", "HTTP://:80/", "http://anna@/", "http://anna@:1", "https://?a",
        "http://#a",
    ],
)  # fmt: skip
def test_an_absolute_target_without_a_host_gets_400(target: str) -> None:
    """RFC 9110, section 4.2.1."""
    assert statuses(http().receive(GET.replace(b" / ", f" {target} ".encode()))) == [400]


@pytest.mark.parametrize("target", ["http://a", "http://anna@a:1/", "http://[::1]/", "/http:///"])
def test_a_target_with_a_host_is_served(target: str) -> None:
    assert statuses(http().receive(GET.replace(b" / ", f" {target} ".encode()))) == [200]


@pytest.mark.parametrize(
    ("codings", "expected"),
    [
        ([",chunked"], 200), ([", ,\t, chunked"], 200), (["chunked,"], 200),
        (["chunked , ,"], 200), (["", "chunked"], 200), (["chunked", ","], 200),
        ([","], 400), ([""], 400), (["chunked,,chunked"], 400), (["chunked,,gzip"], 400),
        (["gzip,,chunked"], 501),
    ],
)  # fmt: skip
@CUTS
def test_empty_members_of_the_codings_are_ignored(
    codings: list[str], expected: int, cut: Callable[[bytes], list[bytes]]
) -> None:
    """RFC 9110, section 5.6.1.2; the body is framed as without them, and so is what follows."""
    seen: list[Request] = []
    lines = "".join(f"Transfer-Encoding: {coding}\r\n" for coding in codings)
    head = f"POST / HTTP/1.1\r\nHost: a\r\n{lines}B: c\r\n\r\n".encode()

    def handler(request: Request) -> str:
        seen.append(request)
        return ""

    responses = responses_of(http(handler), cut(head + b"2\r\nok\r\n0\r\n\r\n" + GET))
    assert statuses(responses) == ([200, 200] if expected == 200 else [expected])
    if expected == 200:
        assert (seen[0].body, seen[0].headers["b"], seen[1].body) == (b"ok", "c", b"")


def test_requests_before_an_invalid_one_are_served() -> None:
    assert statuses(http().receive(GET + GET + b"\0\0")) == [200, 200, 400]


ENDLESS = {
    "target": (b"GET /", b"a" * 100, 431),
    "header": (b"GET / HTTP/1.1\r\nA: ", b"a" * 100, 431),
    "headers": (b"GET / HTTP/1.1\r\n", b"A: b\r\n", 431),
    "length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2001\r\n\r\n", b"a", 413),
    "chunks": (CHUNKED, b"64\r\n" + b"a" * 100 + b"\r\n", 413),
    "one chunk": (CHUNKED + b"fffff\r\n", b"a" * 100, 413),
    "trailer": (CHUNKED + b"1\r\na\r\n0\r\n", b"A: b\r\n", 431),
    "chunk extension": (CHUNKED + b"1\r\na\r\n1;", b"a" * 100, 431),
}
"""The beginning of a request, what is repeated after it, and the status expected."""


@pytest.mark.parametrize("part", ENDLESS)
def test_a_request_that_never_ends(part: str) -> None:
    """Soon after the limit it gets a 431 for the head, a 413 for the body."""
    head, more, expected = ENDLESS[part]
    session = http(limit=LIMIT)
    fed = 0
    responses: list[bytes] = []
    for piece in [head, *[more] * (10 * LIMIT // len(more))]:
        responses += session.receive(piece)
        if session.closing:
            break
        fed += len(piece)
    assert statuses(responses) == [expected]
    assert session.linger
    assert fed <= 2 * LIMIT + len(head)


def head_of_size(size: int, filler: bytes = b"a") -> bytes:
    """A GET whose head has exactly `size` bytes."""
    begin = GET[:-2] + b"A: b" + filler
    return begin + b"a" * (size - len(begin) - 4) + b"\r\n\r\n"


def with_fields(count: int) -> bytes:
    """A GET with `count` header lines."""
    return GET[:-2] + b"A: b\r\n" * (count - 1) + b"\r\n"


def with_request_line(size: int) -> bytes:
    """A GET whose first line has `size` bytes, without the line break."""
    return b"GET /" + b"a" * (size - 14) + b" HTTP/1.1\r\nHost: a\r\n\r\n"


LIMITS = {
    "head": (head_of_size(LIMIT), 200),
    "head, a byte more": (head_of_size(LIMIT + 1), 431),
    "head, of white space": (head_of_size(LIMIT, b" " * 1_000), 200),
    "head, of white space, a byte more": (head_of_size(LIMIT + 1, b" " * 1_000), 431),
    "fields": (with_fields(MAX_HEADERS), 200),
    "fields, one more": (with_fields(MAX_HEADERS + 1), 431),
    "bad byte at the limit": (head_of_size(LIMIT)[: LIMIT - 1] + b"\0" * 9, 400),
    "bad byte after the limit": (head_of_size(LIMIT + 9)[:LIMIT] + b"\0" * 9, 431),
    "bad version before the limit": (b"GET / HTTP/2.0\r\nA:" + b"a" * LIMIT, 505),
    "a HEAD too large": (head_of_size(LIMIT + 1).replace(b"GET", b"HEAD"), 431),
    "length": (GET[:-2] + b"Content-Length: 2000\r\n\r\n" + b"a" * LIMIT, 200),
    "length, a byte more": (GET[:-2] + b"Content-Length: 2001\r\n\r\n" + b"a" * 2_001, 413),
    "chunk extension": (CHUNKED + b"1;" + b"a" * (LIMIT - 4) + b"\r\na\r\n0\r\n\r\n", 200),
    "chunk extension, a byte more": (CHUNKED + b"1;" + b"a" * (LIMIT - 3) + b"\r\na\r\n", 431),
    "extension, then body": (CHUNKED + b"fffff;" + b"a" * LIMIT + b"\r\n", 431),
    "body, then extension": (CHUNKED + b"7d1\r\n" + b"a" * 2_001 + b"\r\n1;" + b"a" * LIMIT, 413),
    "trailer": (CHUNKED + b"0\r\nA:" + b"a" * (LIMIT - 9) + b"\r\n\r\n", 200),
    "trailer, a byte more": (CHUNKED + b"0\r\nA:" + b"a" * (LIMIT - 8) + b"\r\n\r\n", 431),
    "trailers": (CHUNKED + b"0\r\n" + b"A: b\r\n" * MAX_HEADERS + b"\r\n", 200),
    "trailers, one more": (CHUNKED + b"0\r\n" + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n", 431),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_do_not_depend_on_the_cuts(name: str) -> None:
    """Also behind other requests, and in front of them."""
    data, expected = LIMITS[name]
    after = [200, 200] if expected == 200 else []
    for stream, before in ((data + GET + GET, []), (GET + BODIES["chunked"] + data, [200, 200])):
        for pieces in [[stream], *ways_to_cut(stream)]:
            session = http(lambda _: "x", LIMIT)
            found = statuses(responses_of(session, pieces))
            assert found == [*before, expected, *(after if not before else [])]
            assert session.linger == (expected != 200)


@pytest.mark.parametrize(
    ("size", "expected"), [(MAX_REQUEST_LINE, 200), (MAX_REQUEST_LINE + 1, 414)]
)
@CUTS
def test_the_limit_of_the_request_line(
    cut: Callable[[bytes], list[bytes]], size: int, expected: int
) -> None:
    assert statuses(responses_of(http(), cut(with_request_line(size)))) == [expected]


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (GET[:-2] + b"A: ", b"\r\n\r\n"),
        (GET[:-2], b": b\r\n\r\n"),
        (CHUNKED + b"0\r\nA: ", b"\r\n\r\n"),
        (CHUNKED + b"1;", b"\r\na\r\n0\r\n\r\n"),
    ],
    ids=["value", "name", "trailer", "chunk extension"],
)
def test_a_long_line_in_small_pieces_is_copied_a_few_times(begin: bytes, end: bytes) -> None:
    """To copy all that has arrived with every piece would take quadratic time."""
    n_pieces = 4_000
    session = http()
    session.receive(begin)
    copied = 0
    tracemalloc.start()
    try:
        for n in range(n_pieces):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            assert session.receive(b"%064d" % n) == []
            copied += tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert copied < 100 * 64 * n_pieces
    assert statuses(session.receive(end)) == [200]


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_limit_of_a_body_is_exact(framing: str, size: int) -> None:
    body = b"a" * size
    if framing == "length":
        data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
    else:
        data = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
    expected = 200 if size == LIMIT else 413
    assert statuses(http(lambda request: request.body, LIMIT).receive(data)) == [expected]


def test_the_limit_is_per_request() -> None:
    stream = (GET + BODIES["chunked"] + BODIES["length"]) * 100
    pieces = [stream[i : i + 777] for i in range(0, len(stream), 777)]
    assert statuses(responses_of(http(limit=LIMIT), pieces)) == [200] * 300


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([], []),
        ([GET], []),
        ([b"GET / HTTP/1.1\r\nHost"], [408]),
        ([GET, b"GET /"], [408]),
        ([BODIES["length"][:-3]], [408]),
        ([BODIES["chunked"][:-9]], [408]),
        ([b"\0"], []),
    ],
    ids=["nothing", "between", "head", "second", "body", "chunks", "refused"],
)
def test_a_timeout_in_a_request_is_408(pieces: list[bytes], expected: list[int]) -> None:
    session = http()
    responses_of(session, pieces)
    assert session.in_request == bool(expected)
    assert statuses(session.timed_out()) == expected


# ---- handlers that fail -----------------------------------------------------------------


def leave(_: Request) -> str:
    sys.exit("from a handler")


class Unsendable(Response):
    """Raises when the parser has already called the session."""

    def encode(self, **_: bool) -> bytes:
        """Fail."""
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        (lambda _: 1 / 0, "ZeroDivisionError"),
        (lambda _: None, "TypeError: body of a response must be bytes or a str, not None"),
        (lambda _: Response("x", headers={"A": "\n"}), "line break"),
        (lambda _: Response("x", 1_000), "ValueError: status"),
        (lambda _: Unsendable("x"), "ZeroDivisionError"),
        (leave, "SystemExit: from a handler"),
    ],
    ids=["raises", "returns-none", "bad-header", "bad-status", "fails-later", "exits"],
)
def test_a_handler_that_fails_is_a_500(handler: Callable[[Request], Any], cause: str) -> None:
    """The peer gets no traceback; the session keeps it for the server."""
    session = http(handler)
    (response,) = session.receive(GET)
    assert statuses([response]) == [500]
    assert cause.encode() not in response
    assert session.closing
    assert session.fault is not None
    assert cause in session.fault


def test_a_pipeline_ends_at_the_handler_that_failed() -> None:
    served = []

    def handler(request: Request) -> str:
        served.append(request.path)
        return {"/0": "fine"}[request.path]

    pipeline = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(3))
    assert statuses(http(handler).receive(pipeline)) == [200, 500]
    assert served == ["/0", "/1"]
