"""Result: the raw measurements of an experiment with its circumstances.

It summarises them, and saves them to one Parquet file.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from epolllab.analysis import statistics
from epolllab.analysis.shape import shape
from epolllab.notebook import html
from epolllab.recording import environment, storage

__all__ = ["Result", "frame_of"]

FORMAT_VERSION = 1
"""Version of the Parquet layout.

1 : the frame's columns; the schema's metadata key ``epolllab_result`` holds JSON with
    ``format_version``, ``name``, ``by``, ``values``, ``x`` and ``circumstances``.
"""

METADATA_KEY = b"epolllab_result"


@dataclass(frozen=True, eq=False)
class Result:
    """Measurements, one per row, with what you need to judge them.

    ``result["wait_ns"]`` is a column of :attr:`frame`, and ``len(result)`` its number of
    rows; for anything else use the frame.

    Parameters
    ----------
    name : str
        The experiment: ``"sweep"``, ``"propagate"``, ...
    table : pandas.DataFrame
        Raw measurements; copied.
    circumstances : mapping
        From :func:`epolllab.recording.environment.collect`, with the parameters, and
        ``notes``: a list of sentences about what was reduced, refused or interrupted.
    by : sequence of str
        Columns that identify a variant.
    values : sequence of str
        Measured columns.
    x : str, optional
        Column along which a line is fitted.
    """

    name: str
    table: pd.DataFrame = field(repr=False)
    circumstances: Mapping[str, Any] = field(repr=False)
    by: Sequence[str] = ()
    values: Sequence[str] = ()
    x: str | None = None

    def __post_init__(self) -> None:
        table = self.table.copy()
        table.attrs = {
            "experiment": self.name,
            "notes": list(self.circumstances.get("notes", ())),
            "circumstances": environment.summary(self.circumstances),
            "clock_floor_ns": self.circumstances.get("clock_floor_ns"),
            "raw_floor_ns": self.circumstances.get("raw_floor_ns"),
        }
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "circumstances", MappingProxyType(dict(self.circumstances)))
        for name in ("by", "values"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def frame(self) -> pd.DataFrame:
        """The raw measurements, one per row; a copy, which you can change.

        Its ``attrs`` have ``notes``, which the charts print, and one line of
        ``circumstances``.
        """
        return self.table.copy()

    @property
    def notes(self) -> list[str]:
        """Sentences about what was reduced, refused or interrupted."""
        return list(self.circumstances.get("notes", ()))

    @property
    def interrupted(self) -> bool:
        """Whether the run was interrupted; complete measurements are kept."""
        return bool(self.circumstances.get("interrupted", False))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, column: str) -> "pd.Series[Any]":
        return self.table[column].copy()

    def summary(self) -> pd.DataFrame:
        """Medians with 95 % intervals and warnings, a row per variant.

        The columns are those of :func:`epolllab.analysis.summarise`.
        """
        clock = self.circumstances.get("clock_cost_ns") or 0.0
        table = statistics.summarise(self.table, self.by, self.values, clock_cost_ns=clock)
        table.attrs = dict(self.table.attrs)
        return table

    def fits(self, y: str | None = None) -> pd.DataFrame:
        """A least-squares line ``y = a + b * x`` per variant.

        `y` is a column, the first of :attr:`values` by default. The columns are those of
        :func:`epolllab.analysis.fits`. ValueError if the experiment has no ``x``.
        """
        if self.x is None:
            raise ValueError(f"{self.name} has no axis for a line; summary() has its medians")
        by = [name for name in self.by if name != self.x]
        return statistics.fits(self.table, by, self.x, y or self.values[0])

    def checks(self) -> pd.DataFrame:
        """Check the shape of a sweep: flat, proportional, and how far apart.

        The columns are those of :func:`epolllab.analysis.shape`. ValueError if the
        experiment is not a sweep.
        """
        if self.name != "sweep":
            raise ValueError(
                f"checks() needs the result of sweep(), and this is {self.name}; see summary()"
            )
        return shape(self.table)

    def describe(self) -> str:
        """Return the circumstances in a few lines: the method box of a chart."""
        facts = {key: value for key, value in self.circumstances.items() if key != "notes"}
        return "\n".join([environment.describe(facts), *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        stopped = ", interrupted" if self.interrupted else ""
        return f"<Result of {self.name}: {len(self):,} measurements{stopped}>"

    def _repr_html_(self) -> str:
        seconds = self.circumstances.get("seconds")
        card = html.card(
            f"{self.name}: {len(self):,} measurements",
            {
                "rounds": self.table["round"].nunique() if "round" in self.table else None,
                "circumstances": environment.summary(self.circumstances),
                "took": None if seconds is None else f"{seconds:.1f} s",
                "notes": "; ".join(self.notes) or None,
            },
        )
        if not len(self):
            return card
        table = self.summary()
        shown = [name for name in table if not str(name).endswith("_spread")]
        return card + table[shown].to_html(index=False, float_format="{:,.1f}".format, max_rows=24)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one Parquet file, completely or not at all, and return its path.

        An existing file is replaced once the new one is complete. OSError if the folder
        does not exist or cannot be written to.
        """
        import pyarrow as pa

        bare = self.table.copy(deep=False)
        bare.attrs = {}
        header = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "by": list(self.by),
            "values": list(self.values),
            "x": self.x,
            "circumstances": dict(self.circumstances),
        }
        table = pa.Table.from_pandas(bare, preserve_index=False)
        storage.write_table(Path(path), table, METADATA_KEY, header)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Result":
        """Read a file written by :meth:`save`, on any operating system.

        ValueError if the file is not a result, or a newer version of epolllab wrote it.
        """
        hint = "Result.load() reads files of Result.save(); for a recording use Recording.load()"
        table, header = storage.read_table(
            path, METADATA_KEY, FORMAT_VERSION, what="the result of an experiment", hint=hint
        )
        return cls(
            header["name"],
            table.to_pandas(),
            header["circumstances"],
            header["by"],
            header["values"],
            header["x"],
        )


def frame_of(data: Result | pd.DataFrame) -> pd.DataFrame:
    """The frame of a result, or the frame itself."""
    return data.frame if isinstance(data, Result) else data
