"""A recording: immutable, saved whole or not at all, readable on any operating system."""

import dataclasses
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import epolllab
from epolllab.events import FIELDS, RECORD, Op
from epolllab.recording import environment, storage
from epolllab.recording.recording import FORMAT_VERSION, METADATA_KEY, Recording
from tests.samples import Script, random_server, served

CHECKOUT = Path(__file__).parents[2]


def sample() -> Recording:
    """One request, and circumstances of every kind that JSON can hold."""
    script = Script(capacity=6)
    script.wait(1).ready(0).accept(1).register(1)
    script.wait(1).ready(1).recv(1, 10).handle(1, 100).send(1, 100).recv_blocked(1).close(1)
    return script.recording(
        {"boot_id": "one", "poller": "epoll", "limits": {"soft": 1024}, "note": "ä €", "n": None}
    )


def rewritten(path: Path, **changes: object) -> None:
    """Change the header of a saved recording."""
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[METADATA_KEY]) | changes
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(header)}), path)


# ---- the value --------------------------------------------------------------------------


def test_a_recording_cannot_be_changed() -> None:
    """Neither its parts nor its circumstances nor its array take an assignment."""
    kept = sample()
    with pytest.raises(dataclasses.FrozenInstanceError):
        kept.rows = b""  # type: ignore[misc]
    with pytest.raises(TypeError):
        kept.metadata["boot_id"] = "two"  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        kept.array()["fd"] = 0


def test_the_callers_own_metadata_may_change() -> None:
    """A recording keeps a copy of the mapping it was given."""
    circumstances = {"boot_id": "one"}
    kept = Recording(b"", circumstances)
    circumstances["boot_id"] = "two"
    assert kept.metadata["boot_id"] == "one"


@pytest.mark.parametrize("size", [1, RECORD.size - 1, RECORD.size + 1])
def test_half_a_record_is_refused(size: int) -> None:
    """Bytes that are not whole records are no recording."""
    with pytest.raises(ValueError, match=f"{size} bytes are not a multiple"):
        Recording(bytes(size))


def test_it_counts_what_it_holds() -> None:
    """Length, operations and errors are those of its records."""
    kept = sample()
    assert len(kept) == 6
    assert kept.overwritten == 5
    assert kept.counts() == {"ready": 1, "recv": 2, "handle": 1, "send": 1, "close": 1}
    assert kept.errors() == {"recv EAGAIN": 1}


def test_an_empty_one_counts_nothing() -> None:
    """Without a record there are no counts, no errors, and frames without rows."""
    empty = Recording(b"")
    assert len(empty) == 0
    assert empty.counts() == empty.errors() == {}
    assert all(len(frame) == 0 for frame in (empty.events(), empty.wakeups(), empty.requests()))


def test_it_shows_itself() -> None:
    """Both reprs say how many events there are and how many were overwritten."""
    kept = sample()
    assert repr(kept) == "<Recording 6 events, 5 overwritten>"
    assert repr(Recording(b"")) == "<Recording 0 events>"
    card = kept._repr_html_()
    assert all(text in card for text in ("recv 2", "close 1", ">epoll<", ">5<"))


def test_a_card_escapes_what_it_shows() -> None:
    """Circumstances cannot put markup into a notebook."""
    card = Recording(b"", {"kernel": "<script>alert('x')</script>"})._repr_html_()
    assert "<script>" not in card
    assert "&lt;script&gt;" in card


# ---- to a file and back -----------------------------------------------------------------


@pytest.mark.parametrize(
    "kept",
    [sample(), Recording(b""), Recording(b"", {"boot_id": "one"}, 7), served(), random_server(3)],
    ids=["sample", "empty", "all-overwritten", "served", "random"],
)
def test_a_recording_comes_back_as_it_was(kept: Recording, tmp_path: Path) -> None:
    """Saved and loaded, rows, circumstances and the count of lost rows are equal."""
    path = kept.save(tmp_path / "run.parquet")
    again = Recording.load(path)
    assert again.rows == kept.rows
    assert again.metadata == kept.metadata
    assert again.overwritten == kept.overwritten


@given(st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2,
                          *[st.integers(0, 2**32 - 1)] * 2,
                          *[st.integers(-(2**31), 2**31 - 1)] * 2,
                          st.integers(0, 2**32 - 1), st.sampled_from(Op),
                          st.integers(0, 2**16 - 1), *[st.integers(0, 2**32 - 1)] * 2),
                max_size=30))  # fmt: skip
