"""Charts as SVG text in the colours of JupyterLab's theme, light or dark.

A display that is redrawn ten times a second cannot wait for matplotlib: a sparkline takes
less than a millisecond here, a matplotlib chart a hundred. Charts that change only on a click
are drawn by matplotlib; :func:`from_figure` embeds them.

Colours are CSS variables of the style sheet :func:`css`, which every panel carries, so a
chart follows the theme without being redrawn.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from epolllab.plots import style
from epolllab.plots.alternative import alt_text

__all__ = ["WIDTH", "css", "from_figure", "sparkline"]

WIDTH = 760
LEAST_TEXT = 11
"""Height of the smallest text, in pixels."""


def _colors(theme: style.Theme) -> dict[str, str]:
    series = {f"series-{place}": color for place, color in enumerate(theme.series[1:], 1)}
    return {
        **theme.variants, **theme.spans, **theme.ops, **series, "main": theme.main,
        "alarm": theme.alarm, "ink": theme.ink, "muted": theme.muted, "faint": theme.faint,
        "paper": theme.paper,
    }  # fmt: skip


def css() -> str:
    """The style sheet of every panel."""
    light, dark = (
        "".join(f"--epl-{name}:{color};" for name, color in _colors(theme).items())
        for theme in (style.LIGHT, style.DARK)
    )
    classes = "".join(
        f".epl .f-{n}{{fill:var(--epl-{n})}}.epl .s-{n}{{stroke:var(--epl-{n})}}"
        f".epl .t-{n}{{color:var(--epl-{n})}}"
        for n in _colors(style.LIGHT)
    )
    return f".epl{{{light}}}[data-jp-theme-light='false'] .epl{{{dark}}}{classes}{_ARROW}{_FIXED}"


# A drop-down list's arrow is black in every theme of JupyterLab; this one is visible in both.
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
.epl .widget-html-content{overflow-x:auto}
.epl .widget-html-content svg{display:block;width:100%;height:auto;min-width:760px;max-width:760px;
 stroke-linejoin:round}
.epl .epl-curves .widget-html-content svg{min-width:0}
.epl svg text{font:11px var(--jp-ui-font-family,sans-serif);fill:var(--jp-ui-font-color1,#222)}
.epl svg .muted{fill:var(--jp-ui-font-color2,#666)}
.epl svg .rule{stroke:var(--jp-border-color2,#ddd);stroke-width:1;fill:none}
.epl svg .ink{fill:var(--jp-ui-font-color1,#222)}
.epl .epl-title{font-weight:600;margin:2px 0}
.epl .epl-muted{color:var(--jp-ui-font-color2,#666)}
.epl .epl-figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(104px,1fr));
 gap:4px 8px}
.epl .epl-number b{display:block;font-size:18px;font-weight:600;
 font-variant-numeric:tabular-nums}
.epl .epl-sparklines{display:flex;flex-wrap:wrap;gap:4px 22px}
.epl .epl-stale b,.epl .epl-stale tspan{color:var(--epl-muted);fill:var(--epl-muted)}
.epl .epl-stale polyline{stroke:var(--epl-muted)}
.epl .epl-pending .widget-label,.epl .epl-pending .widget-label-basic{font-weight:700}
.epl .epl-pending .widget-label::after,.epl .epl-pending .widget-label-basic::after{content:"*"}
.epl .epl-alarm{color:var(--epl-alarm);font-weight:600;white-space:pre-wrap;
 overflow-wrap:anywhere}
.epl .epl-state:has(.epl-alarm){flex-basis:100%}
.epl .epl-gone{display:none}
.epl.jupyter-widgets-disconnected>.epl-gone{display:block;font-weight:600;padding:8px 10px;
 margin-bottom:6px;border:2px solid var(--epl-alarm)}
.epl.jupyter-widgets-disconnected>:not(.epl-gone){opacity:.5;pointer-events:none}
.epl.jupyter-widgets-disconnected::before,.epl .jupyter-widgets-disconnected::before{content:none}
.epl .epl-alarm pre{color:inherit;font-size:12px;font-weight:normal;margin:4px 0;
 max-height:240px;overflow:auto;
 white-space:pre-wrap;background:none}
.epl .epl-warn{font-weight:600;overflow-wrap:anywhere}
.epl .epl-warn::before{content:"\\26a0\\a0"}
.epl table.epl-table{border-collapse:collapse;font-size:12px}
.epl table.epl-table td,.epl table.epl-table th{text-align:left;padding:1px 12px 1px 0;
 vertical-align:top;color:var(--jp-ui-font-color1,#222)}
.epl table.epl-table th{color:var(--jp-ui-font-color2,#666);font-weight:normal}
.epl table.epl-table tr{background:none}
.epl table.epl-table code{font-size:12px;color:inherit;background:none}
.epl .epl-sides{display:flex;flex-wrap:wrap;gap:8px}
.epl .epl-side{flex:1 1 240px;border:1px solid var(--jp-border-color2,#ddd);border-left-width:4px;
 border-radius:3px;padding:4px 10px}
.epl .widget-html.epl-clients{min-height:58px}
.epl .epl-side big{font-size:20px;font-weight:600}
.epl .epl-why{padding:6px 0;font-size:14px;max-width:52em}
@media (max-width:600px){.epl{padding:8px} .epl .widget-html.epl-clients{min-height:112px}
 .epl:not(.epl-stepper) .widget-dropdown,.epl:not(.epl-stepper) .widget-text,
 .epl .widget-hslider{width:100%!important} .epl table.epl-table td{white-space:nowrap}}
.epl button:focus-visible{outline:2px solid var(--jp-brand-color1,#1976d2);outline-offset:1px}
"""


