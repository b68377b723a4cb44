"""Lines of strace's text as system calls: who, what, when, and what was returned.

All generations of strace's format are read, with any of ``-f``, ``-i``, ``-k``, ``-n``, ``-r``,
``-t``, ``-tt``, ``-ttt``, ``-T``, ``-y``, ``-yy``, ``-Y`` and ``-C``; also quoted in mail,
indented, numbered by ``cat -n``, and in colour. Nothing is guessed: a line that is no complete
call is counted and kept in :attr:`Lines.strange`, unless it is a message of strace itself.
"""

import errno
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["Call", "Lines", "split"]

_HEAD = re.compile(
    r"^\s*(?:(?:>\s?)+|\d+\t)?\s*"  # quoted in mail, or numbered by cat -n
    r"(?:\[pid\s+(?P<pid>\d+)(?:<[^>]*>)?\]\s*|(?P<bare>\d{1,7})(?:<[^>]*>)? +)?"
    r"(?:(?P<wall>\d{1,2}:\d\d:\d\d(?:\.\d+)?)\s+|(?P<seconds>\d{9,}(?:\.\d+)?|\d+\.\d+)\s+)?"
    r"(?:\(\+\s*(?P<since>\d+\.\d+)\)\s+)?"  # -r, beside another clock
    r"(?:\[(?:\s*-?\d+|[0-9a-f]{8,16}|\?+)\]\s+){0,2}"  # -n and -i
    r"(?P<body>.*)$",
    re.DOTALL,
)
_CALL = re.compile(
    r"^(\w+)\((.*)\)\s*=\s*(-?\d+|0x[0-9a-f]+|\?)"  # the last result in the line
    r"(?:<(?:->|[^<>])*>)?"  # -y: what the returned descriptor is
    r"(?:\s+(E[A-Z0-9]+)\b)?"
    r"(?:\s+\((.*?)\))?"  # an error's text, or what poll and select found
    r"(?:\s+<(\d+(?:\.\d+)?)>)?\s*$",  # -T
    re.DOTALL,
)
_UNFINISHED = re.compile(r"^(\w+)\((.*?)\s*<(?:unfinished|detached) \.\.\.>$", re.DOTALL)
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>,?\s?(.*)$", re.DOTALL)
_OWN = re.compile(
    r"(?:\^C)?strace: |---|\+\+\+|exit(?:_group)?\(|$|<(?:detached|unfinished) \.\.\.>$"
    r"|(?:\[ )?Process (?:\d+|PID=\d+) (?:attached|detached|suspended|resumed|runs)"
)
_STACK = re.compile(r"\s*>.*\[0x[0-9a-f]+\]$")  # -k
_SUMMARY = re.compile(r"% time\s|-+(?: -+)+$|[\d.]+\s+[\d.]+\s+(?:\d+\s+){1,3}\w+$")  # -c and -C
_INTERRUPTED = re.compile(r"strace: Process \d+ (?:de|at)tached$|\s*<detached \.\.\.>$")
_COLOUR = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
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
        Whether any call has a time.
    n_summary : int
        Lines of a table as ``strace -c`` prints it.
    """

    def __init__(self, offset_ns: int = 0) -> None:
        self.n_strange = 0
        self.strange: list[str] = []
        self.names: dict[tuple[int, int], str] = {}
        self.pending: dict[tuple[int, str], tuple[int, str]] = {}
        self.has_clock = False
        self.n_summary = 0
        self._has_durations = False
        self._broken = ""
        self._offset = offset_ns
        self._now = 0
        self._day = 0

    def calls(self, lines: Iterable[str]) -> Iterator[Call]:
        """Yield the calls in the order in which they returned."""
        for line in lines:
            plain = _COLOUR.sub("", line) if "\x1b" in line else line
            plain = self._joined(plain.lstrip("\ufeff").rstrip())
            call = self._line(plain, is_whole=line.endswith("\n"))
            if call is not None:
                yield call

    def _joined(self, line: str) -> str:
        """The rest of a line joined to its begin, between which strace told of a new thread."""
        if self._broken and line.startswith((",", ")")):
            line, self._broken = self._broken + line, ""
            head = _HEAD.match(line)
            if head:
                name = head["body"].partition("(")[0]
                self.pending.pop((int(head["pid"] or head["bare"] or 0), name), None)
        elif line.endswith(" attached"):
            self._broken = _INTERRUPTED.sub("", line)
        return line

    def note(self, line: str) -> None:
        """Count a line that is not understood, and keep the first ones."""
        self.n_strange += 1
        if len(self.strange) < MOST_STRANGE:
            self.strange.append(line[:300])

    def _line(self, line: str, *, is_whole: bool) -> Call | None:
        head = _HEAD.match(line)
        body = head["body"] if head else line
        if not head or _OWN.match(body) or _STACK.match(line):
            return None
        if _SUMMARY.match(line.lstrip("> ")):
            self.n_summary += 1
            return None
        tid, now = int(head["pid"] or head["bare"] or 0), self._time(head)
        if body.endswith(("...>", "tached")):
            unfinished = _UNFINISHED.match(_INTERRUPTED.sub(" <unfinished ...>", body, count=1))
            if unfinished:
                self.pending[tid, unfinished[1]] = now, unfinished[2]
                return None
        start = now
        was_resumed = _RESUMED.match(body) if body.startswith("<...") else None
        if was_resumed:
            tid, start, before = self._begun(tid, was_resumed[1], now)
            gap = "" if not before or was_resumed[2].startswith(")") else " "
            body = f"{was_resumed[1]}({before}{gap}{was_resumed[2]}"
        call = _CALL.match(body)
        result = _result(call) if call else None
        if not call or result is None or self._is_cut(call, is_whole):
            self.note(line)
            return None
        self.has_clock |= bool(head["wall"] or head["seconds"] or head["since"])
        took = round(float(call[6]) * NS) if call[6] else None
        end = start + took if took is not None else max(now, start)
        return Call(tid, call[1], self._bare(tid, call), result, call[5] or "", start, end)

    def _begun(self, tid: int, name: str, now: int) -> tuple[int, int, str]:
        """Thread, start and arguments of a call that goes on.

        strace names threads only while there are several, so a call may begin without a
        number and go on with one, or the other way round.
        """
        keys = [(tid, name), (0, name)]
        if not tid:
            named = [key for key in self.pending if key[1] == name]
            keys += named if len(named) == 1 else []
        for key in keys:
            if key in self.pending:
                return tid or key[0], *self.pending.pop(key)
        return tid, now, ""

    def _is_cut(self, call: re.Match[str], is_whole: bool) -> bool:
        """Whether the last line ends too early, where its result may be cut too."""
        self._has_durations |= bool(call[6])
        return self._has_durations and not call[6] and not is_whole and call[3] != "?"

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
        elif since := head["seconds"] or head["since"]:  # -r: since the line before
            self._now += _nanoseconds(since)
        else:
            self._now += STEP_NS
        return self._now


def _nanoseconds(text: str) -> int:
    """Decimal seconds, exactly: a float has no room for today's nanoseconds."""
    whole, _, fraction = text.partition(".")
    return int(whole) * NS + int(fraction[:9].ljust(9, "0") or 0)


def _result(call: re.Match[str]) -> int | None:
    """The result as the kernel returned it; None for an error that is not named or not known."""
    if call[4]:
        number = errno.EINTR if call[4] in ERRORS else getattr(errno, call[4], None)
        return None if number is None else -number
    if call[3] == "?":
        return -errno.EINTR
    result = int(call[3], 0)
    return None if result < 0 else result  # strace names each error, ltrace none


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
