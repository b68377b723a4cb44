"""The prepared system calls, compared with what Python's own wrappers return."""

import errno
import os
import select
import socket
import sys
import time
from contextlib import ExitStack, closing

import pytest

from epolllab import kernel
from epolllab.events import (
    EPOLLERR,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
)
from epolllab.kernel import raw

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")


def test_raw_epoll_returns_what_pythons_epoll_does(pair):
    """Count, data and mask, before and after something is ready."""
    left, right = pair
    with raw.RawEpoll() as direct, closing(select.epoll()) as epoll:
        for poller in (direct, epoll):
            poller.register(left.fileno(), EPOLLIN)
            poller.register(right.fileno(), EPOLLIN | EPOLLOUT)
        left.send(b"x")
        count = direct.wait()
        assert count == 1
        assert direct.ready(count) == epoll.poll(0) == [(right.fileno(), EPOLLIN | EPOLLOUT)]
        right.send(b"y")
        assert sorted(direct.ready(direct.call())) == sorted(epoll.poll(0))


def test_raw_epoll_can_be_edge_triggered(pair):
    """One report for one arrival, then none."""
    left, right = pair
    with raw.RawEpoll() as direct:
        direct.register(left.fileno(), EPOLLIN | EPOLLET)
        right.send(b"x")
        assert [direct.wait(), direct.wait()] == [1, 0]
        assert direct.ready(0) == []


def test_raw_epoll_returns_64_bits_of_data(pair):
    """The event has the given data instead of the number."""
    data = 0xFEDC_BA98_7654_3210
    with raw.RawEpoll() as direct:
        direct.ctl(raw.CTL_ADD, pair[0].fileno(), EPOLLOUT, data)
        assert direct.ready(direct.wait()) == [(data, EPOLLOUT)]
        (entry,) = kernel.interest_list(direct)
        assert entry.data == data


def test_raw_epoll_returns_no_more_than_its_array_holds():
    """With room for one event, two ready descriptors alternate."""
    with ExitStack() as stack:
        direct = stack.enter_context(raw.RawEpoll(max_events=1))
        numbers = []
        for sock in socket.socketpair():
            stack.enter_context(sock)
            direct.register(sock.fileno(), EPOLLOUT)
            numbers.append(sock.fileno())
        returned = [direct.ready(direct.wait())[0][0] for _ in range(2)]
        assert sorted(returned) == sorted(numbers)


def test_raw_epoll_modifies_and_unregisters(pair):
    """The kernel's interest list changes accordingly."""
    fd = pair[0].fileno()
    with raw.RawEpoll() as direct:
        direct.register(fd, EPOLLOUT)
        direct.modify(fd, EPOLLIN)
        assert [entry.mask for entry in kernel.interest_list(direct)] == [
            EPOLLIN | EPOLLERR | EPOLLHUP
        ]
        assert direct.wait() == 0
        direct.unregister(fd)
        assert kernel.interest_list(direct) == []


def test_raw_epoll_raises_the_kernels_errors(pair):
    """EEXIST, ENOENT, EINVAL and EBADF."""
    fd = pair[0].fileno()
    with raw.RawEpoll() as direct:
        direct.register(fd, EPOLLIN)
        with pytest.raises(FileExistsError, match=f"descriptor {fd}"):
            direct.register(fd, EPOLLIN)
        with pytest.raises(FileNotFoundError):
            direct.modify(pair[1].fileno(), EPOLLIN)
        with pytest.raises(OSError, match="Invalid argument"):
            direct.modify(fd, EPOLLIN | EPOLLEXCLUSIVE)
        with pytest.raises(OSError, match="Bad file descriptor"):
            direct.register(-1, EPOLLIN)


def test_raw_epoll_over_an_existing_epoll(pair):
    """It waits on the given descriptor, and leaves it open."""
    with closing(select.epoll()) as epoll:
        epoll.register(pair[0], EPOLLOUT)
        with raw.RawEpoll(epfd=epoll.fileno()) as direct:
            assert direct.wait() == 1
        assert epoll.poll(0) == [(pair[0].fileno(), EPOLLOUT)]


def test_raw_epoll_closed_is_refused():
    """Its prepared call would use a number that another file may have by now."""
    direct = raw.RawEpoll()
    direct.close()
    direct.close()
    assert direct.fileno() == -1
    with pytest.raises(OSError, match="was closed"):
        direct.call()


def test_raw_epoll_with_a_timeout_in_nanoseconds(pair):
    """epoll_pwait2 fills the same array, and ends with its timeout."""
    if not raw.has_nanosecond_wait():
        pytest.skip("this kernel has no epoll_pwait2")
    with raw.RawEpoll(timeout_ns=1_000) as direct:
        direct.register(pair[0].fileno(), EPOLLIN)
        assert direct.wait() == 0
        pair[1].send(b"x")
        assert direct.ready(direct.wait()) == [(pair[0].fileno(), EPOLLIN)]


def test_raw_epoll_without_epoll_pwait2(monkeypatch):
    """A kernel that is too old is ENOSYS before anything is opened."""
    monkeypatch.setattr(raw, "has_nanosecond_wait", lambda: False)
    with pytest.raises(OSError, match=r"Linux 5\.11") as caught:
        raw.RawEpoll(timeout_ns=5)
    assert caught.value.errno == errno.ENOSYS


@pytest.mark.parametrize(("name", "value"), [("max_events", 0), ("timeout_ns", -1)])
def test_raw_epoll_checks_its_arguments(name, value):
    """An empty array and a negative time are refused."""
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        raw.RawEpoll(**{name: value})


@pytest.mark.parametrize("raw_wait", [raw.RawPoll, raw.RawSelect])
def test_raw_poll_and_select_find_what_is_ready(pair, raw_wait):
    """The same call can be repeated, over arrays that the kernel overwrites."""
    left, right = pair
    wanted = [(left.fileno(), EPOLLIN), (right.fileno(), EPOLLIN)]
    with raw_wait(wanted) as direct:
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


@pytest.mark.parametrize(
    "make",
    [
        lambda: raw.RawEpoll(timeout_ms=1),
        lambda: raw.RawPoll([], timeout_ms=1),
        lambda: raw.RawSelect([], timeout_ms=1),
    ],
)
def test_raw_waits_end_with_their_timeout_each_time(make):
    """The timeout is restored before every wait; select's is overwritten by the kernel."""
    with make() as direct:
        start = time.monotonic_ns()
        assert [direct.wait(), direct.wait()] == [0, 0]
        assert time.monotonic_ns() - start >= 2 * 1_000_000
