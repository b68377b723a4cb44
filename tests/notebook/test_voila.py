"""Pages: the widget notebooks behind a token, and nothing left when they end."""

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
    """Let a redirect be seen rather than followed."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def status_of(url: str) -> tuple[int, str]:
    """Ask for a page: its status, and where it sends one on to."""
    try:
        with urllib.request.build_opener(NoRedirect).open(url, timeout=90) as answer:
            answer.read()
            return answer.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("Location") or ""


@pytest.fixture
def served() -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """The command as a user runs it, up; and the addresses that it printed."""
    command = [sys.executable, "-m", "epolllab", "serve"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process:
        try:
            lines = iter(process.stdout.readline, "")
            printed = []
            for line in lines:
                printed.append(line)
                if "Interrupt" in line:
                    break
            yield process, re.findall(r"http://\S+", "".join(printed))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@has_voila
@pytest.mark.notebook
def test_pages_ask_for_the_token_and_end_with_the_command(
    served: tuple["subprocess.Popen[str]", list[str]],
) -> None:
    """Without the token one is sent to the login; the address that was printed has it."""
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


def test_without_voila_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and a status, before anything is started."""
    monkeypatch.setattr(voila, "find_spec", lambda _: None)
    assert main(["serve"]) == 1
    assert "pip install 'epolllab[app]'" in capsys.readouterr().err


def test_wrong_wishes_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without the notebooks, a port that is none, a token that keeps nobody out."""
    monkeypatch.setattr(voila, "find_spec", lambda name: name)
    folder = paths.notebooks()
    assert folder is not None
    with pytest.raises(FileNotFoundError, match="14-drive-the-dashboard"):
        voila.serve(tmp_path)
    with pytest.raises(ValueError, match="65535"):
        voila.serve(folder, port=70_000)
    with pytest.raises(ValueError, match="16 characters"):
        voila.serve(folder, token="short")


@has_voila
def test_a_voila_that_ends_at_once_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its status is in the error, and its own words came before it."""
    folder = paths.notebooks()
    assert folder is not None
    monkeypatch.setattr(voila.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="status 1 before it answered"):
        voila.serve(folder, say=lambda _: None)
