"""io_uring through ctypes, mmap and struct: submit operations, and read what became of them.

A ring has two queues in memory that the program and the kernel share. The program writes
submission entries (SQEs), and one io_uring_enter(2) hands over all of them and waits. The
kernel writes a completion entry (CQE) for each result: the submission's ``user_data``, a
result or a negated errno, and flags. Readiness says that a call is worth making; a
completion says that it has been made.

A *multishot* operation completes many times. Each completion but the last has the flag
MORE; after the last the operation must be submitted again. A receive that takes its
memory from *provided buffers* holds none while it is pending.

Order of memory accesses
------------------------
The rings are set up with SINGLE_ISSUER and DEFER_TASKRUN. The kernel then reads submissions
and writes completions only within io_uring_enter calls of one thread, which is also the
only thread that reads and writes the rings here. A thread sees its own accesses in program
order on x86-64 and on aarch64, and a thread that moves to another processor takes its
stores along, so plain loads and stores suffice. A ring without these flags (SQPOLL, for
example) would need acquire and release accesses on aarch64.

Lifetime of memory
------------------
The memory of a pending operation must exist until the operation completes. :meth:`Uring.close`
cancels what is pending and waits for it before the buffers are unmapped; if the kernel
cannot be asked, it leaves them mapped until the process ends.
"""

import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, Self

from epolllab.checks import check_int
from epolllab.child import HeldInterrupts
from epolllab.kernel.facilities import NotPossible

__all__ = ["Buffers", "Completion", "Uring", "address_of", "require_uring"]

# The same on every architecture, as all system calls since 424.
_SETUP, _ENTER, _REGISTER = 425, 426, 427

# include/uapi/linux/io_uring.h
NOP, POLL_ADD, POLL_REMOVE, ACCEPT, ASYNC_CANCEL, CLOSE = 0, 6, 7, 13, 14, 19
READ, SEND, RECV, SHUTDOWN = 22, 26, 27, 34
_NAMES = {
    POLL_ADD: "POLL_ADD", POLL_REMOVE: "POLL_REMOVE", ACCEPT: "ACCEPT", CLOSE: "CLOSE",
    ASYNC_CANCEL: "ASYNC_CANCEL", READ: "READ", SEND: "SEND", RECV: "RECV", SHUTDOWN: "SHUTDOWN",
}  # fmt: skip

# Flags of a submission entry.
LINK, HARDLINK, BUFFER_SELECT, SKIP_SUCCESS = 1 << 2, 1 << 3, 1 << 5, 1 << 6
# In its field ioprio, for one operation each.
ACCEPT_MULTISHOT, POLL_FIRST, RECV_MULTISHOT = 1 << 0, 1 << 0, 1 << 1
# In its field length, for POLL_ADD.
POLL_MULTISHOT = 1 << 0
# Flags of a completion entry; the number of the buffer is in the upper half.
BUFFER, MORE = 1 << 0, 1 << 1
BUFFER_SHIFT = 16

_CQSIZE, _CLAMP, _DISABLED = 1 << 3, 1 << 4, 1 << 6
_SETUP_FLAGS = {
    "SETUP_SUBMIT_ALL (Linux 5.18)": 1 << 7,
    "SETUP_SINGLE_ISSUER (Linux 6.0)": 1 << 12,
    "SETUP_DEFER_TASKRUN (Linux 6.1)": 1 << 13,
}
_FEATURES = {
    "FEAT_SINGLE_MMAP (Linux 5.4)": 1 << 0,
    "FEAT_NODROP (Linux 5.5)": 1 << 1,
    "FEAT_EXT_ARG (Linux 5.11)": 1 << 8,
    "FEAT_CQE_SKIP (Linux 5.17)": 1 << 11,
}
_GETEVENTS, _EXT_ARG = 1 << 0, 1 << 3
_PROBE, _ENABLE, _BUFFER_RING, _NO_BUFFER_RING, _SYNC_CANCEL = 8, 12, 22, 23, 24
_CANCEL_ALL, _CANCEL_ANY = 1 << 0, 1 << 2
_OVERFLOW = 1 << 1  # in the flags of the submission queue

_PARAMS_BYTES = 120
_SQE_PLACE = 0x1000_0000  # where mmap finds the submission entries
MAX_BUFFERS = 1 << 15

