"""Faults and bad input: what peers, programs and people do wrong, and what is left after.

After each test the threads, children, descriptors and listening ports of this process
are what they were: ``conftest.leaves_nothing`` looks. What happens to a process's limit
of descriptors, or to a parent that is killed, is tried in a process of its own.
"""

import errno
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import epolllab
from epolllab import kernel
from epolllab.events import Op
from epolllab.server.protocols import Hello
from tests.kernels import notebook_kernel, run_cell
from tests.server.helpers import EVERY_WAY, OLD, PLACES
from tests.wire import GET, Address, ask, connect, is_refused, read_to_end, reset, until


@pytest.fixture
def way(poller: str, trigger: str, lifecycle: str) -> dict[str, Any]:
    """Give the options of one way of keeping interest right."""
    return {"poller": poller, "trigger": trigger, "lifecycle": lifecycle, "capacity": 50_000}


class Program:
    """A Python program that a test talks to, line by line."""

    def __init__(self, running: "subprocess.Popen[str]") -> None:
        self.running = running

    def hear(self) -> Any:
        """Read a line of JSON that it printed."""
        assert self.running.stdout
        line = self.running.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)

    def say(self, line: str = "") -> None:
        """Write a line to it."""
        assert self.running.stdin
        self.running.stdin.write(line + "\n")
        self.running.stdin.flush()

    def evaluate(self, expression: str) -> Any:
        """Have it evaluate an expression, if it is one that listens."""
        self.say(expression)
        return self.hear()


@contextmanager
def program(text: str) -> Iterator[Program]:
    """Run a program with epolllab and ``tell(value)`` at hand; it is gone in the end."""
    start = "import json, sys, epolllab\ndef tell(value): print(json.dumps(value), flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", start + textwrap.dedent(text)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield Program(running)
        finally:
            running.kill()


# ---- what the system refuses ------------------------------------------------------------


@PLACES
def test_a_port_in_use(process: bool) -> None:
    """The error has the port and the way out, and the server that was there serves on."""
    with epolllab.start_server() as server:
        with pytest.raises(OSError, match=rf"port {server.port}: .*port=0 takes a free") as caught:
            epolllab.start_server(port=server.port, process=process)
        assert caught.value.errno == errno.EADDRINUSE
        assert ask(server.address, GET) == Hello.RESPONSE
        assert epolllab.servers() == [server]
        assert not kernel.children()
    with epolllab.start_server(port=server.port, process=process) as again:
        assert ask(again.address, GET) == Hello.RESPONSE


NEEDY = """
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    server = epolllab.start_server(protocol="http", {wishes})
    server.recording().errors()  # imports what it needs while there are descriptors for it
    # From here on six descriptors more than are open now.
    soft = epolllab.kernel.proc.descriptors_open() + 6
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    tell(server.port)
    for line in sys.stdin:
        tell(eval(line))
"""


@EVERY_WAY
def test_no_descriptor_left(way: dict[str, Any]) -> None:
    """Those there are are served, nothing spins, and a free descriptor is used at once."""
    wishes = ", ".join(f"{name}={value!r}" for name, value in way.items())
    with program(NEEDY.replace("{wishes}", wishes)) as needy:
        address = ("127.0.0.1", needy.hear())
        peers = [connect(address) for _ in range(12)]
        try:
            until(lambda: needy.evaluate("server.stats()")["pauses"])
            assert needy.evaluate("server.stats()")["connections"] == 6
            for sock in peers[:6]:
                sock.sendall(GET)
                assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
            assert growth_of_wakeups(needy) < 100  # a loop that spins makes tens of thousands
            for sock in peers[:6]:
                sock.close()
            for sock in peers[6:]:
                sock.sendall(GET)
                assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
            assert needy.evaluate("server.recording().errors()")["accept EMFILE"] >= 1
            assert needy.evaluate("server.stats()")["accepted"] == 12
        finally:
            for sock in peers:
                sock.close()
        assert needy.evaluate("server.settle().stats()")["closed"] == 12


def growth_of_wakeups(needy: Program, seconds: float = 0.5) -> int:
    """Waits that returned in a while; a busy machine makes fewer, never more."""
    before = needy.evaluate("server.stats()")["wakeups"]
    time.sleep(seconds)
    return int(needy.evaluate("server.stats()")["wakeups"]) - before


