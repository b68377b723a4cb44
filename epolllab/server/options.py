"""The server's options: defaults, checks, and what a recording's metadata keeps of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from epolllab.checks import (
    check_bool,
    check_choice,
    check_fields,
    check_int,
    check_number,
    check_text,
)
from epolllab.recording.recorder import check_capacity
from epolllab.recording.storage import local_path
from epolllab.server.http import Handler
from epolllab.server.protocols import ProtocolName, make_session_factory
from epolllab.server.session import Session
from epolllab.server.targets import Targets

__all__ = [
    "LIFECYCLES", "SERVER_POLLERS", "TRIGGERS", "Accept", "Lifecycle", "ServerOptions",
    "ServerPoller", "Trigger",
]  # fmt: skip

ServerPoller = Literal["epoll", "poll", "select", "io_uring"]
Trigger = Literal["level", "edge"]
Lifecycle = Literal["eager", "howto", "once", "oneshot"]
Accept = Literal["drain", "ask"]

SERVER_POLLERS: tuple[ServerPoller, ...] = get_args(ServerPoller)
TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)
LIFECYCLES: tuple[Lifecycle, ...] = get_args(Lifecycle)


class Default(str):
    """A default that can be told from the same value given by the caller."""

    __slots__ = ()


LEVEL: Any = Default("level")
EAGER: Any = Default("eager")

MAX_TIMEOUT_S = 1_000_000
"""About eleven days, which fits the milliseconds of epoll_wait's timeout."""

MOST_INT = (1 << 31) - 1
"""The largest int of C, which system calls take."""

_check_timeout = partial(check_number, above=0, most=MAX_TIMEOUT_S, unit="seconds")


def _check_accept(name: str, value: object) -> str | int:
    if isinstance(value, str):
        return check_choice(name, value, get_args(Accept))
    return check_int(name, value, 1, MOST_INT)


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "host": check_text,
    "port": partial(check_int, least=0, most=65_535),
    "poller": partial(check_choice, allowed=SERVER_POLLERS),
    "trigger": partial(check_choice, allowed=TRIGGERS),
    "lifecycle": partial(check_choice, allowed=LIFECYCLES),
    "recv_size": partial(check_int, least=1, most=1 << 30),
    "max_events": partial(check_int, least=1, most=65_534),
    "accept": _check_accept,
    "backlog": partial(check_int, least=0, most=MOST_INT),
    "request_timeout": lambda name, value: value if value is None else _check_timeout(name, value),
    "idle_timeout": _check_timeout,
    **dict.fromkeys(
        ("send_buffer", "recv_buffer", "max_connections", "max_request_bytes"),
        partial(check_int, least=1, most=MOST_INT),
    ),
    "capacity": check_capacity,
    "record_to": lambda name, value: local_path(value, name),
    **dict.fromkeys(("drain", "nodelay", "cork", "record", "process"), check_bool),
}
"""How :func:`check_fields` checks each option; make_session_factory checks protocol and handler."""


_NOT_OF_A_RING = {
    "trigger": "a ring reports what has been done, not what is ready",
    "lifecycle": "a connection has no interest mask that would change",
    "drain": "a recv is pending for each connection and completes with whatever arrives",
    "accept": "one accept is pending and completes with each connection",
    "cork": "the responses to what was received are one send already",
}


@dataclass(frozen=True)
class ServerOptions:
    """The parameters of :func:`epolllab.start_server`, which describes them."""

    host: str = "127.0.0.1"
    port: int = 0
    poller: ServerPoller = "epoll"
    trigger: Trigger = LEVEL
    lifecycle: Lifecycle = EAGER
    protocol: ProtocolName | Callable[[], Session] = "hello"
    handler: Handler | None = None
    drain: bool | None = None
    recv_size: int = 16_384
    max_events: int = 1_023
    accept: Accept | int | None = None
    backlog: int = 4_096
    send_buffer: int | None = None
    recv_buffer: int | None = None
    nodelay: bool = True
    cork: bool = False
    max_connections: int | None = None
    max_request_bytes: int = 1 << 20
    request_timeout: float | None = 30.0
    idle_timeout: float | None = None
    capacity: int = 1_000_000
    record: bool = True
    record_to: str | os.PathLike[str] | None = None
    process: bool = False

    def __post_init__(self) -> None:
        given = [n for n in ("trigger", "lifecycle") if not isinstance(getattr(self, n), Default)]
        check_fields(self, CHECKS)
        if self.poller == "io_uring":
            self._check_ring(given)
        else:
            self._check_combination()
        if self.record_to is not None and not self.record:
            raise ValueError("record_to needs record=True: without a recorder nothing is stored")
        self.session_factory()

    def _check_ring(self, given: list[str]) -> None:
        """Refuse what has no meaning for a ring."""
        given += [name for name in ("drain", "accept") if getattr(self, name) is not None]
        given += ["cork"] if self.cork else []
        for name in given:
            raise ValueError(
                f'{name} has no meaning with poller="io_uring": {_NOT_OF_A_RING[name]}. Leave it '
                'out, or use poller="epoll"'
            )

    def _check_combination(self) -> None:
        if self.trigger == "edge" and self.poller != "epoll":
            raise ValueError(
                f'trigger="edge" needs poller="epoll": {self.poller} is level-triggered only, '
                "since it keeps no state between calls and reports whatever is ready"
            )
        if self.lifecycle == "oneshot" and self.poller != "epoll":
            raise ValueError(
                f'lifecycle="oneshot" needs poller="epoll": {self.poller} has nothing like '
                'EPOLLONESHOT. Use poller="epoll", or lifecycle="eager"'
            )
        if self.lifecycle == "once" and self.trigger != "edge":
            raise ValueError(
                'lifecycle="once" needs poller="epoll" and trigger="edge": it keeps EPOLLIN and '
                "EPOLLOUT registered, so with level triggering every wait would report the idle "
                "writable connections and the loop would spin"
            )

    @property
    def drains(self) -> bool:
        """Whether the loop reads a ready connection until EAGAIN."""
        return self.trigger == "edge" if self.drain is None else self.drain

    @property
    def accept_mode(self) -> Accept | int:
        """How the loop accepts; the how-to's server accepts one connection per event."""
        if self.accept is not None:
            return self.accept
        return 1 if self.lifecycle == "howto" and self.trigger == "level" else "drain"

    @property
    def loop(self) -> str:
        """The loop in a few words."""
        words = (self.poller, self.trigger, self.lifecycle)
        return self.poller if self.poller == "io_uring" else " ".join(words)

    def session_factory(self, targets: Targets | None = None) -> Callable[[], Session]:
        """Return what makes the session of each connection; raise if the protocol is invalid."""
        return make_session_factory(
            self.protocol,
            handler=self.handler,
            max_request_bytes=self.max_request_bytes,
            targets=targets,
        )

    def metadata(self) -> dict[str, Any]:
        """The options as a recording's metadata holds them: JSON values, defaults resolved."""
        is_ring = self.poller == "io_uring"
        without = dict.fromkeys(_NOT_OF_A_RING) if is_ring else {}
        return {
            **vars(self),
            "protocol": getattr(self.protocol, "__qualname__", str(self.protocol)),
            "handler": getattr(self.handler, "__qualname__", None),
            "record_to": None if self.record_to is None else str(self.record_to),
            "drain": self.drains,
            "accept": self.accept_mode,
            **without,
        }
