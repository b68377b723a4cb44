"""The doctor: each spin made live and named, and the merely busy left alone."""

import os
import resource

import pytest

import epolllab
from epolllab.analysis import diagnose
from epolllab.analysis.diagnosis import ADVICE
from epolllab.events import EPOLLET, EPOLLIN, EPOLLOUT, Op
from epolllab.experiments.catalogue.bench import PATIENCE_S, Bench
from epolllab.recording.recording import Recording
from tests.samples import LISTENER_FD, Script, random_server

TIMES = 150


def recorded(bench):
    """What the bench has recorded so far."""
    kept = bench.snapshot()
    return Recording(kept.rows, {}, kept.overwritten)


def writable_left_on(bench):
    """Interest in OUT on a connection with nothing to send."""
    here, _ = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLOUT)
    bench.spin(epoll, TIMES)


def writable_answered_by_reading(bench):
    """The same, where the loop tries to read whatever the mask says."""
    here, _ = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLOUT)
    bench.spin(epoll, TIMES, lambda: bench.attempt(bench.recv, here, 10))


def hang_up(bench):
    """A connection that ended while its interest was 0."""
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    bench.modify(epoll, here, 0)
    bench.close(there)
    bench.spin(epoll, TIMES)


def end_of_file_level(bench):
    """An empty read taken for nothing."""
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    bench.close(there)
    bench.spin(epoll, TIMES, lambda: bench.recv(here, 10))


def end_of_file_edge(bench):
    """Reading until EAGAIN, which never comes, within one event."""
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN | EPOLLET)
    bench.send(there, b"half a request")
    bench.close(there)
    bench.wait(epoll)
    for _ in range(TIMES + 1):
        bench.recv(here, 1024)


def end_of_file_oneshot(bench):
    """An empty read taken for nothing, and re-armed each time."""
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    bench.close(there)

    def turn():
        bench.recv(here, 10)
        bench.modify(epoll, here, EPOLLIN)

    bench.spin(epoll, TIMES, turn)


def ghost(bench):
    """A number closed while a duplicate lives."""
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    bench.dup(here, "forgotten")
    bench.close(here)
    bench.send(there, b"x")
    bench.spin(epoll, TIMES)


def ghost_of_a_reused_number(bench):
    """The number has a new socket, which gets the old one's events."""
    old, peer = bench.pair("old", "peer")
    new, _ = bench.pair("new", "its peer")
    epoll = bench.epoll()
    bench.register(epoll, old, EPOLLIN)
    bench.dup(old, "forgotten")
    old.sock.detach()
    os.dup2(new.fd, old.fd, False)
    new.close()
    same = bench.adopt(old.fd, "same number")
    old.closed = True
    bench.register(epoll, same, EPOLLIN)
    bench.send(peer, b"x")

    def read():
        import socket

        sock = socket.socket(fileno=os.dup(same.fd))
        same.sock = sock
        bench.attempt(bench.recv, same, 10)
        sock.close()
        same.sock = None

    bench.spin(epoll, TIMES, read)


def wake_up(bench):
    """An eventfd that is written and never read."""
    counter = bench.eventfd()
    epoll = bench.epoll()
    bench.register(epoll, counter, EPOLLIN)
    bench.write(counter, (1).to_bytes(8, "little"))
    bench.spin(epoll, TIMES)


def unread(bench):
    """Bytes that nobody reads."""
    here, there = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    bench.send(there, b"x")
    bench.spin(epoll, TIMES)


def error(bench):
    """A socket error that nobody takes."""
    here, there = bench.udp()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
    bench.modify(epoll, here, 0)
    bench.close(there)
    bench.send(here, b"x")
    bench.wait(epoll, PATIENCE_S)
    bench.spin(epoll, TIMES)


