"""Every phenomenon of the catalogue: its entry is complete, and it holds on this kernel."""

import pytest

from epolllab.analysis import diagnose
from epolllab.experiments import phenomena, phenomenon_names, run
from epolllab.experiments.catalogue.registry import FAMILIES, entries

NOT_POSSIBLE_HERE = {
    "wakeup-needs-privilege": "a kernel without CONFIG_PM_SLEEP drops the flag for everyone",
    "python-cuts-batches": "a hard limit of fewer than 1,300 descriptors",
    "fd-setsize-wall": "a hard limit of 1,024 descriptors",
    "gil-convoy": "a Python without an interpreter lock",
    "edge-fires-on-new-bytes": "a kernel before 5.14",
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
    "howto-accepts-one",
}  # fmt: skip
"""Phenomena that the catalogue was specified to have."""

WITH_CHILDREN = {
    "process-is-a-descriptor", "fork-shares-interest", "thundering-herd", "accept-balance",
    "gil-convoy",
}  # fmt: skip


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
