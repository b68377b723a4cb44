"""Where a loop runs: in a thread of this process, or in a child process.

Both hosts have the same methods, and ``ring``, in which the loop records. A host owns the
loop before it waits for it, so that an interrupt during the wait loses nothing.
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
from epolllab.child import START_S, Child, ChildDied, HeldInterrupts
from epolllab.kernel.proc import is_suspended
from epolllab.recording import environment
from epolllab.recording.recorder import Recorder, Ring, memory_size, shared_memory
from epolllab.recording.streaming import Stream
from epolllab.server.completions import CompletionLoop
from epolllab.server.loop import Loop
from epolllab.server.options import ServerOptions

__all__ = ["Host", "make_loop", "start_host"]

STOP_S = 2.0
"""How long a stop waits for a loop that is busy in a handler."""

REPLY_S = 5.0
"""How long a child may take to reply to a query."""

AGAIN_S = 0.5
"""The same after a query that it did not reply to, so that displays go on."""

STEP_S = 0.05
"""Interval at which a wait for a reply looks at the child's state."""

Failure = tuple[str, BaseException | None]
"""The traceback of the error that ended a loop, and the error if it is in this process."""

Interest = tuple[list[kernel.InterestEntry] | None, dict[int, int]]
"""The kernel's interest list, empty for poll and select, and the loop's own table."""


class ThreadHost:
    """A loop in a daemon thread of this process."""

    unavailable: str | None = None

    def __init__(
        self, listener: socket.socket, options: ServerOptions, stream: Stream | None = None
    ) -> None:
        self.pid = os.getpid()
        self.stream = stream
        self._stops_itself = False
        self._recorder = _recorder(options, stream)
        memory = self._recorder.memory if self._recorder else mmap.mmap(-1, memory_size(1))
        self.ring = Ring(memory)
        self.loop = make_loop(listener, options, self._recorder)
        self._run_once = threading.Lock()
        # A daemon, so that the interpreter's exit does not wait for it: finalizers stop it.
        self.thread = threading.Thread(target=self._run, name="epolllab-loop", daemon=True)
        try:
            self.thread.start()
        except BaseException:
            self.loop.stop()
            self._run()  # without a thread, this only closes the loop's descriptors
            raise

    def _run(self) -> None:
        """Run the loop, unless another thread did."""
        if self._run_once.acquire(blocking=False):
            self.loop.run()
        if self._stops_itself:
            _finish_stream(self)

    def until_ready(self) -> None:
        """Wait until the loop watches the listener, so that interest() has it."""
        if not self.loop.watches.wait(START_S):
            raise TimeoutError(
                f"the server's thread did not start its loop within {START_S:g} s: the machine "
                "is overloaded, or another thread keeps Python's interpreter lock"
            )
        if self.loop.error is not None:
            raise RuntimeError(
                f"the server's loop could not start: {self.loop.error}"
            ) from self.loop.error

    def running(self) -> bool:
        """Whether the loop runs."""
        return self.thread.is_alive()

    def stats(self) -> dict[str, Any]:
        """The loop's counters; the last ones once it has ended."""
        return self.loop.stats()

    def targets(self) -> list[str]:
        """The request targets that handle rows refer to."""
        return list(self.loop.targets.names)

    def interest(self) -> Interest:
        """The interest on both sides; nothing once the loop has ended."""
        try:
            epfd = self.loop.epoll_fd
            entries = _interest_list(epfd)
        except (OSError, ValueError):
            if not self.loop.ended:
                raise
        # Once the loop has ended, the number may be another file's.
        return ([], {}) if self.loop.ended else (entries, self.loop.interest())

    def failure(self) -> Failure | None:
        """What ended the loop; None while it runs and after a stop."""
        error = self.loop.error
        return None if error is None else ("".join(traceback.format_exception(error)), error)

    def last_fault(self) -> str | None:
        """Traceback of the last exception in a protocol or handler."""
        return self.loop.last_fault

    def stop(self) -> None:
        """End the loop and wait for it; further calls do nothing."""
        with HeldInterrupts():
            self.loop.stop()
            if threading.current_thread() is self.thread:
                self._stops_itself = True
                return  # called by a handler or the garbage collector: ends after this batch
            self.thread.join(STOP_S)
            if not self.thread.is_alive():
                _finish_stream(self)
                self.ring.free(self._recorder)
                return
        frame = sys._current_frames().get(self.thread.ident or 0)
        where = "".join(traceback.format_stack(frame)[-2:]) if frame else ""
        raise TimeoutError(
            f"stop() timed out after {STOP_S} s: a handler or protocol is still running:\n"
            f"{where}The loop ends when it returns. A server with process=True can be killed"
        )


