"""What the tests of this folder share: requests, ways to cut them, and kinds of server."""

import json
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from epolllab import Server, Session
from epolllab.events import EPOLLOUT
from epolllab.kernel import NotPossible
from epolllab.kernel.pollers import POLLERS
from epolllab.kernel.uring import require_uring
from epolllab.server.options import LIFECYCLES, TRIGGERS, ServerOptions
from tests.conftest import missing
from tests.wire import until

PLACES = pytest.mark.parametrize(
    "process",
    [
        pytest.param(False, id="thread"),
        pytest.param(True, id="process", marks=pytest.mark.processes),
    ],
)
"""Run a test with the loop in a thread and in a child process."""


def is_valid(poller: Any, trigger: Any, lifecycle: Any) -> bool:
    """Whether a server can have these options together."""
    try:
        ServerOptions(poller=poller, trigger=trigger, lifecycle=lifecycle)
    except ValueError:
        return False
    return True


WAYS = [way for way in product(POLLERS, TRIGGERS, LIFECYCLES) if is_valid(*way)]
RING = ("io_uring", "", "")


def every(ways: Iterable[tuple[str, str, str]]) -> pytest.MarkDecorator:
    """Run a test with each of these pollers, triggers and life cycles."""
    ways = list(ways)
    names = ["-".join(filter(None, way)) for way in ways]
    return pytest.mark.parametrize(("poller", "trigger", "lifecycle"), ways, ids=names)


EVERY_WAY = every([*WAYS, RING])
"""Run a test with each of the eleven valid combinations, and with io_uring."""
EVERY_READINESS = every(WAYS)
"""Without io_uring."""


def options_of(poller: str, trigger: str, lifecycle: str) -> dict[str, Any]:
    """Options of start_server(); a test of io_uring is skipped where it is not possible."""
    if poller != "io_uring":
        return {"poller": poller, "trigger": trigger, "lifecycle": lifecycle, "capacity": 50_000}
    try:
        require_uring()
    except NotPossible as error:
        missing(str(error))
    return {"poller": poller, "capacity": 50_000}


OLD = b"GET / HTTP/1.0\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODIES = {
    "length": b"POST /p?q=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
    "chunked": b"POST /p?q=1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailer: t\r\n\r\n",
}
DATE = rb"Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"

CUT_PLACES = st.lists(st.integers(0, 1 << 16), max_size=8)
"""Where to cut, for :func:`cut_at`."""


def has_blocked_send(server: Server) -> bool:
    """Whether a response waits for the peer to read.

    Usually a send has failed. The how-to's loop asks for OUT before it sends, so it makes no
    call that fails if the response before has just filled the buffer; a ring makes none at all.
    """
    if "send EAGAIN" in server.recording().errors():
        return True
    n_before = server.stats()["events"]
    waits = bool((server.interest()["own_mask"].fillna(0) & EPOLLOUT).any())
    if server.options.poller == "io_uring":
        return waits
    time.sleep(0.05)
    return waits and server.stats()["events"] == n_before


def fd_of(server: Server, conn: int = 1) -> int:
    """The descriptor of an accepted connection; it is not always the largest."""
    found = until(
        lambda: server.events().query(f"op == 'register' and conn == {conn}")["fd"].tolist()
    )
    return int(found[0])


def bytewise(data: bytes) -> list[bytes]:
    """Cut into single bytes."""
    return [data[i : i + 1] for i in range(len(data))]


CUTS = pytest.mark.parametrize("cut", [lambda data: [data], bytewise], ids=["whole", "bytewise"])


def ways_to_cut(data: bytes) -> Iterator[list[bytes]]:
    """Byte by byte, and in two at every place; of long data, at places near both ends."""
    yield bytewise(data)
    for place in range(1, len(data)):
        if len(data) < 400 or min(place, len(data) - place) < 60 or place % 499 == 0:
            yield [data[:place], data[place:]]


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    """Cut at the places, each taken modulo the length; no piece is empty."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


def responses_of(session: Session, pieces: Iterable[bytes]) -> list[bytes]:
    """Feed the pieces; return the responses with their dates replaced."""
    responses = [response for piece in pieces for response in session.receive(piece)]
    return [re.sub(DATE, b"Date: -", response) for response in responses]


class Program:
    """A Python program that a test exchanges lines with."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def read(self) -> Any:
        """Read a line of JSON that it printed."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)

    def evaluate(self, expression: str) -> Any:
        """Send an expression to a program that evaluates each line; return its value."""
        assert self.process.stdin
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return self.read()


@contextmanager
def program(text: str, *arguments: str) -> Iterator[Program]:
    """Run a program that can use epolllab and ``tell(value)``; kill it in the end."""
    start = "import json, sys, epolllab\ndef tell(value): print(json.dumps(value), flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", start + textwrap.dedent(text), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield Program(running)
        finally:
            running.kill()


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
