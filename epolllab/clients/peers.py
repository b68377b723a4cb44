"""Scripted peers: each does what its script says, and nothing else.

One job: act out one :class:`~epolllab.clients.script.Script` by any number of peers at once
over one epoll, and leave a row for each peer and one for each step. It knows no frame
and no process.

A peer reads only where its script expects something. Between such steps its interest
is empty; HUP and ERR are reported all the same, and level-triggered they would be
reported at every wait, so a connection that breaks during a pause is taken out of the
interest list until a step wants it again.
"""

import heapq
import socket
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any

from epolllab.clients.loop import CLOSED_EARLY, ROW, TIMEOUT, ClientLoop
from epolllab.clients.script import STEP_NAMES, Step
from epolllab.events import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP

if TYPE_CHECKING:
    from epolllab.clients.options import Share
    from epolllab.kernel.pollers import Ready
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
"""Name and numpy type code of each field of a step; ``name`` counts in STEP_NAMES."""

STEP = Struct("<qqqqiiii")
"""The same for :mod:`struct`; 48 bytes."""

RECV_SIZE = 65_536
_CLOSE = Step("close")
_READABLE = EPOLLIN | EPOLLRDHUP
_LINGER_0 = Struct("ii").pack(1, 0)


class _Peer:
    """One peer: where it is in its script, and its connection."""

    __slots__ = (
        "at",
        "buffer",
        "conn",
        "connected_ns",
        "deadline_ns",
        "fd",
        "first_byte_ns",
        "interest",
        "key",
        "n_bytes",
        "n_step",
        "port",
        "sent_ns",
        "serial",
        "sock",
        "start_ns",
        "step",
        "step_ns",
        "taken",
        "turn",
        "unsent",
    )

    def __init__(self, serial: int) -> None:
        self.serial = self.conn = serial
        self.sock: Any = None
        self.fd = -1
        self.key = self.port = 0
        self.interest = -1  # -1: not registered
        self.at = -1
        self.step = _CLOSE
        self.turn: Callable[[_Peer], bool] | None = None
        self.buffer = bytearray()
        self.taken = 0
        self.unsent = memoryview(b"")
        self.start_ns = self.connected_ns = self.sent_ns = self.first_byte_ns = 0
        self.step_ns = self.deadline_ns = 0
        self.n_bytes = self.n_step = 0


