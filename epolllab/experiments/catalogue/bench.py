"""The bench a phenomenon works on: descriptors, the calls made with them, and a log.

One job: open things, do things to them and write down each call with what the kernel
returned; and close everything afterwards, whatever happened. It knows no phenomenon
and judges nothing.

Every wait has a timeout of 0 unless a phenomenon is about waiting, so what a bench
shows does not depend on how busy the machine is. Where something must first arrive
over the loopback interface, :meth:`Bench.until` waits for that very condition, asked
of the kernel by other means than the epoll that is being watched.
"""

import errno
import fcntl
import os
import pty
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar

from epolllab import kernel
from epolllab.child import Child
from epolllab.events import FOREVER, Op, mask_names
from epolllab.kernel.waiting import PATIENCE_S, is_asleep
from epolllab.recording.recorder import Recorder, Snapshot

__all__ = ["Bench", "End", "NotPossible", "Step", "Watcher"]


T = TypeVar("T")


class NotPossible(Exception):
    """A phenomenon cannot be shown here; the message says why."""


class Step(NamedTuple):
    """One thing that was done, and what the kernel returned."""

    what: str
    returned: str
    t_ns: int
    """Monotonic clock when it began."""
    dur_ns: int


class End:
    """A descriptor on the bench.

    Attributes
    ----------
    fd : int
        Its number, kept after it is closed: some phenomena are about just that.
    sock : socket.socket or None
        The socket behind it, if it is one.
    name : str
        What the steps call it.
    conn : int
        Its serial in the recording.
    """

    __slots__ = ("closed", "conn", "fd", "name", "sock")

    def __init__(self, fd: int, sock: socket.socket | None, name: str, conn: int) -> None:
        self.fd = fd
        self.sock = sock
        self.name = name
        self.conn = conn
        self.closed = False

    def fileno(self) -> int:
        """The number, for calls that take any object with one."""
        return self.fd

    def __repr__(self) -> str:
        return self.name

    def close(self) -> None:
        """Close the descriptor; any number of times."""
        if self.closed:
            return
        self.closed = True
        if self.sock is None:
            os.close(self.fd)
        else:
            self.sock.close()


class Watcher(End):
    """An epoll on the bench."""

    __slots__ = ("epoll",)

    def __init__(self, epoll: select.epoll, name: str, conn: int) -> None:
        super().__init__(epoll.fileno(), None, name, conn)
        self.epoll = epoll

    def close(self) -> None:
        """Close the epoll; what it watched stays open."""
        self.closed = True
        self.epoll.close()


