# ruff: noqa: D103 - the claim in the decorator says what each function shows
"""Time, queues, Python: time-outs, backlogs, segments held back, and the interpreter lock.

One job: the phenomena of this family. Each works on the bench it is given, and knows
nothing of catalogue and verdict. What is measured here is time, so each verdict rests
on a bound with a wide margin that is stated.
"""

import select
import socket
import statistics
import sys
import time
from array import array
from collections.abc import Callable
from functools import partial

from epolllab import kernel
from epolllab.events import Op
from epolllab.experiments.catalogue.bench import Bench, End
from epolllab.experiments.catalogue.pictures import picture_of_convoy, picture_of_numbers
from epolllab.experiments.catalogue.registry import phenomenon
from epolllab.kernel import raw
from epolllab.kernel.waiting import PATIENCE_S

FAMILY = "time, queues, Python"
TRIES = 20


@phenomenon(
    "timeout-rounding",
    family=FAMILY,
    claim="epoll_wait counts in whole milliseconds, rounded up; select and epoll_pwait2 do not.",
    expected="a wait of 0.2 ms takes, at the least of 20: epoll 1 ms or more; select and "
    "epoll_pwait2 under 0.9 ms",
    judge=lambda seen: (
        seen["epoll"] >= 1
        and seen["poll"] >= 1
        and seen["select"] < 0.9
        and seen.get("epoll_pwait2", 0.2) < 0.9
    ),
    source="epoll_wait(2), epoll_pwait2(2) (Linux 5.11); CPython rounds up, so as not to spin",
    notes="Observed in milliseconds. A loop that asks epoll for less than it has to wait would "
    "spin with a timeout of 0 until the time has come.",
    picture=partial(picture_of_numbers, what="a wait of 0.2 ms, at the least of 20 (ms)"),
)
def timeout_rounding(bench: Bench) -> dict[str, float]:
    epoll = bench.epoll().epoll
    poll = select.poll()
    waits: dict[str, Callable[[], object]] = {
        "epoll": lambda: epoll.poll(0.0002),
        "poll": lambda: poll.poll(0.2),
        "select": lambda: select.select([], [], [], 0.0002),
    }
    if raw.has_nanosecond_wait():
        direct = raw.RawEpoll(timeout_ns=200_000)
        bench.finally_do(direct.close)
        waits["epoll_pwait2"] = direct.wait
    return {name: _least_ms(bench, name, wait) for name, wait in waits.items()}


def _least_ms(bench: Bench, name: str, wait: Callable[[], object]) -> float:
    begun = bench.clock()
    took = []
    for _ in range(TRIES):
        start = bench.clock()
        wait()
        took.append(bench.clock() - start)
    least = round(min(took) / 1e6, 3)
    bench.step(
        f"{name}, 0.2 ms, {TRIES} times", f"after {least} ms at the least", begun, bench.clock()
    )
    return least


BACKLOG = 2


