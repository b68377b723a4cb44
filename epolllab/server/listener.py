"""The listening socket, and the descriptors that its connections will need."""

import errno
import socket
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from epolllab import kernel
from epolllab.kernel import addresses
from epolllab.server.options import ServerOptions

__all__ = ["listen", "room_for_connections"]

SPARE_DESCRIPTORS = 16
"""Descriptors that the loop needs besides its connections, with a few for the notebook."""


def listen(options: ServerOptions) -> socket.socket:
    """Open the listening socket on the host's first address that this machine has."""
    found = addresses.resolve("host", options.host, options.port, socket.AI_PASSIVE)
    errors: list[OSError] = []
    for family, address in found:
        if not addresses.is_loopback(address):
            warnings.warn(
                f"host={options.host!r} makes this server reachable from other machines, and it "
                'is not hardened for that. host="127.0.0.1" makes it local',
                stacklevel=3,  # the line that called start_server()
            )
        try:
            return _listen_on(family, address, options)
        except OSError as error:
            errors.append(error)
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break  # otherwise a name of /etc/hosts for an address not of this machine
    raise OSError(
        errors[0].errno,
        f"cannot listen on host {options.host} port {options.port}: {errors[0].strerror}. "
        "port=0 takes a free port; epolllab.servers() lists the servers started here",
    ) from errors[0]


def _listen_on(family: int, address: Any, options: ServerOptions) -> socket.socket:
    """Listen on one address; accepted sockets inherit the options set here."""
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
    except BaseException:
        sock.close()
        raise
    return sock


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
