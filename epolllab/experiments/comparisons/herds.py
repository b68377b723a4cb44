"""Several processes at one listener: who is woken, who gets the connection, who waits.

One job: run worker processes at a listener in each of the ways there are, and count.
What the workers do is in ``hands``; what the counts mean is told by the phenomena and
the charts.

Why context switches: a worker that is woken in vain finds the queue empty inside the
kernel and goes back to sleep there; its epoll_wait never returns, so that counting
returns sees nothing of the herd. Each such worker gives up the processor once, and
/proc/PID/status counts that.
"""

import select
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from epolllab import kernel
from epolllab.checks import check_choice, check_int
from epolllab.child import Child
from epolllab.experiments.workers import herd
from epolllab.kernel.waiting import PATIENCE_S, until_asleep
from epolllab.recording import environment

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ARMS", "Herd", "accept_balance", "latency_tails", "thundering_herd"]


ARMS = (
    "level",
    "edge",
    "exclusive",
    "shared level",
    "shared edge",
    "blocking accept",
    "reuseport",
)
"""The ways: an epoll for each worker (level, edge, EPOLLEXCLUSIVE), one epoll that all
inherit (level, edge), accept(2) without epoll, and a listener for each worker."""


WOKEN: dict[str, Callable[[int], int]] = {
    "level": lambda n: n,
    "edge": lambda n: n,
    "exclusive": lambda n: 1,
    "shared level": lambda n: 2,
    "shared edge": lambda n: 1,
    "blocking accept": lambda n: 1,
    "reuseport": lambda n: 1,
}
"""Workers woken per connection when all `n` sleep, by arm. Exact except for shared level:
each worker woken before the connection has been accepted wakes one more."""


def is_woken(arm: str, n: int, seen: float) -> bool:
    """Whether so many were woken per connection as is expected, within a quarter."""
    least = most = WOKEN[arm](n)
    if arm == "shared level":
        most = max(n, least)
    return 0.75 * least <= seen <= 1.25 * most


class Counts(NamedTuple):
    """What came of one arm."""

    order: list[int]
    """The worker that took each connection, in order of connecting."""
    voluntary: int
    """Times a worker gave up the processor by itself, over all workers."""
    returned: int
    """Waits that returned in a worker."""
    blocked: int
    """accept calls that found nothing."""


class Herd:
    """Worker processes at a listener; a context manager.

    Parameters
    ----------
    n_workers : int
        Processes. They are started once and serve one arm after the other.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self._open = ExitStack()
        # Descriptors are inherited when a process starts, so all arms' are opened first.
        self._listeners = {arm: self._listening(arm) for arm in ARMS}
        self._epolls = {arm: self._shared(arm) for arm in ARMS if arm.startswith("shared")}
        fds = [sock.fileno() for socks in self._listeners.values() for sock in socks]
        fds += [epoll.fileno() for epoll in self._epolls.values()]
        self.workers: list[Child] = []
        try:
            for _ in range(n_workers):
                worker = Child("epolllab.experiments.workers.herd:accept_connections", fds=fds)
                self.workers.append(worker)
                self._open.callback(worker.close)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # All let go at once, so that their ends overlap.
        for worker in self.workers:
            worker.connection.close()
        self._open.close()

    def _listening(self, arm: str) -> list[socket.socket]:
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

    def _shared(self, arm: str) -> select.epoll:
        epoll = self._open.enter_context(select.epoll())
        epoll.register(self._listeners[arm][0], herd.FLAGS[arm])
        return epoll

    def port(self, arm: str) -> int:
        """The port of the arm's listener."""
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
            worker.receive(PATIENCE_S)
        self.settle()

    def settle(self) -> None:
        """Wait until every worker sleeps in the kernel."""
        for worker in self.workers:
            until_asleep(worker.pid)

    def connect(self, arm: str) -> int:
        """Connect once, and return the number of the worker that answered."""
        with socket.create_connection(("127.0.0.1", self.port(arm)), PATIENCE_S) as sock:
            return sock.recv(1)[0]

    def end(self, arm: str) -> list[tuple[int, int, int]]:
        """End the arm by shutting its listeners; each worker's counts."""
        for sock in self._listeners[arm]:
            sock.shutdown(socket.SHUT_RDWR)
        return [worker.receive(PATIENCE_S) for worker in self.workers]

    def voluntary(self) -> int:
        """Voluntary context switches of all workers' first threads."""
        return sum(
            kernel.context_switches(worker.pid, worker.pid).voluntary for worker in self.workers
        )

    def run(self, arm: str, n_connects: int) -> Counts:
        """Connect again and again, each time to a herd that is wholly asleep.

        An arm can be run once in a herd's life: its end is the end of its listener.
        """
        self.begin(arm)
        before = self.voluntary()
        order = []
        for _ in range(n_connects):
            order.append(self.connect(arm))
            self.settle()
        voluntary = self.voluntary() - before
        counts = self.end(arm)
        return Counts(
            order, voluntary, sum(count[0] for count in counts), sum(count[2] for count in counts)
        )


