"""Phenomena of time and queues: timeouts, backlogs, held segments, the interpreter lock.

They measure durations, so each verdict has a stated bound with a wide margin.
"""

import select
import socket
import statistics
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from functools import partial

from epolllab import kernel
from epolllab.child import START_S
from epolllab.events import Op
from epolllab.experiments.catalogue import registry
from epolllab.experiments.catalogue.bench import ONE, Bench, Descriptor, NotPossible, Socket
from epolllab.experiments.catalogue.pictures import picture_of_convoy, picture_of_numbers
from epolllab.kernel import raw
from epolllab.kernel.waiting import PATIENCE_S
from epolllab.server.server import start_server

phenomenon = partial(registry.phenomenon, family="time, queues, Python")
TRIES = 20
BACKLOG = 2
PINGS = 50
REQUESTS = 20


@phenomenon(
    claim="epoll_wait takes whole milliseconds, so CPython rounds up; select, epoll_pwait2 do not.",
    expected="the third shortest of 20 waits takes: 0.2 ms with epoll or poll 1 ms or more, 1.2 ms "
    "with epoll 2 ms or more; 0.2 ms with select or epoll_pwait2 under 0.9 ms, and epoll_wait "
    "called with 0, as a program that cuts off would, under 0.2 ms",
    judge=lambda seen: (
        seen["epoll"] >= 1
        and seen["poll"] >= 1
        and seen["epoll, 1.2 ms"] >= 2
        and seen["select"] < 0.9
        and seen.get("epoll_pwait2", 0.2) < 0.9
        and seen["epoll_wait, cut off to 0"] < 0.2
    ),
    source="epoll_wait(2): the timeout is an int of milliseconds; epoll_pwait2(2) (Linux 5.11); "
    "CPython's select.epoll.poll rounds up (_PyTime_ROUND_CEILING)",
    notes="Observed in milliseconds. The kernel never sees the 0.2 ms: the caller has to round. A "
    "loop that rounds down calls epoll_wait with 0 again and again until the time has come.",
    picture=partial(picture_of_numbers, what="the third shortest of 20 waits (ms)"),
)
def timeout_rounding(bench: Bench) -> dict[str, float]:
    epoll = bench.epoll().epoll
    poll = select.poll()
    waits: dict[str, Callable[[], object]] = {
        "epoll": lambda: epoll.poll(0.0002),
        "poll": lambda: poll.poll(0.2),
        "epoll, 1.2 ms": lambda: epoll.poll(0.0012),
        "epoll_wait, cut off to 0": raw.RawEpoll(epoll, timeout_ms=int(0.2)).wait,
        "select": lambda: select.select([], [], [], 0.0002),
    }
    if raw.has_nanosecond_wait():
        waits["epoll_pwait2"] = raw.RawEpoll(epoll, timeout_ns=200_000).wait
    seen: dict[str, float] = {}
    for name, wait in waits.items():
        start = bench.clock()
        # Not the shortest: one that a signal interrupts ends at the time asked for.
        third = sorted(_time_ms(bench, wait) for _ in range(TRIES))[2]
        seen[name] = round(third, 3)
        bench.step(f"{name}, {TRIES} times", f"the third shortest took {seen[name]} ms", start)
    return seen


def _time_ms(bench: Bench, action: Callable[[], object]) -> float:
    start = bench.clock()
    action()
    return (bench.clock() - start) / 1e6


