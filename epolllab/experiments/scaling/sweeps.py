"""sweep() and wait_kinds(): one wait over N descriptors, N from ten to ten thousand.

One job: check what is asked and turn it into a plan of waits.
"""

from collections.abc import Sequence

import pandas as pd

from epolllab.experiments.scaling import waits
from epolllab.experiments.scaling.arms import APIS, POLLERS, arms
from epolllab.experiments.scaling.method import numbers
from epolllab.experiments.scaling.result import Result
from epolllab.experiments.scaling.targets import KINDS
from epolllab.options import one_of, whole

__all__ = ["SIZES", "shares", "sweep", "wait_kinds"]

SIZES = (10, 100, 1_000, 10_000)
"""Descriptors watched, as in Kerrisk's table 63-9."""


def sweep(
    n_fds: int | Sequence[int] = SIZES,
    pollers: Sequence[str] = POLLERS,
    active: int = 1,
    api: Sequence[str] = APIS,
    ops: int | None = None,
    *,
    rounds: int | None = None,
    warmup: int = 10,
    kind: str = "eventfd",
    fresh: bool = False,
    quick: bool = False,
    pin: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Time a wait over N descriptors of which a few, chosen at random, are ready.

    Kerrisk's method (*The Linux Programming Interface*, section 63.4.5). What it
    shows: poll and select hand all N to the kernel at every call, and it looks at
    every one, so their time grows with N; epoll keeps the list in the kernel, and
    ready descriptors put themselves on another, so its time grows with what is ready.

    Parameters
    ----------
    n_fds : int or rising sequence of int
        Descriptors watched. What the hard limit does not allow is cut to the
        greatest size it does, with a note in the result and on the chart; the soft
        limit is raised for the run and put back.
    pollers : sequence of str
        Of ``"epoll-level"``, ``"epoll-edge"``, ``"epoll-oneshot"``, ``"poll"``,
        ``"select"``.
    active : int
        Descriptors made ready for each operation.
    api : sequence of {"python", "raw"}
        Python's own functions, the C library's by ctypes over prepared arrays, or both:
        see :func:`shares`. Python's select ends below descriptor 1,024,
        and raw select goes on with a larger bitmap.
    ops : int, optional
        Operations of each arm at each size in a round: 200, or 50 with `quick`.
    rounds : int, optional
        10, or 3 with `quick`.
    warmup : int
        Operations before them in each round, marked in the result.
    kind : {"eventfd", "pipe", "socketpair", "tcp"}
        What is watched. An eventfd takes one descriptor and the others two, so a limit
        of 20,000 allows 10,000 of eventfds only. :func:`wait_kinds` compares them.
    fresh : bool
        Make a new poller for each operation and time its first wait; registering is
        not timed, but all of it comes right before. N registrations an operation take
        their time, so ask for few `ops`.
    quick : bool
        Fewer operations: an answer in under ten seconds, with wider intervals.
    pin : bool
        Keep the calling thread on one processor meanwhile, where the system lets it.
    seed : int
        Of every random choice.
    progress : bool
        Show a bar with the time left.

    Returns
    -------
    Result
        ``frame`` with a row per operation:

        ======= ======== ==============================================
        round   int32    0, 1, ...
        poller  category as above
        api     category ``"python"`` or ``"raw"``
        kind    category what is watched
        n_fds   int32    descriptors watched
        active  int32    descriptors ready
        op      int32    ordinal in its round, arm and size
        warmup  bool     before those that count
        t_ns    int64    monotonic clock when the wait began
        wait_ns int64    the wait alone, with one reading of the clock
        op_ns   Int64    wait, dispatch and read (one-shot: and arm again);
                         missing by ``raw``, where Python would have to
                         search the array and nobody would in C
        ======= ======== ==============================================

        ``summary()`` has medians with intervals, ``fits()`` a line per poller.

    Raises
    ------
    ValueError, TypeError
        Sizes that are not positive, do not rise or are fewer than `active`; unknown
        names. Before anything is opened.
    DescriptorLimitError
        Not even the smallest size fits under the hard limit.

    Examples
    --------
    >>> from epolllab.experiments import scaling
    >>> result = scaling.sweep((10, 100), ops=5, rounds=2, progress=False)
    >>> sorted(result["n_fds"].unique().tolist())
    [10, 100]
    """
    one_of("kind", kind, list(KINDS))
    return waits.run(
        _plan("sweep", n_fds, pollers, active, api, (kind,), ops, rounds, warmup, quick, pin, seed,
              progress, fresh)
    )  # fmt: skip


def wait_kinds(
    n_fds: int | Sequence[int] = (10, 100, 1_000),
    kinds: Sequence[str] = tuple(KINDS),
    pollers: Sequence[str] = ("epoll-level", "poll", "select"),
    *,
    active: int = 1,
    api: Sequence[str] = ("raw",),
    ops: int | None = None,
    rounds: int | None = None,
    warmup: int = 10,
    quick: bool = False,
    pin: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Time the same wait over pipes, socket pairs, TCP connections and eventfds.

    What it shows: poll and select ask each descriptor's own ``poll`` function in the
    kernel, and TCP's has more to look at than an eventfd's; epoll asks only those that
    reported themselves. So the kind matters to poll and select N times over. select
    in addition passes over the bitmap below its first descriptor, a word for each 64;
    kinds are opened in the order of `kinds`, so the last has the greatest numbers.

    Parameters
    ----------
    n_fds : int or rising sequence of int
        Descriptors watched, of each kind. All kinds are open at once (seven
        descriptors for one of each), so that arms can take turns.
    kinds : sequence of str
        Of ``"eventfd"``, ``"pipe"``, ``"socketpair"`` (AF_UNIX, stream), ``"tcp"``.
    pollers, active, api, ops, rounds, warmup, quick, pin, seed, progress
        As in :func:`sweep`.

    Returns
    -------
    Result
        As of :func:`sweep`.

    Raises
    ------
    ValueError, TypeError, DescriptorLimitError
        As :func:`sweep`.
    """
    if isinstance(kinds, str) or not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds names at least one of {tuple(KINDS)}, each once, not {kinds!r}")
    for kind in kinds:
        one_of("kinds", kind, list(KINDS))
    return waits.run(
        _plan("wait_kinds", n_fds, pollers, active, api, kinds, ops, rounds, warmup, quick, pin,
              seed, progress)
    )  # fmt: skip


def shares(data: Result | pd.DataFrame) -> pd.DataFrame:
    """The kernel's and CPython's share of a wait, where it was measured both ways.

    The kernel's share is the raw wait without what a foreign call costs that makes no
    system call (``raw_floor_ns`` of the circumstances, clock included). CPython's is what
    Python's function takes beyond that, without the clock (``clock_floor_ns``).

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`sweep` or :func:`wait_kinds`; a frame brings the floors in its
        ``attrs``, and without them they count as 0.

    Returns
    -------
    pandas.DataFrame
        A row for each n_fds, poller, kind and active measured both raw and by Python:
        medians ``kernel_ns``, ``cpython_ns`` and ``python_ns``, their sum. Where the
        two ways differ by less than the noise, cpython_ns can be negative.
    """
    frame = data.frame if isinstance(data, Result) else data
    kept = frame[~frame["warmup"]]
    medians = (
        kept.assign(api=kept["api"].astype("str"))
        .groupby(["n_fds", "poller", "kind", "active", "api"], observed=True)["wait_ns"]
        .median()
        .unstack("api")
        .reindex(columns=["raw", "python"])
        .dropna()
    )
    kernel = medians["raw"] - (frame.attrs.get("raw_floor_ns") or 0.0)
    python = medians["python"] - (frame.attrs.get("clock_floor_ns") or 0.0)
    table = pd.DataFrame({"kernel_ns": kernel, "cpython_ns": python - kernel, "python_ns": python})
    return table.reset_index()


def _plan(
    name: str,
    n_fds: int | Sequence[int],
    pollers: Sequence[str],
    active: int,
    api: Sequence[str],
    kinds: Sequence[str],
    ops: int | None,
    rounds: int | None,
    warmup: int,
    quick: bool,
    pin: bool,
    seed: int,
    progress: bool,
    fresh: bool = False,
) -> waits.Plan:
    sizes = numbers("n_fds", n_fds)
    whole("active", active, 1)
    if active > sizes[0]:
        raise ValueError(
            f"active={active} of n_fds={sizes[0]} cannot be ready; active is at most the "
            "smallest number watched"
        )
    ops = (50 if quick else 200) if ops is None else ops
    rounds = (3 if quick else 10) if rounds is None else rounds
    for parameter, value, least in (("ops", ops, 1), ("rounds", rounds, 1), ("warmup", warmup, 0)):
        whole(parameter, value, least)
    return waits.Plan(
        name, arms(pollers, api), sizes, lambda _: (active,), kinds, ops, warmup, rounds, seed,
        pin, progress, fresh,
    )  # fmt: skip
