"""Small sweeps on real descriptors, with bad input, limits and interrupts."""

import errno
import os
import re
import select
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest

from epolllab import analysis, experiments, kernel
from epolllab.experiments import rounds
from epolllab.experiments.rounds import Effort, ExperimentRun, Layout
from epolllab.experiments.scaling import fds, register, waits
from epolllab.experiments.scaling.variants import ALL_POLLERS, APIS, POLLERS, Variant, make_waiter
from tests.analysis import samples

TINY = {"ops": 4, "rounds": 2, "warmup": 1, "progress": False}

pytestmark = pytest.mark.usefixtures("descriptor_limits_put_back")


def test_sweep_has_a_row_per_operation():
    """Every variant is measured at every size in every round; warm-up is marked."""
    frame = experiments.sweep((3, 10), active=2, **TINY).frame
    assert list(frame.columns) == [
        "round", "poller", "api", "kind", "n_fds", "active", "op", "warmup", "t_ns", "wait_ns",
        "op_ns",
    ]  # fmt: skip
    assert waits.LAYOUT.frame([]).dtypes.equals(frame.dtypes)
    assert set(frame["active"]) == {2}
    counts = frame.groupby(["round", "poller", "api", "n_fds"], observed=True).size()
    assert len(counts) == 2 * len(POLLERS) * len(APIS) * 2
    assert set(counts) == {5}
    assert (frame["warmup"] == (frame["op"] == 0)).all()
    assert (frame["wait_ns"] > 0).all()
    python = frame["api"] == "python"
    assert (frame["op_ns"].notna() == python).all()
    assert (frame.loc[python, "op_ns"] >= frame.loc[python, "wait_ns"]).all()


def _run(cells, measure, **label):
    """A run of three rounds in which `measure` has been called for each cell."""
    run = ExperimentRun("made", Layout({"cell": "str"}, (), ()), Effort({"rounds": 3}, seed=1))
    run.measure(cells, measure, **label)
    return run


def test_cells_are_measured_in_random_order():
    """Within a round each cell comes once, in a different order each round."""
    order, cells = [], list(range(12))
    _run(cells, lambda cell, round_: order.append((round_, cell)) or [])
    by_round = [[cell for r, cell in order if r == round_] for round_ in range(3)]
    assert [round_ for round_, _ in order] == sorted(round_ for round_, _ in order)
    assert all(sorted(cells_of) == cells for cells_of in by_round)
    assert len({tuple(cells_of) for cells_of in by_round}) == 3


def test_a_failed_cell_is_noted_once_and_the_rest_continues():
    """With labels, an exception becomes one note with the number of rounds."""

    def measure(cell, round_):
        if cell == "b" and round_ > 0:
            raise OSError(5, "broken\nin two lines")
        return [{"cell": cell}]

    run = _run(["a", "b"], measure, label="cell {}".format)
    assert sorted(run.result()["cell"]) == ["a", "a", "a", "b"]
    assert run.notes == [
        "cell b failed with OSError: [Errno 5] broken (in 2 of 3 rounds, which are left out)"
    ]
    assert not run.interrupted


def test_a_failed_cell_without_a_label_ends_the_run():
    """After a disturbed wait all numbers of the process are in doubt, so it is raised."""

    def measure(cell, round_):
        raise RuntimeError("disturbed")

    with pytest.raises(RuntimeError, match="disturbed"):
        _run(["a"], measure)


@pytest.mark.parametrize("poller", ALL_POLLERS)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("kind", fds.KINDS)
def test_every_variant_finds_what_is_ready_repeatedly(poller, api, kind):
    """Each variant finds exactly the descriptors that were written to, of every kind."""
    variant = Variant(poller, api)
    with fds.open_targets(kind, 6) as some, make_waiter(variant, some.fds, 8) as waiter:
        for chosen in ([2], [0, 5], [2], []):
            for place in chosen:
                os.write(some.writers[place], some.payload)
            if waiter.prepare:
                waiter.prepare()
            found = waiter.found(waiter.wait())
            assert sorted(found) == sorted(some.fds[place] for place in chosen)
            for fd in found:
                os.read(fd, some.size)
                if waiter.rearm:
                    waiter.rearm(fd)


@pytest.mark.parametrize("poller", ALL_POLLERS)
def test_fresh_pollers_wait_once_each(poller, monkeypatch):
    """With fresh=True every operation creates a poller, and the rows are the same."""
    made = []

    monkeypatch.setattr(waits, "make_waiter", lambda *a: made.append(a) or make_waiter(*a))
    result = experiments.sweep((3,), (poller,), fresh=True, **TINY)
    assert len(result) == len(made) == len(APIS) * 2 * 5
    assert result.circumstances["fresh"] is True
    assert (result["wait_ns"] > 0).all()
    assert (result["op_ns"].notna() == (result["api"] == "python")).all()


