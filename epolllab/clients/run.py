"""run_clients(): a load, or peers that do exactly as told, and what came of it.

One job: check what is asked, put the client loops into child processes (or threads),
let them begin at one instant, and bring their rows home. It neither opens a
connection nor draws a conclusion.
"""

import gc
import mmap
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from typing import TYPE_CHECKING, Any

from epolllab import kernel
from epolllab.child import Child, ChildDied
from epolllab.clients.load import LoadLoop
from epolllab.clients.loop import ROW, ClientLoop
from epolllab.clients.options import Plan, Share, locate
from epolllab.clients.peers import PeerLoop
from epolllab.clients.result import Part, Run
from epolllab.recording import environment
from epolllab.recording.recorder import Recorder, Snapshot, memory_size, read_ring, shared_memory

if TYPE_CHECKING:
    from epolllab.clients.script import Script
    from epolllab.server.server import Server


__all__ = ["run_clients", "serve"]


SPARE_DESCRIPTORS = 32
START_S = 30.0
"""How long a child may take to start, on a machine that is busy."""

REPORT_S = 0.2
LEAD_NS = 5_000_000
"""From the word to the common start; the word takes far less to arrive."""


def run_clients(
    target: "Server | str | tuple[str, int]",
    *,
    connections: int = 50,
    requests: int | None = None,
    duration: float | None = None,
    rate: float | None = None,
    keep_alive: bool = False,
    path: str = "/",
    payload: bytes | None = None,
    protocol: str | None = None,
    processes: int = 1,
    timeout: float = 10.0,
    progress: bool = True,
    where: str = "process",
    script: "Script | None" = None,
    record: bool = True,
    capacity: int = 1_000_000,
    source_addresses: int | None = None,
    allow_remote: bool = False,
) -> Run:
    """Fire clients at a server; return when every request has been answered or given up.

    Without `rate` the loop is closed: `connections` requests are in flight, and each
    answer brings the next request. With `rate` it is open: requests come at a constant
    rate whatever the server does, those that find no free connection wait in a queue,
    and latency counts from the instant at which they were due.

    Parameters
    ----------
    target : Server, str or (host, port)
        A handle of :func:`epolllab.start_server`, ``"http://127.0.0.1:8000/"``,
        ``"127.0.0.1:8000"``, or a pair.
    connections : int
        Connections at a time, over all processes; with `script`, the number of peers.
    requests : int, optional
        Requests in all; 1000 if neither this nor `duration` is given.
    duration : float, optional
        Seconds in which requests begin, instead of a number of them. Those under way at
        the end are completed.
    rate : float, optional
        Requests per second, evenly spaced.
    keep_alive : bool
        Ask again on the same connection, rather than open one for each request.
    path : str
        What to ask for; by default what the URL says.
    payload : bytes, optional
        For HTTP the body of a POST; for echo what is sent (13 bytes if not given).
    protocol : {"http", "echo"}, optional
        By default what the server speaks; HTTP for a URL.
    processes : int
        Client loops, each a child process with its part of connections and requests.
    timeout : float
        Seconds, from when it was due, after which a request is given up.
    progress : bool
        Show a bar.
    where : {"process", "thread"}
        ``"thread"`` puts the clients into threads of this process, which shows what
        sharing the interpreter lock with the server, or the notebook, does to both.
    script : Script, optional
        Peers that do exactly as told, instead of requests; see :func:`epolllab.script`.
    record : bool
        False takes the recorder out of the clients' loops.
    capacity : int
        Events kept in each loop (40 bytes each); the oldest are overwritten.
    source_addresses : int, optional
        Spread connections over 127.0.0.1 to 127.0.0.n. One address has some 28,000 ports
        for connections to one server; beyond 20,000 connections this is done unasked.
    allow_remote : bool
        Permit a target that is not this machine's loopback.

    Returns
    -------
    Run
        ``requests()``, ``summary()``, ``recording()``, ``journeys(server)``; ``steps()``
        of a script. A failed request is a row with its error.

    Raises
    ------
    ValueError, TypeError
        Wishes that make no sense, before anything starts.
    OSError
        The host is unknown; too few descriptors for so many connections.
    ChildDied
        A client process was killed.
    KeyboardInterrupt
        After the clients have been stopped; their rows are dropped.

    Examples
    --------
    >>> import epolllab
    >>> with epolllab.start_server() as server:
    ...     run = epolllab.run_clients(server, connections=4, requests=20, progress=False)
    >>> run.summary()["succeeded"]
    20
    """
    found = locate(target, allow_remote=allow_remote)
    plan = Plan(
        target=found,
        connections=connections,
        requests=requests,
        duration=duration,
        rate=rate,
        keep_alive=keep_alive,
        path=found.path if path == "/" and script is None else path,
        payload=payload,
        protocol=_protocol(protocol, found.protocol, target, script is not None),
        processes=processes,
        timeout=timeout,
        where=where,
        record=record,
        capacity=capacity,
        source_addresses=source_addresses,
        steps=None if script is None else script.steps,
    )
    kernel.require_linux("run_clients()")
    circumstances = environment.collect(
        recorder_cost_ns=None if record else 0.0, **plan.described()
    )
    place = _in_processes if where == "process" else _in_threads
    with _room_for(plan), _bar(plan, progress) as show:
        parts = place(plan.shares(), show)
    return Run(parts, circumstances)


