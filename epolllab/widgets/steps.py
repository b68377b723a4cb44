"""One socket watched by a level-triggered and an edge-triggered epoll, a step at a time.

After each step everything shown is read from the kernel: what each wait returned; the bytes
that can be read (FIONREAD); both interest lists (``/proc``); whether each epoll would return
at once, which poll(2) on the epoll's own descriptor reports without consuming the event; and
what poll(2) reports for the socket. The explanation is derived from these.
"""

import select
import socket
import threading
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from epolllab import kernel
from epolllab.checks import check_choice, check_int
from epolllab.events import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, mask_names
from epolllab.experiments.catalogue.bench import Bench, Epoll
from epolllab.recording.recording import Recording

__all__ = ["INTERESTS", "MAX_WRITE", "TRIGGERS", "Row", "Steps"]

TRIGGERS = ("level", "edge")

INTERESTS = {
    "IN|RDHUP": EPOLLIN | EPOLLRDHUP,
    "IN": EPOLLIN,
    "IN|OUT|RDHUP": EPOLLIN | EPOLLOUT | EPOLLRDHUP,
    "OUT": EPOLLOUT,
    "0": 0,
}
"""Interests to choose from; EPOLLET is added for the edge-triggered epoll."""

MAX_WRITE = 16_384
"""Largest write, in bytes."""

MAX_UNREAD = 49_152
"""Limit of unread bytes, below what the kernel takes without blocking the peer."""


@dataclass(frozen=True)
class Row:
    """One step, and what the kernel reports after it."""

    step: int
    action: str
    result: str
    """What the call itself returned."""
    level: str | None
    """The mask that the level-triggered wait returned: "" for no event, None without a wait."""
    edge: str | None
    readable: int
    """Bytes in the kernel's receive buffer."""
    socket: str
    """What poll(2) reports for the socket."""
    level_ready: bool
    """Whether the level-triggered epoll would return at once."""
    edge_ready: bool
    level_interest: str
    """The kernel's interest list."""
    edge_interest: str
    why: str


