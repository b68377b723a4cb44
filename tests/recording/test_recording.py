"""A recording: immutable, saved completely or not at all, readable on any operating system."""

import dataclasses
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import epolllab
from epolllab.analysis import Result
from epolllab.analysis.result import METADATA_KEY as RESULT_KEY
from epolllab.events import FIELDS, RECORD, Op
from epolllab.recording import environment, storage
from epolllab.recording.recording import FORMAT_VERSION, METADATA_KEY, Recording
from tests.samples import Script, random_server, served

CHECKOUT = Path(__file__).parents[2]


def sample() -> Recording:
    """One request, and circumstances of every type that JSON has."""
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
    """Its attributes, metadata and array refuse assignment; it keeps a copy of the mapping."""
    circumstances = {"boot_id": "one"}
    kept = Recording(sample().rows, circumstances)
    circumstances["boot_id"] = "two"
    assert kept.metadata["boot_id"] == "one"
    with pytest.raises(dataclasses.FrozenInstanceError):
        kept.rows = b""  # type: ignore[misc]
    with pytest.raises(TypeError):
        kept.metadata["boot_id"] = "two"  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        kept.array()["fd"] = 0


@pytest.mark.parametrize("size", [1, RECORD.size - 1, RECORD.size + 1])
def test_half_a_record_is_refused(size: int) -> None:
    """The size of the rows must be a multiple of the record's."""
    with pytest.raises(ValueError, match=rf"^rows\b.* {size} bytes"):
        Recording(bytes(size))


def test_counts() -> None:
    """Length, operations and errors are those of its records."""
    kept = sample()
    assert len(kept) == 6
    assert kept.overwritten == 5
    assert kept.counts() == {"ready": 1, "recv": 2, "handle": 1, "send": 1, "close": 1}
    assert kept.errors() == {"recv EAGAIN": 1}


def test_an_empty_recording() -> None:
    """It has no counts, no errors, and frames without rows."""
    empty = Recording(b"")
    assert len(empty) == 0
    assert empty.counts() == empty.errors() == {}
    assert all(len(frame) == 0 for frame in (empty.events(), empty.wakeups(), empty.requests()))


def test_reprs() -> None:
    """Both have the number of events and the number overwritten."""
    kept = sample()
    assert repr(kept) == "<Recording 6 events, 5 overwritten>"
    assert repr(Recording(b"")) == "<Recording 0 events>"
    card = kept._repr_html_()
    assert all(text in card for text in ("recv 2", "close 1", ">epoll<", ">5<"))


def test_a_card_escapes_values() -> None:
    """Metadata cannot insert markup into a notebook."""
    card = Recording(b"", {"kernel": "<script>alert('x')</script>"})._repr_html_()
    assert "<script>" not in card
    assert "&lt;script&gt;" in card


# ---- to a file and back -----------------------------------------------------------------


@pytest.mark.parametrize(
    "kept",
    [sample(), Recording(b""), Recording(b"", {"boot_id": "one"}, 7), served(), random_server(3)],
    ids=["sample", "empty", "all-overwritten", "served", "random"],
)
def test_a_loaded_recording_equals_the_saved_one(kept: Recording, tmp_path: Path) -> None:
    """Rows, metadata and the count of overwritten rows are equal."""
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
def test_every_value_survives_a_file(rows: list[tuple[int, ...]]) -> None:
    """Every field keeps its whole range, including negative numbers."""
    kept = Recording(b"".join(RECORD.pack(*row) for row in rows))
    with tempfile.TemporaryDirectory() as folder:
        assert Recording.load(kept.save(Path(folder, "run.parquet"))).rows == kept.rows


def test_other_parquet_readers_understand_the_file(tmp_path: Path) -> None:
    """They find named columns, operation names and JSON in the schema."""
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
    """It has no threads, request ids or digest; both columns are 0."""
    old = Recording.load(epolllab.reference("three-endings"))
    assert pq.read_schema(epolllab.reference("three-endings")).names[-1] == "op"
    assert set(old.array()["thread"]) == set(old.array()["request"]) == {0}
    assert old.counts()["handle"] == 2
    again = Recording.load(old.save(tmp_path / "new.parquet"))
    assert (again.rows, again.metadata) == (old.rows, old.metadata)


