"""Which notebook cell is running, so that a cell run twice leaves one server.

One job: know the running cell; remember what each cell started, and stop that when the
cell is run again; and tell any thread whether a cell is running. Dropping a handle is not
enough in a notebook: IPython keeps what a cell displayed in ``Out`` and ``_``. Outside a
notebook this does nothing.
"""

import sys
import warnings
import weakref
from functools import partial
from typing import Any, Protocol

__all__ = ["is_busy", "remember", "stop_earlier_execution", "watch"]


class _Stoppable(Protocol):
    def stop(self) -> None: ...


_started: "dict[str, tuple[int, weakref.WeakSet[Any]]]" = {}


def _executing() -> tuple[str, int] | None:
    """The running cell's identity and execution count; None outside a kernel's cell."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "get_parent"):
        return None
    request = shell.get_parent() or {}
    if request.get("header", {}).get("msg_type") != "execute_request":
        return None
    # JupyterLab names the cell; other front ends do not, and there the same text is
    # taken for the same cell.
    cell = request.get("metadata", {}).get("cellId") or request.get("content", {}).get("code")
    return (str(cell), shell.execution_count) if cell else None


def stop_earlier_execution() -> None:
    """Stop what an earlier execution of the running cell started."""
    executing = _executing()
    if executing is None:
        return
    cell, count = executing
    earlier_count, earlier = _started.get(cell, (count, weakref.WeakSet()))
    if earlier_count != count:
        del _started[cell]
        for server in list(earlier):
            try:
                server.stop()
            except Exception as error:  # it had died, or is stuck: no reason not to start anew
                warnings.warn(f"of this cell's earlier run: {error}", RuntimeWarning, stacklevel=3)


def remember(server: _Stoppable) -> None:
    """Note that the running cell started `server`."""
    executing = _executing()
    if executing is not None:
        cell, count = executing
        _started.setdefault(cell, (count, weakref.WeakSet()))[1].add(server)


_depth = 0  # cells that run: a cell may run others, such as by %run
_watched = False


def watch() -> None:
    """Take note from now on of when a cell begins and ends; see :func:`is_busy`."""
    global _watched, _depth
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if _watched or shell is None or not hasattr(shell, "get_parent"):
        return
    _watched = True
    _depth = 0 if _executing() is None else 1
    shell.events.register("pre_execute", partial(_step, 1))
    shell.events.register("post_execute", partial(_step, -1))


def _step(by: int) -> None:
    global _depth
    _depth = max(_depth + by, 0)  # an empty cell ends without having begun


def is_busy() -> bool:
    """Whether a cell is running, from whichever thread it is asked.

    Known from :func:`watch` on. Without that, and outside a notebook, it is False.
    """
    return _depth > 0
