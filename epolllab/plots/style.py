"""Colours with fixed meanings in a light and a dark theme, and matplotlib settings to match.

A colour has one meaning, and orange is edge-triggered in every chart. On its paper every
colour has a contrast of 3:1 or more, and of 4.5:1 where text may have it. Colours that meet in
one chart (all variants, all operations, all spans, all of a series) also differ for readers
with deuteranopia; a test computes both. Importing sets nothing.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from epolllab.checks import check_choice, checked
from epolllab.notebook import page

__all__ = [
    "DARK", "LIGHT", "OP_GROUPS", "THEMES", "Theme", "apply", "current", "hatch", "page_theme",
    "set_theme", "settings", "text_on", "use",
]  # fmt: skip

# Each meaning with its colour in the light and in the dark theme.
_VARIANTS = {
    "level": ("#0072B2", "#5CB8E8"),
    "edge": ("#C24E00", "#FF8A3D"),
    "oneshot": ("#B8478A", "#D087B0"),
    "exclusive": ("#206170", "#7FE0E8"),
    "poll": ("#00805A", "#3DCFA4"),
    "select": ("#6C6125", "#F9E126"),
    "io_uring": ("#47358D", "#8077FA"),
}
_MARKERS = {
    "level": "o", "edge": "s", "oneshot": "D", "exclusive": "p", "poll": "^", "select": "v",
    "io_uring": "P",
}  # fmt: skip
_OPS = {
    "wait": ("#8E8E8E", "#7A7E85"),
    "callback": ("#6F6F5A", "#8A8060"),  # drawn below the calls made in it
    "recv": ("#487ED2", "#76A3C0"),
    "handle": ("#9A8B00", "#DDCC77"),
    "send": ("#E0526A", "#F69EA6"),
    "accept": ("#27801C", "#4CBB5F"),
    "control": ("#AA3377", "#A54EA2"),
    "close": ("#2A2A2A", "#E4E4E4"),
    "other": ("#6195AD", "#8FDDF5"),
    "submit": ("#155D48", "#51B6A0"),
    "complete": ("#71449E", "#B16EF4"),
}
_SPANS = {
    "waiting": ("#859188", "#6A707B"),
    "wake": ("#6B6B6B", "#94978B"),
    "queue": ("#82598E", "#D1BCFD"),
    "read": _OPS["recv"],
    "handle": _OPS["handle"],
    "send": _OPS["send"],
    "deliver": ("#3B9AAA", "#C7EFF7"),
    "receive": ("#0E8047", "#72C4B9"),
}
_MAIN = ("#14796B", "#4CC9B0")
_SERIES = (
    _MAIN,
    ("#6C347D", "#DB97D7"),
    ("#336FC1", "#5DA9FE"),
    ("#7D7012", "#C9B65A"),
    ("#A03050", "#F07988"),
    ("#444444", "#DDD6CA"),
)
_HATCHES = ("", "////", "....", "xxxx")
_SERIES_MARKERS = ("X", "*", "<", ">", "d", "h")
_GROUPS = {
    "wait": ("wait",),
    "callback": ("callback",),
    "accept": ("accept", "connect", "socket"),
    "control": ("register", "modify", "unregister"),
    "recv": ("recv",),
    "handle": ("handle",),
    "send": ("send",),
    "close": ("shutdown", "close"),
    "other": ("read", "write", "setsockopt", "getsockopt"),
    "submit": ("submit",),
    "complete": ("complete",),
}
OP_GROUPS = {op: group for group, ops in _GROUPS.items() for op in ops}
"""The colour group of each operation: ``control`` is epoll_ctl."""


@dataclass(frozen=True)
class Theme:
    """Colours by meaning.

    ``ink`` is for text and axes, ``muted`` for what is secondary, ``faint`` for
    grids, ``paper`` for the background, ``alarm`` for failures, ``main`` for what a
    chart shows where nothing is compared, and ``series`` for what has no meaning of its
    own, such as runs that the reader has named.
    """

    name: str
    ink: str
    muted: str
    faint: str
    paper: str
    alarm: str
    main: str
    variants: Mapping[str, str]
    ops: Mapping[str, str]
    spans: Mapping[str, str]
    series: tuple[str, ...]

    def op(self, name: str) -> str:
        """The colour of an operation, by its name in a frame."""
        return self.ops[OP_GROUPS.get(name, "other")]

    def variant(self, name: str, place: int = 0) -> str:
        """The colour of a variant.

        A name that contains one of the known words ("edge", "epoll-edge, 1 kB") has that
        word's colour in every chart. `place` is the index into ``series`` for other names.
        """
        word = _variant_word(name)
        return self.variants[word] if word else self.series[place % len(self.series)]

    def marker(self, name: str, place: int = 0) -> str:
        """The marker of a variant, chosen as its colour is."""
        word = _variant_word(name)
        return _MARKERS[word] if word else _SERIES_MARKERS[place % len(_SERIES_MARKERS)]


def _variant_word(name: str) -> str:
    """The known word in a variant's name, or ""."""
    for word in _VARIANTS:
        # Only at the start of a word: "epoll" is not poll.
        if re.search(rf"(?<![a-z]){word}", name.lower()):
            return word
    # epoll without a trigger is level-triggered.
    return "level" if "epoll" in name.lower() else ""


def hatch(place: int) -> str:
    """The pattern of the bars of one of several series, for readers who see no colours."""
    return _HATCHES[place % len(_HATCHES)]


