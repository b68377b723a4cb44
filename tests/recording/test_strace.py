"""A recording has exactly as many calls of each kind as strace counts.

A process also makes calls that are not its loop's, so there are two ways of counting.
``strace -c`` is attached just before the loop runs and detached just after: it counts
only the loop's calls. And strace logs a whole program that calls ``start_server()``;
there the thread shows which closes are the loop's, and only the loop makes the other
calls. The clients are in the test's process, which is not traced.
"""

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from epolllab.server.protocols import Hello
from tests.conftest import missing, needs
from tests.server.helpers import OLD, RING, options_of
from tests.wire import GET, Address, ask, connect, read_to_end, reset

CALLS = {
    "wait": "epoll_wait",
    "register": "epoll_ctl",
    "modify": "epoll_ctl",
    "unregister": "epoll_ctl",
    "accept": "accept4",
    "recv": "recvfrom",
    "send": "sendto",
    "close": "close",
    "shutdown": "shutdown",
    "getsockopt": "getsockopt",
}
"""The system call of each operation; accept and recv have the names that glibc calls."""

TRACED = sorted({*CALLS.values(), "epoll_pwait", "accept", "io_uring_enter"})
"""Counted by strace; of the calls that the loop should not make, the count must be 0."""

WAYS = [
    ("level", "eager"),
    ("level", "howto"),
    ("level", "oneshot"),
    ("edge", "eager"),
    ("edge", "howto"),
    ("edge", "once"),
    ("edge", "oneshot"),
]
NAMES = ["-".join(way) for way in WAYS]

LOOP = """
import ctypes, json, sys, threading
import socket
from epolllab.server.hosts import make_loop
from epolllab.server.options import ServerOptions
from epolllab.recording.recorder import Recorder
from epolllab.recording import Recording

# Where Yama asks for it (ptrace_scope 1), permit a tracer that is no ancestor.
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))  # PR_SET_PTRACER, _ANY
listener = socket.create_server(("127.0.0.1", 0), backlog=1_000)
listener.setblocking(False)
recorder = Recorder(200_000)
loop = make_loop(listener, ServerOptions(**json.loads(sys.argv[1])), recorder)
stopper = threading.Thread(target=lambda: (sys.stdin.readline(), loop.stop()))
print(loop._listener.sock.getsockname()[1], flush=True)
sys.stdin.readline()  # attached
stopper.start()
loop.run()
stopper.join()
print("ended", loop.error, flush=True)
sys.stdin.readline()  # detached
print(json.dumps(Recording(recorder.snapshot().rows).counts()), flush=True)
"""

SERVER = """
import json, sys
import epolllab

server = epolllab.start_server(**json.loads(sys.argv[1]))
print(server.port, flush=True)
sys.stdin.readline()
server.stop()
print(json.dumps(server.recording().counts()), flush=True)
"""


