# ruff: noqa: D103 - the claim in the decorator says what each function shows
"""One-shot, exclusive, herds: several who wait for the same thing.

One job: the phenomena of this family. Each works on the bench it is given, and knows
nothing of catalogue and verdict.
"""

import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from epolllab import kernel
from epolllab.events import (
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
    EPOLLWAKEUP,
)
from epolllab.experiments.catalogue.bench import Bench, Watcher
from epolllab.experiments.catalogue.pictures import picture_of_balance, picture_of_herd
from epolllab.experiments.catalogue.registry import phenomenon
from epolllab.experiments.comparisons import herds
from epolllab.kernel.waiting import PATIENCE_S

FAMILY = "one-shot, exclusive, herds"
SELFTEST = "Linux selftest epoll_wakeup_test.c"
ONE = (1).to_bytes(8, "little")


@phenomenon(
    "oneshot",
    family=FAMILY,
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
    notes="0x40000019 is ONESHOT|HUP|ERR|IN; disarmed, not even HUP and ERR are left.",
)
def oneshot(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLONESHOT)
    seen: dict[str, object] = {"interest": hex(bench.interest(epoll)[0].mask)}
    bench.send(there, b"x")
    seen["data"] = bench.masks(epoll)
    seen["interest after it"] = hex(bench.interest(epoll)[0].mask)
    bench.recv(here, 10)
    bench.send(there, b"x")
    seen["more data"] = bench.masks(epoll)
    bench.close(there)
    seen["peer closes"] = bench.masks(epoll)
    seen["register"] = bench.tried(bench.register, epoll, here, EPOLLIN)
    bench.modify(epoll, here, EPOLLIN | EPOLLRDHUP | EPOLLONESHOT)
    seen["modify"] = bench.masks(epoll)
    return seen


