"""The dashboard: a server and its clients, by hand, with the numbers moving.

One job: put controls and pictures on a page, and pass presses on. The numbers are
:mod:`epolllab.widgets.live`'s, the clients :mod:`epolllab.widgets.load`'s.
"""

import math
import threading
import time
from contextlib import suppress
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as ipy

from epolllab.notebook import cells
from epolllab.recording import environment
from epolllab.server.server import Server, ServerDied, start_server
from epolllab.widgets import svg
from epolllab.widgets.live import Live, Numbers
from epolllab.widgets.load import MOST_CONNECTIONS, Load, Wishes, slowly
from epolllab.widgets.panel import Panel, alarm, button, named, row
from epolllab.widgets.ticker import INTERVAL_S

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Dashboard", "dashboard"]

INTEREST_S = 1.0
"""How often the kernel's interest list is read; with many connections, less often."""

UNSEEN_S = 300.0

ROWS_SHOWN = 8
_WINDOWS = {"1 ms": 10**6, "10 ms": 10**7, "100 ms": 10**8, "1 s": 10**9, "10 s": 10**10}
_DRAINS = {"as the trigger needs": None, "until it would block": True, "once": False}
_RECV_SIZES = (1, 16, 256, 4_096, 16_384, 65_536)


def dashboard(server: Server | None = None) -> "Dashboard":
    """A server and its clients by hand, with live numbers.

    Use it to change one thing at a time and see what it does to wake-ups, batches and
    latency. It is redrawn ten times a second while a page shows it, and says itself
    what that costs.

    Parameters
    ----------
    server : Server, optional
        Watch this one. Without it, the start button makes one, and closing the
        dashboard stops that one.

    Returns
    -------
    Dashboard
        A widget. Several may show the same server.

    Notes
    -----
    Everything that is read is cheap: the loop's counters, and the newest 2,000 events
    out of the ring. Clients run in processes of their own, in rounds of two seconds, and
    end by themselves after a minute.

    A tab that is closed leaves nothing running: the display ends within some seconds,
    clients within a minute, and a server that the start button made is stopped after five
    minutes in which no page showed the dashboard (``unseen_s``). A server that was given
    is left alone.
    """
    if server is not None and not isinstance(server, Server):
        raise TypeError(
            f"a Server is watched, not a {type(server).__name__}; start_server() returns one"
        )
    return Dashboard(server)


