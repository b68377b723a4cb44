"""Plain sockets and patient waiting, for tests that look at a server from outside.

One job: talk to a server without a line of the package under test.
"""

import socket
import struct
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["GET", "ask", "connect", "is_refused", "read_to_end", "reset", "until"]

T = TypeVar("T")
Address = tuple[str, int]

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
PATIENCE_S = 20.0
"""How long anything may take before a test says that it does not happen."""


def until(holds: Callable[[], T], seconds: float = PATIENCE_S) -> T:
    """Wait until `holds()` is true and return it; AssertionError when time is up."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {holds}"
        time.sleep(0.001)
    return value


def connect(address: Address) -> socket.socket:
    """Connect; each later call on the socket gives up after a while, too."""
    sock = socket.create_connection(address, timeout=PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    """Read until the peer ends; ConnectionResetError if it ends rudely."""
    pieces = []
    while data := sock.recv(65_536):
        pieces.append(data)
    return b"".join(pieces)


def ask(address: Address, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send the pieces on a connection of their own; everything that comes back."""
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
    """Whether nobody listens there."""
    try:
        socket.create_connection(address, timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    return False