class Bench:
    """Descriptors, calls and their log; a context manager.

    Attributes
    ----------
    steps : list of Step
        What was done, in order.
    notes : list of str
        What the phenomenon has to say beside its observation.
    data : dict
        What the phenomenon leaves for its picture.
    """

    def __init__(self, capacity: int = 1 << 16) -> None:
        self.recorder = Recorder(capacity)
        self.clock = self.recorder.clock
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self.data: dict[str, Any] = {}
        self._ends: list[End] = []
        self._watched: dict[int, End] = {}
        self._threads: list[_Thread[Any]] = []
        self._children: list[Child] = []
        self._finals: list[Callable[[], object]] = []
        # Several threads may wait on one bench; the recorder has one writer at a time.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for final in reversed(self._finals):
            final()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for end in reversed(self._ends):
            end.close()
        for child in self._children:
            child.close()

    def snapshot(self) -> Snapshot:
        """The records made so far."""
        self.recorder.settle()
        return self.recorder.snapshot()

    # ---- saying things --------------------------------------------------------------

    def note(self, text: str) -> None:
        """Add a remark that the outcome shows."""
        self.notes.append(text)

    def impossible(self, reason: str) -> NotPossible:
        """Make the exception that says why this cannot be shown here; to be raised."""
        return NotPossible(reason)

    def step(self, what: str, returned: object, start: int, end: int) -> None:
        """Write one row of the steps table."""
        self.steps.append(Step(what, str(returned), start, end - start))

    def finally_do(self, action: Callable[[], object]) -> None:
        """Do `action` when the bench is cleared, before anything is closed."""
        self._finals.append(action)

    # ---- opening --------------------------------------------------------------------

    def adopt(self, thing: int | socket.socket, name: str) -> End:
        """Put a descriptor or socket on the bench, which will close it."""
        sock = None if isinstance(thing, int) else thing
        fd = thing if isinstance(thing, int) else thing.fileno()
        end = End(fd, sock, name, len(self._ends) + 1)
        self._ends.append(end)
        return end

    def epoll(self, name: str = "epoll") -> Watcher:
        """Open an epoll."""
        watcher = Watcher(select.epoll(), name, len(self._ends) + 1)
        self._ends.append(watcher)
        return watcher

    def pair(self, here: str = "here", there: str = "there") -> tuple[End, End]:
        """Two connected unix stream sockets, non-blocking. What one sends is there at once."""
        return self._both(*socket.socketpair(), here, there)

    def _both(self, a: socket.socket, b: socket.socket, here: str, there: str) -> tuple[End, End]:
        ends = self.adopt(a, here), self.adopt(b, there)
        for end in ends:
            a_or_b = end.sock
            assert a_or_b is not None
            a_or_b.setblocking(False)
        return ends

    def tcp(self, here: str = "server", there: str = "client") -> tuple[End, End]:
        """Two ends of a TCP connection over loopback, non-blocking: accepted, connecting."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server, _ = listener.accept()
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._both(server, client, here, there)

    def udp(self, here: str = "here", there: str = "there") -> tuple[End, End]:
        """Two UDP sockets connected to each other over loopback."""
        a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        ends = self._both(a, b, here, there)
        for sock in (a, b):
            sock.bind(("127.0.0.1", 0))
        a.connect(b.getsockname())
        b.connect(a.getsockname())
        return ends

    def pipe(self, reader: str = "reader", writer: str = "writer") -> tuple[End, End]:
        """A pipe, non-blocking at both ends."""
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        return self.adopt(read, reader), self.adopt(write, writer)

    def eventfd(self, name: str = "eventfd", value: int = 0) -> End:
        """An eventfd, non-blocking."""
        return self.adopt(os.eventfd(value, os.EFD_NONBLOCK | os.EFD_CLOEXEC), name)

    def pty(self, master: str = "master", slave: str = "slave") -> tuple[End, End]:
        """A pseudoterminal in raw mode, non-blocking."""
        master_fd, slave_fd = pty.openpty()
        ends = self.adopt(master_fd, master), self.adopt(slave_fd, slave)
        attributes = termios.tcgetattr(slave_fd)
        attributes[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(slave_fd, termios.TCSANOW, attributes)
        for end in ends:
            os.set_blocking(end.fd, False)
        return ends

    def listener(self, name: str = "listener", backlog: int = 128, **options: bool) -> End:
        """A listening TCP socket on a free loopback port, non-blocking."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        end = self.adopt(sock, name)
        if options.get("reuse_port"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        sock.listen(backlog)
        sock.setblocking(False)
        return end

    def connect(self, listener: End, name: str = "client") -> End:
        """Connect to a listener and return once its queue has the connection."""
        assert listener.sock is not None
        before = kernel.listen_queue(listener.sock).length
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        end = self.adopt(sock, name)
        sock.settimeout(PATIENCE_S)
        self._call(Op.CONNECT, end, f"connect({name})", sock.connect, listener.sock.getsockname())
        sock.setblocking(False)
        self.until(
            lambda: kernel.listen_queue(listener.sock).length > before,  # type: ignore[arg-type]
            f"{name} in the accept queue",
        )
        return end

    def accept(self, listener: End, name: str = "server") -> End:
        """Accept one connection; BlockingIOError if there is none."""
        assert listener.sock is not None
        sock, _ = self._call(Op.ACCEPT, listener, f"accept({listener.name})", listener.sock.accept)
        sock.setblocking(False)
        return self.adopt(sock, name)

    def dup(self, end: End, name: str, *, at_least: int = 0) -> End:
        """Duplicate a descriptor: a second number for the same open file description."""
        fd = self._plain(f"dup({end.name})", fcntl.fcntl, end.fd, fcntl.F_DUPFD_CLOEXEC, at_least)
        return self.adopt(fd, name)

    def moved(self, end: End, at_least: int = 200) -> End:
        """Give a descriptor a high number, which no other thread will be given by chance."""
        fd = fcntl.fcntl(end.fd, fcntl.F_DUPFD_CLOEXEC, at_least)
        end.close()
        return self.adopt(fd, end.name)

    # ---- epoll ----------------------------------------------------------------------

    def register(self, epoll: Watcher, end: End, mask: int) -> None:
        """epoll_ctl(EPOLL_CTL_ADD)."""
        what = f"epoll_ctl(ADD, {end.name}, {mask_names(mask)})"
        self._call(Op.REGISTER, end, what, epoll.epoll.register, end.fd, mask, mask=mask)
        self._watched[end.fd] = end

    def modify(self, epoll: Watcher, end: End, mask: int) -> None:
        """epoll_ctl(EPOLL_CTL_MOD)."""
        what = f"epoll_ctl(MOD, {end.name}, {mask_names(mask)})"
        self._call(Op.MODIFY, end, what, epoll.epoll.modify, end.fd, mask, mask=mask)

    def unregister(self, epoll: Watcher, end: End) -> None:
        """epoll_ctl(EPOLL_CTL_DEL)."""
        self._call(
            Op.UNREGISTER, end, f"epoll_ctl(DEL, {end.name})", epoll.epoll.unregister, end.fd
        )

    def wait(
        self, epoll: Watcher, timeout: float | None = 0, max_events: int = -1
    ) -> list[tuple[int, int]]:
        """epoll_wait; the (fd, mask) pairs as the kernel returned them."""
        start = self.clock()
        ready = epoll.epoll.poll(timeout, max_events)
        end = self.clock()
        self._waited(epoll, ready, timeout, start, end)
        limit = "" if max_events < 0 else f", maxevents={max_events}"
        shown = "for ever" if timeout is None else f"{timeout * 1000:g} ms"
        self.step(f"epoll_wait({epoll.name}, {shown}{limit})", self._shown(ready), start, end)
        return ready

    def _waited(
        self,
        epoll: Watcher,
        ready: Sequence[tuple[int, int]],
        timeout: float | None,
        start: int,
        end: int,
    ) -> None:
        recorder = self.recorder
        timeout_us = FOREVER if timeout is None else int(timeout * 1e6)
        with self._lock:
            recorder.waited(epoll.fd, start, end, len(ready), timeout_us)
            for fd, mask in ready:
                watched = self._watched.get(fd)
                recorder.turned_to(watched.conn if watched else 0, fd, end, mask)
            recorder.settle()

    def _shown(self, ready: Sequence[tuple[int, int]]) -> str:
        if not ready:
            return "nothing"
        return ", ".join(f"{self.name_of(fd)} {mask_names(mask)}" for fd, mask in ready)

    def name_of(self, fd: int) -> str:
        """The name of a watched number; the bare number once it is closed."""
        end = self._watched.get(fd)
        return end.name if end else f"fd {fd}"

    def masks(self, epoll: Watcher, **how: Any) -> list[str]:
        """Wait; the masks alone, spelled."""
        return [mask_names(mask) for _, mask in self.wait(epoll, **how)]

    def names(self, epoll: Watcher, **how: Any) -> list[str]:
        """Wait; the names of the descriptors alone."""
        return [self.name_of(fd) for fd, _ in self.wait(epoll, **how)]

    def spin(self, epoll: Watcher, times: int, between: Callable[[], object] = lambda: None) -> int:
        """Wait `times` times with a timeout of 0; how many of the waits returned something.

        One row in the steps, however many waits; each is in the recording.
        """
        clock, poll = self.clock, epoll.epoll.poll
        returned = 0
        first: Sequence[tuple[int, int]] = ()
        start = clock()
        for _ in range(times):
            begin = clock()
            ready = poll(0)
            self._waited(epoll, ready, 0, begin, clock())
            if ready:
                returned += 1
                first = first or ready
                between()
        shown = f"{returned:,} returned {self._shown(first)}" if returned else "nothing"
        self.step(f"epoll_wait({epoll.name}, 0 ms) {times:,} times", shown, start, clock())
        return returned

    def interest(self, epoll: Watcher) -> list[kernel.InterestEntry]:
        """The kernel's own interest list, from /proc/self/fdinfo."""
        start = self.clock()
        entries = kernel.interest_list(epoll.fd)
        shown = ", ".join(f"tfd {e.fd}: {e.mask_names}" for e in entries) or "empty"
        self.step(f"read /proc/self/fdinfo/{epoll.fd}", shown, start, self.clock())
        return entries

    # ---- reading, writing, ending ----------------------------------------------------

    def send(self, end: End, data: bytes, flags: int = 0) -> int:
        """send(2); the bytes the kernel took."""
        what = f"send({end.name}, {_bytes(len(data))}{', MSG_OOB' if flags else ''})"
        sent: int = self._call(Op.SEND, end, what, end.sock.send, data, flags)  # type: ignore[union-attr]
        return sent

    def recv(self, end: End, size: int) -> bytes:
        """recv(2); b"" at end of file."""
        assert end.sock is not None
        what = f"recv({end.name}, {size:,})"
        data: bytes = self._call(Op.RECV, end, what, end.sock.recv, size)
        return data

    def receive_quietly(self, end: End, size: int = 1024) -> int:
        """recv(2) with a record and without a step, for loops that spin; the bytes read."""
        start = self.clock()
        n_bytes = len(end.sock.recv(size))  # type: ignore[union-attr]
        self._record(Op.RECV, end, start, self.clock(), n_bytes, 0)
        return n_bytes

    def write(self, end: End, data: bytes) -> int:
        """write(2), for what is no socket."""
        what = f"write({end.name}, {_bytes(len(data))})"
        written: int = self._call(Op.WRITE, end, what, os.write, end.fd, data)
        return written

    def read(self, end: End, size: int) -> bytes:
        """read(2), for what is no socket."""
        data: bytes = self._call(Op.READ, end, f"read({end.name}, {size:,})", os.read, end.fd, size)
        return data

    def shutdown(self, end: End, how: int) -> None:
        """shutdown(2)."""
        name = {socket.SHUT_RD: "RD", socket.SHUT_WR: "WR", socket.SHUT_RDWR: "RDWR"}[how]
        what = f"shutdown({end.name}, SHUT_{name})"
        self._call(Op.SHUTDOWN, end, what, end.sock.shutdown, how)  # type: ignore[union-attr]

    def close(self, end: End) -> None:
        """close(2)."""
        self._call(Op.CLOSE, end, f"close({end.name})", end.close)
        if self._watched.get(end.fd) is end:
            del self._watched[end.fd]

    def reset(self, end: End) -> None:
        """Close so that the peer gets a reset: SO_LINGER with a time of 0."""
        assert end.sock is not None
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._call(Op.CLOSE, end, f"close({end.name}) with a reset", end.close)
        if self._watched.get(end.fd) is end:
            del self._watched[end.fd]

    def fill(self, end: End, piece: int = 65_536) -> int:
        """Write until it would block; the bytes the kernel took."""
        return self._repeat(
            f"write {end.name} until EAGAIN", lambda: os.write(end.fd, bytes(piece))
        )

    def drain(self, end: End, piece: int = 65_536) -> int:
        """Read until it would block or ends; the bytes read."""
        return self._repeat(f"read {end.name} until EAGAIN", lambda: len(os.read(end.fd, piece)))

    def _repeat(self, what: str, once: Callable[[], int]) -> int:
        start, total = self.clock(), 0
        try:
            while n_bytes := once():
                total += n_bytes
        except BlockingIOError:
            pass
        self.step(what, f"{total:,} bytes", start, self.clock())
        return total

    def attempt(self, action: Callable[..., T], *args: Any, **named: Any) -> T | str:
        """Do something the kernel may refuse: its result, or the name of the errno."""
        try:
            return action(*args, **named)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))

    def tried(self, action: Callable[..., object], *args: Any, **named: Any) -> str:
        """Do something the kernel may refuse: "ok", or the name of the errno."""
        result = self.attempt(action, *args, **named)
        return result if isinstance(result, str) else "ok"

    def do(self, what: str, action: Callable[..., T], *args: Any) -> T:
        """Do anything else, and write it into the steps as `what`."""
        return self._plain(what, action, *args)

    def _plain(self, what: str, action: Callable[..., T], *args: Any) -> T:
        start = self.clock()
        try:
            value = action(*args)
        except OSError as error:
            self.step(what, _refused(error), start, self.clock())
            raise
        self.step(what, _brief(value), start, self.clock())
        return value

    def _call(
        self, op: Op, end: End, what: str, action: Callable[..., Any], *args: Any, mask: int = 0
    ) -> Any:
        """Make a system call: a record, and a row of the steps."""
        start = self.clock()
        try:
            value = action(*args)
        except OSError as error:
            stop = self.clock()
            self._record(op, end, start, stop, -(error.errno or 0), mask)
            self.step(what, _refused(error), start, stop)
            raise
        stop = self.clock()
        if op is Op.ACCEPT:
            result, mask = value[0].fileno(), value[1][1]
        else:
            result = len(value) if isinstance(value, bytes) else value or 0
        self._record(op, end, start, stop, result, mask)
        moved = op in (Op.SEND, Op.WRITE)
        self.step(what, _bytes(result) if moved else _brief(value), start, stop)
        return value

    def _record(self, op: Op, end: End, start: int, stop: int, result: int, mask: int) -> None:
        with self._lock:
            self.recorder.write(op, end.conn, end.fd, start, stop, result, mask)

    # ---- waiting for a condition ------------------------------------------------------

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition that the kernel is asked about; TimeoutError if it stays away."""
        deadline = self.clock() + int(PATIENCE_S * 1e9)
        while not condition():
            if self.clock() > deadline:
                raise TimeoutError(f"{what}: not so after {PATIENCE_S:g} s")
            time.sleep(0.000_2)

    def arrived(self, end: End, n_bytes: int) -> None:
        """Wait until so many bytes can be read; at once except over TCP and UDP.

        FIONREAD takes the lock of a TCP socket, and the kernel wakes the watchers of the
        socket before it lets go of that lock; so when the bytes show, so does the event.
        """
        self.until(
            lambda: kernel.bytes_readable(end.fd) >= n_bytes,
            f"{n_bytes:,} bytes at {end.name}",
        )

    def in_state(self, end: End, *states: str) -> None:
        """Wait until a TCP socket is in one of the states, such as ``"CLOSE_WAIT"``."""
        assert end.sock is not None
        sock = end.sock
        self.until(lambda: kernel.tcp_info(sock).state in states, f"{end.name} in {states}")

    # ---- others who act ---------------------------------------------------------------

    def thread(self, function: Callable[..., T], *args: Any, **named: Any) -> "_Thread[T]":
        """Run a function in a thread, which is joined when the bench is cleared."""
        thread = _Thread(function, args, named)
        self._threads.append(thread)
        thread.start()
        return thread

    def asleep(self, function: Callable[..., T], *args: Any) -> "_Thread[T]":
        """Run a function in a thread; return once the kernel has put it to sleep, or it ended."""
        thread = self.thread(function, *args)
        self.quiet([thread])
        return thread

    def waiter(self, epoll: Watcher, timeout: float = PATIENCE_S) -> "_Thread[Any]":
        """Let a thread wait on an epoll, and return once the kernel has put it to sleep."""
        return self.asleep(self.wait, epoll, timeout)

    def quiet(self, threads: "Sequence[_Thread[Any]]") -> None:
        """Wait until each of the threads has ended or sleeps: nothing more will happen."""
        pid = os.getpid()
        self.until(
            lambda: all(not t.is_alive() or is_asleep(pid, t.native_id) for t in threads),
            "the threads at rest",
        )

    def child(self, target: str, ends: Sequence[End] = ()) -> Child:
        """Start another process that inherits `ends` under the same numbers."""
        start = self.clock()
        child = Child(target, fds=[end.fd for end in ends])
        self._children.append(child)
        inherits = ", ".join(end.name for end in ends)
        self.step(f"start a process that inherits {inherits}", child.pid, start, self.clock())
        return child


class _Thread(threading.Thread, Generic[T]):
    """A thread that keeps what its function returned or raised."""

    def __init__(self, function: Callable[..., T], args: Any, named: Any) -> None:
        super().__init__(name=f"bench {function.__name__}", daemon=True)
        self._function, self._args, self._named = function, args, named
        self._value: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._function(*self._args, **self._named)
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """Wait for the end of the function; its value, or its exception."""
        self.join(PATIENCE_S * 2)
        if self.is_alive():
            raise TimeoutError(f"{self.name} did not return within {PATIENCE_S * 2:g} s")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


def _refused(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, '?')}: {error.strerror or error}"


def _bytes(number: int) -> str:
    return "1 byte" if number == 1 else f"{number:,} bytes"


def _brief(value: object) -> str:
    """A result as the steps show it."""
    if value is None:
        return "0"
    if isinstance(value, bytes):
        return _bytes(len(value)) if value else "0 bytes: end of file"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_brief(part)}" for name, part in value.items())
    if isinstance(value, tuple) and value and isinstance(value[0], socket.socket):
        return f"fd {value[0].fileno()}"
    return str(value)
