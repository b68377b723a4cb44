"""start_server(): the server as a notebook holds it.

One job: open the listening socket, put a loop behind it, and give back a handle that
tells what happens and can always be stopped. The handle never touches the loop's
connections; it asks its host.
"""

import ipaddress
import os
import select
import socket
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from epolllab import kernel
from epolllab.notebook import cells, html
from epolllab.recording import environment
from epolllab.recording.recording import Recording
from epolllab.server.hosts import Host, ProcessHost, ThreadHost
from epolllab.server.http import Handler
from epolllab.server.options import ServerOptions
from epolllab.server.session import Session

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["Server", "ServerDied", "servers", "start_server", "stop_all"]


SPARE_DESCRIPTORS = 16
"""What the loop needs beside its connections, with some room for the notebook."""


class ServerDied(RuntimeError):
    """The server's loop ended with an error; the message holds its traceback.

    Raised once, at the next touch of the handle after the death. The recording up
    to that point stays readable.
    """


class Server:
    """A running server. Made by :func:`start_server`; a context manager.

    The handle keeps the server alive: when the last reference to it goes, the server
    is stopped. Displayed in a notebook, it says how the server is.

    Attributes
    ----------
    address : tuple of (str, int)
        Host and port it listens at.
    options : ServerOptions
        What it was started with.
    """

    def __init__(
        self,
        address: tuple[str, int],
        options: ServerOptions,
        host: Host,
        circumstances: dict[str, Any],
    ) -> None:
        self.address = address
        self.options = options
        self._host = host
        self._circumstances = circumstances
        self._raised = False
        self._finalizer = weakref.finalize(self, _stop_quietly, host)

    # ---- what it is ---------------------------------------------------------------

    @property
    def url(self) -> str:
        """The address for a browser or curl."""
        host, port = self.address
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    @property
    def port(self) -> int:
        """The port it listens at."""
        return self.address[1]

    @property
    def pid(self) -> int:
        """The process the loop runs in."""
        return self._host.pid

    @property
    def is_running(self) -> bool:
        """Whether the loop is alive. Does not raise for one that died."""
        return self._host.running()

    @property
    def error(self) -> str | None:
        """The traceback of what ended the loop; None while it lives or after a stop."""
        return self._host.failure()

    # ---- what happened ------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Counters of the loop, cheap while it runs.

        Returns
        -------
        dict
            ``connections`` open now; ``accepted``, ``closed``, ``requests``,
            ``wakeups`` (waits that returned) and ``events`` (descriptors returned)
            since the start; ``lost`` connections ended by an error such as a reset;
            ``faults``, exceptions in a protocol or handler; ``timeouts``; ``pauses``
            in accepting, for want of descriptors or by max_connections; ``stale``
            events whose descriptor an earlier event of the batch had closed;
            ``staged`` events that readers do not see before the loop waits again;
            ``recorded`` and ``overwritten`` events.

        Raises
        ------
        ServerDied
            Once, if the loop ended with an error.
        """
        self._check()
        return {**self._host.stats(), **self._recorded()}

    def tail(self, newest: int = 1000) -> Recording:
        """The end of the recording, cheap enough to be read ten times a second.

        Unlike :meth:`recording` it asks the loop nothing, has no circumstances but the
        options, and does not raise for a loop that died.

        Parameters
        ----------
        newest : int
            Events at most.
        """
        snapshot = self._host.snapshot(newest)
        return Recording(snapshot.rows, self.options.described(), snapshot.overwritten)

    def recording(self) -> Recording:
        """What has been recorded up to now; the server runs on.

        Raises
        ------
        ServerDied
            Once, if the loop ended with an error; call again for the recording.
        """
        self._check()
        snapshot = self._host.snapshot()
        return Recording(
            snapshot.rows,
            {
                **self._circumstances,
                **self.options.described(),
                "address": list(self.address),
                "pid": self.pid,
                "stats": self._host.stats(),
                "last_fault": self.last_fault,
            },
            snapshot.overwritten,
        )

    def events(self) -> "pd.DataFrame":
        """One row per event; see :func:`epolllab.frames.events.events`."""
        return self.recording().events()

    def wakeups(self) -> "pd.DataFrame":
        """One row per wait; see :func:`epolllab.frames.events.wakeups`."""
        return self.recording().wakeups()

    def requests(self) -> "pd.DataFrame":
        """One row per request; see :func:`epolllab.frames.requests.requests`."""
        return self.recording().requests()

    def interest(self) -> "pd.DataFrame":
        """The kernel's interest list beside the server's own table.

        Returns
        -------
        pandas.DataFrame
            A row per descriptor; see :func:`epolllab.frames.interest.interest_list`. With poll
            and select the kernel keeps no list, and only the program's side is there.

        Notes
        -----
        The two are read one after the other while the loop runs, so a connection that is
        just coming or going may be found on one side only; ask again.
        """
        from epolllab import frames

        self._check()
        entries, table = self._host.interest()
        return frames.interest_list(entries, table, inodes=_inodes(self.pid, table))

    @property
    def last_fault(self) -> str | None:
        """The traceback of the last exception in a handler or protocol."""
        return self._host.last_fault()

    def settle(self, timeout: float = 5.0) -> "Server":
        """Wait until no connection is open and all that happened can be read.

        A client has its answer before the server has closed the connection and
        recorded that; without this, a recording may end between the two.

        Parameters
        ----------
        timeout : float
            Seconds to wait at most.

        Returns
        -------
        Server
            Itself, so that ``server.settle().events()`` reads well.

        Raises
        ------
        TimeoutError
            Connections are still open, such as a client's keep-alive ones.
        """
        deadline = time.monotonic() + timeout
        while (stats := self.stats())["connections"] or stats["staged"]:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{stats['connections']} connections are still open after {timeout} s; "
                    "close them, or read the recording as it is"
                )
            time.sleep(0.001)
        return self

    def until_idle(self, *socks: socket.socket, timeout: float = 10.0) -> "Server":
        """Wait until what was sent has arrived and the server sleeps in its poller.

        Use it between something a client does and a look at what the server made of it.
        It asks the kernel, so it works on a busy machine too.

        Parameters
        ----------
        *socks : socket.socket
            Client sockets whose sent bytes and FINs must have been acknowledged first.
        timeout : float
            Seconds to wait at most.

        Returns
        -------
        Server
            Itself.

        Raises
        ------
        ValueError
            The server runs in a thread of this process, which never sleeps as a whole.
        TimeoutError
            The server did not become idle: it spins, or it is still answering.
        """
        if not self.options.process:
            raise ValueError(
                "until_idle() needs a server in its own process: start it with process=True"
            )
        kernel.until_idle(self.pid, *socks, timeout=timeout)
        return self

    # ---- its end ------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the server and wait for it; any number of times.

        Raises
        ------
        ServerDied
            Once, if the loop had ended with an error before.
        TimeoutError
            A handler or protocol did not return.

        Notes
        -----
        A handler may call it as well: the loop then ends after the batch it is in.
        """
        self._host.stop()
        _running.discard(self)
        self._finalizer.detach()
        self._check()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.stop()
        except ServerDied:
            if kind is None:
                raise

    # ---- how it looks -------------------------------------------------------------

    def __repr__(self) -> str:
        rows, failure = self._described(), self.error
        died = f", died of: {failure.strip().splitlines()[-1]}" if failure else ""
        return (
            f"<epolllab server {self.url} {rows['loop']}, {rows['state']}, "
            f"{rows['connections now']} connections, {rows['events recorded']} events recorded, "
            f"{rows['events overwritten']} overwritten{died}>"
        )

    def _repr_html_(self) -> str:
        return html.card(f"epolllab server {self.url}", self._described(), self.error)

    def _described(self) -> dict[str, str]:
        """What both reprs say; never raises for a dead loop."""
        options, recorded, stats = self.options, self._recorded(), self._host.stats()
        failure = self.error
        state = "running" if self.is_running else "stopped" if failure is None else "died"
        return {
            "loop": f"{options.poller} {options.trigger} {options.lifecycle}",
            "runs in": f"process {self.pid}" if options.process else "a thread",
            "state": state,
            "connections now": f"{stats.get('connections', 0):,}",
            "requests": f"{stats.get('requests', 0):,}",
            "events recorded": f"{recorded['recorded']:,}" if options.record else "none",
            "events overwritten": f"{recorded['overwritten']:,}",
        }

    def _recorded(self) -> dict[str, int]:
        written = self._host.written()
        kept = min(written, self.options.capacity)
        return {"recorded": kept, "overwritten": written - kept}

    def _check(self) -> None:
        """Raise what ended the loop, at the first touch that can."""
        if self._raised or self.is_running:
            return
        failure = self._host.failure()
        if failure is not None:
            self._raised = True
            _running.discard(self)
            raise ServerDied(
                f"the loop of {self.url} ended with an error. The recording up to then is "
                f"still there; ask again.\n\n{failure}"
            ) from self._host.cause()


