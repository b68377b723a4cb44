"""Live views for JupyterLab, its relatives and Voila; panels have an export button.

:func:`dashboard` drives a server and its clients, :func:`stepper` compares level and edge
triggering a step at a time, :func:`explore` runs a phenomenon of the catalogue,
:func:`scaling` has sliders over a scaling experiment, and :func:`timeline` shows every call
of a recording. The models (``live``, ``load``, ``steps``, ``curves``) know no widgets; where
a page has none, a panel is shown as text.
"""

from epolllab.widgets.dashboard import Dashboard, dashboard
from epolllab.widgets.explorer import Explorer, explore
from epolllab.widgets.sliders import Sliders, scaling
from epolllab.widgets.stepper import Stepper, stepper
from epolllab.widgets.timeline import Timeline, timeline

__all__ = [
    "Dashboard",
    "Explorer",
    "Sliders",
    "Stepper",
    "Timeline",
    "dashboard",
    "explore",
    "scaling",
    "stepper",
    "timeline",
]


def __dir__() -> list[str]:
    return sorted(__all__)
