"""``interest_list()``: the kernel's interest list next to a program's own table."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from epolllab.checks import check_int, check_mapping, check_sequence, checked, shown
from epolllab.events import mask_names
from epolllab.frames.columns import described
from epolllab.schema import INTEREST

__all__ = ["interest_list"]

NOT_KNOWN = "not known here"
WHERE = ("both", "kernel only", "program only", NOT_KNOWN)


def _check_entries(name: str, value: Any) -> tuple[Any, ...] | None:
    most = 1 << 24  # more descriptors than a system has
    return None if value is None else check_sequence(name, value, _check_entry, most)


def _check_entry(name: str, value: Any) -> Any:
    if not all(hasattr(value, part) for part in ("fd", "mask", "data", "inode")):
        raise TypeError(f"{name} must be rows of kernel.interest_list(), not {shown(value)}")
    return value


def _check_table(name: str, value: Any) -> dict[int, int]:
    table = check_mapping(name, value)
    return {check_int(name, fd, 0): check_int(name, number, 0) for fd, number in table.items()}


@described(INTEREST)
@checked(entries=_check_entries, table=_check_table, inodes=check_mapping)
def interest_list(
    entries: Iterable[Any] | None,
    table: Mapping[int, int],
    *,
    inodes: Mapping[int, int] | None = None,
) -> pd.DataFrame:
    """Compare the kernel's interest list with the program's own table.

    They differ when a closed descriptor has a live duplicate: the kernel still watches
    the open file description under the old number, and the program, which has dropped
    that number, keeps receiving its events.

    Parameters
    ----------
    entries : iterable, or None
        Rows of ``kernel.interest_list(epfd)``: ``fd``, ``mask``, ``data``, ``inode``. None
        where the kernel's list is not known.
    table : mapping of int to int
        The program's table: descriptor to mask.
    inodes : mapping of int to int, optional
        The inode behind each descriptor now, from ``os.fstat``. With it, an entry
        whose number has been reused for another file counts as "kernel only". Sockets and
        pipes have inodes of their own; all eventfds, timerfds and epolls share one.
    """
    rows: list[tuple[Any, ...]] = []
    seen: set[int] = set()
    for entry in entries or ():
        is_current = inodes is None or inodes.get(entry.fd, entry.inode) == entry.inode
        own = table.get(entry.fd) if is_current else None
        seen |= {entry.fd} if own is not None else set()
        where = "kernel only" if own is None else "both"
        rows.append((entry.fd, entry.mask, own, where, entry.data, entry.inode))
    where = NOT_KNOWN if entries is None else "program only"
    rows += [(fd, None, table[fd], where, None, None) for fd in table.keys() - seen]
    rows.sort(key=lambda row: row[0])
    fds, kernel, own_masks, wheres, data, inode = zip(*rows, strict=True) if rows else [()] * 6
    return pd.DataFrame(
        {
            "fd": pd.array(fds, dtype="Int64").astype("int32"),
            "kernel_mask": pd.array(kernel, dtype="Int64"),
            "kernel_names": pd.array(_names(kernel), dtype="str"),
            "own_mask": pd.array(own_masks, dtype="Int64"),
            "own_names": pd.array(_names(own_masks), dtype="str"),
            "where": pd.Categorical(wheres, WHERE),
            "data": pd.array(data, dtype="UInt64"),
            "inode": pd.array(inode, dtype="Int64"),
        }
    )


def _names(masks: Iterable[int | None]) -> list[str]:
    return ["" if mask is None else mask_names(mask) for mask in masks]
