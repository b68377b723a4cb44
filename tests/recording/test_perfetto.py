"""Traces for Perfetto and chrome://tracing, checked against the documented format."""

import gzip
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import epolllab
from epolllab import Recording
from epolllab.events import Op
from epolllab.recording import perfetto
from tests.samples import Script, random_server, served

# "Trace Event Format", by phase: fields that an event must have, and those it may have.
COMMON = {"name", "ph", "pid", "tid", "ts"}
FIELDS = {
    "X": (COMMON | {"dur"}, {"cat", "args"}),
    "i": (COMMON | {"s"}, {"cat", "args"}),
    "s": (COMMON | {"id", "cat"}, set()),
    "f": (COMMON | {"id", "cat"}, {"bp"}),
    "M": ({"name", "ph", "pid", "args"}, {"tid", "ts"}),
}
METADATA = {
    "process_name": ("name", str),
    "process_sort_index": ("sort_index", int),
    "thread_name": ("name", str),
    "thread_sort_index": ("sort_index", int),
}


def written(recording: Recording, folder: Path, client: Any = None) -> dict[str, Any]:
    """Write a trace, read it, check it, and return it."""
    path = recording.to_trace(folder / "t.json.gz", client)
    trace: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()), parse_float=Decimal)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    assert isinstance(trace["otherData"], dict)
    for event in trace["traceEvents"]:
        required, optional = FIELDS[event["ph"]]
        assert required <= set(event) <= required | optional, event
        assert isinstance(event["name"], str)
        assert all(isinstance(event[key], int) for key in ("pid", "tid") if key in event)
        assert all(event[key] >= 0 for key in ("ts", "dur") if key in event)
        assert event.get("s", "t") in ("g", "p", "t")
        assert event.get("bp", "e") == "e"
        if event["ph"] == "M":
            key, kind = METADATA[event["name"]]
            assert isinstance(event["args"][key], kind)
    check_flows(trace["traceEvents"])
    return trace


def check_flows(events: list[dict[str, Any]]) -> None:
    """Each flow begins once and ends once, later, both within a slice of its track."""
    slices: dict[tuple[int, int], list[tuple[Decimal, Decimal]]] = {}
    for event in events:
        if event["ph"] == "X":
            span = (event["ts"], event["ts"] + event["dur"])
            slices.setdefault((event["pid"], event["tid"]), []).append(span)
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    starts = {e["id"]: e for e in events if e["ph"] == "s"}
    assert len(starts) == sum(e["ph"] == "s" for e in events)
    assert starts.keys() == ends.keys()
    for number, start in starts.items():
        assert start["ts"] <= ends[number]["ts"]
        for event in (start, ends[number]):
            around = slices[event["pid"], event["tid"]]
            assert any(first <= event["ts"] <= last for first, last in around)


def test_a_track_for_the_loop_and_one_for_each_connection(tmp_path: Path) -> None:
    """Waits are the loop's, calls their connection's, each with its own name."""
    recording = served(n_conns=3)
    trace = written(recording, tmp_path)
    events = trace["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert list(names.values()) == [
        "loop", "conn 1, port 40001", "conn 2, port 40002", "conn 3, port 40003",
    ]  # fmt: skip
    waits = {names[e["tid"]] for e in events if e["name"] == "wait"}
    reads = {names[e["tid"]].partition(",")[0] for e in events if e["name"] == "recv"}
    assert waits == {"loop"}
    assert reads == {"conn 1", "conn 2", "conn 3"}


def test_every_record_is_exact_to_the_nanosecond(tmp_path: Path) -> None:
    """As many slices and instants as records, with their own times and results."""
    script = Script(start_ns=2**60 + 1, call_ns=1234)
    script.wait(1, timeout_ms=1.5).ready(1, "IN|HUP").recv(1, 10).recv_blocked(1)
    script.handle(1, 7, status=404, target=1).modify(1, "OUT").wait(-4)
    recording = script.recording({"targets": ["", '/"a']})
    trace = written(recording, tmp_path)
    events = [e for e in trace["traceEvents"] if e["ph"] != "M"]
    assert len(events) == len(recording)
    begin = trace["otherData"]["begin_ns"]
    assert begin == 2**60 + 1
    times = sorted((int(e["ts"] * 1000) + begin, int(e.get("dur", 0) * 1000)) for e in events)
    array = recording.array()
    took = array["end_ns"] - array["start_ns"]
    assert times == sorted(zip(array["start_ns"].tolist(), took.tolist(), strict=True))
    by_name: dict[str, list[dict[str, Any]]] = {}
    for event in sorted(events, key=lambda e: e["ts"]):
        by_name.setdefault(event["name"], []).append(event["args"])
    assert by_name["ready IN|HUP"][0]["mask"] == "IN|HUP"
    assert [a.get("n_bytes", a.get("error")) for a in by_name["recv"]] == [10, "EAGAIN"]
    assert by_name["modify"][0]["interest"] == "OUT"
    (handled,) = by_name["handle"]
    assert (handled["status"], handled["target"], handled["n_bytes"]) == (404, '/"a', 7)
    assert by_name["wait"][0]["timeout_ms"] == Decimal("1.5")
    assert by_name["wait"][1] == {"wake": 2, "fd": 4, "timeout_ms": None, "error": "EINTR"}


