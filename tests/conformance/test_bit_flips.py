"""A damaged file gives the same content or one error: no bit of it is read unchecked."""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from epolllab import Recording, reference
from epolllab.analysis import Result
from epolllab.recording.recording import METADATA_KEY
from tests.samples import Script, served

pytestmark = pytest.mark.unit

Saved = Recording | Result


def small_recording() -> Recording:
    return Script(capacity=2).wait(1).ready(0).accept(1).recording({"boot_id": "one"})


def small_result() -> Result:
    table = pd.DataFrame({"v": pd.Categorical(["a", "b"]), "s": ["x", "y"], "ns": [1.5, 2.5]})
    return Result("made", table, {"notes": ["n"]}, ("v",), ("ns",), "ns")


SMALL = [small_recording, small_result]
LARGE = [
    lambda: Recording.load(reference("sample-run")),
    lambda: Result.load(reference("scaling-idle-connections")),
]


def is_same(one: Saved, other: Saved) -> bool:
    """Whether two recordings or two results have the same content."""
    if isinstance(one, Recording):
        mine = (one.rows, one.metadata, one.overwritten)
        return mine == (other.rows, other.metadata, other.overwritten)  # type: ignore[union-attr]
    names = ("name", "by", "values", "x", "circumstances")
    if any(getattr(one, name) != getattr(other, name) for name in names):
        return False
    try:
        pd.testing.assert_frame_equal(one.table, other.table)  # type: ignore[union-attr]
    except AssertionError:
        return False
    return True


def check(saved: Saved, path: Path, damaged: Iterator[bytes]) -> tuple[int, int]:
    """Load each damaged file; count those that are refused and those with the same content."""
    refused = same = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            loaded = type(saved).load(path)
        except ValueError as error:
            names_it = str(error).startswith(str(path))
            refused += 1
        else:
            names_it = is_same(saved, loaded)
            same += 1
        assert names_it
    return refused, same


def flipped(data: bytes, bits: "range | list[int]") -> Iterator[bytes]:
    """The file with each of the bits flipped, one at a time."""
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


@pytest.mark.parametrize("make", SMALL)
def test_a_flipped_bit_in_any_byte_changes_nothing_unnoticed(
    make: Callable[[], Saved], tmp_path: Path
) -> None:
    """One bit of every fourth byte; the slow test below flips more of them."""
    saved = make()
    data = saved.save(tmp_path / "whole").read_bytes()
    bits = [8 * byte + byte % 8 for byte in range(0, len(data), 4)]
    refused, _ = check(saved, tmp_path / "damaged", flipped(data, bits))
    assert refused > len(bits) / 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("make", "step"), [(small_recording, 1), (small_result, 5)])
def test_no_flipped_bit_changes_anything_unnoticed(
    make: Callable[[], Saved], step: int, tmp_path: Path
) -> None:
    """All bits of a small recording, and every fifth of a result, which takes as long."""
    saved = make()
    data = saved.save(tmp_path / "whole").read_bytes()
    bits = range(0, 8 * len(data), step)
    refused, same = check(saved, tmp_path / "damaged", flipped(data, bits))
    assert refused + same == len(bits)
    assert refused > same


@pytest.mark.parametrize("make", LARGE, ids=["recording", "result"])
def test_random_flipped_bits_of_a_real_file_change_nothing_unnoticed(
    make: Callable[[], Saved], tmp_path: Path
) -> None:
    """1,000 of them, of files that the repository has."""
    saved = make()
    data = saved.save(tmp_path / "whole").read_bytes()
    bits = random.Random(5).sample(range(8 * len(data)), 1000)
    refused, _ = check(saved, tmp_path / "damaged", flipped(data, bits))
    assert refused > 500


@pytest.mark.parametrize("make", SMALL)
def test_cut_and_lengthened_files_change_nothing_unnoticed(
    make: Callable[[], Saved], tmp_path: Path
) -> None:
    """A file without its end, without its start, with bytes added or exchanged."""
    saved = make()
    data = saved.save(tmp_path / "whole").read_bytes()
    size = len(data)
    damaged = [data[:n] for n in range(0, size, 97)]
    damaged += [data[n:] for n in range(1, size, 97)]
    damaged += [data[:n] + data[n + 1 :] for n in range(0, size, 97)]
    damaged += [data[:n] + b"\0" + data[n:] for n in range(0, size + 1, 97)]
    damaged += [data + b"\0", data + b"\n" * 100, b"\0" + data, data[:100] + bytes(size - 100)]
    refused, same = check(saved, tmp_path / "damaged", iter(damaged))
    assert refused + same == len(damaged)
    assert refused > 0.9 * len(damaged)


def test_exchanged_pages_are_noticed(tmp_path: Path) -> None:
    """Two columns whose data have the same length and type, such as start and end."""
    saved = Recording.load(reference("sample-run"))
    table = pq.read_table(saved.save(tmp_path / "run"))
    pq.write_table(table, tmp_path / "plain", compression="none", use_dictionary=["op"])
    data = (tmp_path / "plain").read_bytes()
    group = pq.read_metadata(tmp_path / "plain").row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    spans = [(c.data_page_offset, c.total_compressed_size)
             for c in (columns["start_ns"], columns["end_ns"])]  # fmt: skip
    (first, size), (second, other_size) = spans
    assert size == other_size
    assert first + size <= second
    pages = data[first : first + size], data[second : second + size]
    swapped = data[:first] + pages[1] + data[first + size : second] + pages[0]
    swapped += data[second + size :]
    (tmp_path / "swapped").write_bytes(swapped)
    assert Recording.load(tmp_path / "plain").rows == saved.rows
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "swapped"))):
        Recording.load(tmp_path / "swapped")


def test_columns_with_exchanged_names_are_noticed(tmp_path: Path) -> None:
    """Nothing about the pages is wrong then."""
    saved = small_recording()
    table = pq.read_table(saved.save(tmp_path / "run"))
    names = ["end_ns" if n == "start_ns" else "start_ns" if n == "end_ns" else n
             for n in table.column_names]  # fmt: skip
    schema = {METADATA_KEY: table.schema.metadata[METADATA_KEY]}
    renamed = table.rename_columns(names).replace_schema_metadata(schema)
    pq.write_table(renamed, tmp_path / "run")
    with pytest.raises(ValueError, match="run is damaged"):
        Recording.load(tmp_path / "run")


def test_parts_that_claim_too_many_rows_are_not_read(tmp_path: Path) -> None:
    """Reading them would never end in pyarrow 26."""
    saved = Recording(served().rows * 10)
    data = saved.save(tmp_path / "run").read_bytes()
    # The last such field of the footer is the row count of the only part.
    before, after = data.rsplit(b"\x16" + zigzag(len(saved)), 1)
    footer = before[len(data) - 8 - int.from_bytes(data[-8:-4], "little") :]
    footer += b"\x16" + zigzag(2**36) + after[:-8]
    content = data[: len(data) - 8 - int.from_bytes(data[-8:-4], "little")]
    (tmp_path / "run").write_bytes(content + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ValueError, match=f"run is damaged.* {len(saved):,} rows.* {2**36:,}"):
        Recording.load(tmp_path / "run")


def zigzag(number: int) -> bytes:
    """A positive number as Thrift's compact protocol writes it."""
    digits, rest = [], 2 * number
    while rest >= 0x80:
        digits.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*digits, rest])