def test_a_disturbed_wait_is_an_error():
    cell = waits.Cell(Variant("poll", "python"), "eventfd", 3, 1)
    with fds.open_targets("eventfd", 3) as some:
        os.write(some.fds[2], some.payload)
        with pytest.raises(RuntimeError, match="found 2 ready of 3"):
            waits.measure(cell, some, [[0]])


BAD_INPUT = {
    experiments.sweep: [
        {"n_fds": ()}, {"n_fds": (0, 10)}, {"n_fds": (-5,)}, {"n_fds": (100, 10)},
        {"n_fds": (10, 10)}, {"active": 11, "n_fds": (10,)}, {"pollers": ("epol-level",)},
        {"pollers": ("poll", "poll")}, {"pollers": ()}, {"pollers": "poll"}, {"api": ("row",)},
        {"kind": "pipes"}, {"ops": 0}, {"rounds": 0}, {"warmup": -1},
    ],
    experiments.wait_kinds: [{"kinds": ("eventfds",)}, {"kinds": ("pipe", "pipe")}],
    experiments.crossover: [
        {"shares": (0, 2)}, {"shares": (1, 0.1)}, {"shares": ()}, {"pollers": ("poll",)},
        {"n_fds": (0,)}, {"kind": "pipes"},
    ],
    experiments.propagate: [
        {"active": 6, "pairs": 5}, {"pairs": 0}, {"writes": -1}, {"pollers": ("epoll-oneshot",)},
        {"pollers": "poll"}, {"runs": 0}, {"max_events": 0},
    ],
    experiments.register_cost: [{"kind": "pipes"}],
    experiments.idle_connections: [
        {"idle": (-1,)}, {"idle": (100, 10)}, {"servers": ("epoll-eager",)},
        {"servers": "poll-eager"}, {"active": 0}, {"requests": 0}, {"rounds": 0},
    ],
    experiments.observer_cost: [
        {"loads": ("ecko",)}, {"looks": ("stracé",)}, {"looks": "plain"}, {"where": ()},
        {"requests": 0}, {"rounds": 0},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("experiment", "arguments"),
    [(experiment, one) for experiment, given in BAD_INPUT.items() for one in given],
)
def test_bad_input_is_refused_before_the_run(experiment, arguments, monkeypatch):
    monkeypatch.setattr(ExperimentRun, "__init__", lambda *_: pytest.fail("started"))
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))} "):
        experiment(progress=False, **arguments)


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        ({"n_fds": (100, 10)}, "(10, 100)"),
        ({"pollers": ("epol-level",)}, "'epoll-level'"),
        ({"pollers": "poll"}, "('poll',)"),
        ({"api": ("row",)}, "'raw'"),
    ],
)
def test_errors_suggest_a_correction(arguments, suggestion):
    """The nearest name, the sorted numbers, or a sequence instead of a string."""
    with pytest.raises(ValueError, match=re.escape(suggestion)):
        experiments.sweep(progress=False, **arguments)


@pytest.mark.parametrize(
    "arguments", [{"n_fds": (1.5,)}, {"n_fds": 1.5}, {"pin": "no"}, {"quick": 1}, {"seed": None}]
)
def test_wrong_types_are_refused(arguments):
    with pytest.raises(TypeError, match=f"^{next(iter(arguments))}"):
        experiments.sweep(progress=False, **arguments)


def _run_program(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.processes
def test_sizes_over_the_limit_are_cut_or_refused():
    """The largest possible size replaces them; the soft limit is restored.

    If not even the smallest fits, the error has the number of descriptors needed, and how to
    raise the limit.
    """
    sizes, limits, *error = _run_program(
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300))\n"
        "from epolllab import experiments\n"
        "r = experiments.sweep((10, 100, 100_000), ops=2, rounds=1, progress=False)\n"
        "print(sorted(r['n_fds'].unique().tolist()), r.frame.attrs['notes'], r.notes)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "try:\n experiments.sweep((1000,), progress=False)\n"
        "except Exception as e: print(type(e).__name__, e)"
    ).splitlines()
    assert sizes.startswith("[10, 100, 2")
    assert sizes.count("100,000 asked, and the limit is 300 descriptors here") == 2
    assert limits == "(64, 300)"
    assert error[0].startswith("DescriptorLimitError")
    [needed] = re.findall(r"([\d,]+) descriptors are needed", error[0])
    assert 1_000 < int(needed.replace(",", "")) < 1_200
    assert "ulimit -n" in " ".join(error)


