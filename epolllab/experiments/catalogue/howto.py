"""The faults of the how-to's own server, each shown on a server built like it.

One job: the phenomena of this family, and the server they are shown on.
:class:`HowToServer` does what the server of scotdoyle.com/python-epoll-howto.html does,
one turn of its loop at a call; :class:`HowToProcess` lets it run.
The package's own servers have none of these faults.
"""

import socket

from epolllab import kernel
from epolllab.events import mask_names
from epolllab.experiments.catalogue.bench import Bench, End
from epolllab.experiments.catalogue.registry import phenomenon
from epolllab.experiments.comparisons.howto import (
    READS_AT_MOST,
    REQUEST,
    SOURCE,
    HowToServer,
    _numbers,
)
from epolllab.kernel.waiting import PATIENCE_S

FAMILY = "the how-to's faults"


def _server(bench: Bench, **how: bool | int) -> HowToServer:
    server = HowToServer(**how)  # type: ignore[arg-type]
    bench.finally_do(server.close)
    return server


def _client(bench: Bench, server: HowToServer, name: str = "client") -> End:
    """A client whose connection is complete."""
    sock = socket.create_connection(server.address, PATIENCE_S)
    bench.step(f"connect({name})", "0", bench.clock(), bench.clock())
    return bench.adopt(sock, name)


def _turn(bench: Bench, server: HowToServer, timeout: float = PATIENCE_S) -> list[str]:
    """A turn of the loop as a step; the masks it got."""

    def turn() -> str:
        masks = [mask_names(mask) for _, mask in server.turn(timeout)]
        return ", ".join(masks) or "nothing"

    shown = bench.do("a turn of the how-to's loop", turn)
    return [] if shown == "nothing" else shown.split(", ")


def _accepted(bench: Bench, server: HowToServer) -> socket.socket:
    """Let the server accept one connection; its end of it."""
    before = set(server.connections)
    _turn(bench, server)
    (fd,) = server.connections.keys() - before
    return server.connections[fd]


def _in_state(bench: Bench, sock: socket.socket, state: str) -> None:
    bench.until(lambda: kernel.tcp_info(sock).state == state, f"the server's end in {state}")


@phenomenon(
    "howto-forgets-eof",
    family=FAMILY,
    claim="A client that leaves before its blank line is never closed, and spins the server.",
    expected={
        "level: turns with nothing to do, of 200": 200,
        "level: connections kept": 1,
        f"edge: reads in one turn, cut at {READS_AT_MOST:,}": READS_AT_MOST,
    },
    source=SOURCE,
    notes="Repair: an empty recv is the end; unregister and close. See also ignored-eof-spin.",
)
def howto_forgets_eof(bench: Bench) -> dict[str, int]:
    seen: dict[str, int] = {}
    for edge in (False, True):
        server = _server(bench, edge=edge)
        client = _client(bench, server)
        sock = _accepted(bench, server)
        bench.send(client, b"GET / HTTP/1.0\r\n")
        bench.close(client)
        _in_state(bench, sock, "CLOSE_WAIT")
        _turn(bench, server)
        if edge:
            seen[f"edge: reads in one turn, cut at {READS_AT_MOST:,}"] = server.reads_in_turn
        else:
            useless = sum(len(server.turn()) for _ in range(200))
            seen["level: turns with nothing to do, of 200"] = useless
            seen["level: connections kept"] = len(server.connections)
    return seen


@phenomenon(
    "howto-misreads-hup",
    family=FAMILY,
    claim="The HUP on which it closes is made by its own shutdown, not by the client.",
    expected={"events after the answer": ["HUP"], "client has closed": False, "server took": "HUP"},
    source=SOURCE,
    notes="Its text says that HUP tells that the client has closed. "
    "HUP means that both halves are shut, whoever shut them.",
)
def howto_misreads_hup(bench: Bench) -> dict[str, object]:
    server = _server(bench)
    client = _client(bench, server)
    _accepted(bench, server)
    bench.send(client, REQUEST)
    for _ in range(2):
        _turn(bench, server)
    masks = _turn(bench, server)
    return {
        "events after the answer": masks,
        "client has closed": client.closed,
        "server took": "HUP" if server.hang_ups else "nothing",
    }


@phenomenon(
    "howto-tables-grow",
    family=FAMILY,
    claim="Requests and responses of connections that have ended stay in its tables.",
    expected={"connections": 0, "requests": 20, "responses": 20},
    source=SOURCE,
    notes="After 20 clients at a time. Numbers are reused, so the tables grow to the most that "
    "were ever open at once, and keep each one's whole request.",
)
def howto_tables_grow(bench: Bench) -> dict[str, int]:
    server = _server(bench, backlog=32)
    clients = [_client(bench, server, f"client {number + 1}") for number in range(20)]
    while len(server.connections) < 20:
        _turn(bench, server)
    for client in clients:
        bench.send(client, REQUEST)
    bench.until(lambda: not server.turn() and not server.connections, "all clients answered")
    return {name: len(getattr(server, name)) for name in ("connections", "requests", "responses")}


