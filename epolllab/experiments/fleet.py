"""The same experiment once on each worker of an executor, and one frame of all of them."""

import sys
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from epolllab.analysis.hosts import ENVIRONMENT, RUN
from epolllab.analysis.result import Result
from epolllab.checks import check_int
from epolllab.experiments.rounds import Layout
from epolllab.experiments.workers.remote import Measured, Request, perform_once
from epolllab.workers import Host, Outcome, check_executor, run_numbered, worker_count

__all__ = ["Failure", "Fleet", "Run", "check_workers", "run_on_workers"]

PATIENCE_S = 30.0
"""How long to offer a run that only workers take which have run already.

An engine may be starting a successor of a worker that died.
"""

PAUSE_S = 0.2


@dataclass(frozen=True)
class Run:
    """What one worker measured, and where."""

    host: Host
    measured: Measured


@dataclass(frozen=True)
class Failure:
    """A run without a result: the reason, and where if that is known."""

    reason: str
    host: Host | None = None


@dataclass
class Fleet:
    """The runs of one experiment on several workers; failed ones have the last numbers."""

    runs: list[Run] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.runs) + len(self.failures)

    def add(self, outcome: Outcome) -> None:
        """Add a run or a failure; nothing for a worker that had run it already."""
        if outcome.error:
            self.failures.append(Failure(outcome.error, outcome.host))
        elif outcome.value is not None and outcome.host is not None:
            self.runs.append(Run(outcome.host, outcome.value))

    def frame(self, columns: Mapping[str, Any], text: str = "category") -> pd.DataFrame:
        """The rows of all runs with these dtypes, and the columns that identify the run.

        `text` is the dtype of the columns with names.
        """
        dtypes: dict[Any, Any] = {**columns, "worker": "int32", **dict.fromkeys(ENVIRONMENT, text)}
        parts = [
            _read(run.measured.table).assign(worker=number, **environment_of(run.host))
            for number, run in enumerate(self.runs)
        ]
        parts = [part.astype(dict(columns)) for part in parts]
        whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        whole = whole.reindex(columns=list(dtypes)).astype(dtypes)
        whole.attrs = self.attrs()
        return whole

    def attrs(self) -> dict[Any, Any]:
        """The circumstances of every run, the notes, and the failures, for JSON."""
        return {
            "circumstances": {"runs": self.circumstances()},
            "interrupted": self.interrupted,
            "notes": self.notes(),
            "failures": self.described_failures(),
        }

    def result(self, name: str, layout: Layout) -> Result:
        """The rows as a Result, whose variants are those of each worker."""
        runs = self.circumstances()
        costs = [facts["clock_cost_ns"] for facts in runs.values() if facts.get("clock_cost_ns")]
        circumstances = {
            "experiment": name,
            "runs": runs,
            "clock_cost_ns": max(costs, default=None),
            "interrupted": self.interrupted,
            "notes": self.notes(),
            "failures": self.described_failures(),
        }
        frame = self.frame(layout.columns)
        by = (*RUN, *layout.by)
        return Result(name, frame, circumstances, by, layout.values, layout.x)

    def circumstances(self) -> dict[str, dict[str, Any]]:
        """The circumstances of each run by the worker's number, a string as in JSON."""
        return {str(number): run.measured.circumstances for number, run in enumerate(self.runs)}

    def described_failures(self) -> list[dict[str, Any]]:
        """The failures as plain data."""
        first = len(self.runs)
        return [
            {"worker": number, **environment_of(failure.host), "reason": failure.reason}
            for number, failure in enumerate(self.failures, first)
        ]

    def notes(self) -> list[str]:
        """Sentences about failures, disturbed runs and an interrupt, and the runs' own notes."""
        failures = self.described_failures()
        notes = [f"worker {one['worker']} failed: {one['reason']}" for one in failures]
        notes += [
            f"the runs of workers {a} and {b} overlapped on one machine, which disturbs both"
            for a, b in combinations(range(len(self.runs)), 2)
            if _overlap(self.runs[a], self.runs[b])
        ]
        if self.interrupted:
            notes.append(f"interrupted after {len(self.runs)} workers; runs on others go on there")
        return notes + [
            f"worker {number}: {note}"
            for number, run in enumerate(self.runs)
            for note in run.measured.notes
        ]


