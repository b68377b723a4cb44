"""A diagram of what is inside an epoll instance, after fs/eventpoll.c of Linux.

The names of functions and fields are the kernel's, as of Linux 6.18.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from epolllab.checks import check_names, checked
from epolllab.plots.canvas import SMALL, Canvas, canvas, check_axes

__all__ = ["PARTS", "epoll_inside"]


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    title: str
    detail: str


class _Arrow(NamedTuple):
    tail: tuple[float, float]
    head: tuple[float, float]
    bend: float
    text: str
    place: tuple[float, float]
    align: str


_BOXES = {
    "epoll_ctl": _Box(0, 46, 18, 9, "epoll_ctl(ADD)", "fd 7, mask IN"),
    "epoll_wait": _Box(0, 8, 18, 9, "epoll_wait()", "returns (fd 7, IN)"),
    "interest list": _Box(
        32, 44, 33, 13, "interest list", "rbr: a tree of epitems,\nsorted by (file, fd)"
    ),
    "ready list": _Box(32, 22, 33, 11, "ready list", "rdllist: epitems that may be ready"),
    "waiters": _Box(32, 4, 33, 10, "waiters", "wq: threads that sleep in epoll_wait"),
    "file": _Box(81, 46, 19, 11, "the file", "socket, pipe, timer, ..."),
    "wait queue": _Box(81, 32, 19, 10, "its wait queue", "an entry for each epitem"),
}
_ARROWS = {
    "insert": _Arrow(
        (18, 51), (32, 51), 0, "1 ep_insert\nadds an\nepitem", (23.5, 52), "center bottom"
    ),
    "hook": _Arrow(
        (65, 48), (81, 39), 0, "2 and an entry\nto its wait\nqueue", (74.5, 45.5), "center bottom"
    ),
    "callback": _Arrow(
        (81, 34), (65, 28), 0, "3 bytes arrive:\nep_poll_callback\nappends the epitem",
        (74, 28), "left top",
    ),
    "wake": _Arrow((48.5, 22), (48.5, 14), 0, "4 and wakes one waiter", (50, 18), "left center"),
    "send": _Arrow(
        (32, 25), (9, 17), 0.12,
        "5 ep_send_events takes each\nepitem off, asks its file for\nthe mask now, copies it",
        (0, 27), "left bottom",
    ),
    "level": _Arrow(
        (37, 33), (60, 33), -0.28, "6 level-triggered: back to the end of the list",
        (48.5, 38.6), "center bottom",
    ),
}  # fmt: skip

PARTS = {
    "interest list": ("epoll_ctl", "interest list", "insert"),
    "wait queue": ("file", "wait queue", "hook"),
    "callback": ("wait queue", "callback", "ready list"),
    "ready list": ("ready list",),
    "waiters": ("waiters", "wake"),
    "send": ("ready list", "epoll_wait", "send"),
    "level": ("ready list", "level"),
}
"""What can be highlighted: a name, and the boxes and arrows that belong to it."""


@checked(highlight=partial(check_names, allowed=tuple(PARTS)), ax=check_axes)
def epoll_inside(*, highlight: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw what is inside an epoll instance, and the way of an event through it.

    A file that becomes ready calls back; nothing scans the files. What `epoll_wait` returns
    is the mask at the time of the call, and a level-triggered epitem goes back to the ready
    list, from which a later call drops it once its file is not ready any more. Drawn after
    ``ep_insert``, ``ep_ptable_queue_proc``, ``ep_poll_callback`` and ``ep_send_events`` of
    fs/eventpoll.c, Linux 6.18.

    Parameters
    ----------
    highlight : sequence of str, optional
        The parts in question: names of :data:`PARTS`; by default none stands out.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
    """
    chosen = tuple(highlight or ())
    strong = {element for part in chosen for element in PARTS[part]}
    with canvas(ax, (7.6, 4.3), None, "Inside an epoll instance") as (axes, chart):
        axes.set(xlim=(-1, 101), ylim=(0, 62))
        axes.set_axis_off()
        axes.add_patch(
            Rectangle((29, 1), 39, 60, fill=False, ls="--", lw=0.8, ec=chart.theme.muted)
        )
        axes.text(30, 60.2, "struct eventpoll", va="top", size=SMALL, color=chart.theme.muted)
        for name, box in _BOXES.items():
            _draw_box(chart, box, name in strong)
        for name, arrow in _ARROWS.items():
            _draw_arrow(chart, arrow, name in strong)
        chart.describe(_sentence(chosen))
    return axes


def _look(chart: Canvas, is_strong: bool) -> tuple[str, float]:
    return (chart.theme.main, 2.0) if is_strong else (chart.theme.muted, 0.9)


def _draw_box(chart: Canvas, box: _Box, is_strong: bool) -> None:
    color, width = _look(chart, is_strong)
    chart.ax.add_patch(
        FancyBboxPatch(
            (box.x, box.y),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=1",
            fc=chart.theme.paper,
            ec=color,
            lw=width,
        )
    )
    middle = box.x + box.width / 2
    weight = "bold" if is_strong else "normal"
    chart.ax.text(
        middle,
        box.y + box.height - 1.6,
        box.title,
        ha="center",
        va="top",
        size=9,
        weight=weight,
        color=chart.theme.ink,
    )
    chart.ax.text(
        middle,
        box.y + 1.6,
        box.detail,
        ha="center",
        va="bottom",
        size=SMALL,
        color=chart.theme.muted,
    )


def _draw_arrow(chart: Canvas, arrow: _Arrow, is_strong: bool) -> None:
    color, width = _look(chart, is_strong)
    chart.ax.add_patch(
        FancyArrowPatch(
            arrow.tail,
            arrow.head,
            connectionstyle=f"arc3,rad={arrow.bend}",
            arrowstyle="-|>",
            mutation_scale=9,
            color=color,
            lw=width,
            shrinkA=1,
            shrinkB=1,
        )
    )
    across, down = arrow.align.split()
    chart.ax.text(
        *arrow.place,
        arrow.text,
        ha=across,
        va=down,
        size=SMALL,
        linespacing=1.25,
        color=chart.theme.ink,
        weight="bold" if is_strong else "normal",
    )


def _sentence(chosen: tuple[str, ...]) -> str:
    steps = "; ".join(arrow.text.replace("\n", " ") for arrow in _ARROWS.values())
    shown = f", with {' and '.join(chosen)} highlighted" if chosen else ""
    return f"A diagram of an epoll instance{shown}: {steps}."
