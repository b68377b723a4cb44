"""run_clients(): loads, their rows, and what is left behind.

Servers that misbehave on purpose are plain sockets in a thread of the test; all others
are epolllab's own.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest

import epolllab
from epolllab import kernel
from epolllab.clients.options import Plan, locate
from epolllab.clients.result import Run
from epolllab.clients.run import run_clients
from epolllab.events import Op
from epolllab.frames.journeys import CLIENT_REQUESTS
from epolllab.recording.recording import Recording

WHERE = pytest.mark.parametrize("where", ["process", "thread"])


def fire(target: Any, **wishes: Any) -> Run:
    """Run clients without a progress bar."""
    return run_clients(target, progress=False, **wishes)


@contextmanager
def misbehaving(act: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """Accept in a thread, and do `act` to each connection, one after the other."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                act(sock)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        # A blocked accept returns when its socket is shut down, but not when it is closed.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """Listen, and never accept: the kernel completes the connections by itself."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener.getsockname()


@pytest.fixture
def free_port() -> int:
    """Give a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# ---- what comes of a load ---------------------------------------------------------------


@WHERE
@pytest.mark.parametrize(
    "wishes",
    [
        {"protocol": "hello"},
        {"protocol": "hello", "lifecycle": "howto"},
        {"protocol": "http"},
        {"protocol": "echo"},
    ],
    ids=lambda wishes: "-".join(wishes.values()),
)
def test_every_request_is_answered(where: str, wishes: dict[str, Any]) -> None:
    """Each protocol answers as many requests as were asked, and the server saw as many."""
    with epolllab.start_server(**wishes) as server:
        run = fire(server, connections=5, requests=40, where=where)
        served = server.stats()
    frame = run.requests()
    assert len(run) == len(frame) == 40
    assert frame["error"].isna().all()
    assert frame["conn"].is_unique
    assert served["requests"] == served["accepted"] == 40


@WHERE
def test_keep_alive_uses_its_connections_on(where: str) -> None:
    """With keep-alive as many connections are opened as asked, each with its ordinals."""
    with epolllab.start_server(protocol="http") as server:
        run = fire(server, connections=4, requests=60, keep_alive=True, where=where)
        accepted = server.stats()["accepted"]
    frame = run.requests()
    assert accepted == frame["conn"].nunique() == 4
    for _, requests in frame.groupby("conn"):
        assert requests["request"].tolist() == list(range(len(requests)))
        assert requests["local_port"].nunique() == requests["connected_ns"].nunique() == 1


def test_keep_alive_with_a_server_that_closes() -> None:
    """Where the server ends each connection, keep-alive opens the next one."""
    with epolllab.start_server(protocol="hello") as server:
        run = fire(server, connections=3, requests=20, keep_alive=True)
    assert run.requests()["error"].isna().all()
    assert run.requests()["conn"].is_unique


def test_instants_are_in_order() -> None:
    """A request is due, connected, sent, answered and done, in this order."""
    with epolllab.start_server(protocol="http") as server:
        frame = fire(server, connections=5, requests=50).requests()
    instants = ["intended_ns", "connected_ns", "sent_ns", "first_byte_ns", "done_ns"]
    for earlier, later in pairwise(instants):
        assert (frame[earlier] <= frame[later]).all()
    assert frame["intended_ns"].is_monotonic_increasing
    assert (frame["latency_ns"] == frame["done_ns"] - frame["intended_ns"]).all()


@pytest.mark.parametrize("n", [0, 3])
def test_the_frame_has_its_schema(n: int, free_port: int) -> None:
    """Columns and dtypes are the documented ones, also without a row."""
    if n:
        frame = fire(("127.0.0.1", free_port), requests=n).requests()
    else:
        run = fire(("127.0.0.1", free_port), requests=1)
        part = run._parts[0]._replace(rows=b"")
        frame = Run([part], run.metadata).requests()
    expected = {**CLIENT_REQUESTS, "latency_ns": "Int64"}
    assert list(frame.columns) == list(expected)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == expected
    assert len(frame) == n


def test_status_and_bytes_are_those_of_the_answer() -> None:
    """The row has the handler's status and the bytes of its whole answer."""
    answer = epolllab.Response(b"x" * 100_000, status=404)
    with epolllab.start_server(protocol="http", handler=lambda _: answer) as server:
        run = fire(server, connections=2, requests=4, keep_alive=True)
    frame = run.requests()
    assert frame["status"].tolist() == [404] * 4
    assert (frame["n_bytes"] > 100_000).all()
    assert frame["n_bytes"].nunique() == 1
    assert run.summary()["status 404"] == 4


