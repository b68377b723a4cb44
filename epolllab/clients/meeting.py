"""Where the caller of ``run_clients(executor=...)`` and the workers meet to start together.

The caller listens; every worker connects, says which share it has, and waits for the start.
Messages are JSON objects, one a line. A connection that ends early says at once that a
worker died, or, on the other side, that the caller did. The caller listens on the loopback,
or on the address from which it reaches a target elsewhere, as long as the run lasts, and
accepts only connections that know a random token.
"""

import json
import os
import secrets
import select
import socket
import time
import weakref
from contextlib import suppress
from typing import Any, NamedTuple, Self

from epolllab.clients.executors import Interrupts
from epolllab.clients.options import Target
from epolllab.kernel import addresses
from epolllab.workers import Host

__all__ = ["CallerLine", "Guest", "Invitation", "Meeting"]

CONNECT_S = 10.0
STALL_S = 10.0
"""How long a message may remain unsent, or unacknowledged, before the peer counts as gone."""

WAIT_S = 120.0
"""How long a worker waits for the start if it never hears that the caller is gone."""

MESSAGE_BYTES = 10_000
"""Messages are shorter; a longer one ends the connection."""

N_PINGS = 7
_ONCE = "it is not started twice, so that no load is sent twice"
LEAD_NS = 100_000_000
"""Delay between the start message and the common start time, besides the round trip."""


class Line:
    """JSON messages over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received = b""
        self._messages: list[dict[str, Any]] = []
        sock.settimeout(STALL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALL_S * 1000))

    def send(self, **message: Any) -> None:
        """Send one message; OSError if the peer is gone."""
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout: float) -> list[dict[str, Any]]:
        """Return what has arrived, after waiting for some; EOFError if the peer is gone."""
        messages, self._messages = self._messages, []
        if messages:
            return messages
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return []
        try:
            data = self.sock.recv(MESSAGE_BYTES)
        except OSError as error:
            raise EOFError(str(error)) from error
        if not data:
            raise EOFError("the connection was closed")
        *complete, self._received = (self._received + data).split(b"\n")
        if len(self._received) > MESSAGE_BYTES:
            raise EOFError("a message without an end")
        try:
            messages = [json.loads(line) for line in complete]
        except ValueError as error:
            raise EOFError("not a message of epolllab") from error
        if not all(isinstance(message, dict) for message in messages):
            raise EOFError("not a message of epolllab")
        return messages

    def receive_one(self, timeout: float) -> dict[str, Any]:
        """Return the next message; TimeoutError if none arrives."""
        deadline = time.monotonic() + timeout
        while not (messages := self.receive(max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"nothing arrived within {timeout:g} s")
        first, *self._messages = messages
        return first

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


class Invitation(NamedTuple):
    """What a worker must know to join."""

    address: tuple[str, int]
    token: str
    caller: Host
    network: str
    """The caller's network namespace."""
    is_loopback: bool
    """Whether the target is an address of the caller's loopback."""


