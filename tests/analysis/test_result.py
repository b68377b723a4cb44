"""Result: what it gives, that it cannot be changed, and its files."""

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epolllab import experiments
from epolllab.analysis import Result
from epolllab.analysis import result as result_file
from epolllab.experiments.scaling.variants import APIS, POLLERS
from epolllab.recording import storage

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def result():
    """One small sweep for all tests."""
    return experiments.sweep((3, 6), ops=4, rounds=2, warmup=1, progress=False)


def test_save_and_load(result, tmp_path):
    """A file gives back the frame with its dtypes, the circumstances and the summary."""
    loaded = Result.load(result.save(tmp_path / "run.parquet"))
    pd.testing.assert_frame_equal(loaded.frame, result.frame)
    assert dict(loaded.circumstances) == dict(result.circumstances)
    pd.testing.assert_frame_equal(loaded.summary(), result.summary())
    assert loaded.frame.attrs == result.frame.attrs
    assert len(list(tmp_path.iterdir())) == 1


def test_foreign_files_are_refused(result, tmp_path, monkeypatch):
    """Text, a Parquet file of something else and a newer format have different errors."""
    (tmp_path / "text").write_text("hello")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other")
    with monkeypatch.context() as later:
        later.setattr(result_file, "FORMAT_VERSION", 99)
        result.save(tmp_path / "new")
    for name, message in (("text", "Parquet"), ("other", "experiment"), ("new", "99")):
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            Result.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Result.load(tmp_path / "none")


FRAMES = {
    "numbers": pd.DataFrame({c: np.array([0, 1], c) for c in ("i1", "u4", "u8", "f4", "f8")}),
    "not numbers": pd.DataFrame({"a": [1.0, np.nan, -0.0, np.inf], "b": [True, False] * 2}),
    "categories": pd.DataFrame({"a": pd.Categorical(["y", None], ["x", "y"], ordered=True)}),
    "numbers as categories": pd.DataFrame({"a": pd.Categorical([1, 3], [1, 3])}),
    "missing": pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": ["x", None]}),
    "times": pd.DataFrame({"a": pd.to_datetime(["2026-01-01", None], utc=True)}),
    "lists": pd.DataFrame({"a": [[1, 2], [3]], "b": [b"1", b"2"]}),
    "one value in many rows": pd.DataFrame({"a": pd.Categorical(["x"] * 1_100_000)}),
    "no rows": pd.DataFrame({"a": np.empty(0), "b": pd.Categorical([], ["x"])}),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_file_with_any_columns_is_not_taken_for_damage(name, tmp_path):
    """What is verified does not depend on how Parquet encodes it."""
    loaded = Result.load(Result("made", FRAMES[name], {}).save(tmp_path / "run"))
    assert list(loaded.frame) == list(FRAMES[name])
    if name == "one value in many rows":
        assert loaded.frame.equals(FRAMES[name])  # which is faster than the next
    elif name not in ("no rows", "numbers as categories"):  # Parquet keeps no such categories
        pd.testing.assert_frame_equal(loaded.frame, FRAMES[name])


def changed(path, table=None, **parts):
    """Save a result, then change its table or parts of its header; None leaves a part out."""
    made = pd.DataFrame({"round": [0, 1], "v": ["a", "b"], "ns": [1.5, 2.5]})
    Result("made", made, {"notes": ["n"]}, ("v",), ("ns",), "round").save(path)
    found = pq.read_table(path)
    key = result_file.METADATA_KEY
    header = json.loads(found.schema.metadata[key]) | parts
    header = {name: part for name, part in header.items() if part != "left out"}
    schema = {**found.schema.metadata, key: json.dumps(header)}
    pq.write_table((table or (lambda t: t))(found).replace_schema_metadata(schema), path)
    return path


@pytest.mark.parametrize(
    "table",
    [
        lambda t: t.set_column(0, "round", pa.array([0, 2])),
        lambda t: t.set_column(0, "round", pa.array([0, None])),
        lambda t: t.set_column(0, "round", pa.array([0, 1], pa.int32())),
        lambda t: t.rename_columns(["v", "round", "ns"]),
        lambda t: t.drop_columns("ns"),
        lambda t: t.append_column("more", pa.array([0, 1])),
        lambda t: t.slice(1),
        lambda t: pa.concat_tables([t, t]),
        lambda t: t.take([1, 0]),
    ],
)
def test_a_changed_table_is_refused(table, tmp_path):
    """The digest covers names, types, values and order."""
    with pytest.raises(ValueError, match="run is damaged"):
        Result.load(changed(tmp_path / "run", table))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("name", 5), ("by", "v"), ("by", ["absent"]), ("values", None), ("values", [[1]]),
        ("x", "absent"), ("x", 5), ("circumstances", []), ("circumstances", {"notes": "text"}),
        ("circumstances", {"notes": [1]}), ("name", "left out"), ("x", "left out"),
        ("format_version", "1"), ("format_version", 0), ("more", 1), ("digest", "0" * 32),
    ],
)  # fmt: skip
def test_a_header_with_impossible_parts_is_refused(version, part, value, tmp_path):
    """In both formats, of which the first has no digest."""
    parts = {"format_version": version, part: value}
    if version == 1:
        parts.setdefault("digest", "left out")
    with pytest.raises(ValueError, match="run"):
        Result.load(changed(tmp_path / "run", **parts))


