"""What holds for every test: it has a layer, it leaves nothing behind, missing tools skip.

Threads, child processes, descriptors and listening ports are read from /proc before and
after each test, and not through the package under test.
"""

import gc
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from tqdm import tqdm

TESTS = Path(__file__).parent

NAMES = ("unit", "kernel", "threads", "processes", "notebook", "browser")
"""The layers; pyproject.toml describes them."""

LAYERS = {
    "analysis": "unit",
    "analysis/test_diagnosis.py": "processes",
    "browser": "browser",
    "clients": "processes",
    "clients/test_response.py": "unit",
    "conformance": "processes",
    "experiments": "processes",
    "external": "processes",
    "external/test_strace.py": "unit",
    "experiments/test_phenomena.py": "kernel",
    "experiments/test_registry.py": "kernel",
    "experiments/test_scaling.py": "kernel",
    "frames": "unit",
    "kernel": "kernel",
    "notebook": "unit",
    "notebooks": "unit",
    "package": "unit",
    "package/test_command.py": "processes",
    "package/test_conftest.py": "processes",
    "package/test_make_reference.py": "processes",
    "package/test_workers.py": "processes",
    "plots": "unit",
    "recording": "unit",
    "recording/test_strace.py": "processes",
    "recording/test_streaming.py": "processes",
    "server": "threads",
    "server/test_ends.py": "processes",
    "server/test_http.py": "unit",
    "server/test_record_to.py": "processes",
    "server/test_descriptors.py": "processes",
    "server/test_start.py": "processes",
    "server/test_protocols.py": "unit",
    "widgets": "threads",
    "widgets/test_inputs.py": "kernel",
}
"""Layer of each folder, and of files that differ from their folder.

A test that differs from its file has the marker of its layer as a decorator.
"""

PATIENCE_S = 5.0
"""How long to wait for what is ending: a killed child, a thread's last instruction."""

EXEMPT = ("notebook", "browser")
"""Layers whose libraries keep threads and descriptors for the whole process."""

FONTS = (".ttf", ".ttc", ".otf")
"""matplotlib keeps the font files open that it used last."""

