"""The environment: complete, JSON, as text, and never the reason for a failure."""

import json
import os
import platform
import subprocess
import sys
import types
from datetime import UTC, datetime
from pathlib import Path

import pytest

from epolllab import kernel
from epolllab.recording import environment

EXAMPLE = {
    "started": "2026-01-02T03:04:05.678+00:00", "boot_id": "0f", "epolllab": "1.0",
    "system": "Linux", "kernel": "6.1.0", "machine": "x86_64", "cpu": "AMD EPYC", "cpu_count": 2,
    "hypervisor": True, "memory_bytes": 8 * 2**30, "load_average": [0.4, 0.3, 0.2],
    "python": "3.13.1", "implementation": "CPython", "gil": False, "switch_interval_s": 0.005,
    "pandas": "3.0.0", "clock": "clock_gettime(CLOCK_MONOTONIC)", "clock_source": "tsc",
    "clock_cost_ns": 50.0, "recorder_cost_ns": 350.0, "descriptor_limit_soft": 1024,
    "descriptor_limit_hard": 524288, "somaxconn": 4096, "tcp_rmem": [4096, 131072, 6291456],
    "tcp_wmem": [4096, 16384, 4194304], "poller": "epoll", "max_events": 64,
}  # fmt: skip


def test_collect_has_every_key_and_is_json():
    """All of KEYS in their order, then the parameters; a round trip changes nothing."""
    collected = environment.collect(poller="epoll", drain=None, sizes=[1, 2])
    assert list(collected) == [*environment.KEYS, "poller", "drain", "sizes"]
    assert (collected["poller"], collected["drain"], collected["sizes"]) == ("epoll", None, [1, 2])
    assert json.loads(json.dumps(collected, allow_nan=False)) == collected


