"""The limit on descriptors: raised, restored, explained."""

import errno
import gc
import os
import pickle
import resource
import sys
from collections.abc import Iterator

import pytest

from epolllab import kernel

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads the Linux kernel's limits"),
    pytest.mark.usefixtures("descriptor_limits_put_back"),
]


@pytest.fixture
def limits(descriptor_limits_put_back: None) -> Iterator[kernel.DescriptorLimits]:
    """A soft limit of 200."""
    before = kernel.descriptor_limits()
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before.hard))
    yield kernel.descriptor_limits()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_and_restored(limits):
    """Inside, more descriptors than the old limit can be open."""
    with kernel.raise_descriptor_limit(250) as raised:
        assert raised == kernel.descriptor_limits().soft == 250
        numbers = [os.dup(0) for _ in range(201)]
    assert kernel.descriptor_limits() == limits
    for number in numbers:
        os.close(number)


def test_a_sufficient_limit_is_left_unchanged(limits):
    """Fewer than allowed changes nothing; no number means the hard limit."""
    with kernel.raise_descriptor_limit(10) as raised:
        assert raised == kernel.descriptor_limits().soft == 200
    with kernel.raise_descriptor_limit() as raised:
        assert raised == limits.hard


def test_the_limit_is_restored_after_an_error(limits):
    """The error propagates."""
    with pytest.raises(KeyError), kernel.raise_descriptor_limit(250):
        raise KeyError
    assert kernel.descriptor_limits() == limits


@pytest.mark.usefixtures("limits")
def test_a_limit_can_be_raised_permanently():
    """ensure_descriptor_limit keeps it raised; there is nothing that could be dropped."""
    assert kernel.ensure_descriptor_limit(250) == 250
    gc.collect()
    assert kernel.descriptor_limits().soft == 250


def test_more_than_the_hard_limit_is_explained(limits):
    """The message has what is needed, what was found and every way to raise it."""
    wanted = limits.hard + 1
    with (
        pytest.raises(kernel.DescriptorLimitError) as caught,
        kernel.raise_descriptor_limit(wanted),
    ):
        pass
    assert kernel.descriptor_limits() == limits
    error = caught.value
    assert (error.errno, error.wanted, error.soft) == (errno.EMFILE, wanted, 200)
    assert error.hard == limits.hard
    words = (f"{wanted:,}", f"{limits.hard:,}", "200", "ulimit -n", "LimitNOFILE", "limits.conf")
    assert [word for word in words if word not in str(error)] == []


def test_the_error_survives_pickling():
    """A child process can send it to its parent."""
    error = kernel.DescriptorLimitError(5000, 1024, 4096)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.wanted, copy.soft, copy.hard, str(copy)) == (5000, 1024, 4096, str(error))


@pytest.mark.parametrize("wanted", [0, -1])
def test_a_limit_is_at_least_one(wanted):
    """0 descriptors and fewer are refused."""
    with pytest.raises(ValueError, match=r"^wanted\b"):
        kernel.ensure_descriptor_limit(wanted)
