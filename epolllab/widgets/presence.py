"""Detect whether a page shows a widget, by what its module in the page says.

Each view says when it is shown, hidden (its tab is in the background), scrolled out of view
or closed, and repeats that every five seconds, since a page that is killed says nothing. A
browser slows the timers of a hidden tab to one a minute, so a hidden view may be silent for
longer than a shown one.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from epolllab.notebook import cells
from epolllab.plots import style

__all__ = ["HIDDEN_S", "SHOWN_S", "STATES", "Presence"]

STATES = ("shown", "hidden", "out of view", "closed")

SHOWN_S = 20.0
"""A view that was in the foreground and is silent for this long has gone: four beats."""

HIDDEN_S = 150.0
"""The same for a view in a hidden tab: two beats of a minute, and a half."""

MOST_VIEWS = 64
"""Views remembered; a page that claims more is broken."""


class Presence:
    """Call `on_shown` while a page shows a widget, and `on_hidden` while none does.

    Both are called whenever a view says something, so several times in a row and from any
    thread; `on_hidden` also from :meth:`check`. ``patience`` is the number of seconds after
    which a silent view has gone, by state. The page's theme, which views say too, becomes
    that of the charts; see :func:`epolllab.plots.style.page_theme`.
    """

    def __init__(
        self, widget: Any, on_shown: Callable[[], object], on_hidden: Callable[[], object]
    ) -> None:
        self.patience = {"shown": SHOWN_S, "out of view": SHOWN_S, "hidden": HIDDEN_S}
        self._on_shown, self._on_hidden = on_shown, on_hidden
        self._lock = threading.Lock()
        self._views: dict[str, tuple[str, float]] = {}  # state and time of the last word
        self._checked = time.monotonic()
        self._closed = False
        cells.watch_cells()
        widget.on_msg(self.receive)

    @property
    def views(self) -> dict[str, str]:
        """The state of each view whose page lives, by the view's id."""
        with self._lock:
            return {view: state for view, (state, _) in self._views.items()}

    def receive(self, _: Any, content: Mapping[str, Any], __: Any = None) -> None:
        """Take a message of a view; messages of other kinds are ignored."""
        view, state = content.get("view"), content.get("state")
        if not isinstance(view, str) or state not in STATES:
            return
        with self._lock:
            self._views.pop(view, None)
            if state != "closed" and len(self._views) < MOST_VIEWS:
                self._views[view] = str(state), time.monotonic()
        if content.get("theme") in style.THEMES:
            style.page_theme(content["theme"])
        self.check(also_shown=True)

    def check(self, *, also_shown: bool = False) -> None:
        """Forget views that are silent for too long; to be called regularly.

        A kernel that runs a cell may not read messages until the cell ends, so that time
        does not count as silence.
        """
        now = time.monotonic()
        with self._lock:
            if self._closed:
                return
            busy_s = now - self._checked if cells.is_cell_running() else 0.0
            self._checked = now
            self._views = {
                view: (state, heard + busy_s)
                for view, (state, heard) in self._views.items()
                if now - heard - busy_s <= self.patience[state]
            }
            is_shown = any(state == "shown" for state, _ in self._views.values())
        if not is_shown:
            self._on_hidden()
        elif also_shown:
            self._on_shown()

    def close(self) -> None:
        """Call nothing any more."""
        with self._lock:
            self._closed = True