def test_any_numbers_come_back(rows: list[tuple[int, ...]]) -> None:
    """Every field keeps its whole range, signs and all, in the file that is written."""
    kept = Recording(b"".join(RECORD.pack(*row) for row in rows))
    with tempfile.TemporaryDirectory() as folder:
        assert Recording.load(kept.save(Path(folder, "run.parquet"))).rows == kept.rows


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    """Another Parquet reader finds named columns, operation names and JSON in the schema."""
    kept = sample()
    table = pq.read_table(kept.save(tmp_path / "run.parquet"))
    assert sorted(table.column_names) == sorted(name for name, _ in FIELDS)
    assert table.column("op").to_pylist() == ["ready", "recv", "handle", "send", "recv", "close"]
    header = json.loads(table.schema.metadata[METADATA_KEY])
    assert header.pop("digest")
    assert header == {
        "format_version": FORMAT_VERSION,
        "overwritten": 5,
        "metadata": dict(kept.metadata),
    }


def test_a_file_of_format_1_is_read(tmp_path: Path) -> None:
    """It has neither threads nor request ids nor a digest: both columns are 0."""
    old = Recording.load(epolllab.reference("one-request-howto"))
    assert pq.read_schema(epolllab.reference("one-request-howto")).names[-1] == "op"
    assert set(old.array()["thread"]) == set(old.array()["request"]) == {0}
    assert old.counts()["handle"] == 1
    again = Recording.load(old.save(tmp_path / "new.parquet"))
    assert (again.rows, again.metadata) == (old.rows, old.metadata)


@pytest.mark.parametrize("change", ["row", "metadata", "overwritten"])
def test_a_changed_file_is_refused(change: str, tmp_path: Path) -> None:
    """The digest covers rows, circumstances and counters."""
    path = sample().save(tmp_path / "run.parquet")
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[METADATA_KEY])
    if change == "row":
        results = table.column("result").to_pylist()
        results[1] += 1
        place = table.column_names.index("result")
        table = table.set_column(place, "result", pa.array(results, pa.int32()))
    elif change == "metadata":
        header["metadata"]["kernel"] = "another"
    else:
        header["overwritten"] += 1
    schema = {METADATA_KEY: json.dumps(header)}
    pq.write_table(table.replace_schema_metadata(schema), path)
    with pytest.raises(ValueError, match=r"run\.parquet"):
        Recording.load(path)


def test_operations_are_read_by_name(tmp_path: Path) -> None:
    """A file whose dictionary has another order, or none, means the same."""
    kept = sample()
    path = kept.save(tmp_path / "run.parquet")
    table = pq.read_table(path)
    place = table.column_names.index("op")
    for column in (
        table.column("op").cast(pa.string()),
        pa.array(table.column("op").to_pylist()).dictionary_encode(),
    ):
        changed = table.set_column(place, "op", column)
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
        assert Recording.load(path).rows == kept.rows