def test_descriptors_that_somebody_else_frees() -> None:
    """Accepting is tried again now and then, since no close of the server's may ever come."""
    with program(NEEDY.replace("{wishes}", "")) as needy:
        address = ("127.0.0.1", needy.hear())
        needy.evaluate("[setattr(sys, f'f{n}', open('/dev/null')) for n in range(6)]")
        with connect(address) as sock:
            until(lambda: needy.evaluate("server.stats()")["pauses"])
            assert needy.evaluate("server.stats()")["connections"] == 0
            needy.evaluate("[getattr(sys, f'f{n}').close() for n in range(6)]")
            sock.sendall(GET)
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")


@PLACES
def test_more_descriptors_than_the_limit(process: bool) -> None:
    """The error names what was wanted and the limit found, and nothing is left."""
    hard = kernel.descriptor_limits().hard
    with pytest.raises(kernel.DescriptorLimitError, match=f"may have {hard:,}") as caught:
        epolllab.start_server(max_connections=hard, process=process)
    assert caught.value.wanted > hard
    assert caught.value.errno == errno.EMFILE
    assert not epolllab.servers()


@PLACES
def test_a_soft_limit_is_raised_by_itself(process: bool) -> None:
    """Connections beyond the soft limit are served; a child's need leaves the parent's limit."""
    text = f"""
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        server = epolllab.start_server(protocol="http", max_connections=150, process={process})
        tell(server.port)
        for line in sys.stdin:
            tell(eval(line))
    """
    with program(text) as modest:
        address = ("127.0.0.1", modest.hear())
        peers = [connect(address) for _ in range(150)]
        for sock in peers:
            sock.sendall(GET)
        for sock in peers:
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        stats = modest.evaluate("server.stats()")
        assert stats["connections"] == 150
        assert "accept EMFILE" not in modest.evaluate("server.recording().errors()")
        soft = modest.evaluate("resource.getrlimit(resource.RLIMIT_NOFILE)[0]")
        assert soft == 64 if process else soft > 150
        for sock in peers:
            sock.close()


# ---- what peers do ----------------------------------------------------------------------


@EVERY_WAY
def test_a_request_that_is_too_large(way: dict[str, Any]) -> None:
    """A peer with no blank line in sight is told 413, and its unread bytes do not reset that."""
    with epolllab.start_server(max_request_bytes=100_000, **way) as server:
        assert ask(server.address, b"x" * 3_000_000, half_close=True) == Hello.TOO_LARGE
        assert ask(server.address, GET) == Hello.RESPONSE
        assert server.settle().stats()["accepted"] == 2


@pytest.mark.parametrize("protocol", ["hello", "http"])
def test_a_request_that_never_ends(protocol: str) -> None:
    """A peer that sends for ever is answered, read from for a while, and then closed."""
    with (
        epolllab.start_server(protocol=protocol, max_request_bytes=10_000) as server,
        connect(server.address) as sock,
    ):
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_for_ever(sock)
        assert server.settle().stats()["closed"] == 1


def send_for_ever(sock: socket.socket) -> None:
    """Send until the other side has had enough."""
    while True:
        sock.sendall(b"x" * 1_000)


@pytest.mark.parametrize("protocol", ["hello", "http", "echo"])
@EVERY_WAY
def test_one_byte_at_a_time(protocol: str, way: dict[str, Any]) -> None:
    """Bytes that are read each for itself make the same answer as bytes that come together."""
    wire = b"GET / HTTP/1.0\r\nA: b\r\n\r\n"
    with epolllab.start_server(protocol=protocol, **way) as server:
        with connect(server.address) as sock:
            for n, byte in enumerate(wire, 1):
                sock.sendall(bytes([byte]))
                until(lambda n=n: bytes_read(server) == n)  # type: ignore[misc]
            sock.shutdown(socket.SHUT_WR)
            answer = read_to_end(sock)
        assert server.settle().stats()["lost"] == 0
    if protocol == "echo":
        assert answer == wire
    else:
        assert answer.startswith(b"HTTP/1.")
        assert answer.endswith(b"\r\n\r\nHello, world!")


