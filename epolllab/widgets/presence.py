"""Detect whether a page shows a panel.

A front end counts the views of a widget, but a closed tab does not report its views as gone,
and a reloaded page continues from the number it finds. So each view of the panel contains a
view of a hidden Play widget, which sends a heartbeat each second while its page lives. The
Play widget is replaced whenever the panel's view count changes, so that its own view count
is the number of views that exist.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipy

from epolllab.notebook import cells

__all__ = ["HEARTBEAT_S", "TIMEOUT_S", "Presence"]

HEARTBEAT_S = 1.0

TIMEOUT_S = 5.0
"""Without a heartbeat for this long, no page shows the panel. A browser also sends one a
second from a hidden tab; after five minutes, one a minute."""

FIRST_TIMEOUT_S = 60.0
"""The same before a page's first heartbeat, which a slow page or kernel may delay."""

N_KEPT = 8
"""Replaced Play widgets that stay open."""


class Presence:
    """Call `on_shown` when a page shows the panel, and `on_hidden` when none does.

    Both are called from any thread, also several times in a row. The panel gets a hidden
    child, ``heartbeat``, with its first view. ``timeout`` is in seconds; ``confirmed`` says
    whether a heartbeat has ever arrived.
    """

    def __init__(
        self, panel: Any, on_shown: Callable[[], object], on_hidden: Callable[[], object]
    ) -> None:
        self.heartbeat: Any = None
        self.timeout = TIMEOUT_S
        self.confirmed = False
        self._panel, self._on_shown, self._on_hidden = panel, on_shown, on_hidden
        self._layout = ipy.Layout(display="none")
        self._style: Any = None  # shared by all heartbeats
        self._closed = False
        self._lock = threading.Lock()
        self._replaced: deque[Any] = deque()
        self._last_s = time.monotonic()
        cells.watch_cells()
        # 0 asks the front end to count views; see ipywidgets.Widget.
        panel._view_count = 0
        panel.observe(self._panel_views_changed, "_view_count")

    def check(self) -> None:
        """Call `on_hidden` after a timeout; to be called regularly.

        A kernel that runs a cell may not read messages until the cell ends, so that time
        does not count.
        """
        now = time.monotonic()
        timeout = self.timeout if self.confirmed else max(self.timeout, FIRST_TIMEOUT_S)
        if cells.is_cell_running():
            self._last_s = now
        elif now - self._last_s > timeout:
            self._on_hidden()

    def _panel_views_changed(self, change: Mapping[str, Any]) -> None:
        self._last_s = time.monotonic()
        if not self._replace():
            return
        fewer = change["new"] < change["old"]
        # The count may include views of closed tabs, so fewer may mean none: views that
        # remain will view the new heartbeat.
        hidden = fewer if self.confirmed else not change["new"]
        (self._on_hidden if hidden else self._on_shown)()

    def _replace(self) -> bool:
        """Give the panel a heartbeat that has no views yet; False once closed."""
        with self._lock:
            if self._closed:
                return False
            shared = {"style": self._style} if self._style is not None else {}
            heartbeat = ipy.Play(
                max=1000, interval=int(HEARTBEAT_S * 1000), repeat=True, layout=self._layout,
                _view_count=0, **shared,
            )  # fmt: skip
            self._style = heartbeat.style
            heartbeat.observe(self._views_changed, "_view_count")
            heartbeat.observe(self._beat, "value")
            earlier, self.heartbeat = self.heartbeat, heartbeat
            rest = (child for child in self._panel.children if child is not earlier)
            self._panel.children = (*rest, heartbeat)
            if earlier is not None:
                earlier.playing = False
                self._replaced.append(earlier)
            # Closed later: a message of a closed widget that arrives now would be an error.
            if len(self._replaced) > N_KEPT:
                self._replaced.popleft().close()
        return True

    def _views_changed(self, change: Mapping[str, Any]) -> None:
        heartbeat = change["owner"]
        if heartbeat is not self.heartbeat:
            return
        self._last_s = time.monotonic()
        if not change["new"]:
            self._on_hidden()
            return
        # A page starts to play when it sees this change, not when it finds it made.
        heartbeat.playing = False
        heartbeat.playing = True
        self._on_shown()

    def _beat(self, change: Mapping[str, Any]) -> None:
        if change["owner"] is self.heartbeat and self.heartbeat._view_count:
            self.confirmed = True
            self._last_s = time.monotonic()
            self._on_shown()

    def close(self) -> None:
        """Close the replaced widgets and create no more; the panel closes the current one."""
        with self._lock:
            self._closed = True
            for widget in (*self._replaced, self._style, self._layout):
                if widget is not None:
                    widget.close()
            self._replaced.clear()
