"""start_server(): the handle, its ends, and what it can be told."""

import gc
import itertools
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import epolllab
from epolllab import kernel
from epolllab.events import EPOLLIN, NO_POSITION, Op
from epolllab.server.protocols import Hello
from tests.kernels import notebook_kernel, run_cell
from tests.wire import GET, ask, connect, is_refused, read_to_end, until

PLACES = pytest.mark.parametrize("process", [False, True], ids=["thread", "process"])

ALL = list(
    itertools.product(
        ("epoll", "poll", "select"), ("level", "edge"), ("eager", "howto", "once", "oneshot")
    )
)
REFUSED = [
    (poller, trigger, lifecycle)
    for poller, trigger, lifecycle in ALL
    if (poller != "epoll" and (trigger == "edge" or lifecycle == "oneshot"))
    or (lifecycle == "once" and trigger == "level")
]
WAYS = [way for way in ALL if way not in REFUSED]
NAMES = ["-".join(way) for way in WAYS]


# ---- what is answered -------------------------------------------------------------------


@PLACES
@pytest.mark.parametrize(("poller", "trigger", "lifecycle"), WAYS, ids=NAMES)
def test_hello_to_the_byte(poller: str, trigger: str, lifecycle: str, process: bool) -> None:
    """Each life cycle, trigger and poller gives the how-to's answer, however it is asked."""
    with epolllab.start_server(
        poller=poller, trigger=trigger, lifecycle=lifecycle, process=process
    ) as server:
        for request in (GET, b"GET / HTTP/1.0\n\n", b"anything\n\r\n"):
            assert ask(server.address, request) == Hello.RESPONSE
            assert ask(server.address, *(bytes([byte]) for byte in request)) == Hello.RESPONSE
        assert ask(server.address, GET, half_close=True) == Hello.RESPONSE
        stats = server.settle().stats()
    assert stats["requests"] == stats["accepted"] == stats["closed"] == 7
    assert (stats["connections"], stats["lost"], stats["faults"]) == (0, 0, 0)


@pytest.mark.parametrize(("poller", "trigger", "lifecycle"), WAYS, ids=NAMES)
@pytest.mark.parametrize("drain", [True, False], ids=["drain", "once"])
def test_echo_larger_than_the_buffers(
    poller: str, trigger: str, lifecycle: str, drain: bool
) -> None:
    """What does not fit is sent when the kernel takes more, in every way, whole and in order.

    The peer begins to read when a send would have blocked. Edges without drain strand
    what one read leaves, so there a read takes all there can be.
    """
    payload = bytes(range(256)) * 4_096
    with (
        epolllab.start_server(
            protocol="echo",
            poller=poller,
            trigger=trigger,
            lifecycle=lifecycle,
            drain=drain,
            recv_size=1 << 21,
            send_buffer=10_000,
            recv_buffer=50_000,
            capacity=20_000,
        ) as server,
        socket.socket() as sock,
    ):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 50_000)
        sock.settimeout(20)
        sock.connect(server.address)
        sender = threading.Thread(target=sock.sendall, args=(payload,))
        sender.start()
        until(lambda: "send EAGAIN" in server.recording().errors())
        answer = b""
        while len(answer) < len(payload):
            answer += sock.recv(1 << 16)
        sender.join()
    assert answer == payload


@pytest.mark.parametrize(
    ("poller", "trigger", "lifecycle"), REFUSED, ids=["-".join(way) for way in REFUSED]
)
def test_what_has_no_meaning_is_refused(poller: str, trigger: str, lifecycle: str) -> None:
    """A combination without a meaning is refused with the reason, and opens nothing."""
    reason = "level-triggered only|epoll's own|would spin"
    with pytest.raises(ValueError, match=reason):
        epolllab.start_server(poller=poller, trigger=trigger, lifecycle=lifecycle)
    assert not epolllab.servers()


@PLACES
def test_a_session_of_ones_own(process: bool) -> None:
    """A class from a test or a cell speaks, also in a child process."""

    class Shout(epolllab.Session):
        def receive(self, data: bytes) -> list[bytes]:
            return [data.upper()]

    with epolllab.start_server(protocol=Shout, process=process) as server:
        assert ask(server.address, b"quiet", half_close=True) == b"QUIET"
        assert server.recording().metadata["protocol"].endswith("Shout")