def bytes_read(server: epolllab.Server) -> int:
    """What the loop has read from all its peers so far."""
    rows = server.recording().array()
    return int(rows["result"][(rows["op"] == Op.RECV) & (rows["result"] > 0)].sum())


LARGE = 1_000_000
"""Bytes that do not fit the small send buffer and what a peer that reads nothing takes."""


class Stage:
    """A server with a handler that can be held up, and a large answer."""

    def __init__(self, way: dict[str, Any]) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.server = epolllab.start_server(
            protocol="http", handler=self.handle, send_buffer=10_000, **way
        )

    def handle(self, request: epolllab.server.Request) -> bytes:
        """Wait for `go_on` where the path says so; answer."""
        if request.path == "/wait":
            self.entered.set()
            assert self.go_on.wait(20)
        return b"x" * (LARGE if request.path == "/large" else 1)

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Keep the loop in the handler of another peer."""
        self.entered.clear()
        self.go_on.clear()
        with connect(self.server.address) as other:
            other.sendall(GET.replace(b"/", b"/wait", 1))
            assert self.entered.wait(20)
            try:
                yield
            finally:
                self.go_on.set()
            assert other.recv(1_000).startswith(b"HTTP/1.1 200")

    def connections(self, n: int) -> None:
        """Wait until so many are open."""
        until(lambda: self.server.stats()["connections"] == n)

    def received(self, n_bytes: int) -> None:
        """Wait until the loop has read so much of what peers sent."""
        until(lambda: bytes_read(self.server) == n_bytes)

    def would_block(self) -> None:
        """Wait until an answer did not fit."""
        until(lambda: "send EAGAIN" in self.server.recording().errors())


@pytest.fixture
def stage(way: dict[str, Any]) -> Iterator[Stage]:
    """Give a stage on which a peer can be reset; afterwards it must serve as before."""
    stage = Stage(way)
    with stage.server as server:
        yield stage
        stage.connections(0)
        assert ask(server.address, OLD).endswith(b"x")
        stats = server.settle().stats()
        assert stats["accepted"] == stats["closed"]
        assert stats["faults"] == 0


@EVERY_WAY
def test_reset_before_the_accept(stage: Stage) -> None:
    """A peer that is gone when it is accepted is closed like any other."""
    with stage.held_up():
        for data in (b"", b"GET", GET):
            sock = connect(stage.server.address)
            if data:
                sock.sendall(data)
            reset(sock)


@EVERY_WAY
def test_reset_after_the_accept(stage: Stage) -> None:
    """A peer that never said a word and is gone counts as lost."""
    sock = connect(stage.server.address)
    stage.connections(1)
    reset(sock)
    until(lambda: stage.server.stats()["lost"] == 1)


@EVERY_WAY
def test_reset_in_the_request(stage: Stage) -> None:
    """A peer that is gone in the middle of what it says counts as lost."""
    sock = connect(stage.server.address)
    sock.sendall(GET[:10])
    stage.received(10)
    reset(sock)
    until(lambda: stage.server.stats()["lost"] == 1)


@EVERY_WAY
def test_reset_before_the_answer(stage: Stage) -> None:
    """A peer that is gone while its handler runs gets no answer, and spoils nothing."""
    sock = connect(stage.server.address)
    sock.sendall(GET.replace(b"/", b"/wait", 1))
    assert stage.entered.wait(20)
    reset(sock)
    stage.go_on.set()
    until(lambda: stage.server.stats()["lost"] == 1)


@EVERY_WAY
def test_reset_in_the_answer(stage: Stage) -> None:
    """A peer that is gone before it has read all of a large answer counts as lost."""
    sock = connect(stage.server.address)
    sock.sendall(GET.replace(b"/", b"/large", 1))
    stage.would_block()
    reset(sock)
    until(lambda: stage.server.stats()["lost"] == 1)


@EVERY_WAY
def test_half_close_before_a_large_answer(stage: Stage) -> None:
    """A peer that has ended its half, and reads late, gets all of it."""
    with connect(stage.server.address) as sock:
        sock.sendall(GET.replace(b"/", b"/large", 1))
        sock.shutdown(socket.SHUT_WR)
        stage.would_block()
        assert read_to_end(sock).endswith(b"x" * LARGE)


@EVERY_WAY
def test_a_peer_that_never_reads(stage: Stage) -> None:
    """It is not read from any more, costs no wake-up, and hinders nobody."""
    with connect(stage.server.address) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
        sock.sendall(GET.replace(b"/", b"/large", 1))
        stage.would_block()
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):  # what it sends stays in the kernel's buffers
            sock.sendall(GET * 1_000_000)
        assert stage.server.stats()["requests"] == 1
        before = stage.server.stats()["wakeups"]
        for _ in range(10):
            assert ask(stage.server.address, OLD).endswith(b"x")
        # A peer's visit takes a few: accept, read, write, end.
        assert stage.server.stats()["wakeups"] - before <= 10 * 6
        reset(sock)


def test_a_peer_that_never_reads_is_closed_by_idle_timeout() -> None:
    """Silence of a peer that owes us its reading is silence, too."""
    body = b"x" * 8_000_000  # more than the kernel tunes both buffers to
    with (
        epolllab.start_server(protocol="http", handler=lambda _: body, idle_timeout=0.2) as server,
        connect(server.address) as sock,
    ):
        sock.sendall(GET)
        until(lambda: server.stats()["timeouts"] == 1)
        assert server.settle().stats()["closed"] == 1


@PLACES
def test_ten_thousand_connects_and_closes(process: bool) -> None:
    """Each is accepted and closed once, and no descriptor remains of them."""
    told = epolllab.script().connect().close().repeat(100)
    with epolllab.start_server(process=process) as server:
        ask(server.address, GET)
        open_before = kernel.descriptors_open(server.pid)
        run = epolllab.run_clients(
            server, script=told, connections=100, source_addresses=4, progress=False
        )
        assert run.summary()["succeeded"] == 100
        until(lambda: server.stats()["closed"] == 10_001)
        assert server.settle().stats()["accepted"] == 10_001
        assert kernel.descriptors_open(server.pid) == open_before
        assert ask(server.address, GET) == Hello.RESPONSE


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
def test_random_bytes(protocol: str, trigger: str, lifecycle: str) -> None:
    """Whatever bytes come, in whatever pieces, nothing raises and the next peer is served."""
    with epolllab.start_server(
        protocol=protocol,
        trigger=trigger,
        lifecycle=lifecycle,
        max_request_bytes=200,
        recv_size=64,
    ) as server:

        @given(pieces=PIECES)
        @settings(max_examples=30)
        def say(pieces: list[bytes]) -> None:
            answer = asked(server.address, list(filter(None, pieces)))
            if protocol == "echo":
                assert answer == b"".join(pieces)
            elif protocol == "hello":
                assert answer in (None, b"", Hello.RESPONSE, Hello.TOO_LARGE)
            else:
                assert answer is None or re.match(rb"HTTP/1\.1 (100|200|400|413|431) |$", answer)
            served = ask(server.address, OLD, half_close=True)
            assert served.startswith(OLD if protocol == "echo" else b"HTTP/1.")

        say()
        stats = server.settle().stats()
    assert stats["faults"] == 0
    assert stats["accepted"] == stats["closed"] > 30


def asked(address: Address, pieces: list[bytes]) -> bytes | None:
    """What comes back; None where the server had answered and closed before all was sent."""
    try:
        return ask(address, *pieces, half_close=True)
    except OSError as error:
        # ENOTCONN is what the half-close finds after a reset.
        if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
            return None
        raise


# ---- what programs do -------------------------------------------------------------------


class Faulty(epolllab.Session):
    """Raises, or answers nonsense, where it is told to."""

    def receive(self, data: bytes) -> Any:
        """Do what the peer says."""
        word = data.decode().strip()
        if word == "raise":
            raise ZeroDivisionError("of the protocol")
        nonsense = {"none": None, "text": "text", "texts": ["text"], "number": 7}
        return nonsense.get(word, [data])

    def on_close(self) -> None:
        """Raise at the end, too."""
        raise ArithmeticError("of the end")


@PLACES
@pytest.mark.parametrize("lifecycle", ["eager", "howto"])
@pytest.mark.parametrize("word", ["raise", "none", "text", "texts", "number"])
def test_a_protocol_that_fails(lifecycle: str, process: bool, word: str) -> None:
    """Its connection is closed and its faults are counted; other connections live on."""
    with (
        epolllab.start_server(protocol=Faulty, lifecycle=lifecycle, process=process) as server,
        connect(server.address) as healthy,
    ):
        healthy.sendall(b"before")
        assert healthy.recv(100) == b"before"
        assert ask(server.address, word.encode()) == b""
        healthy.sendall(b"after")
        assert healthy.recv(100) == b"after"
        until(lambda: server.stats()["faults"] == 2)  # of receive and of end
        assert server.stats()["connections"] == 1
        assert server.last_fault
        assert "ArithmeticError: of the end" in server.last_fault
        assert server.is_running


@PLACES
def test_a_protocol_that_cannot_begin(process: bool) -> None:
    """Where no session can be made the connection is closed at once, and it is counted."""

    class Once:
        """Makes the session that is tried at the start, and no other."""

        def __init__(self) -> None:
            self.left = 2 if process else 3

        def __call__(self) -> epolllab.Session:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("no more sessions")
            return epolllab.server.Echo()

    with epolllab.start_server(protocol=Once(), process=process) as server:
        until(lambda: ask(server.address, b"", half_close=True) == b"" and server.stats()["faults"])
        assert server.last_fault
        assert "no more sessions" in server.last_fault
        assert server.settle().is_running


class Interrupting(epolllab.Session):
    """Raises what no protocol should: it is no Exception, so it is taken for the loop's own."""

    def receive(self, data: bytes) -> list[bytes]:
        """Raise it."""
        raise KeyboardInterrupt("in the loop")


