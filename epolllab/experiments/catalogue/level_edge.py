"""Phenomena of level and edge: when the kernel reports a descriptor again, and when not."""

import fcntl
import os
import socket
import sys
import termios
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from epolllab import kernel
from epolllab.child import START_S
from epolllab.events import EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from epolllab.experiments.catalogue import registry
from epolllab.experiments.catalogue.bench import ONE, Bench, Descriptor, Epoll, Socket
from epolllab.kernel.waiting import PATIENCE_S

phenomenon = partial(registry.phenomenon, family="level and edge")
MAN = "epoll(7)"
SELFTEST = "Linux selftest epoll_wakeup_test.c"
KINDS = ("pipe", "tcp", "unix", "udp", "eventfd", "pty")
SPINS = 1000
FLOOD = 8_000_000
RECV_SIZE = 512
FULL = 50_000


@phenomenon(
    claim="A level-triggered epoll reports a descriptor at every wait while it has unread bytes.",
    expected={
        "2,000 bytes waiting": ["IN"],
        "after reading 1,000": ["IN"],
        "after reading the rest": [],
    },
    source=f"{MAN}; {SELFTEST}, epoll1",
)
def level_repeats(bench: Bench) -> Iterator[object]:
    here, there, epoll = bench.watched_pair(EPOLLIN)
    bench.send(there, bytes(2000))
    yield bench.masks(epoll)
    bench.recv(here, 1000)
    yield bench.masks(epoll)
    bench.recv(here, 1000)
    yield bench.masks(epoll)


@phenomenon(
    claim="An edge-triggered epoll reports new bytes once, and not again while they stay unread.",
    expected={
        "2,000 bytes waiting": ["IN"],
        "after reading 1,000": [],
        "after one more byte": ["IN"],
    },
    source=f"{MAN}; {SELFTEST}, epoll2",
    notes="This is a stall: the reader waits for an event, and the peer for the reader. No wakeup "
    "was lost; reading a part is not an event, and the next byte is one.",
)
def edge_goes_silent(bench: Bench) -> Iterator[object]:
    here, there, epoll = bench.watched_pair(EPOLLIN | EPOLLET)
    bench.send(there, bytes(2000))
    yield bench.masks(epoll)
    bench.recv(here, 1000)
    yield bench.masks(epoll)
    bench.send(there, b"!")
    yield bench.masks(epoll)


def _open(bench: Bench, kind: str) -> tuple[Descriptor, Callable[[], object]]:
    """Open a descriptor; return it and a function that makes it readable."""
    if kind == "eventfd":
        counter = bench.eventfd()
        return counter, lambda: bench.write(counter, ONE)
    if kind in ("pty", "pipe"):
        reader, writer = bench.pipe() if kind == "pipe" else bench.pty()[::-1]
        return reader, lambda: bench.write(writer, b"x")
    pairs = {"tcp": bench.tcp, "unix": bench.pair, "udp": bench.udp}
    here, there = pairs[kind](f"{kind} reader", f"{kind} writer")
    return here, lambda: bench.send(there, b"x")


@phenomenon(
    claim="Each arrival is a new edge, even if nothing was read since the previous one.",
    expected={kind: ["IN", "IN"] for kind in KINDS},
    source=f"{MAN}; kernel commits 3a34b13a88ca ('pipe: make pipe writes always wake up readers') "
    "and 3b844826b6c6, which keeps that for pipes that are polled",
    since=(5, 14),
    notes="On kernels 5.5 to 5.13, a pipe that was not empty before the write gave no second "
    "event, since the writer woke its readers only if the pipe had been empty. Programs "
    "that relied on it broke, and 5.14 restored it, as did the stable updates of that "
    "August, 5.10 and 5.13 among them.",
)
def edge_fires_on_new_bytes(bench: Bench) -> Iterator[object]:
    for kind in KINDS:
        target, write = _open(bench, kind)
        epoll = bench.watch(target, EPOLLIN | EPOLLET)
        masks = []
        for _ in range(2):
            write()
            # Terminals and loopback may deliver a moment later: wait for the event itself.
            masks += bench.masks(epoll, PATIENCE_S)
        yield masks