@pytest.fixture(scope="module")
def strace(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return strace's path, if it is installed and may trace."""
    (path,) = needs("strace")
    log = tmp_path_factory.mktemp("strace") / "log"
    tried = subprocess.run(
        [path, "-f", "-o", str(log), sys.executable, "-c", ""],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        missing(f"strace may not trace here: {tried.stderr.strip()}")
    return path


@contextmanager
def program(*words: str, stderr: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a program; kill it if the block raises."""
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
    ) as running:
        try:
            yield running
        except BaseException:
            running.kill()
            raise


def say(running: subprocess.Popen[str], word: str) -> None:
    """Write a line to a program's stdin."""
    assert running.stdin
    running.stdin.write(f"{word}\n")
    running.stdin.flush()


def heard(running: subprocess.Popen[str]) -> str:
    """Read a line from a program's stdout."""
    assert running.stdout
    return running.stdout.readline().strip()


def load(address: Address) -> None:
    """Send requests whole, in pieces, half-closed, reset at each stage, and send none."""
    for _ in range(20):
        assert ask(address, GET) == Hello.RESPONSE
    assert ask(address, *(bytes([byte]) for byte in GET)) == Hello.RESPONSE
    assert ask(address, GET, half_close=True) == Hello.RESPONSE
    assert ask(address, b"GET", half_close=True) == b""
    many = [connect(address) for _ in range(30)]
    for sock in many:
        sock.sendall(GET)
    for sock in many:
        with sock:
            assert read_to_end(sock) == Hello.RESPONSE
    reset(connect(address))
    for data in (b"GET", GET):
        sock = connect(address)
        sock.sendall(data)
        reset(sock)
    connect(address).close()
    # This one is served after all the others, so nothing is in progress afterwards.
    assert ask(address, GET) == Hello.RESPONSE


def expected(recorded: dict[str, int], wait: str = "epoll_wait") -> Counter[str]:
    """Return the calls in a recording, by the kernel's names."""
    counts: Counter[str] = Counter()
    for op, n in recorded.items():
        if op in CALLS:
            counts[wait if op == "wait" else CALLS[op]] += n
    return counts


def summary(table: str) -> Counter[str]:
    """Return the calls column of strace -c."""
    rows = (line.split() for line in table.splitlines())
    numbered = [row for row in rows if len(row) >= 5 and row[3].isdigit()]
    return Counter({row[-1]: int(row[3]) for row in numbered if row[-1] != "total"})


@pytest.mark.parametrize(("trigger", "lifecycle"), WAYS, ids=NAMES)
def test_counts_equal_those_of_strace_c(
    strace: str, tmp_path: Path, trigger: str, lifecycle: str
) -> None:
    """Attached while the loop runs, strace -f -c counts the calls that are recorded."""
    options = {"trigger": trigger, "lifecycle": lifecycle}
    counted, recorded = counts_of(strace, tmp_path, options)
    assert counted == expected(recorded)
    assert recorded["accept"] >= 58


@pytest.mark.parametrize("protocol", ["hello", "http"])
def test_counts_of_io_uring_equal_those_of_strace_c(
    strace: str, tmp_path: Path, protocol: str
) -> None:
    """There are few: nothing is accepted, received, sent or closed by a call."""
    options = {**options_of(*RING), "protocol": protocol}
    counted, recorded = counts_of(strace, tmp_path, options, [] if protocol == "hello" else [OLD])
    assert counted == expected(recorded, "io_uring_enter")
    assert set(counted) == {"io_uring_enter", "getsockopt", "close", "shutdown"}
    assert counted["close"] == 5  # the listener, the wakeup, and the ring with its two queues
    assert recorded["handle"] >= 50


def counts_of(
    strace: str, tmp_path: Path, options: Mapping[str, object], only: list[bytes] | None = None
) -> tuple[Counter[str], dict[str, int]]:
    """Serve a load; return what strace counted, and what was recorded."""
    table = tmp_path / "table"
    count = [strace, "-f", "-c", "-o", str(table), "-e", f"trace={','.join(TRACED)}"]
    with program(sys.executable, "-c", LOOP, json.dumps(options)) as traced:
        port = int(heard(traced))
        with program(*count, "-p", str(traced.pid), stderr=subprocess.PIPE) as tracer:
            assert tracer.stderr
            assert "attached" in tracer.stderr.readline()
            say(traced, "attached")
            address = ("127.0.0.1", port)
            for request in only or []:
                for _ in range(60):
                    assert ask(address, request).endswith(b"Hello, world!")
            if not only:
                load(address)
            say(traced, "stop")
            assert heard(traced) == "ended None"
            tracer.send_signal(signal.SIGINT)  # makes it detach and print
            tracer.communicate()
        say(traced, "detached")
        recorded = json.loads(heard(traced))
    return summary(table.read_text()), recorded


@pytest.mark.parametrize("process", [False, True], ids=["thread", "process"])
@pytest.mark.parametrize(("trigger", "lifecycle"), WAYS, ids=NAMES)
def test_counts_equal_those_of_a_whole_program(
    strace: str, tmp_path: Path, trigger: str, lifecycle: str, process: bool
) -> None:
    """Of all calls from a program's start to its end, the server's are recorded."""
    options = json.dumps({"trigger": trigger, "lifecycle": lifecycle, "process": process})
    log = tmp_path / "log"
    trace = [strace, "-f", "-o", str(log), "-e", f"trace={','.join(TRACED)}"]
    with program(*trace, sys.executable, "-c", SERVER, options) as traced:
        port = int(heard(traced))
        load(("127.0.0.1", port))
        say(traced, "stop")
        recorded = json.loads(heard(traced))
        assert traced.wait() == 0
    assert of_the_loop(log.read_text()) == expected(recorded)


def of_the_loop(log: str) -> Counter[str]:
    """Return the calls of all threads, but only the closes of the loop from its first register.

    Before that the main thread of a child process closes the files of its imports.
    """
    calls = [
        (tid, name)
        for tid, name in re.findall(r"^(\d+) +(\w+)(?=\()", log, re.MULTILINE)
        if name in TRACED
    ]
    first = next(i for i, (_, name) in enumerate(calls) if name == "epoll_ctl")
    loop = calls[first][0]
    counts = Counter(name for _, name in calls if name not in ("close", "getsockopt"))
    counts["close"] = calls[first:].count((loop, "close"))
    return counts
