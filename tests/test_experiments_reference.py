"""Our own runs beside the notebooks: each can be made anew, and shows what it is for."""

import pandas as pd
import pytest

import epolllab
from epolllab.experiments.reference import RUNS, reference_runs
from epolllab.widgets import reference as widgets_reference

QUICK = ("forgotten-drain", "three-endings", "haunted-interest")


@pytest.fixture
def made(tmp_path):
    """The quick ones, made now."""
    return reference_runs(tmp_path, QUICK)


def test_the_recordings_show_what_the_notebooks_say(made):
    """Three reads for three edges; three endings, of which the last is a reset."""
    drained = epolllab.Recording.load(made["forgotten-drain"]).events()
    reads = drained[(drained["op"] == "recv") & (drained["conn"] == 1)]
    assert reads["n_bytes"].tolist() == [1_000, 1_000, 533]
    ended = epolllab.Recording.load(made["three-endings"]).events()
    told = ended[(ended["op"] == "ready") & (ended["conn"] > 0)]
    last = told.groupby("conn")["mask_names"].last()
    assert last.tolist() == ["HUP", "HUP", "IN|ERR|HUP"]


def test_the_haunted_list_has_two_ghosts(made):
    """One that is alone with its number, and one whose number is another's now."""
    frame = pd.read_parquet(made["haunted-interest"])
    ghosts = frame[frame["where"] == "kernel only"]
    assert len(frame) == 4
    assert len(ghosts) == 2
    assert frame["fd"].nunique() == 3
    assert frame.attrs["circumstances"]["kernel"]


def test_an_unknown_run_is_refused_before_any_is_made(tmp_path):
    """The near name is said, and nothing is written."""
    with pytest.raises(ValueError, match="did you mean 'herd'"):
        reference_runs(tmp_path, ("forgotten-drain", "heard"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*RUNS, *widgets_reference.RUNS])
def test_each_run_is_in_the_data_folder(name):
    """What the notebooks show is there."""
    assert epolllab.reference(name).exists()


def test_the_steps_made_now_are_those_of_the_data_folder(tmp_path):
    """The kernel says to the same steps what it has said before; by another kernel, too."""
    (made,) = widgets_reference.reference_runs(tmp_path, ("stepper-history",)).values()
    now, then = pd.read_parquet(made), pd.read_parquet(epolllab.reference("stepper-history"))
    pd.testing.assert_frame_equal(now, then)
    assert now.attrs["circumstances"]["kernel"]


def test_the_dashboard_is_watched_with_one_client_and_with_fifty(tmp_path, monkeypatch):
    """Both loads are in the frame, one after the other, and with fifty there are batches."""
    monkeypatch.setattr(widgets_reference, "ROUNDS", 1)
    (made,) = widgets_reference.reference_runs(tmp_path, ("dashboard-live",)).values()
    frame = pd.read_parquet(made)
    one, fifty = (frame[frame["connections"] == n] for n in (1, 50))
    assert one["t_s"].iloc[0] < fifty["t_s"].iloc[-1]
    assert fifty["batch"].max() > 1.2
    assert frame.attrs["circumstances"]["kernel"]
    assert frame.attrs["parameters"]["poller"] == "epoll"
    assert epolllab.servers() == []


def test_clients_that_failed_leave_no_run(tmp_path, monkeypatch):
    """The error is raised, and a good file stays."""
    (tmp_path / "dashboard-live.parquet").write_text("good")

    def fail(*_):
        raise ZeroDivisionError("of the clients")

    monkeypatch.setattr("epolllab.widgets.load.Wishes.fire", fail)
    with pytest.raises(RuntimeError, match="of the clients"):
        widgets_reference.reference_runs(tmp_path, ("dashboard-live",))
    assert (tmp_path / "dashboard-live.parquet").read_text() == "good"
    assert epolllab.servers() == []
