"""Other people's programs: what their epolls watch, what strace saw, what asyncio did.

``inspect`` reads the epoll instances of any process. What a program did becomes a
:class:`~epolllab.Recording`, which every frame, chart and ``diagnose`` accepts. Imports
analysis and everything below.
"""

from epolllab.external.attach import trace
from epolllab.external.epolls import FINDINGS, Inspection, inspect
from epolllab.external.examine import Examination, examine
from epolllab.external.incidents import SaveWhen
from epolllab.external.loops import Observation, observe
from epolllab.external.strace import read_strace

__all__ = [
    "FINDINGS", "Examination", "Inspection", "Observation", "SaveWhen", "examine", "inspect",
    "observe", "read_strace", "trace",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted(__all__)
