"""The dashboard: start and stop a server and its clients, and watch the numbers."""

import math
import threading
import time
from contextlib import suppress
from functools import partial
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
from epolllab.widgets import readout
from epolllab.widgets.inputs import ClientInputs, ServerInputs
from epolllab.widgets.live import Live, Sample
from epolllab.widgets.load import Load, RateCheck, run_slow_peers
from epolllab.widgets.panel import Panel, error_html, muted, row, select
from epolllab.widgets.ticker import INTERVAL_S
from epolllab.widgets.timeline import Timeline

__all__ = ["Dashboard", "dashboard"]

_WINDOWS = {"1 ms": 10**6, "10 ms": 10**7, "100 ms": 10**8, "1 s": 10**9, "10 s": 10**10}


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
        infinity for never. A hidden tab may be heard of only once a minute, so a smaller
        value stops servers whose tab is open.
    timeline : Timeline
        The calls of the newest connections; it also reports whether a page shows the
        dashboard.
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
        self._rate_check: RateCheck | None = None
        self._earlier_load: Load | None = None
        self._last = Sample(0.0)
        self._server_inputs, self._client_inputs = ServerInputs(self), ClientInputs(self)
        self.timeline = Timeline(server, ticks=False)
        self.timeline.add_class("epl-timeline")
        self._arrange()
        if server is not None:
            self._server_inputs.show(server.options)
        self.tick_while_shown(self.tick, self.timeline)
        self.tick()

    # ---- controls -----------------------------------------------------------------

    def _arrange(self) -> None:
        c, add = self.controls, self.add_button
        hint = "run clients with these options for at most a minute"
        server_row = row(
            ipy.HTML("<b>Server</b>"),
            add("start_server", "Start server", "start a server with these options, in place of "
                "one that was started here before", self.start_server, style="primary"),
            add("stop_server", "Stop server", "stop the server and its clients",
                self.stop_server),
            self.add_display("state", "status"),
            self._server_inputs.note,
        )  # fmt: skip
        clients_row = row(
            ipy.HTML("<b>Clients</b>"),
            add("start_clients", "Start clients", hint, self.start_clients, style="primary"),
            add("stop_clients", "Stop clients", "stop the clients after their current round",
                self.stop_clients),
            self._client_inputs.note,
        )  # fmt: skip
        window = select("window", list(_WINDOWS), "10 ms", 180)
        self.add_control("window", window, "Length of time that the timeline shows.")
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
            row(heading, window),
            self.timeline,
            *(self.add_display(name) for name in ("interest", "cost")),
        )
        self.arrange([ipy.VBox(controls)], [ipy.VBox(displays)])

    # ---- what the buttons do ------------------------------------------------------

    def start_server(self) -> None:
        """Start a server as the controls say, and stop the one started before."""
        server = start_server(**self._server_inputs.options())
        self._server_inputs.use()
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
        options = self._client_inputs.options()
        self.stop_clients()
        self._client_inputs.use()
        self._rate_check = RateCheck(options.rate) if options.rate else None
        self._earlier_load = self.load
        self.load = Load(server, options.rounds())
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
        if cells.is_cell_running():  # the cell may use the server, and delays a page's messages
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
        running = self.live.state == "running"
        if running:
            self._last = sample
            self._check_rate(sample)
        self.timeline.window_ns = _WINDOWS[self.controls["window"].value]
        self.timeline.server = self.live.server
        self.timeline.show_tail(self.live.tail)
        shown["state"].value = self._state()
        shown["numbers"].value = readout.numbers(self._last, stale=not running)
        shown["curves"].value = readout.curves(list(self.live.samples), stale=not running)
        shown["clients"].value = self._clients()
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
        for name in ("stop_server", "start_clients"):
            self.buttons[name].disabled = not running
        loaded = any(load.running for load in self._loads())
        self.buttons["stop_clients"].disabled = not loaded
        if not running:
            self._server_inputs.release()
        if not loaded:
            self._client_inputs.release()

    def _check_rate(self, sample: Sample) -> None:
        """Check the rate until the first round has ended, which has notes of its own."""
        if self._rate_check is None or self.load is None or self.load.rounds:
            return
        # The requests of clients that are still stopping would be taken for new ones.
        if self._earlier_load is None or not self._earlier_load.running:
            self._rate_check.see(sample.t_s, sample.requests)

    def _state(self) -> str:
        server = self.live.server
        if server is None:
            return muted("no server yet")
        state = self.live.state
        if state == "died":
            return f"<span class='epl-alarm'>died</span>{error_html(server.error or '')}"
        running = state == "running"
        shown = muted(f"running at {server.url}" if running else f"stopped{self._why_stopped}")
        if faults := self._last.faults:
            shown += f" <span class='epl-alarm'>{faults:,} faults in handler or protocol</span>"
            shown += error_html(server.last_fault or "")
        return shown

    def _clients(self) -> str:
        warning = "" if self._rate_check is None else self._rate_check.warning
        return readout.clients(((self.load, "clients"), (self.slow, "slow peers")), warning)

    def _interest(self) -> str:
        server = self.live.server
        if server is None or not server.is_running:
            return readout.no_interest()
        return readout.interest(server.interest(raise_error=False), server.options.poller)

    @property
    def cost(self) -> float:
        """The display's CPU time, as a share of one core; NaN while no page shows it."""
        return self.ticker.cost if self.ticker is not None and self.ticking else float("nan")

    # ---- without widgets ----------------------------------------------------------

    def text(self) -> str:
        """The numbers in a few lines, for a place without widgets."""
        server = self.live.server
        lines = ["dashboard", f"  server       {server or 'none; start_server() starts one'}"]
        lines += [f"  {name:<12} {value}" for name, value, _ in readout.formatted(self._last)]
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
        self.live.server = self.timeline.server = None  # frees the handle and the ring
