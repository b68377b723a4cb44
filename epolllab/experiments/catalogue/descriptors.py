"""Phenomena of descriptors: what an epoll watches, and what remains after a close."""

import array
import ctypes
import errno
import os
import platform
import select
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial

from epolllab import kernel
from epolllab.child import START_S, HeldInterrupts
from epolllab.events import EPOLLET, EPOLLIN, EPOLLOUT, mask_names
from epolllab.experiments.catalogue import registry
from epolllab.experiments.catalogue.bench import (
    ONE,
    Bench,
    Descriptor,
    Epoll,
    NotPossible,
    Socket,
)
from epolllab.experiments.catalogue.pictures import picture_of_interest, picture_of_numbers
from epolllab.kernel import raw
from epolllab.kernel.waiting import PATIENCE_S

phenomenon = partial(registry.phenomenon, family="descriptors and their lives")
MAN = "epoll(7)"
SELFTEST = "Linux selftest epoll_wakeup_test.c"
WAIT_S = 0.02
KCMP_EPOLL_TFD = 7
HIGH_FD = 200
"""A number that no other thread or process of the experiment gets by chance."""


@phenomenon(
    claim="With more ready descriptors than maxevents, waits rotate through them: none starves.",
    expected=["0 1 2", "3 4 5", "6 7 8", "9 0 1", "2 3 4"],
    source="epoll_wait(2), round robin",
)
def maxevents_rotation(bench: Bench) -> list[str]:
    epoll = bench.epoll()
    for number in range(10):
        bench.register(epoll, bench.eventfd(str(number), value=1), EPOLLIN)
    batches = [bench.wait(epoll, max_events=3) for _ in range(5)]
    return [" ".join(bench.name_of(fd) for fd, _ in batch) for batch in batches]


@phenomenon(
    claim="CPython's poll() returns at most 1,023 events by default, even if more are ready.",
    expected={"poll()": 1023, "poll(maxevents=2000)": 1030},
    source="Modules/selectmodule.c: maxevents defaults to FD_SETSIZE - 1",
    picture=partial(picture_of_numbers, what="events returned by one wait, of 1,030 ready"),
)
def python_cuts_batches(bench: Bench) -> Iterator[object]:
    bench.room_up_to(kernel.descriptors_open() + 1100)
    epoll = bench.epoll()
    poll = epoll.epoll.poll
    for _ in range(1030):
        epoll.epoll.register(bench.eventfd(value=1).fd, EPOLLIN)
    yield bench.call("len(epoll.poll(0))", lambda: len(poll(0)))
    yield bench.call("len(epoll.poll(0, 2000))", lambda: len(poll(0, 2000)))


@phenomenon(
    claim="Closing the last descriptor of an open file removes it from every epoll.",
    expected={"entries before": 1, "entries after": 0, "events": []},
    source=f"{MAN}, question 6",
)
def close_unregisters(bench: Bench) -> Iterator[object]:
    here, there, epoll = bench.watched_pair(EPOLLIN)
    bench.send(there, b"x")
    before = len(bench.interest(epoll))
    bench.close(here)
    yield before
    yield len(bench.interest(epoll))
    yield bench.masks(epoll)


def _ghost(bench: Bench) -> tuple[Epoll, Descriptor, Descriptor, Socket]:
    """Close a registered descriptor that has a duplicate: epoll, closed number, duplicate, peer."""
    here, there = bench.pair()
    closed = bench.renumber(here)
    epoll = bench.watch(closed, EPOLLIN)
    duplicate = bench.dup(closed, "duplicate")
    bench.close(closed)
    bench.send(there, b"x")
    return epoll, closed, duplicate, there


