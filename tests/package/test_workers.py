"""Functions run on the workers of executors, and every way to fail has its sentence."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

import epolllab
from epolllab import workers
from epolllab.recording import environment
from epolllab.workers import Host, Outcome, check_executor, run_numbered, worker_count
from tests.pools import pool, running_pool


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[ProcessPoolExecutor]:
    """A pool whose workers both run, so that no test starts one."""
    with running_pool() as executor:
        yield executor


class Fake(Executor):
    """Makes of every submission what a function makes of it."""

    def __init__(self, submit: Callable[..., Future[Any]]) -> None:
        self.submit = submit  # type: ignore[assignment, method-assign]


def answered(answer: Any) -> Future[Any]:
    """A future that is done."""
    future: Future[Any] = Future()
    future.set_result(answer)
    return future


def double(number: int) -> int:
    return number * 2


def fail(number: int) -> int:
    raise ValueError(f"no {number}")


class Unreadable:
    """Pickles, and fails to unpickle."""

    def __reduce__(self) -> Any:
        return os.strerror, ("no number",)


# ---- which executors ----------------------------------------------------------------------


@pytest.mark.parametrize("given", [3, "dask", None, Executor, ProcessPoolExecutor, print])
def test_what_is_no_executor_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match=r"^executor must be a concurrent\.futures\.Executor"):
        check_executor("executor", given)


def test_a_pool_of_threads_is_refused() -> None:
    with (
        ThreadPoolExecutor(1) as threads,
        pytest.raises(TypeError, match=r"^executor .*interpreter lock"),
    ):
        check_executor("executor", threads)


def test_a_pool_that_is_shut_down_is_refused() -> None:
    executor = pool()
    assert check_executor("executor", executor) is executor
    executor.shutdown()
    with pytest.raises(ValueError, match=r"^executor is shut down"):
        check_executor("executor", executor)


def test_an_executor_that_refuses_tasks_is_an_error() -> None:
    """Also one that does not show that it is shut down."""

    def submit(*_: Any) -> Any:
        raise RuntimeError("cannot schedule new futures after shutdown")

    with pytest.raises(ValueError, match=r"^executor accepts no tasks: cannot schedule"):
        run_numbered(Fake(submit), double, [1])


def test_the_number_of_workers(running: ProcessPoolExecutor) -> None:
    assert worker_count(running) == 2
    assert worker_count(Fake(lambda: answered(0))) is None


# ---- what comes back ----------------------------------------------------------------------


def test_values_come_in_the_order_of_the_arguments(running: ProcessPoolExecutor) -> None:
    """Equal arguments are tasks of their own, and each outcome is reported once."""
    seen: list[Outcome] = []
    outcomes = run_numbered(running, double, [5, 5, 7], on_outcome=seen.append)
    assert [(o.number, o.value, o.error) for o in outcomes] == [
        (0, 10, ""),
        (1, 10, ""),
        (2, 14, ""),
    ]
    assert sorted(seen, key=lambda outcome: outcome.number) == outcomes


def test_outcomes_say_where_they_come_from(running: ProcessPoolExecutor) -> None:
    (outcome,) = run_numbered(running, double, [1])
    facts = environment.collect(recorder_cost_ns=0.0)
    names = ("boot_id", "kernel", "python", "cpu")
    assert outcome.host is not None
    assert [getattr(outcome.host, name) for name in names] == [facts[name] for name in names]
    assert outcome.host.host == os.uname().nodename
    assert outcome.host.epolllab == epolllab.__version__
    assert outcome.host.pid in running._processes


def test_one_failure_leaves_the_others(running: ProcessPoolExecutor) -> None:
    functions = [double, fail, double]
    outcomes = run_numbered(running, lambda i: functions[i](i), range(3))
    assert [o.value for o in outcomes] == [0, None, 4]
    assert outcomes[1].error == "ValueError: no 1"
    assert "in fail" in outcomes[1].traceback
    assert outcomes[1].host is not None


def test_an_interrupt_in_a_worker_does_not_end_it(running: ProcessPoolExecutor) -> None:
    (outcome,) = run_numbered(running, lambda _: os.kill(os.getpid(), signal.SIGINT), [0])
    assert outcome.error == "KeyboardInterrupt"
    assert run_numbered(running, double, [1])[0].value == 2


# ---- what cannot be pickled ----------------------------------------------------------------


def test_an_argument_that_cannot_be_pickled() -> None:
    """It is refused before anything is submitted."""
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"^executor .*pickle"):
        run_numbered(Fake(lambda *_: pytest.fail("submitted")), double, [1, lock])


@pytest.mark.parametrize(
    ("function", "argument", "reason"),
    [
        (double, Unreadable(), "the function or its argument cannot be unpickled on the worker"),
        (lambda _: threading.Lock(), 1, "the function's result cannot be pickled"),
        (lambda _: Unreadable(), 1, "the result cannot be unpickled here"),
    ],
    ids=["argument", "result", "result here"],
)
def test_what_pickles_badly_is_said(
    running: ProcessPoolExecutor, function: Any, argument: Any, reason: str
) -> None:
    """In one outcome; a pool's worker that fails to unpickle by itself breaks the pool."""
    outcomes = run_numbered(running, function, [argument])
    assert outcomes[0].error.startswith(f"{reason}: ")
    assert run_numbered(running, double, [1])[0].value == 2