@pytest.mark.parametrize("seed", range(6))
def test_random_recordings_make_valid_traces(seed: int, tmp_path: Path) -> None:
    """Also if the ring has lost the oldest rows."""
    recording = random_server(seed, capacity=10_000 if seed % 2 else 120)
    trace = written(recording, tmp_path)
    kinds = Counter(e["name"].split()[0] for e in trace["traceEvents"] if e["ph"] != "M")
    assert dict(kinds) == recording.counts()
    assert trace["otherData"]["overwritten"] == recording.overwritten


def test_an_empty_recording_is_a_trace(tmp_path: Path) -> None:
    """It has the loop's track, without events."""
    trace = written(Recording(b""), tmp_path, Recording(b""))
    assert {e["ph"] for e in trace["traceEvents"]} == {"M"}


@pytest.mark.processes
def test_requests_flow_from_the_clients_to_their_handling(tmp_path: Path) -> None:
    """Each request of a live run has one arrow, from a send of its client's process."""
    with epolllab.start_server(process=True) as server:
        run = epolllab.run_clients(
            server, connections=4, requests=40, processes=2, keep_alive=False, progress=False
        )
        recording = server.settle().recording()
    trace = written(recording, tmp_path, run)
    events = trace["traceEvents"]
    starts = [e for e in events if e["ph"] == "s"]
    assert len(starts) == len(recording.requests()) == 40
    titles = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {titles[e["pid"]] for e in starts} == {"clients 0", "clients 1"}
    assert {e["pid"] for e in events if e["ph"] == "f"} == {perfetto.SERVER}
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    for start in starts:  # both ends of a connection have the client's port in their names
        ports = {names[e["pid"], e["tid"]].split()[-1] for e in (start, ends[start["id"]])}
        assert len(ports) == 1


@pytest.mark.processes
def test_a_kept_connection_gives_each_request_its_own_send(tmp_path: Path) -> None:
    """With keep-alive the arrow begins at the request's own send, not at the first."""
    with epolllab.start_server(protocol="http") as server:
        run = epolllab.run_clients(
            server, connections=1, requests=5, keep_alive=True, progress=False
        )
        recording = server.settle().recording()
    trace = written(recording, tmp_path, run.recording())
    begin = trace["otherData"]["begin_ns"]
    sent = sorted(int(e["ts"] * 1000) + begin for e in trace["traceEvents"] if e["ph"] == "s")
    requests = run.requests()
    assert len(sent) == len(requests) == 5
    assert (requests["sent_ns"] <= sent).all()
    assert (sent <= requests["first_byte_ns"]).all()


def test_several_source_addresses_get_no_arrows(tmp_path: Path) -> None:
    """A port does not identify one connection there."""
    client = Recording(served().rows, {"source_addresses": 2})
    trace = written(served(), tmp_path, client)
    assert not [e for e in trace["traceEvents"] if e["ph"] in "sf"]


def test_the_same_recording_gives_the_same_bytes(tmp_path: Path) -> None:
    """Neither the time nor the file name is in the file."""
    paths = [served().to_trace(tmp_path / name) for name in ("a.json.gz", "b.json.gz")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths


def test_invalid_traces_are_refused(tmp_path: Path) -> None:
    """Different boots, a wrong client, an unknown operation, a missing folder; no file is left."""
    path = tmp_path / "t.json.gz"
    with pytest.raises(ValueError, match="boots"):
        Recording(b"", {"boot_id": "a"}).to_trace(path, Recording(b"", {"boot_id": "b"}))
    with pytest.raises(TypeError, match=r"^client\b"):
        Recording(b"").to_trace(path, "client")  # type: ignore[arg-type]
    unknown = Script().call(Op.WAIT, 0, 0).recording()
    rows = bytearray(unknown.rows)
    rows[36:38] = (999).to_bytes(2, "little")
    with pytest.raises(ValueError, match="999"):
        Recording(bytes(rows)).to_trace(path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="absent"):
        served().to_trace(tmp_path / "absent" / "t.json.gz")
