"""run_clients(executor=...) on a process pool and on a local Dask cluster."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

import epolllab
from epolllab import frames
from epolllab.clients import cluster
from epolllab.clients.executors import Interrupts
from epolllab.clients.meeting import CallerLine, Guest, Line, Meeting
from epolllab.clients.options import resolve_target
from epolllab.clients.result import Run
from epolllab.workers import Host
from tests.conftest import TESTS
from tests.pools import pool, running_pool

HERE = Host.here()


@pytest.fixture(scope="module", autouse=True)
def executor() -> Iterator[ProcessPoolExecutor]:
    """A pool whose workers both run, so that no test starts one."""
    with running_pool() as executor:
        yield executor


@pytest.fixture
def server() -> Iterator[epolllab.Server]:
    with epolllab.start_server() as server:
        yield server


def load(server: Any, executor: Any, **options: Any) -> Run:
    return epolllab.run_clients(server, executor=executor, progress=False, **options)


def after(server: epolllab.Server, n: int, act: Callable[[], object]) -> threading.Thread:
    """Start a thread that acts once the server has counted `n` requests."""

    def wait() -> None:
        while server.is_running and server.stats()["requests"] < n:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


# ---- on a process pool --------------------------------------------------------------------


def test_each_worker_sends_its_share(server: epolllab.Server, executor: Any) -> None:
    """The rows are as many as the server counted, and each says where it comes from."""
    run = load(server, executor, connections=5, requests=101)
    frame = run.requests()
    assert frame["error"].isna().all()
    assert frame.groupby("process").size().tolist() == [51, 50]
    assert frame["host"].unique().tolist() == [HERE.host]
    assert run.metadata["server_requests"] == len(frame) == 101
    assert run.notes == [note for note in run.notes if "apart" in note]
    assert frame["intended_ns"].is_monotonic_increasing
    assert len(run.journeys(server)) == 101
    assert set(run.recording().events()["op"]) >= {"connect", "send", "recv"}
    assert run.metadata["executor"] == "ProcessPoolExecutor"
    assert "2 workers on 1 host" in run._repr_html_()


def test_shares_are_described(server: epolllab.Server, executor: Any) -> None:
    run = load(server, executor, connections=4, requests=20)
    shares = run.shares()
    assert shares["process"].tolist() == [0, 1]
    for name in ("host", "boot_id", "kernel", "python", "cpu", "epolllab"):
        assert shares[name].tolist() == [getattr(HERE, name)] * 2
    assert set(shares["pid"]) == set(executor._processes)
    assert shares["n_rows"].tolist() == [10, 10]
    assert shares["clock_error_ns"].tolist() == [0, 0]  # one clock
    assert (shares["late_ns"] >= 0).all()
    assert run.start_skew_ns == shares["late_ns"].max() - shares["late_ns"].min()


def test_a_run_without_an_executor_has_the_same_columns(
    server: epolllab.Server, executor: Any
) -> None:
    here, there = (load(server, given, connections=2, requests=4) for given in (None, executor))
    for name in ("requests", "steps", "shares"):
        local, remote = getattr(here, name)(), getattr(there, name)()
        assert local.dtypes.astype(str).to_dict() == remote.dtypes.astype(str).to_dict()
    assert set(here.requests()["host"]) == set(here.shares()["host"]) == {"localhost"}
    assert here.shares()["pid"].isna().all()


def test_scripted_peers_are_shared_out(server: epolllab.Server, executor: Any) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    steps = epolllab.script().connect().send(request).expect_end()
    run = load(server, executor, connections=3, script=steps)
    frame = run.steps()
    assert frame["error"].isna().all()
    assert frame["peer"].nunique() == 3
    assert frame["host"].unique().tolist() == [HERE.host]


def test_one_share_in_an_open_loop(server: epolllab.Server, executor: Any) -> None:
    run = load(server, executor, shares=1, connections=4, rate=200, duration=0.2)
    assert len(run) == 40
    assert run.requests()["process"].unique().tolist() == [0]
    assert run.start_skew_ns == 0


def test_requests_of_others_are_noted(server: epolllab.Server, executor: Any) -> None:
    """What the server counted is more than the rows that came home."""

    def intrude() -> None:
        epolllab.run_clients(server, connections=1, requests=7, where="thread", progress=False)

    thread = after(server, 1, intrude)
    run = load(server, executor, connections=2, rate=10, duration=3)
    thread.join()
    assert run.metadata["server_requests"] == 37
    assert [note for note in run.notes if "the server counted 37 requests, and 30 rows" in note]


def test_a_worker_that_dies_breaks_the_pool(server: epolllab.Server) -> None:
    """All shares are lost, and the error says so; nothing goes on sending."""
    with pool() as executor:
        list(executor.map(time.sleep, [0.1] * 2))
        victim = next(iter(executor._processes))
        thread = after(server, 20, lambda: os.kill(victim, signal.SIGKILL))
        with pytest.raises(RuntimeError, match="broke the pool and lost all of its tasks"):
            load(server, executor, connections=4, rate=100, duration=30)
        thread.join()
    while server.stats()["connections"]:
        time.sleep(0.01)
    n = server.stats()["requests"]
    time.sleep(0.3)
    assert server.stats()["requests"] == n


def test_a_silent_worker_is_lost(server: epolllab.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its share becomes failed rows with the reason; the other share's rows come home."""
    monkeypatch.setattr(cluster, "SILENT_S", 1.0)
    with pool() as executor:
        while len(executor._processes) < 2:
            list(executor.map(time.sleep, [0.1] * 2))
        victim = next(iter(executor._processes))
        thread = after(server, 20, lambda: os.kill(victim, signal.SIGSTOP))
        try:
            run = load(server, executor, connections=4, rate=50, duration=2)
        finally:
            thread.join()
            os.kill(victim, signal.SIGCONT)
    frame, shares = run.requests(), run.shares()
    lost = shares["pid"] == victim
    (number,) = shares["process"][lost]
    assert shares["lost"][lost].str.contains("its worker has sent nothing for 1 s").all()
    assert shares["n_rows"].tolist() == [50, 50]
    failed = frame[frame["process"] == number]
    assert failed["error"].unique().tolist() == shares["lost"][lost].tolist()
    assert failed[["sent_ns", "done_ns", "latency_ns"]].isna().all(axis=None)
    assert (failed["intended_ns"].diff().dropna() == 40_000_000).all()
    assert frame[frame["process"] != number]["error"].isna().all()
    assert any("the rows of a share were lost" in note for note in run.notes)
    assert run.summary()["failed"] == 50


