"""The request targets that a server has seen, numbered, so that a row can name one.

A row has 32 bits for the response's status and the target: 16 bits each. The table is
bounded, because peers choose the targets.
"""

from epolllab.events import Op

__all__ = ["OTHER", "Targets", "row_code"]

MOST_TARGETS = 65_535
MOST_TARGET_BYTES = 256
MOST_BYTES = 4 << 20
"""Of all targets together, so that they fit into the header of a saved recording."""

OTHER = "(other)"
"""Stands for all targets that came when the table was full."""

_HANDLE = int(Op.HANDLE)


def row_code(status: int, target: int = 0) -> int:
    """The code of a handle row, see :mod:`epolllab.recording.recorder`; 0 for what is unknown."""
    return target << 24 | status << 8 | _HANDLE


class Targets:
    """The targets of one server.

    Attributes
    ----------
    names : list of str
        The table, which only grows; the first one is empty, for an unknown target.
    known : dict
        For :mod:`epolllab.server.http`: requests seen before, with their codes.
    """

    def __init__(self) -> None:
        self.names = [""]
        self.known: dict[bytes, tuple[int, int]] = {}
        self._numbers: dict[bytes, int] = {}
        self._n_bytes = 0
        self._other = 0

    def code_of(self, head: bytes) -> int:
        """The code of a handle row for a request with this head, without the status."""
        path = _path(head.split(b" ", 2)[1])
        number = self._numbers.get(path)
        return row_code(0, self._add(path) if number is None else number)

    def _add(self, path: bytes) -> int:
        if self._other:
            return self._other
        number = len(self.names)
        self._n_bytes += len(path)
        if number >= MOST_TARGETS - 1 or self._n_bytes > MOST_BYTES:
            self._other = number
            self.names.append(OTHER)
        else:
            self._numbers[path] = number
            self.names.append(path.decode("latin-1"))
        return number


def _path(target: bytes) -> bytes:
    """The target without host and query, which may have secrets, and not longer than allowed."""
    path = target.partition(b"?")[0]
    if path[:1] != b"/" and b"://" in path:
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    return path if len(path) <= MOST_TARGET_BYTES else path[: MOST_TARGET_BYTES - 3] + b"..."
