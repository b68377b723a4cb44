"""The four life cycles of a connection, on real servers under the same clients."""

import random
from functools import partial
from typing import Any

import pandas as pd

from epolllab.checks import check_bool, check_int, checked
from epolllab.experiments.comparisons.collect import Describe, Rows, collect, count_calls
from epolllab.experiments.comparisons.load import cpu_reader, measure_load
from epolllab.experiments.rounds import MOST_OPS
from epolllab.server.options import LIFECYCLES, Lifecycle, Trigger
from epolllab.server.server import start_server

__all__ = ["CYCLES", "compare_lifecycles"]

CYCLES: tuple[tuple[Lifecycle, Trigger], ...] = (
    ("howto", "level"),
    ("howto", "edge"),
    ("eager", "level"),
    ("eager", "edge"),
    ("once", "edge"),
    ("oneshot", "level"),
    ("oneshot", "edge"),
)
"""The valid combinations of life cycle and trigger."""

_COLUMNS: dict[str, Any] = {
    "lifecycle": pd.CategoricalDtype(list(LIFECYCLES)),
    "trigger": pd.CategoricalDtype(["level", "edge"]),
    "round": "int32",
    "n_requests": "int64",
    "n_errors": "int64",
    **dict.fromkeys(("epoll_ctl", "waits", "events", "recv", "would_block"), "float64"),
    **dict.fromkeys(("cpu_us", "requests_per_s", "p50_us"), "float64"),
}


@checked(
    **dict.fromkeys(("requests", "rounds"), partial(check_int, least=1, most=MOST_OPS)),
    connections=partial(check_int, least=1, most=10_000),
    **dict.fromkeys(("keep_alive", "quick", "progress"), check_bool),
)
def compare_lifecycles(
    *,
    requests: int = 2_000,
    connections: int = 20,
    keep_alive: bool = False,
    rounds: int = 3,
    quick: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure the cost of each of the four life cycles of a connection, per request.

    The question of Gammo, Brecht, Shukla and Pariag (2004): does epoll lose by
    epoll_ctl what it gains by its wait? Remedies are included: edges, interest in IN|OUT
    registered once and never changed, and writing at once.

    Parameters
    ----------
    requests : int
        For each server.
    connections : int
        Requests in flight at a time.
    keep_alive : bool
        Many requests per connection (HTTP) instead of one.
    rounds, progress
        As for :func:`level_against_edge`.
    quick : bool
        One round of a tenth of the requests.

    Returns
    -------
    pandas.DataFrame
        A row for each life cycle, trigger and round: ``lifecycle``, ``trigger``
        (category), ``round`` (int32), ``n_requests``, ``n_errors`` (int64); per request
        ``epoll_ctl``, ``waits``, ``events``, ``recv``, ``would_block``, ``cpu_us`` (of
        the server's process, microseconds); ``requests_per_s``, ``p50_us`` (float64).
        ``attrs`` as for :func:`level_against_edge`.
    """
    if quick:
        requests, rounds = max(1, requests // 10), 1
    draw = random.Random(requests)

    def measure(describe: Describe) -> Rows:
        for number in range(rounds):
            for lifecycle, trigger in draw.sample(CYCLES, len(CYCLES)):
                describe(f"{lifecycle}, {trigger}")
                row = _measure_server(lifecycle, trigger, requests, connections, keep_alive)
                yield [{"lifecycle": lifecycle, "trigger": trigger, "round": number, **row}]

    return collect(
        measure,
        _COLUMNS,
        total=rounds * len(CYCLES),
        unit="server",
        progress=progress,
        requests=requests,
        connections=connections,
        keep_alive=keep_alive,
        rounds=rounds,
    )


def _measure_server(
    lifecycle: Lifecycle, trigger: Trigger, requests: int, connections: int, keep_alive: bool
) -> dict[str, Any]:
    """Run one server under load; return its calls per request, CPU time and rate."""
    with start_server(
        trigger=trigger,
        lifecycle=lifecycle,
        protocol="http" if keep_alive else "hello",
        capacity=min(max(100_000, 30 * requests), 5_000_000),
        process=True,
    ) as server:
        load = measure_load(
            server,
            {"cpu_us": cpu_reader(server.pid)},
            connections=connections,
            requests=requests,
            keep_alive=keep_alive,
        )
        counts = count_calls(server.recording().array())
    n = load["requests"]
    return {
        "n_requests": n,
        "n_errors": load["errors"],
        **{name: count / max(n, 1) for name, count in counts.items()},
        **{name: load[name] for name in ("cpu_us", "requests_per_s", "p50_us")},
    }
