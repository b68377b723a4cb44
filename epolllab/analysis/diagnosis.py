"""Find what keeps an event loop busy, from its recording.

A healthy loop does something with an event: it moves bytes, accepts or closes a
connection, or changes the interest mask, so the descriptor stops being ready. A descriptor
that is ready a hundred times in a row without such a change keeps the wait from sleeping:
the loop spins. The masks and the calls without effect show which mistake causes it.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from epolllab.checks import check_int
from epolllab.events import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, Op, error_name, mask_names
from epolllab.notebook import html
from epolllab.recording.recording import Recording

if TYPE_CHECKING:
    Records = np.ndarray[Any, np.dtype[Any]]

__all__ = ["ADVICE", "Diagnosis", "Finding", "diagnose"]

EVIDENCE_ROWS = 12

WRITABLE = "writable interest left on"
HANG_UP = "hang-up that cannot be masked"
END_OF_FILE = "ignored end of file"
GHOST = "ghost of a duplicated descriptor"
WAKE_UP = "wake-up descriptor never read"
UNREAD = "input never read"
ERROR = "socket error never read"
NO_DESCRIPTORS = "accept without a free descriptor"
NO_SLEEP = "timeout of zero"

ADVICE = {
    WRITABLE: (
        "An idle socket is almost always writable. Register OUT only after a short write or "
        "EAGAIN, and remove it once everything is sent; or register it edge-triggered once."
    ),
    HANG_UP: (
        "HUP and ERR are reported regardless of the mask, even if it is 0. Unregister the "
        "descriptor and close it."
    ),
    END_OF_FILE: (
        "A recv of 0 bytes is end of file, and the socket stays readable after it. Unregister "
        "and close at the first empty read; do not wait for EAGAIN."
    ),
    GHOST: (
        "The descriptor was closed while a duplicate of it existed (dup, a forked or spawned "
        "process, a descriptor passed over a socket). Unregister before closing, open "
        "descriptors close-on-exec, and find the process that holds the duplicate; the entry "
        "goes away when the duplicate or the epoll is closed."
    ),
    WAKE_UP: (
        "Read the eventfd or pipe until it is empty when it is ready, or register it "
        "edge-triggered."
    ),
    UNREAD: (
        "The descriptor is readable and is never read. Check for an 'elif' that handles another "
        "bit of the mask first, or for a paused reader: remove IN from its mask while it is "
        "paused."
    ),
    ERROR: (
        "ERR is reported until the error is read: read SO_ERROR, or make the call that fails, "
        "and close. For timestamps and zero-copy sends read the error queue (MSG_ERRQUEUE)."
    ),
    NO_DESCRIPTORS: (
        "The connection stays in the accept queue, and the listener stays readable. Unregister "
        "the listener until a descriptor is free, or keep a spare one to accept and close "
        "with; and raise the limit (ulimit -n)."
    ),
    NO_SLEEP: (
        "The wait has a timeout of 0. Pass the time until the next timer, or None; and round "
        "up, because epoll_wait turns less than a millisecond into 0."
    ),
}
"""What to change, by kind of spin."""


@dataclass(frozen=True)
class Finding:
    """One spin.

    Attributes
    ----------
    kind : str
        A key of :data:`ADVICE`.
    fd : int
        The descriptor; the epoll's own for a timeout of zero.
    conn : int
        Serial of the connection, 0 if it is none.
    n_events : int
        Consecutive events without effect; consecutive empty reads or empty waits where
        the spin consists of these.
    seconds : float
        From the first of them to the last.
    share : float
        Share of the recording's time, from 0 to 1.
    detail : str
        What was reported, and which calls were made.
    evidence : pandas.DataFrame
        The first rows, as :func:`epolllab.frames.events.events` gives them.
    """

    kind: str
    fd: int
    conn: int
    n_events: int
    seconds: float
    share: float
    detail: str
    evidence: pd.DataFrame

    @property
    def advice(self) -> str:
        """What to change."""
        return ADVICE[self.kind]

    def _where(self) -> str:
        return f"fd {self.fd}" + (f", connection {self.conn}" if self.conn else "")

    def _how_often(self) -> str:
        return f"{self.n_events:,} times in {self.seconds:.3g} s"

    def __repr__(self) -> str:
        return f"<Finding {self.kind} ({self._where()}): {self._how_often()}; {self.detail}>"

    def _repr_html_(self) -> str:
        columns = ["wake", "op", "fd", "mask_names", "n_bytes", "error"]
        rows = self.evidence[columns].astype(object)
        rows = rows.where(rows.notna(), "")
        card = html.card(
            self.kind,
            {
                "where": self._where(),
                "how often": f"{self._how_often()}, {self.share:.0%} of the recording",
                "found": self.detail,
                "change": self.advice,
            },
        )
        table = rows.to_html(index=False, border=0)
        return f"{card}<details><summary>evidence</summary>{table}</details>"


_COLUMNS: dict[str, Any] = {
    "kind": pd.CategoricalDtype(list(ADVICE)),
    "fd": "int32",
    "conn": "int32",
    "n_events": "int64",
    "seconds": "float64",
    "share": "float64",
    "detail": "str",
    "advice": "str",
}


@dataclass(frozen=True)
class Diagnosis:
    """The findings of :func:`diagnose`, the longest spin first."""

    findings: tuple[Finding, ...]
    n_events: int
    """Records examined."""

    @property
    def healthy(self) -> bool:
        """Whether no spin was found."""
        return not self.findings

    @property
    def kinds(self) -> list[str]:
        """The kinds found, each once, in the order of the findings."""
        return list(dict.fromkeys(finding.kind for finding in self.findings))

    def table(self) -> pd.DataFrame:
        """The findings as a frame.

        Returns
        -------
        pandas.DataFrame
            ``kind`` (category), ``fd``, ``conn`` (int32), ``n_events`` (int64),
            ``seconds``, ``share`` (float64), ``detail``, ``advice`` (str).
        """
        rows = [[getattr(finding, name) for name in _COLUMNS] for finding in self.findings]
        return pd.DataFrame(rows, columns=pd.Index(_COLUMNS)).astype(_COLUMNS)

    def __repr__(self) -> str:
        if self.healthy:
            return f"<Diagnosis: no spin in {self.n_events:,} events>"
        return "<Diagnosis\n  " + "\n  ".join(map(repr, self.findings)) + ">"

    def _repr_html_(self) -> str:
        if self.healthy:
            return html.card("No spin", {"events examined": f"{self.n_events:,}"})
        return "".join(finding._repr_html_() for finding in self.findings)


def diagnose(recording: Recording, *, least: int = 100) -> Diagnosis:
    """Find what makes a loop spin, from its recording.

    Use it when a loop uses a whole processor without progress, or in a test that a loop
    does not spin.

    Parameters
    ----------
    recording : Recording
        Of any loop: ``server.recording()``, an outcome's, or your own.
    least : int
        Minimum number of consecutive events without effect; 2 or more.

    Returns
    -------
    Diagnosis
        The findings, the longest first; each with its kind, evidence and advice.
        Empty for a loop that is busy without spinning.

    Notes
    -----
    A worker woken for a connection that another worker has accepted gets EAGAIN from
    accept; that is a thundering herd, not a spin, and is not reported.
    """
    if not isinstance(recording, Recording):
        raise TypeError(
            f"recording must be a Recording, not a {type(recording).__name__}; "
            "pass server.recording() or outcome.recording"
        )
    check_int("least", least, 2)
    array = recording.array()
    findings = [*_fd_findings(array, least), *_wait_findings(array, least)]
    findings.sort(key=lambda finding: -finding.n_events)
    return Diagnosis(tuple(findings), len(array))


def _fd_findings(array: "Records", least: int) -> Iterator[Finding]:
    """Examine each descriptor with enough records."""
    by_fd = np.flatnonzero(array["op"] != Op.WAIT)
    by_fd = by_fd[np.argsort(array["fd"][by_fd], kind="stable")]
    for places in np.split(by_fd, np.flatnonzero(np.diff(array["fd"][by_fd])) + 1):
        if len(places) >= least:
            yield from _longest_spin(array, places, least)


def _longest_spin(array: "Records", places: "Records", least: int) -> Iterator[Finding]:
    """Classify the longest run of events without effect on one descriptor."""
    rows = array[places]
    effects = np.concatenate(([0], np.cumsum(_has_effect(rows))))
    ready = np.flatnonzero(rows["op"] == Op.READY)
    if len(ready):
        ends = np.append(ready[1:], len(rows))
        first, last = _longest_run(effects[ends] == effects[ready])
        if last - first >= least:
            run = slice(ready[first], ends[last - 1])
            kind, detail = _classified(rows, run)
            if kind:
                yield _finding(kind, detail, array, places[run], last - first)
                return
    # An edge-triggered loop may read without end within one event.
    reads = np.flatnonzero(np.isin(rows["op"], (Op.RECV, Op.READ)) & (rows["result"] == 0))
    first, last = _longest_run(np.diff(effects[reads], prepend=-1, append=-1)[1:] == 0)
    if last - first >= least:
        run = slice(reads[first], reads[last - 1] + 1)
        detail = f"{last - first:,} consecutive empty reads"
        yield _finding(END_OF_FILE, detail, array, places[run], last - first)


def _has_effect(rows: "Records") -> "Records":
    """Whether each record changed the descriptor's readiness or interest."""
    op, result, mask = rows["op"], rows["result"], rows["mask"]
    moved = np.isin(op, (Op.RECV, Op.READ, Op.SEND, Op.WRITE)) & (result > 0)
    done = np.isin(op, (Op.REGISTER, Op.UNREGISTER, Op.CLOSE, Op.SHUTDOWN, Op.CONNECT)) & (
        result == 0
    )
    other = (op == Op.HANDLE) | ((op == Op.ACCEPT) & (result >= 0))
    # A modify to the same mask, as one-shot does after each event, changes nothing.
    interest = np.flatnonzero(np.isin(op, (Op.REGISTER, Op.MODIFY)) & (result == 0))
    changed = np.zeros(len(rows), bool)
    changed[interest] = np.diff(mask[interest].astype("i8"), prepend=-1) != 0
    effect: Records = moved | done | other | (changed & (op == Op.MODIFY))
    return effect


