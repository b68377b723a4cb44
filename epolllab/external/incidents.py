"""A flight recorder: the recent past of a loop is saved when it spins or is blocked."""

import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from epolllab.analysis import diagnose
from epolllab.checks import check_fields, check_int, check_number, check_path
from epolllab.recording import Recording

__all__ = ["SaveWhen", "Watchdog"]


@dataclass(frozen=True)
class SaveWhen:
    """When :func:`observe` saves its ring, and where.

    Parameters
    ----------
    blocked_s : float, optional
        A callback or task step takes longer than this. The stack is stored while it runs,
        so the line is known and not only the callback.
    wakeups_per_s : int, optional
        The loop wakes up more often, and ``diagnose`` finds waste in it.
    folder : path-like
        For the files; made if it does not exist.
    every_s : float
        No more than one file in this time.
    """

    blocked_s: float | None = 0.1
    wakeups_per_s: int | None = 1_000
    folder: Any = "incidents"
    every_s: float = 60.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            {
                "blocked_s": lambda n, v: _or_none(check_number, n, v, 0.001, 3600),
                "wakeups_per_s": lambda n, v: _or_none(check_int, n, v, 1),
                "folder": check_path,
                "every_s": lambda n, v: check_number(n, v, 0, unit="seconds"),
            },
        )


def _or_none(check: Any, name: str, value: Any, *bounds: float) -> Any:
    return None if value is None else check(name, value, *bounds)


class _Observed(Protocol):
    """The part of an Observation that is watched."""

    threads: dict[int, Any]
    names: list[str]
    saved: list[Path]
    notes: list[str]

    def recording(self) -> Recording: ...


class Watchdog:
    """A thread that looks at the loops a few times in `blocked_s`."""

    def __init__(self, when: SaveWhen, seen: _Observed) -> None:
        self._when, self._seen = when, seen
        self._end = threading.Event()
        self._last = -1e9
        self._stacks: dict[int, tuple[int, dict[str, Any]]] = {}
        self._wakes: dict[int, int] = {}
        self._looked = time.monotonic()
        Path(when.folder).mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="epolllab-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; an incident that is not over is saved as it is."""
        self._end.set()
        self._thread.join()
        for _, incident in self._stacks.values():
            self._save(incident)

    def _run(self) -> None:
        pause = min((self._when.blocked_s or 0.4) / 4, 0.1)
        while not self._end.wait(pause):
            for thread in list(self._seen.threads.values()):
                if self._when.blocked_s is not None:
                    self._look_at_callback(thread)
            if self._when.wakeups_per_s is not None:
                self._look_for_spin()

    def _look_at_callback(self, thread: Any) -> None:
        running = thread.running
        known = self._stacks.get(thread.ident)
        if known and (running is None or running[0] != known[0]):
            del self._stacks[thread.ident]
            self._save(known[1])
        elif known:
            known[1]["blocked_s"] = (time.monotonic_ns() - known[0]) / 1e9
        elif running and time.monotonic_ns() - running[0] > (self._when.blocked_s or 0) * 1e9:
            frame = sys._current_frames().get(thread.ident)
            incident = {
                "kind": "blocked",
                "callback": self._seen.names[running[1]],
                "blocked_s": (time.monotonic_ns() - running[0]) / 1e9,
                "stack": traceback.format_stack(frame) if frame else [],
            }
            self._stacks[thread.ident] = running[0], incident

    def _look_for_spin(self) -> None:
        now = time.monotonic()
        if now - self._looked < 1:
            return
        wakes = {thread.ident: thread.recorder.wake for thread in self._seen.threads.values()}
        more = [wakes[ident] - self._wakes.get(ident, 0) for ident in wakes]
        rate = max(more, default=0) / (now - self._looked)
        self._wakes, self._looked = wakes, now
        if rate <= (self._when.wakeups_per_s or 0) or now - self._last < self._when.every_s:
            return
        found = diagnose(self._seen.recording())
        if not found.healthy:
            sentences = [finding.sentence for finding in found.findings]
            self._save({"kind": "spin", "wakeups_per_s": round(rate), "findings": sentences})

    def _save(self, incident: dict[str, Any]) -> None:
        if time.monotonic() - self._last < self._when.every_s:
            return
        self._last = time.monotonic()
        name = time.strftime(f"{incident['kind']}-%Y%m%d-%H%M%S.parquet")
        recording = self._seen.recording()
        whole = Recording(
            recording.rows, {**recording.metadata, "incident": incident}, recording.overwritten
        )
        try:
            self._seen.saved.append(whole.save(Path(self._when.folder, name)))
        except OSError as error:
            with suppress(AttributeError):
                self._seen.notes.append(f"an incident was not saved: {error}")
