"""The circumstances of a run, so that a number never stands alone.

One job: collect what a reader needs to judge a measurement, as a dictionary that
JSON can hold, and say it in words. This file knows no recording and no chart.

What cannot be found out is None; collecting never fails for it, on any operating
system. Third-party packages are named only if the program has imported them.
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
from epolllab.events import Op, key_of
from epolllab.recording.recorder import Recorder

__all__ = ["KEYS", "collect", "describe", "recorder_cost_ns", "require_same_boot", "summary"]


KEYS: dict[str, str] = {
    "started": "when this was collected, UTC, ISO 8601",
    "started_ns": "the same instant on the monotonic clock of all records, ns",
    "boot_id": "random identity of this boot; the clocks of two boots cannot be compared",
    "epolllab": "version of this package",
    "system": "operating system",
    "kernel": "release of the kernel",
    "machine": "processor architecture",
    "cpu": "processor model",
    "cpu_count": "logical processors that are online",
    "cpu_affinity": "logical processors that the collecting thread may run on, list of numbers",
    "cpu_governor": "how the kernel chooses the processor's frequency",
    "hypervisor": "whether the processor says that it is a virtual machine's",
    "memory_bytes": "physical memory, bytes",
    "load_average": "mean number of runnable tasks over 1, 5 and 15 minutes",
    "python": "version of Python",
    "implementation": "implementation of Python",
    "gil": "whether Python has its global interpreter lock",
    "switch_interval_s": "how long a Python thread keeps the lock when another wants it, s",
    "numpy": "version of numpy, if imported",
    "pandas": "version of pandas, if imported",
    "matplotlib": "version of matplotlib, if imported",
    "clock": "clock of all records",
    "clock_source": "hardware that the kernel reads for that clock",
    "clock_resolution_ns": "resolution that the clock claims, ns",
    "clock_cost_ns": "one reading of it from Python, median, ns",
    "recorder_cost_ns": "writing one record, without two clock readings, median, ns; 0: none made",
    "descriptor_limit_soft": "descriptors allowed now",
    "descriptor_limit_hard": "descriptors to which the process may raise that itself",
    "somaxconn": "bound on a listener's backlog, connections",
    "local_ports": "first and last port given to connecting sockets",
    "tcp_rmem": "least, initial and greatest receive buffer of a TCP socket, bytes",
    "tcp_wmem": "least, initial and greatest send buffer of a TCP socket, bytes",
}
"""What :func:`collect` finds out: key to meaning and unit. Parameters come beside these."""


def collect(*, recorder_cost_ns: float | None = None, **parameters: Any) -> dict[str, Any]:
    """Collect the circumstances of a run that begins now.

    Parameters
    ----------
    recorder_cost_ns : float, optional
        What writing one record costs, where the caller knows it: 0 if the run records
        nothing. By default it is measured, once in a process.
    **parameters
        What the run was asked to do, kept beside the circumstances; what JSON can
        hold, under names that are not in :data:`KEYS`.

    Returns
    -------
    dict
        All of :data:`KEYS`, None for what is not known here, then the parameters.
        A few milliseconds the first time in a process, when the recorder is timed
        (see :func:`recorder_cost_ns`), and under two after that.

    Raises
    ------
    ValueError
        A parameter has the name of a circumstance.
    TypeError
        A parameter is not what JSON can hold.
    """
    taken = sorted(KEYS.keys() & parameters.keys())
    if taken:
        raise ValueError(
            f"{', '.join(taken)}: a circumstance has this name already; "
            "give the parameter another one"
        )
    _require_json(parameters)
    cost = _recorder_cost_once() if recorder_cost_ns is None else recorder_cost_ns
    facts = {
        **_instant(),
        **_machine(),
        **_python(),
        **_clock(),
        **_limits(),
        "recorder_cost_ns": cost,
    }
    return {**{key: facts[key] for key in KEYS}, **parameters}


def _require_json(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"parameter {name} is a {type(value).__name__} ({error}); metadata travel as "
                "JSON, so give a number, a string, None, or a list or dictionary of them"
            ) from error


def _or_none(ask: Callable[[], Any]) -> Any:
    """Return the answer; None where this system has none, whatever it says instead."""
    # Files, system calls, attributes and modules that are not there, text that is cut:
    # any of them means "not known here", and a run must not fail for it.
    with suppress(OSError, AttributeError, ImportError, ValueError, LookupError):
        return ask()
    return None


def _line(*path: str) -> str | None:
    text: str | None = _or_none(lambda: Path("/", *path).read_text(errors="replace").strip())
    return text or None


def _instant() -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "started_ns": time.monotonic_ns(),
        "boot_id": _line("proc", "sys", "kernel", "random", "boot_id"),
    }


def _machine() -> dict[str, Any]:
    return {
        "system": platform.system() or None,
        "kernel": platform.release() or None,
        "machine": platform.machine() or None,
        **_processor(),
        "cpu_count": os.cpu_count(),
        "cpu_affinity": _or_none(lambda: sorted(os.sched_getaffinity(0))),
        "cpu_governor": _line(
            "sys", "devices", "system", "cpu", "cpu0", "cpufreq", "scaling_governor"
        ),
        "memory_bytes": _or_none(lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "load_average": _or_none(lambda: [round(load, 2) for load in os.getloadavg()]),
    }


@cache
def _processor() -> dict[str, Any]:
    """Model and virtual machine from the first processor's part of /proc/cpuinfo.

    The whole file is long, and slow to make, on a machine with many processors.
    """
    fields: dict[str, str] = {}
    with suppress(OSError), open("/proc/cpuinfo", errors="replace") as file:
        for line in file:
            if not line.strip():
                break
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    flags = fields.get("flags")  # x86 only; ARM's list is called Features and knows no such bit
    return {
        "cpu": fields.get("model name") or _or_none(platform.processor) or None,
        "hypervisor": None if flags is None else "hypervisor" in flags.split(),
    }


def _python() -> dict[str, Any]:
    return {
        "epolllab": _own_version(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "gil": bool(getattr(sys, "_is_gil_enabled", lambda: True)()),  # asked for since 3.13
        "switch_interval_s": _or_none(lambda: sys.getswitchinterval()),
        **{name: _imported_version(name) for name in ("numpy", "pandas", "matplotlib")},
    }


@cache
def _own_version() -> str:
    from importlib import metadata as installed  # slow to import, so only here

    return _or_none(lambda: installed.version("epolllab")) or "unknown"


def _imported_version(name: str) -> str | None:
    version = getattr(sys.modules.get(name), "__version__", None)
    return None if version is None else str(version)


def _clock() -> dict[str, Any]:
    info = time.get_clock_info("monotonic")
    return {
        "clock": info.implementation,
        "clock_source": _line(
            "sys", "devices", "system", "clocksource", "clocksource0", "current_clocksource"
        ),
        "clock_resolution_ns": info.resolution * 1e9,
        "clock_cost_ns": round(_call_cost_ns(time.monotonic_ns, n=1500), 1),
    }


def _limits() -> dict[str, Any]:
    limits = _or_none(kernel.descriptor_limits)
    return {
        "descriptor_limit_soft": limits and limits.soft,
        "descriptor_limit_hard": limits and limits.hard,
        "somaxconn": _or_none(kernel.somaxconn),
        "local_ports": _or_none(lambda: list(kernel.local_port_range())),
        "tcp_rmem": _or_none(lambda: list(kernel.sysctl("net.ipv4.tcp_rmem"))),
        "tcp_wmem": _or_none(lambda: list(kernel.sysctl("net.ipv4.tcp_wmem"))),
    }


# --- the instrument's own cost ----------------------------------------------------------

_BATCH = 100


def _call_cost_ns(call: Callable[..., object], *arguments: object, n: int) -> float:
    """Median over batches of the time of one call, without the loop around it.

    A batch is a few tens of microseconds, so that most of them run between two
    switches of threads, and the median is of those that did.
    """
    clock = time.perf_counter_ns
    costs = []
    for _ in repeat(None, max(n // _BATCH, 1)):
        start = clock()
        for _ in repeat(None, _BATCH):
            pass
        turn = clock()
        for _ in repeat(None, _BATCH):
            call(*arguments)
        costs.append(clock() - turn - (turn - start))
    return max(sorted(costs)[len(costs) // 2] / _BATCH, 0.0)


def recorder_cost_ns(n: int = 20_000) -> float:
    """Measure what writing one record costs here, now.

    Parameters
    ----------
    n : int
        Records staged and settled, into a small ring of its own.

    Returns
    -------
    float
        Median over batches of 100, in ns. A recorded system call costs in addition
        two readings of the clock (``clock_cost_ns``). Other threads of this process
        and a busy machine make it greater, so measure before the load starts.

    Raises
    ------
    ValueError
        `n` is less than one batch.
    """
    if n < _BATCH:
        raise ValueError(f"n is at least {_BATCH}, one batch, not {n}")
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
    return sorted(costs)[len(costs) // 2] / _BATCH


@cache
def _recorder_cost_once() -> float:
    """Measured once in a process: it does not change, and a server may be running by then."""
    return round(recorder_cost_ns(5_000), 1)


# --- in words ---------------------------------------------------------------------------


def summary(metadata: Mapping[str, Any]) -> str:
    """Say the circumstances in one line, as for the foot of a chart.

    Parameters
    ----------
    metadata : mapping
        From :func:`collect` or a recording; what is missing in it is left out.

    Returns
    -------
    str
        For example ``"Linux 6.1.0, AMD EPYC x 2 (virtual), CPython 3.11.2, load 0.4,
        recorder 0.35 µs a record"``; ``"circumstances unknown"`` if none is known.
    """
    known = _Known(metadata)
    parts = (
        known.text("{system} {kernel}"),
        known.text("{cpu}") + known.text(" x {cpu_count}") + _virtual(metadata),
        known.text("{implementation} {python}") + _without_gil(metadata),
        known.text("load {load_average[0]}"),
        _recorder(metadata.get("recorder_cost_ns")),
    )
    return ", ".join(part.strip() for part in parts if part.strip()) or "circumstances unknown"


def describe(metadata: Mapping[str, Any]) -> str:
    """Say the circumstances in a few lines, for a terminal or the method box of a chart.

    Parameters
    ----------
    metadata : mapping
        From :func:`collect` or a recording; what is missing in it is left out.

    Returns
    -------
    str
        Lines of ``name: value``, the parameters of the run last.
    """
    known = _Known(metadata)
    rows = {
        "machine": known.text("{cpu}") + known.text(" x {cpu_count}") + _virtual(metadata)
        + known.text(", {machine}") + known.text(", governor {cpu_governor}"),
        "kernel": known.text("{system} {kernel}"),
        "memory": known.text("{} GiB", _gibibytes(metadata.get("memory_bytes"))),
        "load": known.text("{load_average[0]} over the last minute"),
        "python": known.text("{implementation} {python}") + _without_gil(metadata)
        + known.text(", switch interval {switch_interval_s} s")
        + "".join(known.text(f", {name} {{{name}}}") for name in ("numpy", "pandas", "matplotlib")),
        "clock": known.text("{clock}") + known.text(" from {clock_source}")
        + known.text(", {clock_cost_ns} ns a reading"),
        "recorder": _recorder(metadata.get("recorder_cost_ns")).removeprefix("recorder "),
        "descriptors": known.text("{descriptor_limit_soft:,}")
        + known.text(", at most {descriptor_limit_hard:,}"),
        "backlog": known.text("at most {somaxconn:,}"),
        "buffers": known.text("receive {tcp_rmem[1]:,}, at most {tcp_rmem[2]:,} bytes")
        + known.text("; send {tcp_wmem[1]:,}, at most {tcp_wmem[2]:,} bytes"),
        "epolllab": known.text("{epolllab}"),
        "started": known.text("{started}"),
        "parameters": _parameters(metadata),
    }  # fmt: skip
    lines = [f"{name + ':':<13}{text.strip(' ,;')}" for name, text in rows.items() if text]
    return "\n".join(lines) or "circumstances unknown"


class _Known:
    """Formats pieces of text, and gives an empty one where a fact is missing."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._facts = {name: value for name, value in metadata.items() if value is not None}

    def text(self, pattern: str, *values: object) -> str:
        if None in values:
            return ""
        try:
            return pattern.format(*values, **self._facts)
        except (LookupError, TypeError, ValueError):  # missing, or of another shape
            return ""


