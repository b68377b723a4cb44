"""Validation: what each check accepts and returns, and how it names what is wrong."""

import re
from functools import partial
from typing import Any

import numpy as np
import pytest

from epolllab.checks import (
    check_bool,
    check_bytes,
    check_choice,
    check_int,
    check_number,
    check_text,
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
        (check_bool, (False,), False),
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
