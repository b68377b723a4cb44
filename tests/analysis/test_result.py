"""Result: what it gives, that it cannot be changed, and its files."""

import pandas as pd
import pyarrow.parquet as pq
import pytest

from epolllab import experiments
from epolllab.analysis import Result
from epolllab.analysis import result as result_file
from epolllab.experiments.scaling.variants import APIS, POLLERS

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
