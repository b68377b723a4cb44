"""Which request each record belongs to, for views that show a request among other calls."""

import numpy as np

from epolllab.frames.columns import Ints, Records, check_operations
from epolllab.frames.completions import as_calls
from epolllab.frames.connections import by_connection
from epolllab.frames.requests import _assign_rows

__all__ = ["request_numbers"]


def request_numbers(records: Records) -> Ints:
    """Return each record's request, as the row number in ``requests()``; -1 for none."""
    by = by_connection(as_calls(check_operations(records)))
    ranges = _assign_rows(by)
    lengths = ranges.stop - ranges.start
    # One after the other, the places of all requests.
    before = np.cumsum(lengths) - lengths
    places = np.arange(lengths.sum()) + np.repeat(ranges.start - before, lengths)
    numbers = np.empty(len(lengths), dtype="i4")
    numbers[np.argsort(by.order[ranges.handle], kind="stable")] = np.arange(len(lengths))
    found = np.full(len(records), -1, dtype="i4")
    found[by.order[places]] = np.repeat(numbers, lengths)
    found[by.order[ranges.handle]] = numbers  # also of one that came while another was served
    return found
