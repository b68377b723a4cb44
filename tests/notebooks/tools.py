"""The scripts of ``data`` that execute notebooks, write their index and their pages, as modules."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "notebooks"
sys.path.append(str(FOLDER.parent / "data"))  # they are no package

import make_index  # noqa: E402
import make_notebooks  # noqa: E402
import make_site  # noqa: E402

METADATA = make_notebooks.METADATA

__all__ = ["FOLDER", "METADATA", "make_index", "make_notebooks", "make_site"]
