"""/proc: interest lists, threads, CPU time and counters, compared with what was done before."""

import errno
import os
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing

import pytest

from epolllab import kernel
from epolllab.events import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLRDHUP
from epolllab.kernel import proc, raw
from tests.kernel.conftest import running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")

ADDED_BY_KERNEL = EPOLLERR | EPOLLHUP

# ---- interest lists ---------------------------------------------------------------------


def test_interest_list_has_what_was_registered(pair):
    """Number, mask with the bits the kernel adds, inode and device of each entry."""
    left, right = pair
    with closing(select.epoll()) as epoll:
        epoll.register(left, EPOLLIN | EPOLLET)
        epoll.register(right, EPOLLOUT | EPOLLRDHUP)
        entries = {entry.fd: entry for entry in kernel.interest_list(epoll)}
    assert entries.keys() == {left.fileno(), right.fileno()}
    entry = entries[left.fileno()]
    assert entry.mask == EPOLLIN | EPOLLET | ADDED_BY_KERNEL
    assert entry.mask_names == "IN|ERR|HUP|ET"
    assert entries[right.fileno()].mask == EPOLLOUT | EPOLLRDHUP | ADDED_BY_KERNEL
    assert entry.data & 0xFFFF_FFFF == left.fileno()
    status = os.fstat(left.fileno())
    assert (entry.inode, entry.device, entry.pos) == (status.st_ino, status.st_dev, 0)


def test_interest_list_shows_the_device_of_a_file(tmp_path):
    """The device is packed as fstat packs it."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with closing(select.epoll()) as epoll:
            epoll.register(fd, EPOLLIN)
            (entry,) = kernel.interest_list(epoll.fileno())
        assert (entry.inode, entry.device) == (os.fstat(fd).st_ino, os.fstat(fd).st_dev)
    finally:
        os.close(fd)


def test_interest_list_keeps_a_closed_number_with_a_duplicate(pair):
    """An entry outlives its number while a duplicate exists."""
    with closing(select.epoll()) as epoll:
        number = os.dup(pair[0].fileno())
        epoll.register(number, EPOLLIN)
        os.close(number)
        assert [entry.fd for entry in kernel.interest_list(epoll)] == [number]


def test_interest_list_shows_a_disarmed_one_shot(pair):
    """After it has fired only ONESHOT is left, not even ERR and HUP."""
    left, right = pair
    with closing(select.epoll()) as epoll:
        epoll.register(left, EPOLLIN | EPOLLONESHOT)
        right.send(b"x")
        assert epoll.poll(0) == [(left.fileno(), EPOLLIN)]
        (entry,) = kernel.interest_list(epoll)
    assert entry.mask == EPOLLONESHOT


def test_interest_list_of_another_process():
    """The list is read by process id as well."""
    code = "import select, os; e = select.epoll(); os.dup2(e.fileno(), 50); e.register(0, 1)"
    with running(code) as process:
        (entry,) = kernel.interest_list(50, process.pid)
    assert (entry.fd, entry.mask) == (0, EPOLLIN | ADDED_BY_KERNEL)


@pytest.mark.parametrize("n", [0, 300])
def test_interest_list_is_complete(n):
    """An empty list is not an error; one longer than a page of /proc has every entry once."""
    with ExitStack() as stack, closing(select.epoll()) as epoll:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        numbers = [os.dup(reader) for _ in range(n)]
        for number in numbers:
            stack.callback(os.close, number)
            epoll.register(number, EPOLLIN)
        assert sorted(entry.fd for entry in kernel.interest_list(epoll)) == sorted(numbers)


def test_interest_list_refuses_other_descriptors(pair):
    """The error says what the descriptor is; a closed one is EBADF."""
    with pytest.raises(ValueError, match=r"^epfd .*socket:\[\d+\]"):
        kernel.interest_list(pair[0])
    epoll = select.epoll()
    number = epoll.fileno()
    epoll.close()
    for absent in (number, -1):
        with pytest.raises(OSError, match=f"descriptor {absent}") as caught:
            kernel.interest_list(absent)
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize(
    "ask",
    [
        lambda pid: kernel.interest_list(3, pid),
        kernel.context_switches,
        kernel.cpu_time_ns,
        kernel.descriptors_open,
        kernel.threads,
        lambda pid: kernel.context_switches(tid=pid),
        lambda pid: kernel.cpu_time_ns(tid=pid),
    ],
)
def test_a_process_that_has_ended_is_named(ask):
    """Every function raises ProcessLookupError for it."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError, match=f"{process.pid}.*has ended"):
        ask(process.pid)


def test_old_kernels_print_less():
    """Without position, inode and device the entry has None for them."""
    text = "pos:\t0\ntfd:        5 events:       1d data:                5\n"
    assert proc._parse_interest_list(text) == [(5, 0x1D, "IN|OUT|ERR|HUP", 5, None, None, None)]


# ---- processes and threads --------------------------------------------------------------


