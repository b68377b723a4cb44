"""experiments.comparisons.lifecycles."""

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from epolllab import kernel
from epolllab.checks import check_int
from epolllab.events import Op
from epolllab.recording import environment
from epolllab.server.options import LIFECYCLES, Lifecycle, Trigger
from epolllab.server.server import start_server

if TYPE_CHECKING:
    pass

from epolllab.experiments.comparisons.triggers import _counted

__all__ = ["compare_lifecycles"]


CYCLES: tuple[tuple[Lifecycle, Trigger], ...] = (
    ("howto", "level"),
    ("howto", "edge"),
    ("eager", "level"),
    ("eager", "edge"),
    ("once", "edge"),
    ("oneshot", "level"),
    ("oneshot", "edge"),
)
"""Life cycle and trigger, where the two go together."""

_CYCLE_COLUMNS: dict[str, Any] = {
    "lifecycle": pd.CategoricalDtype(list(LIFECYCLES)),
    "trigger": pd.CategoricalDtype(["level", "edge"]),
    "round": "int32",
    "n_requests": "int64",
    "n_errors": "int64",
    "epoll_ctl": "float64",
    "waits": "float64",
    "events": "float64",
    "recv": "float64",
    "would_block": "float64",
    "cpu_us": "float64",
    "requests_per_s": "float64",
    "p50_us": "float64",
}


def compare_lifecycles(
    *,
    requests: int = 2_000,
    connections: int = 20,
    keep_alive: bool = False,
    rounds: int = 3,
    quick: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """What each of the four life cycles of a connection costs for a request.

    The question of Gammo, Brecht, Shukla and Pariag (2004): does epoll lose by
    epoll_ctl what it wins by its wait? Their remedies are here: edges, asking for
    IN|OUT once and for ever, and, what they did not have, writing at once.

    Parameters
    ----------
    requests : int
        For each server.
    connections : int
        In flight at a time.
    keep_alive : bool
        Many requests on a connection (HTTP), rather than one.
    rounds : int
        How often all is repeated, in an order drawn anew.
    quick : bool
        One round of a tenth of the requests.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        A row for each life cycle, trigger and round: ``lifecycle``, ``trigger``
        (category), ``round`` (int32), ``n_requests``, ``n_errors`` (int64); per request
        ``epoll_ctl``, ``waits``, ``events``, ``recv``, ``would_block``, ``cpu_us`` (of
        the server's process, microseconds); ``requests_per_s``, ``p50_us`` (float64).

    Raises
    ------
    ValueError, TypeError
        Wishes that make no sense, before anything starts.
    """
    from tqdm.auto import tqdm

    for what, number in (("requests", requests), ("connections", connections), ("rounds", rounds)):
        check_int(what, number, 1)
    if quick:
        requests, rounds = max(1, requests // 10), 1
    draw = random.Random(requests)
    rows: list[dict[str, Any]] = []
    interrupted = False
    with tqdm(total=rounds * len(CYCLES), unit="server", disable=not progress) as bar:
        try:
            for number in range(rounds):
                for lifecycle, trigger in draw.sample(CYCLES, len(CYCLES)):
                    bar.set_postfix_str(f"{lifecycle}, {trigger}")
                    measured = _cycle(lifecycle, trigger, requests, connections, keep_alive)
                    rows.append(
                        {"lifecycle": lifecycle, "trigger": trigger, "round": number, **measured}
                    )
                    bar.update()
        except KeyboardInterrupt:
            interrupted = True
    frame = pd.DataFrame(rows, columns=list(_CYCLE_COLUMNS)).astype(_CYCLE_COLUMNS)
    facts = environment.collect(
        requests=requests, connections=connections, keep_alive=keep_alive, rounds=rounds
    )
    frame.attrs = {"circumstances": facts, "interrupted": interrupted}
    return frame


def _cycle(
    lifecycle: Lifecycle, trigger: Trigger, requests: int, connections: int, keep_alive: bool
) -> dict[str, Any]:
    """Run one server under load: its calls per request."""
    from epolllab.clients.run import run_clients

    with start_server(
        trigger=trigger,
        lifecycle=lifecycle,
        protocol="http" if keep_alive else "hello",
        capacity=max(100_000, 30 * requests),
        process=True,
    ) as server:
        cpu_before = kernel.cpu_time_ns(server.pid)
        run = run_clients(
            server,
            connections=connections,
            requests=requests,
            keep_alive=keep_alive,
            record=False,
            progress=False,
        )
        cpu_ns = kernel.cpu_time_ns(server.pid) - cpu_before
        array = server.recording().array()
    answered = run.requests()
    good = answered[answered["error"].isna()]
    lasted_ns = int(good["done_ns"].max() - answered["intended_ns"].min()) if len(good) else 0
    counts = _counted(array)
    counts["waits"] = int((array["op"] == Op.WAIT).sum())
    counts.pop("wakeups")
    return {
        "n_requests": len(good),
        "n_errors": len(answered) - len(good),
        **{name: count / max(len(good), 1) for name, count in counts.items()},
        "cpu_us": cpu_ns / 1000 / max(len(good), 1),
        "requests_per_s": len(good) / lasted_ns * 1e9 if lasted_ns else np.nan,
        "p50_us": float(good["latency_ns"].median()) / 1000 if len(good) else np.nan,
    }
