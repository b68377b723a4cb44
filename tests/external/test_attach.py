"""trace(): a process from outside, with the same counts as its own recorder."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

import epolllab
from epolllab import analysis, recording
from epolllab.external import attach, trace
from epolllab.kernel.waiting import until_all_asleep
from epolllab.recording import layout
from tests.external import programs
from tests.wire import suspend, until

CALLS = ["wait", "ready", "accept", "register", "modify", "unregister", "recv", "send", "close"]


@pytest.fixture(autouse=True)
def _strace(needs):
    needs("strace")


def tracer_of(pid: int) -> int:
    """The process that traces this one, or 0."""
    return int(Path(f"/proc/{pid}/status").read_text().split("TracerPid:")[1].split()[0])


def until_traced(pid: int) -> None:
    """Wait until strace has attached: that interrupts a wait, and the process sleeps again."""
    tracer = until(lambda: tracer_of(pid))
    until_all_asleep([(pid, pid), (tracer, tracer)])


def counted(recording: epolllab.Recording) -> dict[str, int]:
    """Calls, without the waits that attaching and detaching interrupt."""
    counts = recording.counts()
    counts["wait"] = counts.get("wait", 0) - recording.errors().get("wait EINTR", 0)
    return {op: n for op in CALLS if (n := counts.get(op, 0))}


@pytest.mark.parametrize(
    "options",
    [{}, {"trigger": "edge"}, {"lifecycle": "howto"}, {"poller": "poll"}, {"poller": "select"}],
    ids=lambda options: "-".join(options.values()) or "default",
)
def test_the_same_counts_as_the_servers_own_recorder(options):
    """Idle at attach and at detach: every call is in both, with the same errors."""

    def load() -> None:
        until_traced(server.pid)
        epolllab.run_clients(server, connections=4, requests=40, where="thread", progress=False)

    with epolllab.start_server(process=True, **options) as server:
        server.until_idle()
        before = counted(server.recording())
        clients = threading.Thread(target=load)
        clients.start()
        seen = trace(server.pid, 2.5)
        own = server.recording()
        clients.join()
    after = counted(own)
    expected = {op: n - before.get(op, 0) for op, n in after.items()}
    if "poller" in options:  # these change a table without a system call
        expected = {op: n for op, n in expected.items() if op not in ("register", "unregister")}
    if options == {"poller": "poll"}:  # the one under way at attach is not named by strace
        expected["wait"] -= 1
        expected["ready"] -= own.wakeups()["n_returned"].iloc[before.get("wait", 0)]
    assert counted(seen) == {op: n for op, n in expected.items() if n}
    errors = {what: n for what, n in seen.errors().items() if what != "wait EINTR"}
    assert errors == own.errors()
    assert [seen.metadata[name] for name in ("n_unmapped", "n_cut", "n_strange")] == [0, 0, 0]
    assert seen.metadata["boot_id"] == own.metadata["boot_id"]
    # Both are on the monotonic clock: the first accept is the same call, within strace's delay.
    first = [one.events().query("op == 'accept'")["t_ns"].iloc[0] for one in (seen, own)]
    assert abs(first[0] - first[1]) < 500_000_000


def test_nginx(tmp_path):
    """Pointers are mapped, the connections are told apart, and nothing is wrong."""
    with programs.nginx(tmp_path, workers=1) as (port, [worker]):

        def ask() -> None:
            until_traced(worker)
            for _ in range(6):
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    while client.recv(4096):
                        pass

        asking = threading.Thread(target=ask)
        asking.start()
        recording = trace(worker, 2.5)
        asking.join()
    table = recording.connections()
    assert len(table) == 6
    assert (table["n_bytes_in"] > 0).all()
    assert (table["n_bytes_out"] > 0).all()
    assert table["closed_ns"].notna().all()
    assert recording.metadata["n_unmapped"] == 0
    assert analysis.diagnose(recording).healthy


def test_all_rows_are_stored_in_a_folder(tmp_path):
    """As in memory; the metadata is that of the end."""

    def load() -> None:
        until_traced(server.pid)
        epolllab.run_clients(server, connections=4, requests=40, where="thread", progress=False)

    with epolllab.start_server(process=True) as server:
        clients = threading.Thread(target=load)
        clients.start()
        traced = trace(server.pid, 2.0, record_to=tmp_path / "run")
        clients.join()
    stored = recording.open(tmp_path / "run")
    pd.testing.assert_frame_equal(stored.events(), traced.events())
    assert stored.events()["op"].value_counts()["accept"] >= 40
    assert stored.metadata["overhead"] == traced.metadata["overhead"]
    assert (stored.lost, stored.is_closed) == (0, True)


def test_a_disk_that_is_full_does_not_lose_the_trace(tmp_path, monkeypatch):
    """It warns, and returns what it has."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(layout.PartWriter, "write", fail)
    with (
        programs.sick("writable") as (_, pid),
        pytest.warns(RuntimeWarning, match="record_to.*No space left"),
    ):
        traced = trace(pid, 0.5, record_to=tmp_path / "run")
    assert len(traced)
    assert not recording.open(tmp_path / "run").is_closed


def test_folders_that_are_refused(tmp_path, monkeypatch):
    """Before strace is started; a trace that fails leaves none."""
    with programs.asyncio_echo() as (_, pid):
        with pytest.raises(ProcessLookupError):
            trace(2**22 + 1, record_to=tmp_path / "run")
        with pytest.raises(ValueError, match=r"no (call|wait)"):
            trace(pid, 0.1, record_to=tmp_path / "run")
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "notes.txt").write_text("mine")
        monkeypatch.setattr(subprocess, "Popen", lambda *_: pytest.fail("strace was started"))
        with pytest.raises(FileExistsError, match=r"record_to .*notes\.txt"):
            trace(pid, record_to=tmp_path)
        with pytest.raises(TypeError, match=r"^record_to "):
            trace(pid, record_to=5)


