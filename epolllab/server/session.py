"""server.session."""

__all__ = ["Session"]


class Session:
    """One peer's conversation. Derive from it to write a protocol.

    Attributes
    ----------
    closing : bool
        Set it, and the connection is closed once what was returned has been sent.
    linger : bool
        Set it together with `closing` where the peer may still be sending: the
        server then ends its own half and reads on until the peer ends too. Closing
        at once would make the kernel send a reset, which can destroy the answer
        before the peer has read it.
    interim : bytes
        What is to be sent at once although no request is complete, such as
        ``100 Continue``. The loop takes it and sets it back.
    fault : str or None
        The traceback of an exception that the session caught and answered itself.
    """

    closing = False
    linger = False
    interim = b""
    fault: str | None = None

    def receive(self, data: bytes) -> list[bytes]:
        """Take what was read, never empty; return the complete answers, one a request."""
        raise NotImplementedError

    def timed_out(self) -> list[bytes]:
        """Say something to a peer that was silent for too long, before the close."""
        return []

    def on_close(self) -> None:
        """The connection is gone; break reference cycles here."""
