"""The frame of every panel: style sheet, error display, export button, ticking and closing.

Widget callbacks run outside cells, where an exception would be lost. So each one is wrapped
by :meth:`Panel.guarded`, which shows the exception in the panel, in red.
"""

import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from glob import escape as escape_glob
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as ipy
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from epolllab.notebook import cells
from epolllab.plots import style
from epolllab.plots.export import LONGEST_NAME, NAME_PATTERN, default_folder, export
from epolllab.widgets import svg
from epolllab.widgets.attributes import Attributes, field
from epolllab.widgets.presence import Presence
from epolllab.widgets.ticker import Ticker

__all__ = ["Panel", "descendants", "error_html", "integer", "muted", "row", "select"]

PACKAGE = Path(__file__).resolve().parent.parent
MAX_TYPED_NAME = LONGEST_NAME - 10  # a number may be added
_GONE = (
    "<div role='alert'>The kernel behind this display was restarted or has died. Nothing here is "
    "updated any more, and the controls have no effect. Run the cell again.</div>"
)
_LIVE = {
    "status": {"role": "status", "aria-live": "polite", "aria-atomic": "true"},
    "alert": {"role": "alert"},
}


def row(*children: Any) -> Any:
    """Lay controls out side by side, wrapping where the page is narrow."""
    layout = ipy.Layout(flex_flow="row wrap", align_items="center", grid_gap="2px 8px")
    return ipy.Box(children, layout=layout)


def select(label: str, options: Any, value: Any, width: int, label_width: int = 70) -> Any:
    """Make a drop-down list; widths are in pixels."""
    return ipy.Dropdown(
        options=options, value=value, description=label, layout=ipy.Layout(width=f"{width}px"),
        style={"description_width": f"{label_width}px"},
    )  # fmt: skip


def integer(
    label: str, value: int, least: int, most: int, width: int, label_width: int = 95
) -> Any:
    """Make an input for an integer from `least` to `most`; widths are in pixels."""
    return ipy.BoundedIntText(
        value=value, min=least, max=most, description=label,
        layout=ipy.Layout(width=f"{width}px"), style={"description_width": f"{label_width}px"},
    )  # fmt: skip


def muted(text: str) -> str:
    """Escape a text and show it in grey."""
    return f"<span class='epl-muted'>{escape(text)}</span>"


def error_html(text: str) -> str:
    """Show an error in red; a traceback goes below its last line."""
    lines = text.strip().splitlines()
    if len(lines) < 2:
        return f"<div class='epl-alarm'>{escape(text.strip())}</div>"
    return (
        f"<div class='epl-alarm'>{escape(lines[-1])}"
        f"<details open><summary>traceback</summary><pre>{escape(text.strip())}</pre>"
        "</details></div>"
    )


