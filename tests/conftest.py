"""What holds for every test: nothing outlives it, and a missing tool has a reason.

One job: look at this process before and after each test. Threads, child processes,
descriptors and listening ports are read from /proc, not asked of the package under test.
"""

import gc
import io
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from tqdm import tqdm

PATIENCE_S = 5.0
"""How long what is just ending may take: a killed child, a thread's last instruction."""

EXEMPT = ("notebook", "browser")
"""Marks of tests whose libraries keep threads and descriptors for the whole process."""

FONTS = (".ttf", ".ttc", ".otf")
"""matplotlib keeps the font files open that it used last."""

# Order and content are asserted, never speed: the machine may be busy.
settings.register_profile(
    "epolllab", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("epolllab")

# A shell that starts pytest in the background has it ignore SIGINT, as all of its children
# would, and then there is nothing to be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# ---- tools ------------------------------------------------------------------------------


def missing(reason: str) -> None:
    """Skip the test; where EPOLLLAB_REQUIRE_TOOLS=1 says that all must be there, fail it."""
    __tracebackhide__ = True
    if os.environ.get("EPOLLLAB_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{reason}, and EPOLLLAB_REQUIRE_TOOLS=1 asks for every tool")
    pytest.skip(reason)


def needs(*tools: str) -> list[str]:
    """Give the paths of programs that a test cannot do without; skip where one is missing.

    Debian keeps servers such as nginx in /usr/sbin, which not every user's PATH has.
    """
    __tracebackhide__ = True
    paths = [shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin") for tool in tools]
    absent = [tool for tool, path in zip(tools, paths, strict=True) if path is None]
    if absent:
        missing(f"{' and '.join(absent)} not installed here")
    return [path for path in paths if path]


@pytest.fixture(name="needs")
def _needs() -> Callable[..., list[str]]:
    """The function :func:`needs`, for a test that would rather not import it."""
    return needs


# ---- what is left -----------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _libraries_are_settled() -> None:
    """Have the threads that libraries keep for the whole process now, or never.

    pyarrow's are started here, one of each kind. tqdm's monitor, which redraws bars that
    are slow, is not started at all.
    """
    tqdm.monitor_interval = 0
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    file = io.BytesIO()
    pq.write_table(pa.table({"n": [1]}), file)
    file.seek(0)
    pq.read_table(file)
    gc.collect()


_foreign: set[str] = set()  # left by exempt tests; may go at any time


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, _libraries_are_settled: None) -> Iterator[None]:
    """Hold that threads, children, descriptors, ports and settings are what they were."""
    if sys.platform != "linux":
        yield
        return
    before = held()
    yield
    if any(request.node.get_closest_marker(mark) for mark in EXEMPT):
        gc.collect()
        _foreign.update(held() - before)
        return
    after = settled(before)
    assert not after - before, f"left behind: {sorted(after - before)}"
    gone = before - after - _foreign
    assert not gone, f"taken away, though the test had not opened it: {sorted(gone)}"


@pytest.fixture
def descriptor_limits_put_back() -> Iterator[None]:
    """Hold that the limits on descriptors are what they were; a server in a thread raises them."""
    import resource  # Linux's; tests of what other systems can do run without it

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def settled(before: set[str]) -> set[str]:
    """What is held once it is what it was, or after a patient while."""
    if (after := held()) == before:
        return after
    deadline = time.monotonic() + PATIENCE_S
    gc.collect()  # what an exception's frames still hold
    while (after := held()) - before and time.monotonic() < deadline:
        time.sleep(0.005)
    return after


def held() -> set[str]:
    """Everything this process holds that could outlive a test, each in a few words."""
    return {*_threads(), *_children(), *_descriptors(), *_ports(), *_settings()}


def _settings() -> Iterator[str]:
    yield f"processors {sorted(os.sched_getaffinity(0))}"
    yield f"garbage collector {'on' if gc.isenabled() else 'off'}"


def _threads() -> Iterator[str]:
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # ended since it was listed
            yield f"thread {task.name} {(task / 'comm').read_text().strip()}"


def _children() -> Iterator[str]:
    """Child processes, also those that have ended and were not waited for."""
    own = str(os.getpid())
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name, fields = (folder / "stat").read_text().rsplit(") ", 1)
            if fields.split()[1] == own:
                yield f"child {name})"


def _descriptors() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that the listing itself needed
            link = os.readlink(f"/proc/self/fd/{fd}")
            if not link.endswith(FONTS):
                yield f"descriptor {fd} {link}"


def _ports() -> Iterator[str]:
    """Ports at which a socket of this process listens.

    Asked of each socket, through a second descriptor of it: reading /proc/net/tcp takes
    a second where a test before has made thousands of connections.
    """
    for text in list(_descriptors()):
        _, fd, link = text.split(" ", 2)
        if link.startswith("socket:"):
            with suppress(OSError), socket.socket(fileno=os.dup(int(fd))) as sock:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    yield f"listening at {sock.getsockname()}"
