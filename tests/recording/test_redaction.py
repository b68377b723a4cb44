"""save(redact=True): nothing in the file names a machine, and the diagnosis is the same."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from epolllab.analysis import diagnose
from epolllab.events import NO_POSITION, RECORD, Op
from epolllab.external import read_strace
from epolllab.recording import Recording, environment
from epolllab.recording.recording import METADATA_KEY
from tests.samples import Script

SECRETS = ("10.20.30.40", "db.example.com", "/home/anna", "anna", "4711", "hunter2", "boot-of-anna")

METADATA: dict[str, Any] = {
    **environment.collect(recorder_cost_ns=100),
    "boot_id": "boot-of-anna",
    "cpu_quotas": {"/user.slice/anna": 0.5},
    "poller": "epoll", "trigger": "level", "lifecycle": "eager", "capacity": 100,
    "host": "db.example.com", "port": 4711, "address": ["10.20.30.40", 4711],
    "target": "http://db.example.com:4711/", "path": "/home/anna", "pid": 4711, "tids": [4711],
    "command": ["python", "/home/anna/app.py", "--password=hunter2"],
    "targets": ["", "/users/anna?token=hunter2"],
    "fd_names": {
        "7": "tcp 10.20.30.40:4711 <- 10.20.30.40:4712 ESTABLISHED",
        "8": "UDPv6:[10.20.30.40:4711]", "9": "unix /home/anna/.socket", "10": "/home/anna/log",
        "11": "anon_inode:[eventfd]", "12": "pipe:[4711]", "13": "UNIX-DGRAM:[4711]",
    },
    "log": "source /home/anna/nginx.strace", "strange": ["connect to db.example.com"],
    "source": "10.20.30.40", "stats": {"accepted": 3, "10.20.30.40": 4},
    "last_fault": 'File "/home/anna/app.py", line 4711',
    "notes": ["an incident was not saved: /home/anna"],
    "incident": {"kind": "blocked", "callback": "main", "blocked_s": 0.3,
                 "stack": ['File "/home/anna/app.py"'], "findings": ["fd 7 (10.20.30.40)"]},
    "callbacks": ["main", "Server.serve"], "n_strange": 2, "tags": {"10.20.30.40": {"anna": [1]}},
}  # fmt: skip
"""Each secret in every place where a server, a client, strace, observe() or a user puts it."""


def busy() -> Recording:
    """A loop that is woken by a writable socket again and again, after a request."""
    script = Script(capacity=10_000)
    script.wait(1).ready(0).accept(1).register(1, "IN|OUT")
    script.wait(1).ready(1).recv(1, 10).handle(1, 100).send(1, 100)
    for _ in range(200):
        script.wait(1).ready(1, "OUT")
    return script.recording()


def strings(value: Any) -> list[str]:
    """Every string in a structure, keys included, and every number as text."""
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in strings(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in strings(part)]
    return [str(value)]


@pytest.fixture
def shared(tmp_path: Path) -> Recording:
    made = Recording(busy().rows, METADATA, 3)
    return Recording.load(made.save(tmp_path / "shared.parquet", redact=True))


def test_nothing_that_names_a_machine_is_in_the_file(shared: Recording, tmp_path: Path) -> None:
    """Neither in the metadata, their keys included, nor anywhere else in the file."""
    found = strings(dict(shared.metadata))
    assert [text for text in found if any(secret in text for secret in SECRETS)] == []
    path = tmp_path / "shared.parquet"
    header = pq.read_schema(path).metadata
    assert list(header) == [METADATA_KEY]
    for secret in SECRETS[:-1]:
        assert secret.encode() not in path.read_bytes().replace(b"recording", b""), secret
    assert json.loads(header[METADATA_KEY])["metadata"]["redacted"] is True


def test_what_a_reader_needs_to_judge_it_is_kept(shared: Recording) -> None:
    """The environment, the options, counts, callbacks' names, and the kinds of files."""
    kept = shared.metadata
    assert kept["redacted"] is True
    for name in ("kernel", "cpu", "python", "started", "load_average", "poller", "trigger"):
        assert kept[name] == METADATA[name]
    assert environment.summary(kept) == environment.summary(METADATA)
    assert kept["cpu_quotas"] == {"group 1": 0.5}
    assert kept["callbacks"] == ["main", "Server.serve"]
    assert kept["incident"] == {"kind": "blocked", "callback": "main", "blocked_s": 0.3}
    assert list(kept["fd_names"].values()) == [
        "tcp", "udp", "unix", "file", "eventfd", "pipe", "unix dgram",
    ]  # fmt: skip
    assert shared.overwritten == 3


