"""One contract over all pollers, and what each of them has of its own."""

import errno
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

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

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's own")

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
    """Each poller in turn, or those that a test names with ``indirect``."""
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
    """Wait for bits of one descriptor; the mask that had them.

    Bytes on loopback have arrived when send returns, but a FIN or RST may take a moment.
    With edges each report counts once, so masks are gathered.
    """
    deadline = time.monotonic() + 10
    gathered = 0
    while gathered & wanted != wanted:
        assert time.monotonic() < deadline, f"{wanted:#x} was not reported, but {gathered:#x}"
        gathered |= dict(poller.wait(0.05, 10)).get(fd, 0)
        if gathered & wanted != wanted:
            poller.modify(fd, EPOLLIN)  # re-arms one-shot interest
    return gathered


# ---- one contract -----------------------------------------------------------------------


def test_nothing_registered_is_nothing_ready(poller: Poller) -> None:
    """With timeout 0 a wait returns at once with an empty list."""
    assert poller.wait(0, 10) == []


def test_a_timeout_is_waited_for(poller: Poller, pair: Pair) -> None:
    """Where nothing is ready a wait lasts as long as it was told, in seconds."""
    poller.register(pair[0].fileno(), EPOLLIN)
    start = time.monotonic()
    assert poller.wait(0.03, 10) == []
    assert time.monotonic() - start >= 0.03


def test_a_wait_without_a_timeout_ends_when_something_comes(poller: Poller, pair: Pair) -> None:
    """None waits for as long as it takes, and another thread's send ends it."""
    poller.register(pair[0].fileno(), EPOLLIN)
    thread = threading.Thread(target=pair[1].send, args=(b"x",))
    thread.start()
    try:
        assert poller.wait(None, 10) == [(pair[0].fileno(), EPOLLIN)]
    finally:
        thread.join()


def test_input_is_reported_to_who_asked_for_it(poller: Poller, pair: Pair) -> None:
    """A descriptor with bytes to read is IN, and the other end is not mentioned."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN)
    poller.register(far.fileno(), EPOLLIN)
    assert poller.wait(0, 10) == []
    far.send(b"x")
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]


def test_room_to_write_is_reported(poller: Poller, pair: Pair) -> None:
    """An idle connection is OUT to those who asked for OUT."""
    poller.register(pair[0].fileno(), EPOLLOUT)
    assert poller.wait(0, 10) == [(pair[0].fileno(), EPOLLOUT)]


def test_both_come_in_one_mask(poller: Poller, pair: Pair) -> None:
    """What is readable and writable is one pair with both bits, also from select."""
    near, far = pair
    far.send(b"x")
    poller.register(near.fileno(), EPOLLIN | EPOLLOUT)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN | EPOLLOUT)]


def test_a_full_buffer_is_not_writable(poller: Poller, pair: Pair) -> None:
    """OUT is not reported while nothing more fits, and is again once the peer has read."""
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


def test_unregister_ends_it(poller: Poller, pair: Pair) -> None:
    """What is not watched is not reported, and may be registered again."""
    near, far = pair
    far.send(b"x")
    poller.register(near.fileno(), EPOLLIN)
    poller.unregister(near.fileno())
    assert poller.wait(0, 10) == []
    poller.register(near.fileno(), EPOLLIN)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]


def test_misuse_is_answered_as_the_kernel_answers_it(poller: Poller, pair: Pair) -> None:
    """Registered twice is EEXIST; not registered is ENOENT, for every poller alike."""
    fd = pair[0].fileno()
    for act in (lambda: poller.modify(fd, EPOLLIN), lambda: poller.unregister(fd)):
        with pytest.raises(FileNotFoundError):
            act()
    poller.register(fd, EPOLLIN)
    with pytest.raises(FileExistsError):
        poller.register(fd, EPOLLOUT)
    pair[1].send(b"x")
    assert poller.wait(0, 10) == [(fd, EPOLLIN)], "the refused register changed the interest"


def test_an_end_is_readable(poller: Poller, pair: Pair) -> None:
    """A peer that closed is IN, whatever else a poller can say of it: recv tells the end."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN)
    far.close()
    soon(poller, near.fileno(), EPOLLIN)
    assert near.recv(10) == b""


def test_a_reset_is_readable(poller: Poller, pair: Pair) -> None:
    """A broken connection is IN for every poller, and the next call says ECONNRESET."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    soon(poller, near.fileno(), EPOLLIN)
    with pytest.raises(ConnectionResetError):
        near.recv(10)


def test_urgent_data_is_reported(poller: Poller, pair: Pair) -> None:
    """TCP's out-of-band byte is PRI to who asked for PRI."""
    near, far = pair
    poller.register(near.fileno(), EPOLLPRI)
    far.send(b"!", socket.MSG_OOB)
    assert poller.wait(1, 10) == [(near.fileno(), EPOLLPRI)]


