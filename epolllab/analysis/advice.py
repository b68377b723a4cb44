"""The kinds of wasted wakeups that :func:`diagnose` names, and what to do about each."""

__all__ = ["ADVICE"]

WRITABLE = "writable interest left on"
HANG_UP = "hang-up that cannot be masked"
HALF_CLOSED = "half-closed connection left registered"
END_OF_FILE = "ignored end of file"
GHOST = "ghost of a duplicated descriptor"
WAKE_UP = "wake-up descriptor never read"
UNREAD = "input never read"
ERROR = "socket error never read"
NO_DESCRIPTORS = "accept without a free descriptor"
CLOSED = "closed descriptor still polled"
NO_PROGRESS = "interest changed without progress"
LOST_ACCEPTS = "lost accept races"
NO_SLEEP = "timeout of zero"
TIMER = "timer of a millisecond"

ADVICE = {
    WRITABLE: (
        "An idle socket is almost always writable. Register OUT only after a short write or "
        "EAGAIN, and remove it once everything is sent; or register it edge-triggered once."
    ),
    HANG_UP: (
        "HUP and ERR are reported regardless of the mask, even if it is 0, and registering "
        "again does not clear them. Unregister the descriptor and close it."
    ),
    HALF_CLOSED: (
        "The peer has shut down its sending half, which RDHUP reports at every wait. Read what "
        "is left until recv returns 0; then close, or take both IN and RDHUP out of the mask "
        "while there is still something to send."
    ),
    END_OF_FILE: (
        "A recv of 0 bytes is end of file, and the socket stays readable after it. Unregister "
        "and close at the first empty read, without waiting for EAGAIN; to go on sending to a "
        "half-closed peer, take IN and RDHUP out of the mask."
    ),
    GHOST: (
        "The descriptor was closed while a duplicate of it existed (dup, a forked or spawned "
        "process, a descriptor passed over a socket). Unregister before closing, open "
        "descriptors close-on-exec, and find the process that holds the duplicate. The entry "
        "goes away when the duplicate or the epoll is closed; if you hold the duplicate, dup2 "
        "it to the old number, unregister that, and close it."
    ),
    WAKE_UP: (
        "Read the eventfd or pipe until it is empty when it is ready, or register it "
        "edge-triggered."
    ),
    UNREAD: (
        "The descriptor is readable and is not read. Check for an 'elif' that handles another "
        "bit of the mask first, or for a paused reader: remove IN from its mask while it is "
        "paused, or until the thread that reads it has done so."
    ),
    ERROR: (
        "ERR is reported until the error is read: read SO_ERROR, or make the call that fails, "
        "and close. For timestamps and zero-copy sends read the error queue (MSG_ERRQUEUE)."
    ),
    NO_DESCRIPTORS: (
        "The connection stays in the accept queue, and the listener stays readable. Unregister "
        "the listener until a descriptor is free, or keep a spare one to accept and close "
        "with; and raise the limit (ulimit -n)."
    ),
    CLOSED: (
        "poll reports NVAL for a number that is not open. Remove a descriptor from poll's list "
        "before closing it."
    ),
    NO_PROGRESS: (
        "Registering again, or another mask, does not remove the condition that is reported. "
        "Read, write or close the descriptor; or unregister it until there is something to do."
    ),
    LOST_ACCEPTS: (
        "Several workers are woken for one connection, and all but one find the queue empty. "
        "Register the listener with EPOLLEXCLUSIVE, give each worker a listener of its own "
        "with SO_REUSEPORT, or accept in one of them."
    ),
    NO_SLEEP: (
        "The wait has a timeout of 0. Pass the time until the next timer, or None; and round "
        "up, because epoll_wait takes whole milliseconds, and less than one cut off is 0. "
        "CPython's epoll.poll rounds up itself. In asyncio, something "
        "calls call_soon() or sleep(0) again and again."
    ),
    TIMER: (
        "This is no spin, but the processor never rests. Wait for the event itself instead of "
        "looking for it at intervals, or make the interval longer."
    ),
}
"""What to change, by kind."""
