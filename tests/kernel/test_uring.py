"""The ring: submissions, completions, provided buffers, cancellation, and how it ends."""

import ctypes
import errno
import io
import mmap
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from epolllab.events import EPOLLIN
from epolllab.kernel import NotPossible, not_possible_reason, uring
from epolllab.kernel.uring import Buffers, Completion, Uring
from tests.conftest import held, missing
from tests.kernel.conftest import Pair

ALL_OR_ERROR = socket.MSG_DONTWAIT | socket.MSG_WAITALL | socket.MSG_NOSIGNAL
"""Of a send: complete at once, fail or fall short."""


def require_uring() -> None:
    """Skip a test where rings cannot be made."""
    try:
        uring.require_uring()
    except NotPossible as error:
        missing(str(error))


@pytest.fixture
def ring() -> Iterator[Uring]:
    """A small ring."""
    require_uring()
    with Uring(8) as made:
        yield made


def run(program: str) -> "subprocess.CompletedProcess[str]":
    """Run a Python program."""
    words = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def receive(ring: Uring, sock: socket.socket, **options: Any) -> None:
    """Submit a multishot receive into provided buffers, as operation 1."""
    ring.push(
        uring.RECV, sock.fileno(), user_data=1, flags=uring.BUFFER_SELECT,
        ioprio=uring.RECV_MULTISHOT, **options,
    )  # fmt: skip


def n_mapped() -> int:
    """Mappings of rings in this process."""
    return Path("/proc/self/maps").read_text().count("io_uring")


# ---- submissions and completions --------------------------------------------------------


def test_layouts() -> None:
    """The entries have the sizes of the kernel's structures."""
    assert (uring.SQE.size, uring.CQE.size, uring.BUFFER_ENTRY.size) == (64, 16, 14)


def test_one_call_submits_and_waits(ring: Uring) -> None:
    for number in range(8):
        ring.push(uring.NOP, user_data=number)
    assert ring.n_unsubmitted == 8
    assert ring.enter(8) == 8
    assert ring.n_unsubmitted == 0
    assert ring.completions() == [Completion(number, 0, 0) for number in range(8)]
    assert ring.completions() == []


def test_no_room_for_a_submission(ring: Uring) -> None:
    for _ in range(ring.n_sqes):
        ring.push(uring.NOP)
    with pytest.raises(BlockingIOError, match=r"call enter\(\)"):
        ring.push(uring.NOP)
    assert ring.enter() == ring.n_sqes


def test_both_queues_wrap(ring: Uring) -> None:
    """Numbers stay in order over many rounds of both queues."""
    seen = []
    for first in range(0, 50 * 7, 7):
        for number in range(first, first + 7):
            ring.push(uring.NOP, user_data=number)
        ring.enter(7)
        seen += [user_data for user_data, _, _ in ring.take(3)]
        seen += [user_data for user_data, _, _ in ring.take()]
    assert seen == list(range(50 * 7))


def test_more_completions_than_fit(ring: Uring) -> None:
    """The kernel keeps them aside, in order; the next call brings them."""
    for first in range(0, 40, 8):
        for number in range(first, first + 8):
            ring.push(uring.NOP, user_data=number)
        ring.enter()
    assert ring.n_ready == ring.n_cqes == 16
    seen = []
    while ring.n_ready or ring.has_overflown:
        seen += [user_data for user_data, _, _ in ring.take()]
        ring.enter()
    assert seen == list(range(40))


def test_a_wait_with_a_timeout(ring: Uring) -> None:
    start = time.monotonic()
    assert ring.enter(1, 0.02) == 0
    assert time.monotonic() - start >= 0.02
    assert ring.enter(1, 0) == 0


