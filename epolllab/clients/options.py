"""Options of ``run_clients()``: defaults, checks, the target, and each client loop's share."""

import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from epolllab.checks import (
    MOST_SECONDS,
    check_bool,
    check_bytes,
    check_choice,
    check_fields,
    check_int,
    check_number,
    check_text,
    shown,
)
from epolllab.clients.script import Step
from epolllab.kernel import addresses
from epolllab.recording.recorder import check_capacity
from epolllab.server.http import Http
from epolllab.server.protocols import Echo, Hello

__all__ = [
    "CHECKS",
    "ClientOptions",
    "ClientProtocol",
    "Place",
    "Share",
    "Target",
    "resolve_target",
]

ClientProtocol = Literal["http", "echo"]
Place = Literal["process", "thread"]

ECHO_PAYLOAD = b"Hello, world!"
SPARE_DESCRIPTORS = 64
"""Descriptors that a client loop needs besides its connections, with a margin."""

MANY_CONNECTIONS = 20_000
"""Above this number, connections are spread over several source addresses."""


def _check_path(name: str, value: object) -> str:
    path = check_text(name, value)
    if not path.startswith("/") or not all(33 <= ord(character) <= 126 for character in path):
        raise ValueError(
            f"{name} must begin with / and be printable ASCII without spaces, not {path!r}; "
            "percent-encode other characters (urllib.parse.quote)"
        )
    return path


_check_seconds = partial(check_number, above=0, most=MOST_SECONDS, unit="seconds")

CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "protocol": partial(check_choice, allowed=get_args(ClientProtocol)),
    "where": partial(check_choice, allowed=get_args(Place)),
    "connections": partial(check_int, least=1, most=1_000_000),
    "requests": partial(check_int, least=1, most=1_000_000_000),
    "capacity": check_capacity,
    "processes": partial(check_int, least=1, most=256),
    "source_addresses": partial(check_int, least=1, most=250),
    **dict.fromkeys(("duration", "timeout"), _check_seconds),
    "rate": partial(check_number, least=0.001, most=1_000_000, unit="requests per second"),
    **dict.fromkeys(("keep_alive", "record"), check_bool),
    "path": _check_path,
    "payload": check_bytes,
}
"""How :func:`check_fields` checks each option."""


@dataclass(frozen=True)
class Target:
    """Address of the server, and the protocol it serves if that is known."""

    family: int
    address: tuple[Any, ...]
    authority: str
    """Host and port as they were given, for the Host header."""
    path: str
    protocol: ClientProtocol | None

    @property
    def url(self) -> str:
        """The target as a URL without a path."""
        return f"http://{self.authority}"

    @property
    def is_ipv4_loopback(self) -> bool:
        """Whether clients can bind to any 127.0.0.x to reach it."""
        return self.family == socket.AF_INET and addresses.is_loopback(self.address)


