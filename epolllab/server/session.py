"""The base class of every protocol: one session for each connection."""

from collections.abc import Sequence

from epolllab.server.targets import row_code

__all__ = ["FAULTS", "MAX_WAITING", "Session"]

FAULTS = (Exception, SystemExit)
"""What a session may raise without ending the loop: ``sys.exit()`` too."""

MAX_WAITING = 1 << 18
"""Bytes of responses after which further requests wait until these have been sent.

A single response may have any size. Without this limit, a peer that sends many small
requests and reads no response would make the server hold all the responses.
"""


class Session:
    """The protocol's side of one connection. Derive from it to write your own protocol.

    The server calls the methods; the attributes tell it what to do besides sending the
    responses that :meth:`receive` returns.

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
    in_request : bool
        Set it while a request has begun and is not complete, so that ``request_timeout``
        applies to it: from the :meth:`receive` that leaves it true, or that returns a
        response too, to the one that leaves it false. A session that never sets it has
        no limit of time.
    unhandled : bytes
        Set it to the rest of `data` once the responses have more than MAX_WAITING bytes.
        The server passes it to :meth:`receive` again when they have been sent, and reads
        nothing more before that. It must be shorter than `data`.
    handle_code : int
        For the recording: status and target of the last request, as
        :func:`epolllab.server.targets.row_code` returns them. Only built-in protocols set it.
    handle_codes : sequence of int
        The same for each response of the last :meth:`receive` that returned several.
    """

    closing = False
    linger = False
    interim = b""
    fault: str | None = None
    in_request = False
    unhandled = b""
    handle_code = row_code(0)
    handle_codes: Sequence[int] = ()

    def receive(self, data: bytes) -> list[bytes]:
        """Take the bytes just read; return the responses that are complete, one per request.

        `data` is never empty, and may hold part of a request or several requests. Keep an
        incomplete request in the session until the next call.
        """
        raise NotImplementedError

    def timed_out(self) -> list[bytes]:
        """Return what to send to a peer that exceeded a time limit, before the close."""
        return []

    def on_close(self) -> None:
        """Run after the connection has closed; break reference cycles here."""
