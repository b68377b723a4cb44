"""The catalogue: registration, verdicts, outcomes, and the bench that phenomena use."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from epolllab import experiments
from epolllab.events import EPOLLIN, EPOLLOUT, Op
from epolllab.experiments import run, run_all
from epolllab.experiments.catalogue import registry
from epolllab.experiments.catalogue.bench import Bench, NotPossible
from epolllab.experiments.catalogue.outcome import format_value
from epolllab.recording.recorder import written_in

COLUMNS = ["name", "family", "claim", "expected", "observed"]
COLUMNS += ["verdict", "seconds", "source", "reason"]


@pytest.fixture
def register(monkeypatch):
    """Add phenomena for the duration of one test."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    def add(name, function, **told):
        facts = {"family": "of the test", "claim": "It is so.", "expected": 1, "source": "here"}
        registry.phenomenon(name, **{**facts, **told})(function)

    return add


@pytest.mark.parametrize(
    ("observed", "options", "verdict"),
    [
        (1, {}, "holds"),
        (2, {}, "differs"),
        (7, {"expected": "over 5", "judge": lambda seen: seen > 5}, "holds"),
        (3, {"expected": "over 5", "judge": lambda seen: seen > 5}, "differs"),
    ],
)
def test_equality_or_a_judge_decides(register, observed, options, verdict):
    """The observation is compared with the expectation, or judged by a margin."""
    register("one", lambda bench: observed, **options)
    outcome = run("one")
    assert (outcome.verdict, outcome.observed, outcome.reason) == (verdict, observed, "")
    assert outcome.holds == (verdict == "holds")


@pytest.mark.parametrize(("values", "verdict"), [((1, 2), "holds"), ((1,), "raised")])
def test_yielded_values_are_those_of_the_expectation(register, values, verdict):
    """They are taken in order; a missing one is an error."""
    register("yielding", lambda bench: (value for value in values), expected={"a": 1, "b": 2})
    assert run("yielding").verdict == verdict


def fails(error):
    """Return the function of a phenomenon that raises."""

    def function(bench):
        bench.call("the last call", lambda: None)
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (RuntimeError("no luck"), "raised", "RuntimeError: no luck (test_registry.py line"),
        (NotPossible("it needs wings"), "not possible here", "it needs wings"),
    ],
)
def test_an_exception_becomes_an_outcome(register, error, verdict, reason):
    """The outcome has the error, its place, and the steps before it."""
    register("failing", fails(error))
    outcome = run("failing")
    assert outcome.verdict == verdict
    assert outcome.reason.startswith(reason)
    assert outcome.steps[-1].what == "the last call"


@pytest.mark.processes
@pytest.mark.parametrize("name", ["close-does-not-wake", "thundering-herd"])
def test_an_unreadable_wchan_makes_it_not_possible(monkeypatch, name):
    """Where /proc does not show whether a thread sleeps, the reason says so."""
    read_text = Path.read_text

    def refuse(path, *args, **kwargs):
        if path.name == "wchan":
            raise PermissionError(1, "Operation not permitted", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    outcome = run(name)
    assert outcome.verdict == "not possible here"
    assert "/proc" in outcome.reason


@pytest.mark.parametrize("versions", [{"since": (99, 0)}, {"before": (2, 6)}])
def test_an_unsuitable_kernel_is_not_tried(register, versions):
    """A phenomenon that this kernel is too old or too new for is not run."""
    register("elsewhere", lambda bench: pytest.fail("it was run"), **versions)
    outcome = run("elsewhere")
    assert outcome.verdict == "not possible here"
    assert "kernels" in outcome.reason


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("edge-goes-slient", "edge-goes-silent"),
        ("howto", r"howto-accepts-one|howto-forgets-eof"),
        ("zzzzzzzz", "no name is similar"),
    ],
)
def test_an_unknown_name_lists_similar_ones(name, near):
    """A typing error gets the names that may have been meant."""
    with pytest.raises(ValueError, match=rf"^name\b.*({near})"):
        run(name)
    with pytest.raises(ValueError, match=rf"^name\b.*({near})"):
        run_all(progress=False, only=[name])


