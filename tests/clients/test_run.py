"""``run_clients()``: requests, their rows, errors, and what a run leaves behind.

Servers that misbehave on purpose are plain sockets in a thread of the test.
"""

import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise, product
from math import isnan
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

import epolllab
from epolllab import kernel, plots
from epolllab.clients import executors
from epolllab.clients.load import LoadLoop
from epolllab.clients.options import ClientOptions, Share, resolve_target
from epolllab.clients.result import Run
from epolllab.clients.run import run_clients
from epolllab.events import Op
from epolllab.frames.journeys import CLIENT_REQUESTS
from epolllab.recording.recording import Recording
from tests import wire
from tests.plots.samples import by_gid
from tests.server.helpers import CUTS

WHERE = pytest.mark.parametrize("where", ["process", "thread"])


def load(target: Any, **options: Any) -> Run:
    """Run clients without a progress bar."""
    return run_clients(target, progress=False, **options)


@pytest.fixture
def server() -> Iterator[Any]:
    """A default server."""
    with epolllab.start_server() as server:
        yield server


@pytest.fixture
def http() -> Iterator[Any]:
    """An HTTP server."""
    with epolllab.start_server(protocol="http") as server:
        yield server


@contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """Listen, and never accept: the kernel completes the connections by itself."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener.getsockname()


@pytest.fixture
def free_address() -> tuple[str, int]:
    """An address at which no socket listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()


