"""idle_connections() on real servers: rows, counts, limits and failures."""

from pathlib import Path

import pytest

from epolllab import experiments, kernel
from epolllab.experiments.comparisons import idle
from epolllab.experiments.rounds import Effort, ExperimentRun
from epolllab.experiments.workers.idle import open_idle
from epolllab.server.server import start_server

TWO = {"idle": (3,), "servers": ("epoll-level-eager", "poll-eager"), "active": 2, "requests": 5,
       "rounds": 2, "progress": False}  # fmt: skip

pytestmark = pytest.mark.usefixtures("descriptor_limits_put_back")


def test_every_server_serves_with_idle_connections_open():
    """Each server responds to all requests; its calls are those of its life cycle."""
    result = experiments.idle_connections((0, 12), active=3, requests=20, rounds=1, progress=False)
    frame = result.frame
    assert dict(frame.dtypes) == dict(idle.LAYOUT.frame([]).dtypes)
    assert len(frame) == len(idle.SERVERS) * 2 * 2
    assert (frame["held"] == frame["idle"]).all()
    assert (frame["errors"] == 0).all()
    counted = frame[~frame["warmup"]]
    assert (counted["requests"] == 20).all()
    ctl = counted.groupby("server", observed=True)["epoll_ctl"].max()
    assert ctl["epoll-level-eager"] == ctl["epoll-edge-once"] == 1
    # The last connections may end after the count was taken.
    assert 3 < ctl["epoll-level-howto"] <= 4
    assert ctl["epoll-oneshot"] >= 1
    assert ctl["poll-eager"] == ctl["select-eager"] == 0
    assert (counted["waits"] > 0).all()
    assert (counted["cpu_us"] > 0).all()


@pytest.fixture
def run():
    return ExperimentRun("made", idle.LAYOUT, Effort({}))


def test_select_ends_at_its_bitmap(run):
    """Sizes beyond it are replaced by select's largest, with a note; poll has them."""
    if kernel.descriptor_limits().hard < 2_500:
        pytest.skip("the hard limit on descriptors is below 2,500")
    fitting = idle._fitting("select-eager", (0, 100, 1_500), 50, run)
    assert fitting[:2] == [0, 100]
    assert 500 < fitting[2] < 1_024
    assert "select-eager cut to" in run.notes[0]
    assert "1,500 asked" in run.notes[0]
    assert idle._fitting("poll-eager", (0, 100, 1_500), 50, run) == [0, 100, 1_500]


def test_the_servers_limit_is_noted(run, monkeypatch):
    """Sizes beyond the hard limit are reduced, with the reason."""
    monkeypatch.setattr(kernel, "descriptor_limits", lambda: kernel.DescriptorLimits(1_000, 1_000))
    fitting = idle._fitting("epoll-level-eager", (0, 10_000), 50, run)
    assert 0 < fitting[1] < 1_000
    assert "the server process may have 1,000 descriptors" in run.notes[0]


def test_idle_connections_have_their_own_source_address():
    """They are open until the block ends, from 127.0.0.2."""
    with start_server() as server, open_idle(server.address, 5) as opened:
        assert opened == (5, None)
        assert _sources(server.address[1]) == ["127.0.0.2"] * 5
    assert _sources(server.address[1]) == []


def _sources(port):
    """Source addresses of established connections to a local port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    found = [f[1] for f in fields if f[2].endswith(f":{port:04X}") and f[3] == "01"]
    return [".".join(str(byte) for byte in bytes.fromhex(at[:8])[::-1]) for at in found]


def test_refused_connections():
    """Without a listener none is open, and the reason is the kernel's."""
    with start_server() as server:
        address = server.address
    with open_idle(address, 3) as opened:
        assert opened.n_open == 0
        assert "refused" in opened.reason


def test_interrupt_ends_all_processes(monkeypatch):
    """An interrupt during a load keeps earlier rows."""
    real, calls = idle.measure_load, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(idle, "measure_load", interrupted)
    result = experiments.idle_connections(**TWO)
    assert result.interrupted
    assert len(result) == 2


def test_a_failed_server_is_noted(monkeypatch):
    """The other server is measured in every round, and the note names the failed cell."""
    real = idle.start_server

    def start(**options):
        if options["poller"] == "poll":
            raise RuntimeError("no luck")
        return real(**options)

    monkeypatch.setattr(idle, "start_server", start)
    result = experiments.idle_connections(**TWO)
    assert set(result["server"]) == {"epoll-level-eager"}
    assert len(result) == 2 * 2
    (note,) = result.notes
    assert note.startswith("poll-eager with 3 idle connections failed with RuntimeError: no luck")
    assert note.endswith("(in 2 of 2 rounds, which are left out)")
