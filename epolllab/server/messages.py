"""HTTP messages: the request that a handler receives, and the response that it returns."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from epolllab.checks import check_int
from epolllab.server.heads import TOKEN

__all__ = ["Request", "Response", "reason"]


@dataclass(slots=True, eq=False, repr=False)
class Request:
    """An HTTP request, as a handler receives it.

    Attributes
    ----------
    method, path, version : str
        For example ``"GET"``, ``"/a?b=c"``, ``"1.1"``. The path is as it was sent.
    raw_headers : list of (bytes, bytes)
        In the order sent.
    body : bytes
        The whole body; chunks are joined.
    keep_alive : bool
        Whether the connection stays open after the response.
    raw_trailers : list of (bytes, bytes)
        Fields sent after a chunked body, which are not headers (RFC 9110, section 6.5).
    """

    method: str
    path: str
    version: str
    raw_headers: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool
    raw_trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        """Headers by lower-case name; repeated ones are joined with a comma."""
        joined: dict[str, str] = {}
        for raw_name, raw_value in self.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return joined

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path} HTTP/{self.version}, {len(self.body)} bytes>"


SERVER_HEADERS = ("content-length", "transfer-encoding", "date", "connection")
"""Headers that the server sends itself."""

_NAME = re.compile(TOKEN)
_VALUE = re.compile(r"[\t -~\x80-\xff]*")


class Response:
    """What a handler returns.

    Parameters
    ----------
    body : bytes or str
        A str is sent as UTF-8. A response with status 204, 205 or 304 has none.
    status : int
        HTTP status code, from 200 to 599.
    content_type : str
        The media type.
    headers : mapping of str to str, optional
        Further headers; the server itself sends Content-Length, Date and Connection.

    Raises
    ------
    ValueError
        The status is outside the range; a header's name is not a token of RFC 9110; a value
        has a control character, such as a line break, or one outside Latin-1; or a header is
        one that the server sends.
    TypeError
        An argument has the wrong type.
    """

    __slots__ = (
        "_cached",
        "_cached_from",
        "_cached_until",
        "_close_head",
        "_keep_head",
        "body",
        "status",
    )

    def __init__(
        self,
        body: bytes | str = b"",
        status: int = 200,
        content_type: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(body, str | bytes | bytearray | memoryview):
            raise TypeError(f"body of a response must be bytes or a str, not {body!r:.80}")
        self.status = status = check_int("status", status, 200, 599)
        lines = [
            f"HTTP/1.1 {status} {reason(status)}",
            f"Content-Type: {_check_value('content_type', content_type)}",
            *_header_lines({} if headers is None else headers),
        ]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n"
        try:
            self.body = body.encode() if isinstance(body, str) else bytes(body)
        except UnicodeEncodeError as error:
            raise ValueError(f"body must be text that UTF-8 can encode: {error}") from None
        if status in (204, 205, 304):
            self.body = b""
        if status not in (204, 304):  # they have no length either (RFC 9110, section 8.6)
            head += b"Content-Length: %d\r\n" % len(self.body)
        # Both end where the date is inserted, so that a response is formatted in one step.
        self._keep_head = head + b"Date: "
        self._close_head = head + b"Connection: close\r\nDate: "
        self._cached = b""
        self._cached_from = self._cached_until = 0.0

    def wire(self) -> bytes:
        """The bytes of the usual response: with its body, on a connection that stays open.

        They are cached for a second of the wall clock, since only the date changes.
        """
        now = time.time()
        if not self._cached_from <= now < self._cached_until:
            # In this order, because the threads of two servers may share the response.
            self._cached = self.encode()
            self._cached_from = float(int(now))
            self._cached_until = self._cached_from + 1.0
        return self._cached

    def encode(
        self, *, head_only: bool = False, close: bool = False, confirm: bool = False
    ) -> bytes:
        """The bytes of any response.

        `head_only` leaves out the body, for HEAD; `close` announces the end of the
        connection; `confirm` confirms keep-alive to an HTTP/1.0 peer that asked for it.
        """
        head = self._close_head if close else self._keep_head
        keep = b"\r\nConnection: keep-alive" if confirm and not close else b""
        date = _date(int(time.time()))
        return b"%b%b%b\r\n\r\n%b" % (head, date, keep, b"" if head_only else self.body)


def _header_lines(headers: Mapping[str, str]) -> list[str]:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of str to str, not {headers!r:.80}")
    for name in headers:
        if not isinstance(name, str):
            raise TypeError(f"headers must have names of type str, not {name!r:.80}")
        if not name.isascii() or not _NAME.fullmatch(name.encode()):
            raise ValueError(f"headers must have tokens as names, such as X-Name, not {name!r:.80}")
        if name.lower() in SERVER_HEADERS:
            raise ValueError(f"headers must not contain {name}: the server sends it")
        if name.lower() == "content-type":
            raise ValueError(f"headers must not contain {name}: use content_type=")
    return [f"{n}: {_check_value(f'headers[{n!r}]', value)}" for n, value in headers.items()]


def _check_value(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r:.80}")
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"{name} must have no line break, other control character or character outside "
            f"Latin-1: {value!r:.80}"
        )
    return value


def reason(status: int) -> str:
    """The phrase that goes with a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    """The value of the Date header, made once a second."""
    return formatdate(second, usegmt=True).encode()
