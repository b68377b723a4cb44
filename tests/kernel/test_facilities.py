"""What a machine lacks: no /proc, no interest lists, no loopback, no descriptors."""

import errno
import os
import select
import socket
from pathlib import Path

import pytest

from epolllab import frames, kernel
from epolllab.events import EPOLLIN
from epolllab.kernel import proc
from epolllab.kernel.facilities import not_possible_reason

WITHOUT_ENTRIES = "pos:\t0\nflags:\t02\nmnt_id:\t13\n"


@pytest.fixture
def no_loopback(monkeypatch):
    """A network namespace whose loopback interface is down."""

    class Unreachable(socket.socket):
        def connect(self, address):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", Unreachable)


@pytest.fixture
def no_proc(monkeypatch):
    """/proc is not mounted."""
    monkeypatch.setattr(os.path, "isdir", lambda path: path != "/proc/self")
    monkeypatch.setattr(proc, "Path", lambda _, *parts: Path("/nowhere", *parts))


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (kernel.NotPossible("no such thing"), "no such thing"),
        (kernel.DescriptorLimitError(1_000, 64, 256), "1,000 descriptors"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit"),
        (OSError(errno.ENOSYS, "Function not implemented"), "refuses"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "refuses"),
        (OSError(errno.EAFNOSUPPORT, "Address family not supported"), "sockets"),
        (OSError(errno.EPIPE, "Broken pipe"), ""),
        (TimeoutError("condition not met"), ""),
        (ValueError("a fault"), ""),
    ],
)
def test_reasons(error, word):
    """An error that the machine explains has a reason, any other none."""
    reason = not_possible_reason(error)
    assert (word in reason) if word else reason == ""


def test_a_cause_is_looked_at():
    error = RuntimeError("an experiment failed")
    error.__cause__ = kernel.NotPossible("no memfd")
    assert not_possible_reason(error) == "no memfd"


@pytest.mark.usefixtures("no_loopback")
@pytest.mark.parametrize("error", [OSError(errno.ENETUNREACH, "x"), TimeoutError("x")])
def test_without_loopback_the_reason_is_that(error):
    assert "loopback" in not_possible_reason(error)


@pytest.mark.usefixtures("no_proc")
@pytest.mark.parametrize(
    "read",
    [kernel.threads, kernel.context_switches, lambda: kernel.descriptors_open(1), kernel.counters,
     lambda: kernel.is_asleep(os.getpid())],
)  # fmt: skip
def test_without_proc_nothing_is_taken_for_ended(read):
    with pytest.raises(kernel.NotPossible, match="/proc"):
        read()


def test_own_descriptors_are_counted_without_proc(request):
    """start_server(max_connections=...) and clients in threads need their number."""
    with select.epoll():
        n_open = kernel.descriptors_open()
        request.getfixturevalue("no_proc")
        assert kernel.descriptors_open() == n_open


def test_an_interest_list_without_entries_is_not_known(monkeypatch):
    """In gVisor fdinfo has no entries: that is no empty list."""
    real = proc.read_process_file

    def read(name, pid, tid=None):
        return WITHOUT_ENTRIES if name.startswith("fdinfo/") else real(name, pid, tid)

    with select.epoll() as epoll:
        assert kernel.interest_list(epoll) == []
        monkeypatch.setattr(proc, "read_process_file", read)
        with pytest.raises(kernel.NotPossible, match="not known here"):
            kernel.interest_list(epoll)


def test_a_frame_of_an_unknown_interest_list():
    """Its rows are of the program's table, and do not say that the kernel has none."""
    frame = frames.interest_list(None, {5: EPOLLIN, 4: 0})
    assert frame["fd"].tolist() == [4, 5]
    assert frame["where"].tolist() == ["not known here"] * 2
    assert frame["kernel_mask"].isna().all()
