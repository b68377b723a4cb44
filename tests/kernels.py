"""Notebook kernels, started as JupyterLab does, for tests of what happens between cells."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

__all__ = ["notebook_kernel", "run_cell"]

TIMEOUT_S = 60


@contextmanager
def notebook_kernel() -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """Start a kernel of this interpreter; shut it down afterwards.

    It listens on Unix sockets: another test may take a TCP port before the kernel binds it.
    """
    with TemporaryDirectory() as folder:
        manager = KernelManager(
            kernel_name="python3", transport="ipc", ip=str(Path(folder, "kernel"))
        )
        manager.start_kernel()
        client = manager.client()
        try:
            client.start_channels()
            client.wait_for_ready(timeout=TIMEOUT_S)
            yield manager, client
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
            manager.cleanup_resources()
            manager.context.destroy(linger=0)


def run_cell(
    client: BlockingKernelClient,
    code: str,
    *,
    status: str = "ok",
    heard: Callable[[str], object] = lambda text: None,
) -> str:
    """Execute a cell and return what it printed, or its traceback.

    `heard` is called with each piece of output; `status` is how the cell must end.
    """
    output: list[str] = []

    def note(message: dict[str, Any]) -> None:
        content = message["content"]
        if text := "\n".join(content.get("traceback", ())) or content.get("text", ""):
            output.append(text)
            heard(text)

    reply = client.execute_interactive(code, output_hook=note, timeout=TIMEOUT_S)
    assert reply["content"]["status"] == status, "".join(output)
    return "".join(output)
