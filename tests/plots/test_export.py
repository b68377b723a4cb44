"""Charts as files: all or none, the same bytes for the same input, nothing overwritten."""

import errno
import io
import json
import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from epolllab import Recording, plots
from epolllab.plots.export import FORMATS, default_folder, export
from epolllab.recording import storage
from tests.samples import served

mpl.use("Agg")


@pytest.fixture(scope="module", autouse=True)
def _fonts_are_open() -> None:
    """Let matplotlib open its fonts now: it keeps them once it has them."""
    for figure in (drawn(), Figure()):
        figure.text(0, 0, "x", weight="bold")
        for kind in FORMATS:
            figure.savefig(io.BytesIO(), format=kind)


def drawn(seed: int = 1) -> Figure:
    figure = Figure(figsize=(6, 3), layout="constrained")
    plots.timeline(served(seed=seed).events(), ax=figure.add_subplot(), note="of a script")
    return figure


def frame() -> pd.DataFrame:
    return pd.DataFrame({"n": [1, 2], "what": pd.Categorical(["a", "b"]), "x": [0.5, np.nan]})


def test_pictures_data_and_circumstances_stand_beside_each_other(tmp_path: Path) -> None:
    """One call leaves every file that it returns, and no other."""
    written = export(
        drawn(), "one", ("png", "svg", "pdf"), frame(), tmp_path,
        circumstances={"kernel": "6.1", "load_average": [0.5]}, parameters={"n": np.int64(3)},
    )  # fmt: skip
    assert list(written) == ["png", "svg", "pdf", "parquet", "json"]
    assert sorted(tmp_path.iterdir()) == sorted(written.values())
    assert written["png"].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in written["svg"].read_bytes()
    assert written["pdf"].read_bytes().startswith(b"%PDF")
    pd.testing.assert_frame_equal(pd.read_parquet(written["parquet"]), frame())
    words = json.loads(written["json"].read_text())
    assert words["parameters"] == {"n": 3}
    assert words["circumstances"] == {"kernel": "6.1", "load_average": [0.5]}
    assert words["rows"] == 2
    assert words["files"] == ["one.png", "one.svg", "one.pdf", "one.parquet"]
    assert words["drawn_on"]["matplotlib"] == mpl.__version__


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """A chart drawn anew from the same data differs in no byte, whatever came between."""
    first, second, third = (tmp_path / name for name in "abc")
    formats = ("png", "svg", "pdf")
    one = export(drawn(), "it", formats, served(), first)
    export(drawn(seed=2), "it", formats, served(), second)
    figure = drawn()
    two = export(figure, "it", formats, served(), third)
    again = export(figure, "it", formats, served(), third, overwrite=True)
    assert again == two
    for kind, path in one.items():
        assert path.read_bytes() == two[kind].read_bytes(), kind
    assert (second / "it.svg").read_bytes() != one["svg"].read_bytes()


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    """Without overwrite=True nothing is written at all, though only one name is taken."""
    taken = tmp_path / "it.svg"
    taken.write_text("mine")
    with pytest.raises(FileExistsError, match=r"it\.svg .*overwrite=True"):
        export(drawn(), "it", folder=tmp_path)
    assert list(tmp_path.iterdir()) == [taken]
    assert taken.read_text() == "mine"
    export(drawn(), "it", folder=tmp_path, overwrite=True)
    assert b"<svg" in taken.read_bytes()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs Linux's /sys")
def test_a_read_only_folder_is_said_before_anything_is_written() -> None:
    """The error names the folder and what to do, for root as well as for others."""
    with pytest.raises(OSError, match="folder=") as caught:
        export(drawn(), "it", folder="/sys/kernel")
    assert caught.value.filename == "/sys/kernel"
    assert caught.value.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    with pytest.raises(OSError, match="cannot be made"):
        export(drawn(), "it", folder="/sys/kernel/epolllab")


