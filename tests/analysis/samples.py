"""Synthetic sweeps."""

import pandas as pd

from epolllab.analysis.shape import ALL_POLLERS


def sweep(times, api="raw"):
    """Three rounds with these waits in ns, poller to {N: ns}; extreme ones are warm-up."""
    rows = [
        {"round": r, "poller": poller, "api": api, "n_fds": n, "active": 1, "warmup": warmup,
         "wait_ns": 10**9 if warmup else ns, "op_ns": 2 * ns}
        for poller, of_size in times.items()
        for n, ns in of_size.items()
        for r in range(3)
        for warmup in (True, False)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"poller": pd.CategoricalDtype(list(ALL_POLLERS))})