def test_an_interrupt_ends_the_load_early(server: epolllab.Server, executor: Any) -> None:
    """Of all shares, whose rows until then are kept."""
    thread = after(server, 20, lambda: os.kill(os.getpid(), signal.SIGINT))
    run = load(server, executor, connections=4, rate=100, duration=60)
    thread.join()
    assert run.interrupted
    assert 20 <= len(run) < 6000
    assert run.requests().groupby("process").size().size == 2
    assert run.shares()["lost"].tolist() == ["", ""]
    assert len(load(server, executor, connections=2, requests=4)) == 4


# ---- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"shares": 3}, ValueError, "shares=3 is more than the executor's 2 workers"),
        ({"shares": 2, "connections": 1}, ValueError, "shares=2 is more than connections=1"),
        ({"shares": 0}, ValueError, "shares must be at least 1"),
        ({"shares": 1.5}, TypeError, "shares must be an integer"),
        ({"processes": 2}, ValueError, "processes=2 has no effect with executor="),
        ({"where": "thread"}, ValueError, "where='thread' has no effect with executor="),
    ],
)
def test_contradictions_are_refused(executor: Any, options: Any, error: Any, name: str) -> None:
    with pytest.raises(error, match=f"^{name}"):
        load("127.0.0.1:1", executor, **options)


def test_shares_need_an_executor() -> None:
    with pytest.raises(ValueError, match=r"^shares=2 has no effect without executor="):
        load("127.0.0.1:1", None, shares=2)


def test_busy_workers_are_an_error_by_the_deadline(
    server: epolllab.Server, monkeypatch: pytest.MonkeyPatch, executor: Any
) -> None:
    """The share that has started waits for the other, and sends nothing."""
    monkeypatch.setattr(cluster, "START_S", 1.0)
    busy = executor.submit(time.sleep, 2.5)
    with pytest.raises(TimeoutError, match=r"executor has started [01] of 2 shares within 1 s"):
        load(server, executor, connections=2)
    busy.result()
    assert server.stats()["accepted"] == 0


ANOTHER_BOOT = """
from epolllab.recording import environment
read = environment._line
environment._line = lambda path: "another boot" if "boot_id" in path else read(path)
"""
"""Makes a process report the boot id of another machine."""


