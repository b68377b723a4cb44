"""Level against edge, on real servers in child processes under the same clients."""

import random
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from epolllab import kernel
from epolllab.analysis.statistics import percentile
from epolllab.checks import check_bool, check_int, check_sequence
from epolllab.child import Child
from epolllab.events import Op
from epolllab.experiments.comparisons.collect import (
    COUNTS,
    Describe,
    Rows,
    choose,
    collect,
    count_calls,
)
from epolllab.experiments.fleet import run_on_workers
from epolllab.experiments.rounds import MOST_OPS
from epolllab.experiments.workers.senders import COLUMNS, SendPlan
from epolllab.kernel.waiting import until_asleep
from epolllab.recording.recording import Recording
from epolllab.server.options import Trigger
from epolllab.server.server import Server, start_server

__all__ = ["ARMS", "CLIENTS", "level_against_edge", "plan_requests", "strand_connections"]

ARMS: tuple[tuple[Trigger, str], ...] = (
    ("level", "drain"),
    ("level", "one read"),
    ("edge", "drain"),
    ("edge", "one read"),
)
"""Trigger, and how much is read per event."""

CLIENTS = ("at once", "pieces", "random")
"""How a request is sent: in one piece; in four equal pieces a millisecond apart; in up to
eight pieces of random size with random pauses of up to two milliseconds, seeded."""

PATIENCE_NS = 250_000_000
"""A connection is stranded if nothing was sent, received or due for this long while the
server slept."""

LARGEST = 1 << 26  # bytes of a request
MOST_CONNECTIONS = 10_000
MS = 1_000_000
SENDER = "epolllab.experiments.workers.senders:send_plans"

_COLUMNS: dict[str, Any] = {
    "trigger": pd.CategoricalDtype(["level", "edge"]),
    "reading": pd.CategoricalDtype(["drain", "one read"]),
    "clients": pd.CategoricalDtype(list(CLIENTS)),
    "size": "int64",
    **dict.fromkeys(("round", "n_connections", "n_answered", "n_stranded"), "int32"),
    "bytes_stranded": "int64",
    **dict.fromkeys((*COUNTS, "cpu_us", "p50_us", "p99_us"), "float64"),
}


