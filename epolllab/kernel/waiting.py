"""Whether a thread of any process sleeps in a system call, and waiting until it does."""

import socket
import time
from pathlib import Path

from epolllab.kernel.tcp import tcp_info

__all__ = ["PATIENCE_S", "is_asleep", "until_asleep", "until_idle"]

PATIENCE_S = 10.0
"""Default bound on a wait for a condition; a busy machine needs a small part of it."""


def is_asleep(pid: int, tid: int | None = None) -> bool:
    """Whether a thread sleeps in a system call that waits for an event.

    A thread that waits for Python's interpreter lock sleeps on a futex and does not count;
    nor does a thread that was woken and has not run yet. ``/proc/PID/task/TID/wchan`` names
    the kernel function it sleeps in.

    Parameters
    ----------
    pid : int
        Process.
    tid : int, optional
        Thread; by default the main one.

    Returns
    -------
    bool
        False also for a thread that has ended.

    Raises
    ------
    PermissionError
        ``wchan`` cannot be read, as in some containers.
    """
    path = Path("/proc", str(pid), "task", str(tid or pid), "wchan")
    try:
        name = path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return name not in ("", "0") and "futex" not in name


def until_asleep(pid: int, tid: int | None = None, *, timeout: float = PATIENCE_S) -> None:
    """Wait until a thread of any process sleeps in the kernel.

    Raises
    ------
    TimeoutError
        The thread did not go to sleep within `timeout` seconds, or has ended.
    """
    deadline = time.monotonic() + timeout
    while not is_asleep(pid, tid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} did not go to sleep within {timeout:g} s")
        time.sleep(0.000_1)


def until_idle(pid: int, *socks: socket.socket, timeout: float = PATIENCE_S) -> None:
    """Wait until what `socks` sent has arrived and a process sleeps: it has done all it will do.

    Parameters
    ----------
    pid : int
        A process with one thread that matters, such as a server's child process.
    *socks : socket.socket
        Client sockets whose sent bytes and FINs must have been acknowledged first.
    timeout : float
        Seconds to wait at most.

    Raises
    ------
    TimeoutError
        The process did not become idle: it spins, or it is still working.
    """
    deadline = time.monotonic() + timeout
    while any(tcp_info(sock).unacked for sock in socks):
        if time.monotonic() > deadline:
            raise TimeoutError(f"bytes sent were not acknowledged within {timeout:g} s")
        time.sleep(0.000_2)
    until_asleep(pid, timeout=max(0.0, deadline - time.monotonic()))
