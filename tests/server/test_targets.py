"""The status and the target of each request, from the session to the frame."""

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

import epolllab
from epolllab import Recording, Response
from epolllab.recording import storage
from epolllab.server import Request, targets
from epolllab.server.http import MAX_KNOWN
from epolllab.server.protocols import make_session_factory
from epolllab.server.targets import OTHER, Targets, row_code
from tests.server.helpers import PLACES, options_of, ways_to_cut
from tests.wire import connect


def get(target: str, method: str = "GET") -> bytes:
    """A request without a body."""
    return f"{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def respond(request: Request) -> Response:
    """A handler with several statuses."""
    if request.path == "/broken":
        raise LookupError
    return Response(status=404 if request.path == "/missing" else 200)


# ---- the table --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/a/b?token=1?2", "/a/b"),
        ("/?q", "/"),
        ("*", "*"),
        ("http://anna:secret@host:80/a?b", "/a"),
        ("http://host", "/"),
        ("http://host?b", "/"),
        ("/a?to=http://host/", "/a"),
        ("/" + "x" * 255, "/" + "x" * 255),
        ("/" + "x" * 256, "/" + "x" * 252 + "..."),
    ],
)
def test_a_target_is_kept_without_host_and_query(target: str, name: str) -> None:
    table = Targets()
    assert table.code_of(get(target)) == row_code(0, 1)
    assert table.names == ["", name]
    assert table.code_of(get(target)) == row_code(0, 1)
    assert len(table.names) == 2


def test_the_table_is_bounded_by_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes when it is full is "(other)"; what came before keeps its number."""
    monkeypatch.setattr(targets, "MOST_TARGETS", 5)
    table = Targets()
    codes = [table.code_of(get(f"/{n}")) for n in range(6)]
    assert codes == [row_code(0, n) for n in (1, 2, 3, 4, 4, 4)]
    assert table.names == ["", "/0", "/1", "/2", OTHER]
    assert table.code_of(get("/1?x")) == row_code(0, 2)


def test_the_table_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "MOST_BYTES", 20)
    table = Targets()
    for n in range(5):
        table.code_of(get(f"/{n}-------"))
    assert table.names == ["", "/0-------", "/1-------", OTHER]


def test_a_full_table_fits_a_row_and_a_header() -> None:
    """Status and target have 16 bits each; a saved header has at most 16 MiB as JSON."""
    assert row_code(599, targets.MOST_TARGETS - 1) < 1 << 40
    worst = 2 * targets.MOST_BYTES + targets.MOST_TARGETS * len('"", ')
    assert worst < storage.MOST_HEADER_BYTES


# ---- sessions ---------------------------------------------------------------------------


def codes_of(session: epolllab.Session, *pieces: bytes) -> list[int]:
    """The code of each response, as a loop notes them."""
    found: list[int] = []
    for piece in pieces:
        if responses := session.receive(piece):
            found += session.handle_codes if len(responses) > 1 else [session.handle_code]
    return found


@pytest.mark.parametrize("handler", [None, respond], ids=["greeting", "handler"])
def test_each_response_has_its_own_code(handler: Any) -> None:
    """However the bytes are cut, and also the second time, when the heads are known."""
    missing = 404 if handler else 200
    body = b"POST /p?q HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"
    data = get("/a?1") + get("/missing") + body + get("/a?1", "HEAD") + get("/missing")
    expected = [(200, "/a"), (missing, "/missing"), (200, "/p"), (200, "/a"), (missing, "/missing")]
    for pieces in ways_to_cut(data):
        table = Targets()
        session = make_session_factory("http", handler=handler, targets=table)()
        for _ in range(2):
            codes = codes_of(session, *pieces)
            assert codes == [row_code(s, table.names.index(t)) for s, t in expected]


@pytest.mark.parametrize(
    ("data", "status", "name"),
    [
        (b"GET /a HTTP/1.1\r\n\r\n", 400, "/a"),
        (b"GET /a HTTP/1.1\nHost: a\r\n", 400, ""),
        (b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", 413, "/a"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nExpect: b\r\n\r\n", 417, "/a"),
        (b"GET " + b"x" * 9_000, 414, ""),
        (get("/broken"), 500, "/broken"),
    ],
)
def test_refused_requests_have_a_status(data: bytes, status: int, name: str) -> None:
    """The target is known once the head is complete; it is never an earlier request's."""
    table = Targets()
    session = make_session_factory("http", handler=respond, targets=table)()
    assert codes_of(session, get("/before")) == [row_code(200, 1)]
    assert codes_of(session, data) == [row_code(status, table.names.index(name))]


