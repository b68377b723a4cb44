"""The inputs of the panels: names, tooltips, marks; and how the dashboard warns of a rate."""

import re
import time
from typing import Any

import pytest

import epolllab
from epolllab import start_server, widgets
from epolllab.kernel.facilities import NotPossible
from epolllab.widgets import inputs, load, readout
from epolllab.widgets.live import Sample
from epolllab.widgets.load import LoadOptions, RateCheck
from epolllab.widgets.panel import Panel, descendants
from tests.widgets.conftest import Opened


def marked(dashboard: widgets.Dashboard) -> set[str]:
    """The inputs that carry the mark."""
    classes = {n: c.trait_values()["_dom_classes"] for n, c in dashboard.controls.items()}
    return {name for name, own in classes.items() if "epl-pending" in own}


@pytest.mark.parametrize("make", [widgets.stepper, widgets.dashboard, widgets.scaling])
def test_every_input_has_a_name_and_a_tooltip(make: Any, opened: Opened) -> None:
    """They reach the element that has the keyboard, also where no label is shown."""
    panel: Panel = opened(make())
    found = panel.attributes.attributes
    kinds = ("Dropdown", "BoundedIntText", "Text", "Checkbox", "IntSlider", "SelectionSlider")
    fields = [w for w in descendants(panel) if type(w).__name__ in (*kinds, "ToggleButtons")]
    assert len(fields) == len(panel.controls) + 1  # the name of the export
    for control in fields:
        own = next(c for c in control.trait_values()["_dom_classes"] if c.startswith("epl-"))
        mine = {s: a for s, a in found.items() if s.startswith(f".{own}:")}
        names = {
            attributes["aria-label"] for attributes in mine.values() if "aria-label" in attributes
        }
        assert names
        assert all(names)
        assert control.tooltip in {attributes.get("title") for attributes in mine.values()}
        assert len(control.tooltip) > 20


def test_sentences_that_change_are_live_regions(
    stepper: widgets.Stepper, dashboard: widgets.Dashboard
) -> None:
    """A screen reader reads the stepper's explanation, the server's state and errors."""
    for panel, name, role in (
        (stepper, "why", "status"), (stepper, "error", "alert"), (dashboard, "state", "status"),
        (dashboard, "server-note", "status"),
    ):  # fmt: skip
        found = panel.attributes.attributes[f".epl-{name}:not(.epl-{name} *)"]
        assert found["role"] == role


# ---- io_uring --------------------------------------------------------------------------


@pytest.fixture
def refusal() -> Any:
    """Ask the kernel again before and after a test that replaces its answer."""
    inputs._ring_refusal.cache_clear()
    yield
    inputs._ring_refusal.cache_clear()


def test_io_uring_is_offered_and_disables_what_it_has_no_use_for(
    monkeypatch: pytest.MonkeyPatch, refusal: Any, opened: Opened
) -> None:
    """Their tooltips say why, and they are not passed to start_server()."""
    monkeypatch.setattr(inputs, "require_uring", lambda: None)
    dashboard = opened(widgets.dashboard())
    c = dashboard.controls
    assert c["poller"].options == ("epoll", "poll", "select", "io_uring")
    c["trigger"].value = "edge"
    c["poller"].value = "io_uring"
    for name in ("trigger", "lifecycle", "drain"):
        assert c[name].disabled
        assert "no meaning with io_uring" in c[name].tooltip
        shown = dashboard.attributes.attributes[f".epl-{name}:not(.epl-{name} *) select"]
        assert shown["title"] == c[name].tooltip
    assert dashboard._server_inputs.options() == {
        "poller": "io_uring", "protocol": "http", "recv_size": 16_384, "process": True,
    }  # fmt: skip
    assert not {"trigger", "lifecycle", "drain", "rate"} & set(dashboard.parameters())
    c["poller"].value = "epoll"
    assert not c["trigger"].disabled
    assert "io_uring" not in c["trigger"].tooltip
    assert dashboard._server_inputs.options()["trigger"] == "edge"


def test_io_uring_is_not_offered_where_the_kernel_refuses_it(
    monkeypatch: pytest.MonkeyPatch, refusal: Any, opened: Opened
) -> None:
    """The tooltip of the list says why."""

    def refuse() -> None:
        raise NotPossible(1, "io_uring is disabled here")

    monkeypatch.setattr(inputs, "require_uring", refuse)
    poller = opened(widgets.dashboard()).controls["poller"]
    assert poller.options == ("epoll", "poll", "select")
    assert "io_uring is not offered: io_uring is disabled here" in poller.tooltip


@pytest.mark.processes
def test_server_with_io_uring_by_the_button(dashboard: widgets.Dashboard) -> None:
    """Its interest list says what is pending."""
    if "io_uring" not in dashboard.controls["poller"].options:
        pytest.skip(dashboard.controls["poller"].tooltip)
    dashboard.controls["poller"].value = "io_uring"
    dashboard.buttons["start_server"].click()
    assert dashboard.error == ""
    assert dashboard.live.server.options.poller == "io_uring"
    assert "what is pending" in dashboard.displays["interest"].value
    with start_server(poller="io_uring") as server:
        other = widgets.dashboard(server)
        assert other.controls["poller"].value == "io_uring"
        assert other.controls["trigger"].disabled
        other.close()


# ---- options that wait -----------------------------------------------------------------


