"""The vocabulary: the layout of a record, operations, the names of masks and errors."""

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
    """The layouts of struct and numpy agree about the size and the place of every field."""
    dtype = np.dtype(list(FIELDS))
    assert RECORD.size == dtype.itemsize == 48
    values = (1 << 62, -(1 << 62), 1, 0xFFFF_FFFF, -1, -errno.EAGAIN, 0x8000_0001, 16, 0xFFFF, 7, 8)
    assert np.frombuffer(RECORD.pack(*values), dtype)[0].item() == values


def test_operations_keep_the_numbers_that_files_hold() -> None:
    """Ring rows hold these numbers, so a name may be added but none may move."""
    assert [op.label for op in Op] == [
        "wait", "ready", "accept", "register", "modify", "unregister", "recv", "send",
        "shutdown", "close", "handle", "connect", "read", "write", "setsockopt", "socket",
        "getsockopt",
    ]  # fmt: skip
    assert [int(op) for op in Op] == list(range(len(Op)))


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux's select module")
@pytest.mark.parametrize("name", [name for name in events.__all__ if name.startswith("EPOLL")])
def test_bits_are_the_kernels(name: str) -> None:
    """The values written out here are those the select module was compiled with."""
    assert getattr(events, name) == getattr(select, name) & 0xFFFF_FFFF


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux's select module")
def test_polls_bits_are_the_same_ones() -> None:
    """poll(2) spells IN, PRI, OUT, ERR, HUP and RDHUP as epoll does."""
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
def test_masks_are_spelled_and_nothing_is_hidden(mask: int, names: str) -> None:
    """Known bits have the kernel's names, and unknown ones are shown as a number."""
    assert mask_names(mask) == names


@pytest.mark.parametrize("bit", range(32))
def test_every_bit_shows(bit: int) -> None:
    """No single bit reads as the empty mask, and no two read alike."""
    names = [mask_names(1 << other) for other in range(32)]
    assert names.count(names[bit]) == 1
    assert names[bit] != "0"


def test_errors_are_named() -> None:
    """An errno has its symbol, and a number without one is still told."""
    assert error_name(errno.EAGAIN) == "EAGAIN"
    assert error_name(errno.EMFILE) == "EMFILE"
    assert error_name(999) == "errno 999"
