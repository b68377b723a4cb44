"""plots.units."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    pass


class _Unit(NamedTuple):
    ns: float
    name: str


_UNITS = (_Unit(1e9, "s"), _Unit(1e6, "ms"), _Unit(1e3, "µs"), _Unit(1.0, "ns"))


def _unit(span_ns: float) -> _Unit:
    """Choose the unit in which a span has at least two before the point."""
    return next((unit for unit in _UNITS if span_ns >= 2 * unit.ns), _UNITS[-1])


def _duration(ns: float) -> str:
    """Write a time with its unit and three digits: ``"12.3 µs"``."""
    unit = next((unit for unit in _UNITS if abs(ns) >= unit.ns), _UNITS[-1])
    value = ns / unit.ns
    digits = 0 if abs(value) >= 100 or unit.ns == 1 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit.name}".replace("-", "\N{MINUS SIGN}")
