"""Parquet files that carry a header: JSON under a key of the schema's metadata.

One job: write table and header as one file, whole or not at all; read them back, or say
why that cannot be. It knows neither recordings nor results.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epolllab import files

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read", "write"]


def write(path: Path, table: "pa.Table", key: bytes, header: Mapping[str, Any]) -> None:
    """Write the table with this header; a file that is there is replaced.

    Parameters
    ----------
    path : pathlib.Path
        In a folder that exists.
    table : pyarrow.Table
        What else its schema's metadata has is kept.
    key : bytes
        Under which the header stands.
    header : mapping
        With ``format_version``.

    Raises
    ------
    OSError
        The folder does not exist or cannot be written to.
    """
    import pyarrow.parquet as pq

    schema = {**(table.schema.metadata or {}), key: json.dumps(header)}
    with files.whole([path]) as (temporary,), temporary.open("wb") as file:
        pq.write_table(table.replace_schema_metadata(schema), file, compression="zstd")


def read(
    path: str | os.PathLike[str], key: bytes, version: int, *, what: str, hint: str
) -> "tuple[pa.Table, dict[str, Any]]":
    """Read a table and its header.

    Parameters
    ----------
    path : path-like
        The file.
    key : bytes
        Under which the header stands.
    version : int
        The newest ``format_version`` that can be read.
    what, hint : str
        What the file should hold, and what to do if it does not.

    Raises
    ------
    ValueError
        No Parquet file, or one of something else, or of a newer version.
    FileNotFoundError
        There is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file, so it is not {what}") from error
    found = (table.schema.metadata or {}).get(key)
    if found is None:
        raise ValueError(
            f"{path} is a Parquet file, but not {what}: its schema has no {key.decode()!r} "
            f"metadata. {hint}"
        )
    header: dict[str, Any] = json.loads(found)
    if header["format_version"] > version:
        raise ValueError(
            f"{path} has format version {header['format_version']}, and this epolllab reads up "
            f"to {version}; upgrade epolllab to read it"
        )
    return table, header
