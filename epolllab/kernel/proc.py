"""What /proc shows: threads, interest lists, context switches, CPU times, counters, sysctls.

Importable on any operating system; what only Linux has raises an OSError when called, and
what this machine's /proc does not show :class:`~epolllab.kernel.NotPossible`. A
process or thread that does not exist, or no longer, is a ProcessLookupError, and one whose
files this user may not read a PermissionError. The sources are proc(5), epoll(7) and, where
named, the kernel's code.
"""

import errno
import os
import re
import select
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from epolllab.checks import check_descriptor, check_int, check_mapping, check_text, checked, shown
from epolllab.events import mask_names
from epolllab.kernel.facilities import NotPossible, require_proc

__all__ = [
    "ContextSwitches",
    "InterestEntry",
    "children",
    "context_switches",
    "counters",
    "counters_since",
    "cpu_time_ns",
    "descriptors_open",
    "interest_list",
    "is_kernel_thread",
    "is_zombie",
    "local_port_range",
    "require_linux",
    "somaxconn",
    "sysctl",
    "threads",
]


check_pid = partial(check_int, least=1, most=(1 << 31) - 1)
"""A process or thread id."""

MOST_TRIED = 1 << 16
"""Numbers that are tried, one by one, to count descriptors without /proc."""


class HasFileno(Protocol):
    """A socket, a ``select.epoll``, a file."""

    def fileno(self) -> int:
        """Return the descriptor number."""


@checked(what=check_text)
def require_linux(what: str) -> None:
    """Raise OSError on any other operating system; `what`, in the message, needs Linux."""
    if sys.platform != "linux":
        raise OSError(
            f"{what} needs Linux, and this is {sys.platform}. Saved recordings can be loaded "
            "and plotted here: epolllab.Recording.load(path)"
        )


def _name(pid: int | None, tid: int | None = None) -> str:
    process = "this process" if pid is None else f"process {pid}"
    return process if tid is None else f"thread {tid} of {process}"


@contextmanager
def process_folder(pid: int | None, tid: int | None = None) -> Iterator[Path]:
    """A process's or thread's folder in /proc; errors inside the block name the process."""
    require_linux("/proc")
    folder = Path("/proc", "self" if pid is None else str(pid))
    try:
        yield folder if tid is None else folder / "task" / str(tid)
    except (FileNotFoundError, ProcessLookupError) as error:
        require_proc()
        raise ProcessLookupError(
            errno.ESRCH,
            f"{_name(pid, tid)} does not exist: it has ended, or the number is wrong",
        ) from error
    except PermissionError as error:
        raise PermissionError(
            errno.EACCES,
            f"{_name(pid, tid)} belongs to another user or may not be traced, so its files in "
            "/proc cannot be read; run this as its user, or inside that process",
        ) from error


def read_process_file(name: str, pid: int | None, tid: int | None = None) -> str:
    """Read a file of a process or thread in /proc."""
    with process_folder(pid, tid) as folder:
        try:
            return (folder / name).read_text()
        except FileNotFoundError:
            if name.startswith("fdinfo/") or not folder.is_dir():
                raise
    raise NotPossible(errno.ENOSYS, f"this kernel or sandbox has no /proc/PID/{name}")


def _stat(pid: int | None, tid: int | None = None) -> list[str]:
    """Fields of ``stat`` from the third, the state, on."""
    # The second is the program's name in parentheses, which may itself hold spaces and
    # parentheses; the last closing one ends it.
    return read_process_file("stat", pid, tid).rpartition(")")[2].split()


@checked(pid=check_pid)
def is_kernel_thread(pid: int) -> bool:
    """Whether a process is a thread of the kernel (PF_KTHREAD in include/linux/sched.h)."""
    return bool(int(_stat(pid)[6]) & 0x0020_0000)


@checked(pid=check_pid)
def is_zombie(pid: int) -> bool:
    """Whether a process has ended, and its parent has not waited for it."""
    return _stat(pid)[0] in "ZX"


