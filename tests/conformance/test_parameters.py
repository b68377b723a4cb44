"""Every parameter of every public function: what is wrong with a value is said by its name.

The functions are found by reading the packages' ``__all__``. A parameter's kind is that of
its name, and each kind has values that are wrong for it. A new parameter needs a kind, or a
reason why any value is accepted.
"""

import inspect
import math
import re
import resource
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import epolllab
from tests.plots import samples

PACKAGES = (
    "", ".kernel", ".server", ".clients", ".recording", ".frames", ".analysis", ".plots",
    ".experiments", ".notebook", ".widgets",
)  # fmt: skip

HUGE = 10**30
NOTHING = object()

KINDS: dict[str, list[Any]] = {
    "count": [-1, 1.5, True, "3", math.nan, HUGE, None, NOTHING],
    "serial": [1.5, True, "3", HUGE, None, NOTHING],
    "number": [-1, "x", True, math.nan, math.inf, 1e300, 10**400, None, NOTHING],
    "switch": ["no", 1, 0.0, None, NOTHING],
    "choice": [5, "nonsense", b"x", None, NOTHING],
    "choices": [5, ["nonsense"], [5], [], None, NOTHING],
    "text": [5, b"x", None, NOTHING],
    "path": [5, "", "a\0b", None, NOTHING],
    "counts": [-1, 1.5, True, "3", [], [-1], [2, 1], [True], [HUGE], None, NOTHING],
    "shares": [5, "x", [], [-0.1], [2.0], [math.nan], [True], None, NOTHING],
    "bytes": ["x", 5, None, NOTHING],
    "frame": [5, "x", [1], None, NOTHING, pd.DataFrame({"a": [1]})],
    "numbers": [5, "x", ["x"], None, [[1], [2]], NOTHING],
    "records": [5, "x", None, NOTHING, np.zeros(3), np.zeros(3, dtype=[("op", "i4")])],
    "axes": [5, "x", NOTHING],
    "object": [5, "x", None, NOTHING],
    "function": [5, "x", None, NOTHING],
    "mapping": [5, "x", [1], None, NOTHING],
    "sockets": [(5,), ("x",), (None,)],
    "executor": [5, "x", True, ProcessPoolExecutor, NOTHING],
}
"""Values that are wrong, by kind. None is right where it is the default."""

PARAMETERS = {
    "count": "connections requests processes capacity source_addresses port recv_size max_events "
    "backlog send_buffer recv_buffer max_connections max_request_bytes newest pid tid wanted "
    "rounds ops runs warmup connects service_us size times least limit names reads_at_most "
    "overwritten status accept active",
    "serial": "seed",
    "number": "duration rate timeout idle_timeout request_timeout seconds every clock_cost_ns p "
    "dpi",
    "switch": "keep_alive progress record allow_remote drain nodelay cork process raise_error "
    "edge oneshot quick pin fresh full published log populate overwrite redact "
    "relative",
    "choice": "poller trigger lifecycle where kind value api study load data_format",
    "choices": "pollers arms kinds servers loads looks clients formats only by values highlight",
    "text": "host path label family claim source title alarm content_type column what",
    "path": "record_to folder",
    "bytes": "payload data rows",
    "frame": "frame requests_frame literature journeys events wakeups table",
    "numbers": "values_of others rounds_of other_rounds x y",
    "records": "records",
    "axes": "ax",
    "object": "script server recording figure sock epfd",
    "function": "handler judge picture make clock",
    "mapping": "circumstances parameters inodes before metadata",
    "counts": "n_fds idle pairs workers sizes",
    "shares": "shares",
    "sockets": "socks",
    "executor": "executor",
}
KIND_OF = {name: kind for kind, names in PARAMETERS.items() for name in names.split()}

