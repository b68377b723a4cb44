"""One contract over all pollers, and what only some of them do."""

import errno
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, nullcontext, suppress

import pytest

from epolllab import kernel
from epolllab.events import (
    EPOLLERR,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
)
from epolllab.kernel.pollers import (
    FD_SETSIZE,
    POLLERS,
    EpollPoller,
    Poller,
    SelectPoller,
    make_poller,
)
from tests.conftest import missing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll needs Linux")

Pair = tuple[socket.socket, socket.socket]

ALL = {
    "epoll-level": ("epoll", {}),
    "epoll-edge": ("epoll", {"edge": True}),
    "epoll-oneshot": ("epoll", {"oneshot": True}),
    "epoll-edge-oneshot": ("epoll", {"edge": True, "oneshot": True}),
    "poll": ("poll", {}),
    "select": ("select", {}),
}
LEVEL = ["epoll-level", "poll", "select"]
EDGE = ["epoll-edge", "epoll-edge-oneshot"]
ONESHOT = ["epoll-oneshot", "epoll-edge-oneshot"]
EPOLL = [name for name in ALL if name.startswith("epoll")]


@pytest.fixture(params=ALL)
def poller(request: pytest.FixtureRequest) -> Iterator[Poller]:
    """Each poller in turn, or those that a test chooses with :func:`only`."""
    name, flags = ALL[request.param]
    made = make_poller(name, **flags)
    yield made
    made.close()


def only(*names: str) -> pytest.MarkDecorator:
    """Run with these pollers instead of all."""
    return pytest.mark.parametrize("poller", names, indirect=True)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a stream connection over loopback, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


def soon(poller: Poller, fd: int, wanted: int) -> int:
    """Wait until the bits of one descriptor were reported; return all bits that were.

    Bytes on loopback have arrived when send returns, but a FIN or RST may take a moment.
    An edge is reported once, so masks are combined.
    """
    deadline = time.monotonic() + 10
    seen_mask = 0
    while seen_mask & wanted != wanted:
        assert time.monotonic() < deadline, f"{wanted:#x} was not reported, but {seen_mask:#x}"
        seen_mask |= dict(poller.wait(0.05, 10)).get(fd, 0)
        if seen_mask & wanted != wanted:
            poller.modify(fd, EPOLLIN)  # re-arms one-shot interest
    return seen_mask


# ---- one contract -----------------------------------------------------------------------


def test_a_wait_lasts_as_long_as_its_timeout(poller: Poller, pair: Pair) -> None:
    """If nothing is registered or ready a wait lasts its timeout, in seconds; 0 polls."""
    assert poller.wait(0, 10) == []
    poller.register(pair[0].fileno(), EPOLLIN)
    start = time.monotonic()
    assert poller.wait(0.03, 10) == []
    assert time.monotonic() - start >= 0.03


def test_a_wait_without_a_timeout_ends_with_an_event(poller: Poller, pair: Pair) -> None:
    """None waits forever; a send from another thread ends it."""
    poller.register(pair[0].fileno(), EPOLLIN)
    thread = threading.Thread(target=pair[1].send, args=(b"x",))
    thread.start()
    try:
        assert poller.wait(None, 10) == [(pair[0].fileno(), EPOLLIN)]
    finally:
        thread.join()


