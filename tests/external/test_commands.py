"""The commands inspect, diagnose and observe, as a user runs them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import epolllab
from epolllab.__main__ import main
from epolllab.recording import Recording
from tests.external import programs

COMMAND = (sys.executable, "-m", "epolllab")

LOG = """\
epoll_ctl(4, EPOLL_CTL_ADD, 7, {events=EPOLLIN|EPOLLOUT, data={u32=7, u64=7}}) = 0
recvfrom(7, "", 9, 0, NULL, NULL) = 9
"""
WAIT = "epoll_wait(4, [{events=EPOLLOUT, data={u32=7, u64=7}}], 64, -1) = 1\n"

MANY = """
import os, resource, select, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
epoll, counter = select.epoll(), os.eventfd(0)
for _ in range(1001):
    epoll.register(os.dup(counter), select.EPOLLIN)
print("ready", flush=True)
time.sleep(60)
"""

SERVICE = f"nginx-{os.getpid()}"
"""A name that no process of another test has."""

NOTHING_TO_FIND = "nothing found"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the command in a folder of its own."""

    def _run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False,
        )  # fmt: skip

    return _run


@pytest.fixture
def call(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process, which is faster: its status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def _call(*arguments: object) -> tuple[int, str, str]:
        return main(list(map(str, arguments))), *capsys.readouterr()

    return _call


def started(folder: Path, *arguments: object) -> "subprocess.Popen[str]":
    """Start the command; the caller ends it."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
    )  # fmt: skip


# ---- inspect ------------------------------------------------------------------------------


def test_inspect_a_process(run):
    """One process by its number: the epoll, its mask, the listener."""
    with programs.asyncio_echo() as (port, pid):
        done = run("inspect", pid)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"(pid {pid})" in done.stdout
    assert f"tcp 127.0.0.1:{port} LISTEN" in done.stdout
    assert "IN|ERR|HUP" in done.stdout


def test_inspect_all_workers_of_a_service(run, tmp_path):
    """By name: every worker, and the master, which has no epoll."""
    with programs.nginx(tmp_path, workers=2, name=SERVICE) as (port, workers):
        shown = run("inspect", SERVICE)
        as_json = run("inspect", SERVICE, "--json")
    assert shown.returncode == as_json.returncode == 0
    for worker in workers:
        assert f"{SERVICE} (pid {worker})" in shown.stdout
    found = {one["pid"]: one for one in json.loads(as_json.stdout)}
    assert set(workers) < set(found)
    assert len(found) == 3
    for worker in workers:
        whats = [row["what"] for row in found[worker]["watched"]]
        assert f"tcp 127.0.0.1:{port} LISTEN" in whats
        assert found[worker]["waits"][0]["timeout_ms"] is None


@pytest.mark.parametrize("as_json", [False, True])
def test_watch_until_interrupted(as_json, tmp_path):
    """Two looks, a second apart; Ctrl-C ends it without a traceback."""
    with programs.asyncio_echo() as (_, pid):
        watching = started(tmp_path, "inspect", pid, "--watch", *["--json"] * as_json)
        lines = []
        while sum(f"pid {pid}" in line or f'"pid": {pid}' in line for line in lines) < 2:
            lines.append(watching.stdout.readline())
            assert lines[-1], watching.stderr.read()
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=30)
    assert (watching.returncode, errors) == (130, "")
    if as_json:  # a document a line
        assert [json.loads(line)[0]["pid"] for line in lines] == [pid, pid]


def test_a_large_epoll_is_not_read_again_and_again(run, tmp_path):
    """The first look is shown, the second refused, unless it is forced."""
    with programs.running([sys.executable, "-c", MANY], 0, accepts=False) as program:
        refused = run("inspect", program.pid, "--watch")
        forced = started(tmp_path, "inspect", program.pid, "--watch", "--json", "--force")
        looks = [json.loads(forced.stdout.readline()) for _ in range(2)]
        forced.send_signal(signal.SIGINT)
        forced.communicate(timeout=30)
    assert refused.returncode == 1
    assert "1,001 watched" in refused.stdout
    assert re.search(r"1,001 descriptors.*--force", refused.stderr)
    assert [len(look[0]["watched"]) for look in looks] == [1001, 1001]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (2**22 + 1, "does not exist"),
        ("no-such-program", "no process is named 'no-such-program'"),
        (0, "pid"),
        ("9" * 30, "pid"),
    ],
)
def test_inspect_of_nothing(target, words, call):
    status, out, errors = call("inspect", target)
    assert (status, out) == (1, "")
    assert words in errors


def test_processes_that_end_while_a_service_is_inspected(monkeypatch):
    """The others are shown; it is an error only if none is left or none may be read."""
    from epolllab.external import commands

    with programs.asyncio_echo() as (_, pid):
        monkeypatch.setattr(commands, "pids_of", lambda target: [2**22 + 1, pid])
        assert [one.pid for one in commands._inspected("service")] == [pid]
        monkeypatch.setattr(commands, "pids_of", lambda target: [2**22 + 1])
        with pytest.raises(ProcessLookupError, match="'service'"):
            commands._inspected("service")


# ---- diagnose -----------------------------------------------------------------------------


def test_diagnose_a_healthy_process(run, needs):
    needs("strace")
    with programs.asyncio_echo() as (_, pid):
        done = run("diagnose", pid, "--seconds", 0.3)
    assert (done.returncode, done.stderr) == (0, "")
    assert NOTHING_TO_FIND in done.stdout


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("writable", "writable interest left on"), ("ghost", "ghost of a duplicated descriptor")],
)
def test_diagnose_a_sick_process(fault, kind, run, needs):
    """The descriptor with its peer, evidence of both looks, and what to do."""
    needs("strace")
    with programs.sick(fault) as (client, pid):
        peer = client.getsockname()[1]
        if fault == "ghost":
            client.sendall(b"x")
        done = run("diagnose", pid, "--seconds", 0.3)
    assert (done.returncode, done.stderr) == (1, "")
    heading, *findings = done.stdout.splitlines()
    assert re.match(rf"sick \(pid {pid}\), \d+% of a CPU$", heading)
    [finding] = [line for line in findings if kind in line]
    assert f"127.0.0.1:{peer}" in finding


def test_diagnose_workers_by_name(run, needs, tmp_path):
    """The master, which waits for signals only, is judged by its interest lists alone."""
    needs("strace")
    with programs.nginx(tmp_path, workers=1, name=SERVICE) as (_, [worker]):
        done = run("diagnose", SERVICE, "--seconds", 0.3)
    assert done.returncode == 0, done
    assert f"{SERVICE} (pid {worker})" in done.stdout
    assert "no wait ended while it was traced" in done.stdout


FILES = {
    "empty": b"",
    "binary": b"\x7fELF\0\0\0" * 100,
    "text": b"hello, world\n" * 3,
    "no-waits": b'read(3, "", 9) = 9\n',
    "damaged.parquet": b"PAR1" + b"\xff" * 50 + b"PAR1",
}


@pytest.mark.parametrize("name", FILES)
def test_diagnose_a_file_that_cannot_be_read(name, call, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    status, out, errors = call("diagnose", name)
    assert (status, out) == (2, "")
    assert name in errors


@pytest.mark.parametrize(
    ("target", "words"),
    [(2**22 + 1, "does not exist"), (0, "pid"), ("missing.log", "no such file"), (".", "'.'")],
)
def test_diagnose_what_does_not_exist(target, words, call):
    status, out, errors = call("diagnose", target)
    assert (status, out) == (2, "")
    assert words in errors


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e9"])
def test_diagnose_for_an_impossible_time(seconds, call):
    status, out, errors = call("diagnose", os.getpid(), "--seconds", seconds)
    assert (status, out) == (2, "")
    assert "seconds must be" in errors


def test_diagnose_a_log(call, tmp_path):
    """A spin is found; what the log lacks is said."""
    cut = WAIT.replace("}]", "}, ...]").replace("= 1", "= 33")
    (tmp_path / "sick.log").write_text(LOG + WAIT * 300 + cut + "hello, world\n")
    status, out, errors = call("diagnose", "sick.log")
    assert status == 1
    assert "writable interest left on" in out
    assert "1 lines are not understood; the first: hello, world" in errors
    assert "32 ready descriptors" in errors


def test_diagnose_a_log_of_two_processes(call, tmp_path):
    """Each is judged; one finding is enough for the status."""
    spin = "".join(f"10 {line}\n" for line in (LOG + WAIT * 300).splitlines())
    fork = "10 clone(child_stack=NULL, flags=SIGCHLD) = 11\n"
    healthy = "11 epoll_wait(4, [], 64, 100) = 0\n"
    (tmp_path / "two.log").write_text(spin + fork + healthy * 3)
    status, out, _ = call("diagnose", "two.log")
    assert status == 1
    assert "process 11: 3 events, nothing found" in out
    assert re.search(r"^process 10: .*findings:$", out, re.MULTILINE)


def test_diagnose_a_recording(call, tmp_path):
    """A recording of the package's own, also redacted."""
    kept = Recording.load(epolllab.reference("sample-run"))
    for redact in (False, True):
        kept.save(tmp_path / "run.parquet", redact=redact)
        status, out, errors = call("diagnose", "run.parquet")
        assert (status, errors) == (0, "")
        assert NOTHING_TO_FIND in out


# ---- observe ------------------------------------------------------------------------------

PROGRAM = """
import asyncio, os, sys
async def main():
    {before}
    await asyncio.sleep(0.01)
    {after}
asyncio.run(main())
"""


def script(folder: Path, before: str = "pass", after: str = "pass") -> None:
    """Write ``app.py``, which waits a moment in asyncio."""
    (folder / "app.py").write_text(PROGRAM.format(before=before, after=after))


def recorded(path: Path) -> Recording:
    """What a program's loop did, which has waited at least once."""
    kept = Recording.load(path)
    assert kept.counts()["wait"] >= 1
    assert any(name.endswith("main") for name in kept.callbacks()["name"])
    return kept


@pytest.mark.parametrize("module", [False, True])
def test_observe_passes_all_arguments_on(module, run, tmp_path):
    """Also those that look like options of the command; the program prints what it got."""
    script(tmp_path, after="print(sys.argv[1:], __name__)")
    given = ["--out", "x", "-m", "--help", "--", "-h", "inspect"]
    program = ["-m", "app"] if module else ["app.py"]
    done = run("observe", "--out", "kept.parquet", *program, *given)
    assert done.returncode == 0, done
    assert done.stdout == f"{given} __main__\n"
    recorded(tmp_path / "kept.parquet")
    assert not (tmp_path / "x").exists()


def test_observe_a_program_that_raises(run, tmp_path):
    """Its own traceback, from its first frame on, its status, and the recording."""
    script(tmp_path, after="raise ValueError('its own')")
    done = run("observe", "app.py")
    plain = subprocess.run(
        [sys.executable, "app.py"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == plain.returncode == 1
    said = done.stderr.partition("epolllab: wrote")[0]
    frames = [line for line in plain.stderr.splitlines() if line.startswith("  File")]
    assert [line for line in said.splitlines() if line.startswith("  File")] == [
        line.replace(f"{tmp_path}/", "") for line in frames
    ]
    assert said.endswith("ValueError: its own\n")
    recorded(tmp_path / "observed.parquet")


def test_observe_a_program_that_exits(run, tmp_path):
    script(tmp_path, after="sys.exit(3)")
    done = run("observe", "app.py")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    recorded(tmp_path / "observed.parquet")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_observe_a_program_that_is_interrupted(number, tmp_path):
    """Saved in full; the status is the shell's for that signal."""
    script(tmp_path, after="print('waiting', flush=True); await asyncio.sleep(60)")
    program = started(tmp_path, "observe", "app.py")
    assert program.stdout.readline() == "waiting\n"
    time.sleep(0.1)
    program.send_signal(number)
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 128 + number
    assert "Traceback" not in errors
    recorded(tmp_path / "observed.parquet")


def test_observe_a_program_that_prints_nothing_and_changes_its_folder(run, tmp_path):
    """The recording stands where the command was run, and is named."""
    script(tmp_path, before="os.chdir('/')")
    done = run("observe", "--out=kept.parquet", "app.py")
    assert (done.returncode, done.stdout) == (0, "")
    kept = recorded(tmp_path / "kept.parquet")
    assert done.stderr == f"epolllab: wrote {tmp_path}/kept.parquet: {kept!r}\n"


def test_observe_a_program_without_a_loop(run, tmp_path):
    """It is saved empty, and said."""
    (tmp_path / "app.py").write_text("print('done')")
    done = run("observe", "app.py")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "no event loop waited" in done.stderr
    assert len(Recording.load(tmp_path / "observed.parquet")) == 0


def test_observe_a_program_that_forks(run, tmp_path):
    """A child that goes on with the program has a file of its own."""
    script(tmp_path)
    app = tmp_path / "app.py"
    app.write_text(
        "import os\nchild = os.fork()\n" + app.read_text() + "if child: os.waitpid(child, 0)\n"
    )
    done = run("observe", "app.py")
    assert done.returncode == 0, done
    files = sorted(path.stem for path in tmp_path.glob("*.parquet"))
    assert [bool(re.fullmatch(r"observed-\d+", name)) for name in files] == [False, True]
    for path in tmp_path.glob("*.parquet"):
        recorded(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a script"),
        (["missing.py"], "no script missing.py"),
        (["."], "no script"),
        (["--bogus", "app.py"], "give a script"),
        (["-m"], "give a script"),
        (["-m", "no_such_module"], "no module no_such_module"),
        (["-m", "no_such_package.module"], "no module no_such_package.module"),
        (["--out", "nowhere/a.parquet", "app.py"], "nowhere/a.parquet"),
        (["--out", ".", "app.py"], "is a folder"),
    ],
    ids=" ".join,
)
def test_observe_refuses_before_anything_runs(arguments, words, run, tmp_path):
    script(tmp_path, before="print('ran')")
    done = run("observe", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["app.py"]
