"""Medians and straight lines with bootstrap intervals, and warnings about weak numbers.

Operations of one round share conditions: other load on the machine, memory layout. So an
interval is found by resampling *rounds* first and operations within them second (a
two-stage bootstrap: Davison and Hinkley, *Bootstrap Methods and their Application*,
section 3.8). Resampling all operations equally would treat a thousand operations of one
slow round as a thousand independent observations.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from epolllab.analysis.hosts import require_runs_apart
from epolllab.checks import check_choice, check_number, check_sequence, shown
from epolllab.frames.columns import check_column, check_frame

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.integer[Any]]

__all__ = [
    "Interval", "Line", "fit_line", "fits", "growth", "median_interval", "percentile",
    "percentiles", "ratio_interval", "summarise", "without_warmup",
]  # fmt: skip

RESAMPLES = 400
"""Resamples per interval: its ends are accurate to about a tenth of its width."""

_DRAWS_PER_ROUND = 128  # limits the work and memory
_WIDE = 0.2  # warn of an interval wider than this share of its median
_UNEVEN = 1.5  # warn if medians of two rounds differ by more than this factor
_CLOCK_SHARE = 0.1
_LEAST_X = 100
_FEW_ROUNDS = 3
_PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Interval(NamedTuple):
    """A median and the range in which it would lie if everything were measured again."""

    median: float
    low: float
    high: float


def median_interval(values: "ArrayLike", rounds: "ArrayLike | None" = None) -> Interval:
    """Median with a 95 % bootstrap interval.

    Parameters
    ----------
    values : array-like
        Measurements in any unit; missing ones are ignored.
    rounds : array-like, optional
        The round of each. Without it all count as one round, and the interval does not
        include differences between rounds.

    Returns
    -------
    Interval
        In the unit of `values`; three NaN if there are none. The same data give the same
        interval.
    """
    known = check_numbers("values", values)
    keys = _check_rounds("rounds", rounds, known)
    return _interval(_median(known), _resampled_medians(known, keys, seed=0))


def ratio_interval(
    values: "ArrayLike", rounds: "ArrayLike", others: "ArrayLike", other_rounds: "ArrayLike"
) -> Interval:
    """Ratio of two medians, `values` over `others`, with a 95 % bootstrap interval.

    `rounds` and `other_rounds` are the rounds they belong to. The interval, without unit,
    contains 1 if neither is clearly faster.
    """
    over, under = check_numbers("values", values), check_numbers("others", others)
    keys = _check_rounds("rounds", rounds, over)
    other_keys = _check_rounds("other_rounds", other_rounds, under)
    above = _resampled_medians(over, keys, seed=0)
    below = _resampled_medians(under, other_keys, seed=1)
    return _interval(_median(over) / _median(under), above / below)


def _check_rounds(name: str, rounds: "ArrayLike | None", values: "Floats") -> "Floats":
    """Return the round of each value; without them all are of one round."""
    keys = np.zeros(len(values)) if rounds is None else check_numbers(name, rounds)
    if len(keys) != len(values):
        raise ValueError(f"{name} must have one for each value, {len(values):,}, not {len(keys):,}")
    return keys


def _median(values: "Floats") -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan


def _interval(median: float, resampled: "Floats") -> Interval:
    if np.isnan(median):
        return Interval(np.nan, np.nan, np.nan)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(median, min(float(low), median), max(float(high), median))


def _resampled_medians(values: "Floats", rounds: "Floats", seed: int) -> "Floats":
    """Medians of `RESAMPLES` two-stage resamples."""
    known = ~np.isnan(values)
    numbers, keys = values[known], rounds[known]
    if not len(numbers):
        return np.full(RESAMPLES, np.nan)
    order = np.argsort(keys, kind="stable")
    numbers = numbers[order]
    _, starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
    random = np.random.default_rng(seed)
    n_rounds = len(starts)
    chosen = random.integers(n_rounds, size=(RESAMPLES, n_rounds, 1))
    n_draws = min(int(np.max(sizes)), _DRAWS_PER_ROUND)
    within = random.random((RESAMPLES, n_rounds, n_draws)) * sizes[chosen]
    drawn = numbers[starts[chosen] + within.astype(int)]
    medians: Floats = np.median(drawn.reshape(RESAMPLES, -1), axis=1)
    return medians


def percentile(values: "ArrayLike", p: float) -> float:
    """A percentile, as every summary, table and chart of this package has it.

    It is the smallest value with at least `p` per cent of the values at or below it, so it
    is one of them. Above the median it needs 100 / (100 - p) values: the 90th needs 10, the
    99th 100, the 99.9th 1,000. With fewer it would be the maximum under another name.

    Parameters
    ----------
    values : array-like
        Numbers in any unit; missing ones are ignored.
    p : float
        Above 0 and below 100, in steps of a hundredth.

    Returns
    -------
    float
        NaN if there are too few values.
    """
    known = check_numbers("values", values)
    known = known[~np.isnan(known)]
    n = len(known)
    # In hundredths of a per cent, as 0.999 * 1000 in floats is a little over 999.
    share = round(check_number("p", p, 0.01, 99.99) * 100)
    if n < (1 if share <= 5000 else 10_000 / (10_000 - share)):
        return math.nan
    rank = -(-n * share // 10_000) - 1
    return float(np.partition(known, rank)[rank])


def percentiles(values: "ArrayLike") -> dict[float, float]:
    """The 50th, 90th, 99th and 99.9th :func:`percentile`; without those that are missing."""
    found = {p: percentile(values, p) for p in _PERCENTILES}
    return {p: value for p, value in found.items() if not math.isnan(value)}


def check_numbers(name: str, values: "ArrayLike") -> "Floats":
    """Return array-like numbers as a flat array of floats, missing ones as NaN."""
    try:
        numbers: Any = pd.Series(values)
        array: Floats = numbers.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} must be a sequence of numbers: {error}") from None
    if np.ndim(values) != 1:
        raise ValueError(f"{name} must be a sequence of numbers, not {shown(values)}")
    return array


def summarise(
    frame: pd.DataFrame, by: Sequence[str], values: Sequence[str], *, clock_cost_ns: float = 0.0
) -> pd.DataFrame:
    """Medians with intervals and warnings, a row per variant.

    Parameters
    ----------
    frame : pandas.DataFrame
        Raw measurements with a column ``round``. Rows whose ``warmup`` is true, if
        there is such a column, are left out.
    by : sequence of str
        Columns that identify a variant.
    values : sequence of str
        Measured columns.
    clock_cost_ns : float
        Cost of reading the clock once; a warning says if it is a large part of a time.
        Only columns ending in ``_ns`` are times.

    Returns
    -------
    pandas.DataFrame
        The columns of `by`; ``n`` measurements in ``rounds`` rounds; for each value
        its median under its own name, ``_low`` and ``_high`` ends of the 95 % interval,
        ``_spread``: the interquartile range over the median; and ``doubt``: warnings as
        text, empty if there are none.
    """
    check_columns(frame, by=by, values=values)
    check_number("clock_cost_ns", clock_cost_ns, 0, 1e9)
    kept = without_warmup(frame)
    rows = [
        {
            **dict(zip(by, key, strict=True)),
            "n": len(group),
            "rounds": group["round"].nunique(),
            **_described(group, values, clock_cost_ns),
        }
        for key, group in kept.groupby(list(by), observed=True, sort=True)
    ]
    measured = [name + end for name in values for end in ("", "_low", "_high", "_spread")]
    columns = [*by, "n", "rounds", *measured, "doubt"]
    table = pd.DataFrame(rows, columns=pd.Index(columns))
    return table.astype({name: frame[name].dtype for name in by} | {"doubt": "str"})


def check_columns(frame: pd.DataFrame, by: Sequence[str], **numbers: Any) -> None:
    """Check that a frame has a round, the columns of `by`, and the others as numbers."""
    check_frame("frame", frame, "an experiment", "round")
    one_of = partial(check_choice, allowed=[str(column) for column in frame])
    if not check_sequence("by", by, one_of):
        raise ValueError("by must not be empty; give the columns that identify a variant")
    require_runs_apart(by, frame)
    for name, given in numbers.items():
        columns = (given,) if isinstance(given, str) else given
        chosen = (
            check_sequence(name, columns, one_of) if name == "values" else (one_of(name, given),)
        )
        for column in chosen:
            check_column(f"{name} must be columns of numbers: {column}", frame[column])


def without_warmup(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that count: without those of warm-up, if there is such a column."""
    if "warmup" not in frame:
        return frame
    warmup = frame["warmup"].dropna()
    if not warmup.isin([0, 1]).all():
        raise TypeError(f"column warmup must have True or False, not {warmup.dtype}")
    return frame[~frame["warmup"].isin([1])]


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
        doubts.append(f"fewer than {_FEW_ROUNDS} rounds, too few to show how rounds differ")
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


