"""Recordings as traces for Perfetto's page and chrome://tracing.

One job: write the JSON of Chrome's trace format, gzipped. A track for the loop and one
for each connection; waits and calls are slices, what the kernel returned are instants,
and arrows lead from a client's send to the server's handling of it.

The format is described in "Trace Event Format" (the Chromium project's Catapult
documentation). Times there are microseconds with a fraction; ours keep every
nanosecond, counted from the first record, whose own time is in ``otherData``.
"""

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from epolllab.events import FOREVER, Op, error_name, mask_names
from epolllab.frames.columns import check_operations
from epolllab.recording import environment, storage

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["events", "write"]


class Records(Protocol):
    """What is written: records with their circumstances, as a Recording has them."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Circumstances and parameters."""

    @property
    def overwritten(self) -> int:
        """Records that the ring lost."""

    def array(self) -> "NDArray[Any]":
        """The records."""

    def __len__(self) -> int:
        """Number of records."""


SERVER = 1
"""Number of the server's process in the trace; the clients' follow."""

GZIP_LEVEL = 3
_BYTES = (Op.RECV, Op.SEND, Op.READ, Op.WRITE, Op.HANDLE)
_CATEGORY = {Op.WAIT: "wait", Op.READY: "ready", Op.HANDLE: "handle"}
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


_ENDS = ("conn", "client", "sent_ns", "start_ns")


def write(
    recording: Records, path: str | os.PathLike[str], clients: Sequence[Records] = ()
) -> Path:
    """Write a recording as one gzipped trace file.

    Parameters
    ----------
    recording : Recording
        A server's, or any.
    path : path-like
        Usually ending in ``.json.gz``. A file that is there is replaced, once the new
        one is complete.
    clients : sequence of Records
        The client loops: a process of its own each, and an arrow from each request's send to
        its handling.

    Returns
    -------
    pathlib.Path
        Where it was written; open it at ui.perfetto.dev, which keeps it in the browser,
        or in chrome://tracing.

    Raises
    ------
    ValueError
        The two are of different boots, whose clocks have nothing in common; or a record
        has an operation that this version does not know.
    OSError
        The folder does not exist or cannot be written to.
    """
    target = Path(path)
    environment.require_same_boot(recording.metadata, *(one.metadata for one in clients))
    begin = _begin((recording, *clients))
    head = json.dumps(_other(recording, begin), ensure_ascii=False)
    body = ",\n".join(events(recording, clients))
    text = f'{{"displayTimeUnit":"ns","otherData":{head},"traceEvents":[\n{body}\n]}}\n'
    with storage.write_atomically([target]) as (lent,):
        # Without the time in its header, the same recording gives the same bytes.
        lent.write_bytes(gzip.compress(text.encode(), GZIP_LEVEL, mtime=0))
    return target


def events(recording: Records, clients: Sequence[Records] = ()) -> Iterator[str]:
    """Give the trace's events, each a JSON object as text.

    Parameters
    ----------
    recording : Recording
        The server's.
    clients : sequence of Recording
        One for each client loop.
    """
    everyone = (recording, *clients)
    arrays = [check_operations(one.array()) for one in everyone]
    begin = _begin(everyone)
    first_track = 1
    first_tracks = []
    for number, (one, array) in enumerate(zip(everyone, arrays, strict=True)):
        first_tracks.append(first_track)
        tracks = _tracks(array)
        yield from _names(SERVER + number, _title(number, one), array, tracks, first_track)
        yield from _of_process(SERVER + number, array, tracks, first_track, begin)
        first_track += len(tracks)
    if clients:
        yield from _flows(everyone, arrays, first_tracks, begin)


def _begin(recordings: Iterable[Records]) -> int:
    starts = [int(one.array()["start_ns"].min()) for one in recordings if len(one)]
    return min(starts, default=0)


def _other(recording: Records, begin: int) -> dict[str, Any]:
    """What a reader of the trace needs to judge it."""
    return {
        "begin_ns": begin,
        "overwritten": recording.overwritten,
        "circumstances": environment.summary(recording.metadata),
        "metadata": dict(recording.metadata),
    }


