"""``journeys()``: the server's requests joined with the clients' requests."""

import pandas as pd

from epolllab.frames.columns import check_frame, described
from epolllab.schema import JOURNEYS

__all__ = ["CLIENT_REQUESTS", "INSTANTS", "SPANS", "journeys"]

CLIENT_REQUESTS = {
    "conn": "int64",
    "process": "int32",
    "request": "int32",
    "local_port": "int32",
    "intended_ns": "int64",
    "connected_ns": "Int64",
    "sent_ns": "Int64",
    "first_byte_ns": "Int64",
    "done_ns": "Int64",
    "status": "Int32",
    "n_bytes": "int64",
    "error": "category",
}
"""Columns and dtypes of ``Run.requests()`` that :func:`journeys` needs."""

SPANS = {
    "waiting": ("intended_ns", "sent_ns"),
    "wake": ("sent_ns", "woken_ns"),
    "queue": ("woken_ns", "ready_ns"),
    "read": ("ready_ns", "read_ns"),
    "handle": ("read_ns", "handled_ns"),
    "send": ("handled_ns", "answered_ns"),
    "deliver": ("answered_ns", "first_byte_ns"),
    "receive": ("first_byte_ns", "done_ns"),
    "total": ("intended_ns", "done_ns"),
}
"""Columns between two instants, with the instants."""

INSTANTS = tuple(dict.fromkeys(name for span in SPANS.values() for name in span))


_KINDS = {"Int64": "?", "Int32": "?", "category": "*"}


@described(JOURNEYS)
def journeys(requests: pd.DataFrame, clients: pd.DataFrame) -> pd.DataFrame:
    """One row per request that was recorded on both sides, on one time axis.

    Every process of a machine reads the same monotonic clock, so the client's
    timestamps and the server's can be subtracted.

    Parameters
    ----------
    requests : pandas.DataFrame
        The server's requests, from ``Recording.requests()``.
    clients : pandas.DataFrame
        A client run's requests, with the columns of :data:`CLIENT_REQUESTS`.

    Raises
    ------
    ValueError
        `clients` lacks a column, or ran on several hosts, whose clocks are unrelated.

    Notes
    -----
    A client's port identifies its connection until it is closed, and may be reused
    later. A server's connection is therefore joined to the last client connection
    that was established on its port before its first request was handled; requests
    then join by their ordinal. A pair whose instants are out of order (handled
    before sent, or after done) belongs to two different runs and is left out.
    """
    columns = "conn request peer_port? woken_ns? ready_ns? read_ns? handled_ns answered_ns?"
    check_frame("requests", requests, "``recording.requests()``", columns)
    optional = [f"{name}{_KINDS.get(kind, '')}" for name, kind in CLIENT_REQUESTS.items()]
    check_frame("clients", clients, "``run.requests()``", " ".join(optional))
    if "host" in clients and clients["host"].nunique() > 1:
        raise ValueError(
            f"clients ran on several hosts ({', '.join(sorted(clients['host'].unique()))}), whose "
            "monotonic clocks are unrelated, so that their times cannot be compared with the "
            "server's; pass the rows of the server's host"
        )
    clients = clients[list(CLIENT_REQUESTS)].astype(CLIENT_REQUESTS)
    served = requests[requests["peer_port"].notna()].astype({"peer_port": "int32"})
    served = served.merge(_matched(served, clients), on="conn")
    joined = served.merge(
        clients.rename(columns={"conn": "client_conn"}), on=["client_conn", "request"]
    )
    plausible = (joined["sent_ns"] <= joined["handled_ns"]) & ~(
        joined["done_ns"] < joined["handled_ns"]
    ).fillna(False)
    joined = joined[plausible.fillna(False)].astype(dict.fromkeys(INSTANTS, "Int64"))
    joined = joined.sort_values(["intended_ns", "conn", "request"], ignore_index=True)
    frame = joined[["conn", "request", "local_port", *INSTANTS]].copy()
    for name, (begin, end) in SPANS.items():
        frame[name] = frame[end] - frame[begin]
    return frame


def _matched(served: pd.DataFrame, clients: pd.DataFrame) -> pd.DataFrame:
    """Pairs (conn, client_conn): the client connection of each server connection."""
    ends = served.groupby("conn", sort=False, as_index=False).first()
    ends = ends[["conn", "peer_port", "handled_ns"]].sort_values("handled_ns")
    known = clients[clients["connected_ns"].notna()].astype({"connected_ns": "int64"})
    known = known.drop_duplicates("conn").sort_values("connected_ns")
    known = known[["conn", "local_port", "connected_ns"]].rename(columns={"conn": "client_conn"})
    # Nullable, so that the rows without a match do not turn the serials to floats.
    known = known.astype({"client_conn": "Int64"})
    pairs = pd.merge_asof(
        ends,
        known,
        left_on="handled_ns",
        right_on="connected_ns",
        left_by="peer_port",
        right_by="local_port",
    )
    pairs = pairs.dropna(subset="client_conn").drop_duplicates("client_conn")
    return pairs[["conn", "client_conn"]].astype({"conn": "int32", "client_conn": "int64"})
