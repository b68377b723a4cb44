"""The environment of a run: what a reader needs to judge its numbers.

A dictionary that JSON can hold, collected by :func:`collect` and formatted by
:func:`summary` and :func:`describe`. What cannot be determined is None; collecting
never fails because of it, on any operating system.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

from epolllab import kernel
from epolllab.checks import check_int
from epolllab.events import Op, key_of
from epolllab.recording.recorder import Recorder

__all__ = [
    "END_KEYS",
    "KEYS",
    "at_end",
    "collect",
    "describe",
    "recorder_cost_ns",
    "require_same_boot",
    "summary",
    "throttled",
]

KEYS: dict[str, str] = {
    "started": "when this was collected, UTC, ISO 8601",
    "started_ns": "the same instant on the monotonic clock of all records, ns",
    "boot_id": "random id of this boot; the clocks of two boots cannot be compared",
    "epolllab": "version of this package",
    "system": "operating system",
    "kernel": "release of the kernel",
    "machine": "processor architecture",
    "cpu": "processor model",
    "cpu_count": "logical processors that are online",
    "cpu_affinity": "logical processors that the collecting thread may run on, list of numbers",
    "cpu_quotas": "processors that each control group with a CPU quota may use, by its path",
    "nr_throttled": "periods in which these groups had used up their quota, up to now",
    "throttled_usec": "time for which they were throttled, up to now, µs, over all processors",
    "cpu_governor": "how the kernel chooses the processor's frequency",
    "hypervisor": "whether the processor reports that it belongs to a virtual machine",
    "memory_bytes": "physical memory, bytes",
    "load_average": "mean number of runnable tasks over 1, 5 and 15 minutes",
    "python": "version of Python",
    "implementation": "implementation of Python",
    "gil": "whether Python's global interpreter lock is enabled",
    "switch_interval_s": "how long a Python thread keeps the lock when another wants it, s",
    "numpy": "version of numpy, if imported",
    "pandas": "version of pandas, if imported",
    "matplotlib": "version of matplotlib, if imported",
    "clock": "clock of all records",
    "clock_source": "hardware that the kernel reads for that clock",
    "clock_resolution_ns": "resolution that the clock claims, ns",
    "clock_cost_ns": "one reading of it from Python, median, ns",
    "recorder_cost_ns": "writing one record, without clock readings, median, ns; 0: not recorded",
    "descriptor_limit_soft": "open descriptors allowed now",
    "descriptor_limit_hard": "what the process may raise that limit to by itself",
    "somaxconn": "upper bound on a listener's backlog, connections",
    "local_ports": "first and last port assigned to connecting sockets",
    "tcp_rmem": "smallest, initial and largest receive buffer of a TCP socket, bytes",
    "tcp_wmem": "smallest, initial and largest send buffer of a TCP socket, bytes",
}
"""Keys that :func:`collect` always returns, with their meaning and unit."""

END_KEYS = ("nr_throttled_end", "throttled_usec_end")
"""Keys of :func:`at_end`."""


def collect(*, recorder_cost_ns: float | None = None, **parameters: Any) -> dict[str, Any]:
    """Collect the environment of a run that starts now.

    Parameters
    ----------
    recorder_cost_ns : float, optional
        What writing one record costs, if known: 0 if the run records nothing. By
        default it is measured, once per process.
    **parameters
        The parameters of the run, kept beside the environment: anything that JSON can
        hold, under names that are not in :data:`KEYS`.

    Returns
    -------
    dict
        All of :data:`KEYS`, None for what is not known here, then the parameters.
        Collecting takes a few milliseconds the first time in a process, when the recorder
        is timed, and under two after that.

    Raises
    ------
    ValueError
        A parameter has the name of a key.
    TypeError
        JSON cannot hold a parameter.
    """
    taken = sorted(KEYS.keys() & parameters.keys())
    if taken:
        raise ValueError(
            f"{', '.join(taken)}: used by the environment; give the parameter another name"
        )
    for name, value in parameters.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} must be a number, a string, None, or a list or dictionary of these, "
                f"since metadata is stored as JSON; a {type(value).__name__} cannot be ({error})"
            ) from error
    facts = _facts()
    facts["recorder_cost_ns"] = (
        _recorder_cost_once() if recorder_cost_ns is None else recorder_cost_ns
    )
    return {**{key: facts[key] for key in KEYS}, **parameters}


def at_end() -> dict[str, Any]:
    """Return what the end of a run adds to :func:`collect`, for :func:`throttled`.

    The keys are :data:`END_KEYS`, with None for what is not known here.
    """
    found = _or_none(kernel.throttling) or (None, None)
    return dict(zip(END_KEYS, found, strict=True))


def throttled(metadata: Mapping[str, Any]) -> str:
    """Return how long a CPU quota stopped the run, as the rest of a sentence, or "".

    For example ``"throttled for 812 ms by a CPU quota of 0.2 processors"``. `metadata` is
    that of :func:`collect` and :func:`at_end`, or of a recording.
    """
    known = _Formatter(metadata)
    spent_us = known.number("throttled_usec_end") - known.number("throttled_usec")
    periods = known.number("nr_throttled_end") - known.number("nr_throttled")
    if not (spent_us > 0 or periods > 0):
        return ""
    quota = known.quota()
    return f"throttled for {spent_us / 1000:,.0f} ms by a CPU quota" + (quota and f" of {quota}")


def _or_none(ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns; None where this system does not have it."""
    # Files, system calls, attributes and modules may be missing, text may be cut: all of
    # these mean "not known here", and must not make a run fail.
    with suppress(OSError, AttributeError, ImportError, ValueError, LookupError):
        return ask()
    return None


