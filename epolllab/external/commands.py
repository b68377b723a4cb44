"""The commands ``epolllab inspect``, ``diagnose`` and ``observe``."""

import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from epolllab.analysis import diagnose
from epolllab.external.epolls import MOST_REPEATED, Inspection, inspect, processes_named
from epolllab.external.examine import examine
from epolllab.external.loops import observe
from epolllab.external.strace import read_strace
from epolllab.recording.recording import Recording

__all__ = ["HEALTHY", "NOT_EXAMINED", "SICK", "diagnose_target", "observe_program", "show_epolls"]

Say = Callable[[str], None]

HEALTHY, SICK, NOT_EXAMINED = 0, 1, 2
"""Exit status of ``epolllab diagnose``."""


def warn(line: str) -> None:
    """Write a line to the standard error output."""
    sys.stderr.write(f"{line}\n")


def pids_of(target: str) -> list[int]:
    """The process with a number, or all processes of a name."""
    if target.isdecimal():
        return [int(target)]
    found = [pid for pid in processes_named(target) if pid != os.getpid()]
    if not found:
        raise ProcessLookupError(f"no process is named {target!r}; give its number, or see ps -e")
    return found


def show_epolls(target: str, say: Say, *, watch: bool, as_json: bool, force: bool) -> int:
    """Say what the epolls of a process, or of all of a name, watch; once or every second."""
    while True:
        found = [one for pid in pids_of(target) if (one := _if_readable(pid, target))]
        if as_json:
            say(json.dumps([one.to_dict() for one in found]))
        else:
            say("\n\n".join(map(repr, found)))
        if not watch:
            return 0
        largest = max((n for one in found for n in one.epolls.values()), default=0)
        if largest > MOST_REPEATED and not force:
            raise ValueError(
                f"--watch reads an epoll with {largest:,} descriptors again and again, and each "
                "time the kernel holds its mutex; add --force if that does not matter"
            )
        time.sleep(1)
        say("")


def _if_readable(pid: int, target: str) -> Inspection | None:
    """An inspection; None if one of several processes has ended or belongs to others."""
    try:
        return inspect(pid)
    except OSError as error:
        if target.isdecimal():
            raise
        warn(f"{target}: {error}")
        return None


def diagnose_target(target: str, seconds: float, say: Say) -> int:
    """Judge a process by number or name, or a file: a recording or what strace wrote."""
    try:
        if target.isdecimal() or not Path(target).exists():
            found = [examine(pid, seconds) for pid in pids_of(target)]
            say("\n\n".join(map(repr, found)))
            return HEALTHY if all(one.healthy for one in found) else SICK
        judged = [diagnose(recording) for recording in _recordings(Path(target))]
    except (OSError, ValueError, RuntimeError) as error:
        warn(f"epolllab diagnose: {error}")
        return NOT_EXAMINED
    for diagnosis in judged:
        verdict = "nothing found" if diagnosis.healthy else "findings:"
        say(f"{diagnosis.n_events:,} events, {verdict}")
        for finding in diagnosis.findings:
            say(f"- {finding.kind}: {finding.sentence} {finding.advice}")
    return HEALTHY if all(one.healthy for one in judged) else SICK


def _recordings(path: Path) -> list[Recording]:
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    return [Recording.load(path)] if is_parquet else read_strace(path)


def observe_program(out: Path, arguments: Sequence[str]) -> int:
    """Run a script, or a module after ``-m``, and save what its loops did.

    Also if it raises, exits or is interrupted.
    """
    run = _program(arguments)
    seen = observe()
    try:
        with seen:
            run()
    finally:
        # Now, and not at exit of the interpreter, when pandas cannot be imported any more.
        recording = seen.recording()
        warn(f"epolllab: wrote {recording.save(out)}: {recording}")
        for note in seen.notes:
            warn(f"epolllab: {note}")
    return 0


def _program(arguments: Sequence[str]) -> Callable[[], object]:
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        sys.argv = list(arguments[1:])
        sys.path.insert(0, os.getcwd())
        return lambda: runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    if not arguments or arguments[0].startswith("-"):
        raise ValueError("give a script, or -m and a module: epolllab observe app.py")
    script = Path(arguments[0])
    if not script.is_file():
        raise FileNotFoundError(f"there is no script {script}")
    sys.argv = list(arguments)
    sys.path.insert(0, str(script.resolve().parent))
    return lambda: runpy.run_path(str(script), run_name="__main__")
