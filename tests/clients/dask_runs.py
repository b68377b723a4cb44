"""A program for test_cluster.py: runs on a local Dask cluster, described as JSON.

In a process of its own, because Dask keeps threads and descriptors in the caller's.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

import epolllab
from epolllab import workers
from epolllab.clients import cluster
from tests import conftest


def described(run: epolllab.Run) -> dict[str, Any]:
    """What the tests look at."""
    frame = run.requests()
    return {
        "n_rows": len(frame),
        "failed": frame["error"].notna().groupby(frame["process"]).sum().tolist(),
        "errors": run.errors(),
        "hosts": frame["host"].unique().tolist(),
        "shares": run.shares().astype(object).where(lambda f: f.notna(), None).to_dict("list"),
        "notes": run.notes,
        "counted": run.metadata["server_requests"],
        "boot_id": run.metadata["boot_id"],
        "skew_ns": run.start_skew_ns,
        "repr": repr(run),
    }


def refused(error: type[Exception], **options: Any) -> str:
    """The message of the error that a run raises."""
    with epolllab.start_server() as server:
        try:
            epolllab.run_clients(server, progress=False, **options)
        except error as raised:
            return str(raised)
    return ""


def equal(executor: Any) -> dict[str, Any]:
    """Two equal shares, and again: Dask runs equal submissions once."""
    with epolllab.start_server() as server:
        options = {"connections": 4, "requests": 100, "executor": executor, "progress": False}
        runs = [epolllab.run_clients(server, **options) for _ in range(2)]
        server.settle()
        n_served = server.stats()["requests"]
        n_joined = [len(run.journeys(server)) for run in runs]
    return {"runs": [described(run) for run in runs], "served": n_served, "joined": n_joined}


def killed(executor: Any) -> dict[str, Any]:
    """One of two workers is killed in the middle of an open loop."""
    pid = executor.submit(os.getpid, pure=False).result()
    with epolllab.start_server() as server:

        def kill() -> None:
            while server.is_running and server.stats()["requests"] < 60:
                time.sleep(0.01)
            os.kill(pid, signal.SIGKILL)

        threading.Thread(target=kill).start()
        run = epolllab.run_clients(
            server, connections=4, rate=100, duration=2, executor=executor, progress=False
        )
    return {**described(run), "pid": pid}


def crowded(executor: Any) -> str:
    """More shares than workers."""
    before, cluster.START_S = cluster.START_S, 3.0
    try:
        return refused(TimeoutError, executor=executor, shares=3)
    finally:
        cluster.START_S = before


def other_version(executor: Any) -> str:
    """The caller has another version than the workers."""
    workers._own_version = lambda: "0.0.1"
    try:
        return refused(RuntimeError, executor=executor)
    finally:
        workers._own_version = lambda: epolllab.__version__


def client_processes() -> list[str]:
    """Command lines of client loops on this machine that belong to this program."""
    mark = f"EPOLLLAB_TEST={os.environ['EPOLLLAB_TEST']}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text())
        except OSError:  # ended, or another user's
            continue
    return [line for line in found if "epolllab.clients.executors" in line]


def main() -> None:
    """Print one JSON object."""
    options = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1"}
    with LocalCluster(**options, dashboard_address=":0") as local, Client(local) as client:
        executor = client.get_executor()
        ports = set(conftest._ports())
        found: dict[str, Any] = {
            "equal": equal(executor),
            "other_version": other_version(executor),
            "crowded": crowded(executor),
            "killed": killed(executor),
        }
        deadline = time.monotonic() + 10
        while (left := client_processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        found["processes"] = left
        found["ports"] = sorted(set(conftest._ports()) - ports)
        found["threads"] = [t.name for t in threading.enumerate() if "epolllab" in t.name]
        shut = client.get_executor()
        shut.shutdown()
        found["shut_down"] = refused(ValueError, executor=shut)
        closed = client.get_executor()
    found["closed"] = refused(ValueError, executor=closed)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
