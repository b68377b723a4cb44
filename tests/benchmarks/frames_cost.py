"""Ten million events to the events frame: print the seconds and the peak of memory.

The peak is a multiple of the recording's buffer, the buffer included. It is that of the
whole process, so this runs in a process of its own.
"""

import resource
import time

import numpy as np

from epolllab import Recording
from epolllab.events import FIELDS, Op

N = 10_000_000


def synthetic(n: int) -> Recording:
    """A recording like that of a busy server: a wait, then ready, recv, handle, send."""
    array = np.zeros(n, dtype=np.dtype(list(FIELDS)))
    array["start_ns"] = np.arange(n) * 1000
    array["end_ns"] = array["start_ns"] + 800
    array["wake"] = np.arange(n) // 41 + 1
    array["conn"] = np.arange(n) % 50 + 1
    array["fd"] = array["conn"] + 10
    array["op"] = np.array([Op.READY, Op.RECV, Op.HANDLE, Op.SEND], dtype="u2")[np.arange(n) % 4]
    array["op"][::41] = Op.WAIT
    array["mask"][array["op"] == Op.READY] = 1
    array["result"] = 100
    array["result"][::1000] = -11
    return Recording(array.tobytes())


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Make the recording and its frame; print the cost."""
    synthetic(1000).events()  # imports
    before = peak_bytes()
    recording = repeated(synthetic(100_000), N // 100_000)
    start = time.perf_counter()
    frame = recording.events()
    seconds = time.perf_counter() - start
    assert len(frame) == N
    print(seconds, (peak_bytes() - before) / len(recording.rows))


def repeated(recording: Recording, times: int) -> Recording:
    """Repeat the events: a large recording without a second buffer."""
    return Recording(recording.rows * times)


if __name__ == "__main__":
    main()
