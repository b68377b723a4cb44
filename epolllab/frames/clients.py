"""Frames of a client run, from the rows and records of its client loops."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from epolllab.frames.columns import Ints, Records, described, named_errors, nullable
from epolllab.frames.events import wakeups
from epolllab.frames.journeys import CLIENT_REQUESTS
from epolllab.schema import CLIENT_REQUESTS as COLUMNS

__all__ = [
    "client_requests", "client_shares", "client_steps", "client_wakeups", "join_rows",
    "merge_records",
]  # fmt: skip

Hosts = Sequence[tuple[str, str]]
"""Boot id and name of each client loop's host."""


def join_rows(
    parts: Iterable[tuple[bytes, int, int]], fields: Sequence[tuple[str, str]], serial: str
) -> NDArray[Any]:
    """Join packed rows of several client loops, with unique serials and a process column.

    Each part has the packed rows, the loop's number, and how many connections it opened;
    `fields` are name and numpy type code of a row's fields, `serial` is the field with the
    connection's serial.
    """
    pieces = []
    n_before = 0
    for packed, process, n_conns in parts:
        rows = np.frombuffer(packed, dtype=list(fields))
        piece = np.empty(len(rows), dtype=[*fields, ("process", "<i4")])
        for name, _ in fields:
            piece[name] = rows[name]
        piece["process"] = process
        piece[serial][piece[serial] > 0] += n_before
        n_before += n_conns
        pieces.append(piece)
    return np.concatenate(pieces)


def merge_records(arrays: Iterable[Records], n_conns: Iterable[int]) -> Records:
    """Merge the records of several client loops in order of start.

    Connection serials and wakes continue from one loop to the next, so that both stay
    unique; `n_conns` has the number of connections that each loop opened.
    """
    pieces = []
    conns_before = wakes_before = 0
    for array, opened in zip(arrays, n_conns, strict=True):
        piece = array.copy()
        piece["conn"][piece["conn"] > 0] += conns_before
        piece["wake"][piece["wake"] > 0] += wakes_before
        conns_before += opened
        wakes_before = int(piece["wake"].max(initial=wakes_before))
        pieces.append(piece)
    merged = np.concatenate(pieces)
    return merged[np.argsort(merged["start_ns"], kind="stable")]


def client_wakeups(arrays: Iterable[Records]) -> pd.DataFrame:
    """The wakeups of several client loops in order of start; wakes continue from loop to loop."""
    pieces = []
    n_before = 0
    for array in arrays:
        piece = wakeups(array)
        piece["wake"] += n_before
        n_before = int(piece["wake"].max()) if len(piece) else n_before
        pieces.append(piece)
    joined = pieces[0] if len(pieces) == 1 else pd.concat(pieces, ignore_index=True)
    errors = pd.api.types.union_categoricals([piece["error"] for piece in pieces])
    return joined.assign(error=errors).sort_values("t_ns", kind="stable", ignore_index=True)


@described(COLUMNS)
def client_requests(
    rows: NDArray[Any], error_name: Callable[[int], str], hosts: Hosts
) -> pd.DataFrame:
    """One row per request: :data:`CLIENT_REQUESTS`, ``host`` and ``latency_ns`` (Int64).

    `rows` are those of :func:`join_rows`; `error_name` returns the name of an error number.
    Rows of one boot, whose clock they share, are in order of ``intended_ns``.
    """
    boots = list(dict.fromkeys(boot_id for boot_id, _ in hosts))
    clock = np.array([boots.index(boot_id) for boot_id, _ in hosts])[rows["process"]]
    rows = rows[np.lexsort((rows["request"], rows["conn"], rows["intended_ns"], clock))]
    columns: dict[str, Any] = {name: rows[name] for name in CLIENT_REQUESTS}
    for name in ("connected_ns", "sent_ns", "first_byte_ns", "status"):
        columns[name] = nullable(rows[name], rows[name] > 0)
    columns["done_ns"] = nullable(rows["done_ns"], rows["error"] == 0)
    columns["error"] = _errors(rows["error"], error_name)
    frame = pd.DataFrame(columns).astype(CLIENT_REQUESTS)
    frame["host"] = _host_names(rows["process"], hosts)
    frame["latency_ns"] = frame["done_ns"] - frame["intended_ns"]
    return frame


def client_steps(
    rows: NDArray[Any], step_names: Sequence[str], error_name: Callable[[int], str], hosts: Hosts
) -> pd.DataFrame:
    """One row per step of a scripted peer; the columns are those of ``Run.steps()``."""
    rows = rows[np.lexsort((rows["step"], rows["peer"]))]
    names = pd.Index(list(step_names), dtype="str")
    return pd.DataFrame(
        {
            "peer": rows["peer"].astype("i8"),
            "step": rows["step"].astype("i4"),
            "name": pd.Categorical.from_codes(rows["name"].astype("i1"), names),
            "start_ns": rows["start_ns"].astype("i8"),
            "end_ns": rows["end_ns"].astype("i8"),
            "n_bytes": rows["n_bytes"].astype("i8"),
            "error": _errors(rows["error"], error_name),
            "host": _host_names(rows["process"], hosts),
        }
    )


def client_shares(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """One row per client loop; the columns are those of ``Run.shares()``."""
    kinds = {
        "process": "int32", "host": "str", "boot_id": "str", "kernel": "str", "python": "str",
        "cpu": "str", "epolllab": "str", "pid": "Int64", "n_rows": "int64", "late_ns": "Int64",
        "clock_error_ns": "int64", "lost": "str",
    }  # fmt: skip
    return pd.DataFrame(list(rows), columns=list(kinds)).astype(kinds)


def _host_names(processes: Ints, hosts: Hosts) -> pd.Categorical:
    """Category column of host names from numbers of client loops."""
    names = list(dict.fromkeys(name for _, name in hosts))
    codes = np.array([names.index(name) for _, name in hosts], dtype="i4")[processes]
    return pd.Categorical.from_codes(codes, pd.Index(names, dtype="str"))


def _errors(numbers: Ints, error_name: Callable[[int], str]) -> pd.Categorical:
    kinds = np.unique(numbers[numbers != 0])
    codes = np.where(numbers == 0, -1, np.searchsorted(kinds, numbers))
    return named_errors(codes.astype("i4"), kinds.tolist(), error_name)
