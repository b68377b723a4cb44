"""CPU time per request of epolllab's server and of others.

``python tests/benchmarks/run.py`` prints the table of the README. The load is wrk with 50
connections. The measure is the server's own CPU time, user and system, from /proc: wall
time on a shared machine says little. Each round runs every arm once, in random order.
Ratios are computed within a round; the table has the median over rounds, with the least
and the greatest.
"""

import argparse
import importlib.util
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from arms import Arm, epolllab_server, nginx, script, stored_server

import epolllab
from epolllab import kernel
from epolllab.recording import environment

Starter = Callable[[], AbstractContextManager[Arm]]

# The accept mode matters only where each request has its own connection: arms name it
# there. epolllab's default is "drain".
KEEP_ALIVE: dict[str, Starter] = {
    "http recorded": lambda: epolllab_server(protocol="http"),
    "http bare": lambda: epolllab_server(protocol="http", record=False),
    "http stored": lambda: stored_server(protocol="http"),
    "io_uring recorded": lambda: epolllab_server(protocol="http", poller="io_uring"),
    "io_uring bare": lambda: epolllab_server(protocol="http", poller="io_uring", record=False),
    "nginx": lambda: nginx(keepalive=True),
}
EACH: dict[str, Starter] = {
    "hello recorded, drain": lambda: epolllab_server(accept="drain"),
    "hello recorded, ask": lambda: epolllab_server(accept="ask"),
    "hello bare, drain": lambda: epolllab_server(accept="drain", record=False),
    "hello bare, ask": lambda: epolllab_server(accept="ask", record=False),
    "io_uring recorded": lambda: epolllab_server(poller="io_uring"),
    "io_uring bare": lambda: epolllab_server(poller="io_uring", record=False),
    "nginx": lambda: nginx(keepalive=False),
    "how-to": lambda: script("howto.py"),
    "asyncio": lambda: script("streams.py", "asyncio"),
    "uvloop": lambda: script("streams.py", "uvloop"),
}

OBSERVED: dict[str, Starter] = {
    "uvicorn": lambda: script("asgi.py"),
    "uvicorn, observed": lambda: script("asgi.py", "observed"),
}

Target = tuple[str, str, float | None]
"""Numerator and denominator of a ratio, and what it must be at most."""

KEEP_ALIVE_TARGETS: list[Target] = [
    ("http recorded", "nginx", 1.2),
    ("http bare", "nginx", 1.1),
    ("io_uring recorded", "nginx", 1.1),
    ("io_uring bare", "nginx", None),
    ("http recorded", "http bare", 1.15),
    ("http stored", "http recorded", None),
    ("io_uring recorded", "http recorded", None),
]
EACH_TARGETS: list[Target] = [
    *(
        (f"hello recorded, {accept}", other, most)
        for accept in ("drain", "ask")
        for other, most in (
            ("nginx", 1.4),
            ("asyncio", 0.5),
            ("uvloop", 1.0),
            ("how-to", 0.8),
            (f"hello bare, {accept}", 1.08),
        )
    ),
    ("hello bare, drain", "nginx", 1.2),
    ("hello bare, ask", "nginx", 1.2),
    ("io_uring recorded", "nginx", 1.15),
    ("io_uring bare", "nginx", None),
    ("hello recorded, ask", "hello recorded, drain", None),
    ("hello bare, ask", "hello bare, drain", None),
]

OBSERVED_TARGETS: list[Target] = [("uvicorn, observed", "uvicorn", 1.25)]