@PLACES
def test_a_handler_of_ones_own(process: bool) -> None:
    """A function that closes over a variable answers, also in a child process."""
    word = "kept"

    def handler(request: epolllab.server.Request) -> str:
        return f"{request.path} {word}"

    with epolllab.start_server(protocol="http", handler=handler, process=process) as server:
        answer = ask(server.address, b"GET /a HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n/a kept")


def test_a_handler_that_cannot_travel() -> None:
    """What cannot be pickled is refused with a way out, and nothing is left."""
    lock = threading.Lock()

    def handler(request: epolllab.server.Request) -> str:
        with lock:
            return ""

    with pytest.raises(TypeError, match="cannot be pickled"):
        epolllab.start_server(protocol="http", handler=handler, process=True)
    assert not epolllab.servers()


# ---- the handle -------------------------------------------------------------------------


@PLACES
def test_it_listens_when_start_returns(process: bool) -> None:
    """A client can connect at once, to the process that has the loop."""
    with epolllab.start_server(process=process) as server:
        assert server.address == ("127.0.0.1", server.port)
        assert server.url == f"http://127.0.0.1:{server.port}/"
        assert (server.pid == os.getpid()) is not process
        connect(server.address).close()


def test_ipv6_has_brackets_in_its_url() -> None:
    """A URL needs them around an IPv6 address."""
    with epolllab.start_server("::1") as server:
        assert server.url == f"http://[::1]:{server.port}/"
        assert ask(server.address, GET) == Hello.RESPONSE


@PLACES
def test_the_handle_tells_what_happened(process: bool) -> None:
    """Counters, frames and the recording tell of the same requests, also after the stop."""
    server = epolllab.start_server(process=process)
    for _ in range(3):
        ask(server.address, GET)
    live = server.settle().stats()
    server.stop()
    assert (live["connections"], live["accepted"], live["closed"]) == (0, 3, 3)
    assert (live["requests"], live["staged"], live["overwritten"]) == (3, 0, 0)
    for _ in range(2):
        assert server.stats()["requests"] == 3
        assert len(server.requests()) == 3
        events = server.events()
        assert ((events["op"] == "accept") & events["error"].isna()).sum() == 3
        assert (events["op"] == "close").sum() == 3 + 3  # listener, wake-up, poller
        assert len(events) == len(server.recording()) == server.stats()["recorded"]
        assert (server.wakeups()["n_returned"] > 0).any()
        assert server.interest().empty
    metadata = server.recording().metadata
    assert metadata["lifecycle"] == "eager"
    assert metadata["pid"] == server.pid
    assert metadata["stats"]["requests"] == 3


@PLACES
def test_stop_any_number_of_times(process: bool) -> None:
    """Stops one after the other and at once all return, and it has stopped after the first."""
    server = epolllab.start_server(process=process)
    assert server.is_running
    assert epolllab.servers() == [server]
    stoppers = [threading.Thread(target=server.stop) for _ in range(4)]
    for thread in stoppers:
        thread.start()
    server.stop()
    assert not server.is_running
    assert is_refused(server.address)
    for thread in stoppers:
        thread.join()
    server.stop()
    assert server.error is None
    assert not epolllab.servers()


@PLACES
def test_stop_closes_the_open_connections(process: bool) -> None:
    """A peer in the middle of something reads the end."""
    with epolllab.start_server(protocol="http", process=process) as server:
        with connect(server.address) as sock:
            sock.sendall(GET)
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
            server.stop()
            assert sock.recv(1_000) == b""
        assert server.stats()["closed"] == 1
        assert server.stats()["connections"] == 0


def test_a_handler_may_stop_its_server() -> None:
    """Stop called in the loop's own thread does not wait for itself."""
    held: list[epolllab.Server] = []

    def handler(request: epolllab.server.Request) -> str:
        held[0].stop()
        return "stopping"

    held.append(epolllab.start_server(protocol="http", handler=handler))
    assert ask(held[0].address, GET).endswith(b"stopping")
    until(lambda: not held[0].is_running)
    held[0].stop()


@PLACES
def test_with_stops_and_keeps_the_error_inside(process: bool) -> None:
    """Leaving the block stops the server; an exception in it goes through unchanged."""
    with (
        pytest.raises(KeyError, match="mine"),
        epolllab.start_server(process=process) as server,
    ):
        raise KeyError("mine")
    assert not server.is_running
    assert is_refused(server.address)


