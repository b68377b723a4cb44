"""Made-up data for every chart, small enough to know what must be drawn."""

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Text

from epolllab import analysis, frames, plots
from epolllab.events import Op
from epolllab.plots import widgets
from epolllab.recording import Recording
from tests.samples import Script, served

POLLERS = ("epoll-level", "epoll-edge", "epoll-oneshot", "poll", "select")
CIRCUMSTANCES = {
    "kernel": "6.1", "system": "Linux", "python": "3.11", "implementation": "CPython",
    "clock_floor_ns": 50.0, "raw_floor_ns": 300.0, "notes": ["cut to N = 9,999: 10,000 asked"],
}  # fmt: skip
JOURNEY_NS = {
    "intended_ns": 0, "sent_ns": 1000, "woken_ns": 3000, "ready_ns": 4000, "read_ns": 6000,
    "handled_ns": 9000, "answered_ns": 15_000, "first_byte_ns": 13_000, "done_ns": 20_000,
}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A frame whose text columns are categories, in order of appearance."""
    frame = pd.DataFrame(rows)
    for name in frame.columns[[isinstance(value, str) for value in frame.iloc[0]]]:
        frame[name] = pd.Categorical(frame[name], list(dict.fromkeys(frame[name])))
    return frame


def journeys(*changes: dict[str, Any]) -> pd.DataFrame:
    """A journey of 20 µs for each change; its ``deliver`` span ends before it begins."""
    times = {name: 10**18 + ns for name, ns in JOURNEY_NS.items()}
    journey = {"conn": 3, "request": 1, "local_port": 5000, **times, "total": 20_000}
    frame = pd.DataFrame([journey | change for change in changes or ({},)])
    return frame.astype({name: "Int64" for name in frame if name not in ("conn", "request")})


def interest_list() -> pd.DataFrame:
    """An interest list with an entry of each kind."""

    class Entry:
        def __init__(self, fd: int, mask: int) -> None:
            self.fd, self.mask, self.data, self.inode = fd, mask, fd, 1

    return frames.interest_list([Entry(5, 1), Entry(9, 5)], {5: 1, 7: 4})


def triggers() -> pd.DataFrame:
    """Level and edge at two sizes; edge with one read strands at the larger."""
    rows = []
    for trigger in ("level", "edge"):
        for reading in ("drain", "one read"):
            for size in (10, 100_000):
                lost = 5 if (trigger, reading, size) == ("edge", "one read", 100_000) else 0
                rows.append(
                    {"trigger": trigger, "reading": reading, "clients": "at once", "size": size,
                     "n_connections": 5, "n_stranded": lost, "cpu_us": float(size)}
                )  # fmt: skip
    return table(rows)


def stranded() -> pd.DataFrame:
    """Two connections with unread bytes; the second one's last event came before its bytes."""
    return pd.DataFrame(
        {"conn": [1, 2], "began_ns": 0, "sent_ns": 1_000_000, "last_event_ns": [1_500_000, 900_000],
         "gave_up_ns": 250_000_000, "n_sent": 100_000, "n_read": 16_384}
    )  # fmt: skip


def lifecycles() -> pd.DataFrame:
    """Two life cycles, one of them in two rounds."""
    rows = (("howto", "level", 4.0), ("howto", "level", 4.2), ("once", "edge", 1.0))
    return table([{"lifecycle": c, "trigger": t, "epoll_ctl": n} for c, t, n in rows])


def herd() -> pd.DataFrame:
    """Two ways of sharing a listener, with two numbers of workers."""
    return pd.DataFrame(
        {"arm": ["level", "exclusive"] * 2, "n_workers": [4, 4, 16, 16],
         "voluntary_per_connect": [4.0, 1.0, 16.1, 1.0], "expected_per_connect": [4, 1, 16, 1]}
    )  # fmt: skip


def accepted() -> pd.DataFrame:
    """Connections accepted in turn, and all by the last worker."""
    orders = {"blocking accept": [0, 1, 2, 3] * 3, "exclusive": [3] * 12}
    rows = [(name, k, worker) for name, order in orders.items() for k, worker in enumerate(order)]
    return pd.DataFrame(rows, columns=["arm", "connect", "worker"])


def tails() -> pd.DataFrame:
    """Fifty latencies with each kind of queue."""
    arms = ["exclusive"] * 50 + ["reuseport"] * 50
    return pd.DataFrame({"arm": arms, "worker": 0, "latency_ns": np.arange(1, 101) * 100_000})


def masks() -> pd.DataFrame:
    """Two endings; HUP is reported even with interest 0."""
    return pd.DataFrame(
        {"asked": ["IN|RDHUP", "OUT|HUP"], "unasked": ["nothing", "HUP"]},
        index=["peer closed", "never connected"],
    )


