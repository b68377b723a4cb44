"""HTTP over sockets: what peers send, what they receive, and real clients.

The standard library's HTTP client parses the responses, independently of the package.
"""

import http.client
import io
import re
import subprocess
from collections.abc import Iterator
from email.message import Message
from typing import Any, NamedTuple

import httpx
import pytest

import epolllab
from epolllab import Response
from epolllab.server import Request
from tests.conftest import needs
from tests.server.helpers import OLD, PLACES
from tests.wire import GET, ask, connect, read_to_end, until


def mirror(request: Request) -> Response:
    """Respond with what was requested."""
    text = f"{request.method} {request.path} {request.version} {len(request.body)} "
    return Response(text.encode() + request.body, headers={"X-Host": request.headers["host"]})


def fails(request: Request) -> str:
    """Raise for one path."""
    if request.path == "/fail":
        raise ZeroDivisionError("of the handler")
    return "fine"


class _Stream(io.BytesIO):
    """Bytes that http.client takes for a socket; it closes its file after each response."""

    def makefile(self, mode: str) -> "_Stream":
        return self

    def close(self) -> None:
        """Stay open."""


class Parsed(NamedTuple):
    """One response of a stream."""

    status: int
    headers: Message
    body: bytes


def parse(wire: bytes) -> list[Parsed]:
    """Parse a stream of responses."""
    stream = _Stream(wire)
    found: list[Parsed] = []
    while stream.tell() < len(wire):
        response = http.client.HTTPResponse(stream)  # type: ignore[arg-type]
        response.begin()
        found.append(Parsed(response.status, response.headers, response.read()))
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[epolllab.Server]:
    """A server whose handler is :func:`mirror`."""
    with epolllab.start_server(protocol="http", handler=mirror, max_request_bytes=4_000) as server:
        yield server


def request(method: str = "GET", path: str = "/", body: bytes = b"", **headers: str) -> bytes:
    """Make an HTTP/1.1 request; an underscore in a header's name becomes a hyphen."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


# ---- what peers may send ----------------------------------------------------------------


def test_keep_alive(server: epolllab.Server) -> None:
    before = server.stats()["accepted"]
    with connect(server.address) as sock:
        for n in range(5):
            sock.sendall(request(path=f"/{n}"))
            (response,) = parse(sock.recv(4_096))
            assert response.body == f"GET /{n} 1.1 0 ".encode()
            assert "connection" not in response.headers
        sock.sendall(request(path="/last", Connection="close"))
        (response,) = parse(read_to_end(sock))
    assert response.body == b"GET /last 1.1 0 "
    assert response.headers["connection"] == "close"
    assert server.stats()["accepted"] == before + 1


@pytest.mark.parametrize(("trigger", "lifecycle"), [("level", "eager"), ("edge", "once")])
@pytest.mark.parametrize("pieces", [1, 3, 1_000])
def test_pipelining(trigger: Any, lifecycle: Any, pieces: int) -> None:
    wire = b"".join(request("POST", f"/{n}", b"x" * n) for n in range(40))
    wire += request(path="/end", Connection="close")
    size = -(-len(wire) // pieces)
    cut = [wire[start : start + size] for start in range(0, len(wire), size)]
    with epolllab.start_server(
        protocol="http", handler=mirror, trigger=trigger, lifecycle=lifecycle
    ) as server:
        found = parse(ask(server.address, *cut))
        assert len(server.settle().requests()) == 41
    expected = [f"POST /{n} 1.1 {n} ".encode() + b"x" * n for n in range(40)]
    assert [response.body for response in found] == [*expected, b"GET /end 1.1 0 "]


BINARY = bytes(range(256)) * 4
CHUNKS = b"5\r\nHello\r\n7;a=b\r\n, world\r\n0\r\nX-Sum: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (request("POST", "/", BINARY, Connection="close"), b"POST / 1.1 1024 " + BINARY),
        (
            request("POST", Transfer_Encoding="chunked", Connection="close") + CHUNKS,
            b"POST / 1.1 12 Hello, world",
        ),
        (b"GET / HTTP/1.0\r\nHost: test\r\n\r\n", b"GET / 1.0 0 "),
        (request(Connection="close, Upgrade", Upgrade="websocket"), b"GET / 1.1 0 "),
    ],
    ids=["length", "chunked", "1.0", "upgrade"],
)
def test_a_last_request(server: epolllab.Server, wire: bytes, body: bytes) -> None:
    """It gets the whole response before the close, also when it arrives byte by byte."""
    for pieces in ([wire], [bytes([byte]) for byte in wire]):
        (response,) = parse(ask(server.address, *pieces))
        assert (response.status, response.body) == (200, body)
        assert response.headers["x-host"] == "test"


def test_100_continue(server: epolllab.Server) -> None:
    with connect(server.address) as sock:
        sock.sendall(request("PUT", Expect="100-continue", Content_Length="4"))
        assert sock.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"body")
        (response,) = parse(sock.recv(1_000))
        assert response.body == b"PUT / 1.1 4 body"
        sock.sendall(request())
        assert parse(sock.recv(1_000))[0].status == 200


# ---- refusals ---------------------------------------------------------------------------


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
        (request("POST", Content_Length="3000000") + b"x" * 3_000_000, 413),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 400_000, 431),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals_arrive(server: epolllab.Server, wire: bytes, status: int) -> None:
    """The connection ends without a reset, also while the peer sends on."""
    with connect(server.address) as sock:
        sock.sendall(wire)
        (response,) = parse(read_to_end(sock))
    assert response.status == status
    assert response.headers["connection"] == "close"
    assert response.body
    assert parse(ask(server.address, request(Connection="close")))[0].status == 200


@PLACES
def test_500_for_a_handler_that_raises(process: bool) -> None:
    """The response has no traceback; the handle has it."""
    with epolllab.start_server(protocol="http", handler=fails, process=process) as server:
        (response,) = parse(ask(server.address, request(path="/fail")))
        assert response.status == 500
        assert b"ZeroDivision" not in response.body
        assert parse(ask(server.address, OLD))[0].body == b"fine"
        stats = server.settle().stats()
        assert (stats["faults"], stats["requests"]) == (1, 2)
        assert server.last_fault
        assert "ZeroDivisionError: of the handler" in server.last_fault
        assert server.recording().metadata["last_fault"] == server.last_fault


def test_a_large_response_arrives_whole() -> None:
    body = bytes(range(256)) * 16_384
    ways: Any = [("level", "eager"), ("level", "howto"), ("edge", "once"), ("edge", "oneshot")]
    for trigger, lifecycle in ways:
        with epolllab.start_server(
            protocol="http", handler=lambda _: body, trigger=trigger, lifecycle=lifecycle
        ) as server:
            first, last = parse(ask(server.address, GET, request(Connection="close")))
        assert first.body == last.body == body


# ---- real clients -----------------------------------------------------------------------


def output(*words: str) -> str:
    """Run a client, which must succeed; return what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.processes
