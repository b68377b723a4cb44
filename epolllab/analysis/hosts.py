"""Which host and worker the rows of a frame come from, where an executor ran the experiment."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

__all__ = [
    "ENVIRONMENT", "RUN", "label_rows", "require_one_run", "require_runs_apart", "run_labels",
]  # fmt: skip

ENVIRONMENT = ("host", "kernel", "python", "cpu")
"""Columns that say where a row was measured; one label for each combination."""

RUN = ("worker", *ENVIRONMENT)
"""Columns that identify a run; several workers may share an environment."""

_WORDS = {"python": "Python {}", "worker": "worker {}", "kernel": "Linux {}"}


def label_rows(frame: pd.DataFrame, by: Sequence[str]) -> "pd.Series[str]":
    """Name the combination of columns that each row belongs to, by those that vary.

    Columns that are the same everywhere are left out, the first one excepted if all are, and
    so is the worker's number where the others tell the combinations apart.
    """
    values = frame[list(by)].astype("str")
    known = values.drop_duplicates()
    varying = [column for column in by if known[column].nunique() > 1]
    others = [column for column in varying if column != "worker"]
    if others and not known[others].duplicated().any():
        varying = others
    chosen = varying or [column for column in by if column != "worker"][:1] or list(by)
    words = [values[column].map(_words(column, frame[column])) for column in chosen]
    label = words[0]
    for other in words[1:]:
        label = label + ", " + other
    return label.rename("label").astype("str")


def _words(column: str, values: "pd.Series[Any]") -> Any:
    """The function that puts a value in words: a bare number needs its column's name."""
    is_number = pd.api.types.is_numeric_dtype(values)
    return _WORDS.get(column, column.replace("_", " ") + " {}" if is_number else "{}").format


def run_labels(frame: pd.DataFrame) -> "pd.Series[str] | None":
    """Name the run of each row; None for a frame without these columns."""
    by = [column for column in RUN if column in frame]
    return label_rows(frame, by) if by else None


def require_one_run(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with the rows of one run; ValueError for several, which would be mixed."""
    if column := _apart(frame):
        labels = run_labels(frame)
        found = [] if labels is None else sorted(labels.unique())
        raise ValueError(
            f"{name} must be of one run, since times of several would be mixed; it has "
            f"{', '.join(found[:6])}. Choose one: Result.runs()[{found[0]!r}], or of a frame its "
            f"rows with one {column}"
        )
    return frame


def require_runs_apart(by: Sequence[str], frame: pd.DataFrame) -> None:
    """Raise ValueError if grouping by these columns would mix runs."""
    column = _apart(frame)
    if column and column not in by:
        raise ValueError(
            f"by must have {column!r}, since the frame is of several runs, which would be mixed"
        )


def _apart(frame: pd.DataFrame) -> str:
    """The column that tells the runs of a frame apart; empty if it has one run."""
    return next((name for name in RUN if name in frame and frame[name].nunique() > 1), "")
