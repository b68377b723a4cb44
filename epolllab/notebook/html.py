"""Small HTML cards for notebook cells, in JupyterLab's own colours, light and dark."""

from collections.abc import Mapping
from html import escape

__all__ = ["card"]


_BORDER = "border:1px solid var(--jp-border-color2,#ccc);border-radius:4px"
_MUTED = "color:var(--jp-ui-font-color2,#666)"
_ALARM = "color:var(--jp-error-color0,#b3261e);font-weight:600"


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
        f"<tr><td style='text-align:left;padding:1px 12px 1px 0;{_MUTED}'>{escape(str(name))}</td>"
        f"<td style='text-align:left;padding:1px 0'>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value is not None
    )
    error = f"<div style='{_ALARM};white-space:pre-wrap'>{escape(alarm)}</div>" if alarm else ""
    return (
        f"<div style='display:inline-block;padding:8px 14px;{_BORDER}'><b>{escape(title)}</b>"
        f"<table style='border-collapse:collapse;margin:4px 0 0'>{cells}</table>{error}</div>"
    )
