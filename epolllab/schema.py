"""Columns of the frames, as the text that docstrings share.

``Server.events?``, ``Recording.events?`` and ``frames.events?`` describe the same frame.
The text is here because pandas, which frames need, must not be imported for it.
"""

import inspect
import re
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

__all__ = [
    "CALLBACKS", "CLIENT_REQUESTS", "CONNECTIONS", "EVENTS", "INTEREST", "JOURNEYS", "REQUESTS",
    "WAKEUPS", "columns_of", "returns",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


def returns(columns: str) -> Callable[[F], F]:
    """Decorator that adds a section "Returns" with a frame's columns to a docstring."""
    section = "Returns\n-------\npandas.DataFrame\n" + textwrap.indent(columns.strip(), "    ")

    def add(function: F) -> F:
        if function.__doc__:  # None under python -OO
            text = inspect.cleandoc(function.__doc__)
            at = re.search(r"\n\n(?=(Raises|Notes|Examples)\n-)", text)
            before, after = (text[: at.start()], text[at.start() :]) if at else (text, "")
            function.__doc__ = f"{before}\n\n{section}{after}"
        return function

    return add


@cache
def columns_of(table: str) -> dict[str, str]:
    """The columns of one of the tables below, each with what it holds, on one line."""
    found: dict[str, str] = {}
    lines = table.strip().splitlines()
    rule, *others = [n for n, line in enumerate(lines) if line.startswith("==")]
    starts = [match.start() for match in re.finditer("=+", lines[rule])]
    name = ""
    for line in lines[rule + 1 : others[-1]]:
        name = line[: starts[1]].strip() or name
        words = line[starts[-1] :].strip().replace("``", "")
        found[name] = f"{found[name]} {words}" if name in found else words
    return found


EVENTS = """
========== ======== ==================================================
t_ns       int64    monotonic clock when the call began
dur_ns     int64    how long it took; 0 for ready rows
wake       int64    serial of the wait it belongs to; 0 before the first
position   int32    place in the batch the wait returned; -1 outside one
conn       int32    serial of the connection; 0 for the loop's own
fd         int32    descriptor number
op         category what was done; the categories are all operations
mask       uint32   ready: what the kernel returned; register, modify:
                    the interest requested; submit, complete: the
                    operation, see :mod:`epolllab.events`; 0 elsewhere
mask_names category the mask in the kernel's names, or the operation with
                    its flags; "" where it has none
n_bytes    int32    bytes that recv, send, read or write moved, as calls or
                    as operations of io_uring, or the size of a handle
                    row's response; 0 elsewhere and on error
error      category errno's name; missing where the call succeeded
tid        int64    kernel thread id, in recordings of several threads;
                    0 elsewhere
request    uint32   of submit and complete: the same in a submission and
                    its completions, until numbers repeat after 8 million;
                    0 elsewhere
========== ======== ==================================================
"""

WAKEUPS = """
========== ======== ==================================================
wake       int64    serial of the wait
t_ns       int64    when the wait began
waited_ns  int64    how long it blocked
timeout_ms float64  the timeout passed to it; NaN for none
n_returned int32    descriptors returned; 0 on timeout and on error
n_calls    int32    system calls made before the next wait
handled_ns int64    from the wait's end to the end of the last record of
                    the wake; 0 if there is none
gap_ns     Int64    from there to the thread's next wait: time that no
                    record accounts for; missing for the thread's last
error      category errno's name; missing where the wait succeeded
tid        int64    kernel thread id, in recordings of several threads;
                    0 elsewhere
========== ======== ==================================================

Records before the first wait, which remain when the ring overwrote that wait, are not
counted.
"""

REQUESTS = """
=============== ======== =============================================
conn            int32    serial of the connection
request         int32    ordinal of the request in its connection, from 0
peer_port       Int32    the client's port; missing without the accept row
woken_ns        Int64    end of the wait in whose wake the last bytes came
ready_ns        Int64    when the loop turned to the connection in that
                         wake: its ready row, or the recv itself if the
                         loop read without one
first_ready_ns  Int64    the request's first ready row; never after
                         ``ready_ns``
read_ns         Int64    end of the recv that brought the last bytes
handled_ns      int64    end of the protocol's work
answered_ns     Int64    end of the send that took the response's last
                         byte; missing if none did
n_wakeups       int32    wakeups in which something was done for it
n_recv          int32    recv calls, including those that would block or fail
n_send          int32    send calls, likewise
n_would_block   int32    recv and send calls that would block
n_epoll_ctl     int32    register, modify and unregister; with poll and
                         select these change a table without a system call
n_events        int32    ready rows of the connection; the listener's own
                         ready row is not counted
n_bytes_in      int64    bytes received
n_bytes         int64    bytes of the response
dur_ns          Int64    from ``woken_ns`` to ``answered_ns``
status          Int32    the response's HTTP status
target          category what was requested, without host and query
                         string, cut to 256 characters; "(other)" for what
                         came when the server's table was full
=============== ======== =============================================

If the ring overwrote rows of a connection, counts are of the rows left, ``request`` counts
from the first request left, and values that are lost are missing. Status and target are missing
where the protocol does not know them.
"""

CONNECTIONS = """
============ ======== ================================================
conn         int32    serial, unique where ``fd`` is not
fd           int32    descriptor number
peer_port    Int32    the peer's port; missing without the accept row
accepted_ns  Int64    end of accept
closed_ns    Int64    end of close; missing while open
n_events     int32    ready rows
n_recv       int32    recv calls, including those that would block or
                      fail
n_send       int32    send calls, likewise
n_bytes_in   int64    bytes received
n_bytes_out  int64    bytes sent
n_requests   int32    requests that the protocol responded to
error        category the last errno other than would-block; missing if
                      there was none
============ ======== ================================================

Rows that the ring overwrote are not counted, and values they held are missing.
"""

CALLBACKS = """
========== ======= ===================================================
name       str     qualified name of the callback or the task's coroutine
n          int64   times it ran
total_ns   int64   time in all
longest_ns int64   the longest run
at_ns      int64   monotonic clock when that run began
========== ======= ===================================================

In order of ``total_ns``, the greatest first. A run includes what it called.
"""

INTEREST = """
============ ======== ==================================================
fd           int32    descriptor number; the rows are in its order
kernel_mask  Int64    the mask in the kernel's list; missing where the
                      kernel has no entry
kernel_names str      that mask in the kernel's names, or ""
own_mask     Int64    the mask in the program's table; missing where the
                      program has no entry
own_names    str      that mask in the kernel's names, or ""
where        category "both", "kernel only", "program only"; "not known here" in a
                      sandbox whose /proc does not show the kernel's list
data         UInt64   the entry's epoll_data
inode        Int64    inode of the entry's open file
============ ======== ==================================================

The kernel always adds ERR and HUP to the requested mask, so the masks differ even where
nothing is wrong.
"""

JOURNEYS = """
============= ===== ==================================================
conn          int32 the server's serial of the connection
request       int32 ordinal of the request in its connection, from 0
local_port    int32 the client's port
intended_ns   Int64 when the client was to send it
sent_ns       Int64 the client's first send began
woken_ns      Int64 as in the server's requests
ready_ns      Int64 likewise
read_ns       Int64 likewise
handled_ns    Int64 likewise
answered_ns   Int64 likewise
first_byte_ns Int64 the client received the response's first byte
done_ns       Int64 the client received the last byte
waiting       Int64 intended to sent: the client was late or had no
                    connection free
wake          Int64 sent to woken: the kernel's path and the server's
                    wakeup; negative if the loop was awake already
queue         Int64 woken to ready: earlier entries of the same batch
read          Int64 ready to read
handle        Int64 read to handled
send          Int64 handled to answered
deliver       Int64 answered to the client's first byte. It is signed:
                    negative when the client could see bytes before the
                    server's last send returned, which is usual for
                    large responses
receive       Int64 the first byte to the last
total         Int64 intended to done; the sum of the spans before it
============= ===== ==================================================

Instants are of the monotonic clock, and spans have nanoseconds, too. In order of
``intended_ns``. Requests that only one side recorded, and those of a connection whose accept
row was overwritten, are left out.
"""

CLIENT_REQUESTS = """
In order of ``intended_ns``. Instants are nanoseconds of the monotonic
clock, which the server's recording uses too, and missing if they were not
reached.

============= ======== ==================================================
conn          int64    serial of the connection, unique in the run; 0 if
                       the request never got one
process       int32    which client loop, or share of an executor, from 0
request       int32    ordinal in its connection, from 0
local_port    int32    0 if it never got one
intended_ns   int64    when it was due: in an open loop (``rate=``) its
                       place in the schedule, in a closed one when its
                       connection became free for it, before connecting
connected_ns  Int64    its connection was found established
sent_ns       Int64    its first send began
first_byte_ns Int64    the response's first byte was received
done_ns       Int64    the response's last byte was received
status        Int32    HTTP status
n_bytes       int64    received
error         category an errno's name, "timeout", "closed early", "bad
                       response: " and the defect, or why a share of an
                       executor was lost; missing for none
host          category name of the host that the client loop ran on;
                       "localhost" without an executor
latency_ns    Int64    ``done_ns - intended_ns``: includes the wait in
                       the queue in an open loop, connecting in a closed
                       one
============= ======== ==================================================

With `executor`, instants are of the clock of the row's host: compare them
within a host only. The rows are in order of ``intended_ns`` for each host.
"""
