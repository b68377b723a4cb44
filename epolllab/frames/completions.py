"""Submissions and completions of io_uring as the calls that they replace.

Frames of requests and connections are made of calls. A recording of a ring has none; it
has a ``submit`` row where an operation was handed over, and a ``complete`` row where its
result was read. Here

- a completion becomes a row of its kind (an accept, a recv, a send, a close), with the
  result, unless it only ended a pending operation (ECANCELED, ENOBUFS);
- a submission that is completed only on failure (SKIP_SUCCESS) becomes one too if no
  completion followed, and if it was not linked to one that failed: the kernel drops what
  is linked, without a completion. It was made during the next io_uring_enter, the next
  ``wait`` row, whose start is taken for its end.

What is neither stays as it is, and belongs to no request.
"""

import errno
from typing import Any

import numpy as np

from epolllab.events import KIND, LINK, MAX_REQUEST, PORT_SHIFT, SKIP_SUCCESS, Op
from epolllab.frames.columns import Bools, Records, is_op

__all__ = ["as_calls"]

_ENDED = (-errno.ECANCELED, -errno.ENOBUFS)
_OPERATIONS = (Op.SUBMIT, Op.COMPLETE)


def as_calls(records: Records) -> Any:
    """Return the records with calls in place of submissions and completions.

    The same array if it has none of them.
    """
    chosen = is_op(records["op"], _OPERATIONS)
    if not chosen.any():
        return records
    calls: Any = records.copy()
    mask = records["mask"]
    completed = (records["op"] == Op.COMPLETE) & ~np.isin(records["result"], _ENDED)
    skipped = (records["op"] == Op.SUBMIT) & (mask & SKIP_SUCCESS > 0)
    failed = _completed(records, completed)
    skipped &= ~failed & ~_linked_to(records, failed & (mask & LINK > 0))
    kind = mask & KIND
    made = (completed | skipped) & (kind != Op.READY)
    calls["op"][made] = kind[made]
    calls["mask"][chosen] = np.where(kind == Op.ACCEPT, mask >> PORT_SHIFT, 0)[chosen]
    waits = np.append(np.flatnonzero(records["op"] == Op.WAIT), len(records))
    place = np.flatnonzero(skipped)
    entered = waits[np.searchsorted(waits, place)]
    known = entered < len(records)
    calls["end_ns"][place[known]] = records["start_ns"][entered[known]]
    return calls


def _completed(records: Records, completed: Bools) -> Bools:
    """Where a row has the request and the descriptor of some completion."""
    which = _which(records["request"], records["fd"])
    found: Bools = np.isin(which, which[completed])
    return found


def _linked_to(records: Records, first: Bools) -> Bools:
    """Where a row is the submission after one of these, of the same descriptor."""
    request = records["request"]
    after = _which(request[first] % MAX_REQUEST + 1, records["fd"][first])
    found: Bools = np.isin(_which(request, records["fd"]), after)
    return found


def _which(request: Any, fd: Any) -> Any:
    return request.astype("u8") << np.uint64(32) | fd.astype("u4")
