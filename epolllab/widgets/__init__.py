"""Widgets: a live dashboard, a stepper, explorers; for JupyterLab, its relatives and Voila.

:func:`dashboard` drives a server and its clients, :func:`stepper` moves level and edge a
step at a time, :func:`explore` lets a phenomenon happen, and :func:`scaling` has sliders
over a scaling experiment. Each is a widget with an export button; each has a model
without widgets behind it, and a text for pages that have none.
"""

from epolllab.widgets.dashboard import Dashboard, dashboard
from epolllab.widgets.explorer import Explorer, explore
from epolllab.widgets.sliders import Sliders, scaling
from epolllab.widgets.stepper import Stepper, stepper

__all__ = [
    "Dashboard",
    "Explorer",
    "Sliders",
    "Stepper",
    "dashboard",
    "explore",
    "scaling",
    "stepper",
]


def __dir__() -> list[str]:
    return sorted(__all__)
