"""Peers that send slowly or read nothing: they hold neither connections nor memory."""

import socket
import threading
import time
from typing import Any

import pytest

import epolllab
from epolllab.server import Hello, Request, timers
from tests.server.helpers import EVERY_WAY, options_of
from tests.wire import GET, ask, connect, read_to_end, until

TIMEOUT_S = 0.4
HTTP_408 = b"HTTP/1.1 408 Request Timeout\r\n"

SLOW = {
    "method": b"GE",
    "head": b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
    "blank lines": b"\r\n",
    "body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\nab",
    "chunk": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nFFFF\r\nab",
    "second request": GET + b"GET / HTTP/1.1\r\n",
}
"""Beginnings of requests that are never complete."""


@pytest.fixture
def way(poller: str, trigger: str, lifecycle: str) -> dict[str, Any]:
    """The parameters of ``EVERY_WAY`` as keyword arguments of start_server()."""
    return options_of(poller, trigger, lifecycle)


def drip(socks: list[socket.socket], data: bytes, seconds: float) -> None:
    """Send `data` again and again; stops at a connection that has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for sock in socks:
            try:
                sock.sendall(data)
            except OSError:
                return
        time.sleep(seconds / 10)


# ---- request_timeout --------------------------------------------------------------------


@EVERY_WAY
def test_dripping_requests(way: dict[str, Any]) -> None:
    """Each gets a 408 and is closed; idle connections, also between requests, stay open."""
    with epolllab.start_server(protocol="http", request_timeout=TIMEOUT_S, **way) as server:
        socks = {name: connect(server.address) for name in [*SLOW, "idle", "between"]}
        socks["between"].sendall(GET)
        assert socks["between"].recv(1_000).startswith(b"HTTP/1.1 200")
        for name, begun in SLOW.items():
            socks[name].sendall(begun)
        dripping = [socks[name] for name in SLOW if name not in ("method", "blank lines")]
        drip(dripping, b"1", TIMEOUT_S * 0.8)
        drip([socks["blank lines"]], b"\r\n", TIMEOUT_S * 0.1)
        for name in SLOW:
            received = read_to_end(socks[name])
            expected = b"HTTP/1.1 200" if name == "second request" else HTTP_408
            assert received.startswith(expected), name
            assert received.count(HTTP_408) == 1, name
        assert server.stats()["timeouts"] == len(SLOW)
        for sock in (socks["idle"], socks["between"]):
            sock.sendall(GET[:10])
            sock.sendall(GET[10:])
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        for sock in socks.values():
            sock.close()
        assert server.settle().stats()["lost"] == 0


@EVERY_WAY
def test_hello_has_a_timeout(way: dict[str, Any]) -> None:
    with epolllab.start_server(request_timeout=1, **way) as server:
        assert ask(server.address, b"GET / HT", b"TP/1.0\r\n") == Hello.TIMED_OUT
        assert ask(server.address, GET[:9], GET[9:]) == Hello.RESPONSE
        assert server.settle().stats()["timeouts"] == 1


class Lines(epolllab.Session):
    """Responds to each line, and says when one has begun if the class says so."""

    declares = True
    rest = b""

    def receive(self, data: bytes) -> list[bytes]:
        """Return the complete lines."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.in_request = self.declares and bool(self.rest)
        return lines


class Undeclared(Lines):
    """Does not say when a request has begun."""

    declares = False


@pytest.mark.parametrize("protocol", ["echo", Lines, Undeclared])
def test_sessions_of_the_user(protocol: Any) -> None:
    """Only one that sets `in_request` is closed, without a response that it did not give."""
    with epolllab.start_server(protocol=protocol, request_timeout=0.1) as server:
        with connect(server.address) as sock:
            sock.sendall(b"line\nbegun")
            assert sock.recv(4) == b"line"
            if protocol == "echo":
                assert sock.recv(6) == b"\nbegun"
            if protocol is Lines:
                assert read_to_end(sock) == b""
            else:
                time.sleep(0.3)
                sock.sendall(b"\n")
                assert sock.recv(100).endswith(b"begun" if protocol is Undeclared else b"\n")
        assert server.settle().stats()["timeouts"] == (protocol is Lines)


def test_no_limit() -> None:
    with (
        epolllab.start_server(protocol="http", request_timeout=None) as server,
        connect(server.address) as sock,
    ):
        sock.sendall(GET[:5])
        until(lambda: server.stats()["events"] >= 2)
        time.sleep(0.1)
        assert server.wakeups()["timeout_ms"].isna().all()
        sock.sendall(GET[5:])
        assert sock.recv(1_000).startswith(b"HTTP/1.1 200")


