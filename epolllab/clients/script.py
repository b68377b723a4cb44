"""Scripts for peers that do exactly as told.

One job: say, step by step, what a peer does, and refuse what no peer can do. A script
is a value: each method returns a new one. It opens nothing; ``peers`` acts it out.
"""

import math
from typing import NamedTuple

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
    """One thing that a peer does."""

    name: str
    data: bytes = b""
    size: int = 0
    """Bytes expected, or bytes a piece."""
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


class Script:
    """What a peer does, in order. Made by :func:`epolllab.script`; immutable.

    A step that needs a connection makes one, unless the script has said ``connect()``
    before. A connection that is open at the end is closed. A peer reads only where its
    script expects something: one that never does fills the kernel's buffers, and then
    the server's.

    Parameters
    ----------
    steps : tuple of Step
        What is done.
    """

    __slots__ = ("_is_connected", "steps")

    steps: tuple[Step, ...]
    _is_connected: bool

    def __init__(self, steps: tuple[Step, ...] = ()) -> None:
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "_is_connected", _is_connected_after(steps))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a script is immutable; each of its methods returns a new one")

    def connect(self) -> "Script":
        """Connect and wait until the connection is established."""
        return self._then(Step("connect"))

    def send(self, data: bytes) -> "Script":
        """Send all of `data`, waiting where it would block."""
        return self._then(Step("send", _some_bytes("send", data)))

    def send_slowly(self, data: bytes, size: int = 1, every: float = 0.01) -> "Script":
        """Send `data` in pieces of `size` bytes, one every `every` seconds.

        TCP_NODELAY is set on every scripted connection, so each piece leaves as a
        segment of its own. Whether the peer *reads* it as one is up to the peer.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"send_slowly: size is a number of bytes from 1 on, not {size!r}")
        data = _some_bytes("send_slowly", data)
        return self._then(Step("send_slowly", data, size, _nanoseconds("every", every)))

    def pause(self, seconds: float) -> "Script":
        """Do nothing for a while, not even read."""
        return self._then(Step("pause", pause_ns=_nanoseconds("pause", seconds)))

    def expect(self, what: bytes | int) -> "Script":
        """Read until certain bytes have come, or a number of bytes.

        Parameters
        ----------
        what : bytes or int
            Bytes: read until they occur in what has come since the last expectation was
            met. A number: read as many. What comes after is kept for the next.
        """
        if isinstance(what, int) and not isinstance(what, bool):
            if what < 1:
                raise ValueError(f"expect: a number of bytes from 1 on, not {what}")
            return self._then(Step("expect", size=what))
        return self._then(Step("expect", _some_bytes("expect", what)))

    def expect_end(self) -> "Script":
        """Read until the server ends the connection; what comes before is dropped."""
        return self._then(Step("expect_end"))

    def half_close(self) -> "Script":
        """End the own direction (shutdown SHUT_WR); the server reads end-of-file."""
        return self._then(Step("half_close"))

    def reset(self) -> "Script":
        """Close so that the kernel sends RST (SO_LINGER with 0 seconds)."""
        return self._then(Step("reset"))

    def close(self) -> "Script":
        """Close. With unread bytes in the buffer, the kernel sends RST rather than FIN."""
        return self._then(Step("close"))

    def repeat(self, times: int) -> "Script":
        """Do all that is said so far `times` times in all.

        A connection that is open at the end is used on, rather than made again.
        """
        if isinstance(times, bool) or not isinstance(times, int) or times < 1:
            raise ValueError(f"repeat: a whole number from 1 on, not {times!r}")
        repeated = self
        for step in self.steps * (times - 1):
            if step.name != "connect" or not repeated._is_connected:
                repeated = repeated._then(step)
        return repeated

    def _then(self, step: Step) -> "Script":
        """Append a step, with a connect before it where one is missing."""
        if step.name == "connect" and self._is_connected:
            raise ValueError("connect: the script is connected already; close() first")
        steps = self.steps
        if step.name in _NEEDS_CONNECTION and not self._is_connected:
            if any(earlier.name == "connect" for earlier in steps):
                raise ValueError(
                    f"{step.name}: the script has ended its connection; say connect() before it"
                )
            steps = (*steps, Step("connect"))
        if step.name.startswith("send") and _is_half_closed(steps):
            raise ValueError(f"{step.name}: nothing can be sent after half_close()")
        return Script((*steps, step))

    def __len__(self) -> int:
        return len(self.steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Script) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash(self.steps)

    def __repr__(self) -> str:
        return ".".join(["script()", *map(str, self.steps)])

    def __reduce__(self) -> tuple[type["Script"], tuple[tuple[Step, ...]]]:
        return Script, (self.steps,)


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


def _is_connected_after(steps: tuple[Step, ...]) -> bool:
    for step in reversed(steps):
        if step.name in ("close", "reset"):
            return False
        if step.name == "connect":
            return True
    return False


def _is_half_closed(steps: tuple[Step, ...]) -> bool:
    for step in reversed(steps):
        if step.name in ("connect", "half_close"):
            return step.name == "half_close"
    return False


def _some_bytes(name: str, data: object) -> bytes:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"{name} takes bytes, not {type(data).__name__}: {data!r}")
    if not data:
        raise ValueError(f"{name} takes at least one byte")
    return bytes(data)


def _nanoseconds(name: str, seconds: object) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} is a number of seconds, not {seconds!r}")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} is in seconds and not negative, not {seconds!r}")
    return round(seconds * 1e9)
