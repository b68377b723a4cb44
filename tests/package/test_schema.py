"""The columns that docstrings describe are those that the frames have."""

import re
from typing import Any

import pytest

from epolllab import Recording, Run, Server, frames, schema


def described(columns: str) -> dict[str, str]:
    """Name and dtype of each row of the table of columns."""
    table = columns.strip().split("\n\n")[0]
    return dict(re.findall(r"^(\w+) +(\w+) +\S", table, re.MULTILINE))


FRAMES = {
    "EVENTS": Recording(b"").events(),
    "WAKEUPS": Recording(b"").wakeups(),
    "REQUESTS": Recording(b"").requests(),
    "CONNECTIONS": Recording(b"").connections(),
    "INTEREST": frames.interest_list([], {}),
}


@pytest.mark.parametrize("name", FRAMES)
def test_the_text_describes_the_frame(name: str) -> None:
    """Same columns in the same order, with the same dtypes."""
    dtypes = FRAMES[name].dtypes.astype(str).replace("object", "str")
    assert described(getattr(schema, name)) == dtypes.to_dict()
    assert list(described(getattr(schema, name))) == list(FRAMES[name])


@pytest.mark.parametrize(
    ("function", "columns"),
    [
        (Server.events, schema.EVENTS),
        (Recording.events, schema.EVENTS),
        (Run.events, schema.EVENTS),
        (frames.events, schema.EVENTS),
        (Server.wakeups, schema.WAKEUPS),
        (Recording.wakeups, schema.WAKEUPS),
        (Server.requests, schema.REQUESTS),
        (Recording.requests, schema.REQUESTS),
        (Recording.connections, schema.CONNECTIONS),
        (Server.interest, schema.INTEREST),
        (frames.interest_list, schema.INTEREST),
        (Run.journeys, schema.JOURNEYS),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_the_docstring_lists_the_columns(function: Any, columns: str) -> None:
    """In one section, which stands between parameters and notes."""
    text = function.__doc__
    for line in columns.strip().splitlines():
        assert line in text
    titles = re.findall(r"^(\w+)\n-+$", text, re.MULTILINE)
    order = ["Parameters", "Returns", "Raises", "Notes"]
    assert titles == sorted(titles, key=order.index)
    assert titles.count("Returns") == 1
