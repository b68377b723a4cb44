"""kernel.tcp."""

import errno
import os
import socket
import struct
import sys
from itertools import accumulate
from typing import Any, NamedTuple

from epolllab.kernel.proc import HasFileno, _explained, _folder, _process_text, require_linux

__all__ = [
    "ListenQueue",
    "TcpInfo",
    "bytes_readable",
    "bytes_unacknowledged",
    "bytes_unsent",
    "listen_queue",
    "listening_ports",
    "tcp_info",
]


# --- TCP --------------------------------------------------------------------------------

_TCP_STATES = (
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
)  # from 1 on: include/net/tcp_states.h


class TcpInfo(NamedTuple):
    """``struct tcp_info``: what the kernel knows of one TCP socket.

    Names are the kernel's without ``tcpi_``, with the unit added to times. Fields
    that came to Linux later are None where this kernel is older. Unless a unit is
    in the name, numbers of data are segments, except those called bytes, windows
    and sizes (mss, pmtu, ssthresh of the receiver, space), which are bytes.

    For a listener ``unacked`` is the length of the accept queue and ``sacked`` its
    limit: see :func:`listen_queue`.
    """

    state: str
    ca_state: int
    retransmits: int
    probes: int
    backoff: int
    options: int
    snd_wscale: int
    rcv_wscale: int
    rto_us: int
    ato_us: int
    snd_mss: int
    rcv_mss: int
    unacked: int
    sacked: int
    lost: int
    retrans: int
    fackets: int
    last_data_sent_ms: int
    last_ack_sent_ms: int
    last_data_recv_ms: int
    last_ack_recv_ms: int
    pmtu: int
    rcv_ssthresh: int
    rtt_us: int
    rttvar_us: int
    snd_ssthresh: int
    snd_cwnd: int
    advmss: int
    reordering: int
    rcv_rtt_us: int
    rcv_space: int
    total_retrans: int
    pacing_rate: int | None
    max_pacing_rate: int | None
    bytes_acked: int | None
    bytes_received: int | None
    segs_out: int | None
    segs_in: int | None
    notsent_bytes: int | None
    min_rtt_us: int | None
    data_segs_in: int | None
    data_segs_out: int | None
    delivery_rate: int | None
    busy_time_us: int | None
    rwnd_limited_us: int | None
    sndbuf_limited_us: int | None
    delivered: int | None
    delivered_ce: int | None
    bytes_sent: int | None
    bytes_retrans: int | None
    dsack_dups: int | None
    reord_seen: int | None
    rcv_ooopack: int | None
    snd_wnd: int | None
    rcv_wnd: int | None
    rehash: int | None


# The eighth byte holds two flags that differ between kernels; it is passed over.
_TCP_INFO = struct.Struct("=7Bx24I" + "4Q6I4Q2I2Q6I")
_OLDEST_TCP_INFO = struct.calcsize("=7Bx24I")  # 104 bytes: what every kernel since 2.6 gives
_LATER_ENDS = tuple(
    accumulate([8] * 4 + [4] * 6 + [8] * 4 + [4] * 2 + [8] * 2 + [4] * 6, initial=_OLDEST_TCP_INFO)
)[1:]


def tcp_info(sock: socket.socket) -> TcpInfo:
    """Ask the kernel for all it knows of a TCP socket.

    Parameters
    ----------
    sock : socket.socket
        A TCP socket in any state.

    Returns
    -------
    TcpInfo
        With the state by name, for example ``"ESTABLISHED"``.

    Raises
    ------
    ValueError
        The socket is not TCP.
    OSError
        The socket is closed (EBADF), or this is not Linux.
    """
    require_linux("TCP_INFO")
    try:
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOPROTOOPT):
            raise
        raise ValueError(
            f"TCP_INFO is of TCP sockets, and this one is {sock.family.name} {sock.type.name}"
        ) from error
    return _decode_tcp_info(data)


def _decode_tcp_info(data: bytes) -> TcpInfo:
    """Decode what the kernel returned, which is as long as its own structure is."""
    if len(data) < _OLDEST_TCP_INFO:
        raise OSError(
            f"TCP_INFO gave {len(data)} bytes, and {_OLDEST_TCP_INFO} are the least that any "
            "supported Linux gives; this kernel answers for another system call table"
        )
    fields: tuple[Any, ...] = _TCP_INFO.unpack(data[: _TCP_INFO.size].ljust(_TCP_INFO.size, b"\0"))
    state, *head, scales = fields[:7]
    always, later = fields[7:31], fields[31:]
    low, high = scales & 15, scales >> 4
    # Bit fields fill a byte from its low end on little-endian machines, else from the high.
    scale = (low, high) if sys.byteorder == "little" else (high, low)
    known = (
        value if end <= len(data) else None for value, end in zip(later, _LATER_ENDS, strict=True)
    )
    return TcpInfo._make((_tcp_state(state), *head, *scale, *always, *known))


