"""observer_cost(): each way of observing works, or is noted as missing."""

import re

import pytest

from epolllab import kernel
from epolllab.clients.run import run_clients
from epolllab.experiments.comparisons.observer_cost import _TRACERS, LAYOUT, LOOKS, observer_cost
from epolllab.experiments.workers import traced
from tests.conftest import missing

OWN = LOOKS[:3]
SMALL = {"requests": 20, "rounds": 1, "progress": False}


def test_without_tracers():
    """Every load has all responses, in both places, with and without recorder."""
    result = observer_cost(looks=OWN, **SMALL)
    frame = result.frame
    assert len(frame) == 2 * 2 * 3 * 2
    assert (frame["errors"] == 0).all()
    assert (frame[~frame["warmup"]]["requests"] == 20).all()
    assert (frame["cpu_us"] > 0).all()
    reading = frame["look"] == OWN[2]
    assert (frame.loc[~reading, "watcher_us"] == 0).all()
    assert dict(frame.dtypes) == dict(LAYOUT.frame([]).dtypes)
    assert len(result.summary()) == 12


def test_reading_along_has_a_cost():
    """A load that lasts longer than the tenth of a second between two reads shows it."""
    result = observer_cost(
        ("echo",), OWN[2:], where=("process",), requests=5_000, rounds=1, progress=False
    )
    frame = result.frame
    assert frame.loc[~frame["warmup"], "watcher_us"].min() > 0


@pytest.mark.parametrize("look", LOOKS[3:])
def test_tracers(look):
    """A tracer around the server works, in a process only, or is noted as missing."""
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
    # perf reads its buffer in intervals, so one of two short loads may cost it nothing.
    assert traced["watcher_us"].max() > 0


@pytest.mark.parametrize(
    ("command", "note"),
    [
        (["no-such-tracer"], "strace is missing: no-such-tracer is not installed"),
        (["sh", "-c", "echo forbidden >&2; exit 1", "sh"], "strace is missing: forbidden"),
        (
            ["sh", "-c", "[ $0 = true ] || { echo gone >&2; exit 1; }"],
            r"strace \(load echo, server in a process\) failed with RuntimeError: .*gone",
        ),
    ],
    ids=["not installed", "forbidden", "fails after its trial"],
)
def test_a_tracer_that_does_not_work_is_noted(command, note, monkeypatch):
    """The reason is its own output, and the rest is measured."""
    monkeypatch.setitem(_TRACERS, "strace", command)
    result = observer_cost(("echo",), ("plain", "strace"), where=("process",), **SMALL)
    assert set(result["look"]) == {"plain"}
    (found,) = result.notes
    assert re.match(note, found)


def test_a_server_that_does_not_start():
    """The command's output is in the error, and no process is left."""
    command = ("sh", "-c", "echo 'no such luck' >&2; exit 3", "sh")
    with pytest.raises(traced.TracerFailed, match="no such luck"), traced.traced_server(command):
        pytest.fail("a server came up")


def test_traced_server_responds_and_ends():
    """Without a prefix it is a server in its own process, which ends with the block."""
    with traced.traced_server((), protocol="echo", record=False) as server:
        assert server.tracer_pid is None
        run = run_clients(
            server.address, protocol="echo", connections=1, requests=3, keep_alive=True,
            progress=False,
        )  # fmt: skip
        assert run.summary()["succeeded"] == 3
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        kernel.cpu_time_ns(pid)
