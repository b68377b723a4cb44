"""Medians, intervals, lines and warnings, in cases that can be worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epolllab.analysis import statistics


def test_interval_is_wide_if_rounds_differ():
    """Operations of one round do not count as independent."""
    chance = np.random.default_rng(2)
    values = np.concatenate([chance.normal(middle, 1, 500) for middle in (100, 150, 200)])
    rounds = np.repeat([0, 1, 2], 500)
    apart = statistics.median_interval(values, rounds)
    alike = statistics.median_interval(values)
    assert apart.high - apart.low > 80
    assert alike.high - alike.low < apart.high - apart.low


def test_coverage_of_intervals():
    """Of 100 samples with a known median, most 95 % intervals contain it."""
    chance = np.random.default_rng(3)
    held = 0
    for _ in range(100):
        interval = statistics.median_interval(chance.normal(50, 10, 60))
        held += interval.low <= 50 <= interval.high
    assert held >= 85


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=40))
def test_median_lies_within_its_interval(values):
    """Low <= median <= high, within the range of the values, and the same each time."""
    interval = statistics.median_interval(values)
    assert min(values) <= interval.low <= interval.median <= interval.high <= max(values)
    assert interval.median == np.median(values)
    assert interval == statistics.median_interval(values)


def test_too_few_values_give_nan():
    """No values, or missing ones only, have no median, and one size has no slope."""
    for values in ([], [np.nan, np.nan]):
        assert all(np.isnan(part) for part in statistics.median_interval(values))
    assert np.isnan(statistics.fit_line([10, 10], [1.0, 2.0]).b)


def test_ratio_interval():
    """A ratio of exact values is exact; the interval of noisy ones contains the true ratio."""
    rounds = [0] * 50
    assert statistics.ratio_interval([3.0] * 50, rounds, [2.0] * 50, rounds) == (1.5, 1.5, 1.5)
    chance = np.random.default_rng(4)
    ratio = statistics.ratio_interval(
        chance.normal(300, 20, 50), rounds, chance.normal(100, 5, 50), rounds
    )
    assert ratio.low < 3 < ratio.high


def test_line_through_exact_points():
    """The line is found, with no residual."""
    x = [10, 100, 1000] * 3
    rounds = np.repeat([0, 1, 2], 3)
    line = statistics.fit_line(x, [5 + 2 * n for n in x], rounds)
    assert line.a == pytest.approx(5)
    assert line.b == pytest.approx(2)
    assert (line.a_low, line.b_high) == (pytest.approx(5), pytest.approx(2))
    assert line.residual == pytest.approx(0, abs=1e-9)


def test_worst_share_of_a_line():
    """A curve has the worst share at its small end."""
    x = [10, 100, 1000, 10_000]
    line = statistics.fit_line(x, [n + n**2 / 20_000 for n in x])
    assert line.worst_x == 10
    assert line.worst_share > 0.5


@pytest.mark.parametrize("power", [0.0, 0.5, 0.7, 1.0, 2.0])
def test_growth_is_the_power(power):
    """The exponent is found to the digit, and fewer than two x of 100 or more give NaN."""
    x = [1, 10, 100, 1000, 10_000] * 3
    rounds = np.repeat([0, 1, 2], 5)
    found = statistics.growth(x, [7.0 * n**power for n in x], rounds)
    assert found == pytest.approx((power, power, power))
    assert np.isnan(statistics.growth(x[:3], [1.0, 2.0, 3.0], rounds[:3])).all()


def test_interval_of_growth_shows_how_rounds_differ():
    x, rounds = [100, 10_000] * 3, [0, 0, 1, 1, 2, 2]
    y = [n ** (0.9 + 0.1 * r) for n, r in zip(x, rounds, strict=True)]
    found = statistics.growth(x, y, rounds)
    assert found == pytest.approx((1.0, 0.9, 1.1))


def _frame(times, rounds=3):
    return pd.DataFrame(
        [
            {"round": r, "arm": arm, "wait_ns": value, "warmup": i == 0}
            for r in range(rounds)
            for arm, values in times.items()
            for i, value in enumerate(values)
        ]
    )


@pytest.mark.parametrize("dtype", ["object", "boolean", "int8", "float"])
def test_warmup_of_any_type_that_joining_or_reading_makes(dtype):
    frame = pd.DataFrame({"warmup": pd.Series([True, False, None], dtype="boolean")})
    kept = frame if dtype in ("object", "boolean") else frame[:2]
    counted = statistics.without_warmup(kept.astype({"warmup": dtype}))
    assert list(counted.index) == list(kept.index[1:])
    with pytest.raises(TypeError, match=r"^column warmup\b"):
        statistics.without_warmup(frame.astype("str"))


def test_summary_leaves_warmup_out_and_keeps_order():
    """A row per variant, without warm-up, with counts; no row for an empty frame."""
    table = statistics.summarise(_frame({"a": [900, 5, 5], "b": [900, 7, 7]}), ["arm"], ["wait_ns"])
    assert table["arm"].tolist() == ["a", "b"]
    assert table["wait_ns"].tolist() == [5, 7]
    assert table["n"].tolist() == [6, 6]
    assert table["rounds"].tolist() == [3, 3]
    assert table["doubt"].tolist() == ["", ""]
    empty = statistics.summarise(_frame({"a": [1]}).iloc[:0], ["arm"], ["wait_ns"])
    assert list(empty.columns) == list(table.columns)
    assert len(empty) == 0


def test_warnings():
    """Wide intervals, uneven rounds, few rounds and a slow clock each have one."""
    frame = _frame({"a": [0, 100, 100]}).assign(
        wait_ns=lambda f: f["wait_ns"] * f["round"].map({0: 1, 1: 2, 2: 4})
    )
    doubt = statistics.summarise(frame, ["arm"], ["wait_ns"], clock_cost_ns=50)["doubt"][0]
    assert "the interval is 150% of the median wide" in doubt
    assert "rounds differ by a factor 4.0" in doubt
    assert "reading the clock is 25% of it" in doubt
    few = statistics.summarise(_frame({"a": [0, 5]}, rounds=1), ["arm"], ["wait_ns"])
    assert "fewer than 3 rounds" in few["doubt"][0]


def test_fits_have_a_row_per_variant():
    columns = {"arm": ["a", "a", "b", "b"], "n": [1, 2, 1, 2], "wait_ns": [1.0, 2.0, 5.0, 5.0]}
    frame = pd.DataFrame(columns).assign(round=0)
    table = statistics.fits(frame, ["arm"], "n", "wait_ns").set_index("arm")
    assert table["b"].tolist() == [pytest.approx(1), pytest.approx(0)]


@pytest.mark.parametrize(("n", "expected"), [
    (0, {}), (9, {50.0: 5}), (100, {50.0: 50, 90.0: 90, 99.0: 99}),
    (1000, {50.0: 500, 90.0: 900, 99.0: 990, 99.9: 999}),
])  # fmt: skip
def test_percentiles_that_the_number_of_values_supports(n, expected):
    """Each is one of the values, the smallest with that share at or below it."""
    values = np.arange(n, 0, -1)
    assert statistics.percentiles(values) == expected
    for p in (50, 90, 99, 99.9):
        assert statistics.percentile(values, p) == pytest.approx(
            expected.get(p, np.nan), nan_ok=True
        )


@pytest.mark.parametrize(("p", "least"), [(75, 4), (95, 20), (99.99, 10_000), (33, 1)])
def test_a_percentile_needs_a_value_beyond_it(p, least):
    """Missing values do not count."""
    values = [np.nan, *range(1, least + 1), None]
    assert statistics.percentile(values, p) == -(-least * round(p * 100) // 10_000)
    assert least == 1 or np.isnan(statistics.percentile(values[:-2], p))


@pytest.mark.parametrize("p", [0, 100, -1, np.nan, 1e300, True, "99"])
def test_a_percentile_is_between_0_and_100(p):
    with pytest.raises((TypeError, ValueError), match=r"^p\b"):
        statistics.percentile([1, 2], p)
