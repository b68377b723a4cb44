# ruff: noqa: D103 - the claim in the decorator says what each function shows
"""Masks and endings: what each bit means, and how a connection's end looks.

One job: the phenomena of this family. Each works on the bench it is given, and knows
nothing of catalogue and verdict.
"""

import errno
import os
import select
import socket
from collections.abc import Callable

from epolllab.events import EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, mask_names
from epolllab.experiments.catalogue.bench import Bench, End
from epolllab.experiments.catalogue.pictures import picture_of_endings
from epolllab.experiments.catalogue.registry import phenomenon
from epolllab.kernel.waiting import PATIENCE_S

FAMILY = "masks and endings"
ALL = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP
STREAMS = (
    select.EPOLLRDNORM
    | select.EPOLLRDBAND
    | select.EPOLLWRNORM
    | select.EPOLLWRBAND
    | select.EPOLLMSG
)
TCP_POLL = "tcp_poll() in net/ipv4/tcp.c"


@phenomenon(
    "hangup-cannot-be-masked",
    family=FAMILY,
    claim="HUP is reported whatever the mask: a connection shut at both ends spins with mask 0.",
    expected={"of 1,000 waits returned": 1000, "each time": ["HUP"]},
    source="epoll_ctl(2): ERR and HUP are always waited for",
    notes="The how-to sets the mask to 0 and relies on just this to learn when to close.",
)
def hangup_cannot_be_masked(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, 0)
    bench.shutdown(here, socket.SHUT_RDWR)
    bench.close(there)
    return {"of 1,000 waits returned": bench.spin(epoll, 1000), "each time": bench.masks(epoll)}


@phenomenon(
    "ignored-eof-spin",
    family=FAMILY,
    claim="A loop that takes an empty read for nothing spins (level) or never returns (edge).",
    expected={
        "level: useless events in 1,000 waits": 1000,
        "edge: events": 1,
        "edge: empty reads in it, of 1,000": 1_000,
    },
    source="the how-to; seen here: 60,867 useless events in 0.45 s, and 181,896 recv in one event",
    notes="The edge-triggered how-to reads until EAGAIN, and at end of file EAGAIN never comes: "
    "the whole server is dead, not only this connection.",
)
def ignored_eof_spin(bench: Bench) -> dict[str, object]:
    here, there = bench.pair("level server", "client")
    level = bench.epoll("level epoll")
    bench.register(level, here, EPOLLIN)
    bench.send(there, b"GET / HTTP/1.0\r\n")
    bench.close(there)
    useless = bench.spin(level, 1001, lambda: bench.receive_quietly(here)) - 1
    server, client = bench.pair("edge server", "client")
    edge = bench.epoll("edge epoll")
    bench.register(edge, server, EPOLLIN | EPOLLET)
    bench.send(client, b"GET / HTTP/1.0\r\n")
    bench.close(client)
    n_events = len(bench.wait(edge))
    bench.recv(server, 1024)
    n_empty = sum(bench.receive_quietly(server) == 0 for _ in range(1_000))
    return {
        "level: useless events in 1,000 waits": useless,
        "edge: events": n_events,
        "edge: empty reads in it, of 1,000": n_empty,
    }


def _peer_shut(bench: Bench) -> End:
    here, there = bench.tcp()
    bench.shutdown(there, socket.SHUT_WR)
    bench.in_state(here, "CLOSE_WAIT")
    return here


def _peer_closed(bench: Bench) -> End:
    here, there = bench.tcp()
    bench.close(there)
    bench.in_state(here, "CLOSE_WAIT")
    return here


def _peer_reset(bench: Bench) -> End:
    here, there = bench.tcp()
    bench.reset(there)
    bench.in_state(here, "CLOSE")
    return here


def _we_shut(bench: Bench) -> End:
    here, _ = bench.tcp()
    bench.shutdown(here, socket.SHUT_RDWR)
    return here


def _we_shut_writing(bench: Bench) -> End:
    here, _ = bench.tcp()
    bench.shutdown(here, socket.SHUT_WR)
    return here


def _refused(bench: Bench) -> End:
    end = _fresh(bench)
    assert end.sock is not None
    sock = end.sock
    with socket.socket() as taken:
        # Bound and not listening: nobody else can listen there, and a connect is refused.
        taken.bind(("127.0.0.1", 0))
        bench.tried(
            bench.do,
            "connect(socket, a port nobody listens at)",
            lambda: sock.connect(taken.getsockname()),
        )
        bench.in_state(end, "CLOSE")
    return end


def _fresh(bench: Bench) -> End:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    return bench.adopt(sock, "socket")


