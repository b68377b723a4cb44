"""The waiting system calls themselves, prepared so that only they are timed.

One job: epoll_wait, poll and select through ctypes over arrays made beforehand, which
takes CPython's share of a wait apart from the kernel's. It knows no socket and no
experiment.

It can be imported on any operating system; its classes need Linux, and say so. The
layouts are those of the kernel's headers under ``include/uapi/linux``.
"""

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from typing import Any

from epolllab.events import EPOLLIN, EPOLLOUT, EPOLLPRI, mask_names
from epolllab.kernel.proc import require_linux

__all__ = [
    "CTL_ADD",
    "CTL_DEL",
    "CTL_MOD",
    "RawEpoll",
    "RawPoll",
    "RawSelect",
    "Timer",
    "has_nanosecond_wait",
]


# For timing: `call` is a functools.partial of a ctypes function over prepared arguments,
# so that between two clock readings no Python code runs but the C of both.

CTL_ADD, CTL_DEL, CTL_MOD = 1, 2, 3
_EPOLL_CLOEXEC = 0o2000000
_SYS_EPOLL_PWAIT2 = 441  # the same on every architecture, as all since 424

# struct epoll_event is packed on x86-64 and on no other (EPOLL_PACKED in eventpoll.h): 12
# bytes there, with natural alignment 16 on ARM.
_EVENT = struct.Struct("=IQ" if os.name == "posix" and os.uname().machine == "x86_64" else "@IQ")
_POLLFD = struct.Struct("=ihh")
_TIMESPEC = struct.Struct("=qq")  # struct __kernel_timespec: 64 bits everywhere
_WORD = struct.Struct("@L")  # an fd_set is an array of unsigned long
_WORD_BITS = _WORD.size * 8
_SELECT_BITS = (EPOLLIN, EPOLLOUT, EPOLLPRI)


@cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _last_error(call: str) -> OSError:
    import ctypes

    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


def _buffer(n_bytes: int, content: bytes = b"") -> Any:
    import ctypes

    buffer = ctypes.create_string_buffer(max(n_bytes, 1))
    ctypes.memmove(buffer, content, len(content))
    return buffer


