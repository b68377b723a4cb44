"""From DataFrames to matplotlib Axes, and from Axes to files.

Every function takes the data first and the rest by keyword, draws on ``ax`` or on a new
figure, and returns the Axes. An empty frame draws an empty, labelled chart. ``recording``
draws events, wakeups and latencies; ``experiments`` the comparisons; ``scaling`` the
sweeps; ``export`` writes a chart with its data and circumstances; ``style`` is the one
style of all. Imports analysis and everything below.
"""

from epolllab.plots import style
from epolllab.plots.experiments import (
    METRICS,
    balance,
    checks,
    herd,
    level_against_edge,
    lifecycles,
    masks,
    numbers,
    stranded,
    tails,
)
from epolllab.plots.export import default_folder, export
from epolllab.plots.recording import batch_sizes, interest, journey, latency, timeline, wakeups
from epolllab.plots.scaling import (
    cost_split,
    crossover,
    idle_connections,
    kinds,
    observer_cost,
    ratio,
    scaling,
    staircase,
)

__all__ = [
    "METRICS",
    "balance",
    "batch_sizes",
    "checks",
    "cost_split",
    "crossover",
    "default_folder",
    "export",
    "herd",
    "idle_connections",
    "interest",
    "journey",
    "kinds",
    "latency",
    "level_against_edge",
    "lifecycles",
    "masks",
    "numbers",
    "observer_cost",
    "ratio",
    "scaling",
    "staircase",
    "stranded",
    "style",
    "tails",
    "timeline",
    "wakeups",
]


def __dir__() -> list[str]:
    return sorted(__all__)
