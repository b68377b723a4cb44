"""What the dashboard shows of a server and its clients, as HTML."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from epolllab.widgets import svg
from epolllab.widgets.live import Sample
from epolllab.widgets.load import Load
from epolllab.widgets.panel import error_html, muted

__all__ = ["clients", "curves", "formatted", "interest", "numbers"]

ROWS_SHOWN = 8
_CURVES = (
    ((("requests_per_s", "requests/s", "main"), ("wakeups_per_s", "wakeups/s", "other")), ""),
    ((("batch", "descriptors per wakeup", "main"),), ""),
    ((("p50_us", "latency p50", "main"), ("p99_us", "p99", "send")), " µs"),
)
"""Column, label and colour of each curve of a sparkline, and the unit."""

_SOURCES = {
    "epoll": "the kernel's interest list, from /proc",
    "poll": "poll and select keep no list in the kernel; this is the program's own",
    "io_uring": "a ring has no interest list; this is what is pending for each descriptor",
}


def formatted(sample: Sample) -> list[tuple[str, str, str]]:
    """Name, value and hint of each number."""

    def text(value: float, digits: int = 0, unit: str = "") -> str:
        return "\N{EN DASH}" if math.isnan(value) else f"{value:,.{digits}f}{unit}"

    latency = "in the server, from the wakeup to the last byte sent"
    return [
        ("requests/s", text(sample.requests_per_s), "responses sent per second"),
        ("wakeups/s", text(sample.wakeups_per_s), "waits that returned, per second"),
        ("batch", text(sample.batch, 2), "descriptors that one wait returned, on average"),
        ("p50", text(sample.p50_us, 0, " µs"), f"half of the latencies are below it: {latency}"),
        ("p99", text(sample.p99_us, 0, " µs"), f"99 % of the latencies are below it: {latency}"),
        ("connections", f"{sample.connections:,}", "open now"),
        ("requests", f"{sample.requests:,}", "since the server started"),
    ]


def numbers(sample: Sample, *, stale: bool) -> str:
    """The numbers; those of a server that has stopped are grey."""
    parts = "".join(
        f"<div class='epl-number epl-n-{name.partition('/')[0]}' title='{escape(hint)}'>"
        f"<span class='epl-muted'>{name}</span><b>{value}</b></div>"
        for name, value, hint in formatted(sample)
    )
    return f"<div class='epl-figures{_stale(stale)}'>{parts}</div>"


def curves(samples: Sequence[Sample], *, stale: bool) -> str:
    """The last half minute as sparklines."""
    charts = ""
    for names, unit in _CURVES:
        values = {
            label: (color, [getattr(sample, column) for sample in samples])
            for column, label, color in names
        }
        charts += f"<div style='width:240px'>{svg.sparkline(values, unit=unit)}</div>"
    return f"<div class='epl-sparklines{_stale(stale)}'>{charts}</div>"


def _stale(stale: bool) -> str:
    return " epl-stale" if stale else ""


def clients(loads: Iterable[tuple[Load | None, str]], warning: str) -> str:
    """A line for each load, with its warnings; `warning` is shown until the first round ends."""
    parts = []
    for load, name in loads:
        if load is None:
            continue
        if load.error:
            parts.append(error_html(load.error))
            continue
        line, notes = f"<b>{name}</b> {load.state}", [warning] if warning else []
        warning = ""
        if load.summary:
            line += f"; round {load.rounds}: {escape(load.summary[0])}"
            notes = load.summary[1:]
        warnings = "".join(f"<div class='epl-warn'>{escape(note)}</div>" for note in notes)
        parts.append(f"<div>{line}{warnings}</div>")
    return "".join(parts)


def interest(found: Any, poller: str) -> str:
    """The last rows of an interest list, and empty ones up to their usual number."""
    source = _SOURCES.get(poller, _SOURCES["poll"])
    shown = found.tail(ROWS_SHOWN)
    if len(found) > len(shown):
        source = f"{source}, the last {len(shown)} of {len(found):,}"
    columns = ("fd", "kernel_names", "own_names", "where")
    rows = [
        f"<td>{fd}</td><td><code>{escape(kernel or '')}</code></td>"
        f"<td><code>{escape(own or '')}</code></td><td>{where}</td>"
        for fd, kernel, own, where in zip(*(shown[name] for name in columns), strict=True)
    ]
    return _interest_table(source, rows)


def no_interest() -> str:
    """The place of the interest list, without a server."""
    return _interest_table("no server is running", [])


def _interest_table(source: str, rows: list[str]) -> str:
    filled = rows + ["<td colspan='4'><code>&nbsp;</code></td>"] * (ROWS_SHOWN - len(rows))
    return (
        f"<div class='epl-title'>Interest list</div>{muted(source)}"
        "<table class='epl-table'><tr><th>fd</th><th>kernel</th><th>program</th>"
        f"<th>where</th></tr>{''.join(f'<tr>{row}</tr>' for row in filled)}</table>"
    )
