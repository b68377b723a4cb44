"""What only a server with poller="io_uring" does; the other tests run over it as well."""

import errno
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import pytest

import epolllab
from epolllab import frames
from epolllab.analysis.diagnosis import diagnose
from epolllab.events import KIND, MORE, SKIP_SUCCESS, Op
from epolllab.frames.completions import as_calls
from epolllab.kernel import NotPossible, uring
from epolllab.kernel.uring import Uring
from epolllab.server import Hello, Session, ring
from epolllab.server.completions import CompletionLoop
from tests.conftest import held, settled
from tests.server.helpers import OLD, PLACES, RING, has_blocked_send, options_of, program
from tests.wire import GET, ask, connect, read_to_end, reset, until


@pytest.fixture(autouse=True)
def _possible() -> None:
    """Skip where io_uring is not possible."""
    options_of(*RING)


def start(**options: Any) -> epolllab.Server:
    """Start a server over a ring."""
    return epolllab.start_server(poller="io_uring", **options)


def loop_of(server: epolllab.Server) -> CompletionLoop:
    """The loop of a server in a thread."""
    loop = server._host.loop  # type: ignore[union-attr]
    assert isinstance(loop, CompletionLoop)
    return loop


class Blocked:
    """A handler that waits for its release at the path /wait, so that work piles up."""

    def __init__(self) -> None:
        self.entered, self.proceed = threading.Event(), threading.Event()

    def __call__(self, request: epolllab.server.Request) -> str:
        """Respond with the path."""
        if request.path == "/wait":
            self.entered.set()
            assert self.proceed.wait(20)
        return request.path

    def begin(self, server: epolllab.Server) -> socket.socket:
        """Block the loop in the handler; return the peer."""
        sock = connect(server.address)
        sock.sendall(GET.replace(b"/", b"/wait", 1))
        assert self.entered.wait(20)
        return sock


# ---- options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trigger", "level"), ("trigger", "edge"), ("lifecycle", "eager"), ("lifecycle", "once"),
        ("drain", True), ("drain", False), ("accept", "drain"), ("accept", 1), ("cork", True),
    ],
)  # fmt: skip
def test_options_without_meaning(name: str, value: object) -> None:
    """They are refused if they are passed, with the reason, before anything starts."""
    before = held()
    with pytest.raises(ValueError, match=f"^{name} has no meaning with poller=.io_uring.: "):
        start(**{name: value})
    assert held() == before


