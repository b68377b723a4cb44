"""What peers do wrong: huge, slow and random requests, resets, and never reading."""

import errno
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import epolllab
from epolllab import kernel
from epolllab.events import Op
from epolllab.frames.completions import as_calls
from epolllab.server import Hello
from tests.server.helpers import EVERY_WAY, OLD, PLACES, has_blocked_send
from tests.wire import GET, Address, ask, connect, read_to_end, reset, until

LARGE = 1_000_000
"""Bytes that fit neither the small send buffer nor what a peer that reads nothing takes."""

GET_LARGE = GET.replace(b"/", b"/large", 1)
GET_WAIT = GET.replace(b"/", b"/wait", 1)


# ---- requests ---------------------------------------------------------------------------


@EVERY_WAY
def test_a_request_that_is_too_large(way: dict[str, Any]) -> None:
    with epolllab.start_server(max_request_bytes=100_000, **way) as server:
        assert ask(server.address, b"x" * 3_000_000, half_close=True) == Hello.TOO_LARGE
        assert ask(server.address, GET) == Hello.RESPONSE
        assert server.settle().stats()["accepted"] == 2


@pytest.mark.parametrize("protocol", ["hello", "http"])
def test_a_request_that_never_ends(protocol: Any) -> None:
    """The peer gets a response, is read from for a while, and is then closed."""

    def send_forever(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"x" * 1_000)

    with (
        epolllab.start_server(protocol=protocol, max_request_bytes=10_000) as server,
        connect(server.address) as sock,
    ):
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_forever(sock)
        assert server.settle().stats()["closed"] == 1


@pytest.mark.parametrize("protocol", ["hello", "http", "echo"])
@EVERY_WAY
def test_one_byte_at_a_time(protocol: Any, way: dict[str, Any]) -> None:
    wire = b"GET / HTTP/1.0\r\nA: b\r\n\r\n"
    with epolllab.start_server(protocol=protocol, **way) as server:
        with connect(server.address) as sock:
            for n, byte in enumerate(wire, 1):
                sock.sendall(bytes([byte]))
                until(lambda n=n: bytes_read(server) == n)  # type: ignore[misc]
            sock.shutdown(socket.SHUT_WR)
            response = read_to_end(sock)
        assert server.settle().stats()["lost"] == 0
    if protocol == "echo":
        assert response == wire
    else:
        assert response.startswith(b"HTTP/1.")
        assert response.endswith(b"\r\n\r\nHello, world!")


def bytes_read(server: epolllab.Server) -> int:
    """What the loop has read from all its peers so far."""
    rows = as_calls(server.recording().array())
    return int(rows["result"][(rows["op"] == Op.RECV) & (rows["result"] > 0)].sum())


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=100),
        st.sampled_from(
            [b"\n\n", b"\n\r\n", b"\r\n", b"GET / HTTP/1.1", b"Content-Length: 3", b"\0" * 70, GET]
        ),
    ),
    max_size=8,
)


@pytest.mark.parametrize("protocol", ["hello", "http", "echo"])
@pytest.mark.parametrize(("trigger", "lifecycle"), [("level", "eager"), ("edge", "once")])
def test_random_bytes(protocol: Any, trigger: Any, lifecycle: Any) -> None:
    """No bytes, in whatever pieces, make the loop raise, and the next peer is served."""
    with epolllab.start_server(
        protocol=protocol, trigger=trigger, lifecycle=lifecycle, max_request_bytes=200, recv_size=64
    ) as server:

        @given(pieces=PIECES)
        @settings(max_examples=30)
        def send(pieces: list[bytes]) -> None:
            response = response_to(server.address, list(filter(None, pieces)))
            if protocol == "echo":
                assert response == b"".join(pieces)
            elif protocol == "hello":
                assert response in (None, b"", Hello.RESPONSE, Hello.TOO_LARGE)
            else:
                statuses = rb"HTTP/1\.1 (100|200|400|413|431|501|505) |$"
                assert response is None or re.match(statuses, response)
            served = ask(server.address, OLD, half_close=True)
            assert served.startswith(OLD if protocol == "echo" else b"HTTP/1.")

        send()
        stats = server.settle().stats()
    assert stats["faults"] == 0
    assert stats["accepted"] == stats["closed"] > 30


def response_to(address: Address, pieces: list[bytes]) -> bytes | None:
    """What the server sends; None if it closed before all was sent."""
    try:
        return ask(address, *pieces, half_close=True)
    except OSError as error:
        # The half-close fails with ENOTCONN after a reset.
        if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
            return None
        raise


