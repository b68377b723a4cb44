"""A scaling experiment as curves that can be asked for; no widget.

One job: medians by arm, size and share of ready descriptors, and the scaling of axes.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from epolllab.analysis.ratios import _share
from epolllab.analysis.result import Result

__all__ = ["Axis", "Curve", "Curves"]

COLUMNS = ("poller", "api", "n_fds", "active", "wait_ns")
BASE = "epoll-level"


class Curve(NamedTuple):
    """One arm: sizes and medians in nanoseconds."""

    poller: str
    api: str
    n_fds: list[int]
    wait_ns: list[float]


class Curves:
    """Medians of a sweep or a map.

    Parameters
    ----------
    data : Result or pandas.DataFrame
        From :func:`epolllab.experiments.scaling.sweep` or ``crossover``: it has a row per
        operation with ``poller, api, n_fds, active, wait_ns``.

    Raises
    ------
    ValueError
        A column is missing, or there are no rows that count.
    """

    def __init__(self, data: Result | pd.DataFrame) -> None:
        frame = data.frame if isinstance(data, Result) else data
        missing = [name for name in COLUMNS if name not in frame]
        if missing:
            raise ValueError(
                f"a scaling experiment with {', '.join(COLUMNS)} was asked for, and this one has "
                f"no {', '.join(missing)}; scaling.sweep() and scaling.crossover() return one"
            )
        counted = frame[~frame["warmup"]] if "warmup" in frame else frame
        if counted.empty:
            raise ValueError("this experiment has no measurements that count")
        self.table = (
            counted.groupby(["poller", "api", "n_fds", "active"], observed=True)["wait_ns"]
            .median()
            .reset_index()
            .astype({"poller": "str", "api": "str"})
        )
        pairs = zip(self.table["n_fds"].tolist(), self.table["active"].tolist(), strict=True)
        # A few that are always ready, or a share of all of them.
        one = self.table["active"].nunique() == 1
        self.table["ready"] = [
            f"{active:,}" if one else _words(_share(n, active)) for n, active in pairs
        ]

    @property
    def sizes(self) -> list[int]:
        """Descriptors watched."""
        return sorted(self.table["n_fds"].unique().tolist())

    @property
    def apis(self) -> list[str]:
        """How the calls were made."""
        return sorted(self.table["api"].unique().tolist(), reverse=True)

    @property
    def shares(self) -> list[str]:
        """How many were ready, in words, from few to all."""
        # At the greatest size a share is what it says; one of one would be all.
        wide = self.table.sort_values("n_fds").groupby("ready").tail(1)
        share = (wide["active"] / wide["n_fds"]).to_numpy()
        return [str(name) for _, name in sorted(zip(share, wide["ready"], strict=True))]

    def chosen(self, ready: str, api: str) -> list[Curve]:
        """The curves of one share and one way to call."""
        rows = self.table[(self.table["ready"] == ready) & (self.table["api"] == api)]
        # Where rounding gives one size two counts of that name, the median of both.
        medians = rows.groupby(["poller", "n_fds"])["wait_ns"].median()
        return [
            Curve(
                str(poller),
                api,
                [int(n) for n in part.index.get_level_values("n_fds")],
                [float(ns) for ns in part],
            )
            for poller, part in medians.groupby("poller")
        ]

    def at(self, n_fds: int, ready: str, api: str) -> pd.DataFrame:
        """The arms at one size.

        Returns
        -------
        pandas.DataFrame
            ``poller`` (str), ``wait_us`` (float64, median), ``times_epoll`` (float64, of
            level-triggered epoll's; NaN without it); the fastest first.
        """
        found = {
            curve.poller: curve.wait_ns[curve.n_fds.index(n_fds)] / 1e3
            for curve in self.chosen(ready, api)
            if n_fds in curve.n_fds
        }
        base = found.get(BASE, float("nan"))
        rows = [(poller, us, us / base) for poller, us in found.items()]
        frame = pd.DataFrame(rows, columns=["poller", "wait_us", "times_epoll"])
        return frame.sort_values("wait_us", ignore_index=True)


def _words(share: float) -> str:
    return "one" if share == 0 else "all" if share == 1 else f"{share:.1%}".replace(".0%", "%")


class Axis:
    """Numbers to places from 0 to 1, in proportion or by powers of ten.

    Parameters
    ----------
    values : sequence of float
        What must fit; for powers of ten all above 0.
    log : bool
        Which of the two.
    """

    def __init__(self, values: Sequence[float], *, log: bool) -> None:
        self.log = log
        low, high = min(values), max(values)
        if log:
            self._low = float(math.floor(math.log10(low)))
            self._high = float(math.ceil(math.log10(high)))
            self._high = max(self._high, self._low + 1)
        else:
            self._low, self._high = 0.0, high * 1.04 or 1.0

    def place(self, value: float) -> float:
        """Where a value is."""
        at = math.log10(value) if self.log else value
        return (at - self._low) / (self._high - self._low)

    def ticks(self) -> list[float]:
        """Where to write numbers."""
        if self.log:
            return [10.0**power for power in range(int(self._low), int(self._high) + 1)]
        from matplotlib.ticker import MaxNLocator

        found: Any = MaxNLocator(5).tick_values(0, self._high)
        return [float(tick) for tick in found if 0 <= tick <= self._high]
