"""The catalogue's machinery: the register, verdicts, outcomes, the bench."""

import os
import select
import subprocess
import sys
import threading

import pandas as pd
import pytest

from epolllab import kernel
from epolllab.events import EPOLLIN, EPOLLOUT, Op
from epolllab.experiments import phenomena as door
from epolllab.experiments import run, run_all
from epolllab.experiments.catalogue.bench import Bench
from epolllab.experiments.catalogue.outcome import plainly
from epolllab.kernel.waiting import is_asleep, until_asleep

COLUMNS = [
    "name",
    "family",
    "claim",
    "expected",
    "observed",
    "verdict",
    "seconds",
    "source",
    "reason",
]


@pytest.fixture
def register(monkeypatch):
    """Add phenomena for the length of one test, all by the same decorator."""
    module = sys.modules["epolllab.experiments.catalogue.registry"]
    module.entries()
    monkeypatch.setattr(module, "_entries", dict(module._entries))

    def add(name, function, **told):
        facts = {"family": "of the test", "claim": "It is so.", "expected": 1, "source": "here"}
        module.phenomenon(name, **{**facts, **told})(function)

    return add


def test_an_equal_observation_holds(register):
    """What is seen equals what is expected."""
    register("as-told", lambda bench: 1)
    outcome = run("as-told")
    assert (outcome.verdict, outcome.observed, outcome.reason) == ("holds", 1, "")
    assert outcome.holds


def test_another_observation_differs(register):
    """A wrong expectation gets the verdict that it deserves."""
    register("not-as-told", lambda bench: 2)
    outcome = run("not-as-told")
    assert outcome.verdict == "differs"
    assert not outcome.holds


def test_a_judge_replaces_equality(register):
    """Where an effect is statistical, the margin decides."""
    register("judged", lambda bench: 7, expected="over 5", judge=lambda seen: seen > 5)
    register("judged-down", lambda bench: 3, expected="over 5", judge=lambda seen: seen > 5)
    assert run("judged").verdict == "holds"
    assert run("judged-down").verdict == "differs"


def test_an_exception_becomes_an_outcome(register):
    """Code that fails is a row with its error and its place, and what was done until then."""

    def fails(bench):
        bench.pair()
        bench.do("the last thing done", lambda: None)
        raise RuntimeError("no luck")

    register("failing", fails)
    outcome = run("failing")
    assert outcome.verdict == "raised"
    assert outcome.reason.startswith("RuntimeError: no luck (test_registry.py line")
    assert outcome.steps[-1].what == "the last thing done"


def test_the_impossible_says_why(register):
    """What this machine cannot show is no failure."""

    def cannot(bench):
        raise bench.impossible("it needs wings")

    register("flying", cannot)
    outcome = run("flying")
    assert (outcome.verdict, outcome.reason) == ("not possible here", "it needs wings")


@pytest.mark.parametrize("versions", [{"since": (99, 0)}, {"before": (2, 6)}])
def test_another_kernel_is_not_asked(register, versions):
    """A phenomenon that this kernel is too old or too new for is not tried."""
    register("elsewhere", lambda bench: pytest.fail("it was tried"), **versions)
    outcome = run("elsewhere")
    assert outcome.verdict == "not possible here"
    assert "it holds for kernels" in outcome.reason


def test_an_unknown_name_lists_the_near_ones():
    """A slip of the keyboard is answered with what may have been meant."""
    with pytest.raises(ValueError, match="edge-goes-silent"):
        run("edge-goes-slient")
    with pytest.raises(ValueError, match=r"howto-accepts-one|howto-forgets-eof"):
        run("howto")
    with pytest.raises(ValueError, match="none is near"):
        run("zzzzzzzz")


def test_a_name_is_given_once(register):
    """Two functions do not share a name, but one may be defined again."""

    def first(bench):
        return 1

    def second(bench):
        return 2

    register("twice", first)
    register("twice", first)
    with pytest.raises(ValueError, match="already"):
        register("twice", second)


@pytest.mark.parametrize("lacking", [{"claim": ""}, {"source": ""}])
def test_an_entry_needs_claim_and_source(register, lacking):
    """What is not told, or comes from nowhere, is not entered."""
    with pytest.raises(ValueError, match="claim and a source"):
        register("bare", lambda bench: 1, **lacking)


def test_run_all_goes_on_after_a_failure(register):
    """A row that raised does not keep the rest from running."""

    def fails(bench):
        raise OSError(5, "broken")

    register("a-failing", fails)
    register("b-holding", lambda bench: 1)
    frame = run_all(progress=False, only=["of the test", "level-repeats"])
    assert list(frame["name"]) == ["level-repeats", "a-failing", "b-holding"]
    assert list(frame["verdict"].astype(str)) == ["holds", "raised", "holds"]
    assert "broken" in frame["reason"][1]


def test_run_all_keeps_what_it_has(register):
    """An interrupt ends the run, not the rows that are done."""

    def interrupted(bench):
        raise KeyboardInterrupt

    register("a-done", lambda bench: 1)
    register("b-stopped", interrupted)
    register("c-never", lambda bench: 1)
    before = kernel.descriptors_open()
    frame = run_all(progress=False, only=["of the test"])
    assert list(frame["name"]) == ["a-done"]
    assert frame.attrs["interrupted"]
    assert kernel.descriptors_open() == before


def test_frames_have_fixed_columns_also_when_empty():
    """Both frames have their columns and dtypes whatever is in them."""
    one = run_all(progress=False, only=["coalescing"])
    none = run_all(progress=False, only=[])
    assert list(one.columns) == list(none.columns) == COLUMNS
    assert dict(one.dtypes) == dict(none.dtypes)
    assert one.attrs["circumstances"]["kernel"] == os.uname().release
    listed = door()
    assert list(listed.columns) == [
        "name",
        "family",
        "claim",
        "expected",
        "source",
        "kernels",
        "notes",
    ]
    assert set(listed.dtypes) == {pd.StringDtype(na_value=float("nan"))}


