"""``run_clients(executor=...)``: one share of the load in each worker of an executor.

A worker runs its share in a child process, as the caller does without an executor, so that
the engine's own threads do not compete with the load for the interpreter lock.
"""

import time
from concurrent.futures import Executor, ProcessPoolExecutor

from epolllab import kernel
from epolllab.child import START_S
from epolllab.clients.executors import SILENT_S, Interrupts, ShowProgress, run_in_processes
from epolllab.clients.loop import ROW
from epolllab.clients.meeting import CallerLine, Guest, Invitation, Meeting
from epolllab.clients.options import SPARE_DESCRIPTORS, Share
from epolllab.clients.part import Part, lost_part
from epolllab.recording import environment
from epolllab.workers import Outcome, Tasks, worker_count

__all__ = ["MOST_SHARES", "check_shares", "run_in_workers"]

MOST_SHARES = 256
POLL_S = 0.05
LOST_S = 3.0
"""How long after a worker's end its task may still report why."""

RESULT_S = 120.0
"""How long the rows of a share that is done may take to come home."""


def check_shares(executor: Executor, shares: int | None, connections: int) -> int:
    """Return the number of shares; if it is not given, one for each worker and connection."""
    n_workers = worker_count(executor)
    if shares is None:
        if not n_workers:
            raise ValueError(
                f"shares must be given, because {type(executor).__name__} has no workers yet, or "
                "does not say how many"
            )
        return min(n_workers, connections, MOST_SHARES)
    if isinstance(executor, ProcessPoolExecutor) and n_workers and shares > n_workers:
        raise ValueError(
            f"shares={shares} is more than the executor's {n_workers} workers; all shares run at "
            "the same time, each in a worker of its own"
        )
    if shares > connections:
        raise ValueError(
            f"shares={shares} is more than connections={connections}: each share needs at least "
            "one connection"
        )
    return shares


def run_in_workers(
    executor: Executor, shares: list[Share], show: ShowProgress | None, interrupts: Interrupts
) -> list[Part]:
    """Run each share in a worker; shares that are lost become parts of failed rows.

    Raises
    ------
    RuntimeError
        A share failed before the load, or all were lost.
    TimeoutError
        Not all shares had started by the deadline.
    """
    with Meeting(shares[0].options.target) as meeting:
        guests = meeting.guests
        arguments = [(meeting.invitation, share) for share in shares]
        with Tasks(executor, run_share, arguments) as tasks:
            _gather(meeting, tasks, len(shares), interrupts)
            meeting.start()
            interrupts.loading = True
            outcomes = _collect(meeting, tasks, show, interrupts)
    parts = [_part(share, outcomes[share.process], guests[share.process]) for share in shares]
    if all(part.lost for part in parts):
        raise RuntimeError("no rows came home: " + "; ".join(part.lost for part in parts))
    return parts


def run_share(argument: tuple[Invitation, Share]) -> Part:
    """Run one share in a worker."""
    invitation, share = argument
    record = share.options.record
    facts = environment.collect(recorder_cost_ns=None if record else 0.0)
    with (
        CallerLine(invitation, share.process) as line,
        kernel.raise_descriptor_limit(share.n_connections + SPARE_DESCRIPTORS),
    ):
        (part,) = run_in_processes([share], line.show, line, line.start_ns)
        line.done(len(part.rows) // ROW.size)
    return part._replace(environment={**facts, **environment.at_end()})


def _gather(meeting: Meeting, tasks: Tasks, n: int, interrupts: Interrupts) -> None:
    """Wait until every share has started and is ready."""
    deadline = time.monotonic() + START_S
    while sum(guest.is_ready for guest in meeting.guests.values()) < n:
        interrupts.deliver()
        for outcome in tasks.finished(0):
            raise _failed_before(outcome)
        if twice := [guest for guest in meeting.guests.values() if guest.was_refused]:
            raise RuntimeError(
                f"executor started share {twice[0].number} twice. It must run each task once, on "
                "one worker: in ipyparallel use a load-balanced view, client.executor()"
            )
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"executor has started {len(meeting.guests)} of {n} shares within {START_S:g} s. "
                "All run at the same time, each in a worker of its own: use fewer shares, "
                "more workers, or workers that are not busy"
            )
        meeting.poll(POLL_S)


def _failed_before(outcome: Outcome) -> RuntimeError:
    where = f" on {outcome.host.host}" if outcome.host else ""
    error = RuntimeError(
        f"share {outcome.number}{where} failed before the load, so nothing was sent: "
        f"{outcome.error}"
    )
    if outcome.traceback:
        error.add_note(outcome.traceback)
    return error


def _collect(
    meeting: Meeting, tasks: Tasks, show: ShowProgress | None, interrupts: Interrupts
) -> dict[int, Outcome]:
    """Wait until every share has its outcome."""
    outcomes: dict[int, Outcome] = {}
    while tasks.pending:
        if interrupts.end_the_load():
            meeting.end()
        meeting.poll(POLL_S)
        found = tasks.finished(0)
        for number in tasks.pending:
            if reason := _overdue(meeting.guests[number]):
                found.append(tasks.give_up(number, reason))
        outcomes |= {outcome.number: outcome for outcome in found}
        if show:
            show(sum(guest.n_rows for guest in meeting.guests.values()))
    # A result may arrive before the connection's last message.
    deadline = time.monotonic() + LOST_S
    succeeded = [meeting.guests[number] for number in outcomes if not outcomes[number].error]
    while not all(guest.is_done or guest.lost for guest in succeeded):
        meeting.poll(POLL_S)
        if time.monotonic() > deadline:
            break
    return outcomes


def _overdue(guest: Guest) -> str:
    """Why nothing more is expected of a worker; empty as long as something is."""
    silent_s = time.monotonic() - guest.heard_s
    if guest.lost and silent_s > LOST_S:
        return "its worker died"
    if guest.is_done and silent_s > RESULT_S:
        return f"its rows did not come home within {RESULT_S:g} s"
    if not guest.lost and not guest.is_done and silent_s > SILENT_S:
        return f"its worker has sent nothing for {SILENT_S:g} s"
    return ""


def _part(share: Share, outcome: Outcome, guest: Guest) -> Part:
    """The part that a worker returned, or failed rows in its place."""
    reason = outcome.error
    if guest.lost and guest.was_refused:
        reason = "its worker died, and the engine started it again, which was refused"
    if not reason:
        part: Part = outcome.value
        n_rows = len(part.rows) // ROW.size
        if (part.facts.process, n_rows) == (share.process, guest.n_rows):
            return part._replace(host=guest.host, clock_error_ns=guest.clock_error_ns)
        reason = f"{n_rows:,} rows came home, and it had counted {guest.n_rows:,}"
    reason = f"share {share.process} on {guest.where} lost after {guest.n_rows:,} rows: {reason}"
    return lost_part(share, guest.n_rows, guest.start_ns, guest.host, reason)
