"""An interactive timeline of a recording, or of what a server records now.

The page gets the records as they are and keeps them (``timeline.js``), so zooming, panning and
searching ask the kernel nothing; the kernel sends the records in parts when the page asks,
and computes which request each belongs to.

What a notebook stores
----------------------
A notebook file that contains a widget shows "model not found" once its kernel has gone. So
what is stored of a timeline is a picture, a PNG of twice the resolution, and never the
widget's MIME type:

- JupyterLab and Notebook receive the picture as the output. The widget's model, which they
  create as soon as the kernel opens it, recognises the picture in the page by its first bytes
  (they contain the model's own number) and puts the timeline in its place. Saving stores the
  picture, because that is the output; a page that is reloaded restores the model from the
  kernel, which finds the picture again; without the kernel the picture stays.
- nbclient, nbconvert and ``jupyter execute`` say no cell's id when they run code. They get
  the picture alone, and no widget is made.
- Voila, VS Code and Colab get the widget's MIME type, since Voila stores nothing and the
  other two create a widget only where that type is shown. Beside it stands the picture.
"""

import base64
import errno
import io
import uuid
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets as t
from matplotlib.figure import Figure

from epolllab import plots
from epolllab.checks import check_instance, checked
from epolllab.events import LINK, MORE, RECORD, SKIP_SUCCESS, Op, mask_names
from epolllab.frames.columns import MASK_OPS, WOULD_BLOCK, check_operations
from epolllab.frames.membership import request_numbers
from epolllab.notebook import cells
from epolllab.plots import style
from epolllab.plots.units import duration, plural
from epolllab.recording import environment
from epolllab.recording.recording import Recording
from epolllab.server.server import Server
from epolllab.widgets.presence import Presence
from epolllab.widgets.ticker import Ticker

__all__ = ["Timeline", "show", "timeline"]

FIRST_RECORDS = 20_000
"""Records that a page gets with the widget: 960 kB. It asks for the others."""

PART_RECORDS = 1 << 16
"""Records of each further part: 3 MB."""

PICTURE_RECORDS = 2_000
"""Records of the stored picture at most; a bar is a few pixels wide then."""

TAIL_RECORDS = 2_000
"""Records shown while those of a server are followed, ten times a second."""

WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"
_FLAGS = {MORE: "MORE", SKIP_SUCCESS: "SKIP_SUCCESS", LINK: "LINK"}
_BEGINNING = 600
"""Characters of a picture, in base64, that contain its number."""


def _check_recording(name: str, value: object) -> object:
    return check_instance(name, value, Recording | Server, "a Recording or a Server")


@checked(recording=_check_recording)
def timeline(recording: Recording | Server) -> "Timeline":
    """Make a widget to look at single calls among up to millions.

    There is a lane for the loop (of each thread), one for its callbacks, and one for each
    connection. Point at a call to read its operation, mask, bytes, errno, duration, wakeup
    and place in the batch; click to select the request that it was made for.

    Parameters
    ----------
    recording : Recording or Server
        Of a server the newest calls are shown, ten times a second while a page shows the
        widget; "Pause" takes everything recorded so far to look at.

    Notes
    -----
    The wheel or two fingers zoom, dragging pans, a double click zooms to a call. With the
    keyboard: arrow keys move, plus and minus zoom, full stop and comma go from call to call,
    Enter selects the request, Z zooms to the call, E finds the next error, G the longest gap,
    slash goes to the search, Home shows everything, Escape clears. A search is for a
    connection, operation, error or mask, or several of them: ``conn 3 recv EAGAIN``.

    Calls that share a pixel are drawn as one. The page keeps 80 bytes for each record.
    """
    return Timeline(recording)


