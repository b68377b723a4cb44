"""Wasted wakeups in an array of records; :func:`diagnose` describes what is found here.

A level-triggered epoll reports a descriptor at every wait until its condition is gone. So
an event was wasted if nothing was done about it, the next wait did not sleep, and the
descriptor was reported by that wait again. Changing the interest mask is nothing done: it
does not remove a condition. Everything here works on whole columns: a million records take
about a second.
"""

import errno
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from epolllab.analysis import advice
from epolllab.events import (
    EPOLLERR,
    EPOLLET,
    EPOLLHUP,
    EPOLLIN,
    EPOLLNVAL,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
    FOREVER,
    Op,
)
from epolllab.frames.columns import WOULD_BLOCK, Bools, Ints, Records, is_op

__all__ = ["Waste", "find_waste"]

LEAST_SHARE = 1 / 3
"""Wasted share of a descriptor's events from which on they count without a long run."""

LEAST_LOST_SHARE = 1 / 5
"""Share of a listener's events that ended without a connection: lost races."""

TIMER_NS = 4_000_000
"""Longest interval between the wakeups of a timer that is reported."""

SLEPT_NS = (20_000, 200_000)
"""Bounds of the time from which on a wait counts as having slept."""

TRACED_SLEPT_NS = (200_000, 200_000)
"""The same under strace, whose stops add 5 to 80 µs: less on the CPU of the process."""

NO_ROOM = (errno.ENFILE, errno.EMFILE, errno.ENOBUFS, errno.ENOMEM)
READS, WRITES = (Op.RECV, Op.READ), (Op.SEND, Op.WRITE)
CONTROL = (Op.REGISTER, Op.MODIFY, Op.UNREGISTER)
ANY_BIT = np.uint32(0xFFFF_FFFF)


class Waste(NamedTuple):
    """Events or waits of one kind that did nothing."""

    kind: str
    at: Ints
    """Their places in the array."""
    of_events: int
    """Events, wasted or not, of the descriptors concerned; waits for the kinds of waits."""
    cost_ns: int
    """Time that the loop was awake for them."""


class _Waits(NamedTuple):
    """The waits in the order of the array; times in nanoseconds.

    One more item at the end of each column stands for a wait that is not in the array:
    index -1 finds it.
    """

    at: Ints
    wake: Ints
    start: Ints
    end: Ints
    timeout: Ints
    result: Ints
    by_thread: Ints  # the waits in the order of their threads
    following: Ints  # index of the thread's next wait
    slept: Bools
    awake: Ints  # from its end until the thread sleeps, or its next wait returns

    def of_rows(self, array: Records, at: Ints) -> Ints:
        """Index of the wait that each row belongs to."""
        order = np.argsort(self.wake, kind="stable")
        wanted = array["wake"][at]
        place = np.searchsorted(self.wake, wanted, sorter=order)
        found = order[np.minimum(place, len(order) - 1)]
        return np.where(self.wake[found] == wanted, found, -1)


def _read_waits(array: Records, slept_ns: tuple[int, int]) -> _Waits:
    at = np.flatnonzero(array["op"] == Op.WAIT)
    waits = np.append(array[at], np.zeros(1, array.dtype))
    start, end, timeout = waits["start_ns"], waits["end_ns"], waits["mask"]
    wake = waits["wake"].astype("i8")
    wake[-1] = -1
    by_thread = np.argsort(waits["thread"][:-1], kind="stable")
    same = np.diff(waits["thread"][by_thread]) == 0
    following = np.full(len(waits), -1)
    following[by_thread[:-1][same]] = by_thread[1:][same]
    duration = end - start
    quick = float(np.percentile(duration[:-1], 10)) if len(at) else 0.0
    blocked = (duration > np.clip(5 * quick, *slept_ns)) | (waits["result"] == 0)
    slept = blocked & (timeout != 0)
    awake = start[following] - end + np.where(slept[following], 0, duration[following])
    awake[following < 0] = 0
    return _Waits(
        at, wake, start, end, timeout, waits["result"], by_thread, following, slept, awake
    )


