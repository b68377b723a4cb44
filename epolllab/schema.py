"""Columns of the frames, as the text that docstrings share.

``Server.events?``, ``Recording.events?`` and ``frames.events?`` describe the same frame.
The text is here because pandas, which frames need, must not be imported for it.
"""

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = [
    "CALLBACKS", "CONNECTIONS", "EVENTS", "INTEREST", "JOURNEYS", "REQUESTS", "WAKEUPS", "returns",
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
========== ======= ===================================================
wake       int64   serial of the wait
t_ns       int64   when the wait began
waited_ns  int64   how long it blocked
timeout_ms float64 the timeout passed to it; NaN for none
n_returned int32   descriptors returned; 0 on timeout and on error
n_calls    int32   system calls made before the next wait
handled_ns int64   from the wait's end to the end of the last record of
                   the wake; 0 if there is none
gap_ns     Int64   from there to the thread's next wait: time that no
                   record accounts for; missing for the thread's last
error      category errno's name; missing where the wait succeeded
tid        int64   kernel thread id, in recordings of several threads;
                   0 elsewhere
========== ======= ===================================================

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
``conn`` (the server's serial) and ``request`` (int32), ``local_port``
(int32), then instants and spans in nanoseconds (Int64). Instants:
``intended_ns, sent_ns, woken_ns, ready_ns, read_ns, handled_ns,
answered_ns, first_byte_ns, done_ns``. Spans:

======= ============================================================
waiting intended to sent: the client was late or had no connection
        free
wake    sent to woken: the kernel's path and the server's wakeup;
        negative if the loop was awake already
queue   woken to ready: earlier entries of the same batch
read    ready to read
handle  read to handled
send    handled to answered
deliver answered to the client's first byte. It is signed: negative
        when the client could see bytes before the server's last send
        returned, which is usual for large responses
receive the first byte to the last
total   intended to done; the sum of all the others
======= ============================================================

In order of ``intended_ns``. Requests that only one side recorded, and those
of a connection whose accept row was overwritten, are left out.
"""
