"""What a recording in a folder keeps up with: ``python storing.py RATE SECONDS``.

Rows of a real server under load are written to a ring again and again, with later times and
wakes, at RATE rows a second, and stored with the child process of ``record_to``. Printed are
the rows written per second, the rows lost, the bytes of a row on disk, the child's CPU time
of a row in µs, and the seconds that the end took.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import epolllab
from epolllab import kernel, recording
from epolllab.events import Op
from epolllab.recording.recorder import ROW_BYTES
from epolllab.recording.streaming import Stream

STEP_S = 0.001
CAPACITY = 1_000_000  # start_server's default


def rows_of_a_server() -> Any:
    """The ring's rows of a server with keep-alive connections, from a wait to before a wait."""
    with epolllab.start_server(process=True, protocol="http") as server:
        epolllab.run_clients(server, connections=50, duration=1, keep_alive=True, progress=False)
        words = server._host.ring.read().words
    table = np.frombuffer(words, dtype="i8").reshape(-1, ROW_BYTES // 8)
    waits = np.flatnonzero(table[:, 4] & 0xFF == Op.WAIT)
    return table[waits[50] : waits[-50]]


def laps(rows: Any, n: int) -> Iterator[list[int]]:
    """Batches of `n` rows without end; each lap continues the times and wakes before."""
    waits = rows[:, 4] & 0xFF == Op.WAIT
    later = np.zeros_like(rows)
    later[:, :2] = rows[:, 1].max() - rows[:, 0].min()
    later[waits, 2] = waits.sum() << 32
    while True:
        for start in range(0, len(rows), n):
            yield rows[start : start + n].ravel().tolist()
        rows = rows + later


def reaped_cpu_ns() -> int:
    """CPU time of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


def main(rate: int, seconds: float) -> None:
    """Write, end, and print."""
    batches = laps(rows_of_a_server(), max(int(rate * STEP_S), 1))
    with tempfile.TemporaryDirectory() as name:
        stream = Stream(Path(name, "run"), {})
        stream.until_ready()
        recorder = stream.recorder(CAPACITY, populate=True)
        before, n = reaped_cpu_ns() + kernel.cpu_time_ns(stream.child.pid), 0
        began = due = time.monotonic()
        while due < began + seconds:
            batch = next(batches)
            n += len(batch) // 5
            recorder.stage(batch)
            recorder.settle()
            due += len(batch) / 5 / rate
            time.sleep(max(due - time.monotonic(), 0))
        took = time.monotonic() - began
        ending = time.monotonic()
        stream.finish({})
        ended = time.monotonic() - ending
        stored = recording.open(stream.folder)
        n_bytes = sum(path.stat().st_size for path in stored.files)
        us = (reaped_cpu_ns() - before) / len(stored) / 1000
        print(n / took, stored.lost, n_bytes / len(stored), us, ended)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
