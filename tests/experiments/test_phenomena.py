"""Every phenomenon of the catalogue: its entry is complete, and it holds on this kernel."""

import pytest

from epolllab.analysis import diagnose
from epolllab.experiments import phenomena, phenomenon_names, run
from epolllab.experiments.catalogue import completion
from epolllab.experiments.catalogue.registry import FAMILIES, entries
from epolllab.kernel import NotPossible

COMPLETION = [name for name, entry in entries().items() if entry.family == "completion"]

NOT_POSSIBLE_HERE = {
    **dict.fromkeys(COMPLETION, "a kernel or sandbox without io_uring"),
    "wakeup-needs-privilege": "a kernel without CONFIG_PM_SLEEP drops the flag for everyone",
    "python-cuts-batches": "a hard limit of fewer than 1,300 descriptors",
    "fd-setsize-wall": "a hard limit of 1,024 descriptors",
    "gil-convoy": "a Python without an interpreter lock",
    "edge-fires-on-new-bytes": "a kernel before 5.14",
    "inode-is-no-identity": "a sandbox without kcmp(2)",
}
"""The entries that may be impossible on some machine, with the reason; no others may."""

REQUIRED = {
    "level-repeats", "edge-goes-silent", "edge-fires-on-new-bytes", "coalescing",
    "modify-rearms-edge", "in-brings-out-along", "writable-spin", "hangup-cannot-be-masked",
    "ignored-eof-spin", "endings-matrix", "data-with-fin", "pipe-ends", "edge-accept-strands",
    "edge-starvation", "maxevents-rotation", "dup-keeps-dead-fd", "fd-reuse-ghost",
    "fork-shares-interest", "stale-event-in-batch", "cannot-be-watched", "bad-registrations",
    "oneshot", "exclusive-rules", "thundering-herd", "accept-balance", "threads-on-one-epoll",
    "edge-two-threads", "nested-epoll", "close-does-not-wake", "register-does-wake",
    "writable-hysteresis", "low-water-mark", "eventfd-edge-unread", "timeout-rounding",
    "fd-setsize-wall", "backlog-plus-one", "nagle-and-cork", "gil-convoy", "lost-wakeup-stress",
    "kernels-own-view", "priority-data", "invalid-descriptor", "default-mask", "register-twice",
    "nodelay-inherited", "howto-ctl-cost", "howto-forgets-eof", "howto-misreads-hup",
    "howto-tables-grow", "howto-takes-reset-for-drained", "howto-backlog-of-one",
    "howto-accepts-one", "pending-read-holds-a-buffer", "multishot-ends", "cancel-races",
    "close-does-not-cancel", "short-reads", "order-of-completions",
    "poll-of-a-closed-descriptor", "skip-success-hides-short-sends",
}  # fmt: skip
"""Phenomena that the catalogue was specified to have."""

WITH_CHILDREN = {
    "process-is-a-descriptor", "fork-shares-interest", "thundering-herd", "accept-balance",
    "gil-convoy", "edge-starvation",
}  # fmt: skip

