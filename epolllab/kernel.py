"""What Linux itself says: its lists, its counters and its limits.

One job: ask the kernel and give back plain rows and numbers. This file knows no
recorder, no server and no frame; ``frames`` makes frames of what it returns.

It can be imported on any operating system. What only Linux has raises an OSError
that says so when it is called.

The sources are proc(5), epoll(7), tcp(7), select(2) and the kernel's headers under
``include/uapi/linux``; where the kernel surprises, the place in its code is named.
"""

import errno
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from epolllab.events import mask_names

__all__ = [
    "ContextSwitches",
    "CpuTimes",
    "DescriptorLimitError",
    "DescriptorLimits",
    "InterestEntry",
    "ListenQueue",
    "TcpInfo",
    "bytes_readable",
    "bytes_unacknowledged",
    "bytes_unsent",
    "children",
    "context_switches",
    "counters",
    "counters_since",
    "cpu_time_ns",
    "cpu_times",
    "descriptor_limits",
    "descriptors_open",
    "ensure_descriptor_limit",
    "interest_list",
    "listen_queue",
    "listening_ports",
    "local_port_range",
    "nr_open",
    "raise_descriptor_limit",
    "somaxconn",
    "sysctl",
    "tcp_info",
    "threads",
]


class HasFileno(Protocol):
    """A socket, a ``select.epoll``, a file."""

    def fileno(self) -> int:
        """Return the number of the descriptor."""


# --- /proc of one process ---------------------------------------------------------------


def require_linux(what: str) -> None:
    if sys.platform != "linux":
        raise OSError(
            f"{what} is asked of the Linux kernel, and this is {sys.platform}; saved recordings "
            "can be read here, live ones are made on Linux"
        )


@contextmanager
def _explained(pid: int | None, tid: int | None = None) -> Iterator[None]:
    """Turn what /proc says about a process that is gone or not ours into words."""
    who = "this process" if pid is None else f"process {pid}"
    who = who if tid is None else f"thread {tid} of {who}"
    try:
        yield
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(
            errno.ESRCH, f"{who} is not there: it has ended, or the number is not its own"
        ) from error
    except PermissionError as error:
        raise PermissionError(
            errno.EACCES,
            f"{who} belongs to another user or may not be traced, so its /proc is closed to "
            "this one; ask from inside it, or as its user",
        ) from error


def _folder(pid: int | None, tid: int | None = None) -> Path:
    folder = Path("/proc", "self" if pid is None else str(pid))
    return folder if tid is None else folder / "task" / str(tid)


def _process_text(name: str, pid: int | None, tid: int | None = None) -> str:
    require_linux(f"/proc/PID/{name}")
    with _explained(pid, tid):
        return (_folder(pid, tid) / name).read_text()


def threads(pid: int | None = None) -> dict[int, str]:
    """Threads of a process that are alive now.

    Parameters
    ----------
    pid : int, optional
        The process; this one by default.

    Returns
    -------
    dict of int to str
        Thread number to the kernel's name of it, the first thread first.

    Raises
    ------
    ProcessLookupError
        There is no such process.
    """
    require_linux("/proc/PID/task")
    with _explained(pid):
        tids = sorted(int(name) for name in os.listdir(_folder(pid) / "task"))
    return {tid: name for tid in tids if (name := _thread_name(pid, tid)) is not None}


def _thread_name(pid: int | None, tid: int) -> str | None:
    try:
        return _process_text("comm", pid, tid).rstrip("\n")
    except ProcessLookupError:  # ended since it was listed
        return None


def children(pid: int | None = None) -> set[int]:
    """Child processes, those included that have ended and are not yet waited for.

    Parameters
    ----------
    pid : int, optional
        The parent; this process by default.
    """
    require_linux("/proc/PID/stat")
    parent = os.getpid() if pid is None else pid
    found = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if int(_stat("stat", int(name))[1]) == parent:
                found.add(int(name))
        except ProcessLookupError:  # ended since it was listed
            continue
    return found


