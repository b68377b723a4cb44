"""The system calls that only clients make, bare or recorded: making sockets and dialling.

``dial`` differs from ``SystemCalls.connect`` in that an errno is returned, not raised: a
non-blocking connect gives EINPROGRESS every time, and an exception for each connection
would cost a microsecond.
"""

import socket
from errno import EINPROGRESS
from typing import Any

from epolllab.events import Op, key_of
from epolllab.kernel.syscalls import Endpoint, RecordedCalls, Socket, SystemCalls

__all__ = ["ClientCalls", "RecordedClientCalls"]

_BIND_ADDRESS_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT; the socket module names it since 3.12
SOCKET, CONNECT = int(Op.SOCKET), int(Op.CONNECT)
# With the flag in the type, no second system call is needed for it.
_STREAM = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)


class ClientCalls(SystemCalls):
    """The calls, bare."""

    def socket(self, endpoint: Endpoint, family: int, conn: int) -> int:
        """Make a non-blocking TCP socket for connection `conn`; return its descriptor."""
        endpoint.sock = sock = Socket(family, _STREAM, 0)
        endpoint.fd = fd = sock.fileno()
        endpoint.key = key_of(conn, fd)
        return endpoint.fd

    def bind(self, endpoint: Endpoint, source: str) -> None:
        """Choose the source address, and leave the port to connect.

        A port chosen by bind is taken for all peers; one chosen by connect must only make
        the pair of addresses unique (IP_BIND_ADDRESS_NO_PORT, ip(7)).
        """
        endpoint.sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        endpoint.sock.bind((source, 0))

    def dial(self, endpoint: Endpoint, address: Any) -> tuple[int, int]:
        """Begin to connect; return 0 or an errno, and the local port that the kernel chose."""
        sock = endpoint.sock
        number: int = sock.connect_ex(address)
        return (0 if number == EINPROGRESS else number), sock.getsockname()[1]


class RecordedClientCalls(RecordedCalls, ClientCalls):
    """The same calls with a row each."""

    def socket(self, endpoint: Endpoint, family: int, conn: int) -> int:
        """Make a socket; the row has its descriptor."""
        start = self._clock()
        try:
            fd = super().socket(endpoint, family, conn)
        except OSError as error:
            result = -(error.errno or 0)
            self._stage((start, self._clock(), key_of(conn, -1), result, SOCKET))
            raise
        self._stage((start, self._clock(), endpoint.key, fd, SOCKET))
        return fd

    def dial(self, endpoint: Endpoint, address: Any) -> tuple[int, int]:
        """Begin to connect; the row has the errno and the local port."""
        sock = endpoint.sock
        start = self._clock()
        number: int = sock.connect_ex(address)
        end = self._clock()
        port: int = sock.getsockname()[1]
        self._stage((start, end, endpoint.key, -number, port << 8 | CONNECT))
        return (0 if number == EINPROGRESS else number), port
