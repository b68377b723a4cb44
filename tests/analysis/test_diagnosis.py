"""diagnose(): every kind of spin is found live, and busy loops are not reported."""

import os
import resource
from functools import partial

import pytest

import epolllab
from epolllab.analysis import diagnose
from epolllab.analysis.diagnosis import ADVICE
from epolllab.events import EPOLLET, EPOLLIN, EPOLLOUT, Op
from epolllab.experiments.catalogue.bench import ONE, PATIENCE_S, Bench
from epolllab.recording.recording import Recording
from tests.samples import LISTENER_FD, Script, random_server

TIMES = 150


def watched_pair(bench, mask=EPOLLIN):
    """An epoll, the end of a connection that it watches, and the other end."""
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, mask)
    return epoll, here, there


def writable_left_on(bench):
    """OUT stays registered with nothing to send."""
    epoll, *_ = watched_pair(bench, EPOLLIN | EPOLLOUT)
    bench.spin(epoll, TIMES)


def writable_answered_by_reading(bench):
    """The same in a loop that reads regardless of the mask."""
    epoll, here, _ = watched_pair(bench, EPOLLIN | EPOLLOUT)
    bench.spin(epoll, TIMES, lambda: bench.attempt(bench.recv, here, 10))


def hang_up(bench):
    epoll, here, there = watched_pair(bench)
    bench.modify(epoll, here, 0)
    bench.close(there)
    bench.spin(epoll, TIMES)


def end_of_file_level(bench):
    """An empty read is ignored."""
    epoll, here, there = watched_pair(bench)
    bench.close(there)
    bench.spin(epoll, TIMES, lambda: bench.recv(here, 10))


def end_of_file_edge(bench):
    """The loop reads until EAGAIN, which never comes, within one event."""
    epoll, here, there = watched_pair(bench, EPOLLIN | EPOLLET)
    bench.send(there, b"half a request")
    bench.close(there)
    bench.wait(epoll)
    for _ in range(TIMES + 1):
        bench.recv(here, 1024)


def end_of_file_oneshot(bench):
    """An empty read is ignored, and the descriptor rearmed each time."""
    epoll, here, there = watched_pair(bench)
    bench.close(there)

    def turn():
        bench.recv(here, 10)
        bench.modify(epoll, here, EPOLLIN)

    bench.spin(epoll, TIMES, turn)


def ghost(bench):
    epoll, here, there = watched_pair(bench)
    bench.dup(here, "forgotten")
    bench.close(here)
    bench.send(there, b"x")
    bench.spin(epoll, TIMES)


def ghost_of_a_reused_number(bench):
    """The descriptor number has a new socket, which gets the old one's events."""
    old, peer = bench.pair("old", "peer")
    new, _ = bench.pair("new", "its peer")
    epoll = bench.epoll()
    bench.register(epoll, old, EPOLLIN)
    bench.dup(old, "forgotten")
    old.sock.detach()
    old.closed = True
    os.dup2(new.fd, old.fd, False)
    same = bench.add(old.fd, "same number")
    bench.register(epoll, same, EPOLLIN)
    bench.send(peer, b"x")

    def read():
        recv = partial(bench.call, "recv", new.sock.recv, 10, op=Op.RECV, on=same)
        bench.attempt(recv)

    bench.spin(epoll, TIMES, read)


def wake_up(bench):
    counter = bench.eventfd()
    epoll = bench.epoll()
    bench.register(epoll, counter, EPOLLIN)
    bench.write(counter, ONE)
    bench.spin(epoll, TIMES)


def unread(bench):
    epoll, _, there = watched_pair(bench)
    bench.send(there, b"x")
    bench.spin(epoll, TIMES)


def error(bench):
    here, there = bench.udp()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    bench.modify(epoll, here, 0)
    bench.close(there)
    bench.send(here, b"x")
    bench.wait(epoll, PATIENCE_S)
    bench.spin(epoll, TIMES)


