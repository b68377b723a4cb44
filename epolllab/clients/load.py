"""The callers: connections that ask, read the answer, and note when each happened.

One job: carry out one :class:`~epolllab.clients.options.Share` of requests over one epoll, and
leave one row for each request, also for one that failed. It knows no frame, no
process and no progress bar.

A *closed* loop keeps a fixed number of requests in flight: each connection asks again
when its answer is complete, so a slow server is asked less often. An *open* loop asks
at a fixed rate, whatever the server does: a request whose time has come while every
connection is busy waits in a queue, and that wait is part of its latency.

Where the time goes
-------------------
``intended``
    when the request was due: in an open loop its place in the rhythm, in a closed one
    the instant at which its connection turned to it.
``connected``
    when its connection was found to be established.
``sent``
    when the first send that took any of its bytes began. The peer can have read them
    before that send returns, so the send's end would be too late a stamp.
``first byte``, ``done``
    when the recv that brought the first, the last byte of the answer returned.

One connection's way to an answer is socket, connect, send, register, wait, recv,
close. Nothing is waited for that need not be: on loopback a connection is usually
established by the time connect returns, so the request is sent at once, and OUT is
asked for only if that would block. A connection that the server ends is closed only
after the server's FIN has come (RDHUP), which leaves TIME_WAIT, and the port that it
blocks, on the server's side.
"""

from collections import deque
from typing import TYPE_CHECKING, Any

from epolllab.clients.loop import BAD_RESPONSE, CLOSED_EARLY, ROW, TIMEOUT, ClientLoop
from epolllab.clients.response import BadResponse, make_response_parser
from epolllab.events import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP

if TYPE_CHECKING:
    from epolllab.clients.options import Share
    from epolllab.kernel.pollers import Ready
    from epolllab.recording.recorder import Recorder


__all__ = ["LoadLoop"]


RECV_SIZE = 65_536
LINGER_NS = 1_000_000_000
"""How long a server may take to end a connection after its last answer."""

REST_NS = 10_000_000
"""Pause of a connection after one that failed at once, such as one refused: without
it, an absent server would be asked as fast as the processor can."""

_CLOSED, _CONNECTING, _ASKING, _IDLE, _ENDING = range(5)
_FOR_ANSWER = EPOLLIN | EPOLLRDHUP
_BROKEN = EPOLLERR | EPOLLHUP


class _Timer:
    """The endpoint of the arrivals' timer."""

    def __init__(self, timer: Any) -> None:
        self.sock = timer
        self.key = self.fd = timer.fileno()  # of connection 0: none


class _Caller:
    """One of the connections that take turns at asking."""

    __slots__ = (
        "answer",
        "conn",
        "connected_ns",
        "fd",
        "first_byte_ns",
        "intended_ns",
        "interest",
        "key",
        "n_bytes",
        "phase",
        "port",
        "request",
        "sent_ns",
        "since_ns",
        "sock",
        "unsent",
    )

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.sock: Any = None
        self.fd = -1
        self.key = self.conn = self.request = self.port = 0
        self.phase = _CLOSED
        self.interest = 0
        self.unsent: bytes | memoryview = b""
        self.intended_ns = self.connected_ns = self.sent_ns = self.first_byte_ns = 0
        self.n_bytes = 0
        self.since_ns = 0  # of the present phase, where that matters


