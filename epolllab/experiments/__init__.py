"""Experiments: the kernel's answers to questions about readiness, live and with a verdict.

The catalogue of phenomena: :func:`catalogue`, :func:`run`, :func:`run_all`, and
:func:`phenomenon` to add one. The comparisons on real servers:
:func:`level_against_edge`, :func:`strand_connections`,
:func:`lifecycles_side_by_side`. Processes at one listener:
:func:`thundering_herd`, :func:`accept_balance`, :func:`latency_tails`. The doctor for a
loop at 100 % CPU: :func:`diagnose`. Their charts are in :mod:`.pictures`.

Scaling (see :mod:`.scaling`): :func:`sweep`, :func:`wait_kinds`, :func:`crossover`,
:func:`register_cost`, :func:`propagate`, :func:`idle_connections`; what others
published: :func:`literature`; and what watching costs: :func:`cost_of_looking`. Their
charts are in :mod:`epolllab.plots`.

Everything is imported when it is first used: the child processes of the experiments
import this package too, and need none of numpy and pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epolllab.experiments.comparison import (
        level_against_edge,
        lifecycles_side_by_side,
        strand_connections,
    )
    from epolllab.experiments.doctor import Diagnosis, Finding, diagnose
    from epolllab.experiments.herds import accept_balance, latency_tails, thundering_herd
    from epolllab.experiments.howto import HowToProcess, HowToServer
    from epolllab.experiments.looking import cost_of_looking
    from epolllab.experiments.outcome import Outcome, Verdict
    from epolllab.experiments.phenomena import (
        Phenomenon,
        catalogue,
        names,
        phenomenon,
        run,
        run_all,
    )
    from epolllab.experiments.published import literature
    from epolllab.experiments.repairs import examine
    from epolllab.experiments.scaling import (
        crossover,
        idle_connections,
        propagate,
        register_cost,
        sweep,
        wait_kinds,
    )

_HOME = {
    "Phenomenon": "phenomena",
    "catalogue": "phenomena",
    "names": "phenomena",
    "phenomenon": "phenomena",
    "run": "phenomena",
    "run_all": "phenomena",
    "Outcome": "outcome",
    "Verdict": "outcome",
    "level_against_edge": "comparison",
    "lifecycles_side_by_side": "comparison",
    "strand_connections": "comparison",
    "Diagnosis": "doctor",
    "Finding": "doctor",
    "diagnose": "doctor",
    "accept_balance": "herds",
    "latency_tails": "herds",
    "thundering_herd": "herds",
    "HowToProcess": "howto",
    "HowToServer": "howto",
    "examine": "repairs",
    "cost_of_looking": "looking",
    "literature": "published",
    "crossover": "scaling",
    "idle_connections": "scaling",
    "propagate": "scaling",
    "register_cost": "scaling",
    "sweep": "scaling",
    "wait_kinds": "scaling",
}
_MODULES = ("herds", "looking", "pictures", "published", "repairs", "scaling", "scaling_pictures")

__all__ = [
    "Diagnosis",
    "Finding",
    "HowToProcess",
    "HowToServer",
    "Outcome",
    "Phenomenon",
    "Verdict",
    "accept_balance",
    "catalogue",
    "cost_of_looking",
    "crossover",
    "diagnose",
    "examine",
    "idle_connections",
    "latency_tails",
    "level_against_edge",
    "lifecycles_side_by_side",
    "literature",
    "names",
    "phenomenon",
    "propagate",
    "register_cost",
    "run",
    "run_all",
    "strand_connections",
    "sweep",
    "thundering_herd",
    "wait_kinds",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
