"""Where a loop runs: in a thread of this process, or in a child process.

Both hosts have the same methods, and ``memory``, the ring that the loop records in.
"""

import mmap
import os
import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from epolllab import kernel
from epolllab.child import Child, ChildDied
from epolllab.recording.recorder import Recorder, memory_size, shared_memory
from epolllab.server.loop import Loop
from epolllab.server.options import ServerOptions

__all__ = ["Host", "start_host"]

STOP_S = 2.0
"""How long a stop waits for a loop that is busy in a handler."""

REPLY_S = 5.0
"""How long a child may take to reply to a query."""

START_S = 30.0
"""How long a child may take to start, on a busy machine."""

Failure = tuple[str, BaseException | None]
"""The traceback of the error that ended a loop, and the error if it is in this process."""


class ThreadHost:
    """A loop in a daemon thread of this process."""

    def __init__(self, listener: socket.socket, options: ServerOptions) -> None:
        self.pid = os.getpid()
        recorder = Recorder(options.capacity, populate=True) if options.record else None
        self.memory = recorder.memory if recorder else mmap.mmap(-1, memory_size(1))
        self.loop = Loop(listener, options, recorder)
        # A daemon, so that the interpreter's exit does not wait for it: finalizers stop it.
        self.thread = threading.Thread(target=self.loop.run, name="epolllab-loop", daemon=True)
        try:
            self.thread.start()
        except BaseException:  # no thread could be started, or an interrupt meanwhile
            self.loop.stop()
            if self.thread.ident is None:
                self.loop.run()  # it is stopped already, so this only closes its descriptors
            raise

    def running(self) -> bool:
        """Whether the loop runs."""
        return self.thread.is_alive()

    def stats(self) -> dict[str, int]:
        """The loop's counters; the last ones once it has ended."""
        return self.loop.stats()

    def interest(self) -> tuple[list[kernel.InterestEntry], dict[int, int]]:
        """The kernel's interest list, empty for poll and select, and the loop's own table."""
        epfd = self.loop.poller.fileno() if self.running() else -1
        entries = kernel.interest_list(epfd) if epfd >= 0 else []
        return entries, self.loop.interest() if self.running() else {}

    def failure(self) -> Failure | None:
        """What ended the loop; None while it runs and after a stop."""
        error = self.loop.error
        return None if error is None else ("".join(traceback.format_exception(error)), error)

    def last_fault(self) -> str | None:
        """Traceback of the last exception in a protocol or handler."""
        return self.loop.last_fault

    def stop(self) -> None:
        """End the loop and wait for it; further calls do nothing."""
        self.loop.stop()
        if threading.current_thread() is self.thread:
            return  # called by a handler or the garbage collector: ends after this batch
        self.thread.join(STOP_S)
        if self.thread.is_alive():
            frame = sys._current_frames().get(self.thread.ident or 0)
            where = "".join(traceback.format_stack(frame)[-2:]) if frame else ""
            raise TimeoutError(
                f"stop() timed out after {STOP_S} s: a handler or protocol is still running:\n"
                f"{where}The loop ends when it returns. A server with process=True can be killed"
            )


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
                    kind, reply = self.child.receive(START_S)
                    if kind != "ready":
                        raise RuntimeError(f"the server's process could not start:\n{reply}")
                except BaseException:
                    self.child.close(0)
                    raise
            finally:
                os.close(ring)
        self.pid = self.child.pid
        self.epfd: int = reply

    def running(self) -> bool:
        if self._ended is not None:
            return False
        alive = self.child.alive  # first, so that a last message is not missed
        with self._lock, suppress(ChildDied, OSError):
            while self._ended is None and self.child.connection.poll(0):
                self._receive()
        return self._ended is None and alive

    def stats(self) -> dict[str, int]:
        self._last_stats = self._query("stats") or self._last_stats
        return self._last_stats

    def interest(self) -> tuple[list[kernel.InterestEntry], dict[int, int]]:
        table: dict[int, int] = self._query("interest") or {}
        entries: list[kernel.InterestEntry] = []
        if self.epfd >= 0 and self.running():
            entries = kernel.interest_list(self.epfd, self.pid)
        return entries, table

    def failure(self) -> Failure | None:
        if self.running():
            return None
        text = self._ended[0] if self._ended is not None else str(self.child.death())
        return None if text is None else (text, None)

    def last_fault(self) -> str | None:
        self._last_fault = self._query("fault") or self._last_fault
        return self._last_fault

    def stop(self) -> None:
        with self._stop_lock:
            if self.running():
                self._query("stop", STOP_S)
                if self._ended is None and self.child.alive:
                    self._ended = (None, self._last_stats)  # killed below, which is no failure
            self.child.close(STOP_S)

    def _query(self, query: str, timeout: float = REPLY_S) -> Any:
        """Ask the child; None once it has ended, or where it is too busy to reply."""
        if not self.running():
            return None
        with self._lock, suppress(ChildDied, TimeoutError, OSError):
            self.child.send(query)
            kind, reply = self._receive(timeout)
            while kind not in (query, "ended"):  # the reply to a query that timed out
                kind, reply = self._receive(timeout)
            return reply if kind == query else None
        return None

    def _receive(self, timeout: float | None = None) -> tuple[str, Any]:
        """Receive a message of the child; note the end of its loop."""
        kind, reply = self.child.receive(timeout)
        if kind == "ended":
            self._ended = reply
            self._last_stats = reply[1]
        return kind, reply


Host = ThreadHost | ProcessHost


def start_host(listener: socket.socket, options: ServerOptions) -> Host:
    """Run a loop in a thread, or in a child process where the options say so."""
    return ProcessHost(listener, options) if options.process else ThreadHost(listener, options)


def _pickled(options: ServerOptions) -> bytes:
    """The options as bytes; functions and classes of a notebook are pickled by value."""
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(options)
    except Exception as error:
        raise TypeError(
            "process=True sends protocol and handler to another process, and one of them cannot "
            f"be pickled: {error}. Keep sockets, locks and open files out of it, or open them in "
            "receive() or the handler"
        ) from error
    return data


def serve(connection: Connection) -> None:
    """Run in the child: the loop in the main thread, the parent's queries in another."""
    payload, listening, ring = connection.recv()
    try:
        options: ServerOptions = pickle.loads(payload)
        recorder = None
        if options.record:
            memory = mmap.mmap(ring, memory_size(options.capacity))
            recorder = Recorder(options.capacity, memory=memory, populate=True)
        os.close(ring)
        loop = Loop(socket.socket(fileno=listening), options, recorder)
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
        return
    connection.send(("ready", loop.poller.fileno()))
    sending = threading.Lock()  # a long message takes two writes
    threading.Thread(target=_reply, args=(connection, loop, sending), daemon=True).start()
    loop.run()
    error = None if loop.error is None else "".join(traceback.format_exception(loop.error))
    with sending:
        connection.send(("ended", (error, loop.stats())))
    # The parent closes the lifeline when it has read this, which ends the process.
    time.sleep(STOP_S)


def _reply(connection: Connection, loop: Loop, sending: threading.Lock) -> None:
    """Reply to the parent's queries until it stops asking."""
    replies: dict[str, Callable[[], object]] = {
        "stats": loop.stats,
        "interest": loop.interest,
        "fault": lambda: loop.last_fault,
    }
    while True:
        try:
            query = connection.recv()
        except (EOFError, OSError):
            return
        if query == "stop":
            loop.stop()
            return
        with sending:
            connection.send((query, replies[query]()))