# No deadline: tests assert order and content, never speed.
settings.register_profile(
    "epolllab", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("epolllab")

# A shell that starts pytest in the background makes it and its children ignore SIGINT,
# which tests of interrupts need.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And nohup makes them ignore SIGHUP.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# ---- layers -----------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder with its layer."""
    for item in items:
        if item.path.is_relative_to(TESTS) and not layers(item):
            item.add_marker(layer_of_file(item.path.relative_to(TESTS)))


def layer_of_file(path: Path) -> str:
    """Look up a file's layer, or its folder's."""
    layer = LAYERS.get(str(path)) or LAYERS.get(str(path.parent))
    if layer is None:
        raise pytest.UsageError(f"tests/{path.parent} has no layer; add it to tests/conftest.py")
    return layer


def layers(item: pytest.Item) -> list[str]:
    """List the different layers that a test is marked with."""
    return list(dict.fromkeys(mark.name for mark in item.iter_markers() if mark.name in NAMES))


# ---- tools ------------------------------------------------------------------------------


def missing(reason: str) -> None:
    """Skip the test, or fail it if EPOLLLAB_REQUIRE_TOOLS=1."""
    __tracebackhide__ = True
    if os.environ.get("EPOLLLAB_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{reason}, and EPOLLLAB_REQUIRE_TOOLS=1 requires all tools")
    pytest.skip(reason)


def needs(*tools: str) -> list[str]:
    """Return the paths of programs; skip the test if one is not installed.

    Debian keeps servers such as nginx in /usr/sbin, which is not on every user's PATH.
    """
    __tracebackhide__ = True
    paths = [shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin") for tool in tools]
    absent = [tool for tool, path in zip(tools, paths, strict=True) if path is None]
    if absent:
        missing(f"{' and '.join(absent)} not installed")
    return [path for path in paths if path]


@pytest.fixture(name="needs")
def _needs() -> Callable[..., list[str]]:
    """The function :func:`needs`, for tests that do not import it."""
    return needs


# ---- what a test leaves behind ----------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _libraries_are_settled() -> None:
    """Start the threads that libraries keep for the whole process, or prevent them.

    pyarrow's are started here, one of each kind. tqdm's monitor, which redraws slow bars,
    is switched off.
    """
    tqdm.monitor_interval = 0
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    file = io.BytesIO()
    pq.write_table(pa.table({"n": [1]}), file)
    file.seek(0)
    pq.read_table(file)
    gc.collect()


_foreign: set[str] = set()  # left by exempt tests; may disappear at any time


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, _libraries_are_settled: None) -> Iterator[None]:
    """Check that threads, children, descriptors, ports and settings are as before the test."""
    if sys.platform != "linux":
        yield
        return
    before = held()
    yield
    if any(request.node.get_closest_marker(layer) for layer in EXEMPT):
        gc.collect()
        _foreign.update(held() - before)
        return
    after = settled(before)
    assert not after - before, f"left behind: {sorted(after - before)}"
    # A thread may end late: a library's, or one that a test before this one did not wait for.
    gone = {one for one in before - after - _foreign if not one.startswith("thread ")}
    assert not gone, f"closed, but not opened by the test: {sorted(gone)}"


@pytest.fixture(autouse=True)
def _no_open_figures() -> Iterator[None]:
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(autouse=True)
def _unit_only_computes(request: pytest.FixtureRequest, leaves_nothing: None) -> Iterator[None]:
    """Fail a test of layer unit that creates a socket or starts a process."""
    with pytest.MonkeyPatch.context() as patch:
        if "unit" in layers(request.node):
            patch.setattr(socket.socket, "__init__", _refuse)
            patch.setattr(subprocess.Popen, "__init__", _refuse)
        yield


def _refuse(self: object, *_: Any, **__: Any) -> None:
    raise AssertionError(f"a test of layer 'unit' creates a {type(self).__name__}")


@pytest.fixture
def descriptor_limits_put_back() -> Iterator[None]:
    """Check that the descriptor limits, which a server in a thread raises, are restored."""
    import resource  # not available on every system where some tests can run

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def settled(before: set[str]) -> set[str]:
    """Return what is held once it is the same as before, or after PATIENCE_S."""
    if (after := held()) == before:
        return after
    deadline = time.monotonic() + PATIENCE_S
    gc.collect()  # frees what the frames of an exception hold
    while (after := held()) - before and time.monotonic() < deadline:
        time.sleep(0.005)
    return after


def held() -> set[str]:
    """Describe everything this process holds that could outlive a test."""
    return {*_threads(), *_children(), *_descriptors(), *_ports(), *_settings()}


def _settings() -> Iterator[str]:
    yield f"processors {sorted(os.sched_getaffinity(0))}"
    yield f"garbage collector {'on' if gc.isenabled() else 'off'}"


def _threads() -> Iterator[str]:
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # ended since it was listed
            yield f"thread {task.name} {(task / 'comm').read_text().strip()}"


def _children() -> Iterator[str]:
    """Child processes, including zombies."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return  # there are none, which is much faster than to read all of /proc
    own = str(os.getpid())
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name, fields = (folder / "stat").read_text().rsplit(") ", 1)
            if fields.split()[1] == own:
                yield f"child {name})"


def _descriptors() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of the listing itself
            link = os.readlink(f"/proc/self/fd/{fd}")
            if not link.endswith(FONTS):
                yield f"descriptor {fd} {link}"


def _ports() -> Iterator[str]:
    """Addresses of listening sockets, from each socket through a duplicate descriptor.

    /proc/net/tcp takes a second to read after a test that made thousands of connections.
    """
    for text in list(_descriptors()):
        _, fd, link = text.split(" ", 2)
        if link.startswith("socket:"):
            with suppress(OSError), socket.socket(fileno=os.dup(int(fd))) as sock:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    yield f"listening at {sock.getsockname()}"