class Line(NamedTuple):
    """``a + b * x`` by least squares, with 95 % intervals over rounds."""

    a: float
    """Value at x = 0, in the unit of y."""
    a_low: float
    a_high: float
    b: float
    """Growth per unit of x."""
    b_low: float
    b_high: float
    residual: float
    """Root mean square distance of the points from the line, in the unit of y."""
    worst_x: float
    """The x whose median is farthest from the line, relative to the median."""
    worst_share: float
    """That relative distance; 0.5 means that the line is wrong by half there."""


def fit_line(x: "ArrayLike", y: "ArrayLike", rounds: "ArrayLike | None" = None) -> Line:
    """Least squares through one point per x: the median over rounds of their medians.

    With medians, one disturbed round does not tilt the line.

    Parameters
    ----------
    x, y : array-like
        Raw measurements; missing ones are ignored.
    rounds : array-like, optional
        The round of each. The intervals come from resampling whole rounds.

    Returns
    -------
    Line
        All NaN with fewer than two different x.

    Notes
    -----
    The squares are of absolute distances, so the largest x dominates. At small x the line
    can miss by a large share; see ``worst_share``. Whether y is proportional to x is a
    question for :func:`growth`.
    """
    data = _points(x, y, rounds)
    table = data.dropna().groupby(["round", "x"])["y"].median().unstack("x")
    if table.shape[1] < 2:
        return Line(*[np.nan] * len(Line._fields))
    xs, ys = table.columns.to_numpy(dtype=float), table.to_numpy(dtype=float)
    medians = np.nanmedian(ys, axis=0)
    a, b = _least_squares(xs, medians)
    (a_low, a_high), (b_low, b_high) = _line_intervals(xs, ys)
    return Line(a, a_low, a_high, b, b_low, b_high, *_quality(xs, medians, a, b))


