"""The named checks of a sweep's shape, on synthetic times and on a real default run."""

import pandas as pd
import pytest

from epolllab import experiments, kernel
from epolllab.analysis.shape import shape
from epolllab.experiments.scaling.variants import POLLERS
from tests.analysis.samples import sweep

FLAT = {10: 1000, 100: 1000, 1_000: 1000, 10_000: 1100}
STEEP = {10: 1500, 100: 6000, 1_000: 51_000, 10_000: 501_000}


def test_the_published_shape_holds():
    """A flat epoll, poll and select proportional to N, and a factor far above 100."""
    times = {"epoll-level": FLAT, "epoll-edge": FLAT, "poll": STEEP, "select": STEEP}
    table = shape(sweep(times))
    assert table["check"].tolist() == [
        "epoll-level is flat", "epoll-edge is flat", "poll is proportional to N",
        "select is proportional to N", "poll over epoll",
    ]  # fmt: skip
    assert set(table["verdict"]) == {"holds"}
    found = table.set_index("check")["value"]
    assert found["epoll-level is flat"] == pytest.approx(1.1, rel=0.01)
    assert found["poll over epoll"] == pytest.approx(501 / 1.1, rel=0.01)
    assert table.set_index("check")["margin"]["poll over epoll"] == "over 100"


def test_what_the_clock_and_ctypes_take_is_subtracted():
    """An equal constant in all times makes their ratio smaller."""
    frame = sweep({"epoll-level": FLAT, "poll": STEEP})
    added = frame.assign(wait_ns=frame["wait_ns"] + 331)
    added.attrs["raw_floor_ns"] = added.attrs["clock_floor_ns"] = 331.0
    expected = shape(frame)["value"].tolist()
    assert shape(added)["value"].tolist() == pytest.approx(expected, nan_ok=True)


def test_another_shape_differs():
    """A growing epoll, a bent poll and a factor that is too small are detected."""
    bent = {10: 10_000, 100: 5_000, 1_000: 10_000, 10_000: 9_000}
    grows = {10: 1000, 100: 1000, 1_000: 1000, 10_000: 2100}
    table = shape(sweep({"epoll-level": grows, "poll": bent, "select": STEEP}))
    assert table.set_index("check")["verdict"].to_dict() == {
        "epoll-level is flat": "differs",
        "poll is proportional to N": "differs",
        "select is proportional to N": "holds",
        "poll over epoll": "differs",
    }


@pytest.mark.parametrize("power", [0.5, 0.7, 1.4, 2.0])
def test_growth_by_another_power_differs(power):
    """Root, powers between, and square, all of which have an R² over 0.96, are detected."""
    times = {n: round(300 + 200 * n**power) for n in (10, 100, 1_000, 10_000)}
    table = shape(sweep({"poll": times})).set_index("check")
    assert table.loc["poll is proportional to N", "verdict"] == "differs"
    assert table.loc["poll is proportional to N", "value"] == pytest.approx(power, abs=0.1)


def test_io_uring_is_checked_where_it_was_measured():
    table = shape(sweep({"epoll-level": FLAT, "io_uring": {**FLAT, 10_000: 2200}}))
    verdicts = table.set_index("check")["verdict"]
    assert (verdicts["epoll-level is flat"], verdicts["io_uring is flat"]) == ("holds", "differs")


def test_not_measured():
    """Flatness needs two sizes, growth two from 100 on, and the ratio needs poll."""
    two = {10: 1000, 100: 1000}
    table = shape(sweep({"epoll-level": {10: 1000}, "select": two}))
    assert set(table["verdict"]) == {"not measured"}
    assert table["value"].isna().all()
    assert table["margin"].iloc[-1] == "over N / 100"
    assert (
        shape(sweep({"poll": STEEP})).iloc[0]["claim"].startswith("epoll-level: the median at the")
    )


def test_the_margin_follows_the_largest_size():
    """A sweep up to 1,000 needs a factor of 10."""
    cut = {n: ns for n, ns in STEEP.items() if n <= 1_000}
    row = shape(sweep({"epoll-level": FLAT, "poll": cut})).iloc[-1]
    assert (row["margin"], row["verdict"]) == ("over 10", "holds")


def test_raw_calls_are_preferred():
    python = sweep({"epoll-level": FLAT, "poll": STEEP}, "python")
    assert shape(python).iloc[-1]["verdict"] == "holds"
    raw = sweep({"epoll-level": FLAT, "poll": FLAT})
    assert shape(pd.concat([python, raw])).iloc[-1]["verdict"] == "differs"


@pytest.mark.kernel
@pytest.mark.slow
def test_the_default_run_has_the_shape():
    """Epoll hardly grows with N, poll and select grow linearly, and they end far apart.

    The margins are several times wider than those of the checks, for a busy machine.
    """
    result = experiments.sweep(progress=False)
    most = int(result["n_fds"].max())
    if most < 1_000:
        pytest.skip(f"the limit of {kernel.descriptor_limits().hard:,} descriptors cuts the shape")
    table = result.checks()
    assert "not measured" not in set(table["verdict"])
    found = table.set_index("check")["value"]
    assert found[[f"{poller} is flat" for poller in POLLERS[:3]]].max() < 5
    growth = found[["poll is proportional to N", "select is proportional to N"]]
    assert 0.6 < growth.min() <= growth.max() < 1.5
    assert found["poll over epoll"] > most / 400
