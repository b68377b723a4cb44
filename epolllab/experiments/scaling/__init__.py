"""Scaling: epoll, poll and select timed over 10 to 10,000 descriptors.

``sweeps`` times one wait, ``register`` the change of one registration, ``propagation`` is
libevent's benchmark; ``waits`` measures, ``variants`` are what is compared and ``fds``
what is watched. Results are :class:`epolllab.analysis.Result`.
"""
