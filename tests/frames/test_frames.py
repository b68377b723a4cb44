"""Frames: recordings interpreted, held against hand-written cases and a slow reference."""

import errno
import math
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epolllab import frames
from epolllab.events import RECORD, Op
from epolllab.recording.recording import Recording
from tests.samples import Script, mask_of, random_server, served

EMPTY = Recording(b"")

EVENTS = {
    "t_ns": "int64",
    "dur_ns": "int64",
    "wake": "int64",
    "position": "int32",
    "conn": "int32",
    "fd": "int32",
    "op": "category",
    "mask": "uint32",
    "mask_names": "category",
    "n_bytes": "int32",
    "error": "category",
}
WAKEUPS = {
    "wake": "int64",
    "t_ns": "int64",
    "waited_ns": "int64",
    "timeout_ms": "float64",
    "n_returned": "int32",
    "n_calls": "int32",
    "handled_ns": "int64",
    "gap_ns": "Int64",
    "error": "category",
}
REQUESTS = {
    "conn": "int32",
    "request": "int32",
    "peer_port": "Int32",
    "woken_ns": "Int64",
    "ready_ns": "Int64",
    "first_ready_ns": "Int64",
    "read_ns": "Int64",
    "handled_ns": "int64",
    "answered_ns": "Int64",
    "n_wakeups": "int32",
    "n_recv": "int32",
    "n_send": "int32",
    "n_would_block": "int32",
    "n_epoll_ctl": "int32",
    "n_events": "int32",
    "n_bytes_in": "int64",
    "n_bytes": "int64",
}
CONNECTIONS = {
    "conn": "int32",
    "fd": "int32",
    "peer_port": "Int32",
    "accepted_ns": "Int64",
    "closed_ns": "Int64",
    "n_events": "int32",
    "n_recv": "int32",
    "n_send": "int32",
    "n_bytes_in": "int64",
    "n_bytes_out": "int64",
    "n_requests": "int32",
    "error": "category",
}
SPANS = ["waiting", "wake", "queue", "read", "handle", "send", "deliver", "receive"]


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    """Names and dtypes of a frame's columns, in order."""
    return {name: str(dtype) for name, dtype in frame.dtypes.items()}


# ---- the slow reference ------------------------------------------------------


class Row(NamedTuple):
    """A record, decoded by :mod:`struct` rather than numpy."""

    start: int
    end: int
    wake: int
    conn: int
    fd: int
    result: int
    mask: int
    op: int
    position: int


def rows_of(recording: Recording) -> list[Row]:
    """All records, in order."""
    return [Row(*fields) for fields in RECORD.iter_unpack(recording.rows)]


def finishing_places(own: list[Row], handles: list[int]) -> tuple[list[int | None], list[float]]:
    """For each request: the place of its answer's last send, and where it is over."""
    answered: list[int | None] = []
    over: list[float] = []
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
        over.append(max(end, over[-1]) if over else end)
    return answered, over


def brings_news(row: Row) -> bool:
    """Whether a row begins the next request, by rule 2 of frames.py."""
    return row.op in (Op.READY, Op.HANDLE) or (row.op == Op.RECV and row.result > 0)


def owners(own: list[Row], handles: list[int], over: list[float]) -> list[int]:
    """Whose each row of a connection is, found by walking along it."""
    owner = []
    current = 0
    for place, row in enumerate(own):
        while current + 1 < len(handles) and place > over[current]:
            came_together = handles[current + 1] < over[current]
            if not came_together and not brings_news(row):
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
    answers = []
    for conn, numbered in of_conn.items():
        indices, own = [i for i, _ in numbered], [row for _, row in numbered]
        handles = [at for at, row in enumerate(own) if row.op == Op.HANDLE]
        if not handles:
            continue
        ports = [row.mask for row in own if row.op == Op.ACCEPT]
        answered, over = finishing_places(own, handles)
        whose = owners(own, handles, over)
        for k, handle in enumerate(handles):
            mine = [row for row, owner in zip(own, whose, strict=True) if owner == k]
            answer = {
                "conn": conn,
                "request": k,
                "peer_port": ports[0] if ports else None,
                **slow_instants(everything, indices, own, handle, mine),
                "handled_ns": own[handle].end,
                "answered_ns": None if answered[k] is None else own[answered[k]].end,
                **slow_counts(mine),
                "n_bytes": max(own[handle].result, 0),
            }
            answers.append((indices[handle], answer))
    return [answer for _, answer in sorted(answers, key=lambda pair: pair[0])]