def _longest_run(flags: "Records") -> tuple[int, int]:
    """Start and end of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype("i1"), [0]))))
    if not len(edges):
        return 0, 0
    longest = int(np.argmax(edges[1::2] - edges[::2]))
    return int(edges[2 * longest]), int(edges[2 * longest + 1])


def _classified(rows: "Records", run: slice) -> tuple[str, str]:
    """Kind and detail of a run without effect; the kind is "" if it is not a spin."""
    part = rows[run]
    masks = part["mask"][part["op"] == Op.READY]
    mask = reduce(and_, np.unique(masks).tolist(), 0xFFFF_FFFF)  # bits common to all
    calls = part[part["op"] != Op.READY]
    return _kind(rows, run, mask, calls), f"{mask_names(mask)} each time; {_described(calls)}"


def _kind(rows: "Records", run: slice, mask: int, calls: "Records") -> str:
    accepts = calls[calls["op"] == Op.ACCEPT]
    if len(accepts):
        limits = (errno.ENFILE, errno.EMFILE, errno.ENOBUFS, errno.ENOMEM)
        return NO_DESCRIPTORS if np.isin(-accepts["result"], limits).any() else ""
    if (calls["op"] == Op.GETSOCKOPT).any():
        return ""  # read the accept queue's length; another worker took the connections
    if _is_closed(rows[: run.start]):
        return GHOST
    reads = calls[np.isin(calls["op"], (Op.RECV, Op.READ))]
    if (reads["result"] == 0).any():
        return END_OF_FILE
    if mask & EPOLLIN and len(reads) and (reads["result"] == -errno.EAGAIN).all():
        return GHOST
    if mask & EPOLLERR and not mask & EPOLLHUP:
        return ERROR
    if mask & EPOLLHUP and not mask & EPOLLIN:
        return HANG_UP
    if mask & EPOLLIN:
        return WAKE_UP if _is_wakeup(rows) else UNREAD
    return WRITABLE if mask & EPOLLOUT else UNREAD


def _is_closed(before: "Records") -> bool:
    """Whether the descriptor was closed and not registered again."""
    lives = before[np.isin(before["op"], (Op.REGISTER, Op.CLOSE)) & (before["result"] == 0)]
    return bool(len(lives) and lives["op"][-1] == Op.CLOSE)


def _is_wakeup(rows: "Records") -> bool:
    """Whether it looks like the loop's own: no connection, or written by the program."""
    op = rows["op"]
    written = (op == Op.WRITE).any() and not np.isin(op, (Op.RECV, Op.SEND)).any()
    return bool(rows["conn"].max() == 0 or written)


