"""compare(): counts, calls per request, percentiles with intervals, and what differs in words."""

import math

import numpy as np
import pytest

import epolllab
from epolllab.analysis import compare
from epolllab.analysis.comparison import percentile_interval
from epolllab.recording.recording import Recording
from tests.samples import Script


def served(durations, *, metadata=None, empty_reads=0, spins=0):
    """A server's recording: a request a wakeup, each of so many µs from wakeup to response."""
    script = Script(call_ns=0, pause_ns=0).wait(1).ready(0).accept(1)
    for us in durations:
        script.after(1_000).wait(1).ready(1).recv(1, 10)
        for _ in range(empty_reads):
            script.recv_blocked(1)
        script.handle(1, 7, ns=us * 1_000).send(1, 7)
    for _ in range(spins):
        script.wait(1, ns=10).ready(1, "OUT").after(1_000)
    return script.recording(metadata)


def row_of(frame, what):
    """The row as a dictionary."""
    return frame[frame["what"] == what].iloc[0].to_dict()


# ---- counts -----------------------------------------------------------------------------


def test_counts_and_calls_per_request():
    """Errors count beside the call that failed, and ready rows are no system calls."""
    found = compare(served([10] * 4), served([10] * 8, empty_reads=2))
    assert row_of(found.counts, "recv") == {
        "what": "recv", "before": 4, "after": 24, "before_per_request": 1.0,
        "after_per_request": 3.0, "ratio": 3.0,
    }  # fmt: skip
    assert row_of(found.counts, "recv EAGAIN")["after_per_request"] == 2.0
    assert math.isnan(row_of(found.counts, "recv EAGAIN")["ratio"])
    # wait and accept once more than there are requests
    calls = row_of(found.counts, "system calls")
    assert (calls["before"], calls["after"]) == (3 * 4 + 2, 5 * 8 + 2)
    assert found.counts["what"].tolist() == [
        "system calls", "wait", "ready", "accept", "recv", "send", "handle", "recv EAGAIN",
    ]  # fmt: skip


@pytest.mark.parametrize(("poller", "n"), [("epoll", 3), ("poll", 1), ("select", 1)])
def test_the_interest_of_poll_and_select_takes_no_system_call(poller, n):
    script = Script().wait(1).register(1).modify(1, "OUT")
    recording = script.recording({"poller": poller})
    found = compare(recording, recording)
    assert row_of(found.counts, "system calls")["before"] == n


def test_recordings_without_requests_compare_counts():
    """As those of other programs: per request nothing is known."""
    script = Script().wait(1).ready(1).recv(1, 5)
    found = compare(script.recording(), script.recv(1, 5).recording())
    recv = row_of(found.counts, "recv")
    assert (recv["before"], recv["after"], recv["ratio"]) == (1, 2, 2.0)
    assert math.isnan(recv["before_per_request"])
    assert found.latency[["before", "after"]].isna().all(axis=None)
    assert found.latency["change"].isna().all()
    assert found.sentences == []
    assert repr(compare(Recording(b""), Recording(b""))).startswith(" ")


# ---- latency ----------------------------------------------------------------------------


def test_percentiles_and_whether_they_differ():
    spread = list(range(100, 300)) * 5
    found = compare(served(spread), served([us * 2 for us in spread]))
    half = row_of(found.latency, "p50")
    assert (half["before"], half["after"], half["ratio"]) == (199_000, 398_000, 2.0)
    assert 150_000 < half["before_low"] < 199_000 < half["before_high"] < 250_000
    assert half["change"] == "slower"
    assert "p50 is slower: 199 µs before, 398 µs after." in found.sentences
    back = compare(served([us * 2 for us in spread]), served(spread))
    assert row_of(back.latency, "p50")["change"] == "faster"
    same = compare(served(spread), served(spread))
    assert row_of(same.latency, "p50")["change"] == "not clear"
    assert same.sentences == []


def test_percentiles_need_enough_requests():
    """As everywhere in the package; an end beyond the values there are is missing."""
    found = compare(served(range(1, 51)), served(range(1, 51)))
    p50, p90, p99 = (row_of(found.latency, name) for name in ("p50", "p90", "p99"))
    assert p50["change"] == "not clear"
    assert (p90["before"], math.isnan(p90["before_low"])) == (45_000, False)
    assert math.isnan(p99["before"])
    assert isinstance(p99["change"], float)


def coverage(make, p, truth, n_trials=300):
    """The share of data sets whose interval contains the true percentile."""
    hits = 0
    for seed in range(n_trials):
        _, low, high = percentile_interval(make(np.random.default_rng(seed)), p)
        hits += low <= truth <= high
    return hits / n_trials