def slow_instants(
    everything: list[Row], indices: list[int], own: list[Row], handle: int, mine: list[Row]
) -> dict[str, Any]:
    """When the loop was woken for, turned to, and read a request."""
    woken = ready = read = None
    for at in range(handle):
        if own[at].op == Op.RECV and own[at].result > 0:
            last = own[at]
            read, ready, woken = last.end, last.start, None
            for turn in own[:at]:
                if turn.op == Op.READY and turn.wake == last.wake:
                    ready = turn.start
            for row in everything[: indices[at]]:
                if row.op == Op.WAIT:
                    woken = row.end
    first = next((row.start for row in mine if row.op == Op.READY), None)
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
    """Rows as dictionaries of ints and None, so that no float can hide a nanosecond."""
    columns = {
        name: [None if pd.isna(value) else int(value) for value in frame[name].tolist()]
        for name in frame
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), capacity=st.integers(1, 700))
def test_requests_agree_with_a_slow_reference_also_when_the_front_is_lost(
    seed: int, capacity: int
) -> None:
    """Whatever a loop did and whatever the ring lost, both ways give the same rows."""
    recording = random_server(seed, n_steps=40, capacity=capacity)
    frame = recording.requests()
    assert dtypes(frame) == REQUESTS
    assert plain(frame) == slow_requests(recording)


def test_random_recordings_reach_what_they_are_meant_to() -> None:
    """The reference means something: pipelining, lost fronts and partial sends occur."""
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
def test_totals_over_requests_are_totals_over_connections(seed: int) -> None:
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


def test_the_howto_pays_four_epoll_ctl_and_four_events_a_request() -> None:
    """Its shutdown, unregister and close count, and the fourth event is the listener's."""
    recording = howto(howto(Script(), 1), 2).recording()
    frame = recording.requests()
    assert frame["n_epoll_ctl"].tolist() == [4, 4]
    assert frame["n_wakeups"].tolist() == [4, 4]
    assert frame["n_events"].tolist() == [3, 3]
    assert (recording.events()["op"] == "ready").sum() == 4 * len(frame)


def test_eager_pays_one_epoll_ctl_a_connection() -> None:
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
    """Woken, turned to, read, handled, answered: to the nanosecond."""
    script = Script(start_ns=2**60 + 1, call_ns=10, pause_ns=1)
    script.wait(2, ns=1000).ready(2).recv(2, 5).ready(1).recv(1, 5).handle(1, 7).send(1, 7)
    only = script.recording().requests().iloc[0]
    t = 2**60 + 1
    assert only["woken_ns"] == t + 1000
    assert only["ready_ns"] == only["first_ready_ns"] == t + 1000 + 1 + 1 + 11
    assert only["read_ns"] == only["ready_ns"] + 1 + 10
    assert only["handled_ns"] == only["read_ns"] + 1 + 10
    assert only["answered_ns"] == only["handled_ns"] + 1 + 10


def test_a_request_that_came_in_pieces_is_woken_for_by_its_last() -> None:
    """The first ready row is kept apart from the one that brought the last bytes."""
    script = Script().wait(1).ready(1).recv(1, 5).recv_blocked(1)
    script.wait(1).ready(1).recv(1, 5).handle(1, 7).send(1, 7)
    only = script.recording().requests().iloc[0]
    events = script.recording().events()
    readies = events.loc[events["op"] == "ready", "t_ns"].tolist()
    assert [only["first_ready_ns"], only["ready_ns"]] == readies
    assert only["n_would_block"] == 1
    assert only["n_bytes_in"] == 10


