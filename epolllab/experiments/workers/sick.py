"""An echo server with a fault, to be looked at from outside."""

import select
import socket
from contextlib import suppress
from multiprocessing.connection import Connection

__all__ = ["FAULTS", "serve"]

FAULTS = ("none", "writable", "undrained", "ghost")
"""``writable`` asks for OUT although nothing waits to be sent. ``undrained`` registers
edge-triggered and reads ten bytes at each event. ``ghost`` closes a connection of which it
has kept a duplicate."""


def serve(control: "Connection[object, str]") -> None:
    """Receive the fault, send the address, and echo until anything else comes."""
    fault = control.recv()
    clients: dict[int, _Client] = {}
    with socket.create_server(("127.0.0.1", 0)) as listener, select.epoll() as epoll:
        epoll.register(control, select.EPOLLIN)
        epoll.register(listener, select.EPOLLIN)
        control.send(listener.getsockname())
        while True:
            for fd, _ in epoll.poll():
                if fd == control.fileno():
                    return
                if fd == listener.fileno():
                    client = _Client(listener.accept()[0], epoll, fault)
                    clients[client.fd] = client
                elif fd in clients and clients[fd].echo():
                    del clients[fd]


class _Client:
    def __init__(self, sock: socket.socket, epoll: select.epoll, fault: str) -> None:
        self._sock, self._epoll, self._fault = sock, epoll, fault
        self._unsent = b""
        self._kept = sock.dup() if fault == "ghost" else None
        self.fd = sock.fileno()
        sock.setblocking(False)
        trigger = select.EPOLLET if fault == "undrained" else 0
        epoll.register(sock, select.EPOLLIN | trigger)

    def echo(self) -> bool:
        """Read once and send what can be sent; return whether the connection has ended."""
        with suppress(BlockingIOError):
            data = self._read()
            if not data:
                self._sock.close()
                return True
            self._unsent += data
        if self._unsent:
            self._send()
        return False

    def _read(self) -> bytes:
        """Read; nothing at the end, and after a reset."""
        try:
            return self._sock.recv(10 if self._fault == "undrained" else 4096)
        except ConnectionError:
            return b""

    def _send(self) -> None:
        with suppress(BlockingIOError, ConnectionError):  # the next read reports a reset
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        if self._fault != "undrained":
            wants_out = self._unsent or self._fault == "writable"
            mask = select.EPOLLIN | (select.EPOLLOUT if wants_out else 0)
            self._epoll.modify(self._sock, mask)
