"""The time of one wait over the number of descriptors, from a scaling experiment."""

import pandas as pd

from epolllab.analysis.hosts import require_one_run
from epolllab.analysis.ratios import nearest_share
from epolllab.analysis.result import Result, frame_of
from epolllab.frames.columns import check_frame

__all__ = ["Curves"]

COLUMNS = "poller* api* n_fds+ active+ wait_ns?"
BASELINE = "epoll-level"


class Curves:
    """Medians of a sweep or a crossover map.

    `data` is what :func:`epolllab.experiments.scaling.sweep` or ``crossover`` returns: one
    row per operation, with ``poller, api, n_fds, active, wait_ns``.
    """

    def __init__(self, data: Result | pd.DataFrame) -> None:
        frame = check_frame("data", frame_of(data), ":func:`epolllab.experiments.sweep`", COLUMNS)
        require_one_run("data", frame)
        counted = frame[~frame["warmup"]] if "warmup" in frame else frame
        if counted.empty:
            raise ValueError("data has no rows beside those of the warm-up")
        self.table = (
            counted.groupby(["poller", "api", "n_fds", "active"], observed=True)["wait_ns"]
            .median()
            .reset_index()
            .astype({"poller": "str", "api": "str"})
        )
        pairs = zip(self.table["n_fds"].tolist(), self.table["active"].tolist(), strict=True)
        # Either the same number is always ready, or a share of all.
        one = self.table["active"].nunique() == 1
        self.table["ready"] = [
            f"{active:,}" if one else _share_name(nearest_share(n, active)) for n, active in pairs
        ]

    @property
    def sizes(self) -> list[int]:
        """Numbers of descriptors watched."""
        return sorted(self.table["n_fds"].unique().tolist())

    @property
    def apis(self) -> list[str]:
        """How the calls were made: ``"raw"``, ``"python"``."""
        return sorted(self.table["api"].unique().tolist(), reverse=True)

    @property
    def shares(self) -> list[str]:
        """How many descriptors were ready, as ``"one"``, ``"10%"``, ``"all"``; ascending."""
        # By the largest size: with one descriptor, one is all.
        largest = self.table.sort_values("n_fds").groupby("ready").tail(1)
        share = (largest["active"] / largest["n_fds"]).to_numpy()
        return [str(name) for _, name in sorted(zip(share, largest["ready"], strict=True))]

    def frame(self, ready: str, api: str) -> pd.DataFrame:
        """The curves of one share and one way to call.

        Returns
        -------
        pandas.DataFrame
            ``poller`` (str), ``n_fds`` (int64), ``wait_ns`` (float64, median); by poller
            and size.
        """
        rows = self.table[(self.table["ready"] == ready) & (self.table["api"] == api)]
        # Rounding may give one size two counts of the same name: take the median of both.
        return rows.groupby(["poller", "n_fds"])["wait_ns"].median().reset_index()

    def at(self, n_fds: int, ready: str, api: str) -> pd.DataFrame:
        """The pollers at one size.

        Returns
        -------
        pandas.DataFrame
            ``poller`` (str), ``wait_us`` (float64, median), ``times_epoll`` (float64,
            relative to level-triggered epoll; NaN without it); the fastest first.
        """
        medians = self.frame(ready, api).set_index(["n_fds", "poller"])["wait_ns"]
        found = medians[medians.index.get_level_values("n_fds") == n_fds].droplevel("n_fds")
        frame = pd.DataFrame({"wait_us": found / 1e3})
        frame["times_epoll"] = found / found.get(BASELINE, float("nan"))
        return frame.sort_values("wait_us").reset_index()


def _share_name(share: float) -> str:
    return "one" if share == 0 else "all" if share == 1 else f"{share:.1%}".replace(".0%", "%")