@pytest.mark.parametrize("name", ["uring", "iouring", "io-uring", "io_urin"])
def test_a_near_name(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^poller\b.*'io_uring'\?$"):
        epolllab.start_server(poller=name)


@PLACES
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_refused_by_the_kernel(number: int, process: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is raised here, also where the loop would run in a child process."""
    before, real = held(), uring._call

    def call(what: int, *args: int) -> int:
        if what != uring._SETUP:
            return real(what, *args)
        uring.ctypes.set_errno(number)  # type: ignore[attr-defined]
        return -1

    monkeypatch.setattr(uring, "_call", call)
    with pytest.raises(NotPossible) as caught:
        start(process=process)
    assert caught.value.errno == number
    assert held() == before


def test_the_metadata_has_no_trigger() -> None:
    with start() as server:
        metadata = server.recording().metadata
        assert (metadata["poller"], metadata["trigger"], metadata["lifecycle"]) == (
            "io_uring", None, None,
        )  # fmt: skip
        assert " io_uring, running" in repr(server)


# ---- sessions ---------------------------------------------------------------------------


class Failing(Session):
    """Respond to the first call, and raise in every other."""

    n_calls = 0

    def receive(self, data: bytes) -> list[bytes]:
        """Count the calls."""
        self.n_calls += 1
        if self.n_calls > 1:
            raise ValueError(f"call {self.n_calls}")
        return [b"one"]


def test_a_session_that_raised_is_not_called_again() -> None:
    """What else the same turn has received is dropped, and counted as nothing."""
    with start(protocol=Failing, recv_size=100) as server:
        sock = connect(server.address)
        sock.sendall(b"first")
        assert sock.recv(100) == b"one"
        with suppress(OSError):  # the connection is closed, with bytes unread
            sock.sendall(bytes(1_000))
            sock.recv(100)
        sock.close()
        stats = server.settle().stats()
        assert stats["faults"] == 1
        assert (stats["accepted"], stats["closed"]) == (1, 1)


# ---- sends ------------------------------------------------------------------------------


@pytest.mark.parametrize("recv_size", [500, 16_384])
def test_short_sends_keep_the_order(recv_size: int) -> None:
    """Many small responses, sent at once until the peer's buffer is full, arrive in order."""
    payload = b"".join(b"%07d\n" % n for n in range(200_000))
    with (
        start(
            protocol="echo", recv_size=recv_size, send_buffer=5_000, recv_buffer=50_000
        ) as server,
        connect(server.address) as sock,
    ):
        sender = threading.Thread(target=sock.sendall, args=(payload,))
        sender.start()
        until(lambda: has_blocked_send(server))
        received = bytearray()
        while len(received) < len(payload):
            received += sock.recv(1 << 16)
        sender.join()
        assert "send EAGAIN" in server.recording().errors() or recv_size > 500
    assert received == payload


def test_requests_in_pieces_of_a_pipeline() -> None:
    """Several receives of one connection in a turn: one response at once, the others later."""
    handler = Blocked()
    with start(protocol="http", handler=handler, recv_size=len(GET) + 1) as server:
        other = handler.begin(server)
        with other, connect(server.address) as sock:
            for n in range(10, 60):
                sock.sendall(GET.replace(b"/", b"/%d" % n, 1)[:-4] + b"\r\n\r\n")
            handler.proceed.set()
            text = b""
            while text.count(b"\r\n\r\n/") < 50 or not text.endswith(b"/59"):
                text += sock.recv(100_000)
            order = [piece[1:3] for piece in text.split(b"\r\n\r\n")[1:]]
            assert order == [b"%d" % n for n in range(10, 60)]


def test_responses_are_not_read_after_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of the turn before is poisoned; every response is whole."""
    enter = Uring.enter

    def poisoning(ring: Uring, *args: Any) -> int:
        n = enter(ring, *args)
        if not ring.n_unsubmitted:
            ring._memory[-1][:] = b"\xdd" * len(ring._memory[-1])
        return n

    monkeypatch.setattr(ring, "OUT_BYTES", 1 << 16)
    monkeypatch.setattr(Uring, "enter", poisoning)
    body = bytes(range(256)) * 8
    with start(protocol="http", handler=lambda _: body) as server:
        peers = [connect(server.address) for _ in range(60)]
        for _ in range(5):
            for sock in peers:
                sock.sendall(GET)
            for sock in peers:
                data = b""
                while not data.endswith(body):
                    data += sock.recv(10_000)
        for sock in peers:
            sock.close()
        assert server.settle().stats()["requests"] == 300


@pytest.mark.parametrize("how", ["stop", "idle", "reset"])
def test_an_end_while_a_send_is_pending(how: str) -> None:
    """The operation is cancelled; the memory that it refers to exists until then."""
    body = b"x" * 8_000_000
    idle = 0.2 if how == "idle" else None
    with start(protocol="http", handler=lambda _: body, idle_timeout=idle) as server:
        with connect(server.address) as sock:
            sock.sendall(GET)
            until(lambda: has_blocked_send(server))
            if how == "stop":
                server.stop()
                assert len(read_to_end(sock)) < len(body)
            elif how == "reset":
                reset(sock)
            else:
                until(lambda: server.stats()["timeouts"] == 1)
        if how != "stop":
            until(lambda: server.stats()["closed"] == 1)
            until(lambda: not loop_of(server)._pending)
            assert ask(server.address, b"", half_close=True) == b""


# ---- scarce things ----------------------------------------------------------------------


def test_buffers_run_out() -> None:
    """Receives that find none are submitted again; nothing is lost."""
    handler = Blocked()
    with start(protocol="http", handler=handler, recv_size=1 << 20) as server:
        other = handler.begin(server)
        peers = [connect(server.address) for _ in range(40)]
        for sock in peers:
            sock.sendall(GET)
        handler.proceed.set()
        for sock in (other, *peers):
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        for _ in range(3):
            with Pause(handler, other):
                for sock in peers:
                    sock.sendall(GET)
            for sock in peers:
                assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        assert server.recording().errors()["complete ENOBUFS"] > 0
        for sock in (other, *peers):
            sock.close()
        assert server.settle().stats()["requests"] == 4 * 41


class Pause:
    """Keeps the loop in the handler for a ``with`` block."""

    def __init__(self, handler: Blocked, peer: socket.socket) -> None:
        self.handler, self.peer = handler, peer

    def __enter__(self) -> None:
        self.handler.entered.clear()
        self.handler.proceed.clear()
        self.peer.sendall(GET.replace(b"/", b"/wait", 1))
        assert self.handler.entered.wait(20)

    def __exit__(self, *_: object) -> None:
        self.handler.proceed.set()
        assert self.peer.recv(1_000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("request_", [GET, OLD], ids=["keep-alive", "closing"])
def test_both_queues_overflow(request_: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With queues of 8 and 16 entries, 100 connections at once are served."""
    monkeypatch.setattr(ring, "N_ENTRIES", 8)
    monkeypatch.setattr(ring, "N_COMPLETIONS", 16)
    handler = Blocked()
    with start(protocol="http", handler=handler) as server:
        other = handler.begin(server)
        peers = [connect(server.address) for _ in range(100)]
        for _ in range(3 if request_ is GET else 1):
            for sock in peers:
                sock.sendall(request_)
            handler.proceed.set()
            for sock in peers:
                assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        for sock in (other, *peers):
            sock.close()
        stats = server.settle().stats()
        assert (stats["accepted"], stats["closed"], stats["errors"]) == (101, 101, 0)


def test_no_more_than_max_connections() -> None:
    """Further ones wait in the accept queue, each for the close of another."""
    with start(protocol="http", max_connections=3) as server:
        peers = [connect(server.address) for _ in range(8)]
        for sock in peers:
            sock.sendall(GET)
        for sock in peers:
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
            assert server.stats()["connections"] <= 3
            sock.close()
        assert server.settle().stats()["accepted"] == 8


@pytest.mark.processes
def test_no_descriptor_left() -> None:
    """The limit is that of the time when the accept was submitted; nothing spins."""
    text = """
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        epolllab.start_server(protocol="http", poller="io_uring").stop()  # imports
        soft = epolllab.kernel.descriptors_open() + 14
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        server = epolllab.start_server(protocol="http", poller="io_uring")
        tell(server.port)
        for line in sys.stdin:
            tell(eval(line))
    """
    with program(text) as limited:
        address = ("127.0.0.1", limited.read())
        peers = [connect(address) for _ in range(20)]
        until(lambda: limited.evaluate("server.stats()")["pauses"])
        n_open = limited.evaluate("server.stats()")["connections"]
        assert 0 < n_open < 20
        before = limited.evaluate("server.stats()")["wakeups"]
        time.sleep(0.3)
        assert limited.evaluate("server.stats()")["wakeups"] - before < 100
        for sock in peers:
            sock.sendall(GET)
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
            sock.close()
        assert limited.evaluate("server.settle().stats()")["accepted"] == 20
        assert "EMFILE" in limited.evaluate("server.last_fault")


@pytest.mark.slow
@pytest.mark.processes
def test_twenty_thousand_connections() -> None:
    """Or as many as the limit on descriptors permits: all are served, and all are closed."""
    n = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200)
    with start(protocol="http", process=True, max_connections=n, record=False) as server:
        run = epolllab.run_clients(
            server, connections=n, requests=2 * n, keep_alive=True, processes=2,
            source_addresses=4, progress=False, timeout=60,
        )  # fmt: skip
        assert run.summary()["succeeded"] == 2 * n
        until(lambda: server.stats()["closed"] == n, 60)
        assert server.stats()["accepted"] == n


# ---- a ring that fails ------------------------------------------------------------------


def failing(patch: pytest.MonkeyPatch, ring: Uring, *numbers: int) -> None:
    """Make the next calls of enter fail."""
    left, enter = list(numbers), ring.enter

    def call(*args: Any) -> int:
        if left:
            number = left.pop(0)
            raise OSError(number, os.strerror(number))
        return enter(*args)

    patch.setattr(ring, "enter", call)


@pytest.mark.parametrize("name", ["EINTR", "ENOMEM", "EAGAIN", "EBUSY"])
def test_errors_that_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(errno, name)
    with start(protocol="http") as server:
        assert ask(server.address, OLD)
        failing(monkeypatch, loop_of(server).ring, number, number)
        for _ in range(3):
            assert ask(server.address, OLD).endswith(b"Hello, world!")
        assert server.settle().stats()["errors"] == (0 if name == "EBUSY" else 2)


@pytest.mark.parametrize("name", ["EBADR", "EFAULT", "EBADF"])
def test_errors_that_do_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop ends with the error; connections end for their peers, and nothing is left."""
    before = held()
    server = start(protocol="http")
    with connect(server.address) as idle, connect(server.address) as sock:
        until(lambda: server.stats()["accepted"] == 2)
        number = getattr(errno, name)
        failing(monkeypatch, loop_of(server).ring, *[number] * 50)
        sock.sendall(GET)
        until(lambda: not server.is_running)
        assert read_to_end(idle) == b""
    with pytest.raises(epolllab.ServerDied, match=os.strerror(number)):
        server.stop()
    server.stop()
    assert settled(before) == before
    assert not uring._abandoned


def test_a_session_that_raises() -> None:
    class Raising(epolllab.Session):
        def receive(self, data: bytes) -> list[bytes]:
            raise ZeroDivisionError("of the session")

    with start(protocol=Raising) as server:
        for n in range(1, 4):
            assert ask(server.address, b"x") == b""
            until(lambda n=n: server.stats()["faults"] == n)  # type: ignore[misc]
        assert server.settle().stats()["closed"] == 3


def test_an_accept_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is submitted again, unless the listener can never work again."""
    real = CompletionLoop._accepted
    failures = [errno.EPROTO, errno.ECONNABORTED, errno.EPERM, errno.ENOMEM]

    def accepted(loop: CompletionLoop, user_data: int, result: int, flags: int) -> None:
        if result >= 0 and failures:
            os.close(result)
            loop._cancel(loop._listener.fd, loop._accepting)
            result, flags = -failures.pop(0), 0
        real(loop, user_data, result, flags)

    monkeypatch.setattr(CompletionLoop, "_accepted", accepted)
    with start() as server:
        for _ in range(4):
            ask(server.address, b"")
        assert ask(server.address, GET) == Hello.RESPONSE
        assert server.stats()["errors"] == 4
        failures.append(errno.EINVAL)
        connect(server.address).close()
        until(lambda: not server.is_running)
        with pytest.raises(epolllab.ServerDied, match="Invalid argument"):
            server.stop()


# ---- the handle -------------------------------------------------------------------------


@pytest.mark.processes
def test_until_idle_and_interest() -> None:
    with start(protocol="http", process=True) as server, connect(server.address) as sock:
        sock.sendall(GET)
        assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        assert server.until_idle(sock) is server
        table = server.interest()
        assert table["own_names"].tolist() == ["IN", "IN", "IN"]  # listener, wakeup, connection
        assert table["where"].tolist() == ["program only"] * 3


@pytest.mark.processes
def test_a_killed_server() -> None:
    """Its kernel side ends with it."""
    server = start(process=True)
    with connect(server.address) as sock:
        os.kill(server.pid, signal.SIGKILL)
        with suppress(ConnectionResetError):
            assert read_to_end(sock) == b""
    with pytest.raises(epolllab.ServerDied):
        server.stop()


def test_idle_and_stop_leave_nothing() -> None:
    before = held()
    server = start(protocol="http", idle_timeout=0.5)
    with connect(server.address) as sock:
        sock.sendall(GET)
        sock.recv(1_000)
        assert read_to_end(sock) == b""
    with connect(server.address):
        until(lambda: server.stats()["connections"] == 1)
        server.stop()
    assert settled(before) == before


# ---- the record -------------------------------------------------------------------------


@pytest.fixture
def recorded() -> Iterator[tuple[epolllab.Recording, Any]]:
    """A recording of 60 requests on keep-alive connections, and the run."""
    with start(protocol="http") as server:
        run = epolllab.run_clients(
            server, requests=60, connections=5, keep_alive=True, where="thread", progress=False
        )
        yield server.settle().recording(), run


def test_every_completion_has_its_submission(recorded: Any) -> None:
    array = recorded[0].array()
    submitted, completed = (array[array["op"] == op] for op in (Op.SUBMIT, Op.COMPLETE))
    assert np.isin(completed["request"], submitted["request"]).all()
    assert len(np.unique(submitted["request"])) == len(submitted)
    kind = {int(row["request"]): int(row["mask"]) & KIND for row in submitted}
    assert all(kind[int(row["request"])] == row["mask"] & KIND for row in completed)
    recvs = completed[completed["mask"] & KIND == Op.RECV]
    # Two for each connection: the first recv completes once, the second until further notice.
    assert len(np.unique(recvs["request"])) == 10
    more = recvs["mask"][recvs["result"] > 0] & MORE > 0
    assert (np.count_nonzero(~more), np.count_nonzero(more)) == (5, 55)
    sends = submitted[submitted["mask"] & KIND == Op.SEND]
    assert len(sends) == 60
    assert (sends["mask"] & SKIP_SUCCESS > 0).all()
    assert not (completed["mask"] & KIND == Op.SEND).any()


def test_events_join_completions_with_their_submissions(recorded: Any) -> None:
    """By ``request``, which is 0 in all other rows."""
    events = recorded[0].events()
    is_ring = events["op"].isin(["submit", "complete"])
    assert (events["request"] > 0).equals(is_ring)
    submitted = events[events["op"] == "submit"]
    completed = events[events["op"] == "complete"]
    joined = completed.merge(submitted, on="request", suffixes=("", "_submitted"))
    assert len(joined) == len(completed) > 0
    assert (joined["t_ns_submitted"] <= joined["t_ns"]).all()
    received = joined[joined["mask_names"] == "recv|MORE"]
    assert set(received["mask_names_submitted"]) == {"recv"}
    assert (received["conn_submitted"] == received["conn"]).all()


def test_frames(recorded: Any) -> None:
    recording, run = recorded
    requests = recording.requests()
    assert len(requests) == 60
    assert (requests["n_send"] == 1).all()
    # The end of file counts for the last request of a connection.
    assert sorted(requests["n_recv"]) == [1] * 55 + [2] * 5
    assert (requests["read_ns"] <= requests["handled_ns"]).all()
    assert (requests["handled_ns"] <= requests["answered_ns"]).all()
    assert (requests["n_bytes_in"] == requests["n_bytes_in"].iloc[0]).all()
    connections = recording.connections()
    assert connections["n_requests"].sum() == 60
    assert connections["closed_ns"].notna().all()
    assert connections["error"].isna().all()
    assert connections["peer_port"].notna().all()
    events = recording.events()
    words = set(events.loc[events["op"] == "submit", "mask_names"])
    assert words == {"ready", "accept", "recv", "send|SKIP_SUCCESS", "close|SKIP_SUCCESS"}
    assert events.query("op == 'complete' and mask_names == 'recv|MORE'")["n_bytes"].gt(0).all()
    journeys = frames.journeys(requests, run.requests())
    assert len(journeys) == 60
    assert (journeys["send"] >= 0).all()
    assert diagnose(recording).healthy


def test_traces_and_files(recorded: Any, tmp_path: Any) -> None:
    recording, run = recorded
    text = recording.to_trace(tmp_path / "trace.json", run).read_text()
    assert text.count('"ph":"s"') == text.count('"ph":"f"') == 60
    assert '"operation":"recv|MORE"' in text
    loaded = epolllab.Recording.load(recording.save(tmp_path / "kept.parquet"))
    assert loaded.rows == recording.rows


def test_many_requests_in_one_call() -> None:
    """What waits while the loop is busy takes one io_uring_enter, with all the responses."""
    handler = Blocked()
    with start(protocol="http", handler=handler) as server:
        other = handler.begin(server)
        peers = [connect(server.address) for _ in range(50)]
        handler.proceed.set()
        until(lambda: server.stats()["connections"] == 51)
        other.recv(1_000)
        before = server.stats()
        with Pause(handler, other):
            for sock in peers:
                sock.sendall(GET)
        for sock in peers:
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        after = server.stats()
        assert after["requests"] - before["requests"] == 51
        assert after["wakeups"] - before["wakeups"] <= 4
        for sock in (other, *peers):
            sock.close()


def test_as_calls_leaves_other_recordings_alone() -> None:
    with epolllab.start_server() as server:
        ask(server.address, GET)
        array = server.settle().recording().array()
    assert as_calls(array) is array


def test_a_send_that_falls_short_counts_once() -> None:
    """Of a response in two sends, the bytes of both make up the response."""
    with start(protocol="http", handler=lambda _: b"x" * 60_000, send_buffer=5_000) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5_000)
            sock.settimeout(20)
            sock.connect(server.address)
            sock.sendall(GET)
            until(lambda: has_blocked_send(server))
            n = 0
            while n < 60_000:
                n += len(sock.recv(10_000))
        recording = server.settle().recording()
    (row,) = recording.requests().itertuples()
    assert row.n_send == 2
    assert recording.connections()["n_bytes_out"].item() == row.n_bytes


