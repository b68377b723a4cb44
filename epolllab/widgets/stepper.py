"""The stepper: level and edge triggering on the same socket, one button press at a time."""

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as ipy
import pandas as pd
from matplotlib.axes import Axes

from epolllab.checks import checked
from epolllab.plots import widgets as charts
from epolllab.plots.canvas import check_axes
from epolllab.widgets import svg
from epolllab.widgets.panel import Panel, integer, muted, row, select
from epolllab.widgets.steps import INTERESTS, MAX_WRITE, TRIGGERS, Row, Steps

__all__ = ["Stepper", "stepper"]

ROWS_SHOWN = 12
_OPENING = (
    "One socket, two epolls: <b class='t-level'>level</b>-triggered and "
    "<b class='t-edge'>edge</b>-triggered. Press a button and read what the kernel reports. "
    "By keyboard: Tab moves from button to button, Space presses."
)
_BUTTONS = {
    "peer_writes": ("writes bytes:", "the peer sends this many bytes, and they arrive"),
    "peer_half_closes": ("half-closes", "shutdown(SHUT_WR): the peer's FIN arrives"),
    "peer_resets": ("resets", "close with SO_LINGER 0: the peer's RST arrives"),
    "wait": ("wait", "epoll_wait with a timeout of 0, on both"),
    "recv": ("recv at most:", "recv at most this many bytes"),
    "drain": ("drain", "recv until it would block, ends or fails"),
    "modify": ("modify to:", "epoll_ctl(EPOLL_CTL_MOD) on both"),
    "register_again": ("register again", "epoll_ctl(EPOLL_CTL_DEL), then EPOLL_CTL_ADD, on both"),
    "start_over": ("start over", "a new connection and an empty history"),
}
"""Label and hint of each step's button."""


def stepper() -> "Stepper":
    """Make a widget that compares level and edge triggering on a socket, a step at a time.

    Use it to see what each of them reports, and when. After each step it shows side by side
    what each epoll returned, the bytes in the kernel's buffer, the kernel's interest lists,
    whether each epoll is ready, and why.
    The widget's model also works without a page: ``stepper().steps.peer_writes(100)``.
    """
    return Stepper()


