"""Child processes that run one function of this package and end when their parent does.

Why not fork: a notebook's kernel has threads, and a fork copies the locks that they hold
but not the threads that would release them. A fresh interpreter that imports only the
standard-library half of this package starts in a tenth of a second.

Why a lifeline pipe: PR_SET_PDEATHSIG fires when the *thread* that started the child ends,
which in a notebook may be a widget's callback. Only the parent holds the other end of this
pipe, and the kernel closes it however the parent ends, even by SIGKILL. The thread in the
child that blocks reading from the pipe costs nothing.
"""

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

__all__ = ["Child", "ChildDied"]

_BOOTSTRAP = (
    "import sys; sys.path[:] = {path!r}; "
    "from epolllab.child import main; main({control}, {lifeline}, {target!r})"
)


class ChildDied(RuntimeError):
    """A child process ended unexpectedly; the message has its exit status."""


def _spawn(command: list[str], fds: Sequence[int]) -> "subprocess.Popen[bytes]":
    """Start a process from a thread of its own.

    KeyboardInterrupt is raised in the main thread. Inside Popen it would lose the number
    of a process that already runs.
    """
    results: list[subprocess.Popen[bytes] | BaseException] = []
    started, done = threading.Event(), threading.Event()

    def spawn() -> None:
        started.set()
        try:
            results.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=fds))
        except BaseException as error:
            results.append(error)
        done.set()

    try:
        threading.Thread(target=spawn, name="epolllab-spawn").start()
        done.wait()  # not join(): once interrupted, it treats the thread as ended (Python 3.11)
    except BaseException:
        if started.wait(1):  # otherwise there is no thread
            done.wait()
        for process in results:
            if isinstance(process, subprocess.Popen):
                process.kill()
                process.wait()
        raise
    (process,) = results
    if isinstance(process, BaseException):
        raise process
    return process


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
        self.connection, theirs = Pipe()
        lifeline_read, self._lifeline = os.pipe()
        control = theirs.fileno()
        bootstrap = _BOOTSTRAP.format(
            path=sys.path, control=control, lifeline=lifeline_read, target=target
        )
        try:
            self.process = _spawn([sys.executable, "-c", bootstrap], [control, lifeline_read, *fds])
        except BaseException:
            self.connection.close()
            os.close(self._lifeline)
            self._lifeline = -1
            raise
        finally:
            theirs.close()
            os.close(lifeline_read)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the child is still running."""
        return self.process.poll() is None

    def send(self, message: object) -> None:
        """Send a picklable object; ChildDied if the child has ended."""
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self.death() from error

    def receive(self, timeout: float | None = None) -> Any:
        """Return the child's next message.

        Raises
        ------
        ChildDied
            The child ended without sending one.
        TimeoutError
            No message arrived within `timeout` seconds.
        """
        if timeout is not None and not self.connection.poll(timeout):
            raise TimeoutError(f"{self.target} in process {self.pid} sent nothing for {timeout} s")
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self.death() from error

    def death(self) -> ChildDied:
        """Return the error that says how the child ended; waits a moment for the end."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return ChildDied(f"{self.target} in process {self.pid} closed its connection")
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return ChildDied(f"{self.target} in process {self.pid} ended with {how}")

    def __del__(self) -> None:
        # An interrupt can arrive before the caller is able to close it.
        if hasattr(self, "process") and self._lifeline >= 0:
            self.close(0)

    def close(self, timeout: float = 2.0) -> None:
        """Tell the child to end by closing the lifeline; kill it after `timeout` seconds.

        Safe to call repeatedly and from any thread.
        """
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.connection.close()


def main(control: int, lifeline: int, target: str) -> None:
    """Run in the child: watch the lifeline, then call the function."""
    # A notebook's interrupt goes to the whole process group; it is meant for the cell.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    module, function = target.split(":")
    getattr(importlib.import_module(module), function)(Connection(control))


def _watch(lifeline: int) -> None:
    """Block until the parent closes the lifeline or ends, then exit at once."""
    os.read(lifeline, 1)
    os._exit(0)