@phenomenon(
    "howto-takes-reset-for-drained",
    family=FAMILY,
    claim="Edge-triggered, it takes a reset for 'nothing more to read' and keeps the connection.",
    expected={
        "error taken for drained": "ECONNRESET",
        "connections kept": 1,
        "further events": [],
    },
    source=SOURCE,
    notes="Repair: only BlockingIOError (EAGAIN) means drained. The descriptor leaks: "
    "a reset is one edge, and no other will come.",
)
def howto_takes_reset_for_drained(bench: Bench) -> dict[str, object]:
    server = _server(bench, edge=True)
    client = _client(bench, server)
    sock = _accepted(bench, server)
    server.swallowed.clear()
    bench.reset(client)
    _in_state(bench, sock, "CLOSE")
    _turn(bench, server)
    return {
        "error taken for drained": ", ".join(server.swallowed),
        "connections kept": len(server.connections),
        "further events": _turn(bench, server, 0),
    }


@phenomenon(
    "howto-dies-of-a-reset",
    family=FAMILY,
    claim="Level-triggered, one client that resets its connection ends the whole server.",
    expected={"raised out of the loop": "ConnectionResetError"},
    source=f"{SOURCE}; recv(2), ECONNRESET",
    notes="Repair: catch the error of a connection and close that connection.",
)
def howto_dies_of_a_reset(bench: Bench) -> dict[str, str]:
    server = _server(bench)
    client = _client(bench, server)
    sock = _accepted(bench, server)
    bench.reset(client)
    _in_state(bench, sock, "CLOSE")
    return {"raised out of the loop": _exception_of_turn(bench, server)}


@phenomenon(
    "howto-dies-of-a-byte",
    family=FAMILY,
    claim="A request with a byte that is not UTF-8 ends the whole server, which prints requests.",
    expected={"raised out of the loop": "UnicodeDecodeError"},
    source=SOURCE,
    notes="Repair: bytes are bytes; decode for people only, and with errors='replace'.",
)
def howto_dies_of_a_byte(bench: Bench) -> dict[str, str]:
    server = _server(bench)
    client = _client(bench, server)
    _accepted(bench, server)
    bench.send(client, b"GET /\xff HTTP/1.0\r\n\r\n")
    return {"raised out of the loop": _exception_of_turn(bench, server)}


def _exception_of_turn(bench: Bench, server: HowToServer) -> str:
    start = bench.clock()
    try:
        server.turn(PATIENCE_S)
    except Exception as error:
        name = type(error).__name__
        bench.step("a turn of the how-to's loop", f"{name}: {error}", start, bench.clock())
        return name
    return "nothing"


def _until_queued(bench: Bench, server: HowToServer, n: int) -> None:
    bench.until(
        lambda: kernel.listen_queue(server.listener).length >= n, f"{n} in the accept queue"
    )


@phenomenon(
    "howto-backlog-of-one",
    family=FAMILY,
    claim="listen(1) leaves room for two clients between two turns; the third has to try again.",
    expected={"connected of 5": 2},
    source=f"{SOURCE}; listen(2)",
    notes="Repair: a backlog as large as the burst; the kernel cuts it to net.core.somaxconn.",
    picture=_numbers("clients connected between two turns"),
)
def howto_backlog_of_one(bench: Bench) -> dict[str, int]:
    server = _server(bench)
    clients = []
    for number in range(5):
        sock = socket.socket()
        sock.setblocking(False)
        client = bench.adopt(sock, f"client {number + 1}")
        clients.append(client)
        before = kernel.listen_queue(server.listener).length
        bench.tried(bench.do, f"connect({client.name})", sock.connect, server.address)
        if before <= 1:
            _until_queued(bench, server, before + 1)
    states = [kernel.tcp_info(client.sock).state for client in clients]  # type: ignore[arg-type]
    return {"connected of 5": states.count("ESTABLISHED")}


@phenomenon(
    "howto-accepts-one",
    family=FAMILY,
    claim="One accept per event costs a burst of clients a wait each.",
    expected={"level: turns until 5 are accepted": 5, "accepting until EAGAIN": 1},
    source=SOURCE,
    notes="Its edge-triggered version accepts until EAGAIN, as it must; see edge-accept-strands.",
    picture=_numbers("turns of the loop until 5 are accepted"),
)
def howto_accepts_one(bench: Bench) -> dict[str, int]:
    seen: dict[str, int] = {}
    for name, edge in (
        ("level: turns until 5 are accepted", False),
        ("accepting until EAGAIN", True),
    ):
        server = _server(bench, edge=edge, backlog=16)
        for number in range(5):
            _client(bench, server, f"client {number + 1}")
        _until_queued(bench, server, 5)
        n_turns = 0
        while len(server.connections) < 5:
            _turn(bench, server)
            n_turns += 1
        seen[name] = n_turns
    return seen