def level_against_edge(
    *,
    sizes: Sequence[int] = (10, 1_000, 16_384, 100_000, 1_000_000),
    clients: Iterable[str] = CLIENTS,
    connections: int = 30,
    rounds: int = 3,
    recv_size: int = 16_384,
    seed: int = 1,
    quick: bool = False,
    progress: bool = True,
    executor: Executor | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Compare level with edge: which is faster, and what a wrong use of edge costs.

    The same clients send requests of each size to four servers: level and edge, each
    reading until EAGAIN, or once per event. Reading once is safe with level, which
    reports the rest again. With edge it strands what did not fit into the one read: the
    bytes are there, no event reports them, and the client waits.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of a request, at least 10.
    clients : iterable of str
        Some of :data:`CLIENTS`.
    connections : int
        Connections at a time, one request each.
    rounds : int
        Repetitions; the order of the arms is random in each.
    recv_size : int
        Bytes that the server passes to recv.
    seed : int
        Of the order, and of the pieces of the random clients.
    quick : bool
        One round, three sizes (the first, the middle, the last), fewer connections.
    progress : bool
        Show a progress bar.
    executor : concurrent.futures.Executor, optional
        Run the comparison once on each of its workers, which may be other hosts, as
        :func:`run_all` does. Server and clients of a run are on the same host.
    workers : int, optional
        How many of them, as in :func:`run_all`.

    Returns
    -------
    pandas.DataFrame
        A row for each arm, way of sending, size and round.

        ============== ======== ===================================================
        trigger        category "level" or "edge"
        reading        category "drain" or "one read"
        clients        category how the requests were sent
        size           int64    bytes of a request
        round          int32    from 0
        n_connections  int32    requests sent
        n_answered     int32    requests that got a response
        n_stranded     int32    requests without one, while the server slept
        bytes_stranded int64    bytes handed to the kernel that the server never read
        wakeups        float64  waits that returned an event, per request
        events         float64  descriptors they returned, per request
        recv           float64  calls, per request
        would_block    float64  recv and send calls that would block, per request
        epoll_ctl      float64  calls, per request
        cpu_us         float64  of the server's process, microseconds per request
        p50_us, p99_us float64  from the start of the last piece to the end of the
                                response; missing with too few responses, as
                                :func:`epolllab.analysis.percentile` says
        ============== ======== ===================================================

        ``attrs["circumstances"]`` has the circumstances, ``attrs["interrupted"]``
        whether KeyboardInterrupt ended it early, and ``attrs["notes"]`` a sentence about
        it; the rows are then the finished ones. With an executor, the columns and the
        ``attrs`` that :func:`run_all` adds are there, too; a worker that failed has no rows.

    Notes
    -----
    The how-to's clients and libevent's pull request 801 (level 31,433 requests a
    second, edge 36,277) are of the kind "at once, 10 bytes".
    """
    chosen = choose("clients", clients, CLIENTS)
    sizes = check_sequence("sizes", sizes, partial(check_int, least=10, most=LARGEST))
    if not sizes:
        raise ValueError("sizes must not be empty; give at least one, such as sizes=(10, 1_000)")
    check_int("connections", connections, 1, MOST_CONNECTIONS)
    check_int("rounds", rounds, 1, MOST_OPS)
    check_int("recv_size", recv_size, 1, LARGEST)
    check_int("seed", seed)
    for name, switch in (("quick", quick), ("progress", progress)):
        check_bool(name, switch)
    if quick:
        sizes = list(dict.fromkeys((sizes[0], sizes[len(sizes) // 2], sizes[-1])))
        connections, rounds = min(connections, 10), 1
    parameters = {
        "sizes": list(sizes), "connections": connections, "rounds": rounds,
        "recv_size": recv_size, "seed": seed,
    }  # fmt: skip
    if executor is not None or workers is not None:
        options = {**parameters, "clients": chosen}
        fleet = run_on_workers(executor, workers, "level_against_edge", options, progress=progress)
        return fleet.frame(_COLUMNS, text="str")
    cells = [(how, size) for size in sizes for how in chosen]
    draw = random.Random(seed)

    def measure(describe: Describe) -> Rows:
        with closing(Child(SENDER)) as sender:
            for number in range(rounds):
                for trigger, reading in draw.sample(ARMS, len(ARMS)):
                    arm = {"trigger": trigger, "reading": reading, "round": number}
                    with _start_server(trigger, reading, recv_size, max(sizes)) as server:
                        for how, size in cells:
                            describe(f"{trigger}, {reading}, {size:,} bytes {how}")
                            plans = plan_requests(how, size, connections, seed)
                            row = _measure_cell(server, sender, plans)
                            yield [{**arm, "clients": how, "size": size, **row}]

    return collect(
        measure,
        _COLUMNS,
        total=rounds * len(ARMS) * len(cells),
        unit="cell",
        progress=progress,
        **parameters,
    )


def plan_requests(how: str, size: int, connections: int, seed: int) -> list[SendPlan]:
    """Plan what each client sends, and when; the same for every arm."""
    draw = random.Random(f"{seed} {how} {size}")
    return [_plan_request(how, size, draw) for _ in range(connections)]


def _plan_request(how: str, size: int, draw: random.Random) -> SendPlan:
    if how == "at once":
        return [(0, size)]
    if how == "pieces":
        cuts = [size * part // 4 for part in (1, 2, 3)]
        pauses = [MS] * 4
    else:
        cuts = sorted(draw.sample(range(2, size - 2), min(draw.randint(0, 7), size - 4)))
        pauses = [draw.randint(0, 2 * MS) for _ in range(len(cuts) + 1)]
    # The last piece has the blank line that ends the request, so it has two bytes or more.
    edges = [0, *(cut for cut in cuts if cut <= size - 2), size]
    sizes = (stop - start for start, stop in pairwise(edges))
    return [(pause, n) for pause, n in zip(pauses, sizes, strict=False) if n]


def _start_server(trigger: Trigger, reading: str, recv_size: int, largest: int) -> Server:
    return start_server(
        trigger=trigger,
        drain=reading == "drain",
        recv_size=recv_size,
        max_request_bytes=largest + recv_size,
        # A client that sends slowly causes many wakeups; the rest is reserve.
        capacity=2_000_000,
        process=True,
    )


def _measure_cell(server: Server, sender: Child, plans: Sequence[SendPlan]) -> dict[str, Any]:
    """Send the requests; count the server's calls and what it left unread."""
    until_asleep(server.pid)
    cpu_before = kernel.cpu_time_ns(server.pid)
    stats = server.stats()
    n_before = stats["recorded"] + stats["overwritten"]
    sent = _send(server, sender, plans)
    cpu_ns = kernel.cpu_time_ns(server.pid) - cpu_before
    recording = server.recording()
    array = recording.array()[max(0, n_before - recording.overwritten) :]
    n = len(plans)
    answered = sent["done_ns"] > 0
    latency_us = (sent["done_ns"] - sent["last_piece_ns"])[answered] / 1000
    left = sent["n_sent"] - _bytes_read(_before_close(array, sent), sent["port"])
    return {
        "n_connections": n,
        "n_answered": int(answered.sum()),
        "n_stranded": int((~answered).sum()),
        "bytes_stranded": int(left[~answered].sum()),
        **{name: count / n for name, count in count_calls(array).items()},
        "cpu_us": cpu_ns / 1000 / n,
        "p50_us": percentile(latency_us, 50),
        "p99_us": percentile(latency_us, 99),
    }


def _send(server: Server, sender: Child, plans: Sequence[SendPlan]) -> dict[str, Any]:
    """Send by the plans; return the columns of ``senders.COLUMNS``, each an array."""
    sender.send((server.address[1], server.pid, PATIENCE_NS, plans))
    table = np.frombuffer(sender.receive(60.0), dtype="i8").reshape(-1, len(COLUMNS))
    # The clients are done when they have the responses; the server may still record.
    until_asleep(server.pid)
    return {name: table[:, place] for place, name in enumerate(COLUMNS)}


def _before_close(array: Any, sent: Mapping[str, Any]) -> Any:
    """Leave out what follows the clients' close, which is an edge: the server reads again."""
    return array[array["start_ns"] < np.max(sent["gave_up_ns"])]


def _bytes_read(array: Any, ports: Any) -> Any:
    """Bytes that the server received from each port; a port is used once in a cell."""
    conn_of = _conns_by_port(array)
    reads = array[(array["op"] == Op.RECV) & (array["result"] > 0)]
    total = np.bincount(reads["conn"], weights=reads["result"], minlength=1)
    conns = [conn_of.get(port, 0) for port in ports.tolist()]
    return np.array([total[c] if 0 < c < len(total) else 0 for c in conns], dtype="i8")


def _conns_by_port(array: Any) -> dict[int, int]:
    accepts = array[(array["op"] == Op.ACCEPT) & (array["result"] >= 0)]
    return dict(zip(accepts["mask"].tolist(), accepts["conn"].tolist(), strict=True))


_STRANDED: dict[str, Any] = {
    **dict.fromkeys(("conn", "local_port"), "int32"),
    **dict.fromkeys(("size", "began_ns", "sent_ns", "n_sent", "last_event_ns"), "int64"),
    "n_events": "int32",
    **dict.fromkeys(("n_read", "gave_up_ns"), "int64"),
}


def strand_connections(
    *, size: int = 100_000, connections: int = 8, recv_size: int = 16_384
) -> pd.DataFrame:
    """Demonstrate the stall of an undrained edge: edge-triggered, one read per event.

    Each client sends one request larger than one read. The server gets one event, reads
    once and sleeps, while the rest of the bytes stays in its socket's buffer. No wakeup is
    lost: what is left unread is not an event, and the next byte to arrive would be one.

    Parameters
    ----------
    size : int
        Bytes of a request; more than `recv_size`, since a request that fits into one
        read cannot be stranded.
    connections : int
        Clients at a time.
    recv_size : int
        Bytes that the server passes to recv.

    Returns
    -------
    pandas.DataFrame
        A row per connection without a response: ``conn``, ``local_port`` (int32),
        ``size`` (int64), ``began_ns`` (the client's first send), ``sent_ns`` (its last
        that moved bytes), ``n_sent`` (bytes), ``last_event_ns`` (the server's last
        event for it), ``n_events``, ``n_read`` (bytes it read), ``gave_up_ns``; all on
        one clock.
    """
    check_int("connections", connections, 1, MOST_CONNECTIONS)
    check_int("recv_size", recv_size, 1, LARGEST - 1)
    check_int("size", size, recv_size + 1, LARGEST)
    kernel.require_loopback()
    kernel.require_proc()
    with (
        closing(Child(SENDER)) as sender,
        _start_server("edge", "one read", recv_size, size) as server,
    ):
        sent = _send(server, sender, [[(0, size)]] * connections)
        recording = server.recording()
    rows = _stranded_rows(recording, sent, size)
    frame = pd.DataFrame(rows, columns=list(_STRANDED)).astype(_STRANDED)
    frame.attrs = {"circumstances": dict(recording.metadata)}
    return frame


def _stranded_rows(
    recording: Recording, sent: Mapping[str, Any], size: int
) -> list[dict[str, int]]:
    array = _before_close(recording.array(), sent)
    conn_of = _conns_by_port(array)
    n_read = _bytes_read(array, sent["port"])
    rows = []
    for place in np.flatnonzero(sent["done_ns"] == 0):
        port = int(sent["port"][place])
        conn = conn_of.get(port, -1)
        events = array["start_ns"][(array["conn"] == conn) & (array["op"] == Op.READY)]
        rows.append(
            {
                **{name: sent[name][place] for name in _STRANDED if name in sent},
                "conn": max(conn, 0),
                "local_port": port,
                "size": size,
                "last_event_ns": events[-1] if len(events) else 0,
                "n_events": len(events),
                "n_read": n_read[place],
            }
        )
    return rows
