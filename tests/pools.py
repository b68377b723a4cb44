"""Process pools for tests, of which nothing outlives the module."""

import gc
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any


def pool(**options: Any) -> ProcessPoolExecutor:
    """Two fresh interpreters, which start with the first tasks."""
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"), **options)


@contextmanager
def running_pool() -> Iterator[ProcessPoolExecutor]:
    """A pool whose workers both run, for the tests of a module.

    The first pool of a process starts multiprocessing's resource tracker, which lives as
    long as the process. Here it ends with the pool; so a test with a pool of its own must use
    it while this one is there.
    """
    with pool() as executor:
        while len(executor._processes) < 2:
            list(executor.map(time.sleep, [0.1] * 2))
        yield executor
    gc.collect()  # what finds a semaphore later would start the tracker again
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