def test_a_loopback_target_is_refused_for_workers_elsewhere(server: epolllab.Server) -> None:
    with (
        pool(initializer=exec, initargs=(ANOTHER_BOOT, {})) as executor,
        pytest.raises(RuntimeError, match=r"target is on the loopback of .* start_server\(host="),
    ):
        load(server, executor, connections=2)
    assert server.stats()["accepted"] == 0


# ---- several clocks -----------------------------------------------------------------------


@pytest.fixture
def scattered(server: epolllab.Server, executor: Any) -> Run:
    """A run whose second share counts as sent from another machine."""
    run = load(server, executor, connections=4, requests=20)
    first, second = run._parts
    elsewhere = HERE._replace(host="elsewhere", boot_id="another boot")
    return Run([first, second._replace(host=elsewhere, clock_error_ns=1000)], run.metadata)


def test_times_of_several_hosts_are_not_compared(scattered: Run, server: Any) -> None:
    """Journeys and merged recordings are refused; latencies and sums are there."""
    for compare in (lambda: scattered.journeys(server), scattered.recording, scattered.events):
        with pytest.raises(ValueError, match=r"several hosts \(.*elsewhere.*unrelated"):
            compare()
    with pytest.raises(ValueError, match=r"^clients ran on several hosts"):
        frames.journeys(server.requests(), scattered.requests())
    assert len(scattered.recordings()) == 2
    assert scattered.summary()["succeeded"] == 20


def test_rows_of_several_hosts_are_in_order_for_each(scattered: Run) -> None:
    frame = scattered.requests()
    assert frame["host"].tolist() == [HERE.host] * 10 + ["elsewhere"] * 10
    assert frame.groupby("host", observed=True)["intended_ns"].is_monotonic_increasing.all()


def test_the_skew_includes_the_clocks_uncertainty(scattered: Run) -> None:
    late = scattered.shares()["late_ns"]
    expected = max(late[0], late[1] + 1000) - min(late[0], late[1] - 1000)
    assert scattered.start_skew_ns == expected


# ---- the meeting --------------------------------------------------------------------------


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    with Meeting(resolve_target("127.0.0.1:1")) as meeting:
        yield meeting


