"""The dashboard: start and stop a server and its clients, and watch the numbers."""

import math
import threading
import time
from contextlib import suppress
from functools import partial
from html import escape
from typing import Any

import ipywidgets as ipy
import pandas as pd
from matplotlib.axes import Axes

from epolllab.checks import check_instance, check_timeout, checked
from epolllab.notebook import cells
from epolllab.plots import widgets as charts
from epolllab.plots.canvas import check_axes
from epolllab.recording import environment
from epolllab.server.server import Server, ServerDied, start_server
from epolllab.widgets import svg
from epolllab.widgets.live import Live, Sample
from epolllab.widgets.load import (
    MAX_CONNECTIONS,
    MAX_PAYLOAD,
    MAX_RATE,
    Load,
    LoadOptions,
    run_slow_peers,
)
from epolllab.widgets.panel import Panel, error_html, integer, muted, row, select
from epolllab.widgets.ticker import INTERVAL_S

__all__ = ["Dashboard", "dashboard"]

ROWS_SHOWN = 8
_WINDOWS = {"1 ms": 10**6, "10 ms": 10**7, "100 ms": 10**8, "1 s": 10**9, "10 s": 10**10}
_DRAINS = {"trigger's default": None, "until EAGAIN": True, "once": False}
_RECV_SIZES = (1, 16, 256, 4_096, 16_384, 65_536)
_CURVES = (
    ((("requests_per_s", "requests/s", "main"), ("wakeups_per_s", "wakeups/s", "other")), ""),
    ((("batch", "descriptors per wakeup", "main"),), ""),
    ((("p50_us", "latency p50", "main"), ("p99_us", "p99", "send")), " µs"),
)
"""Column, label and colour of each curve of a sparkline, and the unit."""
_SERVER_OPTIONS = ("poller", "trigger", "lifecycle", "protocol", "recv_size", "process")


def _check_server(name: str, value: object) -> object:
    return check_instance(name, value, Server, "a Server, as start_server() returns it")


@checked(server=_check_server)
def dashboard(server: Server | None = None) -> "Dashboard":
    """Make a widget to start, load and stop a server by hand, with live numbers.

    Use it to change one setting at a time and see what that does to wakeups, batches and
    latency. It is redrawn ten times a second while a page shows it, and shows what the
    redrawing costs.

    Parameters
    ----------
    server : Server, optional
        The server to watch. Without it, the button "Start server" starts one, and closing
        the dashboard stops that one.

    Notes
    -----
    Several dashboards may show the same server. Each tick reads only the loop's counters and
    the newest 2,000 events. Clients run in processes of their own, in rounds of two seconds,
    and stop by themselves after a minute.

    A tab that is closed leaves nothing running: the display stops within seconds, the
    clients within a minute, and a server that the button started after five minutes in
    which no page showed the dashboard (``unseen_s``). A server passed in keeps running.
    """
    return Dashboard(server)


