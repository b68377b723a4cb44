"""tests/conftest.py: every test has a layer, and what a test leaves behind is found."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.conftest import (
    LAYERS,
    NAMES,
    TESTS,
    held,
    layer_of_file,
    layers,
    missing,
    needs,
    settled,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_every_test_has_one_layer(request: pytest.FixtureRequest) -> None:
    wrong = {item.nodeid: layers(item) for item in request.session.items if len(layers(item)) != 1}
    assert wrong == {}


def test_every_file_has_a_layer() -> None:
    for path in TESTS.rglob("test_*.py"):
        assert layer_of_file(path.relative_to(TESTS)) in NAMES
    assert [path for path in LAYERS if not (TESTS / path).exists()] == []


@pytest.mark.unit
@pytest.mark.parametrize(
    ("create", "name"), [(socket.socket, "socket"), (lambda: subprocess.Popen("true"), "Popen")]
)
def test_a_unit_test_creates_no_socket_or_process(create: Callable[[], object], name: str) -> None:
    with pytest.raises(AssertionError, match=f"layer 'unit' creates a {name}"):
        create()


@contextmanager
def a_thread() -> Iterator[None]:
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait)
    thread.start()
    yield
    ends.set()
    thread.join()


@contextmanager
def a_child() -> Iterator[None]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield
    child.communicate()


@contextmanager
def a_zombie() -> Iterator[None]:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    yield
    child.wait()


@contextmanager
def a_descriptor() -> Iterator[None]:
    reader, writer = os.pipe()
    os.close(reader)
    yield
    os.close(writer)


def a_port() -> AbstractContextManager[socket.socket]:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("opened", "seen"),
    [
        (a_thread, "thread .*"),
        (a_child, "child .*"),
        (a_zombie, "child .*"),
        (a_descriptor, r"descriptor \d+ pipe:.*"),
        (a_port, r"listening at \('127.0.0.1', \d+\)"),
    ],
)
def test_what_is_open_is_seen(opened: Callable[[], AbstractContextManager[object]], seen: str):
    """Everything that could be left behind is listed while it exists, and not after."""
    before = held()
    with opened():
        new = held() - before
        assert any(re.fullmatch(seen, text) for text in new), new
    assert settled(before) - before == set()


LEAKS = """
import os, pytest
from tests.conftest import _libraries_are_settled, leaves_nothing

def test_leaves(): os.dup(0)
def test_closes(): os.close(DUPLICATE)
def test_neither(): pass

DUPLICATE = os.dup(0)
"""


def test_a_test_that_leaves_or_closes_something_is_an_error(tmp_path) -> None:
    """Both are named, and the test that runs between them passes."""
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "-q",
         "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root, "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert "3 passed, 2 errors" in done.stdout, done.stdout + done.stderr
    assert "left behind: ['descriptor" in done.stdout
    assert "closed, but not opened by the test: ['descriptor" in done.stdout


def test_a_missing_tool_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names the tool; EPOLLLAB_REQUIRE_TOOLS=1 makes it a failure."""
    monkeypatch.delenv("EPOLLLAB_REQUIRE_TOOLS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool"):
        needs("sh", "no-such-tool")
    monkeypatch.setenv("EPOLLLAB_REQUIRE_TOOLS", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool"):
        needs("no-such-tool")
    with pytest.raises(pytest.fail.Exception, match="ptrace"):
        missing("ptrace is not permitted")
    (shell,) = needs("sh")
    assert os.access(shell, os.X_OK)