def test_strace_has_detached_and_the_program_goes_on():
    """TracerPid is 0 again, and the program answers."""

    def send() -> None:
        until_traced(pid)
        client.sendall(b"hello")

    with programs.asyncio_echo() as (port, pid), socket.socket() as client:
        client.connect(("127.0.0.1", port))
        sending = threading.Thread(target=send)
        sending.start()
        recording = trace(pid, 2.0)
        sending.join()
        assert client.recv(5) == b"hello"
        assert not tracer_of(pid)
        client.sendall(b"again")
        assert client.recv(5) == b"again"
    assert recording.counts()["recv"] >= 1
    assert recording.metadata["overhead"]["strace_cpu_ns"] > 0


def test_a_spin_in_a_program_that_keeps_pointers():
    """The finding names the descriptor that the pointer stands for."""
    with programs.sick("writable") as (client, pid):
        recording = trace(pid, 1.0)
        [finding] = analysis.diagnose(recording).findings
        peer = client.getsockname()[1]
    assert finding.kind == "writable interest left on"
    assert f"127.0.0.1:{peer} " in recording.metadata["fd_names"][str(finding.fd)]


@pytest.mark.parametrize(
    ("pid", "seconds", "error", "message"),
    [
        (0, 1, ValueError, "^pid"),
        (True, 1, TypeError, "^pid"),
        (2**22 + 1, 1, ProcessLookupError, "does not exist"),
        (os.getpid(), 0, ValueError, "^seconds"),
        (os.getpid(), 1e9, ValueError, "^seconds"),
        (os.getpid(), "1", TypeError, "^seconds"),
        (os.getpid(), float("nan"), ValueError, "^seconds"),
    ],
    ids=["zero", "bool", "missing", "no time", "too long", "text", "nan"],
)
def test_bad_arguments(pid, seconds, error, message):
    with pytest.raises(error, match=message):
        trace(pid, seconds)


def test_this_process():
    with pytest.raises(ValueError, match=r"^pid \d+ is this process.*observe"):
        trace(os.getpid())


def test_a_program_that_does_not_wait():
    with subprocess.Popen(["sleep", "30"]) as program:
        with pytest.raises(ValueError, match=rf"^pid {program.pid} has no"):
            trace(program.pid, 0.2)
        program.kill()


def test_a_program_that_ends_meanwhile():
    """What was seen until then is kept."""

    def end() -> None:
        until_traced(pid)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"hello")
            client.recv(5)
        os.kill(pid, signal.SIGTERM)

    with programs.asyncio_echo() as (port, pid):
        ending = threading.Thread(target=end)
        ending.start()
        recording = trace(pid, 20.0)
        ending.join()
    assert recording.counts()["wait"] >= 1


def test_without_strace(monkeypatch):
    monkeypatch.setattr(attach.shutil, "which", lambda name: None)
    with (
        programs.asyncio_echo() as (_, pid),
        pytest.raises(FileNotFoundError, match="strace is not installed"),
    ):
        trace(pid)


def test_a_process_that_is_traced_already():
    """The reason is strace's own, with what to do."""
    with programs.asyncio_echo() as (_, pid):
        other = subprocess.Popen(["strace", "-o", "/dev/null", "-p", str(pid)], stderr=-3)
        try:
            until_traced(pid)
            with pytest.raises(PermissionError, match="may not be traced"):
                trace(pid, 0.2)
        finally:
            other.terminate()
            other.wait()


def test_a_program_that_ends_before_strace_attaches(monkeypatch):
    """Strace says that it may not trace a zombie; the reason is that it has ended."""
    real = attach.environment.collect

    def collect() -> dict[str, object]:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return real()

    monkeypatch.setattr(attach.environment, "collect", collect)
    with (
        programs.asyncio_echo() as (_, pid),
        pytest.raises(ProcessLookupError, match=rf"process {pid} has ended"),
    ):
        trace(pid)


def test_a_process_that_is_stopped():
    """It is said, and it is still stopped afterwards."""
    with programs.asyncio_echo() as (_, pid):
        suspend(pid)
        try:
            with pytest.raises(ValueError, match=rf"^pid {pid} has no call.*stopped"):
                trace(pid, 0.2)
            assert "State:\tT" in Path(f"/proc/{pid}/status").read_text()
        finally:
            os.kill(pid, signal.SIGCONT)


FORKS = """
import os, select
epoll = select.epoll()
print("ready", flush=True)
while True:
    epoll.poll(0.001)
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_program_that_forks_all_the_time():
    """Its recording is returned, and not a child's; it goes on."""
    with programs.running([sys.executable, "-c", FORKS], 0, accepts=False) as program:
        recording = trace(program.pid, 0.5)
        assert not tracer_of(program.pid)
        assert program.poll() is None
    assert recording.metadata["tids"] == [program.pid]
    assert recording.counts()["wait"] >= 1


def test_a_strace_that_does_not_attach(monkeypatch, tmp_path):
    """It is ended, and the error says after what time."""
    fake = tmp_path / "strace"
    fake.write_text("#!/bin/sh\nexec sleep 30\n")
    fake.chmod(0o755)
    monkeypatch.setattr(attach.shutil, "which", lambda name: str(fake))
    monkeypatch.setattr(attach, "ATTACH_S", 0.2)
    with (
        programs.asyncio_echo() as (_, pid),
        pytest.raises(TimeoutError, match=rf"process {pid} within 0.2 s"),
    ):
        trace(pid)