def _svg(width: int, height: int, inside: str, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{inside}</svg>"
    )


def from_figure(figure: Figure, name: str = "") -> str:
    """A matplotlib figure drawn in the light theme, as SVG text that follows the page's theme.

    Its text alternative is the figure's, after `name`.
    """
    _enlarge(figure)
    buffer = io.StringIO()
    with style.use(dark=False), mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    # matplotlib's style sheet would apply to the whole page, and its metadata is not shown.
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for meaning, color in _colors(style.LIGHT).items():
        body = body.replace(color.lower(), f"var(--epl-{meaning})")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    label = ": ".join(filter(None, (name, alt_text(figure))))
    return f'<svg {box[0]} role="img" aria-label="{escape(label)}">{body}'


def _enlarge(figure: Figure) -> None:
    """Make small text of a figure readable at the width that a panel shows it with."""
    least = LEAST_TEXT * 72 * figure.get_figwidth() / WIDTH
    texts: Any = figure.findobj(Text)
    for text in texts:
        if text.get_fontsize() < least:
            text.set_fontsize(least)


def points(values: Sequence[float], width: int, height: int, top: float) -> str:
    """Coordinates of values from left to right, the newest at the right end, without NaN."""
    n = max(len(values) - 1, 1)
    scale = (height - 2) / top if top > 0 else 0.0
    places = (
        (i * width // n, height - 1 - int(min(value, top) * scale))
        for i, value in enumerate(values)
        if not math.isnan(value)
    )
    return " ".join(map("%d,%d".__mod__, places))


def sparkline(
    curves: Mapping[str, tuple[str, Sequence[float]]], *, unit: str = "", width: int = 240
) -> str:
    """Small curves over each other, from zero up.

    Parameters
    ----------
    curves : mapping of str to (str, sequence of float)
        Label to colour class (``"main"``, ``"level"``, ...) and values. Each of several
        labels follows a square in the colour of its curve.
    unit : str
        Follows the largest value.
    width : int
        In pixels.
    """
    height = 44
    top = max((v for _, vs in curves.values() for v in vs if not math.isnan(v)), default=0.0)
    drawn = "".join(
        f'<polyline class="s-{name}" fill="none" stroke-width="1.5" '
        f'points="{points(values, width, height, top)}"/>'
        for name, values in curves.values()
    )
    labels = " ".join(
        f'<tspan class="f-{name}">\N{BLACK SQUARE}</tspan> {escape(label)}'
        if len(curves) > 1
        else escape(label)
        for label, (name, _) in curves.items()
    )
    largest = _short(top)
    inside = (
        f'<path class="rule" d="M0 {height}h{width}"/>{drawn}'
        f'<text x="0" y="{height + 13}" class="muted">{labels}</text>'
        f'<text x="{width}" y="{height + 13}" text-anchor="end" class="muted">'
        f"up to {largest}{unit}</text>"
    )
    said = (f"{label} {_course(values, unit)}" for label, (_, values) in curves.items())
    return _svg(width, height + 18, inside, f"{'; '.join(said)}.")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:,.2g}"


def _course(values: Sequence[float], unit: str) -> str:
    """The newest of the values, their least and their largest, in words."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "unknown"
    least, most = _short(min(known)), _short(max(known))
    return f"now {_short(known[-1])}{unit}, between {least} and {most}{unit}"
