"""From the ring's rows to records: fields that follow from the rows' order are filled in."""

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epolllab.events import FIELDS, FOREVER, NO_POSITION, RECORD, Op, key_of
from epolllab.recording import decode
from epolllab.recording.recorder import Recorder

Row = tuple[int, int, int, int, int]


def decoded(rows: list[Row]) -> np.ndarray:
    """Decode rows as a structured array of records."""
    words = array("q", [number for row in rows for number in row]).tobytes()
    return np.frombuffer(decode.records(words), np.dtype(list(FIELDS)))


def wait(serial: int, returned: int = 1, fd: int = 4, timeout_us: int = FOREVER) -> Row:
    return (10, 20, key_of(serial, fd), returned, timeout_us << 8 | Op.WAIT)


def ready(conn: int, fd: int, mask: int) -> Row:
    return (30, 30, key_of(conn, fd), mask, Op.READY)


def call(op: Op, conn: int, fd: int, result: int, mask: int = 0) -> Row:
    return (40, 50, key_of(conn, fd), result, mask << 8 | op)


def test_no_rows_are_no_records() -> None:
    """An empty ring decodes to nothing."""
    assert decode.records(b"") == b""


def test_every_field_of_a_call_is_decoded() -> None:
    """Times, connection, descriptor, result, mask and operation are those written."""
    (record,) = decoded([(1, 2, key_of(7, 9), -11, 0x8000_0001 << 8 | Op.REGISTER)])
    assert record.item() == (1, 2, 0, 7, 9, -11, 0x8000_0001, Op.REGISTER, NO_POSITION, 0, 0)


def test_a_request_id_is_in_the_high_bits_of_the_code() -> None:
    """It is decoded beside a full mask, which it does not change."""
    (record,) = decoded([(1, 2, 0, 0, 0x5F_FFFF << 40 | 0xFFFF_FFFF << 8 | Op.CLOSE)])
    assert (record["request"], record["mask"], record["op"]) == (0x5F_FFFF, 0xFFFF_FFFF, Op.CLOSE)


def test_a_ready_row_has_its_mask_in_place_of_a_result() -> None:
    """All 32 bits of the mask move to its field, and the result of a ready row is 0."""
    _, record = decoded([wait(1), ready(2, 5, 0xFFFF_FFFF)])
    assert (record["mask"], record["result"]) == (0xFFFF_FFFF, 0)


def test_wake_and_position_follow_from_the_order() -> None:
    """Rows belong to the wait before them, and to the ready row before them in its batch."""
    records = decoded(
        [
            call(Op.REGISTER, 0, 3, 0),
            wait(1, 2),
            ready(0, 3, 1),
            call(Op.ACCEPT, 1, 3, 5),
            ready(1, 5, 1),
            call(Op.RECV, 1, 5, 10),
            call(Op.SEND, 1, 5, 10),
            wait(2, 0),
            wait(3, 1),
            ready(1, 5, 1),
        ]
    )
    none = NO_POSITION
    assert records["wake"].tolist() == [0, 1, 1, 1, 1, 1, 1, 2, 3, 3]
    assert records["position"].tolist() == [none, none, 0, 0, 1, 1, 1, none, none, 0]


def test_a_wait_keeps_its_timeout_and_no_connection() -> None:
    """The serial in the row is the wake's; the record's conn is 0."""
    never, soon = decoded([wait(8, 3, 4), wait(9, 0, 4, 1500)])
    assert (never["conn"], never["wake"], never["mask"], never["result"]) == (0, 8, FOREVER, 3)
    assert (soon["conn"], soon["wake"], soon["mask"], soon["fd"]) == (0, 9, 1500, 4)


def test_rows_whose_wait_the_ring_lost_belong_to_the_one_before() -> None:
    """The first rows kept get the wake before the first wait kept."""
    records = decoded([ready(1, 5, 1), call(Op.RECV, 1, 5, 1), wait(42), ready(1, 5, 1)])
    assert records["wake"].tolist() == [41, 41, 42, 42]


def test_serials_wrap_as_32_bits_do() -> None:
    """The wake after 4,294,967,295 is 0, and the one before the first kept is correct."""
    records = decoded([ready(1, 5, 1), wait(0), ready(1, 5, 1)])
    assert records["wake"].tolist() == [0xFFFF_FFFF, 0, 0]


@pytest.mark.parametrize("fd", [-1, 0, 1, 0x7FFF_FFFF])
@pytest.mark.parametrize("conn", [0, 1, 0x7FFF_FFFF])
def test_descriptors_keep_their_sign(fd: int, conn: int) -> None:
    """A descriptor of -1 does not change the connection's serial."""
    (record,) = decoded([call(Op.CLOSE, conn, fd, 0)])
    assert (record["fd"], record["conn"]) == (fd, conn)


def test_a_result_beyond_32_bits_is_cut() -> None:
    """A response of more than 2 GiB becomes the largest number that fits."""
    (record,) = decoded([call(Op.HANDLE, 1, 5, 3 << 30)])
    assert record["result"] == (1 << 31) - 1


def test_positions_stop_at_the_last_one() -> None:
    """The 65,535th descriptor of a batch, and later ones, do not become NO_POSITION."""
    records = decoded([wait(1), *[ready(1, 5, 1)] * 65_537])
    assert records["position"][-3:].tolist() == [NO_POSITION - 1] * 3


@given(
    st.lists(
        st.tuples(
            st.sampled_from([op for op in Op if op not in (Op.WAIT, Op.READY)]),
            st.integers(0, 0x7FFF_FFFF),
            st.integers(-1, 0x7FFF_FFFF),
            st.integers(-200, (1 << 31) - 1),
            st.integers(0, 0xFFFF_FFFF),
        ),
        max_size=20,
    )
)
def test_the_recorders_rows_are_decoded(calls: list[tuple[Op, int, int, int, int]]):
    """Calls written after a wait and a ready row come back field by field."""
    recorder = Recorder(100)
    recorder.stage_wait(4, 1, 2, 1, FOREVER)
    recorder.stage_ready(1, 5, 3, 1)
    for op, conn, fd, result, mask in calls:
        recorder.write(op, conn, fd, 4, 5, result, mask)
    recorder.settle()
    rows = list(RECORD.iter_unpack(recorder.snapshot().rows))
    assert rows[2:] == [
        (4, 5, 1, conn, fd, result, mask, op, 0, 0, 0) for op, conn, fd, result, mask in calls
    ]


@given(
    st.lists(st.sampled_from(["wait", "ready", "call"]), max_size=30),
    st.lists(st.integers(1, 5), min_size=30, max_size=30),
)
def test_pieces_continue_each_other(kinds: list[str], sizes: list[int]) -> None:
    """Cut anywhere, the pieces have the wakes and the positions of the whole."""
    rows, serial = [], 0
    for kind in kinds:
        serial += kind == "wait"
        made = {"wait": wait(serial), "ready": ready(1, 5, 1), "call": call(Op.RECV, 1, 5, 9)}
        rows.append(made[kind])
    decoder, pieces, at = decode.Decoder(), [], 0
    for size in sizes:
        words = array("q", [n for row in rows[at : at + size] for n in row]).tobytes()
        decoder = decoder.copy()
        pieces.append(decoder.array(words))
        at += size
    assert np.concatenate(pieces).tolist() == decoded(rows).tolist()
