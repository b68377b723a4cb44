"""Descriptors that can be made ready and unready at will.

One job: open many of one kind, make a chosen one readable with one write and
unreadable with one read. It knows no poller and reads no clock.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from epolllab.checks import check_choice
from epolllab.experiments.rounds import OUT_OF_DESCRIPTORS

__all__ = ["KINDS", "Targets", "open_targets"]


@dataclass
class Targets:
    """Open descriptors of one kind; a context manager that closes them.

    Attributes
    ----------
    fds : list of int
        What is watched, in the order of opening, so with rising numbers where there
        are no holes.
    writers : list of int
        Where to write so that the watched one of the same place becomes readable.
    payload : bytes
        What to write.
    size : int
        What to read to take it back.
    """

    kind: str
    payload: bytes = b"x"
    size: int = 1
    fds: list[int] = field(default_factory=list)
    writers: list[int] = field(default_factory=list)

    def __enter__(self) -> "Targets":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all of them; any number of times."""
        while self.fds:
            reader, writer = self.fds.pop(), self.writers.pop()
            os.close(reader)
            if writer != reader:
                os.close(writer)


def _eventfd() -> tuple[int, int]:
    # One descriptor both ways, and so the only kind of which a common limit of 20,000
    # allows 10,000 and their pollers.
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    return fd, fd


def _pipe() -> tuple[int, int]:
    return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


def _socketpair() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours.detach(), theirs.detach()


class _TcpPairs:
    """Connected TCP sockets over loopback, accepted from one listener."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __call__(self) -> tuple[int, int]:
        near = socket.create_connection(self._listener.getsockname())
        try:
            far, _ = self._listener.accept()
        except BaseException:
            near.close()
            raise
        # Without this a write of one byte could wait for the acknowledgement of the last.
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near.setblocking(False)
        far.setblocking(False)
        return near.detach(), far.detach()

    def close(self) -> None:
        self._listener.close()


KINDS = {"eventfd": 1, "pipe": 2, "socketpair": 2, "tcp": 2}
"""Kinds of descriptor that can be watched, and the descriptors that one takes."""

_SIMPLE: dict[str, Callable[[], tuple[int, int]]] = {
    "eventfd": _eventfd,
    "pipe": _pipe,
    "socketpair": _socketpair,
}


def open_targets(kind: str, n: int) -> Targets:
    """Open as many as there is room for, and `n` at most.

    Parameters
    ----------
    kind : {"eventfd", "pipe", "socketpair", "tcp"}
        What they are.
    n : int
        How many.

    Returns
    -------
    Targets
        With fewer than `n` where this process, or the whole system, ran out of
        descriptors: another program may have taken them meanwhile.

    Raises
    ------
    ValueError
        An unknown kind.
    """
    check_choice("kind", kind, list(KINDS))
    targets = Targets(kind)
    if kind == "eventfd":
        targets.payload, targets.size = (1).to_bytes(8, "little"), 8
    pairs = _TcpPairs() if kind == "tcp" else None
    make = pairs or _SIMPLE[kind]
    try:
        _fill(targets, make, n)
    except BaseException:
        targets.close()
        raise
    finally:
        if pairs is not None:
            pairs.close()
    return targets


def _fill(targets: Targets, make: Callable[[], tuple[int, int]], n: int) -> None:
    for _ in range(n):
        try:
            reader, writer = make()
        except OSError as error:
            if error.errno not in OUT_OF_DESCRIPTORS:
                raise
            return
        targets.fds.append(reader)
        targets.writers.append(writer)
