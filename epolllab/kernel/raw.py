"""epoll_wait, poll, select and timerfd through ctypes, without CPython's wrappers.

``call`` of each wait is a functools.partial of a C function over arrays made beforehand.
Time it to measure the system call itself: between the two clock readings no Python code
runs. Importable on any operating system; the classes need Linux. Structure layouts are
those of the kernel's headers under ``include/uapi/linux``.
"""

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_int, c_long, c_ulong, create_string_buffer
from functools import cache, partial
from itertools import islice
from typing import Any

from epolllab.checks import check_int
from epolllab.events import EPOLLIN, EPOLLOUT, EPOLLPRI, mask_names
from epolllab.kernel.proc import HasFileno, require_linux

__all__ = [
    "CTL_ADD",
    "CTL_DEL",
    "CTL_MOD",
    "EVENT",
    "RawEpoll",
    "RawPoll",
    "RawSelect",
    "RawUring",
    "Timer",
    "has_nanosecond_wait",
]

CTL_ADD, CTL_DEL, CTL_MOD = 1, 2, 3
# The same on every architecture, as all since 424.
_SYS_IO_URING_ENTER, _SYS_EPOLL_PWAIT2 = 426, 441

# struct epoll_event is packed on x86-64 only (EPOLL_PACKED in eventpoll.h): 12 bytes
# there, 16 with natural alignment elsewhere.
EVENT = struct.Struct("=IQ" if os.name == "posix" and os.uname().machine == "x86_64" else "@IQ")
_POLLFD = struct.Struct("=ihh")
_TIMESPEC = struct.Struct("=qq")  # struct __kernel_timespec: 64 bits everywhere
_ITIMERSPEC = struct.Struct("@4l")  # the interval, then the first expiration
_WORD = struct.Struct("@L")  # an fd_set is an array of unsigned long
_WORD_BITS = _WORD.size * 8
_SELECT_BITS = (EPOLLIN, EPOLLOUT, EPOLLPRI)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


class _RawWait:
    """What the three waits share."""

    call: Callable[[], int]
    """Make the system call; return the kernel's count, or -1.

    It releases the interpreter lock like any ctypes call, and a signal ends it with EINTR,
    which Python's own waits would retry.
    """
    name: str

    def prepare(self) -> None:
        """Restore what the last call has overwritten; do this outside the timed region."""

    def check(self, count: int) -> int:
        """Return `count`, or raise OSError with the errno of the call that returned -1."""
        if count < 0:
            raise _last_error(self.name)
        return count

    def wait(self) -> int:
        """Prepare, call and check; return the number of ready descriptors."""
        self.prepare()
        return self.check(self.call())


class RawEpoll(_RawWait):
    """epoll_wait or epoll_pwait2 through ctypes, on an existing epoll instance.

    Parameters
    ----------
    epoll : int or object with ``fileno()``
        The epoll instance; do not call this after closing it.
    max_events : int
        Size of the event array, and so the most events that a wait returns.
    timeout_ms : int
        For epoll_wait: 0 returns at once, -1 waits forever.
    timeout_ns : int, optional
        Use epoll_pwait2 (Linux 5.11) with this timeout instead.

    Raises
    ------
    OSError
        ENOSYS: `timeout_ns` on a kernel without epoll_pwait2; not on Linux.
    """

    def __init__(
        self,
        epoll: int | HasFileno,
        max_events: int = 64,
        *,
        timeout_ms: int = 0,
        timeout_ns: int | None = None,
    ) -> None:
        require_linux("epoll")
        check_int("max_events", max_events, 1)
        self._epoll = epoll
        epfd = epoll if isinstance(epoll, int) else epoll.fileno()
        self._events = create_string_buffer(EVENT.size * max_events)
        if timeout_ns is None:
            self.name = "epoll_wait"
            self.call = partial(
                _libc().epoll_wait, c_int(epfd), self._events, c_int(max_events), c_int(timeout_ms)
            )
            return
        check_int("timeout_ns", timeout_ns, 0)
        if not has_nanosecond_wait():
            raise OSError(
                errno.ENOSYS,
                "timeout_ns uses epoll_pwait2, which needs Linux 5.11 and a sandbox that permits "
                "it; use timeout_ms instead",
            )
        self.name = "epoll_pwait2"
        timeout = create_string_buffer(_TIMESPEC.pack(*divmod(timeout_ns, 1_000_000_000)))
        self.call = partial(
            _libc().syscall, c_long(_SYS_EPOLL_PWAIT2), c_long(epfd), self._events,
            c_long(max_events), timeout, None, c_long(8),
        )  # fmt: skip

    def ready(self, count: int) -> list[tuple[int, int]]:
        """Decode the first `count` events of the last call: (data, mask), in the kernel's order.

        For descriptors registered by ``select.epoll`` only the lower 32 bits of the data
        are defined; they are the descriptor number.
        """
        events = EVENT.iter_unpack(memoryview(self._events)[: EVENT.size * count])
        return [(data, mask) for mask, data in events]


