"""What an experiment with numbers gives back: raw values, circumstances, doubts.

One job: hold measurements as one immutable value, sum them up, carry them to a file
and back. It measures nothing and draws nothing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from epolllab.analysis import statistics
from epolllab.notebook import html
from epolllab.recording import environment, storage

__all__ = ["Result"]


FORMAT_VERSION = 1
"""Version of the Parquet layout.

1 : the frame's columns; the schema's metadata key ``epolllab_result`` holds JSON with
    ``format_version``, ``name``, ``by``, ``values``, ``x`` and ``circumstances``.
"""

METADATA_KEY = b"epolllab_result"


@dataclass(frozen=True, eq=False)
class Result:
    """Measurements, a row each, with what is needed to judge them.

    It can be used where a frame is: what it does not have itself, such as
    ``result["wait_ns"]`` or ``result.groupby(...)``, is asked of :attr:`frame`.

    Parameters
    ----------
    name : str
        The experiment: ``"sweep"``, ``"propagate"``, ...
    table : pandas.DataFrame
        Raw measurements; copied, so that later changes to it do not reach here.
    circumstances : mapping
        What :func:`epolllab.recording.environment.collect` found, the parameters, and ``notes``: a list
        of sentences about what was cut, refused or interrupted.
    by : sequence of str
        Columns that tell arms apart.
    values : sequence of str
        Columns measured.
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
        }
        floors = ("clock_floor_ns", "raw_floor_ns")
        table.attrs |= {name: self.circumstances.get(name) for name in floors}
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "circumstances", MappingProxyType(dict(self.circumstances)))
        for name in ("by", "values"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def frame(self) -> pd.DataFrame:
        """The raw measurements, a row each; a copy on write, so yours to change.

        Its ``attrs`` have ``notes``, which the charts print, and one line of
        ``circumstances``.
        """
        return self.table.copy(deep=False)

    @property
    def notes(self) -> list[str]:
        """Sentences about what was cut, refused or interrupted; empty where nothing was."""
        return list(self.circumstances.get("notes", ()))

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before its end; what was complete by then is here."""
        return bool(self.circumstances.get("interrupted", False))

    def summary(self) -> pd.DataFrame:
        """Medians with 95 % intervals and doubts, a row per arm.

        Returns
        -------
        pandas.DataFrame
            See :func:`epolllab.analysis.statistics.summarise`.
        """
        clock = self.circumstances.get("clock_cost_ns") or 0.0
        table = statistics.summarise(self.table, self.by, self.values, clock_cost_ns=clock)
        table.attrs = dict(self.table.attrs)
        return table

    def fits(self, y: str | None = None) -> pd.DataFrame:
        """A least-squares line ``a + b * x`` per arm, with intervals, R² and residual.

        Parameters
        ----------
        y : str, optional
            The column; the first of :attr:`values` by default.

        Raises
        ------
        ValueError
            The experiment has no axis along which a line would mean something.
        """
        if self.x is None:
            raise ValueError(f"{self.name} has no axis for a line; summary() has its medians")
        arms = [name for name in self.by if name != self.x]
        return statistics.fits(self.table, arms, self.x, y or self.values[0])

    def checks(self) -> pd.DataFrame:
        """Hold a sweep's shape against named margins: flat, straight, how far apart.

        Returns
        -------
        pandas.DataFrame
            See :func:`epolllab.analysis.shape.shape`. (``result.shape`` is the
            frame's: its rows and columns.)

        Raises
        ------
        ValueError
            The experiment is no sweep.
        """
        from epolllab.analysis.shape import shape

        if self.name != "sweep":
            raise ValueError(f"checks() are of a sweep, and this is {self.name}; see summary()")
        return shape(self.table)

    def describe(self) -> str:
        """Say the circumstances in a few lines: the method box of a chart."""
        facts = {key: value for key, value in self.circumstances.items() if key != "notes"}
        return "\n".join([environment.describe(facts), *(f"note: {note}" for note in self.notes)])

    # ---- as a frame ---------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: Any) -> Any:
        return self.frame[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.table)

    def __getattr__(self, name: str) -> Any:
        # Private names are looked up by copy and pickle before there is a table.
        if name.startswith("_") or "table" not in vars(self):
            raise AttributeError(name)
        try:
            return getattr(self.frame, name)
        except AttributeError:
            raise AttributeError(
                f"neither a Result nor its frame has {name!r}; its columns are "
                f"{', '.join(map(str, self.table.columns))}"
            ) from None

    # ---- how it looks -------------------------------------------------------------

    def __repr__(self) -> str:
        stopped = ", interrupted" if self.interrupted else ""
        return f"<Result of {self.name}: {len(self):,} measurements{stopped}>"

    def _repr_html_(self) -> str:
        card = html.card(
            f"{self.name}: {len(self):,} measurements",
            {
                "rounds": self.table["round"].nunique() if "round" in self.table else None,
                "circumstances": environment.summary(self.circumstances),
                "took": _seconds(self.circumstances.get("seconds")),
                "notes": "; ".join(self.notes) or None,
            },
        )
        if not len(self):
            return card
        table = self.summary()
        shown = [name for name in table if not str(name).endswith("_spread")]
        return card + table[shown].to_html(index=False, float_format="{:,.1f}".format, max_rows=24)

    # ---- to a file and back -------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one Parquet file, whole or not at all.

        Parameters
        ----------
        path : path-like
            An existing file is replaced, once the new one is complete.

        Returns
        -------
        pathlib.Path
            Where it was written.

        Raises
        ------
        OSError
            The folder does not exist or cannot be written to.
        """
        import pyarrow as pa

        path = Path(path)
        bare = self.table.copy(deep=False)
        bare.attrs = {}
        table = pa.Table.from_pandas(bare, preserve_index=False)
        storage.write_table(path, table, METADATA_KEY, self._header())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Result":
        """Read a file that :meth:`save` wrote, on any operating system.

        Raises
        ------
        ValueError
            The file is not a result, or a newer version of this package wrote it.
        FileNotFoundError
            There is no such file.
        """
        hint = "Result.save() writes what this reads; for a recording use epolllab.Recording.load"
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

    def _header(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "by": list(self.by),
            "values": list(self.values),
            "x": self.x,
            "circumstances": dict(self.circumstances),
        }


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f} s"
