"""Phenomena of sharing: several threads or processes that wait for the same descriptor."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

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
    EPOLLWAKEUP,
    mask_names,
)
from epolllab.experiments.catalogue import registry
from epolllab.experiments.catalogue.bench import (
    ONE,
    Bench,
    Descriptor,
    Epoll,
    NotPossible,
    Socket,
)
from epolllab.experiments.catalogue.pictures import picture_of_balance, picture_of_herd
from epolllab.experiments.comparisons import herds
from epolllab.kernel.waiting import PATIENCE_S, are_asleep

phenomenon = partial(registry.phenomenon, family="one-shot, exclusive, herds")
SELFTEST = "Linux selftest epoll_wakeup_test.c"
HERD = 4
CONNECTS = 50
WAYS = ("level", "edge", "exclusive", "shared level", "shared edge")
BALANCED = ("blocking accept", "exclusive", "reuseport")
ORDERS = ("ABC", "ACB", "BAC", "BCA", "CAB", "CBA")
ROUNDS = 300
CAP_BLOCK_SUSPEND = 36


@phenomenon(
    claim="EPOLLONESHOT reports once and then disarms the entry, which stays registered.",
    expected={
        "interest": "0x40000019",
        "data": ["IN"],
        "interest after it": "0x40000000",
        "more data": [],
        "peer closes": [],
        "register": "EEXIST",
        "modify": ["IN|HUP|RDHUP"],
    },
    source="epoll_ctl(2)",
    notes="0x40000019 is ONESHOT|HUP|ERR|IN; a disarmed entry does not even have HUP and ERR.",
)
def oneshot(bench: Bench) -> Iterator[object]:
    here, there, epoll = bench.watched_pair(EPOLLIN | EPOLLONESHOT)
    yield hex(bench.interest(epoll)[0].mask)
    bench.send(there, b"x")
    yield bench.masks(epoll)
    yield hex(bench.interest(epoll)[0].mask)
    bench.recv(here, 10)
    bench.send(there, b"x")
    yield bench.masks(epoll)
    bench.close(there)
    yield bench.masks(epoll)
    yield bench.attempt(bench.register, epoll, here, EPOLLIN)
    bench.modify(epoll, here, EPOLLIN | EPOLLRDHUP | EPOLLONESHOT)
    yield bench.masks(epoll)


@phenomenon(
    claim="EPOLLEXCLUSIVE goes with IN, OUT, ERR, HUP, ET and WAKEUP only, and with ADD only.",
    expected={
        "with ONESHOT": "EINVAL",
        "with RDHUP": "EINVAL",
        "with PRI": "EINVAL",
        "an epoll": "EINVAL",
        "with OUT, ERR, HUP, ET and WAKEUP": "ok",
        "modify of it": "EINVAL",
        "modify to it": "EINVAL",
    },
    source="epoll_ctl(2); EPOLLEXCLUSIVE_OK_BITS in fs/eventpoll.c",
    since=(4, 5),
    notes="ERR and HUP are always reported, so naming them changes nothing.",
)
def exclusive_rules(bench: Bench) -> Iterator[object]:
    here, there = bench.pair()
    epoll, other = bench.epoll(), bench.epoll("another epoll")
    base = EPOLLIN | EPOLLEXCLUSIVE
    for target, extra in (
        (here, EPOLLONESHOT),
        (here, EPOLLRDHUP),
        (here, EPOLLPRI),
        (other, 0),
        (here, EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLET | EPOLLWAKEUP),
    ):
        yield bench.attempt(bench.register, epoll, target, base | extra)
    yield bench.attempt(bench.modify, epoll, here, EPOLLIN)
    bench.register(epoll, there, EPOLLIN)
    yield bench.attempt(bench.modify, epoll, there, base)


@phenomenon(
    claim="One connection wakes each process whose epoll watches the listener; EXCLUSIVE, one.",
    expected=f"woken per connection, within a quarter: level {HERD}, edge {HERD}, exclusive 1, "
    "shared level 2 or more, shared edge 1",
    judge=lambda seen: all(herds.is_woken(way, HERD, seen[way]) for way in WAYS),
    source="epoll_ctl(2), EPOLLEXCLUSIVE; measured here for 4, 16 and 64 processes",
    since=(4, 5),
    notes=f"{HERD} idle processes, {CONNECTS} connections each; voluntary context switches, since "
    "a worker that was woken in vain goes back to sleep inside the kernel. For EXCLUSIVE the "
    "manual promises 'one or more'; with idle workers it is one. A shared level-triggered epoll "
    "has no fixed number: each woken worker wakes the next, until the connection has been "
    "accepted. experiments.thundering_herd() measures other numbers of processes.",
    picture=picture_of_herd,
)
def thundering_herd(bench: Bench) -> dict[str, float]:
    seen: dict[str, float] = {}
    with herds.Herd(HERD) as herd:
        for way in WAYS:
            what = f"{CONNECTS} connects to {HERD} processes, {way}"
            counts = bench.call(what, _run_herd, herd, way)
            seen[way] = counts["voluntary switches"] / CONNECTS
    bench.data["herd"] = seen
    bench.data["n_workers"] = HERD
    return seen


def _run_herd(herd: herds.Herd, way: str) -> dict[str, Any]:
    counts = herd.run(way, CONNECTS)
    return {
        "voluntary switches": counts.voluntary,
        "waits returned": counts.returned,
        "connections by worker": [counts.order.count(worker) for worker in range(HERD)],
    }


@phenomenon(
    claim="Idle processes get connections in turn (accept), one gets all (EXCLUSIVE), or by hash.",
    expected="blocking accept: even, within 2; exclusive: at least 95 % to one process; "
    "reuseport: each at least a third of an even share",
    judge=lambda seen: (
        max(seen["blocking accept"]) - min(seen["blocking accept"]) <= 2
        and max(seen["exclusive"]) >= 0.95 * sum(seen["exclusive"])
        and min(seen["reuseport"]) >= sum(seen["reuseport"]) / len(seen["reuseport"]) / 3
    ),
    source="Cloudflare, 'Why does one NGINX worker take all the load?', 2017",
    since=(4, 5),
    notes="Connections per worker, of 4 workers, for 200 connects one after the other. Processes "
    "that sleep in accept(2) form a queue: the first to sleep is woken first. Exclusive epolls "
    "are asked in the order of registration, so while all are idle the first gets all; see "
    "exclusive-first-registered.",
    picture=picture_of_balance,
)
def accept_balance(bench: Bench) -> dict[str, list[int]]:
    seen: dict[str, list[int]] = {}
    with herds.Herd(HERD) as herd:
        for arm in BALANCED:
            order = bench.call(f"200 connects, {arm}", lambda arm=arm: herd.run(arm, 200).order)
            bench.data[arm] = order
            seen[arm] = [order.count(worker) for worker in range(HERD)]
    return seen


@phenomenon(
    claim="With EXCLUSIVE the first registered idle epoll is woken, whichever slept first.",
    expected={"woken": ["A"] * len(ORDERS), "woken after A was registered again": ["B"] * 6},
    source="ep_ptable_queue_proc() in fs/eventpoll.c: add_wait_queue_exclusive() appends to the "
    "descriptor's queue, once, at EPOLL_CTL_ADD",
    since=(4, 5),
    notes="Three epolls A, B, C watch an eventfd, registered in this order; a thread waits on "
    f"each, falling asleep in the orders {', '.join(ORDERS)}. Registering again means the end of "
    "the queue: nginx does that with its listeners now and then, so that workers take turns.",
)
def exclusive_first_registered(bench: Bench) -> Iterator[object]:
    for again in (False, True):
        yield [_first_woken(bench, order, again=again) for order in ORDERS]


@phenomenon(
    claim="Of threads that wait on one shared epoll, the last to fall asleep is woken first.",
    expected={"woken": [order[-1] for order in ORDERS]},
    source="ep_poll() in fs/eventpoll.c: __add_wait_queue_exclusive() puts a waiter at the head "
    "of the epoll's own queue, at each wait",
    notes=f"Three threads, falling asleep in the orders {', '.join(ORDERS)}. This queue is the "
    "epoll's own; a descriptor's queue holds the epolls that watch it, in the order of "
    "registration, as exclusive-first-registered shows.",
)
def shared_last_asleep(bench: Bench) -> Iterator[object]:
    yield [_first_woken(bench, order, shared=True) for order in ORDERS]


def _first_woken(bench: Bench, order: str, *, again: bool = False, shared: bool = False) -> str:
    """Register A, B, C, let a thread sleep on each in an order; return who gets an event."""
    counter, release = bench.eventfd(), bench.eventfd("release")
    interest = EPOLLIN | (EPOLLET if shared else EPOLLEXCLUSIVE)
    one = bench.epoll("shared epoll") if shared else None
    epolls = {name: one or bench.epoll(name) for name in "ABC"}
    for epoll in dict.fromkeys(epolls.values()):
        bench.register(epoll, counter, interest)
        bench.register(epoll, release, EPOLLIN)
    if again:
        bench.unregister(epolls["A"], counter)
        bench.register(epolls["A"], counter, interest)
    waiters = {name: bench.waiter(epolls[name]) for name in order}
    bench.write(counter, ONE)
    bench.until_asleep(*waiters.values())
    woken = [name for name, waiter in waiters.items() if not waiter.is_alive()]
    bench.write(release, ONE)
    for waiter in waiters.values():
        waiter.result()
    return ", ".join(woken)


@phenomenon(
    claim="Connections that arrive while all threads are busy go to one of them with a shared ET.",
    expected={
        "edge: connections by thread": [0, 0, 0, 12],
        "level: connections by thread": [3, 3, 3, 3],
    },
    source="epoll(7): the listener is one entry of the ready list, reported once with ET",
    notes="Four threads, twelve connections. Edge-triggered, the first thread to wait gets the one "
    "event and has to accept until EAGAIN, and the others sleep beside a full queue. "
    "Level-triggered, with one accept per event, each free thread takes the next connection.",
)
def edge_burst_one_thread(bench: Bench) -> Iterator[object]:
    for name, flag in (("edge", EPOLLET), ("level", 0)):
        listener = bench.listener(f"{name} listener")
        epoll = bench.watch(listener, EPOLLIN | flag, f"{name} epoll")
        release = bench.eventfd("release")
        bench.register(epoll, release, EPOLLIN)
        for number in range(12):
            bench.connect(listener, f"client {number + 1}")
        yield sorted(_share(bench, epoll, listener, release, until_eagain=bool(flag)))


def _share(
    bench: Bench, epoll: Epoll, listener: Socket, release: Descriptor, *, until_eagain: bool
) -> list[int]:
    """Let four threads take connections; each works until all threads work or sleep."""
    taken, go = [0] * 4, [threading.Semaphore(0) for _ in range(4)]
    working = [False] * 4

    def work(me: int) -> None:
        while [fd for fd, _ in bench.wait(epoll, PATIENCE_S)] == [listener.fd]:
            with suppress(BlockingIOError):
                while True:
                    bench.accept(listener, f"taken by {me}")
                    taken[me] += 1
                    working[me] = True
                    go[me].acquire(timeout=PATIENCE_S)
                    if not until_eagain:
                        break

    threads = [bench.thread(work, me) for me in range(4)]

    def settled() -> bool:
        idle = [thread for me, thread in enumerate(threads) if not working[me]]
        return are_asleep([(os.getpid(), thread.native_id or 0) for thread in idle])

    while sum(taken) < 12 or any(working):
        bench.until(settled, "every thread working or asleep")
        for me in range(4):
            if working[me]:
                working[me] = False
                go[me].release()
    bench.write(release, ONE)
    for thread in threads:
        thread.result()
    return taken


@phenomenon(
    claim="An event that is not consumed wakes all threads on one epoll (level), or one (edge).",
    expected={"level": 4, "edge": 1, "one-shot": 1},
    source=f"{SELFTEST}, epoll9 and epoll10",
    notes="Of four threads. Each woken thread wakes the next while the event is there, so with "
    "level the number depends on how soon one consumes it.",
)
def threads_on_one_epoll(bench: Bench) -> dict[str, int]:
    flags = {"level": 0, "edge": EPOLLET, "one-shot": EPOLLONESHOT}
    return {name: _woken_threads(bench, name, flag) for name, flag in flags.items()}


def _woken_threads(bench: Bench, name: str, flag: int) -> int:
    epoll = bench.epoll(f"{name} epoll")
    counter, release = bench.eventfd(f"{name} eventfd"), bench.eventfd("release")
    bench.register(epoll, counter, EPOLLIN | flag)
    bench.register(epoll, release, EPOLLIN)
    waiters = [bench.waiter(epoll) for _ in range(4)]
    bench.write(counter, ONE)
    # A woken thread wakes the next before its wait returns, so all are awake by now.
    bench.until_asleep(*waiters)
    n_woken = sum(not waiter.is_alive() for waiter in waiters)
    bench.write(release, ONE)
    for waiter in waiters:
        waiter.result()
    return n_woken


@phenomenon(
    claim="While one thread reads, new bytes are an event for a second one; ONESHOT prevents that.",
    expected={"edge: the second thread gets": ["IN"], "one-shot: the second thread gets": []},
    source="epoll(7), EPOLLONESHOT; epoll_ctl(2)",
)
def edge_two_threads(bench: Bench) -> Iterator[object]:
    yield _second_thread_gets(bench, EPOLLET)
    yield _second_thread_gets(bench, EPOLLET | EPOLLONESHOT)


def _second_thread_gets(bench: Bench, flags: int) -> list[str]:
    here, there = bench.pair()
    release = bench.eventfd("release")
    epoll = bench.watch(here, EPOLLIN | flags)
    bench.register(epoll, release, EPOLLIN)
    bench.send(there, b"first")
    bench.wait(epoll)
    second = bench.waiter(epoll)
    bench.send(there, b"second")
    bench.until_asleep(second)
    bench.write(release, ONE)
    return [mask_names(mask) for fd, mask in second.result() if fd == here.fd]


@phenomenon(
    claim="With ten edges and ten threads that take one event each, none is lost in any round.",
    expected={f"rounds of {ROUNDS} with ten events for ten threads": ROUNDS},
    source=f"{SELFTEST}, epoll60",
)
def lost_wakeup_stress(bench: Bench) -> Iterator[object]:
    epoll = bench.epoll()
    counters = [bench.eventfd(f"eventfd {number}") for number in range(10)]
    for counter in counters:
        bench.register(epoll, counter, EPOLLIN | EPOLLET)
    barrier = threading.Barrier(len(counters) + 1)
    taken: list[int] = []
    threads = [bench.thread(_take_one_per_round, epoll, barrier, taken) for _ in counters]
    complete = 0
    start = bench.clock()
    for _ in range(ROUNDS):
        taken.clear()
        barrier.wait(PATIENCE_S)
        for counter in counters:
            os.write(counter.fd, ONE)
        barrier.wait(PATIENCE_S)
        complete += sorted(taken) == sorted(counter.fd for counter in counters)
    for thread in threads:
        thread.result()
    what = f"{ROUNDS} rounds: write ten eventfds, each of ten threads waits for one event"
    bench.step(what, f"{complete} complete", start)
    yield complete


def _take_one_per_round(epoll: Epoll, barrier: threading.Barrier, taken: list[int]) -> None:
    for _ in range(ROUNDS):
        barrier.wait(PATIENCE_S)
        for fd, _ in epoll.epoll.poll(PATIENCE_S, 1):
            os.read(fd, 8)
            taken.append(fd)
        barrier.wait(PATIENCE_S)


@phenomenon(
    claim="EPOLLWAKEUP, which keeps a machine awake, is dropped without CAP_BLOCK_SUSPEND.",
    expected={"the flag is kept exactly if the capability is there": True},
    source="epoll_ctl(2), EPOLLWAKEUP",
    notes="No error is raised: only fdinfo shows whether the flag was kept.",
)
def wakeup_needs_privilege(bench: Bench) -> Iterator[object]:
    epoll = bench.watch(bench.eventfd(), EPOLLIN | EPOLLWAKEUP)
    kept = bool(bench.interest(epoll)[0].mask & EPOLLWAKEUP)
    found = re.search(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())
    capable = bool(found and int(found[1], 16) >> CAP_BLOCK_SUSPEND & 1)
    if capable and not kept:
        raise NotPossible("this kernel is built without CONFIG_PM_SLEEP, and drops the flag")
    bench.notes.append(f"This process {'has' if capable else 'does not have'} the capability.")
    yield kept == capable