@checked(pid=check_pid)
def threads(pid: int | None = None) -> dict[int, str]:
    """Return the threads of a process that exist now, this process by default.

    Returns
    -------
    dict of int to str
        Thread id to the kernel's name of the thread, the main thread first.
    """
    with process_folder(pid) as folder:
        tids = sorted(map(int, os.listdir(folder / "task")))
    names = {}
    for tid in tids:
        with suppress(ProcessLookupError):  # ended since it was listed
            names[tid] = read_process_file("comm", pid, tid).rstrip("\n")
    return names


@checked(pid=check_pid)
def children(pid: int | None = None) -> set[int]:
    """Return the child processes of a process, this one by default; zombies included."""
    require_linux("/proc")
    parent = os.getpid() if pid is None else pid
    found = set()
    for child in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with suppress(ProcessLookupError):  # ended since it was listed
            if int(_stat(child)[1]) == parent:
                found.add(child)
    return found


def is_suspended(pid: int) -> bool:
    """Return whether a signal such as SIGSTOP has stopped a process; False if it has ended."""
    with suppress(OSError):
        return _stat(pid)[0] == "T"
    return False


@checked(pid=check_pid)
def descriptors_open(pid: int | None = None) -> int:
    """Count the open descriptors of a process, this one by default."""
    is_own = pid in (None, os.getpid())
    try:
        with process_folder(pid) as folder:
            count = len(os.listdir(folder / "fd"))
    except NotPossible:
        if not is_own:
            raise
        return sum(map(_is_open, range(MOST_TRIED)))
    # Listing our own folder opens a descriptor, which is in the list.
    return count - 1 if is_own else count


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class InterestEntry(NamedTuple):
    """One entry of an epoll instance's interest list, as the kernel prints it."""

    fd: int
    """Number it was registered under; may have been closed or reused since."""
    mask: int
    """Interest, with ERR and HUP, which the kernel always adds."""
    mask_names: str
    """The mask as names, for example ``"IN|ERR|HUP"``."""
    data: int
    """The 64-bit value given by the program; CPython sets only the lower 32 bits, to the fd."""
    pos: int | None
    """File position; 0 for a socket. None if the kernel does not print it."""
    inode: int | None
    """Inode of the watched file, the one in ``socket:[inode]``; None as above. It identifies
    sockets and pipes; all eventfds, timerfds and epolls have the same."""
    device: int | None
    """Device of that inode, comparable with ``os.fstat(fd).st_dev``; None as above."""


_ENTRY = re.compile(
    r"^tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)\s+data:\s*([0-9a-f]+)"
    r"(?:\s+pos:\s*(-?\d+)\s+ino:\s*([0-9a-f]+)\s+sdev:\s*([0-9a-f]+))?",
    re.MULTILINE,
)


@checked(pid=check_pid)
def interest_list(epfd: int | HasFileno, pid: int | None = None) -> list[InterestEntry]:
    """Read the interest list of an epoll instance from the kernel.

    An entry belongs to an open file description, not to a descriptor number: if the
    number is closed while a duplicate exists, the entry stays in the list.

    Parameters
    ----------
    epfd : int or object with ``fileno()``
        The epoll descriptor, as numbered in that process.
    pid : int, optional
        The process; this one by default.

    Returns
    -------
    list of InterestEntry
        In the order of the kernel's tree (by address of the file description, then by
        number), not of registration. The kernel holds the epoll's mutex while it writes
        the list, so it is one consistent state. A one-shot entry that has fired has no
        event bits left except ONESHOT.

    Raises
    ------
    OSError
        EBADF: the process has no such descriptor. Without errno: not on Linux.
    ValueError
        The descriptor is not an epoll instance.
    NotPossible
        The list is not known here: /proc is not mounted, or does not show interest lists,
        as in gVisor.

    Notes
    -----
    Source: ``ep_show_fdinfo`` in ``fs/eventpoll.c``, and proc(5). Kernels before 4.13 do
    not print position, inode and device.
    """
    require_linux("reading an interest list")
    fd = check_descriptor("epfd", epfd)
    _check_is_epoll(fd, pid)
    entries = _parse_interest_list(read_process_file(f"fdinfo/{fd}", pid))
    if not entries and not _shows_interest_lists():
        raise NotPossible(
            errno.ENOSYS,
            "this kernel or sandbox does not show interest lists in /proc/PID/fdinfo, so what "
            "an epoll watches is not known here",
        )
    return entries


