"""Scripts as values, and peers that execute them."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import epolllab
from epolllab.clients.result import Run
from epolllab.clients.run import run_clients
from epolllab.clients.script import Script, script
from epolllab.server.protocols import Hello
from tests import wire

GET = wire.GET


def run_script(target: Any, steps: Script, *, connections: int = 1, **options: Any) -> Run:
    """Run scripted peers without a progress bar."""
    return run_clients(target, script=steps, connections=connections, progress=False, **options)


def names(run: Run) -> list[str]:
    """Names of the steps of a run with one peer."""
    return [str(name) for name in run.steps()["name"]]


@pytest.fixture
def server() -> Any:
    """A default server."""
    with epolllab.start_server() as server:
        yield server


# ---- scripts as values ------------------------------------------------------------------


def test_a_script_is_immutable() -> None:
    """Each method returns a new script and leaves the old one unchanged."""
    first = script().connect()
    second = first.send(b"x")
    assert (len(first), len(second)) == (1, 2)
    with pytest.raises(AttributeError, match="steps"):
        first.steps = ()  # type: ignore[misc]


def test_scripts_compare_by_their_steps_and_can_be_pickled() -> None:
    one = script().send(b"a").pause(0.1).expect(3).half_close().close()
    two = script().connect().send(b"a").pause(0.1).expect(3).half_close().close()
    assert one == two
    assert hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != script()


def test_the_repr_is_the_chain_of_calls() -> None:
    steps = script().connect().send_slowly(b"ab", size=1, every=0.5).expect(b"c").reset()
    expected = "script().connect().send_slowly(b'ab', size=1, every=0.5).expect(b'c').reset()"
    assert repr(steps) == expected


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=5), st.integers(1, 7))
def test_evaluating_a_repr_gives_an_equal_script(pieces: list[bytes], size: int) -> None:
    steps = script()
    for piece in pieces:
        steps = steps.send(piece).expect(piece).send_slowly(piece, size=size, every=0.5).pause(1)
    assert eval(repr(steps), {"script": script}) == steps


def test_repeat_reuses_an_open_connection() -> None:
    """A connection left open is used again; one that was closed is reopened."""
    kept = script().send(b"a").expect(1).repeat(3)
    assert [step.name for step in kept.steps] == ["connect", *["send", "expect"] * 3]
    reopened = script().connect().send(b"a").close().repeat(2)
    assert [step.name for step in reopened.steps] == ["connect", "send", "close"] * 2
    assert len(script().send(b"a").repeat(10_000)) == 10_001


@pytest.mark.parametrize(
    ("build", "error", "name"),
    [
        (lambda: script().connect().connect(), ValueError, "connect"),
        (lambda: script().connect().close().send(b"x"), ValueError, "send"),
        (lambda: script().reset().close(), ValueError, "close"),
        (lambda: script().half_close().send(b"x"), ValueError, "send"),
        (lambda: script().send(b""), ValueError, "data"),
        (lambda: script().expect(0), ValueError, "what"),
        (lambda: script().pause(-1), ValueError, "seconds"),
        (lambda: script().pause(float("nan")), ValueError, "seconds"),
        (lambda: script().send_slowly(b"x", size=0), ValueError, "size"),
        (lambda: script().repeat(0), ValueError, "times"),
        (lambda: script().send(b"x").repeat(10_000).repeat(10_000), ValueError, "times"),
        (lambda: script().half_close().repeat(2).send(b"x"), ValueError, "send"),
        (lambda: script().send(b"x").half_close().repeat(2), ValueError, "send"),
        (lambda: script().send("text"), TypeError, "data"),  # type: ignore[arg-type]
        (lambda: script().expect(1.5), TypeError, "what"),  # type: ignore[arg-type]
        (lambda: script().expect(True), TypeError, "what"),
        (lambda: script().pause("1"), TypeError, "seconds"),  # type: ignore[arg-type]
    ],
)
def test_impossible_steps(build: Callable[[], Script], error: type[Exception], name: str) -> None:
    """The call that adds the step raises."""
    with pytest.raises(error, match=rf"^{name}\b"):
        build()


def test_a_script_excludes_options_of_a_load() -> None:
    with pytest.raises(ValueError, match="requests, rate"):
        run_script("127.0.0.1:9", script().connect(), requests=3, rate=2)


# ---- execution --------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["process", "thread"])
def test_a_peer_executes_every_step(where: str, server: Any) -> None:
    """Every step has its row, in order, with its bytes; an open connection is closed."""
    steps = script().connect().send(b"GET / ").pause(0.01)
    steps = steps.send_slowly(b"HTTP/1.0\r\n\r\n", size=4, every=0.002)
    run = run_script(server, steps.expect(b"200 OK").expect(4).expect_end(), where=where)
    recvs = server.settle().events().query("op == 'recv'")["n_bytes"]
    rows = run.steps()
    expected = ["connect", "send", "pause", "send_slowly", "expect", "expect", "expect_end"]
    assert names(run) == [*expected, "close"]
    assert rows["step"].tolist() == list(range(8))
    assert rows["n_bytes"].tolist()[:4] == [0, 6, 0, 12]
    assert rows["n_bytes"].sum() == 18 + len(Hello.RESPONSE)
    assert rows["error"].isna().all()
    lasted = rows["end_ns"] - rows["start_ns"]
    assert (lasted >= 0).all()
    assert lasted[2] >= 10_000_000
    assert lasted[3] >= 4_000_000
    assert recvs.sum() == 18
    assert run.requests()["n_bytes"].tolist() == [len(Hello.RESPONSE)]
    assert run.requests()["error"].isna().all()


def test_many_peers_run_concurrently(server: Any) -> None:
    """A hundred peers pause at the same time, and each executes all its steps."""
    steps = script().send(b"\n").pause(0.2).send(b"\n").expect_end()
    run = run_script(server, steps, connections=100, processes=2)
    rows, peers = run.steps(), run.requests()
    assert server.stats()["accepted"] == len(run) == peers["conn"].nunique() == 100
    assert rows.groupby("peer").size().tolist() == [6] * 100
    assert set(rows["peer"]) == set(peers["conn"])
    pauses = rows[rows["name"] == "pause"]
    lasted = (pauses["end_ns"] - pauses["start_ns"]).sum()
    assert pauses["end_ns"].max() - pauses["start_ns"].min() < lasted / 4


@pytest.mark.parametrize(
    "begin", [script().connect(), script().send(b"GET / HT")], ids=["idle", "in a request"]
)
def test_reset_sends_rst(begin: Script, server: Any) -> None:
    """The server's recv fails with ECONNRESET and it loses the connection."""
    # The pause lets the server accept first; a connection reset in the queue is still accepted.
    run = run_script(server, begin.pause(0.02).reset())
    # When the response to another request has arrived, the reset has been handled.
    run_script(server, script().send(b"\n\n").expect_end())
    assert server.settle().stats()["lost"] == 1
    assert server.recording().errors().get("recv ECONNRESET") == 1
    assert run.requests()["error"].isna().all()
    assert names(run)[-1] == "reset"