def _stat(name: str, pid: int | None, tid: int | None = None) -> list[str]:
    """Fields of ``stat`` from the third, the state, on.

    The second is the program's name in parentheses and may hold spaces and
    parentheses itself, so the last one is what ends it.
    """
    return _process_text(name, pid, tid).rpartition(")")[2].split()


# --- epoll's interest list --------------------------------------------------------------


class InterestEntry(NamedTuple):
    """One entry of an epoll's interest list, as the kernel prints it."""

    fd: int
    """Number it was registered by; the number may be closed or reused since."""
    mask: int
    """Interest, with ERR and HUP, which the kernel adds to every one."""
    mask_names: str
    """The mask spelled, for example ``"IN|ERR|HUP"``."""
    data: int
    """The 64 bits the program gave; CPython sets the lower 32 to the number only."""
    pos: int | None
    """File position; 0 for a socket. None where the kernel does not print it."""
    inode: int | None
    """Inode of what is watched, the one in ``socket:[inode]``; None as above."""
    device: int | None
    """Device of that inode, comparable with ``os.fstat(fd).st_dev``; None as above."""


_ENTRY = re.compile(
    r"^tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)\s+data:\s*([0-9a-f]+)"
    r"(?:\s+pos:\s*(-?\d+)\s+ino:\s*([0-9a-f]+)\s+sdev:\s*([0-9a-f]+))?",
    re.MULTILINE,
)


def interest_list(epfd: int | HasFileno, pid: int | None = None) -> list[InterestEntry]:
    """Read the kernel's own interest list of an epoll.

    Use it to see what a program has registered, beside what it believes it has.
    An entry belongs to an open file description and not to a number: one whose
    number was closed while a duplicate lives is still listed, a ghost.

    Parameters
    ----------
    epfd : int or object with ``fileno()``
        The epoll's descriptor, in the process that is asked about.
    pid : int, optional
        That process; this one by default.

    Returns
    -------
    list of InterestEntry
        In the kernel's order, which is that of its tree (by address of the
        description, then by number) and not of registration. The kernel writes it
        while it holds the epoll's mutex, so it is one consistent state. A one-shot
        entry that has fired has no event bits left but ONESHOT.

    Raises
    ------
    OSError
        EBADF: the process has no such descriptor. Without number: not on Linux.
    ValueError
        The descriptor is something else than an epoll.
    ProcessLookupError
        There is no such process.
    PermissionError
        The process belongs to another user.

    Notes
    -----
    Source: ``ep_show_fdinfo`` in ``fs/eventpoll.c``, and proc(5). Before Linux 4.13
    pos, inode and device were not printed.
    """
    require_linux("an epoll's interest list")
    fd = epfd if isinstance(epfd, int) else epfd.fileno()
    _require_epoll(fd, pid)
    entries = _ENTRY.finditer(_process_text(f"fdinfo/{fd}", pid))
    return [_interest_entry(*entry.groups()) for entry in entries]


def _require_epoll(fd: int, pid: int | None) -> None:
    whose = "this process" if pid is None else f"process {pid}"
    with _explained(pid):
        os.stat(_folder(pid))
        try:
            target = os.readlink(_folder(pid) / "fd" / str(fd))
        except FileNotFoundError:
            raise OSError(
                errno.EBADF,
                f"{whose} has no descriptor {fd}; a closed epoll has no interest list any more",
            ) from None
    if target != "anon_inode:[eventpoll]":
        raise ValueError(
            f"descriptor {fd} of {whose} is {target}, not an epoll; "
            "give the number that epoll.fileno() returns"
        )


def _interest_entry(
    fd: str, mask: str, data: str, pos: str | None, inode: str | None, device: str | None
) -> InterestEntry:
    bits = int(mask, 16)
    return InterestEntry(
        int(fd),
        bits,
        mask_names(bits),
        int(data, 16),
        None if pos is None else int(pos),
        None if inode is None else int(inode, 16),
        None if device is None else _device_number(int(device, 16)),
    )


