"""The ring: order, bounds, and copies that are consistent while a writer continues."""

import errno
import mmap
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epolllab.events import FOREVER, RECORD, Op, key_of
from epolllab.recording import recorder
from epolllab.recording.recorder import (
    ROW_BYTES,
    SLACK,
    Recorder,
    Ring,
    Snapshot,
    check_capacity,
    memory_size,
    read_from,
    read_ring,
    shared_memory,
    written_in,
)

ROW = struct.Struct("5q")
LAP = 1_000_003  # a prime, so that no period of the ring hides a misplaced row


def made_of(n: int) -> tuple[int, int, int, int, int]:
    """Row number `n`: five numbers, each computed from `n`."""
    return (n, n + LAP, key_of(n & 0x7FFF_FFFF, 7), -n, n << 8 | Op.SEND)


def fill(recorder: Recorder, first: int, last: int, together: int) -> None:
    """Write the rows from `first` to before `last`, settling `together` at a time."""
    while first < last:
        rows = range(first, min(first + together, last))
        recorder.stage([number for n in rows for number in made_of(n)])
        recorder.settle()
        first += together


def numbers(snapshot: Snapshot) -> list[int]:
    """Return the numbers of a copy's rows; fail if a row mixes fields of several."""
    rows = list(ROW.iter_unpack(snapshot.words))
    torn = [row for row in rows if row != made_of(row[0])]
    assert not torn, f"torn rows: {torn[:3]}"
    return [row[0] for row in rows]


def check_consistent(snapshot: Snapshot, capacity: int, written_before: int) -> int:
    """Assert that a copy has no torn, lost or doubled row; return the number after its last."""
    found = numbers(snapshot)
    first = snapshot.overwritten
    assert found == list(range(first, first + len(found)))
    assert len(found) <= capacity
    assert first + len(found) >= written_before
    return first + len(found)


# ---- one writer, at rest ----------------------------------------------------------------


def test_an_empty_ring_is_an_empty_copy() -> None:
    """Before the first row there is nothing, and nothing was lost."""
    assert Recorder(10).snapshot() == Snapshot(b"", 0)


def test_rows_are_copied_in_the_order_written() -> None:
    """A ring that is not full keeps every row, oldest first."""
    recorder = Recorder(100)
    fill(recorder, 0, 57, 5)
    assert numbers(recorder.snapshot()) == list(range(57))
    assert written_in(recorder.memory) == 57
    assert recorder.snapshot().overwritten == 0


@pytest.mark.parametrize("capacity", [1, 2, 7, 1000, SLACK, 3 * SLACK])
def test_a_full_ring_keeps_the_newest_and_counts_the_rest(capacity: int) -> None:
    """As many rows as the capacity are kept, and the others are counted."""
    recorder = Recorder(capacity)
    total = 3 * (capacity + SLACK) + 5
    fill(recorder, 0, total, 100)
    snapshot = recorder.snapshot()
    assert numbers(snapshot) == list(range(total - capacity, total))
    assert snapshot.overwritten == total - capacity
    assert written_in(recorder.memory) == total


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("laps", [1, 2, 5])
def test_a_copy_across_the_wrap_is_in_order(laps: int, extra: int) -> None:
    """Copies are taken just before, at and just after the wrap."""
    recorder = Recorder(50)
    total = laps * (50 + SLACK) + extra
    fill(recorder, 0, total, 7)
    assert numbers(recorder.snapshot()) == list(range(total - 50, total))


@given(st.integers(1, 60), st.lists(st.integers(0, 2 * SLACK + 3), max_size=12))
def test_the_newest_rows_are_kept_however_many_are_settled(
    capacity: int, pieces: list[int]
) -> None:
    """Also if more rows are settled at once than the ring holds."""
    recorder = Recorder(capacity)
    written = 0
    for piece in pieces:
        fill(recorder, written, written + piece, max(piece, 1))
        written += piece
        snapshot = recorder.snapshot()
        assert numbers(snapshot) == list(range(max(0, written - capacity), written))
        assert snapshot.overwritten == max(0, written - capacity)