# ---- tracks ----------------------------------------------------------------------------


def _tracks(array: "NDArray[Any]") -> "NDArray[Any]":
    """Serials in the order of the tracks; the loop, which is 0, is always the first."""
    serials = np.unique(array["conn"])
    return serials if len(serials) and serials[0] == 0 else np.append(np.uint32(0), serials)


def _title(number: int, recording: Records) -> str:
    if number:
        return f"clients {recording.metadata.get('process', number - 1)}"
    told: Mapping[str, Any] = recording.metadata
    kind = " ".join(str(told[k]) for k in ("poller", "trigger", "lifecycle") if k in told)
    pid = f", pid {told['pid']}" if "pid" in told else ""
    return f"server {kind}{pid}".replace("  ", " ").strip()


def _names(
    pid: int, title: str, array: "NDArray[Any]", tracks: "NDArray[Any]", first: int
) -> Iterator[str]:
    ports = _ports(array)

    def named(what: str, tid: int, key: str, value: object) -> str:
        named = {"ph": "M", "name": what, "pid": pid, "tid": tid, "ts": 0, "args": {key: value}}
        return json.dumps(named, separators=(",", ":"))

    yield named("process_name", first, "name", title)
    yield named("process_sort_index", first, "sort_index", pid)
    for place, serial in enumerate(tracks.tolist()):
        port = f", port {ports[serial]}" if serial in ports else ""
        name = f"conn {serial}{port}" if serial else "loop"
        yield named("thread_name", first + place, "name", name)
        yield named("thread_sort_index", first + place, "sort_index", place)


def _ports(array: "NDArray[Any]") -> dict[int, int]:
    """The client's port of each connection, which both sides know."""
    rows = array[np.isin(array["op"], (Op.ACCEPT, Op.CONNECT)) & (array["mask"] > 0)]
    return dict(zip(rows["conn"].tolist(), rows["mask"].tolist(), strict=True))


# ---- slices and instants ---------------------------------------------------------------


def _of_process(
    pid: int, array: "NDArray[Any]", tracks: "NDArray[Any]", first: int, begin: int
) -> Iterator[str]:
    """Every record as text, one operation after the other: viewers sort by time."""
    tid = first + np.searchsorted(tracks, array["conn"])
    for number in np.unique(array["op"]).tolist():
        op = Op(number)
        chosen = array["op"] == number
        rows = array[chosen]
        at = _micros(rows["start_ns"] - begin)
        own = [tid[chosen].tolist(), *at]
        where = [rows["wake"].tolist(), rows["fd"].tolist()]
        if op is Op.READY:
            names = _masks(rows["mask"])
            # The name is the first of the template's holes.
            yield from map((_INSTANT % pid).__mod__, zip(names, *own, *where, names, strict=True))
            continue
        template = _SLICE % (op.label, _CATEGORY.get(op, "call"), pid)
        took = _micros(rows["end_ns"] - rows["start_ns"])
        yield from map(template.__mod__, zip(*own, *took, *where, _results(op, rows), strict=True))


def _micros(ns: "NDArray[Any]") -> list[list[int]]:
    """Whole microseconds, and the nanoseconds that are left."""
    whole, rest = np.divmod(ns, 1000)
    return [whole.tolist(), rest.tolist()]


def _masks(masks: "NDArray[Any]") -> list[str]:
    spelled = {mask: mask_names(mask) for mask in np.unique(masks).tolist()}
    return [spelled[mask] for mask in masks.tolist()]


