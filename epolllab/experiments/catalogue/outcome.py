"""A phenomenon of the catalogue, and the outcome of one run of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from epolllab import plots
from epolllab.checks import checked
from epolllab.experiments.catalogue.bench import Bench, Step
from epolllab.notebook import html
from epolllab.plots.canvas import check_axes
from epolllab.recording import environment
from epolllab.recording.recording import Recording

__all__ = ["SIGNS", "Outcome", "Phenomenon", "Verdict", "Version", "format_value"]

STEPS_SHOWN = 40
"""Steps that a notebook shows; ``outcome.steps`` has all."""

Version = tuple[int, int]


@dataclass(frozen=True)
class Phenomenon:
    """One entry of the catalogue.

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
        ``function(bench)`` runs it; it returns the observation, or yields its values in
        the order of `expected`.
    judge : callable or None
        ``judge(observed)`` says whether the claim holds; by default, equality decides.
    since, before : tuple of (int, int) or None
        First kernel version the claim holds for, and first for which it does not.
    notes : tuple of str
        Remarks.
    picture : callable or None
        ``picture(outcome, *, ax)`` draws it; by default, the timeline of its calls is drawn.
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
    picture: Callable[..., Axes] | None = None

    @property
    def kernels(self) -> str:
        """The kernel versions it holds for, in words; "" for all."""
        words = []
        if self.since is not None:
            words.append("from {}.{}".format(*self.since))
        if self.before is not None:
            words.append("before {}.{}".format(*self.before))
        return " ".join(words)


class Verdict(StrEnum):
    """The result of comparing the observation with the claim."""

    HOLDS = "holds"
    DIFFERS = "differs"
    NOT_POSSIBLE = "not possible here"
    RAISED = "raised"


SIGNS: dict[Verdict, tuple[str, html.Tone]] = {
    Verdict.HOLDS: ("✓", "success"),
    Verdict.DIFFERS: ("✗", "error"),
    Verdict.NOT_POSSIBLE: ("\N{EN DASH}", "warning"),
    Verdict.RAISED: ("✗", "error"),
}


@dataclass(frozen=True)
class Outcome:
    """One run of one phenomenon.

    Attributes
    ----------
    phenomenon : Phenomenon
        Its name, claim, source and expected result.
    observed : object
        The observation, as plain data of the shape of ``phenomenon.expected``; None if
        there is none.
    verdict : Verdict
        ``"holds"``, ``"differs"``, ``"not possible here"``, or ``"raised"`` if the
        phenomenon's own code failed.
    reason : str
        Why it is not possible here, or the exception; "" otherwise.
    steps : tuple of Step
        The calls made and their results.
    notes : tuple of str
        Remarks on the phenomenon and on this run.
    recording : Recording
        The calls, with the circumstances.
    seconds : float
        Duration of the run.
    data : mapping
        Values for the picture.
    """

    phenomenon: Phenomenon
    observed: Any
    verdict: Verdict
    reason: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    recording: Recording
    seconds: float
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The phenomenon's name."""
        return self.phenomenon.name

    @property
    def expected(self) -> Any:
        """The observation that the claim predicts."""
        return self.phenomenon.expected

    @property
    def circumstances(self) -> Mapping[str, Any]:
        """Kernel, processor, Python and the rest; see ``environment.KEYS``."""
        return self.recording.metadata

    @property
    def holds(self) -> bool:
        """Whether the verdict is that the claim holds."""
        return self.verdict is Verdict.HOLDS

    def table(self) -> pd.DataFrame:
        """Return the steps as a frame.

        Returns
        -------
        pandas.DataFrame
            ``what`` (str), ``returned`` (str), ``t_ns`` (int64, from the first step),
            ``dur_ns`` (int64).
        """
        dtypes = {"what": "str", "returned": "str", "t_ns": "int64", "dur_ns": "int64"}
        frame = pd.DataFrame(list(self.steps), columns=list(dtypes)).astype(dtypes)
        if self.steps:
            frame["t_ns"] -= self.steps[0].t_ns
        return frame

    @checked(ax=check_axes)
    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the phenomenon's picture, or the timeline of its calls if it has none.

        Returns
        -------
        matplotlib.axes.Axes
            Where it was drawn.
        """
        if self.phenomenon.picture is not None:
            return self.phenomenon.picture(self, ax=ax)
        return plots.timeline(self.recording.events(), ax=ax)

    def __repr__(self) -> str:
        tail = f": {self.reason}" if self.reason else ""
        return (
            f"<Outcome {self.name}: {self.verdict}{tail}\n"
            f"  expected {format_value(self.expected)}\n  observed {format_value(self.observed)}>"
        )

    def _repr_html_(self) -> str:
        sign, tone = SIGNS[self.verdict]
        steps = [
            (number, step.what, step.returned)
            for number, step in enumerate(self.steps[:STEPS_SHOWN], 1)
        ]
        left = len(self.steps) - STEPS_SHOWN
        circumstances = ""
        if self.circumstances:
            circumstances = (
                f"{environment.summary(self.circumstances)}; {self.seconds * 1000:.1f} ms"
            )
        return html.box(
            self.name,
            html.text(f"{sign} {self.verdict}", tone),
            html.text(self.phenomenon.claim),
            html.text(self.reason, tone),
            html.table(("", "expected", "observed", ""), self._comparison()),
            html.table(("", "call", "result"), steps) if steps else "",
            html.text(f"and {left:,} more in .steps" if left > 0 else "", "muted"),
            *(html.text(line, "muted") for line in self.notes),
            html.linked(f"Source: {self.phenomenon.source}", "muted"),
            html.text(circumstances, "muted"),
        )

    def _comparison(self) -> list[tuple[str, str, str, str]]:
        """Rows of part, expected, observed and a mark where these differ."""
        expected, observed = self.expected, self.observed
        differs = self.verdict is Verdict.DIFFERS
        if not isinstance(expected, dict) or not isinstance(observed, dict):
            return [("", format_value(expected), format_value(observed), "✗" if differs else "")]
        rows = []
        for key in {**expected, **observed}:
            wanted, seen = (side.get(key, "\N{EN DASH}") for side in (expected, observed))
            mark = "✗" if differs and wanted != seen and not self.phenomenon.judge else ""
            rows.append((str(key), format_value(wanted), format_value(seen), mark))
        return rows


def format_value(value: object) -> str:
    """Format an expectation or observation in one line of text."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {format_value(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value)) if value else "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3g}"
    return str(value)