def test_staged_rows_are_visible_once_settled() -> None:
    """A reader sees none of the staged rows, and all of them after settle()."""
    recorder = Recorder(10)
    recorder.stage(made_of(0) + made_of(1))
    assert (recorder.staged, written_in(recorder.memory)) == (2, 0)
    assert recorder.snapshot().words == b""
    recorder.settle()
    assert (recorder.staged, written_in(recorder.memory)) == (0, 2)
    assert numbers(recorder.snapshot()) == [0, 1]


def test_write_settles() -> None:
    """Its row and rows staged before it are visible at once."""
    recorder = Recorder(10)
    recorder.stage_ready(1, 5, 3, 1)
    recorder.write(Op.RECV, 1, 5, 4, 6, 100, 0)
    records = list(RECORD.iter_unpack(recorder.snapshot().rows))
    assert [record[7] for record in records] == [Op.READY, Op.RECV]
    assert records[1] == (4, 6, 0, 1, 5, 100, 0, Op.RECV, 0, 0, 0)


def test_waits_are_numbered_from_one() -> None:
    """Each wait begins the next wake, and the serial wraps at 32 bits."""
    recorder = Recorder(10)
    for _ in range(3):
        recorder.stage_wait(4, 1, 2, 0, FOREVER)
    recorder.settle()
    assert [record[2] for record in RECORD.iter_unpack(recorder.snapshot().rows)] == [1, 2, 3]
    recorder.wake = 0xFFFF_FFFF
    recorder.stage_wait(4, 1, 2, 0, 0)
    assert recorder.wake == 0


def test_a_copy_does_not_change() -> None:
    """Rows written after a copy do not appear in it."""
    recorder = Recorder(5)
    fill(recorder, 0, 5, 5)
    snapshot = recorder.snapshot()
    fill(recorder, 5, 5 + 5 + SLACK, 5)
    assert numbers(snapshot) == [0, 1, 2, 3, 4]


def test_the_clock_is_the_one_passed_in() -> None:
    """By default it is the monotonic clock."""
    assert Recorder(1, clock=lambda: 42).clock() == 42
    assert Recorder(1).clock is time.monotonic_ns


# ---- memory -----------------------------------------------------------------------------


def test_a_row_takes_forty_bytes() -> None:
    """A ring takes 40 bytes a row, and a constant of at most 64 KiB."""
    assert ROW_BYTES == 40
    assert memory_size(2_000_000) - memory_size(1_000_000) == 40 * 1_000_000
    assert memory_size(0) <= 64 << 10
    assert len(Recorder(1000).memory) == memory_size(1000)


def test_memory_does_not_grow() -> None:
    """No rows stay staged, and the ring's memory keeps its size."""
    recorder = Recorder(10)
    size = len(recorder.memory)
    fill(recorder, 0, 20 * SLACK, 300)
    assert recorder.staged == 0
    assert len(recorder.memory) == size


def test_memory_too_small_for_the_capacity_is_refused() -> None:
    """The error has both sizes."""
    with (
        mmap.mmap(-1, 4096) as memory,
        pytest.raises(ValueError, match=r"^memory\b.*40,041,024.* 4,096"),
    ):
        Recorder(1_000_000, memory=memory)


def test_a_populated_ring_works_the_same() -> None:
    """Mapping the pages beforehand changes only the number of page faults."""
    recorder = Recorder(1000, populate=True)
    fill(recorder, 0, 10, 10)
    assert numbers(recorder.snapshot()) == list(range(10))