class ProcessHost:
    """A loop in a child process; its ring is memory that both processes map.

    Attributes
    ----------
    unavailable : str or None
        Why the child did not reply to the last query.
    """

    def __init__(
        self, listener: socket.socket, options: ServerOptions, stream: Stream | None = None
    ) -> None:
        self.stream = stream
        self._payload = _pickled(options)
        self._lock = threading.Lock()
        self._stop_lock = threading.Lock()
        self._stopping = False
        self._n_asked = 0
        self._ended: tuple[str | None, dict[str, Any]] | None = None
        self._counters: dict[str, Any] = {}  # those that stats() has; empty before the start
        self._last_fault: str | None = None
        self._targets = [""]
        self.unavailable: str | None = None
        shared, memory = shared_memory(options.capacity if options.record else 1)
        self.ring = Ring(memory)
        try:
            if stream is not None:
                stream.add(shared, memory, options.capacity)
            self._inherited = listener.fileno(), shared
            self.child = Child("epolllab.server.hosts:serve", fds=self._inherited)
        finally:
            os.close(shared)
        self.pid = self.child.pid
        self._owner = os.getpid()

    def until_ready(self) -> None:
        """Wait until the child's loop watches the listener."""
        self.child.send((self._payload, *self._inherited))
        kind, reply = self.child.receive(START_S)
        if kind != "ready":
            reply = reply[0] if kind == "ended" else reply
            raise RuntimeError(f"the server's process could not start:\n{reply}")
        self._counters = dict.fromkeys(reply)

    def running(self) -> bool:
        if self._ended is not None or self.child.connection.closed:
            return False
        alive = self.child.alive  # first, so that a last message is not missed
        if self._lock.acquire(blocking=False):  # otherwise another thread reads the messages
            try:
                with suppress(ChildDied, TimeoutError, OSError):
                    while self._ended is None and self.child.connection.poll(0):
                        self._receive()
            finally:
                self._lock.release()
        return self._ended is None and alive

    def stats(self) -> dict[str, Any]:
        """The loop's counters; None for those that are not known because of `unavailable`."""
        reply: dict[str, Any] | None = self._query("stats")
        if self._ended is not None:
            return self._ended[1]
        if reply is None and not self.running():  # killed, which closed its connections
            self.unavailable = str(self.child.death())
            return {**self._counters, "connections": 0, "staged": 0}
        return reply or self._counters

    def targets(self) -> list[str]:
        """The request targets; those known last where the child does not reply."""
        self._targets = self._query("targets") or self._targets
        return list(self._targets)

    def interest(self) -> Interest:
        """The interest on both sides; TimeoutError if the child does not reply."""
        reply = self._query("interest")
        try:
            if reply is not None:
                epfd, table = reply
                return _interest_list(epfd, self.pid), table
        except OSError:
            if self.running():
                raise
        if self.running() and not self._stopping:
            raise TimeoutError(f"interest() cannot be read: {self.unavailable}")
        return [], {}

    def failure(self) -> Failure | None:
        if self.running() or self._owner != os.getpid():  # a forked copy does not own the child
            return None
        text = self._ended[0] if self._ended is not None else str(self.child.death())
        return None if text is None else (text, None)

    def last_fault(self) -> str | None:
        self._last_fault = self._query("fault") or self._last_fault
        return self._last_fault

    def stop(self) -> None:
        with HeldInterrupts(), self._stop_lock:
            if self.stream is not None:
                self.last_fault()  # for its metadata
            self._stopping = True
            if self._counters and self.running():
                self._query("stop")
                if self._ended is None and self.child.alive:  # killed below, which is no failure
                    self._ended = None, {**self._counters, "connections": 0, "staged": 0}
            with self._lock:
                self.child.close(STOP_S if self.unavailable is None else 0)
            _finish_stream(self)
            self.ring.free()

    def _query(self, query: str) -> Any:
        """Ask the child; None once it has ended, or where it does not reply."""
        if not self.running():
            return None
        with self._lock:
            timeout = REPLY_S if self.unavailable is None else AGAIN_S
            timeout = STOP_S if query == "stop" else timeout
            try:
                self._require_awake(query)
                self._n_asked += 1
                self.child.send((self._n_asked, query))
                reply = self._await_reply(query, timeout)
                self.unavailable = None
                return reply
            except (ChildDied, TimeoutError, OSError) as error:
                self.unavailable = str(error)
                return None

    def _await_reply(self, query: str, timeout: float) -> Any:
        """Return the reply to the last query; skip replies to earlier ones that timed out."""
        deadline = time.monotonic() + timeout
        while True:
            while not self.child.connection.poll(STEP_S):
                self._require_awake(query)
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"process {self.pid} did not reply within {timeout:g} s: it, or the "
                        "machine, is busy"
                    )
            serial, reply = self._receive()
            if serial in (self._n_asked, "ended"):
                return reply if serial != "ended" else None

    def _require_awake(self, query: str) -> None:
        """Raise TimeoutError where no reply can be expected."""
        if self._stopping and query != "stop":
            raise TimeoutError(f"process {self.pid} is being stopped")
        if is_suspended(self.pid):
            raise TimeoutError(f"process {self.pid} is suspended (SIGSTOP); SIGCONT resumes it")

    def _receive(self) -> tuple[Any, Any]:
        """Receive a message of the child; note the end of its loop."""
        serial, reply = self.child.receive()
        if serial == "ended":
            error, stats, self._targets = reply
            self._ended = error, stats
        return serial, reply


