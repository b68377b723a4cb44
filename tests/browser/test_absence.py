"""Without a browser these tests say so; where there must be one, they fail."""

import pytest

from tests.browser.conftest import absent


def test_missing_browser_is_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without Chromium or Playwright, the rest of the tests still pass."""
    monkeypatch.delenv("EPOLLLAB_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed here"):
        absent("chromium is not installed here")


def test_missing_browser_is_a_failure_where_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In CI, nothing is skipped without anybody noticing."""
    monkeypatch.setenv("EPOLLLAB_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="EPOLLLAB_REQUIRE_BROWSER=1"):
        absent("chromium is not installed here")
