"""Run client loops in child processes or in threads, starting all at the same time."""

import gc
import mmap
import os
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from typing import Any

from epolllab.child import Child
from epolllab.clients.load import LoadLoop
from epolllab.clients.loop import ROW, ClientLoop
from epolllab.clients.options import Share
from epolllab.clients.peers import PeerLoop
from epolllab.clients.result import Part
from epolllab.recording.recorder import Recorder, Snapshot, memory_size, read_ring, shared_memory

__all__ = ["ShowProgress", "run_in_processes", "run_in_threads", "serve"]

START_S = 30.0
"""How long a child process may take to start on a busy machine."""

PROGRESS_S = 0.2
LEAD_NS = 5_000_000
"""Delay between the start message and the common start time."""

ShowProgress = Callable[[int], object]


def _make_loop(share: Share, recorder: Recorder | None) -> ClientLoop[Any]:
    return LoadLoop(share, recorder) if share.options.steps is None else PeerLoop(share, recorder)


def run_in_processes(shares: list[Share], show: ShowProgress | None) -> list[Part]:
    """Run each share in a fresh interpreter."""
    with ExitStack() as stack:
        rings = []
        children: list[Child] = []
        for share in shares:
            fd, memory = shared_memory(share.options.capacity if share.options.record else 1)
            stack.callback(memory.close)
            rings.append(memory)
            try:
                child = Child("epolllab.clients.executors:serve", fds=[fd])
                stack.callback(child.close, 0.5)
                children.append(child)
                child.send((share, fd, show is not None))
            finally:
                os.close(fd)
        for child in children:
            _receive(child, START_S)
        start_ns = time.monotonic_ns() + LEAD_NS
        for child in children:
            child.send(start_ns)
        results = _collect(children, show)
        return [
            Part(facts, rows, steps, read_ring(ring))
            for (facts, rows, steps), ring in zip(results, rings, strict=True)
        ]


def _receive(child: Child, timeout: float | None = None) -> tuple[str, Any]:
    """The kind and content of a child's next message; RuntimeError if it failed."""
    kind, content = child.receive(timeout)
    if kind == "failed":
        raise RuntimeError(f"a client process ended with an error:\n{content}")
    return kind, content


def _collect(children: list[Child], show: ShowProgress | None) -> list[Any]:
    """Receive progress and results until every child has sent its rows."""
    counts = [0] * len(children)
    results: dict[int, Any] = {}
    while len(results) < len(children):
        waiting = {child.connection: i for i, child in enumerate(children) if i not in results}
        for connection in wait(list(waiting)):
            i = waiting[connection]  # type: ignore[index]
            kind, content = _receive(children[i])
            if kind == "count":
                counts[i] = content
            else:
                rows, steps = (children[i].connection.recv_bytes() for _ in range(2))
                results[i] = (content, rows, steps)
                counts[i] = len(rows) // ROW.size
            if show:
                show(sum(counts))
    return [results[i] for i in range(len(children))]


def serve(connection: Connection) -> None:
    """Run one share in the child process."""
    share, ring, reports = connection.recv()
    # No reference cycles are created here, and a collection would pause the load.
    gc.disable()
    try:
        recorder = None
        if share.options.record:
            memory = mmap.mmap(ring, memory_size(share.options.capacity))
            recorder = Recorder(share.options.capacity, memory=memory)
        os.close(ring)
        loop = _make_loop(share, recorder)
        if reports:
            loop.on_tick = lambda: connection.send(("count", loop.n_done))
        connection.send(("ready", None))
        facts = loop.run(connection.recv())
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
        return
    connection.send(("done", facts))
    connection.send_bytes(loop.rows)
    connection.send_bytes(loop.steps)


class _Thread(threading.Thread):
    """One share in a thread of this process."""

    def __init__(self, share: Share) -> None:
        super().__init__(name=f"epolllab-clients-{share.process}", daemon=True)
        self.recorder = Recorder(share.options.capacity) if share.options.record else None
        self.loop = _make_loop(share, self.recorder)
        self.start_ns = 0
        self.facts: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.facts = self.loop.run(self.start_ns)
        except BaseException as error:
            self.error = error

    def part(self) -> Part:
        """The result; RuntimeError if the loop failed."""
        if self.error is not None:
            raise RuntimeError("a client loop ended with an error") from self.error
        snapshot = self.recorder.snapshot() if self.recorder else Snapshot(b"", 0)
        return Part(self.facts, bytes(self.loop.rows), bytes(self.loop.steps), snapshot)


def run_in_threads(shares: list[Share], show: ShowProgress | None) -> list[Part]:
    """Run each share in a thread; joins with a timeout, so that an interrupt arrives."""
    threads: list[_Thread] = []
    try:
        threads.extend(_Thread(share) for share in shares)
        start_ns = time.monotonic_ns() + LEAD_NS
        for thread in threads:
            thread.start_ns = start_ns
            thread.start()
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(PROGRESS_S)
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
