"""The same experiment on several workers: a process pool, a Dask cluster, and failures."""

import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from epolllab import analysis, experiments
from epolllab.experiments import fleet
from epolllab.experiments.catalogue import registry
from epolllab.experiments.comparisons import triggers
from epolllab.experiments.scaling import waits
from epolllab.experiments.workers import remote
from epolllab.experiments.workers.remote import Measured, Request, perform_once
from epolllab.workers import Host, Outcome
from tests.pools import running_pool

NAMES = ["level-repeats", "edge-goes-silent"]
ENVIRONMENT = ["host", "kernel", "python", "cpu"]
TINY = {"ops": 3, "rounds": 2, "warmup": 1, "api": ("raw",), "pollers": ("epoll-level", "poll")}


@pytest.fixture(scope="module", autouse=True)
def pool():
    """Two workers that have started, so that a test is not blamed for them."""
    with running_pool() as executor:
        yield executor


@pytest.fixture
def own_phenomenon(monkeypatch):
    """A phenomenon as a notebook has it, which no worker knows."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    def process_id(_):
        return os.getpid()

    registry.phenomenon(
        "own", family="of the test", claim="Runs.", expected="a process", judge=bool, source="here"
    )(process_id)


def test_every_worker_runs_the_catalogue_once(pool, own_phenomenon):
    """In the order of the catalogue, with where it ran, and each in a process of its own."""
    frame = experiments.run_all(False, only=[*NAMES, "own"], executor=pool)
    here = experiments.run_all(False, only=[*NAMES, "own"])
    assert list(frame) == [*here, "worker", *ENVIRONMENT]
    assert frame.dtypes[list(here)].equals(here.dtypes)
    assert frame["worker"].tolist() == [0, 0, 0, 1, 1, 1]
    assert frame["name"].tolist() == here["name"].tolist() * 2
    assert set(frame["verdict"]) == {"holds"}
    same = ["name", "family", "claim", "expected", "source", "reason"]
    pd.testing.assert_frame_equal(frame[same][:3], here[same], check_dtype=False)
    assert set(frame["host"]) == {platform.node()}
    assert set(frame["kernel"]) == {platform.release()}
    assert set(frame["python"]) == {platform.python_version()}
    seen = frame.loc[frame["name"] == "own", "observed"]
    assert seen.nunique() == 2
    assert not {f"{pid:,}" for pid in (os.getpid(), *pool._processes)} & set(seen)
    assert frame.attrs["failures"] == frame.attrs["notes"] == []
    assert not frame.attrs["interrupted"]
    runs = frame.attrs["circumstances"]["runs"]
    assert [runs[n]["kernel"] for n in ("0", "1")] == [platform.release()] * 2
    assert set(analysis.agreement(frame, by=("worker",))["agreement"]) == {"same"}
    assert set(analysis.agreement(frame)["agreement"]) == {"not compared"}


def test_one_of_two_workers_is_enough(pool):
    """`workers` says how many."""
    frame = experiments.run_all(False, only=NAMES[:1], executor=pool, workers=1)
    assert frame["worker"].tolist() == [0]


def test_a_sweep_of_two_workers_is_one_result(pool):
    """With the same columns, a variant for each worker, and parts that work alone."""
    result = experiments.sweep((10, 100), executor=pool, progress=False, **TINY)
    columns = waits.LAYOUT.frame([]).dtypes
    assert result.frame.dtypes[list(columns.index)].equals(columns)
    assert result.by[:5] == ("worker", *ENVIRONMENT)
    counts = result.frame.groupby(["worker", "poller", "n_fds", "round"], observed=True).size()
    assert set(counts) == {4}
    assert len(counts) == 2 * 2 * 2 * 2
    assert len(result.summary()) == 8
    assert set(result.fits()["worker"]) == {0, 1}
    with pytest.raises(ValueError, match=r"^frame must be of one run"):
        result.checks()
    parts = result.runs()
    assert list(parts) == ["worker 0", "worker 1"]
    for part in parts.values():
        assert part.checks()["verdict"].tolist()[0] in ("holds", "differs")
        assert part.circumstances["raw_floor_ns"] > 0
    first, second = (part.circumstances["started_ns"] for part in parts.values())
    assert first != second
    assert result.notes == []


def test_level_against_edge_on_two_workers(pool):
    """Each has its own servers and clients."""
    frame = experiments.level_against_edge(
        sizes=(10,), clients="at once", connections=2, rounds=1, progress=False, executor=pool
    )
    assert list(frame) == [*triggers._COLUMNS, "worker", *ENVIRONMENT]
    assert frame.dtypes["trigger"] == triggers._COLUMNS["trigger"]
    assert frame.groupby("worker").size().tolist() == [4, 4]
    assert set(frame["n_answered"]) == {2}


def test_a_worker_does_not_run_twice_and_says_why_it_fails():
    """An engine may give one worker two tasks, or run a killed worker's task again."""
    request = Request("a call", "run_all", {"only": NAMES[:1]})
    assert isinstance(perform_once(request), Measured)
    assert perform_once(request) is None
    with pytest.raises(RuntimeError, match=r"^ValueError: ops must be at least 1 "):
        perform_once(Request("another", "sweep", {"ops": 0}))


