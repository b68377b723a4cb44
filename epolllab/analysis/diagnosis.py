"""The doctor for a loop that takes a whole processor: it names the spin, from the record.

One job: look at the records of any loop and find descriptors that the kernel reports
again and again while nothing comes of it. It needs no live process, and knows nothing
of servers.

The sign of a spin
------------------
A healthy loop does something with an event: bytes are moved, a connection is accepted
or closed, the interest is changed. Then the kernel has a reason less to report it. A
descriptor that is *ready* a hundred times in a row, and nothing comes of it a hundred
times, is what keeps the wait from sleeping. Which mistake it is can be told from the
masks and from the calls that came to nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from html import escape
from operator import and_
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from epolllab.checks import check_int
from epolllab.events import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, Op, error_name, mask_names
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
ERROR = "error never taken"
NO_DESCRIPTORS = "accept without a descriptor left"
NO_SLEEP = "timeout of zero"

ADVICE = {
    WRITABLE: (
        "An idle socket is nearly always writable. Ask for OUT only while a send has come back "
        "short or with EAGAIN, and take it out of the mask when all is sent; or register it "
        "edge-triggered once."
    ),
    HANG_UP: (
        "HUP and ERR are reported whatever the mask, also with mask 0. Unregister the "
        "descriptor and close it."
    ),
    END_OF_FILE: (
        "A recv that returns no bytes is the end, and it stays readable for ever. Unregister "
        "and close at the first empty read; do not look for EAGAIN after it."
    ),
    GHOST: (
        "The number was closed while a duplicate of it lived (dup, a forked or started process, a "
        "descriptor being sent). Unregister before closing, open descriptors close-on-exec, and "
        "find who holds the other one; the entry goes when that is closed, or with the epoll."
    ),
    WAKE_UP: (
        "Read the eventfd or pipe to empty it when it is ready, or register it edge-triggered."
    ),
    UNREAD: (
        "The descriptor is readable and nobody reads it. Look for an 'elif' that takes another "
        "bit of the mask first, or for a paused reader: take IN out of its mask for so long."
    ),
    ERROR: (
        "ERR is reported until the error is taken: ask for SO_ERROR, or make the call that fails, "
        "and close. For time stamps and zero-copy sends read the error queue (MSG_ERRQUEUE)."
    ),
    NO_DESCRIPTORS: (
        "The connection stays in the queue, and the listener readable. Take the listener's "
        "interest away until a descriptor is free, or keep one in reserve to accept and close "
        "with; and raise the limit (ulimit -n)."
    ),
    NO_SLEEP: (
        "The wait was told not to wait. Give it the time until the next timer, or None; and "
        "round up, since less than a millisecond is 0 to epoll_wait."
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
        The descriptor; the epoll itself for a timeout of zero.
    conn : int
        Serial of the connection, 0 if it is none.
    n_events : int
        Events in a row of which nothing came; empty reads or empty waits where the
        spin is one of these.
    seconds : float
        From the first of them to the last.
    share : float
        Part of the recording's time that this is, from 0 to 1.
    detail : str
        What was reported, and what was tried.
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

    def __repr__(self) -> str:
        who = f"fd {self.fd}" + (f", conn {self.conn}" if self.conn else "")
        return (
            f"<Finding {self.kind} ({who}): {self.n_events:,} times in {self.seconds:.3g} s; "
            f"{self.detail}>"
        )


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found; the worst first."""

    findings: tuple[Finding, ...]
    n_events: int
    """Records looked at."""

    @property
    def healthy(self) -> bool:
        """Whether no spin was found."""
        return not self.findings

    @property
    def kinds(self) -> list[str]:
        """The kinds found, each once, the worst first."""
        return list(dict.fromkeys(finding.kind for finding in self.findings))

    def table(self) -> pd.DataFrame:
        """The findings as a frame.

        Returns
        -------
        pandas.DataFrame
            ``kind`` (category), ``fd``, ``conn`` (int32), ``n_events`` (int64),
            ``seconds``, ``share`` (float64), ``detail``, ``advice`` (str).
        """
        found = self.findings
        return pd.DataFrame(
            {
                "kind": pd.Categorical([f.kind for f in found], list(ADVICE)),
                "fd": pd.array([f.fd for f in found], dtype="int32"),
                "conn": pd.array([f.conn for f in found], dtype="int32"),
                "n_events": pd.array([f.n_events for f in found], dtype="int64"),
                "seconds": pd.array([f.seconds for f in found], dtype="float64"),
                "share": pd.array([f.share for f in found], dtype="float64"),
                "detail": pd.array([f.detail for f in found], dtype="str"),
                "advice": pd.array([f.advice for f in found], dtype="str"),
            }
        )

    def __repr__(self) -> str:
        if self.healthy:
            return f"<Diagnosis: no spin in {self.n_events:,} events>"
        return "<Diagnosis\n  " + "\n  ".join(map(repr, self.findings)) + ">"

    def _repr_html_(self) -> str:
        if self.healthy:
            return (
                "<div style='display:inline-block;padding:8px 14px;border:1px solid "
                "var(--jp-border-color2,#ccc);border-radius:4px'><b style='color:"
                "var(--jp-success-color0,#1b7837)'>No spin</b> in "
                f"{self.n_events:,} events: each was followed by something.</div>"
            )
        return "".join(map(_card, self.findings))


