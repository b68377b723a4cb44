"""sweep() and wait_kinds(): one wait over N descriptors, N from ten to ten thousand.

One job: check what is asked and turn it into a plan of waits.
"""

from collections.abc import Sequence
from functools import partial

from epolllab.analysis.ratios import SHARES
from epolllab.analysis.result import Result
from epolllab.checks import check_choice, check_int
from epolllab.experiments.rounds import numbers
from epolllab.experiments.scaling import waits
from epolllab.experiments.scaling.fds import KINDS
from epolllab.experiments.scaling.variants import APIS, POLLERS, arms

__all__ = ["SIZES", "sweep", "wait_kinds"]


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
    check_choice("kind", kind, list(KINDS))
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
        check_choice("kinds", kind, list(KINDS))
    return waits.run(
        _plan("wait_kinds", n_fds, pollers, active, api, kinds, ops, rounds, warmup, quick, pin,
              seed, progress)
    )  # fmt: skip


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
    check_int("active", active, 1)
    if active > sizes[0]:
        raise ValueError(
            f"active={active} of n_fds={sizes[0]} cannot be ready; active is at most the "
            "smallest number watched"
        )
    ops = (50 if quick else 200) if ops is None else ops
    rounds = (3 if quick else 10) if rounds is None else rounds
    for parameter, value, least in (("ops", ops, 1), ("rounds", rounds, 1), ("warmup", warmup, 0)):
        check_int(parameter, value, least)
    return waits.Plan(
        name, arms(pollers, api), sizes, lambda _: (active,), kinds, ops, warmup, rounds, seed,
        pin, progress, fresh,
    )  # fmt: skip


CROSSOVER_SIZES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)


def crossover(
    n_fds: int | Sequence[int] = CROSSOVER_SIZES,
    shares: Sequence[float] = SHARES,
    pollers: tuple[str, str] = ("epoll-level", "poll"),
    *,
    api: Sequence[str] = APIS,
    ops: int | None = None,
    rounds: int | None = None,
    warmup: int = 2,
    kind: str = "eventfd",
    quick: bool = False,
    pin: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Compare two pollers over the number of descriptors and the share that is ready.

    What it shows: epoll's time is bounded by what is ready, not by what is watched
    (J. Lokier said so in 2003). Where all of a few descriptors are ready, poll has no
    more to look at than epoll has, and less to do for each: epoll takes each off its
    ready list and, level-triggered, puts it back.

    Parameters
    ----------
    n_fds : int or rising sequence of int
        Descriptors watched; cut as in :func:`sweep`.
    shares : rising sequence of float
        Shares of them ready in each operation, from 0 to 1; at least one always is, and 0
        stands for one.
    pollers : tuple of two str
        The first's time is divided by the second's.
    api, kind, pin, seed, progress
        As in :func:`sweep`.
    ops : int, optional
        Operations of each poller at each field in a round: 15, or 6 with `quick`.
    rounds : int, optional
        5, or 3 with `quick`, which also leaves out every other size.
    warmup : int
        Operations before them, marked in the result.

    Returns
    -------
    Result
        As of :func:`sweep`. :func:`ratios` makes the map, and
        :func:`epolllab.plots.scaling.crossover` draws it. An epoll wait
        may return all that are ready here; what Python's default bound of 1,023 does is
        :func:`propagate`'s subject.

    Raises
    ------
    ValueError, TypeError
        Shares outside 0 to 1 or not rising; not two pollers; as :func:`sweep`.
    DescriptorLimitError
        As :func:`sweep`.
    """
    sizes = numbers("n_fds", n_fds)
    _check_crossover(shares, pollers)
    if quick and n_fds is CROSSOVER_SIZES:
        sizes = CROSSOVER_SIZES[::2]
    ops = (6 if quick else 15) if ops is None else ops
    rounds = (3 if quick else 5) if rounds is None else rounds
    for name, value, least in (("ops", ops, 1), ("rounds", rounds, 1), ("warmup", warmup, 0)):
        check_int(name, value, least)
    plan = waits.Plan(
        "crossover", arms(pollers, api), sizes, partial(_active_counts, tuple(shares)), (kind,), ops,
        warmup, rounds, seed, pin, progress,
    )  # fmt: skip
    return waits.run(plan)


def _check_crossover(shares: Sequence[float], pollers: Sequence[str]) -> None:
    if len(pollers) != 2:
        raise ValueError(f"pollers are two to be compared, not {pollers!r}")
    given = list(shares)
    if not given or any(not 0 <= share <= 1 for share in given):
        raise ValueError(f"shares are from 0 (one descriptor) to 1 (all), not {shares!r}")
    if sorted(set(given)) != given:
        raise ValueError(f"shares rise, each once; did you mean {tuple(sorted(set(given)))}?")


def _active_counts(shares: Sequence[float], n: int) -> list[int]:
    return sorted({max(1, round(share * n)) for share in shares})