def test_pipelined_requests_share_rows_by_whose_answer_is_next() -> None:
    """Three requests in one recv, answered by sends that end in the middle of answers."""
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
    """Without a ready row between, a recv that returned bytes begins the next request."""
    script = Script().wait(1).ready(1, "IN")
    for _ in range(2):
        script.recv(1, 70).handle(1, 150).send(1, 150)
    script.recv_blocked(1)
    frame = script.recording().requests()
    assert frame["n_recv"].tolist() == [1, 2]
    assert frame["n_send"].tolist() == [1, 1]
    assert frame["n_would_block"].tolist() == [0, 1]


def test_a_read_without_a_ready_row_dates_from_the_recv() -> None:
    """Reading straight after accept: the loop turned to the connection by itself."""
    script = Script(call_ns=10, pause_ns=0).wait(1).ready(0).accept(1).recv(1, 5)
    only = script.handle(1, 7).send(1, 7).recording().requests().iloc[0]
    assert only["ready_ns"] == only["first_ready_ns"] == only["read_ns"] - 10
    assert only["n_events"] == 0


def test_an_answer_that_was_never_sent_has_no_time() -> None:
    """A reset before the answer leaves answered_ns missing, and the row there."""
    script = Script().wait(1).ready(1).recv(1, 5).handle(1, 100).send(1, 60)
    script.send(1, -errno.EPIPE).close(1)
    only = script.recording().requests().iloc[0]
    assert pd.isna(only["answered_ns"])
    assert only["n_send"] == 2


def test_a_connection_without_a_complete_request_has_no_row() -> None:
    """It is in connections(), which is where to look for it."""
    recording = Script().wait(1).ready(0).accept(1).register(1).wait(1).ready(1).recv(1, 5)
    assert recording.recording().requests().empty
    assert recording.recording().connections()["n_bytes_in"].tolist() == [5]


def test_requests_come_in_the_order_of_handling() -> None:
    """Connections interleave as the loop handled them."""
    script = Script()
    for conn in (2, 1, 3, 1):
        script.wait(1).ready(conn).recv(conn, 5).handle(conn, 7).send(conn, 7)
    frame = script.recording().requests()
    assert frame["conn"].tolist() == [2, 1, 3, 1]
    assert frame["request"].tolist() == [0, 0, 0, 1]


