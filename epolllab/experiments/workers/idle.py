"""Connections that are held and never used, in a child process.

One job: connect, hold on, let go. It runs in a child (see ``epolllab.child``), so it
imports the standard library and this package's first half only.
"""

import errno
import os
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

from epolllab import kernel
from epolllab.child import Child

__all__ = ["Held", "hold", "hold_idle"]


BATCH = 256
"""Connections begun at once: far fewer than any accept queue holds."""

CONNECT_MS = 10_000
"""How long a connection may take before the holder gives up."""

A_HOLDER = 5_000
"""Connections that one process holds, from one source address."""

SPARE_DESCRIPTORS = 32
START_S = 60.0


class Held(NamedTuple):
    """What came of holding."""

    n_held: int
    """Connections that stand."""
    reason: str | None
    """Why not more, if more were asked."""


@contextmanager
def hold_idle(address: tuple[str, int], n: int) -> Iterator[Held]:
    """Hold `n` connections to an address open, in child processes, until the block ends.

    Parameters
    ----------
    address : tuple of (str, int)
        Where to connect: 127.0.0.1 and a port. Each child connects from an address of its
        own, 127.0.0.2 and on, since one address has some 28,000 ports to connect from.
    n : int
        How many; 0 starts nothing.

    Yields
    ------
    Held
        How many stand, and what stood in the way of more.
    """
    shares = [min(A_HOLDER, n - first) for first in range(0, n, A_HOLDER)]
    with ExitStack() as opened:
        children = []
        for i, share in enumerate(shares):
            child = Child("epolllab.experiments.workers.idle:hold")
            opened.callback(child.close, 5.0)
            child.send((address, share, f"127.0.0.{i + 2}"))
            children.append(child)
        parts: list[Held] = [child.receive(START_S) for child in children]
        reasons = [part.reason for part in parts if part.reason]
        yield Held(sum(part.n_held for part in parts), reasons[0] if reasons else None)


def hold(connection: Connection) -> None:
    """Run in the child: hold what is asked until the parent lets go."""
    address, n, source = connection.recv()
    taken = kernel.descriptors_open() + SPARE_DESCRIPTORS
    hard = kernel.descriptor_limits().hard
    fitting = min(n, hard - taken)
    reason = None if fitting == n else f"a client process may have {hard:,} descriptors"
    socks: list[socket.socket] = []
    with kernel.raise_descriptor_limit(fitting + taken):
        try:
            while len(socks) < fitting:
                socks += _connected(address, source, min(BATCH, fitting - len(socks)))
        except OSError as error:
            reason = f"a client process was refused: {error.strerror or error}"
        connection.send(Held(len(socks), reason))
        # Nothing more will come: this waits for the parent's end, and leaves with it.
        connection.poll(None)
    for sock in socks:
        sock.close()


def _connected(address: tuple[str, int], source: str, n: int) -> list[socket.socket]:
    """Connect a batch; OSError if one of them fails, and then none is left."""
    socks: list[socket.socket] = []
    try:
        for _ in range(n):
            sock = socket.socket()
            socks.append(sock)
            sock.setblocking(False)
            sock.bind((source, 0))
            begun = sock.connect_ex(address)
            if begun not in (0, errno.EINPROGRESS):
                raise OSError(begun, os.strerror(begun))
        _complete(socks)
    except BaseException:
        for sock in socks:
            sock.close()
        raise
    return socks


def _complete(socks: Sequence[socket.socket]) -> None:
    for sock in socks:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        if not poll.poll(CONNECT_MS):
            raise OSError(errno.ETIMEDOUT, f"not connected within {CONNECT_MS / 1000:.0f} s")
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))