def test_a_forgotten_descriptor_is_not_waited_for(poller: Poller, pair: Pair) -> None:
    """Forget, then close: the next wait is not troubled, and the number is free again."""
    near, far = pair
    fd = near.fileno()
    poller.register(fd, EPOLLIN)
    poller.forget(fd)
    near.close()
    assert poller.wait(0, 10) == []
    os.dup2(far.fileno(), fd)
    try:
        poller.register(fd, EPOLLOUT)
        assert fd in dict(poller.wait(0, 10))
        poller.unregister(fd)
    finally:
        os.close(fd)


def test_forgetting_what_is_not_watched_does_nothing(poller: Poller, pair: Pair) -> None:
    """The loop forgets every descriptor it closes, watched or not."""
    poller.forget(pair[0].fileno())
    poller.register(pair[0].fileno(), EPOLLOUT)
    assert len(poller.wait(0, 10)) == 1


def test_every_ready_descriptor_is_there_once(poller: Poller) -> None:
    """Fifty ready descriptors are fifty pairs."""
    pairs = [socket.socketpair() for _ in range(50)]
    try:
        for near, far in pairs:
            poller.register(near.fileno(), EPOLLIN)
            far.send(b"x")
        ready = poller.wait(0, 100)
        assert sorted(fd for fd, _ in ready) == sorted(near.fileno() for near, _ in pairs)
        assert {mask for _, mask in ready} == {EPOLLIN}
    finally:
        for near, far in pairs:
            near.close()
            far.close()


def test_closing_frees_the_pollers_own_descriptor(poller: Poller) -> None:
    """Open descriptors are one fewer after closing an epoll, and as many after the others'."""
    before = kernel.descriptors_open()
    has_own = poller.fileno() >= 0
    poller.close()
    assert before - kernel.descriptors_open() == has_own
    poller.close()
    assert before - kernel.descriptors_open() == has_own


# ---- when it reports --------------------------------------------------------------------


@only(*LEVEL)
def test_level_reports_what_holds_at_every_wait(poller: Poller, pair: Pair) -> None:
    """Unread bytes are reported again and again, until they are read."""
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
def test_edge_reports_what_came(poller: Poller, pair: Pair) -> None:
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
    """After one report nothing more comes, however much arrives, until a modify."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN | EPOLLOUT)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLOUT)]
    far.send(b"x")
    assert poller.wait(0, 10) == []
    poller.modify(near.fileno(), EPOLLIN)
    assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]
    assert poller.wait(0, 10) == []


@only("epoll-edge", "epoll-oneshot", "epoll-edge-oneshot")
def test_the_kernels_list_has_the_flags(poller: Poller, pair: Pair) -> None:
    """What was asked for is what fdinfo shows, with the poller's flags added."""
    fd = pair[0].fileno()
    for act, mask in ((poller.register, EPOLLIN), (poller.modify, EPOLLOUT)):
        act(fd, mask)
        (entry,) = kernel.interest_list(poller.fileno())
        # ERR and HUP are always on, whether asked for or not.
        assert entry.mask & ~(EPOLLERR | EPOLLHUP) == mask | poller.flags


def test_the_exempt_stay_plain(pair: Pair) -> None:
    """The loop's wake-up is reported for as long as it holds, and is never disarmed."""
    near, far = pair
    poller = make_poller("epoll", edge=True, oneshot=True, exempt=frozenset([near.fileno()]))
    try:
        poller.register(near.fileno(), EPOLLIN)
        far.send(b"x")
        for _ in range(3):
            assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN)]
        poller.modify(near.fileno(), EPOLLOUT | EPOLLIN)
        for _ in range(2):
            assert poller.wait(0, 10) == [(near.fileno(), EPOLLIN | EPOLLOUT)]
    finally:
        poller.close()


def test_exclusive_interest_is_for_good() -> None:
    """EPOLLEXCLUSIVE goes with a register, shows in the kernel's list, and admits no modify."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        first, second = make_poller("epoll"), make_poller("epoll")
        try:
            for poller in (first, second):
                poller.register(listener.fileno(), EPOLLIN | EPOLLEXCLUSIVE)
                (entry,) = kernel.interest_list(poller.fileno())
                assert entry.mask & EPOLLEXCLUSIVE
            with pytest.raises(OSError, match="Invalid argument"):
                first.modify(listener.fileno(), EPOLLIN)
            with socket.create_connection(listener.getsockname()):
                # Nobody sleeps here, so both find it ready; who sleeps is woken alone.
                assert first.wait(1, 1) == second.wait(1, 1) == [(listener.fileno(), EPOLLIN)]
        finally:
            first.close()
            second.close()


# ---- masks that only some can say -------------------------------------------------------


@only("epoll-level", "epoll-edge", "poll")
def test_a_half_close_is_rdhup(poller: Poller, pair: Pair) -> None:
    """Both epoll and poll tell a peer's half-close from bytes, where RDHUP was asked for."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN | EPOLLRDHUP)
    far.shutdown(socket.SHUT_WR)
    assert poller.wait(5, 10) == [(near.fileno(), EPOLLIN | EPOLLRDHUP)]


@only("select")
def test_select_says_a_half_close_as_readable(poller: Poller, pair: Pair) -> None:
    """There is no RDHUP in select: who asks for it alone is told IN."""
    near, far = pair
    poller.register(near.fileno(), EPOLLRDHUP)
    far.shutdown(socket.SHUT_WR)
    assert poller.wait(5, 10) == [(near.fileno(), EPOLLIN)]


