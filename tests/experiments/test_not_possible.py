"""Experiments on a machine that lacks what they need: the reason, and no measurement."""

import errno
import resource
import shutil
import socket

import pytest

from epolllab import experiments, kernel
from epolllab.experiments.catalogue.registry import Phenomenon, _run


@pytest.fixture
def no_loopback(monkeypatch):
    """A network namespace whose loopback interface is down."""

    class Unreachable(socket.socket):
        def connect(self, address):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", Unreachable)


@pytest.mark.usefixtures("no_loopback")
@pytest.mark.parametrize(
    "name",
    ["thundering_herd", "idle_connections", "strand_connections", "level_against_edge",
     "observer_cost"],
)  # fmt: skip
def test_experiments_over_tcp_are_not_possible_without_loopback(name):
    """They do not measure failed connections."""
    with pytest.raises(kernel.NotPossible, match="loopback"):
        getattr(experiments, name)(**({} if name == "strand_connections" else {"progress": False}))


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "not possible here"),
        (kernel.DescriptorLimitError(1_000, 64, 256), "not possible here"),
        (OSError(errno.ENOSYS, "Function not implemented"), "not possible here"),
        (OSError(errno.EBADF, "Bad file descriptor"), "raised"),
    ],
)
def test_a_phenomenon_is_not_possible_where_the_machine_lacks_something(error, verdict):
    def fail(bench):
        raise error

    outcome = _run(Phenomenon("x", "f", "claim", None, "source", fail))
    assert str(outcome.verdict) == verdict
    assert outcome.reason


@pytest.mark.parametrize("limit", [256, 100])
def test_few_descriptors_are_a_reason(monkeypatch, limit):
    """A process whose hard limit is low cannot show what needs high numbers."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    names = ["fd-setsize-wall", "python-cuts-batches"]
    frame = experiments.run_all(progress=False, only=names)
    assert frame["verdict"].tolist() == ["not possible here"] * 2
    assert frame["reason"].str.contains(f"{limit:,}").all()


def test_a_run_without_any_rows_says_why(monkeypatch):
    """Every cell failed: there is no empty result to draw."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(kernel.NotPossible, match="nothing could be measured"):
        experiments.observer_cost(looks=["perf trace"], quick=True, progress=False)
