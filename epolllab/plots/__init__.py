"""Charts: from DataFrames to matplotlib Axes, and from Axes to files.

Every function takes the data first and the rest by keyword, draws on ``ax`` or on a new
figure, and returns the Axes; an empty frame gives an empty, labelled chart. ``timeline``,
``recording`` and ``requests`` draw what a server did, from a Server, Run, Recording or frame,
``experiments``, ``workers``, ``phenomena``, ``agreement``, ``scaling`` and ``waits`` the
experiments, ``widgets`` what the widgets show; ``diagram``
draws the inside of an epoll instance; ``export`` writes a chart to files, and
``alt_text`` describes it. The theme is that of ``epolllab.set_theme()``; draw within
``style.use(dark=True)`` for another. This folder imports analysis and everything below it.
"""

from epolllab.plots import style
from epolllab.plots.agreement import agreement
from epolllab.plots.alternative import alt_text
from epolllab.plots.diagram import epoll_inside
from epolllab.plots.experiments import (
    METRICS,
    idle_connections,
    level_against_edge,
    lifecycles,
    observer_cost,
    stranded,
)
from epolllab.plots.export import default_folder, export
from epolllab.plots.phenomena import conformance, masks, numbers
from epolllab.plots.recording import batch_sizes, interest, wakeups
from epolllab.plots.requests import journey, latency
from epolllab.plots.scaling import ratio, scaling
from epolllab.plots.timeline import timeline
from epolllab.plots.waits import cost_split, crossover, staircase, wait_kinds
from epolllab.plots.workers import accept_balance, herd, latency_tails

__all__ = [
    "METRICS",
    "accept_balance",
    "agreement",
    "alt_text",
    "batch_sizes",
    "conformance",
    "cost_split",
    "crossover",
    "default_folder",
    "epoll_inside",
    "export",
    "herd",
    "idle_connections",
    "interest",
    "journey",
    "latency",
    "latency_tails",
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
    "timeline",
    "wait_kinds",
    "wakeups",
]


def __dir__() -> list[str]:
    return sorted(__all__)