@PLACES
def test_both_reprs_say_how_it_is(process: bool) -> None:
    """Address, loop, connections and events are in the text and in the card."""
    with epolllab.start_server(
        protocol="http", trigger="edge", lifecycle="once", capacity=20, process=process
    ) as server:
        with connect(server.address) as sock:
            for _ in range(40):
                sock.sendall(GET)
                assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
            # A loop that finds each next request there already stages its rows and reads on.
            until(lambda: not server.stats()["staged"])
            texts = (repr(server), server._repr_html_())
            for text in texts:
                assert server.url in text
                assert "epoll edge once" in text
                assert "running" in text
            assert ", 1 connections, 20 events recorded, " in texts[0]
            lost = int(texts[0].partition("events recorded, ")[2].split()[0].replace(",", ""))
            assert lost > 20
        server.stop()
        assert "stopped" in repr(server)
        assert "stopped" in server._repr_html_()


def test_without_a_recorder() -> None:
    """record=False leaves the recorder out: counters go on, frames are empty."""
    with epolllab.start_server(record=False) as server:
        assert ask(server.address, GET) == Hello.RESPONSE
        stats = server.settle().stats()
        assert server._host.recorder is None  # type: ignore[attr-defined]
        assert "none events recorded" in repr(server)
        assert len(server.recording()) == 0
        for frame in (server.events(), server.wakeups(), server.requests()):
            assert frame.empty
    assert (stats["requests"], stats["recorded"], stats["overwritten"]) == (1, 0, 0)
    with epolllab.start_server(record=False, process=True) as server:
        assert ask(server.address, GET) == Hello.RESPONSE
        assert server.settle().stats()["recorded"] == 0
        assert server.events().empty


def test_settle_says_who_is_still_there() -> None:
    """A connection that stays open is named when the patience ends."""
    with epolllab.start_server() as server, connect(server.address):
        until(lambda: server.stats()["connections"] == 1)
        with pytest.raises(TimeoutError, match="1 connections are still open"):
            server.settle(timeout=0.05)


# ---- many handles -----------------------------------------------------------------------


@PLACES
def test_servers_and_stop_all(process: bool) -> None:
    """Those running are listed by port; stop_all stops each, and the list is empty."""
    started = [epolllab.start_server(process=process) for _ in range(3)]
    assert epolllab.servers() == sorted(started, key=lambda server: server.port)
    started[0].stop()
    assert set(epolllab.servers()) == set(started[1:])
    epolllab.stop_all()
    assert not epolllab.servers()
    assert all(is_refused(server.address) for server in started)
    epolllab.stop_all()


@PLACES
def test_a_dropped_handle_stops_its_server(process: bool) -> None:
    """When the last reference goes, nothing listens any more and no child is left."""
    server = epolllab.start_server(process=process)
    address = server.address
    ask(address, GET)
    del server
    gc.collect()
    assert is_refused(address)
    assert not epolllab.servers()
    assert not kernel.children()


def test_the_same_statement_twice_leaves_one() -> None:
    """Binding the name anew drops the first handle, and with it its server."""
    namespace: dict[str, Any] = {"epolllab": epolllab}
    exec("server = epolllab.start_server()", namespace)
    first = namespace["server"].address
    exec("server = epolllab.start_server()", namespace)
    gc.collect()
    assert epolllab.servers() == [namespace["server"]]
    assert is_refused(first)
    namespace["server"].stop()


@pytest.mark.notebook
def test_a_cell_run_twice_leaves_one_server() -> None:
    """In a kernel the cell's earlier server is stopped first, even at the same port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # The last line displays the handle, which IPython then keeps in Out and _.
    cell = f"server = epolllab.start_server(port={port}, process=__P__)\nserver"
    with notebook_kernel() as (_, client):
        run_cell(client, "import epolllab")
        for process in ("False", "True"):
            for _ in range(3):
                run_cell(client, cell.replace("__P__", process))
                assert run_cell(client, "print(epolllab.servers())").count("running") == 1
            run_cell(client, "server.stop()")
        run_cell(client, "first = epolllab.start_server()")
        run_cell(client, "second = epolllab.start_server()")
        assert run_cell(client, "print(epolllab.servers())").count("running") == 2


@pytest.mark.parametrize(
    ("ending", "code"), [("", 0), ("raise SystemExit(3)", 3), ("raise KeyError(1)", 1)]
)
def test_leaving_the_interpreter_stops_all(ending: str, code: int) -> None:
    """Servers that nobody stopped end with the interpreter, in silence and with no child."""
    program = textwrap.dedent(
        f"""
        import epolllab
        kept = [epolllab.start_server(), epolllab.start_server(process=True)]
        for server in kept:
            print(server.pid, server.port, flush=True)
        {ending}
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert "KeyError" in done.stderr if code == 1 else done.stderr == ""
    for line in done.stdout.splitlines():
        pid, port = map(int, line.split())
        assert not Path(f"/proc/{pid}").exists()
        assert is_refused(("127.0.0.1", port))


