"""Recordings as traces for Perfetto and chrome://tracing.

The loop and each connection have a track. Waits and calls are slices, ready descriptors
are instants, and arrows lead from a client's send to the server's handling of it. The
format is described in "Trace Event Format" (the Chromium project's Catapult
documentation). Its times are microseconds with a fraction; these keep every nanosecond,
counted from the first record, whose own time is in ``otherData``.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from epolllab.events import FOREVER, Op, error_name, mask_names, operation_name
from epolllab.frames.columns import BYTES_OPS, NO_CALL_OPS, check_operations
from epolllab.frames.completions import as_calls
from epolllab.recording import environment, storage

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["write"]


class _Records(Protocol):
    """The part of a Recording that a trace is made of."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    @property
    def overwritten(self) -> int: ...

    def array(self) -> "NDArray[Any]": ...


SERVER = 1
"""Process id of the server in the trace; the clients follow."""

GZIP_LEVEL = 3
_CATEGORY = {op: op.label for op in NO_CALL_OPS}
_SLICE = (
    '{"ph":"X","name":"%s","cat":"%s","pid":%d,"tid":%%d,"ts":%%d.%%03d,"dur":%%d.%%03d,'
    '"args":{"wake":%%d,"fd":%%d,%%s}}'
)
_INSTANT = (
    '{"ph":"i","s":"t","name":"ready %%s","cat":"ready","pid":%d,"tid":%%d,"ts":%%d.%%03d,'
    '"args":{"wake":%%d,"fd":%%d,"mask":"%%s"}}'
)
_FLOW = '{"ph":"%s","name":"request","cat":"request","id":%d,"pid":%d,"tid":%d,"ts":%d.%03d%s}'
_ENCLOSING = ',"bp":"e"'  # the arrow ends at the slice around it, not at the next one


def write(recording: _Records, target: Path, clients: Sequence[_Records] = ()) -> Path:
    """Write a recording, and those of its clients, as one trace; see ``Recording.to_trace``."""
    environment.require_same_boot(recording.metadata, *(one.metadata for one in clients))
    processes: list[_Process] = []
    for one in (recording, *clients):
        first_track = processes[-1].next_track if processes else 1
        processes.append(_Process(SERVER + len(processes), one, first_track))
    begin = min((int(p.array["start_ns"].min()) for p in processes if len(p.array)), default=0)
    other = {
        "begin_ns": begin,
        "overwritten": recording.overwritten,
        "circumstances": environment.summary(recording.metadata),
        "metadata": dict(recording.metadata),
    }
    lines = [line for p in processes for line in (*_names(p), *_events(p, begin))]
    lines.extend(_flows(processes, begin))
    head, body = json.dumps(other, ensure_ascii=False), ",\n".join(lines)
    text = f'{{"displayTimeUnit":"ns","otherData":{head},"traceEvents":[\n{body}\n]}}\n'
    data = text.encode()
    if target.suffix.lower() == ".gz":
        # Without the time in its header, the same recording gives the same bytes.
        data = gzip.compress(data, GZIP_LEVEL, mtime=0)
    with storage.write_atomically([target]) as (temporary,):
        temporary.write_bytes(data)
    return target


class _Process:
    """One recording as a process of the trace, with its tracks."""

    def __init__(self, pid: int, recording: _Records, first_track: int) -> None:
        self.pid = pid
        self.metadata = recording.metadata
        self.array = check_operations(recording.array())
        self.calls = as_calls(self.array)
        serials = np.unique(self.array["conn"])
        if not len(serials) or serials[0]:  # the loop, 0, always has the first track
            serials = np.append(np.uint32(0), serials)
        self.serials = serials
        self.first_track = first_track
        self.next_track = first_track + len(serials)

    def track(self, conn: Any) -> Any:
        """Track of a connection, or of each connection of an array."""
        return self.first_track + np.searchsorted(self.serials, conn)

    def title(self) -> str:
        found = self.metadata
        if self.pid != SERVER:
            return f"clients {found.get('process', self.pid - SERVER - 1)}"
        kind = [str(found[key]) for key in ("poller", "trigger", "lifecycle") if found.get(key)]
        pid = f", pid {found['pid']}" if "pid" in found else ""
        return " ".join(["server", *kind]) + pid


def _names(process: _Process) -> Iterator[str]:
    """Events that name the process and its tracks."""
    rows = process.calls
    rows = rows[np.isin(rows["op"], (Op.ACCEPT, Op.CONNECT)) & (rows["mask"] > 0)]
    # The client's port, which both sides know.
    ports = dict(zip(rows["conn"].tolist(), rows["mask"].tolist(), strict=True))

    def named(what: str, tid: int, key: str, value: object) -> str:
        event = {"ph": "M", "name": what, "pid": process.pid, "tid": tid, "ts": 0}
        return json.dumps({**event, "args": {key: value}}, separators=(",", ":"))

    yield named("process_name", process.first_track, "name", process.title())
    yield named("process_sort_index", process.first_track, "sort_index", process.pid)
    for place, serial in enumerate(process.serials.tolist()):
        port = f", port {ports[serial]}" if serial in ports else ""
        name = f"conn {serial}{port}" if serial else "loop"
        yield named("thread_name", process.first_track + place, "name", name)
        yield named("thread_sort_index", process.first_track + place, "sort_index", place)