class PeerLoop(ClientLoop):
    """Act a script out by many peers."""

    def __init__(self, share: "Share", recorder: "Recorder | None" = None) -> None:
        super().__init__(share, recorder)
        self._script = share.steps or ()
        self._peers = [_Peer(serial) for serial in range(1, share.n_connections + 1)]
        self.n_conns = share.n_connections
        self._by_fd: dict[int, _Peer] = {}
        self._due: list[tuple[int, int, _Peer]] = []
        self._begun: dict[str, Callable[[_Peer], bool]] = {
            name: getattr(self, f"_begin_{name}") for name in STEP_NAMES
        }

    # ---- the loop's questions -------------------------------------------------------

    def begin(self, start_ns: int) -> None:
        """Let every peer take its first step."""
        self.account(start_ns, begun=len(self._peers))
        for peer in self._peers:
            peer.start_ns = start_ns
            self._go_on(peer)

    def is_busy(self) -> bool:
        """Whether a peer has steps to take."""
        return self.in_flight > 0

    def next_due_ns(self) -> int:
        """When the first pause ends."""
        return self._due[0][0] if self._due else 0

    def handle(self, ready: "Ready", now: int) -> None:
        """Go on with the peers that are ready, and with those whose pause is over."""
        by_fd, observe = self._by_fd, self.calls.observe
        for fd, mask in ready:
            peer = by_fd.get(fd)
            if observe:
                observe(peer.key if peer else fd, mask)
            if peer is not None:
                self._ready(peer, mask)
        due = []
        while self._due and self._due[0][0] <= now:
            due.append(heapq.heappop(self._due)[2])
        # What these put off anew, even until now, comes after others have had their turn.
        for peer in due:
            self._try(peer, self._on_time)

    def give_up(self, now: int) -> None:
        """Fail the steps that have waited for their peer for too long."""
        for peer in self._peers:
            if peer.deadline_ns and peer.deadline_ns < now:
                self._end(peer, TIMEOUT)

    def close(self) -> None:
        """Close the connections that are open, and the epoll."""
        for peer in self._peers:
            self._drop(peer)
        self.poller.close()
        self.calls.publish()

    # ---- from step to step ----------------------------------------------------------

    def _ready(self, peer: _Peer, mask: int) -> None:
        if peer.turn is not None and mask & (peer.interest | EPOLLERR | EPOLLHUP):
            self._try(peer, peer.turn)
        elif peer.interest >= 0:
            # HUP or ERR in a pause: look away until somebody wants to know.
            self.calls.unregister(peer)
            peer.interest = -1

    def _try(self, peer: _Peer, act: Callable[[_Peer], bool]) -> None:
        """Act; if that completes the step, take the next ones."""
        try:
            if not act(peer):
                return
        except BlockingIOError:
            return
        except OSError as error:
            self._end(peer, error.errno or 0)
            return
        self._note_step(peer, 0)
        self._go_on(peer)

    def _go_on(self, peer: _Peer) -> None:
        """Take steps until one has to wait, or all are taken."""
        while True:
            peer.at += 1
            if peer.at < len(self._script):
                peer.step = self._script[peer.at]
            elif peer.fd >= 0:
                peer.step = _CLOSE
            else:
                self._end(peer, 0)
                return
            peer.step_ns = self.clock()
            peer.n_step = 0
            try:
                if not self._begun[peer.step.name](peer):
                    return
            except BlockingIOError:
                return
            except OSError as error:
                self._end(peer, error.errno or 0)
                return
            self._note_step(peer, 0)

    def _wait_for(self, peer: _Peer, mask: int, turn: Callable[[_Peer], bool]) -> None:
        """Be told when the peer is ready, for no longer than the timeout."""
        peer.turn = turn
        peer.deadline_ns = peer.deadline_ns or self.clock() + self.share.timeout_ns
        self._want(peer, mask)

    def _want(self, peer: _Peer, mask: int) -> None:
        if peer.interest == mask:
            return
        if peer.interest < 0:
            self.calls.register(peer, mask)
        else:
            self.calls.modify(peer, mask)
        peer.interest = mask

    def _note_step(self, peer: _Peer, error: int) -> None:
        """Write the step's row, and want nothing until the next one says so."""
        self.steps += STEP.pack(
            peer.serial,
            peer.step_ns,
            self.clock(),
            peer.n_step,
            peer.at,
            STEP_NAMES.index(peer.step.name),
            error,
            0,
        )
        peer.turn = None
        peer.deadline_ns = 0
        if peer.interest > 0:
            self._want(peer, 0)

    def _end(self, peer: _Peer, error: int) -> None:
        """Write the peer's row; a step that failed is the last."""
        if error:
            self._note_step(peer, error)
        self._drop(peer)
        peer.at = -1
        peer.turn = None
        self.rows += ROW.pack(
            peer.serial,
            peer.start_ns,
            peer.connected_ns,
            peer.sent_ns,
            peer.first_byte_ns,
            self.clock(),
            peer.n_bytes,
            0,
            peer.port,
            0,
            error,
        )
        self.n_done += 1
        self.in_flight -= 1

    def _drop(self, peer: _Peer) -> None:
        """Close the connection, if there is one."""
        if peer.fd >= 0:
            self._by_fd.pop(peer.fd, None)
            self.calls.close(peer)
        peer.fd = peer.interest = -1
        peer.buffer.clear()

    # ---- the steps: each begins here, and is True when it is done -------------------

    def _begin_connect(self, peer: _Peer) -> bool:
        calls, share = self.calls, self.share
        if peer.connected_ns:
            self.n_conns += 1
            peer.conn = self.n_conns
        self._by_fd[calls.socket(peer, share.family, peer.conn)] = peer
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if share.sources:
            calls.bind(peer, share.sources[peer.conn % len(share.sources)])
        number, port = calls.dial(peer, share.address)
        peer.port = peer.port or port
        if number:
            raise OSError(number, "connect")
        self._wait_for(peer, EPOLLOUT, self._on_connected)
        return False

    def _on_connected(self, peer: _Peer) -> bool:
        number = peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, "connect")
        peer.connected_ns = peer.connected_ns or self.clock()
        return True

    def _begin_send(self, peer: _Peer) -> bool:
        peer.unsent = memoryview(peer.step.data)
        return self._push(peer)

    def _push(self, peer: _Peer) -> bool:
        """Send what is left of the step, or of its piece."""
        while peer.unsent:
            peer.sent_ns = peer.sent_ns or self.clock()
            try:
                sent = self.calls.send(peer, peer.unsent)
            except BlockingIOError:
                self._wait_for(peer, EPOLLOUT, self._push)
                return False
            peer.n_step += sent
            peer.unsent = peer.unsent[sent:]
        return True

    def _begin_send_slowly(self, peer: _Peer) -> bool:
        return self._send_piece(peer)

    def _send_piece(self, peer: _Peer) -> bool:
        """Send one piece; the next one's instant counts from the step's start."""
        step = peer.step
        peer.unsent = memoryview(step.data)[peer.n_step :][: step.size]
        return self._push_piece(peer)

    def _push_piece(self, peer: _Peer) -> bool:
        if not self._push(peer):
            peer.turn = self._push_piece
            return False
        step = peer.step
        peer.turn = None
        peer.deadline_ns = 0
        if peer.n_step == len(step.data):
            return True
        if peer.interest > 0:
            self._want(peer, 0)
        n_pieces = -(-peer.n_step // step.size)
        self._wait_until(peer, peer.step_ns + n_pieces * step.pause_ns)
        return False

    def _begin_pause(self, peer: _Peer) -> bool:
        self._wait_until(peer, peer.step_ns + peer.step.pause_ns)
        return False

    def _wait_until(self, peer: _Peer, due_ns: int) -> None:
        heapq.heappush(self._due, (due_ns, peer.serial, peer))

    def _on_time(self, peer: _Peer) -> bool:
        return peer.step.name == "pause" or self._send_piece(peer)

    def _begin_expect(self, peer: _Peer) -> bool:
        peer.taken = 0
        return self._is_met(peer) or self._await(peer)

    def _begin_expect_end(self, peer: _Peer) -> bool:
        peer.buffer.clear()
        return self._await(peer)

    def _await(self, peer: _Peer) -> bool:
        self._wait_for(peer, _READABLE, self._on_readable)
        return False

    def _on_readable(self, peer: _Peer) -> bool:
        """Read once, and see whether that is what was expected."""
        data = self.calls.recv(peer, RECV_SIZE)
        if not data:
            if peer.step.name == "expect_end":
                return True
            self._end(peer, CLOSED_EARLY)
            return False
        peer.first_byte_ns = peer.first_byte_ns or self.clock()
        peer.n_bytes += len(data)
        peer.n_step += len(data)
        if peer.step.name == "expect_end":
            return False
        peer.buffer += data
        return self._is_met(peer)

    def _is_met(self, peer: _Peer) -> bool:
        """Whether the buffer has what is expected; if so, take it out."""
        wanted, buffer = peer.step.data, peer.buffer
        if not wanted:
            # A count is counted down, so that a long answer is never kept.
            n_bytes = min(peer.step.size - peer.taken, len(buffer))
            del buffer[:n_bytes]
            peer.taken += n_bytes
            return peer.taken == peer.step.size
        found = buffer.find(wanted)
        # All but what may be the beginning of the wanted bytes will not be looked at again.
        del buffer[: max(0, len(buffer) - len(wanted) + 1) if found < 0 else found + len(wanted)]
        return found >= 0

    def _begin_half_close(self, peer: _Peer) -> bool:
        self.calls.shutdown(peer, socket.SHUT_WR)
        return True

    def _begin_reset(self, peer: _Peer) -> bool:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self._drop(peer)
        return True

    def _begin_close(self, peer: _Peer) -> bool:
        self._drop(peer)
        return True
