"""HTTP over real sockets: what peers may say, what they get, and real clients.

Answers are read with the standard library's HTTP client, which had no part in making
them.
"""

import http.client
import io
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

import epolllab
from epolllab import Response
from epolllab.server import Request
from tests.conftest import needs
from tests.wire import GET, ask, connect, read_to_end, until

PLACES = pytest.mark.parametrize("process", [False, True], ids=["thread", "process"])
OLD = b"GET / HTTP/1.0\r\n\r\n"


def mirror(request: Request) -> Response:
    """Answer with what was asked."""
    text = f"{request.method} {request.path} {request.version} {len(request.body)} "
    return Response(text.encode() + request.body, headers={"X-Host": request.headers["host"]})


def fails(request: Request) -> str:
    """Raise for a path, and answer otherwise."""
    if request.path == "/fail":
        raise ZeroDivisionError("of the handler")
    return "fine"


class _Bytes:
    """Bytes that http.client takes for a socket."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.stream = stream

    def makefile(self, mode: str) -> io.BytesIO:
        return self.stream


class Answer:
    """One parsed answer."""

    def __init__(self, stream: io.BytesIO, method: str) -> None:
        # It closes its file when the body has been read; the next answer is behind it.
        parsed = http.client.HTTPResponse(_Bytes(io.BytesIO(stream.getbuffer()[stream.tell() :])))  # type: ignore[arg-type]
        parsed._method = method  # type: ignore[attr-defined]
        file = parsed.fp
        parsed.begin()
        self.status = parsed.status
        self.version = parsed.version
        self.headers = {name.lower(): value for name, value in parsed.getheaders()}
        length = 0 if method == "HEAD" else int(self.headers.get("content-length", 0))
        self.body = file.read(length)
        stream.seek(file.tell(), io.SEEK_CUR)


def answers(wire: bytes, *methods: str) -> list[Answer]:
    """Parse a stream of answers to requests with these methods; nothing may be left over."""
    stream = io.BytesIO(wire)
    found = []
    while stream.tell() < len(wire):
        found.append(Answer(stream, methods[len(found)] if len(found) < len(methods) else "GET"))
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[epolllab.Server]:
    """Give a server that mirrors what it is asked."""
    with epolllab.start_server(protocol="http", handler=mirror, max_request_bytes=4_000) as server:
        yield server


def request(method: str = "GET", path: str = "/", body: bytes = b"", **headers: str) -> bytes:
    """Make an HTTP/1.1 request; an underscore in a header's name is a hyphen."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


# ---- what peers may say -----------------------------------------------------------------


def test_keep_alive(server: epolllab.Server) -> None:
    """One connection serves many requests; Connection: close ends it after its answer."""
    before = server.stats()["accepted"]
    with connect(server.address) as sock:
        for n in range(5):
            sock.sendall(request(path=f"/{n}"))
            (answer,) = answers(sock.recv(4_096))
            assert answer.body == f"GET /{n} 1.1 0 ".encode()
            assert "connection" not in answer.headers
        sock.sendall(request(path="/last", Connection="close"))
        (answer,) = answers(read_to_end(sock))
    assert answer.body == b"GET /last 1.1 0 "
    assert answer.headers["connection"] == "close"
    assert server.stats()["accepted"] == before + 1


@pytest.mark.parametrize(("trigger", "lifecycle"), [("level", "eager"), ("edge", "once")])
@pytest.mark.parametrize("pieces", [1, 3, 1_000])
def test_pipelining(trigger: str, lifecycle: str, pieces: int) -> None:
    """Requests sent without waiting are answered in order, however they are split."""
    wire = b"".join(request("POST", f"/{n}", b"x" * n) for n in range(40))
    wire += request(path="/end", Connection="close")
    size = -(-len(wire) // pieces)
    cut = [wire[start : start + size] for start in range(0, len(wire), size)]
    with epolllab.start_server(
        protocol="http", handler=mirror, trigger=trigger, lifecycle=lifecycle
    ) as server:
        found = answers(ask(server.address, *cut))
        assert len(server.settle().requests()) == 41
    expected = [f"POST /{n} 1.1 {n} ".encode() + b"x" * n for n in range(40)]
    assert [answer.body for answer in found] == [*expected, b"GET /end 1.1 0 "]


def test_head_has_the_headers_of_get_and_no_body(server: epolllab.Server) -> None:
    """HEAD tells the length and sends nothing after the blank line."""
    wire = ask(
        server.address, request("HEAD", "/a"), request("GET", "/a"), request(Connection="close")
    )
    head, get, _ = answers(wire, "HEAD")
    assert (head.status, head.body) == (200, b"")
    # The body names the method, whose length is one letter more.
    assert int(head.headers["content-length"]) == int(get.headers["content-length"]) + 1
    assert head.headers.keys() == get.headers.keys()


def test_a_body_of_known_length(server: epolllab.Server) -> None:
    """The handler gets the body whole, also when it comes byte by byte."""
    body = bytes(range(256)) * 4
    wire = request("POST", "/", body, Connection="close")
    for pieces in ([wire], [bytes([byte]) for byte in wire]):
        (answer,) = answers(ask(server.address, *pieces))
        assert answer.body == b"POST / 1.1 1024 " + body
        assert answer.headers["x-host"] == "test"


def test_a_chunked_body(server: epolllab.Server) -> None:
    """Chunks, their extensions and the trailer are the parser's; the handler gets the body."""
    head = request("POST", Transfer_Encoding="chunked", Connection="close")
    chunks = b"5\r\nHello\r\n7;a=b\r\n, world\r\n0\r\nX-Sum: 1\r\n\r\n"
    (answer,) = answers(ask(server.address, head, chunks))
    assert answer.body == b"POST / 1.1 12 Hello, world"


def test_100_continue_is_said_at_once(server: epolllab.Server) -> None:
    """A peer that waits to be told sends its body only then; the next request needs no word."""
    with connect(server.address) as sock:
        sock.sendall(request("PUT", Expect="100-continue", Content_Length="4"))
        assert sock.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"body")
        (answer,) = answers(sock.recv(1_000))
        assert answer.body == b"PUT / 1.1 4 body"
        sock.sendall(request())
        assert answers(sock.recv(1_000))[0].status == 200


