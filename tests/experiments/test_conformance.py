"""Checks from outside: the how-to's servers fail them, correct servers pass all."""

import socket
import time
from dataclasses import replace

import pytest

import epolllab
from epolllab import kernel
from epolllab.child import ChildDied
from epolllab.experiments.comparisons import conformance
from epolllab.experiments.comparisons.conformance import CHECKS, check_conformance
from epolllab.experiments.comparisons.howto import HowToProcess, HowToServer

REQUEST = b"GET / HTTP/1.0\r\n\r\n"

FAULTS = {
    "leaves before the blank line",
    "resets the connection",
    "sends a byte that is no UTF-8",
    "sends 300,000 bytes and no blank line",
    "comes with nineteen others",
    "comes with another at the same time",
    "has been there, with nine others",
}


def failed(frame):
    """The names of the checks that a server did not pass."""
    return set(frame.index[~frame["passed"]])


def test_the_level_triggered_how_to_has_every_fault():
    """It serves a correct client; each other check fails and says what was seen."""
    frame = check_conformance(HowToProcess)
    assert failed(frame) == FAULTS
    assert list(frame.index) == list(CHECKS)
    assert list(frame.columns) == ["fault", "passed", "seen"]
    seen = frame["seen"]
    assert seen["leaves before the blank line"] == "the server spins at 100 % CPU"
    assert seen["resets the connection"] == "the server died: ConnectionResetError"
    assert seen["sends a byte that is no UTF-8"] == "the server died: UnicodeDecodeError"
    assert seen["comes with nineteen others"].startswith("2 of 20")


def test_the_edge_triggered_how_to_accepts_all_and_leaks():
    """Accepting until EAGAIN repairs one fault; the reset becomes a leak."""
    frame = check_conformance(lambda: HowToProcess(edge=True))
    assert failed(frame) == FAULTS - {"comes with another at the same time"}
    assert frame["seen"]["resets the connection"] == "the connection is never closed"


def test_an_interrupt_keeps_the_checks_made(monkeypatch):
    """The rows so far stay, and the frame says that it was interrupted."""
    second = list(CHECKS)[1]

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(CHECKS, second, replace(CHECKS[second], function=interrupt))
    frame = check_conformance(HowToProcess)
    assert list(frame.index) == list(CHECKS)[:1]
    assert frame.attrs["interrupted"]
    assert frame.attrs["notes"] == [f"interrupted after 1 of {len(CHECKS)} checks"]


@pytest.mark.parametrize("trigger", ["level", "edge"])
@pytest.mark.parametrize("lifecycle", ["eager", "oneshot"])
def test_the_package_servers_pass(trigger, lifecycle):
    """Servers of the package pass every check."""
    how = {"trigger": trigger, "lifecycle": lifecycle, "max_request_bytes": 65_536}
    frame = check_conformance(lambda: epolllab.start_server(**how, process=True))
    assert failed(frame) == set(), frame


@pytest.mark.parametrize("edge", [False, True])
def test_the_edge_triggered_how_to_sends_until_an_error(edge):
    """Its loop over send ends at EAGAIN, level-triggered at once; both need another turn."""
    with HowToServer(edge=edge) as server, socket.create_connection(server.address, 10) as client:
        server.turn(10)
        ((fd, accepted),) = server.connections.items()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        server.responses[fd] = bytes(8_000_000)
        server.swallowed.clear()
        client.sendall(REQUEST)
        server.turn(10)
        server.turn(10)
        assert 0 < len(server.responses[fd]) < 8_000_000
        assert ("EAGAIN" in server.swallowed) == edge


class TrimmedServer(HowToServer):
    """A repair of one fault."""

    def hung_up(self, fd):
        """Remove the connection from all tables."""
        super().hung_up(fd)
        del self.requests[fd], self.responses[fd]


def test_a_derived_server_lacks_the_fault_it_repairs():
    """Overriding one method repairs one fault, also in the child process."""
    assert failed(check_conformance(lambda: HowToProcess(TrimmedServer))) == FAULTS - {
        "has been there, with nine others"
    }


def test_a_server_in_a_thread_is_refused():
    """Its descriptors and its processor time cannot be told from the test's own."""
    with pytest.raises(ValueError, match=r"^make\b"):
        check_conformance(epolllab.start_server)


def test_an_unreadable_wchan_is_no_fault_of_the_server(monkeypatch):
    """Where /proc does not show whether the server sleeps, no check can be made."""

    def refuse(*_, **__):
        raise PermissionError(13, "wchan cannot be read")

    monkeypatch.setattr(conformance, "until_idle", refuse)
    with pytest.raises(PermissionError, match="wchan"):
        check_conformance(HowToProcess)


def test_the_process_has_counters_and_then_its_error():
    """Counters while it runs; afterwards the exception, which ended every connection."""
    with HowToProcess() as server:
        with socket.create_connection(server.address, 10) as client:
            client.sendall(REQUEST)
            assert client.recv(1000) == epolllab.server.Hello.RESPONSE
        kernel.until_idle(server.pid)
        assert server.stats()["accepted"] == 1
        assert server.is_running
        with socket.create_connection(server.address, 10) as client:
            client.sendall(REQUEST.replace(b"/ ", b"/\xff "))
            assert client.recv(1000) == b""
        deadline = time.monotonic() + 10
        while server.is_running and time.monotonic() < deadline:
            time.sleep(0.001)
        assert server.error == "UnicodeDecodeError"
        with pytest.raises(ChildDied):
            server.stats()
    assert server.pid not in kernel.children()


def test_a_server_that_spins_is_never_idle_and_can_be_stopped():
    """Waiting for a loop that does not return to its wait times out."""
    with HowToProcess(edge=True) as server:
        with socket.create_connection(server.address, 10) as client:
            client.sendall(REQUEST[:5])
        begun = kernel.cpu_time_ns(server.pid)
        deadline = time.monotonic() + 10
        while kernel.cpu_time_ns(server.pid) < begun + 50_000_000:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        with pytest.raises(TimeoutError, match=str(server.pid)):
            kernel.until_idle(server.pid, timeout=0.2)
    assert server.pid not in kernel.children()


def test_idle_means_that_everything_was_handled():
    """After until_idle, the server has handled what a client sent."""
    with epolllab.start_server(process=True) as server:
        for n in range(1, 30):
            with socket.create_connection(server.address, 10) as client:
                client.sendall(REQUEST)
                kernel.until_idle(server.pid, client)
                assert server.stats()["requests"] == n
