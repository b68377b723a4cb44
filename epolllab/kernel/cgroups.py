"""Control groups: the CPU quota and memory limit of this process, and how long it was throttled.

Both versions are read, at every level from the process's own group up to the highest one
that it can see. A quota or limit of any of these levels holds for the process.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["Throttling", "cpu_quotas", "memory_available", "throttling"]

PROC = Path("/proc")


class Throttling(NamedTuple):
    """How often and how long the groups of this process had used up their CPU quota."""

    periods: int
    """Periods in which a group was throttled, ``nr_throttled``."""
    microseconds: int
    """Time for which its processors were, ``throttled_usec``, summed over processors."""


def cpu_quotas(proc: Path = PROC) -> dict[str, float]:
    """Return how many processors each group with a quota may use, by the group's path.

    Empty where no group has a quota; OSError where no groups can be seen. The least of
    them is what this process can use.
    """
    quotas = {level: _quota(folder) for level, folder in _levels("cpu", proc)}
    return {level: quota for level, quota in quotas.items() if quota is not None}


def throttling(proc: Path = PROC) -> Throttling:
    """Return how much the groups of this process were throttled since they were made.

    OSError where no groups can be seen.
    """
    periods = microseconds = 0
    for _, folder in _levels("cpu", proc):
        fields = dict(line.split() for line in _text(folder / "cpu.stat").splitlines())
        periods += int(fields.get("nr_throttled", 0))
        microseconds += int(fields.get("throttled_usec", 0))
        microseconds += int(fields.get("throttled_time", 0)) // 1000  # version 1: nanoseconds
    return Throttling(periods, microseconds)


def memory_available(proc: Path = PROC) -> int | None:
    """Return the bytes of memory that this process can use; None if not known.

    The least of what the machine has available and of its groups' limits.
    """
    lines = _text(proc / "meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError):
        for _, folder in _levels("memory", proc):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with suppress(ValueError):  # "max", or no such file
                    found.append(int(_text(folder / name)))
    return min(found, default=None)


def _quota(folder: Path) -> float | None:
    """Processors that a group may use; None without a quota."""
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota = _text(folder / "cpu.cfs_quota_us")
        period = _text(folder / "cpu.cfs_period_us")
    with suppress(ValueError, ZeroDivisionError):  # "max", or no such file
        share = int(quota) / int(period)
        return share if share > 0 else None  # version 1 has -1 for none
    return None


def _text(path: Path) -> str:
    """A file's text, empty if it cannot be read."""
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""


def _levels(controller: str, proc: Path) -> list[tuple[str, Path]]:
    """Path and folder of this process's group and of each one above it, in both versions."""
    groups = {}
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))  # version 2 has ""
    found: dict[tuple[str, str], Path] = {}
    for name, root, mount in _mounts(controller, proc):
        if name in groups:
            inside = _below(root, groups[name])
            for level in (inside, *inside.parents):
                found.setdefault((name, str(PurePosixPath("/", level))), mount / level)
    if not found:
        raise FileNotFoundError(f"no control groups for {controller} can be seen here")
    return [(level, folder) for (_, level), folder in found.items()]


def _mounts(controller: str, proc: Path) -> Iterator[tuple[str, str, Path]]:
    """Mounts of a controller: its name or "" for version 2, the root mounted, and where."""
    for line in (proc / "self/mountinfo").read_text().splitlines():
        where, _, what = line.partition(" - ")
        root, mount = (field.replace("\\040", " ") for field in where.split(" ")[3:5])
        kind, _, options = what.split(" ", 2)
        if kind == "cgroup2":
            yield "", root, Path(mount)
        elif kind == "cgroup" and controller in options.split(","):
            yield controller, root, Path(mount)


def _below(root: str, path: str) -> PurePosixPath:
    """A group's path below the root of a mount; the root itself for one outside it."""
    group = PurePosixPath(path)
    if ".." in group.parts or not group.is_relative_to(root):
        return PurePosixPath()
    return group.relative_to(root)
