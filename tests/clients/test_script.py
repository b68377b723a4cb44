"""Scripts as values, and peers that act them out."""

import pickle
import socket
import struct
import threading
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

WHERE = pytest.mark.parametrize("where", ["process", "thread"])
ANSWER = Hello.RESPONSE


def act(target: Any, told: Script, *, connections: int = 1, **wishes: Any) -> Run:
    """Let peers act, without a progress bar."""
    return run_clients(
        target,
        script=told,
        connections=connections,
        progress=False,
        **wishes,
    )


def names(run: Run) -> list[str]:
    """Names of the steps of a run with one peer."""
    return [str(name) for name in run.steps()["name"]]


# ---- scripts as values ------------------------------------------------------------------


def test_a_script_is_immutable() -> None:
    """Each method returns a new script and leaves the old one as it was."""
    first = script().connect()
    second = first.send(b"x")
    assert (len(first), len(second)) == (1, 2)
    with pytest.raises(AttributeError, match="immutable"):
        first.steps = ()


def test_scripts_compare_by_their_steps_and_travel() -> None:
    """Equal steps are equal scripts, also after pickling."""
    one = script().send(b"a").pause(0.1).expect(3).half_close().close()
    two = script().connect().send(b"a").pause(0.1).expect(3).half_close().close()
    assert one == two
    assert hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != script()


def test_a_script_reads_as_it_was_written() -> None:
    """The repr is the chain of calls."""
    told = script().connect().send_slowly(b"ab", size=1, every=0.5).expect(b"c").reset()
    expected = "script().connect().send_slowly(b'ab', size=1, every=0.5).expect(b'c').reset()"
    assert repr(told) == expected


def test_repeat_goes_on_with_an_open_connection() -> None:
    """A connection left open is used on; one that was closed is made again."""
    on = script().send(b"a").expect(1).repeat(3)
    assert [step.name for step in on.steps] == ["connect", *["send", "expect"] * 3]
    anew = script().connect().send(b"a").close().repeat(2)
    assert [step.name for step in anew.steps] == ["connect", "send", "close"] * 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: script().connect().connect(), "connected already"),
        (lambda: script().connect().close().send(b"x"), r"say connect\(\) before it"),
        (lambda: script().reset().close(), r"say connect\(\) before it"),
        (lambda: script().half_close().send(b"x"), "nothing can be sent"),
        (lambda: script().send(b""), "at least one byte"),
        (lambda: script().expect(0), "from 1 on"),
        (lambda: script().pause(-1), "not negative"),
        (lambda: script().pause(float("nan")), "not negative"),
        (lambda: script().send_slowly(b"x", size=0), "size is a number of bytes"),
        (lambda: script().repeat(0), "from 1 on"),
    ],
)
def test_scripts_that_no_peer_can_act(build: Callable[[], Script], message: str) -> None:
    """The step that makes no sense is refused when it is said."""
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("step", "argument"), [("send", "text"), ("expect", 1.5), ("expect", True), ("pause", "1")]
)
def test_steps_of_the_wrong_kind(step: str, argument: Any) -> None:
    """Text is no bytes, and half a byte no count."""
    with pytest.raises(TypeError):
        getattr(script(), step)(argument)


def test_other_wishes_have_no_meaning_beside_a_script() -> None:
    """requests, rate and the like are refused, by name."""
    with pytest.raises(ValueError, match="requests, rate has no meaning"):
        act("127.0.0.1:9", script().connect(), requests=3, rate=2)


# ---- acting -----------------------------------------------------------------------------


