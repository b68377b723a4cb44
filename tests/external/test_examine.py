"""examine(): the verdict on sick programs and healthy ones, in sentences."""

import socket
import threading
import time

import pytest

import epolllab
from epolllab.external import examine
from tests.external import programs

VERDICTS = {
    "writable": ("writable interest left on", "events of fd"),
    "ghost": ("ghost of a duplicated descriptor", "is closed; the file is still open as fd"),
    "undrained": ("edge-triggered with unread bytes", "54 bytes are unread"),
    "spent": ("one-shot, spent", "The mask is empty"),
    "unclosed": ("peer has closed, descriptor still open", "CLOSE_WAIT"),
}


@pytest.mark.parametrize("kind", VERDICTS)
def test_sick_programs(kind, needs):
    """One sentence with the finding, its evidence, the peer's address and what to do."""
    needs("strace", "cc")
    finding, evidence = VERDICTS[kind]
    with programs.sick(kind) as (client, pid):
        if kind in ("ghost", "undrained", "spent"):
            client.sendall(b"x" * 64)
        if kind == "unclosed":
            client.shutdown(socket.SHUT_WR)
        peer = client.getsockname()[1]
        deadline = time.monotonic() + 10
        while (found := examine(pid, 0.5)).healthy and time.monotonic() < deadline:
            time.sleep(0.05)
    [sentence] = found.sentences()
    assert finding in sentence
    assert evidence in sentence
    assert f"127.0.0.1:{peer}" in sentence
    assert sentence in repr(found)
    assert "pid" in found._repr_html_()


def test_a_healthy_program_at_work(needs):
    """Nothing is found in a server of ours under load, which is said with the number of events."""
    needs("strace")
    is_enough = threading.Event()

    def load() -> None:
        while not is_enough.is_set():
            epolllab.run_clients(server, connections=5, duration=1.0, progress=False)

    with epolllab.start_server(process=True) as server:
        loading = threading.Thread(target=load)
        loading.start()
        deadline = time.monotonic() + 20
        while (found := examine(server.pid, 1.0)).recording is None:
            assert time.monotonic() < deadline, found
        is_enough.set()
        loading.join()
    assert found.healthy, found
    assert found.sentences() == []
    assert "nothing found" in repr(found)
    assert found.recording is not None
    assert found.recording.counts()["accept"] > 0


def test_an_idle_program(needs):
    """It sleeps all the time, which is no fault."""
    needs("strace")
    with programs.asyncio_echo() as (_, pid):
        found = examine(pid, 0.3)
    assert found.healthy
    assert found.cpu_share < 0.5
