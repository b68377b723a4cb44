"""Two epolls on one socket, level and edge, moved a step at a time; no widget.

One job: do what is asked, look at what the kernel then says, and explain it. Everything
shown is asked of the kernel: what each epoll returned; the bytes that can be read
(FIONREAD); the interest list of each (``/proc``); whether each epoll would return at
once, which poll(2) tells of an epoll's own descriptor without taking anything from it;
and what poll(2) says of the socket. The explanation is made of these.
"""

import select
import socket
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from epolllab import kernel
from epolllab.checks import check_choice, check_int
from epolllab.events import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, mask_names
from epolllab.experiments.catalogue.bench import Bench, End, Watcher
from epolllab.recording.recording import Recording

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["INTERESTS", "MOST_BYTES", "Row", "Steps"]

INTERESTS = {
    "IN|RDHUP": EPOLLIN | EPOLLRDHUP,
    "IN": EPOLLIN,
    "IN|OUT|RDHUP": EPOLLIN | EPOLLOUT | EPOLLRDHUP,
    "OUT": EPOLLOUT,
    "0": 0,
}
"""Interests that can be chosen; EPOLLET is added for the edge."""

MOST_BYTES = 16_384
"""Bytes of one write."""

MOST_UNREAD = 49_152
"""Bytes in the buffer, kept below what the kernel takes without the peer waiting."""

_BAD = EPOLLERR | EPOLLHUP


@dataclass(frozen=True)
class Row:
    """One step, and what the kernel said after it."""

    step: int
    action: str
    result: str
    """What the call itself returned."""
    level: str | None
    """The mask that level's wait returned: "" for nothing, None where it was not asked."""
    edge: str | None
    readable: int
    """Bytes in the kernel's receive buffer."""
    socket: str
    """What poll(2) says of the socket."""
    level_ready: bool
    """Whether level would return at once."""
    edge_ready: bool
    level_interest: str
    """As the kernel's own list has it."""
    edge_interest: str
    why: str


