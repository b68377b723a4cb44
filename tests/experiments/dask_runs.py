"""A program for test_fleet.py: experiments on a local Dask cluster, described as JSON.

In a process of its own, because Dask keeps threads and descriptors in the caller's.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, LocalCluster

from epolllab import experiments
from epolllab.experiments.catalogue import registry

NAME = "level-repeats"


def add(name: str, function: Any) -> None:
    registry.phenomenon(
        name, family="of the test", claim="Runs.", expected="a process", judge=bool, source="here"
    )(function)


def main(folder: Path) -> dict[str, Any]:
    """Run the catalogue twice, a sweep, and a phenomenon that kills the first worker it meets."""
    flag = folder / "killed"

    def process_id(_: Any) -> int:
        return os.getppid()

    def kill_once(_: Any) -> bool:
        try:
            flag.touch(exist_ok=False)
        except FileExistsError:
            return True
        os.kill(os.getppid(), signal.SIGKILL)
        raise SystemExit

    add("own", process_id)
    add("kills", kill_once)
    found: dict[str, Any] = {"twice": []}
    options: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": None}
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, **options) as cluster,
        Client(cluster) as client,
    ):
        executor = client.get_executor()
        for _ in range(2):
            frame = experiments.run_all(False, only=[NAME, "own"], executor=executor)
            found["twice"].append(
                {
                    "workers": frame["worker"].unique().tolist(),
                    "verdicts": frame["verdict"].unique().tolist(),
                    "processes": frame.loc[frame["name"] == "own", "observed"].nunique(),
                    "notes": frame.attrs["notes"],
                }
            )
        result = experiments.sweep((10,), ops=3, rounds=2, progress=False, executor=executor)
        found["sweep"] = {"runs": list(result.runs()), "notes": result.notes}
        frame = experiments.run_all(False, only="kills", executor=executor)
        found["killed"] = {
            "workers": frame["worker"].tolist(),
            "verdicts": frame["verdict"].unique().tolist(),
            "failures": frame.attrs["failures"],
        }
    children = psutil.Process().children(recursive=True)
    found["children"] = [
        p.cmdline() for p in children if "resource_tracker" not in str(p.cmdline())
    ]
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
