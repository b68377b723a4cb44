"""One accepted connection, and what a life cycle needs of the loop behind it."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from epolllab.server.session import Session


__all__ = ["Connection", "ConnectionOwner"]


class Connection:
    """One accepted connection: the socket, its key, and what is still to be sent.

    What most connections never need to change is left in the class, since making and
    dropping connections is what a server without keep-alive does most.
    """

    out: bytes | memoryview = b""
    ending = False
    corked = False
    active_ns = 0

    def __init__(
        self,
        sock: Any,
        fd: int,
        key: int,
        session: "Session",
        turn: "Callable[[Connection, int], None]",
        interest: int,
    ) -> None:
        self.sock = sock
        self.fd = fd
        self.key = key
        self.session = session
        self.turn = turn
        self.interest = interest


class ConnectionOwner(Protocol):
    """What a life cycle hands a connection back to: the loop."""

    def close(self, end: Connection) -> None:
        """Close a connection and forget it."""

    def linger(self, end: Connection) -> None:
        """Close a connection later, once the peer has ended or a bound has passed."""

    def failed(self, end: Connection, error: Exception) -> None:
        """Close a connection whose session raised."""

    def note_fault(self, text: str) -> None:
        """Count an exception that a session caught and answered itself."""
