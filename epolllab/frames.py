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
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from epolllab.events import FOREVER, NO_POSITION, Op, error_name, mask_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from epolllab.recording import Recording

    Ints = NDArray[np.integer[Any]]
    Bools = NDArray[np.bool_]

__all__ = [
    "CLIENT_REQUESTS",
    "connections",
    "events",
    "interest_list",
    "journeys",
    "requests",
    "wakeups",
]

OP_DTYPE = pd.CategoricalDtype([op.label for op in Op])
"""The dtype of ``op``: every operation, in the order of :class:`epolllab.events.Op`."""

CLIENT_REQUESTS = {
    "conn": "int64",
    "process": "int32",
    "request": "int32",
    "local_port": "int32",
    "intended_ns": "int64",
    "connected_ns": "Int64",
    "sent_ns": "Int64",
    "first_byte_ns": "Int64",
    "done_ns": "Int64",
    "status": "Int32",
    "n_bytes": "int64",
    "error": "category",
}
"""Columns and dtypes of the frame that a client run gives, and :func:`journeys` takes."""

_CHUNK = 1 << 15  # rows: 1.3 MB of records, which stays in a core's cache
_CONTROL = (Op.REGISTER, Op.MODIFY, Op.UNREGISTER)
_WITH_MASK = (Op.READY, Op.REGISTER, Op.MODIFY)
_WITH_BYTES = (Op.RECV, Op.SEND, Op.HANDLE, Op.READ, Op.WRITE)
_NO_CALL = (Op.WAIT, Op.READY, Op.HANDLE)
_NOT_YET = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINPROGRESS)


def events(recording: "Recording") -> pd.DataFrame:
    """One row per record, in the order in which they were written.

    Use it to see what the loop did, call by call; the other frames are sums of it.

    Parameters
    ----------
    recording : Recording
        What a server's ``recording()`` or :meth:`Recording.load` returned.

    Returns
    -------
    pandas.DataFrame
        ========== ======== ==================================================
        t_ns       int64    monotonic clock when the call began
        dur_ns     int64    how long it took; 0 for ready rows
        wake       int64    serial of the wait it belongs to; 0 before the first
        position   int32    place in the batch the wait returned; -1 outside one
        conn       int32    serial of the connection; 0 for the loop's own
        fd         int32    descriptor number
        op         category what was done; the categories are all operations
        mask       uint32   ready: what the kernel returned; register, modify:
                            what was asked for; 0 elsewhere
        mask_names category the mask in the kernel's names; "" where it has none
        n_bytes    int32    bytes that recv, send, read, write moved, or that the
                            answer of a handle row has; 0 elsewhere and on error
        error      category errno's name; missing where the call succeeded
        ========== ======== ==================================================

    Raises
    ------
    ValueError
        A record has an operation that this version does not know.

    Notes
    -----
    The columns are filled a piece at a time, so that beside the recording and the
    frame almost no memory is needed: about 47 bytes a row for the frame.
    """
    array = _records(recording)
    n = len(array)
    columns: dict[str, Any] = {
        name: np.empty(n, dtype=dtype)
        for name, dtype in (
            ("t_ns", "i8"),
            ("dur_ns", "i8"),
            ("wake", "i8"),
            ("position", "i4"),
            ("conn", "i4"),
            ("fd", "i4"),
            ("op", "i1"),
            ("mask", "u4"),
            ("mask_names", "i4"),
            ("n_bytes", "i4"),
            ("error", "i2"),
        )
    }
    masks: dict[int, int] = {}
    errors: dict[int, int] = {}
    for start in range(0, n, _CHUNK):
        piece = slice(start, start + _CHUNK)
        _fill(array[piece], {name: c[piece] for name, c in columns.items()}, masks, errors)
    columns["op"] = pd.Categorical.from_codes(columns["op"], dtype=OP_DTYPE, validate=False)
    # Code 0 is "" although most rows of a small recording have a mask.
    columns["mask_names"] = pd.Categorical.from_codes(
        columns["mask_names"], pd.Index(["", *map(mask_names, masks)]), validate=False
    )
    columns["error"] = _named_errors(columns["error"], errors)
    return pd.DataFrame(columns, copy=False)