class Dashboard(Panel):
    """Made by :func:`dashboard`.

    Attributes
    ----------
    live : Live
        The model: the numbers, and the server they are of.
    load, slow : Load or None
        The clients, and the slow peers beside them.
    unseen_s : float
        Seconds without a page after which a server that the start button made is stopped;
        infinity for never. A tab that was hidden for some minutes is heard of once a
        minute only, so less than that stops a server whose tab is open.
    """

    def __init__(self, server: Server | None = None) -> None:
        cells.stop_earlier_execution()
        self._planning = threading.Lock()
        self._ticking = threading.Lock()  # a button's thread ticks as well as the ticker's
        self.live = Live(server)
        self.load: Load | None = None
        self.slow: Load | None = None
        self._own: Server | None = None
        self.unseen_s = UNSEEN_S
        self._departure: threading.Timer | None = None
        self._why_stopped = ""
        self._interest_at = 0.0
        self._make_controls()
        self._make_displays()
        super().__init__("dashboard", [self._controls], [self._displays])
        self._tick_while_shown(self.tick)
        for name, action in (
            ("start", self.start),
            ("stop", self.stop_server),
            ("fire", self.fire),
            ("cease", self.cease),
        ):
            self.buttons[name].on_click(self.guarded(action))
        self.tick()
        cells.remember(self)

    # ---- controls -----------------------------------------------------------------

    def _make_controls(self) -> None:
        told = self.live.server.options if self.live.server is not None else None
        c: dict[str, Any] = {
            "poller": _choice("poller", ("epoll", "poll", "select")),
            "trigger": _choice("trigger", ("level", "edge")),
            "lifecycle": _choice("life cycle", ("eager", "howto", "once", "oneshot")),
            "protocol": _choice("protocol", ("http", "hello", "echo")),
            "drain": _choice("reads", list(_DRAINS), 230),
            "recv_size": _choice("recv size", list(_RECV_SIZES)),
            "process": ipy.Checkbox(value=True, description="in a process of its own", indent=False,
                                    layout=ipy.Layout(width="190px")),
            "connections": ipy.IntSlider(20, 1, 200, description="connections",
                                         layout=ipy.Layout(width="340px"),
                                         style={"description_width": "95px"}),
            "loop": _choice("loop", ("closed", "open")),
            "rate": _whole("requests/s", 500, 1, 1_000_000),
            "payload": _whole("payload bytes", 0, 0, 1 << 20),
            "slow_peers": _whole("slow peers", 0, 0, MOST_CONNECTIONS),
            "window": _choice("window", list(_WINDOWS)),
        }  # fmt: skip
        c["recv_size"].value = 16_384
        c["window"].value = "10 ms"
        self.controls = {name: named(made, name.replace("_", "-")) for name, made in c.items()}
        if told is not None:
            self._show_options(told)
        c["rate"].disabled = True
        c["loop"].observe(self._loop_changed, "value")
        self.buttons = {
            "start": button("Start", "start", "start a server with these options", style="primary"),
            "stop": button("Stop", "stop", "stop the server"),
            "fire": button("Fire", "fire", "let clients ask, for a minute at most",
                           style="primary"),
            "cease": button("Cease", "cease", "let the clients end their round and stop"),
        }  # fmt: skip
        b = self.buttons
        self._state = named(ipy.HTML(), "state")
        self._controls = ipy.VBox(
            [
                row(ipy.HTML("<b>Server</b>"), b["start"], b["stop"], self._state),
                row(c["poller"], c["trigger"], c["lifecycle"], c["protocol"]),
                row(c["drain"], c["recv_size"], c["process"]),
                row(ipy.HTML("<b>Clients</b>"), b["fire"], b["cease"]),
                row(c["connections"], c["loop"], c["rate"], c["payload"], c["slow_peers"]),
            ]
        )

    def _loop_changed(self, change: Any) -> None:
        self.controls["rate"].disabled = change["new"] == "closed"

    def _show_options(self, options: Any) -> None:
        c = self.controls
        for name in ("poller", "trigger", "lifecycle", "process"):
            c[name].value = getattr(options, name)
        for name in ("protocol", "recv_size"):
            if getattr(options, name) in c[name].options:
                c[name].value = getattr(options, name)
        c["drain"].value = next(k for k, v in _DRAINS.items() if v is options.drain)

    def _make_displays(self) -> None:
        self._numbers = named(ipy.HTML(), "numbers")
        self._curves = named(ipy.HTML(), "curves")
        self._clients = named(ipy.HTML(), "clients")
        self._timeline = named(ipy.HTML(), "timeline")
        self._interest = named(ipy.HTML(), "interest")
        self._cost = named(ipy.HTML(), "cost")
        heading = ipy.HTML("<div class='epl-title'>The last connections</div>")
        self._displays = ipy.VBox(
            [
                self._numbers,
                self._curves,
                self._clients,
                row(heading, self.controls["window"]),
                self._timeline,
                self._interest,
                self._cost,
            ]
        )

    def parameters(self) -> dict[str, Any]:
        """What the controls are set to."""
        return {name: control.value for name, control in self.controls.items()}

    # ---- what the buttons do ------------------------------------------------------

    def start(self) -> None:
        """Start a server as the controls say, in place of the dashboard's own."""
        c = self.controls
        options: dict[str, Any] = {
            name: c[name].value
            for name in ("poller", "trigger", "lifecycle", "protocol", "recv_size", "process")
        }
        server = start_server(drain=_DRAINS[c["drain"].value], **options)
        self._stop_own()
        self._own = server
        self._why_stopped = ""
        self.live.server = server
        self.tick()

    def stop_server(self) -> None:
        """Stop the server that is shown; also one that was given."""
        self.cease()
        server = self.live.server
        if server is not None and server.is_running:
            server.stop()
        self.tick()

    def fire(self) -> None:
        """Let clients ask, as the controls say."""
        server = self.live.server
        if server is None or not server.is_running:
            raise ValueError("no server is running here to ask; press Start first")
        c = self.controls
        wishes = Wishes(
            connections=c["connections"].value,
            rate=c["rate"].value if c["loop"].value == "open" else None,
            payload=c["payload"].value,
            slow_peers=c["slow_peers"].value,
        )
        self.cease()
        self.load = Load(server, wishes.fire)
        if wishes.slow_peers:
            self.slow = Load(server, partial(slowly, peers=wishes.slow_peers))
        self.tick()

    def cease(self) -> None:
        """Let the clients end their round and stop."""
        for load in (self.load, self.slow):
            if load is not None:
                load.stop()

    def _stop_own(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            with suppress(ServerDied):  # shown in red for as long as it was the server shown
                own.stop()

    # ---- whether anybody looks ------------------------------------------------------

    def _came(self) -> None:
        self._await_nobody(None)
        super()._came()

    def _went(self) -> None:
        super()._went()
        if self._runs_own and not self._closed:
            self._await_nobody(self._planned())

    @property
    def _runs_own(self) -> bool:
        return self._own is not None and self._own.is_running

    def _planned(self) -> threading.Timer | None:
        """A timer that leaves, unless that is never to be."""
        if not math.isfinite(self.unseen_s):
            return None
        planned = threading.Timer(self.unseen_s, self.guarded(self._leave))
        planned.name, planned.daemon = "epolllab-departure", True
        return planned

    def _await_nobody(self, departure: threading.Timer | None) -> None:
        """Leave when this timer has run out, and not as was planned before."""
        with self._planning:
            earlier, self._departure = self._departure, departure
            if departure is not None:
                departure.start()
        if earlier is not None:
            earlier.cancel()

    def _leave(self) -> None:
        """Stop the server of the dashboard's own, in the timer's thread."""
        # Somebody may have come while this thread waited for a button's action to end.
        if self._departure is not threading.current_thread() or not self._runs_own:
            return
        if cells.is_busy():  # which may use the server, and keep a page's messages waiting
            self._await_nobody(self._planned())
            return
        self._stop_own()
        self._why_stopped = f", since no page showed this for {self.unseen_s:g} s"
        self.tick()

    # ---- what is shown ------------------------------------------------------------

    def watch(self, seconds: float) -> "pd.DataFrame":
        """Look for a while, also where no page does; the numbers since then.

        Parameters
        ----------
        seconds : float
            How long.
        """
        end = time.monotonic() + seconds
        begin_s = time.monotonic() - self.live._begin_s
        while time.monotonic() < end:
            if not self.ticking:
                self.tick()
            time.sleep(min(INTERVAL_S, max(end - time.monotonic(), 0)))
        frame = self.data()
        return frame[frame["t_s"] >= begin_s].reset_index(drop=True)

    def tick(self) -> None:
        """Read the numbers and show them, once; from any thread."""
        with self._ticking:
            self._tick()

    def _tick(self) -> None:
        numbers = self.live.tick()
        state = self.live.state
        self._show_state(state)
        self._numbers.value = _numbers(numbers)
        self._curves.value = self._drawn_curves()
        self._clients.value = self._said_of_clients()
        self._timeline.value = svg.timeline(
            self.live.tail.array(), window_ns=_WINDOWS[self.controls["window"].value]
        )
        now = time.monotonic()
        if now >= self._interest_at:
            many = max(numbers.connections / 200, 1.0)
            self._interest_at = now + INTEREST_S * many
            self._interest.value = self._interest_list(state)
        self._cost.value = self._said_of_cost()

    def _show_state(self, state: str) -> None:
        server = self.live.server
        words = {
            "none": "no server yet",
            "running": f"running at {server.url}" if server else "",
            "stopped": f"stopped{self._why_stopped}",
            "died": "died",
        }[state]
        look = "epl-alarm" if state == "died" else "epl-muted"
        error = alarm(self.live.error or "") if state == "died" else ""
        self._state.value = f"<span class='{look}'>{escape(words)}</span>{error}"
        self.buttons["stop"].disabled = state != "running"
        self.buttons["fire"].disabled = state != "running"
        going = any(load is not None and load.running for load in (self.load, self.slow))
        self.buttons["cease"].disabled = not going

    def _drawn_curves(self) -> str:
        last = list(self.live.numbers)
        requests = [one.requests_per_s for one in last]
        wakeups = [one.wakeups_per_s for one in last]
        batches = [one.batch for one in last]
        latency = {"send": [one.p99_us for one in last], "main": [one.p50_us for one in last]}
        drawn = (
            svg.sparkline(
                {"other": wakeups, "main": requests}, title="requests/s, wake-ups/s",
                names={"main": "requests/s", "other": "wake-ups/s"},
            ),
            svg.sparkline({"main": batches}, title="descriptors a wake-up"),
            svg.sparkline(
                latency, title="latency", names={"main": "latency p50", "send": "p99"},
                unit=" µs",
            ),
        )  # fmt: skip
        cells_ = "".join(f"<div style='width:240px'>{one}</div>" for one in drawn)
        return f"<div class='epl-numbers'>{cells_}</div>"

    def _said_of_clients(self) -> str:
        parts = []
        for load, who in ((self.load, "clients"), (self.slow, "slow peers")):
            if load is None:
                continue
            if load.error:
                parts.append(alarm(load.error))
                continue
            state = "ending" if load.ending and load.running else (
                "asking" if load.running else "done"
            )  # fmt: skip
            parts.append(f"<div><b>{who}</b> {state}{_round(load)}</div>")
        return "".join(parts)

    def _interest_list(self, state: str) -> str:
        server = self.live.server
        if server is None or state != "running":
            return ""
        try:
            found = server.interest()
        except ServerDied:
            server._raised = False  # the error is the cell's; this tick shows it as well
            return ""
        if server.options.poller != "epoll":
            words = "poll and select keep no list in the kernel; this is the program's own"
        else:
            words = "the kernel's own interest list, from /proc"
        shown = found.tail(ROWS_SHOWN)
        rows = "".join(
            f"<tr><td>{fd}</td><td><code>{escape(kernel or '')}</code></td>"
            f"<td><code>{escape(own or '')}</code></td><td>{where}</td></tr>"
            for fd, kernel, own, where in zip(
                shown["fd"], shown["kernel_names"], shown["own_names"], shown["where"], strict=True
            )
        )
        left = len(found) - len(shown)
        more = f", the last {len(shown)} of {len(found):,}" if left else ""
        return (
            f"<div class='epl-title'>Interest list</div><div class='epl-muted'>{words}{more}</div>"
            "<table class='epl-table'><tr><th>fd</th><th>kernel</th><th>program</th>"
            f"<th>where</th></tr>{rows}</table>"
        )

    @property
    def cost(self) -> float:
        """Share of one core that the display costs; NaN where no page shows it."""
        return self._ticker.cost if self._ticker is not None and self.ticking else float("nan")

    def _said_of_cost(self) -> str:
        cost = self.cost
        if math.isnan(cost):
            return "<span class='epl-muted'>not ticking: no page shows this</span>"
        return f"<span class='epl-muted'>this display costs {cost:.1%} of a core</span>"

    # ---- elsewhere ----------------------------------------------------------------

    def text(self) -> str:
        """The numbers in a few lines, for a place without widgets."""
        server, last = self.live.server, self.live.numbers[-1]
        lines = ["dashboard", f"  server       {server or 'none; .start() makes one'}"]
        lines += [f"  {name:<12} {value}" for name, value, _ in _named_numbers(last)]
        if self.load is not None:
            lines += [f"  clients      {words}" for words in self.load.words]
        return "\n".join(lines)

    def picture(self) -> "Figure":
        """The last half minute as a chart."""
        from matplotlib.figure import Figure

        from epolllab.widgets import pictures

        figure = Figure(figsize=(8.0, 3.6), layout="constrained")
        note = environment.summary(self.circumstances())
        pictures.live(self.data(), ax=figure.add_subplot(), note=note)
        return figure

    def data(self) -> "pd.DataFrame":
        """The last half minute as a frame; see :meth:`Live.frame`."""
        return self.live.frame()

    def circumstances(self) -> dict[str, Any]:
        """Of the server that is shown."""
        return dict(self.live.server._circumstances) if self.live.server is not None else {}

    def export(self, name: str | None = None, **how: Any) -> dict[str, Any]:
        """Write picture, data and circumstances; see :func:`epolllab.plots.export.export`."""
        return super().export(name, **{"circumstances": self.circumstances(), **how})

    def close(self) -> None:
        """End clients, threads and the dashboard's own server; leave one that was given."""
        if self._closed:
            return
        self.cease()
        super().close()
        self._await_nobody(None)
        self._stop_own()
        for load in (self.load, self.slow):
            if load is not None:
                load.join(10.0)
        self.live.server = None  # its handle, and the ring's memory, may go


def _choice(label: str, options: Any, width: int = 180) -> Any:
    return ipy.Dropdown(
        options=options, description=label, layout=ipy.Layout(width=f"{width}px"),
        style={"description_width": "70px"},
    )  # fmt: skip


def _whole(label: str, value: int, least: int, most: int) -> Any:
    return ipy.BoundedIntText(
        value=value, min=least, max=most, description=label, layout=ipy.Layout(width="190px"),
        style={"description_width": "95px"},
    )  # fmt: skip


def _named_numbers(one: Numbers) -> list[tuple[str, str, str]]:
    def said(value: float, digits: int = 0, unit: str = "") -> str:
        return "\N{EN DASH}" if math.isnan(value) else f"{value:,.{digits}f}{unit}"

    return [
        ("requests/s", said(one.requests_per_s), "requests answered a second"),
        ("wake-ups/s", said(one.wakeups_per_s), "waits that returned, a second"),
        ("batch", said(one.batch, 2), "descriptors that one wait returned, on average"),
        ("p50", said(one.p50_us, 0, " µs"), "in the server: from the wake-up to the last byte"),
        ("p99", said(one.p99_us, 0, " µs"), "in the server: from the wake-up to the last byte"),
        ("connections", f"{one.connections:,}", "open now"),
        ("requests", f"{one.requests:,}", "since the server began"),
    ]


def _numbers(one: Numbers) -> str:
    parts = "".join(
        f"<div class='epl-number epl-n-{name.partition('/')[0]}' title='{escape(hint)}'>"
        f"<span class='epl-muted'>{name}</span><b>{value}</b></div>"
        for name, value, hint in _named_numbers(one)
    )
    return f"<div class='epl-numbers'>{parts}</div>"


def _round(load: Load) -> str:
    words = load.words
    if not words:
        return ""
    notes = "".join(f"<div class='epl-warn'>{escape(note)}</div>" for note in words[1:])
    return f"; round {load.rounds}: {escape(words[0])}{notes}"
