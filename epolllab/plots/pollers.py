"""What charts of pollers share: their names and marks, and checks of parameters."""

from functools import partial
from typing import Any

from epolllab.checks import check_choice

__all__ = [
    "CALLS", "DASHES", "MARKERS", "NAMES", "TIMES", "N", "check_api", "check_value", "marker",
]  # fmt: skip

DASHES: dict[str, Any] = {"raw": "-", "python": (0, (4, 1.6))}
CALLS = {"raw": "raw system call, via ctypes", "python": "Python's function"}
MARKERS = {
    "epoll-level": "o", "epoll-edge": "s", "epoll-oneshot": "D", "poll": "^", "select": "v",
    "epoll": "o", "io_uring": "P",
}  # fmt: skip
NAMES = {
    "epoll-level": "epoll, level",
    "epoll-edge": "epoll, edge",
    "epoll-oneshot": "epoll, one-shot",
}
N = "descriptors watched, N"
TIMES = "poller* api* n_fds+ active+ round warmup* wait_ns?"
"""Columns of measured waits."""

check_value = partial(check_choice, allowed=("wait_ns", "op_ns"))
check_api = partial(check_choice, allowed=CALLS)


def marker(poller: object) -> str:
    """The mark of a poller's points."""
    return MARKERS.get(str(poller), "o")
