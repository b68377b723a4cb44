"""What the kernel knows of a TCP socket: TCP_INFO, a listener's queue, bytes to read.

Sources: tcp(7) and ``include/uapi/linux/tcp.h``.
"""

import errno
import socket
import struct
import sys
from typing import Any, NamedTuple

from epolllab.checks import check_descriptor, check_sequence
from epolllab.kernel.facilities import NotPossible
from epolllab.kernel.proc import HasFileno, require_linux

__all__ = ["ListenQueue", "TcpInfo", "bytes_readable", "listen_queue", "tcp_info"]

# Numbered from 1: include/net/tcp_states.h.
_TCP_STATES = (
    "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
    "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip


class TcpInfo(NamedTuple):
    """The most used fields of ``struct tcp_info``, all from Linux 2.6 unless noted.

    Names are the kernel's without ``tcpi_``, with the unit added to times. Counts are in
    segments, unless bytes are mentioned. Fields newer than the running kernel are None.
    """

    state: str  # for example "ESTABLISHED"
    retransmits: int  # retransmissions of the oldest unacknowledged segment
    rto_us: int  # retransmission timeout
    snd_mss: int  # largest segment sent, bytes
    unacked: int  # sent and not yet acknowledged; for a listener, length of the accept queue
    sacked: int  # acknowledged selectively; for a listener, limit of the accept queue
    lost: int  # segments considered lost
    last_data_sent_ms: int  # time since data was last sent
    last_data_recv_ms: int  # time since data was last received
    rtt_us: int  # smoothed round-trip time
    rttvar_us: int  # mean deviation of the round-trip time
    snd_cwnd: int  # congestion window
    total_retrans: int  # segments retransmitted since the connection was made
    bytes_acked: int | None  # sent bytes that the peer acknowledged (4.1)
    bytes_received: int | None  # bytes received in order (4.1)
    segs_out: int | None  # segments sent, retransmissions included (4.2)
    segs_in: int | None  # segments received (4.2)
    notsent_bytes: int | None  # bytes in the send buffer that were never sent (4.6)
    min_rtt_us: int | None  # smallest round-trip time seen (4.6)
    delivery_rate: int | None  # most recent delivery rate, bytes per second (4.9)
    busy_time_us: int | None  # time with data to send (4.10)
    rwnd_limited_us: int | None  # time in which the peer's receive window stopped sending (4.10)
    sndbuf_limited_us: int | None  # time in which the send buffer was too small (4.10)
    delivered: int | None  # segments delivered, retransmissions included (4.18)
    bytes_sent: int | None  # bytes sent, retransmissions included (4.19)
    bytes_retrans: int | None  # bytes retransmitted (4.19)
    snd_wnd: int | None  # receive window that the peer advertised, bytes (5.4)


# Format and offset in struct tcp_info of each field after the state.
_FIELDS = (
    ("B", 2), ("I", 8), ("I", 16), ("I", 24), ("I", 28), ("I", 32), ("I", 44), ("I", 52),
    ("I", 68), ("I", 72), ("I", 80), ("I", 100), ("Q", 120), ("Q", 128), ("I", 136), ("I", 140),
    ("I", 144), ("I", 148), ("Q", 160), ("Q", 168), ("Q", 176), ("Q", 184), ("I", 192),
    ("Q", 200), ("Q", 208), ("I", 228),
)  # fmt: skip
_OLDEST_SIZE = 104  # what every kernel since 2.6 returns


def check_socket(name: str, value: Any) -> Any:
    """Return `value` if it is a socket, or a wrapper of one."""
    if not hasattr(value, "getsockopt"):
        raise TypeError(f"{name} must be a socket, not {type(value).__name__}")
    return value


def check_sockets(name: str, values: Any) -> tuple[Any, ...]:
    """Return a sequence of sockets as a tuple."""
    return check_sequence(name, values, check_socket)


def tcp_info(sock: socket.socket) -> TcpInfo:
    """Read TCP_INFO of a TCP socket in any state.

    Raises
    ------
    ValueError
        The socket is not TCP.
    OSError
        The socket is closed (EBADF), or this is not Linux.
    """
    require_linux("TCP_INFO")
    check_socket("sock", sock)
    try:
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOPROTOOPT):
            raise
        raise ValueError(
            f"sock must be a TCP socket, not {sock.family.name} {sock.type.name}"
        ) from error
    return _decode_tcp_info(data)


def _decode_tcp_info(data: bytes) -> TcpInfo:
    """Decode what the kernel returned, which is as long as its own structure."""
    if len(data) < _OLDEST_SIZE:
        raise NotPossible(
            f"TCP_INFO returned {len(data)} bytes, but every supported Linux returns at least "
            f"{_OLDEST_SIZE}; this system does not implement it as Linux does"
        )
    number = data[0]
    state = _TCP_STATES[number - 1] if 1 <= number <= len(_TCP_STATES) else f"state {number}"
    values = (
        struct.unpack_from(f"={code}", data, offset)[0]
        if offset + struct.calcsize(f"={code}") <= len(data)
        else None
        for code, offset in _FIELDS
    )
    return TcpInfo._make((state, *values))


class ListenQueue(NamedTuple):
    """A listener's accept queue."""

    length: int
    """Connections that are complete and not yet accepted."""
    limit: int
    """The backlog in force: the one given to listen(2), at most ``somaxconn()``."""


def listen_queue(sock: socket.socket) -> ListenQueue:
    """Return the length and limit of a listening TCP socket's accept queue.

    The kernel lets the queue grow to one *more* than the limit: it refuses when the
    length is greater (``sk_acceptq_is_full`` in ``include/net/sock.h``).

    Raises
    ------
    ValueError
        The socket is not TCP, or is not listening.
    OSError
        The socket is closed, or this is not Linux.
    """
    info = tcp_info(sock)
    if info.state != "LISTEN":
        raise ValueError(f"sock must be listening to have an accept queue; it is {info.state}")
    return ListenQueue(info.unacked, info.sacked)


def bytes_readable(sock: int | HasFileno) -> int:
    """Return the number of bytes that can be read now without blocking (FIONREAD).

    For a datagram socket the size of the next datagram; EINVAL for a listener. A
    connection at end of file is ready with 0 bytes.
    """
    import fcntl  # Windows has neither module
    import termios

    value = bytearray(4)
    fcntl.ioctl(check_descriptor("sock", sock), termios.FIONREAD, value)
    return int.from_bytes(value, sys.byteorder, signed=True)
