"""Rows on their way from rings to files: a child process reads the rings and writes parts.

The loop does nothing for it: the child maps the same memory, and reads as any reader does.
It writes a row group whenever a ring has enough new rows, and completes a file after a
million rows or ten seconds. If a file cannot be written, the child goes back to that file's
first row and tries again later, so that rows are lost only when the ring overwrites them.

Rows that the child did not read in time are counted. When the parent ends, even by SIGKILL,
the child stores what the rings still hold, and then ends too.
"""

import errno
import mmap
import os
import select
import struct
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from epolllab.child import START_S, Child, ChildDied, HeldInterrupts, before_exit
from epolllab.recording import layout
from epolllab.recording.recorder import (
    Recorder,
    memory_size,
    read_from,
    shared_memory,
    unnamed_file,
    written_in,
)

__all__ = ["NotStored", "Stream"]

PART_S = 10.0
"""Age at which a part is completed; 1 % of the time so far in a recording of hours."""

PAUSE_S = 0.05
"""How long the child sleeps if there is little to write."""

RETRY_S = 1.0
"""How long it waits after a file could not be written."""

CLOSE_S = 10.0
"""How long the end may take, in addition to the time for the rows that are left."""

CLOSE_ROWS_PER_S = 100_000

PAGE_BYTES = 4096
_NUMBERS = struct.Struct("=qqqqq")
"""Rows stored, rows lost, errors, the last one's errno, and the length of its text."""


class NotStored(OSError):
    """Rows could not be stored in the folder that was given as ``record_to``.

    Raised once, by the call that ends the recording; the loop was not affected. The parts
    that are in the folder can be read.
    """


class Stream:
    """The child process that stores the rows of rings, as its parent sees it.

    Parameters
    ----------
    folder : pathlib.Path
        A new or an empty folder.
    metadata : mapping
        What is known at the start.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._memories: list[mmap.mmap] = []
        self._final: tuple[int, int] | None = None
        self._page: bytes | mmap.mmap = bytes(PAGE_BYTES)
        self._problem: NotStored | None = None
        self._is_reported = self._died = False
        self._is_new = layout.claim("record_to", self.folder, metadata)
        try:
            page = unnamed_file(PAGE_BYTES)
            try:
                os.ftruncate(page, PAGE_BYTES)
                self._page = mmap.mmap(page, PAGE_BYTES)
                self.child = Child("epolllab.recording.streaming:serve", fds=[page])
                self.child.send((str(self.folder), page, dict(metadata)))
            finally:
                os.close(page)
        except BaseException:
            self.abandon()
            raise

    def until_ready(self) -> None:
        """Wait until the child can store rows."""
        self.child.receive(START_S)

    def abandon(self) -> None:
        """End the child and remove the manifest, for when nothing was recorded."""
        with self._lock, HeldInterrupts():
            self._final = (0, 0)
            self._free()
            if hasattr(self, "child"):
                self.child.process.kill()  # told to end, it would write the manifest once more
                self.child.close(0)
            layout.release(self.folder, is_new=self._is_new)

    def add(self, fd: int, memory: mmap.mmap, capacity: int, thread: int = 0) -> None:
        """Store the rows of a ring too, from its first row on; before its loop starts.

        `fd` is of the ring's memory, which this process has mapped as `memory`. Raises
        ChildDied or TimeoutError if the child is not there.
        """
        from multiprocessing import reduction

        with self._lock:
            self.child.send(("ring", capacity, thread))
            reduction.send_handle(self.child.connection, fd, self.child.pid)
            self._memories.append(memory)

    def recorder(self, capacity: int, *, thread: int = 0, populate: bool = False) -> Recorder:
        """Return the recorder of a loop in this process, whose rows are stored."""
        fd, memory = shared_memory(capacity)
        try:
            self.add(fd, memory, capacity, thread)
        except BaseException:
            memory.close()
            raise
        finally:
            os.close(fd)
        return Recorder(capacity, memory=memory, populate=populate)

    def note(self, **facts: Any) -> None:
        """Add to the metadata while the recording is made."""
        self._tell("facts", facts)

    def set_item(self, name: str, index: int, value: str) -> None:
        """Set one item of a list in the metadata."""
        self._tell("item", (name, index, value))

    def _tell(self, kind: str, value: Any) -> None:
        """Send what the end of the recording repeats, unless the child is gone or does not read."""
        with self._lock, suppress(ChildDied, TimeoutError, OSError):
            if self._final is None and _is_writable(self.child.connection):
                self.child.send((kind, value))

    # ---- how it goes ------------------------------------------------------------------------

    @property
    def counts(self) -> dict[str, int]:
        """``stored``, rows in complete files, and ``not_stored``, rows that are lost."""
        stored, lost = self._final or self._numbers()[:2]
        if self._final is None and self._has_died():
            lost = self._written() - stored
        return {"stored": stored, "not_stored": lost}

    @property
    def n_errors(self) -> int:
        """Failures so far."""
        return int(self._numbers()[2]) + self._has_died()

    @property
    def error(self) -> str | None:
        """The last failure in words, even if a later attempt succeeded."""
        if self._problem is not None:
            return str(self._problem)
        if self._final is None and self._has_died():
            return f"{self.child.death()}: rows are not stored any more"
        return self._text() or None

    def _has_died(self) -> bool:
        """Whether the child ended before the recording did."""
        if self._final is None:
            self._died = not self.child.alive
        return self._died

    def _numbers(self) -> tuple[int, ...]:
        return _NUMBERS.unpack_from(self._page)

    def _text(self) -> str:
        size = self._numbers()[4]
        return self._page[_NUMBERS.size : _NUMBERS.size + size].decode(errors="replace")

    def _written(self) -> int:
        return sum(map(written_in, self._memories))

    # ---- the end ----------------------------------------------------------------------------

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Store what the rings have, and end the child; does not raise, and only acts once.

        For when the loops have ended, and before their memory is freed.
        """
        with self._lock:
            if self._final is not None or self._owner != os.getpid():  # in a forked copy
                return
            with HeldInterrupts():
                written = self._written()
                self._problem = self._close(metadata, written)
                self.child.close(0)
                stored = self._numbers()[0]
                self._final = stored, written - stored
                self._free()

    def _free(self) -> None:
        """Keep what the child said last, and free the memory."""
        page, self._page = self._page, bytes(self._page)
        self._memories.clear()
        if isinstance(page, mmap.mmap):
            page.close()

    def _close(self, metadata: Mapping[str, Any], written: int) -> NotStored | None:
        timeout = CLOSE_S + (written - self._numbers()[0]) / CLOSE_ROWS_PER_S
        try:
            self.child.send(("finish", dict(metadata)))
            return NotStored(*problem) if (problem := self.child.receive(timeout)) else None
        except (ChildDied, TimeoutError) as error:
            self._died = True
            return NotStored(errno.EIO, str(error), str(self.folder))

    def raise_if_failed(self) -> None:
        """After :meth:`finish`: raise NotStored, or warn of lost rows, the first time."""
        if self._final is None or self._is_reported:
            return
        self._is_reported = True
        stored, lost = self._final
        what = f"{lost:,} of {stored + lost:,} rows are not stored"
        if self._problem is not None:
            reason = f"{what}: {self._problem.strerror}"
            raise NotStored(self._problem.errno, reason, str(self.folder)) from self._problem
        if lost:
            earlier = f". The last error was: {self._text()}" if self._text() else ""
            warnings.warn(
                f"{what} in {self.folder}: the ring overwrote them before they were written. Use "
                f"a larger capacity, or a faster disk{earlier}",
                RuntimeWarning,
                stacklevel=3,
            )


