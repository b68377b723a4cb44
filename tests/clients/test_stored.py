"""A run of clients: its wakeups, its charts, and its file."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import epolllab
from epolllab import plots


@pytest.fixture(scope="module")
def served() -> tuple[epolllab.Run, epolllab.Recording]:
    """A run of two client loops, and the server's recording."""
    with epolllab.start_server() as server:
        run = epolllab.run_clients(
            server, connections=6, requests=60, processes=2, keep_alive=True, progress=False
        )
        return run, server.settle().recording()


def test_wakeups_of_several_loops_are_those_of_each(
    served: tuple[epolllab.Run, epolllab.Recording],
) -> None:
    """In order of start, with numbers that stay unique."""
    run, _ = served
    frame = run.wakeups()
    each = [recording.wakeups() for recording in run.recordings()]
    assert len(each) == 2
    assert len(frame) == sum(map(len, each))
    assert frame["t_ns"].is_monotonic_increasing
    assert frame["wake"].is_unique
    for column in ("waited_ns", "handled_ns", "n_calls"):
        assert sorted(frame[column]) == sorted(pd.concat(each)[column])
    assert list(frame.columns) == list(each[0].columns)
    assert frame.dtypes.drop("error").equals(each[0].dtypes.drop("error"))


def test_a_run_is_the_same_after_it_was_saved(
    served: tuple[epolllab.Run, epolllab.Recording], tmp_path: Path
) -> None:
    """Every frame, the summary, the notes and the metadata; and it joins with the server's."""
    run, recording = served
    path = tmp_path / "run.parquet"
    assert run.save(path) == path
    loaded = epolllab.Run.load(path)
    for name in ("requests", "steps", "events", "wakeups", "shares"):
        pd.testing.assert_frame_equal(getattr(run, name)(), getattr(loaded, name)())
    pd.testing.assert_series_equal(run.summary(), loaded.summary())
    assert loaded.metadata == run.metadata
    assert loaded.notes == run.notes
    assert repr(loaded) == repr(run)
    assert [part.rows for part in loaded.recordings()] == [part.rows for part in run.recordings()]
    pd.testing.assert_frame_equal(run.journeys(recording), loaded.journeys(recording))
    assert len(loaded.journeys(recording)) == 60


def test_a_script_is_kept_with_its_steps(tmp_path: Path) -> None:
    """Which requests do not have."""
    with epolllab.start_server() as server:
        steps = epolllab.script().send(b"GET / HTTP/1.0\r\n\r\n").expect_end()
        run = epolllab.run_clients(server, connections=2, script=steps, progress=False)
    loaded = epolllab.Run.load(run.save(tmp_path / "run.parquet"))
    pd.testing.assert_frame_equal(run.steps(), loaded.steps())
    assert set(loaded.steps()["name"]) >= {"connect", "send", "expect_end"}


def test_a_file_that_is_no_run_is_refused(
    served: tuple[epolllab.Run, epolllab.Recording], tmp_path: Path
) -> None:
    """A recording, a changed row, another type, and a missing column; each names the file."""
    run, recording = served
    path = recording.save(tmp_path / "recording.parquet")
    with pytest.raises(ValueError, match=r"recording\.parquet .*not a run of clients.*Recording"):
        epolllab.Run.load(path)
    path = run.save(tmp_path / "run.parquet")
    table = pq.read_table(path)
    changed = table.slice(0, 1)
    lists = pa.chunked_array([pa.array([[1], [2]], pa.list_(pa.int64()))])
    for name, other in (
        ("rows", changed),
        ("type", table.set_column(0, "requests", lists)),
        ("column", table.drop_columns(["events"])),
    ):
        pq.write_table(other, tmp_path / f"{name}.parquet")
        with pytest.raises(ValueError, match=rf"{name}\.parquet (must have|is damaged)"):
            epolllab.Run.load(tmp_path / f"{name}.parquet")


def test_a_changed_value_is_noticed(
    served: tuple[epolllab.Run, epolllab.Recording], tmp_path: Path
) -> None:
    """By the digest, which the header has."""
    path = served[0].save(tmp_path / "run.parquet")
    table = pq.read_table(path)
    rows = table.column("steps").combine_chunks()
    events = table.column("events").combine_chunks()
    values = events.values.field("result").to_numpy().copy()
    values[0] += 1
    fields = [events.values.field(i) for i in range(events.values.type.num_fields)]
    names = [field.name for field in events.values.type]
    fields[names.index("result")] = pa.array(values)
    structs = pa.StructArray.from_arrays(fields, names=names)
    other = pa.ListArray.from_arrays(events.offsets, structs).cast(events.type)
    place = table.column_names.index("events")
    pq.write_table(table.set_column(place, "events", other), path)
    assert len(rows) == 2
    with pytest.raises(ValueError, match=r"run\.parquet is damaged: its rows or its metadata"):
        epolllab.Run.load(path)


def test_charts_of_a_run_and_of_its_server(
    served: tuple[epolllab.Run, epolllab.Recording],
) -> None:
    """Each side by itself, both by name, and their journeys."""
    run, recording = served
    assert dir(run.plot) == ["batch_sizes", "journey", "latency", "timeline", "wakeups"]
    assert "60 values" in plots.alt_text(run.plot.latency())
    both = plots.alt_text(plots.latency({"clients": run, "server": recording}))
    assert "clients, 60 values" in both
    assert "server, 60 values" in both
    assert "20 requests of 60" in plots.alt_text(run.plot.journey(server=recording))
    with pytest.raises(ValueError, match=r"^server must be given with a run"):
        run.plot.journey()
    with pytest.raises(TypeError, match=r"^server must be a Server or its Recording"):
        run.plot.journey(server=run)
    with pytest.raises(ValueError, match=r"^server must not be given with a frame"):
        plots.journey(run.journeys(recording), server=recording)
    with pytest.raises(TypeError, match=r"^frame must be the DataFrame of server\.interest\(\)"):
        plots.interest(run)  # type: ignore[arg-type]
