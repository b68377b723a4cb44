"""What a server can be told, checked before anything starts.

One job: hold the options and refuse those that make no sense, with the reason. It
opens nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from epolllab.checks import check_bool, check_choice, check_int
from epolllab.kernel.pollers import POLLERS
from epolllab.server.http import Handler
from epolllab.server.protocols import make_protocol
from epolllab.server.session import Session

__all__ = ["LIFECYCLES", "TRIGGERS", "ServerOptions"]


TRIGGERS = ("level", "edge")
ACCEPTS = ("drain", "ask")
LIFECYCLES = ("eager", "howto", "once", "oneshot")


MOST_SILENCE_S = 1_000_000
"""Some eleven days; a quarter of it still fits the milliseconds of epoll_wait's timeout."""


@dataclass(frozen=True)
class ServerOptions:
    """Everything :func:`epolllab.start_server` takes; see there for the meaning."""

    host: str = "127.0.0.1"
    port: int = 0
    poller: str = "epoll"
    trigger: str = "level"
    lifecycle: str = "eager"
    protocol: str | Callable[[], Session] = "hello"
    handler: Handler | None = None
    drain: bool | None = None
    recv_size: int = 16_384
    max_events: int = 1_023
    accept: Literal["drain", "ask"] | int | None = None
    backlog: int = 4_096
    send_buffer: int | None = None
    recv_buffer: int | None = None
    nodelay: bool = True
    cork: bool = False
    max_connections: int | None = None
    max_request_bytes: int = 1 << 20
    idle_timeout: float | None = None
    capacity: int = 1_000_000
    record: bool = True
    process: bool = False

    def __post_init__(self) -> None:
        check_choice("poller", self.poller, POLLERS)
        check_choice("trigger", self.trigger, TRIGGERS)
        check_choice("lifecycle", self.lifecycle, LIFECYCLES)
        check_int("port", self.port, 0, 65_535)
        check_int("recv_size", self.recv_size, 1, 1 << 30)
        check_int("max_events", self.max_events, 1, 65_534)
        check_int("backlog", self.backlog, 0)
        check_int("max_request_bytes", self.max_request_bytes, 1)
        check_int("capacity", self.capacity, 1)
        for name in ("send_buffer", "recv_buffer", "max_connections"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        if isinstance(self.accept, str):
            check_choice("accept", self.accept, ACCEPTS)
        elif self.accept is not None:
            check_int("accept", self.accept, 1)
        self._check_kinds()
        self._check_combination()
        self.sessions()

    def _check_kinds(self) -> None:
        if not isinstance(self.host, str):
            raise TypeError(f"host is a name or an address, such as '127.0.0.1', not {self.host!r}")
        for name in ("nodelay", "cork", "record", "process"):
            check_bool(name, getattr(self, name))
        if self.drain is not None and not isinstance(self.drain, bool):
            raise TypeError(f"drain is True, False or None, not {self.drain!r}")
        seconds = self.idle_timeout
        if seconds is None:
            return
        bound = f"idle_timeout is in seconds, above 0 and at most {MOST_SILENCE_S:,}"
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"{bound}, not {seconds!r}")
        if not 0 < seconds <= MOST_SILENCE_S:
            raise ValueError(f"{bound}, not {seconds!r}")

    def _check_combination(self) -> None:
        if self.trigger == "edge" and self.poller != "epoll":
            raise ValueError(
                f"{self.poller} is level-triggered only: the kernel looks at every descriptor "
                'at every wait and keeps nothing in between. Use poller="epoll" for edges'
            )
        if self.lifecycle == "oneshot" and self.poller != "epoll":
            raise ValueError(
                f"one-shot interest (EPOLLONESHOT) is epoll's own; {self.poller} has none. "
                'Use poller="epoll", or lifecycle="eager"'
            )
        if self.lifecycle == "once" and self.trigger != "edge":
            raise ValueError(
                'lifecycle="once" keeps IN and OUT registered for ever. Level-triggered, an idle '
                "writable connection would be reported at every wait and the loop would spin. "
                'Use poller="epoll" with trigger="edge"'
            )

    @property
    def drains(self) -> bool:
        """Whether a readable connection is read until it would block."""
        return self.trigger == "edge" if self.drain is None else self.drain

    @property
    def accept_mode(self) -> Literal["drain", "ask"] | int:
        """How connections are accepted; the how-to's server accepts one per event."""
        if self.accept is not None:
            return self.accept
        return 1 if self.lifecycle == "howto" and self.trigger == "level" else "drain"

    def sessions(self) -> Callable[[], Session]:
        """The maker of sessions; raises for a protocol that is none."""
        return make_protocol(
            self.protocol, handler=self.handler, max_request_bytes=self.max_request_bytes
        )

    def described(self) -> dict[str, Any]:
        """The options as a recording's metadata keeps them."""
        parameters = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, str | int | float | bool | None)
        }
        parameters["protocol"] = getattr(self.protocol, "__qualname__", str(self.protocol))
        parameters["handler"] = getattr(self.handler, "__qualname__", None)
        parameters["drain"] = self.drains
        parameters["accept"] = self.accept_mode
        return parameters