@WHERE
def test_a_peer_does_as_told(where: str) -> None:
    """Every step has its row, in order, with its bytes; an open connection is closed."""
    told = (
        script()
        .connect()
        .send(b"GET / ")
        .pause(0.01)
        .send_slowly(b"HTTP/1.0\r\n\r\n", size=4, every=0.002)
        .expect(b"200 OK")
        .expect(4)
        .expect_end()
    )
    with epolllab.start_server() as server:
        run = act(server, told, where=where)
        recvs = server.events().query("op == 'recv'")["n_bytes"].tolist()
    steps = run.steps()
    assert names(run) == [
        "connect",
        "send",
        "pause",
        "send_slowly",
        "expect",
        "expect",
        "expect_end",
        "close",
    ]
    assert steps["step"].tolist() == list(range(8))
    assert steps["n_bytes"].tolist()[:4] == [0, 6, 0, 12]
    assert steps["n_bytes"].tolist()[4:].count(0) == 3 or steps["n_bytes"].sum() == 18 + len(ANSWER)
    assert steps["error"].isna().all()
    assert (steps["start_ns"] <= steps["end_ns"]).all()
    lasted = steps["end_ns"] - steps["start_ns"]
    assert lasted[2] >= 10_000_000
    assert lasted[3] >= 4_000_000
    assert sum(recvs) == 18
    assert run.requests()["n_bytes"].tolist() == [len(ANSWER)]
    assert run.requests()["error"].isna().all()


def test_many_peers_act_at_once() -> None:
    """A hundred peers that pause do so side by side, and each has all its steps."""
    told = script().send(b"\n").pause(0.2).send(b"\n").expect_end()
    with epolllab.start_server() as server:
        run = act(server, told, connections=100, processes=2)
        most = server.stats()["accepted"]
    steps, peers = run.steps(), run.requests()
    assert most == len(run) == peers["conn"].nunique() == 100
    assert steps.groupby("peer").size().tolist() == [6] * 100
    assert set(steps["peer"]) == set(peers["conn"])
    pauses = steps[steps["name"] == "pause"]
    lasted = (pauses["end_ns"] - pauses["start_ns"]).sum()
    assert pauses["end_ns"].max() - pauses["start_ns"].min() < lasted / 4


@pytest.mark.parametrize("where", ["begin", "middle"])
def test_a_reset_reaches_the_server(where: str) -> None:
    """reset() is RST: the server's recv fails with ECONNRESET and it loses the connection."""
    told = script().connect() if where == "begin" else script().send(b"GET / HT")
    # The pause lets the server accept first; a connection reset in the queue is still accepted.
    with epolllab.start_server() as server:
        run = act(server, told.pause(0.02).reset())
        # Another request behind it: when that is served, the reset has been handled.
        act(server, script().send(b"\n\n").expect_end())
        assert server.stats()["lost"] == 1
        errors = server.recording().errors()
    assert errors.get("recv ECONNRESET") == 1
    assert run.requests()["error"].isna().all()
    assert names(run)[-1] == "reset"


def test_half_close_then_the_answer() -> None:
    """A peer that has ended its own half can read on: echo sends all back, then ends."""
    told = script().send(b"abc").half_close().expect(b"abc").expect_end()
    with epolllab.start_server(protocol="echo") as server:
        run = act(server, told)
    assert run.requests()["error"].isna().all()


