"""``requests()``: one row per request, with the calls made for it and its instants.

How a connection's rows are assigned to its requests
----------------------------------------------------
The protocol handles a request in one ``handle`` record. The records of the system
calls around it do not say which request they served, so they are assigned by these
rules:

1. The rows up to the send that takes the last byte of response *k* belong to request
   *k*, and so do the rows after it that bring no new request: a modify, a shutdown, a
   recv that would block.
2. The next request begins with the next ready row, the next recv that returned
   bytes, or its own handle record, whichever comes first.
3. Where several requests came in one recv (pipelining), rows go to the first whose
   response is not yet sent. If one send finishes several, the rows after it belong to
   the last of them.
4. What comes before the first request (accept, register) counts for the first, and
   what comes after the last (shutdown, unregister, close) for the last. Totals over
   requests are therefore totals over connections.

Nothing loops over rows: one stable sort groups the records by connection, and every
count is a difference of two running totals.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from epolllab.checks import check_sequence, check_text
from epolllab.events import Op
from epolllab.frames.columns import (
    CONTROL_OPS,
    WOULD_BLOCK,
    Bools,
    Ints,
    Records,
    check_operations,
    codes,
    described,
    is_op,
    named_errors,
    nullable,
    take,
)
from epolllab.frames.completions import as_calls
from epolllab.frames.connections import ByConnection, by_connection, last_before
from epolllab.schema import REQUESTS

__all__ = ["requests"]

_STATUS, _TARGET_SHIFT = 0xFFFF, 16
_MOST_TARGETS = 1 << 16


class _Ranges(NamedTuple):
    """The places of a :class:`ByConnection` that belong to each request.

    A request's rows are those from ``start`` up to ``stop``. ``group`` is its connection,
    ``answered`` the send that took the response's last byte, where ``is_answered``.
    """

    handle: Ints
    group: Ints
    ordinal: Ints
    answered: Ints
    is_answered: Bools
    start: Ints
    stop: Ints

    def total(self, values: Ints | Bools) -> Ints:
        """Sum of `values` over each request's rows."""
        running = np.concatenate(([0], np.cumsum(values, dtype="i8")))
        return running[self.stop] - running[self.start]


def _assign_rows(by: ByConnection) -> _Ranges:
    """Assign the rows to the requests, by the rules at the top of this file."""
    handle = by.where(Op.HANDLE)
    group = np.searchsorted(by.first, handle, side="right") - 1
    is_first = np.append(True, group[1:] != group[:-1])[: len(handle)]
    # For each request, the first request of its connection.
    leader = np.maximum.accumulate(np.where(is_first, np.arange(len(handle)), 0))
    answered, is_answered, finished = _responses(by, handle, leader, by.stop[group])
    begins = np.flatnonzero(
        (by.op == Op.READY) | (by.op == Op.HANDLE) | (by.op == Op.RECV) & (by.result > 0)
    )
    # Every handle row is in begins, so each request except the very last has a successor.
    place = np.searchsorted(begins, finished, side="right")
    following = begins[np.minimum(place, len(begins) - 1)] if len(begins) else place
    start = by.first[group]
    pipelined = handle[1:] < finished[:-1]
    later = np.where(pipelined, finished[:-1] + 1, following[:-1])
    start[1:] = np.where(is_first[1:], start[1:], np.minimum(later, by.stop[group[1:]]))
    last = np.append(is_first[1:], True)[: len(handle)]
    stop = np.where(last, by.stop[group], np.append(start[1:], 0)[: len(handle)])
    ordinal = np.arange(len(handle)) - leader
    return _Ranges(handle, group, ordinal, answered, is_answered, start, stop)


def _responses(by: ByConnection, handle: Ints, leader: Ints, end: Ints) -> tuple[Ints, Bools, Ints]:
    """Find the send that takes each response's last byte.

    Returns the place of that send, whether there is one, and the place at which the
    request is finished: the same, or the end of the connection's rows if there is no
    such send, or the handle row if the response is empty.

    Bytes sent before a connection's first remaining handle row belong to responses whose
    handle row was overwritten, and are not counted.
    """
    sends = np.flatnonzero((by.op == Op.SEND) & (by.result > 0))
    sent = np.concatenate(([0], np.cumsum(by.result[sends], dtype="i8")))
    size = np.maximum(by.result[handle], 0).astype("i8")
    due = np.cumsum(size)
    due -= (due - size)[leader]
    due += sent[np.searchsorted(sends, handle[leader])]
    which = np.maximum(
        np.searchsorted(sent[1:], due, side="left"),
        np.searchsorted(sends, handle, side="right"),
    )
    place = np.append(sends, len(by.op))[which]
    is_answered = (size > 0) & (place < end)
    finished = np.where(size > 0, np.minimum(place, end), handle)
    return place, is_answered, np.maximum.accumulate(finished) if len(finished) else finished


