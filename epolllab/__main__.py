"""The command line: ``epolllab lab``, ``demo``, ``run``, ``diagnose`` and the others."""

import argparse
import codecs
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import epolllab
from epolllab import kernel
from epolllab.checks import check_int
from epolllab.notebook import lab, voila
from epolllab.recording import environment, storage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["main"]

CHART_BYTES, BYTES_PER_REQUEST, MAX_RECORDING_BYTES = 500_000, 100, 10_000_000
"""Estimates of what a demo writes; the recorder's ring bounds the recording."""

_LAB_FOLDER = (
    "where your copy of the notebooks is, made if necessary; by default epolllab-lab here, or the "
    "copy that contains this folder"
)
_TOKEN_FILE = (
    "file with the token that a page requires, readable by you only; by default the variable "
    f"{voila.TOKEN_VARIABLE}, and without it a random token. Never give a token as an argument: "
    "every user of the machine can read it there"
)


_TARGET = (
    "a process, which is inspected and traced; a recording; or what strace wrote. A file with the "
    "name of a process is given as ./FILE"
)
INTERRUPTED = 130
"""The exit status that shells give a program ended by Ctrl-C."""

_RUN_STATUS = (
    "Exit status: 0 every request succeeded, 1 some failed or had a status of 400 or more, 2 "
    "nothing could be run, 130 interrupted by Ctrl-C, which shows what was measured until then."
)
_STATUS = "Exit status: 0 nothing found, 1 findings, 2 it could not be examined."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    _print_in_any_encoding()
    given, program = _split_program(list(sys.argv[1:] if arguments is None else arguments))
    # What follows "--" is JupyterLab's; argparse would drop or keep it, depending on its version.
    cut = given.index("--") if given[:1] == ["lab"] and "--" in given else len(given)
    parser = _parser()
    options, unknown = parser.parse_known_args(given[:cut])
    options.passed, options.program = [*unknown, *given[cut + 1 :]], program
    if options.passed and options.command != "lab":
        parser.error(
            f"{options.command} has no argument {' '.join(options.passed)}; "
            f"epolllab {options.command} --help lists them"
        )
    try:
        status: int = options.run(options)
        print(end="", flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # as in `| head`; Python will flush once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, RuntimeError) as error:
        print(f"epolllab {options.command}: {error}", file=sys.stderr)
        return 1
    return status


def _split_program(given: list[str]) -> tuple[list[str], list[str]]:
    """The arguments of ``epolllab observe``, and the program with its own arguments."""
    if given[:1] != ["observe"]:
        return given, []
    cut = 1
    while given[cut : cut + 1] and given[cut].startswith("--out"):
        cut += 1 if "=" in given[cut] else 2
    is_help = given[cut : cut + 1] in (["-h"], ["--help"])
    return (given, []) if is_help else (given[:cut], given[cut:])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epolllab",
        description="Run an instrumented epoll server and look at its events.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"epolllab {epolllab.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str, **more: Any) -> Any:
        # Without abbreviations, which could swallow an option for JupyterLab.
        command = commands.add_parser(name, help=text, allow_abbrev=False, **more)
        command.set_defaults(run=run)
        return command

    notebooks = add(
        "lab",
        _lab,
        "open a copy of the notebooks in JupyterLab",
        usage="epolllab lab [-h] [--folder FOLDER] [options of JupyterLab]",
        epilog="Other options are JupyterLab's: epolllab lab --no-browser --port 8899. "
        "epolllab lab -- --help lists them.",
    )
    notebooks.add_argument("--folder", type=Path, help=_LAB_FOLDER)

    demo = add("demo", _demo, "serve requests, print a table, draw charts")
    demo.add_argument("--folder", type=Path, default=Path("data/runs"), help="output folder")
    demo.add_argument("--requests", type=int, default=2_000)
    demo.add_argument("--connections", type=int, default=50)

    _add_run(add("run", _run, "send requests to a URL and measure latency", epilog=_RUN_STATUS))

    serve = add("serve", _serve, "serve the dashboard and the stepper as web pages (Voila)")
    serve.add_argument("--folder", type=Path, help=_LAB_FOLDER)
    serve.add_argument("--port", type=int, default=0, help="loopback port; 0 takes a free one")
    serve.add_argument("--token-file", type=Path, metavar="FILE", help=_TOKEN_FILE)

    inspect = add("inspect", _inspect, "show what the epolls of a process watch")
    inspect.add_argument("process", metavar="PID|NAME", help="all processes of a name: nginx")
    inspect.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument("--force", action="store_true", help="watch epolls of any size")

    diagnose = add("diagnose", _diagnose, "say what keeps an event loop busy", epilog=_STATUS)
    diagnose.add_argument("target", metavar="PID|NAME|FILE", help=_TARGET)
    diagnose.add_argument("--seconds", type=float, default=1.0, help="of tracing (%(default)s)")

    observe = add(
        "observe",
        _observe,
        "run a Python program and record its event loops",
        usage="epolllab observe [-h] [--out FILE] SCRIPT [ARGUMENTS] | -m MODULE [ARGUMENTS]",
    )
    observe.add_argument(
        "--out",
        type=Path,
        default=Path("observed.parquet"),
        metavar="FILE",
        help="the recording, saved also if the program raises or is interrupted (%(default)s)",
    )

    add("info", _info, "print the environment and limits of this machine")
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    """Add the arguments of ``epolllab run``; run_clients() checks the values."""
    run.add_argument("url", metavar="URL", help="http://host:port/path, on any machine")
    numbers: tuple[tuple[str, type, Any, str], ...] = (
        ("--connections", int, 50, "at the same time (%(default)s)"),
        ("--requests", int, None, "in total (1000, if there is no --duration)"),
        ("--duration", float, None, "seconds in which requests start, instead of a number"),
        ("--rate", float, None, "requests per second, due at even intervals: an open loop"),
        ("--processes", int, 1, "that send (%(default)s)"),
        ("--timeout", float, 10.0, "seconds after which a request fails (%(default)s)"),
    )
    for name, kind, default, text in numbers:
        run.add_argument(name, type=kind, default=default, metavar="N", help=text)
    run.add_argument("--keep-alive", action="store_true", help="reuse connections")
    run.add_argument("--data", metavar="TEXT|@FILE", help="the body of a POST, or a file with it")
    run.add_argument("--json", action="store_true", help="print JSON")


def _print_in_any_encoding() -> None:
    """Print characters that the output's encoding lacks, such as the micro sign, as ASCII."""
    codecs.register_error("epolllab", _to_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="epolllab")


def _to_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and error.object.startswith("µs", error.start):
        return "u", error.start + 1
    return codecs.backslashreplace_errors(error)


def _notebooks(folder: Path | None) -> Path:
    """Return the notebooks of the reader's copy, up to date; print what was done about edits."""
    copy = lab.update_copy(folder or lab.default_folder())
    print(f"The notebooks are in {copy.notebooks}; your changes there are kept.")
    for names, text in (
        (copy.beside, "New versions are beside the notebooks that you edited"),
        (copy.set_aside, "Replaced by new versions, with your runs kept"),
        (copy.left, "No longer part of epolllab, and kept since you edited them"),
    ):
        if names:
            print(f"{text}: {', '.join(names)}")
    return copy.notebooks


def _lab(options: argparse.Namespace) -> int:
    """Replace this process by JupyterLab, which then gets the terminal and the signals."""
    if find_spec("jupyterlab") is None:
        raise RuntimeError("JupyterLab is not installed; run: pip install jupyterlab")
    # -P: files of the current folder must not stand in for modules.
    command = [sys.executable, "-P", "-m", "jupyterlab"]
    command.append(f"--ServerApp.root_dir={_notebooks(options.folder)}")
    if not any("default_url" in part for part in options.passed):
        command.append(f"--LabApp.default_url=/lab/tree/{lab.INDEX}")
    allows_root = any("allow-root" in part.replace("_", "-") for part in options.passed)
    if os.geteuid() == 0 and not allows_root:
        print(
            "Warning: JupyterLab runs as root here (--allow-root), so every notebook can do "
            "anything on this machine or in this container.",
            file=sys.stderr,
        )
        command.append("--allow-root")
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *options.passed])


