"""idle_connections() on real servers, small: rows, counts, limits, and nothing left."""

from pathlib import Path

import pytest

from epolllab import experiments, kernel
from epolllab.experiments import rounds
from epolllab.experiments.comparisons import idle
from epolllab.experiments.workers.idle import hold_idle
from epolllab.server.server import start_server

pytestmark = pytest.mark.usefixtures("descriptor_limits_put_back")


def test_every_server_answers_with_idle_connections_open():
    """Each kind of server holds what is asked and answers all; its calls are its life cycle's."""
    result = experiments.idle_connections((0, 12), active=3, requests=20, rounds=1, progress=False)
    frame = result.frame
    assert dict(frame.dtypes) == dict(idle._frame([]).dtypes)
    assert len(frame) == len(idle.SERVERS) * 2 * 2
    assert (frame["held"] == frame["idle"]).all()
    assert (frame["errors"] == 0).all()
    counted = frame[~frame["warmup"]]
    assert (counted["requests"] == 20).all()
    ctl = counted.groupby("server", observed=True)["epoll_ctl"].max()
    assert ctl["epoll-level-eager"] == ctl["epoll-edge-once"] == 1
    # The last connections' end may come after the count was taken.
    assert 3 < ctl["epoll-level-howto"] <= 4
    assert ctl["epoll-oneshot"] >= 1
    assert ctl["poll-eager"] == ctl["select-eager"] == 0
    assert (counted["waits"] > 0).all()
    assert (counted["cpu_us"] > 0).all()


def test_select_ends_where_its_bitmap_does():
    """More than fits gets select's own last size and a note; others go on."""
    if kernel.descriptor_limits().hard < 2_500:
        pytest.skip("the hard limit on descriptors is below 2,500")
    book = rounds.Logbook()
    fitting = idle._fitting("select-eager", (0, 100, 1_500), 50, book)
    assert fitting[:2] == [0, 100]
    assert 500 < fitting[2] < 1_024
    assert "select-eager cut to" in book.notes[0]
    assert "1,500 asked" in book.notes[0]
    assert idle._fitting("poll-eager", (0, 100, 1_500), 50, book) == [0, 100, 1_500]


def test_the_server_limit_is_said(monkeypatch):
    """What the hard limit leaves no room for is cut, with the reason."""
    monkeypatch.setattr(kernel, "descriptor_limits", lambda: kernel.DescriptorLimits(1_000, 1_000))
    book = rounds.Logbook()
    fitting = idle._fitting("epoll-level-eager", (0, 10_000), 50, book)
    assert 0 < fitting[1] < 1_000
    assert "the server process may have 1,000 descriptors" in book.notes[0]


def test_held_connections_come_from_addresses_of_their_own():
    """They stand while the block lasts, from 127.0.0.2, and are gone after it."""
    with start_server() as server, hold_idle(server.address, 5) as held:
        assert held == (5, None)
        assert _sources(server.address[1]) == ["127.0.0.2"] * 5
    assert _sources(server.address[1]) == []


def _sources(port):
    """Addresses from which connections to a local port are established, by the kernel."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    found = [f[1] for f in fields if f[2].endswith(f":{port:04X}") and f[3] == "01"]
    return [".".join(str(byte) for byte in bytes.fromhex(at[:8])[::-1]) for at in found]


def test_a_refused_holder_says_so():
    """Nobody listens: none is held, and the reason is the kernel's."""
    with start_server() as server:
        address = server.address
    with hold_idle(address, 3) as held:
        assert held.n_held == 0
        assert "refused" in held.reason


def test_interrupt_ends_servers_and_holders(monkeypatch):
    """An interrupt in the middle of a load keeps earlier rows and leaves nothing."""
    real, calls = idle.measured_load, []

    def interrupted(*arguments, **wishes):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **wishes)

    monkeypatch.setattr(idle, "measured_load", interrupted)
    result = experiments.idle_connections(
        (3,), ("epoll-level-eager", "poll-eager"), active=2, requests=5, rounds=2, progress=False
    )
    assert result.interrupted
    assert len(result) == 2


def test_a_server_that_fails_is_a_note(monkeypatch):
    """The other server is measured in every round, and what failed is said with its cell."""
    real = idle.start_server

    def start(**options):
        if options["poller"] == "poll":
            raise RuntimeError("no luck")
        return real(**options)

    monkeypatch.setattr(idle, "start_server", start)
    result = experiments.idle_connections(
        (3,), ("epoll-level-eager", "poll-eager"), active=2, requests=5, rounds=2, progress=False
    )
    assert set(result["server"]) == {"epoll-level-eager"}
    assert len(result) == 2 * 2
    (note,) = result.notes
    assert note.startswith("poll-eager with 3 idle connections failed with RuntimeError: no luck")
    assert note.endswith("(in 2 of 2 rounds, which are left out)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"idle": (-1,)}, "idle must be at least 0"),
        ({"idle": (100, 10)}, "Did you mean"),
        ({"servers": ("epoll-eager",)}, "servers must be one of"),
        ({"servers": "poll-eager"}, "each once"),
        ({"active": 0}, "active must be at least 1"),
        ({"requests": 0}, "requests must be at least 1"),
        ({"rounds": 0}, "rounds must be at least 1"),
    ],
)
def test_bad_input(arguments, message):
    """Each mistake is named before anything starts."""
    with pytest.raises(ValueError, match=message):
        experiments.idle_connections(progress=False, **arguments)