def _protocol(asked: str | None, spoken: str | None, target: object, is_script: bool) -> str:
    """What to speak: what was asked, what the server speaks, or HTTP to an address."""
    if asked is not None:
        return asked
    if spoken is None and hasattr(target, "options") and not is_script:
        raise ValueError(
            "the server's protocol is one of your own; say what the clients shall speak: "
            'protocol="http", protocol="echo", or a script of your own with script='
        )
    return spoken or "http"


@contextmanager
def _room_for(plan: Plan) -> Iterator[None]:
    """Raise the soft limit on descriptors for as many connections as a loop has."""
    wanted = plan.connections + SPARE_DESCRIPTORS
    wanted = -(-wanted // plan.processes) + SPARE_DESCRIPTORS
    if plan.where == "thread":
        wanted = plan.connections + SPARE_DESCRIPTORS * plan.processes
        wanted += kernel.descriptors_open()
    with kernel.raise_descriptor_limit(wanted):
        yield


@contextmanager
def _bar(plan: Plan, wanted: bool) -> Iterator[Callable[[int], None] | None]:
    """A progress bar as a function of the number done; None where none is wanted."""
    if not wanted:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(total=plan.total, unit="requests", leave=False) as bar:

        def show(n_done: int) -> None:
            bar.update(n_done - bar.n)

        yield show


def _make_loop(share: Share, recorder: Recorder | None) -> ClientLoop:
    return (LoadLoop if share.steps is None else PeerLoop)(share, recorder)


# ---- in child processes ---------------------------------------------------------------


def _in_processes(shares: list[Share], show: Callable[[int], None] | None) -> list[Part]:
    """Run each share in a fresh interpreter; all begin at one instant."""
    with ExitStack() as stack:
        rings = []
        children: list[Child] = []
        for share in shares:
            fd, memory = shared_memory(share.capacity if share.record else 1)
            stack.callback(memory.close)
            rings.append(memory)
            try:
                child = Child("epolllab.clients.run:serve", fds=[fd])
                # Whatever happens, nobody survives: a child has nothing to tidy up.
                stack.callback(child.close, 0.5)
                children.append(child)
                child.send((share, fd, show is not None))
            finally:
                os.close(fd)
        for child in children:
            _expect(child, "ready", START_S)
        start_ns = time.monotonic_ns() + LEAD_NS
        for child in children:
            child.send(start_ns)
        results = _gather(children, show)
        return [
            Part(facts, rows, steps, read_ring(ring) if share.record else Snapshot(b"", 0))
            for (facts, rows, steps), ring, share in zip(results, rings, shares, strict=True)
        ]


def _expect(child: Child, wanted: str, timeout: float | None = None) -> Any:
    kind, answer = child.receive(timeout)
    if kind == "failed":
        raise RuntimeError(f"a client process ended with an error:\n{answer}")
    if kind != wanted:
        raise ChildDied(f"a client process said {kind!r} where {wanted!r} was expected")
    return answer


def _gather(children: list[Child], show: Callable[[int], None] | None) -> list[Any]:
    """Read what the children say until each has brought its rows."""
    counts = dict.fromkeys(range(len(children)), 0)
    results: dict[int, Any] = {}
    while len(results) < len(children):
        waiting = {child.connection: i for i, child in enumerate(children) if i not in results}
        for connection in wait_for_any(list(waiting)):
            i = waiting[connection]  # type: ignore[index]
            kind, answer = children[i].receive()
            if kind == "count":
                counts[i] = answer
            elif kind == "done":
                rows, steps = (children[i].connection.recv_bytes() for _ in range(2))
                results[i] = (answer, rows, steps)
                counts[i] = len(rows) // ROW.size
            else:
                raise RuntimeError(f"a client process ended with an error:\n{answer}")
            if show:
                show(sum(counts.values()))
    return [results[i] for i in range(len(children))]


def serve(connection: Connection) -> None:
    """Run in the child: one share, from the word to the last row."""
    share, ring, reports = connection.recv()
    # No rubbish in circles is made here, and a collection would be a pause in the load.
    gc.disable()
    try:
        recorder = None
        if share.record:
            memory = mmap.mmap(ring, memory_size(share.capacity))
            recorder = Recorder(share.capacity, memory=memory)
        os.close(ring)
        loop = _make_loop(share, recorder)
        if reports:
            loop.on_tick = _reporter(loop, connection)
        connection.send(("ready", None))
        facts = loop.run(connection.recv())
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
        return
    connection.send(("done", facts))
    connection.send_bytes(loop.rows)
    connection.send_bytes(loop.steps)


def _reporter(loop: ClientLoop, connection: Connection) -> Callable[[], None]:
    """Tell the parent how many are done, five times a second."""
    next_s = 0.0

    def report() -> None:
        nonlocal next_s
        now = time.monotonic()
        if now >= next_s:
            next_s = now + REPORT_S
            connection.send(("count", loop.n_done))

    return report


# ---- in threads -------------------------------------------------------------------------


class _Thread(threading.Thread):
    """One share in a thread of this process."""

    def __init__(self, share: Share) -> None:
        super().__init__(name=f"epolllab-clients-{share.process}", daemon=True)
        self.recorder = Recorder(share.capacity) if share.record else None
        self.loop = _make_loop(share, self.recorder)
        self.start_ns = 0
        self.facts: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Carry the share out, and keep what goes wrong for the caller."""
        try:
            self.facts = self.loop.run(self.start_ns)
        except BaseException as error:
            self.error = error

    def part(self) -> Part:
        """What it brought home."""
        if self.error is not None:
            raise RuntimeError("a client loop ended with an error") from self.error
        snapshot = self.recorder.snapshot() if self.recorder else Snapshot(b"", 0)
        return Part(self.facts, bytes(self.loop.rows), bytes(self.loop.steps), snapshot)


def _in_threads(shares: list[Share], show: Callable[[int], None] | None) -> list[Part]:
    """Run each share in a thread, and wait in pieces, so that an interrupt is heard."""
    threads: list[_Thread] = []
    try:
        threads.extend(_Thread(share) for share in shares)
        start_ns = time.monotonic_ns() + LEAD_NS
        for thread in threads:
            thread.start_ns = start_ns
            thread.start()
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(REPORT_S)
            if show:
                show(sum(thread.loop.n_done for thread in threads))
    finally:
        for thread in threads:
            thread.loop.stopping = True
        for thread in threads:
            if thread.ident is not None:
                thread.join()
            else:
                thread.loop.close()
    return [thread.part() for thread in threads]
