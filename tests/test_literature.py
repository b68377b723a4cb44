"""The published tables, and how our shape is compared with theirs."""

import numpy as np
import pandas as pd
import pytest

from epolllab.experiments import literature
from epolllab.experiments.scaling.arms import POLLERS


def test_schema_is_fixed_and_every_number_has_its_source():
    """One table for all studies, with source, circumstances and status in each row."""
    table = literature.literature()
    assert list(table.columns) == list(literature._COLUMNS)
    for column in ("source", "circumstances", "measure", "status", "unit"):
        assert (table[column].str.len() > 0).all()
    assert set(table["status"]) == {"seen", "seen, unit recalled", "ours"}


def test_kerrisks_table():
    """Table 63-9 to the digit, in microseconds for one operation."""
    table = literature.literature("kerrisk-2010").pivot(
        index="n_fds", columns="arm", values="value"
    )
    assert table.loc[10].to_dict() == {"epoll": 0.41, "poll": 0.61, "select": 0.73}
    assert table.loc[10_000].to_dict() == {"epoll": 0.66, "poll": 990, "select": 930}
    op_us = literature.literature("kerrisk-2010").set_index(["arm", "n_fds"])["op_us"]
    assert op_us["poll", 1000] == pytest.approx(350)


def test_unknown_study_names_the_nearest():
    """A slip of the pen gets a hint."""
    with pytest.raises(ValueError, match="did you mean 'kerrisk-2010'"):
        literature.literature("kerisk-2010")


def _measured(times, api="raw"):
    """Three rounds of a sweep with the times given: poller to {N: ns}."""
    rows = [
        {"round": r, "poller": poller, "api": api, "n_fds": n, "warmup": False,
         "wait_ns": float(ns), "op_ns": 2.0 * ns}
        for poller, of_size in times.items()
        for n, ns in of_size.items()
        for r in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"poller": pd.CategoricalDtype(list(POLLERS))})


def test_a_machine_of_another_speed_and_the_same_shape_agrees():
    """Ten times faster at everything: all ratios are 1."""
    theirs = literature.literature("kerrisk-2010")
    times = {
        name: theirs[theirs["arm"] == arm].set_index("n_fds")["value"].mul(100).to_dict()
        for name, arm in (("epoll-level", "epoll"), ("poll", "poll"), ("select", "select"))
    }
    table = literature.ratios(_measured(times))
    assert table["ratio"].tolist() == pytest.approx([1.0] * 12)
    assert table["poller"].unique().tolist() == ["epoll", "poll", "select"]
    both = literature.ratios(_measured(times), value="op_ns")
    assert both["ratio"].tolist() == pytest.approx([1.0] * 12)


def test_ratio_says_by_how_much_and_which_way():
    """Our poll twice as steep as theirs gives 0.5 at that N, in numbers."""
    times = {"epoll-level": {10: 41, 100: 42}, "poll": {10: 61, 100: 580}}
    table = literature.ratios(_measured(times)).set_index(["poller", "n_fds"])
    assert table.loc[("poll", 100), "ratio"] == pytest.approx(0.5)
    assert table.loc[("poll", 10), "ratio"] == pytest.approx(1.0)
    assert table.loc[("epoll", 10), "ours"] == 1.0


def test_a_study_without_ten_is_divided_by_its_least():
    """The study whatacold begins at 100."""
    times = {"epoll-level": {100: 52, 1_000: 32}, "poll": {100: 70, 1_000: 473}}
    table = literature.ratios(_measured(times), "whatacold")
    assert table["ratio"].tolist() == pytest.approx([1.0] * 4)


def test_what_cannot_be_compared_is_said():
    """A study without such times, and sizes that they do not have."""
    frame = _measured({"epoll-level": {7: 50}})
    with pytest.raises(ValueError, match="'wrk2' has no times over N; kerrisk-2010"):
        literature.ratios(frame, "wrk2")
    with pytest.raises(ValueError, match="no epoll-level at an N of 'kerrisk-2010'"):
        literature.ratios(frame)


def test_raw_is_preferred_and_python_serves():
    """The published programs are in C: raw where it was measured, else Python."""
    raw = _measured({"epoll-level": {10: 50, 100: 50}})
    python = _measured({"epoll-level": {10: 100, 100: 400}}, api="python")
    both = literature.ratios(pd.concat([raw, python]))
    assert both["ours"].tolist() == [1.0, 1.0]
    assert literature.ratios(python)["ours"].tolist() == [1.0, 4.0]
    assert not np.isnan(both["ratio"]).any()
