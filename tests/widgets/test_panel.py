"""What all panels share: errors, export, ticking, the detection of pages, and closing."""

import gc
import json
import re
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from epolllab import widgets
from epolllab.widgets import panel as panel_module
from epolllab.widgets import svg
from epolllab.widgets.panel import Panel, descendants, error_html
from epolllab.widgets.ticker import Ticker
from tests.widgets.conftest import Opened
from tests.widgets.tools import PATIENCE_S, Front, set_views, until


@pytest.mark.parametrize("name", ["steps", "live", "load", "ticker", "svg", "curves"])
def test_models_know_no_widgets(name: str) -> None:
    """What computes can be used without ipywidgets."""
    text = Path(svg.__file__).with_name(f"{name}.py").read_text()
    assert not re.search(r"import ipywidgets|epolllab\.widgets\.panel", text)


def test_closed_panel_is_garbage() -> None:
    """Nothing refers to it any more, so a server's handle goes with it."""
    panel = Panel("empty")
    panel.arrange([])
    gone = weakref.ref(panel)
    panel.close()
    del panel
    gc.collect()
    assert gone() is None


def test_every_control_has_a_class_of_its_own_and_every_button_a_hint(opened: Opened) -> None:
    """The browser tests find controls by class."""
    for panel in (opened(widgets.stepper()), opened(widgets.dashboard())):
        inside = descendants(panel)
        buttons = [w for w in inside if type(w).__name__ == "Button"]
        assert all(w.tooltip for w in buttons)
        inputs = [w for w in inside if hasattr(w, "value") and type(w).__name__ != "HTML"]
        own = {w: [c for c in w.trait_values()["_dom_classes"] if c[:4] == "epl-"] for w in inside}
        assert all(own[widget] for widget in (*buttons, *inputs))
        names = [name for classes in own.values() for name in classes]
        assert len(names) == len(set(names))


# ---- errors ----------------------------------------------------------------------------


def test_error_in_a_callback_is_shown_with_its_traceback(stepper: widgets.Stepper) -> None:
    """The next press works and clears it."""

    def fail() -> None:
        raise ZeroDivisionError("in <angle brackets>")

    stepper.guarded(fail)()
    assert "epl-alarm" in stepper.error
    assert "ZeroDivisionError: in &lt;angle brackets&gt;" in stepper.error
    assert "Traceback" in stepper.error
    stepper.buttons["wait"].click()
    assert stepper.error == ""


def test_only_errors_of_this_package_are_shown_without_traceback(stepper: widgets.Stepper) -> None:
    """The package's folder decides, not the word "epolllab" in a path."""
    stepper.guarded(lambda: stepper.steps.modify("nonsense"))()
    assert "nonsense" in stepper.error
    assert "Traceback" not in stepper.error
    scope: dict[str, type] = {}
    code = "def fail(): raise ValueError('of another package')"
    exec(compile(code, "/srv/epolllab/venv/site-packages/other.py", "exec"), scope)
    stepper.guarded(scope["fail"])()
    assert "of another package" in stepper.error
    assert "Traceback" in stepper.error


def test_error_html_puts_the_last_line_first_and_escapes() -> None:
    """A reader looks for the end of a traceback first."""
    text = error_html("Traceback (most recent call last):\n  File <x>\nKeyError: 'y'")
    assert text.index("KeyError") < text.index("Traceback")
    assert "<x>" not in text
    assert error_html("just <so>") == "<div class='epl-alarm'>just &lt;so&gt;</div>"


# ---- text and export -------------------------------------------------------------------


