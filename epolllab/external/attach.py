"""``trace()``: attach strace to a process for a moment, and read what it wrote."""

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from epolllab.checks import check_int, check_number
from epolllab.external.epolls import Inspection, inspect
from epolllab.external.strace import Reader, recordings
from epolllab.kernel import cpu_time_ns, proc
from epolllab.recording import environment, layout
from epolllab.recording.recording import Recording
from epolllab.recording.storage import local_path

__all__ = ["trace"]

MOST_SECONDS = 600
ATTACH_S = 10.0
_CALLS = (
    "epoll_wait,epoll_pwait,epoll_pwait2,epoll_ctl,poll,ppoll,select,pselect6,io_uring_enter,"
    "accept,accept4,connect,socket,recvfrom,recvmsg,recvmmsg,sendto,sendmsg,sendmmsg,shutdown,"
    "close,read,readv,write,writev,sendfile,setsockopt,getsockopt,clone,clone3,fork,vfork"
)
_OPTIONS = ("-f", "-ttt", "-T", "-e", "abbrev=none", "-s", "0", "-e", "signal=none")
_OWN = "; inside this interpreter use epolllab.observe(), or trace from another process"


def trace(
    pid: int, seconds: float = 1.0, *, record_to: str | os.PathLike[str] | None = None
) -> Recording:
    """Record the event loop of any process from outside, with strace.

    Parameters
    ----------
    pid : int
        The process. Its threads are recorded too; processes that it forks are not.
    seconds : float
        How long, 600 at most. strace detaches at the end, and on any error.
    record_to : path-like, optional
        A new or an empty folder for all rows; :func:`epolllab.recording.open` reads it. What
        is returned has the last four million, which without it are the only ones.

    Returns
    -------
    Recording
        As from :func:`read_strace`, on this machine's monotonic clock, with the
        descriptors' names in ``metadata["fd_names"]`` and the overhead in
        ``metadata["overhead"]``: CPU time of the process and of strace while attached.

    Raises
    ------
    FileNotFoundError
        strace is not installed.
    FileExistsError
        The folder `record_to` is not empty. Other OSErrors: it cannot be written to.
    PermissionError
        The process belongs to another user, is traced already, or may not be traced here.
    ProcessLookupError
        There is no such process, or it ended before strace had attached.
    TimeoutError
        strace could not attach within ten seconds.
    ValueError
        It is this process or a kernel thread, or it did not wait for events meanwhile.

    Notes
    -----
    strace stops the process twice at each call: nginx takes 6 to 7 times the CPU while it
    is attached. A wait that is under way when strace attaches or detaches may end with EINTR;
    a poll goes on as restart_syscall(2), which does not say what it waited for, and is missing.
    """
    check_int("pid", pid, 1)
    check_number("seconds", seconds, most=MOST_SECONDS, above=0, unit="seconds")
    folder = None if record_to is None else local_path(record_to, "record_to")
    if pid == os.getpid():
        raise ValueError(f"pid {pid} is this process, which would wait for itself{_OWN}")
    found = inspect(pid)
    path = shutil.which("strace")
    if path is None:
        raise FileNotFoundError(errno.ENOENT, "strace is not installed: apt install strace")
    facts = {**environment.collect(), "source": "strace", "log": f"pid {pid}", "pid": pid}
    if folder is None:
        return _traced(path, pid, seconds, found, facts, None)
    is_new = layout.claim("record_to", folder, facts)
    try:
        return _traced(path, pid, seconds, found, facts, folder)
    except BaseException:
        layout.release(folder, is_new=is_new)
        raise