def touch(server: epolllab.Server, how: str) -> None:
    """Touch the handle in one of the ways that a user has."""
    getattr(server, how)()


TOUCHES = ["stats", "recording", "events", "wakeups", "requests", "interest", "settle", "stop"]


@PLACES
@pytest.mark.parametrize("how", TOUCHES)
def test_an_error_in_the_loop_surfaces_once(process: bool, how: str) -> None:
    """It is raised at the next touch, chained to its cause, and not again; all stays readable."""
    server = epolllab.start_server(protocol=Interrupting, process=process)
    with connect(server.address) as sock:
        sock.sendall(GET)
        assert sock.recv(100) == b""
    until(lambda: not server.is_running)
    for text in (repr(server), server._repr_html_()):
        assert "died" in text
        assert "KeyboardInterrupt: in the loop" in text
    with pytest.raises(epolllab.ServerDied, match="KeyboardInterrupt: in the loop") as caught:
        touch(server, how)
    assert "in receive" in str(caught.value)
    assert isinstance(caught.value.__cause__, type(None) if process else KeyboardInterrupt)
    for again in TOUCHES:
        touch(server, again)
    assert server.recording().counts()["recv"] == 1
    assert server.error
    assert is_refused(server.address)
    assert not epolllab.servers()


@pytest.mark.parametrize(
    ("raised", "expected"), [(None, epolllab.ServerDied), (KeyError, KeyError)]
)
def test_leaving_the_block_of_a_server_that_died(
    raised: type[Exception] | None, expected: type[Exception]
) -> None:
    """The error surfaces at the end of with, unless another is on its way already."""

    def use(server: epolllab.Server) -> None:
        with server:
            assert ask(server.address, GET) == b""
            until(lambda: not server.is_running)
            if raised:
                raise raised

    with pytest.raises(expected):
        use(epolllab.start_server(protocol=Interrupting))