def test_experiments_on_one_host_take_turns():
    """The second begins when the first has ended."""
    order = []
    begun, may_end = threading.Event(), threading.Event()

    def second():
        begun.set()
        with remote._turn():
            order.append("second")

    thread = threading.Thread(target=second)
    with remote._turn():
        thread.start()
        assert begun.wait(10)
        may_end.wait(3 * remote.POLL_S)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


# ---- outcomes of an executor that exists only here ----------------------------------------


def host(name="a", boot="boot", python="3.11.7"):
    return Host(name, boot, "6.1", python, "EPYC", "1.0", 1)


def measured(start=0, end=10, notes=()):
    """A run of one phenomenon that holds."""
    made = experiments.run_all(False, only=NAMES[:1])
    return Measured(remote._table(made), {"kernel": "6.1"}, list(notes), start, end)


class Pretended(Executor):
    """An executor of three workers that starts nothing."""

    _max_workers = 3

    def __init__(self):
        self.calls = []


def pretend(monkeypatch, *batches):
    """Give these outcomes, one batch for each submission; an exception is raised after it."""
    executor, left = Pretended(), list(batches)

    def run_numbered(_, function, arguments, *, on_outcome):
        executor.calls.append(len(arguments))
        batch = left.pop(0) if left else [Outcome(0)] * len(arguments)
        for outcome in batch:
            if isinstance(outcome, BaseException):
                raise outcome
            on_outcome(outcome)

    monkeypatch.setattr(fleet, "run_numbered", run_numbered)
    monkeypatch.setattr(fleet, "PAUSE_S", 0.0)
    return executor


def test_a_failed_worker_has_a_row_for_each_phenomenon(monkeypatch):
    """With its reason and no verdict, in the attributes, in the notes and as a warning."""
    executor = pretend(
        monkeypatch,
        [Outcome(0, error="died", host=host("b")), Outcome(1, measured(notes=["cut"]), host=host()),
         Outcome(2, error="other version")],
    )  # fmt: skip
    with pytest.warns(RuntimeWarning, match=r"worker [12] failed: (died|other)") as warned:
        frame = experiments.run_all(False, only=NAMES[:1], executor=executor)
    assert {Path(warning.filename).name for warning in warned} == {Path(__file__).name}
    assert len(warned) == 2
    assert frame["worker"].tolist() == [0, 1, 2]
    assert frame["host"].tolist() == ["a", "b", ""]
    assert frame["reason"].tolist() == ["", "died", "other version"]
    assert frame["verdict"].isna().tolist() == [False, True, True]
    assert frame["claim"].nunique() == 1
    assert frame.dtypes["verdict"] == registry._COLUMNS["verdict"]
    assert [one["reason"] for one in frame.attrs["failures"]] == ["died", "other version"]
    assert frame.attrs["notes"] == [
        "worker 1 failed: died", "worker 2 failed: other version", "worker 0: cut"
    ]  # fmt: skip
    json.dumps(frame.attrs)
    table = analysis.agreement(frame, by=("host",))
    assert table["exceptions"].tolist() == ["not run: b and "]


def test_a_failed_worker_is_in_the_notes_of_a_result(monkeypatch):
    """Charts print these."""
    sweep = experiments.sweep((10,), progress=False, **TINY)
    done = Measured(remote._table(sweep.frame), dict(sweep.circumstances), [], 0, 1)
    executor = pretend(monkeypatch, [Outcome(0, done, host=host()), Outcome(1, error="died")])
    with pytest.warns(RuntimeWarning, match="died"):
        result = experiments.sweep((10,), executor=executor, workers=2, progress=False, **TINY)
    assert result.notes == ["worker 1 failed: died"]
    assert result.circumstances["failures"][0]["reason"] == "died"
    assert len(result) == len(sweep)


def test_nothing_but_failures_is_an_error(monkeypatch):
    executor = pretend(monkeypatch, [Outcome(n, error="died") for n in range(3)])
    with pytest.raises(RuntimeError, match=r"^run_all: no worker has a result: died$"):
        experiments.run_all(False, executor=executor)


