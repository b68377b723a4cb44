"""Exceptions in protocols, handlers and the loop, and killed processes: what the handle reports."""

import errno
import os
import signal
import socket
import sys
from contextlib import suppress
from itertools import count
from typing import Any, cast

import pytest

import epolllab
from epolllab.events import EPOLLIN
from epolllab.server import Hello, loop
from epolllab.server.hosts import ThreadHost
from epolllab.server.loop import Loop
from tests.server.helpers import EVERY_READINESS, OLD, PLACES
from tests.wire import GET, ask, connect, is_refused, until

NONSENSE: dict[str, Any] = {
    "none": None, "text": "text", "texts": ["text"], "number": 7, "nones": [None], "zeros": [0],
    "empty text": "", "empty bytes": b"", "no texts": [""], "mapping": {0: b"x"}, "a set": {b"x"},
    "second none": [b"x", None], "iterator": iter([b"x"]), "nested": [[b"x"]], "class": bytes,
}  # fmt: skip
"""What a session may return by mistake, by the word that asks for it."""


class Faulty(epolllab.Session):
    """Raises, or returns nonsense, as the peer asks."""

    def receive(self, data: bytes) -> Any:
        """Do what the peer asks."""
        word = data.decode().strip()
        if word == "raise":
            raise ZeroDivisionError("of the protocol")
        if word == "interim":
            self.interim: Any = "text"
            return []
        if word == "exit":
            sys.exit("of the protocol")
        if word == "fault":
            self.closing, self.fault = True, cast("str", 7)
            return []
        if word == "unhandled":
            self.unhandled = data
        if word == "unhandled number":
            self.unhandled = cast("bytes", 7)
            return []
        return NONSENSE.get(word, [data])

    def on_close(self) -> None:
        """Raise at the end, too."""
        raise ArithmeticError("of the end")


@PLACES
@pytest.mark.parametrize("lifecycle", ["eager", "howto"])
def test_a_protocol_that_fails(lifecycle: Any, process: bool) -> None:
    """Its connection is closed and its faults are counted; other connections stay open."""
    with (
        epolllab.start_server(protocol=Faulty, lifecycle=lifecycle, process=process) as server,
        connect(server.address) as healthy,
    ):
        words = ["raise", "exit", "fault", "interim", "unhandled", "unhandled number", *NONSENSE]
        for n_before, word in enumerate(words):
            healthy.sendall(b"before")
            assert healthy.recv(100) == b"before"
            given_back = b"unhandled" if word == "unhandled" else b""
            assert ask(server.address, word.encode()) in (b"", given_back, 2 * given_back), word
            healthy.sendall(b"after")
            assert healthy.recv(100) == b"after"
            # In receive and in on_close.
            until(lambda n=2 * n_before + 2: server.stats()["faults"] == n)  # type: ignore[misc]
        assert server.stats()["connections"] == 1
        assert server.last_fault
        assert "ArithmeticError: of the end" in server.last_fault
        assert server.is_running


@PLACES
def test_a_protocol_that_cannot_begin(process: bool) -> None:
    class Once:
        """Makes the sessions of the checks at the start, and no other."""

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


def test_a_protocol_that_returns_no_session_later() -> None:
    """One connection is closed, and the error says what the protocol must return."""
    made = iter([epolllab.server.Echo(), epolllab.server.Echo(), None])
    protocol = cast("Any", lambda: next(made, epolllab.server.Echo()))
    with epolllab.start_server(protocol=protocol) as server:
        for _ in range(4):
            assert ask(server.address, b"", half_close=True) == b""
        assert server.settle().stats()["faults"] == 1
        assert server.last_fault
        assert "TypeError: protocol()" in server.last_fault


# ---- failing calls that do not end the loop ---------------------------------------------


def fail(where: Any, name: str, *errors: int) -> None:
    """Make a method fail with the errors, one after the other, and then work again."""
    method, left = getattr(where, name), list(errors)

    def call(*args: Any) -> Any:
        if left:
            error = left.pop(0)
            raise OSError(error, os.strerror(error))
        return method(*args)

    setattr(where, name, call)


def loop_of(server: epolllab.Server) -> Loop:
    """The loop of a server in a thread."""
    assert isinstance(server._host, ThreadHost)
    return server._host.loop


ACCEPT_ERRORS = (
    "EPROTO", "ENETDOWN", "EHOSTDOWN", "ENONET", "EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH",
    "ENOPROTOOPT", "ECONNABORTED", "EPERM", "EINTR", "ENOMEM", "EMFILE", "ETIMEDOUT", "EACCES",
)  # fmt: skip


