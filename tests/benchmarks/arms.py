"""The servers that the benchmark compares, each as a context manager of port and pid.

The pid is that of the process whose CPU time is measured.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import epolllab
from epolllab import kernel

HERE = Path(__file__).parent

NGINX = """
daemon on; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; use epoll; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_timeout {keepalive}; keepalive_requests 1000000000;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "Hello, world!"; }} }}
}}
"""


class Arm(NamedTuple):
    """A running server."""

    port: int
    pid: int


@contextmanager
def epolllab_server(**options: Any) -> Iterator[Arm]:
    """Our server in a child process."""
    with epolllab.start_server(process=True, **options) as server:
        yield Arm(server.address[1], server.pid)


@contextmanager
def stored_server(**options: Any) -> Iterator[Arm]:
    """The same with its recording stored in a folder."""
    with (
        tempfile.TemporaryDirectory() as name,
        epolllab_server(record_to=Path(name, "run"), **options) as arm,
    ):
        yield arm


@contextmanager
def script(*arguments: str, python: str = sys.executable) -> Iterator[Arm]:
    """A Python script of this folder that prints its port."""
    process = subprocess.Popen(
        [python, str(HERE / arguments[0]), *arguments[1:]],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    # The how-to's server prints every request, which must be read or it blocks.
    sink = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
    process.stdout.close()
    try:
        yield Arm(port, process.pid)
    finally:
        process.kill()
        process.wait()
        sink.wait()


@contextmanager
def nginx(*, keepalive: bool) -> Iterator[Arm]:
    """Nginx with one worker that makes the response itself."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert binary is not None
    port = _free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        config = folder / "nginx.conf"
        text = NGINX.format(folder=folder, port=port, keepalive=65 if keepalive else 0)
        config.write_text(text)
        subprocess.run([binary, "-p", name, "-c", str(config)], check=True, capture_output=True)
        master = _pid_in(folder / "pid")
        try:
            yield Arm(port, _only_child(master))
        finally:
            subprocess.run(
                [binary, "-p", name, "-c", str(config), "-s", "stop"],
                check=True,
                capture_output=True,
            )
            while Path(f"/proc/{master}").exists():
                time.sleep(0.01)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def _pid_in(path: Path) -> int:
    def read() -> int | None:
        return int(text) if path.exists() and (text := path.read_text().strip()) else None

    return _within_5_s(read, f"nginx wrote no {path}")


def _only_child(pid: int) -> int:
    def child() -> int | None:
        return next(iter(kernel.children(pid)), None)

    return _within_5_s(child, f"nginx {pid} started no worker")


def _within_5_s(value: Callable[[], int | None], failure: str) -> int:
    """Call until there is a value."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if (found := value()) is not None:
            return found
        time.sleep(0.01)
    raise TimeoutError(failure)
