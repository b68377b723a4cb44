"""Result: the raw measurements of an experiment with its circumstances.

It summarises them, and saves them to one Parquet file.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pandas as pd

from epolllab.analysis import statistics
from epolllab.analysis.hosts import RUN, run_labels
from epolllab.analysis.shape import shape
from epolllab.checks import check_choice, check_mapping, check_sequence, check_text, shown
from epolllab.frames.columns import check_frame
from epolllab.notebook import html
from epolllab.recording import environment, storage

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Result", "frame_of"]

FORMAT_VERSION = 2
"""Version of the Parquet layout.

1 : the frame's columns; the schema's metadata key ``epolllab_result`` holds JSON with
    ``format_version``, ``name``, ``by``, ``values``, ``x`` and ``circumstances``.
2 : the JSON also has a ``digest`` over the columns and the rest of the JSON.
"""

METADATA_KEY = b"epolllab_result"
_KEYS = ("name", "by", "values", "x", "circumstances")
LAYOUTS = {1: _KEYS, 2: (*_KEYS, "digest")}
"""Keys of the header for each format version."""


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
        check_text("name", self.name)
        table = check_frame("table", self.table, "measurements", "").copy()
        check_mapping("circumstances", self.circumstances)
        one_of = partial(check_choice, allowed=[str(column) for column in table])
        check_sequence("by", self.by, one_of)
        check_sequence("values", self.values, one_of)
        if self.x is not None:
            one_of("x", self.x)
        table.attrs = {
            "experiment": self.name,
            "notes": list(self.circumstances.get("notes", ())),
            "circumstances": _summary(self.circumstances),
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
        if y is not None:
            check_choice("y", y, self.values)
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

    def runs(self) -> "dict[str, Result]":
        """Split a result of several workers: a Result for each, by the name of its run.

        The name has the host, kernel, Python and processor as far as these differ. Each
        Result has the circumstances of its worker. One that was measured here is returned
        under its own name.
        """
        labels = run_labels(self.table)
        if labels is None or "runs" not in self.circumstances:
            return {self.name: self}
        return {str(label): self._part(rows) for label, rows in self.table.groupby(labels)}

    def _part(self, rows: pd.DataFrame) -> "Result":
        worker = str(rows["worker"].iloc[0])
        by = [column for column in self.by if column not in RUN]
        facts = self.circumstances["runs"][worker]
        return Result(self.name, rows.reset_index(drop=True), facts, by, self.values, self.x)

    def describe(self) -> str:
        """Return the circumstances in a few lines: the method box of a chart."""
        hidden = ("notes", "runs", "failures")
        facts = {key: value for key, value in self.circumstances.items() if key not in hidden}
        if "runs" in self.circumstances:
            facts["runs"] = _summary(self.circumstances)
        return "\n".join([environment.describe(facts), *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        stopped = ", interrupted" if self.interrupted else ""
        throttled = environment.throttled(self.circumstances)
        slowed = f", {throttled}" if throttled else ""
        return f"<Result of {self.name}: {len(self):,} measurements{stopped}{slowed}>"

    def _repr_html_(self) -> str:
        seconds = self.circumstances.get("seconds")
        card = html.card(
            f"{self.name}: {len(self):,} measurements",
            {
                "rounds": self.table["round"].nunique() if "round" in self.table else None,
                "circumstances": _summary(self.circumstances),
                "took": None if seconds is None else f"{seconds:.1f} s",
                "notes": "; ".join(self.notes) or None,
            },
        )
        if not len(self):
            return card
        table, doubts = _footnoted(self.summary())
        shown = [name for name in table if not str(name).endswith("_spread")]
        cells = table[shown].to_html(
            index=False, float_format="{:,.1f}".format, max_rows=24, na_rep="", border=0
        )
        return card + cells + html.text("\n".join(doubts), "muted")

    def save(self, path: storage.PathName) -> Path:
        """Write one Parquet file, completely or not at all, and return its path.

        `path`, what happens to an existing file, and errors are as for
        :meth:`epolllab.Recording.save`.
        """
        import pyarrow as pa

        target = storage.local_path(path)
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
        storage.write_table(target, table, METADATA_KEY, header, _content(table))
        return target

    @classmethod
    def load(cls, path: storage.PathName) -> "Result":
        """Read a file written by :meth:`save`, on any operating system.

        Errors are as for :meth:`epolllab.Recording.load`.
        """
        source = storage.local_path(path)
        hint = "Result.load() reads files of Result.save(); for a recording use Recording.load()"
        with storage.open_table(
            source, METADATA_KEY, LAYOUTS, what="the result of an experiment", hint=hint
        ) as (file, header):
            table = storage.read_all(file)
            if "digest" in header:
                storage.verify(_content(table), header)
            _check_notes(header["circumstances"])
            given = [header[key] for key in ("circumstances", "by", "values", "x")]
            return cls(header["name"], table.to_pandas(), *given)


def _footnoted(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The summary with the numbers of notes in place of its doubts, and the notes.

    Doubts of several rows that differ in one figure are one note with the range of it.
    """
    figures: dict[str, list[str]] = {}
    marks = []
    for row in table["doubt"]:
        kinds = {_FIGURE.sub("#", doubt): _FIGURE.findall(doubt) for doubt in _doubts(row)}
        for kind, found in kinds.items():
            figures.setdefault(kind, []).extend(found)
        marks.append(", ".join(str(1 + list(figures).index(kind)) for kind in kinds))
    notes = [
        f"{number}: {kind.replace('#', _range(found), 1)}"
        for number, (kind, found) in enumerate(figures.items(), 1)
    ]
    bare = table.drop(columns="doubt")
    return (bare.assign(note=marks) if notes else bare), notes


