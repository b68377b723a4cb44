"""The command line, and the files it works on."""

import subprocess
import sys
from pathlib import Path

import pytest

import epolllab
from epolllab import Recording
from epolllab.__main__ import main
from epolllab.notebook import paths


def test_demo_writes_a_recording_and_charts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo prints a table and the names of the files it wrote."""
    assert main(["demo", "--folder", str(tmp_path), "--requests", "60", "--connections", "5"]) == 0
    printed = capsys.readouterr().out
    written = [Path(line.removeprefix("wrote ")) for line in printed.splitlines()[-4:]]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    recording = Recording.load(written[0])
    assert recording.counts()["handle"] == 60
    assert "requests_per_s" in printed
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[1:])


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in ("kernel:", "clock:", "descriptors:", "recorder:"):
        assert word in printed


def test_an_invalid_argument_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1, and there is no traceback."""
    assert main(["demo", "--folder", str(tmp_path), "--connections", "0"]) == 1
    assert capsys.readouterr().err.startswith("epolllab demo: connections")


@pytest.mark.parametrize(
    ("argument", "printed"),
    [("--help", "{lab,demo,serve,info}"), ("--version", f"epolllab {epolllab.__version__}\n")],
)
def test_python_m(argument: str, printed: str) -> None:
    """``python -m epolllab`` is the same command."""
    done = subprocess.run(
        [sys.executable, "-m", "epolllab", argument], capture_output=True, text=True, check=True
    )
    assert printed in done.stdout


@pytest.mark.unit
def test_lab_folder_is_filled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a checkout the notebooks are copied, and a reader's changes are kept."""
    bundled = tmp_path / "bundled"
    (bundled / "notebooks").mkdir(parents=True)
    (bundled / "notebooks" / "01-a.ipynb").write_text("ours")
    (bundled / "data" / "reference").mkdir(parents=True)
    (bundled / "data" / "reference" / "x.parquet").write_text("data")
    monkeypatch.setattr(paths, "_BUNDLED", bundled)
    lab = tmp_path / "lab"
    assert paths.copy_lab(lab) == lab / "notebooks"
    (lab / "notebooks" / "01-a.ipynb").write_text("the reader's")
    paths.copy_lab(lab)
    assert (lab / "notebooks" / "01-a.ipynb").read_text() == "the reader's"
    assert (lab / "data" / "reference" / "x.parquet").read_text() == "data"


@pytest.mark.unit
def test_an_unknown_reference_lists_those_that_exist() -> None:
    assert paths.reference("sample-run").exists()
    with pytest.raises(FileNotFoundError, match="sample-run"):
        paths.reference("sample-ran")
