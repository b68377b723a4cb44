"""What several of these tests use: a patient wait, and a stand-in for the front end."""

from functools import partial
from typing import Any

from tests import wire

PATIENCE_S = 60.0
until = partial(wire.until, seconds=PATIENCE_S)


class Front:
    """A front end: the views that its pages have of a panel say how they are."""

    def __init__(self, panel: Any, patience: float = PATIENCE_S) -> None:
        self.panel = panel
        self.set_patience(patience)

    def set_patience(self, seconds: float) -> None:
        """Set after how many seconds a silent view has gone, whatever its state."""
        self.panel.presence.patience = dict.fromkeys(self.panel.presence.patience, seconds)

    def say(self, state: str, view: str = "one", **more: Any) -> None:
        """Send what the module in the page sends."""
        content = {"view": view, "state": state, **more}
        watched = getattr(self.panel, "timeline", self.panel)
        watched._handle_custom_msg(content, [])
