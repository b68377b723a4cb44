"""The catalogue: every phenomenon by name, and the running of one or of all.

One job: keep the register and turn a phenomenon into an outcome. What a phenomenon
does is in the file of its family; adding one is a function with a decorator::

    @phenomenon(
        "level-repeats",
        family=FAMILY,
        claim="A level-triggered epoll reports what is still unread at every wait.",
        expected={"first wait": ["IN"], "after reading half": ["IN"]},
        source="epoll(7)",
    )
    def level_repeats(bench: Bench) -> dict[str, object]:
        ...
        return {"first wait": ..., "after reading half": ...}

The function returns what it saw, as plain data. It is compared with `expected`, or
given to `judge` where the effect is statistical and `expected` says the margin in words.
"""

import difflib
import platform
import re
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from epolllab.experiments.catalogue.bench import Bench, NotPossible
from epolllab.experiments.catalogue.outcome import Outcome, Phenomenon, Verdict, Version, plainly
from epolllab.recording import environment
from epolllab.recording.recording import Recording

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["phenomena", "phenomenon", "phenomenon_names", "run", "run_all"]


FAMILIES = (
    "level and edge",
    "masks and endings",
    "descriptors and their lives",
    "one-shot, exclusive, herds",
    "time, queues, Python",
    "the how-to's faults",
)
"""The families in the order in which they are listed and run; others follow."""

_entries: dict[str, Phenomenon] = {}


def phenomenon(
    name: str,
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
    """Put the decorated function into the catalogue; see :class:`Phenomenon`.

    A function defined again, as when its cell or module is run again, takes the place
    of its predecessor.

    Raises
    ------
    ValueError
        Another function has the name, or the claim or the source is missing.
    """

    def enter(function: Callable[[Bench], Any]) -> Callable[[Bench], Any]:
        if not (name and claim and source):
            raise ValueError(f"phenomenon {name!r} needs a name, a claim and a source")
        known = _entries.get(name)
        if known and _identity(known.function) != _identity(function):
            raise ValueError(
                f"there is a phenomenon {name!r} already, in {known.function.__module__}; "
                "give this one another name"
            )
        remarks = (notes,) if isinstance(notes, str) else tuple(notes)
        _entries[name] = Phenomenon(
            name, family, claim, expected, source, function, judge, since, before, remarks, picture
        )
        return function

    return enter


def _identity(function: Callable[..., Any]) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def entries() -> dict[str, Phenomenon]:
    """All entries by name, in the order of their families."""

    def rank(entry: Phenomenon) -> int:
        return FAMILIES.index(entry.family) if entry.family in FAMILIES else len(FAMILIES)

    return {entry.name: entry for entry in sorted(_entries.values(), key=rank)}


def phenomenon_names() -> list[str]:
    """The names that :func:`run` takes, in the catalogue's order."""
    return list(entries())


def find(name: str) -> Phenomenon:
    """The entry of that name.

    Raises
    ------
    ValueError
        There is none; the message lists the near ones.
    """
    known = entries()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, n=4, cutoff=0.5)
    near += [other for other in known if str(name) and str(name) in other and other not in near]
    hint = f"near ones: {', '.join(near[:6])}" if near else "none is near it"
    raise ValueError(
        f"there is no phenomenon {name!r}; {hint}. experiments.phenomena() lists all {len(known)}"
    )


def phenomena() -> "pd.DataFrame":
    """List every phenomenon.

    Returns
    -------
    pandas.DataFrame
        A row each, all columns str: ``name``, ``family``, ``claim``, ``expected``,
        ``source``, ``kernels`` ("" for all), ``notes``.
    """
    import pandas as pd

    rows = [
        {
            "name": entry.name,
            "family": entry.family,
            "claim": entry.claim,
            "expected": plainly(entry.expected),
            "source": entry.source,
            "kernels": entry.kernels,
            "notes": " ".join(entry.notes),
        }
        for entry in entries().values()
    ]
    return pd.DataFrame(rows, dtype="str")


def run(name: str) -> Outcome:
    """Let one phenomenon happen, on this kernel, now.

    Parameters
    ----------
    name : str
        As :func:`phenomena` lists it.

    Returns
    -------
    Outcome
        Expected beside observed, with a verdict and the evidence. What the
        phenomenon opened is closed again, and its threads and processes have ended.

    Raises
    ------
    ValueError
        There is no such phenomenon; the message lists near ones.

    Notes
    -----
    An exception in the phenomenon's own code becomes an outcome too, with the verdict
    ``"raised"``; only an interrupt gets through.

    Examples
    --------
    >>> from epolllab import experiments
    >>> print(experiments.run("edge-goes-silent").verdict)
    holds
    """
    return _outcome(find(name))


