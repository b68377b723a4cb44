"""Validation of arguments, used by every function and option of the package.

Each check returns the value in its plain Python type, or raises TypeError or ValueError
with a message that begins with the parameter's name.
"""

import difflib
import math
import operator
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from typing import Any

__all__ = [
    "check_bool",
    "check_bytes",
    "check_choice",
    "check_fields",
    "check_int",
    "check_number",
    "check_text",
]


def check_choice(name: str, value: object, allowed: Collection[str]) -> str:
    """Return `value` if it is one of `allowed`; the error suggests the nearest name."""
    if isinstance(value, str) and value in allowed:
        return value
    near = difflib.get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}{hint}")


def check_int(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """Return `value` as an int within the bounds; a NumPy integer is one, a bool is not."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    number = operator.index(value)
    _check_range(name, number, "", least, most)
    return number


def check_number(
    name: str,
    value: object,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    unit: str = "",
) -> float:
    """Return `value` as a finite float within the bounds; `above` excludes its own value."""
    what = f"a number of {unit}" if unit else "a number"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {what}, not {value!r}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    _check_range(name, number, unit, least, most, above)
    return number


def _check_range(
    name: str,
    number: float,
    unit: str,
    least: float | None,
    most: float | None,
    above: float | None = None,
) -> None:
    too_low = (least is not None and number < least) or (above is not None and number <= above)
    if not too_low and (most is None or number <= most):
        return
    given = [("at least", least), ("above", above), ("at most", most)]
    bounds = [f"{word} {bound:,.15g}" for word, bound in given if bound is not None]
    suffix = f" {unit}" if unit else ""
    raise ValueError(f"{name} must be {' and '.join(bounds)}{suffix}, not {number!r}")


def check_bool(name: str, value: object) -> bool:
    """Return `value` if it is True or False; a string such as ``"no"`` would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def check_text(name: str, value: object) -> str:
    """Return `value` if it is a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    return value


def check_bytes(name: str, value: Any, *, allow_empty: bool = True) -> bytes:
    """Return a bytes-like `value` as bytes."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}: {value!r:.80}")
    if not value and not allow_empty:
        raise ValueError(f"{name} must not be empty")
    return bytes(value)


def check_fields(options: object, checks: Mapping[str, Callable[[str, Any], Any]]) -> None:
    """Check fields of a frozen dataclass with ``checks[name](name, value)``.

    None is accepted, unchecked, where it is the default.
    """
    for name, check in checks.items():
        value = getattr(options, name)
        if value is not None or getattr(type(options), name) is not None:
            object.__setattr__(options, name, check(name, value))