def test_http_1_0(server: epolllab.Server) -> None:
    """An old peer is answered and closed; one that asks for keep-alive is told it has it."""
    (answer,) = answers(ask(server.address, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"))
    assert answer.headers["connection"] == "close"
    with connect(server.address) as sock:
        for _ in range(2):
            sock.sendall(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
            (answer,) = answers(sock.recv(1_000))
            assert answer.headers["connection"] == "keep-alive"
            assert answer.body == b"GET / 1.0 0 "


def test_an_upgrade_is_declined(server: epolllab.Server) -> None:
    """A peer that offers another protocol is answered in this one, and the connection ends."""
    (answer,) = answers(ask(server.address, request(Connection="Upgrade", Upgrade="websocket")))
    assert answer.status == 200


def test_half_close_before_the_answer(server: epolllab.Server) -> None:
    """A peer that has sent all it has to say still gets its answer."""
    (answer,) = answers(ask(server.address, request(path="/half"), half_close=True))
    assert answer.body == b"GET /half 1.1 0 "


# ---- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # a browser that tries TLS
        (request("POST", Content_Length="5000"), 413),
        (request("POST", Content_Length="9" * 18), 413),
        (request("POST", Transfer_Encoding="chunked") + b"fff\r\n" + b"x" * 4_096, 413),
        (request(X_Large="x" * 5_000), 431),
        (b"GET /" + b"x" * 5_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1_000, 431),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals_arrive(server: epolllab.Server, wire: bytes, status: int) -> None:
    """A request that cannot be served is told so, and the connection ends without a reset."""
    with connect(server.address) as sock:
        sock.sendall(wire)
        (answer,) = answers(read_to_end(sock))
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.body
    assert (
        answers(ask(server.address, OLD.replace(b"\r\n", b"\r\nHost: a\r\n", 1)))[0].status == 200
    )


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (request("POST", Content_Length="3000000") + b"x" * 3_000_000, 413),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 400_000, 431),
    ],
    ids=["413", "431"],
)
def test_a_refusal_reaches_a_peer_that_sends_on(
    server: epolllab.Server, wire: bytes, status: int
) -> None:
    """The answer survives a peer that has much more to say: it is not reset while it sends."""
    with connect(server.address) as sock:
        sock.sendall(wire)
        (answer,) = answers(read_to_end(sock))
    assert answer.status == status


def test_408_in_the_middle_of_a_request() -> None:
    """A peer that stops in its body is told; one that is silent between requests is not."""
    with (
        epolllab.start_server(protocol="http", idle_timeout=0.1) as server,
        connect(server.address) as slow,
        connect(server.address) as idle,
    ):
        slow.sendall(request("POST", Content_Length="10") + b"x")
        idle.sendall(GET)
        (answer,) = answers(read_to_end(slow))
        assert answer.status == 408
        assert [answer.status for answer in answers(read_to_end(idle))] == [200]


@PLACES
def test_500_for_a_handler_that_raises(process: bool) -> None:
    """The peer gets a 500 without a word of the code; the handle has the traceback."""
    with epolllab.start_server(protocol="http", handler=fails, process=process) as server:
        (answer,) = answers(ask(server.address, request(path="/fail")))
        assert answer.status == 500
        assert b"ZeroDivision" not in answer.body
        assert answers(ask(server.address, OLD))[0].body == b"fine"
        stats = server.settle().stats()
        assert (stats["faults"], stats["requests"]) == (1, 2)
        assert server.last_fault
        assert "ZeroDivisionError: of the handler" in server.last_fault
        assert server.recording().metadata["last_fault"] == server.last_fault


