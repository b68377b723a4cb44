"""Widgets without a browser: models, presses, traits, threads, and what goes wrong."""

import ast
import base64
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import epolllab
from epolllab import Recording, Server, ServerDied, widgets
from epolllab.analysis.result import Result
from epolllab.widgets import pictures, svg
from epolllab.widgets.curves import Axis, Curves
from epolllab.widgets.live import Live
from epolllab.widgets.load import Load, Wishes
from epolllab.widgets.panel import Panel, _inside, alarm
from epolllab.widgets.steps import MOST_UNREAD, Steps
from epolllab.widgets.ticker import Ticker
from tests.samples import Script, served

mpl.use("Agg")

PATIENCE_S = 60.0


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition, and no longer than patience lasts."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not so after {PATIENCE_S:g} s"
        time.sleep(0.005)


@pytest.fixture(scope="module", autouse=True)
def _fonts_are_open() -> None:
    """Let matplotlib open its fonts now: it keeps them once it has them."""
    with Steps() as steps:
        figure = Figure(layout="constrained")
        pictures.history(steps.history(), ax=figure.add_subplot(), note="note")
        widgets_event = served(2, 3).events()
        epolllab.plots.recording.timeline(widgets_event, ax=Figure().add_subplot())
    figure.text(0, 0, "x", weight="bold")
    for kind in ("png", "svg"):
        figure.savefig(io.BytesIO(), format=kind)


@pytest.fixture
def opened() -> Iterator[Callable[[Any], Any]]:
    """Close what a test opens, whatever becomes of the test."""
    things: list[Any] = []

    def keep(thing: Any) -> Any:
        things.append(thing)
        return thing

    yield keep
    for thing in reversed(things):
        thing.close() if hasattr(thing, "close") else thing.stop()
    things.clear()  # the fixture's value outlives the test, and must not hold them


# ---- the stepper's model ---------------------------------------------------------------


def test_level_repeats_and_edge_tells_once() -> None:
    """The heart of it: the same socket, the same bytes, and two different answers."""
    with Steps() as steps:
        steps.peer_writes(2000)
        first, second = steps.wait(), steps.wait()
        assert (first.level, first.edge) == ("IN", "IN")
        assert (second.level, second.edge) == ("IN", "")
        assert "nothing has happened since" in second.why
        assert "2,000 bytes can be read" in second.why
        after = steps.recv(500)
        assert after.readable == 1500
        assert (after.level_ready, after.edge_ready) == (True, False)
        third = steps.wait()
        assert (third.level, third.edge) == ("IN", "")


@pytest.mark.parametrize("how", ["peer_writes", "modify", "register_again"])
def test_what_makes_edge_speak_again(how: str) -> None:
    """New bytes, a modify and a new registration each put the socket into its ready list."""
    with Steps() as steps:
        steps.peer_writes(100)
        steps.wait()
        assert steps.wait().edge == ""
        done = steps.peer_writes(1) if how == "peer_writes" else getattr(steps, how)()
        assert done.edge_ready
        told = steps.wait()
        assert told.edge == "IN"
        reason = {"peer_writes": "1 byte arrived", "modify": "EPOLL_CTL_MOD looked"}
        assert reason.get(how, "EPOLL_CTL_ADD looked") in told.why


def test_arrivals_between_two_waits_are_one_event() -> None:
    """Edge names both in one return; and says that it will before it does."""
    with Steps() as steps:
        steps.peer_writes(1)
        assert "both at once" in steps.peer_writes(2).why
        assert "1 byte arrived and 2 bytes arrived" in steps.wait().why
        assert steps.wait().edge == ""


def test_a_drained_socket_is_silent_on_both_sides() -> None:
    """What was read before anybody asked is told by neither."""
    with Steps() as steps:
        steps.peer_writes(10)
        drained = steps.drain()
        assert drained.result == "10 bytes, then EAGAIN"
        assert (drained.readable, drained.level_ready, drained.edge_ready) == (0, False, False)
        waited = steps.wait()
        assert (waited.level, waited.edge) == ("", "")
        assert "nothing of it is left to tell" in waited.why
        assert steps.recv(1).result == "EAGAIN"


def test_ends_and_resets_are_reported_by_their_masks() -> None:
    """A FIN is RDHUP and stays for level; an RST is ERR and HUP, whatever was asked for."""
    with Steps() as steps:
        steps.peer_half_closes()
        first, second = steps.wait(), steps.wait()
        assert (first.level, first.edge) == ("IN|RDHUP", "IN|RDHUP")
        assert (second.level, second.edge) == ("IN|RDHUP", "")
        assert steps.recv(10).result == "0: end"
        steps.start_over()
        steps.modify("0")
        steps.peer_resets()
        told = steps.wait()
        assert told.level is not None
        assert set(told.level.split("|")) >= {"ERR", "HUP"}
        assert told.edge == told.level
        assert steps.recv(1).result == "ECONNRESET"


def test_interest_is_the_kernels_own() -> None:
    """The list is read from /proc: ERR and HUP are added by the kernel, ET marks edge."""
    with Steps() as steps:
        assert steps.last.level_interest == "IN|ERR|HUP|RDHUP"
        assert steps.last.edge_interest == "IN|ERR|HUP|RDHUP|ET"
        row = steps.modify("IN|OUT|RDHUP")
        assert row.edge_interest == "IN|OUT|ERR|HUP|RDHUP|ET"
        assert (steps.wait().edge, steps.wait().edge) == ("OUT", "")
        nothing = steps.modify("0")
        assert (nothing.level_ready, nothing.edge_ready) == (False, False)
        steps.peer_writes(5)
        assert "5 bytes can be read, but 0 does not ask for that" in steps.wait().why