OWN_KINDS = {
    "start_server.request_timeout": [-1, 0, "x", True, math.nan, 1e300, NOTHING],
    "start_server.protocol": [5, "nonsense", NOTHING],
    "run_clients.target": [5, None, NOTHING, "http://[", "ftp://127.0.0.1/", "127.0.0.1:x", ("h",)],
    "run_clients.protocol": KINDS["choice"],
    "run_clients.shares": KINDS["count"],
    "run_clients.path": [5, "no-slash", "/a b", "/\n", None, NOTHING],
    "Recording.metadata": KINDS["mapping"],
    "Recording.rows": ["x", 5, None, NOTHING, b"short"],
    "Recording.to_trace.client": [5, "x", NOTHING],
    "Recording.to_trace.path": KINDS["path"],
    "Recording.save.path": KINDS["path"],
    "Recording.load.path": KINDS["path"],
    "Result.save.path": KINDS["path"],
    "Result.load.path": KINDS["path"],
    "Result.table": [5, "x", [1], None, NOTHING],
    "Result.by": [5, ["nonsense"], [5], None, NOTHING],
    "Result.values": [5, ["nonsense"], [5], None, NOTHING],
    "Result.name": KINDS["text"],
    "Result.x": [5, "nonsense", NOTHING],
    "Result.fits.y": [5, "nonsense", NOTHING],
    "Response.body": [5, None, NOTHING],
    "Response.headers": [5, "x", NOTHING, {"A": 1}, {1: "a"}],
    "reference.name": KINDS["text"],
    "Script.steps": [5, ("x",), None, NOTHING],
    "Script.expect.what": [-1, 0, 1.5, True, "x", b"", HUGE, None, NOTHING],
    "kernel.interest_list.epfd": ["x", 1.5, True, None, HUGE, NOTHING],
    "kernel.bytes_readable.sock": ["x", 1.5, True, None, HUGE, NOTHING],
    "kernel.make_poller.name": KINDS["choice"],
    "kernel.make_poller.exempt": [5, ["x"], [-1], NOTHING],
    "kernel.require_linux.what": KINDS["text"],
    "kernel.sysctl.name": [5, None, "/etc/passwd", "..", "", NOTHING],
    "frames.interest_list.entries": [5, ["x"], NOTHING],
    "frames.interest_list.table": [5, {"x": 1}, {1: "x"}, None, NOTHING],
    "frames.journeys.requests": KINDS["frame"],
    "frames.journeys.clients": KINDS["frame"],
    "frames.requests.targets": [5, "x", [5], None, NOTHING],
    "analysis.compare.before": KINDS["object"],
    "analysis.compare.after": KINDS["object"],
    "analysis.beside.ours": [5, "x", {"arm": "x"}, None, NOTHING],
    "analysis.crossover_ratios.data": KINDS["frame"],
    "analysis.literature_ratios.result": KINDS["frame"],
    "analysis.shares.data": KINDS["frame"],
    "analysis.fits.x": [5, "nonsense", None, NOTHING],
    "analysis.fits.y": [5, "nonsense", None, NOTHING],
    "analysis.median_interval.values": KINDS["numbers"],
    "analysis.percentile.values": KINDS["numbers"],
    "analysis.ratio_interval.values": KINDS["numbers"],
    "analysis.ratio_interval.rounds": [5, ["x", "y"], [1], NOTHING],
    "analysis.ratio_interval.other_rounds": [5, ["x", "y"], [1], NOTHING],
    "analysis.fit_line.rounds": [5, ["x", "y"], [1], NOTHING],
    "analysis.growth.rounds": [5, ["x", "y"], [1], NOTHING],
    "analysis.median_interval.rounds": [5, ["x", "y"], [1], NOTHING],
    "analysis.summarise.values": [5, ["nonsense"], [5], None, NOTHING],
    "plots.export.name": [5, "", "../x", "a b", None, NOTHING],
    "plots.export.data": [5, "x", NOTHING],
    "plots.export.folder": [5, NOTHING],
    "plots.conformance.frame": [5, "x", [1], None, NOTHING, pd.DataFrame({"a": [1]})],
    "plots.timeline.connections": [-1, "x", True, [-1], ["x"], HUGE, None, NOTHING],
    "plots.timeline.span": [5, "ab", (1,), (2, 1), (0, math.nan), (0, "x"), NOTHING],
    "plots.timeline.start": [-1, "x", True, math.nan, NOTHING],
    "plots.journey.start": KINDS["choice"],
    "plots.journey.server": KINDS["object"],
    "set_theme.name": KINDS["choice"],
    "Run.save.path": KINDS["path"],
    "Run.load.path": KINDS["path"],
    "plots.cost_split.n_fds": [0, "x", [True], 1.5, HUGE, NOTHING],
    "plots.latency.data": [5, "x", None, NOTHING, {"a": 5}, pd.Series(["x"])],
    "plots.latency.column": [5, "nonsense", None, NOTHING],
    "plots.accept_balance.frame": KINDS["frame"],
    "plots.level_against_edge.what": KINDS["choice"],
    "plots.level_against_edge.clients": KINDS["text"],
    "plots.lifecycles.what": KINDS["choice"],
    "experiments.run_all.workers": KINDS["count"],
    "experiments.sweep.workers": KINDS["count"],
    "experiments.level_against_edge.workers": KINDS["count"],
    "experiments.run_all.only": [5, ["nonsense"], [5], NOTHING],
    "experiments.run.name": [5, "nonsense", None, NOTHING],
    "experiments.phenomenon.name": [5, None, NOTHING],
    "experiments.phenomenon.notes": [5, [5], None, NOTHING],
    "experiments.phenomenon.since": [5, (1,), ("x", 1), NOTHING],
    "experiments.phenomenon.before": [5, (1,), ("x", 1), NOTHING],
    "experiments.propagate.active": KINDS["counts"],
    "experiments.propagate.max_events": KINDS["counts"],
    "experiments.propagate.writes": KINDS["count"],
    "experiments.thundering_herd.workers": KINDS["counts"],
    "experiments.observer_cost.where": KINDS["choices"],
    "experiments.sweep.api": KINDS["choices"],
    "experiments.crossover.api": KINDS["choices"],
    "experiments.wait_kinds.api": KINDS["choices"],
    "HowToProcess.kind": [5, "x", None, int],
    "frames.callbacks.names": [5, "x", [5], None, NOTHING],
    "StoredRecording.events.start": KINDS["serial"],
    "StoredRecording.events.stop": KINDS["serial"],
    "StoredRecording.events.conn": KINDS["count"],
    "StoredRecording.recording.start": KINDS["serial"],
    "StoredRecording.recording.stop": KINDS["serial"],
    "StoredRecording.recording.conn": KINDS["count"],
    "trace.pid": KINDS["count"],
    "observe.layers": KINDS["choices"],
    "observe.loop": [5, "x", NOTHING],
    "observe.save_when": [5, "x", NOTHING],
    "notebook.card.rows": KINDS["mapping"],
    "widgets.explore.name": [5, "nonsense", None, NOTHING],
    "widgets.scaling.data": [5, NOTHING, [1], pd.DataFrame({"a": [1]})],
    "Sliders.use.data": [5, "x", None, NOTHING, pd.DataFrame({"a": [1]})],
    "Sliders.use.source": KINDS["text"],
}
"""Wrong values of parameters whose name alone does not say what they take."""

