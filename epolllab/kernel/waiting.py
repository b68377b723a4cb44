"""Wait until a thread of any process sleeps in the kernel."""

import socket
import time

from epolllab.checks import check_timeout, checked
from epolllab.kernel.proc import check_pid, read_process_file
from epolllab.kernel.tcp import check_sockets, tcp_info

__all__ = ["PATIENCE_S", "is_asleep", "until_asleep", "until_idle"]

PATIENCE_S = 10.0
"""Default timeout of a wait for a condition; even a busy machine needs a fraction of it."""


@checked(pid=check_pid, tid=check_pid)
def is_asleep(pid: int, tid: int | None = None) -> bool:
    """Return whether a thread, the main one by default, sleeps in a system call for an event.

    A thread that waits for Python's global interpreter lock sleeps on a futex and does
    not count; nor does a thread that was woken and has not run yet.
    ``/proc/PID/task/TID/wchan`` names the kernel function it sleeps in. False also for a
    thread that has ended. PermissionError if ``wchan`` cannot be read, as in some containers.
    """
    try:
        name = read_process_file("wchan", pid, tid or pid)
    except ProcessLookupError:
        return False
    return name not in ("", "0") and "futex" not in name


@checked(pid=check_pid, tid=check_pid, timeout=check_timeout)
def until_asleep(pid: int, tid: int | None = None, *, timeout: float = PATIENCE_S) -> None:
    """Wait until a thread sleeps in the kernel; TimeoutError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not is_asleep(pid, tid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} did not go to sleep within {timeout:g} s")
        time.sleep(0.000_1)


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
