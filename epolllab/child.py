"""Child processes that run one function of this package and end when their parent does.

Why not fork: a notebook's kernel has threads, and a fork copies the locks that they hold
but not the threads that would release them. A fresh interpreter that imports only the
standard-library half of this package starts in a tenth of a second.

How a child ends with its parent: a thread in the child waits for the parent's end of a
pipe, the *lifeline*, to be written or closed, and for the parent itself to end (pidfd).
Neither alone is enough: a forked copy of the parent keeps the pipe open, and a parent that
drops a child goes on. PR_SET_PDEATHSIG is not used, because it fires when the *thread*
that started the child ends, which in a notebook may be a widget's callback.
"""

import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Self

__all__ = ["Child", "ChildDied", "HeldInterrupts", "before_exit", "import_path"]

_BOOTSTRAP = (
    "import sys; sys.path[:] = {path}; "
    "from epolllab.child import main; main({control}, {lifeline}, {parent}, {target!r})"
)

START_S = 30.0
"""How long a child or a thread may take to start, on a busy machine."""
STALL_S = 30
"""How long a message may stop halfway before its sender or receiver counts as stuck."""

_NAMES = ("SIGINT", "SIGTERM", "SIGALRM")
_HELD = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class HeldInterrupts:
    """Hold back KeyboardInterrupt until a ``with`` block ends, so that nothing is lost in it.

    Python runs signal handlers between any two instructions of the main thread, also
    between the call that opens a descriptor and the assignment that keeps its number. The
    handlers of SIGINT, and of other signals that programs use to raise an exception, run
    at the end of the block instead, or in :meth:`deliver`. In other threads, where no
    handler runs, this does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._pending: list[tuple[int, FrameType | None]] = []
        self._is_active = True

    def __enter__(self) -> Self:
        if threading.get_ident() != threading.main_thread().ident:
            return self
        try:
            for number in _HELD:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._hold)
        except BaseException:  # raised by a signal that is not held back yet
            self._restore()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        self.deliver()

    def deliver(self) -> None:
        """Run the handlers of the signals held back; Python's for SIGINT raises."""
        while self._pending:
            number, frame = self._pending.pop(0)
            self._handlers[number](number, frame)

    def _restore(self) -> None:
        try:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        finally:
            # If a handler raised meanwhile, the others stay replaced, and are called by _hold.
            self._is_active = False

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self._is_active:
            self._pending.append((number, frame))
        else:
            self._handlers[number](number, frame)


def import_path() -> str:
    """Return ``sys.path`` as source code, without what imports ignore, such as a Path."""
    return json.dumps([entry for entry in sys.path if isinstance(entry, str)])


class ChildDied(RuntimeError):
    """A child process ended unexpectedly; the message has its exit status."""