def test_only_the_readable_descriptor_is_reported(poller: Poller, pair: Pair) -> None:
    """A descriptor with bytes to read is IN, and the other end is not reported."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN)
    poller.register(far.fileno(), EPOLLIN)
    assert poller.wait(0, 10) == []
    far.send(b"x")
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]


def test_readable_and_writable_are_one_mask(poller: Poller, pair: Pair) -> None:
    """An idle connection is OUT; one with bytes is one pair with both bits, also from select."""
    near, far = pair
    poller.register(near.fileno(), EPOLLOUT)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLOUT)]
    far.send(b"x")
    poller.modify(near.fileno(), EPOLLIN | EPOLLOUT)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN | EPOLLOUT)]


def test_a_full_buffer_is_not_writable(poller: Poller, pair: Pair) -> None:
    """OUT is not reported while the buffer is full, and is again once the peer has read."""
    near, far = pair
    with suppress(BlockingIOError):
        while near.send(bytes(1 << 16)):
            pass
    poller.register(near.fileno(), EPOLLOUT)
    assert poller.wait(0, 10) == []
    deadline = time.monotonic() + 10
    while not (ready := poller.wait(0.01, 10)):
        assert time.monotonic() < deadline
        try:
            far.recv(1 << 20)
        except BlockingIOError:
            continue
    assert ready == [(near.fileno(), EPOLLOUT)]


def test_modify_replaces_the_interest(poller: Poller, pair: Pair) -> None:
    """After a modify only the new interest is reported; an interest of 0 reports nothing."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN)
    far.send(b"x")
    poller.modify(near.fileno(), EPOLLOUT)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLOUT)]
    poller.modify(near.fileno(), 0)
    assert poller.wait(0, 10) == []
    poller.modify(near.fileno(), EPOLLIN)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]


def test_unregister_stops_reports(poller: Poller, pair: Pair) -> None:
    """An unregistered descriptor is not reported, and may be registered again."""
    near, far = pair
    far.send(b"x")
    poller.register(near.fileno(), EPOLLIN)
    poller.unregister(near.fileno())
    assert poller.wait(0, 10) == []
    poller.register(near.fileno(), EPOLLIN)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]


def test_misuse_raises_the_same_errors_everywhere(poller: Poller, pair: Pair) -> None:
    """Registered twice is EEXIST; not registered is ENOENT."""
    fd = pair[0].fileno()
    for act in (lambda: poller.modify(fd, EPOLLIN), lambda: poller.unregister(fd)):
        with pytest.raises(FileNotFoundError):
            act()
    poller.register(fd, EPOLLIN)
    with pytest.raises(FileExistsError):
        poller.register(fd, EPOLLOUT)
    pair[1].send(b"x")
    assert poller.wait(0, 10) == [(fd, EPOLLIN)], "the refused register changed the interest"


@pytest.mark.parametrize("reset", [False, True])
def test_an_ended_connection_is_readable(poller: Poller, pair: Pair, reset: bool) -> None:
    """A closed or reset connection is IN for every poller; recv shows which it was."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN)
    if reset:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    soon(poller, near.fileno(), EPOLLIN)
    with pytest.raises(ConnectionResetError) if reset else nullcontext():
        assert near.recv(10) == b""


def test_urgent_data_is_reported(poller: Poller, pair: Pair) -> None:
    """TCP's out-of-band byte is PRI."""
    near, far = pair
    poller.register(near.fileno(), EPOLLPRI)
    far.send(b"!", socket.MSG_OOB)
    assert poller.wait(1, 10) == [(near.fileno(), EPOLLPRI)]


def test_a_forgotten_descriptor_is_not_waited_for(poller: Poller, pair: Pair) -> None:
    """The loop forgets what it closes, watched or not; the number can be registered again."""
    near, far = pair
    fd = near.fileno()
    poller.forget(fd)
    poller.register(fd, EPOLLIN)
    poller.forget(fd)
    near.close()
    assert poller.wait(0, 10) == []
    with socket.socket(fileno=os.dup2(far.fileno(), fd)):
        poller.register(fd, EPOLLOUT)
        assert fd in dict(poller.wait(0, 10))
        poller.unregister(fd)


def readable(stack: ExitStack, poller: Poller, n: int) -> list[int]:
    """Open and register `n` sockets with a byte to read."""
    fds = []
    for _ in range(n):
        near, far = (stack.enter_context(end) for end in socket.socketpair())
        poller.register(near.fileno(), EPOLLIN)
        far.send(b"x")
        fds.append(near.fileno())
    return fds


def test_every_ready_descriptor_is_reported_once(poller: Poller) -> None:
    """Fifty ready descriptors are fifty pairs."""
    with ExitStack() as stack:
        fds = readable(stack, poller, 50)
        assert sorted(poller.wait(0, 100)) == [(fd, EPOLLIN) for fd in sorted(fds)]