def test_a_task_that_came_to_the_same_worker_is_offered_again(monkeypatch):
    """Until another worker takes it; if none does, it has failed."""
    one, two = Outcome(0, measured(0, 10), host=host()), Outcome(0, measured(20, 30), host=host())
    executor = pretend(monkeypatch, [one, Outcome(1)], [Outcome(0)], [two])
    frame = experiments.run_all(False, only=NAMES[:1], executor=executor, workers=2)
    assert executor.calls == [2, 1, 1]
    assert frame["worker"].tolist() == [0, 1]
    monkeypatch.setattr(fleet, "PATIENCE_S", 0.0)
    executor = pretend(monkeypatch, [one, Outcome(1)])
    with pytest.warns(RuntimeWarning, match="no other worker took this run"):
        frame = experiments.run_all(False, only=NAMES[:1], executor=executor, workers=2)
    assert frame["verdict"].isna().tolist() == [False, True]


def test_runs_that_overlapped_on_one_machine_are_noted(monkeypatch):
    """As in containers, which do not wait for each other; clocks of two boots do not compare."""
    runs = [
        Outcome(0, measured(0, 10), host=host("a")),
        Outcome(1, measured(5, 15), host=host("b")),
        Outcome(2, measured(5, 15), host=host("c", boot="another")),
    ]
    frame = experiments.run_all(False, only=NAMES[:1], executor=pretend(monkeypatch, runs))
    (note,) = frame.attrs["notes"]
    assert "workers 0 and 1 overlapped" in note


def test_an_interrupt_keeps_what_has_come_home(monkeypatch):
    executor = pretend(monkeypatch, [Outcome(0, measured(), host=host()), KeyboardInterrupt()])
    frame = experiments.run_all(False, only=NAMES[:1], executor=executor)
    assert len(frame) == 1
    assert frame.attrs["interrupted"]
    assert "interrupted after 1 workers" in frame.attrs["notes"][0]
    executor = pretend(monkeypatch, [KeyboardInterrupt()])
    frame = experiments.level_against_edge(executor=executor, progress=False)
    assert len(frame) == 0
    assert frame.dtypes["size"] == "int64"


CALLS = {
    "run_all": lambda **options: experiments.run_all(False, only=NAMES[:1], **options),
    "sweep": lambda **options: experiments.sweep((10,), progress=False, **TINY, **options),
    "level_against_edge": lambda **options: experiments.level_against_edge(
        quick=True, progress=False, **options
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_bad_executors_and_numbers_are_refused_before_anything_starts(call):
    """The parameter's name comes first."""
    with ProcessPoolExecutor(2) as pool, ThreadPoolExecutor(1) as threads:
        for options, error, words in (
            ({"executor": 5}, TypeError, "^executor must be"),
            ({"executor": threads}, TypeError, "^executor must .* threads"),
            ({"workers": 2}, ValueError, "^workers needs an executor"),
            ({"executor": pool, "workers": 0}, ValueError, "^workers must be at least 1"),
            ({"executor": pool, "workers": 3}, ValueError, "^workers must be at most 2"),
            ({"executor": pool, "workers": True}, TypeError, "^workers must be an integer"),
        ):
            with pytest.raises(error, match=words):
                call(**options)
        assert not pool._processes
    with pytest.raises(ValueError, match=r"^executor is shut down"):
        call(executor=pool)


# ---- workers that die ----------------------------------------------------------------------


def test_a_pool_that_breaks_loses_all_runs_and_says_so(monkeypatch):
    """The standard library's pool cannot go on without one of its processes."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    def kill_the_worker(_):
        os.kill(os.getppid(), signal.SIGKILL)

    registry.phenomenon("kills", family="of the test", claim="Ends.", expected=None, source="here")(
        kill_the_worker
    )
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(RuntimeError, match="broke the pool"):
            experiments.run_all(False, only="kills", executor=pool)
        with pytest.raises(ValueError, match=r"^executor is shut down or broken"):
            experiments.run_all(False, only="kills", executor=pool)


@pytest.fixture(scope="module")
def on_dask(tmp_path_factory):
    """What dask_runs.py found: it does all runs on one cluster of two workers."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        pytest.skip("distributed is not installed")
    program = Path(__file__).with_name("dask_runs.py")
    folder = tmp_path_factory.mktemp("dask")
    done = subprocess.run(
        [sys.executable, program, folder], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_dask_workers_run_once_each(on_dask):
    """Also with two threads each, and twice in a row."""
    for found in on_dask["twice"]:
        assert found["workers"] == [0, 1]
        assert found["verdicts"] == ["holds"]
        assert found["processes"] == 2
        assert found["notes"] == []
    assert on_dask["sweep"] == {"runs": ["worker 0", "worker 1"], "notes": []}


@pytest.mark.slow
def test_the_run_of_a_killed_dask_worker_is_done_by_its_successor(on_dask):
    """Dask starts another worker; the run is not lost and not done twice."""
    assert on_dask["killed"] == {"workers": [0, 1], "verdicts": ["holds"], "failures": []}


@pytest.mark.slow
def test_nothing_is_left_behind_by_runs_on_dask(on_dask):
    assert on_dask["children"] == []
