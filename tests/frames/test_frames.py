"""Frames of recordings, compared with hand-written cases and with a slow reference."""

import errno
import math
import re
from collections import defaultdict, namedtuple
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epolllab import frames, schema
from epolllab.events import FIELDS, NO_POSITION, RECORD, Op
from epolllab.recording.recording import Recording
from tests.samples import Script, mask_of, random_server, served

EMPTY = Recording(b"")


def documented(table: str) -> dict[str, str]:
    """Names and dtypes of a frame's columns, from the table in its docstring."""
    return dict(re.findall(r"(?m)^(\w+) +(u?int\d+|U?Int\d+|float64|category|str) ", table))


SPANS = ["waiting", "wake", "queue", "read", "handle", "send", "deliver", "receive"]


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    """Names and dtypes of a frame's columns, in order; str is object before pandas 3."""
    return frame.dtypes.astype(str).replace("object", "str").to_dict()


# ---- the slow reference ------------------------------------------------------


Row = namedtuple("Row", [name for name, _ in FIELDS])  # noqa: PYI024 - the format's fields


def rows_of(recording: Recording) -> list[Row]:
    """All records, in order."""
    return [Row(*fields) for fields in RECORD.iter_unpack(recording.rows)]


def finishing_places(own: list[Row], handles: list[int]) -> tuple[list[int | None], list[float]]:
    """For each request: the place of its response's last send, and where it is finished."""
    answered: list[int | None] = []
    finished: list[float] = []
    owed = 0
    for handle in handles:
        size = max(own[handle].result, 0)
        owed += size
        sent, place = 0, None
        for at in range(handles[0], len(own)):
            if own[at].op == Op.SEND and own[at].result > 0:
                sent += own[at].result
                if sent >= owed and at > handle and place is None:
                    place = at
        answered.append(place if size else None)
        end = handle if not size else math.inf if place is None else place
        finished.append(max(end, finished[-1]) if finished else end)
    return answered, finished


def begins_request(row: Row) -> bool:
    """Whether a row begins the next request, by rule 2 of frames/requests.py."""
    return row.op in (Op.READY, Op.HANDLE) or (row.op == Op.RECV and row.result > 0)


def owners(own: list[Row], handles: list[int], finished: list[float]) -> list[int]:
    """The request that each row of a connection belongs to, row by row."""
    owner = []
    current = 0
    for place, row in enumerate(own):
        while current + 1 < len(handles) and place > finished[current]:
            came_together = handles[current + 1] < finished[current]
            if not came_together and not begins_request(row):
                break
            current += 1
        owner.append(current)
    return owner


def slow_requests(recording: Recording) -> list[dict[str, Any]]:
    """Do what requests() does, one connection, one request, one row at a time."""
    everything = rows_of(recording)
    of_conn: dict[int, list[tuple[int, Row]]] = defaultdict(list)
    for index, row in enumerate(everything):
        if row.conn:
            of_conn[row.conn].append((index, row))
    requests = []
    for conn, numbered in of_conn.items():
        indices, own = [i for i, _ in numbered], [row for _, row in numbered]
        handles = [at for at, row in enumerate(own) if row.op == Op.HANDLE]
        if not handles:
            continue
        ports = [row.mask for row in own if row.op == Op.ACCEPT]
        answered, finished = finishing_places(own, handles)
        whose = owners(own, handles, finished)
        for k, handle in enumerate(handles):
            mine = [row for row, owner in zip(own, whose, strict=True) if owner == k]
            instants = slow_instants(everything, indices, own, handle, mine)
            end = None if answered[k] is None else own[answered[k]].end_ns
            took = None if None in (end, instants["woken_ns"]) else end - instants["woken_ns"]
            request = {
                "conn": conn,
                "request": k,
                "peer_port": ports[0] if ports else None,
                **instants,
                "handled_ns": own[handle].end_ns,
                "answered_ns": end,
                **slow_counts(mine),
                "n_bytes": max(own[handle].result, 0),
                "dur_ns": took,
                "status": own[handle].mask & 0xFFFF or None,
                "target": "/a" if own[handle].mask >> 16 == 1 else None,
            }
            requests.append((indices[handle], request))
    return [request for _, request in sorted(requests, key=lambda pair: pair[0])]