def test_a_peer_that_never_reads() -> None:
    """Without an expectation nothing is read, so a large answer stays in the buffers."""
    size = 30_000_000
    with epolllab.start_server(protocol="http", handler=lambda _: b"x" * size) as server:
        run = act(server, script().send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").pause(0.4))
        events = server.events()
    sent = events.query("op == 'send' and conn == 1")
    assert run.requests()["n_bytes"].tolist() == [0]
    assert run.requests()["first_byte_ns"].isna().all()
    assert "EAGAIN" in sent["error"].tolist()
    assert sent["n_bytes"].sum() < size


def test_an_expectation_can_be_large() -> None:
    """More than any buffer holds is sent and read back by its count."""
    size = 3_000_000
    with epolllab.start_server(protocol="http", handler=lambda _: b"x" * size) as server:
        told = script().send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect(b"\r\n\r\n").expect(size)
        run = act(server, told, connections=2)
    assert run.requests()["error"].isna().all()
    assert (run.requests()["n_bytes"] > size).all()


def test_a_large_send_waits_where_it_would_block() -> None:
    """send() completes although it does not fit the buffers, since the server reads."""
    with epolllab.start_server(max_request_bytes=1 << 26) as server:
        told = script().send(b"x" * 5_000_000).send(b"\n\n").expect(b"Hello")
        run = act(server, told)
    assert run.steps()["n_bytes"].tolist()[1:3] == [5_000_000, 2]
    assert run.requests()["error"].isna().all()


@pytest.mark.parametrize("wanted", [b"never", 1_000])
def test_what_does_not_come_is_an_error(wanted: bytes | int) -> None:
    """An expectation that is not met in time, or cut off, ends the peer with a row."""
    with epolllab.start_server() as server:
        silent = act(server, script().send(b"GET").expect(wanted), timeout=0.05)
        ended = act(server, script().send(b"\n\n").expect(wanted))
    assert silent.steps()["error"].tolist()[-1] == "timeout"
    assert ended.steps()["error"].tolist()[-1] == "closed early"
    assert ended.requests()["error"].tolist() == ["closed early"]
    assert names(ended) == ["connect", "send", "expect"]
    assert ended.summary()["error closed early"] == 1


def test_a_refused_connect_is_a_row() -> None:
    """Nobody listens: the connect step has the error, and it is the only step."""
    with epolllab.start_server() as server:
        address = server.address
    run = act(address, script().send(b"x"), connections=2)
    assert run.steps()["error"].tolist() == ["ECONNREFUSED"] * 2
    assert run.requests()["connected_ns"].isna().all()


def test_a_server_that_resets_in_a_pause_does_not_spin() -> None:
    """HUP in a pause is noticed once; the loop does not wake for it again and again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reset_one() -> None:
            sock, _ = listener.accept()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

        thread = threading.Thread(target=reset_one)
        thread.start()
        run = act(listener.getsockname(), script().connect().pause(0.2).expect_end())
        thread.join()
    # Connected, HUP in the pause, and once more when the step after it asks.
    assert run.recording().counts()["ready"] <= 3
    assert run.recording().counts().get("unregister", 0) <= 1
    assert run.requests()["error"].tolist() == ["ECONNRESET"]


def test_connecting_again_is_a_new_connection() -> None:
    """After close() a peer can connect again; the server sees two connections."""
    told = script().send(b"\n\n").expect_end().close().repeat(2)
    with epolllab.start_server() as server:
        run = act(server, told)
        accepted = server.stats()["accepted"]
    assert accepted == 2
    assert names(run).count("connect") == 2
    assert run.events().query("op == 'connect'")["conn"].tolist() == [1, 2]


def test_pieces_leave_one_by_one() -> None:
    """send_slowly makes as many sends as there are pieces, the last one shorter."""
    with epolllab.start_server() as server:
        run = act(server, script().send_slowly(b"abcdefg\n\n", size=4, every=0).expect_end())
    sends = run.events().query("op == 'send'")["n_bytes"].tolist()
    assert sends == [4, 4, 1]


def test_ends_of_a_script_leave_no_error_on_the_server() -> None:
    """An empty script and a bare pause connect to nobody."""
    with epolllab.start_server() as server:
        assert len(act(server, script())) == 1
        run = act(server, script().pause(0.001))
        assert server.stats()["accepted"] == 0
    assert names(run) == ["pause"]


def test_a_script_run_shows_itself() -> None:
    """The reprs speak of peers and say the script."""
    with epolllab.start_server() as server:
        run = act(server, script().send(b"\n\n").expect_end(), connections=3)
    assert "3 peers" in repr(run)
    assert "expect_end()" in run._repr_html_()


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=5), st.integers(1, 7))
def test_a_repr_rebuilds_its_script(pieces: list[bytes], size: int) -> None:
    """Evaluating a repr gives an equal script."""
    told = script()
    for piece in pieces:
        told = told.send(piece).expect(piece).send_slowly(piece, size=size, every=0.5).pause(1)
    assert eval(repr(told), {"script": script}) == told