def checks() -> pd.DataFrame:
    """Two servers and two checks, of which one server fails one."""
    return pd.DataFrame(
        {"how-to": [True, False], "ours": [True, True]}, index=["asks", "leaves early"]
    )


def verdicts() -> pd.DataFrame:
    """Three phenomena on two kernels: one differs, one is not possible on one of them."""
    rows = [
        ("differs", "time", "5.4", "differs"), ("differs", "time", "6.1", "holds"),
        ("everywhere", "time", "5.4", "holds"), ("everywhere", "time", "6.1", "holds"),
        ("new", "masks", "5.4", "not possible here"), ("new", "masks", "6.1", "holds"),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["name", "family", "kernel", "verdict"])
    return frame.assign(host="h", python="3.11.7", cpu="EPYC")


def of_workers(frame: pd.DataFrame, n: int = 2) -> pd.DataFrame:
    """The rows of several workers, each 10 % slower than the one before, on other kernels."""
    fixed = {"host": "h", "python": "3.11.7", "cpu": "EPYC"}
    parts = [
        frame.assign(worker=i, kernel=f"6.{i}", wait_ns=frame["wait_ns"] * (1 + i / 10), **fixed)
        for i in range(n)
    ]
    return pd.concat(parts, ignore_index=True)


def numbers() -> pd.DataFrame:
    """Two times, of which one has an expected value."""
    values = {"observed": [1.06, 0.26], "expected": [1.0, np.nan]}
    return pd.DataFrame(values, index=["epoll", "select"])