def slow_instants(
    everything: list[Row], indices: list[int], own: list[Row], handle: int, mine: list[Row]
) -> dict[str, Any]:
    """When the loop was woken for a request, turned to it, and read it."""
    woken = ready = read = None
    for at in range(handle):
        if own[at].op == Op.RECV and own[at].result > 0:
            last = own[at]
            read, ready, woken = last.end_ns, last.start_ns, None
            for turn in own[:at]:
                if turn.op == Op.READY and turn.wake == last.wake:
                    ready = turn.start_ns
            for row in everything[: indices[at]]:
                if row.op == Op.WAIT:
                    woken = row.end_ns
    first = next((row.start_ns for row in mine if row.op == Op.READY), None)
    if first is None or (ready is not None and ready < first):
        first = ready
    return {"woken_ns": woken, "ready_ns": ready, "first_ready_ns": first, "read_ns": read}


def slow_counts(mine: list[Row]) -> dict[str, int]:
    """Count calls and bytes in a request's rows."""
    moves = [row for row in mine if row.op in (Op.RECV, Op.SEND)]
    return {
        "n_wakeups": len({row.wake for row in mine}),
        "n_recv": sum(row.op == Op.RECV for row in mine),
        "n_send": sum(row.op == Op.SEND for row in mine),
        "n_would_block": sum(row.result == -errno.EAGAIN for row in moves),
        "n_epoll_ctl": sum(row.op in (Op.REGISTER, Op.MODIFY, Op.UNREGISTER) for row in mine),
        "n_events": sum(row.op == Op.READY for row in mine),
        "n_bytes_in": sum(max(row.result, 0) for row in mine if row.op == Op.RECV),
    }


def plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of ints, texts and None; floats would round nanoseconds."""
    columns = {
        name: [
            value if isinstance(value, str) else None if pd.isna(value) else int(value)
            for value in frame[name].tolist()
        ]
        for name in frame
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), capacity=st.integers(1, 700))
def test_requests_agree_with_a_slow_reference(seed: int, capacity: int) -> None:
    """Both give the same rows for random loops, also if the ring lost the oldest records."""
    recording = random_server(seed, n_steps=40, capacity=capacity)
    frame = recording.requests()
    assert dtypes(frame) == documented(schema.REQUESTS)
    assert plain(frame) == slow_requests(recording)


def test_requests_name_targets_in_the_order_in_which_they_appear() -> None:
    """A number without a name in the table, as of a killed process, is missing."""
    script = Script().wait(1).ready(1)
    for status, target in ((200, 2), (404, 1), (200, 2), (0, 0), (500, 9)):
        script.recv(1, 5).handle(1, 7, status=status, target=target).send(1, 7)
    table = script.recording({"targets": ["", "/a", "/b"]}).requests()
    assert table["status"].fillna(-1).tolist() == [200, 404, 200, -1, 500]
    assert table["target"].cat.categories.tolist() == ["/b", "/a"]
    assert table["target"].fillna("/b").tolist() == ["/b", "/a", "/b", "/b", "/b"]
    assert table["target"].isna().tolist() == [False, False, False, True, True]
    assert script.recording().requests()["target"].isna().all()


@pytest.mark.parametrize(
    ("targets", "error"), [(3, TypeError), ([3], TypeError), (["", "/a", "/a"], ValueError)]
)
def test_a_table_of_targets_is_checked(targets: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^targets "):
        frames.requests(Script().recording().array(), targets)


def test_random_recordings_cover_the_special_cases() -> None:
    """Pipelining, lost records and partial sends occur, so the comparison covers them."""
    whole = pd.concat([random_server(seed).requests() for seed in range(10)])
    cut = pd.concat([random_server(seed, capacity=200).requests() for seed in range(10)])
    assert (whole["n_recv"] == 0).any()
    assert (whole["n_send"] > 1).any()
    assert whole["answered_ns"].isna().any()
    assert whole["answered_ns"].notna().any()
    assert whole["peer_port"].notna().all()
    assert cut["peer_port"].isna().any()
    assert cut["read_ns"].isna().any()


@pytest.mark.parametrize("seed", range(8))
def test_totals_over_requests_equal_totals_over_connections(seed: int) -> None:
    """No row of a connection that handled a request is lost or counted twice."""
    recording = random_server(seed, capacity=300 if seed % 2 else 10_000)
    per_request = recording.requests().groupby("conn")
    per_conn = recording.connections().set_index("conn")
    per_conn = per_conn[per_conn["n_requests"] > 0]
    for column in ("n_recv", "n_send", "n_events", "n_bytes_in"):
        assert per_request[column].sum().tolist() == per_conn[column].tolist()
    assert per_request.size().tolist() == per_conn["n_requests"].tolist()


# ---- requests, by hand -------------------------------------------------------


def howto(script: Script, conn: int) -> Script:
    """One connection of the how-to's server."""
    script.wait(1).ready(0).accept(conn).register(conn, "IN")
    script.wait(1).ready(conn, "IN").recv(conn, 40).handle(conn, 120).modify(conn, "OUT")
    script.wait(1).ready(conn, "OUT").send(conn, 120).modify(conn, "0").shutdown(conn)
    return script.wait(1).ready(conn, "HUP").unregister(conn).close(conn)


