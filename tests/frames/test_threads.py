"""Records of several threads in one recording, and callbacks."""

import numpy as np
import pandas as pd
import pytest

from epolllab import frames, schema
from epolllab.events import Op
from epolllab.recording import Recording
from tests.frames.test_frames import documented, dtypes
from tests.samples import random_server


def thread_of(recording: Recording, tid: int, conn: int, wake: int) -> np.ndarray:
    """Records as one thread's, with serials of their own."""
    array = recording.array().copy()
    array["thread"] = tid
    array["wake"] += wake
    array["conn"] += np.where(array["conn"] > 0, conn, 0).astype("u4")
    return array


def interleaved(parts: list[np.ndarray], seed: int) -> np.ndarray:
    """Rows of all parts, each part's in its own order, the parts mixed at random."""
    whose = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    np.random.default_rng(seed).shuffle(whose)
    mixed = np.empty(len(whose), dtype=parts[0].dtype)
    for number, part in enumerate(parts):
        mixed[whose == number] = part
    return mixed


@pytest.mark.parametrize("seed", range(6))
def test_threads_do_not_disturb_each_other(seed: int) -> None:
    """Wakeups and requests of a mixed recording are those of each thread alone."""
    parts = [thread_of(random_server(seed + 10 * k), 7 + k, 1000 * k, 5000 * k) for k in range(3)]
    mixed = interleaved(parts, seed)
    for make, by in ((frames.wakeups, ["wake"]), (frames.requests, ["conn", "request"])):
        together = make(mixed).sort_values(by, ignore_index=True)
        alone = pd.concat([make(part).astype(object) for part in parts])
        alone = alone.sort_values(by, ignore_index=True)
        pd.testing.assert_frame_equal(together.astype(object), alone)
    waits = mixed[mixed["op"] == Op.WAIT]
    assert frames.wakeups(mixed)["wake"].tolist() == waits["wake"].tolist()
    assert frames.wakeups(mixed)["tid"].tolist() == waits["thread"].tolist()
    assert frames.events(mixed)["tid"].tolist() == mixed["thread"].tolist()


def callback_records(*runs: tuple[int, int, int]) -> np.ndarray:
    """Records of callbacks: name index, start, duration."""
    array = np.zeros(len(runs), dtype=Recording(b"").array().dtype)
    array["op"] = Op.CALLBACK
    for row, (name, start, took) in zip(array, runs, strict=True):
        row["mask"], row["start_ns"], row["end_ns"] = name, start, start + took
    return array


def test_callbacks_by_name() -> None:
    """Count, sum and longest run of each name; the greatest sum comes first."""
    array = callback_records((0, 100, 5), (1, 200, 50), (0, 300, 9), (2, 400, 1), (0, 500, 2))
    table = Recording(array.tobytes(), {"callbacks": ["read", "work", "read"]}).callbacks()
    assert dtypes(table) == documented(schema.CALLBACKS)
    assert table.to_dict("list") == {
        "name": ["work", "read"], "n": [1, 4], "total_ns": [50, 17], "longest_ns": [50, 9],
        "at_ns": [200, 300],
    }  # fmt: skip


def test_no_callbacks() -> None:
    table = Recording(b"").callbacks()
    assert dtypes(table) == documented(schema.CALLBACKS)
    assert table.empty


def test_a_callback_without_a_name() -> None:
    with pytest.raises(ValueError, match=r"^names has 1"):
        frames.callbacks(callback_records((1, 0, 1)), ["read"])


def test_a_callback_is_no_call() -> None:
    """It is not counted among a wakeup's calls, and ends with its last call."""
    wait = callback_records((0, 0, 10))
    wait["op"], wait["result"], wait["wake"] = Op.WAIT, 1, 1
    inside = callback_records((0, 20, 30))
    inside["wake"] = 1
    table = frames.wakeups(np.concatenate([wait, inside]))
    assert table[["n_calls", "handled_ns"]].iloc[0].tolist() == [0, 40]