def test_a_request_that_times_out_has_a_status() -> None:
    session = make_session_factory("http", targets=Targets())()
    assert codes_of(session, get("/before"), b"GET /slow") == [row_code(200, 1)]
    assert len(session.timed_out()) == 1
    assert session.handle_code == row_code(408)


def test_servers_do_not_share_targets() -> None:
    """Nor what they know of heads, which has the numbers of targets."""
    first, second = Targets(), Targets()
    one, two = (make_session_factory("http", targets=table)() for table in (first, second))
    assert codes_of(one, get("/a"), get("/b")) == [row_code(200, 1), row_code(200, 2)]
    assert codes_of(two, get("/b"), get("/b")) == [row_code(200, 1)] * 2
    assert (first.names, second.names) == (["", "/a", "/b"], ["", "/b"])


def test_more_heads_than_are_kept_known_keep_their_codes() -> None:
    session = make_session_factory("http", targets=Targets())()
    heads = [get(f"/{n}") for n in range(MAX_KNOWN + 5)]
    expected = [row_code(200, n + 1) for n in range(len(heads))]
    assert codes_of(session, *heads, *heads) == expected * 2


def test_the_codes_of_other_protocols() -> None:
    """The how-to's has a status; echo and your own have neither."""
    small = make_session_factory("hello", max_request_bytes=3)
    assert codes_of(make_session_factory("hello")(), b"GET /a\r\n\r\n") == [row_code(200)]
    assert codes_of(small(), b"GET /a\r\n\r\n") == [row_code(413)]
    assert codes_of(small(), b"GET /") == [row_code(413)]
    assert codes_of(make_session_factory("echo")(), b"x") == [row_code(0)]


# ---- servers ----------------------------------------------------------------------------


def asked(server: epolllab.Server, *pieces: bytes) -> None:
    """Send each piece on one connection once the responses to the one before have come."""
    with connect(server.address) as sock:
        for piece in pieces:
            sock.sendall(piece)
            left = piece.count(b" HTTP/1.1")
            while left:
                left -= sock.recv(65_536).count(b"HTTP/1.1 ")
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
    server.settle()


@PLACES
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lifecycle": "howto"},
        {"trigger": "edge", "lifecycle": "once"},
        {"cork": True},
        {"poller": "io_uring"},
    ],
    ids=["eager", "howto", "once", "cork", "io_uring"],
)
def test_requests_have_status_target_and_duration(options: dict[str, Any], process: bool) -> None:
    """One request at a time, known and unknown, and several at once."""
    if "poller" in options:
        options = options_of("io_uring", "", "")
    pieces = get("/a?1"), get("/a?1"), get("/missing") + get("/b") + get("/missing"), get("/broken")
    expected = [
        (200, "/a"), (200, "/a"), (404, "/missing"), (200, "/b"), (404, "/missing"),
        (500, "/broken"),
    ]  # fmt: skip
    with epolllab.start_server(
        protocol="http", handler=respond, process=process, **options
    ) as server:
        asked(server, *pieces)
        while_it_runs = server.requests()
    table = server.requests()
    for found in (while_it_runs, table):
        assert list(zip(found["status"], found["target"], strict=True)) == expected
    assert (table["dur_ns"] == table["answered_ns"] - table["woken_ns"]).all()
    assert (table["dur_ns"] > 0).all()


@PLACES
def test_the_last_targets_are_known_after_a_stop(process: bool) -> None:
    """Also if the table was never read while the server ran."""
    with epolllab.start_server(protocol="http", process=process) as server:
        asked(server, get("/a"), get("/b"))
    assert server.requests()["target"].tolist() == ["/a", "/b"]


@pytest.mark.processes
def test_a_killed_process_leaves_the_targets_read_before() -> None:
    server = epolllab.start_server(protocol="http", process=True)
    asked(server, get("/a"))
    assert server.requests()["target"].tolist() == ["/a"]
    asked(server, get("/b"))
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(epolllab.ServerDied):
        server.stop()
    table = server.requests()
    assert table["status"].tolist() == [200, 200]
    assert table["target"].isna().tolist() == [False, True]


def test_saved_recordings_name_targets_unless_redacted(tmp_path: Path) -> None:
    with epolllab.start_server(protocol="http", handler=respond) as server:
        asked(server, get("/a?1") + get("/missing"))
    recording = server.recording()
    loaded = Recording.load(recording.save(tmp_path / "whole.parquet"))
    assert loaded.requests().equals(recording.requests())
    assert loaded.requests()["target"].tolist() == ["/a", "/missing"]
    path = recording.save(tmp_path / "shared.parquet", redact=True)
    shared = Recording.load(path)
    assert "targets" not in shared.metadata
    assert shared.requests()["status"].tolist() == [200, 404]
    assert shared.requests()["target"].isna().all()
    assert b"missing" not in path.read_bytes()