@pytest.mark.processes
def test_changed_options_are_marked_until_the_next_start(dashboard: widgets.Dashboard) -> None:
    """A note names them; putting a value back removes its mark, and so does a stop."""
    c, note = dashboard.controls, dashboard.displays["server_note"]
    c["recv_size"].value = 256
    assert marked(dashboard) == set()  # nothing runs that has another value
    dashboard.buttons["start_server"].click()
    c["trigger"].value, c["recv_size"].value = "edge", 16
    assert marked(dashboard) == {"trigger", "recv_size"}
    assert "used from the next Start server: trigger, recv size" in note.value
    c["trigger"].value = "level"
    assert marked(dashboard) == {"recv_size"}
    dashboard.buttons["start_server"].click()
    assert (marked(dashboard), note.value) == (set(), "")
    assert dashboard.live.server.options.recv_size == 16

    c["connections"].value = 3
    assert marked(dashboard) == set()
    dashboard.buttons["start_clients"].click()
    c["connections"].value, c["trigger"].value = 4, "edge"
    assert marked(dashboard) == {"connections", "trigger"}
    assert "Start clients: connections" in dashboard.displays["clients_note"].value
    dashboard.buttons["stop_server"].click()
    dashboard.load.join()
    dashboard.tick()
    assert marked(dashboard) == set()


@pytest.mark.threads
def test_options_of_a_server_passed_in_are_those_in_use(opened: Opened) -> None:
    """Nothing is marked at first, also where the list does not offer the server's value."""
    with start_server(protocol=epolllab.Session, recv_size=100) as server:
        dashboard = opened(widgets.dashboard(server))
        assert marked(dashboard) == set()
        dashboard.controls["poller"].value = "poll"
        assert marked(dashboard) == {"poller"}


# ---- numbers ---------------------------------------------------------------------------


@pytest.mark.processes
def test_numbers_stay_in_grey_after_a_stop(dashboard: widgets.Dashboard) -> None:
    """So do the curves, and the data of an export."""
    dashboard.buttons["start_server"].click()
    epolllab.run_clients(dashboard.live.server, requests=30, progress=False)
    dashboard.live.server.settle()
    dashboard.tick()
    shown = dashboard.displays
    before = shown["numbers"].value
    assert "<b>30</b>" in before
    assert "epl-stale" not in before + shown["curves"].value
    dashboard.buttons["stop_server"].click()
    for _ in range(3):
        dashboard.tick()
    assert shown["numbers"].value == before.replace("epl-figures", "epl-figures epl-stale")
    assert "epl-stale" in shown["curves"].value
    frame = dashboard.data()
    assert frame["requests"].tolist()[-2:] == [30, 0]
    assert "30" in dashboard.text()
    assert "nan" not in "".join(display.value for display in shown.values()).lower()


def test_displays_keep_their_height_without_a_server() -> None:
    """The interest list has as many rows with a server as without one."""
    with start_server() as server:
        full = readout.interest(server.interest(), "epoll")
    empty = readout.no_interest()
    assert full.count("<tr>") == empty.count("<tr>") == readout.ROWS_SHOWN + 1


def test_sparklines_say_what_they_show() -> None:
    """The newest, the least and the largest value, in a sentence; none is "unknown"."""
    samples = [Sample(0.1, requests_per_s=rate, batch=1.5) for rate in (float("nan"), 20, 1234, 50)]
    labels = re.findall('role="img" aria-label="([^"]*)"', readout.curves(samples, stale=False))
    assert labels == [
        "requests/s now 50, between 20 and 1,234; wakeups/s unknown.",
        "descriptors per wakeup now 1.5, between 1.5 and 1.5.",
        "latency p50 unknown; p99 unknown.",
    ]


# ---- an unreachable rate ---------------------------------------------------------------


def see(check: RateCheck, *readings: tuple[float, int]) -> str:
    """Give readings of the time and the server's requests; return the warning."""
    for t_s, requests in readings:
        check.see(t_s, requests)
    return check.warning


def test_unreachable_rate_is_said_half_a_second_after_the_first_request() -> None:
    """Requests of earlier clients do not count, and a reached rate gives no warning."""
    assert see(RateCheck(1000), (0.0, 70), (0.3, 70), (0.4, 100), (0.7, 220)) == ""
    warning = see(RateCheck(1000), (0.0, 70), (0.3, 70), (0.4, 100), (0.7, 220), (0.8, 260))
    assert "reaches 400 of 1,000 requests/s" in warning
    assert see(RateCheck(1000), (0.0, 70), (0.4, 100), (0.9, 595), (1.9, 600)) == ""


def test_few_requests_of_a_low_rate_are_no_sign() -> None:
    """They arrive at random times."""
    assert see(RateCheck(5), (0.0, 0), (0.2, 1), (0.7, 1)) == ""


def test_server_that_sends_no_response_is_said_within_a_second() -> None:
    """The warning disappears with the first one; a reading that failed is ignored."""
    check = RateCheck(100)
    assert see(check, (0.0, 9), (0.5, 9), (0.95, 9)) == "no response yet"
    assert see(check, (1.0, 0), (1.1, 20)) == ""
    assert see(check, (1.3, 0), (1.6, 70)) == ""


@pytest.mark.processes
def test_rounds_of_an_unreachable_rate_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has a quarter of a second's requests, and later ones what the server reached."""
    monkeypatch.setattr(load, "ROUND_S", 0.5)
    with start_server(protocol="http", handler=lambda _: time.sleep(0.001) or "slow\n") as server:
        run_round = LoadOptions(connections=2, rate=2000).rounds()
        first, second = run_round(server), run_round(server)
    assert len(first) == 500
    assert 100 <= len(second) <= 500  # the server reaches 1,000 a second at most
