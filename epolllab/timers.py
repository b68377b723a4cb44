"""A timer that the kernel keeps, as a descriptor: timerfd.

One job: make a descriptor that is readable at fixed instants of the monotonic clock.
epoll's own timeout is rounded up to whole milliseconds by CPython, which is too
coarse for the arrivals of an open loop; a timer among the descriptors is exact to
some microseconds, and arrivals that were missed meanwhile are counted by the kernel.
"""

import ctypes
import os
import time

__all__ = ["Timer"]

# TFD_NONBLOCK and TFD_CLOEXEC are these (include/linux/timerfd.h).
_TFD_NONBLOCK_CLOEXEC = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_TFD_TIMER_ABSTIME = 1


class _Spec(ctypes.Structure):
    """struct itimerspec: the interval, then the first instant."""

    _fields_ = tuple(
        (name, ctypes.c_long) for name in ("interval_s", "interval_ns", "first_s", "first_ns")
    )


class Timer:
    """A descriptor that becomes readable at `first_ns` and every `interval_ns` after.

    Parameters
    ----------
    first_ns : int
        Instant on the monotonic clock, as ``time.monotonic_ns`` tells it. One in the
        past fires at once, as often as was missed.
    interval_ns : int
        At least 1.

    Raises
    ------
    OSError
        No descriptor is left, or this is not Linux.
    """

    def __init__(self, first_ns: int, interval_ns: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "timerfd_create"):
            raise OSError("timerfd is part of Linux, and this system has none")
        self._fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
        spec = _Spec(*divmod(interval_ns, 10**9), *divmod(max(first_ns, 1), 10**9))
        if self._fd < 0 or libc.timerfd_settime(
            self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None
        ):
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, f"no timer could be made: {os.strerror(number)}")

    def fileno(self) -> int:
        """The descriptor; reading 8 bytes from it gives the expirations since the last read."""
        return self._fd

    def close(self) -> None:
        """Give the descriptor back; any number of times."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
