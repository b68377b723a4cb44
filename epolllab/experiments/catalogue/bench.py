"""What a phenomenon works with: descriptors, calls on them, a recording and a log of steps.

Waits have a timeout of 0 unless a phenomenon is about waiting, so that the outcome does
not depend on how busy the machine is. Where data must first cross the loopback interface,
:meth:`Bench.until` polls for that condition without using the epoll under observation.
"""

import errno
import fcntl
import itertools
import os
import pty
import select
import socket
import struct
import sys
import threading
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Generic, NamedTuple, Self, TypeVar

from epolllab import kernel
from epolllab.child import Child, HeldInterrupts
from epolllab.events import FOREVER, Op, error_name, mask_names
from epolllab.kernel import NotPossible
from epolllab.kernel.waiting import PATIENCE_S, are_asleep
from epolllab.recording.recorder import Recorder
from epolllab.recording.recording import Recording

__all__ = ["ONE", "Bench", "Descriptor", "Epoll", "NotPossible", "Socket", "Step", "Thread"]

T = TypeVar("T")
D = TypeVar("D", bound="Descriptor")

ONE = (1).to_bytes(8, sys.byteorder)
"""What to write to an eventfd to add 1 to its counter."""

SEND_BUFFER = 200_000


class Step(NamedTuple):
    """One call and its result."""

    what: str
    returned: str
    t_ns: int
    """Start, on the monotonic clock."""
    dur_ns: int


class Descriptor:
    """A descriptor on the bench.

    ``fd`` is its number, also after it was closed; ``name`` its name in the steps, and
    ``conn`` its serial in the recording.
    """

    def __init__(self, fd: int, name: str, conn: int) -> None:
        self.fd = fd
        self.name = name
        self.conn = conn
        self.closed = False

    def fileno(self) -> int:
        """Return the number, for functions that accept any object with one."""
        return self.fd

    def __repr__(self) -> str:
        return self.name

    def close(self) -> None:
        """Close the descriptor; further calls do nothing."""
        if not self.closed:
            self.closed = True
            self._close()

    def _close(self) -> None:
        os.close(self.fd)


class Socket(Descriptor):
    """A socket on the bench; ``sock`` is the Python object."""

    def __init__(self, sock: socket.socket, name: str, conn: int) -> None:
        super().__init__(sock.fileno(), name, conn)
        self.sock = sock

    def _close(self) -> None:
        self.sock.close()


class Epoll(Descriptor):
    """An epoll instance on the bench; ``epoll`` is the Python object."""

    def __init__(self, name: str, conn: int) -> None:
        self.epoll = select.epoll()
        super().__init__(self.epoll.fileno(), name, conn)

    def _close(self) -> None:
        self.epoll.close()


