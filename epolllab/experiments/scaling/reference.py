"""Our own runs of every scaling experiment, as files under ``data/reference``.

One job: make them all with one command, and find them again::

    python -m epolllab.experiments.scaling.reference data/reference
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from epolllab.experiments.looking import cost_of_looking
from epolllab.experiments.makers import save_each
from epolllab.experiments.scaling.grid import crossover
from epolllab.experiments.scaling.idle import idle_connections
from epolllab.experiments.scaling.propagation import propagate
from epolllab.experiments.scaling.register import register_cost
from epolllab.experiments.scaling.result import Result
from epolllab.experiments.scaling.sweeps import sweep, wait_kinds
from epolllab.options import one_of

__all__ = ["RUNS", "path_of", "reference_runs"]


def _staircase() -> Result:
    # Without writes a run is one pass, and its waits are the batch cut by the bound.
    steps = (1, 256, 257, 512, 513, 1_000, 1_023, 1_024, 1_500, 2_046, 2_047, 2_500, 3_069, 3_070,
             3_500, 4_092, 4_093, 5_000)  # fmt: skip
    pollers = ("epoll-level", "epoll-edge", "poll")
    return propagate(5_000, steps, 0, pollers=pollers, max_events=(256, 1_023), runs=5)


RUNS: dict[str, Callable[[], Result]] = {
    "sweep": sweep,
    "wait-kinds": wait_kinds,
    "crossover": crossover,
    "register-cost": register_cost,
    "propagate": lambda: propagate((100, 1_000), (1, 100)),
    "propagate-all-active": lambda: propagate(
        (1_000, 5_000), (1_000,), pollers=("epoll-level", "epoll-edge", "poll")
    ),
    "staircase": _staircase,
    "idle-connections": idle_connections,
    "cost-of-looking": cost_of_looking,
}
"""Name to what makes it, each with its defaults or with the settings said here."""


def path_of(name: str, folder: str | os.PathLike[str]) -> Path:
    """Where a reference run is: ``scaling-NAME.parquet``.

    Raises
    ------
    ValueError
        There is no run of this name; the nearest one is said.
    """
    one_of("name", name, list(RUNS))
    return Path(folder, f"scaling-{name}.parquet")


def reference_runs(
    folder: str | os.PathLike[str], names: tuple[str, ...] = tuple(RUNS)
) -> dict[str, Path]:
    """Make reference runs; see :func:`~epolllab.experiments.makers.save_each`.

    On a machine that is otherwise quiet; six to eight minutes in all, on two processors.

    Parameters
    ----------
    folder : path-like
        Where the files go.
    names : tuple of str
        Of :data:`RUNS`.
    """
    return save_each(RUNS, {name: path_of(name, folder) for name in names})


if __name__ == "__main__":
    reference_runs(sys.argv[1] if len(sys.argv) > 1 else "data/reference")