# ---- events ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_events_are_the_records(seed: int) -> None:
    """Column by column what struct decodes, over more than one piece of the fill."""
    recording = random_server(seed, n_steps=300)
    recording = Recording(recording.rows * (40_000 // len(recording) + 1))
    frame = recording.events()
    rows = rows_of(recording)
    assert len(frame) > 1 << 15
    assert frame["t_ns"].tolist() == [row.start for row in rows]
    assert frame["dur_ns"].tolist() == [row.end - row.start for row in rows]
    assert frame["wake"].tolist() == [row.wake for row in rows]
    assert frame["conn"].tolist() == [row.conn for row in rows]
    assert frame["fd"].tolist() == [row.fd for row in rows]
    assert frame["op"].tolist() == [Op(row.op).label for row in rows]
    assert frame["position"].tolist() == [
        -1 if row.position == 0xFFFF else row.position for row in rows
    ]
    assert frame["error"].isna().tolist() == [row.result >= 0 for row in rows]


def test_a_mask_is_shown_only_where_it_is_one() -> None:
    """The physical field also holds timeouts and ports, which are no masks."""
    script = Script().wait(1, timeout_ms=1.0).ready(0, "IN").accept(1).register(1, "IN|ET")
    script.wait(1).ready(1, "0").modify(1, "OUT")
    frame = script.recording().events()
    assert frame["mask_names"].tolist() == ["", "IN", "", "IN|ET", "", "0", "OUT"]
    assert frame["mask"].tolist() == [0, 1, 0, mask_of("IN|ET"), 0, 0, 4]


def test_bytes_and_errors_share_no_row() -> None:
    """A result is bytes, or an errno, or neither, by operation."""
    script = Script().wait(1).ready(0).accept(7).recv(7, 10).send_blocked(7).handle(7, 12)
    frame = script.send(7, 12).recv(7, -errno.ECONNRESET).recording().events()
    assert frame["n_bytes"].tolist() == [0, 0, 0, 10, 0, 12, 12, 0]
    assert frame["error"].dropna().to_dict() == {4: "EAGAIN", 7: "ECONNRESET"}


def test_an_unknown_operation_is_refused() -> None:
    """A record of a later version says so, rather than being shown as something else."""
    row = RECORD.pack(1, 2, 1, 1, 5, 0, 0, 99, 0)
    with pytest.raises(ValueError, match=r"operation 99.*upgrade epolllab"):
        Recording(row).events()


# ---- wake-ups ----------------------------------------------------------------


def test_wakeups_say_how_long_the_loop_slept_and_worked() -> None:
    """A wait that was woken, one that timed out, one interrupted, one with no timeout."""
    script = Script(call_ns=10, pause_ns=1)
    script.wait(1, timeout_ms=2.5, ns=500).ready(1).recv(1, 5).handle(1, 7).send(1, 7).after(4)
    script.wait(0, timeout_ms=0.0, ns=20).wait(-errno.EINTR, ns=30)
    frame = script.recording().wakeups()
    assert dtypes(frame) == WAKEUPS
    assert frame["wake"].tolist() == [1, 2, 3]
    assert frame["waited_ns"].tolist() == [500, 20, 30]
    assert frame["timeout_ms"].fillna(-1).tolist() == [2.5, 0.0, -1.0]
    assert frame["n_returned"].tolist() == [1, 0, 0]
    assert frame["n_calls"].tolist() == [2, 0, 0]
    assert frame["handled_ns"].tolist() == [1 + 1 + 11 + 11 + 10, 0, 0]
    assert frame["gap_ns"].fillna(-1).tolist() == [5, 1, -1]
    assert frame["error"].astype("str").fillna("").tolist() == ["", "", "EINTR"]


def test_rows_before_the_first_wait_belong_to_no_wakeup() -> None:
    """A ring cut inside a wake leaves rows whose wait is lost."""
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


def test_connections_are_told_apart_where_descriptors_are_not() -> None:
    """The same number and the same port twice are two connections."""
    script = Script(call_ns=10, pause_ns=0)
    for conn in (1, 2):
        script.wait(1).ready(0).accept(conn, port=5000).register(conn)
        script.wait(1).ready(conn).recv(conn, 5).handle(conn, 7).send(conn, 7)
    script.recv_blocked(1).recv(1, -errno.ECONNRESET).recv_blocked(1).close(1)
    frame = script.recording().connections()
    assert dtypes(frame) == CONNECTIONS
    assert frame["conn"].tolist() == [1, 2]
    assert frame["fd"].tolist() == [5, 6]
    assert frame["peer_port"].tolist() == [5000, 5000]
    assert frame["n_recv"].tolist() == [4, 1]
    assert frame["n_bytes_out"].tolist() == [7, 7]
    assert frame["error"].astype("str").fillna("").tolist() == ["ECONNRESET", ""]
    assert frame["closed_ns"].isna().tolist() == [False, True]
    assert frame["closed_ns"][0] == script.now


def test_a_connection_only_accepted_has_the_new_descriptor() -> None:
    """The accept row's own fd is the listener's."""
    frame = Script().wait(1).ready(0).accept(3).recording().connections()
    assert frame["fd"].tolist() == [7]


# ---- nothing at all ----------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "schema"),
    [
        (Recording.events, EVENTS),
        (Recording.wakeups, WAKEUPS),
        (Recording.requests, REQUESTS),
        (Recording.connections, CONNECTIONS),
    ],
)
def test_an_empty_recording_has_the_same_columns(function: Any, schema: dict[str, str]) -> None:
    """Dtypes do not depend on what happened, or whether anything did."""
    for recording in (EMPTY, served(), Script().wait(0).recording()):
        assert dtypes(function(recording)) == schema
    assert function(EMPTY).empty
    assert function(EMPTY)["conn" if "conn" in schema else "wake"].tolist() == []


def test_categories_are_strings_also_when_there_are_none() -> None:
    """An empty category column can be compared and joined like a full one."""
    for function in (Recording.events, Recording.wakeups, Recording.connections):
        assert function(EMPTY)["error"].cat.categories.dtype == "str"
    assert list(EMPTY.events()["op"].cat.categories) == [op.label for op in Op]


# ---- journeys ----------------------------------------------------------------


def client_frame(*rows: dict[str, Any]) -> pd.DataFrame:
    """Client requests with plausible values for what a test does not say."""
    base = {"process": 0, "status": 200, "n_bytes": 7, "error": None}
    full = [{**base, **row} for row in rows]
    columns = {
        name: pd.Series([row[name] for row in full], dtype="str" if dtype == "category" else dtype)
        for name, dtype in frames.CLIENT_REQUESTS.items()
    }
    return pd.DataFrame(columns).astype(frames.CLIENT_REQUESTS)


def seen_by_client(requests: pd.DataFrame, *, lead_ns: int = 50) -> pd.DataFrame:
    """Note these requests as clients would have seen them."""
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
    """Every nanosecond from the intention to the last byte is in one span."""
    recording = served(4, 6, lifecycle="howto")
    clients = seen_by_client(recording.requests(), lead_ns=20_000)
    frame = frames.journeys(recording.requests(), clients)
    assert len(frame) == len(clients) > 5
    assert frame[SPANS].sum(axis=1).tolist() == frame["total"].tolist()
    assert frame["deliver"].tolist() == [-3] * len(frame)
    assert frame["waiting"].tolist() == [20] * len(frame)
    assert frame["intended_ns"].is_monotonic_increasing


def test_a_port_used_again_joins_the_right_connection() -> None:
    """Two connections from one port are told apart by when they were established."""
    script = Script(start_ns=0, call_ns=10, pause_ns=0)
    for conn in (1, 2):
        script.after(10_000).wait(1).ready(0).accept(conn, port=5000)
        script.wait(1).ready(conn).recv(conn, 5).handle(conn, 7).send(conn, 7).close(conn)
    recording = script.recording()
    clients = seen_by_client(recording.requests())
    joined = frames.journeys(recording.requests(), clients)
    assert joined["conn"].tolist() == [1, 2]
    assert (joined["total"] < 1000).all()
    second = frames.journeys(recording.requests(), clients[clients["conn"] == 1002])
    assert second["conn"].tolist() == [2]
    first = frames.journeys(recording.requests(), clients[clients["conn"] == 1001])
    assert first["conn"].tolist() == [1]


def test_an_earlier_run_on_the_same_port_is_not_mistaken_for_this_one() -> None:
    """The client's answer came before the server handled this request: not its own."""
    script = Script(start_ns=10_000, call_ns=10, pause_ns=0).wait(1).ready(0)
    script.accept(1, port=5000).recv(1, 5).handle(1, 7).send(1, 7)
    earlier = {"conn": 1, "request": 0, "local_port": 5000, "intended_ns": 90}
    earlier |= {"connected_ns": 100, "sent_ns": 110, "first_byte_ns": 150, "done_ns": 160}
    assert frames.journeys(script.recording().requests(), client_frame(earlier)).empty


def test_a_request_that_timed_out_is_not_given_a_later_connection() -> None:
    """One client connection has one at the server: the first after it was made."""
    script = Script(start_ns=0, call_ns=10, pause_ns=0)
    for conn in (1, 2):
        script.after(10_000).wait(1).ready(0).accept(conn, port=5000)
        script.wait(1).ready(conn).recv(conn, 5).handle(conn, 7).send(conn, 7).close(conn)
    clients = seen_by_client(script.recording().requests())[:1]
    clients[["first_byte_ns", "done_ns"]] = pd.NA
    assert frames.journeys(script.recording().requests(), clients)["conn"].tolist() == [1]


def test_what_one_side_does_not_know_is_not_a_journey() -> None:
    """Lost accept rows, requests never sent and other ports leave no row."""
    recording = served(3, 12)
    whole = recording.requests()
    assert set(frames.journeys(whole, seen_by_client(whole))["conn"]) == {1, 2, 3}
    whole.loc[whole["conn"] == 1, "peer_port"] = pd.NA
    clients = seen_by_client(recording.requests())
    clients.loc[clients["local_port"] == 40_002, ["connected_ns", "sent_ns"]] = pd.NA
    assert set(frames.journeys(whole, clients)["conn"]) == {3}


def test_a_request_without_an_answer_keeps_its_journey_so_far() -> None:
    """Missing instants make missing spans, not a missing row."""
    recording = Script().wait(1).ready(0).accept(1).recv(1, 5).handle(1, 7).recording()
    handled = int(recording.requests()["handled_ns"][0])
    asked = {"conn": 9, "request": 0, "local_port": 40_001, "intended_ns": handled - 90}
    asked |= {"connected_ns": handled - 90, "sent_ns": handled - 80, "status": pd.NA}
    clients = client_frame(asked | {"first_byte_ns": pd.NA, "done_ns": pd.NA, "error": "timeout"})
    frame = frames.journeys(recording.requests(), clients)
    assert frame["waiting"].tolist() == [10]
    assert frame[["send", "deliver", "total"]].isna().all(axis=None)


def test_journeys_have_their_columns_when_nothing_joins() -> None:
    """Empty on either side or on both: the same dtypes as a full frame."""
    recording = served(2, 3)
    clients = seen_by_client(recording.requests())
    full = dtypes(frames.journeys(recording.requests(), clients))
    assert dtypes(frames.journeys(EMPTY.requests(), clients)) == full
    assert dtypes(frames.journeys(recording.requests(), clients[:0])) == full
    assert dtypes(frames.journeys(EMPTY.requests(), clients[:0])) == full
    assert list(full)[:3] == ["conn", "request", "local_port"]
    assert set(list(full.values())[3:]) == {"Int64"}


def test_a_frame_of_something_else_is_refused() -> None:
    """The columns that are missing are named."""
    with pytest.raises(ValueError, match=r"no column process, .*run_clients"):
        frames.journeys(EMPTY.requests(), pd.DataFrame({"conn": [1]}))


# ---- the interest list -------------------------------------------------------


class Entry(NamedTuple):
    """As kernel.interest_list gives it, less what is not used here."""

    fd: int
    mask: int
    data: int = 0
    inode: int = 1


def test_a_ghost_stands_in_the_kernels_list_only() -> None:
    """Both lists side by side, in order of descriptor."""
    entries = [Entry(9, mask_of("IN|ET"), data=2**64 - 1), Entry(5, mask_of("IN|ERR|HUP"))]
    frame = frames.interest_list(entries, {5: mask_of("IN"), 7: mask_of("OUT")})
    assert frame["fd"].tolist() == [5, 7, 9]
    assert frame["where"].tolist() == ["both", "program only", "kernel only"]
    assert frame["kernel_names"].tolist() == ["IN|ERR|HUP", "", "IN|ET"]
    assert frame["own_names"].tolist() == ["IN", "OUT", ""]
    assert frame["data"][2] == 2**64 - 1


def test_an_inode_tells_a_ghost_from_the_new_owner_of_its_number() -> None:
    """Two entries under one number, of which the program means one."""
    entries = [Entry(5, 1, inode=10), Entry(5, 1, inode=20)]
    frame = frames.interest_list(entries, {5: 1}, inodes={5: 20})
    assert frame["where"].tolist() == ["kernel only", "both"]
    assert frames.interest_list(entries, {5: 1})["where"].tolist() == ["both", "both"]


def test_an_empty_interest_list_has_its_dtypes() -> None:
    """Nothing registered looks like something registered, without rows."""
    empty = frames.interest_list([], {})
    assert empty.empty
    assert dtypes(empty) == dtypes(frames.interest_list([Entry(5, 1)], {}))


def test_frames_are_made_without_touching_the_recording() -> None:
    """A recording is immutable; its frames are writable copies."""
    recording = served(2, 3)
    before = recording.rows
    frame = recording.events()
    frame["t_ns"] += 1
    assert recording.rows == before
    assert np.array_equal(recording.events()["t_ns"] + 1, frame["t_ns"])
