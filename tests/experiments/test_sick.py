"""The sick server of notebook 16 has the faults that it says."""

import socket
import time
from contextlib import closing

import pytest

from epolllab.child import Child
from epolllab.experiments.workers.sick import FAULTS
from epolllab.external import inspect

FOUND = {
    "none": [],
    "writable": ["writable interest left on"],
    "undrained": ["edge-triggered with unread bytes"],
    "ghost": ["ghost of a duplicated descriptor"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_inspect_finds_the_fault(fault: str) -> None:
    """It echoes, and has that fault only."""
    with closing(Child("epolllab.experiments.workers.sick:serve")) as child:
        child.send(fault)
        client = socket.create_connection(child.receive(10), 10)
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        if fault == "undrained":
            client.sendall(b"x" * 64)
        if fault == "ghost":
            client.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + 10
        while (found := inspect(child.pid)).healthy and FOUND[fault]:
            assert time.monotonic() < deadline, found
        assert found.findings["finding"].tolist() == FOUND[fault]
        client.close()
        child.send("end")