def no_descriptors(bench):
    """A connection is in the queue, and accept fails with EMFILE."""
    listener, epoll = bench.listener(), bench.epoll()
    bench.connect(listener)
    bench.register(epoll, listener, EPOLLIN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        bench.spin(epoll, TIMES, lambda: bench.attempt(bench.accept, listener))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def no_sleep(bench):
    epoll, *_ = watched_pair(bench)
    bench.spin(epoll, TIMES)


@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        (writable_left_on, "writable interest left on"),
        (writable_answered_by_reading, "writable interest left on"),
        (hang_up, "hang-up that cannot be masked"),
        (end_of_file_level, "ignored end of file"),
        (end_of_file_edge, "ignored end of file"),
        (end_of_file_oneshot, "ignored end of file"),
        (ghost, "ghost of a duplicated descriptor"),
        (ghost_of_a_reused_number, "ghost of a duplicated descriptor"),
        (wake_up, "wake-up descriptor never read"),
        (unread, "input never read"),
        (error, "socket error never read"),
        (no_descriptors, "accept without a free descriptor"),
        (no_sleep, "timeout of zero"),
    ],
)
def test_each_spin_is_found(mistake, kind):
    """The finding of a live loop has the kind, evidence and advice."""
    with Bench() as bench:
        mistake(bench)
        diagnosis = diagnose(bench.recording())
    assert diagnosis.kinds == [kind]
    (finding,) = diagnosis.findings
    assert finding.n_events >= TIMES - 1
    assert finding.advice == ADVICE[kind]
    assert 0 < len(finding.evidence) <= 12
    assert 0 < finding.share <= 1
    assert kind in repr(diagnosis)
    assert kind in diagnosis._repr_html_()


def test_a_server_whose_wake_up_is_never_read(monkeypatch):
    """The package's own loop, without the read of its wake-up descriptor."""
    monkeypatch.setattr(
        "epolllab.server.loop.Loop._wakeup_ready",
        lambda loop, end, mask: loop.calls.note_ready(end.key, mask),
    )
    with epolllab.start_server(capacity=5_000) as server:
        os.eventfd_write(server._host.loop._wakeup.fd, 1)
        while server.stats()["wakeups"] < 500:
            pass
        diagnosis = diagnose(server.recording())
    assert diagnosis.kinds == ["wake-up descriptor never read"]


def test_least():
    """Fewer events without effect than `least` are not a spin."""
    with Bench() as bench:
        writable_left_on(bench)
        recording = bench.recording()
    assert diagnose(recording, least=TIMES + 1).healthy
    assert not diagnose(recording, least=TIMES).healthy


@pytest.mark.parametrize(
    ("trigger", "lifecycle"),
    [("level", name) for name in ("eager", "howto", "oneshot")]
    + [("edge", name) for name in ("eager", "howto", "once", "oneshot")],
)
@pytest.mark.parametrize("protocol", ["hello", "http"])
def test_a_busy_server_is_healthy(trigger, lifecycle, protocol):
    """Load on every kind of loop, with one request per connection or many."""
    with epolllab.start_server(trigger=trigger, lifecycle=lifecycle, protocol=protocol) as server:
        run = epolllab.run_clients(
            server, connections=5, requests=1_500, keep_alive=protocol == "http", record=False,
            progress=False,
        )  # fmt: skip
        diagnosis = diagnose(server.recording())
    assert run.summary()["succeeded"] == 1_500
    assert diagnosis.healthy, diagnosis


@pytest.mark.parametrize("trigger", ["level", "edge"])
def test_a_server_with_difficult_clients_is_healthy(trigger):
    """Slow, half-closed and reset connections are work, not a spin."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    peers = (
        epolllab.script().connect().send_slowly(request, size=1, every=0.0005).expect(b"200"),
        epolllab.script().connect().send(request).half_close().expect_end(),
        epolllab.script().connect().send(b"GET /").reset(),
    )
    with epolllab.start_server(trigger=trigger, protocol="http") as server:
        for script in peers:
            epolllab.run_clients(
                server, script=script, connections=20, record=False, progress=False
            )
        diagnosis = diagnose(server.recording())
    assert diagnosis.healthy, diagnosis


def test_a_herd_is_healthy():
    """A worker gets EAGAIN from accept repeatedly, since others took the connections."""
    script = Script()
    for _ in range(300):
        script.wait(1).ready(0).accept_blocked()
    for _ in range(300):
        script.wait(1).ready(0).call(Op.GETSOCKOPT, 0, 0, fd=LISTENER_FD)
    assert diagnose(script.recording()).healthy


@pytest.mark.parametrize("seed", range(5))
def test_synthetic_servers_are_healthy(seed):
    """Random correct servers, as in the tests of frames."""
    assert diagnose(random_server(seed)).healthy


def test_an_empty_recording_is_healthy():
    diagnosis = diagnose(Recording(b""))
    assert diagnosis.healthy
    columns = ["kind", "fd", "conn", "n_events", "seconds", "share", "detail", "advice"]
    assert list(diagnosis.table().columns) == columns
    assert "No spin" in diagnosis._repr_html_()


def test_bad_input():
    with pytest.raises(TypeError, match="recording"):
        diagnose([1, 2])
    with pytest.raises(ValueError, match="least"):
        diagnose(Recording(b""), least=1)
