"""The limit on descriptors, RLIMIT_NOFILE: reading it, raising it, explaining it."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from epolllab.checks import check_int, checked
from epolllab.kernel.facilities import NotPossible

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = [
    "DescriptorLimitError",
    "DescriptorLimits",
    "descriptor_limits",
    "ensure_descriptor_limit",
    "raise_descriptor_limit",
]


class DescriptorLimits(NamedTuple):
    """RLIMIT_NOFILE: one more than the largest descriptor number allowed."""

    soft: int
    """The limit in force; a process may raise it as far as the hard limit."""
    hard: int
    """Only root can raise it."""


class DescriptorLimitError(NotPossible):
    """More descriptors are needed than the hard limit allows; ``errno`` is EMFILE.

    Its attributes are the number of descriptors ``wanted`` and the limits ``soft`` and ``hard``.
    """

    def __init__(self, wanted: int, soft: int, hard: int) -> None:
        self.wanted, self.soft, self.hard = wanted, soft, hard
        super().__init__(
            errno.EMFILE,
            f"{wanted:,} descriptors are needed, but the hard limit of this process is {hard:,} "
            f"(its soft limit, {soft:,}, is raised automatically). Use fewer connections, or "
            f"raise the hard limit as root and start again: 'ulimit -n {wanted}' in the shell "
            f"that starts this, LimitNOFILE={wanted} in a systemd unit, or a line "
            f"'* hard nofile {wanted}' in /etc/security/limits.conf followed by a new login; "
            "none of these can exceed the sysctl fs.nr_open",
        )

    def __reduce__(self) -> tuple[type["DescriptorLimitError"], tuple[int, int, int]]:
        """Pickle the arguments, so that a child process can send the error to its parent."""
        return DescriptorLimitError, (self.wanted, self.soft, self.hard)


def descriptor_limits() -> DescriptorLimits:
    """Return this process's limits; OSError if the system has none (Windows)."""
    if resource is None:
        raise OSError(f"{sys.platform} has no descriptor limit that can be read")
    return DescriptorLimits(*resource.getrlimit(resource.RLIMIT_NOFILE))


@checked(wanted=partial(check_int, least=1))
def ensure_descriptor_limit(wanted: int | None = None) -> int:
    """Raise this process's soft limit on descriptors if it is too low, permanently.

    Parameters
    ----------
    wanted : int, optional
        Descriptors needed at once, including those already open; by default as many as
        the hard limit allows. A sufficient soft limit is left unchanged.

    Returns
    -------
    int
        The soft limit now in force.

    Raises
    ------
    DescriptorLimitError
        `wanted` is more than the hard limit; nothing was changed.
    """
    soft, hard = descriptor_limits()
    if wanted is not None and wanted > hard:
        raise DescriptorLimitError(wanted, soft, hard)
    needed = max(soft, hard if wanted is None else wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return needed


@checked(wanted=partial(check_int, least=1))
@contextmanager
def raise_descriptor_limit(wanted: int | None = None) -> Iterator[int]:
    """Raise the soft limit on descriptors inside a ``with`` block, and restore it.

    The limit is the whole process's. A descriptor above the restored limit stays open
    and usable; only new ones are refused. Parameters and errors are those of
    :func:`ensure_descriptor_limit`, which raises the limit without restoring it.

    Yields
    ------
    int
        The soft limit in force inside.
    """
    before = descriptor_limits()
    raised = ensure_descriptor_limit(wanted)
    try:
        yield raised
    finally:
        hard = descriptor_limits().hard  # may have been lowered meanwhile
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before.soft, hard), hard))
