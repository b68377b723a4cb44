"""Medians, intervals, straight lines, and when to doubt them.

One job: turn repeated measurements into numbers with their uncertainty. It knows
nothing of descriptors, pollers or charts, and never drops a measurement.

Operations of one round share that round's luck: what else the machine did, where the
memory lay. So an interval is found by resampling *rounds* first and operations within
them second (a two-stage bootstrap: Davison and Hinkley, *Bootstrap Methods and their
Application*, section 3.8). Resampling all operations alike would make a thousand
operations of one unlucky round look like a thousand independent facts.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.integer[Any]]


__all__ = ["Interval", "Line", "fit_line", "fits", "median_interval", "ratio_interval", "summarise"]


RESAMPLES = 400
"""Resamples behind each interval: its ends are good to about a tenth of its width."""

_DRAWS_A_ROUND = 128  # operations drawn from each chosen round; bounds the work and memory
_WIDE = 0.2  # an interval wider than this share of its median is worth a word
_UNEVEN = 1.5  # medians of two rounds that differ by more than this factor are, too
_CLOCK_SHARE = 0.1
_FEW_ROUNDS = 3


class Interval(NamedTuple):
    """A median and where it would plausibly lie if all were measured again."""

    median: float
    low: float
    high: float


def median_interval(
    values: "ArrayLike",
    rounds: "ArrayLike | None" = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Median with a bootstrap interval.

    Parameters
    ----------
    values : array-like
        Measurements in any unit; missing ones are left out.
    rounds : array-like, optional
        The round of each; without it all count as one round, and the interval says
        nothing about what differs between rounds.
    confidence : float
        Share of repetitions whose median the interval is to hold.
    seed : int
        Of the resampling, so that the same data give the same interval.

    Returns
    -------
    Interval
        In the unit of `values`; three NaN where there are none.
    """
    medians = _resampled_medians(values, rounds, seed)
    return _interval(_median(np.asarray(values, dtype=float)), medians, confidence)


