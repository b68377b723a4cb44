"""The command ``epolllab run``: the load generator in a terminal."""

import json
import math
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from epolllab.clients.options import resolve_target
from epolllab.clients.result import Run
from epolllab.clients.run import run_clients
from epolllab.kernel import addresses

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FAILED", "INTERRUPTED", "NOT_RUN", "SUCCEEDED", "histogram", "run_url"]

Say = Callable[[str], None]

SUCCEEDED, FAILED, NOT_RUN, INTERRUPTED = 0, 1, 2, 130
"""Exit status; the last one is what shells give a program that Ctrl-C has ended."""

_FAILING = 400
"""HTTP statuses from here on are failures."""

_OPTIONS = ("connections", "requests", "duration", "rate", "keep_alive", "processes", "timeout")
_MOST_BARS, _BAR_WIDTH = 16, 40
_STEPS = (1, 1.5, 2, 3, 5, 7, 10)
"""Edges of bars in a power of ten; every second one, or only 1 and 10, where these are many."""


def run_url(options: Namespace, say: Say) -> int:
    """Send requests to ``options.url``, say what was measured, and return the exit status."""
    try:
        _check_url(options.url)
        target = resolve_target(options.url, allow_remote=True)
        if not addresses.is_loopback(target.address):
            _warn(
                f"{target.authority} is not this machine's loopback: put load only on servers "
                "that are meant for it. Latency includes the network"
            )
        given = {name: getattr(options, name) for name in _OPTIONS}
        given |= {"payload": _payload(options.data), "progress": sys.stderr.isatty()}
        run = run_clients(options.url, protocol="http", record=False, allow_remote=True, **given)
    except (OSError, ValueError, RuntimeError) as error:
        _warn(f"{error}")
        return NOT_RUN
    say(json.dumps(_as_json(run, options.url)) if options.json else _as_text(run))
    if run.interrupted:
        return INTERRUPTED
    sums = run.summary()
    is_good = len(run) and not sums["failed"] and not _n_refused(sums)
    return SUCCEEDED if is_good else FAILED


def _warn(line: str) -> None:
    sys.stderr.write(f"epolllab run: {line}\n")


def _check_url(url: str) -> None:
    """Refuse what is no URL of HTTP, and https with the reason."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        raise ValueError(
            f"URL must begin with http://, not {url!r}: these clients speak no TLS, whose cost "
            "would hide that of the system calls. Use the server's plain port, such as the one "
            "behind its TLS proxy"
        )
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"URL must be such as http://127.0.0.1:8000/, not {url!r}")
    if parts.username is not None:
        raise ValueError("URL must have no user name and password, which would not be sent")


def _payload(data: str | None) -> bytes | None:
    """The body of a POST: the text itself, or the content of the file after ``@``."""
    if data is None:
        return None
    return Path(data[1:]).read_bytes() if data.startswith("@") else data.encode()


def _n_refused(sums: Any) -> int:
    """Responses whose status is that of an error."""
    statuses = {name: n for name, n in sums.items() if str(name).startswith("status ")}
    return sum(n for name, n in statuses.items() if int(name.split()[1]) >= _FAILING)


# ---- output -----------------------------------------------------------------------------


def _as_text(run: Run) -> str:
    head = repr(run).strip("<>").partition(";")[0].removeprefix("epolllab ")
    sums = {name: _number(value) for name, value in run.summary().items()}
    wide, right = (max(map(len, map(str, side))) for side in (sums, sums.values()))
    blocks = [head, "\n".join(f"  {n:<{wide}}  {text:>{right}}" for n, text in sums.items())]
    if bars := _bars(histogram(_latency_us(run))):
        blocks.append(bars)
    blocks += ["\n".join(f"note: {note}" for note in run.notes)] if run.notes else []
    return "\n\n".join(blocks)


def _number(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if math.isnan(value) else f"{value:,.3f}"


def _as_json(run: Run, url: str) -> dict[str, Any]:
    options = ("connections", "requests", "duration", "rate", "keep_alive", "path", "payload_bytes",
               "processes", "timeout")  # fmt: skip
    facts = ("kernel", "cpu", "python", "started")
    sums = run.summary().to_dict()
    return {
        "url": url,
        "options": {name: run.metadata[name] for name in options},
        "environment": {name: run.metadata.get(name) for name in facts},
        "interrupted": run.interrupted,
        "summary": {name: _finite(value) for name, value in sums.items()},
        "errors": run.errors(),
        "histogram": [
            {"from_us": low, "to_us": high, "requests": n}
            for low, high, n in histogram(_latency_us(run))
        ],
        "notes": run.notes,
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _latency_us(run: Run) -> "np.ndarray[Any, np.dtype[np.float64]]":
    column = run.requests()["latency_ns"].dropna()
    return column.to_numpy(dtype=float) / 1e3


def histogram(
    values: "np.ndarray[Any, np.dtype[np.float64]]",
) -> list[tuple[float, float, int]]:
    """Count values above 0 between round edges that grow by about the same factor.

    Returns
    -------
    list of (float, float, int)
        Lower edge, which is included, upper edge, and the number of values; without bars of 0
        at both ends.
    """
    import numpy as np

    known = values[values > 0]
    if not len(known):
        return []
    least, most = float(np.min(known)), float(np.max(known))
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    every = [float(f"{step * 10.0**power:.2g}") for power in powers for step in _STEPS[:-1]]
    edges = np.array([*every, 10.0 ** (powers[-1] + 1)])
    for chosen in (edges, edges[::2], edges[:: len(_STEPS) - 1]):
        counts, _ = np.histogram(known, chosen)
        inside = np.flatnonzero(counts)
        first, last = int(inside[0]), int(inside[-1]) + 1
        if last - first <= _MOST_BARS:
            break
    bars = zip(chosen[first:last], chosen[first + 1 : last + 1], counts[first:last], strict=True)
    return [(float(low), float(high), int(n)) for low, high, n in bars]


def _bars(rows: list[tuple[float, float, int]]) -> str:
    """A histogram of latencies in ASCII; a bar is at least one character where there are any."""
    if not rows:
        return ""
    most = max(n for _, _, n in rows)
    labels = [(_time(low), _time(high)) for low, high, _ in rows]
    left, right = (max(len(label[side]) for label in labels) for side in (0, 1))
    wide = max(len(f"{n:,}") for _, _, n in rows)
    lines = [
        f"  {low:>{left}} - {high:<{right}}  {n:>{wide},}  {'#' * math.ceil(n / most * _BAR_WIDTH)}"
        for (low, high), (_, _, n) in zip(labels, rows, strict=True)
    ]
    return "\n".join(["latency", *(line.rstrip() for line in lines)])


def _time(us: float) -> str:
    for factor, unit in ((1e6, "s"), (1e3, "ms")):
        if us >= factor:
            return f"{us / factor:g} {unit}"
    return f"{us:g} µs"
