"""Helpers of the comparisons: collect rows into a frame, and count a server's calls."""

import errno
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from epolllab.checks import check_names, check_sequence, check_text
from epolllab.events import Op
from epolllab.kernel import NotPossible, not_possible_reason, require_loopback
from epolllab.recording import environment

__all__ = ["COUNTS", "Describe", "Row", "Rows", "choose", "collect", "count_calls"]

Row = Mapping[str, Any] | tuple[Any, ...]
"""Values by column, or in the order of the columns."""

Rows = Generator[Sequence[Row], None, None]
"""The rows of one step after the other."""

Describe = Callable[[str], None]
"""Shows in the progress bar what is measured next."""


def collect(
    measure: Callable[[Describe], Rows],
    columns: Mapping[str, Any],
    *,
    total: int,
    unit: str,
    progress: bool,
    **parameters: Any,
) -> pd.DataFrame:
    """Measure step by step; return the rows as a frame with its circumstances.

    ``measure(describe)`` yields the rows of each of `total` steps; `columns` has the dtypes;
    `parameters` are added to the circumstances. KeyboardInterrupt ends it early: the frame
    then has the rows of the finished steps, ``attrs["interrupted"]`` is True, and
    ``attrs["notes"]`` has a sentence about it. NotPossible if this machine lacks what a step
    needs, such as the loopback interface.
    """
    require_loopback()
    facts = environment.collect(**parameters)
    rows: list[Any] = []
    notes: list[str] = []
    n_done = 0
    with tqdm(total=total, unit=unit, disable=not progress) as bar:
        try:
            with closing(measure(bar.set_postfix_str)) as steps:
                for step in steps:
                    rows += step
                    n_done += 1
                    bar.update()
        except OSError as error:
            if reason := not_possible_reason(error):
                raise NotPossible(reason) from error
            raise
        except KeyboardInterrupt:
            notes.append(f"interrupted after {n_done} of {total} {unit}s")
    frame = pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))
    facts |= environment.at_end()
    frame.attrs = {"circumstances": facts, "interrupted": bool(notes), "notes": notes}
    return frame


def choose(name: str, given: Iterable[str], allowed: Sequence[str]) -> list[str]:
    """Return one name or several, each one of `allowed`, without repetitions."""
    names = (given,) if isinstance(given, str) else check_sequence(name, given, check_text)
    return list(check_names(name, tuple(dict.fromkeys(names)), allowed))


COUNTS = ("wakeups", "events", "recv", "would_block", "epoll_ctl")
"""What :func:`count_calls` counts."""


def count_calls(array: Any) -> dict[str, int]:
    """Count calls in an array of records: :data:`COUNTS`, and all ``waits``."""
    op, result = array["op"], array["result"]
    return {
        "wakeups": int(((op == Op.WAIT) & (result > 0)).sum()),
        "events": int((op == Op.READY).sum()),
        "recv": int((op == Op.RECV).sum()),
        # Not accept's: a server that accepts until EAGAIN gets one per batch by design.
        "would_block": int(((op != Op.ACCEPT) & (result == -errno.EAGAIN)).sum()),
        "epoll_ctl": int(np.isin(op, (Op.REGISTER, Op.MODIFY, Op.UNREGISTER)).sum()),
        "waits": int((op == Op.WAIT).sum()),
    }
