"""The widgets as pages behind a token; nothing is left when the command ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from epolllab.__main__ import main
from epolllab.notebook import paths, voila
from tests.wire import is_refused, until

has_voila = pytest.mark.skipif(find_spec("voila") is None, reason="Voila is not installed")

TOKEN = "a token's+/&=characters"
SERVE = [sys.executable, "-m", "epolllab", "serve"]
PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print("pid", child.pid, flush=True)
child.wait()
"""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Return redirects instead of following them."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def status_of(url: str) -> tuple[int, str]:
    """Request a page; return its status and the target of a redirect, else its text."""
    try:
        with urllib.request.build_opener(NoRedirect).open(url, timeout=90) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("Location") or ""


class Served:
    """A running command, as a user starts it.

    Attributes
    ----------
    pid : int
        Of the command.
    pages : list of str
        The addresses that it printed.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.process, self.pid, self.text = process, process.pid, ""
        while "Interrupt" not in self.text:
            line = process.stdout.readline()
            assert line, f"ended; it printed: {self.text}"
            self.text += line
        if found := re.search(r"^pid (\d+)$", self.text, re.MULTILINE):
            self.pid = int(found[1])
        self.pages = re.findall(r"http://\S+", self.text)

    @property
    def root(self) -> str:
        """Address of the server."""
        return self.pages[0].partition("/voila/")[0]

    def is_gone(self) -> bool:
        """Whether the port is closed and the command has ended."""
        address = urlsplit(self.root)
        assert address.hostname is not None
        assert address.port is not None
        return is_refused((address.hostname, address.port)) and not is_running(self.pid)

    def kernel(self) -> int:
        """Open a page; return the process id of its kernel."""
        assert status_of(self.pages[1])[0] == 200
        (child,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(child)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


@contextmanager
def serving(command: list[str], **options: Any) -> Iterator[Served]:
    """Run the command until the block ends."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options
    ) as process:
        pid = process.pid
        try:
            served = Served(process)
            pid = served.pid
            yield served
        finally:
            for number in (pid, process.pid):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGTERM)


@has_voila
@pytest.mark.notebook
def test_pages_require_the_token_and_end_with_the_command() -> None:
    """Without the token a page redirects to the login; the printed addresses have it."""
    token = TOKEN.replace(" ", "-")
    with serving(SERVE, env={**os.environ, voila.TOKEN_VARIABLE: token}) as served:
        assert [re.sub(r".*/|\?.*", "", url) for url in served.pages] == list(voila.NOTEBOOKS)
        assert all(name.removesuffix(".ipynb") in served.text for name in voila.NOTEBOOKS)
        bare, _, query = served.pages[1].partition("?")
        assert bare.startswith("http://127.0.0.1:")
        for url in (bare, f"{bare}?token=wrong", served.root):
            status, location = status_of(url)
            assert (status, location.startswith("/login")) == (302, True)
        kernel = served.kernel()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                assert token not in (process / "cmdline").read_text(errors="replace")
        for name in ("logout", f"logout?{query}", "login", f"?{query}"):
            assert status_of(f"{served.root}/{name}")[0] == 200
        assert "logged out" in status_of(f"{served.root}/logout")[1]
        assert status_of(f"{served.root}/missing")[0] == 404
        assert status_of(f"{served.root}/api/kernels/{'0' * 8}{'-0000' * 3}-{'0' * 12}")[0] == 403
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(60) == 0
        assert served.is_gone()
        assert not is_running(kernel)


@has_voila
@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_nothing_outlives_the_command(number: signal.Signals) -> None:
    """SIGHUP comes when the terminal is closed."""
    with serving(SERVE) as served:
        kernel = served.kernel()
        served.process.send_signal(number)
        until(served.is_gone)
        until(lambda: not is_running(kernel))


@has_voila
@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("prefix", [[], ["nohup"]], ids=["plain", "nohup"])
def test_the_command_ends_with_its_parent_except_under_nohup(prefix: list[str]) -> None:
    """Under nohup it ignores SIGHUP too, and ends at SIGTERM."""
    with serving([sys.executable, "-c", PARENT, *prefix, *SERVE]) as served:
        served.process.kill()
        served.process.wait()
        if prefix:
            os.kill(served.pid, signal.SIGHUP)
            served.kernel()  # a page is served, which takes longer than the parent is checked
            os.kill(served.pid, signal.SIGTERM)
        until(served.is_gone)


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
    with pytest.raises(FileNotFoundError, match=r"dashboard\.ipynb"):
        voila.serve(tmp_path)
    for port in (-1, 70_000):
        with pytest.raises(ValueError, match=r"^port\b"):
            voila.serve(folder, port=port)
    for token in ("", "short", TOKEN, "\N{SNOWMAN}" * 20, "x" * 2_000, "tab\t" * 8):
        with pytest.raises(ValueError, match=r"^token\b"):
            voila.serve(folder, token=token)


@pytest.mark.processes
@has_voila
def test_a_port_in_use_is_an_error() -> None:
    """No other port is taken, since the address may be known elsewhere."""
    folder = paths.notebooks()
    with socket.create_server((voila.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"^port {port}\b"):
            voila.serve(folder, port=port)


# ---- where the token comes from --------------------------------------------------------


@pytest.fixture
def token_file(tmp_path: Path) -> Callable[[bytes, int], Path]:
    """Write a token file with a mode."""

    def write(content: bytes, mode: int) -> Path:
        path = tmp_path / "token"
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return write


def test_token_from_a_file_or_the_environment(
    token_file: Callable[[bytes, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file comes first; spaces and newlines around the token are cut off."""
    monkeypatch.delenv(voila.TOKEN_VARIABLE, raising=False)
    assert voila.read_token(None) is None
    monkeypatch.setenv(voila.TOKEN_VARIABLE, "from-the-environment")
    assert voila.read_token(None) == "from-the-environment"
    for mode in (0o600, 0o400):
        assert voila.read_token(token_file(b" from-a-token-file\r\n", mode)) == "from-a-token-file"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_token_file_that_others_can_read_or_write_is_refused(
    mode: int, token_file: Callable[[bytes, int], Path]
) -> None:
    with pytest.raises(PermissionError, match="chmod 600"):
        voila.read_token(token_file(b"0123456789abcdef", mode))


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"short\n", b"two lines\nof a token file", b"\xff" * 40, b"x" * 5_000]
)
def test_a_token_file_without_a_token_is_refused(
    content: bytes, token_file: Callable[[bytes, int], Path]
) -> None:
    """The error does not quote it."""
    with pytest.raises(ValueError, match=r"^token file\b") as caught:
        voila.read_token(token_file(content, 0o600))
    assert "short" not in str(caught.value).removeprefix("token file ")


def test_a_missing_token_file_and_an_empty_variable_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is served with a random token instead."""
    assert main(["serve", "--token-file", str(tmp_path / "none")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
    monkeypatch.setenv(voila.TOKEN_VARIABLE, "")
    assert main(["serve"]) == 1
    assert capsys.readouterr().err.startswith(f"epolllab serve: {voila.TOKEN_VARIABLE} ")
