"""Charts of the scaling experiments, drawn from made-up data and read back."""

import pytest

from epolllab import analysis, plots
from epolllab.experiments.comparisons import idle, observer_cost
from epolllab.experiments.scaling import propagation, waits
from epolllab.plots import style
from tests.plots import samples
from tests.plots.samples import POLLERS, rows, words


def lines(ax):
    return {line.get_gid(): line for line in ax.get_lines() if line.get_gid()}


def test_scaling_draws_a_line_per_poller_and_call_without_the_warmup():
    """Medians in ns at each N, raw solid, Python dashed, in the pollers' colours."""
    ax = plots.scaling(samples.sweep())
    raw = lines(ax)["poll raw"]
    assert raw.get_xdata().tolist() == [10, 100, 1_000]
    assert raw.get_ydata().tolist() == pytest.approx([951, 5001, 45_501])
    assert raw.get_color() == style.LIGHT.variants["poll"]
    assert raw.get_linestyle() == "-"
    assert lines(ax)["poll python"].get_linestyle() == "--"
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "10 µs" in [tick.get_text() for tick in ax.get_yticklabels()]
    assert "N" in ax.get_xlabel()
    assert "time" in ax.get_ylabel()


def test_scaling_has_an_axis_of_a_decade_at_least():
    """Lines that differ by a tenth must not look steep."""
    flat = samples.sweep().frame.query("poller == 'epoll-level' and api == 'raw'").copy()
    flat["wait_ns"] = flat["n_fds"].map({10: 1_000, 100: 1_010, 1_000: 1_100})
    low, high = plots.scaling(flat).get_ylim()
    assert high / low == pytest.approx(10)
    assert low < 1_000 < 1_100 < high


def test_scaling_ends_a_line_with_a_cross():
    """Python's select stops before the others: an end is marked, not a gap."""
    ax = plots.scaling(samples.sweep())
    crosses = [line for line in ax.get_lines() if line.get_gid() == "end of line"]
    assert [cross.get_xdata()[0] for cross in crosses] == [100]
    assert "ends here" in words(ax)


def test_notes_and_circumstances_of_a_result_are_below_the_chart():
    """A cut is there, and so is the machine."""
    note = " ".join(words(plots.scaling(samples.sweep())).split())
    assert "cut to N = 9,999: 10,000 asked" in note
    assert "Linux 6.1" in note


def test_scaling_draws_published_times():
    """Their points are hollow in the same colours, and the note describes both methods."""
    ax = plots.scaling(samples.sweep(), literature=analysis.literature("kerrisk-2010"))
    theirs = lines(ax)["poll kerrisk-2010"]
    assert theirs.get_ydata().tolist() == pytest.approx([6_100, 29_000, 350_000, 9_900_000])
    assert theirs.get_markerfacecolor() == style.LIGHT.paper
    note = " ".join(words(ax).split())
    assert "table 63-9" in note
    assert "Ours: Linux 6.1" in note


def test_the_alternative_of_ratios_names_the_sizes_and_not_the_places():
    """Points of one N stand side by side; a reader of the text needs N."""
    text = plots.alt_text(plots.ratio(samples.sweep()))
    assert "epoll 1 x at N = 10 to" in text
    assert "to 1.3 x at 1,000; poll 1.4 x" in text


def test_a_chart_of_raw_calls_has_no_note_about_python():
    """That Python's select ends is no news where its line is not drawn."""
    sweep = samples.sweep().frame
    sweep.attrs["notes"] = ["Python's select ends at N = 100"]
    assert "Python's select" in words(plots.scaling(sweep))
    assert "Python's select" not in words(plots.scaling(sweep, api="raw"))
    assert "Python's select" not in words(plots.ratio(sweep))


def test_scaling_of_one_api_and_of_whole_operations():
    """A choice of api, and op_ns, which only Python has."""
    raw = lines(plots.scaling(samples.sweep(), api="raw"))
    assert not any(name.endswith("python") for name in raw)
    operations = lines(plots.scaling(samples.sweep(), value="op_ns"))
    assert not any(name.endswith("raw") for name in operations)


def test_scaling_refuses_several_kinds():
    """One line would mix them."""
    frame = samples.sweep().frame
    frame["kind"] = frame["kind"].astype(object)
    frame.loc[frame.index[:5], "kind"] = "pipe"
    with pytest.raises(ValueError, match=r"^data\b.*kind"):
        plots.scaling(frame)


def test_scaling_overlays_workers():
    """A line for each, in dashes of its own and the poller's colour, of one API."""
    ax = plots.scaling(samples.of_workers(samples.sweep().frame))
    drawn = lines(ax)
    assert {gid for gid in drawn if "poll Linux" in gid} == {"poll Linux 6.0", "poll Linux 6.1"}
    first, second = drawn["poll Linux 6.0"], drawn["poll Linux 6.1"]
    assert first.get_ydata().tolist() == pytest.approx([951, 5001, 45_501])
    assert second.get_ydata() == pytest.approx(1.1 * first.get_ydata())
    assert first.get_color() == second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    assert {"Linux 6.0", "Linux 6.1"} <= set(samples.legend(ax))
    assert "raw system call" in ax.get_ylabel()
    python = plots.scaling(samples.of_workers(samples.sweep().frame), value="op_ns")
    assert "Python's function" in python.get_ylabel()


def test_scaling_refuses_more_workers_than_it_has_dashes():
    with pytest.raises(ValueError, match=r"^data must have at most 6 workers"):
        plots.scaling(samples.of_workers(samples.sweep().frame, 7))


