"""Each picture is drawn of made-up data and read back: lines, points, words."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from epolllab import analysis, plots
from epolllab.experiments.comparisons import idle
from epolllab.experiments.comparisons.observer_cost import _frame as observer_cost_frame
from epolllab.experiments.scaling import propagation, register, waits
from epolllab.experiments.scaling.variants import POLLERS
from epolllab.plots import style
from epolllab.plots.canvas import canvas

CIRCUMSTANCES = {
    "kernel": "6.1", "system": "Linux", "python": "3.11", "implementation": "CPython",
    "clock_floor_ns": 50.0, "raw_floor_ns": 300.0, "notes": ["cut to N = 9,999: 10,000 asked"],
}  # fmt: skip
TIMES = {"epoll-level": 900, "epoll-edge": 850, "epoll-oneshot": 860}


@pytest.fixture(autouse=True)
def _figures_closed():
    """No figure is left open, and no setting of matplotlib's changed."""
    before = _settings()
    yield
    plt.close("all")
    assert _settings() == before


def _settings():
    # The backend is chosen when the first figure is made.
    return {name: value for name, value in mpl.rcParams.items() if name != "backend"}


def _sweep(sizes=(10, 100, 1_000)):
    """A sweep of three rounds in which poll and select grow by 45 ns a descriptor."""
    rows = [
        {"round": r, "poller": poller, "api": api, "kind": "eventfd", "n_fds": n, "active": 1,
         "op": i, "warmup": i == 0, "t_ns": 0, "op_ns": None if api == "raw" else 5 * n + 2000,
         "wait_ns": (TIMES.get(poller) or 500 + 45 * n) + r + (100 if api == "python" else 0)
         + 10**7 * (i == 0)}
        for r in range(3) for poller in POLLERS for api in ("raw", "python") for n in sizes
        for i in range(3)
        if not (poller == "select" and api == "python" and n == sizes[-1])
    ]  # fmt: skip
    columns = waits._frame([]).dtypes.to_dict()
    frame = pd.DataFrame(rows)[list(columns)].astype(columns)
    return analysis.Result("sweep", frame, CIRCUMSTANCES, waits.BY, waits.VALUES, "n_fds")


def _lines(ax):
    return {line.get_gid(): line for line in ax.get_lines() if line.get_gid()}


def _words(ax):
    return [text.get_text() for text in ax.texts]


def test_scaling_draws_a_line_per_arm_without_the_warmup():
    """Medians in µs at each N, raw solid, Python dashed, in the arms' colours."""
    ax = plots.scaling(_sweep())
    lines = _lines(ax)
    raw = lines["poll raw"]
    assert raw.get_xdata().tolist() == [10, 100, 1_000]
    assert raw.get_ydata().tolist() == pytest.approx([0.951, 5.001, 45.501])
    assert raw.get_color() == style.ARMS["poll"]
    assert raw.get_linestyle() == "-"
    assert lines["poll python"].get_linestyle() == "--"
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "N" in ax.get_xlabel()
    assert "time" in ax.get_ylabel()


def test_scaling_ends_a_line_with_a_cross():
    """Python's select stops before the others: an end is marked, not a gap."""
    ax = plots.scaling(_sweep())
    crosses = [line for line in ax.get_lines() if line.get_gid() == "end of line"]
    assert [cross.get_xdata()[0] for cross in crosses] == [100]
    assert "ends here" in _words(ax)


def test_notes_and_circumstances_stand_under_the_chart():
    """A cut is printed, and so is the machine."""
    ax = plots.scaling(_sweep())
    note = " ".join(" ".join(_words(ax)).split())
    assert "cut to N = 9,999: 10,000 asked" in note
    assert "Linux 6.1" in note


def test_scaling_draws_the_literature_beside():
    """Their points are hollow in the same colours, and a box says both methods."""
    ax = plots.scaling(_sweep(), literature=analysis.literature("kerrisk-2010"))
    theirs = _lines(ax)["poll kerrisk-2010"]
    assert theirs.get_ydata().tolist() == pytest.approx([6.1, 29, 350, 9_900])
    assert theirs.get_markerfacecolor() == style.LIGHT.paper
    box = " ".join(next(t.get_text() for t in ax.texts if t.get_gid() == "method").split())
    assert "table 63-9" in box
    assert "Linux 6.1" in box


def test_scaling_of_one_api_and_of_whole_operations():
    """A choice of api, and op_ns, which Python alone has."""
    raw = _lines(plots.scaling(_sweep(), api="raw"))
    assert not any(name.endswith("python") for name in raw)
    whole = _lines(plots.scaling(_sweep(), value="op_ns"))
    assert not any(name.endswith("raw") for name in whole)


