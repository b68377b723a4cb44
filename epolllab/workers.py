"""Run a function on the workers of a ``concurrent.futures.Executor``.

Works with Dask (``client.get_executor()``), ipyparallel (``client.executor()``) and the
standard library's process pool, none of which is imported here. What a worker is asked to
run is source text and bytes, so that a worker without epolllab, or with another version,
answers with that instead of an unpickling error, which would break a process pool.
"""

import os
import pickle
import platform
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from epolllab.checks import check_instance
from epolllab.recording import environment

__all__ = ["Host", "Outcome", "Tasks", "check_executor", "perform", "run_numbered", "worker_count"]

POLL_S = 0.1
"""How often :func:`run_numbered` looks at its timeout."""

_SHUT_DOWN = ("_shutdown", "_shutdown_thread", "_broken")
"""Attributes of the executors known here that are true once no task can be submitted."""

_EXPRESSION = "exec(source) or answer"
_SOURCE = """
try:
    import epolllab
    found = f"epolllab {epolllab.__version__}"
    if found == wanted:
        from epolllab.workers import perform
except Exception as error:
    found = f"no epolllab that can be imported ({type(error).__name__}: {error})"
if found == wanted:
    answer = perform(caller, number, payload)
else:
    import platform
    answer = ("other version", number, platform.node(), platform.python_version(), found)
"""
"""What a worker evaluates. It must run on workers that do not have this package."""