ENDINGS: dict[str, Callable[[Bench], End]] = {
    "peer shut its sending half": _peer_shut,
    "peer closed": _peer_closed,
    "peer reset": _peer_reset,
    "we shut our sending half": _we_shut_writing,
    "we shut both halves": _we_shut,
    "connect refused": _refused,
    "never connected": _fresh,
}


@phenomenon(
    "endings-matrix",
    family=FAMILY,
    claim="Each way in which a TCP connection ends, or never begins, has a mask of its own.",
    expected={
        "peer shut its sending half": "IN|OUT|RDHUP",
        "peer closed": "IN|OUT|RDHUP",
        "peer reset": "IN|OUT|ERR|HUP|RDHUP",
        "we shut our sending half": "OUT",
        "we shut both halves": "IN|OUT|HUP|RDHUP",
        "connect refused": "IN|OUT|ERR|HUP|RDHUP",
        "never connected": "OUT|HUP",
    },
    source=f"epoll_ctl(2); {TCP_POLL}",
    notes="Interest is IN|OUT|PRI|RDHUP. HUP means that both halves are shut, whoever shut them; "
    "the how-to takes it for 'the client closed'.",
    picture=picture_of_endings,
)
def endings_matrix(bench: Bench) -> dict[str, str]:
    return {name: _mask_of_ending(bench, make, ALL) for name, make in ENDINGS.items()}


@phenomenon(
    "endings-unasked",
    family=FAMILY,
    claim="With interest 0 only HUP and ERR are left of an ending; RDHUP has to be asked for.",
    expected={
        "peer shut its sending half": "nothing",
        "peer closed": "nothing",
        "peer reset": "ERR|HUP",
        "we shut our sending half": "nothing",
        "we shut both halves": "HUP",
        "connect refused": "ERR|HUP",
        "never connected": "HUP",
    },
    source=f"epoll_ctl(2); {TCP_POLL}",
    picture=picture_of_endings,
)
def endings_unasked(bench: Bench) -> dict[str, str]:
    return {name: _mask_of_ending(bench, make, 0) for name, make in ENDINGS.items()}


def _mask_of_ending(bench: Bench, make: Callable[[Bench], End], interest: int) -> str:
    end = make(bench)
    epoll = bench.epoll()
    bench.register(epoll, end, interest)
    return "".join(bench.masks(epoll)) or "nothing"


@phenomenon(
    "select-hides-endings",
    family=FAMILY,
    claim="select knows no HUP: an ended connection is readable, and a broken one writable too.",
    expected={
        "peer closed: poll": "IN|RDHUP",
        "peer closed: select": "read",
        "peer reset: poll": "IN|ERR|HUP|RDHUP",
        "peer reset: select": "read",
    },
    source="select(2), 'Correspondence between select() and poll() notifications'",
    notes="Interest is in reading alone; ERR counts as writable, and here nobody asked for that.",
)
def select_hides_endings(bench: Bench) -> dict[str, str]:
    seen: dict[str, str] = {}
    for name, make in (("peer closed", _peer_closed), ("peer reset", _peer_reset)):
        end = make(bench)
        poll = select.poll()
        poll.register(end.fd, EPOLLIN | EPOLLRDHUP)
        ready = bench.do(f"poll({end.name}, IN|RDHUP)", poll.poll, 0)
        seen[f"{name}: poll"] = mask_names(ready[0][1])
        readable, _, _ = bench.do(
            f"select({end.name}, read)", lambda e=end: select.select([e], [], [], 0)
        )
        seen[f"{name}: select"] = "read" if readable else "nothing"
    return seen


@phenomenon(
    "data-with-fin",
    family=FAMILY,
    claim="Data and end of file that came together are one event; both must be read.",
    expected={"event": ["IN|RDHUP"], "first read": 5, "then an event": [], "second read": 0},
    source=f"epoll(7); {TCP_POLL}",
    notes="Closing at RDHUP without reading throws the data away. Edge-triggered here.",
)
def data_with_fin(bench: Bench) -> dict[str, object]:
    here, there = bench.tcp()
    epoll = bench.epoll()
    bench.send(there, b"hello")
    bench.close(there)
    bench.in_state(here, "CLOSE_WAIT")
    bench.register(epoll, here, EPOLLIN | EPOLLRDHUP | EPOLLET)
    return {
        "event": bench.masks(epoll),
        "first read": len(bench.recv(here, 100)),
        "then an event": bench.masks(epoll),
        "second read": len(bench.recv(here, 100)),
    }


