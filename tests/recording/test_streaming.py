"""Rows on their way from a ring to files: all of them, or counted; whatever ends first."""

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epolllab import Recording, recording
from epolllab.child import ChildDied
from epolllab.events import Op
from epolllab.recording import layout
from epolllab.recording.recorder import Recorder
from epolllab.recording.streaming import NotStored, Stream
from tests.wire import suspend, until

Start = Callable[..., Stream]
WAIT, READY, RECV, SEND = (int(op) for op in (Op.WAIT, Op.READY, Op.RECV, Op.SEND))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a stream to the folder ``run``."""
    streams: list[Stream] = []

    def make(folder: Path = tmp_path / "run") -> Stream:
        streams.append(Stream(folder, {"boot_id": "one"}))
        streams[-1].until_ready()
        return streams[-1]

    yield make
    for stream in streams:
        stream.finish({})


def write(recorder: Recorder, n: int, first: int = 0) -> None:
    """Write `n` rows as of a loop that handles two connections in each wake."""
    number = np.arange(first, first + n)
    place, t = number % 7, 1000 * number
    is_wait, is_ready = place == 0, (place == 1) | (place == 4)
    rows = np.empty((n, 5), dtype="i8")
    rows[:, 0], rows[:, 1] = t, t + np.where(is_ready, 0, 300)
    rows[:, 2] = np.where(is_wait, number // 7 + 1, place) << 32 | 7
    rows[:, 3] = np.where(is_wait, 2, np.where(is_ready, 1, 100))
    rows[:, 4] = np.choose(place, [WAIT, READY, RECV, SEND, READY, RECV, SEND])
    for start in range(0, n, 1000):
        recorder.stage(rows[start : start + 1000].ravel().tolist())
        recorder.settle()


def all_rows(recorder: Recorder) -> bytes:
    return recorder.snapshot().rows


def test_all_rows_in_order(start: Start) -> None:
    """More than a file holds, with wakes and positions across row groups."""
    stream = start()
    recorder = stream.recorder(1_200_000, populate=True)
    write(recorder, 1_100_000)
    until(lambda: stream.counts["stored"] > 0, seconds=60)
    early = recording.open(stream.folder)
    assert (len(early), early.is_closed) == (stream.counts["stored"], False)
    assert early.metadata["boot_id"] == "one"
    stream.note(address=["127.0.0.1", 1])
    stream.finish({"stats": {"requests": 3}})
    assert stream.counts == {"stored": 1_100_000, "not_stored": 0}
    assert (stream.error, stream.n_errors) == (None, 0)
    stream.raise_if_failed()
    stored = recording.open(stream.folder)
    assert (len(stored), stored.lost, stored.is_closed) == (1_100_000, 0, True)
    assert stored.metadata == {
        "boot_id": "one", "address": ["127.0.0.1", 1], "stats": {"requests": 3},
    }  # fmt: skip
    assert stored.recording().rows == all_rows(recorder)
    assert len(stored.files) >= 2
    assert sorted(stored.folder.iterdir()) == [stored.folder / layout.MANIFEST, *stored.files]


def test_rows_before_the_child_looks(start: Start) -> None:
    """A ring that was written before it was added is stored from its first row on."""
    stream = start()
    recorder = stream.recorder(1000)
    write(recorder, 10)
    stream.finish({})
    assert recording.open(stream.folder).recording().rows == all_rows(recorder)


def test_overwritten_rows_are_counted(start: Start) -> None:
    """A ring that is too small: what is stored and what is lost are all that was written."""
    stream = start()
    recorder = stream.recorder(100)
    suspend(stream.child.pid)
    write(recorder, 5_000)
    os.kill(stream.child.pid, signal.SIGCONT)
    until(lambda: stream.counts["not_stored"] == 4_900)
    write(recorder, 50, 5_000)
    stream.finish({})
    assert stream.counts == {"stored": 150, "not_stored": 4_900}
    with pytest.warns(RuntimeWarning, match=r"4,900 of 5,050 rows.*capacity"):
        stream.raise_if_failed()
    stream.raise_if_failed()
    stored = recording.open(stream.folder)
    assert (len(stored), stored.lost) == (150, 4_900)
    assert stored.events()["t_ns"].tolist() == [1000 * n for n in range(4_900, 5_050)]
    # The wake of rows after a gap follows from the next wait.
    whole = Recording(all_rows(recorder)).events()
    assert stored.events()["wake"].tail(100).tolist() == whole["wake"].tolist()


def test_several_rings(start: Start) -> None:
    """One of each thread, added at any time."""
    stream = start()
    recorders = [stream.recorder(1000, thread=70 + n) for n in range(3)]
    for recorder in recorders:
        write(recorder, 500)
    recorders.append(stream.recorder(1000, thread=73))
    write(recorders[-1], 100)
    stream.finish({})
    stored = recording.open(stream.folder)
    assert stored.events()["tid"].value_counts().to_dict() == {70: 500, 71: 500, 72: 500, 73: 100}


def test_items_of_a_list_in_the_metadata(start: Start) -> None:
    """They are in the manifest soon, in their places, whatever arrived before."""
    stream = start()
    stream.set_item("callbacks", 1, "b")
    stream.set_item("callbacks", 0, "a")
    until(lambda: recording.open(stream.folder).metadata.get("callbacks") == ["a", "b"])


def test_nothing_recorded(start: Start) -> None:
    stream = start()
    stream.finish({"notes": []})
    stored = recording.open(stream.folder)
    assert (len(stored), stored.lost, stored.is_closed) == (0, 0, True)


def test_abandoned(start: Start, tmp_path: Path) -> None:
    """A start that failed later leaves no folder, or the empty one that was there."""
    start().abandon()
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    start(tmp_path / "mine").abandon()
    assert os.listdir(tmp_path / "mine") == []


def test_an_abandoned_child_writes_nothing_more(start: Start) -> None:
    """It is killed before it is told to end: it would leave half a manifest in the folder."""
    stream = start()
    close = stream.child.close
    stream.child.close = lambda timeout: close(timeout + 5)  # type: ignore[assignment]
    stream.abandon()
    assert stream.child.process.returncode == -signal.SIGKILL


def test_a_relative_path_and_another_working_directory(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stream = start(Path("here"))
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    write(stream.recorder(1000), 10)
    stream.finish({})
    assert len(recording.open(tmp_path / "here")) == 10


# ---- failures ---------------------------------------------------------------------------


def limit_files(stream: Stream, n_bytes: int) -> None:
    """Make writing to longer files fail in the child, as on a full disk."""
    hard = resource.prlimit(stream.child.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(stream.child.pid, resource.RLIMIT_FSIZE, (n_bytes, hard))


def test_a_disk_that_is_full_for_a_while(start: Start) -> None:
    """Nothing is lost that the ring still has when there is room again."""
    stream = start()
    recorder = stream.recorder(400_000)
    limit_files(stream, 1_000)
    write(recorder, 300_000)
    until(lambda: stream.n_errors > 0, seconds=30)
    assert "part-000-000000.parquet" in str(stream.error)
    limit_files(stream, resource.RLIM_INFINITY)
    stream.finish({})
    stream.raise_if_failed()
    assert stream.counts == {"stored": 300_000, "not_stored": 0}
    stored = recording.open(stream.folder)
    assert stored.recording().rows == all_rows(recorder)
    assert len(list(stored.folder.iterdir())) == 1 + len(stored.files)  # no temporary file


def test_a_disk_that_stays_full(start: Start) -> None:
    """The end raises once, with the system's error, the folder and the number of rows."""
    stream = start()
    recorder = stream.recorder(400_000)
    limit_files(stream, 1_000)
    write(recorder, 300_000)
    until(lambda: stream.n_errors > 0, seconds=30)
    assert stream.counts["stored"] == 0
    stream.finish({})
    assert stream.counts == {"stored": 0, "not_stored": 300_000}
    with pytest.raises(NotStored, match="300,000 of 300,000 rows are not stored") as raised:
        stream.raise_if_failed()
    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(stream.folder)
    stream.raise_if_failed()
    assert stream.error is not None
    stored = recording.open(stream.folder)
    assert (len(stored), stored.lost, stored.is_closed) == (0, 300_000, True)


