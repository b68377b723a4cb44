"""Plain sockets, which do not use the server under test, and waiting with a deadline."""

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from epolllab.kernel.proc import is_suspended

__all__ = [
    "GET", "ask", "connect", "is_refused", "misbehaving", "read_to_end", "reset", "suspend",
    "until",
]  # fmt: skip

T = TypeVar("T")
Address = tuple[str, int]

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
PATIENCE_S = 20.0
"""How long to wait before a test fails."""


def until(holds: Callable[[], T], seconds: float = PATIENCE_S) -> T:
    """Wait until `holds()` is true and return it; AssertionError after the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {holds}"
        time.sleep(0.001)
    return value


def suspend(pid: int) -> None:
    """Send SIGSTOP and wait until the process has stopped: the signal alone is not enough."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_suspended(pid))


def connect(address: Address) -> socket.socket:
    """Connect; every later call on the socket has a timeout too."""
    sock = socket.create_connection(address, timeout=PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    """Read until the peer closes; ConnectionResetError if it resets."""
    pieces = []
    while data := sock.recv(65_536):
        pieces.append(data)
    return b"".join(pieces)


def ask(address: Address, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send the pieces on a new connection; return everything the server sends."""
    with connect(address) as sock:
        for piece in pieces:
            sock.sendall(piece)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        return read_to_end(sock)


def reset(sock: socket.socket) -> None:
    """Close so that the kernel sends RST (SO_LINGER with 0 seconds)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def is_refused(address: Address) -> bool:
    """Whether a connection is refused."""
    try:
        socket.create_connection(address, timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    return False


@contextmanager
def misbehaving(act: Callable[[socket.socket], object]) -> Iterator[Address]:
    """Accept in a thread, and call `act` for each connection, one after the other."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                act(sock)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        # A blocked accept returns when its socket is shut down, but not when it is closed.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