@phenomenon(
    "pipe-ends",
    family=FAMILY,
    claim="A pipe says HUP to the reader without a writer, and ERR to the writer without a reader.",
    expected={
        "writer closed, data left": ["IN|HUP"],
        "data read": ["HUP"],
        "reader closed": ["OUT|ERR"],
        "write": "EPIPE",
    },
    source="poll(2); pipe_poll() in fs/pipe.c",
)
def pipe_ends(bench: Bench) -> dict[str, object]:
    reader, writer = bench.pipe()
    epoll = bench.epoll()
    bench.register(epoll, reader, EPOLLIN)
    bench.write(writer, b"x")
    bench.close(writer)
    seen: dict[str, object] = {"writer closed, data left": bench.masks(epoll)}
    bench.read(reader, 10)
    seen["data read"] = bench.masks(epoll)
    reader, writer = bench.pipe()
    epoll = bench.epoll("second epoll")
    bench.register(epoll, writer, EPOLLOUT)
    bench.close(reader)
    seen["reader closed"] = bench.masks(epoll)
    seen["write"] = bench.attempt(bench.write, writer, b"x")
    return seen


@phenomenon(
    "priority-data",
    family=FAMILY,
    claim="One byte of urgent TCP data is PRI, and not IN: it stands outside the stream.",
    expected={"urgent byte": ["PRI"], "read it with MSG_OOB": "!", "read the stream": "EAGAIN"},
    source=f"tcp(7); {TCP_POLL}",
    notes="Reading the stream first would pass over the byte and lose it (seen on 6.18).",
)
def priority_data(bench: Bench) -> dict[str, object]:
    here, there = bench.tcp()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLPRI)
    bench.send(there, b"!", socket.MSG_OOB)
    assert here.sock is not None
    seen: dict[str, object] = {"urgent byte": bench.masks(epoll, timeout=PATIENCE_S)}
    urgent = bench.do("recv(server, 1, MSG_OOB)", here.sock.recv, 1, socket.MSG_OOB)
    seen["read it with MSG_OOB"] = urgent.decode()
    seen["read the stream"] = bench.attempt(bench.recv, here, 10)
    return seen


@phenomenon(
    "invalid-descriptor",
    family=FAMILY,
    claim="poll reports a closed number with NVAL at each wait; epoll and select refuse it.",
    expected={"poll": "NVAL", "epoll, at register": "EBADF", "select": "EBADF"},
    source="poll(2); epoll_ctl(2); select(2)",
)
def invalid_descriptor(bench: Bench) -> dict[str, object]:
    end = bench.moved(bench.eventfd())
    bench.close(end)
    poll = select.poll()
    poll.register(end.fd, EPOLLIN)
    ready = bench.do(f"poll(fd {end.fd})", poll.poll, 0)
    return {
        "poll": "".join(mask_names(mask) for _, mask in ready),
        "epoll, at register": bench.tried(bench.register, bench.epoll(), end, EPOLLIN),
        "select": bench.tried(
            bench.do, f"select(fd {end.fd})", lambda: select.select([end.fd], [], [], 0)
        ),
    }


@phenomenon(
    "default-mask",
    family=FAMILY,
    claim="register(fd) without a mask asks for IN, PRI and OUT, so an idle socket spins at once.",
    expected={"interest": "IN|PRI|OUT|ERR|HUP", "idle socket": ["OUT"]},
    source="CPython's select.epoll.register; the kernel adds ERR and HUP",
)
def default_mask(bench: Bench) -> dict[str, object]:
    here, _ = bench.pair()
    epoll = bench.epoll()
    bench.do("epoll.register(here)", epoll.epoll.register, here.fd)
    return {"interest": bench.interest(epoll)[0].mask_names, "idle socket": bench.masks(epoll)}


@phenomenon(
    "register-twice",
    family=FAMILY,
    claim="Registering a descriptor again is refused and changes nothing.",
    expected={"register again, for OUT": "EEXIST", "interest": "IN|ERR|HUP"},
    source="epoll_ctl(2)",
    notes="CPython's help text once said 'Registers a new fd or modifies an already registered "
    "fd'; the kernel never did.",
)
def register_twice(bench: Bench) -> dict[str, object]:
    here, _ = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    return {
        "register again, for OUT": bench.tried(bench.register, epoll, here, EPOLLOUT),
        "interest": bench.interest(epoll)[0].mask_names,
    }


@phenomenon(
    "connect-completes-writable",
    family=FAMILY,
    claim="A connect that goes on is finished when OUT comes; SO_ERROR says whether it worked.",
    expected={"connect": "EINPROGRESS", "event": ["OUT"], "SO_ERROR": 0},
    source="connect(2), EINPROGRESS",
)
def connect_completes_writable(bench: Bench) -> dict[str, object]:
    listener = bench.listener()
    end = _fresh(bench)
    assert listener.sock is not None
    assert end.sock is not None
    address = listener.sock.getsockname()
    refusal = bench.tried(bench.do, "connect(socket, listener)", end.sock.connect, address)
    epoll = bench.epoll()
    bench.in_state(end, "ESTABLISHED")
    bench.register(epoll, end, EPOLLOUT)
    return {
        "connect": refusal,
        "event": bench.masks(epoll, timeout=PATIENCE_S),
        "SO_ERROR": bench.do(
            "getsockopt(SO_ERROR)", end.sock.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR
        ),
    }


