"""diagnose(): every kind of waste is found and named, and busy loops are not reported."""

import errno
import os
import resource
import shutil
import socket
import subprocess
import time
from functools import partial

import numpy as np
import pytest

import epolllab
from epolllab.analysis import diagnose
from epolllab.analysis.diagnosis import ADVICE
from epolllab.events import EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLRDHUP, Op
from epolllab.experiments.catalogue.bench import ONE, PATIENCE_S, Bench
from epolllab.kernel.raw import Timer
from epolllab.recording.recording import Recording
from tests.samples import LISTENER_FD, Script, mask_of, random_server

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


def registered_again(bench):
    """DEL and ADD at each event do not remove a hang-up."""
    epoll, here, _ = watched_pair(bench)
    bench.shutdown(here, socket.SHUT_RDWR)

    def turn():
        bench.unregister(epoll, here)
        bench.register(epoll, here, EPOLLIN)

    bench.spin(epoll, TIMES, turn)


def disarmed_and_armed(bench):
    """Unread input is reported again after each re-arm."""
    epoll, here, there = watched_pair(bench)
    bench.send(there, b"x")

    def turn():
        bench.modify(epoll, here, 0)
        bench.modify(epoll, here, EPOLLIN)

    bench.spin(epoll, TIMES, turn)


def armed_again_with_oneshot(bench):
    """EPOLLONESHOT and a re-arm at each event, without a call that reads."""
    epoll, here, there = watched_pair(bench, EPOLLIN | EPOLLONESHOT)
    bench.send(there, b"x")
    bench.spin(epoll, TIMES, lambda: bench.modify(epoll, here, EPOLLIN | EPOLLONESHOT))


def flipped(bench):
    """The mask alternates between IN and OUT, and both are ready."""
    epoll, here, there = watched_pair(bench)
    bench.send(there, b"x")
    masks = [EPOLLOUT, EPOLLIN]

    def turn():
        bench.modify(epoll, here, masks[0])
        masks.reverse()

    bench.spin(epoll, TIMES, turn)


def shut_down_again(bench):
    """A shutdown at each event changes nothing after the first."""
    epoll, here, there = watched_pair(bench)
    bench.close(there)
    bench.spin(epoll, TIMES + 1, lambda: bench.shutdown(here, socket.SHUT_WR))


def sends_of_nothing(bench):
    epoll, here, _ = watched_pair(bench, EPOLLOUT)
    bench.spin(epoll, TIMES, lambda: bench.send(here, b""))


def half_closed(bench):
    """Reading is paused, and RDHUP is left in the mask."""
    here, there = bench.tcp()
    epoll = bench.epoll()
    bench.register(epoll, here, EPOLLRDHUP)
    bench.shutdown(there, socket.SHUT_WR)
    bench.in_state(here, "CLOSE_WAIT")
    bench.spin(epoll, TIMES)


def half_closed_and_sending(bench):
    """The end of the peer's half is read again and again while a response is sent."""
    epoll, here, there = watched_pair(bench, EPOLLIN | EPOLLOUT)
    bench.shutdown(there, socket.SHUT_WR)

    def turn():
        bench.recv(here, 10)
        bench.send(here, b"x")

    bench.spin(epoll, TIMES, turn)


def traffic(bench, n_pairs, mask, times, serve):
    """A loop over several busy connections; `serve` handles the one with input."""
    epoll = bench.epoll()
    pairs = [bench.pair(f"here {i}", f"there {i}") for i in range(n_pairs)]
    for here, _ in pairs:
        bench.register(epoll, here, mask)
    for turn in range(times):
        here, there = pairs[turn % n_pairs]
        bench.send(there, b"x")
        bench.wait(epoll)
        serve(epoll, here)
        bench.recv(there, 10)


def writable_under_traffic(bench):
    """OUT is left on at twenty busy connections: no run of useless events is long."""

    def serve(_, here):
        bench.recv(here, 10)
        bench.send(here, b"y")

    traffic(bench, 20, EPOLLIN | EPOLLOUT, 200, serve)


