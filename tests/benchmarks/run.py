"""CPU time per request of our server beside others, in one run with arms in turn.

Run it as ``python tests/benchmarks/run.py``; it prints the table of the README. The
load is wrk with 50 connections; what is counted is the server's own CPU time, user
and system, from /proc, since wall time on a shared machine says little. Each round
runs every arm once, in random order; a ratio is made within a round, and what is
printed is the median over rounds with the least and the greatest.
"""

import argparse
import importlib.util
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from arms import Arm, epolllab_server, nginx, script

import epolllab
from epolllab import kernel
from epolllab.recording import environment

Starter = Callable[[], AbstractContextManager[Arm]]

KEEP_ALIVE: dict[str, Starter] = {
    "http recorded": lambda: epolllab_server(protocol="http"),
    "http bare": lambda: epolllab_server(protocol="http", record=False),
    "nginx": lambda: nginx(keepalive=True),
}
EACH: dict[str, Starter] = {
    "hello recorded": epolllab_server,
    "hello bare": lambda: epolllab_server(record=False),
    "nginx": lambda: nginx(keepalive=False),
    "how-to": lambda: script("howto.py"),
    "asyncio": lambda: script("streams.py", "asyncio"),
    "uvloop": lambda: script("streams.py", "uvloop"),
}

# (what, numerator, denominator, at most)
KEEP_ALIVE_TARGETS = [
    ("recorded http keep-alive / nginx", "http recorded", "nginx", 1.25),
    ("record on / off, keep-alive", "http recorded", "http bare", 1.15),
]
EACH_TARGETS = [
    ("recorded hello / nginx, a connection a request", "hello recorded", "nginx", 1.5),
    ("recorded hello / asyncio", "hello recorded", "asyncio", 0.5),
    ("recorded hello / uvloop", "hello recorded", "uvloop", 1.0),
    ("recorded hello / the how-to's script", "hello recorded", "how-to", 0.8),
    ("record on / off, a connection a request", "hello recorded", "hello bare", 1.08),
]


def load(port: int, seconds: float) -> int:
    """Load a server with wrk; return how many requests it answered."""
    output = subprocess.run(
        ["wrk", "-t1", "-c50", f"-d{seconds}s", f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"(\d+) requests in", output)
    assert found is not None, output
    return int(found[1])


def cpu_us_per_request(starter: Starter, seconds: float) -> float:
    """Start an arm, warm it up, load it; microseconds of CPU a request."""
    with starter() as arm:
        load(arm.port, 1)
        before = kernel.cpu_time_ns(arm.pid)
        requests = load(arm.port, seconds)
        return (kernel.cpu_time_ns(arm.pid) - before) / requests / 1000


def rounds(arms: dict[str, Starter], n: int, seconds: int) -> dict[str, list[float]]:
    """Every arm `n` times, in random order within a round."""
    costs: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(n):
        for name in random.sample(list(arms), len(arms)):
            costs[name].append(cpu_us_per_request(arms[name], seconds))
    return costs


def report(
    title: str, costs: dict[str, list[float]], targets: list[tuple[str, str, str, float]]
) -> None:
    """Print the arms and the ratios."""
    for name, values in costs.items():
        print(f"| {name}, {title} | {spread(values)} µs | |")
    for what, top, bottom, most in targets:
        if top in costs and bottom in costs:
            ratios = [a / b for a, b in zip(costs[top], costs[bottom], strict=True)]
            print(f"| {what} | {spread(ratios, 2)} | at most {most} |")


def spread(values: list[float], digits: int = 1) -> str:
    """Median, least and greatest."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def clients_against_wrk(n: int, seconds: int) -> None:
    """Requests a second at nginx, a connection a request: our clients over wrk."""
    ratios = []
    with nginx(keepalive=False) as arm:
        for _ in range(n):
            wrk = load(arm.port, seconds) / seconds
            run = epolllab.run_clients(
                ("127.0.0.1", arm.port), connections=50, duration=seconds, progress=False
            )
            ratios.append(run.summary()["requests_per_s"] / wrk)
    print(f"| our clients / wrk, requests a second at nginx | {spread(ratios, 2)} | at least 0.5 |")


def frames(n: int) -> None:
    """Ten million events to a frame."""
    costs = [tuple(map(float, _output(str(HERE / "frames_cost.py")).split())) for _ in range(n)]
    seconds, memory = zip(*costs, strict=True)
    print(f"| 10 million events to the events frame | {spread(list(seconds))} s | under 3 s |")
    print(f"| its peak memory / the buffer | {spread(list(memory), 2)} | under 3 |")


def imports(n: int) -> None:
    """Importing the package in a fresh interpreter, the interpreter's own start left out."""
    code = "import time; t = time.perf_counter(); import epolllab; print(time.perf_counter() - t)"
    seconds = [float(_output("-c", code)) for _ in range(n)]
    print(f"| import epolllab | {spread(seconds, 3)} s | under 0.15 s |")


def _output(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def available(arms: dict[str, Starter]) -> dict[str, Starter]:
    """Leave out, and say so, what is not installed here."""
    missing = set()
    if not (shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")):
        missing.add("nginx")
    if importlib.util.find_spec("uvloop") is None:
        missing.add("uvloop")
    for name in sorted(missing & arms.keys()):
        print(f"{name} is not installed; its arm is left out")
    return {name: starter for name, starter in arms.items() if name not in missing}


PARTS = ("keep-alive", "a connection a request", "clients", "frames", "imports")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", choices=PARTS, action="append")
    options = parser.parse_args()
    n, seconds, wanted = options.rounds, options.seconds, options.only or PARTS
    print(environment.describe(environment.collect()))
    print("\n| CPU per request, or what is said | median (least to greatest) | target |")
    print("|---|---|---|")
    if "keep-alive" in wanted:
        report("keep-alive", rounds(available(KEEP_ALIVE), n, seconds), KEEP_ALIVE_TARGETS)
    if "a connection a request" in wanted:
        report("a connection a request", rounds(available(EACH), n, seconds), EACH_TARGETS)
    if "clients" in wanted:
        clients_against_wrk(n, seconds)
    if "frames" in wanted:
        frames(n)
    if "imports" in wanted:
        imports(n)


if __name__ == "__main__":
    main()