class LoadLoop(ClientLoop):
    """Ask and ask again: the closed and the open loop."""

    def __init__(self, share: "Share", recorder: "Recorder | None" = None) -> None:
        super().__init__(share, recorder)
        self._is_open = bool(share.interval_ns)
        self._callers = [
            _Caller(make_response_parser(share.protocol, share.message))
            for _ in range(share.n_connections)
        ]
        self._by_fd: dict[int, _Caller] = {}
        self._free: deque[_Caller] = deque()
        self._resting: deque[tuple[int, _Caller]] = deque()
        self._queue: deque[int] = deque()
        self._timer: _Timer | None = None
        self._first_ns = self._arrived = 0
        self._left = share.n_requests
        self._until_ns: int | None = None

    # ---- when to ask ----------------------------------------------------------------

    def begin(self, start_ns: int) -> None:
        """Let every caller ask, or start the timer of the arrivals."""
        share = self.share
        if share.duration_ns is not None:
            self._until_ns = start_ns + share.duration_ns
        if self._is_open:
            self._free.extend(self._callers)
            self._start_timer(start_ns + share.first_arrival_ns)
        else:
            for caller in self._callers:
                self._next(caller)

    def _start_timer(self, first_ns: int) -> None:
        from epolllab.kernel.raw import Timer

        self._first_ns = first_ns
        if self._left:
            self._timer = _Timer(Timer(first_ns, self.share.interval_ns))
            self.calls.register(self._timer, EPOLLIN)

    def _arrive(self, timer: _Timer) -> None:
        """Put the requests that are due into the queue, and serve it."""
        count = int.from_bytes(self.calls.read(timer, 8), "little")
        count = min(count, self._left or 0)
        first = self._first_ns + self._arrived * self.share.interval_ns
        due = [first + i * self.share.interval_ns for i in range(count)]
        self._queue.extend(due)
        self.account(now := self.clock(), begun=count)
        # They were in flight from when they were due, although nobody had noticed.
        self.in_flight_ns += sum(max(0, now - instant) for instant in due)
        self._arrived += count
        self._left = (self._left or 0) - count
        if not self._left:
            self._end_timer()
        while self._queue and self._free:
            self._next(self._free.popleft())

    def _end_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            self.calls.close(timer)

    def _take(self) -> int:
        """The intended instant of the next request; 0 if there is none now."""
        if self._is_open:
            return self._queue.popleft() if self._queue else 0
        now = self.clock()
        if self._left is not None:
            if not self._left:
                return 0
            self._left -= 1
        elif self._until_ns is not None and now >= self._until_ns:
            return 0
        self.in_flight += 1
        return now

    def _next(self, caller: _Caller) -> None:
        """Let a caller that has nothing to do take up the next request, if there is one."""
        if self.stopping or not (intended := self._take()):
            if self._is_open:
                self._free.append(caller)
            elif caller.phase == _IDLE:
                self._close(caller)
            return
        caller.intended_ns = intended
        caller.first_byte_ns = caller.sent_ns = caller.n_bytes = 0
        caller.answer.begin()
        if caller.phase == _IDLE:
            caller.request += 1
            self._ask(caller)
        else:
            self._connect(caller)

    def is_busy(self) -> bool:
        """Whether requests are in flight or to come, or connections wait for their end."""
        return bool(
            self.in_flight
            or self._timer is not None
            or self._resting
            or any(caller.phase == _ENDING for caller in self._by_fd.values())
        )

    def next_due_ns(self) -> int:
        """When the first of the resting callers has rested."""
        return self._resting[0][0] if self._resting else 0

    # ---- one turn -------------------------------------------------------------------

    def handle(self, ready: "Ready", now: int) -> None:
        """Give each ready descriptor its turn."""
        by_fd, observe, turn = self._by_fd, self.calls.observe, self._turn
        for fd, mask in ready:
            caller = by_fd.get(fd)
            if observe:
                observe(caller.key if caller else fd, mask)
            if caller is not None:
                turn(caller, mask)
            elif self._timer is not None and fd == self._timer.fd:
                self._arrive(self._timer)
        while self._resting and self._resting[0][0] <= now:
            self._next(self._resting.popleft()[1])

    def _turn(self, caller: _Caller, mask: int) -> None:
        if caller.unsent and mask & (EPOLLOUT | _BROKEN):
            conn = caller.conn
            self._push(caller)
            # A failed push may have gone on to a new connection, which the mask is not about.
            if not mask & (_FOR_ANSWER | _BROKEN) or caller.conn != conn or caller.fd < 0:
                return
        self._read(caller, mask)

    # ---- asking ---------------------------------------------------------------------

    def _connect(self, caller: _Caller) -> None:
        """Open a connection and send at once; ask for OUT only if that would block."""
        calls, share = self.calls, self.share
        self.n_conns += 1
        caller.conn = self.n_conns
        caller.request = caller.port = caller.connected_ns = 0
        try:
            fd = calls.socket(caller, share.family, caller.conn)
        except OSError as error:
            self._fail_at_once(caller, error.errno or 0)
            return
        self._by_fd[fd] = caller
        caller.phase = _CONNECTING
        try:
            if share.sources:
                calls.bind(caller, share.sources[caller.conn % len(share.sources)])
            number, caller.port = calls.dial(caller, share.address)
            if number:
                self._fail_at_once(caller, number)
                return
            caller.unsent = share.message
            caller.interest = _FOR_ANSWER
            self._send(caller)
            if caller.unsent:
                caller.interest |= EPOLLOUT
            calls.register(caller, caller.interest)
        except OSError as error:
            self._fail_at_once(caller, error.errno or 0)

    def _ask(self, caller: _Caller) -> None:
        """Send the next request on an open connection."""
        caller.unsent = self.share.message
        self._push(caller)

    def _push(self, caller: _Caller) -> None:
        """Send what is left, and keep the interest in step."""
        try:
            self._send(caller)
        except OSError as error:
            self._fail(caller, error.errno or 0)
            return
        interest = _FOR_ANSWER | EPOLLOUT if caller.unsent else _FOR_ANSWER
        if interest != caller.interest:
            caller.interest = interest
            self.calls.modify(caller, interest)

    def _send(self, caller: _Caller) -> None:
        """Send until it would block; what is left stays in ``unsent``."""
        data = caller.unsent
        send = self.calls.send
        start = self.clock()
        try:
            sent = send(caller, data)
            if caller.phase == _CONNECTING:
                caller.connected_ns = start
            caller.phase = _ASKING
            caller.sent_ns = caller.sent_ns or start
            while sent < len(data):
                data = memoryview(data)[sent:]
                sent = send(caller, data)
            caller.unsent = b""
        except BlockingIOError:
            caller.unsent = data

    # ---- the answer -----------------------------------------------------------------

    def _read(self, caller: _Caller, mask: int) -> None:
        try:
            data = self.calls.recv(caller, RECV_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(caller, error.errno or 0)
            return
        if not data:
            self._ended(caller)
        elif caller.phase == _ASKING:
            # The whole of what came and the end of the stream are known from one recv.
            is_last = bool(mask & EPOLLRDHUP) and len(data) < RECV_SIZE
            self._feed(caller, data, is_last)
        elif caller.phase == _IDLE:
            self._close(caller)  # it speaks without having been asked

    def _feed(self, caller: _Caller, data: bytes, is_last: bool) -> None:
        now = self.clock()
        if not caller.first_byte_ns:
            caller.first_byte_ns = now
        caller.n_bytes += len(data)
        try:
            is_complete = caller.answer.feed(data)
        except BadResponse:
            self._fail(caller, BAD_RESPONSE)
            return
        if is_complete:
            self._done(caller, now, is_last)
        elif is_last:
            self._ended(caller)

    def _done(self, caller: _Caller, now: int, is_last: bool) -> None:
        """Write the row; then keep the connection, or bring it to its end."""
        self._note(caller, now, 0)
        closes = caller.answer.closes
        if self.share.keep_alive and not (closes or is_last or caller.unsent):
            caller.phase = _IDLE
        elif is_last or not closes:
            self._close(caller)
        else:
            caller.phase = _ENDING
            caller.since_ns = now
            return
        self._next(caller)

    def _ended(self, caller: _Caller) -> None:
        """End-of-file: the end of an answer without a length, of a connection, or too early."""
        if caller.phase == _ASKING:
            if caller.answer.end():
                self._done(caller, self.clock(), True)
            else:
                self._fail(caller, CLOSED_EARLY)
        else:
            self._broken(caller, CLOSED_EARLY)

    def _broken(self, caller: _Caller, error: int) -> None:
        """A connection is gone; that is an error only while something is asked."""
        if caller.phase in (_CONNECTING, _ASKING):
            self._fail(caller, error)
            return
        was_ending = caller.phase == _ENDING
        self._close(caller)
        if was_ending:
            self._next(caller)

    # ---- rows and ends --------------------------------------------------------------

    def _note(self, caller: _Caller, now: int, error: int) -> None:
        """Write a row for a request that has ended, one way or the other."""
        self.rows += ROW.pack(
            caller.conn,
            caller.intended_ns,
            caller.connected_ns,
            caller.sent_ns,
            caller.first_byte_ns,
            now,
            caller.n_bytes,
            caller.request,
            caller.port,
            caller.answer.status,
            error,
        )
        self.n_done += 1
        self.in_flight -= 1

    def _fail(self, caller: _Caller, error: int) -> None:
        self._note(caller, self.clock(), error)
        self._close(caller)
        self._next(caller)

    def _fail_at_once(self, caller: _Caller, error: int) -> None:
        """Fail, and let the caller rest: the next attempt would hardly go better."""
        now = self.clock()
        self._note(caller, now, error)
        self._close(caller)
        self._resting.append((now + REST_NS, caller))

    def _close(self, caller: _Caller) -> None:
        if caller.fd >= 0:
            self._by_fd.pop(caller.fd, None)
            self.calls.close(caller)
        caller.fd = -1
        caller.phase = _CLOSED
        caller.unsent = b""

    def give_up(self, now: int) -> None:
        """Fail requests past their time, and close connections that do not end."""
        oldest = now - self.share.timeout_ns
        for caller in list(self._by_fd.values()):
            if caller.phase in (_CONNECTING, _ASKING) and caller.intended_ns < oldest:
                self._fail(caller, TIMEOUT)
            elif caller.phase == _ENDING and caller.since_ns < now - LINGER_NS:
                self._close(caller)
                self._next(caller)
        self._give_up_queued(now, oldest)

    def _give_up_queued(self, now: int, oldest: int) -> None:
        """Write rows for requests that waited for a connection for too long."""
        while self._queue and self._queue[0] < oldest:
            self.rows += ROW.pack(0, self._queue.popleft(), 0, 0, 0, now, 0, 0, 0, 0, TIMEOUT)
            self.n_done += 1
            self.in_flight -= 1

    def close(self) -> None:
        """Close all that the loop has open; for a loop that was not run, too."""
        self._end_timer()
        for caller in self._callers:
            self._close(caller)
        self.poller.close()
        self.calls.publish()
