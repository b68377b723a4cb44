"""The protocols without a socket: hello, echo, your own, and any bytes sent to any of them."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epolllab import Session
from epolllab.server import Echo, Hello, Http
from epolllab.server.protocols import PROTOCOLS, make_session_factory
from tests.server.helpers import (
    BODIES,
    CONTINUE,
    CUT_PLACES,
    CUTS,
    DATE,
    EXPECTING,
    GET,
    bytewise,
    cut_at,
    responses_of,
)

# As in the how-to's script (http://scotdoyle.com/python-epoll-howto.html).
HOWTO = (
    b"HTTP/1.0 200 OK\r\nDate: Mon, 1 Jan 1996 01:01:01 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 13\r\n\r\n"
    b"Hello, world!"
)


# ---- hello and echo ---------------------------------------------------------------------


@pytest.mark.parametrize("ending", [b"\n\n", b"\n\r\n"])
@CUTS
def test_hello_responds_as_the_howto_does(
    ending: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    """At LF LF or LF CR LF, in one piece or a byte at a time: the same bytes as the how-to."""
    session = make_session_factory("hello")()
    *before, last = cut(b"GET / HTTP/1.0\r\nHost: a\r" + ending)
    assert responses_of(session, before) == []
    assert session.receive(last) == [HOWTO]
    assert session.closing
    assert not session.linger


@pytest.mark.parametrize(
    "data", [b"\n\n", b"\n\r\n", b"x\n\n", b"\0\xff\n\r\nmore", b"\r\n\r\n", b"a\n\nb\n\n"]
)
def test_hello_ignores_all_but_the_blank_line(data: bytes) -> None:
    assert Hello().receive(data) == [HOWTO]


@pytest.mark.parametrize("data", [b"\n", b"\r\n", b"a\nb\n", b"\n\r", b"\n\r\r\n", b"\r\r"])
def test_hello_waits_for_the_blank_line(data: bytes) -> None:
    session = Hello()
    assert responses_of(session, [data]) == []
    assert not session.closing


def test_hello_responds_once() -> None:
    assert responses_of(Hello(), [b"\n\n", b"\n\n", b"GET / HTTP/1.0\r\n\r\n"]) == [HOWTO]


@given(st.text("\r\na", max_size=24).map(str.encode), CUT_PLACES, st.integers(1, 12))
def test_the_limit_of_hello_is_exact(data: bytes, places: list[int], limit: int) -> None:
    """A blank line within the limit gets the response; more bytes without one are too large."""
    session = make_session_factory("hello", max_request_bytes=limit)()
    match = re.search(rb"\n\r?\n", data)
    if match and match.end() <= limit:
        expected = [HOWTO]
    elif len(data) > limit:
        expected = [Hello.TOO_LARGE]
    else:
        expected = [HOWTO] if match else []
    assert responses_of(session, cut_at(data, places)) == expected
    assert session.closing == bool(expected)
    assert session.linger == (expected == [Hello.TOO_LARGE])


@pytest.mark.parametrize(
    ("pieces", "in_request"),
    [([], False), ([b"GET"], True), ([b"GET", b" / HTTP/1.0\r\n"], True), ([b"a", b"\n\n"], False)],
)
def test_a_timeout_in_a_request_to_hello_is_408(pieces: list[bytes], in_request: bool) -> None:
    session = make_session_factory("hello")()
    responses_of(session, pieces)
    assert session.in_request is in_request
    assert session.timed_out() == ([Hello.TIMED_OUT] if in_request else [])


def test_hello_keeps_two_bytes_at_most() -> None:
    """A request that never ends does not fill memory before it is refused."""
    session = make_session_factory("hello")()
    for _ in range(1 << 10):
        assert session.receive(b"a" * 1024) == []
        assert len(session._tail) <= 2  # type: ignore[attr-defined]
    assert session.receive(b"a") == [Hello.TOO_LARGE]


def test_each_server_has_its_own_limit() -> None:
    small = make_session_factory("hello", max_request_bytes=3)
    large = make_session_factory("hello")
    assert small().receive(b"long") == [Hello.TOO_LARGE]
    assert large().receive(b"long") == []
    assert Hello.max_request_bytes == 1 << 20


@given(st.binary(min_size=1), CUT_PLACES)
def test_echo_returns_every_piece(data: bytes, places: list[int]) -> None:
    session = make_session_factory("echo")()
    pieces = cut_at(data, places)
    assert [session.receive(piece) for piece in pieces] == [[piece] for piece in pieces]
    assert not session.closing


# ---- random bytes -----------------------------------------------------------------------

FRAGMENTS = [
    b"GET / HTTP/1.1\r\n", b"POST /a?b HTTP/1.1\r\n", b"HEAD /%00 HTTP/1.0\r\n", b"PRI * HTTP/2.0",
    b"CONNECT a:1 HTTP/1.1\r\n", b"Host: a\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b"\r\n", b"\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"A: b\r\n c\r\n", b"\r\n\r\n", GET, EXPECTING,
    *BODIES.values(),
]  # fmt: skip

fragment = st.sampled_from(FRAGMENTS)
random_bytes = st.one_of(
    st.binary(max_size=200),
    st.lists(fragment, max_size=12).map(b"".join),
    st.lists(st.one_of(fragment, st.binary(max_size=6)), max_size=12).map(b"".join),
)


@pytest.mark.parametrize("protocol", ["hello", "http", "http with a handler"])
@given(data=random_bytes, places=CUT_PLACES)
def test_the_cuts_do_not_matter(protocol: str, data: bytes, places: list[int]) -> None:
    """No bytes make a protocol raise, and the responses do not depend on how they were cut."""

    def outcome(pieces: list[bytes]) -> tuple[bytes, bool, bool, str | None, list[bytes]]:
        handler = (lambda request: repr(request)) if "handler" in protocol else None
        session = make_session_factory(protocol.split()[0], handler=handler)()  # type: ignore[arg-type]
        # A 100 Continue may depend on whether the body had arrived.
        out = b"".join(responses_of(session, pieces)).replace(CONTINUE, b"")
        late = [re.sub(DATE, b"", response) for response in session.timed_out()]
        state = session.closing, session.linger, session.fault
        session.on_close()
        return out, *state, late

    whole = outcome([data] if data else [])
    assert outcome(cut_at(data, places)) == whole
    assert outcome(bytewise(data)) == whole


# ---- the choice of a protocol -----------------------------------------------------------


class Shout(Session):
    """The example of the module's docstring."""

    def receive(self, data: bytes) -> list[bytes]:
        """Return upper case."""
        return [data.upper()]


@pytest.mark.parametrize("protocol", [Shout, lambda: Shout()], ids=["class", "function"])
def test_your_own_session(protocol: Callable[[], Session]) -> None:
    factory = make_session_factory(protocol)
    first, second = factory(), factory()
    assert first is not second
    assert first.receive(b"hi") == [b"HI"]
    assert first.timed_out() == []
    assert not first.closing
    assert not first.linger
    assert first.interim == b""
    assert first.fault is None


def test_the_base_class_does_not_receive() -> None:
    with pytest.raises(NotImplementedError):
        Session().receive(b"x")


def test_every_name_has_its_session() -> None:
    """For hello it is a subclass, which holds the server's limit."""
    made = {name: type(make_session_factory(name)()) for name in PROTOCOLS}
    assert issubclass(made["hello"], Hello)
    assert made["http"] is Http
    assert made["echo"] is Echo