def test_another_program_has_the_descriptors(monkeypatch):
    """ENFILE while opening reduces the run to what could be opened."""
    real, opened = fds._eventfd, []

    def scarce():
        if len(opened) >= 7:
            raise OSError(errno.ENFILE, "too many open files in system")
        opened.append(1)
        return real()

    monkeypatch.setitem(fds._OPENERS, "eventfd", scarce)
    result = experiments.sweep((5, 50), pollers=("poll",), **TINY)
    assert sorted(set(result["n_fds"])) == [5, 7]
    assert "cut to N = 7: 50 asked" in result.notes[0]


def test_python_select_ends_below_1024_and_raw_select_does_not():
    """Python's select has rows up to its own last size, and a note."""
    if kernel.descriptor_limits().hard < 1_700:
        pytest.skip("the hard limit on descriptors is below 1,700")
    result = experiments.sweep((10, 1_500), pollers=("select",), **TINY)
    largest = result.frame.groupby("api", observed=True)["n_fds"].max()
    assert largest["raw"] == 1_500
    assert 500 < largest["python"] < 1_024
    assert f"Python's select ends at N = {largest['python']:,}" in result.notes[0]


def test_python_select_ends_before_the_first_number_it_refuses():
    """Its last size depends on the descriptor numbers, which may be out of order."""
    run = _run([], None)
    numbers = [*range(30, 1_025), 29, 1_025]
    python, raw = Variant("select", "python"), Variant("select", "raw")
    assert waits._sizes_of(python, numbers, (10, len(numbers)), run) == [10, 1_024 - 30]
    assert waits._sizes_of(python, numbers, (10, 100), run) == [10, 100]
    assert waits._sizes_of(raw, numbers, (10, len(numbers)), run) == [10, len(numbers)]


def test_without_progress_there_is_no_bar(monkeypatch):
    """progress=False creates no bar: tqdm starts a thread even for a silent one."""
    monkeypatch.setattr(rounds, "tqdm", lambda *_, **__: pytest.fail("a bar was made"))
    experiments.sweep(2, **TINY)
    experiments.propagate((2,), (1,), runs=1, progress=False)
    experiments.register_cost((2,), ops=1, rounds=1, progress=False)


@pytest.mark.parametrize("n_complete", [0, 3])
def test_interrupt_keeps_complete_cells(n_complete, monkeypatch):
    """What was measured before the interrupt is returned, with a note, even if it is nothing."""
    real, calls = waits.measure, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) > n_complete:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(waits, "measure", interrupted)
    result = experiments.sweep((3, 5), **TINY)
    assert result.interrupted
    assert len(result) == n_complete * 5
    assert f"interrupted after {n_complete} of 40 cells" in result.notes[0]
    assert len(result.summary()) == n_complete
    assert f"{n_complete * 5} measurements" in result._repr_html_()
    assert result.frame.dtypes.equals(waits.LAYOUT.frame([]).dtypes)


@pytest.mark.processes
def test_a_real_interrupt():
    """Ctrl-C ends a long sweep; limits, affinity and garbage collection are restored."""
    _run_program(
        "import gc, os, resource, signal, threading\n"
        "from epolllab import experiments\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 1_000))\n"
        "cpus = os.sched_getaffinity(0)\n"
        "sweep = experiments.sweep  # imports, which takes longer than the timer\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "r = sweep((10, 500), rounds=10**6, ops=5, progress=False)\n"
        "assert r.interrupted and 'interrupted after' in r.notes[0], r.notes\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (128, 1_000)\n"
        "assert os.sched_getaffinity(0) == cpus and gc.isenabled()\n"
    )


def test_pinning(monkeypatch):
    """The processor is in the circumstances; if the system refuses, the run continues."""
    assert experiments.sweep(2, **TINY).circumstances["pinned_cpu"] == max(os.sched_getaffinity(0))
    assert experiments.sweep(2, pin=False, **TINY).circumstances["pinned_cpu"] is None

    def refuse(*_):
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    result = experiments.sweep(2, **TINY)
    assert "not pinned" in result.notes[0]
    assert result.circumstances["pinned_cpu"] is None


def test_wait_kinds_compares_kinds():
    frame = experiments.wait_kinds((2, 5), **TINY).frame
    assert len(frame.groupby(["kind", "poller", "n_fds"], observed=True)) == 4 * 3 * 2


def test_shares_of_kernel_and_cpython():
    """The kernel's share is the raw wait without the foreign call, the rest is CPython's."""
    frame = experiments.sweep(4, **TINY).frame
    frame = frame.assign(wait_ns=np.where(frame["api"] == "raw", 1000, 1500))
    frame.attrs = {"raw_floor_ns": 300.0, "clock_floor_ns": 50.0}
    table = analysis.shares(frame)
    assert len(table) == len(POLLERS)
    assert set(table["kernel_ns"]) == {700.0}
    assert set(table["python_ns"]) == {1450.0}
    assert set(table["cpython_ns"]) == {750.0}