def test_a_file_of_format_1_is_read(tmp_path):
    """It has no digest."""
    path = changed(tmp_path / "run", format_version=1, digest="left out")
    loaded = Result.load(path)
    assert (loaded.by, loaded.values, loaded.x) == (("v",), ("ns",), "round")
    assert loaded.frame["ns"].tolist() == [1.5, 2.5]


def test_a_throttled_result_says_so():
    """Its repr, its method box and the line under its charts have the time and the quota."""
    made = Result("made", pd.DataFrame({"a": [1]}), {
        "cpu_quotas": {"/": 0.2}, "nr_throttled": 0, "throttled_usec": 0,
        "nr_throttled_end": 9, "throttled_usec_end": 812_000,
    })  # fmt: skip
    text = "throttled for 812 ms by a CPU quota of 0.2 processors"
    assert text in repr(made)
    assert text in made.describe()
    assert text in made.frame.attrs["circumstances"]


def test_text_that_grows_beyond_the_memory_is_refused(tmp_path, monkeypatch):
    """It is in the file once, and in every row of the table."""
    table = pa.table({"a": ["x" * 10_000] * 20_000})
    header = {"format_version": 1, "name": "made", "by": [], "values": [], "x": None,
              "circumstances": {}}  # fmt: skip
    schema = {result_file.METADATA_KEY: json.dumps(header)}
    pq.write_table(table.replace_schema_metadata(schema), tmp_path / "run")
    assert (tmp_path / "run").stat().st_size < 100_000
    assert len(Result.load(tmp_path / "run")) == 20_000
    monkeypatch.setattr(storage, "memory_available", lambda: 50 << 20)
    with pytest.raises(ValueError, match=r"run cannot be read here: its values .* memory"):
        Result.load(tmp_path / "run")


def test_a_failed_save_leaves_nothing(result, tmp_path, monkeypatch):
    """An incomplete file is removed, and an earlier file stays."""
    path = result.save(tmp_path / "run.parquet")
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        result.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_immutable(result):
    frame = result.frame
    frame.loc[:, "wait_ns"] = 0
    assert (result["wait_ns"] > 0).all()
    assert len(result) == len(frame)
    with pytest.raises(AttributeError):
        result.name = "other"
    with pytest.raises(TypeError):
        result.circumstances["kernel"] = "other"


def test_a_result_is_not_a_frame(result):
    assert not hasattr(result, "groupby")
    with pytest.raises(KeyError, match="no_such_column"):
        result["no_such_column"]


def test_circumstances(result):
    """System, instrument cost and parameters are there, also as text."""
    for key in ("kernel", "clock_cost_ns", "recorder_cost_ns", "boot_id", "seconds", "seed"):
        assert result.circumstances[key] is not None
    assert result.circumstances["raw_floor_ns"] > 0
    assert "kernel:" in result.describe()
    assert "sweep" in repr(result)
    assert "measurements" in result._repr_html_()


def weak(medians):
    """A result with these medians of each round, by variant."""
    rows = [
        {"poller": poller, "round": number, "wait_ns": ns * 1.0}
        for poller, rounds in medians.items()
        for number, ns in enumerate(rounds)
        for _ in range(10)
    ]
    return Result("sweep", pd.DataFrame(rows), {"clock_cost_ns": 20.0}, ["poller"], ["wait_ns"])


def test_doubts_are_notes_under_the_table():
    """Each kind once, with its range over the variants; the rows have its number."""
    found = weak({"a": (100, 200, 400), "b": (100, 160, 160), "c": (1000, 1000, 1000)})
    page = found._repr_html_()
    table, _, below = page.rpartition("</table>")
    first, second, third = re.sub("<[^>]*>", "", below).splitlines()
    assert re.fullmatch(r"1: wait_ns: the interval is \d+ to \d+% of the median wide", first)
    assert second == "2: wait_ns: rounds differ by a factor 1.6 to 4.0"
    assert third == "3: wait_ns: reading the clock is 12% of it"
    rows = [re.findall("<td>([^<]*)</td>", row) for row in table.split("<tr>")]
    assert [(row[0], row[-1]) for row in rows if row] == [
        ("a", "1, 2"),
        ("b", "1, 2, 3"),
        ("c", ""),
    ]
    assert "doubt" not in page


def test_a_table_without_doubts_has_no_notes():
    assert "note" not in weak({"c": (1000, 1000, 1000)})._repr_html_()


def test_fits_and_checks(result):
    """There is a line per variant; an experiment without sizes has neither."""
    table = result.fits()
    assert len(table) == len(POLLERS) * len(APIS)
    assert {"a", "b", "b_low", "b_high", "residual", "exponent"} <= set(table.columns)
    made = Result("made", pd.DataFrame({"round": [0]}), {}, ("round",), ("round",))
    with pytest.raises(ValueError, match="made has no axis"):
        made.fits()
    with pytest.raises(ValueError, match=r"checks.* this is made"):
        made.checks()
