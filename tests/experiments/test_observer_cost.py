"""observer_cost(): each way of watching works, or is said to be missing."""

import shutil

import pytest

from epolllab import kernel
from epolllab.experiments.comparisons.observer_cost import _TRACERS, LOOKS, _frame, observer_cost
from epolllab.experiments.workers import traced
from tests.conftest import missing

OWN = LOOKS[:3]
SMALL = {"requests": 20, "rounds": 1, "progress": False}


def test_own_ways_of_looking():
    """Every load by every way in both places answers all requests."""
    result = observer_cost(looks=OWN, **SMALL)
    frame = result.frame
    assert len(frame) == 2 * 2 * 3 * 2
    assert (frame["errors"] == 0).all()
    assert (frame[~frame["warmup"]]["requests"] == 20).all()
    assert (frame["cpu_us"] > 0).all()
    reading = frame["look"] == OWN[2]
    assert (frame.loc[reading & ~frame["warmup"], "watcher_us"] >= 0).all()
    assert (frame.loc[~reading, "watcher_us"] == 0).all()
    assert dict(frame.dtypes) == dict(_frame([]).dtypes)
    assert len(result.summary()) == 12


@pytest.mark.parametrize("look", LOOKS[3:])
def test_tracers(look):
    """A tracer around the server works, in a process only, or is missing with the reason."""
    result = observer_cost(("echo",), ("plain", look), **SMALL)
    frame = result.frame
    traced = frame[frame["look"] == look]
    if result.notes:
        assert result.notes[0].startswith(f"{look} is missing: ")
        assert traced.empty
        # perf comes with a kernel and is not asked for where every tool is.
        (pytest.skip if look.startswith("perf") else missing)(result.notes[0])
    assert set(traced["where"]) == {"process"}
    assert (traced["errors"] == 0).all()
    assert (traced["watcher_us"] > 0).all()


def test_what_is_missing_is_said(monkeypatch):
    """A tracer that is not installed is noted, and the rest is measured."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    result = observer_cost(("echo",), ("plain", "strace"), where=("thread",), **SMALL)
    assert result.notes == ["strace is missing: strace is not installed"]
    assert set(result["look"]) == {"plain"}


def test_a_tracer_that_is_not_permitted_is_said(monkeypatch):
    """Its own words are the reason."""
    command = ("sh", "-c", "echo 'not permitted' >&2; exit 1", "sh")
    monkeypatch.setitem(_TRACERS, "strace", command)
    result = observer_cost(("echo",), ("plain", "strace"), where=("process",), **SMALL)
    assert result.notes == ["strace is missing: not permitted"]


def test_a_tracer_that_fails_later_is_a_note(monkeypatch):
    """It worked when tried and not when needed: the rest is measured, and it is said."""
    command = ("sh", "-c", "[ $0 = true ] || { echo 'gone' >&2; exit 1; }")
    monkeypatch.setitem(_TRACERS, "strace", command)
    result = observer_cost(("echo",), ("plain", "strace"), where=("process",), **SMALL)
    assert set(result["look"]) == {"plain"}
    (note,) = result.notes
    assert note.startswith("strace (load echo, server in a process) failed with RuntimeError")
    assert "gone" in note


def test_a_server_that_does_not_come_up():
    """The command's own words are in the error, and no process is left."""
    command = ("sh", "-c", "echo 'no such luck' >&2; exit 3", "sh")
    with pytest.raises(traced.TracerFailed, match="no such luck"), traced.watched_server(command):
        pytest.fail("a server came up")


def test_watched_server_answers_and_ends():
    """Without a prefix it is a server of its own process, ended by the block."""
    from epolllab.clients.run import run_clients

    with traced.watched_server((), protocol="echo", record=False) as server:
        assert server.tracer_pid is None
        run = run_clients(
            server.address, protocol="echo", connections=1, requests=3, keep_alive=True,
            progress=False,
        )  # fmt: skip
        assert run.summary()["succeeded"] == 3
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        kernel.cpu_time_ns(pid)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loads": ("ecko",)}, "did you mean 'echo'"),
        ({"looks": ("stracé",)}, "did you mean 'strace'"),
        ({"looks": "plain"}, "each once"),
        ({"where": ()}, "at least one"),
        ({"requests": 0}, "requests must be at least 1"),
        ({"rounds": 0}, "rounds must be at least 1"),
    ],
)
def test_bad_input(arguments, message):
    """Each mistake is named before anything starts."""
    with pytest.raises(ValueError, match=message):
        observer_cost(progress=False, **arguments)
