"""The command: ``epolllab lab``, ``epolllab demo``, ``epolllab serve``, ``epolllab info``.

One job: read the command line and call what a notebook could call as well.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epolllab import kernel
from epolllab.notebook import paths
from epolllab.recording import environment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from epolllab import Recording, Run

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="epolllab", description="See what the Linux kernel tells an event loop."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    lab = commands.add_parser("lab", help="open JupyterLab on the notebooks")
    lab.add_argument("--folder", type=Path, default=Path("epolllab-lab"), help=_LAB_FOLDER)
    lab.add_argument("jupyter", nargs=argparse.REMAINDER, help="passed on to JupyterLab")
    lab.set_defaults(run=_lab)

    demo = commands.add_parser("demo", help="serve, load, show a table, draw charts")
    demo.add_argument("--folder", type=Path, default=Path("data/runs"), help="where files go")
    demo.add_argument("--requests", type=int, default=2_000)
    demo.add_argument("--connections", type=int, default=50)
    demo.set_defaults(run=_demo)

    serve = commands.add_parser("serve", help="serve the widget notebooks as web pages (Voila)")
    serve.add_argument("--folder", type=Path, default=Path("epolllab-lab"), help=_LAB_FOLDER)
    serve.add_argument("--port", type=int, default=0, help="on loopback; 0 takes a free one")
    serve.add_argument("--token", help="what a page asks for; made anew by default")
    serve.set_defaults(run=_serve)

    info = commands.add_parser("info", help="print this machine's circumstances and limits")
    info.set_defaults(run=_info)

    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, RuntimeError) as error:
        print(f"epolllab {options.command}: {error}", file=sys.stderr)
        return 1
    return status


_LAB_FOLDER = "where the notebooks are copied to if this is no checkout (%(default)s)"


def _notebooks(folder: Path) -> Path:
    """Find the notebooks of the checkout, or copy those of the package to `folder`."""
    found = paths.notebooks()
    if found is None:
        found = paths.copy_lab(folder).resolve()
        print(f"The notebooks are in {found}; what you change there stays yours.")
    return found


def _lab(options: argparse.Namespace) -> int:
    folder = _notebooks(options.folder)
    passed = [argument for argument in options.jupyter if argument != "--"]
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(folder), *passed])


def _serve(options: argparse.Namespace) -> int:
    from epolllab.notebook import voila

    def say(line: str) -> None:
        print(line, flush=True)  # also into a pipe: somebody waits for the address

    folder = _notebooks(options.folder)
    return voila.serve(folder, port=options.port, token=options.token, say=say)


def _info(_: argparse.Namespace) -> int:
    print(environment.describe(environment.collect()))
    print(f"descriptors open: {kernel.descriptors_open():,}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    """The main job, without a notebook."""
    import epolllab

    options.folder.mkdir(parents=True, exist_ok=True)
    name = time.strftime("demo-%Y%m%d-%H%M%S")
    with epolllab.start_server(process=True) as server:
        print(f"{server}\n")
        run = epolllab.run_clients(
            server, connections=options.connections, requests=options.requests
        )
        recording = server.recording()
    print(f"{run}\n\n{run.summary().to_string()}\n")
    print(f"what the server did:\n{_counted(recording.counts() | recording.errors())}\n")
    for path in _draw(recording, run, options.folder / name):
        print(f"wrote {path}")
    return 0


def _counted(counts: dict[str, int]) -> str:
    return "\n".join(f"  {what:<16}{count:>10,}" for what, count in counts.items())


def _draw(recording: "Recording", run: "Run", stem: Path) -> list[Path]:
    """Write the recording and three charts beside each other."""
    from matplotlib.figure import Figure

    from epolllab import plots

    note = environment.summary(recording.metadata)
    events, journeys = recording.events(), run.journeys(recording)
    # From the first connection on: what comes before is waiting for the clients.
    events = events[events["t_ns"] >= events.loc[events["op"] == "accept", "t_ns"].min()]
    charts: dict[str, Callable[[Axes], Any]] = {
        "timeline": lambda ax: plots.timeline(events, ax=ax, span=(0, 3e6), note=note),
        "latency": lambda ax: plots.latency(run.requests(), column="latency_ns", ax=ax, note=note),
        "journey": lambda ax: plots.journey(journeys.head(20), ax=ax, note=note),
    }
    paths = [recording.save(stem.with_name(f"{stem.name}.parquet"))]
    for kind, draw in charts.items():
        figure = Figure(figsize=(9, 5), layout="constrained")
        draw(figure.add_subplot())
        paths.append(stem.with_name(f"{stem.name}-{kind}.png"))
        figure.savefig(paths[-1], dpi=120)
    return paths


if __name__ == "__main__":
    sys.exit(main())
