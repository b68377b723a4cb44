"""Several processes at one listener: which are woken, which gets the connection, which wait.

The workers' code is in ``workers.herd``. Wakeups are counted as context switches, because a
worker that is woken in vain finds the queue empty inside the kernel and goes back to sleep
there: its epoll_wait does not return. Each such worker gives up the processor once, which
/proc/PID/status counts.
"""

import select
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple, Self

import pandas as pd

from epolllab import kernel
from epolllab.checks import check_bool, check_int, check_sizes
from epolllab.child import START_S, Child, HeldInterrupts
from epolllab.experiments.comparisons.collect import Describe, Row, Rows, choose, collect
from epolllab.experiments.rounds import MOST_OPS
from epolllab.experiments.workers import herd
from epolllab.kernel.waiting import PATIENCE_S, until_all_asleep

__all__ = [
    "ARMS",
    "WOKEN",
    "Herd",
    "accept_balance",
    "is_woken",
    "latency_tails",
    "thundering_herd",
]

WOKEN: dict[str, Callable[[int], int]] = {
    "level": lambda n: n,
    "edge": lambda n: n,
    "exclusive": lambda n: 1,
    "shared level": lambda n: 2,
    "shared edge": lambda n: 1,
    "blocking accept": lambda n: 1,
    "reuseport": lambda n: 1,
}
"""Workers woken per connection when all `n` sleep, by arm; for shared level the least, since
each woken worker wakes one more until the connection has been accepted."""

ARMS = tuple(WOKEN)
"""Ways to share a listener: an epoll per worker (level, edge, EPOLLEXCLUSIVE), one epoll
that all inherit (level, edge), accept(2) without epoll, and a listener per worker."""

TAIL_ARMS = ("exclusive", "reuseport", "blocking accept")
"""The ways that :func:`latency_tails` compares."""


def is_woken(arm: str, n: int, seen: float) -> bool:
    """Return whether as many workers were woken per connection as expected, within a quarter."""
    least = most = WOKEN[arm](n)
    if arm == "shared level":
        most = max(n, least)
    return 0.75 * least <= seen <= 1.25 * most


class Counts(NamedTuple):
    """The result of one arm."""

    order: list[int]
    """The worker that took each connection, in order of connecting."""
    voluntary: int
    """Voluntary context switches of all workers."""
    returned: int
    """Waits that returned in a worker."""
    blocked: int
    """accept calls that found no connection."""


class Herd:
    """Worker processes at a listener; a context manager.

    Parameters
    ----------
    n_workers : int
        Number of processes. They are started once and serve one arm after the other.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self._open = ExitStack()
        # Descriptors are inherited when a process starts, so those of all arms are opened first.
        self._listeners = {arm: self._listen(arm) for arm in ARMS}
        self._epolls = {arm: self._shared_epoll(arm) for arm in ARMS if arm.startswith("shared")}
        fds = [sock.fileno() for socks in self._listeners.values() for sock in socks]
        fds += [epoll.fileno() for epoll in self._epolls.values()]
        self.workers: list[Child] = []
        try:
            for _ in range(n_workers):
                with HeldInterrupts():
                    worker = Child("epolllab.experiments.workers.herd:accept_connections", fds=fds)
                    self.workers.append(worker)
                    self._open.callback(worker.close)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Close all connections first, so that the workers end at the same time.
        for worker in self.workers:
            worker.connection.close()
        self._open.close()

    def _listen(self, arm: str) -> list[socket.socket]:
        address = ("127.0.0.1", 0)
        found = []
        for _ in range(self.n_workers if arm == "reuseport" else 1):
            sock = self._open.enter_context(socket.socket())
            if arm == "reuseport":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            sock.listen(1024)
            address = sock.getsockname()
            found.append(sock)
        return found

    def _shared_epoll(self, arm: str) -> select.epoll:
        epoll = self._open.enter_context(select.epoll())
        epoll.register(self._listeners[arm][0], herd.FLAGS[arm])
        return epoll

    def port(self, arm: str) -> int:
        """Return the port of the arm's listener."""
        port: int = self._listeners[arm][0].getsockname()[1]
        return port

    def begin(self, arm: str, burn_ns: int = 0) -> None:
        """Let all workers serve an arm; return when they sleep in it."""
        epfd = self._epolls[arm].fileno() if arm in self._epolls else -1
        listeners = self._listeners[arm]
        for number, worker in enumerate(self.workers):
            listening = listeners[number % len(listeners)].fileno()
            worker.send((number, arm, listening, epfd, burn_ns))
        for worker in self.workers:
            worker.receive(START_S)
        self.settle()

    def settle(self) -> None:
        """Wait until all workers sleep in the kernel at the same moment."""
        until_all_asleep([(worker.pid, worker.pid) for worker in self.workers])

    def connect(self, arm: str) -> int:
        """Connect once; return the number of the worker that responded."""
        with socket.create_connection(("127.0.0.1", self.port(arm)), PATIENCE_S) as sock:
            return sock.recv(1)[0]

    def finish(self, arm: str) -> list[tuple[int, int, int]]:
        """End the arm by shutting down its listeners; return each worker's counts."""
        for sock in self._listeners[arm]:
            sock.shutdown(socket.SHUT_RDWR)
        return [worker.receive(PATIENCE_S) for worker in self.workers]

    def voluntary(self) -> int:
        """Return the voluntary context switches of all workers' main threads."""
        return sum(
            kernel.context_switches(worker.pid, worker.pid).voluntary for worker in self.workers
        )

    def run(self, arm: str, n_connects: int) -> Counts:
        """Connect repeatedly, each time when all workers sleep.

        Each arm can be run once, since shutting down its listener ends it.
        """
        self.begin(arm)
        before = self.voluntary()
        order = []
        for _ in range(n_connects):
            order.append(self.connect(arm))
            self.settle()
        voluntary = self.voluntary() - before
        returned, _, blocked = map(sum, zip(*self.finish(arm), strict=True))
        return Counts(order, voluntary, returned, blocked)


