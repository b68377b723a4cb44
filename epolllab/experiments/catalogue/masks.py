"""Phenomena of masks: what each bit means, and how the end of a connection is reported."""

import os
import select
import socket
from collections.abc import Iterator
from functools import partial

from epolllab.events import EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, Op, error_name
from epolllab.experiments.catalogue import registry
from epolllab.experiments.catalogue.bench import Bench, Socket
from epolllab.experiments.catalogue.pictures import picture_of_endings
from epolllab.kernel.waiting import PATIENCE_S

phenomenon = partial(registry.phenomenon, family="masks and endings")
ALL = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP
STREAMS = (
    select.EPOLLRDNORM
    | select.EPOLLRDBAND
    | select.EPOLLWRNORM
    | select.EPOLLWRBAND
    | select.EPOLLMSG
)
TCP_POLL = "tcp_poll() in net/ipv4/tcp.c"
IP_RECVERR = 11  # from <linux/in.h>; the socket module lacks it


@phenomenon(
    claim="HUP is reported whatever the mask: a connection shut both ways spins with mask 0.",
    expected={"of 1,000 waits returned": 1000, "each time": ["HUP"]},
    source="epoll_ctl(2): ERR and HUP are always waited for",
    notes="The how-to sets the mask to 0 and relies on this to learn when to close.",
)
def hangup_cannot_be_masked(bench: Bench) -> Iterator[object]:
    here, there, epoll = bench.watched_pair(0)
    bench.shutdown(here, socket.SHUT_RDWR)
    bench.close(there)
    yield bench.spin(epoll, 1000)
    yield bench.masks(epoll)


@phenomenon(
    claim="A loop that ignores an empty read spins (level) or never returns to its wait (edge).",
    expected={
        "level: useless events in 1,000 waits": 1000,
        "edge: events": 1,
        "edge: empty reads in it, of 1,000": 1_000,
    },
    source="the how-to; measured here: 60,867 useless events in 0.45 s, and 181,896 recv in one "
    "event",
    notes="The edge-triggered how-to reads until EAGAIN, and at end of file EAGAIN never comes: "
    "the whole server hangs, not only this connection.",
)
def ignored_eof_spin(bench: Bench) -> Iterator[object]:
    def read(server: Socket) -> bytes:
        return bench.call("", server.sock.recv, 1024, op=Op.RECV, on=server)

    level_end, client = bench.pair("level server", "client")
    level = bench.watch(level_end, EPOLLIN, "level epoll")
    bench.send(client, b"GET / HTTP/1.0\r\n")
    bench.close(client)
    useless = bench.spin(level, 1001, lambda: read(level_end)) - 1
    edge_end, client = bench.pair("edge server", "client")
    edge = bench.watch(edge_end, EPOLLIN | EPOLLET, "edge epoll")
    bench.send(client, b"GET / HTTP/1.0\r\n")
    bench.close(client)
    n_events = len(bench.wait(edge))
    bench.recv(edge_end, 1024)
    yield useless
    yield n_events
    yield sum(not read(edge_end) for _ in range(1_000))


def _end(bench: Bench, how: str) -> Socket:
    """Open a TCP connection and end it; return this end's socket."""
    if how in ("never connected", "connect refused"):
        here = bench.add_socket(socket.socket(), "socket")
        if how == "connect refused":
            _refuse(bench, here)
        return here
    here, there = bench.tcp()
    match how:
        case "peer shut its sending half":
            bench.shutdown(there, socket.SHUT_WR)
            bench.in_state(here, "CLOSE_WAIT")
        case "peer closed":
            bench.close(there)
            bench.in_state(here, "CLOSE_WAIT")
        case "peer reset":
            bench.reset(there)
            bench.in_state(here, "CLOSE")
        case "we shut our sending half":
            bench.shutdown(here, socket.SHUT_WR)
        case "we shut both halves":
            bench.shutdown(here, socket.SHUT_RDWR)
    return here


