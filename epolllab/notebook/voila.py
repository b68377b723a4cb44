"""Serve the widget notebooks as web pages with Voila, for browsers on this machine.

Opening a page runs its code, so every page requires a token. Voila gets the token through
the environment: every user of a machine can read every command line.
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

from epolllab.checks import check_int

__all__ = ["NOTEBOOKS", "serve"]

NOTEBOOKS = ("14-drive-the-dashboard.ipynb", "15-step-through-edge-and-level.ipynb")
HOST = "127.0.0.1"
START_S = 60.0
END_S = 15.0
IDLE_S = 30
"""How long a kernel without a page may be idle; one with a page may be idle forever."""


def serve(
    folder: Path,
    *,
    port: int = 0,
    token: str | None = None,
    say: Callable[[str], object] = print,
) -> int:
    """Serve the two widget notebooks until interrupted.

    Each page has a kernel of its own, which ends within a minute after the page is closed,
    and with it the server that the page started.

    Parameters
    ----------
    folder : pathlib.Path
        Where the notebooks are.
    port : int
        On the loopback interface; 0 for a free one.
    token : str, optional
        What a page requires, at least 16 characters; a new one by default.
    say : callable
        Called with each line to print once Voila accepts connections.

    Returns
    -------
    int
        Voila's exit status; 0 after an interrupt.

    Raises
    ------
    RuntimeError
        Voila is not installed, or did not start.
    FileNotFoundError
        The notebooks are not in the folder.
    """
    _check(folder, port, token)
    secret = token or secrets.token_hex(24)
    port = port or _free_port()
    with _terminable(), _voila(folder, port, secret) as process:
        try:
            _wait_until_started(process, port)
            say("These pages run code on this machine; anyone with the token can use them.")
            for name in NOTEBOOKS:
                say(f"  http://{HOST}:{port}/voila/render/{name}?token={secret}")
            say("Interrupt (Ctrl-C) to end.")
            return process.wait()
        except KeyboardInterrupt:
            return 0


def _check(folder: Path, port: int, token: str | None) -> None:
    if find_spec("voila") is None:
        raise RuntimeError(
            "Voila, which serves notebooks as web pages, is not installed; it is an extra: "
            "pip install 'epolllab[app]', in a checkout pip install -e '.[app]'"
        )
    missing = [name for name in NOTEBOOKS if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} not found in {folder}")
    check_int("port", port, 0, 65_535)
    if token is not None and len(token) < 16:
        raise ValueError(
            "token must have at least 16 characters; without --token a new one is made"
        )


def _free_port() -> int:
    # Voila accepts port 0, but does not print the port that it was given.
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


@contextmanager
def _voila(folder: Path, port: int, secret: str) -> Iterator["subprocess.Popen[bytes]"]:
    others = sorted(path.name for path in folder.iterdir() if path.name not in NOTEBOOKS)
    command = [
        sys.executable, "-m", "voila", str(folder), "--no-browser", f"--port={port}",
        f"--Voila.ip={HOST}", "--Voila.auto_token=True", "--show_tracebacks=True",
        # A page that is closed ends its kernel, but not in every browser.
        f"--MappingKernelManager.cull_idle_timeout={IDLE_S}",
        f"--MappingKernelManager.cull_interval={IDLE_S // 6}",
        "--Voila.log_level=WARN", f"--ContentsManager.hide_globs={others!r}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        env={**os.environ, "JUPYTER_TOKEN": secret, "JUPYTER_PREFER_ENV_PATH": "1"},
        start_new_session=True,  # so that Ctrl-C does not also interrupt it directly
    )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop Voila, which stops its kernels; one that is left exits when its parent is gone."""
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


def _wait_until_started(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(
                f"Voila exited with status {process.returncode} before it started; its output "
                "is above"
            )
        with socket.socket() as sock:
            if sock.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"Voila did not accept connections on port {port} within {START_S:g} s")


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM as an interrupt."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