def _records(recording: "Recording") -> "NDArray[Any]":
    """Give the records, after a check that all operations are known."""
    array = recording.array()
    most = int(array["op"].max(initial=0))
    if most >= len(Op):
        raise ValueError(
            f"the recording has operation {most}, and this epolllab knows 0 to "
            f"{len(Op) - 1}; upgrade epolllab to read it"
        )
    return array


def _fill(
    rows: "NDArray[Any]",
    out: dict[str, Any],
    masks: dict[int, int],
    errors: dict[int, int],
) -> None:
    """Decode one piece of the records into views of the columns."""
    op = rows["op"]
    out["t_ns"][:] = rows["start_ns"]
    np.subtract(rows["end_ns"], rows["start_ns"], out=out["dur_ns"])
    for name in ("wake", "conn", "fd", "op"):
        out[name][:] = rows[name]
    out["position"][:] = rows["position"]
    out["position"][rows["position"] == NO_POSITION] = -1
    result = np.ascontiguousarray(rows["result"])
    np.multiply(np.maximum(result, 0), _is(op, _WITH_BYTES), out=out["n_bytes"])
    out["error"][:] = _codes(-result, result < 0, errors, first=0, absent=-1)
    with_mask = _is(op, _WITH_MASK)
    np.multiply(rows["mask"], with_mask, out=out["mask"])
    out["mask_names"][:] = _codes(out["mask"], with_mask, masks, first=1, absent=0)


def _codes(
    values: "Ints", chosen: "Bools", known: dict[int, int], *, first: int, absent: int
) -> Any:
    """Category codes of the chosen values, numbered as they turn up in `known`."""
    codes = np.full(len(values), absent, dtype="i4")
    if chosen.any():
        which, uniques = pd.factorize(values[chosen])
        of_unique = [known.setdefault(int(u), len(known) + first) for u in uniques]
        codes[chosen] = np.array(of_unique, dtype="i4")[which]
    return codes


def _is(op: "Ints", wanted: Iterable[Op]) -> "Bools":
    """Where the operation is one of `wanted`, by a table of 16 entries."""
    table = np.zeros(1 << 8, dtype=bool)
    table[list(wanted)] = True
    return table[op]


def _nullable(values: "Ints", known: "Bools", dtype: str = "i8") -> Any:
    """Make an integer column with missing values where not `known`."""
    return pd.arrays.IntegerArray(np.where(known, values, 0).astype(dtype), ~known)


def _at(values: "NDArray[Any]", index: "Ints", known: "Bools") -> Any:
    """``values[index]`` where `known`, missing elsewhere; `index` is free there."""
    if not len(values):
        return _nullable(np.zeros(len(index), dtype="i8"), np.zeros(len(index), dtype=bool))
    return _nullable(values[np.where(known, index, 0)], known)


def _errors(results: "Ints", failed: "Bools") -> pd.Categorical:
    """Names of errnos as a category column, missing where nothing failed."""
    known: dict[int, int] = {}
    codes = _codes(-results, failed, known, first=0, absent=-1)
    return _named_errors(codes, known)


def _named_errors(codes: "Ints", known: Iterable[int]) -> pd.Categorical:
    # The index is typed, as an empty list of names would be one of objects.
    names = pd.Index(list(map(error_name, known)), dtype="str")
    return pd.Categorical.from_codes(codes, names, validate=False)


