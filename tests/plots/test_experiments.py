"""The pictures of the experiments, read back from what was drawn."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from epolllab import plots
from epolllab.analysis.literature import CLOUDFLARE_BALANCE
from epolllab.experiments import phenomena, run
from epolllab.experiments.catalogue.outcome import Verdict
from epolllab.experiments.comparisons import lifecycles, triggers

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    """Every figure is closed after its test."""
    yield
    plt.close("all")


def compared():
    """Two arms at two sizes; edge with one read strands at the larger."""
    rows = []
    for trigger, reading in triggers.ARMS:
        for size in (10, 100_000):
            lost = 5 if (trigger, reading, size) == ("edge", "one read", 100_000) else 0
            base = dict.fromkeys(triggers._COLUMNS, 1.0)
            rows.append(
                {
                    **base,
                    "trigger": trigger,
                    "reading": reading,
                    "clients": "at once",
                    "size": size,
                    "round": 0,
                    "n_connections": 5,
                    "n_answered": 5 - lost,
                    "n_stranded": lost,
                    "cpu_us": float(size),
                }
            )
    return pd.DataFrame(rows).astype(triggers._COLUMNS)


def stranded():
    """Two connections that wait."""
    frame = pd.DataFrame([dict.fromkeys(triggers._STRANDED, 0)] * 2)
    frame["conn"] = [1, 2]
    frame["sent_ns"] = 1_000_000
    frame["last_event_ns"] = [1_500_000, 900_000]
    frame["gave_up_ns"] = 250_000_000
    frame["n_sent"], frame["n_read"] = 100_000, 16_384
    return frame.astype(triggers._STRANDED)


def cycles():
    """Two life cycles, two rounds."""
    rows = [
        {
            **dict.fromkeys(lifecycles._CYCLE_COLUMNS, 0),
            "lifecycle": c,
            "trigger": t,
            "epoll_ctl": n,
        }
        for c, t, n in (("howto", "level", 4.0), ("howto", "level", 4.2), ("once", "edge", 1.0))
    ]
    return pd.DataFrame(rows).astype(lifecycles._CYCLE_COLUMNS)


def herded():
    """Two arms with two numbers of workers."""
    return pd.DataFrame(
        {
            "arm": ["level", "exclusive"] * 2,
            "n_workers": [4, 4, 16, 16],
            "voluntary_per_connect": [4.0, 1.0, 16.1, 1.0],
            "expected_per_connect": [4, 1, 16, 1],
        }
    )


def balanced():
    """Accept in turn, exclusive to the last."""
    orders = {"blocking accept": [0, 1, 2, 3] * 3, "exclusive": [3] * 12}
    rows = [(arm, k, worker) for arm, order in orders.items() for k, worker in enumerate(order)]
    return pd.DataFrame(rows, columns=["arm", "connect", "worker"])


def tailed():
    """Two arms of latencies."""
    return pd.DataFrame(
        {
            "arm": ["exclusive"] * 50 + ["reuseport"] * 50,
            "worker": 0,
            "latency_ns": np.arange(1, 101) * 100_000,
        }
    )


def endings():
    """Two endings, one of which cannot be hidden."""
    return pd.DataFrame(
        {"asked": ["IN|RDHUP", "OUT|HUP"], "unasked": ["nothing", "HUP"]},
        index=["peer closed", "never connected"],
    )


def checked():
    """Two servers, two checks, one fault."""
    return pd.DataFrame(
        {"how-to": [True, False], "ours": [True, True]}, index=["asks", "leaves early"]
    )


PICTURES = [
    (plots.level_against_edge, compared),
    (plots.stranded, stranded),
    (plots.lifecycles, cycles),
    (plots.herd, herded),
    (plots.balance, balanced),
    (plots.tails, tailed),
    (plots.masks, endings),
    (plots.checks, checked),
]


@pytest.mark.parametrize(("picture", "data"), PICTURES)
def test_a_picture_draws_on_the_axes_it_is_given(picture, data):
    """The Axes comes back, labelled, with something on it; the data are not changed."""
    _, ax = plt.subplots()
    frame = data()
    before = frame.copy()
    assert picture(frame, ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.lines or ax.patches or ax.collections
    pd.testing.assert_frame_equal(frame, before)
    ax.figure.canvas.draw()


@pytest.mark.parametrize(("picture", "data"), PICTURES)
def test_an_empty_frame_draws_an_empty_labelled_picture(picture, data):
    """No rows is no error."""
    ax = picture(data().iloc[:0])
    assert ax.get_xlabel()
    ax.figure.canvas.draw()


@pytest.mark.parametrize(("picture", "data"), PICTURES)
def test_a_note_stands_under_the_picture(picture, data):
    """The circumstances travel with the picture."""
    ax = picture(data(), note="on Linux 6.18")
    assert any("on Linux 6.18" in text.get_text() for text in ax.texts)


def test_the_comparison_has_a_line_an_arm_and_marks_what_strands():
    """Stranded sizes are crosses, not points of the line."""
    ax = plots.level_against_edge(compared())
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert set(lines) == {f"{trigger}, {reading}" for trigger, reading in triggers.ARMS}
    assert list(lines["edge, one read"].get_xdata()) == [10]
    assert list(lines["level, drain"].get_xdata()) == [10, 100_000]
    assert list(lines["level, drain"].get_ydata()) == [10, 100_000]
    assert "100%" in [text.get_text() for text in ax.texts]
    assert ax.get_ylabel() == plots.METRICS["cpu_us"]
    level, edge = lines["level, drain"].get_color(), lines["edge, drain"].get_color()
    assert level != edge
    assert lines["level, one read"].get_color() == level


def test_the_gap_begins_with_the_last_that_was_known():
    """The silence lasts from the last event or byte until the client gave up."""
    ax = plots.stranded(stranded())
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches]
    assert spans == [pytest.approx((1.5, 250.0)), pytest.approx((1.0, 250.0))]
    assert [text.get_text() for text in ax.texts if "unread" in text.get_text()] == [
        "83,616 bytes unread"
    ] * 2


def test_a_bar_is_the_median_of_the_rounds():
    """Rounds are dots on it."""
    ax = plots.lifecycles(cycles())
    assert [bar.get_width() for bar in ax.patches] == [pytest.approx(4.1), 1.0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["howto, level", "once, edge"]


def test_the_herd_is_set_beside_the_exact_result():
    """A bar an arm and number of workers, and a ring where it should end."""
    ax = plots.herd(herded())
    ends = sorted(bar.get_x() + bar.get_width() for bar in ax.patches)
    assert ends == [1.0, 1.0, 4.0, 16.1]
    rings = sorted(float(line.get_xdata()[0]) for line in ax.lines)
    assert rings == [1.0, 1.0, 4.0, 16.0]


def test_balance_has_the_published_order_beside_ours():
    """Bands of ours and of Cloudflare's, with the totals of each worker."""
    ax = plots.balance(balanced())
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert sum("Cloudflare" in name for name in names) == 2
    totals = [text.get_text() for text in ax.texts]
    assert totals[:4] == ["3", "3", "3", "3"]
    assert plots.balance(balanced(), published=False).get_yticklabels()[-1].get_text() == (
        "exclusive"
    )
    assert len(CLOUDFLARE_BALANCE["exclusive"]) == 6


