"""What a chart accepts: the right frame, or a Server, Run or Recording that makes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import pandas as pd

from epolllab.analysis.result import Result
from epolllab.checks import check_text, shown
from epolllab.frames.columns import check_frame

__all__ = [
    "Durations", "Events", "From", "HasEvents", "HasInterest", "HasRequests", "HasWakeups",
    "Wakeups", "by_name", "frame", "frames", "made_by",
]  # fmt: skip


class HasEvents(Protocol):
    """A Server, a Run, a Recording, or what else has events."""

    def events(self) -> pd.DataFrame:
        """One row per event."""


class HasWakeups(Protocol):
    """A Server, a Run or a Recording."""

    def wakeups(self) -> pd.DataFrame:
        """One row per wait."""


class HasRequests(Protocol):
    """A Server, a Run or a Recording."""

    def requests(self) -> pd.DataFrame:
        """One row per request."""


class HasInterest(Protocol):
    """A Server."""

    def interest(self) -> pd.DataFrame:
        """One row per descriptor."""


Events = HasEvents | pd.DataFrame
Wakeups = HasWakeups | pd.DataFrame
Durations = HasRequests | pd.DataFrame | pd.Series


@dataclass(frozen=True)
class From:
    """A chart's data: the call that makes the frame, and the columns that the chart reads.

    What ``*``, ``?`` and ``+`` after a column mean is in :func:`check_frame`. An object with
    the `method`, such as a Server, a Run or a Recording, makes the frame itself. `alone` says
    why the chart draws one only; without it, and with a `method`, several by name are
    accepted as well.
    """

    source: str
    columns: str
    is_result: bool = False
    method: str = ""
    alone: str = ""

    @property
    def kinds(self) -> str:
        """What is accepted, for a docstring."""
        if self.is_result:
            return "Result or pandas.DataFrame"
        if not self.method:
            return "pandas.DataFrame"
        one = "Server or pandas.DataFrame"
        if self.method != "interest":
            one = "Server, Run, Recording or pandas.DataFrame"
        return one if self.alone else f"{one}, or mapping of str to these"

    @property
    def described(self) -> str:
        """Where the data come from, for a docstring."""
        if not self.method:
            return f"From {self.source}."
        several = "" if self.alone else " A mapping draws each entry in a colour of its own."
        return f"A frame from {self.source}, or what makes it.{several}"

    def __call__(self, name: str, value: Any) -> Any:
        """Check a frame, or a Result if that is accepted; return it, or a mapping of frames."""
        if self.is_result and isinstance(value, Result):
            check_frame(name, value.frame, self.source, self.columns)
            return value
        if not isinstance(value, Mapping):
            return check_frame(name, made_by(value, self.method), self.source, self.columns)
        if self.alone or not self.method:
            why = f": {self.alone}" if self.alone else ""
            raise TypeError(
                f"{name} must be one {self.source.partition(';')[0].replace('`', '')}, not "
                f"{len(value)} by name{why}; draw each on Axes of its own, with ax="
            )
        return {
            label: check_frame(f"{name}[{label!r}]", made_by(one, self.method), self.source,
                               self.columns)
            for label, one in by_name(name, value).items()
        }  # fmt: skip


def made_by(value: Any, method: str) -> Any:
    """The frame that an object's method makes; the object itself if it has no such method."""
    if not method or isinstance(value, type | pd.DataFrame | pd.Series):
        return value
    make = getattr(value, method, None)
    return make() if callable(make) else value


def frame(data: object) -> pd.DataFrame:
    """What the check of a chart's data has made of them."""
    return cast(pd.DataFrame, data)


def frames(data: object) -> dict[str, pd.DataFrame]:
    """Likewise of several by name; one alone has the name ""."""
    return (
        dict(cast(Mapping[str, pd.DataFrame], data))
        if isinstance(data, Mapping)
        else {"": frame(data)}
    )


def by_name(name: str, value: Mapping[Any, Any]) -> Mapping[str, Any]:
    """Return a mapping with at least one entry, each of which has a name."""
    if not value:
        raise ValueError(f"{name} must have at least one entry, such as {{'before': run}}")
    for label in value:
        if not isinstance(label, str):
            raise TypeError(f"{name} must have names for keys, not {shown(label)}")
        check_text(f"{name}: a key", label, allow_empty=False)
    return value
