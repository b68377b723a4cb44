"""checks."""

import difflib
from collections.abc import Sequence

__all__ = ["check_bool", "check_choice", "check_int"]


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `allowed`; name the nearest one."""
    if value in allowed:
        return
    near = difflib.get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} is one of {', '.join(map(repr, allowed))}, not {value!r}{hint}")


def check_int(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise unless `value` is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {value!r}")
    if value < least or (most is not None and value > most):
        bound = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {bound}, not {value}")


def check_bool(name: str, value: object) -> None:
    """Raise TypeError unless `value` is True or False; ``"no"`` would mean True."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False, not {value!r}")