@phenomenon(
    claim="While a duplicate is open, an epoll keeps reporting the number that was closed.",
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
def dup_keeps_dead_fd(bench: Bench) -> Iterator[object]:
    epoll, closed, duplicate, _ = _ghost(bench)
    yield [fd for fd, _ in bench.wait(epoll)] == [closed.fd]
    yield bench.masks(epoll)
    yield bench.attempt(bench.unregister, epoll, closed)
    yield bench.attempt(bench.unregister, epoll, duplicate)
    bench.close(duplicate)
    yield bench.masks(epoll)


@phenomenon(
    claim="A readable ghost is reported at each wait, and its number is refused: the loop spins.",
    expected={"of 1,000 waits returned": 1000, "unregister": "EBADF", "without the duplicate": 0},
    source=f"{MAN}, question 6",
    notes="Closing the duplicate ends it. A program that has the duplicate can also read it, or "
    "unregister the ghost; see ghost-evicted.",
)
def ghost_spin(bench: Bench) -> Iterator[object]:
    epoll, closed, duplicate, _ = _ghost(bench)
    yield bench.spin(epoll, 1000)
    yield bench.attempt(bench.unregister, epoll, closed)
    bench.close(duplicate)
    yield bench.spin(epoll, 10)


@phenomenon(
    claim="dup2 of the duplicate onto the closed number lets a program unregister a ghost.",
    expected={
        "ghost": ["IN"],
        "read through the duplicate": 1,
        "after reading": [],
        "another byte": ["IN"],
        "unregister after dup2": "ok",
        "entries": 0,
        "event": [],
        "still to read through the duplicate": 1,
    },
    source=f"{MAN}, question 1: the key is the number together with the open file description",
    notes="The file stays open, and its data are not lost. The number must be free: dup2 closes "
    "what has it.",
)
def ghost_evicted(bench: Bench) -> Iterator[object]:
    epoll, closed, duplicate, there = _ghost(bench)
    yield bench.masks(epoll)
    yield len(bench.read(duplicate, 10))
    yield bench.masks(epoll)
    bench.send(there, b"x")
    yield bench.masks(epoll)
    what = f"dup2(duplicate, {closed.fd})"
    bench.call(what, os.dup2, duplicate.fd, closed.fd, False)
    again = bench.add(closed.fd, "duplicate under the closed number")
    yield bench.attempt(bench.unregister, epoll, again)
    bench.close(again)
    yield len(bench.interest(epoll))
    yield bench.masks(epoll)
    yield len(bench.read(duplicate, 10))


@phenomenon(
    claim="A reused number can be in the interest list twice, once for a file that was closed.",
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
def fd_reuse_ghost(bench: Bench) -> Iterator[object]:
    first, peer = bench.pair("old socket", "its peer")
    old = bench.renumber(first)
    epoll = bench.watch(old, EPOLLIN)
    bench.dup(old, "forgotten duplicate")
    new, _ = bench.pair("new socket", "its peer")
    bench.close(old)
    # dup2 is atomic: the number cannot be given to another thread in between.
    bench.call(f"dup2(new socket, {old.fd})", os.dup2, new.fd, old.fd, False)
    bench.register(epoll, bench.add(old.fd, "new socket, old number"), EPOLLIN)
    bench.send(peer, b"x")
    entries = [entry for entry in bench.interest(epoll) if entry.fd == old.fd]
    bench.data["interest"] = entries
    bench.data["table"] = {old.fd: EPOLLIN}
    bench.data["inodes"] = {old.fd: os.fstat(old.fd).st_ino}
    yield len(entries)
    yield len({entry.inode for entry in entries})
    yield bench.masks(epoll)
    yield bench.attempt(bench.recv, new, 10)


@phenomenon(
    claim="A descriptor that was sent to another process and not yet received keeps its file open.",
    expected={"closed here, still in flight": ["IN"], "discarded": []},
    source="unix(7), SCM_RIGHTS; epoll(7), question 6",
)
def descriptor_in_flight(bench: Bench) -> Iterator[object]:
    first, there = bench.pair()
    here = bench.renumber(first)
    near, far = bench.pair("near end of a channel", "its far end")
    epoll = bench.watch(here, EPOLLIN)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [here.fd]))
    bench.call("sendmsg(near, SCM_RIGHTS here)", near.sock.sendmsg, [b"x"], [rights])
    bench.close(here)
    bench.send(there, b"x")
    yield bench.masks(epoll)
    bench.close(far)
    bench.close(near)
    bench.until(lambda: not kernel.interest_list(epoll.fd), "the file in flight released")
    yield bench.masks(epoll)


