"""``events()``, one row per record, ``wakeups()``, per wait, ``callbacks()``, per name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from epolllab.checks import check_sequence, check_text
from epolllab.events import FOREVER, KIND, NO_POSITION, Op, mask_names, operation_name
from epolllab.frames.columns import (
    BYTES_OPS,
    MASK_OPS,
    NO_CALL_OPS,
    OP_DTYPE,
    Records,
    check_operations,
    codes,
    described,
    error_column,
    is_op,
    named_errors,
    nullable,
)
from epolllab.schema import CALLBACKS, EVENTS, WAKEUPS

__all__ = ["callbacks", "events", "wakeups"]

CHUNK = 1 << 15
"""Records decoded at a time: about 1.3 MB, which stays in a core's cache."""

_OF_A_RING = np.int64(1 << 32)

_DTYPES = {
    "t_ns": "i8",
    "dur_ns": "i8",
    "wake": "i8",
    "position": "i4",
    "conn": "i4",
    "fd": "i4",
    "op": "i1",
    "mask": "u4",
    "mask_names": "i4",
    "n_bytes": "i4",
    "error": "i2",
    "tid": "i8",
    "request": "u4",
}


@described(EVENTS)
def events(records: Records) -> pd.DataFrame:
    """One row per record, in the order in which they were written.

    `records` is what :meth:`Recording.array` returns.

    Raises
    ------
    ValueError
        A record has an operation that this version does not know.

    Notes
    -----
    The columns are filled a chunk at a time, so that little memory is needed beyond the
    recording and the frame: about 60 bytes a row for the frame.
    """
    check_operations(records)
    n = len(records)
    columns: dict[str, Any] = {name: np.empty(n, dtype=dtype) for name, dtype in _DTYPES.items()}
    masks: dict[int, int] = {}
    errors: dict[int, int] = {}
    for start in range(0, n, CHUNK):
        chunk = slice(start, start + CHUNK)
        _fill(records[chunk], {name: c[chunk] for name, c in columns.items()}, masks, errors)
    columns["op"] = pd.Categorical.from_codes(columns["op"], dtype=OP_DTYPE, validate=False)
    # Code 0 is "", also in a recording in which every row has a mask.
    columns["mask_names"] = pd.Categorical.from_codes(
        columns["mask_names"], pd.Index(["", *map(_words, masks)]), validate=False
    )
    columns["error"] = named_errors(columns["error"], errors)
    return pd.DataFrame(columns, copy=False)


def _fill(
    records: Records, out: dict[str, Any], masks: dict[int, int], errors: dict[int, int]
) -> None:
    """Decode one chunk of the records into views of the columns."""
    op = records["op"]
    out["t_ns"][:] = records["start_ns"]
    np.subtract(records["end_ns"], records["start_ns"], out=out["dur_ns"])
    for name, source in (
        ("wake", "wake"),
        ("conn", "conn"),
        ("fd", "fd"),
        ("op", "op"),
        ("tid", "thread"),
        ("request", "request"),
    ):
        out[name][:] = records[source]
    out["position"][:] = records["position"]
    out["position"][records["position"] == NO_POSITION] = -1
    result = np.ascontiguousarray(records["result"])
    is_ring = is_op(op, (Op.SUBMIT, Op.COMPLETE))
    kind = np.where(is_ring, records["mask"] & KIND, op)
    np.multiply(np.maximum(result, 0), is_op(kind, BYTES_OPS), out=out["n_bytes"])
    out["error"][:] = codes(-result, result < 0, errors, first=0, absent=-1)
    with_mask = is_op(op, MASK_OPS)
    np.multiply(records["mask"], with_mask, out=out["mask"])
    # The same number means something else in the rows of a ring; a port has no name.
    words = np.where(is_ring, out["mask"] & 0xFFFF | _OF_A_RING, out["mask"])
    out["mask_names"][:] = codes(words, with_mask, masks, first=1, absent=0)


def _words(mask: int) -> str:
    return operation_name(mask - _OF_A_RING) if mask >= _OF_A_RING else mask_names(mask)


@described(WAKEUPS)
def wakeups(records: Records) -> pd.DataFrame:
    """One row per wait: how long the loop slept, and what it did next.

    `records` is what :meth:`Recording.array` returns.
    """
    check_operations(records)
    if not records["thread"].any():
        return _wakeups(records)
    by_thread = np.argsort(records["thread"], kind="stable")
    table = _wakeups(records[by_thread])
    place = by_thread[records["op"][by_thread] == Op.WAIT]
    return table.iloc[np.argsort(place)].reset_index(drop=True)


def _wakeups(records: Records) -> pd.DataFrame:
    """The wakeups of records that are in order of thread, and then of writing."""
    op, thread = records["op"], records["thread"]
    at = np.flatnonzero(op == Op.WAIT)
    waits = records[at]
    next_wait = np.append(at[1:], len(records))[: len(at)]
    following = np.minimum(next_wait, np.searchsorted(thread, waits["thread"], side="right"))
    calls = np.cumsum(~is_op(op, NO_CALL_OPS))
    last = records["end_ns"][following - 1]
    start, end, result = waits["start_ns"], waits["end_ns"], waits["result"]
    next_start = np.append(start[1:], 0)[: len(at)]
    is_last = np.append(waits["thread"][1:] != waits["thread"][:-1], True)[: len(at)]
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
            "tid": waits["thread"].astype("i8"),
        }
    )


@described(CALLBACKS)
def callbacks(records: Records, names: Sequence[str]) -> pd.DataFrame:
    """One row per callback of an event loop: what keeps the loop from its next wait.

    `records` is what :meth:`Recording.array` returns, and `names` the recording's
    ``metadata["callbacks"]``.
    """
    names = check_sequence("names", names, check_text, 1 << 20)
    check_operations(records)
    rows = records[records["op"] == Op.CALLBACK]
    most = int(rows["mask"].max(initial=0))
    if len(rows) and most >= len(names):
        raise ValueError(f"names has {len(names)} names, and the records refer to number {most}")
    took = pd.DataFrame(
        {
            "name": np.array(list(names), dtype=object)[rows["mask"]],
            "dur_ns": (rows["end_ns"] - rows["start_ns"]).astype("i8"),
            "at_ns": rows["start_ns"].astype("i8"),
        }
    ).astype({"name": "str"})
    groups = took.groupby("name", sort=False)["dur_ns"]
    columns: Any = {"n": groups.count(), "total_ns": groups.sum(), "longest_ns": groups.max()}
    table = pd.DataFrame(columns).astype("i8")
    table["at_ns"] = took["at_ns"].loc[groups.idxmax()].to_numpy("i8")
    return table.sort_values("total_ns", ascending=False, kind="stable").reset_index()
