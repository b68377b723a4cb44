"""The server's options: defaults, checks, and what a recording's metadata keeps of them."""

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
from epolllab.kernel.pollers import POLLERS, PollerName
from epolllab.recording.recorder import check_capacity
from epolllab.server.http import Handler
from epolllab.server.protocols import ProtocolName, make_session_factory
from epolllab.server.session import Session

__all__ = ["LIFECYCLES", "TRIGGERS", "Accept", "Lifecycle", "ServerOptions", "Trigger"]

Trigger = Literal["level", "edge"]
Lifecycle = Literal["eager", "howto", "once", "oneshot"]
Accept = Literal["drain", "ask"]

TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)
LIFECYCLES: tuple[Lifecycle, ...] = get_args(Lifecycle)

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
    "poller": partial(check_choice, allowed=POLLERS),
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
    **dict.fromkeys(("drain", "nodelay", "cork", "record", "process"), check_bool),
}
"""How :func:`check_fields` checks each option; make_session_factory checks protocol and handler."""


@dataclass(frozen=True)
class ServerOptions:
    """The parameters of :func:`epolllab.start_server`, which describes them."""

    host: str = "127.0.0.1"
    port: int = 0
    poller: PollerName = "epoll"
    trigger: Trigger = "level"
    lifecycle: Lifecycle = "eager"
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
    process: bool = False

    def __post_init__(self) -> None:
        check_fields(self, CHECKS)
        self._check_combination()
        self.session_factory()

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

    def session_factory(self) -> Callable[[], Session]:
        """Return what makes the session of each connection; raise if the protocol is invalid."""
        return make_session_factory(
            self.protocol, handler=self.handler, max_request_bytes=self.max_request_bytes
        )

    def metadata(self) -> dict[str, Any]:
        """The options as a recording's metadata holds them: JSON values, defaults resolved."""
        return {
            **vars(self),
            "protocol": getattr(self.protocol, "__qualname__", str(self.protocol)),
            "handler": getattr(self.handler, "__qualname__", None),
            "drain": self.drains,
            "accept": self.accept_mode,
        }