def test_a_name_is_used_once(register):
    """Two functions cannot share a name, but one may be defined again."""
    first = fails(RuntimeError())
    register("twice", first)
    register("twice", first)
    with pytest.raises(ValueError, match=r"^name\b"):
        register("twice", lambda bench: 2)


@pytest.mark.parametrize("lacking", [{"claim": ""}, {"source": ""}])
def test_an_entry_needs_claim_and_source(register, lacking):
    """An entry without either is refused."""
    with pytest.raises(ValueError, match="claim and a source"):
        register("bare", lambda bench: 1, **lacking)


def test_run_all_continues_after_a_failure(register):
    """A phenomenon that raises does not keep the rest from running."""
    register("a-failing", fails(OSError(5, "broken")))
    register("b-holding", lambda bench: 1)
    frame = run_all(progress=False, only=["of the test", "level-repeats"])
    assert list(frame["name"]) == ["level-repeats", "a-failing", "b-holding"]
    assert list(frame["verdict"].astype(str)) == ["holds", "raised", "holds"]
    assert "broken" in frame["reason"][1]


def test_an_interrupt_keeps_the_finished_rows(register):
    """KeyboardInterrupt ends the run; the rows before it stay."""
    register("a-done", lambda bench: 1)
    register("b-stopped", fails(KeyboardInterrupt()))
    register("c-never", lambda bench: 1)
    frame = run_all(progress=False, only=["of the test"])
    assert list(frame["name"]) == ["a-done"]
    assert frame.attrs["interrupted"]
    assert frame.attrs["notes"] == ["interrupted after 1 of 3 phenomena"]


def test_frames_have_fixed_columns_also_when_empty():
    """Both frames have the same columns and dtypes whatever is in them."""
    one = run_all(progress=False, only=["coalescing"])
    none = run_all(progress=False, only=[])
    assert list(one.columns) == list(none.columns) == COLUMNS
    assert dict(one.dtypes) == dict(none.dtypes)
    assert one.attrs["circumstances"]["kernel"] == os.uname().release
    listed = experiments.phenomena()
    assert [*listed.columns] == [*COLUMNS[:4], "source", "kernels", "notes"]
    assert set(listed.dtypes) == {pd.Series([""], dtype="str").dtype}


def test_an_outcome_shows_its_calls():
    """Steps, recording and table agree."""
    outcome = run("edge-goes-silent")
    returned = [step.returned for step in outcome.steps if step.what.startswith("epoll_wait")]
    assert returned == ["here IN", "nothing", "here IN"]
    table = outcome.table()
    assert list(table.columns) == ["what", "returned", "t_ns", "dur_ns"]
    assert table["t_ns"][0] == 0
    ops = outcome.recording.counts()
    assert (ops["wait"], ops["ready"], ops["recv"], ops["send"]) == (3, 2, 1, 2)
    assert outcome.circumstances["experiment"] == "edge-goes-silent"


def test_an_outcome_in_a_notebook_compares_expected_with_observed(register):
    """The card has the verdict, both sides and the steps, and escapes what it shows."""
    register("odd<name>", lambda bench: {"a": [1]}, expected={"a": [2]}, claim="Is a < b.")
    card = run("odd<name>")._repr_html_()
    for part in ("differs", "odd&lt;name&gt;", "Is a &lt; b.", "<td", "var(--jp-"):
        assert part in card
    held = run("coalescing")
    assert "holds" in held._repr_html_()
    assert "epoll_ctl(ADD, here, IN|ET)" in held._repr_html_()
    assert "expected" in repr(held)


def test_a_long_card_counts_the_steps_it_leaves_out(register):
    """The card shows the first forty; the outcome has all."""

    def many(bench):
        for _ in range(50):
            bench.call("nothing", lambda: None)

    register("long", many)
    outcome = run("long")
    assert len(outcome.steps) == 50
    assert "10 more" in outcome._repr_html_()


