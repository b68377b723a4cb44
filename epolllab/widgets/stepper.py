"""The stepper: level and edge on the same socket, a press of a button at a time.

One job: show the model of :mod:`epolllab.widgets.steps`, and pass presses on to it.
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as ipy

from epolllab.notebook import cells
from epolllab.widgets import svg
from epolllab.widgets.panel import Panel, button, named, row
from epolllab.widgets.steps import INTERESTS, MOST_BYTES, Row, Steps

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Stepper", "stepper"]

ROWS_SHOWN = 12
_OPENING = (
    "One socket, two epolls: <b class='t-level'>level</b> and <b class='t-edge'>edge</b>. Press, "
    "and read what the kernel says. By keyboard: the tabulator key goes from button to button, "
    "the space bar presses."
)


def stepper() -> "Stepper":
    """Level and edge on the same socket, a step at a time.

    Use it to see for yourself what each of them reports, and when. After each press it
    shows side by side what each epoll returned, the bytes in the kernel's buffer, the
    kernel's own interest list, whether each epoll is ready, and why.

    Returns
    -------
    Stepper
        A widget. ``steps`` is its model, which can be used without a page as well:
        ``stepper().steps.peer_writes(100)``.
    """
    return Stepper()


class Stepper(Panel):
    """Made by :func:`stepper`.

    Attributes
    ----------
    steps : Steps
        The model.
    """

    def __init__(self) -> None:
        cells.stop_earlier_execution()
        self.steps = Steps()
        self._n_write = _number(2000, 1, MOST_BYTES, "write-bytes")
        self._n_recv = _number(500, 1, 1 << 20, "recv-bytes")
        self._interest = named(
            ipy.Dropdown(options=list(INTERESTS), value=self.steps.interest,
                         layout=ipy.Layout(width="130px")), "interest",
        )  # fmt: skip
        self.buttons: dict[str, Any] = {}
        steps = self.steps
        controls = ipy.VBox(
            [
                row(
                    _group("peer"),
                    self._button("peer_writes", "writes bytes:",
                                 lambda: steps.peer_writes(self._n_write.value)),
                    self._n_write,
                    self._button("peer_half_closes", "half-closes", steps.peer_half_closes),
                    self._button("peer_resets", "resets", steps.peer_resets),
                ),
                row(
                    _group("server"),
                    self._button("wait", "wait", steps.wait, style="primary"),
                    self._button("recv", "recv at most:",
                                 lambda: steps.recv(self._n_recv.value)),
                    self._n_recv,
                    self._button("drain", "drain", steps.drain),
                ),
                row(
                    _group("epoll_ctl"),
                    self._button("modify", "modify to:",
                                 lambda: steps.modify(self._interest.value)),
                    self._interest,
                    self._button("register_again", "register again", steps.register_again),
                    self._button("start_over", "start over", steps.start_over),
                ),
            ]
        )  # fmt: skip
        self._why = named(ipy.HTML(), "why")
        self._sides = named(ipy.HTML(), "sides")
        self._strip = named(ipy.HTML(), "strip")
        self._table = named(ipy.HTML(), "history")
        super().__init__(
            "stepper",
            [ipy.HTML(_OPENING), controls],
            [self._why, self._sides, self._strip, self._table],
        )
        for name, press in self._presses.items():
            self.buttons[name].on_click(self.guarded(self._shown_after(press)))
        self.show()
        cells.remember(self)

    def _button(self, name: str, label: str, press: Callable[[], Row], style: str = "") -> Any:
        made = button(label, name.replace("_", "-"), _HINTS[name], style=style)
        self.buttons[name] = made
        self._presses = {**getattr(self, "_presses", {}), name: press}
        return made

    def _shown_after(self, press: Callable[[], Row]) -> Callable[[], None]:
        def act() -> None:
            try:
                press()
            finally:
                self.show()

        return act

    # ---- what is shown ------------------------------------------------------------

    def show(self) -> None:
        """Show the model as it is now; for steps that were made without the buttons."""
        last, rows = self.steps.last, self.steps.rows
        self._why.value = (
            f"<div class='epl-why'><b>{escape(_step(last))}</b> {escape(last.why)}</div>"
        )
        self._sides.value = (
            f"<div class='epl-sides'>{_side(last, 'level')}{_side(last, 'edge')}</div>"
            f"<div class='epl-muted' style='padding:4px 0'>In the kernel's buffer: "
            f"<b>{last.readable:,}</b> bytes. poll(2) says of the socket: "
            f"<code>{escape(last.socket)}</code></div>"
        )
        self._strip.value = svg.strip(
            [row.readable for row in rows],
            {"level": [row.level for row in rows], "edge": [row.edge for row in rows]},
        )
        self._table.value = _table(rows[-ROWS_SHOWN:])
        self._interest.value = self.steps.interest
        for name, possible in self.steps.can.items():
            self.buttons[name].disabled = not possible

    def text(self) -> str:
        """The last step and the history, for a place without widgets."""
        lines = [f"{row.step:>3}  {_step(row):<40} {_told(row)}" for row in self.steps.rows[-12:]]
        return "\n".join(["stepper: level and edge on one socket", *lines, self.steps.last.why])

    def picture(self) -> "Figure":
        """The history as a chart."""
        from matplotlib.figure import Figure

        from epolllab.widgets import pictures

        figure = Figure(figsize=(8.0, 3.6), layout="constrained")
        pictures.history(self.steps.history(), ax=figure.add_subplot())
        return figure

    def data(self) -> "pd.DataFrame":
        """The history as a frame."""
        return self.steps.history()

    def close(self) -> None:
        """Close the socket, its peer and the epolls, and take the widget from the page."""
        self.steps.close()
        super().close()


_HINTS = {
    "peer_writes": "the peer sends so many bytes, and they arrive",
    "peer_half_closes": "shutdown(SHUT_WR): the peer's FIN arrives",
    "peer_resets": "close with SO_LINGER 0: the peer's RST arrives",
    "wait": "epoll_wait with a timeout of 0, on both",
    "recv": "recv at most so many bytes",
    "drain": "recv until it would block, ends or fails",
    "modify": "epoll_ctl(EPOLL_CTL_MOD) on both",
    "register_again": "epoll_ctl(EPOLL_CTL_DEL), then EPOLL_CTL_ADD, on both",
    "start_over": "a new connection and an empty history",
}


def _group(word: str) -> Any:
    return ipy.HTML(f"<span class='epl-muted'>{word}</span>", layout=ipy.Layout(width="64px"))


def _number(value: int, least: int, most: int, name: str) -> Any:
    layout = ipy.Layout(width="90px")
    return named(ipy.BoundedIntText(value=value, min=least, max=most, layout=layout), name)


def _step(row: Row) -> str:
    return f"{row.action}{f' → {row.result}' if row.result not in ('', '0') else ''}"


def _told(row: Row) -> str:
    if row.level is None:
        return ""
    return f"level {row.level or 'nothing'}, edge {row.edge or 'nothing'}"


def _side(row: Row, arm: str) -> str:
    told: str | None = getattr(row, arm)
    ready: bool = getattr(row, f"{arm}_ready")
    interest: str = getattr(row, f"{arm}_interest")
    words = "not asked" if told is None else told or "nothing"
    look = " class='epl-muted'" if not told else ""
    return (
        f"<div class='epl-side' style='border-left-color:var(--epl-{arm})'>"
        f"<b class='t-{arm}'>{arm}</b>"
        f"<div><span class='epl-muted'>returned</span> <big{look}>{escape(words)}</big></div>"
        f"<div><span class='epl-muted'>in the kernel's list:</span> <code>{escape(interest)}</code>"
        f"</div><div><span class='epl-muted'>ready:</span> {'yes' if ready else 'no'}</div></div>"
    )


def _table(rows: list[Row]) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in ("step", "what", "level returned", "edge returned", "bytes", "ready")
    )
    body = "".join(
        f"<tr><td>{row.step}</td><td>{escape(_step(row))}</td>"
        f"<td>{_cell(row.level)}</td><td>{_cell(row.edge)}</td><td>{row.readable:,}</td>"
        f"<td>{_who(row)}</td></tr>"
        for row in reversed(rows)
    )
    return f"<table class='epl-table'><tr>{head}</tr>{body}</table>"


def _cell(told: str | None) -> str:
    if told is None:
        return ""
    return f"<code>{escape(told)}</code>" if told else "<span class='epl-muted'>nothing</span>"


def _who(row: Row) -> str:
    ready = [arm for arm in ("level", "edge") if getattr(row, f"{arm}_ready")]
    return " ".join(f"<span class='t-{arm}'>{arm}</span>" for arm in ready)