class RawUring(_RawWait):
    """io_uring_enter through ctypes, on an existing ring.

    It returns the number of submissions, 0. What has completed is in the ring, and reading
    it takes no system call.

    Parameters
    ----------
    ring : object with ``fileno()``
        Do not call this after closing it.
    n_completions : int
        Wait for that many. The kernel may leave what exceeds this, and 20, for later.
    """

    name = "io_uring_enter"

    def __init__(self, ring: HasFileno, n_completions: int = 0) -> None:
        self._ring = ring
        # 0 submissions; 1 is IORING_ENTER_GETEVENTS.
        self.call = partial(
            _libc().syscall, c_long(_SYS_IO_URING_ENTER), c_long(ring.fileno()), c_long(0),
            c_long(n_completions), c_long(1), None, c_long(0),
        )  # fmt: skip


@cache
def has_nanosecond_wait() -> bool:
    """Return whether this kernel has epoll_pwait2 and its nanosecond timeout (Linux 5.11)."""
    require_linux("epoll_pwait2")
    # If it exists, a call with a bad descriptor fails with EBADF or EINVAL.
    bad = (c_long(-1), create_string_buffer(EVENT.size), c_long(1), None, None, c_long(8))
    _libc().syscall(c_long(_SYS_EPOLL_PWAIT2), *bad)
    return ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM)


class RawPoll(_RawWait):
    """poll(2) through ctypes over a prepared array.

    ``call`` fails with EINVAL if the array is longer than the soft limit on descriptors,
    however few different ones are in it.

    Parameters
    ----------
    interests : sequence of (int, int)
        Descriptor and mask; masks have 15 bits, so none of epoll's own flags.
    timeout_ms : int
        0 returns at once, -1 waits forever.
    """

    name = "poll"

    def __init__(self, interests: Sequence[tuple[int, int]], *, timeout_ms: int = 0) -> None:
        require_linux("poll through ctypes")
        for fd, mask in interests:
            if mask & ~0x7FFF:
                raise ValueError(
                    f"interests: poll's masks have 15 bits, but descriptor {fd} has "
                    f"{mask_names(mask)}; edge, one-shot and exclusive need epoll"
                )
        rows = b"".join(_POLLFD.pack(fd, mask, 0) for fd, mask in interests)
        self._array = create_string_buffer(rows, len(rows))
        self.call = partial(_libc().poll, self._array, c_ulong(len(interests)), c_int(timeout_ms))

    def ready(self, count: int) -> list[tuple[int, int]]:
        """Return the `count` descriptors that the last call marked: (fd, mask), in array order."""
        rows = _POLLFD.iter_unpack(self._array)
        marked = ((fd, revents) for fd, _, revents in rows if revents)
        return list(islice(marked, count))


