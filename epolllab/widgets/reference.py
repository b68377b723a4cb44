"""Our own runs beside the two widget notebooks, as files under ``data/reference``.

One job: make them with one command, by the widgets' own buttons::

    python -m epolllab.widgets.reference data/reference
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from epolllab.experiments.makers import save_each
from epolllab.widgets.dashboard import dashboard
from epolllab.widgets.steps import Steps
from epolllab.widgets.ticker import INTERVAL_S

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RUNS", "reference_runs"]

ROUNDS = 4
"""Of each load, of two seconds each."""


def dashboard_live() -> "pd.DataFrame":
    """What a dashboard showed, tick by tick: one client, then fifty."""
    dash = dashboard()
    try:
        dash.start()
        told = {"circumstances": dash.circumstances(), "parameters": dash.parameters()}
        for connections in (1, 50):
            dash.controls["connections"].value = connections
            dash.fire()
            assert dash.load is not None
            while dash.load.running and dash.load.rounds < ROUNDS:
                dash.watch(INTERVAL_S)
            dash.cease()
            dash.load.join()
            if dash.load.error is not None:
                raise RuntimeError(f"the clients failed; nothing is saved:\n{dash.load.error}")
        frame = dash.data()
    finally:
        dash.close()
    frame.attrs.update(told)
    return frame


def stepper_history() -> "pd.DataFrame":
    """The steps of notebook 15: edge told once; what makes it speak again; an end."""
    with Steps() as steps:
        steps.peer_writes(2000)
        steps.wait()
        steps.wait()
        steps.recv(500)
        steps.wait()
        steps.peer_writes(1)
        steps.wait()
        steps.modify()
        steps.wait()
        steps.drain()
        steps.wait()
        steps.peer_writes(10)
        steps.peer_writes(20)
        steps.wait()
        steps.wait()
        steps.drain()
        steps.peer_half_closes()
        for _ in range(3):
            steps.wait()
        return steps.history()


RUNS: "dict[str, Callable[[], pd.DataFrame]]" = {
    "dashboard-live": dashboard_live,
    "stepper-history": stepper_history,
}
"""Name to what makes it."""


def reference_runs(
    folder: str | os.PathLike[str], names: tuple[str, ...] = tuple(RUNS)
) -> dict[str, Path]:
    """Make our own runs, in twenty seconds; see :func:`~epolllab.experiments.makers.save_each`.

    Parameters
    ----------
    folder : path-like
        Where the files go; on a machine that is otherwise quiet.
    names : tuple of str
        Of :data:`RUNS`.
    """
    return save_each(RUNS, {name: Path(folder, f"{name}.parquet") for name in names})


if __name__ == "__main__":
    reference_runs(sys.argv[1] if len(sys.argv) > 1 else "data/reference")