def responding(*pieces: bytes) -> AbstractContextManager[tuple[str, int]]:
    """A server that reads one request of a connection, sends the pieces, and closes."""

    def respond(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b""
        while b"\r\n\r\n" not in data:  # all of it, so that the close sends FIN and no RST
            data += sock.recv(4096)
        for piece in pieces:
            sock.sendall(piece)

    return wire.misbehaving(respond)


def slow(seconds: float) -> Callable[[object], bytes]:
    """A handler that sleeps."""

    def handler(_: object) -> bytes:
        time.sleep(seconds)
        return b""

    return handler


# ---- the closed loop --------------------------------------------------------------------


@WHERE
@pytest.mark.parametrize(
    "options",
    [
        {"protocol": "hello"},
        {"protocol": "hello", "lifecycle": "howto"},
        {"protocol": "http"},
        {"protocol": "echo"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_every_request_gets_a_response(where: str, options: dict[str, Any]) -> None:
    with epolllab.start_server(**options) as server:
        run = load(server, connections=5, requests=40, where=where)
        served = server.stats()
    frame = run.requests()
    assert len(run) == len(frame) == 40
    assert frame["error"].isna().all()
    assert frame["conn"].is_unique
    assert served["requests"] == served["accepted"] == 40


@WHERE
def test_keep_alive_reuses_its_connections(where: str, http: Any) -> None:
    """As many connections are opened as requested, each with its ordinals."""
    frame = load(http, connections=4, requests=60, keep_alive=True, where=where).requests()
    assert http.stats()["accepted"] == frame["conn"].nunique() == 4
    for _, requests in frame.groupby("conn"):
        assert requests["request"].tolist() == list(range(len(requests)))
        assert requests["local_port"].nunique() == requests["connected_ns"].nunique() == 1


def test_keep_alive_reconnects_to_a_server_that_closes(server: Any) -> None:
    frame = load(server, connections=3, requests=20, keep_alive=True).requests()
    assert frame["error"].isna().all()
    assert frame["conn"].is_unique


def test_instants_are_in_order(http: Any) -> None:
    frame = load(http, connections=5, requests=50).requests()
    instants = ["intended_ns", "connected_ns", "sent_ns", "first_byte_ns", "done_ns"]
    for earlier, later in pairwise(instants):
        assert (frame[earlier] <= frame[later]).all()
    assert frame["intended_ns"].is_monotonic_increasing
    assert (frame["latency_ns"] == frame["done_ns"] - frame["intended_ns"]).all()


@pytest.mark.parametrize("n", [0, 3])
def test_the_frame_has_its_dtypes(n: int, free_address: tuple[str, int]) -> None:
    """Columns and dtypes are the documented ones, also without a row."""
    run = load(free_address, requests=max(n, 1))
    if not n:
        run = Run([run._parts[0]._replace(rows=b"")], run.metadata)
    dtypes = {name: str(dtype) for name, dtype in run.requests().dtypes.items()}
    expected = {**CLIENT_REQUESTS, "host": "category", "latency_ns": "Int64"}
    assert list(dtypes.items()) == list(expected.items())
    assert len(run.requests()) == n


def test_status_and_bytes_are_those_of_the_response() -> None:
    response = epolllab.Response(b"x" * 100_000, status=404)
    with epolllab.start_server(protocol="http", handler=lambda _: response) as server:
        run = load(server, connections=2, requests=4, keep_alive=True)
    frame = run.requests()
    assert frame["status"].tolist() == [404] * 4
    assert (frame["n_bytes"] > 100_000).all()
    assert frame["n_bytes"].nunique() == 1
    assert run.summary()["status 404"] == 4


def test_payload_and_path_reach_the_handler() -> None:
    """A payload makes a POST, and the path is that of path= or of the URL."""
    seen: list[tuple[str, str, bytes]] = []

    def note(request: epolllab.server.Request) -> bytes:
        seen.append((request.method, request.path, request.body))
        return b""

    payload = bytes(range(256)) * 2_000
    with epolllab.start_server(protocol="http", handler=note) as server:
        load(server, connections=1, requests=1, path="/a?b=c", payload=payload)
        load(f"{server.url}from/url?x", connections=1, requests=1)
    assert seen == [("POST", "/a?b=c", payload), ("GET", "/from/url?x", b"")]


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_large_echo_is_sent_and_read_at_the_same_time(keep_alive: bool) -> None:
    """More than the buffers hold comes back without a deadlock."""
    payload = bytes(range(256)) * 16_384
    with epolllab.start_server(protocol="echo") as server:
        run = load(server, connections=2, requests=4, payload=payload, keep_alive=keep_alive)
    assert run.requests()["error"].isna().all()
    assert run.requests()["n_bytes"].tolist() == [len(payload)] * 4


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_every_form_of_target(host: str) -> None:
    """A handle, a URL, host:port and a pair all reach the server."""
    with epolllab.start_server(host=host) as server:
        name, port = server.address[:2]
        pair = [f"{name}:{port}", (name, port)] if host == "127.0.0.1" else []
        for target in (server, server.url, *pair):
            assert load(target, requests=3).summary()["succeeded"] == 3


def test_several_processes_share_the_load(server: Any) -> None:
    """Requests and connections are distributed, and serials stay unique."""
    run = load(server, connections=5, requests=31, processes=3)
    frame = run.requests()
    assert frame["process"].value_counts().to_dict() == {0: 11, 1: 10, 2: 10}
    assert frame["conn"].is_unique
    assert len(run.journeys(server.settle().recording())) == 31
    events = run.events()
    assert events["t_ns"].is_monotonic_increasing
    assert set(events["conn"]) - {0} == set(frame["conn"])
    joined = events[events["op"] == "send"].merge(frame, on="conn")
    assert (joined["t_ns"] >= joined["sent_ns"]).all()
    assert events.loc[events["op"] == "wait", "wake"].is_unique
    assert sum(len(one) for one in run.recordings()) == len(events)


def test_duration_bounds_the_run(server: Any) -> None:
    """No request starts after the duration, and all that started are completed."""
    run = load(server, connections=3, duration=0.1)
    frame = run.requests()
    assert len(frame) > 0
    assert frame["intended_ns"].max() - run._parts[0].facts.start_ns < 100_000_000
    assert frame["error"].isna().all()


def test_journeys_join_client_and_server(http: Any) -> None:
    """Each request is found on both sides, and its instants are in order on one clock."""
    journeys = load(http, connections=3, requests=30, keep_alive=True).journeys(http)
    assert len(journeys) == 30
    assert (journeys["sent_ns"] <= journeys["read_ns"]).all()
    assert (journeys["handled_ns"] <= journeys["done_ns"]).all()


# ---- the open loop ----------------------------------------------------------------------


def test_an_open_loop_keeps_its_schedule(server: Any) -> None:
    """Requests are due at even intervals from the start, over all processes."""
    frame = load(server, rate=500, requests=40, connections=8, processes=2).requests()
    assert (frame["intended_ns"].diff().dropna() == 2_000_000).all()
    assert (frame["sent_ns"] >= frame["intended_ns"]).all()


def test_latency_includes_the_queue_of_an_open_loop() -> None:
    """With one connection and a slow handler, each request waits for those before it."""
    pause_ns = 10_000_000
    with epolllab.start_server(protocol="http", handler=slow(pause_ns / 1e9)) as server:
        run = load(server, rate=1000, requests=10, connections=1, keep_alive=True)
    frame = run.requests()
    assert (frame["intended_ns"].diff().dropna() == 1_000_000).all()
    waited = frame["sent_ns"] - frame["intended_ns"]
    # Request k is due after k ms and can be sent after k pauses at the earliest.
    assert (waited >= pd.Series(range(10)) * (pause_ns - 1_000_000) - 1_000_000).all()
    assert (frame["latency_ns"] >= waited + pause_ns).all()
    assert any("of 1,000 requests/s" in note for note in run.notes)
    assert "of 1,000 requests/s" in repr(run)
    assert run.summary()["waiting_max_us"] >= 80_000


def test_requests_that_time_out_in_the_queue_are_rows() -> None:
    with silent() as address:
        frame = load(address, rate=200, requests=10, connections=1, timeout=0.15).requests()
    assert frame["error"].tolist() == ["timeout"] * 10
    assert (frame["conn"] == 0).sum() >= 1
    assert frame.loc[frame["conn"] == 0, "sent_ns"].isna().all()


def test_an_open_loop_with_a_duration_has_rate_times_duration_requests(server: Any) -> None:
    assert len(load(server, rate=300, duration=0.1, connections=4)) == 30


# ---- errors are rows --------------------------------------------------------------------


def test_refused_connections_are_rows(free_address: tuple[str, int]) -> None:
    """An absent server gives a row for each request, without a busy loop."""
    run = load(free_address, connections=4, requests=8)
    frame = run.requests()
    assert frame["error"].tolist() == ["ECONNREFUSED"] * 8
    assert frame["connected_ns"].isna().all()
    assert frame["done_ns"].isna().all()
    assert run.errors() == {"ECONNREFUSED": 8}
    assert run.summary()["error ECONNREFUSED"] == run.summary()["failed"] == 8
    # Four immediately, then a pause, then the other four.
    assert frame["intended_ns"][4] - frame["intended_ns"][0] >= 10_000_000


def test_a_request_without_a_response_times_out() -> None:
    with silent() as address:
        frame = load(address, connections=3, requests=3, timeout=0.5).requests()
    assert frame["error"].tolist() == ["timeout"] * 3
    assert frame["sent_ns"].notna().all()
    assert frame["first_byte_ns"].isna().all()


def test_a_reset_is_a_row() -> None:
    """The load continues on a new connection."""
    with wire.misbehaving(lambda sock: (sock.recv(1), wire.reset(sock))) as address:
        frame = load(address, connections=2, requests=6).requests()
    assert frame["error"].tolist() == ["ECONNRESET"] * 6


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", "closed early"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed early"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234", "closed early"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "closed early"),
        (b"220 mail.example\r\n", "bad response: not HTTP/1"),
        (b"HTTP/1.1 99999 OK\r\n", "bad response: malformed status"),
        (OK + b"Content-Length: many\r\n\r\n", "bad response: malformed Content-Length"),
        (OK + b"Content-Length: 1\r\n\r\n12", "bad response: bytes after its end"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n", "bad response: malformed chunk"),
    ],
)
def test_incomplete_and_bad_responses_are_rows(sent: bytes, error: str) -> None:
    with responding(sent) as address:
        frame = load(address, connections=1, requests=2).requests()
    assert frame["error"].tolist() == [error] * 2
    assert frame["done_ns"].isna().all()


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n  c\r\nContent-Length: 2\r\n\r\nok",
    ],
)
@CUTS
def test_responses_of_every_framing_are_complete(
    sent: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    with responding(*cut(sent)) as address:
        frame = load(address, connections=1, requests=2).requests()
    assert frame["error"].isna().all()
    assert frame["n_bytes"].tolist() == [len(sent)] * 2
    assert frame["status"].isin([200, 204]).all()


def test_line_breaks_after_a_body_do_not_end_a_connection() -> None:
    """Some servers send them; they may arrive with the response or after it."""

    def serve(sock: socket.socket) -> None:
        while sock.recv(65_536):
            sock.sendall(OK + b"Content-Length: 2\r\n\r\nok\r\n")
            sock.sendall(b"\r\n")

    with wire.misbehaving(serve) as address:
        frame = load(address, connections=1, requests=20, keep_alive=True).requests()
    assert frame["error"].isna().all()
    assert frame["conn"].tolist() == [1] * 20


def test_other_bytes_than_those_sent_are_a_bad_echo() -> None:
    with wire.misbehaving(lambda sock: sock.sendall(sock.recv(4096).upper())) as address:
        frame = load(address, connections=1, requests=1, protocol="echo").requests()
    assert frame["error"].tolist() == ["bad response: not the bytes sent"]


# ---- records and sums -------------------------------------------------------------------


@WHERE
def test_every_system_call_is_recorded(where: str, server: Any) -> None:
    """Each connection was made, used and closed once."""
    run = load(server, connections=4, requests=30, where=where)
    counts = run.recording().counts()
    expected = dict.fromkeys(["socket", "connect", "send", "register", "close"], 30)
    assert {name: counts[name] for name in expected} == expected
    assert counts["recv"] >= 30
    array = run.recording().array()
    connects = array[array["op"] == Op.CONNECT]
    requests = run.requests().sort_values("conn")
    assert connects["conn"].tolist() == requests["conn"].tolist()
    assert connects["mask"].tolist() == requests["local_port"].tolist()


def test_record_false_leaves_an_empty_recording(server: Any) -> None:
    run = load(server, requests=10, record=False)
    assert len(run.recording()) == 0
    assert run.events().empty
    assert len(run) == 10


def test_overwritten_events_are_reported(server: Any) -> None:
    run = load(server, requests=100, capacity=50)
    recording = run.recording()
    assert len(recording) == 50
    assert recording.overwritten > 0
    assert any("overwritten" in note for note in run.notes)


def test_metadata_holds_options_and_environment(server: Any) -> None:
    run = load(server, connections=3, requests=5)
    metadata = run.recording().metadata
    assert (metadata["connections"], metadata["requests"], metadata["role"]) == (3, 5, "clients")
    assert metadata["boot_id"] == run.metadata["boot_id"]


def test_journeys_of_another_boot_are_refused(server: Any) -> None:
    run = load(server, requests=5)
    recording = server.recording()
    other = Recording(recording.rows, {**recording.metadata, "boot_id": "another"})
    with pytest.raises(ValueError, match="boot"):
        run.journeys(other)


def test_the_summary_agrees_with_the_frame(http: Any) -> None:
    run = load(http, connections=5, requests=200)
    sums, frame = run.summary(), run.requests()
    assert sums["requests"] == sums["succeeded"] == 200
    assert sums["failed"] == 0
    assert sums["max_us"] == pytest.approx(frame["latency_ns"].max() / 1e3, abs=0.01)
    assert sums["p50_us"] <= sums["p90_us"] <= sums["p99_us"] <= sums["max_us"]
    assert sums["requests_per_s"] == pytest.approx(200 / sums["elapsed_s"], rel=0.01)


@pytest.mark.parametrize(
    ("requests", "missing"),
    [(9, ["p90_us", "p99_us", "p99_9_us"]), (99, ["p99_us", "p99_9_us"]), (150, ["p99_9_us"])],
)
def test_the_summary_the_chart_and_the_card_have_the_same_percentiles(
    server: Any, requests: int, missing: list[str]
) -> None:
    """A percentile that the number of requests does not support is missing everywhere."""
    run = load(server, connections=2, requests=requests)
    sums = run.summary()
    latency = run.requests()["latency_ns"]
    assert [name for name in ("p50_us", "p90_us", "p99_us", "p99_9_us") if isnan(sums[name])] == (
        missing
    )
    ordered = sorted(latency)
    for name, share in (("p50_us", 50), ("p90_us", 90), ("p99_us", 99)):
        if name not in missing:
            rank = -(-requests * share // 100) - 1
            assert sums[name] == pytest.approx(ordered[rank] / 1e3, abs=0.001)
    dots = by_gid(plots.latency(latency, ax=Figure().subplots()), "percentiles")[0]
    known = [sums[name] for name in ("p50_us", "p90_us", "p99_us") if name not in missing]
    assert [ns / 1e3 for ns in dots.get_xdata()] == pytest.approx(known, abs=0.001)
    assert ("p99 \N{EN DASH}" in run._repr_html_()) == ("p99_us" in missing)


def test_littles_law_holds() -> None:
    """Requests in flight are throughput times latency, where waiting dominates."""
    with epolllab.start_server(protocol="http", handler=slow(0.002)) as server:
        sums = load(server, connections=4, requests=60, keep_alive=True).summary()
    assert sums["in_flight_mean"] == pytest.approx(sums["throughput_x_latency"], rel=0.25)
    assert 2 < sums["in_flight_mean"] <= 4


def test_reprs_name_the_target_and_the_number_of_requests(server: Any) -> None:
    run = load(server, requests=7)
    assert server.url.rstrip("/") in repr(run)
    assert "7 requests" in repr(run)
    assert "<table" in run._repr_html_()


def test_progress_shows_a_bar(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(run_clients(server, requests=20)) == 20
    assert "20" in capsys.readouterr().err


@pytest.mark.parametrize("is_terminal", [True, False])
@WHERE
def test_a_duration_shows_the_time_left_in_a_terminal(
    server: Any,
    where: Any,
    is_terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    run_clients(server, duration=0.5, where=where)
    found = capsys.readouterr()
    assert ("s left" in found.err) is is_terminal
    assert found.out == ""


# ---- invalid arguments ------------------------------------------------------------------


OUT_OF_RANGE = [
    {"connections": 0}, {"requests": 0}, {"requests": 1, "duration": 1}, {"duration": 0},
    {"rate": -1}, {"rate": float("inf")}, {"rate": 2e6}, {"timeout": 0}, {"capacity": 0},
    {"processes": 3, "connections": 2}, {"where": "proces"}, {"protocol": "htp"},
    {"path": "no/slash"}, {"path": "/a b"}, {"path": "/\r\nX: y"},
    {"payload": b"", "protocol": "echo"}, {"source_addresses": 0},
    {"capacity": 10**12}, {"capacity": 10**30},
    {"capacity": 10**8, "processes": 200, "connections": 200},
]  # fmt: skip
WRONG_TYPE = [
    {"payload": "text"}, {"connections": 1.5}, {"rate": "fast"}, {"timeout": True},
    {"keep_alive": "no"}, {"path": b"/"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "options"),
    [*product([ValueError], OUT_OF_RANGE), *product([TypeError], WRONG_TYPE)],
)
def test_invalid_options(error: type[Exception], options: dict[str, object]) -> None:
    """The error names the first of them."""
    with pytest.raises(error, match=rf"^{next(iter(options))}\b"):
        load("127.0.0.1:9", **options)


@pytest.mark.parametrize(
    "target",
    [
        "8.8.8.8:80", "http://192.0.2.1/", "https://127.0.0.1/", "127.0.0.1", "127.0.0.1:port",
        ("127.0.0.1", 0), None, ("a", "b", "c"), (1, 2),
    ],
)  # fmt: skip
def test_invalid_and_remote_targets(target: object) -> None:
    with pytest.raises(ValueError, match=r"^target\b"):
        load(target)


def test_allow_remote_permits_another_address() -> None:
    assert resolve_target("192.0.2.1:80", allow_remote=True).address == ("192.0.2.1", 80)


def test_a_protocol_of_your_own_needs_protocol() -> None:
    """Clients cannot know what it speaks; subclasses of Echo are known."""

    class Shout(epolllab.Session):
        def receive(self, data: bytes) -> list[bytes]:
            return [data]

    class Mine(epolllab.server.Echo):
        pass

    with epolllab.start_server(protocol=Shout) as server:
        with pytest.raises(ValueError, match=r"^protocol\b"):
            load(server)
        assert load(server, requests=3, protocol="echo").summary()["succeeded"] == 3
    with epolllab.start_server(protocol=Mine) as server:
        assert load(server, requests=3).summary()["succeeded"] == 3


def test_more_connections_than_descriptors() -> None:
    hard = kernel.descriptor_limits().hard
    with pytest.raises(kernel.DescriptorLimitError):
        load("127.0.0.1:9", connections=hard + 1)


def test_the_descriptor_limit_is_restored() -> None:
    """More connections than the soft limit work if the hard limit allows them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = kernel.descriptors_open() + 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        with silent() as address:
            run = load(address, connections=120, requests=120, timeout=0.2)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert run.errors() == {"timeout": 120}


def test_source_addresses_take_turns() -> None:
    """Connections come from 127.0.0.1, .2 and .3, and journeys are refused."""
    seen: list[str] = []

    def respond(sock: socket.socket) -> None:
        seen.append(sock.getpeername()[0])
        sock.recv(4096)
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

    with wire.misbehaving(respond) as address:
        run = load(address, connections=1, requests=6, source_addresses=3)
    assert sorted(seen) == [f"127.0.0.{i}" for i in (1, 1, 2, 2, 3, 3)]
    assert run.summary()["succeeded"] == 6
    with pytest.raises(ValueError, match="source_addresses"):
        run.journeys(Recording(b"", run.metadata))


def test_many_connections_get_several_source_addresses() -> None:
    """More than 20,000 are spread over 127.0.0.x; IPv6 has no such addresses."""
    target = resolve_target("127.0.0.1:9")
    assert ClientOptions(target, connections=20_000).sources == ()
    expected = tuple(f"127.0.0.{i}" for i in (1, 2, 3))
    assert ClientOptions(target, connections=50_000).sources == expected
    assert ClientOptions(resolve_target(("::1", 9)), connections=50_000).sources == ()


# ---- what is left behind ----------------------------------------------------------------


@WHERE
def test_an_interrupt_returns_the_rows_and_leaves_nothing(where: str) -> None:
    """It ends children and threads and closes descriptors; the run says what is missing."""
    children, descriptors = kernel.children(), kernel.descriptors_open()
    interrupts = [signal.SIGINT]

    def interrupt(_: object) -> bytes:
        if interrupts:
            os.kill(os.getpid(), interrupts.pop())
        return b""

    with epolllab.start_server(protocol="http", handler=interrupt) as server:
        inside = kernel.descriptors_open()
        run = load(server, connections=1, duration=60, where=where)
        assert run.interrupted
        assert [note for note in run.notes if note.startswith("interrupted after")]
        assert run.requests()["error"].isna().all()
        assert kernel.children() == children
        assert [t.name for t in threading.enumerate() if "clients" in t.name] == []
        assert kernel.descriptors_open() <= inside + 1
    assert kernel.descriptors_open() == descriptors


def test_an_interrupt_ends_an_open_loop_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread ends the loop while it is about to send what is due."""
    on_timer = LoadLoop._on_timer

    def ended(loop: LoadLoop, timer: Any) -> None:
        loop.stopping = True
        on_timer(loop, timer)

    monkeypatch.setattr(LoadLoop, "_on_timer", ended)
    with epolllab.start_server() as server:
        assert len(load(server, rate=1000, requests=10, where="thread")) == 0


@pytest.mark.parametrize("scripted", [False, True])
def test_the_note_of_an_interrupt_counts_what_has_no_row(scripted: bool) -> None:
    """Requests in flight, or peers in the middle of their script, have none."""
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    script = epolllab.script().send(b"x").pause(60)
    options: dict[str, Any] = {"script": script} if scripted else {"requests": 30}
    with silent() as address:
        timer.start()
        run = load(address, connections=3, where="thread", timeout=60, **options)
        timer.join()
    assert run.interrupted
    assert len(run) == 0
    assert any("(3)" in note for note in run.notes)
    assert run.requests().empty
    assert run.summary()["requests"] == 0
    assert "interrupted" in repr(run)


def test_an_interrupt_before_the_load_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no rows then."""
    until_ready = executors._until_ready

    def interrupted(children: Any, interrupts: executors.Interrupts) -> None:
        signal.raise_signal(signal.SIGINT)
        until_ready(children, interrupts)
        interrupts.deliver()

    monkeypatch.setattr(executors, "_until_ready", interrupted)
    with silent() as address, pytest.raises(KeyboardInterrupt):
        load(address, requests=1, timeout=0.1)
    assert not kernel.children()


def test_a_suspended_child_ends_the_run(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has a deadline of its own, whatever the requests' timeout is."""
    monkeypatch.setattr(executors, "SILENT_S", 0.5)

    def suspend() -> None:
        for child in wire.until(kernel.children):
            wire.until(lambda: server.stats()["requests"] > 5)
            os.kill(child, signal.SIGSTOP)

    thread = threading.Thread(target=suspend)
    thread.start()
    with pytest.raises(TimeoutError, match=r"^client process \d+ .*suspended"):
        load(server, duration=60, timeout=60)
    thread.join()
    assert not kernel.children()


def test_a_killed_child_is_an_error() -> None:
    """The error names the signal, and the other children are ended."""
    children = kernel.children()

    def kill(_: object) -> bytes:
        for child in kernel.children() - children:
            os.kill(child, signal.SIGKILL)
        return b""

    with (
        epolllab.start_server(protocol="http", handler=kill) as server,
        pytest.raises(RuntimeError, match="SIGKILL"),
    ):
        load(server, connections=2, duration=60, processes=2)
    assert kernel.children() == children


def test_an_exception_in_a_child_comes_with_its_traceback(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(options: ClientOptions) -> list[Share]:
        return [Share(options, 0, "one", 2, 0, 0)]  # type: ignore[arg-type]

    monkeypatch.setattr(ClientOptions, "shares", broken)
    with pytest.raises(RuntimeError, match="Traceback"):
        load(server, requests=2)


def test_a_throttled_run_says_so(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does the server's recording; a run without throttling says nothing."""
    assert not any("throttled" in note for note in load(server, requests=2).notes)
    begun = server.recording().metadata
    counters = [kernel.Throttling(1, 500), kernel.Throttling(4, 30_500)]
    monkeypatch.setattr(kernel, "throttling", lambda: counters.pop(0))
    monkeypatch.setattr(kernel, "cpu_quotas", lambda: {"/a": 0.2})
    run = load(server, requests=2)
    text = "throttled for 30 ms by a CPU quota of 0.2 processors"
    assert [note for note in run.notes if "quota" in note] == [
        f"{text}, which its latencies include"
    ]
    assert text in repr(run)
    assert text in repr(run.recording())
    now = kernel.Throttling(0, (begun["throttled_usec"] or 0) + 7_000)
    monkeypatch.setattr(kernel, "throttling", lambda: now)
    assert "throttled for 7 ms by a CPU quota" in repr(server.recording())


@pytest.mark.parametrize("newest", [-1, 1.5, "3", True, None, 10**30])
def test_the_tail_has_a_number_of_events(server: Any, newest: Any) -> None:
    """Not rows of memory that was never written."""
    with pytest.raises((TypeError, ValueError), match=r"^newest\b"):
        server.tail(newest)
    assert len(server.tail(0)) == 0
    assert len(server.settle().tail(10**9)) == len(server.recording())
