"""Serve the widgets as web pages with Voila, for browsers on this machine.

Opening a page runs its code, so every page requires a token. Voila runs in this process,
which gets the token from a variable or a file: every user of a machine can read every
command line. Nothing outlives the process, however it ends: its port is closed by the
kernel, and Jupyter kernels exit when their parent has gone.
"""

import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from epolllab.checks import check_int, check_text

__all__ = ["NOTEBOOKS", "TOKEN_VARIABLE", "read_token", "serve"]

NOTEBOOKS = {
    "dashboard.ipynb": "start a server and clients, and watch their numbers",
    "stepper.ipynb": "step through level and edge on one socket",
}
"""The notebook of each page, in the folder ``pages``, and what the page is for."""

HOST = "127.0.0.1"
IDLE_S = 30
"""How long a kernel without a page may be idle; one with a page may be idle forever."""
PARENT_CHECK_MS = 500
TOKEN_VARIABLE = "EPOLLLAB_TOKEN"
MIN_TOKEN, MAX_TOKEN = 16, 1024


def serve(
    folder: Path,
    *,
    port: int = 0,
    token: str | None = None,
    say: Callable[[str], object] = print,
) -> int:
    """Serve the pages until a signal ends it, or the parent process ends.

    SIGINT, SIGTERM and SIGHUP end it. Where SIGHUP is ignored, as under ``nohup``, it
    outlives its terminal and its parent. Each page has a kernel of its own, which ends
    within a minute after the page is closed, and with it the server that the page started.

    Parameters
    ----------
    folder : pathlib.Path
        Where the notebooks are.
    port : int
        On the loopback interface; 0 for a free one.
    token : str, optional
        What a page requires: 16 to 1,024 printable ASCII characters without spaces; a new
        one by default.
    say : callable
        Called with each line to print once the port accepts connections.

    Returns
    -------
    int
        0, the exit status.

    Raises
    ------
    RuntimeError
        Voila is not installed.
    FileNotFoundError
        The notebooks are not in the folder.
    OSError
        The port cannot be used.
    """
    parent = os.getppid()  # at once: loading Voila takes seconds
    _check(folder, port)
    secret = secrets.token_hex(24) if token is None else _check_token("token", token)
    with _listener(port) as listener:
        app = _application(folder / "pages", secret, listener, say)
        with _ended_by_signals_and_parent(parent):
            app.start()
    return 0


def read_token(path: Path | None) -> str | None:
    """Return the token in a file, else the one in :data:`TOKEN_VARIABLE`, else None.

    Raises
    ------
    PermissionError
        Other users can read or write the file.
    OSError, ValueError
        The file cannot be read, or does not hold a token.
    """
    if path is None:
        found = os.environ.get(TOKEN_VARIABLE)
        return None if found is None else _check_token(TOKEN_VARIABLE, found)
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & 0o066:
            raise PermissionError(
                f"token file {path} can be read or written by other users (mode {mode:o}); "
                f"run: chmod 600 {path}"
            )
        content = file.read(2 * MAX_TOKEN)
    return _check_token(f"token file {path}", content.decode("ascii", "replace").strip())


def _check_token(name: str, token: object) -> str:
    text = check_text(name, token)
    if not (MIN_TOKEN <= len(text) <= MAX_TOKEN and text.isascii() and text.isprintable()) or (
        " " in text
    ):
        raise ValueError(  # without the token: messages end up in logs
            f"{name} must have {MIN_TOKEN} to {MAX_TOKEN:,} printable ASCII characters without "
            f"spaces, and has {len(text):,} characters; without one, a new token is made"
        )
    return text


def _check(folder: Path, port: int) -> None:
    if find_spec("voila") is None:
        raise RuntimeError(
            "Voila, which serves notebooks as web pages, is not installed; it is an extra: "
            "pip install 'epolllab[app]', in a checkout pip install -e '.[app]'"
        )
    missing = [name for name in NOTEBOOKS if not (folder / "pages" / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} not found in {folder / 'pages'}")
    check_int("port", port, 0, 65_535)


def _listener(port: int) -> socket.socket:
    try:
        listener = socket.create_server((HOST, port), backlog=128)
    except OSError as error:
        raise type(error)(
            f"port {port} cannot be used ({os.strerror(error.errno or 0)}); choose another one, "
            "or 0 for a free one"
        ) from error
    listener.setblocking(False)
    return listener


def _application(
    pages: Path, secret: str, listener: socket.socket, say: Callable[[str], object]
) -> Any:
    # Of two copies of Jupyter's files, take those of this environment.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    # Voila is slow to import, and not always installed.
    from jupyter_server import DEFAULT_STATIC_FILES_PATH
    from tornado.httpserver import HTTPServer
    from voila.app import Voila

    class Pages(Voila):  # type: ignore[misc]
        def init_settings(self) -> Any:
            # The pages of jupyter_server, such as /logout and errors, need its static files.
            return {**super().init_settings(), "static_path": DEFAULT_STATIC_FILES_PATH}

        def listen(self) -> None:
            self.port = listener.getsockname()[1]
            self.app.listen = lambda *_: HTTPServer(self.app).add_sockets([listener])
            for line in _addresses(self.port, secret):
                say(line)
            super().listen()

    app = Pages()
    app.initialize([
        str(pages), "--no-browser", "--show_tracebacks=True", "--Voila.log_level=WARN",
        f"--Voila.ip={HOST}",
        # A page that is closed ends its kernel, but not in every browser.
        f"--MappingKernelManager.cull_idle_timeout={IDLE_S}",
        f"--MappingKernelManager.cull_interval={IDLE_S // 6}",
    ])  # fmt: skip
    app.token = secret
    return app


def _addresses(port: int, secret: str) -> Iterator[str]:
    from urllib.parse import quote

    yield "These pages run code on this machine; anyone with the token can use them."
    for name, purpose in NOTEBOOKS.items():
        yield f"{name.removesuffix('.ipynb')}: {purpose}"
        yield f"  http://{HOST}:{port}/voila/render/{name}?token={quote(secret, safe='')}"
    yield "Interrupt (Ctrl-C) to end."


@contextmanager
def _ended_by_signals_and_parent(parent: int) -> Iterator[None]:
    """Stop tornado's loop at a signal or when the parent ends."""
    from tornado.ioloop import IOLoop, PeriodicCallback

    loop = IOLoop.current()

    def stop_without_parent() -> None:
        if os.getppid() != parent:
            loop.stop()

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = [
        signal.signal(number, lambda *_: loop.add_callback_from_signal(loop.stop))
        for number in numbers
    ]
    if signal.SIGHUP in numbers:
        PeriodicCallback(stop_without_parent, PARENT_CHECK_MS).start()
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
