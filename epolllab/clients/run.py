"""``run_clients()``: checks its options, starts the client loops, and returns a Run."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from epolllab import kernel
from epolllab.checks import check_bool, check_instance, check_int, checked
from epolllab.clients.cluster import MOST_SHARES, check_shares, run_in_workers
from epolllab.clients.executors import (
    Interrupts,
    ShowProgress,
    run_in_processes,
    run_in_threads,
)
from epolllab.clients.loop import ROW
from epolllab.clients.options import (
    CHECKS,
    SPARE_DESCRIPTORS,
    ClientOptions,
    ClientProtocol,
    Place,
    resolve_target,
)
from epolllab.clients.part import Part, common_environment
from epolllab.clients.result import Run
from epolllab.clients.script import Script
from epolllab.notebook import cells
from epolllab.recording import environment
from epolllab.server.server import Server
from epolllab.workers import check_executor

__all__ = ["run_clients"]

COUNTED_S = 1.0
"""How long after the last response the server may take to have counted it."""


def _check_script(name: str, value: object) -> object:
    return check_instance(name, value, Script, "a script, as epolllab.script() begins it")


@checked(
    **CHECKS,
    script=_check_script,
    progress=check_bool,
    allow_remote=check_bool,
    executor=check_executor,
    shares=partial(check_int, least=1, most=MOST_SHARES),
)
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
    executor: Executor | None = None,
    shares: int | None = None,
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
    executor : concurrent.futures.Executor, optional
        Send from the workers of a cluster or a process pool: Dask's
        ``client.get_executor()``, ipyparallel's ``client.executor()``, a
        ``ProcessPoolExecutor``. They need this version of epolllab, and must be able to
        connect to the target and to this machine, which listens on a port on the way to
        the target until the run ends. Use it with a server on ``start_server(host=...)``;
        one on the loopback can be reached by workers on this machine only.
    shares : int, optional
        With `executor`: into how many shares connections and requests are divided; by
        default one for each worker. All run at the same time, in a child process of a
        worker each. They start at one time by the clocks of their hosts, which are compared
        with this machine's over the network; ``run.shares()`` and ``run.start_skew_ns`` say
        how well.

    Returns
    -------
    Run
        ``requests()``, ``summary()``, ``recording()``, ``journeys(server)``; ``steps()``
        of a script. A failed request is a row with its error. An interrupt (Ctrl-C, the
        notebook's stop button) ends the load early: the rows until then are returned, with
        a note, and ``interrupted`` is True. With `executor`, a share whose worker died or
        went silent is reported as failed rows with the reason, which an engine's second
        attempt at it does not replace: no load is sent twice. Against a server's handle, the
        responses are compared with the requests that the server counted; a difference is a
        note.

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
        suspended; or the executor did not run all shares at the same time within 30
        seconds.
    RuntimeError
        A worker lacks epolllab or has another version, cannot connect, or failed otherwise
        before the load; or the rows of all shares were lost.
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
    if executor is not None:
        _refuse_local(processes, where)
        given["processes"] = check_shares(executor, shares, connections)
    elif shares is not None:
        raise ValueError(f"shares={shares} has no effect without executor=; use processes=")
    given["protocol"] = protocol or resolved.protocol or "http"
    if path == "/" and script is None:
        given["path"] = resolved.path
    steps = None if script is None else script.steps
    options = ClientOptions(resolved, steps=steps, **{name: given[name] for name in CHECKS})
    kernel.require_linux("run_clients()")
    metadata = environment.collect(recorder_cost_ns=None if record else 0.0, **options.metadata())
    execute: Callable[..., Any] = run_in_processes if where == "process" else run_in_threads
    if executor is not None:
        execute = partial(run_in_workers, executor)
        metadata["executor"] = type(executor).__name__
    counted = _count(target) if executor is not None else None
    with Interrupts() as interrupts:
        limit = nullcontext() if executor else kernel.raise_descriptor_limit(_descriptors(options))
        with limit, _bar(options, progress) as show:
            parts = execute(options.shares(), show, interrupts)
        facts = {**environment.at_end(), "interrupted": interrupts.until_now()}
    if executor is not None:
        facts |= common_environment(part.environment for part in parts if not part.lost)
    if counted is not None:
        facts["server_requests"] = _counted_since(target, counted, parts)
    return Run(parts, {**metadata, **facts})


def _refuse_local(processes: int, where: Place) -> None:
    """Refuse options that contradict an executor."""
    if processes != 1 or where != "process":
        given = f"processes={processes}" if processes != 1 else f"where={where!r}"
        raise ValueError(f"{given} has no effect with executor=, whose workers send; use shares=")


def _count(target: Any) -> int | None:
    """Requests that the server has counted; None if they are no HTTP requests, or unknown."""
    if not hasattr(target, "stats") or target.options.protocol not in ("hello", "http"):
        return None
    count: int | None = target.stats(raise_error=False)["requests"]
    return count


def _counted_since(target: Any, before: int, parts: list[Part]) -> int | None:
    """Requests counted since, when the server has counted all whose responses arrived."""
    deadline = time.monotonic() + COUNTED_S
    n_answered = sum(row[-1] == 0 for part in parts for row in ROW.iter_unpack(part.rows))
    while (now := _count(target)) is not None and now - before < n_answered:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return None if now is None else now - before


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