def test_payload_and_path_reach_the_handler() -> None:
    """A payload makes a POST, and path= or the URL's own path is asked for."""
    seen: list[tuple[str, str, bytes]] = []

    def note(request: epolllab.server.Request) -> bytes:
        seen.append((request.method, request.path, request.body))
        return b""

    payload = bytes(range(256)) * 2_000
    with epolllab.start_server(protocol="http", handler=note) as server:
        fire(server, connections=1, requests=1, path="/a?b=c", payload=payload)
        fire(f"{server.url}from/url?x", connections=1, requests=1)
    assert seen == [("POST", "/a?b=c", payload), ("GET", "/from/url?x", b"")]


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_large_echo_comes_back_whole(keep_alive: bool) -> None:
    """More than the buffers hold is sent and read at the same time, without a deadlock."""
    payload = bytes(range(256)) * 16_384
    with epolllab.start_server(protocol="echo") as server:
        run = fire(server, connections=2, requests=4, payload=payload, keep_alive=keep_alive)
    assert run.requests()["error"].isna().all()
    assert run.requests()["n_bytes"].tolist() == [len(payload)] * 4


def test_ipv6_and_every_way_to_name_a_target() -> None:
    """A handle, a URL, host:port and a pair all reach the server, over IPv6 too."""
    with epolllab.start_server() as server:
        host, port = server.address
        for target in (server, server.url, f"{host}:{port}", (host, port)):
            assert fire(target, requests=3).summary()["succeeded"] == 3
    with epolllab.start_server(host="::1") as server:
        for target in (server, server.url):
            assert fire(target, requests=3).summary()["succeeded"] == 3


def test_several_processes_share_the_load() -> None:
    """Requests and connections are dealt out, and serials stay unique."""
    with epolllab.start_server() as server:
        run = fire(server, connections=5, requests=31, processes=3)
        recording = server.recording()
    frame = run.requests()
    assert frame["process"].value_counts().to_dict() == {0: 11, 1: 10, 2: 10}
    assert frame["conn"].is_unique
    assert len(run.journeys(recording)) == 31
    events = run.events()
    assert events["t_ns"].is_monotonic_increasing
    assert set(events["conn"]) - {0} == set(frame["conn"])
    joined = events[events["op"] == "send"].merge(frame, on="conn")
    assert (joined["t_ns"] >= joined["sent_ns"]).all()
    waits = events[events["op"] == "wait"]
    assert waits["wake"].is_unique
    assert sum(len(one) for one in run.recordings()) == len(events)


def test_duration_bounds_the_run() -> None:
    """No request begins after the time is up, and all that began are complete."""
    with epolllab.start_server() as server:
        run = fire(server, connections=3, duration=0.1)
    frame = run.requests()
    begun = frame["intended_ns"]
    assert len(frame) > 0
    assert begun.max() - run._parts[0].facts.start_ns < 100_000_000
    assert frame["error"].isna().all()


def test_journeys_join_client_and_server() -> None:
    """Each request is found on both sides, and its instants are in order on one clock."""
    with epolllab.start_server(protocol="http") as server:
        run = fire(server, connections=3, requests=30, keep_alive=True)
    journeys = run.journeys(server)
    assert len(journeys) == 30
    assert (journeys["sent_ns"] <= journeys["read_ns"]).all()
    assert (journeys["handled_ns"] <= journeys["done_ns"]).all()


# ---- the open loop ----------------------------------------------------------------------