@phenomenon(
    claim="listen(b) queues b + 1 connections; a further one gets no reply and retries after 1 s.",
    expected={
        "connected of 4": BACKLOG + 1,
        "queue length": BACKLOG + 1,
        "queue limit": BACKLOG,
        "ListenOverflows went up": True,
        "after accepting all, the fourth connects": "at its next try",
    },
    source="listen(2); sk_acceptq_is_full() in include/net/sock.h; TCP_INFO of a listener",
    notes="ListenOverflows counts for the whole network namespace.",
)
def backlog_plus_one(bench: Bench) -> Iterator[object]:
    listener = bench.listener(backlog=BACKLOG)
    before = kernel.counters()
    start = bench.clock()
    clients = [bench.connect(listener, f"client {number + 1}") for number in range(BACKLOG + 1)]
    late = bench.add_socket(socket.socket(), "client 4")
    address = listener.sock.getsockname()
    bench.attempt(bench.call, "connect(client 4)", late.sock.connect, address)
    bench.until(lambda: "TcpExtListenOverflows" in kernel.counters_since(before), "an overflow")
    queue = bench.call("TCP_INFO(listener)", kernel.listen_queue, listener.sock)
    states = [kernel.tcp_info(client.sock).state for client in (*clients, late)]
    for _ in clients:
        bench.accept(listener)
    bench.in_state(late, "ESTABLISHED")
    waited_s = (bench.clock() - start) / 1e9
    bench.notes.append(f"The fourth was connected after {waited_s:.2f} s.")
    yield states.count("ESTABLISHED")
    yield queue.length
    yield queue.limit
    yield True
    yield "at its next try" if waited_s >= 0.9 else "at once"


@phenomenon(
    claim="Two small writes in a row cost a delayed ACK; a cork that is not removed costs 200 ms.",
    expected="until the last byte has arrived, ms, median of 3: write-write 30 or more, cork 150 "
    "or more, TCP_NODELAY and one send under 15",
    judge=lambda seen: (
        seen["write, write"] >= 30
        and seen["corked"] >= 150
        and seen["write, write, TCP_NODELAY"] < 15
        and seen["one send"] < 15
    ),
    source="tcp(7), TCP_NODELAY and TCP_CORK (200 ms); RFC 896, RFC 1122 4.2.3.2; TCP_DELACK_MIN "
    "is 40 ms in include/net/tcp.h",
    picture=partial(picture_of_numbers, what="until the last byte has arrived (ms)"),
)
def nagle_and_cork(bench: Bench) -> dict[str, float]:
    seen: dict[str, float] = {}
    for name, option, writes in (
        ("write, write", None, 2),
        ("write, write, TCP_NODELAY", socket.TCP_NODELAY, 2),
        ("one send", None, 1),
        ("corked", socket.TCP_CORK, 1),
    ):
        start = bench.clock()
        took = [_delivery_ms(bench, option, writes) for _ in range(3)]
        seen[name] = round(statistics.median(took), 2)
        bench.step(name, f"all arrived after {seen[name]} ms", start)
    return seen


def _delivery_ms(bench: Bench, option: int | None, writes: int) -> float:
    """Write single bytes on a new connection; time until all have arrived."""
    here, there = bench.tcp()
    there.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    if option is not None:
        there.sock.setsockopt(socket.IPPROTO_TCP, option, 1)
    # A new connection acknowledges at once for a while; one in use delays.
    here.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    def deliver() -> None:
        for _ in range(writes):
            there.sock.send(b"x")
        bench.arrived(here, writes)

    return _time_ms(bench, deliver)