def test_a_peer_can_read_after_half_close() -> None:
    """Echo sends everything back, then closes."""
    with epolllab.start_server(protocol="echo") as server:
        run = run_script(server, script().send(b"abc").half_close().expect(b"abc").expect_end())
    assert run.requests()["error"].isna().all()


def test_a_peer_without_expectations_reads_nothing() -> None:
    """A large response stays in the buffers."""
    size = 30_000_000
    with epolllab.start_server(protocol="http", handler=lambda _: b"x" * size) as server:
        run = run_script(server, script().send(GET).pause(0.4))
        sent = server.events().query("op == 'send' and conn == 1")
    assert run.requests()["n_bytes"].tolist() == [0]
    assert run.requests()["first_byte_ns"].isna().all()
    assert "EAGAIN" in sent["error"].tolist()
    assert sent["n_bytes"].sum() < size


def test_more_bytes_than_the_buffers_hold_can_be_expected() -> None:
    size = 3_000_000
    with epolllab.start_server(protocol="http", handler=lambda _: b"x" * size) as server:
        run = run_script(server, script().send(GET).expect(b"\r\n\r\n").expect(size), connections=2)
    assert run.requests()["error"].isna().all()
    assert (run.requests()["n_bytes"] > size).all()


def test_a_large_send_waits_where_it_would_block() -> None:
    with epolllab.start_server(max_request_bytes=1 << 26) as server:
        run = run_script(server, script().send(b"x" * 5_000_000).send(b"\n\n").expect(b"Hello"))
    assert run.steps()["n_bytes"].tolist()[1:3] == [5_000_000, 2]
    assert run.requests()["error"].isna().all()


@pytest.mark.parametrize("wanted", [b"never", 1_000])
def test_an_unmet_expectation_is_an_error(wanted: bytes | int, server: Any) -> None:
    """It ends the peer with a row, after the timeout or when the server closes."""
    silent = run_script(server, script().send(b"GET").expect(wanted), timeout=0.05)
    closed = run_script(server, script().send(b"\n\n").expect(wanted))
    assert silent.steps()["error"].tolist()[-1] == "timeout"
    assert closed.steps()["error"].tolist()[-1] == "closed early"
    assert closed.requests()["error"].tolist() == ["closed early"]
    assert names(closed) == ["connect", "send", "expect"]
    assert closed.summary()["error closed early"] == 1


def test_a_refused_connect_is_the_only_step() -> None:
    with epolllab.start_server() as server:
        address = server.address
    run = run_script(address, script().send(b"x"), connections=2)
    assert run.steps()["error"].tolist() == ["ECONNREFUSED"] * 2
    assert run.requests()["connected_ns"].isna().all()


def test_a_reset_during_a_pause_does_not_spin() -> None:
    """HUP in a pause wakes the loop once, not again and again."""
    with wire.misbehaving(wire.reset) as address:
        run = run_script(address, script().connect().pause(0.2).expect_end())
    # Connected, HUP in the pause, and once more for the step after it.
    assert run.recording().counts()["ready"] <= 3
    assert run.recording().counts().get("unregister", 0) <= 1
    assert run.requests()["error"].tolist() == ["ECONNRESET"]


def test_connecting_again_is_a_new_connection(server: Any) -> None:
    run = run_script(server, script().send(b"\n\n").expect_end().close().repeat(2))
    assert server.stats()["accepted"] == 2
    assert names(run).count("connect") == 2
    assert run.events().query("op == 'connect'")["conn"].tolist() == [1, 2]
    assert run.requests()["conn"].tolist() == [1]


def test_send_slowly_makes_one_send_per_piece(server: Any) -> None:
    steps = script().send_slowly(b"abcdefg\n\n", size=4, every=0).expect_end()
    sends = run_script(server, steps).events().query("op == 'send'")
    assert sends["n_bytes"].tolist() == [4, 4, 1]


def test_scripts_without_a_connection(server: Any) -> None:
    assert len(run_script(server, script())) == 1
    assert names(run_script(server, script().pause(0.001))) == ["pause"]
    assert server.stats()["accepted"] == 0


def test_reprs_show_peers_and_script(server: Any) -> None:
    run = run_script(server, script().send(b"\n\n").expect_end(), connections=3)
    assert "3 peers" in repr(run)
    assert "expect_end()" in run._repr_html_()