def test_crossover_measures_a_grid():
    result = experiments.crossover((1, 10, 100), (0, 0.1, 1), **TINY)
    grid = result.frame.groupby("n_fds")["active"].unique().map(sorted)
    assert grid.to_dict() == {1: [1], 10: [1, 10], 100: [1, 10, 100]}
    table = analysis.crossover_ratios(result)
    assert table["share"].tolist() == [1.0, 0.0, 1.0, 0.0, 0.1, 1.0]
    assert set(table["api"]) == {"raw"}
    assert set(analysis.crossover_ratios(result, api="python")["api"]) == {"python"}


def test_crossover_ratios_name_the_winner():
    """The first if the interval is below 1, the second if it is above, else neither."""
    times = {"epoll-level": {2: 100, 3: 1000, 4: 500}, "poll": {2: 1000, 3: 100, 4: 500}}
    table = analysis.crossover_ratios(samples.sweep(times))
    assert table["winner"].tolist() == ["epoll-level", "poll", "neither"]
    assert table["ratio"].tolist() == [0.1, 10, 1]


@pytest.mark.parametrize("poller", ["epoll-level", "epoll-edge", "poll", "select"])
def test_propagate_passes_every_byte(poller):
    """Each run reads all written bytes; one byte in transit takes one wait per read."""
    result = experiments.propagate((20,), (1, 20), 30, pollers=(poller,), runs=2, progress=False)
    assert (result["events"] == result["active"] + 30).all()
    assert set(result["waits"][result["active"] == 1]) == {31}
    assert result["warmup"].sum() == 2
    assert set(result["round"]) == {0, 1, 2}


def test_propagate_shows_the_staircase():
    """max_events splits a batch into steps; poll has no such limit."""
    result = experiments.propagate(
        (40,), (9, 10, 11, 40), 0, pollers=("epoll-level", "epoll-edge", "poll"),
        max_events=(10, 20), runs=1, progress=False,
    )  # fmt: skip
    by = ["poller", "max_events", "active"]
    waits_of = result.frame.groupby(by, observed=True)["waits"].max()
    for poller in ("epoll-level", "epoll-edge"):
        assert waits_of[poller, 10].to_dict() == {9: 1, 10: 1, 11: 2, 40: 4}
        assert waits_of[poller, 20].to_dict() == {9: 1, 10: 1, 11: 1, 40: 2}
    assert set(waits_of["poll"]) == {1}


def test_register_cost_times_three_calls():
    frame = experiments.register_cost((3, 6), ops=4, rounds=2, warmup=1, progress=False).frame
    counts = frame.groupby(["poller", "api", "n_fds", "operation"], observed=True).size()
    assert len(counts) == 3 * 2 * 3
    assert set(counts) == {2 * 5}
    assert (frame["call_ns"] > 0).all()


def test_raw_epoll_ctl_changes_the_kernels_list(monkeypatch):
    """The prepared calls remove, add and modify the entry of their descriptor."""
    made, real = [], select.epoll
    monkeypatch.setattr(select, "epoll", lambda: made.append(real()) or made[-1])
    with fds.open_targets("eventfd", 2) as some, ExitStack() as opened:
        calls = register._raw_calls("epoll-level", opened, some.fds)
        unregister, add, modify = calls(some.fds[0])
        epfd = made[-1].fileno()
        assert unregister() == 0
        assert [entry.fd for entry in kernel.interest_list(epfd)] == [some.fds[1]]
        assert add() == 0
        assert modify() == 0
        masks = {entry.fd: entry.mask for entry in kernel.interest_list(epfd)}
        assert masks[some.fds[0]] & select.EPOLLOUT
        assert not masks[some.fds[1]] & select.EPOLLOUT


def test_a_sweep_without_io_uring(monkeypatch):
    """It is left out with a note; asked for alone, the reason is raised."""

    def refuse():
        raise kernel.NotPossible(1, "not permitted here: a filter")

    monkeypatch.setattr(waits, "require_uring", refuse)
    result = experiments.sweep(3, ("poll", "io_uring"), **TINY)
    assert set(result["poller"]) == {"poll"}
    assert "io_uring is left out: not permitted here: a filter" in result.notes
    with pytest.raises(kernel.NotPossible, match="a filter"):
        experiments.sweep(3, ("io_uring",), **TINY)
    with pytest.raises(kernel.NotPossible, match="a filter"):
        experiments.crossover(3, (0, 1), ("io_uring", "poll"), **TINY)


def test_the_crossover_with_io_uring():
    """More ready descriptors than the kernel brings in one call are all found."""
    result = experiments.crossover((3, 60), (0, 1), ("io_uring", "epoll-level"), **TINY)
    assert set(result["active"]) == {1, 3, 60}
    ratios = analysis.crossover_ratios(result.frame)
    assert set(ratios["over"]) | set(ratios["under"]) == {"io_uring", "epoll-level"}
