"""Charts of the comparisons and the phenomena, read back for what was drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from epolllab import plots
from epolllab.analysis.literature import published_balance
from epolllab.experiments import phenomena, run
from epolllab.experiments.catalogue.outcome import Verdict
from tests.plots import samples
from tests.plots.samples import by_gid, rows, words


def test_stranded_sizes_are_crosses_and_not_points_of_the_line():
    """There is a line for each trigger and way of reading, in the trigger's colour."""
    ax = plots.level_against_edge(samples.triggers())
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert set(lines) == {
        "level, drain", "level, one read", "edge, drain", "edge, one read"
    }  # fmt: skip
    assert lines["edge, one read"].get_xydata().tolist() == [[10, 10]]
    assert lines["level, drain"].get_xydata().tolist() == [[10, 10], [100_000, 100_000]]
    assert "100%" in words(ax)
    assert ax.get_ylabel() == plots.METRICS["cpu_us"]
    assert ax.get_title(loc="left") == "Level and edge: server's CPU"
    level, edge = lines["level, drain"], lines["edge, drain"]
    assert level.get_color() != edge.get_color()
    assert level.get_linewidth() > edge.get_linewidth()  # both are seen where they are equal
    assert lines["level, one read"].get_color() == level.get_color()


def test_level_and_edge_of_several_workers_are_not_mixed():
    frame = samples.triggers()
    both = pd.concat([frame.assign(worker=0, host="a"), frame.assign(worker=1, host="b")])
    with pytest.raises(ValueError, match=r"^frame must be of one run.* a, b"):
        plots.level_against_edge(both)
    plots.level_against_edge(both[both["worker"] == 1])


def test_agreement_counts_what_holds_everywhere_in_one_row():
    """Marks of the others by verdict, and at the end of each column how many hold."""
    ax = plots.agreement(samples.verdicts())
    assert rows(ax) == ["differs", "new", "time: all others", "number that hold"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Linux 5.4", "Linux 6.1"]
    marks = {name: [tuple(xy) for xy in by_gid(ax, name)[0].get_offsets()]
             for name in ("holds", "differs", "not possible here")}  # fmt: skip
    assert marks["differs"] == [(0, 0)]
    assert marks["not possible here"] == [(0, 1)]
    assert sorted(marks["holds"]) == [(0, 2), (1, 0), (1, 1), (1, 2)]
    assert "1 of 3" in words(ax)
    assert "3 of 3" in words(ax)


def test_agreement_in_full_has_every_phenomenon():
    """By another column, the environments are others; missing verdicts are not run."""
    frame = samples.verdicts()
    frame.loc[frame["name"] == "new", "verdict"] = None
    ax = plots.agreement(frame, by=("python",), full=True)
    assert rows(ax) == ["differs", "everywhere", "new", "number that hold"]
    assert by_gid(ax, "unsteady")[0].get_offsets().tolist() == [[0, 0]]
    assert by_gid(ax, "not run")[0].get_offsets().tolist() == [[0, 2]]


def test_the_gap_begins_with_the_last_event_or_byte():
    """And ends when the client gave up."""
    ax = plots.stranded(samples.stranded())
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches]
    assert spans == [pytest.approx((1.5, 250.0)), pytest.approx((1.0, 250.0))]
    assert words(ax).count("83,616 bytes unread") == 2


def test_a_bar_of_a_life_cycle_is_the_median_of_the_rounds():
    """Each life cycle and trigger has one."""
    ax = plots.lifecycles(samples.lifecycles())
    assert [bar.get_width() for bar in ax.patches] == [pytest.approx(4.1), 1.0]
    assert rows(ax) == ["howto, level", "once, edge"]


def test_the_herd_has_rings_at_the_expected_values():
    """A bar for each variant and number of workers; no number is certain for shared level."""
    ax = plots.herd(samples.herd())
    ends = sorted(bar.get_x() + bar.get_width() for bar in ax.patches)
    assert ends == [1.0, 1.0, 4.0, 16.1]
    rings = sorted(float(line.get_xdata()[0]) for line in ax.lines)
    assert rings == [1.0, 1.0, 4.0, 16.0]
    assert not plots.herd(samples.herd().assign(arm="shared level")).lines


def test_accept_balance_has_the_published_order_beside_ours():
    """Bands of ours and of Cloudflare's, with the totals of each worker."""
    ax = plots.accept_balance(samples.accepted())
    assert sum("Cloudflare" in name for name in rows(ax)) == 2
    assert [text.get_text() for text in ax.texts][:4] == ["3", "3", "3", "3"]
    assert rows(plots.accept_balance(samples.accepted(), published=False))[-1] == "exclusive"
    assert len(published_balance()["exclusive"]) == 6