class Steps:
    """The stepper's model; a context manager.

    Attributes
    ----------
    rows : list of Row
        The history; the first row is the beginning.
    interest : str
        What is watched for, a key of :data:`INTERESTS`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.rows: list[Row] = []
        self.interest = "IN|RDHUP"
        self._begin()

    def _begin(self) -> None:
        self._bench = bench = Bench()
        self.here, self.there = bench.tcp("socket", "peer")
        self._level, self._edge = bench.epoll("level"), bench.epoll("edge")
        self._peer_open = self._peer_writes = True
        self._news: list[str] = []
        self._register()
        self.rows.clear()
        self._note(
            "begin",
            "",
            "Two epolls watch the same socket. Both have asked for "
            f"{self.interest}; one of them with EPOLLET.",
        )

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, its peer and both epolls; any number of times."""
        with self._lock:
            self._bench.__exit__(None, None, None)

    def start_over(self) -> Row:
        """Close everything, and begin with a new connection and an empty history."""
        with self._lock:
            self.close()
            self._begin()
            return self.rows[-1]

    @property
    def can(self) -> dict[str, bool]:
        """Which steps are possible now."""
        return {
            "peer_writes": self._peer_writes,
            "peer_half_closes": self._peer_writes,
            "peer_resets": self._peer_open,
        }

    @property
    def last(self) -> Row:
        """The last step."""
        return self.rows[-1]

    def history(self) -> "pd.DataFrame":
        """One row per step.

        Returns
        -------
        pandas.DataFrame
            ``step`` (int32); ``action``, ``result`` (string); ``level``, ``edge`` (string,
            what the wait returned, "" for nothing, missing where it was not asked);
            ``readable`` (int64, bytes); ``socket`` (string); ``level_ready``,
            ``edge_ready`` (bool); ``level_interest``, ``edge_interest``, ``why`` (string).
        """
        import pandas as pd

        frame = pd.DataFrame([asdict(row) for row in self.rows])
        # "string" keeps what is missing apart from "", in every pandas.
        texts = dict.fromkeys(("action", "result", "level", "edge", "socket"), "string")
        texts |= dict.fromkeys(("level_interest", "edge_interest", "why"), "string")
        return frame.astype({**texts, "step": "int32", "readable": "int64"})

    def recording(self) -> Recording:
        """Every call as records, with the times it took."""
        kept = self._bench.snapshot()
        return Recording(kept.rows, {"experiment": "stepper"}, kept.overwritten)

    # ---- the peer's steps ---------------------------------------------------------

    def peer_writes(self, n_bytes: int) -> Row:
        """Let the peer send; return when the bytes are in the socket's buffer.

        Raises
        ------
        ValueError, TypeError
            Too many bytes, or the peer has ended its direction; nothing is sent.
        """
        check_int("bytes to write", n_bytes, 1, MOST_BYTES)
        with self._lock:
            self._require(self._peer_writes, "the peer has ended its direction and cannot write")
            before = kernel.bytes_readable(self.here)
            if before + n_bytes > MOST_UNREAD:
                raise ValueError(
                    f"{before:,} bytes are unread, and {n_bytes:,} more might not fit into the "
                    "kernel's buffer; read some first"
                )
            edge_had, level_had = self._queued(self._edge), self._queued(self._level)
            self._bench.send(self.there, bytes(n_bytes))
            self._bench.arrived(self.here, before + n_bytes)
            return self._happened(
                f"peer writes {n_bytes:,}", _bytes(n_bytes), f"{_bytes(n_bytes)} arrived",
                f"{_bytes(n_bytes)} arrived.", had=(level_had, edge_had),
            )  # fmt: skip

    def peer_half_closes(self) -> Row:
        """Let the peer end its direction: shutdown(SHUT_WR), a FIN."""
        with self._lock:
            self._require(self._peer_writes, "the peer has ended its direction already")
            had = self._queued(self._level), self._queued(self._edge)
            self._bench.shutdown(self.there, socket.SHUT_WR)
            self._bench.in_state(self.here, "CLOSE_WAIT")
            self._peer_writes = False
            return self._happened(
                "peer half-closes", "0", "the peer ended its direction",
                "The peer's FIN arrived: what it has sent can still be read, and then the end.",
                had=had,
            )  # fmt: skip

    def peer_resets(self) -> Row:
        """Let the peer close with a reset: SO_LINGER of 0 seconds, an RST."""
        with self._lock:
            self._require(self._peer_open, "the peer is closed already")
            had = self._queued(self._level), self._queued(self._edge)
            self._bench.reset(self.there)
            self._bench.in_state(self.here, "CLOSE")
            self._peer_open = self._peer_writes = False
            return self._happened(
                "peer resets", "0", "the peer reset the connection",
                "An RST arrived. ERR and HUP are reported whatever the interest is.",
                had=had,
            )  # fmt: skip

    def _happened(
        self, action: str, result: str, news: str, what: str, had: tuple[bool, bool]
    ) -> Row:
        """Note something that came from outside, and what it did to both ready lists."""
        level, edge = self._queued(self._level), self._queued(self._edge)
        if edge:
            self._news.append(news)
        if had[1] and edge:
            then = "Edge had not told of what came before it; it will tell of both at once."
        elif edge and had[0]:
            then = "To edge this is news, so it is ready again; level was ready all the time."
        elif edge and level:
            then = "Both epolls have the socket in their ready lists now."
        elif not level and not edge:
            then = f"Neither is ready: {self.interest} does not ask for it."
        else:
            then = f"Ready: level {_yes(level)}, edge {_yes(edge)}."
        return self._note(action, result, f"{what} {then}")

    # ---- the server's steps -------------------------------------------------------

    def wait(self) -> Row:
        """epoll_wait with a timeout of 0 on both, level first."""
        with self._lock:
            level, edge = (self._bench.wait(watcher, 0) for watcher in (self._level, self._edge))
            masks = [ready[0][1] if ready else 0 for ready in (level, edge)]
            why = self._why_waited(*masks)
            self._news.clear()
            names = [mask_names(mask) if mask else "" for mask in masks]
            return self._note("wait", "", why, level=names[0], edge=names[1])

    def _why_waited(self, level: int, edge: int) -> str:
        state, news = self._state(), " and ".join(self._news)
        if level and edge:
            same = f"Both return {mask_names(level)}"
            told = same if level == edge else (
                f"Level returns {mask_names(level)}, edge {mask_names(edge)}"
            )  # fmt: skip
            return (
                f"{told}. Level looks at how things are: {state}. Edge tells what has happened: "
                f"{news or 'something that was not noted here'}."
            )
        if level:
            return (
                f"Level returns {mask_names(level)}, and will at every wait: {state}. Edge is "
                "silent: it has told of that once, and nothing has happened since."
            )
        if edge:
            return (
                f"Edge alone returns {mask_names(edge)}, though level, which looks at how things "
                "are, does not. Neither rule explains that."
            )
        if news:
            return f"Neither returns anything: {news}, but nothing of it is left to tell."
        return f"Neither returns anything: {state}, and nothing has happened to tell of."

    def recv(self, n_bytes: int) -> Row:
        """Read at most so many bytes.

        Raises
        ------
        ValueError, TypeError
            Not a number of bytes from 1 on.
        """
        check_int("bytes to read", n_bytes, 1, 1 << 20)
        with self._lock:
            got = self._bench.attempt(self._bench.recv, self.here, n_bytes)
            if isinstance(got, str):
                return self._note(f"recv {n_bytes:,}", got, _why_failed(got))
            if not got:
                return self._note(
                    f"recv {n_bytes:,}", "0: end",
                    "recv returns 0: the peer has ended its direction, and it will return 0 every "
                    f"time. {self._readiness()}",
                )  # fmt: skip
            return self._note(f"recv {n_bytes:,}", _bytes(len(got)), self._why_read(len(got)))

    def drain(self) -> Row:
        """Read until it would block, ends or fails, as a reader of edges must."""
        with self._lock:
            total, ending = 0, ""
            while not ending:
                got = self._bench.attempt(self._bench.recv, self.here, 65_536)
                if isinstance(got, str):
                    ending = got
                elif not got:
                    ending = "0: end"
                else:
                    total += len(got)
            why = (
                f"{_bytes(total)} read, then {ending}. "
                f"{_why_failed(ending) if ending != '0: end' else 'That is the end of the stream.'}"
            )
            return self._note("drain", f"{_bytes(total)}, then {ending}", why)

    def _why_read(self, n_bytes: int) -> str:
        left = kernel.bytes_readable(self.here)
        if not left:
            return (
                f"recv took the last {_bytes(n_bytes)}. Only a recv that would block proves that, "
                f"if more may come meanwhile. {self._readiness()}"
            )
        return (
            f"recv took {_bytes(n_bytes)}, and {_bytes(left)} are left. Reading is no event: it "
            f"puts nothing into a ready list. {self._readiness()}"
        )

    def _readiness(self) -> str:
        level, edge = self._queued(self._level), self._queued(self._edge)
        if level and not edge:
            return "Level is ready, for it looks; edge is not, and waits for something to happen."
        if level and edge:
            return "Both are ready: edge has not yet told of what happened before."
        if edge:
            return "Edge alone is ready."
        return "Neither is ready now."

    # ---- epoll_ctl ----------------------------------------------------------------

    def modify(self, interest: str | None = None) -> Row:
        """epoll_ctl(MOD) on both, with the same interest or another one.

        Parameters
        ----------
        interest : str, optional
            A key of :data:`INTERESTS`; by default what it is.
        """
        chosen = self.interest if interest is None else interest
        check_choice("interest", chosen, list(INTERESTS))
        with self._lock:
            before = self._queued(self._edge)
            self.interest = chosen
            for watcher, mask in self._asked():
                self._bench.modify(watcher, self.here, mask)
            return self._looked_anew(f"modify {chosen}", "EPOLL_CTL_MOD", before)

    def register_again(self) -> Row:
        """epoll_ctl(DEL), then epoll_ctl(ADD), on both."""
        with self._lock:
            before = self._queued(self._edge)
            for watcher, _ in self._asked():
                self._bench.unregister(watcher, self.here)
            self._register()
            return self._looked_anew("register again", "EPOLL_CTL_ADD", before)

    def _register(self) -> None:
        for watcher, mask in self._asked():
            self._bench.register(watcher, self.here, mask)

    def _asked(self) -> list[tuple[Watcher, int]]:
        mask = INTERESTS[self.interest]
        return [(self._level, mask), (self._edge, mask | EPOLLET)]

    def _looked_anew(self, action: str, call: str, before: bool) -> Row:
        now = self._queued(self._edge)
        looks = f"{call} looks at the socket as it is"
        if now and not before:
            self._news.append(f"{call} looked, and found it ready")
            why = f"{looks}: {self._state()}. So edge is ready again, though nothing arrived."
        elif now:
            why = f"{looks}. Edge was ready already, and is."
        elif before:
            why = f"{looks}: for {self.interest} there is nothing to tell."
            self._news.clear()
        else:
            why = f"{looks}: {self._state()}. There is nothing to tell."
        return self._note(action, "0", why)

    # ---- looking ------------------------------------------------------------------

    def _note(
        self,
        action: str,
        result: str,
        why: str,
        *,
        level: str | None = None,
        edge: str | None = None,
    ) -> Row:
        row = Row(
            step=len(self.rows),
            action=action,
            result=result,
            level=level,
            edge=edge,
            readable=kernel.bytes_readable(self.here),
            socket=mask_names(_polled(self.here)),
            level_ready=self._queued(self._level),
            edge_ready=self._queued(self._edge),
            level_interest=_interest(self._level),
            edge_interest=_interest(self._edge),
            why=why,
        )
        self.rows.append(row)
        return row

    @staticmethod
    def _queued(watcher: Watcher) -> bool:
        """Whether a wait would return at once; asking takes nothing from the ready list."""
        poll = select.poll()
        poll.register(watcher.fd, select.POLLIN)
        return bool(poll.poll(0))

    def _state(self) -> str:
        """How the socket is now, in words, as far as the interest asks."""
        now, asked = _polled(self.here), INTERESTS[self.interest]
        readable = kernel.bytes_readable(self.here)
        parts = []
        if readable and asked & EPOLLIN:
            parts.append(f"{_bytes(readable)} can be read")
        if now & _BAD:
            parts.append("the connection was reset" if now & EPOLLERR else "both directions ended")
        elif now & EPOLLRDHUP and asked & (EPOLLIN | EPOLLRDHUP):
            parts.append("the end of the stream can be read")
        if now & EPOLLOUT and asked & EPOLLOUT:
            parts.append("the send buffer has room")
        if not asked & EPOLLIN and readable and not parts:
            return f"{_bytes(readable)} can be read, but {self.interest} does not ask for that"
        return " and ".join(parts) or "nothing can be read"

    @staticmethod
    def _require(possible: bool, why_not: str) -> None:
        if not possible:
            raise ValueError(f"{why_not}; start over for a new connection")


def _polled(end: End) -> int:
    poll = select.poll()
    poll.register(end.fd, select.POLLIN | select.POLLOUT | EPOLLRDHUP)
    found: Any = poll.poll(0)
    return int(found[0][1]) if found else 0


def _interest(watcher: Watcher) -> str:
    return ", ".join(entry.mask_names for entry in kernel.interest_list(watcher.fd))


def _why_failed(name: str) -> str:
    if name == "EAGAIN":
        return (
            "recv would block: the buffer is empty. This is what a reader of edges must have "
            "seen before it waits again."
        )
    if name == "ECONNRESET":
        return "recv takes the error off the socket; it is told once, and then the stream is over."
    return f"recv failed with {name}."


def _bytes(number: int) -> str:
    return "1 byte" if number == 1 else f"{number:,} bytes"


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
