"""The system calls that only clients make, bare or recorded.

One job: make sockets and dial, on top of the calls that servers and clients share.
Dialling differs from ``SystemCalls.connect`` in that an errno is returned rather
than raised: a non-blocking connect answers EINPROGRESS every time, and an exception
for each connection would cost a microsecond.
"""

import socket
from errno import EINPROGRESS
from typing import TYPE_CHECKING, Any

from epolllab.events import Op, key_of
from epolllab.kernel.syscalls import Endpoint, RecordedCalls, Socket, SystemCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from epolllab.kernel.pollers import Poller
    from epolllab.recording.recorder import Recorder


__all__ = ["ClientCalls", "RecordedClientCalls", "make_calls"]


_BIND_ADDRESS_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT; the socket module names it since 3.12
SOCKET, CONNECT = int(Op.SOCKET), int(Op.CONNECT)
# Without the flag in the type, a second system call would be needed for it.
_STREAM = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)


class ClientCalls(SystemCalls):
    """The calls, bare."""

    def socket(self, end: Endpoint, family: int, conn: int) -> int:
        """Make a non-blocking TCP socket for connection `conn`; its number is ``end.fd``."""
        end.sock = sock = Socket(family, _STREAM, 0)
        fd: int = sock.fileno()
        end.fd = fd
        end.key = key_of(conn, fd)
        return fd

    def bind(self, end: Endpoint, source: str) -> None:
        """Choose the source address, and leave the port to connect.

        A port given out by bind would be taken for all peers; one chosen by connect
        need only make the pair of addresses unique (IP_BIND_ADDRESS_NO_PORT, ip(7)).
        """
        end.sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        end.sock.bind((source, 0))

    def dial(self, end: Endpoint, address: Any) -> tuple[int, int]:
        """Begin to connect.

        Returns
        -------
        tuple of (int, int)
            0 if that goes well or goes on, else the errno; and the local port, which
            the kernel has chosen meanwhile.
        """
        sock = end.sock
        number: int = sock.connect_ex(address)
        return (0 if number == EINPROGRESS else number), sock.getsockname()[1]


class RecordedClientCalls(RecordedCalls, ClientCalls):
    """The same calls with a row each."""

    def __init__(self, poller: "Poller", max_events: int, recorder: "Recorder") -> None:
        super().__init__(poller, max_events, recorder)
        self._bind_clients(recorder.clock, recorder.stage)

    def _bind_clients(
        self, clock: "Callable[[], int]", stage: "Callable[[tuple[int, ...]], None]"
    ) -> None:
        """Bind the calls of every connection as closures: no attribute is looked up."""

        def make_socket(end: Endpoint, family: int, conn: int) -> int:
            start = clock()
            try:
                sock = Socket(family, _STREAM, 0)
            except OSError as error:
                stage((start, clock(), key_of(conn, -1), -(error.errno or 0), SOCKET))
                raise
            stop = clock()
            end.sock = sock
            fd: int = sock.fileno()
            end.fd = fd
            end.key = key = conn << 32 | fd
            stage((start, stop, key, fd, SOCKET))
            return fd

        def dial(end: Endpoint, address: Any) -> tuple[int, int]:
            sock = end.sock
            start = clock()
            number: int = sock.connect_ex(address)
            stop = clock()
            port: int = sock.getsockname()[1]
            stage((start, stop, end.key, -number, port << 8 | CONNECT))
            return (0 if number == EINPROGRESS else number), port

        self.socket = make_socket  # type: ignore[method-assign]
        self.dial = dial  # type: ignore[method-assign]


def make_calls(poller: "Poller", max_events: int, recorder: "Recorder | None") -> ClientCalls:
    """Recorded calls where there is a recorder, bare ones otherwise."""
    if recorder is None:
        return ClientCalls(poller, max_events)
    return RecordedClientCalls(poller, max_events, recorder)
