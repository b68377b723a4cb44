# ruff: noqa: D103 - the claim in the decorator says what each function shows
"""Descriptors and their lives: what an epoll watches, and what outlives a close.

One job: the phenomena of this family. Each works on the bench it is given, and knows
nothing of catalogue and verdict.
"""

import array
import errno
import os
import select
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from functools import partial

from epolllab import kernel
from epolllab.events import EPOLLET, EPOLLIN, EPOLLOUT
from epolllab.experiments.catalogue.bench import Bench, End, Watcher
from epolllab.experiments.catalogue.pictures import picture_of_interest, picture_of_numbers
from epolllab.experiments.catalogue.registry import phenomenon
from epolllab.kernel import raw
from epolllab.kernel.waiting import PATIENCE_S

FAMILY = "descriptors and their lives"
MAN = "epoll(7)"
SELFTEST = "Linux selftest epoll_wakeup_test.c"


@phenomenon(
    "maxevents-rotation",
    family=FAMILY,
    claim="With more ready than maxevents, waits take turns: nobody waits for ever.",
    expected=["0 1 2", "3 4 5", "6 7 8", "9 0 1", "2 3 4"],
    source="epoll_wait(2), round robin",
)
def maxevents_rotation(bench: Bench) -> list[str]:
    epoll = bench.epoll()
    for number in range(10):
        bench.register(epoll, bench.eventfd(str(number), value=1), EPOLLIN)
    return [" ".join(bench.names(epoll, max_events=3)) for _ in range(5)]


@phenomenon(
    "python-cuts-batches",
    family=FAMILY,
    claim="CPython's poll() takes at most 1,023 events by default, whatever is ready.",
    expected={"poll()": 1023, "poll(maxevents=2000)": 1030},
    source="Modules/selectmodule.c: maxevents defaults to FD_SETSIZE - 1",
    picture=partial(picture_of_numbers, what="events returned by one wait, of 1,030 ready"),
)
def python_cuts_batches(bench: Bench) -> dict[str, object]:
    with ExitStack() as raised:
        try:
            raised.enter_context(kernel.raise_descriptor_limit(kernel.descriptors_open() + 1100))
        except kernel.DescriptorLimitError as error:
            raise bench.impossible(str(error)) from error
        epoll = bench.epoll()
        watched = [bench.eventfd(value=1) for _ in range(1030)]
        for end in watched:
            epoll.epoll.register(end.fd, EPOLLIN)
        seen: dict[str, object] = {
            "poll()": bench.do("len(epoll.poll(0))", lambda: len(epoll.epoll.poll(0))),
            "poll(maxevents=2000)": bench.do(
                "len(epoll.poll(0, 2000))", lambda: len(epoll.epoll.poll(0, 2000))
            ),
        }
        for end in watched:
            end.close()
    return seen


