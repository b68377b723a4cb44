"""inspect(): what the epolls of real programs watch, and what is wrong with them."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time

import pytest

import epolllab
from epolllab.external import FINDINGS, Inspection, epolls, inspect
from epolllab.kernel import NotPossible, files, sockets, threads
from tests.external import programs

COLUMNS = [
    "epfd", "fd", "mask", "mask_names", "data", "data_is", "what", "recv_queue", "send_queue",
    "finding", "detail",
]  # fmt: skip


def until_waiting(pid: int) -> Inspection:
    """Inspect a process once one of its threads waits."""
    deadline = time.monotonic() + 10
    while (found := inspect(pid)).waits.empty and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def finding(pid: int, kind: str) -> dict[str, object]:
    """The row with a finding, once there is one."""
    deadline = time.monotonic() + 10
    while (found := inspect(pid)).healthy and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found.findings["finding"].tolist() == [kind], found
    assert kind in repr(found)
    assert FINDINGS[kind] in found._repr_html_()
    return found.findings.iloc[0].to_dict()


def test_our_own_server():
    """An eventfd, a listener and a connection, with addresses and queues; nothing wrong."""
    with (
        epolllab.start_server(process=True) as server,
        socket.create_connection(server.address) as client,
    ):
        server.until_idle(client)
        found = until_waiting(server.pid)
        port, peer = server.port, client.getsockname()[1]
    assert found.healthy, found
    assert list(found.frame.columns) == COLUMNS
    assert found.frame["data_is"].isin(["fd", "fd, high bits"]).all()
    assert set(found.frame["mask_names"]) == {"IN|ERR|HUP"}
    frame = found.frame.set_index("what")
    listener, connection = (
        f"tcp 127.0.0.1:{port} LISTEN",
        f"tcp 127.0.0.1:{port} <- 127.0.0.1:{peer} ESTABLISHED",
    )
    assert set(frame.index) == {"eventfd", listener, connection}
    assert frame.loc["eventfd", ["recv_queue", "send_queue"]].isna().all()
    assert frame.loc[connection, ["recv_queue", "send_queue"]].tolist() == [0, 0]
    assert found.waits["call"].isin(["epoll_wait", "epoll_pwait"]).all()
    assert found.waits["timeout_ms"].isna().all()
    assert list(found.epolls.values()) == [3]
    assert found.read_ns[next(iter(found.epolls))] > 0
    assert found.missing == {} == found.frame.attrs["missing"]


def test_nginx_keeps_pointers(tmp_path):
    """Both workers wait on the listener; a kept connection is edge-triggered, by pointer."""
    with programs.nginx(tmp_path) as (port, workers), socket.socket() as client:
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        peer = client.getsockname()[1]
        found = [until_waiting(worker) for worker in workers]
        assert sorted(workers) == [w for w in epolls.processes_named("nginx") if w in workers]
    assert len(found) == 2
    assert all(one.healthy for one in found), found
    rows = [row for one in found for row in one.frame.itertuples()]
    named = f"tcp 127.0.0.1:{port} <- 127.0.0.1:{peer} ESTABLISHED"
    [connection] = [row for row in rows if row.what == named]
    assert connection.data_is == "pointer"
    assert connection.mask_names == "IN|ERR|HUP|RDHUP|ET"
    assert sum(row.what == f"tcp 127.0.0.1:{port} LISTEN" for row in rows) == 2


@pytest.mark.parametrize("program", ["redis", "node", "asyncio_echo"])
def test_healthy_programs(program, tmp_path):
    """A connected client is among what they watch, and nothing is wrong."""
    start = getattr(programs, program)
    folder = [tmp_path] if program == "redis" else []
    with start(*folder) as (port, pid), socket.socket() as client:
        client.connect(("127.0.0.1", port))
        wanted = f"127.0.0.1:{port} <- 127.0.0.1:{client.getsockname()[1]} ESTABLISHED"
        deadline = time.monotonic() + 10
        while not (found := until_waiting(pid)).frame["what"].str.contains(wanted).any():
            assert time.monotonic() < deadline, found
    assert found.healthy, found
    assert found.frame["what"].str.contains(f"127.0.0.1:{port} LISTEN").any()


def test_a_ghost_is_named_with_what_holds_it():
    """The number is closed; the duplicate in the same process keeps the file open."""
    with programs.sick("ghost") as (_, pid):
        row = finding(pid, "ghost of a duplicated descriptor")
        held = [fd for fd, link in files.descriptors(pid).items() if link.startswith("socket:")]
    assert f"descriptor {row['fd']} is closed" in row["detail"]
    assert f"fd {max(held)} of process {pid}" in row["detail"]
    assert "ESTABLISHED" in row["what"]


def test_a_ghost_of_a_number_that_is_used_again():
    """Another file has the number now; kcmp tells it from the one watched."""
    watched, peer = socket.socketpair()
    with peer, select.epoll() as epoll:
        epoll.register(watched, select.EPOLLIN)
        number, copy = watched.fileno(), watched.dup()
        kept = copy.fileno()
        watched.close()
        again = os.dup2(peer.fileno(), number)
        row = finding(os.getpid(), "ghost of a duplicated descriptor")
        os.close(again)
        copy.close()
    assert f"descriptor {number} is socket:" in row["detail"]
    assert f"fd {kept} of process {os.getpid()}" in row["detail"]


def test_a_ghost_held_by_another_process():
    """A child that inherited the descriptor is named."""
    watched, peer = socket.socketpair()
    with peer, select.epoll() as epoll:
        epoll.register(watched, select.EPOLLIN)
        code = "import time; time.sleep(30)"
        child = subprocess.Popen([sys.executable, "-c", code], pass_fds=[watched.fileno()])
        try:
            number = watched.fileno()
            watched.close()
            row = finding(os.getpid(), "ghost of a duplicated descriptor")
        finally:
            child.kill()
            child.wait()
    assert f"fd {number} of process {child.pid}" in row["detail"]


def test_a_duplicate_is_no_ghost():
    """Both numbers of one file are open and registered: two entries, nothing wrong."""
    a, b = socket.socketpair()
    with a, b, a.dup() as copy, select.epoll() as epoll:
        epoll.register(a, select.EPOLLIN)
        epoll.register(copy, select.EPOLLIN)
        found = inspect(os.getpid())
        mine = found.frame[found.frame["epfd"] == epoll.fileno()]
        assert set(mine["fd"]) == {a.fileno(), copy.fileno()}
    assert (mine["finding"] == "").all()


def test_undrained_input_is_a_stall():
    """Ten of 64 bytes are read at the edge; the rest is not reported again."""
    with programs.sick("undrained") as (client, pid):
        client.sendall(b"x" * 64)
        row = finding(pid, "edge-triggered with unread bytes")
    assert row["recv_queue"] == 54
    assert "54 bytes" in row["detail"]
    assert "ET" in row["mask_names"]


def test_unread_bytes_are_no_stall_unless_a_thread_waits():
    """The same bytes, level-triggered, or while nothing waits, are no finding."""
    a, b = socket.socketpair()
    with a, b, select.epoll() as epoll:
        b.send(b"later")
        epoll.register(a, select.EPOLLIN | select.EPOLLET)
        assert inspect(os.getpid()).healthy
        assert epoll.poll(0) == [(a.fileno(), select.EPOLLIN)]
        waiting = threading.Thread(target=epoll.poll, args=(20.0,))
        waiting.start()
        try:
            row = finding(os.getpid(), "edge-triggered with unread bytes")
        finally:
            b.send(b"an edge")
            waiting.join()
    assert row["recv_queue"] == 5


def test_one_shot_that_was_not_armed_again():
    with programs.sick("spent") as (client, pid):
        assert inspect(pid).healthy
        client.sendall(b"x")
        row = finding(pid, "one-shot, spent")
    assert row["mask_names"] == "ONESHOT"


def test_a_connection_that_is_not_closed_after_its_peer_did():
    with programs.sick("unclosed") as (client, pid):
        client.shutdown(socket.SHUT_WR)
        row = finding(pid, "peer has closed, descriptor still open")
    assert row["what"].endswith("CLOSE_WAIT")


def test_out_left_on_an_idle_socket():
    """The program spins, so no thread needs to wait; its epoll_data is a pointer."""
    with programs.sick("writable") as (_, pid):
        row = finding(pid, "writable interest left on")
    assert row["data_is"] == "pointer"
    assert row["send_queue"] == 0


def test_a_full_accept_queue():
    """More connections than the backlog wait, and nothing accepts them."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1) as listener,
        select.epoll() as epoll,
        socket.create_connection(listener.getsockname()),
        socket.create_connection(listener.getsockname()),
    ):
        epoll.register(listener, select.EPOLLIN)
        row = finding(os.getpid(), "accept queue full")
    assert row["recv_queue"] == 2


