"""The catalogue: registers phenomena, lists them, and runs one or all of them.

A new phenomenon is a function with a decorator, in the file of its family::

    @phenomenon(
        family="level and edge",
        claim="A level-triggered epoll reports at every wait what is still unread.",
        expected={"first wait": ["IN"], "after reading half": ["IN"]},
        source="epoll(7)",
    )
    def level_repeats(bench: Bench) -> Iterator[object]:
        ...
        yield bench.masks(epoll)  # the first wait
        ...
        yield bench.masks(epoll)  # after reading half

The function yields the values of `expected` in their order, or returns its observation as
plain data. It is compared with `expected`, or given to `judge` if the effect is statistical
and `expected` states the margin in words.
"""

import difflib
import inspect
import platform
import re
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from epolllab import kernel
from epolllab.checks import (
    check_bool,
    check_callable,
    check_int,
    check_sequence,
    check_text,
    checked,
    shown,
)
from epolllab.experiments.catalogue.bench import Bench
from epolllab.experiments.catalogue.outcome import (
    Outcome,
    Phenomenon,
    Verdict,
    Version,
    format_value,
)
from epolllab.experiments.catalogue.page import PhenomenaFrame
from epolllab.experiments.fleet import run_on_workers
from epolllab.recording import environment

__all__ = ["phenomena", "phenomenon", "phenomenon_names", "run", "run_all"]

FAMILIES = (
    "level and edge",
    "masks and endings",
    "descriptors and their lives",
    "one-shot, exclusive, herds",
    "time, queues, Python",
    "the how-to's faults",
    "completion",
)
"""The families in the order in which they are listed and run; others follow."""

_entries: dict[str, Phenomenon] = {}


def _check_version(name: str, value: Any) -> Version:
    version = check_sequence(name, value, partial(check_int, least=0))
    if len(version) != 2:
        raise ValueError(f"{name} must be (major, minor) of a kernel, not {shown(value)}")
    return version


