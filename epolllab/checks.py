"""Validation of arguments, used by every function and option of the package.

Each check returns the value in its plain Python type, or raises TypeError or ValueError
with a message that begins with the parameter's name. The same rules hold everywhere: NumPy
numbers and booleans count as Python's; a bool is no number, and neither a number nor a
string is a switch; where an integer is wanted, a float is refused even if it is integral;
numbers are finite.
"""

import difflib
import inspect
import math
import operator
import os
import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from itertools import islice, pairwise
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "MOST_SECONDS", "Check", "check_bool", "check_bytes", "check_callable", "check_choice",
    "check_descriptor", "check_fields", "check_instance", "check_int", "check_mapping",
    "check_names", "check_number", "check_path", "check_sequence", "check_sizes", "check_text",
    "check_timeout", "checked", "shown",
]  # fmt: skip

Check = Callable[[str, Any], Any]
"""``check(name, value)`` returns the value or raises."""

F = TypeVar("F", bound=Callable[..., Any])

MAX_ENTRIES = 10_000
"""Most entries of a sequence that is read before anything starts."""

MOST_SECONDS = 1_000_000
"""About eleven days; its milliseconds still fit the timeout of epoll_wait."""

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def checked(**checks: Check) -> Callable[[F], F]:
    """Decorator that checks arguments, given or default, before the function runs.

    None is accepted, unchecked, where it is the default.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        optional = {n for n, p in signature.parameters.items() if p.default is None}

        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            bound = signature.bind(*args, **options)
            given = bound.arguments
            for name, check in checks.items():
                if name in given and not (given[name] is None and name in optional):
                    given[name] = check(name, given[name])
            return function(*bound.args, **bound.kwargs)

        return call  # type: ignore[return-value]

    return decorate


def shown(value: object) -> str:
    """Return a short repr, on one line, for an error message."""
    try:
        text = _repr.repr(value)
    except ValueError:  # an int with too many digits
        text = "\n"
    return f"a value of type {type(value).__name__}" if "\n" in text else text


def check_instance(name: str, value: Any, kinds: Any, what: str) -> Any:
    """Return `value` if it is an instance of `kinds`; the error says that it must be `what`."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {what}, not {shown(value)}")
    return value


