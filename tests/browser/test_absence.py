"""Without a browser these tests skip with a reason; where one is required, they fail."""

import pytest

from tests.browser.conftest import absent


def test_missing_browser_skips_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason says what is missing."""
    monkeypatch.delenv("EPOLLLAB_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed here"):
        absent("chromium is not installed here")


def test_missing_browser_fails_the_test_where_one_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In CI no test is skipped unnoticed."""
    monkeypatch.setenv("EPOLLLAB_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="EPOLLLAB_REQUIRE_BROWSER=1"):
        absent("chromium is not installed here")
