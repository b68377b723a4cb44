"""How servers end: under load, in a busy handler, by an interrupt, and with their parent."""

import gc
import os
import re
import signal
import textwrap
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import epolllab
from epolllab import kernel
from tests.kernels import notebook_kernel, run_cell
from tests.server.helpers import EVERY_WAY, PLACES, is_gone, program
from tests.wire import GET, Address, connect, is_refused, until


@PLACES
@EVERY_WAY
def test_stop_under_load(process: bool, way: dict[str, Any]) -> None:
    """stop() returns while clients send, and each of their requests has a row."""
    server = epolllab.start_server(process=process, **way)
    runs: list[epolllab.Run] = []

    def send() -> None:
        runs.append(
            epolllab.run_clients(server.address, connections=20, requests=1_500, progress=False)
        )

    load = threading.Thread(target=send)
    load.start()
    until(lambda: server.stats()["requests"] > 50)
    server.stop()
    assert not server.is_running
    assert is_refused(server.address)
    load.join()
    stats = server.stats()
    assert stats["accepted"] == stats["closed"]
    assert stats["connections"] == 0
    frame = runs[0].requests()
    assert len(frame) == 1_500
    assert set(frame["error"].dropna()) <= {"ECONNREFUSED", "ECONNRESET", "closed early", "EPIPE"}


def test_a_thread_in_a_busy_handler() -> None:
    """stop() times out with the place where the loop is; the next stop() succeeds."""
    entered, proceed = threading.Event(), threading.Event()

    def sleeps(request: epolllab.server.Request) -> str:
        entered.set()
        assert proceed.wait(60)
        return "late"

    server = epolllab.start_server(protocol="http", handler=sleeps)
    with connect(server.address) as sock:
        sock.sendall(GET)
        assert entered.wait(20)
        with pytest.raises(TimeoutError, match=r"^stop\(\)"):
            server.stop()
        proceed.set()
        server.stop()
        assert not server.is_running


BUSY = {"sleeping": "time.sleep(1_000)", "computing": "while True: pass"}


@pytest.mark.parametrize("how", BUSY)
def test_a_process_in_a_busy_handler(how: str) -> None:
    space: dict[str, Any] = {"time": time}
    exec(f"def busy(request):\n    {BUSY[how]}", space)
    server = epolllab.start_server(protocol="http", handler=space["busy"], process=True)
    with connect(server.address) as sock:
        sock.sendall(GET)
        until(lambda: kernel.tcp_info(sock).unacked == 0)
        server.stop()
    assert not server.is_running
    assert server.error is None
    assert not Path(f"/proc/{server.pid}").exists()


@pytest.mark.parametrize("how", [None, *BUSY])
def test_a_parent_that_is_killed(how: str | None) -> None:
    """A child ends with its parent, also after SIGKILL, also in a busy handler."""
    text = f"""
        import time
        def busy(request):
            {BUSY.get(how or "", "return ''")}
        server = epolllab.start_server(protocol="http", handler=busy, process=True)
        tell([server.pid, server.port])
        sys.stdin.read()
    """
    with program(text) as parent:
        pid, port = parent.read()
        with connect(("127.0.0.1", port)) as sock:
            if how:
                sock.sendall(GET)
            parent.process.send_signal(signal.SIGKILL)
            until(lambda: is_gone(pid))
        until(lambda: is_refused(("127.0.0.1", port)))  # once its last thread has ended, too


def test_a_parent_that_is_killed_while_a_forked_copy_of_it_runs() -> None:
    """The copy holds a duplicate of the lifeline, and the child ends all the same."""
    text = """
        import os, time
        import ctypes
        server = epolllab.start_server(process=True)
        # fork(2) in C, of which Python is not told, keeps every descriptor.
        copy = ctypes.CDLL(None).fork() if sys.argv[1:] else os.fork()
        if copy == 0:
            time.sleep(60)
            os._exit(0)
        tell([server.pid, server.port, copy])
        sys.stdin.read()
    """
    for arguments in ([], ["in C"]):
        with program(text, *arguments) as parent:
            pid, port, copy = parent.read()
            try:
                parent.process.kill()
                until(partial(is_gone, pid))
                until(partial(is_refused, ("127.0.0.1", port)))
                assert not is_gone(copy)
            finally:
                os.kill(copy, signal.SIGKILL)