def test_closing_frees_the_pollers_own_descriptor(poller: Poller) -> None:
    """close() closes one descriptor of an epoll and none of the others; twice is once."""
    before = kernel.descriptors_open()
    has_own = poller.fileno() >= 0
    for _ in range(2):
        poller.close()
        assert before - kernel.descriptors_open() == has_own


# ---- when it reports --------------------------------------------------------------------


@only(*LEVEL)
def test_level_reports_a_condition_at_every_wait(poller: Poller, pair: Pair) -> None:
    """Unread bytes are reported until they are read."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN)
    far.send(b"xy")
    for _ in range(3):
        assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]
    near.recv(1)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]
    near.recv(1)
    assert poller.wait(0, 10) == []


@only("epoll-edge")
def test_edge_reports_arrivals(poller: Poller, pair: Pair) -> None:
    """Unread bytes are reported once, and more bytes once more, read or not."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN)
    for _ in range(2):
        far.send(b"x")
        assert poller.wait(1, 10) == [(near.fileno(), EPOLLIN)]
        assert poller.wait(0, 10) == []
    poller.modify(near.fileno(), EPOLLIN)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)], "a modify is a new edge"


@only(*ONESHOT)
def test_one_shot_is_disarmed_by_its_report(poller: Poller, pair: Pair) -> None:
    """After one report there is no other until a modify, however much arrives."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN | EPOLLOUT)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLOUT)]
    far.send(b"x")
    assert poller.wait(0, 10) == []
    poller.modify(near.fileno(), EPOLLIN)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]
    assert poller.wait(0, 10) == []


@only("epoll-edge", "epoll-oneshot", "epoll-edge-oneshot")
def test_the_interest_list_has_the_flags(poller: Poller, pair: Pair) -> None:
    """The kernel prints the interest with the poller's flags added."""
    fd = pair[0].fileno()
    for act, mask in ((poller.register, EPOLLIN), (poller.modify, EPOLLOUT)):
        act(fd, mask)
        (entry,) = kernel.interest_list(poller.fileno())
        # The kernel always adds ERR and HUP.
        assert entry.mask & ~(EPOLLERR | EPOLLHUP) == mask | poller.flags


def test_exempt_descriptors_stay_level_triggered(pair: Pair) -> None:
    """The loop's wake-up is reported while it is readable, and is never disarmed."""
    near, far = pair
    exempt = frozenset([near.fileno()])
    with closing(make_poller("epoll", edge=True, oneshot=True, exempt=exempt)) as poller:
        poller.register(near.fileno(), EPOLLIN)
        far.send(b"x")
        for _ in range(3):
            assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]
        poller.modify(near.fileno(), EPOLLOUT | EPOLLIN)
        for _ in range(2):
            assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN | EPOLLOUT)]


def test_exclusive_interest_cannot_be_modified() -> None:
    """EPOLLEXCLUSIVE is set by a register and shows in the interest list; a modify is EINVAL."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        closing(make_poller("epoll")) as first,
        closing(make_poller("epoll")) as second,
    ):
        listener.setblocking(False)
        for poller in (first, second):
            poller.register(listener.fileno(), EPOLLIN | EPOLLEXCLUSIVE)
            (entry,) = kernel.interest_list(poller.fileno())
            assert entry.mask & EPOLLEXCLUSIVE
        with pytest.raises(OSError, match="Invalid argument"):
            first.modify(listener.fileno(), EPOLLIN)
        with socket.create_connection(listener.getsockname()):
            # No waiter sleeps here, so both find it ready; only one sleeper would be woken.
            assert first.wait(1, 1) == second.wait(1, 1) == [(listener.fileno(), EPOLLIN)]


# ---- masks that only some report --------------------------------------------------------


@only("epoll-level", "epoll-edge", "poll", "select")
@pytest.mark.parametrize("interest", [EPOLLRDHUP, EPOLLIN | EPOLLRDHUP])
def test_a_half_close_is_rdhup(poller: Poller, pair: Pair, interest: int) -> None:
    """A peer's half-close is RDHUP if it was requested; select has only IN for it."""
    near, far = pair
    poller.register(near.fileno(), interest)
    far.shutdown(socket.SHUT_WR)
    mask = EPOLLIN if isinstance(poller, SelectPoller) else interest
    assert poller.wait(5, 10) == [(near.fileno(), mask)]


