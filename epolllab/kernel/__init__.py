"""Everything epolllab asks Linux: pollers, system calls, /proc, TCP, descriptor limits.

``pollers`` puts epoll, poll and select behind one interface; ``syscalls`` makes the
calls of an event loop, bare or recorded; ``raw`` calls the same system calls through
ctypes, without CPython's wrappers; ``proc``, ``tcp`` and ``limits`` read what the
kernel says about processes, sockets and descriptors. Imports the standard library,
:mod:`epolllab.events`, ``checks`` and ``child`` only.
"""

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
    CpuTimes,
    InterestEntry,
    children,
    context_switches,
    counters,
    counters_since,
    cpu_time_ns,
    cpu_times,
    descriptors_open,
    interest_list,
    local_port_range,
    nr_open,
    somaxconn,
    sysctl,
    threads,
)
from epolllab.kernel.tcp import (
    ListenQueue,
    TcpInfo,
    bytes_readable,
    bytes_unacknowledged,
    bytes_unsent,
    listen_queue,
    listening_ports,
    tcp_info,
)
from epolllab.kernel.waiting import is_asleep, until_asleep, until_idle

__all__ = [
    "ContextSwitches",
    "CpuTimes",
    "DescriptorLimitError",
    "DescriptorLimits",
    "InterestEntry",
    "ListenQueue",
    "TcpInfo",
    "bytes_readable",
    "bytes_unacknowledged",
    "bytes_unsent",
    "children",
    "context_switches",
    "counters",
    "counters_since",
    "cpu_time_ns",
    "cpu_times",
    "descriptor_limits",
    "descriptors_open",
    "ensure_descriptor_limit",
    "interest_list",
    "is_asleep",
    "listen_queue",
    "listening_ports",
    "local_port_range",
    "make_poller",
    "nr_open",
    "raise_descriptor_limit",
    "somaxconn",
    "sysctl",
    "tcp_info",
    "threads",
    "until_asleep",
    "until_idle",
]


def __dir__() -> list[str]:
    return sorted(__all__)