@pytest.mark.parametrize(
    ("chart", "make"),
    [
        (plots.ratio, samples.sweep),
        (plots.cost_split, samples.sweep),
        (plots.wait_kinds, samples.sweep),
        (plots.crossover, samples.crossover),
    ],
)
def test_charts_without_a_place_for_workers_refuse_several(chart, make):
    """They would mix the times of different machines."""
    data = make()
    frame = data if hasattr(data, "columns") else data.frame
    with pytest.raises(ValueError, match=r"must be of one run"):
        chart(samples.of_workers(frame))


def test_ratio_writes_its_numbers():
    """A point and its value for each poller and N that both have."""
    ax = plots.ratio(samples.sweep())
    assert set(lines(ax)) == {"epoll", "poll", "select"}
    table = analysis.literature_ratios(samples.sweep())
    expected = table[table["poller"] == "poll"]["ratio"].tolist()
    assert lines(ax)["poll"].get_ydata().tolist() == pytest.approx(expected)
    assert f"{expected[-1]:.2g}" in words(ax)
    again = plots.ratio(table)
    assert lines(again)["poll"].get_ydata().tolist() == pytest.approx(expected)


def test_cost_split_draws_both_shares():
    """A filled mark at the kernel's share and a hollow one at the whole."""
    ax = plots.cost_split(samples.sweep(), n_fds=10)
    marks = [line for line in ax.get_lines() if line.get_gid() in ("kernel", "python")]
    assert len(marks) == 2 * len(POLLERS)
    kernel = [line.get_xdata()[0] for line in marks if line.get_gid() == "kernel"]
    assert kernel[0] == pytest.approx(601)
    assert "601 ns + 350 ns" in words(ax)


def test_wait_kinds_draws_slopes():
    """What one more descriptor adds, for each poller, in nanoseconds."""
    ax = plots.wait_kinds(samples.sweep())
    assert lines(ax)["poll"].get_xdata().tolist() == [pytest.approx(45)]
    assert lines(ax)["epoll-level"].get_xdata().tolist() == [pytest.approx(0, abs=1e-9)]
    assert "45.0" in words(ax)
    assert rows(ax) == ["eventfd"]


def test_crossover_writes_ratios_and_frames_fields_where_poll_is_faster():
    """A number in each field, and a border around the one that is poll's."""
    ax = plots.crossover(samples.crossover())
    assert [t.get_text() for t in ax.texts if t.get_gid() == "ratio"] == ["0.25", "2.99", "0.011"]
    fields = [patch for patch in ax.patches if patch.get_gid() == "field"]
    assert [patch.get_linewidth() > 0 for patch in fields] == [False, True, False]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["10", "100"]
    assert rows(ax) == ["one", "100%"]


def test_staircase_draws_waits():
    """Waits of epoll increase with the bound, poll's stay at one."""
    ax = plots.staircase(samples.propagation())
    assert lines(ax)["epoll-level 10"].get_ydata().tolist() == [1, 2, 5]
    assert lines(ax)["poll 10"].get_ydata().tolist() == [1, 1, 1]
    assert "at most 10 per wait" in words(ax)
    assert "no bound" in words(ax)
    text = plots.alt_text(ax)
    assert "epoll-level, at most 10 per wait, 1 at 10 active to 5 at 50; poll 1 at 10" in text


def test_staircase_has_steps_and_no_line_between_samples():
    """A line between two samples would show waits that nobody counted."""
    ax = plots.staircase(samples.propagation())
    assert {line.get_linestyle() for line in lines(ax).values()} == {"None"}
    (steps,) = (patch for patch in ax.patches if patch.get_gid() == "batches of 10")
    assert steps.get_data().values.tolist() == [1, 2, 3, 4, 5]
    assert steps.get_data().edges.tolist() == [0, 10, 20, 30, 40, 50]
    writing = samples.propagation().assign(writes=50)
    assert not plots.staircase(writing).patches


def test_lines_that_end_together_share_their_text():
    """A bound that was not reached ends where poll does: both are written in one place."""
    frame = samples.propagation()
    ax = plots.staircase(frame[frame["active"] <= 10])
    assert [text.get_text() for text in ax.texts] == ["at most 10 per wait,\nno bound"]


@pytest.mark.parametrize(
    ("plot", "make", "layout"),
    [
        (plots.scaling, lambda: samples.sweep().frame, waits.LAYOUT),
        (plots.crossover, samples.crossover, waits.LAYOUT),
        (plots.staircase, samples.propagation, propagation.LAYOUT),
        (plots.idle_connections, samples.idle, idle.LAYOUT),
        (plots.observer_cost, samples.observers, observer_cost.LAYOUT),
    ],
)
def test_charts_use_the_columns_of_the_experiments(plot, make, layout):
    """The made-up data have no other columns, and an experiment's empty frame is drawn."""
    empty = layout.frame([])
    assert set(make().columns) <= set(empty.columns)
    assert "nothing measured" in words(plot(empty))


@pytest.mark.filterwarnings("error")
def test_a_negative_share_of_the_kernel_has_no_place_on_a_log_axis() -> None:
    """Less its floor a raw wait can be below 0; the limits are those of the other times."""
    frame = samples.sweep().frame
    frame.attrs["raw_floor_ns"] = 870.0
    ax = plots.cost_split(frame)
    ax.figure.canvas.draw()
    assert 0 < ax.get_xlim()[0] < ax.get_xlim()[1]
    frame["wait_ns"] = 900
    plots.cost_split(frame).figure.canvas.draw()
