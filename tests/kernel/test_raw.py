"""The prepared system calls, compared with what Python's own wrappers return."""

import errno
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from epolllab import kernel
from epolllab.events import EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from epolllab.kernel import raw

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")


@pytest.fixture
def epoll() -> Iterator[select.epoll]:
    """An empty epoll instance."""
    with closing(select.epoll()) as made:
        yield made


def fds(events: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Number and mask of events; CPython registers only the lower 32 bits of the data."""
    return sorted((data & 0xFFFF_FFFF, mask) for data, mask in events)


@pytest.mark.parametrize("timeout", [{}, {"timeout_ns": 1_000}])
def test_raw_epoll_returns_what_pythons_epoll_does(pair, epoll, timeout):
    """Count, data and mask, before and after something is ready, with either system call."""
    if timeout and not raw.has_nanosecond_wait():
        pytest.skip("this kernel has no epoll_pwait2")
    left, right = pair
    direct = raw.RawEpoll(epoll, **timeout)
    epoll.register(left, EPOLLIN)
    epoll.register(right, EPOLLIN)
    assert direct.wait() == 0
    left.send(b"x")
    count = direct.wait()
    assert count == 1
    assert fds(direct.ready(count)) == epoll.poll(0) == [(right.fileno(), EPOLLIN)]
    right.send(b"y")
    assert fds(direct.ready(direct.call())) == sorted(epoll.poll(0))


def test_raw_epoll_returns_no_more_than_its_array_holds(pair, epoll):
    """With room for one event, two ready descriptors alternate; edges are reported once."""
    for sock in pair:
        epoll.register(sock, EPOLLOUT | EPOLLET)
    direct = raw.RawEpoll(epoll.fileno(), 1)
    returned = [event for _ in range(3) for event in fds(direct.ready(direct.wait()))]
    assert sorted(returned) == sorted((sock.fileno(), EPOLLOUT) for sock in pair)


def test_raw_epoll_raises_the_kernels_error(pair):
    """A descriptor that is no epoll instance is EINVAL."""
    with pytest.raises(OSError, match="epoll_wait: Invalid argument"):
        raw.RawEpoll(pair[0]).wait()


def test_raw_epoll_without_epoll_pwait2(monkeypatch):
    """A kernel that is too old is ENOSYS."""
    monkeypatch.setattr(raw, "has_nanosecond_wait", lambda: False)
    with pytest.raises(OSError, match=r"^\[.*timeout_ns .*Linux 5\.11") as caught:
        raw.RawEpoll(0, timeout_ns=5)
    assert caught.value.errno == errno.ENOSYS


@pytest.mark.parametrize(("name", "value"), [("max_events", 0), ("timeout_ns", -1)])
def test_raw_epoll_checks_its_arguments(name, value):
    """An empty array and a negative time are refused."""
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        raw.RawEpoll(0, **{name: value})


@pytest.mark.parametrize("raw_wait", [raw.RawPoll, raw.RawSelect])
def test_raw_poll_and_select_find_what_is_ready(pair, raw_wait):
    """The same call can be repeated, over arrays that the kernel overwrites."""
    left, right = pair
    wanted = [(left.fileno(), EPOLLIN), (right.fileno(), EPOLLIN)]
    direct = raw_wait(wanted)
    assert direct.ready(direct.wait()) == []
    left.send(b"x")
    assert direct.ready(direct.wait()) == [(right.fileno(), EPOLLIN)]
    right.send(b"x")
    direct.prepare()
    count = direct.check(direct.call())
    assert count == 2
    assert sorted(direct.ready(count)) == sorted(wanted)


def test_raw_poll_reports_a_hang_up(pair):
    """HUP is reported although the interest is only IN."""
    left, right = pair
    right.shutdown(socket.SHUT_WR)
    right.close()
    direct = raw.RawPoll([(left.fileno(), EPOLLIN)])
    assert direct.ready(direct.wait()) == [(left.fileno(), EPOLLIN | EPOLLHUP)]


def test_raw_poll_takes_rdhup_but_no_epoll_flag(pair):
    """A mask with more than 15 bits is refused with its names."""
    fd = pair[0].fileno()
    pair[1].shutdown(socket.SHUT_WR)
    direct = raw.RawPoll([(fd, EPOLLRDHUP)])
    assert direct.ready(direct.wait()) == [(fd, EPOLLRDHUP)]
    with pytest.raises(ValueError, match=r"^interests.*IN\|ET"):
        raw.RawPoll([(fd, EPOLLIN | EPOLLET)])


def test_raw_select_counts_bits(pair):
    """A descriptor both readable and writable counts twice and is one row."""
    left, right = pair
    right.send(b"x")
    direct = raw.RawSelect([(left.fileno(), EPOLLIN | EPOLLOUT | EPOLLPRI)])
    count = direct.wait()
    assert count == 2
    assert direct.ready(count) == [(left.fileno(), EPOLLIN | EPOLLOUT)]


def test_raw_select_goes_beyond_1024(pair):
    """A descriptor that Python's select refuses is found."""
    high = 2077
    left, right = pair
    with kernel.raise_descriptor_limit(high + 1):
        os.dup2(left.fileno(), high)
        try:
            with pytest.raises(ValueError, match="out of range"):
                select.select([high], [], [], 0)
            direct = raw.RawSelect([(high, EPOLLIN), (right.fileno(), EPOLLIN)])
            assert direct.wait() == 0
            right.send(b"x")
            assert direct.ready(direct.wait()) == [(high, EPOLLIN)]
        finally:
            os.close(high)


def test_raw_select_raises_for_a_closed_descriptor():
    """EBADF, as for Python's select."""
    reader, writer = os.pipe()
    os.close(writer)
    os.close(reader)
    direct = raw.RawSelect([(reader, EPOLLIN)])
    with pytest.raises(OSError, match="select: Bad file descriptor"):
        direct.wait()


@pytest.mark.parametrize("interest", [(-1, EPOLLIN), (0, 0), (0, EPOLLET | EPOLLIN)])
def test_raw_select_checks_its_interests(interest):
    """A negative descriptor, no interest, and a bit that select does not have."""
    with pytest.raises(ValueError, match=r"^interests\b.*select"):
        raw.RawSelect([interest])


def test_raw_waits_end_with_their_timeout_each_time(epoll):
    """The timeout is restored before every wait; select's is overwritten by the kernel."""
    for direct in (
        raw.RawEpoll(epoll, timeout_ms=1),
        raw.RawPoll([], timeout_ms=1),
        raw.RawSelect([], timeout_ms=1),
    ):
        start = time.monotonic_ns()
        assert [direct.wait(), direct.wait()] == [0, 0]
        assert time.monotonic_ns() - start >= 2 * 1_000_000
