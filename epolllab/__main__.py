"""The command line: ``epolllab lab``, ``demo``, ``serve`` and ``info``."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import epolllab
from epolllab import kernel
from epolllab.notebook import paths, voila
from epolllab.recording import environment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["main"]

_LAB_FOLDER = "where to copy the notebooks to outside a checkout (%(default)s)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="epolllab", description="Run an instrumented epoll server and look at its events."
    )
    parser.add_argument("--version", action="version", version=f"epolllab {epolllab.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    lab = commands.add_parser("lab", help="open the notebooks in JupyterLab")
    lab.add_argument("--folder", type=Path, default=Path("epolllab-lab"), help=_LAB_FOLDER)
    lab.add_argument("jupyter", nargs=argparse.REMAINDER, help="arguments for JupyterLab")
    lab.set_defaults(run=_lab)

    demo = commands.add_parser("demo", help="serve requests, print a table, draw charts")
    demo.add_argument("--folder", type=Path, default=Path("data/runs"), help="output folder")
    demo.add_argument("--requests", type=int, default=2_000)
    demo.add_argument("--connections", type=int, default=50)
    demo.set_defaults(run=_demo)

    serve = commands.add_parser("serve", help="serve the widget notebooks as web pages (Voila)")
    serve.add_argument("--folder", type=Path, default=Path("epolllab-lab"), help=_LAB_FOLDER)
    serve.add_argument("--port", type=int, default=0, help="loopback port; 0 takes a free one")
    serve.add_argument("--token", help="token that a page requires; random by default")
    serve.set_defaults(run=_serve)

    info = commands.add_parser("info", help="print the environment and limits of this machine")
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


def _notebooks(folder: Path) -> Path:
    """Return the checkout's notebooks, or a copy of the package's in `folder`."""
    found = paths.notebooks()
    if found is None:
        found = paths.copy_lab(folder).resolve()
        print(f"The notebooks are in {found}; your changes there are kept.")
    return found


def _lab(options: argparse.Namespace) -> int:
    folder = _notebooks(options.folder)
    passed = [argument for argument in options.jupyter if argument != "--"]
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(folder), *passed])


def _serve(options: argparse.Namespace) -> int:
    def say(line: str) -> None:
        print(line, flush=True)  # the address must also reach a pipe at once

    folder = _notebooks(options.folder)
    return voila.serve(folder, port=options.port, token=options.token, say=say)


def _info(_: argparse.Namespace) -> int:
    print(environment.describe(environment.collect()))
    print(f"descriptors open: {kernel.descriptors_open():,}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    options.folder.mkdir(parents=True, exist_ok=True)
    name = time.strftime("demo-%Y%m%d-%H%M%S")
    with epolllab.start_server(process=True) as server:
        print(f"{server}\n")
        run = epolllab.run_clients(
            server, connections=options.connections, requests=options.requests
        )
        recording = server.recording()
    print(f"{run}\n\n{run.summary().to_string()}\n")
    counts = recording.counts() | recording.errors()
    print("calls and events of the server:")
    print("\n".join(f"  {name:<16}{count:>10,}" for name, count in counts.items()), end="\n\n")
    for path in _draw(recording, run, options.folder / name):
        print(f"wrote {path}")
    return 0


def _draw(recording: epolllab.Recording, run: epolllab.Run, stem: Path) -> list[Path]:
    """Write the recording and three charts; return their paths."""
    from matplotlib.figure import Figure

    from epolllab import plots

    note = environment.summary(recording.metadata)
    events, journeys = recording.events(), run.journeys(recording)
    # Leave out the wait for the clients to start.
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
