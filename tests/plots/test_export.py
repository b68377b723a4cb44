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


@pytest.fixture(scope="module", autouse=True)
def _fonts_are_open() -> None:
    """Let matplotlib open its fonts now: it keeps their files open."""
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


def test_images_data_and_circumstances_are_written_together(tmp_path: Path) -> None:
    """One call leaves every file that it returns, and no other."""
    written = export(
        drawn(), "one", ("png", "svg", "pdf"), frame(), tmp_path,
        circumstances={"kernel": "6.1", "load_average": [0.5]},
        parameters={"n": np.int64(3), "x": float("nan"), "path": Path("/a/b"), "names": {"b", "a"}},
    )  # fmt: skip
    assert list(written) == ["png", "svg", "pdf", "parquet", "json"]
    assert sorted(tmp_path.iterdir()) == sorted(written.values())
    assert written["png"].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in written["svg"].read_bytes()
    assert written["pdf"].read_bytes().startswith(b"%PDF")
    pd.testing.assert_frame_equal(pd.read_parquet(written["parquet"]), frame())
    content = json.loads(written["json"].read_text())
    assert content["parameters"] == {"n": 3, "x": None, "path": "b", "names": ["a", "b"]}
    assert content["circumstances"] == {"kernel": "6.1", "load_average": [0.5]}
    assert content["rows"] == 2
    assert content["files"] == ["one.png", "one.svg", "one.pdf", "one.parquet"]
    assert content["drawn_on"]["matplotlib"] == mpl.__version__


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Also after other exports, and for a figure that was displayed or exported before."""
    first, second, third = (tmp_path / name for name in "abc")
    one = export(drawn(), "it", FORMATS, served(), first)
    export(drawn(seed=2), "it", FORMATS, served(), second)
    assert (second / "it.svg").read_bytes() != one["svg"].read_bytes()
    figure = drawn()
    for _ in range(2):
        figure.canvas.draw()
        two = export(figure, "it", FORMATS, served(), third, overwrite=True)
        for kind, path in one.items():
            assert path.read_bytes() == two[kind].read_bytes(), kind


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    """Without overwrite=True nothing is written, even if only one name is taken."""
    taken = tmp_path / "it.svg"
    taken.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export(drawn(), "it", folder=tmp_path)
    assert list(tmp_path.iterdir()) == [taken]
    assert taken.read_text() == "mine"
    export(drawn(), "it", folder=tmp_path, overwrite=True)
    assert b"<svg" in taken.read_bytes()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs Linux's /sys")
@pytest.mark.parametrize("folder", ["/sys/kernel", "/sys/kernel/epolllab"])
def test_a_read_only_folder_is_an_error_that_names_it(folder: str) -> None:
    """For root as well as for others; it cannot be written to, or not be made."""
    with pytest.raises(OSError, match="nothing was written") as caught:
        export(drawn(), "it", folder=folder)
    assert caught.value.filename == folder
    assert caught.value.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def test_a_folder_is_made_unless_a_file_has_its_name(tmp_path: Path) -> None:
    """Missing parents are made, too."""
    export(drawn(), "it", "png", folder=tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "it.png").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="folder"):
        export(drawn(), "it", folder=tmp_path / "file")


@pytest.mark.parametrize(
    ("error", "parameter", "value"),
    [
        *((ValueError, "name", n) for n in ("", "a/b", "../a", ".a", "a b", "a\n", "x" * 101)),
        (TypeError, "name", 3),
        (TypeError, "figure", "figure"),
        (ValueError, "formats", "jpeg"),
        (ValueError, "formats", ()),
        (ValueError, "formats", ("png", "png")),
        (ValueError, "data_format", "xlsx"),
        (TypeError, "data", [1, 2]),
        (TypeError, "parameters", {"lock": object()}),
        # Parquet finds this only when it is written; the images go, too.
        (ValueError, "data", pd.DataFrame({"x": [1, "a", object()]})),
    ],
)  # fmt: skip
def test_invalid_arguments_leave_no_file(
    error: type[Exception], parameter: str, value: object, tmp_path: Path
) -> None:
    """The message names the parameter."""
    arguments = {"figure": drawn(), "name": "it", parameter: value}
    with pytest.raises(error, match=rf"^{parameter}\b"):
        export(folder=tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_axes_stand_for_their_figure(tmp_path: Path) -> None:
    """One Axes, several of one figure, or an Axes within a subfigure."""
    figure = Figure()
    axes = figure.subplots(1, 2)
    part = Figure().subfigures(1, 2)[0].subplots()
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
    """From within notebooks/ charts go to data/exports beside it; elsewhere below here."""
    for name in ("lab/notebooks", "lab/data", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "lab" / "notebooks")
    assert default_folder() == tmp_path / "lab" / "data" / "exports"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert default_folder() == tmp_path / "elsewhere" / "data" / "exports"
    written = export(drawn(), "it", "png")
    assert written["png"] == tmp_path / "elsewhere" / "data" / "exports" / "it.png"


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    """As a file that open() made."""
    export(drawn(), "it", "png", folder=tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert os.stat(tmp_path / "it.png").st_mode == os.stat(plain).st_mode


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    """Another program may write the same name between the check and the rename."""
    targets = [tmp_path / "a.txt", tmp_path / "b.txt"]

    def write() -> None:
        with storage.write_atomically(targets, overwrite=False) as temporary:
            for path in temporary:
                path.write_text("new")
            targets[1].write_text("other")

    with pytest.raises(FileExistsError) as caught:
        write()
    assert caught.value.filename == str(targets[1])
    assert list(tmp_path.iterdir()) == [targets[1]]
    assert targets[1].read_text() == "other"
