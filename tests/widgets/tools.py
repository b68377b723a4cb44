"""What several of these tests use: a patient wait, and a stand-in for the front end."""

from functools import partial
from typing import Any

from tests import wire

PATIENCE_S = 60.0
until = partial(wire.until, seconds=PATIENCE_S)


def set_views(widget: Any, number: int) -> None:
    """Set a widget's number of views, as a front end does."""
    widget.set_trait("_view_count", number)


class Front:
    """A front end: the panel's views come and go, and its page sends heartbeats."""

    def __init__(self, panel: Any, timeout: float = PATIENCE_S) -> None:
        self.panel = panel
        panel.presence.timeout = timeout

    @property
    def heartbeat(self) -> Any:
        """The hidden widget through which the page sends heartbeats now."""
        return self.panel.presence.heartbeat

    @property
    def views(self) -> int:
        """The panel's number of views."""
        return self.panel.trait_values()["_view_count"]

    def open(self) -> None:
        """Open a page, which counts on from the number it finds, and shows the heartbeat."""
        set_views(self.panel, self.views + 1)
        set_views(self.heartbeat, 1)

    def hide(self) -> None:
        """Report that the page's last view has gone."""
        set_views(self.heartbeat, 0)

    def beat(self) -> None:
        """Send a heartbeat."""
        self.heartbeat.value += 1