def test_collect_agrees_with_what_is_known():
    """Facts agree with those of other sources."""
    before = datetime.now(UTC)
    collected = environment.collect()
    assert collected["python"] == platform.python_version()
    assert collected["kernel"] == os.uname().release
    assert collected["cpu_count"] == os.cpu_count()
    assert collected["switch_interval_s"] == sys.getswitchinterval()
    limits = (collected["descriptor_limit_soft"], collected["descriptor_limit_hard"])
    assert limits == kernel.descriptor_limits()
    # Microseconds are cut, not rounded.
    elapsed = datetime.fromisoformat(collected["started"]) - before
    assert elapsed.total_seconds() > -0.001


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own facts")
def test_collect_knows_linux():
    """On Linux the boot, the allowed processors and the kernel's limits are known."""
    collected = environment.collect()
    assert collected["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert collected["cpu_affinity"] == sorted(os.sched_getaffinity(0))
    assert collected["somaxconn"] == kernel.somaxconn()
    assert collected["local_ports"] == list(kernel.local_port_range())
    assert len(collected["tcp_rmem"]) == len(collected["tcp_wmem"]) == 3
    assert collected["memory_bytes"] > 2**20


def test_costs_are_measured_or_given():
    """Measured costs are between 0 ns and 1 ms; a given cost is kept."""
    collected = environment.collect()
    assert 0 < collected["clock_cost_ns"] < 1_000_000
    assert 0 < collected["recorder_cost_ns"] < 1_000_000
    assert 0 < environment.recorder_cost_ns(1000) < 1_000_000
    assert environment.collect(recorder_cost_ns=0)["recorder_cost_ns"] == 0
    with pytest.raises(ValueError, match=r"^n\b"):
        environment.recorder_cost_ns(99)


def test_a_cost_is_the_call_less_the_loop(monkeypatch):
    """With a clock that advances 1 per reading and a call that takes 7, the median is 7."""
    now = [0]

    def clock():
        now[0] += 1
        return now[0]

    def call():
        now[0] += 7

    monkeypatch.setattr(environment, "time", types.SimpleNamespace(perf_counter_ns=clock))
    assert environment._call_cost_ns(call, n=500) == 7


def test_a_parameter_cannot_hide_a_key():
    """The keys are named in the error."""
    with pytest.raises(ValueError, match=r"^kernel, python"):
        environment.collect(python="3", kernel="mine", poller="epoll")


@pytest.mark.parametrize("value", [{1, 2}, object(), [b"bytes"]])
def test_a_parameter_that_json_cannot_hold_is_refused(value):
    """The parameter is named before the run rather than when it is saved."""
    with pytest.raises(TypeError, match=r"^sizes\b"):
        environment.collect(poller="epoll", sizes=value)


def test_unknown_facts_are_none(monkeypatch):
    """A machine without /proc, /sys, limits, affinity and load gives None for each."""
    for cached in (environment._processor, environment._own_version):
        cached.cache_clear()

    def absent(*_, **__):
        raise OSError("not here")

    monkeypatch.setattr(environment.Path, "read_text", absent)
    monkeypatch.setattr("builtins.open", absent)
    monkeypatch.setattr(environment.kernel, "descriptor_limits", absent)
    for name in ("sched_getaffinity", "getloadavg", "sysconf"):
        monkeypatch.delattr(environment.os, name)
    monkeypatch.setattr(environment.platform, "processor", lambda: "")
    collected = environment.collect(recorder_cost_ns=1.0)
    monkeypatch.undo()
    for cached in (environment._processor, environment._own_version):
        cached.cache_clear()
    unknown = {key for key in environment.KEYS if collected[key] is None}
    assert unknown >= {
        "boot_id", "cpu", "cpu_affinity", "cpu_governor", "hypervisor", "memory_bytes",
        "load_average", "cpu_quotas", "nr_throttled", "throttled_usec", "clock_source",
        "descriptor_limit_soft", "descriptor_limit_hard",
        "somaxconn", "local_ports", "tcp_rmem", "tcp_wmem",
    }  # fmt: skip
    assert environment.summary(collected).startswith(platform.system())
    assert "python:" in environment.describe(collected)


@pytest.mark.processes
def test_packages_are_named_and_not_imported():
    """collect() imports none of them, and has the version of one that is imported."""
    code = (
        "import sys, types\n"
        "from epolllab.recording import environment\n"
        "import epolllab\n"
        "loaded = {n for n in ('numpy', 'pandas', 'matplotlib') if n in sys.modules}\n"
        "got = environment.collect()\n"
        "assert {n for n in ('numpy', 'pandas', 'matplotlib') if n in sys.modules} == loaded\n"
        "assert all((got[n] is not None) == (n in loaded) for n in ('numpy', 'pandas'))\n"
        "sys.modules['numpy'] = types.SimpleNamespace(__version__='9.9')\n"
        "assert environment.collect()['numpy'] == '9.9'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_summary_is_one_line():
    """The kernel, the processor, Python, the load and the recorder's cost."""
    assert environment.summary(EXAMPLE) == (
        "Linux 6.1.0, AMD EPYC x 2 (virtual), CPython 3.13.1 without GIL, load 0.4, "
        "recorder 0.35 µs a record"
    )
    assert environment.summary({**EXAMPLE, "recorder_cost_ns": 0}).endswith("not recorded")


def test_describe_has_every_known_fact():
    """Each fact is in its line, with its unit, and the parameters come last."""
    assert environment.describe(EXAMPLE).splitlines() == [
        "machine:     AMD EPYC x 2 (virtual), x86_64",
        "kernel:      Linux 6.1.0",
        "memory:      8.0 GiB",
        "load:        0.4 over the last minute",
        "python:      CPython 3.13.1 without GIL, switch interval 0.005 s, pandas 3.0.0",
        "clock:       clock_gettime(CLOCK_MONOTONIC) from tsc, 50.0 ns a reading",
        "recorder:    0.35 µs a record",
        "descriptors: 1,024, at most 524,288",
        "backlog:     at most 4,096",
        (
            "buffers:     receive 131,072, at most 6,291,456 bytes; "
            "send 16,384, at most 4,194,304 bytes"
        ),
        "epolllab:    1.0",
        "started:     2026-01-02T03:04:05.678+00:00",
        "parameters:  poller='epoll', max_events=64",
    ]


QUOTA = {"cpu_quotas": {"/": 4.0, "/a": 0.25}, "nr_throttled": 3, "throttled_usec": 1_000}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, ""),
        ({"nr_throttled_end": 3, "throttled_usec_end": 1_000}, ""),
        (
            {"nr_throttled_end": 9, "throttled_usec_end": 2_001_000},
            "throttled for 2,000 ms by a CPU quota of 0.25 processors",
        ),
        (  # the quota was removed meanwhile
            {"nr_throttled_end": 4, "throttled_usec_end": 1_000, "cpu_quotas": {}},
            "throttled for 0 ms by a CPU quota",
        ),
        ({"nr_throttled_end": None, "throttled_usec_end": None}, ""),
        ({"nr_throttled_end": "9", "throttled_usec_end": [1], "cpu_quotas": 3}, ""),
    ],
)
def test_throttling_is_the_difference_between_start_and_end(changes, text):
    """It is in the line under charts and in the description; without it the quota is."""
    metadata = {**EXAMPLE, **QUOTA, **changes}
    assert environment.throttled(metadata) == text
    quota = "0.25 processors" if metadata["cpu_quotas"] == QUOTA["cpu_quotas"] else ""
    line = environment.summary(metadata).partition("a record")[2].lstrip(", ")
    assert line == (text or (quota and f"CPU quota {quota}"))
    rows = dict(row.split(":", 1) for row in environment.describe(metadata).splitlines())
    assert rows.get("CPU quota", "").strip() == (text or quota)
    assert "throttled_usec" not in rows["parameters"]