def test_threads_and_children_are_listed():
    """A thread and a child are listed while they exist."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert kernel.threads().keys() >= {os.getpid(), thread.native_id}
    finally:
        end.set()
        thread.join()
    with running("pass") as process:
        assert process.pid in kernel.children()
        assert list(kernel.threads(process.pid)) == [process.pid]
    assert process.pid not in kernel.children()


def test_a_program_name_with_spaces_and_parentheses():
    """The fields after the name are found whatever the name is."""
    with running("open('/proc/self/comm', 'w').write('a) R 1 (b')") as process:
        assert kernel.threads(process.pid) == {process.pid: "a) R 1 (b"}
        assert process.pid in kernel.children()


def test_blocking_is_a_voluntary_switch():
    """A process that responds and goes back to sleep switches voluntarily each time."""
    code = "import os\nos.write(1, b'\\n')\nwhile os.write(1, os.read(0, 1)): pass\nos._exit(0)"
    with running(code) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            before = kernel.context_switches(process.pid)
            os.write(process.stdin.fileno(), b"x")
            assert os.read(process.stdout.fileno(), 1) == b"x"
            deadline = time.monotonic() + 30
            while kernel.context_switches(process.pid)[0] == before[0]:
                assert time.monotonic() < deadline
        assert kernel.context_switches(process.pid, process.pid)[0] >= before[0] + 1


def test_context_switches_of_a_process_are_the_sum_over_its_threads():
    """A sleeping child's total is at least the sum read before."""
    code = (
        "import threading, os\n"
        "r, w = os.pipe()\n"
        "for _ in range(3): threading.Thread(target=os.read, args=(r, 1), daemon=True).start()"
    )
    with running(code) as process:
        tids = kernel.threads(process.pid)
        each = [kernel.context_switches(process.pid, tid).voluntary for tid in tids]
        assert len(tids) == 4
        assert kernel.context_switches(process.pid).voluntary >= sum(each) > each[0]


def burn(duration_ns: int) -> None:
    """Use CPU time by the thread's own clock, however loaded the machine is."""
    end = kernel.cpu_time_ns(tid=threading.get_native_id()) + duration_ns
    while kernel.cpu_time_ns(tid=threading.get_native_id()) < end:
        pass


def test_cpu_time_of_process_and_thread():
    """A thread's work counts for the process, also after the thread has ended."""
    before = kernel.cpu_time_ns()
    own = kernel.cpu_time_ns(tid=threading.get_native_id())
    by_number = kernel.cpu_time_ns(os.getpid())
    thread = threading.Thread(target=burn, args=(20_000_000,))
    thread.start()
    thread.join()
    assert kernel.cpu_time_ns() - before >= 20_000_000
    assert kernel.cpu_time_ns(os.getpid()) - by_number >= 20_000_000
    assert by_number >= before
    assert kernel.cpu_time_ns(tid=threading.get_native_id()) > own


def test_cpu_time_of_a_child():
    """For the process, its thread, and in ticks, the times agree when it sleeps."""
    with running("for i in range(2_000_000): pass") as process:
        total = kernel.cpu_time_ns(process.pid)
        thread = kernel.cpu_time_ns(process.pid, process.pid)
        ticks = proc._ticks_ns(process.pid)
    assert total > 10_000_000
    assert abs(total - thread) < 60_000_000  # it may not be asleep yet
    assert abs(total - ticks) < 60_000_000


def test_cpu_time_without_the_precise_sources(monkeypatch):
    """Without clock and schedstat the ticks of stat are used."""
    monkeypatch.setattr(proc, "_cpu_clock", lambda _pid, _tid: -(1 << 30))
    real = proc.read_process_file

    def without_schedstat(name, pid, tid=None):
        if name == "schedstat":
            raise ProcessLookupError
        return real(name, pid, tid)

    monkeypatch.setattr(proc, "read_process_file", without_schedstat)
    with running("for i in range(2_000_000): pass") as process:
        assert kernel.cpu_time_ns(process.pid) >= 10_000_000
        assert kernel.cpu_time_ns(process.pid, process.pid) >= 10_000_000


def test_descriptors_open_counts_each_one():
    """A pipe adds two, and a child has its own three."""
    before = kernel.descriptors_open()
    reader, writer = os.pipe()
    assert kernel.descriptors_open() == before + 2
    os.close(reader)
    os.close(writer)
    with running("pass") as process:
        assert kernel.descriptors_open(process.pid) == 3


# ---- counters and settings --------------------------------------------------------------


def test_counters_have_nstats_names_and_grow(connection):
    """A new connection is at least one active open; unchanged counters are left out."""
    before = kernel.counters()
    assert {"TcpExtListenOverflows", "TcpExtListenDrops", "TcpRetransSegs"} <= before.keys()
    with socket.create_connection(connection[0].getsockname()):
        change = kernel.counters_since(before)
    assert change["TcpActiveOpens"] >= 1
    assert 0 not in change.values()


def test_settings_are_read():
    """The bounds are plausible, and an unknown setting is named."""
    first, last = kernel.local_port_range()
    assert 0 < first < last < 65536
    assert kernel.somaxconn() > 0
    assert len(kernel.sysctl("net.ipv4.tcp_rmem")) == 3
    with pytest.raises(FileNotFoundError, match=r"net\.core\.nothing"):
        kernel.sysctl("net.core.nothing")


# ---- elsewhere --------------------------------------------------------------------------


def test_other_systems_are_refused(monkeypatch):
    """What only Linux has is refused by name, not with a missing file or attribute."""
    asks = (
        lambda: kernel.interest_list(3),
        lambda: kernel.tcp_info(None),
        lambda: kernel.cpu_time_ns(1),
        lambda: raw.Timer(1, 1),
        lambda: raw.RawPoll([]),
        kernel.counters,
        kernel.somaxconn,
        lambda: raw.RawEpoll(3),
    )
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        for ask in asks:
            with pytest.raises(OSError, match="needs Linux, and this is darwin"):
                ask()
        assert kernel.cpu_time_ns() > 0