def test_an_open_loop_keeps_its_rhythm() -> None:
    """Requests are due at even intervals from the start, over all processes."""
    with epolllab.start_server() as server:
        run = fire(server, rate=500, requests=40, connections=8, processes=2)
    due = run.requests()["intended_ns"]
    assert (due.diff().dropna() == 2_000_000).all()
    assert (run.requests()["sent_ns"] >= due).all()


def test_the_queue_of_an_open_loop_is_in_the_latency() -> None:
    """With one connection and a slow handler, each request waits for those before it."""
    rest_ns = 10_000_000

    def rest(_: object) -> bytes:
        time.sleep(rest_ns / 1e9)
        return b""

    with epolllab.start_server(protocol="http", handler=rest) as server:
        run = fire(server, rate=1000, requests=10, connections=1, keep_alive=True)
    frame = run.requests()
    assert (frame["intended_ns"].diff().dropna() == 1_000_000).all()
    waited = frame["sent_ns"] - frame["intended_ns"]
    ordinal = pd.Series(range(10))
    # The k-th is due after k ms and can be sent after k rests at the earliest.
    assert (waited >= ordinal * (rest_ns - 1_000_000) - 1_000_000).all()
    assert (frame["latency_ns"] >= waited + rest_ns).all()
    assert any("1,000 requests/s were asked" in note for note in run.notes)
    assert "were asked" in repr(run)
    assert run.summary()["waiting_max_us"] >= 80_000


def test_requests_queued_for_too_long_are_rows() -> None:
    """A request that never got a connection is a row with its error, not silence."""
    with silent() as address:
        run = fire(address, rate=200, requests=10, connections=1, timeout=0.15)
    frame = run.requests()
    assert frame["error"].tolist() == ["timeout"] * 10
    assert (frame["conn"] == 0).sum() >= 1
    assert frame.loc[frame["conn"] == 0, "sent_ns"].isna().all()


def test_an_open_loop_for_a_duration_has_as_many_requests() -> None:
    """The rate times the duration is the number of requests."""
    with epolllab.start_server() as server:
        run = fire(server, rate=300, duration=0.1, connections=4)
    assert len(run) == 30


# ---- errors are rows --------------------------------------------------------------------


def test_refused_connections_are_rows(free_port: int) -> None:
    """An absent server gives a row for each request, without a busy loop."""
    run = fire(("127.0.0.1", free_port), connections=4, requests=8)
    frame = run.requests()
    assert frame["error"].tolist() == ["ECONNREFUSED"] * 8
    assert frame["connected_ns"].isna().all()
    assert frame["done_ns"].isna().all()
    assert run.errors() == {"ECONNREFUSED": 8}
    assert run.summary()["error ECONNREFUSED"] == run.summary()["failed"] == 8
    # Four at once, then a rest, then the other four.
    intended = frame["intended_ns"]
    assert intended[4] - intended[0] >= 10_000_000


def test_silence_is_a_timeout() -> None:
    """A request that is never answered is given up."""
    with silent() as address:
        run = fire(address, connections=3, requests=3, timeout=0.05)
    frame = run.requests()
    assert frame["error"].tolist() == ["timeout"] * 3
    assert frame["sent_ns"].notna().all()
    assert frame["first_byte_ns"].isna().all()


