"""Operations, mask names, and the layout of one record.

A record is one system call, one descriptor that a wait returned, or one request that
was handled. It takes 48 bytes (record format 2):

========  ======  ===================================================================
start_ns  int64   monotonic clock when the call began
end_ns    int64   monotonic clock when it returned
wake      uint32  serial of the wait it belongs to; 0 before the first
conn      uint32  serial of the connection; 0 for the loop's own descriptors
fd        int32   descriptor number, -1 where there is none
result    int32   what the kernel returned, or the negated errno
mask      uint32  depends on the operation, see below
op        uint16  an :class:`Op`
position  uint16  place in the batch that the wait returned; NO_POSITION outside one
thread    uint32  kernel thread id, in recordings of several threads; 0 elsewhere
request   uint32  what pairs a submission with its completion; 0 elsewhere
========  ======  ===================================================================

``result`` follows the kernel's convention: a negative number is an error. What
``result`` and ``mask`` mean depends on the operation:

============  ==============================  ===============================
op            result                          mask
============  ==============================  ===============================
wait          descriptors returned            timeout in microseconds, FOREVER
ready         0                               the mask that the wait returned
accept        the new descriptor              the peer's port
connect       0                               the local port
register      0                               the interest requested
modify        0                               the interest requested
recv, send    bytes                           0
handle        bytes of the response           status, and target << 16
callback      0                               index into metadata["callbacks"]
submit        bytes to send, or 0             the operation, see below
complete      the operation's result          the operation, see below
others        what the call returned          0
============  ==============================  ===============================

``submit`` and ``complete`` are of io_uring. Their mask has the :class:`Op` that the
operation replaces in bits 0 to 7 (``ready`` is a poll), then MORE (a completion that is
not the last), SKIP_SUCCESS (a submission that is completed only on failure) and LINK (the
next submission is made only if this one succeeds), and from bit 16 on the peer's port of
an accept. ``request`` is the same in both.

``target`` is an index into ``metadata["targets"]``, a table of at most 65,535 request
targets that starts with an empty one; status and target are 0 where they are unknown.
Format 1 (40 bytes) had neither ``thread`` nor ``request``, and 0 in a handle's mask.
"""

import errno
import struct
from enum import IntEnum
from functools import lru_cache

__all__ = [
    "EPOLLERR",
    "EPOLLET",
    "EPOLLEXCLUSIVE",
    "EPOLLHUP",
    "EPOLLIN",
    "EPOLLONESHOT",
    "EPOLLOUT",
    "EPOLLPRI",
    "EPOLLRDHUP",
    "FIELDS",
    "FOREVER",
    "KIND",
    "LINK",
    "MAX_REQUEST",
    "MORE",
    "NO_POSITION",
    "PORT_SHIFT",
    "RECORD",
    "SKIP_SUCCESS",
    "Op",
    "error_name",
    "key_of",
    "mask_names",
    "operation_name",
]


class Op(IntEnum):
    """The operations; frames show their names in lower case."""

    WAIT = 0
    READY = 1
    ACCEPT = 2
    REGISTER = 3
    MODIFY = 4
    UNREGISTER = 5
    RECV = 6
    SEND = 7
    SHUTDOWN = 8
    CLOSE = 9
    HANDLE = 10  # a request parsed and its response made: no system call
    CONNECT = 11
    READ = 12  # read(2) of an eventfd, pipe or timerfd
    WRITE = 13
    SETSOCKOPT = 14
    SOCKET = 15
    GETSOCKOPT = 16
    CALLBACK = 17  # a callback or a step of a task in an event loop: no system call
    SUBMIT = 18  # an operation given to io_uring: no system call
    COMPLETE = 19  # its result: no system call

    @property
    def label(self) -> str:
        """The name in lower case, as frames and charts show it."""
        return self.name.lower()