@dataclass(frozen=True)
class ClientOptions:
    """The parameters of :func:`epolllab.run_clients`, which describes them."""

    target: Target
    connections: int = 50
    requests: int | None = None
    duration: float | None = None
    rate: float | None = None
    keep_alive: bool = False
    path: str = "/"
    payload: bytes | None = None
    protocol: ClientProtocol = "http"
    processes: int = 1
    timeout: float = 10.0
    where: Place = "process"
    record: bool = True
    capacity: int = 1_000_000
    source_addresses: int | None = None
    steps: tuple[Step, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, CHECKS)
        self._check_combination()

    def _check_combination(self) -> None:
        if self.requests is not None and self.duration is not None:
            raise ValueError(
                f"requests={self.requests} and duration={self.duration} both limit the run; "
                "give only one of them"
            )
        if self.processes > self.connections:
            raise ValueError(
                f"processes={self.processes} is more than connections={self.connections}: "
                "each process needs at least one connection"
            )
        check_capacity("capacity", self.capacity, self.processes if self.record else 1)
        if self.protocol == "echo" and self.payload == b"":
            raise ValueError("payload must have at least one byte for echo: nothing comes back")
        if self.source_addresses is not None and not self.target.is_ipv4_loopback:
            raise ValueError(
                "source_addresses spreads connections over 127.0.0.x, which reaches IPv4 loopback "
                f"only, not {self.target.address[0]}"
            )
        names = ("requests", "duration", "rate", "keep_alive", "payload", "path")
        useless = [name for name in names if getattr(self, name) != getattr(ClientOptions, name)]
        if self.steps is not None and useless:
            raise ValueError(
                f"script= defines what is sent and when, so leave out {', '.join(useless)}; "
                "connections= is the number of scripted peers"
            )

    @property
    def total(self) -> int | None:
        """Number of requests, or of scripted peers; None in a closed loop with a duration."""
        if self.steps is not None:
            return self.connections
        if self.duration is not None:
            return None if self.rate is None else max(1, math.ceil(self.rate * self.duration))
        return 1000 if self.requests is None else self.requests

    @property
    def sources(self) -> tuple[str, ...]:
        """Source addresses to bind to; none if the kernel chooses."""
        n = self.source_addresses or 1
        is_many = self.connections > MANY_CONNECTIONS and self.target.is_ipv4_loopback
        if self.source_addresses is None and is_many:
            n = -(-self.connections // MANY_CONNECTIONS)
        return tuple(f"127.0.0.{i}" for i in range(1, n + 1)) if n > 1 else ()

    def message(self) -> bytes:
        """The bytes of one request."""
        if self.protocol == "echo":
            return ECHO_PAYLOAD if self.payload is None else self.payload
        method = b"GET" if self.payload is None else b"POST"
        lines = [
            b"%b %b HTTP/1.1" % (method, self.path.encode()),
            b"Host: " + self.target.authority.encode(),
        ]
        if self.payload is not None:
            lines.append(b"Content-Length: %d" % len(self.payload))
        if not self.keep_alive:
            lines.append(b"Connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n" + (self.payload or b"")

    def shares(self) -> "list[Share]":
        """Distribute connections, requests and arrivals evenly over the processes."""
        n, total = self.processes, self.total
        # Each process sends every n-th request of the common schedule.
        interval = 0 if self.rate is None else max(1, round(1e9 * n / self.rate))
        return [
            Share(
                options=self,
                process=i,
                n_connections=_part(self.connections, i, n),
                n_requests=None if total is None else _part(total, i, n),
                first_arrival_ns=interval * i // n,
                interval_ns=interval,
            )
            for i in range(n)
        ]

    def metadata(self) -> dict[str, Any]:
        """The options as a run's metadata holds them: JSON values, defaults resolved."""
        options = {
            "role": "clients",
            **vars(self),
            "target": self.target.url,
            "requests": self.total,
            "payload_bytes": len(self.payload or b""),
            "source_addresses": max(1, len(self.sources)),
            "script": None if self.steps is None else [str(step) for step in self.steps],
        }
        del options["payload"], options["steps"]
        return options


class Share(NamedTuple):
    """What one client loop does.

    ``n_requests`` is None in a closed loop with a duration. In an open loop, requests are
    due at ``first_arrival_ns`` after the start and every ``interval_ns`` from there.
    """

    options: ClientOptions
    process: int
    n_connections: int
    n_requests: int | None
    first_arrival_ns: int
    interval_ns: int


def _part(total: int, index: int, n: int) -> int:
    return total // n + (index < total % n)


def resolve_target(target: Any, *, allow_remote: bool = False) -> Target:
    """Resolve the address of a target, and find out which protocol it serves.

    The parameters are those of :func:`epolllab.run_clients`.
    """
    path, protocol = "/", None
    if hasattr(target, "address") and hasattr(target, "options"):
        host, port = target.address[:2]
        protocol = _client_protocol(target.options.protocol)
    elif isinstance(target, str):
        host, port, path = _split_url(target)
    else:
        try:
            host, port = target
        except (TypeError, ValueError):
            raise _invalid_target(target) from None
    if not isinstance(host, str):
        raise _invalid_target(target)
    check_int("target's port", port, 1, 65_535)
    family, address = _resolve(host, port, allow_remote)
    if addresses.is_unspecified(address):
        # A server that listens on all addresses is reached over loopback.
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        address = (host, *address[1:])
    return Target(family, address, addresses.authority(host, port), path, protocol)


def _invalid_target(target: object) -> ValueError:
    return ValueError(
        'target must be a server\'s handle, "http://127.0.0.1:port/", "host:port" or '
        f"(host, port), not {shown(target)}"
    )


def _split_url(text: str) -> tuple[str, int, str]:
    """Host, port and path of a URL or of host:port."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}", scheme="http")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"target {text!r} has an invalid host or port: {error}") from None
    if parts.scheme != "http":
        raise ValueError(f"target must be plain HTTP, not {parts.scheme}: {text!r}")
    if host is None or (port is None and "://" not in text):
        raise _invalid_target(text)
    path = parts.path or "/"
    return host, 80 if port is None else port, f"{path}?{parts.query}" if parts.query else path


def _resolve(host: str, port: int, allow_remote: bool) -> addresses.Address:
    """The address to connect to: the host's first that a server listens on."""
    found = addresses.resolve("target's host", host, port)
    if not allow_remote:
        found = [one for one in found if _is_local(one[1])]
    if not found:
        raise ValueError(
            f"target {host} is not this machine's loopback. These clients are meant for local "
            "experiments: use 127.0.0.1, or allow_remote=True if you may put load on that machine"
        )
    return addresses.choose_address(found)


def _is_local(address: tuple[Any, ...]) -> bool:
    return addresses.is_loopback(address) or addresses.is_unspecified(address)


def _client_protocol(protocol: Any) -> ClientProtocol | None:
    """What clients send to a server of this protocol; None for a protocol of your own."""
    is_class = isinstance(protocol, type)
    if protocol in ("hello", "http") or (is_class and issubclass(protocol, Hello | Http)):
        return "http"
    if protocol == "echo" or (is_class and issubclass(protocol, Echo)):
        return "echo"
    return None
