"""From the ring's rows to records, with the fields that follow from the rows' order.

Needs numpy, which a process that only records never imports.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from epolllab.events import FIELDS, NO_POSITION, Op

__all__ = ["Decoder", "merge", "records"]

Array = np.ndarray[Any, np.dtype[Any]]

_RECORD = np.dtype(list(FIELDS))
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
    return Decoder().array(words).tobytes()


class Decoder:
    """Decodes the rows of one ring in pieces, each of which continues the one before."""

    def __init__(self) -> None:
        self._wake: int | None = None
        self._n_ready = 0

    def copy(self) -> "Decoder":
        """A decoder that continues where this one is now."""
        made = Decoder()
        made._wake, made._n_ready = self._wake, self._n_ready
        return made

    def array(self, words: bytes) -> Array:
        """The records of the next rows, as :func:`records`."""
        array = _fields(words)
        is_wait, is_ready = array["op"] == Op.WAIT, array["op"] == Op.READY
        waits = np.flatnonzero(is_wait)
        serials = array["conn"][waits]
        array["conn"][waits] = 0
        which = np.cumsum(is_wait)
        # The first rows may belong to a wait that the ring has lost: the one before the first.
        earlier = (int(serials[0]) - 1) & _U32 if len(serials) else 0
        before = np.uint32(earlier if self._wake is None else self._wake)
        array["wake"] = np.concatenate(([before], serials))[which]

        count = np.cumsum(is_ready, dtype=np.int64)
        at_wait = np.concatenate(([-self._n_ready], count[waits]))
        position = count - at_wait[which] - 1
        array["position"] = np.where(
            position < 0, NO_POSITION, np.minimum(position, NO_POSITION - 1)
        )
        if len(array):
            self._wake = int(serials[-1]) if len(serials) else self._wake
            self._n_ready = int(count[-1] - at_wait[-1])
        return array


def _fields(words: bytes) -> Array:
    """Records with the serial of a wait still in its conn, and without wake and position."""
    table = np.frombuffer(words, dtype=np.int64).reshape(-1, 5)
    array = np.empty(len(table), dtype=_RECORD)
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
    return array


def merge(several: Sequence[tuple[int, Array]], offsets: Sequence[int] | None = None) -> Array:
    """Records of threads in the order in which they ended, with unique wakes.

    `several` has each thread's id and its records in the order of writing; `offsets`, by
    default the number of wakes of the threads before, is added to the wakes of each. Records
    of one thread alone are returned as they are.
    """
    if len(several) < 2:
        return several[0][1] if several else np.empty(0, dtype=_RECORD)
    if offsets is None:
        most = [int(records["wake"].max(initial=0)) for _, records in several]
        offsets = [0, *accumulate(most)]
    arrays, ends = [], []
    for (tid, records), offset in zip(several, offsets, strict=False):
        array = records.copy()
        array["thread"] = tid
        array["wake"] += np.where(array["wake"] > 0, offset, 0).astype("u4")
        arrays.append(array)
        ends.append(np.maximum.accumulate(array["end_ns"]))
    order = np.argsort(np.concatenate(ends), kind="stable")
    return np.concatenate(arrays)[order]
