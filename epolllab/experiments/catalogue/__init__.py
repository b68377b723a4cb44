"""The phenomena: one small live experiment each, with its expected result.

``bench`` is what an experiment is written with, ``outcome`` what it returns, and
``registry`` lists and runs them. The other files hold the phenomena, one file per family;
importing this folder registers all of them.
"""

from epolllab.experiments.catalogue import (  # noqa: F401  (importing registers them)
    completion,
    descriptors,
    howto,
    level_edge,
    masks,
    sharing,
    timing,
)
from epolllab.experiments.catalogue.bench import Bench, NotPossible
from epolllab.experiments.catalogue.outcome import Outcome, Phenomenon, Verdict
from epolllab.experiments.catalogue.registry import (
    phenomena,
    phenomenon,
    phenomenon_names,
    run,
    run_all,
)

__all__ = [
    "Bench",
    "NotPossible",
    "Outcome",
    "Phenomenon",
    "Verdict",
    "phenomena",
    "phenomenon",
    "phenomenon_names",
    "run",
    "run_all",
]
