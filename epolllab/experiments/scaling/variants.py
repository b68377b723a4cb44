"""The variants that are compared: a poller, and the API through which it is called.

By ``python`` the wait is CPython's: ``select.epoll.poll`` and its like, which build a
list of tuples. By ``raw`` it is the C library's function through ctypes over prepared
arrays: the system call and about a microsecond of ctypes, the same for every poller. The
difference between the two is CPython's share.
"""

import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from epolllab.analysis.shape import POLLERS
from epolllab.events import EPOLLET, EPOLLIN, EPOLLONESHOT
from epolllab.experiments.rounds import check_names
from epolllab.kernel.pollers import FD_SETSIZE
from epolllab.kernel.raw import RawEpoll, RawPoll, RawSelect

__all__ = ["APIS", "POLLERS", "Variant", "Waiter", "make_waiter", "variants"]


APIS = ("python", "raw")

_FLAGS = {"epoll-level": 0, "epoll-edge": EPOLLET, "epoll-oneshot": EPOLLONESHOT}


class Variant(NamedTuple):
    """A poller and the API through which it is called."""

    poller: str
    api: str


class Waiter(NamedTuple):
    """A poller over a fixed set of descriptors.

    Attributes
    ----------
    wait : callable
        The call that is timed, without arguments. Never blocks. By ``raw`` it returns the
        kernel's count, by ``python`` what Python's function returns.
    found : callable
        From what the wait returned to the ready descriptors. By ``raw`` it scans arrays in
        Python, which says nothing about the cost in C.
    prepare : callable or None
        Must be called before each wait.
    rearm : callable or None
        Must be called with each descriptor after it was read; one-shot only.
    """

    wait: Callable[[], Any]
    found: Callable[[Any], list[int]]
    prepare: Callable[[], None] | None = None
    rearm: Callable[[int], None] | None = None


def variants(pollers: Sequence[str], apis: Sequence[str]) -> list[Variant]:
    """Check names and combine them."""
    pollers, apis = check_names("pollers", pollers, POLLERS), check_names("api", apis, APIS)
    return [Variant(poller, api) for poller in pollers for api in apis]


@contextmanager
def make_waiter(variant: Variant, fds: Sequence[int], max_events: int) -> Iterator[Waiter]:
    """Make a waiter over `fds`, each watched for input, until the block ends.

    An epoll wait returns `max_events` descriptors at most; poll and select have no such
    limit. RuntimeError if a descriptor is too large for Python's select.
    """
    if variant.poller not in _FLAGS:
        yield _WITHOUT_KERNEL_STATE[variant](fds)
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


def _descriptors(pairs: list[tuple[int, int]]) -> list[int]:
    return [fd for fd, _ in pairs]


def _python_poll(fds: Sequence[int]) -> Waiter:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, EPOLLIN)
    return Waiter(partial(poll.poll, 0), _descriptors)


def _python_select(fds: Sequence[int]) -> Waiter:
    if max(fds) >= FD_SETSIZE:
        raise RuntimeError(
            f"Python's select refuses descriptors from {FD_SETSIZE:,} on, and {len(fds):,} "
            f"of them reach {max(fds):,}"
        )
    return Waiter(partial(select.select, list(fds), [], [], 0), lambda lists: list(lists[0]))


def _raw(make: type[RawPoll | RawSelect], fds: Sequence[int]) -> Waiter:
    raw = make([(fd, EPOLLIN) for fd in fds])
    prepare = raw.prepare if make is RawSelect else None
    return Waiter(raw.call, lambda count: _descriptors(raw.ready(raw.check(count))), prepare)


_WITHOUT_KERNEL_STATE: dict[tuple[str, str], Callable[[Sequence[int]], Waiter]] = {
    ("poll", "python"): _python_poll,
    ("poll", "raw"): partial(_raw, RawPoll),
    ("select", "python"): _python_select,
    ("select", "raw"): partial(_raw, RawSelect),
}
