"""``compare(before, after)``: what a change did to a server, or to the clients of one."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from epolllab.analysis.diagnosis import Finding, diagnose
from epolllab.analysis.statistics import percentile
from epolllab.checks import shown
from epolllab.events import Op
from epolllab.frames.columns import NO_CALL_OPS
from epolllab.notebook import html
from epolllab.recording import environment
from epolllab.recording.recording import Recording

if TYPE_CHECKING:
    Floats = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Comparison", "compare", "percentile_interval"]

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}

N_BLOCKS = 20
"""Consecutive parts of the requests that count as independent of each other."""

_FEWEST_IN_A_BLOCK = 10
_NORMAL, _STUDENT = 1.960, 2.093  # two-sided, 95 %; the second with N_BLOCKS - 1 degrees

_SYSTEM_CALLS = "system calls"
_CHANGES = ("slower", "faster", "not clear")

_OPTIONS = (
    "poller", "trigger", "lifecycle", "protocol", "handler", "drain", "recv_size", "max_events",
    "accept", "backlog", "send_buffer", "recv_buffer", "nodelay", "cork", "max_connections",
    "process", "capacity", "connections", "requests", "duration", "rate", "keep_alive",
    "path", "payload_bytes", "processes", "where", "source_addresses", "script", "executor",
    "kernel", "cpu", "cpus", "python", "platform",
)  # fmt: skip
"""Metadata that explain a difference, as far as they differ."""


def percentile_interval(values: "Floats", p: float) -> tuple[float, float, float]:
    """A percentile with the ends of a 95 % interval; `values` are in the order of time.

    The share of values at or below the percentile is estimated in `N_BLOCKS` consecutive
    parts, so that a stall which delays many requests in a row counts once; the interval of
    that share gives that of the percentile (Woodruff, *Confidence intervals for medians and
    other position measures*, 1952). An end beyond the values there are is missing.
    """
    known = values[~np.isnan(values)]
    n, share, middle = len(known), p / 100, percentile(values, p)
    if math.isnan(middle):
        return math.nan, math.nan, math.nan
    error = _NORMAL * math.sqrt(share * (1 - share) / n)
    if n >= N_BLOCKS * _FEWEST_IN_A_BLOCK:
        parts = [part.mean() for part in np.array_split(known <= middle, N_BLOCKS)]
        of_parts = float(np.std(parts, ddof=1)) / math.sqrt(N_BLOCKS)
        error = max(error, _STUDENT * of_parts)
    ranks = math.ceil(n * (share - error)) - 1, math.ceil(n * (share + error)) - 1
    ends = [float(np.partition(known, r)[r]) if 0 <= r < n else math.nan for r in ranks]
    return middle, ends[0], ends[1]


class _Side:
    """What is compared: a Run, or a server's recording."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.is_run = hasattr(source, "recordings")
        self.recordings: list[Recording] = source.recordings() if self.is_run else [source]
        self.metadata = source.metadata
        frame = source.requests()
        self.n_requests = len(frame)
        column = frame["latency_ns" if self.is_run else "dur_ns"]
        self.latency: Floats = column.to_numpy(dtype=float, na_value=np.nan)
        ends = ("intended_ns", "done_ns") if self.is_run else ("woken_ns", "handled_ns")
        span_ns = frame[ends[1]].max() - frame[ends[0]].min() if len(frame) else 0
        self.seconds = math.nan if pd.isna(span_ns) or not span_ns else float(span_ns) / 1e9

    @cached_property
    def counts(self) -> dict[str, int]:
        """Records of each operation, then errors, then all system calls."""
        counts, errors = Counter[str](), Counter[str]()
        for recording in self.recordings:
            counts.update(recording.counts())
            errors.update(recording.errors())
        none = {op.label for op in NO_CALL_OPS if op is not Op.WAIT}
        if self.metadata.get("poller") in ("poll", "select"):  # their table is in the process
            none |= {op.label for op in (Op.REGISTER, Op.MODIFY, Op.UNREGISTER)}
        calls = sum(n for label, n in counts.items() if label not in none)
        return {_SYSTEM_CALLS: calls, **counts, **errors}

    @cached_property
    def findings(self) -> dict[str, Finding]:
        """Of each kind the one that takes the most time."""
        every = [one for recording in self.recordings for one in diagnose(recording).findings]
        return {one.kind: one for one in sorted(every, key=lambda one: one.share)}

    @property
    def notes(self) -> list[str]:
        """What must be known of the numbers."""
        if self.is_run:
            return list(self.source.notes)
        lost, throttled = self.source.overwritten, environment.throttled(self.metadata)
        notes = [f"{lost:,} events were overwritten, and are not counted"] if lost else []
        return notes + ([f"{throttled}, which the durations include"] if throttled else [])


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` returns; a notebook shows it as tables and sentences.

    Attributes
    ----------
    totals : pandas.DataFrame
        ``what``: requests, seconds from the first to the last, and requests_per_s; ``before``,
        ``after``, ``ratio`` (float64).
    counts : pandas.DataFrame
        A row for all system calls, each operation, and each error such as ``"recv EAGAIN"``:
        ``what`` (str), ``before``, ``after`` (int64), ``before_per_request``,
        ``after_per_request`` (float64, NaN without requests), and ``ratio``, after over
        before: per request, or of the counts where there are no requests.
    latency : pandas.DataFrame
        A row for each of p50, p90, p99 and p99.9: ``what`` (str); ``before`` and ``after`` in
        nanoseconds, each with ``_low`` and ``_high``, the ends of its 95 % interval (float64;
        NaN where there are too few requests for it); ``ratio``; and ``change`` (category):
        ``"slower"`` or ``"faster"`` where the intervals do not overlap, ``"not clear"`` where
        they do, missing where one is not known.
    circumstances : dict
        Options and facts that differ: name to (before, after).
    gone, new, still : tuple of str
        Findings of :func:`diagnose`, and notes on the numbers: of `before` only, of `after`
        only, and kinds of findings of both, with their shares of the time.
    """

    totals: pd.DataFrame
    counts: pd.DataFrame
    latency: pd.DataFrame
    circumstances: Mapping[str, tuple[Any, Any]]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    still: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """What differs, in sentences: circumstances, latency, findings."""
        found = [f"{n}: {b!r} before, {a!r} after." for n, (b, a) in self.circumstances.items()]
        for row in _rows(self.latency.dropna(subset=["change"])):
            if row.change != "not clear":
                was, now = _micros(row.before), _micros(row.after)
                found.append(f"{row.what} is {row.change}: {was} before, {now} after.")
        found += [f"No longer: {sentence}" for sentence in self.gone]
        found += [f"New: {sentence}" for sentence in self.new]
        return found + [f"Still: {sentence}" for sentence in self.still]

    def _tables(self) -> Iterator[tuple[list[str], list[list[str]]]]:
        """Head and cells of each table as text."""
        totals = [
            [str(row.what), *map(_number, (row.before, row.after, row.ratio))]
            for row in _rows(self.totals)
        ]
        yield ["", "before", "after", "ratio"], totals
        latency = [
            [str(r.what), _micros(r.before), _span(r.before_low, r.before_high), _micros(r.after),
             _span(r.after_low, r.after_high), _number(r.ratio),
             "" if pd.isna(r.change) else str(r.change)]
            for r in _rows(self.latency)
        ]  # fmt: skip
        yield ["latency", "before", "95 %", "after", "95 %", "ratio", ""], latency
        counts = [
            [str(r.what), f"{r.before:,}", f"{r.after:,}", _number(r.before_per_request),
             _number(r.after_per_request), _number(r.ratio)]
            for r in _rows(self.counts)
        ]  # fmt: skip
        yield ["counts", "before", "after", "a request before", "after", "ratio"], counts

    def __repr__(self) -> str:
        blocks = [_aligned([head, *cells]) for head, cells in self._tables()]
        return "\n\n".join([*blocks, "\n".join(self.sentences)]).rstrip()

    def _repr_html_(self) -> str:
        tables = (html.table(head, cells) for head, cells in self._tables())
        return html.box("Before and after", html.text("\n".join(self.sentences)), *tables)


def compare(before: Any, after: Any) -> Comparison:
    """Compare two servers, recordings or client runs: counts, latency, and findings.

    Parameters
    ----------
    before, after : Server, Recording or Run
        Both of the server's side, or both runs. Of a server's side, latency is ``dur_ns`` of
        ``requests()``: from the wakeup with the request's last bytes to the send of the
        response's last byte. Of a run it is ``latency_ns``: from when a request was due to
        its response.

    Returns
    -------
    Comparison
        ``totals``, ``counts``, ``latency`` and ``sentences``.

    Raises
    ------
    TypeError
        `before` or `after` is none of these, or one is a run and the other is not.

    Notes
    -----
    Percentiles have intervals; counts have none. One comparison of two runs says nothing
    about how runs differ by chance: repeat both in turns if it matters.

    Examples
    --------
    >>> import epolllab
    >>> from epolllab.analysis import compare
    >>> recordings = []
    >>> for trigger in ("level", "edge"):
    ...     with epolllab.start_server(trigger=trigger) as server:
    ...         run = epolllab.run_clients(server, requests=100, progress=False)
    ...     recordings.append(server.recording())
    >>> compare(*recordings).circumstances["trigger"]
    ('level', 'edge')
    """
    first, second = _source("before", before), _source("after", after)
    if hasattr(first, "recordings") != hasattr(second, "recordings"):
        kind = "a Run" if hasattr(first, "recordings") else "a Server or a Recording"
        raise TypeError(
            f"after must be {kind}, as before is, not {shown(after)}: latency is measured "
            "differently by clients and by a server"
        )
    was, now = _Side(first), _Side(second)
    gone, new, still = _sentences(was, now)
    return Comparison(
        _totals(was, now), _counts(was, now), _latency(was, now), _circumstances(was, now),
        gone, new, still,
    )  # fmt: skip


def _source(name: str, value: Any) -> Any:
    """A Run or a Recording as it is; the recording of anything that makes one."""
    made = value
    is_class = isinstance(value, type)
    if not is_class and not isinstance(value, Recording) and not hasattr(value, "recordings"):
        make = getattr(value, "recording", None)
        made = make() if callable(make) else make
    if is_class or not (isinstance(made, Recording) or hasattr(made, "recordings")):
        raise TypeError(f"{name} must be a Server, a Run or a Recording, not {shown(value)}")
    return made


def _totals(was: _Side, now: _Side) -> pd.DataFrame:
    rows: dict[str, Callable[[_Side], float]] = {
        "requests": lambda side: side.n_requests,
        "seconds": lambda side: side.seconds,
        "requests_per_s": lambda side: side.n_requests / side.seconds,
    }
    table = [(name, float(of(was)), float(of(now))) for name, of in rows.items()]
    frame = pd.DataFrame(table, columns=pd.Index(["what", "before", "after"]))
    frame["ratio"] = _ratio(frame["after"], frame["before"])
    return frame.astype({"what": "str"})


def _counts(was: _Side, now: _Side) -> pd.DataFrame:
    labels = list({**was.counts, **now.counts})
    order = {label: place for place, label in enumerate([_SYSTEM_CALLS, *(op.label for op in Op)])}
    labels.sort(key=lambda label: order.get(label, len(order)))
    frame = pd.DataFrame({"what": pd.array(labels, dtype="str")})
    for name, side in (("before", was), ("after", now)):
        frame[name] = np.array([side.counts.get(label, 0) for label in labels], dtype="i8")
    for name, side in (("before", was), ("after", now)):
        frame[f"{name}_per_request"] = frame[name] / (side.n_requests or math.nan)
    per_request = _ratio(frame["after_per_request"], frame["before_per_request"])
    has_requests = was.n_requests and now.n_requests
    frame["ratio"] = per_request if has_requests else _ratio(frame["after"], frame["before"])
    return frame


def _latency(was: _Side, now: _Side) -> pd.DataFrame:
    rows = [
        (name, *percentile_interval(was.latency, p), *percentile_interval(now.latency, p))
        for name, p in PERCENTILES.items()
    ]
    ends = [f"{side}{end}" for side in ("before", "after") for end in ("", "_low", "_high")]
    frame = pd.DataFrame(rows, columns=pd.Index(["what", *ends])).astype({"what": "str"})
    frame["ratio"] = _ratio(frame["after"], frame["before"])
    is_known = frame[ends].notna().all(axis=1)
    slower = frame["after_low"] > frame["before_high"]
    faster = frame["after_high"] < frame["before_low"]
    code: Any = np.select([slower, faster, is_known], [0, 1, 2], -1)
    frame["change"] = pd.Categorical.from_codes(code, pd.Index(_CHANGES))
    return frame


def _ratio(over: "pd.Series[Any]", under: "pd.Series[Any]") -> "pd.Series[float]":
    """NaN where the second is 0."""
    ratio: pd.Series[float] = over / under.where(under != 0)
    return ratio


def _circumstances(was: _Side, now: _Side) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (was.metadata.get(name), now.metadata.get(name)) for name in _OPTIONS}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _sentences(was: _Side, now: _Side) -> tuple[tuple[str, ...], ...]:
    """Findings and notes of `was` only, of `now` only, and kinds of findings of both."""
    before, after = was.findings, now.findings
    still = [
        f"{kind}, {before[kind].share:.0%} of the time before and {after[kind].share:.0%} after"
        for kind in after
        if kind in before
    ]
    gone = [one.sentence for kind, one in before.items() if kind not in after]
    new = [one.sentence for kind, one in after.items() if kind not in before]
    gone += _without(was.notes, now.notes)
    new += _without(now.notes, was.notes)
    return tuple(gone), tuple(new), tuple(still)


def _without(notes: Iterable[str], others: Iterable[str]) -> list[str]:
    """The notes that differ from all others in more than numbers."""

    def words(note: str) -> str:
        return re.sub(r"\d[\d,.]*", "", note)

    known = set(map(words, others))
    return [f"{note}." for note in notes if words(note) not in known]


# ---- text -------------------------------------------------------------------------------


def _rows(frame: pd.DataFrame) -> Any:
    return frame.itertuples()


def _number(value: float) -> str:
    """Three significant digits, whole from 1,000 on; nothing where it is missing."""
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def _micros(ns: float) -> str:
    """A time in microseconds."""
    return "" if math.isnan(ns) else f"{_number(ns / 1e3)} µs"


def _span(low: float, high: float) -> str:
    """The ends of an interval."""
    if math.isnan(low) and math.isnan(high):
        return ""
    return f"{_number(low / 1e3) or '?'} to {_number(high / 1e3) or '?'}"


def _aligned(rows: list[list[str]]) -> str:
    """Rows of text in columns, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)
