"""``examine()``: inspect a process, trace it for a moment, and say what is wrong with it."""

import time
from dataclasses import dataclass

from epolllab.analysis import Diagnosis, Finding, diagnose
from epolllab.checks import check_int, check_number
from epolllab.external.attach import MOST_SECONDS, trace
from epolllab.external.epolls import FINDINGS, Inspection, inspect
from epolllab.kernel import cpu_time_ns
from epolllab.notebook import html
from epolllab.recording import Recording

__all__ = ["Examination", "examine"]

SAMPLE_S = 0.3
"""How long the process is watched before strace slows it down."""


@dataclass(frozen=True)
class Examination:
    """What :func:`examine` found."""

    inspection: Inspection
    cpu_share: float
    """CPU time over time, before strace was attached."""
    recording: Recording | None
    """The trace; None if the process did not wait for events meanwhile."""
    diagnosis: Diagnosis | None
    note: str = ""
    """Why there is no trace."""

    @property
    def healthy(self) -> bool:
        """Whether neither the inspection nor the trace found anything."""
        return self.inspection.healthy and (self.diagnosis is None or self.diagnosis.healthy)

    def sentences(self) -> list[str]:
        """One sentence for each finding, with its evidence and what to do."""
        found = []
        traced = list(self.diagnosis.findings) if self.diagnosis else []
        for row in self.inspection.findings.itertuples():
            # What was traced on a descriptor is evidence of what is wrong with it.
            own = [finding for finding in traced if finding.fd == row.fd]
            traced = [finding for finding in traced if finding.fd != row.fd]
            words = [f"fd {row.fd} ({row.what}): {row.finding}.", _capital(str(row.detail))]
            words += [_capital(finding.sentence) for finding in own]
            found.append(" ".join([*words, FINDINGS[str(row.finding)]]))
        return found + [_sentence(finding) for finding in traced]

    def __repr__(self) -> str:
        found = self.sentences() or [self._nothing()]
        return "\n".join([self._heading(), *(f"- {text}" for text in found)])

    def _repr_html_(self) -> str:
        found = [html.text(text, "error") for text in self.sentences()]
        return html.box(self._heading(), *(found or [html.text(self._nothing(), "success")]))

    def _heading(self) -> str:
        of = f"{self.inspection.command} (pid {self.inspection.pid}), {self.cpu_share:.0%} of a CPU"
        return of + (f"; {self.note}" if self.note else "")

    def _nothing(self) -> str:
        n = f" in {self.diagnosis.n_events:,} events" if self.diagnosis else ""
        return f"nothing found{n}, and nothing in its interest lists"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(finding: Finding) -> str:
    return f"{finding.kind}: {finding.sentence} {finding.advice}"


def examine(pid: int, seconds: float = 1.0) -> Examination:
    """Inspect a process, record it with strace for a moment, and judge both.

    Parameters
    ----------
    pid : int
        As for :func:`trace`, whose errors it has.
    seconds : float
        How long to trace.
    """
    check_int("pid", pid, 1)
    check_number("seconds", seconds, most=MOST_SECONDS, above=0, unit="seconds")
    found = inspect(pid)
    before, begin = cpu_time_ns(pid), time.monotonic_ns()
    time.sleep(SAMPLE_S)
    share = (cpu_time_ns(pid) - before) / (time.monotonic_ns() - begin)
    try:
        recording = trace(pid, seconds)
    except ValueError as error:
        if not str(error).startswith(f"pid {pid} has no"):
            raise
        return Examination(found, share, None, None, "no wait ended while it was traced")
    return Examination(found, share, recording, diagnose(recording))
