"""Fixtures of the tests of servers."""

from typing import Any

import pytest


@pytest.fixture
def way(poller: str, trigger: str, lifecycle: str) -> dict[str, Any]:
    """The parameters of ``EVERY_WAY`` as keyword arguments of start_server()."""
    return {"poller": poller, "trigger": trigger, "lifecycle": lifecycle, "capacity": 50_000}