@phenomenon(
    claim="Arrivals between waits are one event: the ready list holds descriptors, not arrivals.",
    expected={"five writes, then a wait": ["IN"], "another wait": [], "a wait after each": 5},
    source=f"{MAN}, question 7",
)
def coalescing(bench: Bench) -> Iterator[object]:
    _, there, epoll = bench.watched_pair(EPOLLIN | EPOLLET)
    for _ in range(5):
        bench.send(there, b"x")
    yield bench.masks(epoll)
    yield bench.masks(epoll)
    n_events = 0
    for _ in range(5):
        bench.send(there, b"x")
        n_events += len(bench.wait(epoll))
    yield n_events


@phenomenon(
    claim="EPOLL_CTL_MOD checks the descriptor again: if it is ready, that is a new edge.",
    expected={"first": ["IN"], "again": [], "after modify with the same mask": ["IN"]},
    source=f"{MAN}, question 8; {SELFTEST}, epoll59",
)
def modify_rearms_edge(bench: Bench) -> Iterator[object]:
    here, there, epoll = bench.watched_pair(EPOLLIN | EPOLLET)
    bench.send(there, b"x")
    yield bench.masks(epoll)
    yield bench.masks(epoll)
    bench.modify(epoll, here, EPOLLIN | EPOLLET)
    yield bench.masks(epoll)


@phenomenon(
    claim="Registering a descriptor that is already ready is an edge: earlier bytes are reported.",
    expected={"registered after the bytes arrived": ["IN"], "again": []},
    source="epoll_ctl(2); ep_insert() in fs/eventpoll.c polls the new descriptor at once",
)
def edge_at_registration(bench: Bench) -> Iterator[object]:
    here, there = bench.pair()
    bench.send(there, b"x")
    epoll = bench.watch(here, EPOLLIN | EPOLLET)
    yield bench.masks(epoll)
    yield bench.masks(epoll)


@phenomenon(
    claim="An event has every requested condition that is true, not only the one that changed.",
    expected={
        "when registered": ["OUT"],
        "data arrives": ["IN|OUT"],
        "again": [],
        "one more byte": ["IN|OUT"],
    },
    source=f"{MAN}; ep_send_events() polls the descriptor for all bits again",
    notes="A program that tests 'if IN ... elif OUT ...' does not see OUT in this event. It is not "
    "lost for good: the next event, whatever caused it, has both bits again. But if the peer "
    "waits for what the program would write, no next event comes.",
)
def in_brings_out_along(bench: Bench) -> Iterator[object]:
    _, there, epoll = bench.watched_pair(EPOLLIN | EPOLLOUT | EPOLLET)
    yield bench.masks(epoll)
    bench.send(there, b"x")
    yield bench.masks(epoll)
    yield bench.masks(epoll)
    bench.send(there, b"x")
    yield bench.masks(epoll)


@phenomenon(
    claim="With level-triggered interest in OUT, an idle connection makes waits return at once.",
    expected={f"level: of {SPINS:,} waits returned": SPINS, "edge": 1},
    source="epoll(7); measured here in 100 ms: 17,681 wakeups against 1",
    notes="analysis.diagnose(outcome.recording) identifies this spin from the recording alone.",
)
def writable_spin(bench: Bench) -> Iterator[object]:
    level = bench.watch(bench.pair("level end")[0], EPOLLOUT, "level epoll")
    edge = bench.watch(bench.pair("edge end")[0], EPOLLOUT | EPOLLET, "edge epoll")
    start = bench.clock()
    yield bench.spin(level, SPINS)
    rate = SPINS / max(bench.clock() - start, 1) * 1e9
    yield bench.spin(edge, SPINS)
    bench.notes.append(f"The level-triggered loop had {rate:,.0f} wakeups a second.")


