"""A bounded ring of fixed-width rows with one writer and any number of readers.

It never prints, never blocks and never raises into the loop that writes to it.

Rows
----
A row is five signed 64-bit numbers: start, end, key, result, code. ``key`` is
:func:`~epolllab.events.key_of` a connection and a descriptor; of a wait, it has the
wait's serial in place of the connection. ``code`` has the operation in bits 0 to 7, the
mask in bits 8 to 39 and a request id in bits 40 to 62; a ready row has its mask where
others have their result. Operations from 128 on are reserved for fused rows, which hold
several events and which :mod:`epolllab.recording.decode` expands. The wake that a row
belongs to and its place in the batch follow from the order of the rows, so neither is
written.

How the writer stays cheap
--------------------------
The loop *stages* a row by extending one list with five numbers: no Python function is
called and nothing is packed. ``settle`` moves the staged rows into the ring with one
``struct`` call, at the latest before the loop sleeps.

How a reader copies while the writer continues
----------------------------------------------
Before the writer touches the ring it *claims* the rows up to a number; when they are in
place it marks them *complete*. A reader notes ``complete``, copies, and then notes
``claimed``: rows below the first number were whole before the copy began, and only rows
whose slots were claimed by its end can have been overwritten meanwhile. The rows between
are consistent, without a lock. The ring has ``SLACK`` more slots than its capacity, so
that a reader finds as many rows as the capacity promises unless the writer wrote more
than ``SLACK`` during the copy; rows overwritten by then are counted.

The argument holds between threads and, over shared memory, between processes, on
machines that keep the order of stores (x86-64; elsewhere a copy is exact once the writer
waits or has ended).
"""

import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import NamedTuple

from epolllab.checks import check_int
from epolllab.events import key_of
from epolllab.kernel import memory_available

__all__ = [
    "ROW_BYTES",
    "Recorder",
    "Ring",
    "Snapshot",
    "check_capacity",
    "memory_size",
    "read_from",
    "read_ring",
    "shared_memory",
    "unnamed_file",
    "written_in",
]

ROW_WORDS = 5
ROW_BYTES = 8 * ROW_WORDS
HEADER_WORDS = 8  # one cache line: complete, capacity, claimed; the rest is unused
HEADER_BYTES = 8 * HEADER_WORDS
COMPLETE, CAPACITY, CLAIMED = 0, 1, 2
SLACK = 1024
MADV_POPULATE_WRITE = 23  # asm-generic/mman-common.h; the mmap module does not name it
MOST_POPULATED = 8 << 20  # 200,000 rows; a notebook may keep twenty servers running


class Snapshot(NamedTuple):
    """A consistent copy of a ring's rows."""

    words: bytes
    """Whole rows, oldest first, as they are in the ring."""
    overwritten: int
    """Rows lost because the ring is bounded: those written before the first one kept."""

    @property
    def rows(self) -> bytes:
        """The rows decoded to records as :mod:`epolllab.events` lays them out."""
        from epolllab.recording import decode  # needs numpy

        return decode.records(self.words)


def memory_size(capacity: int) -> int:
    """Return the bytes of memory that a ring of `capacity` rows needs."""
    return HEADER_BYTES + (capacity + SLACK) * ROW_BYTES