# The kernel's values (include/uapi/linux/eventpoll.h), written out so that a
# recording can be read where the select module has no epoll.
EPOLLIN = 0x001
EPOLLPRI = 0x002
EPOLLOUT = 0x004
EPOLLERR = 0x008
EPOLLHUP = 0x010
EPOLLNVAL = 0x020  # POLLNVAL: poll's only; epoll refuses at register instead
EPOLLRDHUP = 0x2000
EPOLLEXCLUSIVE = 1 << 28
EPOLLWAKEUP = 1 << 29
EPOLLONESHOT = 1 << 30
EPOLLET = 1 << 31

_NAMED_BITS = (
    (EPOLLIN, "IN"), (EPOLLPRI, "PRI"), (EPOLLOUT, "OUT"), (EPOLLERR, "ERR"),
    (EPOLLHUP, "HUP"), (EPOLLNVAL, "NVAL"), (0x040, "RDNORM"), (0x080, "RDBAND"),
    (0x100, "WRNORM"), (0x200, "WRBAND"), (0x400, "MSG"), (EPOLLRDHUP, "RDHUP"),
    (EPOLLEXCLUSIVE, "EXCLUSIVE"), (EPOLLWAKEUP, "WAKEUP"), (EPOLLONESHOT, "ONESHOT"),
    (EPOLLET, "ET"),
)  # fmt: skip

# The mask of submit and complete.
KIND = 0xFF
MORE, SKIP_SUCCESS, LINK = 1 << 8, 1 << 9, 1 << 10
PORT_SHIFT = 16

MAX_REQUEST = (1 << 23) - 1
"""The largest ``request`` of a submission; 1 follows it."""

FOREVER = 0xFFFF_FFFF
"""The ``mask`` of a wait without a timeout."""

NO_POSITION = 0xFFFF
"""The ``position`` of a record that belongs to no returned descriptor."""

FIELDS = (
    ("start_ns", "<i8"),
    ("end_ns", "<i8"),
    ("wake", "<u4"),
    ("conn", "<u4"),
    ("fd", "<i4"),
    ("result", "<i4"),
    ("mask", "<u4"),
    ("op", "<u2"),
    ("position", "<u2"),
    ("thread", "<u4"),
    ("request", "<u4"),
)
"""Name and numpy type code of each field, in order: ``numpy.dtype(list(FIELDS))``."""

RECORD = struct.Struct("<qqIIiiIHHII")
"""The same layout for :mod:`struct`; 48 bytes without padding."""


@lru_cache(maxsize=4096)
def mask_names(mask: int) -> str:
    """Spell a mask with the kernel's names.

    Parameters
    ----------
    mask : int
        Bits as epoll, poll or ``/proc/PID/fdinfo`` give them.

    Returns
    -------
    str
        For example ``"IN|RDHUP"``; ``"0"`` for an empty mask. Bits without a
        name are appended in hexadecimal.
    """
    names = [name for bit, name in _NAMED_BITS if mask & bit]
    unnamed = mask & ~sum(bit for bit, _ in _NAMED_BITS)
    if unnamed:
        names.append(hex(unnamed))
    return "|".join(names) or "0"


@lru_cache(maxsize=4096)
def operation_name(mask: int) -> str:
    """Spell the mask of a submission or completion, such as ``"recv|MORE"``."""
    kind = mask & KIND
    known = Op(kind).label if kind < len(Op) else hex(kind)
    flags = ((MORE, "MORE"), (SKIP_SUCCESS, "SKIP_SUCCESS"), (LINK, "LINK"))
    return "|".join([known, *(name for bit, name in flags if mask & bit)])


def error_name(number: int) -> str:
    """Name an errno: ``"EAGAIN"`` for 11; ``"errno 999"`` for one without a name."""
    return errno.errorcode.get(number, f"errno {number}")


def key_of(conn: int, fd: int) -> int:
    """Return a row's third number: the connection's serial, then the descriptor number."""
    return conn << 32 | fd & 0xFFFF_FFFF