def _results(op: Op, rows: "NDArray[Any]") -> list[str]:
    """What each call was asked and gave, as the inside of a JSON object."""
    results = rows["result"].tolist()
    errors = {r: f'"error":"{error_name(-r)}"' for r in set(results) if r < 0}
    if op in _BYTES:
        return [errors[r] if r < 0 else f'"n_bytes":{r}' for r in results]
    if op is Op.WAIT:
        asked = ["null" if m == FOREVER else f"{m / 1000:g}" for m in rows["mask"].tolist()]
        given = [errors[r] if r < 0 else f'"n_returned":{r}' for r in results]
        return [f'"timeout_ms":{a},{g}' for a, g in zip(asked, given, strict=True)]
    given = [errors[r] if r < 0 else f'"result":{r}' for r in results]
    if op in (Op.REGISTER, Op.MODIFY):
        masks = _masks(rows["mask"])
        return [f'"interest":"{m}",{g}' for m, g in zip(masks, given, strict=True)]
    if op in (Op.ACCEPT, Op.CONNECT):
        ports = rows["mask"].tolist()
        return [f'"port":{p},{g}' for p, g in zip(ports, given, strict=True)]
    return given


# ---- flows -----------------------------------------------------------------------------


def _flows(
    everyone: Sequence[Records],
    arrays: "Sequence[NDArray[Any]]",
    first_tracks: Sequence[int],
    begin: int,
) -> Iterator[str]:
    """An arrow from the client's last send before each handling, to that handling.

    A port names a client's connection until it is closed; where clients have several
    source addresses it does not, and there are no arrows.
    """
    if any(one.metadata.get("source_addresses", 1) not in (None, 1) for one in everyone[1:]):
        return
    found = _requests(arrays)
    tracks = [_tracks(array) for array in arrays]
    columns = (found[name].astype("i8").tolist() for name in _ENDS)
    for number, (serial, client, sent_ns, start_ns) in enumerate(zip(*columns, strict=True), 1):
        for phase, who, conn, at, how in (
            ("s", client >> 32, client & 0xFFFF_FFFF, sent_ns, ""),
            ("f", 0, serial, start_ns, _ENCLOSING),
        ):
            track = first_tracks[who] + int(np.searchsorted(tracks[who], conn))
            yield _FLOW % (phase, number, SERVER + who, track, *divmod(at - begin, 1000), how)


def _requests(arrays: "Sequence[NDArray[Any]]") -> pd.DataFrame:
    """A row for each handling whose client is known: ``conn, start_ns, client, sent_ns``."""
    server = arrays[0]
    accepts = server[(server["op"] == Op.ACCEPT) & (server["result"] >= 0)]
    accepted = pd.DataFrame(
        {"conn": accepts["conn"], "port": accepts["mask"], "t_ns": accepts["end_ns"]}
    ).sort_values("t_ns")
    connects = [_columns(array, n, Op.CONNECT) for n, array in enumerate(arrays[1:], 1)]
    connected = pd.concat([frame.assign(port=frame["mask"]) for frame in connects])
    pairs = pd.merge_asof(accepted, connected.sort_values("t_ns"), on="t_ns", by="port")
    pairs = pairs.dropna(subset="client").astype({"client": "int64"})
    handles = server[server["op"] == Op.HANDLE]
    handled = pd.DataFrame({"conn": handles["conn"], "t_ns": handles["start_ns"]})
    handled = handled.merge(pairs[["conn", "client"]], on="conn").sort_values("t_ns")
    sends = [_columns(array, n, Op.SEND) for n, array in enumerate(arrays[1:], 1)]
    sent = pd.concat(sends).query("result > 0").assign(sent_ns=lambda frame: frame["t_ns"])
    found = pd.merge_asof(
        handled, sent[["client", "t_ns", "sent_ns"]].sort_values("t_ns"), on="t_ns", by="client"
    )
    return found.dropna(subset="sent_ns").rename(columns={"t_ns": "start_ns"})


def _columns(array: "NDArray[Any]", process: int, op: Op) -> pd.DataFrame:
    rows = array[array["op"] == op]
    return pd.DataFrame(
        {
            # Serials are each process's own: the two together name a connection.
            "client": rows["conn"].astype("i8") | process << 32,
            "t_ns": rows["start_ns"],
            "mask": rows["mask"],
            "result": rows["result"],
        }
    )
