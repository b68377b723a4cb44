"""observe(): asyncio and other loops of this interpreter, and nothing left in place."""

import asyncio
import gc
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from types import ModuleType

import pandas as pd
import pytest

import epolllab
from epolllab import analysis, recording
from epolllab.external import SaveWhen, observe
from epolllab.external.loops import LAYERS, RecordedEpoll
from epolllab.recording import NotStored
from tests.wire import suspend

N_CLIENTS, N_ECHOES = 3, 4
PATCHED = (
    (select, "epoll"), (selectors.EpollSelector, "_selector_cls"), (asyncio.events.Handle, "_run"),
    *((socket.socket, name) for name in (
        "accept", "connect", "recv", "recv_into", "send", "sendmsg", "shutdown", "_real_close")),
)  # fmt: skip


def in_place() -> list[object]:
    """What the patched names refer to, and whether the class itself has them."""
    return [(getattr(owner, name), name in vars(owner)) for owner, name in PATCHED]


@pytest.fixture(autouse=True)
def _undone():
    """After each test every patched name is as before."""
    before = in_place()
    yield
    assert in_place() == before
    gc.collect()


async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
        await writer.drain()
    writer.close()


async def client(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(N_ECHOES):
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()


async def echoes():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(client(port) for _ in range(N_CLIENTS)))
    await asyncio.sleep(0.05)
    server.close()
    await server.wait_closed()


def test_an_asyncio_program():
    """Each connection has both ends' calls, the kernel's masks, and its callbacks by name."""
    with observe() as seen:
        asyncio.run(echoes())
    recording = seen.recording()
    assert seen.notes == []
    table = recording.connections()
    assert len(table) == 2 * N_CLIENTS
    assert (table["n_bytes_in"] == 5 * N_ECHOES).all()
    assert (table["n_bytes_out"] == 5 * N_ECHOES).all()
    assert table["closed_ns"].notna().all()
    assert table["peer_port"].notna().sum() == N_CLIENTS
    events = recording.events()
    assert (events["tid"] == 0).all()
    masks = set(events.loc[events["op"] == "ready", "mask_names"])
    assert "IN" in masks
    assert masks & {"OUT", "OUT|HUP", "OUT|RDHUP"}
    wakeups = recording.wakeups()
    assert wakeups["n_returned"].sum() == recording.counts()["ready"]
    callbacks = recording.callbacks().set_index("name")
    assert callbacks.loc["client", "n"] >= N_CLIENTS * N_ECHOES
    assert callbacks.loc["_SelectorSocketTransport._read_ready", "n"] >= 2 * N_CLIENTS * N_ECHOES
    assert callbacks["n"].sum() == recording.counts()["callback"]
    # A server's task inherits the connection of the transport that started it.
    names = recording.metadata["callbacks"]
    rows = recording.array()
    rows = rows[rows["op"] == 17]
    of_echo = rows[rows["mask"] == names.index("echo")]
    accepted = set(table.loc[table["peer_port"].notna(), "conn"])
    assert set(of_echo["conn"].tolist()) == accepted
    assert analysis.diagnose(recording).healthy


def test_the_loop_that_runs_already():
    """In a cell with await: the running loop's epoll is replaced, and put back."""

    async def cell():
        loop = asyncio.get_running_loop()
        real = loop._selector._selector
        with observe() as seen:
            assert isinstance(loop._selector._selector, RecordedEpoll)
            await echoes()
        assert loop._selector._selector is real
        await echoes()
        return seen.recording()

    recording = asyncio.run(cell())
    assert len(recording.connections()) == 2 * N_CLIENTS
    assert "echo" in recording.callbacks()["name"].tolist()


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_alone(layer):
    """The others leave no row; sockets need to know what is watched, so they need epoll."""
    with observe(layers=(layer,)) as seen:
        asyncio.run(echoes())
    counts = seen.recording().counts()
    if layer == "callbacks":
        assert set(counts) == {"callback"}
    elif layer == "epoll":
        assert set(counts) == {"wait", "ready", "register", "modify", "unregister"} & set(counts)
        assert counts["wait"] > 0
    else:
        assert not {"wait", "ready", "register", "callback"} & set(counts)


