"""``observe()``: record what an event loop of this interpreter does, asyncio's or another.

Three layers: the epoll object itself, whose waits return the kernel's masks, which
``selectors`` discards; the calls of the sockets that it watches; and asyncio's callbacks and
task steps by name. Each is put in place by replacing a name, and taken out again at the end.
"""

import asyncio
import errno
import os
import select
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from epolllab.checks import check_names
from epolllab.child import ChildDied, HeldInterrupts
from epolllab.events import FOREVER, Op, key_of
from epolllab.external.incidents import SaveWhen, Watchdog
from epolllab.kernel import require_linux
from epolllab.recording import decode, environment
from epolllab.recording.recorder import Recorder, check_capacity
from epolllab.recording.recording import Recording
from epolllab.recording.storage import local_path
from epolllab.recording.streaming import NotStored, Stream

__all__ = ["LAYERS", "Observation", "observe"]

LAYERS = ("epoll", "sockets", "callbacks")
"""The epoll object, the sockets' calls, and asyncio's callbacks."""

_clock = time.monotonic_ns
_READY, _CALLBACK = int(Op.READY), int(Op.CALLBACK)
_NONE = key_of(0, -1)
_key: ContextVar[int] = ContextVar("epolllab-key", default=_NONE)
"""The connection that a callback or task works for; tasks inherit it from their creator."""

_IN_C = {"uvloop": "uvloop's", "gevent": "gevent's"}
_LATE = {
    "trio._core._io_epoll": "trio takes select.epoll when it is imported",
    "twisted.internet.epollreactor": "Twisted takes select.epoll when its reactor is imported",
}


def observe(
    *,
    layers: Sequence[str] = LAYERS,
    capacity: int = 1_000_000,
    loop: asyncio.AbstractEventLoop | None = None,
    save_when: SaveWhen | None = None,
    record_to: str | os.PathLike[str] | None = None,
) -> "Observation":
    """Record the event loops of this interpreter, until the ``with`` block ends.

    Parameters
    ----------
    layers : sequence of str
        Any of ``"epoll"`` (waits, ready descriptors with the kernel's masks, register,
        modify, unregister), ``"sockets"`` (accept, recv, send, shutdown, connect, close of
        what is watched) and ``"callbacks"`` (asyncio's callbacks and task steps by name).
    capacity : int
        Rows kept of each thread; the oldest are overwritten and counted.
    loop : asyncio event loop, optional
        One that exists already; by default the one that runs in this thread, such as a
        notebook's. Loops made inside the block are found by themselves.
    save_when : SaveWhen, optional
        Save the ring when the loop spins or a callback blocks it; see :class:`SaveWhen`.
    record_to : path-like, optional
        A new or an empty folder, to which a child process writes all rows, for recordings
        larger than memory; :func:`epolllab.recording.open` reads it. Rows that are overwritten
        before they are written are counted, and the end of the block warns of them.

    Returns
    -------
    Observation
        For ``with observe() as seen:``; ``seen.recording()`` at any time, also afterwards.

    Notes
    -----
    asyncio, and what is built on it (aiohttp, uvicorn, websockets, Tornado), has all layers.
    Trio, Twisted's own reactor and ``selectors`` have epoll and sockets; Trio and Twisted
    must be imported inside the block. The loops of uvloop and gevent are in C: use
    :func:`epolllab.trace`. Threads without a loop of their own are not recorded.

    Examples
    --------
    >>> with epolllab.observe() as seen:  # doctest: +SKIP
    ...     await main()
    >>> seen.recording().callbacks()  # doctest: +SKIP
    """
    require_linux("observe()")
    names = check_names("layers", layers, LAYERS)
    check_capacity("capacity", capacity)
    if loop is not None and not isinstance(loop, asyncio.AbstractEventLoop):
        raise TypeError(f"loop must be an asyncio event loop, not {type(loop).__name__}")
    if save_when is not None and not isinstance(save_when, SaveWhen):
        raise TypeError(f"save_when must be a SaveWhen, not {type(save_when).__name__}")
    folder = None if record_to is None else local_path(record_to, "record_to")
    return Observation(names, capacity, loop, save_when, folder)