def timer_of_a_millisecond(bench):
    epoll = bench.epoll()
    for _ in range(3 * TIMES):
        bench.wait(epoll, 0.001)


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
        (registered_again, "hang-up that cannot be masked"),
        (disarmed_and_armed, "input never read"),
        (armed_again_with_oneshot, "input never read"),
        (flipped, "interest changed without progress"),
        (shut_down_again, "hang-up that cannot be masked"),
        (sends_of_nothing, "writable interest left on"),
        (half_closed, "half-closed connection left registered"),
        (half_closed_and_sending, "ignored end of file"),
        (writable_under_traffic, "writable interest left on"),
        (timer_of_a_millisecond, "timer of a millisecond"),
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
    assert finding.of_events >= finding.n_events
    assert f"{finding.n_events:,} of " in finding.sentence
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


LIFECYCLES = [("epoll", "level", name) for name in ("eager", "howto", "oneshot")]
LIFECYCLES += [("epoll", "edge", name) for name in ("eager", "howto", "once", "oneshot")]
LIFECYCLES += [(name, "level", life) for name in ("poll", "select") for life in ("eager", "howto")]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize(("poller", "trigger", "lifecycle"), LIFECYCLES)
def test_a_server_at_full_load_is_healthy(poller, trigger, lifecycle):
    """wrk, as fast as it can; half of `least` finds nothing either."""
    with epolllab.start_server(
        poller=poller, trigger=trigger, lifecycle=lifecycle, protocol="http"
    ) as server:
        command = ["wrk", "-t1", "-c30", "-d1s", server.url]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        recording = server.recording()
    assert len(recording) > 1_000
    assert diagnose(recording, least=50).healthy, diagnose(recording, least=50)


def test_the_clients_are_healthy():
    with epolllab.start_server(protocol="http") as server:
        run = epolllab.run_clients(
            server, connections=20, requests=1_500, keep_alive=True, processes=2, progress=False
        )
    for recording in run.recordings():
        assert diagnose(recording).healthy, diagnose(recording)


def test_lost_accept_races_are_found():
    """A worker gets EAGAIN from accept repeatedly, since others took the connections."""
    script = Script()
    for _ in range(300):
        script.wait(1, ns=1_000_000).ready(0).accept_blocked()
    for _ in range(300):
        script.wait(1, ns=1_000_000).ready(0).call(Op.GETSOCKOPT, 0, 0, fd=LISTENER_FD)
    (finding,) = diagnose(script.recording()).findings
    assert finding.kind == "lost accept races"
    assert (finding.fd, finding.n_events, finding.of_events) == (LISTENER_FD, 600, 600)
    assert finding.share < 0.01


def test_a_worker_that_rarely_loses_is_healthy():
    """One lost race in ten is no herd."""
    script = Script()
    for conn in range(1, 2_000):
        script.wait(1).ready(0).accept(conn).accept_blocked().close(conn)
        if conn % 10 == 0:
            script.wait(1).ready(0).accept_blocked()
    assert diagnose(script.recording()).healthy


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        ("IN|OUT|ERR|HUP", "hang-up that cannot be masked"),
        ("IN|OUT|HUP|RDHUP", "hang-up that cannot be masked"),
        ("IN|RDHUP", "half-closed connection left registered"),
        ("OUT", "writable interest left on"),
        ("ERR", "socket error never read"),
        ("NVAL", "closed descriptor still polled"),
        ("IN", "input never read"),
    ],
)
def test_a_trace_that_begins_after_registration(mask, kind):
    """Without a register row, nothing says that a descriptor is the loop's own."""
    script = Script()
    for _ in range(TIMES):
        script.wait(1).call(Op.READY, 0, 0, mask=mask_of(mask), fd=9)
    (finding,) = diagnose(script.recording()).findings
    assert (finding.kind, finding.fd, finding.n_events) == (kind, 9, TIMES)


@pytest.mark.parametrize(
    ("source", "long_ns", "found"),
    [("strace", 45_000, 1), ("strace", 150_000, 1), ("strace", 250_000, 0), ("", 45_000, 0)],
)
def test_waits_are_longer_under_strace(source, long_ns, found):
    """Two in five take 6 µs, those in which strace ran on the same CPU; others do not sleep."""
    script = Script()
    for n in range(TIMES):
        script.wait(1, ns=6_000 if n % 5 < 2 else long_ns).ready(1, "OUT")
    recording = Recording(script.recording().array().tobytes(), {"source": source})
    assert diagnose(recording).kinds == ["writable interest left on"] * found


