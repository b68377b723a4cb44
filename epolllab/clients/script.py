"""Scripts: the steps of a scripted peer, as immutable values that ``peers`` executes."""

from dataclasses import dataclass
from typing import NamedTuple

from epolllab.checks import check_bytes, check_int, check_timeout, shown

__all__ = ["STEP_NAMES", "Script", "Step", "script"]

STEP_NAMES = (
    "connect",
    "send",
    "send_slowly",
    "pause",
    "expect",
    "expect_end",
    "half_close",
    "reset",
    "close",
)
_NEEDS_CONNECTION = frozenset(STEP_NAMES) - {"connect", "pause"}


class Step(NamedTuple):
    """One step of a peer; ``size`` is the bytes expected, or the bytes of a piece."""

    name: str
    data: bytes = b""
    size: int = 0
    pause_ns: int = 0

    def __str__(self) -> str:
        shown = repr(self.data if len(self.data) <= 24 else self.data[:21] + b"...")
        seconds = f"{self.pause_ns / 1e9:g}"
        arguments = {
            "send": shown,
            "send_slowly": f"{shown}, size={self.size}, every={seconds}",
            "pause": seconds,
            "expect": shown if self.data else str(self.size),
        }.get(self.name, "")
        return f"{self.name}({arguments})"


MOST_TIMES = 10_000
MOST_STEPS = 100_000
"""Upper bounds of repeat()."""


@dataclass(frozen=True, slots=True, repr=False)
class Script:
    """What a peer does, in order. Made by :func:`epolllab.script`; immutable.

    A step that needs a connection opens one, unless the script has called ``connect()``
    before. A connection that is open at the end is closed. A peer reads only where its
    script expects something; if it never reads, the kernel's buffers fill, and then the
    server's.
    """

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.steps, tuple) or not all(isinstance(s, Step) for s in self.steps):
            raise TypeError(f"steps must be a tuple of steps, not {shown(self.steps)}")

    def connect(self) -> "Script":
        """Connect and wait until the connection is established."""
        return self._then(Step("connect"))

    def send(self, data: bytes) -> "Script":
        """Send all of `data`, waiting where it would block."""
        return self._then(Step("send", check_bytes("data", data, allow_empty=False)))

    def send_slowly(self, data: bytes, size: int = 1, every: float = 0.01) -> "Script":
        """Send `data` in pieces of `size` bytes, one every `every` seconds.

        TCP_NODELAY is set on every scripted connection, so each piece leaves as a
        segment of its own. Whether the peer *reads* it as one is up to the peer.
        """
        data = check_bytes("data", data, allow_empty=False)
        size = check_int("size", size, 1)
        return self._then(Step("send_slowly", data, size, _nanoseconds("every", every)))

    def pause(self, seconds: float) -> "Script":
        """Do nothing for a while, not even read."""
        return self._then(Step("pause", pause_ns=_nanoseconds("seconds", seconds)))

    def expect(self, what: bytes | int) -> "Script":
        """Read until certain bytes, or a number of bytes, have arrived.

        Bytes are searched for in what has arrived since the last expectation was met. What
        arrives after them, or beyond the number, is kept for the next step.
        """
        if hasattr(what, "__index__"):
            return self._then(Step("expect", size=check_int("what", what, 1)))
        return self._then(Step("expect", check_bytes("what", what, allow_empty=False)))

    def expect_end(self) -> "Script":
        """Read until the server closes the connection; bytes before that are dropped."""
        return self._then(Step("expect_end"))

    def half_close(self) -> "Script":
        """Shut down sending (shutdown SHUT_WR); the server reads end-of-file."""
        return self._then(Step("half_close"))

    def reset(self) -> "Script":
        """Close so that the kernel sends RST (SO_LINGER with 0 seconds)."""
        return self._then(Step("reset"))

    def close(self) -> "Script":
        """Close. With unread bytes in the buffer, the kernel sends RST rather than FIN."""
        return self._then(Step("close"))

    def repeat(self, times: int) -> "Script":
        """Execute all steps so far `times` times in total.

        A connection that is open at the end is used again, rather than reopened.
        """
        times = check_int("times", times, 1, MOST_TIMES)
        if len(self) * times > MOST_STEPS:
            raise ValueError(
                f"times must make at most {MOST_STEPS:,} steps of the {len(self):,}, not {times:,}"
            )
        twice = self
        for step in self.steps if times > 1 else ():
            is_closed = _last_change(twice.steps) in ("close", "reset")
            if step.name != "connect" or is_closed:
                twice = twice._then(step)
        return Script(self.steps + twice.steps[len(self) :] * (times - 1))

    def _then(self, step: Step) -> "Script":
        """Append a step, with a connect before it where one is missing."""
        steps = self.steps
        is_connected = _last_change(steps) in ("connect", "half_close")
        if step.name == "connect" and is_connected:
            raise ValueError("connect: the script is already connected; close() first")
        if step.name in _NEEDS_CONNECTION and not is_connected:
            if any(earlier.name == "connect" for earlier in steps):
                raise ValueError(f"{step.name}: the connection is closed; call connect() first")
            steps = (*steps, Step("connect"))
        if step.name.startswith("send") and _last_change(steps) == "half_close":
            raise ValueError(f"{step.name}: nothing can be sent after half_close()")
        return Script((*steps, step))

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return ".".join(["script()", *map(str, self.steps)])


def script() -> Script:
    r"""Begin a script for :func:`epolllab.run_clients`.

    Examples
    --------
    >>> import epolllab
    >>> slow = epolllab.script().send_slowly(b"GET / HTTP/1.0\r\n\r\n", every=0.001)
    >>> with epolllab.start_server() as server:
    ...     run = epolllab.run_clients(
    ...         server, script=slow.expect_end(), connections=3, progress=False
    ...     )
    >>> run.steps()["name"].tolist()[:4]
    ['connect', 'send_slowly', 'expect_end', 'close']
    """
    return Script()


def _last_change(steps: tuple[Step, ...]) -> str:
    """Name of the last step that changed the connection's state; "" if there is none."""
    changes = ("connect", "half_close", "reset", "close")
    return next((step.name for step in reversed(steps) if step.name in changes), "")


def _nanoseconds(name: str, seconds: float) -> int:
    return round(check_timeout(name, seconds) * 1e9)
