"""One interface over epoll, poll and select.

One job: ask the kernel which descriptors are ready. A poller knows descriptor
numbers and masks; it knows no socket, no connection and no clock.

What differs underneath
-----------------------
*Where the interest list lives.* epoll keeps it in the kernel: ``register`` and
``modify`` are system calls, and a wait passes no list. poll and select keep it in
the program and hand all of it to the kernel at every wait, so here ``register`` is
a dictionary entry, and the wait is what grows with the number of descriptors.

*What a descriptor is.* epoll watches the open file description behind a number. If
the number is closed while a duplicate lives, epoll goes on reporting it, and there
is no number left to unregister it by. poll and select look the number up at each
wait, so a closed one is answered with NVAL, or refused with EBADF.

*When it reports.* poll and select are level-triggered: whatever holds is reported
at every wait. epoll can also report edges, that is, that something arrived since
the last report, whether or not what came before was read.
"""

import select
import sys
from collections.abc import Callable
from typing import Literal, Protocol, get_args

from epolllab.events import EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLPRI, EPOLLRDHUP

__all__ = [
    "POLLERS",
    "EpollPoller",
    "PollPoller",
    "Poller",
    "PollerName",
    "SelectPoller",
    "make_poller",
]


Ready = list[tuple[int, int]]

FD_SETSIZE = 1024
"""select(2)'s bitmap ends here in glibc, and so does CPython's ``select.select``."""


class Poller(Protocol):
    """What the loop needs of a poller; masks are spelled with epoll's bits."""

    flags: int
    """Bits that are added to every interest, EPOLLET for one."""

    def register(self, fd: int, mask: int) -> None:
        """Begin to watch `fd`; OSError where the kernel refuses."""

    def modify(self, fd: int, mask: int) -> None:
        """Replace the interest in `fd`."""

    def unregister(self, fd: int) -> None:
        """Stop watching `fd`."""

    def forget(self, fd: int) -> None:
        """Drop what the *program* keeps of `fd`, which is about to be closed.

        epoll removes a closed description by itself and needs no call here; poll
        and select would be handed a dead number.
        """

    def wait(self, timeout: float | None, max_events: int) -> Ready:
        """Block for at most `timeout` seconds, None for ever; return (fd, mask) pairs."""

    def fileno(self) -> int:
        """The poller's own descriptor; -1 where it has none, ValueError after close()."""

    def close(self) -> None:
        """Release the poller's descriptor."""


class EpollPoller:
    """epoll, with the trigger as a property of the poller.

    Parameters
    ----------
    edge, oneshot : bool
        Add EPOLLET, EPOLLONESHOT to every interest that is not exempt.
    exempt : set of int
        Descriptors that stay plain level-triggered, such as the loop's wake-up.
    """

    register: Callable[[int, int], None]
    """epoll_ctl(EPOLL_CTL_ADD): EEXIST for a descriptor already there."""

    modify: Callable[[int, int], None]
    """epoll_ctl(EPOLL_CTL_MOD); on a ready descriptor this makes a new edge."""

    def __init__(
        self, *, edge: bool = False, oneshot: bool = False, exempt: frozenset[int] = frozenset()
    ) -> None:
        self._epoll = select.epoll()
        self.flags = (EPOLLET if edge else 0) | (EPOLLONESHOT if oneshot else 0)
        self._exempt = exempt
        # Without flags nothing of ours stands before the system call.
        self.register = self._flagged_register if self.flags else self._epoll.register
        self.modify = self._flagged_modify if self.flags else self._epoll.modify
        self.unregister = self._epoll.unregister
        self.fileno = self._epoll.fileno
        self.close = self._epoll.close

    def _flagged_register(self, fd: int, mask: int) -> None:
        self._epoll.register(fd, mask if fd in self._exempt else mask | self.flags)

    def _flagged_modify(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, mask if fd in self._exempt else mask | self.flags)

    def forget(self, fd: int) -> None:
        """Nothing: the kernel forgets a description when its last number closes."""

    def wait(self, timeout: float | None, max_events: int) -> Ready:
        """epoll_wait; CPython rounds the timeout up to whole milliseconds."""
        return self._epoll.poll(timeout, max_events)