def _traced(
    path: str,
    pid: int,
    seconds: float,
    found: Inspection,
    facts: dict[str, Any],
    stored: Path | None,
) -> Recording:
    tids = set(proc.threads(pid))
    with tempfile.TemporaryDirectory(prefix="epolllab-") as folder:
        log = Path(folder, "log")
        before, offset = _cpu_ns(pid), _wall_offset_ns()
        command = [path, *_OPTIONS, "-e", f"trace={_CALLS}", "-o", str(log)]
        with _attached(command, pid, Path(folder, "messages")) as strace:
            begin = time.monotonic()
            looks = [found]
            with suppress(OSError):  # it has ended
                looks.append(inspect(pid))  # what is registered from now on, strace shows
            with suppress(subprocess.TimeoutExpired):
                strace.wait(max(begin + seconds - time.monotonic(), 0))
            used = {
                "seconds": seconds,
                "process_cpu_ns": _since(before, _cpu_ns(pid)),
                "strace_cpu_ns": _cpu_ns(strace.pid),
            }
        facts["wall_clock_step_ns"] = _wall_offset_ns() - offset
        facts["overhead"] = used
        with Path(folder, "rows").open("w+b") as file:
            reader = _reader(looks, offset, file if stored else None)
            with log.open(encoding="utf-8", errors="replace") as lines:
                reader.read(lines)
            recording = _of_process(recordings(reader, facts), tids | {pid}, looks)
            if stored:
                _store(reader, recording, stored)
    return recording


def _store(reader: Reader, recording: Recording, folder: Path) -> None:
    """Store all rows of the process that the recording is of."""
    for pieces, facts in reader.finished():
        if facts["tids"] == recording.metadata["tids"]:
            try:
                layout.store(folder, pieces(), recording.metadata)
            except OSError as error:  # what was traced must not be lost
                warnings.warn(f"record_to has not all rows: {error}", RuntimeWarning, stacklevel=4)


def _of_process(made: list[Recording], tids: set[int], looks: list[Inspection]) -> Recording:
    """The recording of the process asked for, with the names of its descriptors."""
    mine = [one for one in made if tids & set(one.metadata["tids"])] or made
    names = {str(fd): name for look in looks for fd, name in look.names().items()}
    facts = {"fd_names": names, "pid": looks[0].pid, "clock": "monotonic"}
    return Recording(mine[0].rows, {**mine[0].metadata, **facts}, mine[0].overwritten)


def _reader(looks: list[Inspection], offset_ns: int, file: BinaryIO | None) -> Reader:
    """A reader that knows what was registered before."""
    frame = pd.concat([look.frame for look in looks])
    known = zip(*(frame[name].tolist() for name in ("epfd", "fd", "data")), strict=True)
    talking = frame["what"].str.contains("ESTABLISHED|CLOSE_WAIT|^unix", regex=True)
    return Reader(offset_ns, known, frame["fd"][talking].tolist(), file)


@contextmanager
def _attached(command: list[str], pid: int, said: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """strace, attached to the process; it detaches when the block ends.

    Its messages go to a file: it has one for each process that is forked, and would stop with
    all of them when a pipe is full.
    """
    with (
        said.open("wb") as messages,
        subprocess.Popen(
            [*command, "-p", str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=messages,
            start_new_session=True,  # Ctrl-C must not end it before it has detached
        ) as strace,
    ):
        try:
            _until_attached(strace, pid, said)
            yield strace
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                strace.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    strace.wait(5)
                    break


def _until_attached(strace: "subprocess.Popen[bytes]", pid: int, said: Path) -> None:
    deadline = time.monotonic() + ATTACH_S
    has_ended = False
    while " attached" not in (words := said.read_text(errors="replace").strip()):
        if has_ended:
            break
        if time.monotonic() > deadline:
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"strace did not attach to process {pid} within {ATTACH_S:g} s: it may be in a "
                "call that cannot be interrupted (state D in ps)",
            )
        time.sleep(0.002)
        has_ended = strace.poll() is not None
    else:
        return
    words = words or f"strace ended with status {strace.returncode}"
    if "No such process" in words or _has_ended(pid):  # a zombie may not be traced
        raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended: {words}")
    if "not permitted" in words or "denied" in words:
        raise PermissionError(
            errno.EPERM,
            f"process {pid} may not be traced: {words}. It belongs to another user, another "
            "tracer is attached, or Yama forbids it (kernel.yama.ptrace_scope): run this as root",
        )
    raise RuntimeError(f"strace failed: {words}")


def _has_ended(pid: int) -> bool:
    try:
        return proc.is_zombie(pid)
    except ProcessLookupError:
        return True


def _wall_offset_ns() -> int:
    """Wall clock, which strace prints, minus the monotonic one; the narrowest of 20 readings."""
    best: Any = None
    for _ in range(20):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, wall - (before + after) // 2)
    return int(best[1])


def _cpu_ns(pid: int) -> int | None:
    with suppress(OSError):
        return cpu_time_ns(pid)
    return None


def _since(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
