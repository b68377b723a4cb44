"""Phenomena of the how-to's server: its faults, each shown on a server built like it.

:class:`epolllab.experiments.HowToServer` is the server of
scotdoyle.com/python-epoll-howto.html. The package's own servers have none of these faults.
"""

import socket
from collections.abc import Iterator
from functools import partial

from epolllab import kernel
from epolllab.events import mask_names
from epolllab.experiments.catalogue import registry
from epolllab.experiments.catalogue.bench import Bench, Socket
from epolllab.experiments.catalogue.pictures import picture_of_numbers
from epolllab.experiments.comparisons.howto import READS_AT_MOST, REQUEST, SOURCE, HowToServer
from epolllab.kernel.waiting import PATIENCE_S

phenomenon = partial(registry.phenomenon, family="the how-to's faults")


def _server(bench: Bench, *, edge: bool = False, backlog: int = 1) -> HowToServer:
    return bench.cleanup.enter_context(HowToServer(edge=edge, backlog=backlog))


def _client(bench: Bench, server: HowToServer, name: str = "client") -> Socket:
    sock = bench.call(f"connect({name})", socket.create_connection, server.address, PATIENCE_S)
    return bench.add_socket(sock, name)


def _turn(bench: Bench, server: HowToServer, timeout: float = PATIENCE_S) -> list[str]:
    """Run one turn of the loop as a step; return the masks it got."""
    start = bench.clock()
    masks = [mask_names(mask) for _, mask in server.turn(timeout)]
    bench.step("a turn of the how-to's loop", ", ".join(masks) or "nothing", start)
    return masks


def _accept(bench: Bench, server: HowToServer) -> socket.socket:
    """Let the server accept its first connection; return the server's socket."""
    _turn(bench, server)
    (accepted,) = server.connections.values()
    return accepted


def _until_state(bench: Bench, accepted: socket.socket, state: str) -> None:
    bench.until(lambda: kernel.tcp_info(accepted).state == state, f"the server's socket in {state}")


@phenomenon(
    claim="A client that leaves before its blank line is never closed, and makes the server spin.",
    expected={
        "level: turns with nothing to do, of 200": 200,
        "level: connections kept": 1,
        f"edge: reads in one turn, cut at {READS_AT_MOST:,}": READS_AT_MOST,
    },
    source=SOURCE,
    notes="Repair: an empty recv is end of file; unregister and close. See also ignored-eof-spin.",
)
def howto_forgets_eof(bench: Bench) -> Iterator[object]:
    for edge in (False, True):
        server = _server(bench, edge=edge)
        client = _client(bench, server)
        accepted = _accept(bench, server)
        bench.send(client, b"GET / HTTP/1.0\r\n")
        bench.close(client)
        _until_state(bench, accepted, "CLOSE_WAIT")
        _turn(bench, server)
        if edge:
            yield server.reads_in_turn
        else:
            yield sum(len(server.turn()) for _ in range(200))
            yield len(server.connections)


@phenomenon(
    claim="The HUP on which it closes comes from its own shutdown, not from the client.",
    expected={
        "events after the response": ["HUP"],
        "client has closed": False,
        "server took": "HUP",
    },
    source=SOURCE,
    notes="Its text says that HUP means that the client has closed. "
    "HUP means that both halves are shut, by either side.",
)
def howto_misreads_hup(bench: Bench) -> Iterator[object]:
    server = _server(bench)
    client = _client(bench, server)
    _accept(bench, server)
    bench.send(client, REQUEST)
    for _ in range(2):
        _turn(bench, server)
    masks = _turn(bench, server)
    yield masks
    yield client.closed
    yield "HUP" if server.hang_ups else "nothing"


@phenomenon(
    claim="Requests and responses of closed connections stay in its tables.",
    expected={"connections": 0, "requests": 20, "responses": 20},
    source=SOURCE,
    notes="After 20 clients at a time. Numbers are reused, so the tables grow to the largest "
    "number of connections open at once, and keep each one's whole request.",
)
def howto_tables_grow(bench: Bench) -> dict[str, int]:
    server = _server(bench, backlog=32)
    clients = [_client(bench, server, f"client {number + 1}") for number in range(20)]
    while len(server.connections) < 20:
        _turn(bench, server)
    for client in clients:
        bench.send(client, REQUEST)
    bench.until(lambda: not server.turn() and not server.connections, "all clients served")
    return {name: len(getattr(server, name)) for name in ("connections", "requests", "responses")}


