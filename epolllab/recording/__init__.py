"""From the loop to a recording: the ring buffer, its decoding, and files.

``recorder`` is the bounded ring that a loop writes to; ``decode`` turns its rows into
records; ``Recording`` holds records and the circumstances they were made in
(``environment``); ``storage`` writes and reads Parquet, ``perfetto`` writes traces.
``streaming`` stores rows in a folder while they are recorded (``layout``), and ``open``
returns a ``StoredRecording`` of it, which need not fit into memory (``dataset``).
numpy, pandas and pyarrow are imported when a recording is read, not when it is made.
Imports frames, kernel, notebook and everything below.
"""

from epolllab.recording.dataset import StoredRecording, open  # noqa: A004
from epolllab.recording.recorder import Recorder, Snapshot
from epolllab.recording.recording import Recording
from epolllab.recording.streaming import NotStored

__all__ = ["NotStored", "Recorder", "Recording", "Snapshot", "StoredRecording", "open"]


def __dir__() -> list[str]:
    return sorted(__all__)
