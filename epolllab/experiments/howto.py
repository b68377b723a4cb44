"""The faults of the how-to's own server, each shown on a server built like it.

One job: the phenomena of this family, and the server they are shown on.
:class:`HowToServer` does what the server of scotdoyle.com/python-epoll-howto.html does,
one turn of its loop at a call; :class:`HowToProcess` lets it run.
The package's own servers have none of these faults.
"""

import errno
import pickle
import select
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

from epolllab import kernel
from epolllab.children import Child, ChildDied
from epolllab.events import EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, mask_names
from epolllab.experiments.bench import PATIENCE_S, Bench, End
from epolllab.experiments.phenomena import phenomenon
from epolllab.protocols import Hello

__all__ = ["HowToProcess", "HowToServer"]

FAMILY = "the how-to's faults"
SOURCE = "scotdoyle.com/python-epoll-howto.html"
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
ANSWER = Hello.ANSWER


def _numbers(what: str) -> Callable[..., Any]:
    """A picture whose library is loaded when it is drawn; a server's process draws none."""

    def picture(outcome: Any, *, ax: Any = None) -> Any:
        from epolllab.experiments.pictures import picture_of_numbers

        return picture_of_numbers(outcome, what=what, ax=ax)

    return picture


READS_AT_MOST = 2_000
"""Where a phenomenon cuts off a turn that would never end."""


class HowToServer:
    """A server with the how-to's logic and its faults, driven turn by turn.

    To repair it, derive from it and override what is at fault; the methods are the
    branches of its loop.

    Parameters
    ----------
    edge : bool
        Like its edge-triggered version, which reads, writes and accepts until any
        socket error.
    backlog : int
        What it gives to listen(2): 1.
    reads_at_most : int
        Reads in one turn of the edge-triggered version, which itself has no bound.

    Attributes
    ----------
    connections, requests, responses : dict
        Its three tables, by descriptor.
    hang_ups : list of int
        Descriptors for which it was told HUP.
    accepted, wakeups : int
        Connections accepted, and waits that returned something.
    """

    def __init__(
        self, *, edge: bool = False, backlog: int = 1, reads_at_most: int = READS_AT_MOST
    ) -> None:
        self.edge = edge
        self.reads_at_most = reads_at_most
        self.flags = EPOLLET if edge else 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.listener, EPOLLIN | self.flags)
        self.connections: dict[int, socket.socket] = {}
        self.requests: dict[int, bytes] = {}
        self.responses: dict[int, bytes] = {}
        self.hang_ups: list[int] = []
        self.swallowed: list[str] = []
        self.reads_in_turn = self.accepted = self.wakeups = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self.listener.getsockname()
        return host, port

    def close(self) -> None:
        """Close all it has opened; the how-to forgets the connections."""
        for sock in (*self.connections.values(), self.listener):
            sock.close()
        self.epoll.close()

    def turn(self, timeout: float | None = 0) -> list[tuple[int, int]]:
        """Wait once, and handle each event as the how-to does; the events."""
        self.reads_in_turn = 0
        events = self.epoll.poll(timeout)
        self.wakeups += bool(events)
        for fd, mask in events:
            if fd == self.listener.fileno():
                self.accept()
            else:
                self.handle(fd, mask)
        return events

    def handle(self, fd: int, mask: int) -> None:
        """Give a connection its turn: the mask says which step comes next."""
        if mask & EPOLLIN:
            self.read(fd)
        elif mask & EPOLLOUT:
            self.write(fd)
        elif mask & EPOLLHUP:
            self.hung_up(fd)

    def accept(self) -> None:
        """Accept one connection; edge-triggered, until any error."""
        if not self.edge:
            self.accept_one()
            return
        try:
            while True:
                self.accept_one()
        except OSError as error:
            self._swallow(error)

    def accept_one(self) -> None:
        """Accept, register for IN, and enter into all three tables."""
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        fd = sock.fileno()
        self.epoll.register(fd, EPOLLIN | self.flags)
        self.connections[fd] = sock
        self.requests[fd] = b""
        self.responses[fd] = ANSWER
        self.accepted += 1

    def read(self, fd: int) -> None:
        """Read once, or edge-triggered until any error; at the blank line ask for OUT."""
        if self.edge:
            try:
                while self.reads_in_turn < self.reads_at_most:
                    self._read_once(fd)
            except OSError as error:
                self._swallow(error)
        else:
            self._read_once(fd)
        if b"\n\n" in self.requests[fd] or b"\n\r\n" in self.requests[fd]:
            self.epoll.modify(fd, EPOLLOUT | self.flags)
            self.requests[fd].decode()  # which it prints

    def _read_once(self, fd: int) -> None:
        self.reads_in_turn += 1
        self.requests[fd] += self.connections[fd].recv(1024)

    def write(self, fd: int) -> None:
        """Send; when all is sent, ask for nothing and shut both halves."""
        sent = self.connections[fd].send(self.responses[fd])
        self.responses[fd] = self.responses[fd][sent:]
        if not self.responses[fd]:
            self.epoll.modify(fd, self.flags)
            self.connections[fd].shutdown(socket.SHUT_RDWR)

    def hung_up(self, fd: int) -> None:
        """Unregister, close, and leave the connection's table."""
        self.hang_ups.append(fd)
        self.epoll.unregister(fd)
        self.connections[fd].close()
        del self.connections[fd]

    def _swallow(self, error: OSError) -> None:
        """Take any error for 'nothing more there', as its edge-triggered version does."""
        self.swallowed.append(errno.errorcode.get(error.errno or 0, str(error)))

    def stats(self) -> dict[str, int]:
        """What it has done and what it holds.

        Returns
        -------
        dict
            ``accepted`` and ``wakeups`` since the start; ``connections`` open now, and
            ``remembered``, the clients of whom any table still holds something.
        """
        return {
            "accepted": self.accepted,
            "wakeups": self.wakeups,
            "connections": len(self.connections),
            "remembered": len(self.connections.keys() | self.requests.keys()),
        }


