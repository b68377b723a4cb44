"""Descriptors that can be made readable and unreadable at will, as many as the limits allow."""

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from epolllab import kernel
from epolllab.child import HeldInterrupts
from epolllab.experiments.rounds import ExperimentRun

__all__ = ["KINDS", "Targets", "open_targets", "prepare"]

SPARE_DESCRIPTORS = 64
"""Left free for the surrounding program and the pollers measured."""


@dataclass
class Targets:
    """Open descriptors of one kind, and how to make them readable and unreadable."""

    payload: bytes
    """What to write."""
    size: int
    """How much to read after it."""
    fds: list[int] = field(default_factory=list)
    """The watched descriptors in the order of opening, so rising unless a lower number became
    free meanwhile."""
    writers: list[int] = field(default_factory=list)
    """Where to write to make the descriptor at the same index readable."""


def _eventfd() -> tuple[int, int]:
    # One descriptor for both ends, so the only kind of which the usual limit of 20,000
    # allows 10,000 and their pollers.
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    return fd, fd


def _pipe() -> tuple[int, int]:
    return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


def _socketpair() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    return reader.detach(), writer.detach()


def _tcp_pair(listener: socket.socket) -> tuple[int, int]:
    reader = socket.create_connection(listener.getsockname())
    try:
        writer, _ = listener.accept()
    except BaseException:
        reader.close()
        raise
    # Otherwise a write of one byte could wait for the acknowledgement of the last.
    writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader.setblocking(False)
    writer.setblocking(False)
    return reader.detach(), writer.detach()


KINDS = {"eventfd": 1, "pipe": 2, "socketpair": 2, "tcp": 2}
"""Kinds of watched descriptor, and the descriptors that one takes."""

_OPENERS: dict[str, Callable[[], tuple[int, int]]] = {
    "eventfd": _eventfd,
    "pipe": _pipe,
    "socketpair": _socketpair,
}


@contextmanager
def open_targets(kind: str, n: int) -> Iterator[Targets]:
    """Open up to `n` descriptors of a kind, one of :data:`KINDS`, until the block ends.

    There are fewer if this process or the whole system runs out of descriptors.
    """
    targets = Targets((1).to_bytes(8, "little"), 8) if kind == "eventfd" else Targets(b"x", 1)
    try:
        if kind == "tcp":
            kernel.require_loopback()
            with socket.create_server(("127.0.0.1", 0)) as listener:
                _fill(targets, partial(_tcp_pair, listener), n)
        else:
            _fill(targets, _OPENERS[kind], n)
        yield targets
    finally:
        with HeldInterrupts():
            for fd in {*targets.fds, *targets.writers}:
                os.close(fd)


def _fill(targets: Targets, open_pair: Callable[[], tuple[int, int]], n: int) -> None:
    with HeldInterrupts() as interrupts:
        for _ in range(n):
            try:
                reader, writer = open_pair()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                return
            targets.fds.append(reader)
            targets.writers.append(writer)
            interrupts.deliver()


@contextmanager
def prepare(
    run: ExperimentRun, kinds: Sequence[str], sizes: Sequence[int]
) -> Iterator[tuple[dict[str, Targets], tuple[int, ...]]]:
    """Open descriptors for the largest size in a quiet process, until the block ends.

    Yields targets by kind, and the sizes that fit: the largest possible one replaces those
    that do not, which is noted. DescriptorLimitError if not even the smallest size fits
    under the hard limit.
    """
    each = sum(KINDS[kind] for kind in kinds)
    taken = kernel.descriptors_open() + SPARE_DESCRIPTORS
    wanted = min(sizes[-1] * each + taken, kernel.descriptor_limits().hard)
    with ExitStack() as opened:
        opened.enter_context(run.quiet_process())
        soft = opened.enter_context(kernel.raise_descriptor_limit(max(wanted, 1)))
        n = min(sizes[-1], (soft - taken) // each)
        targets = {kind: opened.enter_context(open_targets(kind, n)) for kind in kinds}
        n_open = min(len(some.fds) for some in targets.values())
        if n_open < sizes[0]:
            needed = taken + sizes[0] * each
            raise kernel.DescriptorLimitError(needed, *kernel.descriptor_limits())
        yield targets, _fitting(sizes, n_open, run)


def _fitting(sizes: Sequence[int], n_open: int, run: ExperimentRun) -> tuple[int, ...]:
    kept = tuple(n for n in sizes if n <= n_open)
    if len(kept) == len(sizes):
        return kept
    _, hard = kernel.descriptor_limits()
    if n_open > kept[-1]:
        kept += (n_open,)
    asked = ", ".join(f"{n:,}" for n in sizes if n > n_open)
    run.note(f"cut to N = {kept[-1]:,}: {asked} asked, and the limit is {hard:,} descriptors here")
    return kept
