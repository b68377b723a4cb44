"""Fixtures of the tests of servers."""

from typing import Any

import pytest

from tests.server.helpers import options_of


@pytest.fixture
def way(poller: str, trigger: str, lifecycle: str) -> dict[str, Any]:
    """The parameters of ``EVERY_WAY`` as keyword arguments of start_server()."""
    return options_of(poller, trigger, lifecycle)
