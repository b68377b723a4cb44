"""The listening socket, and the descriptors that its connections will need."""

import ipaddress
import socket
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from epolllab import kernel
from epolllab.server.options import ServerOptions

__all__ = ["listen", "room_for_connections"]

SPARE_DESCRIPTORS = 16
"""Descriptors that the loop needs besides its connections, with a few for the notebook."""


def listen(options: ServerOptions) -> socket.socket:
    """Open the listening socket; accepted sockets inherit the options set on it."""
    family, address = _resolve(options.host, options.port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, options.nodelay)
        if options.send_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.send_buffer)
        if options.recv_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.recv_buffer)
        sock.bind(address)
        sock.listen(options.backlog)
    except OSError as error:
        sock.close()
        raise OSError(
            error.errno,
            f"cannot listen on host {options.host} port {options.port}: {error.strerror}. "
            "port=0 takes a free port; epolllab.servers() lists the servers started here",
        ) from error
    return sock


def _resolve(host: str, port: int) -> tuple[int, Any]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except socket.gaierror as error:
        raise OSError(
            error.errno, f"host {host!r} is not an address of this machine: {error.strerror}"
        ) from error
    family, _, _, _, address = found[0]
    if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        warnings.warn(
            f"host={host!r} makes this server reachable from other machines, and it is not "
            'hardened for that. host="127.0.0.1" makes it local',
            stacklevel=4,  # the line that called start_server()
        )
    return family, address


def room_for_connections(options: ServerOptions) -> AbstractContextManager[object]:
    """Raise the soft limit on descriptors to what `max_connections` needs, for a with block.

    A child process keeps the limit that it was started with, so the limit of this process
    is restored at once. A thread shares the limit of this process, which stays raised.
    """
    if options.max_connections is not None:
        wanted = options.max_connections + SPARE_DESCRIPTORS + kernel.descriptors_open()
        if options.process:
            return kernel.raise_descriptor_limit(wanted)
        kernel.ensure_descriptor_limit(wanted)
    return nullcontext()
