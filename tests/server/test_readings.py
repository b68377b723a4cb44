"""The interest list, and recordings taken while the loop writes."""

import itertools
import os
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import pytest

import epolllab
from epolllab.events import EPOLLIN, NO_POSITION, Op
from epolllab.server import Hello
from tests.server.helpers import PLACES, fd_of
from tests.wire import GET, ask, connect, until

# ---- the interest list ------------------------------------------------------------------


def interest_of(server: epolllab.Server, n: int) -> pd.DataFrame:
    """The list once it has `n` equal entries; the two sides are read one after the other."""

    def agreed() -> list[pd.DataFrame]:
        frame = server.interest()
        return [frame] if len(frame) == n and frame["where"].nunique() == 1 else []

    return until(agreed)[0]


@PLACES
def test_interest_is_the_same_on_both_sides(process: bool) -> None:
    with (
        epolllab.start_server(trigger="edge", process=process) as server,
        connect(server.address),
    ):
        frame = interest_of(server, 3)
        fd = fd_of(server)
    assert (frame["where"] == "both").all()
    assert frame.set_index("fd")["own_names"][fd] == "IN|ET"
    assert (frame["kernel_names"].str.count("IN") == 1).all()
    assert ((frame["kernel_mask"] & frame["own_mask"]) == frame["own_mask"]).all()


@pytest.mark.parametrize("poller", ["poll", "select"])
def test_the_kernel_keeps_no_list_for_poll(poller: epolllab.kernel.pollers.PollerName) -> None:
    with epolllab.start_server(poller=poller) as server, connect(server.address):
        frame = interest_of(server, 3)
    assert frame["where"].tolist() == ["program only"] * 3
    assert frame["kernel_mask"].isna().all()
    assert (frame["own_mask"] == EPOLLIN).all()


def connected(server: epolllab.Server, sock: socket.socket, conn: int) -> int:
    """Connect the socket; return the number that the server's end has."""
    sock.connect(server.address)
    return fd_of(server, conn)


def test_a_closed_descriptor_with_a_live_duplicate() -> None:
    """It stays in the kernel's list, also once its number is reused.

    epoll watches the open file description, so closing a descriptor removes nothing while
    another descriptor refers to it.
    """
    with (
        epolllab.start_server(trigger="edge") as server,
        connect(server.address) as first,
        ExitStack() as stack,
    ):
        # Opened before, so that none of them takes the number.
        others = [stack.enter_context(socket.socket()) for _ in range(16)]
        fd = fd_of(server)
        duplicate = os.dup(fd)
        try:
            first.sendall(GET)
            assert first.recv(1_000) == Hello.RESPONSE
            until(lambda: server.stats()["connections"] == 0)
            stale = server.interest().query("where == 'kernel only'")
            assert stale["fd"].tolist() == [fd]
            # The lowest free number is given out; a lower one may be free, or another thread
            # may have this one for a moment. In the end: one number, two descriptions.
            numbers = (connected(server, other, n) for n, other in enumerate(others, 2))
            assert fd in numbers
            # The server's table has it a moment before the kernel's list.
            expected = ["both", "kernel only"]
            until(lambda: sorted(server.interest().query(f"fd == {fd}")["where"]) == expected)
            assert server.interest().query(f"fd == {fd}")["inode"].nunique() == 2
        finally:
            os.close(duplicate)
        assert (server.interest()["where"] == "both").all()


# ---- recordings taken while the loop writes ---------------------------------------------


def check_rows(rows: "np.ndarray[Any, Any]") -> None:
    """Check what holds for every consistent copy of a loop's rows."""
    assert (rows["end_ns"] >= rows["start_ns"]).all()
    assert (np.diff(rows["start_ns"]) >= 0).all()
    assert set(np.unique(rows["op"]).tolist()) <= set(map(int, Op))
    steps = np.diff(rows["wake"].astype("i8"))
    # The wake of rows before the first wait that is kept is unknown.
    first = int(np.flatnonzero(rows["op"] == Op.WAIT)[0])
    assert set(steps[first:].tolist()) <= {0, 1}
    assert (steps[first:] == (rows["op"][first + 1 :] == Op.WAIT)).all()
    accepted = rows["conn"][(rows["op"] == Op.ACCEPT) & (rows["result"] >= 0)]
    assert (np.diff(accepted) == 1).all()
    check_batches(rows)


