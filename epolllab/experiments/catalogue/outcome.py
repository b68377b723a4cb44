"""What came of one phenomenon: expected beside observed, a verdict, and the evidence.

One job: hold the result and show it. It runs nothing and judges nothing; the
catalogue does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING, Any

from epolllab.experiments.catalogue.bench import Bench, Step
from epolllab.recording import environment
from epolllab.recording.recording import Recording

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


__all__ = ["Outcome", "Phenomenon", "Verdict", "plainly"]


STEPS_SHOWN = 40
"""Rows of the steps that a notebook shows; ``outcome.steps`` has all."""


class Verdict(StrEnum):
    """What the observation says about the claim."""

    HOLDS = "holds"
    DIFFERS = "differs"
    NOT_POSSIBLE = "not possible here"
    RAISED = "raised"


_COLOURS = {
    Verdict.HOLDS: "var(--jp-success-color0,#1b7837)",
    Verdict.DIFFERS: "var(--jp-error-color0,#b3261e)",
    Verdict.RAISED: "var(--jp-error-color0,#b3261e)",
    Verdict.NOT_POSSIBLE: "var(--jp-warn-color0,#8a5a00)",
}
_SIGNS = {
    Verdict.HOLDS: "✓",
    Verdict.DIFFERS: "✗",
    Verdict.RAISED: "✗",
    Verdict.NOT_POSSIBLE: "\N{EN DASH}",
}
_CELL = "text-align:left;padding:2px 14px 2px 0;vertical-align:top"
_HEAD = f"{_CELL};color:var(--jp-ui-font-color2,#666);font-weight:normal;font-size:13px"
_CODE = "font-family:var(--jp-code-font-family,monospace);font-size:90%"
_RULE = "border-top:1px solid var(--jp-border-color2,#ccc)"


@dataclass(frozen=True)
class Outcome:
    """One run of one phenomenon.

    Attributes
    ----------
    phenomenon : Phenomenon
        The entry of the catalogue: name, claim, source and what is expected.
    observed : object
        What was seen, as plain data of the shape of ``phenomenon.expected``; None if
        there was nothing to see.
    verdict : Verdict
        ``"holds"``, ``"differs"``, ``"not possible here"``, or ``"raised"`` if the
        phenomenon's own code failed.
    reason : str
        Why it is not possible here, or the exception; "" otherwise.
    steps : tuple of Step
        What was done, and what the kernel returned.
    notes : tuple of str
        Remarks of the entry and of this run.
    recording : Recording
        The calls, with the circumstances.
    seconds : float
        How long it took.
    """

    phenomenon: "Phenomenon"
    observed: Any
    verdict: Verdict
    reason: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    recording: Recording
    seconds: float
    data: Mapping[str, Any] = field(default_factory=dict)
    """What the phenomenon left for its picture."""

    @property
    def name(self) -> str:
        """The phenomenon's name."""
        return self.phenomenon.name

    @property
    def expected(self) -> Any:
        """What the claim leads one to expect."""
        return self.phenomenon.expected

    @property
    def circumstances(self) -> Mapping[str, Any]:
        """Kernel, processor, Python and the rest; see ``environment.KEYS``."""
        return self.recording.metadata

    @property
    def holds(self) -> bool:
        """Whether the verdict is that the claim holds."""
        return self.verdict is Verdict.HOLDS

    def table(self) -> "pd.DataFrame":
        """The steps as a frame.

        Returns
        -------
        pandas.DataFrame
            ``what`` (str), ``returned`` (str), ``t_ns`` (int64, from the first step),
            ``dur_ns`` (int64).
        """
        import pandas as pd

        start = self.steps[0].t_ns if self.steps else 0
        return pd.DataFrame(
            {
                "what": pd.array([step.what for step in self.steps], dtype="str"),
                "returned": pd.array([step.returned for step in self.steps], dtype="str"),
                "t_ns": pd.array([step.t_ns - start for step in self.steps], dtype="int64"),
                "dur_ns": pd.array([step.dur_ns for step in self.steps], dtype="int64"),
            }
        )

    def plot(self, *, ax: "Axes | None" = None) -> "Axes":
        """Draw what the phenomenon has a picture for; the timeline of its calls otherwise.

        Returns
        -------
        matplotlib.axes.Axes
            Where it was drawn.
        """
        picture: Callable[..., Axes] | None = self.phenomenon.picture
        if picture is not None:
            return picture(self, ax=ax)
        from epolllab import plots

        return plots.timeline(self.recording.events(), ax=ax)

    def __repr__(self) -> str:
        tail = f": {self.reason}" if self.reason else ""
        return (
            f"<Outcome {self.name}: {self.verdict}{tail}\n"
            f"  expected {plainly(self.expected)}\n  observed {plainly(self.observed)}>"
        )

    def _repr_html_(self) -> str:
        colour = _COLOURS[self.verdict]
        why = f"<div style='color:{colour}'>{escape(self.reason)}</div>" if self.reason else ""
        return (
            "<div style='display:inline-block;padding:8px 14px;max-width:60em;"
            "border:1px solid var(--jp-border-color2,#ccc);border-radius:4px'>"
            f"<b>{escape(self.name)}</b> &nbsp; <b style='color:{colour}'>"
            f"{_SIGNS[self.verdict]} {self.verdict}</b>"
            f"<div style='margin:2px 0 6px'>{escape(self.phenomenon.claim)}</div>{why}"
            f"{self._comparison()}{self._steps()}{self._footer()}</div>"
        )

    def _comparison(self) -> str:
        """Expected beside observed, a row for each part where both have the same parts."""
        expected, observed = self.expected, self.observed
        if not isinstance(expected, dict) or not isinstance(observed, dict):
            rows = [("", expected, observed, self.verdict is not Verdict.DIFFERS)]
        else:
            keys = [*expected, *(key for key in observed if key not in expected)]
            missing = object()
            rows = [
                (
                    str(key),
                    expected.get(key, "\N{EN DASH}"),
                    observed.get(key, "\N{EN DASH}"),
                    self.phenomenon.judge is not None
                    or expected.get(key, missing) == observed.get(key, missing),
                )
                for key in keys
            ]
        return _table(
            ("", "expected", "observed"),
            [
                (part, plainly(wanted), plainly(seen), "" if same else "✗")
                for part, wanted, seen, same in rows
            ],
        )

    def _steps(self) -> str:
        rows = [
            (str(number), step.what, step.returned)
            for number, step in enumerate(self.steps[:STEPS_SHOWN], 1)
        ]
        left = len(self.steps) - STEPS_SHOWN
        more = f"<div style='{_HEAD}'>and {left:,} more in .steps</div>" if left > 0 else ""
        return _table(("", "done", "the kernel returned"), rows) + more if rows else ""

    def _footer(self) -> str:
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        line = environment.summary(self.circumstances) if self.circumstances else ""
        return (
            f"<div style='margin-top:6px;padding-top:4px;{_RULE};"
            "color:var(--jp-ui-font-color2,#666);font-size:90%'>"
            f"{notes}<div>Source: {escape(self.phenomenon.source)}</div>"
            f"<div>{escape(line)}; {self.seconds * 1000:.1f} ms</div></div>"
        )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a table that takes JupyterLab's colours."""
    titles = "".join(f"<th style='{_HEAD}'>{escape(title)}</th>" for title in head)
    body = "".join(
        "<tr style='background:none'>"
        + "".join(f"<td style='{_CELL};{_CODE}'>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return (
        "<table style='border-collapse:collapse;margin:2px 0 6px'>"
        f"<tr style='background:none'>{titles}</tr>{body}</table>"
    )


def plainly(value: object) -> str:
    """An expectation or observation in one line of text."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {plainly(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plainly, value)) if value else "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3g}"
    return str(value)


Version = tuple[int, int]


@dataclass(frozen=True)
class Phenomenon:
    """One entry.

    Attributes
    ----------
    name : str
        Words with hyphens, as :func:`run` takes it.
    family : str
        The chapter it belongs to.
    claim : str
        One sentence: what the kernel does.
    expected : object
        Plain data to compare the observation with, or the margin in words.
    source : str
        Where the claim comes from.
    function : callable
        ``function(bench)`` does it and returns what was seen.
    judge : callable or None
        ``judge(observed)`` says whether that is as expected; equality by default.
    since, before : tuple of (int, int) or None
        First kernel version the claim holds for, and first for which it does not.
    notes : tuple of str
        What else there is to know.
    picture : callable or None
        ``picture(outcome, *, ax)`` draws it; the timeline of its calls by default.
    """

    name: str
    family: str
    claim: str
    expected: Any
    source: str
    function: Callable[[Bench], Any]
    judge: Callable[[Any], bool] | None = None
    since: Version | None = None
    before: Version | None = None
    notes: tuple[str, ...] = ()
    picture: Callable[..., Any] | None = None

    @property
    def kernels(self) -> str:
        """The kernel versions it holds for, in words; "" for all there are."""
        words = []
        if self.since is not None:
            words.append("from {}.{}".format(*self.since))
        if self.before is not None:
            words.append("before {}.{}".format(*self.before))
        return " ".join(words)