class HowToProcess:
    """The how-to's server at work in a process of its own; a context manager.

    It has what :class:`epolllab.Server` has of these, so that the same checks can be
    made of both.

    Parameters
    ----------
    kind : type
        :class:`HowToServer`, or a class derived from it, also one of a notebook.
    **how : bool or int
        What it is made with.

    Attributes
    ----------
    address : tuple of (str, int)
        Where it listens.
    pid : int
        The process; its loop is the first thread.
    """

    def __init__(self, kind: type[HowToServer] = HowToServer, **how: bool | int) -> None:
        import cloudpickle

        self._error: str | None = None
        self.child = Child("epolllab.experiments.howto:serve")
        try:
            self.child.send((cloudpickle.dumps(kind), {"reads_at_most": sys.maxsize, **how}))
            self.address: tuple[str, int] = self.child.receive(PATIENCE_S)
        except BaseException:
            self.child.end(0)
            raise
        self.pid = self.child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the loop is alive."""
        return self.error is None and self.child.alive

    @property
    def error(self) -> str | None:
        """The exception that ended the loop; None while it lives."""
        try:
            if self._error is None and self.child.connection.poll(0):
                self._error = str(self.child.receive())
        except ChildDied as death:
            self._error = str(death)
        return self._error

    def stats(self) -> dict[str, int]:
        """See :meth:`HowToServer.stats`; asked of the process."""
        self.child.send("stats")
        answer: dict[str, int] | str = self.child.receive(PATIENCE_S)
        if isinstance(answer, str):
            self._error = answer
            raise ChildDied(f"the how-to's server has ended with {answer}")
        return answer

    def stop(self) -> None:
        """End the process; any number of times."""
        self.child.end(0.5)


def serve(control: Connection) -> None:
    """Run in the child: the how-to's loop in the first thread, questions in another."""
    pickled, how = control.recv()
    server: HowToServer = pickle.loads(pickled)(**how)
    control.send(server.address)

    def answer() -> None:
        while control.recv() == "stats":
            control.send(server.stats())

    threading.Thread(target=answer, daemon=True).start()
    try:
        while True:
            server.turn(None)
    except Exception as error:
        control.send(type(error).__name__)


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
