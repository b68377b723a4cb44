"""Validation: what each check accepts and returns, and how it names what is wrong."""

import inspect
import re
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epolllab.checks import (
    check_bool,
    check_bytes,
    check_choice,
    check_descriptor,
    check_int,
    check_names,
    check_number,
    check_path,
    check_sizes,
    check_text,
    check_timeout,
    checked,
)

positive = partial(check_number, above=0, most=1e6, unit="seconds")


@pytest.mark.parametrize(
    ("check", "arguments", "returned"),
    [
        (check_choice, ("b", {"a": 1, "b": 2}), "b"),
        (check_int, (3, 3, 3), 3),
        (check_int, (np.int64(3), 1), 3),
        (check_number, (2,), 2.0),
        (check_number, (np.float32(0.5), 0.5), 0.5),
        (positive, (1e6,), 1e6),
        (check_number, (np.int64(2),), 2.0),
        (check_number, (Fraction(1, 2),), 0.5),
        (check_bool, (False,), False),
        (check_bool, (np.True_,), True),
        (check_sizes, (np.int64(3),), (3,)),
        (check_sizes, (np.array([1, 5]),), (1, 5)),
        (check_names, (iter(["b"]), ("a", "b")), ("b",)),
        (check_path, ("a/b",), Path("a/b")),
        (check_path, (Path("a"),), Path("a")),
        (check_text, ("",), ""),
        (check_bytes, (memoryview(b"ab"),), b"ab"),
        (check_bytes, (b"",), b""),
    ],
)
def test_valid_values_are_returned_in_their_plain_type(
    check: Any, arguments: tuple[Any, ...], returned: object
) -> None:
    """NumPy scalars become Python numbers, bytes-like objects bytes."""
    value = check("x", *arguments)
    assert value == returned
    assert type(value) is type(returned)
    if isinstance(value, tuple):
        assert list(map(type, value)) == list(map(type, returned))


@pytest.mark.parametrize(
    ("check", "arguments", "error", "message"),
    [
        (check_choice, ("epol", ("epoll", "poll")), ValueError, "; did you mean 'epoll'?"),
        (check_choice, ("kqueue", ("a", "b")), ValueError, "one of 'a', 'b', not 'kqueue'"),
        (check_choice, ([], ("a", "b")), ValueError, "not []"),
        (check_int, (True,), TypeError, "an integer, not True"),
        (check_int, (1.0,), TypeError, "an integer, not 1.0"),
        (check_int, ("8080",), TypeError, "an integer, not '8080'"),
        (check_int, (0, 1), ValueError, "at least 1, not 0"),
        (check_int, (65_536, 0, 65_535), ValueError, "at least 0 and at most 65,535, not 65536"),
        (check_number, (True,), TypeError, "a number, not True"),
        (positive, ("1",), TypeError, "a number of seconds, not '1'"),
        (check_number, (float("nan"),), ValueError, "finite"),
        (positive, (float("inf"),), ValueError, "finite"),
        (positive, (0,), ValueError, "above 0 and at most 1,000,000 seconds, not 0.0"),
        (positive, (1e6 + 1,), ValueError, "above 0 and at most 1,000,000 seconds"),
        (check_int, (np.True_,), TypeError, f"an integer, not {np.True_!r}"),
        (check_int, (np.float64(1),), TypeError, f"an integer, not {np.float64(1)!r}"),
        (check_int, (1 << 63,), ValueError, "64 bits"),
        (check_int, (10**5000, 0), ValueError, "64 bits, not a value of type int"),
        (check_int, (10**5000, 0, 9), ValueError, "at most 9, not a value of type int"),
        (check_number, (np.True_,), TypeError, f"a number, not {np.True_!r}"),
        (check_number, (Decimal(1),), TypeError, "a number, not Decimal('1')"),
        (check_number, (10**400,), ValueError, "finite"),
        (check_names, ("ab", ("a", "b")), ValueError, "sequence of names; write x=('ab',)"),
        (check_names, (["a", "a"], ("a", "b")), ValueError, "each once"),
        (check_names, (5, ("a", "b")), TypeError, "a sequence, not 5"),
        (check_sizes, ([2, 1],), ValueError, "rise, each number once, not (2, 1)"),
        (check_sizes, (count(),), ValueError, "at most 10,000 entries"),
        (check_sizes, ([],), ValueError, "not be empty"),
        (check_path, (5,), TypeError, "a path (a string or a pathlib.Path), not 5"),
        (check_path, ("a\0",), ValueError, "without null characters"),
        (check_path, ("",), ValueError, "not empty"),
        (check_path, ("a\ud800",), ValueError, "encoding"),
        (check_timeout, (np.timedelta64(1, "s"),), TypeError, "a number of seconds, not n"),
        (check_timeout, (np.timedelta64(1, "ns"),), TypeError, "a number of seconds, not n"),
        (check_int, (-1, 0, 2**62), ValueError, "at most 4,611,686,018,427,387,904, not -1"),
        (check_descriptor, ("x",), TypeError, "an integer, not 'x'"),
        (check_timeout, (1e300,), ValueError, "at most 1,000,000 seconds"),
        (check_bool, ("no",), TypeError, "True or False, not 'no'"),
        (check_bool, (1,), TypeError, "True or False, not 1"),
        (check_text, (b"a",), TypeError, "a string, not b'a'"),
        (check_bytes, ("a",), TypeError, "bytes, not str"),
        (partial(check_bytes, allow_empty=False), (b"",), ValueError, "not be empty"),
    ],
)
def test_the_message_names_the_parameter_the_bounds_and_the_value(
    check: Any, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    """The parameter comes first."""
    with pytest.raises(error, match="^x must .*" + re.escape(message)):
        check("x", *arguments)


def test_a_checked_function_gets_plain_values_and_keeps_its_signature() -> None:
    """None is accepted where it is the default, and only there."""

    @checked(n=check_int, most=check_int)
    def function(n: int, *names: str, most: int | None = None) -> tuple[object, ...]:
        """Its docstring."""
        return n, names, most

    assert function(np.int64(3), "a", most=None) == (3, ("a",), None)
    assert type(function(np.int64(3))[0]) is int
    assert function.__doc__ == "Its docstring."
    assert list(inspect.signature(function).parameters) == ["n", "names", "most"]
    for arguments, options, name in (((None,), {}, "n"), ((1,), {"most": "x"}, "most")):
        with pytest.raises(TypeError, match=rf"^{name}\b"):
            function(*arguments, **options)  # type: ignore[arg-type]