def test_a_loop_of_selectors():
    """Any program over selectors is seen, with the real mask."""
    with observe() as seen, selectors.DefaultSelector() as selector:
        a, b = socket.socketpair()
        selector.register(a, selectors.EVENT_READ)
        b.send(b"x")
        [(key, events)] = selector.select()
        assert (key.fileobj, events) == (a, selectors.EVENT_READ)
        assert a.recv(10) == b"x"
        b.close()
        selector.select()
        selector.unregister(a)
        a.close()
    events = seen.recording().events()
    assert events["op"].tolist()[:5] == ["register", "wait", "ready", "recv", "wait"]
    assert events["mask_names"].tolist()[5] == "IN|HUP"


def test_objects_made_inside_go_on_afterwards():
    """They are passed straight through, and record nothing more."""
    counter = os.eventfd(0)
    with observe() as seen:
        epoll = select.epoll()
        epoll.register(counter, 0)
        assert epoll.poll(0) == []
    n = len(seen.recording())
    epoll.modify(counter, 0)
    epoll.unregister(counter)
    with epoll:
        assert epoll.poll(0, 5) == []
    assert epoll.closed
    os.close(counter)
    assert len(seen.recording()) == n
    assert not isinstance(RecordedEpoll(), RecordedEpoll)


def test_two_loops_in_two_threads():
    """Each has its thread id and its own wakes."""
    with observe() as seen:
        threads = [threading.Thread(target=asyncio.run, args=(echoes(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    events = seen.recording().events()
    assert events["tid"].nunique() == 2
    waits = events[events["op"] == "wait"]
    assert waits["wake"].is_unique
    assert (waits.groupby("tid").size() > 10).all()
    assert len(seen.recording().connections()) == 4 * N_CLIENTS


def test_threads_without_a_loop_are_left_alone():
    a, b = socket.socketpair()
    with a, b, observe() as seen:
        b.send(b"x")
        assert a.recv(1) == b"x"
    assert len(seen.recording()) == 0
    assert seen.notes[0] == "no event loop waited during the observation"


def test_an_exception_and_an_interrupt_undo_everything():
    """What was recorded until then is there."""
    for error in (ValueError, KeyboardInterrupt):

        async def fail(error=error):
            await asyncio.sleep(0)
            raise error

        seen = observe()
        with pytest.raises(error), seen:
            asyncio.run(fail())
        assert seen.recording().counts()["callback"] > 0
        assert not seen.is_active


def test_errors_of_calls_are_recorded_and_raised():
    with observe() as seen, selectors.DefaultSelector() as selector:
        a, b = socket.socketpair()
        a.setblocking(False)
        selector.register(a, selectors.EVENT_READ)
        selector.select(0)
        with pytest.raises(BlockingIOError):
            a.recv(1)
        with pytest.raises(FileNotFoundError):
            selector._selector.modify(b.fileno(), 1)
        a.close()
        b.close()
    errors = seen.recording().errors()
    assert errors == {"recv EAGAIN": 1, "modify ENOENT": 1}


def test_one_observation_at_a_time():
    with observe(), pytest.raises(RuntimeError, match="active already"), observe():
        pass


def test_a_late_import_is_said(monkeypatch):
    """Trio binds select.epoll at import; a module's own name for it is replaced."""
    module = ModuleType("tests_own_epoll")
    module.epoll = select.epoll
    monkeypatch.setitem(sys.modules, "tests_own_epoll", module)
    monkeypatch.setitem(sys.modules, "trio._core._io_epoll", ModuleType("trio"))
    real = select.epoll
    with observe() as seen:
        assert module.epoll is RecordedEpoll
    assert module.epoll is real
    assert any(note.startswith("trio takes") for note in seen.notes)


def test_uvloop_is_said_to_be_in_c():
    """In a process of its own, because uvloop keeps a pipe for signals."""
    pytest.importorskip("uvloop")
    code = (
        "import asyncio, uvloop, epolllab\n"
        "with epolllab.external.observe() as seen:\n"
        "    uvloop.run(asyncio.sleep(0.01))\n"
        "print(seen.notes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "uvloop's loop is in C: use epolllab.trace(pid)" in done.stdout


def test_callbacks_that_are_methods_partials_and_builtins():
    """Each has a name, and no object is kept for it."""

    class Worker:
        def work(self):
            pass

    async def main():
        from functools import partial

        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(Worker().work)
        loop.call_soon(partial(partial(Worker.work), Worker()))
        loop.call_soon(future.set_result, None)
        await future

    with observe() as seen:
        asyncio.run(main())
    names = seen.recording().callbacks().set_index("name")["n"]
    worker = next(name for name in names.index if name.endswith("Worker.work"))
    assert names[worker] == 2
    assert any("set_result" in name for name in names.index)


def test_what_blocks_the_loop():
    """The longest callback is the one that sleeps."""

    async def blocks():
        time.sleep(0.5)

    async def main():
        await asyncio.gather(blocks(), echoes())

    with observe() as seen:
        asyncio.run(main())
    first = seen.recording().callbacks().iloc[0]
    assert first["name"].endswith("blocks")
    assert first["longest_ns"] >= 500_000_000


def test_a_blocked_loop_is_saved_with_the_line(tmp_path):
    """One file for two incidents within a minute; its stack names the line that blocks."""

    async def blocks():
        time.sleep(0.6)  # the line

    async def main():
        for _ in range(2):
            await blocks()
            await asyncio.sleep(0.15)

    with observe(save_when=SaveWhen(blocked_s=0.2, folder=tmp_path / "new")) as seen:
        asyncio.run(main())
    [file] = seen.saved
    assert file.name.startswith("blocked-")
    kept = epolllab.Recording.load(file)
    incident = kept.metadata["incident"]
    assert incident["callback"].endswith("main")
    assert "time.sleep(0.6)  # the line" in "".join(incident["stack"])
    assert incident["blocked_s"] > 0.2
    assert kept.counts()["callback"] > 0


def test_a_spin_is_saved_with_its_diagnosis(tmp_path):
    """A loop that is woken by a writable socket again and again, for more than a second."""

    async def main():
        a, b = socket.socketpair()
        with a, b:
            asyncio.get_running_loop().add_writer(a, lambda: None)
            await asyncio.sleep(2.5)
            asyncio.get_running_loop().remove_writer(a)

    when = SaveWhen(blocked_s=None, wakeups_per_s=500, folder=tmp_path)
    with observe(save_when=when) as seen:
        asyncio.run(main())
    [file] = seen.saved
    incident = epolllab.Recording.load(file).metadata["incident"]
    assert incident["kind"] == "spin"
    assert incident["wakeups_per_s"] > 500
    assert incident["findings"]


def test_a_healthy_loop_saves_nothing(tmp_path):
    with observe(save_when=SaveWhen(blocked_s=5, folder=tmp_path)) as seen:
        asyncio.run(echoes())
    assert seen.saved == []
    assert list(tmp_path.iterdir()) == []


def test_a_small_ring_counts_what_it_overwrote():
    with observe(capacity=50) as seen:
        asyncio.run(echoes())
    recording = seen.recording()
    assert len(recording) == 50
    assert recording.overwritten > 50


def test_rows_after_the_last_wait_of_a_thread_that_ended() -> None:
    """A loop's last rows are not lost with its thread."""

    def loop() -> None:
        with select.epoll() as epoll, reading:
            epoll.register(reading, select.EPOLLIN)
            for fd, _ in epoll.poll(10):
                reading.recv(10)
                epoll.unregister(fd)

    reading, writing = socket.socketpair()
    with writing, observe() as seen:
        thread = threading.Thread(target=loop)
        thread.start()
        writing.send(b"x")
        thread.join()
    ops = seen.recording().events()["op"].tolist()
    assert ops == ["register", "wait", "ready", "recv", "unregister", "close"]


@pytest.mark.parametrize("n_threads", [1, 3])
def test_all_rows_are_stored_in_a_folder(n_threads, tmp_path):
    """Of all loops, in the same order; the callbacks' names too."""
    with observe(record_to=tmp_path / "run") as seen:
        threads = [
            threading.Thread(target=lambda: asyncio.run(echoes())) for _ in range(n_threads - 1)
        ]
        for thread in threads:
            thread.start()
        asyncio.run(echoes())
        for thread in threads:
            thread.join()
    recorded = seen.recording()
    stored = recording.open(tmp_path / "run")
    pd.testing.assert_frame_equal(stored.events(), recorded.events())
    assert len(set(stored.events()["tid"])) == n_threads
    pd.testing.assert_frame_equal(stored.recording().callbacks(), recorded.callbacks())
    assert (stored.lost, stored.is_closed) == (0, True)
    assert stored.metadata["source"] == "observe"


def test_more_rows_than_the_ring_keeps(tmp_path):
    """What the child did not read in time is counted, and a warning says so.

    The rows after the last wait are settled at the end, when the child has read the others.
    """

    def run() -> None:
        with seen:
            suspend(seen._stream.child.pid)
            asyncio.run(echoes())
            os.kill(seen._stream.child.pid, signal.SIGCONT)

    seen = observe(capacity=50, record_to=tmp_path / "run")
    with pytest.warns(RuntimeWarning, match="rows are not stored.*capacity"):
        run()
    stored = recording.open(tmp_path / "run")
    recorded = seen.recording()
    assert len(recorded) == 50 <= len(stored)
    assert stored.lost > 50
    assert stored.lost + len(stored) == recorded.overwritten + len(recorded)
    assert stored.events()["t_ns"].tolist()[-50:] == recorded.events()["t_ns"].tolist()


def test_the_observed_program_does_not_see_that_storing_fails(tmp_path):
    """The end of the block does, unless the block raises itself."""

    def run(*, fails: bool = False) -> None:
        with seen:
            os.kill(seen._stream.child.pid, signal.SIGKILL)
            seen._stream.child.process.wait()
            asyncio.run(echoes())
            if fails:
                raise KeyError

    seen = observe(record_to=tmp_path / "run")
    with pytest.raises(NotStored, match="SIGKILL"):
        run()
    assert "not stored" in seen.notes[0]
    assert seen.recording().counts()["accept"] >= N_CLIENTS
    seen = observe(record_to=tmp_path / "again")
    with pytest.raises(KeyError):
        run(fails=True)


def test_folders_that_are_refused(tmp_path):
    """Before anything is put in place."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="record_to"):
        observe(record_to=tmp_path).__enter__()
    with observe():  # none is active
        pass


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"record_to": 5}, TypeError),
        ({"record_to": "s3://bucket/run"}, ValueError),
        ({"layers": "epoll"}, ValueError),
        ({"layers": ("epol",)}, ValueError),
        ({"layers": ()}, ValueError),
        ({"layers": 1}, TypeError),
        ({"capacity": 0}, ValueError),
        ({"capacity": True}, TypeError),
        ({"capacity": 10**15}, ValueError),
        ({"loop": "asyncio"}, TypeError),
        ({"save_when": 0.1}, TypeError),
    ],
    ids=str,
)
def test_bad_arguments(options, error):
    with pytest.raises(error, match=f"^{next(iter(options))}"):
        observe(**options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"blocked_s": 0}, ValueError),
        ({"blocked_s": "1"}, TypeError),
        ({"wakeups_per_s": 0}, ValueError),
        ({"every_s": -1}, ValueError),
        ({"folder": 1}, TypeError),
    ],
    ids=str,
)
def test_bad_conditions(options, error):
    with pytest.raises(error, match=f"^{next(iter(options))}"):
        SaveWhen(**options)


def test_calls_with_other_arguments_are_passed_on():
    """Flags, and names of arguments, as the real methods take them."""
    with observe() as seen, selectors.DefaultSelector() as selector:
        a, b = socket.socketpair()
        selector.register(a, selectors.EVENT_READ)
        selector.select(0)
        assert b.send(b"hello", 0) == 5
        assert a.recv(2, socket.MSG_PEEK) == b"he"
        buffer = bytearray(5)
        assert a.recv_into(buffer, nbytes=3) == 3
        assert a.recv(9) == b"lo"
        selector.unregister(a)
        a.close()
        b.close()
    recv = seen.recording().events().query("op == 'recv'")
    assert recv["n_bytes"].tolist() == [2, 3, 2]