class RawSelect(_RawWait):
    """select(2) through ctypes with bitmaps of any size.

    The limit of 1,024 comes from the C library's ``fd_set`` and CPython's check; the
    system call takes a bitmap as large as the largest descriptor needs. ``call``
    overwrites the bitmaps (and on Linux the timeout), so each needs a :meth:`prepare`
    before it.

    Parameters
    ----------
    interests : sequence of (int, int)
        Descriptor, not negative, and mask, one or several of IN, OUT and PRI.
    timeout_ms : int
        0 returns at once, -1 waits forever.
    """

    name = "select"

    def __init__(self, interests: Sequence[tuple[int, int]], *, timeout_ms: int = 0) -> None:
        require_linux("select through ctypes")
        for fd, mask in interests:
            _check_selectable(fd, mask)
        n_fds = max((fd for fd, _ in interests), default=-1) + 1
        wanted = [_bitmap(interests, bit, n_fds) for bit in _SELECT_BITS]
        # An unused set is a null pointer: the kernel then neither reads nor clears it.
        self._sets = [create_string_buffer(len(bits)) if any(bits) else None for bits in wanted]
        self._fresh = [
            (target, bits)
            for target, bits in zip(self._sets, wanted, strict=True)
            if target is not None
        ]
        timeout = None
        if timeout_ms >= 0:
            seconds, rest_ms = divmod(timeout_ms, 1000)
            timeout = create_string_buffer(2 * _WORD.size)
            self._fresh.append((timeout, _WORD.pack(seconds) + _WORD.pack(rest_ms * 1000)))
        self.prepare()
        self.call = partial(_libc().select, c_int(n_fds), *self._sets, timeout)

    def prepare(self) -> None:
        """Restore the bitmaps and the timeout that the last call has overwritten."""
        for target, content in self._fresh:
            ctypes.memmove(target, content, len(content))

    def ready(self, count: int) -> list[tuple[int, int]]:
        """Decode the bitmaps after a call that returned `count`: (fd, mask), by number.

        `count` is of bits: a descriptor both readable and writable counts twice.
        """
        masks: dict[int, int] = {}
        if count > 0:  # after 0 the sets are clear; after an error they are unchanged
            for bit, bits in zip(_SELECT_BITS, self._sets, strict=True):
                for fd in _set_bits(bits.raw) if bits is not None else ():
                    masks[fd] = masks.get(fd, 0) | bit
        return sorted(masks.items())


def _check_selectable(fd: int, mask: int) -> None:
    if fd < 0:
        raise ValueError(f"interests: select's bitmap has no place for descriptor {fd}")
    if not mask or mask & ~(EPOLLIN | EPOLLOUT | EPOLLPRI):
        raise ValueError(
            f"interests: select takes IN, OUT and PRI, but descriptor {fd} has {mask_names(mask)}"
        )


def _bitmap(interests: Sequence[tuple[int, int]], bit: int, n_fds: int) -> bytes:
    words = [0] * -(-n_fds // _WORD_BITS)
    for fd, mask in interests:
        if mask & bit:
            words[fd // _WORD_BITS] |= 1 << fd % _WORD_BITS
    return b"".join(map(_WORD.pack, words))


def _set_bits(bitmap: bytes) -> Iterator[int]:
    for index, (word,) in enumerate(_WORD.iter_unpack(bitmap)):
        while word:
            lowest = word & -word
            yield index * _WORD_BITS + lowest.bit_length() - 1
            word ^= lowest


# TFD_NONBLOCK and TFD_CLOEXEC have these values (include/linux/timerfd.h).
_TFD_NONBLOCK_CLOEXEC = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_TFD_TIMER_ABSTIME = 1


class Timer:
    """A descriptor that becomes readable at `first_ns` and every `interval_ns` after.

    Parameters
    ----------
    first_ns : int
        Time on the monotonic clock, as ``time.monotonic_ns`` returns it. If it is in the
        past, the timer expires at once, as often as was missed.
    interval_ns : int
        At least 1.
    """

    def __init__(self, first_ns: int, interval_ns: int) -> None:
        require_linux("timerfd")
        spec = _ITIMERSPEC.pack(*divmod(interval_ns, 10**9), *divmod(max(first_ns, 1), 10**9))
        self._fd: int = _libc().timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
        if self._fd < 0 or _libc().timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, spec, None):
            error = _last_error("timerfd")
            self.close()
            raise error

    def fileno(self) -> int:
        """Return the descriptor; reading 8 bytes gives the expirations since the last read."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor; safe to call repeatedly."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
