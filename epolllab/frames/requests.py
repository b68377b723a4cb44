"""Recordings as pandas frames: events, wake-ups, requests, connections, journeys.

One job: interpret the records. Each function takes a recording (or frames made of
one) and returns a new frame whose columns and dtypes are the same for every input,
an empty one included. It knows no socket, opens no file and draws nothing.

Two rules hold throughout. Times stay integer nanoseconds of the monotonic clock, so
that rows of several processes can be subtracted without rounding; they become
milliseconds in a chart's axis, not here. And nothing loops over rows: records are
put in order of connection by one stable sort, and every count is a difference of two
running totals.

How the rows of a connection are shared out among its requests
--------------------------------------------------------------
A protocol answers a request in one ``handle`` record; the calls around it say
nothing about which request they were for. They are shared out by what they must
have been for:

1. The rows up to the send that takes the last byte of answer *k* belong to *k*, and
   so do those after it that bring nothing new: a modify, a shutdown, a recv that
   would block.
2. The next request begins with the next ready row, the next recv that returned
   bytes, or its own handle record, whichever comes first.
3. Where several requests came in one recv (pipelining), rows go to the first whose
   answer is not sent yet. If one send finishes several, what follows belongs to the
   last of them.
4. What comes before the first request (accept, register) counts for the first, and
   what comes after the last (shutdown, unregister, close) for the last. Totals over
   requests are therefore totals over connections.
"""

import errno
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from epolllab.events import Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from epolllab.frames.columns import Bools, Ints, Records

from epolllab.frames.columns import (
    CONTROL_OPS,
    WOULD_BLOCK,
    check_operations,
    error_column,
    is_op,
    take,
)

__all__ = ["connections", "requests"]


class _ByConn(NamedTuple):
    """The rows of all connections, in order of connection and then of record.

    ``row`` are indices into the recording; the other columns are in the new order.
    ``first`` has the place where each connection's rows begin, and ``stop`` the one
    after they end.
    """

    row: "Ints"
    conn: "Ints"
    op: "Ints"
    result: "Ints"
    wake: "Ints"
    first: "Ints"
    stop: "Ints"

    def where(self, op: Op) -> "Ints":
        """Places of an operation."""
        return np.flatnonzero(self.op == op)


def _by_conn(array: "NDArray[Any]") -> _ByConn:
    row = np.flatnonzero(array["conn"])
    row = row[np.argsort(array["conn"][row], kind="stable")]
    conn = array["conn"][row]
    changes = np.flatnonzero(conn[1:] != conn[:-1]) + 1
    first = np.concatenate(([0], changes))[: len(changes) + (len(row) > 0)]
    stop = np.concatenate((changes, [len(row)]))[: len(first)]
    op, result, wake = array["op"][row], array["result"][row], array["wake"][row]
    return _ByConn(row, conn, op, result, wake, first, stop)


class _Ranges(NamedTuple):
    """Which places of a :class:`_ByConn` belong to each request, in its order."""

    handle: "Ints"
    group: "Ints"
    ordinal: "Ints"
    answered: "Ints"
    is_answered: "Bools"
    start: "Ints"
    stop: "Ints"

    def total(self, values: "Ints | Bools") -> "Ints":
        """Sum of `values` over each request's rows."""
        running = np.concatenate(([0], np.cumsum(values, dtype="i8")))
        return running[self.stop] - running[self.start]


def _first_true(is_new: "Bools") -> "Ints":
    """For each element, the index of the last true one up to it."""
    return np.maximum.accumulate(np.where(is_new, np.arange(len(is_new)), 0))


def _share_out(by: _ByConn) -> _Ranges:
    """Share the rows out among the requests, by the rules at the top of this file."""
    handle = by.where(Op.HANDLE)
    group = np.searchsorted(by.first, handle, side="right") - 1
    is_first = np.append(True, group[1:] != group[:-1])[: len(handle)]
    leader = _first_true(is_first)
    answered, is_answered, finished = _answers(by, handle, leader, by.stop[group])
    begins = np.flatnonzero(
        (by.op == Op.READY) | (by.op == Op.HANDLE) | (by.op == Op.RECV) & (by.result > 0)
    )
    # begins has every handle row, so for any request but the last of all there is one.
    place = np.searchsorted(begins, finished, side="right")
    news = begins[np.minimum(place, len(begins) - 1)] if len(begins) else place
    start = by.first[group]
    pipelined = handle[1:] < finished[:-1]
    later = np.where(pipelined, finished[:-1] + 1, news[:-1])
    start[1:] = np.where(is_first[1:], start[1:], np.minimum(later, by.stop[group[1:]]))
    last = np.append(is_first[1:], True)[: len(handle)]
    stop = np.where(last, by.stop[group], np.append(start[1:], 0)[: len(handle)])
    ordinal = np.arange(len(handle)) - leader
    return _Ranges(handle, group, ordinal, answered, is_answered, start, stop)


