"""A phenomenon at the press of a button: what was expected, what was seen, and a picture.

One job: show an outcome of the catalogue, and let it happen again.
"""

import base64
import io
from typing import TYPE_CHECKING, Any

import ipywidgets as ipy

from epolllab.experiments.catalogue import registry
from epolllab.notebook import cells
from epolllab.plots import style
from epolllab.widgets.panel import Panel, button, named, row

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from epolllab.experiments.catalogue.outcome import Outcome

__all__ = ["Explorer", "explore"]


def explore(name: str = "edge-goes-silent") -> "Explorer":
    """Let a phenomenon of the catalogue happen, on this kernel, and choose the next.

    Parameters
    ----------
    name : str
        As ``experiments.phenomena()`` lists it; it happens at once.

    Returns
    -------
    Explorer
        A widget.

    Raises
    ------
    ValueError
        There is no such phenomenon; near names are said.
    """
    registry.find(name)  # before there is a widget
    return Explorer(name)


class Explorer(Panel):
    """Made by :func:`explore`.

    Attributes
    ----------
    outcome : Outcome
        What came of the last run.
    """

    def __init__(self, name: str) -> None:
        cells.stop_earlier_execution()
        families: dict[str, str] = {}
        for entry in registry.entries().values():
            families[f"{entry.family}: {entry.name}"] = entry.name
        self._choice = named(
            ipy.Dropdown(options=list(families.items()), value=name,
                         layout=ipy.Layout(width="420px")), "phenomenon",
        )  # fmt: skip
        self._run_button = button("Let it happen", "run", "run it on this kernel, now",
                                  style="primary")  # fmt: skip
        self._card = named(ipy.HTML(), "outcome")
        self._image = named(ipy.HTML(), "image")
        self.outcome: Outcome
        super().__init__(
            "explore", [row(self._choice, self._run_button)], [self._card, self._image]
        )
        self._run_button.on_click(self.guarded(self.run))
        self._choice.observe(self.guarded(self.run), "value")
        self.run()
        cells.remember(self)

    def run(self) -> None:
        """Let the chosen phenomenon happen, and show what came of it."""
        self.outcome = registry.run(self._choice.value)
        self._card.value = self.outcome._repr_html_()
        # Both at once: the style sheet shows the one that goes with the page's theme.
        self._image.value = self._drawn(dark=False) + self._drawn(dark=True)

    def _drawn(self, *, dark: bool) -> str:
        buffer = io.BytesIO()
        with style.use(dark=dark) as theme:
            self.picture().savefig(buffer, format="png", dpi=110)
        data = base64.b64encode(buffer.getvalue()).decode()
        words = f"picture of {self.outcome.name}"
        return f"<img class='epl-{theme.name}' alt='{words}' src='data:image/png;base64,{data}'>"

    def parameters(self) -> dict[str, Any]:
        """Which phenomenon, and the verdict."""
        return {"phenomenon": self.outcome.name, "verdict": str(self.outcome.verdict)}

    def text(self) -> str:
        """Expected beside observed, for a place without widgets."""
        return repr(self.outcome)

    def picture(self) -> "Figure":
        """The phenomenon's own picture."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.0, 3.8), layout="constrained")
        self.outcome.plot(ax=figure.add_subplot())
        return figure

    def data(self) -> "pd.DataFrame":
        """What was done, and what the kernel returned."""
        return self.outcome.table()

    def export(self, name: str | None = None, **how: Any) -> dict[str, Any]:
        """Write picture, data and circumstances; see :func:`epolllab.plots.export.export`."""
        facts = {"circumstances": dict(self.outcome.circumstances)}
        return super().export(name, **{**facts, **how})