def test_looking_takes_nothing_from_the_ready_list() -> None:
    """However often the display looks, the wait after it returns what it would have."""
    with Steps() as steps:
        steps.peer_writes(3)
        for _ in range(20):
            assert steps._queued(steps._edge)
        assert steps.wait().edge == "IN"


def test_impossible_steps_say_why_and_change_nothing() -> None:
    """A peer that has ended cannot write; a buffer is not filled beyond what it takes."""
    with Steps() as steps:
        for wish in (0, -1, 10**9):
            with pytest.raises(ValueError, match="bytes to write"):
                steps.peer_writes(wish)
        with pytest.raises(TypeError):
            steps.recv("many")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="did you mean"):
            steps.modify("INN")
        while steps.last.readable + 16_384 <= MOST_UNREAD:
            steps.peer_writes(16_384)
        n_rows = len(steps.rows)
        with pytest.raises(ValueError, match="read some first"):
            steps.peer_writes(16_384)
        steps.peer_half_closes()
        with pytest.raises(ValueError, match="start over"):
            steps.peer_writes(1)
        steps.peer_resets()
        with pytest.raises(ValueError, match="closed already"):
            steps.peer_resets()
        assert len(steps.rows) == n_rows + 2


def test_history_is_a_frame_with_a_fixed_schema() -> None:
    """What was not asked is missing, which is something else than nothing returned."""
    with Steps() as steps:
        steps.wait()
        steps.peer_writes(7)
        frame = steps.history()
        assert frame["action"].tolist() == ["begin", "wait", "peer writes 7"]
        assert frame["level"].isna().tolist() == [True, False, True]
        assert frame["level"][1] == ""
        assert frame["readable"].tolist() == [0, 0, 7]
        fresh = steps.start_over()
        assert fresh.step == 0
        assert steps.history().dtypes.equals(frame.dtypes)
        counts = steps.recording().counts()
        assert counts["register"] == 2


# ---- the stepper -----------------------------------------------------------------------


def test_a_press_shows_what_the_kernel_said(opened: Callable[[Any], Any]) -> None:
    """Each button is one step, and everything on the page follows."""
    stepper = opened(widgets.stepper())
    press = {name: made.click for name, made in stepper.buttons.items()}
    seen: list[str] = []
    stepper._why.observe(lambda change: seen.append(change["new"]), "value")
    stepper._n_write.value = 1200
    press["peer_writes"]()
    press["wait"]()
    press["wait"]()
    assert stepper.steps.last.edge == ""
    assert "nothing has happened since" in stepper._why.value
    assert len(seen) == 3
    assert stepper._sides.value.count("not asked") == 0
    assert "1,200" in stepper._table.value
    assert stepper._strip.value.count("<circle") == 4
    stepper._n_recv.value = 200
    press["recv"]()
    assert stepper.steps.last.readable == 1000
    stepper._interest.value = "IN"
    press["modify"]()
    assert stepper.steps.last.edge_interest == "IN|ERR|HUP|ET"
    press["start_over"]()
    assert len(stepper.steps.rows) == 1
    assert stepper.error == ""


def test_buttons_of_impossible_steps_are_off(opened: Callable[[Any], Any]) -> None:
    """And a press that comes all the same is answered in red, in a line."""
    stepper = opened(widgets.stepper())
    stepper.buttons["peer_half_closes"].click()
    assert stepper.buttons["peer_writes"].disabled
    assert not stepper.buttons["peer_resets"].disabled
    stepper.buttons["peer_writes"].click()
    assert "epl-alarm" in stepper.error
    assert "start over" in stepper.error
    assert "traceback" not in stepper.error
    stepper.buttons["start_over"].click()
    assert stepper.error == ""
    assert not stepper.buttons["peer_writes"].disabled


def test_every_control_has_a_class_and_every_button_a_hint(opened: Callable[[Any], Any]) -> None:
    """By these a browser's tests find them, and a reader learns what they do."""
    for panel in (opened(widgets.stepper()), opened(widgets.dashboard())):
        inside = _inside(panel)
        buttons = [w for w in inside if type(w).__name__ == "Button"]
        assert all(w.tooltip for w in buttons)
        inputs = [w for w in inside if hasattr(w, "value") and type(w).__name__ != "HTML"]
        for widget in (*buttons, *inputs):
            assert any(c.startswith("epl-") for c in widget._dom_classes), widget
        names = [c for w in inside for c in w._dom_classes if c.startswith("epl-")]
        assert len(names) == len(set(names))


# ---- panels ----------------------------------------------------------------------------


