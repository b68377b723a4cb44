"""The effect of a load on a server: rates, latencies and CPU time, from one run of clients."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from epolllab import kernel
from epolllab.analysis.statistics import percentile
from epolllab.clients.run import run_clients

__all__ = ["cpu_reader", "measure_load"]


def cpu_reader(pid: int | None, tids: Iterable[int] | None = None) -> Callable[[], int]:
    """Return a function that reads the CPU time of a process, or of some threads of it, in ns."""
    if tids is None:
        return lambda: kernel.cpu_time_ns(pid)
    chosen = list(tids)
    return lambda: sum(kernel.cpu_time_ns(pid, tid) for tid in chosen)


def measure_load(
    target: Any, cpus: Mapping[str, Callable[[], int]], **options: Any
) -> dict[str, Any]:
    """Run clients against a server or an address, with options of ``run_clients()``.

    Returns successful ``requests``, ``errors``, ``requests_per_s``, ``p50_us``, ``p99_us``
    (from the intended start, connecting included), and each column of `cpus` in microseconds
    per successful request. NaN if there was none. `cpus` are functions that read a CPU time
    in ns, such as :func:`cpu_reader` returns, by column.
    """
    before = {column: read() for column, read in cpus.items()}
    run = run_clients(target, progress=False, record=False, **options)
    if run.interrupted:
        raise KeyboardInterrupt
    spent = {column: read() - before[column] for column, read in cpus.items()}
    rows = run.requests()
    good = rows[rows["error"].isna()]
    latency = good["latency_ns"].to_numpy(dtype=float) / 1000
    n = len(good)
    lasted_ns = float(good["done_ns"].max() - rows["intended_ns"].min()) if n else np.nan
    return {
        "requests": n,
        "errors": len(rows) - n,
        "requests_per_s": n / lasted_ns * 1e9 if n else np.nan,
        "p50_us": percentile(latency, 50),
        "p99_us": percentile(latency, 99),
        **{column: ns / n / 1000 if n else np.nan for column, ns in spent.items()},
    }
