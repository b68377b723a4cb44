"""sweep(), wait_kinds() and crossover(): one wait over 10 to 10,000 descriptors."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial

from epolllab.analysis.ratios import SHARES
from epolllab.analysis.result import Result
from epolllab.checks import (
    check_bool,
    check_choice,
    check_int,
    check_names,
    check_number,
    check_sequence,
    check_sizes,
)
from epolllab.experiments.fleet import run_on_workers
from epolllab.experiments.rounds import choose_effort
from epolllab.experiments.scaling.fds import KINDS
from epolllab.experiments.scaling.variants import ALL_POLLERS, APIS, POLLERS, variants
from epolllab.experiments.scaling.waits import LAYOUT, run_waits

__all__ = ["CROSSOVER_SIZES", "SIZES", "crossover", "sweep", "wait_kinds"]

SIZES = (10, 100, 1_000, 10_000)
"""Watched descriptors, as in Kerrisk's table 63-9."""

CROSSOVER_SIZES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)


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
    executor: Executor | None = None,
    workers: int | None = None,
) -> Result:
    """Time a wait over N descriptors of which a few, chosen at random, are ready.

    Kerrisk's method (*The Linux Programming Interface*, section 63.4.5). What it
    shows: poll and select pass all N to the kernel with every call, and the kernel checks
    each of them, so their time grows with N. epoll keeps the interest list in the kernel,
    and ready descriptors are added to a ready list, so its time grows with the ready ones.
    So do multishot polls of io_uring, whose completions are read without a system call.

    Parameters
    ----------
    n_fds : int or rising sequence of int
        Watched descriptors. Sizes beyond the hard limit are replaced by the largest
        possible one, with a note in the result and on the chart; the soft limit is raised
        during the run.
    pollers : sequence of str
        Of ``"epoll-level"``, ``"epoll-edge"``, ``"epoll-oneshot"``, ``"poll"``,
        ``"select"``, which are the default, and ``"io_uring"``: a multishot poll for each
        descriptor, left out with a note where io_uring is not possible. It measures
        io_uring as a way of learning what is ready. A pending read is more: its
        completion brings the bytes, so the read that follows a wait is saved.
    active : int
        Descriptors made ready for each operation.
    api : sequence of {"python", "raw"}
        Python's own functions, the C library's through ctypes over prepared arrays, or
        both: see :func:`epolllab.analysis.shares`. Python's select works below descriptor
        1,024 only; raw select uses a larger bitmap.
    ops : int, optional
        Operations per variant and size in a round: 200, or 50 with `quick`.
    rounds : int, optional
        10, or 3 with `quick`.
    warmup : int
        Operations before them in each round, marked in the result.
    kind : {"eventfd", "pipe", "socketpair", "tcp"}
        What is watched. An eventfd takes one descriptor and the others two, so a limit
        of 20,000 allows 10,000 eventfds only. :func:`wait_kinds` compares them.
    fresh : bool
        Create a poller for each operation and time its first wait. Registering is not
        timed, but takes a while: N registrations per operation, so use few `ops`.
    quick : bool
        Fewer operations: a result in under ten seconds, with wider intervals.
    pin : bool
        Pin the calling thread to one processor during the run, if the system permits it.
    seed : int
        Of all random choices.
    progress : bool
        Show a progress bar.
    executor : concurrent.futures.Executor, optional
        Run the sweep once on each of its workers, which may be other hosts, as
        :func:`run_all` does.
    workers : int, optional
        How many of them, as in :func:`run_all`.

    Returns
    -------
    Result
        ``frame`` with a row per operation:

        ======= ======== ==============================================
        round   int32    0, 1, ...
        poller  category as above
        api     category ``"python"`` or ``"raw"``
        kind    category what is watched
        n_fds   int32    watched descriptors
        active  int32    ready descriptors
        op      int32    ordinal in its round, variant and size
        warmup  bool     before those that count
        t_ns    int64    monotonic clock when the wait began
        wait_ns int64    the wait alone, with one reading of the clock
        op_ns   Int64    wait, dispatch and read (one-shot: and rearm);
                         missing with ``raw``, where Python would have to
                         scan the array, unlike a C program
        ======= ======== ==============================================

        ``summary()`` has medians with intervals, ``fits()`` a line per poller.

        With an executor, the frame also has ``worker`` (int32) and ``host``, ``kernel``,
        ``python`` and ``cpu`` (category), ``summary()`` and ``fits()`` have a row for each
        worker's variants, and ``plots.scaling()`` overlays the workers. ``runs()`` splits
        the result; what compares times of one machine, such as ``checks()``, needs one of
        its parts. A worker that failed is in the notes, with the reason.

    Raises
    ------
    ValueError, TypeError
        Invalid or contradictory arguments, before anything is opened.
    DescriptorLimitError
        Not even the smallest size fits under the hard limit.
    NotPossible
        Nothing but io_uring is asked for, and it is refused here.
    RuntimeError
        No worker of the executor has a result; the message has the reasons.

    Examples
    --------
    >>> from epolllab import experiments
    >>> result = experiments.sweep((10, 100), ops=5, rounds=2, progress=False)
    >>> sorted(result["n_fds"].unique().tolist())
    [10, 100]
    """
    check_choice("kind", kind, list(KINDS))
    check_bool("fresh", fresh)
    effort = choose_effort(
        quick, ops=(ops, 200, 50), rounds=(rounds, 10, 3), warmup=warmup, pin=pin, seed=seed,
        progress=progress,
    )  # fmt: skip
    sizes, compared = check_sizes("n_fds", n_fds), variants(pollers, api)
    constant = _constant(active, sizes)
    if executor is None and workers is None:
        return run_waits("sweep", sizes, compared, (kind,), constant, effort, fresh)
    options = {
        "n_fds": sizes, "pollers": tuple(pollers), "active": active, "api": tuple(api),
        **effort.counts, "kind": kind, "fresh": fresh, "pin": pin, "seed": seed,
    }  # fmt: skip
    return run_on_workers(executor, workers, "sweep", options, progress=progress).result(
        "sweep", LAYOUT
    )


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

    What it shows: poll and select call each descriptor's own ``poll`` function in the
    kernel, and TCP's checks more than an eventfd's; epoll calls only those of the ready
    list. So the kind matters N times to poll and select. select also scans the bitmap
    below its first descriptor, a word for each 64; kinds are opened in the order of
    `kinds`, so the last has the highest numbers.

    Parameters
    ----------
    n_fds : int or rising sequence of int
        Watched descriptors, of each kind. All kinds are open at once (seven
        descriptors for one of each), so that variants can take turns.
    kinds : sequence of str
        Of ``"eventfd"``, ``"pipe"``, ``"socketpair"`` (AF_UNIX, stream), ``"tcp"``.
    pollers, active, api, ops, rounds, warmup, quick, pin, seed, progress
        As in :func:`sweep`.

    Returns
    -------
    Result
        As of :func:`sweep`, with the same errors.
    """
    kinds = check_names("kinds", kinds, tuple(KINDS))
    effort = choose_effort(
        quick, ops=(ops, 200, 50), rounds=(rounds, 10, 3), warmup=warmup, pin=pin, seed=seed,
        progress=progress,
    )  # fmt: skip
    sizes, compared = check_sizes("n_fds", n_fds), variants(pollers, api)
    return run_waits("wait_kinds", sizes, compared, kinds, _constant(active, sizes), effort)


def _constant(active: int, sizes: Sequence[int]) -> Callable[[int], tuple[int]]:
    """Check `active`, and return the function that returns it for every size."""
    check_int("active", active, 1)
    if active > sizes[0]:
        raise ValueError(
            f"active must be at most the smallest of n_fds, {sizes[0]}, not {active}: more "
            "descriptors cannot be ready than are watched"
        )
    return lambda _: (active,)


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

    What it shows: epoll's time depends on the ready descriptors, not on the watched ones.
    When all of a few descriptors are ready, poll checks no more of them than epoll, and
    does less for each: epoll takes each off its ready list and, level-triggered, puts it
    back.

    Parameters
    ----------
    n_fds : int or rising sequence of int
        Watched descriptors; reduced as in :func:`sweep`.
    shares : rising sequence of float
        Shares of them that are ready in each operation, from 0 to 1; 0 means one
        descriptor, which is also the minimum.
    pollers : tuple of two str
        The first's time is divided by the second's. NotPossible if one is ``"io_uring"``
        and it is refused here.
    ops : int, optional
        Operations per variant and combination in a round: 15, or 6 with `quick`.
    rounds : int, optional
        5, or 3 with `quick`, which also skips every other default size.
    warmup : int
        Operations before them, marked in the result.
    api, kind, pin, seed, progress
        As in :func:`sweep`.

    Returns
    -------
    Result
        As of :func:`sweep`, with the same errors. ``analysis.crossover_ratios()`` computes
        the map, and ``plots.crossover()`` draws it. Here an epoll wait may return all ready
        descriptors; :func:`propagate` shows Python's default limit of 1,023.
    """
    sizes = check_sizes("n_fds", n_fds)
    if check_bool("quick", quick) and n_fds is CROSSOVER_SIZES:
        sizes = CROSSOVER_SIZES[::2]
    check_choice("kind", kind, list(KINDS))
    if len(check_names("pollers", pollers, ALL_POLLERS)) != 2:
        raise ValueError(f"pollers must be two to compare, not {pollers!r}")
    shares = _check_shares(shares)
    effort = choose_effort(
        quick, ops=(ops, 15, 6), rounds=(rounds, 5, 3), warmup=warmup, pin=pin, seed=seed,
        progress=progress,
    )  # fmt: skip

    def active(n: int) -> list[int]:
        return sorted({max(1, round(share * n)) for share in shares})

    return run_waits("crossover", sizes, variants(pollers, api), (kind,), active, effort)


def _check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    given = check_sequence("shares", shares, partial(check_number, least=0, most=1))
    if not given:
        raise ValueError("shares must not be empty; give at least one, such as shares=(0, 1)")
    rising = tuple(sorted(set(given)))
    if rising != given:
        raise ValueError(f"shares must rise, each once, not {shares!r}; did you mean {rising}?")
    return given