class _RawWait:
    """What the raw waits share.

    Attributes
    ----------
    call : callable
        No arguments; makes the system call and returns the kernel's count, or -1.
        Time this. It releases the interpreter lock like any ctypes call, and a
        signal ends it with EINTR, which Python's own waits would retry.
    """

    call: Callable[[], int]
    name: str

    def prepare(self) -> None:
        """Put back what the last call has overwritten; outside the timed region."""

    def check(self, count: int) -> int:
        """Return `count`, or raise OSError with the errno of the call that gave -1."""
        if count < 0:
            raise _last_error(self.name)
        return count

    def wait(self) -> int:
        """Prepare, call and check in one: number of descriptors ready."""
        self.prepare()
        return self.check(self.call())

    def close(self) -> None:
        """Release what was opened; any number of times."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RawEpoll(_RawWait):
    """epoll through ctypes, to time the system call without CPython's share.

    Parameters
    ----------
    max_events : int
        Descriptors a wait returns at most; the array for them is made here.
    timeout_ms : int
        For epoll_wait: 0 returns at once, -1 waits for ever.
    timeout_ns : int, optional
        Use epoll_pwait2 (Linux 5.11) with this timeout instead.
    epfd : int, optional
        An epoll that exists; it stays its owner's to close. A new one by default.

    Attributes
    ----------
    call : callable
        No arguments; the system call over the prepared array. Returns the count.

    Raises
    ------
    OSError
        ENOSYS: `timeout_ns` on a kernel without epoll_pwait2; EMFILE; not on Linux.
    ValueError
        `max_events` is not at least 1, or `timeout_ns` is negative.
    """

    def __init__(
        self,
        max_events: int = 64,
        *,
        timeout_ms: int = 0,
        timeout_ns: int | None = None,
        epfd: int | None = None,
    ) -> None:
        require_linux("epoll")
        if max_events < 1:
            raise ValueError(f"max_events is at least 1, not {max_events}")
        if timeout_ns is not None and timeout_ns < 0:
            raise ValueError(
                f"timeout_ns is 0 or more, not {timeout_ns}; timeout_ms=-1 is for ever"
            )
        if timeout_ns is not None and not has_nanosecond_wait():
            raise OSError(
                errno.ENOSYS,
                "epoll_pwait2 needs Linux 5.11 and a sandbox that lets it through; "
                "give timeout_ms instead",
            )
        self._owned = epfd is None
        self._epfd = _epoll_create() if epfd is None else epfd
        self._events = _buffer(_EVENT.size * max_events)
        self.name = "epoll_wait" if timeout_ns is None else "epoll_pwait2"
        self.call = self._bind(max_events, timeout_ms, timeout_ns)

    def _bind(self, max_events: int, timeout_ms: int, timeout_ns: int | None) -> Callable[[], int]:
        from ctypes import c_int, c_long

        if timeout_ns is None:
            return partial(
                _libc().epoll_wait, c_int(self._epfd), self._events, c_int(max_events),
                c_int(timeout_ms),
            )  # fmt: skip
        seconds_ns = _buffer(_TIMESPEC.size, _TIMESPEC.pack(*divmod(timeout_ns, 1_000_000_000)))
        return partial(
            _libc().syscall, c_long(_SYS_EPOLL_PWAIT2), c_long(self._epfd), self._events,
            c_long(max_events), seconds_ns, None, c_long(8),
        )  # fmt: skip

    def fileno(self) -> int:
        """Return the epoll's descriptor; -1 once closed."""
        return self._epfd

    def ctl(self, op: int, fd: int, mask: int = 0, data: int | None = None) -> None:
        """epoll_ctl(2).

        Parameters
        ----------
        op : int
            ``CTL_ADD``, ``CTL_MOD`` or ``CTL_DEL``.
        fd : int
            Descriptor to watch.
        mask : int
            Interest.
        data : int, optional
            64 bits that come back with each event; the descriptor by default.

        Raises
        ------
        OSError
            What the kernel answered: EEXIST, ENOENT, EPERM, EINVAL, EBADF, ELOOP, ...
        """
        value = (fd if data is None else data) & 0xFFFF_FFFF_FFFF_FFFF
        event = _buffer(_EVENT.size, _EVENT.pack(mask, value))
        if _libc().epoll_ctl(self._epfd, op, fd, event) < 0:
            raise _last_error(f"epoll_ctl of descriptor {fd}")

    def register(self, fd: int, mask: int) -> None:
        """EPOLL_CTL_ADD."""
        self.ctl(CTL_ADD, fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        """EPOLL_CTL_MOD."""
        self.ctl(CTL_MOD, fd, mask)

    def unregister(self, fd: int) -> None:
        """EPOLL_CTL_DEL."""
        self.ctl(CTL_DEL, fd)

    def ready(self, count: int) -> list[tuple[int, int]]:
        """Decode the first `count` events of the last call: (data, mask), in the kernel's order.

        The data of what ``select.epoll`` registered are the number in the lower 32
        bits; CPython leaves the upper ones to chance.
        """
        events = _EVENT.iter_unpack(memoryview(self._events)[: _EVENT.size * count])
        return [(data, mask) for mask, data in events]

    def close(self) -> None:
        """Close the epoll, unless it was given."""
        if self._owned and self._epfd >= 0:
            epfd, self._epfd = self._epfd, -1
            self.call = _refuse_closed
            os.close(epfd)


def _refuse_closed() -> int:
    # The prepared call holds a bare number, which may by now be someone else's.
    raise OSError(errno.EBADF, "this RawEpoll was closed; make a new one")


def _epoll_create() -> int:
    epfd: int = _libc().epoll_create1(_EPOLL_CLOEXEC)
    if epfd < 0:
        raise _last_error("epoll_create1")
    return epfd


@cache
def has_nanosecond_wait() -> bool:
    """Whether this kernel has epoll_pwait2, with its timeout in nanoseconds (Linux 5.11)."""
    require_linux("epoll_pwait2")
    from ctypes import c_long, get_errno

    # Asked of no descriptor it answers EBADF, or EINVAL, where it exists.
    bad = (c_long(-1), _buffer(_EVENT.size), c_long(1), None, None, c_long(8))
    _libc().syscall(c_long(_SYS_EPOLL_PWAIT2), *bad)
    return get_errno() not in (errno.ENOSYS, errno.EPERM)


class RawPoll(_RawWait):
    """poll(2) through ctypes over a prepared array, to time the system call alone.

    Parameters
    ----------
    interests : sequence of (int, int)
        Descriptor and mask; 16 bits, so none of epoll's own flags.
    timeout_ms : int
        0 returns at once, -1 waits for ever.

    Attributes
    ----------
    call : callable
        No arguments; the system call. EINVAL where the array is longer than the soft
        limit on descriptors, even if the descriptors in it are few.

    Raises
    ------
    ValueError
        A mask that poll has no room for.
    """

    name = "poll"

    def __init__(self, interests: Sequence[tuple[int, int]], *, timeout_ms: int = 0) -> None:
        require_linux("poll by the C library's name")
        from ctypes import c_int, c_ulong

        for fd, mask in interests:
            if mask & ~0x7FFF:
                raise ValueError(
                    f"poll's masks have 15 bits, and descriptor {fd} is given "
                    f"{mask_names(mask)}; edges, one-shot and exclusive are epoll's"
                )
        self._array = _buffer(
            _POLLFD.size * len(interests),
            b"".join(_POLLFD.pack(fd, mask, 0) for fd, mask in interests),
        )
        self._size = _POLLFD.size * len(interests)
        self.call = partial(_libc().poll, self._array, c_ulong(len(interests)), c_int(timeout_ms))

    def ready(self, count: int) -> list[tuple[int, int]]:
        """Find the `count` descriptors the last call marked: (fd, mask), in the array's order."""
        rows = _POLLFD.iter_unpack(memoryview(self._array)[: self._size])
        marked = ((fd, revents) for fd, _, revents in rows if revents)
        return list(islice(marked, count))


class RawSelect(_RawWait):
    """select(2) with bitmaps of any size, to time the system call alone.

    The bound of 1,024 is the C library's ``fd_set`` and CPython's check; the system
    call takes a bitmap as large as the greatest descriptor needs.

    Parameters
    ----------
    interests : sequence of (int, int)
        Descriptor and mask, made of IN, OUT and PRI.
    timeout_ms : int
        0 returns at once, -1 waits for ever.

    Attributes
    ----------
    call : callable
        No arguments; the system call. It overwrites the bitmaps (and Linux the
        timeout), so each call needs a :meth:`prepare` before it.

    Raises
    ------
    ValueError
        A mask with other bits or none, or a negative descriptor.
    """

    name = "select"

    def __init__(self, interests: Sequence[tuple[int, int]], *, timeout_ms: int = 0) -> None:
        require_linux("select by the C library's name")
        from ctypes import c_int

        for fd, mask in interests:
            _require_selectable(fd, mask)
        n_fds = max((fd for fd, _ in interests), default=-1) + 1
        wanted = [_bitmap(interests, bit, n_fds) for bit in _SELECT_BITS]
        timeout = _buffer(2 * _WORD.size)
        # An unused set is a null pointer: the kernel then neither reads nor clears it.
        self._sets = [_buffer(len(bits)) if any(bits) else None for bits in wanted]
        self._fresh = [
            (target, bits, len(bits))
            for target, bits in zip(self._sets, wanted, strict=True)
            if target is not None
        ]
        if timeout_ms >= 0:
            seconds, rest_ms = divmod(timeout_ms, 1000)
            value = _WORD.pack(seconds) + _WORD.pack(rest_ms * 1000)
            self._fresh.append((timeout, value, len(value)))
        self.prepare()
        end = timeout if timeout_ms >= 0 else None
        self.call = partial(_libc().select, c_int(n_fds), *self._sets, end)

    def prepare(self) -> None:
        """Copy the wanted bitmaps and the timeout over what the last call left."""
        from ctypes import memmove

        for target, content, size in self._fresh:
            memmove(target, content, size)

    def ready(self, count: int) -> list[tuple[int, int]]:
        """Decode the bitmaps after a call that returned `count`: (fd, mask), by number.

        `count` is of bits: a descriptor both readable and writable counts twice.
        """
        masks: dict[int, int] = {}
        if count > 0:  # after 0 the sets are clear; after an error they are as they were
            for bit, bits in zip(_SELECT_BITS, self._sets, strict=True):
                for fd in _set_bits(bits.raw) if bits is not None else ():
                    masks[fd] = masks.get(fd, 0) | bit
        return sorted(masks.items())


def _require_selectable(fd: int, mask: int) -> None:
    if fd < 0:
        raise ValueError(f"select's bitmap has no place for descriptor {fd}")
    if not mask or mask & ~(EPOLLIN | EPOLLOUT | EPOLLPRI):
        raise ValueError(
            f"select knows IN, OUT and PRI, and descriptor {fd} is given {mask_names(mask)}"
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
