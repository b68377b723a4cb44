"""Runs that are made by name and saved one by one; shared by the makers of reference runs.

One job: call what makes a run, and write what it returns; it knows no run.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from epolllab import files, metadata
from epolllab.options import one_of

__all__ = ["save_each"]


def save_each(
    makers: Mapping[str, Callable[[], Any]], paths: Mapping[str, Path]
) -> dict[str, Path]:
    """Make each run and save it as soon as it is complete.

    Parameters
    ----------
    makers : mapping of str to callable
        What makes a recording, a result, or a frame; a frame without ``circumstances`` in
        its ``attrs`` gets those of now.
    paths : mapping of str to pathlib.Path
        The runs that are wished for, in this order, and where they go; a file of an
        earlier run is replaced.

    Returns
    -------
    dict of str to pathlib.Path
        Where each was written.

    Raises
    ------
    ValueError
        An unknown name; nothing has been made.
    KeyboardInterrupt
        A run was interrupted. It is not saved; those before it are.
    """
    for name in paths:
        one_of("name", name, list(makers))
    for name, path in paths.items():
        made = makers[name]()
        _save(name, made, path)
    return dict(paths)


def _save(name: str, made: Any, path: Path) -> None:
    is_frame = isinstance(made, pd.DataFrame)
    if made.attrs.get("interrupted") if is_frame else getattr(made, "interrupted", False):
        raise KeyboardInterrupt(f"{name} was interrupted and is not saved")
    if not is_frame:
        made.save(path)
        return
    made.attrs.setdefault("circumstances", metadata.collect())
    with files.whole([path]) as (lent,):
        made.to_parquet(lent)
