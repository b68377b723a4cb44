"""What the other processes of a phenomenon do; runs in children, standard library only.

One job: obey. A child of :class:`epolllab.child.Child` runs one of these functions,
which takes commands over its connection and answers each.
"""

import array
import errno
import os
import select
import socket
import time
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["act", "herd", "load", "ping"]


def act(control: Connection) -> None:
    """Do single calls on inherited descriptors, and answer with their results."""
    while True:
        try:
            what, *arguments = control.recv()
        except EOFError:
            return
        try:
            control.send(_ACTS[what](*arguments))
        except OSError as error:
            control.send(errno.errorcode.get(error.errno or 0, str(error)))


def _register_ready_eventfd(epfd: int) -> int:
    # A high number, so that it is none that the parent could have as well by chance.
    low = os.eventfd(1, os.EFD_NONBLOCK)
    fd = 300
    os.dup2(low, fd)
    os.close(low)
    _epoll(epfd).register(fd, select.EPOLLIN)
    return fd


def _epoll(epfd: int) -> Any:
    """The inherited epoll; the duplicate of its number dies with the object."""
    return select.epoll.fromfd(os.dup(epfd))


_ACTS: dict[str, Any] = {
    "register ready eventfd": _register_ready_eventfd,
    "close": os.close,
    "wait": lambda epfd: _epoll(epfd).poll(0),
    "unregister": lambda epfd, fd: _epoll(epfd).unregister(fd),
}


def herd(control: Connection) -> None:
    """Serve one arm after the other as a worker: accept, say who it was, close.

    Commands are ``(number, arm, listening fd, epoll fd or -1, burn_ns)``. The answer
    is ``"ready"``, and at the arm's end, which comes when the listener is shut down,
    the counts ``(waits that returned, accepts, would-blocks)``.
    """
    while True:
        try:
            number, arm, listening, epfd, burn_ns = control.recv()
        except EOFError:
            return
        listener = socket.socket(fileno=os.dup(listening))
        name = bytes([number])
        with listener:
            if arm == "blocking accept":
                listener.setblocking(True)
                control.send("ready")
                counts = _accept_blocking(listener, name, burn_ns)
            else:
                listener.setblocking(False)
                with _epoll_of(arm, listener, epfd) as epoll:
                    control.send("ready")
                    counts = _accept_waiting(epoll, listener, name, burn_ns, arm)
        control.send(counts)


FLAGS = {
    "level": select.EPOLLIN,
    "edge": select.EPOLLIN | select.EPOLLET,
    "exclusive": select.EPOLLIN | select.EPOLLEXCLUSIVE,
    "shared level": select.EPOLLIN,
    "shared edge": select.EPOLLIN | select.EPOLLET,
    "reuseport": select.EPOLLIN,
}
"""Interest of each arm that waits with epoll."""


def _epoll_of(arm: str, listener: socket.socket, epfd: int) -> Any:
    if epfd >= 0:
        return _epoll(epfd)
    epoll = select.epoll()
    epoll.register(listener, FLAGS[arm])
    return epoll


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


def _accept_waiting(
    epoll: Any, listener: socket.socket, name: bytes, burn_ns: int, arm: str
) -> tuple[int, int, int]:
    returned = accepts = blocked = 0
    while True:
        ((fd, mask),) = epoll.poll()
        if mask & select.EPOLLHUP:
            if arm == "shared edge":
                # One edge wakes one waiter: make another for the next one.
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
    """Work for a while, tell the client who served it, and close."""
    end = time.thread_time_ns() + burn_ns
    while time.thread_time_ns() < end:
        pass
    with sock:
        sock.send(name)


def load(control: Connection) -> None:
    """Keep a number of connections going to a port, each a request, and time them.

    Commands are ``(port, connections, requests)``; the answer is two packed arrays:
    latencies in nanoseconds, from the connect to the end of the answer, as ``"q"``,
    and the numbers of the workers that answered, as ``"b"``.
    """
    while True:
        try:
            port, connections, requests = control.recv()
        except EOFError:
            return
        latencies, workers = array.array("q"), array.array("b")
        with select.epoll() as epoll:
            going: dict[int, tuple[socket.socket, int]] = {}
            left = requests
            while left or going:
                while left and len(going) < connections:
                    left -= 1
                    start = time.monotonic_ns()
                    sock = socket.socket()
                    sock.setblocking(False)
                    sock.connect_ex(("127.0.0.1", port))
                    epoll.register(sock, select.EPOLLIN)
                    going[sock.fileno()] = sock, start
                for fd, _ in epoll.poll():
                    sock, start = going.pop(fd)
                    with sock:
                        try:
                            answer = sock.recv(1)
                        except OSError:
                            answer = b""
                    latencies.append(time.monotonic_ns() - start)
                    workers.append(answer[0] if answer else -1)
        control.send((latencies.tobytes(), workers.tobytes()))


def ping(control: Connection) -> None:
    """Send a byte and wait for it to come back, again and again, and time it.

    Commands are ``(fd, times, pause_s)``; the answer is the times in nanoseconds, packed
    as ``"q"``. The pause before each lets whoever answers fall asleep.
    """
    while True:
        try:
            fd, times, pause_s = control.recv()
        except EOFError:
            return
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
