"""analysis.ratios."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from epolllab.analysis import statistics
from epolllab.analysis.literature import STUDIES, literature, preferred
from epolllab.analysis.result import Result
from epolllab.analysis.shape import POLLERS

__all__ = ["SHARES", "crossover_ratios", "literature_ratios", "shares"]


SHARES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the descriptors that are ready; 0 stands for one, however many there are."""


def literature_ratios(
    result: "Result | pd.DataFrame", study: str = "kerrisk-2010", *, value: str = "wait_ns"
) -> pd.DataFrame:
    """How far the shape of a published table agrees with ours.

    Both are first divided by their own epoll at N = 10: what remains does not depend on
    how fast either machine is. A ratio of 1 says that, seen from epoll, the poller at
    that N cost them exactly what it costs here.

    Parameters
    ----------
    result : Result or pandas.DataFrame
        From :func:`epolllab.experiments.scaling.sweep`; by the raw call where it has that,
        since the published programs are in C. epoll is ``"epoll-level"``.
    study : str
        One with ``op_us``: ``"kerrisk-2010"``, ``"kerrisk-2006"`` or ``"whatacold"``,
        which has no N = 10 and is divided by its epoll at its least N, ours at the same.
    value : {"wait_ns", "op_ns"}
        Which of our times.

    Returns
    -------
    pandas.DataFrame
        A row for each poller and N that both have: poller, n_fds, ``theirs`` and ``ours``
        (each over its own epoll at the least common N), ``ours_low``, ``ours_high``
        (95 % interval), ``ratio`` = theirs / ours, and ``study``.

    Raises
    ------
    ValueError
        The study is no such table, or our result has no epoll-level at an N that it has.
    """
    published = literature(study).dropna(subset=["op_us", "n_fds"])
    if published.empty:
        usable = [name for name, one in STUDIES.items() if one.to_us is not None]
        raise ValueError(f"{study!r} has no times over N; {', '.join(usable)} have")
    ours = _ours(result, value)
    common = sorted(set(ours["n_fds"]) & set(published["n_fds"]))
    base_n = next((n for n in common if _has_epoll(ours, n)), None)
    if base_n is None:
        raise ValueError(
            f"the result has no epoll-level at an N of {study!r}, which has "
            f"{sorted(published['n_fds'].unique())}; measure at these"
        )
    theirs = published.set_index(["arm", "n_fds"])["op_us"]
    rows = [
        _ratio_row(study, poller, n, theirs, ours, base_n, value)
        for poller in ("epoll", "poll", "select")
        for n in common
        if n >= base_n and (poller, n) in theirs.index and len(_arm(ours, poller, n))
    ]
    return pd.DataFrame(
        rows,
        columns=pd.Index(
            ["poller", "n_fds", "theirs", "ours", "ours_low", "ours_high", "ratio", "study"]
        ),
    )


def _ours(result: "Result | pd.DataFrame", value: str) -> pd.DataFrame:
    return preferred(result if isinstance(result, pd.DataFrame) else result.frame, value)


def _arm(ours: pd.DataFrame, poller: str, n: int) -> pd.DataFrame:
    name = "epoll-level" if poller == "epoll" else poller
    return ours[(ours["poller"] == name) & (ours["n_fds"] == n)]


def _has_epoll(ours: pd.DataFrame, n: int) -> bool:
    return len(_arm(ours, "epoll", n)) > 0


def _ratio_row(
    study: str,
    poller: str,
    n: int,
    theirs: "pd.Series[float]",
    ours: pd.DataFrame,
    base_n: int,
    value: str,
) -> tuple[object, ...]:
    here, base = _arm(ours, poller, n), _arm(ours, "epoll", base_n)
    their_ratio = float(theirs[poller, n] / theirs["epoll", base_n])
    if poller == "epoll" and n == base_n:  # the yardstick itself
        interval = statistics.Interval(1.0, 1.0, 1.0)
    else:
        interval = statistics.ratio_interval(
            here[value].to_numpy(float), here["round"], base[value].to_numpy(float), base["round"]
        )
    return (poller, n, their_ratio, *interval, their_ratio / interval.median, study)


def shares(data: Result | pd.DataFrame) -> pd.DataFrame:
    """The kernel's and CPython's share of a wait, where it was measured both ways.

    The kernel's share is the raw wait without what a foreign call costs that makes no
    system call (``raw_floor_ns`` of the circumstances, clock included). CPython's is what
    Python's function takes beyond that, without the clock (``clock_floor_ns``).

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`sweep` or :func:`wait_kinds`; a frame brings the floors in its
        ``attrs``, and without them they count as 0.

    Returns
    -------
    pandas.DataFrame
        A row for each n_fds, poller, kind and active measured both raw and by Python:
        medians ``kernel_ns``, ``cpython_ns`` and ``python_ns``, their sum. Where the
        two ways differ by less than the noise, cpython_ns can be negative.
    """
    frame = data.frame if isinstance(data, Result) else data
    kept = frame[~frame["warmup"]]
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
