# ruff: noqa: D103 - the claim in the decorator says what each function shows
"""Level and edge: when the kernel says something again, and when it does not.

One job: the phenomena of this family. Each works on the bench it is given, and knows
nothing of catalogue and verdict.
"""

import os
import socket
from collections.abc import Callable, Iterator

from epolllab import kernel
from epolllab.events import EPOLLET, EPOLLIN, EPOLLOUT
from epolllab.experiments.catalogue.bench import Bench, End, Watcher
from epolllab.experiments.catalogue.registry import phenomenon
from epolllab.kernel.waiting import PATIENCE_S

FAMILY = "level and edge"
MAN = "epoll(7)"
SELFTEST = "Linux selftest epoll_wakeup_test.c"


@phenomenon(
    "level-repeats",
    family=FAMILY,
    claim="A level-triggered epoll reports at every wait what can still be read.",
    expected={
        "2,000 bytes waiting": ["IN"],
        "after reading 1,000": ["IN"],
        "after reading the rest": [],
    },
    source=f"{MAN}; {SELFTEST}, epoll1",
)
def level_repeats(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    bench.send(there, bytes(2000))
    seen: dict[str, object] = {"2,000 bytes waiting": bench.masks(epoll)}
    bench.recv(here, 1000)
    seen["after reading 1,000"] = bench.masks(epoll)
    bench.recv(here, 1000)
    seen["after reading the rest"] = bench.masks(epoll)
    return seen


@phenomenon(
    "edge-goes-silent",
    family=FAMILY,
    claim="An edge-triggered epoll reports new bytes once and says nothing of those left unread.",
    expected={
        "2,000 bytes waiting": ["IN"],
        "after reading 1,000": [],
        "after one byte more": ["IN"],
    },
    source=f"{MAN}; {SELFTEST}, epoll2",
    notes="This is the lost wake-up: the reader waits for the peer and the peer for the reader.",
)
def edge_goes_silent(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLET)
    bench.send(there, bytes(2000))
    seen: dict[str, object] = {"2,000 bytes waiting": bench.masks(epoll)}
    bench.recv(here, 1000)
    seen["after reading 1,000"] = bench.masks(epoll)
    bench.send(there, b"!")
    seen["after one byte more"] = bench.masks(epoll)
    return seen


KINDS = ("pipe", "tcp", "unix", "udp", "eventfd", "pty")


def _opened(bench: Bench, kind: str) -> tuple[End, Callable[[], object]]:
    """A descriptor to watch, and what makes it readable."""
    if kind == "eventfd":
        counter = bench.eventfd()
        return counter, lambda: bench.write(counter, (1).to_bytes(8, "little"))
    make = {"tcp": bench.tcp, "unix": bench.pair, "udp": bench.udp, "pipe": bench.pipe}
    if kind == "pty":
        master, slave = bench.pty()
        return slave, lambda: bench.write(master, b"x")
    here, there = make[kind](f"{kind} reader", f"{kind} writer")
    if kind == "pipe":
        return here, lambda: bench.write(there, b"x")
    return here, lambda: bench.send(there, b"x")


@phenomenon(
    "edge-fires-on-new-bytes",
    family=FAMILY,
    claim="Each arrival is a new edge, also where nothing of the one before was read.",
    expected={kind: ["IN", "IN"] for kind in KINDS},
    source=f"{MAN}; kernel commits 3a34b13a88ca ('pipe: make pipe writes always wake up readers') "
    "and 3b844826b6c6, which keeps that for pipes that are polled",
    since=(5, 14),
    notes=(
        "Edge on old kernels: from 5.5 to 5.13 a pipe that was not empty before the write gave "
        "no second event, since the writer woke its readers only when the pipe had been empty. "
        "Programs that relied on it broke, and 5.14 brought it back, as did the stable updates "
        "of that August, 5.10 and 5.13 among them."
    ),
)
def edge_fires_on_new_bytes(bench: Bench) -> dict[str, list[str]]:
    seen: dict[str, list[str]] = {}
    for kind in KINDS:
        end, write = _opened(bench, kind)
        epoll = bench.epoll()
        bench.register(epoll, end, EPOLLIN | EPOLLET)
        seen[kind] = []
        for _ in range(2):
            write()
            # A terminal and loopback may hand over a moment later: wait for the event itself.
            seen[kind] += bench.masks(epoll, timeout=PATIENCE_S)
    return seen


@phenomenon(
    "coalescing",
    family=FAMILY,
    claim="Arrivals between two waits are one event; the queue holds descriptors, not arrivals.",
    expected={"five writes, then a wait": ["IN"], "and another": [], "a wait after each": 5},
    source=f"{MAN}, question 7",
)
def coalescing(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLET)
    for _ in range(5):
        bench.send(there, b"x")
    seen: dict[str, object] = {
        "five writes, then a wait": bench.masks(epoll),
        "and another": bench.masks(epoll),
    }
    n_events = 0
    for _ in range(5):
        bench.send(there, b"x")
        n_events += len(bench.wait(epoll))
    seen["a wait after each"] = n_events
    return seen


@phenomenon(
    "modify-rearms-edge",
    family=FAMILY,
    claim="EPOLL_CTL_MOD looks at the descriptor anew: what is ready is an edge again.",
    expected={"first": ["IN"], "again": [], "after modify with the same mask": ["IN"]},
    source=f"{MAN}, question 8; {SELFTEST}, epoll59",
)
def modify_rearms_edge(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLET)
    bench.send(there, b"x")
    seen: dict[str, object] = {"first": bench.masks(epoll), "again": bench.masks(epoll)}
    bench.modify(epoll, here, EPOLLIN | EPOLLET)
    seen["after modify with the same mask"] = bench.masks(epoll)
    return seen


@phenomenon(
    "edge-at-registration",
    family=FAMILY,
    claim="Registering a descriptor that is ready already is an edge: nothing is lost before it.",
    expected={"registered after the bytes came": ["IN"], "again": []},
    source="epoll_ctl(2); ep_insert() in fs/eventpoll.c polls the new descriptor at once",
)
def edge_at_registration(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.send(there, b"x")
    bench.register(epoll, here, EPOLLIN | EPOLLET)
    return {"registered after the bytes came": bench.masks(epoll), "again": bench.masks(epoll)}


@phenomenon(
    "in-brings-out-along",
    family=FAMILY,
    claim="An event tells all that holds at that moment, not only what changed.",
    expected={"when registered": ["OUT"], "data arrives": ["IN|OUT"], "again": []},
    source=f"{MAN}; ep_send_events() asks the descriptor for all bits anew",
    notes="A program that asks 'if IN ... elif OUT ...' loses one of the two edges for good.",
)
def in_brings_out_along(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLOUT | EPOLLET)
    seen: dict[str, object] = {"when registered": bench.masks(epoll)}
    bench.send(there, b"x")
    seen["data arrives"] = bench.masks(epoll)
    seen["again"] = bench.masks(epoll)
    return seen


SPINS = 1000


@phenomenon(
    "writable-spin",
    family=FAMILY,
    claim="Level-triggered interest in OUT on an idle connection makes every wait return at once.",
    expected={f"level: of {SPINS:,} waits returned": SPINS, "edge": 1},
    source="epoll(7); seen here in 100 ms: 17,681 wake-ups against 1",
    notes="experiments.diagnose(outcome.recording) names this spin from the record alone.",
)
def writable_spin(bench: Bench) -> dict[str, object]:
    seen: dict[str, object] = {}
    for name, key, flags in (
        ("level", f"level: of {SPINS:,} waits returned", 0),
        ("edge", "edge", EPOLLET),
    ):
        here, _ = bench.pair(f"{name} end")
        epoll = bench.epoll(f"{name} epoll")
        bench.register(epoll, here, EPOLLOUT | flags)
        seen[key] = bench.spin(epoll, SPINS)
    level = next(step for step in bench.steps if "times" in step.what)
    rate = SPINS / max(level.dur_ns, 1) * 1e9
    bench.note(f"The level-triggered loop turned at {rate:,.0f} wake-ups a second.")
    return seen


@phenomenon(
    "edge-accept-strands",
    family=FAMILY,
    claim="One accept per edge leaves the other connections of the burst in the queue.",
    expected={
        "edge: events after 5 connects": 1,
        "edge: left in the queue": 4,
        "edge: next wait": [],
        "edge: a sixth connects": ["IN"],
        "level: events until the queue is empty": 5,
    },
    source=f"{MAN}; the how-to accepts once per event",
)
def edge_accept_strands(bench: Bench) -> dict[str, object]:
    listener, epoll = bench.listener("edge listener"), bench.epoll()
    bench.register(epoll, listener, EPOLLIN | EPOLLET)
    for number in range(5):
        bench.connect(listener, f"client {number + 1}")
    seen: dict[str, object] = {"edge: events after 5 connects": len(bench.wait(epoll))}
    bench.accept(listener)
    assert listener.sock is not None
    seen["edge: left in the queue"] = kernel.listen_queue(listener.sock).length
    seen["edge: next wait"] = bench.masks(epoll)
    bench.connect(listener, "client 6")
    seen["edge: a sixth connects"] = bench.masks(epoll, timeout=PATIENCE_S)
    seen["level: events until the queue is empty"] = _level_accepts(bench)
    return seen


def _level_accepts(bench: Bench) -> int:
    listener, epoll = bench.listener("level listener"), bench.epoll()
    bench.register(epoll, listener, EPOLLIN)
    for number in range(5):
        bench.connect(listener, f"client {number + 1}")
    n_events = 0
    while bench.wait(epoll):
        bench.accept(listener)
        n_events += 1
    return n_events


HOSE = 500


@phenomenon(
    "edge-starvation",
    family=FAMILY,
    claim="Reading a fast sender until it would block lets everyone else wait.",
    expected={
        "drain until EAGAIN": HOSE,
        "level, one recv an event": 1,
        "edge, one recv, then back in a list of one's own": 1,
    },
    source=f"{MAN}, 'Starvation'; seen here with a real sender: up to 9,100 recv in one event",
    notes=(
        "What is counted: recv of the firehose before a ping that was ready all the time got its "
        f"turn. The firehose sends as fast as it is read, and stops after {HOSE}. With a sender in "
        "another process, and a ping's p99: drained 22 ms, level with one recv 1.0 ms, "
        "edge with a ready list 2.3 ms."
    ),
)
def edge_starvation(bench: Bench) -> dict[str, int]:
    return {
        "drain until EAGAIN": _recvs_before_ping(bench, EPOLLET, _drained),
        "level, one recv an event": _recvs_before_ping(bench, 0, _one_each),
        "edge, one recv, then back in a list of one's own": _recvs_before_ping(
            bench, EPOLLET, _ready_list
        ),
    }


Turns = Iterator[End]
Readable = Callable[[End], bool]


def _recvs_before_ping(
    bench: Bench, flags: int, scheme: Callable[[list[End], Readable], Turns]
) -> int:
    """Receives of the firehose, in the order in which a scheme gives turns."""
    hose, sender = bench.pair("firehose", "its sender")
    ping, pinger = bench.pair("ping", "its sender")
    epoll = bench.epoll()
    sent = bench.send(sender, b"x") and bench.send(pinger, b"x")
    for end in (hose, ping):
        bench.register(epoll, end, EPOLLIN | flags)
    batch = [{hose.fd: hose, ping.fd: ping}[fd] for fd, _ in bench.wait(epoll)]
    n_recv = 0

    def readable(end: End) -> bool:
        return kernel.bytes_readable(end.fd) > 0

    for end in scheme(batch, readable):
        if end is ping:
            break
        os.read(hose.fd, 65_536)
        n_recv += 1
        if sent < HOSE:
            sent += os.write(sender.fd, b"x")
    return n_recv


def _drained(batch: list[End], readable: Readable) -> Turns:
    for end in batch:
        while readable(end):
            yield end


def _one_each(batch: list[End], readable: Readable) -> Turns:
    while True:
        yield from batch


def _ready_list(batch: list[End], readable: Readable) -> Turns:
    queue = list(batch)
    while queue:
        end = queue.pop(0)
        yield end
        if readable(end):
            queue.append(end)


@phenomenon(
    "writable-hysteresis",
    family=FAMILY,
    claim="A full send buffer is called writable again only when a good part of it is drained.",
    expected="OUT only after more than 50 % (unix) and 15 % (TCP) were read; a pipe after a page",
    judge=lambda seen: seen["unix"] > 50 and seen["tcp"] > 15 and seen["pipe"] <= 100 / 16,
    source="unix_writable() in net/unix/af_unix.c (a quarter left); sk_stream_is_writable() "
    "in include/net/sock.h (a third free); pipe_poll() in fs/pipe.c",
    notes="Observed in per cent of what was in the buffers; without this, one read would cost "
    "the writer one wake-up.",
)
def writable_hysteresis(bench: Bench) -> dict[str, float]:
    seen: dict[str, float] = {}
    for kind, (reader, writer) in (
        ("unix", bench.pair("unix reader", "unix writer")),
        ("tcp", bench.tcp("tcp reader", "tcp writer")),
        ("pipe", bench.pipe("pipe reader", "pipe writer")),
    ):
        epoll = bench.epoll()
        held = bench.fill(writer, 4096)
        bench.register(epoll, writer, EPOLLOUT)
        if kind == "tcp":
            # What is underway may still find room in the receiver's buffer.
            held += _filled_and_acknowledged(bench, epoll, reader, writer)
        n_read = 0
        while not epoll.epoll.poll(0):
            n_read += len(os.read(reader.fd, 4096)) if n_read < held else 0
        step = f"read {reader.name} until OUT"
        bench.step(step, f"{n_read:,} of {held:,} bytes", bench.clock(), bench.clock())
        seen[kind] = round(100 * n_read / held, 2)
    return seen


def _filled_and_acknowledged(bench: Bench, epoll: Watcher, reader: End, writer: End) -> int:
    """Fill a TCP connection until nothing is underway and nothing fits; bytes added."""
    assert reader.sock is not None
    assert writer.sock is not None
    receiving, sending = reader.sock, writer.sock

    def acknowledged() -> bool:
        receiving.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return kernel.tcp_info(sending).unacked == 0

    n_bytes = 0
    while True:
        bench.until(acknowledged, "all segments acknowledged")
        if not bench.masks(epoll):
            return n_bytes
        n_bytes += bench.fill(writer, 4096)


@phenomenon(
    "edge-announces-room",
    family=FAMILY,
    claim="Edge-triggered OUT comes once at registration, and again when a full buffer has room.",
    expected={
        "when registered": ["OUT"],
        "again": [],
        "buffer full": [],
        "after the peer has read": ["OUT"],
        "and again": [],
    },
    source=f"{MAN}: with edges, write until EAGAIN and then wait",
)
def edge_announces_room(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLOUT | EPOLLET)
    seen: dict[str, object] = {"when registered": bench.masks(epoll), "again": bench.masks(epoll)}
    bench.fill(here)
    seen["buffer full"] = bench.masks(epoll)
    bench.drain(there)
    seen["after the peer has read"] = bench.masks(epoll)
    seen["and again"] = bench.masks(epoll)
    return seen


@phenomenon(
    "low-water-mark",
    family=FAMILY,
    claim="With SO_RCVLOWAT a TCP socket is readable only from so many bytes on.",
    expected={"tcp, 50 bytes": [], "tcp, 150 bytes": ["IN"], "unix, 50 bytes": ["IN"]},
    source="socket(7); tcp_poll() in net/ipv4/tcp.c since 2.6.28; unix_poll() does not look at it",
)
def low_water_mark(bench: Bench) -> dict[str, object]:
    seen: dict[str, object] = {}
    for kind, (here, there) in (("tcp", bench.tcp()), ("unix", bench.pair())):
        assert here.sock is not None
        here.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100)
        epoll = bench.epoll()
        bench.register(epoll, here, EPOLLIN)
        bench.send(there, bytes(50))
        bench.arrived(here, 50)
        seen[f"{kind}, 50 bytes"] = bench.masks(epoll)
        if kind == "tcp":
            bench.send(there, bytes(100))
            bench.arrived(here, 150)
            seen["tcp, 150 bytes"] = bench.masks(epoll)
    return seen


@phenomenon(
    "eventfd-edge-unread",
    family=FAMILY,
    claim="An edge-triggered eventfd need not be read: each write to it is an event.",
    expected={"five writes, a wait after each": 5, "a wait without a write": []},
    source=f"{MAN}; eventfd_write() in fs/eventfd.c wakes at every write",
    notes="So a wake-up descriptor can be left unread for ever with ET, and never without.",
)
def eventfd_edge_unread(bench: Bench) -> dict[str, object]:
    counter = bench.eventfd()
    epoll = bench.epoll()
    bench.register(epoll, counter, EPOLLIN | EPOLLET)
    n_events = 0
    for _ in range(5):
        bench.write(counter, (1).to_bytes(8, "little"))
        n_events += len(bench.wait(epoll))
    return {
        "five writes, a wait after each": n_events,
        "a wait without a write": bench.masks(epoll),
    }


@phenomenon(
    "unread-wakeup-spins",
    family=FAMILY,
    claim="Level-triggered, an eventfd that woke a loop and is not read wakes it for ever.",
    expected={"after one write, of 1,000 waits returned": 1000, "after reading it": []},
    source=f"{MAN}; eventfd(2): readable while the counter is over 0",
    notes="Read it, or register it with ET; see eventfd-edge-unread.",
)
def unread_wakeup_spins(bench: Bench) -> dict[str, object]:
    counter = bench.eventfd()
    epoll = bench.epoll()
    bench.register(epoll, counter, EPOLLIN)
    bench.write(counter, (1).to_bytes(8, "little"))
    n_returned = bench.spin(epoll, 1000)
    bench.read(counter, 8)
    return {
        "after one write, of 1,000 waits returned": n_returned,
        "after reading it": bench.masks(epoll),
    }
