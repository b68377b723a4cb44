"""A load that goes on until it is told to stop, from processes of its own; no widget.

One job: run clients in rounds of two seconds, one after the other, and keep what the last
round brought home. It ends by itself after a minute, whatever becomes of the page.
"""

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from epolllab import clients
from epolllab.checks import check_int
from epolllab.clients.result import Run
from epolllab.clients.script import script
from epolllab.server.server import Server

__all__ = ["LONGEST_S", "Load", "Wishes", "slowly"]

ROUND_S = 2.0
LONGEST_S = 60.0
"""After which a load ends by itself."""

MOST_CONNECTIONS = 1_000


@dataclass(frozen=True)
class Wishes:
    """What is asked of the clients; checked before anything starts."""

    connections: int = 20
    rate: int | None = None
    """Requests a second, or None for a closed loop."""
    payload: int = 0
    """Bytes that each request carries; for http and echo."""
    keep_alive: bool = True
    slow_peers: int = 0
    """Peers beside them that send a request a byte at a time."""

    def __post_init__(self) -> None:
        check_int("connections", self.connections, 1, MOST_CONNECTIONS)
        check_int("payload", self.payload, 0, 1 << 20)
        check_int("slow peers", self.slow_peers, 0, MOST_CONNECTIONS)
        if self.rate is not None:
            check_int("rate", self.rate, 1, 1_000_000)

    def fire(self, server: Server) -> Run:
        """Run clients for one round."""
        protocol = server.options.protocol
        can_carry = protocol in ("http", "echo")
        return clients.run_clients(
            server,
            connections=self.connections,
            duration=ROUND_S,
            rate=self.rate,
            keep_alive=self.keep_alive and can_carry,
            payload=bytes(self.payload) if self.payload and can_carry else None,
            progress=False,
            record=False,
            timeout=5.0,
        )


def slowly(server: Server, peers: int) -> Run:
    """Let peers ask a byte at a time, about a second long."""
    if server.options.protocol == "echo":
        asked = script().send_slowly(b"slow" * 5, every=0.05).expect(20)
    else:
        asked = script().send_slowly(b"GET / HTTP/1.0\r\n\r\n", every=0.05).expect_end()
    return clients.run_clients(
        server, script=asked, connections=peers, progress=False, record=False, timeout=5.0
    )


class Load:
    """Rounds of clients in a thread, until :meth:`stop`.

    Parameters
    ----------
    server : Server
        Who is asked.
    fire : callable
        ``fire(server)`` runs one round.
    longest : float
        Seconds after which it ends by itself.

    Attributes
    ----------
    last : Run or None
        The last round that is complete.
    rounds : int
        How many are.
    words : list of str
        What there is to say of it, the first line in numbers.
    error : str or None
        The traceback of what ended it, if it was no stop.
    """

    def __init__(
        self, server: Server, fire: Callable[[Server], Run], longest: float = LONGEST_S
    ) -> None:
        self.last: Run | None = None
        self.words: list[str] = []
        self.rounds = 0
        self.error: str | None = None
        self._deadline = time.monotonic() + longest
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(server, fire), name="epolllab-load", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it goes on; a stopped one goes on to the end of its round."""
        return self._thread.is_alive()

    @property
    def ending(self) -> bool:
        """Whether it has been told to stop."""
        return self._end.is_set()

    def stop(self) -> None:
        """Begin no further round; the one under way takes up to two seconds."""
        self._end.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        self._thread.join(timeout)

    def _run(self, server: Server, fire: Callable[[Server], Run]) -> None:
        try:
            while not self._end.is_set() and time.monotonic() < self._deadline:
                if not server.is_running:
                    return
                run = fire(server)
                self.words = _said(run)
                self.last = run
                self.rounds += 1
        except Exception:
            self.error = traceback.format_exc()


def _said(run: Run) -> list[str]:
    sums = run.summary()
    latency = ", ".join(f"{name} {sums[f'{name}_us'] / 1e3:,.2f} ms" for name in ("p50", "p99"))
    asked = f" of {sums['asked_per_s']:,.0f} asked" if "asked_per_s" in sums else ""
    used = f"they used {sums['client_cpu']:.0%} of a core"
    reached = f"{sums['requests_per_s']:,.0f} a second{asked}"
    return [f"{reached}, {latency}, {sums['failed']:,} failed; {used}", *run.notes]
