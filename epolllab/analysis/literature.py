"""What others have published, as frames, and how far ours agrees.

One job: hold the published numbers with their source and circumstances, and compare
shapes. It measures nothing. Numbers and methods only, in words of our own.

``status`` says how each number was come by: ``seen`` in the source or a full copy of
it; ``seen, unit recalled`` where the numbers were, and the unit is from memory; ``ours``
for figures of this project's own trials.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from epolllab.checks import check_choice

if TYPE_CHECKING:
    from epolllab.analysis.result import Result


from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["CLOUDFLARE_BALANCE", "CLOUDFLARE_TAILS", "beside", "literature"]


@dataclass(frozen=True)
class _Study:
    """One source with one method."""

    year: int
    source: str
    circumstances: str
    measure: str
    unit: str
    status: str
    rows: tuple[tuple[str, int | None, int | None, float], ...]
    """Arm, descriptors watched, descriptors active, value."""
    to_us: float | None = None
    """Factor that makes the value microseconds for one operation, if it is such a time."""
    differs: str = ""
    """What is otherwise here, where this package measures the same."""


def _table(sizes: tuple[int, ...], active: int | None, **columns: tuple[float, ...]) -> tuple[
    tuple[str, int | None, int | None, float], ...
]:  # fmt: skip
    return tuple(
        (arm, n, active, value)
        for arm, values in columns.items()
        for n, value in zip(sizes, values, strict=True)
    )


_KERRISK_METHOD = (
    "N descriptors watched, one of them, chosen at random, ready in each operation; total of "
    "100,000 operations"
)

_KERRISK_DIFFERS = (
    "another machine and a much younger kernel; here the wait alone is timed, by the clock, called "
    "from Python through ctypes, over eventfds"
)

STUDIES: dict[str, _Study] = {
    "kerrisk-2010": _Study(
        2010,
        "M. Kerrisk, The Linux Programming Interface (2010), table 63-9",
        f"Linux 2.6.25; {_KERRISK_METHOD}; numbers of descriptors contiguous; FD_SETSIZE enlarged "
        "to 16,384 for select",
        "time of 100,000 operations, said to be of the CPU",
        "s",
        "seen, unit recalled",
        _table(
            (10, 100, 1_000, 10_000),
            1,
            poll=(0.61, 2.9, 35, 990),
            select=(0.73, 3.0, 35, 930),
            epoll=(0.41, 0.42, 0.53, 0.66),
        ),
        10.0,
        _KERRISK_DIFFERS,
    ),
    "kerrisk-2006": _Study(
        2006,
        "M. Kerrisk, talk at linux.conf.au 2006, slide 'Why epoll is better' "
        "(man7.org/conf/lca2006/Linux_2.6_changes/epoll_2d.html)",
        f"Linux 2.6, release not given; {_KERRISK_METHOD}. Its columns say CPU time, its footnote "
        "elapsed time",
        "time of 100,000 operations",
        "s",
        "seen",
        _table(
            (10, 100, 1_000, 10_000),
            1,
            poll=(1.12, 6.8, 157, 1_750),
            select=(1.28, 7.1, 151, 1_087),
            epoll=(0.65, 0.68, 0.89, 0.97),
        ),
        10.0,
        _KERRISK_DIFFERS,
    ),
    "whatacold": _Study(
        2016,
        "github.com/whatacold/linux-multiplexing-comparison, multiplexing_compare.dat",
        "N TCP connections, one of them ready; mean of 10 waits, and no warm-up, which N = 100 "
        "shows beside N = 200. Only the wait is timed, but epoll's is the first one of an epoll "
        "made anew for each pass; Fedora 22, 2.2 GHz Core i5",
        "time of one wait",
        "µs",
        "seen",
        _table(
            (100, 200, 1_000, 5_000, 10_000, 15_000),
            None,
            select=(54, 53, 419, 2_196, 4_241, 6_260),
            poll=(70, 57, 473, 2_636, 4_943, 7_255),
            epoll=(52, 9, 32, 119, 224, 336),
        ),
        1.0,
        "another machine and a younger kernel; eventfds in place of TCP connections; an epoll that "
        "is kept, or with fresh=True one that is made anew as theirs is",
    ),
    "libevent-bench": _Study(
        2026,
        "this project's Python port of libevent's bench.c, medians of 25 runs",
        "n socket pairs, a active, w writes; only the loop is timed; waits are its number of "
        "calls to the poller. With everything active poll equals or beats epoll; CPython's "
        "default bound of 1,023 events a wait cuts a large batch into many",
        "time of one run of the loop; number of waits",
        "µs; waits",
        "ours",
        (
            ("epoll, w=1000", 1_000, 1, 7_431),
            ("poll, w=1000", 1_000, 1, 120_665),
            ("epoll, w=1000", 1_000, 1_000, 11_601),
            ("poll, w=1000", 1_000, 1_000, 8_363),
            ("epoll, w=5000", 5_000, 5_000, 59_025),
            ("poll, w=5000", 5_000, 5_000, 55_113),
            ("epoll waits, w=1000", 1_000, 1, 1_001),
            ("poll waits, w=1000", 1_000, 1, 1_001),
            ("epoll waits, w=1000", 1_000, 1_000, 2),
            ("poll waits, w=1000", 1_000, 1_000, 2),
            ("epoll waits, w=5000", 5_000, 5_000, 10),
            ("poll waits, w=5000", 5_000, 5_000, 2),
        ),
        differs="the method is the same, and so must the waits be; another machine",
    ),
    "gammo-2004": _Study(
        2004,
        "L. Gammo, T. Brecht, A. Shukla, D. Pariag, Comparing and Evaluating epoll, select, and "
        "poll Event Mechanisms, Ottawa Linux Symposium 2004, sections 1 to 3",
        "a web server in C under load. Without idle connections select and poll match "
        "level-triggered epoll or are slightly better. Of three remedies (edges; two epoll_ctl "
        "a connection; one call for many) all cut the calls, and throughput rises only slightly",
        "share of run time in epoll_ctl, at least",
        "%",
        "seen",
        (("epoll level", None, None, 16.0),),
        differs="a server in Python, whose own work makes the rest larger; share of the time that "
        "its loop is busy; the how-to's life cycle with four epoll_ctl a request",
    ),
    "cloudflare-2017": _Study(
        2017,
        "M. Majkowski, Why does one NGINX worker take all the load?, Cloudflare 2017",
        "12 workers, 100,000 requests at 200 connections",
        "latency: mean, greatest, standard deviation",
        "ms",
        "seen",
        (
            ("shared queue, mean", None, 200, 30.39),
            ("shared queue, greatest", None, 200, 72.65),
            ("shared queue, deviation", None, 200, 1.58),
            ("SO_REUSEPORT, mean", None, 200, 31.37),
            ("SO_REUSEPORT, greatest", None, 200, 144.55),
            ("SO_REUSEPORT, deviation", None, 200, 25.27),
        ),
        differs="experiments.latency_tails() measures it, with fewer workers and requests",
    ),
    "wrk2": _Study(
        2013,
        "G. Tene, wrk2, README",
        "100 connections, 2,000 requests/s for 30 s, with a stop of 1.4 s",
        "99th percentile of latency, by where it is counted from",
        "ms",
        "seen",
        (("from the intended start", None, 100, 1_270.0), ("from the send", None, 100, 6.04)),
        differs="a stop of a tenth of the length in a run of a tenth of the length: both times are "
        "to be a tenth at best; fewer connections and requests a second",
    ),
    "libevent-801": _Study(
        2019,
        "libevent pull request 801",
        "a server on libevent, level against edge",
        "throughput",
        "requests/s",
        "seen",
        (("level", None, None, 31_433.0), ("edge", None, None, 36_277.0)),
        differs="a server in Python, with an echo protocol: compare edge / level, not the rates",
    ),
    "zio-510": _Study(
        2026,
        "lalinsky/zio pull request 510",
        "echo with 50 connections; about 4 epoll_ctl an echo before, arm and disarm taken out "
        "after",
        "throughput",
        "requests/s",
        "seen",
        (
            ("epoll, 4 epoll_ctl", None, 50, 93_800.0),
            ("epoll, without", None, 50, 121_500.0),
            ("io_uring", None, 50, 126_500.0),
        ),
        differs="a server in Python; one epoll_ctl an echo (one-shot) in place of four: compare "
        "without / with, not the rates; no io_uring here",
    ),
    "io-uring-echo": _Study(
        2021,
        "frevib/io_uring-echo-server and CarterLi/io_uring-echo-server, their READMEs",
        "echo; frevib's of 128 bytes with 50 clients. Depending on who measures, io_uring has 57 % "
        "to 170 % of epoll's throughput; in axboe/liburing issue 189 epoll is ahead at 40 to 400 "
        "clients",
        "throughput",
        "requests/s",
        "seen",
        (
            ("io_uring, frevib", None, 50, 147_078.0),
            ("epoll, frevib", None, 50, 139_863.0),
            ("io_uring, CarterLi", None, None, 158_517.0),
            ("epoll, CarterLi", None, None, 148_557.0),
        ),
        differs="this package has no io_uring, so there is nothing to compare",
    ),
    "observer": _Study(
        2026,
        "this project's first trial, on a machine with two processors",
        "one echo at a time over one connection, watched in different ways",
        "median latency of an echo",
        "µs",
        "ours",
        (
            ("plain", None, 1, 56.0),
            ("recorder", None, 1, 73.0),
            ("strace --seccomp-bpf", None, 1, 98.0),
            ("strace -c", None, 1, 173.0),
            ("perf trace", None, 1, 179.0),
            ("strace -ttT", None, 1, 242.0),
        ),
        differs="another machine; plain strace of seven calls in place of strace -c and -ttT",
    ),
}

COLUMNS = {
    "study": "str",
    "year": "int32",
    "arm": "str",
    "n_fds": "Int64",
    "active": "Int64",
    "value": "float64",
    "unit": "str",
    "op_us": "float64",
    "measure": "str",
    "status": "str",
    "circumstances": "str",
    "source": "str",
    "differs": "str",
}


def literature(study: str | None = None) -> pd.DataFrame:
    """Published figures that this package reproduces or sets beside its own.

    Parameters
    ----------
    study : str, optional
        One of them: ``"kerrisk-2010"``, ``"kerrisk-2006"``, ``"whatacold"``,
        ``"libevent-bench"``, ``"gammo-2004"``, ``"cloudflare-2017"``, ``"wrk2"``,
        ``"libevent-801"``, ``"zio-510"``, ``"io-uring-echo"``, ``"observer"``. All by
        default.

    Returns
    -------
    pandas.DataFrame
        A row per number:

        ============= ======= ==========================================
        study         str     as above
        year          int32   of publication
        arm           str     what was measured: ``"epoll"``, ``"poll"``, ...
        n_fds         Int64   descriptors watched; missing where it has none
        active        Int64   of them ready, or connections working
        value         float64 as published
        unit          str     of `value`
        op_us         float64 the same in µs for one operation; NaN where it
                              is no such time
        measure       str     what was measured
        status        str     how we come by it, see the top of this file
        circumstances str     machine, method, and what is known to be odd
        source        str     where to read it
        differs       str     what is otherwise where this package measures it
        ============= ======= ==========================================

    Raises
    ------
    ValueError
        No study has this name; the nearest one is said.
    """
    if study is not None:
        check_choice("study", study, list(STUDIES))
    names = list(STUDIES) if study is None else [study]
    rows = [row for name in names for row in _rows(name, STUDIES[name])]
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS)).astype(COLUMNS)


def _rows(name: str, study: _Study) -> Iterator[tuple[object, ...]]:
    for arm, n_fds, active, value in study.rows:
        op_us = np.nan if study.to_us is None else value * study.to_us
        yield (
            name, study.year, arm, n_fds, active, value, study.unit, op_us, study.measure,
            study.status, study.circumstances, study.source, study.differs,
        )  # fmt: skip


_BESIDE = {
    "arm": "str", "n_fds": "Int64", "active": "Int64", "theirs": "float64", "ours": "float64",
    "ratio": "float64", "unit": "str",
}  # fmt: skip


def beside(
    study: str, ours: "Result | Mapping[str, float] | Mapping[tuple[str, int], float]"
) -> pd.DataFrame:
    """Our numbers beside published ones, in their unit, a row for each of theirs.

    Parameters
    ----------
    study : str
        As in :func:`literature`.
    ours : Result or mapping
        The result of ``sweep``, ``propagate`` or ``observer_cost``; or numbers in the
        study's unit by arm, or by arm and descriptors watched.

    Returns
    -------
    pandas.DataFrame
        ``arm``, ``n_fds``, ``active`` as in :func:`literature`; ``theirs``; ``ours``,
        missing where it was not measured; ``ratio`` = ours / theirs; ``unit``. What
        differs between the two is in ``attrs["differs"]``.

    Raises
    ------
    ValueError
        No study has this name; the result is of another experiment; or nothing in
        `ours` is an arm of the study.
    """
    table = literature(study)
    found = _by_arm(ours, STUDIES[study])
    keys = table[["arm", "n_fds", "active"]].astype(object).itertuples(index=False, name=None)
    values = [_first_of(found, (key, key[:2], key[0])) for key in keys]
    if np.isnan(values).all():
        raise ValueError(
            f"nothing that is given is an arm of {study!r}, which has "
            f"{', '.join(table['arm'].unique())}; given are {', '.join(map(str, found))}"
        )
    shown = table.assign(theirs=table["value"], ours=values)
    shown["ratio"] = shown["ours"] / shown["theirs"]
    shown = shown[list(_BESIDE)].astype(_BESIDE)
    shown.attrs = {"study": study, "differs": STUDIES[study].differs}
    return shown


def _first_of(found: Mapping[object, float], keys: tuple[object, ...]) -> float:
    return float(next((found[key] for key in keys if key in found), np.nan))


def _by_arm(
    ours: "Result | Mapping[str, float] | Mapping[tuple[str, int], float]", study: _Study
) -> dict[object, float]:
    """Our medians under the names that a study gives its arms."""
    if isinstance(ours, Mapping):
        return {key: float(value) for key, value in ours.items()}
    makers = {"sweep": _waits, "propagate": _loops, "observer_cost": _looks}
    if ours.name not in makers:
        raise ValueError(
            f"numbers come of the result of {', '.join(makers)}, and this is {ours.name}; "
            "give a mapping of arms to numbers"
        )
    return dict(makers[ours.name](ours.frame[~ours.frame["warmup"]], study))


def preferred(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Measurements by the raw call, or by Python where there are none."""
    kept = frame[~frame["warmup"] & frame[value].notna()]
    raw = kept[kept["api"] == "raw"]
    return kept if raw.empty else raw


