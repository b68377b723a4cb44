"""The variants that are compared: a poller, and the API through which it is called.

The API ``python`` is CPython's: ``select.epoll.poll`` and its like, which build a list of
tuples; io_uring's is this package's, since Python has none. ``raw`` is the C library's
function through ctypes over prepared arrays: the system call and about a microsecond of
ctypes, the same for every poller. The difference between the two is Python's share.
"""

import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, NamedTuple

from epolllab.analysis.shape import ALL_POLLERS, POLLERS
from epolllab.checks import check_names
from epolllab.events import EPOLLET, EPOLLIN, EPOLLONESHOT
from epolllab.kernel.pollers import FD_SETSIZE, UringPoller
from epolllab.kernel.raw import RawEpoll, RawPoll, RawSelect, RawUring

__all__ = ["ALL_POLLERS", "APIS", "POLLERS", "Variant", "Waiter", "make_waiter", "variants"]

APIS = ("python", "raw")

_FLAGS = {"epoll-level": 0, "epoll-edge": EPOLLET, "epoll-oneshot": EPOLLONESHOT}


class Variant(NamedTuple):
    """A poller and the API through which it is called."""

    poller: str
    api: str


class Waiter(NamedTuple):
    """A poller over a fixed set of descriptors."""

    wait: Callable[[], Any]
    """The call that is timed, which never blocks. ``raw`` returns the kernel's count."""
    found: Callable[[Any], list[int]]
    """From what the wait returned to the ready descriptors. With ``raw`` it scans arrays in
    Python, which says nothing about the cost in C."""
    prepare: Callable[[], None] | None = None
    """Must be called before each wait."""
    rearm: Callable[[int], None] | None = None
    """Must be called with each descriptor after it was read; one-shot only."""
    to_number: Callable[[Any], int] | None = None
    """From what a ``raw`` wait returned to the number of ready descriptors, where these differ."""


def variants(pollers: Sequence[str], apis: Sequence[str]) -> list[Variant]:
    """Check names and combine them."""
    pollers, apis = check_names("pollers", pollers, ALL_POLLERS), check_names("api", apis, APIS)
    return [Variant(poller, api) for poller in pollers for api in apis]


@contextmanager
def make_waiter(
    variant: Variant, fds: Sequence[int], max_events: int, n_ready: int = 0
) -> Iterator[Waiter]:
    """Make a waiter over `fds`, each watched for input, until the block ends.

    An epoll wait returns `max_events` descriptors at most; poll and select have no such
    limit. A raw wait of io_uring waits until `n_ready` are ready. RuntimeError if a
    descriptor is too large for Python's select.
    """
    if variant.poller == "io_uring":
        with closing(UringPoller(min(len(fds), 2_048))) as poller:
            yield _of_ring(variant, poller, fds, max_events, n_ready)
        return
    if variant.poller not in _FLAGS:
        yield _stateless(variant, fds)
        return
    with select.epoll() as epoll:
        mask = EPOLLIN | _FLAGS[variant.poller]
        for fd in fds:
            epoll.register(fd, mask)
        modify = epoll.modify
        rearm = (lambda fd: modify(fd, mask)) if variant.poller == "epoll-oneshot" else None
        if variant.api == "python":
            yield Waiter(partial(epoll.poll, 0, max_events), _descriptors, None, rearm)
            return
        raw = RawEpoll(epoll, max_events)

        def found(count: int) -> list[int]:
            # CPython's register sets only the lower half of the 64 bits that come back.
            return [data & 0xFFFF_FFFF for data, _ in raw.ready(raw.check(count))]

        yield Waiter(raw.call, found, None, rearm)


def _of_ring(
    variant: Variant, poller: UringPoller, fds: Sequence[int], max_events: int, n_ready: int
) -> Waiter:
    """A waiter by multishot polls, which are submitted here."""
    for fd in fds:
        poller.register(fd, EPOLLIN)
    poller.submit()
    if variant.api == "python":
        return Waiter(partial(poller.wait, 0, max_events), _descriptors)
    raw = RawUring(poller, n_ready)

    def found(returned: int) -> list[int]:
        raw.check(returned)
        return list(poller.taken(max_events))

    return Waiter(raw.call, found, to_number=lambda returned: len(found(returned)))


def _descriptors(pairs: list[tuple[int, int]]) -> list[int]:
    return [fd for fd, _ in pairs]


def _stateless(variant: Variant, fds: Sequence[int]) -> Waiter:
    """A waiter by poll or select, which pass all descriptors with every call."""
    interests = [(fd, EPOLLIN) for fd in fds]
    if variant.api == "raw":
        raw = (RawPoll if variant.poller == "poll" else RawSelect)(interests)
        return Waiter(raw.call, lambda n: _descriptors(raw.ready(raw.check(n))), raw.prepare)
    if variant.poller == "poll":
        poll = select.poll()
        for fd, mask in interests:
            poll.register(fd, mask)
        return Waiter(partial(poll.poll, 0), _descriptors)
    if max(fds) >= FD_SETSIZE:
        raise RuntimeError(
            f"Python's select refuses descriptors from {FD_SETSIZE:,} on, and {len(fds):,} "
            f"of them reach {max(fds):,}"
        )
    return Waiter(partial(select.select, list(fds), [], [], 0), lambda lists: list(lists[0]))
