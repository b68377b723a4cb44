"""The dashboard: its models, its buttons, and the servers and clients it leaves or stops."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import epolllab
from epolllab import Server, ServerDied, run_clients, start_server, widgets
from epolllab.events import RECORD
from epolllab.widgets.live import Live
from epolllab.widgets.load import Load, LoadOptions
from tests.widgets.conftest import Opened
from tests.widgets.tools import PATIENCE_S, Front, until

pytestmark = pytest.mark.processes

# ---- the models ------------------------------------------------------------------------


def test_rates_are_differences_of_the_loops_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load with a known number of requests, between two ticks."""
    monkeypatch.setattr("epolllab.widgets.live.LATENCY_INTERVAL_S", 0.0)
    with start_server(process=True) as server:
        live = Live(server)
        live.tick()
        run_clients(server, connections=5, requests=200, progress=False)
        server.settle()
        sample = live.tick()
        assert sample.requests == 200
        assert sample.requests_per_s > 0
        assert sample.batch >= 1
        assert 0 < sample.p50_us <= sample.p99_us
        assert len(live.tail) > 0
        assert live.frame()["requests"].tolist() == [0, 200]
    assert live.state == "stopped"
    assert np.isnan(live.tick().requests_per_s)


def test_tail_is_the_end_of_the_recording() -> None:
    """It counts the events before it as overwritten."""
    with start_server() as server:
        run_clients(server, connections=5, requests=300, progress=False)
        server.settle()
        tail, whole = server.tail(50), server.recording()
        assert len(tail) == 50
        columns = ["start_ns", "end_ns", "conn", "op"]
        assert np.array_equal(tail.array()[columns], whole.array()[-50:][columns])
        assert tail.overwritten == len(whole) - 50
        assert len(server.tail(10**9)) == len(whole)


def test_live_without_a_server_is_empty() -> None:
    """Its numbers are unknown, and its frame has the same dtypes."""
    live = Live()
    assert live.state == "none"
    assert np.isnan(live.tick().batch)
    assert live.frame().dtypes.equals(Live().frame().dtypes)


def small_round(server: Server) -> Any:
    return run_clients(server, requests=5, progress=False)


def test_load_runs_rounds_until_it_is_stopped() -> None:
    """The summary is of the last round."""
    with start_server(process=True) as server:
        load = Load(server, small_round)
        until(lambda: load.rounds >= 2)
        load.stop()
        load.join(PATIENCE_S)
        assert load.state == "done"
        assert load.error is None
        assert "0 failed" in load.summary[0]


def test_load_ends_after_its_longest_duration_and_with_the_server() -> None:
    """No further round starts."""
    with start_server() as server:
        load = Load(server, small_round, max_duration=0.0)
        load.join(PATIENCE_S)
        assert (load.running, load.rounds) == (False, 0)
        load = Load(server, small_round)
        until(lambda: load.rounds)
    load.join(PATIENCE_S)
    assert not load.running


def test_load_keeps_the_error_of_a_round() -> None:
    """The dashboard shows it."""

    def fail(_: Server) -> Any:
        raise RuntimeError("no clients today")

    with start_server() as server:
        load = Load(server, fail)
        load.join(PATIENCE_S)
        assert "no clients today" in (load.error or "")


@pytest.mark.parametrize(
    ("name", "value"), [("connections", 0), ("rate", 0), ("payload", -1), ("slow_peers", 10**6)]
)
def test_invalid_load_options_are_refused(name: str, value: int) -> None:
    """The error names the option."""
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        LoadOptions(**{name: value})


# ---- the buttons -----------------------------------------------------------------------


def press(dashboard: widgets.Dashboard, name: str) -> None:
    """Press a button, which must not fail."""
    dashboard.buttons[name].click()
    assert dashboard.error == "", dashboard.error


def test_server_and_clients_by_the_buttons(dashboard: widgets.Dashboard) -> None:
    """The displays follow from the start to the stop."""
    shown, buttons = dashboard.displays, dashboard.buttons
    assert buttons["start_clients"].disabled
    dashboard.controls["connections"].value = 4
    dashboard.controls["protocol"].value = "hello"
    press(dashboard, "start_server")
    server = dashboard.live.server
    assert server is not None
    assert server.options.protocol == "hello"
    assert "running at" in shown["state"].value
    press(dashboard, "start_clients")

    def busy() -> bool:
        dashboard.tick()
        return dashboard.live.samples[-1].requests > 50

    until(busy)
    assert "epl-number" in shown["numbers"].value
    assert len(dashboard.timeline.rows) % RECORD.size == 0
    assert dashboard.timeline.rows == dashboard.live.tail.rows != b""
    assert "<code>IN|ERR|HUP</code>" in shown["interest"].value
    assert "requests/s" in dashboard.text()
    press(dashboard, "stop_clients")
    until(lambda: not dashboard.load.running)
    dashboard.tick()
    assert "done; round" in shown["clients"].value
    assert buttons["stop_clients"].disabled
    press(dashboard, "stop_server")
    assert not server.is_running
    assert "stopped" in shown["state"].value