def _tcp_state(number: int) -> str:
    return _TCP_STATES[number - 1] if 1 <= number <= len(_TCP_STATES) else f"state {number}"


class ListenQueue(NamedTuple):
    """A listener's accept queue."""

    length: int
    """Connections complete and not yet accepted."""
    limit: int
    """The backlog in force: what listen(2) was given, at most ``somaxconn()``."""


def listen_queue(sock: socket.socket) -> ListenQueue:
    """Length and limit of a listener's accept queue.

    The kernel lets the queue grow to one *more* than the limit: it refuses when
    the length is greater (``sk_acceptq_is_full`` in ``include/net/sock.h``).

    Parameters
    ----------
    sock : socket.socket
        A listening TCP socket.

    Raises
    ------
    ValueError
        The socket is not TCP, or does not listen.
    OSError
        The socket is closed, or this is not Linux.
    """
    info = tcp_info(sock)
    if info.state != "LISTEN":
        raise ValueError(f"only a listener has an accept queue, and this socket is {info.state}")
    return ListenQueue(info.unacked, info.sacked)


_SIOCOUTQNSD = 0x894B  # include/uapi/linux/sockios.h; no Python module names it


def _queue_bytes(sock: int | HasFileno, request: int) -> int:
    import fcntl

    value = bytearray(4)
    fcntl.ioctl(sock, request, value)
    return int.from_bytes(value, sys.byteorder, signed=True)


def bytes_readable(sock: int | HasFileno) -> int:
    """Bytes that can be read now without blocking (FIONREAD).

    For a datagram socket the size of the next datagram; EINVAL for a listener.
    A connection at end of file is ready with 0 bytes.
    """
    import termios

    return _queue_bytes(sock, termios.FIONREAD)


def bytes_unacknowledged(sock: int | HasFileno) -> int:
    """Bytes sent by the program that the peer's kernel has not acknowledged (SIOCOUTQ).

    Those that were never put on the wire are among them. On loopback the peer's
    kernel has the bytes at once, but may acknowledge them tens of milliseconds
    later, so this is not what the peer has still to read. 1 more than the bytes
    after shutdown(SHUT_WR), until the FIN is acknowledged.
    """
    require_linux("SIOCOUTQ")
    import termios

    return _queue_bytes(sock, termios.TIOCOUTQ)  # the same number: asm-generic/sockios.h


def bytes_unsent(sock: int | HasFileno) -> int:
    """Bytes in a TCP socket's send buffer that were not yet put on the wire (SIOCOUTQNSD).

    More than 0 for any time when the peer's window is closed: it does not read.
    """
    require_linux("SIOCOUTQNSD")
    return _queue_bytes(sock, _SIOCOUTQNSD)


def listening_ports(pid: int | None = None) -> set[int]:
    """TCP ports on which a process listens, in its own network namespace.

    Parameters
    ----------
    pid : int, optional
        The process; this one by default.

    Returns
    -------
    set of int
        Ports of IPv4 and IPv6 listeners of which the process holds a descriptor,
        also an inherited one.

    Raises
    ------
    ProcessLookupError, PermissionError
        There is no such process, or it is another user's.
    """
    inodes = _socket_inodes(pid)
    return {
        port
        for table in ("net/tcp", "net/tcp6")
        for port, inode in _listeners(table, pid)
        if inode in inodes
    }


def _socket_inodes(pid: int | None) -> set[str]:
    require_linux("/proc/PID/fd")
    folder = _folder(pid) / "fd"
    inodes = set()
    with _explained(pid):
        names = os.listdir(folder)
    for name in names:
        try:
            target = os.readlink(folder / name)
        except FileNotFoundError:  # closed since, as the listing's own descriptor is
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    return inodes


def _listeners(table: str, pid: int | None) -> list[tuple[int, str]]:
    """Port and inode of each row in state 0A, LISTEN."""
    try:
        lines = _process_text(table, pid).splitlines()
    except ProcessLookupError:  # no tcp6 where IPv6 is switched off
        return []
    rows = map(str.split, lines[1:])
    return [(int(row[1].rpartition(":")[2], 16), row[9]) for row in rows if row[3] == "0A"]
