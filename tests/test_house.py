"""The house: two halves, imports that run one way, and names that say what they are.

Sources are parsed rather than imported, so that what is under ``if TYPE_CHECKING`` or
inside a function, which is loaded only when it is needed, can be told apart.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import epolllab

PACKAGE = Path(epolllab.__file__).parent
README = (PACKAGE.parent / "README.md").read_text()
HEAVY = {"numpy", "pandas", "matplotlib", "ipywidgets", "pyarrow"}
LAZY = {"httptools", "cloudpickle", "tqdm", "IPython", "jupyterlab"}
DOORS = {"__init__", "__main__"}


def _name(path: Path) -> str:
    """A file's module, within the package: ``loop``, ``experiments.herds``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = sorted(FILES.keys() - DOORS)


def _table() -> tuple[list[str], list[str]]:
    """The files above and below the line in the README's table."""
    section = README.split("## How to read the code")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    line = next(n for n, row in enumerate(rows) if row.startswith("*below"))
    above, below = (
        [name for row in part for name in re.findall(r"`(\w+)(?:\.py|/)`", row)]
        for part in (rows[:line], rows[line:])
    )
    return above, below


FIRST_HALF, SECOND_HALF = _table()


# ---- what a file imports ----------------------------------------------------------------


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _at_import(node: ast.AST) -> list[ast.stmt]:
    """Import statements that run when the file is imported."""
    found: list[ast.stmt] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            found.append(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif _is_type_checking(child):
            found += [n for stmt in child.orelse for n in _at_import(ast.Module([stmt], []))]
        else:
            found += _at_import(child)
    return found


def _targets(node: ast.stmt) -> list[str]:
    """Dotted names that an import statement loads."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    assert node.level == 0, "imports in this package are absolute"
    module = node.module or ""
    inside = module.removeprefix("epolllab").lstrip(".")
    if module.split(".")[0] != "epolllab":
        return [module]
    # A name that is a file is that file; any other comes out of the module itself.
    names = [f"{inside}.{alias.name}".lstrip(".") for alias in node.names]
    return [f"epolllab.{name}" if name in FILES else module for name in names]


@cache
def imports(name: str) -> frozenset[str]:
    """What a module of ours loads, as dotted names."""
    tree = ast.parse(FILES[name].read_text())
    return frozenset(target for node in _at_import(tree) for target in _targets(node))


@cache
def ours(name: str) -> frozenset[str]:
    """The modules of this package that a module loads, without the prefix."""
    inside = (t.removeprefix("epolllab.") for t in imports(name) if t.startswith("epolllab."))
    return frozenset(inside)


@cache
def reached(name: str) -> frozenset[str]:
    """The modules of this package that a module needs, directly or through others."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = ours(waiting.pop()) - found
        found |= new
        waiting += new
    return frozenset(found)


def test_the_parser_sees_what_it_should() -> None:
    """Function bodies and TYPE_CHECKING do not count; class bodies, try and else do."""
    source = """
import a
from b.c import d
if TYPE_CHECKING:
    import e
else:
    import f
try:
    import g
except ImportError:
    import h
class K:
    import i
    def m(self):
        import j
def k():
    import l
"""
    found = [t for node in _at_import(ast.parse(source)) for t in _targets(node)]
    assert found == ["a", "b.c", "f", "g", "h", "i"]
    assert "recorder" in ours("hosts")
    assert {"loop", "pollers", "events"} <= reached("server")


# ---- two halves -------------------------------------------------------------------------


def test_the_readme_has_every_file_once() -> None:
    """Each file of the house stands in the README's table, and none that is not there."""
    files = {path.stem for path in PACKAGE.glob("*.py")} - DOORS
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    listed = FIRST_HALF + SECOND_HALF
    assert sorted(listed) == sorted(set(listed)), "a file is in the table twice"
    assert files - set(listed) == set(), "files that the README's table does not have"
    assert set(listed) - files - folders == set(), "the README's table has files that are not there"


@pytest.mark.parametrize("name", FIRST_HALF)
def test_the_first_half_needs_the_standard_library_only(name: str) -> None:
    """A file above the README's line loads nothing that has to be installed."""
    outside = {t.split(".")[0] for t in imports(name)} - {"epolllab"}
    assert outside <= sys.stdlib_module_names


@pytest.mark.parametrize("name", FIRST_HALF)
def test_the_first_half_does_not_load_the_second(name: str) -> None:
    """A file above the line loads only files above it."""
    assert ours(name) <= set(FIRST_HALF)


def loaded_after(code: str) -> set[str]:
    """The top-level modules that are loaded in a fresh interpreter after some code."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c",
         f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_importing_epolllab_is_light() -> None:
    """The front door loads neither numpy nor pandas nor matplotlib, nor any other package."""
    assert loaded_after("import epolllab") & (HEAVY | LAZY) == set()


def test_every_file_of_the_first_half_is_light() -> None:
    """Nor do the files behind it, all together."""
    code = "\n".join(f"import epolllab.{name}" for name in FIRST_HALF)
    assert loaded_after(code) & (HEAVY | LAZY) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="serving needs Linux")
def test_serving_loads_what_it_serves_and_no_more() -> None:
    """A server and its recorder need no package; HTTP loads its parser, and nothing else."""
    hello = "import epolllab\nwith epolllab.start_server() as server: server.stats()"
    assert loaded_after(hello) & (HEAVY | LAZY) == set()
    http = hello.replace("start_server()", "start_server(protocol='http')")
    assert loaded_after(http) & (HEAVY | LAZY) == {"httptools"}


def test_what_is_lazy_comes_when_asked_for() -> None:
    """The heavy half is behind its names at the front door."""
    assert "matplotlib" in loaded_after("import epolllab\nepolllab.plots")
    assert "matplotlib" not in loaded_after("import epolllab\nepolllab.frames")
    with pytest.raises(AttributeError, match="no attribute 'plot'"):
        _ = epolllab.plot


# ---- one way ----------------------------------------------------------------------------

ALONE = ("events", "protocols", "html", "places", "cells", "children")
"""Files that know nothing of the rest."""

ONLY = {
    "recorder": {"events"},
    "pollers": {"events"},
    "kernel": {"events"},
    "decode": {"events"},
    "rawcalls": {"events", "kernel"},
    "syscalls": {"events", "pollers"},
    "options": {"pollers", "protocols"},
}
"""Files that stand on a few."""

SERVING = {"server", "hosts", "loop", "lifecycles", "syscalls", "clients", "callers", "peers"}

NEVER = {
    "plots": SERVING,
    "frames": SERVING,
    "style": SERVING,
    "recording": SERVING | {"kernel", "recorder"},
    "loop": {"server", "hosts", "children", "cells", "recording", "metadata", "html"},
    "lifecycles": {"loop", "recorder"},
    "clients": {"server", "hosts", "loop"},
    "metadata": {"recording"} | SERVING,
}
"""Files that must not know others, also not through a third."""


@pytest.mark.parametrize("name", ALONE)
def test_some_files_know_nothing_of_the_rest(name: str) -> None:
    """The vocabulary, the protocols and the helpers load no file of this package."""
    assert ours(name) == set()


@pytest.mark.parametrize("name", ONLY)
def test_some_files_stand_on_a_few(name: str) -> None:
    """The recorder, the pollers and the kernel's words stand on the vocabulary alone."""
    assert ours(name) <= ONLY[name]


@pytest.mark.parametrize("name", NEVER)
def test_some_files_never_know_others(name: str) -> None:
    """Charts know no server, the loop knows no handle, clients know no server."""
    assert reached(name) & NEVER[name] == set()


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name: str) -> None:
    """No file needs itself, directly or through others."""
    assert name not in reached(name)