def _virtual(metadata: Mapping[str, Any]) -> str:
    return " (virtual)" if metadata.get("hypervisor") else ""


def _without_gil(metadata: Mapping[str, Any]) -> str:
    return " without GIL" if metadata.get("gil") is False else ""


def _recorder(cost_ns: object) -> str:
    if not isinstance(cost_ns, (int, float)):
        return ""
    return f"recorder {cost_ns / 1000:.2f} µs a record" if cost_ns else "not recorded"


def _gibibytes(n_bytes: object) -> str | None:
    return f"{n_bytes / 2**30:.1f}" if isinstance(n_bytes, int) else None


def _parameters(metadata: Mapping[str, Any]) -> str:
    given = {name: value for name, value in metadata.items() if name not in KEYS}
    return ", ".join(f"{name}={value!r}" for name, value in given.items())


def require_same_boot(*metadatas: Mapping[str, Any]) -> None:
    """Refuse to compare times of different boots.

    The monotonic clock starts anew at each boot of each machine, and containers of
    one machine share it. A mapping without ``boot_id`` is let through: it was
    made by hand, or elsewhere than on Linux.

    Parameters
    ----------
    *metadatas : mapping
        Two or more, of the recordings to be joined.

    Raises
    ------
    ValueError
        Two of them have a different ``boot_id``.
    """
    named = [metadata for metadata in metadatas if metadata.get("boot_id") is not None]
    first = named[0] if named else {}
    for other in named:
        if other["boot_id"] != first["boot_id"]:
            raise ValueError(
                "times of different boots cannot be joined, their clocks have nothing in common: "
                f"{_boot(first)}, but {_boot(other)}. Record both sides on one machine in one boot"
            )


def _boot(metadata: Mapping[str, Any]) -> str:
    kernel_name = metadata.get("kernel") or "unknown"
    started = metadata.get("started") or "unknown"
    return f"boot {metadata['boot_id']} (kernel {kernel_name}, started {started})"