class Bench:
    """Descriptors, calls and their log; a context manager that closes everything at the end.

    Attributes
    ----------
    steps : list of Step
        The calls made, in order.
    notes : list of str
        Remarks that the outcome shows below the steps.
    data : dict
        Values for the phenomenon's picture.
    cleanup : contextlib.ExitStack
        Context managers and callbacks to leave or call at the end, last one first.
    """

    def __init__(self, capacity: int = 1 << 16) -> None:
        self.recorder = Recorder(capacity)
        self.clock = self.recorder.clock
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self.data: dict[str, Any] = {}
        self.cleanup = ExitStack()
        self._watched: dict[int, Descriptor] = {}
        self._serials = itertools.count(1)
        # Several threads may wait on one bench; the recorder allows one writer at a time.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with HeldInterrupts():
            self.cleanup.close()

    def recording(self, metadata: Mapping[str, Any] | None = None) -> Recording:
        """Return the calls recorded so far."""
        self.recorder.settle()
        kept = self.recorder.snapshot()
        return Recording(kept.rows, metadata or {}, kept.overwritten)

    # ---- making calls -------------------------------------------------------------------

    def call(
        self,
        what: str,
        function: Callable[..., T],
        *args: Any,
        op: Op | None = None,
        on: Descriptor | None = None,
        mask: int = 0,
    ) -> T:
        """Call a function and log it as a step; with `op` and `on`, also record it.

        Returns what the function returned; an OSError is logged and passed on. An empty
        `what` logs no step, for calls in a loop.
        """
        start = self.clock()
        try:
            value = function(*args)
        except OSError as error:
            stop = self.clock()
            number = error.errno or 0
            self._record(op, on, start, stop, -number, mask)
            self.step(what, f"{error_name(number)}: {error.strerror or error}", start, stop)
            raise
        stop = self.clock()
        result: Any = value
        if isinstance(value, bytes):
            result = len(value)
        elif isinstance(value, tuple) and op is Op.ACCEPT:
            result, mask = value[0].fileno(), value[1][1]
        self._record(op, on, start, stop, result or 0, mask)
        moved = op in (Op.SEND, Op.WRITE)
        self.step(what, _byte_count(result) if moved else _short(value), start, stop)
        return value

    def _record(
        self, op: Op | None, on: Descriptor | None, start: int, stop: int, result: int, mask: int
    ) -> None:
        if op is not None and on is not None:
            with self._lock:
                self.recorder.write(op, on.conn, on.fd, start, stop, result, mask)

    def step(self, what: str, returned: object, start: int, stop: int | None = None) -> None:
        """Log a step that began at `start` and ends now."""
        if what:
            stop = self.clock() if stop is None else stop
            self.steps.append(Step(what, str(returned), start, stop - start))

    def attempt(self, function: Callable[..., T], *args: Any) -> T | str:
        """Call a function that may raise OSError: its result ("ok" for None), or the errno's name.

        For example ``bench.attempt(bench.register, epoll, here, EPOLLIN)``.
        """
        try:
            value = function(*args)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
        return "ok" if value is None else value

    # ---- opening ------------------------------------------------------------------------

    def _add(self, descriptor: D) -> D:
        self.cleanup.callback(descriptor.close)
        return descriptor

    def add(self, fd: int, name: str) -> Descriptor:
        """Put a descriptor on the bench, which closes it at the end."""
        return self._add(Descriptor(fd, name, next(self._serials)))

    def room_up_to(self, number: int) -> None:
        """Raise the limit so that descriptors up to `number` can be opened, until the end."""
        self.cleanup.enter_context(kernel.raise_descriptor_limit(number + 8))

    def add_socket(self, sock: socket.socket, name: str) -> Socket:
        """Put a socket on the bench and make it non-blocking."""
        sock.setblocking(False)
        return self._add(Socket(sock, name, next(self._serials)))

    def epoll(self, name: str = "epoll") -> Epoll:
        """Open an epoll instance."""
        return self._add(Epoll(name, next(self._serials)))

    def pair(self, here: str = "here", there: str = "there") -> tuple[Socket, Socket]:
        """Open two connected unix stream sockets; bytes sent are readable immediately."""
        a, b = socket.socketpair()
        return self.add_socket(a, here), self.add_socket(b, there)

    def tcp(self, here: str = "server", there: str = "client") -> tuple[Socket, Socket]:
        """Open a TCP connection over loopback: the accepted socket and the connecting one."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        for sock in (server, client):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.add_socket(server, here), self.add_socket(client, there)

    def udp(self, here: str = "here", there: str = "there") -> tuple[Socket, Socket]:
        """Open two UDP sockets connected to each other over loopback."""
        a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (a, b):
            sock.bind(("127.0.0.1", 0))
        a.connect(b.getsockname())
        b.connect(a.getsockname())
        return self.add_socket(a, here), self.add_socket(b, there)

    def pipe(self, reader: str = "reader", writer: str = "writer") -> tuple[Descriptor, Descriptor]:
        """Open a pipe, non-blocking at both ends."""
        with HeldInterrupts():
            read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            return self.add(read, reader), self.add(write, writer)

    def eventfd(self, name: str = "eventfd", value: int = 0) -> Descriptor:
        """Open an eventfd, non-blocking."""
        with HeldInterrupts():
            return self.add(os.eventfd(value, os.EFD_NONBLOCK | os.EFD_CLOEXEC), name)

    def pty(self, master: str = "master", slave: str = "slave") -> tuple[Descriptor, Descriptor]:
        """Open a pseudoterminal in raw mode, non-blocking."""
        with HeldInterrupts():
            master_fd, slave_fd = pty.openpty()
            ends = self.add(master_fd, master), self.add(slave_fd, slave)
        tty.setraw(slave_fd)
        for end in ends:
            os.set_blocking(end.fd, False)
        return ends

    def listener(self, name: str = "listener", backlog: int = 128) -> Socket:
        """Open a TCP listener on a free loopback port, non-blocking."""
        return self.add_socket(socket.create_server(("127.0.0.1", 0), backlog=backlog), name)

    def connect(self, listener: Socket, name: str = "client") -> Socket:
        """Connect to a listener; return when the connection is in its accept queue."""
        before = kernel.listen_queue(listener.sock).length
        client = self.add_socket(socket.socket(), name)
        client.sock.settimeout(PATIENCE_S)
        address = listener.sock.getsockname()
        self.call(f"connect({name})", client.sock.connect, address, op=Op.CONNECT, on=client)
        client.sock.setblocking(False)
        self.until(
            lambda: kernel.listen_queue(listener.sock).length > before,
            f"{name} in the accept queue",
        )
        return client

    def accept(self, listener: Socket, name: str = "server") -> Socket:
        """Accept one connection; raise BlockingIOError if there is none."""
        what = f"accept({listener.name})"
        sock, _ = self.call(what, listener.sock.accept, op=Op.ACCEPT, on=listener)
        return self.add_socket(sock, name)

    def dup(self, target: Descriptor, name: str, *, at_least: int = 0) -> Descriptor:
        """Duplicate a descriptor: a second number for the same open file description."""
        if at_least:
            self.room_up_to(at_least)
        dup = fcntl.F_DUPFD_CLOEXEC
        return self.add(
            self.call(f"dup({target.name})", fcntl.fcntl, target.fd, dup, at_least), name
        )

    def renumber(self, target: Descriptor, at_least: int = 200) -> Descriptor:
        """Move a descriptor to a high number, which other threads do not get by chance."""
        self.room_up_to(at_least)
        fd = fcntl.fcntl(target.fd, fcntl.F_DUPFD_CLOEXEC, at_least)
        target.close()
        return self.add(fd, target.name)

    # ---- epoll --------------------------------------------------------------------------

    def register(self, epoll: Epoll, target: Descriptor, mask: int) -> None:
        """epoll_ctl(EPOLL_CTL_ADD)."""
        self._control("ADD", Op.REGISTER, epoll.epoll.register, target, mask)
        self._watched[target.fd] = target

    def modify(self, epoll: Epoll, target: Descriptor, mask: int) -> None:
        """epoll_ctl(EPOLL_CTL_MOD)."""
        self._control("MOD", Op.MODIFY, epoll.epoll.modify, target, mask)

    def unregister(self, epoll: Epoll, target: Descriptor) -> None:
        """epoll_ctl(EPOLL_CTL_DEL)."""
        self._control("DEL", Op.UNREGISTER, epoll.epoll.unregister, target)

    def _control(
        self, name: str, op: Op, function: Callable[..., None], target: Descriptor, *mask: int
    ) -> None:
        what = ", ".join((target.name, *map(mask_names, mask)))
        what = f"epoll_ctl({name}, {what})"
        self.call(what, function, target.fd, *mask, op=op, on=target, mask=sum(mask))

    def watch(self, target: Descriptor, mask: int, name: str = "epoll") -> Epoll:
        """Open an epoll instance and register one descriptor with it."""
        epoll = self.epoll(name)
        self.register(epoll, target, mask)
        return epoll

    def watched_pair(self, mask: int) -> tuple[Socket, Socket, Epoll]:
        """Open a unix socket pair, and an epoll instance that watches its first socket."""
        here, there = self.pair()
        return here, there, self.watch(here, mask)

    def wait(
        self, epoll: Epoll, timeout: float | None = 0, max_events: int = -1
    ) -> list[tuple[int, int]]:
        """epoll_wait; return the (fd, mask) pairs."""
        ready, start, stop = self._wait(epoll, timeout, max_events)
        limit = "" if max_events < 0 else f", maxevents={max_events}"
        shown = "no timeout" if timeout is None else f"{timeout * 1000:g} ms"
        self.step(f"epoll_wait({epoll.name}, {shown}{limit})", self._describe(ready), start, stop)
        return ready

    def _wait(
        self, epoll: Epoll, timeout: float | None, max_events: int = -1
    ) -> tuple[list[tuple[int, int]], int, int]:
        """Wait and record it: the events, and when the wait began and ended."""
        start = self.clock()
        ready = epoll.epoll.poll(timeout, max_events)
        stop = self.clock()
        timeout_us = FOREVER if timeout is None else int(timeout * 1e6)
        with self._lock:
            self.recorder.stage_wait(epoll.fd, start, stop, len(ready), timeout_us)
            for fd, mask in ready:
                watched = self._watched.get(fd)
                self.recorder.stage_ready(watched.conn if watched else 0, fd, stop, mask)
            self.recorder.settle()
        return ready, start, stop

    def _describe(self, ready: Sequence[tuple[int, int]]) -> str:
        return (
            ", ".join(f"{self.name_of(fd)} {mask_names(mask)}" for fd, mask in ready) or "nothing"
        )

    def name_of(self, fd: int) -> str:
        """Return the name of a watched number; "fd N" after it was closed."""
        watched = self._watched.get(fd)
        return watched.name if watched else f"fd {fd}"

    def masks(self, epoll: Epoll, timeout: float | None = 0) -> list[str]:
        """Wait; return the masks by name."""
        return [mask_names(mask) for _, mask in self.wait(epoll, timeout)]

    def spin(self, epoll: Epoll, times: int, between: Callable[[], object] = lambda: None) -> int:
        """Wait `times` times with a timeout of 0; return how many waits returned an event.

        `between` is called after each of these. All waits are recorded; they are one step.
        """
        returned = 0
        first: Sequence[tuple[int, int]] = ()
        start = self.clock()
        for _ in range(times):
            ready, _, _ = self._wait(epoll, 0)
            if ready:
                returned += 1
                first = first or ready
                between()
        shown = f"{returned:,} returned {self._describe(first)}" if returned else "nothing"
        self.step(f"epoll_wait({epoll.name}, 0 ms) {times:,} times", shown, start)
        return returned

    def poll(self, target: Descriptor, mask: int) -> list[str]:
        """poll(2) on one descriptor with a timeout of 0; return the masks by name."""
        poll = select.poll()
        poll.register(target.fd, mask)
        ready = self.call(f"poll({target.name}, {mask_names(mask)})", poll.poll, 0)
        return [mask_names(mask) for _, mask in ready]

    def select(self, target: Descriptor, *, write: bool = False) -> str:
        """select(2) on one descriptor; return "read", "read, write" or "nothing"."""
        what = f"select({target.name}, read{' and write' if write else ''})"
        reads, writes, _ = self.call(
            what, select.select, [target], [target] if write else [], [], 0
        )
        found = ["read"] * len(reads) + ["write"] * len(writes)
        return ", ".join(found) or "nothing"

    def interest(self, epoll: Epoll) -> list[kernel.InterestEntry]:
        """Read the kernel's interest list from /proc/self/fdinfo."""
        start = self.clock()
        entries = kernel.interest_list(epoll.fd)
        shown = ", ".join(f"tfd {e.fd}: {e.mask_names}" for e in entries) or "empty"
        self.step(f"read /proc/self/fdinfo/{epoll.fd}", shown, start)
        return entries

    # ---- reading, writing, closing ------------------------------------------------------

    def send(self, target: Socket, data: bytes, flags: int = 0) -> int:
        """send(2); return the bytes that the kernel took."""
        what = f"send({target.name}, {_byte_count(len(data))}{', MSG_OOB' if flags else ''})"
        return self.call(what, target.sock.send, data, flags, op=Op.SEND, on=target)

    def recv(self, target: Socket, size: int) -> bytes:
        """recv(2); b"" at end of file."""
        what = f"recv({target.name}, {size:,})"
        return self.call(what, target.sock.recv, size, op=Op.RECV, on=target)

    def write(self, target: Descriptor, data: bytes) -> int:
        """write(2), for descriptors that are not sockets."""
        what = f"write({target.name}, {_byte_count(len(data))})"
        return self.call(what, os.write, target.fd, data, op=Op.WRITE, on=target)

    def read(self, target: Descriptor, size: int) -> bytes:
        """read(2), for descriptors that are not sockets."""
        what = f"read({target.name}, {size:,})"
        return self.call(what, os.read, target.fd, size, op=Op.READ, on=target)

    def shutdown(self, target: Socket, how: int) -> None:
        """shutdown(2)."""
        what = f"shutdown({target.name}, {('SHUT_RD', 'SHUT_WR', 'SHUT_RDWR')[how]})"
        self.call(what, target.sock.shutdown, how, op=Op.SHUTDOWN, on=target)

    def close(self, target: Descriptor, how: str = "") -> None:
        """close(2)."""
        self.call(f"close({target.name}){how}", target.close, op=Op.CLOSE, on=target)
        if self._watched.get(target.fd) is target:
            del self._watched[target.fd]

    def reset(self, target: Socket) -> None:
        """Close with SO_LINGER and a time of 0, so that the peer gets a reset."""
        target.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close(target, " with a reset")

    def fill(self, target: Descriptor, piece: int = 65_536) -> int:
        """Write until EAGAIN; return the bytes that the kernel took."""
        start, total = self.clock(), 0
        try:
            while True:
                total += os.write(target.fd, bytes(piece))
        except BlockingIOError:
            self.step(f"write {target.name} until EAGAIN", _byte_count(total), start)
            return total

    def fill_tcp(self, receiver: Socket, sender: Socket) -> None:
        """Fill a TCP send buffer, and again after each acknowledgement, until none makes room."""
        # Without a size of its own, the kernel may enlarge the buffer, and OUT comes early.
        sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

        def acknowledged() -> bool:
            receiver.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            return kernel.tcp_info(sender.sock).unacked == 0

        while self.fill(sender, 4096):
            self.until(acknowledged, "all segments acknowledged")

    # ---- waiting for a condition --------------------------------------------------------

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition is true; raise TimeoutError if it does not become true."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: condition not met within {PATIENCE_S:g} s")
            time.sleep(0.000_2)

    def arrived(self, target: Descriptor, n_bytes: int) -> None:
        """Wait until `n_bytes` can be read; immediate except over TCP and UDP.

        FIONREAD takes the lock of a TCP socket, and the kernel wakes the socket's waiters
        before it releases that lock, so an event is there once the bytes are.
        """
        self.until(
            lambda: kernel.bytes_readable(target.fd) >= n_bytes,
            f"{n_bytes:,} bytes at {target.name}",
        )

    def in_state(self, target: Socket, *states: str) -> None:
        """Wait until a TCP socket is in one of the states, such as ``"CLOSE_WAIT"``."""
        self.until(
            lambda: kernel.tcp_info(target.sock).state in states, f"{target.name} in {states}"
        )

    # ---- threads and processes ----------------------------------------------------------

    def thread(self, function: Callable[..., T], *args: Any) -> "Thread[T]":
        """Run a function in a thread, which is joined at the end."""
        thread = Thread(function, *args)
        self.cleanup.callback(thread.join, PATIENCE_S)
        thread.start()
        return thread

    def waiter(self, epoll: Epoll, timeout: float = PATIENCE_S) -> "Thread[list[tuple[int, int]]]":
        """Start a thread that waits on an epoll; return when it sleeps in the kernel."""
        thread = self.thread(self.wait, epoll, timeout)
        self.until_asleep(thread)
        return thread

    def until_asleep(self, *threads: "Thread[Any]") -> None:
        """Wait until each thread sleeps in the kernel or has ended, all at the same moment."""
        pid = os.getpid()
        self.until(
            lambda: are_asleep([(pid, t.native_id or 0) for t in threads if t.is_alive()]),
            "threads asleep",
        )

    def child(self, target: str, *inherited: Descriptor) -> Child:
        """Start a process that inherits descriptors under the same numbers."""
        start = self.clock()
        with HeldInterrupts():
            child = Child(target, fds=[descriptor.fd for descriptor in inherited])
            self.cleanup.callback(child.close)
        names = ", ".join(descriptor.name for descriptor in inherited)
        self.step(f"start a process that inherits {names}", child.pid, start)
        return child


class Thread(threading.Thread, Generic[T]):
    """A thread that keeps the result of its function."""

    def __init__(self, function: Callable[..., T], *args: Any) -> None:
        super().__init__(name=f"bench {function.__name__}", daemon=True)
        self._call = function, args
        self._future: Future[T] = Future()

    def run(self) -> None:
        """Call the function."""
        function, args = self._call
        try:
            self._future.set_result(function(*args))
        except BaseException as error:
            self._future.set_exception(error)

    def result(self) -> T:
        """Wait for the function to end; return its value or raise its exception."""
        value = self._future.result(PATIENCE_S * 2)
        self.join()
        return value


def _byte_count(number: int) -> str:
    return "1 byte" if number == 1 else f"{number:,} bytes"


def _short(value: object) -> str:
    """Format a result for the steps."""
    if value is None:
        return "0"
    if isinstance(value, bytes):
        return _byte_count(len(value)) if value else "0 bytes: end of file"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_short(part)}" for name, part in value.items())
    if isinstance(value, tuple) and value:  # accept's socket and address
        return _short(value[0])
    if isinstance(value, socket.socket):
        return f"fd {value.fileno()}"
    return str(value)