def _check(workers: int | Sequence[int], progress: bool, **counts: int) -> list[int]:
    """Check the parameters that the comparisons share; return the numbers of workers."""
    check_bool("progress", progress)
    for name, value in counts.items():
        check_int(name, value, 1, MOST_OPS)
    return list(check_sizes("workers", workers, most=250))


def _measure_arms(
    numbers: Sequence[int],
    arms: Sequence[str],
    run: Callable[[Herd, str], Sequence[Row]],
    columns: Mapping[str, Any],
    progress: bool,
    **parameters: Any,
) -> pd.DataFrame:
    """Run each arm with each number of workers; collect its rows."""

    def measure(describe: Describe) -> Rows:
        for number in numbers:
            with Herd(number) as workers:
                for arm in arms:
                    describe(f"{arm}, {number} workers")
                    yield run(workers, arm)

    total = len(numbers) * len(arms)
    return collect(measure, columns, total=total, unit="arm", progress=progress, **parameters)


def thundering_herd(
    *,
    workers: int | Sequence[int] = (4, 16),
    connects: int = 100,
    arms: Iterable[str] = ARMS,
    progress: bool = True,
) -> pd.DataFrame:
    """Count the processes that one connection wakes, for each way of sharing a listener.

    All workers sleep when a connection arrives; the voluntary context switches until
    they all sleep again are counted. The kernel wakes every epoll that watches the
    listener, unless EPOLLEXCLUSIVE prevents it: epoll_ctl(2) promises that it wakes "one
    or more". Of several waiters on one epoll it wakes one. With level, each woken worker
    wakes the next until the connection has been accepted: two at least, and no fixed number.

    Parameters
    ----------
    workers : int or sequence of int
        Processes at the listener.
    connects : int
        Connections in each arm, one after the other.
    arms : iterable of str
        Some of :data:`ARMS`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        A row for each arm and number of workers: ``arm`` (category), ``n_workers``
        (int32), ``n_connects`` (int32), ``voluntary`` (int64, context switches of all
        workers), ``voluntary_per_connect`` (float64), ``expected_per_connect``
        (int32), ``returned`` (int64, waits that returned), ``would_block`` (int64,
        accepts that found no connection). ``attrs`` as for :func:`level_against_edge`.
    """
    numbers = _check(workers, progress, connects=connects)

    def run(workers: Herd, arm: str) -> list[tuple[Any, ...]]:
        _, voluntary, returned, blocked = workers.run(arm, connects)
        n = workers.n_workers
        woken = (voluntary, voluntary / connects, WOKEN[arm](n))
        return [(arm, n, connects, *woken, returned, blocked)]

    columns = {
        "arm": pd.CategoricalDtype(list(ARMS)),
        **dict.fromkeys(("n_workers", "n_connects"), "int32"),
        "voluntary": "int64",
        "voluntary_per_connect": "float64",
        "expected_per_connect": "int32",
        **dict.fromkeys(("returned", "would_block"), "int64"),
    }
    chosen = choose("arms", arms, ARMS)
    return _measure_arms(
        numbers, chosen, run, columns, progress, workers=numbers, connects=connects
    )


