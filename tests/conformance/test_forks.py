"""Forked processes that keep duplicates of a server's descriptors.

Nothing spins, connections end for their peers, and the port is free after a stop, although
the forked process lives on.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.server.helpers import RING, WAYS, Program, is_gone, options_of, program
from tests.wire import GET, Address, connect, is_refused, read_to_end, until

LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

PROGRAM = """
    import ctypes, multiprocessing, os, subprocess, threading, time
    from epolllab.analysis.diagnosis import diagnose
    server = epolllab.start_server(protocol="http", **{options})
    libc = ctypes.PyDLL(None)  # keeps the interpreter lock, which the child needs too

    def multiprocessing_fork():
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        return process.pid

    def os_fork():
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        return pid

    def before_exec():
        reading, writing = os.pipe()
        def hold():
            os.write(writing, b"%d " % os.getpid())
            time.sleep(60)
        start = dict(args=["true"], preexec_fn=hold)
        threading.Thread(target=subprocess.Popen, kwargs=start, daemon=True).start()
        return int(os.read(reading, 20))

    def c_fork():
        pid = libc.fork()
        if pid == 0:
            libc.sleep(60)
            os._exit(0)
        return pid

    def sockets_of(pid):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except FileNotFoundError:  # a descriptor was closed meanwhile
            return -1
        return sum("socket:" in link or "event" in link for link in links)

    tell(server.port)
    for line in sys.stdin:
        tell(eval(line))
"""

TOLD = ["multiprocessing_fork", "os_fork", "before_exec"]
CASES = [
    *((*way, "c_fork") for way in [*WAYS, RING]),
    *((*way, fork) for way in [*WAYS, RING] if way[2] in ("eager", "") for fork in TOLD),
]
"""A fork made in C, of which Python is not told, with every kind of loop; the others."""


@contextmanager
def serving(way: dict[str, Any]) -> Iterator[tuple[Program, Address]]:
    """Run a server in a program that forks."""
    with program(PROGRAM.replace("{options}", repr(way))) as running:
        yield running, ("127.0.0.1", running.read())


@contextmanager
def forked(running: Program, fork: str) -> Iterator[int]:
    """Fork the program; end the forked process with SIGKILL."""
    pid = running.evaluate(f"{fork}()")
    try:
        yield pid
    finally:
        assert not is_gone(pid)
        os.kill(pid, signal.SIGKILL)


def stats(running: Program) -> dict[str, int]:
    """The server's counters."""
    return dict(running.evaluate("server.stats()"))


@pytest.fixture
def way(poller: str, trigger: str, lifecycle: str) -> dict[str, Any]:
    """The parameters as keyword arguments of start_server()."""
    return options_of(poller, trigger, lifecycle)


@pytest.mark.parametrize(
    ("poller", "trigger", "lifecycle", "fork"), CASES, ids=["-".join(case) for case in CASES]
)
def test_a_forked_process(way: dict[str, Any], fork: str) -> None:
    with serving(way) as (running, address):
        leaving, closed, staying = (connect(address) for _ in range(3))
        for sock in (leaving, closed, staying):
            sock.sendall(GET)
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        with forked(running, fork) as pid:
            if fork != "c_fork":
                until(lambda: running.evaluate(f"sockets_of({pid})") == 0)
            before = stats(running)
            leaving.close()
            until(lambda: stats(running)["closed"] == 1)
            time.sleep(0.1)
            after = stats(running)
            assert after["wakeups"] - before["wakeups"] < 50  # thousands, if the loop spins
            is_level = way["poller"] == "epoll" and way.get("trigger") == "level"
            may_spin = fork == "c_fork" and is_level and way.get("lifecycle") in ("eager", "howto")
            if may_spin and way.get("lifecycle") == "eager":
                assert after["rebuilds"] == 1
            if fork != "c_fork" or may_spin:
                closed.sendall(LAST)
                assert read_to_end(closed).endswith(b"Hello, world!")
            staying.sendall(GET)
            assert staying.recv(1_000).startswith(b"HTTP/1.1 200")
            assert running.evaluate("server.stop()") is None
            assert read_to_end(staying) == b""
            assert is_refused(address)
            restart = f"epolllab.start_server(port={address[1]}).stop()"
            assert running.evaluate(restart) is None
            closed.close()
            staying.close()


def test_many_ghosts_take_one_rebuild() -> None:
    """The recording has it, and later connections are closed with no further call."""
    with serving({}) as (running, address):
        peers = [connect(address) for _ in range(50)]
        for sock in peers:
            sock.sendall(GET)
            assert sock.recv(1_000)
        with forked(running, "c_fork"):
            for sock in peers:
                sock.close()
            until(lambda: stats(running)["closed"] == 50)
            until(lambda: stats(running)["rebuilds"])
            assert stats(running)["rebuilds"] == 1
            with connect(address) as sock:
                sock.sendall(LAST)
                assert read_to_end(sock).endswith(b"Hello, world!")
            assert running.evaluate("server.settle().stats()['closed']") == 51
            counts = running.evaluate("server.events().query('conn == 51')['op'].tolist()")
            assert counts == ["accept", "register", "ready", "recv", "handle", "send", "close"]
            interest = "server.interest()['where'].tolist()"
            assert running.evaluate(interest) == ["both", "both"]
            closes = "server.events().query('conn == 0 and op == \"close\"')['fd'].tolist()"
            assert running.evaluate(closes) == running.evaluate(
                "[server._host.loop.poller.fileno()]"
            )
            assert running.evaluate("diagnose(server.recording()).healthy")
