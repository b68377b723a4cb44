"""Which files the descriptors of any process refer to, and which threads wait on them.

A descriptor is a number that refers to an open file (``struct file``); epoll watches the
file under the number it had when it was registered. kcmp(2) says whether a number still
refers to the file that is watched. Errors as in :mod:`epolllab.kernel.proc`.
"""

import ctypes
import errno
import os
import platform
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from epolllab.kernel.facilities import NotPossible
from epolllab.kernel.proc import InterestEntry, process_folder, read_process_file, require_linux

__all__ = [
    "Waiter", "descriptors", "holders", "is_watched_file", "pending_polls", "processes", "program",
    "waiters",
]  # fmt: skip

_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_EPOLL_TFD = 7
_WAITS = {
    "x86_64": {232: "epoll_wait", 281: "epoll_pwait", 441: "epoll_pwait2"},
    "aarch64": {22: "epoll_pwait", 441: "epoll_pwait2"},
}


class Waiter(NamedTuple):
    """A thread that sleeps in a wait."""

    tid: int
    call: str
    timeout_ms: float | None
    """None for no timeout; NaN for epoll_pwait2, which passes it by pointer."""


def descriptors(pid: int) -> dict[int, str]:
    """Return what each descriptor of a process refers to, as /proc/PID/fd names it."""
    found = {}
    with process_folder(pid) as folder:
        for name in os.listdir(folder / "fd"):
            with suppress(FileNotFoundError):  # closed since it was listed
                found[int(name)] = os.readlink(folder / "fd" / name)
    return dict(sorted(found.items()))


def program(pid: int) -> str:
    """The path of a process's executable file; "" for a kernel thread, or if it is hidden."""
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe")
    return ""


def processes() -> Iterator[int]:
    """The processes that exist, in order of their numbers."""
    require_linux("/proc")
    return iter(sorted(map(int, filter(str.isdecimal, os.listdir("/proc")))))


def is_watched_file(pid: int, fd: int, owner: int, epfd: int, target: int, nth: int) -> bool | None:
    """Whether a descriptor refers to exactly the file that an epoll watches.

    Parameters
    ----------
    pid, fd : int
        The descriptor in question.
    owner, epfd : int
        The epoll and its process.
    target, nth : int
        The number that the file was registered under, and the place of the entry among
        those of that number, from 0, in the kernel's order.

    Returns
    -------
    bool or None
        None if kcmp(2) is not permitted or not available here.
    """
    number = _KCMP.get(platform.machine())
    if number is None:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    slot = ctypes.create_string_buffer(struct.pack("=III", epfd, target, nth))
    result = libc.syscall(number, pid, owner, _KCMP_EPOLL_TFD, ctypes.c_ulong(fd), slot)
    if result < 0 and ctypes.get_errno() in (errno.EBADF, errno.ENOENT):
        return False  # no such descriptor
    return None if result < 0 else result == 0


def holders(entry: InterestEntry, owner: int, epfd: int, nth: int) -> list[tuple[int, int]]:
    """Return the descriptors, of any process that may be read, that keep an entry's file open."""
    found = []
    for pid in processes():
        with suppress(OSError):
            numbers = os.listdir(f"/proc/{pid}/fd")
            found += [
                (pid, int(fd))
                for fd in numbers
                if _may_be(entry, f"/proc/{pid}/fd/{fd}")
                and is_watched_file(pid, int(fd), owner, epfd, entry.fd, nth)
            ]
    return found


def _may_be(entry: InterestEntry, path: str) -> bool:
    """Whether the inode fits, which is quick to find; eventfds and the like share one."""
    with suppress(OSError):
        return os.stat(path).st_ino == entry.inode
    return False


def waiters(pid: int) -> tuple[dict[int, list[Waiter]], str | None]:
    """Return the threads that wait on each epoll of a process, and why any are not known.

    The second value is None if all threads could be read. Reading another thread's system
    call needs the permission to trace it (ptrace(2)), which Yama and containers may refuse.
    """
    names = _WAITS.get(platform.machine())
    if names is None:
        return {}, f"system call numbers of {platform.machine()} are not known"
    found: dict[int, list[Waiter]] = {}
    reason = None
    with process_folder(pid) as folder:
        tids = sorted(map(int, os.listdir(folder / "task")))
    for tid in tids:
        try:
            call = read_process_file("syscall", pid, tid).split()
        except ProcessLookupError:  # the thread has ended
            continue
        except NotPossible as error:
            return {}, str(error)
        except PermissionError:
            reason = f"the system calls of process {pid} may not be read (ptrace is refused)"
            continue
        if call and call[0].isdecimal() and int(call[0]) in names:
            name = names[int(call[0])]
            found.setdefault(int(call[1], 16), []).append(Waiter(tid, name, _timeout(name, call)))
    return found, reason


def _timeout(name: str, call: list[str]) -> float | None:
    value = int(call[4], 16)
    if name == "epoll_pwait2":
        return None if value == 0 else float("nan")
    milliseconds = ctypes.c_int32(value & 0xFFFF_FFFF).value
    return None if milliseconds < 0 else float(milliseconds)


def pending_polls(pid: int, fd: int) -> int:
    """Count the polls that an io_uring has pending, as its fdinfo lists them."""
    text = read_process_file(f"fdinfo/{fd}", pid)
    listed = re.search(r"^PollList:\n((?:\s+op=.*\n?)*)", text, re.MULTILINE)
    return len(listed[1].splitlines()) if listed else 0