class Timeline(anywidget.AnyWidget):
    """Made by :func:`timeline`.

    Attributes
    ----------
    recording : Recording
        What is shown.
    server : Server or None
        The server that "Follow" follows; may be set at any time.
    presence : Presence
        What detects whether a page shows the widget, if it follows a server.
    """

    _esm = Path(__file__).with_suffix(".js").read_text("utf-8")
    facts = t.Dict().tag(sync=True)
    rows = t.Bytes().tag(sync=True)
    """The first records, or none; the newest ones while a server is followed."""
    total = t.Int().tag(sync=True)
    n_lanes = t.Int().tag(sync=True)
    version = t.Int().tag(sync=True)
    """Changes with the recording."""
    live = t.Bool().tag(sync=True)
    can_follow = t.Bool().tag(sync=True)
    watched = t.Bool().tag(sync=True)
    window_ns = t.Float(1e7).tag(sync=True)
    caption = t.Unicode().tag(sync=True)
    callbacks: Any = t.List().tag(sync=True)
    targets: Any = t.List().tag(sync=True)
    picture = t.Unicode().tag(sync=True)
    """The beginning of the picture that this takes the place of; "" for none."""

    def __init__(self, source: Recording | Server | None, *, ticks: bool = True) -> None:
        cells.stop_previous()
        self.server = source if isinstance(source, Server) else None
        self.ticker: Ticker | None = None
        self.presence: Presence | None = None
        is_live = not isinstance(source, Recording)
        self.recording = source if isinstance(source, Recording) else Recording(b"")
        super().__init__(
            facts=_facts(), live=is_live, can_follow=is_live, watched=is_live,
            **self._shown(self.recording),
        )  # fmt: skip
        self.on_msg(self._receive)
        if is_live and ticks:
            self.ticker = Ticker(self._tick, self._show_error)
            self.presence = Presence(self, self.ticker.start, self.ticker.stop)
            self._tick()
        cells.register(self)

    def __repr__(self) -> str:
        return self.text()

    def text(self) -> str:
        """What is shown, in a sentence."""
        if self.live:
            return f"Timeline of the newest calls of {self.server}."
        return _summary(self.recording)

    @staticmethod
    def _shown(recording: Recording) -> dict[str, Any]:
        array = check_operations(recording.array())
        metadata = recording.metadata
        lanes = np.unique(array["conn"]).size
        # What executes a notebook without a page stores the widget's state in the file.
        n_first = FIRST_RECORDS if cells.front_end() != "none" else 0
        return {
            "rows": recording.rows[: n_first * RECORD.size],
            "total": len(array),
            "n_lanes": lanes + bool((array["op"] == Op.CALLBACK).any()),
            "caption": _summary(recording) if len(array) else "",
            "callbacks": [str(name) for name in metadata.get("callbacks", ())],
            "targets": [str(target) for target in metadata.get("targets", ())],
        }

    # ---- following a server -------------------------------------------------------

    def _tick(self) -> None:
        if self.presence is not None:
            self.presence.check()
        if self.server is not None:
            self.show_tail(self.server.tail(TAIL_RECORDS))

    def show_tail(self, newest: Recording) -> None:
        """Show the newest records, unless the timeline is paused."""
        if self.live:
            self.rows = newest.rows

    def pause(self) -> None:
        """Stop following the server, and show everything recorded so far."""
        if self.server is not None:
            # Not recording(), which would raise, once, an error that ended the loop.
            self._show(self.server.tail(self.server.options.capacity), live=False)

    def follow(self) -> None:
        """Show the newest records of the server from now on."""
        if self.can_follow:
            self._show(Recording(b""), live=True)

    def _show(self, recording: Recording, *, live: bool) -> None:
        self.recording = recording
        with self.hold_sync():
            for name, value in self._shown(recording).items():
                setattr(self, name, value)
            self.live = live
            self.version += 1

    def _show_error(self, text: str) -> None:
        self.caption = text.strip().splitlines()[-1]

    # ---- what the page asks for ---------------------------------------------------

    def _receive(self, _: Any, content: Any, __: Any) -> None:
        asked = content.get("ask")
        if asked == "rows" and isinstance(content.get("from"), int):
            self._send_rows(max(content["from"], 0))
        elif asked == "requests":
            numbers = request_numbers(self.recording.array())
            self.send({"kind": "requests", "version": self.version}, [numbers.tobytes()])
        elif asked == "pause":
            self.pause()
        elif asked == "follow":
            self.follow()

    def _send_rows(self, start: int) -> None:
        part = slice(start * RECORD.size, (start + PART_RECORDS) * RECORD.size)
        message = {"kind": "rows", "version": self.version, "from": start}
        self.send(message, [memoryview(self.recording.rows)[part]])

    # ---- as an output -------------------------------------------------------------

    def _repr_mimebundle_(self, **_: Any) -> Any:
        newest = self.server.tail(PICTURE_RECORDS) if self.server and self.live else None
        return _bundle(newest or self.recording, self, self.text())

    def stop(self) -> None:
        """Close the widget; a cell that runs again calls this on its earlier widget."""
        self.close()

    def close(self) -> None:
        """Stop following a server and remove the widget; may be called repeatedly."""
        if self.ticker is not None:
            self.ticker.stop()
        if self.presence is not None:
            self.presence.close()
        super().close()