def wakeups(recording: "Recording") -> pd.DataFrame:
    """One row per wait: how long the loop slept, and what it then did.

    Parameters
    ----------
    recording : Recording
        Rows before its first wait, which a full ring can leave behind, are not in.

    Returns
    -------
    pandas.DataFrame
        ========== ======= ===================================================
        wake       int64   serial of the wait
        t_ns       int64   when the wait began
        waited_ns  int64   how long it blocked
        timeout_ms float64 the timeout asked for; NaN for none
        n_returned int32   descriptors returned; 0 on timeout and on error
        n_calls    int32   system calls made before the next wait
        handled_ns int64   from the wait's end to the end of the last record of
                           the wake; 0 if there is none
        gap_ns     Int64   from there to the next wait's start: time that no
                           record accounts for; missing for the last
        error      category errno's name; missing where the wait succeeded
        ========== ======= ===================================================
    """
    array = _records(recording)
    n = len(array)
    op = array["op"]
    at = np.flatnonzero(op == Op.WAIT)
    waits = array[at]
    following = np.append(at[1:], n)[: len(at)]
    calls = np.cumsum(~_is(op, _NO_CALL))
    last = array["end_ns"][following - 1]
    start, end, result = waits["start_ns"], waits["end_ns"], waits["result"]
    next_start = np.append(start[1:], 0)[: len(at)]
    is_last = np.arange(len(at)) == len(at) - 1
    timeout_ms = np.where(waits["mask"] == FOREVER, np.nan, waits["mask"] / 1000.0)
    return pd.DataFrame(
        {
            "wake": waits["wake"].astype("i8"),
            "t_ns": start.astype("i8"),
            "waited_ns": end - start,
            "timeout_ms": timeout_ms,
            "n_returned": np.maximum(result, 0).astype("i4"),
            "n_calls": (calls[following - 1] - calls[at]).astype("i4"),
            "handled_ns": last - end,
            "gap_ns": _nullable(next_start - last, ~is_last),
            "error": _errors(result, result < 0),
        }
    )


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
    return _at(array["mask"][by.row], which, known).astype("Int32")


def requests(recording: "Recording") -> pd.DataFrame:
    """One row per request that the protocol answered, in the order of answering.

    It is the server's side of a request: when the loop learned of it, what it cost
    in system calls, when the kernel had taken the last byte of the answer. How the
    calls are shared out among requests stands at the top of this file.

    Parameters
    ----------
    recording : Recording
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
    array = _records(recording)
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
        "n_epoll_ctl": shared.total(_is(op, _CONTROL)).astype("i4"),
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
    ready = _at(start_ns, np.where(is_told, _rows(by, turn), read_row), is_read)
    begin = np.append(readies, len(by.op))[np.searchsorted(readies, shared.start)]
    is_own = (begin < shared.stop) & ~(is_read & (begin > read))
    first_ready = ready.copy()
    first_ready[is_own] = _at(start_ns, _rows(by, begin), is_own)[is_own]
    return {
        "woken_ns": _at(end_ns, wait, is_read & is_woken),
        "ready_ns": ready,
        "first_ready_ns": first_ready,
        "read_ns": _at(end_ns, read_row, is_read),
        "handled_ns": end_ns[by.row[shared.handle]],
        "answered_ns": _at(end_ns, _rows(by, shared.answered), shared.is_answered),
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


def connections(recording: "Recording") -> pd.DataFrame:
    """One row per connection, in the order of their serials.

    Parameters
    ----------
    recording : Recording
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
    array = _records(recording)
    by = _by_conn(array)
    op, result, end_ns = by.op, by.result, array["end_ns"]

    def total(values: "Ints | Bools") -> "Ints":
        return np.add.reduceat(values.astype("i8"), by.first) if len(by.first) else by.first

    def last(places: "Ints") -> tuple["Ints", "Bools"]:
        return _last_before(places, by.stop, by.first)

    accept, is_accepted = last(np.flatnonzero((op == Op.ACCEPT) & (result >= 0)))
    close, is_closed = last(by.where(Op.CLOSE))
    failed, is_failed = last(np.flatnonzero((result < 0) & ~np.isin(-result, _NOT_YET)))
    moved = np.maximum(result, 0)
    # An accept row's fd is the listener's; the new number is its result.
    fd = np.where(op == Op.ACCEPT, result, array["fd"][by.row])
    return pd.DataFrame(
        {
            "conn": by.conn[by.first].astype("i4"),
            "fd": fd[by.stop - 1].astype("i4"),
            "peer_port": _port(array, by),
            "accepted_ns": _at(end_ns, _rows(by, accept), is_accepted),
            "closed_ns": _at(end_ns, _rows(by, close), is_closed),
            "n_events": total(op == Op.READY).astype("i4"),
            "n_recv": total(op == Op.RECV).astype("i4"),
            "n_send": total(op == Op.SEND).astype("i4"),
            "n_bytes_in": total(np.where(op == Op.RECV, moved, 0)),
            "n_bytes_out": total(np.where(op == Op.SEND, moved, 0)),
            "n_requests": total(op == Op.HANDLE).astype("i4"),
            "error": _errors(np.append(result, 0)[failed], is_failed),
        }
    )


