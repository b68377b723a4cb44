"""The dashboard's inputs: the options of the server and of its clients, with their tooltips."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import ipywidgets as ipy

from epolllab.kernel.facilities import NotPossible
from epolllab.kernel.uring import require_uring
from epolllab.server.options import LIFECYCLES, SERVER_POLLERS, ServerOptions
from epolllab.widgets.load import MAX_CONNECTIONS, MAX_PAYLOAD, MAX_RATE, LoadOptions
from epolllab.widgets.panel import Panel, integer, muted, select

__all__ = ["ClientInputs", "ServerInputs"]

_DRAINS = {"trigger's default": None, "until EAGAIN": True, "once": False}
_RECV_SIZES = (1, 16, 256, 4_096, 16_384, 65_536)
_HINTS = {
    "poller": "The system call that the loop waits in. epoll keeps its interest list in the "
    "kernel; poll and select are given every descriptor at every call; io_uring completes calls "
    "that were submitted in advance.",
    "trigger": "When epoll reports a descriptor. Level: at every wait while it is ready. Edge "
    "(EPOLLET): once, when something new has happened.",
    "lifecycle": "How a connection's interest mask is managed. eager: write at once, and ask for "
    "OUT only if that would block. howto: the mask says which step is next. once: register IN "
    "and OUT once, with edge. oneshot: re-arm after each event.",
    "protocol": "What the server sends back. http: HTTP/1.1 with keep-alive. hello: a fixed "
    "response, then a close. echo: the bytes it received.",
    "drain": "How often a ready connection is read. Until EAGAIN: recv until there is nothing "
    "left. Once: one recv per event. The default is until EAGAIN for edge, and once for level.",
    "recv_size": "Bytes that each recv asks for. Fewer than a request has means several calls.",
    "process": "Run the loop in a child process, so that it does not share the interpreter lock "
    "with this notebook.",
    "connections": "Connections that the clients keep open at the same time.",
    "loop": "What decides when a request is sent. Closed: the response before it, so that a slow "
    "server is asked less. Open: a schedule with a fixed rate, whether or not responses come.",
    "rate": "Requests per second of the open loop's schedule, over all connections.",
    "payload": "Bytes that each request carries, for http and echo.",
    "slow_peers": "Peers beside the clients that send a request a byte at a time, 50 ms apart.",
}
_NOT_OF_A_RING = {
    "trigger": "a ring reports what has been done, not what is ready",
    "lifecycle": "a connection has no interest mask that would change",
    "drain": "a recv is pending for each connection, and completes with whatever arrives",
}


@cache
def _ring_refusal() -> str:
    """Why no io_uring can be made here; "" if one can."""
    try:
        require_uring()
    except NotPossible as error:
        return str(error.strerror or error)
    return ""


class Inputs:
    """Inputs of a panel that take effect when a button is pressed.

    An input whose value differs from the one in use is marked, and ``note``, a display of the
    panel, says when it takes effect.

    Parameters
    ----------
    panel : Panel
        Registers the inputs.
    controls : mapping of str to widget
        The inputs; :data:`_HINTS` has their tooltips.
    note : str
        Name of the display.
    button : str
        The button's label.
    """

    def __init__(self, panel: Panel, controls: Mapping[str, Any], note: str, button: str) -> None:
        self.controls = dict(controls)
        self.note = panel.add_display(note, "status")
        self._panel, self._button = panel, button
        self._in_use: dict[str, Any] = {}
        for name, control in controls.items():
            panel.add_control(name, control, _HINTS[name])
            control.observe(self._mark, ["value", "disabled"])

    def values(self) -> dict[str, Any]:
        """The values, without those of disabled inputs."""
        return {name: c.value for name, c in self.controls.items() if not c.disabled}

    def use(self) -> None:
        """Note that the values are in use from now on."""
        self._in_use = {name: control.value for name, control in self.controls.items()}
        self._mark()

    def release(self) -> None:
        """Note that none is in use, since nothing runs."""
        if self._in_use:
            self._in_use = {}
            self._mark()

    def _mark(self, _: object = None) -> None:
        changed = [
            name for name, v in self.values().items() if self._in_use and v != self._in_use[name]
        ]
        for name, control in self.controls.items():
            (control.add_class if name in changed else control.remove_class)("epl-pending")
        names = ", ".join(self.controls[name].description for name in changed)
        self.note.value = muted(f"* used from the next {self._button}: {names}") if names else ""

    def _enable(self, name: str, why_not: str) -> None:
        """Disable an input, with the reason in its tooltip; "" enables it."""
        control = self.controls[name]
        control.disabled = bool(why_not)
        hint = f"{_HINTS[name]} {why_not}".strip()
        if control.tooltip != hint:
            self._panel.describe(name, control, hint)


class ServerInputs(Inputs):
    """The options of a server. io_uring is offered where this kernel permits it."""

    def __init__(self, panel: Panel) -> None:
        refusal = _ring_refusal()
        pollers = [name for name in SERVER_POLLERS if name != "io_uring" or not refusal]
        controls = {
            "poller": select("poller", pollers, "epoll", 186, 76),
            "trigger": select("trigger", ("level", "edge"), "level", 186, 76),
            "lifecycle": select("life cycle", LIFECYCLES, "eager", 186, 76),
            "protocol": select("protocol", ("http", "hello", "echo"), "http", 186, 76),
            "drain": select("reads", list(_DRAINS), "trigger's default", 250, 76),
            "recv_size": select("recv size", list(_RECV_SIZES), 16_384, 186, 76),
            "process": ipy.Checkbox(
                value=True, description="in its own process", indent=False,
                layout=ipy.Layout(width="190px"),
            ),
        }  # fmt: skip
        super().__init__(panel, controls, "server_note", "Start server")
        if refusal:
            hint = f"{_HINTS['poller']} io_uring is not offered: {refusal}"
            panel.describe("poller", controls["poller"], hint)
        controls["poller"].observe(self._poller_changed, "value")

    def _poller_changed(self, change: Any) -> None:
        is_ring = change["new"] == "io_uring"
        for name, reason in _NOT_OF_A_RING.items():
            self._enable(name, f"It has no meaning with io_uring: {reason}." if is_ring else "")

    def options(self) -> dict[str, Any]:
        """Arguments for start_server()."""
        values = self.values()
        if "drain" in values:
            values["drain"] = _DRAINS[values["drain"]]
        return values

    def show(self, options: ServerOptions) -> None:
        """Set the inputs to a server's options, where they offer these values."""
        for name, control in self.controls.items():
            value = getattr(options, name)
            if name == "drain":
                value = next(label for label, drain in _DRAINS.items() if drain is value)
            if name == "process" or value in control.options:
                control.value = value
        self.use()


class ClientInputs(Inputs):
    """The options of the clients."""

    def __init__(self, panel: Panel) -> None:
        connections = ipy.IntSlider(
            20, 1, 200, description="connections", layout=ipy.Layout(width="340px"),
            style={"description_width": "105px"},
        )  # fmt: skip
        controls = {
            "connections": connections,
            "loop": select("loop", ("closed", "open"), "closed", 186, 76),
            "rate": integer("requests/s", 500, 1, MAX_RATE, 200),
            "payload": integer("payload bytes", 0, 0, MAX_PAYLOAD, 200),
            "slow_peers": integer("slow peers", 0, 0, MAX_CONNECTIONS, 200),
        }
        super().__init__(panel, controls, "clients_note", "Start clients")
        controls["loop"].observe(self._loop_changed, "value")
        self._loop_changed()

    def _loop_changed(self, _: object = None) -> None:
        closed = self.controls["loop"].value == "closed"
        self._enable("rate", "A closed loop has no rate of its own." if closed else "")

    def options(self) -> LoadOptions:
        """The options, which are checked."""
        values = self.values()
        values.pop("loop")
        return LoadOptions(**values)