WRONG = [
    ("exclusive-first-registered", "the last to fall asleep is woken first",
     {"woken": ["C", "B", "C", "A", "B", "A"]}),
    ("exclusive-first-registered", "registering again does not change the order",
     {"woken after A was registered again": ["A"] * 6}),
    ("shared-last-asleep", "the first to fall asleep is woken first",
     {"woken": ["A", "A", "B", "B", "C", "C"]}),
    ("edge-burst-one-thread", "with a shared ET epoll, each free thread takes the next",
     {"edge: connections by thread": [3, 3, 3, 3]}),
    ("threads-on-one-epoll", "one event wakes two threads with level", {"level": 2}),
    ("exclusive-rules", "ERR and HUP are refused",
     {"with OUT, ERR, HUP, ET and WAKEUP": "EINVAL"}),
    ("ghost-evicted", "a ghost cannot be unregistered", {"unregister after dup2": "EBADF"}),
    ("ghost-evicted", "a ghost cannot be read", {"after reading": ["IN"]}),
    ("edge-fires-on-new-bytes", "only after EAGAIN can a descriptor become readable",
     {"tcp": ["IN"]}),
    ("short-read-misses-end", "only EAGAIN shows that a further edge will come",
     {"one more byte, without an EAGAIN": []}),
    ("short-read-misses-end", "a loop may always stop after a short read",
     {"IN|ET, next wait": ["IN"]}),
    ("edge-announces-room", "any read by the peer is an edge on TCP, too",
     {"tcp: a little sent, and read by the peer": ["OUT"]}),
    ("edge-announces-room", "OUT comes only after a full buffer",
     {"unix: events when the peer reads three sends one by one": 0}),
    ("hangup-without-room", "HUP brings OUT back", {"unix": ["IN|OUT|HUP|RDHUP"]}),
    ("endings-matrix", "each ending has a mask of its own",
     {"peer closed": "IN|OUT|HUP|RDHUP"}),
    ("endings-told-apart", "a close and a half-close stay the same after a send",
     {"closed, after a send": "IN|OUT|RDHUP"}),
    ("terminal-hangs-up", "HUP is reported while no slave is open",
     {"no slave opened yet": ["HUP"]}),
    ("error-queue-is-err", "SO_ERROR takes ERR away", {"after that": []}),
    ("select-hides-endings", "HUP counts as writable",
     {"full unix socket, shut both ways: select": "read, write"}),
    ("norm-and-band", "WRBAND comes with OUT on every socket",
     {"tcp, room to write": ["OUT|WRNORM|WRBAND"]}),
    ("in-brings-out-along", "a bit that was passed over is lost for good",
     {"one more byte": ["IN"]}),
    ("edge-starvation", "an event is worth one read",
     {"edge, drain until EAGAIN": 1}),
    ("timeout-rounding", "the kernel rounds, to the nearest millisecond",
     {"epoll, 1.2 ms": 1.07}),
    ("timeout-rounding", "the kernel rounds a short timeout up",
     {"epoll_wait, cut off to 0": 1.07}),
    ("inode-is-no-identity", "an inode identifies what is watched",
     {"inodes of two eventfds": 2}),
    ("multishot-ends", "a multishot recv goes on until it is cancelled",
     {"another piece": ["recv: 4"]}),
    ("close-does-not-cancel", "a close ends what is pending for the descriptor",
     {"after the close": ["read: ECANCELED"]}),
    ("poll-of-a-closed-descriptor", "a poll is of a number",
     {"a write to the new one": ["IN"]}),
    ("skip-success-hides-short-sends", "a short send is a failure",
     {"short, without MSG_WAITALL: completions": 1}),
    ("bad-registrations", "each refusal has an errno of its own",
     {"unregister an unregistered descriptor": "EBADF"}),
]  # fmt: skip
"""A phenomenon, a wrong explanation, and what would be observed if it were right."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.processes] if name in WITH_CHILDREN else [])
        for name in phenomenon_names()
    ],
)
def test_each_phenomenon_holds_and_leaves_nothing(name):
    """The claim holds here, or is known to be impossible; conftest checks what is left."""
    outcome = run(name)
    if outcome.verdict == "not possible here":
        assert name in NOT_POSSIBLE_HERE, outcome
        assert outcome.reason
    else:
        assert outcome.verdict == "holds", outcome


@pytest.mark.parametrize(
    ("name", "explanation", "observed"),
    [
        pytest.param(*case, marks=[pytest.mark.processes] if case[0] in WITH_CHILDREN else [])
        for case in WRONG
    ],
)
def test_a_wrong_explanation_would_be_noticed(name, explanation, observed):
    """What the kernel does holds; the same with what the explanation says does not."""
    outcome = run(name)
    if outcome.verdict == "not possible here":
        pytest.skip(outcome.reason)
    assert outcome.holds, outcome
    assert set(observed) <= set(outcome.observed)
    under_it = {**outcome.observed, **observed}
    entry = entries()[name]
    holds = entry.judge(under_it) if entry.judge else under_it == entry.expected
    assert not holds, explanation


def test_seven_endings_have_five_masks():
    """A close looks like a half-close, and a refused connect like a reset."""
    seen = run("endings-matrix").observed
    assert len(seen) == 7
    assert len(set(seen.values())) == 5
    assert seen["peer closed"] == seen["peer shut its sending half"]
    assert seen["connect refused"] == seen["peer reset"]


@pytest.mark.parametrize("name", phenomenon_names())
def test_each_entry_has_a_claim_and_a_source(name):
    """A claim is one short sentence; there is a source and an expectation."""
    entry = entries()[name]
    assert entry.claim.endswith(".")
    assert len(entry.claim) <= 100
    assert entry.source
    assert entry.expected
    assert name == name.lower()
    assert " " not in name


def test_the_catalogue_is_complete():
    """No specified phenomenon is missing."""
    assert set(phenomenon_names()) >= REQUIRED


def test_old_pipes_are_a_note():
    """The pipes of kernels 5.5 to 5.13 are described beside today's behaviour."""
    assert "5.5 to 5.13" in " ".join(entries()["edge-fires-on-new-bytes"].notes)


def test_the_catalogue_is_in_the_order_of_its_families():
    """Families follow one another and none is split."""
    families = list(phenomena()["family"])
    assert len(families) > 60
    assert len(list(dict.fromkeys(families))) == len(FAMILIES)
    assert families == sorted(families, key=list(dict.fromkeys(families)).index)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("writable-spin", "writable interest left on"),
        ("hangup-cannot-be-masked", "hang-up that cannot be masked"),
        ("ignored-eof-spin", "ignored end of file"),
        ("ghost-spin", "ghost of a duplicated descriptor"),
        ("unread-wakeup-spins", "wake-up descriptor never read"),
    ],
)
def test_a_spin_is_diagnosed_from_its_recording(name, kind):
    """A phenomenon that spins leaves a recording from which the spin is identified."""
    assert kind in diagnose(run(name).recording).kinds


def test_completion_where_it_is_refused(monkeypatch):
    """The outcome says why, and nothing fails."""

    def refuse(*_):
        raise NotPossible(1, "io_uring is not permitted here: a filter")

    monkeypatch.setattr(completion, "Uring", refuse)
    assert len(COMPLETION) == 8
    for name in COMPLETION:
        outcome = run(name)
        assert (outcome.verdict, outcome.reason) == (
            "not possible here", "io_uring is not permitted here: a filter",
        )  # fmt: skip