def test_a_fault_in_a_callback_is_shown_with_its_traceback(
    opened: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that a press raises is lost, and the next press works."""
    stepper = opened(widgets.stepper())

    def fail() -> None:
        raise ZeroDivisionError("of <course>")

    stepper.guarded(fail)()
    assert "epl-alarm" in stepper.error
    assert "ZeroDivisionError: of &lt;course&gt;" in stepper.error
    assert "Traceback" in stepper.error
    stepper.buttons["wait"].click()
    assert stepper.error == ""


def test_panels_are_text_where_there_are_no_widgets(opened: Callable[[Any], Any]) -> None:
    """A terminal, a mail or a static page shows numbers, not a model's number."""
    stepper = opened(widgets.stepper())
    stepper.buttons["peer_writes"].click()
    bundle = stepper._repr_mimebundle_()
    assert bundle["text/plain"] == repr(stepper) == stepper.text()
    assert "peer writes 2,000" in bundle["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "none; .start() makes one" in repr(opened(widgets.dashboard()))


def test_export_button_writes_files_and_never_over_them(
    opened: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second press with the same name says so in red, and the first files stay."""
    monkeypatch.chdir(tmp_path)
    stepper = opened(widgets.stepper())
    stepper.buttons["peer_writes"].click()
    stepper._export_name.value = "mine"
    stepper._export_button.click()
    folder = tmp_path / "data" / "charts"
    assert sorted(p.name for p in folder.iterdir()) == [
        "mine.json", "mine.parquet", "mine.png", "mine.svg",
    ]  # fmt: skip
    assert "mine.png" in stepper._export_result.value
    frame = pd.read_parquet(folder / "mine.parquet")
    assert frame["readable"].tolist() == [0, 2000]
    before = (folder / "mine.png").read_bytes()
    stepper.buttons["wait"].click()
    stepper._export_button.click()
    assert "overwrite=True" in stepper.error
    assert (folder / "mine.png").read_bytes() == before
    stepper._export_name.value = "../out"
    stepper._export_button.click()
    assert "cannot be a file" in stepper.error


def test_a_read_only_folder_is_said_in_the_panel(opened: Callable[[Any], Any]) -> None:
    """The export button's error names the folder and what to do."""
    if not Path("/sys/kernel").is_dir():
        pytest.skip("needs Linux's /sys")
    stepper = opened(widgets.stepper())
    stepper.guarded(lambda: stepper.export("it", folder="/sys/kernel"))()
    assert "/sys/kernel" in stepper.error
    assert "Traceback" not in stepper.error


def test_alarm_puts_the_last_line_first_and_escapes() -> None:
    """A traceback's end is what a reader looks for."""
    text = alarm("Traceback (most recent call last):\n  File <x>\nKeyError: 'y'")
    assert text.index("KeyError") < text.index("Traceback")
    assert "<x>" not in text
    assert alarm("just <so>") == "<div class='epl-alarm'>just &lt;so&gt;</div>"


# ---- the ticker ------------------------------------------------------------------------


def test_a_ticker_ticks_until_it_is_stopped(opened: Callable[[Any], Any]) -> None:
    """Its thread is gone when stop() returns; a second start begins anew."""
    ticker = opened(Ticker(lambda: None, pytest.fail, interval=0.01))
    assert not ticker.running
    ticker.start()
    ticker.start()
    until(lambda: ticker.n_ticks >= 3, "three ticks")
    assert [t.name for t in threading.enumerate()].count("epolllab-ticker") == 1
    ticker.stop()
    assert not ticker.running
    assert "epolllab-ticker" not in [t.name for t in threading.enumerate()]
    ticker.start()
    before = ticker.n_ticks
    until(lambda: ticker.n_ticks > before, "another tick")
    ticker.stop()
    ticker.stop()


def test_a_ticker_hands_errors_on_once_and_goes_on(opened: Callable[[Any], Any]) -> None:
    """A display that fails says so, and does not say so ten times a second."""
    said: list[str] = []

    def fail() -> None:
        raise RuntimeError("in the tick")

    ticker = opened(Ticker(fail, said.append, interval=0.01))
    ticker.start()
    until(lambda: ticker.n_ticks >= 5, "five ticks")
    ticker.stop()
    assert len(said) == 1
    assert "in the tick" in said[0]


def test_a_ticker_knows_its_cost(opened: Callable[[Any], Any]) -> None:
    """CPU time over wall time: idle ticks cost next to nothing, busy ones what they take."""

    def burn() -> None:
        end = time.thread_time_ns() + 10_000_000
        while time.thread_time_ns() < end:
            pass

    ticker = opened(Ticker(burn, pytest.fail, interval=0.02))
    assert np.isnan(ticker.cost)
    ticker.start()
    until(lambda: ticker.n_ticks >= 10, "ten ticks")
    ticker.stop()
    assert 0 < ticker.cost <= 1.05


def test_a_ticker_can_be_stopped_from_within(opened: Callable[[Any], Any]) -> None:
    """A panel closed by its own tick does not wait for itself."""
    ticker = opened(Ticker(lambda: ticker.stop(), pytest.fail, interval=0.01))
    ticker.start()
    until(lambda: not ticker.running, "its end")


# ---- the dashboard's model -------------------------------------------------------------


def test_rates_are_differences_of_the_loops_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live numbers of a real server, with a load whose number of requests is known."""
    monkeypatch.setattr("epolllab.widgets.live.LATENCY_S", 0.0)  # read at every tick
    with epolllab.start_server(process=True) as server:
        live = Live(server)
        live.tick()
        epolllab.run_clients(server, connections=5, requests=200, progress=False)
        server.settle()
        numbers = live.tick()
        assert numbers.requests == 200
        assert numbers.requests_per_s > 0
        assert numbers.batch >= 1
        assert numbers.p50_us > 0
        assert numbers.p99_us >= numbers.p50_us
        assert len(live.tail) > 0
        frame = live.frame()
        assert len(frame) == 2
        assert frame["requests"].tolist() == [0, 200]
    assert live.state == "stopped"
    assert np.isnan(live.tick().requests_per_s)


def test_a_tick_reads_the_end_of_the_ring_only() -> None:
    """The tail is the recording's own end, however much there is before it."""
    with epolllab.start_server() as server:
        epolllab.run_clients(server, connections=5, requests=300, progress=False)
        server.settle()
        tail, whole = server.tail(50), server.recording()
        assert len(tail) == 50
        assert tail.rows[-50 * 40 :][:8] == whole.rows[-50 * 40 :][:8]
        assert np.array_equal(
            tail.array()[["start_ns", "end_ns", "conn", "op"]],
            whole.array()[-50:][["start_ns", "end_ns", "conn", "op"]],
        )
        assert tail.overwritten == len(whole) - 50
        assert len(server.tail(10**9)) == len(whole)


def test_live_without_a_server_is_empty() -> None:
    """Nothing is known, and nothing fails."""
    live = Live()
    assert live.state == "none"
    assert np.isnan(live.tick().batch)
    assert live.frame().dtypes.equals(Live().frame().dtypes)


def test_a_load_goes_on_in_rounds_until_it_is_stopped(opened: Callable[[Any], Any]) -> None:
    """Each round's numbers replace the last one's; a stop ends it after the round."""
    with epolllab.start_server(process=True) as server:
        load = Load(server, lambda s: epolllab.run_clients(s, requests=20, progress=False))
        until(lambda: load.rounds >= 2, "two rounds")
        load.stop()
        load.join(PATIENCE_S)
        assert not load.running
        assert load.error is None
        assert "0 failed" in load.words[0]


def test_a_load_ends_by_itself() -> None:
    """Whatever becomes of the page, nothing asks for ever; also a stopped server ends it."""
    with epolllab.start_server() as server:
        load = Load(
            server, lambda s: epolllab.run_clients(s, requests=5, progress=False), longest=0.0
        )
        load.join(PATIENCE_S)
        assert not load.running
        assert load.rounds == 0
        load = Load(server, lambda s: epolllab.run_clients(s, requests=5, progress=False))
        until(lambda: load.rounds, "a round")
    load.join(PATIENCE_S)
    assert not load.running


def test_a_load_keeps_its_error() -> None:
    """What a round raises is there to be shown."""
    with epolllab.start_server() as server:

        def fail(_: Server) -> Any:
            raise RuntimeError("no clients today")

        load = Load(server, fail)
        load.join(PATIENCE_S)
        assert "no clients today" in (load.error or "")


@pytest.mark.parametrize(
    "wishes",
    [{"connections": 0}, {"rate": 0}, {"payload": -1}, {"slow_peers": 10**6}],
    ids=lambda wish: next(iter(wish)),
)
def test_wishes_that_make_no_sense_are_refused(wishes: dict[str, int]) -> None:
    """Before anything is started."""
    with pytest.raises(ValueError, match=r"is (at least|from)"):
        Wishes(**wishes)


# ---- the dashboard ---------------------------------------------------------------------


def pressed(dashboard: widgets.Dashboard, name: str) -> None:
    dashboard.buttons[name].click()
    assert dashboard.error == "", dashboard.error


def test_start_fire_look_cease_stop(opened: Callable[[Any], Any]) -> None:
    """The whole of it by the buttons: the numbers move, and nothing is left."""
    dashboard = opened(widgets.dashboard())
    assert dashboard.buttons["fire"].disabled
    dashboard.controls["connections"].value = 4
    dashboard.controls["protocol"].value = "hello"
    pressed(dashboard, "start")
    server = dashboard.live.server
    assert server is not None
    assert server.options.protocol == "hello"
    assert "running at" in dashboard._state.value
    pressed(dashboard, "fire")

    def moves() -> bool:
        dashboard.tick()
        return "epl-number" in dashboard._numbers.value and dashboard.live.numbers[-1].requests > 50

    until(moves, "requests in the display")
    assert "<path" in dashboard._timeline.value
    assert "conn " in dashboard._timeline.value
    dashboard._interest_at = 0.0
    dashboard.tick()
    assert "<code>IN|ERR|HUP</code>" in dashboard._interest.value
    assert "requests/s" in dashboard.text()
    pressed(dashboard, "cease")
    load = dashboard.load
    until(lambda: not load.running, "the load's end")
    dashboard.tick()
    assert "done; round" in dashboard._clients.value
    assert dashboard.buttons["cease"].disabled
    pressed(dashboard, "stop")
    assert not server.is_running
    assert "stopped" in dashboard._state.value


def test_controls_say_how_the_server_is_started(opened: Callable[[Any], Any]) -> None:
    """Each option reaches the server; what cannot be is said in a line, and nothing starts."""
    dashboard = opened(widgets.dashboard())
    c = dashboard.controls
    c["trigger"].value, c["drain"].value, c["recv_size"].value = "edge", "once", 16
    c["process"].value, c["lifecycle"].value = False, "once"
    pressed(dashboard, "start")
    options = dashboard.live.server.options
    assert (options.trigger, options.drain, options.recv_size) == ("edge", False, 16)
    assert (options.process, options.lifecycle) == (False, "once")
    c["poller"].value = "poll"
    dashboard.buttons["start"].click()
    assert "level-triggered only" in dashboard.error
    assert dashboard.live.server.options.poller == "epoll"
    assert dashboard.live.server.is_running
    c["trigger"].value, c["lifecycle"].value = "level", "eager"
    pressed(dashboard, "start")
    assert epolllab.servers() == [dashboard.live.server]
    assert dashboard.live.server.options.poller == "poll"
    dashboard._interest_at = 0.0
    dashboard.tick()
    assert "keep no list in the kernel" in dashboard._interest.value


def test_an_unreachable_rate_is_said(opened: Callable[[Any], Any]) -> None:
    """A slow handler cannot do what is asked; the display has both numbers and the reason."""

    def slow(_: Any) -> str:
        time.sleep(0.02)
        return "done\n"

    with epolllab.start_server(protocol="http", handler=slow) as server:
        dashboard = opened(widgets.dashboard(server))
        c = dashboard.controls
        assert c["rate"].disabled
        c["loop"].value, c["rate"].value, c["connections"].value = "open", 2000, 2
        assert not c["rate"].disabled
        pressed(dashboard, "fire")
        until(lambda: dashboard.load.rounds, "a round")
        dashboard.cease()
        dashboard.tick()
        assert "epl-warn" in dashboard._clients.value
        assert "2,000 requests/s were asked" in dashboard._clients.value
        dashboard.load.join(PATIENCE_S)


def test_slow_peers_ask_beside_the_others(opened: Callable[[Any], Any]) -> None:
    """They are shown as a load of their own."""
    dashboard = opened(widgets.dashboard())
    dashboard.controls["slow_peers"].value = 2
    dashboard.controls["connections"].value = 2
    pressed(dashboard, "start")
    pressed(dashboard, "fire")
    until(lambda: dashboard.slow.rounds, "a round of slow peers")
    assert len(dashboard.slow.last) == 2
    dashboard.tick()
    assert "slow peers" in dashboard._clients.value


def test_two_dashboards_show_one_server(opened: Callable[[Any], Any]) -> None:
    """Neither owns it: closing one leaves it, and stopping by one is seen in the other."""
    with epolllab.start_server(protocol="echo") as server:
        one, two = opened(widgets.dashboard(server)), opened(widgets.dashboard(server))
        assert one.controls["protocol"].value == "echo"
        one.close()
        assert server.is_running
        three = opened(widgets.dashboard(server))
        pressed(three, "stop")
        two.tick()
        assert "stopped" in two._state.value
        assert two.buttons["fire"].disabled


class Deadly(epolllab.Session):
    """Ends the loop: no exception that a loop survives."""

    def receive(self, data: bytes) -> list[bytes]:
        """End everything."""
        raise KeyboardInterrupt("from within the loop")


@pytest.mark.parametrize("process", [False, True], ids=["thread", "process"])
def test_a_server_that_died_is_red_with_its_traceback(
    process: bool, opened: Callable[[Any], Any]
) -> None:
    """The error is shown for as long as it is this server; and the cell still gets it."""
    server = epolllab.start_server(protocol=Deadly, process=process)
    try:
        one, two = opened(widgets.dashboard(server)), opened(widgets.dashboard(server))
        script = epolllab.script().send(b"x").expect_end()
        epolllab.run_clients(server, script=script, connections=1, progress=False)

        def seen() -> bool:
            one.tick()
            two.tick()
            return "died" in one._state.value

        until(seen, "the death in the display")
        for dashboard in (one, two):
            assert "epl-alarm" in dashboard._state.value
            assert "from within the loop" in dashboard._state.value
            assert "Traceback" in dashboard._state.value
            assert dashboard.buttons["fire"].disabled
        one.fire = one.guarded(one.fire)
        one.fire()
        assert "press Start" in one.error
        pressed(one, "start")
        assert "epl-alarm" not in one._state.value
    finally:
        with pytest.raises(ServerDied, match="from within the loop"):
            server.stop()


def test_it_ticks_while_a_page_shows_it(opened: Callable[[Any], Any]) -> None:
    """The front end counts its views; with the last one the thread ends."""
    dashboard = opened(widgets.dashboard())
    assert dashboard._view_count == 0
    assert not dashboard.ticking
    assert "not ticking" in dashboard._cost.value
    dashboard._view_count = 1
    until(lambda: "this display costs" in dashboard._cost.value, "its cost in the display")
    assert dashboard.ticking
    dashboard._view_count = 2
    dashboard._view_count = 0
    assert not dashboard.ticking
    dashboard._view_count = 1
    assert dashboard.ticking
    dashboard.close()
    assert not dashboard.ticking
    dashboard.close()


class Front:
    """Stands for a front end: the panel's views come and go, and its page sends beats."""

    def __init__(self, panel: Any, silence: float = 0.1) -> None:
        self.panel = panel
        panel._presence.silence = silence

    @property
    def beat(self) -> Any:
        """The hidden widget that beats now."""
        return self.panel._presence.beat

    def load(self) -> None:
        """A page opens: it counts on from the number it finds, and plays what it is told to."""
        self.panel._view_count += 1
        self.beat._view_count += 1

    def send(self) -> None:
        """A beat arrives."""
        self.beat.value += 1


def test_silence_of_the_page_ends_the_ticking_and_a_beat_begins_it_again(
    opened: Callable[[Any], Any],
) -> None:
    """A tab that was closed tells nobody; a tab that was put to sleep wakes up."""
    dashboard = opened(widgets.dashboard())
    front = Front(dashboard, silence=PATIENCE_S)
    front.load()
    assert front.beat.playing
    assert front.beat in dashboard.children
    assert front.beat.layout.display == "none"
    front.send()
    until(lambda: "this display costs" in dashboard._cost.value, "its cost in the display")
    dashboard._presence.silence = 0.1
    until(lambda: not dashboard.ticking, "the end of the ticking")
    until(lambda: "not ticking" in dashboard._cost.value, "the display's saying so")
    dashboard._presence.silence = PATIENCE_S
    front.send()
    assert dashboard.ticking


def test_before_the_first_beat_and_while_a_cell_runs_silence_means_nothing(
    opened: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may take its time to begin; and a busy kernel reads no messages."""
    dashboard = opened(widgets.dashboard())
    front = Front(dashboard, silence=0.0)
    ticker = dashboard._ticker
    front.load()
    until(lambda: ticker.n_ticks >= 3, "ticks without a beat")
    monkeypatch.setattr("epolllab.notebook.cells.is_busy", lambda: True)
    front.send()
    before = ticker.n_ticks
    until(lambda: ticker.n_ticks >= before + 3, "ticks while a cell runs")
    monkeypatch.setattr("epolllab.notebook.cells.is_busy", lambda: False)
    until(lambda: not dashboard.ticking, "the end of the ticking")


def test_page_that_goes_before_its_first_beat_ends_the_ticking(
    opened: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All it ever said is that there is a view; that is believed for a minute."""
    monkeypatch.setattr("epolllab.widgets.presence.FIRST_SILENCE_S", 0.1)
    dashboard = opened(widgets.dashboard())
    dashboard._presence.silence = 0.0
    dashboard._view_count = 1
    until(lambda: dashboard._ticker.n_ticks, "a tick")
    until(lambda: not dashboard.ticking, "the end of the ticking")


def test_number_of_views_that_a_closed_tab_left_behind_misleads_nobody(
    opened: Callable[[Any], Any],
) -> None:
    """A page that is loaded again makes one view two; when that one goes, nobody looks."""
    dashboard = opened(widgets.dashboard())
    front = Front(dashboard, silence=PATIENCE_S)
    front.load()
    front.send()
    of_the_closed_tab = front.beat
    front.load()
    assert dashboard._view_count == 2
    assert front.beat is not of_the_closed_tab
    assert of_the_closed_tab not in dashboard.children
    assert not of_the_closed_tab.playing
    of_the_closed_tab._view_count = 0
    assert dashboard.ticking
    front.beat._view_count = 0
    assert not dashboard.ticking
    of_the_closed_tab.value += 1
    assert not dashboard.ticking
    front.load()
    assert dashboard.ticking
    dashboard._view_count -= 1  # the page's own, which says nothing of the beat's
    assert not dashboard.ticking
    front.beat._view_count = 1  # but another page's view of the panel was left
    assert dashboard.ticking


def test_beats_of_many_pages_are_not_kept_for_ever(opened: Callable[[Any], Any]) -> None:
    """Each page leaves a closed widget, but for the last few; with the panel all close."""
    dashboard = opened(widgets.dashboard())
    front = Front(dashboard)
    beats = []
    for _ in range(20):
        front.load()
        beats.append(front.beat)
    assert [beat.comm is not None for beat in beats] == [False] * 11 + [True] * 9
    dashboard.close()
    assert [beat.comm for beat in beats] == [None] * 20
    assert len({beat.style for beat in beats}) == 1
    assert (beats[0].style.comm, beats[0].layout.comm) == (None, None)


def test_server_of_a_dashboard_that_nobody_sees_is_stopped_in_the_end(
    opened: Callable[[Any], Any],
) -> None:
    """Its own is, and the reason is said; who comes back in time finds it running."""
    dashboard = opened(widgets.dashboard())
    pressed(dashboard, "start")
    server = dashboard.live.server
    front = Front(dashboard, silence=PATIENCE_S)
    for _ in range(3):
        front.load()
        front.beat._view_count = 0
        assert dashboard._departure.interval == 300.0
    front.load()
    until(lambda: not _threads("departure"), "the end of what was planned")
    assert server.is_running
    dashboard.unseen_s = 0.05
    front.beat._view_count = 0
    until(lambda: "since no page showed this" in dashboard._state.value, "the reason")
    assert not server.is_running
    pressed(dashboard, "start")
    assert "since no page" not in dashboard._state.value


def test_server_is_not_stopped_while_a_cell_may_use_it(
    opened: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell goes on although its page has gone; the time begins anew."""
    dashboard = opened(widgets.dashboard())
    dashboard.unseen_s = 0.05
    pressed(dashboard, "start")
    monkeypatch.setattr("epolllab.notebook.cells.is_busy", lambda: True)
    front = Front(dashboard)
    front.load()
    front.beat._view_count = 0
    planned = dashboard._departure
    until(lambda: dashboard._departure is not planned, "another plan")
    assert dashboard.live.server.is_running
    monkeypatch.setattr("epolllab.notebook.cells.is_busy", lambda: False)
    until(lambda: not dashboard.live.server.is_running, "the server's end")


def test_plan_that_was_overtaken_stops_no_server(opened: Callable[[Any], Any]) -> None:
    """The timer has fired and waits for a button's action to end; meanwhile somebody came."""
    dashboard = opened(widgets.dashboard())
    dashboard.unseen_s = 0.01
    pressed(dashboard, "start")
    front = Front(dashboard, silence=PATIENCE_S)
    front.load()
    with dashboard._acting:
        front.beat._view_count = 0
        late = dashboard._departure
        assert not late.finished.wait(0.1)  # it is within its function
        front.load()
    late.join(PATIENCE_S)
    assert not late.is_alive()
    assert dashboard.live.server.is_running
    assert "since no page" not in dashboard._state.value


def test_server_that_was_given_is_left_alone_though_nobody_looks(
    opened: Callable[[Any], Any],
) -> None:
    """It is the cell's that started it; and a closed dashboard plans nothing more."""
    with epolllab.start_server() as server:
        given = opened(widgets.dashboard(server))
        own = opened(widgets.dashboard())
        pressed(own, "start")
        for dashboard in (given, own):
            dashboard.unseen_s = 0.05
            front = Front(dashboard)
            front.load()
            front.beat._view_count = 0
        own.close()
        time.sleep(0.2)
        assert server.is_running
        until(lambda: not _threads("departure"), "the end of what was planned")


def _threads(name: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == f"epolllab-{name}"]


def test_closing_ends_the_clients_and_the_server_of_its_own(
    opened: Callable[[Any], Any],
) -> None:
    """After close() there is no thread, no process and no port of it; the fixture looks, too."""
    dashboard = opened(widgets.dashboard())
    pressed(dashboard, "start")
    server = dashboard.live.server
    pressed(dashboard, "fire")
    dashboard._view_count = 1
    until(lambda: dashboard.live.numbers[-1].requests > 0, "requests")
    dashboard.close()
    assert not server.is_running
    assert not dashboard.load.running
    assert not [t for t in threading.enumerate() if t.name.startswith("epolllab")]


def test_watch_looks_for_a_while_without_a_page(
    opened: Callable[[Any], Any], tmp_path: Path
) -> None:
    """The frame has the ticks of that time; export has them all, with the circumstances."""
    dashboard = opened(widgets.dashboard())
    pressed(dashboard, "start")
    pressed(dashboard, "fire")
    frame = dashboard.watch(0.5)
    assert 1 <= len(frame) < len(dashboard.data())
    written = dashboard.export("live", folder=tmp_path)
    words = json.loads(written["json"].read_text())
    assert words["circumstances"]["kernel"] == os.uname().release
    assert words["parameters"]["poller"] == "epoll"
    assert len(pd.read_parquet(written["parquet"])) == len(dashboard.data())


def test_another_thing_than_a_server_is_refused() -> None:
    """With the name of what returns one."""
    with pytest.raises(TypeError, match="start_server"):
        widgets.dashboard("http://127.0.0.1")  # type: ignore[arg-type]


def test_nothing_is_left_when_the_interpreter_ends() -> None:
    """A kernel that shuts down with a dashboard at work ends quietly, and so do its children."""
    code = """
import os, time
from epolllab import kernel, widgets
dashboard = widgets.dashboard()
dashboard.buttons["start"].click()
dashboard.buttons["fire"].click()
dashboard._view_count = 1
deadline = time.monotonic() + 30
while not dashboard.live.numbers[-1].requests and time.monotonic() < deadline:
    time.sleep(0.01)
print(dashboard.live.numbers[-1].requests > 0, *kernel.children())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    asked, *children = done.stdout.split()
    assert asked == "True"
    assert children
    until(lambda: not any(Path("/proc", pid).exists() for pid in children), "the children's end")


# ---- explorers -------------------------------------------------------------------------


def test_a_phenomenon_happens_at_once_and_again_when_chosen(
    opened: Callable[[Any], Any], tmp_path: Path
) -> None:
    """Card, picture and export are of the one that was chosen last."""
    explorer = opened(widgets.explore("edge-goes-silent"))
    assert explorer.outcome.holds
    assert "edge-goes-silent" in explorer._card.value
    first = explorer._image.value
    assert re.findall(r"class='epl-(\w+)'", first) == ["light", "dark"]
    for picture in re.findall(r"base64,([^']*)'", first):
        assert base64.b64decode(picture).startswith(b"\x89PNG")
    explorer._choice.value = "level-repeats"
    assert explorer.outcome.name == "level-repeats"
    assert explorer._image.value != first
    assert "level-repeats" in repr(explorer)
    written = explorer.export("it", folder=tmp_path)
    words = json.loads(written["json"].read_text())
    assert words["parameters"] == {"phenomenon": "level-repeats", "verdict": "holds"}
    explorer._run_button.click()
    assert explorer.error == ""


def test_an_unknown_phenomenon_is_refused_with_near_ones() -> None:
    """Before a widget is made."""
    with pytest.raises(ValueError, match="edge-goes-silent"):
        widgets.explore("edge-goes-silence")


def scaling_frame(shares: tuple[float, ...] = (0.0, 1.0)) -> pd.DataFrame:
    rows = [
        (
            poller,
            api,
            n,
            max(round(share * n), 1),
            float(factor * n * (2 if api == "python" else 1)),
        )
        for poller, factor in (("epoll-level", 10), ("poll", 100))
        for api in ("raw", "python")
        for n in (10, 1000)
        for share in shares
    ]
    frame = pd.DataFrame(rows, columns=["poller", "api", "n_fds", "active", "wait_ns"])
    return frame.assign(warmup=False)


def test_sliders_show_medians_of_the_chosen_curves(
    opened: Callable[[Any], Any], tmp_path: Path
) -> None:
    """Size, share, axes and calls each change what is drawn, and the table says it."""
    sliders = opened(widgets.scaling(scaling_frame()))
    c = sliders.controls
    assert c["n_fds"].options == (10, 1000)
    assert c["ready"].options == ("one", "all")
    assert "10.00" in sliders._table.value or ">10<" in sliders._table.value
    before = sliders._chart.value
    c["axes"].value = "linear"
    assert sliders._chart.value != before
    c["api"].value = "python"
    assert sliders.data()["wait_ns"].tolist() == [200.0, 20_000.0, 2000.0, 200_000.0]
    c["n_fds"].value = 10
    assert "10 watched" in sliders._table.value
    assert "poll" in sliders.text()
    written = sliders.export("it", folder=tmp_path)
    assert written["png"].exists()
    assert sliders.error == ""


def test_sliders_over_our_own_runs_and_yours(opened: Callable[[Any], Any]) -> None:
    """By name, by file, or measured here; and what is none of them is refused."""
    sliders = opened(widgets.scaling("scaling-sweep"))
    assert len(sliders.controls["ready"].options) == 1
    assert 'class="s-edge"' in sliders._chart.value
    assert sliders.circumstances()["kernel"]
    path = epolllab.reference("scaling-crossover")
    assert isinstance(opened(widgets.scaling(path))._data, Result)
    with pytest.raises(FileNotFoundError, match="scaling-sweep"):
        widgets.scaling("scaling-swoop")
    with pytest.raises(ValueError, match="no wait_ns"):
        widgets.scaling(pd.DataFrame({"poller": ["x"], "api": [""], "n_fds": [1], "active": [1]}))
    with pytest.raises(TypeError, match="sweep"):
        widgets.scaling(3)  # type: ignore[arg-type]


def test_a_map_is_measured_here(opened: Callable[[Any], Any]) -> None:
    """What the button does, with less of it: in a thread; the controls keep what they can."""
    sliders = opened(widgets.scaling(scaling_frame()))
    sliders.controls["api"].value = "python"
    sliders.measure(n_fds=(3, 30), ops=2, rounds=1)
    until(lambda: not sliders._measuring.is_alive(), "the end of measuring")
    assert sliders.error == ""
    assert not sliders._measure_button.disabled
    assert "measured here" in sliders._source.value
    assert sliders.controls["api"].value == "python"
    assert isinstance(sliders._data, Result)
    assert sliders.curves.sizes == [3, 30]
    sliders.measure(n_fds=())
    until(lambda: not sliders._measuring.is_alive(), "the end of measuring")
    assert "epl-alarm" in sliders.error


def test_curves_name_shares_and_keep_arms_apart() -> None:
    """One of all, a share, all: in this order; a single count is a number."""
    curves = Curves(scaling_frame((0.0, 0.1, 1.0)))
    assert curves.shares == ["one", "10%", "all"]
    assert curves.sizes == [10, 1000]
    assert curves.apis == ["raw", "python"]
    table = curves.at(1000, "all", "raw")
    assert table["poller"].tolist() == ["epoll-level", "poll"]
    assert table["times_epoll"].tolist() == [1.0, 10.0]
    assert Curves(scaling_frame((0.0,))).shares == ["1"]
    with pytest.raises(ValueError, match="no measurements"):
        Curves(scaling_frame().assign(warmup=True))


@pytest.mark.parametrize("log", [True, False])
def test_axes_place_their_ticks_within(log: bool) -> None:
    """From 0 to 1, in order, and every value too."""
    axis = Axis([3, 40, 5000], log=log)
    places = [axis.place(tick) for tick in axis.ticks()]
    assert places == sorted(places)
    assert len(places) >= 3
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert all(0 <= axis.place(value) <= 1 for value in (3, 40, 5000))
    assert Axis([10, 10], log=log).place(10) == pytest.approx(0 if log else 1 / 1.04)


# ---- pictures --------------------------------------------------------------------------


def test_the_timeline_has_a_lane_for_each_of_the_last_connections() -> None:
    """Nothing but whole numbers, and one path for each colour."""
    text = svg.timeline(served(30, 40).array(), window_ns=10**8, lanes=4)
    assert text.count("<text") - len(svg._MEANINGS) == 1 + 4 + 2
    assert re.findall(r'd="([^"]*)"', text)
    assert all(re.fullmatch(r"[Mhvlz0-9 -]*", d) for d in re.findall(r' d="([^"]*)"', text))
    drawn = text[: text.index("<text")]
    classes = re.findall(r'class="([^"]*)"', drawn)
    assert len(classes) == len(set(classes))
    assert "no events yet" in svg.timeline(Recording(b"").array(), window_ns=10**8)


def test_a_call_that_would_block_is_in_the_colour_of_alarm() -> None:
    """And ready rows are marks, not bars."""
    script = Script().wait(1).ready(1).recv(1, 10).recv_blocked(1)
    text = svg.timeline(script.recording().array(), window_ns=10**6)
    drawn = text[: text.index("<text")]
    assert set(re.findall(r'class="([^"]*)"', drawn)) == {"f-wait", "f-recv", "f-alarm", "ink"}


def test_sparklines_leave_out_what_is_not_known() -> None:
    """NaN is a gap and not a number; nothing at all is an empty picture."""
    text = svg.sparkline({"main": [float("nan"), 1.0, 2.0]}, title="x")
    assert "nan" not in text
    assert re.search(r'points="120,\d+ 240,\d+"', text)
    assert 'points=""' in svg.sparkline({"main": []}, title="x")


def test_the_style_sheet_follows_the_theme() -> None:
    """Every colour is a variable with a light and a dark value; text is JupyterLab's own."""
    text = svg.css()
    for name, color in epolllab.plots.style.LIGHT.arms.items():
        assert f"--epl-{name}:{color}" in text
        assert f"--epl-{name}:{epolllab.plots.style.DARK.arms[name]}" in text
    assert "[data-jp-theme-light='false'] .epl{" in text
    assert "var(--jp-ui-font-color1" in text


@pytest.mark.parametrize("draw", [pictures.history, pictures.live, pictures.curves])
def test_pictures_of_nothing_are_labelled(draw: Callable[..., Any]) -> None:
    """By the contract of every picture of this package."""
    columns = [*Live().frame().columns, "step", "readable", "level", "edge", "action"]
    ax = draw(pd.DataFrame(columns=columns), ax=Figure().add_subplot(), note="why")
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_the_history_picture_shows_who_returned() -> None:
    """A full mark for each return, a hollow one for each silence, a bar for the bytes."""
    with Steps() as steps:
        steps.peer_writes(100)
        steps.wait()
        steps.wait()
        ax = pictures.history(steps.history(), ax=Figure().add_subplot())
    marks = {part.get_gid(): len(part.get_offsets()) for part in ax.collections}
    assert marks == {
        "level returned": 2, "level silent": 0, "edge returned": 1, "edge silent": 1,
    }  # fmt: skip
    assert [bar.get_height() for bar in ax.patches] == [0, 100, 100, 100]


# ---- the house -------------------------------------------------------------------------


def test_models_know_no_widget() -> None:
    """What computes can be tested and used without ipywidgets."""
    folder = Path(svg.__file__).parent
    for name in ("steps", "live", "load", "ticker", "svg", "curves", "pictures"):
        tree = ast.parse((folder / f"{name}.py").read_text())
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert "ipywidgets" not in imported, name
        assert "epolllab.widgets.panel" not in imported, name


def test_a_panel_is_gone_for_the_collector_once_closed() -> None:
    """A closed one is held by nothing, so its server handle goes, too."""
    panel = Panel("empty", [])
    gone = weakref.ref(panel)
    panel.close()
    del panel
    import gc

    gc.collect()
    assert gone() is None