def test_files_that_are_no_sockets():
    """Each kind by its name; queues are missing where the kernel does not tell."""
    read, write = os.pipe()
    counter, inner = os.eventfd(0), select.epoll()
    with select.epoll() as epoll:
        for fd in (read, counter, inner.fileno()):
            epoll.register(fd, select.EPOLLIN)
        frame = inspect(os.getpid()).frame
        mine = frame[frame["epfd"] == epoll.fileno()].set_index("fd")
    assert mine["what"].to_dict() == {
        read: "pipe", counter: "eventfd", inner.fileno(): f"epoll fd {inner.fileno()}",
    }  # fmt: skip
    assert mine[["recv_queue", "send_queue"]].isna().all(axis=None)
    inner.close()
    for fd in (read, write, counter):
        os.close(fd)


def test_what_is_not_permitted_is_missing_with_its_reason(monkeypatch):
    """Without ptrace the waiting threads, and without kcmp some ghosts, are unknown."""
    monkeypatch.setattr(files, "waiters", lambda pid: ({}, "ptrace is refused"))
    monkeypatch.setattr(files, "is_watched_file", lambda *_: None)
    a, b = socket.socketpair()
    with a, b, select.epoll() as epoll:
        epoll.register(a, select.EPOLLIN | select.EPOLLET)
        b.send(b"unread")
        found = inspect(os.getpid())
    assert found.healthy
    assert found.waits.empty
    assert found.frame.attrs["missing"]["waits"] == "ptrace is refused"
    assert "not known: waits (ptrace is refused)" in repr(found)
    assert "no thread waits" not in repr(found)