def _line(path: str) -> str | None:
    text: str | None = _or_none(lambda: Path(path).read_text(errors="replace").strip())
    return text or None


def _facts() -> dict[str, Any]:
    clock = time.get_clock_info("monotonic")
    limits = _or_none(kernel.descriptor_limits)
    throttling = _or_none(kernel.throttling)
    return {
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "started_ns": time.monotonic_ns(),
        "boot_id": _line("/proc/sys/kernel/random/boot_id"),
        "epolllab": _own_version(),
        "system": platform.system() or None,
        "kernel": platform.release() or None,
        "machine": platform.machine() or None,
        **_processor(),
        "cpu_count": os.cpu_count(),
        "cpu_affinity": _or_none(lambda: sorted(os.sched_getaffinity(0))),
        "cpu_quotas": _or_none(kernel.cpu_quotas),
        "nr_throttled": throttling and throttling.periods,
        "throttled_usec": throttling and throttling.microseconds,
        "cpu_governor": _line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": _or_none(lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "load_average": _or_none(lambda: [round(load, 2) for load in os.getloadavg()]),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "gil": bool(getattr(sys, "_is_gil_enabled", lambda: True)()),  # since 3.13
        "switch_interval_s": _or_none(lambda: sys.getswitchinterval()),
        **{name: _imported_version(name) for name in ("numpy", "pandas", "matplotlib")},
        "clock": clock.implementation,
        "clock_source": _line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "clock_resolution_ns": clock.resolution * 1e9,
        "clock_cost_ns": round(_call_cost_ns(time.monotonic_ns, n=1500), 1),
        "descriptor_limit_soft": limits and limits.soft,
        "descriptor_limit_hard": limits and limits.hard,
        "somaxconn": _or_none(kernel.somaxconn),
        "local_ports": _or_none(lambda: list(kernel.local_port_range())),
        "tcp_rmem": _or_none(lambda: list(kernel.sysctl("net.ipv4.tcp_rmem"))),
        "tcp_wmem": _or_none(lambda: list(kernel.sysctl("net.ipv4.tcp_wmem"))),
    }


