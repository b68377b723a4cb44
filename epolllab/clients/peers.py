"""Scripted peers: each executes the steps of a :class:`~epolllab.clients.script.Script`.

A peer reads only where its script expects something. Between such steps its interest is
empty, but HUP and ERR are reported all the same, and level-triggered they would be
reported by every wait. A connection that breaks during a pause is therefore unregistered
until a step needs it.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EIO
from struct import Struct

from epolllab.clients.loop import (
    BROKEN,
    CLOSED_EARLY,
    READABLE,
    RECV_SIZE,
    TIMEOUT,
    ClientConnection,
    ClientLoop,
)
from epolllab.clients.options import Share
from epolllab.clients.script import STEP_NAMES, Step
from epolllab.events import EPOLLOUT
from epolllab.recording.recorder import Recorder

__all__ = ["FIELDS", "STEP", "PeerLoop"]

FIELDS = (
    ("peer", "<i8"),
    ("start_ns", "<i8"),
    ("end_ns", "<i8"),
    ("n_bytes", "<i8"),
    ("step", "<i4"),
    ("name", "<i4"),
    ("error", "<i4"),
    ("reserved", "<i4"),
)
"""Name and numpy type code of each field of a step; ``name`` is an index into STEP_NAMES."""

STEP = Struct("<qqqqiiii")
"""The same for :mod:`struct`; 48 bytes."""

_CLOSE = Step("close")
_LINGER_0 = Struct("ii").pack(1, 0)

Action = Callable[["_Peer"], bool]
"""Part of a step; returns True when the step is complete."""


@dataclass(slots=True, eq=False)
class _Peer(ClientConnection):
    """A peer, its position in the script, and its connection."""

    serial: int = 0
    at: int = -1
    step: Step = _CLOSE
    step_ns: int = 0
    step_bytes: int = 0
    action: Action | None = None
    """Called when the descriptor is ready."""
    deadline_ns: int = 0
    buffer: bytearray = field(default_factory=bytearray)
    taken: int = 0


class PeerLoop(ClientLoop[_Peer]):
    """Execute a script with any number of peers."""

    def __init__(self, share: Share, recorder: Recorder | None = None) -> None:
        super().__init__(share, recorder)
        self._script = share.options.steps or ()
        self.n_conns = share.n_connections
        self._peers = [_Peer(conn=i, serial=i) for i in range(1, self.n_conns + 1)]
        self._begin_step: dict[str, Action] = {
            name: getattr(self, f"_begin_{name}") for name in STEP_NAMES
        }

    def begin(self, start_ns: int) -> None:
        """Start every peer's first step."""
        self.account(start_ns, begun=len(self._peers))
        for peer in self._peers:
            peer.intended_ns = start_ns
            self._run(peer, self._next_step(peer))

    def is_busy(self) -> bool:
        """Whether any peer has steps left."""
        return self.in_flight > 0

    def on_ready(self, connection: _Peer, mask: int) -> None:
        """Continue the step that waits for the descriptor."""
        action = connection.action
        if action is not None and mask & (connection.interest | BROKEN):
            self._run(connection, action)
        elif connection.interest >= 0:
            # HUP or ERR in a pause: unregister until a step needs the connection.
            self.calls.unregister(connection)
            connection.interest = -1

    def on_time(self, connection: _Peer) -> None:
        """Complete a pause, or send the next piece."""
        self._run(connection, self._after_pause)

    def give_up(self, now: int) -> None:
        """Fail the steps that have exceeded the timeout."""
        for peer in self._peers:
            if peer.deadline_ns and peer.deadline_ns < now:
                self._end(peer, TIMEOUT)

    def drop(self, connection: _Peer) -> None:
        """Close the peer's socket, if it is open."""
        super().drop(connection)
        connection.buffer.clear()

    def _run(self, peer: _Peer, action: Action | None) -> None:
        """Execute the action; if that completes the step, execute the next steps."""
        while action is not None:
            try:
                if not action(peer):
                    return
            except BlockingIOError:
                return
            except OSError as error:
                self._end(peer, error.errno or EIO)
                return
            self._write_step(peer, 0)
            action = self._next_step(peer)

    def _next_step(self, peer: _Peer) -> Action | None:
        """Move to the next step and return its first action; None after the last step."""
        peer.at += 1
        if peer.at < len(self._script):
            peer.step = self._script[peer.at]
        elif peer.fd >= 0:
            peer.step = _CLOSE
        else:
            self._end(peer, 0)
            return None
        peer.step_ns = self.clock()
        peer.step_bytes = 0
        return self._begin_step[peer.step.name]

    def _wait_for(self, peer: _Peer, mask: int, action: Action) -> bool:
        """Have `action` called when the descriptor is ready, until the timeout."""
        peer.action = action
        peer.deadline_ns = peer.deadline_ns or self.clock() + self.timeout_ns
        self.set_interest(peer, mask)
        return False

    def _stop_waiting(self, peer: _Peer) -> None:
        peer.action = None
        peer.deadline_ns = 0
        if peer.interest > 0:
            self.set_interest(peer, 0)

    def _write_step(self, peer: _Peer, error: int) -> None:
        """Write the row of the step that ended."""
        name = STEP_NAMES.index(peer.step.name)
        times = (peer.step_ns, self.clock())
        self.steps += STEP.pack(peer.serial, *times, peer.step_bytes, peer.at, name, error, 0)
        self._stop_waiting(peer)

    def _end(self, peer: _Peer, error: int) -> None:
        """Write the peer's row; a step that failed is the last."""
        if error:
            self._write_step(peer, error)
        self.drop(peer)
        peer.at = -1
        peer.conn = peer.serial  # the first connection's, also after another connect
        self.write_row(peer, self.clock(), error)

    # ---- the steps: each begins here, and returns True when it is complete ----------

    def _begin_connect(self, peer: _Peer) -> bool:
        if peer.connected_ns:
            self.n_conns += 1
            peer.conn = self.n_conns
        error = self.dial(peer)
        if error:
            raise OSError(error, "connect")
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._wait_for(peer, EPOLLOUT, self._on_connected)

    def _on_connected(self, peer: _Peer) -> bool:
        error = peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connect")
        peer.connected_ns = peer.connected_ns or self.clock()
        return True

    def _begin_send(self, peer: _Peer) -> bool:
        """Send all of the data, or the next piece of ``step.size`` bytes."""
        size = peer.step.size or len(peer.step.data)
        peer.unsent = memoryview(peer.step.data)[peer.step_bytes :][:size]
        return self._send(peer)

    _begin_send_slowly = _begin_send

    def _send(self, peer: _Peer) -> bool:
        while peer.unsent:
            peer.sent_ns = peer.sent_ns or self.clock()
            try:
                sent = self.calls.send(peer, peer.unsent)
            except BlockingIOError:
                return self._wait_for(peer, EPOLLOUT, self._send)
            peer.step_bytes += sent
            peer.unsent = peer.unsent[sent:]
        step = peer.step
        if peer.step_bytes == len(step.data):
            return True
        # The times of the pieces count from the start of the step.
        self._stop_waiting(peer)
        n_pieces = -(-peer.step_bytes // step.size)
        self.wait_until(peer, peer.step_ns + n_pieces * step.pause_ns)
        return False

    def _begin_pause(self, peer: _Peer) -> bool:
        self.wait_until(peer, peer.step_ns + peer.step.pause_ns)
        return False

    def _after_pause(self, peer: _Peer) -> bool:
        return peer.step.name == "pause" or self._begin_send(peer)

    def _begin_expect(self, peer: _Peer) -> bool:
        peer.taken = 0
        return self._take_expected(peer) or self._wait_for(peer, READABLE, self._on_readable)

    def _begin_expect_end(self, peer: _Peer) -> bool:
        peer.buffer.clear()
        return self._wait_for(peer, READABLE, self._on_readable)

    def _on_readable(self, peer: _Peer) -> bool:
        """Read once; True if the expected bytes, or the expected end, have arrived."""
        data = self.calls.recv(peer, RECV_SIZE)
        if not data:
            if peer.step.name == "expect_end":
                return True
            self._end(peer, CLOSED_EARLY)
            return False
        peer.first_byte_ns = peer.first_byte_ns or self.clock()
        peer.n_bytes += len(data)
        peer.step_bytes += len(data)
        if peer.step.name == "expect_end":
            return False
        peer.buffer += data
        return self._take_expected(peer)

    def _take_expected(self, peer: _Peer) -> bool:
        """Remove the expected bytes from the buffer; True if they are complete."""
        wanted, buffer = peer.step.data, peer.buffer
        if not wanted:
            # A number of bytes is counted, so that a large response is never kept.
            n_bytes = min(peer.step.size - peer.taken, len(buffer))
            del buffer[:n_bytes]
            peer.taken += n_bytes
            return peer.taken == peer.step.size
        found = buffer.find(wanted)
        # Keep only the last bytes, which may be the beginning of the wanted ones.
        del buffer[: max(0, len(buffer) - len(wanted) + 1) if found < 0 else found + len(wanted)]
        return found >= 0

    def _begin_half_close(self, peer: _Peer) -> bool:
        self.calls.shutdown(peer, socket.SHUT_WR)
        return True

    def _begin_reset(self, peer: _Peer) -> bool:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self.drop(peer)
        return True

    def _begin_close(self, peer: _Peer) -> bool:
        self.drop(peer)
        return True