def _waits(frame: pd.DataFrame, study: _Study) -> Iterator[tuple[object, float]]:
    kept = preferred(frame, "wait_ns")
    rows: Any = kept.groupby(["poller", "n_fds"], observed=True)["wait_ns"].median().reset_index()
    for row in rows.itertuples():
        name = "epoll" if row.poller == "epoll-level" else row.poller
        yield (name, row.n_fds), row.wait_ns / 1000 / (study.to_us or 1.0)


def _loops(frame: pd.DataFrame, _study: _Study) -> Iterator[tuple[object, float]]:
    by = ["poller", "writes", "pairs", "active"]
    rows: Any = frame.groupby(by, observed=True)[["loop_ns", "waits"]].median().reset_index()
    for row in rows.itertuples():
        name = "epoll" if row.poller == "epoll-level" else row.poller
        yield (f"{name}, w={row.writes}", row.pairs, row.active), row.loop_ns / 1000
        yield (f"{name} waits, w={row.writes}", row.pairs, row.active), row.waits


def _looks(frame: pd.DataFrame, _study: _Study) -> Iterator[tuple[object, float]]:
    echoes = frame[(frame["load"] == "echo") & (frame["where"] == "process")]
    medians = echoes.groupby("look", observed=True)["p50_us"].median()
    yield from zip(medians.index, medians, strict=True)


WOKEN: dict[str, Callable[[int], int]] = {
    "level": lambda n: n,
    "edge": lambda n: n,
    "exclusive": lambda n: 1,
    "shared level": lambda n: 2,
    "shared edge": lambda n: 1,
    "blocking accept": lambda n: 1,
    "reuseport": lambda n: 1,
}
"""Workers woken per connection when all of `n` sleep, by arm. Exact, but for shared level:
there each that is woken before the connection has been accepted wakes one more."""


CLOUDFLARE_BALANCE = {
    "blocking accept": (2, 1, 0, 2, 1, 0),
    "exclusive": (0, 0, 0, 0, 0, 0),
}
"""Worker of each of 6 connects, 3 workers. Marek Majkowski, 'Why does one NGINX worker
take all the load?', Cloudflare, 2017."""

CLOUDFLARE_TAILS = {
    "shared queue": {"mean_ms": 30.39, "max_ms": 72.65, "sd_ms": 1.58},
    "reuseport": {"mean_ms": 31.37, "max_ms": 144.55, "sd_ms": 25.27},
}
"""12 workers, 100,000 requests at 200 connections; the same article."""