def test_kcmp_that_is_refused_is_unknown_and_no_ghost(monkeypatch):
    monkeypatch.setattr(files, "is_watched_file", lambda *_: None)
    counter = os.eventfd(0)
    with select.epoll() as epoll:
        epoll.register(counter, select.EPOLLIN)
        found = inspect(os.getpid())
    os.close(counter)
    assert found.healthy
    assert "kcmp" in found.missing["ghosts"]


def test_json_has_everything():
    """The dictionary survives JSON, with None for what is missing."""
    counter = os.eventfd(0)
    with select.epoll() as epoll:
        epoll.register(counter, select.EPOLLIN)
        found = inspect(os.getpid())
        read = json.loads(json.dumps(found.to_dict()))
        [row] = [row for row in read["watched"] if row["epfd"] == epoll.fileno()]
    os.close(counter)
    assert row["recv_queue"] is None
    assert row["what"] == "eventfd"
    assert read["pid"] == os.getpid()


def test_a_process_without_epoll():
    with subprocess.Popen(["sleep", "30"]) as program:
        found = inspect(program.pid)
        program.kill()
    assert found.frame.empty
    assert "no epoll instance" in repr(found)
    assert "no epoll instance" in found._repr_html_()


@pytest.mark.parametrize(
    ("pid", "error", "message"),
    [
        (2**22 + 1, ProcessLookupError, "does not exist"),
        (0, ValueError, "^pid"),
        (-1, ValueError, "^pid"),
        (True, TypeError, "^pid"),
        ("nginx", TypeError, "^pid"),
        (1.0, TypeError, "^pid"),
        (None, TypeError, "^pid"),
    ],
)
def test_no_process(pid, error, message):
    with pytest.raises(error, match=message):
        inspect(pid)


def test_a_kernel_thread():
    if threads(2) != {2: "kthreadd"}:
        pytest.skip("no kernel thread is visible here")
    with pytest.raises(ValueError, match=r"^pid 2 is a kernel thread"):
        inspect(2)


def test_a_zombie():
    """It has ended, although its number still exists."""
    with subprocess.Popen(["true"]) as program:
        os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError, match=rf"{program.pid} has ended.*zombie"):
            inspect(program.pid)


def test_an_epoll_that_is_closed_while_it_is_looked_at(monkeypatch):
    """It is left out; the process's others are shown."""
    with select.epoll(), select.epoll() as closed:
        listed = files.descriptors(os.getpid())
        closed.close()
        monkeypatch.setattr(files, "descriptors", lambda pid: listed)
        found = inspect(os.getpid())
    assert len(found.epolls) == len([x for x in listed.values() if "eventpoll" in x]) - 1


def test_a_kernel_that_lacks_files(monkeypatch):
    """Without IPv6 there is no table of it, and some kernels do not show system calls."""
    real = sockets.read_process_file

    def read(name: str, pid: int | None, tid: int | None = None) -> str:
        if name in ("net/tcp6", "net/udp6", "syscall"):
            raise NotPossible(38, f"this kernel has no /proc/PID/{name}")
        return real(name, pid, tid)

    monkeypatch.setattr(sockets, "read_process_file", read)
    monkeypatch.setattr(files, "read_process_file", read)
    a, b = socket.socketpair()
    with a, b, select.epoll() as epoll:
        epoll.register(a, select.EPOLLIN)
        found = inspect(os.getpid())
        assert a.fileno() in found.names()
    assert "no /proc/PID/syscall" in found.missing["waits"]
