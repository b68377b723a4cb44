"""start_server() and the handle that it returns.

The handle never touches the loop's connections: it asks the host, which runs the loop in
a thread or in a child process.
"""

import os
import socket
import time
import warnings
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from epolllab import kernel
from epolllab.checks import check_bool, check_int, check_timeout, checked
from epolllab.child import HeldInterrupts
from epolllab.kernel.tcp import check_sockets
from epolllab.kernel.uring import require_uring
from epolllab.notebook import cells, html
from epolllab.recording import environment
from epolllab.recording.recording import Recording
from epolllab.recording.streaming import NotStored, Stream
from epolllab.schema import EVENTS, INTEREST, REQUESTS, WAKEUPS, returns
from epolllab.server.hosts import Host, start_host
from epolllab.server.http import Handler
from epolllab.server.listener import listen, room_for_connections
from epolllab.server.options import (
    EAGER,
    LEVEL,
    Accept,
    Lifecycle,
    ServerOptions,
    ServerPoller,
    Trigger,
)
from epolllab.server.protocols import ProtocolName
from epolllab.server.session import Session

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Server", "ServerDied", "servers", "start_server", "stop_all"]


class ServerDied(RuntimeError):
    """The server's loop ended with an error; the message contains its traceback.

    Raised once, by the next call that asks the server for something or stops it. The
    recording up to the error stays readable: call again. Attributes, displays and
    :meth:`Server.tail` do not raise it.
    """


