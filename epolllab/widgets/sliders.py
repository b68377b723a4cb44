"""Sliders over a scaling experiment: how many, how many ready, which axes, which calls.

One job: show the curves of :mod:`epolllab.widgets.curves` as the controls say, and
measure anew where that is wanted.
"""

import math
import threading
import traceback
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as ipy
import pandas as pd

from epolllab import experiments
from epolllab.analysis.result import Result
from epolllab.notebook import cells, paths
from epolllab.recording import environment
from epolllab.widgets import svg
from epolllab.widgets.curves import Axis, Curves
from epolllab.widgets.panel import Panel, button, named, row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Sliders", "scaling"]

DEFAULT = "scaling-crossover"
_DASHES = {"raw": "", "python": "7 3"}
_ARM = {
    "epoll-level": "level", "epoll-edge": "edge", "epoll-oneshot": "oneshot",
    "poll": "poll", "select": "select",
}  # fmt: skip


def scaling(data: Result | pd.DataFrame | str | Path | None = None) -> "Sliders":
    """Sliders over the time of one wait, by descriptors watched and descriptors ready.

    Parameters
    ----------
    data : Result, pandas.DataFrame, str or path, optional
        A sweep or a crossover map, a file of one, or the name of one of our own, such as
        ``"scaling-sweep"``. By default our crossover map; the button measures yours.

    Returns
    -------
    Sliders
        A widget.

    Raises
    ------
    ValueError
        It is no experiment of that kind.
    FileNotFoundError
        There is no such file, or none of ours of that name.
    """
    loaded, what = _loaded(data)
    return Sliders(loaded, what, Curves(loaded))


