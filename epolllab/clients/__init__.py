"""The load generator and scripted peers, both started by ``run_clients()``.

``load`` sends requests in a closed or an open loop; ``peers`` follow a ``script`` step
by step; both run on the event loop in ``loop``, in child processes or in threads, or in
the workers of an executor (``cluster``), which start together through a ``meeting``.
``result`` turns what they measured into frames. Imports server and everything below.
"""

from epolllab.clients.result import Run
from epolllab.clients.run import run_clients
from epolllab.clients.script import Script, script

__all__ = ["Run", "Script", "run_clients", "script"]


def __dir__() -> list[str]:
    return sorted(__all__)