class _Table:
    """An interest list kept by the program, with the kernel's answers to misuse."""

    flags = 0

    def __init__(self) -> None:
        self.interest: dict[int, int] = {}

    def register(self, fd: int, mask: int) -> None:
        if fd in self.interest:
            raise FileExistsError(17, f"descriptor {fd} is registered already; use modify")
        self.interest[fd] = mask

    def modify(self, fd: int, mask: int) -> None:
        if fd not in self.interest:
            raise FileNotFoundError(2, f"descriptor {fd} is not registered; use register")
        self.interest[fd] = mask

    def unregister(self, fd: int) -> None:
        if self.interest.pop(fd, None) is None:
            raise FileNotFoundError(2, f"descriptor {fd} is not registered")

    def forget(self, fd: int) -> None:
        """Drop `fd`; it is about to be closed and may not be watched at all."""
        self.interest.pop(fd, None)

    def fileno(self) -> int:
        """There is no descriptor behind poll and select."""
        return -1

    def close(self) -> None:
        """Forget everything."""
        self.interest.clear()


class PollPoller(_Table):
    """poll(2): an array of every descriptor at every wait."""

    def __init__(self) -> None:
        super().__init__()
        self._poll = select.poll()

    def register(self, fd: int, mask: int) -> None:
        """Add to the array that the next wait hands to the kernel."""
        super().register(fd, mask)
        self._poll.register(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        """Change the entry in the array."""
        super().modify(fd, mask)
        self._poll.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Take out of the array."""
        super().unregister(fd)
        self._poll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Take out of the array, if it is there."""
        if fd in self.interest:
            self.unregister(fd)

    def wait(self, timeout: float | None, max_events: int) -> Ready:
        """poll(2), in milliseconds. It returns all that is ready: there is no bound to give."""
        return self._poll.poll(None if timeout is None else timeout * 1000)


class SelectPoller(_Table):
    """select(2): three bitmaps at every wait; no descriptor from 1024 on."""

    def register(self, fd: int, mask: int) -> None:
        """Note the interest; EINVAL for a number that does not fit the bitmap."""
        if fd >= FD_SETSIZE:
            raise OSError(
                22,
                f"select cannot watch descriptor {fd}: its bitmap ends at {FD_SETSIZE - 1} "
                '(FD_SETSIZE). Use poller="epoll" or "poll", or fewer connections',
            )
        super().register(fd, mask)

    def wait(self, timeout: float | None, max_events: int) -> Ready:
        """select(2), its three lists joined into masks.

        select cannot say HUP or ERR: an ended or broken connection is readable,
        and writable as well, and the next call on it tells which it was. Nor has it a
        bound on how many it returns.
        """
        wanted = self.interest.items()
        readable, writable, urgent = select.select(
            [fd for fd, mask in wanted if mask & (EPOLLIN | EPOLLRDHUP)],
            [fd for fd, mask in wanted if mask & EPOLLOUT],
            [fd for fd, mask in wanted if mask & EPOLLPRI],
            timeout,
        )
        masks = dict.fromkeys(readable, EPOLLIN)
        for fds, bit in ((writable, EPOLLOUT), (urgent, EPOLLPRI)):
            for fd in fds:
                masks[fd] = masks.get(fd, 0) | bit
        return list(masks.items())


PollerName = Literal["epoll", "poll", "select"]
POLLERS: tuple[PollerName, ...] = get_args(PollerName)


def make_poller(
    name: str, *, edge: bool = False, oneshot: bool = False, exempt: frozenset[int] = frozenset()
) -> Poller:
    """Make a poller by name.

    Parameters
    ----------
    name : {"epoll", "poll", "select"}
        Which system call waits.
    edge, oneshot : bool
        epoll's flags; the others have neither.
    exempt : frozenset of int
        Descriptors the flags do not apply to.

    Raises
    ------
    ValueError
        A name that is none of these, or a flag that the poller does not have.
    OSError
        epoll where the operating system has none: it is Linux's own.
    """
    if name == "epoll":
        if not hasattr(select, "epoll"):
            raise OSError(f"epoll is part of Linux, and this is {sys.platform}")
        return EpollPoller(edge=edge, oneshot=oneshot, exempt=exempt)
    if edge or oneshot:
        raise ValueError(f"{name} knows neither edges nor one-shot interest; only epoll has them")
    if name == "poll":
        return PollPoller()
    if name == "select":
        return SelectPoller()
    raise ValueError(f"poller is one of {', '.join(POLLERS)}, not {name!r}")
