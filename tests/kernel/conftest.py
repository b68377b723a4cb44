"""Sockets and child processes for the tests of ``epolllab.kernel``."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected Unix sockets."""
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """A listener on loopback, a client and the accepted socket."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        accepted, _ = listener.accept()
        with accepted:
            yield listener, client, accepted


@contextmanager
def running(code: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a Python that runs `code`, prints a line, and ends when its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint('', flush=True)\nimport sys\nsys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        yield process