def waits(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that rows of waits have in common."""
    frame["kind"] = pd.Categorical(frame["kind"] if "kind" in frame else ["eventfd"] * len(frame))
    return frame.assign(t_ns=0, warmup=frame["op"] == -1)


def sweep() -> analysis.Result:
    """Three rounds in which poll and select grow by 45 ns per descriptor, after a warm-up."""
    fixed = {"epoll-level": 900, "epoll-edge": 850, "epoll-oneshot": 860}
    rows = [
        {"round": r, "poller": poller, "api": api, "n_fds": n, "active": 1, "op": op,
         "op_ns": None if api == "raw" else 5 * n + 2000,
         "wait_ns": (fixed.get(poller) or 500 + 45 * n) + r + (100 if api == "python" else 0)
         + 10**7 * (op == -1)}
        for r in range(3) for poller in POLLERS for api in ("raw", "python")
        for n in (10, 100, 1_000) for op in (-1, 0, 1)
        if not (poller == "select" and api == "python" and n == 1_000)
    ]  # fmt: skip
    frame = waits(table(rows)).astype({"op_ns": "Int64"})
    by, values = ("poller", "api", "kind", "n_fds", "active"), ("wait_ns", "op_ns")
    return analysis.Result("sweep", frame, CIRCUMSTANCES, by, values, "n_fds")


def crossover() -> pd.DataFrame:
    """Three combinations of N and active descriptors; poll is faster in the second."""
    times = {(10, 1): (100, 400), (10, 10): (900, 300), (100, 1): (100, 9000)}
    rows = [
        {"round": r, "poller": poller, "api": "raw", "n_fds": n, "active": k, "op": 0,
         "wait_ns": ns + r, "op_ns": None}
        for r in range(4) for (n, k), pair in times.items()
        for poller, ns in zip(("epoll-level", "poll"), pair, strict=True)
    ]  # fmt: skip
    return waits(table(rows)).astype({"op_ns": "Int64"})


def propagation() -> pd.DataFrame:
    """A bound of ten events per epoll wait, and none for poll."""
    rows = [
        {"round": r, "poller": poller, "pairs": 50, "active": k, "writes": 0, "max_events": 10,
         "waits": -(-k // 10) if poller == "epoll-level" else 1, "warmup": r == 0}
        for r in range(3) for poller in ("epoll-level", "poll") for k in (10, 11, 50)
    ]  # fmt: skip
    return table(rows)


def idle() -> pd.DataFrame:
    """Two servers, of which select's cost grows, and ends before the largest size."""
    rows = [
        {"round": r, "server": server, "idle": n, "warmup": False, "requests_per_s": 1000.0,
         "cpu_us": 40 + r + n * slope, "p99_us": 2.0}
        for r in range(3)
        for server, slope in (("epoll-level-eager", 0), ("select-eager", 0.1))
        for n in (0, 100, 1_000)
        if not (server == "select-eager" and n == 1_000)
    ]  # fmt: skip
    return table(rows)


def observers() -> pd.DataFrame:
    """Three ways of observing a process, and two of a thread."""
    rows = [
        {"round": r, "load": "echo", "where": where, "look": look, "warmup": False, "p50_us": us}
        for r in range(3)
        for where in ("process", "thread")
        for look, us in (("plain", 50.0), ("recorder", 60.0), ("strace", 200.0))
        if not (look == "strace" and where == "thread")
    ]  # fmt: skip
    return table(rows)


def history() -> pd.DataFrame:
    """Four steps of a stepper: level returns twice, edge once."""
    return pd.DataFrame(
        {"step": range(4), "action": ["begin", "peer writes 100", "wait", "wait"],
         "readable": [0, 100, 100, 100], "level": [None, None, "IN", "IN"],
         "edge": [None, None, "IN", ""]}
    )  # fmt: skip


def live() -> pd.DataFrame:
    """Two seconds of a dashboard."""
    columns = ("requests_per_s", "wakeups_per_s", "p50_us", "p99_us")
    return pd.DataFrame({"t_s": [0.0, 1.0, 2.0], **{name: [1.0, 3.0, 2.0] for name in columns}})


def curves() -> pd.DataFrame:
    """Two pollers at two sizes."""
    pollers = ["epoll-level", "epoll-level", "poll", "poll"]
    return pd.DataFrame(
        {"poller": pollers, "n_fds": [10, 1000] * 2, "wait_ns": [900, 910, 950, 45_500]}
    )


def every_operation() -> Recording:
    """A call of each kind, one that would block and one that fails."""
    script = Script().wait(1).ready(1)
    for op in set(Op) - {Op.WAIT, Op.READY}:
        script.call(op, 1, 0)
    return script.recv_blocked(1).recv(1, -errno.ECONNRESET).recording()


def by_gid(ax: Axes, gid: str) -> list[Any]:
    """Find all artists with this mark."""
    return ax.findobj(lambda artist: artist.get_gid() == gid)


def words(ax: Axes) -> str:
    """Join all texts of an Axes and its legend."""
    return "\n".join(text.get_text() for text in ax.findobj(Text))


def rows(ax: Axes) -> list[str]:
    """List the labels of the rows."""
    return [label.get_text() for label in ax.get_yticklabels()]


def legend(ax: Axes) -> list[str]:
    """List the legend's labels."""
    drawn = ax.get_legend()
    return [] if drawn is None else [text.get_text() for text in drawn.get_texts()]


CHARTS: dict[str, tuple[Callable[..., Axes], Callable[[], Any]]] = {
    "timeline": (plots.timeline, lambda: served(3, 3).events()),
    "wakeups": (plots.wakeups, lambda: served(3, 3).wakeups()),
    "batch_sizes": (plots.batch_sizes, lambda: served(3, 3).wakeups()),
    "interest": (plots.interest, interest_list),
    "latency": (plots.latency, lambda: journeys({}, {"total": 30_000})),
    "journey": (plots.journey, lambda: journeys({}, {"conn": 4})),
    "level_against_edge": (plots.level_against_edge, triggers),
    "stranded": (plots.stranded, stranded),
    "lifecycles": (plots.lifecycles, lifecycles),
    "idle_connections": (plots.idle_connections, idle),
    "observer_cost": (plots.observer_cost, observers),
    "herd": (plots.herd, herd),
    "accept_balance": (plots.accept_balance, accepted),
    "latency_tails": (plots.latency_tails, tails),
    "masks": (plots.masks, masks),
    "conformance": (plots.conformance, checks),
    "numbers": (plots.numbers, numbers),
    "scaling": (plots.scaling, sweep),
    "ratio": (plots.ratio, sweep),
    "cost_split": (plots.cost_split, sweep),
    "crossover": (plots.crossover, crossover),
    "wait_kinds": (plots.wait_kinds, sweep),
    "staircase": (plots.staircase, propagation),
    "history": (widgets.history, history),
    "live": (widgets.live, live),
    "curves": (widgets.curves, curves),
    "agreement": (plots.agreement, verdicts),
}

NAMED: dict[str, tuple[Callable[..., Axes], Callable[[], Any]]] = {
    "latency of two runs": (
        plots.latency, lambda: {"before": journeys({}), "after": journeys({"total": 30_000})}
    ),
    "wakeups of two runs": (
        plots.wakeups, lambda: {"epoll-level": served(3, 3), "after": served(2, 5)}
    ),
    "batches of three runs": (
        plots.batch_sizes,
        lambda: {"select": served(3, 3), "before": served(2, 5), "after": served(9, 9)},
    ),
    "timeline of every operation": (plots.timeline, every_operation),
}  # fmt: skip
"""Charts of several runs, by name, and one with every colour of an operation."""