def _is_writable(connection: "Connection[Any, Any]") -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    return bool(poll.poll(0))


# ---- in the child ---------------------------------------------------------------------------


def serve(connection: "Connection[Any, Any]") -> None:
    """Run in the child: store rows until the parent says that the recording ends, or ends."""
    folder, page, metadata = connection.recv()
    storing = _Storing(Path(folder), metadata, mmap.mmap(page, PAGE_BYTES))
    os.close(page)
    before_exit(storing.end)
    layout.load()
    connection.send("ready")
    storing.run(connection)


class _Storing:
    """What the child does."""

    def __init__(self, folder: Path, metadata: dict[str, Any], page: mmap.mmap) -> None:
        self.folder, self.metadata, self.page = folder, metadata, page
        self.tails: list[_Tail] = []
        self.n_errors = 0
        self._pause = PAUSE_S
        self._has_news = False
        self._ending, self._ended = threading.Event(), threading.Event()

    def end(self) -> None:
        """The parent has ended: wait until everything is stored."""
        self._ending.set()
        self._ended.wait(CLOSE_S)

    def run(self, connection: "Connection[Any, Any]") -> None:
        """Store rows and follow the parent's messages."""
        finishes = False
        with suppress(EOFError, OSError):  # the parent has ended
            while not (finishes or self._ending.is_set()):
                is_busy = self._step()
                while connection.poll(0 if is_busy else self._pause) and not finishes:
                    finishes = self._obey(*connection.recv(), connection=connection)
                    is_busy = True
        problem = self._close()
        with suppress(OSError):
            connection.send(problem)
        self._ended.set()
        time.sleep(CLOSE_S)  # the parent ends this process

    def _obey(self, kind: str, value: Any, *more: Any, connection: "Connection[Any, Any]") -> bool:
        """Do what a message says; return whether it is the last one."""
        if kind == "ring":
            from multiprocessing import reduction

            fd = reduction.recv_handle(connection)
            memory = mmap.mmap(fd, memory_size(value))
            tail = _Tail(self.folder, len(self.tails), memory, value, *more)
            os.close(fd)
            self.tails.append(tail)
            # A small ring is looked at more often: a quarter of it at a million rows a second.
            self._pause = min(self._pause, max(value / 4e6, 0.001))
        elif kind == "item":
            name, index, text = value
            items = self.metadata.setdefault(name, [])
            items += [""] * (index + 1 - len(items))
            items[index] = text
            self._has_news = True
        else:
            self.metadata.update(value)
            self._has_news = True
        return kind == "finish"

    def _step(self) -> bool:
        """Write what is due; return whether there may be more to do at once."""
        now = time.monotonic()
        is_busy = False
        for tail in self.tails:
            try:
                is_busy |= tail.step(now)
            except OSError as error:
                self._note(error)
        if self._has_news:
            self._has_news = False
            with suppress(OSError):  # which the next part will have as well
                layout.write_manifest(self.folder, self.metadata)
        self._report()
        return is_busy

    def _close(self) -> tuple[int, str, str] | None:
        """Store the rest; return the error that prevented it."""
        problem: OSError | None = None
        for tail in self.tails:
            try:
                tail.finish()
            except OSError as error:
                self._note(problem := error)
        self._report()
        try:
            written = [written_in(tail.memory) for tail in self.tails]
            layout.write_manifest(self.folder, self.metadata, written)
        except OSError as error:
            self._note(problem := error)
        if problem is None:
            return None
        return problem.errno or errno.EIO, problem.strerror or str(problem), str(problem.filename)

    def _note(self, error: OSError) -> None:
        self.n_errors += 1
        text = str(error).encode()[: PAGE_BYTES - _NUMBERS.size]
        self.page[_NUMBERS.size : _NUMBERS.size + len(text)] = text
        numbers = self.n_errors, error.errno or 0, len(text)
        _NUMBERS.pack_into(self.page, 0, *self._totals(), *numbers)

    def _report(self) -> None:
        struct.pack_into("=qq", self.page, 0, *self._totals())

    def _totals(self) -> tuple[int, int]:
        return sum(t.stored for t in self.tails), sum(t.lost for t in self.tails)