def test_curl() -> None:
    """It reuses its connection, sends a large body after a 100, and does HEAD, PUT and 1.0."""
    (curl,) = needs("curl")
    quiet = (curl, "--silent", "--show-error", "--noproxy", "*", "--max-time", "30")
    body = "x" * 100_000
    with epolllab.start_server(protocol="http", handler=mirror) as server:
        assert output(*quiet, server.url, server.url) == "GET / 1.1 0 " * 2
        assert server.stats()["accepted"] == 1
        text = output(
            *quiet, "--verbose", "--expect100-timeout", "30", "-H", "Expect: 100-continue",
            "-d", body, server.url,
        )  # fmt: skip
        assert "HTTP/1.1 100 Continue" in text
        assert f"POST / 1.1 100000 {body}" in text
        assert "HTTP/1.1 200 OK" in output(*quiet, "--head", server.url)
        assert output(*quiet, "--http1.0", server.url) == "GET / 1.0 0 "
        assert output(*quiet, "-T", __file__, server.url + "put").startswith("PUT /put")
    with epolllab.start_server() as server:
        assert output(*quiet, server.url) == "Hello, world!"


@pytest.mark.processes
@PLACES
def test_wrk(process: bool) -> None:
    (wrk,) = needs("wrk")
    with epolllab.start_server(protocol="http", process=process, capacity=200_000) as server:
        text = output(wrk, "-t1", "-c20", "-d1s", server.url)
        requests = server.settle().stats()["requests"]
    counted = re.search(r"(\d+) requests in", text)
    assert counted, text
    assert "Socket errors" not in text
    assert "Non-2xx" not in text
    # Only the server counts the requests in flight when wrk's time is up.
    assert 0 < int(counted[1]) <= requests <= int(counted[1]) + 20


@pytest.mark.processes
@pytest.mark.parametrize("keep", [(), ("-k",)], ids=["close", "keep-alive"])
def test_ab(keep: tuple[str, ...]) -> None:
    (ab,) = needs("ab")
    with epolllab.start_server(protocol="http", process=True, capacity=200_000) as server:
        text = output(ab, "-q", *keep, "-n", "2000", "-c", "20", server.url)
        stats = server.settle().stats()
    assert re.search(r"Complete requests: +2000\n", text), text
    assert re.search(r"Failed requests: +0\n", text), text
    assert "Non-2xx" not in text
    assert bool(re.search(r"Keep-Alive requests: +2000\n", text)) is bool(keep), text
    assert stats["requests"] >= 2_000
    assert stats["accepted"] >= (20 if keep else 2_000)


def test_httpx() -> None:
    with (
        epolllab.start_server(protocol="http", handler=mirror) as server,
        httpx.Client(base_url=server.url, trust_env=False) as client,
    ):
        for n in range(5):
            response = client.post(f"/{n}", content=b"x" * n)
            assert (response.status_code, response.http_version) == (200, "HTTP/1.1")
            assert response.content == f"POST /{n} 1.1 {n} ".encode() + b"x" * n
        assert client.head("/").content == b""
        chunked = client.post("/", content=iter([b"one", b"two"]))
        assert chunked.text == "POST / 1.1 6 onetwo"
        assert client.get("/", headers={"Connection": "close"}).status_code == 200
        assert client.get("/again").text == "GET /again 1.1 0 "
        until(lambda: server.stats()["accepted"] == 2)
