"""The server of scotdoyle.com/python-epoll-howto.html, with its faults.

:class:`HowToServer` runs one turn of its loop per call; :class:`HowToProcess` runs it in a
child process.
"""

import pickle
import select
import socket
import sys
import threading
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Self

from epolllab.checks import check_bool, check_int, checked, shown
from epolllab.child import START_S, Child, ChildDied
from epolllab.events import EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, error_name
from epolllab.kernel.waiting import PATIENCE_S
from epolllab.server.protocols import Hello

__all__ = ["HowToProcess", "HowToServer"]

SOURCE = "scotdoyle.com/python-epoll-howto.html"
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
RESPONSE = Hello.RESPONSE

READS_AT_MOST = 2_000
"""Where a phenomenon cuts off a turn that would never end."""


class HowToServer:
    """A server with the how-to's logic and its faults, run turn by turn.

    To repair it, derive a class and override what is at fault; the methods are the
    branches of its loop.

    Parameters
    ----------
    edge : bool
        Like its edge-triggered version, which accepts and reads until any socket error,
        and sends until the response is sent or there is one.
    backlog : int
        Its argument to listen(2): 1.
    reads_at_most : int
        Bound on the reads in one turn of the edge-triggered version, which has none itself.

    Attributes
    ----------
    connections, requests, responses : dict
        Its three tables, by descriptor.
    hang_ups : list of int
        Descriptors that were reported with HUP.
    swallowed : list of str
        Names of the errors that it took for EAGAIN.
    accepted, wakeups : int
        Connections accepted, and waits that returned something.
    """

    @checked(
        edge=check_bool,
        backlog=partial(check_int, least=0, most=(1 << 31) - 1),
        reads_at_most=partial(check_int, least=1),
    )
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
        """Host and port of the listener."""
        host, port = self.listener.getsockname()
        return host, port

    def close(self) -> None:
        """Close everything that it opened; the how-to leaves connections open."""
        for sock in (*self.connections.values(), self.listener):
            sock.close()
        self.epoll.close()

    def turn(self, timeout: float | None = 0) -> list[tuple[int, int]]:
        """Wait once and handle each event as the how-to does; return the events."""
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
        """Handle an event of a connection: the mask selects the step."""
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
            self.swallow(error)

    def accept_one(self) -> None:
        """Accept, register for IN, and add to all three tables."""
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        fd = sock.fileno()
        self.epoll.register(fd, EPOLLIN | self.flags)
        self.connections[fd] = sock
        self.requests[fd] = b""
        self.responses[fd] = RESPONSE
        self.accepted += 1

    def read(self, fd: int) -> None:
        """Read once, or edge-triggered until any error; at the blank line ask for OUT."""
        if self.edge:
            try:
                while self.reads_in_turn < self.reads_at_most:
                    self.read_once(fd)
            except OSError as error:
                self.swallow(error)
        else:
            self.read_once(fd)
        if b"\n\n" in self.requests[fd] or b"\n\r\n" in self.requests[fd]:
            self.epoll.modify(fd, EPOLLOUT | self.flags)
            self.requests[fd].decode()  # which it prints

    def read_once(self, fd: int) -> None:
        """Add one recv to the request."""
        self.reads_in_turn += 1
        self.requests[fd] += self.connections[fd].recv(1024)

    def write(self, fd: int) -> None:
        """Send once, or edge-triggered until any error; after all, shut both halves."""
        if self.edge:
            try:
                while self.responses[fd]:
                    self.write_once(fd)
            except OSError as error:
                self.swallow(error)
        else:
            self.write_once(fd)
        if not self.responses[fd]:
            self.epoll.modify(fd, self.flags)
            self.connections[fd].shutdown(socket.SHUT_RDWR)

    def write_once(self, fd: int) -> None:
        """Send, and keep what was not taken."""
        sent = self.connections[fd].send(self.responses[fd])
        self.responses[fd] = self.responses[fd][sent:]

    def hung_up(self, fd: int) -> None:
        """Unregister, close, and remove from the table of connections."""
        self.hang_ups.append(fd)
        self.epoll.unregister(fd)
        self.connections[fd].close()
        del self.connections[fd]

    def swallow(self, error: OSError) -> None:
        """Take any error for 'nothing more there', as its edge-triggered version does."""
        self.swallowed.append(error_name(error.errno or 0))

    def stats(self) -> dict[str, int]:
        """Return counters.

        Returns
        -------
        dict
            ``accepted`` and ``wakeups`` since the start; ``connections`` open now, and
            ``remembered``, the connections that are in any of its tables.
        """
        return {
            "accepted": self.accepted,
            "wakeups": self.wakeups,
            "connections": len(self.connections),
            "remembered": len(self.connections.keys() | self.requests.keys()),
        }


class HowToProcess:
    """The how-to's server running in a child process; a context manager.

    It can be checked like an :class:`epolllab.Server`; see :func:`check_conformance`.

    Parameters
    ----------
    kind : type
        :class:`HowToServer`, or a class derived from it, also one of a notebook.
    **options : bool or int
        Parameters of that class.

    Attributes
    ----------
    address : tuple of (str, int)
        Host and port of the listener.
    pid : int
        The process; its main thread runs the loop.
    """

    def __init__(self, kind: type[HowToServer] = HowToServer, **options: bool | int) -> None:
        if not (isinstance(kind, type) and issubclass(kind, HowToServer)):
            raise TypeError(f"kind must be a class derived from HowToServer, not {shown(kind)}")
        import cloudpickle  # here, since the child imports this file and does not need it

        self._error: str | None = None
        self.child = Child("epolllab.experiments.comparisons.howto:serve")
        try:
            self.child.send((cloudpickle.dumps(kind), {"reads_at_most": sys.maxsize, **options}))
            self.address: tuple[str, int] = self.child.receive(START_S)
        except BaseException:
            self.child.close(0)
            raise
        self.pid = self.child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the loop is running."""
        return self.error is None and self.child.alive

    @property
    def error(self) -> str | None:
        """The exception that ended the loop; None while it is running."""
        try:
            if self._error is None and self.child.connection.poll(0):
                self._error = str(self.child.receive())
        except ChildDied as death:
            self._error = str(death)
        return self._error

    def stats(self) -> dict[str, int]:
        """Return the counters of the process; see :meth:`HowToServer.stats`."""
        self.child.send("stats")
        reply: dict[str, int] | str = self.child.receive(PATIENCE_S)
        if isinstance(reply, str):
            self._error = reply
            raise ChildDied(f"the how-to's server has ended with {reply}")
        return reply

    def stop(self) -> None:
        """End the process; further calls do nothing."""
        self.child.close(0.5)


def serve(control: Connection) -> None:
    """Run in the child: the loop in the main thread, commands in another."""
    pickled, options = control.recv()
    server: HowToServer = pickle.loads(pickled)(**options)
    control.send(server.address)

    def reply() -> None:
        with suppress(EOFError, OSError):  # the parent has ended
            while control.recv() == "stats":
                control.send(server.stats())

    threading.Thread(target=reply, daemon=True).start()
    try:
        while True:
            server.turn(None)
    except Exception as error:
        server.close()  # after EMFILE: glibc opens a library when it ends the other thread
        control.send(type(error).__name__)