def _card(finding: Finding) -> str:
    columns = ["wake", "op", "fd", "mask_names", "n_bytes", "error"]
    rows = finding.evidence[columns].astype(object).where(finding.evidence[columns].notna(), "")
    return (
        "<div style='padding:8px 14px;margin:0 0 8px;max-width:60em;border:1px solid "
        "var(--jp-border-color2,#ccc);border-radius:4px'><b style='color:"
        f"var(--jp-error-color0,#b3261e)'>{escape(finding.kind)}</b> &nbsp; fd {finding.fd}"
        f"{f', connection {finding.conn}' if finding.conn else ''}: {finding.n_events:,} times in "
        f"{finding.seconds:.3g} s, {finding.share:.0%} of the recording"
        f"<div>{escape(finding.detail)}</div><div style='margin:4px 0'><i>Change:</i> "
        f"{escape(finding.advice)}</div><details><summary>evidence</summary>"
        f"{rows.to_html(index=False, border=0)}</details></div>"
    )


def diagnose(recording: Recording, *, least: int = 100) -> Diagnosis:
    """Name what makes a loop spin, from its recording alone.

    Use it when a loop takes a whole processor and serves nobody, or as a check that
    one does not.

    Parameters
    ----------
    recording : Recording
        Of any loop: ``server.recording()``, an outcome's, or one's own.
    least : int
        Events in a row without effect that make a spin.

    Returns
    -------
    Diagnosis
        The findings, the longest first; each with its kind, its evidence and what to
        change. None for a loop that is merely busy.

    Raises
    ------
    TypeError, ValueError
        `recording` is none, or `least` is not a whole number of 2 or more.

    Notes
    -----
    A worker that is woken for a connection which another has taken finds EAGAIN at
    accept; that is a herd, not a spin, and is not reported.
    """
    if not isinstance(recording, Recording):
        raise TypeError(
            f"diagnose() looks at a Recording, not at a {type(recording).__name__}; "
            "server.recording() and outcome.recording are such"
        )
    check_int("least", least, 2)
    array = recording.array()
    findings = [*_of_descriptors(array, least), *_of_waits(array, least)]
    findings.sort(key=lambda finding: -finding.n_events)
    return Diagnosis(tuple(findings), len(array))


def _of_descriptors(array: "Records", least: int) -> Iterator[Finding]:
    """Look at each descriptor that was ready or read often enough to matter."""
    places = np.flatnonzero(array["op"] != Op.WAIT)
    places = places[np.argsort(array["fd"][places], kind="stable")]
    fds = array["fd"][places]
    if not len(fds):
        return
    starts = np.flatnonzero(np.diff(fds, prepend=-2))
    for start, stop in zip(starts, [*starts[1:], len(fds)], strict=True):
        if stop - start < least:
            continue
        mine = places[start:stop]
        finding = _of_one(array, mine, least)
        if finding is not None:
            yield finding


def _of_one(array: "Records", mine: "Records", least: int) -> Finding | None:
    """Find the longest run without effect on one descriptor, and what it is."""
    rows = array[mine]
    effects = np.concatenate(([0], np.cumsum(_has_effect(rows))))
    ready = np.flatnonzero(rows["op"] == Op.READY)
    if len(ready):
        ends = np.append(ready[1:], len(rows))
        first, last = _longest_run(effects[ends] == effects[ready])
        if last - first >= least:
            run = slice(ready[first], ends[last - 1])
            kind, detail = _named(rows, run)
            if kind:
                return _finding(kind, detail, array, mine[run], last - first)
    empty = _is_empty_read(rows)
    reads = np.flatnonzero(empty)
    # An edge-triggered loop may read for ever within one event.
    first, last = _longest_run(np.diff(effects[reads], prepend=-1, append=-1)[1:] == 0)
    if last - first >= least:
        run = slice(reads[first], reads[last - 1] + 1)
        detail = f"{last - first:,} empty reads in a row"
        return _finding(END_OF_FILE, detail, array, mine[run], last - first)
    return None


