"""Checks of a server from outside: does it have the faults of the how-to's, or not.

One job: treat a server as rude and unlucky clients do, and see what becomes of it. A
check knows nothing of how a server is written; it looks at what clients get and at
what the kernel says of the process: does it sleep, what has it open, does it live.
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
from typing import TYPE_CHECKING, Protocol

from epolllab import kernel
from epolllab.kernel.waiting import PATIENCE_S, is_asleep, until_idle

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["CHECKS", "Check", "Checked", "check_conformance"]


REQUEST = b"GET / HTTP/1.0\r\n\r\n"
BODY = b"Hello, world!"


VERDICT_S = 2.0
"""How long a server may leave a client unserved before it counts as a fault."""

SPIN_NS = 300_000_000
"""Processor time for one small client: more than a thousand times what it needs."""


class Checked(Protocol):
    """What a check needs of a server; :class:`epolllab.Server` has it."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""

    @property
    def pid(self) -> int:
        """The process whose first thread is the loop."""

    @property
    def is_running(self) -> bool:
        """Whether the loop lives."""

    @property
    def error(self) -> str | None:
        """What ended it."""

    def stats(self) -> dict[str, int]:
        """``accepted``, ``wakeups`` and ``connections``, and perhaps ``remembered``."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes
    ----------
    name : str
        What the client does.
    fault : str
        What the how-to does wrong about it.
    function : callable
        ``function(server)`` returns "" for a pass, or what was wrong.
    """

    name: str
    fault: str
    function: Callable[[Checked], str]


CHECKS: dict[str, Check] = {}
"""The checks by name, in the order in which they are made."""


def _check(name: str, fault: str) -> Callable[[Callable[[Checked], str]], Callable[[Checked], str]]:
    def enter(function: Callable[[Checked], str]) -> Callable[[Checked], str]:
        CHECKS[name] = Check(name, fault, function)
        return function

    return enter


def check_conformance(make: Callable[[], AbstractContextManager[Checked]]) -> "pd.DataFrame":
    """Make all checks of a server; after each that it fails, of a fresh one.

    Parameters
    ----------
    make : callable
        Starts the server in a process of its own, and returns it. For example
        ``HowToProcess``, or
        ``lambda: epolllab.start_server(protocol=Mine, process=True)``.

    Returns
    -------
    pandas.DataFrame
        A row for each check, named by the index: ``fault`` (str, what the how-to does
        wrong), ``passed`` (bool), ``seen`` (str, what was wrong; "" for a pass).

    Raises
    ------
    ValueError
        The server runs in a thread of this process, where the kernel cannot tell its
        descriptors and its processor time from ours.
    """
    import pandas as pd

    rows = []
    with ExitStack() as running:
        server = None
        for check in CHECKS.values():
            if server is None:
                server = running.enter_context(make())
                _require_process(server)
            seen = _seen(check, server)
            rows.append((check.name, check.fault, not seen, seen))
            if seen or not _rests(server):
                running.close()
                server = None
    frame = pd.DataFrame(rows, columns=["check", "fault", "passed", "seen"])
    return frame.astype({"fault": "str", "passed": "bool", "seen": "str"}).set_index("check")


def _rests(server: Checked) -> bool:
    """Whether a server sleeps again, so that the next check can be made of it."""
    begun_ns = kernel.cpu_time_ns(server.pid)
    deadline = time.monotonic() + VERDICT_S
    while server.is_running and time.monotonic() < deadline:
        if is_asleep(server.pid):
            return True
        if kernel.cpu_time_ns(server.pid) - begun_ns > SPIN_NS:
            return False
        time.sleep(0.001)
    return False


def _require_process(server: Checked) -> None:
    if server.pid == os.getpid():
        raise ValueError(
            "check_conformance() looks at the process of the server, and this one runs in a "
            "thread of ours. Start it with process=True"
        )


def _seen(check: Check, server: Checked) -> str:
    try:
        return check.function(server)
    except (OSError, RuntimeError) as error:
        # A server that dies breaks whatever the client is at.
        died = _died(server)
        return died or f"{type(error).__name__}: {error}"


def _died(server: Checked) -> str:
    """What ended the server; "" if it lives."""
    if server.is_running:
        return ""
    last = (server.error or "").strip().splitlines()[-1:]
    return f"the server died: {''.join(last)}"


def _connected(server: Checked) -> socket.socket:
    return socket.create_connection(server.address, PATIENCE_S)


def _read_to_end(client: socket.socket) -> tuple[bytes, str]:
    """All that comes, and how it ended: "end", "reset" or "silence"."""
    parts = []
    try:
        while data := client.recv(65_536):
            parts.append(data)
    except ConnectionResetError:
        return b"".join(parts), "reset"
    except TimeoutError:
        return b"".join(parts), "silence"
    return b"".join(parts), "end"