def check_choice(name: str, value: object, allowed: Collection[str]) -> str:
    """Return `value` if it is one of `allowed`; the error suggests the nearest name."""
    if isinstance(value, str) and value in allowed:
        return str(value)
    near = difflib.get_close_matches(value[:80], allowed, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    choices = ", ".join(map(repr, allowed))
    raise ValueError(f"{name} must be one of {choices}, not {shown(value)}{hint}")


def check_int(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """Return `value` as an int of at most 64 bits within the bounds."""
    try:
        # A NumPy bool has an index too, with a warning in older versions.
        number = None if _is_bool(value) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be an integer, not {shown(value)}")
    _check_range(name, number, "", least, most)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{name} must be an integer of 64 bits, not {shown(number)}")
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
    # A timedelta64 counts as an integer to NumPy, whatever its unit.
    is_time = getattr(getattr(value, "dtype", None), "kind", None) == "m"
    if not isinstance(value, Real) or _is_bool(value) or is_time:
        raise TypeError(f"{name} must be {what}, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, not {shown(value)}")
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
    bounds = [
        f"{word} {bound:,}" if isinstance(bound, int) else f"{word} {bound:,.15g}"
        for word, bound in given
        if bound is not None
    ]
    suffix = f" {unit}" if unit else ""
    raise ValueError(f"{name} must be {' and '.join(bounds)}{suffix}, not {shown(number)}")


def check_bool(name: str, value: object) -> bool:
    """Return `value` as a bool if it is True or False; ``"no"`` would count as true."""
    if not _is_bool(value):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def _is_bool(value: object) -> bool:
    """Whether it is Python's or NumPy's True or False; NumPy may not be loaded."""
    numpy = sys.modules.get("numpy")
    return isinstance(value, bool) or (numpy is not None and isinstance(value, numpy.bool_))


def check_text(name: str, value: object, *, allow_empty: bool = True) -> str:
    """Return `value` if it is a string."""
    text: str = check_instance(name, value, str, "a string")
    if not text and not allow_empty:
        raise ValueError(f"{name} must not be empty")
    return text


def check_bytes(name: str, value: Any, *, allow_empty: bool = True) -> bytes:
    """Return a bytes-like `value` as bytes."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}: {shown(value)}")
    if not value and not allow_empty:
        raise ValueError(f"{name} must not be empty")
    return bytes(value)


def check_path(name: str, value: Any) -> Path:
    """Return a string or path-like `value` as a Path."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{name} must be a path (a string or a pathlib.Path), not {shown(value)}")
    try:
        is_valid = bool(path) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_valid = False
    if not is_valid:
        raise ValueError(
            f"{name} must be a path that is not empty, without null characters, in the "
            f"encoding of the file system, not {shown(value)}"
        )
    return Path(path)


def check_timeout(name: str, value: object) -> float:
    """Return a number of seconds, from 0 to MOST_SECONDS."""
    return check_number(name, value, 0, MOST_SECONDS, unit="seconds")


def check_descriptor(name: str, value: Any) -> int:
    """Return the number of a descriptor, or of an object with ``fileno()``; -1 if closed."""
    number = value.fileno() if callable(getattr(value, "fileno", None)) else value
    return check_int(name, number, -1, (1 << 31) - 1)


def check_callable(name: str, value: Any) -> Any:
    """Return `value` if it can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, not {shown(value)}")
    return value


def check_mapping(name: str, value: Any) -> Any:
    """Return `value` if it is a mapping."""
    return check_instance(name, value, Mapping, "a mapping")


def check_sequence(
    name: str, values: Any, check: Check, most: int = MAX_ENTRIES
) -> tuple[Any, ...]:
    """Return an iterable as a tuple, each entry checked; a string is not one."""
    try:
        if isinstance(values, str | bytes | Mapping):
            raise TypeError
        given = tuple(islice(values, most + 1))
    except TypeError:
        raise TypeError(f"{name} must be a sequence, not {shown(values)}") from None
    if len(given) > most:
        raise ValueError(f"{name} must have at most {most:,} entries, not {shown(values)}")
    return tuple(check(name, value) for value in given)


def check_sizes(name: str, values: Any, least: int = 1, most: int | None = None) -> tuple[int, ...]:
    """Return one integer or a rising sequence of them as a tuple, each within the bounds."""

    def check(name: str, value: object) -> int:
        return check_int(name, value, least, most)

    if not isinstance(values, Iterable):
        return (check(name, values),)
    sizes = check_sequence(name, values, check)
    if not sizes:
        raise ValueError(f"{name} must not be empty; give at least one, such as {name}=(10, 100)")
    if any(later <= earlier for earlier, later in pairwise(sizes)):
        rising = tuple(sorted(set(sizes)))
        raise ValueError(f"{name} must rise, each number once, not {sizes}; did you mean {rising}?")
    return sizes


def check_names(name: str, given: Any, allowed: Collection[str]) -> tuple[str, ...]:
    """Return a sequence of different names, each one of `allowed`, as a tuple."""
    if isinstance(given, str):
        raise ValueError(f"{name} must be a sequence of names; write {name}=({shown(given)},)")
    names: tuple[str, ...] = check_sequence(
        name, given, lambda name, value: check_choice(name, value, allowed)
    )
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"{name} must have at least one of {tuple(allowed)}, each once, not {shown(given)}"
        )
    return names


def check_fields(options: object, checks: Mapping[str, Check]) -> None:
    """Check fields of a frozen dataclass with ``checks[name](name, value)``.

    None is accepted, unchecked, where it is the default.
    """
    for name, check in checks.items():
        value = getattr(options, name)
        if value is not None or getattr(type(options), name) is not None:
            object.__setattr__(options, name, check(name, value))