class Server:
    """A running server, returned by :func:`start_server`; a context manager.

    The server stops when the last reference to its handle is dropped. A notebook displays
    the handle as a card with the server's state.

    Attributes
    ----------
    address : tuple of (str, int)
        Host and port it listens on.
    options : ServerOptions
        The options it was started with.
    environment : dict
        Kernel, CPU, Python, limits and load when it was started.
    plot : object
        Charts of the server, such as ``server.plot.timeline()``.
    """

    plot: ClassVar[Any]

    def __init__(
        self,
        address: tuple[str, int],
        options: ServerOptions,
        host: Host,
        environment: dict[str, Any],
    ) -> None:
        self.address = address
        self.options = options
        self._host = host
        self.environment = environment
        self._error_raised = False
        self._finalizer = weakref.finalize(self, _stop_quietly, host)

    @property
    def url(self) -> str:
        """The address for a browser or curl."""
        host, port = self.address
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.address[1]

    @property
    def pid(self) -> int:
        """The process that the loop runs in."""
        return self._host.pid

    @property
    def is_running(self) -> bool:
        """Whether the loop runs."""
        return self._host.running()

    @property
    def error(self) -> str | None:
        """Traceback of the error that ended the loop; None while it runs and after a stop."""
        failure = self._host.failure()
        return None if failure is None else failure[0]

    @property
    def last_fault(self) -> str | None:
        """Traceback of the last exception in a handler or protocol, or the last failed call.

        Also why events could not be stored, with `record_to`.
        """
        stream = self._host.stream
        failures = self._host.last_fault(), None if stream is None else stream.error
        return "\n".join(filter(None, failures)) or None

    @property
    def unavailable(self) -> str | None:
        """Why the last :meth:`stats` had None for counters; None if it had them all.

        A child process that was killed or suspended, or that is too busy, does not reply.
        """
        return self._host.unavailable

    @checked(raise_error=check_bool)
    def stats(self, *, raise_error: bool = True) -> dict[str, Any]:
        """Counters of the loop; cheap while it runs.

        Parameters
        ----------
        raise_error : bool
            False leaves an error that ended the loop to be raised by the next call. Use
            it in displays, together with :attr:`error`.

        Returns
        -------
        dict
            ``connections`` open now; ``accepted``, ``closed``, ``requests``,
            ``wakeups`` (waits that returned) and ``events`` (descriptors returned)
            since the start; ``lost`` connections ended by an error such as a reset;
            ``faults``, exceptions in a protocol or handler; ``timeouts``; ``pauses``
            in accepting, because of descriptors or max_connections; ``errors``, failed
            calls such as an accept, which :attr:`last_fault` describes; ``stale`` events
            whose descriptor the loop had closed before; ``rebuilds`` of the epoll
            instance, because stale events of a forked process's duplicates did not end;
            ``staged`` events that readers see only after the loop's next wait;
            ``recorded`` and ``overwritten`` events; with `record_to` also ``stored`` events,
            in complete files, and ``not_stored``, which are lost, while ``errors`` counts
            failed attempts to store too. A counter that a child process cannot be asked for
            is None, and :attr:`unavailable` says why.
        """
        if raise_error:
            self._raise_if_failed()
        stats, written = self._host.stats(), self._host.ring.written()
        kept = min(written, self.options.capacity)
        stats = {**stats, "recorded": kept, "overwritten": written - kept}
        if (stream := self._host.stream) is not None:
            n_errors = stats["errors"]
            stats["errors"] = n_errors if n_errors is None else n_errors + stream.n_errors
            stats.update(stream.counts)
        return stats

    def tail(self, newest: int = 1000) -> Recording:
        """The `newest` events, cheap enough to be read ten times a second.

        Unlike :meth:`recording` it asks the loop nothing, its metadata holds only the
        options, and it does not raise an error that ended the loop. `newest` may be more
        than there are, but not negative.
        """
        snapshot = self._host.ring.read(check_int("newest", newest, 0))
        return Recording(snapshot.rows, self.options.metadata(), snapshot.overwritten)

    def recording(self) -> Recording:
        """Everything recorded so far; the server continues."""
        self._raise_if_failed()
        snapshot = self._host.ring.read()
        return Recording(
            snapshot.rows,
            {
                **self.environment,
                **environment.at_end(),
                **self.options.metadata(),
                "address": list(self.address),
                "pid": self.pid,
                "stats": self._host.stats(),
                "last_fault": self.last_fault,
                "targets": self._host.targets(),
            },
            snapshot.overwritten,
        )

    @returns(EVENTS)
    def events(self, *, relative: bool = False) -> "pd.DataFrame":
        """One row per event, in the order in which they were recorded.

        Parameters
        ----------
        relative : bool
            As for :meth:`epolllab.Recording.events`.
        """
        return self.recording().events(relative=relative)

    @returns(WAKEUPS)
    def wakeups(self, *, relative: bool = False) -> "pd.DataFrame":
        """One row per wait: how long the loop slept, and what it did next.

        Parameters
        ----------
        relative : bool
            As for :meth:`epolllab.Recording.events`.
        """
        return self.recording().wakeups(relative=relative)

    @returns(REQUESTS)
    def requests(self) -> "pd.DataFrame":
        """One row per request, in the order of the responses."""
        return self.recording().requests()

    @returns(INTEREST)
    @checked(raise_error=check_bool)
    def interest(self, *, raise_error: bool = True) -> "pd.DataFrame":
        """One row per descriptor: the kernel's interest list next to the server's own table.

        Parameters
        ----------
        raise_error : bool
            As for :meth:`stats`.

        Raises
        ------
        TimeoutError
            The server's process does not reply; with ``raise_error=False`` the frame is
            empty then, as it is after a stop.

        Notes
        -----
        poll and select keep no list in the kernel, so only the program's side exists.
        The two sides are read one after the other while the loop runs, so a connection
        that is just opening or closing may appear on one side only; call again.
        """
        from epolllab import frames

        if raise_error:
            self._raise_if_failed()
        try:
            entries, table = self._host.interest()
        except TimeoutError:
            if raise_error:
                raise
            entries, table = [], {}
        return frames.interest_list(entries, table, inodes=_inodes(self.pid, table))

    @checked(timeout=check_timeout)
    def settle(self, timeout: float = 5.0) -> "Server":
        """Wait until no connection is open and every event so far can be read.

        A client has its response before the server has closed the connection and
        recorded that. Without this wait, a recording may end in between. Returns the
        server, as in ``server.settle().events()``. Raises TimeoutError if connections are
        still open after `timeout` seconds, such as a client's keep-alive connections.
        """
        deadline = time.monotonic() + timeout
        while (stats := self.stats())["connections"] != 0 or stats["staged"]:
            if time.monotonic() > deadline:
                n_open = stats["connections"]
                found = f"{self.unavailable}" if n_open is None else f"{n_open} connections open"
                raise TimeoutError(
                    f"settle() timed out after {timeout} s with {found}; close the connections, "
                    "or read the recording as it is"
                )
            time.sleep(0.001)
        return self

    @checked(socks=check_sockets, timeout=check_timeout)
    def until_idle(self, *socks: socket.socket, timeout: float = 10.0) -> "Server":
        """Wait until the bytes sent have arrived and the server sleeps in its poller.

        Use it between something that a client does and a reading of the server. It asks
        the kernel, so it is reliable on a busy machine too. Returns the server.

        Parameters
        ----------
        *socks : socket.socket
            Client sockets whose sent bytes and FINs must have been acknowledged first.
        timeout : float
            Seconds after which TimeoutError is raised: the server spins, or it is still
            sending a response.
        """
        if not self.options.process:
            raise ValueError(
                "until_idle() needs a server in its own process: start it with process=True"
            )
        self._raise_if_failed()
        kernel.until_idle(self.pid, *socks, timeout=timeout)
        return self

    def stop(self) -> None:
        """Stop the server and wait until it has ended. Further calls do nothing.

        A handler may call it too: the loop then ends after its current batch. Raises
        TimeoutError if a handler or protocol does not return, and NotStored if events could
        not be stored in the folder `record_to`.
        """
        with HeldInterrupts():
            self._host.stop()
            _running.pop(id(self), None)
            self._finalizer.detach()
        self._raise_if_failed()
        if self._host.stream is not None:
            self._host.stream.raise_if_failed()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.stop()
        except (ServerDied, NotStored):
            if kind is None:
                raise

    def _raise_if_failed(self) -> None:
        """Raise the error that ended the loop, unless it was raised before."""
        if self._error_raised or self.is_running:
            return
        failure = self._host.failure()
        if failure is not None:
            self._error_raised = True
            text, cause = failure
            raise ServerDied(
                f"the loop of {self.url} ended with an error. The recording up to the error is "
                f"still readable: call again.\n\n{text}"
            ) from cause

    def __repr__(self) -> str:
        rows, error = self._summary(), self.error
        reason = f", error: {error.strip().splitlines()[-1]}" if error else ""
        has_faults = rows["faults"] not in ("0", "unknown")
        faults = f", {rows['faults']} faults (see last_fault)" if has_faults else ""
        return (
            f"<epolllab server {self.url} {rows['loop']}, {rows['state']}, "
            f"{rows['connections now']} connections, {rows['events recorded']} events recorded, "
            f"{rows['events overwritten']} overwritten{faults}{reason}>"
        )

    def _repr_html_(self) -> str:
        problem = self.error or self.last_fault
        return html.card(f"epolllab server {self.url}", self._summary(), problem)

    def _summary(self) -> dict[str, str]:
        options, stats = self.options, self.stats(raise_error=False)
        state = "running" if self.is_running else "stopped" if self.error is None else "died"
        return {
            "loop": options.loop,
            "runs in": f"process {self.pid}" if options.process else "a thread",
            "state": state,
            "connections now": _count(stats["connections"]),
            "requests": _count(stats["requests"]),
            "faults": _count(stats["faults"]),
            "events recorded": f"{stats['recorded']:,}" if options.record else "none",
            "events overwritten": f"{stats['overwritten']:,}",
            **({"events stored": f"{stats['stored']:,}"} if "stored" in stats else {}),
            **({"events not stored": f"{n:,}"} if (n := stats.get("not_stored")) else {}),
        }


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _inodes(pid: int, fds: Iterable[int]) -> dict[int, int]:
    """The inode behind each descriptor now, which shows that a number was reused."""
    found = {}
    for fd in fds:
        with suppress(OSError):  # closed since
            found[fd] = os.stat(f"/proc/{pid}/fd/{fd}").st_ino
    return found


