"""Other people's programs: what their epolls watch, what strace saw, what asyncio did.

``inspect`` reads the epoll instances of any process. What a program did becomes a
:class:`~epolllab.Recording`, which every frame, chart and ``diagnose`` accepts. Imports
analysis and everything below.
"""

from epolllab.external.attach import trace
from epolllab.external.epolls import FINDINGS, Inspection, inspect
from epolllab.external.strace import read_strace

__all__ = ["FINDINGS", "Inspection", "inspect", "read_strace", "trace"]


def __dir__() -> list[str]:
    return sorted(__all__)
