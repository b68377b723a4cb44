"""Synthetic recordings, written as a sequence of what a loop did.

::

    script = Script()
    script.wait(1).ready(1, "IN").recv(1, 10).handle(1, 120).send(1, 120)
    script.recording()

Every call takes ``call_ns`` of the script's own clock and is followed by ``pause_ns``;
``after(ns)`` advances it further. Each method returns the script.
"""

import errno
import random
from collections.abc import Mapping
from typing import Any

from epolllab import events
from epolllab.events import FOREVER, NO_POSITION, RECORD, Op
from epolllab.recording.recording import Recording

__all__ = ["Script", "mask_of", "random_server", "served"]

LISTENER_FD = 3
POLLER_FD = 4


def mask_of(names: str) -> int:
    """Return the mask named ``"IN|HUP"``; 0 for ``"0"`` and ``""``."""
    bits = [name for name in names.split("|") if name not in ("", "0")]
    return sum(getattr(events, f"EPOLL{name}") for name in bits)


class Script:
    """The calls of a loop, one method each; connection *n* has descriptor *n* + 4.

    Parameters
    ----------
    start_ns : int
        Where the clock starts; high by default, as after months of uptime, so that
        computing in floats would lose nanoseconds.
    call_ns, pause_ns : int
        Duration of a call, and time until the next.
    capacity : int
        Records the ring holds; if more are written, the oldest are lost.
    """

    def __init__(
        self,
        *,
        start_ns: int = 2**55 + 1,
        call_ns: int = 1000,
        pause_ns: int = 100,
        capacity: int = 10_000,
    ) -> None:
        self.now = start_ns
        self.call_ns = call_ns
        self.pause_ns = pause_ns
        self.capacity = capacity
        self.rows: list[bytes] = []
        self.wake = 0
        self.position = NO_POSITION

    def after(self, ns: int) -> "Script":
        """Advance the clock."""
        self.now += ns
        return self

    def call(
        self, op: Op, conn: int, result: int, *, mask: int = 0, fd: int | None = None, ns: int = -1
    ) -> "Script":
        """Write the record of any call."""
        start = self.now
        self.now += self.call_ns if ns < 0 else ns
        self._write(op, conn, conn + 4 if fd is None else fd, start, result, mask)
        return self.after(self.pause_ns)

    def _write(self, op: Op, conn: int, fd: int, start: int, result: int, mask: int) -> None:
        fields = (self.wake, conn, fd, result, mask, op, self.position, 0, 0)
        self.rows.append(RECORD.pack(start, self.now, *fields))

    def wait(self, returned: int, *, timeout_ms: float | None = None, ns: int = -1) -> "Script":
        """Wait and return that many descriptors; negative for an errno."""
        start = self.now
        self.now += self.call_ns if ns < 0 else ns
        timeout_us = FOREVER if timeout_ms is None else int(timeout_ms * 1000)
        self.wake += 1
        self.position = NO_POSITION
        self._write(Op.WAIT, 0, POLLER_FD, start, returned, timeout_us)
        return self.after(self.pause_ns)

    def ready(self, conn: int, names: str = "IN") -> "Script":
        """Handle a descriptor that the wait returned; `conn` 0 is the listener."""
        self.position = 0 if self.position == NO_POSITION else self.position + 1
        fd = conn + 4 if conn else LISTENER_FD
        self._write(Op.READY, conn, fd, self.now, 0, mask_of(names))
        return self.after(self.pause_ns)

    def accept(self, conn: int, *, port: int | None = None) -> "Script":
        """Accept connection `conn` from `port`, by default 40000 + `conn`."""
        mask = 40_000 + conn if port is None else port
        return self.call(Op.ACCEPT, conn, conn + 4, mask=mask, fd=LISTENER_FD)

    def accept_blocked(self) -> "Script":
        """Find no further connection to accept."""
        return self.call(Op.ACCEPT, 0, -errno.EAGAIN, fd=LISTENER_FD)

    def register(self, conn: int, names: str = "IN") -> "Script":
        """Register the connection."""
        return self.call(Op.REGISTER, conn, 0, mask=mask_of(names))

    def modify(self, conn: int, names: str) -> "Script":
        """Change the interest."""
        return self.call(Op.MODIFY, conn, 0, mask=mask_of(names))

    def unregister(self, conn: int) -> "Script":
        """Unregister the connection."""
        return self.call(Op.UNREGISTER, conn, 0)

    def recv(self, conn: int, n_bytes: int, *, ns: int = -1) -> "Script":
        """Receive; 0 is end-of-file, a negative number an errno."""
        return self.call(Op.RECV, conn, n_bytes, ns=ns)

    def recv_blocked(self, conn: int) -> "Script":
        """Find the receive buffer empty."""
        return self.recv(conn, -errno.EAGAIN)

    def handle(
        self, conn: int, n_bytes: int, *, status: int = 0, target: int = 0, ns: int = -1
    ) -> "Script":
        """Handle a request with a response of that many bytes."""
        return self.call(Op.HANDLE, conn, n_bytes, mask=target << 16 | status, ns=ns)

    def send(self, conn: int, n_bytes: int, *, ns: int = -1) -> "Script":
        """Send; a negative number is an errno."""
        return self.call(Op.SEND, conn, n_bytes, ns=ns)

    def send_blocked(self, conn: int) -> "Script":
        """Find the send buffer full."""
        return self.send(conn, -errno.EAGAIN)

    def shutdown(self, conn: int) -> "Script":
        """Shut down both directions."""
        return self.call(Op.SHUTDOWN, conn, 0)

    def close(self, conn: int) -> "Script":
        """Close."""
        return self.call(Op.CLOSE, conn, 0)

    def recording(self, metadata: Mapping[str, Any] | None = None) -> Recording:
        """Return what a ring of this capacity would have kept so far."""
        kept = self.rows[-self.capacity :]
        return Recording(b"".join(kept), metadata or {}, len(self.rows) - len(kept))