def test_the_howto_makes_four_epoll_ctl_calls_per_request() -> None:
    """Calls after the response count too; the fourth event is the listener's."""
    recording = howto(howto(Script(), 1), 2).recording()
    frame = recording.requests()
    assert frame["n_epoll_ctl"].tolist() == [4, 4]
    assert frame["n_wakeups"].tolist() == [4, 4]
    assert frame["n_events"].tolist() == [3, 3]
    assert (recording.events()["op"] == "ready").sum() == 4 * len(frame)


def test_eager_makes_one_epoll_ctl_call_per_connection() -> None:
    """Only the first request of a connection counts its register."""
    script = Script().wait(1).ready(0).accept(1).register(1)
    for _ in range(3):
        script.wait(1).ready(1).recv(1, 70).handle(1, 150).send(1, 150)
    frame = script.recording().requests()
    assert frame["request"].tolist() == [0, 1, 2]
    assert frame["peer_port"].tolist() == [40_001] * 3
    assert frame["n_epoll_ctl"].tolist() == [1, 0, 0]
    assert frame["n_events"].tolist() == [1, 1, 1]
    assert frame["n_wakeups"].tolist() == [2, 1, 1]
    assert frame["n_bytes"].tolist() == [150] * 3
    assert frame["n_bytes_in"].tolist() == [70] * 3


def test_instants_of_a_request_are_those_of_its_rows() -> None:
    script = Script(start_ns=2**60 + 1, call_ns=10, pause_ns=1)
    script.wait(2, ns=1000).ready(2).recv(2, 5).ready(1).recv(1, 5).handle(1, 7).send(1, 7)
    only = script.recording().requests().iloc[0]
    t = 2**60 + 1
    assert only["woken_ns"] == t + 1000
    assert only["ready_ns"] == only["first_ready_ns"] == t + 1000 + 1 + 1 + 11
    assert only["read_ns"] == only["ready_ns"] + 1 + 10
    assert only["handled_ns"] == only["read_ns"] + 1 + 10
    assert only["answered_ns"] == only["handled_ns"] + 1 + 10


def test_instants_of_a_request_in_pieces_are_those_of_its_last_piece() -> None:
    """Only first_ready_ns is that of the first piece."""
    script = Script().wait(1).ready(1).recv(1, 5).recv_blocked(1)
    script.wait(1).ready(1).recv(1, 5).handle(1, 7).send(1, 7)
    only = script.recording().requests().iloc[0]
    events = script.recording().events()
    readies = events.loc[events["op"] == "ready", "t_ns"].tolist()
    assert [only["first_ready_ns"], only["ready_ns"]] == readies
    assert only["n_would_block"] == 1
    assert only["n_bytes_in"] == 10


def test_rows_of_pipelined_requests_go_to_the_next_response() -> None:
    """Three requests in one recv, with sends that end in the middle of responses."""
    script = Script().wait(1).ready(0).accept(1).register(1)
    script.wait(1).ready(1).recv(1, 210).handle(1, 100).handle(1, 100).handle(1, 100)
    script.send(1, 150).send_blocked(1).modify(1, "OUT")
    script.wait(1).ready(1, "OUT").send(1, 150).modify(1, "IN")
    frame = script.recording().requests()
    events = script.recording().events()
    sends = events[(events["op"] == "send") & events["error"].isna()]
    ends = (sends["t_ns"] + sends["dur_ns"]).tolist()
    assert frame["answered_ns"].tolist() == [ends[0], ends[1], ends[1]]
    assert frame["n_recv"].tolist() == [1, 0, 0]
    assert frame["n_send"].tolist() == [1, 2, 0]
    assert frame["n_would_block"].tolist() == [0, 1, 0]
    assert frame["n_epoll_ctl"].tolist() == [1, 1, 1]
    assert frame["n_events"].tolist() == [1, 1, 0]
    assert frame["n_wakeups"].tolist() == [2, 2, 1]
    assert len(set(frame["ready_ns"])) == 1