@contextmanager
def _watched(server: Checked) -> Iterator[Callable[[], str]]:
    """Note how a server is before a client comes; give what says how it is afterwards."""
    until_idle(server.pid, timeout=PATIENCE_S)
    n_open = kernel.descriptors_open(server.pid)
    cpu_ns = kernel.cpu_time_ns(server.pid)

    def afterwards() -> str:
        deadline = time.monotonic() + VERDICT_S
        while time.monotonic() < deadline:
            if died := _died(server):
                return died
            with suppress(ProcessLookupError, FileNotFoundError):
                if kernel.cpu_time_ns(server.pid) - cpu_ns > SPIN_NS:
                    return "the server spins at 100 % CPU"
                if is_asleep(server.pid) and kernel.descriptors_open(server.pid) <= n_open:
                    return ""
            time.sleep(0.001)
        return "the connection is never closed"

    yield afterwards


@_check("asks and is answered", "none: this is what it was written for")
def _asks(server: Checked) -> str:
    with _watched(server) as afterwards:
        with _connected(server) as client:
            client.sendall(REQUEST)
            answer, how = _read_to_end(client)
        if not answer.endswith(BODY) or how != "end":
            return f"got {answer!r:.60} and then {how}"
        return afterwards()


@_check("leaves before the blank line", "an empty recv is not handled")
def _leaves(server: Checked) -> str:
    with _watched(server) as afterwards:
        with _connected(server) as client:
            client.sendall(REQUEST[:9])
            until_idle(server.pid, client, timeout=PATIENCE_S)
        return afterwards()


@_check("resets the connection", "an error of one socket is not handled, or taken for 'drained'")
def _resets(server: Checked) -> str:
    with _watched(server) as afterwards:
        with _connected(server) as client:
            client.sendall(REQUEST[:9])
            until_idle(server.pid, client, timeout=PATIENCE_S)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return afterwards()


@_check("sends a byte that is no UTF-8", "the request is decoded, to be printed")
def _odd_byte(server: Checked) -> str:
    with _connected(server) as client:
        client.sendall(REQUEST.replace(b"/ ", b"/\xff "))
        answer, how = _read_to_end(client)
    if not answer.endswith(BODY):
        return _died(server) or f"no answer, but {how}"
    return ""


@_check("comes with nineteen others", "listen(1)")
def _burst(server: Checked) -> str:
    n = 20
    with _halted(server), _many(server, n) as clients:
        complete = _established(clients)
    return "" if complete == n else f"{complete} of {n} get into the queue while the loop is busy"


@_check("comes with another at the same time", "one accept for each event")
def _pair(server: Checked) -> str:
    n = 2
    until_idle(server.pid, timeout=PATIENCE_S)
    before = server.stats()
    with ExitStack() as opened:
        with _halted(server):
            _established(opened.enter_context(_many(server, n)))
        deadline = time.monotonic() + PATIENCE_S
        while (after := server.stats())["accepted"] < before["accepted"] + n:
            if time.monotonic() > deadline:
                return f"{after['accepted'] - before['accepted']} of {n} were accepted"
            time.sleep(0.001)
    n_waits = after["wakeups"] - before["wakeups"]
    return "" if n_waits == 1 else f"{n_waits} waits for {n} who came together"


@_check("has been there, with nine others", "two of three tables are never trimmed")
def _remembers(server: Checked) -> str:
    with _watched(server) as afterwards:
        with ExitStack() as opened:
            clients = []
            for _ in range(10):
                # One by one, so that a queue of one has room.
                clients.append(opened.enter_context(_connected(server)))
                until_idle(server.pid, timeout=PATIENCE_S)
            for client in clients:
                client.sendall(REQUEST)
            for client in clients:
                _read_to_end(client)
        if wrong := afterwards():
            return wrong
        stats = server.stats()
    left = stats.get("remembered", stats["connections"])
    return f"{left} clients who have left are still in a table" if left else ""


ENDLESS = 300_000
"""Bytes of a request that is never complete."""


@_check("sends 300,000 bytes and no blank line", "a request may have any size")
def _endless(server: Checked) -> str:
    with _connected(server) as client:
        try:
            client.sendall(b"x" * ENDLESS)
            until_idle(server.pid, client, timeout=PATIENCE_S)
            client.setblocking(False)
            client.recv(1)
        except BlockingIOError:
            return f"all {ENDLESS:,} bytes are taken, and more would be"
        except ConnectionError:
            pass
    return _died(server)


@contextmanager
def _halted(server: Checked) -> Iterator[None]:
    """Stop the server's process, so that its loop is as busy as a loop can be."""
    until_idle(server.pid, timeout=PATIENCE_S)
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
def _many(server: Checked, n: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as opened:
        clients = [opened.enter_context(socket.socket()) for _ in range(n)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(server.address)
        yield clients


def _established(clients: list[socket.socket]) -> int:
    """How many connections are complete, when all are or for half a second none was added."""
    complete, since = 0, time.monotonic()
    while complete < len(clients) and time.monotonic() - since < 0.5:
        now = sum(kernel.tcp_info(client).state == "ESTABLISHED" for client in clients)
        if now != complete:
            complete, since = now, time.monotonic()
        time.sleep(0.001)
    return complete
