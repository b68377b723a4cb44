"""Run an experiment in a fresh interpreter on a worker of an executor.

A worker may have threads, open descriptors and raised limits of its own, which an experiment
would measure or disturb. So the worker only starts a child process, and waits for its result.
"""

import errno
import pickle
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from epolllab.child import Child

__all__ = ["Measured", "Request", "perform_once", "serve"]

POLL_S = 0.05
_TURN = b"\0epolllab experiment"
"""Name of an abstract socket: the kernel gives it to one process, and frees it at its end."""


class Request(NamedTuple):
    """What a worker is asked to run."""

    run: str
    """The same for all workers of one call."""
    function: str
    """A function of :mod:`epolllab.experiments`."""
    options: Mapping[str, Any]
    phenomena: bytes = b""
    """Pickled entries to add to the catalogue first."""


class Measured(NamedTuple):
    """What an experiment measured in one worker."""

    table: bytes
    """The frame, in Arrow's stream format, which other versions of pandas can read."""
    circumstances: dict[str, Any]
    notes: list[str]
    started_ns: int
    ended_ns: int


_claimed: dict[str, object] = {}
"""The calls that this process has run an experiment for."""


def perform_once(request: Request) -> Measured | None:
    """Run the experiment in a child; None if this worker has already run it in this call.

    An engine may give one worker two tasks while another worker is idle.
    """
    mine = object()
    if _claimed.setdefault(request.run, mine) is not mine:
        return None
    with _turn(), closing(Child(f"{__name__}:serve")) as child:
        child.send(request)
        measured, error = child.receive()
    if measured is None:
        raise RuntimeError(error)
    return Measured(*measured)


@contextmanager
def _turn() -> Iterator[None]:
    """Wait until no other experiment runs on this host."""
    with socket.socket(socket.AF_UNIX) as place:
        while True:
            try:
                place.bind(_TURN)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    time.sleep(POLL_S)
                    continue
            break
        yield


def serve(connection: Connection) -> None:
    """Run the requested experiment in this process; send its result or an error."""
    request = Request(*connection.recv())
    try:
        answer = tuple(_measure(request)), ""
    except Exception as error:
        connection.send((None, f"{type(error).__name__}: {error}"))
        return
    connection.send(answer)


def _measure(request: Request) -> Measured:
    # By name, since the experiments import this file to run it elsewhere.
    experiments = import_module("epolllab.experiments")
    if request.phenomena:
        registry = import_module("epolllab.experiments.catalogue.registry")
        registry.add(pickle.loads(request.phenomena))
    started_ns = time.monotonic_ns()
    made = getattr(experiments, request.function)(**request.options, progress=False)
    ended_ns = time.monotonic_ns()
    frame = getattr(made, "frame", made)
    facts = getattr(made, "circumstances", None) or made.attrs["circumstances"]
    notes = frame.attrs["notes"]
    return Measured(_table(frame), dict(facts), list(notes), started_ns, ended_ns)


def _table(frame: Any) -> bytes:
    import pyarrow as pa

    bare = frame.copy(deep=False)
    bare.attrs = {}
    table = pa.Table.from_pandas(bare, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content