@phenomenon(
    claim="An epoll inherited by another process is the same one: each changes it for both.",
    expected={
        "child registers its own eventfd: parent gets": "a number the parent did not register",
        "child takes the edge: parent gets": [],
        "child unregisters parent's descriptor: parent gets": [],
    },
    source=f"{MAN}; a child shares the open file description, by fork as by exec",
    notes="The child is a new process that inherits the descriptor, which for the kernel is "
    "the same as a fork.",
)
def fork_shares_interest(bench: Bench) -> Iterator[object]:
    epoll = bench.epoll()
    edge, level = bench.eventfd("edge"), bench.eventfd("level")
    bench.register(epoll, edge, EPOLLIN | EPOLLET)
    bench.register(epoll, level, EPOLLIN)
    bench.room_up_to(HIGH_FD)
    child = bench.child("epolllab.experiments.workers.herd:make_calls", epoll, edge, level)

    def in_child(what: str, *command: object) -> object:
        def ask() -> object:
            child.send(command)
            return child.receive(START_S)

        return bench.call(f"child: {what}", ask)

    command = "register ready eventfd", epoll.fd, HIGH_FD
    foreign = in_child("register an eventfd of its own", *command)
    ready = [fd for fd, _ in bench.wait(epoll)]
    unknown = ready == [foreign] and foreign not in (edge.fd, level.fd)
    yield "a number the parent did not register" if unknown else f"{ready}"
    in_child("close that eventfd", "close", foreign)
    bench.write(edge, ONE)
    in_child("wait", "wait", epoll.fd)
    yield bench.masks(epoll)
    bench.write(level, ONE)
    in_child("unregister level", "unregister", epoll.fd, level.fd)
    yield bench.masks(epoll)


@phenomenon(
    claim="A batch is a copy: it keeps an event whose descriptor an earlier handler has closed.",
    expected={"batch": ["first", "second"], "handling the second": "KeyError", "next wait": []},
    source=f"{MAN}, 'If using an event cache'",
)
def stale_event_in_batch(bench: Bench) -> Iterator[object]:
    epoll = bench.epoll()
    table = {}
    for name in ("first", "second"):
        target = bench.renumber(bench.eventfd(name, value=1))
        bench.register(epoll, target, EPOLLIN)
        table[target.fd] = target
    batch = bench.wait(epoll)
    yield [table[fd].name for fd, _ in batch]
    for target in table.values():
        bench.close(target)
    second = batch[1][0]
    del table[second]
    try:
        bench.call("connections[fd of the second]", lambda: table[second].name)
    except KeyError:
        yield "KeyError"
    yield bench.masks(epoll)


@phenomenon(
    claim="epoll refuses files without readiness; poll and select report them as ready.",
    expected={
        name: {"epoll": "EPERM", "poll": "IN|OUT", "select": "read, write"}
        for name in ("regular file", "directory", "/dev/null", "/dev/zero", "/dev/urandom")
    },
    source="epoll_ctl(2), EPERM; poll(2): regular files always poll true",
)
def cannot_be_watched(bench: Bench) -> Iterator[object]:
    epoll = bench.epoll()
    with HeldInterrupts():
        regular, path = tempfile.mkstemp()
        os.unlink(path)
        files = [bench.add(regular, "regular file")]
        for name in ("directory", "/dev/null", "/dev/zero", "/dev/urandom"):
            target = "/" if name == "directory" else name
            files.append(bench.add(os.open(target, os.O_RDONLY), name))
    for file in files:
        yield {
            "epoll": bench.attempt(bench.register, epoll, file, EPOLLIN),
            "poll": "".join(bench.poll(file, EPOLLIN | EPOLLOUT)),
            "select": bench.select(file, write=True),
        }


@phenomenon(
    claim="Invalid calls get EEXIST, ENOENT, EINVAL or ELOOP; a duplicate may be registered.",
    expected={
        "the same descriptor twice": "EEXIST",
        "a duplicate of it": "ok",
        "modify an unregistered descriptor": "ENOENT",
        "unregister an unregistered descriptor": "ENOENT",
        "an epoll in itself": "EINVAL",
        "two epolls in each other": "ELOOP",
        "epolls that can be nested": 5,
        "one more": "ELOOP",
        "a wait for no events": "EINVAL",
    },
    source="epoll_ctl(2), epoll_wait(2); EP_MAX_NESTS is 4 in fs/eventpoll.c",
)
def bad_registrations(bench: Bench) -> Iterator[object]:
    here, there = bench.pair()
    epoll, other = bench.watch(here, EPOLLIN), bench.epoll("other epoll")
    bench.register(epoll, other, EPOLLIN)
    duplicate = bench.dup(here, "duplicate")
    yield bench.attempt(bench.register, epoll, here, EPOLLIN)
    yield bench.attempt(bench.register, epoll, duplicate, EPOLLIN)
    yield bench.attempt(bench.modify, epoll, there, EPOLLIN)
    yield bench.attempt(bench.unregister, epoll, there)
    yield bench.attempt(bench.register, epoll, epoll, EPOLLIN)
    yield bench.attempt(bench.register, other, epoll, EPOLLIN)
    inner, depth, result = bench.epoll("innermost"), 0, "ok"
    while result == "ok":
        depth += 1
        outer = bench.epoll(f"epoll {depth + 1}")
        result = str(bench.attempt(bench.register, outer, inner, EPOLLIN))
        inner = outer
    yield depth
    yield result
    yield bench.attempt(bench.call, "epoll_wait(epoll, maxevents=0)", _wait_for_none, epoll.fd)