def _arms(arms: Iterable[str], allowed: Sequence[str]) -> list[str]:
    chosen = [arms] if isinstance(arms, str) else list(arms)
    for arm in chosen:
        check_choice("arms", arm, allowed)
    return list(dict.fromkeys(chosen))


def thundering_herd(
    *,
    workers: int | Sequence[int] = (4, 16),
    connects: int = 100,
    arms: Iterable[str] = ARMS,
    progress: bool = True,
) -> "pd.DataFrame":
    """How many processes wake for one connection, in each way of sharing a listener.

    All workers sleep when a connection comes; the voluntary context switches until
    they all sleep again are counted. The kernel wakes every epoll that watches the
    listener, unless EPOLLEXCLUSIVE forbids it; of several waiters at one epoll it
    wakes one, and with level a second, since the listener is still readable; on a busy
    machine also a third, if the second looks before the first has accepted.

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
        accepts that found nothing). ``attrs["circumstances"]`` and
        ``attrs["interrupted"]`` as with :func:`run_all`.

    Raises
    ------
    ValueError, TypeError
        An arm or number that makes no sense, before anything starts.
    """
    import pandas as pd

    numbers = [workers] if isinstance(workers, int) else list(workers)
    for number in numbers:
        check_int("workers", number, 1, 250)
    check_int("connects", connects, 1)
    chosen = _arms(arms, ARMS)
    rows: list[tuple[Any, ...]] = []

    def measure(herd: Herd, arm: str) -> None:
        counts = herd.run(arm, connects)
        n = herd.n_workers
        rows.append(
            (
                arm,
                n,
                connects,
                counts.voluntary,
                counts.voluntary / connects,
                WOKEN[arm](n),
                counts.returned,
                counts.blocked,
            )
        )

    interrupted = _over_arms(numbers, chosen, measure, progress)
    columns = {
        "arm": pd.CategoricalDtype(list(ARMS)),
        "n_workers": "int32",
        "n_connects": "int32",
        "voluntary": "int64",
        "voluntary_per_connect": "float64",
        "expected_per_connect": "int32",
        "returned": "int64",
        "would_block": "int64",
    }
    return _frame(rows, columns, interrupted, workers=numbers, connects=connects)


def accept_balance(
    *,
    workers: int = 4,
    connects: int = 300,
    arms: Iterable[str] = ("blocking accept", "exclusive", "reuseport"),
    progress: bool = True,
) -> "pd.DataFrame":
    """Which of several idle processes gets each connection.

    Sleepers in accept(2) queue up, and the first to sleep is the first woken. A wait
    with EPOLLEXCLUSIVE goes to the head of its queue, so the last to sleep is woken
    again and again. With SO_REUSEPORT the kernel chooses a listener by a hash of the
    connection's addresses, whoever is busy.

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
    ``literature.published_balance()`` has what Cloudflare published of the same experiment.
    """
    import pandas as pd

    check_int("workers", workers, 1, 250)
    check_int("connects", connects, 1)
    chosen = _arms(arms, ARMS)
    rows: list[tuple[Any, ...]] = []

    def measure(herd: Herd, arm: str) -> None:
        order = herd.run(arm, connects).order
        rows.extend((arm, number, worker) for number, worker in enumerate(order))

    interrupted = _over_arms([workers], chosen, measure, progress)
    columns = {"arm": pd.CategoricalDtype(list(ARMS)), "connect": "int32", "worker": "int32"}
    return _frame(rows, columns, interrupted, workers=workers, connects=connects)


