"""Checks of a server from outside: whether it has the faults of the how-to's server.

A check acts as a careless or unlucky client, and then looks at what the clients got and at
the state of the server's process: whether it sleeps, what it has open, whether it lives.
"""

import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

from epolllab import kernel
from epolllab.checks import check_callable
from epolllab.experiments.comparisons.howto import REQUEST, RESPONSE
from epolllab.kernel.waiting import PATIENCE_S, is_asleep, until_idle

__all__ = ["CHECKS", "Check", "CheckedServer", "check_conformance"]

BODY = RESPONSE.rpartition(b"\r\n")[2]

VERDICT_S = 2.0
"""How long a server may leave a client unserved before it counts as a fault."""

SPIN_NS = 300_000_000
"""Processor time that counts as a spin: more than a thousand times what a client needs."""

ENDLESS = 300_000
"""Bytes of a request that is never complete."""


class CheckedServer(Protocol):
    """What a check needs of a server; :class:`epolllab.Server` has it."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the listener."""

    @property
    def pid(self) -> int:
        """The process whose main thread runs the loop."""

    @property
    def is_running(self) -> bool:
        """Whether the loop is running."""

    @property
    def error(self) -> str | None:
        """The error that ended it."""

    def stats(self) -> dict[str, int]:
        """``accepted``, ``wakeups`` and ``connections``, and possibly ``remembered``."""


CheckFunction = Callable[[CheckedServer], str]


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    """What the client does."""
    fault: str
    """The fault of the how-to's server that it finds."""
    function: CheckFunction
    """Returns "" for a pass, or what was wrong."""


CHECKS: dict[str, Check] = {}
"""The checks by name, in the order in which they are made."""


def _check(name: str, fault: str) -> Callable[[CheckFunction], CheckFunction]:
    def enter(function: CheckFunction) -> CheckFunction:
        CHECKS[name] = Check(name, fault, function)
        return function

    return enter


def check_conformance(make: Callable[[], AbstractContextManager[CheckedServer]]) -> pd.DataFrame:
    """Make all checks of a server; each failure is followed by a new server.

    Parameters
    ----------
    make : callable
        Starts the server in its own process and returns it, for example ``HowToProcess``,
        or ``lambda: epolllab.start_server(protocol=Mine, process=True)``.

    Returns
    -------
    pandas.DataFrame
        A row for each check, named by the index: ``fault`` (str, the fault of the
        how-to's server), ``passed`` (bool), ``seen`` (str, what was wrong; "" for a pass).
        ``attrs["interrupted"]`` and ``attrs["notes"]`` as for :func:`level_against_edge`.

    Raises
    ------
    ValueError
        The server runs in a thread of this process, where its descriptors and processor
        time cannot be told from those of the caller.
    PermissionError
        ``/proc`` does not show whether the server sleeps, as in some containers.
    """
    check_callable("make", make)
    kernel.require_loopback()
    rows: list[tuple[str, str, bool, str]] = []
    notes = []
    try:
        _run_checks(make, rows)
    except KeyboardInterrupt:
        notes.append(f"interrupted after {len(rows)} of {len(CHECKS)} checks")
    frame = pd.DataFrame(rows, columns=["check", "fault", "passed", "seen"])
    frame = frame.astype({"fault": "str", "passed": "bool", "seen": "str"}).set_index("check")
    frame.attrs = {"interrupted": bool(notes), "notes": notes}
    return frame


def _run_checks(
    make: Callable[[], AbstractContextManager[CheckedServer]],
    rows: list[tuple[str, str, bool, str]],
) -> None:
    """Run all checks; append a row for each."""
    with ExitStack() as running:
        server = None
        for check in CHECKS.values():
            if server is None:
                server = running.enter_context(make())
                _require_process(server)
            wrong = _run_check(check, server)
            rows.append((check.name, check.fault, not wrong, wrong))
            if wrong or _until_settled(server):
                running.close()
                server = None


def _require_process(server: CheckedServer) -> None:
    if server.pid == os.getpid():
        raise ValueError(
            "make must start a server in its own process, whose state check_conformance() "
            "examines; this one runs in a thread. Start it with process=True"
        )


def _run_check(check: Check, server: CheckedServer) -> str:
    try:
        return check.function(server)
    except PermissionError:
        raise
    except (OSError, RuntimeError) as error:
        # If the server dies, the client's call fails, whichever it is.
        return _death(server) or f"{type(error).__name__}: {error}"


def _death(server: CheckedServer) -> str:
    """Return the last line of the error that ended the server; "" if it is running."""
    if server.is_running:
        return ""
    last = (server.error or "").strip().splitlines()[-1:]
    return f"the server died: {''.join(last)}"


def _until_settled(
    server: CheckedServer, cpu_ns: int | None = None, n_open: int | None = None
) -> str:
    """Wait until the server sleeps with `n_open` descriptors at most; return what is wrong."""
    cpu_ns = kernel.cpu_time_ns(server.pid) if cpu_ns is None else cpu_ns
    deadline = time.monotonic() + VERDICT_S
    while time.monotonic() < deadline:
        if died := _death(server):
            return died
        with suppress(ProcessLookupError):
            if kernel.cpu_time_ns(server.pid) - cpu_ns > SPIN_NS:
                return "the server spins at 100 % CPU"
            if is_asleep(server.pid) and (
                n_open is None or kernel.descriptors_open(server.pid) <= n_open
            ):
                return ""
        time.sleep(0.001)
    return "the connection is never closed"