@pytest.mark.parametrize("returned", [None, 5, object()])
def test_500_for_a_handler_that_returns_what_is_no_answer(returned: Any) -> None:
    """What is neither a Response, bytes nor a str is the handler's fault."""
    with epolllab.start_server(protocol="http", handler=lambda _: returned) as server:
        (answer,) = answers(ask(server.address, OLD))
        assert answer.status == 500
        assert server.last_fault
        assert "a response's body is bytes or a str" in server.last_fault


def test_a_large_answer_arrives_whole() -> None:
    """What does not fit the kernel's buffers is sent on, in every life cycle."""
    body = bytes(range(256)) * 16_384
    for trigger, lifecycle in (
        ("level", "eager"),
        ("level", "howto"),
        ("edge", "once"),
        ("edge", "oneshot"),
    ):
        with epolllab.start_server(
            protocol="http", handler=lambda _: body, trigger=trigger, lifecycle=lifecycle
        ) as server:
            first, last = answers(ask(server.address, GET, request(Connection="close")))
        assert first.body == last.body == body


# ---- real clients -----------------------------------------------------------------------


@contextmanager
def greeting(process: bool = True) -> Iterator[epolllab.Server]:
    """Start the server as clients in the wild would meet it."""
    with epolllab.start_server(protocol="http", process=process, capacity=200_000) as server:
        yield server


def output(*words: str) -> str:
    """Run a client; what it printed. It must be content."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_curl() -> None:
    """Curl reads the greeting, reuses its connection, sends a large body after a 100, does HEAD."""
    (curl,) = needs("curl")
    quiet = (curl, "--silent", "--show-error", "--noproxy", "*", "--max-time", "30")
    body = "x" * 200_000
    with epolllab.start_server(protocol="http", handler=mirror) as server:
        assert output(*quiet, server.url, server.url) == "GET / 1.1 0 " * 2
        assert server.stats()["accepted"] == 1
        said = output(
            *quiet, "--verbose", "--expect100-timeout", "30", "-H", "Expect: 100-continue",
            "-d", body[:100_000], server.url,
        )  # fmt: skip
        assert "HTTP/1.1 100 Continue" in said
        assert f"POST / 1.1 100000 {body[:100_000]}" in said
        assert "HTTP/1.1 200 OK" in output(*quiet, "--head", server.url)
        assert output(*quiet, "--http1.0", server.url) == "GET / 1.0 0 "
        assert output(*quiet, "-T", __file__, server.url + "put").startswith("PUT /put")
    with epolllab.start_server() as server:
        assert output(*quiet, server.url) == "Hello, world!"


@PLACES
def test_wrk(process: bool) -> None:
    """Wrk counts no error and no status but 200, and the server as many requests as it."""
    (wrk,) = needs("wrk")
    with greeting(process) as server:
        said = output(wrk, "-t1", "-c20", "-d1s", server.url)
        requests = server.settle().stats()["requests"]
    counted = re.search(r"(\d+) requests in", said)
    assert counted, said
    assert "Socket errors" not in said
    assert "Non-2xx" not in said
    # Those under way when wrk's time is up are the server's, and not wrk's.
    assert 0 < int(counted[1]) <= requests <= int(counted[1]) + 20


@pytest.mark.parametrize("keep", [(), ("-k",)], ids=["close", "keep-alive"])
def test_ab(keep: tuple[str, ...]) -> None:
    """Ab, which speaks HTTP/1.0, has all its requests answered, with and without keep-alive."""
    (ab,) = needs("ab")
    with greeting() as server:
        said = output(ab, "-q", *keep, "-n", "2000", "-c", "20", server.url)
        stats = server.settle().stats()
    assert re.search(r"Complete requests: +2000\n", said), said
    assert re.search(r"Failed requests: +0\n", said), said
    assert "Non-2xx" not in said
    assert bool(re.search(r"Keep-Alive requests: +2000\n", said)) is bool(keep), said
    assert stats["requests"] >= 2_000
    assert stats["accepted"] >= (20 if keep else 2_000)


def test_httpx() -> None:
    """Httpx, with its own parser in Python, finds nothing to object to."""
    with (
        epolllab.start_server(protocol="http", handler=mirror) as server,
        httpx.Client(base_url=server.url, trust_env=False) as client,
    ):
        for n in range(5):
            answer = client.post(f"/{n}", content=b"x" * n)
            assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")
            assert answer.content == f"POST /{n} 1.1 {n} ".encode() + b"x" * n
        assert client.head("/").content == b""
        chunked = client.post("/", content=iter([b"one", b"two"]))
        assert chunked.text == "POST / 1.1 6 onetwo"
        assert client.get("/", headers={"Connection": "close"}).status_code == 200
        assert client.get("/again").text == "GET /again 1.1 0 "
        until(lambda: server.stats()["accepted"] == 2)
