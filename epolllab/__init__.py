"""epolllab: see what the Linux kernel tells an event loop.

Start an instrumented server in a cell, send requests to it, and look at every event in
a DataFrame and in a chart::

    import epolllab

    server = epolllab.start_server()
    run = epolllab.run_clients(server, connections=50, requests=1000)
    server.events()
    server.plot.timeline()
    server.stop()

or look at a program of your own: ``epolllab.inspect(pid)``, ``epolllab.trace(pid)``,
``epolllab.read_strace("log")``, ``with epolllab.observe() as seen: ...``.

The names here are the ones that most notebooks need. The rest is in the subpackages, one
for each step of the data path: ``kernel``, ``server``, ``clients``, ``recording``,
``frames``, ``analysis``, ``external``, ``plots``, ``experiments``, ``widgets``. Those that
need numpy, pandas or matplotlib are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from epolllab import kernel
from epolllab.clients import Run, run_clients, script
from epolllab.notebook.paths import reference
from epolllab.recording import Recording
from epolllab.server import Response, Server, ServerDied, Session, servers, start_server, stop_all

if TYPE_CHECKING:
    from epolllab import analysis, experiments, external, frames, plots, widgets
    from epolllab.external import inspect, observe, read_strace, trace
    from epolllab.plots.style import set_theme

__version__ = "0.2.0"

__all__ = [
    "Recording",
    "Response",
    "Run",
    "Server",
    "ServerDied",
    "Session",
    "analysis",
    "experiments",
    "external",
    "frames",
    "inspect",
    "kernel",
    "observe",
    "plots",
    "read_strace",
    "reference",
    "run_clients",
    "script",
    "servers",
    "set_theme",
    "start_server",
    "stop_all",
    "trace",
    "widgets",
]

_LAZY = ("analysis", "experiments", "external", "frames", "plots", "widgets")
_LATE = {
    **dict.fromkeys(("inspect", "observe", "read_strace", "trace"), "external"),
    "set_theme": "plots.style",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"epolllab.{name}")
    if name in _LATE:
        return getattr(import_module(f"epolllab.{_LATE[name]}"), name)
    raise AttributeError(f"module 'epolllab' has no attribute {name!r}")


class _Plot:
    """An attribute whose charts are made at first use, since they need matplotlib."""

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        return self if owner is None else import_module("epolllab.plots.accessor").Charts(owner)


for _kind in (Recording, Run, Server):
    _kind.plot = _Plot()


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def _show(recording: Recording) -> None:
    """Show a recording that is the last line of a cell as a timeline."""
    import_module("epolllab.widgets.timeline").show(recording)


# Here, since recording is below widgets.
Recording._ipython_display_ = _show  # type: ignore[attr-defined]