class _Thread:
    """What one thread's loop records, and the callback that it runs now."""

    def __init__(self, capacity: int, stream: Stream | None, notes: list[str]) -> None:
        self.tid = threading.get_native_id()
        self.ident = threading.get_ident()
        self.recorder = _recorder(capacity, stream, self.tid, notes)
        self.stage, self.settle = self.recorder.stage, self.recorder.settle
        self.running: tuple[int, int] | None = None
        """Start and name of the callback."""

    def settle_if_ended(self) -> None:
        """Settle the rows since its last wait, if it is this thread or one that has ended.

        A new thread may have the number of one that has ended, and write its rows here.
        """
        alive = {thread.ident for thread in threading.enumerate()}
        if self.ident == threading.get_ident() or self.ident not in alive:
            self.settle()


def _recorder(capacity: int, stream: Stream | None, tid: int, notes: list[str]) -> Recorder:
    """A recorder whose rows are stored if there is a stream that works."""
    if stream is not None:
        try:
            return stream.recorder(capacity, thread=tid)
        except (ChildDied, OSError) as error:  # which the observed program must not see
            notes.append(f"rows of thread {tid} are not stored: {error}")
    return Recorder(capacity)


class Observation:
    """What :func:`observe` returns.

    Attributes
    ----------
    notes : list of str
        What could not be observed, and why.
    saved : list of pathlib.Path
        Files of incidents.
    """

    def __init__(
        self,
        layers: tuple[str, ...],
        capacity: int,
        loop: asyncio.AbstractEventLoop | None,
        save_when: SaveWhen | None,
        record_to: Path | None = None,
    ) -> None:
        self.layers = layers
        self.notes: list[str] = []
        self.saved: list[Path] = []
        self.is_active = False
        self.threads: dict[int, _Thread] = {}
        self.keys: dict[int, int] = {}
        self.names: list[str] = []
        self._capacity, self._loop, self._save_when = capacity, loop, save_when
        self._numbers: dict[Any, int] = {}
        self._serial = 0
        self._adding = threading.Lock()
        self._record_to = record_to
        self._stream: Stream | None = None
        self._undo: list[tuple[Any, str, Any]] = []
        self._watchdog: Watchdog | None = None
        self._facts: dict[str, Any] = {}
        self._late: list[str] = []

    def __enter__(self) -> "Observation":
        if _active:
            raise RuntimeError("an observation is active already, and two would record each other")
        self._facts = environment.collect(poller="epoll", source="observe", layers=self.layers)
        self._start_stream()
        _active.append(self)
        self.is_active = True
        try:
            self._install()
        except BaseException:
            if self._stream is not None:
                self._stream.abandon()
            self.__exit__(None, None, None)
            raise
        return self

    def _start_stream(self) -> None:
        """Start the child that stores the rows, if they are to be stored."""
        if self._record_to is None:
            return
        with HeldInterrupts():
            self._stream = Stream(self._record_to, self._facts)
        self._stream.until_ready()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for owner, name, old in reversed(self._undo):
            if old is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, old)
        self._undo.clear()
        self.is_active = False
        with suppress(ValueError):
            _active.remove(self)
        if self._watchdog is not None:
            self._watchdog.stop()
        for thread in list(self.threads.values()):
            thread.settle_if_ended()
        if not self.threads:
            self._explain()
        if self._stream is not None:
            self._stream.finish(self._metadata())
            with suppress(*([] if kind is None else [NotStored])):
                self._stream.raise_if_failed()

    def _metadata(self) -> dict[str, Any]:
        return {**self._facts, "callbacks": list(self.names), "notes": list(self.notes)}

    def recording(self) -> Recording:
        """What was recorded so far; rows since a running thread's last wait are not in it."""
        for thread in list(self.threads.values()):
            thread.settle_if_ended()
        several = [(thread.tid, thread.recorder.snapshot()) for thread in self.threads.values()]
        arrays = [(tid, decode.Decoder().array(one.words)) for tid, one in several]
        lost = sum(one.overwritten for _, one in several)
        return Recording(decode.merge(arrays).tobytes(), self._metadata(), lost)

    def save(self, path: str | os.PathLike[str], *, redact: bool = False) -> Path:
        """Save the recording; see :meth:`Recording.save`."""
        return self.recording().save(path, redact=redact)

    def __repr__(self) -> str:
        state = "active" if self.is_active else "ended"
        rows = sum(thread.recorder.staged for thread in self.threads.values())
        return f"<Observation {state}, {len(self.threads)} threads, {rows} rows staged>"

    # ---- for what is put in place ---------------------------------------------------------

    def thread(self) -> _Thread:
        """The recorder of this thread, which has a loop."""
        ident = threading.get_ident()
        if ident not in self.threads:
            with self._adding:  # so that files have the threads in the same order
                self.threads[ident] = _Thread(self._capacity, self._stream, self.notes)
        return self.threads[ident]

    def new_key(self, fd: int, *, is_connection: bool) -> int:
        """Give a descriptor a serial if it is a connection."""
        self._serial += is_connection
        key = self.keys[fd] = key_of(self._serial if is_connection else 0, fd)
        return key

    def number_of(self, what: Any) -> int:
        """The number of a callback's name."""
        try:
            return self._numbers[what]
        except KeyError:
            name = what if isinstance(what, str) else getattr(what, "co_qualname", None)
            name = name or what.__qualname__
            if name not in self.names:
                self.names.append(name)
                if self._stream is not None:
                    self._stream.set_item("callbacks", len(self.names) - 1, name)
            number = self._numbers[what] = self.names.index(name)
            return number

    def _patch(self, owner: Any, name: str, value: Any) -> None:
        self._undo.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    # ---- putting it in place ---------------------------------------------------------------

    def _install(self) -> None:
        if "epoll" in self.layers:
            self._install_epoll()
        if "sockets" in self.layers:
            self._install_sockets()
        if "callbacks" in self.layers:
            self._patch(asyncio.events.Handle, "_run", _recorded_run(self))
        if self._save_when is not None:
            self._watchdog = Watchdog(self._save_when, self)

    def _install_epoll(self) -> None:
        self._late = [why for name, why in _LATE.items() if name in sys.modules]
        self._patch(select, "epoll", RecordedEpoll)
        self._patch(selectors.EpollSelector, "_selector_cls", RecordedEpoll)
        for module in [m for n, m in list(sys.modules.items()) if n != "select" and m is not None]:
            if getattr(module, "__dict__", {}).get("epoll") is _REAL:
                self._patch(module, "epoll", RecordedEpoll)
        loop = self._loop or asyncio._get_running_loop()
        if loop is not None:
            self._swap(loop)

    def _swap(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put a recorded epoll into the selector of a loop that exists."""
        selector = getattr(loop, "_selector", None)
        # jupyter's kernels and nest_asyncio keep the loop's own selector.
        if not isinstance(selector, selectors.EpollSelector):
            owner = next((n for n in _IN_C if type(loop).__module__.startswith(n)), None)
            why = f"{_IN_C[owner]} loop is in C" if owner else f"{type(loop).__name__} has no epoll"
            self.notes.append(f"{why}: use epolllab.trace(pid) from another process")
            return
        inner = selector._selector  # type: ignore[attr-defined]
        for fd in selector._fd_to_key:  # type: ignore[attr-defined]
            self.new_key(fd, is_connection=_is_connection(fd))
        self._patch(selector, "_selector", RecordedEpoll._around(inner, self))

    def _install_sockets(self) -> None:
        for name, op in (
            ("recv", Op.RECV), ("recv_into", Op.RECV), ("send", Op.SEND), ("sendmsg", Op.SEND),
            ("shutdown", Op.SHUTDOWN),
        ):  # fmt: skip
            self._patch(socket.socket, name, _recorded_call(self, name, int(op)))
        self._patch(socket.socket, "accept", _recorded_accept(self))
        self._patch(socket.socket, "connect", _recorded_connect(self))
        self._patch(socket.socket, "_real_close", _recorded_close(self))

    def _explain(self) -> None:
        """Say why nothing was recorded."""
        self.notes.append("no event loop waited during the observation")
        self.notes += [f"{why}, so import it inside the block" for why in self._late]
        for name, whose in _IN_C.items():
            if name in sys.modules:
                self.notes.append(f"{whose} loop is in C: use epolllab.trace(pid) for it")


_ABSENT = object()
_active: list[Observation] = []
_REAL = getattr(select, "epoll", None)


class RecordedEpoll:
    """Stands in for ``select.epoll``, which cannot be subclassed.

    Its calls are recorded while an observation is active, and are the real ones otherwise.
    """

    __slots__ = ("_poll", "_real", "_seen", "fileno")
    _poll: Callable[..., list[tuple[int, int]]]
    _real: Any
    _seen: Observation
    fileno: Callable[[], int]

    def __new__(cls, *args: Any, **options: Any) -> Any:
        real = _REAL(*args, **options)  # type: ignore[misc]
        return cls._around(real, _active[0]) if _active else real

    @classmethod
    def _around(cls, real: Any, seen: Observation) -> "RecordedEpoll":
        self = object.__new__(cls)
        self._real, self._poll, self._seen = real, real.poll, seen
        self.fileno = real.fileno
        return self

    @staticmethod
    def fromfd(fd: int) -> Any:
        """As ``select.epoll.fromfd``; not recorded."""
        return _REAL.fromfd(fd)  # type: ignore[union-attr]

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Wait; a wait row, and a ready row for each descriptor returned."""
        seen = self._seen
        if not seen.is_active:
            return self._poll(timeout, maxevents)
        thread = seen.threads.get(threading.get_ident()) or seen.thread()
        thread.settle()
        forever = timeout is None or timeout < 0
        timeout_us = FOREVER if forever else min(int(timeout * 1e6), FOREVER - 1)  # type: ignore[operator]
        start = _clock()
        try:
            ready = self._poll(timeout, maxevents)
        except OSError as error:
            number = -(error.errno or errno.EIO)
            thread.recorder.stage_wait(self.fileno(), start, _clock(), number, timeout_us)
            raise
        end = _clock()
        thread.recorder.stage_wait(self.fileno(), start, end, len(ready), timeout_us)
        find, stage = seen.keys.get, thread.stage
        for fd, mask in ready:
            stage((end, end, find(fd, fd), mask, _READY))
        return ready

    def register(self, fd: Any, eventmask: int = select.POLLIN | 2 | 4) -> None:
        """Register; a row with the mask."""
        number = fd if isinstance(fd, int) else fd.fileno()
        if number not in self._seen.keys and self._seen.is_active:
            self._seen.new_key(number, is_connection=_is_connection(number))
        self._control(Op.REGISTER, number, eventmask, self._real.register, number, eventmask)

    def modify(self, fd: Any, eventmask: int) -> None:
        """Modify; a row with the mask."""
        number = fd if isinstance(fd, int) else fd.fileno()
        self._control(Op.MODIFY, number, eventmask, self._real.modify, number, eventmask)

    def unregister(self, fd: Any) -> None:
        """Unregister; a row."""
        number = fd if isinstance(fd, int) else fd.fileno()
        self._control(Op.UNREGISTER, number, 0, self._real.unregister, number)

    def _control(self, op: Op, fd: int, mask: int, call: Callable[..., Any], *args: Any) -> None:
        seen = self._seen
        if not seen.is_active:
            call(*args)
            return
        start, result = _clock(), 0
        try:
            call(*args)
        except OSError as error:
            result = -(error.errno or errno.EIO)
            raise
        finally:
            row = (start, _clock(), seen.keys.get(fd, fd), result, (mask & 0xFFFF_FFFF) << 8 | op)
            seen.thread().stage(row)

    def close(self) -> None:
        """Close the epoll."""
        self._real.close()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return bool(self._real.closed)

    def __enter__(self) -> "RecordedEpoll":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_connection(fd: int) -> bool:
    """Whether a descriptor is a socket with a peer on a network."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:  # no socket
        return False
    try:
        return sock.family != socket.AF_UNIX and bool(sock.getpeername())
    except OSError:  # no peer
        return False
    finally:
        sock.detach()


def _recorded_call(seen: Observation, name: str, op: int) -> Callable[..., Any]:
    """A method of socket.socket that writes a row for sockets that are watched."""
    real: Any = getattr(socket.socket, name)
    keys, threads, fileno, ident = (
        seen.keys,
        seen.threads,
        socket.socket.fileno,
        threading.get_ident,
    )
    returns_bytes, clock = name == "recv", _clock

    def method(self: socket.socket, *args: Any, **options: Any) -> Any:
        key = keys.get(fileno(self))
        thread = threads.get(ident())
        if key is None or thread is None:
            return real(self, *args, **options)
        start = clock()
        try:
            # With one argument, as nearly always, the call is quicker without unpacking.
            if len(args) == 1 and not options:
                result = real(self, args[0])
            else:
                result = real(self, *args, **options)
        except OSError as error:
            thread.stage((start, clock(), key, -(error.errno or errno.EIO), op))
            raise
        moved = len(result) if returns_bytes else result or 0
        thread.stage((start, clock(), key, moved, op))
        return result

    method.__name__, method.__doc__ = name, real.__doc__
    return method


def _recorded_accept(seen: Observation) -> Callable[..., Any]:
    real = socket.socket.accept

    def accept(self: socket.socket) -> Any:
        key, thread = seen.keys.get(self.fileno()), seen.threads.get(threading.get_ident())
        if key is None or thread is None:
            return real(self)
        start, listener = _clock(), self.fileno()
        try:
            made, peer = real(self)
        except OSError as error:
            thread.stage((start, _clock(), key, -(error.errno or errno.EIO), int(Op.ACCEPT)))
            raise
        end, fd = _clock(), made.fileno()
        conn = seen.new_key(fd, is_connection=True) >> 32
        port = peer[1] if isinstance(peer, tuple) and len(peer) > 1 else 0
        thread.stage((start, end, key_of(conn, listener), fd, port << 8 | Op.ACCEPT))
        return made, peer

    return accept


def _recorded_connect(seen: Observation) -> Callable[..., Any]:
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        thread = seen.threads.get(threading.get_ident())
        if thread is None or self.family == socket.AF_UNIX:
            return real(self, address)
        key = seen.keys.get(self.fileno()) or seen.new_key(self.fileno(), is_connection=True)
        start, result = _clock(), 0
        try:
            return real(self, address)
        except OSError as error:
            result = -(error.errno or errno.EIO)
            raise
        finally:
            thread.stage((start, _clock(), key, result, int(Op.CONNECT)))

    return connect


def _recorded_close(seen: Observation) -> Callable[..., Any]:
    real = socket.socket._real_close  # type: ignore[attr-defined]

    def _real_close(self: socket.socket, *args: Any) -> None:
        key = seen.keys.pop(self.fileno(), None)
        thread = seen.threads.get(threading.get_ident())
        start = _clock()
        real(self, *args)
        if key is not None and thread is not None:
            thread.stage((start, _clock(), key, 0, int(Op.CLOSE)))

    return _real_close


def _recorded_run(seen: Observation) -> Callable[[Any], None]:
    """``asyncio.Handle._run`` with a row for each callback and task step."""
    real = asyncio.events.Handle._run
    keys, threads, ident = seen.keys, seen.threads, threading.get_ident
    numbers, number_of, task, coroutine = (
        seen._numbers, seen.number_of, asyncio.Task, asyncio.Task.get_coro,
    )  # fmt: skip
    is_watched, clock = seen._save_when is not None, _clock

    def _run(self: Any) -> None:
        thread = threads.get(ident()) or seen.thread()
        context, callback = self._context, self._callback
        owner = getattr(callback, "__self__", None)
        key = context.get(_key, _NONE)
        if isinstance(owner, task):
            running = coroutine(owner)
            what = getattr(running, "cr_code", None) or type(running)
        else:
            what = getattr(callback, "__code__", None) or _named(callback)
            fd = getattr(owner, "_sock_fd", None)
            if fd is None and self._args:  # a protocol's connection_made(transport)
                fd = getattr(self._args[0], "_sock_fd", None)
            if fd is not None and keys.get(fd, _NONE) != key:
                key = keys.get(fd, _NONE)
                context.run(_key.set, key)
        number = numbers.get(what)
        if number is None:
            number = number_of(what)
        start = clock()
        if is_watched:
            thread.running = start, number
            real(self)
            thread.running = None
        else:
            real(self)
        thread.stage((start, clock(), key, 0, number << 8 | _CALLBACK))

    return _run


def _named(callback: Any) -> Any:
    """What gives a callback its name: code, a qualified name, or a type; never an object."""
    while isinstance(callback, partial):
        callback = callback.func
    found = getattr(callback, "__code__", None) or getattr(callback, "__qualname__", None)
    return found or type(callback)