def test_an_outcome_draws_its_timeline():
    """Without a picture of its own, a phenomenon shows its calls."""
    from matplotlib import pyplot as plt

    axes = run("coalescing").plot()
    assert axes.get_xlabel()
    plt.close(axes.figure)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [], "b": ["IN", "OUT"]}, "a: nothing; b: IN, OUT"),
        (12345, "12,345"),
        (True, "yes"),
        (0.12345, "0.123"),
        (None, ""),
    ],
)
def test_values_are_formatted_in_one_line(value, text):
    """Expectations and observations of every type that the catalogue uses."""
    assert format_value(value) == text


def test_the_bench_closes_everything_after_an_exception():
    """Descriptors and threads end with the bench; conftest looks for what is left."""
    bench = Bench()
    opened = [*bench.tcp(), *bench.pipe(), *bench.pty(), bench.connect(bench.listener())]
    bench.waiter(bench.epoll(), 0.01)
    with pytest.raises(RuntimeError), bench:
        raise RuntimeError
    assert all(descriptor.closed for descriptor in opened)


def test_the_bench_records_each_call_with_its_error():
    """A refused call is a step with the errno's name, and a row with its number."""
    with Bench() as bench:
        here, _ = bench.pair()
        epoll = bench.epoll()
        assert bench.attempt(bench.register, epoll, here, EPOLLIN) == "ok"
        assert bench.attempt(bench.register, epoll, here, EPOLLIN) == "EEXIST"
        assert bench.attempt(bench.recv, here, 10) == "EAGAIN"
        array = bench.recording().array()
    assert array["op"].tolist() == [Op.REGISTER, Op.REGISTER, Op.RECV]
    assert array["result"].tolist() == [0, -17, -11]
    assert bench.steps[1].returned.startswith("EEXIST")


def test_a_thread_of_the_bench_passes_on_its_exception():
    """The result of a thread is its value or its exception."""
    with Bench() as bench:
        assert bench.thread(int, "7").result() == 7
        with pytest.raises(ValueError, match="invalid literal"):
            bench.thread(int, "x").result()


def test_a_spin_is_one_step_and_all_rows():
    """Many waits are one step, and each is recorded."""
    with Bench() as bench:
        here, _ = bench.pair()
        assert bench.spin(bench.watch(here, EPOLLOUT), 300) == 300
        assert len(bench.steps) == 2
        assert written_in(bench.recorder.memory) == 1 + 2 * 300


def test_a_condition_that_is_never_met_is_an_error(monkeypatch):
    """The error names the condition."""
    monkeypatch.setattr("epolllab.experiments.catalogue.bench.PATIENCE_S", 0.01)
    with Bench() as bench:
        here, _ = bench.pair()
        with pytest.raises(TimeoutError, match="5 bytes at here"):
            bench.arrived(here, 5)


@pytest.mark.processes
@pytest.mark.parametrize("first", ["run", "HowToServer"])
def test_names_load_in_any_order(first):
    """Every public name works, whichever was used first; pandas is loaded only then."""
    code = (
        "import sys; from epolllab import experiments; "
        "assert 'pandas' not in sys.modules; "
        f"experiments.{first}; "
        "assert all(callable(getattr(experiments, name)) for name in experiments.__all__); "
        "assert len(experiments.phenomena()) > 60"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_of_the_package_are_refused():
    """The error names the attribute; dir() lists the public names."""
    with pytest.raises(AttributeError, match="catalog"):
        experiments.catalog  # noqa: B018
    assert set(experiments.__all__) <= set(dir(experiments))


@pytest.mark.processes
def test_the_workers_load_the_standard_library_only():
    """Code for child processes starts fast: neither numpy nor pandas."""
    code = (
        "import sys; import epolllab.experiments.workers.herd; "
        "import epolllab.experiments.workers.senders; "
        "assert not {'numpy', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