def _outcome(entry: Phenomenon) -> Outcome:
    start = time.perf_counter()
    observed, verdict, reason = None, Verdict.NOT_POSSIBLE, _unfit_kernel(entry)
    with Bench() as bench:
        if not reason:
            observed, verdict, reason = _tried(entry, bench)
        kept = bench.snapshot()
    facts = environment.collect(experiment=entry.name)
    return Outcome(
        entry,
        observed,
        verdict,
        reason,
        tuple(bench.steps),
        (*entry.notes, *bench.notes),
        Recording(kept.rows, facts, kept.overwritten),
        time.perf_counter() - start,
        bench.data,
    )


def _tried(entry: Phenomenon, bench: Bench) -> tuple[Any, Verdict, str]:
    """Call the function: what was observed, the verdict, and the reason if there is one."""
    try:
        observed = entry.function(bench)
        same = entry.judge(observed) if entry.judge else observed == entry.expected
    except NotPossible as why:
        return None, Verdict.NOT_POSSIBLE, str(why)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rpartition('/')[2]} line {where.lineno}"
        return None, Verdict.RAISED, f"{type(error).__name__}: {error} ({place})"
    return observed, Verdict.HOLDS if same else Verdict.DIFFERS, ""


def _unfit_kernel(entry: Phenomenon) -> str:
    """Why this kernel cannot show it; "" if it can."""
    if platform.system() != "Linux":
        return f"epoll is Linux's own, and this is {platform.system()}"
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    version = tuple(map(int, found.groups())) if found else ()
    too_old = entry.since is not None and version < entry.since
    too_new = entry.before is not None and version >= entry.before
    if version and (too_old or too_new):
        return f"it holds for kernels {entry.kernels}, and this is {platform.release()}"
    return ""


def run_all(
    progress: bool = True,
    *,
    only: Iterable[str] | None = None,
) -> "pd.DataFrame":
    """Let every phenomenon happen, one after the other; well under a minute in all.

    Parameters
    ----------
    progress : bool
        Show a progress bar.
    only : iterable of str, optional
        Names of phenomena or of families; all by default.

    Returns
    -------
    pandas.DataFrame
        A row each: ``name``, ``family``, ``claim``, ``expected``, ``observed`` (str),
        ``verdict`` (category), ``seconds`` (float64), ``source``, ``reason`` (str: why
        not possible, or what was raised). ``attrs["circumstances"]`` has the
        circumstances, ``attrs["interrupted"]`` whether an interrupt ended it early;
        then the rows are those that were done.

    Raises
    ------
    ValueError
        `only` has a name that is neither a phenomenon's nor a family's.
    """
    from tqdm.auto import tqdm

    outcomes: list[Outcome] = []
    interrupted = False
    chosen = _chosen(only)
    with tqdm(chosen, unit="phenomenon", disable=not progress) as bar:
        try:
            for entry in bar:
                bar.set_postfix_str(entry.name)
                outcomes.append(_outcome(entry))
        except KeyboardInterrupt:
            interrupted = True
    frame = frame_of(outcomes)
    frame.attrs = {"circumstances": environment.collect(), "interrupted": interrupted}
    return frame


def _chosen(only: Iterable[str] | None) -> list[Phenomenon]:
    known = entries()
    if only is None:
        return list(known.values())
    wanted = [only] if isinstance(only, str) else list(only)
    families = {entry.family for entry in known.values()}
    for name in wanted:
        if name not in families:
            find(name)
    return [entry for entry in known.values() if entry.name in wanted or entry.family in wanted]


def frame_of(outcomes: Sequence[Outcome]) -> "pd.DataFrame":
    """Outcomes as the frame that :func:`run_all` returns."""
    import pandas as pd

    def text(values: Iterable[str]) -> Any:
        return pd.array(list(values), dtype="str")

    return pd.DataFrame(
        {
            "name": text(outcome.name for outcome in outcomes),
            "family": text(outcome.phenomenon.family for outcome in outcomes),
            "claim": text(outcome.phenomenon.claim for outcome in outcomes),
            "expected": text(plainly(outcome.expected) for outcome in outcomes),
            "observed": text(plainly(outcome.observed) for outcome in outcomes),
            "verdict": pd.Categorical(
                [str(outcome.verdict) for outcome in outcomes], [str(v) for v in Verdict]
            ),
            "seconds": pd.array([outcome.seconds for outcome in outcomes], dtype="float64"),
            "source": text(outcome.phenomenon.source for outcome in outcomes),
            "reason": text(outcome.reason for outcome in outcomes),
        }
    )
