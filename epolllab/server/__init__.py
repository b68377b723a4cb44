"""The instrumented server: from a readiness event to a response.

``start_server()`` opens a listening socket (``listener``) and runs a loop behind it, in a
thread or in a child process (``hosts``). The loop waits on a poller and hands each ready
connection to a life cycle, which reads, asks the session (``session``, ``http``,
``protocols``) for the response, and sends it. Imports recording and everything below.
"""

from epolllab.server.http import Http
from epolllab.server.messages import Request, Response
from epolllab.server.options import ServerOptions
from epolllab.server.protocols import Echo, Hello
from epolllab.server.server import Server, ServerDied, servers, start_server, stop_all
from epolllab.server.session import Session

__all__ = [
    "Echo",
    "Hello",
    "Http",
    "Request",
    "Response",
    "Server",
    "ServerDied",
    "ServerOptions",
    "Session",
    "servers",
    "start_server",
    "stop_all",
]


def __dir__() -> list[str]:
    return sorted(__all__)