@EVERY_READINESS
def test_accept_fails(way: dict[str, Any]) -> None:
    """With errors of the network, a firewall or a lack of memory: the next peer is served."""
    with epolllab.start_server(protocol="http", **way) as server:
        for n_errors, name in enumerate(ACCEPT_ERRORS, 1):
            fail(loop_of(server).calls, "accept", getattr(errno, name))
            assert ask(server.address, OLD).endswith(b"Hello, world!"), name
            assert server.stats()["errors"] == n_errors
            assert os.strerror(getattr(errno, name)) in (server.last_fault or "")
        assert server.settle().stats()["accepted"] == len(ACCEPT_ERRORS)


@pytest.mark.parametrize("name", ["EPROTO", "EPERM"])
def test_accept_fails_for_long(name: str) -> None:
    """The loop does not spin, and accepts again when the error is gone."""
    with epolllab.start_server(protocol="http") as server:
        fail(loop_of(server).calls, "accept", *[getattr(errno, name)] * 20)
        assert ask(server.address, OLD).endswith(b"Hello, world!")
        assert server.stats()["errors"] == 20
        assert server.stats()["wakeups"] < 200


def test_accept_on_a_broken_listener() -> None:
    """It can never work again, so the error is raised."""
    server = epolllab.start_server()
    fail(loop_of(server).calls, "accept", errno.EINVAL)
    with suppress(ConnectionError):
        connect(server.address).close()
    until(lambda: not server.is_running)
    with pytest.raises(epolllab.ServerDied, match="Invalid argument"):
        server.stop()


@pytest.mark.parametrize("trigger", ["level", "edge"])
def test_the_length_of_the_queue_is_unknown(trigger: Any) -> None:
    with epolllab.start_server(accept="ask", trigger=trigger) as server:
        fail(loop_of(server).calls, "queue_length", errno.ENOPROTOOPT)
        assert ask(server.address, GET) == Hello.RESPONSE
        assert server.settle().stats()["errors"] == 1


class Unset(socket.SocketType):
    """A socket that cannot be made non-blocking."""

    def setblocking(self, flag: bool) -> None:
        """Fail as fcntl(2) may in a sandbox."""
        raise PermissionError(errno.EPERM, "not permitted")


def refuse(*_: Any) -> None:
    """Fail as a call on a socket whose peer has left."""
    raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("socket_type", [Unset, refuse])