def _answers(
    by: _ByConn, handle: "Ints", leader: "Ints", end: "Ints"
) -> tuple["Ints", "Bools", "Ints"]:
    """Find the send that takes each answer's last byte.

    Returns the place of that send, whether there is one, and the place at which the
    request is over: the same, or the end of the connection's rows if it is never
    answered, or the handle row if the answer is empty.

    Bytes sent before a connection's first kept handle row belong to answers whose
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


def _port(array: "NDArray[Any]", by: _ByConn) -> Any:
    """Find each connection's peer port; missing where its accept row is."""
    accept = np.flatnonzero((by.op == Op.ACCEPT) & (by.result >= 0))
    which = np.append(accept, len(by.op))[np.searchsorted(accept, by.first)]
    known = which < by.stop
    return take(array["mask"][by.row], which, known).astype("Int32")


def requests(records: "Records") -> pd.DataFrame:
    """One row per request that the protocol answered, in the order of answering.

    It is the server's side of a request: when the loop learned of it, what it cost
    in system calls, when the kernel had taken the last byte of the answer. How the
    calls are shared out among requests stands at the top of this file.

    Parameters
    ----------
    records : numpy.ndarray
        If the ring has lost rows of a connection, counts are of the rows left,
        ``request`` counts from the first request left, and what can no longer be
        known is missing.

    Returns
    -------
    pandas.DataFrame
        =============== ===== ================================================
        conn            int32 serial of the connection
        request         int32 which request of the connection, from 0
        peer_port       Int32 the client's port; missing without the accept row
        woken_ns        Int64 end of the wait in whose wake the last bytes came
        ready_ns        Int64 when the loop turned to the connection in that
                              wake: its ready row, or the recv itself where the
                              loop read without being told
        first_ready_ns  Int64 the request's first ready row; never after
                              ``ready_ns``
        read_ns         Int64 end of the recv that brought the last bytes
        handled_ns      int64 end of the protocol's work
        answered_ns     Int64 end of the send that took the answer's last byte;
                              missing if none did
        n_wakeups       int32 wake-ups in which something was done for it
        n_recv, n_send  int32 calls, those that would block or fail included
        n_would_block   int32 recv and send calls that would block
        n_epoll_ctl     int32 register, modify and unregister; with poll and
                              select these change a table and call nothing
        n_events        int32 ready rows of the connection; the listener's own
                              ready row is not among them
        n_bytes_in      int64 bytes received
        n_bytes         int64 bytes of the answer
        =============== ===== ================================================

    Notes
    -----
    When a connection's accept row was overwritten in the middle of pipelined
    answers, bytes of lost answers count towards the first one kept, whose
    ``answered_ns`` is then too early.
    """
    array = check_operations(records)
    by = _by_conn(array)
    shared = _share_out(by)
    op, result = by.op, by.result
    moves = (op == Op.RECV) | (op == Op.SEND)
    would_block = moves & ((result == -errno.EAGAIN) | (result == -errno.EWOULDBLOCK))
    columns: dict[str, Any] = {
        "conn": by.conn[shared.handle].astype("i4"),
        "request": shared.ordinal.astype("i4"),
        "peer_port": _port(array, by)[shared.group],
        **_instants(array, by, shared),
        "n_wakeups": _distinct_wakes(by, shared).astype("i4"),
        "n_recv": shared.total(op == Op.RECV).astype("i4"),
        "n_send": shared.total(op == Op.SEND).astype("i4"),
        "n_would_block": shared.total(would_block).astype("i4"),
        "n_epoll_ctl": shared.total(is_op(op, CONTROL_OPS)).astype("i4"),
        "n_events": shared.total(op == Op.READY).astype("i4"),
        "n_bytes_in": shared.total(np.where(op == Op.RECV, np.maximum(result, 0), 0)),
        "n_bytes": np.maximum(result[shared.handle], 0).astype("i8"),
    }
    in_time = np.argsort(by.row[shared.handle], kind="stable")
    return pd.DataFrame({name: column[in_time] for name, column in columns.items()})


