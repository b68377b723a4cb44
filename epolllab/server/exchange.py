"""The common request: one read, one complete request, one response that fits.

Nearly every event of a busy server is this one. Here it is one function that makes both
calls itself, where the life cycle has a function for each step, and recorded calls one for
each row; that takes a tenth of the CPU time of a request. Whatever else an event turns out
to be is passed on to the life cycle, which does the same in general.
"""

from collections.abc import Callable
from typing import Any

from epolllab.kernel.syscalls import READY, RECV, SEND, RecordedCalls
from epolllab.server.connection import Connection
from epolllab.server.lifecycles import Eager
from epolllab.server.session import FAULTS

__all__ = ["common_request"]

OnReady = Callable[[Connection, int], None]


def common_request(life: Eager) -> OnReady:
    """Return what handles a ready connection of a life cycle.

    It is the life cycle's own :meth:`ready` where that does not send at once.
    """
    if not life.serves_at_once or life.cork:
        return life.ready
    return _recorded(life, life.calls) if isinstance(life.calls, RecordedCalls) else _bare(life)


def _bare(life: Eager) -> OnReady:
    loop, size, drain = life.loop, life.recv_size, life.drain
    general, respond_to, keep = life.ready, life.respond_to, life.keep

    def ready(connection: Connection, mask: int) -> None:
        if connection.out or connection.ending:
            general(connection, mask)
            return
        try:
            data = connection.sock.recv(size)
        except BlockingIOError:
            return
        if not data:
            loop.close(connection)
            return
        session = connection.session
        try:
            responses: Any = session.receive(data)
        except FAULTS as error:
            loop.session_failed(connection, error)
            return
        if (
            responses.__class__ is not list
            or len(responses) != 1
            or (response := responses[0]).__class__ is not bytes
            or not response
            or session.in_request
            or session.unhandled
            or connection.in_request
            or (session.closing and (session.linger or session.fault or len(data) == size))
        ):
            respond_to(connection, data, responses)
        else:
            life.requests += 1
            try:
                sent = connection.sock.send(response)
            except BlockingIOError:
                sent = 0
            if sent < len(response):
                keep(connection, response, sent)
            if session.closing and not connection.out:
                loop.close(connection)
        if drain and not connection.out and connection.fd >= 0:
            life.read(connection)

    return ready


def _recorded(life: Eager, calls: RecordedCalls) -> OnReady:
    """The same, with the rows ready, recv, handle and send, staged together."""
    loop, size, drain = life.loop, life.recv_size, life.drain
    general, respond_to, keep = life.ready, life.respond_to, life.keep
    clock, stage = calls.recorder.clock, calls.recorder.stage

    def ready(connection: Connection, mask: int) -> None:
        if connection.out or connection.ending:
            general(connection, mask)
            return
        key, start = connection.key, clock()
        try:
            data = connection.sock.recv(size)
        except OSError as error:
            calls.note_read(key, mask, start, clock(), -(error.errno or 0))
            if error.__class__ is BlockingIOError:
                return
            raise
        read = clock()
        if not data:
            calls.note_read(key, mask, start, read, 0)
            loop.close(connection)
            return
        session = connection.session
        try:
            responses: Any = session.receive(data)
        except BaseException as error:
            calls.note_read(key, mask, start, read, len(data))
            if not isinstance(error, FAULTS):
                raise
            loop.session_failed(connection, error)
            return
        if (
            responses.__class__ is not list
            or len(responses) != 1
            or (response := responses[0]).__class__ is not bytes
            or not response
            or session.in_request
            or session.unhandled
            or connection.in_request
            or (session.closing and (session.linger or session.fault or len(data) == size))
        ):
            calls.note_read(key, mask, start, read, len(data))
            respond_to(connection, data, responses)
        else:
            life.requests += 1
            handled, failure = clock(), None
            try:
                sent = result = connection.sock.send(response)
            except OSError as error:
                sent, result, failure = 0, -(error.errno or 0), error
            stage((
                start, start, key, mask, READY,
                start, read, key, len(data), RECV,
                read, handled, key, len(response), session.handle_code,
                handled, clock(), key, result, SEND,
            ))  # fmt: skip
            if failure is not None and failure.__class__ is not BlockingIOError:
                raise failure
            if sent < len(response):
                keep(connection, response, sent)
            if session.closing and not connection.out:
                loop.close(connection)
        if drain and not connection.out and connection.fd >= 0:
            life.read(connection)

    return ready