@pytest.mark.parametrize("p", [50, 90])
def test_intervals_contain_the_true_percentile_as_often_as_they_say(p):
    truth = -math.log(1 - p / 100)
    assert 0.92 <= coverage(lambda random: random.exponential(size=1_000), p, truth) <= 0.99


def test_intervals_count_requests_that_were_delayed_together_once():
    """Fifty in a row have one delay: as if they were independent, the interval is too narrow."""

    def delayed(random):
        return np.repeat(random.exponential(size=200), 50) + random.exponential(0.01, size=10_000)

    assert coverage(delayed, 50, math.log(2) + 0.01) > 0.88
    shuffled = np.random.default_rng(0).permutation(delayed(np.random.default_rng(1)))
    _, low, high = percentile_interval(shuffled, 50)
    _, wide_low, wide_high = percentile_interval(delayed(np.random.default_rng(1)), 50)
    assert wide_high - wide_low > 3 * (high - low)


# ---- sentences --------------------------------------------------------------------------


def test_findings_that_are_gone_new_and_still_there():
    busy, healthy = served([10] * 4, spins=300), served([10] * 4)
    gone = compare(busy, healthy)
    assert [len(gone.gone), len(gone.new), len(gone.still)] == [1, 0, 0]
    assert gone.sentences[-1].startswith("No longer: ")
    new = compare(healthy, busy)
    assert new.new == gone.gone
    still = compare(busy, served([10] * 4, spins=400))
    assert (still.gone, still.new) == ((), ())
    assert still.still[0].startswith("writable interest left on, ")


def test_circumstances_and_lost_events_are_named():
    metadata = {"trigger": "level", "pid": 1, "kernel": "6.1"}
    after = served([10] * 3, metadata={**metadata, "trigger": "edge", "pid": 2})
    lossy = Recording(after.rows, after.metadata, overwritten=1_234)
    found = compare(served([10] * 3, metadata=metadata), lossy)
    assert found.circumstances == {"trigger": ("level", "edge")}
    assert found.sentences == [
        "trigger: 'level' before, 'edge' after.",
        "New: 1,234 events were overwritten, and are not counted.",
    ]
    assert compare(lossy, Recording(lossy.rows, lossy.metadata, overwritten=9)).sentences == []


def test_totals():
    found = compare(served([10] * 4), served([20] * 4))
    first, second = (row_of(found.totals, name) for name in ("requests", "seconds"))
    assert (first["before"], first["after"], first["ratio"]) == (4, 4, 1)
    assert second["before"] == pytest.approx(3 * 11e-6 + 10e-6)
    assert row_of(found.totals, "requests_per_s")["after"] == pytest.approx(4 / second["after"])


def test_as_text_and_as_html():
    metadata = {"handler": "<b>"}
    found = compare(served([10] * 30, metadata=metadata), served([500] * 30))
    text, page = repr(found), found._repr_html_()
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "p50 10 µs 10 to 10 500 µs 500 to 500 50 slower" in rows
    assert "recv 30 30 1 1 1" in rows
    assert text.splitlines()[-1] == "p50 is slower: 10 µs before, 500 µs after."
    assert "p50 is slower" in page
    assert "&lt;b&gt;" in page
    assert "<b>'" not in page


# ---- what is accepted -------------------------------------------------------------------


@pytest.mark.processes
def test_servers_and_runs():
    servers, runs = [], []
    for trigger in ("level", "edge"):
        with epolllab.start_server(trigger=trigger, protocol="http") as server:
            run = epolllab.run_clients(server, requests=60, keep_alive=True, progress=False)
        servers.append(server)
        runs.append(run)
    of_servers, of_runs = compare(*servers), compare(*runs)
    for found in (of_servers, of_runs):
        assert found.totals["before"].iloc[0] == 60
        assert row_of(found.counts, "send")["before_per_request"] == 1
        assert found.latency["before"].iloc[0] > 0
    assert of_servers.circumstances["trigger"] == ("level", "edge")
    assert of_runs.latency["before"].iloc[0] > of_servers.latency["before"].iloc[0]
    assert compare(servers[0].recording(), servers[1]).counts.equals(of_servers.counts)
    with pytest.raises(TypeError, match=r"^after must be a Run"):
        compare(runs[0], servers[0])
    with pytest.raises(TypeError, match=r"^after must be a Server or a Recording"):
        compare(servers[0], runs[0])


@pytest.mark.parametrize("value", [None, 5, "x", Recording, epolllab.Server])
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match=r"^before must be a Server, a Run or a Recording"):
        compare(value, Recording(b""))
    with pytest.raises(TypeError, match=r"^after must be a Server, a Run or a Recording"):
        compare(Recording(b""), value)