def ratio_interval(
    values: "ArrayLike",
    rounds: "ArrayLike",
    others: "ArrayLike",
    other_rounds: "ArrayLike",
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Ratio of two medians, `values` over `others`, with a bootstrap interval.

    Parameters
    ----------
    values, others : array-like
        Measurements of the two arms, in one unit.
    rounds, other_rounds : array-like
        The rounds they belong to.
    confidence : float
        As in :func:`median_interval`.
    seed : int
        As in :func:`median_interval`.

    Returns
    -------
    Interval
        A ratio without unit; it holds 1 where neither can be called faster.
    """
    above = _resampled_medians(values, rounds, seed)
    below = _resampled_medians(others, other_rounds, seed + 1)
    ratio = _median(np.asarray(values, dtype=float)) / _median(np.asarray(others, dtype=float))
    return _interval(ratio, above / below, confidence)


def _median(values: "Floats") -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan


def _interval(median: float, resampled: "Floats", confidence: float) -> Interval:
    if np.isnan(median):
        return Interval(np.nan, np.nan, np.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return Interval(median, min(float(low), median), max(float(high), median))


def _resampled_medians(values: "ArrayLike", rounds: "ArrayLike | None", seed: int) -> "Floats":
    """Medians of `RESAMPLES` two-stage resamples."""
    numbers = np.asarray(values, dtype=float)
    keys = np.zeros(len(numbers), dtype=int) if rounds is None else np.asarray(rounds)
    known = ~np.isnan(numbers)
    numbers, keys = numbers[known], keys[known]
    if not len(numbers):
        return np.full(RESAMPLES, np.nan)
    order = np.argsort(keys, kind="stable")
    numbers = numbers[order]
    _, starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
    random = np.random.default_rng(seed)
    n_rounds = len(starts)
    chosen = random.integers(n_rounds, size=(RESAMPLES, n_rounds, 1))
    n_draws = min(int(np.max(sizes)), _DRAWS_A_ROUND)
    within = random.random((RESAMPLES, n_rounds, n_draws)) * sizes[chosen]
    drawn = numbers[starts[chosen] + within.astype(int)]
    medians: Floats = np.median(drawn.reshape(RESAMPLES, -1), axis=1)
    return medians


def summarise(
    frame: pd.DataFrame, by: Sequence[str], values: Sequence[str], *, clock_cost_ns: float = 0.0
) -> pd.DataFrame:
    """Medians with intervals and doubts, a row per arm.

    Parameters
    ----------
    frame : pandas.DataFrame
        Raw measurements with a column ``round``. Rows whose ``warmup`` is true, if
        there is such a column, are left out.
    by : sequence of str
        Columns that tell arms apart.
    values : sequence of str
        Columns measured.
    clock_cost_ns : float
        Cost of one reading of the clock, for the doubt that it is a large part of a
        time. Only columns ending in ``_ns`` are times.

    Returns
    -------
    pandas.DataFrame
        The columns of `by`; ``n`` measurements in ``rounds`` rounds; for each value
        its median under its own name, ``_low`` and ``_high`` ends of the 95 % interval,
        ``_spread``: the quartile range over the median; and ``doubt``: sentences, empty
        where there is none.
    """
    kept = frame[~frame["warmup"]] if "warmup" in frame else frame
    rows = [
        {
            **dict(zip(by, key, strict=True)),
            "n": len(group),
            "rounds": group["round"].nunique(),
            **_described(group, values, clock_cost_ns),
        }
        for key, group in kept.groupby(list(by), observed=True, sort=True)
    ]
    columns = [*by, "n", "rounds", *_value_columns(values), "doubt"]
    table = pd.DataFrame(rows, columns=pd.Index(columns))
    return table.astype({name: frame[name].dtype for name in by} | {"doubt": "str"})


def _value_columns(values: Iterable[str]) -> list[str]:
    return [name + end for name in values for end in ("", "_low", "_high", "_spread")]


def _described(group: pd.DataFrame, values: Sequence[str], clock_cost_ns: float) -> dict[str, Any]:
    row: dict[str, Any] = {}
    doubts: list[str] = []
    for name in values:
        numbers = group[name].to_numpy(dtype=float, na_value=np.nan)
        interval = median_interval(numbers, group["round"])
        row |= {name: interval.median, name + "_low": interval.low, name + "_high": interval.high}
        row[name + "_spread"] = _spread(numbers)
        clock = clock_cost_ns if name.endswith("_ns") else 0.0
        doubts += _doubts(name, numbers, group["round"].to_numpy(), interval, clock)
    if group["round"].nunique() < _FEW_ROUNDS:
        doubts.append(f"fewer than {_FEW_ROUNDS} rounds, so little is known of their differences")
    return row | {"doubt": "; ".join(doubts)}


def _spread(numbers: "Floats") -> float:
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return np.nan
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
    return float((high - low) / middle) if middle else np.nan


def _doubts(
    name: str, numbers: "Floats", rounds: "Ints", interval: Interval, clock_cost_ns: float
) -> list[str]:
    """Reasons not to lean on a median."""
    if not interval.median > 0:
        return []
    found = []
    width = (interval.high - interval.low) / interval.median
    if width > _WIDE:
        found.append(f"{name}: the interval is {width:.0%} of the median wide")
    medians = pd.Series(numbers).groupby(rounds).median()
    if medians.min() > 0 and medians.max() > _UNEVEN * medians.min():
        found.append(f"{name}: rounds differ by a factor {medians.max() / medians.min():.1f}")
    if clock_cost_ns > _CLOCK_SHARE * interval.median:
        found.append(f"{name}: reading the clock is {clock_cost_ns / interval.median:.0%} of it")
    return found


# --- straight lines ---------------------------------------------------------------------


class Line(NamedTuple):
    """``a + b * x`` by least squares, with 95 % intervals over rounds."""

    a: float
    """Where the line meets x = 0, in the unit of y."""
    a_low: float
    a_high: float
    b: float
    """Growth for each unit of x."""
    b_low: float
    b_high: float
    r2: float
    """Share of y's variance that the line explains. Of a flat line it says nothing:
    where y does not grow there is no variance to explain."""
    residual: float
    """Root of the mean squared distance of the points from the line, in the unit of y."""
    worst_x: float
    """The x whose median is farthest from the line, as a share of itself."""
    worst_share: float
    """That share; 0.5 says that the line is wrong by half there."""


def fit_line(x: "ArrayLike", y: "ArrayLike", rounds: "ArrayLike | None" = None) -> Line:
    """Least squares through one point at each x: the median over rounds of their medians.

    Medians, so that a round in which the machine did something else does not tilt the line.

    Parameters
    ----------
    x, y : array-like
        Raw measurements; missing ones are left out.
    rounds : array-like, optional
        The round of each. The intervals come of resampling whole rounds.

    Returns
    -------
    Line
        All NaN with fewer than two different x.

    Notes
    -----
    Squares are of absolute distances, so the largest x decides, and at small x the
    line can miss by a large share without harm to R²; ``worst_share`` says so.
    """
    data = pd.DataFrame({"x": np.asarray(x), "y": np.asarray(y, dtype=float)}).assign(
        round=0 if rounds is None else np.asarray(rounds)
    )
    table = data.dropna().groupby(["round", "x"])["y"].median().unstack("x")
    if table.shape[1] < 2:
        return Line(*[np.nan] * len(Line._fields))
    xs, ys = table.columns.to_numpy(dtype=float), table.to_numpy(dtype=float)
    a, b = _least_squares(xs, np.nanmedian(ys, axis=0))
    (a_low, a_high), (b_low, b_high) = _line_intervals(xs, ys)
    return Line(a, a_low, a_high, b, b_low, b_high, *_quality(xs, np.nanmedian(ys, axis=0), a, b))


def _line_intervals(xs: "Floats", ys: "Floats") -> list[list[float]]:
    """Ends for a and for b; `ys` has a row per round, and holes where one was cut short."""
    n = len(ys)
    if n < 2:
        return [[np.nan, np.nan]] * 2
    random = np.random.default_rng(0)
    lines = []
    for _ in range(RESAMPLES):
        chosen = ys[random.integers(n, size=n)]
        whole = ~np.isnan(chosen).all(axis=0)
        lines.append(_least_squares(xs[whole], np.nanmedian(chosen[:, whole], axis=0)))
    ends: list[list[float]] = np.nanquantile(lines, (0.025, 0.975), axis=0).T.tolist()
    return ends


def _least_squares(xs: "Floats", ys: "Floats") -> tuple[float, float]:
    """Intercept and slope; NaN with fewer than two different x."""
    if len(xs) < 2:
        return np.nan, np.nan
    deviation = xs - xs.mean()
    b = float(deviation @ ys / (deviation @ deviation))
    return float(ys.mean() - b * xs.mean()), b


def _quality(xs: "Floats", ys: "Floats", a: float, b: float) -> tuple[float, float, float, float]:
    residuals = ys - (a + b * xs)
    total = float(((ys - ys.mean()) ** 2).sum())
    r2 = 1 - float((residuals**2).sum()) / total if total else np.nan
    shares = np.abs(residuals) / np.maximum(np.abs(ys), np.finfo(float).tiny)
    worst = int(np.argmax(shares))
    rms = float(np.sqrt((residuals**2).mean()))
    return r2, rms, float(xs[worst]), float(shares[worst])


def fits(frame: pd.DataFrame, by: Sequence[str], x: str, y: str) -> pd.DataFrame:
    """Fit a line to each arm, a row per arm.

    Parameters
    ----------
    frame : pandas.DataFrame
        Raw measurements with a column ``round``; warm-up is left out.
    by : sequence of str
        Columns that tell arms apart.
    x, y : str
        Columns of the line.

    Returns
    -------
    pandas.DataFrame
        The columns of `by`, then those of :class:`Line`.
    """
    kept = frame[~frame["warmup"]] if "warmup" in frame else frame
    groups = kept.groupby(list(by), observed=True, sort=True)
    rows = [
        (*key, *fit_line(group[x], group[y].to_numpy(float, na_value=np.nan), group["round"]))
        for key, group in groups
    ]
    table = pd.DataFrame(rows, columns=pd.Index([*by, *Line._fields]))
    return table.astype({name: frame[name].dtype for name in by})
