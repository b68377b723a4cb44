"""The other processes of phenomena and of the herd comparisons.

Each function is the target of an :class:`epolllab.child.Child`: it executes commands from
its connection and replies to each.
"""

import array
import errno
import os
import select
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["FLAGS", "accept_connections", "commands", "connect_load", "make_calls", "ping"]


def commands(control: Connection) -> Iterator[Any]:
    """Commands until the parent closes the connection."""
    while True:
        try:
            yield control.recv()
        except EOFError:
            return


def make_calls(control: Connection) -> None:
    """Make single calls on inherited descriptors; reply with the result or the errno's name."""
    for name, *arguments in commands(control):
        try:
            control.send(_CALLS[name](*arguments))
        except OSError as error:
            control.send(errno.errorcode.get(error.errno or 0, str(error)))


def _register_ready_eventfd(epfd: int, fd: int) -> int:
    low = os.eventfd(1, os.EFD_NONBLOCK)
    os.dup2(low, fd)
    os.close(low)
    _epoll(epfd).register(fd, select.EPOLLIN)
    return fd


def _epoll(epfd: int) -> Any:
    """The inherited epoll, through a duplicate that is closed with the object."""
    return select.epoll.fromfd(os.dup(epfd))


def _send_all(fd: int, size: int) -> None:
    """Send, and block while the buffer is full."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setblocking(True)
        sock.sendall(bytes(size))


_CALLS: dict[str, Any] = {
    "register ready eventfd": _register_ready_eventfd,
    "close": os.close,
    "wait": lambda epfd: _epoll(epfd).poll(0),
    "unregister": lambda epfd, fd: _epoll(epfd).unregister(fd),
    "send all": _send_all,
}


FLAGS = {
    "level": select.EPOLLIN,
    "edge": select.EPOLLIN | select.EPOLLET,
    "exclusive": select.EPOLLIN | select.EPOLLEXCLUSIVE,
    "shared level": select.EPOLLIN,
    "shared edge": select.EPOLLIN | select.EPOLLET,
    "reuseport": select.EPOLLIN,
}
"""Interest of each way of sharing that waits with epoll."""


def accept_connections(control: Connection) -> None:
    """Serve as a worker: accept, send the worker's number, close.

    Commands are ``(number, arm, listening fd, epoll fd or -1, burn_ns)``. The reply is
    ``"ready"``, and once the listener is shut down the counts ``(waits that returned,
    accepts, would-blocks)``.
    """
    for number, arm, listening, epfd, burn_ns in commands(control):
        name = bytes([number])
        with socket.socket(fileno=os.dup(listening)) as listener:
            if arm == "blocking accept":
                listener.setblocking(True)
                control.send("ready")
                counts = _accept_blocking(listener, name, burn_ns)
            else:
                listener.setblocking(False)
                with select.epoll() if epfd < 0 else _epoll(epfd) as epoll:
                    if epfd < 0:
                        epoll.register(listener, FLAGS[arm])
                    control.send("ready")
                    counts = _accept_ready(epoll, listener, name, burn_ns, arm)
        control.send(counts)


def _accept_blocking(listener: socket.socket, name: bytes, burn_ns: int) -> tuple[int, int, int]:
    accepts = 0
    while True:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno != errno.EINVAL:  # the listener was shut down
                raise
            return accepts, accepts, 0
        accepts += 1
        _serve(sock, name, burn_ns)


def _accept_ready(
    epoll: Any, listener: socket.socket, name: bytes, burn_ns: int, arm: str
) -> tuple[int, int, int]:
    returned = accepts = blocked = 0
    while True:
        ((fd, mask),) = epoll.poll()
        if mask & select.EPOLLHUP:
            if arm == "shared edge":
                # One edge wakes one waiter: trigger another for the next.
                epoll.modify(fd, FLAGS[arm])
            return returned, accepts, blocked
        returned += 1
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                blocked += 1
                break
            accepts += 1
            _serve(sock, name, burn_ns)
            if "edge" not in arm:
                break


def _serve(sock: socket.socket, name: bytes, burn_ns: int) -> None:
    """Use the processor for a while, send the worker's number, and close."""
    end = time.thread_time_ns() + burn_ns
    while time.thread_time_ns() < end:
        pass
    with sock:
        sock.send(name)


def connect_load(control: Connection) -> None:
    """Keep a number of connections to a port active, one request each, and time them.

    Commands are ``(port, connections, requests)``; the reply is two packed arrays:
    latencies in nanoseconds, from the connect to the end of the response, as ``"q"``,
    and the numbers of the workers, as ``"b"``, -1 if the connection failed.
    """
    for port, connections, requests in commands(control):
        latencies, workers = array.array("q"), array.array("b")
        with select.epoll() as epoll:
            active: dict[int, tuple[socket.socket, int]] = {}
            left = requests
            while left or active:
                while left and len(active) < connections:
                    left -= 1
                    start = time.monotonic_ns()
                    sock = socket.socket()
                    sock.setblocking(False)
                    sock.connect_ex(("127.0.0.1", port))
                    epoll.register(sock, select.EPOLLIN)
                    active[sock.fileno()] = sock, start
                for fd, _ in epoll.poll():
                    sock, start = active.pop(fd)
                    with sock:
                        try:
                            response = sock.recv(1)
                        except OSError:
                            response = b""
                    latencies.append(time.monotonic_ns() - start)
                    workers.append(response[0] if response else -1)
        control.send((latencies.tobytes(), workers.tobytes()))


def ping(control: Connection) -> None:
    """Send a byte and wait for it to come back, repeatedly, and time it.

    Commands are ``(fd, times, pause_s)``; the reply is the times in nanoseconds, packed
    as ``"q"``. The pause before each lets the other process fall asleep.
    """
    for fd, times, pause_s in commands(control):
        took = array.array("q")
        with socket.socket(fileno=os.dup(fd)) as sock:
            sock.setblocking(True)
            for _ in range(times):
                time.sleep(pause_s)
                start = time.monotonic_ns()
                sock.send(b"x")
                sock.recv(1)
                took.append(time.monotonic_ns() - start)
        control.send(took.tobytes())
