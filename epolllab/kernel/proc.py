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
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from epolllab.events import mask_names

__all__ = [
    "ContextSwitches",
    "CpuTimes",
    "InterestEntry",
    "children",
    "context_switches",
    "counters",
    "counters_since",
    "cpu_time_ns",
    "cpu_times",
    "descriptors_open",
    "interest_list",
    "local_port_range",
    "nr_open",
    "somaxconn",
    "sysctl",
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
