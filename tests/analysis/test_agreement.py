"""Verdicts of several environments: which are the same, and what does not count."""

import pandas as pd
import pytest

from epolllab import analysis
from epolllab.analysis.agreement import verdict_table
from epolllab.analysis.hosts import require_one_run, run_labels
from tests.analysis import samples

KERNELS = ("5.4", "6.1", "6.18")


def verdicts(**of_name):
    """A row per phenomenon and kernel; None where there is no verdict."""
    rows = [
        {"name": name, "family": "f", "verdict": verdict, "kernel": kernel, "worker": worker,
         "host": f"h{worker}", "python": "3.11.7", "cpu": "EPYC"}
        for name, given in of_name.items()
        for worker, (kernel, verdict) in enumerate(zip(KERNELS, given, strict=True))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_only_verdicts_on_the_claim_are_compared():
    """What is not possible or failed somewhere says nothing about that kernel."""
    frame = verdicts(
        everywhere=("holds", "holds", "holds"),
        nowhere=("differs", "differs", "differs"),
        changed=("differs", "holds", "holds"),
        new=("not possible here", "holds", "holds"),
        broken=("raised", "holds", None),
        impossible=("not possible here",) * 3,
        once=("holds", "raised", "not possible here"),
    )
    table = analysis.agreement(frame).set_index("name")
    assert table["agreement"].to_dict() == {
        "everywhere": "same", "nowhere": "same", "changed": "differs", "new": "same",
        "broken": "not compared", "impossible": "not compared", "once": "not compared",
    }  # fmt: skip
    assert table["n_judged"].tolist() == [3, 3, 3, 2, 1, 0, 1]
    assert set(table["n_environments"]) == {3}
    assert table["verdict"].astype("object").where(table["verdict"].notna(), None).tolist() == [
        "holds", "differs", None, "holds", "holds", None, "holds"
    ]  # fmt: skip


def test_exceptions_name_the_environments_by_what_varies():
    """Host and kernel differ here, Python and processor do not."""
    frame = verdicts(
        changed=("differs", "holds", "differs"), broken=("raised", "holds", None),
        nowhere=("differs",) * 3,
    )  # fmt: skip
    said = analysis.agreement(frame).set_index("name")["exceptions"]
    assert said["changed"] == "differs: h0, Linux 5.4 and h2, Linux 6.18"
    assert said["broken"] == "raised: h0, Linux 5.4; not run: h2, Linux 6.18"
    assert said["nowhere"] == ""
    by_kernel = analysis.agreement(frame, by=("kernel",)).set_index("name")["exceptions"]
    assert by_kernel["changed"] == "differs: Linux 5.4 and Linux 6.18"


def test_runs_of_one_environment_that_disagree_are_unsteady():
    """By Python they are one environment, and the difference proves nothing."""
    frame = verdicts(shaky=("differs", "holds", "holds"), firm=("holds", "holds", "raised"))
    table = analysis.agreement(frame, by=("python",)).set_index("name")
    assert table["agreement"].tolist() == ["unsteady", "not compared"]
    assert table["verdict"].isna().tolist() == [True, False]
    assert table["n_judged"].tolist() == [1, 1]
    assert verdict_table(frame, ("python",)).to_numpy().ravel().tolist() == ["unsteady", "holds"]


def test_a_phenomenon_that_an_environment_lacks_was_not_run_there():
    """As when frames with different phenomena are put together."""
    frame = verdicts(a=("holds", "holds", "holds"), b=("holds", "holds", "holds"))
    frame = frame[~((frame["name"] == "b") & (frame["kernel"] == "6.1"))]
    assert analysis.agreement(frame, by=("kernel",))["exceptions"].tolist() == [
        "", "not run: Linux 6.1"
    ]  # fmt: skip


def test_agreement_has_fixed_columns():
    """Also without rows; the order of the phenomena is that of the frame."""
    frame = verdicts(z=("holds", "holds", "holds"), a=("holds", "holds", "holds"))
    full, empty = analysis.agreement(frame), analysis.agreement(frame[:0])
    assert full["name"].tolist() == ["z", "a"]
    assert full.dtypes.equals(empty.dtypes)
    assert len(empty) == 0
    assert list(full) == [
        "name", "family", "agreement", "verdict", "n_environments", "n_judged", "exceptions"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "by", "words"),
    [
        (lambda f: f.drop(columns="host"), ("host",), r"^frame .*run_all.* no column host"),
        (lambda f: f.drop(columns="verdict"), ("host",), r"^frame .* no column verdict"),
        (lambda f: f.assign(verdict="maybe"), ("host",), r"^verdict in frame .* not 'maybe'"),
        (lambda f: f, (), r"^by must not be empty"),
        (lambda f: f, ("kernal",), r"^by .*did you mean 'kernel'"),
    ],
)
def test_what_is_wrong_is_named(change, by, words):
    with pytest.raises(ValueError, match=words):
        analysis.agreement(change(verdicts(a=("holds",) * 3)), by=by)