def test_controls_are_the_options_of_the_server(dashboard: widgets.Dashboard) -> None:
    """A contradiction is shown in one line, and the server before it keeps running."""
    c = dashboard.controls
    c["trigger"].value, c["drain"].value, c["recv_size"].value = "edge", "once", 16
    c["process"].value, c["lifecycle"].value = False, "once"
    press(dashboard, "start_server")
    first = dashboard.live.server
    options = first.options
    assert (options.trigger, options.drain, options.recv_size) == ("edge", False, 16)
    assert (options.process, options.lifecycle) == (False, "once")
    c["poller"].value = "poll"
    dashboard.buttons["start_server"].click()
    assert "poll" in dashboard.error
    assert "Traceback" not in dashboard.error
    assert dashboard.live.server is first
    assert first.is_running
    c["trigger"].value, c["lifecycle"].value = "level", "eager"
    press(dashboard, "start_server")
    assert epolllab.servers() == [dashboard.live.server]
    assert dashboard.live.server.options.poller == "poll"
    assert "keep no list in the kernel" in dashboard.displays["interest"].value


@pytest.mark.slow
def test_unreachable_rate_is_shown_with_the_reason(opened: Opened) -> None:
    """A slow handler cannot reach the rate; both numbers are in the warning."""

    def slow(_: Any) -> str:
        time.sleep(0.005)
        return "done\n"

    with start_server(protocol="http", handler=slow) as server:
        dashboard = opened(widgets.dashboard(server))
        c = dashboard.controls
        assert c["rate"].disabled
        c["loop"].value, c["rate"].value, c["connections"].value = "open", 400, 2
        assert not c["rate"].disabled
        press(dashboard, "start_clients")
        until(lambda: dashboard.load.rounds)
        dashboard.stop_clients()
        dashboard.tick()
        warning = dashboard.displays["clients"].value.partition("epl-warn")[2]
        assert "400 requests/s" in warning
        dashboard.load.join(PATIENCE_S)


def test_slow_peers_are_a_load_of_their_own(dashboard: widgets.Dashboard) -> None:
    """They run beside the clients."""
    dashboard.controls["slow_peers"].value = 2
    dashboard.controls["connections"].value = 2
    press(dashboard, "start_server")
    press(dashboard, "start_clients")
    until(lambda: dashboard.slow.rounds)
    assert len(dashboard.slow.last) == 2
    dashboard.tick()
    assert "slow peers" in dashboard.displays["clients"].value


def test_two_dashboards_show_one_server(opened: Opened) -> None:
    """Closing one leaves the server, and stopping it in one is shown in the other."""
    with start_server(protocol="echo") as server:
        one, two, three = (opened(widgets.dashboard(server)) for _ in range(3))
        assert one.controls["protocol"].value == "echo"
        one.close()
        assert server.is_running
        press(three, "stop_server")
        two.tick()
        assert "stopped" in two.displays["state"].value
        assert two.buttons["start_clients"].disabled


class Deadly(epolllab.Session):
    """Ends the loop with an exception that no loop survives."""

    def receive(self, data: bytes) -> list[bytes]:
        """End the loop."""
        raise KeyboardInterrupt("from within the loop")


@pytest.mark.parametrize("process", [False, True], ids=["thread", "process"])
def test_server_that_died_is_shown_in_red_and_still_raises_in_the_cell(
    process: bool, opened: Opened
) -> None:
    """Reading the server for the display does not consume its error."""
    server = start_server(protocol=Deadly, process=process)
    try:
        boards = [opened(widgets.dashboard(server)) for _ in range(2)]
        script = epolllab.script().send(b"x").expect_end()
        run_clients(server, script=script, connections=1, progress=False)

        def died() -> bool:
            for board in boards:
                board.tick()
            return "died" in boards[0].displays["state"].value

        until(died)
        for board in boards:
            state = board.displays["state"].value
            assert all(words in state for words in ("epl-alarm", "from within", "Traceback"))
            assert board.buttons["start_clients"].disabled
        boards[0].buttons["start_clients"].click()
        assert "Start server" in boards[0].error
        press(boards[0], "start_server")
        assert "epl-alarm" not in boards[0].displays["state"].value
    finally:
        with pytest.raises(ServerDied, match="from within the loop"):
            server.stop()


def test_watch_collects_samples_without_a_page(
    dashboard: widgets.Dashboard, tmp_path: Path
) -> None:
    """The frame has the ticks of that time; an export has all, with the circumstances."""
    press(dashboard, "start_server")
    press(dashboard, "start_clients")
    frame = dashboard.watch(0.5)
    assert 1 <= len(frame) < len(dashboard.data())
    written = dashboard.export("live", folder=tmp_path)
    sidecar = json.loads(written["json"].read_text())
    assert sidecar["circumstances"]["kernel"] == os.uname().release
    assert sidecar["parameters"]["poller"] == "epoll"
    assert len(pd.read_parquet(written["parquet"])) == len(dashboard.data())


