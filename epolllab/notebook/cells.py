"""Track the running notebook cell, so that running a cell again replaces what it started.

Dropping a handle does not stop its server in a notebook: IPython keeps what a cell
displayed in ``Out`` and ``_``. Outside a notebook these functions do nothing.
"""

import os
import sys
import warnings
import weakref
from functools import partial
from typing import Any, Literal, Protocol

__all__ = [
    "front_end", "in_notebook", "is_cell_running", "register", "stop_previous", "watch_cells",
]  # fmt: skip


class _Stoppable(Protocol):
    def stop(self) -> None: ...


_started: "dict[str, tuple[int, weakref.WeakSet[Any]]]" = {}
"""What each cell started: cell id to execution count and handles."""


def _shell() -> Any:
    """IPython's shell in a Jupyter kernel; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell if hasattr(shell, "get_parent") else None


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    return _shell() is not None


def _running_cell() -> tuple[str, int, bool] | None:
    """The running cell, its execution count, and whether it has an id; None outside a cell.

    nbclient, papermill and consoles send no cell id. There the code stands for the cell.
    """
    shell = _shell()
    request = (shell and shell.get_parent()) or {}
    if request.get("header", {}).get("msg_type") != "execute_request":
        return None
    cell_id = request.get("metadata", {}).get("cellId")
    cell = cell_id or request.get("content", {}).get("code")
    return (str(cell), shell.execution_count, bool(cell_id)) if cell else None


def stop_previous(port: int = 0) -> None:
    """Stop what the running cell started in an earlier execution.

    Two cells of the same code without ids cannot be told from one cell that runs twice.
    Both may be meant, so this stops only what holds `port`, which could not start otherwise.
    """
    running = _running_cell()
    if running is None:
        return
    cell, count, has_id = running
    previous_count, previous = _started.get(cell, (count, weakref.WeakSet()))
    if previous_count == count:
        return
    _started[cell] = (count, weakref.WeakSet() if has_id else previous)
    for handle in list(previous):
        if not has_id and not (port and getattr(handle, "port", 0) == port):
            continue
        try:
            handle.stop()
        except Exception as error:  # it failed earlier, or hangs: the cell can still run
            message = f"from the previous run of this cell: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)


def register(handle: _Stoppable) -> None:
    """Record that the running cell started `handle`, for :func:`stop_previous`."""
    running = _running_cell()
    if running is not None:
        cell, count, _ = running
        _started.setdefault(cell, (count, weakref.WeakSet()))[1].add(handle)


_depth = 0  # running cells; %run and the like nest them
_watching = False


def watch_cells() -> None:
    """Start tracking when cells begin and end, for :func:`is_cell_running`."""
    global _watching, _depth
    shell = _shell()
    if _watching or shell is None:
        return
    _watching = True
    _depth = 0 if _running_cell() is None else 1
    shell.events.register("pre_execute", partial(_change_depth, 1))
    shell.events.register("post_execute", partial(_change_depth, -1))


def _change_depth(by: int) -> None:
    global _depth
    _depth = max(_depth + by, 0)  # an empty cell sends post_execute only


def is_cell_running() -> bool:
    """Return whether a cell is running, in any thread.

    False outside a notebook and before :func:`watch_cells` was called.
    """
    return _depth > 0


def front_end() -> Literal["page", "widget", "none"]:
    """Return how the front end that runs the current cell can show a live widget.

    "page": a notebook page, which stores outputs and creates a widget as soon as the kernel
    opens one. "widget": Voila, VS Code or Colab, which create it where its MIME type is
    displayed. "none": there is no page, as with nbclient, nbconvert and ``jupyter execute``,
    which send no cell id.
    """
    shell = _shell()
    if shell is None:
        return "none"
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        return "widget"
    if "google.colab" in sys.modules or "__vsc_ipynb_file__" in shell.user_ns:
        return "widget"
    running = _running_cell()
    return "page" if running and running[2] else "none"
