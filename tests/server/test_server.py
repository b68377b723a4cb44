"""start_server() and its handle: responses, state, readings, and how servers end."""

import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import epolllab
from epolllab import kernel
from epolllab.kernel.proc import is_suspended
from epolllab.server import Hello, hosts
from tests.kernels import notebook_kernel, run_cell
from tests.server.helpers import EVERY_WAY, PLACES, has_blocked_send
from tests.wire import GET, ask, connect, is_refused, until

# ---- responses --------------------------------------------------------------------------


@PLACES
@EVERY_WAY
def test_hello(way: dict[str, Any], process: bool) -> None:
    with epolllab.start_server(process=process, **way) as server:
        for request in (GET, b"GET / HTTP/1.0\n\n", b"anything\n\r\n"):
            assert ask(server.address, request) == Hello.RESPONSE
            assert ask(server.address, *(bytes([byte]) for byte in request)) == Hello.RESPONSE
        assert ask(server.address, GET, half_close=True) == Hello.RESPONSE
        stats = server.settle().stats()
    assert stats["requests"] == stats["accepted"] == stats["closed"] == 7
    assert (stats["connections"], stats["lost"], stats["faults"]) == (0, 0, 0)


@EVERY_WAY
@pytest.mark.parametrize("drain", [True, False], ids=["drain", "once"])
def test_echo_larger_than_the_buffers(way: dict[str, Any], drain: bool) -> None:
    """After a short write the rest is sent when there is room, whole and in order.

    The peer begins to read once a send would have blocked. Edges without drain strand
    what one read leaves, so recv_size is larger than any read.
    """
    payload = bytes(range(256)) * 4_096
    way |= {} if way["poller"] == "io_uring" else {"drain": drain}
    with (
        epolllab.start_server(
            protocol="echo",
            recv_size=1 << 21, send_buffer=10_000, recv_buffer=50_000, **way,
        ) as server,
        socket.socket() as sock,
    ):  # fmt: skip
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 50_000)
        sock.settimeout(20)
        sock.connect(server.address)
        sender = threading.Thread(target=sock.sendall, args=(payload,))
        sender.start()
        until(lambda: has_blocked_send(server))
        received = b""
        while len(received) < len(payload):
            received += sock.recv(1 << 16)
        sender.join()
    assert received == payload


@PLACES
def test_your_own_session_and_handler(process: bool) -> None:
    word = "kept"

    class Shout(epolllab.Session):
        def receive(self, data: bytes) -> list[bytes]:
            return [data.upper()]

    def handler(request: epolllab.server.Request) -> str:
        return f"{request.path} {word}"

    with epolllab.start_server(protocol=Shout, process=process) as server:
        assert ask(server.address, b"quiet", half_close=True) == b"QUIET"
        assert server.recording().metadata["protocol"].endswith("Shout")
    with epolllab.start_server(protocol="http", handler=handler, process=process) as server:
        response = ask(server.address, b"GET /a HTTP/1.0\r\n\r\n")
    assert response.endswith(b"\r\n\r\n/a kept")


def test_a_handler_that_cannot_be_pickled() -> None:
    lock = threading.Lock()

    def handler(request: epolllab.server.Request) -> str:
        with lock:
            return ""

    with pytest.raises(TypeError, match=r"^process=True"):
        epolllab.start_server(protocol="http", handler=handler, process=True)
    assert not epolllab.servers()


# ---- the handle -------------------------------------------------------------------------


@PLACES
def test_it_listens_when_start_returns(process: bool) -> None:
    with epolllab.start_server(process=process) as server:
        assert server.address == ("127.0.0.1", server.port)
        assert server.url == f"http://127.0.0.1:{server.port}/"
        assert (server.pid == os.getpid()) is not process
        connect(server.address).close()


