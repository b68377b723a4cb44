"""What a recording says about a machine, its users and its peers, left out for sharing."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from epolllab.events import FIELDS, Op
from epolllab.recording.environment import END_KEYS, KEYS

__all__ = ["redacted_metadata", "redacted_rows"]

_STATUS_BITS = 0xFFFF
_KEPT = {
    *END_KEYS,
    # of the server and its clients
    "poller", "trigger", "lifecycle", "drain", "recv_size", "max_events", "accept", "backlog",
    "send_buffer", "recv_buffer", "nodelay", "cork", "max_connections", "max_request_bytes",
    "request_timeout", "idle_timeout", "capacity", "record", "process", "stats", "role",
    "connections", "requests", "duration", "rate", "keep_alive", "processes", "timeout", "where",
    "source_addresses", "payload_bytes", "interrupted",
    # of other programs
    "source", "layers", "overhead", "wall_clock_step_ns", "n_unmapped", "n_assumed",
    "n_cut", "n_other", "n_unfinished", "n_strange",
}  # fmt: skip
"""Keys beside those of the environment; all others hold what is not known here."""

_INCIDENT = ("kind", "callback", "blocked_s", "wakeups_per_s")
_FILE_KINDS = (
    "udp", "tcp", "unix dgram", "unix", "netlink", "eventfd", "eventpoll", "epoll", "timerfd",
    "signalfd", "pidfd", "inotify", "io_uring", "pipe", "socket",
)  # fmt: skip


def redacted_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what names no machine, user, path, program or address, and ``"redacted": True``."""
    kept = {
        name: value
        for name, value in metadata.items()
        if name in KEYS or name == "callbacks" or (name in _KEPT and _is_plain(value))
    }
    if kept.get("boot_id") is not None:
        # Recordings of one boot can still be joined.
        kept["boot_id"] = _pseudonym(str(kept["boot_id"]))
    if isinstance(quotas := kept.get("cpu_quotas"), Mapping):  # their keys are paths
        kept["cpu_quotas"] = {f"group {n}": q for n, q in enumerate(quotas.values(), 1)}
    if isinstance(names := metadata.get("fd_names"), Mapping):
        kept["fd_names"] = {fd: _kind_of_file(str(name)) for fd, name in names.items()}
    if isinstance(incident := metadata.get("incident"), Mapping):
        kept["incident"] = {name: incident[name] for name in _INCIDENT if name in incident}
    return {**kept, "redacted": True}


def _is_plain(value: Any) -> bool:
    """Whether it is made of numbers and lower-case words only."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return not isinstance(value, str) or re.fullmatch(r"[a-z_-]*", value) is not None


def _pseudonym(boot_id: str) -> str:
    if boot_id.startswith("redacted-"):
        return boot_id
    return "redacted-" + blake2b(boot_id.encode(), digest_size=16).hexdigest()


def _kind_of_file(name: str) -> str:
    """``"tcp"`` of ``"TCPv6:[...]"``, for :func:`~epolllab.analysis.diagnose`."""
    words = re.sub(r"[^a-z_]+", " ", name.lower().removeprefix("anon_inode:")).strip()
    return next((kind for kind in _FILE_KINDS if words.startswith(kind)), "file")


def redacted_rows(rows: bytes) -> bytes:
    """Return the records without ports and without the index of the request's target."""
    import numpy as np

    array = np.frombuffer(rows, dtype=np.dtype(list(FIELDS))).copy()
    array["mask"][np.isin(array["op"], (Op.ACCEPT, Op.CONNECT))] = 0
    array["mask"][array["op"] == Op.HANDLE] &= _STATUS_BITS
    return array.tobytes()
