"""The layout: imports run one way, no two files import each other, names are documented.

Every import statement of the package counts: at module level, inside functions, and
under ``if TYPE_CHECKING``. Sources are parsed, not imported.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import epolllab

PACKAGE = Path(epolllab.__file__).parent

LEVELS = (
    ("events", "schema", "checks", "child"),
    ("notebook", "kernel", "frames"),
    ("recording",),
    ("server", "analysis", "workers"),
    ("clients", "external"),
    ("plots",),
    ("experiments",),
    ("widgets",),
    ("__init__", "__main__"),
)
"""Folders and files in order, lowest first. Each imports only from lower levels."""

LEVEL = {part: number for number, parts in enumerate(LEVELS) for part in parts}

INSTALLED = {"numpy", "pandas", "matplotlib", "ipywidgets", "pyarrow", "httptools", "cloudpickle",
             "tqdm", "IPython", "anywidget", "jupyterlab"}  # fmt: skip
"""Packages that a process which only serves or sends requests must not load."""

LIGHT = (*LEVELS[0], "notebook", "kernel", "server", "workers", "clients", "recording")
"""Folders whose ``__init__`` and files import the standard library only at module level."""

NUMERIC = {"recording.decode", "recording.perfetto"}
"""Files of those folders that import numpy, and are imported when a recording is read."""


def module_name(path: Path) -> str:
    """A file's dotted name within the package: ``events``, ``server.loop``, ``server``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1]) if parts[-1] == "__init__" and parts[:-1] else ".".join(parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(module: str) -> str:
    """The folder or file of the first level that a module belongs to."""
    return module.split(".")[0]


def targets(source: str, files: set[str]) -> Iterator[tuple[int, str]]:
    """Line and module of every import of this package, whatever block it is in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if part_of(alias.name) == "epolllab":
                    yield node.lineno, alias.name.removeprefix("epolllab").lstrip(".") or "__init__"
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports in this package are absolute"
            if part_of(node.module or "") == "epolllab":
                inside = (node.module or "").removeprefix("epolllab").lstrip(".")
                for alias in node.names:
                    name = f"{inside}.{alias.name}".lstrip(".")
                    yield node.lineno, name if name in files else inside or "__init__"


def violations(sources: dict[str, str]) -> list[str]:
    """Imports that do not go down, as ``file:line: from -> to``."""
    files = set(sources)
    found = []
    for name, source in sources.items():
        for line, target in targets(source, files):
            same = part_of(name) == part_of(target) and name not in LEVELS[-1]
            front = name in LEVELS[-1]
            if not same and not front and LEVEL[part_of(target)] >= LEVEL[part_of(name)]:
                found.append(f"{name}:{line}: {name} -> {target}")
    return found


def circle(sources: dict[str, str]) -> list[str]:
    """Files that import each other in a circle, or an empty list."""
    files = set(sources)
    graph = {
        name: {target for _, target in targets(source, files)} - {name, *LEVELS[-1]}
        for name, source in sources.items()
    }
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name not in done:
            for target in sorted(graph.get(name, ())):
                if found := visit(target, [*path, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


SOURCES = {name: path.read_text() for name, path in FILES.items()}


def test_every_part_has_a_level() -> None:
    """A new folder or file at the first level must be given its place in the table."""
    assert {part_of(name) for name in FILES} <= set(LEVEL)


def test_imports_run_down() -> None:
    """No import goes to the same level or up, lazy and type-checking imports included."""
    assert violations(SOURCES) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Following imports never leads back to the same file."""
    assert circle(SOURCES) == []


@pytest.mark.parametrize(
    "source",
    [
        "from epolllab.server.loop import Loop",
        "def f():\n    from epolllab.clients import run_clients",
        "if TYPE_CHECKING:\n    from epolllab.recording import Recording",
        "import epolllab.plots",
        "from epolllab import Recording",
    ],
)
def test_an_upward_import_is_found_wherever_it_stands(source: str) -> None:
    """In kernel, each of these is an error; the same line in widgets is none but the last."""
    sources = {**SOURCES, "kernel.proc": source}
    assert violations(sources) == [
        found for found in violations(sources) if found.startswith("kernel.proc:")
    ]
    assert len(violations(sources)) == 1