@pytest.mark.parametrize("change", ["row", "metadata", "overwritten"])
def test_a_changed_file_is_refused(change: str, tmp_path: Path) -> None:
    """The digest covers rows, circumstances and counters."""
    kept = sample()
    path = kept.save(tmp_path / "run.parquet")
    if change == "row":
        table = pq.read_table(path)
        results = table.column("result").to_pylist()
        results[1] += 1
        place = table.column_names.index("result")
        pq.write_table(table.set_column(place, "result", pa.array(results, pa.int32())), path)
    elif change == "metadata":
        rewritten(path, metadata={**kept.metadata, "kernel": "another"})
    else:
        rewritten(path, overwritten=kept.overwritten + 1)
    with pytest.raises(ValueError, match=r"run\.parquet"):
        Recording.load(path)


def test_operations_are_read_by_name(tmp_path: Path) -> None:
    """A file whose dictionary has another order, or that has none, is read the same."""
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
def test_a_path_may_be_a_str_or_a_path(as_path: type, tmp_path: Path) -> None:
    """Both name the same file; save() returns its path."""
    path = tmp_path / "run with a blank.parquet"
    assert sample().save(as_path(path)) == path
    assert len(Recording.load(as_path(path))) == 6


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    """Only the newer recording is left in the folder."""
    path = tmp_path / "run.parquet"
    served().save(path)
    sample().save(path)
    assert len(Recording.load(path)) == 6
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """A temporary file's would be stricter."""
    plain = tmp_path / "plain"
    plain.touch()
    saved = sample().save(tmp_path / "run.parquet")
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("step", ["write", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_file(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier recording is complete, and no temporary file is left."""
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


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """save() makes no folders; the error names the missing one."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sample().save(tmp_path / "nowhere" / "run.parquet")


def test_metadata_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    """No file is left."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        Recording(b"", {"what": object()}).save(tmp_path / "run.parquet")
    assert list(tmp_path.iterdir()) == []


# ---- files that are not recordings ------------------------------------------------------


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """The message says to upgrade."""
    path = sample().save(tmp_path / "run.parquet")
    rewritten(path, format_version=FORMAT_VERSION + 1)
    with pytest.raises(ValueError, match=rf"version {FORMAT_VERSION + 1}.*upgrade epolllab"):
        Recording.load(path)


def test_errors_distinguish_other_files(tmp_path: Path) -> None:
    """Not Parquet, Parquet of something else, and no file are different errors."""
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
    """A file without its end, as a full disk leaves it, is an error and not a short run."""
    path = sample().save(tmp_path / "run.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a Parquet file"):
        Recording.load(path)


def hostile(path: Path, **columns: Any) -> Path:
    """Save a recording with some columns replaced; None leaves a column out."""
    table = pq.read_table(sample().save(path))
    for name, column in columns.items():
        place = table.column_names.index(name)
        table = table.remove_column(place)
        if column is not None:
            table = table.add_column(place, name, column)
    pq.write_table(table, path)
    return path


OPS = ["ready", "recv", "handle", "send", "recv"]


@pytest.mark.parametrize(
    ("name", "column", "defect"),
    [
        ("fd", None, "'fd'"),
        ("op", None, "'op'"),
        ("result", pa.array([1.5] * 6), "double.*'result'.*int32"),
        ("conn", pa.array([-1] * 6, pa.int32()), "int32.*'conn'.*uint32"),
        ("start_ns", pa.array(["1"] * 6), "string.*'start_ns'"),
        ("wake", pa.array([[1]] * 6, pa.list_(pa.uint32())), "list.*'wake'"),
        ("fd", pa.array([1, None] * 3, pa.int32()), "missing values.*'fd'"),
        ("op", pa.array([*OPS, None]), "missing values.*'op'"),
        ("op", pa.array([*OPS, None]).dictionary_encode(), "missing values.*'op'"),
        ("op", pa.array([*OPS, "explode"]), "does not know: 'explode'"),
        ("op", pa.array([*OPS, "Recv"]).dictionary_encode(), "does not know: 'Recv'"),
        ("op", pa.array([1] * 6), "int64.*'op'"),
        ("op", pa.array([1] * 6).dictionary_encode(), "int64.*'op'"),
    ],
)
def test_columns_of_another_kind_are_refused(
    name: str, column: Any, defect: str, tmp_path: Path
) -> None:
    """One error, with the name of the file and of the column."""
    path = hostile(tmp_path / "run.parquet", **{name: column})
    with pytest.raises(ValueError, match=rf"run\.parquet.*{defect}"):
        Recording.load(path)


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = sample().save(tmp_path / "run.parquet")
    table = pq.read_table(path)
    pq.write_table(table.append_column("fd", table.column("fd")), path)
    with pytest.raises(ValueError, match=r"run\.parquet.*'fd'.*2"):
        Recording.load(path)


DEEP = '{"a":' * 50_000 + "1" + "}" * 50_000
HEADERS = {
    "format_version": [0, -1, 1.0, 2.5, "2", None, True, [2], 1e400, 3, 10**30],
    "overwritten": [-1, 1.5, float("nan"), float("inf"), "1", None, [1], 2**63, True],
    "metadata": [None, [], "text", 5],
    "digest": [None, "", "0" * 32, 5, {}],
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in HEADERS.items() for value in values]
)
def test_a_header_with_impossible_values_is_refused(
    version: int, key: str, value: object, tmp_path: Path
) -> None:
    """A digest does not excuse it: format 1 has none."""
    path = sample().save(tmp_path / "run.parquet")
    table = pq.read_table(path)
    header: dict[str, Any] = {"format_version": version, "overwritten": 0, "metadata": {}}
    header |= {key: value}
    if version == 2 and key != "digest":
        header["digest"] = storage.digest(sample().rows, header)
    schema = {METADATA_KEY: json.dumps(header)}
    pq.write_table(table.replace_schema_metadata(schema), path)
    with pytest.raises(ValueError, match=r"run\.parquet"):
        Recording.load(path)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "5", "{", "{}", '{"format_version": 2}', DEEP, "[" * 100_000, "\ud800",
     '{"format_version": ' + "9" * 5000 + "}", '{"a": "' + "x" * (17 << 20) + '"}', b"\xff{}"],
    ids=lambda text: f"{text[:12]!r}",
)  # fmt: skip
@pytest.mark.parametrize(("load", "key"), [(Recording.load, METADATA_KEY),
                                           (Result.load, RESULT_KEY)])  # fmt: skip
def test_a_header_that_is_no_header_is_refused(
    load: Any, key: bytes, text: str | bytes, tmp_path: Path
) -> None:
    """Not JSON, not a mapping, too deep, too long, or without its keys."""
    path = tmp_path / "run.parquet"
    encoded = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    table = pa.table({"a": [1]}).replace_schema_metadata({key: encoded})
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=r"run\.parquet"):
        load(path)


def test_more_rows_than_the_memory_holds_are_refused_unread(tmp_path: Path) -> None:
    """A small file can claim them: a run of equal values takes a few bytes."""
    path = sample().save(tmp_path / "run.parquet")
    table = pq.read_table(path)
    writer = pq.ParquetWriter(path, table.schema)
    many = pa.concat_tables([table] * 50_000)
    for _ in range(3):
        writer.write_table(many)
    writer.close()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(storage, "memory_available", lambda: 100 << 20)
        with pytest.raises(ValueError, match=r"run\.parquet cannot be read here: its 900,000 rows"):
            Recording.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1PAR1", b"\0" * 100, b"PAR1" + b"\xff" * 50 + b"PAR1", b"x" * 9]
)
def test_a_file_that_is_no_table_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.parquet is not a Parquet file"):
        Recording.load(path)


@pytest.mark.parametrize(
    ("error", "parameter", "changes"),
    [
        (TypeError, "rows", {"rows": "text"}),
        (TypeError, "rows", {"rows": None}),
        (TypeError, "metadata", {"metadata": None}),
        (TypeError, "metadata", {"metadata": [1]}),
        (TypeError, "overwritten", {"overwritten": 1.0}),
        (TypeError, "overwritten", {"overwritten": True}),
        (ValueError, "overwritten", {"overwritten": -1}),
        (ValueError, "overwritten", {"overwritten": 10**30}),
    ],
)
def test_parts_of_another_kind_are_refused(
    error: type[Exception], parameter: str, changes: dict[str, Any]
) -> None:
    """A recording that could not be loaded cannot be made either."""
    with pytest.raises(error, match=rf"^{parameter}\b"):
        Recording(**{"rows": b"", **changes})


def test_an_unknown_operation_is_not_saved(tmp_path: Path) -> None:
    """Its number would become another operation's."""
    rows = bytearray(sample().rows)
    rows[36:38] = (256 + Op.RECV).to_bytes(2, "little")
    with pytest.raises(ValueError, match="operation 262"):
        Recording(bytes(rows)).save(tmp_path / "run.parquet")
    assert list(tmp_path.iterdir()) == []
    rows[28:32] = (-9).to_bytes(4, "little", signed=True)
    for read in (Recording.errors, Recording.counts, Recording.events):
        with pytest.raises(ValueError, match="262"):
            read(Recording(bytes(rows)))


def test_metadata_with_numbers_as_keys_is_not_taken_for_damage(tmp_path: Path) -> None:
    """JSON makes text of them, in another order."""
    kept = Recording(b"", {"sizes": {10: 1, 9: 2, 100: 3}, "pair": (1, 2)})
    again = Recording.load(kept.save(tmp_path / "run.parquet"))
    assert again.metadata == {"sizes": {"10": 1, "9": 2, "100": 3}, "pair": [1, 2]}


def test_metadata_that_cannot_be_read_back_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^metadata\b"):
        Recording(b"", {"text": "x" * (17 << 20)}).save(tmp_path / "run.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_throttled_recording_says_so() -> None:
    """Its repr and its card have the time and the quota."""
    kept = Recording(b"", {
        "cpu_quotas": {"/": 2.0, "/a": 0.25}, "nr_throttled": 3, "throttled_usec": 1_000,
        "nr_throttled_end": 9, "throttled_usec_end": 51_000,
    })  # fmt: skip
    text = "throttled for 50 ms by a CPU quota of 0.25 processors"
    assert repr(kept) == f"<Recording 0 events, {text}>"
    assert text in kept._repr_html_()


# ---- several recordings -----------------------------------------------------------------


def test_recordings_of_two_boots_cannot_be_joined(tmp_path: Path) -> None:
    """A file has its boot id, since clocks of two boots have no common zero."""
    server = Recording.load(served().save(tmp_path / "one.parquet"))
    other = Recording(server.rows, {**server.metadata, "boot_id": "two"})
    client = Recording.load(other.save(tmp_path / "two.parquet"))
    with pytest.raises(ValueError, match=r"boot one .* boot two"):
        environment.require_same_boot(server.metadata, client.metadata)


# ---- other operating systems ------------------------------------------------------------

ELSEWHERE = """
import importlib, select, sys
for name in dir(select):
    if name.lower().startswith(("epoll", "pollrdhup")) or (sys.argv[1] == "win32"
                                                           and name.lower().startswith("poll")):
        delattr(select, name)
# Import everything that checks the platform at import before the platform changes.
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
    """A file is loaded, converted and drawn; start_server()'s error names Linux."""
    path = served().save(tmp_path / "run.parquet")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE, platform, str(path),
         str(tmp_path / "chart.png")],
        capture_output=True, text=True, cwd=CHECKOUT, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_sample_run_is_readable() -> None:
    """The file in data/ loads, and has the metadata that a reader needs to judge it."""
    ours = Recording.load(epolllab.reference("sample-run"))
    assert len(ours) > 0
    assert {"boot_id", "kernel", "python", "poller", "trigger", "lifecycle"} <= set(ours.metadata)
    assert np.all(np.diff(ours.array()["wake"].astype(np.int64)) >= 0)