class Steps:
    """The stepper's model; a context manager.

    ``rows`` is the history, which begins with the initial state, and ``interest`` the
    current interest, a key of :data:`INTERESTS`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.rows: list[Row] = []
        self.interest = "IN|RDHUP"
        self._begin()

    def _begin(self) -> None:
        self._bench = Bench()
        self.here, self.there = self._bench.tcp("socket", "peer")
        self._epolls: dict[str, Epoll] = {name: self._bench.epoll(name) for name in TRIGGERS}
        self._peer_open = self._peer_writes = True
        self._news: list[str] = []
        self._register()
        self.rows.clear()
        why = f"Two epolls watch the same socket for {self.interest}, one of them with EPOLLET."
        self._add_row("begin", "", why)

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, its peer and both epolls; may be called repeatedly."""
        with self._lock:
            self._bench.__exit__(None, None, None)

    def start_over(self) -> Row:
        """Close everything; begin with a new connection and an empty history."""
        with self._lock:
            self.close()
            self._begin()
            return self.rows[-1]

    @property
    def can(self) -> dict[str, bool]:
        """Which of the peer's steps are possible now."""
        return {
            "peer_writes": self._peer_writes,
            "peer_half_closes": self._peer_writes,
            "peer_resets": self._peer_open,
        }

    @property
    def last(self) -> Row:
        """The last step."""
        return self.rows[-1]

    def is_ready(self, trigger: str) -> bool:
        """Whether the "level" or "edge" epoll would return at once; consumes no event."""
        poll = select.poll()
        poll.register(self._epolls[trigger].fd, select.POLLIN)
        return bool(poll.poll(0))

    def history(self) -> pd.DataFrame:
        """One row per step.

        Returns
        -------
        pandas.DataFrame
            ``step`` (int32); ``action``, ``result`` (string); ``level``, ``edge`` (string,
            what the wait returned, "" for no event, missing without a wait); ``readable``
            (int64, bytes); ``socket`` (string); ``level_ready``, ``edge_ready`` (bool);
            ``level_interest``, ``edge_interest``, ``why`` (string).
        """
        frame = pd.DataFrame([asdict(row) for row in self.rows])
        # "string" distinguishes a missing value from "" in every version of pandas.
        texts = dict.fromkeys(("action", "result", "level", "edge", "socket"), "string")
        texts |= dict.fromkeys(("level_interest", "edge_interest", "why"), "string")
        return frame.astype({**texts, "step": "int32", "readable": "int64"})

    def recording(self) -> Recording:
        """Every call, with its duration."""
        return self._bench.recording({"experiment": "stepper"})

    # ---- the peer's steps ---------------------------------------------------------

    def peer_writes(self, n_bytes: int) -> Row:
        """The peer sends; return when the bytes are in the socket's buffer."""
        check_int("n_bytes", n_bytes, 1, MAX_WRITE)
        with self._lock:
            _require(self._peer_writes, "the peer has shut down its direction and cannot write")
            before = kernel.bytes_readable(self.here)
            if before + n_bytes > MAX_UNREAD:
                raise ValueError(
                    f"n_bytes is {n_bytes:,} and {before:,} bytes are unread; more than "
                    f"{MAX_UNREAD:,} might not fit into the kernel's buffer: read some first"
                )
            self._bench.send(self.there, bytes(n_bytes))
            self._bench.arrived(self.here, before + n_bytes)
            news = f"{_bytes(n_bytes)} arrived"
            return self._add_event(f"peer writes {n_bytes:,}", _bytes(n_bytes), news, f"{news}.")

    def peer_half_closes(self) -> Row:
        """The peer calls shutdown(SHUT_WR), which sends a FIN."""
        with self._lock:
            _require(self._peer_writes, "the peer has shut down its direction already")
            self._bench.shutdown(self.there, socket.SHUT_WR)
            self._bench.in_state(self.here, "CLOSE_WAIT")
            self._peer_writes = False
            what = "The peer's FIN arrived: data sent before it can still be read, then the end."
            news = "the peer shut down its direction"
            return self._add_event("peer half-closes", "0", news, what)

    def peer_resets(self) -> Row:
        """The peer closes with SO_LINGER of 0 seconds, which sends an RST."""
        with self._lock:
            _require(self._peer_open, "the peer is closed already")
            self._bench.reset(self.there)
            self._bench.in_state(self.here, "CLOSE")
            self._peer_open = self._peer_writes = False
            what = "An RST arrived. ERR and HUP are reported whatever the interest is."
            news = "the peer reset the connection"
            return self._add_event("peer resets", "0", news, what)

    def _add_event(self, action: str, result: str, news: str, what: str) -> Row:
        """Add a row for something the peer did, and its effect on both ready lists."""
        level, edge = self._ready()
        if edge:
            self._news.append(news)
        if edge and self.last.edge_ready:
            then = "Edge had not returned the event before it yet; one wait will return both."
        elif edge and self.last.level_ready:
            then = "For edge this is a new event, so it is ready again; level was ready all along."
        elif edge and level:
            then = "Both epolls now have the socket in their ready lists."
        elif not level and not edge:
            then = f"Neither is ready: the interest {self.interest} does not include this."
        else:
            then = f"Ready: level {_yes(level)}, edge {_yes(edge)}."
        return self._add_row(action, result, f"{what} {then}")

    # ---- the server's steps -------------------------------------------------------

    def wait(self) -> Row:
        """epoll_wait with a timeout of 0 on both, level first."""
        with self._lock:
            ready = (self._bench.wait(self._epolls[trigger], 0) for trigger in TRIGGERS)
            level, edge = (mask_names(events[0][1]) if events else "" for events in ready)
            why = self._explain_wait(level, edge)
            self._news.clear()
            return self._add_row("wait", "", why, level, edge)

    def _explain_wait(self, level: str, edge: str) -> str:
        state, news = self._state(), " and ".join(self._news)
        if level and edge:
            same = (
                f"Both return {level}" if level == edge else f"Level returns {level}, edge {edge}"
            )
            return (
                f"{same}. Level reports the current state: {state}. Edge reports what happened "
                f"since: {news or 'an event that was not noted here'}."
            )
        if level:
            return (
                f"Level returns {level}, and will at every wait: {state}. Edge returns nothing: "
                "it has reported that once, and nothing has happened since."
            )
        if edge:
            return (
                f"Only edge returns {edge}, although level, which reports the current state, "
                "returns nothing. Neither rule explains that."
            )
        if news:
            return f"Neither returns an event: {news}, but nothing of that is left to report."
        return (
            f"Neither returns an event: {state}, and nothing has happened that could be reported."
        )

    def recv(self, n_bytes: int) -> Row:
        """Read at most `n_bytes`, from 1 to 1 MiB."""
        check_int("n_bytes", n_bytes, 1, 1 << 20)
        with self._lock:
            got, action = (
                self._bench.attempt(self._bench.recv, self.here, n_bytes),
                f"recv {n_bytes:,}",
            )
            if isinstance(got, str):
                return self._add_row(action, got, _explain_failure(got))
            if not got:
                why = (
                    "recv returns 0: the peer has shut down its direction, and every further recv "
                    "returns 0 as well."
                )
                return self._add_row(action, "0: end", f"{why} {self._readiness()}")
            left = kernel.bytes_readable(self.here)
            if left:
                why = (
                    f"recv took {_bytes(len(got))}, and {_bytes(left)} are left. Reading is not an "
                    "event: it adds nothing to a ready list."
                )
            else:
                shown = (
                    "It was asked for more, and a short read of a stream shows that the buffer is "
                    "empty."
                    if len(got) < n_bytes
                    else "Its result does not show that: it was asked for no more."
                )
                why = f"recv took the last {_bytes(len(got))}. {shown}"
            return self._add_row(action, _bytes(len(got)), f"{why} {self._readiness()}")

    def drain(self) -> Row:
        """Read until recv would block, ends or fails; nothing is left that no event reports."""
        with self._lock:
            total, ending = 0, ""
            while not ending:
                got = self._bench.attempt(self._bench.recv, self.here, 65_536)
                if isinstance(got, str):
                    ending = got
                else:
                    total += len(got)
                    ending = "" if got else "0: end"
            result = f"{_bytes(total)}, then {ending}"
            why = (
                "That is the end of the stream." if ending == "0: end" else _explain_failure(ending)
            )
            return self._add_row("drain", result, f"{_bytes(total)} read, then {ending}. {why}")

    def _readiness(self) -> str:
        return {
            (True, False): "Level is ready, since it checks the current state; edge is not, until "
            "something happens.",
            (True, True): "Both are ready: edge has not reported the earlier event yet.",
            (False, True): "Only edge is ready.",
            (False, False): "Neither is ready now.",
        }[self._ready()]

    # ---- epoll_ctl ----------------------------------------------------------------

    def modify(self, interest: str | None = None) -> Row:
        """epoll_ctl(MOD) on both; `interest` is a key of :data:`INTERESTS`, or the current one."""
        chosen = self.interest if interest is None else interest
        check_choice("interest", chosen, list(INTERESTS))
        with self._lock:
            self.interest = chosen
            for epoll, mask in self._interests():
                self._bench.modify(epoll, self.here, mask)
            return self._add_control(f"modify {chosen}", "EPOLL_CTL_MOD")

    def register_again(self) -> Row:
        """epoll_ctl(DEL), then epoll_ctl(ADD), on both."""
        with self._lock:
            for epoll, _ in self._interests():
                self._bench.unregister(epoll, self.here)
            self._register()
            return self._add_control("register again", "EPOLL_CTL_ADD")

    def _register(self) -> None:
        for epoll, mask in self._interests():
            self._bench.register(epoll, self.here, mask)

    def _interests(self) -> list[tuple[Epoll, int]]:
        mask = INTERESTS[self.interest]
        return [(self._epolls["level"], mask), (self._epolls["edge"], mask | EPOLLET)]

    def _add_control(self, action: str, call: str) -> Row:
        edge, edge_before = self.is_ready("edge"), self.last.edge_ready
        why = f"{call} checks the current state of the socket"
        if edge and not edge_before:
            self._news.append(f"{call} found it ready")
            why = f"{why}: {self._state()}. So edge is ready again, although nothing arrived."
        elif edge:
            why = f"{why}. Edge was ready before, and still is."
        elif edge_before:
            why = f"{why}: for the interest {self.interest} there is nothing to report."
            self._news.clear()
        else:
            why = f"{why}: {self._state()}. There is nothing to report."
        return self._add_row(action, "0", why)

    # ---- reading the state --------------------------------------------------------

    def _add_row(
        self, action: str, result: str, why: str, level: str | None = None, edge: str | None = None
    ) -> Row:
        level_ready, edge_ready = self._ready()
        interest = {
            trigger: ", ".join(entry.mask_names for entry in kernel.interest_list(epoll.fd))
            for trigger, epoll in self._epolls.items()
        }
        row = Row(
            step=len(self.rows),
            action=action,
            result=result,
            level=level,
            edge=edge,
            readable=kernel.bytes_readable(self.here),
            socket=mask_names(self._polled()),
            level_ready=level_ready,
            edge_ready=edge_ready,
            level_interest=interest["level"],
            edge_interest=interest["edge"],
            why=why,
        )
        self.rows.append(row)
        return row

    def _ready(self) -> tuple[bool, bool]:
        return self.is_ready("level"), self.is_ready("edge")

    def _polled(self) -> int:
        """The mask that poll(2) reports for the socket."""
        poll = select.poll()
        poll.register(self.here.fd, select.POLLIN | select.POLLOUT | EPOLLRDHUP)
        found: Any = poll.poll(0)
        return int(found[0][1]) if found else 0

    def _state(self) -> str:
        """The state of the socket in words, as far as the interest covers it."""
        now, asked = self._polled(), INTERESTS[self.interest]
        readable = kernel.bytes_readable(self.here)
        parts = []
        if readable and asked & EPOLLIN:
            parts.append(f"{_bytes(readable)} can be read")
        if now & EPOLLERR:
            parts.append("the connection was reset")
        elif now & EPOLLHUP:
            parts.append("both directions are shut down")
        elif now & EPOLLRDHUP and asked & (EPOLLIN | EPOLLRDHUP):
            parts.append("the end of the stream can be read")
        if now & EPOLLOUT and asked & EPOLLOUT:
            parts.append("the send buffer has room")
        if not asked & EPOLLIN and readable and not parts:
            return f"{_bytes(readable)} can be read, but the interest {self.interest} excludes that"
        return " and ".join(parts) or "nothing can be read"


def _require(possible: bool, why_not: str) -> None:
    if not possible:
        raise ValueError(f"{why_not}; start over for a new connection")


def _explain_failure(name: str) -> str:
    if name == "EAGAIN":
        return (
            "recv would block: the buffer is empty. So an edge-triggered reader leaves nothing "
            "behind that no event would report."
        )
    if name == "ECONNRESET":
        return "recv returns the socket's pending error once; after that the stream has ended."
    return f"recv failed with {name}."


def _bytes(number: int) -> str:
    return "1 byte" if number == 1 else f"{number:,} bytes"


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