class Guest:
    """A worker that has joined, seen from the caller."""

    def __init__(self, number: int, line: Line, host: Host) -> None:
        self.number = number
        self.line = line
        self.host = host
        self.where = f"{host.host} (process {host.pid})"
        self.is_ready = self.is_done = self.was_refused = False
        self.n_rows = 0
        """Rows that the share has written so far."""
        self.lost = ""
        """Why the connection ended before the share did."""
        self.heard_s = time.monotonic()
        self.start_ns = 0
        """The common start time on the worker's clock."""
        self.offset_ns = self.clock_error_ns = 0
        """The worker's monotonic clock minus the caller's, and its uncertainty."""

    def take(self, message: dict[str, Any]) -> None:
        """Note what the worker reports."""
        self.heard_s = time.monotonic()
        self.is_ready = self.is_ready or "ready" in message
        self.is_done = self.is_done or "done" in message
        self.n_rows = int(message.get("count", message.get("done", self.n_rows)))

    def compare_clocks(self, boot_id: str) -> int:
        """Measure the offset of the worker's clock; return the fastest round trip, ns.

        The clock of the caller's own boot is the same clock: its offset is 0.
        """
        trips = []
        for _ in range(N_PINGS):
            asked_ns = time.monotonic_ns()
            self.line.send(ping=True)
            clock_ns = int(self.line.receive_one(STALL_S)["clock"])
            now_ns = time.monotonic_ns()
            trips.append((now_ns - asked_ns, clock_ns - (asked_ns + now_ns) // 2))
        round_trip_ns, offset_ns = min(trips)
        if self.host.boot_id != boot_id:
            self.offset_ns, self.clock_error_ns = offset_ns, -(-round_trip_ns // 2)
        return round_trip_ns


class Meeting:
    """The caller's side: a listener and the workers that have joined.

    Attributes
    ----------
    guests : dict
        By number of the share.
    started : bool
        Whether the load has begun. From then on a worker that ends stays in `guests`, so
        that its share is not started again.
    """

    def __init__(self, target: Target) -> None:
        is_loopback = addresses.is_loopback(target.address)
        self._listener = socket.create_server((_own_address(target), 0), family=target.family)
        self._listener.setblocking(False)
        _meetings.add(self)
        self.guests: dict[int, Guest] = {}
        self.started = False
        self._unknown: list[Line] = []
        host, port = self._listener.getsockname()[:2]
        self.invitation = Invitation(
            (host, port), secrets.token_hex(16), Host.here(), network_namespace(), is_loopback
        )

    def poll(self, timeout: float) -> None:
        """Wait up to `timeout` seconds; take what has arrived from the workers."""
        lines = {guest.line.sock.fileno(): guest for guest in self._connected()}
        strangers = {line.sock.fileno(): line for line in self._unknown}
        poll = select.poll()
        for fd in (self._listener.fileno(), *lines, *strangers):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(timeout * 1000):
            if fd in lines:
                self._hear(lines[fd])
            elif fd in strangers:
                self._meet(strangers[fd])
            else:
                self._accept()

    def _connected(self) -> list[Guest]:
        return [guest for guest in self.guests.values() if guest.line.sock.fileno() >= 0]

    def _accept(self) -> None:
        with suppress(OSError):
            self._unknown.append(Line(self._listener.accept()[0]))

    def _hear(self, guest: Guest) -> None:
        try:
            for message in guest.line.receive(0):
                guest.take(message)
        except EOFError as error:
            guest.line.close()
            guest.heard_s = time.monotonic()
            guest.lost = "" if guest.is_done else str(error)
            if not self.started:  # no load was sent, so that the engine may try again
                del self.guests[guest.number]

    def _meet(self, line: Line) -> None:
        """Read a worker's first message, and let it join or refuse it."""
        try:
            if not (messages := line.receive(0)):
                return  # not all of it has arrived
            self._unknown.remove(line)
            message = messages[0]
            if not secrets.compare_digest(str(message["token"]), self.invitation.token):
                raise EOFError("a stranger")
            number, host = int(message["number"]), Host(*message["host"])
            if guest := self.guests.get(number):
                guest.was_refused = True
                line.send(refused=f"share {number} was started before, on {guest.where}; {_ONCE}")
                raise EOFError("started before")
            line.send(welcome=True)
        except (EOFError, OSError, LookupError, TypeError, ValueError):
            line.close()
            self._unknown = [other for other in self._unknown if other is not line]
            return
        self.guests[number] = Guest(number, line, host)

    def start(self) -> None:
        """Start all at one time, each by its own clock, as well as these can be compared.

        Raises
        ------
        RuntimeError
            A worker ended in the meantime.
        """
        slowest_ns = 0
        for guest in self.guests.values():
            try:
                trip_ns = guest.compare_clocks(self.invitation.caller.boot_id)
            except (EOFError, OSError, LookupError, ValueError) as error:
                raise RuntimeError(
                    f"share {guest.number} on {guest.where} ended before the load: {error}"
                ) from error
            slowest_ns = max(slowest_ns, trip_ns)
        self.started = True
        start_ns = time.monotonic_ns() + LEAD_NS + 2 * slowest_ns
        for guest in self.guests.values():
            guest.heard_s = time.monotonic()
            guest.start_ns = start_ns + guest.offset_ns
            with suppress(OSError):  # the next poll finds out
                guest.line.send(start=guest.start_ns)

    def end(self) -> None:
        """Tell the workers to end the load now and to return what they have."""
        for guest in self._connected():
            with suppress(OSError):
                guest.line.send(end=True)

    def close(self) -> None:
        """Close every connection, which ends the load of workers that still send."""
        for line in [*self._unknown, *(guest.line for guest in self.guests.values())]:
            line.close()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_meetings: "weakref.WeakSet[Meeting]" = weakref.WeakSet()


def _leave_meetings() -> None:
    """Close the copies in a forked process, such as a process pool's worker."""
    for meeting in list(_meetings):
        meeting.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_meetings)


def _own_address(target: Target) -> str:
    """Return the address from which this machine reaches the target."""
    with socket.socket(target.family, socket.SOCK_DGRAM) as sock:
        sock.connect(target.address)  # sends nothing
        host: str = sock.getsockname()[0]
    return host


def network_namespace() -> str:
    """Return the id of this process's network namespace; empty if it cannot be read."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/net")
    return ""


class CallerLine(Interrupts):
    """The worker's side: takes orders from the caller during :func:`run_in_processes`.

    Python's handler of SIGINT does not run meanwhile: Ctrl-C in the terminal that a process
    pool shares with its caller is meant for the caller, which then ends the load.
    """

    def __init__(self, invitation: Invitation, number: int) -> None:
        super().__init__()
        here = Host.here()
        _require_reachable(invitation, here)
        try:
            sock = socket.create_connection(invitation.address, CONNECT_S)
        except OSError as error:
            host, port = invitation.address
            raise ConnectionError(
                f"the worker on {here.host} cannot connect to the caller at {host}:{port}, "
                f"where the shares meet to start together, or the run is over ({error})"
            ) from error
        self._line = Line(sock)
        self._line.send(token=invitation.token, number=number, host=here)
        answer = self._receive_one("welcome")
        if "refused" in answer:
            self._line.close()
            raise RuntimeError(answer["refused"])

    def _receive_one(self, what: str) -> dict[str, Any]:
        try:
            return self._line.receive_one(WAIT_S)
        except (EOFError, TimeoutError) as error:
            self._line.close()
            raise ConnectionError(f"no {what} message came from the caller: {error}") from error

    def start_ns(self) -> int:
        """Report that the share is ready; return the start time on this machine's clock."""
        self._line.send(ready=True)
        while "start" not in (message := self._receive_one("start")):
            self._line.send(clock=time.monotonic_ns())
        return int(message["start"])

    def show(self, n_done: int) -> None:
        """Report progress."""
        self._line.send(count=n_done)

    def deliver(self) -> None:
        """Drop the signals held back."""
        self._pending.clear()

    def end_the_load(self) -> bool:
        """Return whether the caller has ended the load; ConnectionError if it is gone."""
        self.deliver()
        try:
            ended = any("end" in message for message in self._line.receive(0))
        except EOFError as error:
            raise ConnectionError(f"the caller is gone: {error}") from error
        self.interrupted = self.interrupted or ended
        return ended

    def done(self, n_rows: int) -> None:
        """Report how many rows come home; then the connection is closed."""
        self._line.send(done=n_rows)

    def __exit__(self, *details: object) -> None:
        self._line.close()
        super().__exit__(*details)


def _require_reachable(invitation: Invitation, here: Host) -> None:
    """Refuse a target on the caller's loopback if this worker has another loopback."""
    caller = invitation.caller
    is_elsewhere = here.boot_id != caller.boot_id or network_namespace() != invitation.network
    if invitation.is_loopback and is_elsewhere:
        raise ValueError(
            f"target is on the loopback of {caller.host}, which the worker on {here.host} cannot "
            'reach; start the server with start_server(host="ADDRESS"), and pass an address that '
            "the workers reach, target=(ADDRESS, port), and allow_remote=True"
        )
