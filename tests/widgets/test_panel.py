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
from epolllab.plots import style
from epolllab.widgets import panel as panel_module
from epolllab.widgets import svg
from epolllab.widgets.panel import Panel, descendants, error_html
from epolllab.widgets.ticker import Ticker
from tests.widgets.conftest import Opened
from tests.widgets.tools import PATIENCE_S, Front, until


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


def test_panel_ticks_while_a_view_is_shown(dashboard: widgets.Dashboard) -> None:
    """Hidden, scrolled out of view and closed are alike to the ticker."""
    cost = dashboard.displays["cost"]
    front = Front(dashboard)
    assert not dashboard.ticking
    assert "not ticking" in cost.value
    for state in ("hidden", "out of view", "closed"):
        front.say("shown")
        until(lambda: "this display costs" in cost.value)
        assert dashboard.ticking
        front.say(state)
        assert not dashboard.ticking
        dashboard.tick()
        assert "not ticking" in cost.value
    front.say("shown")
    dashboard.close()
    assert not dashboard.ticking
    front.panel.presence.receive(None, {"view": "one", "state": "shown"})
    assert not dashboard.ticking
    dashboard.close()


def test_two_tabs_share_one_thread(dashboard: widgets.Dashboard) -> None:
    """It ends when neither shows the panel."""
    front = Front(dashboard)
    front.say("shown", "one")
    front.say("shown", "two")
    assert dashboard.presence.views == {"one": "shown", "two": "shown"}
    assert [t.name for t in threading.enumerate()].count("epolllab-ticker") == 1
    front.say("closed", "one")
    assert dashboard.ticking
    front.say("hidden", "two")
    assert not dashboard.ticking
    assert dashboard.presence.views == {"two": "hidden"}


def test_view_that_falls_silent_has_gone(dashboard: widgets.Dashboard) -> None:
    """A page that is killed says nothing; one that was suspended is heard of again."""
    front = Front(dashboard)
    front.say("shown")
    until(lambda: dashboard.ticker.n_ticks >= 2)
    front.set_patience(0.0)
    until(lambda: not dashboard.ticking)
    assert dashboard.presence.views == {}
    front.set_patience(PATIENCE_S)
    front.say("shown")
    assert dashboard.ticking


def test_hidden_view_may_be_silent_for_minutes(dashboard: widgets.Dashboard) -> None:
    """A browser slows the timers of a hidden tab to one a minute."""
    patience = dashboard.presence.patience
    assert patience["hidden"] > 2 * 60
    assert patience["shown"] < 60
    dashboard.presence.patience = {**patience, "shown": 0.0}
    front = Front(dashboard)
    dashboard.presence.patience = {**patience, "shown": 0.0}
    front.say("hidden")
    front.say("shown", "two")  # and silent at once
    dashboard.presence.check()
    assert dashboard.presence.views == {"one": "hidden"}


def test_a_running_cell_is_no_silence(
    dashboard: widgets.Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy kernel reads no messages."""
    monkeypatch.setattr("epolllab.notebook.cells.is_cell_running", lambda: True)
    front = Front(dashboard, patience=0.05)
    front.say("shown")
    before = dashboard.ticker.n_ticks
    until(lambda: dashboard.ticker.n_ticks >= before + 5)
    assert dashboard.ticking
    monkeypatch.setattr("epolllab.notebook.cells.is_cell_running", lambda: False)
    until(lambda: not dashboard.ticking)


@pytest.mark.parametrize(
    "content",
    [{}, {"state": "shown"}, {"view": 5, "state": "shown"}, {"view": "x", "state": "nonsense"},
     {"view": "x", "state": ["shown"]}],
)  # fmt: skip
def test_messages_that_no_view_sends_are_ignored(
    content: dict[str, object], dashboard: widgets.Dashboard
) -> None:
    """They cannot make the panel tick or fail."""
    dashboard.timeline._handle_custom_msg(content, [])
    assert dashboard.presence.views == {}
    assert not dashboard.ticking


def test_views_report_the_theme_of_their_page(dashboard: widgets.Dashboard) -> None:
    """Charts that are drawn from then on follow it."""
    front = Front(dashboard)
    for theme in ("dark", "light"):
        front.say("hidden", theme=theme)
        assert style.current().name == theme
    front.say("hidden", theme="nonsense")
    assert style.current().name == "light"