_SPANS = (
    ("waiting", "intended_ns", "sent_ns"),
    ("wake", "sent_ns", "woken_ns"),
    ("queue", "woken_ns", "ready_ns"),
    ("read", "ready_ns", "read_ns"),
    ("handle", "read_ns", "handled_ns"),
    ("send", "handled_ns", "answered_ns"),
    ("deliver", "answered_ns", "first_byte_ns"),
    ("receive", "first_byte_ns", "done_ns"),
    ("total", "intended_ns", "done_ns"),
)
_INSTANTS = tuple(dict.fromkeys(name for span in _SPANS for name in span[1:]))


def journeys(
    server: "Recording | pd.DataFrame",
    clients: pd.DataFrame,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """One row per request that both sides know, on one time axis.

    Every process of a machine reads the same monotonic clock, so the client's
    instants and the server's can be subtracted.

    Parameters
    ----------
    server : Recording or pandas.DataFrame
        The server's recording, or the frame :func:`requests` made of it.
    clients : pandas.DataFrame
        A client run's frame, with the columns of :data:`CLIENT_REQUESTS`.
    metadata : mapping, optional
        The client run's circumstances. If these and the recording's both have a
        ``boot_id``, the two must agree.

    Returns
    -------
    pandas.DataFrame
        ``conn`` (the server's serial) and ``request`` (int32), ``local_port``
        (int32), then instants and spans in nanoseconds (Int64). Instants:
        ``intended_ns, sent_ns, woken_ns, ready_ns, read_ns, handled_ns,
        answered_ns, first_byte_ns, done_ns``. Spans:

        ======= ============================================================
        waiting intended to sent: the client was late or had none free
        wake    sent to woken: the kernel's path and the server's wake-up;
                negative if the loop was awake already
        queue   woken to ready: others of the same batch came first
        read    ready to read
        handle  read to handled
        send    handled to answered
        deliver answered to the client's first byte. It is signed: negative
                when the client could see bytes before the server's last send
                returned, which is usual for large answers
        receive the first byte to the last
        total   intended to done; the sum of all the others
        ======= ============================================================

        In order of ``intended_ns``. Requests that one side does not know, or whose
        connection's accept row was overwritten, are not in.

    Raises
    ------
    ValueError
        The two come from different boots, whose clocks have nothing in common; or
        `clients` lacks a column.

    Notes
    -----
    A client's port names its connection until it is closed, and may be used again
    later. A server's connection is therefore joined to the last client connection
    that was established on its port before its first request was handled; requests
    then join by their ordinal. A pair whose instants are out of order (handled
    before sent, or after done) is of two different runs and is not in.
    """
    clients = _checked(clients)
    if not isinstance(server, pd.DataFrame):
        _require_same_boot(server.metadata, metadata or {})
        server = requests(server)
    served = server[server["peer_port"].notna()].astype({"peer_port": "int32"})
    served = served.merge(_matched(served, clients), on="conn")
    joined = served.merge(
        clients.rename(columns={"conn": "client_conn"}), on=["client_conn", "request"]
    )
    plausible = (joined["sent_ns"] <= joined["handled_ns"]) & ~(
        joined["done_ns"] < joined["handled_ns"]
    ).fillna(False)
    joined = joined[plausible.fillna(False)].astype(dict.fromkeys(_INSTANTS, "Int64"))
    joined = joined.sort_values(["intended_ns", "conn", "request"], ignore_index=True)
    frame = joined[["conn", "request", "local_port", *_INSTANTS]].copy()
    for name, begin, end in _SPANS:
        frame[name] = frame[end] - frame[begin]
    return frame


def _matched(served: pd.DataFrame, clients: pd.DataFrame) -> pd.DataFrame:
    """Pairs (conn, client_conn): who was at the other end of each connection."""
    ends = served.groupby("conn", sort=False, as_index=False).first()
    ends = ends[["conn", "peer_port", "handled_ns"]].sort_values("handled_ns")
    known = clients[clients["connected_ns"].notna()].astype({"connected_ns": "int64"})
    known = known.drop_duplicates("conn").sort_values("connected_ns")
    known = known[["conn", "local_port", "connected_ns"]].rename(columns={"conn": "client_conn"})
    # Nullable, so that the rows without a match do not turn the serials to floats.
    known = known.astype({"client_conn": "Int64"})
    pairs = pd.merge_asof(
        ends,
        known,
        left_on="handled_ns",
        right_on="connected_ns",
        left_by="peer_port",
        right_by="local_port",
    )
    pairs = pairs.dropna(subset="client_conn").drop_duplicates("client_conn")
    return pairs[["conn", "client_conn"]].astype({"conn": "int32", "client_conn": "int64"})


def _checked(clients: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in CLIENT_REQUESTS if name not in clients]
    if missing:
        raise ValueError(
            f"a frame of client requests was asked for, and this one has no column "
            f"{', '.join(missing)}; run_clients() returns one that does"
        )
    return clients.astype(CLIENT_REQUESTS)


def _require_same_boot(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    boots = one.get("boot_id"), other.get("boot_id")
    if None not in boots and boots[0] != boots[1]:
        raise ValueError(
            f"the server was recorded in boot {boots[0]} and the clients in boot {boots[1]}; "
            "the monotonic clock starts anew with each boot, so their times cannot be "
            "joined: use a server and clients of one run"
        )


class _Entry(Protocol):
    """What a row of the kernel's interest list has; see ``kernel.interest_list``."""

    @property
    def fd(self) -> int: ...
    @property
    def mask(self) -> int: ...
    @property
    def data(self) -> int: ...
    @property
    def inode(self) -> int | None: ...


def interest_list(
    entries: Iterable[_Entry],
    table: Mapping[int, int],
    *,
    inodes: Mapping[int, int] | None = None,
) -> pd.DataFrame:
    """Set the kernel's interest list beside the program's own table.

    They part company when a descriptor is closed while a duplicate of it lives: the
    kernel goes on watching the open file description under the old number, and the
    program, which has dropped the number, hears from a ghost.

    Parameters
    ----------
    entries : iterable
        Rows of ``kernel.interest_list(epfd)``: ``fd``, ``mask``, ``data``, ``inode``.
    table : mapping of int to int
        What the program believes: descriptor to mask.
    inodes : mapping of int to int, optional
        The inode behind each descriptor now, from ``os.fstat``. With it, an entry
        whose number has since been used for another file is told from the new one.

    Returns
    -------
    pandas.DataFrame
        In order of descriptor: ``fd`` (int32), ``kernel_mask`` (Int64),
        ``kernel_names``, ``own_mask`` (Int64), ``own_names``, ``where`` (category:
        "both", "kernel only", "program only"), ``data`` (UInt64), ``inode`` (Int64).
        The kernel always adds ERR and HUP to what was asked for, so the masks differ
        where nothing is wrong.
    """
    rows: list[tuple[Any, ...]] = []
    seen: set[int] = set()
    for entry in entries:
        is_current = inodes is None or inodes.get(entry.fd, entry.inode) == entry.inode
        own = table.get(entry.fd) if is_current else None
        seen |= {entry.fd} if own is not None else set()
        where = "kernel only" if own is None else "both"
        rows.append((entry.fd, entry.mask, own, where, entry.data, entry.inode))
    rows += [(fd, None, table[fd], "program only", None, None) for fd in table.keys() - seen]
    rows.sort(key=lambda row: row[0])
    fds, kernel, own_masks, wheres, data, inode = zip(*rows, strict=True) if rows else [()] * 6
    return pd.DataFrame(
        {
            "fd": pd.array(fds, dtype="Int64").astype("int32"),
            "kernel_mask": pd.array(kernel, dtype="Int64"),
            "kernel_names": pd.array(_names(kernel), dtype="str"),
            "own_mask": pd.array(own_masks, dtype="Int64"),
            "own_names": pd.array(_names(own_masks), dtype="str"),
            "where": pd.Categorical(wheres, ["both", "kernel only", "program only"]),
            "data": pd.array(data, dtype="UInt64"),
            "inode": pd.array(inode, dtype="Int64"),
        }
    )


def _names(masks: Iterable[int | None]) -> list[str]:
    return ["" if mask is None else mask_names(mask) for mask in masks]
