"""What the system refuses: a port in use, and more descriptors than the limit."""

import errno
import time
from typing import Any

import pytest

import epolllab
from epolllab import kernel
from epolllab.server import Hello
from tests.server.helpers import EVERY_READINESS, PLACES, Program, program
from tests.wire import GET, ask, connect, until


@PLACES
def test_a_port_in_use(process: bool) -> None:
    with epolllab.start_server() as server:
        with pytest.raises(OSError, match=rf"port {server.port}: .*port=0") as caught:
            epolllab.start_server(port=server.port, process=process)
        assert caught.value.errno == errno.EADDRINUSE
        assert ask(server.address, GET) == Hello.RESPONSE
        assert epolllab.servers() == [server]
        assert not kernel.children()
    with epolllab.start_server(port=server.port, process=process) as again:
        assert ask(again.address, GET) == Hello.RESPONSE


SIX_LEFT = """
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    server = epolllab.start_server(protocol="http", **{options})
    server.recording().errors()  # imports what it needs while there are descriptors for it
    # From here on six descriptors more than are open now.
    soft = epolllab.kernel.descriptors_open() + 6
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    tell(server.port)
    for line in sys.stdin:
        tell(eval(line))
"""


@EVERY_READINESS
def test_no_descriptor_left(way: dict[str, Any]) -> None:
    """Six connections are served, nothing spins, and a free descriptor is used at once."""
    with program(SIX_LEFT.replace("{options}", repr(way))) as limited:
        address = ("127.0.0.1", limited.read())
        peers = [connect(address) for _ in range(12)]
        try:
            until(lambda: limited.evaluate("server.stats()")["pauses"])
            assert limited.evaluate("server.stats()")["connections"] == 6
            for sock in peers[:6]:
                sock.sendall(GET)
                assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
            assert growth_of_wakeups(limited) < 100  # a loop that spins makes tens of thousands
            for sock in peers[:6]:
                sock.close()
            for sock in peers[6:]:
                sock.sendall(GET)
                assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
            assert limited.evaluate("server.recording().errors()")["accept EMFILE"] >= 1
            assert limited.evaluate("server.stats()")["accepted"] == 12
        finally:
            for sock in peers:
                sock.close()
        assert limited.evaluate("server.settle().stats()")["closed"] == 12


def growth_of_wakeups(limited: Program, seconds: float = 0.5) -> int:
    """Waits that returned in that time; a busy machine makes fewer, never more."""
    before = limited.evaluate("server.stats()")["wakeups"]
    time.sleep(seconds)
    return int(limited.evaluate("server.stats()")["wakeups"]) - before


def test_descriptors_that_others_free() -> None:
    """Accepting is retried at intervals, since no connection of the server may ever close."""
    with program(SIX_LEFT.replace("{options}", "{}")) as limited:
        address = ("127.0.0.1", limited.read())
        limited.evaluate("[setattr(sys, f'f{n}', open('/dev/null')) for n in range(6)]")
        with connect(address) as sock:
            until(lambda: limited.evaluate("server.stats()")["pauses"])
            assert limited.evaluate("server.stats()")["connections"] == 0
            limited.evaluate("[getattr(sys, f'f{n}').close() for n in range(6)]")
            sock.sendall(GET)
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")


@PLACES
def test_more_descriptors_than_the_limit(process: bool) -> None:
    """The error has what was wanted and the limit, and nothing is left."""
    hard = kernel.descriptor_limits().hard
    with pytest.raises(kernel.DescriptorLimitError, match=f"{hard:,}") as caught:
        epolllab.start_server(max_connections=hard, process=process)
    assert caught.value.wanted > hard
    assert caught.value.errno == errno.EMFILE
    assert not epolllab.servers()


@PLACES
def test_the_soft_limit_is_raised(process: bool) -> None:
    """Connections beyond it are served; a server in a child leaves the parent's limit."""
    text = f"""
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        server = epolllab.start_server(protocol="http", max_connections=150, process={process})
        tell(server.port)
        for line in sys.stdin:
            tell(eval(line))
    """
    with program(text) as limited:
        address = ("127.0.0.1", limited.read())
        peers = [connect(address) for _ in range(150)]
        for sock in peers:
            sock.sendall(GET)
        for sock in peers:
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        stats = limited.evaluate("server.stats()")
        assert stats["connections"] == 150
        assert "accept EMFILE" not in limited.evaluate("server.recording().errors()")
        soft = limited.evaluate("resource.getrlimit(resource.RLIMIT_NOFILE)[0]")
        assert soft == 64 if process else soft > 150
        for sock in peers:
            sock.close()
