"""The sweeps on real descriptors, small, and what they do with bad input and interrupts."""

import errno
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from epolllab import analysis, experiments, kernel
from epolllab.experiments import rounds
from epolllab.experiments.scaling import fds, waits
from epolllab.experiments.scaling.variants import APIS, POLLERS, Arm, make_waiter

TINY = {"ops": 4, "rounds": 2, "warmup": 1, "progress": False}


pytestmark = pytest.mark.usefixtures("descriptor_limits_put_back")


# --- sweep ------------------------------------------------------------------------------


def test_sweep_has_a_row_per_operation():
    """Every arm is measured at every size in every round, warm-up marked."""
    frame = experiments.sweep((3, 10), **TINY).frame
    assert list(frame.columns) == [
        "round", "poller", "api", "kind", "n_fds", "active", "op", "warmup", "t_ns", "wait_ns",
        "op_ns",
    ]  # fmt: skip
    counts = frame.groupby(["round", "poller", "api", "n_fds"], observed=True).size()
    assert len(counts) == 2 * len(POLLERS) * len(APIS) * 2
    assert set(counts) == {5}
    assert (frame["warmup"] == (frame["op"] == 0)).all()
    assert (frame["wait_ns"] > 0).all()
    python = frame["api"] == "python"
    assert (frame["op_ns"].notna() == python).all()
    assert (frame.loc[python, "op_ns"] >= frame.loc[python, "wait_ns"]).all()


def test_dtypes_are_fixed():
    """An empty frame has the dtypes of a full one."""
    full = experiments.sweep(2, **TINY).frame
    assert waits._frame([]).dtypes.equals(full.dtypes)
    assert str(full["op_ns"].dtype) == "Int64"


def test_arms_take_turns_in_random_order():
    """Within a round each cell comes once, in another order each round."""
    order = []
    cells = list(range(12))
    book = rounds.Logbook()
    rounds.run_rounds(
        cells, lambda cell, round_: order.append((round_, cell)), rounds=3, seed=1, title="",
        progress=False, book=book,
    )  # fmt: skip
    by_round = [[cell for r, cell in order if r == round_] for round_ in range(3)]
    assert [round_ for round_, _ in order] == sorted(round_ for round_, _ in order)
    assert all(sorted(cells_of) == cells for cells_of in by_round)
    assert len({tuple(cells_of) for cells_of in by_round}) == 3


def _rounds(cells, measure, book, **told):
    return rounds.run_rounds(
        cells, measure, rounds=3, seed=0, title="", progress=False, book=book, **told
    )


def test_a_cell_that_fails_is_noted_once_and_the_rest_goes_on():
    """Where cells have names, an exception is a sentence with its rounds, not the end."""

    def measure(cell, round_):
        if cell == "b" and round_ > 0:
            raise OSError(5, "broken\nin two lines")
        return cell

    book = rounds.Logbook()
    done = _rounds(["a", "b"], measure, book, name="cell {}".format)
    assert sorted(done) == ["a", "a", "a", "b"]
    assert book.notes == [
        "cell b failed with OSError: [Errno 5] broken (in 2 of 3 rounds, which are left out)"
    ]
    assert not book.interrupted


def test_a_cell_that_fails_without_a_name_ends_the_run():
    """A wait that is disturbed is raised: all numbers of that process are in doubt."""

    def measure(cell, round_):
        raise RuntimeError("disturbed")

    with pytest.raises(RuntimeError, match="disturbed"):
        _rounds(["a"], measure, rounds.Logbook())


@pytest.mark.parametrize("poller", POLLERS)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("kind", fds.KINDS)
def test_every_arm_finds_what_is_ready_again_and_again(poller, api, kind):
    """Each way of waiting finds exactly what was written to, of every kind, in turn."""
    with (
        fds.open_targets(kind, 6) as some,
        make_waiter(Arm(poller, api), some.fds, 8) as waiter,
    ):
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


@pytest.mark.parametrize("poller", POLLERS)
def test_fresh_pollers_take_a_wait_each(poller, monkeypatch):
    """With fresh=True every operation has a poller of its own, and the same rows come of it."""
    made = []

    def counted(*arguments):
        made.append(arguments)
        return make_waiter(*arguments)

    monkeypatch.setattr(waits, "make_waiter", counted)
    result = experiments.sweep((3,), (poller,), fresh=True, **TINY)
    assert len(result) == len(made) == len(APIS) * 2 * 5
    assert result.circumstances["fresh"] is True
    assert (result["wait_ns"] > 0).all()
    assert (result["op_ns"].notna() == (result["api"] == "python")).all()


