"""What Linux says, checked against what was done to it a line before."""

import errno
import gc
import os
import pickle
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from epolllab import kernel
from epolllab.events import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLRDHUP
from epolllab.kernel import proc, tcp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")

ADDED_BY_KERNEL = EPOLLERR | EPOLLHUP


@pytest.fixture(autouse=True)
def _same_descriptors() -> Iterator[None]:
    """Every descriptor, thread, child and limit is as it was before the test."""
    before = _state()
    yield
    gc.collect()
    assert _state() == before


def _state() -> tuple[object, ...]:
    return (
        kernel.descriptors_open(),
        threading.active_count(),
        kernel.children(),
        kernel.listening_ports(),
        kernel.descriptor_limits(),
    )


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two connected Unix sockets."""
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """Give a listener on loopback, a client and the accepted socket."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        accepted, _ = listener.accept()
        with accepted:
            yield listener, client, accepted


@contextmanager
def _child(code: str) -> Iterator[subprocess.Popen[str]]:
    """Start a Python that runs `code`, prints a line, and ends when its stdin does."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint('', flush=True)\nimport sys\nsys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        yield process


def _ended_pid() -> int:
    """Return the number of a process that was there and is gone."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


# --- interest lists ---------------------------------------------------------------------


def test_interest_list_has_what_was_registered(pair):
    """Number, mask with the kernel's addition, inode and device of each entry."""
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


def test_interest_list_shows_a_real_files_device(tmp_path):
    """The device is packed as fstat packs it; an inotify watch is no regular file."""
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


def test_interest_list_shows_the_ghost_of_a_closed_number(pair):
    """An entry outlives its number while a duplicate of it lives."""
    left, _ = pair
    with closing(select.epoll()) as epoll:
        number = os.dup(left.fileno())
        epoll.register(number, EPOLLIN)
        os.close(number)
        assert [entry.fd for entry in kernel.interest_list(epoll)] == [number]


def test_interest_list_shows_a_one_shot_fired(pair):
    """After it has fired only ONESHOT is left, not even ERR and HUP."""
    left, right = pair
    with closing(select.epoll()) as epoll:
        epoll.register(left, EPOLLIN | EPOLLONESHOT)
        right.send(b"x")
        assert epoll.poll(0) == [(left.fileno(), EPOLLIN)]
        (entry,) = kernel.interest_list(epoll)
    assert entry.mask == EPOLLONESHOT


def test_interest_list_of_another_process():
    """The list is read by process number as well."""
    code = "import select, os; e = select.epoll(); os.dup2(e.fileno(), 50); e.register(0, 1)"
    with _child(code) as process:
        (entry,) = kernel.interest_list(50, process.pid)
    assert entry.fd == 0
    assert entry.mask == EPOLLIN | ADDED_BY_KERNEL


def test_interest_list_of_an_empty_epoll_is_empty():
    """No entry is not an error."""
    with closing(select.epoll()) as epoll:
        assert kernel.interest_list(epoll) == []


def test_interest_list_of_many_entries_is_whole():
    """A list longer than one page of /proc has every entry once."""
    with ExitStack() as stack, closing(select.epoll()) as epoll:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        numbers = [os.dup(reader) for _ in range(300)]
        for number in numbers:
            stack.callback(os.close, number)
            epoll.register(number, EPOLLIN)
        assert sorted(entry.fd for entry in kernel.interest_list(epoll)) == sorted(numbers)


def test_interest_list_refuses_what_is_no_epoll(pair):
    """The error says what the descriptor is instead."""
    with pytest.raises(ValueError, match=r"socket:\[\d+\], not an epoll"):
        kernel.interest_list(pair[0])


def test_interest_list_refuses_a_closed_epoll():
    """A descriptor that is not there is EBADF, closed object or bare number."""
    epoll = select.epoll()
    number = epoll.fileno()
    epoll.close()
    with pytest.raises(OSError, match=f"no descriptor {number}") as caught:
        kernel.interest_list(number)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="no descriptor -1"):
        kernel.interest_list(-1)


