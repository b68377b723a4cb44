"""Phenomena of completion: what io_uring does that a program used to readiness does not expect."""

import mmap
import os
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

from epolllab.events import EPOLLIN, error_name, mask_names
from epolllab.experiments.catalogue import registry
from epolllab.experiments.catalogue.bench import ONE, Bench, Descriptor
from epolllab.kernel import uring
from epolllab.kernel.uring import Buffers, Uring

phenomenon = partial(registry.phenomenon, family="completion", since=(6, 1))

MEMORY = 4_096
AT_ONCE = socket.MSG_DONTWAIT | socket.MSG_WAITALL | socket.MSG_NOSIGNAL


class Operations:
    """A ring on the bench, whose operations have names and are logged as steps."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ring = Uring(64)
        bench.cleanup.callback(self.ring.close)
        self._names: list[str] = []

    def submit(self, name: str, opcode: int, target: Descriptor | None = None, **entry: int) -> int:
        """Submit an operation; return its user_data."""
        self._names.append(name)
        user_data = len(self._names)
        fd = -1 if target is None else target.fd
        self.ring.push(opcode, fd, user_data=user_data, **entry)
        self.bench.step(f"submit {name}", "", self.bench.clock())
        return user_data

    def cancel(self, user_data: int) -> None:
        """Submit the cancellation of an operation."""
        self.submit("cancel", uring.ASYNC_CANCEL, address=user_data)

    def completed(self, wait: int = 0) -> list[tuple[str, int, int]]:
        """Enter, for at least `wait` completions: name, result and flags of each."""
        start = self.bench.clock()
        self.ring.enter(wait, None if wait == 0 else 10)
        found = [(self._names[data - 1], result, flags) for data, result, flags in self.ring.take()]
        shown = ", ".join(f"{name}: {_text(result)}" for name, result, _ in found)
        self.bench.step(f"io_uring_enter({wait})", shown or "no completion", start)
        return found

    def results(self, wait: int = 0) -> list[str]:
        """The same as texts, such as "read: 5" or "cancel: ENOENT"."""
        return [f"{name}: {_text(result)}" for name, result, _ in self.completed(wait)]

    def memory(self, n_bytes: int = MEMORY) -> "tuple[mmap.mmap, dict[str, Any]]":
        """Memory for an operation, and the entry that names it."""
        made = self.ring.memory(n_bytes)
        return made, {"address": uring.address_of(made), "length": n_bytes}

    def receive_many(self, target: Descriptor) -> int:
        """Submit a multishot recv into provided buffers."""
        return self.submit(
            "recv", uring.RECV, target, flags=uring.BUFFER_SELECT, ioprio=uring.RECV_MULTISHOT
        )


def _text(result: int) -> str:
    return error_name(-result) if result < 0 else str(result)


@phenomenon(
    claim="A pending read holds its buffer; of provided buffers, none is held while it waits.",
    expected={
        "bytes held by 8 pending reads": 8 * MEMORY,
        "buffers held by 8 pending multishot recvs": 0,
        "after one of them received": 1,
    },
    source="io_uring_prep_recv(3), io_uring_prep_recv_multishot(3); IORING_OP_RECV with "
    "IOSQE_BUFFER_SELECT",
    notes="A thousand idle connections hold a thousand buffers in the first way. epoll needs "
    "memory only once there is something to read.",
)
def pending_read_holds_a_buffer(bench: Bench) -> Iterator[object]:
    ring = Operations(bench)
    pairs = [bench.pair(f"here {n}", f"there {n}") for n in range(8)]
    held = 0
    for here, _ in pairs:
        _, entry = ring.memory()
        ring.submit("read", uring.RECV, here, **entry)
        held += entry["length"]
    ring.completed()
    yield held
    ring = Operations(bench)
    Buffers(ring.ring, 8, MEMORY)
    others = [bench.pair(f"here {n}", f"there {n}") for n in range(8, 16)]
    for here, _ in others:
        ring.receive_many(here)
    yield sum(flags & uring.BUFFER for _, _, flags in ring.completed())
    bench.send(others[3][1], b"hello")
    yield sum(flags & uring.BUFFER for _, _, flags in ring.completed(1))


@phenomenon(
    claim="A multishot operation ends without being asked: a completion without MORE is its last.",
    expected={
        "2 buffers, 3 pieces: results": ["recv: 4", "recv: 4", "recv: ENOBUFS"],
        "has MORE": [True, True, False],
        "another piece": [],
        "submitted again": ["recv: 4", "recv: 4"],
        "end of file": [("recv: 0", False)],
    },
    source="io_uring_prep_recv_multishot(3): check IORING_CQE_F_MORE",
    notes="A loop that does not look at the flag waits forever for a connection whose recv has "
    "ended. Nothing is lost: the bytes wait in the socket.",
)
def multishot_ends(bench: Bench) -> Iterator[object]:
    ring, (here, there) = Operations(bench), bench.pair()
    buffers = Buffers(ring.ring, 2, 4)
    ring.receive_many(here)
    ring.completed()
    bench.send(there, b"aaaabbbbcccc")
    found = ring.completed(3)
    yield [f"{name}: {_text(result)}" for name, result, _ in found]
    yield [bool(flags & uring.MORE) for *_, flags in found]
    for _, result, flags in found:
        if flags & uring.BUFFER:
            buffers.take(flags, result)
    bench.send(there, b"dddd")
    yield ring.results()
    ring.receive_many(here)
    found = ring.completed(2)
    yield [f"{name}: {_text(result)}" for name, result, _ in found]
    for _, result, flags in found:
        buffers.take(flags, result)
    bench.close(there)
    found = ring.completed(1)
    yield [(f"{name}: {result}", bool(flags & uring.MORE)) for name, result, flags in found]


@phenomenon(
    claim="A cancellation races with its operation: either the data is lost to it, or it is late.",
    expected={
        "pending": ["cancel: 0", "read: ECANCELED"],
        "data arrived first": ["read: 5", "cancel: ENOENT"],
        "the bytes then": 5,
    },
    source="io_uring_prep_cancel(3): ENOENT and EALREADY",
    notes="After a cancellation the operation's own completion must still be awaited, and may "
    "bring bytes that have to be handled.",
)
def cancel_races(bench: Bench) -> Iterator[object]:
    ring, (here, there) = Operations(bench), bench.pair()
    _, entry = ring.memory()
    read = ring.submit("read", uring.RECV, here, **entry)
    ring.completed()
    ring.cancel(read)
    yield sorted(ring.results(2))
    read = ring.submit("read", uring.RECV, here, **entry)
    bench.send(there, b"hello")
    ring.cancel(read)
    found = ring.completed(2)
    yield [f"{name}: {_text(result)}" for name, result, _ in found]
    yield sum(max(result, 0) for name, result, _ in found if name == "read")


@phenomenon(
    claim="close(2) does not cancel a pending read: it keeps the socket open and takes its data.",
    expected={
        "after the close": [],
        "the peer can send": 5,
        "the read": ["read: 5"],
        "the peer then": "EPIPE",
    },
    source="io_uring(7); an operation holds a reference to the open file",
    notes="The peer sees no end of file until the operation has completed: cancel first, or "
    "shutdown(2), then close. epoll forgets a file at its last close.",
)
def close_does_not_cancel(bench: Bench) -> Iterator[object]:
    ring, (here, there) = Operations(bench), bench.pair()
    _, entry = ring.memory()
    ring.submit("read", uring.RECV, here, **entry)
    ring.completed()
    bench.close(here)
    yield ring.results()
    yield bench.send(there, b"hello")
    yield ring.results(1)
    yield bench.attempt(bench.send, there, b"x")


@phenomenon(
    claim="A completed read may be short; only MSG_WAITALL waits until the buffer is full.",
    expected={
        "5 of 8 bytes": ["read: 5"],
        "with MSG_WAITALL": [],
        "3 more": ["read all: 8"],
    },
    source="io_uring_prep_recv(3), recv(2)",
    notes="Completion does not mean complete: a request in two segments completes two reads.",
)
def short_reads(bench: Bench) -> Iterator[object]:
    ring, (here, there) = Operations(bench), bench.pair()
    _, entry = ring.memory(8)
    bench.send(there, b"hello")
    ring.submit("read", uring.RECV, here, **entry)
    yield ring.results(1)
    bench.send(there, b"hello")
    ring.submit("read all", uring.RECV, here, op_flags=socket.MSG_WAITALL, **entry)
    yield ring.results()
    bench.send(there, b"abc")
    yield ring.results(1)


@phenomenon(
    claim="Completions come in the order in which operations finish, not in that of submission.",
    expected={
        "submitted: read 1, read 2, nop": ["nop: 0"],
        "data for 2, then for 1": ["read 2: 1", "read 1: 1"],
        "linked: read, nop": [],
        "data": ["read: 1", "nop: 0"],
    },
    source="io_uring(7); IOSQE_IO_LINK in io_uring_enter(2)",
    notes="user_data is the only thing that tells which operation has completed. A link makes "
    "an operation wait for the one before it.",
)
def order_of_completions(bench: Bench) -> Iterator[object]:
    ring, (first, to_first), (second, to_second) = Operations(bench), bench.pair(), bench.pair()
    (_, one), (_, two) = ring.memory(1), ring.memory(1)
    ring.submit("read 1", uring.RECV, first, **one)
    ring.submit("read 2", uring.RECV, second, **two)
    ring.submit("nop", uring.NOP)
    yield ring.results(1)
    bench.send(to_second, b"b")
    bench.send(to_first, b"a")
    yield ring.results(2)
    ring.submit("read", uring.RECV, first, flags=uring.LINK, **one)
    ring.submit("nop", uring.NOP)
    yield ring.results()
    bench.send(to_first, b"a")
    yield ring.results(2)


@phenomenon(
    claim="A pending poll outlives the close of its descriptor, and reports what the number named.",
    expected={
        "after the close": [],
        "the number names another file": True,
        "a write to the old one": ["IN"],
        "a write to the new one": [],
    },
    source="io_uring(7); a multishot poll holds a reference to the open file",
    notes="epoll drops a file at its last close; here, the operation itself is a reference. A "
    "program that finds its connection by number handles the event for the wrong one.",
)
def poll_of_a_closed_descriptor(bench: Bench) -> Iterator[object]:
    ring, source = Operations(bench), bench.eventfd("source")
    old = bench.renumber(bench.eventfd("old"))
    kept = bench.dup(old, "duplicate", at_least=200)
    ring.submit("poll", uring.POLL_ADD, old, length=uring.POLL_MULTISHOT, op_flags=EPOLLIN)
    ring.completed()
    bench.close(old)
    yield ring.results()
    new = bench.add(os.dup2(source.fd, old.fd, inheritable=False), "new")
    yield new.fd == old.fd
    bench.write(kept, ONE)
    yield [mask_names(result) for _, result, _ in ring.completed(1)]
    bench.write(new, ONE)
    yield ring.results()


@phenomenon(
    claim="With CQE_SKIP_SUCCESS, a send that falls short is silent unless MSG_WAITALL is set.",
    expected={
        "a send that fits": [],
        "received": 5,
        "short, without MSG_WAITALL: completions": 0,
        "short, with it: completions": 1,
        "was all of it sent": False,
    },
    source="io_uring_enter(2): IOSQE_CQE_SKIP_SUCCESS (Linux 5.17); io_send() in io_uring/net.c",
    notes="Without MSG_WAITALL the rest of the response is lost and nothing says so. The memory "
    "must also exist until the send has ended, which a send with MSG_DONTWAIT has when "
    "io_uring_enter returns.",
)
def skip_success_hides_short_sends(bench: Bench) -> Iterator[object]:
    ring, (here, there) = Operations(bench), bench.pair()
    _, entry = ring.memory(1 << 22)
    skip: dict[str, int] = {"flags": uring.SKIP_SUCCESS}
    few = entry | {"length": 5}
    ring.submit("send", uring.SEND, here, op_flags=AT_ONCE, **skip, **few)
    yield ring.results()
    yield len(bench.recv(there, 100))
    silent = AT_ONCE & ~socket.MSG_WAITALL
    ring.submit("send", uring.SEND, here, op_flags=silent, **skip, **entry)
    yield len(ring.results())
    here, there = bench.pair("other here", "other there")
    ring.submit("send", uring.SEND, here, op_flags=AT_ONCE, **skip, **entry)
    found = ring.completed()
    yield len(found)
    yield found[0][1] == entry["length"]