def test_a_mask_is_dots_and_what_no_mask_hides_is_ringed():
    """A dot for each bit asked for, at its column and row, and a ring for HUP unasked."""
    ax = plots.masks(endings())
    columns = [label.get_text() for label in ax.get_xticklabels()]
    dots, rings = (
        {(columns[int(x)], int(y)) for x, y in drawn.get_offsets()} for drawn in ax.collections
    )
    assert dots == {("IN", 0), ("RDHUP", 0), ("OUT", 1), ("HUP", 1)}
    assert rings == {("HUP", 1)}


def test_checks_are_dots_and_crosses_with_a_sum():
    """What fails is a cross, and each server has its count."""
    ax = plots.checks(checked())
    dots, crosses = ({(int(x), int(y)) for x, y in drawn.get_offsets()} for drawn in ax.collections)
    assert dots == {(0, 0), (1, 0), (1, 1)}
    assert crosses == {(0, 1)}
    assert [text.get_text() for text in ax.texts] == ["1 of 2", "2 of 2"]


def test_metrics_are_checked():
    """An unknown metric is answered with the near one."""
    with pytest.raises(ValueError, match="did you mean 'cpu_us'"):
        plots.level_against_edge(compared(), what="cpu")


@pytest.mark.parametrize(
    "name",
    ["fd-reuse-ghost", "kernels-own-view", "gil-convoy", "endings-matrix", "endings-unasked"],
)
def test_outcomes_with_a_picture_of_their_own(name):
    """plot() draws on the Axes it is given."""
    _, ax = plt.subplots()
    assert run(name).plot(ax=ax) is ax
    ax.figure.canvas.draw()


def test_counts_are_bars_beside_what_was_expected():
    """A bar ends where its number is, a ring where it was to be; a time has no ring."""
    ax = run("howto-ctl-cost").plot()
    assert [bar.get_width() for bar in ax.containers[0]] == [4, 4, 1, 2]
    rings = ax.collections[0].get_offsets()
    assert [tuple(ring) for ring in rings.tolist()] == [(4, 0), (4, 1), (1, 2), (2, 3)]
    assert ax.get_xlabel() == "calls and events per request"
    timed = plots.numbers(
        pd.DataFrame({"observed": [1.06, 0.26], "expected": np.nan}, index=["epoll", "select"]),
        what="a wait (ms)",
    )
    assert [text.get_text() for text in timed.texts] == ["1.06", "0.26"]
    assert timed.collections[0].get_offsets().mask.any(axis=1).all()
    empty = pd.DataFrame({"observed": [], "expected": []}, dtype="float64")
    assert [text.get_text() for text in plots.numbers(empty).texts] == ["nothing was counted"]


@pytest.mark.parametrize("name", phenomena()["name"])
def test_no_phenomenon_has_an_empty_picture(name):
    """Whoever has made no records of its own has a picture of its own."""
    outcome = run(name)
    if outcome.verdict is not Verdict.NOT_POSSIBLE:
        words = [text.get_text() for text in outcome.plot().texts]
        assert "no events" not in words
        assert "nothing was counted" not in words


def test_the_ghost_is_seen_in_its_picture():
    """The entry that only the kernel knows is told as a ghost."""
    ax = run("fd-reuse-ghost").plot()
    words = " ".join(text.get_text() for text in ax.texts)
    assert "1 ghost" in words