class Host(NamedTuple):
    """Where a task ran."""

    host: str
    """The machine's name."""
    boot_id: str
    """Random id of the machine's boot; clocks of two boots cannot be compared."""
    kernel: str
    python: str
    cpu: str
    epolllab: str
    pid: int

    @classmethod
    def here(cls) -> Self:
        """Describe this process."""
        known = environment.collect(recorder_cost_ns=0.0)
        names = ("boot_id", "kernel", "python", "cpu")
        boot_id, kernel, python, cpu = (known[name] or "" for name in names)
        return cls(platform.node(), boot_id, kernel, python, cpu, _own_version(), os.getpid())


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes
    ----------
    number : int
        Place of its argument, from 0.
    value : object
        What the function returned; None if it failed.
    error : str
        Why it failed, as a sentence; empty if it succeeded.
    host : Host, optional
        Where it ran; None if the worker never said.
    traceback : str
        The worker's, if the function raised; empty otherwise.
    """

    number: int
    value: Any = None
    error: str = ""
    host: Host | None = None
    traceback: str = ""


def check_executor(name: str, executor: Any) -> Executor:
    """Return `executor` if tasks can be submitted to it and run in other processes.

    Nothing is submitted. Raises TypeError for what is no executor and for a pool of
    threads, ValueError for one that is shut down or broken.
    """
    what = "a concurrent.futures.Executor, such as Dask's client.get_executor()"
    if isinstance(executor, type):
        raise TypeError(f"{name} must be {what}, not the class {executor.__name__}; call it")
    check_instance(name, executor, Executor, what)
    if isinstance(executor, ThreadPoolExecutor):
        raise TypeError(
            f"{name} must run tasks in other processes, and a {type(executor).__name__} runs "
            "them in threads of this one, which share its interpreter lock with everything "
            "here; use a ProcessPoolExecutor or a cluster's executor"
        )
    client = getattr(executor, "_client", None)  # Dask's
    if any(getattr(executor, flag, False) for flag in _SHUT_DOWN) or (
        getattr(client, "status", "") == "closed"
    ):
        raise ValueError(f"{name} is shut down or broken; make a new {type(executor).__name__}")
    return executor  # type: ignore[no-any-return]


def worker_count(executor: Executor) -> int | None:
    """Return how many workers the executor has; None if it does not say."""
    client: Any = getattr(executor, "_client", None)  # Dask's
    if hasattr(client, "nthreads"):
        return len(client.nthreads())
    return getattr(executor, "_max_workers", None)  # process pools, ipyparallel, loky


def run_numbered(
    executor: Executor,
    function: Callable[[Any], Any],
    arguments: Iterable[Any],
    *,
    timeout: float | None = None,
    on_outcome: Callable[[Outcome], object] | None = None,
) -> list[Outcome]:
    """Call ``function(argument)`` on the executor's workers, once for each argument.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        As :func:`check_executor` returns it.
    function : callable
        With its arguments it is pickled here, by value if it is a notebook's.
    arguments : iterable
        One for each task. Equal ones stay separate tasks, also for engines that run equal
        submissions once.
    timeout : float, optional
        Seconds from the submission, after which tasks without a result have failed. They
        are cancelled, but a task that runs cannot be ended from here.
    on_outcome : callable, optional
        Called with each :class:`Outcome` as it arrives.

    Returns
    -------
    list of Outcome
        In the order of the arguments, also those that failed.

    Raises
    ------
    TypeError
        The function or an argument cannot be pickled; nothing was started.
    ValueError
        The executor was shut down in the meantime.
    KeyboardInterrupt
        Interrupted; tasks that had not started are cancelled.
    """
    outcomes: list[Outcome] = []
    deadline = None if timeout is None else time.monotonic() + timeout
    with Tasks(executor, function, arguments) as tasks:
        while tasks.pending:
            found = tasks.finished(POLL_S)
            if not found and deadline is not None and time.monotonic() > deadline:
                reason = f"the task had no result within {timeout:g} s"
                found = [tasks.give_up(number, reason) for number in sorted(tasks.pending)]
            for outcome in found:
                outcomes.append(outcome)
                if on_outcome is not None:
                    on_outcome(outcome)
    return sorted(outcomes, key=lambda outcome: outcome.number)


class Tasks:
    """Submitted tasks, one for each argument; a context manager that cancels what is left.

    For the parameters and the errors see :func:`run_numbered`.

    Attributes
    ----------
    pending : set of int
        Numbers of the tasks without an outcome.
    """

    def __init__(
        self, executor: Executor, function: Callable[[Any], Any], arguments: Iterable[Any]
    ) -> None:
        payloads = [_pickled(function, argument) for argument in arguments]
        self._futures: dict[int, Future[Any]] = {}
        # The id makes each run's submissions differ from those of the run before.
        shared = {
            "source": _SOURCE, "wanted": f"epolllab {_own_version()}", "caller": _identity(),
            "run": uuid.uuid4().hex,
        }  # fmt: skip
        try:
            for number, payload in enumerate(payloads):
                names = {**shared, "number": number, "payload": payload}
                self._futures[number] = executor.submit(eval, _EXPRESSION, names)
        except BaseException as error:
            self._cancel()
            if isinstance(error, RuntimeError):  # BrokenExecutor is one
                raise ValueError(
                    f"executor accepts no tasks: {error}; make a new {type(executor).__name__}"
                ) from error
            raise

    @property
    def pending(self) -> set[int]:
        """Numbers of the tasks without an outcome."""
        return set(self._futures)

    def finished(self, timeout: float) -> list[Outcome]:
        """Return the outcomes that have arrived, waiting up to `timeout` seconds for one."""
        done, _ = wait(self._futures.values(), timeout, return_when="FIRST_COMPLETED")
        numbers = [number for number, future in self._futures.items() if future in done]
        return [_outcome(number, self._futures.pop(number)) for number in numbers]

    def give_up(self, number: int, reason: str) -> Outcome:
        """Cancel a task, and return an outcome with the reason."""
        self._cancel_one(self._futures.pop(number))
        return Outcome(number, error=reason)

    def _cancel(self) -> None:
        for future in self._futures.values():
            self._cancel_one(future)
        self._futures.clear()

    @staticmethod
    def _cancel_one(future: "Future[Any]") -> None:
        with suppress(Exception):  # an engine that cannot, or is gone
            future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel()


def _own_version() -> str:
    version: str = sys.modules["epolllab"].__version__
    return version


def _identity() -> tuple[str, str, int]:
    """What no two processes that run now have in common."""
    host = Host.here()
    return host.boot_id, host.host, host.pid


def _pickled(function: Callable[[Any], Any], argument: Any) -> bytes:
    """The call as bytes; functions and classes of a notebook are pickled by value."""
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps((function, argument))
    except Exception as error:
        raise TypeError(
            f"executor sends {getattr(function, '__name__', function)} and its arguments to "
            f"another process, and one of them cannot be pickled: {error}"
        ) from error
    return data


def perform(caller: tuple[str, str, int], number: int, payload: bytes) -> tuple[Any, ...]:
    """Run one task in a worker; every failure becomes part of what is returned.

    Returns ``("done", number, host, value)`` or ``("failed", number, host, error,
    traceback)``, made of built-in types except for the value, which is pickled bytes.
    """
    host = tuple(Host.here())
    if caller == _identity():
        error = "the executor's workers are threads of this process and share its interpreter lock"
        return "failed", number, host, f"{error}; use worker processes", ""
    try:
        step = "the function or its argument cannot be unpickled on the worker"
        function, argument = pickle.loads(payload)
        step = ""
        value = function(argument)
        step = "the function's result cannot be pickled"
        import cloudpickle

        return "done", number, host, cloudpickle.dumps(value)
    except BaseException as error:  # also KeyboardInterrupt, which would end a pool's worker
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return "failed", number, host, f"{step}: {reason}" if step else reason, _trace(error)


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _outcome(number: int, future: "Future[Any]") -> Outcome:
    """Read a finished future; what the engine raised becomes a sentence."""
    try:
        failure = future.exception(0)
    except CancelledError:
        return Outcome(number, error="the engine cancelled the task")
    if isinstance(failure, BrokenExecutor):
        reason = f"a worker died, which broke the pool and lost all of its tasks ({failure})"
        return Outcome(number, error=reason)
    if failure is not None:
        return Outcome(number, error=f"the engine failed: {type(failure).__name__}: {failure}")
    return _read(number, future.result(0))


def _read(number: int, answer: Any) -> Outcome:
    """Turn a worker's answer into an outcome."""
    if not (isinstance(answer, tuple) and len(answer) > 1 and answer[1] == number):
        return Outcome(
            number,
            error="the executor returned the result of another task, or of several at once: it "
            "must run each task once, on one worker (in ipyparallel, a load-balanced view)",
        )
    kind, _, *rest = answer
    if kind == "other version":
        where, python, found = rest
        return Outcome(
            number,
            error=f"the worker on {where} (Python {python}) has {found}, and this process has "
            f"epolllab {_own_version()}; install the same version there",
        )
    host = Host(*rest[0])
    if kind == "failed":
        return Outcome(number, error=rest[1], host=host, traceback=rest[2])
    try:
        return Outcome(number, value=pickle.loads(rest[1]), host=host)
    except Exception as error:
        reason = f"the result cannot be unpickled here: {type(error).__name__}: {error}"
        return Outcome(number, error=reason, host=host, traceback=_trace(error))
