"""The reference results: the script makes them, and they show what notebooks say."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

import epolllab

SCRIPT = Path(epolllab.__file__).parents[1] / "data" / "make_reference.py"
spec = importlib.util.spec_from_file_location("make_reference", SCRIPT)
assert spec is not None
assert spec.loader is not None
make_reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_reference)

QUICK = ("forgotten-drain", "three-endings")


@pytest.fixture
def made(tmp_path):
    """The results that take less than a second."""
    return {path.stem: path for path in make_reference.make(QUICK, tmp_path)}


def test_the_recordings_show_what_the_notebooks_say(made):
    """Three reads for three edges; three ends, of which the last is a reset."""
    drained = epolllab.Recording.load(made["forgotten-drain"]).events()
    reads = drained[(drained["op"] == "recv") & (drained["conn"] == 1)]
    assert reads["n_bytes"].tolist() == [1_000, 1_000, 533]
    ended = epolllab.Recording.load(made["three-endings"]).events()
    ready = ended[(ended["op"] == "ready") & (ended["conn"] > 0)]
    last = ready.groupby("conn")["mask_names"].last()
    assert last.tolist() == ["HUP", "HUP", "IN|ERR|HUP"]


def test_unknown_names_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"^name .*'herd'"):
        make_reference.make(("forgotten-drain", "heard"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_environments_are_interpreters_and_a_low_limit(monkeypatch):
    """They are named by the user; without them nothing of a cluster is started."""
    monkeypatch.setenv("EPOLLLAB_PYTHONS", "a/python:b/python")
    assert make_reference.environments() == [
        ("a/python", 20_000), ("b/python", 20_000), ("b/python", 256)
    ]  # fmt: skip
    monkeypatch.delenv("EPOLLLAB_PYTHONS")
    with pytest.raises(ValueError, match=r"^EPOLLLAB_PYTHONS must"):
        make_reference.environments()


@pytest.mark.unit
def test_the_results_of_several_kernels_say_what_differed():
    """One kernel and one machine, three Pythons, and one worker with few descriptors."""
    frame = pd.read_parquet(epolllab.reference("kernels-phenomena"))
    found = frame.groupby("worker")[["kernel", "host", "cpu", "python", "descriptor_limit"]].first()
    assert found[["kernel", "host", "cpu"]].nunique().tolist() == [1, 1, 1]
    assert found["python"].nunique() == 3
    assert found["descriptor_limit"].tolist() == [20_000, 20_000, 20_000, 256]
    assert frame.attrs["failures"] == []
    for name in ("kernels-sweep", "kernels-sweep-tcp"):
        result = epolllab.analysis.Result.load(epolllab.reference(name))
        assert result.frame.groupby("worker")["python"].first().tolist() == found["python"].tolist()


@pytest.mark.unit
def test_the_data_folder_has_every_result():
    files = {path.stem for path in (SCRIPT.parent / "reference").iterdir()}
    assert files == set(make_reference.RUNS)


@pytest.mark.slow
def test_the_dashboard_has_one_client_then_fifty(tmp_path, monkeypatch):
    """Fifty connections give batches of more than one event."""
    monkeypatch.setattr(make_reference, "ROUNDS", 1)
    (made,) = make_reference.make(("dashboard-live",), tmp_path)
    frame = pd.read_parquet(made)
    one, fifty = (frame[frame["connections"] == n] for n in (1, 50))
    assert one["t_s"].iloc[0] < fifty["t_s"].iloc[-1]
    assert fifty["batch"].max() > 1.2
    assert frame.attrs["circumstances"]["kernel"]
    assert frame.attrs["parameters"]["poller"] == "epoll"
    assert epolllab.servers() == []


def test_clients_that_fail_leave_the_file(tmp_path, monkeypatch):
    (tmp_path / "dashboard-live.parquet").write_text("good")

    def fail(*_):
        raise ZeroDivisionError("in a client")

    monkeypatch.setattr("epolllab.widgets.load.LoadOptions.run_round", fail)
    with pytest.raises(RuntimeError, match="in a client"):
        make_reference.make(("dashboard-live",), tmp_path)
    assert (tmp_path / "dashboard-live.parquet").read_text() == "good"
    assert epolllab.servers() == []


@pytest.mark.unit
def test_results_before_an_interrupted_one_are_saved(tmp_path, monkeypatch):
    frame = pd.DataFrame({"n": [1]})
    cut = frame.copy()
    cut.attrs["interrupted"] = True
    monkeypatch.setattr(make_reference, "RUNS", {"one": lambda: frame, "two": lambda: cut})
    with pytest.raises(KeyboardInterrupt, match="two"):
        make_reference.make(("one", "two"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["one.parquet"]
