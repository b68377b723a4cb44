"""kernel.limits."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = [
    "DescriptorLimitError",
    "DescriptorLimits",
    "descriptor_limits",
    "ensure_descriptor_limit",
    "raise_descriptor_limit",
]


# --- limits -----------------------------------------------------------------------------


class DescriptorLimits(NamedTuple):
    """RLIMIT_NOFILE: one more than the greatest descriptor number allowed."""

    soft: int
    """In force; a process may raise it itself, as far as the hard one."""
    hard: int
    """Only the system's administrator can raise it."""


class DescriptorLimitError(OSError):
    """More descriptors are wanted than this process may have.

    Parameters
    ----------
    wanted : int
        Descriptors needed.
    soft, hard : int
        The limits found.

    Attributes
    ----------
    wanted, soft, hard : int
        As given; ``errno`` is EMFILE.
    """

    def __init__(self, wanted: int, soft: int, hard: int) -> None:
        self.wanted, self.soft, self.hard = wanted, soft, hard
        super().__init__(
            errno.EMFILE,
            f"{wanted:,} descriptors are wanted, and this process may have {hard:,}: that is its "
            f"hard limit, to which the soft limit ({soft:,}) is raised by itself. Ask for fewer "
            "connections, or raise the hard limit as root and start again: 'ulimit -n "
            f"{wanted}' in the shell that starts this, LimitNOFILE={wanted} in a systemd unit, "
            f"or a line '* hard nofile {wanted}' in /etc/security/limits.conf (then log in "
            "anew); none of them beyond the sysctl fs.nr_open",
        )

    def __reduce__(self) -> tuple[type["DescriptorLimitError"], tuple[int, int, int]]:
        """Pickle by what it was made of, for the way back from a child process."""
        return DescriptorLimitError, (self.wanted, self.soft, self.hard)


def descriptor_limits() -> DescriptorLimits:
    """Limits of this process on descriptors.

    Raises
    ------
    OSError
        The operating system has no such limit (Windows).
    """
    try:
        import resource
    except ImportError:
        raise OSError(f"{sys.platform} has no limit on descriptors that could be read") from None
    return DescriptorLimits(*resource.getrlimit(resource.RLIMIT_NOFILE))


def ensure_descriptor_limit(wanted: int | None = None) -> int:
    """Raise this process's soft limit on descriptors where it is too low, for good.

    Parameters
    ----------
    wanted : int, optional
        Descriptors needed at once, those already open included; by default as many
        as the hard limit allows. A soft limit that suffices is left alone.

    Returns
    -------
    int
        The soft limit now in force.

    Raises
    ------
    DescriptorLimitError
        More than the hard limit; nothing was changed.
    ValueError
        `wanted` is not at least 1.
    OSError
        The operating system has no such limit (Windows).
    """
    soft, hard = descriptor_limits()
    if wanted is not None and wanted < 1:
        raise ValueError(f"wanted is a number of descriptors from 1 on, not {wanted}")
    if wanted is not None and wanted > hard:
        raise DescriptorLimitError(wanted, soft, hard)
    import resource

    needed = max(soft, hard if wanted is None else wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return needed


@contextmanager
def raise_descriptor_limit(wanted: int | None = None) -> Iterator[int]:
    """Raise the soft limit on descriptors for a while, and put it back.

    The limit is the whole process's. A descriptor above the restored limit stays
    open and usable; only new ones are refused. It is put back at the latest when
    the context manager is dropped: to keep it raised, use
    :func:`ensure_descriptor_limit`, whose parameter and errors this has.

    Yields
    ------
    int
        The soft limit in force inside.
    """
    before = descriptor_limits()
    raised = ensure_descriptor_limit(wanted)
    import resource

    try:
        yield raised
    finally:
        hard = descriptor_limits().hard  # someone may have lowered it meanwhile
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before.soft, hard), hard))
