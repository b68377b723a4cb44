"""Published figures with their sources, and our numbers beside them.

The figures are in ``data/literature.json``. ``status`` gives the provenance of each:
``seen`` in the source or a full copy of it; ``seen, unit recalled`` where the unit is from
memory; ``ours`` for figures of this project's own trials.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from epolllab.analysis.result import Result
from epolllab.analysis.shape import select_api
from epolllab.analysis.statistics import without_warmup
from epolllab.checks import check_choice, check_instance, check_number
from epolllab.notebook import paths

__all__ = ["COLUMNS", "beside", "literature", "published_balance", "published_tails", "studies"]


@dataclass(frozen=True)
class Study:
    """One source with one method."""

    year: int
    source: str
    url: str
    """Where to read it; empty for this project's own figures."""
    circumstances: str
    measure: str
    unit: str
    status: str
    differs: str
    """What is different where this package measures the same."""
    rows: list[tuple[str, int | None, int | None, float]]
    """Arm, descriptors watched, descriptors active, value."""
    to_us: float | None = None
    """Factor from `unit` to microseconds for one operation, if the value is such a time."""


@cache
def _published() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(paths.data_file("literature.json").read_text("utf-8"))
    return content


@cache
def studies() -> dict[str, Study]:
    """Return all studies by name, in the order of the file."""
    return {name: Study(**fields) for name, fields in _published()["studies"].items()}


COLUMNS = {
    "study": "str", "year": "int32", "arm": "str", "n_fds": "Int64", "active": "Int64",
    "value": "float64", "unit": "str", "op_us": "float64", "measure": "str", "status": "str",
    "circumstances": "str", "source": "str", "url": "str", "differs": "str",
}  # fmt: skip


def literature(study: str | None = None) -> pd.DataFrame:
    """Published figures that this package reproduces or compares with its own.

    Parameters
    ----------
    study : str, optional
        ``"kerrisk-2010"``, ``"kerrisk-2006"``, ``"whatacold"``, ``"libevent-bench"``,
        ``"gammo-2004"``, ``"cloudflare-2017"``, ``"wrk2"``, ``"libevent-801"``,
        ``"zio-510"``, ``"io-uring-echo"`` or ``"observer"``; all by default.

    Returns
    -------
    pandas.DataFrame
        A row per number:

        ============= ======= ==========================================
        study         str     as above
        year          int32   of publication
        arm           str     what was measured: ``"epoll"``, ``"poll"``, ...
        n_fds         Int64   descriptors watched; missing if there are none
        active        Int64   ready descriptors, or active connections
        value         float64 as published
        unit          str     of `value`
        op_us         float64 `value` in µs for one operation; NaN if it is
                              not such a time
        measure       str     what `value` is
        status        str     provenance: ``"seen"`` in the source, ``"seen,
                              unit recalled"``, or ``"ours"``
        circumstances str     machine, method, and known peculiarities
        source        str     author, title and place
        url           str     where to read it; empty for our own figures
        differs       str     what is different where this package measures it
        ============= ======= ==========================================
    """
    names = list(studies()) if study is None else [check_choice("study", study, studies())]
    rows = [
        {**vars(studies()[name]), "study": name, "arm": arm, "n_fds": n_fds, "active": active,
         "value": value, "op_us": value * (studies()[name].to_us or np.nan)}
        for name in names
        for arm, n_fds, active, value in studies()[name].rows
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS)).astype(COLUMNS)


def published_balance() -> dict[str, list[int]]:
    """Cloudflare's order of accepting: the worker of each of 6 connections, by arm.

    Three workers; M. Majkowski, "Why does one NGINX worker take all the load?", 2017.
    """
    return dict(_published()["accept_balance"]["workers"])


def published_tails() -> dict[str, dict[str, float]]:
    """Cloudflare's latencies in ms, by arm: ``mean``, ``greatest`` and ``deviation``.

    Twelve workers, 100,000 requests at 200 connections; the same article.
    """
    table: dict[str, dict[str, float]] = {}
    for name, _, _, value in studies()["cloudflare-2017"].rows:
        arm, _, statistic = name.partition(", ")
        table.setdefault(arm, {})[statistic] = value
    return table


_BESIDE = {
    "arm": "str", "n_fds": "Int64", "active": "Int64", "theirs": "float64", "ours": "float64",
    "ratio": "float64", "unit": "str",
}  # fmt: skip

Ours = Result | Mapping[str, float] | Mapping[tuple[str, int], float]


def beside(study: str, ours: Ours) -> pd.DataFrame:
    """Our numbers beside the published ones, in their unit; a row per published number.

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
        missing if it was not measured; ``ratio`` = ours / theirs; ``unit``.
        ``attrs["differs"]`` says what is different between the two.

    Raises
    ------
    ValueError
        Unknown study, the result of another experiment, or no arm of the study in `ours`.
    """
    check_choice("study", study, studies())
    table = literature(study)
    found = _by_arm(ours, studies()[study])
    values = []
    for key in table[["arm", "n_fds", "active"]].astype(object).itertuples(index=False, name=None):
        candidates = (key, key[:2], key[0])
        values.append(next((found[name] for name in candidates if name in found), np.nan))
    if np.isnan(values).all():
        raise ValueError(
            f"ours has no arm of study {study!r}: the study has "
            f"{', '.join(table['arm'].unique())}; ours has {', '.join(map(str, found))}"
        )
    shown = table.assign(theirs=table["value"], ours=values)
    shown["ratio"] = shown["ours"] / shown["theirs"]
    shown = shown[list(_BESIDE)].astype(_BESIDE)
    shown.attrs = {"study": study, "differs": studies()[study].differs}
    return shown


def _by_arm(ours: Ours, study: Study) -> dict[object, float]:
    """Our medians, by the study's names of its arms."""
    if isinstance(ours, Mapping):
        return {key: check_number("ours", value) for key, value in ours.items()}
    check_instance("ours", ours, Result, "a Result, or a mapping of arms to numbers")
    medians_of = {"sweep": _sweep, "propagate": _propagate, "observer_cost": _observer_cost}
    if ours.name not in medians_of:
        raise ValueError(
            f"ours must be a Result of {', '.join(medians_of)}, not of {ours.name}; "
            "or pass a mapping of arms to numbers"
        )
    return dict(medians_of[ours.name](without_warmup(ours.frame), study))


def _study_name(poller: str) -> str:
    return "epoll" if poller == "epoll-level" else poller


def _sweep(frame: pd.DataFrame, study: Study) -> Iterator[tuple[object, float]]:
    kept = select_api(frame, "wait_ns")
    medians: Any = kept.groupby(["poller", "n_fds"], observed=True)["wait_ns"].median()
    for (poller, n_fds), wait_ns in medians.items():
        yield (_study_name(poller), n_fds), wait_ns / 1000 / (study.to_us or 1.0)


def _propagate(frame: pd.DataFrame, _study: Study) -> Iterator[tuple[object, float]]:
    by = ["poller", "writes", "pairs", "active"]
    rows: Any = frame.groupby(by, observed=True)[["loop_ns", "waits"]].median().reset_index()
    for row in rows.itertuples():
        name = _study_name(row.poller)
        yield (f"{name}, w={row.writes}", row.pairs, row.active), row.loop_ns / 1000
        yield (f"{name} waits, w={row.writes}", row.pairs, row.active), row.waits


def _observer_cost(frame: pd.DataFrame, _study: Study) -> Iterator[tuple[object, float]]:
    echoes = frame[(frame["load"] == "echo") & (frame["where"] == "process")]
    yield from echoes.groupby("look", observed=True)["p50_us"].median().items()
