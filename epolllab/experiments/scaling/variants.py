"""The arms of a comparison: one poller by one way of calling it.

One job: give each a wait without arguments that can be timed, over a set of
descriptors watched for input. It reads no clock and chooses nothing.

By ``python`` the wait is CPython's: ``select.epoll.poll`` and its like, which build a
list of tuples. By ``raw`` it is the C library's function through ctypes over prepared
arrays: the system call and about a microsecond of ctypes, the same for every poller. The
difference between the two is CPython's share.
"""

import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from epolllab.analysis.shape import POLLERS
from epolllab.checks import check_choice
from epolllab.events import EPOLLET, EPOLLIN, EPOLLONESHOT
from epolllab.kernel.pollers import FD_SETSIZE
from epolllab.kernel.raw import RawEpoll, RawPoll, RawSelect

__all__ = ["APIS", "POLLERS", "Arm", "Refused", "Waiter", "arms", "make_waiter"]


APIS = ("python", "raw")

_FLAGS = {"epoll-level": 0, "epoll-edge": EPOLLET, "epoll-oneshot": EPOLLONESHOT}


class Arm(NamedTuple):
    """What is compared: a poller, and who makes the call."""

    poller: str
    api: str


class Refused(Exception):
    """An arm cannot watch so many; the message says why."""


@dataclass
class Waiter:
    """A poller over a fixed set of descriptors.

    Attributes
    ----------
    wait : callable
        No arguments; what is timed. Never blocks. Returns the kernel's count by
        ``raw``, and by ``python`` what Python's function returned.
    found : callable
        Descriptors that the last wait found ready, from what it returned. By ``raw`` it
        scans arrays in Python, which says nothing of what a C program would need.
    prepare : callable or None
        To be called before each wait; None where nothing is to be prepared.
    rearm : callable or None
        To be called with each descriptor after it was read; one-shot only.
    """

    wait: Callable[[], Any]
    found: Callable[[Any], list[int]]
    prepare: Callable[[], None] | None = None
    rearm: Callable[[int], None] | None = None
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> "Waiter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def arms(pollers: Sequence[str], apis: Sequence[str]) -> list[Arm]:
    """Check names and combine them.

    Raises
    ------
    ValueError
        An unknown name (with the nearest one), a name twice, or none at all.
    """
    for name, given, known in (("pollers", pollers, POLLERS), ("api", apis, APIS)):
        if isinstance(given, str):
            raise ValueError(f"{name} is a sequence of names; write {name}=({given!r},)")
        for value in given:
            check_choice(name, value, known)
        if not given or len(set(given)) < len(given):
            raise ValueError(f"{name} names at least one of {known}, each once, not {given!r}")
    return [Arm(poller, api) for poller in pollers for api in apis]


def make_waiter(arm: Arm, fds: Sequence[int], max_events: int) -> Waiter:
    """Make a waiter over `fds`, each watched for input.

    Parameters
    ----------
    arm : Arm
        Which poller, called how.
    fds : sequence of int
        What is watched.
    max_events : int
        Descriptors one epoll wait returns at most; poll and select know no bound.

    Raises
    ------
    Refused
        Python's select, with a descriptor from 1,024 on.
    """
    return _MAKERS[arm.poller.partition("-")[0], arm.api](arm, fds, max_events)


def _epoll(arm: Arm, fds: Sequence[int], max_events: int) -> Waiter:
    epoll = select.epoll()
    try:
        mask = EPOLLIN | _FLAGS[arm.poller]
        for fd in fds:
            epoll.register(fd, mask)
    except BaseException:
        epoll.close()
        raise
    modify = epoll.modify
    rearm = (lambda fd: modify(fd, mask)) if arm.poller == "epoll-oneshot" else None
    if arm.api == "python":
        return Waiter(partial(epoll.poll, 0, max_events), _first, None, rearm, epoll.close)
    raw = RawEpoll(max_events, timeout_ms=0, epfd=epoll.fileno())

    def found(count: int) -> list[int]:
        # CPython's register sets the lower half of the 64 bits that come back; the upper
        # half is whatever was on its stack.
        return [data & 0xFFFF_FFFF for data, _ in raw.ready(raw.check(count))]

    return Waiter(raw.call, found, None, rearm, epoll.close)


def _first(pairs: list[tuple[int, int]]) -> list[int]:
    return [fd for fd, _ in pairs]


def _python_poll(_arm: Arm, fds: Sequence[int], _max_events: int) -> Waiter:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, EPOLLIN)
    return Waiter(partial(poll.poll, 0), _first)


def _raw_poll(_arm: Arm, fds: Sequence[int], _max_events: int) -> Waiter:
    raw = RawPoll([(fd, EPOLLIN) for fd in fds])
    return Waiter(raw.call, lambda count: _first(raw.ready(raw.check(count))))


def _python_select(_arm: Arm, fds: Sequence[int], _max_events: int) -> Waiter:
    if max(fds) >= FD_SETSIZE:
        raise Refused(
            f"Python's select refuses descriptors from {FD_SETSIZE:,} on, and {len(fds):,} "
            f"of them reach {max(fds):,}"
        )
    return Waiter(partial(select.select, list(fds), [], [], 0), lambda lists: list(lists[0]))


def _raw_select(_arm: Arm, fds: Sequence[int], _max_events: int) -> Waiter:
    raw = RawSelect([(fd, EPOLLIN) for fd in fds])
    return Waiter(raw.call, lambda count: _first(raw.ready(raw.check(count))), raw.prepare)


_MAKERS: dict[tuple[str, str], Callable[[Arm, Sequence[int], int], Waiter]] = {
    ("epoll", "python"): _epoll,
    ("epoll", "raw"): _epoll,
    ("poll", "python"): _python_poll,
    ("poll", "raw"): _raw_poll,
    ("select", "python"): _python_select,
    ("select", "raw"): _raw_select,
}