def _instants(array: "NDArray[Any]", by: _ByConn, shared: _Ranges) -> dict[str, Any]:
    """When each request was learned of, read, handled and answered."""
    start_ns, end_ns = array["start_ns"], array["end_ns"]
    first = by.first[shared.group]
    reads = np.flatnonzero((by.op == Op.RECV) & (by.result > 0))
    read, is_read = _last_before(reads, shared.handle, first)
    read_row = _rows(by, read)
    waits = np.flatnonzero(array["op"] == Op.WAIT)
    wait, is_woken = _last_before(waits, read_row, 0)
    readies = by.where(Op.READY)
    turn, is_told = _last_before(readies, read, first)
    wakes = np.append(by.wake, 0)
    is_told &= wakes[turn] == wakes[read]
    ready = take(start_ns, np.where(is_told, _rows(by, turn), read_row), is_read)
    begin = np.append(readies, len(by.op))[np.searchsorted(readies, shared.start)]
    is_own = (begin < shared.stop) & ~(is_read & (begin > read))
    first_ready = ready.copy()
    first_ready[is_own] = take(start_ns, _rows(by, begin), is_own)[is_own]
    return {
        "woken_ns": take(end_ns, wait, is_read & is_woken),
        "ready_ns": ready,
        "first_ready_ns": first_ready,
        "read_ns": take(end_ns, read_row, is_read),
        "handled_ns": end_ns[by.row[shared.handle]],
        "answered_ns": take(end_ns, _rows(by, shared.answered), shared.is_answered),
    }


def _rows(by: _ByConn, places: "Ints") -> "Ints":
    """Turn places into indices into the recording; 0 for the place after the last."""
    return np.append(by.row, 0)[places]


def _last_before(places: "Ints", before: "Ints", limit: "Ints | int") -> tuple["Ints", "Bools"]:
    """Find the last of the sorted `places` under `before` and not under `limit`."""
    which = np.searchsorted(places, before) - 1
    found = np.append(places, 0)[which]
    known = (which >= 0) & (found >= limit)
    return np.where(known, found, 0), known


def _distinct_wakes(by: _ByConn, shared: _Ranges) -> "Ints":
    """Count the different wakes among each request's rows, which are in order."""
    if not len(by.wake):
        return np.zeros(len(shared.start), dtype="i8")
    changed = np.append(True, by.wake[1:] != by.wake[:-1])
    running = np.cumsum(changed)
    begin = np.minimum(shared.start, len(running) - 1)
    inside = running[np.maximum(shared.stop - 1, 0)] - running[begin]
    return np.where(shared.stop > shared.start, inside + 1, 0)


def connections(records: "Records") -> pd.DataFrame:
    """One row per connection, in the order of their serials.

    Parameters
    ----------
    records : numpy.ndarray
        Rows the ring has lost are not counted, and what stood in them is missing.

    Returns
    -------
    pandas.DataFrame
        ============ ======== ================================================
        conn         int32    serial, unique where ``fd`` is not
        fd           int32    descriptor number
        peer_port    Int32    the peer's port; missing without the accept row
        accepted_ns  Int64    end of accept
        closed_ns    Int64    end of close; missing while open
        n_events     int32    ready rows
        n_recv       int32    calls, those that would block or fail included
        n_send       int32    likewise
        n_bytes_in   int64    bytes received
        n_bytes_out  int64    bytes sent
        n_requests   int32    requests that the protocol answered
        error        category the last errno that was no would-block; missing if
                              there was none
        ============ ======== ================================================
    """
    array = check_operations(records)
    by = _by_conn(array)
    op, result, end_ns = by.op, by.result, array["end_ns"]

    def total(values: "Ints | Bools") -> "Ints":
        return np.add.reduceat(values.astype("i8"), by.first) if len(by.first) else by.first

    def last(places: "Ints") -> tuple["Ints", "Bools"]:
        return _last_before(places, by.stop, by.first)

    accept, is_accepted = last(np.flatnonzero((op == Op.ACCEPT) & (result >= 0)))
    close, is_closed = last(by.where(Op.CLOSE))
    failed, is_failed = last(np.flatnonzero((result < 0) & ~np.isin(-result, WOULD_BLOCK)))
    moved = np.maximum(result, 0)
    # An accept row's fd is the listener's; the new number is its result.
    fd = np.where(op == Op.ACCEPT, result, array["fd"][by.row])
    return pd.DataFrame(
        {
            "conn": by.conn[by.first].astype("i4"),
            "fd": fd[by.stop - 1].astype("i4"),
            "peer_port": _port(array, by),
            "accepted_ns": take(end_ns, _rows(by, accept), is_accepted),
            "closed_ns": take(end_ns, _rows(by, close), is_closed),
            "n_events": total(op == Op.READY).astype("i4"),
            "n_recv": total(op == Op.RECV).astype("i4"),
            "n_send": total(op == Op.SEND).astype("i4"),
            "n_bytes_in": total(np.where(op == Op.RECV, moved, 0)),
            "n_bytes_out": total(np.where(op == Op.SEND, moved, 0)),
            "n_requests": total(op == Op.HANDLE).astype("i4"),
            "error": error_column(np.append(result, 0)[failed], is_failed),
        }
    )