class Dashboard(Panel):
    """Made by :func:`dashboard`.

    Attributes
    ----------
    live : Live
        The model: samples, and the server they are of.
    load, slow : Load or None
        The clients, and the slow peers beside them.
    interest_interval_s : float
        Seconds between readings of the interest list; longer with over 200 connections.
    unseen_s : float
        Seconds without a page after which a server that the button started is stopped;
        infinity for never. A tab that was hidden for some minutes sends a heartbeat only
        once a minute, so a smaller value stops servers whose tab is open.
    unseen_timer : threading.Timer or None
        The timer that will stop the server, while no page shows the dashboard.
    """

    def __init__(self, server: Server | None = None) -> None:
        super().__init__("dashboard")
        self._tick_lock = threading.Lock()  # a button's thread ticks as well as the ticker's
        self._timer_lock = threading.Lock()
        self.live = Live(server)
        self.load: Load | None = None
        self.slow: Load | None = None
        self._own: Server | None = None
        self.interest_interval_s = 1.0
        self.unseen_s = 300.0
        self.unseen_timer: threading.Timer | None = None
        self._why_stopped = ""
        self._interest_read_s = -math.inf
        self._add_controls()
        self._arrange()
        if server is not None:
            self._show_options(server.options)
        self.tick_while_shown(self.tick)
        self.tick()

    # ---- controls -----------------------------------------------------------------

    def _add_controls(self) -> None:
        process = ipy.Checkbox(
            value=True, description="in its own process", indent=False,
            layout=ipy.Layout(width="190px"),
        )  # fmt: skip
        connections = ipy.IntSlider(
            20, 1, 200, description="connections", layout=ipy.Layout(width="340px"),
            style={"description_width": "95px"},
        )  # fmt: skip
        lifecycles = ("eager", "howto", "once", "oneshot")
        for name, control in {
            "poller": select("poller", ("epoll", "poll", "select"), "epoll", 180),
            "trigger": select("trigger", ("level", "edge"), "level", 180),
            "lifecycle": select("life cycle", lifecycles, "eager", 180),
            "protocol": select("protocol", ("http", "hello", "echo"), "http", 180),
            "drain": select("reads", list(_DRAINS), "trigger's default", 230),
            "recv_size": select("recv size", list(_RECV_SIZES), 16_384, 180),
            "process": process,
            "connections": connections,
            "loop": select("loop", ("closed", "open"), "closed", 180),
            "rate": integer("requests/s", 500, 1, MAX_RATE, 190),
            "payload": integer("payload bytes", 0, 0, MAX_PAYLOAD, 190),
            "slow_peers": integer("slow peers", 0, 0, MAX_CONNECTIONS, 190),
            "window": select("window", list(_WINDOWS), "10 ms", 180),
        }.items():
            self.add_control(name, control)
        self.controls["rate"].disabled = True
        self.controls["loop"].observe(self._loop_changed, "value")

    def _loop_changed(self, change: Any) -> None:
        self.controls["rate"].disabled = change["new"] == "closed"

    def _arrange(self) -> None:
        c, add = self.controls, self.add_button
        hint = "run clients with these options for at most a minute"
        server_row = row(
            ipy.HTML("<b>Server</b>"),
            add("start_server", "Start server", "start a server with these options",
                self.start_server, style="primary"),
            add("stop_server", "Stop server", "stop the server", self.stop_server),
            self.add_display("state"),
        )  # fmt: skip
        clients_row = row(
            ipy.HTML("<b>Clients</b>"),
            add("start_clients", "Start clients", hint, self.start_clients, style="primary"),
            add("stop_clients", "Stop clients", "stop the clients after their current round",
                self.stop_clients),
        )  # fmt: skip
        controls = (
            server_row,
            row(c["poller"], c["trigger"], c["lifecycle"], c["protocol"]),
            row(c["drain"], c["recv_size"], c["process"]),
            clients_row,
            row(c["connections"], c["loop"], c["rate"], c["payload"], c["slow_peers"]),
        )
        heading = ipy.HTML("<div class='epl-title'>The most recent connections</div>")
        displays = (
            *(self.add_display(name) for name in ("numbers", "curves", "clients")),
            row(heading, c["window"]),
            *(self.add_display(name) for name in ("timeline", "interest", "cost")),
        )
        self.arrange([ipy.VBox(controls)], [ipy.VBox(displays)])

    def _show_options(self, options: Any) -> None:
        """Set the controls to a server's options, where they offer these values."""
        for name in _SERVER_OPTIONS:
            control, value = self.controls[name], getattr(options, name)
            if name == "process" or value in control.options:
                control.value = value
        drain = next(label for label, value in _DRAINS.items() if value is options.drain)
        self.controls["drain"].value = drain

    # ---- what the buttons do ------------------------------------------------------

    def start_server(self) -> None:
        """Start a server as the controls say, and stop the one started before."""
        options: dict[str, Any] = {name: self.controls[name].value for name in _SERVER_OPTIONS}
        server = start_server(drain=_DRAINS[self.controls["drain"].value], **options)
        self._stop_own()
        self._own = server
        self._why_stopped = ""
        self.live.server = server
        self.tick()

    def stop_server(self) -> None:
        """Stop the server that is shown, also one passed in."""
        self.stop_clients()
        server = self.live.server
        if server is not None and server.is_running:
            server.stop()
        self.tick()

    def start_clients(self) -> None:
        """Run clients as the controls say."""
        server = self.live.server
        if server is None or not server.is_running:
            raise ValueError("no server is running; press Start server first")
        c = self.controls
        options = LoadOptions(
            connections=c["connections"].value,
            rate=c["rate"].value if c["loop"].value == "open" else None,
            payload=c["payload"].value,
            slow_peers=c["slow_peers"].value,
        )
        self.stop_clients()
        self.load = Load(server, options.run_round)
        if options.slow_peers:
            self.slow = Load(server, partial(run_slow_peers, peers=options.slow_peers))
        self.tick()

    def stop_clients(self) -> None:
        """Stop the clients after their current round."""
        for load in self._loads():
            load.stop()

    def _loads(self) -> list[Load]:
        return [load for load in (self.load, self.slow) if load is not None]

    def _stop_own(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            with suppress(ServerDied):  # its error is in the display
                own.stop()

    # ---- stopping the server when no page shows the dashboard ------------------------

    def _on_shown(self) -> None:
        self._replace_timer(None)
        super()._on_shown()

    def _on_hidden(self) -> None:
        super()._on_hidden()
        if self._runs_own and not self.closed:
            self._replace_timer(self._new_timer())

    @property
    def _runs_own(self) -> bool:
        return self._own is not None and self._own.is_running

    def _new_timer(self) -> threading.Timer | None:
        if not math.isfinite(self.unseen_s):
            return None
        timer = threading.Timer(self.unseen_s, self.guarded(self._stop_unseen))
        timer.name, timer.daemon = "epolllab-unseen", True
        return timer

    def _replace_timer(self, timer: threading.Timer | None) -> None:
        """Start a timer in place of the current one, which is cancelled."""
        with self._timer_lock:
            earlier, self.unseen_timer = self.unseen_timer, timer
            if timer is not None:
                timer.start()
        if earlier is not None:
            earlier.cancel()

    def _stop_unseen(self) -> None:
        """Stop the dashboard's own server, in the timer's thread."""
        # A page may have come while this thread waited for a button's action to end.
        if self.unseen_timer is not threading.current_thread() or not self._runs_own:
            return
        if cells.is_cell_running():  # the cell may use the server, and delays a page's heartbeats
            self._replace_timer(self._new_timer())
            return
        self._stop_own()
        self._why_stopped = f", since no page showed this for {self.unseen_s:g} s"
        self.tick()

    # ---- what is shown ------------------------------------------------------------

    @checked(seconds=check_timeout)
    def watch(self, seconds: float) -> pd.DataFrame:
        """Collect samples for some seconds, also without a page; see :meth:`Live.frame`."""
        end = time.monotonic() + seconds
        begin_s = self.live.now_s
        while time.monotonic() < end:
            if not self.ticking:
                self.tick()
            time.sleep(min(INTERVAL_S, max(end - time.monotonic(), 0)))
        frame = self.data()
        return frame[frame["t_s"] >= begin_s].reset_index(drop=True)

    def tick(self) -> None:
        """Read and show the numbers once; from any thread."""
        with self._tick_lock:
            self._tick()

    def _tick(self) -> None:
        sample, shown = self.live.tick(), self.displays
        window_ns = _WINDOWS[self.controls["window"].value]
        shown["state"].value = self._state()
        shown["numbers"].value = _numbers(sample)
        shown["curves"].value = _curves(list(self.live.samples))
        shown["clients"].value = self._clients()
        shown["timeline"].value = svg.timeline(self.live.tail.array(), window_ns=window_ns)
        now, factor = time.monotonic(), max(sample.connections / 200, 1.0)
        if now - self._interest_read_s >= self.interest_interval_s * factor:
            self._interest_read_s = now
            shown["interest"].value = self._interest()
        cost = self.cost
        shown["cost"].value = muted(
            "not ticking: no page shows this"
            if math.isnan(cost)
            else f"this display costs {cost:.1%} of a core"
        )
        running = self.live.state == "running"
        for name in ("stop_server", "start_clients"):
            self.buttons[name].disabled = not running
        self.buttons["stop_clients"].disabled = not any(load.running for load in self._loads())

    def _state(self) -> str:
        server = self.live.server
        if server is None:
            return muted("no server yet")
        state = self.live.state
        if state == "died":
            return f"<span class='epl-alarm'>died</span>{error_html(server.error or '')}"
        running = state == "running"
        shown = muted(f"running at {server.url}" if running else f"stopped{self._why_stopped}")
        if faults := self.live.samples[-1].faults:
            shown += f" <span class='epl-alarm'>{faults:,} faults in handler or protocol</span>"
            shown += error_html(server.last_fault or "")
        return shown

    def _clients(self) -> str:
        parts = []
        for load, name in ((self.load, "clients"), (self.slow, "slow peers")):
            if load is None:
                continue
            if load.error:
                parts.append(error_html(load.error))
                continue
            line, notes = f"<b>{name}</b> {load.state}", ""
            if load.summary:
                line += f"; round {load.rounds}: {escape(load.summary[0])}"
                notes = "".join(
                    f"<div class='epl-warn'>{escape(note)}</div>" for note in load.summary[1:]
                )
            parts.append(f"<div>{line}{notes}</div>")
        return "".join(parts)

    def _interest(self) -> str:
        server = self.live.server
        if server is None or not server.is_running:
            return ""
        found = server.interest(raise_error=False)
        source = "the kernel's interest list, from /proc"
        if server.options.poller != "epoll":
            source = "poll and select keep no list in the kernel; this is the program's own"
        shown = found.tail(ROWS_SHOWN)
        if len(found) > len(shown):
            source = f"{source}, the last {len(shown)} of {len(found):,}"
        columns = ("fd", "kernel_names", "own_names", "where")
        rows = "".join(
            f"<tr><td>{fd}</td><td><code>{escape(kernel or '')}</code></td>"
            f"<td><code>{escape(own or '')}</code></td><td>{where}</td></tr>"
            for fd, kernel, own, where in zip(*(shown[name] for name in columns), strict=True)
        )
        return (
            f"<div class='epl-title'>Interest list</div>{muted(source)}"
            "<table class='epl-table'><tr><th>fd</th><th>kernel</th><th>program</th>"
            f"<th>where</th></tr>{rows}</table>"
        )

    @property
    def cost(self) -> float:
        """The display's CPU time, as a share of one core; NaN while no page shows it."""
        return self.ticker.cost if self.ticker is not None and self.ticking else float("nan")

    # ---- without widgets ----------------------------------------------------------

    def text(self) -> str:
        """The numbers in a few lines, for a place without widgets."""
        server, sample = self.live.server, self.live.samples[-1]
        lines = ["dashboard", f"  server       {server or 'none; start_server() starts one'}"]
        lines += [f"  {name:<12} {value}" for name, value, _ in _formatted(sample)]
        if self.load is not None:
            lines += [f"  clients      {line}" for line in self.load.summary]
        return "\n".join(lines)

    @checked(ax=check_axes)
    def draw(self, ax: Axes) -> None:
        """Draw the last half minute."""
        charts.live(self.data(), ax=ax, note=environment.summary(self.circumstances()))

    def data(self) -> pd.DataFrame:
        """The last half minute; see :meth:`Live.frame`."""
        return self.live.frame()

    def circumstances(self) -> dict[str, Any]:
        """Circumstances of the server that is shown."""
        return dict(self.live.server.environment) if self.live.server is not None else {}

    def close(self) -> None:
        """Stop clients, threads and the dashboard's own server, but not one passed in."""
        if self.closed:
            return
        self.stop_clients()
        super().close()
        self._replace_timer(None)
        self._stop_own()
        for load in self._loads():
            load.join(10.0)
        self.live.server = None  # frees the handle and the ring


def _curves(samples: list[Sample]) -> str:
    charts = ""
    for names, unit in _CURVES:
        curves = {
            label: (color, [getattr(sample, column) for sample in samples])
            for column, label, color in names
        }
        charts += f"<div style='width:240px'>{svg.sparkline(curves, unit=unit)}</div>"
    return f"<div class='epl-numbers'>{charts}</div>"


def _formatted(sample: Sample) -> list[tuple[str, str, str]]:
    """Name, value and hint of each number."""

    def text(value: float, digits: int = 0, unit: str = "") -> str:
        return "\N{EN DASH}" if math.isnan(value) else f"{value:,.{digits}f}{unit}"

    latency = "in the server, from the wakeup to the last byte sent"
    return [
        ("requests/s", text(sample.requests_per_s), "responses sent per second"),
        ("wakeups/s", text(sample.wakeups_per_s), "waits that returned, per second"),
        ("batch", text(sample.batch, 2), "descriptors that one wait returned, on average"),
        ("p50", text(sample.p50_us, 0, " µs"), latency),
        ("p99", text(sample.p99_us, 0, " µs"), latency),
        ("connections", f"{sample.connections:,}", "open now"),
        ("requests", f"{sample.requests:,}", "since the server started"),
    ]


def _numbers(sample: Sample) -> str:
    parts = "".join(
        f"<div class='epl-number epl-n-{name.partition('/')[0]}' title='{escape(hint)}'>"
        f"<span class='epl-muted'>{name}</span><b>{value}</b></div>"
        for name, value, hint in _formatted(sample)
    )
    return f"<div class='epl-numbers'>{parts}</div>"