def environment_of(host: Host | None) -> dict[str, str]:
    """The columns that say where a run was; empty where that is not known."""
    return {column: getattr(host, column, "") for column in ENVIRONMENT}


def _read(table: bytes) -> pd.DataFrame:
    import pyarrow as pa

    frame: pd.DataFrame = pa.ipc.open_stream(table).read_pandas()
    return frame


def _overlap(one: Run, other: Run) -> bool:
    a, b = one.measured, other.measured
    same = one.host.boot_id and one.host.boot_id == other.host.boot_id
    return bool(same) and a.started_ns < b.ended_ns and b.started_ns < a.ended_ns


def check_workers(executor: Any, workers: Any) -> tuple[Executor, int]:
    """Return the executor and the number of runs, by default one for each of its workers."""
    if executor is None:
        raise ValueError("workers needs an executor, whose workers it counts; give executor, too")
    chosen = check_executor("executor", executor)
    known = worker_count(executor)
    if workers is None:
        if known is None:
            raise ValueError(
                f"workers must be given, since a {type(executor).__name__} does not say how many "
                "it has"
            )
        if not known:
            raise ValueError("executor must have workers, and has none now; start some, and wait")
        return chosen, known
    check_int("workers", workers, 1)
    if known is not None and workers > known:
        raise ValueError(
            f"workers must be at most {known}, the number that the executor has, not {workers}: "
            "each of them runs the experiment once"
        )
    return chosen, int(workers)


def run_on_workers(
    executor: Executor | None,
    workers: int | None,
    function: str,
    options: Mapping[str, Any],
    *,
    progress: bool,
    phenomena: bytes = b"",
) -> Fleet:
    """Run a function of :mod:`epolllab.experiments` once in each of `workers` workers.

    `options` are checked before. A failure is warned of (RuntimeWarning). RuntimeError if no
    worker has a result.
    """
    chosen, n_runs = check_workers(executor, workers)
    fleet = Fleet()
    request = Request(uuid.uuid4().hex, function, dict(options), phenomena)
    with tqdm(total=n_runs, desc=function, unit="worker", disable=not progress) as bar:

        def keep(outcome: Outcome) -> None:
            fleet.add(outcome)
            bar.update(len(fleet) - bar.n)

        try:
            _offer(chosen, request, n_runs, fleet, keep)
        except KeyboardInterrupt:
            fleet.interrupted = True
    fleet.runs.sort(key=lambda run: (run.host.host, run.host.kernel, run.host.python, run.host.pid))
    failures = fleet.described_failures()
    if not fleet.runs and not fleet.interrupted:
        reasons = "; ".join(dict.fromkeys(failure["reason"] for failure in failures))
        raise RuntimeError(f"{function}: no worker has a result: {reasons}")
    for failure in failures:
        words = f"worker {failure['worker']} failed: {failure['reason']}"
        warnings.warn(words, RuntimeWarning, stacklevel=_levels_to_caller())
    return fleet


def _levels_to_caller() -> int:
    """The stack level of the code that called this package, for a warning raised one up."""
    frame, level = sys._getframe(1), 1
    while frame.f_globals["__name__"].startswith("epolllab.") and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    return level


def _offer(
    executor: Executor,
    request: Request,
    n_runs: int,
    fleet: Fleet,
    keep: Callable[[Outcome], object],
) -> None:
    """Submit a task for each run, and again those that came to a worker that had one already."""
    deadline = None
    while (missing := n_runs - len(fleet)) > 0:
        run_numbered(executor, perform_once, [request] * missing, on_outcome=keep)
        if n_runs - len(fleet) < missing:
            deadline = None
            continue
        deadline = deadline or time.monotonic() + PATIENCE_S
        if time.monotonic() > deadline:
            reason = (
                f"no other worker took this run within {PATIENCE_S:g} s: each runs it once, and "
                "the executor gives tasks to fewer workers than it says it has"
            )
            fleet.failures += [Failure(reason)] * missing
        time.sleep(PAUSE_S)