@PLACES
def test_readings_during_and_after_the_run(process: bool) -> None:
    """Counters, frames and the recording agree on the same requests, also after the stop."""
    server = epolllab.start_server(process=process)
    for _ in range(3):
        ask(server.address, GET)
    live = server.settle().stats()
    server.stop()
    assert (live["connections"], live["accepted"], live["closed"]) == (0, 3, 3)
    assert (live["requests"], live["staged"], live["overwritten"]) == (3, 0, 0)
    for _ in range(2):
        assert server.stats()["requests"] == 3
        assert len(server.requests()) == 3
        events = server.events()
        assert ((events["op"] == "accept") & events["error"].isna()).sum() == 3
        assert (events["op"] == "close").sum() == 3 + 3  # listener, wake-up, poller
        assert len(events) == len(server.recording()) == server.stats()["recorded"]
        assert (server.wakeups()["n_returned"] > 0).any()
        assert server.interest().empty
    metadata = server.recording().metadata
    assert metadata["lifecycle"] == "eager"
    assert metadata["pid"] == server.pid
    assert metadata["stats"]["requests"] == 3


@PLACES
def test_both_reprs(process: bool) -> None:
    with epolllab.start_server(
        protocol="http", trigger="edge", lifecycle="once", capacity=20, process=process
    ) as server:
        with connect(server.address) as sock:
            for _ in range(40):
                sock.sendall(GET)
                assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
            # A loop that finds the next request there already stages its rows and reads on.
            until(lambda: not server.stats()["staged"])
            texts = (repr(server), server._repr_html_())
            for text in texts:
                assert server.url in text
                assert "epoll edge once" in text
                assert "running" in text
            assert ", 1 connections, 20 events recorded, " in texts[0]
            lost = int(texts[0].partition("events recorded, ")[2].split()[0].replace(",", ""))
            assert lost > 20
        server.stop()
        assert "stopped" in repr(server)
        assert "stopped" in server._repr_html_()


@PLACES
def test_without_a_recorder(process: bool) -> None:
    with epolllab.start_server(record=False, process=process) as server:
        assert ask(server.address, GET) == Hello.RESPONSE
        stats = server.settle().stats()
        assert "none events recorded" in repr(server)
        assert len(server.recording()) == 0
        for frame in (server.events(), server.wakeups(), server.requests()):
            assert frame.empty
    assert (stats["requests"], stats["recorded"], stats["overwritten"]) == (1, 0, 0)


BUSY = "import re\ndef busy(request): re.match(r'(a+)+$', 'a' * 60 + 'b')"
"""A handler that keeps the interpreter lock, so that its process cannot reply."""


