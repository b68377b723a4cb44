"""One look for every chart: colours with fixed meanings, light and dark.

One job: say which colour means what, and lend matplotlib the settings that go with
it for as long as a drawing takes. Nothing is set at import, and nothing here draws.

The arms of a comparison (level, edge, poll, select, ...) have the colours of Okabe
and Ito's palette, the operations those of Paul Tol's "bright" scheme; both are made
to be told apart with any kind of colour vision. In the dark theme each colour is a
lighter one of the same hue, so that a meaning keeps its name.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from cycler import cycler

__all__ = ["ARMS", "COLORS", "DARK", "LIGHT", "OPS", "SPANS", "Theme", "current", "use"]


_ARMS_LIGHT = {
    "level": "#0072B2",
    "edge": "#D55E00",
    "oneshot": "#B55488",
    "exclusive": "#56B4E9",
    "poll": "#009E73",
    "select": "#C98A00",
}
_ARMS_DARK = {
    "level": "#56B4E9",
    "edge": "#FF8A3D",
    "oneshot": "#E7A3C6",
    "exclusive": "#9AD4F5",
    "poll": "#3DCFA4",
    "select": "#F2C14E",
}
_OPS_LIGHT = {
    "wait": "#C4C4C4",
    "recv": "#4477AA",
    "handle": "#CCBB44",
    "send": "#EE6677",
    "accept": "#228833",
    "control": "#AA3377",
    "close": "#4D4D4D",
    "other": "#66CCEE",
}
_OPS_DARK = {
    "wait": "#5C6066",
    "recv": "#77AADD",
    "handle": "#DDCC77",
    "send": "#FF8D9B",
    "accept": "#5DBB70",
    "control": "#DD7BB0",
    "close": "#D0D0D0",
    "other": "#8FDDF5",
}
OP_GROUPS = {
    "wait": "wait",
    "accept": "accept",
    "connect": "accept",
    "socket": "accept",
    "register": "control",
    "modify": "control",
    "unregister": "control",
    "recv": "recv",
    "handle": "handle",
    "send": "send",
    "shutdown": "close",
    "close": "close",
    "read": "other",
    "write": "other",
    "setsockopt": "other",
    "getsockopt": "other",
}
"""The colour group of each operation: ``control`` is what epoll_ctl does."""

_SPAN_GROUPS = {"read": "recv", "handle": "handle", "send": "send"}


def _spans(ops: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    spans = ("waiting", "wake", "queue", "read", "handle", "send", "deliver", "receive")
    return {s: ops[_SPAN_GROUPS[s]] if s in _SPAN_GROUPS else others[s] for s in spans}


_SPANS_LIGHT = _spans(
    _OPS_LIGHT,
    {
        "waiting": "#DDDDDD",
        "wake": "#9A9A9A",
        "queue": "#B48CC8",
        "deliver": "#66CCEE",
        "receive": "#44AA99",
    },
)
_SPANS_DARK = _spans(
    _OPS_DARK,
    {
        "waiting": "#4A4D52",
        "wake": "#85898F",
        "queue": "#C6A6D8",
        "deliver": "#8FDDF5",
        "receive": "#66C9B8",
    },
)


@dataclass(frozen=True)
class Theme:
    """Colours by meaning, and matplotlib's settings to go with them.

    ``ink`` is for text and axes, ``muted`` for what is secondary, ``faint`` for
    grids, ``paper`` for the ground, ``alarm`` for what went wrong, and ``main`` for
    what a picture shows where nothing is compared.
    """

    name: str
    ink: str
    muted: str
    faint: str
    paper: str
    alarm: str
    main: str
    arms: Mapping[str, str]
    ops: Mapping[str, str]
    spans: Mapping[str, str]
    rc: Any = field(init=False)

    def __post_init__(self) -> None:
        """Work out the settings from the colours."""
        object.__setattr__(self, "rc", _settings(self))

    def op(self, name: str) -> str:
        """Give the colour of an operation, by its name in a frame."""
        return self.ops[OP_GROUPS.get(name, "other")]

    def arm(self, name: str, place: int = 0) -> str:
        """Give the colour of an arm of a comparison.

        Parameters
        ----------
        name : str
            A name that has one of the known words in it ("edge", "epoll-edge, 1 kB")
            gets that word's colour everywhere.
        place : int
            Which of the palette's colours any other name gets.
        """
        for word, color in self.arms.items():
            # As a word's beginning: "epoll" is not poll.
            if re.search(rf"(?<![a-z]){word}", name.lower()):
                return color
        # epoll without a trigger is level-triggered.
        if "epoll" in name.lower():
            return self.arms["level"]
        return list(self.arms.values())[place % len(self.arms)]


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
        "axes.prop_cycle": cycler(color=list(theme.arms.values())),
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


LIGHT = Theme(
    name="light",
    ink="#222222",
    muted="#6B6B6B",
    faint="#E4E4E4",
    paper="#FFFFFF",
    alarm="#C1121F",
    main="#14796B",
    arms=_ARMS_LIGHT,
    ops=_OPS_LIGHT,
    spans=_SPANS_LIGHT,
)
DARK = Theme(
    name="dark",
    ink="#E6E6E6",
    muted="#A0A4AA",
    faint="#33373D",
    paper="#111111",  # the ground of JupyterLab's dark theme
    alarm="#FF6B6B",
    main="#4CC9B0",
    arms=_ARMS_DARK,
    ops=_OPS_DARK,
    spans=_SPANS_DARK,
)

ARMS: Mapping[str, str] = LIGHT.arms
"""Colour of each arm of a comparison, in the light theme."""
OPS: Mapping[str, str] = LIGHT.ops
"""Colour of each group of operations, in the light theme."""
SPANS: Mapping[str, str] = LIGHT.spans
"""Colour of each span of a journey, in the light theme."""
COLORS: Mapping[str, Mapping[str, str]] = {"arms": ARMS, "ops": OPS, "spans": SPANS}
"""All of them."""

_theme: ContextVar[Theme] = ContextVar("theme", default=LIGHT)
# matplotlib's settings are one dictionary for the whole process, and a notebook's
# callbacks run in threads of their own: two that borrowed it at once would give it
# back in the wrong order.
_settings_lock = threading.RLock()


def current() -> Theme:
    """Give the theme in use; light unless :func:`use` said otherwise."""
    return _theme.get()


@contextmanager
def use(dark: bool | None = None) -> Iterator[Theme]:
    """Draw in this package's style for the length of a ``with`` block.

    Every function of ``plots`` uses it by itself; use it around them to choose the
    dark theme, or around drawing of your own to match.

    Parameters
    ----------
    dark : bool, optional
        Which theme; by default the one of the surrounding block, else light.

    Yields
    ------
    Theme
        Its colours, by meaning.
    """
    theme = current() if dark is None else DARK if dark else LIGHT
    with _settings_lock:
        token = _theme.set(theme)
        # Not rc_context(), which gives back every setting: also "interactive", which
        # pyplot's first import may switch on inside, and without which a notebook
        # shows no figure.
        borrowed = {name: mpl.rcParams[name] for name in theme.rc}
        try:
            mpl.rcParams.update(theme.rc)
            yield theme
        finally:
            mpl.rcParams.update(borrowed)
            _theme.reset(token)
