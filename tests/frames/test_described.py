"""Frames describe their columns, and can have a time that people can read."""

import pandas as pd
import pytest

from epolllab import frames, schema
from epolllab.frames.clients import client_wakeups
from epolllab.recording import Recording
from tests.samples import Script, served


@pytest.mark.parametrize("recording", [served(3, 3), Recording(b"")], ids=["some", "none"])
@pytest.mark.parametrize("name", ["events", "wakeups", "requests", "connections", "callbacks"])
def test_every_column_of_a_frame_is_described(recording: Recording, name: str) -> None:
    """In attrs, in the frame's order, also for a frame without rows; and so in the help."""
    frame = getattr(recording, name)()
    described = frame.attrs["columns"]
    assert list(described) == list(frame.columns)
    assert all(len(words) > 5 and "\n" not in words for words in described.values())
    for words in described.values():
        assert words.split()[0] in getattr(Recording, name).__doc__


def test_descriptions_survive_what_is_done_to_a_frame() -> None:
    """A selection has them, and changing a copy does not change those of the next frame."""
    recording = served(3, 3)
    some = recording.events().query("op == 'recv'")
    assert some.attrs["columns"]["dur_ns"] == "how long it took; 0 for ready rows"
    some.attrs["columns"]["dur_ns"] = "changed"
    assert recording.events().attrs["columns"]["dur_ns"] != "changed"


@pytest.mark.parametrize("table", ["JOURNEYS", "CLIENT_REQUESTS", "INTEREST"])
def test_tables_of_other_frames_are_read(table: str) -> None:
    """Their columns, and descriptions over several lines as one."""
    found = schema.columns_of(getattr(schema, table))
    expected = {
        "JOURNEYS": ("conn", "total", "waiting", "had no connection free"),
        "CLIENT_REQUESTS": ("conn", "latency_ns", "intended_ns", "free for it, before connecting"),
        "INTEREST": ("fd", "inode", "own_mask", "program has no entry"),
    }[table]
    first, last, column, words = expected
    assert (next(iter(found)), list(found)[-1]) == (first, last)
    assert words in found[column]


def test_journeys_describe_the_columns_that_they_have() -> None:
    """All of them, in order."""
    clients = pd.DataFrame(columns=list(frames.CLIENT_REQUESTS)).astype(frames.CLIENT_REQUESTS)
    frame = frames.journeys(served(1, 1).requests(), clients)
    assert list(frame.attrs["columns"]) == list(frame.columns)


@pytest.mark.parametrize("name", ["events", "wakeups"])
def test_a_relative_time_is_a_first_column_of_timedeltas(name: str) -> None:
    """From the recording's first event, in nanoseconds; the other columns are the same."""
    script = Script(call_ns=1000, pause_ns=500).recv(1, 5).wait(1, ns=4000).recv(1, 5).wait(0)
    recording = script.recording()
    plain, timed = getattr(recording, name)(), getattr(recording, name)(relative=True)
    assert list(timed.columns) == ["t", *plain.columns]
    pd.testing.assert_frame_equal(timed.drop(columns="t"), plain)
    assert timed["t"].dtype == "timedelta64[ns]"
    ns = [0, 1500, 6000, 7500] if name == "events" else [1500, 7500]
    assert timed["t"].tolist() == [pd.Timedelta(n, unit="ns") for n in ns]
    assert next(iter(timed.attrs["columns"])) == "t"
    assert "t" not in getattr(recording, name)().attrs["columns"]


@pytest.mark.parametrize("name", ["events", "wakeups"])
def test_a_relative_time_of_nothing_has_its_type(name: str) -> None:
    """And a wrong value is refused."""
    frame = getattr(Recording(b""), name)(relative=True)
    assert frame["t"].dtype == "timedelta64[ns]"
    with pytest.raises(TypeError, match=r"^relative must be True or False"):
        getattr(Recording(b""), name)(relative="yes")


def test_wakeups_of_several_loops_keep_their_errors_apart() -> None:
    """Each loop has categories of its own, and the joined frame all of them."""
    loops = [Script().wait(-4).wait(1).recording(), Script().wait(-9).recording()]
    frame = client_wakeups(loop.array() for loop in loops)
    assert sorted(frame["error"].dropna()) == ["EBADF", "EINTR"]
    assert frame["wake"].tolist() in ([1, 3, 2], [1, 2, 3], [3, 1, 2])
    assert frame["wake"].is_unique