@pytest.mark.processes
@pytest.mark.parametrize("how", ["killed", "suspended", "busy", "stopped"])
def test_stats_has_its_keys_whatever_the_process_does(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not known is None, and `unavailable` says why; settle() and displays go on."""
    for name in ("REPLY_S", "AGAIN_S", "STOP_S"):
        monkeypatch.setattr(hosts, name, 0.3)
    space: dict[str, Any] = {}
    exec(BUSY, space)
    server = epolllab.start_server(protocol="http", handler=space["busy"], process=True)
    keys = list(server.stats())
    with connect(server.address) as sock:
        if how == "busy":
            sock.sendall(GET)
            until(lambda: kernel.cpu_time_ns(server.pid) > 500_000_000)
        elif how == "stopped":
            server.stop()
        else:
            os.kill(server.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            until(lambda: is_suspended(server.pid) or not server.is_running)
        if how == "killed":
            with pytest.raises(epolllab.server.ServerDied, match="SIGKILL"):
                server.stats()
        for _ in range(2):
            stats = server.stats()
            assert list(stats) == keys
            assert all(isinstance(value, int | None) for value in stats.values())
        words = {"killed": "SIGKILL", "suspended": "suspended", "busy": "busy"}
        assert (stats["requests"] is None) is (how != "stopped")
        assert (server.unavailable or "").count(words.get(how, " ")) == (how != "stopped")
        assert server.url in repr(server)
        assert ("unknown" in server._repr_html_()) is (how != "stopped")
        if how in ("killed", "stopped"):
            assert server.settle() is server
            assert server.interest().empty
        else:
            with pytest.raises(TimeoutError, match=words[how]):
                server.settle(0.1)
            with pytest.raises(TimeoutError, match=words[how]):
                server.interest()
            assert server.interest(raise_error=False).empty
        server.tail()
        server.recording()
        server.stop()
    assert list(server.stats()) == keys
    assert server.stats()["connections"] == 0


@pytest.mark.processes
def test_a_process_that_goes_on_replies_with_new_counters() -> None:
    """Late replies to queries that were given up are not taken for the next ones."""
    with epolllab.start_server(process=True) as server:
        for n in range(1, 4):
            os.kill(server.pid, signal.SIGSTOP)
            until(lambda: server.stats()["requests"] is None)
            os.kill(server.pid, signal.SIGCONT)
            ask(server.address, GET)
            assert server.settle().stats()["requests"] == n
            assert server.unavailable is None


@PLACES
def test_interest_beside_a_stop_gives_an_answer(process: bool) -> None:
    """A frame, from a server that runs, stops, or has stopped; and no other server's."""
    for _ in range(5 if process else 30):
        server = epolllab.start_server(process=process, capacity=1000)
        stopper = threading.Thread(target=server.stop)
        other = epolllab.start_server(poller="poll", capacity=1000)
        stopper.start()
        while stopper.is_alive():
            assert len(server.interest()) in (0, 2)
        stopper.join()
        assert server.interest().empty
        other.stop()


def test_servers_and_stop_all_beside_threads_that_start_and_stop() -> None:
    ends = threading.Event()
    failures: list[BaseException] = []

    def repeat(step: Callable[[], object]) -> None:
        try:
            while not ends.is_set():
                step()
        except BaseException as error:
            failures.append(error)

    steps = [lambda: epolllab.start_server(capacity=100).stop()] * 3
    threads = [
        threading.Thread(target=repeat, args=(step,))
        for step in (*steps, epolllab.servers, epolllab.stop_all)
    ]
    for thread in threads:
        thread.start()
    time.sleep(1)
    ends.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert epolllab.servers() == []


@PLACES
def test_a_stopped_server_keeps_only_the_rows_written(process: bool) -> None:
    """A notebook keeps every handle that it displayed: 40 MB each, were the ring kept."""

    def mapped_kb() -> int:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[0]) * os.sysconf("SC_PAGE_SIZE") // 1024

    kept = []
    before = mapped_kb()
    for _ in range(5):
        server = epolllab.start_server(process=process)
        ask(server.address, GET)
        rows = len(server.settle().recording())
        server.stop()
        kept.append(server)
    assert mapped_kb() - before < 100_000
    for server in kept:
        recording = server.recording()
        assert len(recording) == server.stats()["recorded"] > rows
        last = recording.array()["start_ns"][-3:].tolist()
        assert server.tail(3).array()["start_ns"].tolist() == last
        assert recording.requests()["n_bytes"].tolist() == [len(Hello.RESPONSE)]


def test_a_server_that_its_handler_stopped_frees_its_ring_too() -> None:
    handles: list[epolllab.Server] = []

    def handler(request: epolllab.server.Request) -> str:
        handles[0].stop()
        return ""

    handles.append(epolllab.start_server(protocol="http", handler=handler))
    ask(handles[0].address, GET)
    until(lambda: not handles[0].is_running)
    handles[0].stop()
    host = handles[0]._host
    assert isinstance(host, hosts.ThreadHost)
    assert host._recorder
    assert host._recorder.memory.closed


@pytest.mark.parametrize("capacity", [10**12, 10**17, 10**30])
@PLACES
def test_a_capacity_beyond_the_memory(process: bool, capacity: int) -> None:
    with pytest.raises(ValueError, match=r"^capacity\b"):
        epolllab.start_server(capacity=capacity, process=process)