@pytest.mark.processes
@PLACES
def test_ten_thousand_connects_and_closes(process: bool) -> None:
    """Each is accepted and closed once, and no descriptor of them is left."""
    script = epolllab.script().connect().close().repeat(100)
    with epolllab.start_server(process=process) as server:
        ask(server.address, GET)
        open_before = kernel.descriptors_open(server.pid)
        run = epolllab.run_clients(
            server, script=script, connections=100, source_addresses=4, progress=False
        )
        assert run.summary()["succeeded"] == 100
        until(lambda: server.stats()["closed"] == 10_001)
        assert server.settle().stats()["accepted"] == 10_001
        assert kernel.descriptors_open(server.pid) == open_before
        assert ask(server.address, GET) == Hello.RESPONSE


# ---- resets and peers that do not read --------------------------------------------------


class Setup:
    """A server whose handler can be blocked, and has a large response."""

    def __init__(self, way: dict[str, Any]) -> None:
        self.entered, self.proceed = threading.Event(), threading.Event()
        self.server = epolllab.start_server(
            protocol="http", handler=self.handle, send_buffer=10_000, **way
        )

    def handle(self, request: epolllab.server.Request) -> bytes:
        """Wait for `proceed` if the path says so."""
        if request.path == "/wait":
            self.entered.set()
            assert self.proceed.wait(20)
        return b"x" * (LARGE if request.path == "/large" else 1)

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Block the loop in another peer's handler."""
        with connect(self.server.address) as other:
            other.sendall(GET_WAIT)
            assert self.entered.wait(20)
            try:
                yield
            finally:
                self.proceed.set()
            assert other.recv(1_000).startswith(b"HTTP/1.1 200")

    def until_open(self, n: int) -> None:
        """Wait until `n` connections are open."""
        until(lambda: self.server.stats()["connections"] == n)

    def until_would_block(self) -> None:
        """Wait until a response did not fit."""
        until(lambda: has_blocked_send(self.server))


@pytest.fixture
def setup(way: dict[str, Any]) -> Iterator[Setup]:
    """A server that must serve as before when the test has ended."""
    setup = Setup(way)
    with setup.server as server:
        yield setup
        setup.until_open(0)
        assert ask(server.address, OLD).endswith(b"x")
        stats = server.settle().stats()
        assert stats["accepted"] == stats["closed"]
        assert stats["faults"] == 0


@EVERY_WAY
def test_a_reset_before_the_accept(setup: Setup) -> None:
    """A peer that was reset when it is accepted is closed like any other."""
    with setup.blocked():
        for data in (b"", b"GET", GET):
            sock = connect(setup.server.address)
            sock.sendall(data)
            reset(sock)


@EVERY_WAY
@pytest.mark.parametrize(
    ("data", "wait"),
    [
        (b"", lambda setup: setup.until_open(1)),
        (GET[:10], lambda setup: until(lambda: bytes_read(setup.server) == 10)),
        (GET_WAIT, lambda setup: setup.entered.wait(20)),
        (GET_LARGE, lambda setup: setup.until_would_block()),
    ],
    ids=["after-the-accept", "in-the-request", "before-the-response", "in-the-response"],
)
def test_a_reset(setup: Setup, data: bytes, wait: Callable[[Setup], None]) -> None:
    """Whenever it arrives, the connection counts as lost, and others are served."""
    sock = connect(setup.server.address)
    sock.sendall(data)
    wait(setup)
    reset(sock)
    setup.proceed.set()
    until(lambda: setup.server.stats()["lost"] == 1)


@EVERY_WAY
def test_half_close_before_a_large_response(setup: Setup) -> None:
    """A peer that has shut down its sending side, and reads late, gets all of it."""
    with connect(setup.server.address) as sock:
        sock.sendall(GET_LARGE)
        sock.shutdown(socket.SHUT_WR)
        setup.until_would_block()
        assert read_to_end(sock).endswith(b"x" * LARGE)


@EVERY_WAY
def test_a_peer_that_never_reads(setup: Setup) -> None:
    """It is not read from either, causes no wakeups, and delays no other peer."""
    with connect(setup.server.address) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
        sock.sendall(GET_LARGE)
        setup.until_would_block()
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):  # what it sends stays in the kernel's buffers
            sock.sendall(GET * 1_000_000)
        assert setup.server.stats()["requests"] == 1
        before = setup.server.stats()["wakeups"]
        for _ in range(10):
            assert ask(setup.server.address, OLD).endswith(b"x")
        # Each connection takes a few: accept, read, write, end.
        assert setup.server.stats()["wakeups"] - before <= 10 * 6
        reset(sock)


def test_a_peer_that_never_reads_is_closed_by_idle_timeout() -> None:
    body = b"x" * 8_000_000  # more than the kernel tunes both buffers to
    with (
        epolllab.start_server(protocol="http", handler=lambda _: body, idle_timeout=0.2) as server,
        connect(server.address) as sock,
    ):
        sock.sendall(GET)
        until(lambda: server.stats()["timeouts"] == 1)
        assert server.settle().stats()["closed"] == 1
