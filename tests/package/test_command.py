"""The command line, and the files it works on."""

import errno
import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import epolllab
from epolllab import Recording
from epolllab import __main__ as command
from epolllab.__main__ import main
from epolllab.notebook import lab, paths
from epolllab.notebook.lab import LabCopy


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


def test_demos_of_the_same_second_keep_their_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second takes a new name for all of its files."""
    monkeypatch.setattr(command.time, "strftime", lambda _: "demo-now")
    for requests in ("30", "40"):
        arguments = ["--folder", str(tmp_path), "--connections", "2", "--requests", requests]
        assert main(["demo", *arguments]) == 0
    assert len(list(tmp_path.iterdir())) == 8
    recordings = [
        Recording.load(tmp_path / f"{name}.parquet") for name in ("demo-now", "demo-now-2")
    ]
    assert [recording.counts()["handle"] for recording in recordings] == [30, 40]


def test_an_interrupted_demo_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table says so, and the exit status is that of an interrupt."""
    run_clients = epolllab.run_clients

    def interrupted(*args: Any, **options: Any) -> epolllab.Run:
        run = run_clients(*args, **options)
        return epolllab.Run(run._parts, {**run.metadata, "interrupted": True})

    monkeypatch.setattr(epolllab, "run_clients", interrupted)
    arguments = ["demo", "--folder", str(tmp_path), "--requests", "60", "--connections", "5"]
    assert main(arguments) == 130
    assert "interrupted after" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_a_demo_that_cannot_save_leaves_no_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Recording, path: Path) -> Path:
        raise OSError(errno.ENOSPC, "disk full", str(path))

    monkeypatch.setattr(Recording, "save", fail)
    assert main(["demo", "--folder", str(tmp_path), "--connections", "1", "--requests", "2"]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["a file", "below a file", "no folder possible", "full"])
def test_demo_checks_its_folder_before_the_load(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No server is started: a unit test may not."""
    (tmp_path / "file").touch()
    folder = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "x",
        "no folder possible": Path("/proc/epolllab"),
    }.get(kind, tmp_path / "new" / "folder")
    if kind == "full":
        monkeypatch.setattr(command.tempfile, "TemporaryFile", full_file)
    assert main(["demo", "--folder", str(folder)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"epolllab demo: folder {folder} ")
    assert "Traceback" not in printed


def full_file(**_: Any) -> io.BytesIO:
    """Raise as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in ("kernel:", "clock:", "descriptors:", "recorder:"):
        assert word in printed


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "latin-1", "utf-8"])
def test_output_in_any_encoding(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A micro sign becomes a u where it cannot be printed; a file name is escaped."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    (tmp_path / "\N{SNOWMAN}").touch()
    assert main(["info"]) == 0
    assert main(["demo", "--folder", str(tmp_path / "\N{SNOWMAN}")]) == 1
    printed = [text.buffer.getvalue().decode(encoding) for text in (out, err) if not text.flush()]
    assert ("us a record" if encoding == "ascii" else "µs a record") in printed[0]
    assert ("\N{SNOWMAN}" if encoding == "utf-8" else r"\u2603") in printed[1]


def test_output_to_a_closed_pipe() -> None:
    """As in ``epolllab info | head -1``: neither a traceback nor a message."""
    run = [sys.executable, "-m", "epolllab", "info"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [["demo", "--connections", "0"], ["demo", "--requests", "0"], ["demo", "--requests", "-5"]],
)
def test_an_invalid_argument_is_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1, and there is no traceback."""
    assert main([*arguments, "--folder", str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err.startswith(f"epolllab demo: {arguments[1][2:]} ")
    assert not (tmp_path / "new").exists()


@pytest.mark.unit
@pytest.mark.parametrize("name", ["demo", "info", "serve"])
@pytest.mark.parametrize("unknown", [["--port-number", "1"], ["x"], ["--", "x"], ["--token", "x"]])
def test_only_lab_takes_unknown_arguments(
    name: str, unknown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([name, *unknown])
    assert unknown[-1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "printed"),
    [("--help", "{lab,demo,"), ("--version", f"epolllab {epolllab.__version__}\n")],
)
def test_python_m(argument: str, printed: str) -> None:
    """``python -m epolllab`` is the same command."""
    done = subprocess.run(
        [sys.executable, "-m", "epolllab", argument], capture_output=True, text=True, check=True
    )
    assert printed in done.stdout


LAB = """
    import json, os, signal, sys
    handled = [signal.getsignal(number) is default for number, default in (
        (signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL))]
    print(json.dumps([os.getpid(), handled, sys.argv[1:], sys.path]))
"""


def test_lab_replaces_its_process_by_jupyterlab(tmp_path: Path) -> None:
    """So a Ctrl-C and a SIGTERM are JupyterLab's, and so is the exit status."""
    module = tmp_path / "modules" / "jupyterlab"
    module.mkdir(parents=True)
    (module / "__init__.py").touch()
    (module / "__main__.py").write_text(textwrap.dedent(LAB) + "sys.exit(7)\n")
    options = ["--no-browser", "--port", "8899", "--", "-y", "--", "--folder", "x", "a b"]
    run = [sys.executable, "-m", "epolllab", "lab", *options]
    environment = {**os.environ, "PYTHONPATH": str(module.parent)}
    with subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment
    ) as process:
        output, warning = process.communicate()
    where, line = output.splitlines()
    pid, handled, given, path = json.loads(line)
    notebooks = tmp_path.resolve() / "epolllab-lab" / "notebooks"
    assert where.decode() == f"The notebooks are in {notebooks}; your changes there are kept."
    assert (pid, process.returncode) == (process.pid, 7)
    assert handled == [True, True]
    assert given[0] == f"--ServerApp.root_dir={notebooks}"
    assert given[1] == "--LabApp.default_url=/lab/tree/00-index.ipynb"
    assert (notebooks / "00-index.ipynb").read_bytes() == (
        paths.notebooks() / "00-index.ipynb"
    ).read_bytes()
    expected = [option for n, option in enumerate(options) if n != 3]
    as_root = ["--allow-root"] if os.geteuid() == 0 else []
    assert given[2:] == [*as_root, *expected]
    assert bool(warning) == bool(as_root)
    assert str(tmp_path) not in path  # a file there could stand in for a module


