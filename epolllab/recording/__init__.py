"""From the loop to a recording: the ring buffer, its decoding, and files.

``recorder`` is the bounded ring that a loop writes to; ``decode`` turns its rows into
records; ``Recording`` holds records and the circumstances they were made in
(``environment``); ``storage`` writes and reads Parquet, ``perfetto`` writes traces.
numpy, pandas and pyarrow are imported when a recording is read, not when it is made.
Imports frames, kernel, notebook and everything below.
"""

from epolllab.recording.recorder import Recorder, Snapshot
from epolllab.recording.recording import Recording

__all__ = ["Recorder", "Recording", "Snapshot"]


def __dir__() -> list[str]:
    return sorted(__all__)