SQE = struct.Struct("<BBHiQQIIQHHiQQ")
"""opcode, flags, ioprio, fd, offset, address, length, the operation's own flags, user_data,
buffer group, personality, file index, addr3, padding: 64 bytes."""
CQE = struct.Struct("<QiI")
"""user_data, result, flags: 16 bytes."""
BUFFER_ENTRY = struct.Struct("<QIH")
"""Address, length and number of a provided buffer; two more bytes belong to the ring's tail."""
_WAIT_ARGUMENT = struct.Struct("<QIIQ")  # signal mask, its size, padding, address of a timespec
_TIMESPEC = struct.Struct("<qq")

_abandoned: list[Any] = []
"""Memory that pending operations of a ring may still use, kept until the process ends."""


class Completion(NamedTuple):
    """One completion entry."""

    user_data: int
    result: int
    flags: int


def _syscall() -> Any:
    function = ctypes.CDLL(None, use_errno=True).syscall
    # Numbers and addresses in whole registers: an int of C would leave half of one undefined.
    function.argtypes = [ctypes.c_long] * 7
    function.restype = ctypes.c_long
    return function


# Makes a system call with six arguments; -1 sets ctypes' errno. Tests replace it to act as
# an older kernel. A Python function around it would cost a tenth of a turn.
_call = _syscall()