def of_two_workers(**columns):
    """A sweep of two workers."""
    one = samples.sweep({"epoll-level": {10: 900, 100: 900}, "poll": {10: 900, 100: 5_000}})
    environment = {"host": "h", "kernel": "6.1", "python": "3.11.7", "cpu": "EPYC"} | columns
    parts = []
    for n in range(2):
        values = {k: v[n] if isinstance(v, tuple) else v for k, v in environment.items()}
        parts.append(one.assign(worker=n, **values))
    return pd.concat(parts, ignore_index=True)


def test_a_run_is_named_by_what_tells_it_apart():
    """By its number only where nothing else does."""
    labels = run_labels(of_two_workers(python=("3.11.7", "3.13.0")))
    assert labels.unique().tolist() == ["Python 3.11.7", "Python 3.13.0"]
    assert run_labels(of_two_workers()).unique().tolist() == ["worker 0", "worker 1"]
    both = run_labels(of_two_workers(host=("a", "b"), kernel=("5.4", "6.1")))
    assert both.unique().tolist() == ["a, Linux 5.4", "b, Linux 6.1"]
    assert run_labels(samples.sweep({"poll": {10: 1}})) is None


@pytest.mark.parametrize(
    "reduce",
    [
        analysis.shape,
        analysis.shares,
        analysis.literature_ratios,
        analysis.crossover_ratios,
        lambda frame: analysis.summarise(frame, ("poller", "n_fds"), ("wait_ns",)),
        lambda frame: analysis.fits(frame, ("poller", "host"), "n_fds", "wait_ns"),
        lambda frame: require_one_run("frame", frame),
    ],
)
def test_times_of_several_workers_are_never_mixed(reduce):
    """Each function that would pool them refuses, and says how to choose one."""
    frame = of_two_workers().assign(kind="eventfd")
    with pytest.raises(ValueError, match=r"^(frame|data|result|by) must .*(worker 0|'worker')"):
        reduce(frame)


def test_summaries_of_several_workers_have_a_row_for_each():
    frame = of_two_workers()
    table = analysis.summarise(frame, ("worker", "poller", "n_fds"), ("wait_ns",))
    assert len(table) == 2 * 4
    assert set(table["n"]) == {3}


def test_a_result_of_several_workers_is_split_with_its_circumstances(tmp_path):
    """Each part has the floor of its own clock, and works where one run is needed."""
    frame = of_two_workers(python=("3.11.7", "3.13.0"))
    facts = {
        str(n): {"raw_floor_ns": 100.0 + n, "kernel": "6.1", "system": "Linux"} for n in (0, 1)
    }
    by = ("worker", "host", "kernel", "python", "cpu", "poller", "api", "n_fds", "active")
    made = analysis.Result("sweep", frame, {"runs": facts, "notes": []}, by, ("wait_ns",), "n_fds")
    with pytest.raises(ValueError, match=r"^frame must be of one run.*Python 3\.11\.7.*runs\(\)"):
        made.checks()
    made = analysis.Result.load(made.save(tmp_path / "two"))
    parts = made.runs()
    assert list(parts) == ["Python 3.11.7", "Python 3.13.0"]
    assert [part.frame.attrs["raw_floor_ns"] for part in parts.values()] == [100.0, 101.0]
    assert [len(part) for part in parts.values()] == [len(frame) // 2] * 2
    checks = parts["Python 3.13.0"].checks().set_index("check")["verdict"]
    assert checks["epoll-level is flat"] == "holds"
    assert parts["Python 3.11.7"].by == ("poller", "api", "n_fds", "active")
    assert "Linux 6.1" in made.frame.attrs["circumstances"]
    part = parts["Python 3.11.7"]
    assert list(part.runs()) == ["sweep"]
