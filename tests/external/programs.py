"""Real programs for the tests to look at: each is started, and ended by its process id."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from epolllab.kernel import children
from epolllab.kernel.files import waiters
from tests.conftest import needs

ASYNCIO = """
import asyncio, sys
async def echo(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", int(sys.argv[1]))
    print("listening", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""

NODE = """
require("http").createServer((q, a) => a.end("hello\\n"))
  .listen(+process.argv[1], "127.0.0.1", () => console.log("listening"));
setTimeout(() => process.exit(), 60000);
"""

NGINX = """
worker_processes {workers};
daemon off;
error_log stderr;
pid {folder}/pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 "hello"; }} }}
}}
"""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    arguments: Sequence[str], port: int, *, accepts: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """Start a program, wait until its port accepts or it prints a line, and end it."""
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        try:
            if accepts:
                until_accepting(port, program)
            else:
                assert program.stdout is not None
                program.stdout.readline()
            yield program
        finally:
            program.terminate()
            with suppress(subprocess.TimeoutExpired):
                program.wait(5)
            program.kill()


def until_accepting(port: int, program: "subprocess.Popen[str]") -> None:
    """Return once a connection to the port succeeds."""
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert program.poll() is None, f"{program.args} ended with {program.returncode}"
            assert time.monotonic() < deadline, f"{program.args} does not accept"
            time.sleep(0.02)


@contextmanager
def nginx(
    folder: Path, workers: int = 2, name: str | None = None
) -> Iterator[tuple[int, list[int]]]:
    """Start nginx, or a copy with another name; yield its port and the workers' process ids."""
    [path] = needs("nginx")
    if name is not None:
        path = shutil.copy(path, folder / name)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, workers=workers))
    with running([path, "-p", str(folder), "-c", str(config)], port) as program:
        deadline = time.monotonic() + 20
        while len(waiting := [pid for pid in children(program.pid) if waiters(pid)[0]]) < workers:
            assert time.monotonic() < deadline, f"{len(waiting)} of {workers} workers wait"
            time.sleep(0.02)
        yield port, sorted(waiting)


@contextmanager
def redis(folder: Path) -> Iterator[tuple[int, int]]:
    """Start redis; yield its port and process id."""
    [path] = needs("redis-server")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with running([path, *options], port) as program:
        yield port, program.pid


@contextmanager
def node() -> Iterator[tuple[int, int]]:
    """An HTTP server in node: its port and process id."""
    [path] = needs("node")
    port = free_port()
    with running([path, "-e", NODE, str(port)], port) as program:
        yield port, program.pid


@contextmanager
def asyncio_echo() -> Iterator[tuple[int, int]]:
    """An echo server in asyncio: its port and process id."""
    port = free_port()
    with running([sys.executable, "-c", ASYNCIO, str(port)], port) as program:
        yield port, program.pid


@cache
def _compiled() -> str:
    [compiler] = needs("cc")
    target = Path(mkdtemp()) / "sick"
    source = Path(__file__).with_name("sick.c")
    subprocess.run([compiler, "-w", "-o", target, source], check=True)
    return str(target)


@contextmanager
def sick(kind: str) -> Iterator[tuple[socket.socket, int]]:
    """The program in ``sick.c`` with one fault: a connection to it, and its process id."""
    port = free_port()
    with (
        running([_compiled(), kind, str(port)], port, accepts=False) as program,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        assert program.stdout is not None
        program.stdout.readline()
        yield client, program.pid
