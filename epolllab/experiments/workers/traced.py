"""A server in a process of its own that another program can be wrapped around.

One job: start ``strace python ... serve`` or the like, learn the server's port and
process, and end it. ``start_server(process=True)`` starts its child by itself, and
leaves no place for a tracer before it.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

__all__ = ["TracerFailed", "Watched", "serve", "watched_server"]


_BOOTSTRAP = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve({options!r})"
START_S = 30.0
END_S = 10.0


class TracerFailed(RuntimeError):
    """The command did not bring a server up; the message has what it said."""


class Watched(NamedTuple):
    """A server that is up."""

    address: tuple[str, int]
    pid: int
    """The process the loop runs in."""
    tracer_pid: int | None
    """The process around it; None without one."""


@contextmanager
def watched_server(prefix: Sequence[str], **options: Any) -> Iterator[Watched]:
    """Run a server under the command `prefix` until the block ends.

    Parameters
    ----------
    prefix : sequence of str
        A command that runs the command after it: ``["strace", "-f", ...]``; empty for none.
    **options
        For :func:`epolllab.start_server`; of what JSON can hold.

    Raises
    ------
    TracerFailed
        No server came up: the command is not permitted here, or does not work.
    """
    code = _BOOTSTRAP.format(path=sys.path, module=__name__, options=json.dumps(options))
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a notebook's interrupt is not meant for the tracer
    )
    assert process.stdin is not None
    try:
        facts = _first_line(process)
        address = (str(facts["address"][0]), int(facts["address"][1]))
        yield Watched(address, facts["pid"], process.pid if prefix else None)
    finally:
        # End of file ends the server, and that ends what is around it.
        process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _first_line(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """What the server says of itself; a tracer that hangs is killed."""
    killer = threading.Timer(START_S, process.kill)
    killer.start()
    try:
        line = _stream(process.stdout).readline()
    finally:
        killer.cancel()
        killer.join()
    if not line:
        process.wait()
        said = _stream(process.stderr).read().decode(errors="replace").strip().splitlines()
        raise TracerFailed(said[-1] if said else f"it ended with exit code {process.returncode}")
    facts: dict[str, Any] = json.loads(line)
    return facts


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def serve(options: str) -> None:
    """Run in the process: a server until standard input ends."""
    import signal

    from epolllab.server.server import start_server

    # A notebook's interrupt goes to the whole process group; it is meant for the cell.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with start_server(**json.loads(options)) as server:
        line = json.dumps({"address": server.address, "pid": os.getpid()})
        os.write(1, line.encode() + b"\n")
        while os.read(0, 4096):
            pass