def test_the_end_of_a_run_has_its_own_counters(monkeypatch):
    """A run starts with the groups' counters so far, which other programs raised too."""
    counters = iter([kernel.Throttling(3, 1_000), kernel.Throttling(8, 41_000)])
    monkeypatch.setattr(kernel, "throttling", lambda: next(counters))
    monkeypatch.setattr(kernel, "cpu_quotas", lambda: {"/a": 0.5})
    collected = environment.collect(poller="epoll")
    assert (collected["nr_throttled"], collected["throttled_usec"]) == (3, 1_000)
    assert environment.throttled(collected) == ""
    collected |= environment.at_end()
    assert list(collected)[-2:] == list(environment.END_KEYS)
    assert (
        environment.throttled(collected) == "throttled for 40 ms by a CPU quota of 0.5 processors"
    )


@pytest.mark.parametrize("missing", sorted(EXAMPLE))
@pytest.mark.parametrize("text_of", [environment.summary, environment.describe])
def test_a_missing_fact_leaves_the_rest(text_of, missing):
    """A key that is absent, None, or of another type does not fail and leaves no None."""
    without = {name: value for name, value in EXAMPLE.items() if name != missing}
    for text in (text_of(without), text_of({**EXAMPLE, missing: None})):
        assert text
        assert "{" not in text
        if missing in environment.KEYS:
            assert "None" not in text
    assert text_of({**EXAMPLE, missing: [object]})
    assert text_of({}) == "circumstances unknown"


def test_one_boot_is_required():
    """The same boot and an unknown one pass; another is refused, also after an unknown one."""
    other = {**EXAMPLE, "boot_id": "1e", "kernel": "6.2.0"}
    environment.require_same_boot()
    environment.require_same_boot(EXAMPLE, EXAMPLE, dict(EXAMPLE))
    environment.require_same_boot({}, EXAMPLE, {"boot_id": None})
    for metadatas in ((EXAMPLE, EXAMPLE, other), ({}, EXAMPLE, other)):
        with pytest.raises(ValueError, match=r"boot 0f \(kernel 6\.1\.0.*boot 1e \(kernel 6\.2\.0"):
            environment.require_same_boot(*metadatas)
