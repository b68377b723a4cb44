"""``read_strace()``: a strace log of any program as recordings."""

import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from epolllab.events import FIELDS, FOREVER, NO_POSITION, RECORD, Op
from epolllab.external.calls import Call, Lines, split
from epolllab.recording.recording import Recording

__all__ = ["read_strace", "recordings"]

_MASKS = {
    "IN": 1, "PRI": 2, "OUT": 4, "ERR": 8, "HUP": 0x10, "NVAL": 0x20, "RDNORM": 0x40,
    "RDBAND": 0x80, "WRNORM": 0x100, "WRBAND": 0x200, "MSG": 0x400, "RDHUP": 0x2000,
    "EXCLUSIVE": 1 << 28, "WAKEUP": 1 << 29, "ONESHOT": 1 << 30, "ET": 1 << 31,
}  # fmt: skip
_CTL = {
    "EPOLL_CTL_ADD": Op.REGISTER, "EPOLL_CTL_MOD": Op.MODIFY, "EPOLL_CTL_DEL": Op.UNREGISTER,
    "1": Op.REGISTER, "2": Op.UNREGISTER, "3": Op.MODIFY,
}  # fmt: skip
_SOCKET_CALLS = {
    "recv": Op.RECV, "recvfrom": Op.RECV, "recvmsg": Op.RECV, "recvmmsg": Op.RECV,
    "send": Op.SEND, "sendto": Op.SEND, "sendmsg": Op.SEND, "sendmmsg": Op.SEND,
    "shutdown": Op.SHUTDOWN, "connect": Op.CONNECT, "setsockopt": Op.SETSOCKOPT,
    "getsockopt": Op.GETSOCKOPT,
}  # fmt: skip
_FILE_CALLS = {
    "read": (Op.READ, Op.RECV), "readv": (Op.READ, Op.RECV), "write": (Op.WRITE, Op.SEND),
    "writev": (Op.WRITE, Op.SEND), "sendfile": (Op.WRITE, Op.SEND),
}  # fmt: skip
"""The operation of a descriptor of any kind, and of a socket."""

_WAITS = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
_POLLS = ("poll", "ppoll", "select", "pselect6", "_newselect", "io_uring_enter")
_FORKS = ("clone", "clone3", "fork", "vfork")
_EVENT = re.compile(
    r"\{(?:events=)?([^,{}]+?),\s*(?:data=)?"
    r"(?:\{u32=(0x[0-9a-f]+|\d+),\s*u64=(0x[0-9a-f]+|\d+)\}|(0x[0-9a-f]+|\d+))\}"
)
_WORD = re.compile(r"(?:E?POLL)([A-Z]+)$")
_REVENTS = re.compile(r"\{fd=(-?\d+)(?:, events=[^,{}]*)?, revents=([^{}]*?)\}")
_SETS = re.compile(r"\b(in|out|except) \[([^\]]*)\]")
_FIRST = re.compile(r"\s*(-?\d+)")
_PORT = re.compile(r"(?:htons\(|sin6?_port=)(\d+)")
_DTYPE = np.dtype(list(FIELDS))
_BIG_LOG = 5_000_000
_LONGEST_LINE = 1 << 20
MOST_ROWS = 4_000_000
_PIECE_ROWS = 1 << 18
"""Records kept, of 48 bytes; the oldest are dropped and counted."""

_SMALL = 1 << 20


class NotUnderstood(ValueError):
    """A call whose arguments have a form that is not known."""


def read_strace(source: str | os.PathLike[str]) -> list[Recording]:
    """Read what strace wrote about a program that waits for events.

    Parameters
    ----------
    source : str or path-like
        A file; or the text itself, if it is a string of several lines. Best made with
        ``strace -f -ttt -T -e abbrev=none -s 0 -o FILE``, but all formats are read. The
        calls that matter are the waits (epoll, poll, select, io_uring_enter), epoll_ctl,
        and reads, writes, accepts and closes.

    Returns
    -------
    list of Recording
        One for each process that waits, the one with most records first; ``events()`` has
        the thread of each record as ``tid`` if there are several; threads whose clone is not
        in the log are taken for the first process's, unless both open the same number. The
        last four million records are kept. The metadata say what is not in it:
        ``n_strange`` lines that are not understood, the first of them in ``strange``;
        ``n_cut`` ready descriptors that strace abbreviated; ``n_unmapped`` ready rows with
        fd -1, whose ``epoll_data`` was registered before the log began; ``n_assumed``
        whose data was taken for the descriptor, as it is for all others of the process;
        ``n_other`` other calls; ``n_unfinished`` calls that had not returned.

    Raises
    ------
    ValueError
        The text has no line of strace, or no wait; the message says what was found.
    FileNotFoundError
        There is no such file.

    Notes
    -----
    Times are those of the log, or 1 µs from line to line where it has none; so are spans
    of ``-t``, in whole seconds. They are not on this machine's monotonic clock.
    """
    with _opened(source) as (name, lines):
        reader = Reader()
        reader.read(lines)
    return recordings(reader, {"source": "strace", "log": name})