@pytest.mark.unit
@pytest.mark.parametrize(
    ("uid", "passed", "expected"),
    [
        (1000, [], []),
        (0, [], ["--allow-root"]),
        (0, ["--allow-root"], ["--allow-root"]),
        (0, ["--port=1"], ["--allow-root", "--port=1"]),
        (0, ["--ServerApp.allow_root=False"], ["--ServerApp.allow_root=False"]),
    ],
)
def test_lab_allows_root_with_a_warning(
    uid: int,
    passed: list[str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Unless the option is given, or refused."""

    def execv(_: str, arguments: list[str]) -> None:
        given.extend(arguments)
        raise SystemExit

    given: list[str] = []
    monkeypatch.setattr(lab, "update_copy", LabCopy)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(SystemExit):
        main(["lab", *passed])
    assert given[6:] == expected
    assert ("as root" in capsys.readouterr().err) == (uid == 0 and passed != expected)


@pytest.mark.unit
def test_lab_without_jupyterlab(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert main(["lab"]) == 1
    assert "pip install jupyterlab" in capsys.readouterr().err


@pytest.mark.unit
def test_lab_opens_another_page_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A given default_url is the only one: JupyterLab refuses two."""
    given: list[str] = []
    monkeypatch.setattr(lab, "update_copy", LabCopy)
    monkeypatch.setattr(os, "execv", lambda _, arguments: given.extend(arguments))
    main(["lab", "--LabApp.default_url=/lab"])
    assert [part for part in given if "default_url" in part] == ["--LabApp.default_url=/lab"]


@pytest.mark.unit
@pytest.mark.parametrize("name", ["lab", "serve"])
def test_what_happened_to_edited_notebooks_is_printed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def update(folder: Path) -> LabCopy:
        return LabCopy(folder, ["1.new.ipynb", "2.new.ipynb"], [], ["0-old.ipynb"])

    monkeypatch.setattr(lab, "update_copy", update)
    monkeypatch.setattr(os, "execv", lambda *_: None)
    monkeypatch.setattr(command.voila, "serve", lambda *_, **__: 0)
    main([name, "--folder", "mine"])
    assert capsys.readouterr().out.splitlines() == [
        "The notebooks are in mine; your changes there are kept.",
        "New versions are beside the notebooks that you edited: 1.new.ipynb, 2.new.ipynb",
        "No longer part of epolllab, and kept since you edited them: 0-old.ipynb",
    ]


@pytest.mark.unit
def test_lab_into_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["lab", "--folder", str(tmp_path / "file")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"epolllab lab: folder {tmp_path / 'file'} ")
    assert printed.count("\n") == 1


@pytest.mark.unit
def test_an_unknown_reference_lists_those_that_exist() -> None:
    assert paths.reference("sample-run").exists()
    with pytest.raises(FileNotFoundError, match="sample-run"):
        paths.reference("sample-ran")