@pytest.mark.skipif(sys.platform != "linux", reason="memfd_create is Linux's")
def test_shared_memory_can_be_mapped_twice() -> None:
    """Rows written through one mapping are read through another; the file has no name."""
    fd, memory = shared_memory(100)
    try:
        assert os.fstat(fd).st_size == memory_size(100)
        assert os.fstat(fd).st_nlink == 0
        with mmap.mmap(fd, memory_size(100)) as other:
            recorder = Recorder(100, memory=memory)
            fill(recorder, 0, 30, 4)
            assert numbers(read_ring(other)) == list(range(30))
            assert written_in(other) == 30
    finally:
        os.close(fd)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_shared_memory_without_memfd_create(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a sandbox refuses it, a deleted temporary file of full size takes its place."""
    monkeypatch.setattr(os, "memfd_create", refuse)
    fd, memory = shared_memory(100)
    try:
        assert os.fstat(fd).st_nlink == 0
        assert os.fstat(fd).st_size == memory_size(100)
        assert os.fstat(fd).st_blocks * 512 >= memory_size(100)
        recorder = Recorder(100, memory=memory)
        fill(recorder, 0, 30, 4)
        with mmap.mmap(fd, memory_size(100)) as other:
            assert numbers(read_ring(other)) == list(range(30))
    finally:
        os.close(fd)


def refuse(*_: object, **__: object) -> Any:
    """Fail as a system call does that a sandbox refuses."""
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_no_shared_memory_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to use instead."""
    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match='where="thread"'):
        shared_memory(100)