def recordings(reader: "Reader", metadata: Mapping[str, Any]) -> list[Recording]:
    """One recording for each process that a reader has seen wait, most records first."""
    if not reader.n_waits:
        raise ValueError(_nothing(reader, metadata))
    found = []
    for pieces, facts in reader.finished():
        rows, n_earlier = _newest(pieces())
        if (rows["op"] == Op.WAIT).any():
            n_lost = reader.n_dropped + n_earlier
            found.append(Recording(rows.tobytes(), {**metadata, **facts}, n_lost))
    return sorted(found, key=len, reverse=True)


def _newest(pieces: Iterable[Any]) -> tuple[Any, int]:
    """The last records, about as many as fit into memory, and the number of those before."""
    kept: deque[Any] = deque([np.empty(0, dtype=_DTYPE)])
    n_kept = n_before = 0
    for piece in pieces:
        kept.append(piece)
        n_kept += len(piece)
        while n_kept - len(kept[0]) >= MOST_ROWS:
            n_before += len(kept[0])
            n_kept -= len(kept.popleft())
    return np.concatenate(kept), n_before


def _nothing(reader: "Reader", metadata: Mapping[str, Any]) -> str:
    name = metadata["log"]
    if waits := {call for _, call in reader.lines.pending if call in (*_WAITS, *_POLLS)}:
        return f"{name} has no wait that ended: the program slept in {' and '.join(waits)}"
    calls = ", ".join(sorted(reader.seen, key=reader.seen.__getitem__, reverse=True)[:5])
    if not reader.seen and reader.lines.n_summary:
        return f"{name} is a summary, which has no calls; run strace without -c"
    if not reader.seen and "pid" in metadata:
        return f"{name} has no call in this time: it is stopped, or asleep in one that began before"
    if not reader.seen:
        return (
            f"{name} has no line of strace: {reader.lines.n_strange:,} lines are not understood; "
            "give a file that strace wrote, or its text"
        )
    return (
        f"{name} has no wait of epoll, poll, select or io_uring, only {calls}; the program does "
        "not wait for events, or strace was told to leave these calls out (-e trace=)"
    )


@contextmanager
def _opened(source: str | os.PathLike[str]) -> Iterator[tuple[str, Iterable[str]]]:
    """The name and the lines of a file or a text; a bar shows how far a large file is read."""
    if isinstance(source, str) and (not source.strip() or _is_text(source)):
        yield "source", source.splitlines(keepends=True)
        return
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source must be a path or a text, not {type(source).__name__}")
    path = Path(source)
    with path.open("rb") as file:
        if b"\0" in file.read(4096):
            raise ValueError(f"source {path} is a binary file, not strace's text")
        file.seek(0)
        yield f"source {path}", _decoded(file, path.stat().st_size)


def _is_text(source: str) -> bool:
    """Whether it has a line feed, or is one call."""
    return "\n" in source or re.search(r"\w\(.*\)\s*=", source) is not None


def _decoded(file: Any, size: int) -> Iterator[str]:
    """The lines, of which very long ones in pieces: the memory needed is bounded."""
    from tqdm.auto import tqdm

    lines = iter(partial(file.readline, _LONGEST_LINE), b"")
    with tqdm(
        total=size, unit="B", unit_scale=True, leave=False, desc="reading strace",
        disable=size < _BIG_LOG,
    ) as bar:  # fmt: skip
        for batch in iter(lambda: list(itertools.islice(lines, 10_000)), []):
            yield from (line.decode("utf-8", "replace") for line in batch)
            bar.update(sum(map(len, batch)))


class _Process:
    """The descriptors of one process, and what epoll_data stands for."""

    def __init__(self) -> None:
        self.serials: dict[int, int] = {}
        self.sockets: set[int] = set()
        self.listeners: set[int] = set()
        self.opened: dict[int, int] = {}
        """Descriptors that are open for sure, and the threads that opened them."""
        self.fd_of: dict[tuple[int, int], int] = {}
        self.other_data = False
        """Whether some data seen is not the descriptor."""

    def copy(self) -> "_Process":
        """A forked child: the same descriptors."""
        other = _Process()
        other.serials, other.sockets = dict(self.serials), self.sockets
        other.listeners = self.listeners
        other.fd_of, other.other_data = dict(self.fd_of), self.other_data
        return other


