"""A server in its own process, started through another command such as strace.

``start_server(process=True)`` starts its child directly, so no tracer can run in front.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from epolllab.child import START_S, HeldInterrupts, import_path
from epolllab.server.server import start_server

__all__ = ["TracedServer", "TracerFailed", "serve_until_eof", "traced_server"]

_BOOTSTRAP = (
    "import sys; sys.path[:] = {path}; "
    "from {module} import serve_until_eof; serve_until_eof({options!r})"
)
END_S = 10.0


class TracerFailed(RuntimeError):
    """The command did not start a server; the message is the last line of its output."""


class TracedServer(NamedTuple):
    """A running server."""

    address: tuple[str, int]
    pid: int
    """The process of the loop."""
    tracer_pid: int | None
    """The process of the tracer, if there is one."""


@contextmanager
def traced_server(prefix: Sequence[str], **options: Any) -> Iterator[TracedServer]:
    """Run a server under the command `prefix` until the block ends.

    `prefix` is a command that runs the command after it, as ``["strace", "-f", ...]``; empty
    for none. Options are JSON values for :func:`epolllab.start_server`. TracerFailed if the
    command does not start a server: it is not permitted here, or does not work.
    """
    code = _BOOTSTRAP.format(path=import_path(), module=__name__, options=json.dumps(options))
    with HeldInterrupts():
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a notebook's interrupt must not reach the tracer
        )
    with process:
        try:
            host, port, pid = _first_line(process)
            yield TracedServer((host, port), pid, process.pid if prefix else None)
        finally:
            if process.stdin is not None:
                process.stdin.close()  # end of file ends the server, and with it the tracer
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _first_line(process: Any) -> tuple[str, int, int]:
    """The server's address and pid; a tracer that hangs is killed."""
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(START_S * 1000):
        process.kill()
    line = process.stdout.readline()
    if not line:
        process.wait()
        output = process.stderr.read().decode(errors="replace").strip().splitlines()
        raise TracerFailed(output[-1] if output else f"exit code {process.returncode}, no output")
    host, port, pid = json.loads(line)
    return host, port, pid


def serve_until_eof(options: str) -> None:
    """Run in the process: a server until end of file on standard input."""
    # A notebook's interrupt goes to the whole process group, and is meant for the cell.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with start_server(**json.loads(options)) as server:
        line = json.dumps([*server.address, os.getpid()])
        os.write(1, line.encode() + b"\n")
        while os.read(0, 4096):
            pass