@phenomenon(
    claim="A server thread beside a computing thread waits for the interpreter lock, 5 ms a time.",
    expected="the slowest tenth of the responses takes half the switch interval or more; without "
    "computing, the median is less than half of it",
    judge=lambda seen: (
        seen["computing: p90"] >= seen["switch interval"] / 2
        and seen["idle: p50"] < seen["switch interval"] / 2
    ),
    source="sys.setswitchinterval(); D. Beazley, 'Understanding the Python GIL', 2010",
    notes="Observed in milliseconds; a client in another process sends a ping every millisecond. "
    "The median rises too if each ping finds the thread asleep, as here; if load keeps it "
    "awake, only the tail rises. "
    "start_server(process=True) gives the loop a lock of its own.",
    picture=picture_of_convoy,
)
def gil_convoy(bench: Bench) -> dict[str, float]:
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise NotPossible("this Python has no interpreter lock")
    server, client = bench.tcp()
    done = bench.eventfd("done")
    child = bench.child("epolllab.experiments.workers.herd:ping", client)
    echo = bench.thread(_echo, server, done)
    seen = {"switch interval": round(sys.getswitchinterval() * 1000, 3)}
    for arm in ("idle", "computing"):
        start, deadline = bench.clock(), time.monotonic() + PATIENCE_S
        child.send((client.fd, PINGS, 0.001))
        while arm == "computing" and not child.connection.poll(0) and time.monotonic() < deadline:
            # A single C call would hold the lock throughout; a loop can be interrupted.
            for _ in range(2_000_000):
                pass
        took = sorted(array("q", child.receive(START_S)))
        bench.data[arm] = took
        seen[f"{arm}: p50"] = round(took[len(took) // 2] / 1e6, 3)
        seen[f"{arm}: p90"] = round(took[len(took) * 9 // 10] / 1e6, 3)
        bench.step(f"{PINGS} pings, main thread {arm}", f"{seen[f'{arm}: p50']} ms median", start)
    bench.write(done, ONE)
    echo.result()
    return seen


def _echo(server: Socket, done: Descriptor) -> None:
    with select.epoll() as epoll:
        epoll.register(server.fd, select.EPOLLIN)
        epoll.register(done.fd, select.EPOLLIN)
        while True:
            for fd, _ in epoll.poll():
                if fd == done.fd:
                    return
                server.sock.send(server.sock.recv(100))


@phenomenon(
    claim="TCP_NODELAY set on a listener is set on the sockets it accepts.",
    expected={"set on the listener": True, "not set": False},
    source="tcp_create_openreq_child() in net/ipv4/tcp_minisocks.c copies the listener's options",
)
def nodelay_inherited(bench: Bench) -> Iterator[object]:
    option = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
    for name, nodelay in (("set on the listener", True), ("not set", False)):
        listener = bench.listener()
        bench.call(f"TCP_NODELAY {name}", listener.sock.setsockopt, *option, nodelay)
        bench.connect(listener)
        accepted = bench.accept(listener)
        yield bool(bench.call("getsockopt(TCP_NODELAY)", accepted.sock.getsockopt, *option))


@phenomenon(
    claim="The how-to's life cycle costs 4 epoll_ctl and 4 events a request; eager, 1 and 2.",
    expected={
        "howto: epoll_ctl per request": 4.0,
        "howto: events per request": 4.0,
        "eager: epoll_ctl per request": 1.0,
        "eager: events per request": 2.0,
    },
    source="the how-to; Gammo, Brecht, Shukla and Pariag, OLS 2004: over 16 % of run time in "
    "epoll_ctl",
    notes="experiments.compare_lifecycles() compares all four life cycles.",
    picture=partial(picture_of_numbers, what="calls and events per request"),
)
def howto_ctl_cost(bench: Bench) -> Iterator[object]:
    for lifecycle in ("howto", "eager"):
        with start_server(lifecycle=lifecycle, accept=1, capacity=10_000) as server:
            what = f"{REQUESTS} requests to a server with lifecycle={lifecycle!r}"
            bench.call(what, _send_requests, server.address)
            ops = server.settle().recording().array()["op"].tolist()
        n_ctl = sum(ops.count(op) for op in (Op.REGISTER, Op.MODIFY, Op.UNREGISTER))
        # Besides the connections, the listener and the wakeup descriptor are registered.
        yield (n_ctl - 2) / REQUESTS
        yield ops.count(Op.READY) / REQUESTS


def _send_requests(address: tuple[str, int]) -> str:
    for _ in range(REQUESTS):
        with socket.create_connection(address, PATIENCE_S) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while sock.recv(1000):
                pass
    return "all responses received"