def test_scaling_refuses_to_mix():
    """Several kinds in one frame would be mixed in one line."""
    frame = _sweep().frame
    frame.loc[frame.index[:5], "kind"] = "pipe"
    with pytest.raises(ValueError, match="a line over N is of one kind"):
        plots.scaling(frame)


def test_ratio_writes_its_numbers():
    """A point and its value for each poller and N that both have."""
    ax = plots.ratio(_sweep())
    lines = _lines(ax)
    assert set(lines) == {"epoll", "poll", "select"}
    table = analysis.literature_ratios(_sweep())
    expected = table[table["poller"] == "poll"]["ratio"].tolist()
    assert lines["poll"].get_ydata().tolist() == pytest.approx(expected)
    assert f"{expected[-1]:.2g}" in _words(ax)
    again = plots.ratio(table)
    assert _lines(again)["poll"].get_ydata().tolist() == pytest.approx(expected)


def test_cost_split_draws_both_shares():
    """A full mark at the kernel's share and a hollow one at the whole."""
    ax = plots.cost_split(_sweep(), n_fds=10)
    marks = [line for line in ax.get_lines() if line.get_gid() in ("kernel", "python")]
    assert len(marks) == 2 * len(POLLERS)
    kernel = [line.get_xdata()[0] for line in marks if line.get_gid() == "kernel"]
    assert kernel[0] == pytest.approx(0.601)
    assert "601 ns + 350 ns" in _words(ax)


def test_kinds_draws_slopes():
    """What one more descriptor adds, for each poller, in nanoseconds."""
    ax = plots.kinds(_sweep())
    assert _lines(ax)["poll"].get_xdata().tolist() == [pytest.approx(45)]
    assert _lines(ax)["epoll-level"].get_xdata().tolist() == [pytest.approx(0, abs=1e-9)]
    assert "45.0" in _words(ax)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["eventfd"]


def _crossover():
    rows = [
        {"round": r, "poller": poller, "api": "raw", "kind": "eventfd", "n_fds": n, "active": k,
         "op": 0, "warmup": False, "t_ns": 0, "wait_ns": ns + r, "op_ns": None}
        for r in range(4)
        for n, k, times in ((10, 1, (100, 400)), (10, 10, (900, 300)), (100, 1, (100, 9000)))
        for poller, ns in zip(("epoll-level", "poll"), times, strict=True)
    ]  # fmt: skip
    columns = waits._frame([]).dtypes.to_dict()
    return pd.DataFrame(rows)[list(columns)].astype(columns)


