"""Response parsers: pure bytes, split at random."""

from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epolllab.clients.response import (
    DEFECTS,
    BadResponse,
    EchoResponseParser,
    HttpResponseParser,
)
from tests.server.helpers import CUT_PLACES, bytewise, cut_at, ways_to_cut

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"
COMPLETE = {
    "length": HEAD + b"content-LENGTH: 5\r\n\r\n12345",
    "empty": HEAD + b"Content-Length: 0\r\n\r\n",
    "chunks": CHUNKED + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
    "trailer": CHUNKED + b"1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + HEAD + b"Content-Length: 1\r\n\r\nx",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n" + HEAD + EMPTY,
    "no reason": b"HTTP/1.1 200\r\n" + EMPTY,
    "LF only": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "LF only, CRLFCRLF in the body": b"HTTP/1.1 200 OK\nContent-Length: 4\n\n\r\n\r\n",
    "LF before CRLF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\r\nok",
    "LF after CRLF": HEAD + b"Content-Length: 2\r\n\nok",
    "LF in chunks": HEAD + b"Transfer-Encoding: chunked\n\n2\nok\n0\nA: b\n\n",
    "folded": HEAD + b"A: b\r\n  c\r\n\td\r\nContent-Length: 2\r\n\r\nok",
    "folded length": HEAD + b"Content-Length:\r\n 2\r\n\r\nok",
    "line breaks before": b"\r\n\n" + HEAD + EMPTY,
    "space before the colon": HEAD + b"Content-Length : 2\r\n\r\nok",
    "Latin-1": HEAD + b"A: \xe4\t\r\n" + EMPTY,
    "empty value": HEAD + b"A:\r\n" + EMPTY,
    "length twice": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "length as a list": HEAD + b"Content-Length: 2, 2\r\n\r\nok",
    "padded chunk size": CHUNKED + b"2  \r\nok\r\n000\r\n\r\n",
    "gzip, chunked": HEAD + b"Transfer-Encoding: gzip, Chunked\r\n\r\n0\r\n\r\n",
    "x-close": HEAD + b"Connection: x-close\r\n" + EMPTY,
}


def feed_pieces(
    parser: HttpResponseParser | EchoResponseParser, pieces: Iterable[bytes]
) -> list[bool]:
    """Feed the pieces; return what each feed returned."""
    return [parser.feed(piece) for piece in pieces]


@pytest.mark.parametrize("data", COMPLETE.values(), ids=COMPLETE)
def test_a_response_is_complete_at_its_last_byte(data: bytes) -> None:
    parser = HttpResponseParser()
    for pieces in [[data], *ways_to_cut(data)]:
        parser.begin()
        complete = feed_pieces(parser, pieces)
        assert complete == [False] * (len(complete) - 1) + [True]
        assert parser.status in (200, 204, 304)
        assert not parser.closes


@given(st.binary(max_size=300), CUT_PLACES, st.booleans())
def test_random_bytes_raise_nothing_but_bad_response(
    data: bytes, cuts: list[int], begins_well: bool
) -> None:
    with suppress(BadResponse):
        feed_pieces(HttpResponseParser(), cut_at((CHUNKED if begins_well else b"") + data, cuts))


@given(st.binary(min_size=1, max_size=100), CUT_PLACES)
def test_an_echo_is_complete_at_its_last_byte(data: bytes, cuts: list[int]) -> None:
    """As many bytes as were sent, each of them the right one."""
    complete = feed_pieces(EchoResponseParser(data), cut_at(data, cuts))
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
        (b"1.0", b"Connection: foo\r\nConnection: bar, Keep-Alive\r\n", False),
        (b"1.1", b"Connection: close\r\nConnection: x-own\r\n", True),
        (b"1.1", b"Connection: x-own\r\nConnection: close\r\n", True),
        (b"1.1", b"Connection: foo,close\r\n", True),
        (b"1.1", b"Connection: not-close, closed\r\n", False),
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


def test_a_chunked_response_that_has_a_length_too_closes() -> None:
    """The length does not count, and what follows on the connection cannot be trusted."""
    parser = HttpResponseParser()
    both = b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    assert parser.feed(HEAD + both)
    assert parser.closes


@pytest.mark.parametrize("coding", [b"gzip", b"identity", b"chunked, gzip", b"xchunked"])
def test_a_coding_other_than_chunked_ends_with_the_connection(coding: bytes) -> None:
    parser = HttpResponseParser()
    head = HEAD + b"Transfer-Encoding: " + coding + b"\r\nContent-Length: 2\r\n\r\n"
    if coding.startswith(b"chunked"):
        with pytest.raises(BadResponse, match="malformed Transfer-Encoding"):
            parser.feed(head)
        return
    assert not parser.feed(head + b"ok")
    assert parser.eof()