def test_ports_and_targets_are_not_in_the_rows(tmp_path: Path) -> None:
    """The ports of accept and connect, and a handled request's target; its status stays."""
    rows = [
        (Op.ACCEPT, 7, 50_186), (Op.CONNECT, 0, 50_187), (Op.HANDLE, 9, 3 << 16 | 404),
        (Op.READY, 0, 0x2001), (Op.WAIT, 1, 2_500_000),
    ]  # fmt: skip
    packed = b"".join(
        RECORD.pack(1, 2, 1, 1, 7, result, mask, op, NO_POSITION, 5, 0) for op, result, mask in rows
    )
    made = Recording(packed)
    shared = Recording.load(made.save(tmp_path / "a.parquet", redact=True))
    assert shared.array()["mask"].tolist() == [0, 0, 404, 0x2001, 2_500_000]
    for name in ("op", "result", "fd", "start_ns", "end_ns", "wake", "conn", "thread"):
        assert (shared.array()[name] == made.array()[name]).all(), name
    assert made.array()["mask"][0] == 50_186


def test_the_diagnosis_and_the_frames_are_the_same(shared: Recording) -> None:
    """Kinds, counts and times; only ports are missing from the frames."""
    whole = busy()
    assert diagnose(shared).kinds == diagnose(whole).kinds == ["writable interest left on"]
    assert shared.counts() == whole.counts()
    assert shared.wakeups().equals(whole.wakeups())
    assert (
        shared.requests()
        .drop(columns="peer_port")
        .equals(whole.requests().drop(columns="peer_port"))
    )


@pytest.mark.parametrize("kind", ["UDP:[10.20.30.40:53]", "anon_inode:[eventfd]", "pipe:[4711]"])
def test_a_name_that_decides_the_diagnosis_still_does(kind: str, tmp_path: Path) -> None:
    """Empty datagrams are no end of file; unread input of an eventfd is a wake-up."""
    event = "[{events=EPOLLIN, data={u32=7, u64=7}}]"
    call = f"epoll_wait(4, {event}, 64, -1) = 1\n"
    call += f'recvfrom(7<{kind}>, "", 9, 0, NULL, NULL) = 0\n' if kind.startswith("UDP") else ""
    add = f"epoll_ctl(4, EPOLL_CTL_ADD, 7<{kind}>, {event[1:-1]}) = 0\n"
    [read] = read_strace(add + call * 300)
    whole = Recording(read.rows[RECORD.size :], read.metadata)  # begins after registration
    shared = Recording.load(whole.save(tmp_path / "a.parquet", redact=True))
    without = Recording(whole.rows, {})
    assert diagnose(shared).kinds == diagnose(whole).kinds != diagnose(without).kinds
    assert not any("4711" in text or "10.20" in text for text in strings(dict(shared.metadata)))


def test_recordings_of_one_boot_can_still_be_joined(shared: Recording, tmp_path: Path) -> None:
    """The boot's id becomes a pseudonym, which another redaction keeps."""
    other = Recording(b"", {"boot_id": "another"}).save(tmp_path / "b.parquet", redact=True)
    with pytest.raises(ValueError, match="different boots"):
        environment.require_same_boot(shared.metadata, Recording.load(other).metadata)
    again = Recording.load(shared.save(tmp_path / "c.parquet", redact=True))
    environment.require_same_boot(shared.metadata, again.metadata)
    assert again.metadata == shared.metadata


def test_an_empty_recording_without_metadata(tmp_path: Path) -> None:
    shared = Recording.load(Recording(b"").save(tmp_path / "a.parquet", redact=True))
    assert shared.metadata == {"redacted": True}


@pytest.mark.parametrize("redact", [1, "yes", None])
def test_redact_is_a_switch(redact: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^redact\b"):
        busy().save(tmp_path / "a.parquet", redact=redact)
    assert list(tmp_path.iterdir()) == []
