"""Bytes in, bytes out: what each protocol says, without a socket."""

import re
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epolllab import Response, Session
from epolllab.server import Echo, Hello, Http, Request
from epolllab.server.http import GREETING
from epolllab.server.protocols import PROTOCOLS, make_protocol

# As in the how-to's script (http://scotdoyle.com/python-epoll-howto.html).
HOWTO = (
    b"HTTP/1.0 200 OK\r\nDate: Mon, 1 Jan 1996 01:01:01 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 13\r\n\r\n"
    b"Hello, world!"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
DATE = rb"Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def bytewise(data: bytes) -> list[bytes]:
    """Cut into single bytes."""
    return [data[i : i + 1] for i in range(len(data))]


def said(session: Session, pieces: Iterable[bytes]) -> list[bytes]:
    """Feed the pieces; give the answers, their dates taken out."""
    answers = [answer for piece in pieces for answer in session.receive(piece)]
    return [re.sub(DATE, b"Date: -", answer) for answer in answers]


def http(handler: Callable[[Request], Any] | None = None, limit: int = 1 << 20) -> Http:
    """Begin an HTTP conversation, as a server does."""
    session = make_protocol("http", handler=handler, max_request_bytes=limit)()
    assert isinstance(session, Http)
    return session


def parsed(answer: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Split an answer into status line, headers and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    assert len(headers) == len(lines), "a header is there twice"
    return status, headers, body


def status_of(answer: bytes) -> int:
    """Give the status code."""
    return int(answer.split(b" ", 2)[1])


def cuts(data: bytes, places: list[int]) -> list[bytes]:
    """Cut at the places, each taken modulo the length; no piece is empty."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


places = st.lists(st.integers(0, 1 << 16), max_size=8)


# ---- hello ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [b"\n\n", b"\n\r\n"])
@pytest.mark.parametrize("cut", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
def test_hello_answers_as_the_howto_does(
    ending: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    """At LF LF or LF CR LF, in one piece or a byte at a time: the how-to's answer to the byte."""
    session = make_protocol("hello")()
    *before, last = cut(b"GET / HTTP/1.0\r\nHost: a\r" + ending)
    assert said(session, before) == []
    assert session.receive(last) == [HOWTO]
    assert session.closing
    assert not session.linger


@pytest.mark.parametrize(
    "request_bytes", [b"\n\n", b"\n\r\n", b"x\n\n", b"\0\xff\n\r\nmore", b"\r\n\r\n", b"a\n\nb\n\n"]
)
def test_hello_minds_nothing_but_the_blank_line(request_bytes: bytes) -> None:
    """What a request says does not matter, nor what follows the blank line."""
    assert Hello().receive(request_bytes) == [HOWTO]


@pytest.mark.parametrize(
    "request_bytes", [b"\n", b"\r\n", b"a\nb\n", b"\n\r", b"\n\r\r\n", b"\r\r"]
)
def test_hello_waits_for_the_blank_line(request_bytes: bytes) -> None:
    """Without one there is no answer, and the conversation goes on."""
    session = Hello()
    assert said(session, [request_bytes]) == []
    assert not session.closing


def test_hello_says_nothing_after_its_answer() -> None:
    """One request, one answer: what comes later is not answered."""
    session = Hello()
    assert said(session, [b"\n\n", b"\n\n", b"GET / HTTP/1.0\r\n\r\n"]) == [HOWTO]


@given(
    st.text("\r\na", max_size=24).map(str.encode),
    places,
    st.integers(1, 12),
)
def test_hello_is_bounded_to_the_byte_however_it_is_split(
    data: bytes, where: list[int], limit: int
) -> None:
    """A blank line within the limit is answered; more bytes without one are too large."""
    session = make_protocol("hello", max_request_bytes=limit)()
    match = re.search(rb"\n\r?\n", data)
    if match and match.end() <= limit:
        expected = [HOWTO]
    elif len(data) > limit:
        expected = [Hello.TOO_LARGE]
    else:
        expected = [HOWTO] if match else []
    assert said(session, cuts(data, where)) == expected
    assert session.closing == bool(expected)
    assert session.linger == (expected == [Hello.TOO_LARGE])


def test_hello_keeps_no_more_than_it_needs() -> None:
    """A request that never ends does not pile up in memory before it is refused."""
    session = make_protocol("hello")()
    for _ in range(1 << 10):
        assert session.receive(b"a" * 1024) == []
        assert len(session._tail) <= 2
    assert session.receive(b"a") == [Hello.TOO_LARGE]


def test_two_servers_have_their_own_limit() -> None:
    """max_request_bytes belongs to a protocol that was made, not to all."""
    small = make_protocol("hello", max_request_bytes=3)
    large = make_protocol("hello")
    assert small().receive(b"long") == [Hello.TOO_LARGE]
    assert large().receive(b"long") == []
    assert Hello.max_request_bytes == 1 << 20


# ---- echo -------------------------------------------------------------------------------


@given(st.binary(min_size=1), places)
def test_echo_returns_every_piece(data: bytes, where: list[int]) -> None:
    """Each read comes back as it was, and nothing ends the conversation."""
    session = make_protocol("echo")()
    pieces = cuts(data, where)
    assert [session.receive(piece) for piece in pieces] == [[piece] for piece in pieces]
    assert not session.closing


# ---- http: what is answered -------------------------------------------------------------


def test_http_greets_by_default() -> None:
    """A GET is answered with status, type, length, date and body, and the peer may go on."""
    session = http()
    (answer,) = session.receive(GET)
    assert re.search(DATE, answer)
    status, headers, body = parsed(answer)
    assert status == b"HTTP/1.1 200 OK"
    assert body == b"Hello, world!"
    assert headers.keys() == {b"Content-Type", b"Content-Length", b"Date"}
    assert headers[b"Content-Length"] == b"13"
    assert not session.closing


def test_http_keeps_the_connection() -> None:
    """Request after request is answered in one conversation."""
    session = http()
    assert len(said(session, [GET] * 50)) == 50
    assert not session.closing


@pytest.mark.parametrize("cut", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
def test_http_answers_a_pipeline_in_order(cut: Callable[[bytes], list[bytes]]) -> None:
    """Several requests at once have as many answers, in the order they were sent."""
    session = http(lambda request: request.path)
    pipeline = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(5))
    bodies = [parsed(answer)[2] for answer in said(session, cut(pipeline))]
    assert bodies == [b"/0", b"/1", b"/2", b"/3", b"/4"]


def test_http_head_has_the_headers_and_no_body() -> None:
    """HEAD tells the length that GET would have, and the next answer is in its place."""
    session = http(lambda request: "four")
    head, get = said(session, [b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + GET])
    assert head + b"four" == get
    assert parsed(head)[1][b"Content-Length"] == b"4"


def recorded_requests(seen: list[Request]) -> Callable[[Request], str]:
    def handler(request: Request) -> str:
        seen.append(request)
        return "seen"

    return handler


BODIES = {
    "length": b"POST /p?q=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
    "chunked": b"POST /p?q=1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailer: t\r\n\r\n",
}


@pytest.mark.parametrize("cut", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
@pytest.mark.parametrize("framing", BODIES)
def test_http_gives_the_handler_the_whole_request(
    framing: str, cut: Callable[[bytes], list[bytes]]
) -> None:
    """Method, path, version, headers and body arrive complete, of known length or chunked."""
    seen: list[Request] = []
    session = http(recorded_requests(seen))
    answers = said(session, cut(BODIES[framing] + GET))
    assert len(answers) == 2
    post, get = seen
    assert (post.method, post.path, post.version) == ("POST", "/p?q=1", "1.1")
    assert post.body == b"hello world"
    assert post.keep_alive
    assert post.headers["host"] == "a"
    assert "trailer" not in post.headers
    assert post.raw_trailers == ([(b"Trailer", b"t")] if framing == "chunked" else [])
    assert get.raw_trailers == []
    assert (get.method, get.path, get.body) == ("GET", "/", b"")
    assert get.raw_headers == [(b"Host", b"a")]


def test_trailers_are_no_headers_though_the_body_is_empty() -> None:
    """A field after the last chunk is not what the head has said; nor is it obeyed."""
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: head\r\n\r\n"
    empty = head + b"0\r\nX: tail\r\n\r\n"
    seen: list[Request] = []
    session = http(recorded_requests(seen))
    session.receive(empty + GET + empty)
    first, plain, second = seen
    for request in (first, second):
        assert request.headers["x"] == "head"
        assert request.raw_trailers == [(b"X", b"tail")]
    assert (plain.raw_headers, plain.raw_trailers) == ([(b"Host", b"a")], [])
    (answer,) = session.receive(head + b"0\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"100 Continue" not in answer + session.interim


def test_repeated_headers_are_joined() -> None:
    """Names are lower case in headers, as sent in raw_headers, and repeats make a list."""
    request = Request("GET", "/", "1.1", [(b"X-A", b"1"), (b"x-a", b"\xe4")], b"", True)
    assert request.headers == {"x-a": "1, ä"}
    assert request.raw_headers == [(b"X-A", b"1"), (b"x-a", b"\xe4")]
    assert repr(request) == "<Request GET / HTTP/1.1, 0 bytes>"


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        ("text ä", 200, "text ä".encode()),
        (b"\0bytes", 200, b"\0bytes"),
        (bytearray(b"array"), 200, b"array"),
        (Response("gone", 410), 410, b"gone"),
        (Response(b"", 599), 599, b""),
    ],
)
def test_a_handler_may_answer_in_several_ways(answer: Any, status: int, body: bytes) -> None:
    """A str is UTF-8, bytes are bytes, and a Response says its status."""
    (got,) = http(lambda _: answer).receive(GET)
    assert status_of(got) == status
    assert parsed(got)[2] == body
    assert int(parsed(got)[1][b"Content-Length"]) == len(body)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_may_have_no_body_has_none(status: int) -> None:
    """204 and 304 have neither body nor length, and the next answer is in its place."""
    session = http(lambda _: Response("ignored", status))
    for answer in said(session, [GET + GET]):
        head = parsed(answer)
        assert status_of(answer) == status
        assert b"Content-Length" not in head[1]
        assert head[2] == b""


def test_own_headers_are_sent() -> None:
    """Headers of the handler's stand beside the server's own."""
    (answer,) = http(lambda _: Response("x", headers={"X-A": "b", "Location": "/c"})).receive(GET)
    headers = parsed(answer)[1]
    assert headers[b"X-A"] == b"b"
    assert headers[b"Location"] == b"/c"
    assert headers[b"Content-Type"] == b"text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ({"headers": {"X": "a\r\nSet-Cookie: b"}}, ValueError, "line break"),
        ({"headers": {"X\n": "a"}}, ValueError, "line break"),
        ({"content_type": "text/html\nX: y"}, ValueError, "line break"),
        ({"headers": {"content-LENGTH": "3"}}, ValueError, "server's own"),
        ({"headers": {"Connection": "close"}}, ValueError, "server's own"),
        ({"body": None}, TypeError, "bytes or a str, not None"),
        ({"body": ["a"]}, TypeError, "bytes or a str"),
    ],
)
def test_a_response_that_would_lie_is_refused(
    wishes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Split headers, headers that are the server's, and bodies of no bytes are errors."""
    with pytest.raises(error, match=message):
        Response(**wishes)


def test_the_date_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One Response answers for ever, and each second's answers have that second's date."""
    response = Response("x")
    dates = []
    for now in (1_700_000_000.0, 1_700_000_000.9, 1_700_000_001.0, 1_700_000_063.5):
        monkeypatch.setattr("epolllab.server.http.time.time", lambda now=now: now)
        dates.append(parsed(response.wire())[1][b"Date"])
    assert dates == [
        b"Tue, 14 Nov 2023 22:13:20 GMT",
        b"Tue, 14 Nov 2023 22:13:20 GMT",
        b"Tue, 14 Nov 2023 22:13:21 GMT",
        b"Tue, 14 Nov 2023 22:14:23 GMT",
    ]


# ---- http: how it ends ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "connection", "closes", "told"),
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
def test_http_ends_when_the_peer_says_so(
    version: bytes, connection: bytes | None, closes: bool, told: bytes | None
) -> None:
    """1.1 goes on unless told to close; 1.0 ends unless asked to go on, which is confirmed."""
    line = b"Connection: %b\r\n" % connection if connection else b""
    session = http()
    (answer,) = session.receive(b"GET / HTTP/%b\r\nHost: a\r\n%b\r\n" % (version, line))
    assert session.closing == closes
    assert not session.linger
    assert parsed(answer)[1].get(b"Connection") == told
    assert parsed(answer)[2] == b"Hello, world!"


def test_an_old_peers_keep_alive_is_its_requests_own() -> None:
    """The confirmation that one request asked for is not in the answer to the next."""
    session = http()
    old = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    first, second = said(session, [old, GET])
    assert b"Connection: keep-alive" in first
    assert b"Connection" not in second


def test_http_says_nothing_after_a_close() -> None:
    """What follows a request with "Connection: close", in the same piece or later, is ignored."""
    last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for pieces in ([last + GET + b"junk"], [last, GET, b"junk"]):
        assert len(said(http(), pieces)) == 1


def test_an_offer_to_upgrade_is_answered_in_http() -> None:
    """A request for another protocol gets an ordinary answer, and the connection ends."""
    session = http()
    offer = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    (answer,) = session.receive(offer + b"\x81\x05hello")
    assert status_of(answer) == 200
    assert session.closing


# ---- http: 100 Continue -----------------------------------------------------------------

EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"


def test_who_waits_for_a_continue_gets_one() -> None:
    """The interim answer is there when the head is complete, and the final one at the end."""
    session = http(lambda request: request.body)
    assert session.receive(EXPECTING) == []
    assert session.interim == CONTINUE
    session.interim = b""  # as the loop does that sent it
    (answer,) = session.receive(b"hello")
    assert parsed(answer)[2] == b"hello"
    assert session.interim == b""


def test_who_does_not_wait_gets_none() -> None:
    """Where the body came along, only the final answer is left to be sent."""
    session = http()
    assert len(session.receive(EXPECTING + b"hello")) == 1
    assert session.interim == b""


def test_a_continue_behind_another_answer_is_not_held_back() -> None:
    """In a pipeline the interim answer follows the answer before it, in order."""
    session = http()
    (answer,) = session.receive(GET + EXPECTING)
    assert answer.endswith(b"Hello, world!" + CONTINUE)
    assert session.interim == b""
    (answer,) = session.receive(b"hello")
    assert answer.endswith(b"Hello, world!")


def test_a_body_too_large_is_refused_and_not_invited() -> None:
    """An announced length beyond the limit gets 413, and no 100 Continue."""
    session = http(limit=100)
    answers = session.receive(EXPECTING.replace(b"Length: 5", b"Length: 101"))
    assert [status_of(answer) for answer in answers] == [413]


# ---- http: refusals ---------------------------------------------------------------------


def refused(session: Http, pieces: Iterable[bytes]) -> tuple[int, list[bytes]]:
    """Feed until it closes; the last status, and the answers. It must end politely."""
    answers = said(session, pieces)
    assert session.closing
    assert session.linger, "the peer may still be sending, and a reset would lose the answer"
    assert parsed(answers[-1])[1][b"Connection"] == b"close"
    assert session.receive(GET) == []
    return status_of(answers[-1]), answers


@pytest.mark.parametrize(
    "request_bytes",
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
@pytest.mark.parametrize("cut", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
def test_what_is_no_http_gets_400(
    request_bytes: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    """One Bad Request, once, and the end."""
    status, answers = refused(http(), cut(request_bytes))
    assert (status, len(answers)) == (400, 1)


def test_requests_before_the_bad_one_are_answered() -> None:
    """A pipeline is served up to where it breaks."""
    status, answers = refused(http(), [GET + GET + b"\0\0"])
    assert [status_of(answer) for answer in answers] == [200, 200, 400]
    assert status == 400


def endless(head: bytes, more: bytes) -> Iterable[bytes]:
    """Begin, and then more and more, ten times what the limit of these tests allows."""
    return [head, *[more] * (10 * LIMIT // len(more))]


LIMIT = 2_000

ENDLESS = {
    "target": (b"GET /", b"a" * 100, 431),
    "header": (b"GET / HTTP/1.1\r\nA: ", b"a" * 100, 431),
    "headers": (b"GET / HTTP/1.1\r\n", b"A: b\r\n", 431),
    "length": (b"POST / HTTP/1.1\r\nContent-Length: 2001\r\n\r\n", b"a", 413),
    "chunks": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"64\r\n" + b"a" * 100 + b"\r\n",
        413,
    ),
    "one chunk": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
        b"a" * 100,
        413,
    ),
    "trailer": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        b"A: b\r\n",
        431,
    ),
    "chunk extension": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1;",
        b"a" * 100,
        431,
    ),
}


@pytest.mark.parametrize("part", ENDLESS)
def test_a_request_that_never_ends_is_refused(part: str) -> None:
    """Whatever part of it goes on and on: 431 for a head, 413 for a body, soon after the limit."""
    head, more, expected = ENDLESS[part]
    session = http(limit=LIMIT)
    fed = 0
    answers: list[bytes] = []
    for piece in endless(head, more):
        answers += session.receive(piece)
        if session.closing:
            break
        fed += len(piece)
    assert [status_of(answer) for answer in answers] == [expected]
    assert session.linger
    assert fed <= 2 * LIMIT + len(head)


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_body_limit_is_exact(framing: str, size: int) -> None:
    """A body of max_request_bytes is served, and one byte more is not."""
    body = b"a" * size
    if framing == "length":
        data = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
    else:
        data = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
            size,
            body,
        )
    answers = said(http(lambda request: request.body, LIMIT), [data])
    assert [status_of(answer) for answer in answers] == [200 if size == LIMIT else 413]


def test_many_small_requests_are_no_large_one() -> None:
    """The limit is a request's, however many a connection sends and however they are cut."""
    session = http(limit=LIMIT)
    stream = (GET + BODIES["chunked"] + BODIES["length"]) * 100
    pieces = [stream[i : i + 777] for i in range(0, len(stream), 777)]
    assert [status_of(answer) for answer in said(session, pieces)] == [200] * 300


@pytest.mark.parametrize(
    ("pieces", "statuses"),
    [
        ([], []),
        ([GET], []),
        ([b"GET / HTTP/1.1\r\nHost"], [408]),
        ([GET, b"GET /"], [408]),
        ([BODIES["length"][:-3]], [408]),
        ([b"\0"], []),
    ],
    ids=["nothing", "between", "head", "second", "body", "refused"],
)
def test_silence_in_a_request_is_408(pieces: list[bytes], statuses: list[int]) -> None:
    """In the middle of a request a time-out is told; between requests there is nothing to say."""
    session = http()
    said(session, pieces)
    assert [status_of(answer) for answer in session.timed_out()] == statuses


# ---- http: handlers that fail -----------------------------------------------------------


def leave(_: Request) -> str:
    sys.exit("from a handler")


@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        (lambda _: 1 / 0, "ZeroDivisionError"),
        (lambda _: None, "TypeError: a response's body is bytes or a str, not None"),
        (lambda _: Response("x", headers={"A": "\n"}), "line break"),
        (leave, "SystemExit: from a handler"),
    ],
    ids=["raises", "returns-none", "bad-response", "exits"],
)
def test_a_handler_that_fails_is_a_500(handler: Callable[[Request], Any], cause: str) -> None:
    """The peer gets a 500 without the traceback, which the session keeps for the server."""
    session = http(handler)
    (answer,) = session.receive(GET)
    assert status_of(answer) == 500
    assert cause.encode() not in answer
    assert session.closing
    assert session.fault is not None
    assert cause in session.fault


