"""Colours with fixed meanings in a light and a dark theme, and matplotlib settings to match.

Variants of a comparison (level, edge, poll, select, ...) have the colours of Okabe and Ito's
palette, operations those of Paul Tol's "bright" scheme; both can be told apart with any kind of
colour vision. The dark theme has a lighter colour of the same hue. Importing sets nothing.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "OP_GROUPS", "Theme", "apply", "current", "settings", "use"]

# Each meaning with its colour in the light and in the dark theme.
_VARIANTS = {
    "level": ("#0072B2", "#56B4E9"),
    "edge": ("#D55E00", "#FF8A3D"),
    "oneshot": ("#B55488", "#E7A3C6"),
    "exclusive": ("#56B4E9", "#9AD4F5"),
    "poll": ("#009E73", "#3DCFA4"),
    "select": ("#C98A00", "#F2C14E"),
    "io_uring": ("#5E3C99", "#B9A3E3"),
}
_OPS = {
    "wait": ("#C4C4C4", "#5C6066"),
    "callback": ("#E3DCC8", "#55503F"),  # drawn below the calls made in it
    "recv": ("#4477AA", "#77AADD"),
    "handle": ("#CCBB44", "#DDCC77"),
    "send": ("#EE6677", "#FF8D9B"),
    "accept": ("#228833", "#5DBB70"),
    "control": ("#AA3377", "#DD7BB0"),
    "close": ("#4D4D4D", "#D0D0D0"),
    "other": ("#66CCEE", "#8FDDF5"),
    "ring": ("#999933", "#BDBD62"),
}
_SPANS = {
    "waiting": ("#DDDDDD", "#4A4D52"),
    "wake": ("#9A9A9A", "#85898F"),
    "queue": ("#B48CC8", "#C6A6D8"),
    "read": _OPS["recv"],
    "handle": _OPS["handle"],
    "send": _OPS["send"],
    "deliver": ("#66CCEE", "#8FDDF5"),
    "receive": ("#44AA99", "#66C9B8"),
}
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
    "ring": ("submit", "complete"),
}
OP_GROUPS = {op: group for group, ops in _GROUPS.items() for op in ops}
"""The colour group of each operation: ``control`` is epoll_ctl."""


@dataclass(frozen=True)
class Theme:
    """Colours by meaning.

    ``ink`` is for text and axes, ``muted`` for what is secondary, ``faint`` for
    grids, ``paper`` for the background, ``alarm`` for failures, and ``main`` for
    what a chart shows where nothing is compared.
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

    def op(self, name: str) -> str:
        """The colour of an operation, by its name in a frame."""
        return self.ops[OP_GROUPS.get(name, "other")]

    def variant(self, name: str, place: int = 0) -> str:
        """The colour of a variant.

        A name that contains one of the known words ("edge", "epoll-edge, 1 kB") has that
        word's colour in every chart. `place` is the index into the palette for other names.
        """
        for word, color in self.variants.items():
            # Only at the start of a word: "epoll" is not poll.
            if re.search(rf"(?<![a-z]){word}", name.lower()):
                return color
        # epoll without a trigger is level-triggered.
        if "epoll" in name.lower():
            return self.variants["level"]
        return list(self.variants.values())[place % len(self.variants)]


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
        "axes.prop_cycle": cycler(color=list(theme.variants.values())),
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
    return Theme(name, **colors, variants=variants, ops=ops, spans=spans)


LIGHT = _theme(
    0, "light", ink="#222222", muted="#6B6B6B", faint="#E4E4E4", paper="#FFFFFF",
    alarm="#C1121F", main="#14796B",
)  # fmt: skip
DARK = _theme(
    1, "dark", ink="#E6E6E6", muted="#A0A4AA", faint="#33373D",
    paper="#111111",  # the background of JupyterLab's dark theme
    alarm="#FF6B6B", main="#4CC9B0",
)  # fmt: skip

_theme_in_use: ContextVar[Theme] = ContextVar("theme", default=LIGHT)
# matplotlib's settings are one dictionary for the whole process, and notebook callbacks run in
# threads of their own: two changing it at once would restore it in the wrong order.
_settings_lock = threading.RLock()


def current() -> Theme:
    """The theme in use; light unless :func:`use` chose another."""
    return _theme_in_use.get()


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

    Every function of ``plots`` uses it by itself; use it around them to choose the
    dark theme, or around drawing of your own to match. `dark` is by default that of the
    surrounding block, else False. Yields the :class:`Theme`, which has the colours by meaning.
    """
    theme = current() if dark is None else DARK if dark else LIGHT
    with settings(_settings(theme)):
        token = _theme_in_use.set(theme)
        try:
            yield theme
        finally:
            _theme_in_use.reset(token)