@phenomenon(
    claim="One accept per edge leaves the other connections of a burst in the accept queue.",
    expected={
        "edge: events after 5 connects": 1,
        "edge: left in the queue": 4,
        "edge: next wait": [],
        "edge: a sixth connects": ["IN"],
        "level: events until the queue is empty": 5,
    },
    source=f"{MAN}; the how-to accepts once per event",
)
def edge_accept_strands(bench: Bench) -> Iterator[object]:
    listener, epoll = _connect_five(bench, "edge listener", EPOLLIN | EPOLLET)
    yield len(bench.wait(epoll))
    bench.accept(listener)
    yield kernel.listen_queue(listener.sock).length
    yield bench.masks(epoll)
    bench.connect(listener, "client 6")
    yield bench.masks(epoll, PATIENCE_S)
    listener, epoll = _connect_five(bench, "level listener", EPOLLIN)
    n_events = 0
    while bench.wait(epoll):
        bench.accept(listener)
        n_events += 1
    yield n_events


def _connect_five(bench: Bench, name: str, interest: int) -> tuple[Socket, Epoll]:
    listener = bench.listener(name)
    epoll = bench.watch(listener, interest)
    for number in range(5):
        bench.connect(listener, f"client {number + 1}")
    return listener, epoll


@phenomenon(
    claim="Reading a fast sender until EAGAIN makes all other connections wait.",
    expected="recv calls before the ping's: at least a buffer's worth, "
    f"{FULL // RECV_SIZE}, when draining; 1 with one recv per event, level, or edge with a ready "
    "list",
    judge=lambda seen: (
        seen["edge, drain until EAGAIN"] >= FULL // RECV_SIZE
        and seen["level, one recv per event"] == 1
        and seen["edge, one recv, then back into the program's ready list"] == 1
    ),
    source=f"{MAN}, 'Starvation'; measured here: up to 9,100 recv in one event",
    notes="Counted: recv calls on the flooded connection before a ping that was ready all the time "
    "is read. Another process sends 8 MB as fast as the socket takes them, so draining usually "
    "reads much more than was there when the event was reported. In a longer load the ping's "
    "p99 was 22 ms when draining, 1.0 ms for level with one recv, and 2.3 ms for edge with a "
    "ready list.",
)
def edge_starvation(bench: Bench) -> dict[str, int]:
    return {
        "edge, drain until EAGAIN": _recvs_before_ping(bench, EPOLLET, drain=True),
        "level, one recv per event": _recvs_before_ping(bench, 0, drain=False),
        "edge, one recv, then back into the program's ready list": _recvs_before_ping(
            bench, EPOLLET, drain=False
        ),
    }


def _recvs_before_ping(bench: Bench, flags: int, *, drain: bool) -> int:
    """Run an event loop under a flood; count the reads of it until it is the ping's turn."""
    flooded, flood = bench.tcp("flooded", "flood")
    ping, pinger = bench.pair("ping", "pinger")
    epoll = bench.watch(flooded, EPOLLIN | flags)
    bench.register(epoll, ping, EPOLLIN | flags)
    child = bench.child("epolllab.experiments.workers.herd:make_calls", flood)
    child.send(("send all", flood.fd, FLOOD))
    bench.arrived(flooded, FULL)
    bench.send(pinger, b"x")
    n_recv, ready = 0, deque[int]()
    while True:
        ready += (fd for fd, _ in bench.wait(epoll) if fd not in ready)
        fd = ready.popleft()
        if fd == ping.fd:
            break
        with suppress(BlockingIOError):
            while flooded.sock.recv(RECV_SIZE):
                n_recv += 1
                if not drain:
                    ready += [fd] if flags else []
                    break
    bench.close(flooded)  # the sender gets EPIPE, or has ended
    child.receive(START_S)
    return n_recv


