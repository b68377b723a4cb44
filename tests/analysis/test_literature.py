"""The published tables, and comparisons with them."""

import numpy as np
import pandas as pd
import pytest

from epolllab import analysis, experiments
from epolllab.analysis.literature import COLUMNS, published_balance, published_tails
from tests.analysis import samples


def test_every_number_has_its_source():
    """Source, circumstances and status are in each row."""
    table = analysis.literature()
    assert list(table.columns) == list(COLUMNS)
    for column in ("source", "circumstances", "measure", "status", "unit", "differs"):
        assert (table[column].str.len() > 0).all()
    assert set(table["status"]) == {"seen", "seen, unit recalled", "ours"}
    published = table[table["status"] != "ours"]
    assert published["url"].str.startswith("https://").all()


def test_kerrisks_table():
    """Table 63-9 to the digit, in microseconds for one operation."""
    table = analysis.literature("kerrisk-2010").pivot(index="n_fds", columns="arm", values="value")
    assert table.loc[10].to_dict() == {"epoll": 0.41, "poll": 0.61, "select": 0.73}
    assert table.loc[10_000].to_dict() == {"epoll": 0.66, "poll": 990, "select": 930}
    op_us = analysis.literature("kerrisk-2010").set_index(["arm", "n_fds"])["op_us"]
    assert op_us["poll", 1000] == pytest.approx(350)


def test_cloudflares_figures():
    """Workers per connection, and the three statistics of each way of sharing."""
    assert published_balance() == {"blocking accept": [2, 1, 0, 2, 1, 0], "exclusive": [0] * 6}
    assert published_tails()["SO_REUSEPORT"] == {
        "mean": 31.37, "greatest": 144.55, "deviation": 25.27,
    }  # fmt: skip


def test_unknown_study():
    with pytest.raises(ValueError, match=r"^study .*'kerrisk-2010'"):
        analysis.literature("kerisk-2010")


def test_ratios_do_not_depend_on_speed():
    """On a machine ten times faster at everything all ratios are 1."""
    theirs = analysis.literature("kerrisk-2010")
    times = {
        name: theirs[theirs["arm"] == arm].set_index("n_fds")["value"].mul(100).to_dict()
        for name, arm in (("epoll-level", "epoll"), ("poll", "poll"), ("select", "select"))
    }
    table = analysis.literature_ratios(samples.sweep(times))
    assert table["ratio"].tolist() == pytest.approx([1.0] * 12)
    assert table["poller"].unique().tolist() == ["epoll", "poll", "select"]
    both = analysis.literature_ratios(samples.sweep(times), value="op_ns")
    assert both["ratio"].tolist() == pytest.approx([1.0] * 12)


@pytest.mark.parametrize(("api", "floor"), [("raw", "raw_floor_ns"), ("python", "clock_floor_ns")])
def test_cost_of_the_clock_and_ctypes_is_subtracted(api, floor):
    """Times with a constant added and that constant named as the floor have the same ratios."""
    times = {"epoll-level": {10: 41, 100: 42}, "poll": {10: 61, 100: 290}}
    bare = analysis.literature_ratios(samples.sweep(times, api))
    added = samples.sweep(
        {p: {n: ns + 331 for n, ns in of.items()} for p, of in times.items()}, api
    )
    unequal = analysis.literature_ratios(added)
    added.attrs[floor] = 331.0
    assert analysis.literature_ratios(added)["ours"].tolist() == bare["ours"].tolist()
    assert unequal["ours"].iloc[-1] < bare["ours"].iloc[-1] / 2


def test_ratio_of_a_steeper_poll():
    """If our poll is twice as steep as theirs, the ratio is 0.5 at that N."""
    times = {"epoll-level": {10: 41, 100: 42}, "poll": {10: 61, 100: 580}}
    table = analysis.literature_ratios(samples.sweep(times)).set_index(["poller", "n_fds"])
    assert table.loc[("poll", 100), "ratio"] == pytest.approx(0.5)
    assert table.loc[("poll", 10), "ratio"] == pytest.approx(1.0)
    assert table.loc[("epoll", 10), "ours"] == 1.0