class Stepper(Panel):
    """Made by :func:`stepper`; ``steps`` is the model."""

    def __init__(self) -> None:
        super().__init__("stepper")
        self.steps = steps = Steps()
        n_write = self._number("write_bytes", 2000, MAX_WRITE, "bytes that the peer writes")
        n_recv = self._number("recv_bytes", 500, 1 << 20, "bytes that recv asks for")
        interest = select("", list(INTERESTS), steps.interest, 140, 0)
        self.add_control("interest", interest, "the interest mask that modify sets", "interest")
        controls = (
            row(
                _group("peer"),
                self._button("peer_writes", lambda: steps.peer_writes(n_write.value)),
                n_write,
                self._button("peer_half_closes", steps.peer_half_closes),
                self._button("peer_resets", steps.peer_resets),
            ),
            row(
                _group("server"),
                self._button("wait", steps.wait, style="primary"),
                self._button("recv", lambda: steps.recv(n_recv.value)),
                n_recv,
                self._button("drain", steps.drain),
            ),
            row(
                _group("epoll_ctl"),
                self._button("modify", lambda: steps.modify(interest.value)),
                interest,
                self._button("register_again", steps.register_again),
                self._button("start_over", steps.start_over),
            ),
        )
        displays = [self.add_display("why", "status")]
        displays += [self.add_display(name) for name in ("sides", "chart", "history")]
        self.arrange([ipy.HTML(_OPENING), ipy.VBox(controls)], displays)
        self.show()

    def _number(self, name: str, value: int, most: int, label: str) -> Any:
        hint = f"{label}, from 1 to {most:,}"
        return self.add_control(name, integer("", value, 1, most, 90, 0), hint, label)

    def _button(self, name: str, step: Callable[[], Row], style: str = "") -> Any:
        def press() -> None:
            try:
                step()
            finally:
                self.show()

        return self.add_button(name, *_BUTTONS[name], press, style=style)

    def show(self) -> None:
        """Show the current state of the model; call it after steps made without the buttons."""
        last, shown = self.steps.last, self.displays
        why = f"<b>{escape(_step(last))}</b> {escape(last.why)}"
        shown["why"].value = f"<div class='epl-why'>{why}</div>"
        shown["sides"].value = (
            f"<div class='epl-sides'>{''.join(_side(last, trigger) for trigger in TRIGGERS)}</div>"
            f"<div class='epl-muted' style='padding:4px 0'>In the kernel's receive buffer: "
            f"<b>{last.readable:,}</b> bytes. poll(2) reports for the socket: "
            f"<code>{escape(last.socket)}</code></div>"
        )
        shown["chart"].value = svg.from_figure(self.picture())
        shown["history"].value = _table(self.steps.rows[-ROWS_SHOWN:])
        self.controls["interest"].value = self.steps.interest
        for name, possible in self.steps.can.items():
            self.buttons[name].disabled = not possible

    def text(self) -> str:
        """The last steps, for a place without widgets."""
        lines = [
            f"{one.step:>3}  {_step(one):<40} "
            + ("" if one.level is None else f"level {_mask(one.level)}, edge {_mask(one.edge)}")
            for one in self.steps.rows[-ROWS_SHOWN:]
        ]
        return "\n".join(["stepper: level and edge on one socket", *lines, self.steps.last.why])

    @checked(ax=check_axes)
    def draw(self, ax: Axes) -> None:
        """Draw the history."""
        charts.history(self.steps.history(), ax=ax)

    def data(self) -> pd.DataFrame:
        """The history; see :meth:`Steps.history`."""
        return self.steps.history()

    def close(self) -> None:
        """Close the socket, its peer and the epolls, and remove the widget from the page."""
        self.steps.close()
        super().close()


def _group(label: str) -> Any:
    return ipy.HTML(muted(label), layout=ipy.Layout(width="64px"))


def _step(one: Row) -> str:
    return f"{one.action}{f' → {one.result}' if one.result not in ('', '0') else ''}"


def _mask(returned: str | None) -> str:
    return "" if returned is None else returned or "nothing"


def _side(one: Row, trigger: str) -> str:
    returned: str | None = getattr(one, trigger)
    words = "no wait" if returned is None else _mask(returned)
    ready = "yes" if getattr(one, f"{trigger}_ready") else "no"
    interest = escape(getattr(one, f"{trigger}_interest"))
    look = "" if returned else " class='epl-muted'"
    return (
        f"<div class='epl-side' style='border-left-color:var(--epl-{trigger})'>"
        f"<b class='t-{trigger}'>{trigger}</b>"
        f"<div>{muted('returned')} <big{look}>{escape(words)}</big></div>"
        f"<div>{muted('interest list:')} <code>{interest}</code></div>"
        f"<div>{muted('ready:')} {ready}</div></div>"
    )


def _table(rows: list[Row]) -> str:
    names = ("step", "action", "level returned", "edge returned", "bytes", "ready")
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        f"<tr><td>{one.step}</td><td>{escape(_step(one))}</td>"
        f"<td>{_cell(one.level)}</td><td>{_cell(one.edge)}</td><td>{one.readable:,}</td>"
        f"<td>{_ready(one)}</td></tr>"
        for one in reversed(rows)
    )
    return f"<table class='epl-table'><tr>{head}</tr>{body}</table>"


def _cell(returned: str | None) -> str:
    return f"<code>{escape(returned)}</code>" if returned else muted(_mask(returned))


def _ready(one: Row) -> str:
    ready = [trigger for trigger in TRIGGERS if getattr(one, f"{trigger}_ready")]
    return " ".join(f"<span class='t-{trigger}'>{trigger}</span>" for trigger in ready)