def check_batches(rows: "np.ndarray[Any, Any]") -> None:
    """Check that each wait is followed by as many ready rows as it returned, numbered."""
    waits = np.flatnonzero(rows["op"] == Op.WAIT)
    ready = np.flatnonzero(rows["op"] == Op.READY)
    ready = ready[(ready > waits[0]) & (ready < waits[-1])]
    counted = np.histogram(ready, bins=waits)[0] if len(waits) > 1 else np.array([], int)
    assert counted.tolist() == np.maximum(rows["result"][waits[:-1]], 0).tolist()
    positions = rows["position"][ready].astype(int)
    assert (positions != NO_POSITION).all()
    assert positions.tolist() == [n for count in counted.tolist() for n in range(count)]


def check_overlap(earlier: epolllab.Recording, later: epolllab.Recording) -> int:
    """Check that two copies agree on the rows that both have; return how many.

    A row's number since the start is its index plus the overwritten rows before it.
    Wake and position are derived from the rows before, of which a later copy has fewer.
    """
    shift = later.overwritten - earlier.overwritten
    one, two = earlier.array()[shift:], later.array()
    assert shift >= 0
    assert len(one) <= len(two)
    for name in ("start_ns", "end_ns", "conn", "fd", "result", "mask", "op"):
        assert (one[name] == two[name][: len(one)]).all(), name
    return len(one)


@pytest.mark.processes
@PLACES
@pytest.mark.parametrize("capacity", [100, 3_000, 20_000])
def test_copies_are_consistent_while_the_loop_writes(process: bool, capacity: int) -> None:
    """Under load no copy of a small ring has a torn, lost or doubled row."""
    copies: list[epolllab.Recording] = []
    with epolllab.start_server(capacity=capacity, process=process) as server:
        load = threading.Thread(
            target=epolllab.run_clients,
            args=(server,),
            kwargs={"connections": 20, "requests": 4_000, "progress": False},
        )
        load.start()
        while load.is_alive():
            copies.append(server.recording())
            time.sleep(0.0005)
        load.join()
        written = sum(server.settle().stats()[name] for name in ("recorded", "overwritten"))
        copies.append(server.recording())
    assert len({len(copy) + copy.overwritten for copy in copies}) > 5, "the ring did not grow"
    for copy in copies:
        assert len(copy) <= capacity
        if (copy.array()["op"] == Op.WAIT).any():
            check_rows(copy.array())
    overlaps = sum(itertools.starmap(check_overlap, itertools.pairwise(copies)))
    assert capacity == 100 or overlaps > 0
    last = copies[-1]
    assert len(last) + last.overwritten == written
    assert len(last) == min(capacity, written)
    assert last.overwritten > 0


@pytest.mark.processes
def test_a_full_recording_accounts_for_every_request() -> None:
    with epolllab.start_server(process=True) as server:
        run = epolllab.run_clients(server, connections=20, requests=2_000, progress=False)
        recording = server.settle().recording()
    assert recording.overwritten == 0
    check_rows(recording.array())
    requests = recording.requests()
    assert len(requests) == len(run) == 2_000
    assert requests["conn"].is_unique
    counts = recording.counts()
    accepted = counts["accept"] - recording.errors()["accept EAGAIN"]
    assert accepted == counts["handle"] == counts["close"] == 2_000
    assert isinstance(recording.events(), pd.DataFrame)


def test_a_read_of_the_wakeup_has_its_bytes():
    """An eventfd's counter has 8 bytes; stop() wakes a loop that waits with it."""
    server = epolllab.start_server()
    ask(server.address, GET)
    server.settle().stop()
    events = server.events()
    assert events.loc[events["op"] == "read", "n_bytes"].tolist() == [8]
