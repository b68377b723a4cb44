"""The widget notebooks as pages behind a token; nothing is left when they end."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from epolllab.__main__ import main
from epolllab.notebook import paths, voila

has_voila = pytest.mark.skipif(find_spec("voila") is None, reason="Voila is not installed")


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Return redirects instead of following them."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def status_of(url: str) -> tuple[int, str]:
    """Request a page; return its status and the target of a redirect."""
    try:
        with urllib.request.build_opener(NoRedirect).open(url, timeout=90) as response:
            response.read()
            return response.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("Location") or ""


@pytest.fixture
def served() -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """The running command, as a user starts it, and the addresses that it printed."""
    command = [sys.executable, "-m", "epolllab", "serve"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process:
        try:
            printed = ""
            while "Interrupt" not in printed and (line := process.stdout.readline()):
                printed += line
            yield process, re.findall(r"http://\S+", printed)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@has_voila
@pytest.mark.notebook
def test_pages_require_the_token_and_end_with_the_command(
    served: tuple["subprocess.Popen[str]", list[str]],
) -> None:
    """Without the token a page redirects to the login; the printed addresses have it."""
    process, addresses = served
    assert [re.sub(r".*/|\?.*", "", url) for url in addresses] == list(voila.NOTEBOOKS)
    bare, _, query = addresses[1].partition("?")
    assert re.fullmatch(r"token=[0-9a-f]{48}", query)
    assert bare.startswith("http://127.0.0.1:")
    for url in (bare, f"{bare}?token=wrong", bare.partition("/voila/")[0]):
        status, location = status_of(url)
        assert (status, location.startswith("/login")) == (302, True)
    assert status_of(addresses[1]) == (200, "")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    token = query.removeprefix("token=")
    assert token not in Path(f"/proc/{children[0]}/cmdline").read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not Path("/proc", children[0]).exists()
    with pytest.raises(urllib.error.URLError):
        status_of(bare)


def test_without_voila_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the pip command, and the status is 1."""
    monkeypatch.setattr(voila, "find_spec", lambda _: None)
    assert main(["serve"]) == 1
    assert "pip install 'epolllab[app]'" in capsys.readouterr().err


def test_invalid_arguments_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without the notebooks, an impossible port, a short token."""
    monkeypatch.setattr(voila, "find_spec", lambda name: name)
    folder = paths.notebooks()
    assert folder is not None
    with pytest.raises(FileNotFoundError, match="14-drive-the-dashboard"):
        voila.serve(tmp_path)
    with pytest.raises(ValueError, match=r"^port\b"):
        voila.serve(folder, port=70_000)
    with pytest.raises(ValueError, match=r"^token\b"):
        voila.serve(folder, token="short")


@pytest.mark.processes
@has_voila
def test_a_voila_that_exits_at_once_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit status is in the error."""
    folder = paths.notebooks()
    assert folder is not None
    monkeypatch.setattr(voila.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="status 1"):
        voila.serve(folder, say=lambda _: None)
