"""Whether a page shows a panel: what a front end says, and what it cannot say.

One job: tell a panel when a page has come and when none is left. A front end counts the
views of a widget as they come and go; but a tab that is closed says nothing, and a page
that is loaded again counts on from the number that was left. So each view of the panel
holds a view of a hidden Play widget, which sends a beat a second for as long as its page
lives, and which is a new one whenever the panel's count changes: its own count is then
that of the views there are.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipy

from epolllab.notebook import cells

__all__ = ["BEAT_S", "SILENCE_S", "Presence"]

BEAT_S = 1.0

SILENCE_S = 5.0
"""Without a beat for so long, no page is left. A browser sends one a second from a tab
that is hidden, too; after five minutes of that, one a minute."""

FIRST_SILENCE_S = 60.0
"""The same before a page's first beat, which a slow page or kernel may keep waiting."""

_KEPT = 8


class Presence:
    """Call `came` when a page shows the panel, and `went` when none does any longer.

    Parameters
    ----------
    panel : ipywidgets.Box
        Gets one more child, which is hidden.
    came, went : callable
        Called from any thread, also several times in a row.
    silence : float
        Seconds without a beat after which no page is left.

    Attributes
    ----------
    beat : ipywidgets.Play or None
        What the pages send beats of; None before there was one.
    """

    def __init__(
        self,
        panel: Any,
        came: Callable[[], object],
        went: Callable[[], object],
        silence: float = SILENCE_S,
    ) -> None:
        self.beat: Any = None
        self.silence = silence
        self._panel, self._came, self._went = panel, came, went
        self._hidden = ipy.Layout(display="none")
        self._style: Any = None  # of the first beat, for all
        self._closed = False
        self._renewing = threading.Lock()
        self._earlier: deque[Any] = deque()
        self._heard_s = time.monotonic()
        self._beaten = False
        cells.watch()
        # 0 asks the front end to count its views; see ipywidgets.Widget.
        panel._view_count = 0
        panel.observe(self._counted, "_view_count")

    def check(self) -> None:
        """Call `went` if there has been silence; to be called now and then.

        A kernel that runs a cell may leave its page's messages unread until the cell has
        ended, so that time is none of silence.
        """
        now = time.monotonic()
        allowed = self.silence if self._beaten else max(self.silence, FIRST_SILENCE_S)
        if cells.is_busy():
            self._heard_s = now
        elif now - self._heard_s > allowed:
            self._went()

    def _counted(self, change: Mapping[str, Any]) -> None:
        self._heard_s = time.monotonic()
        if not self._renew():
            return
        fewer = change["new"] < change["old"]
        # With fewer there may be none, whatever the number: those left view the new beat.
        gone = fewer if self._beaten else not change["new"]
        (self._went if gone else self._came)()

    def _renew(self) -> bool:
        """Give every view of the panel a view of a beat that has none yet, unless closed."""
        with self._renewing:
            if self._closed:
                return False
            shared = {"style": self._style} if self._style is not None else {}
            beat = ipy.Play(
                max=1000, interval=int(BEAT_S * 1000), repeat=True, layout=self._hidden,
                _view_count=0, **shared,
            )  # fmt: skip
            self._style = beat.style
            beat.observe(self._viewed, "_view_count")
            beat.observe(self._heard, "value")
            earlier, self.beat = self.beat, beat
            rest = (child for child in self._panel.children if child is not earlier)
            self._panel.children = (*rest, beat)
            if earlier is not None:
                earlier.playing = False
                self._earlier.append(earlier)
            # Not at once: a page may just now be sending of it, and would be told off.
            if len(self._earlier) > _KEPT:
                self._earlier.popleft().close()
        return True

    def _viewed(self, change: Mapping[str, Any]) -> None:
        beat = change["owner"]
        if beat is not self.beat:
            return
        self._heard_s = time.monotonic()
        if not change["new"]:
            self._went()
            return
        # A page begins to play when it sees this change, not when it finds it changed.
        beat.playing = False
        beat.playing = True
        self._came()

    def _heard(self, change: Mapping[str, Any]) -> None:
        if change["owner"] is self.beat and self.beat._view_count:
            self._beaten = True
            self._heard_s = time.monotonic()
            self._came()

    def close(self) -> None:
        """Close what was kept, and make no more; the beat itself is the panel's child."""
        with self._renewing:
            self._closed = True
            for kept in (*self._earlier, self._style, self._hidden):
                if kept is not None:
                    kept.close()
            self._earlier.clear()
