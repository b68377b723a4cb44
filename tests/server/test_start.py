"""What each option of start_server() does."""

import os
import resource
import socket
import time
import warnings
from contextlib import ExitStack

import pytest

import epolllab
from epolllab.server import Hello, hosts
from epolllab.server.loop import Loop
from tests.server.helpers import OLD, PLACES, fd_of
from tests.wire import GET, ask, connect, read_to_end, until


def test_a_reachable_host_warns() -> None:
    """The warning points at the line that called start_server()."""
    with pytest.warns(UserWarning, match="host='0.0.0.0'") as caught:
        server = epolllab.start_server("0.0.0.0")
    with server:
        assert ask(("127.0.0.1", server.port), GET) == Hello.RESPONSE
    assert caught[0].filename == __file__


def test_a_server_has_started_once_it_watches_its_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late its thread gets the processor, as on a busy machine."""
    run = Loop.run

    def run_late(loop: Loop) -> None:
        time.sleep(0.1)
        run(loop)

    monkeypatch.setattr(Loop, "run", run_late)
    with epolllab.start_server() as server:
        assert server.interest()["where"].tolist() == ["both", "both"]


def test_a_thread_that_starts_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, and the thread ends."""
    run = Loop.run

    def run_late(loop: Loop) -> None:
        until(lambda: loop._stopping)
        run(loop)

    monkeypatch.setattr(Loop, "run", run_late)
    monkeypatch.setattr(hosts, "START_S", 0.05)
    with pytest.raises(TimeoutError, match=r"did not start its loop within 0\.05 s"):
        epolllab.start_server()


@pytest.mark.parametrize("process", [False, True])
def test_a_loop_that_cannot_watch_its_listener(process: bool) -> None:
    """As with select where over 1,023 descriptors are open: the error says why."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_048), hard))
        for _ in range(1_024):
            stack.callback(os.close, os.dup(2))
        with pytest.raises(RuntimeError, match=r"could not start:[^$]*ends at 1023"):
            epolllab.start_server(poller="select", process=process)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "localhost", "::1"])
def test_a_loopback_host_does_not_warn(host: str) -> None:
    """An IPv6 address stands in brackets in the URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with epolllab.start_server(host) as server:
            if host == "::1":
                assert server.url == f"http://[::1]:{server.port}/"
            assert ask(server.address, GET) == Hello.RESPONSE


def test_an_unusable_host() -> None:
    """The errors for an unknown name and for another machine's address name the host."""
    with pytest.raises(OSError, match=r"host 'no\.such\.host\.invalid'"):
        epolllab.start_server("no.such.host.invalid")
    with (
        pytest.warns(UserWarning, match="host="),
        pytest.raises(OSError, match=r"host 192\.0\.2\.1 port 0"),
    ):
        epolllab.start_server("192.0.2.1")


def test_socket_options_reach_the_accepted_socket() -> None:
    """TCP_NODELAY and the buffers are set on the listener, and accepted sockets inherit them."""
    with (
        epolllab.start_server(
            protocol="echo", nodelay=False, send_buffer=20_000, recv_buffer=30_000
        ) as server,
        connect(server.address),
        socket.socket(fileno=os.dup(fd_of(server))) as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        # The kernel doubles the size asked for (socket(7)).
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 40_000
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 60_000


@pytest.mark.parametrize("lifecycle", ["eager", "howto"])
def test_cork(lifecycle: epolllab.server.options.Lifecycle) -> None:
    """TCP_CORK is set before a response and cleared after it, once each."""
    with epolllab.start_server(protocol="http", cork=True, lifecycle=lifecycle) as server:
        assert ask(server.address, OLD).endswith(b"Hello, world!")
        ops = [str(op) for op in server.settle().events()["op"]]
    assert ops.count("setsockopt") == 2
    first, last = (i for i, op in enumerate(ops) if op == "setsockopt")
    assert "send" in ops[first:last]


@pytest.mark.parametrize("trigger", ["level", "edge"])
@pytest.mark.parametrize("accept", ["drain", "ask", 1, 3])
def test_accept(accept: epolllab.server.options.Accept | int, trigger: str) -> None:
    """Until EAGAIN; as getsockopt says, which never fails; or at most a number per turn."""
    with epolllab.start_server(accept=accept, trigger=trigger) as server:
        run = epolllab.run_clients(server, connections=20, requests=200, progress=False)
        recording = server.settle().recording()
    assert run.requests()["error"].isna().all()
    assert ("getsockopt" in recording.counts()) is (accept == "ask")
    if isinstance(accept, str):
        assert ("accept EAGAIN" in recording.errors()) is (accept == "drain")
    else:
        events = recording.events()
        accepts = events[events["op"] == "accept"]
        assert accepts.groupby(["wake", "position"]).size().max() <= accept


def test_max_events() -> None:
    with epolllab.start_server(protocol="http", max_events=2) as server:
        epolllab.run_clients(server, connections=10, requests=200, keep_alive=True, progress=False)
        assert server.wakeups()["n_returned"].max() <= 2


@PLACES
def test_max_connections(process: bool) -> None:
    with epolllab.start_server(max_connections=2, process=process) as server:
        run = epolllab.run_clients(server, connections=12, requests=60, progress=False)
        stats = server.settle().stats()
        events = server.events()
    assert run.requests()["error"].isna().all()
    assert stats["accepted"] == 60
    assert stats["pauses"] > 0
    step = events["op"].map({"accept": 1, "close": -1}).astype("float").fillna(0)
    of_connections = (events["conn"] > 0) & events["error"].isna()
    assert step[of_connections].cumsum().max() == 2


def test_the_shortest_timeouts_are_limits_too() -> None:
    """Less than a nanosecond is not rounded to no limit."""
    with (
        epolllab.start_server(protocol="http", idle_timeout=1e-12) as server,
        connect(server.address) as silent,
    ):
        assert read_to_end(silent) == b""


@PLACES
def test_idle_timeout(process: bool) -> None:
    with epolllab.start_server(protocol="http", idle_timeout=1, process=process) as server:
        address = server.address
        with connect(address) as silent, connect(address) as slow, connect(address) as idle:
            slow.sendall(b"GET / HTTP/1.1\r\nHost:")
            idle.sendall(GET)
            assert read_to_end(silent) == b""
            assert read_to_end(slow).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            response = read_to_end(idle)
            assert response.startswith(b"HTTP/1.1 200")
            assert response.endswith(b"Hello, world!")
        stats = server.settle().stats()
        assert ask(server.address, OLD).endswith(b"Hello, world!")
    assert stats["timeouts"] == 3
