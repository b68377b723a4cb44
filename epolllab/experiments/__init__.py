"""Experiments: phenomena with verdicts, comparisons of servers, and scaling sweeps.

``catalogue`` holds the phenomena: ``phenomena()`` lists them, ``run()`` and ``run_all()``
run them. ``comparisons`` measures real servers and processes; ``scaling`` times waits
over 10 to 10,000 descriptors; ``workers`` is code that runs in child processes. Names
are imported when first used, since the child processes import this folder too and need
neither numpy nor pandas. Imports plots and everything below.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epolllab.experiments.catalogue import (
        Bench,
        Outcome,
        Phenomenon,
        Verdict,
        phenomena,
        phenomenon,
        phenomenon_names,
        run,
        run_all,
    )
    from epolllab.experiments.comparisons.conformance import check_conformance
    from epolllab.experiments.comparisons.herds import (
        accept_balance,
        latency_tails,
        thundering_herd,
    )
    from epolllab.experiments.comparisons.howto import HowToProcess, HowToServer
    from epolllab.experiments.comparisons.idle import idle_connections
    from epolllab.experiments.comparisons.lifecycles import compare_lifecycles
    from epolllab.experiments.comparisons.observer_cost import observer_cost
    from epolllab.experiments.comparisons.triggers import level_against_edge, strand_connections
    from epolllab.experiments.scaling.propagation import propagate
    from epolllab.experiments.scaling.register import register_cost
    from epolllab.experiments.scaling.sweeps import crossover, sweep, wait_kinds

_HOME = {
    "catalogue": (
        "Bench Outcome Phenomenon Verdict phenomena phenomenon phenomenon_names run run_all"
    ),
    "comparisons.conformance": "check_conformance",
    "comparisons.herds": "accept_balance latency_tails thundering_herd",
    "comparisons.howto": "HowToProcess HowToServer",
    "comparisons.idle": "idle_connections",
    "comparisons.lifecycles": "compare_lifecycles",
    "comparisons.observer_cost": "observer_cost",
    "comparisons.triggers": "level_against_edge strand_connections",
    "scaling.propagation": "propagate",
    "scaling.register": "register_cost",
    "scaling.sweeps": "crossover sweep wait_kinds",
}

__all__ = [
    "Bench",
    "HowToProcess",
    "HowToServer",
    "Outcome",
    "Phenomenon",
    "Verdict",
    "accept_balance",
    "check_conformance",
    "compare_lifecycles",
    "crossover",
    "idle_connections",
    "latency_tails",
    "level_against_edge",
    "observer_cost",
    "phenomena",
    "phenomenon",
    "phenomenon_names",
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
    for module, names in _HOME.items():
        if name in names.split():
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
