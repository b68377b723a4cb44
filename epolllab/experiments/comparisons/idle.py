"""idle_connections(): real servers, many connections that idle, a few that work.

One job: start each kind of server, hold idle connections, run active clients, and note
what that cost.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from epolllab import kernel
from epolllab.analysis.result import Result
from epolllab.checks import check_choice, check_int
from epolllab.events import Op
from epolllab.experiments.comparisons.load import cpu_of, measured_load
from epolllab.experiments.rounds import Logbook, numbers, run_rounds
from epolllab.experiments.workers.idle import Held, hold_idle
from epolllab.kernel.pollers import FD_SETSIZE
from epolllab.recording.recording import Recording
from epolllab.server.server import Server, start_server

__all__ = ["SERVERS", "idle_connections"]


SERVERS: dict[str, dict[str, str]] = {
    "epoll-level-eager": {"poller": "epoll", "trigger": "level", "lifecycle": "eager"},
    "epoll-level-howto": {"poller": "epoll", "trigger": "level", "lifecycle": "howto"},
    "epoll-edge-once": {"poller": "epoll", "trigger": "edge", "lifecycle": "once"},
    "epoll-oneshot": {"poller": "epoll", "trigger": "level", "lifecycle": "oneshot"},
    "poll-eager": {"poller": "poll", "lifecycle": "eager"},
    "select-eager": {"poller": "select", "lifecycle": "eager"},
}
"""Names of servers, and what :func:`epolllab.start_server` is told for each."""

VALUES = (
    "requests_per_s",
    "cpu_us",
    "epoll_ctl",
    "waits",
    "events",
    "p50_us",
    "p99_us",
)
SPARE_DESCRIPTORS = 96  # the server's own, and room for connections that are being closed
REGISTERED_S = 60.0
CAPACITY = 400_000  # records: 16 MB for the longest load


class _Cell(NamedTuple):
    server: str
    idle: int


def idle_connections(
    idle: int | Sequence[int] = (0, 100, 1_000, 10_000),
    servers: Sequence[str] = tuple(SERVERS),
    *,
    active: int = 50,
    requests: int | None = None,
    rounds: int | None = None,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Serve active clients while many other connections are open and silent.

    What it shows: idle connections cost epoll nothing, since nothing of theirs is ever
    looked at, and cost poll and select a look each at every wait. The server is a child
    process, the idle connections are held by others (from 127.0.0.2 and on, 5,000 each),
    and the active clients are one more, with a connection for each request.

    Parameters
    ----------
    idle : int or rising sequence of int
        Connections held, 0 among them for comparison. Cut to what the limits on the
        server's and the holders' descriptors allow; what limited it is noted.
    servers : sequence of str
        Of :data:`SERVERS`. select has no room beyond descriptor 1,023.
    active : int
        Active connections at a time.
    requests : int, optional
        Requests of a measurement: 6,000, or 400 with `quick`. A tenth as many come
        before, marked as warm-up.
    rounds : int, optional
        3, or 1 with `quick`: with 10,000 idle connections a round takes over a minute.
    quick : bool
        An answer in about ten seconds; without `idle` given, of 0 and 1,000 only.
    seed, progress
        As in :func:`sweep`.

    Returns
    -------
    Result
        ``frame`` with a row per load:

        ============== ======== ==============================================
        round          int32
        server         category as above
        idle           int32    idle connections asked for
        held           int32    those that stood
        active         int32    active connections at a time
        warmup         bool     the load before the one that counts
        requests       int32    answered
        errors         int32    not answered
        requests_per_s float64
        cpu_us         float64  CPU of the server process for a request, µs, recorder
                                included
        epoll_ctl      float64  epoll_ctl for a request; 0 for poll and select, whose
                                changes are a dictionary's
        waits          float64  waits for a request
        events         float64  descriptors returned for a request
        p50_us, p99_us float64  latency, connecting included
        ============== ======== ==============================================

        A server that fails, or does not start, is a note in the result; the others go
        on.

    Raises
    ------
    ValueError, TypeError
        Numbers that make no sense, an unknown server. Before anything is started.
    """
    sizes, wishes = _checked(idle, servers, active, requests, rounds, quick)
    book = Logbook()
    cells = [_Cell(server, n) for server in servers for n in _fitting(server, sizes, active, book)]
    blocks = run_rounds(
        cells,
        partial(_measured, active, wishes["requests"], book),
        rounds=wishes["rounds"],
        seed=seed,
        title="idle_connections",
        progress=progress,
        book=book,
        name=lambda cell: f"{cell.server} with {cell.idle:,} idle connections",
    )
    circumstances = book.circumstances(
        experiment="idle_connections", idle=list(sizes), servers=list(servers), seed=seed,
        active_clients=active, **wishes,
    )  # fmt: skip
    frame = _frame([row for block in blocks for row in block])
    return Result(
        "idle_connections", frame, circumstances, ("server", "active", "idle"), VALUES, "idle"
    )


