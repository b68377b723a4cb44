"""Wait until threads of any process sleep in the kernel."""

import re
import socket
import time
from collections.abc import Sequence

from epolllab.checks import check_timeout, checked
from epolllab.kernel.proc import check_pid, read_process_file
from epolllab.kernel.tcp import check_sockets, tcp_info

__all__ = [
    "PATIENCE_S",
    "are_asleep",
    "is_asleep",
    "until_all_asleep",
    "until_asleep",
    "until_idle",
]

PATIENCE_S = 10.0
"""Default timeout of a wait for a condition; even a busy machine needs a fraction of it."""


def _sleep(pid: int, tid: int) -> int | None:
    """The number of a thread's sleep if it is asleep now: a later sleep has a higher one."""
    try:
        status = read_process_file("status", pid, tid)
        name = read_process_file("wchan", pid, tid)
    except ProcessLookupError:
        return None
    # "S" is an interruptible sleep. "D" is one for a page, a disk or a lock of the kernel.
    if "\nState:\tS" not in status or name in ("", "0") or "futex" in name:
        return None
    switches = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)
    return int(switches[1]) if switches else 0


@checked(pid=check_pid, tid=check_pid)
def is_asleep(pid: int, tid: int | None = None) -> bool:
    """Return whether a thread, the main one by default, sleeps in a system call for an event.

    A thread that waits for Python's global interpreter lock sleeps on a futex and does
    not count; nor does a thread that was woken and has not run yet, or one that is stopped.
    ``/proc/PID/task/TID/wchan`` names the kernel function it sleeps in. False also for a
    thread that has ended. PermissionError if ``wchan`` cannot be read, as in some containers.
    """
    return _sleep(pid, tid or pid) is not None


def are_asleep(threads: Sequence[tuple[int, int]]) -> bool:
    """Return whether threads, pairs of process and thread id, all sleep at the same moment.

    Threads wake each other: one that was asleep when looked at may be awake when the next
    is looked at. So all are looked at twice, and those that did not wake in between were
    all asleep at the moment between the two looks.
    """
    before = [_sleep(*thread) for thread in threads]
    return None not in before and before == [_sleep(*thread) for thread in threads]


def until_all_asleep(threads: Sequence[tuple[int, int]], *, timeout: float = PATIENCE_S) -> None:
    """Wait until :func:`are_asleep`; TimeoutError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not are_asleep(threads):
        if time.monotonic() > deadline:
            pids = ", ".join(str(pid) for pid in sorted({pid for pid, _ in threads}))
            raise TimeoutError(f"process {pids} did not go to sleep within {timeout:g} s")
        time.sleep(0.000_1)


@checked(pid=check_pid, tid=check_pid, timeout=check_timeout)
def until_asleep(pid: int, tid: int | None = None, *, timeout: float = PATIENCE_S) -> None:
    """Wait until a thread sleeps in the kernel; TimeoutError after `timeout` seconds."""
    until_all_asleep([(pid, tid or pid)], timeout=timeout)


@checked(pid=check_pid, socks=check_sockets, timeout=check_timeout)
def until_idle(pid: int, *socks: socket.socket, timeout: float = PATIENCE_S) -> None:
    """Wait until everything that `socks` sent was handled and the process sleeps.

    Parameters
    ----------
    pid : int
        A process with one thread that matters, such as a server's child process.
    *socks : socket.socket
        Client sockets whose sent bytes and FINs must be acknowledged first.
    timeout : float
        Seconds; after that TimeoutError: the process spins, or is still working.
    """
    deadline = time.monotonic() + timeout
    while any(tcp_info(sock).unacked for sock in socks):
        if time.monotonic() > deadline:
            raise TimeoutError(f"bytes sent were not acknowledged within {timeout:g} s")
        time.sleep(0.000_2)
    until_asleep(pid, timeout=max(0.0, deadline - time.monotonic()))
