"""``connections()``: one row per connection."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from epolllab.events import Op
from epolllab.frames.by_connection import by_connection, last_before
from epolllab.frames.columns import WOULD_BLOCK, check_operations, error_column, take
from epolllab.schema import CONNECTIONS, returns

if TYPE_CHECKING:
    from epolllab.frames.columns import Bools, Ints, Records

__all__ = ["connections"]


@returns(CONNECTIONS)
def connections(records: "Records") -> pd.DataFrame:
    """One row per connection, in the order of their serials.

    Parameters
    ----------
    records : numpy.ndarray
        What :meth:`Recording.array` returns.
    """
    by = by_connection(check_operations(records))
    op, result, end_ns = by.op, by.result, records["end_ns"]

    def total(values: "Ints | Bools") -> "Ints":
        return np.add.reduceat(values.astype("i8"), by.first) if len(by.first) else by.first

    def last(places: "Ints") -> tuple["Ints", "Bools"]:
        return last_before(places, by.stop, by.first)

    accept, is_accepted = last(np.flatnonzero((op == Op.ACCEPT) & (result >= 0)))
    close, is_closed = last(by.where(Op.CLOSE))
    failed, is_failed = last(np.flatnonzero((result < 0) & ~np.isin(-result, WOULD_BLOCK)))
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