def _wait_for_none(epfd: int) -> None:
    """Call epoll_wait with maxevents 0 through the C library, since CPython refuses it itself."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.epoll_wait(epfd, ctypes.create_string_buffer(16), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@phenomenon(
    claim="An epoll is readable while something in it is ready, so another epoll can watch it.",
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
def nested_epoll(bench: Bench) -> Iterator[object]:
    here, there = bench.pair()
    inner = bench.watch(here, EPOLLIN, "inner")
    level = bench.watch(inner, EPOLLIN, "level outer")
    edge = bench.watch(inner, EPOLLIN | EPOLLET, "edge outer")
    yield bench.masks(level) + bench.masks(edge)
    bench.send(there, b"x")
    for outer in (level, level, edge, edge):
        yield bench.masks(outer)
    yield bench.select(inner) == "read"
    yield bench.masks(inner)


@phenomenon(
    claim="Closing the epoll, or what it watches, does not wake a thread that waits on it.",
    expected={
        "watched socket closed": "slept its whole timeout",
        "epoll closed": "slept its whole timeout",
    },
    source=f"{MAN}; the wait holds the file, so close(2) only frees the number",
    notes=f"The waits have a timeout of {WAIT_S * 1000:g} ms; without one they would last until "
    "something else in the epoll becomes ready.",
)
def close_does_not_wake(bench: Bench) -> Iterator[object]:
    here, _, epoll = bench.watched_pair(EPOLLIN)
    closing = bench.watch(bench.eventfd(), EPOLLIN, "epoll to be closed")
    yield _close_during_wait(bench, epoll, here)
    yield _close_during_wait(bench, closing, closing)


def _close_during_wait(bench: Bench, epoll: Epoll, to_close: Descriptor) -> str:
    """Close a descriptor while a thread waits; say whether the wait ended before its timeout."""
    poll = epoll.epoll.poll

    def wait() -> tuple[bool, int]:
        start = bench.clock()
        ready = False
        try:
            ready = bool(poll(WAIT_S))
        except OSError as error:
            if error.errno != errno.EBADF:  # EBADF: the thread started late, after the close
                raise
        return ready, bench.clock() - start

    waiter = bench.thread(wait)
    bench.until_asleep(waiter)
    bench.close(to_close)
    start = bench.clock()
    ready, slept_ns = waiter.result()
    result = "was woken" if ready or slept_ns < WAIT_S * 1e9 * 0.99 else "slept its whole timeout"
    bench.step(f"epoll_wait({epoll.name}, {WAIT_S * 1000:g} ms) in a thread", result, start)
    return result


@phenomenon(
    claim="A wait in progress sees what another thread registers or modifies.",
    expected={
        "a ready descriptor registered": ["IN"],
        "interest modified to what is ready": ["IN"],
    },
    source=f"{MAN}; epoll_wait(2): the file descriptors may change while another thread waits",
    notes="The waits have a timeout of ten seconds.",
)
def register_does_wake(bench: Bench) -> Iterator[object]:
    epoll = bench.epoll()
    ready = bench.eventfd(value=1)
    waiter = bench.waiter(epoll)
    bench.register(epoll, ready, EPOLLIN)
    registered = waiter.result()
    bench.modify(epoll, ready, 0)
    waiter = bench.waiter(epoll)
    bench.modify(epoll, ready, EPOLLIN)
    modified = waiter.result()
    yield [mask_names(mask) for _, mask in registered]
    yield [mask_names(mask) for _, mask in modified]


@phenomenon(
    claim="select.select stops at descriptor 1,023; the kernel's own select does not.",
    expected={
        "select.select": "ValueError",
        "the raw system call": [1024],
        "poll": ["IN"],
        "epoll": ["IN"],
    },
    source="select(2), FD_SETSIZE; CPython's selectmodule.c checks it",
)
def fd_setsize_wall(bench: Bench) -> Iterator[object]:
    number = 1024
    target = bench.dup(bench.eventfd(value=1), f"fd {number}", at_least=number)
    start = bench.clock()
    try:
        select.select([target], [], [], 0)
    except ValueError as error:
        bench.step(f"select.select([{target.fd}])", f"ValueError: {error}", start)
        yield "ValueError"
    direct = raw.RawSelect([(target.fd, EPOLLIN)])
    count = bench.call(f"select({target.fd + 1}, a bitmap of that size)", direct.wait)
    # 1024 stands for the number that the kernel gave, which may be higher.
    yield [number + fd - target.fd for fd, _ in direct.ready(count)]
    yield bench.poll(target, EPOLLIN)
    yield bench.masks(bench.watch(target, EPOLLIN))


@phenomenon(
    claim="/proc/PID/fdinfo/EPFD lists what the kernel watches: number, mask, file; ghosts too.",
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
def kernels_own_view(bench: Bench) -> Iterator[object]:
    epoll = bench.epoll()
    table, inodes = {}, {}
    for name, mask in (
        ("edge-triggered for IN", EPOLLIN | EPOLLET),
        ("for nothing", 0),
        ("a closed number with a duplicate", EPOLLOUT),
    ):
        target = bench.renumber(bench.pair(name)[0])
        bench.register(epoll, target, mask)
        table[name] = target
        inodes[target.fd] = os.fstat(target.fd).st_ino
    bench.dup(target, "duplicate")
    bench.close(target)
    entries = {entry.fd: entry for entry in bench.interest(epoll)}
    bench.data["interest"] = list(entries.values())
    bench.data["table"] = {
        table["edge-triggered for IN"].fd: EPOLLIN | EPOLLET,
        table["for nothing"].fd: 0,
    }
    for target in table.values():
        yield entries[target.fd].mask_names
    yield {entry.fd: entry.inode for entry in entries.values()} == inodes
    yield all(entry.data & 0xFFFF_FFFF == entry.fd for entry in entries.values())


@phenomenon(
    claim="The inode in fdinfo identifies a socket, but all eventfds have the same; kcmp is exact.",
    expected={
        "inodes of two sockets": 2,
        "inodes of two eventfds": 1,
        "kcmp: entry of the first eventfd is the first": True,
        "kcmp: entry of the first eventfd is the second": False,
    },
    source="epoll(7), Notes; kcmp(2), KCMP_EPOLL_TFD (Linux 4.13); fs/anon_inodes.c",
    since=(4, 13),
    notes="Other epolls, timerfds and signalfds share that inode as well.",
)
def inode_is_no_identity(bench: Bench) -> Iterator[object]:
    for targets in (bench.pair(), (bench.eventfd("first"), bench.eventfd("second"))):
        epoll = bench.epoll()
        for target in targets:
            bench.register(epoll, target, EPOLLIN)
        yield len({entry.inode for entry in bench.interest(epoll)})
    first, second = targets
    for fd in (first.fd, second.fd):
        yield bench.call(f"kcmp(fd {fd}, entry of the first)", _is_watched, epoll, first.fd, fd)


def _is_watched(epoll: Epoll, number: int, fd: int) -> bool:
    """Ask kcmp(2) whether `fd` is the file that the epoll watches under `number`."""
    call = {"x86_64": 312, "aarch64": 272, "riscv64": 272}.get(platform.machine())
    if call is None:
        raise NotPossible(f"the number of kcmp(2) on {platform.machine()} is not known here")
    slot = struct.pack("III", epoll.fd, number, 0)
    libc, pid = ctypes.CDLL(None, use_errno=True), os.getpid()
    order: int = libc.syscall(
        ctypes.c_long(call), pid, pid, KCMP_EPOLL_TFD, ctypes.c_long(fd), slot
    )
    if order < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
        raise NotPossible("this kernel or sandbox has no kcmp(2)")
    if order < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return bool(order == 0)


@phenomenon(
    claim="A pidfd is readable when its process has ended, so epoll can wait for children too.",
    expected={
        "while it runs": [],
        "after it has ended": ["IN"],
        "again, before it is reaped": ["IN"],
    },
    source="pidfd_open(2)",
    since=(5, 3),
)
def process_is_a_descriptor(bench: Bench) -> Iterator[object]:
    with HeldInterrupts():
        child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert child.stdin is not None
        bench.cleanup.callback(child.wait)
        bench.cleanup.callback(child.stdin.close)
        pidfd = bench.add(bench.call("pidfd_open(a child)", os.pidfd_open, child.pid), "pidfd")
    epoll = bench.watch(pidfd, EPOLLIN)
    yield bench.masks(epoll)
    bench.call("close the child's standard input", child.stdin.close)
    yield bench.masks(epoll, PATIENCE_S)
    yield bench.masks(epoll)