def test_a_reset_is_a_row() -> None:
    """A peer that resets while it is asked leaves ECONNRESET, and the load goes on."""

    def reset(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with misbehaving(reset) as address:
        run = fire(address, connections=2, requests=6)
    assert run.requests()["error"].tolist() == ["ECONNRESET"] * 6


def read_request(sock: socket.socket) -> None:
    """Read until the blank line, so that a close sends FIN and no RST."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(4096)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "closed early"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed early"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234", "closed early"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "closed early"),
        (b"220 mail.example\r\n", "bad answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "bad answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n12", "bad answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "bad answer"),
    ],
)
def test_half_and_bad_answers_are_rows(said: bytes, error: str) -> None:
    """What is no whole HTTP answer is told apart from one that is."""

    def say(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(said)

    with misbehaving(say) as address:
        frame = fire(address, connections=1, requests=2).requests()
    assert frame["error"].tolist() == [error] * 2
    assert frame["done_ns"].isna().all()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_answers_of_every_framing_are_whole(said: bytes, at_once: bool) -> None:
    """Length, chunks, no body and until-the-end are understood, also byte by byte."""

    def say(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        read_request(sock)
        for piece in [said] if at_once else [said[i : i + 1] for i in range(len(said))]:
            sock.sendall(piece)

    with misbehaving(say) as address:
        frame = fire(address, connections=1, requests=2).requests()
    assert frame["error"].isna().all()
    assert frame["n_bytes"].tolist() == [len(said)] * 2
    assert frame["status"].isin([200, 204]).all()


def test_an_echo_that_is_none() -> None:
    """Other bytes than those sent are a bad answer."""

    def lie(sock: socket.socket) -> None:
        sock.sendall(sock.recv(4096).upper())

    with misbehaving(lie) as address:
        frame = fire(address, connections=1, requests=1, protocol="echo").requests()
    assert frame["error"].tolist() == ["bad answer"]


# ---- records and sums -------------------------------------------------------------------


@WHERE
def test_the_recording_has_every_call(where: str) -> None:
    """Each connection was made, used and closed once, and the sockets did not leak."""
    with epolllab.start_server() as server:
        run = fire(server, connections=4, requests=30, where=where)
    counts = run.recording().counts()
    expected = dict.fromkeys(["socket", "connect", "send", "register", "close"], 30)
    # In a closed loop the poller and the connections are all there is to close.
    assert {name: counts[name] for name in expected} == expected
    assert counts["recv"] >= 30
    connects = run.events().query("op == 'connect'")
    assert connects["conn"].tolist() == run.requests()["conn"].tolist()


def test_connects_are_recorded_with_the_local_port() -> None:
    """The connect record's port is the one in the row."""
    with epolllab.start_server() as server:
        run = fire(server, connections=2, requests=6)
    array = run.recording().array()
    connects = array[array["op"] == Op.CONNECT]
    assert connects["mask"].tolist() == run.requests().sort_values("conn")["local_port"].tolist()


def test_without_record_there_is_none() -> None:
    """record=False leaves an empty recording, and the rows all the same."""
    with epolllab.start_server() as server:
        run = fire(server, requests=10, record=False)
    assert len(run.recording()) == 0
    assert run.events().empty
    assert len(run) == 10


def test_a_small_ring_says_what_it_lost() -> None:
    """The client's ring is bounded, and the run tells."""
    with epolllab.start_server() as server:
        run = fire(server, requests=100, capacity=50)
    recording = run.recording()
    assert len(recording) == 50
    assert recording.overwritten > 0
    assert any("overwritten" in note for note in run.notes)


def test_metadata_says_what_was_asked_and_where() -> None:
    """A run's circumstances can be saved with its recording."""
    with epolllab.start_server() as server:
        run = fire(server, connections=3, requests=5)
    told = run.recording().metadata
    assert told["connections"] == 3
    assert told["requests"] == 5
    assert told["role"] == "clients"
    assert told["boot_id"] == run.metadata["boot_id"]


def test_a_run_of_another_boot_is_refused() -> None:
    """Clocks of two boots cannot be joined."""
    with epolllab.start_server() as server:
        run = fire(server, requests=5)
        recording = server.recording()
    other = Recording(recording.rows, {**recording.metadata, "boot_id": "another"})
    with pytest.raises(ValueError, match="boot"):
        run.journeys(other)


def test_the_summary_adds_up() -> None:
    """Counts, rate and percentiles agree with the frame."""
    with epolllab.start_server(protocol="http") as server:
        run = fire(server, connections=5, requests=200)
    sums, frame = run.summary(), run.requests()
    assert sums["requests"] == sums["succeeded"] == 200
    assert sums["failed"] == 0
    assert sums["max_us"] == pytest.approx(frame["latency_ns"].max() / 1e3, abs=0.01)
    assert sums["p50_us"] <= sums["p90_us"] <= sums["p99_us"] <= sums["p99_9_us"] <= sums["max_us"]
    assert sums["requests_per_s"] == pytest.approx(200 / sums["elapsed_s"], rel=0.01)


def test_littles_law_holds() -> None:
    """What was counted in flight is throughput times latency, where waiting dominates."""

    def rest(_: object) -> bytes:
        time.sleep(0.002)
        return b""

    with epolllab.start_server(protocol="http", handler=rest) as server:
        sums = fire(server, connections=4, requests=60, keep_alive=True).summary()
    assert sums["in_flight_mean"] == pytest.approx(sums["throughput_x_latency"], rel=0.25)
    assert 2 < sums["in_flight_mean"] <= 4


def test_a_run_shows_itself() -> None:
    """Both reprs name the target and the number of requests."""
    with epolllab.start_server() as server:
        run = fire(server, requests=7)
    assert server.url.rstrip("/") in repr(run)
    assert "7 requests" in repr(run)
    assert "<table" in run._repr_html_()


def test_the_bar_reaches_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """progress=True shows a bar on standard error."""
    with epolllab.start_server() as server:
        run = run_clients(server, requests=20)
    assert len(run) == 20
    assert "20" in capsys.readouterr().err


# ---- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"connections": 0}, "connections must be at least 1"),
        ({"requests": 0}, "requests must be at least 1"),
        ({"requests": 1, "duration": 1}, "give one of them"),
        ({"duration": 0}, "duration is positive"),
        ({"rate": -1}, "rate is positive"),
        ({"rate": float("inf")}, "rate is positive and finite"),
        ({"rate": 2e6}, "at most 1,000,000"),
        ({"timeout": 0}, "timeout is positive"),
        ({"connections": 2, "processes": 3}, "cannot share"),
        ({"where": "proces"}, "did you mean 'process'"),
        ({"protocol": "htp"}, "did you mean 'http'"),
        ({"path": "no/slash"}, "path begins with /"),
        ({"path": "/a b"}, "without blanks"),
        ({"path": "/\r\nX: y"}, "without blanks"),
        ({"protocol": "echo", "payload": b""}, "never echoed"),
        ({"capacity": 0}, "capacity must be at least 1"),
        ({"source_addresses": 0}, "source_addresses must be at least 1"),
    ],
)
def test_wishes_that_make_no_sense(wishes: dict[str, object], message: str) -> None:
    """Each is refused with its reason, before anything starts."""
    with pytest.raises(ValueError, match=message):
        fire("127.0.0.1:9", **wishes)