@cache
def _processor() -> dict[str, Any]:
    """Model and virtualisation from the first processor's part of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    with suppress(OSError), open("/proc/cpuinfo", errors="replace") as file:
        for line in file:
            if not line.strip():
                break  # the rest is long, and slow to generate, with many processors
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    flags = fields.get("flags")  # x86 only; ARM's list, Features, has no such bit
    return {
        "cpu": fields.get("model name") or _or_none(platform.processor) or None,
        "hypervisor": None if flags is None else "hypervisor" in flags.split(),
    }


@cache
def _own_version() -> str:
    from importlib import metadata as installed  # slow to import

    return _or_none(lambda: installed.version("epolllab")) or "unknown"


def _imported_version(name: str) -> str | None:
    version = getattr(sys.modules.get(name), "__version__", None)
    return None if version is None else str(version)


_BATCH = 100
"""Calls that are timed together."""


def _median(costs: list[int]) -> int:
    return sorted(costs)[len(costs) // 2]  # statistics is slow to import


def _call_cost_ns(call: Callable[[], object], n: int) -> float:
    """Median over batches of the time of one call, without the loop around it."""
    # A batch takes a few tens of microseconds, so that most run between two thread switches.
    clock = time.perf_counter_ns
    costs = []
    for _ in repeat(None, max(n // _BATCH, 1)):
        start = clock()
        for _ in repeat(None, _BATCH):
            pass
        middle = clock()
        for _ in repeat(None, _BATCH):
            call()
        costs.append(clock() - middle - (middle - start))
    return max(_median(costs) / _BATCH, 0.0)


def recorder_cost_ns(n: int = 20_000) -> float:
    """Measure what writing one record costs now.

    Parameters
    ----------
    n : int
        Records to write into a small ring of its own, at least 100.

    Returns
    -------
    float
        Median over batches of 100, in ns. A recorded system call also costs two clock
        readings (``clock_cost_ns``). Other threads of this process and a busy machine
        increase the result, so measure before the load starts.
    """
    check_int("n", n, _BATCH, 10**9)
    recorder = Recorder(1000)
    t_ns, stage, clock = recorder.clock(), recorder.stage, time.perf_counter_ns
    key, op = key_of(1, 10), int(Op.RECV)
    costs = []
    for _ in repeat(None, n // _BATCH):
        start = clock()
        for _ in repeat(None, _BATCH):
            stage((t_ns, t_ns + 900, key, 512, op))
        recorder.settle()
        costs.append(clock() - start)
    return _median(costs) / _BATCH


@cache
def _recorder_cost_once() -> float:
    """Measure once per process: the cost does not change, and a server may run later."""
    return round(recorder_cost_ns(5_000), 1)


def summary(metadata: Mapping[str, Any]) -> str:
    """Return the environment in one line, as for the foot of a chart.

    For example ``"Linux 6.1.0, AMD EPYC x 2 (virtual), CPython 3.11.2, load 0.4, recorder
    0.35 µs a record"``; ``"circumstances unknown"`` if nothing is known. `metadata` is that
    of :func:`collect` or of a recording; missing keys are left out.
    """
    known = _Formatter(metadata)
    parts = (
        known.text("{system} {kernel}"),
        known.processor(),
        known.python(),
        known.text("load {load_average[0]}"),
        known.recorder("recorder "),
        throttled(metadata) or known.quota("CPU quota "),
    )
    return ", ".join(part.strip() for part in parts if part.strip()) or "circumstances unknown"


def describe(metadata: Mapping[str, Any]) -> str:
    """Return the environment in lines of ``name: value``, the run's parameters last.

    `metadata` as for :func:`summary`.
    """
    known = _Formatter(metadata)
    rows = {
        "machine": known.processor() + known.text(", {machine}", ", governor {cpu_governor}"),
        "CPU quota": throttled(metadata) or known.quota(),
        "kernel": known.text("{system} {kernel}"),
        "memory": known.memory(),
        "load": known.text("{load_average[0]} over the last minute"),
        "python": known.python() + known.text(
            ", switch interval {switch_interval_s} s", ", numpy {numpy}", ", pandas {pandas}",
            ", matplotlib {matplotlib}",
        ),
        "clock": known.text("{clock}", " from {clock_source}", ", {clock_cost_ns} ns a reading"),
        "recorder": known.recorder(),
        "descriptors": known.text(
            "{descriptor_limit_soft:,}", ", at most {descriptor_limit_hard:,}"
        ),
        "backlog": known.text("at most {somaxconn:,}"),
        "buffers": known.text(
            "receive {tcp_rmem[1]:,}, at most {tcp_rmem[2]:,} bytes",
            "; send {tcp_wmem[1]:,}, at most {tcp_wmem[2]:,} bytes",
        ),
        "epolllab": known.text("{epolllab}"),
        "started": known.text("{started}"),
        "parameters": ", ".join(
            f"{name}={value!r}"
            for name, value in metadata.items()
            if name not in KEYS and name not in END_KEYS
        ),
    }  # fmt: skip
    lines = [f"{name + ':':<13}{text.strip(' ,;')}" for name, text in rows.items() if text]
    return "\n".join(lines) or "circumstances unknown"


class _Formatter:
    """Formats pieces of text; a piece with a missing value is empty."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._facts = {name: value for name, value in metadata.items() if value is not None}

    def text(self, *patterns: str) -> str:
        """Format each pattern and join them."""
        pieces = []
        for pattern in patterns:
            with suppress(LookupError, TypeError, ValueError):  # missing, or of another type
                pieces.append(pattern.format(**self._facts))
        return "".join(pieces)

    def processor(self) -> str:
        virtual = " (virtual)" if self._facts.get("hypervisor") else ""
        return self.text("{cpu}", " x {cpu_count}") + virtual

    def python(self) -> str:
        without_gil = " without GIL" if self._facts.get("gil") is False else ""
        return self.text("{implementation} {python}") + without_gil

    def number(self, name: str) -> float:
        """A number that is 0 where it is missing."""
        value = self._facts.get(name)
        return value if isinstance(value, int | float) else 0

    def quota(self, prefix: str = "") -> str:
        """The least CPU quota of the groups, in processors."""
        quotas = self._facts.get("cpu_quotas")
        known = quotas.values() if isinstance(quotas, Mapping) else ()
        least = min((q for q in known if isinstance(q, int | float)), default=None)
        return "" if least is None else f"{prefix}{least:.3g} processors"

    def memory(self) -> str:
        n_bytes = self._facts.get("memory_bytes")
        return f"{n_bytes / 2**30:.1f} GiB" if isinstance(n_bytes, int) else ""

    def recorder(self, prefix: str = "") -> str:
        cost_ns = self._facts.get("recorder_cost_ns")
        if not isinstance(cost_ns, int | float):
            return ""
        return f"{prefix}{cost_ns / 1000:.2f} µs a record" if cost_ns else "not recorded"


def require_same_boot(*metadatas: Mapping[str, Any]) -> None:
    """Raise ValueError if times of different boots would be compared.

    The monotonic clock restarts at each boot of each machine; containers of one machine
    share it. A mapping without ``boot_id`` passes: it was made by hand, or not on Linux.
    """
    known = [metadata for metadata in metadatas if metadata.get("boot_id") is not None]
    for other in known[1:]:
        if other["boot_id"] != known[0]["boot_id"]:
            raise ValueError(
                "times from different boots cannot be joined, because their clocks are "
                f"unrelated: {_boot(known[0])}, but {_boot(other)}. Record both sides on one "
                "machine in one boot"
            )


def _boot(metadata: Mapping[str, Any]) -> str:
    kernel_name = metadata.get("kernel") or "unknown"
    started = metadata.get("started") or "unknown"
    return f"boot {metadata['boot_id']} (kernel {kernel_name}, started {started})"