def test_several_active():
    """As many are found as were made ready; the frame says how many."""
    frame = experiments.sweep((8,), active=5, **TINY).frame
    assert set(frame["active"]) == {5}


def test_a_disturbed_wait_is_an_error_and_not_a_number():
    """A wait that finds another number than was made ready stops the run."""
    cell = waits.Cell(Arm("poll", "python"), "eventfd", 3, 1)
    with fds.open_targets("eventfd", 3) as some:
        os.write(some.fds[2], some.payload)
        with pytest.raises(RuntimeError, match="found 2 ready of 3, and 1 were made so"):
            waits.measure(cell, some, [[0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_fds": ()}, "n_fds is empty"),
        ({"n_fds": (0, 10)}, "n_fds must be at least 1, not 0"),
        ({"n_fds": (-5,)}, "n_fds must be at least 1, not -5"),
        ({"n_fds": (100, 10)}, r"Did you mean \(10, 100\)"),
        ({"n_fds": (10, 10)}, r"each number once"),
        ({"n_fds": (10,), "active": 11}, "active=11 of n_fds=10"),
        ({"pollers": ("epol-level",)}, "did you mean 'epoll-level'"),
        ({"pollers": ("poll", "poll")}, "each once"),
        ({"pollers": ()}, "at least one"),
        ({"pollers": "poll"}, r"write pollers=\('poll',\)"),
        ({"api": ("row",)}, "did you mean 'raw'"),
        ({"kind": "pipes"}, "did you mean 'pipe'"),
        ({"ops": 0}, "ops must be at least 1"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"warmup": -1}, "warmup must be at least 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_opened(arguments, message, monkeypatch):
    """Each mistake is named, and no descriptor was asked for."""
    monkeypatch.setattr(waits, "open_targets", lambda *_: pytest.fail("opened"))
    with pytest.raises(ValueError, match=message):
        experiments.sweep(**{"progress": False, **arguments})


def test_sizes_that_are_no_numbers():
    """A fraction of a descriptor is a TypeError."""
    with pytest.raises(TypeError, match=r"n_fds must be an integer, not 1\.5"):
        experiments.sweep((1.5,), progress=False)


def _limited(code, limit):
    """Run code in a process with a hard limit on descriptors; its standard output."""
    program = (
        "import resource; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, {limit}), {limit})); "
        "from epolllab import experiments\n" + code
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sizes_over_the_limit_are_cut_and_it_is_said():
    """The greatest size that fits stands in; the soft limit is back where it was."""
    out = _limited(
        "r = experiments.sweep((10, 100, 100_000), ops=2, rounds=1, progress=False)\n"
        "print(sorted(r['n_fds'].unique().tolist()), r.frame.attrs['notes'], r.notes)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))",
        300,
    )
    sizes = out.splitlines()[0]
    assert sizes.startswith("[10, 100, 2")
    assert sizes.count("100,000 asked, and the limit is 300 descriptors here") == 2
    assert out.splitlines()[1] == "(64, 300)"


def test_not_even_the_smallest_fits():
    """The error names what was wanted and the limit, and how to raise it."""
    out = _limited(
        "try:\n experiments.sweep((1000,), progress=False)\n"
        "except Exception as e: print(type(e).__name__, e)",
        200,
    )
    assert out.startswith("DescriptorLimitError")
    assert "1,000 descriptors are wanted" in out
    assert "ulimit -n" in out


def test_another_program_has_the_descriptors(monkeypatch):
    """ENFILE while opening cuts the run to what could be opened."""
    real, opened = fds._eventfd, []

    def scarce():
        if len(opened) >= 7:
            raise OSError(errno.ENFILE, "too many open files in system")
        opened.append(1)
        return real()

    monkeypatch.setitem(fds._SIMPLE, "eventfd", scarce)
    result = experiments.sweep((5, 50), pollers=("poll",), **TINY)
    assert sorted(set(result["n_fds"])) == [5, 7]
    assert "cut to N = 7: 50 asked" in result.notes[0]


def test_python_select_ends_and_raw_goes_on():
    """Beyond 1,023 Python's select has no rows, its last size one of its own, and a note."""
    if kernel.descriptor_limits().hard < 1_700:
        pytest.skip("the hard limit on descriptors is below 1,700")
    result = experiments.sweep((10, 1_500), pollers=("select",), **TINY)
    largest = result.groupby("api", observed=True)["n_fds"].max()
    assert largest["raw"] == 1_500
    assert 500 < largest["python"] < 1_024
    assert f"Python's select ends at N = {largest['python']:,}" in result.notes[0]


def test_python_select_ends_before_the_first_number_it_refuses():
    """A low number that comes late, out of order, makes room for none of those between."""
    book = rounds.Logbook()
    fds = [*range(30, 1_025), 29, 1_025]
    assert waits._last_size(Arm("select", "python"), fds, (10, len(fds)), book) == 1_024 - 30
    assert waits._last_size(Arm("select", "python"), fds, (10, 100), book) == 100
    assert waits._last_size(Arm("select", "raw"), fds, (10, len(fds)), book) == len(fds)


def test_without_progress_there_is_no_bar(monkeypatch):
    """progress=False makes no bar at all: tqdm would start a thread even for a silent one."""
    monkeypatch.setattr(rounds, "tqdm", lambda *_, **__: pytest.fail("a bar was made"))
    experiments.sweep(2, **TINY)
    experiments.propagate((2,), (1,), runs=1, progress=False)
    experiments.register_cost((2,), ops=1, rounds=1, progress=False)


def test_interrupt_keeps_what_is_complete(monkeypatch):
    """What was measured before the interrupt is returned, and it says so."""
    real, calls = waits.measure, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(waits, "measure", interrupted)
    result = experiments.sweep((3, 5), **TINY)
    assert result.interrupted
    assert len(result) == 3 * 5
    assert "interrupted after 3 of 40 cells" in result.notes[0]
    assert len(result.summary()) == 3


def test_a_real_interrupt():
    """Ctrl-C ends a sweep that would never end; limits, processor and collector are back."""
    program = (
        "import gc, os, resource, signal, threading\n"
        "from epolllab import experiments\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 1_000))\n"
        "cpus = os.sched_getaffinity(0)\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "r = experiments.sweep((10, 500), rounds=10**6, ops=5, progress=False)\n"
        "assert r.interrupted and 'interrupted after' in r.notes[0], r.notes\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (128, 1_000)\n"
        "assert os.sched_getaffinity(0) == cpus and gc.isenabled()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_interrupt_before_anything_is_complete(monkeypatch):
    """Nothing measured is an empty result with all columns, not an error."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(waits, "measure", interrupted)
    result = experiments.sweep((3,), **TINY)
    assert len(result) == 0
    assert "wait_ns" in result.columns
    assert len(result.summary()) == 0
    assert "0 measurements" in result._repr_html_()


def test_pinned_where_possible_and_stated():
    """The processor is in the circumstances; a refusal is noted and not fatal."""
    assert experiments.sweep(2, **TINY).circumstances["pinned_cpu"] == max(os.sched_getaffinity(0))
    assert experiments.sweep(2, pin=False, **TINY).circumstances["pinned_cpu"] is None


def test_pinning_refused(monkeypatch):
    """Where the system refuses, the run goes on and says so."""

    def refuse(*_):
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    result = experiments.sweep(2, **TINY)
    assert "not pinned" in result.notes[0]
    assert result.circumstances["pinned_cpu"] is None


# --- the others -------------------------------------------------------------------------


def test_wait_kinds_compares_kinds():
    """Each kind is measured with each poller."""
    frame = experiments.wait_kinds((2, 5), **TINY).frame
    assert len(frame.groupby(["kind", "poller", "n_fds"], observed=True)) == 4 * 3 * 2
    with pytest.raises(ValueError, match="did you mean 'eventfd'"):
        experiments.wait_kinds(kinds=("eventfds",))
    with pytest.raises(ValueError, match="each once"):
        experiments.wait_kinds(kinds=("pipe", "pipe"))


def test_shares_come_of_raw_and_python():
    """The kernel's share is raw without the foreign call, the rest is CPython's."""
    frame = experiments.sweep(4, **TINY).frame
    frame = frame.assign(wait_ns=np.where(frame["api"] == "raw", 1000, 1500))
    frame.attrs = {"raw_floor_ns": 300.0, "clock_floor_ns": 50.0}
    table = analysis.shares(frame)
    assert len(table) == len(POLLERS)
    assert set(table["kernel_ns"]) == {700.0}
    assert set(table["python_ns"]) == {1450.0}
    assert set(table["cpython_ns"]) == {750.0}


def test_crossover_measures_a_grid():
    """Shares become whole numbers of descriptors, each once."""
    result = experiments.crossover((1, 10, 100), (0, 0.1, 1), **TINY)
    grid = result.groupby("n_fds")["active"].unique().map(sorted)
    assert grid.to_dict() == {1: [1], 10: [1, 10], 100: [1, 10, 100]}
    table = analysis.crossover_ratios(result)
    assert table["share"].tolist() == [1.0, 0.0, 1.0, 0.0, 0.1, 1.0]
    assert set(table["api"]) == {"raw"}
    assert set(analysis.crossover_ratios(result, api="python")["api"]) == {"python"}


def test_crossover_ratios_name_the_winner():
    """Below 1 with the whole interval the first wins, above the second, else neither."""
    rows = [
        {"round": r, "poller": poller, "api": "raw", "n_fds": n, "active": 1, "warmup": False,
         "wait_ns": value + r}
        for r in range(5)
        for n, times in {2: (100, 1000), 3: (1000, 100), 4: (500, 500)}.items()
        for poller, value in zip(("epoll-level", "poll"), times, strict=True)
    ]  # fmt: skip
    frame = pd.DataFrame(rows).astype({"poller": pd.CategoricalDtype(list(POLLERS))})
    table = analysis.crossover_ratios(frame)
    assert table["winner"].tolist() == ["epoll-level", "poll", "neither"]
    assert table["ratio"].round(1).tolist() == [0.1, 9.8, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shares": (0, 2)}, "from 0"),
        ({"shares": (1, 0.1)}, "did you mean"),
        ({"shares": ()}, "from 0"),
        ({"pollers": ("poll",)}, "two to be compared"),
        ({"n_fds": (0,)}, "at least 1"),
    ],
)
def test_crossover_refuses(arguments, message):
    """Shares and pollers that make no grid."""
    with pytest.raises(ValueError, match=message):
        experiments.crossover(progress=False, **arguments)


@pytest.mark.parametrize("poller", ["epoll-level", "epoll-edge", "poll", "select"])
def test_propagate_passes_every_byte(poller):
    """Each run reads what was written at first and by the loop; one token takes a wait each."""
    result = experiments.propagate((20,), (1, 20), 30, pollers=(poller,), runs=2, progress=False)
    assert (result["events"] == result["active"] + 30).all()
    assert set(result[result["active"] == 1]["waits"]) == {31}
    assert result["warmup"].sum() == 2
    assert set(result["round"]) == {0, 1, 2}


def test_propagate_shows_the_staircase():
    """A bound on what a wait returns cuts a batch into steps; poll has no bound."""
    result = experiments.propagate(
        (40,), (9, 10, 11, 40), 0, pollers=("epoll-level", "epoll-edge", "poll"),
        max_events=(10, 20), runs=1, progress=False,
    )  # fmt: skip
    waits_of = result.groupby(["poller", "max_events", "active"], observed=True)["waits"].max()
    for poller in ("epoll-level", "epoll-edge"):
        assert waits_of[poller, 10].to_dict() == {9: 1, 10: 1, 11: 2, 40: 4}
        assert waits_of[poller, 20].to_dict() == {9: 1, 10: 1, 11: 1, 40: 2}
    assert set(waits_of["poll"]) == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairs": 5, "active": 6}, "more bytes under way than pairs"),
        ({"pairs": 0}, "at least 1"),
        ({"writes": -1}, "writes must be at least 0"),
        ({"pollers": ("epoll-oneshot",)}, "pollers must be one of"),
        ({"pollers": "poll"}, "each once"),
        ({"runs": 0}, "runs must be at least 1"),
        ({"max_events": 0}, "max_events must be at least 1"),
    ],
)
def test_propagate_refuses(arguments, message):
    """Numbers and names that make no run."""
    with pytest.raises(ValueError, match=message):
        experiments.propagate(progress=False, **arguments)


def test_register_cost_times_three_calls():
    """Each arm, size and operation has its rows; the raw call does what Python's does."""
    result = experiments.register_cost((3, 6), ops=4, rounds=2, warmup=1, progress=False)
    counts = result.groupby(["poller", "api", "n_fds", "operation"], observed=True).size()
    assert len(counts) == 3 * 2 * 3
    assert set(counts) == {2 * 5}
    assert (result["call_ns"] > 0).all()


def test_raw_epoll_ctl_changes_the_kernels_list(monkeypatch):
    """The prepared calls take out, put in and modify the entry that they name."""
    import select
    from contextlib import ExitStack

    from epolllab.experiments.scaling import register

    made, real = [], select.epoll
    monkeypatch.setattr(select, "epoll", lambda: made.append(real()) or made[-1])
    with fds.open_targets("eventfd", 2) as some, ExitStack() as opened:
        calls = register._epoll_raw(opened, some.fds)
        unregister, put, modify = calls(some.fds[0])
        epfd = made[-1].fileno()
        assert unregister() == 0
        assert [entry.fd for entry in kernel.interest_list(epfd)] == [some.fds[1]]
        assert put() == 0
        assert modify() == 0
        masks = {entry.fd: entry.mask for entry in kernel.interest_list(epfd)}
        assert masks[some.fds[0]] & select.EPOLLOUT
        assert not masks[some.fds[1]] & select.EPOLLOUT


# --- results ----------------------------------------------------------------------------


def test_result_saves_and_loads(tmp_path):
    """A file gives back the frame, its dtypes, its circumstances and what sums it up."""
    result = experiments.sweep((3, 6), **TINY)
    loaded = analysis.Result.load(result.save(tmp_path / "run.parquet"))
    pd.testing.assert_frame_equal(loaded.frame, result.frame)
    assert dict(loaded.circumstances) == dict(result.circumstances)
    pd.testing.assert_frame_equal(loaded.summary(), result.summary())
    assert loaded.frame.attrs == result.frame.attrs
    assert len(list(tmp_path.iterdir())) == 1


def test_foreign_files_are_refused(tmp_path):
    """Text, a Parquet file of something else and a newer format are told apart."""
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="not a Parquet file"):
        analysis.Result.load(tmp_path / "text")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other")
    with pytest.raises(ValueError, match="not the result of an experiment"):
        analysis.Result.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        analysis.Result.load(tmp_path / "none")


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    """A file of a later version says that epolllab is to be upgraded."""
    from epolllab.analysis import result as results

    one = experiments.sweep(2, **TINY)
    with monkeypatch.context() as later:
        later.setattr(results, "FORMAT_VERSION", 99)
        path = one.save(tmp_path / "new.parquet")
    with pytest.raises(ValueError, match="format version 99"):
        analysis.Result.load(path)


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    """What cannot be written whole is not written, and an earlier file stays."""
    import pyarrow.parquet as pq

    result = experiments.sweep(2, **TINY)
    path = result.save(tmp_path / "run.parquet")
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        result.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_result_is_immutable_and_reads_like_its_frame():
    """Changes to what it gave out do not reach it; columns and methods are the frame's."""
    result = experiments.sweep(2, **TINY)
    frame = result.frame
    frame.loc[:, "wait_ns"] = 0
    assert (result["wait_ns"] > 0).all()
    assert len(result.groupby("poller", observed=True)) == len(POLLERS)
    assert list(result) == list(frame.columns)
    with pytest.raises(AttributeError):
        result.name = "other"
    with pytest.raises(TypeError):
        result.circumstances["kernel"] = "other"
    with pytest.raises(AttributeError, match="columns are round, poller"):
        _ = result.no_such_thing


def test_result_says_its_circumstances():
    """Kernel, clock cost, recorder cost and what was asked are there, also in words."""
    result = experiments.sweep((2, 4), **TINY)
    for key in ("kernel", "clock_cost_ns", "recorder_cost_ns", "boot_id", "seconds", "seed"):
        assert result.circumstances[key] is not None
    assert result.circumstances["raw_floor_ns"] > 0
    assert "kernel:" in result.describe()
    assert "sweep" in repr(result)
    assert "measurements" in result._repr_html_()


def test_fits_need_an_axis():
    """An experiment without sizes has medians only."""
    result = analysis.Result("made", pd.DataFrame({"round": [0]}), {}, ("round",), ("round",))
    with pytest.raises(ValueError, match="no axis for a line"):
        result.fits()


def test_fits_have_a_line_per_arm():
    """Every poller by every api gets one."""
    table = experiments.sweep((2, 8), **TINY).fits()
    assert len(table) == len(POLLERS) * len(APIS)
    assert {"a", "b", "b_low", "b_high", "r2", "residual"} <= set(table.columns)