def accept_balance(
    *,
    workers: int = 4,
    connects: int = 300,
    arms: Iterable[str] = ("blocking accept", "exclusive", "reuseport"),
    progress: bool = True,
) -> pd.DataFrame:
    """Record which of several idle processes gets each connection.

    Workers that sleep in accept(2) form a queue, and the first to sleep is woken first.
    Epolls with EPOLLEXCLUSIVE are asked in the order in which they were registered,
    whichever worker fell asleep first, so the first idle one of them gets the connection.
    With SO_REUSEPORT the kernel chooses a listener by a hash of the connection's
    addresses, whether its worker is busy or not.

    Parameters
    ----------
    workers, connects, arms, progress
        As for :func:`thundering_herd`.

    Returns
    -------
    pandas.DataFrame
        A row per connection, in order: ``arm`` (category), ``connect`` (int32, from
        0), ``worker`` (int32, from 0).

    Notes
    -----
    ``literature.published_balance()`` has Cloudflare's results of the same experiment.
    """
    numbers = _check(workers, progress, connects=connects)

    def run(workers: Herd, arm: str) -> list[tuple[Any, ...]]:
        order = workers.run(arm, connects).order
        return [(arm, number, worker) for number, worker in enumerate(order)]

    columns = {"arm": pd.CategoricalDtype(list(ARMS)), "connect": "int32", "worker": "int32"}
    chosen = choose("arms", arms, ARMS)
    return _measure_arms(
        numbers, chosen, run, columns, progress, workers=workers, connects=connects
    )


def latency_tails(
    *,
    workers: int = 4,
    connections: int = 40,
    requests: int = 2000,
    service_us: int = 200,
    arms: Iterable[str] = ("exclusive", "reuseport"),
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how long connections wait with one queue for all workers, and with one for each.

    Any free worker takes from a common queue. With SO_REUSEPORT a connection that was
    assigned to a busy worker waits although another is idle: the mean is the same and the
    tail is longer.

    Parameters
    ----------
    workers, progress
        As for :func:`thundering_herd`.
    connections : int
        Open at any time, from one client process; one request each.
    requests : int
        Total for each arm.
    service_us : int
        Processor time a worker spends on a request, in microseconds.
    arms : iterable of str
        Some of ``"exclusive"`` (one queue), ``"reuseport"`` (a queue for each) and
        ``"blocking accept"`` (one queue).

    Returns
    -------
    pandas.DataFrame
        A row per request in order of completion: ``arm`` (category), ``worker`` (int32,
        -1 if the connection failed), ``latency_ns`` (int64, from the connect to the end
        of the response).

    Notes
    -----
    The workers compete for the processors, so on a machine with fewer of them than
    workers the numbers also reflect the scheduler. ``literature.published_tails()`` has
    Cloudflare's results for 12 workers.
    """
    numbers = _check(workers, progress, requests=requests)
    check_int("connections", connections, 1, 250)
    check_int("service_us", service_us, 0, 10_000_000)

    def run(workers: Herd, arm: str) -> list[tuple[Any, ...]]:
        with closing(Child("epolllab.experiments.workers.herd:connect_load")) as client:
            workers.begin(arm, service_us * 1000)
            client.send((workers.port(arm), connections, requests))
            latencies, numbers = client.receive()
        workers.finish(arm)
        pairs = zip(memoryview(numbers).cast("b"), memoryview(latencies).cast("q"), strict=True)
        return [(arm, worker, ns) for worker, ns in pairs]

    columns = {
        "arm": pd.CategoricalDtype(list(TAIL_ARMS)),
        "worker": "int32",
        "latency_ns": "int64",
    }
    chosen = choose("arms", arms, TAIL_ARMS)
    return _measure_arms(
        numbers, chosen, run, columns, progress, workers=workers, connections=connections
    )