def _interest_list(epfd: int, pid: int | None = None) -> list[kernel.InterestEntry] | None:
    """The kernel's interest list, empty for poll and select; None where it is not known."""
    try:
        return kernel.interest_list(epfd, pid) if epfd >= 0 else []
    except kernel.NotPossible:
        return None


Host = ThreadHost | ProcessHost


def start_host(
    listener: socket.socket, options: ServerOptions, stream: Stream | None = None
) -> Host:
    """Run a loop in a thread, or in a child process where the options say so.

    A thread takes the listener over; a child inherits it, and the caller closes it here.
    """
    kind = ProcessHost if options.process else ThreadHost
    return kind(listener, options, stream)


def _recorder(options: ServerOptions, stream: Stream | None) -> Recorder | None:
    """The recorder of a loop in this process, in memory that is shared if its rows are stored."""
    if not options.record:
        return None
    make = Recorder if stream is None else stream.recorder
    return make(options.capacity, populate=True)


def _finish_stream(host: Host) -> None:
    """Have the rows of a loop that has ended stored, with what is known at the end."""
    if host.stream is not None:
        host.stream.finish(
            {
                **environment.at_end(),
                "stats": host.stats(),
                "last_fault": host.last_fault(),
                "targets": host.targets(),
            }
        )


def make_loop(listener: socket.socket, options: ServerOptions, recorder: Recorder | None) -> Loop:
    """Make the loop that the options ask for."""
    kind = CompletionLoop if options.poller == "io_uring" else Loop
    return kind(listener, options, recorder)


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
        loop = make_loop(socket.socket(fileno=listening), options, recorder)
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
        return
    sending = threading.Lock()  # a long message takes two writes
    threading.Thread(target=_reply, args=(connection, loop, sending), daemon=True).start()
    loop.run()
    error = None if loop.error is None else "".join(traceback.format_exception(loop.error))
    with sending:
        connection.send(("ended", (error, loop.stats(), loop.targets.names)))
    # The parent closes the lifeline when it has read this, which ends the process.
    time.sleep(STOP_S)


def _reply(connection: Connection, loop: Loop, sending: threading.Lock) -> None:
    """Say that the loop is ready; then reply to the parent's queries until it stops asking."""
    loop.watches.wait()
    if loop.error is None:
        with sending:
            connection.send(("ready", list(loop.stats())))
    replies: dict[str, Callable[[], object]] = {
        "stats": loop.stats,
        "interest": lambda: (loop.epoll_fd, loop.interest()),
        "fault": lambda: loop.last_fault,
        "targets": lambda: list(loop.targets.names),
    }
    while True:
        try:
            serial, query = connection.recv()
        except (EOFError, OSError):
            return
        if query == "stop":
            loop.stop()
            return
        # The loop has ended meanwhile, or the parent has.
        with suppress(ValueError, OSError), sending:
            connection.send((serial, replies[query]()))