@phenomenon(
    claim="A full socket gets OUT only after a good part has drained; a full pipe, after a page.",
    expected="OUT only after more than 50 % (unix) or 30 % (TCP) of the send buffer has drained; "
    "for a pipe after one page",
    judge=lambda seen: seen["unix"] > 50 and seen["tcp"] > 30 and seen["pipe"] <= 100 / 16,
    source="unix_writable() in net/unix/af_unix.c (a quarter left); sk_stream_is_writable() "
    "in include/net/sock.h (a third free); pipe_poll() in fs/pipe.c",
    notes="Observed in per cent of the full send buffer. For TCP this is not the share that was "
    "read: the receive buffer grows while it is read and takes in more than that. Without "
    "hysteresis, each read would cost the writer one wakeup.",
)
def writable_hysteresis(bench: Bench) -> dict[str, float]:
    seen: dict[str, float] = {}
    for kind, (reader, writer) in (
        ("unix", bench.pair("unix reader", "unix writer")),
        ("pipe", bench.pipe("pipe reader", "pipe writer")),
    ):
        full = bench.fill(writer, 4096)
        seen[kind] = round(100 * _read_until_out(bench, reader, writer) / full, 2)
    receiver, sender = bench.tcp("tcp reader", "tcp writer")
    bench.fill_tcp(receiver, sender)
    full = _send_queue(sender)
    _read_until_out(bench, receiver, sender)
    seen["tcp"] = round(100 * (full - _send_queue(sender)) / full, 2)
    return seen


def _read_until_out(bench: Bench, reader: Descriptor, writer: Descriptor) -> int:
    """Read a page at a time until the writer is reported writable; return the bytes read."""
    epoll = bench.watch(writer, EPOLLOUT)
    n_read, start = 0, bench.clock()
    while not epoll.epoll.poll(0):
        if kernel.bytes_readable(reader.fd):
            n_read += len(os.read(reader.fd, 4096))
    bench.step(f"read {reader.name} until OUT", f"{n_read:,} bytes", start)
    return n_read


def _send_queue(sender: Socket) -> int:
    """Read the bytes in a TCP socket's send buffer (SIOCOUTQ, which is TIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(sender.fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@phenomenon(
    claim="OUT is an edge when a full TCP buffer has room again; on unix sockets, at each read.",
    expected={
        "tcp: when registered, and again": ["OUT"],
        "tcp: a little sent, and read by the peer": [],
        "tcp: buffer full": [],
        "tcp: all read by the peer": ["OUT"],
        "unix: when registered, and again": ["OUT"],
        "unix: a little sent": [],
        "unix: events when the peer reads three sends one by one": 3,
    },
    source="tcp_check_space() in net/ipv4/tcp_input.c, which tests SOCK_NOSPACE; "
    "unix_write_space() in net/unix/af_unix.c, which does not",
    notes="A program that stops writing before EAGAIN and waits for OUT waits forever on TCP. On a "
    "unix socket it is woken at each buffer that the peer has finished, also if it has "
    "nothing to write.",
)
def edge_announces_room(bench: Bench) -> Iterator[object]:
    there, here = bench.tcp("tcp peer", "tcp")
    epoll = bench.watch(here, EPOLLOUT | EPOLLET)
    yield bench.masks(epoll) + bench.masks(epoll)
    bench.send(here, bytes(1000))
    bench.arrived(there, 1000)
    bench.recv(there, 1000)
    bench.until(lambda: _send_queue(here) == 0, "the segment acknowledged")
    yield bench.masks(epoll)
    bench.fill_tcp(there, here)
    yield bench.masks(epoll)
    _read_all(bench, there, here)
    yield bench.masks(epoll, PATIENCE_S) + bench.masks(epoll)
    here, there, epoll = bench.watched_pair(EPOLLOUT | EPOLLET)
    yield bench.masks(epoll) + bench.masks(epoll)
    for _ in range(3):
        bench.send(here, bytes(1000))
    yield bench.masks(epoll)
    n_events = 0
    for _ in range(3):
        bench.recv(there, 1000)
        n_events += len(bench.wait(epoll))
    yield n_events


def _read_all(bench: Bench, reader: Socket, writer: Socket) -> None:
    """Read until the writer's send queue and the receive queue are empty."""
    start = bench.clock()

    def finished() -> bool:
        with suppress(BlockingIOError):
            while reader.sock.recv(65_536):
                pass
        return _send_queue(writer) == 0

    bench.until(finished, "all read")
    bench.step(f"recv {reader.name} until {writer.name} is empty", "all read", start)