def until(meeting: Meeting, condition: Callable[[], bool]) -> None:
    """Poll the meeting until the condition holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        meeting.poll(0.05)


def joined(meeting: Meeting, number: int) -> Any:
    """Join from a thread; return the line or the error."""
    found: list[Any] = []

    def join() -> None:
        try:
            found.append(CallerLine(meeting.invitation, number))
        except RuntimeError as error:
            found.append(error)

    thread = threading.Thread(target=join)
    thread.start()
    until(meeting, lambda: bool(found))
    thread.join()
    return found[0]


def test_a_second_start_is_refused(meeting: Meeting) -> None:
    """While the first worker is there, and once the load has begun also after it."""
    with joined(meeting, 0):
        assert "share 0 was started before" in str(joined(meeting, 0))
        assert meeting.guests[0].was_refused
        meeting.started = True
    until(meeting, lambda: bool(meeting.guests[0].lost))
    assert "share 0 was started before" in str(joined(meeting, 0))


class NoOutcomes:
    """Tasks that all still run."""

    def finished(self, timeout: float) -> list[Any]:
        """Return none."""
        return []


def test_an_executor_that_starts_a_share_twice_is_refused(meeting: Meeting) -> None:
    """Before any load is sent; an ipyparallel DirectView runs each task on all engines."""
    with joined(meeting, 0):
        joined(meeting, 0)
        with pytest.raises(RuntimeError, match=r"^executor started share 0 twice"):
            cluster._gather(meeting, NoOutcomes(), 1, Interrupts())  # type: ignore[arg-type]


def test_a_worker_that_dies_before_the_start_may_be_replaced(meeting: Meeting) -> None:
    """No load was sent yet."""
    with joined(meeting, 0):
        pass
    until(meeting, lambda: not meeting.guests)
    with joined(meeting, 0):
        assert not meeting.guests[0].was_refused


@pytest.mark.parametrize(
    "said",
    [
        b'{"token": "guessed", "number": 0}\n',
        b'{"number": 0}\n',
        b"[1]\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        b"x" * 30_000,
    ],
)
def test_strangers_are_disconnected(meeting: Meeting, said: bytes) -> None:
    with socket.create_connection(meeting.invitation.address, 10) as stranger:
        stranger.sendall(said)
        until(meeting, lambda: not meeting._unknown and _is_closed(stranger))
    assert not meeting.guests


def _is_closed(sock: socket.socket) -> bool:
    try:
        sock.setblocking(False)
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("boot_id", ["another boot", HERE.boot_id])
def test_clocks_of_two_machines_are_compared(boot_id: str) -> None:
    """By round trips, unless it is one machine: this worker's clock is an hour ahead."""
    ahead_ns = 3_600_000_000_000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = Line(socket.create_connection(listener.getsockname()))
        guest = Guest(0, Line(listener.accept()[0]), HERE._replace(boot_id=boot_id))

    def answer() -> None:
        while "start" not in worker.receive_one(10):
            worker.send(clock=time.monotonic_ns() + ahead_ns)

    thread = threading.Thread(target=answer)
    thread.start()
    round_trip_ns = guest.compare_clocks(HERE.boot_id)
    guest.line.send(start=1)
    thread.join()
    if boot_id == HERE.boot_id:
        assert (guest.offset_ns, guest.clock_error_ns) == (0, 0)
    else:
        assert abs(guest.offset_ns - ahead_ns) <= guest.clock_error_ns
        assert guest.clock_error_ns == -(-round_trip_ns // 2)
    worker.close()
    guest.line.close()


def test_a_forked_process_does_not_keep_the_port() -> None:
    """As a process pool's workers would that fork from the caller."""
    code = (
        "import os\n"
        "from epolllab.clients.meeting import Meeting\n"
        "from epolllab.clients.options import resolve_target\n"
        "meeting = Meeting(resolve_target('127.0.0.1:1'))\n"
        "if not (pid := os.fork()):\n"
        "    os._exit(meeting._listener.fileno() != -1)\n"
        "assert meeting._listener.fileno() >= 0\n"
        "raise SystemExit(os.waitpid(pid, 0)[1])"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- on a local Dask cluster ----------------------------------------------------------------


def on_dask(test: Any) -> Any:
    """Run the tests that share the cluster in one process of xdist, and let it take its time."""
    return pytest.mark.xdist_group("dask")(pytest.mark.timeout(300)(test))


@pytest.fixture(scope="module")
def dask() -> dict[str, Any]:
    """What runs on a local cluster of two worker processes found."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.clients.dask_runs"],
        cwd=TESTS.parent,
        env={**os.environ, "EPOLLLAB_TEST": str(os.getpid())},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@on_dask
def test_dask_runs_equal_shares_separately(dask: Any) -> None:
    """Dask runs equal submissions once; here each of two equal runs sent all its requests."""
    found = dask["equal"]
    assert [run["n_rows"] for run in found["runs"]] == [100, 100]
    assert [run["counted"] for run in found["runs"]] == [100, 100]
    assert found["served"] == 200
    assert found["joined"] == [100, 100]
    for run in found["runs"]:
        assert run["shares"]["n_rows"] == [50, 50]
        assert len(set(run["shares"]["pid"])) == 2
        assert run["failed"] == [0, 0]
        assert run["hosts"] == [HERE.host]
        assert run["boot_id"] == HERE.boot_id


@on_dask
def test_a_dask_worker_that_dies_loses_its_share_only(dask: Any) -> None:
    """Dask runs a killed worker's task again, which is refused."""
    found = dask["killed"]
    lost = found["shares"]["pid"].index(found["pid"])
    assert found["n_rows"] == 200
    assert found["failed"] == [100 * (number == lost) for number in range(2)]
    ((reason, count),) = found["errors"].items()
    assert count == 100
    assert reason.startswith(f"share {lost} on {HERE.host} (process {found['pid']}) lost after ")
    assert "its worker died" in reason
    assert 100 < found["counted"] < 200  # the lost share's load was not sent again


@on_dask
def test_more_shares_than_dask_workers_are_an_error(dask: Any) -> None:
    """By the deadline, which is three seconds here."""
    assert re.match(r"executor has started [0-2] of 3 shares within 3 s", dask["crowded"])


@on_dask
def test_dask_workers_with_another_version(dask: Any) -> None:
    expected = f"has epolllab {epolllab.__version__}, and this process has epolllab 0.0.1"
    assert expected in dask["other_version"]


@on_dask
@pytest.mark.parametrize("how", ["shut_down", "closed"])
def test_a_dask_executor_that_is_shut_down(dask: Any, how: str) -> None:
    assert dask[how].startswith("executor is shut down")


@on_dask
@pytest.mark.parametrize("what", ["processes", "ports", "threads"])
def test_runs_on_dask_leave_nothing_behind(dask: Any, what: str) -> None:
    assert dask[what] == []
