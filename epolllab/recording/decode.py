"""From the ring's rows to records, with the fields that follow from the rows' order.

Needs numpy, which a process that only records never imports.
"""

from typing import Any

import numpy as np

from epolllab.events import FIELDS, NO_POSITION, Op

__all__ = ["records"]

Array = np.ndarray[Any, np.dtype[Any]]

_U32 = 0xFFFF_FFFF


def records(words: bytes) -> bytes:
    """Decode rows of five numbers to records as ``epolllab.events`` lays them out.

    Parameters
    ----------
    words : bytes
        Whole rows of a ring, in this machine's byte order; see
        :mod:`epolllab.recording.recorder`.

    Returns
    -------
    bytes
        A record of 48 bytes for each row. A result that does not fit 32 bits, such as a
        response of more than 2 GiB, becomes the largest number that does. The mask of a
        handle row refers to a table of targets, which grows while the loop runs: whatever
        stores rows must store that table too, as it is after they were read.
    """
    table = np.frombuffer(words, dtype=np.int64).reshape(-1, 5)
    array = np.empty(len(table), dtype=np.dtype(list(FIELDS)))
    key, code = table[:, 2].view(np.uint64), table[:, 4]
    array["start_ns"] = table[:, 0]
    array["end_ns"] = table[:, 1]
    array["conn"] = key >> np.uint64(32)
    array["fd"] = (key & np.uint64(_U32)).astype(np.uint32).view(np.int32)
    op = (code & 0xFF).astype(np.uint8)
    array["op"] = op
    is_ready = op == Op.READY
    array["mask"] = np.where(is_ready, table[:, 3], code >> 8 & _U32)
    array["result"] = np.where(is_ready, 0, np.clip(table[:, 3], -(1 << 31), (1 << 31) - 1))
    array["thread"] = 0
    array["request"] = code >> 40
    _add_wake_and_position(array, op)
    return array.tobytes()


def _add_wake_and_position(array: Array, op: Array) -> None:
    """Fill in wake and position, and take the wake's serial out of the waits' conn."""
    is_wait = op == Op.WAIT
    waits = np.flatnonzero(is_wait)
    serials = array["conn"][waits]
    array["conn"][waits] = 0
    # The first rows may belong to a wait that the ring has lost: the one before the first.
    before_first = np.uint32((int(serials[0]) - 1) & _U32) if len(serials) else 0
    array["wake"] = np.concatenate(([np.uint32(before_first)], serials))[np.cumsum(is_wait)]

    is_ready = op == Op.READY
    count = np.cumsum(is_ready, dtype=np.int64)
    at_wait = np.concatenate(([0], count[waits]))[np.cumsum(is_wait)]
    position = count - at_wait - 1
    array["position"] = np.where(position < 0, NO_POSITION, np.minimum(position, NO_POSITION - 1))
