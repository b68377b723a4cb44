"""Our own runs beside the notebooks on phenomena, as files under ``data/reference``.

One job: make them all with one command::

    python -m epolllab.experiments.reference data/reference

Recordings are of servers with a few clients, told step by step; frames are what the
experiments return, with the circumstances in their ``attrs``.
"""

import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd

from epolllab import frames, kernel
from epolllab.events import EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from epolllab.experiments import (
    latency_tails,
    level_against_edge,
    lifecycles_side_by_side,
    thundering_herd,
)
from epolllab.experiments.bench import Bench, until_idle
from epolllab.experiments.howto import HowToProcess
from epolllab.experiments.makers import save_each
from epolllab.experiments.repairs import Checked, examine
from epolllab.recording import Recording
from epolllab.server import start_server

__all__ = ["RUNS", "reference_runs"]

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def forgotten_drain() -> Recording:
    """One request of 2,531 bytes, edges, one read of 1,000 bytes an event, two nudges."""
    request = b"GET / HTTP/1.0\r\nX-Padding: " + b"x" * 2_500 + b"\r\n\r\n"
    with start_server(trigger="edge", drain=False, recv_size=1_000, process=True) as server:
        with socket.create_connection(server.address, 10) as client:
            for piece in (request, b"!", b"!"):
                client.sendall(piece)
                until_idle(server, client)
            client.recv(1_000)
        return server.settle().recording()


def three_endings() -> Recording:
    """Three clients of the how-to's life cycle: one polite, one half-closed, one reset."""
    with start_server(lifecycle="howto", process=True) as server:
        for ending in ("politely", "early", "rudely"):
            with socket.create_connection(server.address, 10) as client:
                client.sendall(REQUEST[:9] if ending == "rudely" else REQUEST)
                if ending == "rudely":
                    until_idle(server, client)
                    reset = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                    continue
                if ending == "early":
                    client.shutdown(socket.SHUT_WR)
                while client.recv(1_000):
                    pass
        return server.settle().recording()


def haunted_interest() -> pd.DataFrame:
    """An interest list with a live entry, a ghost, and a number that stands for two files."""
    with Bench() as bench, select.epoll() as epoll:
        table = {}
        for mask in (EPOLLIN | EPOLLRDHUP, EPOLLIN | EPOLLET, EPOLLIN):
            end = bench.moved(bench.pair()[0])
            epoll.register(end.fd, mask)
            table[end.fd] = mask
        well, ghost, reused = table
        for fd in (ghost, reused):
            bench.adopt(os.dup(fd), "forgotten duplicate")
        os.dup2(bench.pair()[0].fd, reused, False)
        os.dup2(bench.pair()[0].fd, ghost, False)  # closed with the bench, and not registered
        epoll.register(reused, EPOLLIN | EPOLLOUT)
        table = {well: table[well], reused: EPOLLIN | EPOLLOUT}
        inodes = {fd: os.fstat(fd).st_ino for fd in table}
        return frames.interest_list(kernel.interest_list(epoll), table, inodes=inodes)


def howto_checks() -> pd.DataFrame:
    """Which checks the how-to's two servers pass, and one of the package's own."""
    servers: dict[str, Callable[[], AbstractContextManager[Checked]]] = {
        "how-to,\nlevel": HowToProcess,
        "how-to,\nedge": lambda: HowToProcess(edge=True),
        "start_server()": lambda: start_server(max_request_bytes=65_536, process=True),
    }
    return pd.DataFrame({name: examine(make)["passed"] for name, make in servers.items()})


RUNS: dict[str, Callable[[], Recording | pd.DataFrame]] = {
    "forgotten-drain": forgotten_drain,
    "three-endings": three_endings,
    "haunted-interest": haunted_interest,
    "howto-checks": howto_checks,
    "level-against-edge": lambda: level_against_edge(progress=False),
    "lifecycles": lambda: lifecycles_side_by_side(progress=False),
    "herd": lambda: thundering_herd(workers=(4, 16, 64), progress=False),
    "latency-tails": lambda: latency_tails(progress=False),
}
"""Name to what makes it."""


def reference_runs(
    folder: str | os.PathLike[str], names: tuple[str, ...] = tuple(RUNS)
) -> dict[str, Path]:
    """Make our own runs; see :func:`~epolllab.experiments.makers.save_each`.

    On a machine that is otherwise quiet; about two minutes in all, on two processors.

    Parameters
    ----------
    folder : path-like
        Where the files go.
    names : tuple of str
        Of :data:`RUNS`.
    """
    return save_each(RUNS, {name: Path(folder, f"{name}.parquet") for name in names})


if __name__ == "__main__":
    reference_runs(sys.argv[1] if len(sys.argv) > 1 else "data/reference")