TAIL_ARMS = ("exclusive", "reuseport", "blocking accept")


def latency_tails(
    *,
    workers: int = 4,
    connections: int = 40,
    requests: int = 2000,
    service_us: int = 200,
    arms: Iterable[str] = ("exclusive", "reuseport"),
    progress: bool = True,
) -> "pd.DataFrame":
    """How long connections wait with one queue for all workers, and with one for each.

    One queue is drained by whoever is free. With SO_REUSEPORT a connection that was
    given to a busy worker waits, though another is idle: the mean is the same and the
    tail is longer.

    Parameters
    ----------
    workers : int
        Processes that serve.
    connections : int
        Kept going at any time by one client process; a request each.
    requests : int
        In all, for each arm.
    service_us : int
        Processor time a worker spends on a request, in microseconds.
    arms : iterable of str
        Some of ``"exclusive"`` (one queue), ``"reuseport"`` (a queue for each) and
        ``"blocking accept"`` (one queue).
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        A row per request in order of its end: ``arm`` (category), ``worker`` (int32,
        -1 where the connection failed), ``latency_ns`` (int64, from the connect to
        the end of the answer).

    Notes
    -----
    The workers compete for the processors, so on a machine with fewer of them than
    workers the numbers tell of the scheduler as well. ``literature.published_tails()`` has
    what Cloudflare published for 12 workers.
    """
    import numpy as np
    import pandas as pd

    for name, value in (("workers", workers), ("connections", connections)):
        check_int(name, value, 1, 250)
    check_int("requests", requests, 1)
    check_int("service_us", service_us, 0)
    chosen = _arms(arms, TAIL_ARMS)
    parts: list[pd.DataFrame] = []

    def measure(herd: Herd, arm: str) -> None:
        client = Child("epolllab.experiments.workers.herd:connect_load")
        try:
            herd.begin(arm, service_us * 1000)
            client.send((herd.port(arm), connections, requests))
            latencies, served_by = client.receive()
        finally:
            client.close()
        herd.end(arm)
        parts.append(
            pd.DataFrame(
                {
                    "arm": pd.Categorical([arm] * requests, list(TAIL_ARMS)),
                    "worker": np.frombuffer(served_by, "i1").astype("int32"),
                    "latency_ns": np.frombuffer(latencies, "i8"),
                }
            )
        )

    interrupted = _over_arms([workers], chosen, measure, progress)
    columns = {
        "arm": pd.CategoricalDtype(list(TAIL_ARMS)),
        "worker": "int32",
        "latency_ns": "int64",
    }
    empty = _frame([], columns, interrupted, workers=workers, connections=connections)
    if not parts:
        return empty
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs = empty.attrs
    return frame


def _over_arms(
    numbers: Sequence[int],
    arms: Sequence[str],
    measure: Callable[[Herd, str], None],
    progress: bool,
) -> bool:
    """Measure each arm with each number of workers; whether an interrupt ended it early."""
    from tqdm.auto import tqdm

    with tqdm(total=len(numbers) * len(arms), unit="arm", disable=not progress) as bar:
        try:
            for number in numbers:
                with Herd(number) as herd:
                    for arm in arms:
                        bar.set_postfix_str(f"{arm}, {number} workers")
                        measure(herd, arm)
                        bar.update()
        except KeyboardInterrupt:
            return True
    return False


def _frame(
    rows: list[tuple[Any, ...]], columns: dict[str, Any], interrupted: bool, **parameters: Any
) -> "pd.DataFrame":
    """Rows as a frame of fixed dtypes, with the circumstances."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns)).astype(columns)
    frame.attrs = {
        "circumstances": environment.collect(**parameters),
        "interrupted": interrupted,
    }
    return frame
