"""Small HTML cards for notebook cells, in JupyterLab's own colours, light and dark."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Literal

from epolllab.checks import check_mapping, check_text, checked

__all__ = ["Tone", "box", "card", "linked", "table", "text"]

Tone = Literal["plain", "muted", "error", "success", "warning"]

_TONES: dict[Tone, str] = {
    "plain": "",
    "muted": "color:var(--jp-ui-font-color2,#666)",
    "error": "color:var(--jp-error-color0,#b3261e);font-weight:600",
    "success": "color:var(--jp-success-color0,#1b7837);font-weight:600",
    "warning": "color:var(--jp-warn-color0,#8a5a00);font-weight:600",
}
_NAMED = re.compile(
    r"\b(?P<page>[a-z]\w*)\((?P<part>[1-8])\)"
    r"|\bRFC (?P<rfc>\d{3,5})\b"
    r"|\b(?P<file>(?:drivers|fs|include|io_uring|kernel|net)/[\w/]+\.[ch])\b"
    r"|\b(?P<site>[a-z]+\.com/[\w/.-]+\w)"
)
_ADDRESSES = {
    "page": "https://man7.org/linux/man-pages/man{part}/{page}.{part}.html",
    "rfc": "https://www.rfc-editor.org/rfc/rfc{rfc}",
    "file": "https://github.com/torvalds/linux/blob/master/{file}",
    "site": "http://{site}",
}
"""Where that is which a source names."""

_BORDER = "border:1px solid var(--jp-border-color2,#ccc);border-radius:4px"
_CELL = "text-align:left;vertical-align:top;padding:1px 12px 1px 0"
_CODE = "font-family:var(--jp-code-font-family,monospace);font-size:90%"


@checked(title=check_text, rows=check_mapping, alarm=check_text)
def card(title: str, rows: Mapping[str, object], alarm: str | None = None) -> str:
    """Return HTML that shows a title over a two-column table, without scripts or style sheets.

    Parameters
    ----------
    title : str
        In bold; escaped.
    rows : mapping
        Name to value, in order; both escaped. ``None`` is left out.
    alarm : str, optional
        An error, in red below the table.
    """
    cells = "".join(
        f"<tr><td style='{_CELL};{_TONES['muted']}'>{escape(str(name))}</td>"
        f"<td style='{_CELL}'>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value is not None
    )
    values = f"<table style='border-collapse:collapse;margin:4px 0 0'>{cells}</table>"
    return box(title, values, text(alarm or "", "error"))


def box(title: str, *parts: str) -> str:
    """Return a bordered box with a title, which is escaped, over parts that are HTML."""
    return (
        f"<div style='display:inline-block;max-width:60em;padding:8px 14px;{_BORDER}'>"
        f"<b>{escape(title)}</b>{''.join(parts)}</div>"
    )


def text(words: str, tone: Tone = "plain") -> str:
    """Return a paragraph of text, which is escaped; nothing for ""."""
    style = f"white-space:pre-wrap;{_TONES[tone]}"
    return f"<div style='{style}'>{escape(words)}</div>" if words else ""


def linked(words: str, tone: Tone = "plain") -> str:
    """Return :func:`text` with links to the manual pages, RFCs and kernel files that it names."""
    return _NAMED.sub(_link, text(words, tone))


def _link(match: re.Match[str]) -> str:
    names = match.groupdict()
    to = next(address for name, address in _ADDRESSES.items() if names[name]).format(**names)
    return f"<a href='{to}' target='_blank' rel='noopener'>{match[0]}</a>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of code with a header; all cells are escaped."""
    titles = "".join(f"<th style='{_CELL};{_TONES['muted']}'>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr style='background:none'>"
        + "".join(f"<td style='{_CELL};{_CODE}'>{escape(str(cell))}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return (
        "<table style='border-collapse:collapse;margin:4px 0'>"
        f"<tr style='background:none'>{titles}</tr>{body}</table>"
    )
