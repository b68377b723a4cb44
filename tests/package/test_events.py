"""The layout of a record, operations, the names of masks and errors."""

import errno
import select
import sys

import numpy as np
import pytest

from epolllab import events
from epolllab.events import (
    EPOLLET,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLRDHUP,
    FIELDS,
    RECORD,
    Op,
    error_name,
    mask_names,
)


def test_a_record_has_48_bytes_in_both_layouts() -> None:
    """The layouts of struct and numpy agree on the size and offset of every field."""
    dtype = np.dtype(list(FIELDS))
    assert RECORD.size == dtype.itemsize == 48
    values = (1 << 62, -(1 << 62), 1, 0xFFFF_FFFF, -1, -errno.EAGAIN, 0x8000_0001, 16, 0xFFFF, 7, 8)
    assert np.frombuffer(RECORD.pack(*values), dtype)[0].item() == values


def test_operations_keep_the_numbers_that_files_hold() -> None:
    """Files hold these numbers: an operation may be added, but none renumbered."""
    assert [op.label for op in Op] == [
        "wait", "ready", "accept", "register", "modify", "unregister", "recv", "send",
        "shutdown", "close", "handle", "connect", "read", "write", "setsockopt", "socket",
        "getsockopt", "callback", "submit", "complete",
    ]  # fmt: skip
    assert [int(op) for op in Op] == list(range(len(Op)))


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux's select module")
@pytest.mark.parametrize("name", [name for name in events.__all__ if name.startswith("EPOLL")])
def test_bits_are_the_kernels(name: str) -> None:
    """The values are those that the select module was compiled with."""
    assert getattr(events, name) == getattr(select, name) & 0xFFFF_FFFF


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux's select module")
def test_poll_uses_the_same_bits() -> None:
    """IN, PRI, OUT, ERR, HUP and RDHUP have the same values in poll(2)."""
    for name in ("IN", "PRI", "OUT", "ERR", "HUP", "RDHUP"):
        assert getattr(select, f"POLL{name}") == getattr(events, f"EPOLL{name}")
    assert mask_names(select.POLLNVAL) == "NVAL"


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (0, "0"),
        (EPOLLIN, "IN"),
        (EPOLLIN | EPOLLRDHUP, "IN|RDHUP"),
        (EPOLLET | EPOLLONESHOT | EPOLLIN, "IN|ONESHOT|ET"),
        (1 << 11, "0x800"),
        (1 << 11 | EPOLLIN, "IN|0x800"),
    ],
)
def test_mask_names(mask: int, names: str) -> None:
    """Known bits have the kernel's names, unknown ones are a number."""
    assert mask_names(mask) == names


def test_every_bit_has_a_name_of_its_own() -> None:
    """No bit has the name of another or of the empty mask."""
    assert len({"0", *(mask_names(1 << bit) for bit in range(32))}) == 33


@pytest.mark.parametrize(
    ("number", "name"),
    [(errno.EAGAIN, "EAGAIN"), (errno.EMFILE, "EMFILE"), (999, "errno 999")],
)
def test_error_names(number: int, name: str) -> None:
    """An errno has its symbol; an unknown one is shown as a number."""
    assert error_name(number) == name
