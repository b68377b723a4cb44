"""Every phenomenon of the catalogue: told, sourced, and as the kernel here does it."""

import threading

import pytest

from epolllab import kernel
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
"""The entries that may be impossible somewhere, with the reason; no other may."""

# What PHENOMENA lists, by number; 4 is a note of 3.
LISTED = {
    1: "level-repeats",
    2: "edge-goes-silent",
    3: "edge-fires-on-new-bytes",
    5: "coalescing",
    6: "modify-rearms-edge",
    7: "in-brings-out-along",
    8: "writable-spin",
    9: "hangup-cannot-be-masked",
    10: "ignored-eof-spin",
    11: "endings-matrix",
    12: "data-with-fin",
    13: "pipe-ends",
    14: "edge-accept-strands",
    15: "edge-starvation",
    16: "maxevents-rotation",
    17: "dup-keeps-dead-fd",
    18: "fd-reuse-ghost",
    19: "fork-shares-interest",
    20: "stale-event-in-batch",
    21: "cannot-be-watched",
    22: "bad-registrations",
    23: "oneshot",
    24: "exclusive-rules",
    25: "thundering-herd",
    26: "accept-balance",
    27: "threads-on-one-epoll",
    28: "edge-two-threads",
    29: "nested-epoll",
    30: "close-does-not-wake",
    31: "register-does-wake",
    32: "writable-hysteresis",
    33: "low-water-mark",
    34: "eventfd-edge-unread",
    35: "timeout-rounding",
    36: "fd-setsize-wall",
    37: "backlog-plus-one",
    39: "nagle-and-cork",
    40: "gil-convoy",
    41: "lost-wakeup-stress",
    42: "kernels-own-view",
}
UNNUMBERED = (
    "priority-data",
    "invalid-descriptor",
    "default-mask",
    "register-twice",
    "nodelay-inherited",
    "howto-ctl-cost",
)
HOWTO = (
    "howto-forgets-eof",
    "howto-misreads-hup",
    "howto-tables-grow",
    "howto-takes-reset-for-drained",
    "howto-backlog-of-one",
    "howto-accepts-one",
)


def held() -> tuple[int, int, set[int]]:
    """Descriptors, threads and child processes that this process has now."""
    return kernel.descriptors_open(), threading.active_count(), kernel.children()


@pytest.mark.parametrize("name", phenomenon_names())
def test_each_phenomenon_holds_and_leaves_nothing(name):
    """On this kernel the claim holds, or its exception is stated; and all is closed again."""
    before = held()
    outcome = run(name)
    assert held() == before
    if outcome.verdict == "not possible here":
        assert name in NOT_POSSIBLE_HERE, outcome
        assert outcome.reason
    else:
        assert outcome.verdict == "holds", outcome


@pytest.mark.parametrize("name", phenomenon_names())
def test_each_entry_is_told_and_sourced(name):
    """A claim is one sentence, and there is a source and an expectation."""
    entry = entries()[name]
    assert entry.claim.endswith(".")
    assert len(entry.claim) <= 100
    assert entry.source
    assert entry.expected
    assert name == name.lower()
    assert " " not in name


def test_every_listed_phenomenon_is_there():
    """Nothing of the list of phenomena, nor of the how-to's faults, is missing."""
    assert {*LISTED.values(), *UNNUMBERED, *HOWTO} <= set(phenomenon_names())


def test_old_kernels_are_a_note_of_the_new_bytes():
    """Item 4 of the list, the pipes of 5.5 to 5.13, is told beside item 3."""
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
def test_the_doctor_reads_the_recording_of_a_spin(name, kind):
    """A phenomenon that spins leaves a recording from which the spin is named."""
    assert kind in diagnose(run(name).recording).kinds