def test_anything_but_a_server_is_refused() -> None:
    """The error names the parameter."""
    with pytest.raises(TypeError, match=r"^server\b"):
        widgets.dashboard("http://127.0.0.1")  # type: ignore[arg-type]


# ---- what it stops ---------------------------------------------------------------------


def threads(name: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith(f"epolllab{name}")]


def start_own(dashboard: widgets.Dashboard) -> Server:
    """Start a server by the dashboard's button."""
    press(dashboard, "start_server")
    return dashboard.live.server


def test_own_server_is_stopped_when_no_page_showed_it_for_long(
    dashboard: widgets.Dashboard,
) -> None:
    """The reason is shown; a page that comes back in time finds the server running."""
    own = start_own(dashboard)
    state = dashboard.displays["state"]
    front = Front(dashboard)
    for _ in range(3):
        front.say("shown")
        front.say("closed")
        assert dashboard.unseen_timer.interval == 300.0
    front.say("shown")
    until(lambda: not threads("-unseen"))
    assert own.is_running
    dashboard.unseen_s = 0.05
    front.say("closed")
    until(lambda: "since no page showed this" in state.value)
    assert not own.is_running
    press(dashboard, "start_server")
    assert "since no page" not in state.value


def test_own_server_runs_while_a_hidden_tab_is_heard_of(dashboard: widgets.Dashboard) -> None:
    """Each word of a view starts the time over, also of one that is not shown."""
    own = start_own(dashboard)
    front = Front(dashboard)
    front.say("hidden")
    first = dashboard.unseen_timer
    front.say("hidden")
    assert dashboard.unseen_timer is not first
    first.join(PATIENCE_S)
    assert own.is_running
    assert not dashboard.ticking


def test_own_server_is_not_stopped_while_a_cell_runs(
    dashboard: widgets.Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell may use it although its page has gone; the time starts over."""
    own = start_own(dashboard)
    monkeypatch.setattr("epolllab.notebook.cells.is_cell_running", lambda: True)
    dashboard.unseen_s = 0.05
    front = Front(dashboard, patience=0.1)
    front.say("shown")
    front.say("closed")
    first = dashboard.unseen_timer
    until(lambda: dashboard.unseen_timer is not first)
    assert own.is_running
    monkeypatch.setattr("epolllab.notebook.cells.is_cell_running", lambda: False)
    until(lambda: not own.is_running)


def test_timer_that_was_replaced_stops_no_server(dashboard: widgets.Dashboard) -> None:
    """It has fired and waits for a button's action to end; meanwhile a page comes."""
    own = start_own(dashboard)
    dashboard.unseen_s = 0.01
    front = Front(dashboard)
    front.say("shown")
    with dashboard.lock:
        front.say("closed")
        late = dashboard.unseen_timer
        assert not late.finished.wait(0.1)  # it is in its function
        front.say("shown")
    late.join(PATIENCE_S)
    assert not late.is_alive()
    assert own.is_running
    assert "since no page" not in dashboard.displays["state"].value


def test_server_passed_in_is_left_running(dashboard: widgets.Dashboard, opened: Opened) -> None:
    """The cell started it. A closed dashboard starts no timer."""
    own = start_own(dashboard)
    with start_server() as server:
        for board in (opened(widgets.dashboard(server)), dashboard):
            board.unseen_s = 0.05
            front = Front(board, patience=0.1)
            front.say("shown")
            front.say("closed")
        dashboard.close()
        assert not own.is_running
        time.sleep(0.2)
        assert server.is_running
        until(lambda: not threads("-unseen"))


def test_close_stops_the_clients_and_the_own_server(dashboard: widgets.Dashboard) -> None:
    """No thread and no process is left."""
    own = start_own(dashboard)
    press(dashboard, "start_clients")
    Front(dashboard).say("shown")
    until(lambda: dashboard.live.samples[-1].requests > 0)
    dashboard.close()
    assert not own.is_running
    assert not dashboard.load.running
    assert not threads("")


def test_nothing_is_left_when_the_interpreter_exits() -> None:
    """With a busy dashboard it exits quietly, and so do its children."""
    code = """
import time
from epolllab import kernel, widgets
dashboard = widgets.dashboard()
dashboard.start_server()
dashboard.start_clients()
dashboard.presence.receive(None, {"view": "one", "state": "shown"})
deadline = time.monotonic() + 30
while not dashboard.live.samples[-1].requests and time.monotonic() < deadline:
    time.sleep(0.01)
print(dashboard.live.samples[-1].requests > 0, *kernel.children())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    served, *children = done.stdout.split()
    assert served == "True"
    assert children
    until(lambda: not any(Path("/proc", pid).exists() for pid in children))