def test_a_circle_is_found() -> None:
    """Two files of one folder that import each other, one of them lazily."""
    sources = {
        "kernel.a": "from epolllab.kernel.b import x",
        "kernel.b": "def f():\n    from epolllab.kernel import a",
    }
    assert circle(sources) == ["kernel.a", "kernel.b"]


def at_module_level(tree: ast.AST) -> Iterator[ast.stmt]:
    """Import statements that run when a file is imported."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_module_level(child)


@pytest.mark.parametrize("name", [n for n in FILES if part_of(n) in LIGHT and n not in NUMERIC])
def test_the_serving_half_needs_the_standard_library_only(name: str) -> None:
    """Its files import nothing at module level that has to be installed."""
    loaded = set()
    for node in at_module_level(ast.parse(SOURCES[name])):
        names = (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [
                alias.name
                for alias in node.names  # type: ignore[attr-defined]
            ]
        )
        loaded |= {module.split(".")[0] for module in names}
    assert loaded - {"epolllab"} <= sys.stdlib_module_names


def loaded_after(code: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter after `code`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c",
         f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.processes
def test_the_serving_half_loads_no_package() -> None:
    """Nor do all of its files together, with what they import in turn."""
    names = [n for n in FILES if part_of(n) in LIGHT and n not in NUMERIC]
    code = "\n".join(f"import epolllab.{name}" for name in names)
    assert loaded_after(code) & INSTALLED == set()


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="serving needs Linux")
def test_serving_loads_what_it_serves_and_no_more() -> None:
    """A server and its recorder need no package; HTTP loads its parser, and nothing else."""
    hello = "import epolllab\nwith epolllab.start_server() as server: server.stats()"
    assert loaded_after(hello) & INSTALLED == set()
    http = hello.replace("start_server()", "start_server(protocol='http')")
    assert loaded_after(http) & INSTALLED == {"httptools"}


@pytest.mark.processes
def test_lazy_subpackages_are_imported_when_asked_for() -> None:
    """Plots bring matplotlib, frames do not."""
    assert "matplotlib" in loaded_after("import epolllab\nepolllab.plots")
    assert "matplotlib" not in loaded_after("import epolllab\nepolllab.frames")
    with pytest.raises(AttributeError, match="plot"):
        _ = epolllab.plot


def is_documented(value: object, name: str) -> bool:
    """Whether somebody wrote the docstring; dataclasses are given their signature."""
    text = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    return bool(text) and not text.startswith(f"{name}(")


@pytest.mark.parametrize("name", [n for n in FILES if n != "__main__"])
def test_public_names_exist_and_are_documented(name: str) -> None:
    """Every name in ``__all__`` exists, once, and has a docstring where it can have one."""
    module = importlib.import_module("epolllab" if name == "__init__" else f"epolllab.{name}")
    assert module.__doc__
    public = getattr(module, "__all__", [])
    assert len(public) == len(set(public))
    values = {key: getattr(module, key) for key in public}
    bare = [
        key
        for key, value in values.items()
        if (inspect.isroutine(value) or isinstance(value, type | ModuleType))
        and not is_documented(value, key)
    ]
    assert not bare, f"without a docstring: {bare}"


FOLDERS = sorted({part_of(name) for name in FILES if "." in name})


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_what_it_holds(folder: str) -> None:
    """Its ``__init__`` has two to five sentences, and ``dir()`` lists public names only."""
    module = importlib.import_module(f"epolllab.{folder}")
    assert 2 <= len(re.findall(r"[.:](?:\s|$)", module.__doc__ or "")) <= 8
    assert dir(module) == sorted(module.__all__)


def test_the_front_door_is_small() -> None:
    """Fewer than twenty names and the subpackages behind them; ``dir()`` shows these."""
    values = [getattr(epolllab, name) for name in epolllab.__all__]
    assert dir(epolllab) == sorted([*epolllab.__all__, "__version__"])
    assert sum(not isinstance(value, ModuleType) for value in values) <= 17


def test_no_source_names_a_machine() -> None:
    """No file of the package holds a path of the machine it was written on."""
    for name, source in SOURCES.items():
        assert not re.search(r"[\"'`(\s]/(home|work|root)/", source), name