class Panel(ipy.VBox):  # type: ignore[misc]
    """A box with a style sheet, an error display, an export button and an end.

    A subclass adds its controls, buttons and displays by name and then calls
    :meth:`arrange`. The CSS class of each is ``epl-`` and its name, with hyphens. Where the
    kernel is gone, the page says so instead of it: ipywidgets then gives each view the class
    ``jupyter-widgets-disconnected``, for which the style sheet has rules.

    Parameters
    ----------
    name : str
        CSS class ``epl-NAME``, and beginning of the names of exported files.

    Attributes
    ----------
    controls : dict of str to widget
        The inputs; the values of those that are enabled are the panel's parameters.
    buttons : dict of str to ipywidgets.Button
        The buttons; ``buttons["export"].click()`` presses one.
    displays : dict of str to ipywidgets.HTML
        What is shown; ``displays["error"].value`` is HTML.
    export_name : ipywidgets.Text
        Name of the next export; a new one, with date and time, after each.
    exported : dict of str to pathlib.Path
        Files written by the last press of the export button.
    attributes : Attributes
        Sets names, tooltips and live regions in the page.
    ticker, presence : Ticker and Presence, or None
        The thread that redraws the panel, and what detects whether a page shows it.
    lock : threading.RLock
        Held while a callback runs.

    Notes
    -----
    A panel that ticks does so only while a page shows it, and stops within seconds of the
    page being closed. Without a front end it never ticks, and its text is shown instead.
    """

    figsize = (7.6, 3.6)
    """Of :meth:`picture`, in inches."""

    def __init__(self, name: str) -> None:
        cells.stop_previous()
        super().__init__()
        self.name = name
        self.closed = False
        self.lock = threading.RLock()
        self.controls: dict[str, Any] = {}
        self.buttons: dict[str, Any] = {}
        self.displays: dict[str, Any] = {}
        self.exported: dict[str, Path] = {}
        self.attributes = Attributes()
        self.ticker: Ticker | None = None
        self.presence: Presence | None = None
        for part in ("epl", f"epl-{name}"):
            self.add_class(part)

    def add_control(self, name: str, control: Any, hint: str, label: str = "") -> Any:
        """Register an input whose value is a parameter of the panel.

        `hint` is its tooltip, and `label` its name for a screen reader, by default the text
        beside it.
        """
        self.controls[name] = _with_class(control, name)
        self.describe(name, control, hint, label)
        return control

    def describe(self, name: str, control: Any, hint: str, label: str = "") -> None:
        """Set or change the tooltip and the name of an input."""
        control.tooltip = hint
        kind = type(control).__name__
        found = field(_selector(name), kind, label or control.description, hint)
        self._set_attributes(found)

    def _set_attributes(self, found: dict[str, dict[str, str]]) -> None:
        self.attributes.attributes = {**self.attributes.attributes, **found}

    def add_button(
        self,
        name: str,
        label: str,
        hint: str,
        action: Callable[[], object],
        *,
        style: str = "",
        shown: str = "error",
    ) -> Any:
        """Register a button; `action` is guarded, and the display `shown` shows its errors."""
        layout = ipy.Layout(width="auto", min_width="5em")
        button = ipy.Button(description=label, tooltip=hint, button_style=style, layout=layout)
        button.on_click(self.guarded(action, shown))
        self.buttons[name] = _with_class(button, name)
        return button

    def add_display(self, name: str, live: str = "") -> Any:
        """Register a place for HTML; a "status" or an "alert" is read out when it changes."""
        self.displays[name] = _with_class(ipy.HTML(), name)
        if live:
            self._set_attributes({_selector(name): _LIVE[live]})
        return self.displays[name]

    def arrange(self, controls: Sequence[Any], displays: Sequence[Any] = ()) -> None:
        """Put controls, errors, displays and the export row below each other."""
        sheet = ipy.HTML(f"<style>{svg.css()}</style>", layout=ipy.Layout(display="none"))
        gone = _with_class(ipy.HTML(_GONE), "gone")
        self.export_name = _with_class(
            ipy.Text(
                value=self._stamped(), description="name", layout=ipy.Layout(width="320px"),
                style={"description_width": "initial"},
            ),
            "export_name",
        )  # fmt: skip
        hint = "name of the files that Export writes: letters, digits, '-', '_' and '.'"
        self.describe("export_name", self.export_name, hint, "name of the export")
        hint = "write the chart, its data and the circumstances to files"
        export_row = row(
            self.export_name,
            self.add_button("export", "Export", hint, self._press_export, shown="export_result"),
            self.add_display("export_result", "status"),
        )
        error = self.add_display("error", "alert")
        self.children = (sheet, self.attributes, gone, *controls, error, *displays, export_row)
        cells.register(self)

    def draw(self, ax: Axes) -> None:
        """Draw what is shown as a chart."""
        raise NotImplementedError

    def data(self) -> pd.DataFrame:
        """The data of the chart."""
        raise NotImplementedError

    def text(self) -> str:
        """What is shown, for a place without widgets."""
        return f"<{self.name}>"

    def parameters(self) -> dict[str, Any]:
        """The values of the controls, without those that are disabled."""
        return {name: c.value for name, c in self.controls.items() if not c.disabled}

    def circumstances(self) -> dict[str, Any]:
        """Circumstances of the measurement that is shown."""
        return {}

    def picture(self) -> Figure:
        """What is shown, as a figure of its own; light, since svg.from_figure() expects that."""
        with style.use(dark=False):
            figure = Figure(figsize=self.figsize, layout="constrained")
            self.draw(figure.add_subplot())
        return figure

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, **how: Any) -> Any:
        bundle = super()._repr_mimebundle_(**how)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is None:
            return {"text/plain": self.text()}
        data["text/plain"] = self.text()
        return bundle

    def guarded(
        self, action: Callable[[], object], shown: str = "error"
    ) -> Callable[[object], None]:
        """Turn `action` into a callback: one runs at a time, and a display shows errors."""

        def callback(_: object = None) -> None:
            with self.lock:
                try:
                    self.displays[shown].value = ""
                    action()
                except Exception as error:
                    self.displays[shown].value = error_html(_message(error))

        return callback

    def show_error(self, text: str) -> None:
        """Show an error in red, its last line first."""
        self.displays["error"].value = error_html(text)

    @property
    def error(self) -> str:
        """The HTML of the error that is shown; "" without one."""
        return str(self.displays["error"].value)

    def _press_export(self) -> None:
        typed = self.export_name.value.strip()
        if len(typed) > MAX_TYPED_NAME or not re.fullmatch(NAME_PATTERN, typed):
            raise ValueError(
                f"The name may have up to {MAX_TYPED_NAME} letters, digits, '-', '_' and '.', and "
                "begins with a letter or a digit. Nothing was written."
            )
        folder = default_folder()
        try:
            self.exported = self._export_as_new(folder, typed)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(f"Nothing was written: {folder}: {reason}.") from error
        names = ", ".join(path.name for path in self.exported.values())
        self.displays["export_result"].value = muted(f"{names} in {folder}")
        self.export_name.value = self._stamped()

    def _export_as_new(self, folder: Path, name: str) -> dict[str, Path]:
        """Export under the name, with a number where files of that name exist."""
        number, free = 1, name
        while True:
            try:
                return self.export(free, folder=folder)
            except FileExistsError:
                if not any(folder.glob(f"{escape_glob(free)}.*")):
                    raise  # it is the folder that is a file
                number += 1
                free = f"{name}-{number}"

    def _stamped(self) -> str:
        return time.strftime(f"{self.name}-%Y%m%d-%H%M%S")

    def export(self, name: str | None = None, **options: Any) -> dict[str, Path]:
        """Write chart, data and circumstances, by default named after panel, date and time.

        `options` are those of :func:`epolllab.plots.export.export`.
        """
        what = {
            "data": self.data(),
            "parameters": self.parameters(),
            "circumstances": self.circumstances(),
        }
        return dict(export(self.picture(), name or self._stamped(), **{**what, **options}))

    def tick_while_shown(self, tick: Callable[[], object], watched: Any) -> None:
        """Call `tick` ten times a second while a page shows the panel.

        `watched` is a Timeline in the panel, which reports that.
        """

        def check_and_tick() -> None:
            presence.check()
            tick()

        self.ticker = Ticker(check_and_tick, self.show_error)
        self.presence = presence = Presence(watched, self._on_shown, self._on_hidden)

    def _on_shown(self) -> None:
        assert self.ticker is not None
        if not self.closed:
            self.ticker.start()
        if self.closed:  # by another thread in the meantime
            self.ticker.stop()

    def _on_hidden(self) -> None:
        assert self.ticker is not None
        self.ticker.stop()

    @property
    def ticking(self) -> bool:
        """Whether the panel's ticker thread is alive."""
        return self.ticker is not None and self.ticker.running

    def stop(self) -> None:
        """Close the panel; a cell that runs again calls this on its earlier panel."""
        self.close()

    def close(self) -> None:
        """Stop the panel's threads and remove it from the page; may be called repeatedly."""
        if self.closed:
            return
        self.closed = True
        if self.ticker is not None:
            self.ticker.stop()
        if self.presence is not None:
            self.presence.close()
        for part in descendants(self):
            part.close()
        super().close()


def descendants(box: Any) -> list[Any]:
    """All widgets in a box, at any depth."""
    found = []
    for child in box.children:
        found.append(child)
        if hasattr(child, "children"):
            found += descendants(child)
    return found


def _class(name: str) -> str:
    return f"epl-{name.replace('_', '-')}"


def _selector(name: str) -> str:
    """The CSS selector of a widget, without what it contains of the same class."""
    return f".{_class(name)}:not(.{_class(name)} *)"


def _with_class(widget: Any, name: str) -> Any:
    widget.add_class(_class(name))
    return widget


def _message(error: Exception) -> str:
    """The message alone for an argument that this package refused, else the traceback."""
    if isinstance(error, ValueError | TypeError | OSError) and _raised_here(error):
        return str(error)
    return "".join(traceback.format_exception(error))


def _raised_here(error: Exception) -> bool:
    """Whether a file of this package raised the error."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path(last).resolve().is_relative_to(PACKAGE)
