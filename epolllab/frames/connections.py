"""Records grouped by connection, and ``connections()``: one row per connection."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from epolllab.events import Op
from epolllab.frames.columns import (
    WOULD_BLOCK,
    Bools,
    Ints,
    Records,
    check_operations,
    described,
    error_column,
    take,
)
from epolllab.frames.completions import as_calls
from epolllab.schema import CONNECTIONS

__all__ = ["ByConnection", "by_connection", "connections", "last_before"]


class ByConnection(NamedTuple):
    """The records of all connections, in order of connection and then of record.

    ``order`` holds indices into the records; ``conn``, ``op``, ``result`` and ``wake`` are
    fields in the new order. A *place* is an index into these. ``first`` is the place at
    which each connection's rows begin, and ``stop`` the place after they end.
    """

    records: Records
    order: Ints
    conn: Ints
    op: Ints
    result: Ints
    wake: Ints
    first: Ints
    stop: Ints

    def where(self, op: Op) -> Ints:
        """Places of an operation."""
        return np.flatnonzero(self.op == op)

    def indices(self, places: Ints) -> Ints:
        """Turn places into indices into the records; 0 for the place after the last."""
        return np.append(self.order, 0)[places]

    def peer_ports(self) -> Any:
        """Each connection's peer port; missing where its accept row is missing."""
        accept = np.flatnonzero((self.op == Op.ACCEPT) & (self.result >= 0))
        which = np.append(accept, len(self.op))[np.searchsorted(accept, self.first)]
        return take(self.records["mask"][self.order], which, which < self.stop).astype("Int32")


def by_connection(records: Records) -> ByConnection:
    """Group the records by connection with one stable sort."""
    order = np.flatnonzero(records["conn"])
    order = order[np.argsort(records["conn"][order], kind="stable")]
    conn = records["conn"][order]
    changes = np.flatnonzero(conn[1:] != conn[:-1]) + 1
    first = np.concatenate(([0], changes))[: len(changes) + (len(order) > 0)]
    stop = np.concatenate((changes, [len(order)]))[: len(first)]
    op, result, wake = (records[name][order] for name in ("op", "result", "wake"))
    return ByConnection(records, order, conn, op, result, wake, first, stop)


def last_before(places: Ints, before: Ints, limit: Ints | int) -> tuple[Ints, Bools]:
    """Find the last of the sorted `places` below `before` and not below `limit`."""
    which = np.searchsorted(places, before) - 1
    found = np.append(places, 0)[which]
    known = (which >= 0) & (found >= limit)
    return np.where(known, found, 0), known


@described(CONNECTIONS)
def connections(records: Records) -> pd.DataFrame:
    """One row per connection, in the order of their serials.

    `records` is what :meth:`Recording.array` returns.
    """
    by = by_connection(as_calls(check_operations(records)))
    records, op, result = by.records, by.op, by.result
    end_ns = records["end_ns"]

    def total(values: Ints | Bools) -> Ints:
        return np.add.reduceat(values.astype("i8"), by.first) if len(by.first) else by.first

    def last(places: Ints) -> tuple[Ints, Bools]:
        return last_before(places, by.stop, by.first)

    accept, is_accepted = last(np.flatnonzero((op == Op.ACCEPT) & (result >= 0)))
    close, is_closed = last(by.where(Op.CLOSE))
    # A completion that is no call only ended a pending operation.
    failures = (result < 0) & ~np.isin(-result, WOULD_BLOCK) & (op != Op.COMPLETE)
    failed, is_failed = last(np.flatnonzero(failures))
    moved = np.maximum(result, 0)
    # An accept row's fd is the listener's; the new descriptor is its result.
    fd = np.where(op == Op.ACCEPT, result, records["fd"][by.order])
    return pd.DataFrame(
        {
            "conn": by.conn[by.first].astype("i4"),
            "fd": fd[by.stop - 1].astype("i4"),
            "peer_port": by.peer_ports(),
            "accepted_ns": take(end_ns, by.indices(accept), is_accepted),
            "closed_ns": take(end_ns, by.indices(close), is_closed),
            "n_events": total(op == Op.READY).astype("i4"),
            "n_recv": total(op == Op.RECV).astype("i4"),
            "n_send": total(op == Op.SEND).astype("i4"),
            "n_bytes_in": total(np.where(op == Op.RECV, moved, 0)),
            "n_bytes_out": total(np.where(op == Op.SEND, moved, 0)),
            "n_requests": total(op == Op.HANDLE).astype("i4"),
            "error": error_column(np.append(result, 0)[failed], is_failed),
        }
    )
