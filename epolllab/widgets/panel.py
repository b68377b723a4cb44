"""What every panel of this package has: its look, its errors, its export, its end.

One job: be the frame around a widget. It knows no server and no socket.

Callbacks of widgets run in other threads than cells, and what they raise is seen by
nobody; so each is :meth:`Panel.guarded` and shows its traceback in the panel, in red.
"""

import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as ipy

from epolllab.widgets import svg
from epolllab.widgets.presence import Presence
from epolllab.widgets.ticker import Ticker

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Panel", "alarm", "button", "named", "row"]


def named(widget: Any, name: str) -> Any:
    """Give a control a class by which a style sheet or a browser's test finds it."""
    widget.add_class(f"epl-{name}")
    return widget


def button(label: str, name: str, hint: str, *, style: str = "") -> Any:
    """Make a button: a real one, in the order of the tabulator key."""
    layout = ipy.Layout(width="auto", min_width="5em")
    return named(
        ipy.Button(description=label, tooltip=hint, button_style=style, layout=layout), name
    )


def row(*children: Any) -> Any:
    """Put controls beside each other; they go to the next line where the page is narrow."""
    layout = ipy.Layout(flex_flow="row wrap", align_items="center", grid_gap="2px 8px")
    return ipy.Box(children, layout=layout)


def alarm(text: str) -> str:
    """What went wrong, in red; a traceback below its last line."""
    lines = text.strip().splitlines()
    if len(lines) < 2:
        return f"<div class='epl-alarm'>{escape(text.strip())}</div>"
    return (
        f"<div class='epl-alarm'>{escape(lines[-1])}"
        f"<details open><summary>traceback</summary><pre>{escape(text.strip())}</pre>"
        "</details></div>"
    )


class Panel(ipy.VBox):  # type: ignore[misc]
    """A box with a style sheet, a place for errors, an export button and an end.

    Parameters
    ----------
    name : str
        Of the panel: the class ``epl-NAME``, and the exported files' name.
    controls, displays : sequence of widgets
        What is pressed, and what is shown; an error stands between them.

    Attributes
    ----------
    exported : dict of str to pathlib.Path
        What the last press of the export button wrote.

    Notes
    -----
    A panel that ticks does so only while a page shows it, and ends within some seconds of
    the page's being closed. Without a front end nothing ticks, and the panel is text.
    """

    def __init__(self, name: str, controls: Sequence[Any], displays: Sequence[Any] = ()) -> None:
        self._name = name
        self._closed = False
        self._acting = threading.RLock()
        self.exported: dict[str, Any] = {}
        self._error = named(ipy.HTML(), "error")
        self._export_name = named(
            ipy.Text(value=name, description="name", layout=ipy.Layout(width="230px")),
            "export-name",
        )
        self._export_button = button("Export", "export", "write picture, data and circumstances")
        self._export_button.on_click(self.guarded(self._press_export))
        self._export_result = named(ipy.HTML(), "export-result")
        sheet = ipy.HTML(f"<style>{svg.css()}</style>", layout=ipy.Layout(display="none"))
        export = row(self._export_name, self._export_button, self._export_result)
        super().__init__([sheet, *controls, self._error, *displays, export])
        for part in ("epl", f"epl-{name}"):
            self.add_class(part)
        self._ticker: Ticker | None = None
        self._presence: Presence | None = None

    # ---- what a panel says of itself -----------------------------------------------

    def picture(self) -> "Figure":
        """Draw what is shown, as a finished chart."""
        raise NotImplementedError

    def data(self) -> "pd.DataFrame":
        """The numbers behind the picture."""
        raise NotImplementedError

    def parameters(self) -> Mapping[str, Any]:
        """What the panel is set to."""
        return {}

    def text(self) -> str:
        """What is shown, for a place without widgets."""
        return f"<{self._name}>"

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, **how: Any) -> Any:
        bundle = super()._repr_mimebundle_(**how)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is None:
            return {"text/plain": self.text()}
        data["text/plain"] = self.text()
        return bundle

    # ---- errors --------------------------------------------------------------------

    def guarded(self, action: Callable[[], object]) -> Callable[[object], None]:
        """Make a callback of `action`: one at a time, and what it raises is shown."""

        def callback(_: object = None) -> None:
            with self._acting:
                try:
                    self._error.value = ""
                    action()
                except Exception as error:
                    self.show_error(_told(error))

        return callback

    def show_error(self, text: str) -> None:
        """Show in red what went wrong; the last line first."""
        self._error.value = alarm(text)

    @property
    def error(self) -> str:
        """The HTML of the error that is shown; "" if there is none."""
        return str(self._error.value)

    # ---- export --------------------------------------------------------------------

    def _press_export(self) -> None:
        self._export_result.value = ""
        self.exported = self.export(self._export_name.value.strip())
        names = ", ".join(path.name for path in self.exported.values())
        folder = next(iter(self.exported.values())).parent
        self._export_result.value = (
            f"<span class='epl-muted'>{escape(names)} in {escape(f'{folder.parent.name}/')}"
            f"{escape(folder.name)}</span>"
        )

    def export(self, name: str | None = None, **how: Any) -> dict[str, Any]:
        """Write picture, data and circumstances; see :func:`epolllab.plots.export.export`.

        Parameters
        ----------
        name : str, optional
            The files' name; the panel's and the time of day by default.
        **how
            Passed on.
        """
        from epolllab.plots import export

        stamp = time.strftime("%H%M%S")
        how = {"data": self.data(), "parameters": self.parameters(), **how}
        return dict(export(self.picture(), name or f"{self._name}-{stamp}", **how))

    # ---- its time, and its end -----------------------------------------------------

    def _tick_while_shown(self, tick: Callable[[], object]) -> None:
        """Call `tick` ten times a second while a page shows the panel."""

        def look_and_tick() -> None:
            presence.check()
            tick()

        self._ticker = Ticker(look_and_tick, self.show_error)
        self._presence = presence = Presence(self, self._came, self._went)

    def _came(self) -> None:
        """A page shows the panel."""
        assert self._ticker is not None
        if not self._closed:
            self._ticker.start()
        if self._closed:  # by another thread, meanwhile
            self._ticker.stop()

    def _went(self) -> None:
        """No page shows the panel any longer."""
        assert self._ticker is not None
        self._ticker.stop()

    @property
    def ticking(self) -> bool:
        """Whether a thread of this panel is alive."""
        return self._ticker is not None and self._ticker.running

    def stop(self) -> None:
        """The same as :meth:`close`: what a cell run twice does to its earlier panel."""
        self.close()

    def close(self) -> None:
        """End the panel's threads, and take it from the page; any number of times."""
        if self._closed:
            return
        self._closed = True
        if self._ticker is not None:
            self._ticker.stop()
        if self._presence is not None:
            self._presence.close()
        for part in _inside(self):
            part.close()
        super().close()


def _told(error: Exception) -> str:
    """A wish that cannot be in one line; anything else with its traceback."""
    if isinstance(error, ValueError | TypeError | OSError) and not _is_ours(error):
        return str(error)
    return "".join(traceback.format_exception(error))


def _is_ours(error: Exception) -> bool:
    """Whether the error was raised elsewhere than in this package: then it is a fault."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return "epolllab" not in last


def _inside(box: Any) -> list[Any]:
    """All widgets in a box, at any depth."""
    found = []
    for child in box.children:
        found.append(child)
        if hasattr(child, "children"):
            found += _inside(child)
    return found
