"""From records to pandas DataFrames: events, wakeups, requests, connections, journeys.

Every function takes an array of records (:meth:`Recording.array`) or a frame, and
returns a new frame with the same columns and dtypes for every input, including an empty
one. Times are integer nanoseconds of the monotonic clock, so that rows of different
processes can be subtracted without rounding. Imports
:mod:`epolllab.events` and :mod:`epolllab.schema` only.
"""

from epolllab.frames.columns import OP_DTYPE
from epolllab.frames.connections import connections
from epolllab.frames.events import callbacks, events, wakeups
from epolllab.frames.interest import interest_list
from epolllab.frames.journeys import CLIENT_REQUESTS, journeys
from epolllab.frames.requests import requests

__all__ = [
    "CLIENT_REQUESTS",
    "OP_DTYPE",
    "callbacks",
    "connections",
    "events",
    "interest_list",
    "journeys",
    "requests",
    "wakeups",
]


def __dir__() -> list[str]:
    return sorted(__all__)
