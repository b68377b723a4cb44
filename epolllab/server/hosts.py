"""Where a loop runs: in a thread of this process, or in a child process.

One job: carry a loop, with the same small interface for both places, so that the
handle in a notebook need not know. A host neither checks options nor makes frames.
"""

import os
import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

from epolllab import kernel
from epolllab.child import Child, ChildDied
from epolllab.recording.recorder import (
    Recorder,
    Snapshot,
    memory_size,
    read_ring,
    shared_memory,
    written_in,
)
from epolllab.server.loop import Loop
from epolllab.server.options import ServerOptions

__all__ = ["Host", "ProcessHost", "ThreadHost"]


STOP_S = 2.0
"""How long a stop waits for a loop that is busy in somebody's handler."""

ANSWER_S = 5.0
"""How long a child may take to answer a question."""

START_S = 30.0
"""How long a child may take to start, on a machine that is busy."""


class Host(Protocol):
    """What a server's handle needs of the place where the loop runs."""

    pid: int

    def running(self) -> bool:
        """Whether the loop is alive."""

    def stats(self) -> dict[str, int]:
        """The loop's counters; the last ones once it has ended."""

    def interest(self) -> tuple[list[kernel.InterestEntry], dict[int, int]]:
        """The kernel's interest list, and the program's own table."""

    def snapshot(self, newest: int | None = None) -> Snapshot:
        """What is recorded, or the end of it; consistent, also while the loop runs."""

    def written(self) -> int:
        """Events recorded since the start."""

    def failure(self) -> str | None:
        """The traceback of what ended the loop, if it was no stop."""

    def cause(self) -> BaseException | None:
        """The exception itself, where it is in this process."""

    def last_fault(self) -> str | None:
        """The traceback of the last exception in a protocol or handler."""

    def stop(self) -> None:
        """End the loop and wait for it; any number of times."""


class ThreadHost:
    """A loop in a daemon thread of this process."""

    def __init__(self, listener: socket.socket, options: ServerOptions) -> None:
        self.pid = os.getpid()
        self.recorder = Recorder(options.capacity, touch=True) if options.record else None
        self.loop = Loop(listener, options, self.recorder)
        # A daemon, because an exit must not wait for it: finalizers stop it first.
        self.thread = threading.Thread(target=self.loop.run, name="epolllab-loop", daemon=True)
        try:
            self.thread.start()
        except BaseException:  # no thread to be had, or an interrupt while it began
            self.loop.stop()
            if self.thread.ident is None:
                self.loop.run()  # which, stopped already, only closes what the loop owns
            raise

    def running(self) -> bool:
        """Whether the thread is alive."""
        return self.thread.is_alive()

    def stats(self) -> dict[str, int]:
        """The loop's counters, read from its attributes."""
        return self.loop.stats()

    def interest(self) -> tuple[list[kernel.InterestEntry], dict[int, int]]:
        """The kernel's list by fdinfo, empty for poll and select, and the loop's table."""
        epfd = self.loop.poller.fileno() if self.running() else -1
        entries = kernel.interest_list(epfd) if epfd >= 0 else []
        return entries, self.loop.interest() if self.running() else {}

    def snapshot(self, newest: int | None = None) -> Snapshot:
        """A copy of the ring."""
        return self.recorder.snapshot(newest) if self.recorder else Snapshot(b"", 0)

    def written(self) -> int:
        """Read from the ring's head."""
        return self.recorder.written if self.recorder else 0

    def failure(self) -> str | None:
        """The traceback of the loop's error."""
        return _text_of(self.loop.error)

    def cause(self) -> BaseException | None:
        """The loop's error."""
        return self.loop.error

    def last_fault(self) -> str | None:
        """Kept by the loop."""
        return self.loop.last_fault

    def stop(self) -> None:
        """Wake the loop and wait for its thread."""
        self.loop.stop()
        if threading.current_thread() is self.thread:
            return  # asked by a handler, or by the collector: it ends after this batch
        self.thread.join(STOP_S)
        if self.thread.is_alive():
            raise TimeoutError(
                f"the loop did not end within {STOP_S} s: a handler or protocol is still "
                f"running:\n{_where(self.thread)}It ends when that returns. "
                "process=True gives a server that can be killed"
            )


def _text_of(error: BaseException | None) -> str | None:
    return None if error is None else "".join(traceback.format_exception(error))


def _where(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)[-2:]) if frame else ""


