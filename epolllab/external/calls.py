"""Lines of strace's text as system calls: who, what, when, and what was returned.

All generations of strace's format are read, with any of ``-f``, ``-t``, ``-tt``, ``-ttt``,
``-r``, ``-T``, ``-y`` and ``-yy``. Nothing is guessed: a line that is no complete call is
kept in :attr:`Lines.strange`, or counted if it is one of strace's own.
"""

import errno
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["Call", "Lines", "split"]

_HEAD = re.compile(
    r"^\s*(?:\[pid\s+(?P<pid>\d+)\]\s*|(?P<bare>\d+)\s+)?"
    r"(?:(?P<wall>\d{1,2}:\d\d:\d\d(?:\.\d+)?)\s+|(?P<seconds>\d+\.\d+)\s+)?"
    r"(?P<body>.*)$",
    re.DOTALL,
)
_CALL = re.compile(
    r"^(\w+)\((.*)\)\s*=\s*(-?\d+|0x[0-9a-f]+|\?)"  # the last result in the line
    r"(?:<(?:->|[^<>])*>)?"  # -y: what the returned descriptor is
    r"(?:\s+(E[A-Z0-9]+)\b)?"
    r"(?:\s+\((.*?)\))?"  # an error's text, or what poll and select found
    r"(?:\s+<(\d+\.\d+)>)?\s*$",  # -T
    re.DOTALL,
)
_UNFINISHED = re.compile(r"^(\w+)\((.*?)\s*<(?:unfinished|detached) \.\.\.>\s*$", re.DOTALL)
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>,?\s?(.*)$", re.DOTALL)
_OWN = re.compile(r"^\s*(?:strace: |---|\+\+\+|exit(?:_group)?\(|$|<detached)")
_DETACHED = re.compile(r"strace: Process \d+ detached\s*|\s*<detached \.\.\.>\s*$")
_TOKENS = re.compile(r'"(?:\\.|[^"\\])*"(?:\.\.\.)?|[\[\]{}()]|,|[^"\[\]{}(),]+', re.DOTALL)
_DECORATION = re.compile(r"(?<=\d)<((?:->|[^<>])*)>")

MOST_STRANGE = 20
"""Lines kept of those that are not understood; all are counted."""

NS = 1_000_000_000
DAY_NS = 86_400 * NS
STEP_NS = 1_000
"""Time from one line to the next in a text without clock: only the order is known."""

ERRORS = {"ERESTARTSYS", "ERESTARTNOINTR", "ERESTARTNOHAND", "ERESTART_RESTARTBLOCK"}
"""The kernel's own numbers for an interrupted call, which a program never sees."""


class Call(NamedTuple):
    """One system call that returned."""

    tid: int
    """0 where the text does not say."""
    name: str
    arguments: str
    """Without the descriptions that ``-y`` adds."""
    result: int
    """Negated errno on error."""
    found: str
    """What poll and select print behind their result."""
    start_ns: int
    end_ns: int


class Lines:
    """Turn lines into calls, and count what is left over.

    Attributes
    ----------
    n_strange : int
        Lines that are not understood; `strange` has the first of them.
    names : dict
        What ``-y`` says of descriptors: thread and number to text.
    pending : dict
        Calls that have not returned: thread and name to start and arguments.
    has_clock : bool
        Whether any line has a time.
    """

    def __init__(self, offset_ns: int = 0) -> None:
        self.n_strange = 0
        self.strange: list[str] = []
        self.names: dict[tuple[int, int], str] = {}
        self.pending: dict[tuple[int, str], tuple[int, str]] = {}
        self.has_clock = False
        self._offset = offset_ns
        self._now = 0
        self._day = 0

    def calls(self, lines: Iterable[str]) -> Iterator[Call]:
        """Yield the calls in the order in which they returned."""
        for line in lines:
            call = self._line(line.rstrip("\n"))
            if call is not None:
                yield call

    def note(self, line: str) -> None:
        """Count a line that is not understood, and keep the first ones."""
        self.n_strange += 1
        if len(self.strange) < MOST_STRANGE:
            self.strange.append(line[:300])

    def _line(self, line: str) -> Call | None:
        head = _HEAD.match(line)
        body = head["body"] if head else line
        if not head or _OWN.match(body):
            return None
        tid, now = int(head["pid"] or head["bare"] or 0), self._time(head)
        if body.endswith(("...>", "detached")):
            unfinished = _UNFINISHED.match(_DETACHED.sub(" <unfinished ...>", body, count=1))
            if unfinished:
                self.pending[tid, unfinished[1]] = now, unfinished[2]
                return None
        start = now
        was_resumed = _RESUMED.match(body) if body.startswith("<...") else None
        if was_resumed:
            start, before = self.pending.pop((tid, was_resumed[1]), (now, ""))
            gap = "" if not before or was_resumed[2].startswith(")") else " "
            body = f"{was_resumed[1]}({before}{gap}{was_resumed[2]}"
        call = _CALL.match(body)
        result = _result(call) if call else None
        if not call or result is None:
            self.note(line)
            return None
        took = round(float(call[6]) * NS) if call[6] else None
        end = start + took if took is not None else max(now, start)
        return Call(tid, call[1], self._bare(tid, call), result, call[5] or "", start, end)

    def _bare(self, tid: int, call: re.Match[str]) -> str:
        """The arguments without decorations, which are kept in `names`."""
        if "<" not in call[2]:
            return call[2]
        for number, name in re.findall(r"\b(\d+)<((?:->|[^<>])*)>", call[2]):
            self.names[tid, int(number)] = name
        return _DECORATION.sub("", call[2])

    def _time(self, head: re.Match[str]) -> int:
        """The line's time in nanoseconds."""
        if head["wall"]:
            hours, minutes, seconds = head["wall"].split(":")
            ns = (int(hours) * 3600 + int(minutes) * 60) * NS + _nanoseconds(seconds)
            if ns + self._day < self._now - DAY_NS // 2:  # past midnight
                self._day += DAY_NS
            self._now = ns + self._day
        elif head["seconds"] and len(head["seconds"].partition(".")[0]) >= 9:
            self._now = _nanoseconds(head["seconds"]) - self._offset
        elif head["seconds"]:  # -r: since the line before
            self._now += _nanoseconds(head["seconds"])
        else:
            self._now += STEP_NS
            return self._now
        self.has_clock = True
        return self._now


def _nanoseconds(text: str) -> int:
    """Decimal seconds, exactly: a float has no room for today's nanoseconds."""
    whole, _, fraction = text.partition(".")
    return int(whole) * NS + int(fraction[:9].ljust(9, "0") or 0)


def _result(call: re.Match[str]) -> int | None:
    """The result as the kernel returned it; None if the error is not known."""
    if call[4]:
        number = errno.EINTR if call[4] in ERRORS else getattr(errno, call[4], None)
        return None if number is None else -number
    return -errno.EINTR if call[3] == "?" else int(call[3], 0)


def split(arguments: str) -> list[str]:
    """Split arguments at the commas that are in no bracket and no string."""
    parts, depth = [""], 0
    for token in _TOKENS.findall(arguments):
        depth += token in "[{(" if len(token) == 1 else 0
        depth -= token in "]})" if len(token) == 1 else 0
        if token == "," and not depth:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]