_FIGURE = re.compile(r"\d[\d,.]*(?=%)|(?<=factor )[\d.]+")


def _doubts(row: str) -> list[str]:
    return row.split("; ") if row else []


def _range(figures: list[str]) -> str:
    """The smallest and the largest of some figures as text."""
    ordered = sorted(set(figures), key=lambda text: float(text.replace(",", "")))
    return " to ".join(dict.fromkeys((*ordered[:1], *ordered[-1:])))


def _content(table: "pa.Table") -> bytes:
    """A hash of names, types and values, whatever pages and dictionaries a file has."""
    from hashlib import blake2b

    made = blake2b((table.schema.metadata or {}).get(b"pandas", b""))
    for name, column in zip(table.column_names, table.columns, strict=True):
        made.update(json.dumps(name).encode())
        made.update(_values(column))
    return made.digest()


def _values(column: "pa.ChunkedArray") -> bytes:
    """The values: numbers as they are in memory, categories with their codes, others as JSON."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind) and not _is_text(kind.value_type):
        column = column.cast(kind.value_type)  # Parquet keeps only dictionaries of text
        kind = column.type
    codes: Any = b""
    if pa.types.is_dictionary(kind) and len(column):
        whole = column.unify_dictionaries().combine_chunks()
        codes = whole.indices.cast("i4").fill_null(-1).to_numpy().tobytes()
        values = [kind.ordered, whole.dictionary.to_pylist()]
    elif (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and not column.null_count:
        codes, values = column.to_numpy().tobytes(), [str(kind)]
    else:
        values = column.to_pylist()
    return json.dumps(values, default=str).encode() + bytes(codes)


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _summary(circumstances: Mapping[str, Any]) -> str:
    """One line on the environment, or on that of each worker."""
    runs = circumstances.get("runs")
    if not isinstance(runs, Mapping):
        return environment.summary(circumstances)
    return "; ".join(dict.fromkeys(environment.summary(facts) for facts in runs.values()))


def _check_notes(circumstances: Any) -> None:
    """Raise Defect unless the notes of a file are sentences, which charts print."""
    notes = circumstances.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise storage.Defect("has circumstances whose notes are not a list of sentences")


def frame_of(data: Result | pd.DataFrame, name: str = "data") -> pd.DataFrame:
    """The frame of a result, or the frame itself; `name` is that of the parameter."""
    if not isinstance(data, Result | pd.DataFrame):
        raise TypeError(
            f"{name} must be the Result of an experiment or its frame, not {shown(data)}"
        )
    return data.frame if isinstance(data, Result) else data
