"""Which phenomena have the same verdict on all kernels, and which differ."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from epolllab.analysis.hosts import ENVIRONMENT, label_rows
from epolllab.checks import check_choice, check_sequence
from epolllab.frames.columns import check_frame

__all__ = ["AGREEMENTS", "NOT_RUN", "SOURCE", "UNSTEADY", "agreement", "verdict_table"]

AGREEMENTS = ("same", "differs", "unsteady", "not compared")
"""Values of the column ``agreement``."""

UNSTEADY = "unsteady"
NOT_RUN = "not run"
SOURCE = ":func:`epolllab.experiments.run_all` with an executor"

JUDGED = ("holds", "differs")
"""Verdicts on the claim itself; the others say why there is none."""

VERDICTS = (*JUDGED, "not possible here", "raised")

_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("name", "family"), "str"),
    "agreement": pd.CategoricalDtype(list(AGREEMENTS)),
    "verdict": pd.CategoricalDtype(list(JUDGED)),
    **dict.fromkeys(("n_environments", "n_judged"), "int32"),
    "exceptions": "str",
}


def agreement(frame: pd.DataFrame, *, by: Sequence[str] = ENVIRONMENT) -> pd.DataFrame:
    """Compare the verdicts of the phenomena between environments.

    Rows with the same values in the columns `by` are of one environment. Only the verdicts
    ``"holds"`` and ``"differs"`` are about the claim, and only these are compared. A
    phenomenon that is not possible somewhere, that raised, or that was not run there, says
    nothing about that kernel.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`epolllab.experiments.run_all` with an executor, or several of these
        together (``pandas.concat``).
    by : sequence of str
        Columns that identify an environment. With ``("kernel",)`` the runs of one kernel
        count as repetitions, whatever their Python.

    Returns
    -------
    pandas.DataFrame
        A row per phenomenon, in the order of the frame.

        ============== ======== =====================================================
        name, family   str      of the phenomenon
        agreement      category ``"same"``: at least two environments have a verdict on
                                the claim, and all of these have the same;
                                ``"differs"``: it holds in some and not in others;
                                ``"unsteady"``: runs in one and the same environment have
                                different verdicts, so a difference between environments
                                would prove nothing;
                                ``"not compared"``: fewer than two have a verdict on it
        verdict        category ``"holds"`` or ``"differs"``, that of all environments
                                with a verdict on the claim; missing if they disagree
                                or there are none
        n_environments int32    environments in the frame
        n_judged       int32    those with a verdict on the claim
        exceptions     str      environments where it does not hold, by verdict; empty if
                                all environments have the same verdict
        ============== ======== =====================================================

    Raises
    ------
    ValueError, TypeError
        The frame is of another function, lacks a column of `by`, or has a verdict that the
        catalogue does not give.

    Examples
    --------
    >>> import pandas as pd
    >>> from epolllab import analysis
    >>> rows = [("edge-goes-silent", "level and edge", verdict, kernel)
    ...         for verdict, kernel in (("holds", "5.4"), ("differs", "6.1"))]
    >>> frame = pd.DataFrame(rows, columns=["name", "family", "verdict", "kernel"])
    >>> analysis.agreement(frame, by=("kernel",))["exceptions"].tolist()
    ['differs: Linux 6.1']
    """
    table = verdict_table(frame, by)
    rows = [
        {"name": name, "family": family, **_compare(table.iloc[place])}
        for place, (family, name) in enumerate(table.index)
    ]
    return pd.DataFrame(rows, columns=pd.Index(_COLUMNS)).astype(_COLUMNS)


def verdict_table(frame: pd.DataFrame, by: Sequence[str] = ENVIRONMENT) -> pd.DataFrame:
    """The verdict of each phenomenon, a row indexed by family and name, in each environment.

    A column per environment, in the order of the frame. ``"unsteady"`` if runs of one
    environment disagree, ``"not run"`` if none of them has a verdict.
    """
    columns = _check_by(frame, by)
    names = " ".join(f"{column}*" for column in dict.fromkeys(("name", "family", *columns)))
    check_frame("frame", frame, SOURCE, f"{names} verdict*")
    verdicts = frame["verdict"].astype("object").where(frame["verdict"].notna(), NOT_RUN)
    for verdict in verdicts.unique():
        check_choice("verdict in frame", verdict, (*VERDICTS, NOT_RUN))
    labels = label_rows(frame, columns)
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for family, name, label, verdict in zip(
        frame["family"], frame["name"], labels, verdicts, strict=True
    ):
        found.setdefault((family, name), {}).setdefault(label, set()).add(verdict)
    index = pd.MultiIndex.from_tuples(list(found), names=["family", "name"])
    environments = list(dict.fromkeys(labels))
    cells = [[_summarise(of.get(label, set())) for label in environments] for of in found.values()]
    return pd.DataFrame(cells, index=index if found else None, columns=pd.Index(environments))


def _check_by(frame: Any, by: Any) -> tuple[str, ...]:
    columns: tuple[str, ...] = check_sequence("by", by, partial(_check_column, frame))
    if not columns:
        raise ValueError("by must not be empty; give columns of the frame, as by=('kernel',)")
    return columns


def _check_column(frame: Any, name: str, value: Any) -> str:
    """Check a column's name; one of the default that the frame lacks is the frame's fault."""
    known = [str(column) for column in frame] if isinstance(frame, pd.DataFrame) else []
    if isinstance(value, str) and value in ENVIRONMENT:
        return value
    return check_choice(name, value, (*known, *ENVIRONMENT))


def _summarise(verdicts: set[str]) -> str:
    """The verdict of one environment, whose runs may have several."""
    judged = sorted(verdicts.intersection(JUDGED))
    if len(judged) > 1:
        return UNSTEADY
    others = ("raised", "not possible here", NOT_RUN)
    return next((verdict for verdict in (*judged, *others) if verdict in verdicts), NOT_RUN)


def _compare(verdicts: "pd.Series[str]") -> dict[str, Any]:
    judged = verdicts[verdicts.isin(JUDGED)]
    kinds = judged.unique()
    result = "not compared"
    if (verdicts == UNSTEADY).any():
        result = UNSTEADY
    elif len(judged) > 1:
        result = "same" if len(kinds) == 1 else "differs"
    common = len(kinds) == 1 and result != UNSTEADY
    return {
        "agreement": result,
        "verdict": kinds[0] if common else None,
        "n_environments": len(verdicts),
        "n_judged": len(judged) + int((verdicts == UNSTEADY).sum()),
        "exceptions": _exceptions(verdicts) if verdicts.nunique() > 1 else "",
    }


def _exceptions(verdicts: "pd.Series[str]") -> str:
    kinds = [kind for kind in verdicts.unique() if kind != "holds"]
    return "; ".join(f"{kind}: {' and '.join(verdicts.index[verdicts == kind])}" for kind in kinds)