ANY_VALUE = {
    "experiments.phenomenon.expected": "compared with the observation, whatever that is",
    "kernel.cpu_quotas.proc": "another folder than /proc, for tests",
    "kernel.memory_available.proc": "another folder than /proc, for tests",
    "kernel.throttling.proc": "another folder than /proc, for tests",
    "kernel.not_possible_reason.error": "an exception that was caught",
    "HowToProcess.options": "checked by the class, in the child process",
}
"""Parameters that accept anything, with the reason."""

NOT_CALLED = {
    "Run": "made by run_clients()",
    "Server": "made by start_server()",
    "Outcome": "made by run()",
    "Phenomenon": "made by phenomenon()",
    "Comparison": "made by compare()",
    "Diagnosis": "made by diagnose()",
    "Finding": "made by diagnose()",
    "Request": "made by the parser for each request",
    "Session": "its methods are called by the loop for each read",
    "Hello": "called by the loop",
    "Echo": "called by the loop",
    "Http": "called by the loop and the parser",
    "ServerOptions": "made by start_server(), whose parameters these are",
    "Recorder": "written to by the loop for each event",
    "Snapshot": "made by the recorder",
    "Interval": "a tuple", "Line": "a tuple", "ContextSwitches": "a tuple",
    "DescriptorLimits": "a tuple", "InterestEntry": "a tuple", "ListenQueue": "a tuple",
    "TcpInfo": "a tuple",
    "Throttling": "a tuple",
    "Verdict": "an enumeration",
    "Bench": "passes any value to the kernel, whose error is the observation",
    "HowToServer": "its methods are the branches of the loop",
    "Dashboard": "made by dashboard()",
    "Explorer": "made by explore()",
    "Sliders": "made by widgets.scaling()",
    "Stepper": "made by stepper()",
    "Timeline": "made by widgets.timeline()",
    "StoredRecording": "made by recording.open()",
}  # fmt: skip
"""Classes that users do not make, and methods that they do not call, with the reason.

The other methods of a class in this list are tested if :data:`METHODS` names them.
"""