def _observe(server: CheckedServer) -> Callable[[], str]:
    """Note the server's state before a client connects; return the check of its state after."""
    until_idle(server.pid)
    n_open = kernel.descriptors_open(server.pid)
    cpu_ns = kernel.cpu_time_ns(server.pid)
    return lambda: _until_settled(server, cpu_ns, n_open)


def _connect(server: CheckedServer) -> socket.socket:
    return socket.create_connection(server.address, PATIENCE_S)


def _read_to_end(client: socket.socket) -> tuple[bytes, str]:
    """Read everything; return it and how it ended."""
    received, how = b"", "end of file"
    try:
        while data := client.recv(65_536):
            received += data
    except ConnectionResetError:
        how = "a reset"
    except TimeoutError:
        how = "nothing more"
    return received, how


@_check("asks and is answered", "none: this is what it was written for")
def _complete_request(server: CheckedServer) -> str:
    check_state = _observe(server)
    with _connect(server) as client:
        client.sendall(REQUEST)
        received, how = _read_to_end(client)
    if not received.endswith(BODY) or how != "end of file":
        return f"got {received!r:.60} and then {how}"
    return check_state()


@_check("leaves before the blank line", "an empty recv is not handled")
def _incomplete_request(server: CheckedServer) -> str:
    check_state = _observe(server)
    with _connect(server) as client:
        client.sendall(REQUEST[:9])
        until_idle(server.pid, client)
    return check_state()


@_check("resets the connection", "an error of one socket is not handled, or taken for 'drained'")
def _reset(server: CheckedServer) -> str:
    check_state = _observe(server)
    with _connect(server) as client:
        client.sendall(REQUEST[:9])
        until_idle(server.pid, client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return check_state()


@_check("sends a byte that is no UTF-8", "the request is decoded, to be printed")
def _not_utf8(server: CheckedServer) -> str:
    check_state = _observe(server)
    with _connect(server) as client:
        client.sendall(REQUEST.replace(b"/ ", b"/\xff "))
        received, how = _read_to_end(client)
    if received.endswith(BODY):
        return ""
    return check_state() or f"no response, but {how}"


@_check("comes with nineteen others", "listen(1)")
def _burst(server: CheckedServer) -> str:
    n = 20
    with _stopped(server), _connecting(server, n) as clients:
        complete = _count_established(clients)
    return "" if complete == n else f"{complete} of {n} get into the queue while the loop is busy"


@_check("comes with another at the same time", "one accept for each event")
def _two_at_once(server: CheckedServer) -> str:
    n = 2
    until_idle(server.pid)
    before = server.stats()
    with ExitStack() as opened:
        with _stopped(server):
            _count_established(opened.enter_context(_connecting(server, n)))
        deadline = time.monotonic() + PATIENCE_S
        while (after := server.stats())["accepted"] < before["accepted"] + n:
            if time.monotonic() > deadline:
                return f"{after['accepted'] - before['accepted']} of {n} were accepted"
            time.sleep(0.001)
    n_waits = after["wakeups"] - before["wakeups"]
    return "" if n_waits == 1 else f"{n_waits} waits for {n} simultaneous connections"


@_check("has been there, with nine others", "two of three tables are never trimmed")
def _closed_connections(server: CheckedServer) -> str:
    check_state = _observe(server)
    with ExitStack() as opened:
        clients = []
        for _ in range(10):
            # One by one, so that a queue of one has room.
            clients.append(opened.enter_context(_connect(server)))
            until_idle(server.pid)
        for client in clients:
            client.sendall(REQUEST)
        for client in clients:
            _read_to_end(client)
    if wrong := check_state():
        return wrong
    stats = server.stats()
    left = stats.get("remembered", stats["connections"])
    return f"{left} closed connections are still in a table" if left else ""


@_check("sends 300,000 bytes and no blank line", "a request may have any size")
def _endless_request(server: CheckedServer) -> str:
    with _connect(server) as client:
        try:
            client.sendall(b"x" * ENDLESS)
            until_idle(server.pid, client)
            client.setblocking(False)
            client.recv(1)
        except BlockingIOError:
            return f"all {ENDLESS:,} bytes are accepted, without a limit"
        except ConnectionError:
            pass
    return _death(server)


@contextmanager
def _stopped(server: CheckedServer) -> Iterator[None]:
    """Stop the server's process, as if its loop were busy."""
    until_idle(server.pid)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + PATIENCE_S
        stat = Path("/proc", str(server.pid), "stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {server.pid} did not stop")
            time.sleep(0.000_2)
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def _connecting(server: CheckedServer, n: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as opened:
        clients = [opened.enter_context(socket.socket()) for _ in range(n)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(server.address)
        yield clients


def _count_established(clients: list[socket.socket]) -> int:
    """Count complete connections, until all are or for half a second there was none more."""
    complete, since = 0, time.monotonic()
    while complete < len(clients) and time.monotonic() - since < 0.5:
        now = sum(kernel.tcp_info(client).state == "ESTABLISHED" for client in clients)
        if now != complete:
            complete, since = now, time.monotonic()
        time.sleep(0.001)
    return complete
