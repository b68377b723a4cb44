"""Level against edge, and the four life cycles, on real servers under the same clients.

One job: run the arms and count. The servers are this package's own, each in a process
of its own; the clients are in another. It judges nothing.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from epolllab import kernel
from epolllab.checks import check_choice, check_int
from epolllab.child import Child
from epolllab.events import Op
from epolllab.experiments.workers.senders import COLUMNS, SendPlan
from epolllab.kernel.waiting import until_asleep
from epolllab.recording import environment
from epolllab.server.options import Trigger
from epolllab.server.server import Server, start_server

if TYPE_CHECKING:
    from epolllab.recording.recording import Recording


__all__ = ["ARMS", "CLIENTS", "level_against_edge", "strand_connections"]


ARMS: tuple[tuple[Trigger, str], ...] = (("level", "drain"), ("level", "one read"), ("edge", "drain"), ("edge", "one read"))
"""Trigger, and how much is read at an event."""

CLIENTS = ("at once", "pieces", "random")
"""How a request is sent: in one go; in four equal pieces a millisecond apart; in up to
eight pieces of random size with random pauses of up to two milliseconds, seeded."""

PATIENCE_NS = 250_000_000
"""Nothing sent, received or due for so long, and the server asleep: it is stranded."""

MS = 1_000_000

_COUNTS = ("wakeups", "events", "recv", "would_block", "epoll_ctl")
_COLUMNS: dict[str, Any] = {
    "trigger": pd.CategoricalDtype(["level", "edge"]),
    "reading": pd.CategoricalDtype(["drain", "one read"]),
    "clients": pd.CategoricalDtype(list(CLIENTS)),
    "size": "int64",
    "round": "int32",
    "n_connections": "int32",
    "n_answered": "int32",
    "n_stranded": "int32",
    "bytes_stranded": "int64",
    **dict.fromkeys(_COUNTS, "float64"),
    "cpu_us": "float64",
    "p50_us": "float64",
    "p99_us": "float64",
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
) -> pd.DataFrame:
    """Answer: is edge faster, and what does it cost to get it wrong.

    The same clients send requests of each size to four servers: level and edge, each
    reading until it would block, or once per event. Reading once is safe with level,
    which reports the rest again. With edge it strands what did not fit into the one
    read: the bytes are there, no event will tell of them, and the client waits.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of a request, 10 at the least.
    clients : iterable of str
        Some of :data:`CLIENTS`.
    connections : int
        Connections at a time, one request each.
    rounds : int
        How often all is repeated; the order of the arms is drawn anew each time.
    recv_size : int
        Bytes a server's recv asks for.
    seed : int
        Of the random clients' pieces and of the order.
    quick : bool
        One round, three sizes (the first, the middle, the last), fewer connections.
    progress : bool
        Show a progress bar.

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
        n_answered     int32    of these
        n_stranded     int32    of these; the server slept and did not know of them
        bytes_stranded int64    bytes handed to the kernel that the server never read
        wakeups        float64  waits that returned an event, per request
        events         float64  descriptors they returned, per request
        recv           float64  calls, per request
        would_block    float64  calls that ended with EAGAIN, per request
        epoll_ctl      float64  calls, per request
        cpu_us         float64  of the server's process, microseconds per request
        p50_us, p99_us float64  from the start of the last piece to the end of the
                                answer; missing where none was answered
        ============== ======== ===================================================

        ``attrs["circumstances"]`` and ``attrs["interrupted"]`` as with ``run_all``:
        an interrupt ends it early, with the rows that are complete.

    Raises
    ------
    ValueError, TypeError
        Wishes that make no sense, before anything starts.

    Notes
    -----
    The how-to's clients and libevent's pull request 801 (level 31,433 requests a
    second, edge 36,277) are of the kind "at once, 10 bytes".
    """
    chosen = [clients] if isinstance(clients, str) else list(clients)
    for name in chosen:
        check_choice("clients", name, CLIENTS)
    for size in sizes:
        check_int("sizes", size, 10)
    for what, number in (
        ("connections", connections),
        ("rounds", rounds),
        ("recv_size", recv_size),
    ):
        check_int(what, number, 1)
    if quick:
        sizes = list(dict.fromkeys((sizes[0], sizes[len(sizes) // 2], sizes[-1])))
        connections, rounds = min(connections, 10), 1
    plans = _Plans(seed, connections)
    cells = [(how, size) for size in sizes for how in chosen]
    rows: list[dict[str, Any]] = []
    interrupted = False
    try:
        for row in _measured(plans, cells, rounds, recv_size, max(sizes), progress):
            rows.append(row)  # noqa: PERF402 - what is there when it is interrupted counts
    except KeyboardInterrupt:
        interrupted = True
    frame = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    facts = environment.collect(
        sizes=list(sizes), connections=connections, rounds=rounds, recv_size=recv_size, seed=seed
    )
    frame.attrs = {"circumstances": facts, "interrupted": interrupted}
    return frame


class _Plans:
    """The same plans for every arm: what each client sends, and when."""

    def __init__(self, seed: int, connections: int) -> None:
        self.seed = seed
        self.connections = connections

    def of(self, how: str, size: int) -> list[SendPlan]:
        draw = random.Random(f"{self.seed} {how} {size}")
        return [self._one(how, size, draw) for _ in range(self.connections)]

    def _one(self, how: str, size: int, draw: random.Random) -> SendPlan:
        if how == "at once":
            return [(0, size)]
        if how == "pieces":
            cuts = [size * part // 4 for part in (1, 2, 3)]
            return _between(cuts, size, [MS] * 4)
        cuts = sorted(draw.sample(range(2, size - 2), min(draw.randint(0, 7), size - 4)))
        return _between(cuts, size, [draw.randint(0, 2 * MS) for _ in range(len(cuts) + 1)])


def _between(cuts: list[int], size: int, pauses: list[int]) -> SendPlan:
    # The last piece holds the blank line that ends the request, so it has two bytes at least.
    edges = [0, *(cut for cut in cuts if cut <= size - 2), size]
    sizes = (stop - start for start, stop in pairwise(edges))
    return [(pause, n) for pause, n in zip(pauses, sizes, strict=False) if n]


def _measured(
    plans: _Plans,
    cells: Sequence[tuple[str, int]],
    rounds: int,
    recv_size: int,
    largest: int,
    progress: bool,
) -> Iterator[dict[str, Any]]:
    """Run the cells of every arm, round by round."""
    from tqdm.auto import tqdm

    draw = random.Random(plans.seed)
    clients = Child("epolllab.experiments.workers.senders:send_plans")
    total = rounds * len(ARMS) * len(cells)
    with tqdm(total=total, unit="cell", disable=not progress) as bar:
        try:
            for number in range(rounds):
                for trigger, reading in draw.sample(ARMS, len(ARMS)):
                    with _server(trigger, reading, recv_size, largest) as server:
                        for how, size in cells:
                            bar.set_postfix_str(f"{trigger}, {reading}, {size:,} bytes {how}")
                            measured = _cell(server, clients, plans.of(how, size))
                            yield {
                                "trigger": trigger,
                                "reading": reading,
                                "clients": how,
                                "size": size,
                                "round": number,
                                **measured,
                            }
                            bar.update()
        finally:
            clients.close()


def _server(trigger: Trigger, reading: str, recv_size: int, largest: int) -> Server:
    return start_server(
        trigger=trigger,
        drain=reading == "drain",
        recv_size=recv_size,
        max_request_bytes=largest + recv_size,
        # A client that sends slowly wakes the server many times; the rest is room.
        capacity=2_000_000,
        process=True,
    )


def _cell(server: Server, clients: Child, plans: Sequence[SendPlan]) -> dict[str, Any]:
    """Let the clients send, and count what the server did about it."""
    until_asleep(server.pid)
    cpu_before = kernel.cpu_time_ns(server.pid)
    stats = server.stats()
    n_before = stats["recorded"] + stats["overwritten"]
    ends = _send(server, clients, plans)
    cpu_ns = kernel.cpu_time_ns(server.pid) - cpu_before
    recording = server.recording()
    array = recording.array()[max(0, n_before - recording.overwritten) :]
    n = len(plans)
    answered = ends["done_ns"] > 0
    latency_us = (ends["done_ns"] - ends["last_piece_ns"])[answered] / 1000
    p50, p99 = np.percentile(latency_us, (50, 99)) if answered.any() else (np.nan, np.nan)
    # When the clients have given up and closed, that is an edge, and the server reads once more.
    told = array[array["start_ns"] < np.max(ends["gave_up_ns"])]
    left = ends["n_sent"] - _bytes_read(told, ends["port"])
    return {
        "n_connections": n,
        "n_answered": int(answered.sum()),
        "n_stranded": int((~answered).sum()),
        "bytes_stranded": int(left[~answered].sum()),
        **{name: count / n for name, count in _counted(array).items()},
        "cpu_us": cpu_ns / 1000 / n,
        "p50_us": p50,
        "p99_us": p99,
    }


def _send(server: Server, clients: Child, plans: Sequence[SendPlan]) -> dict[str, Any]:
    """Send by the plans; the columns of :data:`COLUMNS`, each an array."""
    clients.send((server.address[1], server.pid, PATIENCE_NS, plans))
    table = np.frombuffer(clients.receive(60.0), dtype="i8").reshape(-1, len(COLUMNS))
    # The clients are done when the answers are there; the server may have more to record.
    until_asleep(server.pid)
    return {name: table[:, place] for place, name in enumerate(COLUMNS)}


def _bytes_read(array: Any, ports: Any) -> Any:
    """Bytes the server received from each port; a port is used once in a cell."""
    conn_of = _conns_by_port(array)
    reads = array[(array["op"] == Op.RECV) & (array["result"] > 0)]
    total = np.bincount(reads["conn"], weights=reads["result"], minlength=1)
    conns = [conn_of.get(port, 0) for port in ports.tolist()]
    return np.array([total[c] if 0 < c < len(total) else 0 for c in conns], dtype="i8")


def _conns_by_port(array: Any) -> dict[int, int]:
    accepts = array[(array["op"] == Op.ACCEPT) & (array["result"] >= 0)]
    return dict(zip(accepts["mask"].tolist(), accepts["conn"].tolist(), strict=True))


def _counted(array: Any) -> dict[str, int]:
    """Calls of one cell, by column."""
    op, result = array["op"], array["result"]
    return {
        "wakeups": int(((op == Op.WAIT) & (result > 0)).sum()),
        "events": int((op == Op.READY).sum()),
        "recv": int((op == Op.RECV).sum()),
        "would_block": int((result == -11).sum()),
        "epoll_ctl": int(np.isin(op, (Op.REGISTER, Op.MODIFY, Op.UNREGISTER)).sum()),
    }


_STRANDED: dict[str, Any] = {
    "conn": "int32",
    "local_port": "int32",
    "size": "int64",
    "began_ns": "int64",
    "sent_ns": "int64",
    "n_sent": "int64",
    "last_event_ns": "int64",
    "n_events": "int32",
    "n_read": "int64",
    "gave_up_ns": "int64",
}


def strand_connections(
    *, size: int = 100_000, connections: int = 8, recv_size: int = 16_384
) -> pd.DataFrame:
    """Make the lost wake-up visible: edge-triggered, one read per event.

    Each client sends one request larger than one read. The server is told once, reads
    once and sleeps, while the rest of the bytes lies in its socket's buffer.

    Parameters
    ----------
    size : int
        Bytes of a request; more than `recv_size`.
    connections : int
        Clients at a time.
    recv_size : int
        Bytes a recv asks for.

    Returns
    -------
    pandas.DataFrame
        A row per connection that got no answer: ``conn``, ``local_port`` (int32),
        ``size`` (int64), ``began_ns`` (the client's first send), ``sent_ns`` (its last
        that moved bytes), ``n_sent`` (bytes), ``last_event_ns`` (the server's last
        event for it), ``n_events``, ``n_read`` (bytes it read), ``gave_up_ns``; all on
        one clock.

    Raises
    ------
    ValueError
        A request that fits into one read cannot be stranded.
    """
    check_int("connections", connections, 1)
    check_int("recv_size", recv_size, 1)
    check_int("size", size, recv_size + 1)
    clients = Child("epolllab.experiments.workers.senders:send_plans")
    try:
        with _server("edge", "one read", recv_size, size) as server:
            ends = _send(server, clients, [[(0, size)]] * connections)
            recording = server.recording()
    finally:
        clients.close()
    rows = _stranded_rows(recording, ends, size)
    frame = pd.DataFrame(rows, columns=list(_STRANDED)).astype(_STRANDED)
    frame.attrs = {"circumstances": dict(recording.metadata)}
    return frame


def _stranded_rows(recording: "Recording", ends: dict[str, Any], size: int) -> list[dict[str, int]]:
    array = recording.array()
    # When the clients close, that is an edge too, and not what is to be shown.
    array = array[array["start_ns"] < np.max(ends["gave_up_ns"])]
    conn_of = _conns_by_port(array)
    read = _bytes_read(array, ends["port"])
    rows = []
    for place, port in enumerate(ends["port"].tolist()):
        if ends["done_ns"][place]:
            continue
        mine = array[(array["conn"] == conn_of.get(port, -1)) & (array["op"] == Op.READY)]
        rows.append(
            {
                "conn": conn_of.get(port, 0),
                "local_port": port,
                "size": size,
                **{
                    name: ends[name][place]
                    for name in ("began_ns", "sent_ns", "n_sent", "gave_up_ns")
                },
                "last_event_ns": mine["start_ns"][-1] if len(mine) else 0,
                "n_events": len(mine),
                "n_read": read[place],
            }
        )
    return rows