@phenomenon(
    "norm-and-band",
    family=FAMILY,
    claim="RDNORM goes with IN, WRNORM and WRBAND with OUT; RDBAND and MSG stay unset.",
    expected={"room to write": ["OUT|WRNORM|WRBAND"], "data too": ["IN|OUT|RDNORM|WRNORM|WRBAND"]},
    source="poll(2): RDNORM is equivalent to IN, WRNORM to OUT, Linux does not use MSG; "
    "unix_poll() in net/unix/af_unix.c",
    notes="Names from System V streams. A mask needs none of them.",
)
def norm_and_band(bench: Bench) -> dict[str, object]:
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLOUT | STREAMS)
    seen: dict[str, object] = {"room to write": bench.masks(epoll)}
    bench.send(there, b"x")
    seen["data too"] = bench.masks(epoll)
    return seen


@phenomenon(
    "error-is-taken-once",
    family=FAMILY,
    claim="ERR lasts until the error is taken, by SO_ERROR or by the call that it makes fail.",
    expected={
        "peer reset": ["IN|ERR|HUP|RDHUP"],
        "SO_ERROR": "ECONNRESET",
        "after that": ["IN|HUP|RDHUP"],
        "recv": 0,
    },
    source=f"socket(7), SO_ERROR; {TCP_POLL}",
    notes="After somebody has asked for SO_ERROR, a reset looks like an orderly end of file.",
)
def error_is_taken_once(bench: Bench) -> dict[str, object]:
    here = _peer_reset(bench)
    assert here.sock is not None
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLRDHUP)
    seen: dict[str, object] = {"peer reset": bench.masks(epoll)}
    number = bench.do(
        "getsockopt(SO_ERROR)", here.sock.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR
    )
    seen["SO_ERROR"] = errno.errorcode.get(number, number)
    seen["after that"] = bench.masks(epoll)
    seen["recv"] = len(bench.recv(here, 10))
    return seen


@phenomenon(
    "udp-refusal-is-err",
    family=FAMILY,
    claim="A connected UDP socket whose peer is gone gets ERR, and the next call gets the errno.",
    expected={"interest 0, after sending": ["ERR"], "recv": "ECONNREFUSED", "then": []},
    source="udp(7); ip(7): an ICMP port unreachable becomes the socket's error",
)
def udp_refusal_is_err(bench: Bench) -> dict[str, object]:
    here, there = bench.udp()
    epoll = bench.epoll()
    bench.register(epoll, here, 0)
    bench.close(there)
    bench.send(here, b"x")
    seen: dict[str, object] = {"interest 0, after sending": bench.masks(epoll, timeout=PATIENCE_S)}
    seen["recv"] = bench.attempt(bench.recv, here, 10)
    seen["then"] = bench.masks(epoll)
    return seen


@phenomenon(
    "empty-datagram",
    family=FAMILY,
    claim="An empty datagram is IN, and its recv returns no bytes: on UDP that is no end of file.",
    expected={"event": ["IN"], "recv": 0, "then": [], "recv again": "EAGAIN"},
    source="udp(7); recv(2): a datagram may have length zero",
)
def empty_datagram(bench: Bench) -> dict[str, object]:
    here, there = bench.udp()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    bench.send(there, b"")
    seen: dict[str, object] = {"event": bench.masks(epoll, timeout=PATIENCE_S)}
    seen["recv"] = len(bench.recv(here, 10))
    seen["then"] = bench.masks(epoll)
    seen["recv again"] = bench.attempt(bench.recv, here, 10)
    return seen


@phenomenon(
    "terminal-hangs-up",
    family=FAMILY,
    claim="The master of a pseudoterminal says HUP while no slave is open, and its read is EIO.",
    expected={"slave open": [], "slave closed": ["HUP"], "read": "EIO"},
    source="pts(4); n_tty_poll() in drivers/tty/n_tty.c",
    notes="Unlike at a socket's end, read raises: a loop that waits for b'' never sees one.",
)
def terminal_hangs_up(bench: Bench) -> dict[str, object]:
    master, slave = bench.pty()
    epoll = bench.epoll()
    bench.register(epoll, master, EPOLLIN)
    seen: dict[str, object] = {"slave open": bench.masks(epoll)}
    bench.close(slave)
    seen["slave closed"] = bench.masks(epoll, timeout=PATIENCE_S)
    seen["read"] = bench.attempt(lambda: os.read(master.fd, 10))
    return seen
