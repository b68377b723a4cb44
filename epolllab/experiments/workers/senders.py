"""Clients that send requests in planned pieces, and detect when the server is stuck."""

import array
import select
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from epolllab.experiments.workers.herd import commands
from epolllab.kernel.waiting import is_asleep

__all__ = ["COLUMNS", "SendPlan", "send_plans"]

COLUMNS = ("port", "began_ns", "sent_ns", "last_piece_ns", "n_sent", "done_ns", "gave_up_ns")
"""Results of each connection; ``done_ns`` is 0 if there was no response."""

SendPlan = Sequence[tuple[int, int]]
"""Pieces of one request: pause before it in ns, bytes."""


class _Sender:
    """One connection and its progress in the plan."""

    def __init__(self, port: int, plan: SendPlan) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = self.sock.getsockname()[1]
        self.pieces = list(plan)
        self.n_sent = 0
        self.left = sum(size for _, size in plan)
        self.unsent = b""
        self.blocked = False
        self.began = self.due = self.sent = self.last_piece = self.done = 0

    def push(self, now: int) -> bool:
        """Send what is due; return whether the kernel took any bytes."""
        before = self.n_sent
        while self.left and not self.blocked:
            if not self.unsent:
                if now < self.due:
                    break
                _, size = self.pieces.pop(0)
                self.last_piece = now
                self.unsent = bytes(size) if self.pieces else bytes(size - 2) + b"\n\n"
            try:
                n = self.sock.send(self.unsent)
            except BlockingIOError:
                self.blocked = True
                break
            self.unsent = self.unsent[n:]
            self.left -= n
            self.n_sent += n
            self.sent = time.monotonic_ns()
            if not self.unsent and self.pieces:
                self.due = now + self.pieces[0][0]
        return self.n_sent > before

    def read(self) -> bool:
        """Read the response; return whether the server has closed the connection."""
        try:
            while self.sock.recv(65_536):
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass
        return True


def send_plans(control: Connection) -> None:
    """Execute commands ``(port, server pid, patience_ns, plans)``.

    The reply is a packed array of ``"q"``: :data:`COLUMNS` of each connection. A command
    ends when all have a response, or when for `patience_ns` nothing was sent or
    received, nothing is due, and the server sleeps.
    """
    for port, pid, patience_ns, plans in commands(control):
        senders = [_Sender(port, plan) for plan in plans]
        with select.epoll() as epoll:
            for sender in senders:
                epoll.register(sender.sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
                sender.began = time.monotonic_ns()
                sender.due = sender.began + sender.pieces[0][0]
            _send_all(epoll, senders, pid, patience_ns)
        now = time.monotonic_ns()
        rows = array.array("q")
        for sender in senders:
            times = (sender.began, sender.sent, sender.last_piece)
            gave_up = 0 if sender.done else now
            rows.extend((sender.port, *times, sender.n_sent, sender.done, gave_up))
            sender.sock.close()
        control.send(rows.tobytes())


def _send_all(epoll: Any, senders: Sequence[_Sender], pid: int, patience_ns: int) -> None:
    active = {sender.sock.fileno(): sender for sender in senders}
    progress = time.monotonic_ns()
    while active:
        now = time.monotonic_ns()
        for sender in active.values():
            if sender.push(now):
                progress = now
        due = [s.due for s in active.values() if s.left and not s.unsent and not s.blocked]
        pause = max(0.001, (min(due) - now) / 1e9) if due else 0.01
        for fd, mask in epoll.poll(pause):
            sender = active[fd]
            progress = time.monotonic_ns()
            sender.blocked = sender.blocked and not mask & select.EPOLLOUT
            if mask & ~select.EPOLLOUT and sender.read():
                sender.done = progress
                epoll.unregister(fd)
                del active[fd]
        stuck = time.monotonic_ns() - progress > patience_ns
        if stuck and not due and is_asleep(pid):
            return