@pytest.mark.parametrize(
    "ask",
    [
        lambda pid: kernel.interest_list(3, pid),
        kernel.context_switches,
        kernel.cpu_time_ns,
        kernel.cpu_times,
        kernel.descriptors_open,
        kernel.listening_ports,
        kernel.threads,
        lambda pid: kernel.context_switches(tid=pid),
        lambda pid: kernel.cpu_time_ns(tid=pid),
    ],
)
def test_a_process_that_is_gone_is_named(ask):
    """Each question about a process that has ended raises ProcessLookupError."""
    pid = _ended_pid()
    with pytest.raises(ProcessLookupError, match=f"{pid}.*has ended"):
        ask(pid)


def test_old_kernels_print_less():
    """Without position, inode and device the entry has None for them."""
    (found,) = proc._ENTRY.finditer("tfd:        5 events:       1d data:                5\n")
    entry = proc._interest_entry(*found.groups())
    assert entry == (5, 0x1D, "IN|OUT|ERR|HUP", 5, None, None, None)


# --- TCP --------------------------------------------------------------------------------


def test_tcp_info_of_a_connection(connection):
    """State, sizes and byte counts of both ends agree with what was sent."""
    _, client, accepted = connection
    client.sendall(b"x" * 1000)
    assert accepted.recv(1000, socket.MSG_WAITALL | socket.MSG_PEEK) == b"x" * 1000
    sent, received = kernel.tcp_info(client), kernel.tcp_info(accepted)
    assert (sent.state, received.state) == ("ESTABLISHED", "ESTABLISHED")
    assert received.bytes_received == 1000
    assert sent.bytes_sent == 1000
    assert sent.snd_wscale == received.rcv_wscale
    assert sent.snd_mss > 0
    assert sent.snd_cwnd > 0
    assert sent.rto_us >= 1000


def test_tcp_info_names_the_states(connection):
    """Half-closed ends are FIN_WAIT2 and CLOSE_WAIT, a listener LISTEN."""
    listener, client, accepted = connection
    client.shutdown(socket.SHUT_WR)
    assert accepted.recv(1) == b""
    assert kernel.tcp_info(accepted).state == "CLOSE_WAIT"
    assert kernel.tcp_info(client).state in ("FIN_WAIT1", "FIN_WAIT2")  # its FIN may be unanswered
    assert kernel.tcp_info(listener).state == "LISTEN"


def test_tcp_info_of_an_older_kernel_is_shorter():
    """Fields beyond what the kernel returned are None, the others are kept."""
    with socket.socket() as sock:
        whole = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
    old = tcp._decode_tcp_info(whole[:104])
    assert old.state == "CLOSE"
    assert old.total_retrans == 0
    assert old[32:] == (None,) * len(old[32:])
    newer = tcp._decode_tcp_info(whole[:150])  # cut within notsent_bytes, min_rtt, ...
    assert newer.segs_in == 0
    assert newer.notsent_bytes == 0
    assert newer.min_rtt_us is None
    with pytest.raises(OSError, match="gave 40 bytes"):
        tcp._decode_tcp_info(whole[:40])


def test_tcp_info_fields_stand_where_the_kernel_puts_them():
    """Each field is read from its own offset in struct tcp_info (include/uapi/linux/tcp.h)."""
    data = bytearray(280)
    offsets = {
        "rto_us": 8,
        "unacked": 24,
        "rtt_us": 68,
        "total_retrans": 100,
        "bytes_acked": 120,
        "notsent_bytes": 144,
        "delivery_rate": 160,
        "sndbuf_limited_us": 184,
        "bytes_sent": 200,
        "snd_wnd": 228,
        "rehash": 236,
    }
    for number, offset in enumerate(offsets.values(), start=1):
        data[offset : offset + 4] = number.to_bytes(4, sys.byteorder)
    info = tcp._decode_tcp_info(bytes(data))._asdict()
    assert {name: info[name] for name in offsets} == {
        name: number for number, name in enumerate(offsets, start=1)
    }


