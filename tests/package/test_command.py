"""The command, run as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from epolllab import Recording
from epolllab.__main__ import main
from epolllab.notebook import paths


def test_demo_writes_a_recording_and_charts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo serves, loads, prints a table, and leaves what it says that it wrote."""
    assert main(["demo", "--folder", str(tmp_path), "--requests", "60", "--connections", "5"]) == 0
    printed = capsys.readouterr().out
    written = [Path(line.removeprefix("wrote ")) for line in printed.splitlines()[-4:]]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    recording = Recording.load(written[0])
    assert recording.counts()["handle"] == 60
    assert "requests_per_s" in printed
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[1:])


def test_info_tells_kernel_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    """What a reader needs to judge a number is printed."""
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in ("kernel:", "clock:", "descriptors:", "recorder:"):
        assert word in printed


def test_a_wrong_wish_is_one_line_and_a_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the user's is no traceback."""
    assert main(["demo", "--folder", str(tmp_path), "--connections", "0"]) == 1
    assert capsys.readouterr().err.startswith("epolllab demo: connections")


def test_module_and_script_are_the_same_command() -> None:
    """``python -m epolllab`` answers with the command's own help."""
    done = subprocess.run(
        [sys.executable, "-m", "epolllab", "--help"], capture_output=True, text=True, check=True
    )
    assert all(word in done.stdout for word in ("lab", "demo", "info"))


def test_lab_folder_is_filled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a checkout the notebooks are copied, and a reader's own work is kept."""
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


def test_reference_names_what_there_is() -> None:
    """An unknown recorded run is answered with those that exist."""
    assert paths.reference("sample-run").exists()
    with pytest.raises(FileNotFoundError, match="sample-run"):
        paths.reference("sample-ran")