def test_crossover_writes_ratios_and_frames_where_poll_wins():
    """A number in each field, and a border around the corner that is poll's."""
    ax = plots.crossover(_crossover())
    assert [t.get_text() for t in ax.texts if t.get_gid() == "ratio"] == ["0.25", "2.99", "0.011"]
    fields = [patch for patch in ax.patches if patch.get_gid() == "field"]
    assert [patch.get_linewidth() > 0 for patch in fields] == [False, True, False]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["10", "100"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["one", "100%"]


def _propagate():
    rows = [
        {"round": r, "poller": poller, "pairs": 50, "active": k, "writes": 0, "max_events": 10,
         "loop_ns": 1000, "waits": -(-k // 10) if poller == "epoll-level" else 1, "events": k,
         "warmup": r == 0}
        for r in range(3) for poller in ("epoll-level", "poll") for k in (10, 11, 50)
    ]  # fmt: skip
    columns = propagation._frame([]).dtypes.to_dict()
    return pd.DataFrame(rows).astype(columns)


def test_staircase_draws_waits():
    """Waits of epoll climb by the bound, poll's stay at one."""
    ax = plots.staircase(_propagate())
    assert _lines(ax)["epoll-level 10"].get_ydata().tolist() == [1, 2, 5]
    assert _lines(ax)["poll 10"].get_ydata().tolist() == [1, 1, 1]
    assert "at most 10 a wait" in _words(ax)
    assert "no bound" in _words(ax)


def test_lines_that_end_together_share_their_words():
    """A bound that was not reached ends where poll does: both are said, in one place."""
    frame = _propagate()
    ax = plots.staircase(frame[frame["active"] <= 10])
    assert _words(ax) == ["at most 10 a wait,\nno bound"]


def _idle():
    rows = [
        {"round": r, "server": server, "idle": n, "held": n, "active": 5, "warmup": False,
         "requests": 10, "errors": 0, "requests_per_s": 1000.0, "cpu_us": 40 + r + n * slope,
         "epoll_ctl": 1.0, "waits": 1.0, "events": 1.0, "p50_us": 1.0, "p99_us": 2.0}
        for r in range(3)
        for server, slope in (("epoll-level-eager", 0), ("select-eager", 0.1))
        for n in (0, 100, 1_000)
        if not (server == "select-eager" and n == 1_000)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype(idle._frame([]).dtypes.to_dict())


def test_idle_connections_sets_zero_apart_and_marks_the_end():
    """0 has a place of its own on the log axis; select's line ends in a cross."""
    ax = plots.idle_connections(_idle())
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "100", "1,000"]
    assert _lines(ax)["epoll-level-eager"].get_ydata().tolist() == [41, 41, 41]
    assert _lines(ax)["select-eager"].get_ydata().tolist() == [41, 51]
    assert "ends here" in _words(ax)
    assert "CPU" in ax.get_ylabel()
    with pytest.raises(ValueError, match="did you mean 'p99_us'"):
        plots.idle_connections(_idle(), value="p999_us")


def _looking():
    rows = [
        {"round": r, "load": "echo", "where": where, "look": look, "warmup": False,
         "requests": 10, "errors": 0, "requests_per_s": 1.0, "p50_us": us, "p99_us": us,
         "cpu_us": us, "watcher_us": 0.0}
        for r in range(3)
        for where in ("process", "thread")
        for look, us in (("plain", 50.0), ("recorder", 60.0), ("strace", 200.0))
        if not (look == "strace" and where == "thread")
    ]  # fmt: skip
    return pd.DataFrame(rows).astype(observer_cost_frame([]).dtypes.to_dict())


def test_cost_of_looking_says_how_many_times():
    """A mark for each way of watching, and its multiple of the plain server."""
    ax = plots.observer_cost(_looking())
    assert _lines(ax)["process"].get_xdata().tolist() == [50, 60, 200]
    assert _lines(ax)["thread"].get_xdata().tolist() == [50, 60]
    assert "200  4 x" in _words(ax)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["plain", "recorder", "strace"]


def test_a_legend_has_no_more_columns_than_entries():
    """More columns wished than there are handles is no error."""
    with canvas(None, (4, 3), None) as (ax, theme, below):
        (line,) = ax.plot([0, 1], [0, 1], label="one", color=theme.ink)
        below.legend([line], columns=5)
        below.legend([], columns=3)
    assert below.depth > 33


def test_plots_are_reached_through_plots():
    """epolllab.plots has each by name, and loads the experiments only then."""
    code = (
        "import sys; from epolllab import plots; "
        "assert not any(m.startswith('epolllab.experiments') for m in sys.modules); "
        "p = sys.modules['epolllab.plots.scaling']; "
        "assert all(getattr(plots, n) is getattr(p, n) for n in p.__all__); "
        "assert set(p.__all__) <= set(plots.__all__) == set(dir(plots))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'scalings'"):
        plots.scalings  # noqa: B018


EMPTY = {
    "scaling": waits._frame([]),
    "ratio": waits._frame([]),
    "cost_split": waits._frame([]),
    "crossover": waits._frame([]),
    "kinds": waits._frame([]),
    "staircase": propagation._frame([]),
    "idle_connections": idle._frame([]),
    "observer_cost": observer_cost_frame([]),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_frames_draw_an_empty_labelled_picture(name):
    """Nothing measured is said in the middle, with the axes labelled."""
    ax = getattr(plots, name)(EMPTY[name])
    assert any("nothing" in words or "no arm" in words for words in _words(ax))
    assert ax.get_xlabel()
    ax.figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("scaling", _sweep), ("ratio", _sweep), ("cost_split", _sweep), ("crossover", _crossover),
        ("kinds", _sweep),
        ("staircase", _propagate), ("idle_connections", _idle), ("observer_cost", _looking),
    ],
)  # fmt: skip
def test_contract_of_plots(name, data):
    """Drawn where asked and returned, in either theme, with the data left alone."""
    given = data()
    before = (given.frame if isinstance(given, analysis.Result) else given).copy()
    _, ax = plt.subplots()
    with style.use(dark=True):
        assert getattr(plots, name)(given, ax=ax, note="of mine") is ax
    ax.figure.draw_without_rendering()
    assert any("of mine" in words for words in _words(ax))
    after = given.frame if isinstance(given, analysis.Result) else given
    pd.testing.assert_frame_equal(after, before)


def test_register_frame_is_fixed():
    """The frame of register_cost has its columns without rows."""
    assert register._frame([]).columns[-1] == "call_ns"
    assert np.issubdtype(register._frame([])["call_ns"].dtype, np.integer)