class _Tail:
    """Follows one ring and writes its rows."""

    def __init__(
        self, folder: Path, ring: int, memory: mmap.mmap, capacity: int, thread: int
    ) -> None:
        from epolllab.recording.decode import Decoder

        self.folder, self.ring, self.memory, self.thread = folder, ring, memory, thread
        self.stored = 0
        self._decoder = Decoder()
        self._most = max(1, min(layout.GROUP_ROWS, capacity // 4))
        self._next = 0
        self._part: layout.PartWriter | None = None
        self._start = 0, self._decoder.copy(), 0
        """Where the part began: the row's number, the decoder, and the rows lost before."""
        self._lost = 0
        self._n_parts = 0
        self._since: float | None = None
        self._began = time.monotonic()
        self._retry_at = 0.0

    @property
    def lost(self) -> int:
        """Rows that were overwritten before they were read."""
        gone = read_from(self.memory, self._next, 0).overwritten - self._next
        return self._lost + max(0, gone)

    def step(self, now: float) -> bool:
        """Write a row group if one is due; return whether one was written."""
        n_new = written_in(self.memory) - self._next
        if now < self._retry_at or (n_new == 0 and self._part is None):
            return False
        self._since = self._since or now
        is_due = now - self._since > max(PART_S, (now - self._began) / 100)
        if n_new >= self._most or (is_due and n_new):
            self._guarded(self._write)
        if self._part and (self._part.rows >= layout.PART_ROWS or is_due):
            self._guarded(self._publish)
        return n_new >= self._most

    def finish(self) -> None:
        """Write all rows that there are."""
        while written_in(self.memory) > self._next:
            self._guarded(self._write)
            if self._part and self._part.rows >= layout.PART_ROWS:
                self._guarded(self._publish)
        if self._part:
            self._guarded(self._publish)

    def _write(self) -> None:
        words, first = read_from(self.memory, self._next, self._most)
        if self._part is None:
            self._start = self._next, self._decoder.copy(), self._lost
        if first > self._next:
            self._lost += first - self._next
            self._decoder = type(self._decoder)()
        records = self._decoder.array(words)
        self._next = first + len(records)
        if len(records):
            records["thread"] = self.thread
            self._part = self._part or layout.PartWriter(
                self.folder, self._n_parts, self.ring, self.thread
            )
            self._part.write(records, first)

    def _publish(self) -> None:
        if self._part is not None:
            self._part.publish()
            self.stored += self._part.rows
            self._n_parts += 1
            self._part = self._since = None

    def _guarded(self, write: Any) -> None:
        """Call; after an error go back to the part's first row, and wait for a while."""
        try:
            write()
        except OSError as error:
            part, self._part = self._part, None
            named = part.abandon(error) if part else error
            self._next, self._decoder, self._lost = self._start
            self._since = None
            self._retry_at = time.monotonic() + RETRY_S
            raise named or error from error
