"""What a run of clients is asked to do, checked before anything starts.

One job: hold the wishes, refuse those that make no sense with the reason, and deal
them out among processes. It opens nothing.
"""

import ipaddress
import math
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from epolllab.checks import check_choice, check_int
from epolllab.server.http import Http
from epolllab.server.protocols import Echo, Hello

if TYPE_CHECKING:
    from epolllab.clients.script import Step


__all__ = ["PLACES", "PROTOCOLS", "Plan", "Share", "Target", "locate"]


PROTOCOLS = ("http", "echo")
PLACES = ("process", "thread")
ECHO_PAYLOAD = b"Hello, world!"
MANY_CONNECTIONS = 20_000
"""From here on, connections are spread over several source addresses."""


@dataclass(frozen=True)
class Share:
    """What one client loop does; the same for HTTP, echo and scripted peers.

    Times are nanoseconds. ``n_requests`` is None where ``duration_ns`` bounds the
    run. In an open loop, arrivals come at ``first_arrival_ns`` after the start and
    every ``interval_ns`` from there.
    """

    process: int
    family: int
    address: tuple[Any, ...]
    n_connections: int
    n_requests: int | None
    duration_ns: int | None
    first_arrival_ns: int
    interval_ns: int
    keep_alive: bool
    protocol: str
    message: bytes
    timeout_ns: int
    sources: tuple[str, ...]
    capacity: int
    record: bool
    steps: "tuple[Step, ...] | None"


@dataclass(frozen=True)
class Target:
    """Where clients connect to, and what the server there speaks, if that is known."""

    family: int
    address: tuple[Any, ...]
    path: str
    protocol: str | None

    @property
    def url(self) -> str:
        """The address as a URL without a path."""
        host, port = self.address[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True)