def test_panels_are_text_where_there_are_no_widgets(opened: Opened) -> None:
    """A terminal or a static page shows the numbers."""
    stepper = opened(widgets.stepper())
    stepper.buttons["peer_writes"].click()
    bundle = stepper._repr_mimebundle_()
    assert bundle["text/plain"] == repr(stepper) == stepper.text()
    assert "peer writes 2,000" in bundle["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "none; start_server() starts one" in repr(opened(widgets.dashboard()))


def test_export_button_never_overwrites(
    stepper: widgets.Stepper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second press with the same name takes the next one, and the first files stay."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "exports"
    stepper.buttons["peer_writes"].click()
    assert press_export(stepper, "mine") == "mine"
    assert sorted(p.name for p in folder.iterdir()) == [
        "mine.json", "mine.parquet", "mine.png", "mine.svg",
    ]  # fmt: skip
    assert str(folder) in stepper.displays["export_result"].value
    assert pd.read_parquet(folder / "mine.parquet")["readable"].tolist() == [0, 2000]
    before = (folder / "mine.png").read_bytes()
    stepper.buttons["wait"].click()
    (folder / "mine-2.svg").touch()  # one file is enough to make a name taken
    assert press_export(stepper, "mine") == "mine-3"
    assert (folder / "mine.png").read_bytes() == before
    assert json.loads((folder / "mine-3.json").read_text())["name"] == "mine-3"


def test_export_button_offers_names_with_the_time(
    stepper: widgets.Stepper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offered name changes with each press, and two of one second do not collide."""
    monkeypatch.chdir(tmp_path)
    assert re.fullmatch(r"stepper-\d{8}-\d{6}", stepper.export_name.value)
    monkeypatch.setattr(panel_module.time, "strftime", lambda form: f"{form[:7]}-at-noon")
    first = stepper.export_name.value
    assert [press_export(stepper) for _ in range(3)] == [
        first, "stepper-at-noon", "stepper-at-noon-2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "../out", "/tmp/out", ".hidden", "a b", "ä", "x" * 91])
def test_export_under_an_impossible_name_is_refused_beside_the_button(
    name: str, stepper: widgets.Stepper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words of the page, which has no arguments; the next press clears it."""
    monkeypatch.chdir(tmp_path)
    press_export(stepper, name)
    shown = stepper.displays["export_result"].value
    assert "epl-alarm" in shown
    assert not re.search("Traceback|overwrite|folder=", shown)
    assert stepper.error == ""
    assert list(tmp_path.iterdir()) == []
    assert press_export(stepper, "x" * 90) == "x" * 90
    assert "epl-alarm" not in stepper.displays["export_result"].value


def test_export_where_the_folder_is_a_file_says_so_beside_the_button(
    stepper: widgets.Stepper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the folder, in words of the page."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "exports").touch()
    press_export(stepper)
    shown = stepper.displays["export_result"].value
    assert f"Nothing was written: {tmp_path / 'data' / 'exports'}: File exists" in shown
    assert not re.search("Traceback|overwrite|folder=", shown)


def press_export(panel: Panel, name: str | None = None) -> str:
    """Press the button, with a name; return the name of the files written."""
    if name is not None:
        panel.export_name.value = name
    panel.exported = {}
    panel.buttons["export"].click()
    return panel.exported["json"].stem if panel.exported else ""


def test_export_into_a_read_only_folder_names_the_folder(stepper: widgets.Stepper) -> None:
    """The error is one line."""
    if not Path("/sys/kernel").is_dir():
        pytest.skip("needs Linux's /sys")
    stepper.guarded(lambda: stepper.export("it", folder="/sys/kernel"))()
    assert "/sys/kernel" in stepper.error
    assert "Traceback" not in stepper.error


# ---- the ticker ------------------------------------------------------------------------


def test_ticker_ticks_until_it_is_stopped(opened: Opened) -> None:
    """Its thread has ended when stop() returns, and it can be started again."""
    ticker = opened(Ticker(lambda: None, pytest.fail, interval=0.01))
    assert not ticker.running
    ticker.start()
    ticker.start()
    until(lambda: ticker.n_ticks >= 3)
    assert [t.name for t in threading.enumerate()].count("epolllab-ticker") == 1
    ticker.stop()
    assert not ticker.running
    assert "epolllab-ticker" not in [t.name for t in threading.enumerate()]
    ticker.start()
    before = ticker.n_ticks
    until(lambda: ticker.n_ticks > before)
    ticker.stop()
    ticker.stop()


def test_ticker_reports_a_repeated_error_once_and_continues(opened: Opened) -> None:
    """A display that fails does not report that ten times a second."""
    reported: list[str] = []

    def fail() -> None:
        raise RuntimeError("in the tick")

    ticker = opened(Ticker(fail, reported.append, interval=0.01))
    ticker.start()
    until(lambda: ticker.n_ticks >= 5)
    ticker.stop()
    assert len(reported) == 1
    assert "in the tick" in reported[0]


def test_cost_of_a_ticker_is_cpu_time_over_wall_time(opened: Opened) -> None:
    """It is unknown before there are ticks."""

    def burn() -> None:
        end = time.thread_time_ns() + 10_000_000
        while time.thread_time_ns() < end:
            pass

    ticker = opened(Ticker(burn, pytest.fail, interval=0.02))
    assert np.isnan(ticker.cost)
    ticker.start()
    until(lambda: ticker.n_ticks >= 10)
    ticker.stop()
    assert 0 < ticker.cost <= 1.05


def test_ticker_can_be_stopped_by_its_own_tick(opened: Opened) -> None:
    """It does not wait for its own thread."""
    ticker = opened(Ticker(lambda: ticker.stop(), pytest.fail, interval=0.01))
    ticker.start()
    until(lambda: not ticker.running)


# ---- whether a page shows a panel ------------------------------------------------------


def test_panel_ticks_while_it_has_views(dashboard: widgets.Dashboard) -> None:
    """The front end counts views; the thread ends with the last one."""
    cost = dashboard.displays["cost"]
    assert not dashboard.ticking
    assert "not ticking" in cost.value
    set_views(dashboard, 1)
    until(lambda: "this display costs" in cost.value)
    assert dashboard.ticking
    set_views(dashboard, 2)
    set_views(dashboard, 0)
    assert not dashboard.ticking
    set_views(dashboard, 1)
    assert dashboard.ticking
    dashboard.close()
    assert not dashboard.ticking
    dashboard.close()


def test_ticking_stops_without_heartbeats_and_resumes(
    dashboard: widgets.Dashboard,
) -> None:
    """A closed tab reports nothing; one that was suspended sends heartbeats again."""
    cost = dashboard.displays["cost"]
    front = Front(dashboard)
    front.open()
    assert front.heartbeat.playing
    assert front.heartbeat in dashboard.children
    assert front.heartbeat.layout.display == "none"
    front.beat()
    until(lambda: "this display costs" in cost.value)
    dashboard.presence.timeout = 0.1
    until(lambda: not dashboard.ticking)
    until(lambda: "not ticking" in cost.value)
    dashboard.presence.timeout = PATIENCE_S
    front.beat()
    assert dashboard.ticking


def test_no_timeout_before_the_first_heartbeat_or_while_a_cell_runs(
    dashboard: widgets.Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may be slow to start, and a busy kernel reads no messages."""
    front, ticker = Front(dashboard, timeout=0.0), dashboard.ticker
    front.open()
    until(lambda: ticker.n_ticks >= 3)
    monkeypatch.setattr("epolllab.notebook.cells.is_cell_running", lambda: True)
    front.beat()
    before = ticker.n_ticks
    until(lambda: ticker.n_ticks >= before + 3)
    monkeypatch.setattr("epolllab.notebook.cells.is_cell_running", lambda: False)
    until(lambda: not dashboard.ticking)


def test_page_closed_before_its_first_heartbeat_stops_the_ticking(
    dashboard: widgets.Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view count alone counts for a minute."""
    monkeypatch.setattr("epolllab.widgets.presence.FIRST_TIMEOUT_S", 0.1)
    dashboard.presence.timeout = 0.0
    set_views(dashboard, 1)
    until(lambda: dashboard.ticker.n_ticks)
    until(lambda: not dashboard.ticking)


def test_views_counted_for_a_closed_tab_do_not_keep_the_panel_ticking(
    dashboard: widgets.Dashboard,
) -> None:
    """A reloaded page turns one view into two; when its own view goes, no page is left."""
    front = Front(dashboard)
    front.open()
    front.beat()
    closed_tab = front.heartbeat
    front.open()
    assert front.views == 2
    assert front.heartbeat is not closed_tab
    assert closed_tab not in dashboard.children
    assert not closed_tab.playing
    set_views(closed_tab, 0)
    assert dashboard.ticking
    front.hide()
    assert not dashboard.ticking
    closed_tab.value += 1
    assert not dashboard.ticking
    front.open()
    assert dashboard.ticking
    set_views(dashboard, front.views - 1)  # of the panel, which replaces the heartbeat
    assert not dashboard.ticking
    set_views(front.heartbeat, 1)  # another page's view of the panel was left
    assert dashboard.ticking


def test_heartbeat_widgets_of_earlier_pages_are_closed(dashboard: widgets.Dashboard) -> None:
    """A few of the last stay open for late messages; closing the panel closes all."""
    front = Front(dashboard)
    heartbeats = []
    for _ in range(20):
        front.open()
        heartbeats.append(front.heartbeat)
    assert [one.comm is not None for one in heartbeats] == [False] * 11 + [True] * 9
    dashboard.close()
    assert [one.comm for one in heartbeats] == [None] * 20
    assert len({one.style for one in heartbeats}) == 1
    assert (heartbeats[0].style.comm, heartbeats[0].layout.comm) == (None, None)
