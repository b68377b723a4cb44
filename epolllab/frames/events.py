"""frames.events."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from epolllab.events import FOREVER, NO_POSITION, Op, mask_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from epolllab.frames.columns import Records

from epolllab.frames.columns import (
    BYTES_OPS,
    CHUNK,
    MASK_OPS,
    NO_CALL_OPS,
    OP_DTYPE,
    check_operations,
    codes,
    error_column,
    is_op,
    named_errors,
    nullable,
)

__all__ = ["events", "wakeups"]


def events(records: "Records") -> pd.DataFrame:
    """One row per record, in the order in which they were written.

    Use it to see what the loop did, call by call; the other frames are sums of it.

    Parameters
    ----------
    records : numpy.ndarray
        What :meth:`Recording.array` returns.

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
    array = check_operations(records)
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
    for start in range(0, n, CHUNK):
        piece = slice(start, start + CHUNK)
        _fill(array[piece], {name: c[piece] for name, c in columns.items()}, masks, errors)
    columns["op"] = pd.Categorical.from_codes(columns["op"], dtype=OP_DTYPE, validate=False)
    # Code 0 is "" although most rows of a small recording have a mask.
    columns["mask_names"] = pd.Categorical.from_codes(
        columns["mask_names"], pd.Index(["", *map(mask_names, masks)]), validate=False
    )
    columns["error"] = named_errors(columns["error"], errors)
    return pd.DataFrame(columns, copy=False)


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
    np.multiply(np.maximum(result, 0), is_op(op, BYTES_OPS), out=out["n_bytes"])
    out["error"][:] = codes(-result, result < 0, errors, first=0, absent=-1)
    with_mask = is_op(op, MASK_OPS)
    np.multiply(rows["mask"], with_mask, out=out["mask"])
    out["mask_names"][:] = codes(out["mask"], with_mask, masks, first=1, absent=0)


def wakeups(records: "Records") -> pd.DataFrame:
    """One row per wait: how long the loop slept, and what it then did.

    Parameters
    ----------
    records : numpy.ndarray
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
    array = check_operations(records)
    n = len(array)
    op = array["op"]
    at = np.flatnonzero(op == Op.WAIT)
    waits = array[at]
    following = np.append(at[1:], n)[: len(at)]
    calls = np.cumsum(~is_op(op, NO_CALL_OPS))
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
            "gap_ns": nullable(next_start - last, ~is_last),
            "error": error_column(result, result < 0),
        }
    )