METHODS = (
    "Server.stats", "Server.tail", "Server.interest", "Server.settle", "Server.until_idle",
    "Run.journeys", "Run.save", "Run.load", "Run.wakeups", "Recording.events", "Recording.wakeups",
    "Recording.to_trace", "Recording.save", "Recording.load", "Result.fits",
    "Result.save", "Result.load", "Script.send", "Script.send_slowly", "Script.pause",
    "Script.expect", "Script.repeat", "Outcome.plot", "Dashboard.watch", "Dashboard.draw",
    "Explorer.draw", "Sliders.draw", "Sliders.use", "Stepper.draw", "StoredRecording.events",
    "StoredRecording.recording",
)  # fmt: skip


def public() -> dict[str, Any]:
    """Find the public functions and classes, each once, by name; methods of classes by METHODS."""
    found: dict[int, tuple[str, Any]] = {}
    for package in PACKAGES:
        module = import_module(f"epolllab{package}")
        for name in module.__all__:
            value = getattr(module, name)
            is_class = isinstance(value, type)
            is_exception = is_class and issubclass(value, BaseException)
            if callable(value) and not is_exception and id(value) not in found:
                key = name if is_class or not package else f"{package[1:]}.{name}"
                found[id(value)] = key, value
    listed = dict(found.values())
    for name in METHODS:
        owner, _, method = name.partition(".")
        listed[name] = getattr(listed[owner], method)
    return listed


PUBLIC = public()
TESTED = sorted(
    name
    for name, value in PUBLIC.items()
    if name not in NOT_CALLED and len(inspect.signature(value).parameters)
)


def wrong_values(function: str, parameter: inspect.Parameter) -> list[Any]:
    """Values that a function must refuse for a parameter."""
    key = f"{function}.{parameter.name}"
    if key in ANY_VALUE or parameter.name == "self":
        return []
    values = OWN_KINDS.get(key)
    if values is None and function.removeprefix("plots.") in samples.CHARTS:
        first = next(iter(inspect.signature(PUBLIC[function]).parameters))
        values = KINDS["frame"] if parameter.name == first else None
    if values is None:
        values = KINDS[KIND_OF[parameter.name if parameter.name != "note" else "title"]]
    return [value for value in values if value is not None or parameter.default is not None]


@pytest.fixture(scope="module")
def world() -> Iterator[SimpleNamespace]:
    """A server, a run of clients, and what else functions are given."""
    with epolllab.start_server(process=True) as server, socket.socket() as sock:
        run = epolllab.run_clients(server, connections=1, requests=2, progress=False)
        yield SimpleNamespace(server=server, run=run, recording=server.recording(), sock=sock)