def test_tcp_info_refuses_what_is_not_tcp(pair):
    """A Unix socket and a datagram socket are named in the error."""
    with pytest.raises(ValueError, match="AF_UNIX SOCK_STREAM"):
        kernel.tcp_info(pair[0])
    with (
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        pytest.raises(ValueError, match="SOCK_DGRAM"),
    ):
        kernel.tcp_info(datagrams)


def test_tcp_info_of_a_closed_socket_is_refused():
    """The operating system's own error comes through."""
    sock = socket.socket()
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.tcp_info(sock)


def test_listen_queue_counts_what_is_not_accepted():
    """The length grows with each complete connection and falls with each accept."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=7))
        assert kernel.listen_queue(listener) == (0, 7)
        for _ in range(3):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        assert kernel.listen_queue(listener).length == 3
        stack.enter_context(listener.accept()[0])
        assert kernel.listen_queue(listener) == (2, 7)


def test_listen_queue_refuses_a_connection(connection):
    """Only a listener has an accept queue."""
    with pytest.raises(ValueError, match="this socket is ESTABLISHED"):
        kernel.listen_queue(connection[1])


def test_bytes_in_a_pair(pair):
    """What one end sends and the other has not read is counted."""
    left, right = pair
    left.send(b"12345")
    assert kernel.bytes_readable(right) == 5
    right.recv(2)
    assert kernel.bytes_readable(right.fileno()) == 3


def test_bytes_that_a_peer_does_not_take(connection):
    """With the window closed some bytes are unsent, and those are unacknowledged too."""
    _, client, accepted = connection
    client.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += client.send(b"x" * 65536)
    select.select([accepted], [], [])
    # In this order, since what is on its way may arrive between two questions.
    readable = kernel.bytes_readable(accepted)
    unacknowledged = kernel.bytes_unacknowledged(client)
    unsent = kernel.bytes_unsent(client)
    assert 0 < unsent <= unacknowledged <= sent
    assert 0 < readable <= sent - unsent


def test_bytes_of_a_listener_are_refused(connection):
    """A listener has no bytes: EINVAL, as the kernel says."""
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.bytes_readable(connection[0])


def test_listening_ports_are_this_process_own():
    """IPv4 and IPv6 listeners are found, and a bound socket that does not listen is not."""
    before = kernel.listening_ports()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket() as bound,
        _child("import socket; s = socket.create_server(('127.0.0.1', 0))") as process,
    ):
        bound.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert kernel.listening_ports() - before == {port}
        (other,) = kernel.listening_ports(process.pid)
        assert other not in (port, bound.getsockname()[1])


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_listening_ports_on_ipv6():
    """A listener on ::1 is found in the kernel's other table."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    with listener:
        assert listener.getsockname()[1] in kernel.listening_ports()


# --- processes and threads --------------------------------------------------------------


def test_threads_and_children_are_listed():
    """A thread and a child appear while they live."""
    ended, started = threading.Event(), threading.Event()
    found = []

    def work():
        found.append(threading.get_native_id())
        started.set()
        ended.wait()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    try:
        assert kernel.threads().keys() >= {os.getpid(), found[0]}
    finally:
        ended.set()
        thread.join()
    with _child("pass") as process:
        assert process.pid in kernel.children()
        assert list(kernel.threads(process.pid)) == [process.pid]
    assert process.pid not in kernel.children()


def test_a_programs_name_with_spaces_and_parentheses():
    """The fields after the name are found whatever the name holds."""
    code = "open('/proc/self/comm', 'w').write('a) R 1 (b')"
    with _child(code) as process:
        assert kernel.threads(process.pid) == {process.pid: "a) R 1 (b"}
        assert process.pid in kernel.children()
        assert kernel.cpu_times(process.pid).user_s >= 0