def test_a_new_socket_cannot_be_set_up(socket_type: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor is closed, and later connections are served."""
    with epolllab.start_server() as server:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "Socket", socket_type)
            assert ask(server.address, b"") == b""
        assert ask(server.address, GET) == Hello.RESPONSE
        stats = server.settle().stats()
        assert (stats["errors"], stats["lost"], stats["faults"]) == (1, 1, 0)
        assert (stats["accepted"], stats["closed"]) == (2, 2)


@EVERY_READINESS
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EINTR])
def test_a_wait_fails(way: dict[str, Any], error: int) -> None:
    with epolllab.start_server(protocol="http", **way) as server:
        assert ask(server.address, OLD)  # the loop waits
        fail(loop_of(server).poller, "wait", error, error)
        for _ in range(2):
            assert ask(server.address, OLD).endswith(b"Hello, world!")
        assert server.settle().stats()["errors"] == 2


@EVERY_READINESS
def test_a_connection_cannot_be_registered(way: dict[str, Any]) -> None:
    """As with fs.epoll.max_user_watches: the peer is disconnected, and the next is served."""
    with epolllab.start_server(protocol="http", **way) as server:
        assert ask(server.address, OLD)  # the listener is registered
        fail(loop_of(server).poller, "register", errno.ENOSPC)
        assert ask(server.address, b"") == b""
        assert "ENOSPC" in (server.last_fault or "")
        assert ask(server.address, OLD).endswith(b"Hello, world!")
        stats = server.settle().stats()
        assert (stats["errors"], stats["lost"]) == (1, 1)


@pytest.mark.parametrize("name", ["unregister", "modify"])
def test_a_connection_cannot_be_modified(name: str) -> None:
    """It is closed all the same, and its descriptor with it."""
    with epolllab.start_server(lifecycle="howto") as server:
        assert ask(server.address, GET)
        fail(loop_of(server).poller, name, errno.ENOENT)
        ask(server.address, GET)
        assert ask(server.address, GET) == Hello.RESPONSE
        assert server.settle().stats()["closed"] == 3


@pytest.mark.parametrize("helps", [True, False])
def test_stale_events(helps: bool) -> None:
    """A few make the loop rebuild its epoll instance; rarely, if that changes nothing."""
    with epolllab.start_server() as server:
        poller = loop_of(server).poller
        wait, n_waits = poller.wait, count()

        def stale(*args: Any) -> Any:
            if next(n_waits) >= 1_000:
                return wait(*args)
            rebuilds = loop_of(server).rebuilds
            return [] if helps and rebuilds else [(9_999, EPOLLIN)]

        poller.wait = stale  # type: ignore[method-assign, assignment]
        assert ask(server.address, GET) == Hello.RESPONSE
        assert ask(server.address, GET) == Hello.RESPONSE
        stats = server.settle().stats()
        assert stats["rebuilds"] == 1 if helps else 4 <= stats["rebuilds"] <= 7
        assert stats["stale"] == (loop.STALE_LIMIT if helps else 1_000)
        assert (server.interest()["where"] == "both").all()


# ---- an error that ends the loop --------------------------------------------------------


class Interrupting(epolllab.Session):
    """Raises what is not an Exception, which therefore ends the loop."""

    def receive(self, data: bytes) -> list[bytes]:
        """Raise it."""
        raise KeyboardInterrupt("in the loop")


def dead_server(process: bool) -> epolllab.Server:
    """A server whose loop ended with an error."""
    server = epolllab.start_server(protocol=Interrupting, process=process)
    assert ask(server.address, GET) == b""
    until(lambda: not server.is_running)
    return server


OPERATIONS = ["stats", "recording", "events", "wakeups", "requests", "interest", "settle", "stop"]


@PLACES
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_error_in_the_loop_is_raised_once(process: bool, operation: str) -> None:
    """By the next operation, with its cause; after that everything can be read."""
    server = dead_server(process)
    with pytest.raises(epolllab.ServerDied, match="KeyboardInterrupt: in the loop") as caught:
        getattr(server, operation)()
    assert "in receive" in str(caught.value)
    assert isinstance(caught.value.__cause__, type(None) if process else KeyboardInterrupt)
    for again in OPERATIONS:
        getattr(server, again)()
    assert server.recording().counts()["recv"] == 1
    assert is_refused(server.address)
    assert not epolllab.servers()


@PLACES
def test_reading_the_state_leaves_the_error(process: bool) -> None:
    server = dead_server(process)
    for _ in range(2):
        for text in (repr(server), server._repr_html_(), server.error or ""):
            assert "KeyboardInterrupt: in the loop" in text
        assert server.stats(raise_error=False)["accepted"] == 1
        assert server.interest(raise_error=False).empty
        assert server.tail().counts()["recv"] == 1
        assert server.last_fault is None
    with pytest.raises(epolllab.ServerDied):
        server.stop()
    server.stop()
    assert server.error


@pytest.mark.parametrize(
    ("raised", "expected"), [(None, epolllab.ServerDied), (KeyError, KeyError)]
)
def test_leaving_the_block_of_a_dead_server(
    raised: type[Exception] | None, expected: type[Exception]
) -> None:
    def use(server: epolllab.Server) -> None:
        with server:
            if raised:
                raise raised

    with pytest.raises(expected):
        use(dead_server(process=False))


@pytest.mark.processes
def test_a_killed_process() -> None:
    """The error says how it died, once; what was recorded by then can be read."""
    server = epolllab.start_server(process=True)
    assert ask(server.address, GET) == Hello.RESPONSE
    server.settle()
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.is_running)
    with pytest.raises(epolllab.ServerDied, match="SIGKILL"):
        server.until_idle()
    assert server.stats()["requests"] is None
    assert "SIGKILL" in server.unavailable
    assert len(server.requests()) == 1
    assert "SIGKILL" in repr(server)
    server.stop()


@pytest.mark.processes
def test_stop_all_with_a_dead_server() -> None:
    """The others are stopped; the dead one keeps its error for its own handle."""
    dead = epolllab.start_server(process=True)
    with epolllab.start_server() as alive:
        os.kill(dead.pid, signal.SIGKILL)
        until(lambda: not dead.is_running)
        assert epolllab.servers() == [alive]
        epolllab.stop_all()
    with pytest.raises(epolllab.ServerDied):
        dead.stop()
    dead.stop()