def test_a_forked_copy_of_the_parent_leaves_the_child_alone() -> None:
    """It neither stops nor kills the server when it ends, and a stop need not wait for it."""
    text = """
        import os, time
        server = epolllab.start_server(process=True)
        copies = []
        for ending in ("os._exit(0)", "sys.exit()", "server.stop(); os._exit(server.is_running)",
                       "del server; sys.exit()", "time.sleep(60)"):
            copies.append(os.fork())
            if copies[-1] == 0:
                exec(ending)
        codes = [os.waitpid(copy, 0)[1] for copy in copies[:4]]
        is_running, requests = server.is_running, server.stats()["requests"]
        server.stop()
        code = server._host.child.process.returncode
        os.kill(copies[4], 9)
        tell([codes, is_running, requests, code, server.error])
    """
    with program(text) as parent:
        # Had the child been killed after a wait, its exit code were that of SIGKILL.
        assert parent.read() == [[0, 0, 0, 0], True, 0, 0, None]


def test_a_server_and_clients_without_standard_streams() -> None:
    """Their numbers are those of sockets and pipes, which the children inherit."""
    text = """
        import os
        saved = os.dup(1)
        os.closerange(0, 3)
        with epolllab.start_server(process=True) as server:
            run = epolllab.run_clients(server, requests=4, connections=2, progress=False)
            done = int(run.summary()["succeeded"])
        os.dup2(saved, 1)
        tell(done)
    """
    with program(text) as running:
        assert running.read() == 4


class SlowToArrive:
    """A protocol that the child never finishes unpickling."""

    def __call__(self) -> epolllab.Session:
        """Make a session."""
        return epolllab.server.Echo()

    def __reduce__(self) -> tuple[Any, ...]:
        """Sleep when unpickled."""
        return (time.sleep, (1_000,))


def test_an_interrupt_while_a_child_starts() -> None:
    def interrupt() -> None:
        until(kernel.children)
        # A signal, as Jupyter sends it, so that a blocking call returns.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        epolllab.start_server(protocol=SlowToArrive(), process=True)
    interrupter.join()
    gc.collect()
    assert not kernel.children()
    assert not epolllab.servers()


INTERRUPTED = """
    import os, signal, threading, time

    def interrupt(after):
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGINT)

    def start():
        with epolllab.start_server(process=True):
            time.sleep(60)

    for n in range(20):
        try:
            # The interrupt may arrive while the thread that sends it is still starting.
            threading.Thread(target=interrupt, args=[n * 0.01]).start()
            start()
        except KeyboardInterrupt:
            tell([sorted(epolllab.kernel.children()), list(map(repr, epolllab.servers()))])
"""


def test_an_interrupt_at_any_moment_of_a_start() -> None:
    """Before, during and after the child's start, an interrupt leaves no child and no server."""
    with program(INTERRUPTED) as interrupted:
        for _ in range(20):
            assert interrupted.read() == [[], []]


@pytest.mark.notebook
@pytest.mark.parametrize("process", [False, True], ids=["thread", "process"])
def test_an_interrupted_cell(process: bool) -> None:
    """The load ends early, the cell goes on, and nothing that it started is left."""
    with notebook_kernel() as (manager, client):
        run_cell(client, "import epolllab, threading, time")
        threads = "[t.name for t in threading.enumerate() if 'epolllab' in t.name]"
        left = f"print({threads}, epolllab.servers(), epolllab.kernel.children())"
        address: list[Address] = []

        def interrupt(text: str) -> None:
            if found := re.search(r"port (\d+)\.", text):
                address.append(("127.0.0.1", int(found[1])))
                manager.interrupt_kernel()

        cell = f"""
            def say():
                while server.stats()["requests"] < 10:
                    time.sleep(0.01)
                print(f"port {{server.port}}.", flush=True)
            with epolllab.start_server(process={process}) as server:
                threading.Thread(target=say).start()
                run = epolllab.run_clients(server, duration=600, rate=100, progress=False)
            print(run.interrupted, len(run) >= 10, *run.notes)
        """
        output = run_cell(client, textwrap.dedent(cell), heard=interrupt)
        assert "True True " in output
        assert "interrupted after" in output
        assert run_cell(client, left).split() == ["[]", "[]", "set()"]
        assert is_refused(address[0])
        run_cell(client, "with epolllab.start_server() as s: epolllab.run_clients(s, requests=5)")


@pytest.mark.notebook
def test_a_killed_kernel() -> None:
    with notebook_kernel() as (_, client):
        output = run_cell(
            client,
            "import epolllab, os\n"
            "kept = [epolllab.start_server(process=p) for p in (False, True)]\n"
            "print(*(server.port for server in kept), kept[1].pid, os.getpid())",
        )
        *ports, child, own = map(int, output.split())
        assert not any(is_refused(("127.0.0.1", port)) for port in ports)
        os.kill(own, signal.SIGKILL)
        until(lambda: is_gone(child))
        until(lambda: all(is_refused(("127.0.0.1", port)) for port in ports))
