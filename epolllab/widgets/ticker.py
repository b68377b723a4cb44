"""A thread that calls a function ten times a second and measures what that costs."""

import atexit
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from epolllab import kernel

__all__ = ["INTERVAL_S", "Ticker"]

INTERVAL_S = 0.1
MIN_INTERVAL_S = 1 / 30  # a browser that receives more falls behind until it stops redrawing
COST_WINDOW_S = 3.0


class Ticker:
    """Call `tick` every `interval` seconds in a daemon thread.

    An exception in `tick` does not end the thread: `on_error` is called with its traceback,
    once for repeats of the same. The interval is at least a thirtieth of a second.
    """

    def __init__(
        self,
        tick: Callable[[], object],
        on_error: Callable[[str], object],
        interval: float = INTERVAL_S,
    ) -> None:
        self.interval = max(interval, MIN_INTERVAL_S)
        self.n_ticks = 0
        self._tick = tick
        self._on_error = on_error
        self._lock = threading.Lock()
        self._end: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._cpu_ns: deque[tuple[float, int]] = deque()
        _all.add(self)

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def cost(self) -> float:
        """CPU time of the display over the last three seconds, as a share of one core.

        Counts the ticking thread and the notebook kernel's thread that sends messages to
        the front end. NaN before there are two ticks.
        """
        samples = list(self._cpu_ns)
        if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
            return float("nan")
        (begin, before), (end, after) = samples[0], samples[-1]
        return (after - before) / 1e9 / (end - begin)

    def start(self) -> None:
        """Start the thread unless it runs."""
        with self._lock:
            if self.running:
                return
            self._cpu_ns = deque()  # a new one: the previous thread may still add to its own
            self._end = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._end, self._cpu_ns), name="epolllab-ticker",
                daemon=True,
            )  # fmt: skip
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it; may be called repeatedly and from a tick."""
        with self._lock:
            thread, self._thread = self._thread, None
            if self._end is not None:
                self._end.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self, end: threading.Event, cpu_ns: deque[tuple[float, int]]) -> None:
        reported = ""
        due = time.monotonic()
        while not end.is_set():
            try:
                self._tick()
                reported = ""
            except Exception:  # shown in the display, which goes on
                text = traceback.format_exc()
                if text != reported:
                    reported = text
                    with suppress(Exception):
                        self._on_error(text)
            self.n_ticks += 1
            _sample_cpu(cpu_ns)
            # After a tick that took too long, none is made up for.
            due = max(due + self.interval, time.monotonic())
            end.wait(due - time.monotonic())


def _sample_cpu(samples: deque[tuple[float, int]]) -> None:
    now = time.monotonic()
    samples.append((now, time.thread_time_ns() + _sender_cpu_ns()))
    while samples[0][0] < now - COST_WINDOW_S:
        samples.popleft()


def _sender_cpu_ns() -> int:
    """CPU time of the thread that sends a kernel's output; 0 outside a notebook."""
    for thread in threading.enumerate():
        if thread.name == "IOPub" and thread.native_id is not None:
            with suppress(OSError):
                return kernel.cpu_time_ns(tid=thread.native_id)
    return 0


_all: "weakref.WeakSet[Ticker]" = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Stop every ticker before the interpreter is torn down."""
    for ticker in list(_all):
        ticker.stop()