class Child:
    """A fresh interpreter that runs ``target(connection)``.

    Parameters
    ----------
    target : str
        ``"module:function"``, importable in the child.
    fds : sequence of int, optional
        Descriptors that the child inherits under the same numbers.
    """

    def __init__(self, target: str, *, fds: Sequence[int] = ()) -> None:
        self.target = target
        self._lifeline = -1
        try:
            with HeldInterrupts():
                self._start(fds)
        except BaseException:
            self.close(0)
            raise

    def _start(self, fds: Sequence[int]) -> None:
        ours, theirs = socket.socketpair()
        timeout = struct.pack("ll", STALL_S, 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, timeout)
        self.connection: Connection[Any, Any] = Connection(ours.detach())
        _children[id(self)] = self
        with theirs:
            lifeline, self._lifeline = os.pipe()
            try:
                self._spawn(theirs.fileno(), lifeline, fds)
            finally:
                os.close(lifeline)

    def _spawn(self, control: int, lifeline: int, fds: Sequence[int]) -> None:
        numbers = {"control": control, "lifeline": lifeline, "parent": os.getpid()}
        bootstrap = _BOOTSTRAP.format(path=import_path(), target=self.target, **numbers)
        inherited = [control, lifeline, *fds]
        # The child starts with SIGINT blocked: Ctrl-C in a terminal, and the interrupt of
        # some notebook servers, go to the whole process group and are meant for the parent.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", bootstrap],
                # Where standard input is closed, another file has its number.
                stdin=None if 0 in inherited else subprocess.DEVNULL,
                pass_fds=inherited,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the child is still running."""
        return self.process.poll() is None

    def send(self, message: object) -> None:
        """Send a picklable object.

        Raises
        ------
        ChildDied
            The child has ended.
        TimeoutError
            The child does not read its messages.
        """
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self.death() from error
        except BlockingIOError as error:
            raise self._stuck("did not read a message") from error

    def receive(self, timeout: float | None = None) -> Any:
        """Return the child's next message.

        Raises
        ------
        ChildDied
            The child ended without sending one.
        TimeoutError
            No message arrived within `timeout` seconds, or the child stopped in the middle.
        """
        if not self.connection.poll(timeout):
            raise TimeoutError(f"{self.target} in process {self.pid} sent nothing for {timeout} s")
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self.death() from error
        except BlockingIOError as error:
            raise self._stuck("stopped in the middle of a message") from error

    def _stuck(self, how: str) -> TimeoutError:
        return TimeoutError(f"{self.target} in process {self.pid} {how} for {STALL_S} s")

    def death(self) -> ChildDied:
        """Return the error that says how the child ended; waits a moment for the end."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return ChildDied(f"{self.target} in process {self.pid} closed its connection")
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return ChildDied(f"{self.target} in process {self.pid} ended with {how}")

    def __del__(self) -> None:
        if self._lifeline >= 0:
            self.close(0)

    def close(self, timeout: float = 2.0) -> None:
        """Tell the child to end through the lifeline; kill it after `timeout` seconds.

        Safe to call repeatedly and from any thread.
        """
        with HeldInterrupts():
            lifeline, self._lifeline = self._lifeline, -1
            if lifeline >= 0:
                with suppress(OSError):  # it has ended
                    os.write(lifeline, b"x")  # to close it is not enough if it has duplicates
                os.close(lifeline)
            if hasattr(self, "process"):
                try:
                    self.process.wait(timeout)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            if hasattr(self, "connection"):
                self.connection.close()
            _children.pop(id(self), None)

    def _disown(self) -> None:
        """Let go of the child in a forked copy of its parent."""
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)
        self.connection.close()
        if hasattr(self, "process"):
            self.process.returncode = 0  # so that the copy neither waits for it nor kills it


_children: "weakref.WeakValueDictionary[int, Child]" = weakref.WeakValueDictionary()


def _disown_children() -> None:
    for reference in _children.valuerefs():
        if (child := reference()) is not None:
            child._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_children)


_farewells: list[Callable[[], object]] = []


def before_exit(call: Callable[[], object]) -> None:
    """In a child: have `call` run, in another thread, when the parent ends or lets it go.

    The child ends when it returns, or when the parent kills it after its patience.
    """
    _farewells.append(call)


def main(control: int, lifeline: int, parent: int, target: str) -> None:
    """Run in the child: watch the parent, then call the function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_watch, args=(lifeline, parent), daemon=True).start()
    module, function = target.split(":")
    connection: Connection[Any, Any] = Connection(control)
    try:
        getattr(importlib.import_module(module), function)(connection)
    except (EOFError, OSError):
        if not _has_hung_up(control):
            raise


def _has_hung_up(control: int) -> bool:
    """Return whether the parent has closed its end of the connection, as when it is interrupted."""
    poll = select.poll()
    poll.register(control, 0)
    return any(mask & select.POLLHUP for _, mask in poll.poll(0))


def _watch(lifeline: int, parent: int) -> None:
    """Exit at once when the parent writes to the lifeline, closes it, or ends."""
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    timeout = None
    try:
        poll.register(os.pidfd_open(parent), select.POLLIN)
    except OSError:  # Linux before 5.3, or a sandbox: look at the parent's number instead
        timeout = 1_000
    while os.getppid() == parent and not poll.poll(timeout):
        pass
    with suppress(Exception):
        for call in _farewells:
            call()
    os._exit(0)