@phenomenon(
    claim="A short read shows that a stream was empty, but not that its end of file has arrived.",
    expected={
        "recv of 100": 5,
        "one more byte, without an EAGAIN": ["IN"],
        "IN|ET, data and FIN together": ["IN"],
        "IN|ET, recv of 100": 5,
        "IN|ET, next wait": [],
        "IN|ET, what was missed": "end of file",
        "IN|RDHUP|ET, data and FIN together": ["IN|RDHUP"],
    },
    source=f"{MAN}, question 9; tcp_poll() in net/ipv4/tcp.c sets IN for a FIN as for data",
    notes="A loop that stops after a short read saves the recv that would say EAGAIN. Without "
    "RDHUP in its interest it can miss the end of file that came with the data, and the "
    "connection leaks. On datagram sockets and terminals a short read proves nothing.",
)
def short_read_misses_end(bench: Bench) -> Iterator[object]:
    here, there, epoll = bench.watched_pair(EPOLLIN | EPOLLET)
    bench.send(there, b"hello")
    bench.wait(epoll)
    yield len(bench.recv(here, 100))
    bench.send(there, b"!")
    yield bench.masks(epoll)
    for interest in (EPOLLIN, EPOLLIN | EPOLLRDHUP):
        here, there = bench.tcp()
        bench.send(there, b"hello")
        bench.close(there)
        bench.in_state(here, "CLOSE_WAIT")
        epoll = bench.watch(here, interest | EPOLLET)
        yield bench.masks(epoll)
        if interest == EPOLLIN:
            yield len(bench.recv(here, 100))
            yield bench.masks(epoll)
            yield bench.recv(here, 100).decode() or "end of file"


@phenomenon(
    claim="With SO_RCVLOWAT, a TCP socket is readable only when that many bytes have arrived.",
    expected={"tcp, 50 bytes": [], "tcp, 150 bytes": ["IN"], "unix, 50 bytes": ["IN"]},
    source="socket(7); tcp_poll() in net/ipv4/tcp.c since 2.6.28; unix_poll() does not look at it",
)
def low_water_mark(bench: Bench) -> Iterator[object]:
    for kind, (here, there) in (("tcp", bench.tcp()), ("unix", bench.pair())):
        here.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100)
        epoll = bench.watch(here, EPOLLIN)
        bench.send(there, bytes(50))
        bench.arrived(here, 50)
        yield bench.masks(epoll)
        if kind == "tcp":
            bench.send(there, bytes(100))
            bench.arrived(here, 150)
            yield bench.masks(epoll)


@phenomenon(
    claim="An edge-triggered eventfd need not be read: each write to it is an event.",
    expected={"five writes, a wait after each": 5, "a wait without a write": []},
    source=f"{MAN}; eventfd_write() in fs/eventfd.c wakes at every write",
    notes="A wakeup descriptor may stay unread forever with ET, but never without.",
)
def eventfd_edge_unread(bench: Bench) -> Iterator[object]:
    counter = bench.eventfd()
    epoll = bench.watch(counter, EPOLLIN | EPOLLET)
    n_events = 0
    for _ in range(5):
        bench.write(counter, ONE)
        n_events += len(bench.wait(epoll))
    yield n_events
    yield bench.masks(epoll)


@phenomenon(
    claim="A level-triggered eventfd that wakes a loop and is not read wakes it again forever.",
    expected={"after one write, of 1,000 waits returned": 1000, "after reading it": []},
    source=f"{MAN}; eventfd(2): readable while the counter is over 0",
    notes="Read it, or register it with ET; see eventfd-edge-unread.",
)
def unread_wakeup_spins(bench: Bench) -> Iterator[object]:
    counter = bench.eventfd()
    epoll = bench.watch(counter, EPOLLIN)
    bench.write(counter, ONE)
    n_returned = bench.spin(epoll, 1000)
    bench.read(counter, 8)
    yield n_returned
    yield bench.masks(epoll)
