"""``recording.plot.timeline()`` and the like: the charts of an object, as its own methods."""

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from matplotlib.axes import Axes

from epolllab.clients.result import Run
from epolllab.plots.recording import batch_sizes, interest, wakeups
from epolllab.plots.requests import journey, latency
from epolllab.plots.timeline import timeline
from epolllab.server.server import Server

__all__ = ["Charts"]

Chart = Callable[..., Axes]

_ALWAYS: dict[str, Chart] = {
    "timeline": timeline, "wakeups": wakeups, "batch_sizes": batch_sizes, "latency": latency,
}  # fmt: skip
_OF_ONE_KIND: dict[type, dict[str, Chart]] = {
    Server: {"interest": interest}, Run: {"journey": journey},
}  # fmt: skip


class Charts:
    """The charts of a Server, a Run or a Recording.

    Each is a function of :mod:`epolllab.plots` whose first argument is this object:
    ``recording.plot.timeline(start="first accept")``. Calling it, ``recording.plot()``, draws
    the timeline.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._charts = dict(_ALWAYS)
        for kind, charts in _OF_ONE_KIND.items():
            if isinstance(owner, kind):
                self._charts |= charts

    def __call__(self, **options: Any) -> Axes:
        """Draw the timeline."""
        return timeline(self._owner, **options)

    def __getattr__(self, name: str) -> Chart:
        chart = self.__dict__.get("_charts", {}).get(name)
        if chart is None:
            kind = type(self.__dict__.get("_owner")).__name__
            raise AttributeError(f"a {kind} has no chart {name!r}; it has {', '.join(dir(self))}")
        return _of(self._owner, chart)

    def __dir__(self) -> list[str]:
        return sorted(self._charts)

    def __repr__(self) -> str:
        return f"<charts of a {type(self._owner).__name__}: {', '.join(dir(self))}>"


def _of(owner: Any, chart: Chart) -> Chart:
    """A chart without its first parameter, which is `owner`, and with its documentation."""

    def draw(**options: Any) -> Axes:
        return chart(owner, **options)

    update_wrapper(draw, chart)
    own = list(inspect.signature(chart).parameters.values())[1:]
    setattr(draw, "__signature__", inspect.Signature(own))  # noqa: B010
    return draw