def test_a_draining_loop_gives_each_request_its_own_recv() -> None:
    """Without a ready row in between, a recv that returned bytes begins the next request."""
    script = Script().wait(1).ready(1, "IN")
    for _ in range(2):
        script.recv(1, 70).handle(1, 150).send(1, 150)
    script.recv_blocked(1)
    frame = script.recording().requests()
    assert frame["n_recv"].tolist() == [1, 2]
    assert frame["n_send"].tolist() == [1, 1]
    assert frame["n_would_block"].tolist() == [0, 1]


def test_without_a_ready_row_ready_ns_is_the_start_of_the_recv() -> None:
    """The loop reads immediately after accept."""
    script = Script(call_ns=10, pause_ns=0).wait(1).ready(0).accept(1).recv(1, 5)
    only = script.handle(1, 7).send(1, 7).recording().requests().iloc[0]
    assert only["ready_ns"] == only["first_ready_ns"] == only["read_ns"] - 10
    assert only["n_events"] == 0


def test_answered_ns_is_missing_for_a_response_that_was_not_sent() -> None:
    """The request keeps its row."""
    script = Script().wait(1).ready(1).recv(1, 5).handle(1, 100).send(1, 60)
    script.send(1, -errno.EPIPE).close(1)
    only = script.recording().requests().iloc[0]
    assert pd.isna(only["answered_ns"])
    assert only["n_send"] == 2


def test_a_connection_without_a_complete_request_is_only_in_connections() -> None:
    recording = Script().wait(1).ready(0).accept(1).register(1).wait(1).ready(1).recv(1, 5)
    assert recording.recording().requests().empty
    assert recording.recording().connections()["n_bytes_in"].tolist() == [5]


def test_requests_are_in_the_order_of_handling() -> None:
    script = Script()
    for conn in (2, 1, 3, 1):
        script.wait(1).ready(conn).recv(conn, 5).handle(conn, 7).send(conn, 7)
    frame = script.recording().requests()
    assert frame["conn"].tolist() == [2, 1, 3, 1]
    assert frame["request"].tolist() == [0, 0, 0, 1]


