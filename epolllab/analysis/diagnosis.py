"""Name what keeps an event loop busy, from its recording.

A healthy loop does something about an event: it moves bytes, or accepts or closes a
connection, so that the descriptor stops being ready. Events about which nothing is done
keep the wait from sleeping: the loop spins, or does most of its work in vain. The masks
and the calls without effect show which mistake causes it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from epolllab.analysis.advice import ADVICE, LOST_ACCEPTS, NO_SLEEP, TIMER
from epolllab.analysis.wakeups import Waste, find_waste
from epolllab.checks import check_int
from epolllab.events import Op, error_name, mask_names
from epolllab.notebook import html
from epolllab.recording.recording import Recording

if TYPE_CHECKING:
    Records = np.ndarray[Any, np.dtype[Any]]

__all__ = ["ADVICE", "Diagnosis", "Finding", "diagnose"]

EVIDENCE_ROWS = 12


@dataclass(frozen=True)
class Finding:
    """One kind of waste, with its evidence.

    Attributes
    ----------
    kind : str
        A key of :data:`ADVICE`.
    fd : int
        The descriptor concerned most; the epoll's own for kinds of timeouts.
    conn : int
        Serial of its connection, 0 if it is none.
    n_events : int
        Events without effect; empty reads or empty waits where the waste consists of these.
    seconds : float
        From the first of them to the last.
    share : float
        Share of the recording's time in which they kept the loop awake, from 0 to 1: of a
        loop that does not wait for other things, its share of a CPU.
    detail : str
        What was reported, and which calls were made.
    evidence : pandas.DataFrame
        The first rows, as :func:`epolllab.frames.events.events` gives them.
    of_events : int
        Events of these descriptors in all; of kinds of timeouts, the waits.
    fds : tuple of int
        All descriptors concerned.
    name : str
        What `fd` is, from the mapping given to :func:`diagnose`; "" if it is not known.
    """

    kind: str
    fd: int
    conn: int
    n_events: int
    seconds: float
    share: float
    detail: str
    evidence: pd.DataFrame
    of_events: int
    fds: tuple[int, ...]
    name: str = ""

    @property
    def advice(self) -> str:
        """What to change."""
        return ADVICE[self.kind]

    @property
    def sentence(self) -> str:
        """The finding in a sentence, with its numbers."""
        what = "waits" if self.kind in (NO_SLEEP, TIMER) else "events"
        return (
            f"{self.n_events:,} of {max(self.of_events, self.n_events):,} {what} of "
            f"{self._where()} did nothing and took {self.share:.0%} of the time: {self.detail}."
        )

    def _where(self) -> str:
        where = f"fd {self.fd}" + (f", connection {self.conn}" if self.conn else "")
        where += f" ({self.name})" if self.name else ""
        others = len(self.fds) - 1
        return where + (f" and {others:,} other{'s' if others > 1 else ''}" if others else "")

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
                "how often": f"{self._how_often()}, {self.share:.0%} of the recording's time",
                "found": self.sentence,
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
    """The findings of :func:`diagnose`, the one that takes most time first."""

    findings: tuple[Finding, ...]
    n_events: int
    """Records examined."""

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
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


def diagnose(
    recording: Recording, *, least: int = 100, names: Mapping[int, str] | None = None
) -> Diagnosis:
    """Find what makes a loop spin or work in vain, from its recording.

    Use it when a loop uses a processor without progress, or in a test that a loop does
    not spin.

    Parameters
    ----------
    recording : Recording
        Of any loop: ``server.recording()``, an outcome's, or your own. Records of several
        threads are told apart by their ``thread``; of several processes, diagnose each.
    least : int
        Minimum number of wasted events or waits of a kind; 2 or more.
    names : mapping of int to str, optional
        What descriptors are, such as ``{7: "udp 127.0.0.1:53"}``: findings show it, and a
        name that begins with ``udp``, ``eventfd`` or ``pipe`` decides doubtful cases. By
        default those that ``trace`` and ``read_strace`` found.

    Returns
    -------
    Diagnosis
        A finding for each kind of waste, the one that takes most of the time first, with
        a sentence, evidence and advice. Empty for a loop that is busy without waste.

    Notes
    -----
    An event is wasted if no call made progress (bytes moved, a connection accepted or
    closed), the next wait did not sleep, and the descriptor was reported again; `least` of
    these in a row are reported, or a third of a descriptor's events. Two kinds are no
    spins: accept races that are lost to other workers, and timers that expire more than
    250 times a second.

    Whether a wait slept is judged by its duration: five times that of the quickest tenth,
    at least 20 and at most 200 µs. Under strace, which makes waits up to 80 µs longer, it
    is 200 µs.
    """
    if not isinstance(recording, Recording):
        raise TypeError(
            f"recording must be a Recording, not a {type(recording).__name__}; "
            "pass server.recording() or outcome.recording"
        )
    check_int("least", least, 2)
    if names is not None and not isinstance(names, Mapping):
        raise TypeError(f"names must map descriptors to names, not {names!r:.80}")
    array = recording.array()
    if not len(array):
        return Diagnosis((), 0)
    source = {
        "own": "lifecycle" in recording.metadata,
        "traced": recording.metadata.get("source") == "strace",
    }
    if names is None:
        names = _names_in(recording.metadata.get("fd_names"))
    found = [_finding(one, array, names) for one in find_waste(array, least, names, **source)]
    found.sort(key=lambda finding: (-finding.share, -finding.n_events))
    return Diagnosis(tuple(found), len(array))


def _names_in(value: Any) -> dict[int, str]:
    """The descriptors' names in a file's metadata, which may hold anything."""
    named = value.items() if isinstance(value, Mapping) else ()
    return {int(fd): str(name) for fd, name in named if re.fullmatch(r"\d{1,10}", str(fd))}


def _finding(waste: Waste, array: "Records", names: Mapping[int, str]) -> Finding:
    """Describe one kind of waste by the descriptor that has most of it."""
    rows = array[waste.at]
    fds, counts = np.unique(rows["fd"], return_counts=True)
    fd = int(fds[np.argmax(counts)])
    of_fd = waste.at[rows["fd"] == fd]
    first, last = int(of_fd[0]), int(of_fd[-1])
    evidence, detail = of_fd, _described_waits(rows)
    if waste.kind not in (NO_SLEEP, TIMER):
        following = np.append(of_fd[1:], min(last + EVIDENCE_ROWS, len(array)))
        evidence = _with_calls(array, fd, of_fd, following)
        detail = _described(array[evidence], waste.kind)
    whole_ns = max(int(array["end_ns"].max() - array["start_ns"].min()), 1)
    return Finding(
        kind=waste.kind,
        fd=fd,
        conn=int(array["conn"][first]),
        n_events=len(waste.at),
        seconds=int(rows["end_ns"].max() - rows["start_ns"].min()) / 1e9,
        share=min(waste.cost_ns / whole_ns, 1.0),
        detail=detail,
        evidence=Recording(array[evidence[:EVIDENCE_ROWS]].tobytes()).events(),
        of_events=waste.of_events,
        fds=tuple(fds.tolist()),
        name=names.get(fd, ""),
    )


def _with_calls(array: "Records", fd: int, at: "Records", until: "Records") -> "Records":
    """Places of the rows `at`, and of the descriptor's calls up to its next event."""
    first, last = int(at[0]), int(until[-1])
    places = first + np.flatnonzero(array["fd"][first:last] == fd)
    own = np.isin(places, at)
    starts = own | (array["op"][places] == Op.READY)
    latest = np.maximum.accumulate(np.where(starts, np.arange(len(places)), 0))
    kept: Records = places[own[latest] & (array["op"][places] != Op.WAIT)]
    return kept