def test_a_server_process_that_is_killed() -> None:
    """The handle says how it died, once; what was recorded by then can be read."""
    server = epolllab.start_server(process=True)
    assert ask(server.address, GET) == Hello.RESPONSE
    server.settle()
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.is_running)
    with pytest.raises(epolllab.ServerDied, match="SIGKILL"):
        server.stats()
    assert server.stats()["requests"] == 1
    assert len(server.requests()) == 1
    assert "SIGKILL" in repr(server)
    server.stop()


def test_a_cell_whose_server_died_starts_anew() -> None:
    """Stopping all those that run is not hindered by one that died."""
    died = epolllab.start_server(process=True)
    with epolllab.start_server() as alive:
        os.kill(died.pid, signal.SIGKILL)
        until(lambda: not died.is_running)
        assert epolllab.servers() == [alive]
        epolllab.stop_all()
    with pytest.raises(epolllab.ServerDied):
        died.stop()
    died.stop()


# ---- how it ends ------------------------------------------------------------------------


@PLACES
@EVERY_WAY
def test_stop_under_load(process: bool, way: dict[str, Any]) -> None:
    """Stop returns while clients ask, and each of their requests has a row all the same."""
    server = epolllab.start_server(process=process, **way)
    runs: list[epolllab.Run] = []

    def fire() -> None:
        runs.append(
            epolllab.run_clients(server.address, connections=20, requests=1_500, progress=False)
        )

    load = threading.Thread(target=fire)
    load.start()
    until(lambda: server.stats()["requests"] > 50)
    server.stop()
    assert not server.is_running
    assert is_refused(server.address)
    load.join()
    stats = server.stats()
    assert stats["accepted"] == stats["closed"]
    assert stats["connections"] == 0
    frame = runs[0].requests()
    assert len(frame) == 1_500
    assert set(frame["error"].dropna()) <= {"ECONNREFUSED", "ECONNRESET", "closed early", "EPIPE"}


