"""Pictures as SVG text, in JupyterLab's own colours, light and dark.

One job: numbers to a string. A tick of a live display costs a millisecond this way,
where matplotlib takes a hundred. Points are whole numbers, and everything of one colour
is one path: that is what makes it cheap, here and in the browser.

Colours are classes and variables of the style sheet :func:`css`, which every panel
carries, so that a picture changes with JupyterLab's theme without being drawn again.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any

import numpy as np

from epolllab.events import Op
from epolllab.plots import style

__all__ = ["WIDTH", "css", "lines", "sparkline", "strip", "timeline"]

WIDTH = 760
LANE = 18
LEFT = 66
_WAIT, _READY = int(Op.WAIT), int(Op.READY)
_CLASSES = [*(f"f-{name}" for name in style.LIGHT.ops), "f-alarm", "ink"]
_ALARM, _MARK = len(_CLASSES) - 2, len(_CLASSES) - 1
_GROUPS = np.array(
    [_CLASSES.index(f"f-{style.OP_GROUPS.get(op.label, 'other')}") for op in Op], dtype="i1"
)


def css() -> str:
    """The style sheet of every panel."""
    light, dark = (_variables(theme) for theme in (style.LIGHT, style.DARK))
    names = [*style.LIGHT.arms, *style.LIGHT.ops]
    fills = "".join(
        f".epl .f-{n}{{fill:var(--epl-{n})}}.epl .s-{n}{{stroke:var(--epl-{n})}}"
        f".epl .t-{n}{{color:var(--epl-{n})}}"
        for n in (*names, "main", "alarm")
    )
    return f".epl{{{light}}}[data-jp-theme-light='false'] .epl{{{dark}}}{fills}{_ARROW}{_FIXED}"


_MEANINGS = (
    ("f-wait", "wait"), ("f-accept", "accept"), ("f-recv", "recv"), ("f-handle", "handle"),
    ("f-send", "send"), ("f-control", "epoll_ctl"), ("f-close", "close"),
    ("f-alarm", "error, would block"), ("ink", "ready"),
)  # fmt: skip


def _variables(theme: style.Theme) -> str:
    named = {**theme.arms, **theme.ops, "main": theme.main, "alarm": theme.alarm}
    return "".join(f"--epl-{name}:{color};" for name, color in named.items())


# The arrow of a list is black in every theme; this one is not.
_ARROW = (
    "[data-jp-theme-light='false'] .epl{--jp-widgets-dropdown-arrow:"
    "url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E"
    "%3Cpath fill='none' stroke='%23ccc' stroke-width='2' d='m5 7 4 4 4-4'/%3E%3C/svg%3E\")}"
)
_FIXED = """
.epl{padding:10px 12px;border:1px solid var(--jp-border-color2,#ccc);border-radius:4px;
 color:var(--jp-ui-font-color1,#222);max-width:820px;overflow:hidden}
.epl .widget-html-content,.epl .jupyter-widget-html-content{line-height:1.35;
 font-size:var(--jp-ui-font-size1,13px);color:var(--jp-ui-font-color1,#222)}
.epl svg{display:block;width:100%;height:auto;max-width:760px}
.epl svg text{font:11px var(--jp-ui-font-family,sans-serif);fill:var(--jp-ui-font-color1,#222)}
.epl svg .muted{fill:var(--jp-ui-font-color2,#666)}
.epl svg .rule{stroke:var(--jp-border-color2,#ddd);stroke-width:1;fill:none}
.epl .epl-dark,[data-jp-theme-light='false'] .epl .epl-light{display:none}
[data-jp-theme-light='false'] .epl .epl-dark{display:block}
.epl img{max-width:100%;height:auto}
.epl svg .ink{fill:var(--jp-ui-font-color1,#222)}
.epl .epl-title{font-weight:600;margin:2px 0}
.epl .epl-muted{color:var(--jp-ui-font-color2,#666)}
.epl .epl-numbers{display:flex;flex-wrap:wrap;gap:4px 22px}
.epl .epl-number b{display:block;font-size:19px;font-weight:600;
 font-variant-numeric:tabular-nums}
.epl .epl-alarm{color:var(--jp-error-color0,#b3261e);font-weight:600;white-space:pre-wrap;
 overflow-wrap:anywhere}
.epl .epl-state:has(.epl-alarm){flex-basis:100%}
.epl .epl-alarm pre{color:inherit;font-size:12px;font-weight:normal;margin:4px 0;
 max-height:240px;overflow:auto;
 white-space:pre-wrap;background:none}
.epl .epl-warn{color:var(--jp-warn-color0,#8a5a00);overflow-wrap:anywhere}
.epl table.epl-table{border-collapse:collapse;font-size:12px}
.epl table.epl-table td,.epl table.epl-table th{text-align:left;padding:1px 12px 1px 0;
 vertical-align:top;color:var(--jp-ui-font-color1,#222)}
.epl table.epl-table th{color:var(--jp-ui-font-color2,#666);font-weight:normal}
.epl table.epl-table tr{background:none}
.epl table.epl-table code{font-size:12px;color:inherit;background:none}
.epl .epl-sides{display:flex;flex-wrap:wrap;gap:8px}
.epl .epl-side{flex:1 1 240px;border:1px solid var(--jp-border-color2,#ddd);border-left-width:4px;
 border-radius:3px;padding:4px 10px}
.epl .epl-side big{font-size:20px;font-weight:600}
.epl .epl-why{padding:6px 0;font-size:14px;max-width:52em}
.epl button:focus-visible{outline:2px solid var(--jp-brand-color1,#1976d2);outline-offset:1px}
"""


def _svg(width: int, height: int, inside: str, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{inside}</svg>"
    )


# ---- lines -----------------------------------------------------------------------------


def points(values: Sequence[float], width: int, height: int, top: float) -> str:
    """Place values from left to right, the newest at the right end; NaN breaks nothing."""
    n = max(len(values) - 1, 1)
    scale = (height - 2) / top if top > 0 else 0.0
    places = (
        (i * width // n, height - 1 - int(min(value, top) * scale))
        for i, value in enumerate(values)
        if not math.isnan(value)
    )
    return " ".join(map("%d,%d".__mod__, places))


def sparkline(
    curves: Mapping[str, Sequence[float]],
    *,
    title: str,
    names: Mapping[str, str] = MappingProxyType({}),
    unit: str = "",
    width: int = 240,
) -> str:
    """Small curves of the last seconds over one another, from zero up.

    Parameters
    ----------
    curves : mapping
        Class of the stylesheet (``"main"``, ``"level"``, ...) to values.
    title, unit : str
        What is shown.
    names : mapping, optional
        Class to what its curve is called; written in place of the title, each in its colour.
    width : int
        In pixels.
    """
    height = 44
    top = max((v for values in curves.values() for v in values if not math.isnan(v)), default=0.0)
    drawn = "".join(
        f'<polyline class="s-{name}" fill="none" stroke-width="1.5" '
        f'points="{points(values, width, height, top)}"/>'
        for name, values in curves.items()
    )
    named = [f'<tspan class="f-{name}">{escape(text)}</tspan>' for name, text in names.items()]
    told = ", ".join(named) if named else escape(title)
    words = f'<text x="0" y="{height + 13}" class="muted">{told}</text>'
    most = f'<text x="{width}" y="{height + 13}" text-anchor="end" class="muted">' + (
        f"up to {top:,.0f}{unit}</text>" if top >= 10 else f"up to {top:,.2g}{unit}</text>"
    )
    rule = f'<path class="rule" d="M0 {height}h{width}"/>'
    return _svg(width, height + 18, rule + drawn + words + most, title)


def lines(
    curves: Iterable[tuple[str, str, Sequence[tuple[float, float]]]],
    *,
    ticks: tuple[Sequence[tuple[float, str]], Sequence[tuple[float, str]]],
    labels: tuple[str, str],
    marker: float | None = None,
    height: int = 330,
) -> str:
    """Curves over two axes that have been scaled to 0..1 already.

    Parameters
    ----------
    curves : iterable of (class, dash, points)
        ``dash`` is an SVG dash pattern, "" for a solid line.
    ticks : pair of sequences of (place, text)
        For x and y.
    labels : pair of str
        Names of the axes.
    marker : float, optional
        Where a vertical line stands.
    height : int
        In pixels.
    """
    left, bottom, right, above = 62, 40, WIDTH - 30, 24
    wide, tall = right - left, height - bottom - above

    def at(x: float, y: float) -> tuple[int, int]:
        return left + round(x * wide), height - bottom - round(y * tall)

    inside = [f'<path class="rule" d="M{left} {above}V{height - bottom}H{right}"/>']
    for place, text in ticks[0]:
        x, y = at(place, 0)
        inside.append(f'<path class="rule" d="M{x} {y}v5"/>')
        inside.append(f'<text x="{x}" y="{y + 17}" text-anchor="middle">{escape(text)}</text>')
    for place, text in ticks[1]:
        x, y = at(0, place)
        inside.append(f'<path class="rule" d="M{x} {y}H{right}" opacity=".5"/>')
        inside.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{escape(text)}</text>')
    if marker is not None:
        x, y = at(marker, 0)
        inside.append(
            f'<path d="M{x} {y}V{above}" stroke-dasharray="3 3" stroke-width="1.5" '
            'style="stroke:var(--jp-ui-font-color2,#666)"/>'
        )
    for name, dash, places in curves:
        text = " ".join("{},{}".format(*at(x, y)) for x, y in places)
        pattern = f' stroke-dasharray="{dash}"' if dash else ""
        inside.append(
            f'<polyline class="s-{name}" fill="none" stroke-width="2.2"{pattern} points="{text}"/>'
        )
    middle = left + wide // 2
    inside.append(f'<text x="{middle}" y="{height - 4}" text-anchor="middle">{labels[0]}</text>')
    inside.append(f'<text x="0" y="11" class="muted">{labels[1]}</text>')
    return _svg(WIDTH, height, "".join(inside), f"{labels[1]} over {labels[0]}")


# ---- the rolling timeline --------------------------------------------------------------


def timeline(array: Any, *, window_ns: int, lanes: int = 10) -> str:
    """Calls of the last moments: a lane for the loop and one for each of the last connections.

    Parameters
    ----------
    array : numpy.ndarray
        Records, as ``Recording.array()`` gives them.
    window_ns : int
        How much time is shown, up to the last record's end.
    lanes : int
        Connections at most, those that were busy last.
    """
    height = (lanes + 1) * LANE + 22
    if not len(array):
        words = f'<text x="{WIDTH // 2}" y="{height // 2}" text-anchor="middle" class="muted">'
        return _svg(WIDTH, height, words + "no events yet</text>", "timeline, empty")
    end = int(array["end_ns"][-1])
    begin = end - window_ns
    rows = array[array["end_ns"] >= begin]
    shown = _last_serials(rows["conn"].tolist(), lanes)
    drawn = _drawn(rows, shown, begin, (WIDTH - LEFT - 4) / window_ns)
    names = "".join(
        f'<text x="0" y="{lane * LANE + 15}">{f"conn {conn}" if conn else "loop"}</text>'
        for conn, lane in shown.items()
    )
    foot = (
        f'<text x="{LEFT}" y="{height - 6}" class="muted">\N{MINUS SIGN}{_span(window_ns)}</text>'
        f'<text x="{WIDTH}" y="{height - 6}" text-anchor="end" class="muted">0</text>'
    )
    words = drawn + names + foot + _legend(height - 6)
    return _svg(WIDTH, height, words, "timeline of the last connections")


def _legend(y: int) -> str:
    """What the colours mean, between the two ends of the axis."""
    x, parts = LEFT + 70, []
    for name, text in _MEANINGS:
        mark = f"M{x + 4} {y}l-4-7h8z" if name == "ink" else f"M{x} {y - 8}h9v9h-9z"
        parts.append(f'<path class="{name}" d="{mark}"/>')
        parts.append(f'<text x="{x + 13}" y="{y}" class="muted">{text}</text>')
        x += 22 + round(6.1 * len(text))
    return "".join(parts)


def _drawn(rows: Any, shown: Mapping[int, int], begin: int, scale: float) -> str:
    """One path for each colour; what falls on the same pixels is there once."""
    serials = np.array(sorted(shown), dtype="u4")
    lanes = np.array([shown[serial] for serial in sorted(shown)])
    rows = rows[np.isin(rows["conn"], serials)]
    y = lanes[np.searchsorted(serials, rows["conn"])] * LANE + 7
    x = LEFT + np.maximum((rows["start_ns"] - begin) * scale, 0).astype("i8")
    right = LEFT + ((rows["end_ns"] - begin) * scale).astype("i8")
    wide = np.maximum(right - x, 1)
    group = _GROUPS[rows["op"]]
    group[(rows["result"] < 0) & (rows["op"] != _WAIT)] = _ALARM
    group[rows["op"] == _READY] = _MARK
    paths = []
    for number in np.unique(group).tolist():
        chosen = group == number
        boxes = np.unique(np.stack([x[chosen], y[chosen], wide[chosen]], axis=1), axis=0).tolist()
        if number == _MARK:
            text = "".join(f"M{left} {top}l-3-6h6z" for left, top, _ in boxes)
        else:
            text = "".join(f"M{left} {top}h{w}v9h-{w}z" for left, top, w in boxes)
        paths.append(f'<path class="{_CLASSES[number]}" d="{text}"/>')
    return "".join(paths)


def _last_serials(conns: Sequence[int], lanes: int) -> dict[int, int]:
    """Lane of each connection shown; the loop has the first."""
    last = dict.fromkeys(reversed(conns))
    last.pop(0, None)
    chosen = sorted(list(last)[:lanes])
    return {0: 0} | {conn: lane for lane, conn in enumerate(chosen, 1)}


def _span(ns: int) -> str:
    for size, name in ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")):
        if ns >= size:
            return f"{ns / size:g} {name}"
    return f"{ns} ns"


# ---- the stepper's strip ---------------------------------------------------------------


def strip(
    readable: Sequence[int], returned: Mapping[str, Sequence[str | None]], *, most: int = 24
) -> str:
    """Bytes in the buffer after each step, and above them what each epoll returned.

    Parameters
    ----------
    readable : sequence of int
        Bytes in the kernel's buffer after each step.
    returned : mapping
        Arm ("level", "edge") to what its wait returned at each step: "" for nothing,
        None where it was not asked.
    most : int
        Steps shown, the last ones.
    """
    first = max(len(readable) - most, 0)
    shown = list(readable)[first:]
    wide = (WIDTH - LEFT - 8) // most
    top = max([*shown, 1])
    base, tall = 128, 60
    inside = [
        f'<path class="rule" d="M{LEFT} {base}H{WIDTH}"/>',
        f'<text x="0" y="{base}" >bytes</text>',
    ]
    for lane, (arm, masks) in enumerate(returned.items()):
        y = 18 + 24 * lane
        inside.append(f'<text x="0" y="{y + 4}" class="f-{arm}">{arm}</text>')
        for i, mask in enumerate(list(masks)[first:]):
            if mask is not None:
                x = LEFT + i * wide + wide // 2
                hollow = 'fill="none"' if not mask else f'class="f-{arm} s-{arm}"'
                ring = f'class="s-{arm}" ' if not mask else ""
                inside.append(f'<circle {ring}{hollow} cx="{x}" cy="{y}" r="6" stroke-width="2"/>')
    for i, n_bytes in enumerate(shown):
        x, height = LEFT + i * wide, round(n_bytes / top * tall)
        inside.append(
            f'<rect class="f-recv" x="{x + 2}" y="{base - height}" width="{wide - 4}" '
            f'height="{height}"/>'
            f'<text x="{x + wide // 2}" y="{base + 14}" text-anchor="middle" class="muted">'
            f"{first + i}</text>"
        )
        if n_bytes:
            inside.append(
                f'<text x="{x + wide // 2}" y="{base - height - 3}" text-anchor="middle">'
                f"{_short(n_bytes)}</text>"
            )
    inside.append(f'<text x="0" y="{base + 14}" class="muted">step</text>')
    return _svg(WIDTH, base + 20, "".join(inside), "history of the steps")


def _short(n_bytes: int) -> str:
    return f"{n_bytes}" if n_bytes < 1000 else f"{n_bytes / 1000:.3g}k"
