"""experiments.comparisons.howto."""

import errno
import pickle
import select
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

from epolllab.child import Child, ChildDied
from epolllab.events import EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT
from epolllab.kernel.waiting import PATIENCE_S
from epolllab.server.protocols import Hello

__all__ = ["HowToProcess", "HowToServer"]

SOURCE = "scotdoyle.com/python-epoll-howto.html"
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
ANSWER = Hello.RESPONSE


def _numbers(what: str) -> Callable[..., Any]:
    """A picture whose library is loaded when it is drawn; a server's process draws none."""

    def picture(outcome: Any, *, ax: Any = None) -> Any:
        from epolllab.experiments.catalogue.pictures import picture_of_numbers

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
        self.child = Child("epolllab.experiments.comparisons.howto:serve")
        try:
            self.child.send((cloudpickle.dumps(kind), {"reads_at_most": sys.maxsize, **how}))
            self.address: tuple[str, int] = self.child.receive(PATIENCE_S)
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
        self.child.close(0.5)


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