@phenomenon(
    claim="Edge-triggered, it takes a reset for 'nothing more to read' and keeps the connection.",
    expected={
        "error taken for drained": "ECONNRESET",
        "connections kept": 1,
        "further events": [],
    },
    source=SOURCE,
    notes="Repair: only BlockingIOError (EAGAIN) means drained. The descriptor leaks: "
    "a reset is one edge, and no other edge follows.",
)
def howto_takes_reset_for_drained(bench: Bench) -> Iterator[object]:
    server = _server(bench, edge=True)
    client = _client(bench, server)
    accepted = _accept(bench, server)
    server.swallowed.clear()
    bench.reset(client)
    _until_state(bench, accepted, "CLOSE")
    _turn(bench, server)
    yield ", ".join(server.swallowed)
    yield len(server.connections)
    yield _turn(bench, server, 0)


@phenomenon(
    claim="Level-triggered, one client that resets its connection ends the whole server.",
    expected={"raised out of the loop": "ConnectionResetError"},
    source=f"{SOURCE}; recv(2), ECONNRESET",
    notes="Repair: catch the error of a connection and close that connection.",
)
def howto_dies_of_a_reset(bench: Bench) -> Iterator[object]:
    server = _server(bench)
    client = _client(bench, server)
    accepted = _accept(bench, server)
    bench.reset(client)
    _until_state(bench, accepted, "CLOSE")
    yield _exception_of_turn(bench, server)


@phenomenon(
    claim="A request with a byte that is not UTF-8 ends the whole server, which prints requests.",
    expected={"raised out of the loop": "UnicodeDecodeError"},
    source=SOURCE,
    notes="Repair: keep bytes as bytes; decode for display only, with errors='replace'.",
)
def howto_dies_of_a_byte(bench: Bench) -> Iterator[object]:
    server = _server(bench)
    client = _client(bench, server)
    _accept(bench, server)
    bench.send(client, b"GET /\xff HTTP/1.0\r\n\r\n")
    yield _exception_of_turn(bench, server)


def _exception_of_turn(bench: Bench, server: HowToServer) -> str:
    start = bench.clock()
    try:
        server.turn(PATIENCE_S)
    except Exception as error:
        name = type(error).__name__
        bench.step("a turn of the how-to's loop", f"{name}: {error}", start)
        return name
    return "nothing"


def _until_queued(bench: Bench, server: HowToServer, n: int) -> None:
    bench.until(
        lambda: kernel.listen_queue(server.listener).length >= n, f"{n} in the accept queue"
    )


@phenomenon(
    claim="listen(1) has room for two clients between two turns; a third one has to retry.",
    expected={"connected of 5": 2},
    source=f"{SOURCE}; listen(2)",
    notes="Repair: a backlog as large as the burst; the kernel limits it to net.core.somaxconn.",
    picture=partial(picture_of_numbers, what="clients connected between two turns"),
)
def howto_backlog_of_one(bench: Bench) -> Iterator[object]:
    server = _server(bench)
    clients = [bench.add_socket(socket.socket(), f"client {number + 1}") for number in range(5)]
    for client in clients:
        before = kernel.listen_queue(server.listener).length
        what = f"connect({client.name})"
        bench.attempt(bench.call, what, client.sock.connect, server.address)
        if before <= 1:
            _until_queued(bench, server, before + 1)
    states = [kernel.tcp_info(client.sock).state for client in clients]
    yield states.count("ESTABLISHED")


@phenomenon(
    claim="One accept per event costs a burst of clients one wait each.",
    expected={"level: turns until 5 are accepted": 5, "accepting until EAGAIN": 1},
    source=SOURCE,
    notes="Its edge-triggered version accepts until EAGAIN, as it must; see edge-accept-strands.",
    picture=partial(picture_of_numbers, what="turns of the loop until 5 are accepted"),
)
def howto_accepts_one(bench: Bench) -> Iterator[object]:
    for edge in (False, True):
        server = _server(bench, edge=edge, backlog=16)
        for number in range(5):
            _client(bench, server, f"client {number + 1}")
        _until_queued(bench, server, 5)
        n_turns = 0
        while len(server.connections) < 5:
            _turn(bench, server)
            n_turns += 1
        yield n_turns