@phenomenon(
    "exclusive-rules",
    family=FAMILY,
    claim="EPOLLEXCLUSIVE goes with IN, OUT, ET and WAKEUP only, and only in EPOLL_CTL_ADD.",
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
def exclusive_rules(bench: Bench) -> dict[str, str]:
    here, there = bench.pair()
    epoll, other = bench.epoll(), bench.epoll("another epoll")
    base = EPOLLIN | EPOLLEXCLUSIVE
    seen = {
        name: bench.tried(bench.register, epoll, end, base | extra)
        for name, end, extra in (
            ("with ONESHOT", here, EPOLLONESHOT),
            ("with RDHUP", here, EPOLLRDHUP),
            ("with PRI", here, EPOLLPRI),
            ("an epoll", other, 0),
            ("with OUT, ET and WAKEUP", here, EPOLLOUT | EPOLLET | EPOLLWAKEUP),
        )
    }
    seen["modify of it"] = bench.tried(bench.modify, epoll, here, EPOLLIN)
    bench.register(epoll, there, EPOLLIN)
    seen["modify to it"] = bench.tried(bench.modify, epoll, there, base)
    return seen


HERD = 4
CONNECTS = 50
WAYS = ("level", "edge", "exclusive", "shared level", "shared edge")


@phenomenon(
    "thundering-herd",
    family=FAMILY,
    claim="One connection wakes every process whose epoll watches the listener; EXCLUSIVE, one.",
    expected=f"woken per connection, within a quarter: level {HERD}, edge {HERD}, exclusive 1, "
    "shared level 2 or more, shared edge 1",
    judge=lambda seen: all(herds.is_woken(way, HERD, seen[way]) for way in WAYS),
    source="epoll_ctl(2), EPOLLEXCLUSIVE; seen here for 4, 16 and 64 processes",
    since=(4, 5),
    notes=(
        f"{HERD} idle processes, {CONNECTS} connections each; voluntary context switches, since a "
        "worker woken in vain goes back to sleep inside the kernel. "
        "experiments.thundering_herd() does it for other numbers."
    ),
    picture=picture_of_herd,
)
def thundering_herd(bench: Bench) -> dict[str, float]:
    seen: dict[str, float] = {}
    with herds.Herd(HERD) as herd:
        for way in WAYS:
            what = f"{CONNECTS} connects to {HERD} processes, {way}"
            counts = bench.do(what, lambda way=way: _brief(herd.run(way, CONNECTS)))
            seen[way] = counts["voluntary switches"] / CONNECTS
    bench.data["herd"] = seen
    bench.data["n_workers"] = HERD
    return seen


def _brief(counts: herds.Counts) -> dict[str, Any]:
    return {
        "voluntary switches": counts.voluntary,
        "waits returned": counts.returned,
        "connections by worker": [counts.order.count(worker) for worker in range(HERD)],
    }


BALANCED = ("blocking accept", "exclusive", "reuseport")


@phenomenon(
    "accept-balance",
    family=FAMILY,
    claim="Idle processes get connections in turn (accept), all to one (EXCLUSIVE), or by hash.",
    expected="blocking accept: even, within 2; exclusive: at least 95 % to one process; "
    "reuseport: each at least a third of an even share",
    judge=lambda seen: (
        max(seen["blocking accept"]) - min(seen["blocking accept"]) <= 2
        and max(seen["exclusive"]) >= 0.95 * sum(seen["exclusive"])
        and min(seen["reuseport"]) >= sum(seen["reuseport"]) / len(seen["reuseport"]) / 3
    ),
    source="Cloudflare, 'Why does one NGINX worker take all the load?', 2017",
    since=(4, 5),
    notes=(
        "Connections by worker of 4, for 200 connects one after the other. Sleepers in accept(2) "
        "queue up; an exclusive epoll goes to the head, so the last to sleep is woken again."
    ),
    picture=picture_of_balance,
)
def accept_balance(bench: Bench) -> dict[str, list[int]]:
    seen: dict[str, list[int]] = {}
    with herds.Herd(HERD) as herd:
        for arm in BALANCED:
            order = bench.do(f"200 connects, {arm}", lambda arm=arm: herd.run(arm, 200).order)
            bench.data[arm] = order
            seen[arm] = [order.count(worker) for worker in range(HERD)]
    return seen


@phenomenon(
    "threads-on-one-epoll",
    family=FAMILY,
    claim="Of four threads at one epoll, one event wakes all (level), or one (edge, one-shot).",
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
    # The write has woken whom it wakes; each wakes the next before it returns.
    bench.quiet(waiters)
    n_woken = sum(not waiter.is_alive() for waiter in waiters)
    bench.write(release, ONE)
    for waiter in waiters:
        waiter.result()
    return n_woken


@phenomenon(
    "edge-two-threads",
    family=FAMILY,
    claim="While one thread reads, new bytes are an event for the next one; ONESHOT prevents it.",
    expected={"edge: the second thread gets": ["IN"], "one-shot: the second thread gets": []},
    source="epoll(7), EPOLLONESHOT; epoll_ctl(2)",
)
def edge_two_threads(bench: Bench) -> dict[str, list[str]]:
    return {
        "edge: the second thread gets": _second_thread_gets(bench, EPOLLET),
        "one-shot: the second thread gets": _second_thread_gets(bench, EPOLLET | EPOLLONESHOT),
    }


def _second_thread_gets(bench: Bench, flags: int) -> list[str]:
    here, there = bench.pair()
    release = bench.eventfd("release")
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | flags)
    bench.register(epoll, release, EPOLLIN)
    bench.send(there, b"first")
    bench.wait(epoll)
    second = bench.thread(bench.wait, epoll, PATIENCE_S)
    bench.quiet([second])
    bench.send(there, b"second")
    bench.quiet([second])
    bench.write(release, ONE)
    return [kernel_mask for fd, kernel_mask in _named(second.result()) if fd == here.fd]


def _named(ready: Iterable[tuple[int, int]]) -> list[tuple[int, str]]:
    from epolllab.events import mask_names

    return [(fd, mask_names(mask)) for fd, mask in ready]


ROUNDS = 300


@phenomenon(
    "lost-wakeup-stress",
    family=FAMILY,
    claim="Ten edges and ten threads: each thread gets exactly one event, round after round.",
    expected={f"rounds of {ROUNDS} with ten events for ten threads": ROUNDS},
    source=f"{SELFTEST}, epoll60",
)
def lost_wakeup_stress(bench: Bench) -> dict[str, int]:
    epoll = bench.epoll()
    counters = [bench.eventfd(f"eventfd {number}") for number in range(10)]
    for counter in counters:
        bench.register(epoll, counter, EPOLLIN | EPOLLET)
    gate = threading.Barrier(len(counters) + 1)
    taken: list[int] = []
    threads = [bench.thread(_take_one_a_round, epoll, gate, taken) for _ in counters]
    complete = 0
    start = bench.clock()
    for _ in range(ROUNDS):
        taken.clear()
        gate.wait(PATIENCE_S)
        for counter in counters:
            os.write(counter.fd, ONE)
        gate.wait(PATIENCE_S)
        complete += sorted(taken) == sorted(counter.fd for counter in counters)
    for thread in threads:
        thread.result()
    what = f"{ROUNDS} rounds: write ten eventfds, each of ten threads waits for one event"
    bench.step(what, f"{complete} complete", start, bench.clock())
    return {f"rounds of {ROUNDS} with ten events for ten threads": complete}


def _take_one_a_round(epoll: Watcher, gate: threading.Barrier, taken: list[int]) -> None:
    poll = epoll.epoll.poll
    for _ in range(ROUNDS):
        gate.wait(PATIENCE_S)
        for fd, _ in poll(PATIENCE_S, 1):
            os.read(fd, 8)
            taken.append(fd)
        gate.wait(PATIENCE_S)


CAP_BLOCK_SUSPEND = 36


@phenomenon(
    "wakeup-needs-privilege",
    family=FAMILY,
    claim="EPOLLWAKEUP, which keeps a machine awake, is dropped without CAP_BLOCK_SUSPEND.",
    expected={"the flag is kept exactly if the capability is there": True},
    source="epoll_ctl(2), EPOLLWAKEUP",
    notes="No error is raised: fdinfo is the only place that tells.",
)
def wakeup_needs_privilege(bench: Bench) -> dict[str, bool]:
    epoll = bench.epoll()
    bench.register(epoll, bench.eventfd(), EPOLLIN | EPOLLWAKEUP)
    entry: kernel.InterestEntry = bench.interest(epoll)[0]
    kept = bool(entry.mask & EPOLLWAKEUP)
    found = re.search(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())
    capable = bool(found and int(found[1], 16) >> CAP_BLOCK_SUSPEND & 1)
    if capable and not kept:
        raise bench.impossible("this kernel is built without CONFIG_PM_SLEEP, and drops the flag")
    bench.note(f"Here the capability is {'there' if capable else 'missing'}.")
    return {"the flag is kept exactly if the capability is there": kept == capable}
