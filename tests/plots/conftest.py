"""No test of a chart leaves a figure open or a setting of matplotlib changed."""

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

# Loaded now, since that asks for the shell, which some tests replace.
plt.switch_backend("Agg")


@pytest.fixture(autouse=True)
def _figures_closed() -> Iterator[None]:
    before = _settings()
    yield
    plt.close("all")
    assert _settings() == before


def _settings() -> dict[str, Any]:
    # The backend is chosen when the first figure is made.
    return {name: value for name, value in mpl.rcParams.items() if name != "backend"}
