"""One JupyterLab and one Chromium for all tests of this folder.

Without Playwright or Chromium these tests skip, with the reason; with
EPOLLLAB_REQUIRE_BROWSER=1 they fail. They run last: Playwright keeps an event loop running
in this thread, in which no other test could run its own.
"""

import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

from tests.browser.lab import HEIGHT, TIMEOUT_MS, WIDTH, Lab
from tests.notebooks.tools import METADATA
from tests.wire import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
SCRATCH = "scratch.ipynb"
START_S, END_S = 60.0, 15.0
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # all cells in the page
}
_FOLDERS = (
    "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR",
    "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR",
)  # fmt: skip
"""Jupyter's folders; redirected, so that the user's are neither read nor written."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests last, in their own order."""
    items.sort(key=lambda item: HERE in item.path.parents)


def absent(reason: str) -> None:
    """Skip the test; with EPOLLLAB_REQUIRE_BROWSER=1 fail it."""
    __tracebackhide__ = True
    if os.environ.get("EPOLLLAB_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and EPOLLLAB_REQUIRE_BROWSER=1 requires a browser")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """The browser. Playwright's pytest plug-in has taken the name ``browser``."""
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        absent("Playwright is not installed here; it is an extra: pip install -e '.[browser]'")
    path = shutil.which("chromium")
    if path is None:
        absent("chromium is not installed here")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def page_of(chromium: "Browser") -> Iterator["Page"]:
    """A page that shares no storage with other pages."""
    page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(TIMEOUT_MS)
    try:
        yield page
    finally:
        page.close()


@pytest.fixture(scope="session")
def session_lab(chromium: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab on a copy of the notebooks and the reference data."""
    folder = tmp_path_factory.mktemp("jupyter")
    root = folder / "lab"
    hidden = shutil.ignore_patterns(".*")
    shutil.copytree(CHECKOUT / "notebooks", root / "notebooks", ignore=hidden)
    shutil.copytree(CHECKOUT / "data" / "reference", root / "data" / "reference")
    # Without the metadata JupyterLab asks which kernel to use.
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")], metadata=METADATA)
    nbformat.write(notebook, root / "notebooks" / SCRATCH)
    start = ["jupyterlab", f"--ServerApp.root_dir={root}"]
    with jupyterlab(folder, start) as (url, token), page_of(chromium) as page:
        yield Lab(page, url, token, root)


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """JupyterLab without an open notebook, before and after the test."""
    yield session_lab
    session_lab.close()


@pytest.fixture
def scratch(lab: Lab) -> Iterator[Lab]:
    """JupyterLab with an empty notebook open; the kernel must not report errors."""
    lab.open(SCRATCH)
    lab.show("import epolllab\nfrom epolllab import widgets")
    yield lab
    assert lab.errors() == []


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the screenshots: EPOLLLAB_SCREENSHOTS, or a temporary one."""
    given = os.environ.get("EPOLLLAB_SCREENSHOTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def jupyterlab(folder: Path, start: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Run JupyterLab on a free port, by a module with its arguments; yield address and token."""
    token = secrets.token_hex(16)
    folders = {name: folder / name.lower() for name in _FOLDERS}
    for path in folders.values():
        path.mkdir()
    settings = folders["JUPYTER_CONFIG_DIR"] / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps(_SETTINGS))
    command = [
        sys.executable, "-m", *start, "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    log = folder / "log"
    environment = {name: str(path) for name, path in folders.items()}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, "JUPYTER_PREFER_ENV_PATH": "1"},
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )

    def address() -> str:
        assert process.poll() is None, f"JupyterLab did not start; its log:\n{log.read_text()}"
        for path in folders["JUPYTER_RUNTIME_DIR"].glob("jpserver-*.json"):
            with suppress(json.JSONDecodeError):  # partly written
                return str(json.loads(path.read_text())["url"])
        return ""

    try:
        yield until(address, START_S), token
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):  # to its kernels as well
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
                break


def _die_with_parent() -> None:
    """Have the kernel terminate this process if pytest is killed: prctl(PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
