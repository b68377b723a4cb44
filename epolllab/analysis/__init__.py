"""From frames to numbers with uncertainty, and to diagnoses.

``statistics`` has medians, ratios and line fits with bootstrap intervals; ``Result`` holds
the raw values of an experiment with its circumstances; ``ratios`` and ``shape`` compare
results with each other, ``literature`` with published figures, ``agreement`` the verdicts
of several kernels; ``compare`` shows what a change did to a server or its clients;
``diagnose`` finds what keeps a loop busy. Imports recording and
everything below.
"""

from epolllab.analysis.agreement import agreement
from epolllab.analysis.comparison import Comparison, compare
from epolllab.analysis.diagnosis import Diagnosis, Finding, diagnose
from epolllab.analysis.literature import beside, literature
from epolllab.analysis.ratios import crossover_ratios, literature_ratios, shares
from epolllab.analysis.result import Result
from epolllab.analysis.shape import shape
from epolllab.analysis.statistics import (
    Interval,
    Line,
    fit_line,
    fits,
    growth,
    median_interval,
    percentile,
    ratio_interval,
    summarise,
)

__all__ = [
    "Comparison", "Diagnosis", "Finding", "Interval", "Line", "Result", "agreement", "beside",
    "compare", "crossover_ratios", "diagnose", "fit_line", "fits", "growth", "literature",
    "literature_ratios", "median_interval", "percentile", "ratio_interval", "shape", "shares",
    "summarise",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted(__all__)
