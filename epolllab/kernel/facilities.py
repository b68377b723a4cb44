"""What this machine, container or sandbox lacks, told apart from a fault in the program."""

import errno
import functools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from epolllab.kernel.limits import DescriptorLimitError, descriptor_limits

__all__ = ["NotPossible", "has_loopback", "not_possible_reason", "raises_not_possible"]

P = ParamSpec("P")
R = TypeVar("R")

_NO_SYSTEM_CALL = (errno.ENOSYS, errno.EPERM)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)
_NO_NETWORK = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EHOSTUNREACH)


class NotPossible(OSError):
    """Something cannot be done or shown on this machine; the message gives the reason."""


def has_loopback() -> bool:
    """Return whether 127.0.0.1 can be reached: its interface exists and is up."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 9))  # of a datagram socket: nothing is sent
    except OSError:
        return False
    return True


def not_possible_reason(error: BaseException) -> str:
    """Say what this machine lacks if that explains an exception; "" if it does not."""
    if isinstance(error, NotPossible | DescriptorLimitError):
        return error.strerror or str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in _NO_DESCRIPTOR:
        return f"no descriptor is free: this process may have {descriptor_limits().soft:,} open"
    if isinstance(error, PermissionError) or number in _NO_SYSTEM_CALL:
        return f"this kernel or sandbox refuses a call: {error}"
    if number in _NO_FAMILY:
        return f"this kernel or sandbox has no such sockets: {error}"
    if not has_loopback() and (number in _NO_NETWORK or isinstance(error, TimeoutError)):
        return "the loopback interface is down or missing; 'ip link set lo up' needs root"
    cause = error.__cause__
    return "" if cause is None else not_possible_reason(cause)


@contextmanager
def _converted() -> Iterator[None]:
    try:
        yield
    except NotPossible:
        raise
    except Exception as error:
        if reason := not_possible_reason(error):
            raise NotPossible(reason) from error
        raise


def raises_not_possible(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that what this machine lacks is raised as NotPossible."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with _converted():
            return function(*args, **kwargs)

    return call


def require_proc() -> None:
    """Raise NotPossible if /proc is not mounted here, or shows no processes."""
    if not os.path.isdir("/proc/self"):
        raise NotPossible(errno.ENOSYS, "/proc is not mounted here, and this reads it")
