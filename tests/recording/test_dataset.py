"""Recordings in a folder: what open() reads, which parts of it, and what it refuses."""

import errno
import json
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from epolllab import Recording, frames, recording
from epolllab.events import Op
from epolllab.recording import layout
from epolllab.recording.decode import merge
from tests.samples import random_server, served

METADATA = {"boot_id": "one", "kernel": "6.18"}


def cut(records: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """Pieces of `n` records."""
    return (records[start : start + n] for start in range(0, len(records), n))


def store(folder: Path, records: np.ndarray, n: int = 100) -> recording.StoredRecording:
    """Store records in row groups of `n`, two of them in each file."""
    layout.claim("folder", folder, METADATA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "PART_ROWS", 2 * n)
        layout.store(folder, cut(records, n), METADATA)
    return recording.open(folder)


@pytest.fixture
def made() -> Recording:
    return served(n_conns=5, n_requests=100)


@pytest.fixture
def stored(made: Recording, tmp_path: Path) -> recording.StoredRecording:
    return store(tmp_path / "run", made.array())


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    """Equal row by row; the categories are those of the rows that each frame was made of."""
    names = {"mask_names": "str", "error": "str"}
    pd.testing.assert_frame_equal(found.astype(names), wanted.reset_index(drop=True).astype(names))


# ---- reading ----------------------------------------------------------------------------


def test_the_same_events_as_in_memory(made: Recording, stored: recording.StoredRecording) -> None:
    assert len(stored) == len(made)
    assert stored.lost == 0
    assert stored.is_closed
    assert dict(stored.metadata) == METADATA
    assert len(stored.files) == -(-len(made) // 200)
    pd.testing.assert_frame_equal(stored.events(), made.events())
    assert stored.recording().rows == made.rows


@pytest.mark.parametrize("seed", range(5))
def test_every_field_of_random_records(seed: int, tmp_path: Path) -> None:
    made = random_server(seed)
    assert store(tmp_path / "run", made.array(), 7).recording().rows == made.rows


def test_extreme_values_of_all_fields(tmp_path: Path) -> None:
    """As far as the types go; a duration too."""
    records = served().array()[:3].copy()
    for name in records.dtype.names or ():
        if name != "op":
            records[name][:2] = np.iinfo(records[name].dtype).min, np.iinfo(records[name].dtype).max
    found = store(tmp_path / "run", records).recording()
    assert found.rows == records.tobytes()


def test_a_window(made: Recording, stored: recording.StoredRecording) -> None:
    """The start belongs to it, and the stop does not."""
    events = made.events()
    start, stop = events["t_ns"].iloc[[120, 450]]
    inside = (events["t_ns"] >= start) & (events["t_ns"] < stop)
    assert inside.sum() == 330
    same(stored.events(start=start, stop=stop), events[inside])
    same(stored.events(stop=start), events[:120])
    same(stored.events(start=stop), events[450:])
    first, last = stored.span_ns or (0, 0)
    assert (first, last) == (events["t_ns"].min(), events["t_ns"].max())
    assert len(stored.events(stop=first)) == 0
    assert len(stored.events(start=last)) == 1
    assert stored.recording(start=start, stop=stop).overwritten == len(made) - 330


def test_a_connection(made: Recording, stored: recording.StoredRecording) -> None:
    events = made.events()
    for conn in (0, 3, 99):
        same(stored.events(conn=conn), events[events["conn"] == conn])
    of_one = stored.recording(conn=3).requests()
    whole = made.requests()
    assert of_one["n_bytes"].tolist() == whole.loc[whole["conn"] == 3, "n_bytes"].tolist()
    assert len(stored.events(conn=3, stop=stored.span_ns[0])) == 0  # type: ignore[index]


def test_only_row_groups_with_wanted_rows_are_read(
    made: Recording, stored: recording.StoredRecording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for the length, no rows at all."""
    read: list[tuple[str, int]] = []
    real = pq.ParquetFile.read_row_group

    def counted(self: Any, number: int, **options: Any) -> Any:
        read.append(number)
        return real(self, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    assert len(stored) == len(made)
    assert stored.span_ns is not None
    repr(stored)
    stored._repr_html_()
    assert read == []
    t = made.events()["t_ns"]
    stored.events(start=t.iloc[310], stop=t.iloc[390])
    assert read == [1]  # of the second file
    stored.events(conn=98)
    assert read == [1]
    stored.events()
    assert len(read) == 1 + -(-len(made) // 100)


def test_empty(tmp_path: Path) -> None:
    """All columns, and no rows."""
    empty = store(tmp_path / "run", served().array()[:0])
    assert (len(empty), empty.lost, empty.span_ns, empty.files) == (0, 0, None, [])
    pd.testing.assert_frame_equal(empty.events(), Recording(b"").events())
    assert "0 events" in repr(empty)


def test_missing_rows_are_counted(made: Recording, tmp_path: Path) -> None:
    """A gap between row groups, rows after the last one, and a file that was removed."""
    folder, records = tmp_path / "run", made.array()
    layout.claim("folder", folder, METADATA)
    for number, first in enumerate((0, 150, 250)):
        part = layout.PartWriter(folder, number)
        part.write(records[first : first + 100], first)
        part.publish()
    found = recording.open(folder)
    assert (len(found), found.lost, found.is_closed) == (300, 50, False)
    assert "50 lost" in repr(found)
    assert "not closed" in repr(found)
    layout.write_manifest(folder, METADATA, [360])
    assert (found.lost, found.is_closed) == (60, True)
    assert found.recording().overwritten == 60
    found.files[1].unlink()
    assert (len(found), found.lost) == (200, 160)


def test_rows_that_appear_later(made: Recording, tmp_path: Path) -> None:
    """A recording that is still made can be opened, and read again."""
    folder, records = tmp_path / "run", made.array()
    layout.claim("folder", folder, METADATA)
    found = recording.open(folder)
    assert (len(found), found.is_closed) == (0, False)
    layout.PartWriter(folder, 0).publish()
    part = layout.PartWriter(folder, 1)
    part.write(records[:100], 0)
    assert len(found) == 0
    part.publish()
    assert len(found.events()) == 100
    layout.write_manifest(folder, {**METADATA, "stats": {}}, [100])
    assert found.is_closed
    assert found.metadata["stats"] == {}


# ---- several threads --------------------------------------------------------------------


def two_threads() -> list[np.ndarray]:
    """Records of two loops at the same time, of threads 70 and 71."""
    made = [served(n_conns=3, n_requests=50, seed=seed).array().copy() for seed in (1, 2)]
    made[1]["start_ns"] += made[0]["start_ns"][0] - made[1]["start_ns"][0]
    made[1]["end_ns"] = made[1]["start_ns"] + 10
    for thread, records in enumerate(made, 70):
        records["thread"] = thread
    return made


def store_rings(folder: Path, rings: list[np.ndarray]) -> recording.StoredRecording:
    layout.claim("folder", folder, METADATA)
    for ring, records in enumerate(rings):
        for number, start in enumerate(range(0, len(records), 100)):
            part = layout.PartWriter(folder, number, ring, 70 + ring)
            part.write(records[start : start + 100], start)
            part.publish()
    layout.write_manifest(folder, METADATA, list(map(len, rings)))
    return recording.open(folder)


def test_rings_are_merged_as_in_memory(tmp_path: Path) -> None:
    """In order of time, with wakes that are unique."""
    rings = two_threads()
    found = store_rings(tmp_path / "run", rings)
    wanted = merge([(70, rings[0]), (71, rings[1])])
    assert found.recording().rows == wanted.tobytes()
    events = found.events()
    waits = events[events["op"] == "wait"]
    assert waits["wake"].is_unique
    assert set(events["tid"]) == {70, 71}
    start, stop = events["t_ns"].iloc[[50, 200]]
    inside = events[(events["t_ns"] >= start) & (events["t_ns"] < stop)]
    same(found.events(start=start, stop=stop), inside)


def test_one_thread_has_no_id(tmp_path: Path) -> None:
    """As in a recording in memory; the files have it."""
    records = two_threads()[0]
    found = store_rings(tmp_path / "run", [records])
    assert set(found.events()["tid"]) == {0}
    assert set(pq.read_table(found.files[0])["thread"].to_pylist()) == {70}


# ---- other readers ----------------------------------------------------------------------


def test_dask(made: Recording, stored: recording.StoredRecording) -> None:
    """A partition for each file, the same types, and the same numbers."""
    pytest.importorskip("dask")
    lazy = stored.dask()
    assert lazy.npartitions == len(stored.files)
    events = made.events()
    assert lazy.dtypes.drop(["mask_names", "error"]).equals(
        events.dtypes.drop(["mask_names", "error"])
    )
    found = lazy.compute(scheduler="synchronous")
    same(found.reset_index(drop=True), events)
    assert (found.dtypes == "category").equals(events.dtypes == "category")
    counts = lazy.groupby("op", observed=True)["dur_ns"].count().compute(scheduler="synchronous")
    assert counts.to_dict() == made.counts()


def test_dask_of_two_threads(tmp_path: Path) -> None:
    """The same rows as events(), thread by thread."""
    pytest.importorskip("dask")
    found = store_rings(tmp_path / "run", two_threads())
    lazy = found.dask().compute(scheduler="synchronous")
    same(lazy.reset_index(drop=True), found.events().sort_values("tid", kind="stable"))


def test_dask_without_rows_and_of_one_thread(tmp_path: Path) -> None:
    pytest.importorskip("dask")
    empty = store(tmp_path / "empty", served().array()[:0])
    pd.testing.assert_frame_equal(empty.dask().compute(scheduler="synchronous"), empty.events())
    one = store_rings(tmp_path / "one", two_threads()[:1])
    same(one.dask().compute(scheduler="synchronous").reset_index(drop=True), one.events())


def test_without_dask_the_error_says_what_to_install(
    stored: recording.StoredRecording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dask.dataframe", None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=r"epolllab\[cluster\]"):
        stored.dask()


def test_the_files_are_plain_parquet(made: Recording, stored: recording.StoredRecording) -> None:
    """With times, durations and names; small, and with a checksum of each page."""
    table = pq.read_table(stored.folder, filters=[("op", "=", "recv")]).to_pandas()
    events = made.events()
    wanted = events[events["op"] == "recv"]
    assert table["t_ns"].tolist() == wanted["t_ns"].tolist()
    assert table["dur_ns"].tolist() == wanted["dur_ns"].tolist()
    assert table["result"].tolist() == wanted["n_bytes"].tolist()
    file = pq.ParquetFile(stored.files[0])
    encodings = {
        column.path_in_schema: column.encodings
        for column in map(file.metadata.row_group(0).column, range(file.metadata.num_columns))
    }
    assert "DELTA_BINARY_PACKED" in encodings["t_ns"]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert all(group.num_rows == 100 for group in map(file.metadata.row_group, range(2)))


def test_bytes_per_row(tmp_path: Path) -> None:
    """At most twelve, here with durations that vary."""
    found = store(tmp_path / "run", served(n_conns=50, n_requests=1000).array(), 1 << 16)
    assert sum(path.stat().st_size for path in found.files) <= 12 * len(found)


# ---- what is refused --------------------------------------------------------------------


def test_a_folder_that_is_none(tmp_path: Path, stored: recording.StoredRecording) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        recording.open(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"^folder .*Recording\.load"):
        recording.open(stored.files[0])
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=rf"^folder .*{layout.MANIFEST}"):
        recording.open(tmp_path / "other")
    with pytest.raises(ValueError, match=r"^folder "):
        recording.open("s3://bucket/run")
    (tmp_path / "link").symlink_to(stored.folder)
    assert len(recording.open(tmp_path / "link")) == len(stored)
    with pytest.raises(ValueError, match=r"recording\.open"):
        Recording.load(stored.folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"format_version": "x"}, "format_version"),
        ({"more": 1}, "more"),
        ({"state": "open"}, "damaged"),
    ],
)
def test_a_manifest_of_another_version(
    change: dict[str, Any], match: str, stored: recording.StoredRecording
) -> None:
    path = stored.folder / layout.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=rf"{layout.MANIFEST}.*{match}"):
        recording.open(stored.folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"{" * 9000, b'{"a":' * 9000])
def test_a_manifest_that_is_none(content: bytes, stored: recording.StoredRecording) -> None:
    (stored.folder / layout.MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match=layout.MANIFEST):
        recording.open(stored.folder)


def test_a_damaged_part_is_named(stored: recording.StoredRecording) -> None:
    """Each byte of it that is changed: an error with its name, or rows that are not affected."""
    path, whole = stored.files[0], stored.recording().rows
    content = path.read_bytes()
    for at in range(0, len(content) * 3 // 4, 97):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        found = ""
        try:
            found = recording.open(stored.folder).recording().rows
        except ValueError as error:
            assert path.name in str(error)  # noqa: PT017
        assert found in ("", whole)


def test_a_part_cut_short_or_of_something_else(stored: recording.StoredRecording) -> None:
    path = stored.files[0]
    content = path.read_bytes()
    for other in (b"", content[:-9], content[:500]):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=path.name):
            len(recording.open(stored.folder))
    served().save(path)
    with pytest.raises(ValueError, match=rf"{path.name}.*not a part"):
        len(recording.open(stored.folder))


def test_more_rows_than_memory(
    stored: recording.StoredRecording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before they are read, with what to do instead; a window is read."""
    monkeypatch.setattr("epolllab.recording.storage.memory_available", lambda: 100_000)
    monkeypatch.setattr("epolllab.recording.storage.UNCHECKED_BYTES", 0)
    monkeypatch.setattr(layout, "read_groups", lambda *_: pytest.fail("rows were read"))
    with pytest.raises(ValueError, match=r"memory.*start and stop.*dask\(\)"):
        stored.events()
    monkeypatch.undo()
    monkeypatch.setattr("epolllab.recording.dataset.BYTES_PER_ROW", 10_000_000_000)
    with pytest.raises(ValueError, match="memory"):
        stored.events(conn=1)
    with pytest.raises(ValueError, match="memory"):
        stored.recording(start=0)


@pytest.mark.parametrize("name", ["start", "stop", "conn"])
@pytest.mark.parametrize("value", ["1", 1.5, True, 10**30])
def test_windows_that_are_none(name: str, value: Any, stored: recording.StoredRecording) -> None:
    for method in (stored.events, stored.recording):
        with pytest.raises((TypeError, ValueError), match=f"^{name} "):
            method(**{name: value})


# ---- folders to write to ----------------------------------------------------------------


def test_a_new_folder_and_an_empty_one(tmp_path: Path) -> None:
    assert layout.claim("record_to", tmp_path / "new", {}) is True
    (tmp_path / "empty").mkdir()
    assert layout.claim("record_to", tmp_path / "empty", {}) is False
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert layout.claim("record_to", tmp_path / "link", {}) is False
    assert os.listdir(tmp_path / "real") == [layout.MANIFEST]
    for name, is_new in (("new", True), ("empty", False)):
        layout.release(tmp_path / name, is_new=is_new)
    assert not (tmp_path / "new").exists()
    assert os.listdir(tmp_path / "empty") == []


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("run", FileExistsError, "a recording"),
        ("other", FileExistsError, "1 files, such as 'notes.txt'"),
        ("other/notes.txt", NotADirectoryError, "a new or an empty folder"),
        ("dangling", NotADirectoryError, "a new or an empty folder"),
        ("absent/run", FileNotFoundError, "absent first"),
        ("other/notes.txt/run", NotADirectoryError, "can be written to"),
        ("x" * 300, OSError, "a folder that can be written to"),
    ],
)
def test_folders_that_are_refused(
    name: str, error: type[OSError], match: str, stored: recording.StoredRecording, tmp_path: Path
) -> None:
    """By the parameter's name and the folder's; nothing is changed in them."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=f"record_to must .*{match}") as raised:
        layout.claim("record_to", tmp_path / name, {})
    assert raised.value.filename == str(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
    assert len(stored) == len(recording.open(stored.folder))


@pytest.mark.parametrize("folder", ["/proc/run", "/sys/run"])
def test_a_read_only_folder(folder: str) -> None:
    with pytest.raises(OSError, match="record_to must ") as raised:
        layout.claim("record_to", Path(folder), {})
    assert raised.value.filename == folder


def test_of_two_that_claim_a_folder_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if both have found it empty."""
    layout.claim("record_to", tmp_path / "run", {"who": 1})
    monkeypatch.setattr(layout, "_make", lambda *_: False)
    with pytest.raises(FileExistsError, match="record_to"):
        layout.claim("record_to", tmp_path / "run", {"who": 2})
    assert recording.open(tmp_path / "run").metadata["who"] == 1


def test_a_part_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """The error names the part, and what was published before stays."""
    layout.claim("record_to", tmp_path / "run", {})
    part = layout.PartWriter(tmp_path / "run", 0)
    part.write(served().array(), 0)
    named = part.abandon(OSError(errno.ENOSPC, "No space left on device"))
    assert named is not None
    assert (named.errno, named.filename) == (
        errno.ENOSPC,
        f"{tmp_path}/run/part-000-000000.parquet",
    )
    assert os.listdir(tmp_path / "run") == [layout.MANIFEST]


def test_the_operations_are_stored_by_name(made: Recording, stored: Any) -> None:
    """All that exist, in the order of their numbers."""
    table = pq.read_table(stored.files[0], columns=["op"])
    assert table["op"].chunk(0).dictionary.to_pylist() == [op.label for op in Op]
    assert frames.events(made.array())["op"].cat.categories.tolist() == [op.label for op in Op]
    assert all(one < other for one, other in pairwise(stored.files))