@pytest.mark.parametrize("value", [7, "x", ["9"], {"x": "y", "9" * 5000: "y", "10": None}])
def test_names_in_a_file_may_be_nonsense(value):
    assert diagnose(Recording(Script().wait(0).rows[0], {"fd_names": value})).healthy


def test_a_name_decides_what_a_descriptor_is():
    """Descriptors of a foreign program can be named; findings show the name."""
    script = Script()
    for _ in range(TIMES):
        script.wait(1).call(Op.READY, 0, 0, mask=EPOLLIN, fd=9)
    recording = script.recording()
    (finding,) = diagnose(recording, names={9: "eventfd"}).findings
    assert (finding.kind, finding.name) == ("wake-up descriptor never read", "eventfd")
    assert "fd 9 (eventfd)" in finding.sentence
    (finding,) = diagnose(recording, names={9: "tcp 127.0.0.1:80 <- 127.0.0.1:50186"}).findings
    assert finding.kind == "input never read"


def test_a_ghost_that_a_server_reports_as_stale():
    """The connection was closed, and its descriptor is reported at every wait."""
    script = Script().wait(1).ready(0).accept(1).register(1)
    script.wait(1).ready(1).recv(1, 0).close(1)
    for _ in range(TIMES):
        script.wait(1).call(Op.READY, 0, 0, mask=mask_of("IN|HUP"), fd=5)
    (finding,) = diagnose(script.recording({"lifecycle": "eager"})).findings
    assert (finding.kind, finding.n_events) == ("ghost of a duplicated descriptor", TIMES)


def test_accept_without_descriptors_under_traffic():
    """Between the failures a connection closes and another is accepted."""
    script = Script()
    for conn in range(1, 60):
        for _ in range(9):
            script.wait(1).ready(0).call(Op.ACCEPT, 0, -errno.EMFILE, fd=LISTENER_FD)
        script.wait(1).ready(0).accept(conn).close(conn)
    (finding,) = diagnose(script.recording()).findings
    assert (finding.kind, finding.n_events) == ("accept without a free descriptor", 59 * 9)


def test_a_timerfd_of_a_millisecond():
    """It is read, so that nothing spins; but the loop wakes a thousand times a second."""
    with Bench() as bench:
        timer = Timer(time.monotonic_ns(), 1_000_000)
        target = bench.add(timer.fileno(), "timer")
        timer._fd = -1  # the bench closes it
        epoll = bench.watch(target, EPOLLIN)
        for _ in range(2 * TIMES):
            bench.wait(epoll, PATIENCE_S)
            bench.read(target, 8)
        diagnosis = diagnose(bench.recording())
    assert diagnosis.kinds == ["timer of a millisecond"]
    assert "times a second" in diagnosis.findings[0].detail