def test_a_folder_is_made_and_a_file_in_its_place_is_said(tmp_path: Path) -> None:
    """Missing folders are made; where one cannot be, the error says which."""
    export(drawn(), "it", "png", folder=tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "it.png").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be made"):
        export(drawn(), "it", folder=tmp_path / "file")


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b", "a\n", "x" * 101])
def test_a_name_that_is_no_plain_name_is_refused(name: str, tmp_path: Path) -> None:
    """No name leads out of the folder, hides, or needs quoting."""
    with pytest.raises(ValueError, match="cannot be a file's name"):
        export(drawn(), name, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wrong_wishes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Formats, figures, data and parameters are checked first."""
    for error, wishes in (
        (ValueError, {"formats": "jpeg"}),
        (ValueError, {"formats": ()}),
        (ValueError, {"formats": ("png", "png")}),
        (ValueError, {"data": frame(), "data_format": "xlsx"}),
        (TypeError, {"data": [1, 2]}),
        (TypeError, {"parameters": {"lock": object()}}),
    ):
        with pytest.raises(error):
            export(drawn(), "it", folder=tmp_path, **wishes)
    with pytest.raises(TypeError, match="Figure or Axes"):
        export("figure", "it", folder=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name is a str"):
        export(drawn(), 3, folder=tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    """Data that Parquet cannot hold is found when it is written; the pictures go, too."""
    mixed = pd.DataFrame({"x": [1, "a", object()]})
    with pytest.raises(ValueError, match="csv"):
        export(drawn(), "it", data=mixed, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_axes_stand_for_their_figure(tmp_path: Path) -> None:
    """One Axes, several of one figure, or an Axes within a part of a figure will do."""
    figure = Figure()
    axes = figure.subplots(1, 2)
    inner = Figure()
    part = inner.subfigures(1, 2)[0].subplots()
    for name, thing in (("one", axes[0]), ("all", axes), ("list", list(axes)), ("part", part)):
        export(thing, name, "png", folder=tmp_path)
    sizes = {(tmp_path / f"{name}.png").stat().st_size for name in ("one", "all", "list")}
    assert len(sizes) == 1
    with pytest.raises(ValueError, match="2 figures"):
        export([axes[0], part], "no", folder=tmp_path)


def test_data_as_text_and_as_a_recording(tmp_path: Path) -> None:
    """CSV keeps an index that has a meaning; a recording is saved as one."""
    series = pd.Series([1.5, 2.5], index=pd.Index(["a", "b"], name="key"), name="value")
    written = export(drawn(), "s", "svg", series, tmp_path, data_format="csv", circumstances={})
    assert written["csv"].read_text() == "key,value\na,1.5\nb,2.5\n"
    recording = served()
    written = export(drawn(), "r", "svg", recording, tmp_path)
    loaded = Recording.load(written["parquet"])
    assert loaded.rows == recording.rows
    assert json.loads(written["json"].read_text())["circumstances"] == dict(recording.metadata)


def test_default_folder_is_the_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From within notebooks/ charts go to data/charts beside it; elsewhere below here."""
    for name in ("lab/notebooks", "lab/data", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "lab" / "notebooks")
    assert default_folder() == tmp_path / "lab" / "data" / "charts"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert default_folder() == tmp_path / "elsewhere" / "data" / "charts"
    written = export(drawn(), "it", "png")
    assert written["png"] == tmp_path / "elsewhere" / "data" / "charts" / "it.png"


def test_a_file_that_comes_meanwhile_is_kept(tmp_path: Path) -> None:
    """Between the check and the rename another program may write the same name."""
    targets = [tmp_path / "a.txt", tmp_path / "b.txt"]

    def write() -> None:
        with storage.write_atomically(targets, overwrite=False) as lent:
            for path in lent:
                path.write_text("new")
            targets[1].write_text("other")

    with pytest.raises(FileExistsError, match="meanwhile"):
        write()
    assert list(tmp_path.iterdir()) == [targets[1]]
    assert targets[1].read_text() == "other"


def test_files_are_as_readable_as_any(tmp_path: Path) -> None:
    """The umask decides, as for a file that open() made."""
    export(drawn(), "it", "png", folder=tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert os.stat(tmp_path / "it.png").st_mode == os.stat(plain).st_mode


def test_exporting_changes_no_setting(tmp_path: Path) -> None:
    """The settings of matplotlib are the reader's own."""
    before = dict(mpl.rcParams)
    export(drawn(), "it", folder=tmp_path)
    assert dict(mpl.rcParams) == before
