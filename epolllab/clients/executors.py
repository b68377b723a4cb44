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

from epolllab.child import START_S, Child, HeldInterrupts
from epolllab.clients.load import LoadLoop
from epolllab.clients.loop import ROW, ClientLoop
from epolllab.clients.options import Share
from epolllab.clients.part import Part
from epolllab.clients.peers import PeerLoop
from epolllab.kernel.proc import is_suspended
from epolllab.recording.recorder import Recorder, Snapshot, memory_size, read_ring, shared_memory

__all__ = ["Interrupts", "ShowProgress", "run_in_processes", "run_in_threads", "serve"]

SILENT_S = 10.0
"""How long a child process may send nothing during the load, when it sends ten times a second."""

PROGRESS_S = 0.1
LEAD_NS = 5_000_000
"""Delay between the start message and the common start time."""

ShowProgress = Callable[[int], object]


class Interrupts(HeldInterrupts):
    """Hold interrupts back during a run: the first one ends the load early, and keeps its rows.

    One that arrives before the load, and a second one, raise KeyboardInterrupt.
    """

    loading = interrupted = False

    def until_now(self) -> bool:
        """Return whether an interrupt has arrived, also after the load."""
        return self.end_the_load() or self.interrupted

    def end_the_load(self) -> bool:
        """Return whether an interrupt has just arrived, the first one during the load."""
        try:
            self.deliver()
        except KeyboardInterrupt:
            if self.interrupted or not self.loading:
                raise
            self.interrupted = True
            return True
        return False


def _make_loop(share: Share, recorder: Recorder | None) -> ClientLoop[Any]:
    return LoadLoop(share, recorder) if share.options.steps is None else PeerLoop(share, recorder)


def _in_a_moment() -> int:
    return time.monotonic_ns() + LEAD_NS


def run_in_processes(
    shares: list[Share],
    show: ShowProgress | None,
    interrupts: Interrupts,
    start: Callable[[], int] = _in_a_moment,
) -> list[Part]:
    """Run each share in a fresh interpreter; `start` returns the start time once all are ready."""
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
                child.send((share, fd))
            finally:
                os.close(fd)
            interrupts.deliver()
        _until_ready(children, interrupts)
        start_ns = start()
        interrupts.loading = True
        for child in children:
            child.send(start_ns)
        results = _collect(children, show, interrupts)
        return [
            Part(facts, rows, steps, read_ring(ring))
            for (facts, rows, steps), ring in zip(results, rings, strict=True)
        ]


def _until_ready(children: list[Child], interrupts: Interrupts) -> None:
    deadline = time.monotonic() + START_S
    for child in children:
        while not child.connection.poll(PROGRESS_S):
            interrupts.deliver()
            if time.monotonic() > deadline:
                raise _silent(child, START_S)
        _receive(child)


def _receive(child: Child) -> tuple[str, Any]:
    """The kind and content of a child's next message; RuntimeError if it failed."""
    kind, content = child.receive()
    if kind == "failed":
        raise RuntimeError(f"a client process ended with an error:\n{content}")
    return kind, content


def _silent(child: Child, seconds: float) -> TimeoutError:
    how = " and is suspended (SIGSTOP)" if is_suspended(child.pid) else ""
    return TimeoutError(f"client process {child.pid} has sent nothing for {seconds:g} s{how}")


def _collect(children: list[Child], show: ShowProgress | None, interrupts: Interrupts) -> list[Any]:
    """Receive progress and results until every child has sent its rows."""
    counts = [0] * len(children)
    results: dict[int, Any] = {}
    running = {child.connection: i for i, child in enumerate(children)}
    silent_s = [0.0] * len(children)
    before = time.monotonic()
    while running:
        if interrupts.end_the_load():
            for i in running.values():
                children[i].send("end")
        for connection in wait(list(running), PROGRESS_S):
            i = running[connection]  # type: ignore[index]
            kind, content = _receive(children[i])
            silent_s[i] = 0.0
            if kind == "count":
                counts[i] = content
            else:
                results[i] = content
                counts[i] = len(content[1]) // ROW.size
                del running[children[i].connection]
        # A long step means that this process was suspended itself, as by Ctrl-Z.
        step, before = min(time.monotonic() - before, 1.0), time.monotonic()
        for i in running.values():
            silent_s[i] += step
            if silent_s[i] > SILENT_S:
                raise _silent(children[i], SILENT_S)
        if show:
            show(sum(counts))
    return [results[i] for i in range(len(children))]


def serve(connection: Connection) -> None:
    """Run one share in the child process."""
    share, ring = connection.recv()
    # No reference cycles are created here, and a collection would pause the load.
    gc.disable()
    try:
        recorder = None
        if share.options.record:
            memory = mmap.mmap(ring, memory_size(share.options.capacity))
            recorder = Recorder(share.options.capacity, memory=memory)
        os.close(ring)
        loop = _make_loop(share, recorder)
        reported_ns = 0

        def report() -> None:
            nonlocal reported_ns
            if (now := loop.clock()) - reported_ns >= PROGRESS_S * 1e9:
                reported_ns = now
                loop.stopping = connection.poll(0)  # the only message left is to end
                connection.send(("count", loop.n_done))

        loop.on_tick = report
        connection.send(("ready", None))
        facts = loop.run(connection.recv())
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
        return
    connection.send(("done", (facts, bytes(loop.rows), bytes(loop.steps))))


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
        if self.recorder:
            self.recorder.close()
        return Part(self.facts, bytes(self.loop.rows), bytes(self.loop.steps), snapshot)


def run_in_threads(
    shares: list[Share], show: ShowProgress | None, interrupts: Interrupts
) -> list[Part]:
    """Run each share in a thread; joins with a timeout, so that an interrupt arrives."""
    threads: list[_Thread] = []
    try:
        threads.extend(_Thread(share) for share in shares)
        start_ns = _in_a_moment()
        for thread in threads:
            thread.start_ns = start_ns
            thread.start()
        interrupts.loading = True
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(PROGRESS_S)
            if interrupts.end_the_load():
                for thread in alive:
                    thread.loop.stopping = True
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
