"""examine(): the verdict on sick programs and healthy ones, in sentences."""

import socket
import subprocess
import threading
import time
from dataclasses import replace

import pandas as pd
import pytest

import epolllab
from epolllab import Recording, analysis
from epolllab.external import Examination, examine
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


def test_no_traced_finding_is_lost():
    """Two kinds on one descriptor are two sentences; on an inspected one they are evidence."""
    recording = spun(7, masks=(0x10, 4))
    diagnosis = analysis.diagnose(recording)
    assert len(diagnosis.findings) == 2
    assert {finding.fd for finding in diagnosis.findings} == {7}
    with subprocess.Popen(["sleep", "30"]) as program:
        inspection = epolllab.inspect(program.pid)
        program.kill()
    found = Examination(inspection, 1.0, recording, diagnosis).sentences()
    assert [text.partition(":")[0] for text in found] == diagnosis.kinds
    frame = pd.DataFrame([(3, 7, 5, "OUT", 7, "fd", "tcp", 0, 0, "one-shot, spent", "It is.")])
    seen = replace(inspection, frame=frame.set_axis(list(inspection.frame.columns), axis=1))
    [sentence] = Examination(seen, 1.0, recording, diagnosis).sentences()
    assert sentence.startswith("fd 7 (tcp): one-shot, spent. It is. ")
    assert all(finding.sentence[1:] in sentence for finding in diagnosis.findings)


def spun(fd: int, masks: tuple[int, ...]) -> Recording:
    """For each mask a useful read, and then waits that return it again and again for nothing."""
    lines = []
    for mask in masks:
        ready = f"[{{events={mask:#x}, data={{u32={fd}, u64={fd}}}}}]"
        lines.append(f'recvfrom({fd}, "", 9, 0, NULL, NULL) = 9\n')
        lines += [f"epoll_wait(3, {ready}, 8, -1) = 1\n"] * 150
    [recording] = epolllab.read_strace("".join(lines))
    return recording
