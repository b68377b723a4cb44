"""The widget notebooks as web pages, for this machine's browser only.

One job: run Voila on them, behind a token, and end it. Whoever opens a page runs its
code, so nobody may without the token; it goes to Voila by the environment, since every
user of a machine can read every command line.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

__all__ = ["NOTEBOOKS", "serve"]


NOTEBOOKS = ("14-drive-the-dashboard.ipynb", "15-step-through-edge-and-level.ipynb")
HOST = "127.0.0.1"
START_S = 60.0
END_S = 15.0
LEFT_S = 30
"""How long a kernel whose page has gone may idle; one with a page may for ever."""


def serve(
    folder: Path,
    *,
    port: int = 0,
    token: str | None = None,
    say: Callable[[str], object] = print,
) -> int:
    """Serve the two widget notebooks until it is interrupted.

    Each page has a kernel of its own, which ends within a minute of the page's end, and
    with it the server that the page started.

    Parameters
    ----------
    folder : pathlib.Path
        Where the notebooks are.
    port : int
        Of the loopback interface; 0 for a free one.
    token : str, optional
        What a page asks for; a new one by default.
    say : callable
        Told the addresses once they answer.

    Returns
    -------
    int
        Voila's exit status; 0 after an interrupt.

    Raises
    ------
    RuntimeError
        Voila is not installed, or ended before it answered.
    FileNotFoundError
        The notebooks are not in the folder.
    ValueError
        A token that is too short to keep anybody out.
    """
    _check(folder, port, token)
    secret = token or secrets.token_hex(24)
    port = port or _free_port()
    with _interruptible(), _voila(folder, port, secret) as process:
        try:
            _await(process, port)
            say("These pages run code on this machine; who has the token may use them.")
            for name in NOTEBOOKS:
                say(f"  http://{HOST}:{port}/voila/render/{name}?token={secret}")
            say("Interrupt (Ctrl-C) to end.")
            return process.wait()
        except KeyboardInterrupt:
            return 0


def _check(folder: Path, port: int, token: str | None) -> None:
    if find_spec("voila") is None:
        raise RuntimeError(
            "Voila, which makes pages of notebooks, is not installed here; it is an extra: "
            "pip install 'epolllab[app]', in a checkout pip install -e '.[app]'"
        )
    missing = [name for name in NOTEBOOKS if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} not found in {folder}")
    if not 0 <= port <= 65_535:
        raise ValueError(f"port is from 0 to 65535, not {port}")
    if token is not None and len(token) < 16:
        raise ValueError("a token has at least 16 characters; without --token a new one is made")


def _free_port() -> int:
    # Voila takes port 0 by its word, and does not say which it got.
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


@contextmanager
def _voila(folder: Path, port: int, secret: str) -> Iterator["subprocess.Popen[bytes]"]:
    others = sorted(path.name for path in folder.iterdir() if path.name not in NOTEBOOKS)
    command = [
        sys.executable, "-m", "voila", str(folder), "--no-browser", f"--port={port}",
        f"--Voila.ip={HOST}", "--Voila.auto_token=True", "--show_tracebacks=True",
        # A page that is closed asks for its kernel's end, but not in every browser.
        f"--MappingKernelManager.cull_idle_timeout={LEFT_S}",
        f"--MappingKernelManager.cull_interval={LEFT_S // 6}",
        "--Voila.log_level=WARN", f"--ContentsManager.hide_globs={others!r}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        env={**os.environ, "JUPYTER_TOKEN": secret, "JUPYTER_PREFER_ENV_PATH": "1"},
        start_new_session=True,  # an interrupt is ours to pass on, once
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End Voila, which ends its kernels; a kernel that is left sees that its parent is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _await(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(
                f"Voila ended with status {process.returncode} before it answered; what it said "
                "is above"
            )
        with socket.socket() as sock:
            if sock.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"Voila did not answer at port {port} within {START_S:g} s")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a termination end the pages as an interrupt does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