def test_a_signal_ends_the_wait(ring: Uring) -> None:
    previous = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with pytest.raises(InterruptedError):
            ring.enter(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_the_ring_is_for_one_thread(ring: Uring) -> None:
    errors: list[int | None] = []

    def enter() -> None:
        try:
            ring.enter()
        except OSError as error:
            errors.append(error.errno)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert errors == [errno.EEXIST]


def test_the_thread_that_starts_it_may_use_it() -> None:
    ring, seen = Uring(4, started=False), []
    with pytest.raises(OSError, match="io_uring_enter"):
        ring.enter()

    def run() -> None:
        ring.start()
        ring.push(uring.NOP, user_data=5)
        ring.enter(1)
        seen.extend(ring.completions())
        ring.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [Completion(5, 0, 0)]


@pytest.mark.parametrize("how", [0, uring.RECV_MULTISHOT | uring.POLL_FIRST])
def test_a_send_that_fails_completes_before_a_later_recv(how: int, pair: Pair) -> None:
    """Also if the recv finds bytes at once; the server's loop relies on that order."""
    require_uring()
    near, far = pair
    near.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            near.send(bytes(100_000))
    far.sendall(b"bytes")
    with Uring(8) as ring:
        buffers = Buffers(ring, 8, 64)
        address = uring.address_of(ring.memory(100))
        ring.push(
            uring.SEND, near.fileno(), address, 100, user_data=1, flags=uring.SKIP_SUCCESS,
            op_flags=ALL_OR_ERROR,
        )  # fmt: skip
        ring.push(uring.RECV, near.fileno(), user_data=2, flags=uring.BUFFER_SELECT, ioprio=how)
        ring.enter(2)
        sent, received = ring.completions()
        assert (sent.user_data, sent.result) == (1, -errno.EAGAIN)
        assert received.user_data == 2
        assert buffers.take(received.flags, received.result) == b"bytes"


def test_poll_reports_readiness(ring: Uring, pair: Pair) -> None:
    near, far = pair
    ring.push(
        uring.POLL_ADD, near.fileno(), user_data=1, length=uring.POLL_MULTISHOT, op_flags=EPOLLIN
    )
    assert ring.enter() == 0
    for _ in range(2):
        far.send(b"x")
        ring.enter(1)
        assert ring.completions() == [Completion(1, select.POLLIN, uring.MORE)]
        near.recv(1)


# ---- provided buffers -------------------------------------------------------------------


def test_received_bytes_are_in_provided_buffers(ring: Uring, pair: Pair) -> None:
    buffers = Buffers(ring, 4, 64)
    receive(ring, pair[0])
    for n in range(1, 40):  # more often than there are buffers
        pair[1].send(b"%d" % n)
        ring.enter(1)
        ((user_data, result, flags),) = ring.completions()
        assert (user_data, flags & 3) == (1, uring.MORE | uring.BUFFER)
        assert buffers.take(flags, result) == b"%d" % n


def test_no_buffer_is_left(ring: Uring, pair: Pair) -> None:
    """The receive ends with ENOBUFS; nothing is lost, and it can be submitted again."""
    buffers = Buffers(ring, 2, 4)
    receive(ring, pair[0])
    ring.enter()
    pair[1].send(b"abcdefghijkl")
    ring.enter(3)
    first, second, last = ring.completions()
    assert last == Completion(1, -errno.ENOBUFS, 0)
    data = buffers.take(first.flags, first.result) + buffers.take(second.flags, second.result)
    receive(ring, pair[0])
    ring.enter(1)
    (third, *_) = ring.completions()
    assert data + buffers.take(third.flags, third.result) == b"abcdefghijkl"


@pytest.mark.parametrize(
    ("name", "value"), [("count", 3), ("count", 0), ("count", 1 << 16), ("size", 0)]
)
def test_invalid_buffers(ring: Uring, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        Buffers(ring, **{"count": 4, "size": 16, name: value})


@pytest.mark.parametrize("value", [0, -1, 1 << 16])
def test_invalid_entries(value: int) -> None:
    with pytest.raises(ValueError, match=r"^entries"):
        Uring(value)


# ---- sends without a completion ---------------------------------------------------------


def send(ring: Uring, sock: socket.socket, data: bytes, flags: int = 0) -> None:
    """Submit a send that completes only if not all is sent, as operation 2."""
    ring.push(
        uring.SEND, sock.fileno(), uring.address_of_bytes(data), len(data), user_data=2,
        flags=uring.SKIP_SUCCESS | flags, op_flags=ALL_OR_ERROR,
    )  # fmt: skip


def test_a_send_that_succeeds_has_no_completion(ring: Uring, pair: Pair) -> None:
    send(ring, pair[0], b"hello")
    assert ring.enter() == 0
    assert pair[1].recv(10) == b"hello"


def test_a_short_send_has_one_and_breaks_its_link(ring: Uring, pair: Pair) -> None:
    """The linked shutdown is not made, and has no completion either."""
    data = bytes(4_000_000)
    send(ring, pair[0], data, uring.LINK)
    ring.push(uring.SHUTDOWN, pair[0].fileno(), length=socket.SHUT_WR, user_data=3)
    ring.enter()
    ((user_data, result, _),) = ring.completions()
    assert user_data == 2
    assert 0 < result < len(data)
    send(ring, pair[0], b"x")
    ring.enter()
    assert ring.completions() == [Completion(2, -errno.EAGAIN, 0)]
    got = 0
    while got < result:
        got += len(pair[1].recv(1 << 20))
    send(ring, pair[0], b"y", uring.LINK)
    ring.push(uring.SHUTDOWN, pair[0].fileno(), length=socket.SHUT_WR, user_data=3)
    assert ring.enter(1) == 1
    assert ring.completions() == [Completion(3, 0, 0)]
    assert pair[1].recv(10) + pair[1].recv(10) == b"y"


# ---- cancellation and the end -----------------------------------------------------------


def test_a_cancelled_operation_completes(ring: Uring, pair: Pair) -> None:
    Buffers(ring, 2, 4)
    receive(ring, pair[0])
    ring.enter()
    ring.push_cancel(1, cancel_data=9)
    ring.push_cancel(77, cancel_data=10)
    ring.enter(3)
    assert set(ring.completions()) == {
        Completion(1, -errno.ECANCELED, 0),
        Completion(9, 0, 0),
        Completion(10, -errno.ENOENT, 0),
    }


def test_closing_ends_what_is_pending(pair: Pair) -> None:
    """What arrives afterwards is not written to memory that a pending receive named."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[:] = b"\xdd" * mmap.PAGESIZE
    ring = Uring(4)
    ring.push(uring.RECV, pair[0].fileno(), uring.address_of(memory), 100, user_data=1)
    ring.enter()
    ring.close()
    pair[1].send(b"late")
    time.sleep(0.02)
    assert memory[:] == b"\xdd" * mmap.PAGESIZE
    assert pair[0].recv(10) == b"late"
    memory.close()


def test_buffers_are_not_used_after_they_are_freed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poisoned in place of being unmapped, they keep the poison."""
    kept: list[mmap.mmap] = []

    def poison(maps: Any) -> None:
        for one in maps:
            one[:] = b"\xdd" * len(one)
            kept.append(one)

    ring = Uring(4)
    buffers = Buffers(ring, 4, 64)
    receive(ring, pair[0])
    ring.enter()
    with monkeypatch.context() as patch:
        patch.setattr(uring, "_close_maps", poison)
        patch.setattr(ring, "_maps", [])
        own, ring._maps = ring._maps, []
        ring.close()
    assert not own
    pair[1].send(b"late")
    time.sleep(0.02)
    assert kept == [buffers.memory]
    assert kept[0][:] == b"\xdd" * len(kept[0])
    kept[0].close()


def test_buffers_stay_when_the_kernel_cannot_be_asked(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of operations that may be pending is kept."""
    ring = Uring(4)
    buffers = Buffers(ring, 4, 64)
    receive(ring, pair[0])
    ring.enter()
    with monkeypatch.context() as patch:
        patch.setattr(Uring, "cancel_all", lambda *_: False)
        ring.close()
    assert not buffers.memory.closed
    assert uring._abandoned == [buffers.memory]
    uring._abandoned.clear()


def test_nothing_is_left_by_a_close_or_a_drop() -> None:
    before = held()
    for how in ("close", "drop", "with"):
        ring = Uring(64)
        Buffers(ring, 8, 64)
        if how == "with":
            with ring:
                pass
        elif how == "close":
            ring.close()
            ring.close()
        del ring
        assert held() == before
    assert not n_mapped()


def test_nothing_is_left_by_a_failing_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step fails, with an error or an interrupt."""
    before = held()
    for name in ("_require_features", "_require_operations", "_register", "address_of"):
        for error in (OSError(errno.EIO, "step"), KeyboardInterrupt()):

            def fail(*_: Any, error: BaseException = error) -> Any:
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(uring, name, fail)
                patch.setattr(Uring, "cancel_all", lambda *_: True)
                with pytest.raises(type(error)):
                    Uring(8)
            assert held() == before


FORK = """
    import os, socket
    from pathlib import Path
    from epolllab.kernel import uring
    ring = uring.Uring(8)
    buffers = uring.Buffers(ring, 4, 64)
    near, far = socket.socketpair()
    ring.push(uring.RECV, near.fileno(), flags=uring.BUFFER_SELECT, ioprio=uring.RECV_MULTISHOT)
    ring.enter()
    if os.fork() == 0:
        try:
            ring.enter()
        except OSError as error:
            print(error.strerror, flush=True)
        ring.close()
        print(Path("/proc/self/maps").read_text().count("io_uring"), flush=True)
        os._exit(0)
    os.wait()
    far.send(b"still")
    ring.enter(1)
    (_, result, flags), = ring.completions()
    print(buffers.take(flags, result), flush=True)
"""


@pytest.mark.processes
def test_a_fork_leaves_the_ring_to_its_process() -> None:
    """The child can neither submit nor cancel; its close frees its own copies only."""
    require_uring()
    done = run(FORK)
    assert done.stdout.splitlines() == ["io_uring_enter: File exists", "0", "b'still'"]


# ---- where it is not possible -----------------------------------------------------------


def acts_as(patch: pytest.MonkeyPatch, number: int, *, lacks: int = 0) -> None:
    """Make io_uring_setup fail with an error, always or where it is given a flag."""
    real = uring._call

    def call(what: int, *args: int) -> int:
        if what == uring._SETUP:
            params = ctypes.string_at(args[1], 12)
            if not lacks or struct.unpack("<3I", params)[2] & lacks:
                ctypes.set_errno(number)
                return -1
        return real(what, *args)

    patch.setattr(uring, "_call", call)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSYS, "has no io_uring"), (errno.EPERM, "not permitted here: .*seccomp")],
)
def test_refused(number: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = held()
    acts_as(monkeypatch, number)
    with pytest.raises(NotPossible, match=words) as caught:
        uring.require_uring()
    assert caught.value.errno == number
    assert not_possible_reason(caught.value)
    assert held() == before


@pytest.mark.parametrize("name", uring._SETUP_FLAGS)
def test_a_kernel_without_a_setup_flag(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    acts_as(monkeypatch, errno.EINVAL, lacks=uring._SETUP_FLAGS[name])
    with pytest.raises(NotPossible, match=name.split()[0]):
        Uring(8)


@pytest.mark.parametrize("name", uring._FEATURES)
def test_a_kernel_without_a_feature(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = uring._setup

    def setup(*args: int) -> tuple[int, tuple[int, ...]]:
        fd, params = real(*args)
        return fd, (*params[:5], params[5] & ~uring._FEATURES[name], *params[6:])

    before = held()
    monkeypatch.setattr(uring, "_setup", setup)
    with pytest.raises(NotPossible, match=name.split()[0]):
        Uring(8)
    assert held() == before


def test_a_kernel_without_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(uring._NAMES, 250, "SOMETHING_NEW")
    with pytest.raises(NotPossible, match="SOMETHING_NEW"):
        Uring(8)


def test_the_sysctl_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    acts_as(monkeypatch, errno.EPERM)
    monkeypatch.setattr(uring, "open", lambda _: io.StringIO("2\n"), raising=False)
    with pytest.raises(NotPossible, match=r"kernel\.io_uring_disabled is 2"):
        Uring(8)


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "x86_64"), ("Linux", "riscv64")])
def test_another_machine(system: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(NotPossible, match=machine):
        Uring(8)


SECCOMP = """
    import ctypes, struct
    # Load the number of the call; return EPERM for io_uring_setup, else permit it.
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
    rules = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *one) for one in code))
    program = struct.pack("<H6xQ", len(code), ctypes.addressof(rules))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    if libc.prctl(22, 2, program, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise SystemExit("no seccomp here")
"""


@pytest.mark.processes
def test_a_seccomp_filter() -> None:
    """As under Docker's default profile."""
    done = run(
        SECCOMP
        + """
    from epolllab.kernel import uring
    try:
        uring.require_uring()
    except OSError as error:
        print(type(error).__name__, error)
    """
    )
    if "no seccomp here" in done.stderr:
        missing("a process may not install a seccomp filter here")
    assert done.stdout.startswith("NotPossible [Errno 1] io_uring is not permitted here: a seccomp")