def text_on(fill: Any) -> str:
    """Black or white, whichever can be read on a colour; one of them has a contrast of 4.5."""
    rgb = np.array(to_rgb(fill))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "#000000" if float(linear @ (0.2126, 0.7152, 0.0722)) > 0.179 else "#FFFFFF"


def _settings(theme: Theme) -> dict[str, Any]:
    return {
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": theme.ink,
        "figure.facecolor": theme.paper,
        "figure.dpi": 100,
        "savefig.facecolor": "auto",
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.muted,
        "axes.linewidth": 0.8,
        "axes.labelcolor": theme.ink,
        "axes.labelsize": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlecolor": theme.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": False,
        "axes.prop_cycle": cycler(color=list(theme.series)),
        "grid.color": theme.faint,
        "grid.linewidth": 0.7,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.direction": "out",
        "ytick.direction": "out",
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "legend.fontsize": 8,
        "legend.labelcolor": theme.ink,
        "axes.unicode_minus": True,
        "svg.fonttype": "path",
    }


def _theme(which: int, name: str, **colors: Any) -> Theme:
    """Build a theme from the first or second colour of each meaning."""
    variants, ops, spans = (
        {meaning: pair[which] for meaning, pair in table.items()}
        for table in (_VARIANTS, _OPS, _SPANS)
    )
    series = tuple(pair[which] for pair in _SERIES)
    return Theme(
        name, **colors, main=_MAIN[which], variants=variants, ops=ops, spans=spans, series=series
    )


LIGHT = _theme(
    0, "light", ink="#222222", muted="#6B6B6B", faint="#E4E4E4", paper="#FFFFFF",
    alarm="#C1121F",
)  # fmt: skip
DARK = _theme(
    1, "dark", ink="#E6E6E6", muted="#A0A4AA", faint="#33373D",
    paper="#111111",  # the background of JupyterLab's dark theme
    alarm="#FF6B6B",
)  # fmt: skip

THEMES = {"light": LIGHT, "dark": DARK}

_theme_in_use: ContextVar[Theme | None] = ContextVar("theme", default=None)
_chosen = "auto"
_reported = ""
# matplotlib's settings are one dictionary for the whole process, and notebook callbacks run in
# threads of their own: two changing it at once would restore it in the wrong order.
_settings_lock = threading.RLock()


@checked(name=partial(check_choice, allowed=("light", "dark", "auto")))
def set_theme(name: str) -> None:
    """Choose the theme of all charts drawn from now on in this process.

    Parameters
    ----------
    name : {"light", "dark", "auto"}
        ``"auto"``, which holds until another is chosen, is the theme of the page: the one
        that a widget on it has reported, else that of the Voila page's address
        (``?theme=dark``), else the one in JupyterLab's settings, else light. A chart that was
        drawn before keeps its colours.
    """
    global _chosen
    _chosen = name


@checked(name=partial(check_choice, allowed=("light", "dark")))
def page_theme(name: str) -> None:
    """Report the theme of the page that shows this process's output, for ``"auto"``.

    Widgets call it when they are shown and when the page's theme changes.

    Parameters
    ----------
    name : {"light", "dark"}
        The page's theme.
    """
    global _reported
    _reported = name


def current() -> Theme:
    """The theme in use: that of the block :func:`use`, else as :func:`set_theme` describes."""
    in_use = _theme_in_use.get()
    if in_use is not None:
        return in_use
    name = _chosen if _chosen != "auto" else _reported or page.theme() or "light"
    return THEMES[name]


@contextmanager
def settings(changed: Mapping[str, Any]) -> Iterator[None]:
    """Change matplotlib settings for a ``with`` block, one thread at a time.

    ``matplotlib.rc_context`` would restore every setting, including "interactive", which
    the first import of pyplot may switch on inside the block, and without which a
    notebook shows no figure.
    """
    current_settings: Any = mpl.rcParams
    with _settings_lock:
        before = {name: current_settings[name] for name in changed}
        try:
            current_settings.update(changed)
            yield
        finally:
            current_settings.update(before)


def apply(ax: Axes, theme: Theme) -> None:
    """Apply the style to Axes that may have been made in another one, and to their figure.

    A figure without a layout gets one, since legends and notes stand below the axes.
    """
    figure: Any = ax.get_figure()
    ax.set_axisbelow(True)
    ax.set_facecolor(theme.paper)
    figure.set_facecolor(theme.paper)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[:].set(edgecolor=theme.muted, linewidth=0.8)
    ax.tick_params(
        which="both", color=theme.muted, labelcolor=theme.ink, labelsize=8, direction="out",
        labelfontfamily="DejaVu Sans", grid_color=theme.faint, grid_linewidth=0.7,
    )  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(color=theme.ink, fontsize=9, fontfamily="DejaVu Sans")
    whole = figure if isinstance(figure, Figure) else figure.figure
    if whole.get_layout_engine() is None and all(a.get_subplotspec() for a in whole.axes):
        # Unlike "constrained", this one permits subplots_adjust() and tight_layout().
        whole.set_layout_engine("tight")


@contextmanager
def use(dark: bool | None = None) -> Iterator[Theme]:
    """Draw in this package's style for a ``with`` block.

    Every function of ``plots`` uses it by itself; use it around them to choose the theme of
    one chart, or around drawing of your own to match. `dark` is by default that of the
    surrounding block, else of :func:`current`. Yields the :class:`Theme`, which has the
    colours by meaning.
    """
    theme = current() if dark is None else DARK if dark else LIGHT
    with settings(_settings(theme)):
        token = _theme_in_use.set(theme)
        try:
            yield theme
        finally:
            _theme_in_use.reset(token)
