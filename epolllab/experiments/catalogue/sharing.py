"""Phenomena of sharing: several threads or processes that wait for the same descriptor."""

import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from epolllab.events import (
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
    EPOLLWAKEUP,
    mask_names,
)
from epolllab.experiments.catalogue import registry
from epolllab.experiments.catalogue.bench import ONE, Bench, Epoll, NotPossible
from epolllab.experiments.catalogue.pictures import picture_of_balance, picture_of_herd
from epolllab.experiments.comparisons import herds
from epolllab.kernel.waiting import PATIENCE_S

phenomenon = partial(registry.phenomenon, family="one-shot, exclusive, herds")
SELFTEST = "Linux selftest epoll_wakeup_test.c"
HERD = 4
CONNECTS = 50
WAYS = ("level", "edge", "exclusive", "shared level", "shared edge")
BALANCED = ("blocking accept", "exclusive", "reuseport")
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
    claim="EPOLLEXCLUSIVE is allowed with IN, OUT, ET and WAKEUP only, and only in EPOLL_CTL_ADD.",
    expected={
        "with ONESHOT": "EINVAL",
        "with RDHUP": "EINVAL",
        "with PRI": "EINVAL",
        "an epoll": "EINVAL",
        "with OUT, ET and WAKEUP": "ok",
        "modify of it": "EINVAL",
        "modify to it": "EINVAL",
    },
    source="epoll_ctl(2); EPOLLEXCLUSIVE_OK_BITS in fs/eventpoll.c",
    since=(4, 5),
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
        (here, EPOLLOUT | EPOLLET | EPOLLWAKEUP),
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
    "a worker that was woken in vain goes back to sleep inside the kernel. "
    "experiments.thundering_herd() measures other numbers.",
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
    "that sleep in accept(2) form a queue; an exclusive epoll is put at the queue's head, so "
    "the last to sleep is woken again.",
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
    claim="Of four threads on one epoll, an event wakes all (level), or one (edge, one-shot).",
    expected={"level": 4, "edge": 1, "one-shot": 1},
    source=f"{SELFTEST}, epoll9 and epoll10",
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
    claim="With ten edges and ten threads, each thread gets exactly one event, in every round.",
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