def _has_effect(rows: "Records") -> "Records":
    """Whether each record changed anything that the kernel reports by."""
    op, result, mask = rows["op"], rows["result"], rows["mask"]
    moved = np.isin(op, (Op.RECV, Op.READ, Op.SEND, Op.WRITE)) & (result > 0)
    done = np.isin(op, (Op.REGISTER, Op.UNREGISTER, Op.CLOSE, Op.SHUTDOWN, Op.CONNECT)) & (
        result == 0
    )
    other = (op == Op.HANDLE) | ((op == Op.ACCEPT) & (result >= 0))
    # A modify to the same mask, as one-shot does after each event, is no news.
    interest = np.flatnonzero(np.isin(op, (Op.REGISTER, Op.MODIFY)) & (result == 0))
    changed = np.zeros(len(rows), bool)
    changed[interest] = np.diff(mask[interest].astype("i8"), prepend=-1) != 0
    effect: Records = moved | done | other | (changed & (op == Op.MODIFY))
    return effect


def _is_empty_read(rows: "Records") -> "Records":
    empty: Records = np.isin(rows["op"], (Op.RECV, Op.READ)) & (rows["result"] == 0)
    return empty


def _longest_run(flags: "Records") -> tuple[int, int]:
    """First and one past the last place of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype("i1"), [0]))))
    if not len(edges):
        return 0, 0
    longest = int(np.argmax(edges[1::2] - edges[::2]))
    return int(edges[2 * longest]), int(edges[2 * longest + 1])


def _named(rows: "Records", run: slice) -> tuple[str, str]:
    """Say which mistake a run without effect is: its kind and a sentence; "" for none."""
    part = rows[run]
    masks = part["mask"][part["op"] == Op.READY]
    mask = reduce(and_, np.unique(masks).tolist(), 0xFFFF_FFFF)  # what all have in common
    tried = part[part["op"] != Op.READY]
    errors = sorted({-int(result) for result in tried["result"] if result < 0})
    detail = f"{mask_names(mask)} each time; {_tries(tried, errors)}"
    return _kind(rows, run, mask, tried), detail


def _kind(rows: "Records", run: slice, mask: int, tried: "Records") -> str:
    accepts = tried[tried["op"] == Op.ACCEPT]
    if len(accepts):
        lacking = np.isin(-accepts["result"], (23, 24, 105, 12))  # ENFILE EMFILE ENOBUFS ENOMEM
        return NO_DESCRIPTORS if lacking.any() else ""
    if (tried["op"] == Op.GETSOCKOPT).any():
        return ""  # a listener was asked how many wait, and another has taken them
    if _is_closed(rows[: run.start]):
        return GHOST
    reads = tried[np.isin(tried["op"], (Op.RECV, Op.READ))]
    if (reads["result"] == 0).any():
        return END_OF_FILE
    if mask & EPOLLIN and (reads["result"] == -11).all() and len(reads):
        return GHOST
    if mask & EPOLLERR and not mask & EPOLLHUP:
        return ERROR
    if mask & EPOLLHUP and not mask & EPOLLIN:
        return HANG_UP
    if mask & EPOLLIN:
        return WAKE_UP if _is_wakeup(rows) else UNREAD
    return WRITABLE if mask & EPOLLOUT else UNREAD


def _is_closed(before: "Records") -> bool:
    """Whether the last that was heard of the number is that it was closed."""
    lives = before[np.isin(before["op"], (Op.REGISTER, Op.CLOSE)) & (before["result"] == 0)]
    return bool(len(lives) and lives["op"][-1] == Op.CLOSE)


def _is_wakeup(rows: "Records") -> bool:
    """Whether it looks like the loop's own: no connection, or written to by the program."""
    op = rows["op"]
    written = (op == Op.WRITE).any() and not np.isin(op, (Op.RECV, Op.SEND)).any()
    return bool(rows["conn"].max() == 0 or written)


def _tries(tried: "Records", errors: Sequence[int]) -> str:
    if not len(tried):
        return "no call was made for it"
    made = ", ".join(sorted({Op(op).label for op in np.unique(tried["op"]).tolist()}))
    failed = f", which failed with {', '.join(map(error_name, errors))}" if errors else ""
    return f"{made} changed nothing{failed}"


def _of_waits(array: "Records", least: int) -> Iterator[Finding]:
    """Find waits in a row that returned nothing because they were not to wait."""
    waits = np.flatnonzero(array["op"] == Op.WAIT)
    idle = (array["mask"][waits] == 0) & (array["result"][waits] == 0)
    first, last = _longest_run(idle)
    if last - first >= least:
        detail = f"{last - first:,} waits in a row with a timeout of 0 returned nothing"
        yield _finding(NO_SLEEP, detail, array, waits[first:last], last - first)


def _finding(kind: str, detail: str, array: "Records", places: "Records", n_events: int) -> Finding:
    """Make a finding of the records at `places`."""
    rows = array[places]
    span_ns = int(rows["end_ns"][-1] - rows["start_ns"][0])
    whole_ns = max(int(array["end_ns"].max() - array["start_ns"].min()), 1)
    evidence = Recording(rows[:EVIDENCE_ROWS].tobytes()).events()
    return Finding(
        kind,
        int(rows["fd"][0]),
        int(rows["conn"][0]),
        n_events,
        span_ns / 1e9,
        span_ns / whole_ns,
        detail,
        evidence,
    )
