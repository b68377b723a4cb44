"""Sockets of any process: addresses, states and queues, from /proc/PID/net and sock_diag(7).

The tables in /proc are those of the process's network namespace. Two numbers are not in
them: the length that a listener's accept queue may have, and the bytes that wait in a
unix socket. sock_diag has both, without privilege, for this process's namespace only.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from epolllab.kernel.facilities import NotPossible
from epolllab.kernel.proc import read_process_file

__all__ = ["SocketInfo", "socket_table"]

STATES = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
    "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip
"""TCP's states by their number in the kernel (include/net/tcp_states.h)."""


class SocketInfo(NamedTuple):
    """One socket."""

    text: str
    """Such as ``"tcp 127.0.0.1:80 <- 127.0.0.1:50186 ESTABLISHED"``."""
    state: str
    """TCP's state; "" for other protocols."""
    recv_queue: int | None
    """Bytes that can be read (of UDP, memory they take), or connections that can be accepted."""
    send_queue: int | None
    """Bytes not sent or not acknowledged; of a unix socket, memory the peer has not freed."""
    backlog: int | None = None
    """Most connections that can wait to be accepted; None if unknown or no listener."""


def socket_table(pid: int | None = None) -> dict[int, SocketInfo]:
    """Return the sockets in a process's network namespace, by inode.

    Those of other processes are included: the tables do not say whose they are. Errors as
    in :mod:`epolllab.kernel.proc`.
    """
    found: dict[int, SocketInfo] = {}
    for name in ("tcp", "tcp6", "udp", "udp6"):
        with suppress(NotPossible):  # a kernel without IPv6 has no such table
            for line in read_process_file(f"net/{name}", pid).splitlines()[1:]:
                inode, info = _inet(name, line.split())
                found[inode] = info
    with suppress(NotPossible):
        for line in read_process_file("net/unix", pid).splitlines()[1:]:
            fields = line.split(None, 7)
            path = fields[7] if len(fields) > 7 else "(unnamed)"
            found[int(fields[6])] = SocketInfo(f"unix {path}", "", None, None)
    if _in_our_namespace(pid):
        _add_what_only_diag_has(found)
    return found


def _inet(name: str, fields: list[str]) -> tuple[int, SocketInfo]:
    """Inode and description of one line of a table."""
    sent, received = (int(part, 16) for part in fields[4].split(":"))
    state = STATES[int(fields[3], 16)] if name.startswith("tcp") else ""
    peer = "" if state == "LISTEN" or _is_unspecified(fields[2]) else f" <- {_address(fields[2])}"
    text = f"{name} {_address(fields[1])}{peer} {state}".rstrip()
    return int(fields[9]), SocketInfo(text, state, received, sent)


def _is_unspecified(text: str) -> bool:
    """Whether an address is that of no peer, as of a UDP socket that is not connected."""
    return not text.strip("0:")


def _address(text: str) -> str:
    """Decode ``0100007F:0050``: words of 32 bits in this machine's byte order, and a port."""
    packed, port = text.split(":")
    words = struct.unpack(f">{len(packed) // 8}I", bytes.fromhex(packed))
    raw = struct.pack(f"={len(words)}I", *words)
    if len(raw) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, raw)}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, raw)}]:{int(port, 16)}"


def _in_our_namespace(pid: int | None) -> bool:
    try:
        return pid is None or os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    except OSError:
        return False


# ---- sock_diag(7) -------------------------------------------------------------------------

_BY_FAMILY, _DUMP, _DONE = 20, 0x301, 3
_LISTEN = 1 << 10
_SHOW_QUEUES = 0x10
_QUEUES = 4  # the attribute UNIX_DIAG_RQLEN


def _add_what_only_diag_has(found: dict[int, SocketInfo]) -> None:
    with suppress(OSError):  # a sandbox may refuse netlink: the numbers stay unknown
        for family in (socket.AF_INET, socket.AF_INET6):
            request = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, 0, _LISTEN)
            for body in _dump(request):
                waiting, backlog, _, inode = struct.unpack_from("=IIII", body, 56)
                if inode in found:
                    found[inode] = found[inode]._replace(recv_queue=waiting, backlog=backlog)
        request = struct.pack("=BBHIIIQ", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_QUEUES, 0)
        for body in _dump(request):
            inode, queues = struct.unpack_from("=I", body, 4)[0], _attribute(body, 16, _QUEUES)
            if inode in found and queues:
                received, sent = struct.unpack("=II", queues)
                found[inode] = found[inode]._replace(recv_queue=received, send_queue=sent)


def _dump(request: bytes) -> Iterator[bytes]:
    """The bodies of the messages that answer a request for all sockets of a kind."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:
        netlink.settimeout(5)
        netlink.send(struct.pack("=IHHII", 16 + len(request), _BY_FAMILY, _DUMP, 1, 0) + request)
        while True:
            data = netlink.recv(1 << 18)
            at = 0
            while at < len(data):
                size, kind = struct.unpack_from("=IH", data, at)
                if kind != _BY_FAMILY:  # done, or an error
                    return
                yield data[at + 16 : at + size]
                at += (size + 3) & ~3


def _attribute(body: bytes, at: int, wanted: int) -> bytes:
    while at + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, at)
        if kind == wanted or size < 4:
            return body[at + 4 : at + size]
        at += (size + 3) & ~3
    return b""
