"""Notebook 13 works where strace is missing, or may not trace."""

import pytest

from tests.notebooks.tools import FOLDER, make_notebooks

MISSING = """
import os
os.environ["PATH"] = ""
"""
REFUSED = """
import epolllab
from epolllab.kernel import files

def trace(*_, **__):
    raise PermissionError(1, "process may not be traced")

epolllab.trace = trace
files.waiters = lambda pid: ({}, "not permitted")
files.is_watched_file = lambda *_: None
"""


@pytest.mark.notebook
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("first", "reason"),
    [(MISSING, "strace is not installed"), (REFUSED, "may not be traced")],
    ids=["missing", "refused"],
)
def test_stored_recording_is_used_where_strace_cannot_be(first: str, reason: str) -> None:
    notebook = make_notebooks.executed(FOLDER / "13-diagnose-a-program.ipynb", first=first)
    texts = [o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", ())]
    (said,) = [text for text in texts if "use a stored recording" in text]
    assert reason in said