def test_blocking_is_a_voluntary_switch():
    """A process that answers and goes back to sleep has switched voluntarily each time."""
    code = "import os\nos.write(1, b'\\n')\nwhile os.write(1, os.read(0, 1)): pass\nos._exit(0)"
    with _child(code) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            before = kernel.context_switches(process.pid)
            os.write(process.stdin.fileno(), b"x")
            assert os.read(process.stdout.fileno(), 1) == b"x"
            _until(lambda before=before: kernel.context_switches(process.pid)[0] > before[0])
        assert kernel.context_switches(process.pid, process.pid)[0] >= before[0] + 1


def _until(holds: Callable[[], bool]) -> None:
    """Wait for what the other side is bound to do; half a minute is never."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it has not come about in 30 s"


def test_context_switches_of_a_process_are_the_sum_of_its_threads():
    """A sleeping child's total stays the sum over its threads."""
    code = (
        "import threading, os\n"
        "r, w = os.pipe()\n"
        "for _ in range(3): threading.Thread(target=os.read, args=(r, 1), daemon=True).start()"
    )
    with _child(code) as process:
        tids = kernel.threads(process.pid)
        each = [kernel.context_switches(process.pid, tid).voluntary for tid in tids]
        assert len(tids) == 4
        assert kernel.context_switches(process.pid).voluntary >= sum(each) > each[0]


def _burn(duration_ns: int) -> None:
    """Spend CPU time by the thread's own clock, however loaded the machine is."""
    end = kernel.cpu_time_ns(tid=threading.get_native_id()) + duration_ns
    while kernel.cpu_time_ns(tid=threading.get_native_id()) < end:
        pass


def test_cpu_time_of_process_and_thread():
    """A thread's work counts for it and for the process, and stays when it has ended."""
    before = kernel.cpu_time_ns()
    own = kernel.cpu_time_ns(tid=threading.get_native_id())
    by_number = kernel.cpu_time_ns(os.getpid())
    thread = threading.Thread(target=_burn, args=(20_000_000,))
    thread.start()
    thread.join()
    assert kernel.cpu_time_ns() - before >= 20_000_000
    assert kernel.cpu_time_ns(os.getpid()) - by_number >= 20_000_000
    assert by_number >= before
    assert kernel.cpu_time_ns(tid=threading.get_native_id()) > own


def test_cpu_time_of_a_child():
    """By its number, for the whole and for its thread, and in ticks, they agree when it sleeps."""
    with _child("for i in range(2_000_000): pass") as process:
        total = kernel.cpu_time_ns(process.pid)
        thread = kernel.cpu_time_ns(process.pid, process.pid)
        ticks = proc._ticks_ns(process.pid, None)
        parts = kernel.cpu_times(process.pid)
    assert total > 10_000_000
    assert abs(total - thread) < 60_000_000  # it may still be falling asleep
    assert abs(total - ticks) < 60_000_000
    assert parts.user_s + parts.system_s == pytest.approx(ticks / 1e9, abs=0.05)


def test_cpu_time_without_the_precise_sources(monkeypatch):
    """Clock and schedstat missing, the ticks of stat answer instead."""
    monkeypatch.setattr(proc, "_cpu_clock", lambda _pid: -(1 << 30))
    real = proc._process_text

    def without_schedstat(name, pid, tid=None):
        if name == "schedstat":
            raise ProcessLookupError
        return real(name, pid, tid)

    monkeypatch.setattr(proc, "_process_text", without_schedstat)
    with _child("for i in range(2_000_000): pass") as process:
        assert kernel.cpu_time_ns(process.pid) >= 10_000_000
        assert kernel.cpu_time_ns(process.pid, process.pid) >= 10_000_000


def test_counters_have_nstats_names_and_grow(connection):
    """A connection made is at least one more active open, and an unchanged counter is left out."""
    before = kernel.counters()
    assert {"TcpExtListenOverflows", "TcpExtListenDrops", "TcpRetransSegs"} <= before.keys()
    with socket.create_connection(connection[0].getsockname()):
        change = kernel.counters_since(before)
    assert change["TcpActiveOpens"] >= 1
    assert 0 not in change.values()


