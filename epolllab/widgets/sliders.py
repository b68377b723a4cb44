"""Sliders over a scaling experiment: how many descriptors, how many ready, which calls."""

import math
import threading
import traceback
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as ipy
import pandas as pd
from matplotlib.axes import Axes

from epolllab import experiments
from epolllab.analysis.result import Result
from epolllab.checks import check_text, checked
from epolllab.notebook import paths
from epolllab.plots import style
from epolllab.plots import widgets as charts
from epolllab.plots.canvas import check_axes
from epolllab.plots.units import duration
from epolllab.recording import environment
from epolllab.widgets import svg
from epolllab.widgets.curves import Curves
from epolllab.widgets.panel import Panel, muted, row

__all__ = ["Sliders", "scaling"]

DEFAULT = "scaling-crossover"
_HINTS = {
    "n_fds": "Descriptors that the poller watches: the size whose times are in the table.",
    "ready": "How many of them are ready when the poller is asked: one, a share, or all.",
    "axes": "Logarithmic axes show all sizes; linear ones show what grows in proportion.",
    "api": "How the system calls are made: raw, through ctypes, or by Python's select module.",
}


def scaling(data: Result | pd.DataFrame | str | Path | None = None) -> "Sliders":
    """Make sliders over the time of one wait, by descriptors watched and descriptors ready.

    Parameters
    ----------
    data : Result, pandas.DataFrame, str or path, optional
        A sweep or a crossover map, a file with one, or the name of a reference result such
        as ``"scaling-sweep"``. The default is the reference crossover map; the button
        measures one on this machine.
    """
    experiment, source = _load(data)
    return Sliders(experiment, source, Curves(experiment))


class Sliders(Panel):
    """Made by :func:`scaling`; ``experiment`` is the data shown, ``curves`` its medians."""

    figsize = (7.2, 4.4)

    def __init__(self, experiment: Result | pd.DataFrame, source: str, curves: Curves) -> None:
        super().__init__("scaling")
        self.experiment, self._source, self.curves = experiment, source, curves
        self._thread: threading.Thread | None = None
        wide = ipy.Layout(width="330px")
        buttons = {"button_width": "70px"}
        n_fds = ipy.SelectionSlider(
            options=curves.sizes, value=curves.sizes[-1], description="watched", layout=wide
        )
        ready = ipy.SelectionSlider(options=curves.shares, description="ready", layout=wide)
        axes = ipy.ToggleButtons(options=("log", "linear"), description="axes", style=buttons)
        api = ipy.ToggleButtons(options=curves.apis, description="calls by", style=buttons)
        controls = {"n_fds": n_fds, "ready": ready, "axes": axes, "api": api}
        for name, control in controls.items():
            self.add_control(name, control, _HINTS[name]).observe(self.guarded(self.show), "value")
        hint = "measure a quick map on this machine"
        measure = self.add_button("measure", "Measure here", hint, self.measure)
        rows = [row(n_fds, ready), row(axes, api), row(measure, self.add_display("source"))]
        self.arrange(rows, [self.add_display("chart"), self.add_display("table")])
        self.show()

    def measure(self, **options: Any) -> None:
        """Measure a quick map on this machine in a thread; takes some seconds.

        `options` are for :func:`epolllab.experiments.scaling.crossover`.
        """
        if self.measuring:
            return
        self.buttons["measure"].disabled = True
        self.displays["source"].value = muted("measuring; this takes some seconds")
        self._thread = threading.Thread(
            target=self._measure, args=(options,), name="epolllab-measure", daemon=True
        )
        self._thread.start()

    @property
    def measuring(self) -> bool:
        """Whether a measurement is running."""
        return self._thread is not None and self._thread.is_alive()

    def _measure(self, options: dict[str, Any]) -> None:
        try:
            result = experiments.crossover(**{"quick": True, "progress": False, **options})
            with self.lock:
                if not self.closed:
                    self.use(result, "measured here just now")
        except Exception:
            self.show_error(traceback.format_exc())
        finally:
            self.buttons["measure"].disabled = False

    @checked(source=check_text)
    def use(self, data: Result | pd.DataFrame, source: str = "your data") -> None:
        """Show another experiment; the controls keep values that it also has."""
        curves = Curves(data)
        self.experiment, self._source, self.curves = data, source, curves
        choices: dict[str, list[Any]] = {
            "n_fds": curves.sizes,
            "ready": curves.shares,
            "api": curves.apis,
        }
        for name, options in choices.items():
            control = self.controls[name]
            before = control.value
            control.options = options
            control.value = before if before in options else options[-1]
        self.show()

    def show(self) -> None:
        """Draw the curves that the controls select."""
        self.displays["source"].value = muted(self._source)
        if self.data().empty:
            self.displays["chart"].value = muted("nothing was measured for this selection")
            self.displays["table"].value = ""
            return
        self.displays["chart"].value = svg.from_figure(self.picture())
        self.displays["table"].value = self._table()

    def _table(self) -> str:
        c, found = self.parameters(), self._at_size()
        if found.empty:
            return muted("this size was not measured with that share")
        rows = "".join(
            f"<tr><td>{escape(poller)}</td><td>{duration(us * 1e3)}</td>"
            f"<td>{'' if math.isnan(times) else f'{times:,.3g}'}</td></tr>"
            for poller, us, times in found.itertuples(index=False)
        )
        head = f"{c['n_fds']:,} watched, {c['ready']} ready, calls by {c['api']}: medians"
        return (
            f"{muted(head)}<table class='epl-table'><tr><th>poller</th><th>one wait</th>"
            f"<th>relative to level-triggered epoll</th></tr>{rows}</table>"
        )

    def _at_size(self) -> pd.DataFrame:
        c = self.parameters()
        return self.curves.at(c["n_fds"], c["ready"], c["api"])

    def text(self) -> str:
        """The table at the chosen size, for a place without widgets."""
        c = self.parameters()
        head = (
            f"scaling ({self._source}): {c['n_fds']:,} watched, {c['ready']} ready, by {c['api']}"
        )
        return f"{head}\n{self._at_size().round(2).to_string(index=False)}"

    @checked(ax=check_axes)
    def draw(self, ax: Axes) -> None:
        """Draw the chosen curves, with a dashed line at the chosen size."""
        c, circumstances = self.parameters(), self.circumstances()
        note = f"{c['ready']} ready, calls by {c['api']}."
        if circumstances:
            note = f"{note} {environment.summary(circumstances)}"
        charts.curves(self.data(), ax=ax, log=c["axes"] == "log", note=note)
        ax.axvline(c["n_fds"], color=style.current().muted, ls="--", lw=1)

    def data(self) -> pd.DataFrame:
        """The curves shown; see :meth:`Curves.frame`."""
        c = self.parameters()
        return self.curves.frame(c["ready"], c["api"])

    def circumstances(self) -> dict[str, Any]:
        """Circumstances of the experiment."""
        found = self.experiment
        return dict(found.circumstances) if isinstance(found, Result) else {}


def _load(data: Any) -> tuple[Result | pd.DataFrame, str]:
    """The experiment, and where it comes from in words."""
    if data is None or (isinstance(data, str) and not data.endswith(".parquet")):
        name = DEFAULT if data is None else data
        return Result.load(paths.reference(name)), f"reference result {name}; see data/reference"
    if isinstance(data, str | Path):
        return Result.load(data), Path(data).name
    if isinstance(data, Result | pd.DataFrame):
        return data, "your data"
    raise TypeError(
        f"data must be a Result, a DataFrame, a file or a name, not a {type(data).__name__}; "
        "experiments.scaling.sweep() returns a Result"
    )
