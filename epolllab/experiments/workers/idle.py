"""Idle connections: opened by child processes, and never used."""

import errno
import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

from epolllab import kernel
from epolllab.child import Child, HeldInterrupts

__all__ = ["IdleConnections", "keep_open", "open_idle"]

BATCH = 256
"""Connections started at once, far fewer than any accept queue holds. One at a time is ten
times slower: each wakes the server."""

CONNECT_MS = 10_000
"""Timeout of a connect."""

PER_CHILD = 5_000
"""Connections of one child process, from one source address."""

SPARE_DESCRIPTORS = 32
START_S = 60.0


class IdleConnections(NamedTuple):
    """The outcome of :func:`open_idle`."""

    n_open: int
    """Established connections."""
    reason: str | None
    """Why there are fewer than requested, if there are."""


@contextmanager
def open_idle(address: tuple[str, int], n: int) -> Iterator[IdleConnections]:
    """Keep `n` idle connections open, in child processes, until the block ends.

    Each child connects from its own source address, 127.0.0.2 and up, since one address has
    only about 28,000 ports.
    """
    with ExitStack() as opened:
        children = []
        for i, first in enumerate(range(0, n, PER_CHILD)):
            with HeldInterrupts():
                child = Child("epolllab.experiments.workers.idle:keep_open")
                opened.callback(child.close, 5.0)
            child.send((address, min(PER_CHILD, n - first), f"127.0.0.{i + 2}"))
            children.append(child)
        parts: list[IdleConnections] = [child.receive(START_S) for child in children]
        reasons = [part.reason for part in parts if part.reason]
        yield IdleConnections(sum(part.n_open for part in parts), reasons[0] if reasons else None)


def keep_open(control: Connection) -> None:
    """Run in the child: connect, and keep the connections open until the parent closes."""
    address, n, source = control.recv()
    taken = kernel.descriptors_open() + SPARE_DESCRIPTORS
    hard = kernel.descriptor_limits().hard
    possible = min(n, hard - taken)
    reason = None if possible == n else f"a client process may have {hard:,} descriptors"
    socks: list[socket.socket] = []
    with kernel.raise_descriptor_limit(possible + taken):
        try:
            while len(socks) < possible:
                socks += _connect(address, source, min(BATCH, possible - len(socks)))
        except OSError as error:
            reason = f"a client process was refused: {error.strerror or error}"
        control.send(IdleConnections(len(socks), reason))
        control.poll(None)  # no message follows: this blocks until the parent closes
    for sock in socks:
        sock.close()


def _connect(address: tuple[str, int], source: str, n: int) -> list[socket.socket]:
    """Connect a batch; OSError if one of them fails, and all are closed."""
    with ExitStack() as opened:
        socks = [opened.enter_context(socket.socket()) for _ in range(n)]
        for sock in socks:
            sock.setblocking(False)
            sock.bind((source, 0))
            _raise_unless(sock.connect_ex(address), 0, errno.EINPROGRESS)
        for sock in socks:
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            if not poll.poll(CONNECT_MS):
                raise OSError(errno.ETIMEDOUT, f"not connected within {CONNECT_MS / 1000:.0f} s")
            _raise_unless(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
        opened.pop_all()
        return socks


def _raise_unless(code: int, *expected: int) -> None:
    if code not in expected:
        raise OSError(code, os.strerror(code))