class Leaving(Session):
    """Respond to the first call, and close."""

    closed: ClassVar[list[str]] = []

    def receive(self, data: bytes) -> list[bytes]:
        """Respond with more than the peer's buffer holds."""
        self.closing = True
        return [b"x" * 60_000]

    def on_close(self) -> None:
        """Count the calls."""
        self.closed.append("once")


def test_a_last_send_that_falls_short_closes_once() -> None:
    """The kernel drops the close that is linked to it; the one that follows is the close."""
    Leaving.closed.clear()
    with start(protocol=Leaving, send_buffer=5_000) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5_000)
            sock.settimeout(20)
            sock.connect(server.address)
            sock.sendall(b"request")
            until(lambda: has_blocked_send(server))
            assert server.stats()["connections"] == 1
            received = b"".join(iter(lambda: sock.recv(10_000), b""))
        stats = server.settle().stats()
        recording = server.recording()
    assert received == b"x" * 60_000
    assert Leaving.closed == ["once"]
    assert (stats["accepted"], stats["closed"], stats["faults"], stats["lost"]) == (1, 1, 0, 0)
    calls = as_calls(recording.array())
    assert np.count_nonzero(calls["op"] == Op.CLOSE) == 1
    assert calls["op"].tolist().index(Op.CLOSE) > np.flatnonzero(calls["op"] == Op.SEND).max()
    submitted = recording.array()[recording.array()["op"] == Op.SUBMIT]
    assert np.count_nonzero(submitted["mask"] & KIND == Op.CLOSE) == 2
    assert recording.connections()["closed_ns"].notna().all()
