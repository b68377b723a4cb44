"""Everything epolllab asks Linux: pollers, system calls, /proc, TCP, descriptor limits.

``pollers`` puts epoll, poll and select behind one interface; ``syscalls`` makes the
calls of an event loop, bare or recorded; ``raw`` makes the same system calls through
ctypes, without CPython's wrappers, and ``uring`` those of io_uring; ``proc``, ``tcp`` and
``limits`` read what the kernel reports about processes, sockets and descriptors;
``waiting`` waits until a process sleeps; ``facilities`` says what this machine lacks;
``cgroups`` reads CPU quotas and the memory that can be used. Imports the standard library
and the files at the package's top only.
"""

from epolllab.kernel.cgroups import Throttling, cpu_quotas, memory_available, throttling
from epolllab.kernel.facilities import (
    NotPossible,
    not_possible_reason,
    require_loopback,
    require_proc,
)
from epolllab.kernel.limits import (
    DescriptorLimitError,
    DescriptorLimits,
    descriptor_limits,
    ensure_descriptor_limit,
    raise_descriptor_limit,
)
from epolllab.kernel.pollers import make_poller
from epolllab.kernel.proc import (
    ContextSwitches,
    InterestEntry,
    children,
    context_switches,
    counters,
    counters_since,
    cpu_time_ns,
    descriptors_open,
    interest_list,
    local_port_range,
    require_linux,
    somaxconn,
    sysctl,
    threads,
)
from epolllab.kernel.tcp import ListenQueue, TcpInfo, bytes_readable, listen_queue, tcp_info
from epolllab.kernel.waiting import is_asleep, until_asleep, until_idle

__all__ = [
    "ContextSwitches",
    "DescriptorLimitError",
    "DescriptorLimits",
    "InterestEntry",
    "ListenQueue",
    "NotPossible",
    "TcpInfo",
    "Throttling",
    "bytes_readable",
    "children",
    "context_switches",
    "counters",
    "counters_since",
    "cpu_quotas",
    "cpu_time_ns",
    "descriptor_limits",
    "descriptors_open",
    "ensure_descriptor_limit",
    "interest_list",
    "is_asleep",
    "listen_queue",
    "local_port_range",
    "make_poller",
    "memory_available",
    "not_possible_reason",
    "raise_descriptor_limit",
    "require_linux",
    "require_loopback",
    "require_proc",
    "somaxconn",
    "sysctl",
    "tcp_info",
    "threads",
    "throttling",
    "until_asleep",
    "until_idle",
]


def __dir__() -> list[str]:
    return sorted(__all__)
