"""Framing of answers: pure bytes, split at random."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epolllab.clients.response import BadResponse, EchoResponseParser, HttpResponseParser

HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = {
    "length": HEAD + b"content-LENGTH: 5\r\n\r\n12345",
    "empty": HEAD + b"Content-Length: 0\r\n\r\n",
    "chunks": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
    "trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + HEAD + b"Content-Length: 1\r\n\r\nx",
}


def feed_all(
    answer: HttpResponseParser | EchoResponseParser, data: bytes, cuts: list[int]
) -> list[bool]:
    """Feed `data` cut at the given places; what each feed returned."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in pairwise(places)]
    return [answer.feed(piece) for piece in pieces if piece]


@pytest.mark.parametrize("name", WHOLE)
@given(cuts=st.lists(st.integers(0, 1000), max_size=8))
def test_an_answer_is_whole_at_its_last_byte(name: str, cuts: list[int]) -> None:
    """However it is cut, an answer is complete with its last byte and not before."""
    answer = HttpResponseParser()
    for _ in range(2):
        answer.begin()
        complete = feed_all(answer, WHOLE[name], cuts)
        assert complete == [False] * (len(complete) - 1) + [True]
        assert answer.status in (200, 204, 304)
        assert not answer.closes


@given(st.binary(max_size=300), st.lists(st.integers(0, 1000), max_size=8), st.booleans())
def test_random_bytes_are_an_answer_or_a_bad_one(
    data: bytes, cuts: list[int], begins_well: bool
) -> None:
    """Nothing but BadResponse is ever raised."""
    begin = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" if begins_well else b""
    with suppress(BadResponse):
        feed_all(HttpResponseParser(), begin + data, cuts)


@given(st.binary(min_size=1, max_size=100), st.lists(st.integers(0, 100), max_size=5))
def test_an_echo_is_whole_at_its_last_byte(data: bytes, cuts: list[int]) -> None:
    """An echo is complete when as many bytes have come back, each the right one."""
    complete = feed_all(EchoResponseParser(data), data, cuts)
    assert complete == [False] * (len(complete) - 1) + [True]
    with pytest.raises(BadResponse):
        EchoResponseParser(data).feed(bytes([data[0] ^ 1]))
    with pytest.raises(BadResponse):
        EchoResponseParser(data).feed(data + b"x")


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nconnection: Close\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_who_ends_the_connection(head: bytes, closes: bool) -> None:
    """HTTP/1.1 stays unless it says close, and 1.0 ends unless it says keep-alive."""
    answer = HttpResponseParser()
    assert answer.feed(head)
    assert answer.closes is closes


def test_without_a_length_the_end_completes() -> None:
    """An answer without a length goes on until end-of-file; others are cut off by it."""
    answer = HttpResponseParser()
    assert not answer.feed(HEAD + b"\r\nsome")
    assert not answer.feed(b"more")
    assert answer.end()
    answer.begin()
    assert not answer.feed(HEAD + b"Content-Length: 9\r\n\r\nsome")
    assert not answer.end()
    assert not HttpResponseParser().end()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        HEAD + b"Content-Length: 1\r\n\r\n12",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 70_000,
        HEAD + b"X: " + b"y" * 70_000,
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    """Each is refused, rather than waited on for ever."""
    with pytest.raises(BadResponse):
        HttpResponseParser().feed(data)


def test_many_interim_answers_are_stepped_over() -> None:
    """Thousands of 100 Continue in one read are no trouble."""
    answer = HttpResponseParser()
    assert not answer.feed(b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000)
    assert answer.feed(WHOLE["length"])
