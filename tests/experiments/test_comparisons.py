"""Level against edge and the life cycles on real servers: content, not speed."""

from itertools import product

import pytest

from epolllab.experiments import compare_lifecycles, level_against_edge, strand_connections
from epolllab.experiments.comparisons import lifecycles, triggers


@pytest.fixture(scope="module")
def frame():
    """One small comparison that several tests look at."""
    return level_against_edge(
        sizes=(10, 50_000), clients=("at once", "random"), connections=6, rounds=1, progress=False
    )


def test_the_frame_has_all_arms_and_fixed_columns(frame):
    """A row for each arm, way of sending and size."""
    assert list(frame.columns[:5]) == ["trigger", "reading", "clients", "size", "round"]
    assert list(frame.columns[5:9]) == [
        "n_connections", "n_answered", "n_stranded", "bytes_stranded"
    ]  # fmt: skip
    assert frame.dtypes.iloc[9:].eq("float64").all()
    assert len(frame) == 4 * 2 * 2
    assert set(zip(frame["trigger"], frame["reading"], strict=True)) == set(triggers.ARMS)
    assert not frame.attrs["interrupted"]
    assert frame.attrs["circumstances"]["seed"] == 1


def test_only_edge_with_one_read_strands(frame):
    """Level reports the rest again; edge does not, and the client waits."""
    lost = frame[frame["n_stranded"] > 0]
    assert set(zip(lost["trigger"], lost["reading"], strict=True)) == {("edge", "one read")}
    assert set(lost["size"]) == {50_000}
    at_once = lost[lost["clients"] == "at once"]
    assert list(at_once["n_stranded"]) == [6]
    # One read of 16,384 bytes happened; two where the bytes came in two segments.
    assert 0 < at_once["bytes_stranded"].item() <= 6 * (50_000 - 16_384)
    assert (frame["n_answered"] + frame["n_stranded"] == frame["n_connections"]).all()


def test_calls_are_counted_per_request(frame):
    """One registration each, and as many recv as the size needs."""
    assert set(frame["epoll_ctl"]) == {1.0}
    complete = frame[(frame["reading"] == "drain") | (frame["trigger"] == "level")]
    assert (complete[complete["size"] == 50_000]["recv"] >= 4).all()
    level = frame[(frame["trigger"] == "level") & (frame["reading"] == "one read")]
    assert (level["events"] >= level["recv"]).all()
    assert (level["would_block"] == 0).all()  # a failed accept4 is not counted
    assert (frame[frame["n_answered"] > 0]["p50_us"] > 0).all()
    assert (frame["cpu_us"] > 0).all()


def test_the_same_plans_for_every_arm():
    """They depend on the seed only, and the last piece has room for the blank line."""
    for size, how in product((10, 11, 1000), triggers.CLIENTS):
        plans = triggers.plan_requests(how, size, 20, seed=7)
        assert plans == triggers.plan_requests(how, size, 20, seed=7)
        assert [sum(n for _, n in plan) for plan in plans] == [size] * 20
        assert all(plan[-1][1] >= 2 for plan in plans)
        assert all(n > 0 for plan in plans for _, n in plan)
    seven, eight = (triggers.plan_requests("random", 1000, 20, seed) for seed in (7, 8))
    assert seven != eight


def test_stranded_connections_have_a_gap():
    """The bytes arrived, the server read once, and no event followed."""
    frame = strand_connections(size=60_000, connections=3)
    assert len(frame) == 3
    assert (frame["n_sent"] == 60_000).all()
    assert (frame["n_read"] >= 16_384).all()
    assert (frame["n_read"] < 60_000).all()
    assert (frame["began_ns"] <= frame["sent_ns"]).all()
    assert (frame["last_event_ns"] < frame["gave_up_ns"]).all()
    assert (frame["gave_up_ns"] - frame["sent_ns"] >= triggers.PATIENCE_NS).all()


def test_each_life_cycle_has_its_number_of_calls():
    """Four epoll_ctl per request for the how-to's, one for eager and once."""
    frame = compare_lifecycles(requests=60, connections=4, rounds=1, progress=False)
    assert len(frame) == len(lifecycles.CYCLES)
    assert (frame["waits"] > 0).all()
    assert (frame["n_requests"] == 60).all()
    assert (frame["n_errors"] == 0).all()
    ctl = frame.groupby("lifecycle", observed=True)["epoll_ctl"].min()
    # The listener and the wakeup descriptor are registered too.
    assert ctl["howto"] == pytest.approx(4 + 2 / 60)
    assert ctl["eager"] == ctl["once"] == pytest.approx(1 + 2 / 60)
    assert ctl["oneshot"] > ctl["eager"]


def test_an_interrupt_keeps_the_finished_rows(monkeypatch):
    """The rows so far stay, and the frame says that it was interrupted."""
    plan_requests, sizes = triggers.plan_requests, []

    def plan(how, size, *args):
        if len(sizes) == 2:
            raise KeyboardInterrupt
        sizes.append(size)
        return plan_requests(how, size, *args)

    monkeypatch.setattr(triggers, "plan_requests", plan)
    frame = level_against_edge(
        sizes=(10, 20, 30), clients="at once", connections=2, rounds=1, progress=False
    )
    assert list(frame["size"]) == sizes
    assert frame.attrs["interrupted"]
    assert frame.attrs["notes"] == ["interrupted after 2 of 12 cells"]


@pytest.mark.parametrize(
    ("function", "name", "value", "error"),
    [
        (level_against_edge, "sizes", (5,), ValueError),
        (level_against_edge, "clients", "randon", ValueError),
        (level_against_edge, "connections", 0, ValueError),
        (level_against_edge, "rounds", 1.5, TypeError),
        (level_against_edge, "quick", "no", TypeError),
        (compare_lifecycles, "requests", 0, ValueError),
        (compare_lifecycles, "keep_alive", 1, TypeError),
        (strand_connections, "size", 16_384, ValueError),
    ],
)
def test_invalid_arguments_are_refused_by_name(function, name, value, error):
    """Nothing is started; a size that fits into one read cannot be stranded."""
    with pytest.raises(error, match=rf"^{name}\b"):
        function(**{name: value})