# ---- what it can be told ----------------------------------------------------------------


def test_a_host_that_others_reach_gets_a_warning() -> None:
    """The warning says what it exposes, and points at the caller's line."""
    with pytest.warns(UserWarning, match="reachable from other machines") as caught:
        server = epolllab.start_server("0.0.0.0")
    with server:
        assert ask(("127.0.0.1", server.port), GET) == Hello.RESPONSE
    assert caught[0].filename == __file__


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "localhost", "::1"])
def test_a_loopback_host_gets_none(host: str) -> None:
    """Every loopback address is this machine's own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epolllab.start_server(host).stop()


def test_a_host_that_is_not_ours() -> None:
    """An unknown name and a foreign address say what was asked and what to do."""
    with pytest.raises(OSError, match="no address of this machine"):
        epolllab.start_server("no.such.host.invalid")
    with (
        pytest.warns(UserWarning, match="reachable"),
        pytest.raises(OSError, match=r"cannot listen at 192\.0\.2\.1 port 0"),
    ):
        epolllab.start_server("192.0.2.1")


def test_socket_options_reach_the_accepted_socket() -> None:
    """TCP_NODELAY and the buffers are set on the listener, and accepted sockets inherit them."""
    with (
        epolllab.start_server(
            protocol="echo", nodelay=False, send_buffer=20_000, recv_buffer=30_000
        ) as server,
        connect(server.address),
    ):
        fd = int(interest_of(server, 3)["fd"].max())
        with socket.socket(fileno=os.dup(fd)) as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
            # The kernel doubles what was asked for (socket(7)).
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 40_000
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 60_000


@pytest.mark.parametrize("lifecycle", ["eager", "howto"])
def test_cork_holds_an_answer_together(lifecycle: str) -> None:
    """TCP_CORK goes on before an answer and off after it, once each."""
    with epolllab.start_server(protocol="http", cork=True, lifecycle=lifecycle) as server:
        answer = ask(server.address, b"GET / HTTP/1.0\r\n\r\n")
        ops = [str(op) for op in server.settle().events()["op"]]
    assert answer.endswith(b"Hello, world!")
    assert ops.count("setsockopt") == 2
    first, last = (i for i, op in enumerate(ops) if op == "setsockopt")
    assert "send" in ops[first:last]


@pytest.mark.parametrize(("batch", "most"), [(1, 1), (3, 3)])
def test_accept_batch_bounds_the_accepts_of_a_turn(batch: int, most: int) -> None:
    """No turn of the listener accepts more, with edges neither, and all are served."""
    for trigger in ("level", "edge"):
        with epolllab.start_server(accept=batch, trigger=trigger) as server:
            run = epolllab.run_clients(server, connections=20, requests=200, progress=False)
            events = server.settle().events()
        assert run.requests()["error"].isna().all()
        accepts = events[events["op"] == "accept"]
        assert accepts.groupby(["wake", "position"]).size().max() <= most


@pytest.mark.parametrize("trigger", ["level", "edge"])
def test_draining_ends_with_a_refused_accept_and_asking_with_none(trigger: str) -> None:
    """The default accepts until EAGAIN; asking calls getsockopt instead and never fails."""
    for accept, refused, asked in (("drain", True, False), ("ask", False, True)):
        with epolllab.start_server(accept=accept, trigger=trigger) as server:
            run = epolllab.run_clients(server, connections=20, requests=200, progress=False)
            recording = server.settle().recording()
        assert run.requests()["error"].isna().all()
        assert ("accept EAGAIN" in recording.errors()) is refused
        assert ("getsockopt" in recording.counts()) is asked


def test_max_events_bounds_a_batch() -> None:
    """No wait returns more descriptors than asked for."""
    with epolllab.start_server(protocol="http", max_events=2) as server:
        epolllab.run_clients(server, connections=10, requests=200, keep_alive=True, progress=False)
        assert server.wakeups()["n_returned"].max() <= 2


@PLACES
def test_max_connections_leaves_the_others_in_the_queue(process: bool) -> None:
    """No more than the limit are open at a time; the others wait, and are all served."""
    with epolllab.start_server(max_connections=2, process=process) as server:
        run = epolllab.run_clients(server, connections=12, requests=60, progress=False)
        stats = server.settle().stats()
        events = server.events()
    assert run.requests()["error"].isna().all()
    assert stats["accepted"] == 60
    assert stats["pauses"] > 0
    step = events["op"].map({"accept": 1, "close": -1}).astype("float").fillna(0)
    of_connections = (events["conn"] > 0) & events["error"].isna()
    assert step[of_connections].cumsum().max() == 2


@PLACES
def test_silence_ends_by_idle_timeout(process: bool) -> None:
    """A silent connection is closed; in the middle of a request it is told 408."""
    with epolllab.start_server(protocol="http", idle_timeout=0.1, process=process) as server:
        with connect(server.address) as silent, connect(server.address) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost:")
            assert read_to_end(silent) == b""
            assert read_to_end(slow).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        stats = server.settle().stats()
        assert ask(server.address, b"GET / HTTP/1.0\r\n\r\n").endswith(b"Hello, world!")
    assert stats["timeouts"] == 2


# ---- the interest list ------------------------------------------------------------------


def interest_of(server: epolllab.Server, n: int) -> pd.DataFrame:
    """The list once it has `n` entries that are alike; the two sides are read in turn."""

    def agreed() -> list[pd.DataFrame]:
        frame = server.interest()
        return [frame] if len(frame) == n and frame["where"].nunique() == 1 else []

    return until(agreed)[0]


@PLACES
def test_interest_is_the_same_on_both_sides(process: bool) -> None:
    """The kernel's list and the server's agree while nothing is wrong."""
    with (
        epolllab.start_server(trigger="edge", process=process) as server,
        connect(server.address),
    ):
        frame = interest_of(server, 3)
    assert len(frame) == 3  # wake-up, listener, connection
    assert (frame["where"] == "both").all()
    assert frame["own_names"].tolist()[-1] == "IN|ET"
    assert (frame["kernel_names"].str.count("IN") == 1).all()
    assert ((frame["kernel_mask"] & frame["own_mask"]) == frame["own_mask"]).all()


@pytest.mark.parametrize("poller", ["poll", "select"])
def test_the_kernel_keeps_no_list_for_poll(poller: str) -> None:
    """With poll and select only the program has a list, and every entry says so."""
    with epolllab.start_server(poller=poller) as server, connect(server.address):
        frame = interest_of(server, 3)
    assert frame["where"].tolist() == ["program only"] * 3
    assert frame["kernel_mask"].isna().all()
    assert (frame["own_mask"] == EPOLLIN).all()


def test_a_ghost_is_in_the_kernels_list_only() -> None:
    """A closed descriptor that a duplicate keeps alive is marked, also once its number is reused.

    epoll watches the open file description, so closing a number takes nothing out while
    another number refers to it.
    """
    with (
        epolllab.start_server(trigger="edge") as server,
        connect(server.address) as first,
        socket.socket() as second,  # has its number already, so that it cannot take the ghost's
    ):
        fd = int(interest_of(server, 3)["fd"].max())
        duplicate = os.dup(fd)
        try:
            first.sendall(GET)
            assert first.recv(1_000) == Hello.RESPONSE
            until(lambda: server.stats()["connections"] == 0)
            ghosts = server.interest().query("where == 'kernel only'")
            assert ghosts["fd"].tolist() == [fd]
            second.connect(server.address)
            # The lowest free number was given out again: one number, two descriptions. It is
            # in the server's table a moment before it is in the kernel's.
            said = ["both", "kernel only"]
            until(lambda: sorted(server.interest().query(f"fd == {fd}")["where"]) == said)
            assert server.interest().query(f"fd == {fd}")["inode"].nunique() == 2
        finally:
            os.close(duplicate)
        assert (server.interest()["where"] == "both").all()


# ---- a recording that is taken while it grows ---------------------------------------------


def check_rows(rows: "np.ndarray[Any, Any]") -> None:
    """Hold what is true of every whole stretch of a loop's rows."""
    assert (rows["end_ns"] >= rows["start_ns"]).all()
    assert (np.diff(rows["start_ns"]) >= 0).all()
    assert set(np.unique(rows["op"]).tolist()) <= set(map(int, Op))
    steps = np.diff(rows["wake"].astype("i8"))
    # Rows before the first wait that is kept do not know their wake.
    first = int(np.flatnonzero(rows["op"] == Op.WAIT)[0])
    assert set(steps[first:].tolist()) <= {0, 1}
    assert (steps[first:] == (rows["op"][first + 1 :] == Op.WAIT)).all()
    accepted = rows["conn"][(rows["op"] == Op.ACCEPT) & (rows["result"] >= 0)]
    assert (np.diff(accepted) == 1).all()
    check_batches(rows)