@pytest.mark.parametrize("data", [COMPLETE["length"], COMPLETE["chunks"], COMPLETE["no content"]])
def test_line_breaks_after_a_response_are_ignored(data: bytes) -> None:
    for pieces in ways_to_cut(b"\r\n" + data + b"\r\n\r\n"):
        parser = HttpResponseParser()
        assert feed_pieces(parser, pieces)[-1]
        assert parser.feed(b"\n")
        with pytest.raises(BadResponse, match="bytes after its end"):
            parser.feed(b"\r\nx")


BAD = {
    "not HTTP/1": [
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1200 OK\r\n\r\n",
        b"220 mail.example\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"\0",
        b"HTTP/1.1 100 Continue\r\n\r\nhello",
    ],
    "malformed status": [
        b"HTTP/1.1 %b\r\n\r\n" % status
        for status in (
            b"", b"OK", b"0", b"abc", b"20", b"099", b"000", b"99999", b"2000", b"200OK",
            b"-200", b"+200", b"2_0", b"0x1", b"20.", b"\xb2\xb2\xb2", b"200\tOK", b"200 O\rK",
            b"200 O\0K", b"200 OK\rContent-Length: 0\r\r",
        )
    ],
    "malformed header": [
        HEAD + b"no colon\r\n\r\n",
        HEAD + b": no name\r\n\r\n",
        HEAD + b"two words: x\r\n\r\n",
        HEAD + b"A: b\0\r\n\r\n",
        HEAD + b"A: b\rContent-Length: 2\r\n\r\n",
    ],
    "malformed Content-Length": [
        HEAD + b"Content-Length: %b\r\n\r\n" % length
        for length in (
            b"", b"-1", b"+1", b"1_0", b"0x1", b"1 0", b"1.0", b"many", b"1, 2", b"1,", b"\xb2",
            b"9" * 16, b"9" * 5_000, b"1\r\nContent-Length: 2", b"1\r\nContent-Length: 01",
        )
    ],
    "malformed Transfer-Encoding": [
        HEAD + b"Transfer-Encoding: %b\r\n\r\n" % coding
        for coding in (
            b"", b"chunked, chunked", b"chunked, gzip", b"chunked\r\nTransfer-Encoding: chunked",
        )
    ],
    "malformed chunk": [
        CHUNKED + size + b"\r\nok\r\n0\r\n\r\n"
        for size in (
            b"0x2", b"1_0", b"+2", b" 2", b"\t2", b"-2", b"", b";a=b", b"2.0", b"g", b"2 2",
            b"\xb2", b"9" * 16, b"9" * 17, b"f" * 5_000, b"0" * 17, b"2\0", b"3", b"1",
        )
    ] + [CHUNKED + b"2\r\nok0\r\n\r\n", CHUNKED + b"2\r\nok\r0\r\n\r\n"],
    "bytes after its end": [
        HEAD + b"Content-Length: 1\r\n\r\n12",
        HEAD + EMPTY + b"\r\n" + HEAD,
        CHUNKED + b"0\r\n\r\nx",
        b"HTTP/1.1 204 No Content\r\n\r\nx",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1\r\n\r\nx",
    ],
    "head too long": [
        CHUNKED + b"0" * 70_000,
        CHUNKED + b"0\r\nA: " + b"0" * 70_000,
        HEAD + b"X: " + b"y" * 70_000,
        HEAD + b"X: y\r\n" * 20_000,
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("defect", "data"),
    [
        pytest.param(defect, data, id=f"{defect}-{number}")
        for defect, found in BAD.items()
        for number, data in enumerate(found)
    ],
)
def test_bad_responses_are_rejected(defect: str, data: bytes) -> None:
    """Each is an error that says what is wrong, whatever the cuts, instead of a timeout."""
    assert defect in DEFECTS
    for pieces in ([data], bytewise(data[:300]) + [data[300:]] * (len(data) > 300)):
        with pytest.raises(BadResponse, match=f"^{defect}") as caught:
            feed_pieces(HttpResponseParser(), pieces)
        assert caught.value.defect == defect


def test_a_chunk_longer_than_its_size_is_rejected() -> None:
    for pieces in ways_to_cut(CHUNKED + b"2\r\nabc\r\n"):
        with pytest.raises(BadResponse, match="malformed chunk"):
            feed_pieces(HttpResponseParser(), pieces)


def test_many_interim_responses_are_skipped() -> None:
    """Thousands of 100 Continue in one read do not exhaust the stack."""
    parser = HttpResponseParser()
    assert not parser.feed(b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000)
    assert parser.feed(COMPLETE["length"])