# --- limits -----------------------------------------------------------------------------


@contextmanager
def _limits(soft: int) -> Iterator[kernel.DescriptorLimits]:
    before = kernel.descriptor_limits()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before.hard))
    try:
        yield kernel.descriptor_limits()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_and_put_back():
    """Inside, more descriptors than the old limit can be open."""
    with _limits(200) as limits:
        with kernel.raise_descriptor_limit(250) as raised:
            assert raised == kernel.descriptor_limits().soft == 250
            numbers = [os.dup(0) for _ in range(201)]
        assert kernel.descriptor_limits() == limits
        for number in numbers:
            os.close(number)


def test_a_limit_that_suffices_is_left_alone():
    """Fewer wanted than allowed changes nothing; none wanted means all there are."""
    with _limits(200) as limits:
        with kernel.raise_descriptor_limit(10) as raised:
            assert raised == kernel.descriptor_limits().soft == 200
        with kernel.raise_descriptor_limit() as raised:
            assert raised == limits.hard


def test_the_limit_is_put_back_after_an_error():
    """What is raised inside comes through, with the limit restored."""
    with _limits(200):
        with pytest.raises(KeyError), kernel.raise_descriptor_limit(250):
            raise KeyError
        assert kernel.descriptor_limits().soft == 200


def test_a_limit_can_be_raised_for_good():
    """ensure_descriptor_limit keeps it raised; it has nothing that could be dropped."""
    with _limits(200):
        assert kernel.ensure_descriptor_limit(250) == 250
        gc.collect()
        assert kernel.descriptor_limits().soft == 250


def test_more_than_the_hard_limit_is_explained():
    """The message names what is wanted, what was found and every way to raise it."""
    with _limits(200) as limits:
        wanted = limits.hard + 1
        with (
            pytest.raises(kernel.DescriptorLimitError) as caught,
            kernel.raise_descriptor_limit(wanted),
        ):
            pass
        assert kernel.descriptor_limits() == limits
    error = caught.value
    assert (error.errno, error.wanted, error.soft, error.hard) == (
        errno.EMFILE,
        wanted,
        200,
        limits.hard,
    )
    words = (f"{wanted:,}", f"{limits.hard:,}", "200", "ulimit -n", "LimitNOFILE", "limits.conf")
    assert [word for word in words if word not in str(error)] == []


def test_the_limit_error_survives_pickling():
    """A child process can hand it to its parent whole."""
    error = kernel.DescriptorLimitError(5000, 1024, 4096)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.wanted, copy.soft, copy.hard, str(copy)) == (5000, 1024, 4096, str(error))


@pytest.mark.parametrize("wanted", [0, -1])
def test_a_senseless_limit_is_refused(wanted):
    """No descriptors at all cannot be wanted."""
    with pytest.raises(ValueError, match=f"not {wanted}"), kernel.raise_descriptor_limit(wanted):
        pass


def test_descriptors_open_counts_each_one():
    """Two more after a pipe is made, and a child's own three."""
    before = kernel.descriptors_open()
    reader, writer = os.pipe()
    assert kernel.descriptors_open() == before + 2
    os.close(reader)
    os.close(writer)
    with _child("pass") as process:
        assert kernel.descriptors_open(process.pid) == 3


def test_settings_are_read():
    """The bounds are numbers that fit together, and an unknown setting is named."""
    first, last = kernel.local_port_range()
    assert 0 < first < last < 65536
    assert kernel.somaxconn() > 0
    assert kernel.nr_open() >= kernel.descriptor_limits().hard
    assert len(kernel.sysctl("net.ipv4.tcp_rmem")) == 3
    with pytest.raises(FileNotFoundError, match=r"no setting net\.core\.nothing"):
        kernel.sysctl("net.core.nothing")