def check_batches(rows: "np.ndarray[Any, Any]") -> None:
    """Hold that each wait is followed by as many ready rows as it returned, numbered."""
    waits = np.flatnonzero(rows["op"] == Op.WAIT)
    ready = np.flatnonzero(rows["op"] == Op.READY)
    ready = ready[(ready > waits[0]) & (ready < waits[-1])]
    counted = np.histogram(ready, bins=waits)[0] if len(waits) > 1 else np.array([], int)
    assert counted.tolist() == np.maximum(rows["result"][waits[:-1]], 0).tolist()
    positions = rows["position"][ready].astype(int)
    assert (positions != NO_POSITION).all()
    assert positions.tolist() == [n for count in counted.tolist() for n in range(count)]


def check_overlap(earlier: epolllab.Recording, later: epolllab.Recording) -> int:
    """Hold that two copies agree on every row that both have; how many there are.

    A row's number since the start is its index plus what was overwritten before it.
    Wake and position are derived from the rows before, which a later copy has fewer of.
    """
    shift = later.overwritten - earlier.overwritten
    one, two = earlier.array()[shift:], later.array()
    assert shift >= 0
    assert len(one) <= len(two)
    for name in ("start_ns", "end_ns", "conn", "fd", "result", "mask", "op"):
        assert (one[name] == two[name][: len(one)]).all(), name
    return len(one)


