"""Named checks of a sweep's shape: flat, proportional, and how far apart.

The margins follow the published tables. A verdict is about one run; if a check differs on a
busy machine, measure again first.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from epolllab.analysis import statistics
from epolllab.analysis.hosts import require_one_run
from epolllab.checks import check_choice
from epolllab.frames.columns import check_frame

__all__ = [
    "ALL_POLLERS", "FLAT", "POLLERS", "PROPORTIONAL", "RATIO", "select_api", "shape",
    "without_floor",
]  # fmt: skip


POLLERS = ("epoll-level", "epoll-edge", "epoll-oneshot", "poll", "select")
ALL_POLLERS = (*POLLERS, "io_uring")
"""The pollers of a result, in the order of tables and charts; io_uring if it is asked for."""

VALUES = ("wait_ns", "op_ns")
APIS = ("raw", "python")

FLAT = 2.0
"""Maximum of epoll's median at the largest N over that at the smallest."""

PROPORTIONAL = (0.8, 1.2)
"""Range of the exponent p of poll's and select's time, N ** p; see ``statistics.growth``."""

RATIO = 0.01
"""poll's median over epoll's at the largest N must exceed this times N: 100 at 10,000."""

_Check = tuple[str, str, float, str, str]


def shape(frame: pd.DataFrame, *, value: str = "wait_ns") -> pd.DataFrame:
    """Check the shape of a sweep.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`epolllab.experiments.sweep`.
    value : {"wait_ns", "op_ns"}
        The wait alone, or the whole operation (Python's functions only).

    Returns
    -------
    pandas.DataFrame
        A row per check: ``check``, its name; ``claim``, a sentence; ``value``, the
        measured number, without unit; ``margin``, what the claim allows; ``verdict``:
        ``"holds"``, ``"differs"``, or ``"not measured"`` if the sweep lacks the data.
        Raw calls are used if there are any, otherwise Python's functions; what the clock
        and ctypes take is subtracted, see :func:`epolllab.analysis.shares`.
    """
    kept = without_floor(select_api(frame, value, name="frame"), value)
    medians = kept.groupby(["poller", "n_fds"], observed=True)[value].median().astype(float)
    rows = [*_flat(medians), *_proportional(kept, value), _apart(medians)]
    table = pd.DataFrame(rows, columns=pd.Index(["check", "claim", "value", "margin", "verdict"]))
    return table.astype({"verdict": pd.CategoricalDtype(["holds", "differs", "not measured"])})


def select_api(
    frame: pd.DataFrame, value: str, api: str | None = None, name: str = "data"
) -> pd.DataFrame:
    """Return the measurements of `value` by one API, without warm-up.

    Raw calls by default, or Python's functions if there are none.
    """
    columns = f"poller* api* n_fds+ round warmup* {check_choice('value', value, VALUES)}?"
    check_frame(name, frame, ":func:`epolllab.experiments.sweep`", columns)
    require_one_run(name, frame)
    kept = statistics.without_warmup(frame[frame[value].notna()])
    chosen = api and check_choice("api", api, APIS)
    chosen = chosen or ("raw" if (kept["api"] == "raw").any() else "python")
    return kept[kept["api"] == chosen]


def without_floor(kept: pd.DataFrame, value: str) -> pd.DataFrame:
    """Measurements of one API, less what the clock and a foreign call take without the wait."""
    raw = len(kept) and kept["api"].iloc[0] == "raw"
    floor = kept.attrs.get("raw_floor_ns" if raw else "clock_floor_ns") or 0.0
    return kept.assign(**{value: kept[value].astype(float) - floor})


def _sizes(medians: "pd.Series[float]", poller: str) -> list[int]:
    return [int(n) for name, n in medians.index if name == poller]


def _flat(medians: "pd.Series[float]") -> Iterator[_Check]:
    measured = [name for name in (*POLLERS[:3], "io_uring") if _sizes(medians, name)]
    for poller in measured or ["epoll-level"]:
        sizes = _sizes(medians, poller)
        found = medians[poller, sizes[-1]] / medians[poller, sizes[0]] if sizes[1:] else np.nan
        claim = f"the median at {_at(sizes[-1:])} over that at {_at(sizes[:1], 'smallest')}"
        yield _checked(
            f"{poller} is flat", f"{poller}: {claim}", found, f"at most {FLAT:g}", found <= FLAT
        )


def _proportional(kept: pd.DataFrame, value: str) -> Iterator[_Check]:
    least, most = PROPORTIONAL
    for poller in ("poll", "select"):
        rows = kept[kept["poller"] == poller]
        times = rows[value].to_numpy(float, na_value=np.nan)
        found = statistics.growth(rows["n_fds"], times, rows["round"]).median
        claim = f"{poller}: the slope of log time over log N, from N = 100 on"
        margin = f"{least:g} to {most:g}"
        holds = least <= found <= most
        yield _checked(f"{poller} is proportional to N", claim, found, margin, holds)


def _apart(medians: "pd.Series[float]") -> _Check:
    common = sorted({*_sizes(medians, "epoll-level")} & {*_sizes(medians, "poll")})
    found, bound, margin = np.nan, np.nan, "over N / 100"
    if common:
        most = common[-1]
        found, bound = medians["poll", most] / medians["epoll-level", most], RATIO * most
        margin = f"over {bound:,.3g}"
    claim = f"poll's median over epoll's at {_at(common[-1:])}"
    return _checked("poll over epoll", claim, found, margin, found > bound)


def _at(sizes: Sequence[int], which: str = "largest") -> str:
    return f"N = {sizes[0]:,}" if sizes else f"the {which} N"


def _checked(check: str, claim: str, value: float, margin: str, holds: bool) -> _Check:
    verdict = "not measured" if np.isnan(value) else "holds" if holds else "differs"
    return check, claim, float(value), margin, verdict
