"""``inspect()``: the epoll instances of any process, what they watch, and what is wrong.

Reads /proc, sock_diag(7) and kcmp(2) only: the process does not notice, except that the
kernel holds an epoll's mutex while its interest list is written out.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from epolllab.analysis.advice import ADVICE, GHOST, WRITABLE
from epolllab.checks import check_int
from epolllab.events import EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLOUT
from epolllab.kernel import files, proc, sockets
from epolllab.notebook import html

__all__ = ["FINDINGS", "MOST_REPEATED", "Inspection", "inspect", "processes_named"]

STALL = "edge-triggered with unread bytes"
SPENT = "one-shot, spent"
PEER_CLOSED = "peer has closed, descriptor still open"
QUEUE_FULL = "accept queue full"

FINDINGS = {
    GHOST: ADVICE[GHOST],
    STALL: (
        "Nothing reports these bytes again until more arrive. At each edge read until EAGAIN, "
        "or until a short read if RDHUP is in the mask."
    ),
    SPENT: "It fired and was not armed again: EPOLL_CTL_MOD with the mask, when you are done.",
    PEER_CLOSED: "Read until recv returns 0, then close; the connection stays in CLOSE_WAIT.",
    QUEUE_FULL: (
        "Connections are dropped or kept in SYN_RECV. Accept until EAGAIN at each event, and "
        "raise the backlog of listen(2) and net.core.somaxconn."
    ),
    WRITABLE: ADVICE[WRITABLE],
}
"""What :func:`inspect` finds, and what to do about each."""

BETWEEN_LOOKS_S = 0.1
MOST_REPEATED = 1_000
"""Descriptors in one epoll above which it is not read again and again."""

_DTYPES = {
    "epfd": "int32", "fd": "int32", "mask": "uint32", "mask_names": "str", "data": "uint64",
    "data_is": "str", "what": "str", "recv_queue": "Int64", "send_queue": "Int64",
    "finding": "str", "detail": "str",
}  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect` found in one process."""

    pid: int
    command: str
    """The kernel's name of the process."""
    frame: pd.DataFrame
    """A row per watched descriptor; see :func:`inspect`."""
    waits: pd.DataFrame
    """A row per thread that waits on one of the epolls: ``epfd``, ``tid``, ``call``,
    ``timeout_ms`` (NaN for none)."""
    epolls: dict[int, int]
    """Descriptor of each epoll to the number of entries in its interest list."""
    rings: dict[int, int]
    """Descriptor of each io_uring to the number of polls that it has pending."""
    read_ns: dict[int, int]
    """Descriptor of each epoll to the time it took to read it, an upper bound on how long
    the kernel held its mutex."""
    missing: dict[str, str] = field(default_factory=dict)
    """What could not be read, and why; also in ``frame.attrs["missing"]``."""

    @property
    def findings(self) -> pd.DataFrame:
        """The rows with a finding."""
        return self.frame[self.frame["finding"] != ""]

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return self.findings.empty

    def names(self) -> dict[int, str]:
        """Return what each watched descriptor is, for :func:`epolllab.analysis.diagnose`."""
        return dict(zip(self.frame["fd"].tolist(), self.frame["what"].tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as types that JSON has; missing numbers are None."""
        rows = self.frame.astype(object).where(self.frame.notna(), None).to_dict("records")
        waits = self.waits.astype(object).where(self.waits.notna(), None).to_dict("records")
        return {
            "pid": self.pid, "command": self.command, "epolls": self.epolls, "rings": self.rings,
            "read_ns": self.read_ns, "watched": rows, "waits": waits, "missing": self.missing,
        }  # fmt: skip

    def __repr__(self) -> str:
        lines = [f"{self.command} (pid {self.pid})"]
        for epfd in self.epolls:
            lines += [self._heading(epfd), *_table(self.frame[self.frame["epfd"] == epfd])]
        lines += [f"io_uring fd {fd}: {n} polls pending" for fd, n in self.rings.items()]
        if not self.epolls:
            lines.append("no epoll instance")
        lines += [f"not known: {what} ({why})" for what, why in self.missing.items()]
        return "\n".join(lines)

    def _heading(self, epfd: int) -> str:
        rows = self.waits[self.waits["epfd"] == epfd]
        sleeping = "; ".join(
            f"thread {row.tid} in {row.call} ({_timeout(row.timeout_ms)})" for row in _named(rows)
        )
        unknown = "" if "waits" in self.missing else "no thread waits now"
        watched = f"epoll fd {epfd}: {self.epolls[epfd]:,} watched"
        return "; ".join(filter(None, [watched, sleeping or unknown]))

    def _repr_html_(self) -> str:
        parts = []
        for epfd in self.epolls:
            rows = self.frame[self.frame["epfd"] == epfd]
            cells = [[*row[1:4], row.data_is, row.what, *_queues(row)] for row in _named(rows)]
            head = ["fd", "mask", "names", "data is", "what", "received", "unsent"]
            parts += [html.text(self._heading(epfd), "muted"), html.table(head, cells)]
            parts += [
                html.text(
                    f"fd {row.fd}: {row.finding}: {row.detail} {FINDINGS[row.finding]}", "error"
                )
                for row in _named(rows)
                if row.finding
            ]
        if not self.epolls:
            parts.append(html.text("no epoll instance", "muted"))
        notes = [f"not known: {what} ({why})" for what, why in self.missing.items()]
        return html.box(f"{self.command} (pid {self.pid})", *parts, html.text("\n".join(notes)))


def inspect(pid: int) -> Inspection:
    """Show the epoll instances of a process, of any language, and what is wrong with them.

    Parameters
    ----------
    pid : int
        The process, this one included. One's own processes need no privilege.

    Returns
    -------
    Inspection
        Its ``frame`` has a row per watched descriptor:

        ========== ====== ==================================================
        epfd       int32  the epoll
        fd         int32  the number that the file was registered under
        mask       uint32 the interest, with ERR and HUP, which the kernel adds
        mask_names str    that mask in the kernel's names
        data       uint64 the program's value (epoll_data)
        data_is    str    ``"fd"``, ``"fd, high bits"`` (CPython leaves garbage
                          there) or ``"pointer"``
        what       str    the file: a socket with its addresses and state, a
                          pipe, eventfd, timerfd, path, another epoll, ...
        recv_queue Int64  bytes to read, or connections to accept; missing for
                          files that do not tell
        send_queue Int64  bytes not sent or not acknowledged; likewise
        finding    str    a key of ``FINDINGS``, or ""
        detail     str    the finding in a sentence
        ========== ====== ==================================================

        ``frame.attrs["missing"]`` says what could not be read, and why.

    Raises
    ------
    ProcessLookupError
        There is no such process, or it ended meanwhile.
    PermissionError
        It belongs to another user.
    ValueError
        It is a kernel thread, which has no descriptors.
    OSError
        This is not Linux.

    Notes
    -----
    Where a first look finds something, a second one follows 100 ms later, and only what
    both found is reported: unread bytes must be the same in both, while a thread waits.
    """
    check_int("pid", pid, 1)
    if proc.is_kernel_thread(pid):
        raise ValueError(f"pid {pid} is a kernel thread, which has no descriptors")
    if proc.is_zombie(pid):
        raise ProcessLookupError(
            errno.ESRCH, f"process {pid} has ended, and its parent has not waited for it (zombie)"
        )
    look = _look(pid)
    if look.found:
        time.sleep(BETWEEN_LOOKS_S)
        again = _look(pid)
        look = again._replace(found=look.found & again.found)
    return _inspection(pid, look)


class _Entry(NamedTuple):
    epfd: int
    nth: int
    entry: proc.InterestEntry
    what: str
    socket: sockets.SocketInfo | None
    is_same: bool | None
    """Whether the number still refers to the file watched; None if it cannot be told."""


class _Look(NamedTuple):
    links: dict[int, str]
    entries: list[_Entry]
    waits: dict[int, list[files.Waiter]]
    found: set[tuple[Any, ...]]
    """Epoll, descriptor, place, inode and kind of each finding, and the bytes unread."""
    epolls: dict[int, int]
    read_ns: dict[int, int]
    missing: dict[str, str]


def _look(pid: int) -> _Look:
    links, table = files.descriptors(pid), sockets.socket_table(pid)
    waits, reason = files.waiters(pid)
    look = _Look(links, [], waits, set(), {}, {}, {"waits": reason} if reason else {})
    for epfd in (fd for fd, link in links.items() if link == "anon_inode:[eventpoll]"):
        begin = time.perf_counter_ns()
        try:
            listed = proc.interest_list(epfd, pid)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            continue  # closed since it was listed
        look.read_ns[epfd] = time.perf_counter_ns() - begin
        look.epolls[epfd] = len(listed)
        seen: dict[int, int] = {}
        for entry in listed:
            nth = seen[entry.fd] = seen.get(entry.fd, -1) + 1
            look.entries.append(_entry(pid, epfd, nth, entry, links, table))
    if any(e.is_same is None for e in look.entries):
        look.missing["ghosts"] = "kcmp(2) is refused or unknown here, so some cannot be told"
    for e in look.entries:
        look.found.update(_findings(e, waits.get(e.epfd, [])))
    return look


def _entry(
    pid: int,
    epfd: int,
    nth: int,
    entry: proc.InterestEntry,
    links: dict[int, str],
    table: dict[int, sockets.SocketInfo],
) -> _Entry:
    link = links.get(entry.fd)
    same = files.is_watched_file(pid, entry.fd, pid, epfd, entry.fd, nth) if link else False
    if same is None and link and link.startswith("socket:["):
        same = link == f"socket:[{entry.inode}]"  # a socket has its inode for itself
    info = table.get(entry.inode) if entry.inode else None
    what = info.text if info else _file(link, entry.fd) if same is not False else "a closed file"
    return _Entry(epfd, nth, entry, what, info, same)


def _file(link: str | None, fd: int) -> str:
    """Name what is no known socket: ``anon_inode:[eventfd]`` is an eventfd."""
    if not link or not link.startswith("anon_inode:"):
        return "pipe" if (link or "").startswith("pipe:") else link or ""
    name = link.removeprefix("anon_inode:").strip("[]")
    return f"epoll fd {fd}" if name == "eventpoll" else name


def _findings(e: _Entry, waiting: list[files.Waiter]) -> Iterator[tuple[Any, ...]]:
    """Keys of what is wrong with one entry, as far as one look can say."""
    mask, info = e.entry.mask, e.socket
    # With the inode, since another look may find another connection under the same number.
    where = (e.epfd, e.entry.fd, e.nth, e.entry.inode)
    unread = (info.recv_queue or 0) if info else 0
    if e.is_same is False:
        yield *where, GHOST
    elif mask & EPOLLONESHOT and not mask & 0xFFFF:  # cleared when it fires
        yield *where, SPENT
    elif mask & EPOLLET and mask & EPOLLIN and unread and waiting:
        yield *where, STALL, unread
    elif info and info.backlog is not None and unread > info.backlog:
        yield *where, QUEUE_FULL
    elif info and info.state == "CLOSE_WAIT":
        yield *where, PEER_CLOSED
    elif mask & (EPOLLOUT | EPOLLET) == EPOLLOUT and info and _is_idle(info):
        yield *where, WRITABLE


def _is_idle(info: sockets.SocketInfo) -> bool:
    return info.state == "ESTABLISHED" and info.send_queue == 0


def _inspection(pid: int, look: _Look) -> Inspection:
    kinds = {key[:3]: key[4] for key in look.found}
    rows = []
    for e in look.entries:
        kind = kinds.get((e.epfd, e.entry.fd, e.nth), "")
        queues = (e.socket.recv_queue, e.socket.send_queue) if e.socket else (None, None)
        detail = _detail(kind, e, pid, look) if kind else ""
        rows.append(
            (e.epfd, *e.entry[:4], _data_is(e.entry), e.what, *queues, kind, detail)
        )  # fmt: skip
    frame = pd.DataFrame(rows, columns=pd.Index(_DTYPES)).astype(_DTYPES)
    frame.attrs = {"pid": pid, "missing": look.missing}
    waits = pd.DataFrame(
        [
            (epfd, *waiter)
            for epfd, some in look.waits.items()
            for waiter in some
            if epfd in look.epolls
        ],
        columns=pd.Index(["epfd", "tid", "call", "timeout_ms"]),
    ).astype({"epfd": "int32", "tid": "int64", "call": "str", "timeout_ms": "float64"})
    rings = {}
    for fd in (fd for fd, link in look.links.items() if link == "anon_inode:[io_uring]"):
        with suppress(ProcessLookupError):  # closed since it was listed
            rings[fd] = files.pending_polls(pid, fd)
    command = proc.threads(pid).get(pid, "?")
    return Inspection(pid, command, frame, waits, look.epolls, rings, look.read_ns, look.missing)


def _data_is(entry: proc.InterestEntry) -> str:
    if entry.data == entry.fd:
        return "fd"
    return "fd, high bits" if entry.data & 0xFFFF_FFFF == entry.fd else "pointer"


def _detail(kind: str, e: _Entry, pid: int, look: _Look) -> str:
    fd, queue = e.entry.fd, e.socket.recv_queue if e.socket else 0
    if kind == GHOST:
        held = files.holders(e.entry, pid, e.epfd, e.nth)
        where = ", ".join(f"fd {fd} of process {pid}" for pid, fd in held)
        now = look.links.get(fd)
        number = f"descriptor {fd} is {_file(now, fd)} now" if now else f"descriptor {fd} is closed"
        return f"{number}; the file is still open as {where or 'something that was not found'}."
    return {
        STALL: f"{queue:,} bytes are unread, and no event will report them.",
        SPENT: "The mask is empty, so nothing is reported.",
        PEER_CLOSED: "The peer has sent FIN, and the descriptor is still open.",
        QUEUE_FULL: f"{queue:,} connections wait to be accepted, more than the backlog.",
        WRITABLE: "Nothing waits to be sent, so each wait reports OUT.",
    }[kind]


def _timeout(timeout_ms: float) -> str:
    return "no timeout" if pd.isna(timeout_ms) else f"{timeout_ms:g} ms"


def _named(rows: pd.DataFrame) -> Any:
    return rows.itertuples(index=False)


def _queues(row: Any) -> list[str]:
    return ["" if pd.isna(n) else f"{n:,}" for n in (row.recv_queue, row.send_queue)]


def _table(rows: pd.DataFrame) -> Iterator[str]:
    """Lines of text, the columns aligned, each finding below its row."""
    cells = [
        (f"{row.fd}", row.mask_names, f"{row.data:#x} ({row.data_is})", row.what, *_queues(row))
        for row in _named(rows)
    ]
    head = ("fd", "mask", "data", "what", "received", "unsent")
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]

    def aligned(line: tuple[str, ...]) -> str:
        return "  " + "  ".join(map(str.ljust, line, widths)).rstrip()

    if cells:
        yield aligned(head)
    for line, row in zip(cells, _named(rows), strict=True):
        yield aligned(line)
        if row.finding:
            yield f"      ! {row.finding}: {row.detail}"


def processes_named(name: str) -> list[int]:
    """Return the processes whose program or kernel name is `name`: all workers of ``nginx``."""
    found = []
    for pid in files.processes():
        with suppress(OSError):  # ended, or hidden
            if name == proc.threads(pid).get(pid) or name == os.path.basename(files.program(pid)):
                found.append(pid)
    return found
