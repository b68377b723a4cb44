"""Scaling: epoll against poll and select, measured soundly on the reader's machine.

:func:`sweep` times one wait over N descriptors, :func:`wait_kinds` does so for several
kinds of them, :func:`crossover` over the share that is ready, :func:`register_cost` times
what comes before a wait, :func:`propagate` a whole loop, and :func:`idle_connections` real
servers with many idle connections. Each returns a :class:`Result`; a sweep's
``checks()`` hold its shape against named margins.

:func:`literature` has what others published, :func:`beside` sets ours
beside it, and :func:`literature_ratios` says how far the shapes agree.
The pictures are in :mod:`epolllab.experiments.scaling_pictures`, and what watching a
server costs it in :mod:`epolllab.experiments.looking`.
"""

from epolllab.experiments.published import beside, literature
from epolllab.experiments.published import ratios as literature_ratios
from epolllab.experiments.scaling.grid import crossover
from epolllab.experiments.scaling.grid import ratios as crossover_ratios
from epolllab.experiments.scaling.idle import idle_connections
from epolllab.experiments.scaling.propagation import propagate
from epolllab.experiments.scaling.register import register_cost
from epolllab.experiments.scaling.result import Result
from epolllab.experiments.scaling.sweeps import shares, sweep, wait_kinds

__all__ = [
    "Result",
    "beside",
    "crossover",
    "crossover_ratios",
    "idle_connections",
    "literature",
    "literature_ratios",
    "propagate",
    "register_cost",
    "shares",
    "sweep",
    "wait_kinds",
]
