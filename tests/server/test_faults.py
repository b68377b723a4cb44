"""Exceptions in protocols, handlers and the loop, and killed processes: what the handle reports."""

import os
import signal
from typing import Any

import pytest

import epolllab
from epolllab.server import Hello
from tests.server.helpers import PLACES
from tests.wire import GET, ask, connect, is_refused, until


class Faulty(epolllab.Session):
    """Raises, or returns nonsense, as the peer asks."""

    def receive(self, data: bytes) -> Any:
        """Do what the peer asks."""
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
def test_a_protocol_that_fails(lifecycle: Any, process: bool, word: str) -> None:
    """Its connection is closed and its faults are counted; other connections stay open."""
    with (
        epolllab.start_server(protocol=Faulty, lifecycle=lifecycle, process=process) as server,
        connect(server.address) as healthy,
    ):
        healthy.sendall(b"before")
        assert healthy.recv(100) == b"before"
        assert ask(server.address, word.encode()) == b""
        healthy.sendall(b"after")
        assert healthy.recv(100) == b"after"
        until(lambda: server.stats()["faults"] == 2)  # in receive and in on_close
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
    assert server.stats()["requests"] == 1
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