def _checked(
    idle: int | Sequence[int], servers: Sequence[str], active: int, requests: int | None,
    rounds: int | None, quick: bool,
) -> tuple[tuple[int, ...], dict[str, int]]:  # fmt: skip
    sizes = numbers("idle", (0, 1_000) if quick and idle == (0, 100, 1_000, 10_000) else idle, 0)
    check_int("active", active, 1)
    if isinstance(servers, str) or not servers or len(set(servers)) < len(servers):
        raise ValueError(f"servers names at least one of {tuple(SERVERS)}, each once")
    for server in servers:
        check_choice("servers", server, list(SERVERS))
    wishes = {
        "requests": (400 if quick else 6_000) if requests is None else requests,
        "rounds": (1 if quick else 3) if rounds is None else rounds,
    }
    for name, value in wishes.items():
        check_int(name, value, 1)
    return sizes, wishes


def _fitting(server: str, sizes: Sequence[int], active: int, book: Logbook) -> list[int]:
    """Sizes that the server has descriptors for, and its last where it ends early."""
    hard = kernel.descriptor_limits().hard
    room = hard - 2 * active - SPARE_DESCRIPTORS - kernel.descriptors_open()
    limit = f"the server process may have {hard:,} descriptors"
    if server == "select-eager" and FD_SETSIZE - 2 * active - SPARE_DESCRIPTORS < room:
        room = FD_SETSIZE - 2 * active - SPARE_DESCRIPTORS
        limit = f"select's bitmap ends at descriptor {FD_SETSIZE - 1:,}"
    kept = [n for n in sizes if n <= room]
    if len(kept) < len(sizes):
        if room > 1.1 * max(kept, default=0):
            kept.append(room)
        asked = ", ".join(f"{n:,}" for n in sizes if n > room)
        most = max(kept, default=0)
        book.note(f"{server} cut to {most:,} idle connections of {asked} asked: {limit}")
    return kept


# --- one cell ---------------------------------------------------------------------------


def _measured(
    active: int, requests: int, book: Logbook, cell: _Cell, round_: int
) -> list[dict[str, Any]]:
    with ExitStack() as opened:
        server = opened.enter_context(
            start_server(
                process=True,
                max_connections=cell.idle + 2 * active + SPARE_DESCRIPTORS // 2,
                capacity=CAPACITY,
                **SERVERS[cell.server],  # type: ignore[arg-type]
            )
        )
        held = opened.enter_context(hold_idle(server.address, cell.idle))
        _await_registered(server, held, book)
        always = {
            "round": round_, "server": cell.server, "idle": cell.idle, "held": held.n_held,
            "active": active,
        }  # fmt: skip
        warmup = max(requests // 10, 1)
        return [
            always | {"warmup": n is warmup} | _load(server, active, n) for n in (warmup, requests)
        ]


def _await_registered(server: Server, held: Held, book: Logbook) -> None:
    """Wait until the server has accepted all that are held."""
    if held.reason is not None:
        book.note(f"{held.n_held:,} idle connections only: {held.reason}")
    deadline = time.monotonic() + REGISTERED_S
    while server.stats()["connections"] < held.n_held:
        if time.monotonic() > deadline:
            found = server.stats()["connections"]
            book.note(f"the server accepted {found:,} of {held.n_held:,} in {REGISTERED_S:.0f} s")
            return
        time.sleep(0.005)


def _load(server: Server, active: int, requests: int) -> dict[str, Any]:
    begin_ns = time.monotonic_ns()
    row = measured_load(
        server, {"cpu_us": cpu_of(server.pid)}, connections=active, requests=requests, timeout=60.0
    )
    counts = _counts(server.recording(), begin_ns)
    is_epoll = server.options.poller == "epoll"
    changes = counts["register"] + counts["modify"] + counts["unregister"] if is_epoll else 0
    n = row["requests"] or np.nan
    return row | {
        "epoll_ctl": changes / n, "waits": counts["wait"] / n, "events": counts["ready"] / n,
    }  # fmt: skip


def _counts(recording: Recording, begin_ns: int) -> dict[str, int]:
    """Records since an instant, by operation."""
    array = recording.array()
    ops = array["op"][array["end_ns"] >= begin_ns]
    numbers_of = np.bincount(ops, minlength=len(Op))
    return {op.label: int(numbers_of[op]) for op in Op}


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "round": "int32", "server": pd.CategoricalDtype(list(SERVERS)), "idle": "int32",
        "held": "int32", "active": "int32", "warmup": "bool", "requests": "int32",
        "errors": "int32", "requests_per_s": "float64", "cpu_us": "float64",
        "epoll_ctl": "float64", "waits": "float64", "events": "float64", "p50_us": "float64",
        "p99_us": "float64",
    }  # fmt: skip
    return pd.DataFrame(list(rows), columns=pd.Index(columns)).astype(columns)
