"""Which cell is running, and what a cell that runs again stops."""

import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from epolllab.notebook import cells
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


class Handle:
    """What a cell starts."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stopped = False

    def stop(self) -> None:
        """Note that it was called."""
        self.stopped = True


@pytest.mark.parametrize(
    ("first", "second", "ports", "stopped"),
    [
        ({"cellId": "a"}, {"cellId": "a"}, (0, 0), True),
        ({"cellId": "a"}, {"cellId": "b"}, (0, 0), False),
        ({"cellId": "a"}, {"cellId": "b"}, (8000, 8000), False),
        ({}, {}, (0, 0), False),
        ({}, {}, (8000, 0), False),
        ({}, {}, (8000, 8001), False),
        ({}, {}, (8000, 8000), True),
    ],
)
def test_what_a_cell_of_the_same_code_stops(
    monkeypatch: pytest.MonkeyPatch,
    first: dict[str, str],
    second: dict[str, str],
    ports: tuple[int, int],
    stopped: bool,
) -> None:
    """A cell with an id stops what it started; without one, only what holds the port."""
    monkeypatch.setattr(cells, "_started", {})
    started = []
    for count, (metadata, port) in enumerate(zip((first, second), ports, strict=True), 1):
        for _ in range(2):  # starting something else in the same execution stops nothing
            execute(monkeypatch, count, metadata)
            cells.stop_previous(port)
            started.append(Handle(port or 40_000 + count))
            cells.register(started[-1])
    assert [handle.stopped for handle in started] == [stopped, stopped, False, False]


def execute(monkeypatch: pytest.MonkeyPatch, count: int, metadata: dict[str, str]) -> None:
    """Make this thread look like one that executes a cell."""
    request: dict[str, Any] = {
        "header": {"msg_type": "execute_request"},
        "metadata": metadata,
        "content": {"code": "server = epolllab.start_server()"},
    }
    shell = SimpleNamespace(execution_count=count, get_parent=lambda: request, user_ns={})
    monkeypatch.setattr(cells, "_shell", lambda: shell)


@pytest.mark.parametrize(
    ("metadata", "software", "names", "kind"),
    [
        ({"cellId": "a"}, "", {}, "page"),
        ({}, "", {}, "none"),
        ({}, "voila/0.5.13", {}, "widget"),
        ({"cellId": "a"}, "", {"__vsc_ipynb_file__": "x.ipynb"}, "widget"),
    ],
    ids=["JupyterLab", "nbclient", "Voila", "VS Code"],
)
def test_front_end(
    metadata: dict[str, str],
    software: str,
    names: dict[str, str],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What ran the cell decides how a live widget can be shown."""
    monkeypatch.setenv("SERVER_SOFTWARE", software)
    execute(monkeypatch, 1, metadata)
    cells._shell().user_ns.update(names)
    assert cells.front_end() == kind
    monkeypatch.setattr(cells, "_shell", lambda: None)
    assert cells.front_end() == "none"


@pytest.mark.notebook
def test_two_cells_of_the_same_code_keep_both_servers() -> None:
    """The client of this kernel sends no cell ids, like nbclient and papermill."""
    with notebook_kernel() as (_, client):
        run_cell(client, "import epolllab; kept = []")
        for _ in range(2):
            run_cell(client, "kept.append(epolllab.start_server())")
        assert run_cell(client, "print([s.is_running for s in kept])") == "[True, True]\n"