def _described(rows: "Records", kind: str) -> str:
    """The bits common to the wasted events, and the calls made between them."""
    if kind == LOST_ACCEPTS:
        return "another worker had accepted the connection"
    ready = rows["op"] == Op.READY
    mask = reduce(and_, np.unique(rows["mask"][ready]).tolist(), 0xFFFF_FFFF)
    shown = f"{mask_names(mask)} each time; " if ready.any() and mask else ""
    calls = rows[~ready]
    if not len(calls):
        return f"{shown}no call was made on it"
    names = ", ".join(sorted({Op(op).label for op in np.unique(calls["op"]).tolist()}))
    errors = np.unique(-calls["result"][calls["result"] < 0]).tolist()
    failed = f", which failed with {', '.join(map(error_name, errors))}" if errors else ""
    return f"{shown}{names} changed nothing{failed}"


def _described_waits(waits: "Records") -> str:
    """How often the waits, or a timer's events, came."""
    per_s = 1e9 / max(float(np.median(np.diff(waits["end_ns"]))), 1.0)
    if (waits["op"] == Op.READY).all():
        return f"it expired {per_s:,.0f} times a second"
    timeout = f"a timeout of {np.median(waits['mask']) / 1000:g} ms"
    return f"{timeout} returned nothing, {per_s:,.0f} times a second"