def _register(fd: int, what: int, argument: Any = None, count: int = 0) -> int:
    """Make io_uring_register(2) with a ctypes buffer."""
    address = 0 if argument is None else ctypes.addressof(argument)
    return int(_call(_REGISTER, fd, what, address, count, 0, 0))


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def address_of(memory: mmap.mmap) -> int:
    """Return the address of a mapping, which is valid while it is open."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def address_of_bytes(data: bytes) -> int:
    """Return the address of the bytes themselves, valid while `data` is referenced."""
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def require_uring() -> None:
    """Raise NotPossible, with the reason, if rings as used here cannot be made."""
    Uring(8).close()


class Uring:
    """A ring of one thread; a context manager.

    Parameters
    ----------
    entries : int
        Submissions that fit between two calls of :meth:`enter`; rounded up to a power of 2.
    n_completions : int, optional
        Completions that fit; by default, and at least, twice `entries`. The kernel keeps
        further ones aside until there is room.
    started : bool
        False leaves the ring to the first thread that calls :meth:`start`; otherwise it is
        for the thread that makes it. Others get EEXIST.

    Attributes
    ----------
    tail : int
        Number of submissions written so far.
    sqes : mmap.mmap
        The submission entries. A loop that is measured packs :data:`SQE` into it by itself,
        at ``(tail & sq_mask) * 64``, and adds 1 to ``tail``.

    Raises
    ------
    NotPossible
        The kernel, its configuration or a sandbox refuses io_uring, or lacks a feature.
    """

    def __init__(
        self, entries: int = 256, n_completions: int | None = None, *, started: bool = True
    ) -> None:
        check_int("entries", entries, 1, 1 << 15)
        check_int("n_completions", 2 * entries if n_completions is None else n_completions, 1)
        self._fd = -1
        self._pid = os.getpid()
        self._maps: list[mmap.mmap] = []
        self._memory: list[mmap.mmap] = []
        self._is_quiet = False
        self._words: Any = None
        self.tail = 0
        _require_machine()
        with HeldInterrupts():
            try:
                self._open(entries, n_completions or 2 * entries)
                if started:
                    self.start()
            except BaseException:
                self.close()
                raise

    def _open(self, entries: int, n_completions: int) -> None:
        flags = _CQSIZE | _CLAMP | _DISABLED | sum(_SETUP_FLAGS.values())
        self._fd, params = _setup(entries, max(n_completions, 2 * entries), flags)
        n_sqes, n_cqes = params[0], params[1]
        _require_features(params[5])
        sq, cq = params[10:20], params[20:30]
        size = max(sq[6] + 4 * n_sqes, cq[5] + CQE.size * n_cqes)
        self.ring = self._map(size, 0)
        self.sqes = self._map(n_sqes * SQE.size, _SQE_PLACE)
        self._words = memoryview(self.ring).cast("I")
        self._sq_head, self._sq_tail, self._sq_flags = (sq[i] // 4 for i in (0, 1, 4))
        self._cq_head, self._cq_tail = (cq[i] // 4 for i in (0, 1))
        self.n_sqes, self.sq_mask = n_sqes, n_sqes - 1
        self._cqes, self.n_cqes = cq[5], n_cqes
        for place in range(n_sqes):
            self._words[sq[6] // 4 + place] = place  # the entries are always used in order
        self._argument = mmap.mmap(-1, mmap.PAGESIZE)
        self._maps.append(self._argument)
        self._timeout_at = address_of(self._argument)
        _require_operations(self._fd)

    def _map(self, size: int, offset: int) -> mmap.mmap:
        made = mmap.mmap(
            self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset
        )
        self._maps.append(made)
        return made

    def memory(self, n_bytes: int) -> mmap.mmap:
        """Return memory for operations, which exists until nothing is pending any more."""
        with HeldInterrupts():
            # A shared mapping, so that a fork does not make the kernel's pages another copy.
            made = mmap.mmap(-1, n_bytes)
            self._memory.append(made)
        return made

    def start(self) -> None:
        """Make the calling thread the only one that may use the ring."""
        _checked("io_uring_register(ENABLE_RINGS)", _register(self._fd, _ENABLE))

    def fileno(self) -> int:
        """Return the ring's descriptor; -1 after :meth:`close`."""
        return self._fd

    # ---- submitting ---------------------------------------------------------------------

    @property
    def n_unsubmitted(self) -> int:
        """Submissions that the kernel has not taken yet."""
        taken: int = self._words[self._sq_head]
        return self.tail - taken & 0xFFFF_FFFF

    def push(
        self,
        opcode: int,
        fd: int = -1,
        address: int = 0,
        length: int = 0,
        *,
        user_data: int = 0,
        flags: int = 0,
        ioprio: int = 0,
        offset: int = 0,
        op_flags: int = 0,
        group: int = 0,
    ) -> None:
        """Write a submission; :meth:`enter` hands it over. BlockingIOError if there is no room.

        `address` and `length` name memory that must exist until the operation completes.
        """
        if self.n_unsubmitted >= self.n_sqes:
            raise BlockingIOError(
                errno.EAGAIN, f"all {self.n_sqes} submission entries are taken; call enter()"
            )
        SQE.pack_into(
            self.sqes, (self.tail & self.sq_mask) * SQE.size, opcode, flags, ioprio, fd, offset,
            address, length, op_flags, user_data, group, 0, 0, 0, 0,
        )  # fmt: skip
        self.tail += 1

    def push_cancel(self, user_data: int, *, cancel_data: int = 0, flags: int = 0) -> None:
        """Write the cancellation of the operation that was submitted with this `user_data`.

        The operation completes with ECANCELED, or with its result if that was quicker. The
        cancellation itself completes with ENOENT if there is no such operation.
        """
        self.push(ASYNC_CANCEL, -1, user_data, user_data=cancel_data, flags=flags)

    def enter(self, wait: int = 0, timeout: float | None = None) -> int:
        """Submit what was pushed and wait for `wait` completions: one io_uring_enter(2).

        Parameters
        ----------
        wait : int
            Return once that many completions are there; 0 returns at once.
        timeout : float, optional
            Seconds after which it returns in any case.

        Returns
        -------
        int
            Completions that can be read.

        Raises
        ------
        OSError
            EINTR: a signal. EAGAIN, EBUSY: submit again once completions have been read.
        """
        words = self._words
        words[self._sq_tail] = self.tail & 0xFFFF_FFFF
        n = self.tail - words[self._sq_head] & 0xFFFF_FFFF
        if timeout is None:
            taken = _call(_ENTER, self._fd, n, wait, _GETEVENTS, 0, 0)
        else:
            self._pack_timeout(timeout)
            flags = _GETEVENTS | _EXT_ARG
            at, size = self._timeout_at, _WAIT_ARGUMENT.size
            taken = _call(_ENTER, self._fd, n, wait, flags, at, size)
        if taken < 0 and ctypes.get_errno() != errno.ETIME:
            _checked("io_uring_enter", taken)
        return self.n_ready

    def _pack_timeout(self, timeout: float) -> None:
        at = _WAIT_ARGUMENT.size
        _WAIT_ARGUMENT.pack_into(self._argument, 0, 0, 0, 0, self._timeout_at + at)
        seconds, rest = divmod(max(0, int(timeout * 1e9)), 1_000_000_000)
        _TIMESPEC.pack_into(self._argument, at, seconds, rest)

    def unsubmitted(self) -> list[tuple[int, int]]:
        """Return operation and descriptor of what the kernel has not taken."""
        first = self.tail - self.n_unsubmitted
        found = (
            SQE.unpack_from(self.sqes, (place & self.sq_mask) * SQE.size)
            for place in range(first, self.tail)
        )
        return [(entry[0], entry[3]) for entry in found]

    # ---- completions --------------------------------------------------------------------

    @property
    def n_ready(self) -> int:
        """Completions that can be read without a system call."""
        ready: int = self._words[self._cq_tail] - self._words[self._cq_head] & 0xFFFF_FFFF
        return ready

    @property
    def has_overflown(self) -> bool:
        """Whether the kernel keeps completions aside, which the next :meth:`enter` brings."""
        return bool(self._words[self._sq_flags] & _OVERFLOW)

    def take(self, most: int = 1 << 30) -> Iterator[tuple[int, int, int]]:
        """Take completions out of the queue: (user_data, result, flags), at most `most`.

        They are copied and decoded in C, and their room in the queue is free at once.
        """
        words, ring = self._words, self.ring
        head = words[self._cq_head]
        n = min(words[self._cq_tail] - head & 0xFFFF_FFFF, most)
        first = head & self.n_cqes - 1
        last = first + n
        start, size = self._cqes, CQE.size
        copied = ring[start + first * size : start + min(last, self.n_cqes) * size]
        if last > self.n_cqes:
            copied += ring[start : start + (last - self.n_cqes) * size]
        words[self._cq_head] = head + n & 0xFFFF_FFFF
        return CQE.iter_unpack(copied)

    def completions(self) -> list[Completion]:
        """Take all completions out of the queue."""
        return [Completion(*entry) for entry in self.take()]

    # ---- the end ------------------------------------------------------------------------

    def close(self) -> None:
        """Cancel what is pending, wait for it, and free everything; safe to call repeatedly.

        In a forked process it frees this process's copies and leaves the ring alone.
        """
        with HeldInterrupts():
            is_quiet = os.getpid() != self._pid or self._fd < 0 or self.cancel_all()
            fd, self._fd = self._fd, -1
            self.release()
            if is_quiet:
                _close_maps(self._memory)
            else:
                _abandoned.extend(self._memory)
            self._memory = []
            _close_maps(self._maps)
            if fd >= 0:
                os.close(fd)

    def release(self) -> list[mmap.mmap]:
        """Stop using the queues; return their mappings, which :meth:`close` closes if not closed.

        Each has a duplicate of the ring's descriptor (Python's mmap makes it).
        """
        if self._words is not None:
            self._words.release()
            self._words = None
        return self._maps[:2]

    def cancel_all(self) -> bool:
        """Cancel every operation and wait until none is pending; False if that is not known.

        For the end: their completions can be read after another :meth:`enter`.
        """
        if not self._is_quiet:
            # struct io_uring_sync_cancel_reg: addr, fd, flags, a timeout of 1 s, padding.
            request = struct.pack("<QiIqq32x", 0, -1, _CANCEL_ALL | _CANCEL_ANY, 1, 0)
            memory = ctypes.create_string_buffer(request, len(request))
            cancelled = _register(self._fd, _SYNC_CANCEL, memory, 1)
            # ENOENT: nothing was pending. EBADFD: the ring was never started.
            number = ctypes.get_errno()
            self._is_quiet = cancelled >= 0 or number in (errno.ENOENT, errno.EBADFD)
        return self._is_quiet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