@EVERY_WAY
def test_no_wakeups_between_requests(way: dict[str, Any]) -> None:
    """A limit wakes the loop while a request is incomplete, and not after it."""
    with (
        epolllab.start_server(protocol="http", request_timeout=1, **way) as server,
        connect(server.address) as sock,
    ):
        for _ in range(3):
            sock.sendall(GET[:5])
            sock.sendall(GET[5:])
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        time.sleep(0.2)
        before = server.stats()["wakeups"]
        time.sleep(1.1)
        assert server.stats()["wakeups"] == before
        assert server.stats()["timeouts"] == 0


def test_what_arrives_during_a_slow_handler_is_in_time() -> None:
    """The loop reads what has arrived before it closes a connection that looks slow."""
    entered = threading.Event()

    def handler(request: Request) -> str:
        if request.path == "/slow":
            entered.set()
            time.sleep(1.2)
        return request.path

    with (
        epolllab.start_server(protocol="http", handler=handler, request_timeout=1) as server,
        connect(server.address) as begun,
        connect(server.address) as slow,
    ):
        begun.sendall(GET[:10])
        until(lambda: server.tail().counts().get("recv") == 1)
        slow.sendall(GET.replace(b"/", b"/slow", 1))
        assert entered.wait(20)
        begun.sendall(GET[10:])
        assert begun.recv(1_000).startswith(b"HTTP/1.1 200")
        assert slow.recv(1_000).endswith(b"/slow")


# ---- refusing a slow upload -------------------------------------------------------------

REFUSED = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n"


@EVERY_WAY
def test_a_slow_upload_gets_its_413(way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The server reads on while bytes arrive, and the peer reads when it has sent all."""
    monkeypatch.setattr(timers, "LINGER_S", 0.5)
    with (
        epolllab.start_server(protocol="http", max_request_bytes=1_000, **way) as server,
        connect(server.address) as sock,
    ):
        sock.sendall(REFUSED)
        for _ in range(10):  # twice as long as a silent peer would have
            time.sleep(0.1)
            sock.sendall(b"x" * 40_000)
        assert b"HTTP/1.1 413" in read_to_end(sock)


@pytest.mark.parametrize(
    ("limit", "value"), [("LINGER_MOST_S", 0.5), ("LINGER_MOST_BYTES", 100_000)]
)
def test_reading_on_is_bounded(limit: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, limit, value)
    with (
        epolllab.start_server(protocol="http", max_request_bytes=1_000) as server,
        connect(server.address) as sock,
    ):
        sock.sendall(REFUSED)

        def is_closed() -> bool:
            try:
                sock.sendall(b"x" * 10_000)
            except OSError:
                return True
            time.sleep(0.01)
            return False

        until(is_closed)
        assert server.settle().stats()["closed"] == 1


# ---- pipelines whose responses are not read ---------------------------------------------

N_REQUESTS = 20
LARGE = 300_000


def numbered(first: int, last: int) -> bytes:
    """Requests whose targets are numbers."""
    return b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(first, last))


@EVERY_WAY
def test_a_pipeline_whose_responses_are_not_read(way: dict[str, Any]) -> None:
    """Requests wait while responses do; then each is answered once, in order."""
    handled: list[str] = []

    def handler(request: Request) -> bytes:
        handled.append(request.path)
        return request.path.encode().ljust(LARGE)

    with (
        epolllab.start_server(
            protocol="http", handler=handler, send_buffer=50_000, request_timeout=0.5, **way
        ) as server,
        socket.socket() as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
        sock.settimeout(20)
        sock.connect(server.address)
        sock.sendall(numbered(0, N_REQUESTS) + GET[:10])
        until(lambda: handled)
        time.sleep(0.7)
        assert len(handled) <= 2
        assert ask(server.address, GET[:-2] + b"Connection: close\r\n\r\n").startswith(b"HTTP")
        with sock.makefile("rb") as file:
            for n in range(N_REQUESTS):
                while file.readline() != b"\r\n":
                    pass
                assert file.read(LARGE).strip() == b"/%d" % n
        # The time of the request that was begun did not pass while the responses waited.
        sock.sendall(GET[10:])
        assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        assert server.stats()["timeouts"] == 0
        assert [path for path in handled if path != "/"] == [f"/{n}" for n in range(N_REQUESTS)]


class Repeating(epolllab.Session):
    """Responds to each byte with many, and puts back the rest."""

    def receive(self, data: bytes) -> list[bytes]:
        """Handle one byte."""
        self.unhandled = data[1:]
        self.closing = data[:1] == b"."
        return [data[:1] * 50_000]


@EVERY_WAY
def test_a_session_that_puts_back_input(way: dict[str, Any]) -> None:
    """Up to its last response, after which the rest is dropped."""
    with epolllab.start_server(protocol=Repeating, **way) as server:
        expected = b"".join(bytes([byte]) * 50_000 for byte in b"abcdefgh.")
        assert ask(server.address, b"abcdefgh.dropped") == expected
        assert server.settle().stats()["faults"] == 0