@pytest.mark.parametrize("as_path", [str, Path, os.fspath])
def test_any_kind_of_path_will_do(as_path: type, tmp_path: Path) -> None:
    """A str and a Path name the same file; save() says where it wrote."""
    path = tmp_path / "run with a blank.parquet"
    assert sample().save(as_path(path)) == path
    assert len(Recording.load(as_path(path))) == 6


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    """The newer recording is there, and nothing beside it."""
    path = tmp_path / "run.parquet"
    served().save(path)
    sample().save(path)
    assert len(Recording.load(path)) == 6
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_as_readable_as_others(tmp_path: Path) -> None:
    """A saved recording has the permissions of any new file, not those of a temporary one."""
    plain = tmp_path / "plain"
    plain.touch()
    saved = sample().save(tmp_path / "run.parquet")
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("step", ["write", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_file(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file is never seen: the earlier recording is whole, and no temporary is left."""
    path = tmp_path / "run.parquet"
    sample().save(path)

    def fails(*arguments: object, **_: object) -> None:
        if step == "write":
            arguments[1].write(b"PAR1 and no more")  # type: ignore[attr-defined]
        raise error

    target = (pq, "write_table") if step == "write" else (storage.os, "replace")
    monkeypatch.setattr(*target, fails)
    with pytest.raises(type(error)):
        served().save(path)
    monkeypatch.undo()
    assert Recording.load(path).rows == sample().rows
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """save() makes no folders, and says which file it could not write."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sample().save(tmp_path / "nowhere" / "run.parquet")


def test_what_json_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """Circumstances that a file could not carry are an error, not a loss."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        Recording(b"", {"what": object()}).save(tmp_path / "run.parquet")
    assert list(tmp_path.iterdir()) == []


# ---- files that are none ----------------------------------------------------------------


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A file of a later version is not guessed at; the message says to upgrade."""
    path = sample().save(tmp_path / "run.parquet")
    rewritten(path, format_version=FORMAT_VERSION + 1)
    with pytest.raises(ValueError, match=rf"version {FORMAT_VERSION + 1}.*upgrade epolllab"):
        Recording.load(path)


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    """No Parquet, Parquet of another kind, and no file at all are told apart."""
    text = tmp_path / "notes.parquet"
    text.write_text("not a table")
    with pytest.raises(ValueError, match=r"notes\.parquet is not a Parquet file"):
        Recording.load(text)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(ValueError, match="not a recording: its schema has no 'epolllab'"):
        Recording.load(other)
    with pytest.raises(FileNotFoundError):
        Recording.load(tmp_path / "nothing.parquet")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    """A file that lost its end, as a full disk leaves it, is an error and not a short run."""
    path = sample().save(tmp_path / "run.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a Parquet file"):
        Recording.load(path)


# ---- two of them ------------------------------------------------------------------------


def test_recordings_of_two_boots_refuse_to_join(tmp_path: Path) -> None:
    """A file carries its boot, so that clocks of two boots are not put on one axis."""
    server = Recording.load(served().save(tmp_path / "one.parquet"))
    other = Recording(server.rows, {**server.metadata, "boot_id": "two"})
    client = Recording.load(other.save(tmp_path / "two.parquet"))
    with pytest.raises(ValueError, match=r"boot one .* boot two"):
        environment.require_same_boot(server.metadata, client.metadata)


# ---- elsewhere than on Linux ------------------------------------------------------------

ELSEWHERE = """
import importlib, select, sys
for name in dir(select):
    if name.lower().startswith(("epoll", "pollrdhup")) or (sys.argv[1] == "win32"
                                                           and name.lower().startswith("poll")):
        delattr(select, name)
# Everything that looks at the platform while it is imported has done so on this one.
import matplotlib, pyarrow.parquet, pandas, ipaddress, multiprocessing.connection, tempfile
matplotlib.use("agg")
import matplotlib.pyplot, asyncio, subprocess, uuid, ctypes.util, platform
import os
for name in ("eventfd", "EFD_NONBLOCK", "EFD_CLOEXEC", "memfd_create", "MFD_CLOEXEC"):
    delattr(os, name)
sys.platform = sys.argv[1]

import epolllab
from epolllab import plots
recording = epolllab.Recording.load(sys.argv[2])
events = recording.events()
assert len(events) == len(recording) > 0
assert len(recording.requests()) and len(recording.wakeups())
for draw, frame in ((plots.timeline, events), (plots.wakeups, recording.wakeups())):
    draw(frame).figure.savefig(sys.argv[3])
assert recording.save(sys.argv[3] + ".parquet").exists()

for poller in ("epoll", "poll"):
    try:
        epolllab.start_server(poller=poller)
    except OSError as error:
        message = str(error)
        assert "needs Linux" in message and sys.argv[1] in message, message
        assert "Recording.load" in message, message
    else:
        raise SystemExit("a server was started")
assert epolllab.servers() == []
print("done")
"""


@pytest.mark.processes
@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_loading_and_plotting_work_without_epoll(platform: str, tmp_path: Path) -> None:
    """Where select has no epoll a file is loaded, framed and drawn; start_server names Linux."""
    path = served().save(tmp_path / "run.parquet")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE, platform, str(path),
         str(tmp_path / "chart.png")],
        capture_output=True, text=True, cwd=CHECKOUT, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_our_own_sample_run_is_readable() -> None:
    """What data/ holds loads, and has the circumstances a reader needs to judge it."""
    ours = Recording.load(epolllab.reference("sample-run"))
    assert len(ours) > 0
    assert {"boot_id", "kernel", "python", "poller", "trigger", "lifecycle"} <= set(ours.metadata)
    assert np.all(np.diff(ours.array()["wake"].astype(np.int64)) >= 0)