def _refuse(bench: Bench, here: Socket) -> None:
    """Connect to a port that is bound, so that no other program can listen there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        what = "connect(socket, a port without a listener)"
        bench.attempt(bench.call, what, here.sock.connect, bound.getsockname())
        bench.in_state(here, "CLOSE")


def _mask_of_ending(bench: Bench, how: str, interest: int) -> str:
    epoll = bench.watch(_end(bench, how), interest)
    return "".join(bench.masks(epoll)) or "nothing"


MASKS = {
    "peer shut its sending half": ("IN|OUT|RDHUP", "nothing"),
    "peer closed": ("IN|OUT|RDHUP", "nothing"),
    "peer reset": ("IN|OUT|ERR|HUP|RDHUP", "ERR|HUP"),
    "we shut our sending half": ("OUT", "nothing"),
    "we shut both halves": ("IN|OUT|HUP|RDHUP", "HUP"),
    "connect refused": ("IN|OUT|ERR|HUP|RDHUP", "ERR|HUP"),
    "never connected": ("OUT|HUP", "HUP"),
}
"""The mask of each ending with interest in everything, and with interest 0."""


@phenomenon(
    claim="Seven ways in which a TCP connection ends, or was never opened, have five masks.",
    expected={how: asked for how, (asked, _) in MASKS.items()},
    source=f"epoll_ctl(2); {TCP_POLL}",
    notes="Interest is IN|OUT|PRI|RDHUP. A close looks like a half-close, and a refused connect "
    "like a reset; see endings-told-apart. HUP means that both halves are shut, by either side, "
    "or that there is no connection; the how-to takes it for 'the client closed'.",
    picture=picture_of_endings,
)
def endings_matrix(bench: Bench) -> dict[str, str]:
    return {how: _mask_of_ending(bench, how, ALL) for how in MASKS}


@phenomenon(
    claim="With interest 0, only HUP and ERR of an ending are reported; RDHUP must be requested.",
    expected={how: unasked for how, (_, unasked) in MASKS.items()},
    source=f"epoll_ctl(2); {TCP_POLL}",
    picture=picture_of_endings,
)
def endings_unasked(bench: Bench) -> dict[str, str]:
    return {how: _mask_of_ending(bench, how, 0) for how in MASKS}


@phenomenon(
    claim="Endings with the same mask are told apart by SO_ERROR, or by what a send causes.",
    expected={
        "connect refused: SO_ERROR": "ECONNREFUSED",
        "peer reset: SO_ERROR": "ECONNRESET",
        "half-closed, after a send": "IN|OUT|RDHUP",
        "half-closed, received": 1,
        "closed, after a send": "IN|OUT|ERR|HUP|RDHUP",
        "closed: SO_ERROR": "EPIPE",
    },
    source=f"socket(7), SO_ERROR; {TCP_POLL}; RFC 9293, 3.10.7: a closed end answers with a reset",
    notes="A FIN says that the peer will send no more, and not whether it still reads. A peer "
    "that has closed answers what is sent to it with a reset; after a FIN it is EPIPE.",
)
def endings_told_apart(bench: Bench) -> Iterator[object]:
    for how in ("connect refused", "peer reset"):
        yield error_name(_take_error(bench, _end(bench, how)))
    here, there = bench.tcp()
    bench.shutdown(there, socket.SHUT_WR)
    bench.in_state(here, "CLOSE_WAIT")
    bench.send(here, b"x")
    bench.arrived(there, 1)
    yield "".join(bench.masks(bench.watch(here, ALL)))
    yield len(bench.recv(there, 10))
    here = _end(bench, "peer closed")
    bench.send(here, b"x")
    bench.in_state(here, "CLOSE")
    yield "".join(bench.masks(bench.watch(here, ALL)))
    yield error_name(_take_error(bench, here))


@phenomenon(
    claim="HUP says nothing of OUT: a full buffer shut both ways has OUT on TCP and not on unix.",
    expected={
        "both, buffer full": [],
        "tcp": ["IN|OUT|HUP|RDHUP"],
        "tcp, send": "EPIPE",
        "unix": ["IN|HUP|RDHUP"],
        "unix, send": "EPIPE",
    },
    source=f"{TCP_POLL} sets OUT when the sending half is shut; unix_poll() in "
    "net/unix/af_unix.c looks at the buffer alone",
    notes="A loop that waits for OUT to learn that it cannot send any more waits in vain on a "
    "unix socket; HUP, which cannot be masked, tells it.",
)
def hangup_without_room(bench: Bench) -> Iterator[object]:
    (tcp, tcp_peer), (unix, _) = bench.tcp(), bench.pair()
    bench.fill_tcp(tcp_peer, tcp)
    bench.fill(unix)
    epolls = [bench.watch(here, ALL) for here in (tcp, unix)]
    yield [mask for epoll in epolls for mask in bench.masks(epoll)]
    for here, epoll in zip((tcp, unix), epolls, strict=True):
        bench.shutdown(here, socket.SHUT_RDWR)
        yield bench.masks(epoll)
        yield bench.attempt(bench.send, here, b"x")


@phenomenon(
    claim="select has neither HUP nor ERR: HUP counts as readable, ERR as readable and writable.",
    expected={
        "full unix socket, shut both ways: poll": "HUP",
        "full unix socket, shut both ways: select": "read",
        "full pipe without a reader: poll": "ERR",
        "full pipe without a reader: select": "read, write",
        "TCP, peer closed: poll": "OUT",
        "TCP, peer closed: select": "read, write",
    },
    source="select(2), 'Correspondence between select() and poll() notifications'; POLLIN_SET and "
    "POLLOUT_SET in fs/select.c",
    notes="Interest is OUT for poll, reading and writing for select. With select, a peer that "
    "has closed looks like one that has sent something.",
)
def select_hides_endings(bench: Bench) -> Iterator[object]:
    here, _ = bench.pair()
    bench.fill(here)
    bench.shutdown(here, socket.SHUT_RDWR)
    reader, writer = bench.pipe()
    bench.fill(writer)
    bench.close(reader)
    for target in (here, writer, _end(bench, "peer closed")):
        yield "".join(bench.poll(target, EPOLLOUT))
        yield bench.select(target, write=True)


@phenomenon(
    claim="Data and end of file that arrive together are one event; both must be read.",
    expected={"event": ["IN|RDHUP"], "first read": 5, "then an event": [], "second read": 0},
    source=f"epoll(7); {TCP_POLL}",
    notes="Closing at RDHUP without reading discards the data. Edge-triggered here.",
)
def data_with_fin(bench: Bench) -> Iterator[object]:
    here, there = bench.tcp()
    bench.send(there, b"hello")
    bench.close(there)
    bench.in_state(here, "CLOSE_WAIT")
    epoll = bench.watch(here, EPOLLIN | EPOLLRDHUP | EPOLLET)
    yield bench.masks(epoll)
    yield len(bench.recv(here, 100))
    yield bench.masks(epoll)
    yield len(bench.recv(here, 100))


@phenomenon(
    claim="A pipe reports HUP to a reader without a writer, and ERR to a writer without a reader.",
    expected={
        "writer closed, data left": ["IN|HUP"],
        "data read": ["HUP"],
        "reader closed": ["OUT|ERR"],
        "write": "EPIPE",
    },
    source="poll(2); pipe_poll() in fs/pipe.c",
)
def pipe_ends(bench: Bench) -> Iterator[object]:
    reader, writer = bench.pipe()
    epoll = bench.watch(reader, EPOLLIN)
    bench.write(writer, b"x")
    bench.close(writer)
    yield bench.masks(epoll)
    bench.read(reader, 10)
    yield bench.masks(epoll)
    reader, writer = bench.pipe()
    epoll = bench.watch(writer, EPOLLOUT, "second epoll")
    bench.close(reader)
    yield bench.masks(epoll)
    yield bench.attempt(bench.write, writer, b"x")


@phenomenon(
    claim="One byte of urgent TCP data is PRI and not IN: it is outside the stream.",
    expected={"urgent byte": ["PRI"], "read it with MSG_OOB": "!", "read the stream": "EAGAIN"},
    source=f"tcp(7); {TCP_POLL}",
    notes="Reading the stream first would skip the byte and lose it (seen on 6.18).",
)
def priority_data(bench: Bench) -> Iterator[object]:
    here, there = bench.tcp()
    epoll = bench.watch(here, EPOLLIN | EPOLLPRI)
    bench.send(there, b"!", socket.MSG_OOB)
    yield bench.masks(epoll, PATIENCE_S)
    urgent = bench.call("recv(server, 1, MSG_OOB)", here.sock.recv, 1, socket.MSG_OOB)
    yield urgent.decode()
    yield bench.attempt(bench.recv, here, 10)


@phenomenon(
    claim="poll reports a closed number with NVAL at each wait; epoll and select refuse it.",
    expected={"poll": "NVAL", "epoll, at register": "EBADF", "select": "EBADF"},
    source="poll(2); epoll_ctl(2); select(2)",
)
def invalid_descriptor(bench: Bench) -> Iterator[object]:
    closed = bench.renumber(bench.eventfd("closed"))
    bench.close(closed)
    yield "".join(bench.poll(closed, EPOLLIN))
    yield bench.attempt(bench.register, bench.epoll(), closed, EPOLLIN)
    yield bench.attempt(bench.select, closed)


@phenomenon(
    claim="register(fd) without a mask asks for IN, PRI and OUT, so an idle socket spins at once.",
    expected={"interest": "IN|PRI|OUT|ERR|HUP", "idle socket": ["OUT"]},
    source="CPython's select.epoll.register; the kernel adds ERR and HUP",
)
def default_mask(bench: Bench) -> Iterator[object]:
    here, _ = bench.pair()
    epoll = bench.epoll()
    bench.call("epoll.register(here)", epoll.epoll.register, here.fd)
    yield bench.interest(epoll)[0].mask_names
    yield bench.masks(epoll)


@phenomenon(
    claim="Registering a descriptor again is refused and changes nothing.",
    expected={"register again, for OUT": "EEXIST", "interest": "IN|ERR|HUP"},
    source="epoll_ctl(2)",
    notes="CPython's help text once said 'Registers a new fd or modifies an already registered "
    "fd'; the kernel never did.",
)
def register_twice(bench: Bench) -> Iterator[object]:
    here, _, epoll = bench.watched_pair(EPOLLIN)
    yield bench.attempt(bench.register, epoll, here, EPOLLOUT)
    yield bench.interest(epoll)[0].mask_names


@phenomenon(
    claim="A connect in progress has ended when OUT comes; SO_ERROR says whether it succeeded.",
    expected={"connect": "EINPROGRESS", "event": ["OUT"], "SO_ERROR": 0},
    source="connect(2), EINPROGRESS",
)
def connect_completes_writable(bench: Bench) -> Iterator[object]:
    address = bench.listener().sock.getsockname()
    here = bench.add_socket(socket.socket(), "socket")
    started = bench.attempt(bench.call, "connect(socket, listener)", here.sock.connect, address)
    bench.in_state(here, "ESTABLISHED")
    epoll = bench.watch(here, EPOLLOUT)
    yield started
    yield bench.masks(epoll, PATIENCE_S)
    yield _take_error(bench, here)


def _take_error(bench: Bench, here: Socket) -> int:
    return bench.call(
        "getsockopt(SO_ERROR)", here.sock.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR
    )


@phenomenon(
    claim="RDNORM comes with IN, WRNORM with OUT, and on unix sockets WRBAND with OUT as well.",
    expected={
        "unix, room to write": ["OUT|WRNORM|WRBAND"],
        "unix, data too": ["IN|OUT|RDNORM|WRNORM|WRBAND"],
        "tcp, room to write": ["OUT|WRNORM"],
        "tcp, data too": ["IN|OUT|RDNORM|WRNORM"],
    },
    source="poll(2): RDNORM is equivalent to IN, WRNORM to OUT, RDBAND is generally unused on "
    "Linux, and so is MSG; unix_poll() in net/unix/af_unix.c; tcp_poll() in net/ipv4/tcp.c",
    notes="The names come from System V streams. A mask needs none of them.",
)
def norm_and_band(bench: Bench) -> Iterator[object]:
    for here, there in (bench.pair(), bench.tcp()):
        epoll = bench.watch(here, EPOLLIN | EPOLLOUT | STREAMS)
        yield bench.masks(epoll)
        bench.send(there, b"x")
        bench.arrived(here, 1)
        yield bench.masks(epoll)


@phenomenon(
    claim="A socket's error is fetched once, by SO_ERROR or by the call that fails with it.",
    expected={
        "peer reset": ["IN|ERR|HUP|RDHUP"],
        "SO_ERROR": "ECONNRESET",
        "after that": ["IN|HUP|RDHUP"],
        "then recv": 0,
        "recv instead of SO_ERROR": "ECONNRESET",
        "after recv": ["IN|HUP|RDHUP"],
        "then SO_ERROR": 0,
    },
    source=f"socket(7), SO_ERROR; {TCP_POLL}",
    notes="After SO_ERROR was fetched, a reset looks like an orderly end of file. See also "
    "error-queue-is-err: ERR has a second cause.",
)
def error_is_taken_once(bench: Bench) -> Iterator[object]:
    here = _end(bench, "peer reset")
    epoll = bench.watch(here, EPOLLIN | EPOLLRDHUP)
    yield bench.masks(epoll)
    yield error_name(_take_error(bench, here))
    yield bench.masks(epoll)
    yield len(bench.recv(here, 10))
    here = _end(bench, "peer reset")
    yield bench.attempt(bench.recv, here, 10)
    yield bench.masks(bench.watch(here, EPOLLIN | EPOLLRDHUP))
    yield _take_error(bench, here)


@phenomenon(
    claim="ERR can also mean a message in the error queue, which SO_ERROR does not take away.",
    expected={
        "interest 0, peer refuses": ["ERR"],
        "SO_ERROR": "ECONNREFUSED",
        "after that": ["ERR"],
        "SO_ERROR again": 0,
        "after recvmsg with MSG_ERRQUEUE": [],
    },
    source="ip(7), IP_RECVERR; recv(2), MSG_ERRQUEUE; datagram_poll() in net/core/datagram.c",
    notes="With IP_RECVERR, or for time stamps and MSG_ZEROCOPY on TCP too. A loop that fetches "
    "SO_ERROR and nothing else spins.",
)
def error_queue_is_err(bench: Bench) -> Iterator[object]:
    here, there = bench.udp()
    here.sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    epoll = bench.watch(here, 0)
    bench.close(there)
    bench.send(here, b"x")
    yield bench.masks(epoll, PATIENCE_S)
    yield error_name(_take_error(bench, here))
    yield bench.masks(epoll)
    yield _take_error(bench, here)
    bench.call(
        "recvmsg(here, MSG_ERRQUEUE)",
        lambda: here.sock.recvmsg(100, 1000, socket.MSG_ERRQUEUE)[0],
    )
    yield bench.masks(epoll)


@phenomenon(
    claim="A connected UDP socket whose peer is gone reports ERR; the next call gets the errno.",
    expected={"interest 0, after sending": ["ERR"], "recv": "ECONNREFUSED", "then": []},
    source="udp(7); ip(7): an ICMP port unreachable becomes the socket's error",
)
def udp_refusal_is_err(bench: Bench) -> Iterator[object]:
    here, there = bench.udp()
    epoll = bench.watch(here, 0)
    bench.close(there)
    bench.send(here, b"x")
    yield bench.masks(epoll, PATIENCE_S)
    yield bench.attempt(bench.recv, here, 10)
    yield bench.masks(epoll)


@phenomenon(
    claim="An empty datagram is IN, and its recv returns no bytes: on UDP that is no end of file.",
    expected={"event": ["IN"], "recv": 0, "then": [], "recv again": "EAGAIN"},
    source="udp(7); recv(2): a datagram may have length zero",
)
def empty_datagram(bench: Bench) -> Iterator[object]:
    here, there = bench.udp()
    epoll = bench.watch(here, EPOLLIN)
    bench.send(there, b"")
    yield bench.masks(epoll, PATIENCE_S)
    yield len(bench.recv(here, 10))
    yield bench.masks(epoll)
    yield bench.attempt(bench.recv, here, 10)


@phenomenon(
    claim="A terminal's master reports HUP when its last slave has closed, not before one opened.",
    expected={
        "no slave opened yet": [],
        "read": "EAGAIN",
        "slave open": [],
        "slave closed": ["HUP"],
        "then read": "EIO",
        "slave opened again": [],
    },
    source="pts(4); n_tty_poll() in drivers/tty/n_tty.c tests TTY_OTHER_CLOSED, which "
    "pty_close() sets and pty_open() clears",
    notes="Unlike at a socket's end of file, read raises: a loop that waits for b'' never gets it.",
)
def terminal_hangs_up(bench: Bench) -> Iterator[object]:
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    fresh = bench.add(bench.call("open(/dev/ptmx)", os.open, "/dev/ptmx", flags), "fresh master")
    yield bench.masks(bench.watch(fresh, EPOLLIN))
    yield bench.attempt(os.read, fresh.fd, 10)
    master, slave = bench.pty()
    path = os.ttyname(slave.fd)
    epoll = bench.watch(master, EPOLLIN)
    yield bench.masks(epoll)
    bench.close(slave)
    yield bench.masks(epoll, PATIENCE_S)
    yield bench.attempt(os.read, master.fd, 10)
    bench.add(bench.call("open(slave)", os.open, path, flags), "slave")
    yield bench.masks(epoll)
