"""Clients that send by a plan, piece by piece; runs in a child, standard library only.

One job: send what the plans say, note when, and notice when nothing goes on any more.
It does not know what the server is or why it might be silent.
"""

import array
import select
import socket
import time
from multiprocessing.connection import Connection
from typing import Any

from epolllab.kernel.waiting import is_asleep

__all__ = ["COLUMNS", "serve"]


COLUMNS = ("port", "began_ns", "sent_ns", "last_piece_ns", "n_sent", "done_ns", "gave_up_ns")
"""What is known of each connection; ``done_ns`` is 0 for one that got no answer."""

Plan = list[tuple[int, int]]
"""Pieces of one request: pause before it in ns, bytes."""


class _Sender:
    """One connection and how far its plan has come."""

    def __init__(self, port: int, plan: Plan) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = self.sock.getsockname()[1]
        self.pieces = list(plan)
        self.left = sum(size for _, size in plan)
        self.total = self.left
        self.due = 0
        self.rest = b""
        self.blocked = False
        self.began = self.sent = self.last_piece = self.done = self.gave_up = 0

    def begin(self, now: int) -> None:
        self.began = now
        self.due = now + self.pieces[0][0]

    def push(self, now: int) -> bool:
        """Send what is due; whether anything was taken."""
        before = self.left
        while self.left and not self.blocked:
            if not self.rest:
                if now < self.due:
                    break
                _, size = self.pieces.pop(0)
                self.rest = bytes(size)
                self.last_piece = now
                if not self.pieces:
                    self.rest = self.rest[:-2] + b"\n\n"
            try:
                taken = self.sock.send(self.rest)
            except BlockingIOError:
                self.blocked = True
                break
            self.rest = self.rest[taken:]
            self.left -= taken
            self.sent = time.monotonic_ns()
            if not self.rest and self.pieces:
                self.due = now + self.pieces[0][0]
        return self.left != before

    def row(self) -> tuple[int, ...]:
        n_sent = self.total - self.left
        return (
            self.port,
            self.began,
            self.sent,
            self.last_piece,
            n_sent,
            self.done,
            self.gave_up,
        )


def serve(control: Connection) -> None:
    """Obey commands ``(port, server pid, patience_ns, plans)``.

    The answer is a packed array of ``"q"``: :data:`COLUMNS` of each connection. A run
    ends when all have been answered, or when for `patience_ns` nothing was sent or
    received by anyone, nothing is due, and the server sleeps.
    """
    while True:
        try:
            port, pid, patience_ns, plans = control.recv()
        except EOFError:
            return
        control.send(_run(port, pid, patience_ns, plans))


def _run(port: int, pid: int, patience_ns: int, plans: list[Plan]) -> bytes:
    senders = [_Sender(port, plan) for plan in plans]
    with select.epoll() as epoll:
        going = {}
        for sender in senders:
            epoll.register(sender.sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
            going[sender.sock.fileno()] = sender
            sender.begin(time.monotonic_ns())
        _send_all(epoll, going, pid, patience_ns)
    now = time.monotonic_ns()
    rows = array.array("q")
    for sender in senders:
        sender.gave_up = 0 if sender.done else now
        rows.extend(sender.row())
        sender.sock.close()
    return rows.tobytes()


def _send_all(epoll: Any, going: dict[int, _Sender], pid: int, patience_ns: int) -> None:
    progress = time.monotonic_ns()
    while going:
        now = time.monotonic_ns()
        for sender in going.values():
            if sender.push(now):
                progress = now
        waiting = [s.due for s in going.values() if s.left and not s.rest and not s.blocked]
        pause = max(0.001, (min(waiting) - now) / 1e9) if waiting else 0.01
        for fd, mask in epoll.poll(pause):
            sender = going[fd]
            progress = time.monotonic_ns()
            sender.blocked = sender.blocked and not mask & select.EPOLLOUT
            if mask & ~select.EPOLLOUT and _ended(sender):
                sender.done = progress
                epoll.unregister(fd)
                del going[fd]
        idle = time.monotonic_ns() - progress > patience_ns
        if idle and not waiting and is_asleep(pid):
            return


def _ended(sender: _Sender) -> bool:
    """Read the answer; whether the server has ended the connection."""
    try:
        while sender.sock.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True
