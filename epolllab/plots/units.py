"""Numbers as text: durations, sizes and counts with their units, for charts and widgets."""

from typing import NamedTuple

__all__ = [
    "Unit", "byte_size", "duration", "number", "plural", "round_duration", "unit_for", "whole",
]  # fmt: skip


class Unit(NamedTuple):
    """A unit of time."""

    ns: float
    name: str


UNITS = (Unit(1e9, "s"), Unit(1e6, "ms"), Unit(1e3, "µs"), Unit(1.0, "ns"))


def unit_for(span_ns: float) -> Unit:
    """The largest unit of which the span has at least two."""
    return next((unit for unit in UNITS if span_ns >= 2 * unit.ns), UNITS[-1])


def duration(ns: float) -> str:
    """Three significant digits, whole nanoseconds at most: ``"12.3 µs"``, ``"601 ns"``."""
    unit = next((unit for unit in UNITS if abs(ns) >= unit.ns), UNITS[-1])
    value = ns / unit.ns
    digits = 0 if abs(value) >= 100 or unit.ns == 1 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit.name}".replace("-", "\N{MINUS SIGN}")


def round_duration(ns: float, _place: object = None) -> str:
    """Without trailing zeros, for the ticks of an axis: ``"10 µs"``, ``"0.5 ns"``."""
    unit = next((unit for unit in UNITS if ns >= unit.ns * 0.9995), UNITS[-1])
    return f"{ns / unit.ns:.3g} {unit.name}"


def byte_size(n_bytes: float, _place: object = None) -> str:
    """A number of bytes: ``"16.4 kB"``."""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor * 0.9995:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes:g} B"


def number(value: float, _place: object = None) -> str:
    """Three significant digits, whole from 1,000 on: ``"1.87"``, ``"2,000"``."""
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def whole(value: float, _place: object = None) -> str:
    """Without decimals: ``"10,000"``."""
    return f"{value:,.0f}"


def plural(n: int, noun: str) -> str:
    """A count with its noun: ``"1 wait"``, ``"1,200 waits"``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
