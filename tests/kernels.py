"""Real notebook kernels, for tests of what happens between cells.

One job: start one as JupyterLab does, run cells in it, and be sure that it ends.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

__all__ = ["notebook_kernel", "run_cell"]

TIMEOUT_S = 60


@contextmanager
def notebook_kernel() -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """Start a kernel of this interpreter; what it is told, and what it says."""
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=TIMEOUT_S)
    try:
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

    `heard` is told each piece as it comes; `status` is how the cell must end.
    """
    said: list[str] = []

    def note(message: dict[str, Any]) -> None:
        content = message["content"]
        if text := "\n".join(content.get("traceback", ())) or content.get("text", ""):
            said.append(text)
            heard(text)

    reply = client.execute_interactive(code, output_hook=note, timeout=TIMEOUT_S)
    assert reply["content"]["status"] == status, "".join(said)
    return "".join(said)
