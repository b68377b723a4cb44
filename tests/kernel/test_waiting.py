"""Whether a thread sleeps in the kernel, and waiting until it does."""

import os
import signal
import socket
import sys
import threading

import pytest

from epolllab import kernel
from epolllab.kernel import proc, waiting
from tests import wire
from tests.kernel.conftest import running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/PID/wchan")


def test_a_process_that_reads_falls_asleep():
    """It is asleep once until_asleep returns, and not when it has ended."""
    with running("pass") as process:
        kernel.until_asleep(process.pid)
        assert kernel.is_asleep(process.pid)
    assert not kernel.is_asleep(process.pid)


def test_a_spinning_process_never_becomes_idle():
    """TimeoutError names the process."""
    code = (
        "import threading\nthreading.Thread(target=exec, args=('while True: pass',), daemon=True)"
    )
    with running(f"{code}.start()") as process:
        (spinning,) = kernel.threads(process.pid).keys() - {process.pid}
        with pytest.raises(TimeoutError, match=f"{process.pid}"):
            kernel.until_asleep(process.pid, spinning, timeout=0.05)


def test_a_thread_that_waits_for_a_lock_is_not_asleep():
    """It sleeps on a futex, as a thread does that waits for the interpreter lock."""
    lock = threading.Lock()
    with lock:
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        while proc._stat(os.getpid(), thread.native_id)[0] != "S":
            pass
        assert not kernel.is_asleep(os.getpid(), thread.native_id)
    thread.join()


def test_until_idle_waits_for_acknowledgements(connection):
    """Bytes that the peer's kernel has are acknowledged, and the process sleeps."""
    _, client, accepted = connection
    with running("pass") as process:
        client.sendall(b"x")
        assert accepted.recv(1, socket.MSG_PEEK) == b"x"
        kernel.until_idle(process.pid, client)
        assert kernel.tcp_info(client).unacked == 0


@pytest.mark.parametrize(
    ("looks", "all_asleep"),
    [
        ([4, 7, 4, 7], True),
        ([4, 7, 5, 7], False),  # the second woke the first, which sleeps again
        ([4, 7, None, 7], False),  # the second woke the first, which still runs
        ([4, None], False),
    ],
)
def test_threads_are_all_asleep_only_if_none_woke_while_they_were_looked_at(
    monkeypatch, looks, all_asleep
):
    """Each thread is looked at twice; the numbers are those of its sleeps."""
    remaining = iter(looks)
    monkeypatch.setattr(waiting, "_sleep", lambda pid, tid: next(remaining))
    assert waiting.are_asleep([(1, 1), (2, 2)]) is all_asleep
    assert list(remaining) == []


def test_a_later_sleep_has_a_higher_number():
    """A process that read a line and waits for the next sleeps another time."""
    with running("pass") as process:
        kernel.until_asleep(process.pid)
        before = waiting._sleep(process.pid, process.pid)
        assert waiting._sleep(process.pid, process.pid) == before
        process.stdin.write("a line\n")
        process.stdin.flush()
        wire.until(lambda: (waiting._sleep(process.pid, process.pid) or before) > before)


def test_a_stopped_process_is_not_asleep():
    with running("pass") as process:
        kernel.until_asleep(process.pid)
        wire.suspend(process.pid)
        assert not kernel.is_asleep(process.pid)
        os.kill(process.pid, signal.SIGCONT)
        kernel.until_asleep(process.pid)
