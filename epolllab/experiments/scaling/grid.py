"""crossover(): where poll is the better one, over N and the share that is active.

One job: plan waits over a grid of both, and divide one poller's times by another's.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from epolllab.experiments import statistics
from epolllab.experiments.scaling import waits
from epolllab.experiments.scaling.arms import APIS, POLLERS, arms
from epolllab.experiments.scaling.method import numbers
from epolllab.experiments.scaling.result import Result
from epolllab.options import whole

__all__ = ["SHARES", "crossover", "ratios"]

SIZES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
SHARES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the descriptors that are ready; 0 stands for one, however many there are."""


def crossover(
    n_fds: int | Sequence[int] = SIZES,
    shares: Sequence[float] = SHARES,
    pollers: tuple[str, str] = ("epoll-level", "poll"),
    *,
    api: Sequence[str] = APIS,
    ops: int | None = None,
    rounds: int | None = None,
    warmup: int = 2,
    kind: str = "eventfd",
    quick: bool = False,
    pin: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Compare two pollers over the number of descriptors and the share that is ready.

    What it shows: epoll's time is bounded by what is ready, not by what is watched
    (J. Lokier said so in 2003). Where all of a few descriptors are ready, poll has no
    more to look at than epoll has, and less to do for each: epoll takes each off its
    ready list and, level-triggered, puts it back.

    Parameters
    ----------
    n_fds : int or rising sequence of int
        Descriptors watched; cut as in :func:`sweep`.
    shares : rising sequence of float
        Shares of them ready in each operation, from 0 to 1; at least one always is, and 0
        stands for one.
    pollers : tuple of two str
        The first's time is divided by the second's.
    api, kind, pin, seed, progress
        As in :func:`sweep`.
    ops : int, optional
        Operations of each poller at each field in a round: 15, or 6 with `quick`.
    rounds : int, optional
        5, or 3 with `quick`, which also leaves out every other size.
    warmup : int
        Operations before them, marked in the result.

    Returns
    -------
    Result
        As of :func:`sweep`. :func:`ratios` makes the map, and
        :func:`epolllab.experiments.scaling_pictures.crossover` draws it. An epoll wait
        may return all that are ready here; what Python's default bound of 1,023 does is
        :func:`propagate`'s subject.

    Raises
    ------
    ValueError, TypeError
        Shares outside 0 to 1 or not rising; not two pollers; as :func:`sweep`.
    DescriptorLimitError
        As :func:`sweep`.
    """
    sizes = numbers("n_fds", n_fds)
    _check(shares, pollers)
    if quick and n_fds is SIZES:
        sizes = SIZES[::2]
    ops = (6 if quick else 15) if ops is None else ops
    rounds = (3 if quick else 5) if rounds is None else rounds
    for name, value, least in (("ops", ops, 1), ("rounds", rounds, 1), ("warmup", warmup, 0)):
        whole(name, value, least)
    plan = waits.Plan(
        "crossover", arms(pollers, api), sizes, partial(_active, tuple(shares)), (kind,), ops,
        warmup, rounds, seed, pin, progress,
    )  # fmt: skip
    return waits.run(plan)


def _check(shares: Sequence[float], pollers: Sequence[str]) -> None:
    if len(pollers) != 2:
        raise ValueError(f"pollers are two to be compared, not {pollers!r}")
    given = list(shares)
    if not given or any(not 0 <= share <= 1 for share in given):
        raise ValueError(f"shares are from 0 (one descriptor) to 1 (all), not {shares!r}")
    if sorted(set(given)) != given:
        raise ValueError(f"shares rise, each once; did you mean {tuple(sorted(set(given)))}?")


def _active(shares: Sequence[float], n: int) -> list[int]:
    return sorted({max(1, round(share * n)) for share in shares})


def ratios(
    data: Result | pd.DataFrame, *, api: str | None = None, value: str = "wait_ns"
) -> pd.DataFrame:
    """Ratio of the two pollers' medians over the grid.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`crossover`.
    api : {"raw", "python"}, optional
        ``"raw"`` where it was measured, by default; ``"python"`` for ``op_ns``.
    value : {"wait_ns", "op_ns"}
        The wait alone, or the whole operation.

    Returns
    -------
    pandas.DataFrame
        A row per field: n_fds; active; ``share`` active / n_fds as one of
        :data:`SHARES`, 0 where one is ready; ``over``, ``under``: which two; ``ratio`` with
        ``low`` and ``high`` (95 %); ``winner``: ``over`` where the interval is below 1,
        ``under`` where it is above, else ``"neither"``; and api.

    Raises
    ------
    ValueError
        The frame has not two pollers.
    """
    frame = data.frame if isinstance(data, Result) else data
    kept = frame[~frame["warmup"] & frame[value].notna()]
    chosen = api or ("raw" if (kept["api"] == "raw").any() else "python")
    kept = kept[kept["api"] == chosen]
    pollers = [str(name) for name in sorted(kept["poller"].unique(), key=POLLERS.index)]
    if len(pollers) != 2:
        raise ValueError(f"a ratio is of two pollers, and the frame has {pollers} by {chosen}")
    rows = [
        _field(key, field, pollers, value)
        for key, field in kept.groupby(["n_fds", "active"], observed=True)
        if field["poller"].nunique() == 2
    ]
    columns = ["n_fds", "active", "share", "over", "under", "ratio", "low", "high", "winner"]
    return pd.DataFrame(rows, columns=pd.Index(columns)).assign(api=chosen)


def _field(key: Any, field: pd.DataFrame, pollers: Sequence[str], value: str) -> tuple[object, ...]:
    n, active = key
    first, second = (field[field["poller"] == name] for name in pollers)
    ratio, low, high = statistics.ratio_interval(
        first[value].to_numpy(float), first["round"], second[value].to_numpy(float), second["round"]
    )
    over, under = pollers
    winner = over if high < 1 else under if low > 1 else "neither"
    return (n, active, _share(n, active), over, under, ratio, low, high, winner)


def _share(n: int, active: int) -> float:
    """Nearest of the usual shares, so that rounding does not make rows of its own."""
    if active == n:
        return 1.0
    if active == 1:
        return 0.0
    share = active / n
    nearest = min(SHARES[1:], key=lambda usual: abs(np.log(usual / share)))
    return nearest if abs(nearest * n - active) <= 0.5 else round(share, 3)