def _check_notes(name: str, value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else check_sequence(name, value, check_text)


@checked(
    name=check_text,
    family=check_text,
    claim=check_text,
    source=check_text,
    judge=check_callable,
    since=_check_version,
    before=_check_version,
    notes=_check_notes,
    picture=check_callable,
)
def phenomenon(
    name: str = "",
    *,
    family: str,
    claim: str,
    expected: Any,
    source: str,
    judge: Callable[[Any], bool] | None = None,
    since: Version | None = None,
    before: Version | None = None,
    notes: str | Sequence[str] = (),
    picture: Callable[..., Any] | None = None,
) -> Callable[[Callable[[Bench], Any]], Callable[[Bench], Any]]:
    """Add the decorated function to the catalogue; see :class:`Phenomenon`.

    The name is by default the function's, with hyphens. A function that is defined again, as
    when its cell is run again, replaces its earlier entry.

    Raises
    ------
    ValueError
        Another function has the name, or the claim or the source is empty.
    """
    if not (claim and source):
        raise ValueError("claim and a source must not be empty")

    def enter(function: Callable[[Bench], Any]) -> Callable[[Bench], Any]:
        key = name or function.__name__.replace("_", "-")
        known = _entries.get(key)
        if known and _qualified_name(known.function) != _qualified_name(function):
            raise ValueError(
                f"name {key!r} is taken by a phenomenon in {known.function.__module__}; "
                "choose another name"
            )
        _entries[key] = Phenomenon(
            key,
            family,
            claim,
            expected,
            source,
            function,
            judge,
            since,
            before,
            tuple(notes),
            picture,
        )
        return function

    return enter


def _qualified_name(function: Callable[..., Any]) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def entries() -> dict[str, Phenomenon]:
    """Return all entries by name, in the order of their families."""

    def rank(entry: Phenomenon) -> int:
        return FAMILIES.index(entry.family) if entry.family in FAMILIES else len(FAMILIES)

    return {entry.name: entry for entry in sorted(_entries.values(), key=rank)}


def phenomenon_names() -> list[str]:
    """Return the names that :func:`run` takes, in the catalogue's order."""
    return list(entries())


def find(name: str, parameter: str = "name") -> Phenomenon:
    """Return the entry of that name; raise ValueError with similar names if there is none."""
    known = entries()
    if isinstance(name, str) and name in known:
        return known[name]
    text = name[:80] if isinstance(name, str) else ""
    near = difflib.get_close_matches(text, known, n=4, cutoff=0.5)
    near += [other for other in known if text and text in other and other not in near]
    hint = f"similar names: {', '.join(near[:6])}" if near else "no name is similar"
    raise ValueError(
        f"{parameter} must be that of a phenomenon, not {shown(name)}; {hint}. "
        f"experiments.phenomena() lists all {len(known)}"
    )


def phenomena() -> pd.DataFrame:
    """List every phenomenon; a notebook shows the frame as a page that can be searched.

    Returns
    -------
    pandas.DataFrame
        A row each, all columns str: ``name``, ``family``, ``claim``, ``expected``,
        ``source``, ``kernels`` ("" for all), ``notes``.
    """
    rows = [
        {**_describe(entry), "kernels": entry.kernels, "notes": " ".join(entry.notes)}
        for entry in entries().values()
    ]
    columns = ["name", "family", "claim", "expected", "source", "kernels", "notes"]
    return PhenomenaFrame(pd.DataFrame(rows, columns=columns, dtype="str"))


def _describe(entry: Phenomenon) -> dict[str, Any]:
    facts = {name: getattr(entry, name) for name in ("name", "family", "claim", "source")}
    return facts | {"expected": format_value(entry.expected)}


def _check_only(name: str, value: Any) -> tuple[str, ...]:
    """Check names of phenomena and families."""
    wanted = (value,) if isinstance(value, str) else check_sequence(name, value, check_text)
    families = {entry.family for entry in entries().values()}
    for each in wanted:
        if each not in families:
            find(each, f"name in {name}")
    return tuple(wanted)


def run(name: str) -> Outcome:
    """Run one phenomenon on this kernel.

    Parameters
    ----------
    name : str
        As :func:`phenomena` lists it.

    Returns
    -------
    Outcome
        Expected and observed result, a verdict and the evidence. Everything that the
        phenomenon opened or started has been closed and has ended. An exception in its
        own code is an outcome with the verdict ``"raised"``.

    Examples
    --------
    >>> from epolllab import experiments
    >>> print(experiments.run("edge-goes-silent").verdict)
    holds
    """
    return _run(find(name))


def _run(entry: Phenomenon) -> Outcome:
    start = time.perf_counter()
    observed, verdict, reason = None, Verdict.NOT_POSSIBLE, _unsuitable_kernel(entry)
    with Bench() as bench:
        if not reason:
            observed, verdict, reason = _try(entry, bench)
        recording = bench.recording(environment.collect(experiment=entry.name))
    return Outcome(
        entry,
        observed,
        verdict,
        reason,
        tuple(bench.steps),
        (*entry.notes, *bench.notes),
        recording,
        time.perf_counter() - start,
        bench.data,
    )


def _try(entry: Phenomenon, bench: Bench) -> tuple[Any, Verdict, str]:
    """Call the function; return the observation, the verdict, and a reason or ""."""
    try:
        observed = entry.function(bench)
        if inspect.isgenerator(observed):
            observed = dict(zip(entry.expected, observed, strict=True))
        holds = entry.judge(observed) if entry.judge else observed == entry.expected
    except Exception as error:
        if reason := kernel.not_possible_reason(error):
            return None, Verdict.NOT_POSSIBLE, reason
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rpartition('/')[2]} line {where.lineno}"
        return None, Verdict.RAISED, f"{type(error).__name__}: {error} ({place})"
    return observed, Verdict.HOLDS if holds else Verdict.DIFFERS, ""


def _unsuitable_kernel(entry: Phenomenon) -> str:
    """Say why this kernel cannot show the phenomenon; "" if it can."""
    if platform.system() != "Linux":
        return f"epoll exists on Linux only, and this is {platform.system()}"
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    version = tuple(map(int, found.groups())) if found else ()
    too_old = entry.since is not None and version < entry.since
    too_new = entry.before is not None and version >= entry.before
    if version and (too_old or too_new):
        return f"it holds for kernels {entry.kernels}, and this is {platform.release()}"
    return ""


