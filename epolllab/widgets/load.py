"""Clients that run in the background, in rounds of two seconds, until they are stopped.

The load also stops by itself after a minute, so that a page that is closed leaves none.
"""

import math
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from epolllab import clients
from epolllab.checks import check_int
from epolllab.clients.result import Run, milliseconds
from epolllab.clients.script import script
from epolllab.server.server import Server

__all__ = ["Load", "LoadOptions", "RateCheck", "run_slow_peers"]

ROUND_S = 2.0
FIRST_ROUND_S = 0.25
LEAST_ROUND_S = 0.05
HIGH_RATE = 1_000
MAX_DURATION_S = 60.0
"""Seconds after which a load stops by itself."""

MAX_CONNECTIONS = 1_000
MAX_RATE = 1_000_000
MAX_PAYLOAD = 1 << 20


@dataclass(frozen=True)
class LoadOptions:
    """Options of the clients; checked before anything starts."""

    connections: int = 20
    rate: int | None = None
    """Requests per second; None for a closed loop."""
    payload: int = 0
    """Bytes that each request carries; for http and echo."""
    slow_peers: int = 0
    """Number of peers that send a request a byte at a time, beside the clients."""

    def __post_init__(self) -> None:
        check_int("connections", self.connections, 1, MAX_CONNECTIONS)
        check_int("payload", self.payload, 0, MAX_PAYLOAD)
        check_int("slow_peers", self.slow_peers, 0, MAX_CONNECTIONS)
        if self.rate is not None:
            check_int("rate", self.rate, 1, MAX_RATE)

    def rounds(self) -> Callable[[Server], Run]:
        """A function that runs one round after another, each of about two seconds.

        All requests of a round are sent, however long that takes. So the first round of a
        high rate is short, and the ones after it have the requests that two seconds suffice for.
        """
        duration = FIRST_ROUND_S if (self.rate or 0) >= HIGH_RATE else ROUND_S

        def run_round(server: Server) -> Run:
            nonlocal duration
            run = self.run_round(server, duration)
            if self.rate is not None:
                reached = float(run.summary()["requests_per_s"])
                share = reached / self.rate if math.isfinite(reached) else 1.0
                duration = max(ROUND_S * min(share, 1.0), LEAST_ROUND_S)
            return run

        return run_round

    def run_round(self, server: Server, duration: float = ROUND_S) -> Run:
        """Run the clients for one round, of so many seconds if the rate is reached."""
        keep_alive = server.options.protocol in ("http", "echo")  # hello closes
        return clients.run_clients(
            server,
            connections=self.connections,
            duration=duration,
            rate=self.rate,
            keep_alive=keep_alive,
            payload=bytes(self.payload) if self.payload and keep_alive else None,
            progress=False,
            record=False,
            timeout=5.0,
        )


def run_slow_peers(server: Server, peers: int) -> Run:
    """Run peers that send a request a byte at a time, which takes about a second."""
    if server.options.protocol == "echo":
        steps = script().send_slowly(b"slow" * 5, every=0.05).expect(20)
    else:
        steps = script().send_slowly(b"GET / HTTP/1.0\r\n\r\n", every=0.05).expect_end()
    return clients.run_clients(
        server, script=steps, connections=peers, progress=False, record=False, timeout=5.0
    )


class RateCheck:
    """Compares the server's requests with the rate that its clients are to reach.

    A round's own notes come when it ends, which may be late for a rate that is far too high.
    ``warning`` is set half a second after the first request; "" if the rate is about reached.
    """

    SPAN_S = 0.4
    NO_RESPONSE_S = 0.9

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.warning = ""
        self._seen: list[tuple[float, int]] = []
        """The time and the server's requests when the clients began, and at their first."""
        self._decided = False

    def see(self, t_s: float, requests: int) -> None:
        """Read the server's number of requests at a time."""
        if self._decided or (self._seen and requests < self._seen[-1][1]):
            return
        if not self._seen or (len(self._seen) == 1 and requests > self._seen[0][1]):
            self._seen.append((t_s, requests))
            self.warning = ""
        begin_s, before = self._seen[-1]
        if len(self._seen) == 1:
            if t_s - begin_s >= self.NO_RESPONSE_S:
                self.warning = "no response yet"
        elif t_s - begin_s >= self.SPAN_S:
            self._decided = True
            self.warning = self._compare((requests - before) / (t_s - begin_s), t_s - begin_s)

    def _compare(self, reached: float, span_s: float) -> str:
        # Requests arrive at random times: three standard deviations fewer are no sign.
        least = 0.9 * self.rate - 3 * math.sqrt(self.rate / span_s)
        if reached >= least:
            return ""
        return (
            f"reaches {reached:,.0f} of {self.rate:,} requests/s; the reason follows when the "
            "round ends"
        )


class Load:
    """Rounds of clients in a thread, until :meth:`stop` or for `max_duration` seconds.

    ``run_round(server)`` runs one round. ``rounds`` is the number of complete rounds and
    ``last`` the last one; ``summary`` describes it, in a line of numbers and then its notes.
    ``error`` is the traceback of an error that ended the load.
    """

    def __init__(
        self,
        server: Server,
        run_round: Callable[[Server], Run],
        max_duration: float = MAX_DURATION_S,
    ) -> None:
        self.last: Run | None = None
        self.summary: list[str] = []
        self.rounds = 0
        self.error: str | None = None
        self._deadline = time.monotonic() + max_duration
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(server, run_round), name="epolllab-load", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether a round is running; after a stop, until the round ends."""
        return self._thread.is_alive()

    @property
    def state(self) -> str:
        """What it does: "running", "stopping" or "done"."""
        if not self.running:
            return "done"
        return "stopping" if self._end.is_set() else "running"

    def stop(self) -> None:
        """Start no further round; the current one takes up to two seconds."""
        self._end.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the last round to end."""
        self._thread.join(timeout)

    def _run(self, server: Server, run_round: Callable[[Server], Run]) -> None:
        try:
            while (
                server.is_running and not self._end.is_set() and time.monotonic() < self._deadline
            ):
                run = run_round(server)
                self.summary = _summary(run)
                self.last = run
                self.rounds += 1
        except Exception:
            self.error = traceback.format_exc()


def _summary(run: Run) -> list[str]:
    sums = run.summary()
    latency = ", ".join(f"{name} {milliseconds(sums[f'{name}_us'])}" for name in ("p50", "p99"))
    asked = f" of {sums['asked_per_s']:,.0f} requested" if "asked_per_s" in sums else ""
    rate = f"{sums['requests_per_s']:,.0f} requests/s{asked}"
    cpu = f"the clients used {sums['client_cpu']:.0%} of a core"
    return [f"{rate}, {latency}, {sums['failed']:,} failed; {cpu}", *run.notes]