def test_a_folder_that_is_removed(start: Start) -> None:
    """As a full disk."""
    stream = start()
    write(stream.recorder(1000), 100)
    (stream.folder / layout.MANIFEST).unlink()
    stream.folder.rmdir()
    stream.finish({})
    with pytest.raises(NotStored, match="100 of 100 rows") as raised:
        stream.raise_if_failed()
    assert raised.value.errno == errno.ENOENT


def test_the_child_is_killed(start: Start) -> None:
    """Counts and error say so while the loop runs on; what was complete can be read."""
    stream = start()
    recorder = stream.recorder(1_200_000)
    write(recorder, layout.PART_ROWS + 100)
    until(lambda: stream.counts["stored"] > 0, seconds=60)
    os.kill(stream.child.pid, signal.SIGKILL)
    until(lambda: stream.n_errors == 1)
    n_stored = stream.counts["stored"]
    assert stream.counts["not_stored"] == layout.PART_ROWS + 100 - n_stored
    assert "SIGKILL" in str(stream.error)
    with pytest.raises(ChildDied):
        stream.recorder(100)
    stream.note(more=1)  # has no effect
    stream.finish({})
    with pytest.raises(NotStored, match=r"rows are not stored.*SIGKILL"):
        stream.raise_if_failed()
    stored = recording.open(stream.folder)
    assert (len(stored), stored.is_closed) == (n_stored, False)
    assert stored.recording().rows == all_rows(recorder)[: 48 * n_stored]