@pytest.mark.parametrize(
    "wishes", [{"payload": "text"}, {"connections": 1.5}, {"rate": "fast"}, {"timeout": True}]
)
def test_wishes_of_the_wrong_kind(wishes: dict[str, object]) -> None:
    """A value of another type is a TypeError."""
    with pytest.raises(TypeError):
        fire("127.0.0.1:9", **wishes)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("8.8.8.8:80", "not this machine's loopback"),
        ("http://192.0.2.1/", "allow_remote=True"),
        ("https://127.0.0.1/", "plain HTTP, not https"),
        ("127.0.0.1", "a target is"),
        ("127.0.0.1:port", "no port that makes sense"),
        (("127.0.0.1", 0), "port must be at least 1"),
        (None, "a target is"),
        (("a", "b", "c"), "a target is"),
        ((1, 2), "a target is"),
    ],
)
def test_targets_that_are_none(target: object, message: str) -> None:
    """Remote and meaningless targets are refused with what to do."""
    with pytest.raises(ValueError, match=message):
        fire(target)


def test_remote_is_allowed_when_said() -> None:
    """allow_remote=True lets another address through; nothing is sent here."""
    assert locate("192.0.2.1:80", allow_remote=True).address == ("192.0.2.1", 80)


def test_a_protocol_of_ones_own_must_be_told() -> None:
    """Clients cannot guess what a user's protocol speaks; subclasses are known."""

    class Shout(epolllab.Session):
        def receive(self, data: bytes) -> list[bytes]:
            return [data]

    class Mine(epolllab.server.Echo):
        pass

    with epolllab.start_server(protocol=Shout) as server:
        with pytest.raises(ValueError, match='protocol="echo"'):
            fire(server)
        assert fire(server, requests=3, protocol="echo").summary()["succeeded"] == 3
    with epolllab.start_server(protocol=Mine) as server:
        assert fire(server, requests=3).summary()["succeeded"] == 3