# ---- events ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_events_are_the_records(seed: int) -> None:
    """Every column equals what struct decodes, over more than one chunk."""
    recording = random_server(seed, n_steps=300)
    recording = Recording(recording.rows * (40_000 // len(recording) + 1))
    frame = recording.events()
    rows = rows_of(recording)
    assert len(frame) > 1 << 15
    assert frame["t_ns"].tolist() == [row.start_ns for row in rows]
    assert frame["dur_ns"].tolist() == [row.end_ns - row.start_ns for row in rows]
    for name in ("wake", "conn", "fd", "request"):
        assert frame[name].tolist() == [getattr(row, name) for row in rows]
    assert frame["op"].tolist() == [Op(row.op).label for row in rows]
    positions = [-1 if row.position == NO_POSITION else row.position for row in rows]
    assert frame["position"].tolist() == positions
    assert frame["error"].isna().tolist() == [row.result >= 0 for row in rows]


def test_masks_are_shown_only_for_operations_that_have_one() -> None:
    """The field also holds timeouts and ports, which are not masks."""
    script = Script().wait(1, timeout_ms=1.0).ready(0, "IN").accept(1).register(1, "IN|ET")
    script.wait(1).ready(1, "0").modify(1, "OUT")
    frame = script.recording().events()
    assert frame["mask_names"].tolist() == ["", "IN", "", "IN|ET", "", "0", "OUT"]
    assert frame["mask"].tolist() == [0, 1, 0, mask_of("IN|ET"), 0, 0, 4]


def test_bytes_and_errors_share_no_row() -> None:
    script = Script().wait(1).ready(0).accept(7).recv(7, 10).send_blocked(7).handle(7, 12)
    frame = script.send(7, 12).recv(7, -errno.ECONNRESET).recording().events()
    assert frame["n_bytes"].tolist() == [0, 0, 0, 10, 0, 12, 12, 0]
    assert frame["error"].dropna().to_dict() == {4: "EAGAIN", 7: "ECONNRESET"}


def test_an_unknown_operation_is_an_error() -> None:
    row = RECORD.pack(1, 2, 1, 1, 5, 0, 0, 99, 0, 0, 0)
    with pytest.raises(ValueError, match="operation 99"):
        Recording(row).events()


# ---- wake-ups ----------------------------------------------------------------


def test_wakeups_show_how_long_the_loop_slept_and_worked() -> None:
    """A wait that returned events, one that timed out, one interrupted without a timeout."""
    script = Script(call_ns=10, pause_ns=1)
    script.wait(1, timeout_ms=2.5, ns=500).ready(1).recv(1, 5).handle(1, 7).send(1, 7).after(4)
    script.wait(0, timeout_ms=0.0, ns=20).wait(-errno.EINTR, ns=30)
    frame = script.recording().wakeups()
    assert dtypes(frame) == documented(schema.WAKEUPS)
    assert frame["wake"].tolist() == [1, 2, 3]
    assert frame["waited_ns"].tolist() == [500, 20, 30]
    assert frame["timeout_ms"].fillna(-1).tolist() == [2.5, 0.0, -1.0]
    assert frame["n_returned"].tolist() == [1, 0, 0]
    assert frame["n_calls"].tolist() == [2, 0, 0]
    assert frame["handled_ns"].tolist() == [1 + 1 + 11 + 11 + 10, 0, 0]
    assert frame["gap_ns"].fillna(-1).tolist() == [5, 1, -1]
    assert frame["error"].astype(object).fillna("").tolist() == ["", "", "EINTR"]


def test_rows_before_the_first_wait_belong_to_no_wakeup() -> None:
    """The ring has overwritten their wait."""
    script = Script(capacity=5).wait(1).ready(1).recv(1, 5).wait(1).ready(1).recv(1, 5).send(1, 5)
    frame = script.recording().wakeups()
    assert frame["wake"].tolist() == [2]
    assert frame["n_calls"].tolist() == [2]


@pytest.mark.parametrize("seed", range(4))
def test_wakeups_account_for_all_time_between_waits(seed: int) -> None:
    """Waited, handled and gap add up to the next wait's start."""
    frame = random_server(seed).wakeups()
    parts = frame["waited_ns"] + frame["handled_ns"] + frame["gap_ns"]
    assert parts[:-1].tolist() == frame["t_ns"].diff()[1:].tolist()


# ---- connections -------------------------------------------------------------


def test_connections_with_one_port_are_distinct() -> None:
    script = Script(call_ns=10, pause_ns=0)
    for conn in (1, 2):
        script.wait(1).ready(0).accept(conn, port=5000).register(conn)
        script.wait(1).ready(conn).recv(conn, 5).handle(conn, 7).send(conn, 7)
    script.recv_blocked(1).recv(1, -errno.ECONNRESET).recv_blocked(1).close(1)
    frame = script.recording().connections()
    assert dtypes(frame) == documented(schema.CONNECTIONS)
    assert frame["conn"].tolist() == [1, 2]
    assert frame["fd"].tolist() == [5, 6]
    assert frame["peer_port"].tolist() == [5000, 5000]
    assert frame["n_recv"].tolist() == [4, 1]
    assert frame["n_bytes_out"].tolist() == [7, 7]
    assert frame["error"].astype(object).fillna("").tolist() == ["ECONNRESET", ""]
    assert frame["closed_ns"].isna().tolist() == [False, True]
    assert frame["closed_ns"][0] == script.now


def test_a_connection_only_accepted_has_the_new_descriptor() -> None:
    """The fd of the accept row is the listener's."""
    frame = Script().wait(1).ready(0).accept(3).recording().connections()
    assert frame["fd"].tolist() == [7]


# ---- empty recordings ----------------------------------------------------------


@pytest.mark.parametrize("name", ["events", "wakeups", "requests", "connections"])
def test_frames_have_the_documented_columns(name: str) -> None:
    """Dtypes do not depend on what the recording contains."""
    expected = documented(getattr(schema, name.upper()))
    for recording in (EMPTY, served(), Script().wait(0).recording()):
        assert dtypes(getattr(recording, name)()) == expected
    empty = getattr(EMPTY, name)()
    assert empty.empty
    assert empty["conn" if "conn" in empty else "wake"].tolist() == []


def test_empty_category_columns_have_string_categories() -> None:
    """They can be compared and joined like others."""
    for function in (Recording.events, Recording.wakeups, Recording.connections):
        assert function(EMPTY)["error"].cat.categories.dtype == pd.Index([], dtype="str").dtype
    assert list(EMPTY.events()["op"].cat.categories) == [op.label for op in Op]


# ---- journeys ----------------------------------------------------------------


def client_frame(*rows: dict[str, Any]) -> pd.DataFrame:
    """Client requests, with plausible values for omitted columns."""
    base = {"process": 0, "status": 200, "n_bytes": 7, "error": None}
    full = [{**base, **row} for row in rows]
    columns = {
        name: pd.Series([row[name] for row in full], dtype="str" if dtype == "category" else dtype)
        for name, dtype in frames.CLIENT_REQUESTS.items()
    }
    return pd.DataFrame(columns).astype(frames.CLIENT_REQUESTS)


def seen_by_client(requests: pd.DataFrame, *, lead_ns: int = 50) -> pd.DataFrame:
    """The client's rows for these requests."""
    rows = []
    for row in requests.itertuples():
        begun = int(row.handled_ns) - lead_ns
        rows.append(
            {
                "conn": 1000 + row.conn,
                "request": row.request,
                "local_port": row.peer_port,
                "intended_ns": begun - 20,
                "connected_ns": begun - 10,
                "sent_ns": begun,
                "first_byte_ns": int(row.answered_ns) - 3,
                "done_ns": int(row.answered_ns) + 30,
            }
        )
    return client_frame(*rows)


def test_a_journey_is_the_sum_of_its_spans() -> None:
    """Every nanosecond from intended to done is in one span."""
    recording = served(4, 6, lifecycle="howto")
    clients = seen_by_client(recording.requests(), lead_ns=20_000)
    frame = frames.journeys(recording.requests(), clients)
    assert len(frame) == len(clients) > 5
    assert frame[SPANS].sum(axis=1).tolist() == frame["total"].tolist()
    assert frame["deliver"].tolist() == [-3] * len(frame)
    assert frame["waiting"].tolist() == [20] * len(frame)
    assert frame["intended_ns"].is_monotonic_increasing


def requests_with_a_reused_port() -> pd.DataFrame:
    """The server's requests of two connections, one after the other, from one port."""
    script = Script(start_ns=0, call_ns=10, pause_ns=0)
    for conn in (1, 2):
        script.after(10_000).wait(1).ready(0).accept(conn, port=5000)
        script.wait(1).ready(conn).recv(conn, 5).handle(conn, 7).send(conn, 7).close(conn)
    return script.recording().requests()


def test_a_reused_port_joins_the_right_connection() -> None:
    """Two connections from one port are distinguished by when they were established."""
    requests = requests_with_a_reused_port()
    clients = seen_by_client(requests)
    joined = frames.journeys(requests, clients)
    assert joined["conn"].tolist() == [1, 2]
    assert (joined["total"] < 1000).all()
    for conn in (1, 2):
        one = clients[clients["conn"] == 1000 + conn]
        assert frames.journeys(requests, one)["conn"].tolist() == [conn]


def test_an_earlier_run_on_the_same_port_does_not_join() -> None:
    """The client had its response before the server handled this request."""
    script = Script(start_ns=10_000, call_ns=10, pause_ns=0).wait(1).ready(0)
    script.accept(1, port=5000).recv(1, 5).handle(1, 7).send(1, 7)
    earlier = {"conn": 1, "request": 0, "local_port": 5000, "intended_ns": 90}
    earlier |= {"connected_ns": 100, "sent_ns": 110, "first_byte_ns": 150, "done_ns": 160}
    assert frames.journeys(script.recording().requests(), client_frame(earlier)).empty


def test_a_request_that_timed_out_does_not_join_a_later_connection() -> None:
    """A client connection joins one server connection: the first after it was made."""
    requests = requests_with_a_reused_port()
    clients = seen_by_client(requests)[:1]
    clients[["first_byte_ns", "done_ns"]] = pd.NA
    assert frames.journeys(requests, clients)["conn"].tolist() == [1]


def test_requests_that_one_side_did_not_record_are_left_out() -> None:
    """Lost accept rows, requests never sent, and other ports."""
    recording = served(3, 12)
    whole = recording.requests()
    assert set(frames.journeys(whole, seen_by_client(whole))["conn"]) == {1, 2, 3}
    whole.loc[whole["conn"] == 1, "peer_port"] = pd.NA
    clients = seen_by_client(recording.requests())
    clients.loc[clients["local_port"] == 40_002, ["connected_ns", "sent_ns"]] = pd.NA
    assert set(frames.journeys(whole, clients)["conn"]) == {3}


def test_a_request_without_a_response_has_missing_spans() -> None:
    recording = Script().wait(1).ready(0).accept(1).recv(1, 5).handle(1, 7).recording()
    handled = int(recording.requests()["handled_ns"][0])
    asked = {"conn": 9, "request": 0, "local_port": 40_001, "intended_ns": handled - 90}
    asked |= {"connected_ns": handled - 90, "sent_ns": handled - 80, "status": pd.NA}
    clients = client_frame(asked | {"first_byte_ns": pd.NA, "done_ns": pd.NA, "error": "timeout"})
    frame = frames.journeys(recording.requests(), clients)
    assert frame["waiting"].tolist() == [10]
    assert frame[["send", "deliver", "total"]].isna().all(axis=None)


def test_empty_journeys_have_the_same_dtypes() -> None:
    recording = served(2, 3)
    clients = seen_by_client(recording.requests())
    full = dtypes(frames.journeys(recording.requests(), clients))
    assert dtypes(frames.journeys(EMPTY.requests(), clients)) == full
    assert dtypes(frames.journeys(recording.requests(), clients[:0])) == full
    assert dtypes(frames.journeys(EMPTY.requests(), clients[:0])) == full
    assert list(full)[:3] == ["conn", "request", "local_port"]
    assert set(list(full.values())[3:]) == {"Int64"}


def test_journeys_name_missing_columns() -> None:
    with pytest.raises(ValueError, match=r"^clients\b.*process"):
        frames.journeys(EMPTY.requests(), pd.DataFrame({"conn": [1]}))


# ---- the interest list -------------------------------------------------------


class Entry(NamedTuple):
    """An entry as kernel.interest_list returns it, without unused fields."""

    fd: int
    mask: int
    data: int = 0
    inode: int = 1


def test_entries_are_in_one_list_or_in_both() -> None:
    entries = [Entry(9, mask_of("IN|ET"), data=2**64 - 1), Entry(5, mask_of("IN|ERR|HUP"))]
    frame = frames.interest_list(entries, {5: mask_of("IN"), 7: mask_of("OUT")})
    assert frame["fd"].tolist() == [5, 7, 9]
    assert frame["where"].tolist() == ["both", "program only", "kernel only"]
    assert frame["kernel_names"].tolist() == ["IN|ERR|HUP", "", "IN|ET"]
    assert frame["own_names"].tolist() == ["IN", "OUT", ""]
    assert frame["data"][2] == 2**64 - 1


def test_an_inode_distinguishes_two_entries_with_one_number() -> None:
    """The program's table refers to the file that the number names now."""
    entries = [Entry(5, 1, inode=10), Entry(5, 1, inode=20)]
    frame = frames.interest_list(entries, {5: 1}, inodes={5: 20})
    assert frame["where"].tolist() == ["kernel only", "both"]
    assert frames.interest_list(entries, {5: 1})["where"].tolist() == ["both", "both"]


def test_interest_lists_have_the_documented_columns() -> None:
    empty = frames.interest_list([], {})
    assert empty.empty
    for frame in (empty, frames.interest_list([Entry(5, 1)], {})):
        assert dtypes(frame) == documented(schema.INTEREST)


def test_frames_are_writable_copies() -> None:
    """The recording itself is immutable."""
    recording = served(2, 3)
    before = recording.rows
    frame = recording.events()
    frame["t_ns"] += 1
    assert recording.rows == before
    assert np.array_equal(recording.events()["t_ns"] + 1, frame["t_ns"])