def _points(x: "ArrayLike", y: "ArrayLike", rounds: "ArrayLike | None") -> pd.DataFrame:
    xs, ys = check_numbers("x", x), check_numbers("y", y)
    if len(xs) != len(ys):
        raise ValueError(f"y must have one for each x, {len(xs):,}, not {len(ys):,}")
    return pd.DataFrame({"x": xs, "y": ys, "round": _check_rounds("rounds", rounds, xs)})


def _line_intervals(xs: "Floats", ys: "Floats") -> list[list[float]]:
    """Interval ends of a and b; a row of `ys` per round, NaN where a round was cut short."""
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


def _quality(xs: "Floats", ys: "Floats", a: float, b: float) -> tuple[float, float, float]:
    residuals = ys - (a + b * xs)
    shares = np.abs(residuals) / np.maximum(np.abs(ys), np.finfo(float).tiny)
    worst = int(np.argmax(shares))
    rms = float(np.sqrt((residuals**2).mean()))
    return rms, float(xs[worst]), float(shares[worst])


def growth(x: "ArrayLike", y: "ArrayLike", rounds: "ArrayLike | None" = None) -> Interval:
    """Exponent p of ``y ~ x ** p``: the slope of log y over log x, with its 95 % interval.

    1 means proportional to x, 0 independent of it. Only `x` of at least 100 count, as
    below that the fixed cost of a call hides the growth; NaN with fewer than two of them.
    R² of a straight line does not answer this: over x = 10 to 10,000 it is 0.97 for the
    square root of x, and 0.99 for its square.
    """
    data = _points(x, y, rounds)
    data = data[(data["x"] >= _LEAST_X) & (data["y"] > 0)]
    line = fit_line(np.log(data["x"]), np.log(data["y"]), data["round"])
    return Interval(line.b, line.b_low, line.b_high)


def fits(frame: pd.DataFrame, by: Sequence[str], x: str, y: str) -> pd.DataFrame:
    """Fit a line to each variant, without warm-up.

    `frame` has a column ``round``, those of `by`, which identify a variant, `x` and `y`.
    Returns a row per variant: the columns of `by`, those of :class:`Line`, and
    ``exponent``, ``exponent_low`` and ``exponent_high`` from :func:`growth`.
    """
    check_columns(frame, by=by, x=x, y=y)
    groups = without_warmup(frame).groupby(list(by), observed=True, sort=True)
    rows = []
    for key, group in groups:
        points = (group[x], group[y].to_numpy(float, na_value=np.nan), group["round"])
        rows.append((*key, *fit_line(*points), *growth(*points)))
    exponent = ("exponent", "exponent_low", "exponent_high")
    table = pd.DataFrame(rows, columns=pd.Index([*by, *Line._fields, *exponent]))
    return table.astype({name: frame[name].dtype for name in by})