def test_a_thread_that_is_held_up_by_a_handler() -> None:
    """Stop says where the loop is stuck rather than wait for ever; the next stop succeeds."""
    entered, go_on = threading.Event(), threading.Event()

    def sleeps(request: epolllab.server.Request) -> str:
        entered.set()
        assert go_on.wait(60)
        return "late"

    server = epolllab.start_server(protocol="http", handler=sleeps)
    with connect(server.address) as sock:
        sock.sendall(GET)
        assert entered.wait(20)
        with pytest.raises(TimeoutError, match="a handler or protocol is still running"):
            server.stop()
        go_on.set()
        server.stop()
        assert not server.is_running


BUSY = {"sleeping": "time.sleep(1_000)", "computing": "while True: pass"}


@pytest.mark.parametrize("how", BUSY)
def test_a_process_that_is_held_up_by_a_handler(how: str) -> None:
    """Stop kills it after a while, which is no death to be reported."""
    space: dict[str, Any] = {"time": time}
    exec(f"def busy(request):\n    {BUSY[how]}", space)
    server = epolllab.start_server(protocol="http", handler=space["busy"], process=True)
    with connect(server.address) as sock:
        sock.sendall(GET)
        until(lambda: kernel.tcp_info(sock).unacked == 0)
        server.stop()
    assert not server.is_running
    assert server.error is None
    assert not Path(f"/proc/{server.pid}").exists()


@pytest.mark.parametrize("how", [None, *BUSY])
def test_a_parent_that_is_killed(how: str | None) -> None:
    """A child ends with its parent, also when SIGKILL takes it, also with a busy handler."""
    text = f"""
        import time
        def busy(request):
            {BUSY.get(how or "", "return ''")}
        server = epolllab.start_server(protocol="http", handler=busy, process=True)
        tell([server.pid, server.port])
        sys.stdin.read()
    """
    with program(text) as parent:
        pid, port = parent.hear()
        with connect(("127.0.0.1", port)) as sock:
            if how:
                sock.sendall(GET)
            parent.running.send_signal(signal.SIGKILL)
            until(lambda: is_gone(pid))
        until(lambda: is_refused(("127.0.0.1", port)))  # once its last thread has gone, too


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody waits for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class SlowToArrive:
    """A protocol that takes for ever to be unpickled, which is done by the child."""

    def __call__(self) -> epolllab.Session:
        """Make a session."""
        return epolllab.server.Echo()

    def __reduce__(self) -> tuple[Any, ...]:
        """Sleep where it arrives."""
        return (time.sleep, (1_000,))


def test_an_interrupt_while_a_child_starts() -> None:
    """A start that is interrupted leaves no child, no port and no descriptor."""

    def interrupt() -> None:
        until(kernel.children)
        # As the kernel does it for a notebook: a signal, so that whatever blocks returns.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        epolllab.start_server(protocol=SlowToArrive(), process=True)
    interrupter.join()
    gc.collect()
    assert not kernel.children()
    assert not epolllab.servers()