def test_a_pipeline_ends_at_the_handler_that_failed() -> None:
    """Answers before the failure arrive, and requests after it are not served."""
    served = []

    def handler(request: Request) -> str:
        served.append(request.path)
        return {"/0": "fine"}[request.path]

    pipeline = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(3))
    answers = said(http(handler), [pipeline])
    assert [status_of(answer) for answer in answers] == [200, 500]
    assert served == ["/0", "/1"]


def test_a_session_can_be_freed() -> None:
    """Parser and session hold each other; after end() nothing needs the collector."""
    import gc
    import weakref

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


# ---- random bytes -----------------------------------------------------------------------

FRAGMENTS = [
    b"GET / HTTP/1.1\r\n", b"POST /a?b HTTP/1.1\r\n", b"HEAD /%00 HTTP/1.0\r\n", b"PRI * HTTP/2.0",
    b"CONNECT a:1 HTTP/1.1\r\n", b"Host: a\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b"\r\n", b"\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"A: b\r\n c\r\n", b"\r\n\r\n", GET, EXPECTING,
    BODIES["length"], BODIES["chunked"],
]  # fmt: skip

wild = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(b"".join),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=6)), max_size=12).map(
        b"".join
    ),
)


@pytest.mark.parametrize("protocol", ["hello", "http", "http with a handler"])
@given(data=wild, where=places)
def test_any_bytes_split_anywhere_have_the_same_answers(
    protocol: str, data: bytes, where: list[int]
) -> None:
    """Nothing that a peer can send makes a protocol raise, or depends on how it was cut."""

    def ends(pieces: list[bytes]) -> tuple[bytes, bool, bool, str | None, list[bytes]]:
        handler = (lambda request: repr(request)) if "handler" in protocol else None
        session = make_protocol(protocol.split()[0], handler=handler)()
        # A 100 Continue depends on whether the body was there already, and may.
        out = b"".join(said(session, pieces)).replace(CONTINUE, b"")
        late = [re.sub(DATE, b"", answer) for answer in session.timed_out()]
        state = session.closing, session.linger, session.fault
        session.on_close()
        return out, *state, late

    whole = ends([data] if data else [])
    assert ends(cuts(data, where)) == whole
    assert ends(bytewise(data)) == whole


