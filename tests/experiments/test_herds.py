"""Processes at one listener: counts and order."""

import pytest

from epolllab.experiments import accept_balance, latency_tails, thundering_herd
from epolllab.experiments.comparisons import herds


def test_the_herd_has_the_expected_size():
    """Level and edge wake all, exclusive and shared edge one, shared level two."""
    frame = thundering_herd(workers=3, connects=40, progress=False)
    assert list(frame["arm"]) == list(herds.ARMS)
    assert list(frame["expected_per_connect"]) == [3, 3, 1, 2, 1, 1, 1]
    woken = frame.set_index("arm")["voluntary_per_connect"]
    assert all(herds.is_woken(arm, 3, seen) for arm, seen in woken.items()), frame
    assert dict(frame.dtypes.astype(str)) == {
        "arm": "category",
        "n_workers": "int32",
        "n_connects": "int32",
        "voluntary": "int64",
        "voluntary_per_connect": "float64",
        "expected_per_connect": "int32",
        "returned": "int64",
        "would_block": "int64",
    }
    assert not frame.attrs["interrupted"]
    assert frame.attrs["circumstances"]["workers"] == [3]


@pytest.mark.parametrize(
    ("arm", "seen", "expected"),
    [
        ("level", 15.0, True), ("level", 11.9, False), ("edge", 20.1, False),
        ("exclusive", 1.2, True), ("exclusive", 1.3, False), ("shared edge", 0.7, False),
        ("shared level", 2.0, True), ("shared level", 2.6, True), ("shared level", 1.4, False),
    ],
)  # fmt: skip
def test_a_herd_of_another_size_is_noticed(arm, seen, expected):
    """Of sixteen; only a shared level-triggered epoll may wake more than expected."""
    assert herds.is_woken(arm, 16, seen) is expected


def test_returned_waits_underreport_the_herd():
    """Processes that go back to sleep inside the kernel do not return from their wait."""
    frame = thundering_herd(workers=4, connects=40, arms=["edge"], progress=False)
    assert frame["returned"][0] < frame["voluntary"][0]


def test_which_worker_gets_the_connection():
    """In turn with accept, always the same with EXCLUSIVE, each some with SO_REUSEPORT."""
    frame = accept_balance(workers=3, connects=60, progress=False)
    shares = {
        arm: rows["worker"].value_counts() for arm, rows in frame.groupby("arm", observed=True)
    }
    assert shares["blocking accept"].max() - shares["blocking accept"].min() <= 2
    assert shares["exclusive"].max() >= 57
    assert len(shares["reuseport"]) == 3
    assert list(frame.columns) == ["arm", "connect", "worker"]
    first = frame[frame["arm"] == "blocking accept"]["worker"].to_list()
    assert first[:3] == first[3:6]


def test_every_request_of_latency_tails_is_a_row():
    """Each request has a latency and a worker, in both arms."""
    frame = latency_tails(workers=2, connections=8, requests=60, service_us=50, progress=False)
    assert list(frame["arm"].value_counts(sort=False)[["exclusive", "reuseport"]]) == [60, 60]
    assert frame["latency_ns"].min() > 50_000
    assert set(frame["worker"]) <= {0, 1}


def test_an_interrupt_keeps_the_finished_arms(monkeypatch):
    """The rows so far stay, the frame says that it was interrupted, and the workers ended."""
    real = herds.Herd.run

    def run(self, arm, n_connects):
        if arm == "edge":
            raise KeyboardInterrupt
        return real(self, arm, n_connects)

    monkeypatch.setattr(herds.Herd, "run", run)
    frame = thundering_herd(workers=2, connects=5, progress=False)
    assert list(frame["arm"]) == ["level"]
    assert frame.attrs["interrupted"]
    assert frame.attrs["notes"] == ["interrupted after 1 of 7 arms"]


@pytest.mark.parametrize("function", [thundering_herd, accept_balance])
@pytest.mark.parametrize(
    ("name", "value"), [("workers", 0), ("connects", 0), ("arms", ["exclusif"])]
)
def test_invalid_arguments_are_refused_by_name(function, name, value):
    """Numbers and arms are checked before anything starts."""
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        function(progress=False, **{name: value})