def required(name: str, world: SimpleNamespace) -> dict[str, Any]:
    """Valid values of the parameters without a default."""
    series = {"values": [1, 2], "rounds": [0, 1], "others": [1, 2], "other_rounds": [0, 1]}
    sweep = samples.sweep().frame
    given: dict[str, dict[str, Any]] = {
        "Recording": {"rows": b""},
        "Result": {"name": "x", "table": sweep, "circumstances": {}},
        "Recording.to_trace": {"path": "not-written.json"},
        "Recording.save": {"path": "not-written.parquet"},
        "Script.send_slowly": {"data": b"x"},
        "Sliders.use": {"data": samples.sweep()},
        "frames.callbacks": {"records": world.recording.array(), "names": []},
        "trace": {"pid": 1},
        "analysis.agreement": {"frame": samples.verdicts()},
        "analysis.beside": {"study": "kerrisk-2010", "ours": {"epoll": 1.0}},
        "analysis.crossover_ratios": {"data": samples.crossover()},
        "analysis.diagnose": {"recording": world.recording},
        "analysis.fit_line": {"x": [1, 2], "y": [1, 2]},
        "analysis.fits": {"frame": sweep, "by": ["poller"], "x": "n_fds", "y": "wait_ns"},
        "analysis.growth": {"x": [1, 2], "y": [1, 2]},
        "analysis.literature_ratios": {"result": samples.sweep()},
        "analysis.median_interval": {"values": [1, 2]},
        "analysis.percentile": {"values": [1, 2], "p": 50},
        "analysis.ratio_interval": series,
        "analysis.shape": {"frame": sweep},
        "analysis.shares": {"data": samples.sweep()},
        "analysis.summarise": {"frame": sweep, "by": ["poller"], "values": ["wait_ns"]},
        "frames.interest_list": {"entries": [], "table": {}},
        "frames.journeys": {
            "requests": world.recording.requests(), "clients": world.run.requests(),
        },
        "kernel.bytes_readable": {"sock": world.sock},
        "kernel.is_asleep": {"pid": 1},
        "kernel.until_asleep": {"pid": 1},
        "kernel.until_idle": {"pid": 1},
        "kernel.interest_list": {"epfd": 0},
        "kernel.make_poller": {"name": "epoll"},
        "experiments.phenomenon": {"family": "f", "claim": "c", "expected": 1, "source": "s"},
        "notebook.card": {"title": "t", "rows": {}},
        "plots.export": {"figure": Figure(), "name": "x"},
        "analysis.compare": {"before": world.recording, "after": world.recording},
        "frames.requests": {"records": world.recording.array()},
        "run_clients": {"target": world.server},
    }  # fmt: skip
    if name.removeprefix("plots.") in samples.CHARTS:
        make = samples.CHARTS[name.removeprefix("plots.")][1]
        return {next(iter(inspect.signature(PUBLIC[name]).parameters)): make()}
    return given.get(name, {})


def bound(name: str, world: SimpleNamespace) -> Callable[..., Any]:
    """The function, or the method of an object; widgets check before they look at theirs."""
    function: Callable[..., Any] = PUBLIC[name]
    if name not in METHODS or inspect.ismethod(function):
        return function
    owners = {"Server": world.server, "Run": world.run, "Recording": world.recording,
              "Result": samples.sweep(), "Script": epolllab.script()}  # fmt: skip
    return partial(function, owners.get(name.partition(".")[0]))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", TESTED)
def test_a_wrong_value_is_refused_by_the_name_of_its_parameter(
    name: str, world: SimpleNamespace
) -> None:
    """Before anything starts, and without memory in proportion to a number."""
    function, valid = bound(name, world), required(name, world)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    missed = []
    for parameter in inspect.signature(PUBLIC[name]).parameters.values():
        for value in wrong_values(name, parameter):
            is_several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
            given = {**valid, **({} if is_several else {parameter.name: value})}
            try:
                if is_several:
                    function(*valid.values(), *value)
                else:
                    function(**given)
            except (TypeError, ValueError) as error:
                if not re.search(rf"\b{parameter.name}\b", str(error)):
                    missed.append(f"{parameter.name}={value!r:.40}: {error!s:.90}")
            except Exception as error:
                missed.append(f"{parameter.name}={value!r:.40}: {error!r:.90}")
            else:
                missed.append(f"{parameter.name}={value!r:.40}: accepted")
    assert missed == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_every_parameter_has_a_kind_or_a_reason() -> None:
    """A new parameter is not left out."""
    for name in TESTED:
        for parameter in inspect.signature(PUBLIC[name]).parameters.values():
            key = f"{name}.{parameter.name}"
            known = key in ANY_VALUE or parameter.name == "self" or wrong_values(name, parameter)
            assert known, key


def test_the_lists_name_only_what_exists() -> None:
    """A renamed function or parameter does not stay in the lists."""
    assert set(NOT_CALLED) <= set(PUBLIC)
    for key in {**OWN_KINDS, **ANY_VALUE}:
        name, _, parameter = key.rpartition(".")
        assert parameter in inspect.signature(PUBLIC[name]).parameters, key
