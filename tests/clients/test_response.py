"""Response parsers: pure bytes, split at random."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epolllab.clients.response import BadResponse, EchoResponseParser, HttpResponseParser
from tests.server.helpers import CUT_PLACES, cut_at

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
COMPLETE = {
    "length": HEAD + b"content-LENGTH: 5\r\n\r\n12345",
    "empty": HEAD + b"Content-Length: 0\r\n\r\n",
    "chunks": CHUNKED + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
    "trailer": CHUNKED + b"1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + HEAD + b"Content-Length: 1\r\n\r\nx",
}


def feed_pieces(
    parser: HttpResponseParser | EchoResponseParser, data: bytes, cuts: list[int]
) -> list[bool]:
    """Feed `data` cut at the given places; return what each feed returned."""
    return [parser.feed(piece) for piece in cut_at(data, cuts)]


@pytest.mark.parametrize("data", COMPLETE.values(), ids=COMPLETE)
@given(cuts=CUT_PLACES)
def test_a_response_is_complete_at_its_last_byte(data: bytes, cuts: list[int]) -> None:
    parser = HttpResponseParser()
    for _ in range(2):
        parser.begin()
        complete = feed_pieces(parser, data, cuts)
        assert complete == [False] * (len(complete) - 1) + [True]
        assert parser.status in (200, 204, 304)
        assert not parser.closes


@given(st.binary(max_size=300), CUT_PLACES, st.booleans())
def test_random_bytes_raise_nothing_but_bad_response(
    data: bytes, cuts: list[int], begins_well: bool
) -> None:
    with suppress(BadResponse):
        feed_pieces(HttpResponseParser(), (CHUNKED if begins_well else b"") + data, cuts)


@given(st.binary(min_size=1, max_size=100), CUT_PLACES)
def test_an_echo_is_complete_at_its_last_byte(data: bytes, cuts: list[int]) -> None:
    """As many bytes as were sent, each of them the right one."""
    complete = feed_pieces(EchoResponseParser(data), data, cuts)
    assert complete == [False] * (len(complete) - 1) + [True]
    for wrong in (bytes([data[0] ^ 1]), data + b"x"):
        with pytest.raises(BadResponse):
            EchoResponseParser(data).feed(wrong)


@pytest.mark.parametrize(
    ("version", "connection", "closes"),
    [
        (b"1.1", b"", False),
        (b"1.1", b"connection: Close\r\n", True),
        (b"1.0", b"", True),
        (b"1.0", b"Connection: keep-alive\r\n", False),
    ],
)
def test_which_responses_close_the_connection(
    version: bytes, connection: bytes, closes: bool
) -> None:
    """HTTP/1.1 stays open unless it says close; 1.0 closes unless it says keep-alive."""
    parser = HttpResponseParser()
    assert parser.feed(b"HTTP/%b 200 OK\r\nContent-Length: 0\r\n%b\r\n" % (version, connection))
    assert parser.closes is closes


def test_end_of_file_completes_only_a_response_without_a_length() -> None:
    parser = HttpResponseParser()
    assert not parser.feed(HEAD + b"\r\nsome")
    assert not parser.feed(b"more")
    assert parser.eof()
    parser.begin()
    assert not parser.feed(HEAD + b"Content-Length: 9\r\n\r\nsome")
    assert not parser.eof()
    assert not HttpResponseParser().eof()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        HEAD + b"Content-Length: 1\r\n\r\n12",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"0" * 70_000,
        HEAD + b"X: " + b"y" * 70_000,
    ],
)
def test_bad_responses_are_rejected(data: bytes) -> None:
    """Each is an error, rather than waited for until the timeout."""
    with pytest.raises(BadResponse):
        HttpResponseParser().feed(data)


@given(cuts=CUT_PLACES)
def test_a_chunk_longer_than_its_size_is_rejected(cuts: list[int]) -> None:
    with pytest.raises(BadResponse):
        feed_pieces(HttpResponseParser(), CHUNKED + b"2\r\nabc\r\n", cuts)


def test_many_interim_responses_are_skipped() -> None:
    """Thousands of 100 Continue in one read do not exhaust the stack."""
    parser = HttpResponseParser()
    assert not parser.feed(b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000)
    assert parser.feed(COMPLETE["length"])
