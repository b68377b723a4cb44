"""Level against edge and the life cycles on real servers: content, never speed."""

import pytest

from epolllab.experiments import compare_lifecycles, level_against_edge, strand_connections
from epolllab.experiments.comparisons import lifecycles, triggers


@pytest.fixture(scope="module")
def frame():
    """One small comparison that several tests look at."""
    return level_against_edge(
        sizes=(10, 50_000), clients=("at once", "random"), connections=6, rounds=1, progress=False
    )


def test_all_arms_are_there_with_fixed_columns(frame):
    """A row for each arm, way of sending and size."""
    assert list(frame.columns) == list(triggers._COLUMNS)
    assert len(frame) == 4 * 2 * 2
    assert set(zip(frame["trigger"], frame["reading"], strict=True)) == set(triggers.ARMS)
    assert not frame.attrs["interrupted"]
    assert frame.attrs["circumstances"]["seed"] == 1


def test_only_edge_with_one_read_strands(frame):
    """Level reports the rest again; edge does not, and the client waits for ever."""
    lost = frame[frame["n_stranded"] > 0]
    assert set(zip(lost["trigger"], lost["reading"], strict=True)) == {("edge", "one read")}
    assert set(lost["size"]) == {50_000}
    at_once = lost[lost["clients"] == "at once"]
    assert list(at_once["n_stranded"]) == [6]
    # One read of 16,384 bytes happened; two where the bytes came in two segments.
    assert 0 < at_once["bytes_stranded"].item() <= 6 * (50_000 - 16_384)
    assert (frame["n_answered"] + frame["n_stranded"] == frame["n_connections"]).all()


def test_the_calls_are_counted_by_request(frame):
    """One registration each, and as many recv as the size takes."""
    assert set(frame["epoll_ctl"]) == {1.0}
    sound = frame[(frame["reading"] == "drain") | (frame["trigger"] == "level")]
    large = sound[sound["size"] == 50_000]
    assert (large["recv"] >= 4).all()
    level = frame[(frame["trigger"] == "level") & (frame["reading"] == "one read")]
    assert (level["events"] >= level["recv"]).all()
    assert (level["would_block"] == 0).all()  # a failed accept4 is not counted
    assert (frame[frame["n_answered"] > 0]["p50_us"] > 0).all()
    assert (frame["cpu_us"] > 0).all()


def test_the_same_plans_for_every_arm():
    """Random clients are drawn from the seed alone, and end with room for the blank line."""
    one, other = triggers._Plans(7, 20), triggers._Plans(7, 20)
    for size in (10, 11, 1000):
        for how in triggers.CLIENTS:
            plans = one.of(how, size)
            assert plans == other.of(how, size)
            assert [sum(n for _, n in plan) for plan in plans] == [size] * 20
            assert all(plan[-1][1] >= 2 for plan in plans)
            assert all(n > 0 for plan in plans for _, n in plan)
    assert triggers._Plans(8, 20).of("random", 1000) != one.of("random", 1000)


def test_stranded_connections_have_a_gap():
    """The bytes arrived, the server read once, and nothing told of the rest."""
    frame = strand_connections(size=60_000, connections=3)
    assert len(frame) == 3
    assert (frame["n_sent"] == 60_000).all()
    assert (frame["n_read"] >= 16_384).all()
    assert (frame["n_read"] < 60_000).all()
    assert (frame["began_ns"] <= frame["sent_ns"]).all()
    assert (frame["last_event_ns"] < frame["gave_up_ns"]).all()
    assert (frame["gave_up_ns"] - frame["sent_ns"] >= triggers.PATIENCE_NS).all()


def test_each_life_cycle_costs_what_it_is_told_to():
    """Four epoll_ctl a request for the how-to's, one for eager and once."""
    frame = compare_lifecycles(requests=60, connections=4, rounds=1, progress=False)
    assert len(frame) == len(lifecycles.CYCLES)
    assert (frame["n_requests"] == 60).all()
    assert (frame["n_errors"] == 0).all()
    ctl = frame.groupby("lifecycle", observed=True)["epoll_ctl"].min()
    # The listener and the wake-up are registered too.
    assert ctl["howto"] == pytest.approx(4 + 2 / 60)
    assert ctl["eager"] == ctl["once"] == pytest.approx(1 + 2 / 60)
    assert ctl["oneshot"] > ctl["eager"]


def test_an_interrupt_keeps_the_cells_that_are_done(monkeypatch):
    """Complete rows stay, and the frame says that it is not whole."""
    real, done = triggers._cell, []

    def cell(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args)

    monkeypatch.setattr(triggers, "_cell", cell)
    frame = level_against_edge(
        sizes=(10, 20, 30), clients="at once", connections=2, rounds=1, progress=False
    )
    assert len(frame) == 2
    assert frame.attrs["interrupted"]


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"sizes": (5,)}, "sizes"),
        ({"clients": "randon"}, "did you mean 'random'"),
        ({"connections": 0}, "connections"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_wishes_are_checked_before_anything_starts(wishes, said):
    """What makes no sense is refused by name."""
    with pytest.raises(ValueError, match=said):
        level_against_edge(progress=False, **wishes)


def test_what_fits_into_one_read_is_not_stranded():
    """The size must be more than one recv takes."""
    with pytest.raises(ValueError, match="size"):
        strand_connections(size=1000, recv_size=1000)