def test_a_child_that_hangs_does_not_hold_up_the_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epolllab.recording.streaming.CLOSE_S", 0.2)
    stream = start()
    write(stream.recorder(1000), 100)
    suspend(stream.child.pid)
    stream.finish({})
    assert not stream.child.alive
    with pytest.raises(NotStored, match="100 of 100 rows"):
        stream.raise_if_failed()


def test_the_parent_is_killed(tmp_path: Path) -> None:
    """The child stores what the ring has, closes the recording, and ends."""
    code = f"""
        import time
        from pathlib import Path
        from epolllab.recording.streaming import Stream
        from tests.recording.test_streaming import write
        stream = Stream(Path({str(tmp_path / "run")!r}), {{"boot_id": "one"}})
        stream.until_ready()
        recorder = stream.recorder(100_000)
        write(recorder, 50_000)
        print(stream.child.pid, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not Path(f"/proc/{child}").exists() or "Z (" in status(child), seconds=20)
    stored = recording.open(tmp_path / "run")
    assert (len(stored), stored.lost, stored.is_closed) == (50_000, 0, True)
    assert np.diff(stored.events()["t_ns"]).tolist() == [1000] * 49_999


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "Z ("


def test_no_warning_without_a_loss(start: Start) -> None:
    stream = start()
    write(stream.recorder(1000), 10)
    stream.raise_if_failed()  # not ended yet
    stream.finish({})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream.raise_if_failed()


def test_a_folder_is_refused_before_a_child_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(subprocess, "Popen", lambda *_: pytest.fail("a child was started"))
    with pytest.raises(FileExistsError, match="record_to"):
        Stream(tmp_path, {})


def test_a_child_that_cannot_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(OSError, match="no more processes"):
        Stream(tmp_path / "run", {})
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_slow_recording_is_stored_too(start: Start) -> None:
    """A row or two become a file after some seconds."""
    stream = start()
    write(stream.recorder(1000), 2)
    until(lambda: stream.counts["stored"] == 2, seconds=60)
    assert recording.open(stream.folder).events()["op"].tolist() == ["wait", "ready"]