def _serve(options: argparse.Namespace) -> int:
    token = voila.read_token(options.token_file)
    folder = _notebooks(options.folder)
    return voila.serve(folder, port=options.port, token=token, say=_say)


def _say(line: str) -> None:
    print(line, flush=True)  # must also reach a pipe at once


def _inspect(options: argparse.Namespace) -> int:
    from epolllab.external import commands

    return commands.show_epolls(
        options.process, _say, watch=options.watch, as_json=options.json, force=options.force
    )


def _run(options: argparse.Namespace) -> int:
    from epolllab.clients import command

    return command.run_url(options, _say)


def _diagnose(options: argparse.Namespace) -> int:
    from epolllab.external import commands

    return commands.diagnose_target(options.target, options.seconds, _say)


def _observe(options: argparse.Namespace) -> int:
    from epolllab.external import commands

    return commands.observe_program(options.out, options.program)


def _info(_: argparse.Namespace) -> int:
    print(environment.describe(environment.collect()))
    print(f"descriptors open: {kernel.descriptors_open():,}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    requests = check_int("requests", options.requests, 1)
    connections = check_int("connections", options.connections, 1)
    n_bytes = CHART_BYTES + min(requests * BYTES_PER_REQUEST, MAX_RECORDING_BYTES)
    _check_folder(options.folder, n_bytes)
    with epolllab.start_server(process=True) as server:
        print(f"{server}\n")
        run = epolllab.run_clients(server, connections=connections, requests=requests)
        recording = server.recording()
    print(f"{run}\n\n{run.summary().to_string()}\n")
    counts = recording.counts() | recording.errors()
    print("calls and events of the server:")
    print("\n".join(f"  {name:<16}{count:>10,}" for name, count in counts.items()), end="\n\n")
    path = _new_file(options.folder)
    try:
        recording.save(path)
    except BaseException:
        path.unlink()
        raise
    print(f"wrote {path}")
    for chart in _draw(recording, run, path):
        print(f"wrote {chart}")
    return INTERRUPTED if run.interrupted else 0


def _check_folder(folder: Path, n_bytes: int) -> None:
    """Create the folder; raise OSError unless `n_bytes` can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(n_bytes))
    except OSError as error:
        raise type(error)(
            f"folder {folder} cannot be written to ({os.strerror(error.errno or 0)}), so nothing "
            "was run; choose another with --folder"
        ) from error


def _new_file(folder: Path) -> Path:
    """Create an empty file for the recording, under a name that no other demo has taken."""
    stem = time.strftime("demo-%Y%m%d-%H%M%S")
    number = 1
    while True:
        path = folder / f"{stem}{f'-{number}' if number > 1 else ''}.parquet"
        try:
            path.touch(exist_ok=False)
            return path
        except FileExistsError:
            number += 1


def _draw(recording: epolllab.Recording, run: epolllab.Run, path: Path) -> list[Path]:
    """Write three charts beside the recording; return their paths."""
    from matplotlib.figure import Figure

    from epolllab import plots

    note = environment.summary(recording.metadata)
    charts: dict[str, Callable[[Axes], Any]] = {
        "timeline": lambda ax: plots.timeline(recording, ax=ax, note=note),
        "latency": lambda ax: plots.latency(run, ax=ax, note=note),
        "journey": lambda ax: plots.journey(run, server=recording, ax=ax, note=note),
    }
    paths = []
    for kind, draw in charts.items():
        figure = Figure(figsize=(9, 5), layout="constrained")
        draw(figure.add_subplot())
        paths.append(path.with_name(f"{path.stem}-{kind}.png"))
        with storage.write_atomically(paths[-1:]) as (temporary,):
            figure.savefig(temporary, format="png", dpi=120)
    return paths


if __name__ == "__main__":
    sys.exit(main())
