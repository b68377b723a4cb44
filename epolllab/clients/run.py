"""``run_clients()``: checks its options, starts the client loops, and returns a Run."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from epolllab import kernel
from epolllab.checks import check_bool, check_instance, checked
from epolllab.clients.executors import (
    Interrupts,
    ShowProgress,
    run_in_processes,
    run_in_threads,
)
from epolllab.clients.options import CHECKS, ClientOptions, ClientProtocol, Place, resolve_target
from epolllab.clients.result import Run
from epolllab.clients.script import Script
from epolllab.notebook import cells
from epolllab.recording import environment
from epolllab.server.server import Server

__all__ = ["run_clients"]

SPARE_DESCRIPTORS = 64
"""Descriptors that a client loop needs besides its connections, with a margin."""


def _check_script(name: str, value: object) -> object:
    return check_instance(name, value, Script, "a script, as epolllab.script() begins it")


@checked(**CHECKS, script=_check_script, progress=check_bool, allow_remote=check_bool)
def run_clients(
    target: Server | str | tuple[str, int],
    *,
    connections: int = 50,
    requests: int | None = None,
    duration: float | None = None,
    rate: float | None = None,
    keep_alive: bool = False,
    path: str = "/",
    payload: bytes | None = None,
    protocol: ClientProtocol | None = None,
    processes: int = 1,
    timeout: float = 10.0,
    progress: bool = True,
    where: Place = "process",
    script: Script | None = None,
    record: bool = True,
    capacity: int = 1_000_000,
    source_addresses: int | None = None,
    allow_remote: bool = False,
) -> Run:
    """Send requests to a server; return when each has its response or has failed.

    Without `rate` the loop is closed: `connections` requests are in flight, and each
    response starts the next request. With `rate` it is open: requests are due at a
    constant rate whatever the server does, those that find no free connection wait in a
    queue, and latency counts from when they were due.

    Parameters
    ----------
    target : Server, str or (host, port)
        A handle of :func:`epolllab.start_server`, ``"http://127.0.0.1:8000/"``,
        ``"127.0.0.1:8000"``, or a pair. Of a name with several addresses, the first that
        a server here listens on. The Host header has the name as it is given.
    connections : int
        Concurrent connections, over all processes; with `script`, the number of peers.
    requests : int, optional
        Requests in total; 1000 if neither this nor `duration` is given.
    duration : float, optional
        Seconds in which requests start, instead of a number of requests. Those in flight
        at the end are completed.
    rate : float, optional
        Requests per second, due at even intervals.
    keep_alive : bool
        Send the next request on the same connection instead of opening a new one.
    path : str
        The request target; by default the path of the URL.
    payload : bytes, optional
        For HTTP the body of a POST; for echo what is sent (13 bytes if not given).
    protocol : {"http", "echo"}, optional
        By default what the server speaks; HTTP for a URL.
    processes : int
        Client loops, each in a child process with its share of connections and requests.
    timeout : float
        Seconds, from when a request was due, after which it fails.
    progress : bool
        Show a progress bar; with `duration` the time left, in a notebook or a terminal only.
    where : {"process", "thread"}
        ``"thread"`` runs the clients in threads of this process, which shows the effect
        of sharing the interpreter lock with the server or the notebook.
    script : Script, optional
        Scripted peers instead of requests; see :func:`epolllab.script`.
    record : bool
        False removes the recorder from the clients' loops.
    capacity : int
        Events kept in each loop; the oldest are overwritten.
    source_addresses : int, optional
        Spread connections over 127.0.0.1 to 127.0.0.n. One address has some 28,000 ports
        for connections to one server; above 20,000 connections this is the default.
    allow_remote : bool
        Permit a target that is not this machine's loopback.

    Returns
    -------
    Run
        ``requests()``, ``summary()``, ``recording()``, ``journeys(server)``; ``steps()``
        of a script. A failed request is a row with its error. An interrupt (Ctrl-C, the
        notebook's stop button) ends the load early: the rows until then are returned, with
        a note, and ``interrupted`` is True.

    Raises
    ------
    ValueError, TypeError
        Invalid or contradictory arguments; raised before anything starts.
    OSError
        The host is unknown; too few descriptors for so many connections.
    ChildDied
        A client process was killed.
    TimeoutError
        A client process has sent nothing for ten seconds, for example because it was
        suspended.
    KeyboardInterrupt
        Interrupted before the load began, or for the second time.

    Examples
    --------
    >>> import epolllab
    >>> with epolllab.start_server() as server:
    ...     run = epolllab.run_clients(server, connections=4, requests=20, progress=False)
    >>> run.summary()["succeeded"]
    20
    """
    given = dict(locals())  # the parameters, which are the only locals here
    resolved = resolve_target(target, allow_remote=allow_remote)
    is_unknown = resolved.protocol is None and hasattr(target, "options")
    if is_unknown and protocol is None and script is None:
        raise ValueError(
            "protocol must be given, because the server's protocol is one of your own: "
            'protocol="http" or protocol="echo"; or pass a script= with the bytes to send'
        )
    given["protocol"] = protocol or resolved.protocol or "http"
    if path == "/" and script is None:
        given["path"] = resolved.path
    steps = None if script is None else script.steps
    options = ClientOptions(resolved, steps=steps, **{name: given[name] for name in CHECKS})
    kernel.require_linux("run_clients()")
    metadata = environment.collect(recorder_cost_ns=None if record else 0.0, **options.metadata())
    execute = run_in_processes if where == "process" else run_in_threads
    with Interrupts() as interrupts:
        limit = kernel.raise_descriptor_limit(_descriptors(options))
        with limit, _bar(options, progress) as show:
            parts = execute(options.shares(), show, interrupts)
        facts = {**environment.at_end(), "interrupted": interrupts.until_now()}
    return Run(parts, {**metadata, **facts})


def _descriptors(options: ClientOptions) -> int:
    """Descriptors that one process needs for its connections."""
    n = options.processes
    if options.where == "thread":
        return options.connections + n * SPARE_DESCRIPTORS + kernel.descriptors_open()
    return -(-options.connections // n) + SPARE_DESCRIPTORS


@contextmanager
def _bar(options: ClientOptions, progress: bool) -> Iterator[ShowProgress | None]:
    """A function that shows the number of requests done in a progress bar, or None."""
    if not progress:
        yield None
        return
    if options.duration is not None:
        with _time_left(options.duration) as show:
            yield show
        return
    from tqdm.auto import tqdm

    with tqdm(total=options.total, unit="requests", leave=False) as bar:
        yield lambda n_done: bar.update(n_done - bar.n)


@contextmanager
def _time_left(duration: float) -> Iterator[ShowProgress | None]:
    """A function that shows the time left; None if no notebook or terminal would show it."""
    streams = (sys.stdout, sys.stderr)
    if not cells.in_notebook() and not all(stream and stream.isatty() for stream in streams):
        yield None
        return
    from tqdm.auto import tqdm

    began_s = 0.0

    def show(n_done: int) -> None:
        nonlocal began_s
        began_s = began_s or time.monotonic()
        bar.n = min(time.monotonic() - began_s, duration)
        bar.set_description_str(f"{duration - bar.n:.0f} s left, {n_done:,} requests")

    with tqdm(total=duration, bar_format="{bar} {desc}", leave=False) as bar:
        yield show