@phenomenon(
    "close-unregisters",
    family=FAMILY,
    claim="Closing the only descriptor of a file takes it out of every epoll by itself.",
    expected={"entries before": 1, "entries after": 0, "events": []},
    source=f"{MAN}, question 6",
)
def close_unregisters(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    bench.send(there, b"x")
    before = len(bench.interest(epoll))
    bench.close(here)
    return {
        "entries before": before,
        "entries after": len(bench.interest(epoll)),
        "events": bench.masks(epoll),
    }


@phenomenon(
    "dup-keeps-dead-fd",
    family=FAMILY,
    claim="While a duplicate lives, an epoll goes on reporting the number that was closed.",
    expected={
        "event for the closed number": True,
        "mask": ["IN"],
        "unregister the closed number": "EBADF",
        "unregister the duplicate": "ENOENT",
        "event after closing the duplicate": [],
    },
    source=f"{MAN}, question 6; epoll watches the open file description, under the number it "
    "was registered by",
)
def dup_keeps_dead_fd(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    here = bench.moved(here)
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    copy = bench.dup(here, "duplicate")
    bench.close(here)
    bench.send(there, b"x")
    ready = bench.wait(epoll)
    seen: dict[str, object] = {
        "event for the closed number": [fd for fd, _ in ready] == [here.fd],
        "mask": bench.masks(epoll),
        "unregister the closed number": bench.tried(bench.unregister, epoll, here),
        "unregister the duplicate": bench.tried(bench.unregister, epoll, copy),
    }
    bench.close(copy)
    seen["event after closing the duplicate"] = bench.masks(epoll)
    return seen


@phenomenon(
    "ghost-spin",
    family=FAMILY,
    claim="A ghost that is readable can be neither read nor unregistered: the loop spins.",
    expected={"of 1,000 waits returned": 1000, "unregister": "EBADF", "without the duplicate": 0},
    source=f"{MAN}, question 6",
    notes="Only closing the duplicate ends it, or closing the epoll.",
)
def ghost_spin(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    here = bench.moved(here)
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    copy = bench.dup(here, "forgotten duplicate")
    bench.close(here)
    bench.send(there, b"x")
    seen: dict[str, object] = {"of 1,000 waits returned": bench.spin(epoll, 1000)}
    seen["unregister"] = bench.tried(bench.unregister, epoll, here)
    bench.close(copy)
    seen["without the duplicate"] = bench.spin(epoll, 10)
    return seen


@phenomenon(
    "fd-reuse-ghost",
    family=FAMILY,
    claim="A reused number can stand in the interest list twice: once for a file that is gone.",
    expected={
        "entries with the number": 2,
        "their files": 2,
        "event, though the new socket has nothing": ["IN"],
        "recv from the new socket": "EAGAIN",
    },
    source=f"{MAN}, question 6; the key of the interest list is file and number, ep_cmp_ffd() in "
    "fs/eventpoll.c",
    picture=picture_of_interest,
)
def fd_reuse_ghost(bench: Bench) -> dict[str, object]:
    old, peer = bench.pair("old socket", "its peer")
    old = bench.moved(old)
    epoll = bench.epoll()
    bench.register(epoll, old, EPOLLIN)
    bench.dup(old, "forgotten duplicate")
    new, _ = bench.pair("new socket", "its peer")
    bench.close(old)
    # One step for the kernel: the number cannot be given to another thread in between.
    bench.do(f"dup2(new socket, {old.fd})", os.dup2, new.fd, old.fd, False)
    same_number = bench.adopt(old.fd, "new socket, old number")
    bench.register(epoll, same_number, EPOLLIN)
    bench.send(peer, b"x")
    entries = [entry for entry in bench.interest(epoll) if entry.fd == old.fd]
    bench.data["interest"] = entries
    bench.data["table"] = {old.fd: EPOLLIN}
    bench.data["inodes"] = {old.fd: os.fstat(old.fd).st_ino}
    return {
        "entries with the number": len(entries),
        "their files": len({entry.inode for entry in entries}),
        "event, though the new socket has nothing": bench.masks(epoll),
        "recv from the new socket": bench.attempt(bench.recv, new, 10),
    }


@phenomenon(
    "descriptor-in-flight",
    family=FAMILY,
    claim="A descriptor sent to another process and not yet received keeps its file alive.",
    expected={"closed here, still underway": ["IN"], "thrown away": []},
    source="unix(7), SCM_RIGHTS; epoll(7), question 6",
)
def descriptor_in_flight(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    here = bench.moved(here)
    near, far = bench.pair("near end of a channel", "its far end")
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    assert near.sock is not None
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [here.fd]))
    bench.do("sendmsg(near, SCM_RIGHTS here)", near.sock.sendmsg, [b"x"], [rights])
    bench.close(here)
    bench.send(there, b"x")
    seen: dict[str, object] = {"closed here, still underway": bench.masks(epoll)}
    bench.close(far)
    bench.close(near)
    bench.until(lambda: not kernel.interest_list(epoll.fd), "the file in flight released")
    seen["thrown away"] = bench.masks(epoll)
    return seen


@phenomenon(
    "fork-shares-interest",
    family=FAMILY,
    claim="An epoll inherited by another process is the same one: either changes it for both.",
    expected={
        "child registers its own eventfd: parent gets": "a number the parent did not register",
        "child takes the edge: parent gets": [],
        "child unregisters parent's descriptor: parent gets": [],
    },
    source=f"{MAN}; a child shares the open file description, by fork as by exec",
    notes="The child is a fresh process that inherits the descriptor, which for the kernel is "
    "the same as a fork.",
)
def fork_shares_interest(bench: Bench) -> dict[str, object]:
    epoll = bench.epoll()
    edge, level = bench.eventfd("edge"), bench.eventfd("level")
    bench.register(epoll, edge, EPOLLIN | EPOLLET)
    bench.register(epoll, level, EPOLLIN)
    child = bench.child("epolllab.experiments.workers.herd:act", [epoll, edge, level])

    def let(what: str, *command: object) -> object:
        def ask() -> object:
            child.send(command)
            return child.receive(PATIENCE_S)

        return bench.do(f"child: {what}", ask)

    one = (1).to_bytes(8, "little")
    foreign = let("register an eventfd of its own", "register ready eventfd", epoll.fd)
    ready = [fd for fd, _ in bench.wait(epoll)]
    unknown = ready == [foreign] and foreign not in (edge.fd, level.fd)
    let("close that eventfd", "close", foreign)
    bench.write(edge, one)
    let("wait", "wait", epoll.fd)
    after_edge = bench.masks(epoll)
    bench.write(level, one)
    let("unregister level", "unregister", epoll.fd, level.fd)
    return {
        "child registers its own eventfd: parent gets": "a number the parent did not register"
        if unknown
        else f"{ready}",
        "child takes the edge: parent gets": after_edge,
        "child unregisters parent's descriptor: parent gets": bench.masks(epoll),
    }


@phenomenon(
    "stale-event-in-batch",
    family=FAMILY,
    claim="A batch is a copy: an event stays in it when an earlier one has closed its descriptor.",
    expected={"batch": ["first", "second"], "handling the second": "KeyError", "next wait": []},
    source=f"{MAN}, 'If using an event cache'",
)
def stale_event_in_batch(bench: Bench) -> dict[str, object]:
    epoll = bench.epoll()
    table = {}
    for name in ("first", "second"):
        end = bench.moved(bench.eventfd(name, value=1))
        bench.register(epoll, end, EPOLLIN)
        table[end.fd] = end
    batch = bench.wait(epoll)
    seen: dict[str, object] = {"batch": [table[fd].name for fd, _ in batch]}
    for end in list(table.values()):
        bench.close(end)
    del table[batch[1][0]]
    try:
        bench.do("connections[fd of the second]", lambda: table[batch[1][0]].name)
    except KeyError:
        seen["handling the second"] = "KeyError"
    seen["next wait"] = bench.masks(epoll)
    return seen


@phenomenon(
    "cannot-be-watched",
    family=FAMILY,
    claim="What has no readiness of its own is refused by epoll; poll and select call it ready.",
    expected={
        name: {"epoll": "EPERM", "poll": "IN|OUT", "select": "read, write"}
        for name in ("regular file", "directory", "/dev/null", "/dev/zero", "/dev/urandom")
    },
    source="epoll_ctl(2), EPERM; poll(2): regular files always poll true",
)
def cannot_be_watched(bench: Bench) -> dict[str, object]:
    epoll = bench.epoll()
    regular, path = tempfile.mkstemp()
    os.unlink(path)
    opened = {"regular file": bench.adopt(regular, "regular file")}
    for name, place in (
        ("directory", "/"),
        *((p, p) for p in ("/dev/null", "/dev/zero", "/dev/urandom")),
    ):
        opened[name] = bench.adopt(os.open(place, os.O_RDONLY), name)
    return {
        name: {
            "epoll": bench.tried(bench.register, epoll, end, EPOLLIN),
            "poll": _polled(bench, end),
            "select": _selected(bench, end),
        }
        for name, end in opened.items()
    }


def _polled(bench: Bench, end: End) -> str:
    from epolllab.events import mask_names

    poll = select.poll()
    poll.register(end.fd, EPOLLIN | EPOLLOUT)
    return bench.do(
        f"poll({end.name}, IN|OUT)", lambda: "".join(mask_names(mask) for _, mask in poll.poll(0))
    )


def _selected(bench: Bench, end: End) -> str:
    def selected() -> str:
        ready = select.select([end], [end], [], 0)
        return ", ".join(
            word for word, found in zip(("read", "write"), ready[:2], strict=True) if found
        )

    return bench.do(f"select({end.name}, read and write)", selected)


@phenomenon(
    "bad-registrations",
    family=FAMILY,
    claim="The kernel refuses each senseless registration with an errno of its own.",
    expected={
        "the same descriptor twice": "EEXIST",
        "a duplicate of it": "ok",
        "modify what is not there": "ENOENT",
        "unregister what is not there": "ENOENT",
        "an epoll in itself": "EINVAL",
        "two epolls in each other": "ELOOP",
        "epolls that fit into each other": 5,
        "one more": "ELOOP",
        "a wait for no events": "EINVAL",
    },
    source="epoll_ctl(2), epoll_wait(2); EP_MAX_NESTS is 4 in fs/eventpoll.c",
)
def bad_registrations(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll, other = bench.epoll(), bench.epoll("other epoll")
    bench.register(epoll, here, EPOLLIN)
    bench.register(epoll, other, EPOLLIN)
    direct = raw.RawEpoll(max_events=1)
    bench.finally_do(direct.close)
    return {
        "the same descriptor twice": bench.tried(bench.register, epoll, here, EPOLLIN),
        "a duplicate of it": bench.tried(
            bench.register, epoll, bench.dup(here, "duplicate"), EPOLLIN
        ),
        "modify what is not there": bench.tried(bench.modify, epoll, there, EPOLLIN),
        "unregister what is not there": bench.tried(bench.unregister, epoll, there),
        "an epoll in itself": bench.tried(bench.register, epoll, epoll, EPOLLIN),
        "two epolls in each other": bench.tried(bench.register, other, epoll, EPOLLIN),
        **_deepest_chain(bench),
        "a wait for no events": _wait_for_none(bench, epoll),
    }


def _deepest_chain(bench: Bench) -> dict[str, object]:
    """Put epolls into each other until the kernel refuses: how many there were."""
    inner = bench.epoll("innermost")
    depth = 1
    while True:
        outer = bench.epoll(f"epoll {depth + 1}")
        answer = bench.tried(bench.register, outer, inner, EPOLLIN)
        if answer != "ok":
            return {"epolls that fit into each other": depth, "one more": answer}
        inner, depth = outer, depth + 1


def _wait_for_none(bench: Bench, epoll: Watcher) -> str:
    """epoll_wait with maxevents 0; CPython refuses that itself, so by the C library."""
    import ctypes

    def wait() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.epoll_wait(epoll.fd, ctypes.create_string_buffer(16), 0, 0) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return bench.tried(bench.do, "epoll_wait(epoll, maxevents=0)", wait)


@phenomenon(
    "nested-epoll",
    family=FAMILY,
    claim="An epoll is readable while something in it is ready, so it can stand in another.",
    expected={
        "nothing ready": [],
        "outer, level": ["IN"],
        "outer, level, again": ["IN"],
        "outer, edge": ["IN"],
        "outer, edge, again": [],
        "select": True,
        "inner": ["IN"],
    },
    source=f"{MAN}, question 3; {SELFTEST}, epoll51 to epoll58",
)
def nested_epoll(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    inner, level, edge = (bench.epoll(name) for name in ("inner", "level outer", "edge outer"))
    bench.register(inner, here, EPOLLIN)
    bench.register(level, inner, EPOLLIN)
    bench.register(edge, inner, EPOLLIN | EPOLLET)
    seen: dict[str, object] = {"nothing ready": bench.masks(level) + bench.masks(edge)}
    bench.send(there, b"x")
    seen["outer, level"] = bench.masks(level)
    seen["outer, level, again"] = bench.masks(level)
    seen["outer, edge"] = bench.masks(edge)
    seen["outer, edge, again"] = bench.masks(edge)
    seen["select"] = bool(bench.do("select(inner)", lambda: select.select([inner], [], [], 0)[0]))
    seen["inner"] = bench.masks(inner)
    return seen


WAIT_S = 0.02


@phenomenon(
    "close-does-not-wake",
    family=FAMILY,
    claim="Closing the epoll, or what it watches, does not wake a thread that waits on it.",
    expected={
        "watched socket closed": "slept its whole timeout",
        "epoll closed": "slept its whole timeout",
    },
    source=f"{MAN}; the wait holds the file, so close(2) only takes the number away",
    notes=f"The waits have a timeout of {WAIT_S * 1000:g} ms; without one they would never end.",
)
def close_does_not_wake(bench: Bench) -> dict[str, object]:
    here, _ = bench.pair()
    epoll, closing = bench.epoll(), bench.epoll("epoll to be closed")
    bench.register(epoll, here, EPOLLIN)
    bench.register(closing, bench.eventfd(), EPOLLIN)
    return {
        "watched socket closed": _how_it_slept(bench, epoll, here),
        "epoll closed": _how_it_slept(bench, closing, closing),
    }


def _how_it_slept(bench: Bench, epoll: Watcher, to_close: End) -> str:
    """Close something while a thread waits: whether the wait ended before its timeout."""
    poll = epoll.epoll.poll
    slept_ns = []

    def wait() -> list[tuple[int, int]]:
        start = bench.clock()
        try:
            return poll(WAIT_S)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return []  # the number was gone when the wait began: it ran late
        finally:
            slept_ns.append(bench.clock() - start)

    waiter = bench.asleep(wait)
    bench.close(to_close)
    ready = bench.do(f"epoll_wait({epoll.name}, {WAIT_S * 1000:g} ms) in a thread", waiter.result)
    woken = ready or slept_ns[0] < WAIT_S * 1e9 * 0.99
    return "was woken" if woken else "slept its whole timeout"


@phenomenon(
    "register-does-wake",
    family=FAMILY,
    claim="Registering or modifying from another thread is seen by a wait that is under way.",
    expected={
        "a ready descriptor registered": ["IN"],
        "interest modified to what is ready": ["IN"],
    },
    source=f"{MAN}; epoll_wait(2): the file descriptors may change while another thread waits",
    notes="The waits would have slept for ten seconds.",
)
def register_does_wake(bench: Bench) -> dict[str, object]:
    epoll = bench.epoll()
    ready = bench.eventfd(value=1)
    waiter = bench.waiter(epoll)
    bench.register(epoll, ready, EPOLLIN)
    seen: dict[str, object] = {"a ready descriptor registered": _masks_of(waiter.result())}
    bench.modify(epoll, ready, 0)
    waiter = bench.waiter(epoll)
    bench.modify(epoll, ready, EPOLLIN)
    seen["interest modified to what is ready"] = _masks_of(waiter.result())
    return seen


def _masks_of(ready: list[tuple[int, int]]) -> list[str]:
    from epolllab.events import mask_names

    return [mask_names(mask) for _, mask in ready]


@phenomenon(
    "fd-setsize-wall",
    family=FAMILY,
    claim="select.select stops at descriptor 1,023; the kernel's own select does not.",
    expected={
        "select.select": "ValueError",
        "the raw system call": [1024],
        "poll": ["IN"],
        "epoll": ["IN"],
    },
    source="select(2), FD_SETSIZE; CPython's selectmodule.c checks it",
)
def fd_setsize_wall(bench: Bench) -> dict[str, object]:
    number = 1024
    with ExitStack() as raised:
        try:
            raised.enter_context(kernel.raise_descriptor_limit(number + 8))
        except kernel.DescriptorLimitError as error:
            raise bench.impossible(str(error)) from error
        source = bench.eventfd(value=1)
        end = bench.dup(source, f"fd {number}", at_least=number)
        seen: dict[str, object] = {
            "select.select": _refusal(bench, end),
            "the raw system call": _raw_select(bench, end, number),
            "poll": _poll_names(bench, end),
        }
        epoll = bench.epoll()
        bench.register(epoll, end, EPOLLIN)
        seen["epoll"] = bench.masks(epoll)
        bench.close(end)
    return seen


def _refusal(bench: Bench, end: End) -> str:
    try:
        bench.do(f"select.select([{end.fd}])", lambda: select.select([end], [], [], 0))
    except ValueError as error:
        bench.step(
            f"select.select([{end.fd}])", f"ValueError: {error}", bench.clock(), bench.clock()
        )
        return "ValueError"
    return "ok"


def _raw_select(bench: Bench, end: End, number: int) -> list[int]:
    """Call select with a bitmap that is large enough; 1024 stands for the number used."""
    with raw.RawSelect([(end.fd, EPOLLIN)]) as direct:
        count = bench.do(f"select({end.fd + 1}, a bitmap of that size)", direct.wait)
        return [number + fd - end.fd for fd, _ in direct.ready(count)]


def _poll_names(bench: Bench, end: End) -> list[str]:
    poll = select.poll()
    poll.register(end.fd, EPOLLIN)
    return _masks_of(bench.do(f"poll({end.name})", poll.poll, 0))


@phenomenon(
    "kernels-own-view",
    family=FAMILY,
    claim="/proc/PID/fdinfo/EPFD lists what the kernel watches: number, mask, file, ghosts too.",
    expected={
        "edge-triggered for IN": "IN|ERR|HUP|ET",
        "for nothing": "ERR|HUP",
        "a closed number with a duplicate": "OUT|ERR|HUP",
        "inodes are those of fstat": True,
        "data holds the number in its lower half": True,
    },
    source="proc(5); ep_show_fdinfo() in fs/eventpoll.c",
    since=(4, 13),
    picture=picture_of_interest,
)
def kernels_own_view(bench: Bench) -> dict[str, object]:
    epoll = bench.epoll()
    table = {}
    inodes = {}
    for name, mask in (
        ("edge-triggered for IN", EPOLLIN | EPOLLET),
        ("for nothing", 0),
        ("a closed number with a duplicate", EPOLLOUT),
    ):
        end = bench.moved(bench.pair(name)[0])
        bench.register(epoll, end, mask)
        table[name] = end
        inodes[end.fd] = os.fstat(end.fd).st_ino
    bench.dup(end, "duplicate")
    bench.close(end)
    entries = {entry.fd: entry for entry in bench.interest(epoll)}
    bench.data["interest"] = list(entries.values())
    bench.data["table"] = {
        table["edge-triggered for IN"].fd: EPOLLIN | EPOLLET,
        table["for nothing"].fd: 0,
    }
    seen: dict[str, object] = {name: entries[end.fd].mask_names for name, end in table.items()}
    seen["inodes are those of fstat"] = {e.fd: e.inode for e in entries.values()} == inodes
    seen["data holds the number in its lower half"] = all(
        e.data & 0xFFFF_FFFF == e.fd for e in entries.values()
    )
    return seen


@phenomenon(
    "process-is-a-descriptor",
    family=FAMILY,
    claim="A pidfd is readable when its process has ended: epoll can wait for children too.",
    expected={
        "while it runs": [],
        "after it has ended": ["IN"],
        "again, before it is reaped": ["IN"],
    },
    source="pidfd_open(2)",
    since=(5, 3),
)
def process_is_a_descriptor(bench: Bench) -> dict[str, object]:
    child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stdin is not None
    bench.finally_do(child.wait)
    bench.finally_do(child.stdin.close)
    epoll = bench.epoll()
    pidfd = bench.adopt(bench.do("pidfd_open(a child)", os.pidfd_open, child.pid), "pidfd")
    bench.register(epoll, pidfd, EPOLLIN)
    seen: dict[str, object] = {"while it runs": bench.masks(epoll)}
    bench.do("close the child's standard input", child.stdin.close)
    seen["after it has ended"] = bench.masks(epoll, timeout=PATIENCE_S)
    seen["again, before it is reaped"] = bench.masks(epoll)
    return seen