def check_capacity(name: str, value: object, rings: int = 1) -> int:
    """Return `value` if this many rings of that capacity fit into the memory there is."""
    capacity, memory = check_int(name, value, 1), memory_available()
    if memory is not None and rings * memory_size(capacity) > memory:
        most = max(0, (memory // rings - memory_size(0)) // ROW_BYTES)
        raise ValueError(
            f"{name} must be at most {most:,}{f' in each of {rings} loops' if rings > 1 else ''}, "
            f"not {capacity:,}: an event takes {ROW_BYTES} bytes, and the memory available here is "
            f"{memory / 2**30:,.1f} GiB"
        )
    return capacity


def _map(fd: int, capacity: int) -> mmap.mmap:
    """Map a ring's memory: of a descriptor, or private with -1."""
    with _naming(capacity):
        return mmap.mmap(fd, memory_size(capacity))


@contextmanager
def _naming(capacity: int) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError) as error:
        raise MemoryError(
            f"capacity={capacity:,} needs {memory_size(capacity):,} bytes of memory, which the "
            f"system refuses ({error}); use a smaller capacity"
        ) from error


@cache
def _layout(numbers: int) -> struct.Struct:
    return struct.Struct(f"{numbers}q")


class Recorder:
    """Record the calls of one loop.

    Parameters
    ----------
    capacity : int
        Rows kept; the oldest are overwritten and counted.
    clock : callable, optional
        Returns nanoseconds; by default the monotonic clock, which all processes of one
        boot share.
    memory : mmap.mmap, optional
        Shared memory of at least ``memory_size(capacity)`` bytes, for a reader in another
        process; private memory otherwise.
    populate : bool
        Have the kernel map the first 8 MiB now. A page fault takes about 3 µs on a
        virtual machine, and without this every hundredth row causes one.

    Attributes
    ----------
    stage : callable
        ``stage((start_ns, end_ns, key, result, code))`` stages one row; a longer tuple
        stages several. Call `settle` before the loop sleeps.
    """

    def __init__(
        self,
        capacity: int,
        clock: Callable[[], int] = time.monotonic_ns,
        memory: mmap.mmap | None = None,
        populate: bool = False,
    ) -> None:
        self.capacity = check_int("capacity", capacity, 1)
        self.clock = clock
        self.memory = memory or _map(-1, capacity)
        if len(self.memory) < memory_size(capacity):
            raise ValueError(
                f"memory must have {memory_size(capacity):,} bytes for a ring of {capacity:,} "
                f"rows, not {len(self.memory):,}"
            )
        if populate:
            _populate(self.memory)
        self.wake = 0
        self._staged: list[int] = []
        self.stage = self._staged.extend
        self._words = memoryview(self.memory)[: memory_size(capacity)].cast("q")
        self._words[CAPACITY] = capacity
        self._slots = capacity + SLACK
        self._n = 0

    def settle(self) -> None:
        """Move the staged rows into the ring, where readers see them; for the writer only."""
        staged, words = self._staged, self._words
        while staged:
            first = self._n % self._slots
            rows = min(len(staged) // ROW_WORDS, SLACK, self._slots - first)
            numbers = rows * ROW_WORDS
            words[CLAIMED] = self._n = self._n + rows
            _layout(numbers).pack_into(
                self.memory,
                HEADER_BYTES + first * ROW_BYTES,
                *(staged if len(staged) == numbers else staged[:numbers]),
            )
            words[COMPLETE] = self._n
            del staged[:numbers]

    def write(
        self, op: int, conn: int, fd: int, start_ns: int, end_ns: int, result: int, mask: int
    ) -> None:
        """Stage and settle one row, so that readers see it at once."""
        self.stage((start_ns, end_ns, key_of(conn, fd), result, mask << 8 | op))
        self.settle()

    def stage_wait(self, fd: int, start_ns: int, end_ns: int, result: int, timeout_us: int) -> None:
        """Stage a wait: the rows that follow belong to the next wake."""
        self.wake = self.wake + 1 & 0xFFFF_FFFF
        self.stage((start_ns, end_ns, key_of(self.wake, fd), result, timeout_us << 8))

    def stage_ready(self, conn: int, fd: int, t_ns: int, mask: int) -> None:
        """Stage a ready row: the rows that follow belong to this descriptor of the batch."""
        self.stage((t_ns, t_ns, key_of(conn, fd), mask, 1))

    @property
    def staged(self) -> int:
        """Rows staged and not yet settled."""
        return len(self._staged) // ROW_WORDS

    def snapshot(self, newest: int | None = None) -> Snapshot:
        """Copy the rows settled up to now; safe while the loop writes."""
        return read_ring(self.memory, newest)

    def close(self) -> None:
        """Free the memory; nothing can be recorded or read afterwards."""
        self._words.release()
        self.memory.close()


def _populate(memory: mmap.mmap) -> None:
    """Map a ring's first pages for writing, if the kernel can (Linux 5.14)."""
    with suppress(OSError, ValueError):
        memory.madvise(MADV_POPULATE_WRITE, 0, min(len(memory), MOST_POPULATED))


def read_ring(memory: mmap.mmap, newest: int | None = None) -> Snapshot:
    """Copy a ring out of its memory, from this or another process.

    At most the last `newest` rows; copying a few takes a few microseconds, whatever the
    ring's size. The top of this file explains why the copy is consistent.
    """
    complete, capacity = _word(memory, COMPLETE), _word(memory, CAPACITY)
    wanted = capacity if newest is None else min(check_int("newest", newest, 0), capacity)
    return _read(memory, max(0, complete - wanted), complete, capacity + SLACK)


def read_from(memory: mmap.mmap, first: int, most: int) -> Snapshot:
    """Copy at most `most` rows from the row with the number `first` on.

    ``overwritten`` is the number of the first row copied, which is greater than `first` if
    the writer has overwritten rows since.
    """
    complete, capacity = _word(memory, COMPLETE), _word(memory, CAPACITY)
    first = max(first, complete - capacity)
    return _read(memory, first, min(complete, first + most), capacity + SLACK)


def _read(memory: mmap.mmap, first: int, last: int, slots: int) -> Snapshot:
    """The rows first <= i < last, without those that are overwritten during the copy."""
    copied = _copy(memory, first, last, slots)
    whole = min(max(first, _word(memory, CLAIMED) - slots), last)
    return Snapshot(copied[(whole - first) * ROW_BYTES :] if whole > first else copied, whole)


def written_in(memory: mmap.mmap) -> int:
    """Return the number of rows settled so far, including those overwritten since."""
    return _word(memory, COMPLETE)


def _word(memory: mmap.mmap, index: int) -> int:
    return int.from_bytes(memory[8 * index : 8 * index + 8], sys.byteorder)


def _copy(memory: mmap.mmap, first: int, last: int, slots: int) -> bytes:
    """Rows first <= i < last as bytes; one copy in C for each side of the wrap."""
    if first == last:
        return b""
    start = HEADER_BYTES + first % slots * ROW_BYTES
    stop = HEADER_BYTES + ((last - 1) % slots + 1) * ROW_BYTES
    if start < stop:
        return memory[start:stop]
    return memory[start : HEADER_BYTES + slots * ROW_BYTES] + memory[HEADER_BYTES:stop]


class Ring:
    """A ring for its readers, which outlives the loop: :meth:`free` keeps only the rows.

    A notebook keeps every handle that a cell displayed, and with it the whole ring.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._final: Snapshot | None = None
        self._lock = threading.RLock()

    def read(self, newest: int | None = None) -> Snapshot:
        """As :func:`read_ring`."""
        if self._final is None:
            with suppress(ValueError):  # freed meanwhile
                return read_ring(self._memory, newest)
        words, overwritten = self._final or Snapshot(b"", 0)
        n_rows = len(words) // ROW_BYTES
        skipped = 0 if newest is None else max(0, n_rows - newest)
        return Snapshot(words[skipped * ROW_BYTES :], overwritten + skipped)

    def written(self) -> int:
        """As :func:`written_in`."""
        if self._final is None:
            with suppress(ValueError):  # freed meanwhile
                return written_in(self._memory)
        words, overwritten = self._final or Snapshot(b"", 0)
        return overwritten + len(words) // ROW_BYTES

    def free(self, recorder: Recorder | None = None) -> None:
        """Keep the rows and free the memory; for when the loop and its recorder have ended."""
        with self._lock:
            if self._final is None:
                self._final = read_ring(self._memory)
                if recorder is not None:
                    recorder.close()
                self._memory.close()


def shared_memory(capacity: int) -> tuple[int, mmap.mmap]:
    """Make memory for a ring that a child process can map as well.

    Returns a descriptor to pass to the child, and this process's mapping of it. The memory
    has no name in any file system, so nothing is left behind whichever process ends first.
    """
    fd = unnamed_file(memory_size(check_int("capacity", capacity, 1)))
    try:
        with _naming(capacity):
            os.ftruncate(fd, memory_size(capacity))
        return fd, _map(fd, capacity)
    except BaseException:
        os.close(fd)
        raise


def unnamed_file(size: int) -> int:
    """Open a memfd, or a deleted temporary file where a sandbox refuses memfd_create."""
    try:
        return os.memfd_create("epolllab-ring", os.MFD_CLOEXEC)
    except OSError as error:
        return _temporary_file(size, error)


def _temporary_file(size: int, refusal: OSError) -> int:
    """Open a temporary file of full size: a page that cannot be had later ends the process."""
    import tempfile  # a tenth of a client's start, and rarely needed

    for folder in ("/dev/shm", None):
        with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return os.dup(file.fileno())
    raise OSError(
        refusal.errno,
        f"no memory to share with a child process: memfd_create is refused ({refusal.strerror}), "
        f"and neither /dev/shm nor {tempfile.gettempdir()} has {size:,} bytes. Use a smaller "
        'capacity, or threads: process=False for a server, where="thread" for clients',
    )