@only("epoll-level", "epoll-edge", "poll")
def test_hup_needs_no_asking(poller: Poller, pair: Pair) -> None:
    """An interest of 0 still reports HUP once both directions are shut, as the how-to needs."""
    near, _ = pair
    poller.register(near.fileno(), EPOLLIN)
    poller.modify(near.fileno(), 0)
    near.shutdown(socket.SHUT_RDWR)
    ((fd, mask),) = poller.wait(5, 10)
    assert fd == near.fileno()
    assert mask & EPOLLHUP


# ---- closed descriptors and bounds ------------------------------------------------------


def test_a_number_that_is_no_descriptor(poller: Poller) -> None:
    """An epoll refuses it at once; poll says NVAL and select EBADF at the wait."""
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
    """When its last number closes, the kernel takes it out of the list by itself."""
    near, far = pair
    poller.register(near.fileno(), EPOLLIN)
    far.send(b"x")
    near.close()
    assert poller.wait(0, 10) == []
    assert kernel.interest_list(poller.fileno()) == []


@only("epoll-level")
def test_epoll_goes_on_about_a_closed_number_with_a_twin(poller: Poller, pair: Pair) -> None:
    """While a duplicate lives the old number is still reported, and cannot be unregistered."""
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
    """A file is always ready, and epoll_ctl says EPERM rather than watch it."""
    with open(__file__) as file, pytest.raises(PermissionError):
        poller.register(file.fileno(), EPOLLIN)


@only("epoll-level")
def test_max_events_bounds_a_batch_and_takes_turns(poller: Poller) -> None:
    """A wait returns that many at most; those left over come first the next time."""
    pipes = [os.pipe() for _ in range(5)]
    try:
        for reader, writer in pipes:
            poller.register(reader, EPOLLIN)
            os.write(writer, b"x")
        seen = [fd for _ in range(3) for fd, _ in poller.wait(0, 2)]
        assert len(seen) == 6
        assert set(seen) == {reader for reader, _ in pipes}
    finally:
        for reader, writer in pipes:
            os.close(reader)
            os.close(writer)


@pytest.mark.parametrize("fd", [FD_SETSIZE, FD_SETSIZE + 5000])
@only("select")
def test_select_ends_at_1024(poller: Poller, fd: int) -> None:
    """A number beyond the bitmap is refused at register, with the reason and the way out."""
    with pytest.raises(OSError, match=rf"descriptor {fd}: its bitmap ends at 1023") as caught:
        poller.register(fd, EPOLLIN)
    assert caught.value.errno == errno.EINVAL
    assert 'poller="epoll"' in str(caught.value)
    assert poller.wait(0, 10) == []


@only("select", "poll", "epoll-level")
def test_the_last_number_that_select_takes(poller: Poller, pair: Pair) -> None:
    """Descriptor 1023 works everywhere; 1024 works but for select."""
    limits = kernel.descriptor_limits()
    if limits.hard <= FD_SETSIZE:
        pytest.skip(f"the hard limit on descriptors is {limits.hard}")
    with kernel.raise_descriptor_limit(FD_SETSIZE + 1):
        fds = [os.dup2(pair[0].fileno(), FD_SETSIZE - 1), os.dup2(pair[0].fileno(), FD_SETSIZE)]
        try:
            pair[1].send(b"x")
            poller.register(fds[0], EPOLLIN)
            if not isinstance(poller, SelectPoller):
                poller.register(fds[1], EPOLLIN)
            expected = fds[: 1 if isinstance(poller, SelectPoller) else 2]
            assert sorted(poller.wait(0, 10)) == [(fd, EPOLLIN) for fd in expected]
            for fd in expected:
                poller.unregister(fd)
        finally:
            for fd in fds:
                os.close(fd)


# ---- making one -------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLLERS)
def test_flags_are_told(name: str) -> None:
    """A poller says what it adds to every interest; poll and select add nothing."""
    poller = make_poller(name)
    assert poller.flags == 0
    poller.close()
    if name == "epoll":
        poller = make_poller(name, edge=True, oneshot=True)
        assert poller.flags == EPOLLET | EPOLLONESHOT
        poller.close()


@pytest.mark.parametrize("flag", ["edge", "oneshot"])
@pytest.mark.parametrize("name", ["poll", "select"])
def test_what_only_epoll_has_is_refused(name: str, flag: str) -> None:
    """Both poll and select know neither edges nor one-shot interest, and say so."""
    with pytest.raises(ValueError, match=f"{name} knows neither edges nor one-shot"):
        make_poller(name, **{flag: True})


def test_an_unknown_name_lists_those_there_are() -> None:
    """The message has every poller's name."""
    with pytest.raises(ValueError, match="one of epoll, poll, select, not 'kqueue'"):
        make_poller("kqueue")


def test_epoll_elsewhere_than_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without select.epoll the system's name is in the error, and poll works on."""
    monkeypatch.delattr(select, "epoll")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="part of Linux, and this is darwin"):
        make_poller("epoll")
    assert make_poller("poll").wait(0, 1) == []
