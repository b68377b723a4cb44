"""epolllab: see what the Linux kernel tells an event loop.

Start an instrumented server in a cell, fire clients at it, and look at every event
in a frame and in a chart::

    import epolllab

    server = epolllab.start_server()
    run = epolllab.run_clients(server, connections=50, requests=1000)
    server.events()
    epolllab.plots.timeline(server.events())
    server.stop()

``epolllab.plots``, ``frames``, ``experiments``, ``charts`` and ``widgets`` are
imported when first used, so that importing epolllab loads neither numpy nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from epolllab import kernel
from epolllab.clients import run_clients
from epolllab.places import reference
from epolllab.protocols import Echo, Hello, Http, Request, Response, Session
from epolllab.recording import Recording
from epolllab.runs import Run
from epolllab.scripts import Script, script
from epolllab.server import Server, ServerDied, servers, start_server, stop_all

if TYPE_CHECKING:
    from epolllab import charts, experiments, frames, plots, style, widgets

__all__ = [
    "Echo",
    "Hello",
    "Http",
    "Recording",
    "Request",
    "Response",
    "Run",
    "Script",
    "Server",
    "ServerDied",
    "Session",
    "charts",
    "experiments",
    "frames",
    "kernel",
    "plots",
    "reference",
    "run_clients",
    "script",
    "servers",
    "start_server",
    "stop_all",
    "style",
    "widgets",
]

_LAZY = ("charts", "experiments", "frames", "plots", "style", "widgets")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"epolllab.{name}")
    raise AttributeError(f"module 'epolllab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