@phenomenon(
    "backlog-plus-one",
    family=FAMILY,
    claim="listen(b) queues b + 1 connections; one more gets no answer and tries again in 1 s.",
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
def backlog_plus_one(bench: Bench) -> dict[str, object]:
    listener = bench.listener(backlog=BACKLOG)
    assert listener.sock is not None
    before = kernel.counters()
    start = bench.clock()
    clients = [bench.connect(listener, f"client {number + 1}") for number in range(BACKLOG + 1)]
    late = _begin_to_connect(bench, listener, "client 4")
    assert late.sock is not None
    bench.until(lambda: "TcpExtListenOverflows" in kernel.counters_since(before), "an overflow")
    queue = bench.do("TCP_INFO(listener)", kernel.listen_queue, listener.sock)
    established = [c for c in (*clients, late) if kernel.tcp_info(c.sock).state == "ESTABLISHED"]  # type: ignore[arg-type]
    seen: dict[str, object] = {
        "connected of 4": len(established),
        "queue length": queue.length,
        "queue limit": queue.limit,
        "ListenOverflows went up": True,
    }
    for _ in clients:
        bench.accept(listener)
    bench.in_state(late, "ESTABLISHED")
    waited_s = (bench.clock() - start) / 1e9
    bench.note(f"The fourth was connected after {waited_s:.2f} s.")
    in_time = waited_s >= 0.9
    seen["after accepting all, the fourth connects"] = "at its next try" if in_time else "at once"
    return seen


def _begin_to_connect(bench: Bench, listener: End, name: str) -> End:
    assert listener.sock is not None
    address = listener.sock.getsockname()
    sock = socket.socket()
    sock.setblocking(False)
    bench.tried(bench.do, f"connect({name})", sock.connect, address)
    return bench.adopt(sock, name)


@phenomenon(
    "nagle-and-cork",
    family=FAMILY,
    claim="Two small writes in a row cost a delayed ACK, and a cork that is never pulled 200 ms.",
    expected="until the last byte is there, ms, median of 3: write-write 30 or more, cork 150 or "
    "more, TCP_NODELAY and one send under 15",
    judge=lambda seen: (
        seen["write, write"] >= 30
        and seen["corked"] >= 150
        and seen["write, write, TCP_NODELAY"] < 15
        and seen["one send"] < 15
    ),
    source="tcp(7), TCP_NODELAY and TCP_CORK (200 ms); RFC 896, RFC 1122 4.2.3.2; TCP_DELACK_MIN "
    "is 40 ms in include/net/tcp.h",
    picture=partial(picture_of_numbers, what="until the last byte is there (ms)"),
)
def nagle_and_cork(bench: Bench) -> dict[str, float]:
    return {
        name: _median_ms(bench, name, option, writes)
        for name, option, writes in (
            ("write, write", None, 2),
            ("write, write, TCP_NODELAY", socket.TCP_NODELAY, 2),
            ("one send", None, 1),
            ("corked", socket.TCP_CORK, 1),
        )
    }


def _median_ms(bench: Bench, name: str, option: int | None, writes: int) -> float:
    """Milliseconds until all that was written has come to the other end."""
    begun = bench.clock()
    took = [_until_all_is_there(bench, option, writes) for _ in range(3)]
    median = round(statistics.median(took), 2)
    bench.step(name, f"all there after {median} ms", begun, bench.clock())
    return median


def _until_all_is_there(bench: Bench, option: int | None, writes: int) -> float:
    here, there = bench.tcp()
    assert here.sock is not None
    assert there.sock is not None
    there.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    if option is not None:
        there.sock.setsockopt(socket.IPPROTO_TCP, option, 1)
    # A new connection acknowledges at once for a while; one in use delays.
    here.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    start = bench.clock()
    for _ in range(writes):
        there.sock.send(b"x")
    bench.arrived(here, writes)
    return (bench.clock() - start) / 1e6


PINGS = 50


@phenomenon(
    "gil-convoy",
    family=FAMILY,
    claim="A server thread beside a computing thread waits for the interpreter lock, 5 ms a time.",
    expected="slowest tenth of the answers begins at half the switch interval or more, against a "
    "median of less than half of it without computing",
    judge=lambda seen: (
        seen["computing: p90"] >= seen["switch interval"] / 2
        and seen["idle: p50"] < seen["switch interval"] / 2
    ),
    source="sys.setswitchinterval(); D. Beazley, 'Understanding the Python GIL', 2010",
    notes="Observed in milliseconds; a client in another process asks once a millisecond. "
    "The median moves too when each question finds the thread asleep, as here; where it is "
    "kept awake by load, only the tail does. "
    "start_server(process=True) gives the loop a lock of its own.",
    picture=picture_of_convoy,
)
def gil_convoy(bench: Bench) -> dict[str, float]:
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise bench.impossible("this Python has no interpreter lock")
    server, client = bench.tcp()
    done = bench.eventfd("done")
    child = bench.child("epolllab.experiments.workers.herd:ping", [client])
    echoing = bench.thread(_echo, server, done)
    seen = {"switch interval": round(sys.getswitchinterval() * 1000, 3)}
    for arm, meanwhile in (("idle", _rest), ("computing", _compute)):
        child.send((client.fd, PINGS, 0.001))
        bench.do(f"{PINGS} pings, main thread {arm}", meanwhile, child.connection.poll)
        took = sorted(array("q", child.receive(PATIENCE_S)))
        bench.data[arm] = took
        seen[f"{arm}: p50"] = round(took[len(took) // 2] / 1e6, 3)
        seen[f"{arm}: p90"] = round(took[len(took) * 9 // 10] / 1e6, 3)
    bench.write(done, (1).to_bytes(8, "little"))
    echoing.result()
    return seen


def _echo(server: End, done: End) -> None:
    assert server.sock is not None
    with select.epoll() as epoll:
        epoll.register(server.fd, select.EPOLLIN)
        epoll.register(done.fd, select.EPOLLIN)
        while True:
            for fd, _ in epoll.poll():
                if fd == done.fd:
                    return
                server.sock.send(server.sock.recv(100))


def _rest(answered: Callable[[float], bool]) -> None:
    answered(PATIENCE_S)


def _compute(answered: Callable[[float], bool]) -> None:
    """Compute in pure Python until the child has answered, or for a few seconds."""
    end = time.monotonic() + PATIENCE_S
    while not answered(0) and time.monotonic() < end:
        # One C call would hold the lock and be counted as one turn; a loop lets go.
        for _ in range(2_000_000):
            pass


@phenomenon(
    "nodelay-inherited",
    family=FAMILY,
    claim="TCP_NODELAY set on a listener is set on the sockets it accepts.",
    expected={"set on the listener": True, "not set": False},
    source="tcp_create_openreq_child() in net/ipv4/tcp_minisocks.c copies the listener's options",
)
def nodelay_inherited(bench: Bench) -> dict[str, bool]:
    seen: dict[str, bool] = {}
    for name, nodelay in (("set on the listener", True), ("not set", False)):
        listener = bench.listener()
        assert listener.sock is not None
        option = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
        bench.do(f"TCP_NODELAY {name}", listener.sock.setsockopt, *option, nodelay)
        bench.connect(listener)
        accepted = bench.accept(listener)
        assert accepted.sock is not None
        seen[name] = bool(bench.do("getsockopt(TCP_NODELAY)", accepted.sock.getsockopt, *option))
    return seen


REQUESTS = 20


@phenomenon(
    "howto-ctl-cost",
    family=FAMILY,
    claim="The how-to's life cycle costs 4 epoll_ctl and 4 events a request; eager, 1 and 2.",
    expected={
        "howto: epoll_ctl per request": 4.0,
        "howto: events per request": 4.0,
        "eager: epoll_ctl per request": 1.0,
        "eager: events per request": 2.0,
    },
    source="the how-to; Gammo, Brecht, Shukla and Pariag, OLS 2004: 16 % of run time in epoll_ctl",
    notes="experiments.compare_lifecycles() compares all four life cycles.",
    picture=partial(picture_of_numbers, what="calls and events per request"),
)
def howto_ctl_cost(bench: Bench) -> dict[str, float]:
    from epolllab.server.server import start_server

    seen: dict[str, float] = {}
    for lifecycle in ("howto", "eager"):
        with start_server(lifecycle=lifecycle, accept=1, capacity=10_000) as server:
            what = f"{REQUESTS} requests to a server with lifecycle={lifecycle!r}"
            bench.do(what, _ask, server.address)
            ops = server.settle().recording().array()
        n_ctl = sum(int((ops["op"] == op).sum()) for op in (Op.REGISTER, Op.MODIFY, Op.UNREGISTER))
        n_ready = int((ops["op"] == Op.READY).sum())
        # Beside the requests, the listener and the wake-up are registered.
        seen[f"{lifecycle}: epoll_ctl per request"] = (n_ctl - 2) / REQUESTS
        seen[f"{lifecycle}: events per request"] = n_ready / REQUESTS
    return seen


def _ask(address: tuple[str, int]) -> str:
    for _ in range(REQUESTS):
        with socket.create_connection(address, PATIENCE_S) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while sock.recv(1000):
                pass
    return "answered"
