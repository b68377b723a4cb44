"""Pictures of outcomes: each takes an :class:`Outcome` and draws it with ``plots``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes

from epolllab import frames, plots
from epolllab.experiments.comparisons.herds import WOKEN

if TYPE_CHECKING:
    from epolllab.experiments.catalogue.outcome import Outcome


def picture_of_interest(outcome: "Outcome", *, ax: Axes | None = None) -> Axes:
    """Draw the kernel's interest list beside the program's own table."""
    data: Mapping[str, Any] = outcome.data
    entries, table = data.get("interest", ()), data.get("table", {})
    frame = frames.interest_list(entries, table, inodes=data.get("inodes"))
    return plots.interest(frame, ax=ax)


def picture_of_endings(outcome: "Outcome", *, ax: Axes | None = None) -> Axes:
    """Draw the mask of each ending."""
    seen: Mapping[str, str] = outcome.observed or {}
    column = "unasked" if outcome.name == "endings-unasked" else "asked"
    return plots.masks(pd.DataFrame({column: list(seen.values())}, index=list(seen)), ax=ax)


def picture_of_herd(outcome: "Outcome", *, ax: Axes | None = None) -> Axes:
    """Draw the processes woken per connection."""
    n = outcome.data.get("n_workers", 0)
    rows = [(arm, n, seen, WOKEN[arm](n)) for arm, seen in outcome.data.get("herd", {}).items()]
    columns = ["arm", "n_workers", "voluntary_per_connect", "expected_per_connect"]
    return plots.herd(pd.DataFrame(rows, columns=columns), ax=ax)


def picture_of_balance(outcome: "Outcome", *, ax: Axes | None = None) -> Axes:
    """Draw which worker got each connection."""
    rows = [
        (arm, number, worker)
        for arm, order in outcome.data.items()
        for number, worker in enumerate(order)
    ]
    return plots.accept_balance(pd.DataFrame(rows, columns=["arm", "connect", "worker"]), ax=ax)


def picture_of_convoy(outcome: "Outcome", *, ax: Axes | None = None) -> Axes:
    """Draw the response times with the main thread idle and computing."""
    arms: Any = {name: pd.Series(took) for name, took in outcome.data.items()}
    return plots.latency(arms or pd.Series([], dtype="int64"), ax=ax, what="pings")


def picture_of_numbers(outcome: "Outcome", *, what: str = "", ax: Axes | None = None) -> Axes:
    """Draw observed numbers beside the expected ones."""
    seen: Mapping[str, float] = outcome.observed or {}
    known = outcome.expected if isinstance(outcome.expected, Mapping) else {}
    columns = {"observed": pd.Series(seen), "expected": pd.Series(known)}
    frame = pd.DataFrame(columns, index=list(seen), dtype="float64")
    return plots.numbers(frame, what=what, ax=ax)