def _device_number(kernel_device: int) -> int:
    # Inside the kernel the minor has the lower 20 bits; programs see another packing.
    return os.makedev(kernel_device >> 20, kernel_device & 0xF_FFFF)


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


# --- counters ---------------------------------------------------------------------------


class ContextSwitches(NamedTuple):
    """How often threads gave up the processor, and how often it was taken."""

    voluntary: int
    """The thread blocked: it went to sleep in a call."""
    involuntary: int
    """It could have gone on, and the scheduler gave the processor to another."""


def context_switches(pid: int | None = None, tid: int | None = None) -> ContextSwitches:
    """Context switches of a process or of one thread.

    Voluntary switches are the right measure of a thundering herd: a waiter that is
    woken in vain goes back to sleep inside the kernel, and its wait never returns.

    Parameters
    ----------
    pid : int, optional
        The process; this one by default.
    tid : int, optional
        One thread of it (``threading.get_native_id()``). By default the sum over
        the threads that are alive now: ``/proc/PID/status`` itself counts the first
        thread only, and the counts of threads that have ended are in neither.

    Raises
    ------
    ProcessLookupError
        There is no such process or thread.
    """
    if tid is not None:
        return _thread_switches(pid, tid)
    counted = []
    for thread in threads(pid):
        try:
            counted.append(_thread_switches(pid, thread))
        except ProcessLookupError:  # ended since it was listed
            continue
    return ContextSwitches(
        sum(count.voluntary for count in counted), sum(count.involuntary for count in counted)
    )


def _thread_switches(pid: int | None, tid: int) -> ContextSwitches:
    status = _process_text("status", pid, tid)
    # "voluntary_ctxt_switches" is the tail of "nonvoluntary_ctxt_switches" too.
    found = dict(re.findall(r"^(\w*voluntary)_ctxt_switches:\s*(\d+)", status, re.MULTILINE))
    return ContextSwitches(int(found["voluntary"]), int(found["nonvoluntary"]))


# A process's CPU clock has a number made of its pid: bit 2 says thread, and 2 in the
# lowest bits says scheduler's time (include/linux/posix-timers_types.h, clock_getcpuclockid(3)).
def _cpu_clock(pid: int) -> int:
    return ~pid << 3 | 2


def _thread_cpu_clock(tid: int) -> int:
    return ~tid << 3 | 6


def cpu_time_ns(pid: int | None = None, tid: int | None = None) -> int:
    """CPU time spent so far, user and system together, in nanoseconds.

    Parameters
    ----------
    pid : int, optional
        The process; this one by default. Its ended threads are included, its child
        processes are not.
    tid : int, optional
        One thread of it only.

    Returns
    -------
    int
        From the scheduler's own clock, exact to the nanosecond, for a process and
        for a thread of this process. For a thread of another process from
        ``schedstat``, which lags by up to a scheduler tick (1 to 10 ms) while the
        thread is running. Where neither is to be had, from ``stat``, in steps of a
        clock tick (10 ms).

    Raises
    ------
    ProcessLookupError
        There is no such process or thread.
    OSError
        Another process or a thread is asked for, and this is not Linux.
    """
    if pid is None and tid is None:
        return time.process_time_ns()
    require_linux("the CPU time of a process or thread by number")
    if tid is None:
        return _clock_or(_cpu_clock(pid or 0), partial(_ticks_ns, pid, None))
    if pid in (None, os.getpid()):
        return _clock_or(_thread_cpu_clock(tid), partial(_scheduled_ns, pid, tid))
    return _scheduled_ns(pid, tid)


def _clock_or(clock: int, otherwise: Callable[[], int]) -> int:
    try:
        return time.clock_gettime_ns(clock)
    except OSError:
        return otherwise()