@pytest.mark.parametrize("name", [name for name in MODULES if "." not in name])
def test_experiments_stand_on_top(name: str) -> None:
    """Nothing but the experiments themselves and the widgets is built on the experiments."""
    if name not in ("experiments", "widgets"):
        assert not [other for other in ours(name) if other.split(".")[0] == "experiments"]


@pytest.mark.parametrize("name", MODULES)
def test_nobody_inside_comes_through_the_front_door(name: str) -> None:
    """A file imports from the file that has a name, not from the package."""
    assert "epolllab" not in imports(name)
    assert not ours(name) & DOORS


# ---- names ------------------------------------------------------------------------------


def documented(value: object, name: str) -> bool:
    """Whether a function, class or module has a docstring that somebody wrote."""
    text = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    # Dataclasses and named tuples without one are given their signature.
    return bool(text) and not text.startswith(f"{name}(")


@pytest.mark.parametrize("name", ["__init__", *MODULES])
def test_public_names_exist_and_say_what_they_are(name: str) -> None:
    """Every name in __all__ is there, once, and what can have a docstring has one."""
    module = importlib.import_module("epolllab" if name == "__init__" else f"epolllab.{name}")
    assert module.__doc__
    public = getattr(module, "__all__", [])
    assert len(public) == len(set(public))
    values = {name: getattr(module, name) for name in public}
    kinds = (type, ModuleType)
    bare = [
        name
        for name, value in values.items()
        if (inspect.isroutine(value) or isinstance(value, kinds)) and not documented(value, name)
    ]
    assert not bare, f"without a docstring: {bare}"


def test_the_front_door_is_small() -> None:
    """About fifteen names and the modules behind them; dir() shows these, and all are there."""
    values = [getattr(epolllab, name) for name in epolllab.__all__]
    assert dir(epolllab) == sorted(epolllab.__all__)
    assert sum(not isinstance(value, ModuleType) for value in values) <= 20


def test_no_source_names_a_machine() -> None:
    """No file of the package holds a path of the machine it was written on."""
    for path in FILES.values():
        assert not re.search(r"[\"'`(\s]/(home|work|root)/", path.read_text()), path.name