def _inodes(pid: int, fds: Iterable[int]) -> dict[int, int]:
    """What is behind each number now, so that a ghost is told from its number's new owner."""
    found = {}
    for fd in fds:
        with suppress(OSError):  # closed since
            found[fd] = os.stat(f"/proc/{pid}/fd/{fd}").st_ino
    return found


def _stop_quietly(host: Host) -> None:
    """Stop on behalf of a handle that nobody holds any more."""
    try:
        host.stop()
    except TimeoutError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)


_running: "weakref.WeakSet[Server]" = weakref.WeakSet()


def servers() -> list[Server]:
    """The servers running now, in the order of their ports."""
    return sorted((s for s in _running if s.is_running), key=lambda server: server.address[1])


def stop_all() -> None:
    """Stop every server of this interpreter.

    Raises
    ------
    ServerDied, TimeoutError
        One of them could not be stopped, or had died; the others are stopped all the same.
    """
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
    poller: str = "epoll",
    trigger: str = "level",
    lifecycle: str = "eager",
    protocol: str | Callable[[], Session] = "hello",
    handler: Handler | None = None,
    drain: bool | None = None,
    recv_size: int = 16_384,
    max_events: int = 1_023,
    accept: Literal["drain", "ask"] | int | None = None,
    backlog: int = 4_096,
    send_buffer: int | None = None,
    recv_buffer: int | None = None,
    nodelay: bool = True,
    cork: bool = False,
    max_connections: int | None = None,
    max_request_bytes: int = 1 << 20,
    idle_timeout: float | None = None,
    capacity: int = 1_000_000,
    record: bool = True,
    process: bool = False,
) -> Server:
    """Start a server in the background; return once it listens.

    A cell that is run again stops the server that it started before, and a handle
    that is dropped stops its server.

    Parameters
    ----------
    host : str
        Address to bind. Any but a loopback address is reachable from other machines,
        and gets a warning.
    port : int
        0 lets the kernel choose a free one.
    poller : {"epoll", "poll", "select"}
        The system call that waits.
    trigger : {"level", "edge"}
        Whether epoll reports that something *is* ready, at every wait, or that
        something *became* ready, once (EPOLLET). poll and select have level only.
    lifecycle : {"eager", "howto", "once", "oneshot"}
        How the kernel's interest in a connection is kept right; see
        :mod:`epolllab.server.lifecycles`. ``"once"`` needs edges, ``"oneshot"`` epoll.
    protocol : {"hello", "http", "echo"} or callable
        What is answered; a callable returns a :class:`Session` for each connection.
    handler : callable, optional
        For ``"http"``: ``handler(request)`` returns a :class:`Response`, bytes or a
        str. It runs in the loop, so the loop stands still while it does.
    drain : bool, optional
        Read each ready connection until it would block, rather than once. By default
        true for edge, where less strands the rest, and false for level.
    recv_size : int
        Bytes each recv asks for.
    max_events : int
        Descriptors one epoll_wait returns at most.
    accept : {"drain", "ask"} or int, optional
        How many connections are accepted per event of the listener. ``"drain"``, the
        default: until EAGAIN. ``"ask"``: as many as TCP_INFO says are queued, which saves
        the accept that fails. A number: at most so many; 1 is the default of the
        ``"howto"`` life cycle with level, as in the how-to.
    backlog : int
        Length of the accept queue; the kernel cuts it to net.core.somaxconn.
    send_buffer, recv_buffer : int, optional
        SO_SNDBUF and SO_RCVBUF in bytes; the kernel doubles them. They also end its
        own tuning of the buffer.
    nodelay : bool
        TCP_NODELAY, set on the listener; accepted sockets inherit it.
    cork : bool
        TCP_CORK around each answer.
    max_connections : int, optional
        Accept no more than this at a time; others wait in the accept queue.
    max_request_bytes : int
        A larger request is refused: 413 or 431.
    idle_timeout : float, optional
        Seconds after which a silent connection is closed; in the middle of an HTTP
        request with 408.
    capacity : int
        Events kept (40 bytes each); the oldest are overwritten.
    record : bool
        False takes the recorder out of the loop altogether.
    process : bool
        Run the loop in a child process, so that the notebook's own work does not
        compete with it for the interpreter lock. Same handle, same frames.

    Returns
    -------
    Server
        The handle.

    Raises
    ------
    ValueError, TypeError
        An option that makes no sense, before anything is opened.
    OSError
        The address is in use or not this machine's; there is no epoll; too few
        descriptors for `max_connections`.

    Examples
    --------
    >>> import epolllab
    >>> with epolllab.start_server() as server:
    ...     run = epolllab.run_clients(server, requests=100, progress=False)
    ...     server.stats()["requests"]
    100
    """
    options = ServerOptions(
        host=host,
        port=port,
        poller=poller,
        trigger=trigger,
        lifecycle=lifecycle,
        protocol=protocol,
        handler=handler,
        drain=drain,
        recv_size=recv_size,
        max_events=max_events,
        accept=accept,
        backlog=backlog,
        send_buffer=send_buffer,
        recv_buffer=recv_buffer,
        nodelay=nodelay,
        cork=cork,
        max_connections=max_connections,
        max_request_bytes=max_request_bytes,
        idle_timeout=idle_timeout,
        capacity=capacity,
        record=record,
        process=process,
    )
    return start(options)