def test_only_takes_names_and_families():
    """A name that is neither is refused before anything runs."""
    with pytest.raises(ValueError, match="no phenomenon 'leval-repeats'"):
        run_all(progress=False, only=["leval-repeats"])


def test_an_outcome_shows_what_was_done():
    """Steps, recording, table and picture tell the same story."""
    outcome = run("edge-goes-silent")
    returned = [step.returned for step in outcome.steps if step.what.startswith("epoll_wait")]
    assert returned == ["here IN", "nothing", "here IN"]
    assert list(outcome.table().columns) == ["what", "returned", "t_ns", "dur_ns"]
    ops = outcome.recording.counts()
    assert (ops["wait"], ops["ready"], ops["recv"], ops["send"]) == (3, 2, 1, 2)
    assert outcome.circumstances["experiment"] == "edge-goes-silent"


def test_an_outcome_in_a_notebook_puts_expected_beside_observed(register):
    """The card has the verdict's word, both sides, the steps, and escapes what it shows."""
    register("odd<name>", lambda bench: {"a": [1]}, expected={"a": [2]}, claim="Is a < b.")
    card = run("odd<name>")._repr_html_()
    assert "differs" in card
    assert "odd&lt;name&gt;" in card
    assert "Is a &lt; b." in card
    assert "<td" in card
    assert "var(--jp-" in card
    held = run("coalescing")
    assert "holds" in held._repr_html_()
    assert "epoll_ctl(ADD, here, IN|ET)" in held._repr_html_()
    assert "expected" in repr(held)


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
def test_plain_words(value, text):
    """Observations are told in words."""
    assert plainly(value) == text


def test_the_bench_closes_everything_whatever_happens():
    """Descriptors and threads end with the bench, also after an exception."""
    before = kernel.descriptors_open(), threading.active_count()

    def misused():
        with Bench() as bench:
            bench.tcp()
            bench.pipe()
            bench.pty()
            bench.connect(bench.listener())
            epoll = bench.epoll()
            bench.waiter(epoll, 0.01)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        misused()
    assert (kernel.descriptors_open(), threading.active_count()) == before


def test_the_bench_records_each_call_with_its_error():
    """A refused call is a step with the errno, and a record with its number."""
    with Bench() as bench:
        here, _ = bench.pair()
        epoll = bench.epoll()
        assert bench.tried(bench.register, epoll, here, EPOLLIN) == "ok"
        assert bench.tried(bench.register, epoll, here, EPOLLIN) == "EEXIST"
        assert bench.attempt(bench.recv, here, 10) == "EAGAIN"
        kept = bench.snapshot()
    from epolllab.recording.recording import Recording

    array = Recording(kept.rows).array()
    assert array["op"].tolist() == [Op.REGISTER, Op.REGISTER, Op.RECV]
    assert array["result"].tolist() == [0, -17, -11]
    assert bench.steps[1].returned.startswith("EEXIST")


def test_a_spin_is_one_step_and_all_records():
    """Many waits do not flood the table of steps."""
    with Bench() as bench:
        here, _ = bench.pair()
        epoll = bench.epoll()
        bench.register(epoll, here, EPOLLOUT)
        assert bench.spin(epoll, 300) == 300
        assert len(bench.steps) == 2
        assert bench.recorder.written == 1 + 2 * 300


def test_waiting_for_what_never_comes_ends(monkeypatch):
    """A condition that stays away is an error that names it."""
    monkeypatch.setattr("epolllab.experiments.catalogue.bench.PATIENCE_S", 0.01)
    with Bench() as bench:
        here, _ = bench.pair()
        with pytest.raises(TimeoutError, match="5 bytes at here"):
            bench.arrived(here, 5)


def test_asleep_tells_a_wait_from_a_run():
    """A thread in epoll_wait is asleep; one that computes is not, and a dead one neither."""
    with select.epoll() as epoll:
        wake = os.eventfd(0)
        try:
            epoll.register(wake, select.EPOLLIN)
            waiter = threading.Thread(target=epoll.poll)
            waiter.start()
            until_asleep(os.getpid(), waiter.native_id)
            assert not is_asleep(os.getpid(), threading.get_native_id())
            os.eventfd_write(wake, 1)
            waiter.join()
            assert not is_asleep(os.getpid(), waiter.native_id)
        finally:
            os.close(wake)


@pytest.mark.parametrize("first", ["run", "phenomena", "phenomenon_names", "HowToServer"])
def test_the_front_door_opens_in_any_order(first):
    """Each name is what it should be, whichever was used first, and none is loaded before."""
    code = (
        "import sys; from epolllab import experiments; "
        "assert 'pandas' not in sys.modules; "
        f"experiments.{first}; "
        "assert all(callable(getattr(experiments, name)) for name in experiments.__all__); "
        "assert len(experiments.phenomena()) > 60"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_front_door_knows_its_names():
    """What does not exist is said so, and the names are listed."""
    from epolllab import experiments

    with pytest.raises(AttributeError, match="no attribute 'catalog'"):
        experiments.catalog  # noqa: B018
    assert set(experiments.__all__) <= set(dir(experiments))


def test_the_workers_of_experiments_load_the_standard_library_only():
    """What runs in child processes starts fast: neither numpy nor pandas."""
    code = (
        "import sys; import epolllab.experiments.workers.herd, epolllab.experiments.workers.senders; "
        "assert not {'numpy', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
