"""start_server(record_to=): every event is in the folder, or counted; whatever ends first."""

import errno
import gc
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import epolllab
from epolllab import recording
from epolllab.recording import NotStored, layout
from tests.server.helpers import PLACES, program
from tests.wire import GET, connect, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def serve(server: epolllab.Server, requests: int = 200) -> None:
    epolllab.run_clients(server, connections=10, requests=requests, progress=False)


@PLACES
def test_the_same_events_as_in_memory(process: bool, folder: Path) -> None:
    """Row by row, with the same metadata, from the first register to the last close."""
    with epolllab.start_server(process=process, protocol="http", record_to=folder) as server:
        assert "not_stored" in server.stats()
        serve(server)
    recorded = server.recording()
    stored = recording.open(folder)
    pd.testing.assert_frame_equal(stored.events(), recorded.events())
    pd.testing.assert_frame_equal(stored.recording().requests(), recorded.requests())
    assert dict(stored.metadata) == dict(recorded.metadata)
    assert (stored.lost, stored.is_closed) == (0, True)
    stats = server.stats()
    assert (stats["stored"], stats["not_stored"]) == (len(stored), 0)
    assert stats["errors"] == 0
    assert "events stored" in server._repr_html_()


@pytest.mark.filterwarnings("ignore:.*rows are not stored")  # where the child has no turn in time
@PLACES
def test_more_events_than_the_ring_keeps(process: bool, folder: Path) -> None:
    """Which is what it is for; a count of each operation adds up."""
    with epolllab.start_server(process=process, capacity=20_000, record_to=folder) as server:
        for _ in range(4):
            serve(server, 1_500)
            server.settle()
    stats = server.stats()
    assert stats["overwritten"] > 0
    stored = recording.open(folder)
    assert len(stored) + stored.lost == stats["recorded"] + stats["overwritten"]
    assert (len(stored), stored.lost) == (stats["stored"], stats["not_stored"])
    if not stored.lost:
        events = stored.events()
        done = events["op"][events["error"].isna()].value_counts()
        assert (done["accept"], done["handle"]) == (6_000, 6_000)


def test_stop_in_a_handler(folder: Path) -> None:
    """The loop's thread ends the recording after its last batch."""
    servers: list[epolllab.Server] = []

    def handler(_: Any) -> str:
        servers[0].stop()
        return "bye"

    servers.append(epolllab.start_server(protocol="http", handler=handler, record_to=folder))
    with connect(servers[0].address) as sock:
        sock.sendall(GET)
        until(lambda: not servers[0].is_running)
    until(lambda: recording.open(folder).is_closed)
    assert "handle" in set(recording.open(folder).events()["op"])


def test_a_dropped_handle(folder: Path) -> None:
    """Its recording is complete too."""
    servers = [epolllab.start_server(record_to=folder)]
    with connect(servers[0].address):
        until(lambda: servers[0].stats()["accepted"])
    servers.clear()
    gc.collect()
    until(lambda: recording.open(folder).is_closed)
    assert "accept" in set(recording.open(folder).events()["op"])


def test_a_loop_that_died(folder: Path) -> None:
    """The recording up to the error is stored."""

    class Fails(epolllab.Session):
        def receive(self, data: bytes) -> list[bytes]:
            raise KeyboardInterrupt

    server = epolllab.start_server(protocol=Fails, record_to=folder)
    with connect(server.address) as sock:
        sock.sendall(b"x")
        until(lambda: not server.is_running)
    with pytest.raises(epolllab.ServerDied):
        server.stop()
    pd.testing.assert_frame_equal(recording.open(folder).events(), server.events())


def test_the_servers_process_is_killed(folder: Path) -> None:
    """What it had recorded is stored."""
    server = epolllab.start_server(process=True, record_to=folder)
    serve(server)
    server.settle()
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.is_running)
    with pytest.raises(epolllab.ServerDied, match="SIGKILL"):
        server.stop()
    stored = recording.open(folder)
    assert stored.is_closed
    pd.testing.assert_frame_equal(stored.events(), server.events())
    assert (stored.events()["op"] == "handle").sum() == 200


@PLACES
def test_the_parent_is_killed(process: bool, folder: Path) -> None:
    """What it had recorded is stored all the same, and nothing runs on."""
    with program(
        f"""
        import epolllab, os, signal
        server = epolllab.start_server(process={process}, record_to={str(folder)!r})
        epolllab.run_clients(server, connections=4, requests=100, progress=False)
        server.settle()
        tell(server.stats()["requests"])
        os.kill(os.getpid(), signal.SIGKILL)
        """
    ) as ended:
        assert ended.read() == 100
        assert ended.process.wait(20) == -signal.SIGKILL
    until(lambda: recording.open(folder).is_closed, seconds=20)
    stored = recording.open(folder)
    assert (stored.events()["op"] == "handle").sum() == 100
    assert stored.metadata["poller"] == "epoll"
    assert stored.metadata["pid"] != os.getpid()


@PLACES
def test_a_full_disk(process: bool, folder: Path) -> None:
    """The server goes on and says so; stop() ends everything, and then raises."""
    server = epolllab.start_server(process=process, record_to=folder, capacity=1000)
    child = server._host.stream.child.pid  # type: ignore[union-attr]
    hard = resource.prlimit(child, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(child, resource.RLIMIT_FSIZE, (500, hard))
    serve(server)
    until(lambda: server.stats()["errors"] > 0)
    assert "part-000-000000.parquet" in str(server.last_fault)
    serve(server)
    assert server.stats()["requests"] == 400
    with pytest.raises(NotStored, match=r"rows are not stored") as raised:
        server.stop()
    assert raised.value.errno == errno.EFBIG
    assert not server.is_running
    assert server not in epolllab.servers()
    server.stop()
    stats = server.stats()
    assert stats["stored"] == 0
    assert stats["not_stored"] == stats["recorded"] + stats["overwritten"]


def test_a_full_disk_and_an_error_in_the_block(folder: Path) -> None:
    """The block's error is the one that is raised."""
    server = epolllab.start_server(record_to=folder)
    os.kill(server._host.stream.child.pid, signal.SIGKILL)  # type: ignore[union-attr]
    with pytest.raises(ZeroDivisionError), server:
        raise ZeroDivisionError
    assert "SIGKILL" in str(server.last_fault)
    assert server.stats()["errors"] == 1


# ---- what is refused --------------------------------------------------------------------


def test_a_start_that_fails_leaves_no_folder(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=str(port)):
            epolllab.start_server(port=port, record_to=folder)
    assert not folder.exists()


def test_folders_that_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a server listens; a second recording does not touch the first one."""
    with epolllab.start_server(record_to=folder) as server:
        monkeypatch.setattr(
            "epolllab.server.server.listen", lambda *_: pytest.fail("a server listens")
        )
        with pytest.raises(FileExistsError, match=r"record_to .*recording\.open"):
            epolllab.start_server(record_to=folder)
        with pytest.raises(FileNotFoundError, match="record_to"):
            epolllab.start_server(record_to=folder / "absent" / "run")
        with pytest.raises(OSError, match="record_to"):
            epolllab.start_server(record_to="/proc/run")
        with pytest.raises(NotADirectoryError, match="record_to"):
            epolllab.start_server(record_to=folder / layout.MANIFEST)
    assert recording.open(folder).is_closed
    assert server.stats()["not_stored"] == 0


def test_contradictions(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^record_to needs record=True"):
        epolllab.start_server(record=False, record_to=folder)
    with pytest.raises(ValueError, match=r"^record_to .*URL"):
        epolllab.start_server(record_to="s3://bucket/run")
    assert not folder.exists()
