"""Records grouped by connection, for the frames of requests and of connections."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from epolllab.events import Op
from epolllab.frames.columns import take

if TYPE_CHECKING:
    from epolllab.frames.columns import Bools, Ints, Records

__all__ = ["ByConnection", "by_connection", "last_before"]


class ByConnection(NamedTuple):
    """The records of all connections, in order of connection and then of record.

    ``order`` holds indices into the records; ``conn``, ``op``, ``result`` and ``wake`` are
    fields in the new order. A *place* is an index into these. ``first`` is the place at
    which each connection's rows begin, and ``stop`` the place after they end.
    """

    records: "Records"
    order: "Ints"
    conn: "Ints"
    op: "Ints"
    result: "Ints"
    wake: "Ints"
    first: "Ints"
    stop: "Ints"

    def where(self, op: Op) -> "Ints":
        """Places of an operation."""
        return np.flatnonzero(self.op == op)

    def indices(self, places: "Ints") -> "Ints":
        """Turn places into indices into the records; 0 for the place after the last."""
        return np.append(self.order, 0)[places]

    def peer_ports(self) -> Any:
        """Each connection's peer port; missing where its accept row is missing."""
        accept = np.flatnonzero((self.op == Op.ACCEPT) & (self.result >= 0))
        which = np.append(accept, len(self.op))[np.searchsorted(accept, self.first)]
        return take(self.records["mask"][self.order], which, which < self.stop).astype("Int32")


def by_connection(records: "Records") -> ByConnection:
    """Group the records by connection with one stable sort."""
    order = np.flatnonzero(records["conn"])
    order = order[np.argsort(records["conn"][order], kind="stable")]
    conn = records["conn"][order]
    changes = np.flatnonzero(conn[1:] != conn[:-1]) + 1
    first = np.concatenate(([0], changes))[: len(changes) + (len(order) > 0)]
    stop = np.concatenate((changes, [len(order)]))[: len(first)]
    op, result, wake = (records[name][order] for name in ("op", "result", "wake"))
    return ByConnection(records, order, conn, op, result, wake, first, stop)


def last_before(places: "Ints", before: "Ints", limit: "Ints | int") -> tuple["Ints", "Bools"]:
    """Find the last of the sorted `places` below `before` and not below `limit`."""
    which = np.searchsorted(places, before) - 1
    found = np.append(places, 0)[which]
    known = (which >= 0) & (found >= limit)
    return np.where(known, found, 0), known
