"""frames.columns."""

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from epolllab.events import Op, error_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Records = NDArray[Any]
    Ints = NDArray[np.integer[Any]]
    Bools = NDArray[np.bool_]


OP_DTYPE = pd.CategoricalDtype([op.label for op in Op])
"""The dtype of ``op``: every operation, in the order of :class:`epolllab.events.Op`."""

CHUNK = 1 << 15  # rows: 1.3 MB of records, which stays in a core's cache
CONTROL_OPS = (Op.REGISTER, Op.MODIFY, Op.UNREGISTER)
MASK_OPS = (Op.READY, Op.REGISTER, Op.MODIFY)
BYTES_OPS = (Op.RECV, Op.SEND, Op.HANDLE, Op.READ, Op.WRITE)
NO_CALL_OPS = (Op.WAIT, Op.READY, Op.HANDLE)
WOULD_BLOCK = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINPROGRESS)


def check_operations(records: "Records") -> "Records":
    """Return the records; raise ValueError for an operation this version does not know."""
    most = int(records["op"].max(initial=0))
    if most >= len(Op):
        raise ValueError(
            f"the recording has operation {most}, and this epolllab knows 0 to "
            f"{len(Op) - 1}; upgrade epolllab to read it"
        )
    return records


def codes(
    values: "Ints", chosen: "Bools", known: dict[int, int], *, first: int, absent: int
) -> Any:
    """Category codes of the chosen values, numbered as they turn up in `known`."""
    found = np.full(len(values), absent, dtype="i4")
    if chosen.any():
        which, uniques = pd.factorize(values[chosen])
        of_unique = [known.setdefault(int(u), len(known) + first) for u in uniques]
        found[chosen] = np.array(of_unique, dtype="i4")[which]
    return found


def is_op(op: "Ints", wanted: Iterable[Op]) -> "Bools":
    """Where the operation is one of `wanted`, by a table of 16 entries."""
    table = np.zeros(1 << 8, dtype=bool)
    table[list(wanted)] = True
    return table[op]


def nullable(values: "Ints", known: "Bools", dtype: str = "i8") -> Any:
    """Make an integer column with missing values where not `known`."""
    return pd.arrays.IntegerArray(np.where(known, values, 0).astype(dtype), ~known)


def take(values: "NDArray[Any]", index: "Ints", known: "Bools") -> Any:
    """``values[index]`` where `known`, missing elsewhere; `index` is free there."""
    if not len(values):
        return nullable(np.zeros(len(index), dtype="i8"), np.zeros(len(index), dtype=bool))
    return nullable(values[np.where(known, index, 0)], known)


def error_column(results: "Ints", failed: "Bools") -> pd.Categorical:
    """Names of errnos as a category column, missing where nothing failed."""
    known: dict[int, int] = {}
    found = codes(-results, failed, known, first=0, absent=-1)
    return named_errors(found, known)


def named_errors(codes: "Ints", known: Iterable[int]) -> pd.Categorical:
    """Category column of errno names from codes into `known`; -1 is missing."""
    # The index is typed, as an empty list of names would be one of objects.
    names = pd.Index(list(map(error_name, known)), dtype="str")
    return pd.Categorical.from_codes(codes, names, validate=False)