@pytest.mark.parametrize("period_ms", [10, 100])
def test_an_idle_program_is_healthy(period_ms):
    """One second of a program that wakes a hundred times, or ten."""
    script = Script()
    for _ in range(1_000 // period_ms):
        script.wait(0, timeout_ms=period_ms, ns=period_ms * 1_000_000)
    assert diagnose(script.recording()).healthy


def test_asyncio_under_load_is_healthy():
    """Its callbacks make two of three waits return nothing, with a timeout of zero."""
    script = Script()
    for _ in range(500):
        script.wait(1).ready(1).recv(1, 10).send(1, 10)
        script.wait(0, timeout_ms=0).wait(0, timeout_ms=0)
    assert diagnose(script.recording()).healthy


def empty_datagrams(bench):
    """Each is read, one or several at an event."""
    here, there = bench.udp()
    epoll = bench.watch(here, EPOLLIN)
    for turn in range(2 * TIMES):
        for _ in range(1 + turn % 2):
            bench.send(there, b"")
        bench.wait(epoll, PATIENCE_S)
        bench.recv(here, 10)
        if turn % 2:
            bench.recv(here, 10)


def empty_datagrams_until_eagain(bench):
    here, there = bench.udp()
    epoll = bench.watch(here, EPOLLIN)
    for _ in range(2 * TIMES):
        there.sock.send(b"")  # not recorded, as if another process sent it
        bench.wait(epoll, PATIENCE_S)
        bench.recv(here, 10)
        bench.attempt(bench.recv, here, 10)


def paused_and_resumed(bench):
    """A proxy takes IN out of the mask while the other side is full."""

    def serve(epoll, here):
        bench.modify(epoll, here, 0)
        bench.wait(epoll)
        bench.modify(epoll, here, EPOLLIN)
        bench.wait(epoll)
        bench.recv(here, 10)
        bench.send(here, b"y")

    traffic(bench, 3, EPOLLIN, 2 * TIMES, serve)


def served_by_a_thread(bench):
    """With one-shot, another thread reads what the loop reports, and arms again."""
    epoll, here, there = watched_pair(bench, EPOLLIN | EPOLLONESHOT)
    for _ in range(2 * TIMES):
        bench.send(there, b"x")
        bench.wait(epoll, PATIENCE_S)
        here.sock.recv(10)  # the other thread's calls are not recorded
        epoll.epoll.modify(here.fd, EPOLLIN | EPOLLONESHOT)


@pytest.mark.parametrize(
    "program",
    [empty_datagrams, empty_datagrams_until_eagain, paused_and_resumed, served_by_a_thread],
)
def test_a_healthy_program(program):
    with Bench() as bench:
        program(bench)
        diagnosis = diagnose(bench.recording())
    assert diagnosis.healthy, diagnosis


def test_descriptors_that_another_thread_arms_are_healthy():
    """Its calls begin while the loop waits, and what it reads is not recorded."""
    script = Script()
    for _ in range(2 * TIMES):
        script.wait(1, ns=4_000).ready(1).after(2_000).modify(1, "IN|ONESHOT").after(-3_000)
    assert diagnose(script.recording()).healthy


def test_threads_on_one_epoll_are_told_apart():
    """A spin of one thread is found beside others that sleep, and named once."""
    array = np.concatenate([spinning(), asleep()])
    array = array[np.argsort(array["start_ns"], kind="stable")]
    diagnosis = diagnose(Recording(array.tobytes()))
    assert diagnosis.kinds == ["writable interest left on"]
    assert diagnosis.findings[0].n_events == TIMES


def spinning():
    """Rows of thread 7, whose wait returns a writable socket each time."""
    script = Script()
    for _ in range(TIMES):
        script.wait(1).ready(1, "OUT")
    return of_thread(script, 7, first_wake=1)


def asleep():
    """Rows of thread 8, which waits half as long as the other spins, twice."""
    script = Script()
    for _ in range(2):
        script.wait(1, ns=100 * TIMES * 10).ready(2).recv(2, 10)
    return of_thread(script, 8, first_wake=1_000)


def of_thread(script, thread, first_wake):
    """The script's rows as those of a thread, with wakes that are unique in the process."""
    array = script.recording().array().copy()
    array["thread"] = thread
    array["wake"] += first_wake
    return array


def test_findings_rank_by_the_time_that_they_take():
    """Many cheap waits come after few expensive events."""
    script = Script()
    for _ in range(TIMES):
        script.wait(1).ready(1, "OUT").after(1_000_000)
    for _ in range(10 * TIMES):
        script.wait(0, timeout_ms=0)
    diagnosis = diagnose(script.recording())
    assert diagnosis.kinds == ["writable interest left on", "timeout of zero"]
    first, second = diagnosis.findings
    assert first.n_events < second.n_events
    assert first.share > 0.9 > 0.1 > second.share


def test_several_connections_are_one_finding():
    """It names the descriptor concerned most, and counts the others."""
    script = Script()
    for turn in range(2 * TIMES):
        script.wait(1 + (turn < TIMES)).ready(1, "OUT")
        if turn < TIMES:
            script.ready(2, "OUT")
    (finding,) = diagnose(script.recording()).findings
    assert (finding.fd, finding.fds) == (5, (5, 6))
    assert "and 1 other" in finding.sentence


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
    with pytest.raises(TypeError, match="names"):
        diagnose(Recording(b""), names=["udp"])
