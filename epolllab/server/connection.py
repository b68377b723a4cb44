"""One accepted connection, and what a life cycle needs of the loop behind it."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from epolllab.server.session import Session

__all__ = ["Connection", "ConnectionOwner"]


class Connection:
    """One accepted connection: the socket, its key, and what is still to be sent.

    Values that most connections never change are class attributes, since making and
    dropping connections is most of what a server without keep-alive does.
    """

    out: bytes | memoryview = b""
    ending = False
    corked = False
    active_ns = 0
    in_request = False  # the loop limits the time of a request that has begun
    handling = False  # what the session put back is being handled
    ignored = 0  # bytes read after the last response

    def __init__(
        self,
        sock: Any,
        fd: int,
        key: int,
        session: "Session",
        on_ready: "Callable[[Connection, int], None]",
        interest: int,
    ) -> None:
        self.sock = sock
        self.fd = fd
        self.key = key
        self.session = session
        self.on_ready = on_ready
        self.interest = interest


class ConnectionTimers(Protocol):
    """The part of a loop's timers that a life cycle uses."""

    def linger(self, connection: Connection, most_s: float | None = None) -> None:
        """Close a connection once its peer has closed, or after a time limit."""

    def ignored(self, connection: Connection, n_bytes: int) -> None:
        """Note what was read from a lingering connection."""

    def request_began(self, connection: Connection) -> None:
        """Start the time that a request may take, or start it again."""

    def request_ended(self, connection: Connection) -> None:
        """Stop the time of a request."""


class ConnectionOwner(Protocol):
    """The part of the loop that a life cycle uses."""

    @property
    def timers(self) -> ConnectionTimers:
        """Time limits."""

    def close(self, connection: Connection) -> None:
        """Close a connection and remove it."""

    def session_failed(self, connection: Connection, error: BaseException) -> None:
        """Close a connection whose session raised."""

    def note_fault(self, text: str) -> None:
        """Count an exception that a session caught and responded to itself."""