def _stop_quietly(host: Host) -> None:
    """Stop the server of a handle that was dropped."""
    try:
        host.stop()
        if host.stream is not None:
            host.stream.raise_if_failed()
    except (TimeoutError, NotStored) as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)


_running: "weakref.WeakValueDictionary[int, Server]" = weakref.WeakValueDictionary()


def servers() -> list[Server]:
    """The servers running now, in the order of their ports."""
    # A list of the references is made in one step, while other threads start and stop servers.
    handles = [reference() for reference in _running.valuerefs()]
    found = [handle for handle in handles if handle is not None and handle.is_running]
    return sorted(found, key=lambda server: server.port)


def stop_all() -> None:
    """Stop every server of this interpreter; then raise the first error of a stop, if any."""
    failures: list[Exception] = []
    for server in servers():
        try:
            server.stop()
        except (ServerDied, TimeoutError) as error:
            failures.append(error)
    if failures:
        raise failures[0]


def start_server(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    poller: ServerPoller = "epoll",
    trigger: Trigger = LEVEL,
    lifecycle: Lifecycle = EAGER,
    protocol: ProtocolName | Callable[[], Session] = "hello",
    handler: Handler | None = None,
    drain: bool | None = None,
    recv_size: int = 16_384,
    max_events: int = 1_023,
    accept: Accept | int | None = None,
    backlog: int = 4_096,
    send_buffer: int | None = None,
    recv_buffer: int | None = None,
    nodelay: bool = True,
    cork: bool = False,
    max_connections: int | None = None,
    max_request_bytes: int = 1 << 20,
    request_timeout: float | None = 30.0,
    idle_timeout: float | None = None,
    capacity: int = 1_000_000,
    record: bool = True,
    record_to: str | os.PathLike[str] | None = None,
    process: bool = False,
) -> Server:
    """Start a server in the background; return its handle once it listens.

    The server runs until its ``stop()``, until the end of a ``with`` block, or until the
    last reference to the handle is dropped. Running a notebook cell again first stops the
    server that the cell started before; where the front end sends no cell id, as nbclient
    and consoles do, only if both have the same fixed `port`.

    Parameters
    ----------
    host : str
        Address to bind; of a name with several, the first that this machine has. An
        address that is not loopback makes the server reachable from other machines, and
        warns.
    port : int
        0 lets the kernel choose a free port.
    poller : {"epoll", "poll", "select", "io_uring"}
        The system call that the loop waits in. ``"io_uring"`` (Linux 6.1) completes calls
        that were submitted in advance instead of reporting readiness, see
        :mod:`epolllab.server.completions`: trigger, lifecycle, drain, accept and cork have
        no meaning there.
    trigger : {"level", "edge"}
        Whether epoll reports at every wait that something *is* ready, or once that
        something *became* ready (EPOLLET). poll and select are level-triggered only.
    lifecycle : {"eager", "howto", "once", "oneshot"}
        How a connection's interest mask is managed; see
        :mod:`epolllab.server.lifecycles`. ``"once"`` needs edges, ``"oneshot"`` epoll.
    protocol : {"hello", "http", "echo"} or callable
        The how-to's fixed response, HTTP/1.1, or every byte sent back; or a callable
        that returns a :class:`Session` for each connection.
    handler : callable, optional
        For ``"http"``: ``handler(request)`` returns a :class:`Response`, bytes or a
        str. It runs in the loop and blocks it until it returns.
    drain : bool, optional
        Read each ready connection until EAGAIN rather than once. The default is True
        for edge, where one read can strand the remaining bytes, and False for level.
    recv_size : int
        Bytes that each recv asks for; with io_uring, the size of a provided buffer, at
        most 1 MiB.
    max_events : int
        Maximum number of descriptors that one epoll_wait returns.
    accept : {"drain", "ask"} or int, optional
        How many connections are accepted per event of the listener. ``"drain"``, the
        default: until EAGAIN. ``"ask"``: as many as TCP_INFO says are queued, which saves
        the accept that fails. A number: at most that many; 1 is the default of the
        ``"howto"`` life cycle with level, as in the how-to.
    backlog : int
        Length of the accept queue; the kernel limits it to net.core.somaxconn.
    send_buffer, recv_buffer : int, optional
        SO_SNDBUF and SO_RCVBUF in bytes; the kernel doubles them. Setting one disables
        the kernel's automatic tuning of that buffer.
    nodelay : bool
        TCP_NODELAY, set on the listener; accepted sockets inherit it.
    cork : bool
        TCP_CORK around each response.
    max_connections : int, optional
        Maximum number of open connections; further ones wait in the accept queue.
    max_request_bytes : int
        A larger request is refused with 413 or 431. So is one with more than 100 header
        lines, and with 414 one whose first line has more than 8,192 bytes.
    request_timeout : float, optional
        Seconds in which a whole request must arrive, head and body, from its first byte;
        blank lines before it count. A slower one gets a 408, and the connection is closed.
        For ``"hello"``, ``"http"`` and sessions that set ``in_request``. None: no limit.
    idle_timeout : float, optional
        Seconds after which a silent connection is closed; in the middle of an HTTP
        request with a 408.
    capacity : int
        Events kept (40 bytes each); newer events overwrite the oldest.
    record : bool
        False runs the loop without a recorder.
    record_to : path-like, optional
        A new or an empty folder, to which a child process writes all events, for
        recordings larger than memory; :func:`epolllab.recording.open` reads it. Events that
        are overwritten before they are written are counted, see :meth:`Server.stats`. If
        this process is killed, the counters and the request targets, which are written last,
        are missing.
    process : bool
        Run the loop in a child process, so that it does not compete with the notebook's
        own work for the interpreter lock. Same handle, same frames.

    Raises
    ------
    ValueError, TypeError
        Invalid or contradictory options; nothing has been opened.
    OSError
        The folder `record_to` is not empty, or cannot be written to.
        The address is in use or not one of this machine; the system has no epoll; there
        are too few descriptors for `max_connections`. NotPossible: io_uring is refused here.
    RuntimeError, TimeoutError
        The loop ended when it started, such as with select where more than 1,023 descriptors
        are open; or its thread or process did not start within 30 s.

    Examples
    --------
    >>> import epolllab
    >>> with epolllab.start_server() as server:
    ...     run = epolllab.run_clients(server, requests=100, progress=False)
    ...     server.stats()["requests"]
    100
    """
    options = ServerOptions(**locals())  # the parameters, which are the only locals here
    cells.stop_previous(options.port)
    kernel.require_linux("start_server()")
    if options.poller == "io_uring":
        require_uring()
    # Before the loop runs, which would disturb the measurement of clock and recorder.
    facts = environment.collect(recorder_cost_ns=None if options.record else 0.0)
    server: Server | None = None
    stream: Stream | None = None
    try:
        with HeldInterrupts():
            if options.record_to is not None:
                stream = Stream(Path(options.record_to), {**facts, **options.metadata()})
        if stream is not None:
            stream.until_ready()
        with HeldInterrupts(), listen(options) as listener:
            address = listener.getsockname()[:2]
            with room_for_connections(options):
                server = Server(address, options, start_host(listener, options, stream), facts)
        server._host.until_ready()
        if stream is not None:
            stream.note(address=list(address), pid=server.pid)
        _running[id(server)] = server
        cells.register(server)
    except BaseException:  # an interrupted cell leaves nothing running either
        if stream is not None:
            stream.abandon()
        if server is not None:
            _stop_quietly(server._host)
        raise
    return server