def _scheduled_ns(pid: int | None, tid: int) -> int:
    try:
        return int(_process_text("schedstat", pid, tid).split()[0])
    except ProcessLookupError:  # the thread is gone, or the kernel has no schedstat
        return _ticks_ns(pid, tid)


def _ticks_ns(pid: int | None, tid: int | None) -> int:
    times = _stat("stat", pid, tid)
    return (int(times[11]) + int(times[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class CpuTimes(NamedTuple):
    """CPU time in the program and in the kernel on its behalf."""

    user_s: float
    system_s: float


def cpu_times(pid: int | None = None) -> CpuTimes:
    """CPU seconds of a process, user and system apart, its ended threads included.

    Parameters
    ----------
    pid : int, optional
        The process; this one by default.

    Returns
    -------
    CpuTimes
        In steps of a clock tick, 10 ms. The sum is the scheduler's; the split is
        estimated from what ran at each tick, unless the kernel was built with
        VIRT_CPU_ACCOUNTING_GEN. Use :func:`cpu_time_ns` for a precise sum.
    """
    times = _stat("stat", pid)
    tick = os.sysconf("SC_CLK_TCK")
    return CpuTimes(int(times[11]) / tick, int(times[12]) / tick)


def counters() -> dict[str, int]:
    """Network counters of this process's network namespace since it was made.

    They count for the whole namespace, not for this program: read them before and
    after, and see :func:`counters_since`.

    Returns
    -------
    dict of str to int
        Named as nstat(8) names them: ``"TcpExtListenOverflows"`` (a connection was
        complete and the accept queue full), ``"TcpExtListenDrops"``,
        ``"TcpActiveOpens"``, ``"TcpRetransSegs"``, ...

    Raises
    ------
    OSError
        This is not Linux.
    """
    found: dict[str, int] = {}
    for table in ("net/snmp", "net/netstat"):
        lines = iter(_process_text(table, None).splitlines())
        for names, values in zip(lines, lines, strict=True):  # a line of each in turn
            prefix, *keys = names.split()
            pairs = zip(keys, values.split()[1:], strict=True)
            found.update((prefix.rstrip(":") + key, int(value)) for key, value in pairs)
    return found


def counters_since(before: Mapping[str, int]) -> dict[str, int]:
    """How much each counter has grown since ``before = counters()``; those that changed."""
    changes = ((name, value - before.get(name, 0)) for name, value in counters().items())
    return {name: change for name, change in changes if change}


# --- limits -----------------------------------------------------------------------------


class DescriptorLimits(NamedTuple):
    """RLIMIT_NOFILE: one more than the greatest descriptor number allowed."""

    soft: int
    """In force; a process may raise it itself, as far as the hard one."""
    hard: int
    """Only the system's administrator can raise it."""


class DescriptorLimitError(OSError):
    """More descriptors are wanted than this process may have.

    Parameters
    ----------
    wanted : int
        Descriptors needed.
    soft, hard : int
        The limits found.

    Attributes
    ----------
    wanted, soft, hard : int
        As given; ``errno`` is EMFILE.
    """

    def __init__(self, wanted: int, soft: int, hard: int) -> None:
        self.wanted, self.soft, self.hard = wanted, soft, hard
        super().__init__(
            errno.EMFILE,
            f"{wanted:,} descriptors are wanted, and this process may have {hard:,}: that is its "
            f"hard limit, to which the soft limit ({soft:,}) is raised by itself. Ask for fewer "
            "connections, or raise the hard limit as root and start again: 'ulimit -n "
            f"{wanted}' in the shell that starts this, LimitNOFILE={wanted} in a systemd unit, "
            f"or a line '* hard nofile {wanted}' in /etc/security/limits.conf (then log in "
            "anew); none of them beyond the sysctl fs.nr_open",
        )

    def __reduce__(self) -> tuple[type["DescriptorLimitError"], tuple[int, int, int]]:
        """Pickle by what it was made of, for the way back from a child process."""
        return DescriptorLimitError, (self.wanted, self.soft, self.hard)


def descriptor_limits() -> DescriptorLimits:
    """Limits of this process on descriptors.

    Raises
    ------
    OSError
        The operating system has no such limit (Windows).
    """
    try:
        import resource
    except ImportError:
        raise OSError(f"{sys.platform} has no limit on descriptors that could be read") from None
    return DescriptorLimits(*resource.getrlimit(resource.RLIMIT_NOFILE))


def ensure_descriptor_limit(wanted: int | None = None) -> int:
    """Raise this process's soft limit on descriptors where it is too low, for good.

    Parameters
    ----------
    wanted : int, optional
        Descriptors needed at once, those already open included; by default as many
        as the hard limit allows. A soft limit that suffices is left alone.

    Returns
    -------
    int
        The soft limit now in force.

    Raises
    ------
    DescriptorLimitError
        More than the hard limit; nothing was changed.
    ValueError
        `wanted` is not at least 1.
    OSError
        The operating system has no such limit (Windows).
    """
    soft, hard = descriptor_limits()
    if wanted is not None and wanted < 1:
        raise ValueError(f"wanted is a number of descriptors from 1 on, not {wanted}")
    if wanted is not None and wanted > hard:
        raise DescriptorLimitError(wanted, soft, hard)
    import resource

    needed = max(soft, hard if wanted is None else wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return needed


@contextmanager
def raise_descriptor_limit(wanted: int | None = None) -> Iterator[int]:
    """Raise the soft limit on descriptors for a while, and put it back.

    The limit is the whole process's. A descriptor above the restored limit stays
    open and usable; only new ones are refused. It is put back at the latest when
    the context manager is dropped: to keep it raised, use
    :func:`ensure_descriptor_limit`, whose parameter and errors this has.

    Yields
    ------
    int
        The soft limit in force inside.
    """
    before = descriptor_limits()
    raised = ensure_descriptor_limit(wanted)
    import resource

    try:
        yield raised
    finally:
        hard = descriptor_limits().hard  # someone may have lowered it meanwhile
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before.soft, hard), hard))


def descriptors_open(pid: int | None = None) -> int:
    """Count the descriptors a process has open.

    Parameters
    ----------
    pid : int, optional
        The process; this one by default.
    """
    require_linux("/proc/PID/fd")
    with _explained(pid):
        count = len(os.listdir(_folder(pid) / "fd"))
    # Our own listing needs one, and finds itself.
    return count - 1 if pid in (None, os.getpid()) else count


def sysctl(name: str) -> tuple[int, ...]:
    """Read one of the kernel's numeric settings.

    Parameters
    ----------
    name : str
        With dots, as sysctl(8) writes it: ``"net.ipv4.tcp_rmem"``.

    Returns
    -------
    tuple of int
        One number or several, as the setting has.

    Raises
    ------
    OSError
        There is no such setting in this kernel or container, or this is not Linux.
    ValueError
        The setting is not numeric.
    """
    require_linux(f"the setting {name}")
    try:
        text = Path("/proc/sys", *name.split(".")).read_text()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            errno.ENOENT, f"this kernel has no setting {name}; 'sysctl -a' lists those it has"
        ) from error
    return tuple(map(int, text.split()))


def somaxconn() -> int:
    """Bound on every listener's backlog (net.core.somaxconn); listen(2) cuts silently."""
    return sysctl("net.core.somaxconn")[0]


def nr_open() -> int:
    """Bound on every hard limit of descriptors (fs.nr_open)."""
    return sysctl("fs.nr_open")[0]


def local_port_range() -> tuple[int, int]:
    """First and last port the kernel gives to a connecting socket.

    Their number bounds the connections from one local address to one listener.
    """
    first, last = sysctl("net.ipv4.ip_local_port_range")
    return first, last