# ---- workers that do not fit ---------------------------------------------------------------


def hide_epolllab() -> None:
    """Make imports of the package fail in this process."""
    sys.modules["epolllab"] = None  # type: ignore[assignment]


def test_a_worker_without_epolllab_says_so() -> None:
    with pool(initializer=hide_epolllab) as executor:
        (outcome,) = run_numbered(executor, double, [1])
    assert "has no epolllab that can be imported (ModuleNotFoundError: " in outcome.error
    assert f"and this process has epolllab {epolllab.__version__}" in outcome.error
    assert outcome.value is None


def test_both_versions_are_named(
    running: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_own_version", lambda: "9.9")
    (outcome,) = run_numbered(running, double, [1])
    assert (
        f"has epolllab {epolllab.__version__}, and this process has epolllab 9.9" in outcome.error
    )


def inline(function: Any, *arguments: Any) -> Future[Any]:
    return answered(function(*arguments))


def test_workers_that_are_threads_of_this_process_are_refused() -> None:
    """As those of LocalCluster(processes=False) are; the function is not called."""
    (outcome,) = run_numbered(Fake(inline), lambda _: pytest.fail("called"), [1])
    assert "threads of this process" in outcome.error


def test_merged_submissions_are_noticed(
    running: ProcessPoolExecutor,
) -> None:
    """An engine that runs one task for two submissions has one result too few."""
    first: list[Future[Any]] = []

    def submit(*arguments: Any) -> Future[Any]:
        first.append(first[0] if first else running.submit(*arguments))
        return first[-1]

    outcomes = run_numbered(Fake(submit), double, [3, 3])
    assert outcomes[0].value == 6
    assert "the result of another task" in outcomes[1].error


def test_several_results_at_once_are_an_error() -> None:
    """As of an ipyparallel DirectView, which runs each task on all engines."""
    (outcome,) = run_numbered(Fake(lambda *_: answered([1, 2])), double, [3])
    assert "on one worker" in outcome.error


# ---- tasks that do not end ------------------------------------------------------------------


def test_a_task_that_times_out_is_cancelled() -> None:
    waiting = [Future[Any](), Future[Any]()]
    futures = iter([*waiting])
    outcomes = run_numbered(Fake(lambda *_: next(futures)), double, [1, 2], timeout=0.2)
    assert [o.error for o in outcomes] == ["the task had no result within 0.2 s"] * 2
    assert all(future.cancelled() for future in waiting)


def test_a_task_that_the_engine_cancels() -> None:
    future: Future[Any] = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    (outcome,) = run_numbered(Fake(lambda *_: future), double, [1])
    assert outcome.error == "the engine cancelled the task"


def test_an_error_of_the_engine_is_a_sentence() -> None:
    future: Future[Any] = Future()
    future.set_exception(OSError("scheduler gone"))
    (outcome,) = run_numbered(Fake(lambda *_: future), double, [1])
    assert outcome.error == "the engine failed: OSError: scheduler gone"


def test_an_interrupt_cancels_what_has_not_started() -> None:
    """The interrupt is raised, here from the callback of the first outcome."""
    never: Future[Any] = Future()
    futures = iter([answered(()), never])

    def interrupt(_: Outcome) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_numbered(Fake(lambda *_: next(futures)), double, [1, 2], on_outcome=interrupt)
    assert never.cancelled()


def test_a_worker_that_dies_breaks_a_pool() -> None:
    with pool() as executor:
        outcomes = run_numbered(executor, lambda _: os._exit(1), range(2), timeout=60)
    assert ["broke the pool" in outcome.error for outcome in outcomes] == [True, True]
    with pytest.raises(ValueError, match="executor is shut down or broken"):
        check_executor("executor", executor)


def test_a_host_is_described_by_plain_values() -> None:
    """So that a worker's answer can be read without this package."""
    assert {type(value) for value in Host.here()} == {str, int}
