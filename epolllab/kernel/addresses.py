"""Addresses that a host name stands for, and which of them a server listens on."""

import errno
import ipaddress
import socket
from typing import Any

__all__ = ["Address", "authority", "choose_address", "is_loopback", "is_unspecified", "resolve"]

Address = tuple[int, tuple[Any, ...]]
"""An address family, and an address as ``socket.connect`` takes it."""


def resolve(name: str, host: str, port: int, flags: int = 0) -> list[Address]:
    """Return all TCP addresses of a host, in the resolver's order.

    Parameters
    ----------
    name : str
        The parameter that errors name.
    host : str
        A name or an address; an IPv6 address may be in brackets.

    Raises
    ------
    ValueError
        It is not a possible host name.
    OSError
        It is not known.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        if not bare.isprintable() or " " in bare:
            raise UnicodeError("a name has no such characters")
        found = socket.getaddrinfo(
            bare, port, type=socket.SOCK_STREAM, flags=flags | socket.AI_NUMERICSERV
        )
    except UnicodeError as error:
        raise ValueError(f"{name} must be a host name or an address, not {host!r}") from error
    except socket.gaierror as error:
        raise OSError(
            error.errno, f"{name} {host!r} cannot be resolved: {error.strerror}"
        ) from error
    unique = {(int(family), address): None for family, _, _, _, address in found}
    return list(unique)


def _ip(address: tuple[Any, ...]) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip


def is_loopback(address: tuple[Any, ...]) -> bool:
    """Return whether an address is this machine's loopback."""
    return _ip(address).is_loopback


def is_unspecified(address: tuple[Any, ...]) -> bool:
    """Return whether an address is 0.0.0.0 or ::, which listens on all addresses."""
    return _ip(address).is_unspecified


def choose_address(found: list[Address]) -> Address:
    """Return the first address that a server here listens on; the first if there is none.

    ``localhost`` often means both ::1 and 127.0.0.1, and a server usually listens on one of
    them. This makes no connection, which the server would see and record.
    """
    if len(found) > 1:
        for family, address in found:
            if _is_listening(family, address):
                return family, address
    return found[0]


def _is_listening(family: int, address: tuple[Any, ...]) -> bool:
    """Whether a socket listens there: with SO_REUSEADDR nothing else prevents a bind."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def authority(host: str, port: int) -> str:
    """Return host and port as a URL and the Host header have them.

    An IPv6 address gets brackets, the port is left out if it is 80, and a name with other
    than ASCII letters is encoded (IDNA).
    """
    host = host.strip("[]")
    shown = f"[{host}]" if ":" in host else host.encode("idna").decode()
    return shown if port == 80 else f"{shown}:{port}"