class Plan:
    """Everything :func:`epolllab.run_clients` takes; see there for the meaning."""

    target: Target
    connections: int = 50
    requests: int | None = None
    duration: float | None = None
    rate: float | None = None
    keep_alive: bool = False
    path: str = "/"
    payload: bytes | None = None
    protocol: str = "http"
    processes: int = 1
    timeout: float = 10.0
    where: str = "process"
    record: bool = True
    capacity: int = 1_000_000
    source_addresses: int | None = None
    steps: "tuple[Step, ...] | None" = None

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, PROTOCOLS)
        check_choice("where", self.where, PLACES)
        check_int("connections", self.connections, 1)
        check_int("processes", self.processes, 1, 256)
        check_int("capacity", self.capacity, 1)
        if self.requests is not None:
            check_int("requests", self.requests, 1)
        if self.source_addresses is not None:
            check_int("source_addresses", self.source_addresses, 1, 250)
            self._require_several_addresses()
        _positive("timeout", self.timeout)
        self._check_bounds()
        self._check_message()
        if self.steps is not None:
            self._check_script()

    def _check_bounds(self) -> None:
        if self.duration is not None:
            _positive("duration", self.duration)
            if self.requests is not None:
                raise ValueError(
                    "requests= and duration= both bound a run; give one of them "
                    f"(requests={self.requests}, duration={self.duration})"
                )
        if self.rate is not None:
            _positive("rate", self.rate)
            if self.rate > 1e6:
                raise ValueError(
                    f"rate is in requests per second, at most 1,000,000, not {self.rate}"
                )
        if self.processes > self.connections:
            raise ValueError(
                f"{self.processes} processes cannot share {self.connections} connections: "
                "each needs at least one"
            )

    def _check_message(self) -> None:
        if self.payload is not None and not isinstance(self.payload, bytes):
            raise TypeError(f"payload is bytes, not {type(self.payload).__name__}")
        if self.protocol == "echo" and self.payload == b"":
            raise ValueError("an empty payload is never echoed; give at least one byte")
        printable = self.path.isascii() and all(33 <= ord(c) <= 126 for c in self.path)
        if not self.path.startswith("/") or not printable:
            raise ValueError(
                f"path begins with / and is printable ASCII without blanks, not {self.path!r}; "
                "percent-encode the rest (urllib.parse.quote)"
            )

    def _check_script(self) -> None:
        given = {
            "requests": self.requests,
            "duration": self.duration,
            "rate": self.rate,
            "keep_alive": self.keep_alive or None,
            "payload": self.payload,
            "path": None if self.path == "/" else self.path,
        }
        useless = [name for name, value in given.items() if value is not None]
        if useless:
            raise ValueError(
                f"script= says itself what is sent and when, so {', '.join(useless)} has no "
                "meaning beside it; connections= is the number of scripted peers"
            )

    def _require_several_addresses(self) -> None:
        if self.target.family != socket.AF_INET or not self._is_loopback:
            raise ValueError(
                "source_addresses spreads clients over 127.0.0.x, which reaches IPv4 loopback "
                f"only, not {self.target.address[0]}"
            )

    @property
    def _is_loopback(self) -> bool:
        return ipaddress.ip_address(self.target.address[0].partition("%")[0]).is_loopback

    @property
    def total(self) -> int | None:
        """Requests asked for, peers of a script included; None in a closed loop by duration."""
        if self.steps is not None:
            return self.connections
        if self.duration is not None:
            return None if self.rate is None else max(1, math.ceil(self.rate * self.duration))
        return 1000 if self.requests is None else self.requests

    @property
    def sources(self) -> tuple[str, ...]:
        """Source addresses to bind to; none where the kernel's own choice will do."""
        n = self.source_addresses
        if n is None and self.connections > MANY_CONNECTIONS:
            is_plain = self.target.family == socket.AF_INET and self._is_loopback
            n = -(-self.connections // MANY_CONNECTIONS) if is_plain else 1
        return tuple(f"127.0.0.{i}" for i in range(1, n + 1)) if n is not None and n > 1 else ()

    def message(self) -> bytes:
        """The bytes of one request."""
        if self.protocol == "echo":
            return ECHO_PAYLOAD if self.payload is None else self.payload
        method = b"GET" if self.payload is None else b"POST"
        lines = [
            b"%b %b HTTP/1.1" % (method, self.path.encode()),
            b"Host: " + self.target.url.removeprefix("http://").encode(),
        ]
        if self.payload is not None:
            lines.append(b"Content-Length: %d" % len(self.payload))
        if not self.keep_alive:
            lines.append(b"Connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n" + (self.payload or b"")

    def shares(self) -> list[Share]:
        """Deal connections, requests and arrivals out, as evenly as they go."""
        n = self.processes
        # Each process keeps every n-th arrival of the common rhythm.
        interval = 0 if self.rate is None else max(1, round(1e9 * n / self.rate))
        bounded_by_time = self.duration is not None and self.rate is None
        return [
            Share(
                process=i,
                family=self.target.family,
                address=self.target.address,
                n_connections=_part(self.connections, i, n),
                n_requests=None if self.total is None else _part(self.total, i, n),
                duration_ns=round((self.duration or 0) * 1e9) if bounded_by_time else None,
                first_arrival_ns=interval * i // n,
                interval_ns=interval,
                keep_alive=self.keep_alive,
                protocol=self.protocol,
                message=b"" if self.steps is not None else self.message(),
                timeout_ns=round(self.timeout * 1e9),
                sources=self.sources,
                capacity=self.capacity,
                record=self.record,
                steps=self.steps,
            )
            for i in range(n)
        ]

    def described(self) -> dict[str, Any]:
        """The wishes as a run's metadata keeps them."""
        keep = ("connections", "duration", "rate", "keep_alive", "path", "protocol")
        wishes: dict[str, Any] = {name: getattr(self, name) for name in keep}
        return {
            "role": "clients",
            "target": self.target.url,
            **wishes,
            "requests": self.total,
            "payload_bytes": len(self.payload or b""),
            "processes": self.processes,
            "timeout": self.timeout,
            "where": self.where,
            "record": self.record,
            "capacity": self.capacity,
            "source_addresses": max(1, len(self.sources)),
            "script": None if self.steps is None else [str(step) for step in self.steps],
        }


def _part(total: int, index: int, n: int) -> int:
    return total // n + (index < total % n)


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is positive and finite, not {value!r}")


def locate(target: Any, *, allow_remote: bool = False) -> Target:
    """Find out where a target is and what it speaks.

    Parameters
    ----------
    target : Server, str or (host, port)
        A handle of :func:`epolllab.start_server`, ``"http://host:port/path"``,
        ``"host:port"``, or a pair.
    allow_remote : bool
        Permit an address that is not this machine's loopback.

    Raises
    ------
    ValueError
        It is none of these, or not loopback.
    OSError
        The host's name is not known.
    """
    path, protocol = "/", None
    if hasattr(target, "address") and hasattr(target, "options"):
        host, port = target.address[:2]
        protocol = _spoken(target.options.protocol)
    elif isinstance(target, str):
        host, port, path = _parts(target)
    else:
        try:
            host, port = target
        except (TypeError, ValueError):
            raise _no_target(target) from None
    if not isinstance(host, str):
        raise _no_target(target)
    check_int("the target's port", port, 1, 65_535)
    family, address = _resolve(host, port)
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    if not ip.is_loopback and not allow_remote:
        raise ValueError(
            f"{host} is not this machine's loopback. These clients are an instrument for "
            "experiments at home: point them at 127.0.0.1, or say allow_remote=True if that "
            "machine is yours to load"
        )
    return Target(family, address, path, protocol)


def _no_target(target: object) -> ValueError:
    return ValueError(
        'a target is a server\'s handle, "http://127.0.0.1:port/", "host:port" or '
        f"(host, port), not {target!r}"
    )


def _parts(text: str) -> tuple[str, int, str]:
    """Host, port and path of a URL or of host:port."""
    parts = urlsplit(text if "://" in text else f"//{text}", scheme="http")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} has no port that makes sense: {error}") from None
    if parts.scheme != "http":
        raise ValueError(f"clients speak plain HTTP, not {parts.scheme}: {text!r}")
    if host is None or (port is None and "://" not in text):
        raise _no_target(text)
    path = parts.path or "/"
    return host, 80 if port is None else port, f"{path}?{parts.query}" if parts.query else path


def _resolve(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(error.errno, f"host {host!r} is not known: {error.strerror}") from error
    # A name like localhost can mean both kinds of address; servers here listen at IPv4 first.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    if ipaddress.ip_address(str(address[0]).partition("%")[0]).is_unspecified:
        # A server that listens everywhere is reached at home.
        address = ("127.0.0.1" if family == socket.AF_INET else "::1", *address[1:])
    return int(family), tuple(address)


def _spoken(protocol: Any) -> str | None:
    """What clients speak to a server of this protocol; None for one of the user's own."""
    if protocol in ("hello", "http"):
        return "http"
    if protocol == "echo":
        return "echo"
    if isinstance(protocol, type):
        if issubclass(protocol, Hello | Http):
            return "http"
        if issubclass(protocol, Echo):
            return "echo"
    return None