INTERRUPTED = """
    import os, random, signal, threading, time

    def interrupt(after):
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGINT)

    def start():
        with epolllab.start_server(process=True):
            time.sleep(60)

    for n in range(20):
        threading.Thread(target=interrupt, args=[n * 0.01]).start()
        try:
            start()
        except KeyboardInterrupt:
            tell([sorted(epolllab.kernel.proc.children()), list(map(repr, epolllab.servers()))])
"""


def test_an_interrupt_at_any_moment_of_a_start() -> None:
    """Before, during and after the child's making: an interrupt leaves no child and no server."""
    with program(INTERRUPTED) as interrupted:
        for _ in range(20):
            assert interrupted.hear() == [[], []]


@pytest.mark.notebook
@PLACES
def test_an_interrupted_cell(process: bool) -> None:
    """The interrupt ends the load and the block, and with it all that the cell started."""
    with notebook_kernel() as (manager, client):
        run_cell(client, "import epolllab, threading")
        threads = "[t.name for t in threading.enumerate() if 'epolllab' in t.name]"
        left = f"print({threads}, epolllab.servers(), epolllab.kernel.proc.children())"
        address: list[Address] = []

        def interrupt(text: str) -> None:
            if found := re.search(r"port (\d+)\.", text):
                address.append(("127.0.0.1", int(found[1])))
                manager.interrupt_kernel()

        cell = f"""
            with epolllab.start_server(process={process}) as server:
                print(f"port {{server.port}}.", flush=True)
                epolllab.run_clients(server, duration=600, rate=100, progress=False)
        """
        said = run_cell(client, textwrap.dedent(cell), status="error", heard=interrupt)
        assert "KeyboardInterrupt" in said
        assert run_cell(client, left).split() == ["[]", "[]", "set()"]
        assert is_refused(address[0])
        # The kernel is as good as before.
        run_cell(client, "with epolllab.start_server() as s: epolllab.run_clients(s, requests=5)")


@pytest.mark.notebook
def test_a_thread_knows_whether_a_cell_is_running(tmp_path: Path) -> None:
    """From the cell that asks for it on, until it ends: well, badly, or by an interrupt."""
    told = tmp_path / "busy"
    watching = f"""
        import pathlib, threading, time
        from epolllab.notebook import cells
        cells.watch_cells()
        told = pathlib.Path({str(told)!r})
        told.write_text("")
        def tell():
            while True:
                told.write_text(str(cells.is_cell_running()))
                time.sleep(0.005)
        threading.Thread(target=tell, daemon=True).start()
    """
    seen = "while told.read_text() != 'True': time.sleep(0.001)\n"

    def is_idle() -> bool:
        return told.read_text() == "False"

    with notebook_kernel() as (manager, client):
        run_cell(client, textwrap.dedent(watching) + seen)
        until(is_idle)
        run_cell(client, f"{seen}1 / 0", status="error")
        until(is_idle)
        # A cell that runs another goes on when that has ended.
        inner = "get_ipython().run_cell('1'); told.write_text(''); time.sleep(0.2)\n"
        run_cell(client, f"{seen}{inner}assert told.read_text() != 'False'")
        until(is_idle)
        run_cell(
            client,
            f"{seen}print('now', flush=True)\ntime.sleep(60)",
            status="error",
            heard=lambda text: text.startswith("now") and manager.interrupt_kernel(),
        )
        until(is_idle)


@pytest.mark.notebook
def test_a_killed_kernel() -> None:
    """Nothing of a kernel that was killed listens on: not its threads, not its children."""
    with notebook_kernel() as (_, client):
        said = run_cell(
            client,
            "import epolllab, os\n"
            "kept = [epolllab.start_server(process=p) for p in (False, True)]\n"
            "print(*(server.port for server in kept), kept[1].pid, os.getpid())",
        )
        *ports, child, own = map(int, said.split())
        assert not any(is_refused(("127.0.0.1", port)) for port in ports)
        os.kill(own, signal.SIGKILL)
        until(lambda: is_gone(child))
        until(lambda: all(is_refused(("127.0.0.1", port)) for port in ports))