class Sliders(Panel):
    """Made by :func:`scaling`.

    Attributes
    ----------
    curves : Curves
        The model.
    """

    def __init__(self, data: Result | pd.DataFrame, what: str, curves: Curves) -> None:
        cells.stop_earlier_execution()
        self._data, self._what, self.curves = data, what, curves
        self._measuring: threading.Thread | None = None
        c: dict[str, Any] = {
            "n_fds": ipy.SelectionSlider(options=self.curves.sizes, description="watched",
                                         layout=ipy.Layout(width="330px")),
            "ready": ipy.SelectionSlider(options=self.curves.shares, description="ready",
                                         layout=ipy.Layout(width="330px")),
            "axes": ipy.ToggleButtons(options=("log", "linear"), description="axes",
                                      style={"button_width": "70px"}),
            "api": ipy.ToggleButtons(options=self.curves.apis, description="calls by",
                                     style={"button_width": "70px"}),
        }  # fmt: skip
        self.controls = {name: named(made, name.replace("_", "-")) for name, made in c.items()}
        c["n_fds"].value = self.curves.sizes[-1]
        self._measure_button = button("Measure here", "measure", "a quick map on this machine")
        self._source = named(ipy.HTML(), "source")
        self._chart, self._table = named(ipy.HTML(), "chart"), named(ipy.HTML(), "table")
        super().__init__(
            "scaling",
            [
                row(c["n_fds"], c["ready"]),
                row(c["axes"], c["api"]),
                row(self._measure_button, self._source),
            ],
            [self._chart, self._table],
        )
        for control in self.controls.values():
            control.observe(self.guarded(self.show), "value")
        self._measure_button.on_click(self.guarded(self.measure))
        self.show()
        cells.remember(self)

    # ---- measuring ----------------------------------------------------------------

    def measure(self, **how: Any) -> None:
        """Measure a quick map on this machine, in a thread; some seconds.

        Parameters
        ----------
        **how
            For :func:`epolllab.experiments.scaling.crossover`, beside ``quick=True``.
        """
        if self._measuring is not None and self._measuring.is_alive():
            return
        self._measure_button.disabled = True
        self._source.value = "<span class='epl-muted'>measuring; some seconds</span>"
        self._measuring = threading.Thread(
            target=self._measure, args=(how,), name="epolllab-measure", daemon=True
        )
        self._measuring.start()

    def _measure(self, how: dict[str, Any]) -> None:
        try:
            result = experiments.crossover(**{"quick": True, "progress": False, **how})
            with self._acting:
                if not self._closed:
                    self.use(result, "measured here, just now")
        except Exception:
            self.show_error(traceback.format_exc())
        finally:
            self._measure_button.disabled = False

    def use(self, data: Result | pd.DataFrame, what: str = "yours") -> None:
        """Show another experiment; the controls keep what they can."""
        curves = Curves(data)
        self._data, self._what, self.curves = data, what, curves
        for name, options in (
            ("n_fds", curves.sizes),
            ("ready", curves.shares),
            ("api", curves.apis),
        ):
            control = self.controls[name]
            before = control.value
            control.options = options
            control.value = before if before in options else options[-1]
        self.show()

    # ---- what is shown ------------------------------------------------------------

    def parameters(self) -> dict[str, Any]:
        """What the controls are set to."""
        return {name: control.value for name, control in self.controls.items()}

    def show(self) -> None:
        """Draw what the controls ask for."""
        c = self.parameters()
        drawn = self.curves.chosen(c["ready"], c["api"])
        self._source.value = f"<span class='epl-muted'>{escape(self._what)}</span>"
        if not drawn:
            self._chart.value = "<span class='epl-muted'>nothing was measured for this</span>"
            self._table.value = ""
            return
        log = c["axes"] == "log"
        x = Axis(self.curves.sizes, log=log)
        y = Axis([ns for curve in drawn for ns in curve.wait_ns], log=log)
        self._chart.value = svg.lines(
            [
                (_ARM.get(one.poller, "main"), _DASHES.get(one.api, ""),
                 [(x.place(n), y.place(ns)) for n, ns in zip(one.n_fds, one.wait_ns, strict=True)])
                for one in drawn
            ],
            ticks=([(x.place(v), f"{v:,.0f}") for v in x.ticks()],
                   [(y.place(v), _time(v)) for v in y.ticks()]),
            labels=("descriptors watched", "time of one wait"),
            marker=x.place(c["n_fds"]),
        )  # fmt: skip
        self._table.value = self._at(c)

    def _at(self, c: dict[str, Any]) -> str:
        found = self.curves.at(c["n_fds"], c["ready"], c["api"])
        if found.empty:
            return "<span class='epl-muted'>this size was not measured with that share</span>"
        rows = "".join(
            f"<tr><td><b class='t-{_ARM.get(poller, 'main')}'>{poller}</b></td>"
            f"<td>{_time(us * 1e3)}</td><td>{_ratio(times)}</td></tr>"
            for poller, us, times in found.itertuples(index=False)
        )
        return (
            f"<div class='epl-muted'>{c['n_fds']:,} watched, {escape(c['ready'])} ready, calls by "
            f"{c['api']}: medians</div><table class='epl-table'><tr><th>poller</th>"
            f"<th>one wait</th><th>times level-triggered epoll's</th></tr>{rows}</table>"
        )

    def text(self) -> str:
        """The table at the chosen size, for a place without widgets."""
        c = self.parameters()
        found = self.curves.at(c["n_fds"], c["ready"], c["api"])
        head = f"scaling ({self._what}): {c['n_fds']:,} watched, {c['ready']} ready, by {c['api']}"
        return f"{head}\n{found.round(2).to_string(index=False)}"

    def picture(self) -> "Figure":
        """The chosen curves as a chart."""
        from matplotlib.figure import Figure

        from epolllab.widgets import pictures

        c = self.parameters()
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        pictures.curves(
            self.data(), ax=figure.add_subplot(), log=c["axes"] == "log",
            note=f"{c['ready']} ready, calls by {c['api']}. {self._words()}",
        )  # fmt: skip
        return figure

    def _words(self) -> str:
        return environment.summary(self.circumstances()) if self.circumstances() else ""

    def circumstances(self) -> dict[str, Any]:
        """Of the experiment."""
        return dict(self._data.circumstances) if isinstance(self._data, Result) else {}

    def data(self) -> pd.DataFrame:
        """The curves that are shown: ``poller``, ``n_fds``, ``wait_ns``."""
        c = self.parameters()
        return pd.DataFrame(
            [
                (curve.poller, n, ns)
                for curve in self.curves.chosen(c["ready"], c["api"])
                for n, ns in zip(curve.n_fds, curve.wait_ns, strict=True)
            ],
            columns=["poller", "n_fds", "wait_ns"],
        )

    def export(self, name: str | None = None, **how: Any) -> dict[str, Any]:
        """Write picture, data and circumstances; see :func:`epolllab.plots.export.export`."""
        return super().export(name, **{"circumstances": self.circumstances(), **how})


def _loaded(data: Any) -> tuple[Any, str]:
    if data is None or (isinstance(data, str) and not data.endswith(".parquet")):
        name = DEFAULT if data is None else data
        return Result.load(paths.reference(name)), f"our own run, {name}; see data/reference"
    if isinstance(data, str | Path):
        return Result.load(data), Path(data).name
    if isinstance(data, Result | pd.DataFrame):
        return data, "yours"
    raise TypeError(
        f"a Result, a frame, a file or a name is shown, not a {type(data).__name__}; "
        "experiments.scaling.sweep() returns a Result"
    )


def _ratio(times: float) -> str:
    return "" if math.isnan(times) else f"{times:,.2f}" if times < 10 else f"{times:,.0f}"


def _time(ns: float) -> str:
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns"