def on_other_pythons(pythons: list[str]) -> tuple[dict[str, Starter], list[Target]]:
    """Return arms with keep-alive on other Pythons, which must have epolllab, and ratios."""
    arms: dict[str, Starter] = {}
    targets: list[Target] = []
    for python in pythons:
        version = subprocess.run(
            [python, "-c", "import epolllab, platform; print(platform.python_version())"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        for kind, record in (("recorded", True), ("bare", False)):
            options = json.dumps({"protocol": "http", "record": record})
            name = f"http {kind}, CPython {version}"
            arms[name] = partial(script, "serve.py", options, python=python)
            targets += [(name, "nginx", None), (name, f"http {kind}", None)]
    return arms, targets


def load(port: int, seconds: float) -> int:
    """Load a server with wrk; return the number of responses."""
    output = subprocess.run(
        ["wrk", "-t1", "-c50", f"-d{seconds}s", f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"(\d+) requests in", output)
    assert found is not None, output
    return int(found[1])


class Cost(NamedTuple):
    """CPU time of a request."""

    us: float
    user: float
    """Share of it in user mode, from ticks of 10 ms."""


def cost_per_request(starter: Starter, seconds: float) -> Cost:
    """Start an arm, warm it up, load it; return its cost."""
    with starter() as arm:
        load(arm.port, 1)
        before, ticks = kernel.cpu_time_ns(arm.pid), _ticks(arm.pid)
        requests = load(arm.port, seconds)
        us = (kernel.cpu_time_ns(arm.pid) - before) / requests / 1000
        user, system = (b - a for a, b in zip(ticks, _ticks(arm.pid), strict=True))
        return Cost(us, user / max(user + system, 1))


def _ticks(pid: int) -> tuple[int, int]:
    """User and system time of a process in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])


def rounds(arms: dict[str, Starter], n: int, seconds: int) -> dict[str, list[Cost]]:
    """Measure every arm `n` times, in random order within a round."""
    costs: dict[str, list[Cost]] = {name: [] for name in arms}
    for _ in range(n):
        for name in random.sample(list(arms), len(arms)):
            costs[name].append(cost_per_request(arms[name], seconds))
    return costs


def report(title: str, costs: dict[str, list[Cost]], targets: list[Target]) -> None:
    """Print the arms and the ratios."""
    for name, values in costs.items():
        user = statistics.median(cost.us * cost.user for cost in values)
        print(f"| {name}, {title} | {spread([c.us for c in values])} µs, {user:.1f} user | |")
    for top, bottom, most in targets:
        if top in costs and bottom in costs:
            ratios = [a.us / b.us for a, b in zip(costs[top], costs[bottom], strict=True)]
            target = "" if most is None else f"at most {most}"
            print(f"| {top} / {bottom}, {title} | {spread(ratios, 2)} | {target} |")


def spread(values: list[float], digits: int = 1) -> str:
    """Median, least and greatest."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def clients_against_wrk(n: int, seconds: int) -> None:
    """Print run_clients' request rate at nginx, one connection per request, over wrk's."""
    ratios = []
    with nginx(keepalive=False) as arm:
        for _ in range(n):
            wrk = load(arm.port, seconds) / seconds
            run = epolllab.run_clients(
                ("127.0.0.1", arm.port), connections=50, duration=seconds, progress=False
            )
            ratios.append(run.summary()["requests_per_s"] / wrk)
    print(
        f"| run_clients / wrk, requests per second at nginx | {spread(ratios, 2)} | at least 0.5 |"
    )


def frames(n: int) -> None:
    """Print the cost of a frame of ten million events."""
    costs = [tuple(map(float, _output(str(HERE / "frames_cost.py")).split())) for _ in range(n)]
    seconds, memory = zip(*costs, strict=True)
    print(f"| frame of 10 million events | {spread(list(seconds))} s | under 3 s |")
    print(f"| peak memory of that / the buffer | {spread(list(memory), 2)} | under 3 |")


def storing(n: int, seconds: int) -> None:
    """Print what a recording in a folder keeps up with."""
    for rate in (300_000, 600_000, 1_000_000):
        runs = [
            list(map(float, _output(str(HERE / "storing.py"), str(rate), str(seconds)).split()))
            for _ in range(n)
        ]
        written, lost, size, us, ended = map(list, zip(*runs, strict=True))
        what, is_first = f"stored at {rate:,} rows/s", rate == 300_000
        print(f"| {what}: written | {spread(written, 0)} rows/s | |")
        print(f"| {what}: lost | {spread(lost, 0)} rows | {'none' if is_first else ''} |")
        print(f"| {what}: on disk | {spread(size)} bytes a row | at most 12 |")
        print(f"| {what}: CPU of the child | {spread(us, 2)} µs a row | |")
        print(f"| {what}: until stop() has returned | {spread(ended, 2)} s | |")


def imports(n: int) -> None:
    """Print the time to import the package, without the start of the interpreter."""
    code = "import time; t = time.perf_counter(); import epolllab; print(time.perf_counter() - t)"
    seconds = [float(_output("-c", code)) for _ in range(n)]
    print(f"| import epolllab | {spread(seconds, 3)} s | under 0.15 s |")


def _output(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def available(arms: dict[str, Starter]) -> dict[str, Starter]:
    """Leave out arms that are not installed, with a message."""
    missing = set()
    if not (shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")):
        missing.add("nginx")
    missing.update(m for m in ("uvloop", "uvicorn") if importlib.util.find_spec(m) is None)
    if "uvicorn" in missing:
        missing.add("uvicorn, observed")
    for name in sorted(missing & arms.keys()):
        print(f"{name} is not installed; its arm is left out")
    return {name: starter for name, starter in arms.items() if name not in missing}


PARTS = (
    "keep-alive", "one connection per request", "observe", "clients", "frames", "storing",
    "imports",
)  # fmt: skip


def main() -> None:
    """Run all parts, or those chosen with --only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument(
        "--python", action="append", default=[], help="another Python as an arm, with epolllab"
    )
    options = parser.parse_args()
    n, seconds, wanted = options.rounds, options.seconds, options.only or PARTS
    print(environment.describe(environment.collect()))
    print("\n| metric (µs: CPU per request) | median (least to greatest) | target |")
    print("|---|---|---|")
    if "keep-alive" in wanted:
        others, ratios = on_other_pythons(options.python)
        costs = rounds(available(KEEP_ALIVE) | others, n, seconds)
        report("keep-alive", costs, KEEP_ALIVE_TARGETS + ratios)
    if "one connection per request" in wanted:
        report("one connection per request", rounds(available(EACH), n, seconds), EACH_TARGETS)
    if "observe" in wanted:
        report("keep-alive", rounds(available(OBSERVED), n, seconds), OBSERVED_TARGETS)
    if "clients" in wanted:
        clients_against_wrk(n, seconds)
    if "frames" in wanted:
        frames(n)
    if "storing" in wanted:
        storing(n, 3 * seconds)
    if "imports" in wanted:
        imports(n)


if __name__ == "__main__":
    main()
