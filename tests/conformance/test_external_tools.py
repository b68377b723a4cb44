"""What slowhttptest and h2load report about a server.

CI installs them where Debian has them; without them these tests skip, also in CI.
"""

import re
import shutil
import subprocess

import pytest

import epolllab
from epolllab.server import Request
from tests.wire import GET, connect, read_to_end, until


def report(tool: str, *words: str) -> str:
    """Run a tool for a few seconds; return what it printed, without colours."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([path, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.sub(r"\x1b\[[0-9;]*\w", "", done.stdout)


@pytest.mark.parametrize("pipelined", ["1", "10"])
def test_h2load(pipelined: str) -> None:
    """In HTTP/1.1 mode, also with ten requests in flight on each connection."""
    with epolllab.start_server(protocol="http", process=True) as server:
        text = report("h2load", "--h1", "-n2000", "-c20", f"-m{pipelined}", server.url)
        stats = server.settle().stats()
    assert "2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout" in text
    assert "status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx" in text
    assert (stats["requests"], stats["accepted"], stats["lost"]) == (2_000, 20, 0)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [("-H",), ("-B", "-s", "1000")], ids=["headers", "body"])
def test_slow_requests_are_ended(attack: tuple[str, ...]) -> None:
    """Every slow peer is timed out and a probe is served, also when all connections were taken."""
    with epolllab.start_server(
        protocol="http", process=True, request_timeout=0.5, max_connections=50
    ) as server:
        target = ("-u", server.url, "-c", "50", "-r", "200")
        text = report("slowhttptest", *attack, *target, "-i", "1", "-x", "8", "-l", "10", "-p", "5")
        stats = server.settle().stats()
    assert "No open connections left" in text
    assert re.search(r"service available: +YES", text)
    assert (stats["timeouts"], stats["connections"], stats["faults"]) == (50, 0, 0)


@pytest.mark.slow
def test_a_slow_read_holds_no_other_client() -> None:
    """Peers that take 32 bytes a second from a small window keep only their own connections."""

    def large(request: Request) -> bytes:
        return b"x" * 4_000_000

    with epolllab.start_server(protocol="http", handler=large, process=True) as server:
        sizes = ("-w", "512", "-y", "1024", "-n", "1", "-z", "32")
        text = report(
            "slowhttptest", "-X", "-u", server.url, "-c", "20", "-r", "200", *sizes, "-l", "2"
        )
        with connect(server.address) as sock:
            sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert len(read_to_end(sock)) > 4_000_000
        until(lambda: server.stats()["connections"] == 0)
        assert server.stats()["faults"] == 0
    assert "Hit test time limit" in text
    assert re.search(r"service available: +YES", text)
