"""Ratios and shares of measured times: against a published table, and between pollers."""

from typing import Any

import numpy as np
import pandas as pd

from epolllab.analysis import statistics
from epolllab.analysis.hosts import require_one_run
from epolllab.analysis.literature import literature, studies
from epolllab.analysis.result import Result, frame_of
from epolllab.analysis.shape import ALL_POLLERS, select_api, without_floor
from epolllab.checks import check_choice
from epolllab.frames.columns import check_frame

__all__ = ["SHARES", "crossover_ratios", "literature_ratios", "nearest_share", "shares"]

SHARES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the descriptors that are ready; 0 means one descriptor."""


def literature_ratios(
    result: Result | pd.DataFrame, study: str = "kerrisk-2010", *, value: str = "wait_ns"
) -> pd.DataFrame:
    """Compare the shape of a published table with that of a sweep.

    Both are first divided by their own epoll at N = 10, so the speed of the machines
    cancels out. A ratio of 1 means that the poller at that N costs the same multiple of
    epoll there as here. What our clock and ctypes take is subtracted from our times before
    (``raw_floor_ns`` and ``clock_floor_ns`` of the circumstances, as in :func:`shares`):
    it is a third of our epoll wait, and the published programs are in C.

    Parameters
    ----------
    result : Result or pandas.DataFrame
        From :func:`epolllab.experiments.sweep`; raw calls if there are any, since the
        published programs are in C. epoll is ``"epoll-level"``.
    study : str
        One with ``op_us``: ``"kerrisk-2010"``, ``"kerrisk-2006"`` or ``"whatacold"``,
        which has no N = 10 and is divided by its epoll at its smallest N.
    value : {"wait_ns", "op_ns"}
        Which of our times.

    Returns
    -------
    pandas.DataFrame
        A row for each poller and N that both have: poller, n_fds, ``theirs`` and ``ours``
        (each over its own epoll at the smallest common N), ``ours_low``, ``ours_high``
        (95 % interval), ``ratio`` = theirs / ours, and ``study``.
    """
    check_choice("study", study, studies())
    published = literature(study).dropna(subset=["op_us", "n_fds"])
    if published.empty:
        usable = [name for name, one in studies().items() if one.to_us is not None]
        raise ValueError(f"study {study!r} has no times over N; choose {', '.join(usable)}")
    ours = without_floor(select_api(frame_of(result, "result"), value, name="result"), value)
    common = sorted(set(ours["n_fds"]) & set(published["n_fds"]))
    base_n = next((n for n in common if len(_times(ours, "epoll", n))), None)
    if base_n is None:
        raise ValueError(
            f"result has no epoll-level at an N of study {study!r}; measure at some of "
            f"{sorted(map(int, published['n_fds'].unique()))}"
        )
    theirs = published.set_index(["arm", "n_fds"])["op_us"]
    rows = []
    for poller in ("epoll", "poll", "select"):
        for n in common:
            here = _times(ours, poller, n)
            if n < base_n or (poller, n) not in theirs.index or here.empty:
                continue
            interval = statistics.Interval(1.0, 1.0, 1.0)
            if (poller, n) != ("epoll", base_n):
                interval = _ratio(here, _times(ours, "epoll", base_n), value)
            their_ratio = float(theirs[poller, n] / theirs["epoll", base_n])
            rows.append((poller, n, their_ratio, *interval, their_ratio / interval.median, study))
    columns = ["poller", "n_fds", "theirs", "ours", "ours_low", "ours_high", "ratio", "study"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def _times(ours: pd.DataFrame, poller: str, n: int) -> pd.DataFrame:
    name = "epoll-level" if poller == "epoll" else poller
    return ours[(ours["poller"] == name) & (ours["n_fds"] == n)]


def _ratio(above: pd.DataFrame, below: pd.DataFrame, value: str) -> statistics.Interval:
    return statistics.ratio_interval(
        above[value].to_numpy(float), above["round"], below[value].to_numpy(float), below["round"]
    )


def shares(data: Result | pd.DataFrame) -> pd.DataFrame:
    """The kernel's and CPython's parts of a wait, where it was measured both ways.

    The kernel's part is the raw wait minus the cost of a foreign call without a system
    call (``raw_floor_ns`` of the circumstances, clock included). CPython's part is what
    Python's function takes beyond that, without the clock (``clock_floor_ns``).

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From ``sweep`` or ``wait_kinds``; a frame has the floors in its ``attrs``, and
        missing ones count as 0.

    Returns
    -------
    pandas.DataFrame
        A row for each n_fds, poller, kind and active measured both ways: medians
        ``kernel_ns``, ``cpython_ns`` and ``python_ns``, their sum. cpython_ns can be
        negative where the two differ by less than the noise.
    """
    frame = frame_of(data)
    columns = "poller* kind* api* n_fds+ active+ wait_ns?"
    check_frame("data", frame, ":func:`epolllab.experiments.sweep`", columns)
    require_one_run("data", frame)
    kept = statistics.without_warmup(frame)
    medians = (
        kept.assign(api=kept["api"].astype("str"))
        .groupby(["n_fds", "poller", "kind", "active", "api"], observed=True)["wait_ns"]
        .median()
        .unstack("api")
        .reindex(columns=["raw", "python"])
        .dropna()
    )
    kernel = medians["raw"] - (frame.attrs.get("raw_floor_ns") or 0.0)
    python = medians["python"] - (frame.attrs.get("clock_floor_ns") or 0.0)
    table = pd.DataFrame({"kernel_ns": kernel, "cpython_ns": python - kernel, "python_ns": python})
    return table.reset_index()


def crossover_ratios(
    data: Result | pd.DataFrame, *, api: str | None = None, value: str = "wait_ns"
) -> pd.DataFrame:
    """Ratio of two pollers' medians, for each number of watched and ready descriptors.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From ``crossover``.
    api : {"raw", "python"}, optional
        ``"raw"`` by default if it was measured; ``op_ns`` is measured by ``"python"``.
    value : {"wait_ns", "op_ns"}
        The wait alone, or the whole operation.

    Returns
    -------
    pandas.DataFrame
        A row per combination: n_fds; active; ``share`` active / n_fds as one of
        :data:`SHARES`, 0 where one is ready; ``over``, ``under``: the two pollers;
        ``ratio`` with ``low`` and ``high`` (95 %); ``winner``: ``over`` if the interval is
        below 1, ``under`` if it is above, else ``"neither"``; and api.
    """
    frame = check_frame(
        "data", frame_of(data), ":func:`epolllab.experiments.crossover`", "n_fds+ active+"
    )
    kept = select_api(frame, value, api)
    kept = kept[(kept["n_fds"] > 0) & (kept["active"] > 0)]
    pollers = [str(name) for name in sorted(kept["poller"].unique(), key=_rank)]
    if len(pollers) != 2:
        raise ValueError(
            f"data must have times of two pollers by {api or 'one API'}, and has {pollers}"
        )
    over, under = pollers
    groups: Any = kept.groupby(["n_fds", "active"], observed=True)
    rows = []
    for (n, active), group in groups:
        if group["poller"].nunique() < 2:
            continue
        above, below = (group[group["poller"] == poller] for poller in pollers)
        ratio, low, high = _ratio(above, below, value)
        winner = over if high < 1 else under if low > 1 else "neither"
        share = nearest_share(n, active)
        rows.append((n, active, share, over, under, ratio, low, high, winner))
    columns = ["n_fds", "active", "share", "over", "under", "ratio", "low", "high", "winner"]
    return pd.DataFrame(rows, columns=pd.Index(columns)).assign(api=str(kept["api"].iloc[0]))


def _rank(poller: str) -> int:
    return ALL_POLLERS.index(poller) if poller in ALL_POLLERS else len(ALL_POLLERS)


def nearest_share(n: int, active: int) -> float:
    """The nearest of the usual shares, so that rounding does not create further ones."""
    if active == n:
        return 1.0
    if active == 1:
        return 0.0
    share = active / n
    nearest = min(SHARES[1:], key=lambda usual: abs(np.log(usual / share)))
    return nearest if abs(nearest * n - active) <= 0.5 else round(share, 3)
