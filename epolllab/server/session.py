"""The base class of every protocol: one session for each connection."""

__all__ = ["Session"]


class Session:
    """One connection's conversation with its peer. Derive from it to write a protocol.

    Attributes
    ----------
    closing : bool
        Set it to close the connection once the returned responses have been sent.
    linger : bool
        Set it together with `closing` where the peer may still be sending: the server
        then shuts down its sending side and reads until the peer closes. If it closed
        at once, the kernel would send a reset, which can destroy the response before
        the peer has read it.
    interim : bytes
        Bytes to send at once although no request is complete, such as
        ``100 Continue``. The loop sends and clears them.
    fault : str or None
        Traceback of an exception that the session caught and responded to itself.
    """

    closing = False
    linger = False
    interim = b""
    fault: str | None = None

    def receive(self, data: bytes) -> list[bytes]:
        """Take what was read, never empty; return the complete responses, one per request."""
        raise NotImplementedError

    def timed_out(self) -> list[bytes]:
        """Return what to send to a peer that was silent for too long, before the close."""
        return []

    def on_close(self) -> None:
        """Run after the connection has closed; break reference cycles here."""
