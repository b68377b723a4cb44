"""Dtypes of the frames, and helpers that build columns from arrays of records."""

import errno
import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from epolllab.checks import shown
from epolllab.events import FIELDS, Op, error_name
from epolllab.schema import columns_of, returns

Records = NDArray[Any]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

OP_DTYPE = pd.CategoricalDtype([op.label for op in Op])
"""The dtype of ``op``: every operation, in the order of :class:`epolllab.events.Op`."""

CONTROL_OPS = (Op.REGISTER, Op.MODIFY, Op.UNREGISTER)
MASK_OPS = (Op.READY, Op.REGISTER, Op.MODIFY, Op.SUBMIT, Op.COMPLETE)
BYTES_OPS = (Op.RECV, Op.SEND, Op.HANDLE, Op.READ, Op.WRITE)
NO_CALL_OPS = (Op.WAIT, Op.READY, Op.HANDLE, Op.CALLBACK, Op.SUBMIT, Op.COMPLETE)
WOULD_BLOCK = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINPROGRESS)


F = TypeVar("F", bound=Callable[..., pd.DataFrame])


def described(columns: str) -> Callable[[F], F]:
    """Decorator of what makes a frame: documents the columns, also in the frame's ``attrs``."""

    def decorate(make: F) -> F:
        @wraps(make)
        def call(*args: Any, **options: Any) -> pd.DataFrame:
            frame = make(*args, **options)
            frame.attrs["columns"] = dict(columns_of(columns))
            return frame

        return returns(columns)(call)  # type: ignore[return-value]

    return decorate


def with_relative(frame: pd.DataFrame, *records: Records) -> pd.DataFrame:
    """Put a first column ``t``, the time since the first of the records, before ``t_ns``."""
    begin = min((int(array["start_ns"][0]) for array in records if len(array)), default=0)
    frame.insert(0, "t", pd.to_timedelta(frame["t_ns"] - begin, unit="ns"))
    frame.attrs["columns"] = {
        "t": "time since the first event of the recording, timedelta64[ns]",
        **frame.attrs["columns"],
    }
    return frame


def check_frame(name: str, value: Any, source: str, columns: str) -> pd.DataFrame:
    """Return a frame that has the columns; `source` is the call that makes such a frame.

    Columns are numbers, present in every row. After the name, ``+`` means 0 or more, ``?``
    that values may be missing, and ``*`` anything.
    """
    call = re.sub(r":\w+:`([^`]+)`", r"\1()", source.partition(";")[0]).replace("`", "")
    if not isinstance(value, pd.DataFrame):
        methods = re.findall(r"\.((\w+)\([^)]*\))", call)
        hint = "".join(f"; call its {whole}" for whole, method in methods if hasattr(value, method))
        raise TypeError(f"{name} must be the DataFrame of {call}, not {shown(value)}{hint}")
    if not value.columns.is_unique:
        raise ValueError(f"{name} must not have two columns of the same name")
    wanted = {column.rstrip("*?+"): column for column in columns.split()}
    missing = ", ".join(column for column in wanted if column not in value)
    if missing:
        raise ValueError(f"{name} must be the frame of {call}, but has no column {missing}")
    for column, flags in wanted.items():
        if len(value) and "*" not in flags:
            check_column(f"{name} must be the frame of {call}: {column}", value[column], flags)
    return value


def check_column(words: str, column: "pd.Series[Any]", flags: str = "?") -> None:
    """Check the numbers of a column; `words` begin the error, `flags` are of check_frame."""
    is_number = is_numeric_dtype(column) and column.dtype.kind not in "bc"
    if not is_number and not column.isna().all():
        raise TypeError(f"{words} must have numbers, not {column.dtype}")
    numbers = column.to_numpy(dtype=float, na_value=np.nan)
    known = numbers[~np.isnan(numbers)]
    if len(known) < len(numbers) and "?" not in flags:
        raise ValueError(f"{words} must have a number in every row")
    if len(known) and np.abs(known).max() > 2.0**63:
        raise ValueError(f"{words} must have finite numbers of 64 bits")
    if len(known) and "+" in flags and known.min() < 0:
        raise ValueError(f"{words} must have numbers of 0 or more")


def check_operations(records: Records) -> Records:
    """Return an array of records; raise ValueError for an unknown operation."""
    if not isinstance(records, np.ndarray) or records.dtype.names is None:
        hint = "; pass its array()" if hasattr(records, "array") else ""
        raise TypeError(
            f"records must be what Recording.array() returns, not {shown(records)}{hint}"
        )
    missing = {name for name, _ in FIELDS} - set(records.dtype.names)
    if missing or records.ndim != 1:
        raise ValueError(
            f"records must be what Recording.array() returns, but lack {', '.join(sorted(missing))}"
        )
    most = int(records["op"].max(initial=0))
    if most >= len(Op):
        raise ValueError(
            f"records contain operation {most}, but this version of epolllab knows 0 to "
            f"{len(Op) - 1}; upgrade epolllab to read this recording"
        )
    return records


def codes(values: Ints, chosen: Bools, known: dict[int, int], *, first: int, absent: int) -> Ints:
    """Category codes of the chosen values; adds new values to `known` as they appear."""
    found = np.full(len(values), absent, dtype="i4")
    if chosen.any():
        which, uniques = pd.factorize(values[chosen])
        of_unique = [known.setdefault(int(u), len(known) + first) for u in uniques]
        found[chosen] = np.array(of_unique, dtype="i4")[which]
    return found


def is_op(op: Ints, wanted: Iterable[Op]) -> Bools:
    """Where the operation is one of `wanted`."""
    table = np.zeros(1 << 8, dtype=bool)
    table[list(wanted)] = True
    return table[op]


def nullable(values: Ints, known: Bools, dtype: str = "i8") -> Any:
    """Make an integer column with missing values where not `known`."""
    return pd.arrays.IntegerArray(np.where(known, values, 0).astype(dtype), ~known)


def take(values: NDArray[Any], index: Ints, known: Bools) -> Any:
    """``values[index]`` where `known`, missing elsewhere; `index` is ignored there."""
    if not len(values):
        return nullable(np.zeros(len(index), dtype="i8"), np.zeros(len(index), dtype=bool))
    return nullable(values[np.where(known, index, 0)], known)


def error_column(results: Ints, failed: Bools) -> pd.Categorical:
    """Errno names of the failed results as a category column, missing elsewhere."""
    known: dict[int, int] = {}
    found = codes(-results, failed, known, first=0, absent=-1)
    return named_errors(found, known)


def named_errors(
    codes: Ints, numbers: Iterable[int], name: Callable[[int], str] = error_name
) -> pd.Categorical:
    """Category column of error names from codes into `numbers`; code -1 is missing."""
    # With an explicit dtype, because an empty list would make an index of objects.
    names = pd.Index([name(number) for number in numbers], dtype="str")
    return pd.Categorical.from_codes(codes, names, validate=False)