def no_descriptors(bench):
    """A connection waits and accept has no number for it."""
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
    """A wait that is told not to wait."""
    here, _ = bench.pair()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLIN)
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
        (error, "error never taken"),
        (no_descriptors, "accept without a descriptor left"),
        (no_sleep, "timeout of zero"),
    ],
)
def test_each_spin_is_named(mistake, kind):
    """A loop with the mistake, live, is told what it is, with evidence and a change."""
    with Bench() as bench:
        mistake(bench)
        diagnosis = diagnose(recorded(bench))
    assert diagnosis.kinds == [kind]
    (finding,) = diagnosis.findings
    assert finding.n_events >= TIMES - 1
    assert finding.advice == ADVICE[kind]
    assert 0 < len(finding.evidence) <= 12
    assert 0 < finding.share <= 1
    assert kind in repr(diagnosis)
    assert kind in diagnosis._repr_html_()


def test_a_server_whose_wake_up_is_never_read(monkeypatch):
    """The doctor needs no bench: this is the package's own loop with its read taken out."""
    monkeypatch.setattr(
        "epolllab.server.loop.Loop._woken",
        lambda loop, end, mask: loop.calls.observe(end.key, mask),
    )
    with epolllab.start_server(capacity=5_000) as server:
        os.eventfd_write(server._host.loop._wakeup.fd, 1)
        while server.stats()["wakeups"] < 500:
            pass
        diagnosis = diagnose(server.recording())
    assert diagnosis.kinds == ["wake-up descriptor never read"]


def test_fewer_than_the_least_are_no_spin():
    """Some useless events happen to every loop."""
    with Bench() as bench:
        writable_left_on(bench)
        recording = recorded(bench)
    assert diagnose(recording, least=TIMES + 1).healthy
    assert not diagnose(recording, least=TIMES).healthy


LOOPS = [
    ("level", "eager", "hello"),
    ("level", "howto", "hello"),
    ("level", "oneshot", "hello"),
    ("edge", "eager", "hello"),
    ("edge", "howto", "hello"),
    ("edge", "once", "hello"),
    ("edge", "oneshot", "hello"),
    ("level", "eager", "http"),
    ("level", "howto", "http"),
    ("edge", "once", "http"),
    ("edge", "oneshot", "http"),
]


@pytest.mark.parametrize(("trigger", "lifecycle", "protocol"), LOOPS)
def test_a_busy_server_is_not_accused(trigger, lifecycle, protocol):
    """Real load on every kind of loop, one request a connection or hundreds, is no spin."""
    with epolllab.start_server(trigger=trigger, lifecycle=lifecycle, protocol=protocol) as server:
        run = epolllab.run_clients(
            server,
            connections=5,
            requests=1_500,
            keep_alive=protocol == "http",
            record=False,
            progress=False,
        )
        diagnosis = diagnose(server.recording())
    assert run.summary()["succeeded"] == 1_500
    assert diagnosis.healthy, diagnosis


@pytest.mark.parametrize("trigger", ["level", "edge"])
def test_a_server_with_slow_and_rude_clients_is_not_accused(trigger):
    """Byte by byte, half-closed, reset and silent peers are work, and no spin."""
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


def test_a_herd_is_no_spin():
    """Woken in vain for a connection that another took: EAGAIN at accept, again and again."""
    script = Script()
    for _ in range(300):
        script.wait(1).ready(0).accept_blocked()
    for _ in range(300):
        script.wait(1).ready(0).call(Op.GETSOCKOPT, 0, 0, fd=LISTENER_FD)
    assert diagnose(script.recording()).healthy


@pytest.mark.parametrize("seed", range(5))
def test_made_up_servers_are_healthy(seed):
    """Random sound servers, as the frames' tests use them, show no spin."""
    assert diagnose(random_server(seed)).healthy


def test_an_empty_recording_is_healthy():
    """Nothing recorded is nothing wrong, and the frame has its columns."""
    diagnosis = diagnose(Recording(b""))
    assert diagnosis.healthy
    assert list(diagnosis.table().columns) == [
        "kind",
        "fd",
        "conn",
        "n_events",
        "seconds",
        "share",
        "detail",
        "advice",
    ]
    assert "No spin" in diagnosis._repr_html_()


def test_only_recordings_are_diagnosed():
    """A server or a frame is refused with what to give instead."""
    with pytest.raises(TypeError, match=r"server.recording\(\)"):
        diagnose([1, 2])
    with pytest.raises(ValueError, match="least"):
        diagnose(Recording(b""), least=1)