def test_more_connections_than_descriptors() -> None:
    """The error names the number, and nothing has been started."""
    hard = kernel.descriptor_limits().hard
    with pytest.raises(kernel.DescriptorLimitError, match="descriptors are wanted"):
        fire("127.0.0.1:9", connections=hard + 1)


def test_the_descriptor_limit_is_put_back() -> None:
    """More connections than the soft limit work where the hard limit allows them."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = kernel.descriptors_open() + 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        with silent() as address:
            run = fire(address, connections=120, requests=120, timeout=0.2)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert run.errors() == {"timeout": 120}


def test_source_addresses_are_spread() -> None:
    """Connections come from 127.0.0.1, .2 and .3 in turn, and journeys are refused."""
    seen: list[str] = []

    def note(sock: socket.socket) -> None:
        seen.append(sock.getpeername()[0])
        read_request(sock)
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

    with misbehaving(note) as address:
        run = fire(address, connections=1, requests=6, source_addresses=3)
    assert sorted(seen) == ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2"] + ["127.0.0.3"] * 2
    assert run.summary()["succeeded"] == 6
    with pytest.raises(ValueError, match="several source addresses"):
        run.journeys(Recording(b"", run.metadata))


def test_many_connections_get_more_addresses_unasked() -> None:
    """Above 20,000 connections the plan spreads them; IPv6 has no such addresses."""
    target = locate("127.0.0.1:9")
    assert Plan(target, connections=20_000).sources == ()
    assert Plan(target, connections=50_000).sources == ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    assert Plan(locate(("::1", 9)), connections=50_000).sources == ()


# ---- what is left behind ----------------------------------------------------------------


@WHERE
def test_an_interrupt_leaves_nothing(where: str) -> None:
    """KeyboardInterrupt in the middle of a run ends children and threads, and closes all."""
    children, descriptors = kernel.children(), kernel.descriptors_open()

    def interrupt(_: object, interrupts: list[int] = [signal.SIGINT]) -> bytes:  # noqa: B006
        if interrupts:
            os.kill(os.getpid(), interrupts.pop())
        return b""

    with epolllab.start_server(protocol="http", handler=interrupt) as server:
        inside = kernel.descriptors_open()
        with pytest.raises(KeyboardInterrupt):
            fire(server, connections=1, duration=60, where=where)
        assert kernel.children() == children
        assert [t.name for t in threading.enumerate() if "clients" in t.name] == []
        assert kernel.descriptors_open() <= inside + 1
    assert kernel.descriptors_open() == descriptors


def test_a_killed_child_is_an_error() -> None:
    """A client process that dies says so, and the others are ended."""
    children = kernel.children()

    def kill(_: object) -> bytes:
        for child in kernel.children() - children:
            os.kill(child, signal.SIGKILL)
        return b""

    with (
        epolllab.start_server(protocol="http", handler=kill) as server,
        pytest.raises(RuntimeError, match="SIGKILL"),
    ):
        fire(server, connections=2, duration=60, processes=2)
    assert kernel.children() == children


def test_a_child_that_fails_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the client process comes back with its traceback."""
    monkeypatch.setattr(Plan, "message", lambda plan: None)
    with (
        epolllab.start_server() as server,
        pytest.raises(RuntimeError, match="Traceback"),
    ):
        fire(server, requests=2)


def test_clients_need_no_numpy() -> None:
    """What a client process imports is the standard library and the first half."""
    code = (
        "import sys, epolllab.clients; "
        "heavy = {'numpy', 'pandas', 'matplotlib', 'tqdm'} & sys.modules.keys(); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    folder = os.path.dirname(os.path.dirname(epolllab.__file__))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