def test_masks_are_dots_and_bits_without_interest_are_ringed():
    """A dot for each requested bit, at its column and row, and a ring for HUP."""
    ax = plots.masks(samples.masks())
    columns = [label.get_text() for label in ax.get_xticklabels()]
    dots, rings = (
        {(columns[int(x)], int(y)) for x, y in drawn.get_offsets()} for drawn in ax.collections
    )
    assert dots == {("IN", 0), ("RDHUP", 0), ("OUT", 1), ("HUP", 1)}
    assert rings == {("HUP", 1)}


def test_checks_are_dots_and_crosses_with_a_sum():
    """A failure is a cross, and each server has the number of its passes."""
    ax = plots.conformance(samples.checks())
    dots, crosses = ({(int(x), int(y)) for x, y in drawn.get_offsets()} for drawn in ax.collections)
    assert dots == {(0, 0), (1, 0), (1, 1)}
    assert crosses == {(0, 1)}
    assert [text.get_text() for text in ax.texts] == ["1 of 2", "2 of 2"]


def test_numbers_are_bars_and_rings_at_expected_values():
    """A number without an expected value has no ring."""
    ax = plots.numbers(samples.numbers(), what="a wait (ms)")
    assert [bar.get_width() for bar in by_gid(ax, "observed")] == [1.06, 0.26]
    assert [text.get_text() for text in ax.texts] == ["1.06", "0.26"]
    assert ax.get_xlabel() == "a wait (ms)"
    first, second = ax.collections[0].get_offsets()
    assert first.tolist() == [1.0, 0.0]
    assert np.ma.is_masked(second)


def test_unknown_metrics_are_errors():
    """The message has the nearest name."""
    with pytest.raises(ValueError, match=r"^what\b.*'cpu_us'"):
        plots.level_against_edge(samples.triggers(), what="cpu")
    with pytest.raises(ValueError, match=r"^value\b.*'p99_us'"):
        plots.idle_connections(samples.idle(), value="p999_us")


def test_idle_connections_sets_zero_apart_and_marks_the_end():
    """0 has a place of its own on the log axis; select's line ends in a cross."""
    ax = plots.idle_connections(samples.idle())
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "100", "1,000"]
    assert by_gid(ax, "epoll-level-eager")[0].get_ydata().tolist() == [41, 41, 41]
    assert by_gid(ax, "select-eager")[0].get_ydata().tolist() == [41, 51]
    assert "ends here" in words(ax)
    assert "CPU" in ax.get_ylabel()


def test_observer_cost_has_ratios_to_the_plain_server():
    """A mark for each way of observing, with its multiple of the plain server."""
    ax = plots.observer_cost(samples.observers())
    assert by_gid(ax, "process")[0].get_xdata().tolist() == [50, 60, 200]
    assert by_gid(ax, "thread")[0].get_xdata().tolist() == [50, 60]
    assert "200  4 x" in words(ax)
    assert rows(ax) == ["plain", "recorder", "strace"]


# ---- outcomes of phenomena -------------------------------------------------------------


@pytest.mark.kernel
@pytest.mark.parametrize("name", phenomena()["name"])
def test_every_phenomenon_has_a_chart(name):
    """It is drawn on the given Axes, and is not empty where the phenomenon can be shown."""
    outcome = run(name)
    _, ax = plt.subplots()
    assert outcome.plot(ax=ax) is ax
    ax.figure.canvas.draw()
    if outcome.verdict is not Verdict.NOT_POSSIBLE:
        assert "no events" not in words(ax)
        assert "nothing was counted" not in words(ax)


@pytest.mark.kernel
def test_counts_of_an_outcome_are_beside_their_expected_values():
    """A bar ends at its number, and a ring is at the expected one."""
    ax = run("howto-ctl-cost").plot()
    assert [bar.get_width() for bar in by_gid(ax, "observed")] == [4, 4, 1, 2]
    rings = ax.collections[0].get_offsets()
    assert [tuple(ring) for ring in rings.tolist()] == [(4, 0), (4, 1), (1, 2), (2, 3)]
    assert ax.get_xlabel() == "calls and events per request"


@pytest.mark.kernel
def test_the_chart_of_a_reused_descriptor_has_a_ghost():
    """The entry that only the kernel has is counted as one."""
    assert "1 ghost" in words(run("fd-reuse-ghost").plot())
