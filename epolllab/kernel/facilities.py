"""What this machine, container or sandbox lacks, told apart from a fault in the program."""

import errno
import os
import socket

__all__ = ["NotPossible", "not_possible_reason", "require_loopback", "require_proc"]

_REFUSED = (errno.ENOSYS, errno.EPERM, errno.EACCES)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)
_NO_NETWORK = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EHOSTUNREACH)


class NotPossible(OSError):
    """Something cannot be done or shown on this machine; the message gives the reason."""


def require_proc() -> None:
    """Raise NotPossible if /proc is not mounted here."""
    if not os.path.isdir("/proc/self"):
        raise NotPossible(errno.ENOSYS, "/proc is not mounted here, and this reads it")


def require_loopback() -> None:
    """Raise NotPossible if 127.0.0.1 cannot be reached, as in a network namespace of its own."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 9))  # of a datagram socket: nothing is sent
    except OSError as error:
        raise NotPossible(
            error.errno,
            f"the loopback interface is down or missing here ({error.strerror}); "
            "'ip link set lo up' as root starts it",
        ) from error


def not_possible_reason(error: BaseException) -> str:
    """Say what this machine lacks if that explains an exception; "" if it does not."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, NotPossible):
        return error.strerror or str(error)
    if number in _NO_DESCRIPTOR:
        return f"no descriptor is free, and 'ulimit -n' limits their number: {error}"
    if number in _REFUSED:
        return f"this kernel or sandbox refuses a call: {error}"
    if number in _NO_FAMILY:
        return f"this kernel or sandbox has no such sockets: {error}"
    if number in _NO_NETWORK or isinstance(error, TimeoutError):
        try:
            require_loopback()
        except NotPossible as missing:
            return not_possible_reason(missing)
    return "" if error.__cause__ is None else not_possible_reason(error.__cause__)