@checked(progress=check_bool, only=_check_only)
def run_all(
    progress: bool = True,
    *,
    only: Iterable[str] | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Run every phenomenon, one after the other; well under a minute in all.

    A notebook shows the frame as a page, with what differs opened.

    With an executor, each of its workers runs them once, in a fresh interpreter of its own:
    on a fleet of hosts, the same claims on many kernels. Workers on one host take turns, so
    that they do not disturb each other; containers have turns of their own, and a note says
    if their runs overlapped. For one run on each host, start one worker there.

    Parameters
    ----------
    progress : bool
        Show a progress bar.
    only : iterable of str, optional
        Names of phenomena or of families; all by default.
    executor : concurrent.futures.Executor, optional
        Dask's ``client.get_executor()``, ipyparallel's ``client.executor()``, or a process
        pool. Its workers need the same version of epolllab, but not of Python or pandas.
        Phenomena of a notebook are sent along; for these, Python must be the same, too.
    workers : int, optional
        How many of the executor's workers; by default all that it has when it is called.

    Returns
    -------
    pandas.DataFrame
        A row each: ``name``, ``family``, ``claim``, ``expected``, ``observed`` (str),
        ``verdict`` (category), ``seconds`` (float64), ``source``, ``reason`` (str: why
        not possible, or what was raised). ``attrs["circumstances"]`` has the
        circumstances, ``attrs["interrupted"]`` whether KeyboardInterrupt ended it early,
        and ``attrs["notes"]`` a sentence about it; the rows are then the phenomena that were
        run.

        With an executor, a row for each phenomenon and worker, and further columns:
        ``worker`` (int32, from 0), ``host``, ``kernel``, ``python`` and ``cpu`` (str).
        ``attrs["circumstances"]["runs"]`` has the circumstances by the worker's number. A
        worker that failed has rows without a verdict, with the reason in ``reason``; it is
        also in ``attrs["failures"]``, and a RuntimeWarning says so. After an interrupt the
        rows are those of the workers that had finished. See
        :func:`epolllab.analysis.agreement`.

    Raises
    ------
    ValueError, TypeError
        Invalid arguments, such as an executor that is shut down or runs tasks in threads,
        or more workers than it has.
    RuntimeError
        No worker has a result; the message has the reasons.
    """
    selected = _select(only)
    if executor is not None or workers is not None:
        return _run_on_workers(selected, executor, workers, progress)
    outcomes: list[Outcome] = []
    notes: list[str] = []
    with tqdm(selected, unit="phenomenon", disable=not progress) as bar:
        try:
            for entry in bar:
                bar.set_postfix_str(entry.name)
                outcomes.append(_run(entry))
        except KeyboardInterrupt:
            notes.append(f"interrupted after {len(outcomes)} of {bar.total} phenomena")
    rows = [
        {
            **_describe(outcome.phenomenon),
            "observed": format_value(outcome.observed),
            "verdict": str(outcome.verdict),
            "seconds": outcome.seconds,
            "reason": outcome.reason,
        }
        for outcome in outcomes
    ]
    frame = PhenomenaFrame(pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS))
    facts = environment.collect()
    frame.attrs = {"circumstances": facts, "interrupted": bool(notes), "notes": notes}
    return frame


_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("name", "family", "claim", "expected", "observed"), "str"),
    "verdict": pd.CategoricalDtype([str(verdict) for verdict in Verdict]),
    "seconds": "float64",
    **dict.fromkeys(("source", "reason"), "str"),
}


def _run_on_workers(
    selected: Sequence[Phenomenon], executor: Any, workers: Any, progress: bool
) -> pd.DataFrame:
    """Run these phenomena on workers, and add a row for each that a failed worker lacks."""
    import cloudpickle

    own = [entry for entry in selected if not entry.function.__module__.startswith("epolllab.")]
    options = {"only": [entry.name for entry in selected]}
    fleet = run_on_workers(
        executor, workers, "run_all", options, progress=progress,
        phenomena=cloudpickle.dumps(own) if own else b"",
    )  # fmt: skip
    frame = fleet.frame(_COLUMNS, text="str")
    rows = [
        {**_describe(entry), "observed": "", **failure}
        for failure in fleet.described_failures()
        for entry in selected
    ]
    if rows:
        dtypes: dict[Any, Any] = frame.dtypes.to_dict()
        lacking = pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)
        frame = pd.concat([frame, lacking], ignore_index=True)
        frame.attrs = fleet.attrs()
    return frame


def add(added: Iterable[Phenomenon]) -> None:
    """Add entries that were made in another process."""
    _entries.update({entry.name: entry for entry in added})


def _select(only: Any) -> list[Phenomenon]:
    """Return the entries with these names or in these families."""
    known = entries()
    if only is None:
        return list(known.values())
    return [entry for entry in known.values() if entry.name in only or entry.family in only]