def _shows_interest_lists() -> bool:
    """Whether fdinfo lists the entry of an epoll that certainly has one."""
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        with select.epoll() as epoll:
            epoll.register(fd, select.EPOLLIN)
            return bool(_ENTRY.search(read_process_file(f"fdinfo/{epoll.fileno()}", None)))
    finally:
        os.close(fd)


def _check_is_epoll(fd: int, pid: int | None) -> None:
    with process_folder(pid) as folder:
        os.stat(folder)
        try:
            target = os.readlink(folder / "fd" / str(fd))
        except FileNotFoundError:
            raise OSError(
                errno.EBADF,
                f"{_name(pid)} has no descriptor {fd}; a closed epoll has no interest list",
            ) from None
    if target != "anon_inode:[eventpoll]":
        raise ValueError(
            f"epfd must be an epoll descriptor, but descriptor {fd} of {_name(pid)} is {target}; "
            "give the number that epoll.fileno() returns"
        )


def _parse_interest_list(text: str) -> list[InterestEntry]:
    entries = []
    for fd, mask, data, *place in _ENTRY.findall(text):
        pos = inode = device = None
        if all(place):
            pos, inode, number = int(place[0]), int(place[1], 16), int(place[2], 16)
            # The kernel's own packing: the minor number is the lower 20 bits.
            device = os.makedev(number >> 20, number & 0xF_FFFF)
        bits = int(mask, 16)
        entries.append(
            InterestEntry(int(fd), bits, mask_names(bits), int(data, 16), pos, inode, device)
        )
    return entries


class ContextSwitches(NamedTuple):
    """How often threads left the CPU."""

    voluntary: int
    """The thread blocked in a system call."""
    involuntary: int
    """The scheduler preempted the thread."""


@checked(pid=check_pid, tid=check_pid)
def context_switches(pid: int | None = None, tid: int | None = None) -> ContextSwitches:
    """Return the context switches of a process, this one by default, or of one thread.

    Voluntary switches are the right measure of a thundering herd: a waiter that wakes in
    vain goes back to sleep inside the kernel, and its wait never returns.

    Parameters
    ----------
    pid : int, optional
        The process.
    tid : int, optional
        One thread of it (``threading.get_native_id()``). By default the sum over all
        threads that exist now; ``/proc/PID/status`` counts the main thread only, and
        threads that have ended are counted in neither.
    """
    if tid is not None:
        status = read_process_file("status", pid, tid)
        # \w* at the start of the line keeps "voluntary" and "nonvoluntary" apart.
        found = dict(re.findall(r"^(\w*voluntary)_ctxt_switches:\s*(\d+)", status, re.MULTILINE))
        return ContextSwitches(int(found["voluntary"]), int(found["nonvoluntary"]))
    voluntary = involuntary = 0
    for thread in threads(pid):
        with suppress(ProcessLookupError):  # ended since it was listed
            count = context_switches(pid, thread)
            voluntary += count.voluntary
            involuntary += count.involuntary
    return ContextSwitches(voluntary, involuntary)


def _cpu_clock(pid: int, tid: int | None) -> int:
    """Number of the CPU clock of a process or thread."""
    # Bit 2 means a thread, and 2 in the lowest two bits means time from the scheduler:
    # include/linux/posix-timers_types.h, clock_getcpuclockid(3).
    return ~pid << 3 | 2 if tid is None else ~tid << 3 | 6