class _Events:
    """The ready rows by descriptor, and what was done about each before its next one.

    Flags are arrays with an item for each event; ``at`` is its place in the array.
    """

    def __init__(self, array: Records, waits: _Waits, names: Mapping[int, str], own: bool) -> None:
        rows = np.flatnonzero(array["op"] != Op.WAIT)
        rows = rows[np.argsort(array["fd"][rows], kind="stable")]
        self.rows = rows
        self._op, self._result = array["op"][rows], array["result"][rows]
        self._fd_of_row, self._mask = array["fd"][rows], array["mask"][rows]
        self.first = np.flatnonzero(self._op == Op.READY)
        self.at = rows[self.first]
        self.fd, self.mask = self._fd_of_row[self.first], self._mask[self.first]
        self._segment = np.cumsum(self._op == Op.READY) - 1
        self._inside = self._segment >= 0
        if len(self.first):
            self._inside &= self.fd[self._segment] == self._fd_of_row
        self._note_calls(array, names)
        self._note_interest(array, waits)
        self._note_repetition(array, waits)
        self.is_own = self._looks_like_wakeup(array, names, own)

    def __len__(self) -> int:
        return len(self.first)

    def _any(self, flags: Bools) -> Bools:
        """Whether any row of an event has the flag."""
        found = np.zeros(len(self), bool)
        found[self._segment[flags & self._inside]] = True
        return found

    def _note_calls(self, array: Records, names: Mapping[int, str]) -> None:
        op, result = self._op, self._result
        done = result >= 0
        reads = is_op(op, READS)
        self._life = self._lives()
        self.empty_read = reads & (result == 0) & ~self._is_datagram(reads, names)
        moved = is_op(op, READS + WRITES) & (result > 0)
        datagram = reads & (result == 0) & ~self.empty_read
        ended = is_op(op, (Op.CLOSE, Op.CONNECT, Op.ACCEPT)) & done
        progress = moved | datagram | ended | (op == Op.HANDLE) | self._first_shutdown()
        self.progress = self._any(progress)
        blocked = np.isin(-result, WOULD_BLOCK)
        self.reads = self._any(reads)
        self.reads_nothing = self._any(self.empty_read)
        self.reads_block = self.reads & ~self._any(reads & ~blocked)
        accepts = op == Op.ACCEPT
        self.no_room = self._any(accepts & np.isin(-result, NO_ROOM))
        is_listener = np.isin(self.fd, np.unique(self._fd_of_row[accepts]))
        is_listener |= (self.mask == EPOLLIN) & (array["conn"][self.at] == 0)
        asked = self._any((op == Op.GETSOCKOPT) & (result == 0)) & is_listener & ~self.reads
        self.lost = ~self.progress & (self._any(accepts & blocked) | asked)

    def _lives(self) -> Ints:
        """Number of the life of each row's descriptor: until its close."""
        op = self._op
        closed = (op == Op.CLOSE) & (self._result == 0)
        new = np.concatenate(([False], closed[:-1])) if len(op) else closed
        control = np.flatnonzero(is_op(op, CONTROL) & (self._result == 0))
        added = control[1:][(op[control][1:] == Op.REGISTER) & (op[control][:-1] != Op.UNREGISTER)]
        new[added] = True
        new[1:] |= np.diff(self._fd_of_row) != 0
        return np.cumsum(new)

    def _first_shutdown(self) -> Bools:
        """Shutdowns; a second one of the same connection changes nothing."""
        at = np.flatnonzero((self._op == Op.SHUTDOWN) & (self._result == 0))
        found = np.zeros(len(self._op), bool)
        found[at] = np.diff(self._life[at], prepend=-1) != 0
        return found

    def _is_datagram(self, reads: Bools, names: Mapping[int, str]) -> Bools:
        """Rows of descriptors whose empty reads are empty datagrams, not the end of a file."""
        at = np.flatnonzero(reads)
        empty = self._result[at] == 0
        # After end of file a read never returns anything else.
        goes_on = (self._result[at] > 0) | np.isin(-self._result[at], WOULD_BLOCK)
        same = np.diff(self._life[at]) == 0
        proven = self._life[at[:-1][empty[:-1] & goes_on[1:] & same]]
        # Empty sends on other descriptors of the program explain the empty reads on this one.
        fds, index = np.unique(self._fd_of_row, return_inverse=True)
        sends = is_op(self._op, WRITES) & (self._result == 0)
        n_sent = np.count_nonzero(sends) - np.bincount(index[sends], minlength=len(fds))
        n_empty = np.bincount(index[at[empty]], minlength=len(fds))
        sent_here = fds[(n_empty > 0) & (2 * n_sent >= n_empty)]
        named = [fd for fd, name in names.items() if _is_datagram_name(name)]
        return np.isin(self._life, proven) | np.isin(self._fd_of_row, [*sent_here, *named])

    def _latest(self, wanted: Bools, at: Ints) -> tuple[Ints, Bools]:
        """Place of the last wanted row up to `at` on the same descriptor, and whether it exists."""
        place = np.maximum.accumulate(np.where(wanted, np.arange(len(wanted)), -1))[at]
        return place, (place >= 0) & (self._fd_of_row[place] == self._fd_of_row[at])

    def _note_interest(self, array: Records, waits: _Waits) -> None:
        op, succeeded = self._op, self._result == 0
        place, found = self._latest(is_op(op, (Op.REGISTER, Op.CLOSE)) & succeeded, self.first)
        self.closed = found & (op[place] == Op.CLOSE)
        control = is_op(op, CONTROL) & succeeded
        place, found = self._latest(control, self.first)
        interest = np.where(found & (op[place] != Op.UNREGISTER), self._mask[place], 0)
        self.is_level = (interest != 0) & (interest & (EPOLLET | EPOLLONESHOT) == 0)
        self.is_edge = interest & EPOLLET != 0
        self.is_oneshot = interest & EPOLLONESHOT != 0
        ends = np.append(self.first[1:], len(op))[: len(self)] - 1
        inside = self._segment[ends] == np.arange(len(self))
        place, found = self._latest(control, ends)
        self.controlled = found & inside & (place > self.first)
        kept = np.where(op[place] == Op.UNREGISTER, 0, self._mask[place])
        asked_for = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP
        self.dropped = self.controlled & (self.mask & kept & asked_for != self.mask & asked_for)
        self._controlled_ns = array["start_ns"][self.rows[place]]

    def _note_repetition(self, array: Records, waits: _Waits) -> None:
        """Whether the event kept the next wait from sleeping, as a condition that lasts does."""
        self.wait = waits.of_rows(array, self.at)
        following = waits.following[self.wait]
        has_next = following >= 0
        self.slept = waits.slept[following]
        # A full batch leaves descriptors for the next: epoll reports all of them in turn.
        largest = int(np.max(waits.result, initial=1))
        n_threads = len(np.unique(array["thread"][waits.at]))
        turns = max(n_threads, -(-len(np.unique(self.fd)) // largest))
        distance = np.diff(self.wait, append=-1)
        same = np.diff(self.fd, append=-1) == 0
        repeated = same & (distance >= 0) & (distance <= turns)
        # By another thread or later: then the descriptor is served elsewhere.
        elsewhere = self.controlled & (self._controlled_ns > waits.start[following])
        unarmed = self.is_oneshot & ~self.controlled
        lasted = (repeated & ~elsewhere & ~unarmed) | ~has_next
        self.wasted = ~self.progress & ~self.lost & lasted & ~self.slept
        n_ready = np.bincount(self.wait[self.wait >= 0], minlength=len(waits.wake))
        self.cost = (waits.awake / np.maximum(n_ready, 1))[self.wait]

    def _looks_like_wakeup(self, array: Records, names: Mapping[int, str], own: bool) -> Bools:
        """Events of descriptors that wake the loop: known as its own, or written to."""
        fds, op = self._fd_of_row, self._op
        talks = is_op(op, (Op.RECV, Op.SEND, Op.ACCEPT, Op.CONNECT, Op.GETSOCKOPT))
        loops = ((op == Op.REGISTER) | own) & ~np.isin(fds, fds[array["conn"][self.rows] != 0])
        found = np.setdiff1d(fds[loops | (op == Op.WRITE)], fds[talks])
        known = np.isin(self.fd, list(names))
        kinds = {fd: name.removeprefix("anon_inode:[") for fd, name in names.items()}
        named = [fd for fd, kind in kinds.items() if kind.startswith(("eventfd", "pipe"))]
        return np.where(known, np.isin(self.fd, named), np.isin(self.fd, found))


def _is_datagram_name(name: str) -> bool:
    return name.lower().startswith("udp") or "dgram" in name.lower()


def find_waste(
    array: Records, least: int, names: Mapping[int, str], *, own: bool, traced: bool
) -> Iterator[Waste]:
    """Yield each kind of waste once.

    Parameters
    ----------
    array : numpy.ndarray
        A recording's records.
    least : int
        Minimum number of wasted events, in a row or as a share.
    names : mapping of int to str
        What descriptors are, where it is known.
    own : bool
        Whether a package's own server wrote the records: then connections have serials.
    traced : bool
        Whether strace wrote them, which makes each wait longer.
    """
    waits = _read_waits(array, TRACED_SLEPT_NS if traced else SLEPT_NS)
    events = _Events(array, waits, names, own)
    kinds = np.full(len(events), "", dtype=object)
    _classify_runs(events, least, kinds)
    _classify_shares(events, least, kinds)
    _classify_lost(events, least, kinds)
    ends = list(_empty_reads(events, array, waits, least))
    if ends:
        kinds[kinds == advice.END_OF_FILE] = ""
        yield Waste(advice.END_OF_FILE, *_joined(ends))
    for kind in dict.fromkeys(kinds[kinds != ""].tolist()):
        chosen = kinds == kind
        of_events = int(np.isin(events.fd, np.unique(events.fd[chosen])).sum())
        at, cost = events.at[chosen], events.cost[chosen]
        yield Waste(kind, np.sort(at), of_events, int(cost.sum()))
    yield from _zero_timeouts(waits, least)
    yield from _short_timers(events, array, waits, least)


def _classify_runs(events: _Events, least: int, kinds: Any) -> None:
    """Name the runs of events of one descriptor without progress."""
    idle = np.flatnonzero(~events.progress & ~events.lost)
    if not len(idle):
        return
    starts = np.flatnonzero(
        (np.diff(idle, prepend=-2) != 1) | (np.diff(events.fd[idle], prepend=-2) != 0)
    )
    lengths = np.diff(starts, append=len(idle))
    wasted = events.wasted[idle]
    counts = np.add.reduceat(wasted.astype("i8"), starts)
    found = (counts >= least) & (2 * counts >= lengths)

    def any_of(flags: Bools) -> Bools:
        joined: Bools = np.logical_or.reduceat(flags[idle], starts)
        return joined

    mask = np.bitwise_and.reduceat(np.where(wasted, events.mask[idle], ANY_BIT), starts)
    names = _names(events, mask, any_of)
    of_run = np.repeat(np.arange(len(starts)), lengths)
    chosen = wasted & found[of_run]
    kinds[idle[chosen]] = names[of_run[chosen]]


def _names(events: _Events, mask: Ints, any_of: Any) -> Any:
    """The kind of each event, or of each run, from the bits common to it and its calls."""
    blocks = any_of(events.reads_block) & ~any_of(events.reads & ~events.reads_block)
    is_in = mask & EPOLLIN != 0
    is_hup = mask & EPOLLHUP != 0
    cases = [
        (any_of(events.no_room), advice.NO_DESCRIPTORS),
        (mask & EPOLLNVAL != 0, advice.CLOSED),
        (any_of(events.closed), advice.GHOST),
        (any_of(events.reads_nothing), advice.END_OF_FILE),
        (is_in & blocks, advice.GHOST),
        ((mask & EPOLLERR != 0) & ~is_hup, advice.ERROR),
        (is_hup, advice.HANG_UP),
        (mask & EPOLLRDHUP != 0, advice.HALF_CLOSED),
        (is_in & any_of(events.is_own), advice.WAKE_UP),
        (mask & (EPOLLIN | EPOLLPRI) != 0, advice.UNREAD),
        (mask & EPOLLOUT != 0, advice.WRITABLE),
    ]
    conditions, names = zip(*cases, strict=True)
    choices = [np.array(name, dtype=object) for name in names]
    return np.select(conditions, choices, default=advice.NO_PROGRESS)


def _classify_shares(events: _Events, least: int, kinds: Any) -> None:
    """Name wasted events that are a large share of their descriptors' events.

    With edges some events are void by nature, and so is a read that finds nothing where
    the trigger is not known.
    """
    names = _names(events, events.mask, lambda flags: flags)
    doubtful = (names == advice.GHOST) & ~events.is_level
    candidates = events.wasted & ~events.dropped & ~events.is_edge & ~doubtful & (kinds == "")
    _, index, totals = np.unique(events.fd, return_inverse=True, return_counts=True)
    for kind in dict.fromkeys(names[candidates].tolist()):
        chosen = candidates & (names == kind)
        share = np.bincount(index[chosen], minlength=len(totals)) / np.maximum(totals, 1)
        chosen &= share[index] >= LEAST_SHARE
        if np.count_nonzero(chosen) >= least:
            kinds[chosen] = kind


def _classify_lost(events: _Events, least: int, kinds: Any) -> None:
    """Name the events of a listener whose connection another worker accepted."""
    of_listener = np.isin(events.fd, np.unique(events.fd[events.lost]))
    n_lost = np.count_nonzero(events.lost)
    if n_lost >= least and n_lost >= LEAST_LOST_SHARE * np.count_nonzero(of_listener):
        kinds[events.lost] = advice.LOST_ACCEPTS


def _empty_reads(
    events: _Events, array: Records, waits: _Waits, least: int
) -> Iterator[tuple[Ints, int, int]]:
    """Find consecutive reads at end of file, also within one event: (places, count, cost)."""
    reads = np.flatnonzero(is_op(events._op, READS))
    empty = events.empty_read[reads]
    changes = np.diff(empty, prepend=False) | (np.diff(events._life[reads], prepend=-1) != 0)
    starts = np.flatnonzero(changes)
    lengths = np.diff(starts, append=len(reads))
    long = empty[starts] & (lengths >= least)
    sleeps = np.zeros((2, len(array)), dtype="i8")
    sleeps[:, waits.at] = waits.slept[:-1], (waits.slept * (waits.end - waits.start))[:-1]
    n_slept, asleep_ns = np.cumsum(sleeps, axis=1)
    for start, length in zip(starts[long].tolist(), lengths[long].tolist(), strict=True):
        at = events.rows[reads[start : start + length]]
        first, last = at[0], at[-1]
        if 2 * (n_slept[last] - n_slept[first]) <= length:
            span = array["end_ns"][last] - array["start_ns"][first]
            yield at, length, int(span - asleep_ns[last] + asleep_ns[first])


def _joined(parts: list[tuple[Ints, int, int]]) -> tuple[Ints, int, int]:
    places, counts, costs = zip(*parts, strict=True)
    return np.sort(np.concatenate(places)), sum(counts), sum(costs)


def _zero_timeouts(waits: _Waits, least: int) -> Iterator[Waste]:
    """Find waits with a timeout of 0 that returned nothing, in a row or as nine in ten."""
    order = waits.by_thread
    empty = (waits.timeout[order] == 0) & (waits.result[order] == 0)
    if not empty.any():
        return
    starts = np.flatnonzero(np.diff(empty, prepend=~empty[0]))
    lengths = np.diff(starts, append=len(empty))
    chosen = empty & np.repeat(lengths >= least, lengths)
    if empty.sum() >= least and empty.mean() >= 0.9:
        chosen = empty
    if chosen.any():
        which = order[chosen]
        cost = (waits.end - waits.start)[which] + waits.awake[which]
        yield Waste(advice.NO_SLEEP, np.sort(waits.at[which]), len(empty), int(cost.sum()))


def _short_timers(events: _Events, array: Records, waits: _Waits, least: int) -> Iterator[Waste]:
    """Find waits that time out, and timerfds that are read, hundreds of times a second."""
    order = waits.by_thread
    timed_out = (waits.timeout != 0) & (waits.timeout != FOREVER) & (waits.result == 0)
    which = order[timed_out[order]]
    gaps = np.diff(waits.end[which])
    which = which[1:][(gaps > 0) & (gaps <= TIMER_NS)]
    if len(which) + 1 >= least:
        yield Waste(advice.TIMER, waits.at[which], len(waits.at), int(waits.awake[which].sum()))
    expired = events._any((events._op == Op.READ) & (events._result == 8))
    for fd in np.unique(events.fd[expired]).tolist():
        chosen = expired & (events.fd == fd)
        periods = np.diff(array["start_ns"][events.at[chosen]])
        if len(periods) + 1 < least:
            continue
        low, middle, high = np.percentile(periods, (25, 50, 75))
        if middle <= TIMER_NS and high - low < middle / 4 and events.slept[chosen].mean() > 0.5:
            cost = int(events.cost[chosen].sum())
            yield Waste(advice.TIMER, events.at[chosen], int(chosen.sum()), cost)
