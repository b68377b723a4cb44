"""Fixtures of the widget tests."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from epolllab import widgets

mpl.use("Agg")

Opened = Callable[[Any], Any]


@pytest.fixture(scope="session", autouse=True)
def _fonts() -> None:
    """Let matplotlib open its fonts now: it keeps them open."""
    panel = widgets.stepper()
    for kind in ("png", "svg"):
        figure = panel.picture()
        figure.text(0, 0, "x", weight="bold")
        figure.savefig(io.BytesIO(), format=kind)
    panel.close()
    Figure().add_subplot().set_title("$10^3$")


@pytest.fixture
def stepper(opened: Opened) -> widgets.Stepper:
    """A stepper."""
    return opened(widgets.stepper())


@pytest.fixture
def dashboard(opened: Opened) -> widgets.Dashboard:
    """A dashboard without a server, which reads the interest list at every tick."""
    dashboard = opened(widgets.dashboard())
    dashboard.interest_interval_s = 0.0
    return dashboard


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Close what a test opens, also when it fails."""
    things: list[Any] = []

    def keep(thing: Any) -> Any:
        things.append(thing)
        return thing

    yield keep
    for thing in reversed(things):
        thing.close() if hasattr(thing, "close") else thing.stop()
    things.clear()  # the fixture's value outlives the test