class Reader:
    """Make records of calls.

    Parameters
    ----------
    offset_ns : int
        What is subtracted from the times of the text.
    known : iterable of (int, int, int)
        Epoll, descriptor and epoll_data of registrations made before.
    sockets : iterable of int
        Descriptors that were sockets, but not listeners, before.
    file : file, optional
        For the records that are not kept in memory; without it they are dropped.
    """

    def __init__(
        self,
        offset_ns: int = 0,
        known: Iterable[tuple[int, int, int]] = (),
        sockets: Iterable[int] = (),
        file: BinaryIO | None = None,
    ) -> None:
        self.lines = Lines(offset_ns)
        self.seen: dict[str, int] = {}
        self.n_waits = self.n_cut = self.n_other = self.n_dropped = 0
        self._rows = bytearray()
        self._file, self._n_filed = file, 0
        self._guesses: list[int] = []
        self._serial = itertools.count(1)
        self._wakes = itertools.count(1)
        self._wake: dict[int, int] = {}
        self._first = _Process()
        self._process: dict[int, _Process] = {}
        for epfd, fd, data in known:
            self._learn(self._first, epfd, fd, data)
        for fd in sockets:
            self._first.sockets.add(self._conn(self._first, fd))

    def read(self, lines: Iterable[str]) -> None:
        """Read lines of strace."""
        for call in self.lines.calls(lines):
            self.seen[call.name] = self.seen.get(call.name, 0) + 1
            try:
                self._call(call)
            except (NotUnderstood, ValueError, IndexError):
                self.lines.note(f"{call.name}({call.arguments}) = {call.result}")

    def _call(self, call: Call) -> None:
        process = self._of(call.tid)
        if call.name in _WAITS:
            self._epoll_wait(process, call)
        elif call.name == "epoll_ctl":
            self._epoll_ctl(process, call)
        elif call.name in _POLLS:
            self._poll(process, call)
        elif call.name in ("accept", "accept4"):
            self._accept(process, call)
        elif call.name in _SOCKET_CALLS or call.name in _FILE_CALLS:
            self._transfer(process, call)
        elif call.name == "close":
            fd = _fd(call)
            self._row(call, self._conn(process, fd), fd, call.result, 0, Op.CLOSE)
            process.serials.pop(fd, None)
            process.opened.pop(fd, None)
        elif call.name == "socket" and call.result >= 0:
            process = self._owner(process, call)
            process.sockets.add(self._conn(process, call.result, new=True))
        else:
            self.n_other += 1
        if call.name in _FORKS and call.result > 0:
            self._forked(process, call.result, call.arguments)

    # ---- processes ----------------------------------------------------------------------

    def _of(self, tid: int) -> _Process:
        """The process of a thread; a new one is a child of what is being cloned."""
        if tid not in self._process:
            self._process[tid] = self._first
            for (parent, name), (_, arguments) in self.lines.pending.items():
                if name in _FORKS and parent in self._process and parent != tid:
                    self._forked(self._process[parent], tid, arguments)
        return self._process[tid]

    def _forked(self, parent: _Process, tid: int, arguments: str) -> None:
        if "CLONE_THREAD" in arguments:
            self._process[tid] = parent
        elif self._process.get(tid, self._first) in (parent, self._first):
            self._process[tid] = parent.copy()

    def _owner(self, process: _Process, call: Call) -> _Process:
        """The process that a new descriptor is of: another's, if the number is open here.

        Only then are threads of a log without clone known to be of several processes.
        """
        opener = process.opened.get(call.result, call.tid)
        if opener != call.tid and opener and call.tid and "close" in self.seen:
            process = self._process[call.tid] = process.copy()
        process.opened[call.result] = call.tid
        return process

    # ---- descriptors --------------------------------------------------------------------

    def _conn(self, process: _Process, fd: int, *, new: bool = False) -> int:
        """Serial of what a descriptor refers to; a closed number that is used again is new."""
        if new or fd not in process.serials:
            process.serials[fd] = next(self._serial)
        return process.serials[fd]

    def _learn(self, process: _Process, epfd: int, fd: int, data: int) -> None:
        process.fd_of[epfd, data] = fd
        process.other_data |= data & 0xFFFF_FFFF != fd

    # ---- calls --------------------------------------------------------------------------

    def _row(
        self,
        call: Call,
        conn: int,
        fd: int,
        result: int,
        mask: int,
        op: Op,
        place: int = NO_POSITION,
    ) -> None:
        start = call.end_ns if op is Op.READY else call.start_ns
        wake = self._wake.get(call.tid, 0)
        result = max(-(1 << 31), min(result, (1 << 31) - 1))
        if len(self._rows) >= MOST_ROWS * RECORD.size:
            self._drop(MOST_ROWS // 4)
        self._rows += RECORD.pack(
            start, call.end_ns, wake, conn, fd, result, mask, op, place, call.tid, 0
        )

    def _drop(self, n: int) -> None:
        n_bytes = n * RECORD.size
        if self._file is not None:
            self._file.write(self._rows[:n_bytes])
            self._n_filed += n_bytes
        else:
            self._guesses = [at - n_bytes for at in self._guesses if at >= n_bytes]
            self.n_dropped += n
        del self._rows[:n_bytes]

    def _wait(self, call: Call, fd: int, result: int, timeout_us: int) -> None:
        self.n_waits += 1
        self._wake[call.tid] = next(self._wakes)
        self._row(call, 0, fd, result, timeout_us, Op.WAIT)

    def _epoll_wait(self, process: _Process, call: Call) -> None:
        epfd, array, _, timeout, *_ = split(call.arguments)
        self._wait(call, int(epfd), call.result, _timeout_us(timeout))
        if call.result <= 0:
            return
        found = _EVENT.findall(array)
        for place, (mask, u32, u64, plain) in enumerate(found[: call.result]):
            data = int(u64 or plain, 0)
            fd = process.fd_of.get((int(epfd), data))
            if fd is None:
                fd = int(u32, 0) if u32 else data & 0xFFFF_FFFF
                fd = fd if fd < _SMALL else -1
                self._guesses.append(self._n_filed + len(self._rows))
            conn = self._conn(process, fd) if fd >= 0 else 0
            self._row(call, conn, fd, 0, _mask(mask), Op.READY, place)
        self.n_cut += call.result - len(found)

    def _epoll_ctl(self, process: _Process, call: Call) -> None:
        epfd, how, target, *event = split(call.arguments)
        how = how.split(" ")[0]
        op = _CTL.get(how) or _CTL.get(str(int(how, 0)) if how[:1].isdigit() else "")
        if op is None:
            raise NotUnderstood
        fd, mask = int(target), 0
        found = _EVENT.search(event[0]) if event and op is not Op.UNREGISTER else None
        if found:
            mask = _mask(found[1])
            if call.result == 0:
                self._learn(process, int(epfd), fd, int(found[3] or found[4], 0))
        self._row(call, self._conn(process, fd), fd, call.result, mask, op)

    def _poll(self, process: _Process, call: Call) -> None:
        arguments = split(call.arguments)
        if call.name == "io_uring_enter":
            if "GETEVENTS" in call.arguments:  # its completions are in memory, not in the call
                self._wait(call, _fd(call), min(call.result, 0), FOREVER)
            return
        if call.name in ("poll", "ppoll"):
            timeout_us = _timeout_us(arguments[2], is_struct=call.name == "ppoll")
            ready = [(int(fd), _mask(mask)) for fd, mask in _REVENTS.findall(call.found)]
        else:
            timeout_us = _timeout_us(arguments[4], is_struct=True)
            masks: dict[int, int] = {}
            for which, numbers in _SETS.findall(call.found):
                for fd in map(int, numbers.split()):
                    masks[fd] = masks.get(fd, 0) | {"in": 1, "out": 4, "except": 2}[which]
            ready = list(masks.items())
        self._wait(call, -1, call.result, timeout_us)
        for place, (fd, mask) in enumerate(ready):
            self._row(call, self._conn(process, fd), fd, 0, mask, Op.READY, place)

    def _accept(self, process: _Process, call: Call) -> None:
        fd, conn, port = _fd(call), 0, _PORT.search(call.arguments)
        process = self._owner(process, call) if call.result >= 0 else process
        process.listeners.add(self._conn(process, fd))
        if call.result >= 0:
            conn = self._conn(process, call.result, new=True)
            process.sockets.add(conn)
        self._row(call, conn, fd, call.result, int(port[1]) if port else 0, Op.ACCEPT)

    def _transfer(self, process: _Process, call: Call) -> None:
        fd = _fd(call)
        conn = self._conn(process, fd)
        if call.name in _SOCKET_CALLS:
            op = _SOCKET_CALLS[call.name]
            if op in (Op.RECV, Op.SEND, Op.CONNECT):
                process.sockets.add(conn)
        else:
            op = _FILE_CALLS[call.name][conn in process.sockets]
        self._row(call, conn, fd, call.result, 0, op)

    # ---- the end ------------------------------------------------------------------------

    def finished(self) -> "Iterator[tuple[Callable[[], Iterator[Any]], dict[str, Any]]]":
        """What yields the records of each process in pieces, and what is to be said about them."""
        array = self._array()
        guessed = np.array(self._guesses, dtype=np.int64) // _DTYPE.itemsize
        for process in dict.fromkeys(self._process.values()):
            tids = [tid for tid, owner in self._process.items() if owner is process]
            mine = np.isin(array["thread"], tids)
            guesses = guessed[mine[guessed]]
            assumed = self._settle_guesses(array, guesses, process)
            yield partial(_pieces, array, tids, list(process.sockets - process.listeners)), {
                "poller": "epoll", "pid": min(tids) or None, "tids": sorted(tids),
                "n_unmapped": len(guesses) - assumed, "n_assumed": assumed, "n_cut": self.n_cut,
                "n_other": self.n_other, "n_unfinished": len(self.lines.pending),
                "n_strange": self.lines.n_strange, "strange": self.lines.strange,
                "clock": "of the log" if self.lines.has_clock else "none: order only",
                "fd_names": {
                    str(fd): name for (tid, fd), name in self.lines.names.items() if tid in tids
                },
            }  # fmt: skip

    def _array(self) -> Any:
        """All records, in memory or in the file."""
        if self._file is None:
            return np.frombuffer(self._rows, dtype=_DTYPE)
        self._file.write(self._rows)
        self._n_filed += len(self._rows)
        self._rows.clear()
        self._file.flush()
        return np.memmap(self._file, dtype=_DTYPE, mode="r+")

    def _settle_guesses(self, array: Any, guesses: Any, process: _Process) -> int:
        """Keep the descriptors taken from data where there is evidence; return how many."""
        fds = array["fd"][guesses]
        used = set(array["fd"][array["op"] > Op.READY].tolist())
        others = {int(fd) for fd in np.unique(fds[fds >= 0])}
        plausible = not process.other_data and others and len(others & used) * 2 >= len(others)
        if not plausible:
            array["fd"][guesses], array["conn"][guesses] = -1, 0
            return 0
        return int((fds >= 0).sum())


def _pieces(array: Any, tids: list[int], sockets: list[int]) -> Iterator[Any]:
    """The records of a process, with serials 1, 2, ... in the order of their first rows."""
    numbers = {0: 0}
    for start in range(0, len(array), _PIECE_ROWS):
        piece = np.asarray(array[start : start + _PIECE_ROWS])
        rows = piece[np.isin(piece["thread"], tids)]
        conn = np.where(np.isin(rows["conn"], sockets), rows["conn"], 0)
        values, first, inverse = np.unique(conn, return_index=True, return_inverse=True)
        for value in values[np.argsort(first)].tolist():
            numbers.setdefault(value, len(numbers))
        rows["conn"] = np.array([numbers[v] for v in values.tolist()], dtype="u4")[inverse]
        if len(tids) == 1:
            rows["thread"] = 0
        yield rows


def _fd(call: Call) -> int:
    found = _FIRST.match(call.arguments)
    if not found:
        raise NotUnderstood
    return int(found[1])


def _mask(text: str) -> int:
    """The bits of names, numbers and shifts, joined by ``|``."""
    bits = 0
    for word in re.sub(r"/\*.*?\*/", "", text).split("|"):
        name, word = _WORD.match(word.strip()), word.strip()
        if name and name[1] in _MASKS:
            bits |= _MASKS[name[1]]
        elif re.fullmatch(r"0x[0-9a-f]+|\d+", word):
            bits |= int(word, 0)
        elif shift := re.fullmatch(r"(\d+)[uU]?<<(\d+)", word):
            bits |= int(shift[1]) << int(shift[2])
        else:
            raise NotUnderstood
    return bits & 0xFFFF_FFFF


def _timeout_us(text: str, *, is_struct: bool = False) -> int:
    """Microseconds of a timeout in milliseconds, or of a struct; FOREVER for none."""
    if text.startswith("{"):
        seconds, fraction = (int(n) for n in re.findall(r"(-?\d+)", text)[:2])
        return seconds * 1_000_000 + (fraction // 1000 if "nsec" in text else fraction)
    if text == "NULL":
        return FOREVER
    number = int(text, 0)
    if is_struct:
        raise NotUnderstood
    return FOREVER if number < 0 or number >= 1 << 31 else min(number * 1000, FOREVER - 1)