class Buffers:
    """Buffers that the kernel chooses from when data arrives (IORING_REGISTER_PBUF_RING).

    Parameters
    ----------
    ring : Uring
        Unmaps the buffers in its ``close()``.
    count : int
        Number of buffers: a power of 2, at most 32,768.
    size : int
        Bytes of each.
    group : int
        Number that submissions name the group by.
    """

    def __init__(self, ring: Uring, count: int, size: int, group: int = 0) -> None:
        check_int("count", count, 1, MAX_BUFFERS)
        if count & count - 1:
            raise ValueError(f"count must be a power of 2, not {count}")
        check_int("size", size, 1, 1 << 30)
        self.count, self.size, self.group = count, size, group
        entries_bytes = -(-count * 16 // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = ring.memory(entries_bytes + count * size)
        self.at = entries_bytes
        self.address = address_of(self.memory) + entries_bytes
        request = struct.pack("<QIHHQQQ", self.address - entries_bytes, count, group, 0, 0, 0, 0)
        argument = ctypes.create_string_buffer(request, len(request))
        registered = _register(ring.fileno(), _BUFFER_RING, argument, 1)
        _checked("io_uring_register(PBUF_RING)", registered)
        self.tail = 0
        for number in range(count):
            self.give_back(number)

    def take(self, flags: int, n_bytes: int) -> bytes:
        """Copy the bytes of a completion out of its buffer, and give the buffer back."""
        number = flags >> BUFFER_SHIFT
        at = self.at + number * self.size
        data = self.memory[at : at + n_bytes]
        self.give_back(number)
        return data

    def give_back(self, number: int) -> None:
        """Let the kernel use a buffer again."""
        memory, mask = self.memory, self.count - 1
        BUFFER_ENTRY.pack_into(
            memory, (self.tail & mask) * 16, self.address + number * self.size, self.size, number
        )
        self.tail += 1
        self.publish()

    def publish(self) -> None:
        """Show the kernel the entries up to ``tail``, for a loop that packs them by itself."""
        self.memory[14:16] = (self.tail & 0xFFFF).to_bytes(2, "little")


def _close_maps(maps: Iterable[mmap.mmap]) -> None:
    for one in maps:
        one.close()


def _require_machine() -> None:
    found = platform.machine()
    if platform.system() != "Linux" or found not in ("x86_64", "aarch64"):
        raise NotPossible(
            errno.ENOSYS,
            f"io_uring is used here on Linux on x86-64 and aarch64, and this is "
            f"{platform.system()} on {found}",
        )


def _setup(entries: int, n_completions: int, flags: int) -> tuple[int, tuple[int, ...]]:
    """Make io_uring_setup(2); return the descriptor and the parameters as the kernel set them."""
    params = ctypes.create_string_buffer(
        struct.pack("<3I", 0, n_completions, flags).ljust(_PARAMS_BYTES, b"\0"), _PARAMS_BYTES
    )
    fd = _call(_SETUP, entries, ctypes.addressof(params), 0, 0, 0, 0)
    if fd < 0:
        raise _refusal(ctypes.get_errno())
    return fd, struct.unpack("<30I", params.raw)


def _refusal(number: int) -> OSError:
    """Say why io_uring_setup failed."""
    if number == errno.ENOSYS:
        return NotPossible(number, "this kernel has no io_uring, or a sandbox hides it")
    if number in (errno.EPERM, errno.EACCES):
        return NotPossible(number, f"io_uring is not permitted here: {_who_refuses()}")
    if number == errno.EINVAL:
        return NotPossible(number, f"io_uring of this kernel lacks {_missing_setup_flag()}")
    return OSError(number, f"io_uring_setup: {os.strerror(number)}")


def _who_refuses() -> str:
    setting = ""
    with suppress(OSError), open("/proc/sys/kernel/io_uring_disabled") as file:
        setting = file.read().strip()
    if setting in ("1", "2"):
        return f"the sysctl kernel.io_uring_disabled is {setting}; as root, set it to 0"
    return (
        "a seccomp filter refuses it, as Docker's default profile does; "
        "--security-opt seccomp=unconfined permits it"
    )


def _missing_setup_flag() -> str:
    """Name the first set-up flag that the kernel refuses."""
    tried = 0
    for name, flag in _SETUP_FLAGS.items():
        tried |= flag
        params = ctypes.create_string_buffer(
            struct.pack("<3I", 0, 0, tried).ljust(_PARAMS_BYTES, b"\0"), _PARAMS_BYTES
        )
        fd = _call(_SETUP, 1, ctypes.addressof(params), 0, 0, 0, 0)
        if fd < 0:
            return name
        os.close(fd)
    return "a feature that is needed"


def _require_features(found: int) -> None:
    for name, bit in _FEATURES.items():
        if not found & bit:
            raise NotPossible(errno.ENOSYS, f"io_uring of this kernel lacks {name}")


def _require_operations(fd: int) -> None:
    """Raise NotPossible for an operation that this kernel does not have."""
    # struct io_uring_probe: 16 bytes, then 8 for each operation, with its flags at 2.
    memory = ctypes.create_string_buffer(16 + 8 * 256)
    _checked("io_uring_register(PROBE)", _register(fd, _PROBE, memory, 256))
    for number, name in _NAMES.items():
        (flags,) = struct.unpack_from("<H", memory, 16 + 8 * number + 2)
        if not flags & 1:
            raise NotPossible(errno.ENOSYS, f"io_uring of this kernel lacks the operation {name}")
