"""The check that every test is held to sees what it is meant to see."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.conftest import held, missing, needs, settled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


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
def a_child_nobody_waited_for() -> Iterator[None]:
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
        (a_child_nobody_waited_for, "child .*"),
        (a_descriptor, r"descriptor \d+ pipe:.*"),
        (a_port, r"listening at \('127.0.0.1', \d+\)"),
    ],
)
def test_what_is_open_is_seen(opened: Callable[[], AbstractContextManager[object]], seen: str):
    """Each kind of thing that could be left behind is told while it is there, and not after."""
    before = held()
    with opened():
        new = held() - before
        assert any(re.fullmatch(seen, text) for text in new), new
    assert settled(before) - before == set()


LEAKS = """
import os, pytest
from tests.conftest import _libraries_are_settled, leaves_nothing

def test_leaves(): os.dup(0)
def test_takes(): os.close(DUPLICATE)
def test_neither(): pass

DUPLICATE = os.dup(0)
"""


def test_a_test_that_leaves_or_takes_something_is_an_error(tmp_path) -> None:
    """Both are reported by name, the test's neighbours are not blamed."""
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
    assert "taken away, though the test had not opened it: ['descriptor" in done.stdout


def test_a_missing_tool_is_a_skip_or_where_all_are_asked_for_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reason names the tool both ways; tools that are there have their paths given."""
    monkeypatch.delenv("EPOLLLAB_REQUIRE_TOOLS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool not installed here"):
        needs("sh", "no-such-tool")
    monkeypatch.setenv("EPOLLLAB_REQUIRE_TOOLS", "1")
    with pytest.raises(pytest.fail.Exception, match="asks for every tool"):
        needs("no-such-tool")
    with pytest.raises(pytest.fail.Exception, match="ptrace is not permitted"):
        missing("ptrace is not permitted")
    (shell,) = needs("sh")
    assert os.access(shell, os.X_OK)