def start(options: ServerOptions) -> Server:
    """Start a server from checked options; what :func:`start_server` does with its own."""
    cells.stop_earlier_execution()
    _require_epoll()
    # Before the loop runs, which would compete with the measuring of clock and recorder.
    circumstances = environment.collect(recorder_cost_ns=None if options.record else 0.0)
    listener = _listen(options)
    address = listener.getsockname()[:2]
    place: Host | None = None
    try:
        with _room_for(options):
            place = (ProcessHost if options.process else ThreadHost)(listener, options)
        server = Server(address, options, place, circumstances)
        _running.add(server)
        cells.remember(server)
    except BaseException:  # an interrupted cell, too, leaves nothing running
        listener.close()
        if place is not None:
            place.stop()
        raise
    return server


def _require_epoll() -> None:
    if not hasattr(select, "epoll"):
        raise OSError(
            f"start_server() needs Linux: epoll is Linux's own, and this is {sys.platform}. "
            "Saved recordings can be loaded and plotted here: epolllab.Recording.load(path)"
        )


@contextmanager
def _room_for(options: ServerOptions) -> Iterator[None]:
    """Raise the soft limit on descriptors for as many connections as are wanted.

    A child process keeps the limit it was started with, so ours is put back at once.
    A thread shares ours, which stays raised: it only ever permits more.
    """
    if options.max_connections is None:
        yield
        return
    wanted = options.max_connections + SPARE_DESCRIPTORS + kernel.descriptors_open()
    if not options.process:
        kernel.ensure_descriptor_limit(wanted)
        yield
        return
    with kernel.raise_descriptor_limit(wanted):
        yield


def _listen(options: ServerOptions) -> socket.socket:
    """Open the listening socket; what is set on it, accepted sockets inherit."""
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
            f"cannot listen at {options.host} port {options.port}: {error.strerror}. "
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
            error.errno, f"host {host!r} is no address of this machine: {error.strerror}"
        ) from error
    family, _, _, _, address = found[0]
    if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        warnings.warn(
            f"host={host!r} makes this server reachable from other machines; "
            'it is an instrument, not hardened for that. host="127.0.0.1" keeps it here',
            stacklevel=5,  # the line that called start_server()
        )
    return family, address
