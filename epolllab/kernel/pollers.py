"""One interface over epoll, poll and select.

What differs underneath
-----------------------
*Where the interest list is.* epoll keeps it in the kernel: ``register`` and ``modify``
are system calls, and a wait passes no list. poll and select keep it in the program and
pass all of it to the kernel at every wait, so here ``register`` adds a dictionary entry,
and the cost of a wait grows with the number of descriptors.

*What is watched.* epoll watches the open file description behind a number. If the number
is closed while a duplicate exists, epoll keeps reporting it, and neither number unregisters
it until dup2 gives the file its old number back. poll and select look the number up at each
wait: poll reports a closed one as NVAL, select fails with EBADF.

*When it reports.* poll and select are level-triggered: a condition is reported at every
wait while it holds. epoll can also be edge-triggered: it reports that something arrived
since the last report, whether or not what came before was read.

io_uring's multishot poll is behind the interface too, for comparisons. It keeps its list in
the kernel and reports like an edge. A server over a ring does not poll: it submits the calls
themselves, see :mod:`epolllab.server.completions`.
"""

import errno
import os
import select
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol, get_args

from epolllab.checks import check_bool, check_choice, check_int, check_sequence, checked
from epolllab.events import EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from epolllab.kernel import uring
from epolllab.kernel.proc import require_linux
from epolllab.kernel.uring import Uring

__all__ = [
    "POLLERS",
    "EpollPoller",
    "PollPoller",
    "Poller",
    "PollerName",
    "SelectPoller",
    "UringPoller",
    "make_poller",
]

Ready = list[tuple[int, int]]

FD_SETSIZE = 1024
"""Size of select(2)'s bitmap in glibc, and so of CPython's ``select.select``."""


class Poller(Protocol):
    """What a loop needs of a poller; masks use epoll's bits."""

    flags: int
    """Bits that are added to every interest, such as EPOLLET."""

    def register(self, fd: int, mask: int) -> None:
        """Start watching `fd`; OSError if the kernel refuses."""

    def modify(self, fd: int, mask: int) -> None:
        """Replace the interest in `fd`."""

    def unregister(self, fd: int) -> None:
        """Stop watching `fd`."""

    def forget(self, fd: int) -> None:
        """Drop what the *program* keeps about `fd`, which is about to be closed.

        epoll removes a file when its last descriptor is closed, and needs no call here; poll
        and select would pass a dead number to the kernel.
        """

    def wait(self, timeout: float | None, max_events: int) -> Ready:
        """Block for at most `timeout` seconds (None: forever); return (fd, mask) pairs."""

    def fileno(self) -> int:
        """Return the poller's own descriptor; -1 if it has none, ValueError after close()."""

    def close(self) -> None:
        """Close the poller's descriptor."""


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
    """epoll_ctl(EPOLL_CTL_ADD): EEXIST for a registered descriptor."""

    modify: Callable[[int, int], None]
    """epoll_ctl(EPOLL_CTL_MOD); on a ready descriptor this makes a new edge."""

    def __init__(
        self, *, edge: bool = False, oneshot: bool = False, exempt: frozenset[int] = frozenset()
    ) -> None:
        self._epoll = select.epoll()
        self.flags = (EPOLLET if edge else 0) | (EPOLLONESHOT if oneshot else 0)
        self._exempt = exempt
        # Without flags these are epoll's own methods, with no Python code in between.
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
        """Do nothing: the kernel removes a description when its last descriptor closes."""

    def wait(self, timeout: float | None, max_events: int) -> Ready:
        """epoll_wait; CPython rounds the timeout up to whole milliseconds."""
        return self._epoll.poll(timeout, max_events)


class _Table:
    """An interest list kept by the program, with the kernel's errors for misuse."""

    flags = 0

    def __init__(self) -> None:
        self.interest: dict[int, int] = {}

    def register(self, fd: int, mask: int) -> None:
        if fd in self.interest:
            raise FileExistsError(errno.EEXIST, f"descriptor {fd} is registered; use modify")
        self.interest[fd] = mask

    def modify(self, fd: int, mask: int) -> None:
        if fd not in self.interest:
            raise FileNotFoundError(errno.ENOENT, f"descriptor {fd} is not registered")
        self.interest[fd] = mask

    def unregister(self, fd: int) -> None:
        if self.interest.pop(fd, None) is None:
            raise FileNotFoundError(errno.ENOENT, f"descriptor {fd} is not registered")

    def forget(self, fd: int) -> None:
        self.interest.pop(fd, None)

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.interest.clear()