@only("epoll-level", "epoll-edge", "poll")
def test_hup_needs_no_interest(poller: Poller, pair: Pair) -> None:
    """An interest of 0 still reports HUP once both directions are shut."""
    near, _ = pair
    poller.register(near.fileno(), EPOLLIN)
    poller.modify(near.fileno(), 0)
    near.shutdown(socket.SHUT_RDWR)
    ((fd, mask),) = poller.wait(5, 10)
    assert fd == near.fileno()
    assert mask & EPOLLHUP


# ---- closed descriptors and bounds ------------------------------------------------------


def test_a_closed_number(poller: Poller) -> None:
    """It is EBADF at register for epoll, at the wait for select; poll reports NVAL."""
    fd = os.dup(0)
    os.close(fd)
    if isinstance(poller, EpollPoller):
        with pytest.raises(OSError, match="Bad file descriptor"):
            poller.register(fd, EPOLLIN)
        return
    poller.register(fd, EPOLLIN)
    if isinstance(poller, SelectPoller):
        with pytest.raises(OSError, match="Bad file descriptor"):
            poller.wait(0, 10)
    else:
        assert poller.wait(0, 10) == [(fd, select.POLLNVAL)]


@only(*EPOLL)
def test_epoll_forgets_a_closed_description(poller: Poller, pair: Pair) -> None:
    """When its last number closes, the kernel removes it from the list."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN)
    far.send(b"x")
    near.close()
    assert poller.wait(0, 10) == []
    assert kernel.interest_list(poller.fileno()) == []


@only("epoll-level")
def test_epoll_reports_a_closed_number_with_a_duplicate(poller: Poller, pair: Pair) -> None:
    """While a duplicate exists the old number is still reported, and cannot be unregistered."""
    near, far = pair
    fd = near.fileno()
    with socket.socket(fileno=os.dup(fd)):
        poller.register(fd, EPOLLIN)
        far.send(b"x")
        near.close()
        assert poller.wait(0, 10) == [(fd, EPOLLIN)]
        with pytest.raises(OSError, match="Bad file descriptor"):
            poller.unregister(fd)
    assert poller.wait(0, 10) == []


@only("epoll-level")
def test_epoll_refuses_a_regular_file(poller: Poller) -> None:
    """A file is always ready; epoll_ctl fails with EPERM."""
    with open(__file__) as file, pytest.raises(PermissionError):
        poller.register(file.fileno(), EPOLLIN)


@only("epoll-level")
def test_max_events_limits_a_batch_and_rotates(poller: Poller) -> None:
    """A wait returns at most that many; the others come first the next time."""
    with ExitStack() as stack:
        fds = readable(stack, poller, 5)
        seen = [fd for _ in range(3) for fd, _ in poller.wait(0, 2)]
    assert len(seen) == 6
    assert set(seen) == set(fds)


@pytest.mark.parametrize("fd", [FD_SETSIZE, FD_SETSIZE + 5000])
@only("select")
def test_select_ends_at_1024(poller: Poller, fd: int) -> None:
    """A number beyond the bitmap is EINVAL at register, with what to do instead."""
    with pytest.raises(OSError, match=rf"descriptor {fd}: .* 1023") as caught:
        poller.register(fd, EPOLLIN)
    assert caught.value.errno == errno.EINVAL
    assert 'poller="epoll"' in str(caught.value)
    assert poller.wait(0, 10) == []


@only("select", "poll", "epoll-level")
def test_the_largest_number_that_select_takes(poller: Poller, pair: Pair) -> None:
    """Descriptor 1023 works everywhere; 1024 works except for select."""
    limits = kernel.descriptor_limits()
    if limits.hard <= FD_SETSIZE:
        pytest.skip(f"the hard limit on descriptors is {limits.hard}")
    pair[1].send(b"x")
    numbers = (FD_SETSIZE - 1, FD_SETSIZE)[: 1 if isinstance(poller, SelectPoller) else 2]
    with kernel.raise_descriptor_limit(FD_SETSIZE + 1), ExitStack() as stack:
        for fd in numbers:
            stack.enter_context(socket.socket(fileno=os.dup2(pair[0].fileno(), fd)))
            poller.register(fd, EPOLLIN)
        assert sorted(poller.wait(0, 10)) == [(fd, EPOLLIN) for fd in numbers]
        for fd in numbers:
            poller.unregister(fd)


# ---- making one -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flags", "added"),
    [*((name, {}, 0) for name in POLLERS),
     ("epoll", {"edge": True, "oneshot": True}, EPOLLET | EPOLLONESHOT)],
)  # fmt: skip
def test_flags_are_the_bits_added_to_every_interest(
    name: str, flags: dict[str, bool], added: int
) -> None:
    """No poller adds any by default."""
    with closing(make_poller(name, **flags)) as poller:
        assert poller.flags == added


@pytest.mark.parametrize("flag", ["edge", "oneshot"])
@pytest.mark.parametrize("name", ["poll", "select"])
def test_only_epoll_has_flags(name: str, flag: str) -> None:
    """The error names the flag and the poller."""
    with pytest.raises(ValueError, match=f"^{flag}=True .*{name}"):
        make_poller(name, **{flag: True})


def test_an_unknown_name_is_refused() -> None:
    """The message has every poller's name."""
    with pytest.raises(ValueError, match=r"^name\b.*'epoll', 'poll', 'select'"):
        make_poller("kqueue")


