"""A pulse: one thread that calls a function ten times a second, and knows what it costs.

One job: keep time. It knows no widget. The thread is a daemon, ends within one interval
of :meth:`Ticker.stop`, and an exception in the function ends nothing: it is handed on.
"""

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
FASTEST_S = 1 / 30  # a browser that gets more falls behind, and then stands still
WINDOW_S = 3.0
"""How far back the cost is looked at."""


class Ticker:
    """Call `tick` again and again in a thread of its own.

    Parameters
    ----------
    tick : callable
        What to do; short.
    on_error : callable
        Given the traceback of what `tick` raised; called once for the same text.
    interval : float
        Seconds from one call to the next; at least a thirtieth.
    """

    def __init__(
        self,
        tick: Callable[[], object],
        on_error: Callable[[str], object],
        interval: float = INTERVAL_S,
    ) -> None:
        self.interval = max(interval, FASTEST_S)
        self.n_ticks = 0
        self._tick = tick
        self._on_error = on_error
        self._lock = threading.Lock()
        self._end: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._spent: deque[tuple[float, int]] = deque()
        _all.add(self)

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def cost(self) -> float:
        """Share of one core spent lately on ticks and on sending what they showed.

        CPU time, of the ticking thread and of the thread of the notebook's kernel that
        sends messages to the front end, over the last three seconds; NaN before there
        are two ticks.
        """
        spent = list(self._spent)
        if len(spent) < 2 or spent[-1][0] <= spent[0][0]:
            return float("nan")
        (begin, before), (end, after) = spent[0], spent[-1]
        return (after - before) / 1e9 / (end - begin)

    def start(self) -> None:
        """Begin; nothing if it has begun."""
        with self._lock:
            if self.running:
                return
            self._spent = deque()  # a new one: an earlier thread may be at its last tick
            self._end = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._end, self._spent), name="epolllab-ticker", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End, and wait for the thread; any number of times, also from within a tick."""
        with self._lock:
            thread, self._thread = self._thread, None
            if self._end is not None:
                self._end.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self, end: threading.Event, spent: deque[tuple[float, int]]) -> None:
        said = ""
        due = time.monotonic()
        while not end.is_set():
            try:
                self._tick()
                said = ""
            except Exception:  # the display must go on, and must say so
                text = traceback.format_exc()
                if text != said:
                    said = text
                    with suppress(Exception):
                        self._on_error(text)
            self.n_ticks += 1
            _note_cost(spent)
            # A tick that took too long is not made up for.
            due = max(due + self.interval, time.monotonic())
            end.wait(due - time.monotonic())


def _note_cost(spent: deque[tuple[float, int]]) -> None:
    now = time.monotonic()
    spent.append((now, time.thread_time_ns() + _sender_cpu_ns()))
    while spent[0][0] < now - WINDOW_S:
        spent.popleft()


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
    """Let no thread draw while the interpreter is taken down."""
    for ticker in list(_all):
        ticker.stop()