class PollPoller(_Table):
    """poll(2): passes an array of every descriptor at every wait."""

    def __init__(self) -> None:
        super().__init__()
        self._poll = select.poll()

    def register(self, fd: int, mask: int) -> None:
        """Add to the array that the next wait passes to the kernel."""
        super().register(fd, mask)
        self._poll.register(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        """Change the entry in the array."""
        super().modify(fd, mask)
        self._poll.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Remove from the array."""
        super().unregister(fd)
        self._poll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Remove from the array if it is there."""
        if fd in self.interest:
            self.unregister(fd)

    def wait(self, timeout: float | None, max_events: int) -> Ready:
        """poll(2), in milliseconds; it has no limit and returns every ready descriptor."""
        return self._poll.poll(None if timeout is None else timeout * 1000)


class SelectPoller(_Table):
    """select(2): passes three bitmaps at every wait; descriptors up to 1023 only."""

    def register(self, fd: int, mask: int) -> None:
        """Add the interest; EINVAL for a number that does not fit the bitmap."""
        if fd >= FD_SETSIZE:
            raise OSError(
                errno.EINVAL,
                f"select cannot watch descriptor {fd}: its bitmap ends at {FD_SETSIZE - 1} "
                '(FD_SETSIZE). Use poller="epoll" or "poll", or fewer connections',
            )
        super().register(fd, mask)

    def wait(self, timeout: float | None, max_events: int) -> Ready:
        """select(2), its three lists joined into masks; it has no limit on their length.

        select cannot report HUP or ERR: HUP counts as readable, ERR as readable and
        writable, and the next call on the descriptor shows which it was.
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


BROUGHT = 20
"""Completions that io_uring_enter brings if more are there but fewer are asked for (6.12)."""


class UringPoller(_Table):
    """io_uring with a multishot poll for each descriptor; for the thread that makes it.

    A completion comes when something has arrived, like an edge. What :meth:`register` and
    the others change is submitted with the next wait.

    Parameters
    ----------
    entries : int
        Submissions that fit between two system calls; more take further calls.
    """

    def __init__(self, entries: int = 1_024) -> None:
        super().__init__()
        self.ring = Uring(entries, 16 * entries)
        self._serial = 0
        self._pending: dict[int, int] = {}
        """user_data of each descriptor's poll."""

    def fileno(self) -> int:
        """Return the ring's descriptor."""
        return self.ring.fileno()

    def close(self) -> None:
        """Cancel every poll and close the ring."""
        super().close()
        self.ring.close()

    def register(self, fd: int, mask: int) -> None:
        """Submit a multishot poll."""
        super().register(fd, mask)
        self._submit(fd)

    def modify(self, fd: int, mask: int) -> None:
        """Cancel the poll and submit another."""
        super().modify(fd, mask)
        self._cancel(fd)
        self._submit(fd)

    def unregister(self, fd: int) -> None:
        """Cancel the poll."""
        super().unregister(fd)
        self._cancel(fd)

    def forget(self, fd: int) -> None:
        """Cancel the poll, which holds a reference to the file beyond its close."""
        if fd in self.interest:
            self.unregister(fd)

    def _submit(self, fd: int) -> None:
        self._make_room()
        self._serial += 1
        self._pending[fd] = user_data = self._serial << 32 | fd
        mask = self.interest[fd]
        self.ring.push(
            uring.POLL_ADD, fd, user_data=user_data, length=uring.POLL_MULTISHOT, op_flags=mask
        )

    def _cancel(self, fd: int) -> None:
        self._make_room()
        user_data = self._pending.pop(fd, None)
        if user_data is not None:
            self.ring.push_cancel(user_data, flags=uring.SKIP_SUCCESS)

    def _make_room(self) -> None:
        if self.ring.n_unsubmitted == self.ring.n_sqes:
            self.ring.enter()

    def submit(self) -> None:
        """Submit what has been registered, without waiting."""
        self.ring.enter()

    def wait(self, timeout: float | None, max_events: int) -> Ready:
        """io_uring_enter; the completions of a descriptor are joined into one mask."""
        if BROUGHT <= self.ring.enter(timeout != 0, timeout or None) < max_events:
            self.ring.enter(max_events, 0)
        return list(self.taken(max_events).items())

    def taken(self, max_events: int) -> dict[int, int]:
        """Take completions; a poll that has ended is submitted again, unless it failed."""
        masks: dict[int, int] = {}
        for user_data, result, flags in self.ring.take(max_events):
            fd = user_data & 0xFFFF_FFFF
            if self._pending.get(fd) != user_data:
                continue  # cancelled since, or a cancellation that came too late
            if result >= 0:
                masks[fd] = masks.get(fd, 0) | result
            elif result != -errno.ECANCELED:
                del self.interest[fd], self._pending[fd]
                raise OSError(-result, f"descriptor {fd}: {os.strerror(-result)}")
            if not flags & uring.MORE:
                self._submit(fd)
        return masks


PollerName = Literal["epoll", "poll", "select"]
POLLERS: tuple[PollerName, ...] = get_args(PollerName)


def _check_fds(name: str, value: object) -> frozenset[int]:
    return frozenset(check_sequence(name, value, partial(check_int, least=0)))


@checked(
    name=partial(check_choice, allowed=(*POLLERS, "io_uring")),
    edge=check_bool,
    oneshot=check_bool,
    exempt=_check_fds,
)
def make_poller(
    name: str, *, edge: bool = False, oneshot: bool = False, exempt: frozenset[int] = frozenset()
) -> Poller:
    """Make a poller by name.

    Parameters
    ----------
    name : {"epoll", "poll", "select", "io_uring"}
        Which system call waits. NotPossible if io_uring is refused here.
    edge, oneshot, exempt
        See :class:`EpollPoller`; ValueError for the others, which have neither flag.
    """
    if name == "epoll":
        require_linux("epoll")
        return EpollPoller(edge=edge, oneshot=oneshot, exempt=exempt)
    if edge or oneshot:
        flag = "edge" if edge else "oneshot"
        raise ValueError(f'{flag}=True needs the poller "epoll"; {name} cannot do it')
    if name == "io_uring":
        return UringPoller()
    return PollPoller() if name == "poll" else SelectPoller()
