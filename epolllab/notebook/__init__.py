"""Helpers for running inside a notebook: cells run twice, HTML cards, paths, web pages.

``cells`` stops what an earlier execution of the same cell started; ``html`` makes the
cards that handles show; ``lab`` keeps the reader's copy of the notebooks up to date; ``page``
knows the page's theme; ``paths`` finds notebooks and reference data; ``voila`` serves notebooks
as web pages. Imports the standard library and ``epolllab.checks`` only.
"""

from epolllab.notebook.html import card
from epolllab.notebook.paths import reference

__all__ = ["card", "reference"]


def __dir__() -> list[str]:
    return sorted(__all__)