@PLACES
@pytest.mark.parametrize("capacity", [100, 3_000, 20_000])
def test_a_copy_is_whole_while_the_loop_writes(process: bool, capacity: int) -> None:
    """Under load no copy of a small ring has a torn, lost or doubled row."""
    copies: list[epolllab.Recording] = []
    with epolllab.start_server(capacity=capacity, process=process) as server:
        load = threading.Thread(
            target=epolllab.run_clients,
            args=(server,),
            kwargs={"connections": 20, "requests": 4_000, "progress": False},
        )
        load.start()
        while load.is_alive():
            copies.append(server.recording())
            time.sleep(0.0005)
        load.join()
        written = sum(server.settle().stats()[name] for name in ("recorded", "overwritten"))
        copies.append(server.recording())
    assert len({len(copy) + copy.overwritten for copy in copies}) > 5, "it did not grow meanwhile"
    for copy in copies:
        assert len(copy) <= capacity
        if (copy.array()["op"] == Op.WAIT).any():
            check_rows(copy.array())
    overlaps = sum(itertools.starmap(check_overlap, itertools.pairwise(copies)))
    assert capacity == 100 or overlaps > 0
    last = copies[-1]
    assert len(last) + last.overwritten == written
    assert len(last) == min(capacity, written)
    assert last.overwritten > 0


def test_a_full_recording_accounts_for_every_request() -> None:
    """With room for all, the frames have each request and each connection once."""
    with epolllab.start_server(process=True) as server:
        run = epolllab.run_clients(server, connections=20, requests=2_000, progress=False)
        recording = server.settle().recording()
    assert recording.overwritten == 0
    check_rows(recording.array())
    requests = recording.requests()
    assert len(requests) == len(run) == 2_000
    assert requests["conn"].is_unique
    counts = recording.counts()
    accepted = counts["accept"] - recording.errors()["accept EAGAIN"]
    assert accepted == counts["handle"] == counts["close"] == 2_000
    assert isinstance(recording.events(), pd.DataFrame)
