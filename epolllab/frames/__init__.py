"""From records to pandas DataFrames: events, wakeups, requests, connections, journeys.

Every function takes an array of records (:meth:`Recording.array`) or a frame, and
returns a new frame whose columns and dtypes are the same for every input, an empty one
included. Times stay integer nanoseconds of the monotonic clock. Imports
:mod:`epolllab.events` only.
"""

from epolllab.frames.columns import OP_DTYPE
from epolllab.frames.events import events, wakeups
from epolllab.frames.interest import interest_list
from epolllab.frames.journeys import CLIENT_REQUESTS, journeys
from epolllab.frames.requests import connections, requests

__all__ = [
    "CLIENT_REQUESTS",
    "OP_DTYPE",
    "connections",
    "events",
    "interest_list",
    "journeys",
    "requests",
    "wakeups",
]


def __dir__() -> list[str]:
    return sorted(__all__)