# ---- one's own --------------------------------------------------------------------------


class Shout(Session):
    """The docstring's example."""

    def receive(self, data: bytes) -> list[bytes]:
        """Answer louder."""
        return [data.upper()]


def test_ones_own_session_is_used() -> None:
    """A class, or any function that makes instances, is a protocol; each peer has its own."""
    for protocol in (Shout, lambda: Shout()):
        made = make_protocol(protocol)
        first, second = made(), made()
        assert first is not second
        assert first.receive(b"hi") == [b"HI"]
        assert first.timed_out() == []
        assert (first.closing, first.linger, first.interim, first.fault) == (
            False,
            False,
            b"",
            None,
        )


def test_a_session_must_say_how_it_receives() -> None:
    """The base class has no answer of its own."""
    with pytest.raises(NotImplementedError):
        Session().receive(b"x")


@pytest.mark.parametrize(
    ("protocol", "wishes", "error", "message"),
    [
        ("htp", {}, ValueError, "one of hello, http, echo, or a callable"),
        (42, {}, TypeError, "42 is not callable"),
        (dict, {}, TypeError, r"must return an epolllab.Session, and returned \{\}"),
        ("hello", {"handler": repr}, ValueError, 'handler= belongs to protocol="http"'),
        (Shout, {"handler": repr}, ValueError, "answer in your own session's receive"),
        ("http", {"handler": "text"}, TypeError, "a function of a request, not 'text'"),
    ],
)
def test_a_protocol_that_is_none_is_refused(
    protocol: Any, wishes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """What was given and what is wanted are in the message."""
    with pytest.raises(error, match=message):
        make_protocol(protocol, **wishes)


def test_every_name_makes_sessions() -> None:
    """The names that there are make the sessions they are called after."""
    made = {name: type(make_protocol(name)()) for name in PROTOCOLS}
    assert issubclass(made["hello"], Hello)
    assert made["http"] is Http
    assert made["echo"] is Echo
    assert GREETING.body == b"Hello, world!"