def show(recording: Recording) -> None:
    """Display a recording as a notebook does with the last line of a cell.

    Raises
    ------
    NotImplementedError
        This is no notebook; IPython then shows the recording's text.
    """
    from IPython.display import display

    if not cells.in_notebook():
        raise NotImplementedError
    widget = Timeline(recording) if cells.front_end() != "none" else None
    data, metadata = _bundle(recording, widget, _summary(recording))
    display(data, metadata=metadata, raw=True)  # type: ignore[no-untyped-call]


def _bundle(
    recording: Recording, widget: Timeline | None, text: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """MIME types of the output and their metadata; see the top of this file."""
    if not cells.in_notebook():
        return {"text/plain": text}, {}
    data: dict[str, Any] = {"text/plain": text}
    how = cells.front_end()
    if how == "widget" and widget is not None:
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        data[WIDGET_TYPE] = view
    number = uuid.uuid4().hex if how == "page" and widget is not None else ""
    image, size = _picture(recording, number)
    data["image/png"] = image
    if widget is not None and number:
        widget.picture = image[:_BEGINNING]
    return data, {"image/png": size}


def _picture(recording: Recording, number: str) -> tuple[str, dict[str, int]]:
    """A PNG of twice the resolution, in base64, and the size to show it in."""
    with style.use():
        figure = Figure(figsize=(8.0, 3.6), layout="constrained")
        part = _busiest(recording)
        note = environment.summary(recording.metadata)
        if len(part) < len(recording):
            note = f"The busiest {plural(len(part), 'event')} of {len(recording):,}. {note}"
        plots.timeline(part.events(), ax=figure.add_subplot(), note=note or None)
        file = io.BytesIO()
        tag = {"Description": number} if number else {}
        figure.savefig(file, format="png", dpi=200, metadata={"Software": None, **tag})
    width, height = (round(inches * 100) for inches in figure.get_size_inches())
    return base64.b64encode(file.getvalue()).decode(), {"width": width, "height": height}


def _busiest(recording: Recording) -> Recording:
    """The records of the picture: those that took the least time, if there are too many."""
    if len(recording) <= PICTURE_RECORDS:
        return recording
    starts = recording.array()["start_ns"]
    spans = starts[PICTURE_RECORDS - 1 :] - starts[: 1 - PICTURE_RECORDS]
    begin = int(np.argmin(spans))
    rows = recording.rows[begin * RECORD.size : (begin + PICTURE_RECORDS) * RECORD.size]
    return Recording(rows, recording.metadata)


def _summary(recording: Recording) -> str:
    """A sentence that says what a timeline of the recording shows."""
    array = recording.array()
    if not len(array):
        return "Timeline of a recording without events."
    failed = array[(array["result"] < 0) & (array["op"] != Op.WAIT)]["result"]
    blocked = int(np.isin(-failed, WOULD_BLOCK).sum())
    conns = np.unique(array["conn"])
    parts = [
        plural(int(np.count_nonzero(conns)), "connection"),
        plural(int((array["op"] == Op.WAIT).sum()), "wakeup"),
        plural(len(failed) - blocked, "error"),
        plural(blocked, "call") + " that would have blocked",
    ]
    span = int(array["end_ns"].max() - array["start_ns"].min())
    lost = f"; {recording.overwritten:,} earlier events were overwritten"
    return (
        f"Timeline of {plural(len(array), 'event')} in {duration(span)}: {', '.join(parts)}"
        f"{lost if recording.overwritten else ''}."
    )


def _facts() -> dict[str, Any]:
    """What the page has to know of operations, errors, masks and colours."""
    bits = ((1 << bit, mask_names(1 << bit)) for bit in range(32))
    groups = list(style.LIGHT.ops)
    ops = [
        {
            "label": op.label,
            "group": style.OP_GROUPS.get(op.label, "other"),
            "mask": op in MASK_OPS and op not in (Op.SUBMIT, Op.COMPLETE),
        }
        for op in Op
    ]
    return {
        "ops": ops,
        "groups": groups,
        "masks": [[bit, name] for bit, name in bits if not name.startswith("0x")],
        "flags": [[bit, name] for bit, name in _FLAGS.items()],
        "errors": {str(number): name for number, name in errno.errorcode.items()},
        "wouldBlock": list(WOULD_BLOCK),
        "colors": {theme.name: _colors(theme) for theme in (style.LIGHT, style.DARK)},
    }


def _colors(theme: style.Theme) -> dict[str, Any]:
    names = ("muted", "faint", "alarm", "main")
    return {
        "groups": dict(theme.ops),
        "text": {name: style.text_on(color) for name, color in theme.ops.items()},
        **{name: getattr(theme, name) for name in names},
    }