@pytest.mark.processes
def test_without_memfd_create(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox may refuse it; then a deleted file is the shared memory."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with epolllab.start_server(process=True) as server:
        assert epolllab.run_clients(server, requests=5, progress=False).errors() == {}
        assert len(server.settle().requests()) == 5


@pytest.mark.processes
def test_an_import_path_with_other_things_than_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports ignore a Path in sys.path, and so do children; a subclass of str is a string."""

    class Text(str):
        def __repr__(self) -> str:
            return "Text(...)"

    extra = [Path("somewhere"), b"bytes", 5, None, Text("sub/class"), "quote'\"\\", "\udcff"]
    monkeypatch.setattr(sys, "path", [*sys.path, *extra])
    with epolllab.start_server(process=True) as server:
        assert epolllab.run_clients(server, requests=5, progress=False).errors() == {}


def test_settle_times_out() -> None:
    with epolllab.start_server() as server, connect(server.address):
        until(lambda: server.stats()["connections"] == 1)
        with pytest.raises(TimeoutError, match=r"^settle\(\).* 1 connections"):
            server.settle(timeout=0.05)


def test_until_idle_needs_a_process() -> None:
    """A thread's process never sleeps as a whole."""
    with epolllab.start_server() as server, pytest.raises(ValueError, match="process=True"):
        server.until_idle()


# ---- stopping ---------------------------------------------------------------------------


@PLACES
def test_stop_any_number_of_times(process: bool) -> None:
    """Calls one after the other and at once all return; it has stopped after the first."""
    server = epolllab.start_server(process=process)
    assert server.is_running
    assert epolllab.servers() == [server]
    stoppers = [threading.Thread(target=server.stop) for _ in range(4)]
    for thread in stoppers:
        thread.start()
    server.stop()
    assert not server.is_running
    assert is_refused(server.address)
    for thread in stoppers:
        thread.join()
    server.stop()
    assert server.error is None
    assert not epolllab.servers()


@PLACES
def test_stop_closes_the_open_connections(process: bool) -> None:
    with epolllab.start_server(protocol="http", process=process) as server:
        with connect(server.address) as sock:
            sock.sendall(GET)
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
            server.stop()
            assert sock.recv(1_000) == b""
        assert server.stats()["closed"] == 1
        assert server.stats()["connections"] == 0


def test_a_handler_may_stop_its_server() -> None:
    """Called in the loop's own thread, stop() does not wait for itself."""
    started: list[epolllab.Server] = []

    def handler(request: epolllab.server.Request) -> str:
        started[0].stop()
        return "stopping"

    started.append(epolllab.start_server(protocol="http", handler=handler))
    assert ask(started[0].address, GET).endswith(b"stopping")
    until(lambda: not started[0].is_running)
    started[0].stop()


@PLACES
def test_an_exception_in_the_with_block(process: bool) -> None:
    with (
        pytest.raises(KeyError, match="mine"),
        epolllab.start_server(process=process) as server,
    ):
        raise KeyError("mine")
    assert not server.is_running
    assert is_refused(server.address)


@PLACES
def test_servers_and_stop_all(process: bool) -> None:
    started = [epolllab.start_server(process=process) for _ in range(3)]
    assert epolllab.servers() == sorted(started, key=lambda server: server.port)
    started[0].stop()
    assert set(epolllab.servers()) == set(started[1:])
    epolllab.stop_all()
    assert not epolllab.servers()
    assert all(is_refused(server.address) for server in started)
    epolllab.stop_all()


@PLACES
def test_a_dropped_handle_stops_its_server(process: bool) -> None:
    """Nothing listens any more when the last reference goes, and no child is left."""
    server = epolllab.start_server(process=process)
    address = server.address
    ask(address, GET)
    del server
    gc.collect()
    assert is_refused(address)
    assert not epolllab.servers()
    assert not kernel.children()


@pytest.mark.notebook
def test_a_cell_run_twice_leaves_one_server() -> None:
    """The cell's earlier server is stopped first, even where both have the same port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # The last line displays the handle, which IPython then keeps in Out and _.
    cell = f"server = epolllab.start_server(port={port}, process=__P__)\nserver"
    with notebook_kernel() as (_, client):
        run_cell(client, "import epolllab")
        for process in ("False", "True"):
            for _ in range(3):
                run_cell(client, cell.replace("__P__", process))
                assert run_cell(client, "print(epolllab.servers())").count("running") == 1
            run_cell(client, "server.stop()")
        run_cell(client, "first = epolllab.start_server()")
        run_cell(client, "second = epolllab.start_server()")
        assert run_cell(client, "print(epolllab.servers())").count("running") == 2


@pytest.mark.processes
@pytest.mark.parametrize(
    ("ending", "code"), [("", 0), ("raise SystemExit(3)", 3), ("raise KeyError(1)", 1)]
)
def test_leaving_the_interpreter_stops_all(ending: str, code: int) -> None:
    """Running servers end with the interpreter, silently and without leaving a child."""
    program = textwrap.dedent(
        f"""
        import epolllab
        kept = [epolllab.start_server(), epolllab.start_server(process=True)]
        for server in kept:
            print(server.pid, server.port, flush=True)
        {ending}
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert "KeyError" in done.stderr if code == 1 else done.stderr == ""
    for line in done.stdout.splitlines():
        pid, port = map(int, line.split())
        assert not Path(f"/proc/{pid}").exists()
        assert is_refused(("127.0.0.1", port))