@described(REQUESTS)
def requests(records: Records, targets: Sequence[str] = ()) -> pd.DataFrame:
    """One row per request, in the order of the responses.

    It is the server's side of a request: when the loop was woken for it, which system
    calls it took, and when the kernel had taken the last byte of the response. The top of
    this file describes which request each call is counted for.

    `records` is what :meth:`Recording.array` returns, and `targets` the recording's
    ``metadata["targets"]``, which has the names of the targets.

    Notes
    -----
    When a connection's accept row was overwritten in the middle of pipelined
    responses, bytes of lost responses count towards the first one kept, whose
    ``answered_ns`` is then too early.
    """
    targets = check_sequence("targets", targets, check_text, _MOST_TARGETS)
    if len(set(targets)) < len(targets):
        raise ValueError("targets must be different from each other")
    by = by_connection(as_calls(check_operations(records)))
    ranges = _assign_rows(by)
    op, result = by.op, by.result
    moves = (op == Op.RECV) | (op == Op.SEND)
    would_block = moves & np.isin(-result, WOULD_BLOCK)
    columns: dict[str, Any] = {
        "conn": by.conn[ranges.handle].astype("i4"),
        "request": ranges.ordinal.astype("i4"),
        "peer_port": by.peer_ports()[ranges.group],
        **_instants(by, ranges),
        "n_wakeups": _distinct_wakes(by, ranges).astype("i4"),
        "n_recv": ranges.total(op == Op.RECV).astype("i4"),
        "n_send": ranges.total(op == Op.SEND).astype("i4"),
        "n_would_block": ranges.total(would_block).astype("i4"),
        "n_epoll_ctl": ranges.total(is_op(op, CONTROL_OPS)).astype("i4"),
        "n_events": ranges.total(op == Op.READY).astype("i4"),
        "n_bytes_in": ranges.total(np.where(op == Op.RECV, np.maximum(result, 0), 0)),
        "n_bytes": np.maximum(result[ranges.handle], 0).astype("i8"),
    }
    columns["dur_ns"] = columns["answered_ns"] - columns["woken_ns"]
    columns |= _meaning(records["mask"][by.order[ranges.handle]], targets)
    in_time = np.argsort(by.order[ranges.handle], kind="stable")
    return pd.DataFrame({name: column[in_time] for name, column in columns.items()})


def _meaning(masks: Ints, targets: Sequence[str]) -> dict[str, Any]:
    """The columns ``status`` and ``target``."""
    status, number = masks & _STATUS, masks >> _TARGET_SHIFT
    found: dict[int, int] = {}
    code = codes(number, (number > 0) & (number < len(targets)), found, first=0, absent=-1)
    return {
        "status": nullable(status, status > 0, "i4"),
        "target": named_errors(code, found, targets.__getitem__),
    }


def _instants(by: ByConnection, ranges: _Ranges) -> dict[str, Any]:
    """The columns from ``woken_ns`` to ``answered_ns``."""
    records = by.records
    start_ns, end_ns = records["start_ns"], records["end_ns"]
    first = by.first[ranges.group]
    reads = np.flatnonzero((by.op == Op.RECV) & (by.result > 0))
    read, is_read = last_before(reads, ranges.handle, first)
    read_index = by.indices(read)
    waits = np.flatnonzero(records["op"] == Op.WAIT)
    wait, is_woken = _wait_of(records, waits, read_index)
    readies = by.where(Op.READY)
    turn, has_turn = last_before(readies, read, first)
    wakes = np.append(by.wake, 0)
    has_turn &= wakes[turn] == wakes[read]
    ready = take(start_ns, np.where(has_turn, by.indices(turn), read_index), is_read)
    begin = np.append(readies, len(by.op))[np.searchsorted(readies, ranges.start)]
    is_own = (begin < ranges.stop) & ~(is_read & (begin > read))
    first_ready = ready.copy()
    first_ready[is_own] = take(start_ns, by.indices(begin), is_own)[is_own]
    return {
        "woken_ns": take(end_ns, wait, is_read & is_woken),
        "ready_ns": ready,
        "first_ready_ns": first_ready,
        "read_ns": take(end_ns, read_index, is_read),
        "handled_ns": end_ns[by.order[ranges.handle]],
        "answered_ns": take(end_ns, by.indices(ranges.answered), ranges.is_answered),
    }


def _wait_of(records: Records, waits: Ints, rows: Ints) -> tuple[Ints, Bools]:
    """Find the wait in whose wake each row was written; waits of several threads interleave."""
    by_wake = waits[np.argsort(records["wake"][waits], kind="stable")]
    wake, serials = records["wake"][rows], records["wake"][by_wake]
    place = np.searchsorted(serials, wake)
    known = np.append(serials, 0)[place] == wake if len(serials) else np.zeros(len(rows), bool)
    return np.append(by_wake, 0)[place], known


def _distinct_wakes(by: ByConnection, ranges: _Ranges) -> Ints:
    """Number of different wakes among each request's rows, which are in order."""
    if not len(by.wake):
        return np.zeros(len(ranges.start), dtype="i8")
    changed = np.append(True, by.wake[1:] != by.wake[:-1])
    running = np.cumsum(changed)
    begin = np.minimum(ranges.start, len(running) - 1)
    inside = running[np.maximum(ranges.stop - 1, 0)] - running[begin]
    return np.where(ranges.stop > ranges.start, inside + 1, 0)