def test_poll_works_without_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another system only epoll is refused."""
    monkeypatch.delattr(select, "epoll")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="epoll needs Linux"):
        make_poller("epoll")
    assert make_poller("poll").wait(0, 1) == []


# ---- io_uring ---------------------------------------------------------------------------


@pytest.fixture
def ring() -> Iterator[Poller]:
    """A poller that makes multishot polls."""
    try:
        made = make_poller("io_uring")
    except kernel.NotPossible as error:
        missing(str(error))
    with closing(made):
        yield made


def test_multishot_poll_reports_like_an_edge(ring: Poller, pair: Pair) -> None:
    """What arrives is reported once, and again when more arrives."""
    near, far = pair
    ring.register(near.fileno(), EPOLLIN)
    assert ring.wait(0, 10) == []
    far.send(b"a")
    assert ring.wait(1, 10) == [(near.fileno(), EPOLLIN)]
    assert ring.wait(0, 10) == []
    far.send(b"b")
    assert ring.wait(1, 10) == [(near.fileno(), EPOLLIN)]


def test_multishot_poll_of_many(ring: Poller) -> None:
    """More than one call of the kernel brings; a wait for fewer leaves the rest."""
    with ExitStack() as stack:
        fds = [os.eventfd(1) for _ in range(300)]
        for fd in fds:
            stack.callback(os.close, fd)
            ring.register(fd, EPOLLIN)
        assert len(ring.wait(0, 250)) == 250
        assert len(ring.wait(0, 250)) == 50


def test_multishot_poll_is_changed_and_forgotten(ring: Poller, pair: Pair) -> None:
    near, far = pair
    fd = near.fileno()
    ring.register(fd, EPOLLIN)
    with pytest.raises(FileExistsError):
        ring.register(fd, EPOLLIN)
    ring.modify(fd, EPOLLOUT)
    assert ring.wait(0, 10) == [(fd, EPOLLOUT)]
    ring.unregister(fd)
    far.send(b"x")
    assert ring.wait(0.01, 10) == []
    for call in (lambda: ring.modify(fd, EPOLLIN), lambda: ring.unregister(fd)):
        with pytest.raises(FileNotFoundError):
            call()
    ring.register(fd, EPOLLIN)
    assert ring.wait(1, 10) == [(fd, EPOLLIN)]
    ring.forget(fd)
    ring.forget(fd)
    assert ring.wait(0.01, 10) == []


def test_multishot_poll_of_a_bad_descriptor(ring: Poller) -> None:
    """The wait fails, where the poll was submitted; then it is not registered."""
    ring.register(99_999, EPOLLIN)
    with pytest.raises(OSError, match="descriptor 99999") as caught:
        ring.wait(1, 10)
    assert caught.value.errno == errno.EBADF
    assert ring.wait(0, 10) == []