def _events(process: _Process, begin: int) -> Iterator[str]:
    """Every record, one operation after the other: viewers sort by time."""
    array = process.array
    for number in np.unique(array["op"]).tolist():
        op = Op(number)
        rows = array[array["op"] == number]
        own = [process.track(rows["conn"]).tolist(), *_micros(rows["start_ns"] - begin)]
        where = [rows["wake"].tolist(), rows["fd"].tolist()]
        if op is Op.READY:
            names = _masks(rows["mask"])
            template = _INSTANT % process.pid
            columns = [names, *own, *where, names]
        else:
            template = _SLICE % (op.label, _CATEGORY.get(op, "call"), process.pid)
            took = _micros(rows["end_ns"] - rows["start_ns"])
            results = _results(op, rows)
            if op is Op.HANDLE:
                results = _meanings(rows["mask"], process.metadata.get("targets", ()), results)
            columns = [*own, *took, *where, results]
        yield from map(template.__mod__, zip(*columns, strict=True))


def _micros(ns: "NDArray[Any]") -> list[list[int]]:
    """Whole microseconds, and the remaining nanoseconds."""
    whole, rest = np.divmod(ns, 1000)
    return [whole.tolist(), rest.tolist()]


def _masks(masks: "NDArray[Any]") -> list[str]:
    names = {mask: mask_names(mask) for mask in np.unique(masks).tolist()}
    return [names[mask] for mask in masks.tolist()]


def _results(op: Op, rows: "NDArray[Any]") -> list[str]:
    """Arguments and result of each call, as the inside of a JSON object."""
    results = rows["result"].tolist()
    errors = {r: f'"error":"{error_name(-r)}"' for r in set(results) if r < 0}
    key = "n_bytes" if op in BYTES_OPS else "n_returned" if op is Op.WAIT else "result"
    returned = [errors[r] if r < 0 else f'"{key}":{r}' for r in results]
    masks = rows["mask"].tolist()
    if op is Op.WAIT:
        timeouts = ["null" if m == FOREVER else f"{m / 1000:g}" for m in masks]
        return [f'"timeout_ms":{t},{r}' for t, r in zip(timeouts, returned, strict=True)]
    if op in (Op.REGISTER, Op.MODIFY):
        interests = _masks(rows["mask"])
        return [f'"interest":"{m}",{r}' for m, r in zip(interests, returned, strict=True)]
    if op in (Op.SUBMIT, Op.COMPLETE):
        words = [operation_name(mask & 0xFFFF) for mask in masks]
        rest = zip(words, rows["request"].tolist(), returned, strict=True)
        return [f'"operation":"{word}","request":{number},{r}' for word, number, r in rest]
    if op in (Op.ACCEPT, Op.CONNECT):
        return [f'"port":{p},{r}' for p, r in zip(masks, returned, strict=True)]
    return returned


def _meanings(masks: "NDArray[Any]", targets: Sequence[str], results: Sequence[str]) -> list[str]:
    """The status and the target of handled requests, where they are known, and the results."""
    words = {0: ""}
    for mask in np.unique(masks).tolist():
        status, number = mask & 0xFFFF, mask >> 16
        words[mask] = f'"status":{status},' if status else ""
        if 0 < number < len(targets):
            words[mask] += f'"target":{json.dumps(targets[number])},'
    return [words[mask] + result for mask, result in zip(masks.tolist(), results, strict=True)]


def _flows(processes: Sequence[_Process], begin: int) -> Iterator[str]:
    """Arrows from the client's last send before each handling to that handling."""
    clients = processes[1:]
    # A port identifies a client's connection until the connection is closed, but not if the
    # clients have several source addresses.
    if not clients or any(p.metadata.get("source_addresses") not in (None, 1) for p in clients):
        return
    found = _requests(processes[0].calls, [p.array for p in clients])
    columns = (found[name].astype("i8").tolist() for name in ("conn", "client", "sent", "t_ns"))
    for number, (serial, client, sent_ns, handled_ns) in enumerate(zip(*columns, strict=True), 1):
        for phase, which, conn, at, how in (
            ("s", client >> 32, client & 0xFFFF_FFFF, sent_ns, ""),
            ("f", 0, serial, handled_ns, _ENCLOSING),
        ):
            process = processes[which]
            track = int(process.track(conn))
            yield _FLOW % (phase, number, process.pid, track, *divmod(at - begin, 1000), how)


def _requests(server: "NDArray[Any]", clients: "Sequence[NDArray[Any]]") -> pd.DataFrame:
    """A row for each handling whose client is known: ``conn, t_ns, client, sent``.

    ``client`` is the number of the client process << 32 | its connection.
    """
    connects, sends = (
        pd.concat(_calls(array, n, op) for n, array in enumerate(clients, 1)).sort_values("t_ns")
        for op in (Op.CONNECT, Op.SEND)
    )
    rows = server[(server["op"] == Op.ACCEPT) & (server["result"] >= 0)]
    accepts = pd.DataFrame({"conn": rows["conn"], "mask": rows["mask"], "t_ns": rows["end_ns"]})
    connects = connects[["client", "mask", "t_ns"]]
    pairs = pd.merge_asof(accepts.sort_values("t_ns"), connects, on="t_ns", by="mask")
    pairs = pairs.dropna(subset="client").astype({"client": "int64"})
    rows = server[server["op"] == Op.HANDLE]
    handles = pd.DataFrame({"conn": rows["conn"], "t_ns": rows["start_ns"]})
    handles = handles.merge(pairs[["conn", "client"]], on="conn").sort_values("t_ns")
    sends = sends[sends["result"] > 0][["client", "t_ns"]].assign(sent=lambda f: f["t_ns"])
    return pd.merge_asof(handles, sends, on="t_ns", by="client").dropna(subset="sent")


def _calls(array: "NDArray[Any]", process: int, op: Op) -> pd.DataFrame:
    rows = array[array["op"] == op]
    client = rows["conn"].astype("i8") | process << 32
    return pd.DataFrame(
        {"client": client, "t_ns": rows["start_ns"], "mask": rows["mask"], "result": rows["result"]}
    )
