"""Run a phenomenon of the catalogue at the press of a button, with its chart."""

from typing import Any

import ipywidgets as ipy
import pandas as pd
from matplotlib.axes import Axes

from epolllab.checks import checked
from epolllab.experiments.catalogue import registry
from epolllab.experiments.catalogue.outcome import Outcome
from epolllab.plots.canvas import check_axes
from epolllab.widgets import svg
from epolllab.widgets.panel import Panel, row

__all__ = ["Explorer", "explore"]


def explore(name: str = "edge-goes-silent") -> "Explorer":
    """Make a widget that runs phenomena of the catalogue on this kernel.

    Parameters
    ----------
    name : str
        The first one, which is run at once; ``experiments.phenomena()`` lists all.
    """
    registry.find(name)  # before a widget exists
    return Explorer(name)


class Explorer(Panel):
    """Made by :func:`explore`; ``outcome`` is the outcome of the last run."""

    figsize = (7.6, 3.8)

    def __init__(self, name: str) -> None:
        super().__init__("explore")
        choices = {f"{one.family}: {one.name}": one.name for one in registry.entries().values()}
        choice = self.add_control(
            "phenomenon",
            ipy.Dropdown(options=list(choices.items()), value=name,
                         layout=ipy.Layout(width="420px")),
            "A phenomenon of the catalogue; choosing one runs it.", "phenomenon",
        )  # fmt: skip
        run = self.add_button("run", "Run", "run it on this kernel now", self.run, style="primary")
        displays = [self.add_display(name) for name in ("outcome", "chart")]
        self.arrange([row(choice, run)], displays)
        choice.observe(self.guarded(self.run), "value")
        self.outcome: Outcome
        self.run()

    def run(self) -> None:
        """Run the chosen phenomenon and show its outcome."""
        self.outcome = outcome = registry.run(self.controls["phenomenon"].value)
        self.displays["outcome"].value = outcome._repr_html_()
        name = f"{outcome.name} ({outcome.verdict})"
        self.displays["chart"].value = svg.from_figure(self.picture(), name)

    @checked(ax=check_axes)
    def draw(self, ax: Axes) -> None:
        """Draw the phenomenon's own chart."""
        self.outcome.plot(ax=ax)

    def data(self) -> pd.DataFrame:
        """The steps of the phenomenon, and what the kernel returned."""
        return self.outcome.table()

    def text(self) -> str:
        """Expected beside observed, for a place without widgets."""
        return repr(self.outcome)

    def parameters(self) -> dict[str, Any]:
        """The name of the phenomenon, and the verdict."""
        return {"phenomenon": self.outcome.name, "verdict": str(self.outcome.verdict)}

    def circumstances(self) -> dict[str, Any]:
        """Circumstances of the run."""
        return dict(self.outcome.circumstances)