@checked(pid=check_pid, tid=check_pid)
def cpu_time_ns(pid: int | None = None, tid: int | None = None) -> int:
    """Return the CPU time used so far, user plus system, in nanoseconds.

    Parameters
    ----------
    pid : int, optional
        The process; this one by default. Threads that have ended are included, child
        processes are not.
    tid : int, optional
        Only this thread of it.

    Returns
    -------
    int
        For a process and for a thread of this process from the scheduler's clock, exact
        to the nanosecond. For a thread of another process from ``schedstat``, which lags
        by up to a scheduler tick (1 to 10 ms) while the thread is running. If neither is
        available, from ``stat``, in steps of a clock tick (10 ms).

    Raises
    ------
    OSError
        Another process or a thread was given, and this is not Linux.
    """
    if pid is None and tid is None:
        return time.process_time_ns()
    require_linux("the CPU time of a process or thread by number")
    if tid is None or pid in (None, os.getpid()):
        with suppress(OSError):
            return time.clock_gettime_ns(_cpu_clock(pid or 0, tid))
    if tid is not None:
        with suppress(ProcessLookupError, NotPossible):  # it has ended, or no schedstat here
            return int(read_process_file("schedstat", pid, tid).split()[0])
    return _ticks_ns(pid, tid)


def _ticks_ns(pid: int | None, tid: int | None = None) -> int:
    fields = _stat(pid, tid)
    return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _check_counters(name: str, value: Any) -> dict[str, int]:
    return {str(key): check_int(name, n) for key, n in check_mapping(name, value).items()}


def counters() -> dict[str, int]:
    """Return the network counters of this process's network namespace.

    They count for the whole namespace, not for this program: read them before and
    after, and see :func:`counters_since`.

    Returns
    -------
    dict of str to int
        Named as nstat(8) names them: ``"TcpExtListenOverflows"`` (a connection was
        complete and the accept queue full), ``"TcpExtListenDrops"``,
        ``"TcpActiveOpens"``, ``"TcpRetransSegs"``, ...
    """
    found: dict[str, int] = {}
    for table in ("net/snmp", "net/netstat"):
        lines = iter(read_process_file(table, None).splitlines())
        for names, values in zip(lines, lines, strict=True):  # a line of each in turn
            prefix, *keys = names.split()
            pairs = zip(keys, values.split()[1:], strict=True)
            found.update((prefix.rstrip(":") + key, int(value)) for key, value in pairs)
    return found


@checked(before=_check_counters)
def counters_since(before: Mapping[str, int]) -> dict[str, int]:
    """Return the counters that changed since ``before = counters()``, and by how much."""
    changes = ((name, value - before.get(name, 0)) for name, value in counters().items())
    return {name: change for name, change in changes if change}


def _check_sysctl(name: str, value: object) -> str:
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)+", check_text(name, value)):
        raise ValueError(f"{name} must be words with dots between them, not {shown(value)}")
    return str(value)


@checked(name=_check_sysctl)
def sysctl(name: str) -> tuple[int, ...]:
    """Read a numeric kernel setting by its sysctl(8) name, such as ``"net.ipv4.tcp_rmem"``.

    Returns
    -------
    tuple of int
        One number or several, depending on the setting.

    Raises
    ------
    OSError
        This kernel or container has no such setting, or this is not Linux.
    ValueError
        The setting is not numeric.
    """
    require_linux(f"the setting {name}")
    try:
        text = Path("/proc/sys", *name.split(".")).read_text()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            errno.ENOENT, f"this kernel has no setting {name}; 'sysctl -a' lists all settings"
        ) from error
    try:
        return tuple(map(int, text.split()))
    except ValueError:
        raise ValueError(f"name must be a numeric setting; {name} is {shown(text)}") from None


def somaxconn() -> int:
    """Return the upper bound on every backlog (net.core.somaxconn); listen(2) cuts silently."""
    return sysctl("net.core.somaxconn")[0]


def local_port_range() -> tuple[int, int]:
    """Return the first and last port that the kernel assigns to connecting sockets.

    Their number bounds the connections from one local address to one listener.
    """
    first, last = sysctl("net.ipv4.ip_local_port_range")
    return first, last
