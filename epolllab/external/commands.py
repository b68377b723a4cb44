"""The commands ``epolllab inspect``, ``diagnose`` and ``observe``."""

import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

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
        found = _inspected(target)
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
        if not as_json:
            say("")


def _inspected(target: str) -> list[Inspection]:
    """An inspection of each process that may be read; raise OSError if none may."""
    if target.isdecimal():
        return [inspect(int(target))]
    found, refused = [], None
    for pid in pids_of(target):
        try:
            found.append(inspect(pid))
        except ProcessLookupError:  # it has ended since
            continue
        except OSError as error:
            refused = error
            warn(f"{target}: {error}")
    if not found:
        raise refused or ProcessLookupError(f"all processes named {target!r} have ended")
    return found


def diagnose_target(target: str, seconds: float, say: Say) -> int:
    """Judge a process by number or name, or a file: a recording or what strace wrote."""
    try:
        # A program may be run from the folder that its file is in: its process is meant.
        is_name = os.sep not in target and processes_named(target)
        if target.isdecimal() or is_name or not Path(target).is_file():
            return _judge_processes(target, seconds, say)
        return _judge_file(target, say)
    except (OSError, ValueError, RuntimeError) as error:
        is_missing = isinstance(error, ProcessLookupError) and not target.isdecimal()
        hint = ", and there is no such file" if is_missing else ""
        warn(f"epolllab diagnose: {error}{hint}")
        return NOT_EXAMINED


def _judge_processes(target: str, seconds: float, say: Say) -> int:
    """Judge all of a name; those that fail do not keep the others from being judged."""
    statuses, pids = [], pids_of(target)
    for pid in pids:
        try:
            found = examine(pid, seconds)
        except (OSError, ValueError, RuntimeError) as error:
            if len(pids) == 1:
                raise
            warn(f"{target}: {error}")
            statuses.append(NOT_EXAMINED)
        else:
            say(repr(found))
            statuses.append(HEALTHY if found.healthy else SICK)
    return SICK if SICK in statuses else max(statuses)


def _judge_file(name: str, say: Say) -> int:
    recordings = _recordings(Path(name))
    healthy = True
    for recording in recordings:
        diagnosis = diagnose(recording)
        healthy &= diagnosis.healthy
        which = f"process {recording.metadata.get('pid')}: " if len(recordings) > 1 else ""
        verdict = "nothing found" if diagnosis.healthy else "findings:"
        say(f"{which}{diagnosis.n_events:,} events, {verdict}")
        for finding in diagnosis.findings:
            say(f"- {finding.kind}: {finding.sentence} {finding.advice}")
    for note in _gaps(recordings[0].metadata):
        warn(f"{name}: {note}")
    return HEALTHY if healthy else SICK


def _gaps(metadata: Mapping[str, Any]) -> Iterator[str]:
    """What a recording read from a log says is missing in it."""
    if n := metadata.get("n_strange"):
        first = "".join(metadata.get("strange", ())[:1])
        yield f"{n:,} lines are not understood; the first: {first}"
    if n := metadata.get("n_cut"):
        yield f"strace left out {n:,} ready descriptors; run it with -e abbrev=none"
    if n := metadata.get("n_unmapped"):
        yield f"{n:,} events are of descriptors that were registered before the log begins"


def _recordings(path: Path) -> list[Recording]:
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    return [Recording.load(path)] if is_parquet else read_strace(path)


# ---- observe ------------------------------------------------------------------------------


def observe_program(out: Path, arguments: Sequence[str]) -> int:
    """Run a script, or a module after ``-m``, and save what its loops did.

    Also if it raises, exits or is interrupted. An exception is shown as Python shows it.
    """
    target = _writable(out)
    run = _program(arguments)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    seen, pid = observe(), os.getpid()
    try:
        with seen:
            run()
    except Exception as error:
        error.with_traceback(_own_frames(error.__traceback__))
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    finally:
        # Now, and not at exit of the interpreter, when pandas cannot be imported any more.
        recording = seen.recording()
        if os.getpid() != pid:  # a forked child that goes on with the program
            target = target.with_stem(f"{target.stem}-{os.getpid()}")
        warn(f"epolllab: wrote {recording.save(target)}: {recording}")
        for note in seen.notes:
            warn(f"epolllab: {note}")
    return 0


def _writable(out: Path) -> Path:
    """The absolute path, since the program may change its folder; raise if it is no use."""
    target = out.absolute()
    if target.is_dir() or not os.access(target.parent, os.W_OK | os.X_OK):
        why = "is a folder" if target.is_dir() else "is in no folder that can be written to"
        raise ValueError(f"--out {out} {why}, so nothing was run; name a file")
    return target


def _program(arguments: Sequence[str]) -> Callable[[], object]:
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        sys.argv = list(arguments[1:])
        sys.path.insert(0, os.getcwd())
        if find_spec(arguments[1].partition(".")[0]) is None:
            raise ValueError(f"there is no module {arguments[1]}")
        return lambda: runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    if not arguments or arguments[0].startswith("-"):
        raise ValueError("give a script, or -m and a module: epolllab observe app.py")
    script = Path(arguments[0])
    if not script.is_file():
        raise FileNotFoundError(f"there is no script {script}")
    sys.argv = list(arguments)
    sys.path.insert(0, str(script.resolve().parent))
    return lambda: runpy.run_path(str(script), run_name="__main__")


def _own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback from the program's first frame on."""
    ours = (__file__, runpy.__file__, "<frozen runpy>")
    while traceback and traceback.tb_frame.f_code.co_filename in ours:
        traceback = traceback.tb_next
    return traceback