def _described(calls: "Records") -> str:
    if not len(calls):
        return "no call was made on it"
    names = ", ".join(sorted({Op(op).label for op in np.unique(calls["op"]).tolist()}))
    errors = sorted({-int(result) for result in calls["result"] if result < 0})
    failed = f", which failed with {', '.join(map(error_name, errors))}" if errors else ""
    return f"{names} changed nothing{failed}"


def _wait_findings(array: "Records", least: int) -> Iterator[Finding]:
    """Find consecutive waits with a timeout of 0 that returned nothing."""
    waits = np.flatnonzero(array["op"] == Op.WAIT)
    idle = (array["mask"][waits] == 0) & (array["result"][waits] == 0)
    first, last = _longest_run(idle)
    if last - first >= least:
        detail = f"{last - first:,} consecutive waits with a timeout of 0 returned nothing"
        yield _finding(NO_SLEEP, detail, array, waits[first:last], last - first)


def _finding(kind: str, detail: str, array: "Records", places: "Records", n_events: int) -> Finding:
    rows = array[places]
    span_ns = int(rows["end_ns"][-1] - rows["start_ns"][0])
    whole_ns = max(int(array["end_ns"].max() - array["start_ns"].min()), 1)
    return Finding(
        kind,
        int(rows["fd"][0]),
        int(rows["conn"][0]),
        n_events,
        span_ns / 1e9,
        span_ns / whole_ns,
        detail,
        Recording(rows[:EVIDENCE_ROWS].tobytes()).events(),
    )
