"""Which cell is running, as seen from a thread of a real kernel."""

import textwrap
from pathlib import Path

import pytest

from tests.kernels import notebook_kernel, run_cell
from tests.wire import until


@pytest.mark.notebook
def test_is_cell_running(tmp_path: Path) -> None:
    """True until the cell ends: normally, with an error, or by an interrupt."""
    state = tmp_path / "state"
    watching = f"""
        import pathlib, threading, time
        from epolllab.notebook import cells
        cells.watch_cells()
        state = pathlib.Path({str(state)!r})
        state.write_text("")
        def report():
            while True:
                state.write_text(str(cells.is_cell_running()))
                time.sleep(0.005)
        threading.Thread(target=report, daemon=True).start()
    """
    seen = "while state.read_text() != 'True': time.sleep(0.001)\n"

    def is_idle() -> bool:
        return state.read_text() == "False"

    with notebook_kernel() as (manager, client):
        run_cell(client, textwrap.dedent(watching) + seen)
        until(is_idle)
        run_cell(client, f"{seen}1 / 0", status="error")
        until(is_idle)
        # A cell that runs another is still running when that has ended.
        inner = "get_ipython().run_cell('1'); state.write_text(''); time.sleep(0.2)\n"
        run_cell(client, f"{seen}{inner}assert state.read_text() != 'False'")
        until(is_idle)
        run_cell(
            client,
            f"{seen}print('now', flush=True)\ntime.sleep(60)",
            status="error",
            heard=lambda text: text.startswith("now") and manager.interrupt_kernel(),
        )
        until(is_idle)