@pytest.mark.skipif(sys.platform != "linux", reason="memfd_create is Linux's")
@pytest.mark.parametrize("refused", [(mmap, "mmap"), (os, "ftruncate")])
def test_shared_memory_that_fails_leaves_no_descriptor(
    refused: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(*refused, refuse)
        with pytest.raises(MemoryError, match="capacity=100 "):
            shared_memory(100)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("capacity", [10**13, 10**16, 10**17])
def test_a_capacity_that_the_system_refuses_is_named(capacity: int) -> None:
    before = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
    for make in (Recorder, shared_memory):
        with pytest.raises(MemoryError, match=r"^capacity"):
            make(capacity)
    with pytest.raises(ValueError, match=r"^capacity"):
        check_capacity("capacity", capacity)
    assert not before or os.listdir("/proc/self/fd") == before


def test_check_capacity_adds_up_the_rings() -> None:
    with pytest.raises(ValueError, match=r"^n must be at most") as caught:
        check_capacity("n", 10**15)
    most = int(str(caught.value).split()[5].replace(",", ""))
    assert check_capacity("n", most) == most
    assert check_capacity("n", most // 4 - SLACK, 4) == most // 4 - SLACK
    for capacity, rings in ((most + 1, 1), (most // 2, 4)):
        with pytest.raises(ValueError, match=r"^n must be at most"):
            check_capacity("n", capacity, rings)


@pytest.mark.parametrize("n", [0, 30, 5000])
def test_a_freed_ring_has_the_same_rows(n: int) -> None:
    """Its memory is that of the rows that were written; every reading stays the same."""
    recorder = Recorder(200)
    ring = Ring(recorder.memory)
    fill(recorder, 0, n, 10)
    before = [ring.read(newest) for newest in (None, 0, 1, 7, 10_000)]
    written = ring.written()
    ring.free(recorder)
    ring.free(recorder)
    assert recorder.memory.closed
    assert [ring.read(newest) for newest in (None, 0, 1, 7, 10_000)] == before
    assert ring.written() == written == n


def test_a_ring_is_read_while_it_is_freed() -> None:
    for _ in range(50):
        recorder = Recorder(500)
        ring = Ring(recorder.memory)
        fill(recorder, 0, 400, 10)
        freeing = threading.Thread(target=ring.free, args=(recorder,))
        freeing.start()
        for _ in range(20):
            assert numbers(ring.read()) == list(range(400))
            assert ring.written() == 400
        freeing.join()


# ---- while a writer continues -----------------------------------------------------------

LAPS_SEEN = 30  # times that the ring is overwritten while it is copied
MOST_S = 60.0


def copy_while_it_grows(memory: mmap.mmap, capacity: int, together: int) -> None:
    """Take copies while the ring grows, until it was overwritten many times; check each."""
    deadline = time.monotonic() + MOST_S
    after_lasts = [0]
    while after_lasts[-1] < LAPS_SEEN * (capacity + SLACK) or len(set(after_lasts)) < 3:
        assert time.monotonic() < deadline, f"the writer got to row {after_lasts[-1]:,} only"
        snapshot = read_ring(memory)
        # Rows claimed by now: only rows a whole ring before them can be overwritten.
        claimed = written_in(memory) + min(together, SLACK)
        after_last = check_consistent(snapshot, capacity, after_lasts[-1])
        lapped = claimed - (capacity + SLACK)
        assert snapshot.overwritten <= max(0, after_last - capacity, lapped)
        after_lasts.append(after_last)


@contextmanager
def writing_thread(recorder: Recorder, together: int) -> Iterator[None]:
    """Write in a thread, without pauses, until the block ends."""
    ends = threading.Event()

    def write() -> None:
        n = 0
        while not ends.is_set():
            fill(recorder, n, n + together, together)
            n += together

    thread = threading.Thread(target=write)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that the threads take turns inside every function
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        sys.setswitchinterval(before)


@pytest.mark.parametrize("together", [1, 7, 300, SLACK + 1])
@pytest.mark.parametrize("capacity", [1, 64, 2000])
def test_copies_are_consistent_while_a_thread_writes(capacity: int, together: int) -> None:
    """No row is torn, lost or doubled in any copy of a small ring."""
    recorder = Recorder(capacity)
    with writing_thread(recorder, together):
        copy_while_it_grows(recorder.memory, capacity, together)


class Interrupted(mmap.mmap):
    """Memory whose reader is interrupted just before it copies the rows."""

    meanwhile: Callable[[], None] | None = None

    def __getitem__(self, where: Any) -> Any:
        if self.meanwhile and where.stop - where.start >= ROW_BYTES:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return super().__getitem__(where)


class Halfway(Exception):
    """The writer was interrupted with half of its numbers written."""


class HalfLayout(NamedTuple):
    """Replaces a layout of that many numbers, and writes half of them."""

    numbers: int

    def pack_into(self, memory: mmap.mmap, offset: int, *row_numbers: int) -> None:
        """Write the first half, then raise."""
        half = self.numbers // 2  # in the middle of a row: half of 301 rows of five
        struct.pack_into(f"{half}q", memory, offset, *row_numbers[:half])
        raise Halfway


@pytest.mark.parametrize("ahead", [0, 400, 700, 800, 900, 1000, 1020, 1024, 1030, 1500, 5000])
def test_an_interrupted_reader_sees_no_half_written_row(
    ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the writer continues, and stops in the middle of a row."""
    capacity, written = 200, 5000
    memory = Interrupted(-1, memory_size(capacity))
    writer = Recorder(capacity, memory=memory)
    fill(writer, 0, written, 100)

    def write_on() -> None:
        fill(writer, written, written + ahead, 100)
        monkeypatch.setattr(recorder, "_layout", HalfLayout)
        with pytest.raises(Halfway):
            fill(writer, written + ahead, written + ahead + 301, 301)

    memory.meanwhile = write_on
    assert check_consistent(read_ring(memory), capacity, 0) == written
    # A reader that begins now finds every complete row.
    snapshot = read_ring(memory)
    assert check_consistent(snapshot, capacity, 0) == written + ahead
    assert len(snapshot.words) == capacity * ROW_BYTES
    writer._words.release()
    memory.close()


CHILD = """
import mmap, os, sys
from epolllab.recording.recorder import Recorder, memory_size
from tests.recording.test_recorder import fill
fd, capacity, together = map(int, sys.argv[1:])
recorder = Recorder(capacity, memory=mmap.mmap(fd, memory_size(capacity)))
print("ready", flush=True)
n = 0
while os.getppid() == {parent} and n < 1 << 40:
    fill(recorder, n, n + together, together)
    n += together
"""


@contextmanager
def writing_child(fd: int, capacity: int, together: int) -> Iterator[None]:
    """Write from a child process, without pauses, until the block ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.replace("{parent}", str(os.getpid())),
         str(fd), str(capacity), str(together)],
        pass_fds=[fd],
        stdout=subprocess.PIPE,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
    )  # fmt: skip
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        yield
        assert child.poll() is None, "the writer ended by itself"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="memfd_create is Linux's")
@pytest.mark.parametrize("together", [1, 7, 300, SLACK + 1])
@pytest.mark.parametrize("capacity", [1, 2000])
def test_copies_are_consistent_while_a_child_writes(capacity: int, together: int) -> None:
    """The same over shared memory, where no interpreter lock makes them alternate."""
    fd, memory = shared_memory(capacity)
    try:
        with writing_child(fd, capacity, together):
            while written_in(memory) == 0:
                time.sleep(0.001)
            copy_while_it_grows(memory, capacity, together)
        # The writer was killed at some point: the complete rows can still be read.
        check_consistent(read_ring(memory), capacity, 0)
    finally:
        os.close(fd)
        memory.close()


@pytest.mark.parametrize("capacity", [0, -1, -2000, 1.5, "9", True, None, 10**30])
@pytest.mark.parametrize("make", [Recorder, shared_memory])
def test_a_capacity_is_a_number_of_rows(make: Callable[[Any], object], capacity: Any) -> None:
    """It is checked before memory is asked for."""
    with pytest.raises((TypeError, ValueError), match=r"^capacity\b"):
        make(capacity)


@pytest.mark.parametrize("newest", [-1, -(10**6), 1.5, "9", True, 10**30])
def test_the_newest_rows_are_a_number_of_rows(newest: Any) -> None:
    """A negative number would reach memory that was never written."""
    recorder = Recorder(10)
    fill(recorder, 0, 5, 1)
    with pytest.raises((TypeError, ValueError), match=r"^newest\b"):
        recorder.snapshot(newest)
    assert [len(numbers(recorder.snapshot(n))) for n in (0, 3, 10**9)] == [0, 3, 5]


# ---- from a row on ----------------------------------------------------------------------


def test_rows_are_read_from_a_number_on() -> None:
    """At most as many as asked for; what was overwritten since is left out."""
    recorder = Recorder(100)
    assert read_from(recorder.memory, 0, 10) == Snapshot(b"", 0)
    fill(recorder, 0, 57, 5)
    for first, most, expected in ((0, 10, range(10)), (50, 10, range(50, 57)), (57, 5, range(0))):
        found = read_from(recorder.memory, first, most)
        assert (numbers(found), found.overwritten) == (list(expected), first)
    fill(recorder, 57, 5_000, 50)
    found = read_from(recorder.memory, 57, 30)
    assert (numbers(found), found.overwritten) == (list(range(4_900, 4_930)), 4_900)
    assert read_from(recorder.memory, 57, 0) == Snapshot(b"", 4_900)


@pytest.mark.parametrize("ahead", [0, 800, 1000, 1024, 1500, 5000])
def test_a_reader_of_old_rows_sees_no_half_written_one(ahead: int) -> None:
    """Rows that are overwritten while they are copied are left out."""
    memory = Interrupted(-1, memory_size(200))
    writer = Recorder(200, memory=memory)
    fill(writer, 0, 5000, 100)
    memory.meanwhile = lambda: fill(writer, 5000, 5000 + ahead, 100)
    found = read_from(memory, 0, 50)
    first = found.overwritten
    assert numbers(found) == list(range(first, 4_850))
    assert first == min(max(4_800, 5000 + ahead - 200 - recorder.SLACK), 4_850)