def random_server(
    seed: int, *, n_steps: int = 60, n_conns: int = 5, capacity: int = 10_000
) -> Recording:
    """Record a loop that does likely and unlikely things in random order.

    The records keep what a real loop cannot violate: a connection is accepted before
    it is used, and no more bytes are sent than the responses have. Everything else is
    random: pipelining, partial sends, would-blocks, resets, empty responses, reading
    without a ready row, connections that never finish a request.
    """
    choose = random.Random(seed)
    script = Script(
        call_ns=choose.randint(1, 2000), pause_ns=choose.randint(0, 300), capacity=capacity
    )
    owed: dict[int, int] = {}
    serial = 0
    for _ in range(n_steps):
        if choose.random() < 0.03:
            script.wait(-errno.EINTR)
        batch = [c for c in owed if choose.random() < 0.6]
        arrives = len(owed) < n_conns and choose.random() < 0.4
        script.wait(len(batch) + arrives, timeout_ms=choose.choice([None, 0, 1.5]))
        if arrives:
            serial += 1
            script.ready(0).accept(serial, port=choose.choice([None, 40_000]))
            if choose.random() < 0.8:
                script.register(serial)
            owed[serial] = 0
            batch += [serial] if choose.random() < 0.2 else []
        for conn in batch:
            _work(script, choose, conn, owed)
    return script.recording({"boot_id": "one", "targets": ["", "/a"]})


def _work(script: Script, choose: random.Random, conn: int, owed: dict[int, int]) -> None:
    """Do a few random things on one connection."""
    if choose.random() < 0.85:
        script.ready(conn, choose.choice(["IN", "OUT", "IN|OUT", "IN|RDHUP"]))
    for _ in range(choose.randint(0, 6)):
        action = choose.choice(["recv", "blocked", "handle", "handle", "send", "send", "modify"])
        if action == "recv":
            script.recv(conn, choose.choice([0, 1, 10, 4096]))
        elif action == "blocked":
            choose.choice([script.recv_blocked, script.send_blocked])(conn)
        elif action == "handle":
            size = choose.choice([0, 1, 50, 100_000])
            script.handle(conn, size, status=200 if size else 0, target=size % 4)
            owed[conn] += size
        elif action == "send" and owed[conn]:
            part = choose.choice([owed[conn], choose.randint(1, owed[conn])])
            script.send(conn, part)
            owed[conn] -= part
        elif action == "modify":
            script.modify(conn, choose.choice(["IN", "OUT", "0"]))
    if choose.random() < 0.1:
        if choose.random() < 0.5:
            script.recv(conn, -errno.ECONNRESET)
        script.close(conn)
        del owed[conn]


def served(
    n_conns: int = 6, n_requests: int = 20, *, seed: int = 1, lifecycle: str = "eager"
) -> Recording:
    """Make a plausible recording of a keep-alive server, for charts.

    Parameters
    ----------
    n_conns, n_requests : int
        Connections, and rounds in which a random few of them send a request.
    seed : int
        The same seed gives the same recording.
    lifecycle : str
        ``"eager"``, or ``"howto"`` with its interest changed for every response.
    """
    choose = random.Random(seed)

    def some(middle: float) -> int:
        return int(choose.lognormvariate(0, 0.5) * middle)

    script = Script(pause_ns=700, capacity=1_000_000)
    for conn in range(1, n_conns + 1):
        script.wait(1, ns=some(40_000)).ready(0)
        script.accept(conn).register(conn)
    for _ in range(n_requests):
        batch = [c for c in range(1, n_conns + 1) if choose.random() < 0.35] or [1]
        script.wait(len(batch), ns=some(90_000))
        for conn in batch:
            script.ready(conn).recv(conn, 70, ns=some(2500)).handle(conn, 150, ns=some(3000))
            if lifecycle == "howto":
                script.modify(conn, "OUT")
            elif choose.random() < 0.12:
                script.send_blocked(conn).modify(conn, "OUT").wait(1, ns=some(30_000))
                script.ready(conn, "OUT").send(conn, 150, ns=some(9000)).modify(conn, "IN")
            else:
                script.send(conn, 150, ns=some(9000))
        if lifecycle == "howto":
            script.wait(len(batch), ns=some(3000))
            for conn in batch:
                script.ready(conn, "OUT").send(conn, 150, ns=some(9000)).modify(conn, "IN")
    for conn in range(1, n_conns + 1):
        script.wait(1, ns=some(60_000)).ready(conn, "IN|RDHUP").recv(conn, 0).close(conn)
    return script.recording({"boot_id": "one", "kernel": "6.18", "python": "3.11"})
