"""Sliders over a scaling experiment, and the phenomenon explorer."""

import json
from pathlib import Path

import pandas as pd
import pytest

import epolllab
from epolllab import widgets
from epolllab.analysis.result import Result
from epolllab.widgets.curves import Curves
from tests.widgets.conftest import Opened
from tests.widgets.tools import until

pytestmark = pytest.mark.kernel


def scaling_frame(*shares: float) -> pd.DataFrame:
    """An experiment in which poll takes ten times as long as epoll; shares are of ready ones."""
    rows = [
        (poller, api, n, max(round(share * n), 1), float(ns * n), False)
        for poller, factor in (("epoll-level", 10), ("poll", 100))
        for api, ns in (("raw", factor), ("python", 2 * factor))
        for n in (10, 1000)
        for share in shares
    ]
    return pd.DataFrame(rows, columns=["poller", "api", "n_fds", "active", "wait_ns", "warmup"])


def test_curves_name_shares_and_compare_pollers() -> None:
    """Shares are one of all, a percentage, or all, in this order; one count is a number."""
    curves = Curves(scaling_frame(0.0, 0.1, 1.0))
    assert curves.shares == ["one", "10%", "all"]
    assert curves.sizes == [10, 1000]
    assert curves.apis == ["raw", "python"]
    table = curves.at(1000, "all", "raw")
    assert table["poller"].tolist() == ["epoll-level", "poll"]
    assert table["wait_us"].tolist() == [10.0, 100.0]
    assert table["times_epoll"].tolist() == [1.0, 10.0]
    assert Curves(scaling_frame(0.0)).shares == ["1"]
    with pytest.raises(ValueError, match=r"^data\b"):
        Curves(scaling_frame(0.0).assign(warmup=True))


def test_sliders_show_the_selected_curves(opened: Opened, tmp_path: Path) -> None:
    """Size, share, axes and calls each change what is drawn, and the table follows."""
    sliders = opened(widgets.scaling(scaling_frame(0.0, 1.0)))
    controls, shown = sliders.controls, sliders.displays
    assert controls["n_fds"].options == (10, 1000)
    assert controls["ready"].options == ("one", "all")
    assert "<td>10.0 µs</td><td>1</td>" in shown["table"].value
    assert 'id="epoll-level"' in shown["chart"].value
    before = shown["chart"].value
    controls["axes"].value = "linear"
    assert shown["chart"].value != before
    controls["api"].value = "python"
    assert sliders.data()["wait_ns"].tolist() == [200.0, 20_000.0, 2000.0, 200_000.0]
    controls["n_fds"].value = 10
    assert "10 watched" in shown["table"].value
    assert "poll" in sliders.text()
    assert sliders.export("it", folder=tmp_path)["png"].exists()
    assert sliders.error == ""


def test_sliders_over_a_reference_result_or_a_file(opened: Opened) -> None:
    """An experiment is given by name, by file or as data; anything else is refused."""
    sliders = opened(widgets.scaling("scaling-sweep"))
    assert len(sliders.controls["ready"].options) == 1
    assert sliders.circumstances()["kernel"]
    path = epolllab.reference("scaling-crossover")
    assert isinstance(opened(widgets.scaling(path)).experiment, Result)
    with pytest.raises(FileNotFoundError, match="scaling-sweep"):
        widgets.scaling("scaling-swoop")
    with pytest.raises(ValueError, match=r"^data\b.*wait_ns"):
        widgets.scaling(pd.DataFrame({"poller": ["x"], "api": [""], "n_fds": [1], "active": [1]}))
    with pytest.raises(TypeError, match=r"^data\b"):
        widgets.scaling(3)  # type: ignore[arg-type]


def test_measuring_here_replaces_the_experiment(opened: Opened) -> None:
    """It runs in a thread; controls keep values that the new experiment has, too."""
    sliders = opened(widgets.scaling(scaling_frame(0.0, 1.0)))
    sliders.controls["api"].value = "python"
    sliders.measure(n_fds=(3, 30), ops=2, rounds=1)
    until(lambda: not sliders.measuring)
    assert sliders.error == ""
    assert not sliders.buttons["measure"].disabled
    assert "measured here" in sliders.displays["source"].value
    assert sliders.controls["api"].value == "python"
    assert isinstance(sliders.experiment, Result)
    assert sliders.curves.sizes == [3, 30]
    sliders.measure(n_fds=())
    until(lambda: not sliders.measuring)
    assert "epl-alarm" in sliders.error


def test_explorer_runs_the_chosen_phenomenon(opened: Opened, tmp_path: Path) -> None:
    """Card, chart and export are of the phenomenon chosen last."""
    explorer = opened(widgets.explore("edge-goes-silent"))
    shown = explorer.displays
    assert explorer.outcome.holds
    assert "edge-goes-silent" in shown["outcome"].value
    first = shown["chart"].value
    assert 'role="img" aria-label="edge-goes-silent (holds): System calls' in first
    explorer.controls["phenomenon"].value = "level-repeats"
    assert explorer.outcome.name == "level-repeats"
    assert shown["chart"].value != first
    assert "level-repeats" in repr(explorer)
    sidecar = json.loads(explorer.export("it", folder=tmp_path)["json"].read_text())
    assert sidecar["parameters"] == {"phenomenon": "level-repeats", "verdict": "holds"}
    explorer.buttons["run"].click()
    assert explorer.error == ""


def test_unknown_phenomenon_is_refused_with_similar_names() -> None:
    """The error comes before a widget exists."""
    with pytest.raises(ValueError, match="edge-goes-silent"):
        widgets.explore("edge-goes-silence")