class ProcessHost:
    """A loop in a child process; its ring is memory that both processes map."""

    def __init__(self, listener: socket.socket, options: ServerOptions) -> None:
        payload = _pickled(options)
        self._lock = threading.Lock()
        self._stop_lock = threading.Lock()
        self._ended: tuple[str | None, dict[str, int]] | None = None
        self._last_stats: dict[str, int] = {}
        self._last_fault: str | None = None
        ring, self.memory = shared_memory(options.capacity if options.record else 1)
        with listener:
            try:
                self.child = Child("epolllab.server.hosts:serve", fds=[listener.fileno(), ring])
                try:
                    self.child.send((payload, listener.fileno(), ring))
                    kind, answer = self.child.receive(START_S)
                    if kind != "ready":
                        raise RuntimeError(f"the server's process could not start:\n{answer}")
                except BaseException:
                    self.child.close(0)
                    raise
            finally:
                os.close(ring)
        self.pid = self.child.pid
        self.epfd: int = answer

    def running(self) -> bool:
        """Whether the child's loop is alive."""
        if self._ended is None:
            alive = self.child.alive  # first, so that no last words come between
            with self._lock:
                self._drain()
            return self._ended is None and alive
        return False

    def stats(self) -> dict[str, int]:
        """Asked of the child; the last answer once it has ended."""
        self._last_stats = self._ask("stats") or self._last_stats
        return self._last_stats

    def interest(self) -> tuple[list[kernel.InterestEntry], dict[int, int]]:
        """The kernel's list of the child by fdinfo, and the child's own table."""
        table: dict[int, int] = self._ask("interest") or {}
        entries: list[kernel.InterestEntry] = []
        if self.epfd >= 0 and self.running():
            entries = kernel.interest_list(self.epfd, self.pid)
        return entries, table

    def snapshot(self, newest: int | None = None) -> Snapshot:
        """A copy of the ring, without asking the child."""
        return read_ring(self.memory, newest)

    def written(self) -> int:
        """Read from the shared ring's head."""
        return written_in(self.memory)

    def cause(self) -> BaseException | None:
        """The exception stayed in the child; its traceback is the failure's text."""
        return None

    def last_fault(self) -> str | None:
        """Asked of the child; the last answer once it has ended."""
        self._last_fault = self._ask("fault") or self._last_fault
        return self._last_fault

    def failure(self) -> str | None:
        """The child's last traceback, or how the process died."""
        if self.running():
            return None
        if self._ended is not None:
            return self._ended[0]
        return str(self.child._death())

    def stop(self) -> None:
        """Ask the child to end, wait, and kill it if it does not."""
        with self._stop_lock:
            if self.running():
                self._ask("stop", STOP_S)
                if self._ended is None and self.child.alive:  # busy in a handler: killed, not dead
                    self._ended = (None, self._last_stats)
            self.child.close(STOP_S)

    def _ask(self, question: str, timeout: float = ANSWER_S) -> Any:
        """Ask the child; None once it has ended, or where it is too busy to answer."""
        if not self.running():
            return None
        with self._lock:
            try:
                self.child.send(question)
                kind, answer = self.child.receive(timeout)
                while kind not in (question, "ended"):  # one given up waiting for before
                    kind, answer = self.child.receive(timeout)
            except (ChildDied, TimeoutError, OSError):
                return None
            if kind == "ended":
                self._note_end(answer)
                return None
            return answer

    def _drain(self) -> None:
        """Take in the child's last words, if it has said them."""
        try:
            while self._ended is None and self.child.connection.poll(0):
                kind, answer = self.child.receive()
                if kind == "ended":
                    self._note_end(answer)
        except (ChildDied, OSError):
            pass

    def _note_end(self, answer: tuple[str | None, dict[str, int]]) -> None:
        self._ended = answer
        self._last_stats = answer[1]


def _pickled(options: ServerOptions) -> bytes:
    """The options as bytes; functions and classes of a notebook travel by value."""
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(options)
    except Exception as error:
        raise TypeError(
            "process=True sends the protocol and the handler to another process, and this one "
            f"cannot be pickled: {error}. Keep sockets, locks and open files out of it, or make "
            "them inside receive() or the handler"
        ) from error
    return data


def serve(connection: Connection) -> None:
    """Run in the child: a loop in the main thread, questions in another."""
    payload, listening, ring = connection.recv()
    try:
        options: ServerOptions = pickle.loads(payload)
        recorder = None
        if options.record:
            import mmap

            memory = mmap.mmap(ring, memory_size(options.capacity))
            recorder = Recorder(options.capacity, memory=memory, touch=True)
        os.close(ring)
        loop = Loop(socket.socket(fileno=listening), options, recorder)
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
        return
    connection.send(("ready", loop.poller.fileno()))
    speaking = threading.Lock()  # a long answer is sent in two writes
    threading.Thread(target=_answer, args=(connection, loop, speaking), daemon=True).start()
    loop.run()
    with speaking:
        connection.send(("ended", (_text_of(loop.error), loop.stats())))
    # The parent lets go when it has read this, and the watcher ends the process.
    time.sleep(STOP_S)


def _answer(connection: Connection, loop: Loop, speaking: threading.Lock) -> None:
    """Answer the parent's questions until it stops asking."""
    answers: dict[str, Callable[[], object]] = {
        "stats": loop.stats,
        "interest": loop.interest,
        "fault": lambda: loop.last_fault,
    }
    while True:
        try:
            question = connection.recv()
        except (EOFError, OSError):
            return
        if question == "stop":
            loop.stop()
            return
        with speaking:
            connection.send((question, answers[question]()))