def test_a_study_without_ten_is_divided_by_its_smallest():
    """The study whatacold begins at 100."""
    times = {"epoll-level": {100: 52, 1_000: 32}, "poll": {100: 70, 1_000: 473}}
    table = analysis.literature_ratios(samples.sweep(times), "whatacold")
    assert table["ratio"].tolist() == pytest.approx([1.0] * 4)


def test_nothing_to_compare():
    frame = samples.sweep({"epoll-level": {7: 50}})
    with pytest.raises(ValueError, match=r"^study 'wrk2'.*kerrisk-2010"):
        analysis.literature_ratios(frame, "wrk2")
    with pytest.raises(ValueError, match=r"^result .*'kerrisk-2010'"):
        analysis.literature_ratios(frame)


def test_raw_calls_are_preferred():
    """The published programs are in C: raw if it was measured, else Python."""
    raw = samples.sweep({"epoll-level": {10: 50, 100: 50}})
    python = samples.sweep({"epoll-level": {10: 100, 100: 400}}, api="python")
    both = analysis.literature_ratios(pd.concat([raw, python]))
    assert both["ours"].tolist() == [1.0, 1.0]
    assert analysis.literature_ratios(python)["ours"].tolist() == [1.0, 4.0]
    assert not np.isnan(both["ratio"]).any()


@pytest.mark.kernel
def test_a_sweep_beside_kerrisks_table():
    """Medians of the raw wait, in seconds for 100,000 operations as in the book."""
    frame = experiments.sweep((10, 100), ops=3, rounds=1, warmup=1, progress=False).frame
    frame["wait_ns"] = 1000 * frame["n_fds"].astype("int64")
    run = analysis.Result("sweep", frame, {})
    table = analysis.beside("kerrisk-2010", run)
    assert len(table) == 12
    row = table.set_index(["arm", "n_fds"]).loc[("poll", 100)]
    assert (row["theirs"], row["unit"]) == (2.9, "s")
    assert row["ours"] == pytest.approx(100e-6 * 100_000)
    assert row["ratio"] == pytest.approx(10 / 2.9)
    assert table[table["n_fds"] > 100]["ours"].isna().all()
    assert "eventfds" in table.attrs["differs"]


@pytest.mark.kernel
def test_a_propagation_beside_libevents_method():
    run = experiments.propagate(
        1_000, 1_000, 1_000, pollers=("epoll-level",), runs=1, progress=False
    )
    table = analysis.beside("libevent-bench", run).dropna(subset=["ours"]).set_index("arm")
    assert set(table.index) == {"epoll, w=1000", "epoll waits, w=1000"}
    assert table.loc["epoll waits, w=1000", "ratio"] == 1.0
    assert table.loc["epoll, w=1000", "ours"] > 0


def test_your_numbers_beside_a_study():
    table = analysis.beside("wrk2", {"from the send": 12.08})
    assert table["ratio"].round(2).tolist()[1] == 2.0
    assert np.isnan(table["ours"][0])
    sized = analysis.beside("whatacold", {("epoll", 1_000): 64.0}).dropna(subset=["ours"])
    assert sized["ratio"].tolist() == [2.0]


def test_numbers_of_no_arm():
    with pytest.raises(ValueError, match=r"^ours .*from the intended start, from the send.* x"):
        analysis.beside("wrk2", {"x": 1.0})
    other = analysis.Result("register_cost", pd.DataFrame({"round": [0], "warmup": [False]}), {})
    with pytest.raises(ValueError, match=r"^ours .*register_cost"):
        analysis.beside("wrk2", other)
    with pytest.raises(ValueError, match=r"^study"):
        analysis.beside("wrk", {"x": 1.0})


def test_io_uring_is_compared_under_equal_circumstances():
    """Each of its rates has one of epoll by the same author with as many clients."""
    table = analysis.literature("io-uring-echo")
    table[["way", "by"]] = table["arm"].str.split(", ", n=1, expand=True)
    is_epoll = table["way"] == "epoll"
    pairs = table[~is_epoll].merge(table[is_epoll], on=["by", "active"], validate="many_to_one")
    assert len(pairs) == (~is_epoll).sum()
    changes = 100 * (pairs["value_x"] / pairs["value_y"] - 1)
    assert (round(changes.min()), round(changes.max())) == (-51, 68)
    assert "no io_uring server" not in table["differs"].iloc[0]
